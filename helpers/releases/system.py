"""What TensorRT-LLM needs of the system before gigabytes are downloaded, and whether it is there (notebook 02)."""

import contextlib
import ctypes.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from helpers.cards import Table, bytes_text
from helpers.hardware.preflight import ENVIRONMENT_BYTES
from helpers.releases.environment import find_cuda_home
from helpers.releases.installation import folder
from helpers.releases.table import Release, offered
from helpers.workspace import DATA

if TYPE_CHECKING:
    from helpers.hardware import Machine


@dataclass(frozen=True)
class System:
    """What an installation needs of the system, as found; empty where it is not there.

    Attributes:
        python: an interpreter with headers that the release has a wheel for, or the version that uv shall fetch.
        occupied: bytes of the environment that are there already, from a run that was interrupted.
    """

    platform: str
    mpi: str
    numa: str
    compiler: str
    cuda_home: str
    python: str
    occupied: int = 0

    @classmethod
    def look(cls, wanted: Release) -> "System":
        """This system, for a release."""
        return cls(
            python=interpreter(wanted),
            occupied=sum(p.lstat().st_size for p in folder(wanted.version).rglob("*")),
            platform=f"{platform.system()} {platform.machine()}",
            mpi=ctypes.util.find_library("mpi") or "",
            numa=ctypes.util.find_library("numa") or "",
            compiler=shutil.which("gcc") or shutil.which("cc") or "",
            cuda_home=find_cuda_home(os.environ),
        )


def preconditions(wanted: Release, machine: "Machine", system: System | None = None) -> Table:
    """One line a thing that must be there before gigabytes are downloaded, each with the one thing to do.

    The workshop changes nothing on the system itself: the note has the one line that installs what is missing.
    """
    system = system or System.look(wanted)
    fits = system.platform in ("Linux x86_64", "Linux aarch64")
    room = machine.disk_free_bytes + system.occupied >= ENVIRONMENT_BYTES
    python = f"{system.python}, fetched by uv" if system.python in wanted.pythons else system.python
    rows = [
        _row("system", system.platform, fits, "wheels are for Linux on x86_64 and aarch64 only; use WSL on Windows"),
        _row("disk", f"{bytes_text(machine.disk_free_bytes)} free at {machine.disk_path}", room, _disk_advice()),
        _row("Python with headers", python, True, ""),
    ]
    packages = {
        "MPI library": (system.mpi, "libopenmpi-dev"),
        "libnuma": (system.numa, "libnuma1"),
        "C compiler": (system.compiler, "build-essential"),
    }
    rows += [_row(name, found, bool(found), f"install {package}") for name, (found, package) in packages.items()]
    toolkit = "set CUDA_HOME to the toolkit's folder, or rent a pod with a 'devel' image"
    rows.append(_row("CUDA toolkit", system.cuda_home, bool(system.cuda_home), toolkit))
    shared = machine.shared_memory_bytes or 0
    small = shared < 10**9
    advice = "enough for one GPU; for several start the container with --ipc=host or --shm-size=8g" if small else ""
    rows.append(["/dev/shm", bytes_text(shared), "warning" if small else "ok", advice])
    stops = [row[0] for row in rows if row[2] == "stop"]
    note = f"Before anything is downloaded, mend: {', '.join(stops)}." if stops else "All of it is there."
    absent = [package for found, package in packages.values() if not found]
    if absent:
        note += f" As root: apt-get update && apt-get install -y {' '.join(absent)}"
    return Table(
        ["needed", "found", "verdict", "what to do"], rows, f"Before TensorRT-LLM {wanted.version} is installed", note
    )


def companions(wanted: Release | None = None) -> Table:
    """What a release asks of its companions, beside the versions in the notebooks' own environment.

    Args:
        wanted: the release; None for the newest that is offered.
    """
    from packaging.requirements import Requirement

    row = wanted or offered()[0]
    lines = (DATA / "constraints" / row.constraints).read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    rows = []
    for pin in pins:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found = metadata.version(pin.name)
            # A build for another CUDA has the same number and another name behind the plus sign.
            fits = pin.specifier.contains(found, prereleases=True)
            rows.append([pin.name, str(pin.specifier), found, "fits" if fits else "does not fit"])
    fights = [name for name, *_, verdict in rows if verdict != "fits"]
    note = f"{len(fights)} of {len(rows)} do not fit: {', '.join(fights)}." if fights else "All of them fit, today."
    columns = ["package", f"TensorRT-LLM {row.version} wants", "here", "verdict"]
    return Table(columns, rows, "Pins of the release, and this environment", note)


def _row(name: str, found: str, good: bool, to_do: str) -> list[str]:
    return [name, found or "not found", "ok" if good else "stop", "" if good else to_do]


def _disk_advice() -> str:
    return f"{bytes_text(ENVIRONMENT_BYTES)} are needed: free some, or set WORKSHOP_HOME to a larger disk"


def interpreter(wanted: Release) -> str:
    """A Python that the release has a wheel for, with headers, that can make environments; else a version for uv."""
    for version in wanted.pythons:
        here = ".".join(map(str, sys.version_info[:2])) == version
        found = sys.executable if here else shutil.which(f"python{version}")
        code = (
            "import ensurepip, venv, sysconfig, pathlib; "
            "assert (pathlib.Path(sysconfig.get_path('include')) / 'Python.h').exists()"
        )
        if found and subprocess.run([found, "-c", code], capture_output=True, check=False).returncode == 0:
            return found
    return wanted.pythons[0]
