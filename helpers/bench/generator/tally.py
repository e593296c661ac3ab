"""What a run's bare stamps and counts amount to: gaps, quantiles, a timeline (notebook 08)."""

import math
import time
from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate

from helpers.bench.measured import BUCKET, Gaps, Timeline
from helpers.bench.rows import Row


def ahead() -> float:
    """Seconds that the wall clock is ahead of the one that nobody sets, by the quickest of a few looks at both."""
    looks = []
    for _ in range(5):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        looks.append((after - before, wall - before))
    return min(looks)[1] * 1e-9


def gaps(found: "array[float]") -> Gaps:
    """The distribution of gaps in nanoseconds, as seconds."""
    n = len(found)
    if not n:
        return Gaps()
    if n > 100_000:  # loading numpy costs more than it saves below that
        import numpy

        whole = numpy.frombuffer(found) * 1e-9
        quantiles = numpy.quantile(whole, [q / 100 for q in range(101)])
        return Gaps(n, float(whole.mean()), [float(q) for q in quantiles], float(numpy.quantile(whole, 0.999)))
    ordered = sorted(gap * 1e-9 for gap in found)
    return Gaps(
        n,
        sum(ordered) / n,
        [of_sorted(ordered, q) for q in range(101)],
        of_sorted(ordered, 99.9) if n >= 1000 else None,
    )


def of_sorted(ordered: Sequence[float], q: float) -> float:
    """The ``q``-th percentile, from 0 to 100, of values that are in order, as ``numpy.percentile`` has it."""
    place = (len(ordered) - 1) * q / 100
    below = math.floor(place)
    low, high, share = ordered[below], ordered[min(below + 1, len(ordered) - 1)], place - below
    # numpy's own form: exact at both ends.
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


def quantile(counts: Sequence[int], share: float) -> int:
    """In which step of a histogram a quantile is: its upper end, in steps; 0 where nothing was counted."""
    wanted, seen = share * sum(counts), 0
    for step, count in enumerate(counts):
        seen += count
        if count and seen >= wanted:
            return step + 1
    return 0


def timeline(rows: Sequence[Row], tokens_at: Mapping[int, float], seconds: float) -> Timeline:
    """What came when; requests in flight as the rows have it. A clock that is set meanwhile makes it no longer."""
    last = int(seconds / BUCKET) if rows else -1

    def step(at: float) -> int:
        return min(max(0, int(at / BUCKET)), last)

    tokens, change, first = [0.0] * (last + 1), [0] * (last + 1), [0] * (last + 1)
    for at, count in tokens_at.items():
        tokens[min(max(0, at), last)] += count
    for row in rows:
        if row.sent is not None and row.ended is not None:
            change[step(row.sent)] += 1
            change[step(row.ended)] -= 1
        if row.first_token is not None:
            first[step(row.first_token)] += 1
    return Timeline([round(count, 3) for count in tokens], list(accumulate(change)), first)
