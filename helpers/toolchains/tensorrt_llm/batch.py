"""How large a KV cache a budget buys an engine of TensorRT-LLM, and whether a load fits it (notebook 05). Pure."""

import json
from dataclasses import dataclass, replace

from helpers import memory
from helpers.toolchains import batching
from helpers.toolchains.base import Engine
from helpers.toolchains.batching import Load


@dataclass(frozen=True)
class Pool:
    """A KV cache in whole blocks, on each rank.

    Attributes:
        blocks: how many.
        block: tokens in one.
        bytes_per_token: counted from the model's shape, for the engine does not tell.
    """

    blocks: int
    block: int
    bytes_per_token: int


def pool_of(engine: Engine, shape: memory.Shape, budget: int, load: Load) -> Pool:
    """The KV cache that a budget buys, rounded down to whole blocks.

    Args:
        engine: built by this toolchain; its ``config.json`` says how many tokens a block holds.
        shape: of its model.
        budget: bytes, on each rank.
        load: what will run in it.

    Raises:
        WorkshopError: a number that is not positive, requests longer than the engine was built for, or a budget that
            does not hold one of them.
    """
    batching.require_load(load, budget, int(engine.manifest.options["max_seq_len"]))
    config = json.loads((engine.path / "config.json").read_text())
    block = int(config["build_config"]["plugin_config"].get("tokens_per_block", 32))
    each = memory.kv_bytes_per_token(shape, engine.kv, engine.tp_size)
    # The runtime lowers max_seq_len to what a small cache holds, and counts the last token of an answer in it.
    whole = replace(load, new_tokens=load.new_tokens + 1)
    return Pool(batching.blocks_within(whole, budget, each, block), block, each)
