"""The machine that all doubles agree on: ``DOUBLE_MACHINE`` is a key of ``machines.toml``, or such a row as JSON.

``DOUBLE_FAULT`` names a failure, alone (``oom``) or with the program that shall have it (``build:oom``). Programs that
hold GPU memory note it in the folder ``DOUBLE_STATE``, where the fake driver reads who is still alive.
"""

import contextlib
import json
import os
import tomllib
from pathlib import Path

MACHINES = Path(__file__).parents[1] / "machines.toml"


def machine():
    """The row, or None without ``DOUBLE_MACHINE``: then there is no driver."""
    chosen = os.environ.get("DOUBLE_MACHINE", "")
    if not chosen:
        return None
    return json.loads(chosen) if chosen.startswith("{") else tomllib.loads(MACHINES.read_text())[chosen]


def gpus():
    """One entry for each device that a process can run on; a GPU that is split gives its slice."""
    row = machine()
    if row is None:
        return []
    gpu = dict(row["gpu"])
    if "slice" in gpu:
        gpu |= {"name": f"{gpu['name']} {gpu['slice']}", "memory": gpu["slice_memory"]}
    return [gpu] * row.get("count", 1)


def fault(program, name):
    """True if ``program`` (``build``, ``llm``, ``import``) shall fail in the way called ``name``."""
    return os.environ.get("DOUBLE_FAULT", "") in (name, f"{program}:{name}")


def _notes():
    place = os.environ.get("DOUBLE_STATE", "")
    return Path(place) / "holders" if place else None


def hold(size):
    """Note that this process holds ``size`` bytes of GPU memory until it ends."""
    notes = _notes()
    if notes:
        notes.mkdir(parents=True, exist_ok=True)
        (notes / str(os.getpid())).write_text(str(size))


def release():
    """Note that this process holds no GPU memory any more."""
    notes = _notes()
    if notes:
        (notes / str(os.getpid())).unlink(missing_ok=True)


def holders():
    """Process id to bytes of those that hold GPU memory; the memory of a process that has ended is free again."""
    notes = _notes()
    found = {}
    for note in sorted(notes.iterdir()) if notes and notes.is_dir() else ():
        pid = int(note.name)
        with contextlib.suppress(OSError, ValueError):
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found[pid] = int(note.read_text())
    return found
