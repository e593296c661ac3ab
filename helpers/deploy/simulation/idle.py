"""What scale to zero costs those who ask, and what it saves, simulated (notebook 09)."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.bench.analysis.points import time_text
from helpers.cards import Picture, Shown, Table, bytes_text, seconds_text
from helpers.deploy.observed import READY
from helpers.deploy.scaling import Scaling
from helpers.deploy.simulation.arrivals import poisson
from helpers.deploy.simulation.cold_start import ColdStart
from helpers.deploy.simulation.running import run
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.deploy.simulation.service import Service
    from helpers.deploy.simulation.simulated import Simulated

LOADING = Path(__file__).resolve().parents[3] / "data" / "loading.toml"
GB = 1e9
IDLE = 300.0
"""Seconds without a request after which the last replica ends, where no scaling is given."""

_REQUESTS = 600  # at least, so that a p99 is more than its slowest few
_HOURS = 24.0  # at least


@dataclass(frozen=True)
class Way:
    """One way of an engine into GPU memory: its key, its name, GB/s, how that is known, and from where."""

    key: str
    name: str
    rate: float
    rate_label: str
    rate_source: str


@cache
def ways() -> Mapping[str, Way]:
    """All ways of ``data/loading.toml``, by their keys."""
    return {key: Way(key, **row) for key, row in tomllib.loads(LOADING.read_text()).items()}


def way(key: str) -> Way:
    """One of them.

    Raises:
        WorkshopError: there is none of that name.
    """
    if key not in ways():
        raise WorkshopError(f"There is no way {key!r} to load an engine. Give one of: {', '.join(ways())}.")
    return ways()[key]


@dataclass(frozen=True)
class Case:
    """One engine under one load.

    Attributes:
        engine: its size and where it is read from; empty for the replica that is kept.
        per_hour: requests an hour.
        cold: seconds of its cold start.
        wait, usual: TTFT p99 and p50, in seconds.
        met: share of requests that came while no replica was ready.
        gpu_hours: a day.
    """

    engine: str
    per_hour: float
    cold: float
    wait: float
    usual: float
    met: float
    gpu_hours: float


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
        return said + self._trend()

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
            "met no ready replica",
            "TTFT p50",
            "TTFT p99",
            "kept warm: p99",
            "GPU-hours a day",
            "kept warm",
        ]
        rows = [
            [
                one.engine,
                seconds_text(one.cold),
                f"{one.per_hour:g}",
                f"{one.met:.1%}",
                time_text(one.usual),
                time_text(one.wait),
                time_text(self.kept[one.per_hour].wait),
                f"{one.gpu_hours:.1f}",
                "24",
            ]
            for one in self.cases
        ]
        caption = f"Simulated: scale to zero after {seconds_text(self.idle)} without a request"
        note = f"{self.sentence} Bandwidths: {'; '.join(self.known)}. A replica gives {self.service.text}."
        return Table(columns, rows, caption, note, whole=("engine",))

    def picture(self) -> Picture:
        """Waits and GPU-hours over the load."""
        from helpers.plots.simulation import idle_picture

        return idle_picture(self)

    def __str__(self) -> str:
        return f"{self.table()}\n{self.picture()}"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_() + self.picture()._repr_html_()


def to_zero(
    service: "Service",
    *,
    sizes: Sequence[float] = (10 * GB, 50 * GB),
    via: Sequence[str] = ("network", "nvme"),
    per_hour: Sequence[float] = (2, 10, 60),
    rest: ColdStart | None = None,
    scaling: Scaling | None = None,
    tokens: float = 128,
    seed: int = 0,
) -> ToZero:
    """Simulate engines that are let go of when nobody asks, and one replica that is kept instead.

    Args:
        service: how fast a replica serves.
        sizes: of the engines, in bytes.
        via: where they are read from: keys of ``data/loading.toml``.
        per_hour: requests an hour, at random times.
        rest: the cold start but for reading the engine: process, imports and the like, measured best; None for 10 s of
            imports, assumed.
        scaling: the settings; None for at most one replica that ends after :data:`IDLE` seconds.
        tokens: of an answer.
        seed: of the arrivals and the simulation; the same requests come to every engine.

    Raises:
        WorkshopError: there is nothing to simulate, or a way is unknown.
    """
    if not sizes or not via or not per_hour:
        raise WorkshopError("There is nothing to simulate. Give sizes, ways to load them, and requests an hour.")
    rest = ColdStart(imports=10.0) if rest is None else rest
    scaling = Scaling(max_replicas=1, downscale_delay=IDLE) if scaling is None else scaling.with_(min_replicas=0)
    found = [way(key) for key in via]
    engines = {
        f"{bytes_text(size)}, {one.name}": rest.with_(engine=rest.engine + size / (one.rate * GB))
        for size in sizes
        for one in found
    }
    cases, kept = [], {}
    hours = {load: max(_HOURS, _REQUESTS / load) for load in per_hour}
    loads = {load: poisson(load / 3600, hours[load] * 3600, tokens, seed) for load in per_hour}
    for load in per_hour:
        done = run(loads[load], service, scaling.with_(min_replicas=1), rest, seed, until=hours[load] * 3600)
        kept[load] = _case("", load, 0.0, done, hours[load])
    for name, cold in engines.items():
        for load in per_hour:
            done = run(loads[load], service, scaling, cold, seed, until=hours[load] * 3600)
            cases.append(_case(name, load, cold.seconds, done, hours[load]))
    known = [f"{one.name} {one.rate:g} GB/s ({one.rate_label}: {one.rate_source})" for one in found]
    if rest.seconds:
        known.append(f"the rest of a cold start {seconds_text(rest.seconds)} ({rest.source})")
    return ToZero(cases, kept, scaling.last_delay, service, known)


def _case(name: str, load: float, cold: float, done: "Simulated", hours: float) -> Case:
    """The figures of one simulated run."""
    ready = {replica: life.get(READY, 0.0) for replica, life in done.observed.replicas().items()}
    waits = sum(one.arrival < ready[one.replica] for one in done.requests)
    return Case(
        name,
        load,
        cold,
        done.ttft_at(99),
        done.ttft_at(50),
        waits / len(done.requests),
        done.replica_seconds / 3600 / hours * 24,
    )
