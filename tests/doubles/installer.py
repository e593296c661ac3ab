"""Doubles of ``uv venv`` and of an environment's ``pip``: they "install" the doubles, and fail as the real ones do.

What is known to go wrong goes wrong here too: a torch that no constraint holds is replaced by a build for another CUDA
(NVIDIA/TensorRT-LLM #9318), and without NVIDIA's index there is only the placeholder package (#1198).
"""

import re
import sys
from pathlib import Path

import doubles

TESTS = Path(__file__).resolve().parents[1]

PLACEHOLDER = """\
The installation of tensorrt-llm for version {version} failed.

This is a special placeholder package which downloads a real wheel package
from https://pypi.nvidia.com/. If https://pypi.nvidia.com/ is not reachable, we
cannot download the real wheel file to install.
"""

SCRIPT = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys
sys.path[:0] = ["{tests}", "{root}"]
from doubles.installer import uv
sys.exit(uv(sys.argv[1:]))
"""

PIP = """import sys
sys.path[:0] = ["{tests}", "{root}"]
from doubles.installer import pip
sys.exit(pip(sys.argv[1:]))
"""


def make_uv(folder: Path) -> Path:
    """Write a ``uv`` into a folder for PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "uv"
    program.write_text(SCRIPT.format(python=sys.executable, tests=TESTS, root=TESTS.parent))
    program.chmod(0o755)
    return program


def uv(words: list[str]) -> int:
    """``uv venv --python X --seed FOLDER``."""
    if words[0] != "venv" or "--seed" not in words or "--python" not in words:
        print(f"error: the double knows only uv venv --python X --seed FOLDER, not {words}", file=sys.stderr)
        return 2
    make_environment(Path(words[-1]))
    return 0


def make_environment(folder: Path) -> None:
    """An environment with nothing but the double's pip."""
    doubles.make_environment(folder)
    package = doubles.packages_folder(folder) / "pip"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(PIP.format(tests=TESTS, root=TESTS.parent))


def pip(words: list[str]) -> int:
    """``pip install REQUIREMENT … [-c FILE] [--index-url URL] [--extra-index-url URL]``."""
    asked, constraints, indexes = _parse(words[1:])
    here = Path(sys.prefix)
    print(f"Collecting {' '.join(asked)}", flush=True)
    for requirement in asked:
        name, _, version = requirement.partition("==")
        if name == "torch":
            if not any(index.rsplit("/", 1)[-1] == version.partition("+")[2] for index in indexes):
                return _fail(f"ERROR: No matching distribution found for {requirement}")
            doubles.install(here, {"torch": version})
        elif name in ("tensorrt_llm", "tensorrt-llm"):
            problem = _install_release(here, version, constraints, indexes)
            if problem:
                return _fail(problem)
    print(f"Successfully installed {' '.join(asked)}")
    return 0


def _install_release(here: Path, version: str, constraints: str, indexes: list[str]) -> str:
    """Install the double of a release; the error's text if it does not go."""
    sys.path.insert(0, str(doubles.SITE))
    import double_machine

    from helpers.releases.table import release

    if not any("pypi.nvidia.com" in index for index in indexes) or double_machine.fault("install", "placeholder"):
        return PLACEHOLDER.format(version=version)
    row = release(version)
    held = re.search(r"^torch==(\S+)", constraints, re.MULTILINE)
    packages = {"tensorrt": row.tensorrt, "transformers": row.transformers, "nvidia-modelopt": row.modelopt}
    doubles.install(here, {**packages, "tensorrt_llm": version})
    if held is None:
        for old in doubles.packages_folder(here).glob("torch-*.dist-info"):
            old.rename(old.with_name(f"torch-{row.torch}+cu126.dist-info"))
        doubles.install(here, {"torch": f"{row.torch}+cu126"})
    return ""


def _parse(words: list[str]) -> tuple[list[str], str, list[str]]:
    """Requirements, the text of all constraints, and the indexes."""
    asked, constraints, indexes, rest = [], "", ["https://pypi.org/simple"], list(words)
    while rest:
        word = rest.pop(0)
        if word == "-c":
            constraints += Path(rest.pop(0)).read_text()
        elif word in ("--index-url", "--extra-index-url"):
            indexes.append(rest.pop(0))
        elif word == "--progress-bar":
            rest.pop(0)
        elif not word.startswith("-"):
            asked.append(word)
    return asked, constraints, indexes


def _fail(text: str) -> int:
    print(text, file=sys.stderr)
    return 1
