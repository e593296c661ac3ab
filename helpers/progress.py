"""A moving bar for work that takes a while: HTML in a notebook, one rewritten line in a terminal."""

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from helpers.cards import Shown, bytes_text, seconds_text
from helpers.looks import COLOURS


def in_notebook() -> bool:
    """True inside a Jupyter kernel."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@dataclass(frozen=True, repr=False)
class Bar(Shown):
    """How far something is, at one moment.

    Args:
        title: what is being done.
        elapsed: seconds since it started.
        fraction: 0 to 1, or None where nobody knows.
        text: what it is doing right now.
        details: label to value, shown below (the command, the log's path).
    """

    title: str
    elapsed: float
    fraction: float | None = None
    text: str = ""
    details: tuple[tuple[str, str], ...] = ()

    def line(self) -> str:
        """The bar in one line of text."""
        share = "" if self.fraction is None else f" {self.fraction:4.0%}"
        doing = f" · {self.text}" if self.text else ""
        return f"{self.title}:{share} {seconds_text(self.elapsed)}{doing}"

    def __str__(self) -> str:
        return "\n".join([self.line(), *(f"  {label}: {value}" for label, value in self.details)])

    def _repr_html_(self) -> str:
        value = "" if self.fraction is None else f"value='{self.fraction:.3f}'"
        below = "".join(
            f"<div style='font-size:0.85em'>{html.escape(label)}: "
            f"<code style='background:none;white-space:pre-wrap'>{html.escape(text)}</code></div>"
            for label, text in self.details
        )
        return (
            f"<div style='margin:0.3em 0'><strong>{html.escape(self.title)}</strong> "
            f"<progress {value} max='1' style='accent-color:{COLOURS[0]}' "
            f"aria-label='{html.escape(self.title, quote=True)}'></progress> "
            f"{seconds_text(self.elapsed)} <span>{html.escape(self.text)}</span>{below}</div>"
        )


@dataclass(frozen=True, repr=False)
class _Growing(Shown):
    """A prompt and the text written so far."""

    prompt: str
    text: str

    def __str__(self) -> str:
        return self.prompt + self.text

    def _repr_html_(self) -> str:
        return f"<blockquote><strong>{html.escape(self.prompt)}</strong>{html.escape(self.text)} ▌</blockquote>"


class Live:
    """One place on the screen that is drawn again and again, and at last holds a result."""

    def __init__(self) -> None:
        self._notebook = in_notebook()
        self._handle: object | None = None
        self._terminal = not self._notebook and sys.stderr.isatty()

    def show(self, bar: Bar) -> None:
        """Draw the bar in place of the one before."""
        if self._notebook:
            self._display(bar)
        elif self._terminal:
            self._rewrite(bar.line()[:100])
        elif self._handle is None:
            self._handle = bar
            print(bar, file=sys.stderr)

    def show_text(self, prompt: str, text: str) -> None:
        """Draw a text that grows, in place of what was there before."""
        if self._notebook:
            self._display(_Growing(prompt, text))
        elif self._terminal:
            self._rewrite((prompt + text)[-100:].replace("\n", " "))

    def finish(self, result: object) -> None:
        """Replace the bar by the result (in a terminal: print it below)."""
        if self._notebook:
            self._display(result)
        else:
            if self._terminal:
                self._rewrite("")
            print(result)

    @staticmethod
    def _rewrite(line: str) -> None:
        """Put a line in place of the terminal's last one."""
        sys.stderr.write("\r\x1b[2K" + line)
        sys.stderr.flush()

    def _display(self, shown: object) -> None:
        from IPython.display import DisplayHandle, display

        if isinstance(self._handle, DisplayHandle):
            self._handle.update(shown)
        else:
            self._handle = display(shown, display_id=True)


@contextlib.contextmanager
def counting_bytes(title: str, size: int) -> Iterator[Callable[[int], None]]:
    """A bar that moves with the bytes it is told of; nothing for what takes no time.

    Args:
        title: what is being done.
        size: bytes in all.
    """
    live, began, done, drawn = Live(), time.monotonic(), 0, 0.0

    def tell(count: int) -> None:
        nonlocal done, drawn
        done += count
        now = time.monotonic()
        if now - began > 0.5 and now - drawn > 0.2:
            drawn = now
            text = f"{bytes_text(done)} of {bytes_text(size)}"
            live.show(Bar(title, now - began, min(1.0, done / max(size, 1)), text))

    yield tell
    if drawn:
        live.finish(Bar(title, time.monotonic() - began, 1.0, bytes_text(done)))
