"""How long one token takes on one GPU and on several: measured on this machine's GPUs, or recorded on another's.

The worker is ``helpers/workers/tensor_parallel_timing.py``; what it printed on a lent machine, run by run, lies in
``data/measured/tensor-parallel``, written by ``tools/measure_tensor_parallel.py`` (notebook 06).
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import hardware, memory, stage, workspace
from helpers.cards import Card, Shown, ShownAsTable, Table, bytes_text
from helpers.checkpoint import Runner
from helpers.errors import WorkshopError
from helpers.models import Model
from helpers.tensor_parallel.ranks import TIME_LIMIT, TOLERANCE, launcher, local_only, torchrun

FOLDER = workspace.DATA / "measured" / "tensor-parallel"
_WORKERS = Path(__file__).parents[1] / "workers"
_LEAST = (4, 56)  # transformers whose StaticCache takes its sizes from what a rank gives it


@dataclass(frozen=True)
class Timing:
    """One number of GPUs, timed: medians over every sample of every run, in seconds.

    Attributes:
        ranks: number of GPUs.
        device: their product.
        bytes: of the FP16 weights that each holds.
        token: one token of one request in the generation phase, on the GPU (a CUDA graph, replayed).
        spread: the smallest and the largest sample of ``token``.
        host_bound: the same launched kernel by kernel from Python.
        all_reduces: in a token; each of ``all_reduce_bytes``.
        exchanges: all of a token's all-reduces alone, through NCCL; None for one GPU.
        one_shot: the same by kernels that read the other GPUs' memory; None where they cannot.
        runs: how often it was measured, each time in processes of its own.
    """

    ranks: int
    device: str
    bytes: int
    token: float
    spread: tuple[float, float]
    host_bound: float
    all_reduces: int
    all_reduce_bytes: int
    exchanges: float | None
    one_shot: float | None
    runs: int

    @property
    def all_reduce(self) -> float | None:
        """Seconds of one all-reduce through NCCL."""
        return self.exchanges / self.all_reduces if self.exchanges else None


def timing(runs: Sequence[Mapping[str, Any]]) -> Timing:
    """From what the worker wrote, run by run."""

    def samples(name: str) -> list[float]:
        return [seconds for run in runs for seconds in run.get(name) or ()]

    def median(name: str) -> float | None:
        return statistics.median(samples(name)) if samples(name) else None

    first, token = runs[0], samples("token")
    return Timing(
        ranks=first["ranks"],
        device=first["device"],
        bytes=first["bytes"],
        token=statistics.median(token),
        spread=(min(token), max(token)),
        host_bound=statistics.median(samples("host_bound")),
        all_reduces=first["all_reduces"],
        all_reduce_bytes=first["all_reduce_bytes"],
        exchanges=median("exchanges"),
        one_shot=median("one_shot"),
        runs=len(runs),
    )


@dataclass(frozen=True, repr=False)
class Times(ShownAsTable):
    """A token's time on one GPU and on several, one row each.

    Args:
        label: ``measured`` or ``recorded``.
        model: its name.
        machine: what it was measured on, and when.
        timings: from the fewest GPUs on.
    """

    label: str
    model: str
    machine: str
    timings: tuple[Timing, ...]

    def table(self) -> Table:
        """The table, one row a number of GPUs."""
        columns = ["GPUs", "weights on each", "one token, on the GPU", "samples between", "its all-reduces alone"]
        columns += ["by one-shot kernels", "host-bound, kernel by kernel"]
        caption = f"{self.label}: {self.model} in FP16, one request, transformers; {self.machine}"
        return Table(columns, [_row(one) for one in self.timings], caption, " ".join(self._sentences()))

    def _sentences(self) -> list[str]:
        """What the rows say of each other."""
        first = self.timings[0]
        said = [sentence for other in self.timings[1:] for sentence in _compared(first, other)]
        sheet = hardware.datasheet(first.device)
        if sheet:
            least = first.bytes / sheet.bandwidth
            took = f"{least * 1e3:.2f} ms" if least > 1e-5 else f"{least * 1e6:.1f} µs"
            said.append(
                f"Reading {bytes_text(first.bytes)} at the datasheet's {sheet.bandwidth / 1e9:,.0f} GB/s takes "
                f"{took}, {least / first.token:.0%} of one GPU's token: the rest of this step is its "
                "many small kernels."
            )
        return said


def _compared(first: Timing, other: Timing) -> list[str]:
    """Whether several GPUs were faster than the first row's, and what their exchanges took."""
    ratio = first.token / other.token
    faster = f"{ratio:.2f} times as fast as" if ratio >= 1.02 else "no faster than" if ratio > 0.98 else "slower than"
    said = [f"{other.ranks} GPUs are {faster} {'one' if first.ranks == 1 else first.ranks} here."]
    if other.exchanges and other.all_reduce:
        said.append(
            f"The {other.all_reduces} all-reduces of {other.all_reduce_bytes:,} bytes take {other.exchanges * 1e3:.2f} "
            f"ms alone, {other.all_reduce * 1e6:.1f} µs each: {other.exchanges / other.token:.0%} of a token."
        )
    if other.exchanges and other.one_shot:
        said.append(
            f"Kernels that read the other GPU's memory take {other.one_shot / other.exchanges:.0%} of NCCL's time."
        )
    return said


def _row(one: Timing) -> list[object]:
    """One number of GPUs."""
    low, high = (f"{seconds * 1e3:.2f}" for seconds in one.spread)
    alone, at_once = (f"{s * 1e3:.2f} ms" if s else "–" for s in (one.exchanges, one.one_shot))
    took = (f"{one.token * 1e3:.2f} ms", f"{low} and {high} ms", alone, at_once, f"{one.host_bound * 1e3:.1f} ms")
    return [one.ranks, bytes_text(one.bytes), *took]


def task(model: Model, tp_size: int, by: Runner) -> stage.Stage:
    """The measurement as a stage.

    Args:
        by: the Python that runs the ranks; needs torch for CUDA, transformers and accelerate.
    """
    worker, loader = _WORKERS / "tensor_parallel_timing.py", _WORKERS / "tensor_parallel.py"
    return stage.Stage(
        title=f"Time of one token of {model.name} on {tp_size} GPU{'s' if tp_size > 1 else ''}",
        kind="timing",
        command=torchrun(by.python, tp_size, worker, "--model", str(model.path), "--output", "{out}"),
        target=workspace.home() / "timings-of-ranks" / model.folder / f"tp{tp_size}",
        options={"model": model.name, "tp_size": tp_size},
        inputs={"model": model.digest, "worker": workspace.digest(worker, loader)},
        maker={name: by.maker[name] for name in ("torch", "transformers")},
        machine=hardware.identity(),
        environment={**by.environment, **local_only()},
        unset=by.unset,
        expected=["timing.json"],
        time_limit=TIME_LIMIT,
    )


def times(model: Model, most: int = 8) -> Times | Card:
    """A token's time on one of this machine's GPUs and on several; a card that says why not, where it has no two.

    Args:
        model: from :func:`helpers.models.find`.
        most: GPUs to use at most.

    Raises:
        WorkshopError: a run failed or did not end in time.
    """
    launchers = {n: launcher(n) for n in memory.Shape.of(model.config).splits if n <= most}
    usable = {n: by for n, (by, device) in launchers.items() if device == "cuda"}
    if len(usable) < 2:
        return Card(
            "No two GPUs of a kind here",
            note="There is nothing to time on this machine: see what was recorded, or rent a pod with two GPUs.",
        )
    old = {by.maker["transformers"] for by in usable.values() if _version(by.maker["transformers"]) < _LEAST}
    if old:
        return Card(
            "Not timed here",
            note=f"This release has transformers {old.pop()}, whose KV cache of fixed size cannot be split over ranks; "
            f"{'.'.join(map(str, _LEAST))} or newer can. See what was recorded.",
        )
    made = [stage.run(task(model, n, by)) for n, by in usable.items()]
    told = [json.loads((one.path / "timing.json").read_text()) for one in made]
    when = f"this machine, {made[-1].manifest.created.partition('T')[0]}"
    return Times("measured", model.name, when, tuple(timing([one]) for one in told))


def _version(text: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(part) for part in text.split(".")[:2])


@dataclass(frozen=True, repr=False)
class Recorded(Shown):
    """Splits and timings of a machine with several GPUs, as :func:`recorded` reads them."""

    agreement: Table
    times: tuple[Times, ...]

    def __str__(self) -> str:
        return "\n\n".join(map(str, (self.agreement, *self.times)))

    def _repr_html_(self) -> str:
        return "".join(one._repr_html_() for one in (self.agreement, *self.times))


def recorded(name: str = "nvidia-h100-x2") -> Recorded:
    """What was recorded as ``data/measured/tensor-parallel/<name>.json``.

    Raises:
        WorkshopError: there is none of that name.
    """
    file = FOLDER / f"{name}.json"
    if not file.exists():
        there = ", ".join(sorted(other.stem for other in FOLDER.glob("*.json"))) or "none"
        raise WorkshopError(f"Nothing is recorded of a machine {name!r} with several GPUs: there are {there}.")
    kept = json.loads(file.read_text())
    timed = [one for one in kept["models"] if one["timings"]]
    return Recorded(
        _agreement(kept["models"], kept["machine"]),
        tuple(
            Times(
                "recorded",
                one["name"],
                ", ".join([kept["gpu"], *kept["settings"], one["date"]]),
                tuple(timing(runs) for _, runs in sorted(one["timings"].items(), key=lambda pair: int(pair[0]))),
            )
            for one in timed
        ),
    )


def _agreement(models: Sequence[Mapping[str, Any]], machine: str) -> Table:
    """Splits of several models, against their wholes."""
    rows = []
    for name, one in ((model["name"], model["split"]) for model in models):
        talk = ", ".join(f"{seen['kind']} {seen['count']} × {seen['bytes']:,}" for seen in one["exchanges"])
        held = (f"{one['parameters']:,}", f"{one['parameters'] / one['whole']:.1%}", bytes_text(one["bytes"]))
        same = "the same" if one["same_tokens"] else "others"
        rows.append([name, *held, talk, f"{one['difference']:.1e}", same])
    far = [str(model["name"]) for model in models if model["split"]["difference"] > TOLERANCE]
    within = f"NOT within {TOLERANCE:g}: {', '.join(far)}" if far else f"All within {TOLERANCE:g}"
    columns = ["model", "parameters on each", "share", "bytes", "exchanges of a token, bytes", "largest difference"]
    return Table(
        [*columns, "tokens"],
        rows,
        caption="recorded: ranks over NCCL against the whole model, FP32 without TF32",
        note=f"{within}. On {machine}; {_software(models)}.",
    )


def _software(models: Sequence[Mapping[str, Any]]) -> str:
    """Versions, and what they do otherwise than those that the notebooks run on."""
    versions = models[0]["versions"]
    gathers = all(any(seen["kind"] == "all-gather" for seen in one["split"]["exchanges"]) for one in models)
    why = ", which cuts the last layer too and gathers its logits" if gathers else ""
    return f"torch {versions['torch']}, transformers {versions['transformers']}{why}"
