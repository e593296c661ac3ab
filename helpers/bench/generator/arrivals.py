"""When requests are due, as pure functions of the load (notebook 08)."""

import random
from collections.abc import Iterator

from helpers.bench import profile
from helpers.bench.load import CONSTANT, Load


def first_starts(concurrency: int, ramp: float) -> list[float]:
    """When each slot of a closed loop sends its first request, in seconds since the run began, ``[concurrency]``.

    Spread evenly: slots that start together stay together, and their prompts are read together again and again.
    """
    return [slot * ramp / concurrency for slot in range(concurrency)]


def arrivals(load: Load, run: int) -> Iterator[float]:
    """When requests of an open loop are due, in seconds since the run began; without end but for a profile.

    Poisson arrivals have gaps that are exponentially distributed around ``1 / rate``; each run draws its own. With a
    profile these are gaps in expected requests, which it turns into times. The first request is due as soon as there
    is a rate.
    """
    if load.concurrency is not None:
        raise ValueError("a closed loop has no arrivals")
    chance, steady, due = random.Random(f"{load.seed} arrivals {run}"), load.arrivals == CONSTANT, 0.0
    if load.profile is not None:
        while (at := profile.time_of(load.profile, due)) is not None:
            yield at
            due += 1.0 if steady else chance.expovariate(1.0)
        return
    rate = load.most_rate
    while True:
        yield due
        due += 1 / rate if steady else chance.expovariate(rate)
