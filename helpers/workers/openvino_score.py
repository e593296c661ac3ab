"""Worker: negative log-likelihood of every held-out token under an engine's arithmetic (notebook 04)."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino_pipeline import KV_CACHE, PROPERTIES, add_kv_option

ROWS = 24  # texts of about equal length that go through the graph together
PIECE = 8  # tokens that go through it at a time where the KV cache matters


def batch(ids: list[list[int]]) -> list[np.ndarray]:
    """The graph's inputs for several texts, filled up at their ends: ids, mask, positions, and which row is which."""
    width = max(map(len, ids))
    tokens = np.zeros((len(ids), width), dtype=np.int64)
    mask = np.zeros_like(tokens)
    for row, text in enumerate(ids):
        tokens[row, : len(text)] = text
        mask[row, : len(text)] = 1
    positions = np.tile(np.arange(width, dtype=np.int64), (len(ids), 1))
    return [tokens, mask, positions, np.arange(len(ids), dtype=np.int32)]


def likelihoods(logits: np.ndarray, text: list[int]) -> np.ndarray:
    """Negative log-likelihood, in nats, of every token after the first; ``logits``: [>= tokens, vocabulary]."""
    taken = logits[: len(text) - 1].astype(np.float64)
    peak = taken.max(axis=1)
    return np.log(np.exp(taken - peak[:, None]).sum(axis=1)) + peak - taken[np.arange(len(text) - 1), text[1:]]


def logits_of(request: Any, inputs: list[np.ndarray], piece: int) -> np.ndarray:
    """The graph's logits, shape [rows, tokens, vocabulary], for inputs that go through it ``piece`` tokens at a time.

    Keys and values of earlier pieces are read back from the KV cache, as rounded as they are kept there; those of a
    text that goes through whole are not.
    """
    tokens, mask, positions, rows = inputs
    request.reset_state()
    found = []
    for start in range(0, tokens.shape[1], piece):
        part = slice(start, start + piece)
        request.infer([tokens[:, part], mask[:, : part.stop], positions[:, part], rows])
        found.append(request.get_output_tensor(0).data.copy())
    return np.concatenate(found, axis=1)


def main() -> None:
    """Compile the engine's graph once more, as a plain graph that returns logits, and feed it the texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True, help='JSON lines of {"text": ...}')
    add_kv_option(parser)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    from tokenizers import Tokenizer

    graph = arguments.engine / "graph"
    tokenizer = Tokenizer.from_file(str(graph / "tokenizer.json"))
    hint = {"INFERENCE_PRECISION_HINT": PROPERTIES["INFERENCE_PRECISION_HINT"]}
    properties = {**hint, "KV_CACHE_PRECISION": arguments.kv_cache}
    request = ov.Core().compile_model(graph / "openvino_model.xml", "CPU", properties).create_infer_request()
    lines = arguments.held_out.read_text().splitlines()
    ids = [tokenizer.encode(json.loads(line)["text"]).ids for line in lines if line.strip()]
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(order), ROWS):
        print(f"@progress {start}/{len(order)} perplexity on held-out text", flush=True)
        chosen = order[start : start + ROWS]
        inputs = batch([ids[number] for number in chosen])
        logits = logits_of(request, inputs, inputs[0].shape[1] if arguments.kv_cache == KV_CACHE else PIECE)
        for row, number in enumerate(chosen):
            found[number] = likelihoods(logits[row], ids[number])
    arguments.output.mkdir(parents=True, exist_ok=True)
    np.save(arguments.output / "nll.npy", np.concatenate([found[i] for i in range(len(ids))]).astype(np.float32))


if __name__ == "__main__":
    main()
