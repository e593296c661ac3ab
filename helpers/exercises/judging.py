"""What the exercises share: an answered number against the right one and against known mistakes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from helpers.cards import Card

TOLERANCE = 0.05
"""How far from the computed number an answer may be: whoever leaves the estimates out, or rounds, is still right."""

_NEAR = 0.04  # how far from a known mistake's result an answer is still taken for it


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
        if isinstance(answer, bool) or not isinstance(answer, int | float) or not math.isfinite(answer) or answer < 0:
            sorry = f"That is no number of {self.unit}. Give one, such as {self.such_as}."
            return Card(self.title, {"your answer": repr(answer)}, sorry)
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
