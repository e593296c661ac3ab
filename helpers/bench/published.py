"""Figures that others published, beside one's own, and what differs (notebook 08).

They are in ``data/published_benchmarks.toml``, each with its source, and are shown with the label ``published`` only.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from helpers.bench.results.metrics import NONE
from helpers.cards import ShownAsTable, Table
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.bench.results.result import Result

FILE = Path(__file__).parents[2] / "data" / "published_benchmarks.toml"
TALK = "talk"

_HERE = ("127.0.0.1", "localhost", "::1")
_SAME = 0.05  # of a growth: less than that is as much


@dataclass(frozen=True)
class Point:
    """What a source says of one load.

    Attributes:
        concurrency: requests in flight.
        total_rate: tokens a second of all users together; None if it does not say.
        ttft: seconds; None if it does not say.
        said: its words, and where they are.
        note: what else it says of it.
    """

    concurrency: int
    total_rate: float | None = None
    ttft: float | None = None
    said: str = ""
    note: str = ""


@dataclass(frozen=True)
class KvBlocks:
    """Blocks of a KV cache that a source saw used and free."""

    used: int
    free: int
    said: str
    note: str = ""

    @property
    def sentence(self) -> str:
        """How full that cache was."""
        share = self.used / (self.used + self.free)
        return (
            f"published: {self.used:,} KV blocks used and {self.free:,} free, so {share:.0%} of the cache: {self.note}."
        )


@dataclass(frozen=True, repr=False)
class Published(ShownAsTable):
    """One source: its figures and its conditions.

    Attributes:
        key: its name in the file.
        title: what to call it in a sentence.
        source: what and where it is.
        model, gpu, precision: that it measured; the GPU is a key of ``data/gpus.toml``.
        input_tokens, output_tokens: of a request.
        max_batch_size: of the engine.
        network: between its client and its server.
        client: that measured.
        counts: what is known of which tokens it counts.
        points: its figures, smallest load first.
        kv: KV blocks that it saw; None if it tells of none.
    """

    key: str
    title: str
    source: str
    model: str
    gpu: str
    precision: str
    input_tokens: int
    output_tokens: int
    max_batch_size: int
    network: str
    client: str
    counts: str
    points: Sequence[Point]
    kv: KvBlocks | None = None

    @property
    def gpu_name(self) -> str:
        """Its GPU as a person writes it."""
        from helpers import hardware

        return hardware.by_key(self.gpu).name

    @property
    def notes(self) -> list[str]:
        """What the source says beside its figures, a sentence a load."""
        return [f"published, concurrency {one.concurrency}: {one.note}." for one in self.points if one.note]

    def table(self) -> Table:
        """One row a load, with the words that the figure was said in."""
        rows = [(one.concurrency, _rate(one.total_rate), _ms(one.ttft), one.said) for one in self.points]
        columns = ("concurrency", "tokens/s, all users", "TTFT, ms", "as it was said")
        caption = (
            f"published: {self.model} in {self.precision.upper()} on an {self.gpu_name}, {self.input_tokens:,} tokens "
            f"in and {self.output_tokens:,} out, max_batch_size {self.max_batch_size}"
        )
        kv = [self.kv.sentence] if self.kv else []
        note = " ".join([f"From {self.source}.", *self.notes, self.counts, *kv])
        return Table(columns, rows, caption, note)


@dataclass(frozen=True, repr=False)
class Beside(ShownAsTable):
    """One's own figures beside published ones: what differs comes first, for the figures answer unlike questions."""

    published: Published
    results: Sequence["Result"]

    @property
    def differences(self) -> list[str]:
        """What is not the same, in words."""
        their, ours = self.published, self.results
        found = []
        model, precision = _shared(map(_model, ours)), _shared(one.engine.get("precision", "") for one in ours)
        if _plain(their.model) not in _plain(model):
            found.append(f"another model ({model or 'not known'}; there {their.model})")
        machine = _shared(map(_machine, ours))
        if _plain(their.gpu_name) not in _plain(machine):
            found.append(f"another machine ({machine or 'not known'}; there an {their.gpu_name})")
        if precision != their.precision:
            found.append(f"another precision ({precision.upper() or 'not known'}; there {their.precision.upper()})")
        lengths = _shared(f"{one.load.input_tokens} in and {one.load.output_tokens} out" for one in ours)
        if lengths != (wanted := f"{their.input_tokens:,} in and {their.output_tokens:,} out"):
            found.append(f"other lengths ({lengths}; there {wanted})")
        batch = _shared(str(one.max_batch_size or "") for one in ours)
        if batch not in ("", str(their.max_batch_size)):
            found.append(f"another max_batch_size ({batch}; there {their.max_batch_size})")
        if all(_local(one) for one in ours):
            found.append(f"no network between client and server (there: {their.network})")
        return found

    @property
    def sentence(self) -> str:
        """What differs, and how throughput grows with the load here and there."""
        # There is always one: where the server is not on this machine, nothing tells what it runs on.
        text = f"Not as in the published run: {'; '.join(self.differences)}. Neither says that the other is wrong."
        return " ".join(filter(None, [text, self._growth()]))

    def _growth(self) -> str:
        """From half full to full, there and here: each at its own server's limit of the batch."""
        full = self.published.max_batch_size
        rates = {one.concurrency: one.total_rate for one in self.published.points}
        low, high = rates.get(full // 2), rates.get(full)
        if low is None or high is None:
            return ""
        theirs = high / low
        text = f"From half full to full (concurrency {full // 2} to {full}) the published throughput grows "
        text += f"{theirs:.1f} times"
        limits = {one.max_batch_size for one in self.results}
        limit = limits.pop() if len(limits) == 1 else None
        if limit is None or limit < 2:
            return f"{text}; here it is not known at which concurrency the server is full."
        text += f"; here ({limit // 2} to {limit})"
        own = [self._own(one) for one in (limit // 2, limit)]
        measured = [one.value("output_rate") if one else None for one in own]
        if measured[0] is None or measured[1] is None:
            return f"{text} not both were measured."
        ours = measured[1] / measured[0]
        if abs(ours / theirs - 1) <= _SAME:
            return f"{text} it grows as much: {ours:.2f} times."
        way = "more" if ours > theirs else "less"
        how = f"grows {way}: {ours:.2f} times" if ours >= 1 else f"falls: to {ours:.2f} of it"
        return f"{text} it {how}."

    def _own(self, concurrency: int) -> "Result | None":
        return next((one for one in self.results if one.load.concurrency == concurrency), None)

    def table(self) -> Table:
        """One row a concurrency, measured or published."""
        theirs = {one.concurrency: one for one in self.published.points}
        loads = sorted({*theirs, *(one.load.concurrency for one in self.results if one.load.concurrency is not None)})
        rows = []
        for load in loads:
            own, their = self._own(load), theirs.get(load)
            measured = [own.summary.number(key) if own else NONE for key in ("output_rate", "total_rate", "ttft_p50")]
            rows.append(
                (
                    load,
                    *measured[:2],
                    _rate(their.total_rate) if their else NONE,
                    measured[2],
                    _ms(their.ttft) if their else NONE,
                )
            )
        columns = (
            "concurrency",
            "measured: output tokens/s",
            "measured: input and output",
            "published: tokens/s",
            "measured: TTFT p50, ms",
            "published: TTFT, ms",
        )
        caption = f"Measured here, and published of {self.published.model} on an {self.published.gpu_name}"
        return Table(columns, rows, caption, " ".join([self.sentence, *self.published.notes, self.published.counts]))


def find(key: str = TALK) -> Published:
    """What a source published.

    Args:
        key: its name in ``data/published_benchmarks.toml``.

    Raises:
        WorkshopError: there is none of that name.
    """
    known = _all()
    if key not in known:
        raise WorkshopError(f"There are no published figures {key!r}. There are: {', '.join(known)}.")
    return known[key]


def beside(what: Any, key: str = TALK) -> Beside:
    """One's own figures beside published ones.

    Args:
        what: a sweep, a result, or several results; closed loops.
        key: of the source.

    Raises:
        WorkshopError: nothing was measured, or only in open loops.
    """
    results = [what] if hasattr(what, "load") else list(what)
    closed = [one for one in results if not one.load.open_loop]
    if not closed:
        raise WorkshopError(
            "The published figures are of closed loops, and no closed loop was given. Measure a sweep over concurrency."
        )
    return Beside(find(key), closed)


@cache
def _all() -> Mapping[str, Published]:
    """Every source by its key."""
    told = tomllib.loads(FILE.read_text(encoding="utf-8"))["published"]
    found = {}
    for one in told:
        points = sorted((Point(**point) for point in one.pop("point")), key=lambda point: point.concurrency)
        kv = one.pop("kv", None)
        found[one["key"]] = Published(**one, points=points, kv=KvBlocks(**kv) if kv else None)
    return found


def _rate(value: float | None) -> str:
    return NONE if value is None else f"about {value:,.0f}"


def _ms(seconds: float | None) -> str:
    return NONE if seconds is None else f"about {1000 * seconds:,.0f}"


def _shared(values: Any) -> str:
    """What all have in common, or what each has."""
    return ", ".join(dict.fromkeys(str(one) for one in values if one))


def _plain(text: str) -> str:
    """Letters and digits only, so that two spellings of a name are one."""
    return "".join(sign for sign in text.lower() if sign.isalnum())


def _model(result: "Result") -> str:
    """The model's name, as far as it is known."""
    options = result.engine.get("manifest", {}).get("options", {})
    return str(options.get("model") or result.target.get("model") or "")


def _local(result: "Result") -> bool:
    """True if the server is on the client's machine."""
    return urlsplit(str(result.target.get("url", ""))).hostname in _HERE


def _machine(result: "Result") -> str:
    """What the server ran on; empty where that is not known."""
    if not _local(result):
        return ""
    gpus = result.machine.get("gpus") or []
    on_cpu = result.engine.get("toolchain") == "openvino"
    return str(gpus[0] if gpus and not on_cpu else result.machine.get("cpu", ""))
