"""Who holds GPU memory, and ending what this workshop left there. Taught in ``notebooks/01_gpu_checks.ipynb``.

NVML tells who holds memory, but in most containers it shows nobody, or numbers its processes as the host does. What
the system shows fills the gap: a process that computes with CUDA has `CUDA_FILE` open, and one that only asks NVML has
not. A process is this workshop's if a run in the workspace started it, and only such a one is ever ended.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.cards import Table, bytes_text
from helpers.hardware.machine import Gpu, Machine, look

CUDA_FILE = Path("/dev/nvidia-uvm")
"""Open in every process that computes on a GPU: the driver's unified memory."""

RUN_VARIABLE = "WORKSHOP_RUN"
"""The variable by which a stage's command, and all that it starts, knows its run's folder."""

RESERVED_BYTES = 1_000_000_000
"""Less than this in use is the driver's own: it keeps a few hundred megabytes of every GPU."""


@dataclass(frozen=True)
class Process:
    """What this system tells of one process.

    Args:
        command: program and arguments.
        group, session: the ids that whatever it starts inherits.
        started: when, in seconds since 1970.
        ancestors: process id to command, the nearest first.
        run: the folder of the run that it says it belongs to; empty if it says nothing.
    """

    pid: int
    command: tuple[str, ...]
    group: int = 0
    session: int = 0
    started: float = 0.0
    ancestors: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    run: str = ""

    @property
    def program(self) -> str:
        """Its program, and what a Python runs, without folders and further arguments."""
        first, *rest = self.command or ("a process without a name",)
        program = first.rsplit("/", 1)[-1]
        if re.fullmatch(r"python[\d.]*", program) and rest:
            said = rest[:2] if rest[0] == "-m" else rest[:1]
            program += "".join(f" {Path(word).name}" for word in said)
        return program


@dataclass(frozen=True)
class Run:
    """A stage's run, as the workspace remembers it; ``ended`` is when it last told of itself."""

    title: str
    directory: str
    supervisor: int
    group: int
    alive: bool
    started: float
    ended: float


@dataclass(frozen=True)
class Holder:
    """A process that holds GPU memory.

    Args:
        held: GPU to bytes, None where the driver does not tell; empty where it does not name the GPU.
        whose: in words.
        process: what this system tells of it; None for one of another container.
        run: the run that it belongs to; None if it is not this workshop's.
    """

    pid: int
    program: str
    held: Mapping[int, int | None]
    whose: str
    process: Process | None = None
    run: Run | None = None


def run_of(process: Process, runs: Iterable[Run]) -> Run | None:
    """The run that started a process, however far back; None if none did.

    A group's number is used again once everything in it has gone, so it only counts for what started during the run.
    """
    for run in runs:
        if process.run:
            belongs = process.run == run.directory
        elif run.alive and run.supervisor in process.ancestors:
            belongs = True
        else:
            during = run.started - 2 <= process.started <= run.ended + 2
            belongs = bool(run.group) and run.group in (process.group, process.session) and during
        if belongs:
            return run
    return None


def _is_kernel(command: Sequence[str]) -> bool:
    """True for the process that runs a notebook's cells."""
    return any("ipykernel" in word for word in command)


def whose(process: Process | None, run: Run | None, own: int) -> str:
    """Whom a process belongs to, in words; ``own`` is this process's id."""
    if process is None:
        return "numbered outside this container"
    if run:
        return f"this workshop: {run.title}" if run.alive else f"this workshop: left over from {run.title}"
    if process.pid == own:
        return "this kernel"
    if _is_kernel(process.command):
        return "a notebook kernel"
    if any(_is_kernel(command) for command in process.ancestors.values()):
        return "started by a notebook kernel"
    return "somebody else's"


def _runs() -> list[Run]:
    """The workspace's runs that have started a command."""
    from helpers import stage

    return [
        Run(
            title=state["title"],
            directory=str(directory),
            supervisor=int(state["pid"]),
            group=int(state["group"]),
            alive=stage.is_alive(state),
            started=state["started"],
            ended=state["started"] + state["elapsed"],
        )
        for directory, state in stage.runs()
        if "group" in state
    ]


def _facts(pid: int) -> Process | None:
    """What this system tells of a process; None if it has no such process."""
    import psutil

    try:
        process = psutil.Process(pid)
        environment: dict[str, str] = {}
        with contextlib.suppress(psutil.AccessDenied):
            environment = process.environ()
        return Process(
            pid=pid,
            command=tuple(process.cmdline()) or (process.name(),),
            group=os.getpgid(pid),
            session=os.getsid(pid),
            started=process.create_time(),
            ancestors={parent.pid: tuple(_command(parent)) for parent in process.parents()},
            run=environment.get(RUN_VARIABLE, ""),
        )
    except (psutil.Error, ProcessLookupError, PermissionError):
        return None


def _command(process: Any) -> list[str]:
    """A process's command; empty where it may not be asked, or has gone."""
    import psutil

    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _has_cuda(pid: int) -> bool | None:
    """True if a process has `CUDA_FILE` open; None where that may not be asked."""
    try:
        files = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return None
    for file in files:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{file}") == str(CUDA_FILE):
                return True
    return False


def found(machine: Machine) -> list[Holder]:
    """Every process that holds memory of this machine's GPUs, the largest first."""
    if not machine.gpus:
        return []
    import psutil

    told: dict[int, dict[int, int | None]] = {}
    names: dict[int, str] = {}
    for gpu in machine.gpus:
        for shown in gpu.processes:
            told.setdefault(shown.pid, {})[gpu.index] = shown.bytes
            names[shown.pid] = shown.name
    here = {pid: _has_cuda(pid) for pid in psutil.pids()}
    runs = _runs()
    holders = []
    for pid in dict.fromkeys([*told, *(pid for pid, cuda in here.items() if cuda)]):
        # A process that may be asked and has no CUDA is not the one meant: NVML's number is then the host's.
        process = None if here.get(pid) is False else _facts(pid)
        run = run_of(process, runs) if process else None
        program = process.program if process else names.get(pid, "a process that has just ended")
        holders.append(Holder(pid, program, told.get(pid, {}), whose(process, run, os.getpid()), process, run))
    return sorted(holders, key=lambda holder: -sum(held or 0 for held in holder.held.values()))


def _held_text(held: Mapping[int, int | None], several: bool) -> str:
    """How much a process holds, and on which of several GPUs."""
    texts = [
        ("some" if count is None else bytes_text(count)) + (f" on GPU {gpu}" if several else "")
        for gpu, count in held.items()
    ]
    return ", ".join(texts) or "not told"


def _row(holder: Holder, machine: Machine) -> tuple[object, ...]:
    """A holder as a line of a table."""
    return holder.pid, holder.program, _held_text(holder.held, len(machine.gpus) > 1), holder.whose


def _hidden(gpus: Sequence[Gpu]) -> str:
    """What is in use although no process shows; empty if that is no more than the driver's own."""
    used = sum(gpu.memory_bytes - gpu.free_bytes for gpu in gpus)
    if used < RESERVED_BYTES * len(gpus):
        return ""
    return f"{bytes_text(used)} are in use by processes that neither the driver nor this system shows here."


def _count(number: int) -> str:
    return f"{number} process{'es' if number != 1 else ''}"


def holders(machine: Machine | None = None) -> Table:
    """Who holds GPU memory: process, program, how much, and whose it is; the note says it in a sentence.

    Args:
        machine: as it was looked at; looked at anew by default.
    """
    here = machine or look()
    those = found(here)
    ours = [holder for holder in those if holder.run]
    if not here.gpus:
        note = "There is no NVIDIA GPU here, so nothing is held."
    elif not those:
        note = _hidden(here.gpus) or "Nothing holds GPU memory: every stage was a process of its own, and has ended."
    elif ours:
        note = f"{_count(len(those))}, of which {len(ours)} this workshop's: hardware.free_gpu() ends what is ours."
    else:
        listed = ", ".join(f"{holder.program} (process {holder.pid}, {holder.whose})" for holder in those)
        note = f"{_count(len(those))}, none of this workshop's stages: {listed}."
    columns = ("process", "program", "GPU memory", "whose")
    return Table(columns, [_row(holder, here) for holder in those], "Who holds GPU memory", note)


ADVICE = {
    "this kernel": "left alone: Kernel, Shut Down Kernel frees it",
    "a notebook kernel": "left alone: shut that kernel down in Running Terminals and Kernels",
    "started by a notebook kernel": "left alone: it ends with that kernel, or interrupt the cell",
}
"""What is said of a process that is not ended, by whose it is."""


def free_gpu(machine: Machine | None = None, only_own: bool = False) -> Table:
    """End what this workshop's stages hold on the GPU, those under way and what is left over; touch nothing else.

    A stage that is ended this way fails in the notebook that runs it, leaves nothing half-made, and can be run again.

    Args:
        machine: as it was looked at; looked at anew by default.
        only_own: leave alone a stage under way that another notebook started.
    """
    here = machine or look()
    rows = []
    ended = 0
    for holder in found(here):
        done = "left alone: ask whoever started it"
        if only_own and holder.run and _of_another(holder.run):
            done = f"left alone: another notebook is at it ({holder.run.title})"
        elif holder.run and holder.process:
            done = _end(holder.process, holder.run)
            ended += done == "ended"
        rows.append((*_row(holder, here), ADVICE.get(holder.whose, done)))
    if not here.gpus:
        note = "There is no NVIDIA GPU here: nothing to free."
    else:
        what = f"Ended {_count(ended)} of this workshop" if ended else "This workshop held nothing"
        others = f"; left alone: {len(rows) - ended}" if len(rows) > ended else ""
        free = ", ".join(f"{bytes_text(g.free_bytes)} of {bytes_text(g.memory_bytes)}" for g in look().gpus)
        note = f"{what}{others}. Free now: {free}."
    columns = ("process", "program", "GPU memory", "whose", "what was done")
    return Table(columns, rows, "Freeing GPU memory", note)


def _of_another(run: Run) -> bool:
    """True for a stage under way that another process than this one started."""
    from helpers import stage

    return run.alive and not stage.is_own({"pid": run.supervisor})


def _end(process: Process, run: Run, patience: float = 2.0) -> str:
    """End a run's command with all it started, or what is left over of it: politely first, then by force."""
    import psutil

    supervisor = None
    try:
        if run.alive:
            supervisor = psutil.Process(run.supervisor)
            family = supervisor.children(recursive=True)
        else:
            left = psutil.Process(process.pid)
            family = [left, *left.children(recursive=True)]
    except psutil.NoSuchProcess:
        return "ended"  # by itself, a moment ago
    try:
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        _, staying = psutil.wait_procs(family, timeout=patience)
        for member in staying:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        _, staying = psutil.wait_procs(staying, timeout=patience)
        if supervisor:
            supervisor.wait(timeout=5)  # it sweeps what was half-made
    except psutil.AccessDenied:
        return "could not be ended: it belongs to another user"
    except psutil.TimeoutExpired:
        return "ended; its supervisor is still cleaning up"
    return "could not be ended: it waits for the disk or the driver" if staying else "ended"
