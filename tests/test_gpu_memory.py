"""Who holds GPU memory is told, and only what this workshop's stages hold is ever ended."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, runs, until
from test_hardware import FakeDriver

from helpers import hardware, stage
from helpers.hardware import gpu_memory
from helpers.hardware.gpu_memory import Process, Run, run_of, whose

GB = 10**9

RUN = Run("FP8 engine", "/home/runs/7", supervisor=10, group=20, alive=True, started=1000.0, ended=1060.0)
OVER = replace(RUN, alive=False)
KERNEL_COMMAND = ("/usr/bin/python3", "-m", "ipykernel_launcher", "-f", "kernel.json")


@pytest.mark.parametrize(
    ("process", "run", "belongs"),
    [
        (Process(30, ("a",), ancestors={20: ("b",), 10: ("supervisor",)}), RUN, True),
        (Process(30, ("a",), ancestors={20: ("b",), 10: ("another of that number",)}), OVER, False),
        (Process(30, ("a",), session=20, started=1010.0), RUN, True),
        (Process(30, ("a",), group=20, session=4, started=1010.0), RUN, True),
        (Process(30, ("a",), session=20, started=1010.0), OVER, True),
        (Process(30, ("a",), session=20, started=5000.0), OVER, False),  # the number was given out again
        (Process(30, ("a",), session=20, started=10.0), OVER, False),
        (Process(30, ("a",), session=30, started=5000.0, run="/home/runs/7"), OVER, True),
        (Process(30, ("a",), session=20, started=1010.0, run="/home/runs/8"), OVER, False),
        (Process(30, ("a",), session=1, started=1010.0), RUN, False),
        (Process(0, ("a",)), replace(OVER, group=0), False),
    ],
)
def test_what_belongs_to_a_run(process, run, belongs):
    assert (run_of(process, [run]) is run) == belongs
    assert run_of(process, []) is None


@pytest.mark.parametrize(
    ("process", "run", "says"),
    [
        (Process(30, ("a",)), RUN, "this workshop: FP8 engine"),
        (Process(30, ("a",)), OVER, "this workshop: left over from FP8 engine"),
        (Process(7, KERNEL_COMMAND), None, "this kernel"),
        (Process(30, KERNEL_COMMAND), None, "a notebook kernel"),
        (Process(30, ("a",), ancestors={29: KERNEL_COMMAND}), None, "started by a notebook kernel"),
        (Process(30, ("a",), ancestors={29: ("jupyter-lab",)}), None, "somebody else's"),
        (None, None, "numbered outside this container"),
    ],
)
def test_whose_it_is_in_words(process, run, says):
    assert whose(process, run, own=7) == says


@pytest.mark.parametrize(
    ("command", "program"),
    [
        (KERNEL_COMMAND, "python3 -m ipykernel_launcher"),
        (("/venv/bin/python3.12", "/venv/bin/trtllm-build", "--output_dir", "x"), "python3.12 trtllm-build"),
        (("/usr/bin/python", "-c", "secret = 'x'"), "python -c"),
        (("/opt/server", "--key=secret"), "server"),
        ((), "a process without a name"),
    ],
)
def test_a_program_is_named_without_its_arguments(command, program):
    assert Process(1, command).program == program


# --- Real processes, under a driver that the test plays

# Holds the file that every process with CUDA holds; {more} comes first.
HOLD = "import os, sys, time; {more}file = open({file!r}); print(os.getpid(), flush=True); time.sleep(600)"
NOTED = "open({noted!r}, 'a').write(f'{{os.getpid()}}\\n'); "

IN_A_KERNEL = """
import json, sys
from pathlib import Path
from helpers import stage
from helpers.errors import WorkshopError
command, target = json.loads(sys.argv[1])
try:
    stage.run(stage.Stage(title="FP8 engine", kind="engine", command=command, target=Path(target)))
except WorkshopError as problem:
    print(problem)
    sys.exit(3)
"""


class Driver(FakeDriver):
    """A 4090 whose memory the listed processes hold."""

    def __init__(self, *processes, held=0):
        super().__init__("NVIDIA GeForce RTX 4090", (8, 9), 24 * GB, 24 * GB - held, processes=processes)

    def nvmlSystemGetProcessName(self, pid):
        return "/usr/bin/python3"

    def tells_nothing(self, *_):
        raise self.NVMLError

    nvmlDeviceGetP2PStatus = nvmlDeviceGetTopologyCommonAncestor = nvmlDeviceGetNvLinkState = tells_nothing


@pytest.fixture
def play(monkeypatch):
    """Let the driver tell of these processes and bytes, and return the machine with it."""

    def install(*processes, held=0):
        monkeypatch.setitem(sys.modules, "pynvml", Driver(*processes, held=held))
        return hardware.look()

    return install


@pytest.fixture
def cuda(tmp_path, monkeypatch):
    """A file in the place of the driver's; its path."""
    file = tmp_path / "nvidia-uvm"
    file.touch()
    monkeypatch.setattr(gpu_memory, "CUDA_FILE", file)
    return str(file)


@pytest.fixture
def start(cuda):
    """Start a process that holds GPU memory, and wait until it does; all end with the test."""
    with ExitStack() as ending:

        def run(*arguments, more=""):
            command = [sys.executable, "-c", HOLD.format(file=cuda, more=more), *arguments]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            ending.callback(child.communicate)
            ending.callback(child.kill)
            child.stdout.readline()
            return child

        yield run


@pytest.fixture
def a_stage(cuda, tmp_path, pids):
    """A stage under way, as a kernel runs it, whose command's child holds GPU memory; the kernel and that child."""
    noted = NOTED.format(noted=str(pids.file))
    child = HOLD.format(file=cuda, more=noted)
    parent = f"import os, subprocess, sys; {noted}subprocess.run([sys.executable, '-c', {child!r}])"
    target = tmp_path / "workshop" / "engines" / "fp8"
    words = json.dumps([[sys.executable, "-c", parent, "{out}"], str(target)])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    kernel = subprocess.Popen(
        [sys.executable, "-c", IN_A_KERNEL, words], stdout=subprocess.PIPE, text=True, env=environment
    )
    _, holder = pids.wait(2)
    until(lambda: gpu_memory._has_cuda(holder))
    yield kernel, holder
    kernel.kill()
    kernel.communicate()
    pids.all_gone()


def row(table, pid):
    """The line of one process, by column."""
    return next((dict(zip(table.columns, line, strict=True)) for line in table.rows if line[0] == pid), None)


def test_only_this_workshops_stages_are_ended(a_stage, start, play, pids, tmp_path):
    kernel, ours = a_stage
    stranger, notebook = start(), start("ipykernel_launcher")
    machine = play((ours, 6 * GB), (stranger.pid, 2 * GB), (notebook.pid, None), held=9 * GB)

    table = hardware.holders(machine)
    assert [line[0] for line in table.rows][:2] == [ours, stranger.pid]  # the largest first
    assert row(table, ours)["whose"] == "this workshop: FP8 engine"
    assert row(table, ours)["GPU memory"] == "6.00 GB"
    assert (row(table, stranger.pid)["whose"], row(table, stranger.pid)["program"]) == (
        "somebody else's",
        f"{Path(sys.executable).name} -c",
    )
    assert (row(table, notebook.pid)["whose"], row(table, notebook.pid)["GPU memory"]) == ("a notebook kernel", "some")
    assert "3 processes, of which 1 this workshop's: hardware.free_gpu()" in table.note

    freed = hardware.free_gpu(machine)
    assert row(freed, ours)["what was done"] == "ended"
    assert row(freed, stranger.pid)["what was done"].startswith("left alone")
    assert "shut that kernel down" in row(freed, notebook.pid)["what was done"]
    assert freed.note.startswith("Ended 1 process of this workshop; left alone: 2. Free now: 15.00 GB of 24.00 GB")
    assert not runs(ours)
    assert runs(stranger.pid)
    assert runs(notebook.pid)
    assert kernel.wait(10) == 3
    assert "FP8 engine: the command" in kernel.stdout.read()
    pids.all_gone()
    assert [name for name in (tmp_path / "workshop" / "engines").iterdir() if "fp8" in name.name] == []


def test_what_the_driver_hides_is_found_by_the_file_it_holds(a_stage, start, play):
    _, ours = a_stage
    stranger = start()
    machine = play(held=9 * GB)
    table = hardware.holders(machine)
    assert row(table, ours)["GPU memory"] == row(table, stranger.pid)["GPU memory"] == "not told"
    hardware.free_gpu(machine)
    assert not runs(ours)
    assert runs(stranger.pid)


def test_what_a_killed_supervisor_left_is_known_and_ended(a_stage, start, play):
    kernel, ours = a_stage
    (state,) = [state for _, state in stage.runs()]
    os.kill(state["pid"], signal.SIGSTOP)  # else it would notice the kernel's end and tidy up
    kernel.kill()
    kernel.wait()
    os.kill(state["pid"], signal.SIGKILL)
    until(lambda: not runs(state["group"]))
    assert runs(ours)
    machine = play((ours, 6 * GB), held=7 * GB)
    assert row(hardware.holders(machine), ours)["whose"] == "this workshop: left over from FP8 engine"
    assert row(hardware.free_gpu(machine), ours)["what was done"] == "ended"
    assert not runs(ours)


def test_a_process_of_a_stage_tells_its_run(start, monkeypatch):
    monkeypatch.setenv(gpu_memory.RUN_VARIABLE, "/home/runs/7")
    child = start()
    assert gpu_memory._facts(child.pid).run == "/home/runs/7"
    assert run_of(gpu_memory._facts(child.pid), [OVER]) is OVER
    assert gpu_memory._facts(2**22 + 1) is None


def test_another_process_with_a_hosts_number_is_left_alone(start, play, tmp_path):
    here = subprocess.Popen(["sleep", "600"])  # of this container, and not what the driver means
    try:
        machine = play((here.pid, 2 * GB), held=3 * GB)
        assert "numbered outside" in row(hardware.holders(machine), here.pid)["whose"]
        assert row(hardware.free_gpu(machine), here.pid)["what was done"] == "left alone: ask whoever started it"
        assert here.poll() is None
    finally:
        here.kill()
        here.wait()


def test_a_kernel_that_holds_memory_itself_is_told_how_to_free_it(cuda, play):
    with open(cuda):
        machine = play()
        assert row(hardware.holders(machine), os.getpid())["whose"] == "this kernel"
        assert "this kernel" in hardware.holders(machine).note
        assert "Shut Down Kernel" in row(hardware.free_gpu(machine), os.getpid())["what was done"]


def test_a_childs_memory_is_told_with_its_kernel(cuda, start, play):
    more = f"import subprocess; subprocess.Popen([sys.executable, '-c', {HOLD.format(file=cuda, more='')!r}]); "
    kernel = start("ipykernel_launcher", more=more)
    (child,) = until(lambda: psutil.Process(kernel.pid).children())
    until(lambda: gpu_memory._has_cuda(child.pid))
    try:
        assert row(hardware.holders(play()), child.pid)["whose"] == "started by a notebook kernel"
    finally:
        child.kill()


def test_memory_on_several_gpus_is_told_apart(start, play, monkeypatch):
    child = start()
    driver = Driver((child.pid, 2 * GB))
    monkeypatch.setattr(driver, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    held = row(hardware.holders(), child.pid)["GPU memory"]
    assert held == "2.00 GB on GPU 0, 2.00 GB on GPU 1"


def test_nothing_held_is_said_in_a_sentence(cuda, play):
    assert hardware.holders(play(held=GB // 2)).note.startswith("Nothing holds GPU memory")
    assert hardware.holders(play(held=20 * GB)).note.startswith("20.00 GB are in use by processes that neither")
    assert hardware.free_gpu(play()).note == "This workshop held nothing. Free now: 24.00 GB of 24.00 GB."


def test_without_a_gpu_there_is_nothing_to_free(cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    machine = hardware.look()
    with open(cuda):  # not even asked for
        assert hardware.holders(machine).rows == []
    assert "no NVIDIA GPU" in hardware.holders(machine).note
    assert "no NVIDIA GPU" in hardware.free_gpu(machine).note


def test_looking_for_holders_is_quick(cuda, play):
    machine = play()
    start = time.perf_counter()
    hardware.holders(machine)
    assert time.perf_counter() - start < 2
