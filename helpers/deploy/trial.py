"""The load that notebook 09 sends to a deployment, made to the measure of what one replica can do here. Pure.

A CPU and a GPU differ a hundredfold. So the load is told in parts of what a single replica got through with as many
requests in flight as the autoscaler aims at: below it while the load rises, above it in the burst.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers.bench.load import Load
from helpers.bench.profile import checked
from helpers.cards import Card, ShownAsCard
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.bench.results.result import Result, Sweep
    from helpers.deploy.scaling import Scaling

CALM, RISEN, BURST = 0.1, 0.5, 2.0
"""Shares of what one replica gets through: at the begin and the end, after the rise, and in the burst."""

_RISE, _BURST, _AFTER = 12.0, 7.0, 7.0  # seconds


@dataclass(frozen=True, repr=False)
class Trial(ShownAsCard):
    """A rise and a burst.

    Attributes:
        capacity: requests a second that one replica got through.
        concurrency: with so many in flight.
        load: what is sent.
    """

    capacity: float
    concurrency: int
    load: Load

    def card(self) -> Card:
        """What it is made from, and of."""
        rate = f"{self.capacity:.1f} requests/s"
        facts = {"measured: one replica": f"{rate}, with {self.concurrency} in flight", "the load": self.load.kind}
        facts["a request"] = f"{self.load.input_tokens} tokens in, {self.load.output_tokens} out"
        note = (
            f"It rises to {RISEN:.0%} of what one replica gets through, jumps to {BURST:.0%} for {_BURST:g} s, and "
            f"falls back to {CALM:.0%}."
        )
        return Card("The load to be sent", facts, note)


def most_replicas(gpus_a_replica: int = 1, at_most: int = 2) -> int:
    """How many replicas this machine has room for: each needs GPUs of its own; on a CPU they share it.

    Args:
        gpus_a_replica: that the engine is split over.
        at_most: how many are wanted.
    """
    from helpers import hardware, toolchains

    if toolchains.best().name not in toolchains.ON_GPU:
        return at_most
    return max(1, min(at_most, len(hardware.look().gpus) // gpus_a_replica))


def _aim(scaling: "Scaling") -> int:
    """The concurrency of one replica that the autoscaler aims at, in whole requests."""
    return max(1, round(scaling.target_ongoing))


def levels(scaling: "Scaling", batch: int) -> list[int]:
    """The concurrencies at which one replica is measured first: 1, what the autoscaler aims at, and all that it takes.

    Args:
        scaling: of the deployment.
        batch: requests that a replica runs at once.
    """
    most = scaling.max_ongoing or batch
    return sorted({1, min(most, _aim(scaling)), most})


def rise_and_burst(measured: "Sweep | Result | Any", scaling: "Scaling") -> Trial:
    """A load for a deployment whose single replica was measured.

    Args:
        measured: a sweep that has the concurrency that the autoscaler aims at, or a result of it.
        scaling: of the deployment.

    Raises:
        WorkshopError: the sweep has no such load, or nothing of it was answered.
    """
    aim = _aim(scaling)
    one = measured.at(aim) if hasattr(measured, "at") else measured
    capacity = _capacity(one)
    burst_ends = _RISE + _BURST
    points = [(0, CALM), (_RISE, RISEN), (_RISE, BURST), (burst_ends, BURST), (burst_ends, CALM)]
    points.append((burst_ends + _AFTER, CALM))
    profile = checked([(at, round(share * capacity, 2)) for at, share in points])
    return Trial(
        capacity, aim, one.load.with_(profile=profile, requests=None, seconds=None, runs=1, warmup=None, ramp=None)
    )


def _capacity(result: "Result") -> float:
    """Requests a second while all of a load's requests were in flight; of the whole run where it had no such time."""
    rate, full, all_of_it = (result.value(name) for name in ("request_rate", "full_rate", "output_rate"))
    if not rate:
        raise WorkshopError("No request of this load was answered, so it does not tell what a replica gets through.")
    return rate * full / all_of_it if full and all_of_it else rate
