"""The exercises of notebook 08: time per token of a request, the largest load that will do, what a token costs.

All three are judged by the reader's own measurements, so the right answers differ from machine to machine.
"""

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.cost import in_currency
from helpers.bench.analysis.points import joined
from helpers.bench.results.figures import fewest
from helpers.cards import Card
from helpers.errors import WorkshopError
from helpers.exercises.asked import asked_in
from helpers.exercises.judging import EXACT, Mistake, judged

if TYPE_CHECKING:
    from helpers.bench.analysis import SweetSpot
    from helpers.bench.results.result import Result
    from helpers.bench.rows import Row

_MILLION = 1_000_000


# --- Time per output token -----------------------------------------------------------


_TPOT = "TPOT is the time from the first token to the last, divided by the steps between them."


def tpot_request(result: "Result") -> "Row":
    """The request that :func:`check_tpot` asks about: a whole answer that was not among the first, if there is one.

    Raises:
        WorkshopError: no answer of two counted tokens or more.
    """
    rows = [row for run in result.runs for row in run.rows if row.ok and row.tpot]
    if not rows:
        raise WorkshopError("This result has no whole answer of two counted tokens or more. Measure again.")
    return next((row for row in rows if not row.first_wave), rows[-1])


@asked_in("08_benchmarking")
def check_tpot(result: "Result", answer: float | None = None) -> Card:
    """The time per output token of one request, from its row, in ms.

    Args:
        result: of your benchmark; :func:`tpot_request` says which of its requests is meant.
        answer: milliseconds, not rounded; None while there is no answer.
    """
    row = tpot_request(result)
    assert row.tokens is not None and row.first_token is not None and row.last_token is not None
    assert row.tpot is not None and row.ttft is not None
    title = f"Request {row.index} of run {row.run}: what is its time per output token (TPOT), in ms?"
    facts = {
        "begun": f"{row.begun:.6f} s",
        "first token": f"{row.first_token:.6f} s",
        "last token": f"{row.last_token:.6f} s",
        "tokens, as the server counted": f"{row.tokens:,}",
        "events with text": f"{row.events:,}",
    }
    if answer is None:
        return Card(
            title,
            facts,
            f"Not answered yet: {_TPOT} row = exercises.tpot_request(alone) gives the row, with row.first_token, "
            "row.last_token (seconds) and row.tokens; rows count from 0. Let Python compute it, and do not round.",
        )
    working = (
        f"({row.last_token:.6f} − {row.first_token:.6f}) s / ({row.tokens:,} − 1) = {1000 * row.tpot:.4g} ms, so this "
        f"user read {1 / row.tpot:,.4g} tokens/s after the first."
    )
    # Dividing by all tokens must not pass for rounding, however long the answer is.
    tolerance = min(EXACT, 0.3 / row.tokens)
    return judged(title, answer, "ms", 1000 * row.tpot, _tpot_mistakes(row), working, _TPOT, facts, tolerance)


def _tpot_mistakes(row: "Row") -> list[Mistake]:
    """Plausible wrong turns, each with the milliseconds that it leads to."""
    assert row.tokens is not None and row.first_token is not None and row.last_token is not None
    assert row.tpot is not None
    n, generating, whole = row.tokens, row.last_token - row.first_token, row.last_token - row.begun
    found = [
        Mistake(1000 * generating / n, f"You divided by all {n:,} tokens. Between them are {n - 1:,} steps."),
        Mistake(
            1000 * whole / (n - 1),
            "You counted from the request's begin, so the wait for the first token is in it. That is TTFT: count from "
            "the first token.",
        ),
        Mistake(
            1000 * whole / n,
            f"You divided the whole answer's time by its {n:,} tokens. Leave out the wait for the first token, and "
            f"count the {n - 1:,} steps after it.",
        ),
        Mistake(row.tpot, "It looks like seconds. Give milliseconds."),
        Mistake(1 / row.tpot, "That is the inverse: the tokens a second of this user. Asked is the time of one."),
        Mistake(1000 * generating, "That is the time of all tokens after the first. Divide it by the steps."),
    ]
    if row.events > 1:
        chunks = "You counted events of the stream, and an event may carry several tokens. The server counted"
        found += [
            Mistake(1000 * generating / (row.events - 1), f"{chunks} {n:,}."),
            Mistake(1000 * generating / row.events, f"{chunks} {n:,}, with {n - 1:,} steps between them."),
        ]
    if row.itl_p50:
        found.append(
            Mistake(
                1000 * row.itl_p50,
                "That is the median gap between reads (ITL). A read may bring several tokens, and a median leaves out "
                "the long gaps: divide the whole time by the steps.",
            )
        )
    return found


# --- The largest load that will do ---------------------------------------------------

SHARE = 95
"""Percent of the requests that must get what is needed."""


@asked_in("08_benchmarking")
def check_concurrency(sweep: Any, answer: int | None = None, per_user: float = 30, ttft: float = 0.2) -> Card:
    """The largest measured concurrency at which 95 % of the requests get enough tokens/s, and the first one in time.

    Args:
        sweep: your own, over concurrency.
        answer: one of its concurrencies, or 0 if none will do; None while there is no answer.
        per_user: tokens a second that a user needs after the first token.
        ttft: seconds that a user waits for it at most.
    """
    from helpers.bench.analysis import sweet_spot

    results = {one.load.concurrency: one for one in sweep if one.load.concurrency is not None}
    title = (
        f"Which is the largest measured concurrency at which {SHARE} % of the requests get at least {per_user:g} "
        f"tokens/s, and their first token within {1000 * ttft:g} ms?"
    )
    loads = ", ".join(map(str, sorted(results)))
    if answer is None:
        return Card(
            title,
            {"measured": loads},
            "Not answered yet: give one of these, or 0 if none will do. Look at the slowest 5 % of the rates per user, "
            "and at TTFT p95.",
        )
    facts = {"your answer": repr(answer)}
    if isinstance(answer, bool) or not isinstance(answer, int) or (answer != 0 and answer not in results):
        return Card(title, facts, f"Not judged. That was not measured. Give one of {loads}, or 0 if none will do.")
    found = sweet_spot(sweep, per_user, ttft, SHARE)
    if found.untold:
        return Card(title, facts, _no_verdict(found))
    right = int(found.best.at) if found.best is not None else 0
    if answer == right:
        return Card(title, facts, f"Right. {found.sentence}")
    return Card(title, facts, f"Not right. {_why_not(list(results.values()), answer, right, per_user, ttft)}")


def _no_verdict(found: "SweetSpot") -> str:
    """Why no answer can be judged, and what to measure."""
    why = " ".join(f"Of {one.name} it cannot be told: {joined(found.need.untold(one))}." for one in found.untold)
    few = any(one.whole // max(1, one.runs) < fewest(SHARE) for one in found.untold)
    todo = f"Measure with at least {fewest(SHARE)} requests a run." if few else "Measure those loads again."
    return f"Not judged. {why} {todo}"


def _why_not(results: "Sequence[Result]", answer: int, right: int, per_user: float, ttft: float) -> str:
    """The known mistake that leads to an answer, else what the data say of it."""
    if answer == 0:
        return "At least one of them will do: begin with the smallest."
    for told, fine in _READINGS:
        if answer == max((_load(one) for one in results if fine(one, per_user, ttft)), default=0):
            return told
    ordered = sorted(map(_load, results))
    if answer < right:
        return f"A larger one will do: go on from {answer} in the sweep."
    if answer in ordered[1:] and ordered[ordered.index(answer) - 1] == right:
        return "One too far: it is the first that will not do. Asked is the last that will."
    one = next(one for one in results if _load(one) == answer)
    return f"There {SHARE} % get {_text(_slow(one))} tokens/s or more, and wait up to {_text(_wait(one), 1000)} ms."


def _load(result: "Result") -> int:
    return result.load.concurrency or 0


def _slow(result: "Result") -> float | None:
    """Tokens a second that 95 % of the requests get at least."""
    return result.value("per_user_p5")


def _wait(result: "Result") -> float | None:
    """Seconds that 95 % of the requests wait at most."""
    return result.value("ttft_p95")


def _means(result: "Result") -> tuple[float, float]:
    """Mean tokens a second of a user, and mean TTFT in seconds."""
    figures = result.figures
    rates = [one.per_user.mean for one in figures if one.per_user.mean is not None]
    waits = [one.ttft.mean for one in figures if one.ttft.mean is not None]
    return (fmean(rates) if rates else 0.0), (fmean(waits) if waits else math.inf)


def _meets(rate: float | None, wait: float | None, per_user: float, ttft: float) -> bool:
    return rate is not None and wait is not None and rate >= per_user and wait <= ttft


_Reading = Callable[["Result", float, float], bool]
_READINGS: Sequence[tuple[str, _Reading]] = (
    (
        "You took the medians: half of the requests fare worse than that. Asked is what 95 % get.",
        lambda one, rate, wait: _meets(one.value("per_user_p50"), one.value("ttft_p50"), rate, wait),
    ),
    (
        "You took the means, which hide those that fare worst. Asked is what 95 % get.",
        lambda one, rate, wait: _meets(*_means(one), rate, wait),
    ),
    (
        "You looked at the tokens/s only. Its first tokens come too late.",
        lambda one, rate, wait: (_slow(one) or 0) >= rate,
    ),
    (
        "You looked at TTFT only. Its users get too few tokens/s.",
        lambda one, rate, wait: (found := _wait(one)) is not None and found <= wait,
    ),
    (
        "You compared the tokens/s of all users together with what one needs.",
        lambda one, rate, wait: (one.value("output_rate") or 0) >= rate,
    ),
    (
        "You took the 95th percentile of the rates, which few get. A rate is bad where it is low: look at the 5th.",
        lambda one, rate, wait: _meets(_fast(one), _wait(one), rate, wait),
    ),
)
"""Ways of reading a sweep that lead to another answer."""


def _fast(result: "Result") -> float | None:
    """The 95th percentile of the rates, which few get."""
    found = [one.per_user.p95 for one in result.figures if one.per_user.p95 is not None]
    return fmean(found) if found else None


def _text(value: float | None, scale: float = 1.0) -> str:
    return "an unknown number of" if value is None else f"{scale * value:,.3g}"


# --- What a token costs --------------------------------------------------------------


_HOUR = "how many tokens does it make in the hour that is paid?"


@asked_in("08_benchmarking")
def check_cost(
    result: "Result", price_per_hour: float, answer: float | None = None, busy: float = 0.5, currency: str = "$"
) -> Card:
    """What a million output tokens cost at the measured rate, if the load is there for a part of the hour only.

    Args:
        result: of your benchmark.
        price_per_hour: of the machine, which is paid for all of the hour.
        answer: the price of a million output tokens; None while there is no answer.
        busy: share of the hour in which the load is there, above 0 and up to 1.
        currency: of the price.

    Raises:
        WorkshopError: a price that is not above 0, a share that is not above 0 and up to 1, or a result without a rate.
    """
    if isinstance(price_per_hour, bool) or not isinstance(price_per_hour, int | float) or not price_per_hour > 0:
        raise WorkshopError(
            f"price_per_hour is {price_per_hour!r}. Give what an hour of the machine costs, such as 0.6."
        )
    if isinstance(busy, bool) or not isinstance(busy, int | float) or not 0 < busy <= 1:
        raise WorkshopError(f"busy is {busy!r}. Give the share of the hour with load, above 0 and up to 1.")
    rate = result.value("output_rate")
    if not rate:
        raise WorkshopError("This result has no output tokens a second, so no token has a price. Measure again.")
    title = (
        f"A machine for {in_currency(f'{price_per_hour:,.2f}', currency)} an hour gives {rate:,.4g} output tokens/s "
        f"while it has load, which is {busy:.0%} of the time: what do a million of them cost?"
    )
    if answer is None:
        where = "" if result.load.concurrency is None else f"fp16.at({result.load.concurrency})"
        return Card(title, note=f"Not answered yet: {_HOUR} Use {where or 'result'}.value('output_rate'), unrounded.")
    seconds = 3600 * busy
    cost = price_per_hour / (seconds * rate) * _MILLION
    working = (
        f"{rate:,.4g} tokens/s × {seconds:,.4g} s = {seconds * rate:,.4g} tokens for {price_per_hour:,.2f}, so a "
        f"million cost {cost:,.4g}{', with the machine always busy' if busy == 1 else ', idle time paid as well'}."
    )
    return judged(
        title,
        answer,
        currency,
        cost,
        _cost_mistakes(result, cost, rate, busy),
        working,
        f"Start here: {_HOUR}",
        tolerance=0.01,
    )


def _cost_mistakes(result: "Result", cost: float, rate: float, busy: float) -> list[Mistake]:
    """Plausible wrong turns, each with the price that it leads to."""
    found = [
        Mistake(
            cost * busy,
            "That is the price with the machine busy all the time. It is paid while it waits as well: only "
            f"{busy:.0%} of the hour makes tokens.",
        ),
        Mistake(
            cost * busy * busy,
            "You paid for the busy part of the hour only, but it is paid whole: divide by the share that is busy, and "
            "do not multiply by it.",
        ),
        Mistake(cost * 3600, "You took the price of an hour for that of a second. An hour has 3,600 of them."),
        Mistake(cost * 60, "You multiplied by 60 once: that are the tokens of a minute. An hour has 3,600 seconds."),
        Mistake(cost / 1000, "That is the price of a thousand tokens. Asked is that of a million."),
        Mistake(cost / _MILLION, "That is the price of one token. Asked is that of a million."),
        Mistake(1 / cost, "That is the inverse: millions of tokens for one unit of the price."),
    ]
    others = (
        ("total_rate", "You counted the tokens of the prompts too. They are cheaper, and asked is the output."),
        ("per_user_p50", "You took the rate of one user. All users together share the price of the machine."),
        ("request_rate", "You took answers a second. Asked are tokens."),
    )
    for key, told in others:
        if value := result.value(key):
            found.append(Mistake(cost * rate / value, told))
    return found
