"""Worker: load a TensorRT-LLM engine, continue one prompt greedily, and print each piece of text as it comes.

Runs on the release's own Python and imports nothing of ``helpers``. Prints one JSON object a line, as the CPU
toolchain's worker does; every other line is a library's and goes to the log.
"""

import argparse
import asyncio
import json
import time
from typing import Any

STARTED = time.perf_counter()


def tell(**facts: Any) -> None:
    """Print one JSON line for the notebook."""
    print(json.dumps(facts), flush=True)


def parse() -> argparse.Namespace:
    """The command line; ``helpers.toolchains.tensorrt_llm.commands`` writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--tokenizer", required=True, help="folder of the Hugging Face model")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--ignore-eos", action="store_true", help="write on after the end-of-sequence token")
    parser.add_argument("--tp-size", type=int, default=1, help="GPUs that the engine was split over")
    parser.add_argument("--kv-share", type=float, default=0.8, help="share of free GPU memory for the KV cache")
    parser.add_argument(
        "--no-block-reuse", action="store_true", help="the engine has no paged context FMHA, and cannot reuse KV blocks"
    )
    return parser.parse_args()


async def stream(llm: Any, prompt: str, parameters: Any, ranks: int) -> tuple[Any, float]:
    """Print the text as it grows; returns the finished completion and the time of the first token."""
    shown, first, completion = "", 0.0, None
    async for output in llm.generate_async(prompt, parameters, streaming=True):
        completion = output.outputs[0]
        if completion.token_ids and not first:
            first = time.perf_counter()
            if ranks > 1:
                print(f"ranks: {ranks} answered", flush=True)
        # A token can end in the middle of a character: show text only up to the last whole one.
        if len(completion.text) > len(shown) and not completion.text.endswith("\ufffd"):
            tell(piece=completion.text[len(shown) :])
            shown = completion.text
    return completion, first


def main() -> None:
    """Load, generate, report."""
    arguments = parse()
    if arguments.tp_size > 1:
        print(f"ranks: {arguments.tp_size} start", flush=True)  # with "answered", tells a hang in the first exchange
    from tensorrt_llm import SamplingParams
    from tensorrt_llm._tensorrt_engine import LLM
    from tensorrt_llm.llmapi import KvCacheConfig

    # Reuse is on by default; an engine that cannot do it has it switched off by the executor, after a warning.
    cache = KvCacheConfig(free_gpu_memory_fraction=arguments.kv_share, enable_block_reuse=not arguments.no_block_reuse)
    with LLM(
        model=arguments.engine,
        tokenizer=arguments.tokenizer,
        tensor_parallel_size=arguments.tp_size,
        kv_cache_config=cache,
    ) as llm:
        # Greedy is the default of SamplingParams; its default length is 32 tokens, which would cut an answer short.
        parameters = SamplingParams(max_tokens=arguments.max_tokens, ignore_eos=arguments.ignore_eos)
        loaded = time.perf_counter()
        completion, first = asyncio.run(stream(llm, arguments.prompt, parameters, arguments.tp_size))
        ended = time.perf_counter()
    tell(
        tokens=len(completion.token_ids),
        finished=completion.finish_reason == "stop",
        load_seconds=loaded - STARTED,
        first_token_seconds=first - loaded,
        seconds=ended - loaded,
    )


if __name__ == "__main__":  # with several GPUs the workers that MPI spawns import this file too
    main()
