"""The exercises of notebook 09: right answers, known wrong turns, and answers that are none."""

import math

import pytest

from helpers import exercises
from helpers.deploy.scaling import Scaling
from helpers.exercises import check_cold_share, check_replicas

SCALING = Scaling(min_replicas=0, max_replicas=2, target_ongoing=8)
SHARE = math.exp(-2.5)


def test_unanswered_exercises_say_where_to_begin() -> None:
    for card in (check_replicas(SCALING), check_cold_share()):
        assert card.note.startswith("Not answered yet")
    assert {"check_replicas", "check_cold_share"} <= set(exercises.__all__)


def test_replicas_are_rounded_up() -> None:
    assert check_replicas(SCALING, 5).note.startswith("Right. 4.62 replicas")
    assert check_replicas(SCALING.with_(target_ongoing=37), 1).note.startswith("Right. ")


def test_replicas_end_at_the_limit() -> None:
    low = SCALING.with_(target_ongoing=2)
    assert check_replicas(low, 8).note.endswith("and 8 is the most.")
    assert "There may be 8 at most" in check_replicas(low, 19).note


def test_replicas_that_always_stay_count_before_the_load() -> None:
    kept = SCALING.with_(min_replicas=6, max_replicas=8)
    assert check_replicas(kept, 6).note.endswith("and 6 is the least.")
    assert "There are 6 at least" in check_replicas(kept, 5).note


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (4, "4 of them would have 9.2 each"),
        (6, "one more than the load asks for"),
        (2, "this deployment's limit"),
        (37, "a replica for each request"),
        (20, "too large, by a factor of 4.0"),
        (0, "no number of replicas above 0"),
        ("five", "no number of replicas above 0"),
        (True, "no number of replicas above 0"),
    ],
)
def test_wrong_numbers_of_replicas_are_told_apart(answer: object, told: str) -> None:
    note = check_replicas(SCALING, answer).note  # type: ignore[arg-type]
    assert told in note
    assert not note.startswith("Right")


def test_the_share_of_cold_starts_is_the_tail_of_the_gaps() -> None:
    card = check_cold_share(SHARE)
    assert card.note.startswith("Right. The mean gap is 120 s")
    assert "about one request in 12" in card.note
    assert check_cold_share(round(SHARE, 3)).note.startswith("Right. ")  # typed with three digits


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (1 - SHARE, "finds a replica running"),
        (100 * SHARE, "in percent"),
        (math.exp(-0.4), "upside down"),
        (math.exp(-10), "rate an hour"),
        (2.5, "on average"),
        (0.4, "compares averages"),
        (1, "find a replica"),
        (0.2, "too large, by a factor of 2.4"),
        (0, "above 0"),
        (math.nan, "above 0"),
    ],
)
def test_wrong_shares_are_told_apart(answer: float, told: str) -> None:
    note = check_cold_share(answer).note
    assert told in note
    assert not note.startswith("Right")
