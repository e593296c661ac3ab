"""Child processes that end when they should: with their parent, and with everything they started."""

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSW|API_?KEY|ACCESS_KEY|_PAT$|CREDENTIAL)", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"\b(?:hf_|nvapi-|sk-|gh[pousr]_|github_pat_)[A-Za-z0-9_-]{16,}"  # well-known forms of tokens
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"  # user:password in an address
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{8,}"
)


def _prctl(option: int, value: int) -> None:
    """Call Linux's prctl; elsewhere do nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value)


def die_with_parent() -> None:
    """In a new child: ask the kernel to kill it when its parent dies (Linux)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Make grandchildren whose parent died children of this process, so that they can be found and ended (Linux)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_all(process: subprocess.Popen[bytes], patience: float = 2.0) -> None:
    """End a child that leads its own group, and all its descendants: politely first, then by force.

    Args:
        process: started with ``start_new_session=True``.
        patience: seconds between the two.
    """
    import psutil

    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_group(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


class Guard:
    """Ends a child after a while, unless it is stopped before."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float | None) -> None:
        self._ended = False
        self._timer = threading.Timer(seconds, self._end, [process]) if seconds else None
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._ended = True
        end_all(process)

    def stop(self) -> bool:
        """Let the child be; True if it was ended already."""
        if self._timer:
            self._timer.cancel()
        return self._ended


def end_children(patience: float = 2.0) -> None:
    """End by force every descendant of this process, adopted orphans too: for a process that starts one thing only.

    Args:
        patience: seconds after which what still has not gone (it waits for a disk) is left to the system.
    """
    import psutil

    deadline = time.monotonic() + patience
    while (members := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for member in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(members, timeout=0.2)


def end_group(leader: int) -> None:
    """End by force whatever is left of a process group whose leader may be gone."""
    _signal_group(leader, signal.SIGKILL)


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def answer(
    command: Sequence[str],
    limit: float,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    together: bool = False,
) -> tuple[int, str, str]:
    """Exit status, output and errors of a command that ends with this process, and with whatever it started.

    Args:
        command: program and words.
        limit: seconds.
        environment: None for this process's own.
        folder: to start it in.
        together: errors come among the output, in the order in which they were said.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``limit`` seconds. OSError: it could not be started.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if together else subprocess.PIPE,
        cwd=folder,
        env=None if environment is None else dict(environment),
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    try:
        output, errors = child.communicate(timeout=limit)
    except BaseException:
        end_all(child)
        raise
    return child.returncode, output.decode(errors="replace"), (errors or b"").decode(errors="replace")


def redactor(environment: Mapping[str, str]) -> Callable[[str], str]:
    """A function that hides secrets in a text: values of variables named like secrets, and well-known token forms."""
    values = sorted(
        (v for k, v in environment.items() if _SECRET_NAME.search(k) and len(v) >= 8), key=len, reverse=True
    )

    def hide(text: str) -> str:
        for value in values:
            text = text.replace(value, "[hidden]")
        return _SECRET_TEXT.sub("[hidden]", text)

    return hide


def difference(wanted: Mapping[str, str], base: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """How to get from one environment to another: the variables to add or change, and the names to take away."""
    added = {name: value for name, value in wanted.items() if base.get(name) != value}
    return added, sorted(name for name in base if name not in wanted)
