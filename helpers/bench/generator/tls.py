"""A benchmark's connection over TLS; apart, since loading it takes time and most servers here do without."""

import contextlib
import errno
import socket
import ssl
from typing import Any

from helpers.bench.generator.connection import READ_BYTES, Connection


class TlsConnection(Connection):
    """The same over TLS: the kernel's time is that of the last encrypted bytes of a read."""

    __slots__ = ("_in", "_out", "_tls")

    def __init__(self, family: int, address: Any, context: ssl.SSLContext, host: str) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        super().__init__(family, address)

    def opened(self) -> bool:
        """Go on with the handshake; True once it is done."""
        if self.ready:
            return True
        if failed := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(failed, "connect")
        with contextlib.suppress(BlockingIOError):
            came = self.sock.recv(READ_BYTES)
            if not came:
                raise OSError(errno.ECONNRESET, "the server closed the connection during the TLS handshake")
            self._in.write(came)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
            self.ready = True
        super().send(self._out.read())
        return self.ready

    def send(self, data: bytes) -> bool:
        """Encrypt and send."""
        if data:
            self._tls.write(data)
        return super().send(self._out.read())

    def receive(self) -> tuple[int, bytes | None]:
        """Read and decrypt."""
        stamp, came = super().receive()
        if came is None:
            return stamp, None
        if came:
            self._in.write(came)
        else:
            self._in.write_eof()
        parts = []
        try:
            while part := self._tls.read(READ_BYTES):
                parts.append(part)
        except ssl.SSLWantReadError:
            if not parts:
                return stamp, None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            pass
        return stamp, b"".join(parts)


def context(insecure: bool) -> ssl.SSLContext:
    """What is asked of the server's certificate; nothing where it is ``insecure``."""
    made = ssl.create_default_context()
    if insecure:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    return made
