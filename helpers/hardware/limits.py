"""A device's two limits, memory bandwidth and matrix rate, measured in a process of its own.

Which Python touches a GPU: the installed release's, else another one with a torch that sees CUDA (a pod image's own).
Where there is none yet, the datasheet is shown, and says that it is one. Taught in ``notebooks/01_gpu_checks.ipynb``.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from helpers import processes
from helpers.cards import Shown, Table, bytes_text, paragraph
from helpers.errors import WorkshopError
from helpers.hardware.gpus import GB, Datasheet, datasheet, datasheets
from helpers.hardware.machine import Gpu, Machine, choice_for, supported_gpu

WORKER = Path(__file__).parents[1] / "workers" / "roofline.py"
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}
"""Bytes of one weight in each precision."""

GPU_SECONDS = 60
"""How long a Python on PATH may take to measure a GPU: seconds to measure, the rest to import torch from a disk."""

FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""Variables of this environment that would make another Python load this one's packages."""


def operations_text(rate: float) -> str:
    """Operations a second in a unit that leaves at most four digits, such as ``791 TFLOP/s``."""
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if rate >= size:
            return f"{rate / size:.3g} {unit}FLOP/s"
    return f"{rate / 1e6:.3g} MFLOP/s"


@dataclass(frozen=True, repr=False)
class Roofline(Shown):
    """A device's two limits: measured on it just now, or its datasheet's until that can be done.

    Args:
        device: its name.
        bandwidth: bytes read plus written a second.
        rates: precision to operations a second in a large matrix product.
        torch: the version that measured; empty for a datasheet's limits.
        seconds: how long measuring took.
        note: why another device than the GPU was measured, or why none was; empty otherwise.
        published: the datasheet to compare with.
        label: where the figures come from: empty if measured in this run, else ``datasheet`` or ``predicted``.
    """

    device: str
    bandwidth: float
    rates: Mapping[str, float]
    torch: str
    seconds: float
    note: str = ""
    published: Datasheet | None = field(default=None, compare=False)
    label: str = ""

    def tokens_to_balance(self, precision: str) -> float:
        """Tokens in one step at which reading the weights takes as long as multiplying by them.

        Each weight read (``BYTES[precision]`` bytes) is one multiplication and one addition per token.
        """
        return self.rates[precision] * BYTES[precision] / (2 * self.bandwidth)

    def emulated(self, precision: str) -> bool:
        """True if the arithmetic is slower than reading the weights even for one token: there is none in silicon."""
        return self.tokens_to_balance(precision) < 1

    def table(self) -> Table:
        """The limits, their share of the datasheet's, and where a step turns compute-bound."""
        rows = [("memory", f"{self.bandwidth / GB:,.1f} GB/s", self._share("bandwidth", self.bandwidth), "")]
        for precision, rate in self.rates.items():
            emulated = self.emulated(precision)
            found = operations_text(rate) + (" (emulated: no such arithmetic here)" if emulated else "")
            tokens = "–" if emulated else f"{self.tokens_to_balance(precision):,.0f}"
            rows.append((f"{precision.upper()} matrix product", found, self._share(precision, rate), tokens))
        columns = ["limit", self.label or "measured", "of the datasheet", "tokens to balance"]
        shown = [0, 1, 2, 3] if self.published else [0, 1, 3]
        caption = f"Limits of {self.device}, measured in {self.seconds:.1f} s with torch {self.torch}"
        if self.label:
            caption = f"{self.label}: limits of {self.device}"
        note = " ".join(filter(None, [self.note, self._finding()]))
        return Table([columns[i] for i in shown], [[row[i] for i in shown] for row in rows], caption, note)

    def _share(self, precision: str, measured: float) -> str:
        """Measured as a share of what the datasheet publishes."""
        if self.published is None:
            return "–"
        rates = {**self.published.rates, "bandwidth": self.published.bandwidth}
        rates.setdefault("bf16", rates.get("fp16", 0))
        return f"{measured / rates[precision]:.0%}" if rates.get(precision) else "–"

    def _finding(self) -> str:
        """What precision buys on this device, computed."""
        usual = "fp32" if "fp32" in self.rates and "fp8" not in self.rates else "fp16"
        fastest = max(self.rates, key=lambda p: self.rates[p])
        where = "there" if self.label else "here"
        if usual not in self.rates or fastest == usual:
            return f"{fastest.upper()} multiplies fastest {where}."
        times = self.rates[fastest] / self.rates[usual]
        return f"{fastest.upper()} multiplies {times:.1f} times as fast as {usual.upper()} {where}."

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _told(
    python: str, device: str, limit: float, environment: Mapping[str, str] | None = None, more: tuple[str, ...] = ()
) -> dict[str, Any] | str:
    """What the worker prints under one Python, or why it printed nothing."""
    command = [python, str(WORKER), "--device", device, *more]
    try:
        status, output, errors = processes.answer(command, limit, os.environ if environment is None else environment)
    except subprocess.TimeoutExpired:
        return f"no answer within {limit:g} s"
    except OSError as problem:
        return problem.strerror or str(problem)
    if status:
        return (errors.strip().splitlines() or ["it ended without a message"])[-1][:300]
    try:
        return dict(json.loads(output.strip().splitlines()[-1]))
    except (ValueError, LookupError, TypeError):
        return "its answer was not a measurement"


def _tried(python: str, device: str, limit: float, environment: Mapping[str, str] | None = None) -> Roofline | str:
    """What the worker measures under one Python, or why it measured nothing."""
    found = _told(python, device, limit, environment)
    if isinstance(found, str):
        return found
    try:
        skipped = [f"{precision.upper()} was not measured: {why}." for precision, why in found["skipped"].items()]
        return Roofline(
            device=found["device"],
            bandwidth=found["bandwidth"],
            rates=found["rates"],
            torch=found["torch"],
            seconds=found["seconds"],
            note=" ".join(skipped),
            published=datasheet(found["device"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return "its answer was not a measurement"


def _cpu(machine: Machine, limit: float, note: str = "") -> Roofline:
    """The CPU's limits under its model's name.

    Raises:
        WorkshopError: nothing was measured within ``limit`` seconds.
    """
    measured = _tried(sys.executable, "cpu", limit)
    if isinstance(measured, str):
        raise WorkshopError(f"The roofline was not measured: {measured}; run the cell again.")
    return replace(measured, device=f"{machine.cpu.model}, {machine.cpu.cores} cores", note=note)


def other_pythons() -> list[str]:
    """Pythons that may have a torch for the GPU: ``WORKSHOP_TRTLLM_PYTHON``, then each ``python3`` on PATH.

    ``none`` there names nobody. Left out: this interpreter's own, which an activated virtual environment puts first on
    PATH.
    """
    named = os.environ.get("WORKSHOP_TRTLLM_PYTHON")
    folders = dict.fromkeys(Path(folder).resolve() for folder in os.environ.get("PATH", "").split(os.pathsep) if folder)
    folders.pop(Path(sys.prefix, "bin").resolve(), None)
    on_path = [found for folder in folders if (found := shutil.which("python3", path=str(folder)))]
    return [named, *on_path] if named and named != "none" else on_path


def _own_torch() -> str:
    """The version of this environment's torch, which says if it is a CPU build; empty without one."""
    from importlib import metadata

    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def gpu_pythons(machine: Machine, limit: float = 120) -> Iterator[tuple[str, float, dict[str, str]]]:
    """Every Python that may measure the GPU, the release's first: its path, how long it may take, its environment.

    This interpreter comes last, and only where somebody runs the notebooks on a torch that is no CPU build.
    """
    from helpers import releases

    installed = releases.current(machine)
    if installed:
        yield str(installed.python), limit, _seeing_one(machine, releases.worker_environment(installed))
    own = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    own_torch = _own_torch()
    last = [sys.executable] if own_torch and not own_torch.endswith("+cpu") else []
    for python in [*other_pythons(), *last]:
        if installed is None or Path(python) != installed.python:
            yield python, min(limit, GPU_SECONDS), _seeing_one(machine, own)


def _seeing_one(machine: Machine, environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which CUDA's first device is the GPU that is meant, not the fastest of several."""
    gpu = supported_gpu(machine)
    chosen = dict(environment)
    if gpu and len(machine.gpus) > 1 and not gpu.is_slice and "CUDA_VISIBLE_DEVICES" not in chosen:
        chosen |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(gpu.index)}
    return chosen


def roofline(machine: Machine, limit: float = 120) -> Roofline:
    """The limits of this machine's GPU, or of its CPU where no GPU can be used, within ``limit`` seconds a try.

    They are measured in a child process, so that nothing stays on the GPU; the notebooks' own torch is a CPU build.
    Where none of `gpu_pythons` can measure the GPU yet, its datasheet is given. The CPU is measured where there is no
    datasheet either, or no release that fits, for then it is what engines run on.

    Raises:
        WorkshopError: the CPU was not measured, or not in time.
    """
    gpu = supported_gpu(machine)
    if gpu is None:
        return _cpu(machine, limit)
    problems = []
    for python, seconds, environment in gpu_pythons(machine, limit):
        tried = _tried(python, "cuda", seconds, environment)
        if isinstance(tried, Roofline):
            return tried
        problems.append(f"{python}: {tried}")
    why = "; ".join(problems) or "no other Python is on PATH, and the notebooks' torch is a CPU build"
    why = f"nothing here could measure the {gpu.name} ({why})"
    choice = choice_for(gpu)
    sheet = _sheet(gpu) if choice.release else None
    follows = _follows(machine, why) if choice.release else choice.why
    if sheet is None:
        return _cpu(machine, limit, f"This is the CPU, for {why}. {follows}")
    rates = {precision: rate for precision, rate in sheet.rates.items() if precision in BYTES}
    return Roofline(gpu.name, sheet.bandwidth, rates, "", 0.0, f"Not measured: {why}. {follows}", label=sheet.label)


@dataclass(frozen=True, repr=False)
class ReadSpeed(Shown):
    """How fast so many bytes are read again and again: a cache's speed where they fit in one, else memory's.

    Args:
        device: its name.
        bytes: that were read each time; 0 for a datasheet's bandwidth, which is memory's.
        bandwidth: bytes a second.
        label: where it comes from: empty if measured in this run, else ``datasheet`` or ``predicted``.
        note: why another device or none was measured; empty otherwise.
        memory: bytes a second of the device's memory, measured right after it as in notebook 01; 0 if it was not.
    """

    device: str
    bytes: int
    bandwidth: float
    label: str = ""
    note: str = ""
    memory: float = 0.0

    @property
    def spoiled(self) -> bool:
        """True if it is below what memory gave right after it, which no reading is unless other work slows it."""
        return self.bandwidth < 0.8 * self.memory

    @property
    def sentence(self) -> str:
        """How fast, at which size, and where that comes from."""
        speed = f"{self.bandwidth / GB:,.1f} GB/s"
        if self.label:
            return f"{self.label}: {speed}, the memory of {self.device}. {self.note}".strip()
        return f"measured: {speed} at {bytes_text(self.bytes)} on {self.device}. {self.note}".strip()

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        return paragraph(self.sentence)


def _read_on(
    python: str, device: str, size: int, limit: float, environment: Mapping[str, str] | None
) -> ReadSpeed | str:
    """How fast one Python's torch reads, or why it measured nothing."""
    found = _told(python, device, limit, environment, ("--read", str(size)))
    if isinstance(found, str):
        return found
    try:
        speed, memory = float(found["read"]), float(found["memory"])
        return ReadSpeed(str(found["device"]), int(found["bytes"]), speed, memory=memory)
    except (ValueError, LookupError, TypeError):
        return "its answer was not a measurement"


def read_speed(machine: Machine, size: int, limit: float = 120) -> ReadSpeed:
    """How fast ``size`` bytes are read again and again where engines run: on the GPU, else on the CPU (notebook 08).

    Where no Python can measure the GPU its datasheet is given, as :func:`roofline` does.

    Args:
        machine: from :func:`helpers.hardware.look`.
        size: bytes, at least 4,096; at most half of a GPU's free memory is read, and a quarter of the CPU's.
        limit: seconds that a try may take.

    Raises:
        WorkshopError: fewer bytes, or nothing was measured.
    """
    if size < 4096:
        raise WorkshopError(f"Reading {size:,} bytes measures nothing but the clock: give at least 4,096.")
    gpu = supported_gpu(machine)
    note = ""
    if gpu is not None and choice_for(gpu).release:
        problems = []
        for python, seconds, environment in gpu_pythons(machine, limit):
            tried = _read_on(python, "cuda", size, seconds, environment)
            if isinstance(tried, ReadSpeed):
                return tried
            problems.append(f"{python}: {tried}")
        sheet = _sheet(gpu)
        why = "; ".join(problems) or "no Python with a torch for it was found"
        if sheet is not None:
            return ReadSpeed(gpu.name, 0, sheet.bandwidth, sheet.label, f"Not measured: {why}.")
        note = f"This is the CPU, for the {gpu.name} was not measured ({why})."
    found = _read_on(sys.executable, "cpu", min(size, machine.memory_bytes // 4), limit, None)
    if isinstance(found, str):
        raise WorkshopError(f"The bandwidth was not measured: {found}; run the cell again.")
    return replace(found, device=f"{machine.cpu.model}, {machine.cpu.cores} cores", note=note)


def _sheet(gpu: Gpu) -> Datasheet | None:
    """What is published of a GPU, or predicted of a slice; None where ``data/gpus.toml`` has no row for it."""
    slices = (row for row in datasheets() if row.slice_of and gpu.name.endswith(row.match))
    return datasheet(gpu.name) or next(slices, None)


def _follows(machine: Machine, why: str) -> str:
    """When a GPU that could not be measured will be: after what the reader does next."""
    from helpers import releases

    if "out of memory" in why:
        return "See hardware.holders() for who holds its memory, free some, then run this cell again."
    if releases.current(machine):
        return "Mend what is said of the first of them, which is the installed release's, then run this cell again."
    return "The measurement follows after notebook 02, which installs a torch for it: run this cell again then."
