"""A server in front of an engine as a child, and an application that hands everything on to it (notebook 09).

On a GPU a replica is a ``trtllm-serve`` of its own. Requests and answers go through unchanged: status, headers, and
each piece of a stream as it comes. A client that hangs up ends its request in the server.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import keeper, processes, workspace
from helpers.deploy.marks import Message, Receive, Send
from helpers.errors import WorkshopError
from helpers.serving import ports
from helpers.toolchains.serving import LOCAL, RUN, ServeOptions

if TYPE_CHECKING:
    from helpers.toolchains.base import Engine

_LOOK = 0.1  # seconds between two questions to a server that starts
_OF_THE_CONNECTION = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"host"}
"""Headers that speak of one connection and not of what it carries; ``Host`` names the server that is asked."""
_GPUS = "CUDA_VISIBLE_DEVICES"
_IDLE = 2.0  # seconds that a connection is kept for the next request: fewer than the 5 after which uvicorn closes it


class Child:
    """A server in front of an engine, as a child of this process on a port that only this machine reaches.

    Attributes:
        address: ``http://127.0.0.1:PORT``.
        ended: is set once it has ended by itself.
    """

    def __init__(self, engine: "Engine", options: ServeOptions, toolchain: Any, folder: Path) -> None:
        """Describe it; :meth:`start` starts it.

        Args:
            engine, options: what is served, and how.
            toolchain: whose ``serve_command`` starts it.
            folder: for its settings.

        Raises:
            WorkshopError: the engine does not fit this machine.
        """
        self.options = replace(options, host=LOCAL, port=ports.free_port(LOCAL))
        self.address = f"http://{LOCAL}:{self.options.port}"
        self.ended = asyncio.Event()
        self._command = toolchain.serve_command(engine, self.options)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._closing = False

    def launch(self) -> None:
        """Start its process."""
        for name, content in self._command.files.items():
            (self._folder / name).write_text(content)
        words = [word.replace(RUN, str(self._folder)) for word in self._command.command]
        self._process = subprocess.Popen(
            keeper.keeping(words),
            stdin=subprocess.PIPE,  # the keeper sees it end when this process does, however that ends
            stdout=sys.stderr.fileno(),
            cwd=workspace.REPOSITORY,
            env=environment(self._command.environment),
            start_new_session=True,
        )

    async def start(self, limit: float) -> None:
        """Wait until ``/health`` says 200.

        Raises:
            WorkshopError: it ended instead, or took too long.
        """
        import httpx

        assert self._process is not None
        deadline = time.monotonic() + limit
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            while True:
                if (status := self._process.poll()) is not None:
                    raise WorkshopError(f"The server of the engine ended with status {status}; its log says why.")
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get(f"{self.address}/health")).status_code == 200:
                        break
                if time.monotonic() > deadline:
                    await self.close()
                    raise WorkshopError(f"The server of the engine did not answer within {limit:g} s.")
                await asyncio.sleep(_LOOK)
        self._watching = asyncio.create_task(self._watch(self._process))

    async def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        while process.poll() is None:
            await asyncio.sleep(_LOOK)
        if not self._closing:
            self.ended.set()

    @property
    def failed(self) -> str | None:
        """Why it can take nothing more; None while all is well."""
        return "The engine's server has ended by itself." if self.ended.is_set() else None

    async def close(self) -> None:
        """End it, with all that it has started."""
        self._closing = True
        if self._watching is not None:
            self._watching.cancel()
        if (process := self._process) is not None:
            await asyncio.to_thread(processes.end_all, process)
            if process.stdin is not None:
                process.stdin.close()


def environment(wanted: Any) -> dict[str, str]:
    """The variables of a server's child: without Ray's own, among them the way to its token, and on Ray's GPUs.

    Args:
        wanted: of the toolchain; None for this process's own.
    """
    found = {name: value for name, value in (wanted or os.environ).items() if not name.startswith("RAY_")}
    if _GPUS in os.environ:  # Ray gives each replica GPUs of its own
        found[_GPUS] = os.environ[_GPUS]
    return found


class PassThrough:
    """An ASGI application that hands everything on to a server, and everything that it answers back, as it comes."""

    def __init__(self, address: str) -> None:
        """Nothing is opened before the first request.

        Args:
            address: of the server, such as ``http://127.0.0.1:8000``.
        """
        self.address = address
        self._client: Any = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        body = await _body(receive)
        writing = asyncio.ensure_future(self._answer(scope, body, send))
        listening = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({writing, listening}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            for task in (writing, listening):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await writing  # closes the connection to the server, which sees that nobody reads any more

    async def _answer(self, scope: Message, body: bytes, send: Send) -> None:
        """Ask the server and hand its answer on; 502 where it cannot be asked."""
        import httpx

        if self._client is None:
            limits = httpx.Limits(max_connections=None, keepalive_expiry=_IDLE)
            self._client = httpx.AsyncClient(trust_env=False, timeout=None, limits=limits)
            self._client.headers.clear()  # a request has its client's headers and no others: no encoding it cannot read
        query = scope.get("query_string", b"").decode("latin-1")
        path = scope.get("raw_path") or scope["path"].encode()
        target = f"{self.address}{path.decode('latin-1')}{'?' if query else ''}{query}"
        headers = _kept(scope["headers"], {b"content-length", b"expect"})
        request = self._client.build_request(scope["method"], target, headers=headers, content=body)
        begun = False
        try:
            answer = await self._client.send(request, stream=True)
            try:
                kept = _kept(answer.headers.raw, set())
                await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
                begun = True
                async for piece in answer.aiter_raw():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                await answer.aclose()
        except httpx.TransportError as error:
            if begun:
                raise  # half an answer must not look like a whole one
            await _refuse(send, f"The engine's server does not answer ({type(error).__name__}).")

    async def close(self) -> None:
        """Close the connections that are kept open."""
        if self._client is not None:
            await self._client.aclose()


def _kept(headers: Iterable[tuple[bytes, bytes]], more: set[bytes]) -> list[tuple[bytes, bytes]]:
    """Headers without those of the connection; names in small letters, as ASGI wants them."""
    lowered = ((name.lower(), value) for name, value in headers)
    return [(name, value) for name, value in lowered if name not in _OF_THE_CONNECTION | more]


async def _body(receive: Receive) -> bytes:
    """A request's body, whole."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _gone(receive: Receive) -> None:
    """Returns when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: Send, why: str) -> None:
    """An error as ``trtllm-serve`` writes them."""
    import json

    told = {"object": "error", "message": why, "type": "InternalServerError", "param": None, "code": 502}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 502, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(told).encode(), "more_body": False})


async def _lifespan(receive: Receive, send: Send) -> None:
    """A server's start and end, at which nothing is to be done."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
