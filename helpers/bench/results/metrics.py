"""The figures of a benchmark by name, with their units and the way they are written, and over runs (notebook 08).

One list for every view: the table of a result, the frame, the comparison and the pictures take their names here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from helpers.bench.results.figures import Figures

CLIENT_BOUND = "client-bound"
"""Stands where a figure would be the client's rather than the server's."""

NONE = "–"

_LOWER, _HIGHER = "lower", "higher"
_LEAST, _MOST = "at least", "at most"


@dataclass(frozen=True)
class Metric:
    """One figure of a run.

    Attributes:
        key: its name in frames.
        title: as a person writes it.
        unit: that it is shown in.
        definition: its key in ``data/benchmark_definitions.toml``.
        read: takes it from a run's figures, in the base unit (seconds, tokens a second); None where it is not told.
        better: ``lower``, ``higher``, or empty where neither is.
        scale: shown units in a base unit: 1000 for milliseconds.
        of_client: True if a client that does not keep up falsifies it.
        bound: what such a client makes of a figure that it does not falsify: ``at least``, ``at most``, or empty for
            nothing.
    """

    key: str
    title: str
    unit: str
    definition: str
    read: Callable[[Figures], float | None]
    better: str = ""
    scale: float = 1.0
    of_client: bool = False
    bound: str = ""

    @property
    def heading(self) -> str:
        """Title and unit, for the head of a column."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def number(self, value: float | None) -> str:
        """A value in the shown unit, without it."""
        return NONE if value is None else number(value * self.scale)

    def text(self, value: float | None) -> str:
        """A value with its unit."""
        return NONE if value is None else f"{self.number(value)} {self.unit}".rstrip()


def number(value: float) -> str:
    """With as many places as say something: ``9.73``, ``50.1``, ``1,234``."""
    size = abs(value)
    places = 0 if size >= 999.95 else 1 if size >= 9.995 else 2
    return f"{value:,.{places}f}"


def _time(
    key: str, title: str, read: Callable[[Figures], float | None], of_client: bool = False, bound: str = ""
) -> Metric:
    family = key.rpartition("_p")[0]
    return Metric(key, title, "ms", family, read, _LOWER, 1000.0, of_client, bound)


def _rate(key: str, title: str, read: Callable[[Figures], float | None], unit: str = "tokens/s") -> Metric:
    family = key.rpartition("_p")[0] if key.startswith("per_user") else key
    return Metric(key, title, unit, family, read, _HIGHER, bound=_LEAST)


_LISTED = (
    _time("ttft_p50", "TTFT p50", lambda f: f.ttft.p50, True),
    _time("ttft_p90", "TTFT p90", lambda f: f.ttft.p90, True),
    _time("ttft_p95", "TTFT p95", lambda f: f.ttft.p95, True),
    _time("ttft_p99", "TTFT p99", lambda f: f.ttft.p99, True),
    _time("ttft_first_wave_p50", "TTFT p50, first wave", lambda f: f.ttft_first_wave.p50, True),
    _time("ttft_steady_p50", "TTFT p50, later", lambda f: f.ttft_steady.p50, True),
    _time("ttft_steady_p99", "TTFT p99, later", lambda f: f.ttft_steady.p99, True),
    _time("itl_p50", "ITL p50", lambda f: f.itl.p50, True),
    _time("itl_p95", "ITL p95", lambda f: f.itl.p95, True),
    _time("itl_p99", "ITL p99", lambda f: f.itl.p99, True),
    _time("tpot_p50", "TPOT p50", lambda f: f.tpot.p50, bound=_MOST),
    _time("tpot_p95", "TPOT p95", lambda f: f.tpot.p95, bound=_MOST),
    _time("tpot_p99", "TPOT p99", lambda f: f.tpot.p99, bound=_MOST),
    _time("e2e_p50", "whole answer p50", lambda f: f.e2e.p50, True),
    _time("e2e_p95", "whole answer p95", lambda f: f.e2e.p95, True),
    _time("e2e_p99", "whole answer p99", lambda f: f.e2e.p99, True),
    _rate("per_user_p50", "per user p50", lambda f: f.per_user.p50),
    _rate("per_user_p5", "per user, slowest 5 %", lambda f: f.per_user.p5),
    _rate("output_rate", "output", lambda f: f.output_rate),
    _rate("total_rate", "input and output", lambda f: f.total_rate),
    _rate("full_rate", "output, all in flight", lambda f: f.full_rate),
    _rate("request_rate", "answers", lambda f: f.request_rate, "requests/s"),
    Metric("in_flight", "in flight, mean", "", "in_flight", lambda f: f.in_flight),
    Metric("tokens_per_event", "tokens per event", "", "tokens_per_event", lambda f: f.tokens_per_event),
    Metric("events_per_read", "events per read", "", "events_per_read", lambda f: f.events_per_read),
    Metric("prompt_tokens", "prompt, mean", "tokens", "prompt_tokens", lambda f: f.prompt.mean),
    Metric("answer_tokens", "answer, mean", "tokens", "answer_tokens", lambda f: f.answer.mean),
    _time("late_p99", "sent late p99", lambda f: f.health.late_p99 if f.late.n else None),
    Metric("whole", "answered whole", "requests", "failed", lambda f: f.whole, _HIGHER),
    Metric("failed", "failed", "requests", "failed", lambda f: f.failed_count, _LOWER),
)

METRICS: Mapping[str, Metric] = {metric.key: metric for metric in _LISTED}
"""Every figure by its key, in the order to show."""


@dataclass(frozen=True)
class Over:
    """One figure over several runs, in its base unit.

    Attributes:
        value: the median over the runs.
        low, high: their range.
        runs: how many runs have it.
    """

    value: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Over":
        """Of one value a run, at least one."""
        return cls(median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Summary:
    """The figures of all measured runs of one load.

    Attributes:
        figures: one a run.
    """

    figures: Sequence[Figures]

    @property
    def runs(self) -> int:
        """How many."""
        return len(self.figures)

    @property
    def client_bound(self) -> str:
        """Why the client falsified at least one run; empty if it kept up in all."""
        return next((one.client_bound for one in self.figures if one.client_bound), "")

    @property
    def gaps_bound(self) -> str:
        """The same for ITL."""
        return next((one.gaps_bound for one in self.figures if one.gaps_bound), "")

    @property
    def whole(self) -> int:
        """Requests that were answered whole, all runs together."""
        return sum(one.whole for one in self.figures)

    @property
    def failed(self) -> int:
        """Requests that were not."""
        return sum(one.failed_count for one in self.figures)

    @property
    def uncounted(self) -> int:
        """Whole answers whose tokens nobody counted."""
        return sum(one.uncounted for one in self.figures)

    def get(self, key: str) -> Over | None:
        """A figure over the runs that have it, whether or not the client kept up; None if none has it.

        Args:
            key: of :data:`METRICS`.
        """
        read = METRICS[key].read
        values = [value for one in self.figures if (value := read(one)) is not None]
        return Over.of(values) if values else None

    def falsified(self, key: str) -> bool:
        """True if a client that did not keep up makes this figure its own."""
        bound = self.gaps_bound if METRICS[key].definition == "itl" else self.client_bound
        return bool(bound) and METRICS[key].of_client

    def bound(self, key: str) -> str:
        """``at least`` or ``at most`` where a client that did not keep up makes a figure a bound; else empty."""
        return METRICS[key].bound if self.client_bound else ""

    def value(self, key: str) -> float | None:
        """The median over runs in the base unit; None if there is none, or if the client falsified it."""
        found = self.get(key)
        return None if found is None or self.falsified(key) else found.value

    def number(self, key: str) -> str:
        """The median in the shown unit without the unit; :data:`CLIENT_BOUND` where the client falsified it."""
        found = self.get(key)
        if found is None:
            return NONE
        return CLIENT_BOUND if self.falsified(key) else METRICS[key].number(found.value)

    def text(self, key: str) -> str:
        """The median with its unit, and the range where there are several runs; a bound is called one."""
        found, metric = self.get(key), METRICS[key]
        if found is None or self.falsified(key):
            return self.number(key)
        median_ = f"{self.bound(key)} {metric.text(found.value)}".lstrip()
        if found.runs == 1:
            return median_
        return f"{median_} ({metric.number(found.low)} to {metric.number(found.high)})"
