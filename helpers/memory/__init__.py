"""How much memory a model takes on a GPU, and how many requests fit beside it: the memory planner (notebook 05).

:mod:`helpers.memory.shape` has the arithmetic of each part, :mod:`helpers.memory.planner` puts the parts together:
``memory.fit("TinyLlama", "a10g", "int8_sq")``.
"""

from helpers.memory.asked import TITLES, named, resolve
from helpers.memory.planner import (
    KV_SHARE,
    RUNTIME,
    Fit,
    compare,
    fit,
    kv_pool,
    largest_batch,
    longest_sequence,
    step_tokens,
)
from helpers.memory.shape import (
    AWQ_GROUP,
    BYTES_PER_WEIGHT,
    GIB,
    KV_BYTES,
    KV_SCALE_BYTES,
    LOGIT_ROWS,
    Shape,
    activation_bytes,
    kv_bytes_per_token,
    require_split,
    weight_bytes,
)

__all__ = [
    "AWQ_GROUP",
    "BYTES_PER_WEIGHT",
    "GIB",
    "KV_BYTES",
    "KV_SCALE_BYTES",
    "KV_SHARE",
    "LOGIT_ROWS",
    "RUNTIME",
    "TITLES",
    "Fit",
    "Shape",
    "activation_bytes",
    "compare",
    "fit",
    "kv_bytes_per_token",
    "kv_pool",
    "largest_batch",
    "longest_sequence",
    "named",
    "require_split",
    "resolve",
    "step_tokens",
    "weight_bytes",
]
