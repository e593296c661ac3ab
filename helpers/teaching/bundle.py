"""One folder with what a room would otherwise download and make forty times: model, wheels, earlier results.

It lies on a shared volume or a disk that goes round. Everything in it is named in ``bundle.json`` with size and
SHA-256, and that file is written last, so half a bundle is never taken for a whole one. Logs, the journal, tokens and
this machine's own folders are not in it. A machine finds it through ``WORKSHOP_BUNDLE`` (notebook 00).
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from helpers import workspace
from helpers.cards import Table, bytes_text, counted
from helpers.errors import WorkshopError
from helpers.progress import Bar, Live, counting_bytes
from helpers.workspace import Artifact

LIST = "bundle.json"
HOME = "workspace"
WHEELS = "wheels"
VARIABLE = "WORKSHOP_BUNDLE"
WHEEL_BYTES = 600_000_000
"""What the wheels of ``requirements.txt`` took on Linux with Python 3.11, rounded up: 585 MB in 198 wheels."""

_FORMAT = 1
_REQUIREMENTS = workspace.REPOSITORY / "requirements.txt"
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
_ABSOLUTE = re.compile(r"(?<![\w:/.~])/(?:[\w.@~+-]+/)+")  # not the path in a web address
_MOST_ROWS = 4
_LEFT_OUT = "installation"  # of TensorRT-LLM: its environment names folders of the machine that it lies on


@dataclass(frozen=True)
class Contents:
    """What ``bundle.json`` says.

    Attributes:
        files: path in the bundle to ``[bytes, sha256]``.
        python, system: what the wheels are for, such as ``3.11`` and ``Linux x86_64``; empty without wheels.
        pins: digest of the requirements that the wheels satisfy.
        created: local time, ISO 8601.
        format: of this file.
    """

    files: dict[str, list[Any]] = field(default_factory=dict)
    python: str = ""
    system: str = ""
    pins: str = ""
    created: str = ""
    format: int = _FORMAT

    @property
    def bytes(self) -> int:
        """All files together."""
        return sum(size for size, _ in self.files.values())


# --- Taking from a bundle ---------------------------------------------------------------------------------------


def folder(given: str | Path | None = None) -> Path | None:
    """The bundle to take from: the one given, else ``WORKSHOP_BUNDLE``, else None.

    Raises:
        WorkshopError: that folder is not there, or holds no finished bundle.
    """
    named = str(given or os.environ.get(VARIABLE, ""))
    if not named:
        return None
    place = Path(named).expanduser()
    if not (place / LIST).is_file():
        what = "has no finished bundle in it" if place.is_dir() else "is not there"
        raise WorkshopError(
            f"The bundle {named} {what}. Mount the shared folder or pack it again (python -m helpers bundle FOLDER); "
            f"to go on without it: {'name no folder' if given else f'unset {VARIABLE}'}."
        )
    return place


def read(place: Path) -> Contents:
    """What a bundle holds.

    Raises:
        WorkshopError: it was not finished, or was packed by another release of the workshop.
    """
    try:
        found = Contents(**json.loads((place / LIST).read_text(encoding="utf-8")))
    except OSError:
        raise WorkshopError(f"{place} holds no finished bundle: it has no {LIST}. Pack it again.") from None
    except (ValueError, TypeError):
        found = Contents(format=0)
    if found.format != _FORMAT or not isinstance(found.files, dict):
        raise WorkshopError(f"{place / LIST} cannot be read by this release of the workshop. Pack the bundle again.")
    return found


def offers(target: Path, given: str | Path | None = None, digests: bool = True) -> Path | None:
    """The folder in the bundle that holds a workspace's artifact, every file checked; None if there is none.

    Args:
        target: where the artifact would be in the workspace.
        given: the bundle's folder; None for ``WORKSHOP_BUNDLE``.
        digests: False to compare sizes only, which is enough for who only looks: gigabytes are not read for it.

    Raises:
        WorkshopError: a file of it is damaged or missing, or there is no such bundle.
    """
    place = folder(given)
    if place is None or not target.is_relative_to(workspace.home()):
        return None
    within = f"{HOME}/{target.relative_to(workspace.home()).as_posix()}/"
    files = {name: about for name, about in read(place).files.items() if name.startswith(within)}
    if within + workspace.MANIFEST not in files:
        return None
    bad = _damaged(place, files, digests=digests)
    if bad:
        raise WorkshopError(
            f"The bundle's {bad[0]} is damaged or missing. Pack the bundle again, or go on without it: unset "
            f"{VARIABLE}."
        )
    return place / within


def check(place: Path) -> Table:
    """Every part of a bundle, read again and compared with its list.

    Raises:
        WorkshopError: there is no finished bundle.
    """
    contents = read(place)
    with counting_bytes("Check of the bundle", contents.bytes) as tell:
        bad = set(_damaged(place, contents.files, tell))
    rows = []
    for part, names in _parts(contents.files).items():
        wrong = [name for name in names if name in bad]
        size = sum(contents.files[name][0] for name in names)
        state = "damaged" if wrong and (place / wrong[0]).exists() else "missing"
        rows.append([part, len(names), bytes_text(size), f"✗ {state}: {wrong[0]}" if wrong else "✓ as packed"])
    says = f"{counted(len(bad), 'file')} damaged or missing: pack it again." if bad else "Every file is as packed."
    return Table(["part", "files", "size", "state"], rows, caption=f"Bundle of {contents.created}", note=says)


@cache
def _digest(file: Path, size: int, changed: int) -> str:
    """SHA-256 of a file; asked for twice, a file of gigabytes is read once."""
    return workspace.file_digest(file)


def _damaged(
    place: Path, files: Mapping[str, list[Any]], tell: Callable[[int], None] = lambda _: None, digests: bool = True
) -> list[str]:
    """The files that are not there as listed; without ``digests``, those that are missing or of another size."""
    bad = []
    for name, (size, sha256) in files.items():
        try:
            found = (place / name).stat()
            whole = found.st_size == size
            if whole and digests:
                whole = _digest(place / name, found.st_size, found.st_mtime_ns) == sha256
        except OSError:
            whole = False
        if not whole:
            bad.append(name)
        tell(size)
    return bad


def _parts(files: Iterable[str]) -> dict[str, list[str]]:
    """File names by what they belong to: wheels, or a kind of folder in the workspace."""
    parts: dict[str, list[str]] = {}
    for name in files:
        words = name.split("/")
        part = words[1] if words[0] == HOME else words[0] if len(words) > 1 else "about it"
        parts.setdefault(part, []).append(name)
    return parts


# --- Packing ----------------------------------------------------------------------------------------------------


def pack(place: str | Path, wheels: bool = True, models: Sequence[str] = ()) -> Table:
    """Pack models, wheels and what the workspace holds into a folder; what is there unchanged is not copied again.

    Args:
        place: the folder; made if need be.
        wheels: also what ``requirements.txt`` needs, for this Python and system, through pip as it is configured.
        models: names that :func:`helpers.models.find` takes; downloaded first where they are not in the workspace.

    Raises:
        WorkshopError: the disk is too small or cannot be written, a download failed, or an artifact of the workspace
            is damaged. What was packed before stays, but for what was just being replaced.
    """
    from helpers import models as known

    place = Path(place).expanduser().resolve()
    for name in models:
        known.find(name)
    try:
        return _pack(place, wheels)
    except OSError as error:
        raise WorkshopError(
            f"The bundle in {place} could not be packed: {error.strerror or error}. Choose a folder on a disk with "
            "room that you may write to, then run the command again: it goes on from what is there."
        ) from None


def _pack(place: Path, wheels: bool) -> Table:
    """The work of :func:`pack`, whose list comes last."""
    kept, rows = _sorted_out()
    if not (kept or rows or wheels):
        raise WorkshopError(
            f"There is nothing to pack: {workspace.home()} holds no model and nothing that was made. Run notebooks, or "
            "python -m helpers catch-up 08, or pack wheels."
        )
    _require_own(place)
    place.mkdir(parents=True, exist_ok=True)
    with workspace.lock(place / LIST):
        before = read(place) if (place / LIST).exists() else Contents()
        _require_space(place, kept, wheels and not _wheels_current(place, before))
        files, states = dict(before.files), []
        with counting_bytes("Bundle", sum(a.bytes for a in kept)) as tell:
            for artifact in kept:
                files, state = _packed(place, artifact, files, tell)
                states.append((artifact, state))
        after = replace(before, files=files, created=time.strftime("%Y-%m-%dT%H:%M:%S"))
        rows = [*_rows(states), *rows]
        if wheels:
            after, row = _with_wheels(place, after)
            rows.append(row)
        after = _with_words(place, after)
        _write_list(place, after)
    note = f"{bytes_text(after.bytes)} in {counted(len(after.files), 'file')}. Others use it with {VARIABLE} set to it."
    return Table(["what", "size", "state"], rows, caption=f"Bundle in {place}", note=note)


def _require_own(place: Path) -> None:
    """Refuse a folder whose files would be written over.

    Raises:
        WorkshopError: a README.md or a requirements.txt in it is somebody's own.
    """
    if (place / LIST).exists():
        return
    for name, begin in (("README.md", _README[:30]), ("requirements.txt", _REQUIREMENTS.read_text("utf-8")[:30])):
        file = place / name
        if file.exists() and not file.read_text("utf-8", errors="replace").startswith(begin):
            raise WorkshopError(
                f"{place} is no bundle and has a {name} of its own, which packing would replace. Name an empty folder."
            )


def _sorted_out() -> tuple[list[Artifact], list[list[str]]]:
    """What of the workspace goes into a bundle, and a row for each thing that does not."""
    from helpers import models

    # What is made of such a model, other revisions and changed weights too, has a name that begins with the model's.
    gated = tuple(row["repository"].replace("/", "--") for row in models.known().values() if row["gated"])
    kept, rows = [], []
    for artifact in workspace.artifacts():
        within = artifact.path.relative_to(workspace.home()).parts
        if artifact.manifest.kind == _LEFT_OUT or within[0] == "releases":
            rows.append([artifact.manifest.title, "–", "left out: it is tied to this machine's folders"])
        elif len(within) > 1 and within[1].startswith(gated):
            rows.append([artifact.manifest.title, "–", "left out: each learner accepts the model's licence themselves"])
        else:
            kept.append(artifact)
    return kept, rows


def _require_space(place: Path, kept: Sequence[Artifact], wheels: bool) -> None:
    """Refuse to begin on a disk that will fill up.

    Raises:
        WorkshopError: names what is needed and what is free.
    """
    new = sum(a.bytes for a in kept if workspace.find(_place_of(place, a)) is None)
    needed = new + (2 * WHEEL_BYTES if wheels else 0)  # the old wheels lie beside the new ones for a moment
    free = shutil.disk_usage(place).free
    if free < needed:
        raise WorkshopError(
            f"The bundle needs about {bytes_text(needed)} more, and {place} has {bytes_text(free)} free. Free some, or "
            "choose a folder on a larger disk."
        )


def _place_of(place: Path, artifact: Artifact) -> Path:
    return place / HOME / artifact.path.relative_to(workspace.home())


def _packed(
    place: Path, artifact: Artifact, files: dict[str, list[Any]], tell: Callable[[int], None]
) -> tuple[dict[str, list[Any]], str]:
    """Copy one artifact if it is not there already; the list with its files, and what was done."""
    target, made = _place_of(place, artifact), artifact.manifest
    there = workspace.find(target)
    if there and there.manifest.recipe() == made.recipe() and there.manifest.created == made.created:
        tell(artifact.bytes)
        state = "there already"
    else:
        bad = _damaged(artifact.path, made.files)
        if bad:
            raise WorkshopError(
                f"{artifact.path / bad[0]} is damaged or missing, so nothing of it was packed. Make it again (its "
                "stage does so by itself), then pack again."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        making = workspace.making_place(target)
        try:
            workspace.copy_tree(artifact.path, making, tell)
            _strike_out(place, target.relative_to(place).as_posix())
            workspace.publish(making, target, _without_places(made, making))
        finally:
            shutil.rmtree(making, ignore_errors=True)
        state = "packed"
    within = target.relative_to(place).as_posix()
    published = workspace.read_manifest(target)
    assert published is not None  # it was read or written a moment ago
    manifest = target / workspace.MANIFEST
    own = {f"{within}/{name}": about for name, about in published.files.items()}
    own[f"{within}/{workspace.MANIFEST}"] = [manifest.stat().st_size, workspace.file_digest(manifest)]
    return _without(files, within) | own, state


def _without(files: Mapping[str, list[Any]], within: str) -> dict[str, list[Any]]:
    """The files that do not lie in a folder of the bundle."""
    return {name: about for name, about in files.items() if not name.startswith(f"{within}/")}


def _strike_out(place: Path, within: str) -> None:
    """Take what is about to be replaced off the list that lies there: packing that is cut off leaves no wrong line."""
    if (place / LIST).exists():
        contents = read(place)
        left = _without(contents.files, within)
        if len(left) < len(contents.files):
            _write_list(place, replace(contents, files=left))


def _write_list(place: Path, contents: Contents) -> None:
    workspace.write_whole(place / LIST, json.dumps(asdict(contents), indent=1) + "\n")


def _rows(states: Sequence[tuple[Artifact, str]]) -> list[list[str]]:
    """A row for each artifact; one for all of a kind where there are many, such as a morning's benchmarks."""
    rows, together = [], Counter((artifact.manifest.kind, state) for artifact, state in states)
    for artifact, state in states:
        if together[artifact.manifest.kind, state] <= _MOST_ROWS:
            rows.append([artifact.manifest.title, bytes_text(artifact.bytes), state])
    for (kind, state), count in together.items():
        if count > _MOST_ROWS:
            size = sum(a.bytes for a, s in states if (a.manifest.kind, s) == (kind, state))
            rows.append([counted(count, kind), bytes_text(size), state])
    return rows


def _without_places(made: workspace.Manifest, copy: Path) -> workspace.Manifest:
    """A manifest whose command names no folder of this machine; a benchmark's result is written anew likewise."""
    result = copy / "result.json"
    if made.kind == "benchmark" and result.is_file():
        result.write_text(_anonymous(result.read_text(encoding="utf-8")), encoding="utf-8")
    return replace(made, command=[_anonymous(word) for word in made.command])


def _anonymous(text: str) -> str:
    for place, name in (
        (workspace.home(), "WORKSHOP_HOME"),
        (Path(sys.prefix), ".venv"),
        (workspace.REPOSITORY, "."),
        (Path.home(), "~"),
    ):
        if place != Path(place.anchor):  # a container's user may have / for a home
            text = text.replace(str(place), name)
    return _ABSOLUTE.sub(".../", text)


# --- Wheels -----------------------------------------------------------------------------------------------------


def _python() -> str:
    return ".".join(map(str, sys.version_info[:2]))


def _system() -> str:
    return f"{platform.system()} {platform.machine()}"


def _pins(requirements: Path) -> str:
    lines = (line.split("#")[0].strip() for line in requirements.read_text(encoding="utf-8").splitlines())
    return hashlib.sha256("\n".join(sorted(filter(None, lines))).encode()).hexdigest()


def _wheels_current(place: Path, contents: Contents) -> bool:
    """True if the wheels are those of today's requirements, for this Python and system, and all there."""
    wheels = {name: about for name, about in contents.files.items() if name.startswith(f"{WHEELS}/")}
    same = (contents.python, contents.system, contents.pins) == (_python(), _system(), _pins(_REQUIREMENTS))
    return bool(wheels) and same and not _damaged(place, wheels, digests=False)


def _with_wheels(place: Path, contents: Contents) -> tuple[Contents, list[str]]:
    """The wheels, downloaded if need be; the contents with them, and their row.

    Raises:
        WorkshopError: pip could not download one; the wheels that were there stay.
    """
    title = f"wheels for Python {_python()}, {_system()}"
    if _wheels_current(place, contents):
        size = sum(about[0] for name, about in contents.files.items() if name.startswith(f"{WHEELS}/"))
        return contents, [title, bytes_text(size), "there already"]
    with tempfile.TemporaryDirectory(prefix=".wheels-", dir=place) as aside:
        made = Path(aside) / WHEELS  # a folder of its own: the one around it is readable to nobody else
        made.mkdir()
        download_wheels(_REQUIREMENTS, made)
        listed = workspace.inventory(made)
        _strike_out(place, WHEELS)
        shutil.rmtree(place / WHEELS, ignore_errors=True)
        made.rename(place / WHEELS)
    files = _without(contents.files, WHEELS) | {f"{WHEELS}/{name}": about for name, about in listed.items()}
    size = sum(about[0] for about in listed.values())
    after = replace(contents, files=files, python=_python(), system=_system(), pins=_pins(_REQUIREMENTS))
    return after, [title, bytes_text(size), f"downloaded, {counted(len(listed), 'wheel')}"]


def download_wheels(requirements: Path, target: Path) -> None:
    """Download the wheels of a requirements file, and of what they need, through pip as it is configured.

    Torch comes first and alone, from PyTorch's CPU index where that can be reached, as in ``make setup``.

    Raises:
        WorkshopError: what pip said.
    """
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    download += ["--progress-bar", "off", "--only-binary", ":all:", "--dest", str(target)]
    torch = next((line.split()[0] for line in requirements.read_text().splitlines() if line.startswith("torch==")), "")
    if torch:
        alone = [*download, "--no-deps", torch]
        if _pip([*alone, "--index-url", _TORCH_INDEX, "--retries", "0", "--timeout", "5"], target):
            _require_done(_pip(alone, target))
    _require_done(_pip([*download, "--find-links", str(target), "-r", str(requirements)], target))


def _pip(command: Sequence[str], target: Path) -> str:
    """Run pip with a bar that shows what has arrived; its complaint, or an empty text if all went well."""
    live, began = Live(), time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL) as pip,
    ):
        try:
            while pip.poll() is None:
                arrived = sum(file.stat().st_size for file in target.iterdir())
                doing = f"{bytes_text(arrived)} in place"
                live.show(Bar("Download of the wheels", time.monotonic() - began, None, doing))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pip.wait(0.5)
        except BaseException:
            pip.terminate()
            raise
        said.seek(0)
        lines = [line.strip() for line in said if "ERROR" in line] or ["ERROR: pip ended without a word"]
        return lines[-1].removeprefix("ERROR: ") if pip.returncode else ""


def _require_done(complaint: str) -> None:
    if complaint:
        raise WorkshopError(
            f"The wheels could not be downloaded: {complaint} Check the network and how pip is configured, then run "
            "the command again."
        )


# --- Words ------------------------------------------------------------------------------------------------------

_README = """# A bundle of the TensorRT-LLM workshop

Packed {created}, {size} in {count}. It holds models, the Python packages of the notebooks, and what was built and
measured earlier, so that a room does not download the same gigabytes forty times. TensorRT-LLM's own environment for
GPUs is not in it: use NVIDIA's container image, or let notebook 02 install it.

Put this folder on a volume that everybody can read, or copy it to each machine. Below, FOLDER is where it is there.

In a clone of the workshop:

    make setup BUNDLE=FOLDER        # the Python packages, without a network{wheels}
    export WORKSHOP_BUNDLE=FOLDER   # models and earlier results are taken from here
    python -m helpers catch-up 05   # brings you to where notebook 05 begins
    python -m helpers bundle FOLDER --check   # reads every file again and compares it with bundle.json

Only the packages can also come over HTTP, in a network that you trust: in this folder, `python -m http.server 8000` on
one machine, and `make setup BUNDLE=http://ADDRESS:8000` on the others. Models and results need the folder itself, so
mount it.

An engine runs on machines of the same kind as the one that built it. Elsewhere it is not taken, and is built anew.
`bundle.json` lists every file with its size and SHA-256; it is written last, so a folder without it is not finished.
"""


def _with_words(place: Path, contents: Contents) -> Contents:
    """Write the README and the requirements into the bundle; the contents with both."""
    of = f"; for Python {contents.python}, {contents.system}" if contents.python else ": not in this bundle"
    count = counted(len(contents.files), "file")
    words = _README.format(created=contents.created, size=bytes_text(contents.bytes), count=count, wheels=of)
    workspace.write_whole(place / "README.md", words)
    workspace.write_whole(place / "requirements.txt", _REQUIREMENTS.read_text(encoding="utf-8"))
    own = {name: place / name for name in ("README.md", "requirements.txt")}
    listed = {name: [file.stat().st_size, workspace.file_digest(file)] for name, file in own.items()}
    return replace(contents, files=contents.files | listed)


# --- Command line -----------------------------------------------------------------------------------------------


def main(arguments: argparse.Namespace) -> int:
    """Pack or check; 0 if all is well."""
    if arguments.check:
        found = check(Path(arguments.folder).expanduser())
        print(found)
        return 1 if any(str(row[-1]).startswith("✗") for row in found.rows) else 0
    wanted = list(arguments.model)
    if arguments.gpu:
        from helpers import hardware
        from helpers.toolchains import tensorrt_llm

        hardware.by_key(arguments.gpu)
        wanted.append(tensorrt_llm.default_model)
    print(pack(arguments.folder, arguments.wheels, wanted))
    return 0
