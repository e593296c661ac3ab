"""Serving an engine behind an HTTP API: start it, see what it does, end it (notebook 07).

On a GPU the server is ``trtllm-serve``; on a CPU it is :mod:`helpers.serving.app`, with the same surface. That one is a
program of its own below this package, so nothing is imported here before it is asked for: it starts the sooner.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.serving.endpoint import Command, Endpoint, endpoints, start, stop_all
    from helpers.serving.status import Activity, Status

__all__ = ["Activity", "Command", "Endpoint", "Status", "endpoints", "start", "stop_all"]

_FROM_STATUS = ("Activity", "Status")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'status' if name in _FROM_STATUS else 'endpoint'}"), name)
