"""What a KV cache's precision costs an engine of TensorRT-LLM besides digits: ``data/kv_cache.toml`` (notebook 05).

The builder switches parts of attention off for some pairs of weights and KV cache, with a warning in a long log. Here
that is said before anything is built. Pure: a file of the repository is read, nothing is started.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from helpers.errors import WorkshopError
from helpers.hardware import Support
from helpers.toolchains.choices import CHECKPOINTS, TITLES, KvChoice, KvChoices
from helpers.toolchains.tensorrt_llm.weights import UNREPORTED, require_support
from helpers.workspace import REPOSITORY

_NAMES = {None: "fp16", "fp8": "fp8", "int8": "int8"}
"""A KV cache's precision to what the tables of ``data`` call it."""

NOT_MADE = {("fp8", "int8"), ("int8_wo", "fp8"), ("int8_wo", "int8")}
"""Pairs of engine precision and KV cache of which :func:`helpers.checkpoint.make` makes no checkpoint, and says why."""

_NOTE = (
    "Block reuse and chunked prompts need attention that reads a prompt's keys and values from the cache's blocks "
    "(paged context FMHA); trtllm-build switches it off where the table says no."
)


@dataclass(frozen=True)
class SideEffects:
    """What the builder leaves on in an engine with a given pair of weights and KV cache.

    Attributes:
        reuse: KV blocks of an earlier request with the same beginning can be used again (paged context FMHA).
        fp8_attention: attention in the context phase multiplies in FP8.
        why: what to know about the pair, in one sentence.
    """

    reuse: bool
    fp8_attention: bool
    why: str

    @property
    def chunked(self) -> bool:
        """A long prompt can be read in chunks over several steps: it takes the same paged context FMHA."""
        return self.reuse


@cache
def rules() -> dict[str, Any]:
    """The content of ``data/kv_cache.toml``."""
    return tomllib.loads((REPOSITORY / "data" / "kv_cache.toml").read_text())


def side_effects(precision: str, kv: str | None) -> SideEffects:
    """What the builder leaves on in an engine.

    Args:
        precision: of the engine, a key of :data:`helpers.toolchains.choices.TITLES`.
        kv: of the KV cache: ``fp8``, ``int8``, or None for 16 bits.

    Raises:
        WorkshopError: no such pair.
    """
    for row in rules()["pair"]:
        if precision in row["weights"] and _NAMES.get(kv) == row["kv"]:
            return SideEffects(bool(row["paged_context"]), bool(row["fp8_attention"]), str(row["why"]))
    raise WorkshopError(
        f"Nothing is known of {precision!r} weights with a KV cache of {kv!r}. Choose weights from "
        f"{', '.join(map(repr, TITLES))}, and 'fp8', 'int8' or None (16 bits) for the KV cache."
    )


def kv_choices_of(product: str, capability: tuple[int, int]) -> KvChoices:
    """Which KV caches an engine can have on a GPU, from ``data/gpus.toml``, and what each pair gives up.

    Raises:
        WorkshopError: TensorRT-LLM has no kernels for a GPU of this compute capability.
    """
    return KvChoices(f"the {product}", tuple(_rows(require_support(product, capability))), _NOTE)


def _rows(support: Support) -> Iterator[KvChoice]:
    """Every pair of weights and KV cache that a checkpoint can be made of, for the weights that the GPU has."""
    for precision in TITLES:
        if CHECKPOINTS[precision] not in support.engine_weights:
            continue
        for kv in _NAMES:
            if (precision, kv) not in NOT_MADE:
                yield _row(support, precision, kv)


def _row(support: Support, precision: str, kv: str | None) -> KvChoice:
    name, effects = _NAMES[kv], side_effects(precision, kv)
    if name not in support.engine_kv:
        return KvChoice(precision, kv, False, None, support.refusals[f"{name}_kv"])
    unsure = f"engine_kv.{name}" in support.unverified
    why = effects.why + (UNREPORTED if unsure else "")
    return KvChoice(precision, kv, True, effects.reuse, why)
