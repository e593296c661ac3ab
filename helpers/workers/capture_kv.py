"""Worker: run text through a model and keep what its KV cache then holds: the keys and values of every layer.

The keys are those after their rotary position embedding (RoPE), which is what the cache of every engine here holds.
Runs where ``modelopt_checkpoint.py`` beside it does, and loads the model as that does (notebook 05).

Writes ``kv.safetensors`` into the output folder: ``layer{n}.key`` and ``layer{n}.value``, each FP16
[tokens, kv_heads, head_size]. Every text starts from an empty cache; the tokens of all texts stand one after another.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from modelopt_checkpoint import load, progress, read_texts  # type: ignore[import-not-found]

LONGEST = 2048  # tokens of one text; attention over a longer one would need memory that this task does not deserve


def token_rows(tokenizer: Any, texts: list[str], tokens: int) -> list[list[int]]:
    """Token ids of the first texts, one row each, ``tokens`` in all; the last row is cut to fit."""
    rows: list[list[int]] = []
    left = tokens
    for text in texts:
        row = tokenizer(text)["input_ids"][: min(left, LONGEST)]
        if row:
            rows.append(row)
            left -= len(row)
        if not left:
            break
    return rows


def cached(model: Any, row: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Keys and values of each layer after one row of tokens, each FP16 [tokens, kv_heads, head_size]."""
    import torch

    with torch.inference_mode():
        # The model without its head: the cache needs no prediction.
        cache = model.model(input_ids=torch.tensor([row], device=model.device), use_cache=True).past_key_values
    layers = [cache[number] for number in range(model.config.num_hidden_layers)]
    # The cache holds [batch, kv_heads, tokens, head_size].
    return [tuple(part[0].transpose(0, 1).cpu().numpy().astype(np.float16) for part in layer[:2]) for layer in layers]


def main() -> None:
    """Load, run every row, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of Hugging Face weights")
    parser.add_argument("--texts", type=Path, required=True, help='JSON lines of {"text": ...}')
    parser.add_argument("--tokens", type=int, required=True, help="how many tokens to keep")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    progress(0, 1, "importing torch")
    sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]  # else transformers imports it, for nothing done here
    from safetensors.numpy import save_file
    from transformers import AutoTokenizer

    rows = token_rows(AutoTokenizer.from_pretrained(arguments.model), read_texts(arguments.texts), arguments.tokens)
    if not rows:
        raise SystemExit(f"error: {arguments.texts.name} holds no text, so there is nothing to run")
    model = load(arguments.model)
    kept = []
    for number, row in enumerate(rows):
        progress(number, len(rows), "keys and values of held-out text")
        kept.append(cached(model, row))
    tensors = {}
    for layer in range(len(kept[0])):
        for place, part in enumerate(("key", "value")):
            tensors[f"layer{layer}.{part}"] = np.concatenate([row[layer][place] for row in kept])
    bad = [name for name, values in tensors.items() if not np.isfinite(values).all()]
    if bad:
        raise SystemExit(f"error: {', '.join(bad[:3])} overflowed FP16, so no cache of 16 bits can hold them")
    save_file(tensors, arguments.output / "kv.safetensors")
    (arguments.output / "texts.json").write_text(json.dumps({"tokens of each text": [len(row) for row in rows]}))


if __name__ == "__main__":
    main()
