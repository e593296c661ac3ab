"""The commands of TensorRT-LLM's PyTorch back end, as data: nothing here starts anything (notebook 10).

There is none that builds. ``tests/contract`` checks the others against ``data/contract``.
"""

from typing import Any

from helpers.memory import KV_SHARE
from helpers.toolchains.serving import LOCAL, PORT
from helpers.toolchains.sizes import Sizes
from helpers.toolchains.tensorrt_llm.commands import worker

BACKEND = "pytorch"
"""How every release's ``trtllm-serve`` spells it; it is the default, and said all the same."""


def cache_settings(kv: str | None, kv_share: float) -> dict[str, Any]:
    """What ``KvCacheConfig`` is told: nothing of its type where the checkpoint says that.

    Args:
        kv: ``fp8``, or None for 16 bits. In 16 bits it is left to the checkpoint, which names no other.
        kv_share: of the free memory that becomes KV cache.
    """
    settings: dict[str, Any] = {"free_gpu_memory_fraction": kv_share}
    return {"dtype": kv, **settings} if kv else settings


def serve(
    program: str,
    model: str,
    sizes: Sizes,
    tp_size: int = 1,
    host: str = LOCAL,
    port: int = PORT,
    kv_share: float = KV_SHARE,
    settings: str | None = None,
) -> list[str]:
    """``trtllm-serve``: an OpenAI-compatible API in front of a Hugging Face folder.

    Args:
        program: ``trtllm-serve``.
        model: folder with ``config.json``, safetensors and tokenizer: the model's own, or a unified checkpoint.
        sizes: how much it takes at once; told here, where an engine was built for them.
        tp_size: number of GPUs; the weights are split when they are loaded.
        kv_share: of the free memory that becomes KV cache.
        settings: a YAML file with what no option says (:func:`serve_settings`).
    """
    command = [program, "serve", model, "--backend", BACKEND, "--host", host, "--port", str(port)]
    command += ["--tp_size", str(tp_size), "--max_batch_size", str(sizes.max_batch_size)]
    command += ["--max_num_tokens", str(sizes.max_num_tokens), "--max_seq_len", str(sizes.max_seq_len)]
    command += ["--kv_cache_free_gpu_memory_fraction", str(kv_share)]
    return [*command, "--extra_llm_api_options", settings] if settings else command


def serve_settings(kv: str | None, kv_share: float, chunked_prefill: bool) -> dict[str, Any]:
    """What ``trtllm-serve`` reads from a file, because no option of both releases says it.

    Args:
        kv: of the KV cache: ``fp8``, or None for 16 bits.
        kv_share: of the free memory; the file's ``kv_cache_config`` replaces the option's.
        chunked_prefill: read long prompts in chunks.
    """
    settings: dict[str, Any] = {"enable_iter_perf_stats": True}  # without it /metrics tells nothing in this back end
    settings |= {"enable_chunked_prefill": True} if chunked_prefill else {}
    return {**settings, "kv_cache_config": cache_settings(kv, kv_share)} if kv else settings


def generate(
    python: str,
    model: str,
    prompt: str,
    sizes: Sizes,
    max_tokens: int,
    ignore_eos: bool = False,
    tp_size: int = 1,
    kv: str | None = None,
) -> list[str]:
    """Continue a prompt, a JSON line for each piece of text.

    Args:
        model: a Hugging Face folder, as for :func:`serve`.
        sizes: how much the program makes room for.
        kv: of the KV cache: ``fp8``, or None for what the checkpoint says, else 16 bits.
    """
    words = worker(python, "trtllm_pytorch_generate.py", "--model", model, "--prompt", prompt)
    words += ["--max-tokens", str(max_tokens), "--tp-size", str(tp_size), "--kv-share", str(KV_SHARE)]
    words += ["--kv-dtype", kv] if kv else []
    words += ["--max-batch-size", str(sizes.max_batch_size), "--max-num-tokens", str(sizes.max_num_tokens)]
    words += ["--max-seq-len", str(sizes.max_seq_len)]
    return [*words, "--ignore-eos"] if ignore_eos else words
