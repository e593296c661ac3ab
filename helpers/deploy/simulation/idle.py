"""What scale to zero costs those who ask, and what it saves, simulated (notebook 09)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from helpers.bench.analysis.points import joined, time_text
from helpers.cards import Picture, Shown, Table, bytes_text, counted, seconds_text
from helpers.deploy.observed import READY
from helpers.deploy.scaling import Scaling
from helpers.deploy.simulation.arrivals import poisson
from helpers.deploy.simulation.cold_start import ColdStart
from helpers.deploy.simulation.running import run
from helpers.deploy.simulation.sources import GB, aim, published_service, recorded_rest, way
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.deploy.simulation.service import Service
    from helpers.deploy.simulation.simulated import Simulated

IDLE = 300.0
"""Seconds without a request after which the last replica ends, where no scaling is given."""

_REQUESTS = 1000  # of which a p99 leaves out ten


@dataclass(frozen=True)
class Case:
    """One engine under one load.

    Attributes:
        engine: its size and where it is read from; empty for the replica that is kept.
        size: of the engine, in bytes; 0 for the replica that is kept.
        per_hour: requests an hour.
        cold: seconds of its cold start.
        wait: TTFT p99, in seconds.
        met: share of requests that came while no replica was ready.
        gpu_hours: a day.
    """

    engine: str
    size: float
    per_hour: float
    cold: float
    wait: float
    met: float
    gpu_hours: float

    @property
    def keeps_aim(self) -> bool | None:
        """True if its cold start is as short as others aim for; None where nobody said."""
        found = aim(self.size)
        return None if found is None else self.cold < found.seconds


@dataclass(frozen=True, repr=False)
class ToZero(Shown):
    """Scale to zero against one replica that is kept.

    Attributes:
        cases: with scale to zero, engine by engine.
        kept: requests an hour to the same load with one replica kept warm.
        idle: seconds without a request after which the replica ends.
        service: how fast a replica serves.
        known: how each way's bandwidth is known.
    """

    cases: Sequence[Case]
    kept: Mapping[float, Case]
    idle: float
    service: "Service"
    known: Sequence[str]

    @property
    def sentence(self) -> str:
        """The finding in words."""
        worst = max(self.cases, key=lambda one: one.wait)
        warm = self.kept[worst.per_hour]
        said = (
            f"Simulated: the longest TTFT p99 is {time_text(worst.wait)}, of {worst.engine} with {worst.per_hour:g} "
            f"requests an hour, against {time_text(warm.wait)} with one replica kept warm; for that, its GPU is held "
            f"{worst.gpu_hours:.1f} hours a day instead of 24."
        )
        spared = [one for one in self.cases if one.met < 0.01]
        if spared:
            least = min(one.per_hour for one in spared)
            said += f" From {least:g} requests an hour on, fewer than 1% of requests meet a cold start"
            said += ", and it saves nothing." if min(one.gpu_hours for one in spared) > 23 else "."
        else:
            said += " At every load here at least 1% of requests meet a cold start, so p99 is about as long as that is."
        return said + self._trend() + self._aims()

    def _aims(self) -> str:
        """Which ways of loading are as quick as others aim for."""
        said = []
        for size in dict.fromkeys(one.size for one in self.cases):
            found, kinds = aim(size), {one.engine: bool(one.keeps_aim) for one in self.cases if one.size == size}
            if found is None:
                continue
            good = [name.split(", ", 1)[1] for name, kept in kinds.items() if kept]
            who = joined(good) if good else "none"
            said.append(
                f" published: {found.source} aims for less than {seconds_text(found.seconds)} for "
                f"{bytes_text(size)}; of the {counted(len(kinds), 'way')} here that is kept by: {who}."
            )
        return "".join(said)

    def _trend(self) -> str:
        """Whether more traffic makes p99 shorter, over all engines."""
        lines: dict[str, list[Case]] = {}
        for one in self.cases:
            lines.setdefault(one.engine, []).append(one)
        pairs = [pair for line in lines.values() for pair in pairwise(line)]
        fewer = [later.met < first.met for first, later in pairs]
        if fewer and all(fewer):
            return " The more requests there are, the fewer of them meet a cold start."
        return ""

    def table(self) -> Table:
        """One row an engine and load."""
        columns = [
            "engine",
            "cold start",
            "requests an hour",
            "met a cold start",
            "TTFT p99",
            "kept warm",
            "GPU-hours a day",
        ]
        rows = [
            [
                one.engine,
                seconds_text(one.cold),
                f"{one.per_hour:g}",
                f"{one.met:.1%}",
                time_text(one.wait),
                time_text(self.kept[one.per_hour].wait),
                f"{one.gpu_hours:.1f}",
            ]
            for one in self.cases
        ]
        caption = f"Simulated: scale to zero after {seconds_text(self.idle)} without a request"
        warm = "Kept warm: TTFT p99 with one replica always there, for 24 GPU-hours a day."
        note = f"{warm} {self.sentence} Bandwidths: {'; '.join(self.known)}. A replica gives {self.service.text}."
        return Table(columns, rows, caption, note)

    def picture(self) -> Picture:
        """Waits and GPU-hours over the load."""
        from helpers.plots.simulation import idle_picture

        return idle_picture(self)

    def __str__(self) -> str:
        return f"{self.table()}\n{self.picture()}"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_() + self.picture()._repr_html_()


def to_zero(
    service: "Service | None" = None,
    *,
    sizes: Sequence[float] = (10 * GB, 50 * GB),
    via: Sequence[str] = ("network", "safetensors", "h200"),
    per_hour: Sequence[float] = (2, 30),
    rest: ColdStart | None = None,
    scaling: Scaling | None = None,
    tokens: float = 128,
    seed: int = 0,
) -> ToZero:
    """Simulate engines that are let go of when nobody asks, and one replica that is kept instead.

    Args:
        service: how fast a replica serves; None for what the talk told of its GPU, published.
        sizes: of the engines, in bytes.
        via: where they are read from: keys of ``data/loading.toml``, or ``h200`` and ``h200-memory`` for what was
            recorded of a machine's disk and page cache. The engine is copied to the GPU while it is read.
        per_hour: requests an hour, at random times.
        rest: the cold start but for reading the engine: process, imports and the like, measured best; None for what was
            recorded on a machine with a GPU (:func:`helpers.deploy.simulation.sources.recorded_rest`).
        scaling: the settings; None for at most one replica that ends after :data:`IDLE` seconds.
        tokens: of an answer.
        seed: of the arrivals and the simulation; the same requests come to every engine.

    Raises:
        WorkshopError: there is nothing to simulate, or a way is unknown.
    """
    if not sizes or not via or not per_hour:
        raise WorkshopError("There is nothing to simulate. Give sizes, ways to load them, and requests an hour.")
    service = published_service() if service is None else service
    rest = recorded_rest() if rest is None else rest
    scaling = Scaling(max_replicas=1, downscale_delay=IDLE) if scaling is None else scaling.with_(min_replicas=0)
    found = [way(key) for key in via]
    engines = {
        f"{bytes_text(size)}, {one.name}": (size, rest.with_(engine=rest.engine + size / (one.rate * GB)))
        for size in sizes
        for one in found
    }
    cases, kept = [], {}
    hours = {load: _REQUESTS / load for load in per_hour}
    loads = {load: poisson(load / 3600, hours[load] * 3600, tokens, seed) for load in per_hour}
    for load in per_hour:
        done = run(loads[load], service, scaling.with_(min_replicas=1), rest, seed, until=hours[load] * 3600)
        kept[load] = _case("", 0.0, load, 0.0, done, hours[load])
    for name, (size, cold) in engines.items():
        for load in per_hour:
            done = run(loads[load], service, scaling, cold, seed, until=hours[load] * 3600)
            cases.append(_case(name, size, load, cold.seconds, done, hours[load]))
    known = [f"{one.name} {one.rate:g} GB/s ({one.rate_label}: {one.rate_source})" for one in found]
    if rest.seconds:
        known.append(f"the rest of a cold start {seconds_text(rest.seconds)} ({rest.source})")
    return ToZero(cases, kept, scaling.last_delay, service, known)


def _case(name: str, size: float, load: float, cold: float, done: "Simulated", hours: float) -> Case:
    """The figures of one simulated run."""
    ready = {replica: life.get(READY, 0.0) for replica, life in done.observed.replicas().items()}
    waits = sum(one.arrival < ready[one.replica] for one in done.requests)
    return Case(
        name,
        size,
        load,
        cold,
        done.ttft_at(99),
        waits / len(done.requests),
        done.replica_seconds / 3600 / hours * 24,
    )
