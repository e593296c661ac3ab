"""Figures that others measured or published, for simulations of machines that one has not (notebook 09). Pure.

Each keeps its label: ``recorded`` is a measurement on another machine, ``published`` is what somebody said.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from helpers.cards import seconds_text
from helpers.deploy.simulation.cold_start import ColdStart
from helpers.deploy.simulation.service import Service
from helpers.errors import WorkshopError

GB = 1e9
LOADING = Path(__file__).resolve().parents[3] / "data" / "loading.toml"
RECORDED = LOADING.parent / "measured" / "cold-start" / "nvidia-h200.json"


@dataclass(frozen=True)
class Way:
    """One way of an engine into GPU memory: its key, its name, GB/s, how that is known, and from where."""

    key: str
    name: str
    rate: float
    rate_label: str
    rate_source: str


@dataclass(frozen=True)
class Aim:
    """How quickly engines of a size shall start, as somebody said: bytes, seconds, who, and in which words."""

    size: float
    seconds: float
    source: str
    said: str


@cache
def ways() -> Mapping[str, Way]:
    """All ways of ``data/loading.toml`` and those of the recorded machine, by their keys."""
    found = {key: Way(key, **row) for key, row in tomllib.loads(LOADING.read_text())["way"].items()}
    told = _recorded()
    size, to_gpu = told["bytes"] / GB, told["page_cache_to_gpu"]["median"]
    for key, name, step, more in (
        ("h200", f"the disk of an {told['gpu']} machine", "disk", f"; copying to the GPU meanwhile, {to_gpu:.1f} s"),
        ("h200-memory", f"the page cache of an {told['gpu']} machine", "page_cache_to_gpu", ""),
    ):
        seconds = told[step]["median"]
        source = f"{size:.0f} GB in {seconds:.1f} s, the median of {told['runs']}, {told['date']}{more}"
        found[key] = Way(key, name, round(size / seconds, 2), "recorded", source)
    return found


@cache
def aims() -> tuple[Aim, ...]:
    """What others aim for."""
    rows = tomllib.loads(LOADING.read_text())["aim"]
    return tuple(Aim(row["gigabytes"] * GB, row["seconds"], row["source"], row["said"]) for row in rows)


def aim(size: float) -> Aim | None:
    """That for engines of this size; None if nobody said."""
    return next((one for one in aims() if abs(one.size - size) < 1e-3 * size), None)


def way(key: str) -> Way:
    """One of them.

    Raises:
        WorkshopError: there is none of that name.
    """
    if key not in ways():
        raise WorkshopError(f"There is no way {key!r} to load an engine. Give one of: {', '.join(ways())}.")
    return ways()[key]


@cache
def _recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_text())
    return found


def recorded_rest() -> ColdStart:
    """A cold start without its engine: a process, importing PyTorch, and a GPU's context, as recorded."""
    told = _recorded()
    start = told["start"]
    source = f"recorded: process, imports and GPU context on an {told['gpu']} machine, {told['date']}"
    return ColdStart(start["process"], start["imports"], start["context"], source=source)


def recorded_start(size: float, via: str = "h200") -> ColdStart:
    """A cold start of an engine of so many bytes, read by one of :func:`ways`; the rest as recorded.

    Raises:
        WorkshopError: a size that is none, or an unknown way.
    """
    rest, found = recorded_rest(), way(via)
    parts = {"process": rest.process, "imports": rest.imports, "source": rest.source}
    made = ColdStart.of_engine(size, found.rate * GB, fixed=rest.engine, **parts)
    text = f"{rest.source}; {seconds_text(made.engine - rest.engine)} to read it, {found.name}, {found.rate_label}"
    return made.with_(source=text)


def published_service(key: str = "talk") -> Service:
    """How fast a replica serves, by a published benchmark of ``data/published_benchmarks.toml``.

    Tokens a second are told of all users together, so each has his share. The time to the first token was measured
    with one user, over a network, and is taken for every load: what is computed from it is no more than a beginning.

    Raises:
        WorkshopError: there is no such benchmark, or it does not say how fast it was.
    """
    from helpers.bench.published import find

    found = find(key)
    speeds = [(one.concurrency, one.total_rate / one.concurrency) for one in found.points if one.total_rate]
    first = next((one.ttft for one in found.points if one.ttft), None)
    if not speeds or first is None:
        raise WorkshopError(f"The benchmark {key!r} does not say both tokens a second and the time to the first token.")
    source = (
        f"published: {found.title}, {found.model} in {found.precision.upper()} on an {found.gpu_name}; TTFT "
        f"{first * 1000:.0f} ms as told of one user, with the network"
    )
    batch = max(at_once for at_once, _ in speeds)
    return Service.of([(at_once, rate, first) for at_once, rate in speeds], batch=batch, source=source)
