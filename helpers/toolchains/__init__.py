"""Toolchains: what turns weights into an engine and runs it on this machine.

Every toolchain is a module with the functions of :class:`helpers.toolchains.base.Toolchain`. Which one a machine uses
is decided here, in one place: TensorRT-LLM where a GPU and its driver allow, OpenVINO on the CPU everywhere else.
TensorRT-LLM's PyTorch back end is another toolchain of the same release, and used where it is named (notebook 10).
"""

import importlib
import os
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helpers.hardware import Machine
    from helpers.toolchains.base import Engine

NAMES = ("tensorrt_llm", "tensorrt_llm_pytorch", "openvino")
ON_GPU = NAMES[:2]
"""Those that one release of TensorRT-LLM has side by side."""


def best(machine: "Machine | None" = None) -> ModuleType:
    """The toolchain that this machine uses; ``WORKSHOP_TOOLCHAIN`` names another.

    Raises:
        WorkshopError: ``WORKSHOP_TOOLCHAIN`` names none that there is, or one that this machine cannot use.
    """
    from helpers.errors import WorkshopError

    chosen = os.environ.get("WORKSHOP_TOOLCHAIN", "")
    if chosen and chosen not in NAMES:
        raise WorkshopError(f"WORKSHOP_TOOLCHAIN is {chosen!r}. Set it to one of {', '.join(NAMES)}, or unset it.")
    if chosen != "openvino":
        from helpers import releases

        fits = releases.choose_here(machine)
        if fits.release:
            return importlib.import_module(f"helpers.toolchains.{chosen or ON_GPU[0]}")
        if chosen:
            raise WorkshopError(f"WORKSHOP_TOOLCHAIN asks for TensorRT-LLM, which this machine cannot use: {fits.why}")
    from helpers.toolchains import openvino

    return openvino


def of(engine: "Engine") -> ModuleType:
    """The toolchain that runs an engine: its own, where this machine has that one, else the one of :func:`best`.

    Raises:
        WorkshopError: as :func:`best`.
    """
    used = best()
    if used.name in ON_GPU and engine.toolchain in ON_GPU:
        return importlib.import_module(f"helpers.toolchains.{engine.toolchain}")
    return used


def default_model() -> str:
    """What the notebooks build: the toolchain's own default, or the model that ``WORKSHOP_MODEL`` names."""
    return os.environ.get("WORKSHOP_MODEL") or str(best().default_model)
