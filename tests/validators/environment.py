"""The environment that the exported files are validated in: made once under build/, and kept.

``requirements-validators.txt`` says what is in it and why it is one of its own.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements-validators.txt"
FOLDER = ROOT / "build" / "validators"


def python() -> Path:
    """The validators' Python; makes its environment where these requirements have none yet."""
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = FOLDER / key
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / ".lock"):  # tests run in several processes
        if not (place / "made").exists():
            shutil.rmtree(place, ignore_errors=True)
            make(place)
            (place / "made").touch()
    return place / "bin" / "python"


def make(place: Path) -> None:
    """Make an environment with the pinned packages, and nothing that they ask for beside them."""
    finished([sys.executable, "-m", "venv", "--without-pip", str(place)])
    inside, asked = str(place / "bin" / "python"), ["--no-deps", "-r", str(REQUIREMENTS)]
    if uv := shutil.which("uv"):
        finished([uv, "pip", "install", "--quiet", "--python", inside, *asked])
    else:
        # No bytecode: most of what is installed is never imported.
        quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
        finished([sys.executable, "-m", "pip", "--python", inside, "install", *quiet, *asked])


def run(script: str, *arguments: object) -> dict[str, dict[str, Any]]:
    """What a validator of this folder says, by file."""
    words = [str(python()), str(Path(__file__).with_name(f"{script}.py")), *map(str, arguments)]
    return {told["file"]: told for told in map(json.loads, finished(words).splitlines())}


def finished(words: list[str]) -> str:
    """Run a program to its end; the test fails with what it said where it fails."""
    # Nothing of this environment may be found from the other.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    clean["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(words, capture_output=True, text=True, env=clean, timeout=600)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout
