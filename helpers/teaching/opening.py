"""How a notebook opens and closes."""

from collections import Counter

from helpers import stage, workspace
from helpers.cards import Card, bytes_text
from helpers.teaching import journal
from helpers.teaching.notebooks import named, notebooks


def start(name: str) -> Card:
    """The opening card: this machine, its toolchain, where things are kept, and what is there already."""
    from helpers import hardware, releases, toolchains

    machine = hardware.look()
    toolchain = toolchains.best(machine)
    this = named(name)
    journal.listen(name, toolchain.name)
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


def _made_text() -> str:
    counts = Counter(artifact.manifest.kind for artifact in workspace.artifacts())
    endings = {kind: "es" if kind.endswith("ch") else "s" for kind in counts}
    return ", ".join(f"{n} {kind}{endings[kind] if n > 1 else ''}" for kind, n in counts.items()) or "nothing made yet"
