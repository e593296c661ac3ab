"""The exercises of notebook 10: right answers, known wrong turns, and answers that are none."""

from dataclasses import replace

import pytest

from helpers import exercises
from helpers.exercises import check_after_int8, check_joined_scale
from helpers.unified import MODULES, Matched, Packagings

SCALES = {"q_proj": 0.0009, "k_proj": 0.0016, "v_proj": 0.0004}
JOINED, FACTOR = 0.0016, 4.0


@pytest.fixture
def packagings() -> Packagings:
    rows = tuple(
        Matched(f"layers.0.{name}", name, SCALES.get(name, 0.002), JOINED, False, True, None, 0.0, 0.8)
        for name in MODULES
    )
    return Packagings("FP8", rows, True, (1, 1))


def test_unanswered_exercises_say_where_to_begin(packagings: Packagings) -> None:
    for card in (check_joined_scale(packagings), check_joined_scale(packagings, 0.1), check_after_int8()):
        assert card.note.startswith("Not answered yet")
    assert {"check_joined_scale", "check_after_int8"} <= set(exercises.__all__)


def test_the_largest_scale_is_the_joined_one(packagings: Packagings) -> None:
    assert check_joined_scale(packagings, JOINED, FACTOR).note.startswith("Right. The scale is the largest")


def test_values_whose_scale_is_the_largest_lost_nothing(packagings: Packagings) -> None:
    rows = tuple(replace(row, unified=JOINED) if row.module == "v_proj" else row for row in packagings.rows)
    assert "lost nothing" in check_joined_scale(replace(packagings, rows=rows), JOINED, 1).note
    assert "fewer different numbers" in check_joined_scale(packagings, JOINED, FACTOR).note


@pytest.mark.parametrize(
    ("scale", "factor", "told"),
    [
        (0.0004, FACTOR, "With the smallest"),
        (0.0009, FACTOR, "not the largest of the three"),
        (0.0029, FACTOR, "do not add up"),
        (JOINED, 0.25, "upside down"),
        (JOINED, JOINED / 0.0009, "That is the query's"),
        (JOINED, 1.0, "That is the key's"),
        (JOINED, 30, "too large, by a factor of 7.5"),
        (0, FACTOR, "above 0"),
        (JOINED, "four", "above 0"),
    ],
)
def test_wrong_scales_and_factors_are_told_apart(packagings: Packagings, scale, factor, told) -> None:
    note = check_joined_scale(packagings, scale, factor).note
    assert told in note
    assert not note.startswith("Right")


def test_four_bit_weights_and_an_fp8_cache_take_the_place_of_int8() -> None:
    assert check_after_int8("int4_awq", "fp8").note.startswith("Right. ")


@pytest.mark.parametrize(
    ("weights", "cache", "told"),
    [
        ("fp8", "fp8", "no FP8 in its tensor cores"),
        ("int8", "int8", "went with the engine workflow"),
        ("fp16", "fp8", "the weights stay as large"),
        ("int4_awq", "int8", "An INT8 KV cache went with the engine workflow"),
        ("int4_awq", None, "twice the bytes"),
        ("int4_awq", "int3", "no KV cache in 'int3'"),
        ("fp4", "fp8", "There is no 'fp4'"),
    ],
)
def test_wrong_precisions_are_told_apart(weights, cache, told) -> None:
    note = check_after_int8(weights, cache).note
    assert told in note
    assert not note.startswith("Right")
