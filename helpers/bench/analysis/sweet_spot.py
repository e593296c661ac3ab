"""The largest measured load at which every user still gets what a product needs (notebook 08).

People read 30 to 50 tokens a second at most (the talk's figure), so more users at that speed are worth more than fewer
at a higher one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.points import (
    Finding,
    Point,
    joined,
    points,
    rate_text,
    time_text,
    usable,
    with_note,
)
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.cards import Table


SHARES = (50, 95)
"""Percentages of requests that a need may be stated for."""


@dataclass(frozen=True)
class Need:
    """What each user must get.

    Attributes:
        per_user: tokens a second after the first, at least; None for any.
        ttft: seconds to the first token, at most; None for any.
        percentile: the share of requests, in percent, that must get it.
    """

    per_user: float | None
    ttft: float | None
    percentile: int

    @property
    def text(self) -> str:
        """The need in words."""
        parts = []
        if self.per_user is not None:
            parts.append(f"at least {self.per_user:g} tokens/s per user")
        if self.ttft is not None:
            parts.append(f"a first token within {time_text(self.ttft)}")
        return f"{joined(parts)} for {'half' if self.percentile == 50 else f'{self.percentile}%'} of the requests"

    def broken(self, one: Point) -> list[str]:
        """What of it a point does not meet, in words; empty if it meets all."""
        found, who = [], f"{'half' if self.percentile == 50 else f'{100 - self.percentile}%'} of its requests"
        rate, wait = one.per_user.get(self.percentile), one.ttft.get(self.percentile)
        if self.per_user is not None and rate is None:
            found.append("there are too few requests to tell the tokens/s of the slowest")
        elif self.per_user is not None and rate is not None and rate < self.per_user:
            found.append(f"{who} get less than {rate_text(rate)} tokens/s, and {self.per_user:g} are needed")
        if self.ttft is not None and wait is None:
            found.append("there are too few requests to tell the TTFT of the slowest")
        elif self.ttft is not None and wait is not None and wait > self.ttft:
            found.append(
                f"{who} wait longer than {time_text(wait)} for the first token, and {time_text(self.ttft)} is allowed"
            )
        return found

    def close(self, one: Point) -> bool:
        """True if the need lies within the spread of a point's runs: another run may decide otherwise.

        Judged at the median, whose spread is known.
        """
        if self.percentile != 50:
            return False
        rate, wait = one.per_user.get(50), one.ttft.get(50)
        sides = []
        if self.per_user is not None and rate is not None:
            low, high = one.within("per_user", rate)
            sides.append(low < self.per_user <= high)
        if self.ttft is not None and wait is not None:
            low, high = one.within("ttft", wait)
            sides.append(low <= self.ttft < high)
        return any(sides)


@dataclass(frozen=True, repr=False)
class SweetSpot(Finding):
    """The largest measured load that meets a need, and what the next one breaks.

    Attributes:
        need: what was asked for.
        points: that were looked at, in the order of their load.
        best: the largest that meets it; None if none does.
        left_out: a sentence on points that were not looked at; empty if all were.
    """

    need: Need
    points: Sequence[Point]
    best: Point | None
    left_out: str = ""

    @property
    def next(self) -> Point | None:
        """The measured load above the best; None if there is none."""
        above = [one for one in self.points if self.best is None or one.at > self.best.at]
        return above[0] if above else None

    @property
    def sentence(self) -> str:
        """Where it lies and what breaks above it."""
        if not self.points:
            return "No sweet spot: no load gave latencies."
        if self.best is None:
            first = self.points[0]
            return (
                f"No measured load gives {self.need.text}: already at {first.name}, the smallest, "
                f"{joined(self.need.broken(first))}."
            )
        return " ".join(filter(None, [self._best(), self._above(), self._below(), self._unsure()]))

    def _best(self) -> str:
        assert self.best is not None
        best = self.best
        return (
            f"{best.name[0].upper()}{best.name[1:]} is the largest measured load that gives {self.need.text}; "
            f"all users together get {rate_text(best.tokens_per_second)} output tokens/s."
        )

    def _above(self) -> str:
        assert self.best is not None
        if self.next is None:
            return (
                f"It is also the largest that was measured, so the limit lies higher: measure above {self.best.name}."
            )
        return (
            f"At {self.next.name}, the next one, {joined(self.need.broken(self.next))}. "
            "Between the two nothing was measured."
        )

    def _below(self) -> str:
        assert self.best is not None
        worse = [one.name for one in self.points if one.at < self.best.at and self.need.broken(one)]
        if not worse:
            return ""
        return f"{joined(worse)}, though smaller, {'does' if len(worse) == 1 else 'do'} not: run the sweep again."

    def _unsure(self) -> str:
        close = [one.name for one in (self.best, self.next) if one is not None and self.need.close(one)]
        if not close:
            return ""
        return f"The need lies within the spread of the runs at {joined(close)}: another run may decide otherwise."

    def table(self) -> "Table":
        """One row a load: what its users get, and whether that is enough."""
        share = self.need.percentile
        rows = [
            (
                one.label,
                rate_text(one.per_user.get(share)),
                time_text(one.ttft.get(share)),
                rate_text(one.tokens_per_second),
                "no" if self.need.broken(one) else "yes",
            )
            for one in self.points
        ]
        columns = ("load", "tokens/s per user, at least", "TTFT, at most", "output tokens/s", "meets the need")
        caption = f"Measured: what {share}% of the requests get; needed: {self.need.text}"
        return with_note(columns, rows, caption, self.sentence, self.left_out)


def sweet_spot(
    what: Any, tokens_per_second_per_user: float | None = None, ttft: float | None = None, percentile: int = 50
) -> SweetSpot:
    """The largest measured load at which a share of the requests gets what is needed; nothing is interpolated.

    Args:
        what: a sweep, results or points.
        tokens_per_second_per_user: that a user needs after the first token, such as 30 or 50.
        ttft: seconds to the first token that a user bears, such as 0.2.
        percentile: the share of requests that must get both: 50 or 95.

    Raises:
        WorkshopError: no need was given or one that is no number above 0, another percentile, or nothing was measured.
    """
    for name, value in (("tokens_per_second_per_user", tokens_per_second_per_user), ("ttft", ttft)):
        if value is not None and not value > 0:
            raise WorkshopError(f"{name} is {value!r}. Give a number above 0.")
    if tokens_per_second_per_user is None and ttft is None:
        raise WorkshopError(
            "No need was given. Say what a user needs: tokens_per_second_per_user=30, ttft=0.2 (seconds), or both."
        )
    if percentile not in SHARES:
        raise WorkshopError(f"percentile is {percentile!r}. Give {joined([str(one) for one in SHARES], 'or')}.")
    need = Need(tokens_per_second_per_user, ttft, percentile)
    kept, left_out = usable(points(what), speed=ttft is None)
    meeting = [one for one in kept if not need.broken(one)]
    return SweetSpot(need, kept, meeting[-1] if meeting else None, left_out)
