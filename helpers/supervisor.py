"""Runs one stage's command, so that neither a lost kernel nor a lost browser tab can leave half a result.

Started by :func:`helpers.stage.run` as ``python -m helpers.supervisor RUN_DIRECTORY``, in a session of its own. It
holds the artifact's lock, runs the command, keeps ``log.txt`` and ``progress.json`` up to date, and publishes the
result. Its standard input is a pipe that only the notebook's kernel holds: end of file means that the kernel died or
asked to stop, and everything the stage started is ended within five seconds.
"""

import codecs
import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import processes, workspace

_PROGRESS_LINE = re.compile(r"@progress (\d+)/(\d+) ?(.*)")  # what our own workers print
_PERCENT = re.compile(r"^\s*(.{0,60}?)[:\s━|█]*?(\d{1,3})%")  # tqdm's and rich's bars
_TICK = 0.1


class Stopped(Exception):
    """The kernel died, the cell was interrupted, or the time limit passed."""


class Run:
    """One stage on its way: the directory that tells others about it, and the state in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spec: dict[str, Any] = json.loads((directory / "spec.json").read_text())
        self.started = time.time()
        self.state: dict[str, Any] = {
            "title": self.spec["title"],
            "pid": os.getpid(),
            "started": self.started,
            "log": str(directory / "log.txt"),
            "target": self.spec["target"],
        }
        self._told = 0.0

    def tell(self, state: str, **changes: Any) -> None:
        """Write ``progress.json``, whole, for whoever watches."""
        self.state.update(changes, state=state, elapsed=time.time() - self.started)
        workspace.write_whole(self.directory / "progress.json", json.dumps(self.state))
        self._told = time.monotonic()

    def tell_sometimes(self) -> None:
        """The same, at most four times a second."""
        if time.monotonic() - self._told > 0.25:
            self.tell(self.state["state"])


def kernel_is_gone() -> bool:
    """True once the other end of standard input is closed."""
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        return bool(selector.select(0)) and os.read(0, 1) == b""


def acquire(run: Run, lock: Any) -> None:
    """Wait for the artifact's lock, telling the watcher why nothing moves.

    Raises:
        Stopped: the kernel went away while waiting.
    """
    from filelock import Timeout

    while True:
        try:
            lock.acquire(timeout=0.3, poll_interval=0.1)
            return
        except Timeout:
            run.tell("waiting", text="another process is making the same thing; waiting for it")
            if kernel_is_gone():
                raise Stopped("stopped while waiting for another process") from None


def follow(run: Run, child: subprocess.Popen[bytes], log: Any) -> int:
    """Copy the child's output into the log, read progress from it, until it ends; return its exit status.

    Secrets are hidden before anything is kept.

    Raises:
        Stopped: the kernel went away, or the stage's time limit passed.
    """
    hide = processes.redactor({**os.environ, **run.spec["environment"]})
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    limit = run.spec["time_limit"]
    assert child.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        rest = ""
        while True:
            ready = selector.select(_TICK)
            for key, _ in ready:
                if key.fileobj is sys.stdin:
                    if os.read(0, 1) == b"":
                        raise Stopped("stopped: the cell was interrupted or its kernel ended")
                    continue
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    log.write(hide(rest))
                    return child.wait()
                *lines, rest = re.split(r"(?<=[\n\r])", rest + decoder.decode(chunk))
                for line in map(hide, lines):
                    log.write(line)
                    read_progress(run, line)
                log.flush()
            if not ready and child.poll() is not None:
                log.write(hide(rest))  # it ended, but something that it left behind holds its output open
                return child.returncode
            run.tell_sometimes()
            if limit and time.time() - run.started > limit:
                raise Stopped(f"stopped: it ran longer than its limit of {limit:.0f} s")


def read_progress(run: Run, line: str) -> None:
    """Take a fraction and a word of explanation from a line of output, if it has one."""
    ours = _PROGRESS_LINE.search(line)
    if ours:
        run.state["fraction"] = int(ours[1]) / max(1, int(ours[2]))
        run.state["text"] = ours[3].strip()
        return
    bar = _PERCENT.match(line)
    if bar and int(bar[2]) <= 100:
        run.state["fraction"] = int(bar[2]) / 100
        run.state["text"] = bar[1].strip()


def make(run: Run, place: Path) -> None:
    """Run the stage's command with ``{out}`` standing for ``place``.

    Raises:
        Stopped: see :func:`follow`. RuntimeError: the command failed, or made not all it should.
    """
    command = [part.replace("{out}", str(place)) for part in run.spec["command"]]
    kept = {name: value for name, value in os.environ.items() if name not in run.spec["unset"]}
    # The last of these tells a leftover of this run from a stranger's process (helpers.hardware.gpu_memory).
    environment = {**kept, **run.spec["environment"], "WORKSHOP_RUN": str(run.directory)}
    with (run.directory / "log.txt").open("a") as log:
        log.write(f"$ {workspace.shell_text(command)}\n")
        log.flush()
        run.tell("running", text="starting")
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
            preexec_fn=processes.die_with_parent,
        )
        try:
            run.tell("running", group=child.pid)
            status = follow(run, child, log)
        except BaseException:
            processes.end_all(child)
            raise
        finally:
            processes.end_children()
    if status != 0:
        reason = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        raise RuntimeError(f"the command {reason}")
    missing = [name for name in run.spec["expected"] if not any(place.glob(name))]
    if missing:
        raise RuntimeError(f"the command ended well but did not make {', '.join(missing)}")


def supervise(run: Run) -> None:
    """Lock, make, publish, clean up (on a full disk the last word needs the room), and tell how it went."""
    target = Path(run.spec["target"])
    manifest = workspace.Manifest(**run.spec["manifest"])
    lock = workspace.lock(target)
    place: Path | None = None
    last: dict[str, Any]
    try:
        acquire(run, lock)
        reused = workspace.find_current(target, manifest) is not None
        if not reused:
            place = workspace.making_place(target)
            make(run, place)
            run.tell("publishing", fraction=1.0, text="checking and publishing")
            workspace.publish(place, target, replace(manifest, seconds=time.time() - run.started))
        state, last = "done", {"reused": reused}
    except Stopped as reason:
        state, last = "stopped", {"text": str(reason)}
    except Exception as error:
        state, last = "failed", {"text": str(error)}
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
        lock.release(force=True)
    run.tell(state, **last)


def main() -> None:
    """Entry point: the only argument is the run's directory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the kernel decides what an interrupt means
    processes.adopt_orphans()
    supervise(Run(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
