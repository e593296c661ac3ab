"""The load generator as a child of this process: started, listened to and stopped (notebook 08).

It is a program of its own, since a kernel that draws cannot keep time. It runs under :mod:`helpers.keeper`, so nothing
of it outlives a kernel, and in a session of its own, so that the interrupt of a cell reaches it only through
:meth:`Child.stop`: it then ends well, and what it has measured is kept.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from helpers import keeper, processes, stage, workspace
from helpers.bench.measured import Progress
from helpers.errors import WorkshopError

PROGRAM = (sys.executable, "-m", "helpers.bench", "--machine")
"""The load generator, told what to do by one JSON object on its standard input; it tells how it goes in JSON lines."""

# The keeper watches its own standard input for the kernel's end, so what is asked comes from a file.
_FROM_FILE = ("sh", "-c", 'asked=$1; shift; exec "$@" <"$asked"', "sh")
_PROGRESS = {one.name for one in fields(Progress)}
_MOST_STRANGE = 20  # lines that are no part of the conversation; kept to tell what was wrong
_LAST_WORDS = 5.0  # seconds for what it said before it ended
_LOG_BYTES = 64_000  # at the log's end in which a crash is looked for


class GivenUp(WorkshopError):
    """Somebody stopped it before there was anything to keep."""


class Child:
    """One load under way.

    Attributes:
        log: what it prints beside its conversation.
        progress: what it told last; None before its first word.
        runs: of each run that has ended: its number, its requests, and how many of them failed.
        stopping: True once :meth:`stop` was called.
    """

    def __init__(self, asked: Mapping[str, Any], directory: Path, program: Sequence[str] = PROGRAM) -> None:
        """Describe it; :meth:`start` starts it.

        Args:
            asked: what it is told: where, what load, and the folder that it writes into.
            directory: for its log and what it was asked.
            program: the load generator.
        """
        self.log = directory / "log.txt"
        self.progress: Progress | None = None
        self.runs: list[tuple[int, int, int]] = []
        self.stopping = False
        self._asked, self._file, self._program = asked, directory / "asked.json", program
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._signalled = self._killed = self._done = False
        self._problem = ""
        self._strange: list[str] = []

    def start(self) -> "Child":
        """Start it; gives itself."""
        self._file.write_text(json.dumps(self._asked, indent=1), encoding="utf-8")
        with self.log.open("wb") as told:
            self._process = subprocess.Popen(
                keeper.keeping([*_FROM_FILE, str(self._file), *self._program]),
                stdin=subprocess.PIPE,  # only this process holds the other end: the keeper sees it end
                stdout=subprocess.PIPE,
                stderr=told,
                cwd=workspace.REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(workspace.REPOSITORY)},
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._listen, name="workshop-bench", daemon=True)
        self._reader.start()
        return self

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended and all that it said was heard, for at most so long; True if so."""
        assert self._process is not None and self._reader is not None
        if self.stopping and not self._signalled:
            self._interrupt()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(_LAST_WORDS)
        return True

    def stop(self) -> None:
        """End it: the first time so that it keeps what it has, the second time by force."""
        if self.stopping:
            self.close()
        self.stopping = True
        self._interrupt()

    def close(self) -> None:
        """End it by force, if it still runs, with all that belongs to it."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self._killed = True
            processes.end_all(process)
        if process.stdin is not None:
            process.stdin.close()

    def _interrupt(self) -> None:
        """Send SIGINT to the load generator itself: its keeper would end it by force."""
        import psutil

        if self._process is None or self._process.poll() is not None:
            return
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._process.pid).children():
                child.send_signal(signal.SIGINT)
                self._signalled = True

    def _listen(self) -> None:
        """The thread that hears what it says, until it has ended."""
        assert self._process is not None and self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if not self._hear(line):
                    self._strange = [*self._strange, line.decode(errors="replace").rstrip()][-_MOST_STRANGE:]

    def _hear(self, line: bytes) -> bool:
        """Take in one thing that it said; False if it means nothing."""
        try:
            told = json.loads(line)
            if "progress" in told:
                known = {name: value for name, value in told["progress"].items() if name in _PROGRESS}
                self.progress = Progress(**known)
            elif "run" in told:
                ended = told["run"]
                self.runs.append((int(ended["number"]), int(ended["requests"]), int(ended["failed"])))
            elif "error" in told:
                self._problem = str(told["error"])
            else:
                self._done = bool(told["done"])
        except (AttributeError, KeyError, TypeError, ValueError):
            return False
        return True

    def require_done(self) -> None:
        """Nothing if it has done what it was asked, or was stopped and has kept what it had.

        Raises:
            GivenUp: it was ended before it had kept anything.
            WorkshopError: it says what went wrong; or it ended without a word, and its log says why.
        """
        if self._done:
            return
        if self._problem:
            raise WorkshopError(self._problem)
        if self._killed or self.stopping:
            raise GivenUp("The benchmark was stopped before it had written anything, so nothing of it is kept.")
        assert self._process is not None
        hide = processes.redactor(os.environ)
        told = hide("\n".join([self._log_end(), *self._strange]))
        lines = "".join(f"  | {line}\n" for line in stage.telling_lines(told)) or "  | (it said nothing)\n"
        raise WorkshopError(
            f"The load generator {_ending_of(self._process.returncode)}, and nothing of this load is kept.\n"
            f"{lines}The whole log: {self.log}\nMend the cause and run this cell again."
        )

    def _log_end(self) -> str:
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
            return file.read().decode(errors="replace")
        return ""


def _ending_of(status: int) -> str:
    """How it ended without having said that it is done, in words."""
    from helpers.toolchains.generation import ending_of

    if status == 0:
        return "ended without saying that it was done"
    return ending_of(status if status >= 0 else 128 - status)
