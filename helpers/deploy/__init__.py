"""Running an engine in production: replicas that follow the load, and what to take to a cluster (notebook 09).

``deploy.start`` puts a recipe's engine behind Ray Serve on this machine, with as many replicas as :class:`Scaling`
and the load ask for, down to none. :mod:`simulation` answers what this machine is too small for; :mod:`export` writes
what other platforms read. Nothing is imported here before it is asked for: a replica imports this package too.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.deploy.deployment import Deployment, start, stop_all
    from helpers.deploy.scaling import Scaling
    from helpers.deploy.trial import most_replicas
    from helpers.deploy.trials import cold_starts, shortened

_FROM = {
    "scaling": ("Scaling",),
    "deployment": ("Deployment", "start", "stop_all"),
    "trial": ("most_replicas",),
    "trials": ("cold_starts", "shortened"),
}
__all__ = ["Deployment", "Scaling", "cold_starts", "most_replicas", "shortened", "start", "stop_all"]


def __getattr__(name: str) -> Any:
    for module, names in _FROM.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
