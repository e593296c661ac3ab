"""A small real HTTP server that streams what a test tells it to, as an OpenAI-compatible server would or would not."""

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[["Stream", dict[str, Any]], None]


class Stream(BaseHTTPRequestHandler):
    """One request, and the means to answer it in every good and bad way."""

    protocol_version = "HTTP/1.1"
    server: "Streaming"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.chat = self.path.endswith("/chat/completions")
        self.close_connection = True
        try:
            self.server.script(self, body)
        except OSError:
            self.server.hung_up.set()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def open(self) -> None:
        """Say that a stream of events follows, in chunks."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def write(self, data: bytes) -> None:
        """Send bytes as one chunk of the transfer."""
        self.wfile.write(chunk_of(data))
        self.wfile.flush()

    def event(self, content: object) -> None:
        """Send one event."""
        self.write(b"data: " + (content if isinstance(content, bytes) else json.dumps(content).encode()) + b"\n\n")

    def piece(self, text: str, made: int | None = None, finish: str | None = None) -> None:
        """Send a piece of the answer, with the tokens made so far where the server counts them in every chunk."""
        self.wfile.write(self.framed(text, made, finish))
        self.wfile.flush()

    def framed(self, text: str, made: int | None = None, finish: str | None = None) -> bytes:
        """The bytes of a piece."""
        said = {"delta": {"content": text}} if self.chat else {"text": text}
        chunk: dict[str, Any] = {"id": "1", "object": "chat.completion.chunk", "model": "tiny"}
        chunk["choices"] = [{"index": 0, "finish_reason": finish, **said}]
        data = json.dumps(chunk | ({"usage": usage(made)} if made is not None else {})).encode()
        return chunk_of(b"data: " + data + b"\n\n")

    def role(self) -> None:
        """Send a chunk that has only a role."""
        self.event({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"role": "assistant"}}]})

    def end(self, made: int | None = None) -> None:
        """Send the usage and end the stream as it should end."""
        if made is not None:
            self.event({"object": "chat.completion.chunk", "choices": [], "usage": usage(made)})
        self.event(b"[DONE]")
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def cut(self) -> None:
        """Break the connection, as a server that is killed does."""
        self.connection.shutdown(socket.SHUT_RDWR)

    def refuse(self, code: int, message: str) -> None:
        """Refuse the request in the flat shape of ``trtllm-serve``."""
        data = json.dumps({"object": "error", "message": message, "type": "BadRequestError", "code": code}).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def wait_for_hang_up(self, seconds: float = 10) -> None:
        """Wait until the client closes the connection, and note that it did."""
        if select.select([self.connection], [], [], seconds)[0]:
            self.server.hung_up.set()


def chunk_of(data: bytes) -> bytes:
    """Bytes as one chunk of a chunked transfer."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def usage(made: int) -> dict[str, int]:
    return {"prompt_tokens": 7, "completion_tokens": made, "total_tokens": 7 + made}


class Streaming(ThreadingHTTPServer):
    """The server: an endpoint for the helpers, and what it was asked."""

    daemon_threads = True
    model = "tiny"

    def __init__(self, script: Script, title: str) -> None:
        super().__init__(("127.0.0.1", 0), Stream)
        self.script, self.title = script, title
        self.asked: list[dict[str, Any]] = []
        self.hung_up = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def streaming(script: Script, title: str = "FP16") -> Iterator[Streaming]:
    """A server that answers every request by a script."""
    with Streaming(script, title) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def says(*pieces: str, finish: str = "stop") -> Script:
    """A script: these pieces, a token each, and one more token that ends the answer."""

    def script(stream: Stream, _: dict[str, Any]) -> None:
        stream.open()
        stream.role()
        send(stream, pieces)
        stream.piece("", len(pieces) + 1, finish)
        stream.end(len(pieces) + 1)

    return script


def send(stream: Stream, pieces: Sequence[str]) -> None:
    """Send pieces, a token each."""
    for made, text in enumerate(pieces, 1):
        stream.piece(text, made)


def waits(*pieces: str) -> Script:
    """A script: these pieces, then nothing until the client hangs up."""

    def script(stream: Stream, _: dict[str, Any]) -> None:
        stream.open()
        send(stream, pieces)
        stream.wait_for_hang_up()

    return script
