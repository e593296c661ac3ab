"""The throughput-latency curve and its knee: where more users cost more waiting than they bring (notebook 08).

The knee is the point farthest from the straight line between the curve's ends, on axes that both run from 0 to 1: the
rule of Kneedle (V. Satopää, J. Albrecht, D. Irwin, B. Raghavan, "Finding a 'Kneedle' in a Haystack", 2011), without its
smoothing, since a sweep has few points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.points import (
    Finding,
    Point,
    changed,
    heading,
    points,
    rate_text,
    time_text,
    usable,
    with_note,
)
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.cards import Picture, Table

FEWEST = 4
"""Points below which no knee is named: with three, the one in the middle would always be it."""

FAR = 0.1
"""Distance from the line between the ends, as a share of the axes, from which a curve has bent."""

RISEN = 1.3
"""Times by which latency must have risen over the whole curve: on stretched axes noise would bend too."""

_LATENCIES = {"ttft": "TTFT", "tpot": "time per output token"}
Place = tuple[float, float]


@dataclass(frozen=True, repr=False)
class Curve(Finding):
    """Throughput and latency of several loads, and the knee if there is one.

    Attributes:
        points: in the order of their load, without those that have no latency of the server's.
        knee: the point where the curve bends; None if none can be named.
        why: the reason for none; empty if there is one.
        latency: ``ttft`` or ``tpot``, medians.
        left_out: a sentence on points that are not looked at; empty if all are.
    """

    points: Sequence[Point]
    knee: Point | None
    why: str
    latency: str = "ttft"
    left_out: str = ""

    @property
    def sentence(self) -> str:
        """Where the curve bends and what lies on either side, or why that cannot be said."""
        if self.knee is None:
            return f"No knee is named: {self.why}."
        place, knee = list(self.points).index(self.knee), self.knee
        before, after = self.points[0], self.points[-1]
        name = _LATENCIES[self.latency]
        return (
            f"Of the measured loads, {knee.name} is the knee: {rate_text(knee.tokens_per_second)} output tokens/s at a "
            f"median {name} of {time_text(_latency(knee, self.latency))}. The bend may lie anywhere between "
            f"{self.points[place - 1].name} and {self.points[place + 1].name}, where no other load was measured. "
            f"From {before.name} to the knee, output tokens/s are {_change(before, knee)} and {name} "
            f"{_slower(before, knee, self.latency)}; from there to {after.name}, output tokens/s are "
            f"{_change(knee, after)} and {name} {_slower(knee, after, self.latency)}."
        )

    @cached_property
    def picture(self) -> "Picture":
        """The curve, drawn."""
        from helpers.plots.bench import sweep_picture

        return sweep_picture(self.points, knee=self.knee)

    def table(self) -> "Table":
        """One row a point."""
        rows = [
            (
                one.label,
                rate_text(one.tokens_per_second),
                rate_text(one.per_user.get(50)),
                time_text(one.ttft.get(50)),
                time_text(one.tpot),
                "knee" if one is self.knee else "",
            )
            for one in self.points
        ]
        columns = (heading(self.points), "output tokens/s", "tokens/s per user", "TTFT", "time per token", "")
        return with_note(columns, rows, "Measured: throughput and latency, medians", self.sentence, self.left_out)

    def __str__(self) -> str:
        said = f"{self.sentence} {self.left_out}".rstrip()
        return f"{self.picture}\n{said}" if self.points else said

    def _repr_html_(self) -> str:
        from helpers.cards import paragraph

        shown = self.picture._repr_html_() if self.points else ""
        return shown + paragraph(f"{self.sentence} {self.left_out}".rstrip())


def curve(what: Any, latency: str = "ttft") -> Curve:
    """The throughput-latency curve of a sweep, and its knee.

    Args:
        what: a sweep, results or points.
        latency: ``ttft``, or ``tpot`` for the time per output token.

    Raises:
        WorkshopError: nothing was measured, two kinds of load are mixed, or another latency is asked for.
    """
    if latency not in _LATENCIES:
        raise WorkshopError(f"{latency!r} is no latency of this curve. Give 'ttft' or 'tpot'.")
    kept, left_out = usable(points(what))
    kept = [one for one in kept if _latency(one, latency) is not None]
    knee, why = find_knee(kept, latency)
    return Curve(kept, knee, why, latency, left_out)


def find_knee(found: Sequence[Point], latency: str = "ttft") -> tuple[Point | None, str]:
    """The knee of points in the order of their load, and why there is none; one of the two is empty."""
    if len(found) < FEWEST:
        return (
            None,
            f"that takes at least {FEWEST} loads, and {len(found)} {'was' if len(found) == 1 else 'were'} given",
        )
    waits = [_latency(one, latency) or 0.0 for one in found]
    rates = [one.tokens_per_second for one in found]
    name = _LATENCIES[latency]
    if max(waits) < RISEN * min(waits):
        rise = f"median {name} rises by no more than {max(waits) / min(waits) - 1:.0%}"
        return None, f"the curve has not bent yet, {rise} over these loads; go to higher ones"
    if max(rates) == min(rates):
        return None, "every load gives the same throughput"
    if (rates[0], waits[0]) == (rates[-1], waits[-1]):
        return None, "the curve ends where it began, so there is no line to bend from; run the sweep again"
    away = distances(list(zip(rates, waits, strict=True)))
    best = max(range(len(found)), key=lambda k: abs(away[k]))
    if abs(away[best]) < FAR:
        return None, (
            f"the curve has not bent yet, its points lie near a straight line between its ends (at most "
            f"{abs(away[best]):.2f} away on axes from 0 to 1, and {FAR} is asked for); go to higher loads"
        )
    if away[best] < 0:
        return None, (
            f"the curve bends the other way, at {found[best].name} {name} is high and throughput low beside a line "
            "between its ends; run the sweep again, or look at what that load met"
        )
    return found[best], ""


def distances(places: Sequence[Place]) -> list[float]:
    """How far each point lies on the good side (more throughput, less latency) of the line between the ends.

    Args:
        places: (throughput, latency) in the order of the load; neither may be the same for all.

    Returns:
        Distances at a right angle to the line, on axes stretched to run from 0 to 1; negative on the bad side, 0 for
        both ends, and 0 for all where the ends are one point.
    """
    across, up = (_stretched([place[axis] for place in places]) for axis in (0, 1))
    dx, dy = across[-1] - across[0], up[-1] - up[0]
    length = (dx * dx + dy * dy) ** 0.5
    if not length:  # the ends are one point, and there is no line
        return [0.0 for _ in places]
    return [((x - across[0]) * dy - (y - up[0]) * dx) / length for x, y in zip(across, up, strict=True)]


def _stretched(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


def _latency(one: Point, latency: str) -> float | None:
    return one.ttft.get(50) if latency == "ttft" else one.tpot


def _change(before: Point, after: Point) -> str:
    said = changed(before.tokens_per_second, after.tokens_per_second)
    return "no more" if said == "about the same" else said


def _slower(before: Point, after: Point, latency: str) -> str:
    return changed(_latency(before, latency) or 0.0, _latency(after, latency) or 0.0)
