"""What a deployment would have noted, made for tests: a load's requests, replicas that come and go, and their marks."""

from collections.abc import Sequence

from helpers.bench.generator.arrivals import arrivals
from helpers.bench.load import Load
from helpers.bench.rows import MEASURED, OK, Row
from helpers.deploy.observed import Mark, Moment, Observed

BEGAN = 1_700_000_000.0
PROFILE = ((0.0, 0.5), (20.0, 4.0), (20.0, 12.0), (30.0, 12.0), (30.0, 1.0), (45.0, 0.2))
STEPS = ("asked", "process", "imported", "loaded", "ready")


def row(index: int, at: float, ttft: float | None, seconds: float = 0.5, outcome: str = OK) -> Row:
    """One request that was sent at its time."""
    first = None if ttft is None else at + ttft
    ended = at + (ttft or 0.0) + seconds
    return Row(1, index, MEASURED, index, False, at, at, first, ended, ended, outcome, "", 200)


def marks(replica: str, *times: float | None, ended: float | None = None) -> list[Mark]:
    """Marks at seconds since the run began, in the order of :data:`STEPS`; None leaves one out."""
    found = [Mark(replica, step, BEGAN + at) for step, at in zip(STEPS, times, strict=False) if at is not None]
    return found if ended is None else [*found, Mark(replica, "ended", BEGAN + ended)]


def moments(*changes: tuple[float, int, int, int], until: float, every: float = 0.25) -> list[Moment]:
    """Looks at the replicas: from each time on so many starting, running and stopping."""
    found, at = [], changes[0][0]
    while at <= until:
        now = [change for change in changes if change[0] <= at][-1]
        found.append(Moment(BEGAN + at, *now[1:]))
        at += every
    return found


def usual(load: Load | None = None) -> tuple[list[Row], Observed]:
    """From none to one on the first request, to two in the burst, and back to none after the load."""
    load = load or Load(profile=PROFILE)
    rows = []
    for index, at in enumerate(arrivals(load, 1)):
        wait = max(0.05, 4.1 - at, (1.5 - abs(at - 23)) if 20 <= at < 30 else 0.0)
        rows.append(row(index, at, wait, 1.2 if 20 <= at < 30 else 0.5))
    changes: Sequence[tuple[float, int, int, int]] = (
        (-2, 0, 0, 0), (0.25, 1, 0, 0), (4, 0, 1, 0), (22.5, 1, 1, 0), (26, 0, 2, 0), (39, 0, 1, 1), (40, 0, 1, 0),
        (52.5, 0, 0, 1), (53, 0, 0, 0),
    )  # fmt: skip
    noted = [*marks("a", 0.1, 0.4, 1.6, 3.7, 3.95, ended=53), *marks("b", 22.4, 22.7, 23.9, 25.7, 25.9, ended=40)]
    return rows, Observed(moments(*changes, until=56), sorted(noted, key=lambda mark: mark.time))
