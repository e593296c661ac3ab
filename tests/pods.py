"""Pods for tests: a machine of ``tests/doubles/machines.toml``, with or without a TensorRT-LLM release on it.

A pod is environment variables. Child processes get them through :attr:`Pod.environment`; :meth:`Pod.enter` puts the
test's own process on the pod.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import doubles
import pytest
from conftest import ROOT

# Variables of this machine that a pod must not inherit: they would choose another toolchain, GPU or batch system.
FOREIGN = ("CUDA_", "SLURM_", "DOUBLE_", "WORKSHOP_", "NVIDIA_")


@dataclass(frozen=True)
class Pod:
    """One pod.

    Attributes:
        machine: a key of ``machines.toml``, or such a row as JSON.
        home: its workspace.
        python: the interpreter of the release on it; None for a pod that has none.
    """

    machine: str
    home: Path
    python: Path | None = None

    @property
    def variables(self) -> dict[str, str]:
        """What makes a process run as on this pod, beside the test's own environment."""
        return doubles.pod(self.machine, self.home, self.python)

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of a child process on this pod."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return {**kept, **self.variables}

    def run(
        self, command: Sequence[str | Path], more: Mapping[str, str] | None = None, seconds: float = 600
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on this pod, from the repository's root; its output is kept."""
        environment = {**self.environment, **(more or {})}
        words = [str(word) for word in command]
        return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)

    def program(
        self, name: str, *words: str | Path, seconds: float = 120, **more: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run one of the release's programs, or with ``python`` its interpreter."""
        assert self.python, "this pod has no release"
        return self.run([self.python.parent / name, *words], more, seconds)

    def helpers(self, *words: str, seconds: float = 600) -> "subprocess.CompletedProcess[str]":
        """``python -m helpers ...`` on this pod."""
        return self.run([sys.executable, "-m", "helpers", *words], None, seconds)

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put this process on the pod until the test ends."""
        for name in [name for name in os.environ if name.startswith(FOREIGN)]:
            monkeypatch.delenv(name)
        for name, value in self.variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.syspath_prepend(str(doubles.SITE))
        real = sys.modules.pop("pynvml", None)
        double = importlib.import_module("pynvml")
        if real:
            sys.modules["pynvml"] = real
        else:
            del sys.modules["pynvml"]
        monkeypatch.setitem(sys.modules, "pynvml", double)  # what was there comes back when the test ends


def pod(machine: str, folder: Path, release: str | None = None) -> Pod:
    """A pod whose workspace, and the release on it if one is named, are in ``folder``."""
    python = doubles.make_release(folder / f"trtllm-{release}", release) if release else None
    return Pod(machine, folder / "workshop", python)


def rtx_4090(folder: Path) -> Pod:
    """The pod of the talk: FP8, driver 580, TensorRT-LLM 1.2.1."""
    return pod("rtx-4090", folder, "1.2.1")


def a10g(folder: Path) -> Pod:
    """A pod without FP8: INT8, driver 550, TensorRT-LLM 1.0.0."""
    return pod("a10g", folder, "1.0.0")


def old_driver(folder: Path) -> Pod:
    """A pod whose driver is too old for any release: its GPU stays idle, and OpenVINO is used."""
    return pod("old-driver", folder)
