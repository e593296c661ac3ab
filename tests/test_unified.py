"""ModelOpt's unified Hugging Face checkpoint of the bundled model, made for real, beside TensorRT-LLM's own."""

import json
from dataclasses import replace

import numpy as np
import pytest

from helpers import checkpoint, models, precision, unified
from helpers.errors import WorkshopError
from helpers.unified import Packagings


@pytest.fixture(scope="module")
def both(shared_home):
    """The FP8 checkpoint with an FP8 KV cache in both packagings."""
    model = models.find("bundled")
    return unified.make(model, "fp8", "fp8", silent=True), checkpoint.make(model, "fp8", "fp8", silent=True)


@pytest.fixture(scope="module")
def found(both) -> Packagings:
    return unified.compare(*both)


pytestmark = pytest.mark.slow


def test_the_folder_says_of_itself_how_it_is_quantized_and_has_what_a_server_reads(both):
    made, _ = both
    assert made.quantization == {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    assert made.config["quantization_config"]["quant_algo"] == "FP8"
    assert made.config["dtype"] == "float16"
    names = {file.name for file in made.path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not list(made.path.rglob("*.py"))
    assert "float8_e4m3fn" in str(made.sizes)


def test_every_linear_layer_has_its_scales(both):
    made, _ = both
    layers = made.config["num_hidden_layers"]
    assert len(made.scales) == 7 * layers
    keys = made.scales["model.layers.0.self_attn.k_proj"]
    assert keys.weight > 0
    assert keys.input
    assert keys.cache == 1.0
    assert made.scales["model.layers.0.mlp.up_proj"].cache is None
    assert "self_attn.q_proj" in str(unified.scale_table(made))


def test_it_is_one_quantization_in_two_packagings(found):
    assert found.same_ranges is True
    assert found.layers == 6
    # What is multiplied alone is stored alike, byte for byte; what is fused shares the largest scale.
    for module in ("o_proj", "down_proj"):
        assert all(row.scales_equal and row.bytes_alike == 1 for row in found.of(module))
    assert found.largest_of_fused
    assert set(found.requantized) <= {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}
    assert all(row.inputs_equal for row in found.rows)
    assert all(row.scales_equal == (row.bytes_alike == 1) for row in found.rows)
    assert "it is one quantization" in found.sentence
    assert "share the largest of their scales" in found.sentence


def test_rounding_a_second_time_when_it_is_loaded_comes_near_the_other_packaging_and_not_to_it(found):
    fused = [row for row in found.rows if not row.scales_equal]
    assert fused
    assert all(row.bytes_alike <= row.loaded_alike < 1 for row in fused)
    assert sum(row.loaded_alike for row in fused) > 2 * sum(row.bytes_alike for row in fused)
    assert "rounding twice is not rounding once" in found.sentence


def test_the_sentence_says_the_opposite_where_the_data_do(found):
    same = [replace(row, checkpoint=row.unified, scales_equal=True, bytes_alike=1.0) for row in found.rows]
    alike = replace(found, rows=tuple(same), same_ranges=False)
    assert "two quantizations" in alike.sentence
    assert "All 42 weight scales are equal." in alike.sentence
    assert "The stored weights are the same bytes." in alike.sentence
    smaller = replace(found, rows=tuple(replace(row, checkpoint=row.unified / 2) for row in found.rows))
    assert "not because they share the largest" in smaller.sentence


def test_the_picture_is_the_same_for_the_same_data_and_says_it_in_words(found):
    picture = found.drawn()
    assert picture.svg == found.drawn().svg
    assert "42 linear layers" in picture.alt
    assert "model.layers.5.mlp.down_proj" in picture.text


def test_what_is_read_back_from_the_files_scores_as_the_quantizer_does(both):
    made, other = both
    read = unified.read_back(made, texts=24)
    measured = other.nll[: len(read)]
    assert len(read) > 1000
    assert np.exp(read.mean()) == pytest.approx(np.exp(measured.mean()), rel=0.005)
    assert not precision.compare(measured, read).told_apart


def test_both_packagings_are_about_as_large(both):
    made, other = both
    assert made.weight_bytes == pytest.approx(other.weight_bytes, rel=0.01)
    assert "unified, Hugging Face" in str(unified.sizes(made, other))


def test_fp16_needs_no_export_and_says_so():
    model = models.find("bundled")
    made = unified.make(model, "fp16")
    assert made.path == model.path
    assert "FP16 needs no export" in str(made)
    with pytest.raises(WorkshopError, match="nothing to read back or to compare"):
        unified.read_back(made)


@pytest.mark.parametrize(
    ("wanted", "kv", "told"),
    [
        ("int8_sq", None, "no unified checkpoint in INT8 SmoothQuant"),
        ("fp9", None, "no unified checkpoint in 'fp9'"),
        ("fp8", "int8", "no KV cache in INT8"),
    ],
)
def test_what_the_pytorch_back_end_has_not_is_refused_in_a_sentence(wanted, kv, told):
    with pytest.raises(WorkshopError, match=told):
        unified.make(models.find("bundled"), wanted, kv)


def test_checkpoints_of_other_precisions_are_not_compared(both):
    made, other = both
    manifest = replace(other.manifest, options={**other.manifest.options, "kv": ""})
    with pytest.raises(WorkshopError, match="differ in precision"):
        unified.compare(made, replace(other, manifest=manifest))
    split = replace(other.manifest, options={**other.manifest.options, "tp_size": 2})
    with pytest.raises(WorkshopError, match="split over 2 ranks"):
        unified.compare(made, replace(other, manifest=split))


def test_the_command_is_that_of_the_other_packaging_without_what_only_that_needs():
    words = unified.command("python", "model", "fp8", "fp8", "out")
    other = checkpoint.command("python", "model", "fp8", "fp8", 1, "out")
    assert words[2:4] == ["--format", "hf"]
    assert set(words) - {"--format", "hf"} <= set(other)
    assert not {"--held-out", "--prompt", "--tp-size"} & set(words)
    assert json.dumps(words)
