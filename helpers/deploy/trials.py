"""Cold starts of a running deployment, one after another, measured and taken apart (notebook 09)."""

import contextlib
import time
from typing import TYPE_CHECKING

from helpers.bench.analysis.points import time_text
from helpers.cards import Card, counted
from helpers.deploy.cold_start import ColdStart, ColdStarts, side_by_side
from helpers.deploy.observed import ENDED, READY, Observed
from helpers.deploy.scaling import Scaling
from helpers.errors import WorkshopError
from helpers.progress import Live

if TYPE_CHECKING:
    from helpers.deploy.deployment import Deployment

_SOON = 1.0  # seconds without a request after which the last replica ends while starts are measured
_RESTORING = 5.0  # seconds for the settings as they were, after an interrupt or an error
_TOKENS = 4  # of each answer: only the first is of interest
_NOTED = 2.0  # seconds that the last mark of a replica may need
_PATIENCE = 60.0  # seconds to end the last replica, beside the delay that its scaling asks for


def cold_starts(
    deployment: "Deployment", times: int = 2, time_limit: float = 120, live: Live | None = None
) -> list[ColdStart]:
    """Send a request when no replica runs, and again when none runs any more.

    Waits each time until the deployment has ended its last replica, as its scaling says. One that keeps a replica has
    no cold starts: its answers are warm, and nothing is waited for. Settings stay as they are.

    Args:
        deployment: that runs.
        times: how often.
        time_limit: seconds for each answer.

    Raises:
        WorkshopError: a number of times below 1, the deployment has ended, no replica can start, or the last one does
            not end since others send requests.
    """
    if times < 1:
        raise WorkshopError(f"times is {times}. Give how many cold starts to measure, at least 1.")
    keeps = deployment.scaling.min_replicas > 0
    drawn, found = live or Live(), []
    for _ in range(times):
        if not keeps:
            deployment.wait(0, deployment.scaling.last_delay + _PATIENCE, live=drawn)
        answer = deployment.first_answer(max_tokens=_TOKENS, time_limit=time_limit, live=drawn)
        found.append(ColdStart.of(_noted(deployment), answer.sent, answer.first_token))
    if live is None:
        drawn.finish(_card(found))
    return found


def shortened(deployment: "Deployment", times: int = 3, time_limit: float = 900) -> ColdStarts:
    """Cold starts in every way there is here: the graph compiled at each start (on a CPU), compiled, and kept warm.

    The deployment's delays are short meanwhile, so that its last replica ends soon; afterwards they are as before.

    Args:
        deployment: that runs.
        times: cold starts of each kind.
        time_limit: seconds for each first token, and for each change.

    Raises:
        WorkshopError: as :func:`cold_starts`.
    """
    before, blob, live = deployment.scaling, deployment.blob, Live()
    quick = before.with_(min_replicas=0, downscale_delay=_SOON, to_zero_delay=_SOON)
    kinds: dict[str, tuple[Scaling, bool]] = {"compiled engine": (quick, True)}
    if deployment.engine.toolchain == "openvino":
        kinds = {"graph compiled at start": (quick, False), **kinds}
    kinds["one kept warm"] = (quick.with_(min_replicas=1), True)
    found = {}
    try:
        for kind, (scaling, compiled) in kinds.items():
            deployment.change(scaling, blob=compiled, time_limit=time_limit, live=live)
            found[kind] = cold_starts(deployment, times, time_limit, live)
        deployment.change(before, blob=blob, time_limit=time_limit, live=live)
    except BaseException:
        with contextlib.suppress(WorkshopError):  # what went wrong first is what is told
            deployment.change(before, blob=blob, time_limit=_RESTORING, live=live)
        raise
    made = side_by_side(found)
    live.finish(made)
    return made


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
