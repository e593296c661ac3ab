"""The simulation itself: arrivals, replicas and the autoscaler, event by event (notebook 09). Pure."""

import math
import random
from bisect import bisect_right
from collections.abc import Sequence

from helpers.deploy import observed as steps
from helpers.deploy.observed import Mark, Moment, Observed
from helpers.deploy.scaling import Scaling
from helpers.deploy.simulation.arrivals import Arrival
from helpers.deploy.simulation.cold_start import ColdStart
from helpers.deploy.simulation.events import Events
from helpers.deploy.simulation.policy import EXACT, LOOP, NOTHING, Counts, Sample, Wish, decide, direction, wanted
from helpers.deploy.simulation.replica import ENDED, RUNNING, STARTING, STOPPING, Going, Replica, Speeds
from helpers.deploy.simulation.routing import RETRY, Router
from helpers.deploy.simulation.service import Service
from helpers.deploy.simulation.simulated import Request, Simulated
from helpers.errors import WorkshopError

ARRIVAL, PROGRESS, READY, GONE = "arrival", "progress", "ready", "gone"
RECORD, PUSH, DECIDE = "record", "push", "decide"


def run(
    arrivals: Sequence[Arrival],
    service: Service,
    scaling: Scaling,
    cold_start: ColdStart,
    seed: int = 0,
    *,
    ending: float = 0.0,
    until: float | None = None,
    already: int | None = None,
    polls: bool = True,
) -> Simulated:
    """Simulate one run: every request that comes is answered whole, however long it waits.

    Args:
        arrivals: in the order of time, at least one.
        service: how fast a replica serves.
        scaling: the autoscaler's settings.
        cold_start: how long a replica takes to become ready.
        seed: of the routing, of chance in cold starts, and of where in their periods the autoscaler's clocks are.
        ending: seconds that a replica without requests takes to let go of its GPU.
        until: seconds that the run lasts at least, for what replicas cost; None for until the last answer has ended
            and the replicas have come down again.
        already: replicas that are there when the run begins; None for the scaling's ``min_replicas``.
        polls: False for a proxy that sees a free slot at once, which Ray's does not.

    Raises:
        WorkshopError: there is no request, or they are not in order.
    """
    times = [one.time for one in arrivals]
    if not times:
        raise WorkshopError("There is no request to simulate. Give at least one arrival.")
    if times != sorted(times) or times[0] < 0:
        raise WorkshopError("The arrivals are not in the order of time from 0 on. Sort them by their time.")
    already = scaling.min_replicas if already is None else already
    return _Run(arrivals, service, scaling, cold_start, seed, ending, polls).to_the_end(until or 0.0, already)


class _Run:
    """What changes while a simulation goes on."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        service: Service,
        scaling: Scaling,
        cold_start: ColdStart,
        seed: int,
        ending: float,
        polls: bool,
    ) -> None:
        self._service, self._scaling, self._cold, self._seed, self._ending = (
            service,
            scaling,
            cold_start,
            seed,
            ending,
        )
        self._requests = [Going(number, one.time, one.tokens) for number, one in enumerate(arrivals)]
        self._events, self._speeds = Events(), Speeds(service)
        most = scaling.max_ongoing if scaling.max_ongoing is not None else service.batch
        self._router = Router(self._events, most, seed, polls)
        self._counts, self._wish, self._target = Counts(scaling), NOTHING, scaling.min_replicas
        self._replicas: list[Replica] = []  # all that have not ended
        self._running: list[Replica] = []
        self._names: frozenset[str] = frozenset()
        self._served: set[str] = set()  # running ones that have had a request
        self._spoken: set[str] = set()  # those whose first token has left them
        self._made = self._came = self._ended = 0
        self._moments: list[Moment] = []
        self._marks: list[Mark] = []
        self._resting, self._napping, self._awake = True, False, 0  # the clocks
        self._planned = 0  # changes when another next decision is foreseen
        chance = random.Random(f"{seed} clocks")
        self._periods = {RECORD: self._counts.every, PUSH: scaling.interval, DECIDE: LOOP}
        self._phases = {kind: chance.random() * period for kind, period in self._periods.items()}
        self._fixed = False

    def to_the_end(self, until: float, already: int) -> Simulated:
        """Go through all events."""
        self._target = already
        # As many at least as at most: the autoscaler has nothing to decide, and its clocks never go.
        self._fixed = self._scaling.min_replicas == self._scaling.max_replicas == already
        for _ in range(already):
            self._ready(self._new(0.0, 0.0), 0.0)  # they were there before the run began
        self._note(0.0)
        self._events.put(self._requests[0].arrival, ARRIVAL)
        while self._events:
            now, kind, what = self._events.next()
            if kind == PROGRESS:
                self._progress(now, *what)
            elif kind == ARRIVAL:
                self._arrive(now)
            elif kind == RETRY:
                self._took(self._router.attempt(now, what, self._running), now)
            elif kind == READY:
                self._become_ready(now, what)
            elif kind == GONE:
                self._gone(now, what)
            elif kind == DECIDE:
                self._decision(now, what)
            else:
                self._tick(now, kind, what)
        return self._told(until, already)

    # --- Requests -----------------------------------------------------------

    def _arrive(self, now: float) -> None:
        self._router.waiting.append(self._requests[self._came])
        self._came += 1
        if self._came < len(self._requests):
            self._events.put(self._requests[self._came].arrival, ARRIVAL)
        self._wake(now)
        if not self._running:
            self._push(now)  # with nothing to send it to, the proxy reports at once
        self._took(self._router.place(now, self._running), now)

    def _took(self, taken: Sequence[Replica], now: float) -> None:
        for one in dict.fromkeys(taken):
            self._served.add(one.name)
            self._changed(one, now)

    def _progress(self, now: float, one: Replica, version: int) -> None:
        if version != one.version:
            return  # its speed or its requests have changed since this was foreseen
        first, ended = one.progress(now)
        if first and one.name not in self._spoken:
            self._spoken.add(one.name)
            self._mark(one, steps.FIRST_TOKEN, now)
        self._ended += len(ended)
        self._changed(one, now)
        if one.state == STOPPING and not one.ongoing:
            self._events.put(now + self._ending, GONE, one)
        if ended:
            self._took(self._router.freed(now, self._running), now)

    def _changed(self, one: Replica, now: float) -> None:
        """Foresee what happens next in a replica, and in the others where they share a machine with it."""
        self._foresee(one)
        if self._service.sharing:
            self._share(now)

    def _foresee(self, one: Replica) -> None:
        one.version += 1
        if (due := one.due()) < math.inf:
            self._events.put(due, PROGRESS, (one, one.version))

    def _share(self, now: float) -> None:
        """How slow each replica goes while others compute; one that starts computes as well."""
        busy = sum(one.state == STARTING or one.at_once > 0 for one in self._replicas)
        slow = 1 + self._service.sharing * max(0, busy - 1)
        for one in self._replicas:
            if one.slow != slow:
                one.go_at(slow, now)
                self._foresee(one)

    # --- Replicas -----------------------------------------------------------

    def _new(self, now: float, extra: float) -> Replica:
        self._made += 1
        name, service = f"replica {self._made}", self._service
        one = Replica(self._made, name, self._speeds, service.batch, service.prompt, extra)
        self._replicas.append(one)
        self._mark(one, steps.ASKED, now)
        return one

    def _start(self, now: float) -> None:
        beside = any(one.at_once or one.state == STARTING for one in self._replicas)
        one = self._new(now, self._cold.first_token)
        at = now
        parts = self._cold.times(self._seed, one.number, beside)
        for step, part in zip((steps.PROCESS, steps.IMPORTED, steps.LOADED, steps.READY), parts, strict=True):
            at += part
            if step != steps.READY:
                self._mark(one, step, at)
        one.ready_at = at
        self._events.put(at, READY, one)

    def _become_ready(self, now: float, one: Replica) -> None:
        if one.state != STARTING:
            return  # it was no longer wanted
        self._end_nap(now)
        self._ready(one, now)
        self._foresee_decision(self._next(now, DECIDE))
        self._took(self._router.place(now, self._running), now)
        self._note(now)

    def _ready(self, one: Replica, now: float) -> None:
        one.state = RUNNING
        self._mark(one, steps.READY, now)
        self._running.append(one)
        self._names = frozenset(each.name for each in self._running)
        if self._service.sharing:
            self._share(now)

    def _stop(self, now: float, one: Replica) -> None:
        """It takes no more requests, and ends when it has none."""
        if one.state == STARTING:
            self._marks = [mark for mark in self._marks if mark.replica != one.name or mark.time <= now]
        else:
            self._running.remove(one)
            self._names = frozenset(each.name for each in self._running)
        one.state = STOPPING
        if not one.ongoing:
            self._events.put(now + self._ending, GONE, one)

    def _gone(self, now: float, one: Replica) -> None:
        if one.state == ENDED:
            return
        one.state = ENDED
        self._replicas.remove(one)
        self._mark(one, steps.ENDED, now)
        if self._service.sharing:
            self._share(now)
        self._note(now)

    def _mark(self, one: Replica, step: str, time: float) -> None:
        self._marks.append(Mark(one.name, step, time))

    def _note(self, now: float) -> None:
        states = [one.state for one in self._replicas]
        counts = (states.count(STARTING), states.count(RUNNING), states.count(STOPPING))
        self._moments.append(Moment(now, *counts, self._target))

    # --- The autoscaler -----------------------------------------------------

    def _tick(self, now: float, kind: str, awake: int) -> None:
        if awake != self._awake:
            return  # the clocks have been stopped since
        if kind == RECORD:
            self._counts.record(self._sample(now))
        else:
            self._push(now)
        self._events.put(now + self._periods[kind], kind, awake)

    def _push(self, now: float) -> None:
        """Tell the controller what there is; its next decision may be another one than was foreseen."""
        self._counts.push(self._sample(now))
        self._foresee_decision(self._next(now, DECIDE))

    def _foresee_decision(self, at: float) -> None:
        """Have the next decision at a time; those that would come before it change nothing."""
        if self._napping:
            return
        self._planned += 1
        self._events.put(at, DECIDE, self._planned)

    def _decision(self, now: float, planned: int) -> None:
        if planned != self._planned:
            return  # something has changed since it was foreseen
        if self._decide(now) or self._only_one_is_done():
            self._rest(now)
        elif not self._nap(now):
            self._foresee_decision(self._next_decision(now))

    def _only_one_is_done(self) -> bool:
        """True if all there may be is one replica, and it has nothing to do: what is decided until a request comes is
        known, since no mean but 0 asks for another number. The wish for none begins when the samples are forgotten.
        """
        if not self._scaling.max_replicas == len(self._replicas) == len(self._running) == self._target == 1:
            return False
        busy = self._counts.last_busy
        if self._ended < self._came or busy is None or self._scaling.min_replicas:
            return False
        forgotten = self._next(busy + self._scaling.look_back, PUSH)
        self._wish = Wish(-1, self._next(forgotten, DECIDE))
        self._counts.forget()
        return True

    def _next_decision(self, now: float) -> float:
        """The next one that can change something; another is foreseen whenever the controller learns something.

        Between two reports the mean goes one way only, from what it is towards the last sample. So where it asks for
        the same now and just before the next report, it does so all the time between.
        """
        soon = self._next(now + LOOP / 2, DECIDE)
        later = max(soon, self._next(self._next(now, PUSH), DECIDE))  # the first one after the next report
        running = len(self._running)
        if not running:  # one request is reason enough, and those of a replica that has just gone no longer count
            return soon if self._target == 0 and self._counts.average(soon, self._names) > 0 else later
        ways = {
            direction(wanted(self._scaling, self._counts.average(at, self._names), running), self._target)
            for at in (soon, later)
        }
        if ways != {self._wish.direction}:
            return soon
        if self._wish.since is None:
            return later
        return max(soon, min(later, self._next(self._wish.since + self._delay() - 2 * EXACT, DECIDE)))

    def _delay(self) -> float:
        """Seconds after which what is wished for is done."""
        if self._wish.direction > 0:
            return self._scaling.upscale_delay
        return self._scaling.last_delay if self._target == 1 else self._scaling.downscale_delay

    def _nap(self, now: float) -> bool:
        """While none runs, more are not asked for: stop the clocks until the first is ready."""
        if self._running or self._target == 0:
            return False
        ready = min((one.ready_at for one in self._replicas if one.state == STARTING), default=now)
        if ready - self._scaling.look_back - 2 * self._scaling.interval <= now + LOOP:
            return False
        self._awake += 1
        self._planned += 1
        self._napping = True
        return True

    def _end_nap(self, now: float) -> None:
        """Go on with the samples that would have been taken: none was served, so what waits says what they are."""
        if not self._napping:
            return
        self._napping = False
        arrivals = [one.arrival for one in self._router.waiting]
        every, first = self._periods[RECORD], now - self._scaling.look_back - self._scaling.interval
        times = []
        at = self._next(first, RECORD)
        while at < now:
            times.append(at)
            at += every
        samples = [Sample(time, bisect_right(arrivals, time), {}) for time in times]
        pushed = max([self._next(now, PUSH) - self._periods[PUSH], *arrivals])
        self._counts.restore(samples, pushed)
        for kind in (RECORD, PUSH):
            self._events.put(self._next(now, kind), kind, self._awake)

    def _rest(self, now: float) -> None:
        """Stop the clocks until the next request; only what has been wished for is still decided when it is due."""
        self._resting = True
        self._awake += 1
        if self._wish.since is not None:
            due = max(now + LOOP / 2, self._wish.since + self._delay() - 2 * EXACT)
            self._foresee_decision(self._next(due, DECIDE))

    def _wake(self, now: float) -> None:
        """Let the clocks go on where they would be had they never been stopped."""
        if not self._resting or self._fixed:
            return
        self._resting = False
        self._awake += 1
        due = {kind: self._next(now, kind) for kind in self._periods}
        self._counts.rest(due[RECORD], self._served & self._names)
        for kind in (RECORD, PUSH):
            self._events.put(due[kind], kind, self._awake)
        self._foresee_decision(due[DECIDE])

    def _next(self, now: float, kind: str) -> float:
        period, phase = self._periods[kind], self._phases[kind]
        return phase + math.ceil((now - phase) / period) * period

    def _sample(self, now: float) -> Sample:
        running = {one.name: one.ongoing for one in self._running if one.name in self._served}
        return Sample(now, len(self._router.waiting), running)

    def _decide(self, now: float) -> bool:
        """One decision; True if nothing is under way, so that all decisions before the next request are foreseen."""
        ongoing = self._counts.average(now, self._names)
        target, self._wish = decide(self._scaling, ongoing, len(self._running), self._target, self._wish, now)
        if target != self._target:
            self._scale(now, target)
        settled = len(self._replicas) == len(self._running) == self._target
        return settled and self._ended == self._came and self._counts.quiet

    def _scale(self, now: float, target: int) -> None:
        self._target = target
        there = [one for one in self._replicas if one.state in (STARTING, RUNNING)]
        for _ in range(target - len(there)):
            self._start(now)
        # Those that have not become ready go first, and of the others the newest: as Ray chooses.
        for one in sorted(there, key=lambda one: (one.state == RUNNING, -one.number))[: max(0, len(there) - target)]:
            self._stop(now, one)
        if self._service.sharing:
            self._share(now)
        self._note(now)

    # --- The end ------------------------------------------------------------

    def _told(self, until: float, already: int) -> Simulated:
        last = max(one.ended or 0.0 for one in self._requests)
        end = max(until, last, self._moments[-1].time)  # the clocks may have gone on for a moment
        self._note(end)
        return Simulated(
            tuple(map(Request.of, self._requests)),
            Observed(tuple(self._moments), tuple(sorted(self._marks, key=lambda mark: mark.time))),
            self._service,
            self._scaling,
            self._cold,
            self._seed,
            end,
            already,
        )
