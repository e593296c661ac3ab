"""What a rented pod has cost so far, and what the rest of the plan will cost (notebook 01 tells how a pod is rented).

The price comes from the learner, who sees it on the pod's page; nothing is asked over the network. Once given it is
kept in the workspace, which a pod that was stopped still has.
"""

import contextlib
import json
import math
import os
import time
from dataclasses import dataclass

from helpers import workspace
from helpers.cards import Card, ShownAsCard, seconds_text
from helpers.errors import WorkshopError
from helpers.teaching import journal
from helpers.teaching.notebooks import notebooks

VARIABLE = "WORKSHOP_PRICE_PER_HOUR"
STOP = (
    "Stop your pod when you leave it: a running pod costs the same whether its GPU works or not. A stopped pod keeps "
    "its volume, and that is still billed until you delete the pod, at RunPod for twice what it costs while the pod "
    "runs (published: 0.20 dollars a GB and month, https://docs.runpod.io/pods/storage)."
)
_NOTE = "price.json"
_PAUSE_SECONDS = 3600.0
"""A gap in the journal as long as this counts as a pause or a stopped pod."""


@dataclass(frozen=True)
class Used:
    """The time that notebooks took on this machine, from the journal.

    Attributes:
        began: of the first cell since the last long pause, seconds since the epoch; None if none was run.
        at_work: notebook to seconds, each cell counted from the end of the cell before it, in whichever notebook; long
            pauses left out. So no second counts twice.
        remaining: minutes planned for the notebooks of which nothing was run.
    """

    began: float | None
    at_work: dict[str, float]
    remaining: float


@dataclass(frozen=True, repr=False)
class Cost(ShownAsCard):
    """What a pod has cost and will cost.

    Attributes:
        price_per_hour: as the learner gave it, in their currency; None if nobody did.
        seconds: since the pod, or where that cannot be known the work on it, began.
        since: what the seconds are counted from, in words.
        used: the notebooks' times.
    """

    price_per_hour: float | None
    seconds: float
    since: str
    used: Used

    def of(self, seconds: float) -> float:
        """The price of a time; 0 without a price."""
        return (self.price_per_hour or 0.0) * seconds / 3600

    def card(self) -> Card:
        """So far, notebook by notebook, and what is to come."""
        if self.price_per_hour is None:
            note = (
                f"No price is known. Give what your pod costs an hour, as in teaching.cost(0.69), or set {VARIABLE}; "
                "on your own machine there is nothing to give."
            )
            return Card("Cost of this pod", {"running": f"{seconds_text(self.seconds)} {self.since}"}, note)
        facts = {
            "price": f"{self.price_per_hour:g} an hour, as you gave it",
            "so far": f"{self.of(self.seconds):.2f} for {seconds_text(self.seconds)} {self.since}",
        }
        for name, seconds in self.used.at_work.items():
            facts[f"  {name}"] = f"{self.of(seconds):.2f} for {seconds_text(seconds)}, measured: journal, all sittings"
        rest = self.used.remaining * 60
        facts["still to come"] = (
            f"predicted: {self.of(rest):.2f} for the {self.used.remaining:g} minutes planned for what was not begun"
            if rest
            else "nothing: every notebook was begun"
        )
        return Card("Cost of this pod", facts, STOP)


def cost(price_per_hour: float | None = None) -> Cost:
    """What this pod has cost since it began, and what the rest of the plan will cost.

    Args:
        price_per_hour: as the pod's page shows it; None for ``WORKSHOP_PRICE_PER_HOUR``, else the one given earlier.

    Raises:
        WorkshopError: that is no price.
    """
    price = _kept() if price_per_hour is None else as_price(price_per_hour, "The price")
    if price_per_hour is not None:
        with contextlib.suppress(OSError):  # a workspace that cannot be written has to be told again
            workspace.home().mkdir(parents=True, exist_ok=True)
            workspace.write_whole(workspace.home() / _NOTE, json.dumps({"price_per_hour": price}) + "\n")
    used, now = _used(), time.time()
    began, since = _pod_began()
    if began is None and used.began is not None:
        began, since = used.began, "since the first cell of this sitting"
    return Cost(price, now - (began or now), since or "since now: no cell was run yet", used)


def line() -> str:
    """The cost so far in one sentence, for a closing card; empty where no price was given."""
    try:
        found = cost()
    except WorkshopError:
        return ""
    if found.price_per_hour is None:
        return ""
    return f"{found.of(found.seconds):.2f} so far ({found.price_per_hour:g} an hour, {seconds_text(found.seconds)})"


def as_price(value: object, what: str) -> float:
    """A price as a number.

    Raises:
        WorkshopError: it is not a number above 0.
    """
    try:
        price = float(str(value))
    except ValueError:
        price = math.nan
    if not (math.isfinite(price) and price > 0):
        raise WorkshopError(f"{what} is {value!r}. Give what the pod costs an hour as a number above 0, such as 0.69.")
    return price


def _kept() -> float | None:
    """The price from the environment, else the one given earlier."""
    named = os.environ.get(VARIABLE)
    if named:
        return as_price(named, VARIABLE)
    try:
        return as_price(json.loads((workspace.home() / _NOTE).read_text())["price_per_hour"], "The price kept")
    except (OSError, ValueError, LookupError, TypeError, WorkshopError):
        return None


def _pod_began() -> tuple[float | None, str]:
    """When the container began: the start of its first process; None outside of one that tells."""
    import psutil

    if not os.environ.get("RUNPOD_POD_ID"):
        return None, ""  # elsewhere the first process is the machine's own, which nobody rents by the hour
    with contextlib.suppress(psutil.Error, OSError):
        return float(psutil.Process(1).create_time()), "since the pod was started"
    return None, ""


def _used() -> Used:
    """The notebooks' times in the journal."""
    at_work: dict[str, float] = {}
    spans: list[tuple[float, float, str]] = []
    remaining = 0.0
    for notebook in notebooks():
        entries = journal.entries(notebook.name)
        if not entries:
            remaining += notebook.minutes
            continue
        at_work[notebook.name] = 0.0
        spans += [(entry.began, entry.began + entry.seconds, notebook.name) for entry in entries]
    until = 0.0
    for start, end, name in sorted(spans):
        since = until if start - until < _PAUSE_SECONDS else start
        at_work[name] += max(0.0, end - since)
        until = max(until, end)
    sittings = _sittings(sorted((start, end) for start, end, _ in spans))
    return Used(sittings[-1][0] if sittings else None, at_work, remaining)


def _sittings(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans of time joined where the pause between two is short."""
    joined: list[tuple[float, float]] = []
    for start, end in spans:
        if joined and start - joined[-1][1] < _PAUSE_SECONDS:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined
