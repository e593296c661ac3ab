"""Over how many GPUs of a machine an engine can be split: one rank on each (notebook 06). Pure."""

from helpers import hardware, memory
from helpers.errors import WorkshopError
from helpers.hardware import Machine
from helpers.toolchains.base import Engine, rebuild_command

_USUAL = (1, 2, 4, 8)


def ranks_of(shape: memory.Shape, machine: Machine) -> list[int]:
    """The usual numbers of ranks that divide the model's heads and for which there are GPUs, smallest first."""
    here = len(hardware.equal_gpus(machine))
    return [n for n in _USUAL if n in shape.splits and n <= here]


def require_ranks(name: str, shape: memory.Shape, tp_size: int, machine: Machine) -> None:
    """Refuse a number of ranks that the model cannot be split over, or for which there are too few GPUs.

    Args:
        name, shape: of the model.
        tp_size: number of ranks.
        machine: with the GPUs.

    Raises:
        WorkshopError: says what was found and what to do.
    """
    memory.require_split(name, shape, tp_size)
    same = hardware.equal_gpus(machine)
    if tp_size > len(same):
        offered = ranks_of(shape, machine) or [1]
        raise WorkshopError(
            f"An engine of {tp_size} ranks needs {tp_size} GPUs of one product, and here is {_found(machine)}. Choose "
            f"tp_size from {offered}, or take a pod with {tp_size} GPUs."
        )


def _found(machine: Machine) -> str:
    """How many GPUs one engine could use, in words."""
    same = hardware.equal_gpus(machine)
    if not same:
        return "none that TensorRT-LLM has kernels for"
    others = len(machine.gpus) - len(same)
    beside = f" (beside {others} that it cannot be split over with it)" if others else ""
    return f"{len(same)} {same[0].name}{beside}"


def refusal_of(engine: Engine, machine: Machine) -> str | None:
    """Why an engine has more ranks than this machine has GPUs for, and what to do; None if it has not."""
    here = len(hardware.equal_gpus(machine))
    if engine.tp_size <= here:
        return None
    fewer = max((n for n in range(1, here + 1) if engine.tp_size % n == 0), default=1)
    return (
        f"This engine is split over {engine.tp_size} GPUs of one product, and here is {_found(machine)}, so it is not "
        f"loaded. Take a pod with {engine.tp_size}, or build one for {fewer}: {rebuild_command(engine, fewer)}"
    )
