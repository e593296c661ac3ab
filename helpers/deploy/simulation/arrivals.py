"""When requests come and how many tokens they ask for, as pure functions of a seed (notebook 09)."""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from helpers.bench.rows import Row
from helpers.errors import WorkshopError

MORNING = ((0, 1), (240, 1), (480, 14), (720, 14), (840, 2), (1200, 2))
"""A load that rises fourteenfold within 20 minutes and falls again: seconds, requests a second."""


@dataclass(frozen=True)
class Arrival:
    """One request that will come.

    Attributes:
        time: seconds since the simulation began.
        tokens: of its answer, at least 1.
    """

    time: float
    tokens: float


def poisson(rate: float, seconds: float, tokens: float = 128, seed: int = 0) -> list[Arrival]:
    """Requests as users send them: ``rate`` a second on average, over so many seconds.

    Raises:
        WorkshopError: a value that makes no load.
    """
    return changing([(0.0, rate), (seconds, rate)], tokens, seed)


def changing(points: Sequence[tuple[float, float]], tokens: float = 128, seed: int = 0) -> list[Arrival]:
    """Requests whose rate follows straight lines between points (seconds, requests a second); two at one time: a step.

    A unit-rate Poisson process is stretched so that the expected number of requests matches the area under the lines.

    Raises:
        WorkshopError: a value that makes no load.
    """
    _check(points, tokens)
    chance, found = random.Random(f"{seed} arrivals"), []
    due = chance.expovariate(1.0)  # the area under the lines at which the next request comes
    area = 0.0
    for (start, low), (end, high) in pairwise(points):
        part = (end - start) * (low + high) / 2
        while due <= area + part and part > 0:
            found.append(Arrival(start + _reached(due - area, end - start, low, high), tokens))
            due += chance.expovariate(1.0)
        area += part
    return found


def _reached(area: float, length: float, low: float, high: float) -> float:
    """Seconds after which the area under a line from ``low`` to ``high`` is so large."""
    slope = (high - low) / length
    if abs(slope) * length < 1e-9 * max(low, high):
        return min(length, area / low)
    return min(length, 2 * area / (low + math.sqrt(max(0.0, low * low + 2 * slope * area))))


def _check(points: Sequence[tuple[float, float]], tokens: float) -> None:
    numbers = [value for point in points for value in point]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers) or len(points) < 2:
        raise WorkshopError("A load needs at least two points of seconds and requests a second.")
    times, rates = [time for time, _ in points], [rate for _, rate in points]
    if times != sorted(times) or times[0] < 0 or times[-1] <= times[0]:
        raise WorkshopError(f"The load's times are {times}. Give seconds that begin at 0 or later and increase.")
    if min(rates) < 0 or max(rates) <= 0:
        raise WorkshopError(f"The load's rates are {rates}. Give requests a second of at least 0, and one above it.")
    if not (isinstance(tokens, int | float) and math.isfinite(tokens) and tokens >= 1):
        raise WorkshopError(f"An answer has {tokens!r} tokens. Give a number of at least 1.")


def of_rows(rows: Iterable[Row]) -> list[Arrival]:
    """The very requests of a measured run: when they came, and how long their answers were.

    A request that failed is taken with the tokens that it asked for.

    Raises:
        WorkshopError: no row says how many tokens there were.
    """
    found = [
        Arrival(max(0.0, row.begun), float(row.tokens or row.asked_tokens or 0)) for row in rows if row.sent is not None
    ]
    if not found or min(one.tokens for one in found) < 1:
        raise WorkshopError(
            "The run has no requests, or requests of which nobody knows how many tokens they asked for."
        )
    return sorted(found, key=lambda one: one.time)
