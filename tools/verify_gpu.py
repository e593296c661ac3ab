"""Verify the GPU route: run the notebooks on a pod and write one report for the README (``make verify-gpu``).

The report, ``build/verify-gpu.md``, says on which GPU, driver and release they ran and when, a line for each notebook,
and what the workspace then holds: engines with their sizes, and perplexities. Nothing in it is typed by hand.
"""

import argparse
import datetime
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.cards import bytes_text, seconds_text
from helpers.errors import WorkshopError
from helpers.workspace import Artifact
from tools.run_notebooks import CELL_TIMEOUT_S, ROOT, NotebookRun, chosen, private_folders, run_all

LAST = "08"
"""The notebooks up to this one use a GPU; 09 and 10 need more than one pod, or another release."""

REPORT = "verify-gpu.md"


@dataclass(frozen=True)
class Verified:
    """What one verification found.

    Attributes:
        gpus: the GPUs' names.
        driver: the NVIDIA driver's version.
        release: of TensorRT-LLM; empty if none got installed.
        versions: package to version, of the release's environment.
        date: the day, ISO 8601.
        runs: the notebooks that were run, in order.
        wanted: how many should have been run.
        artifacts: everything in the workspace afterwards.
    """

    gpus: Sequence[str]
    driver: str
    release: str
    versions: Mapping[str, str]
    date: str
    runs: Sequence[NotebookRun]
    wanted: int
    artifacts: Sequence[Artifact] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True if every notebook ran to its end, on an installed release."""
        return bool(self.release) and len(self.runs) == self.wanted and not any(run.problem for run in self.runs)

    def report(self) -> str:
        """The report, as Markdown."""
        machine = f"{' + '.join(self.gpus)}, driver {self.driver}, TensorRT-LLM {self.release or '(not installed)'}"
        verdict = "Last verified on" if self.passed else "**Not verified**: failed on"
        parts = [f"{verdict} {machine}, {self.date}.", ""]
        notebooks = [(run.source.stem, seconds_text(run.seconds), _verdict(run)) for run in self.runs]
        parts += [*_table(("notebook", "time", "verdict"), notebooks), ""]
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        parts += [f"Versions: {versions}.", ""] if versions else []
        for heading, rows in (("engine", _engines(self.artifacts)), ("perplexity of", _perplexities(self.artifacts))):
            columns = (heading, "size", "built in") if heading == "engine" else (heading, "held-out text, measured")
            parts += [*_table(columns, rows), ""] if rows else []
        return "\n".join(parts)


def _verdict(run: NotebookRun) -> str:
    """One line on a notebook: that it ran, or the beginning of what went wrong."""
    return f"FAILED: {run.problem.splitlines()[0]}" if run.problem else f"ran; slowest: {run.slowest}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, a line each."""
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _engines(artifacts: Sequence[Artifact]) -> list[tuple[str, str, str]]:
    """Each TensorRT engine: title, bytes of its rank files, seconds to build."""
    found = []
    for artifact in artifacts:
        ranks = [size for name, (size, _) in artifact.manifest.files.items() if name.endswith(".engine")]
        if artifact.manifest.kind == "engine" and ranks:
            made = artifact.manifest
            found.append((made.title, bytes_text(sum(ranks)), seconds_text(made.seconds)))
    return found


def _perplexities(artifacts: Sequence[Artifact]) -> list[tuple[str, str]]:
    """Each artifact in which the likelihood of every held-out token was measured, and its perplexity."""
    import numpy as np

    files = ((artifact, artifact.path / place) for artifact in artifacts for place in ("nll.npy", "measured/nll.npy"))
    return [
        (artifact.manifest.title, f"{float(np.exp(np.load(file).mean())):.4f}")
        for artifact, file in files
        if file.is_file()
    ]


def verify(paths: list[Path], out: Path, timeout: int = CELL_TIMEOUT_S) -> Verified:
    """Run the notebooks and gather what the report says."""
    from helpers import hardware, releases, workspace

    runs = run_all(paths, out, timeout)
    machine = hardware.look()
    installed = releases.current(machine)
    return Verified(
        gpus=[gpu.name for gpu in machine.gpus],
        driver=machine.driver,
        release=installed.version if installed else "",
        versions=installed.versions if installed else {},
        date=datetime.date.today().isoformat(),
        runs=runs,
        wanted=len(paths),
        artifacts=workspace.artifacts(),
    )


def nothing_to_verify() -> str:
    """Why the notebooks would not use TensorRT-LLM here; empty if they would."""
    from helpers import releases, toolchains

    choice = releases.choose_here()
    if choice.release is None:
        return choice.why
    try:
        chosen_toolchain = toolchains.best().name
    except WorkshopError as error:
        return str(error)
    if chosen_toolchain != "tensorrt_llm":
        return f"WORKSHOP_TOOLCHAIN asks for {chosen_toolchain}. Unset it, and run this again."
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Verify, write the report, print it, and return the exit status."""
    parser = argparse.ArgumentParser(description="Run the notebooks on a GPU pod and write a report for the README.")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="numbers of the notebooks to run")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="where to write (default: build/)")
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks", help="the folder of notebooks")
    options = parser.parse_args(arguments)
    reason = nothing_to_verify()
    if reason:
        print(f"There is nothing to verify on this machine: {reason}", file=sys.stderr)
        return 1
    try:
        paths = [path for path in chosen(options.notebooks, options.only) if path.stem[:2] <= LAST]
    except LookupError as error:
        print(error, file=sys.stderr)
        return 2
    os.environ.update(private_folders(options.out), PYTHONDONTWRITEBYTECODE="1")
    found = verify(paths, options.out)
    report = options.out / REPORT
    report.write_text(found.report(), encoding="utf-8")
    print(f"\n{found.report()}\nThe report, ready to be pasted into the README: {report}")
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
