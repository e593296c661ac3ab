"""How a notebook opens and closes."""

import sys
from collections import Counter

from helpers import stage, workspace
from helpers.cards import Card, bytes_text, counted
from helpers.errors import WorkshopError
from helpers.teaching import journal, navigation, pacing
from helpers.teaching.cost import line as cost_line
from helpers.teaching.notebooks import Notebook, named


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
        "planned": navigation.length_text(this),
    }
    if lacking := _lacking(this):
        facts["of earlier notebooks"] = lacking
    if pacing.is_on():
        facts["pace"] = pacing.line(name).text
    return Card(f"Ready: {this.number} {this.title}", facts, links=navigation.around(name))


def _lacking(notebook: Notebook) -> str:
    """What of earlier notebooks is not here and how it is got, in words; empty where nothing is missing."""
    from helpers.teaching.catch_up import missing

    try:
        found = missing(notebook.name)
    except WorkshopError as problem:  # such as a bundle that is not mounted: the notebook itself works
        return str(problem)
    if not found.todo:
        return ""
    some = f"{len(found.todo)} of {counted(len(found.needs), 'thing')} missing"
    return f'{some}: make them first with teaching.catch_up("{notebook.number}"), {found.total}'


def finish(name: str) -> Card:
    """End what this notebook left running, and give the closing card: what there is now, and where to go next.

    Ended are the servers and deployments of this kernel, its stages under way, and what dead runs left on a GPU. A
    stage of another notebook goes on, and is named.
    """
    from helpers import hardware

    ended = _end_own()
    machine = hardware.look()
    under_way = [state["title"] for _, state in stage.runs() if stage.is_alive(state)]
    links = navigation.following(name)
    facts = {
        "you now have": _made_text(),
        "ended now": ", ".join(ended) or "nothing: this notebook had left nothing running",
        "holding GPU memory": hardware.holders(machine).note,
        "to free the rest": "Kernel, Shut Down Kernel frees what this notebook's own Python holds",
        "still running": f"{', '.join(under_way)} (of another notebook, left alone)" if under_way else "nothing",
    }
    if spent := cost_line():
        facts["pod's cost"] = spent
    if not links:
        facts["next"] = "this was the last notebook so far"
    return Card(f"End of {name}", facts, links=links)


def _end_own() -> list[str]:
    """End what this kernel started, and what dead runs left on a GPU; gives what was ended, in words."""
    from helpers import hardware

    ended = []
    # A module that was never imported has started nothing, and importing it here would take seconds.
    for name, what in (("helpers.deploy.deployment", "deployments"), ("helpers.serving.endpoint", "endpoints")):
        module = sys.modules.get(name)
        running = [one.title for one in getattr(module, what)()] if module else []
        if module and running:
            module.stop_all()
            ended += [f"{what[:-1]} {title}" for title in running]
    ended += stage.end_own()
    if hardware.look().gpus:
        freed = hardware.free_gpu(only_own=True)
        ended += [f"{row[1]} (process {row[0]})" for row in freed.rows if str(row[-1]).startswith("ended")]
    return ended


def _made_text() -> str:
    counts = Counter(artifact.manifest.kind for artifact in workspace.artifacts())
    endings = {kind: "es" if kind.endswith("ch") else "s" for kind in counts}
    return ", ".join(f"{n} {kind}{endings[kind] if n > 1 else ''}" for kind, n in counts.items()) or "nothing made yet"
