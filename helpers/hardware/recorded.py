"""Measurements that were recorded on other machines (``data/measured/*.json``), to set beside one's own.

A file holds what ``helpers/workers/roofline.py`` printed on one machine, run by run, and what there is to know of the
machine. What is shown is the median of the runs, always with the label ``recorded:``. Notebook 01 shows them.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.cards import Card, ShownAsCard, Table
from helpers.errors import WorkshopError
from helpers.hardware.gpus import GB, Datasheet
from helpers.hardware.limits import BYTES, Roofline, operations_text

FOLDER = Path(__file__).parents[2] / "data" / "measured"


@dataclass(frozen=True, repr=False)
class Recorded(ShownAsCard):
    """A device's two limits as they were measured on another machine.

    Args:
        name: the file's name without its ending.
        device: the product, as its driver names it.
        machine: what the machine was, in words.
        bandwidth: bytes read plus written a second, median of all runs.
        rates: precision to operations a second, median of all runs.
        spread: limit (``bandwidth``, or a precision) to its smallest and largest share of the median.
        runs: how often it was measured, each time in a process of its own.
        command: how.
        date: ISO 8601.
        versions: of the driver, CUDA, Python and torch.
    """

    name: str
    device: str
    machine: str
    bandwidth: float
    rates: Mapping[str, float]
    spread: Mapping[str, tuple[float, float]]
    runs: int
    command: str
    date: str
    versions: Mapping[str, str]
    label: str = "recorded"

    def card(self) -> Card:
        """What was measured, on what, when and how."""
        low, high = min(s[0] for s in self.spread.values()), max(s[1] for s in self.spread.values())
        facts = {"memory": f"{self.bandwidth / GB:,.1f} GB/s"}
        facts |= {f"{p.upper()} matrix product": operations_text(rate) for p, rate in self.rates.items()}
        facts |= {
            "machine": self.machine,
            "versions": ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            "measured": f"{self.date}, medians of {self.runs} runs, which lay between {low:.1%} and {high:.1%} of them",
            "command": self.command,
        }
        return Card(f"recorded: limits of {self.device}", facts)


def recordings() -> list[Recorded]:
    """Every recorded measurement, the one with the most bandwidth first."""
    return sorted((_read(file) for file in FOLDER.glob("*.json")), key=lambda found: -found.bandwidth)


def recorded(name: str) -> Recorded:
    """The measurement recorded as ``data/measured/<name>.json``.

    Raises:
        WorkshopError: there is none of that name.
    """
    names = sorted(file.stem for file in FOLDER.glob("*.json"))
    if name not in names:
        raise WorkshopError(f"No measurement is recorded as {name!r}: there are {', '.join(names) or 'none'}.")
    return _read(FOLDER / f"{name}.json")


def _read(file: Path) -> Recorded:
    """One file of ``data/measured``."""
    kept = json.loads(file.read_text())
    runs = kept["runs"]
    limits = {"bandwidth": [run["bandwidth"] for run in runs]}
    limits |= {precision: [run["rates"][precision] for run in runs] for precision in runs[0]["rates"]}
    medians = {limit: statistics.median(values) for limit, values in limits.items()}
    return Recorded(
        name=file.stem,
        device=kept["gpu"],
        machine=kept["machine"],
        bandwidth=medians.pop("bandwidth"),
        rates=medians,
        spread={
            limit: (min(values) / statistics.median(values), max(values) / statistics.median(values))
            for limit, values in limits.items()
        },
        runs=len(runs),
        command=kept["command"],
        date=kept["date"],
        versions=kept["versions"],
    )


def beside(limits: Roofline, *others: Recorded) -> Table:
    """One's own limits beside its datasheet's and the recorded ones.

    Args:
        limits: this machine's.
        others: recorded ones; all by default.
    """
    chosen = others or tuple(recordings())
    columns = [_heading(limits)]
    shown: list[Roofline | Recorded | Datasheet] = [limits]
    if limits.published:
        columns.append(f"{limits.published.label}: {limits.published.name}")
        shown.append(limits.published)
    for one in chosen:
        columns.append(f"recorded: {one.device}")
        shown.append(one)
    known = {p for rates in (limits.rates, *(one.rates for one in chosen)) for p in rates}
    precisions = [p for p in BYTES if p in known]
    rows = [("memory", *(f"{one.bandwidth / GB:,.1f} GB/s" for one in shown))]
    rows += [
        (f"{p.upper()} matrix product", *(operations_text(one.rates[p]) if p in one.rates else "–" for one in shown))
        for p in precisions
    ]
    note = " ".join([*(_origin(one) for one in chosen), *(_against(limits, one) for one in chosen)])
    return Table(("limit", *columns), rows, "This machine beside others", note)


def _heading(limits: Roofline) -> str:
    """A column's heading for one's own limits."""
    return f"{limits.label}: {limits.device}" if limits.label else f"measured here: {limits.device}"


def _origin(one: Recorded) -> str:
    """Where a recorded column comes from."""
    versions = ", ".join(f"{name} {one.versions[name]}" for name in ("driver", "torch"))
    return f"recorded: {one.device}, {one.date}, {versions}; medians of {one.runs} runs on {one.machine}."


def _against(limits: Roofline, one: Recorded) -> str:
    """How one's own memory compares with a recorded one."""
    own = f"the {limits.label} figures of the {limits.device}" if limits.label else "this machine"
    ratio = one.bandwidth / limits.bandwidth
    return f"The recorded {one.device} moves {ratio:,.3g} times as many bytes a second as {own}."
