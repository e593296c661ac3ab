"""A load, run by run: connections to one server, the warm-up, and as many runs as asked (notebook 08)."""

import gc
import math
import select
import time
from collections.abc import Callable, Iterator
from statistics import median

from helpers.bench.generator import prompts
from helpers.bench.generator.answer import Looks
from helpers.bench.generator.connection import Connection, Opener
from helpers.bench.generator.loop import TICK, Loop
from helpers.bench.generator.target import Target
from helpers.bench.load import Load
from helpers.bench.measured import KERNEL, USER, Progress, Run
from helpers.errors import WorkshopError

_PATIENCE = 5.0  # seconds for connections to open before a run
_PLENTY = 100_000  # open files, where the system knows no limit
_FILES = 64  # files open besides connections
_AHEAD, _MOST_AHEAD = 4, 1000  # connections opened before a run of an open loop: more than will be needed; at most


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
        watch: told how it goes.
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
        self.watch = watch
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
            warm = self._measure(0, load.with_(concurrency=load.concurrency or 1), load.warming, 0.0)
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
            return Loop(self, number, load, total, 0.0 if load.open_loop else ramp).run()
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
            for fd, _ in self._epoll.poll(TICK):
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


def _connections(load: Load, total: int | None, latency: float) -> int:
    """How many to open before a run; of an open loop, more than will be in flight if answers take that many seconds."""
    n = load.concurrency or min(_AHEAD + 2 * math.ceil(load.most_rate * latency), _MOST_AHEAD)
    return min(n, total or n)


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
