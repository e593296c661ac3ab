"""What the exercises share: an answered number against the right one and against known mistakes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real

from helpers.cards import Card

TOLERANCE = 0.05
"""How far from the computed number an answer may be where its question says nothing else: rounded ones are right."""

EXACT = 0.002
"""The same for a number that Python can compute from figures that the reader has."""

_NEAR = 0.04  # how far from a known mistake's result an answer is still taken for it
_NEARER = (
    0.25  # of the distance between the right number and a mistake's: nearer to it, an exact answer is taken for it
)


@dataclass(frozen=True)
class Mistake:
    """A number that a wrong turn leads to, and what the turn was."""

    result: float
    told: str


@dataclass(frozen=True)
class Question:
    """A question whose answer is a number.

    Attributes:
        title: the question.
        unanswered: what to say while there is no answer.
        unit: what is counted, such as ``requests``; with ``such_as``, a number to give as an example.
        right: the right answer, and ``by``, what to call it.
        mistakes: known wrong turns.
        zero: what to say to an answer of 0.
        start: where to start again, for an answer that no known mistake leads to.
        tolerance: how far from the right number an answer may be, as a share of it.
    """

    title: str
    unanswered: str
    unit: str
    such_as: str
    right: int
    by: str
    mistakes: Sequence[Mistake]
    zero: str
    start: str
    tolerance: float = TOLERANCE

    def judge(self, answer: object, working: Callable[[float], str]) -> Card:
        """What to show for an answer; ``working`` tells how a right one is computed."""
        if answer is None:
            return Card(self.title, note=f"Not answered yet: {self.unanswered}")
        number = _number(answer)
        if number is None or number < 0:
            sorry = f"That is no number of {self.unit}. Give one{_unquoted(answer)}, such as {self.such_as}."
            return Card(self.title, {"your answer": repr(answer)}, f"Not judged. {sorry}")
        answer = number
        # Ten million and less are shown to the last digit; an exponent would hide what was typed.
        facts = {"your answer": f"{answer:,.12g}" if answer < 1e10 else f"{answer:.3g}"}
        if abs(answer - self.right) <= self.tolerance * self.right:
            return Card(self.title, {**facts, self.by: f"{self.right:,}"}, f"Right. {working(answer)}")
        return Card(self.title, facts, f"Not right. {self._wrong(answer)}")

    def _wrong(self, answer: float) -> str:
        """What probably went wrong: the known mistake whose result is nearest, or the direction and how far."""
        nearest = min(self.mistakes, key=lambda mistake: abs(answer - mistake.result))
        # Half-way and nearer to the right number it is more likely a rounding than the mistake.
        if abs(answer - nearest.result) <= min(_NEAR * nearest.result, abs(nearest.result - self.right) / 2):
            return nearest.told
        if not answer:
            return self.zero
        many = answer > self.right
        times = answer / self.right if many else self.right / answer
        return f"That is {'too many' if many else 'too few'}, {_by(times)}. {self.start}"


def _number(answer: object) -> float | None:
    """An answer as a number, NumPy's own too; None if it is none, or not a finite one. True and False are none."""
    if isinstance(answer, bool) or not isinstance(answer, Real):
        return None
    try:
        found = float(answer)
    except OverflowError:  # an integer beyond what a float holds
        return None
    return found if math.isfinite(found) else None


def _unquoted(answer: object) -> str:
    """What to add where an answer is text."""
    return " without quotes, the digits alone" if isinstance(answer, str) else ""


def _by(times: float) -> str:
    """How far off, in as many digits as tell something: percent for a little, a power of ten for very much."""
    if times < 1.1:
        return f"by {times - 1:.1%}"
    factor = f"{times:.1f}" if times < 10 else f"{times:,.0f}" if times < 1e6 else f"about 10^{math.log10(times):.0f}"
    return f"by a factor of {factor}"


def _in(unit: str, number: float) -> str:
    """A number with its unit; a sign such as $ stands before it."""
    digits = f"{number:,.6g}"
    return f"{unit}{digits}" if unit and not unit[0].isalnum() else f"{digits} {unit}".strip()


def judged(
    title: str,
    answer: object,
    unit: str,
    right: float,
    mistakes: Sequence[Mistake],
    working: str,
    start: str,
    facts: dict[str, str] | None = None,
    tolerance: float = EXACT,
) -> Card:
    """Hold a number against the right one and against those that known mistakes lead to.

    Args:
        title: the question.
        answer: what was answered.
        unit: what the number counts, or a sign or name of a currency; empty for a number without one.
        right: the right answer.
        mistakes: known wrong turns.
        working: how the right answer is computed.
        start: where to start again, for an answer that no known mistake leads to.
        facts: what else to show.
        tolerance: how far from the right number an answer may be, as a share of it.
    """
    facts = dict(facts or {})
    number = _number(answer)
    if number is None or number <= 0:
        facts["your answer"] = repr(answer)
        kind = f" of {unit}" if unit[:1].isalnum() else ""
        return Card(title, facts, f"Not judged. That is no number{kind} above 0. Give one{_unquoted(answer)}.")
    answer = number
    facts["your answer"] = _in(unit, answer)
    if abs(answer - right) <= tolerance * right:
        return Card(title, {**facts, "computed": _in(unit, right)}, f"Right. {working}")
    # Those that are as good as right on this data are not told: they would be called mistakes of a right answer.
    apart = [one for one in mistakes if one.result > 0 and abs(one.result - right) > 2 * tolerance * right]
    nearest = min(apart, key=lambda one: abs(answer - one.result), default=None)
    if nearest is not None and abs(answer - nearest.result) <= min(
        tolerance * nearest.result, _NEARER * abs(nearest.result - right)
    ):
        return Card(title, facts, f"Not right. {nearest.told}")
    times = answer / right if answer > right else right / answer
    return Card(title, facts, f"Not right. That is too {'large' if answer > right else 'small'}, {_by(times)}. {start}")
