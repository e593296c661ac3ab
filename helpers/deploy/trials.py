"""Cold starts of a running deployment, one after another, measured and taken apart (notebook 09)."""

import time
from typing import TYPE_CHECKING

from helpers.bench.analysis.points import time_text
from helpers.cards import Card, counted
from helpers.deploy.cold_start import ColdStart
from helpers.deploy.observed import ENDED, READY, Observed
from helpers.errors import WorkshopError
from helpers.progress import Live

if TYPE_CHECKING:
    from helpers.deploy.deployment import Deployment

_TOKENS = 4  # of each answer: only the first is of interest
_NOTED = 2.0  # seconds that the last mark of a replica may need
_PATIENCE = 60.0  # seconds to end the last replica, beside the delay that its scaling asks for


def cold_starts(deployment: "Deployment", times: int = 2, time_limit: float = 120) -> list[ColdStart]:
    """Send a request when no replica runs, and again when none runs any more.

    Waits each time until the deployment has ended its last replica, as its scaling says. One that keeps a replica has
    no cold starts: its answers are warm, and nothing is waited for. Settings stay as they are.

    Args:
        deployment: that runs.
        times: how often.
        time_limit: seconds for each first token.

    Raises:
        WorkshopError: a number of times below 1, the deployment has ended, no replica can start, or the last one does
            not end since others send requests.
    """
    if times < 1:
        raise WorkshopError(f"times is {times}. Give how many cold starts to measure, at least 1.")
    keeps = deployment.scaling.min_replicas > 0
    live, found = Live(), []
    for _ in range(times):
        if not keeps:
            deployment.wait(0, deployment.scaling.last_delay + _PATIENCE, live=live)
        answer = deployment.first_answer(max_tokens=_TOKENS, time_limit=time_limit, live=live)
        found.append(ColdStart.of(_noted(deployment), answer.sent, answer.first_token))
    live.finish(_card(found))
    return found


def _noted(deployment: "Deployment") -> Observed:
    """What was noted, once it says of every replica that it was ready: that may come after its first token."""
    deadline = time.monotonic() + _NOTED
    while True:
        seen = deployment.observed()
        if all(READY in steps or ENDED in steps for steps in seen.replicas().values()) or time.monotonic() > deadline:
            return seen
        time.sleep(0.05)


def _card(found: list[ColdStart]) -> Card:
    """How long each took."""
    warm = sum(one.warm for one in found)
    facts = {f"{place}": _told(one) for place, one in enumerate(found, 1)}
    colds = [text for text in (_counted(len(found) - warm, "cold start"), _counted(warm, "warm start")) if text]
    return Card(f"measured: {' and '.join(colds)}", facts)


def _counted(count: int, what: str) -> str:
    return counted(count, what) if count else ""


def _told(one: ColdStart) -> str:
    return f"first token after {time_text(one.total)}" + (", from a replica that ran" if one.warm else "")
