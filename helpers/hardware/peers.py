"""How two GPUs of this machine reach each other's memory, and what is set where they cannot (notebook 06).

Ranks of one engine add up their results after every attention and every MLP. With a direct path (NVLink, or PCIe where
chipset and driver allow it) a GPU writes into the other's memory; without one, every exchange goes through the host's
memory. The driver is asked (:func:`helpers.hardware.look`); nothing is run on a GPU. The settings are
``data/several_gpus.toml``.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from helpers.cards import ShownAsTable, Table, bytes_text
from helpers.hardware.gpus import Datasheet, datasheet, datasheets
from helpers.hardware.machine import Gpu, Link, Machine, equal_gpus, look, supported_gpu
from helpers.workspace import DATA

NVLINK, PCIE, HOST, UNKNOWN = "direct over NVLink", "direct over PCIe", "through the host's memory", "not told"
"""The paths between two GPUs."""

LEAST_SHARED_MEMORY = 10**9
"""Bytes of /dev/shm below which ranks may not find room: TensorRT-LLM's own advice for containers is 1 GB."""

SHARED_MEMORY_ADVICE = "start the container with --ipc=host or --shm-size=8g"

_STATUS = {
    0: "yes",
    1: "no: the chipset does not support it",
    2: "no: the GPU does not support it",
    3: "no: not across these PCIe root ports",
    4: "no: switched off in the driver's settings",
    5: "no: not supported",
}
"""What NVML answers about peer-to-peer access (nvmlGpuP2PStatus_t)."""

_COMMON = {
    0: "one board",
    10: "one PCIe switch",
    20: "several PCIe switches",
    30: "one PCIe host bridge",
    40: "one processor",
    50: "nothing nearer than the link between processors",
}
"""Where the ways of two GPUs meet (nvmlGpuTopologyLevel_t)."""

_PUBLISHED = {
    "nvlink": f"datasheet: {NVLINK}, on the boards that it is sold on",
    "nvlink bridge": f"datasheet: {NVLINK} where somebody mounted a bridge",
    "none": f"published: {HOST}; NVIDIA's driver offers no direct path",
    "": "no source was found: the driver's answer on such a machine counts",
}
"""``peer_to_peer`` of ``data/gpus.toml`` in words."""


@dataclass(frozen=True)
class Setting:
    """An environment variable for programs that use several GPUs; a row of ``data/several_gpus.toml``.

    Attributes:
        name, value: as it is set.
        automatic: True if the workshop sets it where two GPUs have no direct path; False: by hand, as ``why`` says.
        why: what it does, and what it is good for.
        source: who says so.
    """

    name: str
    value: str
    automatic: bool
    why: str
    source: str


@cache
def known_settings() -> tuple[Setting, ...]:
    """The rows of ``data/several_gpus.toml``."""
    rows = tomllib.loads((DATA / "several_gpus.toml").read_text())["setting"]
    return tuple(Setting(row["name"], row["value"], row["automatic"], row["why"], row["source"]) for row in rows)


def path(link: Link) -> str:
    """How two GPUs reach each other's memory, by what the driver tells of them: one of four phrases."""
    if link.read is None or link.write is None:
        return UNKNOWN
    if link.read != 0 or link.write != 0:
        return HOST
    over_nvlink = link.nvlink == 0 if link.nvlink is not None else bool(link.nvlinks)
    return NVLINK if over_nvlink else PCIE


@dataclass(frozen=True, repr=False)
class Peers(ShownAsTable):
    """What the driver says about each pair of this machine's GPUs.

    Attributes:
        links: one for each pair; empty with fewer than two whole GPUs.
        gpu: the GPU that engines are built for; None without one.
        count: how many of its product one engine could be split over.
    """

    links: tuple[Link, ...]
    gpu: Gpu | None = None
    count: int = 0

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of each pair."""
        return tuple(map(path, self.links))

    @property
    def direct(self) -> bool | None:
        """True if every pair has a direct path, False if one has none; None with no pair, or where nothing is told."""
        if HOST in self.paths:
            return False
        return None if not self.links or UNKNOWN in self.paths else True

    def table(self) -> Table:
        """One line a pair; with fewer than two GPUs, what is published about two of them."""
        if not self.links:
            return self._published()
        columns = ("GPUs", "may read", "may write", "their ways meet at", "NVLinks up", "path")
        return Table(columns, [_row(link) for link in self.links], "What the driver says about each pair", self._note())

    def _note(self) -> str:
        chosen = ", ".join(f"{s.name}={s.value}" for s in known_settings() if s.automatic)
        if self.direct is False:
            return (
                "Where no direct path is, every exchange between ranks is copied through the host's memory: slower, "
                f"and where runs with several GPUs hang most often. For such runs the workshop sets {chosen}, unless "
                "you have set them yourself."
            )
        if self.direct is None:
            return (
                "This driver does not tell of every pair, so nothing is set for runs with several GPUs. "
                f"If one hangs, set {chosen}."
            )
        how = NVLINK if set(self.paths) == {NVLINK} else PCIE if set(self.paths) == {PCIE} else "directly"
        return (
            f"A GPU reads and writes the other's memory {how.removeprefix('direct ')}: ranks exchange results without "
            "the host's memory, and nothing needs to be set. If a run with several GPUs hangs all the same, set "
            f"{chosen}."
        )

    def _published(self) -> Table:
        """What is known about two GPUs of a product, for a machine that has not two."""
        here = datasheet(self.gpu.name) if self.gpu else None
        columns = ("GPU", "two of them reach each other")
        if self.gpu and self.gpu.is_slice:
            rows = [(self.gpu.name, f"{HOST}, if at all: slices of a split GPU are no peers of each other")]
            return Table(columns, rows, "A slice of a GPU here: nothing to probe")
        if self.gpu:
            rows = [(self.gpu.name, _published(here))]
            note = f"One GPU here: nothing to probe. Of two, {_lower(_published(here))}."
            return Table(columns, rows, "What is published about two of this GPU", note)
        rows = [(sheet.name, _published(sheet)) for sheet in datasheets() if sheet.peer_to_peer and not sheet.slice_of]
        note = (
            "No GPU here that an engine could use: nothing to probe. On a machine with two, this table is the driver's "
            "own answer for each pair."
        )
        return Table(columns, rows, "What is published about two GPUs of one product", note)


def _lower(text: str) -> str:
    """The same words within a sentence: what is published keeps its label behind."""
    label, colon, words = text.partition(": ")
    return f"{words.strip()} ({label})" if colon and label in ("datasheet", "published") else f"{text}"


def _published(sheet: Datasheet | None) -> str:
    """What is published about two of a product."""
    return _PUBLISHED[sheet.peer_to_peer if sheet else ""]


def _row(link: Link) -> tuple[str, str, str, str, str, str]:
    """One pair, in words."""

    def told(words: Mapping[int, str], answer: int | None) -> str:
        return UNKNOWN if answer is None else words.get(answer, UNKNOWN)

    up = "none told" if link.nvlinks is None else str(link.nvlinks)
    read, write = told(_STATUS, link.read), told(_STATUS, link.write)
    return f"{link.first} and {link.second}", read, write, told(_COMMON, link.common), up, path(link)


def peers(machine: Machine | None = None) -> Peers:
    """How the GPUs of a machine reach each other's memory, as its driver says; asks nothing else and runs nothing.

    Args:
        machine: from :func:`helpers.hardware.look`; None to look now.
    """
    here = machine or look()
    return Peers(here.links, supported_gpu(here), len(equal_gpus(here)))


def among(machine: Machine, gpus: int) -> Peers:
    """The same for the GPUs alone that an engine of so many ranks would use."""
    used = {gpu.index for gpu in equal_gpus(machine)[:gpus]}
    links = tuple(link for link in machine.links if {link.first, link.second} <= used)
    return Peers(links, supported_gpu(machine), len(used))


def automatic(direct: bool | None) -> dict[str, str]:
    """The variables that the workshop sets for several GPUs: some where two have no direct path, none elsewhere."""
    return {s.name: s.value for s in known_settings() if s.automatic and direct is False}


def settings_for_several(machine: Machine | None = None, base: Mapping[str, str] | None = None) -> Table:
    """The variables that matter to programs on several GPUs: what each does, and whether it is set on this machine.

    Args:
        machine: from :func:`helpers.hardware.look`; None to look now.
        base: the variables that are set already; this process's own where None. The workshop changes none of them.
    """
    found, mine = peers(machine), os.environ if base is None else base
    chosen = automatic(found.direct)
    rows = [(f"{s.name}={s.value}", _set_here(s, chosen, mine), s.why) for s in known_settings()]
    if found.direct is None:
        note = "Fewer than two GPUs here, or a driver that does not tell: the workshop sets none of them."
    elif chosen:
        note = f"Two GPUs here have no direct path: the workshop sets {' and '.join(chosen)} for runs over several."
    else:
        note = "Every pair of GPUs here has a direct path: the workshop sets none of them."
    told = f"{note} {_shared_memory(machine or look())} Sources: data/several_gpus.toml."
    return Table(("setting", "set here", "what it does"), rows, "Settings for runs over several GPUs", told)


def _shared_memory(machine: Machine) -> str:
    """What this machine's shared memory means for ranks that exchange results through it."""
    size = machine.shared_memory_bytes
    if size is None:
        return "This system has no /dev/shm."
    enough = "enough" if size >= LEAST_SHARED_MEMORY else f"too little: {SHARED_MEMORY_ADVICE}"
    return f"Where there is no direct path, ranks meet in /dev/shm: {bytes_text(size)} here, {enough}."


def _set_here(setting: Setting, chosen: Mapping[str, str], mine: Mapping[str, str]) -> str:
    """Who sets a variable on this machine."""
    if setting.name in mine:
        return f"by you, to {mine[setting.name]!r}"
    return "by the workshop" if setting.name in chosen else "no"


def shared_memory_warning(machine: Machine, ranks: int) -> str:
    """One line on a /dev/shm that is small for so many ranks; empty where it is large enough, or one rank."""
    size = machine.shared_memory_bytes
    if ranks < 2 or size is None or size >= LEAST_SHARED_MEMORY:
        return ""
    return (
        f"Warning: /dev/shm has {bytes_text(size)}, and {ranks} ranks exchange results through it. If the run hangs or "
        f"ends with a bus error, {SHARED_MEMORY_ADVICE}."
    )
