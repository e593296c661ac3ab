"""How near a single user's speed comes to what memory allows: the distance to the roofline (notebooks 01 and 08).

At concurrency 1 every token reads all weights of the layers once, and the keys and values of the tokens before it; next
to that, computing takes no time. So bandwidth over bytes bounds the tokens a second. The bandwidth is measured with
as many bytes as a token reads, since a small model lives in a cache that is several times as fast as memory.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.points import Finding, points, rate_text, time_text, with_note
from helpers.cards import bytes_text
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.cards import Table
    from helpers.hardware.limits import ReadSpeed
    from helpers.hardware.machine import Machine
    from helpers.memory import Shape

GB = 1e9


@dataclass(frozen=True, repr=False)
class Distance(Finding):
    """Predicted best tokens a second at concurrency 1 against measured.

    Attributes:
        weight_bytes: that one token reads.
        kv_bytes: of keys and values that it reads, at the mean context.
        bandwidth: bytes a second, at that many bytes.
        tpot: median seconds per output token, measured.
        source: where the bandwidth comes from, in words.
        title: what was measured, such as an engine.
        where: what is read at that bandwidth: ``at this size``, ``in cache`` or ``of memory``.
        counted: how the weights were counted, in words.
        ranks: that each read so many bytes, at the same time.
        client_bound: True if the client did not keep up, so that the measured rate is a lower bound.
        spoiled: True if other work slowed the reading, so that it bounds nothing.
    """

    weight_bytes: float
    kv_bytes: float
    bandwidth: float
    tpot: float
    source: str = "measured at this size"
    title: str = ""
    where: str = "at this size"
    counted: str = "counted"
    ranks: int = 1
    client_bound: bool = False
    spoiled: bool = False

    @property
    def bytes_per_token(self) -> float:
        """Bytes that one token reads."""
        return self.weight_bytes + self.kv_bytes

    @property
    def predicted(self) -> float:
        """Tokens a second that reading allows at best."""
        return self.bandwidth / self.bytes_per_token

    @property
    def measured(self) -> float:
        """Tokens a second of one user, by the median time per output token."""
        return 1 / self.tpot

    @property
    def fraction(self) -> float:
        """Measured as a share of predicted."""
        return self.measured / self.predicted

    @property
    def sentence(self) -> str:
        """How near it comes, and where the rest of the time goes as far as that can be said."""
        each = f" on each of {self.ranks} GPUs" if self.ranks > 1 else ""
        if self.spoiled:
            return (
                f"{self.title + ': m' if self.title else 'M'}easured {rate_text(self.measured)} tokens/s at "
                "concurrency 1. What share of the bound that is cannot be told: the bandwidth was not measured well, "
                "since this machine is busy. Run this cell again when it is idle."
            )
        text = (
            f"{self.title + ': m' if self.title else 'M'}easured {rate_text(self.measured)} tokens/s at concurrency 1, "
            f"{self.fraction:.0%} of the {rate_text(self.predicted)} that reading allows (predicted: "
            f"{self.bandwidth / GB:.3g} GB/s {self.where} over {bytes_text(self.bytes_per_token)} a token{each})."
        )
        if self.client_bound:
            text += " The client could not keep up, so the measured rate is a lower bound."
        if self.fraction > 1.02:
            return (
                f"{text} More than the bound: likely, not measured here, a token reads fewer bytes than counted, or "
                "from a nearer cache than the bandwidth was measured in, or other work slowed that measurement."
            )
        reading = time_text(1 / self.predicted)
        rest = time_text(self.tpot - 1 / self.predicted)
        if self.fraction >= 0.7:
            return f"{text} Reading takes {reading} of the {time_text(self.tpot)} a token: bandwidth is the limit."
        return (
            f"{text} Reading would take {reading}, and a token takes {time_text(self.tpot)}: the other {rest} are not "
            "reading; they have not been split further."
        )

    def table(self) -> "Table":
        """The figures, one a row."""
        each = f", each of {self.ranks} GPUs" if self.ranks > 1 else ""
        source = self.source + (" (not measured well: the machine is busy)" if self.spoiled else "")
        rows = [
            (f"weights read for a token{each}", bytes_text(self.weight_bytes), self.counted),
            (f"keys and values read for a token{each}", bytes_text(self.kv_bytes), "predicted: at the mean context"),
            (f"bandwidth {self.where}", f"{self.bandwidth / GB:.3g} GB/s", source),
            ("tokens/s at best", "–" if self.spoiled else rate_text(self.predicted), "predicted: bandwidth over bytes"),
            ("tokens/s", rate_text(self.measured), "measured: 1 over the median time per output token"),
            ("measured of predicted", "–" if self.spoiled else f"{self.fraction:.0%}", ""),
        ]
        return with_note(("concurrency 1", "value", "from"), rows, "Distance to the roofline", self.sentence)


def weights_read(shape: "Shape", precision: str = "fp16", stored: int | None = None) -> int:
    """Bytes of weights that one token reads: all but the embedding table, of which it reads one row.

    Args:
        shape: of the model.
        precision: a key of :data:`helpers.memory.BYTES_PER_WEIGHT`.
        stored: bytes of all weights where they were counted, such as an engine's ``weight_bytes``; None to compute them
            from the shape.
    """
    from helpers.memory import weight_bytes

    whole = weight_bytes(shape, precision) if stored is None else stored
    return whole - 2 * shape.vocabulary * shape.hidden + 2 * shape.hidden


def distance(
    what: Any,
    shape: "Shape",
    bandwidth: "float | ReadSpeed",
    weights: int,
    kv: str | None = None,
    source: str = "",
    ranks: int = 1,
    cache: int | None = None,
    counted: str = "counted",
) -> Distance:
    """How near a single user's speed comes to what memory allows.

    Args:
        what: a sweep, result or point; its load of concurrency 1 is looked at.
        shape: of the model (:meth:`helpers.memory.Shape.of`).
        bandwidth: bytes a second; from :func:`bandwidth_at` with as many bytes as a token reads.
        weights: bytes of them that a token reads, from :func:`weights_read`; all ranks together.
        kv: what the KV cache is kept in, a key of :data:`helpers.memory.KV_BYTES`.
        source: where the bandwidth comes from, in words; empty for what it says itself.
        ranks: of the engine; each reads its share on a GPU of its own, at the same time.
        cache: bytes of the last-level cache; None if not known.
        counted: how the weights were counted, in words.

    Raises:
        WorkshopError: no load of concurrency 1 has a time per output token, or the bandwidth or the weights are not
            above 0.
    """
    from helpers.memory import kv_bytes_per_token

    found = points(what)
    one = next((point for point in found if point.concurrency == 1), None)
    if one is None or not one.tpot:
        raise WorkshopError(
            f"The distance to the roofline is taken at concurrency 1, and there is {', '.join(p.name for p in found)} "
            "here, or no time per output token. Run a load of concurrency 1 that asks for at least two tokens."
        )
    speed = bandwidth if isinstance(bandwidth, int | float) else bandwidth.bandwidth
    if not speed > 0 or not weights > 0:
        raise WorkshopError(
            f"A bandwidth of {speed} bytes/s and {weights} bytes of weights bound nothing: give numbers above 0."
        )
    said = source or ("given" if isinstance(bandwidth, int | float) else bandwidth.sentence)
    kv_bytes = kv_bytes_per_token(shape, kv) * (one.context or 0.0) / ranks
    where = "at this size"
    if not isinstance(bandwidth, int | float) and bandwidth.label:  # a datasheet's
        where = "of memory"
    elif cache is not None and weights / ranks + kv_bytes <= cache:
        where = "in cache"
    bound = bool(one.client_bound)
    spoiled = not isinstance(bandwidth, int | float) and bandwidth.spoiled
    return Distance(weights / ranks, kv_bytes, speed, one.tpot, said, one.title, where, counted, ranks, bound, spoiled)


def bandwidth_at(working_set: float, machine: "Machine | None" = None) -> "ReadSpeed":
    """Measure how fast so many bytes are read again and again, on the GPU that engines run on, else on the CPU.

    Args:
        working_set: bytes; those that one token reads.
        machine: from :func:`helpers.hardware.look`; None to look.

    Raises:
        WorkshopError: fewer than 4,096 bytes, or nothing could be measured.
    """
    from helpers import hardware
    from helpers.hardware.limits import read_speed

    return read_speed(machine or hardware.look(), int(working_set))
