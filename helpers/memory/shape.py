"""How much memory a model's parts take, computed from its ``config.json`` alone.

Pure arithmetic: it works for a model that is on no disk yet and for a GPU that is in no machine here. Weights are exact
up to file headers (compared with real checkpoints in the tests); activations are an estimate and labelled so.
Notebook 00 asks the first question ("does it fit?"); :mod:`helpers.memory.planner` answers it for a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from helpers.errors import WorkshopError

GIB = 2**30
BYTES_PER_WEIGHT = {"fp16": 2.0, "fp8": 1.0, "int8_sq": 1.0, "int8_wo": 1.0, "int4_awq": 0.5}
"""Bytes of one weight of a linear layer, by the checkpoint's precision; embedding, last layer and norms stay at 2."""

KV_BYTES = {None: 2, "fp8": 1, "int8": 1, "u8": 1, "f32": 4}
"""Bytes of one number in the KV cache; None is 16 bits.

``fp8`` and ``int8`` are TensorRT-LLM's, with one scaling factor a layer that lies with the weights; ``u8`` and ``f32``
are the CPU toolchain's."""

KV_SCALE_BYTES = {"u8": 8}
"""Bytes beside each head of each token, for keys and for values alike: an FP32 scale and an FP32 zero point.

Measured on OpenVINO 2026.2 with the bundled model: 8,192 tokens take 15,728,640 bytes, and 25,165,824 in 16 bits."""

LOGIT_ROWS = 7.2
"""Rows of FP32 logits that the runtime and its decoder keep for each request.

TensorRT-LLM prints what it allocates for both. Divided by requests and vocabulary that is 7.2 rows in the log on the
page "Memory Usage of TensorRT-LLM" (223.59 MiB; Llama-2 7B, 256 requests taken) and 7.3 in
https://github.com/NVIDIA/TensorRT-LLM/issues/1188 (8.42 GiB; Qwen2.5 0.5B, 2,048 requests)."""

_NEEDED = (
    *("num_hidden_layers", "hidden_size", "num_attention_heads"),
    *("intermediate_size", "vocab_size", "max_position_embeddings"),
)

AWQ_GROUP = 128
"""Weights that share one FP32 scaling factor in INT4 AWQ: ModelOpt's block size and TensorRT-LLM's default."""


@dataclass(frozen=True)
class Shape:
    """The numbers of a Llama's ``config.json`` that decide its size."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    positions: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """From a model's ``config.json``; older ones name neither key-value heads nor the size of a head.

        Raises:
            WorkshopError: a key is missing; names it.
        """
        missing = [key for key in _NEEDED if not config.get(key)]
        if missing:
            raise WorkshopError(
                f"These settings lack {', '.join(map(repr, missing))}, so the model's size cannot be computed. "
                "Give the whole config.json of a model of the Llama family."
            )
        heads = int(config["num_attention_heads"])
        return cls(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            positions=int(config["max_position_embeddings"]),
        )

    @property
    def splits(self) -> list[int]:
        """Numbers of ranks that the model can be split over: each needs a whole share of both kinds of heads."""
        return [n for n in range(1, self.kv_heads + 1) if self.heads % n == 0 and self.kv_heads % n == 0]

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of one layer's linear layers as TensorRT-LLM keeps them: qkv, dense, fc, gate, proj."""
        queries = self.heads * self.head_size
        keys_and_values = 2 * self.kv_heads * self.head_size
        wide = (self.intermediate, self.hidden)
        return ((queries + keys_and_values, self.hidden), (self.hidden, queries), wide, wide, wide[::-1])


def weight_bytes(shape: Shape, precision: str, tp_size: int = 1) -> int:
    """Bytes of one rank's weights in a TensorRT-LLM checkpoint, and about those of its engine.

    Args:
        shape: of the model.
        precision: a key of :data:`BYTES_PER_WEIGHT`.
        tp_size: number of ranks; everything but the norms is split.
    """
    layer = sum(outputs * inputs for outputs, inputs in shape.matrices) * BYTES_PER_WEIGHT[precision]
    if precision in ("int8_sq", "int8_wo"):
        layer += sum(outputs for outputs, _ in shape.matrices) * (4 if precision == "int8_sq" else 2)
    if precision == "int4_awq":
        layer += 4 * sum(outputs * inputs // AWQ_GROUP for outputs, inputs in shape.matrices)
    if precision in ("int8_sq", "int4_awq"):  # what the inputs of each matrix are multiplied by first
        layer += 2 * sum(inputs for _, inputs in shape.matrices)
    embedding_and_head = 2 * 2 * shape.vocabulary * shape.hidden
    norms = 2 * (2 * shape.layers + 1) * shape.hidden
    return int((shape.layers * layer + embedding_and_head) / tp_size + norms)


def kv_bytes_per_token(shape: Shape, kv: str | None = None, tp_size: int = 1) -> int:
    """Bytes that one token of one request takes in one rank's KV cache: a key and a value in every layer.

    Args:
        shape: of the model.
        kv: a key of :data:`KV_BYTES`.
        tp_size: number of ranks; the key-value heads are split.
    """
    head = shape.head_size * KV_BYTES[kv] + KV_SCALE_BYTES.get(kv or "", 0)
    return 2 * shape.layers * shape.kv_heads * head // tp_size


def activation_bytes(shape: Shape, tokens: int, requests: int, tp_size: int = 1) -> int:
    """An estimate of what one step holds besides weights and KV cache.

    For each token, in FP16: the residual stream with its normalized copy and its sum, queries, keys and values, and the
    MLP's two wide intermediates with their product, all of one layer, since every layer works in the same memory. For
    each request, :data:`LOGIT_ROWS` rows of logits. TensorRT-LLM reserves both for the most tokens and requests that
    the engine was built for, however few come ("Memory Usage of TensorRT-LLM",
    https://nvidia.github.io/TensorRT-LLM/reference/memory.html). For the log on that page the estimate is 17 % low
    (8,192 tokens and 256 requests taken, which the page does not say).
    """
    queries_keys_values = (shape.heads + 2 * shape.kv_heads) * shape.head_size
    per_token = 3 * shape.hidden + (queries_keys_values + 3 * shape.intermediate) // tp_size
    return 2 * tokens * per_token + int(LOGIT_ROWS * 4 * requests * shape.vocabulary)


def require_split(name: str, shape: Shape, tp_size: int) -> None:
    """Refuse a number of ranks that does not divide the heads.

    Raises:
        WorkshopError: names the numbers that do.
    """
    if tp_size not in shape.splits:
        raise WorkshopError(
            f"{name} cannot be split over {tp_size} ranks: it has {shape.heads} heads and {shape.kv_heads} key-value "
            f"heads, and each rank needs a whole share of both. Choose tp_size from {shape.splits}."
        )
