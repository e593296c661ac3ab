"""Toolchains: what turns weights into an engine and runs it on this machine.

Every toolchain is a module with the functions of :class:`helpers.toolchains.base.Toolchain`.
"""

from types import ModuleType


def best() -> ModuleType:
    """The best toolchain this machine has.

    Here that is OpenVINO on the CPU. A machine with a GPU of compute capability 8.0 or newer gets the
    ``tensorrt_llm`` toolchain once it stands beside this one.
    """
    from helpers.toolchains import openvino

    return openvino
