"""The sizes an engine is built for: batch, tokens in a step, and lengths, from the GPU's memory (notebook 03).

``trtllm-build``'s own defaults (2,048 requests, 8,192 tokens) reserve more than a 24 GB card has, and end in "out of
memory" when the engine starts; so every build here says its sizes.
"""

from helpers import memory
from helpers.cards import bytes_text
from helpers.errors import WorkshopError
from helpers.memory import Shape
from helpers.toolchains.sizes import Sizes

_LARGEST_BATCH = 64  # as in the talk, whose benchmarks run at batch 64


def engine_sizes(
    shape: Shape, name: str, precision: str, kv: str | None, memory_bytes: int, gpu: str, tp_size: int = 1
) -> Sizes:
    """The largest batch (a power of two up to 64) whose requests all fit at full length in the KV cache.

    By the memory planner's rule, the runtime's own: see :mod:`helpers.memory.planner`.

    Args:
        shape: of the model called ``name``.
        precision: the checkpoint's.
        kv: the KV cache's: None for 16 bits, ``fp8`` or ``int8``.
        memory_bytes: of each GPU, the product ``gpu``.
        tp_size: number of GPUs.

    Raises:
        WorkshopError: not even one request fits; says what does.
    """
    longest = memory.longest_sequence(shape)
    tokens = memory.step_tokens(longest)
    largest = memory.largest_batch(
        shape, memory_bytes, precision, kv, max_num_tokens=tokens, sequence=longest, tp_size=tp_size
    )
    if largest:
        batch = 2 ** (min(largest, _LARGEST_BATCH).bit_length() - 1)
        return Sizes(batch, tokens, longest // 2, longest)
    weights = memory.weight_bytes(shape, precision, tp_size)
    request = longest * memory.kv_bytes_per_token(shape, kv, tp_size)
    raise WorkshopError(
        f"{name} does not fit a {gpu}: its weights take {bytes_text(weights)} at this precision, a request of "
        f"{longest:,} tokens {bytes_text(request)} more, and the GPU has {bytes_text(memory_bytes)}. Choose fewer "
        "bits, more GPUs (tp_size), or a smaller model."
    )


def chosen_sizes(
    wanted: Sizes | None,
    shape: Shape,
    name: str,
    precision: str,
    kv: str | None,
    memory_bytes: int,
    gpu: str,
    tp_size: int = 1,
) -> tuple[Sizes, Sizes | None]:
    """What an engine is built for; and the same again where it is not the usual, for the name of its folder.

    Args:
        wanted: None for the usual sizes.
        shape, name, precision, kv, memory_bytes, gpu, tp_size: see :func:`engine_sizes`.

    Raises:
        WorkshopError: none are wanted, and not even one request of full length fits.
    """
    try:
        usual = engine_sizes(shape, name, precision, kv, memory_bytes, gpu, tp_size)
    except WorkshopError:
        if wanted is None:
            raise
        return wanted, wanted  # shorter requests may fit all the same
    return wanted or usual, None if wanted in (None, usual) else wanted


def scoring_sizes(shape: Shape) -> Sizes:
    """Small sizes for an engine that only scores held-out text: it keeps the logits of every token, which are large."""
    longest = min(1024, shape.positions)
    return Sizes(max_batch_size=8, max_num_tokens=longest, max_input_len=longest - 1, max_seq_len=longest)
