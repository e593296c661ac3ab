"""What a benchmark shows while it runs: a bar with live figures, or now and then a line (notebook 08)."""

import sys
import time
from typing import TYPE_CHECKING

from helpers.bench.load import Load
from helpers.bench.measured import Progress
from helpers.cards import counted
from helpers.progress import Bar, Live, in_notebook

if TYPE_CHECKING:
    from helpers.serving.poller import Record

LIVE_NOTE = "tokens/s over the last second, chunks counted; TTFT is the median of the latest answers"
"""What the live figures are: less exact than the results, where the server's own counts are used."""

_SPARSE = 30.0  # seconds between two lines in a log


def moment(
    title: str,
    load: Load,
    elapsed: float,
    progress: Progress | None,
    record: "Record | None" = None,
    details: tuple[tuple[str, str], ...] = (),
    stopping: bool = False,
) -> Bar:
    """One moment of a load as a bar.

    Args:
        title: what is measured.
        load: what is sent.
        elapsed: seconds since the load generator was started.
        progress: what it told last; None before its first word.
        record: what the engine told last of its requests and KV blocks; None where it tells nothing.
        details: shown below the bar.
        stopping: True once somebody has asked it to end.
    """
    parts = ["stopping; what was measured is kept (once more: give up)"] if stopping else []
    if progress is None:
        parts.append("starting the load generator")
    else:
        parts += _figures(load, progress)
        if record is not None and record.kv_used is not None:
            of = "" if record.kv_blocks is None else f" of {record.kv_blocks:,}"
            parts.append(f"{record.kv_used:,}{of} KV blocks used")
        if record is not None and record.queued:
            parts.append(f"{record.queued:,} queued")
    return Bar(title, elapsed, fraction(load, progress), " · ".join(parts), details)


def _figures(load: Load, progress: Progress) -> list[str]:
    """What the load generator told, a few words each."""
    of = "" if progress.total is None else f" of {progress.total:,}"
    run = "warm-up" if progress.run == 0 else f"run {progress.run} of {load.runs}"
    parts = [f"{run}, {progress.done:,}{of} requests done", f"{progress.in_flight:,} in flight"]
    parts.append(f"about {progress.tokens_per_second:,.0f} tokens/s")
    parts.append("no token yet" if progress.ttft is None else f"TTFT {1000 * progress.ttft:,.0f} ms")
    return [*parts, f"⚠ {progress.failed:,} failed"] if progress.failed else parts


def fraction(load: Load, progress: Progress | None) -> float | None:
    """How far a load is, warm-up and all runs, from 0 to 1; None where nobody knows."""
    if progress is None:
        return None
    within = []
    if progress.total:
        within.append(progress.done / progress.total)
    if load.lasts and progress.run:
        within.append(progress.seconds / load.lasts)
    if not within:
        return None
    share = min(1.0, max(within))
    # Runs that only time ends have no number of requests to weigh the warm-up against: it then counts as nothing.
    warming = load.warming / load.measured if load.measured else 0.0
    before = warming + progress.run - 1 if progress.run else 0.0
    return min(1.0, (before + share * (1.0 if progress.run else warming)) / (warming + load.runs))


class Screen:
    """Where a benchmark shows itself: in place in a notebook or a terminal, as a few plain lines in a log.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._live = Live() if not quiet and (in_notebook() or sys.stderr.isatty()) else None
        self._lines = not quiet and self._live is None
        self._quiet, self._told = quiet, 0.0

    def show(self, bar: Bar) -> None:
        """Draw a moment; in a log only the first of a load, and then one in half a minute."""
        if self._live:
            self._live.show(bar)
        elif self._lines and time.monotonic() - self._told >= (_SPARSE if self._told else 0.0):
            print(bar if not self._told else bar.line(), file=sys.stderr)
            self._told = time.monotonic()

    def run_ended(self, title: str, number: int, requests: int, failed: int) -> None:
        """Say in a log that a run has ended; elsewhere the bar says it."""
        if self._lines:
            run = "warm-up" if number == 0 else f"run {number}"
            print(f"{title}: {run} ended, {counted(requests, 'request')}, {failed:,} failed", file=sys.stderr)

    def finish(self, result: object) -> None:
        """Show what came of it, in place of the bar."""
        if not self._quiet:
            (self._live or Live()).finish(result)
