"""The rules: what a model, a GPU or a toolchain does not allow, or not as it seems."""

import pytest

from helpers import memory, recipe
from helpers.recipe import rules

FP8, INT8, CPU = "tinyllama-fp8-rtx-4090", "tinyllama-int8-a10g", "bundled-cpu"


def remarks(name: str, **fields) -> dict[tuple[str, str], str]:
    """(kind, field) to text."""
    return {(r.kind, r.field): r.text for r in rules.check(recipe.load(name).changed(**fields))}


def test_recipes_that_run_have_no_problems():
    assert {name: recipe.problems(recipe.load(name)) for name in recipe.names()} == {n: [] for n in recipe.names()}


def test_only_what_is_so_is_remarked_on_a_recipe_that_has_nothing_to_hide():
    assert remarks(FP8) == {} == remarks(INT8)
    assert str(rules.table(recipe.load(FP8))).endswith("Nothing to remark. It can be built.")


def test_the_talks_own_lengths_are_more_than_the_model_reads_and_can_be_built_all_the_same():
    said = remarks("tinyllama-int8-a10g-talk")
    assert list(said) == [("warning", "max_input_len")]
    assert "2,000 + max_output_len 2,000 = 4,000 tokens" in said["warning", "max_input_len"]
    assert "2,048 positions" in said["warning", "max_input_len"]
    assert remarks(INT8, max_output_len=1048) == {}
    assert ("warning", "max_input_len") in remarks(INT8, max_output_len=1049)


def test_a_cpu_server_is_never_told_more_than_the_model_reads():
    assert ("problem", "max_input_len") in remarks(CPU, max_output_len=1049)
    assert ("problem", "max_input_len") not in remarks(CPU, max_output_len=1048)


def test_a_prompt_has_to_fit_into_a_step_unless_it_is_read_in_chunks():
    said = remarks(FP8, max_num_tokens=999)["problem", "max_num_tokens"]
    assert "max_input_len is 1,000 where max_num_tokens is 999" in said and "chunked_prefill on" in said
    assert remarks(FP8, max_num_tokens=1000) == {}
    assert remarks(FP8, max_num_tokens=999, serving__chunked_prefill=True) == {}
    assert ("problem", "max_num_tokens") in remarks(CPU, max_num_tokens=999)
    assert ("problem", "max_num_tokens") not in remarks(CPU, max_num_tokens=999, serving__chunked_prefill=True)


def test_where_chunks_are_lost_they_cannot_be_asked_for():
    fine = remarks(INT8, kv_cache="int8")
    assert [*fine] == [("warning", "kv_cache")] and "no prompt is read in chunks" in fine["warning", "kv_cache"]
    said = remarks(INT8, kv_cache="int8", serving__chunked_prefill=True)["problem", "serving.chunked_prefill"]
    assert "INT8 weights, INT8 KV cache cannot read a prompt in chunks" in said
    lost = remarks(INT8, kv_cache="int8", max_num_tokens=512)["problem", "max_num_tokens"]
    assert "switch chunked_prefill on" not in lost and "at least 1,000" in lost


def test_a_cpu_has_pieces_or_a_limit_and_the_recipe_chooses():
    assert remarks(CPU)["note", "serving.chunked_prefill"].endswith("This recipe chooses the limit: 32 requests.")
    chosen = remarks(CPU, serving__chunked_prefill=True)["warning", "serving.chunked_prefill"]
    assert "chooses pieces, of 2,048 tokens" in chosen and "max_batch_size 32 limits nothing" in chosen


@pytest.mark.parametrize(
    "name, fields, field, text",
    [
        (INT8, {"precision": "fp8"}, "precision", "Ampere's tensor cores have INT8 and no FP8"),
        (INT8, {"kv_cache": "fp8"}, "kv_cache", "A KV cache in FP8 cannot be built"),
        (FP8, {"gpu": "t4"}, "gpu", "7.5"),
        (FP8, {"gpu": "b200", "precision": "int8"}, "precision", "SM>=100"),
        (CPU, {"precision": "int4_awq"}, "precision", "INT4 AWQ cannot be built"),
        (CPU, {"kv_cache": "fp8"}, "kv_cache", "KV_CACHE_PRECISION"),
        (CPU, {"tensor_parallel_size": 2}, "tensor_parallel_size", "runs whole on a CPU"),
        (FP8, {"tensor_parallel_size": 3}, "tensor_parallel_size", "32 heads and 4 key-value heads"),
        (
            FP8,
            {"gpu": "h100-mig-3g.40gb", "tensor_parallel_size": 2},
            "tensor_parallel_size",
            "choose the whole GPU: 'h100'",
        ),
        (FP8, {"model": "Llama-3.1-70B-Instruct"}, "gpu", "does not fit on one GeForce RTX 4090"),
        (CPU, {"serving__kv_cache_tokens": 2015}, "serving.kv_cache_tokens", "at least 2,016"),
        (CPU, {"max_batch_size": 10_000_000}, "serving.kv_cache_tokens", "this machine has"),
    ],
)
def test_what_cannot_be_is_a_problem_and_says_why(name, fields, field, text):
    said = remarks(name, **fields)
    assert text in said["problem", field]


def test_two_gpus_without_a_direct_path_are_warned_of_and_with_one_they_are_not():
    assert [*remarks("tinyllama-fp8-2x-rtx-4090")] == [("warning", "tensor_parallel_size")]
    assert remarks("tinyllama-fp8-2x-rtx-4090", gpu="h100") == {}
    assert "bridge" in remarks(INT8, gpu="rtx-3090", tensor_parallel_size=2)["warning", "tensor_parallel_size"]


def test_a_batch_that_does_not_fit_at_full_length_waits_in_part_by_the_planners_count():
    fields = {"max_batch_size": 1024}
    said = remarks(FP8, **fields)["warning", "max_batch_size"]
    made = rules.fit(recipe.load(FP8).changed(**fields))
    assert 0 < made.requests < 1024
    assert f"{made.requests:,} requests of 2,000" in said and f"{1024 - made.requests:,} of them wait" in said
    largest = remarks(FP8, max_batch_size=made.largest_batch)
    assert ("warning", "max_batch_size") not in largest
    assert ("warning", "max_batch_size") in remarks(FP8, max_batch_size=made.largest_batch + 1)


def test_a_request_that_does_not_fit_even_alone_is_a_problem():
    said = remarks("llama-3-8b-fp8-h100", gpu="h100-mig-1g.10gb", max_batch_size=1, max_num_tokens=4096)
    assert any(kind == "problem" for kind, _ in said), said


def test_the_rules_plan_memory_as_the_planner_does():
    made = rules.fit(recipe.load(FP8))
    asked = memory.fit("TinyLlama", "rtx-4090", "fp8", "fp8", 64, 8192, 2000)
    assert made.sentence == asked.sentence and made.requests == asked.requests


def test_a_cpu_cache_that_holds_part_of_a_batch_lets_the_rest_wait():
    said = remarks(CPU, serving__kv_cache_tokens=4 * 2016)["warning", "serving.kv_cache_tokens"]
    assert "holds 4 requests of 2,000" in said and "28 of them wait" in said
    assert ("warning", "serving.kv_cache_tokens") not in remarks(CPU, serving__kv_cache_tokens=32 * 2016)


def test_a_step_smaller_than_the_batch_is_warned_of():
    fields = {"max_num_tokens": 63, "max_input_len": 60, "max_output_len": 60}
    assert "at most 63 get on" in remarks(FP8, **fields)["warning", "max_num_tokens"]
    assert remarks(FP8, **{**fields, "max_num_tokens": 64}) == {}


@pytest.mark.parametrize("host, seen", [("0.0.0.0", True), ("::", True), ("pod.example", True), ("::1", False)])
def test_a_server_that_others_reach_is_warned_of(host, seen):
    assert (("warning", "serving.host") in remarks(FP8, serving__host=host)) == seen
    assert remarks(FP8, serving__host="localhost") == {}


@pytest.mark.parametrize(
    "name, fields, field",
    [
        (FP8, {"serving__kv_cache_tokens": 4096}, "serving.kv_cache_tokens"),
        (FP8, {"serving__max_queue": 8}, "serving.max_queue"),
        (CPU, {"serving__kv_cache_share": 0.5}, "serving.kv_cache_share"),
        (CPU, {"calibration__texts": 64}, "calibration.texts"),
    ],
)
def test_what_nothing_reads_on_this_machine_is_said(name, fields, field):
    assert ("warning", field) in remarks(name, **fields)


def test_calibration_that_looks_at_fewer_texts_than_asked_for_says_how_many():
    assert (
        "16 of them are looked at"
        in remarks(FP8, precision="int4_awq", kv_cache="fp16", calibration__texts=64)["warning", "calibration.texts"]
    )
    assert remarks(FP8, calibration__texts=64) == {}


def test_a_model_of_the_hub_is_pinned_or_warned_of():
    said = remarks(FP8, model="someone/another-llama")
    assert "newest weights" in said["warning", "revision"] and "not known before" in said["warning", "model"]
    branch = remarks(FP8, model="someone/another-llama", revision="v2")["warning", "revision"]
    assert "A branch or a tag moves" in branch
    assert ("warning", "revision") not in remarks(FP8, model="someone/another-llama", revision="c" * 40)
    assert "pins fe8a4ea1ffed" in remarks(FP8, revision="c" * 40)["warning", "revision"]


def test_a_gated_model_asks_for_a_token():
    assert "HF_TOKEN" in remarks("llama-3-8b-fp8-h100")["warning", "model"]


def test_a_precision_that_nobody_reported_on_a_generation_is_warned_of():
    assert "Nobody has reported it" in remarks(FP8, gpu="rtx-5090", precision="int8")["warning", "precision"]


def test_remarks_come_problems_first_and_show_as_a_table():
    made = recipe.load(INT8).changed(precision="fp8", serving__host="0.0.0.0")
    kinds = [remark.kind for remark in rules.check(made)]
    assert kinds == sorted(kinds, key=["problem", "warning", "note"].index) and "problem" in kinds
    assert "in the way" in str(rules.table(made))
    assert str(rules.table("tinyllama-int8-a10g-talk")).endswith("It can be built; the warning stays.")
    assert str(rules.table(CPU)).endswith("It can be built.")


def test_what_a_cpu_does_not_build_is_not_said_to_be_made_here():
    said = remarks(CPU, precision="int4_awq")["problem", "precision"]
    assert "only the TensorRT-LLM toolchain builds it. Take 'fp8'" in said and "made here" not in said
