"""Doubles of NVML and of a TensorRT-LLM release, for machines without a GPU: only tests use them.

They refuse what the real programs refuse, with the real programs' words, and write the real directory layouts; sources
stand beside each. What they make is not an engine: generation and logits come from the Hugging Face weights of the
tokenizer's folder, through transformers on the CPU, whatever the precision.

A **pod** is a set of environment variables (``tests/pods.py``). ``DOUBLE_MACHINE`` names the machine
(``machines.toml``), ``DOUBLE_FAULT`` a failure, and ``make_release`` makes the Python of a release.
"""

import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
SITE = HERE / "site"
RELEASE = HERE / "release"

PROGRAMS = {"trtllm-build": "build", "trtllm-serve": "serve", "trtllm-bench": "bench"}

# The shell finds the interpreter, however long its path is; Python reads the same lines as a text.
SCRIPT = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys
from tensorrt_llm.commands.{module} import main
sys.exit(main())
"""


def make_release(folder: Path, version: str) -> Path:
    """Make the environment of a release: an interpreter that finds the doubles, and its programs beside it.

    The interpreter is this one's, so torch, transformers and ModelOpt are the real ones (their CPU builds), under the
    version numbers that the release pins.
    """
    from helpers.releases.table import release

    make_environment(folder)
    row = release(version)
    cuda = f"+{row.torch_index.rstrip('/').rsplit('/', 1)[1]}"
    install(folder, {"torch": row.torch + cuda})
    packages = {"tensorrt": row.tensorrt, "transformers": row.transformers, "nvidia-modelopt": row.modelopt}
    install(folder, {**packages, "tensorrt_llm": version})
    return folder / "bin" / "python"


def make_environment(folder: Path) -> None:
    """An environment of this interpreter in which nothing of a release is installed yet."""
    venv.EnvBuilder(symlinks=True, clear=True).create(folder)


def packages_folder(folder: Path) -> Path:
    """Where an environment keeps its packages."""
    return folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"


def install(folder: Path, packages: dict[str, str]) -> None:
    """Let an environment have packages (name to version): the doubles' or, under the given version, this Python's."""
    place = packages_folder(folder)
    if "torch" in packages:
        lines = [str(SITE), str(RELEASE), sysconfig.get_path("purelib"), "import double_torch"]
        (place / "doubles.pth").write_text("\n".join(lines) + "\n")
    for name, version in packages.items():
        about = place / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir(exist_ok=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if "tensorrt_llm" in packages:
        for program, module in PROGRAMS.items():
            script = folder / "bin" / program
            script.write_text(SCRIPT.format(python=folder / "bin" / "python", module=module))
            script.chmod(0o755)


def pod(machine: str, home: Path, python: Path | None = None, **more: str) -> dict[str, str]:
    """The variables that make a child process run as on a machine of ``machines.toml``.

    Args:
        machine: its key, or a row as JSON.
        home: the workspace.
        python: a release's interpreter, from :func:`make_release`; None for a pod without one.
        more: further variables, such as ``DOUBLE_FAULT``.
    """
    variables = {
        "PYTHONPATH": str(SITE),
        "DOUBLE_MACHINE": machine,
        "DOUBLE_STATE": str(home.parent / f"{home.name}-driver"),
        "WORKSHOP_HOME": str(home),
        "WORKSHOP_MODEL": "bundled",
    }
    named = {"WORKSHOP_TRTLLM_PYTHON": str(python)} if python else {}
    return {**variables, **named, **more}
