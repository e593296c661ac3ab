"""What the exercises with a choice share: one or some of a few names, and for each why it is right or not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from helpers.cards import Card


@dataclass(frozen=True)
class Option:
    """One thing to choose: whether it belongs to the answer, and a sentence that says why or why not."""

    right: bool
    why: str


def names(answer: object) -> list[str]:
    """The names in an answer, each once: a list of them, or one text with commas."""
    given = answer.split(",") if isinstance(answer, str) else answer if isinstance(answer, Iterable) else [answer]
    return list(dict.fromkeys(str(name).strip() for name in given if str(name).strip()))


def choose_some(title: str, answer: object, options: Mapping[str, Option], unanswered: str, right: str) -> Card:
    """Judge a choice of any number of the options; every one that is wrong in or wrong out is told with its reason.

    Args:
        title: the question.
        answer: names of options, in any case, in a list or in one text with commas; None while there is no answer.
        options: each name with its reason.
        unanswered: what to say while there is no answer.
        right: what to say to the right answer.
    """
    given = _chosen(title, answer, options, unanswered)
    if isinstance(given, Card):
        return given
    facts = _facts(given)
    wrong = [option.why for name, option in options.items() if option.right is not (name in given)]
    if wrong:
        return Card(title, facts, f"Not yet. {' '.join(wrong)}")
    return Card(title, {**facts, **{name: option.why for name, option in options.items()}}, f"Right. {right}")


def choose_one(title: str, answer: object, options: Mapping[str, Option], unanswered: str, right: str) -> Card:
    """Judge a choice of exactly one option; the arguments are those of :func:`choose_some`."""
    given = _chosen(title, answer, options, unanswered)
    if isinstance(given, Card):
        return given
    facts = _facts(given)
    if len(given) != 1:
        return Card(title, facts, f"Not judged. Choose exactly one of {', '.join(options)}; {len(given)} were given.")
    chosen = options[given[0]]
    return Card(title, facts, f"{f'Right. {right}' if chosen.right else 'Not right.'} {chosen.why}".strip())


def _chosen(title: str, answer: object, options: Mapping[str, Option], unanswered: str) -> list[str] | Card:
    """The options that an answer names; a card where there is no answer, or one with another name in it."""
    if answer is None:
        return Card(title, note=f"Not answered yet: {unanswered}")
    spelled = {name.casefold(): name for name in options}
    given = list(dict.fromkeys(spelled.get(name.casefold(), name) for name in names(answer)))
    unknown = next((name for name in given if name not in options), None)
    if unknown is None:
        return given
    sorry = f"Not judged. There is no {unknown!r} to choose here. Choose from {', '.join(options)}."
    return Card(title, _facts(given), sorry)


def _facts(given: Iterable[str]) -> dict[str, str]:
    """What was chosen, as the card shows it."""
    return {"your answer": ", ".join(given) or "none"}
