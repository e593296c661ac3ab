"""The exported files: shown as a tree whose files unfold, and written whole (notebook 09)."""

import hashlib
import html
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.cards import Shown, boxed, counted, paragraph, preformatted
from helpers.deploy.export.subject import File
from helpers.errors import WorkshopError
from helpers.looks import STOPS, TOLD

NOTE = ".workshop-export.json"
"""In a folder that was written here: every file with its digest, so that nothing of somebody else's is overwritten."""


@dataclass(frozen=True, repr=False)
class Exported(Shown):
    """A recipe as files for other platforms.

    Attributes:
        name: of the recipe.
        title: what it is and where it runs.
        made: relative path to the file's text and what it is, in the order to show.
        refusals: target to the sentence that says why it has no files.
        notes: what else to know, a sentence each.
    """

    name: str
    title: str
    made: Mapping[str, File]
    refusals: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> dict[str, str]:
        """Relative path to text."""
        return {path: file.text for path, file in self.made.items()}

    def file(self, path: str) -> "ShownFile":
        """One of the files, to look at.

        Raises:
            WorkshopError: there is no such file; names those that there are.
        """
        if path not in self.made:
            raise WorkshopError(f"There is no file {path!r} in it. Choose from {', '.join(self.made)}.")
        return ShownFile(path, self.made[path])

    def write(self, folder: str | Path) -> Path:
        """Write every file into a folder, all or none; returns the folder.

        A folder that an earlier export wrote, and that nobody has changed since, is replaced.

        Raises:
            WorkshopError: there is nothing to write, the folder holds something else, or it cannot be written.
        """
        if not self.made:
            raise WorkshopError("\n".join(["Nothing was written: there is no file.", *self.refusals.values()]))
        target = Path(folder).expanduser().absolute()
        making = target.with_name(f".making-{target.name}~{os.getpid()}")
        try:
            require_ours(target)
            shutil.rmtree(making, ignore_errors=True)
            for path, text in self.files.items():
                place = making / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text)
            (making / NOTE).write_text(json.dumps(self._digests(), indent=1) + "\n")
            _replace(making, target)
        except OSError as problem:
            shutil.rmtree(making, ignore_errors=True)
            raise WorkshopError(f"{target} cannot be written: {problem.strerror}. Choose another folder.") from None
        return target

    def _digests(self) -> dict[str, str]:
        return {path: digest(text.encode()) for path, text in self.files.items()}

    @property
    def headline(self) -> str:
        """How much there is, and of what."""
        if not self.made:
            return f"Nothing to export of {self.title}"
        refused = f"; not for {', '.join(self.refusals)}" if self.refusals else ""
        return f"{counted(len(self.made), 'file')} of {self.title}{refused}"

    def tree(self) -> str:
        """The paths, indented by folder, each with what it is."""
        lines, above = [], ""
        width = max((len(path) for path in self.made), default=0)
        for path, file in self.made.items():
            folder, _, name = path.rpartition("/")
            if folder and folder != above:
                lines.append(f"{folder}/")
            above = folder
            shown = f"  {name}" if folder else name
            lines.append(f"{shown:<{width}}  {file.about}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return "\n".join([self.summary(), *(f"\n=== {path}\n{text.rstrip()}" for path, text in self.files.items())])

    def summary(self) -> str:
        """Everything but the texts: what a terminal shows beside written files."""
        refused = [f"{target}: {why}" for target, why in self.refusals.items()]
        return "\n".join([self.headline, *([self.tree()] if self.made else []), *refused, *self.notes])

    def _repr_html_(self) -> str:
        refused = "".join(paragraph(f"{target}: {why}") for target, why in self.refusals.items())
        files = "".join(_foldable(path, file) for path, file in self.made.items())
        body = refused + files + "".join(map(paragraph, self.notes))
        return boxed(self.headline, body, TOLD if self.made else STOPS)


@dataclass(frozen=True, repr=False)
class ShownFile(Shown):
    """One exported file, to look at."""

    path: str
    content: File

    def __str__(self) -> str:
        return f"{self.path} – {self.content.about}\n{self.content.text.rstrip()}"

    def _repr_html_(self) -> str:
        return boxed(f"{self.path} – {self.content.about}", preformatted(self.content.text))


def _foldable(path: str, file: File) -> str:
    """A file on a page: its path and what it is; its text unfolds."""
    said = f"<code>{html.escape(path)}</code> – {html.escape(file.about)}"
    return f"<details style='margin:0.2em 0'><summary>{said}</summary>{preformatted(file.text)}</details>"


def digest(content: bytes) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def require_ours(target: Path) -> None:
    """Refuse a folder with anything in it that an export did not write, or that was changed since.

    Raises:
        WorkshopError: names what is there.
    """
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise WorkshopError(f"{target} is there and is no folder of files. Choose another folder.")
    found = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_symlink() or not file.is_dir()}
    written = _written(target)
    others = sorted(
        path
        for path in found - {NOTE}
        if path not in written or (target / path).is_symlink() or digest((target / path).read_bytes()) != written[path]
    )
    if others:
        more = f" and {counted(len(others) - 1, 'other')}" if len(others) > 1 else ""
        raise WorkshopError(
            f"{target} holds {others[0]}{more}, which no export wrote, or which was changed since. Choose another "
            "folder, or move it away first."
        )


def _written(target: Path) -> dict[str, str]:
    """What an export wrote into a folder, by path; nothing where none did."""
    try:
        noted = json.loads((target / NOTE).read_text())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _replace(making: Path, target: Path) -> None:
    """Put a folder in the place of another, which is removed once the new one is there."""
    if not target.exists():
        making.rename(target)
        return
    old = target.with_name(f".old-{target.name}~{os.getpid()}")
    target.rename(old)
    try:
        making.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
