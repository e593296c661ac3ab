"""Worker: make the environment of a TensorRT-LLM release, step by step, so that an interrupted run goes on from there.

Runs on the notebooks' own Python and imports nothing of ``helpers``. The environment is made where it stays, since its
scripts name their path; each finished step leaves a mark beside it. Order matters (notebook 02): torch first, from
PyTorch's own index and for the right CUDA; then TensorRT-LLM, held by constraints that keep pip from replacing that
torch.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One command of the installation, and what it does."""

    name: str
    title: str
    command: tuple[str, ...]


def steps(
    environment: str,
    interpreter: str,
    torch: Sequence[str],
    torch_index: Sequence[str],
    package: Sequence[str],
    cuda: str,
) -> list[Step]:
    """All commands, in order.

    Args:
        environment: folder to make.
        interpreter: a path of a Python that has ``venv``, or a version such as ``3.12`` for uv to find or fetch.
        torch, torch_index: packages of PyTorch, and pip's options for where to find them.
        package: TensorRT-LLM's own requirement and pip's options for it.
        cuda: what ``torch.version.cuda`` must begin with.
    """
    python = f"{environment}/bin/python"
    pip = (python, "-m", "pip", "install", "--disable-pip-version-check")
    uv = ("uv", "venv", "--python", interpreter, "--seed", environment)
    check = f"import torch; v = torch.version.cuda or 'none'; assert v.startswith('{cuda}'), f'torch is for CUDA {{v}}'"
    return [
        Step(
            "venv",
            f"an environment with Python {interpreter}",
            uv if interpreter[0].isdigit() else (interpreter, "-m", "venv", environment),
        ),
        Step(
            "pip", "pip, and a setuptools that the release takes", (*pip, "--upgrade", "pip", "setuptools<80", "wheel")
        ),
        Step("torch", f"PyTorch for CUDA {cuda}: about 3 GB", (*pip, *torch, *torch_index)),
        Step("package", "TensorRT-LLM and what it needs: about 6 GB", (*pip, *package)),
        Step("check", "is it still the right PyTorch?", (python, "-c", check)),
    ]


def find_uv(folder: Path) -> str:
    """uv: on PATH, or fetched into ``folder`` by this Python's pip."""
    found = shutil.which("uv")
    if found:
        return found
    program = folder / "bin" / "uv"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "uv"], check=True)
    return str(program)


class Marks:
    """Which steps are done: a file for each beside the environment, with the command and what it was made from.

    So another pin, or another constraints file, is installed and not taken for done.
    """

    def __init__(self, environment: Path, made_from: str) -> None:
        self.folder = environment.with_name(f"{environment.name}.steps")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._made_from = made_from

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.done"

    def _text(self, step: Step) -> str:
        return json.dumps([step.command, self._made_from])

    def has(self, step: Step) -> bool:
        """True if this very command was done."""
        return self._file(step.name).exists() and self._file(step.name).read_text() == self._text(step)

    def add(self, step: Step) -> None:
        """Note that a step is done."""
        self._file(step.name).write_text(self._text(step))

    def remove(self, steps: Sequence[Step]) -> None:
        """Forget that steps were done."""
        for step in steps:
            self._file(step.name).unlink(missing_ok=True)


def surroundings(folder: Path) -> dict[str, str]:
    """Variables that keep downloads, temporary files and uv's Python on the workspace's disk.

    A pod's own disk is often too small for them, and what is on it is gone when the pod is stopped.
    """
    ours = {"PIP_CACHE_DIR": ".pip", "TMPDIR": ".tmp", "UV_CACHE_DIR": ".uv", "UV_PYTHON_INSTALL_DIR": "pythons"}
    for name in ours.values():
        (folder / name).mkdir(parents=True, exist_ok=True)
    return {**os.environ, **{variable: str(folder / name) for variable, name in ours.items()}}


def tells_progress(environment: Path) -> bool:
    """True if the environment's pip can tell how much of a file it has fetched: from 24.1 on."""
    found = [re.search(r"pip-(\d+)\.(\d+)", path.name) for path in environment.glob("lib/*/site-packages/pip-*")]
    return any(match and (int(match[1]), int(match[2])) >= (24, 1) for match in found)


def run(step: Step, command: Sequence[str], place: str, variables: Mapping[str, str]) -> int:
    """Run a step's command with its output here; pip's words on a download become progress.

    Args:
        step: what is being done.
        command: its words.
        place: how far the installation is, such as ``2/5``.
        variables: the command's environment.
    """
    done, total = map(int, place.split("/"))
    file, told = "", 0.0
    child = subprocess.Popen(
        command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert child.stdout is not None
    for raw in child.stdout:
        line = raw.decode(errors="replace").rstrip("\n")
        fetched = re.fullmatch(r"Progress (\d+) of (\d+)", line.strip())
        if fetched is None:
            print(line, flush=True)
            naming = re.match(r"\s*Downloading (\S+)", line)
            file = naming[1].rsplit("/", 1)[-1] if naming else file
        elif time.monotonic() - told > 0.5:
            told = time.monotonic()
            sizes = " of ".join(f"{int(size) / 1e6:,.0f}" for size in fetched.groups())
            print(f"@progress {done}/{total} {step.title}: {sizes} MB of {file}", flush=True)
    return child.wait()


def make(todo: Sequence[Step], environment: Path, marks: Marks) -> None:
    """Do every step that is not done, in order; a step that is done anew lets those after it be done anew."""
    python = environment / "bin" / "python"
    if not python.exists():
        marks.remove(todo)  # the environment was deleted, or its Python is gone
    variables = surroundings(environment.parent)
    for number, step in enumerate(todo):
        place = f"{number}/{len(todo)}"
        print(f"@progress {place} {step.title}", flush=True)
        if marks.has(step):
            print(f"{step.title}: done earlier", flush=True)
            continue
        marks.remove(todo[number:])
        command = list(step.command)
        if step.name == "venv":
            shutil.rmtree(environment, ignore_errors=True)  # half-made, or with another Python
        if command[0] == "uv":
            command[0] = find_uv(marks.folder / "uv")
        if tells_progress(environment):
            variables["PIP_PROGRESS_BAR"] = "raw"
        print("$ " + " ".join(command), flush=True)
        status = run(step, command, place, variables)
        if status:
            if step.name == "check":
                marks.remove([step for step in todo if step.name in ("torch", "package")])  # let pip put it right
            sys.exit(f"error: {step.title}: the command ended with status {status}; its own words are above.")
        marks.add(step)
    for name in (".pip", ".tmp", ".uv"):
        shutil.rmtree(environment.parent / name, ignore_errors=True)


def main() -> None:
    """Do every step that is not done, then write which Python it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", required=True, help="JSON: [[name, title, [command, …]], …]")
    parser.add_argument("--made-from", default="", help="a digest of the files that the commands read")
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    todo = [Step(name, title, tuple(command)) for name, title, command in json.loads(arguments.steps)]
    make(todo, arguments.environment, Marks(arguments.environment, arguments.made_from))
    arguments.output.mkdir(parents=True, exist_ok=True)
    made = {"python": str(arguments.environment / "bin" / "python")}
    (arguments.output / "environment.json").write_text(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
