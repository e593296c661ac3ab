"""The progress board of notebook 00: what was run in each notebook, what is in the workspace, and where to go on.

All of it is read from the workspace, the journal and the artifacts, so it is right after a pod was stopped and started.
"""

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from helpers import stage
from helpers.cards import Shown, Table, seconds_text
from helpers.teaching import journal
from helpers.teaching.catch_up import PRESENT, Missing, Need, look_at, needed
from helpers.teaching.journal import Entry
from helpers.teaching.notebooks import Cell, Notebook, notebooks

DONE, BEGUN, STOPPED, AHEAD = "done", "begun", "stopped at an error", "not begun"
_SIGNS = {DONE: "✓", BEGUN: "◐", STOPPED: "✗", AHEAD: "○"}


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
        here = sum(need.state == PRESENT for need in self.made)
        kept = "–"
        if self.made:
            kept = f"all {here}" if here == len(self.made) else f"{here}, {len(self.made) - here} missing"
        used = seconds_text(self.seconds) if self.seconds else "–"
        return [
            self.notebook.number,
            self.notebook.title,
            f"{_SIGNS[self.state]} {self.state}",
            f"{len(self.ran)} of {len(self.code)}",
            f"{self.notebook.minutes} min",
            used,
            kept,
            self.place if self.state in (BEGUN, STOPPED) else "–",
            self._would_make(),
        ]

    def _would_make(self) -> str:
        if not self.needs.needs:
            return "–"
        count = len(self.needs.todo)
        return f"{count} of {len(self.needs.needs)}, {self.needs.total}" if count else "nothing: all is here"


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
        columns = [
            "no.",
            "notebook",
            "state",
            "cells run",
            "planned",
            "used",
            "made here",
            "go on at",
            "catch_up would make",
        ]
        caption = f"Progress in this workspace, {time.strftime('%Y-%m-%d %H:%M')}"
        return Table(columns, [row.row() for row in self.rows], caption)

    def __str__(self) -> str:
        return "\n".join([str(self._table()), *self._sentences()])

    def _repr_html_(self) -> str:
        below = "".join(f"<p style='margin:0.3em 0'>{html.escape(line)}</p>" for line in self._sentences())
        row = self.current
        file = f"{row.notebook.name}.ipynb" if row else ""
        link = f"<p style='margin:0.3em 0'><a href='{file}'>Open {file}</a></p>" if row else ""
        return self._table()._repr_html_() + below + link


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

    It is done once its last cell has run, whatever was left out. One goes on after the furthest cell that was run; a
    cell whose latest run failed, with none after it that went well, is run again.
    """
    code = _code(notebook)
    reached = [index for index, cell in enumerate(code) if cell.id in ran]
    if not reached:
        return AHEAD, code[0] if code else None
    last = reached[-1]
    if not ran[code[last].id].ok:
        return STOPPED, code[last]
    return (BEGUN, code[last + 1]) if last + 1 < len(code) else (DONE, None)


def heading_above(notebook: Notebook, cell: Cell) -> str:
    """The last heading above a cell."""
    heading = notebook.title
    for each in notebook.cells:
        if each.id == cell.id:
            break
        heading = each.heading or heading
    return heading


def _code(notebook: Notebook) -> list[Cell]:
    return [cell for cell in notebook.cells if cell.kind == "code"]


def _stages() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Titles of the stages under way, and of those that were cut off and not run again since."""
    latest: dict[str, bool | None] = {}
    for _, state in stage.runs():
        if "title" in state:
            alive = stage.is_alive(state)
            latest[state["title"]] = alive if alive or stage.said_under_way(state) else None
    under_way = tuple(title for title, alive in latest.items() if alive)
    return under_way, tuple(title for title, alive in latest.items() if alive is False)
