"""The pace line: minutes planned so far, minutes gone, and what to leave out next. For whoever teaches a room.

Shown under each notebook's opening card by ``make present``, and off for a lone learner. ``WORKSHOP_PACE`` says for
how long the room has come: ``45``, ``120``, ``half-day``, ``on`` (everything) or ``off``. ``teaching.pace(False)`` in
a cell switches it off for good; that is kept in the workspace.
"""

import contextlib
import os
import time
from dataclasses import dataclass

from helpers import workspace
from helpers.cards import Shown, boxed, counted, paragraph
from helpers.errors import WorkshopError
from helpers.teaching import journal
from helpers.teaching.notebooks import Notebook, Section, named, notebooks
from helpers.teaching.syllabus import Item, syllabus

VARIABLE = "WORKSHOP_PACE"
SINCE = "WORKSHOP_PACE_SINCE"
"""Seconds since the epoch; what was run before does not count. ``make present`` sets it, so a rehearsal is no delay."""
SYLLABI = {"45": "45-minutes", "120": "two-hours", "half-day": "half-a-day"}
CHOICES = (*SYLLABI, "on", "off")
PAUSE_S = 2 * 3600
"""A silence this long ends a session: what was run before it belongs to another day or another room."""
TOLERANCE_MINUTES = 2.0
_NAMED = 3  # sections that a line in front of a room names; the plan has them all
SWITCHED_OFF = "pace-off"


@dataclass(frozen=True)
class Part:
    """A stretch of the plan: a section, or a whole notebook that names no sections.

    Attributes:
        notebook: its name.
        title: of the section, or of the notebook.
        minutes: planned.
        core: False for what can be left out.
        cells: ids of its cells.
    """

    notebook: str
    title: str
    minutes: float
    core: bool = True
    cells: tuple[str, ...] = ()

    @classmethod
    def of(cls, section: Section) -> "Part":
        """A notebook's section as a part of the plan."""
        return cls(section.notebook, section.title, section.minutes, section.core, tuple(c.id for c in section.cells))


@dataclass(frozen=True, repr=False)
class Pace(Shown):
    """Where the room is in its plan.

    Attributes:
        planned: minutes that the plan gives to what lies before this point.
        gone: minutes since the session's first cell; 0 if none was run yet.
        total: minutes of the whole plan.
        cuts: what can be left out from here on, in order.
    """

    planned: float
    gone: float
    total: float
    cuts: tuple[Part, ...] = ()

    @property
    def late(self) -> float:
        """Minutes behind the plan; negative if ahead."""
        return self.gone - self.planned

    def parts(self) -> list[str]:
        """The line in pieces: where, ahead or behind, and the next cut."""
        where = f"planned so far: {self.planned:.0f} of {self.total:g} min · gone: {self.gone:.0f} min"
        if abs(self.late) <= TOLERANCE_MINUTES:
            word = "= on time"
        elif self.late > 0:
            word = f"▼ behind by {self.late:.0f} min"
        else:
            word = f"▲ ahead by {-self.late:.0f} min"
        return [where, word, self.advice()]

    def advice(self) -> str:
        """Which cuts make up for the delay, or the next one to know of."""
        if not self.cuts:
            return "nothing left to leave out"
        if self.late <= TOLERANCE_MINUTES:
            return f"next possible cut: {_named(self.cuts[0])}"
        chosen: list[Part] = []
        while len(chosen) < len(self.cuts) and sum(part.minutes for part in chosen) < self.late:
            chosen.append(self.cuts[len(chosen)])
        saved = sum(part.minutes for part in chosen)
        enough = "" if saved >= self.late else " and is all there is"
        rest = len(chosen) - _NAMED
        more = f" and {counted(rest, 'more section')} that may go" if rest > 0 else ""
        return f"leave out: {', '.join(map(_named, chosen[:_NAMED]))}{more}; it saves {saved:g} min{enough}"

    @property
    def text(self) -> str:
        """The whole line."""
        return " · ".join(self.parts())

    def __str__(self) -> str:
        return f"Pace: {self.text}"

    def _repr_html_(self) -> str:
        where, word, advice = self.parts()
        return boxed(f"Pace: {word}", paragraph(where) + paragraph(advice))


def _named(part: Part) -> str:
    where = f" in {part.notebook[:2]}" if part.notebook else ""
    return f"“{part.title}”{where} ({part.minutes:g} min)"


# --- The plan -----------------------------------------------------------------


def whole_plan() -> list[Part]:
    """Every section of every notebook, in order."""
    return [part for notebook in notebooks() for part in _parts(notebook)]


def _parts(notebook: Notebook) -> list[Part]:
    if notebook.sections:
        return [Part.of(section) for section in notebook.sections]
    ids = tuple(cell.id for cell in notebook.cells)
    return [Part(notebook.name, notebook.title, notebook.minutes, cells=ids)]


def plan() -> list[Part]:
    """What the room has time for, in order, as ``WORKSHOP_PACE`` says."""
    chosen = choice()
    if chosen not in SYLLABI:
        return whole_plan()
    timetable = syllabus(SYLLABI[chosen])
    spare = {id(item) for items in timetable.spare for item in items}
    return [_part_of(item, id(item) not in spare) for item in timetable.items]


def _part_of(item: Item, needed: bool) -> Part:
    core = needed and (item.section is None or (item.kind == "section" and item.section.core))
    cells = tuple(cell.id for cell in item.section.cells) if item.section else ()
    return Part(item.notebook, item.title, item.minutes, core, cells)


# --- The time -----------------------------------------------------------------


def session_began() -> float | None:
    """When the session's first cell was run, in seconds since the epoch; None if none was yet.

    A session goes on until nothing was run for two hours. What was run before ``WORKSHOP_PACE_SINCE`` is no part of it.
    """
    since = 0.0
    with contextlib.suppress(ValueError):  # what is no time leaves nothing out
        since = float(os.environ.get(SINCE) or 0)
    times = sorted(entry.began for one in notebooks() for entry in journal.entries(one.name) if entry.began >= since)
    began = None
    for at in reversed(times):
        if (began if began is not None else time.time()) - at > PAUSE_S:
            break
        began = at
    return began


def line(name: str = "", cell: str = "") -> Pace:
    """The pace at the beginning of a notebook, or of the section that holds a cell.

    Args:
        name: a notebook's name or number; where the journal's latest entry is unless told.
        cell: id of one of its cells.

    Raises:
        WorkshopError: there is no such notebook.
    """
    if name:
        notebook = named(name).name
    else:
        notebook, cell = _latest()
    parts = plan()
    here = [at for at, part in enumerate(parts) if part.notebook == notebook and (not cell or cell in part.cells)]
    # A notebook that is not in this plan: what lies before is all that the plan has of earlier notebooks.
    at = here[0] if here else sum(part.notebook < notebook for part in parts)
    began = session_began()
    gone = 0.0 if began is None else (time.time() - began) / 60
    cuts = tuple(part for part in parts[at:] if not part.core)
    return Pace(sum(part.minutes for part in parts[:at]), gone, sum(part.minutes for part in parts), cuts)


def _latest() -> tuple[str, str]:
    """Notebook and cell that were run last; the first notebook if none was."""
    last = [(found[-1].began, one.name, found[-1].cell) for one in notebooks() if (found := journal.entries(one.name))]
    return max(last)[1:] if last else (notebooks()[0].name, "")


# --- On and off ---------------------------------------------------------------


def choice() -> str:
    """What ``WORKSHOP_PACE`` says; ``off`` if nothing.

    Raises:
        WorkshopError: it is none of ``CHOICES``.
    """
    chosen = os.environ.get(VARIABLE, "").strip() or "off"
    if chosen not in CHOICES:
        raise WorkshopError(f"{VARIABLE} is {chosen!r}, which is no plan: set it to one of {', '.join(CHOICES)}.")
    return chosen


def is_on() -> bool:
    """True if the line is to be shown: a plan is set, and nobody switched it off."""
    return choice() != "off" and not (workspace.home() / SWITCHED_OFF).exists()


def pace(on: bool | None = None) -> Pace | str:
    """Show the pace line now, or switch it off or on for every notebook from here on.

    Args:
        on: False switches it off, also after a restart; True switches it on again; None shows it.
    """
    mark = workspace.home() / SWITCHED_OFF
    if on is None:
        return line()
    if on:
        mark.unlink(missing_ok=True)
        if choice() == "off":
            os.environ[VARIABLE] = "on"
        return line()
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return "The pace line is off, also in the next notebooks. teaching.pace(True) brings it back."
