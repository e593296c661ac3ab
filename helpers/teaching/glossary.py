"""The workshop's words: what each means, and the cell that shows it.

``data/glossary.toml`` has the sentences; ``tools/teaching_pages.py`` writes ``notebooks/glossary.md`` from it.
"""

import difflib
import html
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from helpers.cards import Shown, Table, boxed
from helpers.errors import WorkshopError
from helpers.teaching.notebooks import Cell, Section, named
from helpers.workspace import REPOSITORY

FILE = REPOSITORY / "data" / "glossary.toml"


@dataclass(frozen=True)
class Word:
    """One word of the glossary.

    Attributes:
        word: as a reader meets it.
        text: one to three sentences.
        notebook: the number of the notebook that shows it.
        cell: the id of the cell that shows it.
        spellings: how that notebook writes it, in lower case or not; the word itself if none is given.
    """

    word: str
    text: str
    notebook: str
    cell: str
    spellings: tuple[str, ...] = ()

    @property
    def section(self) -> Section:
        """The section of the cell.

        Raises:
            LookupError: the notebook has no such cell in a section.
        """
        for section in named(self.notebook).sections:
            if self.cell in [cell.id for cell in section.cells]:
                return section
        raise LookupError(f"{FILE.name}: notebook {self.notebook} has no section with a cell {self.cell!r}.")

    def occurs(self) -> bool:
        """True if the section of its cell has the word, or one of its spellings."""
        text = " ".join(" ".join(cell.source for cell in self.section.cells).split())
        return self._place(text) is not None

    def _place(self, text: str) -> int | None:
        """Where the word stands in a text, at the beginning of a word."""
        for spelling in self.spellings or (self.word,):
            if found := re.search(r"(?<![a-z])" + re.escape(spelling), text, re.IGNORECASE):
                return found.start()
        return None

    @property
    def heading(self) -> str:
        """The heading under which the cell shows it: a cell may end one topic and begin the next."""
        last = ""
        for cell in named(self.notebook).cells:
            end = len(cell.source)
            if cell.id == self.cell and (place := self._place(cell.source)) is not None:
                end = place
            last = (_headings(cell, end) or [last])[-1]
            if cell.id == self.cell:
                break
        return last

    @property
    def link(self) -> str:
        """From a file beside the notebooks to the heading, as JupyterLab and ``make workshop`` name it."""
        return f"{named(self.notebook).name}.ipynb#{self.heading.replace(' ', '-')}"


def _headings(cell: Cell, end: int) -> list[str]:
    """The headings of a Markdown cell that begin before the character ``end``, or at the word that they hold."""
    if cell.kind != "markdown":
        return []
    return [found[1].strip() for found in re.finditer(r"^#+ (.+)$", cell.source, re.MULTILINE) if found.start() < end]


@dataclass(frozen=True, repr=False)
class Glossary(Shown):
    """Words with their meaning, in the order of the alphabet."""

    words: tuple[Word, ...]

    def table(self) -> Table:
        """One row a word: what it means and where it is shown."""
        rows = [[word.word, word.text, f"{word.notebook}, {word.heading}"] for word in self.words]
        return Table(["word", "what it means", "shown in"], rows, whole=["word"])

    def __str__(self) -> str:
        return "\n".join(f"{one.word}: {one.text} (Shown in {one.notebook}, {one.heading}.)" for one in self.words)

    def _repr_html_(self) -> str:
        if len(self.words) == 1:
            (one,) = self.words
            return boxed(one.word, f"<p style='margin:0.2em 0'>{html.escape(one.text)} Shown in {_anchor(one)}.</p>")
        page = self.table()._repr_html_()
        for word in self.words:
            page = page.replace(f">{html.escape(f'{word.notebook}, {word.heading}')}</td>", f">{_anchor(word)}</td>")
        return page


def _anchor(word: Word) -> str:
    """A link to the word's heading, as HTML."""
    shown = html.escape(f"{word.notebook}, {word.heading}")
    return f"<a href='{html.escape(word.link, quote=True)}'>{shown}</a>"


def words(file: Path = FILE) -> tuple[Word, ...]:
    """All words, in the order of the alphabet."""
    with file.open("rb") as opened:
        rows = tomllib.load(opened)["word"]
    found = [Word(**{**row, "spellings": tuple(row.get("spellings", ()))}) for row in rows]
    return tuple(sorted(found, key=lambda one: one.word.lower()))


def glossary(word: str | None = None) -> Glossary:
    """The whole glossary, or one word of it.

    Args:
        word: as it stands in the glossary; capitals do not matter.

    Raises:
        WorkshopError: the glossary does not have this word.
    """
    known = words()
    if word is None:
        return Glossary(known)
    for one in known:
        if word.strip().lower() == one.word.lower():
            return Glossary((one,))
    raise WorkshopError(_unknown(word, [one.word for one in known]))


def _unknown(word: str, known: list[str]) -> str:
    """What to say of a word that is not there, with those that look like it."""
    by_lower = {name.lower(): name for name in known}
    near = [name for lower, name in by_lower.items() if word.strip() and word.strip().lower() in lower]
    near += [
        by_lower[name]
        for name in difflib.get_close_matches(word.strip().lower(), by_lower)
        if by_lower[name] not in near
    ]
    hint = f"Did you mean {' or '.join(repr(name) for name in near[:3])}?" if near else "teaching.glossary() shows all."
    return f"The glossary has no word {word!r}. {hint}"
