"""The exercises of notebook 02: which release an older driver runs, and which failure a log shows.

The judges are the table of releases (``data/releases.toml``) and that of known failures (``data/faults.toml``).
"""

from helpers import hardware, releases
from helpers.cards import Card
from helpers.exercises.asked import asked_in
from helpers.exercises.choosing import Option, choose_one
from helpers.releases import Release

_GPU, _DRIVER = "rtx-4090", "550.54.15"  # in the first exercise

LOG = "ImportError: libcublasLt.so.13: cannot open shared object file: No such file or directory"
"""What the second exercise's log says."""

_FAULTS = {
    "torch": ("torch for another CUDA", "PyTorch was built for another CUDA than TensorRT-LLM"),
    "mpi": ("no MPI library", "the system's MPI library is missing; its log says `cannot load MPI library`"),
    "driver": (
        "driver too old",
        "the driver is too old; its log says `CUDA driver version is insufficient for CUDA runtime version`",
    ),
    "index": (
        "placeholder package",
        "NVIDIA's index was not reached, or has no wheel; its log says `special placeholder package`",
    ),
}
"""What can be answered: the row of ``data/faults.toml``, and what it is."""


@asked_in("02_installation")
def check_release(answer: object = None) -> Card:
    """Which release does this workshop install on an RTX 4090 whose driver is 550?

    Args:
        answer: a version, such as ``"1.1.0"``; None while there is no answer.
    """
    sheet = hardware.by_key(_GPU)
    right = releases.choose(sheet.compute_capability, sheet.name, _DRIVER).release
    options = {
        row.version: Option(right is not None and row.version == right.version, _told(row, sheet.compute_capability))
        for row in releases.releases()
    }
    return choose_one(
        f"A pod with a {sheet.name} and driver {_DRIVER}: which release does the workshop install?",
        answer,
        options,
        f"give one of {', '.join(options)}. It must be offered, have kernels for the GPU, and run with the driver.",
        "It is the newest that is offered and fits.",
    )


def _told(row: Release, capability: tuple[int, int]) -> str:
    """What a release asks of a GPU's driver, and why the workshop does not offer it if it does not."""
    needed, has = row.driver_for(capability), int(_DRIVER.partition(".")[0])
    driver = (
        f"{row.version} is built for CUDA {row.cuda} and needs driver {needed} or newer"
        f"{'; only the host can change a driver' if has < needed else f', and {has} is newer'}."
    )
    return driver if row.offered else f"{driver} The workshop does not offer it: {row.refusal.rstrip('.')}."


@asked_in("02_installation")
def check_fault(answer: object = None) -> Card:
    """What is the cause of a log that ends with `libcublasLt.so.13: cannot open shared object file`?

    Args:
        answer: ``torch``, ``mpi``, ``driver`` or ``index``; None while there is no answer.
    """
    found = releases.explain(LOG)
    options = {
        name: Option(True, "") if found and found.name == row else Option(False, f"That would be: {said}.")
        for name, (row, said) in _FAULTS.items()
    }
    return choose_one(
        f"A log ends with `{LOG}`. What is wrong: {', '.join(options)}?",
        answer,
        options,
        f"give one of {', '.join(options)}. The number in the file's name is a version of CUDA.",
        f"{found.cause} Remedy: {found.remedy}" if found else "",
    )
