"""What this machine is: processor, memory, disk, GPUs, and who holds GPU memory.

GPUs are asked through NVML, the library behind ``nvidia-smi``, which takes no GPU memory and needs no CUDA in
this process; a machine without a driver simply has no GPUs.
"""

import hashlib
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from helpers.cards import Shown, Table, bytes_text

if TYPE_CHECKING:
    from helpers.releases.table import Choice

SUPPORTED = (8, 0)
"""The oldest compute capability that TensorRT-LLM's releases carry kernels for."""

CPU_FEATURES = frozenset(
    {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"}  # x86-64 vectors
    | {"amx_tile", "amx_int8", "amx_bf16", "amx_fp16"}  # x86-64 matrices
    | {"asimddp", "i8mm", "bf16", "sve", "sve2"}  # 64-bit Arm
)
"""Instruction sets that decide how a matrix product is compiled, as /proc/cpuinfo spells them."""

Answer = TypeVar("Answer")

# NVML's numbers of the questions about a pair. Its Python binding has the first as a tuple, ``(0,)``, by a stray comma.
_READ, _WRITE, _OVER_NVLINK = 0, 1, 2
_MOST_LINKS = 18  # NVLinks of one GPU: 18 on Hopper and Blackwell, fewer on older ones


def capability_text(capability: tuple[int, int]) -> str:
    """A compute capability as NVIDIA writes it: (8, 9) is ``8.9``."""
    return f"{capability[0]}.{capability[1]}"


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds GPU memory; ``bytes`` is None where the driver does not tell."""

    pid: int
    name: str
    bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU, or one slice of a split one, as the driver describes it.

    Args:
        index: as ``nvidia-smi`` numbers it.
        name: the product, such as ``NVIDIA GeForce RTX 4090``.
        compute_capability: (major, minor), what decides the precisions it computes in.
        memory_bytes, free_bytes: of the GPU's own memory.
        driver: the version, such as ``580.159.04``.
        processes: who holds GPU memory; empty inside most containers, which hide other containers' processes.
    """

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    free_bytes: int
    driver: str
    processes: tuple[GpuProcess, ...] = ()

    @property
    def capability_text(self) -> str:
        """Compute capability as NVIDIA writes it, such as ``8.9``."""
        return capability_text(self.compute_capability)

    @property
    def is_slice(self) -> bool:
        """True for a slice of a split GPU (MIG), which reaches no other slice's memory."""
        return " MIG " in self.name


@dataclass(frozen=True)
class Link:
    """What the driver tells of two GPUs: whether each may reach the other's memory, and how (notebook 06).

    Args:
        first, second: the GPUs' indexes.
        read, write: NVML's status of peer-to-peer access from the first to the second (0 is allowed); None where the
            driver does not tell.
        nvlink: NVML's status of peer-to-peer access over NVLink; None where it does not tell.
        common: NVML's number for the nearest thing that both are attached to (10 a PCIe switch ... 50 nothing nearer
            than the link between processors); None where it does not tell.
        nvlinks: NVLinks of the first GPU that are up; None where it tells of none.
    """

    first: int
    second: int
    read: int | None
    write: int | None
    nvlink: int | None = None
    common: int | None = None
    nvlinks: int | None = None


@dataclass(frozen=True)
class Cpu:
    """The processor: its model, the cores this process may use, and the instruction sets that matter here."""

    model: str
    cores: int
    features: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Machine(Shown):
    """This machine at a glance.

    Args:
        memory_bytes: what this process may use; a container's limit where there is one.
        disk_path, disk_free_bytes: the workspace's disk.
        shared_memory_bytes: size of /dev/shm, through which ranks of one engine talk; None if there is none.
        driver, cuda: the NVIDIA driver and the newest CUDA it runs; empty without a driver.
        links: what the driver tells of each pair of GPUs; empty with fewer than two.
    """

    cpu: Cpu
    gpus: tuple[Gpu, ...]
    memory_bytes: int
    disk_path: Path
    disk_free_bytes: int
    shared_memory_bytes: int | None
    python: str
    system: str
    driver: str = ""
    cuda: str = ""
    links: tuple[Link, ...] = ()

    def table(self) -> Table:
        """One line a part."""
        rows = [
            ("system", self.system),
            ("Python", self.python),
            ("CPU", f"{self.cpu.model}, {self.cpu.cores} cores usable"),
            ("CPU instructions", ", ".join(self.cpu.features) or "none of those that matter here"),
            ("memory", bytes_text(self.memory_bytes)),
            ("free disk", f"{bytes_text(self.disk_free_bytes)} at {self.disk_path}"),
        ]
        for gpu in self.gpus:
            memory = f"{bytes_text(gpu.free_bytes)} free of {bytes_text(gpu.memory_bytes)}"
            rows.append((f"GPU {gpu.index}", f"{gpu.name}, compute capability {gpu.capability_text}, {memory}"))
        if self.driver:
            rows.append(("NVIDIA driver", f"{self.driver}, runs CUDA {self.cuda} and older"))
        return Table(("part", "found"), rows, "This machine at a glance", self._note())

    def _note(self) -> str:
        gpu = supported_gpu(self)
        choice = choice_for(gpu) if gpu else None
        if gpu and choice and choice.release:
            return (
                f"Engines are built and run on GPU {gpu.index}, the {gpu.name}, with TensorRT-LLM "
                f"{choice.release.version}: it fits this driver, and notebook 02 installs it."
            )
        if choice:
            return f"{choice.why} Until then engines are built and run on the CPU, with OpenVINO."
        if self.gpus:
            return (
                f"No GPU here has compute capability {capability_text(SUPPORTED)}, which TensorRT-LLM needs: "
                "engines are built and run on the CPU, with OpenVINO."
            )
        return "No NVIDIA GPU here: engines are built and run on the CPU, with OpenVINO."

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """Model and relevant features from the text of /proc/cpuinfo; an empty model where it names none."""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        label, _, value = line.partition(":")
        facts.setdefault(label.strip().lower(), value.strip())
    flags = f"{facts.get('flags', '')} {facts.get('features', '')}".split()
    return facts.get("model name", ""), tuple(sorted(CPU_FEATURES.intersection(flags)))


def _cpu_model() -> str:
    """The processor's name where /proc/cpuinfo has none: on macOS and on Arm."""
    if sys.platform == "darwin":
        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        if asked.stdout.strip():
            return asked.stdout.strip()
    return platform.processor() or platform.machine()


def parse_quota(text: str) -> float:
    """Cores that a cgroup allows, from the text of its ``cpu.max``; infinity where there is no limit."""
    quota, _, period = text.strip().partition(" ")
    return float(quota) / float(period) if quota.isdigit() and period.isdigit() else math.inf


def _read(path: str) -> str:
    """A system file's text, empty where there is none."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _cores() -> int:
    """Cores that this process may use: its affinity, and its container's quota rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = parse_quota(_read("/sys/fs/cgroup/cpu.max"))
    return max(1, min(allowed, math.ceil(quota) if quota < math.inf else allowed))


def cpu() -> Cpu:
    """The processor."""
    model, features = parse_cpuinfo(_read("/proc/cpuinfo"))
    return Cpu(model or _cpu_model(), _cores(), features)


@contextmanager
def _nvml() -> Iterator[Any]:
    """NVML, initialised; None on a machine without an NVIDIA driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, no library, no driver, a driver that does not answer: no GPU either way
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _ask(nvml: Any, question: Callable[[], Answer], otherwise: Answer) -> Answer:
    """NVML's answer, or ``otherwise`` where this GPU or container does not tell."""
    try:
        return question()
    except nvml.NVMLError:
        return otherwise


def _text(value: str | bytes) -> str:
    """Text; older NVML bindings answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _process_name(nvml: Any, pid: int) -> str:
    """What the driver calls a process, its path shortened to the program."""
    name = _text(_ask(nvml, lambda: nvml.nvmlSystemGetProcessName(pid), "a process outside this container"))
    return name.rsplit("/", 1)[-1]


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...]:
    """Who holds this GPU's memory, the largest first."""
    nobody: list[Any] = []
    running = _ask(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle), nobody)
    found = [GpuProcess(p.pid, _process_name(nvml, p.pid), p.usedGpuMemory) for p in running]
    return tuple(sorted(found, key=lambda process: -(process.bytes or 0)))


@dataclass(frozen=True)
class _Device:
    """What a process can run on: a whole GPU, or one slice of a GPU that is split (MIG)."""

    index: int
    handle: Any
    name: str
    compute_capability: tuple[int, int]
    memory: Any


def _devices(nvml: Any) -> Iterator[_Device]:
    """Every device, in the driver's order.

    A split GPU gives its slices: an engine is built for a slice, and a container that was given one may not
    ask for the memory of the whole. A device that does not tell its memory is none to build for, so it is left out.
    """
    for index in range(nvml.nvmlDeviceGetCount()):
        whole = nvml.nvmlDeviceGetHandleByIndex(index)
        capability = tuple(nvml.nvmlDeviceGetCudaComputeCapability(whole))
        for handle in _slices(nvml, whole) or [whole]:
            memory = _ask(nvml, partial(nvml.nvmlDeviceGetMemoryInfo, handle), None)
            if memory is not None:
                yield _Device(index, handle, _text(nvml.nvmlDeviceGetName(handle)), capability, memory)


def _slices(nvml: Any, whole: Any) -> list[Any]:
    """Handles of a GPU's MIG slices that this process may use; none where it is not split."""
    split, _ = _ask(nvml, lambda: nvml.nvmlDeviceGetMigMode(whole), (0, 0))
    places = range(_ask(nvml, lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(whole), 0) if split else 0)
    found = [_ask(nvml, partial(nvml.nvmlDeviceGetMigDeviceHandleByIndex, whole, i), None) for i in places]
    return [handle for handle in found if handle is not None]


def _gpu(nvml: Any, device: _Device, driver: str) -> Gpu:
    """One GPU, with who holds its memory."""
    return Gpu(
        index=device.index,
        name=device.name,
        compute_capability=device.compute_capability,
        memory_bytes=device.memory.total,
        free_bytes=device.memory.free,
        driver=driver,
        processes=_processes(nvml, device.handle),
    )


def _links(nvml: Any, devices: Sequence[_Device]) -> tuple[Link, ...]:
    """What the driver tells of each pair of whole GPUs; slices of one are left out, for they have no peers."""
    whole = {device.index: device.handle for device in devices if " MIG " not in device.name}
    up = {index: _nvlinks_up(nvml, handle) for index, handle in whole.items()} if len(whole) > 1 else {}
    return tuple(
        Link(
            first,
            second,
            read=_peer_status(nvml, whole[first], whole[second], _READ),
            write=_peer_status(nvml, whole[first], whole[second], _WRITE),
            nvlink=_peer_status(nvml, whole[first], whole[second], _OVER_NVLINK),
            common=_ask(nvml, partial(nvml.nvmlDeviceGetTopologyCommonAncestor, whole[first], whole[second]), None),
            nvlinks=up[first],
        )
        for first, second in combinations(whole, 2)
    )


def _peer_status(nvml: Any, one: Any, other: Any, question: int) -> int | None:
    """NVML's status of one kind of peer-to-peer access; None where the driver does not tell."""
    return _ask(nvml, partial(nvml.nvmlDeviceGetP2PStatus, one, other, question), None)


def _nvlinks_up(nvml: Any, handle: Any) -> int | None:
    """How many NVLinks of a GPU are up; None where the driver tells of none, as for a GPU that has none."""
    states = [_ask(nvml, partial(nvml.nvmlDeviceGetNvLinkState, handle, link), None) for link in range(_MOST_LINKS)]
    told = [state for state in states if state is not None]
    return sum(state == 1 for state in told) if told else None


def _memory_bytes() -> int:
    """Memory this process may use: the machine's, or its container's limit where that is smaller."""
    import psutil

    limit = _read("/sys/fs/cgroup/memory.max").strip()
    total = int(psutil.virtual_memory().total)
    return min(total, int(limit)) if limit.isdigit() else total


def _existing(path: Path) -> Path:
    """The nearest folder above ``path`` that is there, so that its disk can be asked before it is made."""
    return path if path.exists() else _existing(path.parent)


def look() -> Machine:
    """Look at this machine: a few milliseconds, or tens of them where there is a driver to ask."""
    from helpers import workspace

    home = workspace.home()
    gpus: tuple[Gpu, ...] = ()
    links: tuple[Link, ...] = ()
    driver = cuda = ""
    with _nvml() as nvml:
        if nvml:
            driver = _text(nvml.nvmlSystemGetDriverVersion())
            version = nvml.nvmlSystemGetCudaDriverVersion()
            cuda = f"{version // 1000}.{version % 1000 // 10}"
            devices = list(_devices(nvml))
            gpus = tuple(_gpu(nvml, device, driver) for device in devices)
            links = _links(nvml, devices)
    shared = Path("/dev/shm")
    return Machine(
        cpu=cpu(),
        gpus=gpus,
        memory_bytes=_memory_bytes(),
        disk_path=home,
        disk_free_bytes=shutil.disk_usage(_existing(home)).free,
        shared_memory_bytes=shutil.disk_usage(shared).total if shared.is_dir() else None,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        driver=driver,
        cuda=cuda,
        links=links,
    )


def supported_gpu(machine: Machine) -> Gpu | None:
    """The first GPU that TensorRT-LLM has kernels for."""
    return next((gpu for gpu in machine.gpus if gpu.compute_capability >= SUPPORTED), None)


def equal_gpus(machine: Machine) -> tuple[Gpu, ...]:
    """The GPUs that one engine can be split over: the first supported one, and the others of its product.

    Of a split GPU (MIG) only one slice, for slices do not reach each other; and only those that CUDA_VISIBLE_DEVICES
    leaves to a process, where it is set.
    """
    first = supported_gpu(machine)
    if first is None or first.is_slice:
        return () if first is None else (first,)
    same = tuple(gpu for gpu in machine.gpus if gpu.name == first.name)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return same
    named = [part.strip() for part in visible.split(",") if part.strip()]
    if all(part.isdigit() for part in named):
        return tuple(gpu for gpu in same if str(gpu.index) in named) or same[:1]
    return same[: len(named)]  # named by their UUIDs


def choice_for(gpu: Gpu) -> "Choice":
    """Which TensorRT-LLM a GPU and its driver get, and why."""
    from helpers.releases.table import choose

    return choose(gpu.compute_capability, gpu.name, gpu.driver)


def identity() -> dict[str, str]:
    """What an engine built here is tied to, for its manifest: the GPU's product, else the CPU.

    Asks little: fast enough to call before every load. The same on every run of a machine.
    """
    with _nvml() as nvml:
        for device in _devices(nvml) if nvml else ():
            if device.compute_capability >= SUPPORTED:
                return {"gpu": device.name, "compute_capability": capability_text(device.compute_capability)}
    return cpu_identity()


def cpu_identity() -> dict[str, str]:
    """What an engine built for this processor is tied to: its model, and a digest of its instruction sets."""
    model, features = parse_cpuinfo(_read("/proc/cpuinfo"))
    digest = hashlib.sha256(" ".join(features).encode()).hexdigest()[:12]
    return {"cpu": model or _cpu_model(), "cpu_features": digest}
