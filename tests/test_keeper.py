"""Nothing that a kept command starts outlives it, its keeper's parent, or an order to stop."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import ROOT, until

from helpers import keeper

# Starts a process in a session of its own, as MPI's daemon does, notes both, and goes on.
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "a").write(f"{os.getpid()}\\n{child.pid}\\n")
time.sleep(float(sys.argv[2]))
sys.exit(int(sys.argv[3]))
"""
# As a notebook's kernel: holds the other end of the keeper's pipe, and waits.
PARENT = """
import subprocess, sys
from helpers import keeper
subprocess.Popen(keeper.keeping(sys.argv[1:]), stdin=subprocess.PIPE).wait()
"""


def family(pids, seconds: float = 600, status: int = 0) -> list[str]:
    return [sys.executable, "-c", FAMILY, str(pids.file), str(seconds), str(status)]


def kept(command: list[str], **more) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(keeper.keeping(command), cwd=ROOT, **more)


def test_a_killed_parent_takes_the_grandchild_with_it(pids):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *family(pids)], cwd=ROOT)
    pids.wait(2)
    keepers = psutil.Process(parent.pid).children()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    pids.all_gone(5)
    until(lambda: not any(one.is_running() for one in keepers), 5, "the end of the keeper")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_order_to_stop_ends_everything(pids, number):
    running = kept(family(pids), stdin=subprocess.PIPE)
    pids.wait(2)
    running.send_signal(number)
    assert running.wait(5) == 128 + signal.SIGTERM
    pids.all_gone(1)


def test_what_a_command_leaves_behind_ends_with_it_and_its_status_is_told(pids):
    running = kept(family(pids, seconds=0.2, status=7), stdin=subprocess.PIPE)
    assert running.wait(10) == 7
    assert len(pids.read()) == 2
    pids.all_gone(1)


def test_a_command_that_ignores_the_order_is_forced(tmp_path):
    ready = tmp_path / "ready"
    code = f"import signal, time; signal.signal(15, signal.SIG_IGN); open({str(ready)!r}, 'w'); time.sleep(600)"
    running = kept([sys.executable, "-c", code], stdin=subprocess.PIPE)
    until(ready.exists, 10, "its start")
    started = time.monotonic()
    running.stdin.close()
    assert running.wait(5) == 128 + signal.SIGKILL
    assert time.monotonic() - started < 3


def test_streams_are_the_commands_own():
    code = "import sys; data = sys.stdin.buffer.readline(); print(data, flush=True); print('told', file=sys.stderr)"
    running = kept([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running.stdin.write(b"\xff given\n")
    running.stdin.flush()
    assert running.stdout.read() == b"b'\\xff given\\n'\n"
    assert running.stderr.read() == b"told\n"
    assert running.wait(5) == 0
    running.stdin.close()


def test_a_terminals_or_no_standard_input_does_not_end_it():
    for given in (subprocess.DEVNULL, None):
        more = {"preexec_fn": lambda: os.close(0)} if given is None else {"stdin": given}
        assert kept(["sh", "-c", "sleep 0.3; exit 3"], **more).wait(10) == 3


def test_a_command_killed_by_a_signal_is_told_as_shells_tell_it():
    assert kept(["sh", "-c", "kill -9 $$"], stdin=subprocess.PIPE).wait(10) == 137


def test_a_command_that_cannot_be_started_is_one_line():
    done = subprocess.run(keeper.keeping(["/no/such/program"]), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 127
    assert done.stderr == "error: /no/such/program cannot be started: No such file or directory\n"
    done = subprocess.run(keeper.keeping([]), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


def test_a_system_that_cannot_be_asked_for_children_is_taken_to_have_some(monkeypatch):
    """As macOS, which has no ``waitid`` before Python 3.13."""
    monkeypatch.delattr(os, "waitid")
    assert keeper.has_children()
