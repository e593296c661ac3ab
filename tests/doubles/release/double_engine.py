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


def read(data):
    """The header of an engine's bytes, or None if they are none."""
    if data[:4] != MAGIC:
        return None
    return json.loads(data[12 : 12 + int.from_bytes(data[4:12], "little")])
