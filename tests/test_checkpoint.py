"""TensorRT-LLM checkpoints as ModelOpt really writes them, for the bundled model."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors import safe_open

from helpers import checkpoint, models, precision
from helpers.errors import WorkshopError

pytestmark = pytest.mark.usefixtures("made_by_notebooks")


@pytest.fixture(scope="module")
def model():
    return models.find()


@pytest.fixture(scope="module")
def four(model, made_by_notebooks):
    """The checkpoints that notebook 04 made, by precision."""
    return {p: checkpoint.make(model, p, kv="fp8" if p == "fp8" else None) for p in checkpoint.QUANTIZERS}


def tensor(file, name):
    """One tensor as float32, FP8 included."""
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name).float().numpy()


def test_the_notebook_made_all_four(four):
    assert all(made.reused for made in four.values())


def test_each_says_what_trtllm_build_asks_for(four, model):
    for made in four.values():
        assert made.config["producer"]["name"] == "modelopt"
        assert made.config["architecture"] == "LlamaForCausalLM"
        assert made.config["mapping"]["tp_size"] == len(made.ranks) == 1
        assert made.config["num_hidden_layers"] == model.config["num_hidden_layers"]
    algorithms = {p: made.config["quantization"]["quant_algo"] for p, made in four.items()}
    assert algorithms == {
        "fp16": None,
        "fp8": "FP8",
        "int8_sq": "W8A8_SQ_PER_CHANNEL",
        "int4_awq": "W4A16_AWQ",
    }
    assert four["fp8"].config["quantization"]["kv_cache_quant_algo"] == "FP8"


def test_fp8_is_at_most_65_percent_of_fp16(four):
    assert four["fp8"].weight_bytes <= 0.65 * four["fp16"].weight_bytes
    assert four["int4_awq"].weight_bytes < four["fp8"].weight_bytes


def test_types_of_the_stored_tensors(four):
    def kinds(made):
        return {name: kind for name, kind, _, _ in checkpoint.tensors(made)}

    name = "transformer.layers.2.mlp.fc.weight"
    assert [kinds(four[p])[name] for p in ("fp16", "fp8", "int8_sq")] == ["F16", "F8_E4M3", "I8"]
    assert kinds(four["fp8"])["lm_head.weight"] == "F16"


def test_fp8_weights_times_their_factor_are_the_fp16_weights(four):
    name = "transformer.layers.1.mlp.proj"
    whole = tensor(four["fp16"].ranks[0], f"{name}.weight")
    factor = tensor(four["fp8"].ranks[0], f"{name}.weights_scaling_factor")
    stored = tensor(four["fp8"].ranks[0], f"{name}.weight")
    # E4M3 has three mantissa bits: a normal value is off by at most 1/16 of itself.
    normal = abs(whole) > factor * 2**-6
    assert (abs(stored * factor - whole)[normal] <= abs(whole)[normal] / 16 * 1.001).all()


def test_what_calibration_found_is_what_the_checkpoint_stores(four):
    found = {(r["module"], r["quantizer"]): r["scaling_factor"] for r in four["fp8"].ranges}
    stored = tensor(four["fp8"].ranks[0], "transformer.layers.3.mlp.proj.activation_scaling_factor")
    assert found["model.layers.3.mlp.down_proj", "input"] == pytest.approx(float(stored.ravel()[0]), rel=1e-3)


def test_every_range_is_positive_and_every_linear_layer_has_two(four, model):
    inputs = [r for r in four["fp8"].ranges if r["quantizer"] == "input"]
    weights = [r for r in four["fp8"].ranges if r["quantizer"] == "weight"]
    assert len(inputs) == len(weights) == 7 * model.config["num_hidden_layers"]
    assert all(r["amax"] > 0 for r in four["fp8"].ranges)


def test_perplexities_can_be_told_apart(four):
    reference = four["fp16"].nll
    for other in ("fp8", "int8_sq", "int4_awq"):
        difference = precision.compare(reference, four[other].nll)
        assert difference.told_apart, f"{other}: {difference.sentence}"
        assert difference.mean < 0.2


def test_fp16_perplexity_is_the_one_on_the_models_card(four, model):
    told = re.search(
        r"held-out perplexity \| \*\*([\d.]+)\*\* per token, ([\d,]+) tokens", (model.path / "README.md").read_text()
    )
    assert told is not None
    found = precision.perplexity(four["fp16"].nll)
    assert found.value == pytest.approx(float(told[1]), rel=1e-3)
    assert f"{found.tokens:,}" == told[2]


def test_texts_read_alike(four):
    for made in four.values():
        assert made.text.startswith(checkpoint.PROMPT)
        assert made.text.rstrip().endswith(".")
        assert 20 < len(made.text.split()) < 90


def test_two_ranks_put_together_are_the_whole(four, model):
    split = checkpoint.make(model, "fp16", tp_size=2)
    assert len(split.ranks) == 2
    whole_file = four["fp16"].ranks[0]
    name = "transformer.layers.0.mlp.fc.weight"  # split by column: output rows in PyTorch's layout
    assert np.array_equal(np.concatenate([tensor(r, name) for r in split.ranks], 0), tensor(whole_file, name))
    name = "transformer.layers.0.attention.dense.weight"  # split by row
    assert np.array_equal(np.concatenate([tensor(r, name) for r in split.ranks], 1), tensor(whole_file, name))
    heads, kv, size = 8, 4, 32
    q, k, v = heads * size // 2, kv * size // 2, kv * size // 2
    name = "transformer.layers.0.attention.qkv.weight"  # each rank has its heads' q, k and v, in this order
    parts = [np.split(tensor(r, name), [q, q + k]) for r in split.ranks]
    together = np.concatenate([np.concatenate([p[i] for p in parts]) for i in range(3)])
    assert np.array_equal(together, tensor(whole_file, name))
    assert v == k


@pytest.fixture(scope="module")
def with_kv(model, made_by_notebooks):
    """Checkpoints of FP16 weights whose KV cache alone is quantized, by the cache's precision."""
    return {kv: checkpoint.make(model, "fp16", kv=kv) for kv in ("fp8", "int8")}


def test_the_kv_cache_can_be_quantized_alone(with_kv, four):
    for kv, made in with_kv.items():
        assert made.config["quantization"] == {"quant_algo": None, "kv_cache_quant_algo": kv.upper()}
        assert (made.kv, made.full_title) == (kv, f"FP16 weights, {kv.upper()} KV cache")
        weight = "transformer.layers.0.attention.qkv.weight"
        assert np.array_equal(tensor(made.ranks[0], weight), tensor(four["fp16"].ranks[0], weight))


def test_weights_can_be_quantized_without_the_kv_cache(model):
    made = checkpoint.make(model, "fp8", kv=None)
    assert made.config["quantization"]["quant_algo"] == "FP8"
    assert made.config["quantization"]["kv_cache_quant_algo"] is None
    assert not any("cache_scaling" in name for name, *_ in checkpoint.tensors(made))


def test_the_kv_factors_are_what_the_reader_will_use(with_kv, model):
    for layer in range(model.config["num_hidden_layers"]):
        name = f"transformer.layers.{layer}.attention.kv_cache_scaling_factor"
        found = [r for r in with_kv["int8"].ranges if f"layers.{layer}." in r["module"] and "_bmm" in r["quantizer"]]
        assert len(found) == 2  # keys and values
        largest = max(r["amax"] for r in found)
        assert tensor(with_kv["int8"].ranks[0], name) == pytest.approx(largest / 127, rel=1e-5)
        assert tensor(with_kv["fp8"].ranks[0], name) == 1.0  # ModelOpt stores no FP8 factor below 1


def rounded_attention(rounded):
    """Attention over keys and values that went through a cache of 8 bits, by hand."""
    import torch

    def attend(module, query, key, value, mask, scaling=None, **more):
        shared = [torch.repeat_interleave(rounded(x), module.num_key_value_groups, dim=1) for x in (key, value)]
        made = torch.nn.functional.scaled_dot_product_attention(query, *shared, is_causal=True, scale=scaling)
        return made.transpose(1, 2).contiguous(), None

    return attend


@pytest.mark.parametrize("kv", ["fp8", "int8"])
def test_perplexity_is_measured_with_the_factors_that_are_stored(kv, with_kv, model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    layers = iter([])
    factors = [
        tensor(with_kv[kv].ranks[0], f"transformer.layers.{n}.attention.kv_cache_scaling_factor").item()
        for n in range(model.config["num_hidden_layers"])
    ]

    def rounded(x):
        factor = next(layers)
        if kv == "fp8":
            return (x / factor).to(torch.float8_e4m3fn).float() * factor
        return (x / factor).round().clamp(-127, 127) * factor

    ALL_ATTENTION_FUNCTIONS.register("rounded", rounded_attention(rounded))
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    running = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32, attn_implementation="rounded")
    found = []
    for text in models.texts(checkpoint.HELD_OUT, 5):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        layers = iter(np.repeat(factors, 2))
        with torch.inference_mode():
            likelihood = running(input_ids=ids).logits.log_softmax(-1)[0, :-1]
        found.append(-likelihood.gather(-1, ids[0, 1:, None])[:, 0].numpy())
    mine = np.concatenate(found)
    theirs, exact = with_kv[kv].nll[: mine.size], checkpoint.make(model, "fp16").nll[: mine.size]
    assert np.abs(mine - theirs).mean() < 0.1 * np.abs(exact - theirs).mean()  # a value at a tie may round otherwise


def test_the_tables_show_what_is_there(four):
    assert "attention.qkv.weight" in str(checkpoint.inside(four["fp8"]))
    assert '"quant_algo": "FP8"' in str(checkpoint.settings(four["fp8"]))
    assert "kv_cache_scaling_factor" in str(checkpoint.scaling_factors(four["fp8"]))
    assert f"{four['fp8'].weight_bytes:,}" in checkpoint.sizes(four["fp16"], four["fp8"])._repr_html_()
    with pytest.raises(WorkshopError, match="has no scaling factors"):
        checkpoint.scaling_factors(four["fp16"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"precision": "fp9"}, "no precision 'fp9'"),
        ({"precision": "fp8", "kv": "int3"}, "cannot be 'int3'"),
        ({"precision": "fp8", "kv": "int8"}, "FP8 weights go with an FP8 KV cache"),
        ({"precision": "int8_wo", "kv": "fp8"}, "leaves the KV cache at 16 bits"),
        ({"precision": "fp16", "tp_size": 3}, r"Choose tp_size from \[1, 2, 4\]"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(model, arguments, told):
    with pytest.raises(WorkshopError, match=told):
        checkpoint.make(model, **arguments)


def test_the_manifest_says_from_what_and_by_what(four):
    made = four["fp8"].manifest
    assert set(made.inputs) == {"model", "held-out text", "worker", "calibration"}
    assert made.maker["nvidia-modelopt"] == "0.37.0"
    assert "--kv-cache" in made.command
    assert json.loads((four["fp8"].path / "manifest.json").read_text())["files"]["rank0.safetensors"][0] > 10**6


def test_a_path_that_would_change_what_the_conversion_does_is_refused(model):
    misleading = replace(model, path=Path("/models/vila/llama"))
    by = checkpoint.Runner("python", {}, installation=cast(Any, object()))
    with pytest.raises(WorkshopError, match=r"contains 'vila', by which .* Move the model"):
        checkpoint._conversion(misleading, 1, by)


def test_int8_weight_only_needs_an_installed_release(model):
    with pytest.raises(WorkshopError, match=r"TensorRT-LLM's own conversion.*'fp16', 'fp8', 'int8_sq', 'int4_awq'"):
        checkpoint.make(model, "int8_wo")
