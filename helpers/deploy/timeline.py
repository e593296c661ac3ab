"""What a deployment did under a load, on one axis of time: requests, replicas and waits (notebook 09). Pure.

The rows of a benchmark say when each request was sent and answered, and what was noted of the deployment says how many
replicas there were; both are of one machine's clock. All times here are seconds since the run began. The number of
replicas is known as often as somebody looked (a few times a second), so a change may have come a little earlier.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from helpers.bench.analysis.points import joined, time_text
from helpers.bench.load import Load
from helpers.bench.rows import Row
from helpers.cards import Picture, Shown, Table, counted
from helpers.deploy.observed import ASKED, ENDED, PROCESS, READY, Observed
from helpers.deploy.phases import BURST, Phase, phases
from helpers.deploy.scaling import Scaling
from helpers.deploy.steps import Steps, both
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.bench.results.result import Result

AFFECTED = 3
"""Times the median wait of requests that met a running replica, from which a wait is told as one of the scaling's."""

_CLOSE = 0.5  # seconds before the run in which a replica that it asks for may have been noted
_FEW = 3  # requests that met a running replica with room, from which their median is taken
_ROWS = 30  # of a table over time
_LENGTHS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_WORDS = {0: "none", 1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}


@dataclass(frozen=True)
class Counts:
    """What became of the requests.

    Attributes:
        sent: requests that left.
        whole: that were answered whole.
        failed: outcome to how many; also of those that never left.
        lost: sent and not answered whole.
    """

    sent: int
    whole: int
    failed: Mapping[str, int]
    lost: int


@dataclass(frozen=True)
class Scaled:
    """A change of the number of running replicas: when it was seen, and from how many to how many."""

    at: float
    before: int
    after: int

    def __str__(self) -> str:
        return f"to {number(self.after)} at {self.at:.1f} s"


@dataclass(frozen=True, repr=False)
class Timeline(Shown):
    """A load on a deployment over time.

    Attributes:
        rows: of one run.
        began: when that was, in seconds since 1970.
        observed: what was noted of the deployment, from before the run until it had come to rest.
        load: that was sent; None where only its requests are known.
        scaling: of the deployment; None where it is not known.
        title: of what was measured; may be empty.
        client_bound: why the client did not keep up, in a few words; empty where it did.
    """

    rows: Sequence[Row]
    began: float
    observed: Observed
    load: Load | None = None
    scaling: Scaling | None = None
    title: str = ""
    client_bound: str = ""

    def __post_init__(self) -> None:
        if not any(row.sent is not None for row in self.rows):
            raise WorkshopError("No request was sent in this run, so there is nothing to show over time. Send a load.")
        if not self.observed.moments:
            raise WorkshopError(
                "Nothing was noted of the replicas. Give what the deployment noted from before the load until after it."
            )

    @classmethod
    def of(cls, result: "Result", observed: Observed, scaling: Scaling | None = None, run: int = 1) -> "Timeline":
        """From a benchmark's result.

        Args:
            result: of one load.
            observed: what was noted of the deployment meanwhile; what comes after the load is shown as well.
            scaling: of the deployment; None leaves out what it asked for.
            run: which of the result's runs.

        Raises:
            WorkshopError: no such run, it sent nothing, or nothing was noted of the replicas.
        """
        found = next((one for one in result.runs if one.number == run), None)
        if found is None:
            there = joined([str(one.number) for one in result.runs]) or "none"
            raise WorkshopError(f"There is no run {run} in this result. There is: {there}.")
        return cls(found.rows, found.began, observed, result.load, scaling, result.title, found.health.client_bound)

    # --- Series -------------------------------------------------------------------

    @cached_property
    def ends(self) -> float:
        """Until when there is something to show, in seconds since the run began."""
        closes = [row.ended for row in self.rows if row.ended is not None]
        return max([*closes, self.last_sent, self.observed.moments[-1].time - self.began])

    @cached_property
    def last_sent(self) -> float:
        """When the last request was sent."""
        return max(row.sent for row in self.rows if row.sent is not None)

    @cached_property
    def last_ended(self) -> float:
        """When the last answer was whole or given up."""
        return max([row.ended for row in self.rows if row.ended is not None], default=self.last_sent)

    @cached_property
    def in_flight(self) -> Steps:
        """Requests that were sent and not answered yet."""
        return Steps.spans(
            (row.sent, self.ends if row.ended is None else row.ended) for row in self.rows if row.sent is not None
        )

    @cached_property
    def running(self) -> Steps:
        """Replicas that take requests."""
        return self._replicas("running")

    @cached_property
    def starting(self) -> Steps:
        """Replicas that exist or are to exist, and take no requests yet."""
        return self._replicas("starting")

    @cached_property
    def stopping(self) -> Steps:
        """Replicas that finish what they have."""
        return self._replicas("stopping")

    def _replicas(self, which: str) -> Steps:
        moments = self.observed.moments
        return Steps([one.time - self.began for one in moments], [getattr(one, which) for one in moments])

    @cached_property
    def waits(self) -> list[tuple[float, float]]:
        """Each whole answer's arrival, and its time to first token; in the order of arrival."""
        return sorted((row.begun, row.ttft) for row in self.rows if row.ok and row.ttft is not None)

    @cached_property
    def warm_wait(self) -> float | None:
        """Median time to first token of requests that met a running replica with room; None if there was no such.

        With room: no more in flight than the autoscaler aims at. Where that is not known, or fewer than three met such
        a replica, of all that met a running one.
        """
        warm = [(at, wait) for at, wait in self.waits if self.running.at(at) >= 1]
        target = self.scaling.target_ongoing if self.scaling is not None else None
        if target is not None:
            roomy = [wait for at, wait in warm if self.in_flight.at(at) <= target * self.running.at(at)]
            if len(roomy) >= _FEW:
                return median(roomy)
        return median(wait for _, wait in warm) if warm else None

    @property
    def affected(self) -> list[tuple[float, float]]:
        """Arrivals and waits of requests that waited over :data:`AFFECTED` times as long as with a replica at hand."""
        usual = self.warm_wait
        return [] if usual is None else [(at, wait) for at, wait in self.waits if wait > AFFECTED * usual]

    # --- What happened --------------------------------------------------------------

    @cached_property
    def counts(self) -> Counts:
        """What became of the requests."""
        sent = sum(row.sent is not None for row in self.rows)
        whole = sum(row.ok for row in self.rows)
        failed = Counter(row.outcome for row in self.rows if not row.ok)
        lost = sum(row.sent is not None and not row.ok for row in self.rows)
        return Counts(sent, whole, dict(failed.most_common()), lost)

    @cached_property
    def scaled(self) -> tuple[Scaled, ...]:
        """Each change of the number of running replicas, from the run's begin on."""
        first = [(0.0, int(self.running.at(0.0)))]
        seen = first + [
            (at, int(value)) for at, value in zip(self.running.times, self.running.values, strict=True) if at > 0
        ]
        return tuple(Scaled(at, before, after) for (_, before), (at, after) in pairwise(seen) if before != after)

    @cached_property
    def _lives(self) -> list[tuple[float, float]]:
        """From when to when there was each replica, as it was noted: from its being asked for to its end."""
        lives = []
        for steps in self.observed.replicas().values():
            known = [steps[name] - self.began for name in (ASKED, PROCESS) if name in steps]
            if known:
                lives.append((known[0], steps[ENDED] - self.began if ENDED in steps else math.inf))
        return sorted(lives)

    @cached_property
    def _there(self) -> Steps:
        """Replicas that ran or were starting, as often as somebody looked."""
        return both(self.running, self.starting, lambda running, starting: running + starting)

    @cached_property
    def asks(self) -> tuple[float, ...]:
        """When each further replica was asked for: as it was noted, else when it was first seen."""
        if marks := [begin for begin, _ in self._lives if begin >= -_CLOSE]:
            return tuple(marks)
        # With more than one at a time each counts.
        return tuple(
            at
            for (_, before), (at, after) in pairwise(zip(self._there.times, self._there.values, strict=True))
            if at > -_CLOSE
            for _ in range(int(after - before))
        )

    @cached_property
    def existing(self) -> tuple[int, int]:
        """Replicas that ran, and that ran or were starting, just before the load began, or when first looked at."""
        at = max(-_CLOSE, self.running.times[0])
        return int(self.running.at(at)), int(self.running.at(at) + self.starting.at(at))

    def asked_for(self, which: int) -> float | None:
        """When the ``which``-th replica at once was asked for; None if it was there already, or never was."""
        if which <= self.existing[1]:
            return None
        if any(begin >= -_CLOSE for begin, _ in self._lives):
            # One that takes the place of another that has ended is not a further one.
            noted = sum(begin < -_CLOSE < end for begin, end in self._lives)
            others = max(0, self.existing[1] - noted)  # were there before anything was noted
            counts = ((at, others + sum(begin <= at < end for begin, end in self._lives)) for at in self.asks)
        else:
            counts = ((at, int(self._there.at(at))) for at in self.asks)
        return next((at for at, count in counts if count >= which), None)

    def reached(self, replicas: int, after: float = 0.0) -> float | None:
        """When so many replicas were first seen running, from a time on; None if they never were."""
        if self.running.at(after) >= replicas:
            return after
        steps = zip(self.running.times, self.running.values, strict=True)
        return next((at for at, value in steps if at > after and value >= replicas), None)

    def settled(self) -> bool:
        """True if it had come to rest when it was last looked at: nothing in flight, starting, stopping or too many."""
        last = self.observed.moments[-1]
        if last.starting or last.stopping or last.time - self.began < self.last_ended:
            return False
        if self.scaling is not None:
            return last.running == self.scaling.min_replicas
        return last.target is None or last.running == last.target

    @cached_property
    def phases(self) -> list[Phase]:
        """The parts of the load, and the time after it."""
        return phases(self.load, self.last_sent, self.ends)

    @property
    def burst(self) -> Phase | None:
        """The load's first burst; None if it has none."""
        return next((one for one in self.phases if one.name == BURST), None)

    # --- What it says ---------------------------------------------------------------

    @property
    def said(self) -> str:
        """What happened, in sentences that are computed from it."""
        parts = [self._first(), self._second(), *self._back(), self._affected(), self._lost()]
        if self.client_bound:
            parts.append(f"The client did not keep up ({self.client_bound}): its own delays are part of these waits.")
        return " ".join(filter(None, parts))

    def _first(self) -> str:
        """What the first request met."""
        first = min((row for row in self.rows if row.sent is not None), key=lambda row: row.begun)
        sent = first.sent or 0.0
        took = (
            f"got no first token ({first.outcome})"
            if first.ttft is None
            else f"got its first token after {time_text(first.ttft)}"
        )
        if self._ready_before(sent):
            return f"A replica was running when the first request came, which {took}."
        ready = self.reached(1, sent)
        if ready is None:
            return f"The first request met no replica and {took}; none was ever seen running."
        if first.ttft is None:
            return f"The first request met no replica and {took}; one took requests {ready - sent:.1f} s after it."
        start = min(ready - sent, first.ttft)
        return f"The first request met no replica and {took}, of which {time_text(start)} were the replica's start."

    def _ready_before(self, at: float) -> bool:
        if self.running.times[0] <= at:
            return self.running.at(at) >= 1
        clock = self.began + at
        lives = self.observed.replicas().values()
        return any(READY in one and one[READY] <= clock < one.get(ENDED, clock + 1) for one in lives)

    def _second(self) -> str:
        """When the second replica was asked for, and when it took requests."""
        if self.existing[0] >= 2:
            return f"There were {number(self.existing[0])} replicas from the begin."
        if self.existing[1] >= 2:
            ready = self.reached(2)
            took = "was never seen to take requests" if ready is None else f"took requests at {ready:.1f} s"
            return f"A second replica was starting already when the load began, and {took}."
        asked, ready, burst = self.asked_for(2), self.reached(2), self.burst
        if asked is None and ready is None:
            most = f"{self.in_flight.most(0.0, self.ends):.0f} requests in flight at most"
            limit = "" if self.scaling is None else f", {self.scaling.target_ongoing:g} aimed at for each replica"
            return f"No second replica was asked for ({most}{limit})."
        asked = ready if asked is None else asked
        assert asked is not None
        when = f"at {asked:.1f} s"
        if burst is not None:
            apart = asked - burst.begin
            when = f"{abs(apart):.1f} s {'after' if apart >= 0 else 'before'} the burst began"
        if ready is None:
            return f"A second replica was asked for {when}, and never seen to take requests."
        return f"A second replica was asked for {when}, and took requests {max(0.0, ready - asked):.1f} s later."

    def _back(self) -> list[str]:
        """When replicas were taken away again."""
        found, burst = [], self.burst
        for one in self.scaled:
            if one.after >= one.before:
                continue
            since = f"{one.at - self.last_ended:.1f} s after the last answer"
            if one.at < self.last_ended:
                ended = burst is not None and one.at >= burst.end
                busy = "under load" if self.in_flight.at(one.at) else "between requests, with none in flight"
                since = f"{one.at - burst.end:.1f} s after the burst ended" if burst and ended else busy
            found.append(f"to {number(one.after)} at {one.at:.1f} s ({since})")
        if not found:
            return ["No replica was taken away again while it was looked at."] if self.scaled else []
        return [f"It went back {joined(found)}."]

    def _affected(self) -> str:
        """How many requests felt it."""
        usual, found = self.warm_wait, self.affected
        if usual is None:
            return "No request met a running replica, so there is no usual wait to compare with."
        share = f"{len(found):,} of {counted(len(self.waits), 'answer')}"
        rule = f"over {AFFECTED} times as long as with a replica at hand (median {time_text(usual)})"
        if not found:
            return f"No request waited {rule}."
        return f"{share} waited {rule}, the longest {time_text(max(wait for _, wait in found))}."

    def _lost(self) -> str:
        counts = self.counts
        if not counts.failed:
            return f"All {counted(counts.sent, 'request')} that were sent were answered whole: none was lost."
        ways = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.failed.items())
        never = len(self.rows) - counts.sent
        left = f"; {never:,} never left" if never else ""
        return f"{counts.lost:,} of {counted(counts.sent, 'request')} that were sent were lost ({ways}){left}."

    # --- How it shows itself ----------------------------------------------------------

    def table(self) -> Table:
        """One row a phase of the load."""
        columns = (
            "phase", "seconds", "requests/s asked", "arrived", "in flight, most", "replicas running",
            "TTFT p50", "longest", "failed",
        )  # fmt: skip
        body = [self._row(one) for one in self.phases]
        of = f", {self.title}" if self.title else ""
        load = f", {self.load.kind}" if self.load is not None else ""
        whole = ("seconds", "requests/s asked", "replicas running")
        return Table(columns, body, f"Measured: the load phase by phase{of}{load}", self.said, whole)

    def _row(self, phase: Phase) -> list[str]:
        rows = [row for row in self.rows if phase.begin <= row.begun < phase.end]
        waits = [wait for at, wait in self.waits if phase.begin <= at < phase.end]
        last = 1e-6 if phase.end >= self.ends else 0.0  # what was seen in the very end counts too
        path = self.running.path(phase.begin, phase.end + last)
        return [
            phase.name,
            f"{phase.begin:.0f} to {phase.end:.0f}",
            self._asked(phase),
            f"{len(rows):,}",
            f"{self.in_flight.most(phase.begin, phase.end):.0f}",
            " → ".join(f"{value:.0f}" for value in path),
            time_text(median(waits) if waits else None),
            time_text(max(waits, default=None)),
            f"{sum(not row.ok for row in rows):,}",
        ]

    def _asked(self, phase: Phase) -> str:
        """The rates at a phase's begin and end."""
        if self.load is None or not self.load.open_loop:
            return "–"
        inside = min(1e-6, (phase.end - phase.begin) / 2)  # a step belongs to the phase that follows it
        begin, end = (self.load.rate_at(at) or 0.0 for at in (phase.begin + inside, phase.end - inside))
        return f"{begin:.3g}" if abs(begin - end) < 1e-3 else f"{begin:.3g} to {end:.3g}"

    def over_time(self) -> Table:
        """The four series in steps of time: what the picture draws, in numbers."""
        length = next((one for one in _LENGTHS if self.ends / one <= _ROWS), self.ends / _ROWS)
        begins = [length * place for place in range(max(1, -int(-self.ends // length)))]
        columns = ("from s", "asked/s", "arrived", "in flight", "starting", "running", "stopping", "TTFT p50")
        body = []
        for begin in begins:
            end = begin + length
            waits = [wait for at, wait in self.waits if begin <= at < end]
            rate = self.load.rate_at(begin) if self.load is not None else None
            body.append(
                [
                    f"{begin:g}",
                    "–" if rate is None else f"{rate:.3g}",
                    f"{sum(begin <= row.begun < end for row in self.rows):,}",
                    f"{self.in_flight.mean(begin, end):.1f}",
                    *(f"{one.most(begin, end):.0f}" for one in (self.starting, self.running, self.stopping)),
                    time_text(median(waits) if waits else None),
                ]
            )
        caption = f"Measured: in steps of {length:g} s; in flight on average, replicas at most"
        return Table(columns, body, caption)

    def settings(self, scaling: Scaling | None = None) -> Table:
        """Each setting of the scaling, and what it did in this run.

        Args:
            scaling: None for the timeline's own.

        Raises:
            WorkshopError: neither is known.
        """
        from helpers.deploy.settings import settings_table

        asked = scaling or self.scaling
        if asked is None:
            raise WorkshopError("The scaling of this deployment is not known. Give it: settings(scaling).")
        return settings_table(replace(self, scaling=asked), asked)

    def picture(self) -> Picture:
        """The load, requests in flight, replicas and waits, one below the other on one axis of time."""
        from helpers.plots import deploy

        return deploy.timeline_picture(self)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.picture()._repr_html_() + self.table()._repr_html_()


def number(count: int) -> str:
    """A small number in words."""
    return _WORDS.get(count, f"{count:,}")
