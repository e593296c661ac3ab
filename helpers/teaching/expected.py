"""How long a stage will probably take, and the evidence: this machine's own manifests first, then a record of another.

``data/measured/stage-times.toml`` holds the seconds and bytes of every stage on machines that are named there; it is
written by :mod:`tools.record_stage_times` from a workspace's manifests.
"""

import contextlib
import os
import statistics
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from helpers import workspace
from helpers.cards import bytes_text
from helpers.workspace import DATA, Artifact

RECORD = DATA / "measured" / "stage-times.toml"
_RESTORED = "restored.txt"
_NOT_STAGES = ("benchmarks", "runs", "scratch")
_ASSUMED_DOWNLOAD = 50e6
"""Bytes per second of a download where this machine has not done any."""

_ASSUMED_COPY = 100e6
"""Bytes per second of a copy from a bundle, checked on arrival: a USB disk reads about as fast."""


@dataclass(frozen=True)
class Time:
    """What something is expected to take.

    Attributes:
        seconds: None where nothing tells.
        evidence: where that comes from, with its label.
    """

    seconds: float | None
    evidence: str


@dataclass(frozen=True)
class Record:
    """What stages took on one machine.

    Attributes:
        name: the machine's.
        toolchain: that it used.
        date: when, ISO 8601.
        stages: place in the workspace to ``{"kind", "seconds", "bytes"}``.
    """

    name: str
    toolchain: str
    date: str
    stages: Mapping[str, Mapping[str, Any]]


@cache
def records() -> tuple[Record, ...]:
    """All machines of the record."""
    if not RECORD.exists():
        return ()
    return tuple(Record(**row) for row in tomllib.loads(RECORD.read_text(encoding="utf-8"))["machines"])


def machine_name() -> str:
    """This machine, as the record names machines: its GPU, else its processor and cores."""
    from helpers import hardware

    machine = hardware.look()
    if machine.gpus:
        return machine.gpus[0].name
    return f"{machine.cpu.model}, {machine.cpu.cores} cores"


def busy_text() -> str:
    """A sentence where more work waits for this machine's cores than it has; else empty."""
    cores = os.cpu_count() or 1
    try:
        waiting = os.getloadavg()[0]
    except (AttributeError, OSError):  # not told on every system
        return ""
    if waiting < 1.5 * cores:
        return ""
    return f"It will take longer: this machine is busy now (measured: a load of {waiting:.1f} on {cores} cores)."


def made_here() -> dict[str, Artifact]:
    """Place in the workspace to what was made there by a stage of this machine."""
    restored = _restored()
    found = {}
    for artifact in workspace.artifacts():
        place = artifact.path.relative_to(workspace.home()).as_posix()
        if place not in restored and place.split("/")[0] not in _NOT_STAGES:
            found[place] = artifact
    return found


def _restored() -> set[str]:
    try:
        return set((workspace.home() / _RESTORED).read_text(encoding="utf-8").splitlines())
    except OSError:
        return set()


def note_restored(places: Iterable[str]) -> None:
    """Remember that these were copied here, so that their seconds do not count as this machine's."""
    new = sorted(set(places) - _restored())
    if new:
        with contextlib.suppress(OSError), (workspace.home() / _RESTORED).open("a", encoding="utf-8") as file:
            file.writelines(f"{place}\n" for place in new)


class Clock:
    """Expected times for this machine, from one look at its workspace."""

    def __init__(self) -> None:
        from helpers import toolchains

        toolchain = toolchains.best().name
        self.here = made_here()
        self.name = machine_name()
        fitting = [record for record in records() if record.toolchain == toolchain]
        fitting.sort(key=lambda record: record.name != self.name)  # this very kind of machine first
        self.record = fitting[0] if fitting else None
        self.pace, self.compared = self._pace()

    def _pace(self) -> tuple[float, int]:
        """How many times as long as the recorded machine this one takes, and over how many stages that was seen."""
        stages = self.record.stages if self.record else {}
        pairs = [
            (made.manifest.seconds, stages[place]["seconds"]) for place, made in self.here.items() if place in stages
        ]
        ratios = [here / there for here, there in pairs if here > 1 and there > 1]
        return (statistics.median(ratios), len(ratios)) if ratios else (1.0, 0)

    def of(self, place: str, kind: str) -> Time:
        """What making the artifact at a place will take."""
        if place in self.here:
            return Time(self.here[place].manifest.seconds, "measured: when it was made here before")
        if self.record and place in self.record.stages:
            return self._scaled(float(self.record.stages[place]["seconds"]))
        return self._like_others(kind)

    def _scaled(self, seconds: float, what: str = "") -> Time:
        """A recorded time at this machine's pace."""
        assert self.record is not None
        evidence = f"recorded:{what} {seconds:.0f} s on {self.record.name}"
        if self.compared:
            evidence += f", × {self.pace:.2f} as {self.compared} made here"
        return Time(seconds * self.pace, evidence)

    def _like_others(self, kind: str) -> Time:
        """The median of its kind, here or in the record."""
        own = [made.manifest.seconds for made in self.here.values() if made.manifest.kind == kind]
        if own:
            return Time(statistics.median(own), f"predicted: the median of {len(own)} made here, kind: {kind}")
        stages = self.record.stages.values() if self.record else ()
        others = [float(row["seconds"]) for row in stages if row["kind"] == kind]
        return self._scaled(statistics.median(others), f" median {kind},") if others else self.unknown()

    def of_title(self, title: str) -> Time:
        """What a step will take whose stage cannot be asked yet, by the kind that its title begins with."""
        kinds = {"keys": "capture", "perplexity": "score", "requests": "batch", "model": "model"}
        word = title.split()[0].rstrip(",")
        return self._like_others(kinds.get(word, word))

    def of_download(self, size: int) -> Time:
        """What a download of so many bytes will take."""
        if not size:
            return self.unknown()
        rates = [
            made.bytes / made.manifest.seconds
            for made in self.here.values()
            if "repository" in made.manifest.options and made.manifest.seconds
        ]
        rate = statistics.median(rates) if rates else _ASSUMED_DOWNLOAD
        how = "measured here" if rates else "assumed"
        return Time(size / rate, f"predicted: {bytes_text(size)} at {bytes_text(round(rate))} a second, {how}")

    def of_copy(self, size: int) -> Time:
        """What a copy of so many bytes from a bundle will take."""
        rate = bytes_text(round(_ASSUMED_COPY))
        return Time(size / _ASSUMED_COPY, f"predicted: {bytes_text(size)} at {rate} a second, assumed")

    def bytes_of(self, place: str) -> int | None:
        """The size that an artifact had on the recorded machine."""
        row = self.record.stages.get(place) if self.record else None
        return int(row["bytes"]) if row else None

    @staticmethod
    def unknown() -> Time:
        """Nothing tells how long."""
        return Time(None, "not known: nothing like it was made or recorded")
