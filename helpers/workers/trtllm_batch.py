"""Worker: many requests through a TensorRT-LLM engine at once, its KV cache held to a number of blocks (notebook 05).

Runs on the release's own Python and imports nothing of ``helpers``. Requests are not held back: the scheduler starts
every one whose prompt fits (``MAX_UTILIZATION``), and where the cache is full it pauses the youngest, whose blocks are
freed. The default (``GUARANTEED_NO_EVICT``) starts a request only where its last token will fit too. What the scheduler
did in each iteration is the executor's own statistics. Writes ``run.json``.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

ROWS = 600  # iterations that are written at most; a picture has no more columns
LAST_RECORDS = 3.0  # seconds of silence after which all statistics have come; they are fetched every 0.2 s


def parse() -> argparse.Namespace:
    """The command line; ``helpers.toolchains.tensorrt_llm.commands`` writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--tokenizer", required=True, help="folder of the Hugging Face model")
    parser.add_argument("--held-out", type=Path, required=True, help='JSON lines of {"text": ...}')
    parser.add_argument("--blocks", type=int, required=True, help="blocks of the KV cache")
    parser.add_argument("--tokens-per-block", type=int, required=True, help="as the engine was built")
    parser.add_argument("--tp-size", type=int, default=1, help="GPUs that the engine was split over")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--prompt-tokens", type=int, required=True, help="tokens of a prompt, at most")
    parser.add_argument("--new-tokens", type=int, required=True, help="tokens that each request makes")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def statistics(llm: Any) -> list[dict[str, Any]]:
    """What the executor did since this was last asked, an iteration a record; some releases give them as JSON."""
    records = llm.get_stats(timeout=LAST_RECORDS)
    return [json.loads(record) if isinstance(record, str) else record for record in records]


def steps(records: list[dict[str, Any]]) -> list[list[float]]:
    """Rows of [seconds since the first iteration, running, waiting, KV blocks used, free].

    A record is written when its iteration starts, and its latency is that of the iteration before. Every key can be
    absent.
    """
    rows: list[list[float]] = []
    seconds = 0.0
    for record in records:
        cache, batching = record.get("kvCacheStats"), record.get("inflightBatchingStats")
        if not cache or not batching:
            continue
        seconds += record.get("iterLatencyMS", 0.0) / 1000 if rows else 0.0
        running = batching.get("numScheduledRequests", 0)
        there = record.get("numActiveRequests", running) + record.get("numQueuedRequests", 0)
        used, free = cache.get("usedNumBlocks", 0), cache.get("freeNumBlocks", 0)
        rows.append([round(seconds, 6), running, max(0, there - running), used, free])
    return rows


def thinned(rows: list[list[float]]) -> list[list[float]]:
    """At most :data:`ROWS` of the rows, evenly, with the first and the last."""
    if len(rows) <= ROWS:
        return rows
    return [rows[number * (len(rows) - 1) // (ROWS - 1)] for number in range(ROWS)]


def paused(records: list[dict[str, Any]]) -> int:
    """How often a request was paused: each record counts those of its own iteration."""
    return sum((record.get("inflightBatchingStats") or {}).get("numPausedRequests", 0) for record in records)


def main() -> None:
    """Load the engine with a small KV cache, run the load, and write what happened."""
    arguments = parse()
    print("@progress 0/1 importing TensorRT-LLM and loading the engine", flush=True)
    if arguments.tp_size > 1:
        print(f"ranks: {arguments.tp_size} start", flush=True)  # with "answered", tells a hang in the first exchange
    from tensorrt_llm import SamplingParams
    from tensorrt_llm._tensorrt_engine import LLM
    from tensorrt_llm.llmapi import CapacitySchedulerPolicy, KvCacheConfig, SchedulerConfig
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    texts = [json.loads(line)["text"] for line in arguments.held_out.read_text().splitlines() if line.strip()]
    ids = [tokenizer(text)["input_ids"][: arguments.prompt_tokens] for text in texts[: arguments.requests]]
    prompts = [{"prompt_token_ids": row} for row in ids]
    # Without reuse every block in use belongs to a request that runs: that is what is looked at here.
    cache = KvCacheConfig(max_tokens=arguments.blocks * arguments.tokens_per_block, enable_block_reuse=False)
    scheduler = SchedulerConfig(capacity_scheduler_policy=CapacitySchedulerPolicy.MAX_UTILIZATION)
    parameters = SamplingParams(max_tokens=arguments.new_tokens, ignore_eos=True)
    rounds, records, outputs = [], [], []
    with LLM(
        model=arguments.engine,
        tokenizer=arguments.tokenizer,
        tensor_parallel_size=arguments.tp_size,
        kv_cache_config=cache,
        scheduler_config=scheduler,
    ) as llm:
        llm.generate_async(prompts[0], SamplingParams(max_tokens=2, ignore_eos=True)).result()  # warm-up
        if arguments.tp_size > 1:
            print(f"ranks: {arguments.tp_size} answered", flush=True)
        statistics(llm)
        for number in range(arguments.rounds):
            print(f"@progress {number}/{arguments.rounds} {len(prompts)} requests at once", flush=True)
            started = time.perf_counter()
            handed_over = [llm.generate_async(prompt, parameters) for prompt in prompts]
            outputs = [list(request.result().outputs[0].token_ids) for request in handed_over]
            seconds = time.perf_counter() - started
            records = statistics(llm)
            made = sum(map(len, outputs))
            rounds.append({"seconds": seconds, "tokens": made, "preempted": paused(records)})
    short = sum(len(row) < arguments.new_tokens for row in outputs)
    if short:
        raise SystemExit(f"error: {short} requests made fewer than {arguments.new_tokens} tokens each.")
    rows = steps(records)
    if not rows:
        raise SystemExit("error: the engine told nothing of its iterations (get_stats gave no KV cache statistics).")
    last = next(record["kvCacheStats"] for record in reversed(records) if record.get("kvCacheStats"))
    run = {
        "blocks": last.get("maxNumBlocks", arguments.blocks),
        "tokens_per_block": last.get("tokensPerBlock", arguments.tokens_per_block),
        "kv_cache_bytes": None,  # the statistics count blocks
        "rounds": rounds,
        "steps": thinned(rows),
        "outputs": outputs,
        "end": tokenizer.eos_token_id,
        "texts": [tokenizer.decode(row, skip_special_tokens=True) for row in outputs],
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "run.json").write_text(json.dumps(run))


if __name__ == "__main__":  # with several GPUs the workers that MPI spawns import this file too
    main()
