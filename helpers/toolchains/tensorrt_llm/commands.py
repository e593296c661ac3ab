"""Every command of TensorRT-LLM that the workshop runs or shows, as data: nothing here starts anything.

Each function takes the program (its name for a person to paste, its path for a stage to run) and gives a list of words.
``tests/contract`` checks all of them, over GPUs, precisions, releases and ranks, against ``data/contract``.
"""

from pathlib import Path
from typing import Any

from helpers.memory import KV_SHARE
from helpers.toolchains.batching import Load
from helpers.toolchains.serving import LOCAL, PORT
from helpers.toolchains.sizes import Sizes


def build(
    program: str,
    checkpoint: str,
    engine: str,
    sizes: Sizes,
    tp_size: int = 1,
    known_timings: str | None = None,
    context_logits: bool = False,
    paged_context: bool = True,
) -> list[str]:
    """``trtllm-build``: a checkpoint to an engine.

    Args:
        program: ``trtllm-build``.
        checkpoint: folder with ``config.json`` and ``rank{N}.safetensors``.
        engine: folder to write.
        sizes: what the engine shall hold; without them the program reserves for 2,048 requests.
        tp_size: ranks in the checkpoint; one worker builds each.
        known_timings: a timing cache of an earlier build: kernels that were timed once are not timed again.
        context_logits: keep the logits of every prompt token (for perplexity only: they are large).
        paged_context: leave paged context FMHA on. The program switches it off by itself for some KV caches, with a
            warning (:mod:`helpers.toolchains.tensorrt_llm.kv`): the command says so instead.
    """
    command = [program, "--checkpoint_dir", checkpoint, "--output_dir", engine]
    for option, value in sizes.options().items():
        command += [option, str(value)]
    command += ["--gemm_plugin", "auto", "--workers", str(tp_size)]
    command += ["--profiling_verbosity", "detailed"]  # lets notebook 03 count what came out of the compiler
    # Without this the cache is written into whatever folder the program was started in.
    command += ["--output_timing_cache", f"{engine}/timing.cache"]
    command += ["--input_timing_cache", known_timings] if known_timings else []
    command += ["--gather_context_logits"] if context_logits else []
    command += [] if paged_context else ["--use_paged_context_fmha", "disable"]
    return command


def serve(
    program: str,
    engine: str,
    model: str,
    sizes: Sizes,
    backend: str,
    tp_size: int = 1,
    host: str = LOCAL,
    port: int = PORT,
    kv_share: float = KV_SHARE,
    settings: str | None = None,
) -> list[str]:
    """``trtllm-serve``: an OpenAI-compatible API in front of a built engine.

    Args:
        engine: folder of the engine.
        model: folder of the Hugging Face model: the server reads its ``config.json`` beside the tokenizer.
        sizes: what the engine was built for.
        backend: the release's ``engine_backend``; without it the engine would be taken for Hugging Face weights.
        kv_share: of the free memory that becomes KV cache.
        settings: a YAML file with what no option says (:func:`serve_settings`).
    """
    command = [program, "serve", engine, "--backend", backend, "--tokenizer", model, "--host", host]
    command += ["--port", str(port), "--tp_size", str(tp_size), "--max_batch_size", str(sizes.max_batch_size)]
    command += ["--max_num_tokens", str(sizes.max_num_tokens), "--max_seq_len", str(sizes.max_seq_len)]
    command += ["--kv_cache_free_gpu_memory_fraction", str(kv_share)]
    return [*command, "--extra_llm_api_options", settings] if settings else command


def serve_settings(kv_share: float, chunked_prefill: bool, block_reuse: bool) -> dict[str, Any]:
    """What ``trtllm-serve`` reads from a file, because no option of both releases says it; empty for nothing.

    Args:
        kv_share: of the free memory that becomes KV cache; the file's ``kv_cache_config`` replaces the option's.
        chunked_prefill: read long prompts in chunks.
        block_reuse: False for an engine without paged context FMHA, which cannot use a KV block again.
    """
    settings: dict[str, Any] = {"enable_chunked_prefill": True} if chunked_prefill else {}
    if not block_reuse:
        settings["kv_cache_config"] = {"enable_block_reuse": False, "free_gpu_memory_fraction": kv_share}
    return settings


def worker(python: str, name: str, *arguments: str) -> list[str]:
    """One of ``helpers/workers``, under the release's Python."""
    return [python, str(Path(__file__).parents[2] / "workers" / name), *arguments]


def convert(python: str, model: str, tp_size: int, checkpoint: str) -> list[str]:
    """INT8 weight-only, by TensorRT-LLM's own conversion: ModelOpt has no such format."""
    return worker(python, "trtllm_convert.py", "--model", model, "--tp-size", str(tp_size), "--output", checkpoint)


def generate(
    python: str,
    engine: str,
    model: str,
    prompt: str,
    max_tokens: int,
    ignore_eos: bool = False,
    tp_size: int = 1,
    block_reuse: bool = True,
) -> list[str]:
    """Continue a prompt, a JSON line for each piece of text.

    Args:
        block_reuse: False for an engine without paged context FMHA, which cannot use a KV block again.
    """
    words = worker(python, "trtllm_generate.py", "--engine", engine, "--tokenizer", model, "--prompt", prompt)
    words += ["--max-tokens", str(max_tokens), "--tp-size", str(tp_size), "--kv-share", str(KV_SHARE)]
    words += [] if block_reuse else ["--no-block-reuse"]
    return [*words, "--ignore-eos"] if ignore_eos else words


def score(python: str, engine: str, model: str, held_out: str, scores: str, tp_size: int = 1) -> list[str]:
    """Negative log-likelihood of every held-out token, with an engine that keeps context logits."""
    words = worker(python, "trtllm_score.py", "--engine", engine, "--tokenizer", model, "--held-out", held_out)
    return [*words, "--tp-size", str(tp_size), "--output", scores]


def batch(
    python: str, engine: str, model: str, held_out: str, load: Load, blocks: int, block: int, run: str, tp_size: int = 1
) -> list[str]:
    """Hand many requests to an engine at once, its KV cache held to a number of blocks.

    Args:
        held_out: file of texts; their beginnings are the prompts.
        blocks: of the KV cache.
        block: tokens in one.
        run: folder to write ``run.json`` into.
    """
    words = worker(python, "trtllm_batch.py", "--engine", engine, "--tokenizer", model, "--held-out", held_out)
    words += ["--blocks", str(blocks), "--tokens-per-block", str(block), "--tp-size", str(tp_size)]
    return [*words, *load.options(), "--output", run]


def inspect(python: str, engine: str, counts: str) -> list[str]:
    """Count the operations of a built engine."""
    return worker(python, "trtllm_inspect.py", "--engine", engine, "--output", counts)
