"""Whether 8 bits help on this machine, and why: two sweeps of the same loads side by side (notebooks 04 and 08).

Fewer bytes of weights help where reading them is the limit: at few requests in flight. Faster arithmetic helps where
multiplying is: at many. A device without arithmetic of 8 bits widens every weight before it multiplies, which costs
time at every load and may cost more than reading fewer bytes saves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.points import Finding, Point, joined, points, rate_text, with_note
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.cards import Table

FASTER, SLOWER, SAME, UNKNOWN = "faster", "slower", "no difference", "cannot be told"

FEWEST = 3
"""Runs of each below which a range says too little."""


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
        """Whether the second is faster by more than the runs of either differ: their ranges do not overlap."""
        if min(self.first.runs, self.second.runs) < FEWEST:
            return UNKNOWN
        low, high = self.first.within("tokens_per_second", self.first.tokens_per_second)
        other_low, other_high = self.second.within("tokens_per_second", self.second.tokens_per_second)
        return FASTER if other_low > high else SLOWER if other_high < low else SAME


@dataclass(frozen=True, repr=False)
class Precisions(Finding):
    """Two engines of different precision under the same loads.

    Attributes:
        pairs: one a load that both have, in their order.
        first, second: what to call the engines, such as ``FP16`` and ``FP8``.
        bytes: of the weights of each; None where not given.
        arithmetic: True if the device multiplies in the second's precision, False if it widens; None if not known.
        balance: tokens in one step below which reading the first's weights is the limit; None if not known.
    """

    pairs: Sequence[Pair]
    first: str
    second: str
    bytes: tuple[int, int] | None = None
    arithmetic: bool | None = None
    balance: float | None = None

    def of(self, verdict: str) -> list[Pair]:
        """The pairs with a verdict."""
        return [pair for pair in self.pairs if pair.verdict == verdict]

    @property
    def sentence(self) -> str:
        """Where the second is faster, where slower, and why as far as the machine's limits say."""
        parts = [self._said(verdict) for verdict in (FASTER, SLOWER, SAME, UNKNOWN)]
        return " ".join(filter(None, [*parts, self._bytes(), self._why()]))

    def _said(self, verdict: str) -> str:
        found = self.of(verdict)
        if not found:
            return ""
        where = joined([f"{pair.second.label} ({pair.ratio:.2f} times)" for pair in found])
        kind = "concurrency" if found[0].second.rate is None else "a rate of"
        if verdict == UNKNOWN:
            return (
                f"At {kind} {where} the runs are too few to tell {self.second} from {self.first}: measure each load "
                f"{FEWEST} times or more."
            )
        if verdict == SAME:
            return f"At {kind} {where} {self.second} and {self.first} differ by no more than the runs do."
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
        text = ""
        if self.balance is not None:
            bound = [
                pair.second.label for pair in self.pairs if pair.second.at <= self.balance and pair.second.rate is None
            ]
            text = f"predicted: steps of up to {self.balance:,.0f} tokens are bound by reading weights"
            text += f": of these loads {joined(bound)}." if bound else ": none of these loads."
        if self.arithmetic is None:
            return text
        return f"{text} {self._arithmetic()}".strip()

    def _arithmetic(self) -> str:
        """What the device's arithmetic does to the second, as far as it shows."""
        slower, faster = self.of(SLOWER), self.of(FASTER)
        if self.arithmetic:
            text = f"This device multiplies in {self.second}"
            if slower:
                return f"{text}, so that is not why it is slower at {_labels(slower)}."
            return f"{text}, so it can win where multiplying is the limit too."
        text = f"This device has no arithmetic in {self.second}: it widens each weight before it multiplies"
        costs = f"that costs more than reading fewer bytes saves at {_labels(slower)}" if slower else ""
        saves = f"reading fewer bytes saves more than that costs at {_labels(faster)}" if faster else ""
        return f"{text}; {' and '.join(filter(None, [costs, saves])) or 'no difference is certain here'}."

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
            *("load", f"{self.first}, output tokens/s", f"{self.second}, output tokens/s", "ratio"),
            *(f"{self.first}, runs", f"{self.second}, runs", f"{self.second} is"),
        )
        return with_note(columns, rows, f"Measured: {self.second} beside {self.first}", self.sentence)


def precisions(
    first: Any,
    second: Any,
    names: tuple[str, str] = ("FP16", "FP8"),
    weights: tuple[int, int] | None = None,
    arithmetic: bool | None = None,
    balance: float | None = None,
) -> Precisions:
    """Two engines of different precision under the same loads: which is faster where, and why.

    Args:
        first, second: sweeps, results or points of each.
        names: what to call them.
        weights: bytes of the weights of each (an engine's ``weight_bytes``).
        arithmetic: whether the device multiplies in the second's precision, rather than widening it first:
            :func:`helpers.hardware.gpus.multiplies`.
        balance: tokens in one step at which reading and multiplying take as long, such as
            :meth:`helpers.hardware.Roofline.tokens_to_balance`; None if not known.

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
    return Precisions([Pair(before[at], after[at]) for at in shared], *names, weights, arithmetic, balance)


def _labels(pairs: Sequence[Pair]) -> str:
    return f"concurrency {joined([pair.second.label for pair in pairs])}"


def _range(one: Point) -> str:
    if one.runs < 2:
        return "one run"
    low, high = one.within("tokens_per_second", one.tokens_per_second)
    return f"{rate_text(low)} to {rate_text(high)}"
