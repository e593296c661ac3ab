"""The environment that every TensorRT-LLM process gets: one function, so that no stage can forget a part of it."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helpers.hardware import Machine
    from helpers.releases.installation import Installation

# Variables of schedulers and other MPI launchers: with them, MPI believes that it was started by one and waits for
# processes that never come (NVIDIA/TensorRT-LLM issues 2286 and 2172). PYTHONPATH would put our modules before its own,
# and Jupyter's MPLBACKEND names a module that a release does not have.
FOREIGN = (
    "SLURM_",
    "PMI",
    "OMPI_COMM_WORLD",
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "__PYVENV_LAUNCHER__",
    "MPLBACKEND",
)

ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
"""Open MPI refuses to run as root unless told twice; pods run everything as root."""


def worker_environment(
    release: "Path | Installation",
    gpus: int = 1,
    base: Mapping[str, str] | None = None,
    cuda_home: str | None = None,
    machine: "Machine | None" = None,
) -> dict[str, str]:
    """All variables for a process of a release.

    Args:
        release: an installation, or its interpreter.
        gpus: how many GPUs the process uses. For one, the engine runs within the process: by default MPI would start
            another for it, which needs slots that a container may not grant (NVIDIA/TensorRT-LLM issue 5495).
        base: the variables to start from; this process's own where None.
        cuda_home: the CUDA toolkit; looked for where None. Importing TensorRT-LLM 1.2 fails without one.
        machine: with the GPUs, for more than one of them; looked at where None. Where two have no direct path, the
            variables of ``data/several_gpus.toml`` are added (notebook 06). What ``base`` sets already stays.
    """
    python = release if isinstance(release, Path) else release.python
    base = dict(os.environ if base is None else base)
    kept = {name: value for name, value in base.items() if not name.startswith(FOREIGN)}
    home = cuda_home or find_cuda_home(base)
    folders = [str(python.parent), *([f"{home}/bin"] if home else [])]
    added = {
        **ROOT,
        "PATH": os.pathsep.join([*folders, base.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(_library_path(python, _listed(base.get("LD_LIBRARY_PATH")))),
        "PYTHONNOUSERSITE": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **({"CUDA_HOME": home} if home else {}),
        **({"TLLM_WORKER_USE_SINGLE_PROCESS": "1"} if gpus == 1 else {}),
    }
    if gpus > 1:
        kept.pop("TLLM_WORKER_USE_SINGLE_PROCESS", None)
        kept = {**_for_several(gpus, machine, base), **kept}
    return {**kept, **added}


def _for_several(gpus: int, machine: "Machine | None", base: Mapping[str, str]) -> dict[str, str]:
    """What a process on several GPUs needs: a way around the path they lack, and no sight of another product."""
    from helpers.hardware import equal_gpus, look
    from helpers.hardware.peers import among, automatic

    here = machine or look()
    added, same = automatic(among(here, gpus).direct), equal_gpus(here)
    if len(same) < len(here.gpus) and not {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"} & set(base):
        # A rank takes the device of its own number, and CUDA numbers the fastest first unless told otherwise.
        chosen = ",".join(str(gpu.index) for gpu in same[:gpus])
        added |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": chosen}
    return added


def _library_path(python: Path, theirs: list[str]) -> list[str]:
    """Where the loader looks: first the wheels' folders; after what is set already where the system's Python has them.

    NVIDIA's release image is such a system: it has CUDA and TensorRT of its own, and its own order of them.
    """
    ours = library_folders(python)
    return [*theirs, *ours] if python.parent in (Path("/usr/bin"), Path("/usr/local/bin")) else [*ours, *theirs]


def _listed(paths: str | None) -> list[str]:
    """The folders of a variable such as PATH."""
    return [part for part in (paths or "").split(os.pathsep) if part]


def find_cuda_home(base: Mapping[str, str]) -> str:
    """The CUDA toolkit's folder: ``CUDA_HOME``, what ``nvcc`` on PATH belongs to, or where pods keep it; else empty."""
    named = base.get("CUDA_HOME", "")
    nvcc = shutil.which("nvcc", path=base.get("PATH"))
    for folder in (named, str(Path(nvcc).resolve().parent.parent) if nvcc else "", "/usr/local/cuda"):
        if folder and Path(folder, "bin", "nvcc").exists():
            return folder
    return named if named and Path(named).is_dir() else ""


@cache
def site_packages(python: Path) -> tuple[Path, ...]:
    """Where an interpreter keeps its packages; empty where it does not answer."""
    code = "import site, sysconfig; print(sysconfig.get_path('purelib'), *site.getsitepackages(), sep='\\n')"
    try:
        told = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(dict.fromkeys(Path(line) for line in told.stdout.split("\n") if line and Path(line).is_dir()))


def library_folders(python: Path) -> list[str]:
    """Folders of shared libraries that came as wheels: CUDA's, torch's and TensorRT's.

    The loader does not look there by itself; without them ``libnvrtc.so.13`` or ``libcublasLt.so.13`` is not found.
    """
    patterns = ("nvidia/*/lib", "torch/lib", "tensorrt_libs", "tensorrt_llm/libs")
    found = [
        folder for place in site_packages(python) for pattern in patterns for folder in sorted(place.glob(pattern))
    ]
    return [str(folder) for folder in found]
