"""Objects that show themselves: as HTML in a notebook, as plain text everywhere else.

Every object here has two faces with the same content, ``_repr_html_`` for a browser and ``str()`` for a
terminal, a log or a screen reader's plain text. Helpers return these instead of printing.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_STYLE = "border-collapse:collapse;margin:0.4em 0;font-variant-numeric:tabular-nums;font-size:0.95em;line-height:1.35"
_CELL = "padding:0.2em 0.8em;text-align:{align};border-bottom:1px solid rgba(128,128,128,0.3)"
_GREEN = "#76b900"
GREY = "#5B5B5B"
"""The line beside what is told rather than made: a plan, a recipe."""


class Shown:
    """Base of everything that shows itself: ``repr`` is the plain text."""

    def _repr_html_(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True, repr=False)
class Card(Shown):
    """A titled list of facts, such as what a stage made.

    Args:
        title: one line.
        facts: label to value, in the order to show; values are text, already formatted with units.
        note: an optional sentence below.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        width = max((len(label) for label in self.facts), default=0)
        lines = [self.title]
        lines += [f"  {label:<{width}}  {value}" for label, value in self.facts.items()]
        return "\n".join(lines + ([self.note] if self.note else []))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th scope='row' style='{_CELL.format(align='left')};font-weight:500'>"
            f"{html.escape(label)}</th><td style='{_CELL.format(align='left')}'>"
            f"<code style='background:none;white-space:pre-wrap'>{html.escape(value)}</code></td></tr>"
            for label, value in self.facts.items()
        )
        note = f"<p style='margin:0.3em 0'>{html.escape(self.note)}</p>" if self.note else ""
        return boxed(self.title, f"<table style='{_STYLE}'>{rows}</table>{note}", _GREEN)


@dataclass(frozen=True, repr=False)
class Table(Shown):
    """Rows under named columns; numbers are right-aligned.

    Args:
        columns: the headings.
        rows: one sequence of cells a row; cells are text, or numbers that are shown with ``str``.
        caption: what the table is, and where its figures come from.
        note: a sentence below, computed from the rows.
        whole: columns whose cells are not wrapped on a page, by their headings; those of numbers never are.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    note: str = ""
    whole: Sequence[str] = ()

    def _is_number(self, column: int) -> bool:
        """True if every cell of the column starts like a number."""
        cells = [str(row[column]).lstrip("+-−~×") for row in self.rows]
        return bool(cells) and all(cell[:1].isdigit() or cell in ("", "–") for cell in cells)

    def __str__(self) -> str:
        grid = [[str(cell) for cell in row] for row in [self.columns, *self.rows]]
        widths = [max(len(row[i]) for row in grid) for i in range(len(self.columns))]
        right = [self._is_number(i) for i in range(len(self.columns))]

        def line(row: Sequence[str]) -> str:
            cells = zip(row, widths, right, strict=True)
            return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in cells).rstrip()

        body = [line(grid[0]), "  ".join("-" * w for w in widths), *map(line, grid[1:])]
        return "\n".join(([self.caption] if self.caption else []) + body + ([self.note] if self.note else []))

    def _repr_html_(self) -> str:
        aligns = ["right" if self._is_number(i) else "left" for i in range(len(self.columns))]
        # A number keeps its unit beside it.
        whole = [a == "right" or c in self.whole for a, c in zip(aligns, self.columns, strict=True)]
        head = "".join(
            f"<th scope='col' style='{_CELL.format(align=a)}'>{html.escape(c)}</th>"
            for c, a in zip(self.columns, aligns, strict=True)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f"<td style='{'white-space:nowrap;' if w else ''}{_CELL.format(align=a)}'>{html.escape(str(cell))}</td>"
                for cell, a, w in zip(row, aligns, whole, strict=True)
            )
            + "</tr>"
            for row in self.rows
        )
        caption = (
            f"<caption style='text-align:left;caption-side:top;font-weight:600;padding:0.2em 0'>"
            f"{html.escape(self.caption)}</caption>"
            if self.caption
            else ""
        )
        note = f"<p style='margin:0.3em 0'>{html.escape(self.note)}</p>" if self.note else ""
        return f"<table style='{_STYLE}'>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


class ShownAsTable(Shown):
    """Base of what shows itself as the table that it makes."""

    def table(self) -> Table:
        """The table, one row a thing."""
        raise NotImplementedError

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


class ShownAsCard(Shown):
    """Base of what shows itself as the card that it makes."""

    def card(self) -> Card:
        """The card: what there is to know."""
        raise NotImplementedError

    def __str__(self) -> str:
        return str(self.card())

    def _repr_html_(self) -> str:
        return self.card()._repr_html_()


@dataclass(frozen=True, repr=False)
class Picture(Shown):
    """A drawing with its text equivalent.

    Args:
        svg: the drawing, a complete SVG document.
        alt: one sentence that says what is drawn, for a screen reader.
        text: the drawing's content in words or a small table; also what a terminal shows.
    """

    svg: str
    alt: str
    text: str

    def __str__(self) -> str:
        return f"[{self.alt}]\n{self.text}"

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.svg.encode()).decode()
        return (
            "<figure style='margin:0.5em 0'>"
            f"<img alt='{html.escape(self.alt, quote=True)}' style='max-width:100%;background:white' "
            f"src='data:image/svg+xml;base64,{data}'>"
            f"<details><summary>The same in words</summary><pre>{html.escape(self.text)}</pre></details></figure>"
        )


def boxed(title: str, body: str, colour: str = GREY) -> str:
    """HTML with a line at its left, under a title.

    Args:
        title: plain text.
        body: HTML.
        colour: of the line.
    """
    return (
        f"<div style='border-left:4px solid {colour};padding:0.2em 0 0.2em 1em;margin:0.5em 0'>"
        f"<strong>{html.escape(title)}</strong>{body}</div>"
    )


def paragraph(text: object) -> str:
    """A sentence as HTML."""
    return f"<p style='margin:0.2em 0'>{html.escape(str(text))}</p>"


def preformatted(text: str) -> str:
    """A text as HTML keeps it, line by line."""
    return f"<pre style='margin:0.3em 0'>{html.escape(text)}</pre>"


def counted(count: int, what: str) -> str:
    """A number of things in words, such as ``1 request`` or ``2 requests``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def bytes_text(count: float) -> str:
    """A number of bytes in the unit a person would use: decimal units, as ``ls`` and disk makers do."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def seconds_text(seconds: float) -> str:
    """A duration as a person would say it, such as ``3.4 s`` or ``2 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
