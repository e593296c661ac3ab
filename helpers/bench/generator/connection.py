"""One connection to a server: what it reads carries the time at which the kernel received it (notebook 08).

A program looks at its own clock only when its turn comes; at a few hundred streams that is milliseconds late, and
nearly every load generator reports this queue of its own as the server's. Linux notes when bytes arrive
(``SO_TIMESTAMPNS``) and tells it with them. Where a kernel does not, the time of reading has to do, and results say so.
"""

import contextlib
import errno
import os
import select
import socket
import struct
import sys
import time
from typing import Any

from helpers.bench.generator.target import Target
from helpers.errors import WorkshopError

READ_BYTES = 262_144
_PATIENCE = 2.0  # seconds for one of several addresses to answer
_SO_TIMESTAMPNS = 35  # Linux on x86 and Arm; Python's socket module has no name for it
_STAMP = struct.Struct("@qq")
_ANCILLARY = socket.CMSG_SPACE(_STAMP.size) if hasattr(socket, "CMSG_SPACE") else 0
_OWN_LIMITS = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL)
_UNDER_WAY = (errno.EINPROGRESS, errno.EAGAIN, errno.EWOULDBLOCK)

_buffer = bytearray(READ_BYTES)  # shared: one thread reads one connection at a time
_view = memoryview(_buffer)
_buffers = [_buffer]


class Connection:
    """A connection that never waits.

    Attributes:
        exchange: the request under way on it; None while it is free.
        used: True once a request has been answered on it.
        again: the request to send again if the server turns out to have closed a connection that it kept; empty on a
            new one.
        again_until: when a hang-up no longer means that, by the monotonic clock, in seconds.
        stamped: True if the kernel said of the bytes that came last when they arrived.
    """

    __slots__ = (
        "_recvmsg_into",
        "_unsent",
        "again",
        "again_until",
        "exchange",
        "fd",
        "ready",
        "sent",
        "sock",
        "stamped",
        "used",
        "watched",
    )

    def __init__(self, family: int, address: Any) -> None:
        """Begin to connect.

        Raises:
            OSError: refused at once.
        """
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stamped = False
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
                self.stamped = True
        self._recvmsg_into = self.sock.recvmsg_into
        self.fd = self.sock.fileno()
        self.exchange: Any = None
        self.used, self.ready, self.sent = False, False, 0
        self.again, self.again_until = b"", 0.0
        self._unsent = b""
        self.watched = select.EPOLLIN | select.EPOLLOUT
        failed = self.sock.connect_ex(address)
        if failed and failed not in _UNDER_WAY:
            self.close()
            raise OSError(failed, "connect")

    def opened(self) -> bool:
        """Go on connecting; True once requests can be sent.

        Raises:
            OSError: it failed.
        """
        if not self.ready:
            if failed := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(failed, "connect")
            self.ready = True
        return self.ready

    def send(self, data: bytes) -> bool:
        """Send a request, as far as the kernel takes it; True once all is sent, and then :attr:`sent` is when.

        Raises:
            OSError: the connection is broken.
        """
        self._unsent = self._unsent + data if self._unsent else data
        try:
            while self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
        except BlockingIOError:
            return False
        self.sent = time.time_ns()
        return True

    def receive(self) -> tuple[int, bytes | None]:
        """What has come and when, in nanoseconds since 1970; ``b""`` if the other end closed, None if nothing came.

        Raises:
            OSError: the connection is broken.
        """
        try:
            size, ancillary, _, _ = self._recvmsg_into(_buffers, _ANCILLARY)
        except BlockingIOError:
            return 0, None
        if ancillary:
            self.stamped = True
            seconds, nanoseconds = _STAMP.unpack(ancillary[0][2])
            return seconds * 1_000_000_000 + nanoseconds, bytes(_view[:size])
        self.stamped = self.stamped and not size  # until a later read brings a stamp
        return time.time_ns(), bytes(_view[:size])

    def close(self) -> None:
        """End it."""
        self.sock.close()


def _stamping() -> socket.socket:
    """A socket that is never used but for its wish: the kernel notes no times while nobody asks for them.

    It begins a moment after the first one has asked, and a quick server's first answer would come without.
    """
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            asking.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    return asking


class Opener:
    """Makes connections to one server; its name is looked up once."""

    def __init__(self, target: Target) -> None:
        """Look the server up.

        Raises:
            WorkshopError: no such host, or a system on which it cannot run.
        """
        if not hasattr(select, "epoll"):
            raise WorkshopError("The load generator runs on Linux only. Run it there, for instance beside the server.")
        self._target = target
        self._stamping = _stamping()
        try:
            found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no name of a host"
            raise WorkshopError(
                f"There is no host {target.host!r}: {reason or error}. Check the address of the server."
            ) from None
        ways = [(one[0], one[4]) for one in found]
        self.family, self.address = next((way for way in ways if _answers(*way)), ways[0]) if ways[1:] else ways[0]
        self._tls = None
        if target.tls:
            from helpers.bench.generator.tls import TlsConnection, context

            self._tls, self._context = TlsConnection, context(target.insecure)

    def open(self) -> Connection:
        """Begin one.

        Raises:
            OSError: refused at once.
        """
        if self._tls is None:
            return Connection(self.family, self.address)
        return self._tls(self.family, self.address, self._context, self._target.host)


def _answers(family: int, address: Any) -> bool:
    """True if something listens there: ``localhost`` has two addresses, and servers often listen on one of them."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE)
        sock.connect(address)
        return True
    return False


def own_limit(error: OSError) -> bool:
    """True if not the server is at its limit, but this machine: of open files, or of ports."""
    return error.errno in _OWN_LIMITS


def why(error: OSError) -> str:
    """An error of a connection in words; one of TLS has numbers that mean something else to the system."""
    reason = getattr(error, "verify_message", None) or getattr(error, "reason", None)
    if reason:
        reason = str(reason).replace("_", " ").lower()
        if hasattr(error, "verify_message"):
            return f"its certificate is not trusted ({reason}; the option insecure takes any)"
        return f"TLS failed ({reason})"
    if own_limit(error):
        return f"this machine's own limit: {os.strerror(error.errno or 0).lower()}"
    return os.strerror(error.errno) if error.errno else str(error)
