"""One load's figures as the analyses take them: a point of the throughput-latency curve (notebook 08).

The only place that knows how a result keeps its figures. Percentiles count users who fare at least so well:
``ttft[95]`` is what 95 % of the requests wait at most, ``per_user[95]`` the rate that 95 % of them get at least (the
5th percentile of the rates).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from helpers.cards import ShownAsTable, Table
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.bench.results.result import Result

PERCENTILES = (50, 95, 99)

_SPREAD = {"tokens_per_second": "output_rate", "per_user": "per_user_p50", "ttft": "ttft_p50"}


@dataclass(frozen=True)
class Point:
    """What one load gave; medians over its runs.

    Attributes:
        concurrency: of a closed loop; None with a rate.
        rate: requests a second of an open loop; None for a closed loop.
        tokens_per_second: output tokens a second, all users together.
        total_tokens_per_second: input and output tokens a second.
        per_user: share of requests (a key of :data:`PERCENTILES`) to the tokens a second that they got at least, after
            their first token; None where there are too few requests to tell.
        ttft: share of requests to the seconds that their first token took at most; None as above.
        ttft_mean: its mean in seconds.
        ttft_first_wave, ttft_later: its medians in seconds, of the requests sent at once at the run's begin and of all
            others; a closed loop sends those while all its users are in flight.
        tpot: median time per output token after the first, in seconds.
        itl: median gap between reads that brought tokens, in seconds.
        in_flight: requests under way on average; None if not known.
        whole, failed: requests, all runs together.
        runs: how often it was measured.
        spread: ``tokens_per_second``, ``per_user`` or ``ttft`` (their medians) to the lowest and highest of the runs.
        client_bound: why latencies are the client's and not the server's, and rates only lower bounds; empty where the
            client kept up.
        prompt_tokens, output_tokens: of one request on average; None if nobody counted.
        title: what was measured, such as an engine.
    """

    concurrency: int | None = None
    rate: float | None = None
    tokens_per_second: float = 0.0
    total_tokens_per_second: float = 0.0
    per_user: Mapping[int, float | None] = field(default_factory=dict)
    ttft: Mapping[int, float | None] = field(default_factory=dict)
    ttft_mean: float | None = None
    ttft_first_wave: float | None = None
    ttft_later: float | None = None
    tpot: float | None = None
    itl: float | None = None
    in_flight: float | None = None
    whole: int = 0
    failed: int = 0
    runs: int = 1
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    client_bound: str = ""
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    title: str = ""

    @classmethod
    def of(cls, result: "Result") -> "Point":
        """From a result; with several runs medians over them, and their range as the spread.

        Raises:
            WorkshopError: its load has no single rate or concurrency.
        """
        if result.load.profile is not None:
            raise WorkshopError(
                f"A load whose rate changes ({result.load.kind}) is no point of a curve. Give loads with a concurrency "
                "or a rate; helpers.deploy shows this one over time."
            )
        told = result.summary
        means = [one.ttft.mean for one in told.figures if one.ttft.mean is not None and not told.client_bound]
        spread = {name: told.get(key) for name, key in _SPREAD.items()}
        return cls(
            concurrency=result.load.concurrency,
            rate=result.load.rate,
            tokens_per_second=result.value("output_rate") or 0.0,
            total_tokens_per_second=result.value("total_rate") or 0.0,
            per_user={50: result.value("per_user_p50"), 95: result.value("per_user_p5")},
            ttft={share: result.value(f"ttft_p{share}") for share in PERCENTILES},
            ttft_mean=median(means) if means else None,
            ttft_first_wave=result.value("ttft_first_wave_p50"),
            ttft_later=result.value("ttft_steady_p50"),
            tpot=result.value("tpot_p50"),
            itl=result.value("itl_p50"),
            in_flight=result.value("in_flight"),
            whole=told.whole,
            failed=told.failed,
            runs=told.runs,
            spread={name: (over.low, over.high) for name, over in spread.items() if over and over.runs > 1},
            client_bound=told.client_bound,
            prompt_tokens=result.value("prompt_tokens"),
            output_tokens=result.value("answer_tokens"),
            title=result.title,
        )

    @property
    def at(self) -> float:
        """Where it lies among others: its concurrency or its rate."""
        return float(self.concurrency or 0) if self.rate is None else self.rate

    @property
    def label(self) -> str:
        """The load in a few characters: ``32``, or ``5/s``."""
        return f"{self.concurrency}" if self.rate is None else f"{self.rate:g}/s"

    @property
    def name(self) -> str:
        """The load in words: ``concurrency 32``, or ``5 requests/s``."""
        return f"concurrency {self.concurrency}" if self.rate is None else f"{self.rate:g} requests/s"

    @property
    def measured(self) -> bool:
        """True if it has a throughput and latencies that are the server's."""
        return bool(self.tokens_per_second and self.ttft.get(50) is not None and not self.client_bound)

    @property
    def lost(self) -> str:
        """Why it has no latency of the server's; empty if it has."""
        if self.client_bound:
            return f"the client could not keep up ({self.client_bound})"
        return "" if self.measured else f"it gave no latency ({self.whole:,} answered whole, {self.failed:,} failed)"

    @property
    def context(self) -> float | None:
        """Tokens that an answer's token looks back on, on average over the answer; None if nobody counted."""
        if self.prompt_tokens is None or self.output_tokens is None:
            return None
        return self.prompt_tokens + self.output_tokens / 2

    def within(self, name: str, value: float) -> tuple[float, float]:
        """Lowest and highest of the runs; the value itself where there was one run."""
        return self.spread.get(name, (value, value))


class Finding(ShownAsTable):
    """Base of what the analyses find: a table, and a sentence that is computed from it."""

    @property
    def sentence(self) -> str:
        """The finding in words."""
        raise NotImplementedError


def points(what: Any, several: bool = False) -> list[Point]:
    """Points in the order of their load.

    Args:
        what: a sweep, one result, or any number of results or points.
        several: True where the same load may occur more than once, as with several engines.

    Raises:
        WorkshopError: there are none; closed and open loops are mixed, whose figures answer different questions; or a
            load occurs twice.
    """
    given = what if isinstance(what, Iterable) else [what]
    found = [one if isinstance(one, Point) else Point.of(one) for one in given]
    if not found:
        raise WorkshopError("Nothing was measured: there is no result to look at. Run a benchmark first.")
    if len({one.rate is None for one in found}) > 1:
        raise WorkshopError(
            "These results mix closed loops (a concurrency) and open loops (a rate), which answer different questions. "
            "Give those of one kind."
        )
    found.sort(key=lambda one: one.at)
    twice = next((b for a, b in pairwise(found) if a.at == b.at), None)
    if twice is not None and not several:
        raise WorkshopError(
            f"These results have {twice.name} more than once. Give those of one engine, each load once."
        )
    return found


def usable(found: Sequence[Point]) -> tuple[list[Point], str]:
    """The points whose latencies are the server's, and a sentence on those left out; empty if none was."""
    return [one for one in found if one.measured], without(found)


def without(found: Sequence[Point]) -> str:
    """A sentence on each point that is left out for want of latencies of the server's."""
    said = [f"{one.name} is left out: {one.lost}." for one in found if not one.measured]
    return " ".join(map(capital, said))


def lower_bounds(found: Sequence[Point]) -> str:
    """A sentence on the points whose rates may be more, since their client could not keep up; empty without any."""
    bound = [one for one in found if one.client_bound]
    return f"The client could not keep up at {named(bound)}: rates there are lower bounds." if bound else ""


def named(found: Sequence[Point]) -> str:
    """Several loads in words: ``concurrency 1, 8 and 32``."""
    labels = [one.label if one.rate is None else f"{one.rate:g}" for one in found]
    return f"concurrency {joined(labels)}" if found[0].rate is None else f"{joined(labels)} requests/s"


def heading(found: Sequence[Point]) -> str:
    """The head of a column with loads."""
    return "requests/s sent" if found and found[0].rate is not None else "concurrency"


def capital(text: str) -> str:
    """A sentence's begin."""
    return text[:1].upper() + text[1:]


def rate_text(rate: float | None) -> str:
    """Tokens a second with as many digits as mean something; a dash for None."""
    if rate is None:
        return "–"
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def time_text(seconds: float | None) -> str:
    """A latency in ms, or in seconds from one on; a dash for None."""
    if seconds is None:
        return "–"
    if seconds >= 0.9995:
        return f"{seconds:,.2f} s" if seconds < 100 else f"{seconds:,.0f} s"
    return f"{1000 * seconds:.3g} ms" if seconds < 0.0995 else f"{1000 * seconds:.0f} ms"


def changed(before: float, after: float) -> str:
    """How a value changed, in words: ``3.1 times``, ``12% less``, ``about the same``."""
    if not before:
        return "from 0"
    ratio = after / before
    if 0.97 < ratio < 1.03:
        return "about the same"
    if ratio >= 2:
        return f"{ratio:,.1f} times as much"
    return f"{ratio - 1:.0%} more" if ratio > 1 else f"{1 - ratio:.0%} less"


def joined(words: Sequence[str], last: str = "and") -> str:
    """Words as a list in a sentence: ``1, 8 and 32``."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def with_note(columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str, *note: str) -> Table:
    """A table whose note is put together from sentences; empty ones are left out."""
    return Table(columns, rows, caption, " ".join(filter(None, note)))
