"""Server-sent events, however they were cut and whatever ends their lines, and what one of this API says."""

import json
import re
from functools import lru_cache
from typing import Any, NamedTuple

from helpers.bench.generator.framing import Malformed, message_of, said

_LARGEST_EVENT = 16_000_000  # bytes
_ID, _ESCAPE = b'{"id":"', ord("\\")
_USUAL = 2_048  # bytes of an event: a larger one is not remembered
_TEXT_BEGINS = re.compile(rb'"(?:text|(?:reasoning_)?content|reasoning|arguments)":\s?"(?!")()')
_MOST = 10**9  # tokens that an answer may have: more is no count
_GENERATED = ("content", "reasoning_content", "reasoning", "tool_calls")


class Events:
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


class Event(NamedTuple):
    """What one event says."""

    error: str = ""
    prompt_tokens: int | None = None
    tokens: int | None = None
    finish: str | None = None
    text: str = ""


def said_by(data: bytes) -> Event:
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
def _after_id(rest: bytes) -> Event:
    """The same without the answer's own id, which says nothing: first and last events of many answers are alike."""
    return _parsed(_ID + rest)


def _parsed(data: bytes) -> Event:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        raise Malformed(f"an event of the stream is no JSON: {said(data[:60])!r}") from None
    if not isinstance(told, dict):
        raise Malformed(f"an event of the stream is no object: {said(data[:60])!r}")
    if told.get("error") or told.get("object") == "error":
        return Event(error=message_of(data))
    usage, choices = told.get("usage"), told.get("choices")
    counts = usage if isinstance(usage, dict) else {}
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    finish = choice.get("finish_reason")
    return Event(
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
