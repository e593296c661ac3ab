"""A stage in a notebook's cell, in a real Jupyter kernel: what it shows, and that it never outlives the kernel."""

import os
import signal
import time
from pathlib import Path

import pytest
from conftest import Cell, Kernel, Pids, kernel_of_its_own, until

from helpers import stage

OPENING = """
import sys
import workshop  # puts the helpers within reach, as every notebook's first cell does
from pathlib import Path
from helpers import stage, workspace

def ask(code):
    target = workspace.home() / "engines" / "fp16"
    return stage.run(stage.Stage("Engine of a test", "engine", [sys.executable, "-c", code, "{out}"], target))
"""
WORK = """
import sys, time
for step in (1, 3):
    print(f"@progress {step}/4 step {step}", flush=True)
    time.sleep(0.8)  # longer than it takes to travel to the cell
open(sys.argv[1] + "/model.bin", "w").write("weights")
"""
HANG = """
import os, subprocess, sys, time
for pid in (os.getpid(), subprocess.Popen(["sleep", "600"], start_new_session=True).pid):
    open({file!r}, "a").write(f"{{pid}}\\n")
open(sys.argv[1] + "/half.bin", "w").write("half")
time.sleep(600)
"""


@pytest.fixture
def opened(kernel: Kernel) -> Kernel:
    """A kernel after the opening cell."""
    assert kernel.run(OPENING).error is None
    return kernel


def nothing_left(tmp_path: Path) -> None:
    engines = tmp_path / "workshop" / "engines"
    until(lambda: not list(engines.iterdir()), 5, "the end of everything half-made")


def assert_one_card(cell: Cell, title: str) -> None:
    assert cell.error is None
    assert cell.streams == [], "nothing but the card may stay in the notebook"
    shown = cell.shown
    assert set(shown) == {"text/plain", "text/html"}
    assert shown["text/plain"].splitlines()[0].startswith(title)
    assert f"<strong>{title}" in shown["text/html"]
    assert "<progress" not in shown["text/html"]


def test_a_stage_shows_a_moving_bar_and_ends_as_exactly_one_card(opened, tmp_path):
    cell = opened.run(f"made = ask({WORK!r})")
    assert_one_card(cell, "Engine of a test: done in")
    bars = [content["data"]["text/html"] for content in [*cell.displays, *cell.updates][:-1]]
    assert all("<progress" in bar for bar in bars)
    assert any("value='0.250'" in bar and "step 1" in bar for bar in bars)
    assert any("value='0.750'" in bar and "step 3" in bar for bar in bars)
    assert " fp16</code>" in bars[0], "the command, as it would be typed"
    assert f"{tmp_path / 'workshop' / 'runs'}" in bars[0]
    assert "log.txt" in bars[0]
    again = opened.run(f"made = ask({WORK!r})")
    assert_one_card(again, "Engine of a test: made earlier, nothing to do")
    assert again.updates == []


def test_a_failing_stage_shows_its_message_without_a_traceback(opened, tmp_path):
    cell = opened.run("ask('raise SystemExit(\"error: no such weights\")')")
    assert cell.error is not None
    shown = "\n".join(cell.error["traceback"])
    assert shown.startswith("WorkshopError: Engine of a test: the command ended with status 1.")
    assert "  | error: no such weights\n" in shown
    assert "Traceback" not in shown
    assert "\x1b" not in shown
    nothing_left(tmp_path)


def test_a_foreseeable_mistake_is_one_line(opened):
    cell = opened.run("from helpers import models\nmodels.find('TinyLama')")
    assert cell.error is not None
    assert len(cell.error["traceback"]) == 1
    line = cell.error["traceback"][0]
    assert line.startswith("WorkshopError: There is no model called 'TinyLama'")
    assert "\n" not in line
    assert "Traceback" not in line


def test_interrupting_the_kernel_ends_the_stage(opened, tmp_path, pids: Pids):
    cell = opened.start(f"ask({HANG.format(file=str(pids.file))!r})")
    pids.wait(2)
    sent = time.monotonic()
    opened.manager.interrupt_kernel()
    ended = opened.finish(cell)
    assert time.monotonic() - sent < 5
    assert ended.error is not None
    assert ended.error["ename"] == "KeyboardInterrupt"
    assert [len(line.splitlines()) for line in ended.error["traceback"]] == [1], "no traceback of what was waited for"
    assert "stopped. Nothing half-made is left; run the cell again" in ended.shown["text/plain"]
    assert pids.alive() == []
    nothing_left(tmp_path)
    assert_one_card(opened.run(f"made = ask({WORK!r})"), "Engine of a test: done in")


def test_killing_the_kernel_ends_the_stage(tmp_path, pids: Pids):
    with kernel_of_its_own(tmp_path / "kernel") as dying:
        dying.start(OPENING)
        dying.start(f"ask({HANG.format(file=str(pids.file))!r})")
        pids.wait(2)
        os.kill(dying.pid, signal.SIGKILL)
        pids.all_gone(5)
    until(lambda: [told["state"] for _, told in stage.runs()] == ["stopped"], 5)
    nothing_left(tmp_path)


def test_a_closed_tab_does_not_end_the_stage(opened, tmp_path):
    opened.start(f"made = ask({WORK!r})")
    until(lambda: [told for _, told in stage.runs() if "fraction" in told])
    opened.client.stop_channels()
    until(lambda: [told["state"] for _, told in stage.runs()] == ["done"], 10)
    opened.client = opened.manager.client()
    opened.client.start_channels()
    opened.client.wait_for_ready(timeout=10)
    assert_one_card(opened.run(f"made = ask({WORK!r})"), "Engine of a test: made earlier")
