"""The engine's process, as the HTTP server sees it: requests in, tokens out.

One task reads a line an iteration and hands the tokens to whoever waits for them. Nothing here waits for the engine
while it computes.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import processes
from helpers.serving.app.refusal import Refusal

WORKER = Path(__file__).resolve().parents[2] / "workers" / "openvino_serve.py"
_LINE = 1 << 24  # bytes of a line at most: thousands of requests, each with many tokens, in one iteration
_GRACE = 1.0  # seconds that the process has to end by itself once its input is closed


def launch(options: list[str]) -> "subprocess.Popen[bytes]":
    """Start the engine's process; it loads while this one goes on.

    Args:
        options: for ``helpers/workers/openvino_serve.py``.
    """
    command = [sys.executable, str(WORKER), *options]
    ends_with_us = processes.die_with_parent if sys.platform == "linux" else None
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=ends_with_us)


class Tokens:
    """What one HTTP request waits for: the tokens of its answers, as they come.

    An HTTP request with several prompts, or with ``n`` above 1, has that many requests in the engine, called choices
    here.
    """

    def __init__(self) -> None:
        self._come: list[tuple[int, list[int], list[Any] | None]] = []
        self._waiter: asyncio.Future[None] | None = None
        self.failed: Refusal | None = None

    def put(self, choice: int, ids: list[int], ended: list[Any] | None) -> None:
        """Keep what came, and wake who waits."""
        self._come.append((choice, ids, ended))
        self._wake()

    def fail(self, why: str, status: int = 500) -> None:
        """Nothing more will come."""
        self.failed = Refusal(why, status)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[tuple[int, list[int], list[Any] | None]]:
        """All that came since the last call, at least one: choice, token ids, and how it ended or None.

        Raises:
            Refusal: 400, the engine refuses the request; 500, it is gone.
        """
        while not self._come:
            if self.failed is not None:
                raise self.failed
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        come, self._come = self._come, []
        return come


class Engine:
    """The engine's process.

    Args:
        process: from :func:`launch`.
        capacity: requests that may be in it, those that wait included.
        record: gets the statistics of every iteration.

    Attributes:
        failed: why it can take nothing more; None while all is well.
        told: what it said when it was ready.
    """

    def __init__(
        self, process: "subprocess.Popen[bytes]", capacity: int, record: Callable[[dict[str, Any]], None]
    ) -> None:
        self.process, self.capacity, self.record = process, capacity, record
        self.failed: str | None = None
        self.told: dict[str, Any] = {}
        self.ended = asyncio.Event()
        self._present: dict[str, tuple[Tokens, int]] = {}
        self._next = 0
        self._stopping = False

    @property
    def present(self) -> int:
        """Requests in the engine, those that wait included."""
        return len(self._present)

    async def start(self) -> None:
        """Wait until the engine is loaded.

        Raises:
            Refusal: it ended instead; the message says why, as far as it told.
        """
        loop = asyncio.get_running_loop()
        self._lines = asyncio.StreamReader(limit=_LINE)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._lines), self.process.stdout)
        self._orders, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, self.process.stdin)
        first = await self._lines.readline()
        self.told = (json.loads(first) if first else {}).get("ready", {})
        if not self.told:
            self._end(json.loads(first).get("fatal") if first else None)
            raise Refusal(str(self.failed), 503)
        self._reading = asyncio.create_task(self._read())

    def require(self, more: int) -> None:
        """Refuse what cannot be taken.

        Args:
            more: requests for the engine.

        Raises:
            Refusal: 503 without an engine, 400 for more than there is ever room for, 429 for more than there is now.
        """
        if self.failed is not None:
            raise Refusal(self.failed, 503)
        if more > self.capacity:
            raise Refusal(f"{more} answers at once are more than this server ever holds ({self.capacity}). Send fewer.")
        if self.present + more > self.capacity:
            raise Refusal(
                f"The queue is full: {self.present} requests run or wait, and this server holds {self.capacity}. "
                "Try again in a second.",
                429,
                {"Retry-After": "1"},
            )

    def add(self, tokens: Tokens, choice: int, ids: list[int], settings: dict[str, Any]) -> str:
        """Hand a request over; gives its id."""
        name = str(self._next)
        self._next += 1
        self._present[name] = (tokens, choice)
        self._send({"add": name, "ids": ids, "settings": settings})
        return name

    def cancel(self, name: str) -> None:
        """End a request whose answer nobody wants; its slot is free from the next iteration on."""
        if self._present.pop(name, None) is not None and self.failed is None:
            self._send({"cancel": name})

    def _send(self, message: dict[str, Any]) -> None:
        self._orders.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def _read(self) -> None:
        """Hand on every line until the process ends."""
        fatal: str | None = None
        try:
            while line := await self._lines.readline():
                fatal = self._take(json.loads(line)) or fatal
        except Exception as error:  # whatever it is, nothing more can be read: everyone waiting has to be told
            self.process.kill()
            fatal = f"what it says cannot be read ({type(error).__name__}: {error})"
        self._end(fatal)

    def _take(self, message: dict[str, Any]) -> str | None:
        """Hand on one line; gives the process's last words, if these are they."""
        if "t" in message:
            self._hand_on(message)
            return None
        for name, why in message.get("refused", {}).items():
            self._fail(name, f"The engine refuses this request: {why}", 400)
        return message.get("fatal")

    def _hand_on(self, message: dict[str, Any]) -> None:
        """The tokens of one iteration to those who wait for them."""
        present, made, finished = self._present, message["t"], message.get("f", {})
        for name, ids in made.items():
            if name in present:
                tokens, choice = present[name]
                tokens.put(choice, ids, finished.get(name))
        for name, ended in finished.items():
            if ended[0] == "ignored":
                self._fail(name, "The engine gave this request up: its KV cache is too small for it.", 400)
            elif (entry := present.pop(name, None)) is not None and name not in made:
                entry[0].put(entry[1], [], ended)
        self.record(message["s"])

    def _fail(self, name: str, why: str, status: int = 500) -> None:
        entry = self._present.pop(name, None)
        if entry is not None:
            entry[0].fail(why, status)

    def _end(self, fatal: str | None) -> None:
        """The process is gone: tell everyone."""
        if self.failed is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE)
            self.failed = f"The engine's process {_how(self.process.returncode)}" + (f": {fatal}." if fatal else ".")
        for tokens, _ in self._present.values():
            tokens.fail(self.failed)
        self._present.clear()
        self.ended.set()

    async def close(self) -> None:
        """End the process, and every request with the words that the server stops."""
        self._stopping = True
        self.failed = self.failed or "The server is stopping."
        for tokens, _ in self._present.values():
            tokens.fail(self.failed)
        self._present.clear()
        if self.process.poll() is None:
            self.process.kill()  # it holds nothing that needs saving, and would first finish its iteration
        await asyncio.to_thread(self.process.wait)

    @property
    def died(self) -> bool:
        """True if it ended while nobody stopped it."""
        return self.failed is not None and not self._stopping


def _how(status: int | None) -> str:
    """The end of a process in words."""
    if status is None:
        return "closed its output"
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
