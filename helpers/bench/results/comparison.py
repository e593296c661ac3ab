"""Two or more benchmarks side by side: is a difference larger than that from run to run? (notebook 08).

The rule is one that needs no assumption on how figures are spread: with at least three runs each, a difference counts
if the ranges of the runs do not overlap. Equal servers would do that by chance in 2 of C(6, 3) = 20 cases with three
runs each, in 2 of 252 with five: the odds are told with every verdict.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers.bench.load import Load
from helpers.bench.results.metrics import CLIENT_BOUND, METRICS, NONE, Metric, Over, Summary
from helpers.bench.results.result import Result, Sweep
from helpers.cards import Shown, ShownAsTable, Table, counted
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    import pandas

RUNS = 3
"""Runs of each that a verdict needs."""

SETTLED = 5
"""Runs of each at which chance makes a verdict in 1 of 126 comparisons."""

LARGER, WITHIN, UNKNOWN = "larger than the spread", "within the spread", "cannot tell"

COMPARED = (
    "output_rate",
    "full_rate",
    "per_user_p50",
    "per_user_p5",
    "tpot_p50",
    "ttft_p50",
    "ttft_p99",
    "itl_p50",
    "itl_p99",
    "e2e_p50",
)
"""The figures that are compared."""

_TOLD = ("output_rate", "per_user_p50", "ttft_p50")  # those that the sentence goes through
_ALIKE: tuple[tuple[str, Callable[[Load], Any]], ...] = (
    ("concurrency", lambda load: load.concurrency),
    ("rate", lambda load: load.rate),
    ("profile", lambda load: load.profile),
    ("arrivals", lambda load: load.arrivals if load.open_loop else None),
    ("input tokens", lambda load: None if load.prompts else str(load.input_tokens)),
    ("output tokens", lambda load: str(load.output_tokens)),
    ("prompts", lambda load: load.prompts),
    ("API", lambda load: load.api),
    ("extra fields", lambda load: dict(load.extra)),
    ("seed", lambda load: load.seed),
)
_MINOR: tuple[tuple[str, Callable[[Load], Any]], ...] = (
    ("requests of a run", lambda load: load.measured),
    ("seconds of a run", lambda load: load.seconds),
    ("ramp", lambda load: load.ramp),
    ("warm-up", lambda load: load.warming),
    ("time limit", lambda load: load.timeout),
)


def verdict(first: Over, second: Over) -> str:
    """:data:`LARGER`, :data:`WITHIN`, or :data:`UNKNOWN` with fewer than :data:`RUNS` runs of one of them."""
    if min(first.runs, second.runs) < RUNS:
        return UNKNOWN
    return LARGER if first.high < second.low or second.high < first.low else WITHIN


def chance(first: int, second: int) -> float:
    """How often so many runs of equal servers would lie apart by chance.

    Args:
        first, second: runs of each.
    """
    return 2 / math.comb(first + second, first)


def rule(first: int, second: int) -> str:
    """What a verdict on so many runs rests on, in a sentence.

    Args:
        first, second: runs of each.
    """
    text = "A difference counts if the ranges of the runs do not overlap"
    if min(first, second) < RUNS:
        return f"{text}, with at least {RUNS} runs each."
    more = f", so make {SETTLED} runs for what matters" if min(first, second) < SETTLED else ""
    return f"{text}; equal servers would do so by chance for {chance(first, second):.1%} of figures{more}."


@dataclass(frozen=True)
class Difference:
    """One figure of two results.

    Attributes:
        metric: which.
        first, second: over the runs of each, in the metric's base unit; None where it is not told.
        client_bound: True if the client of one of them falsified it, or made it a bound.
    """

    metric: Metric
    first: Over | None
    second: Over | None
    client_bound: bool = False

    @property
    def ratio(self) -> float | None:
        """Second over first; None where one of them is not there, or is the client's."""
        if self.first is None or self.second is None or self.client_bound or not self.first.value:
            return None
        return self.second.value / self.first.value

    @property
    def verdict(self) -> str:
        """As :func:`verdict`; :data:`CLIENT_BOUND` where the client decided it."""
        if self.first is None or self.second is None:
            return NONE
        return CLIENT_BOUND if self.client_bound else verdict(self.first, self.second)

    @property
    def chance(self) -> float | None:
        """How often runs of equal servers would lie apart like this by chance; None without a verdict."""
        if self.first is None or self.second is None or self.verdict not in (LARGER, WITHIN):
            return None
        return chance(self.first.runs, self.second.runs)

    @property
    def better(self) -> bool | None:
        """True if the second is better, whether or not it counts; None if :attr:`change` calls them the same."""
        ratio = self.ratio
        if ratio is None or _alike(ratio) or not self.metric.better:
            return None
        return (ratio > 1) == (self.metric.better == "higher")

    @property
    def change(self) -> str:
        """How the second differs, in words, such as ``12% higher``."""
        ratio = self.ratio
        if ratio is None:
            return NONE
        if _alike(ratio):
            return "the same"
        if ratio >= 2:
            return f"{ratio:.2f} times as high"
        return f"{abs(ratio - 1):.1%} {'higher' if ratio > 1 else 'lower'}"


@dataclass(frozen=True, repr=False)
class Comparison(ShownAsTable):
    """Two results of the same load.

    Attributes:
        first, second: what is compared.
        names: what to call them.
        unlike: what differs in their loads, where that was allowed.
    """

    first: Result
    second: Result
    names: tuple[str, str]
    unlike: Sequence[str] = ()

    @property
    def differences(self) -> list[Difference]:
        """One a figure that both have."""
        a, b = self.first.summary, self.second.summary
        found = []
        for key in COMPARED:
            one = Difference(METRICS[key], a.get(key), b.get(key), any(_of_client(one, key) for one in (a, b)))
            if one.first and one.second:
                found.append(one)
        return found

    def of(self, key: str) -> Difference:
        """One figure's difference.

        Args:
            key: of :data:`COMPARED`.

        Raises:
            WorkshopError: it is not compared, or one of the results does not have it.
        """
        for one in self.differences:
            if one.metric.key == key:
                return one
        there = ", ".join(one.metric.key for one in self.differences) or "none"
        raise WorkshopError(f"{key!r} is not among the figures that both results have: {there}.")

    @property
    def runs(self) -> int:
        """Runs of the one that has fewer."""
        return min(self.first.summary.runs, self.second.summary.runs)

    @property
    def others(self) -> list[str]:
        """What else differs: machine, engine, precision, and how it was measured; a sentence each."""
        return list(_other_differences(self.first, self.second))

    def table(self) -> Table:
        """One row a figure: medians over the runs with their range, ratio, verdict."""
        columns = ["figure", *self.names, "ratio", "difference"]
        body = []
        for one in self.differences:
            hidden = one.client_bound and one.metric.of_client
            shown = [CLIENT_BOUND if hidden else _range(one.metric, over) for over in (one.first, one.second)]
            ratio = NONE if one.ratio is None else f"{one.ratio:.3f}"
            body.append([one.metric.heading, *shown, ratio, one.verdict])
        runs = f"{self.first.summary.runs} and {self.second.summary.runs} runs"
        return Table(columns, body, f"Measured: {self.kind}; medians of {runs}, and their range", self.note)

    @property
    def kind(self) -> str:
        """The load, or both where they differ."""
        kinds = list(dict.fromkeys([self.first.load.kind, self.second.load.kind]))
        return " against ".join(kinds)

    @property
    def note(self) -> str:
        """The sentence, what else differs, and the rule."""
        unlike = [f"The loads are not alike: {'; '.join(self.unlike)}."] if self.unlike else []
        return " ".join([self.sentence, *unlike, *self.others, self.rule])

    @property
    def sentence(self) -> str:
        """The finding in words, computed from the runs."""
        return " ".join(_findings(self))

    @property
    def rule(self) -> str:
        """What a verdict rests on."""
        return rule(self.first.summary.runs, self.second.summary.runs)


@dataclass(frozen=True, repr=False)
class Comparisons(Shown):
    """Several comparisons, one below the other.

    Attributes:
        parts: in the order of the loads.
    """

    parts: Sequence[Comparison]

    def __iter__(self) -> Iterator[Comparison]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, place: int) -> Comparison:
        return self.parts[place]

    @property
    def sentence(self) -> str:
        """The findings in words, load by load."""
        return "\n".join(f"{one.kind}: {one.sentence}" for one in self.parts)

    def frame(self) -> "pandas.DataFrame":
        """One row a load and figure, in its base unit."""
        import pandas

        return pandas.DataFrame(
            {
                "first": part.names[0],
                "second": part.names[1],
                "load": part.kind,
                "figure": one.metric.key,
                "first_median": one.first and one.first.value,
                "second_median": one.second and one.second.value,
                "ratio": one.ratio,
                "verdict": one.verdict,
            }
            for part in self.parts
            for one in part.differences
        )

    def __str__(self) -> str:
        return "\n\n".join(str(one) for one in self.parts)

    def _repr_html_(self) -> str:
        return "".join(one._repr_html_() for one in self.parts)


def compare(
    first: "Result | Sweep",
    second: "Result | Sweep",
    *more: "Result | Sweep",
    unlike: bool = False,
    names: Sequence[str] = (),
) -> "Comparison | Comparisons":
    """Say of each figure whether results differ by more than runs of the same do; others against the first.

    Args:
        first, second, more: all results, or all sweeps: those are compared load by load.
        unlike: compare results of unlike loads as well, and say what differs.
        names: what to call them; empty for what tells them apart.

    Raises:
        WorkshopError: loads differ, sweeps share no load, or something else than results was given.
    """
    given = [first, second, *more]
    called = _names(given, names)
    found = []
    for other, name in zip(given[1:], called[1:], strict=True):
        found += list(_pairs(first, other, (called[0], name), unlike))
    return found[0] if len(found) == 1 and isinstance(first, Result) else Comparisons(found)


def _pairs(
    first: "Result | Sweep", second: "Result | Sweep", names: tuple[str, str], unlike: bool
) -> Iterator[Comparison]:
    """One comparison, or one a load that both sweeps have.

    Raises:
        WorkshopError: they cannot be compared.
    """
    if isinstance(first, Result) and isinstance(second, Result):
        yield _compared(first, second, names, unlike)
        return
    if not (isinstance(first, Sweep) and isinstance(second, Sweep)):
        kinds = " and ".join(f"a {type(one).__name__}" for one in (first, second))
        raise WorkshopError(f"These are {kinds}, which cannot be compared. Give two results, or two sweeps.")
    there = {_place(one.load): one for one in second}
    both = [(one, there[_place(one.load)]) for one in first if _place(one.load) in there]
    if not both:
        loads = [", ".join(one.load.kind for one in sweep) or "nothing" for sweep in (first, second)]
        raise WorkshopError(f"The sweeps share no load: {loads[0]}; against {loads[1]}. Measure both at the same ones.")
    for one, other in both:
        yield _compared(one, other, names, unlike)


def _place(load: Load) -> tuple[Any, ...]:
    """Where a load stands in a sweep."""
    return load.concurrency, load.rate, load.profile, load.arrivals if load.open_loop else None


def _compared(first: Result, second: Result, names: tuple[str, str], unlike: bool) -> Comparison:
    """One comparison.

    Raises:
        WorkshopError: the loads differ, and that is not allowed.
    """
    differing = _differing(_ALIKE, first.load, second.load)
    if differing and not unlike:
        raise WorkshopError(
            f"The loads differ, so the figures do not answer the same question: {'; '.join(differing)}. Measure both "
            "with the same load, or compare with unlike=True."
        )
    return Comparison(first, second, names, differing)


def _differing(what: Sequence[tuple[str, Callable[[Load], Any]]], first: Load, second: Load) -> list[str]:
    """What differs in two loads, with both values."""
    return [f"{name} {_said(a)} and {_said(b)}" for name, read in what if (a := read(first)) != (b := read(second))]


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def _names(given: Sequence["Result | Sweep"], names: Sequence[str]) -> list[str]:
    """What to call results: as told, else by their titles, else by their loads, else by number.

    Raises:
        WorkshopError: fewer or more names than results, or something else than results.
    """
    for one in given:
        if not isinstance(one, Result | Sweep):
            raise WorkshopError(f"A {type(one).__name__} is no result of a benchmark. Give results, or sweeps.")
    if names:
        if len(names) != len(given):
            raise WorkshopError(f"{counted(len(names), 'name')} for {len(given)} results. Give one name each.")
        return list(names)
    titles = [one.title if isinstance(one, Result) else one.name for one in given]
    loads = [one.load.kind if isinstance(one, Result) else "" for one in given]
    for choice in (titles, loads):
        if all(choice) and len(set(choice)) == len(choice):
            return choice
    return [f"{title or 'result'} ({number})" for number, title in enumerate(titles, 1)]


def _range(metric: Metric, over: Over | None) -> str:
    """A median, and its range where there are several runs."""
    if over is None:
        return NONE
    if over.runs == 1:
        return metric.number(over.value)
    return f"{metric.number(over.value)} ({metric.number(over.low)} to {metric.number(over.high)})"


# --- Words --------------------------------------------------------------------


def _findings(made: Comparison) -> Iterator[str]:
    """What was found, in at most three sentences."""
    first, second = made.names
    for name, result in zip(made.names, (made.first, made.second), strict=True):
        if not result.summary.whole:
            yield f"{name} has no request that was answered whole, so there is nothing to compare."
            return
    told = [one for one in made.differences if one.metric.key in _TOLD]
    if not told:
        yield f"{first} and {second} share no figure."
        return
    by = {verdict: [one for one in told if one.verdict == verdict] for verdict in (LARGER, UNKNOWN, WITHIN)}
    apart = by[LARGER] or by[UNKNOWN]
    if apart:
        yield f"Against {first}, {second} is {_judged(apart)}{', more than from run to run' if by[LARGER] else ''}."
    if by[WITHIN]:
        yield f"Not told apart, since the runs overlap: {'; '.join(map(_values, by[WITHIN]))}."
    if bound := [one.metric.title for one in told if one.client_bound]:
        yield f"Not compared, since client-bound: {', '.join(bound)}."
    elif made.runs < RUNS:
        yield (
            f"Whether that is more than from run to run cannot be told from {made.first.summary.runs} and "
            f"{counted(made.second.summary.runs, 'run')}: make {RUNS} or more of each (runs={RUNS})."
        )


def _judged(told: Sequence[Difference]) -> str:
    """Differences, the better ones first; the judgement is said once for all of a kind."""
    parts = []
    for judged, word in ((True, "better"), (False, "worse"), (None, "the same")):
        if kind := [one for one in told if one.better is judged]:
            changes = ["" if judged is None else f"{one.change}: " for one in kind]
            said = [
                f"{one.metric.title} ({change}{_values(one, named=False)})"
                for one, change in zip(kind, changes, strict=True)
            ]
            parts.append(f"{word} in {_listed(said)}")
    return "; ".join(parts)


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _values(one: Difference, named: bool = True) -> str:
    """Second against first, with the unit."""
    name = f"{one.metric.title} " if named else ""
    return f"{name}{one.metric.number(_value(one.second))} against {one.metric.text(_value(one.first))}"


def _alike(ratio: float) -> bool:
    """True where a change would be written as 0.0 %."""
    return abs(ratio - 1) < 0.0005


def _of_client(summary: Summary, key: str) -> bool:
    """True where the client decided a figure."""
    return summary.falsified(key) or bool(summary.bound(key))


def _value(over: Over | None) -> float:
    return math.nan if over is None else over.value


def _other_differences(first: Result, second: Result) -> Iterator[str]:
    """What differs beside the load, a sentence each."""
    if differing := _differing(_MINOR, first.load, second.load):
        yield f"Measured otherwise as well: {'; '.join(differing)}."
    parts = [
        ("engine", first.engine.get("title"), second.engine.get("title")),
        ("toolchain", first.engine.get("toolchain"), second.engine.get("toolchain")),
        ("batch limit", first.max_batch_size, second.max_batch_size),
        ("machine", _machine(first), _machine(second)),
        ("time stamps", first.target.get("stamps"), second.target.get("stamps")),
    ]
    told = [f"{name} {_said(a or None)} and {_said(b or None)}" for name, a, b in parts if a != b]
    if not told and first.engine.get("digest") != second.engine.get("digest"):
        told = ["the engine was built anew or otherwise, under the same title"]
    if told:
        yield f"What else differs: {'; '.join(told)}."
    if changed := first.meanings.changed(second.meanings):
        yield f"Their definitions differ: {', '.join(changed)}."
    for key in ("prompt_tokens", "answer_tokens"):
        one, other = first.summary.get(key), second.summary.get(key)
        if one and other and abs(other.value / one.value - 1) > 0.02:
            metric = METRICS[key]
            what = metric.title.split(",")[0]
            yield f"Mean tokens of {what}s: {metric.number(one.value)} and {metric.number(other.value)}."
    failed = [one.summary.failed for one in (first, second)]
    if any(failed):
        yield f"Failed requests, in no figure: {failed[0]:,} and {failed[1]:,}."


def _machine(result: Result) -> str:
    """The parts of a machine that bear on speed."""
    gpus = ", ".join(result.machine.get("gpus") or ())
    cpu = f"{result.machine['cpu']}, {result.machine['cores']} cores" if "cores" in result.machine else ""
    return " with ".join(filter(None, [cpu, gpus]))
