"""A recipe as files for other platforms: what to take from this workshop to a cluster (notebook 09).

``export("tinyllama-fp8-rtx-4090")`` gives the files of every target, shows them, and ``.write(folder)`` writes them.
A target is a module here: a container, Kubernetes with KEDA, KServe, Triton, Ray Serve; Truss has its own
(:mod:`helpers.recipe.truss`). Nothing here reaches a cluster, a registry or a container engine. The tests hold every
file against the platform's own models, schemas or parser (``requirements-validators.txt``); of KEDA's two resources,
which no package describes, the names of their fields.

Nothing is imported before it is asked for: the command line imports :mod:`command` for every command.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.deploy.export.exported import Exported
    from helpers.deploy.export.files import TARGETS, export

__all__ = ["TARGETS", "Exported", "export"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "exported" if name == "Exported" else "files"
    return getattr(import_module(f"{__name__}.{module}"), name)
