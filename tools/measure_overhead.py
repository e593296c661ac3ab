"""What the supervisor costs: one stage run bare and through ``helpers``, in turn, and the ratio of their wall times.

``python -m tools.measure_overhead [--pairs 5]``. Both make the bundled model's FP16 checkpoint; the order within a pair
alternates, so that a machine that grows slower or faster favours neither. Quote the median, never a single pair.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from helpers import checkpoint, models, stage


def captured_stage() -> stage.Stage:
    """The stage that ``checkpoint.make`` would run, without running it."""

    class Captured(Exception):
        pass

    def keep(task: stage.Stage) -> None:
        raise Captured(task)

    original = stage.run
    stage.run = keep  # type: ignore[assignment]
    try:
        checkpoint.make(models.find(), "fp16")
    except Captured as caught:
        task: stage.Stage = caught.args[0]
        return task
    finally:
        stage.run = original
    raise AssertionError("checkpoint.make did not run a stage")


def bare(task: stage.Stage, place: Path) -> float:
    """Seconds that the stage's command takes by itself."""
    out = place / "bare"
    out.mkdir()
    command = [part.replace("{out}", str(out)) for part in task.command]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **task.environment})
    seconds = time.perf_counter() - started
    shutil.rmtree(out)
    return seconds


def supervised(task: stage.Stage) -> float:
    """Seconds that the stage takes through ``helpers``, from the call to the card."""
    shutil.rmtree(task.target, ignore_errors=True)
    started = time.perf_counter()
    with Path(os.devnull).open("w") as nowhere, contextlib.ExitStack() as quiet:
        quiet.enter_context(contextlib.redirect_stdout(nowhere))
        quiet.enter_context(contextlib.redirect_stderr(nowhere))
        stage.run(task)
    return time.perf_counter() - started


def main() -> None:
    """Measure pairs and print each, then the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WORKSHOP_HOME"] = folder
        task = captured_stage()
        bare(task, Path(folder))  # fill the disk cache before anything counts
        ratios = []
        for number in range(arguments.pairs):
            if number % 2:
                without, with_it = bare(task, Path(folder)), supervised(task)
            else:
                with_it, without = supervised(task), bare(task, Path(folder))
            ratios.append(with_it / without)
            print(f"pair {number + 1}: bare {without:.2f} s, through helpers {with_it:.2f} s, ratio {ratios[-1]:.4f}")
    print(f"median ratio of {len(ratios)} pairs: {statistics.median(ratios):.4f}")


if __name__ == "__main__":
    main()
