"""One request and what comes back, from the moment it is due to its row in the results (notebook 08)."""

import re
from array import array
from collections.abc import Callable
from operator import sub

from helpers.bench.generator.answer import Looks, Reader
from helpers.bench.generator.framing import CHUNKED_END, Head, Malformed
from helpers.bench.load import Load
from helpers.bench.rows import MEASURED, NOT_COUNTED, OK, TOKENIZER, USAGE, WARM_UP, Row

_NANO = 1e-9
_TAIL = len(CHUNKED_END)
_LAST_CHUNK = re.compile(rb"\r\n0+[ \t]*(?:;[^\r\n]*)?\r\n(?:[^\r\n]+\r\n)*\r\n\Z")  # with trailers


class Exchange:
    """One request under way. The client appends what it reads; everything else waits until it has time.

    Attributes:
        index: place among the run's requests.
        slot: of a closed loop.
        first: True for the slot's first request.
        due: when it was to be sent, in nanoseconds since 1970; 0 in a closed loop.
        sent: when its last byte was written; 0 before that.
        asked: tokens.
        request: its bytes, head and body.
        stamps, pieces: reads that have not been taken apart yet: when they came, and what.
        late: stamps of reads that lay in the kernel for longer than a token takes.
        lag: longest that any of them lay there, in nanoseconds.
        head: of the answer; None before it came.
        ended: when it was whole or given up, in nanoseconds.
        deadline: when it is given up, by the monotonic clock, in seconds.
        outcome, message: what went wrong outside of what was read; ``ok`` until then.
        fresh: True if it began on a new connection.
        resent: True if it was sent a second time, since the server had closed the connection.
    """

    __slots__ = (
        "_reader", "asked", "bytes", "deadline", "due", "ended", "first", "fresh", "head", "index", "lag", "late",
        "message", "outcome", "pieces", "request", "resent", "sent", "slot", "stamps",
    )  # fmt: skip

    def __init__(self, index: int, slot: int, first: bool, due: int, request: bytes, asked: int) -> None:
        self.index, self.slot, self.first, self.due, self.request, self.asked = index, slot, first, due, request, asked
        self.sent = self.ended = self.lag = self.bytes = 0
        self.deadline = 0.0
        self.stamps: list[int] = []
        self.pieces: list[bytes] = []
        self.late: list[int] = []
        self.head: Head | None = None
        self.outcome, self.message = OK, ""
        self.fresh = self.resent = False
        self._reader: Reader | None = None

    def begins(self, looks: Looks | None = None, keep_text: bool = False) -> bool:
        """Look for the answer's head in what has come; True once it is there.

        Args:
            looks, keep_text: see :class:`helpers.bench.generator.answer.Reader`.

        Raises:
            Malformed: no HTTP answer.
        """
        came = b"".join(self.pieces)
        self.head = Head.of(came)
        if self.head is None:
            return False
        body = came[self.head.size :]
        self.pieces, self.stamps = ([body], self.stamps[-1:]) if body else ([], [])
        self._reader = Reader(self.head, looks, keep_text)
        self.bytes = self.head.size
        return True

    @property
    def whole(self) -> bool:
        """True if the answer ended with what came last, as far as a glance tells; it costs nothing that grows."""
        head = self.head
        if head is None:
            return False
        if not self.pieces:
            return head.empty
        if head.chunked:
            last = self.pieces[-1]
            if len(last) < _TAIL:  # its end may be cut
                last = b"\r\n" + b"".join(self.pieces[-_TAIL:])
            if not last.endswith(b"\r\n\r\n"):
                return False
            return last.endswith(CHUNKED_END) or _LAST_CHUNK.search(last) is not None
        return head.length is not None and self.bytes + sum(map(len, self.pieces)) >= head.size + head.length

    def read(self) -> None:
        """Take apart what has come. What cannot be is noted as the outcome."""
        stamps, pieces = self.stamps, self.pieces
        self.stamps, self.pieces = [], []
        self.bytes += sum(map(len, pieces))
        if self._reader is None or self.outcome == "malformed":
            return
        try:
            self._reader.feed(stamps, pieces)
        except Malformed as error:
            self.fail("malformed", str(error))

    @property
    def came(self) -> int:
        """Events with text that it has brought; a read that has not been taken apart counts for one."""
        return self._reader.events + len(self.pieces) if self._reader else 0

    @property
    def read_whole(self) -> bool:
        """True if what has been taken apart is the whole answer."""
        return self._reader is not None and self._reader.whole

    @property
    def said_done(self) -> bool:
        """True if the stream has said that it is at its end, as far as it has been taken apart."""
        return self._reader is not None and self._reader.done

    def fail(self, outcome: str, message: str) -> None:
        """It went wrong; what went wrong first stays."""
        if self.outcome == OK:
            self.outcome, self.message = outcome, message

    def row(
        self, run: int, start: int, load: Load, count: Callable[[str], int] | None = None
    ) -> "tuple[Row, array[int], array[int]]":
        """The request's row; and when its tokens came (nanoseconds) and how many events each read brought.

        Args:
            run: its number.
            start: of the run, in nanoseconds since 1970.
            load: what it belongs to.
            count: the model's tokenizer, for an answer that the server has not counted and whose text was kept.
        """
        self.read()
        if self._reader is None or self.head is None:
            self.fail("cut", "the connection ended without an answer")
            return self._row(run, start), array("q"), array("l")
        self._conclude(self._reader, self.head, load)
        row = self._row(run, start)
        _fill(row, self._reader, start, self.late)
        if row.ok and row.tokens is None and count and self._reader.texts:
            row.tokens, row.counted = count("".join(self._reader.texts)), TOKENIZER
        return row, self._reader.stamps, self._reader.counts

    def _conclude(self, reader: Reader, head: Head, load: Load) -> None:
        """What became of an answer that had a head."""
        reader.close()
        if head.status != 200:
            self.outcome, self.message = OK, ""
            self.fail(
                _kind(head.status), f"HTTP {head.status}: {reader.said}" if reader.said else f"HTTP {head.status}"
            )
        elif not head.stream:
            self.fail("malformed", f"the answer is no stream: {reader.said[:80]!r}")
        elif reader.error:
            self.fail("error event", reader.error)
        elif not reader.done and reader.finish is None:
            self.fail("cut", "the stream stopped without its end")
        elif not reader.events:
            self.fail("no tokens", "the stream ended without any text")
        elif wrong := _miscounted(reader, self.asked, load):
            self.fail("miscounted", wrong)
        elif load.ignore_eos and reader.tokens is not None and reader.tokens < self.asked:
            self.fail("short", f"{reader.tokens} of {self.asked} tokens came")

    def _row(self, run: int, start: int) -> Row:
        sent = (self.sent - start) * _NANO if self.sent else None
        due = (self.due - start) * _NANO if self.due else sent or 0.0
        return Row(
            run=run,
            index=self.index,
            phase=MEASURED if run else WARM_UP,
            slot=self.slot,
            first_wave=self.first,
            intended=due,
            sent=sent,
            ended=(self.ended - start) * _NANO if self.ended else None,
            outcome=self.outcome,
            message=self.message,
            status=self.head.status if self.head else None,
            asked_tokens=self.asked,
            lag_max=self.lag * _NANO,
            reconnected=self.fresh,
            resent=self.resent,
            bytes=self.bytes,
        )


def _kind(status: int) -> str:
    """What an answer with another status than 200 is: also one that sends elsewhere is none of this API."""
    if status == 429:
        return "busy"
    return "server error" if status >= 500 else "refused" if status >= 400 else "malformed"


def _fill(row: Row, reader: Reader, start: int, late: list[int]) -> None:
    """What the answer itself tells."""
    row.prompt_tokens, row.tokens, row.finish = reader.prompt_tokens, reader.tokens, reader.finish
    row.counted = NOT_COUNTED if reader.tokens is None else USAGE
    stamps = reader.stamps
    row.events, row.reads = reader.events, len(stamps)
    if not stamps:
        return
    row.first_token, row.last_token = (stamps[0] - start) * _NANO, (stamps[-1] - start) * _NANO
    if late:
        row.merged = merged(reader, set(late))
        row.first_merged = reader.counts[0] > 1 and stamps[0] in late
    if gaps := sorted(gaps_of(stamps)):
        row.itl_p50 = (gaps[len(gaps) // 2] + gaps[(len(gaps) - 1) // 2]) / 2 * _NANO
        row.itl_max = gaps[-1] * _NANO


def _miscounted(reader: Reader, asked: int, load: Load) -> str:
    """Why the server's count of tokens cannot be right; empty if it can.

    Some count the end-of-text token beyond the limit, and some send text that they held back in an event of its own.
    """
    tokens = reader.tokens
    if tokens is None or "n" in load.extra or "best_of" in load.extra:
        return ""
    if tokens > asked + 1:
        return f"the server counted {tokens:,} tokens, and {asked:,} were the most that it was asked for"
    if reader.events > 2 * tokens + 2:
        return f"the server counted {tokens:,} tokens, and {reader.events:,} events with text came"
    return ""


def gaps_of(stamps: "array[int]") -> list[int]:
    """Times between reads that brought tokens, in the stamps' unit, ``[reads - 1]``."""
    return list(map(sub, stamps[1:], stamps))


def merged(reader: Reader, late: set[int]) -> int:
    """Reads that brought several events and lay for long: events that had arrived apart look like one."""
    return sum(1 for stamp, count in zip(reader.stamps, reader.counts, strict=True) if count > 1 and stamp in late)
