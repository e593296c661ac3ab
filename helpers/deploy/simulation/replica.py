"""One replica in the simulation: its life, and its requests, which share its speed (notebook 09)."""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

from helpers.deploy.simulation.service import Service

STARTING, RUNNING, STOPPING, ENDED = "starting", "running", "stopping", "ended"

_DONE = 1e-8  # seconds: rounding of times that are days


@dataclass(slots=True)
class Going:
    """A request under way; times are seconds since the simulation began, None for what has not happened.

    Attributes:
        number: its place among the arrivals.
        arrival: when it came.
        tokens: of its answer.
        replica: that took it; empty before.
        started: when that one took it.
        first_token, ended: when they were.
    """

    number: int
    arrival: float
    tokens: float
    replica: str = ""
    started: float | None = None
    first_token: float | None = None
    ended: float | None = None


class Speeds:
    """A service's times by requests at once, looked up often."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._found: list[tuple[float, float]] = []

    def at(self, at_once: int) -> tuple[float, float]:
        """Seconds to the first token, and for each token after it."""
        while len(self._found) <= at_once:
            level = self._service.at(max(1, len(self._found)))
            self._found.append((level.ttft, level.tpot))
        return self._found[at_once]


@dataclass(eq=False, slots=True)
class Replica:
    """One replica.

    A request first has its prompt read, which is one unit of work, and then writes its tokens after the first, a unit
    each. All that read go at one speed, and all that write at another, so one clock for each and the clock's value at
    which a request is through say when it ends.

    Attributes:
        number, name: which one, and as marks call it.
        speeds: of its engine.
        batch: requests that it computes at once; None for no limit.
        prompt: seconds that each further prompt adds.
        extra: seconds that its first request takes more.
        state: where it is in its life.
        ready_at: when it will be ready, once that is known.
        slow: how many times slower than alone it goes.
        version: changes whenever the next thing to happen in it changes.
    """

    number: int
    name: str
    speeds: Speeds
    batch: int | None
    prompt: float
    extra: float
    state: str = STARTING
    ready_at: float = 0.0
    slow: float = 1.0
    version: int = 0
    fresh: bool = True
    _at: float = 0.0
    _read: float = 0.0
    _written: float = 0.0
    _ttft: float = 0.0
    _tpot: float = 0.0
    _reading: list[tuple[float, int, Going]] = field(default_factory=list)
    _writing: list[tuple[float, int, Going]] = field(default_factory=list)
    _inside: deque[Going] = field(default_factory=deque)

    @property
    def at_once(self) -> int:
        """Requests that it computes."""
        return len(self._reading) + len(self._writing)

    @property
    def ongoing(self) -> int:
        """Requests that it has, also those that wait inside it."""
        return self.at_once + len(self._inside)

    def take(self, one: Going, now: float) -> None:
        """Begin with a request, or let it wait inside while the batch is full."""
        self._advance(now)
        one.replica, one.started = self.name, now
        if self.batch is not None and self.at_once >= self.batch:
            self._inside.append(one)
        else:
            self._begin(one)
            self._set_pace()

    def _begin(self, one: Going) -> None:
        work = 1.0
        if self.fresh and self.extra:
            ttft, _ = self.speeds.at(1)
            work += self.extra / ttft if ttft else 0.0
        self.fresh = False
        heapq.heappush(self._reading, (self._read + work, one.number, one))

    def go_at(self, slow: float, now: float) -> None:
        """From now on, so many times slower than alone."""
        self._advance(now)
        self.slow = slow
        self._set_pace()

    def _set_pace(self) -> None:
        """Seconds for a prompt and for a token, with the requests that there are."""
        reading = len(self._reading)
        ttft, tpot = self.speeds.at(reading + len(self._writing))
        if reading > 1:
            ttft += self.prompt * (reading - 1)
        self._ttft, self._tpot = ttft * self.slow, tpot * self.slow

    def _advance(self, now: float) -> None:
        """Let both clocks go on until now, at the pace that has been so far."""
        passed = now - self._at
        if passed > 0:
            if self._reading and self._ttft:
                self._read += passed / self._ttft
            if self._writing and self._tpot:
                self._written += passed / self._tpot
        self._at = now

    def due(self) -> float:
        """When its next request is through with its prompt or its answer; infinite without one."""
        left = math.inf
        if self._reading:
            left = max(0.0, self._reading[0][0] - self._read) * self._ttft
        if self._writing:
            left = min(left, max(0.0, self._writing[0][0] - self._written) * self._tpot)
        return self._at + left

    def progress(self, now: float) -> tuple[list[Going], list[Going]]:
        """What is through by now: requests that have their first token, and requests that end."""
        self._advance(now)
        first: list[Going] = []
        ended: list[Going] = []
        reading, writing = self._reading, self._writing
        while writing and (writing[0][0] - self._written) * self._tpot <= _DONE:
            ended.append(heapq.heappop(writing)[2])
        while reading and (reading[0][0] - self._read) * self._ttft <= _DONE:
            one = heapq.heappop(reading)[2]
            one.first_token = now
            first.append(one)
            if one.tokens <= 1 or not self._tpot:
                ended.append(one)
            else:
                heapq.heappush(writing, (self._written + one.tokens - 1, one.number, one))
        for one in ended:
            one.ended = now
        while self._inside and (self.batch is None or self.at_once < self.batch):
            self._begin(self._inside.popleft())
        if not reading:
            self._read = 0.0  # a clock that nothing waits for begins anew, so that it stays exact
        if not writing:
            self._written = 0.0
        self._set_pace()
        return first, ended
