"""Worker: load a Hugging Face folder in TensorRT-LLM's PyTorch back end, and continue one prompt, greedily.

Runs on the release's own Python and imports nothing of ``helpers``. Prints one JSON object a line, as the other
toolchains' workers do; every other line is a library's and goes to the log. Nothing was built before: the weights are
read, laid out for this GPU and, where they are in FP8, rounded to the scales of the layers that are multiplied together
while this loads (notebook 10).
"""

import argparse
import asyncio
import time

STARTED = time.perf_counter()


def parse() -> argparse.Namespace:
    """The command line; ``helpers.toolchains.tensorrt_llm_pytorch.commands`` writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with config.json, safetensors and tokenizer")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--ignore-eos", action="store_true", help="write on after the end-of-sequence token")
    parser.add_argument("--tp-size", type=int, default=1, help="GPUs to split the weights over")
    parser.add_argument("--kv-share", type=float, default=0.8, help="share of free GPU memory for the KV cache")
    parser.add_argument("--kv-dtype", default="auto", help="of the KV cache: fp8, or auto for what the folder says")
    parser.add_argument("--max-batch-size", type=int, required=True)
    parser.add_argument("--max-num-tokens", type=int, required=True)
    parser.add_argument("--max-seq-len", type=int, required=True)
    return parser.parse_args()


def main() -> None:
    """Load, generate, report."""
    arguments = parse()
    if arguments.tp_size > 1:
        print(f"ranks: {arguments.tp_size} start", flush=True)  # with "answered", tells a hang in the first exchange
    from tensorrt_llm import LLM, SamplingParams
    from tensorrt_llm.llmapi import KvCacheConfig
    from trtllm_generate import stream, tell  # type: ignore[import-not-found]  # beside this file

    cache = KvCacheConfig(free_gpu_memory_fraction=arguments.kv_share, dtype=arguments.kv_dtype)
    with LLM(
        model=arguments.model,
        tensor_parallel_size=arguments.tp_size,
        kv_cache_config=cache,
        max_batch_size=arguments.max_batch_size,
        max_num_tokens=arguments.max_num_tokens,
        max_seq_len=arguments.max_seq_len,
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


if __name__ == "__main__":  # the workers that MPI spawns import this file too
    main()
