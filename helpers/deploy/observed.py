"""What a deployment did, as it was noted while it happened (notebook 09). Pure but for reading the two files.

``moments.jsonl`` has a line a look at the replicas, a few times a second; ``marks.jsonl`` has one for each step in a
replica's life. Times are seconds since 1970, of this machine's clock, as in :mod:`helpers.bench.measured`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MOMENTS, MARKS = "moments.jsonl", "marks.jsonl"

_TAIL = 2048  # bytes at the end of the moments that hold the last one whole, several times over

ASKED, PROCESS, IMPORTED, LOADED, READY, FIRST_TOKEN, ENDED = (
    "asked",  # the autoscaler decided to have it
    "process",  # its process exists
    "imported",  # what it needs is imported, and the engine begins to load
    "loaded",  # the engine can compute
    "ready",  # requests are sent to it
    "first token",  # the first token of its first request has left it
    "ended",  # it has let go of its engine
)
STEPS = (ASKED, PROCESS, IMPORTED, LOADED, READY, FIRST_TOKEN, ENDED)
"""In a replica's life, in this order."""


@dataclass(frozen=True)
class Moment:
    """One look at all replicas.

    Attributes:
        time: of the look.
        starting: replicas that exist or are to exist, and take no requests yet.
        running: those that take requests.
        stopping: those that finish what they have and then end.
        target: how many the autoscaler wants; None where it does not say.
    """

    time: float
    starting: int
    running: int
    stopping: int
    target: int | None = None

    def told(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)


@dataclass(frozen=True)
class Mark:
    """One step in a replica's life: which replica, which of :data:`STEPS`, and when."""

    replica: str
    step: str
    time: float


@dataclass(frozen=True)
class Observed:
    """All that was noted of a deployment, in the order of time."""

    moments: Sequence[Moment] = field(default_factory=tuple)
    marks: Sequence[Mark] = field(default_factory=tuple)

    def replicas(self) -> dict[str, dict[str, float]]:
        """Replica to step to time, in the order in which they came to be."""
        found: dict[str, dict[str, float]] = {}
        for mark in self.marks:
            found.setdefault(mark.replica, {}).setdefault(mark.step, mark.time)
        return found

    def between(self, start: float, end: float) -> "Observed":
        """The moments from one time to another, and the marks of replicas that have one between them."""
        moments = tuple(moment for moment in self.moments if start <= moment.time <= end)
        names = {mark.replica for mark in self.marks if start <= mark.time <= end}
        return Observed(moments, tuple(mark for mark in self.marks if mark.replica in names))


def read(folder: Path) -> Observed:
    """What was noted in a folder so far; a line that is still being written is left out."""
    moments = (Moment(**line) for line in _lines(folder / MOMENTS))
    marks = sorted((Mark(**line) for line in _lines(folder / MARKS)), key=lambda mark: mark.time)
    return Observed(tuple(moments), tuple(marks))


def last(folder: Path) -> Moment | None:
    """The newest look at the replicas; None before the first. Quick, however long the file is."""
    file = folder / MOMENTS
    if not file.exists():
        return None
    with file.open("rb") as moments:
        moments.seek(max(0, moments.seek(0, 2) - _TAIL))
        whole = [line for line in moments.read().splitlines(keepends=True) if line.endswith(b"\n")]
    return Moment(**json.loads(whole[-1])) if whole else None


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
