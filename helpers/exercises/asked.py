"""What the card of every exercise has: its own kind of line, and the way to the solution once an answer is wrong."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import ParamSpec

from helpers import looks
from helpers.cards import Card

_Given = ParamSpec("_Given")
_WRONG = ("Not right", "Not yet")  # how a card's note begins that says no to an answer
_FOLDER = "solutions"  # seen from the lessons
_hidden = False


def hide_solutions() -> None:
    """Show no way to the solutions from here on: what runs is one of them, in another folder than the lessons."""
    global _hidden
    _hidden = True


def asked_in(lesson: str) -> Callable[[Callable[_Given, Card]], Callable[_Given, Card]]:
    """Make a function that judges an answer one of a lesson's exercises.

    Args:
        lesson: the notebook's file name without ``.ipynb``. Its solutions have the same name.
    """

    def exercise(check: Callable[_Given, Card]) -> Callable[_Given, Card]:
        @wraps(check)
        def judge(*given: _Given.args, **named: _Given.kwargs) -> Card:
            card = check(*given, **named)
            # Only after an answer: who has not tried yet should not be led to the solution.
            wrong = card.note.startswith(_WRONG) and not _hidden
            links = {"Solution": f"{_FOLDER}/{lesson}.ipynb"} if wrong else {}
            return replace(card, kind=looks.ASKED, links=links)

        return judge

    return exercise
