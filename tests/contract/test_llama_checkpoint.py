"""The Llama loader's table: real checkpoints satisfy it, and whatever is changed in one is found and named."""

import json
import shutil

import pytest

from helpers import checkpoint, models
from helpers.releases import llama_checkpoint
from helpers.releases.contract import RELEASES

ALGORITHMS = ["none", "FP8", "W8A8_SQ_PER_CHANNEL", "W4A16_AWQ", "W8A16"]


PLAIN = ("fp16", "fp8", "int8_sq", "int4_awq")
WITH_KV = {
    "fp16, FP8 KV": ("fp16", "fp8"),
    "fp16, INT8 KV": ("fp16", "int8"),
    "int8_sq, INT8 KV": ("int8_sq", "int8"),
    "fp8, 16-bit KV": ("fp8", None),
}


@pytest.fixture(scope="module")
def real(made_by_notebooks):
    """The four checkpoints of notebook 04, four of notebook 05, and two that are split over two ranks."""
    model = models.find()
    made = {p: checkpoint.make(model, p, kv="fp8" if p == "fp8" else None) for p in PLAIN}
    for name, (precision, kv) in WITH_KV.items():
        made[name] = checkpoint.make(model, precision, kv=kv)
    made["fp16, two ranks"] = checkpoint.make(model, "fp16", tp_size=2)
    made["fp8, two ranks"] = checkpoint.make(model, "fp8", kv="fp8", tp_size=2)
    return {name: one.path for name, one in made.items()}


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", [*PLAIN, *WITH_KV, "fp16, two ranks", "fp8, two ranks"])
def test_what_our_worker_writes_is_what_the_loader_reads(real, name, release):
    assert llama_checkpoint.problems(real[name], release) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pair"), WITH_KV.items())
def test_the_kv_caches_factor_is_there_exactly_where_the_config_says_so(real, name, pair):
    quantization = json.loads((real[name] / "config.json").read_text())["quantization"]
    assert quantization["kv_cache_quant_algo"] == (pair[1].upper() if pair[1] else None)
    told = llama_checkpoint.headers(real[name] / "rank0.safetensors")
    factors = [tensor for tensor in told if tensor.endswith("kv_cache_scaling_factor")]
    assert len(factors) == (6 if pair[1] else 0)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_rank_by_rank(real, tmp_path):
    copied = shutil.copytree(real["fp8, two ranks"], tmp_path / "copied")
    (copied / "rank1.safetensors").unlink()
    config = json.loads((copied / "config.json").read_text())
    config["quantization"]["quant_alog"] = config["quantization"].pop("quant_algo")
    (copied / "config.json").write_text(json.dumps(config))
    told = llama_checkpoint.problems(copied, "1.2.1")
    assert "rank1.safetensors is missing." in told
    assert any("has no parameter quant_alog; nearest: quant_algo" in problem for problem in told)
    # Without its algorithm it is read as 16 bits: the factors are left over and the weights have the wrong type.
    assert any("rank0.safetensors" in p and "weights_scaling_factor is not read" in p for p in told)
    assert any("has the type F8_E4M3, and the loader takes F16" in p for p in told)


def written(algorithm: str = "none", tp: int = 1, kv: str | None = None, **changes):
    """A ``config.json`` like those of TinyLlama's checkpoints, and tensors that fit it."""
    config = {
        "architecture": "LlamaForCausalLM",
        "dtype": "float16",
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "vocab_size": 32001,
        "use_parallel_embedding": True,
        "embedding_sharding_dim": 0,
        "mapping": {"world_size": tp, "tp_size": tp, "pp_size": 1},
        "quantization": {"quant_algo": None if algorithm == "none" else algorithm, "kv_cache_quant_algo": kv},
        **changes,
    }
    return config, dict(llama_checkpoint.expected(config)[0])


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_that_fits_has_no_problems(algorithm, tp, release):
    config, tensors = written(algorithm, tp, kv="FP8" if algorithm == "FP8" else None)
    assert llama_checkpoint.config_problems(config, release) == []
    assert llama_checkpoint.tensor_problems(config, tensors) == []


@pytest.mark.parametrize(
    ("algorithm", "name", "there"),
    [
        ("none", "attention.qkv.weight", ("F16", (1280, 2048))),
        ("none", "attention.dense.weight", ("F16", (2048, 1024))),
        ("none", "mlp.gate.weight", ("F16", (2816, 2048))),
        ("FP8", "mlp.proj.weight", ("F8_E4M3", (2048, 2816))),
        ("FP8", "mlp.proj.activation_scaling_factor", ("F32", (1,))),
        ("FP8", "attention.kv_cache_scaling_factor", ("F32", (1,))),
        ("W8A8_SQ_PER_CHANNEL", "mlp.proj.prequant_scaling_factor", ("F16", (2816,))),
        ("W8A8_SQ_PER_CHANNEL", "mlp.proj.weights_scaling_factor", ("F32", (2048,))),
        ("W4A16_AWQ", "attention.qkv.weight", ("I8", (640, 2048))),
        ("W4A16_AWQ", "mlp.proj.weights_scaling_factor", ("F32", (2048, 22))),
        ("W8A16", "mlp.proj.weight", ("I8", (2816, 2048))),
        ("W8A16", "attention.qkv.per_channel_scale", ("F16", (1280,))),
    ],
)
def test_shapes_and_types_of_one_of_two_ranks(algorithm, name, there):
    _, tensors = written(algorithm, 2, kv="FP8" if algorithm == "FP8" else None)
    assert tensors[f"transformer.layers.1.{name}"] == there


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_any_tensor_that_is_missing_or_renamed_or_of_another_shape_or_type_is_found(algorithm):
    config, tensors = written(algorithm, kv="FP8" if algorithm == "FP8" else None)
    optional = llama_checkpoint.expected(config)[1]
    for name, (kind, shape) in tensors.items():
        rest = {key: found for key, found in tensors.items() if key != name}
        told = llama_checkpoint.tensor_problems(config, rest)
        assert told == ([] if name in optional else [f"{name} is missing."])
        told = llama_checkpoint.tensor_problems(config, {**rest, name[:-1] + "q": (kind, shape)})
        assert f"{name[:-1]}q is not read." in told
        told = llama_checkpoint.tensor_problems(config, {**tensors, name: (kind, (*shape, 2))})
        assert len(told) == 1
        assert f"{name} has the shape" in told[0]
        told = llama_checkpoint.tensor_problems(config, {**tensors, name: ("F64", shape)})
        assert told == [f"{name} has the type F64, and the loader takes {kind}."]


def test_the_embedding_is_whole_where_the_config_does_not_split_it():
    name = "transformer.vocab_embedding.weight"
    assert written(tp=2)[1][name] == ("F16", (16001, 2048))
    assert written(tp=2, use_parallel_embedding=False)[1][name] == ("F16", (32001, 2048))
    assert written(tp=2, embedding_sharding_dim=1)[1][name] == ("F16", (32001, 1024))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"architecture": "MixtralForCausalLM"}, "is not LlamaForCausalLM"),
        ({"dtype": "float8"}, "the dtype 'float8'"),
        ({"quantization": {"quant_algo": "W4A8_AWQ"}}, "the quantization W4A8_AWQ is not among"),
        ({"quantization": {"quant_algo": None, "quantized_layers": {}}}, "has no parameter quantized_layers"),
        ({"mapping": {"tp_size": 1, "tp": 1}}, "has no parameter tp"),
        ({"hidden_sizes": 2048}, "has hidden_sizes, which no row knows"),
    ],
)
def test_a_config_that_the_loader_would_stop_at_is_found(change, told):
    config, _ = written()
    for release in RELEASES:
        problems = llama_checkpoint.config_problems({**config, **change}, release)
        assert any(told in problem for problem in problems), problems


@pytest.mark.parametrize("key", llama_checkpoint.table()["keys"]["required"])
def test_a_required_key_that_is_missing_is_found(key):
    config, _ = written()
    del config[key]
    assert f"config.json lacks {key}." in llama_checkpoint.config_problems(config, "1.0.0")


def test_extents_that_no_kernel_takes_are_told():
    with pytest.raises(ValueError, match="the loader pads"):
        written("W4A16_AWQ", 8, num_key_value_heads=8)
    with pytest.raises(ValueError, match="cannot be divided by 3"):
        written(tp=3)


def test_what_tensorrt_llm_itself_leaves_over_is_not_complained_of():
    config, tensors = written("W8A16")
    tensors["rotary_inv_freq"] = ("F32", (32,))
    assert llama_checkpoint.tensor_problems(config, tensors) == []
