"""Which KV caches a GPU's engines can have, what each gives up, and how large a cache a budget buys."""

import json
import tomllib
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from helpers import hardware, memory, plan, workspace
from helpers.errors import WorkshopError
from helpers.toolchains import tensorrt_llm
from helpers.toolchains.base import Engine
from helpers.toolchains.batching import Load
from helpers.toolchains.choices import TITLES
from helpers.toolchains.tensorrt_llm.batch import pool_of
from helpers.toolchains.tensorrt_llm.kv import rules, side_effects
from helpers.toolchains.tensorrt_llm.sizes import engine_sizes


def test_every_pair_has_one_rule_with_a_known_source():
    pairs = [(precision, row["kv"]) for row in rules()["pair"] for precision in row["weights"]]
    assert sorted(pairs) == sorted(product(TITLES, ("fp16", "fp8", "int8")))
    for row in [*rules()["pair"], rules()["runtime"], rules()["batch"]]:
        assert set(row["source"].split()) <= set(rules()["sources"])


@pytest.mark.parametrize(
    ("precision", "kv", "reuse", "fp8_attention"),
    [
        ("fp16", None, True, False),
        ("fp16", "fp8", False, False),
        ("fp16", "int8", False, False),
        ("int8", "int8", False, False),
        ("int4_awq", "fp8", False, False),
        ("fp8", None, True, False),
        ("fp8", "fp8", True, True),
    ],
)
def test_what_the_builder_leaves_on(precision, kv, reuse, fp8_attention):
    found = side_effects(precision, kv)
    assert (found.reuse, found.chunked, found.fp8_attention) == (reuse, reuse, fp8_attention)
    assert found.why.endswith(".")


@pytest.mark.parametrize(("precision", "kv"), [("fp4", None), ("fp16", "fp4"), ("fp16", "fp16")])
def test_a_pair_that_does_not_exist_is_refused(precision, kv):
    with pytest.raises(WorkshopError, match="'fp8', 'int8' or None"):
        side_effects(precision, kv)


@pytest.mark.parametrize(
    ("gpu", "beside_fp16", "beside_fp8"),
    [
        ("a10g", (None, "int8"), ()),
        ("rtx-4090", (None, "fp8", "int8"), (None, "fp8")),
        ("h100", (None, "fp8", "int8"), (None, "fp8")),
        ("b200", (None, "fp8"), (None, "fp8")),
    ],
)
def test_what_each_gpu_can_have(gpu, beside_fp16, beside_fp8):
    choices = tensorrt_llm.kv_choices(gpu)
    assert choices.offered("fp16") == beside_fp16
    assert choices.offered("fp8") == beside_fp8
    assert choices.eight_bit("fp16") == beside_fp16[1]
    assert choices.offered("int8_wo") in ((), (None,))  # its checkpoint has a KV cache of 16 bits


def test_rows_follow_the_engines_of_every_gpu_that_has_kernels():
    for sheet in hardware.datasheets():
        if hardware.support(sheet.compute_capability) is None:
            continue
        rows = tensorrt_llm.kv_choices(sheet.key).rows
        assert list(dict.fromkeys(row.precision for row in rows)) == [
            p for p in TITLES if p in tensorrt_llm.choices(sheet.key).offered
        ]
        assert all(row.why for row in rows)
        assert all(row.offered for row in rows if row.kv is None)


def test_no_kernels_no_table():
    with pytest.raises(WorkshopError, match="T4"):
        tensorrt_llm.kv_choices("t4")


@pytest.mark.parametrize(
    ("gpu", "kv", "told"),
    [
        ("a10g", "fp8", "A KV cache in FP8 cannot be built beside FP16 weights for the A10G: NVIDIA's table lists"),
        ("b200", "int8", "INT8/INT4 quantization is not supported on SM>=100."),
    ],
)
def test_a_cache_that_the_gpu_cannot_have_is_refused_with_the_reason(gpu, kv, told):
    with pytest.raises(WorkshopError) as caught:
        tensorrt_llm.kv_choices(gpu).require("fp16", kv)
    assert told in str(caught.value)
    assert "Choose one of None (16 bits)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_nobody_reported_is_said():
    rows = {(row.precision, row.kv): row for row in tensorrt_llm.kv_choices("rtx-5090").rows}
    assert "Nobody has reported it" in rows["fp16", "int8"].why
    assert "Nobody has reported it" not in rows["fp16", "fp8"].why


def test_the_table_shows_the_same_in_both_forms():
    choices = tensorrt_llm.kv_choices("rtx-4090")
    assert "paged context FMHA" in str(choices)
    for row in choices.rows:
        assert row.why in str(choices).replace("\n", " ") or row.why in choices._repr_html_().replace("&#x27;", "'")


def test_a_prompt_of_the_longest_kind_fits_into_one_step():
    """Without paged context FMHA no prompt is read in chunks, so it must: for every GPU, model, precision and cache."""
    shapes = {name: memory.Shape.of(row["config"]) for name, row in plan.models.known().items()}
    checked = 0
    for sheet, (name, shape), kv in product(hardware.datasheets(), shapes.items(), (None, "fp8", "int8")):
        try:
            sizes = engine_sizes(shape, name, "fp16", kv, sheet.memory_bytes, sheet.name)
        except WorkshopError:
            continue
        assert sizes.max_num_tokens >= sizes.max_seq_len > sizes.max_input_len
        checked += 1
    assert checked > 20


SHAPE = memory.Shape(
    layers=6, hidden=256, heads=8, kv_heads=4, head_size=32, intermediate=768, vocabulary=2048, positions=2048
)
LOAD = Load(requests=4, prompt_tokens=32, new_tokens=224, rounds=1)


@pytest.fixture
def engine(tmp_path: Path):
    """An engine's folder and manifest, as far as the pool is planned from them."""
    config = {"build_config": {"plugin_config": {"tokens_per_block": 32}}}
    (tmp_path / "config.json").write_text(json.dumps(config))

    def make(kv: str = "", tp_size: int = 1) -> Engine:
        options = {"toolchain": "tensorrt_llm", "precision": "fp16", "kv": kv, "tp_size": tp_size, "max_seq_len": 2048}
        return Engine(tmp_path, workspace.Manifest(kind="engine", title="", options=options))

    return make


def test_a_budget_buys_twice_the_blocks_at_half_the_bytes(engine):
    budget = 9_437_184
    whole, half = pool_of(engine(), SHAPE, budget, LOAD), pool_of(engine("int8"), SHAPE, budget, LOAD)
    assert (whole.blocks, half.blocks) == (96, 192)
    assert whole.bytes_per_token == 2 * half.bytes_per_token == 3072
    assert pool_of(engine(tp_size=2), SHAPE, budget, LOAD).blocks == 192


def test_a_cache_holds_an_answers_last_token_too(engine):
    """The runtime would cut a request of 257 tokens in a cache of 256."""
    longer = replace(LOAD, new_tokens=225)
    assert pool_of(engine(), SHAPE, 9 * 98_304, longer).blocks == 9
    with pytest.raises(WorkshopError, match="needs 9"):
        pool_of(engine(), SHAPE, 8 * 98_304, longer)


def test_a_budget_is_rounded_down_to_whole_blocks(engine):
    pool = pool_of(engine(), SHAPE, 10 * 98_304 - 1, LOAD)
    assert (pool.blocks, pool.block) == (9, 32)


@pytest.mark.parametrize(
    ("budget", "load", "told"),
    [
        (98_304, LOAD, "one request alone needs 8. Give at least 786,432 bytes"),
        (10**8, replace(LOAD, prompt_tokens=1900), "the engine takes 2,048 at most"),
        (0, LOAD, "budget is 0: give a whole number above 0"),
        (10**8, replace(LOAD, rounds=0), "rounds is 0"),
        (1e8, LOAD, "budget is 100000000.0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(engine, budget, load, told):
    with pytest.raises(WorkshopError) as caught:
        pool_of(engine(), SHAPE, budget, load)
    assert told in str(caught.value)


def test_the_file_says_what_the_later_parts_need():
    data = tomllib.loads((workspace.DATA / "kv_cache.toml").read_text())
    assert set(data["runtime"]) >= {"block_reuse", "chunked_context", "serving", "perplexity"}
    assert set(data["batch"]) >= {"max_tokens", "policy", "statistics", "blocks"}
