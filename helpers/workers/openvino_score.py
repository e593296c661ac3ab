"""Worker: negative log-likelihood of every held-out token under an engine's arithmetic (notebook 04)."""

import argparse
import json
from pathlib import Path

import numpy as np
import openvino as ov
from openvino_pipeline import PROPERTIES


def main() -> None:
    """Compile the engine's graph once more, as a plain graph that returns logits, and feed it the texts one by one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True, help='JSON lines of {"text": ...}')
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(arguments.engine / "graph" / "tokenizer.json"))
    end = json.loads((arguments.engine / "graph" / "config.json").read_text())["eos_token_id"]
    hint = {"INFERENCE_PRECISION_HINT": PROPERTIES["INFERENCE_PRECISION_HINT"]}
    request = (
        ov.Core().compile_model(arguments.engine / "graph" / "openvino_model.xml", "CPU", hint).create_infer_request()
    )
    texts = [json.loads(line)["text"] for line in arguments.held_out.read_text().splitlines() if line.strip()]
    parts = []
    for number, text in enumerate(texts):
        if number % 20 == 0:
            print(f"@progress {number}/{len(texts)} perplexity on held-out text", flush=True)
        row = np.array([[*tokenizer.encode(text).ids, end]], dtype=np.int64)
        positions = np.arange(row.shape[1], dtype=np.int64)[None]
        request.reset_state()
        request.infer([row, np.ones_like(row), positions, np.zeros(1, dtype=np.int32)])
        logits = request.get_output_tensor(0).data[0, :-1].astype(np.float64)
        peak = logits.max(axis=1, keepdims=True)
        likelihood = logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
        parts.append(-likelihood[np.arange(row.shape[1] - 1), row[0, 1:]])
    np.save(arguments.output / "nll.npy", np.concatenate(parts).astype(np.float32))


if __name__ == "__main__":
    main()
