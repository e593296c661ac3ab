"""Run the notebooks in order, each in a fresh kernel: what ``make workshop`` does.

Prints a line per notebook with its time and slowest cell, stops at the first failure with the cell, its
output and the log's path, and refuses a notebook that did no work or whose mistakes on purpose were not
made. Executed copies, a page each and an index go to ``build/``; apart from the workshop's own home nothing
is written anywhere else. Run it with ``python -m tools.run_notebooks``.
"""

import argparse
import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

if __name__ == "__main__":
    # `python -m` wrote this file's bytecode beside it before the first line could run: undo that, write no more.
    sys.dont_write_bytecode = True
    with contextlib.suppress(OSError):
        own = Path(__spec__.cached or "")
        own.unlink()
        own.parent.rmdir()  # stays if it holds anything else

from helpers.cards import seconds_text
from helpers.errors import WorkshopError
from helpers.teaching.notebooks import telling_line
from tools import notebook_pages

ROOT = Path(__file__).resolve().parent.parent
CELL_TIMEOUT_S = 3600  # on a pod, one cell of 02 installs TensorRT-LLM: ten gigabytes from an index
STAGE_AT_LEAST_S = 0.5
STAGE_TAG = "stage"
MISTAKE_TAG = "raises-exception"
TOLD = ("made earlier", "done in ")
"""What the card of an artifact says (``helpers.workspace``): a fast machine may make a small one within no time."""


@dataclass
class CellRun:
    """One code cell that was run: its number (from 1), time, source, tags and section."""

    number: int
    seconds: float
    source: str
    is_stage: bool = False
    is_mistake: bool = False
    heading: str = ""

    @property
    def label(self) -> str:
        """The cell in a few words, for a line or a table."""
        section = f"{self.heading}: " if self.heading else ""
        return f"cell {self.number} ({seconds_text(self.seconds)}): {section}{telling_line(self.source)[:60]}"


@dataclass
class NotebookRun:
    """What came of one notebook.

    Attributes:
        source: the notebook in the repository.
        notebook: the executed copy, with its outputs so far.
        seconds: wall time, the kernel's start included.
        cells: the code cells that were run, in order.
        problem: why it failed, for a person; empty if it passed.
    """

    source: Path
    notebook: Any
    log: Path
    seconds: float = 0.0
    cells: list[CellRun] = field(default_factory=list)
    problem: str = ""

    @property
    def slowest(self) -> str:
        """The slowest cell in words."""
        longest = max(self.cells, key=lambda cell: cell.seconds, default=None)
        return longest.label if longest else "no code cell"


# --- One notebook -------------------------------------------------------------


class ThisPython(KernelSpecManager):
    """Knows one kernel: the Python that runs this program, whatever else the machine has registered."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernel, under any name."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name=kernel_name, language="python")


class TimedClient(NotebookClient):
    """Runs a notebook, notes what each code cell took, and shows where it is."""

    def __init__(self, run: NotebookRun, log: IO[str], progress: "Progress", timeout: int) -> None:
        kernel = AsyncKernelManager(kernel_name="trtllm-workshop", kernel_spec_manager=ThisPython())
        super().__init__(run.notebook, km=kernel, timeout=timeout, store_widget_state=False, coalesce_streams=True)
        self.run, self.log_file, self.progress = run, log, progress

    async def async_execute_cell(  # type: ignore[override]  # the other arguments are passed on
        self, cell: Any, cell_index: int, **options: Any
    ) -> Any:
        """Run one cell; markdown and empty cells are passed over."""
        if cell.cell_type != "code" or not cell.source.strip():
            return await super().async_execute_cell(cell, cell_index, **options)
        self.progress.show(f"cell {cell_index + 1} of {len(self.nb.cells)}")
        tags = cell.metadata.get("tags", [])
        timed = CellRun(cell_index + 1, 0.0, cell.source, STAGE_TAG in tags, MISTAKE_TAG in tags)
        timed.heading = heading_before(self.nb.cells, cell_index)
        self.run.cells.append(timed)
        began = time.monotonic()
        try:
            return await super().async_execute_cell(cell, cell_index, **options)
        finally:
            timed.seconds = time.monotonic() - began
            self.log_file.write(f"--- {timed.label}\n{text_of_outputs(cell.outputs)}\n")
            self.log_file.flush()


def heading_before(cells: list[Any], index: int) -> str:
    """The last heading before a cell; empty if there is none."""
    before = "\n".join(cell.source for cell in cells[:index] if cell.cell_type == "markdown")
    return (re.findall(r"^#+ (.+)$", before, re.MULTILINE) or [""])[-1].strip()


def text_of_outputs(outputs: list[Any]) -> str:
    """All of a cell's outputs as plain text: streams, results, tracebacks."""
    parts = []
    for output in outputs:
        if output.output_type == "stream":
            parts.append(output.text)
        elif output.output_type == "error":
            parts.append("\n".join(output.traceback))
        else:
            parts.append(output.data.get("text/plain") or output.data.get("text/html", ""))
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(part.rstrip("\n") for part in parts if part))


def shows_an_artifact(outputs: list[Any]) -> bool:
    """True if a cell's output, in any of its forms, says that it made its artifact or that it was there already."""
    forms = [text_of_outputs(outputs)]
    forms += [text for output in outputs for text in output.get("data", {}).values() if isinstance(text, str)]
    return any(told in form for form in forms for told in TOLD)


def no_work(run: NotebookRun) -> str:
    """Why a notebook that ran to its end did no work after all; empty if it did."""
    cells = run.notebook.cells
    if not any(cell.cell_type == "code" and cell.outputs for cell in cells):
        return "It did no work: none of its code cells showed anything."
    idle = [
        cell.label
        for cell in run.cells
        if cell.is_stage and cell.seconds < STAGE_AT_LEAST_S and not shows_an_artifact(cells[cell.number - 1].outputs)
    ]
    if not idle:
        return ""
    return (
        "It did no work where it should: a stage took under "
        f"{STAGE_AT_LEAST_S} s and showed no result as {' or '.join(told.strip() for told in TOLD)}:\n  "
        + "\n  ".join(idle)
    )


def unshown_mistake(run: NotebookRun) -> str:
    """The first cell that is there to show a ``WorkshopError`` and did not; empty if there is none."""
    for cell in run.cells:
        outputs = run.notebook.cells[cell.number - 1].outputs
        raised = [output.ename for output in outputs if output.output_type == "error"]
        if cell.is_mistake and raised != [WorkshopError.__name__]:
            found = raised[0] if raised else "nothing"
            return failure_text(
                run, f"A cell with the tag {MISTAKE_TAG} raised {found}, not {WorkshopError.__name__},", cell
            )
    return ""


def failure_text(run: NotebookRun, reason: str, failed: CellRun | None = None) -> str:
    """The cell that failed (the last one unless told), its source and all its output so far."""
    if not run.cells:
        return reason
    failed = failed or run.cells[-1]
    cell = run.notebook.cells[failed.number - 1]
    source = "\n".join("    " + line for line in failed.source.split("\n"))
    output = "\n".join("    " + line for line in text_of_outputs(cell.outputs).split("\n"))
    shown = output if output.strip() else "    (none)"
    where = f"{reason} in cell {failed.number} of {len(run.notebook.cells)}, after {seconds_text(failed.seconds)}."
    return f"{where}\n  The cell:\n{source}\n  Its output so far:\n{shown}"


def run_notebook(source: Path, out: Path, progress: "Progress", timeout: int = CELL_TIMEOUT_S) -> NotebookRun:
    """Run one notebook in a fresh kernel and judge it; its executed copy and log go to ``out``.

    Never raises for what a cell does: the result's ``problem`` says what went wrong.
    """
    out.mkdir(parents=True, exist_ok=True)
    run = NotebookRun(source, nbformat.read(source, as_version=4), out / f"{source.stem}.log")
    began = time.monotonic()
    with run.log.open("w", encoding="utf-8") as log:
        client = TimedClient(run, log, progress, timeout)
        try:
            # Pages have no kernel: a widget shows the table that says the same (helpers.widgets).
            environment = {**os.environ, "WORKSHOP_STATIC": "1"}
            folder = str(source.parent.resolve())
            client.execute(cleanup_kc=True, cwd=folder, env=environment, stdout=log, stderr=log)
            run.problem = unshown_mistake(run) or no_work(run)
        except CellTimeoutError:
            run.problem = failure_text(run, f"A cell took longer than {timeout} s")
        except CellExecutionError:
            run.problem = failure_text(run, "An error was raised")
        except DeadKernelError:
            run.problem = failure_text(run, "The kernel ended (stopped, crashed or out of memory)")
        except RuntimeError as error:
            run.problem = failure_text(run, f"The kernel did not start ({error})")
    run.seconds = time.monotonic() - began
    nbformat.write(run.notebook, out / source.name)
    return run


# --- All of them --------------------------------------------------------------


class Progress:
    """One line per notebook on the terminal; while it runs, the line's time moves if there is a terminal."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stdout
        self.detail = ""

    def show(self, detail: str) -> None:
        """Say where the notebook is; shown with the next tick of the clock."""
        self.detail = detail

    @contextlib.contextmanager
    def moving(self, name: str) -> Iterator[None]:
        """Keep a line with the elapsed time while the body runs; without a terminal nothing is shown."""
        began, ended, self.detail = time.monotonic(), threading.Event(), "starting the kernel"

        def move() -> None:
            while not ended.wait(0.5):
                taken = seconds_text(time.monotonic() - began)
                print(f"\r{name:<28} {taken:>12}   {self.detail:<40}", end="", file=self.stream, flush=True)

        mover = threading.Thread(target=move, daemon=True)
        if self.stream.isatty():
            mover.start()
        try:
            yield
        finally:
            ended.set()
            if mover.ident:
                mover.join()
                print("\r" + " " * 90 + "\r", end="", file=self.stream)

    def line(self, run: NotebookRun) -> None:
        """The finished notebook's line."""
        ending = "FAILED" if run.problem else f"slowest: {run.slowest}"
        taken = seconds_text(run.seconds)
        print(f"{run.source.stem:<28} {taken:>12}   {ending}", file=self.stream, flush=True)


def private_folders(out: Path) -> dict[str, str]:
    """Environment variables that keep Jupyter's, IPython's and matplotlib's own files inside ``out``."""
    names = {
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_CONFIG_DIR": "config",
        "IPYTHONDIR": "ipython",
        "MPLCONFIGDIR": "matplotlib",
    }
    return {variable: str((out / "jupyter" / name).resolve()) for variable, name in names.items()}


def chosen(notebooks: Path, only: list[str]) -> list[Path]:
    """The numbered notebooks of a folder in order, or those whose numbers (or names) ``only`` lists.

    Raises:
        LookupError: there are none, or one that was asked for does not exist.
    """
    only = [name.zfill(2) if name.isdecimal() else name for name in only]
    found = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise LookupError(f"No notebooks named NN_topic.ipynb in {notebooks}.")
    unknown = [name for name in only if not any(path.stem.startswith(name) for path in found)]
    if unknown:
        there = ", ".join(path.stem[:2] for path in found)
        raise LookupError(f"No notebook {', '.join(unknown)} in {notebooks}; there are {there}.")
    return [path for path in found if not only or any(path.stem.startswith(name) for name in only)]


def run_all(paths: list[Path], out: Path, timeout: int = CELL_TIMEOUT_S) -> list[NotebookRun]:
    """Run notebooks until one fails; write their pages and the index; return what was run."""
    progress, runs = Progress(), []
    for path in paths:
        with progress.moving(path.stem):
            run = run_notebook(path, out / "notebooks", progress, timeout)
        progress.line(run)
        runs.append(run)
        if run.problem:
            print(f"\n{run.problem}\n  The log: {run.log}\n", flush=True)
            break
    notebook_pages.write(runs, out)
    return runs


def main(arguments: list[str] | None = None) -> int:
    """Run the notebooks and return the exit status."""
    parser = argparse.ArgumentParser(description="Run the notebooks in order, each in a fresh kernel.")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="numbers of the notebooks to run")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="where to write (default: build/)")
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks", help="the folder of notebooks")
    parser.add_argument("--timeout", type=int, default=CELL_TIMEOUT_S, help="seconds that one cell may take")
    options = parser.parse_args(arguments)
    try:
        paths = chosen(options.notebooks, options.only)
    except LookupError as error:
        print(error, file=sys.stderr)
        return 2
    os.environ.update(private_folders(options.out), PYTHONDONTWRITEBYTECODE="1")
    print(f"Running {len(paths)} notebooks, each in a fresh kernel. Pages go to {options.out}/.", flush=True)
    runs = run_all(paths, options.out, options.timeout)
    passed = sum(not run.problem for run in runs)
    total = seconds_text(sum(run.seconds for run in runs))
    print(f"{passed} of {len(paths)} notebooks ran in {total}. Index: {options.out / 'index.html'}")
    return 0 if passed == len(paths) else 1


if __name__ == "__main__":
    sys.exit(main())
