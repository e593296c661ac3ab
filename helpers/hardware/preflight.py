"""Is this machine good for the workshop? One line a check, each with what to do where the answer is no."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.cards import Table, bytes_text
from helpers.hardware.machine import SUPPORTED, Gpu, Machine, capability_text, equal_gpus, supported_gpu
from helpers.hardware.peers import LEAST_SHARED_MEMORY, SHARED_MEMORY_ADVICE

if TYPE_CHECKING:
    from helpers.releases.table import Choice

GB = 1e9

CPU_DISK_BYTES, CPU_MEMORY_BYTES = 5 * GB, 4 * GB
"""What is comfortable without a GPU: free disk, and memory."""
HOST_MEMORY_BYTES = 16 * GB
"""What is comfortable beside a GPU."""
ENVIRONMENT_BYTES = 30 * 10**9
DISK_ADVICE = (
    f"estimate: {ENVIRONMENT_BYTES / GB:.0f} GB for TensorRT-LLM's environment, plus three times the size of each "
    "model; published: the talk sets 200 GB"
)
"""The same words as in notebook 01."""


@dataclass(frozen=True)
class Check:
    """One line of the pod check; ``verdict`` is ok, warning or stop."""

    name: str
    found: str
    verdict: str
    advice: str = ""


def _graded(value: float, warn_below: float, stop_below: float) -> str:
    """The verdict on something of which more is better."""
    if value < stop_below:
        return "stop"
    return "warning" if value < warn_below else "ok"


def _choice(machine: Machine) -> "Choice":
    """Which TensorRT-LLM the machine gets."""
    from helpers.releases.table import choose_here

    return choose_here(machine)


def _check_gpu(machine: Machine) -> Check:
    gpu = supported_gpu(machine)
    if gpu:
        advice = "engines are built for it and run on it with TensorRT-LLM"
        if _choice(machine).release is None:
            advice = "TensorRT-LLM is for such GPUs, but does not fit here yet: see the driver"
        return Check("GPU", f"{gpu.name}, compute capability {gpu.capability_text}", "ok", advice)
    if machine.gpus:
        old = machine.gpus[0]
        return Check(
            "GPU",
            f"{old.name}, compute capability {old.capability_text}",
            "warning",
            f"too old: the releases carry kernels from {capability_text(SUPPORTED)} on; "
            "the CPU is used instead, or rent a newer GPU",
        )
    advice = "engines are built and run on this CPU with OpenVINO; checkpoints are still TensorRT-LLM's own"
    return Check("GPU", "none", "ok", advice)


def _check_driver(machine: Machine, gpu: Gpu) -> Check:
    found = f"{machine.driver}, CUDA {machine.cuda}"
    choice = _choice(machine)
    if choice.release is None:
        return Check("driver", found, "stop", choice.why)
    needed = choice.release.driver_for(gpu.compute_capability)
    advice = f"fits TensorRT-LLM {choice.release.version} (CUDA {choice.release.cuda}, driver {needed} or newer)"
    return Check("driver", found, "ok", advice)


def _check_gpu_memory(gpu: Gpu) -> Check:
    # TinyLlama's FP16 engine is 2.2 GB; a build holds weights and network at once, a run adds a KV cache.
    verdict = _graded(gpu.free_bytes, 8 * GB, 4 * GB)
    holders = "; ".join(
        f"{p.name} (pid {p.pid}) holds {'some' if p.bytes is None else bytes_text(p.bytes)}" for p in gpu.processes
    )
    free = "" if verdict == "ok" else "free some: shut down other notebooks' kernels, or end the process"
    found = f"{bytes_text(gpu.free_bytes)} free of {bytes_text(gpu.memory_bytes)}"
    return Check("GPU memory", found, verdict, "; ".join(filter(None, [holders, free])) or "nobody else holds any")


def _check_disk(machine: Machine, gpu: Gpu | None, installed: bool) -> Check:
    found = f"{bytes_text(machine.disk_free_bytes)} free at {machine.disk_path}"
    if gpu is None:
        verdict = _graded(machine.disk_free_bytes, CPU_DISK_BYTES, 1 * GB)
        advice = f"free some: {CPU_DISK_BYTES / GB:.0f} GB is comfortable without a GPU"
        return Check("disk", found, verdict, "" if verdict == "ok" else advice)
    # The environment needs that much once; where it is there already, only models, checkpoints and engines need room.
    verdict = _graded(machine.disk_free_bytes, ENVIRONMENT_BYTES, 1 * GB if installed else ENVIRONMENT_BYTES)
    advice = DISK_ADVICE if machine.disk_free_bytes < 200 * GB else ""
    if verdict == "stop":
        advice = f"free some, or point WORKSHOP_HOME at a larger disk; {advice}"
    return Check("disk", found, verdict, advice)


def _check_memory(machine: Machine, gpu: Gpu | None) -> Check:
    comfortable = HOST_MEMORY_BYTES if gpu else CPU_MEMORY_BYTES
    verdict = _graded(machine.memory_bytes, comfortable, comfortable / 2)
    advice = "" if verdict == "ok" else f"{comfortable / GB:.0f} GB is comfortable; close what else is running"
    return Check("memory", bytes_text(machine.memory_bytes), verdict, advice)


def _check_cpu(machine: Machine) -> Check:
    fast = {"avx2", "asimddp"}.intersection(machine.cpu.features) or machine.system.startswith("Darwin")
    found = f"{machine.cpu.model}, {machine.cpu.cores} cores"
    if machine.cpu.cores < 2:
        return Check("CPU", found, "warning", "one core: everything works, at half the pace that the notebooks tell")
    return Check("CPU", found, "ok" if fast else "warning", "" if fast else "no AVX2: everything works, but slowly")


def _check_python(machine: Machine) -> Check:
    version = tuple(int(part) for part in machine.python.split(".")[:2])
    if version in ((3, 11), (3, 12)):
        return Check("Python", machine.python, "ok")
    return Check("Python", machine.python, "warning", "tested with 3.11 and 3.12; run make setup, which gets one")


def _check_shared_memory(machine: Machine, gpu: Gpu | None) -> Check:
    size = machine.shared_memory_bytes
    if size is None:
        return Check("/dev/shm", "not on this system", "ok")
    # 64 MB is what a container gets by default; two ranks of one engine exchange their results through it.
    small = gpu is not None and size < LEAST_SHARED_MEMORY
    several = len(equal_gpus(machine))
    split = f"these {several} GPUs, whose ranks exchange results through it" if several > 1 else "two GPUs"
    advice = f"{SHARED_MEMORY_ADVICE} before splitting a model over {split}"
    return Check("/dev/shm", bytes_text(size), "warning" if small else "ok", advice if small else "")


def _is_installed(machine: Machine) -> bool:
    """True if the workspace has a TensorRT-LLM that fits the machine."""
    from helpers.releases import current

    return current(machine) is not None


def checks(machine: Machine, installed: bool | None = None) -> Table:
    """One line a check: what was found, whether that is good enough, and what to do where it is not.

    Args:
        machine: from :func:`helpers.hardware.look`.
        installed: TensorRT-LLM is installed already, so that no disk is needed for its environment; None to look.
    """
    gpu = supported_gpu(machine)
    lines = [_check_gpu(machine)]
    if gpu:
        lines += [_check_driver(machine, gpu), _check_gpu_memory(gpu)]
    lines += [
        _check_cpu(machine),
        _check_memory(machine, gpu),
        _check_disk(machine, gpu, _is_installed(machine) if installed is None else installed),
        _check_shared_memory(machine, gpu),
        _check_python(machine),
    ]
    stops = [line.name for line in lines if line.verdict == "stop"]
    warnings = [line.name for line in lines if line.verdict == "warning"]
    if stops:
        note = f"Stop here: {', '.join(stops)}. Do what the line says, then run this cell again."
    elif warnings:
        note = f"Good to go, with {len(warnings)} to keep in mind: {', '.join(warnings)}."
    else:
        note = f"All {len(lines)} checks passed: good to go."
    rows = [(line.name, line.found, line.verdict, line.advice) for line in lines]
    return Table(("check", "found", "verdict", "what it means, what to do"), rows, "Is this machine good?", note)
