"""Measuring a server that speaks the OpenAI API: the load generator and what is read from its results (notebook 08).

:mod:`generator` is a program of its own (``python -m helpers bench URL``), so nothing is imported here before it is
asked for: the first request leaves the sooner. What it sends is a :class:`load.Load`; what it brings back are
:mod:`measured` values and :mod:`rows`, from which :mod:`results` are made; :mod:`analysis` reads those.
"""

from importlib import import_module
from typing import Any

_FROM = {
    "load": ("Lengths", "Load"),
    # A module takes its name in the package once it is imported: none may be called as one of these functions.
    "running": ("reopen", "run", "sweep"),
    "results.result": ("Result", "Sweep"),
    "results.comparison": ("compare",),
}
__all__ = sorted(name for names in _FROM.values() for name in names)


def __getattr__(name: str) -> Any:
    for module, names in _FROM.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
