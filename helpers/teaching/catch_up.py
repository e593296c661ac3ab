"""Falling behind and coming back: making what a notebook needs, without running the notebooks before it.

What is needed is what the notebooks that it builds on make (their metadata name them, :mod:`helpers.teaching.makes`
says what each makes). What exists is left as it is; the rest is copied from a bundle where one is at hand, else made,
with the stages' usual progress. To stop it costs nothing but the stage under way: run it again and it goes on.
"""

import contextlib
import io
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import stage, workspace
from helpers.cards import Card, ShownAsTable, Table, bytes_text, counted, seconds_text
from helpers.errors import WorkshopError
from helpers.progress import Live
from helpers.teaching import expected
from helpers.teaching.notebooks import Notebook, named, notebooks

if TYPE_CHECKING:
    from helpers.teaching.makes import Step

PRESENT, RESTORE, MAKE, DOWNLOAD, INSTALL = "present", "restore from bundle", "make", "download", "install"
_SIGNS = {PRESENT: "✓", RESTORE: "⇠", MAKE: "+", DOWNLOAD: "↓", INSTALL: "+"}


@dataclass(frozen=True)
class Need:
    """One thing that a notebook needs.

    Attributes:
        notebook: number of the notebook that makes it.
        what: in words.
        place: its folder in the workspace, relative to it; None where that cannot be told yet.
        state: :data:`PRESENT`, :data:`RESTORE`, :data:`MAKE`, :data:`DOWNLOAD` or :data:`INSTALL`.
        bytes: of what is there, of the copy, or of a download; None if not known.
        time: what getting it is expected to take; None for what is present.
    """

    notebook: str
    what: str
    place: str | None
    state: str
    bytes: int | None = None
    time: expected.Time | None = None


@dataclass(frozen=True, repr=False)
class Missing(ShownAsTable):
    """What a notebook needs, what of it is here, and how long the rest will take; shows itself as a table.

    Attributes:
        notebook: the one that needs it.
        needs: in the order in which they are made.
        busy: a sentence where the machine has more to do than the times allow for, else empty.
    """

    notebook: Notebook
    needs: tuple[Need, ...]
    busy: str = ""

    @property
    def todo(self) -> tuple[Need, ...]:
        """What is not here."""
        return tuple(need for need in self.needs if need.state != PRESENT)

    @property
    def seconds(self) -> float:
        """What all of it is expected to take, as far as that is known."""
        return sum(need.time.seconds or 0.0 for need in self.todo if need.time)

    @property
    def unknown(self) -> int:
        """How many of :attr:`todo` have no expected time."""
        return sum(need.time is None or need.time.seconds is None for need in self.todo)

    @property
    def total(self) -> str:
        """The expected time in words."""
        if self.unknown == len(self.todo):
            return "a time that is not known"
        least = f", and {self.unknown} of unknown time" if self.unknown else ""
        return f"about {seconds_text(self.seconds)}{least}"

    @property
    def sentence(self) -> str:
        """What is missing and how long it takes."""
        if not self.needs:
            return f"Notebook {self.notebook.number} needs nothing from earlier notebooks."
        if not self.todo:
            return f"Nothing to do: all that notebook {self.notebook.number} needs is here."
        said = f"predicted: {counted(len(self.todo), 'thing')} of {len(self.needs)} to get, {self.total}."
        return f"{said} {self.busy}".rstrip()

    def table(self) -> Table:
        """One row for each thing."""
        rows = [_row(need) for need in self.needs]
        columns = ["notebook", "what", "size", "state", "expected", "evidence of that time"]
        return Table(columns, rows, f"What notebook {self.notebook.number} needs", self.sentence)

    def __str__(self) -> str:
        """What is to get as a table, what is here in a line each: a terminal is narrow."""
        lines = [f"What notebook {self.notebook.number} needs"]
        lines += [f"  {_SIGNS[PRESENT]} {need.notebook}  {need.what}" for need in self.needs if need.state == PRESENT]
        if self.todo:
            columns = ["notebook", "what", "size", "state", "expected"]
            lines += [str(Table(columns, [_row(need)[:-1] for need in self.todo]))]
            evidence = dict.fromkeys(need.time.evidence for need in self.todo if need.time)
            lines += ["Evidence of these times: " + "; ".join(evidence) + "."]
        lines = [textwrap.fill(line, 110) if line.startswith("Evidence") else line for line in lines]
        return "\n".join([*lines, textwrap.fill(self.sentence, 110)])


def _row(need: Need) -> list[str]:
    size = "–" if need.bytes is None else bytes_text(need.bytes)
    took = "–" if need.time is None or need.time.seconds is None else seconds_text(need.time.seconds)
    evidence = need.time.evidence if need.time else "–"
    return [need.notebook, need.what, size, f"{_SIGNS[need.state]} {need.state}", took, evidence]


def needed(name: str | int, among: Sequence[Notebook] = ()) -> list[Notebook]:
    """The notebooks that a notebook builds on, directly or through others, in order.

    Args:
        name: its name or number.
        among: all notebooks; read anew by default.

    Raises:
        WorkshopError: there is no such notebook.
    """
    by_name = {notebook.name: notebook for notebook in among or notebooks()}
    found, open_ends = set[str](), [by_name.get(str(name)) or named(name)]
    while open_ends:
        for other in open_ends.pop().needs:
            if other in by_name and other not in found:
                found.add(other)
                open_ends.append(by_name[other])
    return [by_name[other] for other in sorted(found)]


def missing(name: str | int, bundle: str | Path | None = None) -> Missing:
    """What a notebook needs of earlier ones, what of it is here, and how long the rest will take; makes nothing.

    Args:
        name: of the notebook, or its number, such as ``"05"``.
        bundle: the folder of a bundle; None for the one that ``WORKSHOP_BUNDLE`` names, if it does.

    Raises:
        WorkshopError: there is no such notebook, or no such folder.
    """
    notebook, numbers = named(name), [one.number for one in needed(name)]
    return Missing(notebook, tuple(need for need, _ in _look(numbers, _offers(bundle, False))), expected.busy_text())


def catch_up(name: str | int, bundle: str | Path | None = None) -> Card:
    """Make, restore or download what a notebook needs: shows what that is and how long it will take, then does it.

    Args:
        name: of the notebook that you want to go on with, or its number, such as ``"05"``.
        bundle: the folder of a bundle; None for the one that ``WORKSHOP_BUNDLE`` names, if it does.

    Returns:
        A card: what was done, how long it took, and how long it was expected to take.

    Raises:
        WorkshopError: there is no such notebook or folder, or a stage failed. What was made until then stays.
    """
    notebook, numbers = named(name), [one.number for one in needed(name)]
    offers = _offers(bundle)
    looked = list(_look(numbers, _offers(bundle, digests=False)))
    plan = Missing(notebook, tuple(need for need, _ in looked), expected.busy_text())
    if not plan.todo:
        return Card(f"Ready for notebook {notebook.number}: {notebook.title}", note=plan.sentence)
    Live().finish(plan)
    began = time.monotonic()
    try:
        with stage.only_news(), stage.taking_from(offers):
            for step in dict.fromkeys(step for need, step in looked if need.state != PRESENT):
                step.make()
    finally:
        _note_restored(plan)
    return _done(plan, time.monotonic() - began)


def look_at(numbers: list[str]) -> list[Need]:
    """What these notebooks themselves make, a thing that two of them make under both; makes nothing.

    A bundle that is not there offers nothing: who only looks need not be told.
    """
    try:
        offers = _offers(None, digests=False)
    except WorkshopError:
        offers = _offers_nothing
    return [need for need, _ in _look(numbers, offers, once=False)]


def _offers_nothing(target: Path) -> Path | None:
    return None


def _done(plan: Missing, took: float) -> Card:
    """The closing card: what was done, and the estimate against the time it took."""
    counts = {state: sum(need.state == state for need in plan.todo) for state in (RESTORE, MAKE, DOWNLOAD, INSTALL)}
    words = {RESTORE: "restored from the bundle", MAKE: "made", DOWNLOAD: "downloaded", INSTALL: "installed"}
    facts = {
        "done": ", ".join(f"{count} {words[state]}" for state, count in counts.items() if count),
        "left as it was": counted(len(plan.needs) - len(plan.todo), "thing"),
        "took": f"measured: {seconds_text(took)}",
        "was expected": f"predicted: {plan.total}",
    }
    return Card(f"Ready for notebook {plan.notebook.number}: {plan.notebook.title}", facts, _judged(plan, took))


def _judged(plan: Missing, took: float) -> str:
    """How good the estimate was, in a sentence."""
    if not plan.seconds:
        return "There was no estimate. What this machine took is the evidence of the next one."
    ratio = took / plan.seconds
    if 0.8 <= ratio <= 1.25:
        return f"The estimate was right within a quarter: it took {ratio:.2f} times as long as expected."
    word = "longer" if ratio > 1 else "less"
    why = " Part of it had no expected time." if plan.unknown else ""
    return f"It took {word} than expected: {ratio:.2f} times as long.{why}"


# --- Looking ------------------------------------------------------------------------------


def _look(numbers: list[str], offers: stage.Offers, once: bool = True) -> Iterator[tuple[Need, "Step"]]:
    """What these notebooks make, with the step that makes it; nothing is made.

    Args:
        numbers: of the notebooks, in order.
        offers: from :func:`_offers`.
        once: tell a thing only under the first that makes it, else under each.
    """
    from helpers.teaching import makes

    install = makes.install_step()
    clock = expected.Clock()
    if install is not None and numbers:
        yield Need("02", install.title, None, INSTALL, time=clock.unknown()), install
    met: set[tuple[str, Path]] = set()
    with stage.looking(offers) as seen:
        for step in makes.steps(numbers):
            start = len(seen)
            went_well = _try(step)
            under = "" if once else step.notebook
            fresh = {one.stage.target: one for one in seen[start:] if (under, one.stage.target) not in met}
            met.update((under, target) for target in fresh)
            for one in fresh.values():
                yield _need(step, one, clock), step
            # A step that could not go on for something that is missing may have a stage of its own that did not show.
            if not went_well and all(one.artifact is not None for one in fresh.values()):
                yield Need(step.notebook, step.title, None, MAKE, time=clock.of_title(step.title)), step


def _try(step: "Step") -> bool:
    """Let a step tell its stages; False if it could not go on, since what it reads is not there yet."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            step.make()
    except (WorkshopError, OSError, ValueError, LookupError):
        return False
    return True


def _need(step: "Step", seen: stage.Seen, clock: "expected.Clock") -> Need:
    """What is known of one stage."""
    place = seen.stage.target.relative_to(workspace.home()).as_posix()
    what = (step.notebook, seen.stage.title, place)
    if seen.artifact is not None:
        return Need(*what, PRESENT, seen.artifact.bytes)
    if seen.copy is not None:
        manifest = workspace.read_manifest(seen.copy)
        size = sum(count for count, _ in manifest.files.values()) if manifest else 0
        return Need(*what, RESTORE, size, clock.of_copy(size))
    if "repository" in seen.stage.options:
        size = seen.stage.space // 2  # a download asks for room for the parts and for the whole
        return Need(*what, DOWNLOAD, size or None, clock.of_download(size))
    return Need(*what, MAKE, clock.bytes_of(place), clock.of(place, seen.stage.kind))


# --- The bundle ------------------------------------------------------------------------------


def _offers(folder: str | Path | None, digests: bool = True) -> stage.Offers:
    """What tells where in a bundle an intact copy of a target lies; nothing is offered where there is no bundle.

    Args:
        folder: the bundle; None for the one that ``WORKSHOP_BUNDLE`` names, if it does.
        digests: False to compare sizes only.

    Raises:
        WorkshopError: there is no such folder, or it holds no bundle.
    """
    from helpers.teaching import bundle

    place = bundle.folder(folder)
    return partial(bundle.offers, given=place, digests=digests) if place else _offers_nothing


def _note_restored(plan: Missing) -> None:
    """Remember what came from elsewhere: the seconds in its manifest are another machine's."""
    places = [need.place for need in plan.todo if need.state == RESTORE and need.place]
    expected.note_restored(place for place in places if workspace.read_manifest(workspace.home() / place))
