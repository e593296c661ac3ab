"""A device's two limits, memory bandwidth and matrix rate, measured in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from helpers.cards import Shown, Table
from helpers.errors import WorkshopError
from helpers.hardware.gpus import GB, Datasheet, datasheet
from helpers.hardware.machine import Machine, supported_gpu

WORKER = Path(__file__).parents[1] / "workers" / "roofline.py"
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1, "int8": 1}
"""Bytes of one weight in each precision."""

GPU_SECONDS = 60
"""How long a Python may take to measure a GPU: seconds to measure, the rest to import torch from a slow disk."""


def operations_text(rate: float) -> str:
    """Operations a second in a unit that leaves at most four digits, such as ``791 TFLOP/s``."""
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if rate >= size:
            return f"{rate / size:.3g} {unit}FLOP/s"
    return f"{rate / 1e6:.3g} MFLOP/s"


@dataclass(frozen=True, repr=False)
class Roofline(Shown):
    """A device's two limits, measured on it just now.

    Args:
        device: its name.
        bandwidth: bytes read plus written a second.
        rates: precision to operations a second in a large matrix product.
        torch: the version that measured.
        seconds: how long measuring took.
        note: why another device than the GPU was measured; empty otherwise.
    """

    device: str
    bandwidth: float
    rates: Mapping[str, float]
    torch: str
    seconds: float
    note: str = ""
    published: Datasheet | None = field(default=None, compare=False)

    def tokens_to_balance(self, precision: str) -> float:
        """Tokens in one step at which reading the weights takes as long as multiplying by them.

        Each weight read (``BYTES[precision]`` bytes) is one multiplication and one addition per token.
        """
        return self.rates[precision] * BYTES[precision] / (2 * self.bandwidth)

    def emulated(self, precision: str) -> bool:
        """True if the arithmetic is slower than reading the weights even for one token: there is none in silicon."""
        return self.tokens_to_balance(precision) < 1

    def table(self) -> Table:
        """Measured limits, their share of the datasheet's, and where a step turns compute-bound."""
        rows = [("memory", f"{self.bandwidth / GB:,.1f} GB/s", self._share("bandwidth", self.bandwidth), "")]
        for precision, rate in self.rates.items():
            emulated = self.emulated(precision)
            found = operations_text(rate) + (" (emulated: no such arithmetic here)" if emulated else "")
            tokens = "–" if emulated else f"{self.tokens_to_balance(precision):,.0f}"
            rows.append((f"{precision.upper()} matrix product", found, self._share(precision, rate), tokens))
        columns = ["limit", "measured", "of the datasheet", "tokens to balance"]
        shown = [0, 1, 2, 3] if self.published else [0, 1, 3]
        caption = f"Limits of {self.device}, measured in {self.seconds:.1f} s with torch {self.torch}"
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
        usual = "fp16" if "fp8" in self.rates else "fp32"
        fastest = max(self.rates, key=lambda p: self.rates[p])
        if usual not in self.rates or fastest == usual:
            return f"{fastest.upper()} multiplies fastest here."
        times = self.rates[fastest] / self.rates[usual]
        return f"{fastest.upper()} multiplies {times:.1f} times as fast as {usual.upper()} here."

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _tried(python: str, device: str, limit: float) -> Roofline | str:
    """What the worker measures under one Python, or why it measured nothing."""
    command = [python, str(WORKER), "--device", device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {limit:g} s"
    except OSError as problem:
        return problem.strerror or str(problem)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it ended without a message"])[-1]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Roofline(
        device=found["device"],
        bandwidth=found["bandwidth"],
        rates=found["rates"],
        torch=found["torch"],
        seconds=found["seconds"],
        published=datasheet(found["device"]),
    )


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

    Left out: this interpreter's own, which an activated virtual environment puts first on PATH.
    """
    named = os.environ.get("WORKSHOP_TRTLLM_PYTHON")
    folders = dict.fromkeys(Path(folder).resolve() for folder in os.environ.get("PATH", "").split(os.pathsep) if folder)
    folders.pop(Path(sys.prefix, "bin").resolve(), None)
    on_path = [found for folder in folders if (found := shutil.which("python3", path=str(folder)))]
    return [named, *on_path] if named else on_path


def roofline(machine: Machine, limit: float = 120) -> Roofline:
    """Measure bandwidth and matrix rates in a child process, so that nothing stays on the GPU.

    The notebooks' torch is a CPU build. A GPU is measured by the first of `other_pythons` whose torch sees it; the
    CPU is measured where none does, and the note says what was wrong with each.

    Raises:
        WorkshopError: nothing was measured, or not within ``limit`` seconds.
    """
    gpu = supported_gpu(machine)
    if gpu is None:
        return _cpu(machine, limit)
    problems = []
    for python in other_pythons():
        tried = _tried(python, "cuda", min(limit, GPU_SECONDS))
        if isinstance(tried, Roofline):
            return tried
        problems.append(f"{python}: {tried}")
    why = "; ".join(problems) or "no other Python is on PATH, and the notebooks' torch is a CPU build"
    return _cpu(machine, limit, f"This is the CPU, for nothing here could measure the {gpu.name} ({why}).")
