"""What fits: weights, what a step works with, and the KV cache that becomes of the rest (notebook 05).

One rule, the one that TensorRT-LLM's runtime follows: weights and activations are loaded first, and a share of the
memory that is then free is cut into blocks of keys and values. The arithmetic is pure over a :class:`Shape` and bytes;
only :mod:`helpers.memory.asked` knows names of models and GPUs.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from helpers.cards import ShownAsTable, Table, bytes_text
from helpers.errors import WorkshopError
from helpers.memory import asked
from helpers.memory.shape import (
    GIB,
    Shape,
    activation_bytes,
    kv_bytes_per_token,
    require_split,
    weight_bytes,
)

KV_SHARE = 0.8
"""Share of the GPU memory left after loading that becomes KV cache; the programs' own default is 0.9."""

RUNTIME = GIB
"""What CUDA's context, the kernels and the driver hold on a GPU before a weight is loaded: an estimate.

In the log on TensorRT-LLM's page "Memory Usage of TensorRT-LLM", 0.77 GiB are gone that no line accounts for. Measured
on an H100 (driver 580): a process of PyTorch's takes 0.68 GiB once it has multiplied two matrices, besides those."""

_LONGEST, _TOKENS_IN_A_STEP = 2048, 4096


@dataclass(frozen=True, repr=False)
class Fit(ShownAsTable):
    """A model on a GPU, part by part; every size is of one GPU, in bytes.

    Attributes:
        model, gpu: what they are called.
        shape: of the model.
        memory: of the GPU.
        precision: the weights', a key of :data:`~helpers.memory.BYTES_PER_WEIGHT`.
        kv: the KV cache's, a key of :data:`~helpers.memory.KV_BYTES`.
        max_batch_size: requests that the engine is built for.
        max_num_tokens: tokens in one step, all requests together.
        sequence: tokens of a full-length request, prompt and answer.
        tokens_per_block: of the KV cache.
        tp_size: number of GPUs that share the model.
        share: of the free memory that becomes KV cache.
        notes: sentences on whether the GPU has an engine of these precisions.
    """

    model: str
    gpu: str
    shape: Shape
    memory: int
    precision: str
    kv: str | None
    max_batch_size: int
    max_num_tokens: int
    sequence: int
    tokens_per_block: int
    tp_size: int = 1
    share: float = KV_SHARE
    notes: tuple[str, ...] = ()

    @property
    def runtime(self) -> int:
        """What CUDA and the driver take, an estimate: :data:`RUNTIME`."""
        return RUNTIME

    @cached_property
    def weights(self) -> int:
        """Bytes of this GPU's part of the weights."""
        return weight_bytes(self.shape, self.precision, self.tp_size)

    @cached_property
    def activations(self) -> int:
        """Bytes that a step works with, an estimate: see :func:`~helpers.memory.activation_bytes`."""
        return _activations(self.shape, self.max_num_tokens, self.max_batch_size, self.tp_size)

    @property
    def free(self) -> int:
        """Bytes free once everything but the KV cache is loaded; below 0 where that does not fit."""
        return self.memory - self.runtime - self.weights - self.activations

    @cached_property
    def kv_per_token(self) -> int:
        """Bytes of one token's keys and values."""
        return kv_bytes_per_token(self.shape, self.kv, self.tp_size)

    @property
    def block(self) -> int:
        """Bytes of one block of the KV cache."""
        return self.tokens_per_block * self.kv_per_token

    @property
    def pool(self) -> int:
        """Bytes of the KV cache."""
        return kv_pool(self.free, self.share)

    @property
    def blocks(self) -> int:
        """Whole blocks in the pool."""
        return self.pool // self.block

    @property
    def tokens(self) -> int:
        """Tokens that the KV cache holds, all requests together."""
        return self.blocks * self.tokens_per_block

    @property
    def blocks_per_request(self) -> int:
        """Blocks that a full-length request takes; the last one may be part empty."""
        return math.ceil(self.sequence / self.tokens_per_block)

    @property
    def requests(self) -> int:
        """Full-length requests whose keys and values fit at once."""
        return self.blocks // self.blocks_per_request

    @property
    def left(self) -> int:
        """Bytes that nothing is planned for: what the share leaves, and less than a block."""
        return self.free - self.blocks * self.block

    @cached_property
    def largest_batch(self) -> int:
        """The largest ``max_batch_size`` whose full-length requests all fit; 0 if not even one does."""
        return largest_batch(
            self.shape,
            self.memory,
            self.precision,
            self.kv,
            max_num_tokens=self.max_num_tokens,
            sequence=self.sequence,
            tokens_per_block=self.tokens_per_block,
            tp_size=self.tp_size,
            share=self.share,
        )

    @property
    def precision_text(self) -> str:
        """Weights and KV cache in a few words."""
        return f"{asked.TITLES[self.precision]} weights, {asked.KV_TITLES[self.kv]} KV cache"

    @property
    def title(self) -> str:
        """Model, precisions and GPU in a few words."""
        cache = f"{'an' if self.kv else 'a'} {asked.KV_TITLES[self.kv]} KV cache"
        several = f"{self.tp_size} GPUs: {self.gpu}" if self.tp_size > 1 else f"one {self.gpu}"
        return f"{self.model} in {asked.TITLES[self.precision]} with {cache} on {several}"

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Name and bytes of every part; together they are the whole memory."""
        return [
            ("runtime (estimate)", self.runtime),
            ("weights", self.weights),
            ("activations (estimate)", self.activations),
            ("KV cache", self.blocks * self.block),
            ("left", self.left),
        ]

    @property
    def sentence(self) -> str:
        """What fits, in one sentence computed from the sizes."""
        begin = f"{self.title}: {bytes_text(self.weights)} of weights{' on each' if self.tp_size > 1 else ''}"
        if not self.requests:
            return (
                f"{begin} leave {bytes_text(self.pool)} of KV cache, room for {self.tokens:,} tokens and so for no "
                f"request of {self.sequence:,}."
            )
        one = self.requests == 1
        room = f"leave room for {self.requests:,} request{'' if one else 's'} of {self.sequence:,} tokens"
        built = f"the {self.max_batch_size:,} that the engine is built for"
        if self.requests > self.max_batch_size:
            against = f"more than {built}"
        elif self.requests < self.max_batch_size:
            against = f"fewer than {built}"
        else:
            against = f"exactly {built}"
        return f"{begin} {room}, {against}."

    def table(self) -> Table:
        """One row a part, and what fits."""
        cache = f"{self.block:,} bytes a block of {self.tokens_per_block} tokens"
        how = [
            "CUDA's context, kernels, driver: an estimate",
            f"from the model's shape, {asked.TITLES[self.precision]}",
            f"{self.max_num_tokens:,} tokens a step, {self.max_batch_size:,} requests: an estimate",
            f"{self.share:.0%} of what is free then, in {self.blocks:,} whole blocks",
            "for what nobody planned",
        ]
        rows: list[tuple[str, str, str]] = [
            (name, bytes_text(size), why) for (name, size), why in zip(self.parts, how, strict=True)
        ]
        rows += [
            ("a token's keys and values", bytes_text(self.kv_per_token), f"{asked.KV_TITLES[self.kv]}; {cache}"),
            ("tokens in the KV cache", f"{self.tokens:,}", "blocks × tokens a block"),
            (
                "full-length requests",
                f"{self.requests:,}",
                f"{self.sequence:,} tokens are {self.blocks_per_request} blocks each",
            ),
            ("largest batch", f"{self.largest_batch:,}", "requests to build for, so that all fit at full length"),
        ]
        where = f", on each of {self.tp_size}" if self.tp_size > 1 else ""
        caption = f"predicted: {bytes_text(self.memory)} of memory{where}, {self.gpu}"
        return Table(("part", "size", "how"), rows, caption, " ".join((self.sentence, *self.notes)))


def fit(
    model: asked.ModelLike,
    gpu: str | float,
    precision: str = "fp16",
    kv: str | None = None,
    max_batch_size: int = 64,
    max_num_tokens: int | None = None,
    sequence: int | None = None,
    tokens_per_block: int = 32,
    tp_size: int = 1,
    share: float = KV_SHARE,
) -> Fit:
    """How a model's parts share a GPU's memory, and how many requests fit.

    It answers "does it fit?"; whether the GPU has an engine of these precisions is another question, answered in
    ``notes``.

    Args:
        model: a name in ``data/models.toml``, ``bundled``, a folder, a model, a ``config.json``, or a shape.
        gpu: a key of ``data/gpus.toml``, or a number of GiB.
        precision: the weights'; a key of :data:`~helpers.memory.BYTES_PER_WEIGHT`.
        kv: the KV cache's; None for 16 bits, ``fp8`` or ``int8``, on a CPU ``u8`` or ``f32``.
        max_batch_size: requests that the engine is built for.
        max_num_tokens: tokens in a step; None for 4,096, or for the sequence where that is longer.
        sequence: tokens of a full-length request; None for 2,048, or for the model's positions if those are fewer.
        tokens_per_block: of the KV cache.
        tp_size: number of GPUs that share the model.
        share: of the free memory that becomes KV cache, above 0 and at most 1.

    Raises:
        WorkshopError: an unknown name, a number out of range, or weights that do not fit; says what to do.
    """
    name, shape, sheet, memory = asked.resolve(model, gpu)
    precision, kv = asked.weights(precision), asked.cache(kv)
    longest = longest_sequence(shape) if sequence is None else asked.whole("sequence", sequence)
    if longest > shape.positions:
        raise WorkshopError(
            f"A request of {longest:,} tokens is longer than {name} can read: it has {shape.positions:,} positions. "
            f"Choose a sequence of at most {shape.positions:,}."
        )
    tokens = step_tokens(longest) if max_num_tokens is None else asked.whole("max_num_tokens", max_num_tokens)
    ranks = asked.whole("tp_size", tp_size)
    require_split(name, shape, ranks)
    if not 0 < share <= 1:
        raise WorkshopError(f"The KV cache's share of the free memory is {share}. Choose one above 0 and at most 1.")
    made = Fit(
        model=name,
        gpu=sheet.name if sheet else f"device with {memory / GIB:g} GiB",
        shape=shape,
        memory=memory,
        precision=precision,
        kv=kv,
        max_batch_size=asked.whole("max_batch_size", max_batch_size),
        max_num_tokens=tokens,
        sequence=longest,
        tokens_per_block=asked.whole("tokens_per_block", tokens_per_block),
        tp_size=ranks,
        share=share,
        notes=asked.notes(sheet, precision, kv) if sheet else (),
    )
    return _require_room(made)


def compare(*fits: Fit) -> Table:
    """Plans side by side, one a row.

    Raises:
        WorkshopError: none was given.
    """
    if not fits:
        raise WorkshopError("Nothing to compare: no plan was given. Make some with memory.fit(model, gpu).")
    lengths = {one.sequence for one in fits}
    rows = [
        (
            one.model,
            f"{one.tp_size} × {one.gpu}" if one.tp_size > 1 else one.gpu,
            f"{asked.TITLES[one.precision]}, {asked.KV_TITLES[one.kv]}",
            bytes_text(one.weights),
            bytes_text(one.kv_per_token),
            f"{one.tokens:,}",
            f"{one.requests:,}" if len(lengths) == 1 else f"{one.requests:,} × {one.sequence:,}",
            f"{one.largest_batch:,}",
        )
        for one in fits
    ]
    each = f" of {lengths.pop():,}" if len(lengths) == 1 else " × tokens"
    columns = (
        "model",
        "GPU",
        "weights, KV cache",
        "size of weights",
        "KV a token",
        "tokens",
        f"requests{each}",
        "largest batch",
    )
    if len({one.model for one in fits}) > 1:
        return Table(columns, rows, "predicted: what fits, for each GPU")
    most = max(fits, key=lambda one: one.requests)
    least = min(fits, key=lambda one: one.requests)
    note = f"Most requests: {most.title}, {most.requests:,} of {most.sequence:,} tokens."
    if least.requests < most.requests:
        times = f", fewer by a factor of {most.requests / least.requests:.1f}" if least.requests else ""
        note += f" Fewest: {least.title}, {least.requests:,} of {least.sequence:,} tokens{times}."
    elif len(fits) > 1:
        note = f"All hold the same number of full-length requests: {most.requests:,}."
    return Table(columns, rows, "predicted: what fits, for each GPU", note)


def kv_pool(free_bytes: int, share: float = KV_SHARE) -> int:
    """Bytes of KV cache that the runtime takes of what is free after loading; 0 where nothing is."""
    return max(0, int(share * free_bytes))


def largest_batch(
    shape: Shape,
    memory_bytes: int,
    precision: str = "fp16",
    kv: str | None = None,
    *,
    max_num_tokens: int,
    sequence: int,
    tokens_per_block: int = 32,
    tp_size: int = 1,
    share: float = KV_SHARE,
) -> int:
    """The largest batch to build an engine for, so that so many full-length requests fit in its KV cache; 0 for none.

    A larger batch takes more activations and leaves a smaller KV cache, so the two meet at one number.

    Args:
        shape: of the model.
        memory_bytes: of each GPU.
        precision, kv, max_num_tokens, sequence, tokens_per_block, tp_size, share: see :func:`fit`.
    """
    loaded = RUNTIME + weight_bytes(shape, precision, tp_size)
    block = tokens_per_block * kv_bytes_per_token(shape, kv, tp_size)
    each = math.ceil(sequence / tokens_per_block)

    def requests(batch: int) -> int:
        free = memory_bytes - loaded - _activations(shape, max_num_tokens, batch, tp_size)
        return kv_pool(free, share) // block // each

    least, beyond = 0, requests(1) + 1
    while beyond - least > 1:
        middle = (least + beyond) // 2
        least, beyond = (middle, beyond) if requests(middle) >= middle else (least, middle)
    return least


def longest_sequence(shape: Shape) -> int:
    """Tokens of a full-length request unless told otherwise: 2,048, or what the model can read if that is less."""
    return min(_LONGEST, shape.positions)


def step_tokens(sequence: int) -> int:
    """Tokens in a step unless told otherwise: 4,096, or a whole request where that is longer."""
    return max(_TOKENS_IN_A_STEP, sequence)


def _activations(shape: Shape, max_num_tokens: int, requests: int, tp_size: int) -> int:
    """Activations, where each request brings at least one token to a step."""
    return activation_bytes(shape, max(max_num_tokens, requests), requests, tp_size)


def _require_room(made: Fit) -> Fit:
    """Refuse a GPU that is too small for everything but the KV cache."""
    if made.free > 0:
        return made
    each, count = (" on each GPU", f"{made.tp_size} ×") if made.tp_size > 1 else ("", "one")
    options = ["fewer bits", "a smaller model", "a larger GPU"]
    if any(ranks > made.tp_size for ranks in made.shape.splits):
        options.insert(1, "more GPUs (tp_size)")
    if made.memory > made.runtime + made.weights:
        options.insert(0, "a smaller max_batch_size or max_num_tokens")
    raise WorkshopError(
        f"{made.model} does not fit on {count} {made.gpu}: its weights take {bytes_text(made.weights)}{each} in "
        f"{asked.TITLES[made.precision]}, a step's activations {bytes_text(made.activations)} and the runtime "
        f"{bytes_text(made.runtime)} (estimates), and the memory is {bytes_text(made.memory)}. "
        f"Choose {', '.join(options[:-1])}, or {options[-1]}."
    )
