"""The CPU toolchain's commands that a recipe's plan shows, as data: nothing here starts anything (notebook 07)."""

import math
from pathlib import Path

from helpers import checkpoint
from helpers.toolchains.choices import CHECKPOINTS
from helpers.toolchains.serving import ServeOptions

KV: dict[str | None, str] = {None: "f16", "int8": "u8", "fp8": "f8e4m3"}
"""What OpenVINO calls each precision of a KV cache."""

TOKENS_PER_BLOCK = 32
"""Of the KV cache; fixed for the CPU (openvino.genai's continuous batching pipeline)."""

WORKERS = Path(__file__).parents[2] / "workers"


def export(program: str, model: str, graph: str) -> list[str]:
    """``optimum-cli``: Hugging Face weights to a graph with FP16 weights.

    Args:
        program: ``optimum-cli``, or its path.
        model: folder of the Hugging Face model.
        graph: folder to write.
    """
    words = [program, "export", "openvino", "--model", model, "--task", "text-generation-with-past"]
    return [*words, "--weight-format", "fp16", graph]


def build(python: str, graph: str, precision: str, kv: str | None, calibration_texts: int, engine: str) -> list[str]:
    """Quantize a graph where that is asked for, and compile it.

    Args:
        python: path or name of the Python that runs it.
        graph: from :func:`export`.
        precision: the engine's.
        kv: of the KV cache: None for 16 bits, ``int8``.
        calibration_texts: how many of the calibration texts are looked at.
        engine: folder to write.
    """
    words = [python, str(WORKERS / "openvino_build.py"), "--graph", graph, "--precision", precision]
    words += ["--kv-cache", KV[kv]]
    texts = checkpoint.texts_used(CHECKPOINTS[precision], None, calibration_texts)
    words += ["--calibration", str(checkpoint.CALIBRATION), "--calibration-texts", str(texts)] if texts else []
    return [*words, "--output", engine]


def request_blocks(options: ServeOptions) -> int:
    """Blocks of the KV cache that one request of full length takes."""
    return math.ceil(options.sizes.max_seq_len / TOKENS_PER_BLOCK)


def blocks(options: ServeOptions) -> int:
    """Blocks of a server's KV cache: as many tokens as were asked for, else a full batch at full length."""
    if options.kv_tokens is not None:
        return options.kv_tokens // TOKENS_PER_BLOCK
    return options.sizes.max_batch_size * request_blocks(options)


def serve(python: str, engine: str, kv: str | None, options: ServeOptions) -> list[str]:
    """The CPU server in front of an engine.

    Args:
        python: path or name of the Python that runs it, in the repository's folder.
        engine: its folder; the last part is the name that requests give the model.
        kv: the KV cache's precision, which the engine was built with.
        options: what the server is told.
    """
    sizes = options.sizes
    words = [python, "-m", "helpers.serving.app", "--engine", engine, "--model-name", Path(engine).name]
    words += ["--host", options.host, "--port", str(options.port)]
    words += ["--max-batch-size", str(sizes.max_batch_size), "--max-num-tokens", str(sizes.max_num_tokens)]
    words += ["--max-input-len", str(sizes.max_input_len), "--max-seq-len", str(sizes.max_seq_len)]
    words += ["--kv-blocks", str(blocks(options))]
    words += ["--max-queue", str(options.max_queue), "--kv-cache", KV[kv]]
    return [*words, "--chunked-prefill"] if options.chunked_prefill else words
