"""How a replica notes the steps of its life while they happen (notebook 09); what was noted is read in ``observed``."""

import json
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from helpers.deploy.observed import FIRST_TOKEN, MARKS

LEFT_OUT = "left-out"
"""Folder of modules that Ray's own processes do without (:func:`helpers.deploy.cluster.leave_out`)."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
"""An ASGI application: what a server calls once a request."""


def append(file: Path, line: dict[str, Any]) -> None:
    """Add a JSON line to a file that several processes write into: in one write, so that no two lines mix."""
    data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def process_began() -> float:
    """When this process began, in seconds since 1970, to a hundredth of a second.

    psutil reckons from the second in which the machine started, which may be off by almost one.
    """
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # since the machine started; the 22nd field, counted from the 3rd
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        import psutil

        return float(psutil.Process().create_time())


class Notes:
    """Where one replica's marks go.

    Attributes:
        folder: of the deployment's notes; None for a replica of which nothing is noted.
        replica: its name.
    """

    def __init__(self, folder: Path | None, replica: str) -> None:
        self.folder, self.replica = folder, replica
        self._noted: set[str] = set()

    def has(self, step: str) -> bool:
        """True if a step was noted."""
        return step in self._noted

    def note(self, step: str, when: float | None = None) -> None:
        """Note a step, once; now, where ``when`` does not say when it was."""
        if step in self._noted:
            return
        self._noted.add(step)
        if self.folder is not None and self.folder.is_dir():  # not on another machine of a cluster
            found = time.time() if when is None else when
            append(self.folder / MARKS, {"replica": self.replica, "step": step, "time": found})


class Watched:
    """An application that notes its first token, and knows how many requests it works on.

    Attributes:
        app: the application.
        present: requests that it works on.
    """

    def __init__(self, app: App, notes: Notes) -> None:
        self.app, self.notes, self.present = app, notes, 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        noting = scope["method"] == "POST" and not self.notes.has(FIRST_TOKEN)
        self.present += 1
        try:
            await self.app(scope, receive, self._noting(send) if noting else send)
        finally:
            self.present -= 1

    def _noting(self, send: Send) -> Send:
        """``send``, which notes the first token that goes through it."""
        answers = False

        async def noting(message: Message) -> None:
            nonlocal answers
            await send(message)
            if message["type"] == "http.response.start":
                answers = message["status"] == 200
            elif answers and _has_token(bytes(message.get("body", b""))):
                self.notes.note(FIRST_TOKEN)

        return noting


def _has_token(body: bytes) -> bool:
    """True unless a piece of an answer is empty, or is the role that opens a chat's stream before its first token."""
    return bool(body) and not (body.startswith(b"data:") and b'"role"' in body and body.count(b"data:") == 1)
