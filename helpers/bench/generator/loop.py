"""One run of a load: one thread, one loop, as many requests in flight as asked (notebook 08).

While answers arrive the loop only takes bytes from the kernel, with the times at which they came, and sends what is
due. What the bytes say is read when nothing else is to be done. So a figure is the server's, not this program's queue;
and where the program could not keep up, its own health says so (:class:`helpers.bench.measured.Health`).
"""

import heapq
import time
from array import array
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

from helpers.bench.generator import prompts, tally
from helpers.bench.generator.arrivals import arrivals, first_starts
from helpers.bench.generator.connection import Connection, own_limit, why
from helpers.bench.generator.exchange import Exchange, gaps_of
from helpers.bench.generator.framing import Malformed
from helpers.bench.load import Load
from helpers.bench.measured import BUCKET, Health, Progress, Run
from helpers.bench.rows import OK, USAGE, Row

if TYPE_CHECKING:
    from helpers.bench.generator.client import Client

TICK = 0.25  # seconds between two looks at time limits, and two reports
_QUIET = 500_000_000  # nanoseconds without a byte after which an answer under way is looked at
_SPIN = 0.001  # seconds: the kernel wakes a waiting process to the millisecond, so the last one is waited awake
_LATE = 1_000_000  # nanoseconds in the kernel from which tokens that came apart may be read as one
_LAG_STEP, _LAG_STEPS = 50_000, 20_000  # nanoseconds; how many of them are told apart
_PIECES = 64  # reads after which an answer under way is read on when there is time
_LARGE = 65_536  # bytes of one read that are read at once: so much is never kept
_BACKLOG = 512  # answers that may wait to be read
_READY = 256  # requests written out beforehand
_LATEST = 64  # answers that a live figure is taken from
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds before a slot tries again, after 1, 2, ... failures in a row
_AT_ONCE = 0.05  # seconds in which a server that had closed a connection says so to a request on it


class Loop:
    """One run."""

    def __init__(self, client: "Client", number: int, load: Load, total: int | None, ramp: float) -> None:
        self.client, self.number, self.load, self.total, self.ramp = client, number, load, total, ramp
        self._prompts = client.source.take(number, total)
        self._ready: deque[tuple[bytes, int]] = deque()
        self._exhausted = False
        self._started = self._done = self._failed = self._in_a_row = 0
        self._misses: dict[int, int] = {}  # failures in a row of a slot
        self._live: dict[int, Exchange] = {}  # by index: under way
        self._carrier: dict[int, Connection] = {}  # by index
        self._unread: deque[Exchange] = deque()  # ended
        self._partly: deque[Exchange] = deque()  # under way, with much to read
        self._rows: list[Row] = []
        self._gaps = array("d")
        self._tokens: dict[int, float] = {}  # by step of the timeline
        self._reads = self._merged = self._counted = 0
        self._lags = [0] * (_LAG_STEPS + 1)
        self._parsing = self._awake = 0.0
        self._late: list[float] = []  # seconds after its time at which each request of an open loop was taken up
        self._limited: set[int] = set()  # requests that this machine's own limits kept from being sent
        self._told = 0  # tokens, in the latest report
        self._stopped = ""  # why it was cut short
        self._ttfts: deque[float] = deque(maxlen=_LATEST)
        self._recent: deque[tuple[float, int]] = deque([(0.0, 0)])
        self._looked = 0  # when the loop last looked at all connections, in nanoseconds
        self._due: list[tuple[float, int, bool]] = []  # seconds since the run began, slot, first

    # --- The loop -----------------------------------------------------------------

    def run(self) -> Run:
        """Send all requests, and wait for all answers."""
        self._fill()
        if self.load.concurrency:
            slots = min(self.load.concurrency, self.total or self.load.concurrency)
            self._due = [(at, slot, True) for slot, at in enumerate(first_starts(slots, self.ramp))]
        else:
            self._arrivals = arrivals(self.load, self.number)
            self._await_arrival()
        cpu, clock, self._began = time.process_time(), time.monotonic(), time.monotonic()
        self._start = self._looked = time.time_ns()
        ahead = tally.ahead()
        self._turn()
        seconds = time.monotonic() - clock
        shift = tally.ahead() - ahead
        cpu = time.process_time() - cpu
        while self._unread:
            self._conclude(self._unread.popleft())
        return self._finished(Health(seconds=seconds, cpu_seconds=cpu, clock_shift=shift))

    def _turn(self) -> None:
        """Until nothing is due and nothing under way."""
        tick = TICK
        while self._due or self._live:
            now = time.monotonic() - self._began
            if self.client.stopping:
                self._stopped = self.client.stopping
                self._give_up("interrupted", self._stopped)
                return
            if self._due and self._due[0][0] <= now:
                now = self._send_due(now)
            if now >= tick:
                self._tick(now)
                tick = now + TICK
            ready = self.client.poll(0.0) if self._to_do else self._wait(now, tick)
            if ready:
                self._receive(ready)
                self._looked = time.time_ns()
                while len(self._unread) > _BACKLOG:
                    self._conclude(self._unread.popleft())
            else:
                self._looked = time.time_ns()
                self._read_something()

    @property
    def _to_do(self) -> bool:
        """True while there is something to read or to write out."""
        return bool(self._unread or self._partly or len(self._ready) < min(_READY // 4, self._left))

    def _wait(self, now: float, tick: float) -> list[tuple[int, int]]:
        """Wait for answers until something is due, the last moment of it awake."""
        until = min(tick, self._due[0][0] - _SPIN) if self._due else tick
        if until > now:
            return self.client.poll(until - now)
        began, until = time.thread_time(), self._began + self._due[0][0]
        while not (ready := self.client.poll(0.0)) and time.monotonic() < until:
            self._looked = time.time_ns()
        self._awake += time.thread_time() - began
        return ready

    @property
    def _left(self) -> int:
        """Requests that can still be written out beforehand."""
        return 0 if self._exhausted else _READY

    def _receive(self, ready: list[tuple[int, int]]) -> None:
        """Take what has come. This is the part that must be quick: nothing here grows with what came."""
        client, lags, clock = self.client, self._lags, time.time_ns
        for fd, _ in ready:
            connection = client.on(fd)
            if connection is None:
                continue
            exchange = connection.exchange
            if exchange is None:
                client.go_on(connection)
                continue
            if not exchange.sent:
                self._send(connection, exchange)
                if exchange.sent or not connection.ready or client.on(fd) is not connection:
                    continue  # else a long request is on its way, and a server may answer before it has read it
            try:
                stamp, came = connection.receive()
            except OSError:
                stamp, came = clock(), b""
            if came is None:
                continue
            if not came:
                self._hung_up(connection, exchange, stamp)
                continue
            lag = clock() - (stamp if connection.stamped else self._looked)
            lags[lag // _LAG_STEP if 0 <= lag < _LAG_STEP * _LAG_STEPS else _LAG_STEPS] += 1
            if lag > exchange.lag:
                exchange.lag = lag
            if lag > _LATE:
                exchange.late.append(stamp)
            exchange.stamps.append(stamp)
            exchange.pieces.append(came)
            if exchange.head is None and not self._begins(connection, exchange):
                continue
            if exchange.whole:
                self._answered(connection, exchange, stamp)
            elif len(came) >= _LARGE:
                self._read_on(exchange)
            elif len(exchange.pieces) == _PIECES:
                self._partly.append(exchange)

    def _read_something(self) -> None:
        """There is time: write a request out, or read an answer."""
        if self._unread:
            self._conclude(self._unread.popleft())
        elif self._partly:
            exchange = self._partly.popleft()
            if exchange.index in self._live:
                self._read_on(exchange)
        elif len(self._ready) < self._left:
            self._fill(8)

    def _fill(self, n: int = _READY) -> None:
        """Write out the next requests."""
        target, load, path = self.client.target, self.load, self.client.target.path(self.load.api)
        for _ in range(n):
            prompt = next(self._prompts, None)
            if prompt is None:
                self._exhausted = True
                return
            request = target.request("POST", path, prompts.body(prompt, target.model, load))
            self._ready.append((request, prompt.max_tokens))

    # --- Sending ------------------------------------------------------------------

    def _send_due(self, now: float) -> float:
        """Send every request whose time has come; gives the time afterwards."""
        while self._due and self._due[0][0] <= now:
            at, slot, first = heapq.heappop(self._due)
            if not self._ready:
                self._fill(1)
            if not self._ready or (self.load.seconds is not None and now > self.load.seconds):
                if self.load.open_loop:
                    self._due.clear()
                continue
            request, asked = self._ready.popleft()
            open_loop = self.load.open_loop
            due = self._start + round(at * 1e9) if open_loop else 0
            if open_loop:
                self._late.append(time.monotonic() - self._began - at)
            self._begin(Exchange(self._started, self._started if open_loop else slot, first, due, request, asked))
            if open_loop:
                self._await_arrival()
            now = time.monotonic() - self._began
        return now

    def _await_arrival(self) -> None:
        """The next request of an open loop becomes due at its time, if there is one: a profile ends."""
        if (at := next(self._arrivals, None)) is not None:
            heapq.heappush(self._due, (at, 0, False))

    def _begin(self, exchange: Exchange) -> None:
        self._started += 1
        exchange.deadline = time.monotonic() + self.load.timeout
        self._live[exchange.index] = exchange
        self._carry(exchange)

    def _carry(self, exchange: Exchange) -> None:
        """Give a request a connection, a new one if it had none of use, and send it there if that is open already."""
        try:
            connection = self.client.connect(new=exchange.resent)
        except OSError as error:
            if own_limit(error):
                self._limited.add(exchange.index)
            self._over(exchange, "no connection", why(error))
            return
        exchange.fresh = not connection.used
        connection.exchange = exchange
        self._carrier[exchange.index] = connection
        if connection.ready:
            self._send(connection, exchange)

    def _send(self, connection: Connection, exchange: Exchange) -> None:
        """Send it, or go on sending it."""
        try:
            if not connection.ready and not connection.opened():
                self.client.watch_output(connection, False)  # the server's half of a handshake comes next
                return
            request, exchange.request = exchange.request, b""
            if request and not exchange.fresh:
                connection.again, connection.again_until = request, time.monotonic() + _AT_ONCE
            if connection.send(request):
                exchange.sent = connection.sent
                self.client.watch_output(connection, False)
            else:
                self.client.watch_output(connection, True)
        except OSError as error:
            self._hung_up(connection, exchange, time.time_ns(), why(error))

    # --- Ends ---------------------------------------------------------------------

    def _begins(self, connection: Connection, exchange: Exchange) -> bool:
        try:
            return exchange.begins(self.client.looks, self.client.keeps_text)
        except Malformed as error:
            self.client.drop(connection)
            self._over(exchange, "malformed", str(error))
            return False

    def _answered(self, connection: Connection, exchange: Exchange, stamp: int) -> None:
        """The answer is whole."""
        exchange.ended = stamp
        if exchange.head is not None and exchange.head.keep and exchange.sent:
            self.client.release(connection)
        else:
            self.client.drop(connection)
        self._next(exchange)

    def _hung_up(self, connection: Connection, exchange: Exchange, stamp: int, reason: str = "") -> None:
        """The connection ended."""
        self.client.drop(connection)
        unread = exchange.head is None and not exchange.pieces
        if unread and not exchange.fresh and time.monotonic() < connection.again_until:
            # The server had closed a connection that it kept for a while: not the request's fault. Later it may be.
            exchange.request, exchange.sent, exchange.resent = connection.again, 0, True
            self._carry(exchange)
            return
        exchange.ended = stamp
        head = exchange.head
        if head is not None and not head.chunked and head.length is None:
            self._next(exchange)  # such an answer ends with its connection
        elif not connection.ready:
            self._over(exchange, "no connection", reason or "the server closed it at once")
        else:
            self._over(exchange, "cut", f"the connection ended in the middle of the answer{reason and f': {reason}'}")

    def _over(self, exchange: Exchange, outcome: str, message: str) -> None:
        exchange.fail(outcome, message)
        exchange.ended = exchange.ended or time.time_ns()
        self._next(exchange)

    def _next(self, exchange: Exchange) -> None:
        """A request has ended: its slot may send the next one."""
        if self._live.pop(exchange.index, None) is None:
            return
        self._carrier.pop(exchange.index, None)
        self._unread.append(exchange)
        if self.load.open_loop or (self._exhausted and not self._ready):
            return
        head = exchange.head
        failed = exchange.outcome != OK or head is None or head.status != 200 or not head.stream
        misses = self._misses[exchange.slot] = self._misses.get(exchange.slot, 0) + 1 if failed else 0
        now = time.monotonic() - self._began
        # After a failure it waits: a server that turns requests away is not asked a thousand times a second.
        heapq.heappush(
            self._due, (now + _PAUSES[min(misses, len(_PAUSES)) - 1] if misses else now, exchange.slot, False)
        )

    def _give_up(self, outcome: str, why: str) -> None:
        """End what is under way."""
        self._due.clear()
        for index, exchange in list(self._live.items()):
            if connection := self._carrier.get(index):
                self.client.drop(connection)
            self._over(exchange, outcome, why)
        self._due.clear()

    def _tick(self, now: float) -> None:
        """Look at time limits, and say how it goes."""
        clock, quiet = time.monotonic(), time.time_ns() - _QUIET
        for index, exchange in list(self._live.items()):
            if exchange.deadline < clock:
                if connection := self._carrier.get(index):
                    self.client.drop(connection)
                self._over(exchange, "timeout", f"not answered within {self.load.timeout:g} s")
            elif exchange.said_done or (exchange.head is not None and exchange.stamps and exchange.stamps[-1] < quiet):
                self._read_on(exchange, quiet=True)
        if self._in_a_row >= self.load.give_up:
            self.client.gone = True
            self.client.stopping = f"{self._in_a_row} requests failed one after the other"
        under_way = sum(one.came for one in self._live.values()) + sum(one.came for one in self._unread)
        # An answer's last reads bring no text, which shows when they are read: what was told is not taken back.
        self._told = tokens = max(self._told, self._counted + under_way)
        self._recent.append((now, tokens))
        while self._recent[0][0] < now - 1.0 and len(self._recent) > 2:
            self._recent.popleft()
        since, before = self._recent[0]
        self._watch(now, tokens, (tokens - before) / (now - since) if now > since else 0.0)

    def _watch(self, now: float, tokens: int, rate: float) -> None:
        ttft = median(self._ttfts) if self._ttfts else None
        live, done = len(self._live), self._done + len(self._unread)
        self.client.watch(
            Progress(self.number, now, done, self.total, self._failed, live, tokens, max(0.0, rate), ttft)
        )

    # --- Reading ------------------------------------------------------------------

    def _read_on(self, exchange: Exchange, quiet: bool = False) -> None:
        """Read what an answer under way has brought; it may turn out to be at its end, or not to be readable at all.

        Args:
            exchange: it has a head.
            quiet: nothing has come for a while: then its own word that it is done counts too.
        """
        last = exchange.stamps[-1] if exchange.stamps else time.time_ns()
        began = time.perf_counter()
        exchange.read()
        self._parsing += time.perf_counter() - began
        unreadable = exchange.outcome != OK
        if unreadable or exchange.read_whole or (quiet and exchange.said_done):
            exchange.ended = last
            if connection := self._carrier.get(exchange.index):
                self.client.drop(connection)  # where its answer ends is not certain
            self._next(exchange)

    def _conclude(self, exchange: Exchange) -> None:
        """An answer has ended: its row, its gaps and its share of the timeline."""
        began = time.perf_counter()
        row, stamps, counts = exchange.row(self.number, self._start, self.load, self.client.count_answer)
        row.message = self.client.target.without_key(row.message)
        self._rows.append(row)
        self._done += 1
        self._reads += row.reads
        self._merged += row.merged
        self._counted += row.events
        if row.outcome == OK:
            self._in_a_row = 0
            self.client.keeps_text = self.client.keeps_text and row.counted != USAGE
            self._gaps.extend(gaps_of(stamps))
            if row.ttft is not None:
                self._ttfts.append(row.ttft)
        else:
            self._failed += 1
            self._in_a_row += row.index not in self._limited
        if row.outcome == OK and row.tokens and row.events:  # events are no tokens until somebody has counted
            share = row.tokens / row.events
            step, start, tokens = round(BUCKET * 1e9), self._start, self._tokens
            for stamp, count in zip(stamps, counts, strict=True):
                at = (stamp - start) // step
                tokens[at] = tokens.get(at, 0.0) + count * share
        self._parsing += time.perf_counter() - began

    def _finished(self, health: Health) -> Run:
        self._rows.sort(key=lambda row: row.index)
        self.client.note_stamps()
        return Run(
            number=self.number,
            began=self._start * 1e-9,
            rows=self._rows,
            gaps=tally.gaps(self._gaps),
            timeline=tally.timeline(self._rows, self._tokens, health.seconds),
            health=self._health(health),
            ramp=self.ramp,
            interrupted=bool(self._stopped),
            ended=self._stopped,
        )

    def _health(self, health: Health) -> Health:
        late = sorted(self._late)
        return Health(
            stamps=self.client.stamps,
            seconds=health.seconds,
            cpu_seconds=health.cpu_seconds,
            reads=self._reads,
            merged=self._merged,
            answers=sum(row.reads > 0 for row in self._rows),
            first_merged=sum(row.first_merged for row in self._rows),
            lag_p50=tally.quantile(self._lags, 0.5) * _LAG_STEP * 1e-9,
            lag_p99=tally.quantile(self._lags, 0.99) * _LAG_STEP * 1e-9,
            lag_max=max((row.lag_max for row in self._rows), default=0.0),
            late_p99=max(0.0, late[min(len(late) - 1, int(0.99 * len(late)))]) if late else 0.0,
            parse_seconds=self._parsing,
            clock_shift=health.clock_shift,
            waited_awake=self._awake,
            limited=len(self._limited),
        )
