"""The memory arithmetic against figures that exist: real checkpoints here, published engine sizes elsewhere."""

import pytest

from helpers import checkpoint, memory, models
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


@pytest.mark.parametrize(("memory_gb", "precision", "batch"), [(24, "fp16", 64), (24, "fp8", 64), (5, "fp16", 32)])
def test_the_batch_is_what_fits_beside_the_weights(memory_gb, precision, batch):
    kv = "fp8" if precision == "fp8" else None
    sizes = engine_sizes(TINY_LLAMA, "TinyLlama", precision, kv, memory_gb * GB, "GPU")
    assert sizes.max_batch_size == batch
    assert (sizes.max_input_len, sizes.max_seq_len) == (1024, 2048)
    needed = memory.weight_bytes(TINY_LLAMA, precision) + batch * 2048 * memory.kv_bytes_per_token(TINY_LLAMA, kv)
    assert needed < 0.9 * memory_gb * GB


def test_a_model_that_does_not_fit_is_refused_with_its_size():
    with pytest.raises(WorkshopError, match=r"Llama 70B does not fit a A10G: its weights take 14\d\.\d\d GB"):
        engine_sizes(LLAMA_70B, "Llama 70B", "fp16", None, 24 * GB, "A10G")


def test_a_prompt_never_reaches_the_positions_of_a_small_model():
    shape = memory.Shape.of(models.find().config)
    assert engine_sizes(shape, "bundled", "fp16", None, 24 * GB, "GPU").max_seq_len <= shape.positions
    assert scoring_sizes(shape).max_seq_len <= shape.positions
    assert bytes_text(memory.weight_bytes(shape, "fp16")) == "11.54 MB"
