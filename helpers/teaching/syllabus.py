"""Syllabi: which sections of the notebooks fill 45 minutes, two hours or half a day, and what to leave out when late.

``data/syllabi.toml`` gives the rule of each; titles, minutes and what is core come from the notebooks' own metadata.
The pages in ``notebooks/syllabi`` are made from this by ``tools/teaching_pages.py``.
"""

import ast
import builtins
import functools
import itertools
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.cards import ShownAsTable, Table
from helpers.errors import WorkshopError
from helpers.teaching.notebooks import Section, named
from helpers.workspace import REPOSITORY

FILE = REPOSITORY / "data" / "syllabi.toml"
FIRST_TOKEN_WITHIN = 10
"""Minutes after the start by which the room sees a model write."""
YOUR_TURN = "Your turn"
"""How the heading of an exercise begins."""
LONGEST_SITTING = 60
"""Minutes between two breaks, and from the start to the first."""


@dataclass(frozen=True)
class Item:
    """One line of a syllabus.

    Attributes:
        kind: ``section``, ``exercise``, ``break``, ``questions`` or ``catch up``.
        start: minutes after the beginning.
        minutes: planned; 0 for what was made before the day.
        title: of the section, or what the time is for.
        section: the part of a notebook, for the first two kinds.
        notebook: the name of the notebook, where there is one.
    """

    kind: str
    start: float
    minutes: float
    title: str
    section: Section | None = None
    notebook: str = ""

    @property
    def weight(self) -> str:
        """``core``, ``optional`` or the kind, as the table says it."""
        if self.kind != "section" or self.section is None:
            return self.kind
        return "core" if self.section.core else "optional"


@dataclass(frozen=True)
class Cut:
    """What to leave out for somebody who is late at a given line.

    Attributes:
        late: minutes to be saved.
        items: what to leave out, all of it after that line.
    """

    late: int
    items: tuple[Item, ...]

    @property
    def saves(self) -> float:
        """Minutes that leaving all of it out saves."""
        return sum(item.minutes for item in self.items)

    def __str__(self) -> str:
        if not self.items:
            return f"{self.late} minutes late here? Nothing is left that could go, so end with what you have."
        told = f"{self.late} minutes late here? Leave out {self._what()}. It saves {minutes_text(self.saves)}."
        return (
            told if self.saves >= self.late else f"{told} There is no more to save: take the rest from the questions."
        )

    def _what(self) -> str:
        """What goes, notebook by notebook."""
        groups = itertools.groupby(self.items, lambda item: item.notebook)
        return ", ".join(
            f"{name[:2]} ({'; '.join(item.title for item in items)})" if name else f"“{next(items).title}”"
            for name, items in groups
        )


@dataclass(frozen=True, repr=False)
class Syllabus(ShownAsTable):
    """A plan for a given time.

    Attributes:
        title: such as ``Two hours``.
        slug: its page's name, such as ``two-hours``.
        length: minutes there are.
        about: a sentence or two on whom it is for.
        before: what to do before the day, one sentence each.
        late: minutes that a cut line saves.
        items: in order.
        spare: parts that may go as a whole although they are core, should nothing else be enough.
    """

    title: str
    slug: str
    length: int
    about: str
    before: tuple[str, ...]
    late: int
    items: tuple[Item, ...]
    spare: tuple[tuple[Item, ...], ...]

    @property
    def minutes(self) -> float:
        """Minutes planned, breaks and questions included."""
        return sum(item.minutes for item in self.items)

    @property
    def first_token(self) -> Item | None:
        """The first section in which a model writes."""
        return next((item for item in self.items if item.section and _generates(item.section)), None)

    def cut(self, item: Item) -> Cut:
        """What to leave out if one is late when ``item`` begins: first the optional, then exercises, then the spare."""
        after = self.items[self.items.index(item) + 1 :]
        groups: list[tuple[Item, ...]] = [(one,) for one in after if one.weight == "optional"]
        groups += [(one,) for one in after if one.kind == "exercise"]
        groups += [group for group in reversed(self.spare) if group[0] in after]
        gone: list[Item] = []
        for group in groups:
            if sum(one.minutes for one in gone) < self.late and not self._missed([*gone, *group]):
                gone += [one for one in group if one not in gone]
        return Cut(self.late, tuple(one for one in after if one in gone))

    def cuts(self) -> dict[Item, Cut]:
        """A cut line for each pause but the last: there one has time to look at the clock."""
        pauses = [item for item in self.items if item.kind in ("break", "questions")]
        return {item: self.cut(item) for item in pauses if item is not self.items[-1]}

    def _missed(self, gone: list[Item]) -> bool:
        """True if a cell that stays would lack a name for which a cell in ``gone`` stood."""
        left = missing_names(item.section for item in self.items if item.section and item not in gone)
        return not set(left) <= set(missing_names(item.section for item in self.items if item.section))

    def problems(self) -> list[str]:
        """What does not hold, one sentence each: length, first token, breaks, needs, and names that cells lack."""
        return [*self._too_long(), *self._late_token(), *self._sittings(), *self._needs(), *self._names()]

    def _too_long(self) -> Iterator[str]:
        if self.minutes > self.length:
            yield f"{self.title} takes {self.minutes:g} minutes, and there are {self.length}."

    def _late_token(self) -> Iterator[str]:
        token = self.first_token
        if token is None or token.start + token.minutes > FIRST_TOKEN_WITHIN:
            when = "never" if token is None else f"by minute {token.start + token.minutes:g}"
            yield f"{self.title} generates its first token {when}, not within {FIRST_TOKEN_WITHIN} minutes."

    def _sittings(self) -> Iterator[str]:
        began = 0.0
        for item in self.items:
            if item.kind == "break":
                began = item.start + item.minutes
            elif item.start + item.minutes - began > LONGEST_SITTING:
                yield f"{self.title} has no break between minute {began:g} and {item.start + item.minutes:g}."
                return

    def _needs(self) -> Iterator[str]:
        seen: set[str] = set()
        for item in self.items:
            if item.kind == "catch up":
                seen |= set(named(item.notebook).needs)
            elif item.notebook and item.notebook not in seen:
                for need in set(named(item.notebook).needs) - seen - {"nothing"}:
                    yield f"{self.title} takes {item.notebook} before {need}, which it needs."
                seen.add(item.notebook)

    def _names(self) -> Iterator[str]:
        for name, where in missing_names(item.section for item in self.items if item.section):
            yield f"{self.title} leaves out the cell that makes {name}, which {where} uses."

    def table(self) -> Table:
        """One row a line: at which minute, what, for how long."""
        rows = [[clock(i.start), i.notebook[:2], i.title, f"{i.minutes:g}", i.weight] for i in self.items]
        columns = ["minute", "notebook", "section", "minutes", "what"]
        return Table(columns, rows, caption=f"{self.title}: {self.length} minutes", note=self.note())

    def note(self) -> str:
        """The sums in words."""
        rest = self.length - self.minutes
        left = f"{minutes_text(rest)} in hand" if rest >= 0 else f"{minutes_text(-rest)} too many"
        token = self.first_token
        when = f"The first token is generated by minute {token.start + token.minutes:g}." if token else ""
        return f"{minutes_text(self.minutes)} planned, {left}. {when}".strip()


def minutes_text(minutes: float) -> str:
    """Minutes in words, such as ``1 minute`` or ``2.5 minutes``."""
    return f"{minutes:g} minute{'' if minutes == 1 else 's'}"


def clock(minutes: float) -> str:
    """Minutes after the start as hours and whole minutes, such as ``1:05``: no clock in a room shows halves."""
    return f"{int(minutes) // 60}:{int(minutes) % 60:02d}"


def is_exercise(section: Section) -> bool:
    """True for a section that asks the learner to answer something."""
    return section.title.startswith(YOUR_TURN) or any("exercise" in cell.tags for cell in section.cells)


def _generates(section: Section) -> bool:
    return any("toolchain.generate(" in cell.source for cell in section.cells if cell.kind == "code")


def missing_names(sections: Iterable[Section]) -> list[tuple[str, str]]:
    """Names that the code of these sections uses and none of them made before, and where.

    A syllabus leaves sections out. What is left has to run all the same.

    Args:
        sections: those that are taught, in order; a notebook may be left and come back to.
    """
    made: dict[str, set[str]] = {}
    missing = []
    for section in sections:
        have = made.setdefault(section.notebook, set(dir(builtins)) | {"display"})
        used, new = _names_of(section)
        missing += [(name, f"{section.notebook} ({section.title})") for name in sorted(used - have - new)]
        have |= new
    return missing


@functools.cache
def _names_of(section: Section) -> tuple[frozenset[str], frozenset[str]]:
    """The names that a section's code uses, and those that it makes."""
    used: set[str] = set()
    made: set[str] = set()
    for cell in section.cells:
        for node in ast.walk(ast.parse(cell.source)) if cell.kind == "code" else ():
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                made.add(node.name)
            elif isinstance(node, ast.arg):
                made.add(node.arg)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                made.add(node.name)
    return frozenset(used), frozenset(made)


def syllabi(file: Path = FILE) -> list[Syllabus]:
    """All syllabi, from the shortest to the longest.

    Raises:
        ValueError: the file names a notebook or a section that is not there.
    """
    with file.open("rb") as opened:
        return sorted(map(_made, tomllib.load(opened)["syllabus"]), key=lambda one: one.length)


def syllabus(name: str) -> Syllabus:
    """The syllabus of this title, such as ``two hours``.

    Raises:
        WorkshopError: there is none.
    """
    known = syllabi()
    for one in known:
        if name.strip().lower() in (one.title.lower(), one.slug):
            return one
    titles = ", ".join(repr(one.title.lower()) for one in known)
    raise WorkshopError(f"There is no syllabus {name!r}. Ask for one of {titles}.")


def _made(rule: dict[str, Any]) -> Syllabus:
    items: list[Item] = []
    spare: list[tuple[Item, ...]] = []
    for part in rule["part"]:
        new = _items(part, sum(item.minutes for item in items))
        items += new
        if part.get("spare", False):
            spare.append(tuple(new))
    facts = (rule["title"], rule["slug"], rule["length"], rule["about"], tuple(rule["before"]), rule["late"])
    return Syllabus(*facts, tuple(items), tuple(spare))


def _items(part: dict[str, Any], start: float) -> list[Item]:
    """The items of one part, the first of which begins at minute ``start``."""
    for kind in ("break", "questions"):
        if kind in part:
            return [Item(kind, start, part[kind], part["title"])]
    if "catch_up" in part:
        return [Item("catch up", start, 0, part["title"], notebook=named(part["catch_up"]).name)]
    items: list[Item] = []
    for section in chosen(part):
        items.append(_item(section, start + sum(item.minutes for item in items)))
    return items


def _item(section: Section, start: float) -> Item:
    kind = "exercise" if is_exercise(section) else "section"
    return Item(kind, start, section.minutes, section.title, section, section.notebook)


def chosen(part: dict[str, Any]) -> list[Section]:
    """The sections that a part's rule takes.

    Args:
        part: ``notebook`` and ``choose`` (``core`` or ``all``); where wanted ``first``, ``last``, ``also`` and
            ``without``, all of them ids of cells that open a section, and ``exercises`` (``true`` takes them too).
            Or ``notebook`` and ``only``, a list of such ids.

    Raises:
        ValueError: an id is not that of a cell that opens a section, or the rule takes nothing.
    """
    sections = named(part["notebook"]).sections
    ids = [section.cells[0].id for section in sections]
    bounds = [part[key] for key in ("first", "last") if key in part]
    for name in [*bounds, *(name for key in ("also", "without", "only") for name in part.get(key, []))]:
        if name not in ids:
            raise ValueError(f"{FILE.name}: no section of notebook {part['notebook']} opens with {name!r}.")
    first, last = ids.index(part.get("first", ids[0])), ids.index(part.get("last", ids[-1]))
    taken = [section for section in sections[first : last + 1] if _wanted(section, part)]
    if not taken:
        raise ValueError(f"{FILE.name}: a part of notebook {part['notebook']} takes no section.")
    return taken


def _wanted(section: Section, part: dict[str, Any]) -> bool:
    opened_by = section.cells[0].id
    if "only" in part or opened_by in [*part.get("also", []), *part.get("without", [])]:
        return opened_by in part.get("only", part.get("also", []))
    if is_exercise(section):
        return bool(part.get("exercises", False))
    return section.core or part["choose"] == "all"
