"""The exercises: they work unanswered, know the right answers, and say what is wrong with the others."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import exercises, hardware, memory
from helpers.errors import WorkshopError
from helpers.exercises import (
    check_all_reduce_bytes,
    check_gpus_for_70b,
    check_precisions,
    check_requests_on_a10g,
)

ROOT = Path(__file__).resolve().parent.parent
PLAN = memory.fit("TinyLlama", "a10g", "int8_sq", sequence=2000)
ONE = PLAN.blocks_per_request * PLAN.block
KV_HEADS_FORGOTTEN = memory.kv_bytes_per_token(replace(PLAN.shape, kv_heads=32))


def test_unanswered_they_give_a_hint_and_no_answer():
    for card in (check_requests_on_a10g(), check_precisions()):
        assert card.note.startswith("Not answered yet: ")
        assert card.facts == {}
        assert "Not answered yet" in card._repr_html_()
    assert str(PLAN.requests) not in str(check_requests_on_a10g())


@pytest.mark.parametrize("answer", [PLAN.requests, PLAN.requests * 1.029, PLAN.requests * 0.971])
def test_the_planners_number_is_right_within_three_percent(answer):
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
        (memory.fit("TinyLlama", "a10g", "fp16", sequence=2000).requests, "That is with FP16 weights"),
        (0.8 * (PLAN.memory - PLAN.weights) / ONE, "left out a part of what is loaded"),
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


# --- Notebook 06: what one rank hands to all-reduces ---

LARGE = "Llama-3.1-70B-Instruct"
HANDED = 2 * 32 * 16 * 4096 * 2  # all-reduces a layer, layers, requests, hidden size, bytes of FP16


def test_unanswered_those_of_notebook_06_give_a_hint_and_no_answer():
    for card in (check_all_reduce_bytes(), check_gpus_for_70b(), check_gpus_for_70b("h100")):
        assert card.note.startswith("Not answered yet: ")
        assert card.facts == {}
    assert f"{HANDED:,}" not in str(check_all_reduce_bytes())


@pytest.mark.parametrize("answer", [HANDED, 8.4e6, HANDED * 0.96])
def test_the_bytes_that_one_rank_hands_over_are_right(answer):
    card = check_all_reduce_bytes(answer)
    assert card.note.startswith("Right. 2 all-reduces × 32 layers × 16 tokens × 4,096 numbers × 2 bytes: ")
    assert card.facts["computed"] == "8,388,608"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (32 * 16 * 4096 * 2, "one all-reduce a layer"),
        (2 * 32 * 4096 * 2, "You counted one request"),
        (2 * 32 * 16 * 4096 * 4, "4 bytes a number, as in FP32"),
        (HANDED / 4, "divided by the 4 ranks"),
        (HANDED * 4, "all 4 ranks hand over together"),
        (2 * 32 * 16 * 14336 * 2, "intermediate size, 14,336"),
        (HANDED * 1.5, "a ring of GPUs sends"),
        (2 * 16 * 4096 * 2, "one layer in place of 32, or one all-reduce a layer for one request"),
        (16 * 4096 * 2, "You counted one all-reduce. A step has 64"),
    ],
)
def test_a_known_mistake_about_all_reduces_is_named(answer, told):
    note = check_all_reduce_bytes(answer).note
    assert note.startswith("Not right. ")
    assert told in note


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (HANDED * 10, "too many, by a factor of 10."),
        (HANDED * 1.06, "too many, by 6.0%."),
        (HANDED * 1e12, "too many, by a factor of about 10^12."),
        (HANDED / 7, "too few, by a factor of 7.0"),
        (0, "so it hands over something"),
        ("8 MB", "no number of bytes. Give one without quotes, the digits alone, such as 1000000"),
        (-1, "no number of bytes"),
    ],
)
def test_any_other_number_of_bytes_is_told_its_direction(answer, told):
    assert told in check_all_reduce_bytes(answer).note


# --- Notebook 06: which GPUs ---


def test_the_gpus_to_choose_from_are_named_before_an_answer():
    keys = [sheet.key for sheet in hardware.datasheets()]
    assert check_gpus_for_70b().note.endswith(f"The GPUs are {', '.join(keys)}.")
    cells = json.loads((ROOT / "notebooks" / "06_tensor_parallelism.ipynb").read_text())["cells"]
    question = next("".join(cell["source"]) for cell in cells if "Your turn: GPUs for a 70B" in "".join(cell["source"]))
    assert [key for key in keys if "mig" not in key and f'`"{key}"`' not in question] == []


def planned(gpu, ranks, gib=0.0):
    return memory.fit(LARGE, gib or gpu, "fp8", "fp8", 32, sequence=4096, tp_size=ranks)


def holds(gpu, ranks):
    """True if the planner says that 32 requests fit; it refuses where not even the weights do."""
    try:
        return planned(gpu, ranks).requests >= 32
    except WorkshopError:
        return False


def test_the_right_gpus_are_the_planners_fewest_with_fp8():
    wanted = []
    for sheet in hardware.datasheets():
        here = hardware.support(sheet.compute_capability)
        fewest = next((n for n in (1, 2, 4, 8) if holds(sheet.key, n)), 0)
        if fewest and here and "fp8" in here.engine_weights and not sheet.slice_of:
            wanted.append((sheet.key, fewest))
    assert exercises.gpus_for_70b() == wanted
    assert len(wanted) > 1


def test_each_right_answer_names_the_others():
    right = exercises.gpus_for_70b()
    for gpu, ranks in right:
        note = check_gpus_for_70b(gpu, ranks).note
        assert note.startswith("Right. So are ")
        assert note.count(" × ") == len(right) - 1


@pytest.mark.parametrize(
    ("gpu", "ranks", "told"),
    [
        ("h100", 1, r"26 requests too few fit \(6 of 32\); the GPU is [\d.]+ GB too small, KV cache included"),
        ("rtx-4090", 2, "the weights alone do not fit; each GPU is"),
        ("h100", 4, "more GPUs than needed, 2 already hold it"),
        ("h200", 2, "more GPUs than needed, 1 already holds it"),
        ("h100", 3, "64 heads and 8 key-value heads do not divide by 3, only by 1, 2, 4, 8"),
        ("a100", 2, "no engine in FP8 is offered for the A100 SXM 80 GB .Ampere's tensor cores have INT8 and no FP8"),
        ("v100", 8, r"no kernels for the V100[^;]*\."),
        ("h100-mig-7g.80gb", 2, "is a slice of a GPU, and a slice reaches no other"),
    ],
)
def test_what_is_wrong_with_gpus_is_named_with_how_much(gpu, ranks, told):
    note = check_gpus_for_70b(gpu, ranks).note
    assert note.startswith("Not yet: ")
    assert re.search(told, note), note


def test_the_gigabytes_that_are_missing_are_just_those():
    facts = check_gpus_for_70b("h100", 1).facts
    needed = float(facts["needed on each GPU"].split()[0]) * 1e9
    assert planned("", 1, (needed + 1e7) / memory.GIB).requests >= 32
    assert planned("", 1, (needed - 1e7) / memory.GIB).requests < 32


def test_the_way_between_gpus_is_told_where_the_answer_is_right():
    assert "each of the 160 all-reduces of a step goes through the host's memory" in check_gpus_for_70b("4090", 8).note
    assert "joined by NVLink" in check_gpus_for_70b("h100", 2).note
    assert "One GPU exchanges nothing." in check_gpus_for_70b("h200", 1).note
    assert "No source says" in check_gpus_for_70b("l40s", 4).note


@pytest.mark.parametrize(
    ("gpu", "ranks", "told"),
    [
        ("h1000", 2, "There is no GPU called 'h1000'"),
        (5, 2, "There is no GPU called '5'"),
        ("h100", 0, "0 is no number of GPUs"),
        ("h100", 2.0, "2.0 is no number of GPUs"),
        ("h100", True, "True is no number of GPUs"),
    ],
)
def test_an_answer_that_is_none_is_told_so(gpu, ranks, told):
    assert told in check_gpus_for_70b(gpu, ranks).note
