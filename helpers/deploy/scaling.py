"""How many replicas of an engine there shall be, as a value (notebook 09). Pure.

One :class:`Scaling` serves the real deployment, its simulation and the exported files alike, so that what was tried
here is what is asked for there.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from helpers.errors import WorkshopError


@dataclass(frozen=True)
class Scaling:
    """When replicas are added and taken away. Times are seconds.

    Attributes:
        min_replicas: that are kept without any load; 0 lets the deployment end its last one.
        max_replicas: that there may be, each on a GPU of its own (on a CPU they share it).
        target_ongoing: requests in flight for each replica that the autoscaler aims at: running or waiting for one.
        max_ongoing: requests that a replica takes at once; more wait in front of the replicas. None for the engine's
            batch limit: what it cannot run in its batch would wait inside it, where no other replica can take it.
        upscale_delay: how long the load must ask for more replicas before they are started. From none to one there is
            no delay.
        downscale_delay: how long it must ask for fewer before some are ended.
        to_zero_delay: the same for the last one; None for ``downscale_delay``.
        look_back: seconds over which requests in flight are averaged.
        interval: seconds between two counts of them.

    Raises:
        WorkshopError: a value that makes no sense.
    """

    min_replicas: int = 0
    max_replicas: int = 2
    target_ongoing: float = 8.0
    max_ongoing: int | None = None
    upscale_delay: float = 1.0
    downscale_delay: float = 6.0
    to_zero_delay: float | None = None
    look_back: float = 2.0
    interval: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (("min_replicas", 0), ("max_replicas", 1), ("max_ongoing", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise WorkshopError(f"{name} is {value!r}. Give a whole number of at least {least}.")
        if self.min_replicas > self.max_replicas:
            raise WorkshopError(
                f"min_replicas is {self.min_replicas} and max_replicas {self.max_replicas}. Give a maximum that is no "
                "smaller."
            )
        for name in ("target_ongoing", "look_back", "interval"):
            self._require_number(name, above_zero=True)
        for name in ("upscale_delay", "downscale_delay", "to_zero_delay"):
            if getattr(self, name) is not None:
                self._require_number(name, above_zero=False)

    def _require_number(self, name: str, above_zero: bool) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (above_zero and value == 0):
            raise WorkshopError(f"{name} is {value!r}. Give a number {'above' if above_zero else 'of at least'} 0.")

    @property
    def last_delay(self) -> float:
        """Seconds without load after which the last replica is ended."""
        return self.downscale_delay if self.to_zero_delay is None else self.to_zero_delay

    def with_(self, **changes: Any) -> "Scaling":
        """The same with some things changed."""
        return replace(self, **changes)


PATIENT = Scaling(upscale_delay=30.0, downscale_delay=300.0, look_back=30.0, interval=10.0)
"""For starts that take minutes, as those of large engines do: what is ended too early is paid for with another start.

Chosen after Ray Serve's own defaults (30 s, 600 s, 30 s and 10 s); notebook 09's own is quick, since its starts are.
"""
