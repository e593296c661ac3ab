"""Reads an answer after it has come: HTTP/1.1 framing, server-sent events, and which carry tokens (notebook 08).

The client keeps what the kernel handed over, read by read, with the time of each; nothing is read while tokens arrive.
Two ways lead through it afterwards. The exact one takes every byte apart: framing, lines, JSON. The quick one counts: a
server writes all events of a stream alike but for their text, so once one has been taken apart, the others are found by
what stands before and behind the text. Where the counts of both do not agree, the exact way goes on from there.
"""

import contextlib
import json
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

CHUNKED_END = b"\r\n0\r\n\r\n"
"""The last bytes of a chunked body without trailers."""

_HEAD_END = b"\r\n\r\n"
_CONTINUES = b" 1"  # how the status of an answer begins that only says that another follows
_LARGEST_HEAD = 65_536  # bytes: what has no end of its headers by then is no HTTP
_LARGEST_EVENT = 16_000_000  # bytes
_ID, _ESCAPE = b'{"id":"', ord("\\")
_USUAL = 2_048  # bytes of an event: a larger one is not remembered
_SHORT = 512  # bytes: less than this need not have an event like the others
_ENDS = 8_192  # bytes
_SAMPLE = 16  # of long stretches, one is looked through whole
_ENDING = 60  # bytes at an event's end that tell it from others
_ATTEMPTS = 4  # to learn how events look, in a row, before all are taken apart
_TEXT = re.compile(rb'"(?:text|content)":\s?"([^"\\]*(?:\\.[^"\\]*)*)"')
_TEXT_BEGINS = re.compile(rb'"(?:text|(?:reasoning_)?content|reasoning|arguments)":\s?"(?!")()')
_SAYS_MORE = re.compile(rb'"usage":\s?\{|"finish_reason":\s?"')
_CREATED = re.compile(rb'"created":\s?\d+')
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*\bchunked[ \t]*\r\n")
_STREAM = re.compile(rb"\r\ncontent-type:[ \t]*text/event-stream")
_CLOSES = re.compile(rb"\r\nconnection:[^\r]*\bclose\b")
_MOST = 10**9  # tokens that an answer may have: more is no count
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n")
_GENERATED = ("content", "reasoning_content", "reasoning", "tool_calls")
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
                if len(data) > _LARGEST_HEAD or not b"HTTP/1.".startswith(data[begin : begin + 7]):
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


class _Chunks:
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
            if len(self._line) > _LARGEST_HEAD:
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


class _Plain:
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


class _Events:
    """Takes server-sent events apart, whatever ends their lines and wherever they were cut."""

    __slots__ = ("_data", "_line", "_marks", "_return")

    def __init__(self) -> None:
        self._line = b""  # a line that is not whole yet
        self._data: list[bytes] = []  # of the event under way
        self._marks: list[tuple[int, int]] = []  # byte of the event at which each read begins, and when that read came
        self._return = False  # the last byte was \r: a \n behind it ends no other line

    @property
    def between(self) -> bool:
        """True between two events."""
        return not self._line and not self._data and not self._return

    def feed(self, body: bytes, stamp: int) -> list[tuple[bytes, int]]:
        """The events that are whole now: their data, and when the first byte of their text came."""
        if self._return and body:
            body, self._return = body.removeprefix(b"\n"), False
        if not body:
            return []
        if len(self._line) > _LARGEST_EVENT:
            raise Malformed("a line of the stream has no end")
        self._marks.append((sum(map(len, self._data)) + len(self._line), stamp))
        if b"\r" in body:
            self._return = body.endswith(b"\r")
            body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = body.split(b"\n")
        lines[0] = self._line + lines[0]
        self._line = lines.pop()
        return self._whole(lines, stamp)

    def _whole(self, lines: list[bytes], stamp: int) -> list[tuple[bytes, int]]:
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and self._data:
                data = b"\n".join(self._data)
                events.append((data, self._came(data)))
                self._data = []
                self._marks = [(0, stamp)]
            elif line and not self._data:  # a comment or another field: the text is behind it
                self._marks = [(0, stamp)]
        if self.between:
            self._marks = []
        return events

    def rest(self) -> list[tuple[bytes, int]]:
        """The event that the stream's end ends."""
        return self.feed(b"\n\n", self._marks[-1][1]) if self._marks else []

    def _came(self, data: bytes) -> int:
        """When the first byte of an event's text came: an event may be cut in two."""
        if len(self._marks) == 1:
            return self._marks[0][1]
        text = _TEXT_BEGINS.search(data)
        at = 6 + text.start(1) if text else 0
        return max((stamp for begins, stamp in self._marks if begins <= at), default=self._marks[0][1])


class Looks:
    """What stands before and behind the text of every event of a server, framing included; shared by its answers."""

    __slots__ = ("after", "attempts", "before", "begins", "empty", "ends", "stretches")

    def __init__(self) -> None:
        self.before = self.after = self.empty = self.begins = self.ends = b""
        self.attempts = self.stretches = 0

    def learn(self, raw: bytes) -> None:
        """From one event with its framing.

        The time in it (``created``) changes every second with some servers, and what stands before that differs between
        answers (``id``), so that is left out. An event that says more than its text is none to learn from: what it says
        would be passed over in the others.
        """
        text = _TEXT.search(raw)
        if text is None or self.attempts >= _ATTEMPTS or _SAYS_MORE.search(raw):
            return
        begin = raw.index(b"data:")
        if created := _CREATED.search(raw, begin, text.start(1)):
            begin = created.end()
        self.before, self.after = raw[begin : text.start(1)], raw[text.end(1) :]
        self.empty = self.before + self.after
        # To be counted: longer than a line's first word, for Python finds those sooner, and not as long as all of it.
        self.begins, self.ends = b"\ndata: " if b"\ndata: " in b"\n" + raw else b"\ndata:", self.after[-_ENDING:]

    def alone(self, whole: bytes, begin: int, end: int) -> bool:
        """True if only such events are there: as many begin as end so.

        Looking for others costs more than counting these, so of much (over a hundred events at once, as only a server
        sends that floods) both ends are looked through and, now and then, all of it: a server's events change at the
        beginning, and an error ends a stream.
        """
        self.stretches += 1
        if end - begin < 4 * _ENDS or self.stretches % _SAMPLE == 0:
            return self._alone(whole, begin, end)
        left = whole.find(self.ends, begin + _ENDS, end) + len(self.ends)
        right = whole.rfind(self.ends, begin, end - _ENDS) + len(self.ends)
        return self._alone(whole, begin, left) and self._alone(whole, right, end)

    def _alone(self, whole: bytes, begin: int, end: int) -> bool:
        first = begin == 0 and whole.startswith(self.begins[1:])  # the line end before it may have come earlier
        return first + whole.count(self.begins, max(0, begin - 1), end) == whole.count(self.ends, begin, end)

    def forget(self) -> None:
        """They were others: learn anew from the next event, but not for ever."""
        self.attempts += 1
        self.before = b""


class Reader:
    """One answer, read bit by bit.

    Attributes:
        head: None before it was read.
        stamps: when reads came that brought text, in nanoseconds.
        counts: events with text in each of them.
        prompt_tokens, tokens: as the server counted; None where it did not.
        finish: its ``finish_reason``.
        error: what the stream said in place of its end; empty if it did not.
        done: True once ``[DONE]`` came.
        quick: events that were counted and not taken apart.
        texts: of the events, where somebody has to count their tokens; None otherwise.
    """

    __slots__ = (
        "_body", "_events", "_looks", "_said", "counts", "done", "error", "events", "finish",
        "head", "prompt_tokens", "quick", "stamps", "texts", "tokens",
    )  # fmt: skip

    def __init__(self, head: Head, looks: Looks | None = None, keep_text: bool = False) -> None:
        """Begin.

        Args:
            head: of the answer.
            looks: of this server's events, as far as other answers have shown.
            keep_text: take every event apart and keep its text.
        """
        self.head = head
        self.texts: list[str] | None = [] if keep_text else None
        self._looks = looks or Looks()
        self.stamps, self.counts = array("q"), array("l")
        self.events = self.quick = 0
        self.prompt_tokens: int | None = None
        self.tokens: int | None = None
        self.finish: str | None = None
        self.error = ""
        self.done = False
        self._body = _Chunks() if head.chunked else _Plain(head.length)
        self._events = _Events()
        self._said: list[bytes] = []

    @property
    def whole(self) -> bool:
        """True once the framing says that nothing more comes."""
        return self._body.done

    @property
    def body(self) -> bytes:
        """What an answer that is no stream has brought; its beginning, where that is long."""
        return b"".join(self._said)

    @property
    def said(self) -> str:
        """What it says: the message of an error, or how it begins."""
        return message_of(self.body)

    def feed(self, stamps: Sequence[int], pieces: Sequence[bytes]) -> None:
        """Read on.

        Args:
            stamps: when each piece came, in nanoseconds.
            pieces: what came, without the head.

        Raises:
            Malformed: it cannot be read on.
        """
        if not self.head.stream:
            for piece in pieces:
                self._keep(piece)
            return
        at = offset = 0
        while at < len(pieces) and not self._body.done:
            if self._looks.before and self._skims and self._body.between and self._events.between:
                skimmed = self._skim(stamps, pieces, at, offset)
                if skimmed:  # and what is left looks different
                    at, offset = skimmed
                    self._rest(stamps, pieces, at, offset)
                    return
            offset = self._exactly(pieces[at], offset, stamps[at])
            if offset == len(pieces[at]):
                at, offset = at + 1, 0

    def close(self) -> None:
        """The connection ended, or the body did: an event without a line end behind it counts too, if it is whole."""
        if self.head.stream:
            with contextlib.suppress(Malformed):  # it was cut
                for data, came in self._events.rest():
                    self._event(data, came)

    @property
    def _skims(self) -> bool:
        """True if events may be counted: the first one has been taken apart, and nobody wants their texts."""
        return self.events > 0 and self.texts is None

    def _keep(self, piece: bytes) -> None:
        body = self._body.feed(piece)
        if sum(map(len, self._said)) < _LARGEST_HEAD:
            self._said.append(body)

    # --- The exact way ------------------------------------------------------------

    def _rest(self, stamps: Sequence[int], pieces: Sequence[bytes], at: int, offset: int) -> None:
        """Take all that is left apart."""
        for stamp, piece in zip(stamps[at:], pieces[at:], strict=True):
            for data, came in self._events.feed(self._body.feed(piece[offset:]), stamp):
                self._event(data, came)
            offset = 0

    def _exactly(self, piece: bytes, offset: int, stamp: int) -> int:
        """Take the next event apart, or all there is where none ends; gives where to go on in the piece."""
        end = piece.find(b"\n\n", offset) + 2
        if end == 1:
            end = len(piece)
        elif self.head.chunked and piece.startswith(b"\r\n", end):
            end += 2
        raw = piece if offset == 0 and end == len(piece) else piece[offset:end]
        learn = not self._looks.before and self._body.between and self._events.between
        before = self.events
        for data, came in self._events.feed(self._body.feed(raw), stamp):
            self._event(data, came)
        if learn and self.events == before + 1 and self._body.between and self._events.between:
            self._looks.learn(raw)
        return end

    def _event(self, data: bytes, came: int) -> None:
        """What one event says."""
        if data == b"[DONE]":
            self.done = True
            return
        told = _said_by(data)
        self.error = told.error or self.error
        self.prompt_tokens = self.prompt_tokens if told.prompt_tokens is None else told.prompt_tokens
        self.tokens = self.tokens if told.tokens is None else told.tokens
        self.finish = told.finish or self.finish
        if told.text:
            self._came(came, 1)
            if self.texts is not None:
                self.texts.append(told.text)

    def _came(self, stamp: int, events: int) -> None:
        """Events with text came at that time."""
        self.events += events
        if self.stamps and self.stamps[-1] == stamp:
            self.counts[-1] += events
        else:
            self.stamps.append(stamp)
            self.counts.append(events)

    # --- The quick way ------------------------------------------------------------

    def _skim(self, stamps: Sequence[int], pieces: Sequence[bytes], at: int, offset: int) -> tuple[int, int] | None:
        """Count the events that look alike, as far as they go; gives the piece and the byte in it to go on from.

        None if there may be one, and too little to tell.
        """
        looks = self._looks
        whole = pieces[at] if at == len(pieces) - 1 else b"".join(pieces[at:])
        end = whole.rfind(looks.after, offset) + len(looks.after)
        if end < len(looks.after) and len(whole) - offset < _SHORT:
            return None
        if end < len(looks.after) or not looks.alone(whole, offset, end):
            looks.forget()
            return at, offset
        events = whole.count(looks.ends, offset, end)
        if whole.find(looks.empty, offset, end) >= 0:  # brings no text, and looks the same
            return at, offset
        skimmed = self._share_out(stamps, pieces, at, offset, end, whole, events)
        if skimmed is None:
            looks.forget()
            return at, offset
        looks.attempts = 0
        self.quick += events
        self._body.skip(end - offset)
        return skimmed

    def _share_out(
        self, stamps: Sequence[int], pieces: Sequence[bytes], at: int, offset: int, end: int, whole: bytes, events: int
    ) -> tuple[int, int] | None:
        """Which read brought how many of the events; gives where to go on, or None if some look different in front."""
        before, begins = self._looks.before, 0
        first, cut = at, []
        while at < len(pieces) and begins + len(pieces[at]) <= end:
            begins += len(pieces[at])
            cut.append(begins)
            at += 1
        cut.append(end)
        if len(cut) == 1:
            self._came(stamps[first], events)
            return at, end - begins
        edges = [offset, *cut]
        n = len(before)  # an event may lie across two reads, and belongs where the first byte of its text is
        counts = [whole.count(before, max(offset, a - n), b - 1) for a, b in zip(edges, cut, strict=False)]
        if sum(counts) != events:
            return None
        for i, count in enumerate(counts):
            if count:
                self._came(stamps[first + i], count)
        return at, end - begins


class _Event(NamedTuple):
    """What one event says."""

    error: str = ""
    prompt_tokens: int | None = None
    tokens: int | None = None
    finish: str | None = None
    text: str = ""


def _said_by(data: bytes) -> _Event:
    """What an event says.

    Raises:
        Malformed: it is none of this API.
    """
    if data.startswith(_ID) and len(data) < _USUAL:
        end = data.find(b'"', len(_ID))
        if end > 0 and data[end - 1] != _ESCAPE:
            return _after_id(data[end:])
    return _parsed(data)


@lru_cache(maxsize=256)
def _after_id(rest: bytes) -> _Event:
    """The same without the answer's own id, which says nothing: first and last events of many answers are alike."""
    return _parsed(_ID + rest)


def _parsed(data: bytes) -> _Event:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        raise Malformed(f"an event of the stream is no JSON: {said(data[:60])!r}") from None
    if not isinstance(told, dict):
        raise Malformed(f"an event of the stream is no object: {said(data[:60])!r}")
    if told.get("error") or told.get("object") == "error":
        return _Event(error=message_of(data))
    usage, choices = told.get("usage"), told.get("choices")
    counts = usage if isinstance(usage, dict) else {}
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    finish = choice.get("finish_reason")
    return _Event(
        prompt_tokens=_count(counts.get("prompt_tokens")),
        tokens=_count(counts.get("completion_tokens")),
        finish=said(finish.encode("utf-8", "replace")) if finish and isinstance(finish, str) else None,
        text=_text_of(choice),
    )


def _text_of(choice: dict[str, Any]) -> str:
    """What a choice brings that was generated: text, reasoning or a call of a tool; nothing for a role alone."""
    delta = choice.get("delta")
    found = [choice.get("text"), *map((delta if isinstance(delta, dict) else {}).get, _GENERATED)]
    return "".join(one if isinstance(one, str) else json.dumps(one) for one in found if one)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None


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
