"""What one run's rows amount to: percentiles, rates over a stated window, and what did not work (notebook 08).

Everything is computed from rows, gaps and the timeline that :mod:`helpers.bench.measured` describes; nothing is sent
here. What each figure means, in words, is in ``data/benchmark_definitions.toml``; its key there is the one in
:data:`helpers.bench.results.metrics.METRICS`. A request that failed is counted, and is in no latency and no rate.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from helpers.bench.generator.tally import of_sorted
from helpers.bench.load import Load
from helpers.bench.measured import BUCKET, Gaps, Health, Run, Timeline
from helpers.bench.rows import OUTCOMES, Row

SHORTEST_FULL = 0.5
"""Seconds: over a shorter time with all requests in flight no rate is given, since a few tokens would decide it."""

_SLACK = 1e-9  # of a step's edge: 3 * 0.1 is not 0.3


def percentile(values: Sequence[float], q: float) -> float:
    """The ``q``-th percentile, interpolated linearly between neighbours as ``numpy.percentile`` does.

    Args:
        values: at least one, in any order.
        q: from 0 to 100.

    Raises:
        ValueError: there is no value, or ``q`` is outside.
    """
    if not values or not 0 <= q <= 100:
        raise ValueError(f"the {q}th percentile of {len(values)} values")
    return of_sorted(sorted(values), q)


def fewest(q: float) -> int:
    """How many values a percentile needs before it is shown: one, at least, has to lie beyond it.

    100 for the 99th, 20 for the 95th and the 5th, 10 for the 90th; the median of one value is shown.
    """
    return 1 if q == 50 else math.ceil(100 / min(q, 100 - q))


@dataclass(frozen=True)
class Spread:
    """How values are spread, in their own unit; None for what there are too few values to tell.

    Attributes:
        n: how many values.
        mean, least, most: None without values.
        p5, p50, p90, p95, p99: percentiles; None below :func:`fewest` values.
    """

    n: int = 0
    mean: float | None = None
    p5: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    least: float | None = None
    most: float | None = None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread":
        """Of values; those that are None are left out, and not in ``n``."""
        ordered = sorted(value for value in values if value is not None)
        if not ordered:
            return cls()
        shown = {f"p{q}": of_sorted(ordered, q) for q in (5, 50, 90, 95, 99) if len(ordered) >= fewest(q)}
        mean = math.fsum(ordered) / len(ordered)
        return cls(n=len(ordered), mean=mean, least=ordered[0], most=ordered[-1], **shown)

    @classmethod
    def of_gaps(cls, gaps: Gaps) -> "Spread":
        """Of the gaps that a client has summed up already, in seconds."""
        if not gaps.n or len(gaps.quantiles) != 101:
            return cls()
        at = gaps.quantiles
        shown = {f"p{q}": at[q] for q in (5, 50, 90, 95, 99) if gaps.n >= fewest(q)}
        return cls(n=gaps.n, mean=gaps.mean, least=at[0], most=at[100], **shown)


@dataclass(frozen=True)
class Failure:
    """Requests that failed the same way.

    Attributes:
        outcome: a key of :data:`helpers.bench.rows.OUTCOMES`.
        message: what the client noted; empty if nothing.
        count: how many.
    """

    outcome: str
    message: str
    count: int

    def __str__(self) -> str:
        return f"{self.count:,} × {self.outcome}: {self.message or OUTCOMES.get(self.outcome, 'no more is known')}"


@dataclass(frozen=True)
class Figures:
    """What one run amounts to. Times are in seconds, rates a second; None for what cannot be told.

    Attributes:
        run: its number.
        kind: closed loop or open loop, and how many or how often: the label of every figure.
        sent: requests that were sent.
        whole: those that were answered whole: only they are in the figures below.
        failed: outcome to number of requests, most frequent first; also those that were interrupted.
        failures: the same by message.
        uncounted: whole answers whose tokens nobody counted; they are missing in the rates.
        client_bound: why TTFT and e2e are the client's rather than the server's; empty where they are not.
        gaps_bound: the same for ITL.
        ttft: time to first token, of all whole answers.
        ttft_first_wave: of the first request of each slot.
        ttft_steady: of all others.
        e2e: from a request's begin to the end of its answer.
        tpot: time per output token after the first, one value an answer.
        per_user: tokens a second that one user sees after the first, one value an answer.
        itl: gaps between reads that brought tokens.
        window: seconds from the first request sent to the last token of a whole answer.
        tokens, prompt_tokens: of all whole answers, and of their prompts, as counted; None if nobody counted any.
        output_rate: ``tokens`` over ``window``.
        total_rate: the same with the prompts' tokens.
        request_rate: whole answers over ``window``.
        full_rate: tokens a second while all requests of a closed loop were in flight.
        full_seconds: how long that was.
        in_flight: requests under way, on average over the run's time.
        most_in_flight: at one moment.
        tokens_per_event: tokens of an event of the stream, on average.
        events_per_read: such events in one read, on average.
        prompt: tokens of the prompts, as the server counted.
        answer: tokens of the answers.
        late: seconds after its time that a request of an open loop left.
        health: of the client.
        interrupted: True if the run was stopped.
        ended: why it was stopped, in words; empty if it was not.
    """

    run: int
    kind: str
    sent: int
    whole: int
    failed: Mapping[str, int]
    failures: Sequence[Failure]
    uncounted: int
    client_bound: str
    gaps_bound: str
    ttft: Spread
    ttft_first_wave: Spread
    ttft_steady: Spread
    e2e: Spread
    tpot: Spread
    per_user: Spread
    itl: Spread
    window: float | None
    tokens: int | None
    prompt_tokens: int | None
    output_rate: float | None
    total_rate: float | None
    request_rate: float | None
    full_rate: float | None
    full_seconds: float
    in_flight: float | None
    most_in_flight: int
    tokens_per_event: float | None
    events_per_read: float | None
    prompt: Spread
    answer: Spread
    late: Spread
    health: Health
    interrupted: bool = False
    ended: str = ""

    @property
    def failed_count(self) -> int:
        """Requests that were not answered whole."""
        return sum(self.failed.values())

    @classmethod
    def of(cls, run: Run, load: Load) -> "Figures":
        """Compute everything from one run.

        Args:
            run: as measured; the warm-up may be looked at as well.
            load: that was sent.
        """
        whole = [row for row in run.rows if row.ok]
        sent = [row for row in run.rows if row.sent is not None]
        outcomes = Counter(row.outcome for row in run.rows if not row.ok)
        messages = Counter((row.outcome, row.message) for row in run.rows if not row.ok)
        seconds = window(run.rows)
        tokens, prompts = _total(row.tokens for row in whole), _total(row.prompt_tokens for row in whole)
        full_seconds, full_rate = full(run.rows, run.timeline, load.concurrency)
        mean_in_flight, most_in_flight = in_flight(run.rows)
        counted = [row for row in whole if row.tokens is not None and row.events]
        return cls(
            run=run.number,
            kind=load.kind,
            sent=len(sent),
            whole=len(whole),
            failed=dict(outcomes.most_common()),
            failures=[Failure(*what, count) for what, count in messages.most_common()],
            uncounted=sum(row.tokens is None for row in whole),
            client_bound=run.health.client_bound,
            gaps_bound=run.health.gaps_bound,
            ttft=Spread.of(row.ttft for row in whole),
            ttft_first_wave=Spread.of(row.ttft for row in whole if row.first_wave),
            ttft_steady=Spread.of(row.ttft for row in whole if not row.first_wave),
            e2e=Spread.of(row.seconds for row in whole),
            tpot=Spread.of(row.tpot for row in whole),
            per_user=Spread.of(row.rate for row in whole),
            itl=Spread.of_gaps(run.gaps),
            window=seconds,
            tokens=tokens,
            prompt_tokens=prompts,
            output_rate=_over(tokens, seconds),
            total_rate=_over(None if tokens is None or prompts is None else tokens + prompts, seconds),
            request_rate=_over(len(whole), seconds),
            full_rate=full_rate,
            full_seconds=full_seconds,
            in_flight=mean_in_flight,
            most_in_flight=most_in_flight,
            tokens_per_event=_over(_total(row.tokens for row in counted), sum(row.events for row in counted)),
            events_per_read=_over(sum(row.events for row in whole), sum(row.reads for row in whole)),
            prompt=Spread.of(row.prompt_tokens for row in whole),
            answer=Spread.of(row.tokens for row in whole),
            late=Spread.of(_lateness(row) for row in sent) if load.open_loop else Spread(),
            health=run.health,
            interrupted=run.interrupted,
            ended=run.ended,
        )


def window(rows: Iterable[Row]) -> float | None:
    """Seconds from the first request sent to the last token of a whole answer; None without a whole answer.

    A request that hangs until its time limit would otherwise stretch the window of all others.
    """
    rows = list(rows)
    begins = [row.sent for row in rows if row.sent is not None]
    ends = [row.last_token for row in rows if row.ok and row.last_token is not None]
    return max(ends) - min(begins) if begins and ends else None


def in_flight(rows: Iterable[Row]) -> tuple[float | None, int]:
    """Requests under way: on average between the first one sent and the last one ended, and at most.

    Failed ones are among them: the server had them too.
    """
    spans = [(row.sent, row.ended) for row in rows if row.sent is not None and row.ended is not None]
    if not spans:
        return None, 0
    # At equal times an end comes before a begin: a slot's next request does not overlap its last one.
    steps = sorted([(end, -1) for _, end in spans] + [(begin, 1) for begin, _ in spans])
    under_way = most = 0
    for _, step in steps:
        under_way += step
        most = max(most, under_way)
    seconds = steps[-1][0] - steps[0][0]
    return _over(math.fsum(end - begin for begin, end in spans), seconds), most


def full_span(rows: Iterable[Row], concurrency: int | None) -> tuple[float, float] | None:
    """From when to when a closed loop had all its requests in flight: no ramp at its begin, no drain at its end.

    It begins when the last slot sends its first request, and ends when the first slot has nothing more to send. None
    for an open loop, and where not every slot sent something or the one comes after the other.
    """
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for row in rows:
        if row.sent is not None and row.ended is not None:
            first[row.slot] = min(row.sent, first.get(row.slot, math.inf))
            last[row.slot] = max(row.ended, last.get(row.slot, 0.0))
    if concurrency is None or len(first) < concurrency:
        return None
    begin, end = max(first.values()), min(last.values())
    return (begin, end) if end > begin else None


def full(rows: Iterable[Row], timeline: Timeline, concurrency: int | None) -> tuple[float, float | None]:
    """Seconds for which all requests of a closed loop were in flight, and tokens a second in that time.

    Whole steps of the timeline only. The rate is None below :data:`SHORTEST_FULL` seconds, and where nobody counted the
    tokens of a whole answer of that time: they are missing in the timeline.
    """
    rows = list(rows)
    span = full_span(rows, concurrency)
    if span is None:
        return 0.0, None
    first = math.ceil(span[0] / BUCKET - _SLACK)
    beyond = min(math.floor(span[1] / BUCKET + _SLACK), len(timeline.tokens))
    seconds = max(0, beyond - first) * BUCKET
    if seconds < SHORTEST_FULL - _SLACK or any(_uncounted_in(row, span) for row in rows):
        return seconds, None
    return seconds, math.fsum(timeline.tokens[first:beyond]) / seconds


def _uncounted_in(row: Row, span: tuple[float, float]) -> bool:
    """True for a whole answer of this time whose tokens nobody counted."""
    if not row.ok or row.tokens is not None or row.sent is None or row.ended is None:
        return False
    return row.sent < span[1] and row.ended > span[0]


def _lateness(row: Row) -> float | None:
    return None if row.sent is None else max(0.0, row.sent - row.intended)


def _total(counts: Iterable[int | None]) -> int | None:
    """The sum of what was counted; None if nothing was."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _over(amount: float | None, per: float | None) -> float | None:
    return None if amount is None or not per else amount / per
