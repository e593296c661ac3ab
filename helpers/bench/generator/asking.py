"""A single question to a server, before a benchmark begins; over the benchmark's own connections (notebook 08)."""

import errno
import re
import select
import time

from helpers.bench.generator.connection import Connection, Opener, why
from helpers.bench.generator.exchange import Exchange
from helpers.bench.generator.target import Target
from helpers.bench.generator.wire import Malformed
from helpers.errors import WorkshopError

_SERVER = re.compile(rb"\r\nserver:[ \t]*([^\r]*)", re.IGNORECASE)


def ask(target: Target, method: str, path: str, body: bytes = b"", seconds: float = 30.0) -> tuple[int, bytes, str]:
    """Ask and wait.

    Returns:
        The status, the body, and what the server calls itself.

    Raises:
        WorkshopError: no answer in that time, or none at all.
    """
    deadline, opener = time.monotonic() + seconds, Opener(target)
    try:
        connection = opener.open()
    except OSError as error:
        raise _unreachable(target, error) from None
    try:
        _open(connection, deadline)
        sent = connection.send(target.request(method, path, body))
        while not sent:
            _wait(connection, select.POLLOUT, deadline)
            sent = connection.send(b"")
        return _answer(connection, deadline)
    except (OSError, Malformed) as error:
        raise _unreachable(target, error) from None
    finally:
        connection.close()


def _open(connection: Connection, deadline: float) -> None:
    wanted = select.POLLOUT  # at first: to be connected
    while True:
        _wait(connection, wanted, deadline)
        if connection.opened():
            return
        wanted = select.POLLIN  # then the server's half of a handshake


def _answer(connection: Connection, deadline: float) -> tuple[int, bytes, str]:
    exchange, first = Exchange(0, 0, True, 0, b"", 0), b""
    while not exchange.whole:
        _wait(connection, select.POLLIN, deadline)
        stamp, found = connection.receive()
        if found is None:
            continue
        if not found:
            break
        exchange.stamps.append(stamp)
        exchange.pieces.append(found)
        if exchange.head is None:
            first += found
            exchange.begins()
    if exchange.head is None:
        raise Malformed("it closed the connection without an answer")
    server = _SERVER.search(first[: exchange.head.size])
    return exchange.head.status, exchange.body(), server[1].decode("latin-1").strip() if server else ""


def _wait(connection: Connection, events: int, deadline: float) -> None:
    """Until the connection can be read or written.

    Raises:
        OSError: not in time.
    """
    poll = select.poll()
    poll.register(connection.fd, events)
    if not poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
        raise OSError(errno.ETIMEDOUT, "no answer")


def _unreachable(target: Target, error: OSError | Malformed) -> WorkshopError:
    reason = why(error) if isinstance(error, OSError) else target.without_key(str(error))
    return WorkshopError(f"{target.url} does not answer: {reason}. Is the server running, and is this its address?")
