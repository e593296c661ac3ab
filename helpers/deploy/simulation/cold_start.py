"""How long a replica takes from being asked for to its first request (notebook 09). Pure."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from helpers.cards import seconds_text
from helpers.deploy.observed import ASKED, IMPORTED, LOADED, PROCESS, READY, Observed
from helpers.errors import WorkshopError

_PARTS = ("process", "imports", "engine", "ready", "first_token")


@dataclass(frozen=True)
class ColdStart:
    """A replica's start, part by part; times are seconds.

    Attributes:
        process: from asked to a process.
        imports: until everything is imported.
        engine: until the engine can compute.
        ready: until requests are sent to it.
        first_token: that its first request takes more than later ones.
        spread: of the whole from start to start, as the standard deviation of its logarithm; 0 for none.
        beside: how many times as long it takes while another replica computes: more than 1 where they share a machine.
        source: where the figures come from, such as ``measured: 4 starts``.

    Raises:
        WorkshopError: a value that is no time.
    """

    process: float = 0.0
    imports: float = 0.0
    engine: float = 0.0
    ready: float = 0.0
    first_token: float = 0.0
    spread: float = 0.0
    beside: float = 1.0
    source: str = "assumed"

    def __post_init__(self) -> None:
        for name in (*_PARTS, "spread", "beside"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < 0:
                raise WorkshopError(f"A cold start's {name} is {value!r}. Give a number of at least 0.")

    @classmethod
    def of_engine(cls, size: float, bandwidth: float, *, fixed: float = 0.0, **parts: Any) -> "ColdStart":
        """Of an engine that is read from where it lies.

        Args:
            size: bytes of the engine.
            bandwidth: bytes a second at which they come into GPU memory: that of the slowest thing on their way.
            fixed: seconds of loading that do not depend on the size.
            parts: the other attributes.

        Raises:
            WorkshopError: a size or bandwidth that is not above 0.
        """
        for name, value in (("size", size), ("bandwidth", bandwidth)):
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise WorkshopError(f"The engine's {name} is {value!r}. Give bytes{' a second' * (name[0] == 'b')}.")
        return cls(engine=size / bandwidth + fixed, **parts)

    @classmethod
    def measured(cls, observed: Observed, first_token: float = 0.0) -> "ColdStart":
        """From the marks of a deployment: of each part the median over the replicas that became ready.

        ``beside`` compares starts during which another replica was ready with those that had the machine to
        themselves, where both are there.

        Raises:
            WorkshopError: no replica became ready.
        """
        steps = [one for one in observed.replicas().values() if ASKED in one and READY in one]
        if not steps:
            raise WorkshopError(
                "No replica became ready in what was observed, so there is no cold start to take over. Send a request "
                "to a deployment that has no replica."
            )
        alone = [one for one in steps if not _beside(one, observed)]
        others = [one for one in steps if _beside(one, observed)]
        parts = _medians(alone or others)
        beside = median(map(_whole, others)) / median(map(_whole, alone)) if alone and others else 1.0
        source = f"measured: {len(steps)} start{'' if len(steps) == 1 else 's'}"
        return cls(**parts, first_token=first_token, beside=max(1.0, beside), source=source)

    @property
    def seconds(self) -> float:
        """From asked to ready, without chance and with the machine to itself."""
        return self.process + self.imports + self.engine + self.ready

    @property
    def text(self) -> str:
        """The whole in words."""
        return f"a cold start of {seconds_text(self.seconds)} ({self.source})"

    def times(self, seed: int, number: int, beside: bool) -> tuple[float, float, float, float]:
        """Seconds of process, imports, engine and ready of one start.

        Args:
            seed: of the simulation.
            number: of the replica. The same one draws the same luck, whatever else changes between two simulations.
            beside: True if another replica computes meanwhile.
        """
        luck = math.exp(self.spread * random.Random(f"{seed} cold start {number}").gauss()) if self.spread else 1.0
        factor = luck * (self.beside if beside else 1.0)
        return self.process * factor, self.imports * factor, self.engine * factor, self.ready * factor

    def with_(self, **changes: Any) -> "ColdStart":
        """The same with some things changed."""
        return replace(self, **changes)


def _whole(steps: dict[str, float]) -> float:
    return steps[READY] - steps[ASKED]


def _beside(steps: dict[str, float], observed: Observed) -> bool:
    """True if another replica was ready when this one was asked for and had not ended."""
    return any(
        other is not steps and other.get(READY, math.inf) <= steps[ASKED] < other.get("ended", math.inf)
        for other in observed.replicas().values()
        if other != steps
    )


def _medians(starts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each part; a step that was not noted lends its time to the next."""
    names = {PROCESS: "process", IMPORTED: "imports", LOADED: "engine", READY: "ready"}
    found: dict[str, list[float]] = {name: [] for name in names.values()}
    for steps in starts:
        before = steps[ASKED]
        for step, name in names.items():
            found[name].append(max(0.0, steps.get(step, before) - before))
            before = max(before, steps.get(step, before))
    return {name: median(values) for name, values in found.items()}
