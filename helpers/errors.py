"""The one error that a person is meant to read."""


class WorkshopError(Exception):
    """A foreseeable mistake or condition, told in one clear message.

    The message says what is wrong, what was found, and the one thing to do next. A notebook shows the
    message alone, without a traceback; ``python -m helpers`` prints it and exits with status 1.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


def in_one_line(stopped: KeyboardInterrupt, message: str) -> None:
    """Let a notebook show an interrupt as one line instead of the traceback of whatever was waited for."""
    setattr(stopped, "_render_traceback_", lambda: [f"KeyboardInterrupt: {message}"])  # noqa: B010 - it has no such name
