"""Reads what a server's engine tells into one file, which every view reads (notebook 07).

``GET /metrics`` gives one record an iteration, and gives each of them once: two readers would take records from each
other. So there is one poller an endpoint, and everything else reads its file, from any process.
"""

import contextlib
import http.client
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

TIMEOUT = 6.0
"""Seconds that an answer may take: the server waits up to two for a record before it says that there is none."""

LIMIT_BYTES = 16_000_000
"""A file that has grown to this is put aside, in place of the one put aside before: two are kept at most."""

_PAUSE = 0.2  # seconds between two questions: often enough for a live view, and no load on the server
_PAUSE_IDLE = 1.0  # while the engine is idle: each question is a line in the log of the server on a GPU
_PAUSE_GONE = 0.5  # after a question that got no answer: the server may be starting again
_TIMES = ("%m-%d-%Y %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S.%f", "%m-%d-%Y %H:%M:%S", "%Y-%m-%d %H:%M:%S")
_CREDIBLE = 30.0  # seconds by which a record's own time may differ from its arrival's; more is another clock's
_LONGEST_MS = 600_000  # a longer step is a clock that was set, or no duration at all
_TAIL = 65_536  # bytes at a file's end in which its last record is looked for first


@dataclass(frozen=True)
class Record:
    """What an engine told of one iteration; None for what it did not tell.

    Attributes:
        time: when the step ended, in seconds since 1970: the record's own where it tells, else when it came.
        active: requests that the engine works on.
        queued: requests that wait for it.
        paused: requests that had to give up their blocks in this iteration.
        kv_used, kv_free, kv_blocks: blocks of the KV cache; ``kv_blocks`` are all of them.
        tokens_per_block: tokens that a block holds.
        latency: seconds that the step took.
        prompts: requests whose prompts it read.
        prompt_tokens: tokens of those prompts that it read.
        raw: the record as it came.
    """

    time: float
    active: int | None = None
    queued: int | None = None
    paused: int | None = None
    kv_used: int | None = None
    kv_free: int | None = None
    kv_blocks: int | None = None
    tokens_per_block: int | None = None
    latency: float | None = None
    prompts: int | None = None
    prompt_tokens: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, told: Mapping[str, Any], arrived: float) -> "Record":
        """Read a record of ``/metrics``; every key may be missing."""
        cache, batch = _part(told, "kvCacheStats"), _part(told, "inflightBatchingStats")
        used, free, blocks = (_count(cache.get(f"{name}NumBlocks")) for name in ("used", "free", "max"))
        if blocks is None and used is not None and free is not None:
            blocks = used + free
        if free is None and blocks is not None and used is not None:
            free = blocks - used
        return cls(
            time=arrived,
            active=_count(told.get("numActiveRequests")),
            queued=_count(told.get("numQueuedRequests")),
            paused=_count(batch.get("numPausedRequests")),
            kv_used=used,
            kv_free=free,
            kv_blocks=blocks,
            tokens_per_block=_count(cache.get("tokensPerBlock")),
            latency=_latency(told),
            prompts=_count(batch.get("numContextRequests")),
            prompt_tokens=_count(batch.get("numCtxTokens")),
            raw=told,
        )


def ask(
    address: tuple[str, int], method: str, path: str, body: Mapping[str, Any] | None = None, timeout: float = TIMEOUT
) -> tuple[int, bytes]:
    """One HTTP request, straight to the server whatever proxy the environment names; status and body.

    Raises:
        OSError: nothing answers, or not in time; also what :mod:`http.client` raises for half an answer.
    """
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        return _ask(connection, method, path, body)
    finally:
        connection.close()


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Mapping[str, Any] | None = None
) -> tuple[int, bytes]:
    """One request over a connection of its own."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Connection": "close", **({"Content-Type": "application/json"} if data else {})}
    try:
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (http.client.HTTPException, ValueError, AttributeError) as error:  # the last two: closed meanwhile
        raise ConnectionError(f"half an answer: {error!r}") from None


class Poller:
    """Asks one server for its records until it is stopped or the server has ended, and appends them to a file.

    It is a thread of this process that keeps nothing alive: it ends with the process.

    Attributes:
        file: JSON lines: ``{"time": seconds since 1970, "record": as it came}``.
        problem: why the last question got no records; empty if it got an answer.
    """

    def __init__(
        self,
        address: tuple[str, int],
        file: Path,
        limit: int = LIMIT_BYTES,
        pause: float = _PAUSE,
        idle_pause: float = _PAUSE_IDLE,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        """Describe it; :meth:`start` starts it.

        Args:
            address: host and port of the server.
            file: what is written.
            limit: bytes; see :data:`LIMIT_BYTES`.
            pause: seconds between two questions while the engine works.
            idle_pause: the same while it is idle.
            alive: False once the server's process has ended. Its port may be another server's then, and a record that
                is taken from that one is lost to its own poller.
        """
        self.file = file
        self.problem = ""
        self._address, self._limit, self._alive = address, limit, alive
        self._pause, self._idle_pause = pause, max(pause, idle_pause)
        self._stopped, self._free, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._free.set()
        self._pauses, self._counting = 0, threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._run, name=f"metrics of {address[0]}:{address[1]}", daemon=True)

    def start(self) -> "Poller":
        """Begin; gives itself."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End within a moment, also in the middle of a question."""
        self._stopped.set()
        self._wake.set()
        self._hang_up()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2)

    def hurry(self) -> None:
        """Ask now: somebody looks."""
        self._wake.set()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Ask nothing for a while, so that somebody else gets the records; it may be paused several times at once."""
        with self._counting:
            self._pauses += 1
        self._free.wait(TIMEOUT + 1)
        try:
            yield
        finally:
            with self._counting:
                self._pauses -= 1

    def _hang_up(self) -> None:
        """Break off a question that waits for its answer."""
        connection = self._connection
        waiting = connection.sock if connection is not None else None
        if waiting is not None:
            with contextlib.suppress(OSError):
                waiting.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not self._alive():
                self.problem = "the server has ended"
                return
            self._free.clear()
            # Looked at after that: whoever pauses this waits for a question that is under way, and none begins then.
            pause = self._pause if self._pauses else self._once()
            self._free.set()
            self._wake.wait(pause)
            self._wake.clear()

    def _once(self) -> float:
        """Ask once, and write what came; gives the seconds to wait before the next question."""
        connection = http.client.HTTPConnection(*self._address, timeout=TIMEOUT)
        try:
            connection.connect()
            self._connection = connection
            if self._stopped.is_set():  # before that, stop() found nothing to hang up
                return 0.0
            status, body = _ask(connection, "GET", "/metrics")
            if status != 200:
                self.problem = f"/metrics answered {status}"
                return 2.0
            records = told_records(body)
            self.problem = ""
        except (OSError, ValueError) as error:
            self.problem = f"/metrics did not answer: {error}"
            return _PAUSE_GONE
        finally:
            self._connection = None
            connection.close()
        try:
            append(self.file, records, time.time(), self._limit)
        except OSError as error:
            self.problem = f"{self.file} cannot be written: {error.strerror}"
            return 2.0
        return self._idle_pause if _idle(records) else self._pause


def _idle(records: list[dict[str, Any]]) -> bool:
    """True if nothing came, or the last that came says that nothing runs or waits."""
    if not records:
        return True
    told = Record.of(records[-1], 0.0)
    return told.active == 0 and not told.queued


def told_records(body: bytes) -> list[dict[str, Any]]:
    """The records in an answer of ``/metrics``: a list of objects, or of JSON texts as some backends give.

    Raises:
        ValueError: it is no JSON list.
    """
    told = json.loads(body)
    if not isinstance(told, list):
        raise ValueError(f"/metrics gave {type(told).__name__} and no list")
    records = []
    for one in told:
        if isinstance(one, str):
            with contextlib.suppress(ValueError):
                one = json.loads(one)
        if isinstance(one, dict):
            records.append(one)
    return records


def append(file: Path, records: list[dict[str, Any]], arrived: float, limit: int = LIMIT_BYTES) -> None:
    """Add records that came together to a file, and put the file aside where it has grown too large.

    Args:
        file: of a :class:`Poller`.
        records: oldest first.
        arrived: when they came, in seconds since 1970.
        limit: bytes.
    """
    if not records:
        return
    times = _times(records, arrived)
    lines = [f'{{"time": {when:.3f}, "record": {json.dumps(one)}}}\n' for when, one in zip(times, records, strict=True)]
    if file.exists() and file.stat().st_size > limit:
        file.replace(_aside(file))
    with file.open("a", encoding="utf-8") as out:
        out.write("".join(lines))


def _times(records: list[dict[str, Any]], arrived: float) -> list[float]:
    """When each record was made: its own time if that is credible, else counted back from the last one's arrival."""
    times, later = [], arrived
    for told in reversed(records):
        own = _time(told.get("timestamp"))
        if own is None or not arrived - _CREDIBLE < own < arrived + 1:
            own = later
        times.append(min(own, later))
        later = min(own, later) - (_latency(told) or 0.0)
    return times[::-1]


def _latency(told: Mapping[str, Any]) -> float | None:
    """Seconds that a record's step took; None where it does not tell, or tells what no step takes."""
    latency = told.get("iterLatencyMS")
    known = isinstance(latency, int | float) and not isinstance(latency, bool) and 0 < latency < _LONGEST_MS
    return latency / 1000 if known and latency is not None else None


def _time(told: Any) -> float | None:
    """Seconds since 1970 from a record's timestamp; None if it is none that is known."""
    if isinstance(told, int | float) and not isinstance(told, bool):
        return float(told)
    if isinstance(told, str):
        for form in _TIMES:
            with contextlib.suppress(ValueError, OverflowError):
                return datetime.strptime(told.strip(), form).timestamp()
        with contextlib.suppress(ValueError, OverflowError):
            return datetime.fromisoformat(told.strip()).timestamp()
    return None


def read(file: Path, since: float = 0.0) -> list[Record]:
    """The records in a poller's file, oldest first; a line that is not whole yet is left out.

    Args:
        file: of a :class:`Poller`; none yet is no record.
        since: leave out what is older, in seconds since 1970.
    """
    found = []
    for part in (_aside(file), file):
        with contextlib.suppress(FileNotFoundError), part.open("rb") as lines:
            found += [record for line in lines if _may_be_since(line, since) and (record := _record(line))]
    return [record for record in found if record.time >= since]


def last(file: Path) -> Record | None:
    """The newest record in a poller's file; None if there is none. Quick, however long the file is."""
    for part in (file, _aside(file)):
        with contextlib.suppress(FileNotFoundError), part.open("rb") as lines:
            lines.seek(0, 2)
            lines.seek(max(0, lines.tell() - _TAIL))
            for line in reversed(lines.read().splitlines(keepends=True)):
                if record := _record(line):
                    return record
    return None


def _may_be_since(line: bytes, since: float) -> bool:
    """False for a line that is surely older: reading its time is quicker than reading all of it."""
    if not since:
        return True
    with contextlib.suppress(ValueError, IndexError):
        return float(line.split(b",", 1)[0].split(b":", 1)[1]) >= since
    return True


def _record(line: bytes) -> Record | None:
    """One line's record; None if the line is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        told = json.loads(line)
        return Record.of(told["record"], float(told["time"]))
    except (ValueError, KeyError, TypeError):
        return None


def _aside(file: Path) -> Path:
    """Where a file that has grown too large is kept."""
    return file.with_suffix(f".1{file.suffix}")


def _part(told: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object within a record; an empty one where it is missing or something else."""
    part = told.get(key)
    return part if isinstance(part, dict) else {}


def _count(value: Any) -> int | None:
    """A number of things; None where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value)
