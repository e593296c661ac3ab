"""Is a checkpoint what a release's Llama loader reads? Names, shapes, types and keys, by ``data/contract``.

``trtllm-build`` finds such a mistake only on the pod, after minutes; this finds it where the checkpoint is made.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from helpers.releases.contract import FOLDER, contract

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name of a tensor to its type as safetensors calls it (``F16``, ``F8_E4M3``) and its shape."""

_TYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


@cache
def table() -> dict[str, Any]:
    """The rows of ``data/contract/llama_checkpoint.toml``."""
    return tomllib.loads((FOLDER / "llama_checkpoint.toml").read_text())


def problems(folder: Path, release: str) -> list[str]:
    """What the release's loader would stop at, or not read, in a checkpoint; empty if nothing.

    Args:
        folder: with ``config.json`` and ``rank{N}.safetensors``.
        release: "1.2.1" or "1.0.0".
    """
    config = json.loads((folder / "config.json").read_text())
    told = config_problems(config, release)
    for rank in range(config.get("mapping", {}).get("world_size", 1)):
        file = folder / f"rank{rank}.safetensors"
        if not file.is_file():
            told.append(f"{file.name} is missing.")
            continue
        told += [f"{file.name}: {problem}" for problem in tensor_problems(config, headers(file))]
    return told


def headers(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor in a safetensors file, from its header alone."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        found = json.loads(opened.read(length))
    return {name: (row["dtype"], tuple(row["shape"])) for name, row in found.items() if name != "__metadata__"}


def config_problems(config: Mapping[str, Any], release: str) -> list[str]:
    """Keys of ``config.json`` that the loader needs and does not find, or finds and does not know."""
    keys, known = table()["keys"], contract(release).entries
    told = [f"config.json lacks {key}." for key in keys["required"] if key not in config]
    written_down = {*keys["required"], *keys["read"], *keys["ignored"]}
    told += [f"config.json has {key}, which no row knows." for key in config if key not in written_down]
    if config.get("architecture") not in keys["architecture"]:
        told.append(f"the architecture {config.get('architecture')!r} is not {' or '.join(keys['architecture'])}.")
    for key, entry in (("quantization", "llmapi.QuantConfig"), ("mapping", "mapping.Mapping")):
        # Unknown names end in a TypeError there, because they are handed on as arguments.
        told += [f"config.json, {key}: {p}" for p in known[f"tensorrt_llm.{entry}"].problems(config.get(key, {}))]
    algorithm = _algorithm(config)
    if algorithm not in table()["algorithm"]:
        told.append(f"the quantization {algorithm} is not among {', '.join(table()['algorithm'])}.")
    if config.get("dtype") not in _TYPES:
        told.append(f"the dtype {config.get('dtype')!r} is not among {', '.join(_TYPES)}.")
    return told


def tensor_problems(config: Mapping[str, Any], tensors: Tensors) -> list[str]:
    """Tensors of one rank's file that are missing, not read, or of another shape or type."""
    try:
        wanted, optional = expected(config)
    except ValueError as error:
        return [str(error)]
    told = [f"{name} is missing." for name in wanted if name not in tensors and name not in optional]
    for name, found in tensors.items():
        if name not in wanted:
            if name not in table()["unread_tensors"]:
                told.append(f"{name} is not read.")
            continue
        for what, is_there, should_be in zip(("type", "shape"), found, wanted[name], strict=True):
            if is_there != should_be:
                told.append(f"{name} has the {what} {is_there}, and the loader takes {should_be}.")
    return told


def expected(config: Mapping[str, Any]) -> tuple[dict[str, tuple[str, tuple[int, ...]]], set[str]]:
    """Type and shape of every tensor that the loader takes from each rank's file, and which names may be absent.

    Raises:
        ValueError: the model cannot be split so, or its quantization is not written down; says what is wrong.
    """
    rows, extents = table(), _extents(config)
    if _algorithm(config) not in rows["algorithm"]:
        raise ValueError(f"no row for the quantization {_algorithm(config)}.")
    algorithm = rows["algorithm"][_algorithm(config)]
    own_type = _TYPES[config["dtype"]]
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {}
    optional: set[str] = set()

    def add(name: str, row: Mapping[str, Any], names: Mapping[str, int]) -> None:
        shape = tuple(_value(extent, names) for extent in row["shape"])
        for layer in range(config["num_hidden_layers"]) if "{layer}" in name else [0]:
            wanted[name.format(layer=layer)] = (own_type if row["type"] == "dtype" else row["type"], shape)
            if row.get("optional"):
                optional.add(name.format(layer=layer))

    for row in rows["tensor"]:
        if row.get("when", "") in _conditions(config):
            add(row["name"], row, extents)
    for matrix in rows["matrix"]:
        column = matrix["split"] == "column"
        share = {
            "out": _value(matrix["out"] + (" / tp" if column else ""), extents),
            "in": _value(matrix["in"] + ("" if column else " / tp"), extents),
        }
        if "multiple" in algorithm and any(
            extent % _value(algorithm["multiple"], extents) for extent in share.values()
        ):
            raise ValueError(f"{matrix['name']}: the loader pads {share['out']} × {share['in']}; no row for that.")
        for row in algorithm["tensor"]:
            add(f"{matrix['name']}.{row['name']}", row, {**extents, **share})
    return wanted, optional


def _algorithm(config: Mapping[str, Any]) -> str:
    return str(config.get("quantization", {}).get("quant_algo") or "none")


def _conditions(config: Mapping[str, Any]) -> set[str]:
    """The conditions of rows that hold for a checkpoint; every row without one counts."""
    embedding = "whole"
    if config.get("use_parallel_embedding"):
        embedding = "split by width" if config.get("embedding_sharding_dim") else "split by vocabulary"
    quantized = config.get("quantization", {}).get("kv_cache_quant_algo")
    return {"", f"embedding {embedding}", *(["quantized KV cache"] if quantized else [])}


def _extents(config: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that rows speak of."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    kv_heads = config.get("num_key_value_heads") or heads
    size = config.get("head_size") or hidden // heads
    tp = config.get("mapping", {}).get("tp_size", 1)
    tokens = config["vocab_size"]
    return {
        "hidden": hidden,
        "tokens": tokens,
        "vocab": -(-tokens // tp) * tp,
        "qkv": (heads + 2 * kv_heads) * size,
        "attended": heads * size,
        "ffn": config.get("intermediate_size") or 4 * hidden,
        "group": config.get("quantization", {}).get("group_size") or 128,
        "tp": tp,
    }


def _value(expression: str, names: Mapping[str, int]) -> int:
    """The value of ``NAME / NAME / 2``, in whole numbers."""
    value, *divisors = [int(word) if word.isdigit() else names[word] for word in re.split(r" / ", expression)]
    for divisor in divisors:
        if value % divisor:
            raise ValueError(f"{expression}: {value} cannot be divided by {divisor}.")
        value //= divisor
    return value
