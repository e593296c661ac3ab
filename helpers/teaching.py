"""How a notebook opens and closes, and the plan over all of them.

Minutes and needs are read from the notebooks' own metadata, so that no table can drift from them.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from helpers import stage, workspace
from helpers.cards import Card, Table, bytes_text
from helpers.workspace import REPOSITORY, Artifact

NOTEBOOKS = REPOSITORY / "notebooks"


@dataclass(frozen=True)
class Notebook:
    """One notebook as its file describes it: name, title, planned minutes, and the notebooks it builds on."""

    name: str
    title: str
    minutes: int
    needs: tuple[str, ...]


def notebooks() -> list[Notebook]:
    """All numbered notebooks, in order."""
    return [_read(file) for file in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))]


def _read(file: Path) -> Notebook:
    content = json.loads(file.read_text())
    about = content["metadata"]["workshop"]
    heading = re.search(r"^# (.+)$", "".join(content["cells"][0]["source"]), re.MULTILINE)
    return Notebook(file.stem, heading[1] if heading else file.stem, about["minutes"], tuple(about["needs"]))


def time_plan() -> Table:
    """Every notebook with its planned minutes and the time at which it starts, counted from the first."""
    rows, passed = [], 0
    for notebook in notebooks():
        rows.append([notebook.name, notebook.title, notebook.minutes, passed])
        passed += notebook.minutes
    note = f"{passed} minutes in all, at the pace of someone who reads every line."
    return Table(["notebook", "title", "minutes", "starts at minute"], rows, caption="Time plan", note=note)


def start(name: str) -> Card:
    """The opening card: this machine, its toolchain, where things are kept, and what is there already."""
    from helpers import hardware, releases, toolchains

    machine = hardware.look()
    toolchain = toolchains.best(machine)
    this = next(n for n in notebooks() if n.name == name)
    gpus = ", ".join(gpu.name for gpu in machine.gpus) or "no NVIDIA GPU"
    why = ""
    if toolchain.name in toolchains.ON_GPU:
        installed = releases.current(machine)
        why = f", release {installed.version}" if installed else ": not installed yet, notebook 02 does it"
    elif machine.gpus:
        fits = releases.choose_here(machine)
        why = f". {fits.why}" if fits.release is None else ", as WORKSHOP_TOOLCHAIN asks"
    facts = {
        "machine": f"{machine.cpu.model}, {machine.cpu.cores} cores, {bytes_text(machine.memory_bytes)}; {gpus}",
        "toolchain": toolchain.title + why,
        "workspace": f"{workspace.home()} ({_made_text()})",
        "planned": f"{this.minutes} minutes",
    }
    return Card(f"Ready: {this.title}", facts)


def finish(name: str) -> Card:
    """The closing card: what you now have, what holds GPU memory and how to free it, and where to go next."""
    from helpers import hardware

    machine = hardware.look()
    under_way = [state["title"] for _, state in stage.runs() if stage.is_alive(state)]
    later = [n for n in notebooks() if n.name > name]
    facts = {
        "you now have": _made_text(),
        "holding GPU memory": hardware.holders(machine).note,
        "to free it": "hardware.free_gpu() ends what the workshop started; Kernel, Shut Down Kernel ends this notebook",
        "still running": ", ".join(under_way) or "nothing",
        "next": f"{later[0].name}.ipynb: {later[0].title}" if later else "this was the last notebook so far",
    }
    return Card(f"End of {name}", facts)


def artifacts() -> list[Artifact]:
    """Everything that was published in the workspace, by kind and name; sizes are trusted, not checked again."""
    home = workspace.home()
    folders = [file.parent for depth in ("*/*/", "*/*/*/") for file in sorted(home.glob(depth + workspace.MANIFEST))]
    kept = [f for f in folders if f.relative_to(home).parts[0] != "scratch" and not f.name.startswith(".")]
    return [Artifact(folder, manifest) for folder in kept if (manifest := workspace.read_manifest(folder))]


def _made_text() -> str:
    counts = Counter(artifact.manifest.kind for artifact in artifacts())
    endings = {kind: "es" if kind.endswith("ch") else "s" for kind in counts}
    return ", ".join(f"{n} {kind}{endings[kind] if n > 1 else ''}" for kind, n in counts.items()) or "nothing made yet"
