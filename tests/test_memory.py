"""The memory arithmetic against figures that exist: real checkpoints here, published engine sizes elsewhere."""

import re

import pytest

from helpers import checkpoint, hardware, memory, models, plots
from helpers.cards import bytes_text
from helpers.errors import WorkshopError
from helpers.toolchains.tensorrt_llm.sizes import engine_sizes, scoring_sizes

GB = 10**9
TINY_LLAMA = memory.Shape.of(
    {
        "num_hidden_layers": 22,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "intermediate_size": 5632,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
    }
)
LLAMA_70B = memory.Shape(80, 8192, 64, 8, 128, 28672, 128256, 8192)


@pytest.mark.parametrize("precision", checkpoint.QUANTIZERS)
def test_weights_are_those_of_real_checkpoints(precision, made_by_notebooks):
    model = models.find()
    made = checkpoint.make(model, precision, kv="fp8" if precision == "fp8" else None)
    predicted = memory.weight_bytes(memory.Shape.of(model.config), precision)
    assert predicted == pytest.approx(made.weight_bytes, rel=0.01)


def test_the_published_engine_sizes_of_tiny_llama():
    """The talk reads 2.0 and 1.2 GB off its screen, without saying in which unit: both are near in either."""
    assert memory.weight_bytes(TINY_LLAMA, "fp16") == pytest.approx(2_200_119_864, rel=0.001)  # the file on the hub
    for unit in (GB, memory.GIB):
        assert memory.weight_bytes(TINY_LLAMA, "fp16") / unit == pytest.approx(2.0, rel=0.11)
        assert memory.weight_bytes(TINY_LLAMA, "fp8") / unit == pytest.approx(1.2, rel=0.05)


def test_kv_cache_of_one_token():
    # 2 (key and value) x 22 layers x 4 heads x 64 numbers x 2 bytes
    assert memory.kv_bytes_per_token(TINY_LLAMA) == 22_528
    assert memory.kv_bytes_per_token(TINY_LLAMA, "fp8") == 11_264
    assert memory.kv_bytes_per_token(TINY_LLAMA, "int8", tp_size=2) == 5_632


def test_two_ranks_hold_half_each_but_for_the_norms():
    whole, half = memory.weight_bytes(TINY_LLAMA, "fp8"), memory.weight_bytes(TINY_LLAMA, "fp8", 2)
    norms = 2 * 45 * 2048
    assert whole - norms == pytest.approx(2 * (half - norms), abs=2)


def test_older_settings_name_neither_kv_heads_nor_head_size():
    shape = memory.Shape.of(
        {
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "intermediate_size": 11008,
            "vocab_size": 32000,
            "max_position_embeddings": 2048,
        }
    )
    assert (shape.kv_heads, shape.head_size, shape.splits) == (32, 128, [1, 2, 4, 8, 16, 32])


def test_a_split_that_does_not_divide_the_heads_is_refused_with_those_that_do():
    with pytest.raises(WorkshopError, match=r"over 3 ranks: it has 32 heads and 4 key-value heads.*\[1, 2, 4\]"):
        memory.require_split("TinyLlama", TINY_LLAMA, 3)


@pytest.mark.parametrize(("memory_gb", "precision", "batch"), [(24, "fp16", 64), (24, "fp8", 64), (5, "fp16", 16)])
def test_an_engine_is_built_for_a_batch_that_fits_in_the_kv_cache(memory_gb, precision, batch):
    kv = "fp8" if precision == "fp8" else None
    sizes = engine_sizes(TINY_LLAMA, "TinyLlama", precision, kv, memory_gb * GB, "GPU")
    assert sizes.max_batch_size == batch
    assert (sizes.max_input_len, sizes.max_seq_len) == (1024, 2048)
    gib = memory_gb * GB / memory.GIB
    assert memory.fit(TINY_LLAMA, gib, precision, kv, batch).requests >= batch
    assert batch == 64 or memory.fit(TINY_LLAMA, gib, precision, kv, 2 * batch).requests < 2 * batch


def test_a_model_that_does_not_fit_is_refused_with_its_size():
    with pytest.raises(WorkshopError, match=r"Llama 70B does not fit a A10G: its weights take 14\d\.\d\d GB"):
        engine_sizes(LLAMA_70B, "Llama 70B", "fp16", None, 24 * GB, "A10G")


def test_a_prompt_never_reaches_the_positions_of_a_small_model():
    shape = memory.Shape.of(models.find().config)
    assert engine_sizes(shape, "bundled", "fp16", None, 24 * GB, "GPU").max_seq_len <= shape.positions
    assert scoring_sizes(shape).max_seq_len <= shape.positions
    assert bytes_text(memory.weight_bytes(shape, "fp16")) == "11.54 MB"


# --- The planner ----------------------------------------------------------------------


LLAMA_2_7B = memory.Shape(32, 4096, 32, 32, 128, 11008, 32000, 4096)


def test_the_log_on_nvidias_page_is_predicted():
    """Published, https://nvidia.github.io/TensorRT-LLM/reference/memory.html: of 79.10 GiB, 70.48 are available after
    loading an engine with 6,678 MiB of weights, and 90 % of it becomes 4,060 blocks of 64 tokens. A block has the bytes
    of Llama-2 7B with an FP8 KV cache. Requests and tokens a step are not on the page: that release's defaults are
    taken.
    """
    plan = memory.fit(LLAMA_2_7B, 79.10, "fp8", "fp8", 256, 8192, 2048, tokens_per_block=64, share=0.9)
    assert plan.weights / 2**20 == pytest.approx(6678, rel=0.005)
    assert plan.activations / 2**20 == pytest.approx(1134.01 + 43.29 + 180.30, rel=0.2)
    assert plan.free / memory.GIB == pytest.approx(70.48, rel=0.01)
    assert plan.blocks == pytest.approx(4060, rel=0.01)
    assert plan.block * 4060 / memory.GIB == pytest.approx(63.44, abs=0.01)


def test_the_logits_of_published_logs_are_predicted():
    """Qwen2.5 0.5B with 2,048 requests: https://github.com/NVIDIA/TensorRT-LLM/issues/1188; and the page's log."""
    row = 4 * memory.LOGIT_ROWS  # bytes for each request and entry of the vocabulary
    assert row * 2048 * 151936 == pytest.approx((2.66 + 5.76) * memory.GIB, rel=0.05)
    assert row * 256 * 32000 == pytest.approx((43.29 + 180.30) * 2**20, rel=0.05)


@pytest.mark.parametrize(("kv", "size"), [(None, 25_165_824), ("u8", 15_728_640), ("f32", 50_331_648)])
def test_the_cpu_toolchains_kv_cache_has_the_size_that_openvino_reports(kv, size):
    """Measured: OpenVINO 2026.2's ``kv_cache_size_in_bytes``, the bundled model, 256 blocks of 32 tokens."""
    shape = memory.Shape.of(models.find().config)
    assert 256 * 32 * memory.kv_bytes_per_token(shape, kv) == size
    assert 256 * memory.fit("bundled", 4, kv=kv).block == size


GPUS = [sheet.key for sheet in hardware.datasheets()]


@pytest.mark.parametrize("gpu", [*GPUS, 4, 23.5])
@pytest.mark.parametrize("precision", memory.BYTES_PER_WEIGHT)
def test_the_parts_make_up_the_memory_and_blocks_stay_in_the_pool(gpu, precision):
    plan = memory.fit("TinyLlama", gpu, precision)
    assert sum(size for _, size in plan.parts) == plan.memory
    assert all(size >= 0 for _, size in plan.parts)
    assert plan.blocks * plan.block <= plan.pool < (plan.blocks + 1) * plan.block
    assert plan.pool == int(memory.KV_SHARE * plan.free)
    assert plan.requests * plan.blocks_per_request <= plan.blocks < (plan.requests + 1) * plan.blocks_per_request


@pytest.mark.parametrize(
    ("model", "gpu"), [("TinyLlama", "a10g"), ("Llama-3.1-8B-Instruct", "rtx-4090"), ("bundled", 2)]
)
@pytest.mark.parametrize("sequence", [1, 33, 2000])
def test_the_largest_batch_fits_and_one_more_does_not(model, gpu, sequence):
    largest = memory.fit(model, gpu, sequence=sequence).largest_batch
    assert largest > 0
    for batch, fits in ((largest, True), (largest + 1, False)):
        assert (memory.fit(model, gpu, max_batch_size=batch, sequence=sequence).requests >= batch) is fits


def test_weights_that_fit_and_leave_no_room_for_a_request():
    plan = memory.fit("Llama-3.1-8B-Instruct", 17, max_batch_size=1, sequence=65536, max_num_tokens=1024)
    assert (plan.requests, plan.largest_batch) == (0, 0)
    assert plan.sentence.endswith("so for no request of 65,536.")


def test_a_request_takes_whole_blocks():
    plan = memory.fit("TinyLlama", "a10g", sequence=2000)
    assert plan.blocks_per_request == 63
    assert plan.requests < plan.tokens // 2000


@pytest.mark.parametrize(
    ("batch", "told"), [(64, "more than the 64"), (4000, "fewer than the 4,000"), (None, "exactly the ")]
)
def test_the_sentence_says_how_many_fit_against_the_batch(batch, told):
    if batch is None:  # where both meet, if they do: a batch that is what then fits
        plans = (memory.fit("Llama-3.1-8B-Instruct", "rtx-4090", max_batch_size=b) for b in range(10, 30))
        plan = next(plan for plan in plans if plan.requests == plan.max_batch_size)
    else:
        plan = memory.fit("TinyLlama", "a10g", max_batch_size=batch)
    assert f"room for {plan.requests:,} requests of 2,048 tokens, {told}" in plan.sentence
    assert plan.sentence in str(plan) and plan.sentence in plan._repr_html_()


@pytest.mark.parametrize(
    ("gpu", "precision", "kv", "note"),
    [
        ("rtx-4090", "fp8", "fp8", ""),
        ("a10g", "int8", "int8", ""),
        ("a10g", "fp8", None, "no engine can be built with FP8 weights for the A10G. Ampere's tensor cores"),
        ("a10g", "fp16", "fp8", "No engine with an FP8 KV cache is offered for the A10G. NVIDIA's table"),
        ("b200", "int4_awq", "int8", "no engine can be built with INT4 AWQ weights for the B200"),
        ("b200", "fp16", "int8", "No engine with an INT8 KV cache is offered for the B200 (HGX)"),
        ("rtx-5090", "int8", None, "Nobody has reported an engine with INT8 weights"),
        ("rtx-5090", "fp16", "int8", "Nobody has reported an engine with an INT8 KV cache"),
        ("t4", "fp16", None, "no kernels for the T4."),
        ("h200", "fp16", "u8", "is the CPU toolchain's; TensorRT-LLM has none."),
    ],
)
def test_whether_it_can_be_built_is_said_beside_whether_it_fits(gpu, precision, kv, note):
    plan = memory.fit("TinyLlama", gpu, precision, kv)
    assert plan.requests > 0
    assert note in " ".join(plan.notes) if note else plan.notes == ()
    assert all(said in str(plan) for said in plan.notes)


def test_two_gpus_hold_half_each_and_more_than_twice_the_requests():
    one, two = (memory.fit("Llama-3.1-8B-Instruct", "rtx-4090", tp_size=n) for n in (1, 2))
    assert two.kv_per_token == one.kv_per_token / 2
    assert two.requests > 4 * one.requests
    assert "8.03 GB of weights on each leave room" in two.sentence
    assert "on 2 GPUs: GeForce RTX 4090" in two.sentence


@pytest.mark.parametrize(
    "model",
    [
        "tinyllama",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        models.known()["TinyLlama"]["config"],
        TINY_LLAMA,
    ],
)
def test_a_model_is_named_in_several_ways(model):
    assert memory.fit(model, "a10g").parts == memory.fit("TinyLlama", "a10g").parts


def test_a_folder_and_a_model_are_planned_for_too():
    found = models.find()
    plans = [memory.fit(given, 4) for given in (models.BUNDLED, found, str(found.path))]
    assert {tuple(plan.parts) for plan in plans} == {tuple(plans[0].parts)}


def test_a_comparison_has_a_row_each_and_says_which_holds_most():
    plans = [memory.fit("TinyLlama", "a10g", "int8", kv) for kv in (None, "int8")]
    table = memory.compare(*plans)
    assert table.columns[6] == "requests of 2,048"
    assert [row[6] for row in table.rows] == [f"{plan.requests:,}" for plan in plans]
    assert table.note.startswith("Most requests: TinyLlama in INT8 with an INT8 KV cache on one A10G")
    assert memory.compare(*reversed(plans)).note == table.note
    assert "the same number" in memory.compare(plans[0], plans[0]).note


def test_a_comparison_over_lengths_and_models_says_each_length_and_compares_no_requests():
    plans = [memory.fit("TinyLlama", "a10g", sequence=1000), memory.fit("Llama-3.1-8B-Instruct", "a10g", sequence=2000)]
    table = memory.compare(*plans)
    assert [row[6] for row in table.rows] == [f"{plan.requests:,} × {plan.sequence:,}" for plan in plans]
    assert not table.note


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"max_batch_size": 0}, "max_batch_size is 0. Give a whole number of at least 1."),
        ({"max_batch_size": 2.5}, r"max_batch_size is 2\.5"),
        ({"max_batch_size": True}, "max_batch_size is True"),
        ({"max_num_tokens": -1}, "max_num_tokens is -1"),
        ({"sequence": 0}, "sequence is 0"),
        ({"tokens_per_block": "32"}, "tokens_per_block is '32'"),
        ({"tp_size": 0}, "tp_size is 0"),
        ({"tp_size": 3}, r"TinyLlama cannot be split over 3 ranks.*\[1, 2, 4\]"),
        ({"sequence": 2049}, "2,049 tokens is longer than TinyLlama can read: it has 2,048 positions"),
        ({"share": 0}, "share of the free memory is 0"),
        ({"gpu": "rtx-4900"}, "Did you mean 'rtx-4090'"),
        ({"gpu": 0}, "0 is no size of a memory"),
        ({"gpu": -24}, "-24 is no size of a memory"),
        ({"gpu": float("nan")}, "nan is no size of a memory"),
        ({"gpu": 24_000_000_000}, "no size of a memory.*number of GiB"),
        ({"gpu": None}, "None is no size of a memory"),
        ({"precision": "fp9"}, "no precision of weights called 'fp9'. Did you mean 'fp8'.*int4_awq"),
        ({"kv": "fp7"}, "no precision of a KV cache called 'fp7'. Did you mean 'fp8'.*None for 16 bits"),
        ({"model": "TinyLama"}, "no model called 'TinyLama' here. Did you mean 'TinyLlama'"),
        ({"model": "owner/name"}, "no model called 'owner/name' here"),
        ({"model": 7}, "7 is no model"),
        ({"model": {"hidden_size": 2048}}, "These settings lack 'num_hidden_layers', 'num_attention_heads'"),
        (
            {"model": "Llama-3.1-8B-Instruct", "gpu": "h100-mig-1g.10gb"},
            r"Llama-3.1-8B-Instruct does not fit on one H100 SXM, MIG 1g.10gb: its weights take 16\.06 GB in FP16.*"
            r"Choose fewer bits, more GPUs \(tp_size\), a smaller model, or a larger GPU\.",
        ),
        (
            {"max_batch_size": 100_000},
            "Choose a smaller max_batch_size or max_num_tokens, fewer bits",
        ),
    ],
)
def test_a_foreseeable_mistake_is_told_in_a_sentence_or_two(asked, told):
    with pytest.raises(WorkshopError, match=told) as raised:
        memory.fit(**({"model": "TinyLlama", "gpu": "a10g"} | asked))
    assert "\n" not in str(raised.value)


def test_comparing_and_drawing_nothing_is_refused():
    with pytest.raises(WorkshopError, match="Nothing to compare"):
        memory.compare()
    with pytest.raises(WorkshopError, match="Nothing to draw"):
        plots.memory_bar()


def test_the_picture_says_every_part_in_words():
    plans = [memory.fit("TinyLlama", "a10g", "int8"), memory.fit("Llama-3.1-8B-Instruct", "h100", "fp8", "fp8")]
    picture = plots.memory_bar(*plans)
    for plan in plans:
        for name, size in plan.parts:
            assert f"{name} {bytes_text(size)}" in picture.alt
            assert bytes_text(size) in picture.text
        assert re.search(rf"{plan.requests:,} requests of 2,048 tokens", picture.text)
    assert picture == plots.memory_bar(*plans)
    assert len(picture.svg) < 200_000
