"""What the load generator brings back from one run, before anything is computed from it (notebook 08)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from helpers.bench.rows import Row

KERNEL, USER = "kernel", "user"
BUCKET = 0.1
"""Seconds of one step of a timeline."""

LATE = 0.005
"""Seconds: a client that leaves bytes lying longer than this, at its 99th percentile, did not keep up."""

_BUSY = 0.95  # of one core
_MERGED = 0.01  # of all reads
_SHIFTED = 0.001  # seconds
_FEW = 2  # late first tokens that are no pattern yet


@dataclass(frozen=True)
class Health:
    """How the client itself fared: whether its figures are the server's, or its own queue's.

    Attributes:
        stamps: ``kernel`` where the kernel says when bytes arrived; ``user`` where the client can only look at its own
            clock when it takes them.
        seconds: that the run lasted.
        cpu_seconds: of the whole process, user and system, in that time.
        reads: of sockets.
        merged: reads with several tokens in one, of bytes that had lain there for over a millisecond: what arrived
            apart looks like one.
        answers: that brought tokens.
        first_merged: of those, answers whose first token was in such a read.
        lag_p50, lag_p99, lag_max: seconds that bytes lay in the kernel before they were taken; without its stamps, the
            longest that they can have lain there.
        late_p99: seconds by which an open loop's requests left after their time; 0 in a closed loop.
        parse_seconds: spent on reading what had come.
        waited_awake: seconds of the processor's time spent waiting for the moment to send; no work, so not ``busy``.
        limited: requests that this machine's own limits (open files, ports) kept from being sent.
        clock_shift: seconds by which the wall clock was set during the run; stamps of the kernel follow it.
    """

    stamps: str = KERNEL
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    reads: int = 0
    merged: int = 0
    answers: int = 0
    first_merged: int = 0
    lag_p50: float = 0.0
    lag_p99: float = 0.0
    lag_max: float = 0.0
    late_p99: float = 0.0
    parse_seconds: float = 0.0
    clock_shift: float = 0.0
    waited_awake: float = 0.0
    limited: int = 0

    @property
    def busy(self) -> float:
        """Share of one core that the client's work took."""
        return max(0.0, self.cpu_seconds - self.waited_awake) / self.seconds if self.seconds else 0.0

    @property
    def client_bound(self) -> str:
        """Why TTFT and the time of an answer are not the server's, in a few words; empty where they are."""
        if abs(self.clock_shift) > _SHIFTED:
            return f"the system's clock was set by {1000 * self.clock_shift:+,.0f} ms during the run"
        if self.limited:
            return f"this machine's own limit of connections kept {self.limited:,} requests from being sent"
        if self.busy > _BUSY:
            return f"its core was {self.busy:.0%} busy"
        if self.first_merged > max(_FEW, _MERGED * self.answers):
            return f"it took {self.first_merged / self.answers:.0%} of first tokens too late to tell them from the next"
        if self.lag_p99 > LATE and self.stamps == USER:
            return f"bytes lay for up to {1000 * self.lag_p99:.0f} ms before it took them (p99)"
        if self.late_p99 > LATE:
            return f"it sent requests {1000 * self.late_p99:.0f} ms late (p99)"
        return ""

    @property
    def gaps_bound(self) -> str:
        """The same for ITL, which suffers first: TTFT keeps the kernel's time where a later token's is lost."""
        if not self.client_bound and self.merged > _MERGED * self.reads:
            return f"it took {self.merged / self.reads:.0%} of its reads too late to tell tokens apart"
        return self.client_bound


@dataclass(frozen=True)
class Gaps:
    """Inter-token latencies of one run: the times between reads that brought tokens, within an answer.

    Attributes:
        n: how many.
        mean: in seconds.
        quantiles: their 0th, 1st, ... 100th percentile, in seconds; empty where there are none.
        p999: the 99.9th; None below 1,000 of them.
    """

    n: int = 0
    mean: float = 0.0
    quantiles: Sequence[float] = ()
    p999: float | None = None


@dataclass(frozen=True)
class Timeline:
    """A run over time, in steps of :data:`BUCKET` seconds from its first request on.

    Attributes:
        tokens: of whole answers that came in each step (events with text, scaled to the count of each answer); answers
            that failed and those that nobody counted are not in it.
        in_flight: requests under way at each step's end.
        first_tokens: answers whose first token came in each step.
    """

    tokens: Sequence[float] = ()
    in_flight: Sequence[int] = ()
    first_tokens: Sequence[int] = ()


@dataclass(frozen=True)
class Run:
    """One run, as measured; or the warm-up, which is kept to be looked at and is in no figure.

    Attributes:
        number: 0 for the warm-up, then 1, 2, ...
        began: when its first request was sent, in seconds since 1970.
        rows: one a request, in the order of their index; also those that failed.
        gaps: between the tokens of all its whole answers.
        timeline: what came when.
        health: of the client.
        ramp: seconds over which the first requests were spread.
        interrupted: True if it was stopped, by a person or because the server was gone; its rows are good.
        ended: why it was stopped, in words; empty if it was not.
    """

    number: int
    began: float
    rows: Sequence[Row]
    gaps: Gaps = field(default_factory=Gaps)
    timeline: Timeline = field(default_factory=Timeline)
    health: Health = field(default_factory=Health)
    ramp: float = 0.0
    interrupted: bool = False
    ended: str = ""

    def told(self) -> dict[str, Any]:
        """As JSON keeps it; the rows have a file of their own."""
        return asdict(replace(self, rows=()))

    @classmethod
    def from_told(cls, told: Mapping[str, Any], rows: Sequence[Row]) -> "Run":
        """What :meth:`told` gave, and the run's rows."""
        parts = {"gaps": Gaps, "timeline": Timeline, "health": Health}
        made = {name: kind(**told[name]) for name, kind in parts.items()}
        return cls(**{**told, **made, "rows": rows})


@dataclass(frozen=True)
class Progress:
    """What a run looks like from outside, a few times a second.

    Attributes:
        run: its number; 0 in the warm-up.
        seconds: since it began.
        done: requests that ended, well or not.
        total: requests that it will send; None if only time ends it.
        failed: of those done.
        in_flight: requests under way.
        tokens: that have come, as events counted.
        tokens_per_second: over about the last second.
        ttft: median of the latest answers' time to first token, in seconds; None before the first.
    """

    run: int
    seconds: float
    done: int
    total: int | None
    failed: int
    in_flight: int
    tokens: int
    tokens_per_second: float
    ttft: float | None
