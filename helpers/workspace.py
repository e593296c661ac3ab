"""Where everything the workshop makes is kept, and how it gets there: whole, or not at all.

``WORKSHOP_HOME`` holds models, checkpoints, engines, measurements and the logs of the stages that made them::

    models/  checkpoints/  unified/  graphs/  engines/  scores/  captures/  batches/  benchmarks/  runs/  digests/
    scratch/  huggingface/

An **artifact** is a directory with a ``manifest.json`` that says what made it, from what, when, how long it took
and how big each file is. It is made in a temporary directory beside its target and published by one rename
(notebook 03 shows a manifest).
"""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from helpers.cards import Card, ShownAsCard, bytes_text, seconds_text
from helpers.errors import WorkshopError

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY / "data"
MANIFEST = "manifest.json"

# Files together smaller than this are hashed whenever the artifact is opened; larger ones are checked by size.
_HASHED_ON_OPENING = 256 * 1024**2
# The digest of a file larger than this is remembered, since hashing it again would take seconds.
_REMEMBERED_ABOVE = 64 * 1024**2
_COPIED_AT_ONCE = 8 * 1024**2  # bytes
# A lock that was not refreshed for so long belongs to nobody: its pod was stopped or its process killed.
_LEASE_SECONDS = 20.0


def home() -> Path:
    """The workspace: ``$WORKSHOP_HOME``, else a pod's persistent mount, else a folder in the user's home.

    RunPod and most pod templates keep only ``/workspace`` when a pod is stopped.
    """
    chosen = os.environ.get("WORKSHOP_HOME")
    if chosen:
        return Path(chosen).expanduser().resolve()
    mount = Path("/workspace")
    if os.path.ismount(mount) and os.access(mount, os.W_OK):
        return mount / "trtllm-workshop"
    return Path.home() / "trtllm-workshop"


@dataclass(frozen=True)
class Manifest:
    """What an artifact is and how it came to be.

    Attributes:
        kind: ``model``, ``checkpoint``, ``unified checkpoint``, ``graph``, ``engine``, ``score``, ``capture``,
            ``batch``, ``benchmark``.
        title: one line for a person.
        options: what was asked for (precision, sizes); equal options and inputs need no second run.
        inputs: name to digest of everything it was made from.
        maker: programs and their versions, such as ``{"openvino": "2026.2.1"}``.
        machine: what it is tied to (engines only), from :func:`helpers.hardware.identity`.
        command: the command that made it.
        created: local time, ISO 8601.
        seconds: how long making it took.
        files: relative path to ``[bytes, sha256]``.
    """

    kind: str
    title: str
    options: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    maker: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    created: str = ""
    seconds: float = 0.0
    files: dict[str, list[Any]] = field(default_factory=dict)

    def recipe(self) -> dict[str, Any]:
        """Everything that decides whether an artifact is the one asked for, in the form that JSON gives it."""
        recipe = {
            "kind": self.kind,
            "options": self.options,
            "inputs": self.inputs,
            "maker": self.maker,
            "machine": self.machine,
        }
        return dict(json.loads(json.dumps(recipe)))  # a tuple comes back from a file as a list


@dataclass(frozen=True, repr=False)
class Artifact(ShownAsCard):
    """A published directory and its manifest; shows itself as a card."""

    path: Path
    manifest: Manifest
    reused: bool = False
    log: Path | None = None
    restored: bool = False

    @property
    def bytes(self) -> int:
        """Size of all its files, in bytes."""
        return sum(size for size, _ in self.manifest.files.values())

    def card(self) -> Card:
        """What was made, how big, how long, from what, and by which command."""
        made = self.manifest
        took = seconds_text(made.seconds)
        title = f"{made.title}: made earlier, nothing to do" if self.reused else f"{made.title}: done in {took}"
        if self.restored:
            title = f"{made.title}: restored from a copy"
        facts = {
            "where": str(self.path),
            "size": f"{bytes_text(self.bytes)} in {len(made.files)} files",
            "took": f"{took}, {made.created.replace('T', ' at ')}",
            "made from": ", ".join(f"{name} {digest}" for name, digest in made.inputs.items()),
            "made by": ", ".join(f"{name} {version}" for name, version in made.maker.items()),
            "command": shell_text(made.command),
        }
        if self.log:
            facts["log"] = str(self.log)
        return Card(title, facts)


def shell_text(command: list[str]) -> str:
    """A command as a person could paste it into a shell."""
    import shlex

    return shlex.join(command)


def file_digest(path: Path) -> str:
    """SHA-256 of one file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*paths: Path) -> str:
    """One short digest of files and folders: names and contents, in a fixed order.

    Large files are hashed once: the result is kept in the workspace under path, size and time of change.
    """
    whole = hashlib.sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        for file in files:
            name = file.name if path.is_file() else file.relative_to(path).as_posix()
            whole.update(f"{name}\0{_remembered_digest(file)}\n".encode())
    return whole.hexdigest()[:16]


def _remembered_digest(file: Path) -> str:
    """SHA-256 of a file; for a large one, remembered in the workspace."""
    stat = file.stat()
    if stat.st_size < _REMEMBERED_ABOVE:
        return file_digest(file)
    mark = hashlib.sha256(f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()
    note = home() / "digests" / mark
    if note.exists():
        return note.read_text()
    found = file_digest(file)
    with contextlib.suppress(OSError):  # a workspace that cannot be written only costs the time to hash again
        note.parent.mkdir(parents=True, exist_ok=True)
        write_whole(note, found)
    return found


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new, never half."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)


def find(path: Path) -> Artifact | None:
    """The artifact at ``path``, or None if there is none or if a file of it is missing, cut short or changed."""
    manifest = read_manifest(path)
    return Artifact(path, manifest) if manifest and _intact(path, manifest.files) else None


def find_current(path: Path, wanted: Manifest) -> Artifact | None:
    """The artifact at ``path`` if it is whole and is what ``wanted`` describes: same inputs, options and makers."""
    artifact = find(path)
    return artifact if artifact and artifact.manifest.recipe() == wanted.recipe() else None


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of the artifact at ``path``, or None if it has none that this release of the helpers can read."""
    try:
        return Manifest(**json.loads((path / MANIFEST).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _intact(path: Path, files: Mapping[str, list[Any]]) -> bool:
    """True if every file named in the manifest is there, as long as it was, and (if small) unchanged."""
    hashed = sum(size for size, _ in files.values()) < _HASHED_ON_OPENING
    try:
        for name, (size, sha256) in files.items():
            file = path / name
            if file.stat().st_size != size or (hashed and file_digest(file) != sha256):
                return False
    except OSError:  # missing, unreadable, or being replaced by another process at this moment
        return False
    return True


def inventory(path: Path) -> dict[str, list[Any]]:
    """Relative path to ``[bytes, sha256]`` of every file under ``path`` but the manifest."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and p != path / MANIFEST)
    return {p.relative_to(path).as_posix(): [p.stat().st_size, file_digest(p)] for p in files}


def copy_tree(source: Path, target: Path, tell: Callable[[int], None]) -> None:
    """Copy what is in a folder into another, and tell the bytes of each piece.

    Only names and contents are copied: what lies on a volume that is read-only has to be writable here.
    """
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as read_from, copy.open("wb") as write_to:
            while piece := read_from.read(_COPIED_AT_ONCE):
                write_to.write(piece)
                tell(len(piece))


def publish(made: Path, target: Path, manifest: Manifest) -> Artifact:
    """Write the manifest into ``made`` and move it to ``target`` by one rename.

    What was at ``target`` before (out of date or damaged) is removed. Call with :func:`lock` held.
    """
    created = manifest.created or time.strftime("%Y-%m-%dT%H:%M:%S")
    full = replace(manifest, created=created, files=inventory(made))
    (made / MANIFEST).write_text(json.dumps(asdict(full), indent=1) + "\n")
    if target.exists():
        old = _beside(target, "old", os.getpid())
        target.rename(old)
        made.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        made.rename(target)
    return Artifact(target, full)


def lock(target: Path) -> Any:
    """A lock on making ``target``, for ``with``; it works on network volumes and outlives no dead process.

    It is a lease: a file beside the target that its holder refreshes, so a pod that vanished blocks nobody for more
    than 20 s.
    """
    from filelock import SoftFileLease

    target.parent.mkdir(parents=True, exist_ok=True)
    return SoftFileLease(str(target.with_name(f".{target.name}.lock")), lease_duration=_LEASE_SECONDS)


def making_place(target: Path) -> Path:
    """An empty temporary directory beside ``target``; leftovers of dead runs on it are swept away.

    Call with :func:`lock` held.
    """
    for use in ("making", "old"):
        for leftover in target.parent.glob(f".{use}-{glob.escape(target.name)}~*"):
            shutil.rmtree(leftover, ignore_errors=True)
    place = _beside(target, "making", os.getpid())
    place.mkdir(parents=True)
    return place


def sweep(target: Path, maker: int) -> None:
    """Remove what the process numbered ``maker`` on this machine left half-made of ``target``; it must have ended."""
    shutil.rmtree(_beside(target, "making", maker), ignore_errors=True)


def _beside(target: Path, use: str, maker: int) -> Path:
    """A hidden directory beside ``target``. The ``~`` tells ``fp8`` from ``fp8-tp2``, which may be made meanwhile."""
    return target.with_name(f".{use}-{target.name}~{socket.gethostname()}~{maker}")


def require_space(path: Path, needed: int) -> None:
    """Refuse to start what the disk cannot hold.

    Raises:
        WorkshopError: fewer than ``needed`` bytes are free where ``path`` will be.
    """
    place = path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise WorkshopError(
            f"Not enough disk space in {place}: this needs about {bytes_text(needed)}, and {bytes_text(free)} is free. "
            "Delete something there, or set WORKSHOP_HOME to a larger disk and run this again."
        )


def require_memory(needed: int, what: str) -> None:
    """Refuse to start what the machine's memory cannot hold, instead of being killed half-way.

    Raises:
        WorkshopError: fewer than ``needed`` bytes are available.
    """
    import psutil

    available = psutil.virtual_memory().available
    if available < needed:
        raise WorkshopError(
            f"Not enough memory for {what}: about {bytes_text(needed)} is needed, {bytes_text(available)} is there. "
            "Shut down other notebooks' kernels, or choose a smaller model."
        )


def artifacts() -> list[Artifact]:
    """Everything that was published in the workspace, by kind and name; sizes are trusted, not checked again."""
    root = home()
    folders = [file.parent for depth in ("*/*/", "*/*/*/") for file in sorted(root.glob(depth + MANIFEST))]
    kept = [f for f in folders if f.relative_to(root).parts[0] != "scratch" and not f.name.startswith(".")]
    return [Artifact(folder, manifest) for folder in kept if (manifest := read_manifest(folder))]
