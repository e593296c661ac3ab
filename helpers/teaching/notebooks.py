"""The notebooks as their files describe them: title, minutes, needs, sections and cells.

Minutes, needs and what is core are read from the notebooks' own metadata, so that no table can drift from them.
"""

import functools
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from helpers.cards import Table
from helpers.errors import WorkshopError
from helpers.workspace import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"


@dataclass(frozen=True)
class Cell:
    """One cell of a notebook.

    Attributes:
        id: unique in its notebook.
        kind: ``code`` or ``markdown``.
        source: its text.
        tags: such as ``stage``, ``exercise`` or ``slide``.
    """

    id: str
    kind: str
    source: str
    tags: tuple[str, ...]

    @property
    def heading(self) -> str:
        """The first heading of a Markdown cell, without its marks; empty if it has none."""
        found = re.search(r"^#+ (.+)$", self.source, re.MULTILINE) if self.kind == "markdown" else None
        return found[1].strip() if found else ""


@dataclass(frozen=True)
class Section:
    """A part of a notebook: from a cell with ``workshop`` in its metadata to the next such cell.

    Attributes:
        notebook: the notebook's name.
        title: the heading of its first cell.
        minutes: planned.
        core: False for what can be left out without losing the thread.
        cells: in order.
    """

    notebook: str
    title: str
    minutes: float
    core: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Notebook:
    """One notebook as its file describes it.

    Attributes:
        name: its file name without the ending, such as ``03_fp16_build``.
        title: its heading.
        minutes: planned for all of it.
        needs: the names of the notebooks it builds on.
        cells: all of them, in order.
        sections: its parts with their minutes; empty if it names none.
    """

    name: str
    title: str
    minutes: int
    needs: tuple[str, ...]
    cells: tuple[Cell, ...] = ()
    sections: tuple[Section, ...] = ()

    @property
    def number(self) -> str:
        """The two digits that its name begins with."""
        return self.name[:2]


def notebooks() -> list[Notebook]:
    """All numbered notebooks, in order."""
    return [_read(file) for file in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))]


def named(name: str | int) -> Notebook:
    """The notebook with this name or number, such as ``03_fp16_build``, ``"03"`` or 3.

    Raises:
        WorkshopError: there is none.
    """
    wanted = with_two_digits(str(name))
    for notebook in notebooks():
        if wanted in (notebook.name, notebook.number):
            return notebook
    raise WorkshopError(f"There is no notebook {name!r}. There are {', '.join(n.number for n in notebooks())}.")


def with_two_digits(name: str) -> str:
    """A notebook's number as its file's name begins, such as ``03`` for ``3``; anything else as it is."""
    return name.zfill(2) if name.isascii() and name.isdigit() else name


def telling_line(source: str) -> str:
    """The line of a code cell that tells best what it does: its last one that calls something."""
    lines = [line.strip() for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    calling = [line for line in lines if "(" in line]
    return (calling or lines or ["only comments"])[-1]


def heading_above(notebook: Notebook, cell: Cell) -> str:
    """The last heading above a cell."""
    heading = notebook.title
    for each in notebook.cells:
        if each.id == cell.id:
            break
        heading = each.heading or heading
    return heading


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _read(file: Path) -> Notebook:
    return _as_of(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _as_of(file: Path, changed: int) -> Notebook:
    """The notebook, read again only after the file was changed: a syllabus asks for each section's notebook."""
    content = json.loads(file.read_text(encoding="utf-8"))
    about, cells = content["metadata"]["workshop"], tuple(_cell(cell) for cell in content["cells"])
    title = cells[0].heading or file.stem
    sections = tuple(_sections(file.stem, content["cells"], cells))
    return Notebook(file.stem, title, about["minutes"], tuple(about["needs"]), cells, sections)


def _cell(cell: dict) -> Cell:
    tags = tuple(cell["metadata"].get("tags", ()))
    return Cell(cell["id"], cell["cell_type"], "".join(cell["source"]), tags)


def _sections(name: str, raw: list[dict], cells: tuple[Cell, ...]) -> list[Section]:
    starts = [index for index, cell in enumerate(raw) if "workshop" in cell["metadata"]]
    found = []
    for start, end in itertools.pairwise([*starts, len(raw)]):
        about = raw[start]["metadata"]["workshop"]
        part = cells[start:end]
        found.append(Section(name, part[0].heading, about["minutes"], about.get("core", True), part))
    return found


def time_plan() -> Table:
    """Every notebook with its planned minutes and the time at which it starts, counted from the first."""
    rows, passed = [], 0
    for notebook in notebooks():
        rows.append([notebook.name, notebook.title, notebook.minutes, passed])
        passed += notebook.minutes
    note = f"{passed} minutes in all, at the pace of someone who reads every line."
    return Table(["notebook", "title", "minutes", "starts at minute"], rows, caption="Time plan", note=note)
