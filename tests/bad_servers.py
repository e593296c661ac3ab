"""A server that answers each request as a test says, byte by byte: as an OpenAI-compatible one would, or would not.

An answer is a sequence of steps: bytes are written as they are, a number is waited for in seconds, and :data:`FIN`,
:data:`RST` and :data:`HANG` end it badly. Nothing is added, so a test decides how an answer is framed and where its
writes are cut.
"""

import contextlib
import json
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any


class End(Enum):
    """How an answer ends badly."""

    FIN = "the connection is closed"
    RST = "the connection is reset"
    HANG = "nothing more comes"


FIN, RST, HANG = End.FIN, End.RST, End.HANG
Step = bytes | float | End
Steps = Iterable[Step]

OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = OK_HEAD + b"Connection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"
LAST = b"0\r\n\r\n"


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        number: its place among the POSTs for a stream, from 0.
        connection: which one it came on, from 0; and how many requests came on it before.
        body: its JSON.
    """

    number: int
    connection: int
    before: int
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


Script = Callable[[Asked], Steps]


# --- What servers write -----------------------------------------------------------------------------------------------


def completion(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One event of a completion."""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], **more}


def chat(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One event of a chat."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def usage(tokens: Any, prompt: Any = 9) -> dict[str, Any]:
    """The last event, with the server's counts."""
    return {**completion(""), "choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": tokens}}


def event(told: dict[str, Any], end: bytes = b"\n") -> bytes:
    """As server-sent event."""
    return b"data: " + json.dumps(told, separators=(",", ":")).encode() + 2 * end


def chunk(data: bytes) -> bytes:
    """Framed as one chunk."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def whole(tokens: int = 4) -> list[bytes]:
    """The events of a good completion, its end included."""
    texts = [event(completion(f" t{i}", "length" if i == tokens - 1 else None)) for i in range(tokens)]
    return [*texts, event(usage(tokens)), DONE]


def good(tokens: int = 4, first: float = 0.0, gap: float = 0.0) -> list[Step]:
    """A good answer in chunks: the first token after ``first`` seconds, the others ``gap`` apart."""
    steps: list[Step] = [CHUNKED, first]
    for i, one in enumerate(whole(tokens)):
        steps += [gap] if gap and 0 < i < tokens else []
        steps.append(chunk(one))
    return [*steps, LAST]


def plain(status: str, told: Any, *more: str) -> bytes:
    """An answer that is no stream."""
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *more]
    return "\r\n".join([*lines, "", ""]).encode() + body


# --- The server -------------------------------------------------------------------------------------------------------


class Server:
    """Listens until it is closed; every connection has a thread.

    Attributes:
        asked: what was asked for a stream, in order.
        others: all other requests.
        in_flight, peak: streams under way now, and at most.
        open: connections that are open now.
    """

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None, model: str = "m") -> None:
        self.script, self.model = script, model
        self.asked: list[Asked] = []
        self.others: list[Asked] = []
        self.in_flight = self.peak = self.open = self.connections = 0
        self._tls, self._lock, self._closing = tls, threading.Lock(), threading.Event()
        self._socks: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The address that a client is given."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        """End it and all of its connections, at once."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            socks = list(self._socks)
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                number, self.connections, self.open = self.connections, self.connections + 1, self.open + 1
                self._socks.add(sock)
            threading.Thread(target=self._serve, args=(sock, number), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        served = sock
        try:
            with contextlib.suppress(OSError):
                if self._tls:
                    served = self._tls.wrap_socket(sock, server_side=True)
                before = 0
                while (asked := self._read(served, number, before)) and self._answer(served, asked):
                    before += 1
        finally:
            with self._lock:
                self.open -= 1
                self._socks.discard(sock)
            served.close()

    def _read(self, sock: socket.socket, number: int, before: int) -> Asked | None:
        came = b""
        while b"\r\n\r\n" not in came:
            if not (more := sock.recv(65536)):
                return None
            came += more
        head, body = came.split(b"\r\n\r\n", 1)
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += sock.recv(65536)
        method, path, _ = first.split(" ")
        told = json.loads(body) if body else {}
        with self._lock:
            kept = self.asked if told.get("stream") else self.others
            kept.append(asked := Asked(len(kept), number, before, method, path, headers, told))
        return asked

    def _answer(self, sock: socket.socket, asked: Asked) -> bool:
        """Take the steps; True if the connection goes on."""
        if not asked.body.get("stream"):
            sock.sendall(self._other(asked))
            return True
        with self._lock:
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
        leaves = True
        steps = iter(self.script(asked))
        try:
            for step in steps:
                if isinstance(step, bytes):
                    if leaves and (step.endswith((b"\r\n0\r\n\r\n", LAST))):
                        self._leave()  # before the client can send another one
                        leaves = False
                    sock.sendall(step)
                elif isinstance(step, End):
                    return self._end(sock, step)
                else:
                    self._closing.wait(step)
        finally:
            if leaves:
                self._leave()
        return True

    def _leave(self) -> None:
        with self._lock:
            self.in_flight -= 1

    def _other(self, asked: Asked) -> bytes:
        """The model's name, or how many tokens a prompt has."""
        if asked.path.endswith("/models"):
            return plain("200 OK", {"data": [{"id": self.model}]}, "Server: bad/1.0")
        words = len(json.dumps(asked.body.get("prompt") or asked.body.get("messages")).split())
        return plain("200 OK", {"choices": [{"text": "a"}], "usage": {"prompt_tokens": words, "completion_tokens": 1}})

    def _end(self, sock: socket.socket, how: End) -> bool:
        if how is HANG:
            with contextlib.suppress(OSError):
                while sock.recv(65536):
                    pass
        elif how is RST:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


@contextlib.contextmanager
def serving(script: Script | Steps, tls: ssl.SSLContext | None = None, model: str = "m") -> Iterator[Server]:
    """A server for a ``with`` block that answers each request as the script says, or all with the same steps."""
    same = None if callable(script) else list(script)
    server = Server(script if callable(script) else lambda _: same or [], tls, model)
    try:
        yield server
    finally:
        server.close()


def own_certificate(folder: Path) -> ssl.SSLContext:
    """A context with a certificate that nobody has signed, made for this test."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *named, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
