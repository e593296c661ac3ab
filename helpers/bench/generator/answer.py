"""Reads an answer after it has come: which of its events carry tokens, and when they came (notebook 08).

The client keeps what the kernel handed over, read by read, with the time of each; nothing is read while tokens arrive.
Two ways lead through it afterwards. The exact one takes every byte apart: framing, lines, JSON. The quick one counts: a
server writes all events of a stream alike but for their text, so once one has been taken apart, the others are found by
what stands before and behind the text. Where the counts of both do not agree, the exact way goes on from there.
"""

import contextlib
import re
from array import array
from collections.abc import Sequence

from helpers.bench.generator.events import Events, said_by
from helpers.bench.generator.framing import LARGEST_HEAD, Chunks, Head, Malformed, Plain, message_of

_SHORT = 512  # bytes: less than this need not have an event like the others
_ENDS = 8_192  # bytes
_SAMPLE = 16  # of long stretches, one is looked through whole
_ENDING = 60  # bytes at an event's end that tell it from others
_ATTEMPTS = 4  # to learn how events look, in a row, before all are taken apart
_TEXT = re.compile(rb'"(?:text|content)":\s?"([^"\\]*(?:\\.[^"\\]*)*)"')
_SAYS_MORE = re.compile(rb'"usage":\s?\{|"finish_reason":\s?"')
_CREATED = re.compile(rb'"created":\s?\d+')


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
        self._body = Chunks() if head.chunked else Plain(head.length)
        self._events = Events()
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
        if sum(map(len, self._said)) < LARGEST_HEAD:
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
        told = said_by(data)
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
