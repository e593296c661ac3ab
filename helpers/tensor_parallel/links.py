"""How GPUs of one machine reach each other, and how long an exchange takes (``data/links.toml``, notebook 06)."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from helpers import hardware
from helpers.errors import WorkshopError
from helpers.hardware import Datasheet
from helpers.workspace import DATA


@dataclass(frozen=True)
class Interconnect:
    """How GPUs of one machine reach each other; a row of ``data/links.toml``.

    Attributes:
        key: of the row.
        name: as a person calls it.
        rate: bytes a second that one GPU sends, while it receives as many.
        all_reduce_seconds: number of GPUs to the time of one all-reduce of a few kB.
        label: of that time: ``recorded``, ``published`` or ``estimate``.
        gpus_at_most: that it joins.
    """

    key: str
    name: str
    rate: float
    all_reduce_seconds: Mapping[int, float]
    label: str
    gpus_at_most: int = 1024

    def latency(self, ranks: int) -> float:
        """Seconds of an all-reduce so small that its bytes do not count; 0 for one rank.

        Of a number that nobody timed: t(n) = t(m) × ⌈log₂ n⌉ / ⌈log₂ m⌉ with the nearest m that somebody did, since
        partial sums can be added up in pairs: an estimate.
        """
        if ranks == 1:
            return 0.0
        nearest = min(self.all_reduce_seconds, key=lambda timed: (abs(math.log2(ranks / timed)), timed))
        return self.all_reduce_seconds[nearest] * _doublings(ranks) / _doublings(nearest)

    def all_reduce(self, ranks: int, size: float) -> float:
        """Seconds to add up ``size`` bytes of every rank: latency, and 2 (n − 1) / n × bytes / rate."""
        return self.latency(ranks) + 2 * (ranks - 1) / ranks * size / self.rate

    def all_gather(self, ranks: int, size: float) -> float:
        """Seconds until every rank has ``size`` bytes of which each made a part; starts as an all-reduce does."""
        return self.latency(ranks) + (ranks - 1) / ranks * size / self.rate

    def send(self, size: float) -> float:
        """Seconds to hand ``size`` bytes to one other rank; starts as an all-reduce of two does."""
        return self.latency(2) + size / self.rate

    def all_to_all(self, ranks: int, size: float) -> float:
        """Seconds until every rank has sent each other one its part of ``size`` bytes, to all of them at once."""
        return 0.0 if ranks == 1 else self.latency(2) + (ranks - 1) / ranks * size / self.rate


def _doublings(ranks: int) -> int:
    """⌈log₂ n⌉: how often a number of ranks is halved until one is left."""
    return (ranks - 1).bit_length()


@cache
def links() -> Mapping[str, Interconnect]:
    """The links of ``data/links.toml`` by key."""
    rows = _link_rows()

    def timed(row: Mapping[str, Any]) -> Mapping[int, float]:
        told = rows[row["all_reduce_of"]] if "all_reduce_of" in row else row
        return {int(ranks): float(seconds) for ranks, seconds in told["all_reduce_seconds"].items()}

    return {
        key: Interconnect(
            key, row["name"], row["rate"] * 1e9, timed(row), row["all_reduce_label"], row.get("gpus_at_most", 1024)
        )
        for key, row in rows.items()
    }


@cache
def _link_rows() -> Mapping[str, Mapping[str, Any]]:
    """``data/links.toml``."""
    return tomllib.loads((DATA / "links.toml").read_text())


def link_of(gpu: str | Datasheet) -> Interconnect:
    """The link that joins several of a GPU: NVLink where it is part of their board, else PCIe of their generation.

    A bridge is not counted on, since few machines have one mounted: ``links()["nvlink-bridge"]`` asks for it.

    Raises:
        WorkshopError: the GPU is unknown, or a MIG slice, whose kind reaches no other.
    """
    sheet = sheet_of(gpu)
    if sheet.slice_of:
        raise WorkshopError(
            f"{sheet.name} is a slice of a GPU, and slices reach no other GPU's memory, so a model cannot be split "
            f"over several. Choose a whole GPU, such as {sheet.slice_of!r}."
        )
    wanted = "nvlink" if sheet.peer_to_peer == "nvlink" else "none"
    for key, row in _link_rows().items():
        if row["peer_to_peer"] == wanted and sheet.architecture in row["architectures"]:
            return links()[key]
    raise WorkshopError(
        f"data/links.toml has no link for the {sheet.name} ({sheet.architecture}). Name one: {', '.join(links())}."
    )


def sheet_of(gpu: str | Datasheet) -> Datasheet:
    """A GPU's datasheet, or the one of a key of ``data/gpus.toml``."""
    return hardware.by_key(gpu) if isinstance(gpu, str) else gpu


def chosen(link: str | Interconnect | None, sheet: Datasheet, ranks: int) -> Interconnect:
    """The link that was asked for, or the GPU's own.

    Raises:
        WorkshopError: there is no such link, or it joins fewer GPUs.
    """
    if isinstance(link, str) and link not in links():
        raise WorkshopError(f"There is no link {link!r} in data/links.toml. Choose one of {', '.join(links())}.")
    found = links()[link] if isinstance(link, str) else link or link_of(sheet)
    if ranks > found.gpus_at_most:
        raise WorkshopError(
            f"The {found.name} joins {found.gpus_at_most} GPUs, and {ranks} were asked for. Choose fewer, or leave "
            "the link out."
        )
    return found
