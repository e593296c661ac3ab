"""Worker: negative log-likelihood of every held-out token under a TensorRT-LLM engine's arithmetic (notebook 04).

Runs on the release's own Python and imports nothing of ``helpers``. The engine must have been built with
``--gather_context_logits``. Reuse of KV blocks is off: a block that is reused is not computed, so its logits would be
missing without a word (NVIDIA/TensorRT-LLM issue 3388).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 8  # texts that are sent together; their logits are all in memory at once


def likelihoods(logits: Any, ids: list[int], vocabulary: int) -> np.ndarray:
    """Negative log-likelihood, in nats, of every token after the first; ``logits``: [tokens, >= vocabulary].

    Some releases put a dimension of 1 before them, for the one beam.
    """
    logits = logits[0] if logits is not None and logits.dim() == 3 else logits
    if logits is None or len(logits) < len(ids):
        found = 0 if logits is None else len(logits)
        raise SystemExit(f"error: the engine gave logits of {found} tokens for a text of {len(ids)}.")
    taken = logits[: len(ids) - 1, :vocabulary].float().cpu().log_softmax(-1)
    return -taken[range(len(ids) - 1), ids[1:]].numpy()


def main() -> None:
    """Load the scoring engine, feed it the texts, and write ``nll.npy`` in the order of the texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True, help="folder of the Hugging Face model")
    parser.add_argument("--held-out", type=Path, required=True, help='JSON lines of {"text": ...}')
    parser.add_argument("--tp-size", type=int, default=1, help="GPUs that the engine was split over")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    print("@progress 0/1 importing TensorRT-LLM and loading the engine", flush=True)
    if arguments.tp_size > 1:
        print(f"ranks: {arguments.tp_size} start", flush=True)  # with "answered", tells a hang in the first exchange
    from tensorrt_llm import SamplingParams
    from tensorrt_llm._tensorrt_engine import LLM
    from tensorrt_llm.llmapi import KvCacheConfig
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    settings = json.loads((arguments.engine / "config.json").read_text())
    vocabulary = settings["pretrained_config"]["vocab_size"]
    lines = arguments.held_out.read_text().splitlines()
    ids = [tokenizer(json.loads(line)["text"])["input_ids"] for line in lines if line.strip()]
    parameters = SamplingParams(max_tokens=1, return_context_logits=True)
    parts: list[np.ndarray] = []
    cache = KvCacheConfig(enable_block_reuse=False, free_gpu_memory_fraction=0.5)
    with LLM(
        model=str(arguments.engine),
        tokenizer=arguments.tokenizer,
        tensor_parallel_size=arguments.tp_size,
        kv_cache_config=cache,
    ) as llm:
        for start in range(0, len(ids), ROWS):
            print(f"@progress {start}/{len(ids)} perplexity on held-out text", flush=True)
            chosen = ids[start : start + ROWS]
            prompts = [{"prompt_token_ids": row} for row in chosen]
            outputs = llm.generate(prompts, parameters, use_tqdm=False)
            if arguments.tp_size > 1 and not parts:
                print(f"ranks: {arguments.tp_size} answered", flush=True)
            parts += [
                likelihoods(out.context_logits, row, vocabulary) for out, row in zip(outputs, chosen, strict=True)
            ]
    arguments.output.mkdir(parents=True, exist_ok=True)
    np.save(arguments.output / "nll.npy", np.concatenate(parts).astype(np.float32))


if __name__ == "__main__":
    main()
