"""HTTP/1.1 as far as a benchmark needs it: an answer's head, and its body without the framing (notebook 08)."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache

CHUNKED_END = b"\r\n0\r\n\r\n"
"""The last bytes of a chunked body without trailers."""
_HEAD_END = b"\r\n\r\n"
_CONTINUES = b" 1"  # how the status of an answer begins that only says that another follows
LARGEST_HEAD = 65_536  # bytes: what has no end of its headers by then is no HTTP
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*\bchunked[ \t]*\r\n")
_STREAM = re.compile(rb"\r\ncontent-type:[ \t]*text/event-stream")
_CLOSES = re.compile(rb"\r\nconnection:[^\r]*\bclose\b")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n")
_SAID = 300  # characters of what a server says that are kept


class Malformed(Exception):
    """What came is not HTTP, not server-sent events, or not this API; the text says which."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first lines of an answer.

    Attributes:
        status: of HTTP.
        size: bytes of it all, with the empty line.
        chunked: True if the body comes in chunks that say how long they are.
        length: bytes of the body, where it says so.
        keep: True if the connection stays open behind it.
        stream: True if the body is a stream of server-sent events.
    """

    status: int
    size: int
    chunked: bool
    length: int | None
    keep: bool
    stream: bool

    @classmethod
    def of(cls, data: bytes) -> "Head | None":
        """The head at the beginning of what came; None while it is not whole.

        Raises:
            Malformed: no HTTP/1 answer.
        """
        end = data.find(_HEAD_END)
        # The answers of one second have the same head, with most servers.
        return cls._read(data) if end < 0 or data.startswith(_CONTINUES, 8) else _head(data[: end + 4])

    @classmethod
    def _read(cls, data: bytes) -> "Head | None":
        begin, status = 0, b"1"
        while status.startswith(b"1"):  # such as 100 Continue: the answer itself follows
            end = data.find(_HEAD_END, begin)
            if end < 0:
                if len(data) > LARGEST_HEAD or not b"HTTP/1.".startswith(data[begin : begin + 7]):
                    raise Malformed(f"no HTTP answer, it begins with {said(data[begin : begin + 40])!r}")
                return None
            lines, status = data[begin : end + 2].lower(), data[begin + 9 : begin + 12]
            if not (lines.startswith(b"http/1.") and status.isdigit()):
                raise Malformed(f"no HTTP answer, it begins with {said(data[begin : begin + 40])!r}")
            begin = end + 4
        length = _LENGTH.search(lines)
        closes = _CLOSES.search(lines) is not None or (lines.startswith(b"http/1.0") and b"keep-alive" not in lines)
        return cls(
            status=int(status),
            size=begin,
            chunked=_CHUNKED.search(lines) is not None,
            length=int(length[1]) if length else None,
            keep=not closes,
            stream=_STREAM.search(lines) is not None,
        )

    @property
    def empty(self) -> bool:
        """True if no body follows."""
        return self.length == 0 or self.status in (204, 304)


@lru_cache(maxsize=64)
def _head(data: bytes) -> Head | None:
    return Head._read(data)


class Chunks:
    """Takes the framing off a chunked body, however its bytes were cut."""

    __slots__ = ("_left", "_line", "done")

    def __init__(self) -> None:
        self._left = 0  # bytes of the chunk under way; -2 and -1: of the line end behind it; 0: a size comes
        self._line = b""
        self.done = False

    @property
    def between(self) -> bool:
        """True between two chunks."""
        return self._left == 0 and not self._line

    def feed(self, data: bytes) -> bytes:
        """The body's bytes in what came.

        Raises:
            Malformed: a chunk's size is no number.
        """
        body, at, end = [], 0, len(data)
        while at < end and not self.done:
            if self._left > 0:
                taken = data[at : at + self._left]
                body.append(taken)
                at += len(taken)
                self._left = self._left - len(taken) or -2
            elif self._left < 0:
                if data[at : at + 1] != (b"\r" if self._left == -2 else b"\n"):
                    raise Malformed("a chunk is longer than it said")
                at, self._left = at + 1, self._left + 1
            else:
                at = self._size(data, at)
        return body[0] if len(body) == 1 else b"".join(body)

    def skip(self, size: int) -> None:
        """Whole chunks were read otherwise."""

    def _size(self, data: bytes, at: int) -> int:
        """Read the line with a chunk's size; gives where the next byte is."""
        stop = data.find(b"\n", at)
        if stop < 0:
            self._line += data[at:]
            if len(self._line) > LARGEST_HEAD:
                raise Malformed("a chunk without its size")
            return len(data)
        line, self._line = (self._line + data[at:stop]).split(b";")[0].strip(), b""
        try:
            self._left = int(line, 16)
        except ValueError:
            raise Malformed(f"a chunk of {said(line[:20])!r} bytes") from None
        if self._left == 0:
            self.done = True  # trailers, if any, say nothing of the answer
        return stop + 1


class Plain:
    """A body without chunks: as long as it said, or until the connection ends."""

    __slots__ = ("_left", "done")

    def __init__(self, length: int | None) -> None:
        self._left = length
        self.done = length == 0

    between = True

    def feed(self, data: bytes) -> bytes:
        """The body's bytes in what came."""
        if self._left is None:
            return data
        taken = data[: self._left]
        self.skip(len(taken))
        return taken

    def skip(self, size: int) -> None:
        """So many bytes were read otherwise."""
        if self._left is not None:
            self._left = max(0, self._left - size)
            self.done = self._left == 0


def message_of(body: bytes) -> str:
    """The message in an error's JSON, flat or nested; else how the body begins."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return said(body)
    if isinstance(told, dict):
        inner = told.get("error")
        found = inner.get("message") if isinstance(inner, dict) else inner or told.get("message") or told.get("detail")
        if found:
            return said(str(found).encode("utf-8", "replace"))
    return said(body)


def said(raw: bytes) -> str:
    """Bytes of a server as one short line that can be shown."""
    text = " ".join(raw[: 4 * _SAID].decode("utf-8", "replace").split())
    text = "".join(mark if mark.isprintable() else "�" for mark in text)
    return text if len(text) <= _SAID else text[: _SAID - 1] + "…"
