"""Which precisions TensorRT-LLM's PyTorch back end has on a GPU, and why not the others (notebook 10). Pure."""

import tomllib
from functools import cache
from typing import Any

from helpers.hardware import Support
from helpers.toolchains.choices import CHECKPOINTS, TITLES, Choices, KvChoice, KvChoices
from helpers.toolchains.tensorrt_llm.weights import UNREPORTED, require_support
from helpers.workspace import REPOSITORY

_KV = {None: "fp16", "fp8": "fp8", "int8": "int8"}
"""A KV cache's precision to what the tables of ``data`` call it."""


@cache
def rules() -> dict[str, Any]:
    """The content of ``data/pytorch_backend.toml``."""
    return tomllib.loads((REPOSITORY / "data" / "pytorch_backend.toml").read_text())


def choices_of(product: str, capability: tuple[int, int]) -> Choices:
    """Which precisions can be served on a GPU.

    Raises:
        WorkshopError: TensorRT-LLM has no kernels for a GPU of this compute capability.
    """
    support = require_support(product, capability)
    offered = tuple(p for p in TITLES if CHECKPOINTS[p] in support.pytorch_weights)
    said = {p: _said(p, p in offered, support) for p in TITLES}
    return Choices(f"the {product} in the PyTorch back end", said, offered)


def _said(precision: str, offered: bool, support: Support) -> str:
    if not offered:
        return str(rules()["refused"][precision]).format(architecture=support.architecture)
    unsure = f"pytorch_weights.{CHECKPOINTS[precision]}" in support.unverified
    return str(rules()["offered"][precision]) + (UNREPORTED if unsure else "")


def kv_choices_of(product: str, capability: tuple[int, int]) -> KvChoices:
    """Which KV caches can be served on a GPU, beside which weights.

    Raises:
        WorkshopError: as :func:`choices_of`.
    """
    support = require_support(product, capability)
    weights = [p for p in TITLES if CHECKPOINTS[p] in support.pytorch_weights]
    rows = tuple(_row(support, precision, kv) for precision in weights for kv in _KV)
    note = "The cache's precision is chosen when the server starts: nothing has to be built again for another."
    return KvChoices(f"the {product} in the PyTorch back end", rows, note)


def _row(support: Support, precision: str, kv: str | None) -> KvChoice:
    name = _KV[kv]
    offered, unsure = name in support.pytorch_kv, f"pytorch_kv.{name}" in support.unverified
    why = str(rules()["kv"][name]) + (UNREPORTED if offered and unsure else "")
    return KvChoice(precision, kv, offered, None, why)
