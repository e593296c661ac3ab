"""What the exercises share: an answered number against the right one and against known mistakes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real

from helpers.cards import Card

TOLERANCE = 0.05
"""How far from the computed number an answer may be: whoever leaves the estimates out, or rounds, is still right."""

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

    def judge(self, answer: object, working: Callable[[float], str]) -> Card:
        """What to show for an answer; ``working`` tells how a right one is computed."""
        if answer is None:
            return Card(self.title, note=f"Not answered yet: {self.unanswered}")
        number = _number(answer)
        if number is None or number < 0:
            sorry = f"That is no number of {self.unit}. Give one, such as {self.such_as}."
            return Card(self.title, {"your answer": repr(answer)}, sorry)
        answer = number
        # Ten million and less are shown to the last digit; an exponent would hide what was typed.
        facts = {"your answer": f"{answer:,.12g}" if answer < 1e10 else f"{answer:.3g}"}
        if abs(answer - self.right) <= TOLERANCE * self.right:
            return Card(self.title, {**facts, self.by: f"{self.right:,}"}, f"Right. {working(answer)}")
        return Card(self.title, facts, f"Not right. {self._wrong(answer)}")

    def _wrong(self, answer: float) -> str:
        """What probably went wrong: the known mistake whose result is nearest, or the direction and how far."""
        nearest = min(self.mistakes, key=lambda mistake: abs(answer - mistake.result))
        if abs(answer - nearest.result) <= _NEAR * nearest.result:
            return nearest.told
        if not answer:
            return self.zero
        many = answer > self.right
        times = answer / self.right if many else self.right / answer
        factor = f"{times:.1f}" if times < 10 else f"{times:,.0f}"
        return f"That is {'too many' if many else 'too few'}, by a factor of {factor}. {self.start}"


def _number(answer: object) -> float | None:
    """An answer as a number, NumPy's own too; None if it is none, or not a finite one. True and False are none."""
    if isinstance(answer, bool) or not isinstance(answer, Real):
        return None
    try:
        found = float(answer)
    except OverflowError:  # an integer beyond what a float holds
        return None
    return found if math.isfinite(found) else None


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
    """Hold a number against the right one and against those that known mistakes lead to."""
    facts = dict(facts or {})
    number = _number(answer)
    if number is None or number <= 0:
        facts["your answer"] = repr(answer)
        return Card(title, facts, f"That is no number of {unit} above 0. Give one.")
    answer = number
    facts["your answer"] = f"{answer:,.6g} {unit}"
    if abs(answer - right) <= tolerance * right:
        return Card(title, {**facts, "computed": f"{right:,.6g} {unit}"}, f"Right. {working}")
    # Those that are as good as right on this data are not told: they would be called mistakes of a right answer.
    apart = [one for one in mistakes if one.result > 0 and abs(one.result - right) > 2 * tolerance * right]
    nearest = min(apart, key=lambda one: abs(answer - one.result), default=None)
    if nearest is not None and abs(answer - nearest.result) <= min(
        tolerance * nearest.result, _NEARER * abs(nearest.result - right)
    ):
        return Card(title, facts, f"Not right. {nearest.told}")
    times = answer / right if answer > right else right / answer
    by = f"by a factor of {times:,.1f}" if times >= 1.1 else f"by {times - 1:.1%}"
    return Card(title, facts, f"Not right. That is too {'large' if answer > right else 'small'}, {by}. {start}")
