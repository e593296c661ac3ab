"""How many replicas and what target concurrency keep a promise at the least cost, simulated (notebook 09)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.bench.analysis.points import joined, rate_text, time_text
from helpers.bench.results.figures import fewest, percentile
from helpers.cards import Picture, Shown, Table, counted
from helpers.deploy.scaling import Scaling
from helpers.deploy.simulation.arrivals import MORNING, changing
from helpers.deploy.simulation.running import run
from helpers.deploy.simulation.sources import GB, published_service, recorded_start
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.deploy.simulation.arrivals import Arrival
    from helpers.deploy.simulation.cold_start import ColdStart
    from helpers.deploy.simulation.service import Service
    from helpers.deploy.simulation.simulated import Simulated

ALWAYS, SCALED = "always there", "autoscaled"


@dataclass(frozen=True)
class Goal:
    """What users are promised.

    Attributes:
        ttft: seconds to the first token, at most; None for any.
        per_user: tokens a second after it, at least; None for any.
        percentile: the share of requests, in percent, for which it must hold.

    Raises:
        WorkshopError: nothing is promised, or not for a share of requests.
    """

    ttft: float | None = None
    per_user: float | None = None
    percentile: int = 99

    def __post_init__(self) -> None:
        if not any(value and value > 0 for value in (self.ttft, self.per_user)):
            raise WorkshopError(
                "The goal promises nothing. Give ttft in seconds, per_user in tokens a second, or both."
            )
        if not 50 <= self.percentile < 100:
            raise WorkshopError(f"The goal's percentile is {self.percentile!r}. Give a whole number from 50 to 99.")

    @property
    def text(self) -> str:
        """The goal in words."""
        parts = [f"a first token within {time_text(self.ttft)}"] if self.ttft else []
        parts += [f"at least {self.per_user:g} tokens/s"] if self.per_user else []
        return f"{joined(parts)} for {self.percentile}% of the requests"


PROMISE = Goal(ttft=2.0, per_user=80.0)
"""For a text that is read while it is written: it begins at once and comes many times faster than anyone reads."""


@dataclass(frozen=True)
class Option:
    """One set-up and what it gave.

    Attributes:
        kind: replicas that are always there, or autoscaled.
        scaling: its settings.
        done: the simulated run.
        goal: what was promised.
        gpu_hours: that its replicas were there, a GPU each.
    """

    kind: str
    scaling: Scaling
    done: "Simulated"
    goal: Goal
    gpu_hours: float

    @property
    def label(self) -> str:
        """In a few characters."""
        return f"{self.scaling.max_replicas}" if self.kind == ALWAYS else f"target {self.scaling.target_ongoing:g}"

    @property
    def wait(self) -> float:
        """TTFT at the goal's percentile, in seconds."""
        return self.done.ttft_at(self.goal.percentile)

    @property
    def rate(self) -> float | None:
        """Tokens a second that the goal's share of users got at least; None where answers have one token."""
        rates = [one.rate for one in self.done.requests if one.rate is not None]
        return percentile(rates, 100 - self.goal.percentile) if rates else None

    @property
    def met(self) -> bool:
        """True if the goal was kept."""
        quick = self.goal.ttft is None or self.wait <= self.goal.ttft
        return quick and (self.goal.per_user is None or (self.rate or 0.0) >= self.goal.per_user)


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """Set-ups compared.

    Attributes:
        options: all that were simulated.
        goal: what was promised.
        seconds: over which the load came.
    """

    options: Sequence[Option]
    goal: Goal
    seconds: float

    def cheapest(self, kind: str) -> Option | None:
        """Of one kind, the one that keeps the goal with the fewest GPU-hours; None if none does."""
        return min((one for one in self.options if one.kind == kind and one.met), key=_cost, default=None)

    @property
    def best(self) -> Option | None:
        """Of all."""
        return min((one for one in self.options if one.met), key=_cost, default=None)

    @property
    def sentence(self) -> str:
        """The answer in words."""
        fixed, scaled = self.cheapest(ALWAYS), self.cheapest(SCALED)
        most = max(one.scaling.max_replicas for one in self.options)
        if fixed is None and scaled is None:
            return f"Simulated: no set-up with up to {counted(most, 'replica')} keeps {self.goal.text}."
        said = []
        if fixed is not None:
            there = counted(fixed.scaling.max_replicas, "replica")
            said.append(
                f"{there} always there keep{'s' * (fixed.scaling.max_replicas == 1)} {self.goal.text}, "
                f"for {fixed.gpu_hours:.2f} GPU-hours"
            )
        if scaled is not None:
            up_to = f"at most {scaled.done.most_replicas} at once"
            said.append(
                f"autoscaled with {scaled.scaling.target_ongoing:g} ongoing requests aimed at "
                f"({up_to}) it takes {scaled.gpu_hours:.2f} GPU-hours"
            )
        else:
            said.append("no autoscaled set-up keeps it, since a request of a rising load waits for a cold start")
        if fixed is None:
            said.insert(0, f"no fixed number of up to {most} keeps {self.goal.text}")
        told = "; ".join(said)
        if fixed is not None and scaled is not None:
            saved = 1 - scaled.gpu_hours / fixed.gpu_hours
            told += f": {abs(saved):.0%} {'less' if saved > 0 else 'more'}" if abs(saved) >= 0.005 else ": the same"
        return f"Simulated: {told}."

    def table(self) -> Table:
        """One row a set-up."""
        share = self.goal.percentile
        columns = [
            "set-up",
            "TTFT p50",
            f"TTFT p{share}",
            f"tokens/s, {share}% get at least",
            "replicas at most",
            "cold starts",
            "GPU-hours",
            "keeps the goal",
        ]
        rows = [
            [
                f"{one.label} {one.kind}" if one.kind == ALWAYS else f"{one.kind}, {one.label}",
                time_text(one.done.ttft.p50),
                time_text(one.wait),
                rate_text(one.rate),
                f"{one.done.most_replicas}",
                f"{one.done.cold}",
                f"{one.gpu_hours:.2f}",
                "yes" if one.met else "no",
            ]
            for one in self.options
        ]
        count = counted(len(self.options[0].done.requests), "request")
        caption = f"Simulated: {count} over {self.seconds / 3600:.2g} h; goal: {self.goal.text}"
        few = (
            ""
            if len(self.options[0].done.requests) >= fewest(share)
            else (f" {count} are too few for a p{share}: it is about the slowest one.")
        )
        service, cold = self.options[0].done.service, self.options[0].done.cold_start
        return Table(columns, rows, caption, f"{self.sentence}{few} A replica gives {service.text}; {cold.text}.")

    def picture(self) -> Picture:
        """Cost against wait."""
        from helpers.plots.simulation import plan_picture

        return plan_picture(self)

    def __str__(self) -> str:
        return f"{self.table()}\n{self.picture()}"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_() + self.picture()._repr_html_()


def _cost(one: Option) -> float:
    return one.gpu_hours


def plan(
    arrivals: "Sequence[Arrival] | None" = None,
    service: "Service | None" = None,
    cold_start: "ColdStart | None" = None,
    goal: Goal = PROMISE,
    *,
    replicas: Sequence[int] = (1, 2, 3, 4),
    targets: Sequence[float] | None = None,
    scaling: Scaling | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> Plan:
    """Simulate set-ups under one load, and say which keeps a goal with the fewest GPU-hours.

    Args:
        arrivals: the load; None for 20 minutes that rise fourteenfold and fall again (:data:`arrivals.MORNING`), with
            answers of 1,000 tokens as in the talk's benchmark.
        service: how fast a replica serves; None for what the talk told of its GPU, published.
        cold_start: how long one takes to become ready; None for an engine of 1.2 GB on a recorded machine.
        goal: what users are promised.
        replicas: numbers that are always there; the largest is also the most that the autoscaler may have.
        targets: ongoing requests for each replica that the autoscaler aims at; None for quarters of the batch limit.
        scaling: the autoscaler's other settings; None for a least of one replica and the defaults.
        seconds: that the load lasts, for which replicas are paid; None for until the last request comes.
        seed: of the simulation.

    Raises:
        WorkshopError: there is nothing to compare.
    """
    arrivals = changing(MORNING, 1000) if arrivals is None else arrivals
    service = published_service() if service is None else service
    cold_start = recorded_start(1.2 * GB) if cold_start is None else cold_start
    if targets is None:
        targets = sorted({max(1, (service.batch or 16) * quarter // 4) for quarter in (1, 2, 3, 4)})
    if not replicas or not targets or min(replicas) < 1:
        raise WorkshopError("There is no set-up to compare. Give numbers of replicas from 1 on, and targets.")
    most = max(replicas)
    scaling = Scaling(min_replicas=1, max_replicas=max(1, most)) if scaling is None else scaling
    seconds = seconds if seconds is not None else max((one.time for one in arrivals), default=0.0)
    fixed = [(ALWAYS, scaling.with_(min_replicas=count, max_replicas=count)) for count in replicas]
    scaled = [(SCALED, scaling.with_(max_replicas=most, target_ongoing=float(target))) for target in targets]
    options = []
    for kind, settings in (*fixed, *scaled):
        done = run(arrivals, service, settings, cold_start, seed, until=seconds)
        options.append(Option(kind, settings, done, goal, done.replica_seconds / 3600))
    return Plan(options, goal, seconds)
