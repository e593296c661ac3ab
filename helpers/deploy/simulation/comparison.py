"""The simulation held against a measured run: the very same arrivals, and what differs (notebook 09)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, mode
from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.points import joined, time_text
from helpers.bench.results.figures import percentile
from helpers.cards import Picture, Shown, Table, counted
from helpers.deploy.observed import READY, Mark, Moment, Observed
from helpers.deploy.scaling import Scaling
from helpers.deploy.simulation.arrivals import of_rows
from helpers.deploy.simulation.cold_start import ColdStart
from helpers.deploy.simulation.running import run
from helpers.deploy.simulation.service import Service
from helpers.deploy.simulation.simulated import Simulated
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.bench.rows import Row

REPLICAS_OFF = 0
"""Replicas by which the most at once may differ: they are few and whole, so one more is another answer."""

# What is said of recorded runs below is of the two in data/measured/scaling whose sweep was like others there.
# The third's, with waits four times as long at 16 requests at once, does not give its run back, and a test says so.

SECONDS_OFF = 0.15
"""Share by which replica-seconds may differ: 3% in recorded runs; an end that is seen late adds to it."""

EVENT_OFF = 2.0
"""Seconds by which a change of the replicas may differ, up to 1.5 in recorded runs: the controller's samples, reports
and decisions are a second apart together, and the replicas are looked at a few times a second."""

MEDIAN_OFF = 0.35
"""Share by which the median TTFT may differ, 21% in a recorded run: a sweep's loads are not a changing load."""

SLOWEST_OFF = 0.25
"""Share by which TTFT p99 may differ, 9% in a recorded run: it is a cold start with the queue behind it."""

LEAST_OFF = 0.15
"""Seconds that a TTFT may differ whatever the share: of a short wait, the proxy's own way is a large part."""

SHARING = 0.5
"""What a replica on a processor loses to each other one that computes, as :class:`Service` has it.

Of 0.3, 0.5, 0.8 and 1, the first two give two recorded runs on 2 cores back, and the others neither."""

ENDING = 0.2
"""Seconds that a replica without requests takes to be gone: 0.1 to 0.2 s in the recorded runs."""

SEEDS = 20
"""Runs of the simulation: where the autoscaler's clocks stood and which replicas were picked is not known."""


@dataclass(frozen=True)
class Figure:
    """One figure, measured and simulated.

    Attributes:
        name: what it is.
        measured: its value.
        simulated: its value in each run of the simulation.
        allowed: by how much what was measured may lie outside of the range of these.
        text: how a value is written.
    """

    name: str
    measured: float
    simulated: Sequence[float]
    allowed: float
    text: Callable[[float], str]

    @property
    def middle(self) -> float:
        """Of the simulation: its median over the seeds."""
        return median(self.simulated)

    @property
    def within(self) -> bool:
        """True if what was measured is in the range of the seeds, or outside by no more than is allowed.

        The range and not the median: chance decides whether a delay that is nearly over begins anew, and then there are
        two answers and nothing between them.
        """
        slack = self.allowed + 1e-9
        return min(self.simulated) - slack <= self.measured <= max(self.simulated) + slack

    def row(self) -> list[str]:
        """As the table has it."""
        low, high = self.text(min(self.simulated)), self.text(max(self.simulated))
        both = self.text(self.middle) if low == high else f"{self.text(self.middle)} ({low} to {high})"
        off = self.middle - self.measured
        sign = "+" if off > 0 else "−" if off < 0 else "±"
        return [
            self.name,
            self.text(self.measured),
            both,
            f"{sign}{self.text(abs(off))}",
            self.text(self.allowed),
            self._said,
        ]

    @property
    def _said(self) -> str:
        return "yes" if self.within else "no"


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """A measured run and its simulation.

    Attributes:
        rows: of the measured run; times since it began.
        observed: what was noted of its replicas, on the same clock.
        end: seconds up to which both are compared.
        runs: of the simulation, one a seed.
    """

    rows: "Sequence[Row]"
    observed: Observed
    end: float
    runs: Sequence[Simulated]

    @property
    def typical(self) -> Simulated:
        """The run that is drawn: of those with the most frequent number of changes, that of the median TTFT p99."""
        lengths = [len(steps(one.observed, self.end, running)) for one in self.runs]
        usual = [one for one, length in zip(self.runs, lengths, strict=True) if length == mode(lengths)]
        return sorted(usual, key=lambda one: one.ttft_at(99))[len(usual) // 2]

    @property
    def figures(self) -> list[Figure]:
        """All that is compared."""
        waits = [row.ttft for row in self.rows if row.ok and row.ttft is not None]
        both = [(self.observed, waits), *((one.observed, [each.ttft for each in one.requests]) for one in self.runs)]

        def figure(name: str, value: Any, allowed: Callable[[float], float], text: Callable[[float], str]) -> Figure:
            first, *others = (float(value(*one)) for one in both)
            return Figure(name, first, others, allowed(first), text)

        def most(observed: Observed, _: Any) -> int:
            return max(moment.running for moment in observed.moments if moment.time <= self.end)

        def ttft(share: float, off: float) -> Figure:
            return figure(
                f"TTFT p{share:g}",
                lambda _, waits: percentile(waits, share),
                lambda value: max(LEAST_OFF, off * value),
                time_text,
            )

        return [
            figure("replicas at most", most, lambda _: REPLICAS_OFF, lambda value: f"{value:g}"),
            figure(
                "replica-seconds",
                lambda observed, _: there(observed, self.end),
                lambda value: SECONDS_OFF * value,
                lambda value: f"{value:,.0f}",
            ),
            *self._events(),
            ttft(50, MEDIAN_OFF),
            ttft(99, SLOWEST_OFF),
        ]

    def _changes(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        """When the replicas came to each number: measured, and in the runs of the simulation that came to it."""
        simulated: dict[str, list[float]] = {}
        for one in self.runs:
            for name, at in passed(one.observed, one.seconds).items():
                simulated.setdefault(name, []).append(at)
        return passed(self.observed, self.end), simulated

    def _events(self) -> list[Figure]:
        """Changes that were measured and that at least half of the runs of the simulation have too."""
        measured, simulated = self._changes()
        return [
            Figure(name, at, simulated[name], EVENT_OFF, lambda value: f"{value:.1f} s")
            for name, at in measured.items()
            if len(simulated.get(name, [])) >= len(self.runs) / 2
        ]

    @property
    def missing(self) -> list[str]:
        """Changes that were measured and that fewer than half of the simulation's runs have, or the reverse.

        What the simulation has after the measured run was no longer watched is not counted.
        """
        measured, simulated = self._changes()
        half, end = len(self.runs) / 2, self.end - EVENT_OFF
        found = [
            f"{name} ({at:.1f} s) is in {len(simulated.get(name, []))} of {counted(len(self.runs), 'simulated run')}"
            for name, at in measured.items()
            if len(simulated.get(name, [])) < half
        ]
        found += [
            f"{name} ({median(at):.1f} s) was simulated and not measured"
            for name, at in simulated.items()
            if name not in measured and len(at) >= half and median(at) < end
        ]
        return found

    @property
    def within(self) -> bool:
        """True if every figure is within its stated error, and the replicas came to the same numbers."""
        return not self.missing and all(one.within for one in self.figures)

    @property
    def sentence(self) -> str:
        """The finding in words."""
        figures = self.figures
        bad = [one.name for one in figures if not one.within]
        count = counted(len(self.runs), "seed")
        if bad:
            verb = "is" if len(bad) == 1 else "are"
            said = f"Over {count}, {joined(bad)} {verb} farther from what was measured than the stated error allows."
        else:
            said = f"Over {count}, all {len(figures)} figures are within the stated error of what was measured."
        if not self.within:
            said += " Do not plan with this simulation before the cause is found."
        lost = sum(not row.ok for row in self.rows)
        if lost:
            said += f" {counted(lost, 'measured request')} failed; the simulation answers all."
        return " ".join([said, *(f"{text[0].upper()}{text[1:]}." for text in self.missing)])

    def table(self) -> Table:
        """One row a figure."""
        columns = ["figure", "measured", "simulated, median (range)", "difference", "allowed beyond", "within"]
        caption = f"Measured against simulated: the same {counted(len(self.rows), 'arrival')}"
        note = f"{self.sentence} {self.typical.assumptions}"
        return Table(columns, [one.row() for one in self.figures], caption, note)

    def picture(self) -> Picture:
        """Replicas and waits over time, measured and simulated."""
        from helpers.plots.simulation import comparison_picture

        return comparison_picture(self)

    def __str__(self) -> str:
        return f"{self.table()}\n{self.picture()}"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_() + self.picture()._repr_html_()


def against(
    timeline: Any,
    speed: Any,
    scaling: Scaling | None = None,
    cold_start: ColdStart | None = None,
    *,
    before: Observed | None = None,
    ending: float = ENDING,
    seeds: int = SEEDS,
) -> Comparison:
    """Simulate the very requests of a measured run, and compare.

    Args:
        timeline: of the run (:class:`helpers.deploy.timeline.Timeline`), or anything with its ``rows``, the time at
            which it ``began`` (seconds since 1970) and what was ``observed`` of the replicas.
        speed: how fast a replica serves: a :class:`Service`, or a sweep of the same deployment on this machine; of a
            machine without a GPU its replicas share the processor (:data:`SHARING`).
        scaling: that it ran with; None for the timeline's.
        cold_start: None for the starts that were measured in this very run: then how long each part of a start takes
            is taken over, and what follows from it for replicas and waits is what is compared.
        before: what was noted of the deployment; its starts before the run are taken instead of those of the run.
        ending: seconds that a replica without requests takes to be gone.
        seeds: runs of the simulation.

    Raises:
        WorkshopError: nothing was observed, no request was answered, or there is no start or setting to take over.
    """
    scaling = scaling if scaling is not None else getattr(timeline, "scaling", None)
    if scaling is None:
        raise WorkshopError("Nobody knows the settings that this run was made with. Give scaling.")
    service = speed if isinstance(speed, Service) else _service(speed)
    if not timeline.observed.moments:
        raise WorkshopError("Nothing was noted of the replicas. Give what the deployment noted during the run.")
    rows = [row for row in timeline.rows if row.sent is not None]
    if not any(row.ok and row.ttft is not None for row in rows):
        raise WorkshopError("No request of the run was answered whole, so there is no wait to compare.")
    observed = shifted(timeline.observed, timeline.began)
    end = max(observed.moments[-1].time, *(row.ended or 0.0 for row in rows))
    first = [moment for moment in observed.moments if moment.time <= 0]
    already = first[-1].running if first else scaling.min_replicas
    load = of_rows(rows)
    cold_start = cold_start if cold_start is not None else _cold_start(timeline, before, service)
    made = [
        run(load, service, scaling, cold_start, seed, ending=ending, until=end, already=already)
        for seed in range(seeds)
    ]
    return Comparison(rows, observed, end, made)


def _service(sweep: Any) -> Service:
    """From a sweep on this machine."""
    from helpers import hardware

    return Service.from_sweep(sweep, sharing=0.0 if hardware.look().gpus else SHARING)


def _cold_start(timeline: Any, before: Observed | None, service: Service) -> ColdStart:
    """From the starts of the run, or from those before it."""
    began = timeline.began
    noted = timeline.observed if before is None else before
    of_run = [life.get(READY, began) >= began for life in noted.replicas().values()]
    wanted = before is None
    names = {name for name, inside in zip(noted.replicas(), of_run, strict=True) if inside == wanted}
    found = ColdStart.measured(Observed(noted.moments, tuple(mark for mark in noted.marks if mark.replica in names)))
    if wanted:
        return found.with_(source=f"{found.source} in this run")
    # Where none started beside another, what sharing the machine costs a replica that computes is a start's cost too.
    beside = found.beside if found.beside > 1 else 1 + service.sharing
    return found.with_(source=f"{found.source} before this run", beside=beside)


def shifted(observed: Observed, began: float) -> Observed:
    """The same with times since ``began``."""
    moments = [
        Moment(one.time - began, one.starting, one.running, one.stopping, one.target) for one in observed.moments
    ]
    return Observed(tuple(moments), tuple(Mark(one.replica, one.step, one.time - began) for one in observed.marks))


def steps(observed: Observed, end: float, value: Callable[[Moment], int]) -> list[tuple[float, int]]:
    """When a count changed and to what, from 0 on; the last entry repeats the count at the end."""
    before = [value(moment) for moment in observed.moments if moment.time <= 0]
    found = [(0.0, before[-1] if before else 0)]
    for moment in observed.moments:
        if 0 < moment.time <= end and value(moment) != found[-1][1]:
            found.append((moment.time, value(moment)))
    return [*found, (end, found[-1][1])]


def running(moment: Moment) -> int:
    """Replicas that take requests."""
    return moment.running


def there(observed: Observed, end: float) -> float:
    """Replica-seconds from 0 to the end: from each look to the next, all that start, run and stop."""
    found = steps(observed, end, lambda one: one.starting + one.running + one.stopping)
    return sum(count * (later - at) for (at, count), (later, _) in pairwise(found))


def passed(observed: Observed, end: float) -> dict[str, float]:
    """When the replicas first came to each number, and last came down to it."""
    found: dict[str, float] = {}
    line = steps(observed, end, running)[:-1]
    for (_, before), (at, now) in pairwise(line):
        if now > before:
            for count in range(before + 1, now + 1):
                found.setdefault(f"up to {count}", at)
        else:
            for count in range(now, before):
                found.pop(f"down to {count}", None)
                found[f"down to {count}"] = at
    return dict(sorted(found.items(), key=lambda one: one[1]))
