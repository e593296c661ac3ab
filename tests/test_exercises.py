"""The exercises: they work unanswered, know the right answers, and say what is wrong with the others."""

from dataclasses import replace

import pytest

from helpers import exercises, memory
from helpers.exercises import check_precisions, check_requests_on_a10g

PLAN = memory.fit("TinyLlama", "a10g", "int8_sq", sequence=2000)
ONE = PLAN.blocks_per_request * PLAN.block
KV_HEADS_FORGOTTEN = memory.kv_bytes_per_token(replace(PLAN.shape, kv_heads=32))


def test_unanswered_they_give_a_hint_and_no_answer():
    for card in (check_requests_on_a10g(), check_precisions()):
        assert card.note.startswith("Not answered yet: ")
        assert card.facts == {}
        assert "Not answered yet" in card._repr_html_()
    assert str(PLAN.requests) not in str(check_requests_on_a10g())


@pytest.mark.parametrize("answer", [PLAN.requests, PLAN.requests * 1.04, PLAN.requests * 0.96])
def test_the_planners_number_is_right_within_five_percent(answer):
    assert check_requests_on_a10g(answer).note.startswith("Right. ")
    assert check_requests_on_a10g(answer).facts["the planner's"] == f"{PLAN.requests:,}"


def test_forgetting_whole_blocks_is_right_and_told():
    by_tokens = PLAN.tokens // 2000
    assert by_tokens != PLAN.requests
    assert "2,000 tokens fill 62.5 of them and take 63" in check_requests_on_a10g(by_tokens).note
    assert "whole blocks" not in check_requests_on_a10g(PLAN.requests).note


# Each wrong turn is computed here from the model's own numbers: 22 layers, 32 heads, 4 of them for keys and values, of
# 64 numbers each.
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (PLAN.pool / (63 * 32 * 22 * 4 * 64 * 2), "keys alone"),
        (memory.fit("TinyLlama", "a10g", "int8_sq", "int8", sequence=2000).requests, "KV cache keeps 16 bits"),
        (PLAN.pool / (63 * 32 * KV_HEADS_FORGOTTEN), "all 32 heads. This model has 4 key-value heads"),
        (PLAN.memory / ONE, "gave the whole GPU"),
        (24 * 2**30 / ONE, "gave the whole GPU"),
        (0.8 * PLAN.memory / ONE, "80% of the whole GPU"),
        (PLAN.free / ONE, "gave all that is free"),
        (memory.fit("TinyLlama", "a10g", "int8_sq", sequence=1000).requests, "the prompt or the answer alone"),
    ],
)
def test_a_known_mistake_is_named(answer, told):
    note = check_requests_on_a10g(round(answer)).note
    assert note.startswith("Not right. ")
    assert told in note


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (3000, "too many, by a factor of 8.0"),
        (100, "too few, by a factor of 3.8"),
        (0, "At least one fits"),
        (-3, "no number of requests"),
        ("many", "no number of requests"),
        (True, "no number of requests"),
        (float("inf"), "no number of requests"),
    ],
)
def test_any_other_answer_is_told_its_direction(answer, told):
    assert told in check_requests_on_a10g(answer).note


def test_one_pair_of_precisions_meets_every_condition():
    assert exercises.solutions() == [("fp8", "fp8")]
    card = check_precisions("fp8", "fp8")
    assert card.note.startswith("Right. No other pair meets all three conditions: ")
    assert card.facts["block reuse"] == "kept"


@pytest.mark.parametrize(
    ("weights", "kv", "enough", "kept"),
    [
        ("fp16", None, False, True),
        ("fp8", "fp16", False, True),
        ("int4_awq", "fp16", False, True),
        ("fp16", "fp8", False, False),
        ("int8", "int8", True, False),
        ("int4_awq", "fp8", True, False),
    ],
)
def test_the_condition_that_fails_is_named_with_how_much(weights, kv, enough, kept):
    card = check_precisions(weights, kv)
    plan = memory.fit("Llama-3.1-8B-Instruct", "rtx-4090", weights, kv)
    assert card.note.startswith("Not yet: ")
    assert (f"{64 - plan.requests} requests too few" in card.note) is not enough
    assert ("block reuse is lost" in card.note) is not kept


@pytest.mark.parametrize(("weights", "kv"), [("fp9", "fp8"), ("fp8", "fp9"), (8, 8), (["fp8"], "fp8")])
def test_an_unknown_precision_is_answered_with_those_there_are(weights, kv):
    note = check_precisions(weights, kv).note
    assert "Choose the weights from fp16, fp8, int8, int8_wo, int4_awq and the KV cache from fp16, fp8, int8" in note
