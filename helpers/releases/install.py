"""Getting TensorRT-LLM: adopt what the pod has, else install it into an environment of its own; then ask it what it is.

The environment lies in ``environments/trtllm-<version>`` of the workspace; notebook 02 explains each step.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import processes, stage, workspace
from helpers.cards import Table
from helpers.errors import WorkshopError
from helpers.hardware.preflight import ENVIRONMENT_BYTES
from helpers.releases.contract import contract
from helpers.releases.environment import worker_environment
from helpers.releases.installation import PROBE, Installation, folder, record
from helpers.releases.system import System, preconditions
from helpers.releases.table import Choice, Release, choose_here, release
from helpers.workers import trtllm_install
from helpers.workspace import DATA

if TYPE_CHECKING:
    from helpers.hardware import Machine

NAMED, NONE = "WORKSHOP_TRTLLM_PYTHON", "none"
NVIDIA_INDEX = "https://pypi.nvidia.com"
_WORKERS = Path(__file__).parents[1] / "workers"
_PROBE_LIMIT = 1200.0  # the first import reads gigabytes from a disk that may be slow
_INSTALL_LIMIT = 4 * 3600.0  # ten gigabytes from a slow mirror; what is fetched is kept for the next run


# --- The commands -------------------------------------------------------------


def install_steps(wanted: Release, environment: str, interpreter: str) -> list[trtllm_install.Step]:
    """The steps of an installation, as data."""
    constraints = ["-c", str(DATA / "constraints" / wanted.constraints)]
    cuda = wanted.torch_index.rstrip("/").rsplit("/", 1)[1]
    return trtllm_install.steps(
        environment,
        interpreter,
        torch=[f"torch=={wanted.torch}+{cuda}", "torchvision", *constraints],
        # Beside pip's own index, which has every other package; torch's local version (+cu130) is on this one alone.
        torch_index=["--extra-index-url", wanted.torch_index],
        package=[
            f"tensorrt_llm=={wanted.version}",
            *constraints,
            "--extra-index-url",
            NVIDIA_INDEX,
            "--extra-index-url",
            wanted.torch_index,
        ],
        cuda=wanted.torch_cuda,
    )


def install_commands(wanted: Release, environment: str) -> list[list[str]]:
    """The same for a person to paste, system packages first; with uv, which finds or fetches the right Python."""
    system = ["apt-get", "install", "-y", *wanted.system_packages]
    uv = ["python3", "-m", "pip", "install", "uv"]
    return [system, uv, *(list(step.command) for step in install_steps(wanted, environment, wanted.pythons[0]))]


# --- Adopt, install, verify ---------------------------------------------------


def version_of(python: Path | str) -> str | None:
    """Which tensorrt_llm an interpreter has, from its package's metadata; None for none. Imports nothing."""
    code = "from importlib.metadata import version; print(version('tensorrt_llm'))"
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        asked = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=60, env=clean)
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None


@dataclass(frozen=True)
class Found:
    """A Python that has a release which fits this machine; ``named`` by ``WORKSHOP_TRTLLM_PYTHON`` or not."""

    python: Path
    version: str
    named: bool = False


def adoptable(choice: Choice) -> tuple[Found | None, list[str]]:
    """The interpreter to take, None if there is none; and a sentence for each TensorRT-LLM that is passed over.

    Looked at in this order: the one that ``WORKSHOP_TRTLLM_PYTHON`` names (``none`` leaves every other's alone), the
    environments that the workshop made, each ``python3`` on PATH.

    Raises:
        WorkshopError: the named one cannot be used, and why.
    """
    from helpers.hardware.limits import other_pythons

    named = os.environ.get(NAMED, "")
    if named not in ("", NONE):
        return Found(Path(named).absolute(), _named_version(named, choice), named=True), []
    own = [str(_python(version)) for version in choice.fitting if _is_finished(version)]
    passed: list[str] = []
    for python in [*own, *([] if named else other_pythons())]:
        version = version_of(python)
        if version in choice.fitting:
            return Found(Path(python), version), passed
        if version:
            passed.append(f"{python} has TensorRT-LLM {version} and is passed over. {_why_not(version, choice)}")
    return None, passed


def needed(choice: Choice | None = None) -> Table:
    """What must be there before this machine's release is installed; one line where nothing needs installing."""
    from helpers import hardware

    choice = choice or choose_here()
    if choice.release is None:
        what = ["nothing", "no release is chosen; the CPU toolchain came with make setup", "ok", ""]
    else:
        found, _ = adoptable(choice)
        if found is None:
            return preconditions(choice.release, hardware.look())
        what = ["nothing", f"TensorRT-LLM {found.version} is there: {found.python}", "ok", ""]
    return Table(["needed", "found", "verdict", "what to do"], [what], "Before anything is installed")


def _why_not(version: str, choice: Choice) -> str:
    """Why a release that is there is not used: not offered, or not for this machine."""
    try:
        release(version)
    except WorkshopError as refusal:
        return str(refusal)
    return f"It does not fit this machine: {choice.why}"


def _python(version: str) -> Path:
    """The interpreter of an environment that the workshop made."""
    return folder(version) / "bin" / "python"


def _is_finished(version: str) -> bool:
    """True if the environment was installed to its end with the constraints as they are now."""
    made = workspace.find(_installed(version))
    constraints = _constraints_digest(release(version))
    return bool(made and _python(version).exists() and made.manifest.inputs == {"constraints": constraints})


def _installed(version: str) -> Path:
    """Where it is recorded that an installation came to its end."""
    return workspace.home() / "installed" / version


def _constraints_digest(wanted: Release) -> str:
    return workspace.digest(DATA / "constraints" / wanted.constraints)


def _named_version(named: str, choice: Choice) -> str:
    """The release of the interpreter that was named.

    Raises:
        WorkshopError: it has none, or one that cannot be used here.
    """
    version = version_of(named)
    if version is None:
        what = "has no tensorrt_llm" if Path(named).exists() else "is not there"
        raise WorkshopError(
            f"{NAMED} names {named}, which {what}. Name the Python of an environment with TensorRT-LLM, or unset it "
            "and the notebook installs one."
        )
    if version not in choice.fitting:
        raise WorkshopError(f"{NAMED} names {named}, which has TensorRT-LLM {version}. {_why_not(version, choice)}")
    return version


def ensure(choice: Choice | None = None) -> Installation:
    """The TensorRT-LLM of this machine: adopted or installed, and verified; nothing to do where that was done.

    Raises:
        WorkshopError: no release fits, something it needs is missing, or a stage failed.
    """
    choice = choice or choose_here()
    if choice.release is None:
        raise WorkshopError(choice.why)
    found, passed = adoptable(choice)
    for sentence in passed:
        print(sentence)
    if found is None:
        return _verified(_install(choice.release), choice.release.version)
    try:
        return _verified(found.python, found.version)
    except WorkshopError as problem:
        if found.named or found.python == _python(found.version):
            raise
        raise WorkshopError(
            f"{problem}\n{found.python} was adopted because it has TensorRT-LLM {found.version}. To leave it alone and "
            f"install the release into the workspace instead, set {NAMED}={NONE} and run this again."
        ) from None


def _require(wanted: Release, machine: "Machine", system: System) -> None:
    """Refuse to install where something is missing.

    Raises:
        WorkshopError: names each with the command that mends it.
    """
    table = preconditions(wanted, machine, system)
    stops = [row for row in table.rows if row[2] == "stop"]
    if stops:
        listed = "".join(f"\n  | {row[0]}: {row[1]}. {row[3]}" for row in stops)
        raise WorkshopError(
            f"TensorRT-LLM {wanted.version} cannot be installed here yet; nothing was downloaded.{listed}\n"
            f"{table.note}\nThen run this cell again."
        )


def _install(wanted: Release) -> Path:
    """Install a release as a stage; returns its Python."""
    from helpers import hardware

    environment = folder(wanted.version)
    system = System.look(wanted)
    _require(wanted, hardware.look(), system)
    if not _python(wanted.version).exists():  # somebody deleted it, or a pod came back without its Python
        shutil.rmtree(_installed(wanted.version), ignore_errors=True)
    made_from = _constraints_digest(wanted)
    steps = [[s.name, s.title, list(s.command)] for s in install_steps(wanted, str(environment), system.python)]
    command = [sys.executable, str(_WORKERS / "trtllm_install.py"), "--steps", json.dumps(steps)]
    made = stage.run(
        stage.Stage(
            title=f"Installation of TensorRT-LLM {wanted.version}",
            kind="environment",
            command=[*command, "--made-from", made_from, "--environment", str(environment), "--output", "{out}"],
            target=_installed(wanted.version),
            options={"release": wanted.version, "environment": str(environment)},
            inputs={"constraints": made_from},
            unset=["PYTHONPATH", "PYTHONHOME", "PIP_CONSTRAINT"],
            expected=["environment.json"],
            space=max(0, ENVIRONMENT_BYTES - system.occupied),
            time_limit=_INSTALL_LIMIT,
        )
    )
    return Path(json.loads((made.path / "environment.json").read_text())["python"])


def questions(version: str) -> list[str]:
    """What the probe asks about: each program's help, in every sub-command that is used, and each entry point."""
    words: list[str] = []
    for name, program in contract(version).programs.items():
        start = ["python", "-m", program.module] if program.module else [name]
        # click refuses a sub-command, even its help, until the group has what it requires.
        required = [word for option in program.options if option.required for word in (option.name, "x")]
        whole = [[*start, "--help"]] if program.options or not program.commands else []
        within = [[*start, *required, command, "--help"] for command in program.commands]
        words += ["--program", json.dumps([name, *whole, *within])]
    for name in contract(version).entries:
        words += ["--entry", name]
    return words


def _verified(python: Path, version: str) -> Installation:
    """Ask an interpreter what its TensorRT-LLM offers, as a stage with a time limit."""
    adopted = folder(version) not in python.parents
    environment, unset = processes.difference(worker_environment(python), os.environ)
    made = stage.run(
        stage.Stage(
            title=f"TensorRT-LLM {version}, {'adopted' if adopted else 'installed'}: what it offers",
            kind="release",
            command=[str(python), str(_WORKERS / "trtllm_probe.py"), *questions(version), "--output", "{out}"],
            target=record(version),
            options={"release": version, "python": str(python), "adopted": adopted},
            inputs={
                "worker": workspace.digest(_WORKERS / "trtllm_probe.py"),
                "contract": workspace.digest(DATA / "contract"),
            },
            maker={"tensorrt_llm": version},
            environment=environment,
            unset=unset,
            expected=[PROBE],
            time_limit=_PROBE_LIMIT,
        )
    )
    return Installation(made.path, made.manifest, made.reused, made.log)
