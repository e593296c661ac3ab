"""The batch-size limit, shown by going past it: the rest waits, and what runs does not notice (notebook 08).

``max_batch_size`` is the most requests that an engine works on at once. A closed loop beyond it keeps the rest in the
server's queue, so their first token comes later, while throughput and each running user's speed stay as they were.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.kv_blocks import Use, in_runs, use
from helpers.bench.analysis.points import Finding, Point, points, rate_text, time_text, with_note, without
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.cards import Table

JUMP = 2.0
"""Times by which TTFT grows, its median or its 95th percentile, where requests wait for a place.

A little past the limit fewer than half of the requests wait, and the median does not show it.
"""

KEPT = 0.02
"""Share by which a figure may differ and be called kept; more is told as a change."""

SAME = 0.15
"""Share by which throughput or a user's speed may differ and tell of a queue only: runs on a shared machine do."""


@dataclass(frozen=True, repr=False)
class Ceiling(Finding):
    """What going past the batch-size limit did.

    Attributes:
        max_batch_size: requests that may run at once.
        points: of closed loops, in the order of their concurrency, that gave latencies.
        uses: concurrency to what the engine told of that load.
        lost: points that gave none.
    """

    max_batch_size: int
    points: Sequence[Point]
    uses: Mapping[int, Use] = field(default_factory=dict)
    lost: Sequence[Point] = ()

    @property
    def below(self) -> Point | None:
        """The largest load that the limit allows."""
        return next((one for one in reversed(self.points) if one.at <= self.max_batch_size), None)

    @property
    def beyond(self) -> Point | None:
        """The largest load that goes past it."""
        return next((one for one in reversed(self.points) if one.at > self.max_batch_size), None)

    def predicted_wait(self, one: Point) -> float | None:
        """Seconds that a request waits for a place on average, by Little's law; None if it cannot be said.

        Requests beyond the limit, divided by the requests that end in a second.
        """
        if not one.output_tokens or not one.tokens_per_second or one.concurrency is None:
            return None
        return max(0, one.concurrency - self.max_batch_size) / (one.tokens_per_second / one.output_tokens)

    @property
    def shown(self) -> bool | None:
        """True if the limit showed: TTFT jumped, speed and throughput stayed. None if nothing can be compared."""
        below, beyond = self.below, self.beyond
        if below is None or beyond is None:
            return None
        return self._jumped(below, beyond) and not self._moved(below, beyond)

    @staticmethod
    def _jumped(below: Point, beyond: Point) -> bool:
        pairs = [(below.ttft.get(share), beyond.ttft.get(share)) for share in (50, 95)]
        return any(before and after and after >= JUMP * before for before, after in pairs)

    @staticmethod
    def _moved(below: Point, beyond: Point) -> list[str]:
        """What did not stay, of throughput and a user's speed, in words."""
        pairs = [
            ("output tokens/s", below.tokens_per_second, beyond.tokens_per_second),
            ("a user's tokens/s", below.per_user.get(50), beyond.per_user.get(50)),
        ]
        return [
            f"{name} went from {rate_text(before)} to {rate_text(after)}"
            for name, before, after in pairs
            if before and after and abs(after / before - 1) > SAME
        ]

    @property
    def sentence(self) -> str:
        """Whether the limit showed, by which figures, and what the engine itself told."""
        limit = f"max_batch_size {self.max_batch_size:,}"
        if self.below is None and self.beyond is None:
            past = max((at for at in self.uses if at > self.max_batch_size), default=None)
            told = self._engine(past, None) if past else ""
            return f"No load gave latencies to show the limit with. {without(self.lost)} {told}".rstrip()
        over = [one for one in self.lost if one.at > self.max_batch_size]
        under = [one for one in self.lost if one.at <= self.max_batch_size]
        if (self.beyond is None and over) or (self.below is None and under):
            where, gone = ("past", over) if self.beyond is None else ("up to", under)
            return f"What was measured {where} {limit} gave no latencies of the server's. {without(gone)}"
        if self.beyond is None:
            more = self.max_batch_size + max(1, self.max_batch_size // 2)
            return f"Nothing was measured past {limit}. Measure a concurrency of {more:,} to see what it does."
        if self.below is None:
            return (
                f"Nothing was measured up to {limit}. Measure a concurrency of {self.max_batch_size:,} to compare with."
            )
        return " ".join(
            filter(
                None, [self._compared(self.below, self.beyond), self._engine(int(self.beyond.at), self.beyond.whole)]
            )
        )

    def _compared(self, below: Point, beyond: Point) -> str:
        waits = f"from {time_text(below.ttft.get(50))} to {time_text(beyond.ttft.get(50))}"
        slow = below.ttft.get(95), beyond.ttft.get(95)
        if None not in slow:
            waits += f" (p95 from {time_text(slow[0])} to {time_text(slow[1])})"
        names = f"From {below.name} to {beyond.name}, past max_batch_size {self.max_batch_size:,},"
        if not self._jumped(below, beyond):
            return f"{names} no queue shows in TTFT: its median went {waits}, less than {JUMP:g} times."
        text = f"{names} the median TTFT went {waits}"
        moved = self._moved(below, beyond)
        if moved:
            return f"{text}, but more than the queue changed: {' and '.join(moved)}."
        pairs = (below.per_user.get(50), beyond.per_user.get(50)), (below.tokens_per_second, beyond.tokens_per_second)
        user, together = (_kept(*pair) for pair in pairs)
        only = "only " if user.startswith("kept") and together.startswith("kept") else "mostly "
        text += f", while each running user {user} and all together {together}: more users {only}wait longer."
        return " ".join(filter(None, [text, self._waited(beyond)]))

    def _waited(self, beyond: Point) -> str:
        """The wait by Little's law beside the measured one; empty where it cannot be said."""
        wait = self.predicted_wait(beyond)
        if wait is None:
            return ""
        text = (
            f"predicted: {time_text(wait)} for a place, by Little's law (a queue's length is the rate at which it is "
            "served times the wait in it): the requests beyond the limit over the answers a second."
        )
        if beyond.ttft_later is not None:
            text += f" Requests sent while all were in flight waited {time_text(beyond.ttft_later)} (measured, median)"
            first = beyond.ttft_first_wave
            text += f", those at the run's begin {time_text(first)}." if first is not None else "."
        return text

    def _engine(self, concurrency: int, whole: int | None) -> str:
        """What the engine told of a load, and how long a request waited by that; empty where it told nothing."""
        told = self.uses.get(concurrency)
        if told is None or not told.steps:
            return ""
        at_most = f"The engine told of at most {told.most_active:,} requests at once at concurrency {concurrency}"
        if not told.most_queued:
            return f"{at_most}, and of none that waited."
        mean = f", {time_text(told.queued_seconds / whole)} a request on average" if whole else ""
        return f"{at_most}, and of up to {told.most_queued:,} that waited{mean}."

    def table(self) -> "Table":
        """One row a load."""
        rows = []
        for one in self.points:
            told = self.uses.get(int(one.at))
            rows.append(
                (
                    one.label,
                    "past it" if one.at > self.max_batch_size else "within",
                    time_text(one.ttft.get(50)),
                    time_text(one.ttft.get(95)),
                    rate_text(one.per_user.get(50)),
                    rate_text(one.tokens_per_second),
                    f"{told.most_active:,}" if told else "–",
                    f"{told.most_queued:,}" if told else "–",
                )
            )
        columns = (
            *(
                "concurrency",
                f"limit {self.max_batch_size:,}",
                "TTFT p50",
                "TTFT p95",
                "tokens/s per user",
                "output tokens/s",
            ),
            *("most active", "most queued"),
        )
        lost = "" if self.below is None or self.beyond is None else without(self.lost)  # else the sentence has it
        return with_note(columns, rows, "Measured: past the batch-size limit", self.sentence, lost)


def ceiling(what: Any, max_batch_size: int, records: Mapping[int, Any] | None = None) -> Ceiling:
    """What happens past the most requests that the engine works on at once.

    Args:
        what: a sweep, results or points of closed loops, some of them past the limit.
        max_batch_size: of the engine and its server.
        records: concurrency to an activity, or to records of :mod:`helpers.serving.poller`, where the server told;
            None for what the results kept themselves.

    Raises:
        WorkshopError: a limit that is no whole number of at least 1, open loops, or nothing was measured.
    """
    if not isinstance(max_batch_size, int) or max_batch_size < 1:
        raise WorkshopError(f"max_batch_size is {max_batch_size!r}. Give the engine's, a whole number of at least 1.")
    found = points(what)
    if found[0].rate is not None:
        raise WorkshopError(
            "The batch-size limit is shown with closed loops, and these are open ones: give a concurrency."
        )
    told = records if records is not None else _records_of(what)
    kept, lost = ([one for one in found if one.measured is good] for good in (True, False))
    uses = {number: use(some) for number, some in told.items()}
    return Ceiling(max_batch_size, kept, uses, lost)


def _kept(before: float | None, after: float | None) -> str:
    """What became of tokens a second, in words."""
    values = f"{rate_text(after)} tokens/s ({rate_text(before)} before)"
    if not before or after is None or abs(after / before - 1) <= KEPT:
        return f"kept {values}"
    return f"got {abs(after / before - 1):.0%} {'more' if after > before else 'less'}, {values}"


def _records_of(what: Any) -> dict[int, Any]:
    """What results kept of the engine's own records during their measured runs, by their concurrency."""
    found = {}
    for one in what if isinstance(what, Iterable) else [what]:
        if kept := in_runs(one):
            found[int(one.load.concurrency)] = kept
    return found
