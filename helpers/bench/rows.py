"""One request of a benchmark as a row, and the file of all of them: the raw data behind every figure (notebook 08).

Times are seconds since the run's first request was to be sent. A row is what happened; what is computed from rows is in
:mod:`helpers.bench.results.figures`.
"""

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, get_type_hints

OK = "ok"
WARM_UP, MEASURED = "warm-up", "measured"
USAGE, TOKENIZER, NOT_COUNTED = "usage", "tokenizer", "not counted"

FORMAT = 1
MEASURED_FILE, REQUESTS_FILE = "measured.json", "requests.csv"
"""What the load generator writes, and the format of the first: :mod:`helpers.bench.results.result` reads them."""


@dataclass(slots=True)
class Row:
    """One request.

    Attributes:
        run: 0 for the warm-up, then 1, 2, ...
        index: its place among the run's requests.
        phase: ``warm-up`` or ``measured``.
        slot: of a closed loop: which of the requests in flight, from 0; of an open loop the same as ``index``.
        first_wave: True for the first request of a slot: it meets a server that is filling up.
        intended: when it was to be sent (open loop: its arrival; closed loop: the same as ``sent``).
        sent: when its last byte was written; None if it never was.
        first_token: when the first byte that carries a generated token had arrived; None if none did.
        last_token: when the last one had.
        ended: when the answer was whole, or given up.
        outcome: ``ok``; or what went wrong, one of :data:`OUTCOMES`.
        message: what went wrong, in words; empty if all went well.
        status: HTTP status; None if no answer began.
        prompt_tokens: as the server counted; None if it did not say.
        asked_tokens: ``max_tokens`` of the request.
        tokens: of the answer; None if nobody counted them. Chunks are never taken for tokens.
        counted: who counted: ``usage`` (the server), ``tokenizer`` (the client, in the text) or ``not counted``.
        events: of the stream that carried text.
        reads: of the socket that brought such events: the times that ITL is taken between.
        merged: reads that brought more than one of them although they had arrived apart: the client was late.
        first_merged: True if the first token was in such a read.
        finish: the server's ``finish_reason``.
        itl_p50, itl_max: gaps between reads that carried tokens, in seconds; None below two reads.
        lag_max: longest that bytes of this answer lay in the kernel before the client took them, in seconds.
        reconnected: True if it began on a new connection.
        resent: True if it was sent a second time, since the server had just closed the first connection; ``sent`` is
            then the second time.
        bytes: of the answer, with its headers.
    """

    run: int
    index: int
    phase: str
    slot: int = 0
    first_wave: bool = False
    intended: float = 0.0
    sent: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    ended: float | None = None
    outcome: str = OK
    message: str = ""
    status: int | None = None
    prompt_tokens: int | None = None
    asked_tokens: int | None = None
    tokens: int | None = None
    counted: str = NOT_COUNTED
    events: int = 0
    reads: int = 0
    merged: int = 0
    first_merged: bool = False
    finish: str | None = None
    itl_p50: float | None = None
    itl_max: float | None = None
    lag_max: float = 0.0
    reconnected: bool = False
    resent: bool = False
    bytes: int = 0

    @property
    def ok(self) -> bool:
        """True if it was answered whole."""
        return self.outcome == OK

    @property
    def ttft(self) -> float | None:
        """Time to first token, in seconds: from ``sent``; in an open loop (``intended`` differs) from ``intended``."""
        return None if self.first_token is None else self.first_token - self.begun

    @property
    def begun(self) -> float:
        """What latencies count from, in seconds: the intended send where the client was late.

        Otherwise a queue of its own would be left out of an open loop's figures (coordinated omission).
        """
        return self.intended if self.sent is None or self.intended < self.sent else self.sent

    @property
    def seconds(self) -> float | None:
        """From its begin until the answer was whole."""
        return None if self.ended is None else self.ended - self.begun

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first, in seconds; None below two tokens or where nobody counted."""
        if self.tokens is None or self.tokens < 2 or self.first_token is None or self.last_token is None:
            return None
        return (self.last_token - self.first_token) / (self.tokens - 1)

    @property
    def rate(self) -> float | None:
        """Tokens a second that this user saw after the first: the inverse of :attr:`tpot`."""
        return 1 / self.tpot if self.tpot else None


OUTCOMES = {
    OK: "answered whole",
    "short": "ended before the tokens that were asked for",
    "miscounted": "the server's own count of its tokens cannot be right",
    "refused": "the server answered with an error (4xx)",
    "busy": "the server turned it away: too many requests (429)",
    "server error": "the server failed (5xx)",
    "error event": "the stream brought an error instead of its end",
    "cut": "the connection ended in the middle of the answer",
    "malformed": "what came is no answer of this API",
    "no tokens": "answered without any text",
    "timeout": "not answered in time",
    "no connection": "the server could not be reached",
    "interrupted": "the benchmark was stopped meanwhile",
}
"""What can become of a request; only ``ok`` is averaged into latencies."""


def write(rows: Iterable[Row], file: Path) -> None:
    """Write rows as CSV with a header; a value that is None is an empty field."""
    names = [one.name for one in fields(Row)]
    take = attrgetter(*names)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([f"{one:.9f}" if type(one) is float else one for one in take(row)] for row in rows)
    file.write_text(out.getvalue(), encoding="utf-8")


def read(file: Path) -> list[Row]:
    """The rows in a file that :func:`write` wrote.

    Raises:
        KeyError: a column is none of a row's.
        ValueError: a value is no number where one should be, or a line has fewer or more values than the header.
    """
    with file.open(encoding="utf-8", newline="") as text:
        lines = csv.reader(text)
        names = next(lines, [])
        takers = [_TAKERS[name] for name in names]
        return [
            Row(**{name: take(value) for name, take, value in zip(names, takers, line, strict=True)})
            for line in lines
            if line
        ]


def _taker(kind: str) -> Callable[[str], Any]:
    """What makes a value of this type from its text."""
    take: Callable[[str], Any] = str
    if "bool" in kind:
        take = "True".__eq__
    elif "int" in kind:
        take = int
    elif "float" in kind:
        take = float
    return (lambda text: None if text == "" else take(text)) if "None" in kind else take


_TAKERS = {name: _taker(str(kind)) for name, kind in get_type_hints(Row).items()}
