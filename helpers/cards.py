"""Objects that show themselves: as HTML in a notebook, as plain text everywhere else.

Every object here has two faces with the same content, ``_repr_html_`` for a browser and ``str()`` for a
terminal, a log or a screen reader's plain text. Helpers return these instead of printing.
"""

import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from helpers import looks

_STYLE = "border-collapse:collapse;margin:0.4em 0;font-variant-numeric:tabular-nums;font-size:0.95em;line-height:1.35"
_CELL = "padding:0.2em 0.8em;text-align:{align};border-bottom:1px solid " + looks.LINE


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
        note: an optional sentence below. One that begins as a verdict does (`helpers.looks.VERDICTS`) makes the card an
            exercise's, and is shown with the verdict's sign.
        links: what to show to where it leads, such as another notebook's file; shown below in one line.
        kind: a kind of box, see `helpers.looks`: ``made``, ``told``, ``asked``, ``warns`` or ``stops``.
    """

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    kind: str = looks.MADE

    def __str__(self) -> str:
        width = max((len(label) for label in self.facts), default=0)
        lines = [self.title]
        lines += [f"  {label:<{width}}  {value}" for label, value in self.facts.items()]
        lines += [self._note()] if self.note else []
        return "\n".join(lines + [f"  {label}: {address}" for label, address in self.links.items()])

    def _note(self) -> str:
        """The note, a verdict with its sign."""
        verdict = looks.verdict_of(self.note)
        return f"{verdict.sign} {self.note}" if verdict else self.note

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th scope='row' style='{_CELL.format(align='left')};font-weight:500'>"
            f"{html.escape(label)}</th><td style='{_CELL.format(align='left')}'>"
            f"<code style='background:none;white-space:pre-wrap'>{html.escape(value)}</code></td></tr>"
            for label, value in self.facts.items()
        )
        table = f"<table style='{_STYLE}'>{rows}</table>" if rows else ""
        kind = looks.ASKED if looks.verdict_of(self.note) else self.kind
        return boxed(self.title, table + self._note_html() + linked(self.links), kind)

    def _note_html(self) -> str:
        """The note; a verdict's sign and words stand out, and its line is its own."""
        verdict = looks.verdict_of(self.note)
        if verdict is None:
            return f"<p style='margin:0.3em 0'>{html.escape(self.note)}</p>" if self.note else ""
        rest = html.escape(self.note[len(verdict.words) :])
        return (
            f"<p style='margin:0.3em 0;padding-top:0.3em;border-top:{verdict.line} currentColor'>"
            f"<span aria-hidden='true'>{verdict.sign} </span><strong>{html.escape(verdict.words)}</strong>{rest}</p>"
        )


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
        # In the page itself, not as an image: so its text and lines take the colours of the theme around them.
        return (
            f"<figure style='margin:0.5em 0'>{inline(self.svg, self.alt)}"
            f"<details><summary>The same in words</summary><pre>{html.escape(self.text)}</pre></details></figure>"
        )


def inline(svg: str, alt: str) -> str:
    """A drawing as part of a page: one image to a screen reader, in the colours of the theme around it.

    Args:
        svg: a complete SVG document.
        alt: what is drawn.
    """
    body = re.sub(r"^.*?(?=<svg\b)|<metadata>.*?</metadata>|<style>.*?</style>", "", svg.strip(), flags=re.DOTALL)
    # Pictures share a page, and so their names must differ: those of a picture that is hidden would draw nothing.
    mark = "p" + hashlib.sha256(svg.encode()).hexdigest()[:6]
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{mark}{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{mark}", body)
    style = (
        f"--ground:{looks.GROUND};{looks.TONES};max-width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt"
    )
    return body.replace("<svg", f"<svg role='img' aria-label='{html.escape(alt, quote=True)}' style='{style}'", 1)


def linked(links: Mapping[str, str]) -> str:
    """Links in one line, as HTML; nothing where there are none."""
    if not links:
        return ""
    anchors = " · ".join(
        f"<a href='{html.escape(address, quote=True)}'>{html.escape(label)}</a>" for label, address in links.items()
    )
    return f"<p style='margin:0.3em 0'>{anchors}</p>"


def boxed(title: str, body: str, kind: str = looks.TOLD) -> str:
    """HTML with a line at its left, under a title.

    Args:
        title: plain text.
        body: HTML.
        kind: what the box is, see `helpers.looks`; the line's pattern tells it, and its colour.
    """
    return (
        f"<div style='border-left:{looks.LINES[kind].css};padding:0.2em 0 0.2em 1em;margin:0.5em 0'>"
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
