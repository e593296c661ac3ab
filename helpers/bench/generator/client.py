"""The load generator: one thread, one loop, as many requests in flight as asked (notebook 08).

While answers arrive the loop only takes bytes from the kernel, with the times at which they came, and sends what is
due. What the bytes say is read when nothing else is to be done. So a figure is the server's, not this program's queue;
and where the program could not keep up, its own health says so (:class:`helpers.bench.measured.Health`).
"""

import gc
import heapq
import math
import select
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from itertools import accumulate
from statistics import median

from helpers.bench.generator import prompts
from helpers.bench.generator.arrivals import arrivals, first_starts
from helpers.bench.generator.connection import Connection, Opener, own_limit, why
from helpers.bench.generator.exchange import Exchange, gaps_of
from helpers.bench.generator.target import Target
from helpers.bench.generator.wire import Looks, Malformed
from helpers.bench.load import Load
from helpers.bench.measured import BUCKET, KERNEL, USER, Gaps, Health, Progress, Run, Timeline
from helpers.bench.rows import OK, USAGE, Row
from helpers.errors import WorkshopError

_TICK = 0.25  # seconds between two looks at time limits, and two reports
_QUIET = 500_000_000  # nanoseconds without a byte after which an answer under way is looked at
_SPIN = 0.001  # seconds: the kernel wakes a waiting process to the millisecond, so the last one is waited awake
_LATE = 1_000_000  # nanoseconds in the kernel from which tokens that came apart may be read as one
_LAG_STEP, _LAG_STEPS = 50_000, 20_000  # nanoseconds; how many of them are told apart
_PIECES = 64  # reads after which an answer under way is read on when there is time
_LARGE = 65_536  # bytes of one read that are read at once: so much is never kept
_BACKLOG = 512  # answers that may wait to be read
_READY = 256  # requests written out beforehand
_LATEST = 64  # answers that a live figure is taken from
_PATIENCE = 5.0  # seconds for connections to open before a run
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds before a slot tries again, after 1, 2, ... failures in a row
_PLENTY = 100_000  # open files, where the system knows no limit
_FILES = 64  # files open besides connections
_AHEAD, _MOST_AHEAD = 4, 1000  # connections opened before a run of an open loop: more than will be needed; at most
_AT_ONCE = 0.05  # seconds in which a server that had closed a connection says so to a request on it


class Client:
    """Sends a load to a server and measures it.

    Args:
        target: the server; its model's name is known.
        load: what is sent.
        source: where prompts come from, calibrated.
        watch: told how it goes a few times a second.
        count_answer: counts the tokens of an answer's text, for a server that does not.

    Attributes:
        stopping: why it stops before its end; empty while it does not. Set by whoever interrupts it.
        gone: True if that is because too many requests failed in a row.
        stamps: ``kernel`` or ``user``: who says when bytes came; ``user`` if the kernel did not of a single read.
        looks: of the server's events, as its answers have shown them.
        keeps_text: True until an answer has shown that the server counts its tokens itself.

    Raises:
        WorkshopError: no such host, more connections than this process may open, or a system that is not Linux.
    """

    def __init__(
        self,
        target: Target,
        load: Load,
        source: prompts.Source,
        watch: Callable[[Progress], None] = lambda told: None,
        count_answer: Callable[[str], int] | None = None,
    ) -> None:
        self.target, self.load, self.source = target, load, source
        self.stopping, self.gone = "", False
        self.stamps = KERNEL
        self.looks = Looks()
        self.count_answer = count_answer
        self.keeps_text = count_answer is not None
        self._watch = watch
        self._opener = Opener(target)
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._free: list[Connection] = []
        _allow_files(load.concurrency + _FILES if load.concurrency else None)

    def close(self) -> None:
        """End all connections."""
        for connection in list(self._connections.values()):
            self.drop(connection)
        self._epoll.close()

    def measure(self) -> Iterator[Run]:
        """The warm-up (unless there is none) and the runs, one after the other, each when it is done.

        Raises:
            WorkshopError: no request of the warm-up was answered, so there is nothing to measure.
        """
        load, ramp, latency = self.load, self.load.ramp or 0.0, 0.0
        if load.warming:
            warm = self._measure(0, load.with_(rate=None, concurrency=load.concurrency or 1), load.warming, 0.0)
            yield warm
            took = [row.ended - row.sent for row in warm.rows if row.ok and row.ended and row.sent is not None]
            if not took and (self.gone or not self.stopping):
                raise WorkshopError(_nothing(warm, self.target))
            latency = median(took) if took else 0.0
            if load.ramp is None:
                ramp = latency
        for number in range(1, load.runs + 1):
            if self.stopping:
                return
            yield self._measure(number, load, load.measured, ramp, latency)

    def _measure(self, number: int, load: Load, total: int | None, ramp: float, latency: float = 0.0) -> Run:
        self._open(_connections(load, total, latency))
        collecting = gc.isenabled()
        gc.collect()
        gc.disable()  # nothing here is in cycles, and a collection in the middle would be read as the server's pause
        try:
            return _Loop(self, number, load, total, 0.0 if load.open_loop else ramp).run()
        finally:
            if collecting:
                gc.enable()

    # --- Connections --------------------------------------------------------------

    def connect(self, new: bool = False) -> Connection:
        """A free connection, or a new one.

        Raises:
            OSError: the server refuses.
        """
        return self._new() if new or not self._free else self._free.pop()

    def release(self, connection: Connection) -> None:
        """Its answer is whole: another request may use it."""
        connection.exchange, connection.used = None, True
        self._free.append(connection)

    def _new(self) -> Connection:
        connection = self._opener.open()
        self._connections[connection.fd] = connection
        self._epoll.register(connection.fd, connection.watched)
        return connection

    def drop(self, connection: Connection) -> None:
        """End one that is of no more use."""
        self.note_stamps(connection)
        if self._connections.pop(connection.fd, None) is not None:
            self._epoll.unregister(connection.fd)
            connection.close()
        if connection in self._free:
            self._free.remove(connection)

    def note_stamps(self, *connections: Connection) -> None:
        """If one of them has brought bytes without the kernel's time, the results say so, even when it is closed."""
        if not all(one.stamped for one in connections or self._connections.values()):
            self.stamps = USER

    def _open(self, n: int) -> None:
        """Have ``n`` connections ready, so that a run measures answers and no handshakes; failures show later."""
        try:
            while len(self._free) < n:
                self._free.append(self._new())
        except OSError:
            return
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and not self.stopping and any(not one.ready for one in self._free):
            for fd, _ in self._epoll.poll(_TICK):
                self.go_on(self._connections[fd])

    def go_on(self, connection: Connection) -> None:
        """A connection without a request has something to say: it is open, or the server closed it."""
        try:
            if connection.ready:
                _, came = connection.receive()
                if came is not None:
                    self.drop(connection)  # closed; or it speaks unasked
            else:
                connection.opened()
                self.watch_output(connection, False)  # of a handshake, the server's half is what is waited for
        except OSError:
            self.drop(connection)

    def watch_output(self, connection: Connection, wanted: bool) -> None:
        """Whether the loop wants to know when a connection can send."""
        events = select.EPOLLIN | (select.EPOLLOUT if wanted else 0)
        if events != connection.watched:
            connection.watched = events
            self._epoll.modify(connection.fd, events)

    def poll(self, seconds: float) -> list[tuple[int, int]]:
        """Connections that something happened on."""
        return self._epoll.poll(seconds, 1024)

    def on(self, fd: int) -> Connection | None:
        """The connection of an event; None if it is gone meanwhile."""
        return self._connections.get(fd)


class _Loop:
    """One run."""

    def __init__(self, client: Client, number: int, load: Load, total: int | None, ramp: float) -> None:
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
            self._due = [(next(self._arrivals), 0, False)]
        cpu, clock, self._began = time.process_time(), time.monotonic(), time.monotonic()
        self._start = self._looked = time.time_ns()
        ahead = _ahead()
        self._turn()
        seconds = time.monotonic() - clock
        shift = _ahead() - ahead
        cpu = time.process_time() - cpu
        while self._unread:
            self._conclude(self._unread.popleft())
        return self._finished(Health(seconds=seconds, cpu_seconds=cpu, clock_shift=shift))

    def _turn(self) -> None:
        """Until nothing is due and nothing under way."""
        tick = _TICK
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
                tick = now + _TICK
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
                heapq.heappush(self._due, (next(self._arrivals), 0, False))
            now = time.monotonic() - self._began
        return now

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
        self.client._watch(
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
            gaps=_gaps(self._gaps),
            timeline=self._timeline(health.seconds),
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
            lag_p50=_lag(self._lags, 0.5),
            lag_p99=_lag(self._lags, 0.99),
            lag_max=max((row.lag_max for row in self._rows), default=0.0),
            late_p99=max(0.0, late[min(len(late) - 1, int(0.99 * len(late)))]) if late else 0.0,
            parse_seconds=self._parsing,
            clock_shift=health.clock_shift,
            waited_awake=self._awake,
            limited=len(self._limited),
        )

    def _timeline(self, seconds: float) -> Timeline:
        """What came when; requests in flight as the rows have it. A clock that is set meanwhile makes it no longer."""
        last = int(seconds / BUCKET) if self._rows else -1

        def step(at: float) -> int:
            return min(max(0, int(at / BUCKET)), last)

        tokens, change, first = [0.0] * (last + 1), [0] * (last + 1), [0] * (last + 1)
        for at, count in self._tokens.items():
            tokens[min(max(0, at), last)] += count
        for row in self._rows:
            if row.sent is not None and row.ended is not None:
                change[step(row.sent)] += 1
                change[step(row.ended)] -= 1
            if row.first_token is not None:
                first[step(row.first_token)] += 1
        return Timeline([round(count, 3) for count in tokens], list(accumulate(change)), first)


def _connections(load: Load, total: int | None, latency: float) -> int:
    """How many to open before a run; of an open loop, more than will be in flight if answers take that many seconds."""
    n = load.concurrency or min(_AHEAD + 2 * math.ceil((load.rate or 0.0) * latency), _MOST_AHEAD)
    return min(n, total or n)


def _ahead() -> float:
    """Seconds that the wall clock is ahead of the one that nobody sets, by the quickest of a few looks at both."""
    looks = []
    for _ in range(5):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        looks.append((after - before, wall - before))
    return min(looks)[1] * 1e-9


def _gaps(gaps: "array[float]") -> Gaps:
    """The distribution of gaps in nanoseconds, as seconds."""
    n = len(gaps)
    if not n:
        return Gaps()
    if n > 100_000:  # loading numpy costs more than it saves below that
        import numpy

        whole = numpy.frombuffer(gaps) * 1e-9
        quantiles = numpy.quantile(whole, [q / 100 for q in range(101)])
        return Gaps(n, float(whole.mean()), [float(q) for q in quantiles], float(numpy.quantile(whole, 0.999)))
    ordered = sorted(gap * 1e-9 for gap in gaps)
    return Gaps(
        n, sum(ordered) / n, [_at(ordered, q / 100) for q in range(101)], _at(ordered, 0.999) if n >= 1000 else None
    )


def _at(ordered: list[float], share: float) -> float:
    """A quantile by linear interpolation, as numpy has it."""
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def _lag(lags: list[int], share: float) -> float:
    """A quantile of the lags, in seconds, from the counts of their steps: the upper end of the step it is in."""
    wanted, seen = share * sum(lags), 0
    for step, count in enumerate(lags):
        seen += count
        if count and seen >= wanted:
            return (step + 1) * _LAG_STEP * 1e-9
    return 0.0


def _allow_files(n: int | None) -> None:
    """Have room for so many connections; with None, for as many as the system allows.

    Raises:
        WorkshopError: the system allows fewer.
    """
    import resource  # no such thing on Windows, which is told so where a connection is made

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if n is None:
        n = _PLENTY if hard == resource.RLIM_INFINITY else hard
    if soft >= n:
        return
    if hard != resource.RLIM_INFINITY and hard < n:
        raise WorkshopError(
            f"{n - _FILES:,} requests at once need as many connections, and this system allows a process {hard:,} open "
            "files. Ask for fewer, or raise the limit (ulimit -n)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))


def _nothing(warm: Run, target: Target) -> str:
    """Why there is nothing to measure, and what may be done."""
    first = warm.rows[0] if warm.rows else None
    why = f"{first.outcome}: {first.message}".rstrip(".") if first else warm.ended
    told = f"No request of the warm-up was answered whole by {target.url}, so there is nothing to measure. "
    told += f"The first: {why}."
    if first and first.status in (401, 403):
        return f"{told} {target.key_advice}"
    if first and (first.outcome == "short" or "ignore_eos" in first.message):
        return f"{told} A server that does not know ignore_eos is measured with --let-end (ignore_eos=False)."
    return told
