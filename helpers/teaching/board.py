"""The progress board of notebook 00: what was run in each notebook, what is in the workspace, and where to go on.

All of it is read from the workspace, the journal and the artifacts, so it is right after a pod was stopped and started.
"""

import html
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers import stage, workspace
from helpers.cards import Shown, Table, seconds_text
from helpers.teaching import journal
from helpers.teaching.catch_up import PRESENT, Missing, Need, look_at, needed
from helpers.teaching.journal import Entry
from helpers.teaching.notebooks import Cell, Notebook, heading_above, notebooks, shortened

DONE, BEGUN, STOPPED, AHEAD = "done", "begun", "stopped at an error", "not begun"
_SIGNS = {DONE: "✓", BEGUN: "◐", STOPPED: "✗", AHEAD: "○"}
_WIDE, _LONGEST_HEADING = 110, 27
_FOLD = "Minutes, and what is in the workspace"


@dataclass(frozen=True)
class Progress:
    """How far one notebook is.

    Attributes:
        notebook: which.
        ran: cells that were run, by id, each with its latest run.
        seconds: that all runs of its cells took together.
        state: :data:`DONE`, :data:`BEGUN`, :data:`STOPPED` or :data:`AHEAD`.
        going_on: the cell to go on with; None where it is done.
        made: what it makes in the workspace.
        needs: what :func:`helpers.teaching.catch_up` would look at for it.
    """

    notebook: Notebook
    ran: Mapping[str, Entry]
    seconds: float
    state: str
    going_on: Cell | None
    made: tuple[Need, ...]
    needs: Missing

    @property
    def code(self) -> list[Cell]:
        """Its code cells."""
        return _code(self.notebook)

    @property
    def place(self) -> str:
        """Where to go on, as a person looks for it: the notebook's number and the heading above the cell."""
        if self.going_on is None:
            return ""
        return f"{self.notebook.number}, cell '{heading_above(self.notebook, self.going_on)}'"

    def row(self) -> list[str]:
        """Its line of the board."""
        begun = self.state in (BEGUN, STOPPED) and self.going_on is not None
        heading = heading_above(self.notebook, self.going_on) if begun and self.going_on else "–"
        return [
            self.notebook.number,
            self.notebook.title,
            f"{_SIGNS[self.state]} {self.state}",
            f"{len(self.ran)} of {len(self.code)}",
            shortened(heading, _LONGEST_HEADING),
        ]

    def workspace_row(self) -> list[str]:
        """Its line of the second table: minutes, what it makes itself, and what it needs of earlier notebooks."""
        here = sum(need.state == PRESENT for need in self.made)
        ran = seconds_text(self.seconds) if self.seconds else "–"
        makes = f"{here} of {len(self.made)} here" if self.made else "–"
        return [self.notebook.number, f"{self.notebook.minutes} min", ran, makes, self._would_make()]

    def _would_make(self) -> str:
        if not self.needs.needs:
            return "–"
        count = len(self.needs.todo)
        return f"{count} of {len(self.needs.needs)} missing, {self.needs.total}" if count else "all here"


@dataclass(frozen=True, repr=False)
class Board(Shown):
    """The board; shows itself as a table with what to do next.

    Attributes:
        rows: one a notebook, in order.
        under_way: titles of the stages that run now.
        cut_off: titles of the stages that were cut off, by a stopped pod for example, and were not made since.
    """

    rows: tuple[Progress, ...]
    under_way: tuple[str, ...]
    cut_off: tuple[str, ...]

    @property
    def current(self) -> Progress | None:
        """The notebook to go on with: the one run last if it is not done, else the first after it that is not."""
        begun = [row for row in self.rows if row.ran]
        if not begun:
            return next((row for row in self.rows if row.state == AHEAD), None)
        latest = max(begun, key=lambda row: max(entry.began for entry in row.ran.values()))
        after = self.rows[self.rows.index(latest) :]
        return next((row for row in after if row.state != DONE), None)

    @property
    def next(self) -> str:
        """Where to go on, in a sentence."""
        row = self.current
        if row is None:
            return "next: nothing, the last notebook is done."
        todo = row.needs.todo
        number = row.notebook.number
        lacking = f" First run teaching.catch_up('{number}'): {row.needs.total}." if todo else ""
        error = ", which ended with an error" if row.state == STOPPED else ""
        return f"next: {row.place}{error}.{lacking}"

    def _sentences(self) -> list[str]:
        lines = [self.next]
        if self.under_way:
            lines.append(f"Under way: {', '.join(self.under_way)}. Follow it with stage.watch().")
        if self.cut_off:
            lines.append(
                f"Cut off before it was done: {', '.join(self.cut_off)}. Nothing half-made is left: run its cell "
                "again, or catch up."
            )
        return lines

    def _table(self) -> Table:
        columns = ["no.", "notebook", "state", "cells run", "go on at"]
        caption = f"Progress in this workspace, {time.strftime('%Y-%m-%d %H:%M')}"
        return Table(columns, [row.row() for row in self.rows], caption)

    def _workspace(self) -> Table:
        columns = ["no.", "planned", "cells ran for", "what it makes", "what it needs of earlier ones"]
        note = "What is missing of what it needs is what catch_up would make."
        return Table(columns, [row.workspace_row() for row in self.rows], note=note)

    def __str__(self) -> str:
        lines = [textwrap.fill(line, _WIDE) for line in self._sentences()]
        return "\n".join([str(self._table()), *lines, "", _FOLD, str(self._workspace())])

    def _repr_html_(self) -> str:
        below = "".join(f"<p style='margin:0.3em 0'>{html.escape(line)}</p>" for line in self._sentences())
        row = self.current
        file = f"{row.notebook.name}.ipynb" if row else ""
        link = f"<p style='margin:0.3em 0'><a href='{file}'>Open {file}</a></p>" if row else ""
        fold = f"<details><summary>{_FOLD}</summary>{self._workspace()._repr_html_()}</details>"
        return self._table()._repr_html_() + below + link + fold


def board() -> Board:
    """How far this workspace's owner is, in every notebook; makes nothing."""
    all_of_them = notebooks()
    looked = look_at([notebook.number for notebook in all_of_them])
    rows = tuple(_progress(notebook, looked, all_of_them) for notebook in all_of_them)
    return Board(rows, *_stages())


def _progress(notebook: Notebook, looked: Sequence[Need], among: Sequence[Notebook]) -> Progress:
    code = {cell.id for cell in _code(notebook)}
    entries = [entry for entry in journal.entries(notebook.name) if entry.cell in code]
    ran = {entry.cell: entry for entry in entries}  # the latest of each cell
    state, going_on = state_of(notebook, ran)
    before = {other.number for other in needed(notebook.name, among)}
    once = {need.place or need.what: need for need in reversed(looked) if need.notebook in before}
    needs = Missing(notebook, tuple(reversed(once.values())))
    made = tuple(need for need in looked if need.notebook == notebook.number)
    return Progress(notebook, ran, sum(entry.seconds for entry in entries), state, going_on, made, needs)


def state_of(notebook: Notebook, ran: Mapping[str, Entry]) -> tuple[str, Cell | None]:
    """A notebook's state, and the cell to go on with.

    It is done once its last cell has run, whatever was left out. One goes on at the first cell that was not run; not at
    an exercise, whose cell is no longer the notebook's once it was answered. A cell whose latest run failed, with none
    after it that went well, is run again.
    """
    code = _code(notebook)
    reached = [index for index, cell in enumerate(code) if cell.id in ran]
    if not reached:
        return AHEAD, code[0] if code else None
    last = reached[-1]
    if not ran[code[last].id].ok:
        return STOPPED, code[last]
    if last + 1 == len(code):
        return DONE, None
    left = (cell for cell in code if cell.id not in ran and "exercise" not in cell.tags)
    return BEGUN, next(left, code[last + 1])


def _code(notebook: Notebook) -> list[Cell]:
    return [cell for cell in notebook.cells if cell.kind == "code"]


def _stages() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Titles of the stages under way, and of those that were cut off and whose artifact has not come since."""
    latest: dict[str, bool | None] = {}
    for _, state in stage.runs():
        if "title" in state:
            alive = stage.is_alive(state)
            cut_off = stage.said_under_way(state) and not alive and workspace.find(Path(state["target"])) is None
            latest[state["title"]] = alive or (False if cut_off else None)
    under_way = tuple(title for title, alive in latest.items() if alive)
    return under_way, tuple(title for title, alive in latest.items() if alive is False)
