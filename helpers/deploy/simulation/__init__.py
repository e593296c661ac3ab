"""Planning past one machine: replicas, cold starts and arrivals as a discrete-event simulation (notebook 09).

Pure: nothing runs, no clock is read, equal seeds give equal results. A replica's speed comes from a measured sweep
(:class:`Service`), its start from measured or assumed parts (:class:`ColdStart`), and the autoscaler decides as Ray
Serve's does (:mod:`policy`). Whatever it says is labelled ``simulated:`` with what was assumed; :func:`against` holds
it against a measured run.
"""

from importlib import import_module
from typing import Any

_FROM = {
    "comparison": ("Comparison", "against"),
    "arrivals": ("Arrival", "MORNING", "changing", "of_rows", "poisson"),
    "cold_start": ("ColdStart",),
    "planning": ("Goal", "Plan", "plan"),
    "running": ("run",),
    "service": ("Service",),
    "simulated": ("Request", "Simulated"),
    "recording": ("recording", "recordings"),
    "sources": ("GB", "published_service", "recorded_rest", "recorded_start"),
    "idle": ("ToZero", "to_zero"),
}
__all__ = sorted(name for names in _FROM.values() for name in names)


def __getattr__(name: str) -> Any:
    for module, names in _FROM.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
