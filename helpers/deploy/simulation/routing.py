"""Which replica a request goes to, as Ray Serve's proxy chooses (notebook 09).

Power of two choices: of two replicas picked at random the one with fewer requests, if it has room. Where none of the
two has, the proxy tries again after a pause that doubles; a slot that becomes free is found only then. As many tries
go on at once as there are requests waiting, twice the replicas at most. Source:
``ray.serve._private.request_router`` of the release in requirements.txt.
"""

import random
from collections import deque
from collections.abc import Sequence

from helpers.deploy.simulation.events import Events
from helpers.deploy.simulation.replica import Going, Replica

RETRY = "retry"

FIRST_PAUSE, LONGEST_PAUSE = 0.025, 0.5
"""Seconds between tries for one request: the first pause, which doubles each time, and the longest."""

_TRIES = 2  # at once, for each replica


class Router:
    """What waits in front of the replicas, and who takes it.

    Args:
        events: where the next try is put.
        most: requests that a replica takes at once; None for any number.
        seed: of the picks.
        polls: False for a proxy that sees at once where there is room.
    """

    def __init__(self, events: Events, most: int | None, seed: int, polls: bool) -> None:
        self.waiting: deque[Going] = deque()
        self._events = events
        self._most = most
        self._chance = random.Random(f"{seed} routing")
        self._polls = polls
        self._tries = 0

    def place(self, now: float, running: Sequence[Replica]) -> list[Replica]:
        """After a request has come, or a replica: those that took something."""
        if not self._polls:
            return self._place_at_once(now, running)
        taken: list[Replica] = []
        while self._tries < self._wanted(running):
            self._tries += 1
            taken += self.attempt(now, 0, running)
        return taken

    def freed(self, now: float, running: Sequence[Replica]) -> list[Replica]:
        """After a request has ended: only a proxy that sees everything notices."""
        return [] if self._polls else self._place_at_once(now, running)

    def attempt(self, now: float, failed: int, running: Sequence[Replica]) -> list[Replica]:
        """One try, after so many that failed; it goes on with the next request as long as there is room."""
        taken: list[Replica] = []
        while self.waiting and running and self._tries <= self._wanted(running):
            found = self._pick(running)
            if found is None:
                if failed:  # the first try is repeated at once
                    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failed - 1, 10))
                    self._events.put(now + pause, RETRY, failed + 1)
                    return taken
                failed = 1
                continue
            found.take(self.waiting.popleft(), now)
            taken.append(found)
            failed = 0
        self._tries -= 1
        return taken

    def _wanted(self, running: Sequence[Replica]) -> int:
        return min(len(self.waiting), _TRIES * len(running))

    def _pick(self, running: Sequence[Replica]) -> Replica | None:
        first = second = running[0]
        if len(running) > 1:
            place = self._chance.randrange(len(running))
            other = self._chance.randrange(len(running) - 1)
            first, second = running[place], running[other + (other >= place)]
        best = first if first.ongoing <= second.ongoing else second
        return best if self._most is None or best.ongoing < self._most else None

    def _place_at_once(self, now: float, running: Sequence[Replica]) -> list[Replica]:
        taken: list[Replica] = []
        while self.waiting:
            free = [one for one in running if self._most is None or one.ongoing < self._most]
            found = self._pick(free) if free else None
            if found is None:
                break
            found.take(self.waiting.popleft(), now)
            taken.append(found)
        return taken
