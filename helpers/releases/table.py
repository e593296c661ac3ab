"""TensorRT-LLM's releases (``data/releases.toml``), and which of them a GPU and its driver get (notebook 02)."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.cards import Shown, Table
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.hardware import Machine

RELEASE_TABLE = Path(__file__).parents[2] / "data" / "releases.toml"


@dataclass(frozen=True)
class Release:
    """A release of TensorRT-LLM: what it needs, and whether this workshop offers it.

    Args:
        version: such as ``1.2.1``.
        offered: this workshop installs and drives it.
        cuda: the toolkit that it was built with; the major version decides.
        driver: the oldest NVIDIA driver branch, such as 580.
        driver_by_capability: exceptions, by compute capability.
        pythons: versions with a wheel, the best first.
        torch, torch_index, torch_cuda: the version to install, from where, and how ``torch.version.cuda`` then begins.
        tensorrt, transformers, modelopt: the versions that it asks for.
        reads_modelopt: oldest and newest ModelOpt (major.minor) whose Llama checkpoints it is known to read.
        engine_workflow: it has ``trtllm-build`` and engines.
        engine_backend: how its ``trtllm-serve`` spells the backend that runs engines.
        capabilities: compute capabilities that it has kernels for.
        system_packages: what must be on the system, by Debian's names.
        constraints: a file in ``data/constraints`` for pip; empty where it is not offered.
        container: NVIDIA's image of the same release.
        refusal: why it is not offered; empty where it is.
        source: where all this comes from.
    """

    version: str
    offered: bool
    cuda: str
    driver: int
    driver_by_capability: Mapping[str, int]
    pythons: tuple[str, ...]
    torch: str
    torch_index: str
    torch_cuda: str
    tensorrt: str
    transformers: str
    modelopt: str
    reads_modelopt: tuple[str, str]
    engine_workflow: bool
    engine_backend: str
    capabilities: tuple[str, ...]
    system_packages: tuple[str, ...]
    constraints: str
    container: str
    refusal: str
    source: str

    def kernels(self, capability: tuple[int, int]) -> str | None:
        """The compute capability whose kernels run on a GPU of ``capability``; None where it has none.

        They run on later members of the same generation too: those for 10.0 on 10.3.
        """
        fitting = [known for known in map(_numbers, self.capabilities) if known[0] == capability[0]]
        older = [known for known in fitting if known <= capability]
        return _text(max(older)) if older else None

    def driver_for(self, capability: tuple[int, int]) -> int:
        """The oldest driver branch with which it runs on a GPU of ``capability``."""
        exact = self.driver_by_capability.get(_text(capability))
        return exact or self.driver_by_capability.get(self.kernels(capability) or "", self.driver)


def _numbers(capability: str) -> tuple[int, int]:
    """``8.9`` as (8, 9)."""
    major, _, minor = capability.partition(".")
    return int(major), int(minor)


def _text(capability: tuple[int, int]) -> str:
    """(8, 9) as ``8.9``."""
    return f"{capability[0]}.{capability[1]}"


@cache
def _rows() -> tuple[Release, ...]:
    """``data/releases.toml``."""
    found = []
    for version, row in tomllib.loads(RELEASE_TABLE.read_text()).items():
        lists = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
        oldest, newest = lists.pop("reads_modelopt") or ("", "")
        found.append(Release(version=version, **{**row, **lists, "reads_modelopt": (oldest, newest)}))
    return tuple(found)


def releases() -> list[Release]:
    """Every release of the table, newest first."""
    return list(_rows())


def offered() -> list[Release]:
    """The releases that this workshop installs and drives, newest first."""
    return [release for release in _rows() if release.offered]


def release(version: str) -> Release:
    """The release ``version``, which must be one that is offered.

    Raises:
        WorkshopError: it is not offered; says why, and which are.
    """
    found = next((row for row in _rows() if row.version == version), None)
    if found and found.offered:
        return found
    why = f": {found.refusal}" if found else ", and its table says nothing of it"
    choices = " or ".join(row.version for row in offered())
    raise WorkshopError(f"This workshop does not offer TensorRT-LLM {version}{why}. Choose {choices}.")


@dataclass(frozen=True, repr=False)
class Choice(Shown):
    """Which release a machine gets; shows every release of the table with the reason.

    Args:
        release: None where none fits.
        why: one sentence or two: why this one, or why none and what to do instead.
        table: one line a release.
        fitting: the versions of all offered releases that fit, newest first: one that is there already need not be
            the newest.
    """

    release: Release | None
    why: str
    table: Table
    fitting: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def choose(capability: tuple[int, int] | None, gpu_name: str, driver: str) -> Choice:
    """The newest offered release that has kernels for a GPU and runs with its driver.

    Args:
        capability: the GPU's compute capability; None where there is no GPU.
        gpu_name: the GPU, as messages call it.
        driver: the NVIDIA driver's version, such as ``580.65.06``.
    """
    branch = driver.partition(".")[0]
    installed = int(branch) if branch.isdigit() else 0
    verdicts = {row.version: _obstacle(row, capability, gpu_name, installed) for row in _rows()}
    fitting = next((row for row in offered() if not verdicts[row.version]), None)
    why = (
        f"TensorRT-LLM {fitting.version} (CUDA {fitting.cuda}) is the newest of these that fits: it has kernels for "
        f"the {gpu_name} and runs with driver {driver}."
        if fitting
        else _why_none(capability, gpu_name, driver)
    )
    lines = [
        (
            row.version,
            row.cuda,
            row.driver if capability is None else row.driver_for(capability),
            "not offered" if not row.offered else "no" if verdicts[row.version] else "yes",
            row.refusal or verdicts[row.version] or f"Python {' or '.join(row.pythons)}, torch {row.torch}",
        )
        for row in _rows()
    ]
    columns = ("release", "CUDA", "oldest driver", "fits", "why, or what comes with it")
    fits = tuple(row.version for row in offered() if not verdicts[row.version])
    return Choice(fitting, why, Table(columns, lines, "TensorRT-LLM: which release fits", why), fits)


def _obstacle(row: Release, capability: tuple[int, int] | None, gpu_name: str, driver: int) -> str:
    """What keeps a release from a GPU; empty where nothing does."""
    if capability is None:
        return "needs an NVIDIA GPU"
    if row.kernels(capability) is None:
        return f"no kernels for the {gpu_name} (compute capability {_text(capability)})"
    needed = row.driver_for(capability)
    return f"needs driver {needed} or newer" if driver < needed else ""


def _why_none(capability: tuple[int, int] | None, gpu_name: str, driver: str) -> str:
    """Why no offered release fits, and what to do instead."""
    oldest = min(_numbers(known) for row in offered() for known in row.capabilities)
    if capability is None:
        return (
            f"There is no NVIDIA GPU here, and TensorRT-LLM needs one of compute capability {_text(oldest)} or newer. "
            "Use the CPU toolchain, which needs nothing more, or rent such a GPU."
        )
    usable = [row for row in offered() if row.kernels(capability)]
    if not usable:
        return (
            f"The {gpu_name} cannot run TensorRT-LLM: its compute capability is {_text(capability)}, and the releases "
            f"carry kernels for {', '.join(offered()[0].capabilities)}. Use the CPU toolchain, or rent a GPU of "
            f"compute capability {_text(oldest)} or newer, such as an A10G or an RTX 4090."
        )
    least = min(usable, key=lambda row: row.driver_for(capability))
    best = usable[0]
    newer = f"; {best.version} needs {best.driver_for(capability)}" if best is not least else ""
    return (
        f"Driver {driver or '(unknown)'} is too old for TensorRT-LLM: {least.version} needs "
        f"{least.driver_for(capability)} or newer on the {gpu_name}{newer}. Rent a pod whose driver is newer: only its "
        "host can change it."
    )


def choose_here(machine: "Machine | None" = None) -> Choice:
    """:func:`choose` for a machine's first usable GPU, else for its first; for this machine where None is given."""
    from helpers.hardware import look, supported_gpu

    here = machine or look()
    gpu = supported_gpu(here) or (here.gpus[0] if here.gpus else None)
    return choose(gpu.compute_capability, gpu.name, here.driver) if gpu else choose(None, "", here.driver)
