"""How many replicas the autoscaler wants, as Ray Serve's own policy decides it (notebook 09). Pure.

Two parts: :class:`Counts` is what the controller knows, requests in flight averaged over a look-back of samples that
reach it only every ``interval``; :func:`decide` is what it makes of them. Both are tested against Ray's own functions.
Source: ``ray.serve.autoscaling_policy`` and ``ray.serve._private.autoscaling_state`` of the release in
requirements.txt.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from helpers.deploy.scaling import Scaling

LOOP = 0.1
"""Seconds between two decisions of Ray Serve's controller."""

RECORDS = 5
"""Samples that Ray takes in a look-back, unless ``interval`` makes them more."""

EXACT = 1e-6
"""Seconds by which a delay may seem not over: 400.0 - 0.1 + 0.1 may lie below 400.0."""


@dataclass(frozen=True)
class Wish:
    """What the load has asked for, and since when: a delay counts from there, and only while it goes on.

    Attributes:
        direction: 1 for more replicas, -1 for fewer, 0 for as many.
        since: seconds; None without a direction.
    """

    direction: int = 0
    since: float | None = None


NOTHING = Wish()


def decide(scaling: Scaling, ongoing: float, running: int, target: int, wish: Wish, now: float) -> tuple[int, Wish]:
    """How many replicas there shall be, and the wish to be handed in next time.

    Args:
        scaling: its settings.
        ongoing: requests in flight or waiting, as :meth:`Counts.average` has them.
        running: replicas that take requests; those that start are not counted.
        target: how many it wanted so far.
        wish: what the last decision gave.
        now: seconds.
    """
    if running == 0:
        return _from_none(scaling, ongoing, target, wish, now)
    return _delayed(scaling, wanted(scaling, ongoing, running), target, wish, now)


def wanted(scaling: Scaling, ongoing: float, running: int) -> int:
    """Replicas that so many requests ask for, before any delay and limit, while some run."""
    # In Ray's order of operations, so that a rounding error falls on the same side of a whole number.
    desired = running * (ongoing / (scaling.target_ongoing * running))
    return math.ceil(running + (desired - running))


def direction(desired: int, target: int) -> int:
    """1 for more replicas than are wanted so far, -1 for fewer, 0 for as many."""
    return (desired > target) - (desired < target)


def _from_none(scaling: Scaling, ongoing: float, target: int, wish: Wish, now: float) -> tuple[int, Wish]:
    """Nothing runs: one request is reason enough for a replica, at once; what was wanted stays wanted."""
    if ongoing > 0 or target > 0:
        return _bounded(scaling, max(1, target)), wish
    return _delayed(scaling, 0, target, wish, now)


def _delayed(scaling: Scaling, desired: int, target: int, wish: Wish, now: float) -> tuple[int, Wish]:
    """The target, changed only after the load has asked for it long enough."""
    way = direction(desired, target)
    if not way:
        return _bounded(scaling, target), NOTHING
    since = wish.since if wish.direction == way and wish.since is not None else now
    if way > 0:
        delay = scaling.upscale_delay
    elif target == 1:
        delay = scaling.last_delay
    else:
        delay, desired = scaling.downscale_delay, max(1, desired)  # the last one has a delay of its own
    if now - since + EXACT >= delay:
        return _bounded(scaling, desired), NOTHING
    return _bounded(scaling, target), Wish(way, since)


def _bounded(scaling: Scaling, count: int) -> int:
    return max(scaling.min_replicas, min(scaling.max_replicas, count))


@dataclass(frozen=True)
class Sample:
    """Requests at one moment: waiting in front of the replicas, and in each that has had one."""

    time: float
    queued: int
    running: Mapping[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return self.queued + sum(self.running.values())


class Counts:
    """Requests in flight as the controller knows them: late, and averaged.

    Args:
        scaling: its look-back and interval.
    """

    def __init__(self, scaling: Scaling) -> None:
        self.every = min(scaling.look_back / RECORDS, scaling.interval)
        """Seconds between two samples."""
        self._look_back = scaling.look_back
        self._taken: deque[Sample] = deque()
        self._sent: list[Sample] = []
        self._known: tuple[Collection[str], float, float, float, float] | None = None

    def record(self, sample: Sample) -> None:
        """Take a sample; what is older than the look-back is forgotten."""
        self._taken.append(sample)
        self._forget(sample.time)

    def push(self, sample: Sample) -> None:
        """Tell the controller all samples of the look-back; ``sample`` is of now, for where there is none."""
        self._forget(sample.time)
        self._sent = list(self._taken) or [sample]
        self._known = None

    @property
    def quiet(self) -> bool:
        """True if the controller knows of no request at all, and no sample of one is on its way to it."""
        return self.last_busy is None

    @property
    def last_busy(self) -> float | None:
        """When the last sample with a request was taken, of those that are not forgotten; None without one."""
        times = [one.time for known in (self._sent, self._taken) for one in known if one.total]
        return max(times, default=None)

    def forget(self) -> None:
        """Know of no request any more."""
        self._taken.clear()
        self._sent, self._known = [], None

    def rest(self, until: float, replicas: Collection[str]) -> None:
        """Have samples without any request up to a time, as if they had been taken all along."""
        count, nothing = math.ceil(self._look_back / self.every), dict.fromkeys(replicas, 0)
        self._taken = deque(Sample(until - place * self.every, 0, nothing) for place in range(count, 0, -1))

    def restore(self, samples: Sequence[Sample], pushed: float) -> None:
        """Go on as if these samples had been taken, and told to the controller last at the time ``pushed``."""
        self._taken = deque(one for one in samples if one.time <= pushed)
        self._forget(pushed)
        self._sent, self._known = list(self._taken), None
        for one in samples:
            if one.time > pushed:
                self.record(one)

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0].time <= now - self._look_back:
            self._taken.popleft()

    def average(self, now: float, replicas: Collection[str]) -> float:
        """The mean over the look-back; the last sample is taken to hold until now.

        Args:
            now: seconds.
            replicas: names of those that run: what others still finish is not counted.
        """
        if self._known is None or self._known[0] != replicas:
            self._known = (frozenset(replicas), *_summed(self._sent, replicas))
        _, start, area, last, at = self._known
        until = max(now, at + 1e-3)
        return (area + last * (until - at)) / (until - start) if until > start else 0.0


def _summed(samples: list[Sample], replicas: Collection[str]) -> tuple[float, float, float, float]:
    """Where the window begins, requests × seconds from there to the last change, the last count, and when it was.

    As Ray does, a window of several series begins with the first sample in which all of them are, and not before the
    first request: zeros that precede a load do not lower its mean.
    """
    if not samples:
        return 0.0, 0.0, 0.0, 0.0
    first = {name: one.time for one in reversed(samples) for name in one.running if name in replicas}
    totals = [one.queued + sum(one.running.get(name, 0) for name in first) for one in samples]
    if not any(totals):
        return 0.0, 0.0, 0.0, samples[-1].time
    if not first:
        return _window(samples, totals, samples[0].time)
    changes = _changes(samples, first)
    if not changes:
        return 0.0, 0.0, 0.0, samples[-1].time
    aligned = max(samples[0].time, *first.values())
    begin = samples[changes[0]].time
    start = max(aligned, begin) if aligned <= samples[changes[-1]].time else begin
    return _window(samples, totals, start)


def _changes(samples: list[Sample], names: Collection[str]) -> list[int]:
    """Places of the samples in which something changed; before the first everything is 0."""
    before, found = [0] * (len(names) + 1), []
    for place, one in enumerate(samples):
        now = [one.queued, *(one.running.get(name, 0) for name in names)]
        if now != before:
            found.append(place)
        before = now
    return found


def _window(samples: list[Sample], totals: list[int], start: float) -> tuple[float, float, float, float]:
    area = 0.0
    for place in range(len(samples) - 1):
        begin, end = max(samples[place].time, start), samples[place + 1].time
        if end > begin:
            area += totals[place] * (end - begin)
    return start, area, float(totals[-1]), samples[-1].time
