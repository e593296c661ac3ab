"""The exercises of notebook 09: how many replicas a load asks for, and how many users meet a cold start.

Both are short calculations whose wrong turns are well known; the second assumes that requests come independently of
each other (Poisson), and says so.
"""

import math
from typing import TYPE_CHECKING

from helpers.cards import Card
from helpers.exercises.asked import asked_in
from helpers.exercises.judging import Mistake, judged

if TYPE_CHECKING:
    from helpers.deploy.scaling import Scaling

_ONGOING = 37  # requests in flight in the first exercise: no multiple of a usual target
_MOST = 8  # replicas that there may be in it
_PER_HOUR, _IDLE = 30.0, 300.0  # requests an hour, and seconds without any after which the last replica ends


@asked_in("09_production")
def check_replicas(scaling: "Scaling", answer: int | None = None) -> Card:
    """How many replicas does the autoscaler want for 37 requests in flight, if there may be up to 8?

    Args:
        scaling: the deployment's; its target and its lower limit count, and 8 in place of its upper limit.
        answer: a whole number; None while there is no answer.
    """
    target, least = scaling.target_ongoing, min(scaling.min_replicas, _MOST)
    title = (
        f"{_ONGOING} requests are in flight, target_ongoing is {target:g}, and there may be {least} to {_MOST} "
        "replicas. How many does the autoscaler want?"
    )
    if answer is None:
        return Card(
            title, note="Not answered yet: each replica shall have no more than target_ongoing requests in flight."
        )
    exact = _ONGOING / target
    asked = math.ceil(exact)
    right = min(max(asked, least), _MOST)
    limit = f"There may be {_MOST} at most" if asked > _MOST else f"There are {least} at least"
    facts = {"in flight / target": f"{_ONGOING} / {target:g} = {exact:.2f}"}
    ended = f", and {_MOST} is the most." if asked > _MOST else f", and {least} is the least." if asked < least else "."
    working = f"{exact:.2f} replicas would have exactly {target:g} each; part of a replica is a whole one{ended}"
    down = math.floor(exact)
    mistakes = [
        Mistake(down, f"{down} of them would have {_ONGOING / max(down, 1):.1f} each, above the target: round up."),
        Mistake(asked, f"{limit}: the limit counts before the load."),
        Mistake(asked + 1, "That is one more than the load asks for: a part counts as one, not as two."),
        Mistake(scaling.max_replicas, f"That is this deployment's limit. In this exercise there may be {_MOST}."),
        Mistake(_ONGOING, "That is a replica for each request: an engine runs many at once."),
    ]
    return judged(title, answer, "replicas", right, mistakes, working, "Divide, then round up.", facts)


@asked_in("09_production")
def check_cold_share(answer: float | None = None) -> Card:
    """Which share of requests meets a cold start, at 30 requests an hour and an end after 300 s without any?

    Args:
        answer: a share between 0 and 1; None while there is no answer.
    """
    title = (
        f"{_PER_HOUR:g} requests an hour come independently of each other (Poisson), and the last replica ends after "
        f"{_IDLE:g} s without any. Which share of the requests waits for a cold start?"
    )
    if answer is None:
        return Card(
            title,
            note="Not answered yet: a request waits if nothing came in the 300 s before it. Such gaps are distributed "
            "exponentially: one is longer than t with probability exp(-t / mean gap). (import math; math.exp(...))",
        )
    mean = 3600 / _PER_HOUR
    right = math.exp(-_IDLE / mean)
    working = (
        f"The mean gap is {mean:g} s, and exp(-{_IDLE:g} / {mean:g}) = {right:.4f}: about one request in "
        f"{1 / right:.0f}. The 99th percentile of TTFT is therefore a cold start. (Answers are taken to be short.)"
    )
    mistakes = [
        Mistake(1 - right, "That is the share which finds a replica running: the gap before them is shorter."),
        Mistake(100 * right, "That is in percent. Give a share between 0 and 1."),
        Mistake(math.exp(-mean / _IDLE), "The fraction is upside down: the time is divided by the mean gap."),
        Mistake(math.exp(-_IDLE / _PER_HOUR), f"{_PER_HOUR:g} is the rate an hour. The mean gap is {mean:g} s."),
        Mistake(_IDLE / mean, f"That is how many requests come in {_IDLE:g} s on average. Some gaps are longer."),
        Mistake(mean / _IDLE, "That compares averages. Gaps differ: ask how many are longer than the time."),
        Mistake(1.0, "Most gaps are shorter than the time to the end: those requests find a replica."),
    ]
    start = "Begin with the mean gap in seconds."
    return judged(title, answer, "", right, mistakes, working, start, tolerance=0.01)
