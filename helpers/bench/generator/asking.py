"""A single question to a server, before a benchmark begins; over the benchmark's own connections (notebook 08)."""

import errno
import re
import select
import time

from helpers.bench.generator.connection import Connection, Opener, why
from helpers.bench.generator.exchange import Exchange
from helpers.bench.generator.framing import Head, Malformed, said
from helpers.bench.generator.target import Target
from helpers.errors import WorkshopError

_LARGEST = 16_000_000  # bytes of an answer: a list of a thousand models is a tenth of a million
_CHUNK_LINE = 256  # bytes of the line in front of a chunk
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
    exchange, first, size = Exchange(0, 0, True, 0, b"", 0), b"", 0
    while not exchange.whole:
        _wait(connection, select.POLLIN, deadline)
        stamp, found = connection.receive()
        if found is None:
            continue
        if not found:
            break
        exchange.stamps.append(stamp)
        exchange.pieces.append(found)
        size += len(found)
        if size > _LARGEST:
            raise Malformed(f"its answer has no end within {_LARGEST // 1_000_000} MB")
        if exchange.head is None:
            first += found
            exchange.begins()
    if exchange.head is None:
        raise Malformed("it closed the connection without an answer")
    server = _SERVER.search(first[: exchange.head.size])
    return (
        exchange.head.status,
        _body(exchange.head, b"".join(exchange.pieces)),
        server[1].decode("latin-1").strip() if server else "",
    )


def _body(head: Head, came: bytes) -> bytes:
    """The whole body; a measured exchange keeps only its beginning.

    Raises:
        Malformed: a chunk does not say how long it is.
    """
    if not head.chunked:
        return came
    at, parts = 0, []
    while at < len(came):
        line, _, _ = came[at : at + _CHUNK_LINE].partition(b"\r\n")
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise Malformed(f"a chunk of its answer is as long as {said(line)!r}") from None
        if size <= 0:
            break
        at += len(line) + 2
        parts.append(came[at : at + size])
        at += size + 2
    return b"".join(parts)


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
