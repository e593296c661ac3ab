"""What was run in the notebooks on this machine: each cell, when, for how long, and whether it ended well.

Kept in the workspace, one file a notebook, so that the progress board (notebook 00) and the rehearsal know it after a
pod was stopped and started again. A line holds a cell's id and times, never its source or its output.
"""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helpers import workspace
from helpers.teaching.notebooks import Notebook, named

FOLDER = "journal"


@dataclass(frozen=True)
class Entry:
    """One cell that was run.

    Attributes:
        cell: its id in the notebook.
        began: seconds since the epoch.
        seconds: how long it ran.
        ok: False if it raised; a cell that shows a mistake on purpose counts as ended well.
        toolchain: name of the toolchain that was the machine's best.
    """

    cell: str
    began: float
    seconds: float
    ok: bool
    toolchain: str


def file_of(name: str) -> Path:
    """Where a notebook's entries are kept."""
    return workspace.home() / FOLDER / f"{name}.jsonl"


def entries(name: str) -> list[Entry]:
    """All entries of a notebook, oldest first; a line that a stopped machine left unfinished is passed over."""
    try:
        lines = file_of(name).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):
            found.append(Entry(**json.loads(line)))
    return found


def last_run(name: str) -> dict[str, Entry]:
    """Cell id to its latest entry."""
    return {entry.cell: entry for entry in entries(name)}


def write(name: str, entry: Entry) -> None:
    """Add an entry; a workspace that cannot be written loses it, which is no reason to stop a lesson."""
    with contextlib.suppress(OSError):
        file = file_of(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as out:
            # The break comes first: after a line that a stopped machine left unfinished, this one stands alone.
            out.write("\n" + json.dumps(asdict(entry)))


class Recorder:
    """Listens to a notebook's kernel and writes an entry for each of the notebook's cells that is run.

    A cell is recognized by its source: what a learner changed or added is no cell of the notebook, and is not noted.
    """

    def __init__(self, notebook: Notebook, toolchain: str) -> None:
        self.notebook, self.toolchain = notebook, toolchain
        self._ids = {cell.source.strip(): cell for cell in notebook.cells if cell.kind == "code"}
        self._began = time.time()

    def began(self, _: Any = None) -> None:
        """A cell begins."""
        self._began = time.time()

    def ended(self, result: Any) -> None:
        """A cell has ended: IPython hands its result over."""
        cell = self._ids.get(result.info.raw_cell.strip()) if result.info else None
        if cell is not None:
            ok = bool(result.success) or "raises-exception" in cell.tags
            write(self.notebook.name, Entry(cell.id, self._began, time.time() - self._began, ok, self.toolchain))


_listening: list[tuple[str, Callable[..., None]]] = []


def listen(name: str, toolchain: str) -> bool:
    """Note from now on what is run in this kernel; False where there is no kernel. One notebook at a time."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return False
    while _listening:
        shell.events.unregister(*_listening.pop())
    recorder = Recorder(named(name), toolchain)
    for event, act in (("pre_run_cell", recorder.began), ("post_run_cell", recorder.ended)):
        shell.events.register(event, act)
        _listening.append((event, act))
    return True
