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
    capital,
    heading,
    joined,
    lower_bounds,
    named,
    points,
    rate_text,
    time_text,
    with_note,
)
from helpers.bench.results.figures import fewest
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.cards import Table


SHARES = (50, 95)
"""Percentages of requests that a need may be stated for."""

MET, BROKEN, UNTOLD = "yes", "no", "not told"


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

    def verdict(self, one: Point) -> str:
        """:data:`MET`, :data:`BROKEN`, or :data:`UNTOLD` where the figures do not say."""
        return BROKEN if self.broken(one) else UNTOLD if self.untold(one) else MET

    def broken(self, one: Point) -> list[str]:
        """What of it a point does not give, in words; empty if nothing is known to fail.

        A request that failed did not get it either. Rates of a client that did not keep up are lower bounds, which
        break nothing.
        """
        found, who = [], f"{'half' if self.percentile == 50 else f'{100 - self.percentile}%'} of its requests"
        sent = one.whole + one.failed
        if 100 * one.failed > (100 - self.percentile) * sent:
            found.append(f"{one.failed:,} of {sent:,} requests failed")
        rate, wait = one.per_user.get(self.percentile), one.ttft.get(self.percentile)
        if self.per_user is not None and rate is not None and rate < self.per_user and not one.client_bound:
            found.append(f"{who} get less than {rate_text(rate)} tokens/s, and {self.per_user:g} are needed")
        if self.ttft is not None and wait is not None and wait > self.ttft:
            found.append(
                f"{who} wait longer than {time_text(wait)} for the first token, and {time_text(self.ttft)} is allowed"
            )
        return found

    def untold(self, one: Point) -> list[str]:
        """What of it the figures of a point do not tell, in words; empty if all is told."""
        found = []
        rate, wait = one.per_user.get(self.percentile), one.ttft.get(self.percentile)
        slow = rate is not None and self.per_user is not None and rate < self.per_user
        if one.client_bound and (slow or (self.ttft is not None and wait is None)):
            found.append(f"{one.lost}: its rates are lower bounds, and its latencies are not the server's")
        if (self.per_user is not None and rate is None) or (self.ttft is not None and wait is None):
            answers = one.whole // max(1, one.runs)
            if answers < fewest(self.percentile):
                found.append(
                    f"{answers:,} answers a run are too few to tell what {self.percentile}% of the requests get (it "
                    f"takes {fewest(self.percentile)})"
                )
            elif not one.client_bound:
                found.append("nobody counted tokens or times that tell")
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
        points: all that were measured, in the order of their load.
    """

    need: Need
    points: Sequence[Point]

    @property
    def best(self) -> Point | None:
        """The largest that is known to meet it; None if none is."""
        return next((one for one in reversed(self.points) if self.need.verdict(one) == MET), None)

    @property
    def next(self) -> Point | None:
        """The measured load above the best; None if there is none."""
        return next((one for one in self.points if self.best is None or one.at > self.best.at), None)

    @property
    def untold(self) -> Sequence[Point]:
        """Loads above the best of which it cannot be said whether they meet it."""
        least = -1.0 if self.best is None else self.best.at
        return [one for one in self.points if one.at > least and self.need.verdict(one) == UNTOLD]

    @property
    def sentence(self) -> str:
        """Where it lies and what breaks above it."""
        if self.best is not None:
            return " ".join(filter(None, [self._best(), self._above(), self._untold(), self._below(), self._unsure()]))
        first = self.points[0]
        if self.untold:
            return f"Whether a measured load gives {self.need.text} cannot be told. {self._untold()}"
        return (
            f"No measured load gives {self.need.text}: already at {first.name}, the smallest, "
            f"{joined(self.need.broken(first))}."
        )

    def _best(self) -> str:
        assert self.best is not None
        best = self.best
        gives = "is known to give" if self.untold else "gives"
        least = "at least " if best.client_bound else ""
        return (
            f"{capital(best.name)} is the largest measured load that {gives} {self.need.text}; "
            f"all users together get {least}{rate_text(best.tokens_per_second)} output tokens/s."
        )

    def _above(self) -> str:
        assert self.best is not None
        if self.next is None:
            return (
                f"It is also the largest that was measured, so the limit lies higher: measure above {self.best.name}."
            )
        if self.need.verdict(self.next) == UNTOLD:
            return ""
        return (
            f"At {self.next.name}, the next one, {joined(self.need.broken(self.next))}. "
            "Between the two nothing was measured."
        )

    def _untold(self) -> str:
        said = [f"Of {one.name} it cannot be told: {joined(self.need.untold(one))}." for one in self.untold]
        return " ".join(said)

    def _below(self) -> str:
        assert self.best is not None
        worse = [one for one in self.points if one.at < self.best.at and self.need.broken(one)]
        if not worse:
            return ""
        return (
            f"{capital(named(worse))}, though smaller, {'does' if len(worse) == 1 else 'do'} not: run the sweep again."
        )

    def _unsure(self) -> str:
        close = [one for one in (self.best, self.next) if one is not None and self.need.close(one)]
        if not close:
            return ""
        return f"The need lies within the spread of the runs at {named(close)}: another run may decide otherwise."

    def table(self) -> "Table":
        """One row a load: what its users get, and whether that is enough."""
        share = self.need.percentile
        rows = [
            (
                one.label,
                rate_text(one.per_user.get(share)),
                time_text(one.ttft.get(share)),
                rate_text(one.tokens_per_second),
                self.need.verdict(one),
            )
            for one in self.points
        ]
        columns = (
            heading(self.points),
            "tokens/s per user, at least",
            "TTFT, at most",
            "output tokens/s",
            "meets the need",
        )
        caption = f"Measured: what {share}% of the requests get; needed: {self.need.text}"
        return with_note(columns, rows, caption, self.sentence, lower_bounds(self.points))


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
    return SweetSpot(need, points(what))
