"""Runs one command and leaves nothing of it behind, whoever dies first (``python -m helpers.keeper COMMAND...``).

A command that starts processes of its own, as MPI does for every rank of an engine, may leave them running, with GPU
memory, when the notebook's kernel is killed. The keeper stands between the two: it adopts what loses its parent, and
ends everything when the command ends, when the pipe on its standard input is closed (the kernel's end), or when it is
told to (SIGTERM, SIGINT). Standard streams are the command's own, untouched. Its exit status is the command's; 128 + n
where a signal ended it, as shells say.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence

from helpers import processes

_PATIENCE = 1.0  # seconds between asking and forcing; whoever started the keeper gives it about two
_ENDING = {signal.SIGTERM, signal.SIGINT}
_LOOK = 1000  # milliseconds after which it looks around even if nothing woke it


def keeping(command: Sequence[str]) -> list[str]:
    """The command that runs another one under a keeper; for a process whose folder is the repository's."""
    return [sys.executable, "-m", "helpers.keeper", *command]


def wake_on(*signals: signal.Signals) -> int:
    """A file descriptor that becomes readable when one of the signals comes; each byte in it is a signal's number."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in signals:
        signal.signal(number, lambda *_: None)
    return reading


def follow(child: "subprocess.Popen[bytes]", signals: int) -> None:
    """Wait until the command ends, or until there is a reason to end it.

    Args:
        child: the command.
        signals: from :func:`wake_on`.
    """
    poll = select.poll()
    poll.register(signals, select.POLLIN)
    poll.register(0, 0)  # asks for nothing and reads nothing: that the other end was closed is told all the same
    while child.poll() is None:
        for ready, event in poll.poll(_LOOK):
            if ready == 0 and event & select.POLLNVAL:
                poll.unregister(0)  # started without a standard input
            elif ready == 0 or _ENDING.intersection(os.read(signals, 64)):
                return


def has_children() -> bool:
    """True if this process has a child of its own or an adopted one, ended or not; or if the system cannot tell."""
    if not hasattr(os, "waitid"):  # macOS, before Python 3.13
        return True
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def keep(command: Sequence[str]) -> int:
    """Run a command to its end or to the keeper's; gives its exit status."""
    processes.adopt_orphans()
    signals = wake_on(signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
    try:
        child = subprocess.Popen(command, start_new_session=True, preexec_fn=processes.die_with_parent)
    except OSError as error:
        print(f"error: {command[0]} cannot be started: {error.strerror}", file=sys.stderr)
        return 127
    try:
        follow(child, signals)
    finally:
        if child.poll() is None:
            processes.end_all(child, _PATIENCE)
        if has_children():  # finding them takes longer than most commands' start
            processes.end_children(_PATIENCE)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def main() -> int:
    """Entry point: every argument is a word of the command."""
    if len(sys.argv) < 2:
        print("usage: python -m helpers.keeper COMMAND...", file=sys.stderr)
        return 2
    return keep(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
