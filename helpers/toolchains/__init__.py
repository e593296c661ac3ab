"""Toolchains: what turns weights into an engine and runs it on this machine.

Every toolchain is a module with the functions of :class:`helpers.toolchains.base.Toolchain`. Which one a machine uses
is decided here, in one place: TensorRT-LLM where a GPU and its driver allow, OpenVINO on the CPU everywhere else.
"""

import os
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helpers.hardware import Machine

NAMES = ("tensorrt_llm", "openvino")


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
            from helpers.toolchains import tensorrt_llm

            return tensorrt_llm
        if chosen:
            raise WorkshopError(f"WORKSHOP_TOOLCHAIN asks for TensorRT-LLM, which this machine cannot use: {fits.why}")
    from helpers.toolchains import openvino

    return openvino


def default_model() -> str:
    """What the notebooks build: the toolchain's own default, or the model that ``WORKSHOP_MODEL`` names."""
    return os.environ.get("WORKSHOP_MODEL") or str(best().default_model)
