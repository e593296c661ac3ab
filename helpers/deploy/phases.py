"""The parts of a load that changes over time, by the shape of its profile (notebook 09). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from helpers.bench.load import Load

BEFORE, RAMP, BURST, BETWEEN, AFTER, LOAD, NO_LOAD = (
    "before",  # as it is until it rises
    "ramp",  # it rises
    "burst",  # the highest rate, for a while
    "between",  # two bursts
    "after",  # the burst
    "load",  # of one rate, or a closed loop
    "no load",  # after its last request was to be sent
)


@dataclass(frozen=True)
class Phase:
    """One part: its name, and from when to when, in seconds since the load began."""

    name: str
    begin: float
    end: float


def phases(load: Load | None, last: float, ends: float) -> list[Phase]:
    """The parts of a load in order, and the time after it.

    Args:
        load: None where only its requests are known.
        last: seconds after which its last request was sent, where no profile says when it ends.
        ends: seconds until which it was looked at.
    """
    if load is not None and load.profile is not None:
        stop = load.lasts or 0.0
        found = _of_profile(load.profile, stop)
    else:
        stop = max(last, (load.seconds or 0.0) if load is not None else 0.0)
        found = [Phase(LOAD, 0.0, stop)] if stop > 0 else []
    return [*found, Phase(NO_LOAD, stop, ends)] if ends > stop else found


def _of_profile(points: Sequence[tuple[float, float]], stop: float) -> list[Phase]:
    """Neighbours of one name are one phase."""
    peak = max(rate for _, rate in points)
    flat = [(a[0], b[0]) for a, b in pairwise(points) if a[1] == b[1] == peak and b[0] > a[0]]
    first = flat[0][0] if flat else next(at for at, rate in points if rate == peak)
    last = flat[-1][1] if flat else first
    found: list[Phase] = []
    for (begin, low), (end, high) in pairwise(points):
        if end <= begin or begin >= stop:
            continue
        if (begin, end) in flat:
            name = LOAD if min(rate for _, rate in points) == peak else BURST
        elif end <= first:
            name = RAMP if high > low else BEFORE
        else:
            name = AFTER if begin >= last else BETWEEN
        if found and found[-1].name == name:
            begin = found.pop().begin
        found.append(Phase(name, begin, min(end, stop)))
    return found
