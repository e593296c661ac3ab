"""How fast a replica serves, as a function of how many requests it has at once (notebook 09). Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean
from typing import Any

from helpers.bench.analysis.points import Point, joined, points
from helpers.errors import WorkshopError


@dataclass(frozen=True)
class Level:
    """One replica with so many requests at once.

    Attributes:
        at_once: requests in its batch.
        ttft: seconds until a request's first token, once the replica has taken it.
        tpot: seconds per token of each request after that.
    """

    at_once: int
    ttft: float
    tpot: float


@dataclass(frozen=True)
class Service:
    """How fast a replica serves: times between measured levels are taken from straight lines.

    Beyond the last level its tokens a second no longer grow: each request's share becomes smaller. Whenever a request
    comes or ends, all others on that replica go on at the new speed (processor sharing), which is what in-flight
    batching does.

    Attributes:
        levels: by requests at once, at least one.
        batch: requests that a replica computes at once; more wait inside it. None for no limit.
        prompt: seconds that each further prompt read at the same moment adds to the time of all of them.
        sharing: how much a replica loses to each other one that computes: 0 with a GPU each, 1 where all share one
            machine and it is used up by one.
        source: where the figures come from.

    Raises:
        WorkshopError: a value that makes no sense.
    """

    levels: Sequence[Level]
    batch: int | None = None
    prompt: float = 0.0
    sharing: float = 0.0
    source: str = "assumed"

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(sorted(self.levels, key=lambda one: one.at_once)))
        if not self.levels:
            raise WorkshopError("There is no level of load to take a replica's speed from. Give at least one.")
        if len({one.at_once for one in self.levels}) < len(self.levels):
            raise WorkshopError("Two levels have the same number of requests at once. Give each once.")
        for one in self.levels:
            numbers = all(math.isfinite(value) for value in (one.ttft, one.tpot))
            if not numbers or one.at_once < 1 or one.ttft < 0 or one.tpot < 0:
                raise WorkshopError(f"{one} is no level of load: requests from 1 on, and times of at least 0 seconds.")
        if self.batch is not None and not (isinstance(self.batch, int) and self.batch >= 1):
            raise WorkshopError(f"batch is {self.batch!r}. Give a whole number of at least 1, or None.")
        for name in ("prompt", "sharing"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise WorkshopError(f"{name} is {getattr(self, name)!r}. Give a number of at least 0.")

    @classmethod
    def of(cls, levels: Iterable[tuple[int, float, float]], **others: Any) -> "Service":
        """From requests at once, tokens a second that each user sees, and seconds to the first token.

        Raises:
            WorkshopError: a value that makes no sense.
        """
        made = []
        for at_once, rate, ttft in levels:
            if not rate > 0:
                raise WorkshopError(f"A user of {at_once} sees {rate!r} tokens a second. Give a number above 0.")
            made.append(Level(at_once, ttft, 1 / rate))
        return cls(made, **others)

    @classmethod
    def from_sweep(cls, sweep: Any, batch: int | None = None, **others: Any) -> "Service":
        """From a measured sweep of closed loops (:func:`helpers.bench.sweep`), or its points.

        Loads beyond the engine's batch are left out: their waiting is a queue's, which the simulation makes itself.

        Args:
            sweep: a sweep, results or points.
            batch: the engine's batch limit; None for what the results know.
            others: the other attributes.

        Raises:
            WorkshopError: no load has both a speed and a time to the first token that are the server's.
        """
        batch = batch if batch is not None else _batch(sweep)
        kept = [
            one
            for one in points(sweep)
            if one.concurrency and one.measured and one.per_user.get(50) and one.concurrency <= (batch or math.inf)
        ]
        if not kept:
            raise WorkshopError(
                "No load of the sweep tells how fast a replica serves. Measure closed loops with a concurrency of 1 "
                "and up to the engine's batch limit."
            )
        others.setdefault("prompt", _prompt(kept))
        others.setdefault("source", f"measured: concurrency {joined([one.label for one in kept])}")
        levels = [Level(int(one.concurrency or 0), _ttft(one), 1 / float(one.per_user[50] or 0)) for one in kept]
        return cls(levels, batch, **others)

    def at(self, at_once: int) -> Level:
        """With so many requests at once."""
        low, high = self.levels[0], self.levels[-1]
        if at_once <= low.at_once:
            return Level(at_once, low.ttft, low.tpot)
        if at_once >= high.at_once:
            more = at_once / high.at_once
            return Level(at_once, high.ttft * more, high.tpot * more)
        below, above = next(pair for pair in pairwise(self.levels) if pair[0].at_once <= at_once < pair[1].at_once)
        share = (at_once - below.at_once) / (above.at_once - below.at_once)
        return Level(
            at_once,
            below.ttft + share * (above.ttft - below.ttft),
            below.tpot + share * (above.tpot - below.tpot),
        )

    @property
    def text(self) -> str:
        """The speed in words, with its source."""
        first, last = self.levels[0], self.levels[-1]
        said = f"{_rate(first)} tokens/s per user with {first.at_once} at once"
        if last is not first:
            said += f", {_rate(last)} with {last.at_once}"
        return f"{said} ({self.source})"

    def with_(self, **changes: Any) -> "Service":
        """The same with some things changed."""
        return replace(self, **changes)


def _rate(level: Level) -> str:
    return f"{1 / level.tpot:,.3g}" if level.tpot else "any number of"


def _ttft(one: Point) -> float:
    """Of a request that joins others, not of those that all came at once."""
    return float(one.ttft_later if one.ttft_later is not None else one.ttft[50] or 0.0)


def _prompt(kept: Sequence[Point]) -> float:
    """What each further prompt adds where all came at once; 0 where no load tells."""
    found = [
        (one.ttft_first_wave - _ttft(one)) / (one.concurrency - 1)
        for one in kept
        if one.ttft_first_wave is not None and one.ttft_later is not None and one.concurrency and one.concurrency > 1
    ]
    return max(0.0, mean(found)) if found else 0.0


def _batch(sweep: Any) -> int | None:
    results = sweep if isinstance(sweep, Iterable) else [sweep]
    found = [size for one in results if (size := getattr(one, "max_batch_size", None)) is not None]
    return min(found, default=None)
