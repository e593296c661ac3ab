"""Whether 8 bits help on this machine, and why: two sweeps of the same loads side by side (notebooks 04 and 08).

Fewer bytes of weights help where reading them is the limit: at few requests in flight. Faster arithmetic helps where
multiplying is: at many. A device without arithmetic of 8 bits widens every weight before it multiplies, which costs
time at every load and may cost more than reading fewer bytes saves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.points import Finding, Point, heading, joined, named, points, rate_text, with_note
from helpers.bench.results import comparison
from helpers.bench.results.metrics import CLIENT_BOUND, Over
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.cards import Table

FASTER, SLOWER, SAME, UNKNOWN = "faster", "slower", "not told apart", "too few runs"


@dataclass(frozen=True)
class Pair:
    """The same load through two engines.

    Attributes:
        first, second: what each gave.
    """

    first: Point
    second: Point

    @property
    def ratio(self) -> float:
        """Output tokens a second of the second as times the first's."""
        return self.second.tokens_per_second / self.first.tokens_per_second

    @property
    def verdict(self) -> str:
        """Whether the second is faster by more than its runs and the first's differ; :func:`comparison.verdict`."""
        if self.first.client_bound or self.second.client_bound:
            return CLIENT_BOUND
        found = comparison.verdict(_over(self.first), _over(self.second))
        if found == comparison.LARGER:
            return FASTER if self.ratio > 1 else SLOWER
        return SAME if found == comparison.WITHIN else UNKNOWN


@dataclass(frozen=True, repr=False)
class Precisions(Finding):
    """Two engines of different precision under the same loads.

    Attributes:
        pairs: one a load that both have, in their order.
        first, second: what to call the engines, such as ``FP16`` and ``FP8``.
        bytes: of the weights of each; None where not given.
        arithmetic: True if the device multiplies in the second's precision, False if it widens; None if not known.
    """

    pairs: Sequence[Pair]
    first: str
    second: str
    bytes: tuple[int, int] | None = None
    arithmetic: bool | None = None

    def of(self, verdict: str) -> list[Pair]:
        """The pairs with a verdict."""
        return [pair for pair in self.pairs if pair.verdict == verdict]

    @property
    def sentence(self) -> str:
        """Where the second is faster, where slower, what that rests on, and what may be the reason."""
        parts = [self._said(verdict) for verdict in (FASTER, SLOWER, SAME, UNKNOWN, CLIENT_BOUND)]
        return " ".join(filter(None, [*parts, self._rule(), self._bytes(), self._why()]))

    def _rule(self) -> str:
        told = [pair for pair in self.pairs if pair.verdict in (FASTER, SLOWER, SAME)]
        if not told:
            return ""
        first, second = (min(getattr(pair, side).runs for pair in told) for side in ("first", "second"))
        return comparison.rule(first, second)

    def _said(self, verdict: str) -> str:
        found = self.of(verdict)
        if not found:
            return ""
        where = joined([f"{pair.second.label} ({pair.ratio:.2f} times)" for pair in found])
        kind = "concurrency" if found[0].second.rate is None else "a rate of"
        if verdict == UNKNOWN:
            return (
                f"At {kind} {where} the runs are too few to tell {self.second} from {self.first}: measure each load "
                f"{comparison.RUNS} times or more."
            )
        if verdict == SAME:
            return (
                f"{self.second} and {self.first} are not told apart at {kind} {where}: the ranges overlap, so these "
                "runs cannot tell."
            )
        if verdict == CLIENT_BOUND:
            return f"The client could not keep up at {kind} {where}, so these rates are not compared."
        return f"{self.second} is {verdict} than {self.first} at {kind} {where}."

    def _bytes(self) -> str:
        if self.bytes is None:
            return ""
        share = self.bytes[1] / self.bytes[0]
        text = f"{self.second} has {share:.2f} of the bytes of weights"
        if share >= 1:
            return f"{text}, so there is nothing to save in reading them."
        return f"{text}: predicted: at most {1 / share:.2f} times as fast where reading them is the whole time."

    def _why(self) -> str:
        """What the device's arithmetic may have to do with it; nothing here measures the reason."""
        if self.arithmetic is None:
            return ""
        slower, faster = self.of(SLOWER), self.of(FASTER)
        if self.arithmetic:
            text = f"This device multiplies in {self.second}"
            if slower:
                return f"{text}, so that is not why it is slower at {_labels(slower)}."
            return f"{text}, so it can win where multiplying is the limit too; which limit holds is not measured here."
        text = f"This device has no arithmetic in {self.second}: it widens each weight before it multiplies."
        costs = f"that costs more than reading fewer bytes saves at {_labels(slower)}" if slower else ""
        saves = (
            f"reading fewer bytes saves more than that costs at {_labels(faster)}, as far as a token waits for its "
            "weights"
            if faster
            else ""
        )
        reasons = " and ".join(filter(None, [costs, saves]))
        return f"{text} A possible reason, not measured here: {reasons}." if reasons else text

    def table(self) -> "Table":
        """One row a load."""
        rows = [
            (
                pair.second.label,
                rate_text(pair.first.tokens_per_second),
                rate_text(pair.second.tokens_per_second),
                f"{pair.ratio:.2f}",
                _range(pair.first),
                _range(pair.second),
                pair.verdict,
            )
            for pair in self.pairs
        ]
        columns = (
            *(
                heading([pair.second for pair in self.pairs]),
                f"{self.first}, output tokens/s",
                f"{self.second}, output tokens/s",
                "ratio",
            ),
            *(f"{self.first}, runs", f"{self.second}, runs", f"{self.second} is"),
        )
        return with_note(columns, rows, f"Measured: {self.second} beside {self.first}", self.sentence)


def precisions(
    first: Any,
    second: Any,
    names: tuple[str, str] = ("FP16", "FP8"),
    weights: tuple[int, int] | None = None,
    arithmetic: bool | None = None,
) -> Precisions:
    """Two engines of different precision under the same loads: which is faster where, and why.

    Args:
        first, second: sweeps, results or points of each.
        names: what to call them.
        weights: bytes of the weights of each (an engine's ``weight_bytes``).
        arithmetic: whether the device multiplies in the second's precision, rather than widening it first:
            :func:`helpers.hardware.gpus.multiplies`.

    Raises:
        WorkshopError: the two have no load in common, or nothing was measured.
    """
    before = {one.at: one for one in points(first) if one.tokens_per_second}
    after = {one.at: one for one in points(second) if one.tokens_per_second}
    shared = sorted(before.keys() & after.keys())
    if not shared or any((before[at].rate is None) != (after[at].rate is None) for at in shared):
        raise WorkshopError(
            f"{names[0]} and {names[1]} have no load in common that gave tokens: run the same sweep on both."
        )
    return Precisions([Pair(before[at], after[at]) for at in shared], *names, weights, arithmetic)


def _over(one: Point) -> Over:
    """Output tokens a second over the runs of a point."""
    return Over(one.tokens_per_second, *one.within("tokens_per_second", one.tokens_per_second), one.runs)


def _labels(pairs: Sequence[Pair]) -> str:
    return named([pair.second for pair in pairs])


def _range(one: Point) -> str:
    if one.runs < 2:
        return "one run"
    low, high = one.within("tokens_per_second", one.tokens_per_second)
    return f"{rate_text(low)} to {rate_text(high)}"
