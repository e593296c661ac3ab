"""The engine files that the doubles write and read: a header as JSON, then the bytes of the checkpoint's rank.

As a real plan file they start with ``ftrt`` and hold what the engine is tied to. The layers are made up from the
checkpoint's: what TensorRT really fuses is not known here.
"""

import json
from importlib import metadata
from pathlib import Path

MAGIC = b"ftrt"


def layers(config):
    """What a compiled Llama might consist of: name and type of each layer, in TensorRT's inspector's words."""
    found = [("vocab_embedding/gather", "gather")]
    for number in range(config["num_hidden_layers"]):
        parts = [("input_layernorm", "kgen"), ("attention/qkv", "gemm"), ("attention/gpt_attention", "PluginV3")]
        parts += [("attention/dense", "gemm"), ("post_layernorm", "kgen"), ("mlp/fc+gate", "gemm")]
        parts += [("mlp/swiglu", "kgen"), ("mlp/proj", "gemm")]
        found += [(f"transformer/layers/{number}/{name}", kind) for name, kind in parts]
    return [*found, ("ln_f", "kgen"), ("lm_head", "gemm")]


def write(file, config, build_config, gpu, weights):
    """Write one rank's engine."""
    detailed = build_config["profiling_verbosity"] == "detailed"
    told = [{"Name": name, "LayerType": kind} if detailed else name for name, kind in layers(config)]
    header = {
        "tensorrt": metadata.version("tensorrt"),
        "compute_capability": gpu["capability"],
        "layers": [] if build_config["profiling_verbosity"] == "none" else told,
    }
    head = json.dumps(header).encode()
    Path(file).write_bytes(MAGIC + len(head).to_bytes(8, "little") + head + Path(weights).read_bytes())


def weights(data):
    """The checkpoint's tensors that one rank's engine holds, by name."""
    from safetensors.torch import load

    return load(data[12 + int.from_bytes(data[4:12], "little") :])


def joined(ranks, config):
    """The tensors of all ranks put together again, by their names in a Hugging Face model (unquantized engines).

    What is split by its outputs is laid one below the other, what is split by its inputs side by side.
    """
    import torch

    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_size") or config["hidden_size"] // heads
    world, found = len(ranks), {}

    def rows(name):
        return torch.cat([rank[name] for rank in ranks], 0)

    def columns(name):
        return torch.cat([rank[name] for rank in ranks], 1)

    embedding = [rank["transformer.vocab_embedding.weight"] for rank in ranks]
    found["model.embed_tokens.weight"] = torch.cat(embedding) if config["use_parallel_embedding"] else embedding[0]
    for number in range(config["num_hidden_layers"]):
        old, new = f"transformer.layers.{number}", f"model.layers.{number}"
        parts = [heads * size // world, kv_heads * size // world, kv_heads * size // world]
        split = [rank[f"{old}.attention.qkv.weight"].split(parts) for rank in ranks]
        for letter, pieces in zip("qkv", zip(*split, strict=True), strict=True):
            found[f"{new}.self_attn.{letter}_proj.weight"] = torch.cat(pieces)
        found |= {
            f"{new}.input_layernorm.weight": ranks[0][f"{old}.input_layernorm.weight"],
            f"{new}.self_attn.o_proj.weight": columns(f"{old}.attention.dense.weight"),
            f"{new}.post_attention_layernorm.weight": ranks[0][f"{old}.post_layernorm.weight"],
            f"{new}.mlp.gate_proj.weight": rows(f"{old}.mlp.fc.weight"),
            f"{new}.mlp.up_proj.weight": rows(f"{old}.mlp.gate.weight"),
            f"{new}.mlp.down_proj.weight": columns(f"{old}.mlp.proj.weight"),
        }
    return {**found, "model.norm.weight": ranks[0]["transformer.ln_f.weight"], "lm_head.weight": rows("lm_head.weight")}


def read(data):
    """The header of an engine's bytes, or None if they are none."""
    if data[:4] != MAGIC:
        return None
    return json.loads(data[12 : 12 + int.from_bytes(data[4:12], "little")])
