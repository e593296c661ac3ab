"""The evening before a workshop: what will be downloaded, how long it takes, what to make beforehand, what fails.

Times are measured on this machine (its journal), recorded on a machine that is named, or taken from a source that is
named; where there is none it says so. A CPU's times are never given as a GPU's.
"""

import argparse
import html
import json
import os
import platform
import textwrap
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import workspace
from helpers.cards import Shown, Table, bytes_text, counted, seconds_text
from helpers.errors import WorkshopError
from helpers.teaching import bundle, journal, makes
from helpers.teaching.cost import STOP, VARIABLE, as_price, cost
from helpers.teaching.notebooks import (
    Cell,
    Notebook,
    heading_above,
    notebooks,
    shortened,
    telling_line,
    with_two_digits,
)
from helpers.workspace import DATA

if TYPE_CHECKING:
    from helpers.hardware import Datasheet
    from helpers.hardware.machine import Machine

CELL_TIMES = DATA / "measured" / "cell-times"
PLAYBOOK = DATA / "playbook.toml"
SLOW_SECONDS = 30.0
"""A cell this slow is worth running before the room comes."""

NONE = "no evidence"
_CPU = "openvino"
_SLOWEST = 3
_LEAST_SHOWN = 5.0
_WIDE = 110
_LONG_EVIDENCE = 45


@dataclass(frozen=True)
class CellTimes:
    """What the notebooks' cells took on one machine; a file of ``data/measured/cell-times``.

    Attributes:
        machine: what it is.
        toolchain: that it used, such as ``openvino``.
        date: ISO 8601.
        seconds: notebook to cell id to seconds.
        label: where it comes from, in words: ``measured: this machine`` or ``recorded: …``.
    """

    machine: str
    toolchain: str
    date: str
    seconds: dict[str, dict[str, float]]
    label: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the playbook: what is seen, what to say, what to do, and where that comes from."""

    symptom: str
    say: str
    do: str
    source: str


@dataclass(frozen=True)
class _Taken:
    """What a notebook took: its cells together, and each, slowest first; ``share`` of its code cells is known.

    ``label`` tells where that comes from, ``known`` of how many cells, if not of all.
    """

    notebook: Notebook
    seconds: float
    cells: tuple[tuple[Cell, float], ...]
    share: float
    label: str
    known: str = ""


@dataclass(frozen=True, repr=False)
class Rehearsal(Shown):
    """Everything to know the evening before, for one GPU or for this machine.

    Attributes:
        machine: this one.
        sheet: of the GPU that is rehearsed for; None for this machine's CPU.
        chosen: the notebooks.
        price: of a pod an hour, or None.
    """

    machine: "Machine"
    sheet: "Datasheet | None"
    chosen: tuple[Notebook, ...]
    price: float | None = None

    @cached_property
    def parts(self) -> "tuple[Table | Playbook, ...]":
        """The tables, in the order to read them."""
        return (
            self.downloads(),
            self.times(),
            self.slowest(),
            self.beforehand(),
            *([self.on_the_gpu()] if self.sheet else []),
            *([self.pods()] if self.sheet or self.price is not None else []),
            self.room(),
            self.checks(),
            playbook(),
        )

    def __str__(self) -> str:
        return "\n\n".join([self.title, *map(_in_a_terminal, self.parts)])

    def _repr_html_(self) -> str:
        return f"<h3>{html.escape(self.title)}</h3>" + "".join(part._repr_html_() for part in self.parts)

    @property
    def title(self) -> str:
        """What it is for."""
        where = self.sheet.name if self.sheet else f"this machine's CPU ({self.machine.cpu.model})"
        return f"Rehearsal for {where}: {counted(len(self.chosen), 'notebook')}"

    @cached_property
    def has_gpu(self) -> bool:
        """True if this machine has the GPU that is rehearsed for."""
        from helpers import hardware

        sheets = (hardware.datasheet(gpu.name) for gpu in self.machine.gpus)
        return self.sheet is not None and any(sheet is not None and sheet.key == self.sheet.key for sheet in sheets)

    def downloads(self) -> Table:
        """What has to come over the network, and what is there."""
        rows = [_packages_row(), self._model_row()]
        if self.sheet:
            rows.append(self._release_row(self.sheet))
        ready = sum(str(row[2]).startswith("✓") for row in rows)
        left = len(rows) - ready
        note = "Nothing is left to download." if not left else f"{counted(left, 'download')} to do, for each learner."
        if left:
            option = f"--gpu {self.sheet.key} " if self.sheet else ""
            note += f" A bundle spares the room models and packages: python -m helpers bundle {option}FOLDER, then "
            note += f"{bundle.VARIABLE}=FOLDER."
        return Table(["what", "size", "state", "evidence of the size"], rows, "Downloads", note)

    def _model_row(self) -> list[str]:
        from helpers import models
        from helpers.toolchains import tensorrt_llm

        if not self.sheet:
            size = models.find().bytes
            return ["bundled model", bytes_text(size), "✓ part of the repository", "measured: its weights"]
        name = tensorrt_llm.default_model
        row = models.known()[name]
        target = workspace.home() / "models" / row["repository"].replace("/", "--")
        target /= models.revision_folder(row["revision"])
        state = "✗ to download"
        if workspace.find(target):
            state = "✓ in this workspace"
        elif os.environ.get(bundle.VARIABLE) and bundle.offers(target, digests=False):
            state = "✓ in the bundle"
        return [name, bytes_text(row["weights_bytes"]), state, "published: data/models.toml, weights at its revision"]

    def _release_row(self, sheet: "Datasheet") -> list[str]:
        from helpers import releases
        from helpers.hardware.preflight import ENVIRONMENT_BYTES

        fitting = [one for one in releases.offered() if one.kernels(sheet.compute_capability)]
        if not fitting:
            raise WorkshopError(
                f"No release that the workshop offers has kernels for {sheet.name}. Leave --gpu out for the CPU, or "
                "choose a GPU that has some (python -m helpers plan --gpu NAME tells)."
            )
        installed = releases.current(self.machine) if self.has_gpu else None
        name = f"TensorRT-LLM {(installed.version if installed else fitting[0].version)} environment"
        state = "✓ installed" if installed else "✗ to install (notebook 02)"
        return [name, f"~{bytes_text(ENVIRONMENT_BYTES)} on disk", state, "predicted: an estimate of what it takes"]

    @cached_property
    def _taken(self) -> dict[str, _Taken]:
        """Notebook to what it took: here, else on a recorded machine of the same kind."""
        sources = [here(self._toolchain), *(one for one in recorded() if self._is_like(one))]
        found = {}
        for notebook in self.chosen:
            taken = (_taken(notebook, source) for source in sources if notebook.name in source.seconds)
            # The first that knows half of its cells: this machine's own, if it does.
            best = max(taken, key=lambda one: min(one.share, 0.5), default=None)
            if best is not None:
                found[notebook.name] = best
        return found

    @property
    def _toolchain(self) -> Callable[[str], bool]:
        """Which toolchains' times count: the CPU's for the CPU; a GPU's only on a machine that has that GPU."""
        if self.sheet is None:
            return lambda name: name == _CPU
        return lambda name: self.has_gpu and name != _CPU

    def _is_like(self, one: CellTimes) -> bool:
        if self.sheet is None:
            return one.toolchain == _CPU
        from helpers import hardware

        sheet = hardware.datasheet(one.machine.split(" (")[0])
        return one.toolchain != _CPU and sheet is not None and sheet.key == self.sheet.key

    def times(self) -> Table:
        """Each notebook's planned minutes, and what its cells took."""
        rows, known = [], 0.0
        for notebook in self.chosen:
            taken = self._taken.get(notebook.name)
            known += taken.seconds if taken else 0
            shown = seconds_text(taken.seconds) if taken else "–"
            of = taken.known if taken else ""
            rows.append([_called(notebook), notebook.minutes, shown, of, taken.label if taken else NONE])
        lacking = sum(row[-1] == NONE for row in rows)
        planned = sum(notebook.minutes for notebook in self.chosen)
        note = (
            f"{planned} minutes are planned. The cells alone: {seconds_text(known)}"
            if known
            else (f"{planned} minutes are planned. How long the cells take is known of none of them")
        )
        note += f"; of {counted(lacking, 'notebook')} nothing is known." if known and lacking else "."
        if lacking and self.sheet:
            note += f" Run them once on {self.sheet.name}: the journal remembers, and this table fills."
        columns = ["notebook", "planned minutes", "cells took", "of cells", "evidence"]
        return _with_legend(Table(columns, rows, "Times", note, ("notebook",)))

    def slowest(self) -> Table:
        """The cells that make a room wait."""
        rows = [
            [notebook.number, _name(notebook, cell), seconds_text(seconds), label]
            for notebook, cell, seconds, label in self._cells(_LEAST_SHOWN, _SLOWEST)
        ]
        least = seconds_text(_LEAST_SHOWN)
        note = f"At most {_SLOWEST} a notebook, of {least} or more."
        if not rows:
            note = (
                f"No cell is known to take {least} or more."
                if self._taken
                else "No cell's time is known: " + NONE + "."
            )
        columns = ["notebook", "cell: its section, and its last call", "took", "evidence"]
        return _with_legend(Table(columns, rows, "Slowest cells", note), 0)

    def _cells(self, least: float, most: int | None = None) -> list[tuple[Notebook, Cell, float, str]]:
        return [
            (taken.notebook, cell, seconds, taken.label)
            for taken in self._taken.values()
            for cell, seconds in taken.cells[:most]
            if seconds >= least
        ]

    def beforehand(self) -> Table:
        """What to make before the room comes, and the command that does it."""
        rows = []
        for taken in self._taken.values():
            stages = [seconds for cell, seconds in taken.cells if "stage" in cell.tags]
            slow = [seconds for seconds in stages if seconds >= SLOW_SECONDS]
            if slow and makes.makes_anything(taken.notebook.number):
                command = f'make workshop ONLY="{taken.notebook.number}"'
                rows.append([_called(taken.notebook), counted(len(slow), "cell"), seconds_text(sum(slow)), command])
        limit = seconds_text(SLOW_SECONDS)
        note = (
            f"Stages of {limit} or more. A stage that was made is not made again, so these wait no longer; cells that "
            "measure do it anew, and are not here. Only what a later notebook needs: python -m helpers catch-up NN."
            if rows
            else f"No stage is known to take {limit} or more. Whatever a notebook needs: python -m helpers catch-up NN."
        )
        return Table(["notebook", "slow", "together", "beforehand"], rows, "Make beforehand", note, ("beforehand",))

    def on_the_gpu(self) -> Table:
        """What the stages take on the GPU, each with its evidence."""
        assert self.sheet is not None
        return _stages_on(self.sheet)

    def pods(self) -> Table:
        """What the planned minutes cost on a pod."""
        minutes = sum(notebook.minutes for notebook in self.chosen)
        if self.price is None:
            return Table(["what", "cost"], [], "Cost", f"No price: give --price, or set {VARIABLE}.")
        one = self.price * minutes / 60
        rows = [["one learner", f"{one:.2f}"], ["forty learners", f"{40 * one:.2f}"]]
        note = f"predicted: {minutes} planned minutes at {self.price:g} an hour, as given. {STOP}"
        return Table(["for", "cost"], rows, "Cost", note)

    def room(self) -> Table:
        """Disk and memory: needed against there."""
        disk = bytes_text(self.machine.disk_free_bytes) + " free"
        if self.sheet is None:
            from helpers.hardware.preflight import CPU_DISK_BYTES, CPU_MEMORY_BYTES

            made = f"measured: this workspace holds {bytes_text(sum(one.bytes for one in workspace.artifacts()))}"
            memory = bytes_text(self.machine.memory_bytes)
            rows = [
                ["disk", f"{bytes_text(CPU_DISK_BYTES)} is comfortable", disk, made],
                ["memory", f"{bytes_text(CPU_MEMORY_BYTES)} is comfortable", memory, "what the checks ask for"],
            ]
            return Table(["what", "needed", "here", "evidence"], rows, "Disk and memory")
        return _room_on(self.sheet, disk if self.has_gpu else "not this machine")

    def checks(self) -> Table:
        """The checks of this machine."""
        from helpers import hardware

        made = hardware.checks(self.machine)
        other = self.sheet is not None and not self.has_gpu
        note = (
            f"This machine has no {self.sheet.name}: run the rehearsal on the pod too." if other and self.sheet else ""
        )
        return replace(made, caption="Checks of this machine", note=" ".join(filter(None, [made.note, note])))

    def page(self) -> str:
        """The playbook as one HTML page for paper, with the notebooks' times."""
        return _PAGE.format(title=html.escape(self.title), times=_list(self._taken), rows=_rows_html(playbook_rows()))


def rehearse(
    gpu: str | None = None, only: Sequence[str] | None = None, price_per_hour: float | None = None
) -> Rehearsal:
    """What an instructor wants to know the evening before; nothing is made, downloaded or installed.

    Args:
        gpu: a key of ``data/gpus.toml`` such as ``rtx-4090``; None for this machine: its GPU if it is in that table,
            else its CPU.
        only: numbers or names of notebooks; None for all.
        price_per_hour: of a pod; None for ``WORKSHOP_PRICE_PER_HOUR``, or the one given earlier.

    Raises:
        WorkshopError: there is no such GPU or notebook, or no release for it.
    """
    from helpers import hardware, toolchains

    machine = hardware.look()
    sheet = hardware.by_key(gpu) if gpu else None
    if gpu is None and toolchains.best(machine).name in toolchains.ON_GPU:
        supported = hardware.supported_gpu(machine)
        sheet = hardware.datasheet(supported.name) if supported else None
    price = cost().price_per_hour if price_per_hour is None else as_price(price_per_hour, "The price")
    return Rehearsal(machine, sheet, _chosen(only), price)


def _chosen(only: Sequence[str] | None) -> tuple[Notebook, ...]:
    every = notebooks()
    wanted = [with_two_digits(word) for word in only] if only else [notebook.name for notebook in every]
    unknown = [word for word in wanted if not any(word in (n.name, n.number) for n in every)]
    if unknown:
        raise WorkshopError(
            f"There is no notebook {unknown[0]!r}. There are {', '.join(n.number for n in every)}: name some of these."
        )
    return tuple(n for n in every if n.name in wanted or n.number in wanted)


# --- Evidence -----------------------------------------------------------------------------


def recorded() -> list[CellTimes]:
    """What was recorded on other machines, by file name."""
    found = []
    for file in sorted(CELL_TIMES.glob("*.json")):
        row = json.loads(file.read_text(encoding="utf-8"))
        label = f"recorded: {row['machine']}, {row['date']}"
        found.append(CellTimes(row["machine"], row["toolchain"], row["date"], row["seconds"], label))
    return found


def here(counts: Callable[[str], bool] = lambda _: True) -> CellTimes:
    """What the journal of this workspace knows, of the toolchains that count: the slowest run of each cell.

    The latest would be of a stage that was made by then, and a room has to make it.
    """
    seconds: dict[str, dict[str, float]] = {}
    for notebook in notebooks():
        kept: dict[str, float] = {}
        for entry in journal.entries(notebook.name):
            if entry.ok and counts(entry.toolchain):
                kept[entry.cell] = max(entry.seconds, kept.get(entry.cell, 0.0))
        if kept:
            seconds[notebook.name] = kept
    return CellTimes("this machine", "", "", seconds, "measured: slowest run on this machine")


def record(file: Path, about: str) -> CellTimes:
    """Write the times of this workspace's journal to a file, for machines that have none yet.

    Args:
        file: usually in ``data/measured/cell-times``.
        about: what else a reader must know of the machine, such as whether it was idle.

    Raises:
        WorkshopError: nothing was run in this workspace.
    """
    from helpers import hardware, toolchains

    machine = hardware.look()
    toolchain = toolchains.best(machine).name
    found = here(lambda name: name == toolchain)
    if not found.seconds:
        raise WorkshopError("Nothing was run in this workspace yet: run the notebooks first (make workshop).")
    gpus = ", ".join(gpu.name for gpu in machine.gpus)
    name = gpus or f"{machine.cpu.model}, {counted(machine.cpu.cores, 'core')}"
    seconds = {book: {cell: round(s, 2) for cell, s in cells.items()} for book, cells in found.seconds.items()}
    date = time.strftime("%Y-%m-%d")
    content = {
        "machine": name + (f" ({about})" if about else ""),
        "toolchain": toolchain,
        "date": date,
        "python": platform.python_version(),
        "seconds": seconds,
    }
    _write(file, json.dumps(content, indent=1) + "\n")
    return CellTimes(name, toolchain, date, seconds)


def _write(file: Path, text: str) -> None:
    """Write a file that was named on the command line.

    Raises:
        WorkshopError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        workspace.write_whole(file, text)
    except OSError as error:
        raise WorkshopError(
            f"{file} cannot be written: {error.strerror or error}. Name a file in a folder of yours."
        ) from None


def _taken(notebook: Notebook, source: CellTimes) -> _Taken:
    seconds = source.seconds[notebook.name]
    code = [cell for cell in notebook.cells if cell.kind == "code"]
    cells = sorted(((c, seconds[c.id]) for c in code if c.id in seconds), key=lambda pair: -pair[1])
    known = "all" if len(cells) == len(code) else f"{len(cells)} of {len(code)}"
    return _Taken(notebook, sum(s for _, s in cells), tuple(cells), len(cells) / max(len(code), 1), source.label, known)


def _called(notebook: Notebook) -> str:
    """Title and number; not the number first, which a table would align as one."""
    return f"{notebook.title} ({notebook.number})"


def _name(notebook: Notebook, cell: Cell) -> str:
    """One cell as a person finds it: the heading above it, and the line that tells what it does."""
    return f"{shortened(heading_above(notebook, cell), 28)}: {shortened(telling_line(cell.source), 44)}"


def _with_legend(table: Table, most: int = _LONG_EVIDENCE) -> Table:
    """The table with evidence of more than so many characters, its last column, told once below it."""
    numbers: dict[str, str] = {}
    rows = []
    for row in table.rows:
        evidence = str(row[-1])
        if len(evidence) > most:
            evidence = numbers.setdefault(evidence, f"[{len(numbers) + 1}]")
        rows.append([*row[:-1], evidence])
    legend = " ".join(f"{number} {evidence}." for evidence, number in numbers.items())
    return replace(table, rows=rows, note=f"{table.note} {legend}".strip())


def _in_a_terminal(part: "Table | Playbook") -> str:
    """A part whose lines fit a terminal: the last column and the note are wrapped."""
    if not isinstance(part, Table):
        return str(part)
    whole = str(replace(part, note="")).splitlines()
    lines = []
    for line, row in zip(whole[-len(part.rows) :] if part.rows else [], part.rows, strict=True):
        before = len(line) - len(str(row[-1])) if line.endswith(str(row[-1])) else 0
        wraps = len(line) > _WIDE > before + 20
        lines += textwrap.wrap(line, _WIDE, subsequent_indent=" " * before) if wraps else [line]
    head = whole[: len(whole) - len(part.rows)]
    width = max([_WIDE, *map(len, lines)])
    ruled = [line[:width] if set(line) <= {"-", " "} else line for line in head]
    note = [textwrap.fill(part.note, _WIDE)] if part.note else []
    return "\n".join([*ruled, *lines, *note])


def _packages_row() -> list[str]:
    """The notebooks' own packages: how many of those pinned are installed."""
    requirements = (workspace.REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    pins = [
        line.split()[0].split("[")[0].split("==")[0] for line in requirements.splitlines() if "==" in line.split("#")[0]
    ]
    missing = [name for name in pins if not _is_installed(name)]
    state = (
        f"✗ {len(missing)} of {len(pins)} missing: make setup"
        if missing
        else f"✓ installed here, all {len(pins)} pinned"
    )
    return ["Python packages", f"~{bytes_text(bundle.WHEEL_BYTES)}", state, "recorded: Linux x86-64, Python 3.11"]


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _stages_on(sheet: "Datasheet") -> Table:
    """What the stages of one model take on a GPU, and the evidence for each."""
    from helpers import models
    from helpers.hardware.preflight import ENVIRONMENT_BYTES
    from helpers.toolchains import tensorrt_llm

    name = tensorrt_llm.default_model
    size = models.known()[name]["weights_bytes"]
    token = size / sheet.bandwidth
    rows = [
        ["installation (02)", NONE, f"depends on the network; about {bytes_text(ENVIRONMENT_BYTES)} arrive on disk"],
        ["download of " + name, NONE, f"published: the talk's pod fetched at about 1 GB/s; here {bytes_text(size)}"],
        [
            "checkpoint, FP16",
            "~3 s",
            "published: said in the talk (47:03), on its own pod and GPU, for a model this large",
        ],
        ["checkpoint, 8 bits", NONE, "calibration runs the model; nobody published it for this GPU"],
        ["engine", NONE, "in the talk (47:13 to 47:53) it was done within 40 s; no figure was said"],
        [
            "one token at batch 1, FP16",
            f"≥ {1e3 * token:.2f} ms",
            f"predicted: weights of {bytes_text(size)} at {sheet.label}: {sheet.bandwidth / 1e9:,.0f} GB/s",
        ],
    ]
    lacking = sum(row[1] == NONE for row in rows)
    note = f"Of {lacking} of {len(rows)} there is no figure for {sheet.name}: run them once, and the journal has it."
    return Table(["stage", "expected", "evidence"], rows, f"Expected on {sheet.name}", note)


def _room_on(sheet: "Datasheet", disk: str) -> Table:
    from helpers import memory, models
    from helpers.hardware.preflight import ENVIRONMENT_BYTES
    from helpers.toolchains import tensorrt_llm

    name = tensorrt_llm.default_model
    needed = ENVIRONMENT_BYTES + 3 * models.known()[name]["weights_bytes"]
    evidence = "predicted: the environment, and weights, checkpoint and engine of " + name
    try:
        fit = memory.fit(name, sheet.key)
        used = f"{bytes_text(fit.memory - fit.free)} before the KV cache"
        verdict = "predicted: the planner of notebook 05, FP16, batch 64"
    except WorkshopError as problem:
        used, verdict = "does not fit", f"predicted: {problem}"
    rows = [
        ["disk", bytes_text(needed), disk, evidence],
        ["GPU memory", used, f"{bytes_text(sheet.memory_bytes)} ({sheet.label}: {sheet.name})", verdict],
    ]
    return Table(["what", "needed", "there", "evidence"], rows, "Disk and memory")


# --- The playbook -------------------------------------------------------------------------


def playbook_rows() -> list[Row]:
    """The rows of ``data/playbook.toml``."""
    return [Row(**row) for row in tomllib.loads(PLAYBOOK.read_text(encoding="utf-8"))["row"]]


@dataclass(frozen=True, repr=False)
class Playbook(Shown):
    """What fails on the day, what to say to the room, and what to do."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        lines = ["What fails on the day"]
        for row in self.rows:
            lines += ["", row.symptom]
            for label, text in (("say", row.say), ("do", row.do), ("source", row.source)):
                lines.append(textwrap.fill(text, 110, initial_indent=f"  {label:<7}", subsequent_indent=" " * 9))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [[row.symptom, row.say, row.do, row.source] for row in self.rows]
        return Table(["what is seen", "say", "do", "source"], rows, "What fails on the day")._repr_html_()


def playbook() -> Playbook:
    """The playbook, for a page or a terminal."""
    return Playbook(tuple(playbook_rows()))


def _list(taken: dict[str, _Taken]) -> str:
    parts = [f"{name} {seconds_text(one.seconds)}" for name, one in taken.items()]
    labels = "; ".join(dict.fromkeys(one.label for one in taken.values()))
    return html.escape(f"Cells took ({labels}): {', '.join(parts)}." if parts else f"Times of the cells: {NONE}.")


def _rows_html(rows: Sequence[Row]) -> str:
    cells = "".join(
        f"<tr><th scope='row'>{html.escape(row.symptom)}</th><td>{html.escape(row.say)}</td>"
        f"<td>{html.escape(row.do)}<br><small>{html.escape(row.source)}</small></td></tr>\n"
        for row in rows
    )
    return f"<thead><tr><th scope='col'>Seen</th><th scope='col'>Say</th><th scope='col'>Do</th></tr></thead>\n{cells}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What fails on the day</title>
<style>
:root {{ color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --line: #8a8a8a; --quiet: #595959 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #ececec; --paper: #161616; --line: #777777; --quiet: #b5b5b5 }}
}}
@page {{ size: A4 landscape; margin: 8mm }}
body {{ font: 14px/1.3 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 1em;
  overflow-wrap: anywhere }}
h1 {{ font-size: 1.4em; margin: 0 }}
p {{ margin: 0.3em 0 }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; vertical-align: top; padding: 0.25em 0.5em; border-bottom: 1px solid var(--line) }}
th {{ width: 24% }} td {{ width: 36% }}
small {{ color: var(--quiet) }}
tr {{ break-inside: avoid }}
@media print {{ :root {{ --ink: #000; --paper: #fff; --line: #888; --quiet: #444 }} body {{ font-size: 7pt }} }}
</style>
</head>
<body>
<main>
<h1>What fails on the day</h1>
<p>{title}. {times}</p>
<table>
{rows}</table>
<p><small>OWNER/NAME#N is https://github.com/OWNER/NAME/issues/N</small></p>
</main>
</body>
</html>
"""


# --- Command line -------------------------------------------------------------------------


def main(arguments: argparse.Namespace) -> int:
    """Print the rehearsal, or write what was asked for; 0."""
    if arguments.record:
        found = record(Path(arguments.record), arguments.about)
        print(f"Written: {counted(len(found.seconds), 'notebook')} of {found.machine} to {arguments.record}")
        return 0
    made = rehearse(arguments.gpu, arguments.notebooks, arguments.price)
    if not arguments.page:
        print(made)
        return 0
    file = Path(arguments.page).expanduser()
    if not file.parent.is_dir():
        raise WorkshopError(f"There is no folder {file.parent} for the page. Name a file in one that exists.")
    _write(file, made.page())
    print(f"Written: {file}, one page for paper.")
    return 0
