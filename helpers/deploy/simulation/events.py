"""The queue of what is to happen, in the order of time (notebook 09). Pure."""

import heapq
from typing import Any


class Events:
    """What is to happen and when; what is due at one moment comes in the order in which it was put in."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str, Any]] = []
        self._count = 0

    def put(self, time: float, kind: str, what: Any = None) -> None:
        """Note that something is due at a time, in seconds since the simulation began."""
        self._count += 1
        heapq.heappush(self._heap, (time, self._count, kind, what))

    def next(self) -> tuple[float, str, Any]:
        """The earliest: its time, its kind and what it is about.

        Raises:
            IndexError: nothing is left.
        """
        time, _, kind, what = heapq.heappop(self._heap)
        return time, kind, what

    def __bool__(self) -> bool:
        return bool(self._heap)
