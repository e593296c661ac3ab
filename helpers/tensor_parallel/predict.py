"""What splitting a model over several GPUs buys and costs: bytes that each rank holds, and the time of one token.

Pure arithmetic over a model's shape, a GPU's datasheet and the link between GPUs: it works for GPUs that are in no
machine here, and everything it says is a prediction. In the generation phase a GPU reads every weight for each token,
so the reading gets shorter with more GPUs, and the exchanges between them get longer: which of the two wins is the
question of notebook 06. Its arithmetic by hand is :mod:`helpers.tensor_parallel.by_hand`.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from helpers import memory
from helpers.errors import WorkshopError
from helpers.hardware import Datasheet
from helpers.memory import Shape
from helpers.memory.asked import ModelLike, weights, whole
from helpers.tensor_parallel.experts import Mixture, fullest_rank, mixture_of, mixtures, touched
from helpers.tensor_parallel.links import Interconnect, chosen, sheet_of

Way = Literal["tensor", "pipeline", "expert"]
WAYS: tuple[Way, ...] = get_args(Way)
Head = Literal["split", "whole", "tied"]

_ACTIVATION = 2  # bytes of one number that ranks exchange: FP16


# --- What a rank holds and hands over ------------------------------------------------------------------


def rank_parameters(shape: Shape, ranks: int, embedding_split: bool = False, head: Head = "split") -> int:
    """Parameters that one rank holds.

    The five matrices of each layer and the last layer are split, the norms are whole. The embedding is whole as
    transformers' tensor parallelism leaves it, or split by vocabulary as in TensorRT-LLM's checkpoints.

    Args:
        shape: of the model.
        ranks: number of ranks.
        embedding_split: True for TensorRT-LLM's.
        head: the last layer: ``split``; ``whole`` where a loader leaves it so; ``tied`` where it is the embedding.

    Raises:
        WorkshopError: the heads cannot be shared out over so many ranks.
    """
    memory.require_split("This model", shape, whole("ranks", ranks))
    layers = shape.layers * sum(outputs * inputs for outputs, inputs in shape.matrices) // ranks
    every, share = (math.ceil(shape.vocabulary / parts) * shape.hidden for parts in (1, ranks))
    last = {"split": share, "whole": every, "tied": 0}[head]
    return layers + last + (share if embedding_split else every) + (2 * shape.layers + 1) * shape.hidden


def rank_bytes(
    shape: Shape, ranks: int, bytes_per_number: float = 4, embedding_split: bool = False, head: Head = "split"
) -> int:
    """Bytes of one rank's parameters, all of one type; see :func:`rank_parameters`."""
    return int(rank_parameters(shape, ranks, embedding_split, head) * bytes_per_number)


def all_reduces(shape: Shape) -> int:
    """All-reduces in one pass through the model: after attention and after the MLP of each layer."""
    return 2 * shape.layers


def all_reduce_bytes(shape: Shape, tokens: int = 1, bytes_per_number: int = 4) -> int:
    """Bytes that each rank hands over to all-reduces in one pass: the hidden state of each token, each time.

    Args:
        shape: of the model.
        tokens: of all requests together in this pass.
        bytes_per_number: 4 in FP32, 2 in FP16.
    """
    return all_reduces(shape) * tokens * shape.hidden * bytes_per_number


# --- The time of one token -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One step of the generation phase, a token of every request, predicted.

    Attributes:
        model, gpu: what they are called.
        way: how the model is split.
        ranks: number of GPUs.
        link: what joins them; None for one.
        memory: bytes of each GPU.
        held: bytes of weights on the rank that has most.
        cache: bytes of KV cache on it.
        read: bytes that are read one after another on the way of a token.
        bandwidth: bytes a second of each GPU's memory.
        talking: seconds in exchanges between ranks.
        requests: in the step.
    """

    model: str
    gpu: str
    way: Way
    ranks: int
    link: Interconnect | None
    memory: int
    held: int
    cache: int
    read: float
    bandwidth: float
    talking: float
    requests: int

    @property
    def reading(self) -> float:
        """Seconds to read weights and KV cache, at the datasheet's bandwidth."""
        return self.read / self.bandwidth

    @property
    def seconds(self) -> float:
        """Of the step; exchanges wait for the reading and the reading for them."""
        return self.reading + self.talking

    @property
    def fits(self) -> bool:
        """True if weights, KV cache and what the runtime takes (an estimate) fit into each GPU's memory."""
        return self.held + self.cache + memory.RUNTIME <= self.memory


@dataclass(frozen=True)
class _Parts:
    """Bytes of a model's parts: of one layer, and of what is outside the layers."""

    attention: float
    expert: float
    router: float
    layer_norms: float
    embedding: float
    last_norm: float

    @classmethod
    def of(cls, mixture: Mixture, precision: str) -> "_Parts":
        """From the planner's own arithmetic, which counts scaling factors too."""
        shape = mixture.shape
        embedding, norm = 2 * shape.vocabulary * shape.hidden, 2 * shape.hidden

        def layer(one: Shape) -> float:
            outside = 2 * embedding + (2 * shape.layers + 1) * norm
            return (memory.weight_bytes(one, precision) - outside) / shape.layers

        attention = layer(replace(shape, intermediate=0))
        router = 2 * mixture.experts * shape.hidden if mixture.experts > 1 else 0
        return cls(attention, layer(shape) - attention, router, 2 * norm, embedding, norm)


def step(
    model: ModelLike | Mixture,
    gpu: str | Datasheet,
    ranks: int = 1,
    way: Way = "tensor",
    precision: str = "fp16",
    requests: int = 1,
    context: int = 0,
    link: str | Interconnect | None = None,
) -> Step:
    """Predict one step of the generation phase on several GPUs of a machine.

    Reading counts every weight that a token needs and the KV cache, over the memory's bandwidth; of the embedding a
    token needs one row, which is left out. Computing is left out too: with few requests it hides behind the reading.

    - ``tensor``: each rank reads 1 / n of everything but the norms. Exchanged: two all-reduces a layer and one after
      the split embedding, of requests × hidden numbers; and an all-gather of the logits.
    - ``pipeline``: each rank has whole layers. A token passes through all of them, so that all weights are read one
      after another, as on one GPU. Exchanged: requests × hidden numbers, n − 1 times.
    - ``expert``: as ``tensor``, but each expert lies whole on one rank, and a layer waits for the rank with most to
      read (:func:`fullest_rank`). Exchanged: an all-reduce a layer after attention, one after the split embedding, the
      logits, and two all-to-alls a layer: tokens to their experts and back.

    Args:
        model: a name in ``data/models.toml`` or ``data/experts.toml``, a folder, a model, a shape, or a mixture.
        gpu: a key of ``data/gpus.toml``, or a datasheet.
        ranks: number of GPUs.
        way: one of :data:`WAYS`.
        precision: the weights'; a key of :data:`~helpers.memory.BYTES_PER_WEIGHT`.
        requests: that each get a token in this step.
        context: tokens of each that the KV cache holds, in 16 bits.
        link: a key of ``data/links.toml``, or a link; None for what such GPUs usually have.

    Raises:
        WorkshopError: an unknown name, a number out of range, or a way that the model cannot be split.
    """
    mixture, sheet = mixture_of(model), sheet_of(gpu)
    ranks, requests = whole("ranks", ranks), whole("requests", requests)
    if context < 0:
        raise WorkshopError(f"context is {context}. Give the tokens that the KV cache holds: 0 or more.")
    _require_way(mixture, way, ranks)
    joined = chosen(link, sheet, ranks) if ranks > 1 else None
    parts = _Parts.of(mixture, weights(precision))
    held, read = _bytes(mixture, parts, ranks, way, requests)
    shape, tokens = mixture.shape, context * requests
    cache_bytes = memory.kv_bytes_per_token(shape, None, ranks) * tokens
    return Step(
        model=mixture.name,
        gpu=sheet.name,
        way=way,
        ranks=ranks,
        link=joined,
        memory=sheet.memory_bytes,
        held=int(held),
        cache=cache_bytes,
        # A pipeline's ranks read theirs one after another.
        read=read + cache_bytes * (ranks if way == "pipeline" else 1),
        bandwidth=sheet.bandwidth,
        talking=_talking(mixture, joined, ranks, way, requests) if joined else 0.0,
        requests=requests,
    )


def _require_way(mixture: Mixture, way: Way, ranks: int) -> None:
    """Refuse a way that does not exist or that the model cannot be split.

    Raises:
        WorkshopError: says why, and what to choose.
    """
    if way not in WAYS:
        raise WorkshopError(f"There is no way {way!r} to split a model. Choose one of {', '.join(map(repr, WAYS))}.")
    if way == "pipeline":
        if ranks > mixture.shape.layers:
            raise WorkshopError(
                f"{mixture.name} has {mixture.shape.layers} layers, so a pipeline of {ranks} ranks has too few for "
                f"each. Choose at most {mixture.shape.layers}."
            )
        return
    if way == "expert" and mixture.experts == 1:
        raise WorkshopError(
            f"{mixture.name} is a dense model: it has one MLP a layer and no experts to share out. Choose 'tensor' or "
            f"'pipeline', or a mixture of experts such as {next(iter(mixtures()))!r}."
        )
    memory.require_split(mixture.name, mixture.shape, ranks)


def _bytes(mixture: Mixture, parts: _Parts, ranks: int, way: Way, requests: int) -> tuple[float, float]:
    """Bytes of weights on the rank that has most, and bytes of weights that a step reads one after another."""
    layers, experts = mixture.shape.layers, mixture.experts
    anywhere = float(sum(number * chance for number, chance in touched(mixture, requests).items()))
    rest = parts.router + parts.layer_norms
    if way == "pipeline":
        layer = parts.attention + experts * parts.expert + rest
        shares = [layers // ranks + (rank < layers % ranks) for rank in range(ranks)]
        stages = [share * layer for share in shares]
        stages[0] += parts.embedding
        stages[-1] += parts.embedding + parts.last_norm
        read = layers * (parts.attention + anywhere * parts.expert + rest) + parts.embedding + parts.last_norm
        return max(stages), read
    held = layers * ((parts.attention + experts * parts.expert) / ranks + rest)
    needed = float(fullest_rank(mixture, ranks, requests)) if way == "expert" else anywhere / ranks
    read = layers * (parts.attention / ranks + needed * parts.expert + rest)
    outside = parts.embedding / ranks + parts.last_norm
    return held + outside + parts.embedding / ranks, read + outside


def _talking(mixture: Mixture, link: Interconnect, ranks: int, way: Way, requests: int) -> float:
    """Seconds in exchanges; the formulae are :func:`step`'s."""
    shape = mixture.shape
    hidden = requests * shape.hidden * _ACTIVATION
    if way == "pipeline":
        return (ranks - 1) * link.send(hidden)
    logits = link.all_gather(ranks, requests * shape.vocabulary * _ACTIVATION)
    if way == "tensor":
        return (all_reduces(shape) + 1) * link.all_reduce(ranks, hidden) + logits
    sent = 2 * link.all_to_all(ranks, hidden * mixture.chosen)
    return (shape.layers + 1) * link.all_reduce(ranks, hidden) + shape.layers * sent + logits
