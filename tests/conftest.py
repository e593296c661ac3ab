"""What all tests share: a workspace of their own, real kernels, and a watch on the processes that they start."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tools.run_notebooks import private_folders

ROOT = Path(__file__).resolve().parent.parent
# Fixtures that set WORKSHOP_HOME themselves, to a workspace that several tests share because it is slow to fill.
SHARED = {"shared_home", "made_by_notebooks", "in_order"}


@pytest.fixture(autouse=True)
def own_home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    """``WORKSHOP_HOME`` in the test's own folder, unless the test asks for a shared one."""
    if SHARED & set(request.fixturenames):
        return None
    home = tmp_path / "workshop"
    monkeypatch.setenv("WORKSHOP_HOME", str(home))
    return home


def until(condition: Callable[[], Any], seconds: float = 10, what: str = "") -> Any:
    """Wait for a condition and return what it gave; the test fails if it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what or condition} did not come true within {seconds} s"
        time.sleep(0.03)
    return found


def runs(pid: int) -> bool:
    """True if a process exists and is not merely waiting for its parent to notice its end."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@dataclass
class Pids:
    """A file in which the processes of a stage note their numbers, so that a test can see whether they have ended."""

    file: Path

    def read(self) -> list[int]:
        return [int(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def wait(self, count: int) -> list[int]:
        return list(until(lambda: found if len(found := self.read()) >= count else None, 15, f"{count} processes"))

    def alive(self) -> list[int]:
        return [pid for pid in self.read() if runs(pid)]

    def all_gone(self, seconds: float = 5) -> None:
        until(lambda: not self.alive(), seconds, "the end of every process of the stage")


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Pids]:
    """Where this test's stages note their processes; what is left of them at the end is ended."""
    noted = Pids(tmp_path / "pids")
    yield noted
    for pid in noted.alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@dataclass
class Cell:
    """What one executed cell showed: the messages that a browser would draw, in order."""

    displays: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None

    @property
    def shown(self) -> dict[str, str]:
        """The one output that the cell has now, by MIME type; fails if it has several."""
        assert len(self.displays) == 1, self.displays
        data: dict[str, str] = (self.updates or self.displays)[-1]["data"]
        return data


class Kernel:
    """A real Jupyter kernel, driven as a browser tab drives it."""

    def __init__(self) -> None:
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(ROOT / "notebooks"))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    @property
    def pid(self) -> int:
        return int(self.manager.provisioner.pid)

    def start(self, code: str) -> str:
        """Run a cell without waiting for it; the answer is for :meth:`finish`."""
        return str(self.client.execute(code))

    def finish(self, cell: str, seconds: float = 30) -> Cell:
        """Collect what a cell showed until it ended."""
        shown, deadline = Cell(), time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                message = self.client.get_iopub_msg(timeout=0.5)
                if message["parent_header"].get("msg_id") != cell:
                    continue
                kind, content = message["msg_type"], message["content"]
                if kind in ("display_data", "execute_result"):
                    shown.displays.append(content)
                elif kind == "update_display_data":
                    shown.updates.append(content)
                elif kind == "stream":
                    shown.streams.append(content["text"])
                elif kind == "error":
                    shown.error = content
                elif kind == "status" and content["execution_state"] == "idle":
                    return shown
        raise AssertionError(f"the cell did not end within {seconds} s")

    def run(self, code: str) -> Cell:
        return self.finish(self.start(code))

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@contextlib.contextmanager
def kernel_of_its_own(place: Path) -> Iterator[Kernel]:
    """A kernel of this Python, in the folder of the notebooks, that keeps Jupyter's own files in ``place``."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, folder in private_folders(place).items():
            Path(folder).mkdir(parents=True)
            patch.setenv(variable, folder)
        running = Kernel()
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def module_kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel for all tests of a file, since starting one takes a second."""
    with kernel_of_its_own(tmp_path_factory.mktemp("kernel")) as running:
        yield running


@pytest.fixture
def kernel(module_kernel: Kernel, own_home: Path) -> Kernel:
    """A kernel in the test's own workspace; names that earlier tests gave it are forgotten."""
    module_kernel.run(f"%reset -f\nimport os, sys\nos.environ['WORKSHOP_HOME'] = {str(own_home)!r}")
    module_kernel.run("sys.modules.pop('workshop', None)")
    return module_kernel


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One workspace for every test that needs real checkpoints and engines, which take minutes to make."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("shared") / "workshop"
        patch.setenv("WORKSHOP_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def made_by_notebooks(
    shared_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> "subprocess.CompletedProcess[str]":
    """The shared workspace as notebook 04 leaves it, run alone and from nothing; what the runner said."""
    command = [sys.executable, "-m", "tools.run_notebooks", "--only", "04", "--out"]
    command.append(str(tmp_path_factory.mktemp("pages")))
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="session")
def in_order(
    made_by_notebooks: "subprocess.CompletedProcess[str]", tmp_path_factory: pytest.TempPathFactory
) -> "tuple[Path, subprocess.CompletedProcess[str]]":
    """All notebooks run in order in the shared workspace: the folder of the pages, and what the runner said."""
    out = tmp_path_factory.mktemp("in-order")
    command = [sys.executable, "-m", "tools.run_notebooks", "--out", str(out)]
    return out, subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
