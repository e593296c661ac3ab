"""When requests are due, as pure functions of the load (notebook 08)."""

import random
from collections.abc import Iterator

from helpers.bench.load import CONSTANT, Load


def first_starts(concurrency: int, ramp: float) -> list[float]:
    """When each slot of a closed loop sends its first request, in seconds since the run began, ``[concurrency]``.

    Spread evenly: slots that start together stay together, and their prompts are read together again and again.
    """
    return [slot * ramp / concurrency for slot in range(concurrency)]


def arrivals(load: Load, run: int) -> Iterator[float]:
    """When requests of an open loop are due, in seconds since the run began; without end.

    Poisson arrivals have gaps that are exponentially distributed around ``1 / rate``; each run draws its own.
    """
    if load.rate is None:
        raise ValueError("a closed loop has no arrivals")
    chance, due = random.Random(f"{load.seed} arrivals {run}"), 0.0
    while True:
        yield due
        due += 1 / load.rate if load.arrivals == CONSTANT else chance.expovariate(load.rate)
