"""Ports for servers: a free one, or why the one that was asked for cannot be had (notebook 07)."""

import contextlib
import errno
import socket

from helpers.errors import WorkshopError

_TAKEN = ("address already in use", "errno 98", "errno 48")


def says_taken(log: str) -> bool:
    """True if a log tells that the port was taken."""
    return any(words in log.lower() for words in _TAKEN)


def _bound(host: str, port: int) -> int:
    """Bind a port for a moment, as a server would; gives its number.

    Raises:
        OSError: it cannot be had.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do; a listener is found all the same
        probe.bind(address)
        return int(probe.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    """True if a server could listen there."""
    try:
        _bound(host, port)
    except OSError:
        return False
    return True


def free_port(host: str) -> int:
    """A port that nobody listens on.

    Raises:
        WorkshopError: this machine has no such address.
    """
    try:
        return _bound(host, 0)
    except OSError as error:
        raise WorkshopError(_no_address(host, error)) from None


def _no_address(host: str, error: OSError) -> str:
    return (
        f"This machine cannot listen on {host!r}: {error.strerror or error}. Take 127.0.0.1 for this machine alone, or "
        "0.0.0.0 for every address that it has."
    )


def require_free(host: str, port: int, holder: str = "") -> None:
    """Refuse a port that was asked for and cannot be had.

    Args:
        host, port: to listen on.
        holder: who holds it where that is known, in words; else the system is asked.

    Raises:
        WorkshopError: says who holds it, where the system tells.
    """
    if isinstance(port, int) and not 0 < port <= 65535:  # the system would take a larger one modulo 65536
        raise WorkshopError(f"There is no port {port}. Choose one from 1 to 65535, or none for a free one.")
    try:
        _bound(host, port)
    except PermissionError:
        raise WorkshopError(f"Port {port} is the system's. Take one of 1024 or more, or none for a free one.") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise WorkshopError(taken_text(host, port, holder)) from None
        raise WorkshopError(_no_address(host, error)) from None


def taken_text(host: str, port: int, holder: str = "") -> str:
    """That a port is taken, by whom, and what to do."""
    return f"Port {port} of {host} is taken{holder or _holder(port)}. Choose another port, or none for a free one."


def _holder(port: int) -> str:
    """Who listens on a port, in words; empty where the system does not tell."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for found in psutil.net_connections(kind="tcp"):
            if found.laddr and found.laddr.port == port and found.status == psutil.CONN_LISTEN and found.pid:
                return f" by {psutil.Process(found.pid).name()} (process {found.pid})"
    return ""
