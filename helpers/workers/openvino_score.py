"""Worker: negative log-likelihood of every held-out token under an engine's arithmetic (notebook 04)."""

import argparse
import json
from pathlib import Path

import numpy as np
import openvino as ov
from openvino_pipeline import PROPERTIES

ROWS = 24  # texts of about equal length that go through the graph together


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


def main() -> None:
    """Compile the engine's graph once more, as a plain graph that returns logits, and feed it the texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True, help='JSON lines of {"text": ...}')
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    from tokenizers import Tokenizer

    graph = arguments.engine / "graph"
    tokenizer = Tokenizer.from_file(str(graph / "tokenizer.json"))
    hint = {"INFERENCE_PRECISION_HINT": PROPERTIES["INFERENCE_PRECISION_HINT"]}
    request = ov.Core().compile_model(graph / "openvino_model.xml", "CPU", hint).create_infer_request()
    lines = arguments.held_out.read_text().splitlines()
    ids = [tokenizer.encode(json.loads(line)["text"]).ids for line in lines if line.strip()]
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(order), ROWS):
        print(f"@progress {start}/{len(order)} perplexity on held-out text", flush=True)
        chosen = order[start : start + ROWS]
        request.reset_state()
        request.infer(batch([ids[number] for number in chosen]))
        logits = request.get_output_tensor(0).data
        for row, number in enumerate(chosen):
            found[number] = likelihoods(logits[row], ids[number])
    arguments.output.mkdir(parents=True, exist_ok=True)
    np.save(arguments.output / "nll.npy", np.concatenate([found[i] for i in range(len(ids))]).astype(np.float32))


if __name__ == "__main__":
    main()
