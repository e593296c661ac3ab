"""A layer's attention and MLP in a few lines of NumPy, so that they can be cut in pieces by hand (notebook 06).

Weights are [outputs, inputs], as checkpoints keep them. No layer here knows of ranks: a rank's share is the same
function, given a rank's weights. It computes some of the heads, or some of the intermediate numbers, and of every
output a part of the sum; the shares of all ranks, added up, are the whole. The MLP is that of "GLU Variants Improve
Transformer" (arXiv 2002.05202), the rotation of queries and keys that of "RoFormer" (arXiv 2104.09864).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers import models
from helpers.cards import Table
from helpers.checkpoint import HELD_OUT
from helpers.errors import WorkshopError
from helpers.memory import Shape
from helpers.memory.asked import whole as whole_number
from helpers.models import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.floating[Any]]

SAME = 1e-5
"""Two results are called the same if they differ by less than this share of the largest number.

FP32 keeps seven digits, and partial sums are added up in another order."""


# --- Arithmetic ----------------------------------------------------------------------


def silu(x: "Values") -> "Values":
    """The sigmoid linear unit of each number, x / (1 + exp(−x)).

    It is not linear: of a sum it is not the sum of each.
    """
    import numpy as np

    # exp(-x) of a very negative x is beyond FP32, and x / infinity is the 0 that is meant.
    with np.errstate(over="ignore"):
        made: Values = x / (1 + np.exp(-x))
    return made


def mlp(x: "Values", gate: "Values", up: "Values", down: "Values") -> "Values":
    """A Llama's MLP, called SwiGLU: (silu(x gateᵀ) ⊙ x upᵀ) downᵀ.

    Args:
        x: [tokens, hidden].
        gate, up: [intermediate, hidden]; of a rank, some of the rows.
        down: [hidden, intermediate]; of a rank, the columns of the same numbers.

    Returns:
        [tokens, hidden]; from a rank's weights, its partial sum.

    Raises:
        WorkshopError: the shapes do not belong together.
    """
    _require_chain(("x", x), ("gate", gate), ("up", up))
    if gate.shape != up.shape or down.shape[1] != gate.shape[0]:
        raise WorkshopError(
            f"gate {gate.shape} and up {up.shape} must be equal, and down {down.shape} must have an input for each of "
            "their outputs. Cut gate and up with columns(), down with rows()."
        )
    made: Values = (silu(x @ gate.T) * (x @ up.T)) @ down.T
    return made


def attention(
    x: "Values",
    query: "Values",
    key: "Values",
    value: "Values",
    dense: "Values",
    head_size: int,
    theta: float = 10000.0,
) -> "Values":
    """Causal attention with rotated queries and keys; several query heads may share a key-value head.

    How many heads there are follows from the shapes, so that a rank's rows of Q, K and V with its columns of dense give
    the rank's share. Positions are not stretched, as they are in Llama 3.1.

    Args:
        x: [tokens, hidden].
        query: [heads × head size, hidden]; of a rank, its heads.
        key, value: [key-value heads × head size, hidden]; of a rank, its heads.
        dense: [hidden, heads × head size]; of a rank, the columns of its heads.
        head_size: numbers in a head.
        theta: the rotation's base, ``rope_theta`` of ``config.json``.

    Returns:
        [tokens, hidden]; from a rank's weights, its partial sum.

    Raises:
        WorkshopError: the shapes do not belong together, or are no whole heads.
    """
    import numpy as np

    _require_chain(("x", x), ("query", query), ("key", key), ("value", value))
    _require_heads(query, key, value, dense, head_size)
    q, k, v = (_heads(x @ matrix.T, head_size) for matrix in (query, key, value))
    q, k = _rotated(q, theta), _rotated(k, theta)
    k, v = (np.repeat(shared, len(q) // len(k), axis=0) for shared in (k, v))
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(head_size).astype(x.dtype)
    hidden_future = np.triu(np.ones(scores.shape[1:], bool), 1)
    mixed = _softmax(np.where(hidden_future, -np.inf, scores).astype(x.dtype)) @ v
    made: Values = mixed.transpose(1, 0, 2).reshape(len(x), -1) @ dense.T
    return made


def _heads(x: "Values", head_size: int) -> "Values":
    """[tokens, heads × head size] as [heads, tokens, head size]."""
    return x.reshape(len(x), -1, head_size).transpose(1, 0, 2)


def _rotated(x: "Values", theta: float) -> "Values":
    """Each pair (i, i + half a head) turned by an angle that grows with the position: Hugging Face's RoPE."""
    import numpy as np

    half = x.shape[-1] // 2
    angles = np.outer(np.arange(x.shape[1]), theta ** -(np.arange(half) / half))
    cos, sin = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def _softmax(x: "Values") -> "Values":
    """Along the last axis; the largest is subtracted first, so that nothing overflows."""
    import numpy as np

    powers = np.exp(x - x.max(-1, keepdims=True))
    made: Values = powers / powers.sum(-1, keepdims=True)
    return made


def _require_chain(first: "tuple[str, Values]", *matrices: "tuple[str, Values]") -> None:
    """Refuse matrices that do not take vectors of the first's length."""
    for name, matrix in matrices:
        if matrix.ndim != 2 or matrix.shape[1] != first[1].shape[-1]:
            raise WorkshopError(
                f"{name} has the shape {matrix.shape}, and its inputs must be the {first[1].shape[-1]} numbers of a "
                f"vector of {first[0]}. Give [outputs, inputs], with all inputs."
            )


def _require_heads(query: "Values", key: "Values", value: "Values", dense: "Values", head_size: int) -> None:
    """Refuse what is no whole number of heads, or heads that cannot share."""
    part = next((matrix for matrix in (query, key) if not len(matrix) or len(matrix) % head_size), None)
    if part is not None:
        raise WorkshopError(
            f"{len(part)} rows are no whole heads of {head_size}. Cut query, key and value so that each part has whole "
            "heads: over as many ranks as divide both kinds of heads."
        )
    if len(key) != len(value) or len(query) % len(key) or dense.shape[1] != len(query):
        raise WorkshopError(
            f"query {query.shape}, key {key.shape}, value {value.shape} and dense {dense.shape} do not belong "
            "together. Cut query, key and value with columns(), dense with rows(), all over the same number of ranks."
        )


# --- Cutting -------------------------------------------------------------------------


def columns(matrix: "Values", ranks: int) -> "list[Values]":
    """Split by column: each rank gets some of the outputs and all inputs, [outputs / ranks, inputs].

    The name is from mathematics, where a layer is x W; checkpoints keep the transpose, so that these are rows of the
    array.

    Raises:
        WorkshopError: the outputs cannot be shared out in equal parts; says over how many they can.
    """
    return _parts(matrix, ranks, 0, "outputs")


def rows(matrix: "Values", ranks: int) -> "list[Values]":
    """Split by row: each rank gets some of the inputs and all outputs, [outputs, inputs / ranks].

    Raises:
        WorkshopError: the inputs cannot be shared out in equal parts; says over how many they can.
    """
    return _parts(matrix, ranks, 1, "inputs")


def _parts(matrix: "Values", ranks: int, axis: int, what: str) -> "list[Values]":
    import numpy as np

    ranks, extent = whole_number("ranks", ranks), matrix.shape[axis]
    if extent % ranks:
        fitting = [n for n in range(1, min(extent, 16) + 1) if extent % n == 0]
        raise WorkshopError(
            f"{extent:,} {what} cannot be shared out over {ranks} ranks in equal parts. Choose one of "
            f"{', '.join(map(str, fitting))}."
        )
    return list(np.split(matrix, ranks, axis))


# --- Real numbers --------------------------------------------------------------------


@dataclass(frozen=True)
class LayerWeights:
    """One layer's linear layers as float32, each [outputs, inputs].

    Attributes:
        query: [heads × head size, hidden].
        key, value: [key-value heads × head size, hidden].
        dense: [hidden, heads × head size].
        gate, up: [intermediate, hidden].
        down: [hidden, intermediate].
        head_size: numbers in a head.
        theta: base of the rotation of queries and keys.
    """

    query: "Values"
    key: "Values"
    value: "Values"
    dense: "Values"
    gate: "Values"
    up: "Values"
    down: "Values"
    head_size: int
    theta: float


_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "dense": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def layer_weights(model: Model, layer: int = 0) -> LayerWeights:
    """The weights of one layer, from the model's Hugging Face files.

    Raises:
        WorkshopError: there is no such layer, or its linear layers have biases, which are left out here.
    """
    _require_layer(model, layer)
    if model.config.get("attention_bias") or model.config.get("mlp_bias"):
        raise WorkshopError(f"{model.name} adds a bias in its linear layers, which this arithmetic leaves out.")
    matrices = {name: _values(model, f"model.layers.{layer}.{place}.weight") for name, place in _NAMES.items()}
    theta = float(model.config.get("rope_theta") or 10000.0)
    return LayerWeights(**matrices, head_size=Shape.of(model.config).head_size, theta=theta)


def real_input(model: Model, tokens: int = 16, layer: int = 0) -> "Values":
    """Real vectors to feed a layer: the embeddings of the held-out text's first tokens, normalized as a layer does.

    For layer 0 this is what its attention gets. Later layers get what the layers before made of it, so that there and
    in the MLPs it is only of the right kind.

    Args:
        model: from :func:`helpers.models.find`.
        tokens: how many.
        layer: whose first norm to take.

    Returns:
        [tokens, hidden], float32.

    Raises:
        WorkshopError: there is no such layer, or the held-out text has fewer tokens.
    """
    import numpy as np

    _require_layer(model, layer)
    count, encode, ids = whole_number("tokens", tokens), _encoder(model), list[int]()
    for text in models.texts(HELD_OUT):
        if len(ids) >= count:
            break
        ids += encode(text)
    if len(ids) < count:
        raise WorkshopError(f"The held-out text has {len(ids):,} tokens. Choose at most so many, not {count:,}.")
    found = _values(model, "model.embed_tokens.weight")[ids[:count]]
    spread = np.sqrt(np.square(found).mean(-1, keepdims=True) + np.float32(model.config.get("rms_norm_eps", 1e-6)))
    made: Values = found / spread * _values(model, f"model.layers.{layer}.input_layernorm.weight")
    return made


def _encoder(model: Model) -> Callable[[str], list[int]]:
    """What turns text into a model's token ids, special ones too; transformers, slow to import, only if needed."""
    file = model.path / "tokenizer.json"
    if file.exists():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        return lambda text: list(tokenizer.encode(text).ids)
    from transformers import AutoTokenizer

    slow = AutoTokenizer.from_pretrained(model.path)
    return lambda text: list(slow(text)["input_ids"])


def _values(model: Model, name: str) -> "Values":
    """One of a model's tensors as float32."""
    made: Values = model.tensor(name).float().numpy()
    return made


def _require_layer(model: Model, layer: int) -> None:
    """Refuse a layer that is not there."""
    layers = int(model.config["num_hidden_layers"])
    if isinstance(layer, bool) or layer not in range(layers):
        raise WorkshopError(f"{model.name} has no layer {layer!r}. Choose one from 0 to {layers - 1}.")


# --- Comparing -----------------------------------------------------------------------


def difference(one: "Values", other: "Values") -> float:
    """The largest absolute difference of two results of the same shape.

    Raises:
        WorkshopError: the shapes differ.
    """
    import numpy as np

    if np.shape(one) != np.shape(other):
        raise WorkshopError(
            f"The shapes differ: {np.shape(one)} and {np.shape(other)}. Add the ranks' partial sums up first, or "
            "compare results of the same tokens."
        )
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).max())


def compare(whole: "Values", others: "Mapping[str, Values]") -> Table:
    """Several results beside the whole layer's: the largest difference of each, and whether it is the same.

    Args:
        whole: what the layer gives in one piece.
        others: results of the same shape, by what they are called.

    Raises:
        WorkshopError: there is none, or a shape differs.
    """
    import numpy as np

    if not others:
        raise WorkshopError("Nothing to compare: give results by name, such as {'2 ranks': one + other}.")
    largest = float(np.abs(whole).max())
    apart = {name: difference(whole, made) / largest for name, made in others.items()}
    cells = [
        [name, f"{share * largest:.1e}", f"{share:.1e}", "yes" if share < SAME else "NO"]
        for name, share in apart.items()
    ]
    same, other = [n for n, share in apart.items() if share < SAME], [n for n, share in apart.items() if share >= SAME]
    note = [f"The same but for the order in which FP32 adds: {', '.join(same)}."] if same else []
    note += [f"NOT the same: {', '.join(other)}."] if other else []
    return Table(
        ("computed as", "largest difference", "of the largest number", "the same"),
        cells,
        caption=f"Against the layer in one piece, whose largest number is {largest:.3g}",
        note=" ".join(note),
    )
