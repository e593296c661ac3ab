"""Runs one stage: shows its command, its progress and its log, and at the end a card of what it made.

The work itself happens under :mod:`helpers.supervisor`, a process of its own. A closed browser tab does not stop it;
an interrupt or the kernel's death does. A stage whose artifact exists already, made from the same inputs with the same
options by the same releases, is not run again.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from helpers import processes, workspace
from helpers.errors import WorkshopError, in_one_line
from helpers.progress import Bar, Live, counting_bytes, in_notebook
from helpers.workspace import Artifact, Manifest

# Lines that tell why something failed stand out by these words; the rest of a log is noise to a learner.
_TELLING = ("error", "exception", "killed", "out of memory", "no space", "not found", "refused", "failed")
# What a run itself keeps (its log and state) needs about this much disk.
_LEAST_SPACE = 1_000_000
# Where in somebody's code it happened: a traceback's lines, and torchrun's for an error file that nobody asked for.
_PLACES = ('File "', "raise ", "error_file: <N/A>")
_UNDER_WAY = ("running", "waiting", "publishing")
_BETWEEN_STAGES = 3.0  # seconds
_only_news: ContextVar[bool] = ContextVar("only_news", default=False)
_looking: ContextVar["tuple[list[Seen], Offers] | None"] = ContextVar("looking", default=None)
_offers: ContextVar["Offers | None"] = ContextVar("offers", default=None)

Offers = Callable[[Path], Path | None]
"""Gives the folder where an intact copy of a target's artifact lies, such as one on a USB disk, or None."""


@dataclass(frozen=True)
class Stage:
    """One command that makes one artifact.

    Attributes:
        title: what it makes, for a person.
        kind: the artifact's kind.
        command: program and arguments; ``{out}`` stands for the directory to write into.
        target: where the artifact will be.
        options, inputs, maker, machine: see :class:`helpers.workspace.Manifest`.
        environment: variables added for the command.
        unset: variables taken away from it.
        expected: file patterns that must exist when the command ends well.
        space: bytes of disk that it needs.
        time_limit: seconds after which it is ended, or None.
    """

    title: str
    kind: str
    command: Sequence[str]
    target: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    maker: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    unset: Sequence[str] = ()
    expected: Sequence[str] = ()
    space: int = 0
    time_limit: float | None = None

    def manifest(self) -> Manifest:
        """The manifest of what this stage makes, before it is made.

        The command in it writes into a folder of the same name where it is pasted, not over the artifact.
        """
        shown = [part.replace("{out}", self.target.name) for part in self.command]
        return Manifest(
            kind=self.kind,
            title=self.title,
            options=dict(self.options),
            inputs=dict(self.inputs),
            maker=dict(self.maker),
            machine=dict(self.machine),
            command=shown,
        )


def existing(stage: Stage) -> Artifact | None:
    """The artifact this stage would make, if it is there, intact and up to date."""
    artifact = workspace.find_current(stage.target, stage.manifest())
    return replace(artifact, reused=True) if artifact else None


@dataclass(frozen=True)
class Seen:
    """A stage that was come upon while :func:`looking`.

    Attributes:
        stage: itself.
        artifact: what it would make, if that is in the workspace already.
        copy: the folder of an intact copy elsewhere, if the artifact is not in the workspace.
    """

    stage: Stage
    artifact: Artifact | None
    copy: Path | None = None


@contextlib.contextmanager
def looking(offers: Offers | None = None) -> Iterator[list[Seen]]:
    """Within this no stage runs and nothing is shown: each is noted in the list, with what there is of it.

    A stage that would have run gives a stand-in: an artifact whose folder does not exist, or is the copy's. What reads
    its files fails therefore, and a stage that starts from them counts as missing too, which is right: it would be made
    from other files than what is there.
    """
    seen: list[Seen] = []
    before = _looking.set((seen, offers or (lambda target: None)))
    try:
        yield seen
    finally:
        _looking.reset(before)


@contextlib.contextmanager
def taking_from(offers: Offers) -> Iterator[None]:
    """Within this, what would have to be made is copied from where it lies intact, if it is the very same thing.

    One within another: what was offered first is asked first.
    """
    outer = _offers.get()
    before = _offers.set((lambda target: outer(target) or offers(target)) if outer else offers)
    try:
        yield
    finally:
        _offers.reset(before)


@contextlib.contextmanager
def only_news() -> Iterator[None]:
    """Within this, a stage whose artifact exists shows nothing."""
    before = _only_news.set(True)
    try:
        yield
    finally:
        _only_news.reset(before)


def run(stage: Stage) -> Artifact:
    """Make the stage's artifact, or take the one that exists; show progress, then its card.

    Raises:
        WorkshopError: the command failed, was stopped, or the disk is too small. Nothing half-made is left.
        KeyboardInterrupt: the cell was interrupted; everything the stage started has ended.
    """
    if _looking.get() is not None:
        return _looked_at(stage)
    live = Live()
    artifact = existing(stage)
    if artifact is not None and _only_news.get():
        return artifact
    if artifact is None:
        artifact = _restored(stage)
    if artifact is None:
        workspace.require_space(stage.target, max(stage.space, _LEAST_SPACE))
        directory = _new_run(stage)
        state = _watch(stage, directory, live)
        artifact = _outcome(stage, directory, state)
    live.finish(artifact)
    return artifact


def ensure(stage: Stage) -> Artifact:
    """The same as :func:`run`, but silent where the artifact exists: for what a stage needs beforehand."""
    if _looking.get() is not None:
        return _looked_at(stage)
    return existing(stage) or run(stage)


def take(stage: Stage, artifact: Artifact, silent: bool = False) -> Artifact:
    """Accept what lies at a stage's target, though :func:`existing` would not: show its card as :func:`run` does."""
    noted = _looking.get()
    if noted is not None:
        noted[0].append(Seen(stage, artifact))
    elif not silent and not _only_news.get():
        Live().finish(artifact)
    return artifact


def _looked_at(stage: Stage) -> Artifact:
    """Note a stage, and give what there is of it or a stand-in."""
    noted = _looking.get()
    assert noted is not None
    seen, offers = noted
    wanted = stage.manifest()
    before = (one for one in seen if one.stage.target == stage.target and one.stage.manifest() == wanted)
    known = next(before, None)
    if known is None:
        artifact = existing(stage)
        known = Seen(stage, artifact, None if artifact else _same_elsewhere(stage, offers))
    seen.append(known)
    return known.artifact or Artifact(known.copy or stage.target, wanted)


def _same_elsewhere(stage: Stage, offers: Offers) -> Path | None:
    """Where a copy of the very artifact that a stage would make is offered."""
    copy = offers(stage.target)
    manifest = workspace.read_manifest(copy) if copy else None
    return copy if manifest and manifest.recipe() == stage.manifest().recipe() else None


def _restored(stage: Stage) -> Artifact | None:
    """The stage's artifact, copied from where it is offered; None if it is not, or if the copy is not whole.

    Raises:
        WorkshopError: the disk is too small for it, or the copying broke off.
    """
    offers = _offers.get()
    copy = _same_elsewhere(stage, offers) if offers else None
    if copy is None:
        return None
    offered = workspace.read_manifest(copy)
    assert offered is not None
    size = sum(count for count, _ in offered.files.values())
    workspace.require_space(stage.target, size + _LEAST_SPACE)
    with workspace.lock(stage.target):
        place = workspace.making_place(stage.target)
        try:
            with counting_bytes(f"{stage.title}: copy", size) as tell:
                workspace.copy_tree(copy, place, tell)
            if workspace.find_current(place, stage.manifest()) is None:
                return None
            workspace.publish(place, stage.target, offered)
        except OSError as error:
            raise WorkshopError(
                f"{stage.title}: copying it from {copy} broke off: {error.strerror or error}. Nothing half-made is "
                "left. See that the folder is there and can be read, then run this again."
            ) from None
        finally:
            shutil.rmtree(place, ignore_errors=True)
    artifact = existing(stage)
    return replace(artifact, reused=False, restored=True) if artifact else None


def run_directory(name: str) -> Path:
    """A new directory for the log of a run.

    Raises:
        WorkshopError: the workspace cannot be written.
    """
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{uuid.uuid4().hex[:6]}"
    directory = workspace.home() / "runs" / stamp
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise WorkshopError(
            f"The workspace {workspace.home()} cannot be written: {error.strerror}. "
            "Set WORKSHOP_HOME to a folder that can, and run this again."
        ) from None
    return directory


def _new_run(stage: Stage) -> Path:
    """A directory for the supervisor's spec, progress and log, with the spec in it."""
    directory = run_directory(stage.target.name)
    spec = {
        "title": stage.title,
        "command": list(stage.command),
        "target": str(stage.target),
        "environment": dict(stage.environment),
        "unset": list(stage.unset),
        "expected": list(stage.expected),
        "time_limit": stage.time_limit,
        "manifest": asdict(stage.manifest()),
    }
    (directory / "spec.json").write_text(json.dumps(spec, indent=1))
    return directory


def _watch(stage: Stage, directory: Path, live: Live) -> dict[str, Any]:
    """Start the supervisor, draw its progress until it ends, and return its last word."""
    with (directory / "supervisor.txt").open("wb") as own_log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "helpers.supervisor", str(directory)],
            stdin=subprocess.PIPE,
            stdout=own_log,
            stderr=own_log,
            cwd=workspace.REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(workspace.REPOSITORY)},
            start_new_session=True,
        )
    try:
        _draw(stage, directory, live, supervisor)
    except KeyboardInterrupt as interrupt:
        stopped = f"{stage.title}: stopped. Nothing half-made is left; run the cell again to make it."
        in_one_line(interrupt, stopped)
        live.finish(stopped)
        raise
    return read_state(directory)


def _draw(stage: Stage, directory: Path, live: Live, supervisor: "subprocess.Popen[bytes]") -> None:
    """Draw a run's progress until its supervisor has ended; where this is broken off, it ends too."""
    details = (
        ("command", workspace.shell_text(stage.manifest().command)),
        ("log", str(directory / "log.txt")),
    )
    try:
        started = time.monotonic()
        while True:
            state = read_state(directory)
            bar = Bar(
                stage.title,
                time.monotonic() - started,
                state.get("fraction"),
                state.get("text", ""),
                details,
            )
            live.show(bar)
            try:
                supervisor.wait(timeout=0.2)
                return
            except subprocess.TimeoutExpired:
                continue
    finally:
        if supervisor.stdin:
            supervisor.stdin.close()  # the supervisor reads end of file and ends everything it started
        supervisor.wait()


def read_state(directory: Path) -> dict[str, Any]:
    """The last thing a run told, or an empty dict before its first word."""
    try:
        state: dict[str, Any] = json.loads((directory / "progress.json").read_text())
        return state
    except (OSError, ValueError):
        return {}


def _outcome(stage: Stage, directory: Path, state: dict[str, Any]) -> Artifact:
    """The artifact that the run made; raises if it made none."""
    log = directory / "log.txt"
    if state.get("state") == "done":
        artifact = workspace.find(stage.target)
        if artifact:
            return replace(artifact, reused=bool(state.get("reused")), log=log)
    if state.get("state") in ("failed", "stopped"):
        why = state["text"]
    elif state.get("state") == "done":
        why = f"it was made, but what is now in {stage.target} is not whole; something changed it meanwhile"
    else:
        why = "its supervisor was killed, perhaps because the machine ran out of memory"
        if "group" in state:
            processes.end_group(state["group"])
        if "pid" in state:
            workspace.sweep(stage.target, state["pid"])
    files = [file for file in (log, directory / "supervisor.txt") if file.exists()]
    raise WorkshopError(
        f"{stage.title}: {why}. Nothing half-made is left.\n"
        + diagnosis("\n".join(file.read_text(errors="replace") for file in files), why)
        + f"The whole log: {log}\nMend the cause, then run it again."
    )


def diagnosis(log: str, why: str = "") -> str:
    """What a failed run's log tells, as whole lines: its telling ones, then cause and remedy where they are known."""
    from helpers.releases import faults

    known = faults.explain(f"{log}\n{why}")
    answer = f"Cause: {known.cause}\nRemedy: {known.remedy}\n" if known else ""
    return "".join(f"  | {line}\n" for line in telling_lines(log)) + answer


def telling_lines(log: str, most: int = 6) -> list[str]:
    """The last few lines of a log that say what went wrong; the very last lines if none stands out."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not line.startswith("$ ")]
    lines = [line for line in lines if not line.startswith(_PLACES)]
    outstanding = [line for line in lines if any(word in line.lower() for word in _TELLING)]
    return [line[:300] for line in (outstanding or lines)[-most:]]


def runs() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every run that the workspace remembers, oldest first, with its last word."""
    place = workspace.home() / "runs"
    for directory in sorted(place.iterdir()) if place.exists() else []:
        state = read_state(directory)
        if state:
            yield directory, state


def is_alive(state: Mapping[str, Any]) -> bool:
    """True if a run says it is under way and its supervisor still exists.

    The process must be working on this very run: after a pod was stopped and started, its number is another's.
    """
    import psutil

    if not said_under_way(state):
        return False
    try:
        return str(Path(state["log"]).parent) in psutil.Process(int(state["pid"])).cmdline()
    except psutil.Error:
        return False


def said_under_way(state: Mapping[str, Any]) -> bool:
    """True if a run's last word was that it is under way, whether its supervisor still exists or not."""
    return state.get("state") in _UNDER_WAY


def is_own(state: Mapping[str, Any]) -> bool:
    """True if this very process started a run's supervisor: in a notebook's kernel, a cell of that notebook."""
    import psutil

    try:
        return psutil.Process(int(state["pid"])).ppid() == os.getpid()
    except psutil.Error:
        return False


def end_own(patience: float = 5.0) -> list[str]:
    """End the stages that this process started and that are still under way; gives their titles.

    Whoever waits for such a stage is told that it failed; nothing half-made is left. Stages of others go on.
    """
    own = [(directory, state) for directory, state in runs() if is_alive(state) and is_own(state)]
    for _, state in own:
        if "group" in state:
            processes.end_group(state["group"])
    deadline = time.monotonic() + patience
    while any(is_alive(read_state(directory)) for directory, _ in own) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [str(state["title"]) for _, state in own]


def watch() -> None:
    """Follow every stage that is under way, whichever notebook started it, and those that come right after them.

    A cell of any notebook calls it, or ``python -m helpers watch`` in a terminal. To stop following ends no stage.
    """
    followed = _under_way()
    if not followed:
        print("No stage is under way.")
        return
    try:
        while followed:
            _follow(followed)
            followed = _soon_under_way()
    except KeyboardInterrupt:
        if not in_notebook():
            raise
        print("No longer followed. The stage goes on.")


def _under_way() -> list[Path]:
    return [directory for directory, state in runs() if is_alive(state)]


def _soon_under_way() -> list[Path]:
    """The stages that have come to be under way within :data:`_BETWEEN_STAGES`; a catch-up runs one after another."""
    until = time.monotonic() + _BETWEEN_STAGES
    while not (found := _under_way()) and time.monotonic() < until:
        time.sleep(0.3)
    return found


def _follow(followed: list[Path]) -> None:
    """Draw the progress of these runs until all have ended."""
    lives = {directory: Live() for directory in followed}
    while followed:
        for directory in list(followed):
            state, live = read_state(directory), lives[directory]
            live.show(Bar(state["title"], time.time() - state["started"], state.get("fraction"), state.get("text", "")))
            if not is_alive(state):
                followed.remove(directory)
                last = read_state(directory)["state"]  # told since, perhaps
                ending = "its supervisor was killed" if last in _UNDER_WAY else last
                live.finish(f"{state['title']}: {ending} · log {state['log']}")
        time.sleep(0.3)
