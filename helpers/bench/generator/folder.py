"""The folder that results go into: whether they can be written is found out before anything is sent (notebook 08)."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from helpers.errors import WorkshopError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextlib.contextmanager
def results_into(folder: Path) -> Iterator[None]:
    """Make a folder and try it before what is done inside; one that stays empty is taken away again.

    Raises:
        WorkshopError: nothing can be written there, or inside nothing could any more.
    """
    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.write_bytes(b"probe")
        probe.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            if new:
                folder.rmdir()  # fails where something is in it
        if isinstance(error, OSError) and _of_writing(error, folder):
            raise _unwritable(folder, error) from None
        raise


def _of_writing(error: OSError, folder: Path) -> bool:
    """False for an error of a socket, or of a file that is read."""
    return error.errno in _NO_ROOM or Path(str(error.filename or "")).is_relative_to(folder)


def _unwritable(folder: Path, error: OSError) -> WorkshopError:
    return WorkshopError(
        f"Results cannot be written into {folder}: {error.strerror or error}. Make room there, or name another folder "
        "(--out, or the variable WORKSHOP_HOME)."
    )
