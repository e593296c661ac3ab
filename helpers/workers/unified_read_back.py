"""Worker: perplexity of a unified Hugging Face checkpoint, read back from its files without ModelOpt (notebook 10).

The stored weights are multiplied out again, and inputs, keys and values are rounded with the stored scales in plain
torch: what a back end that loads the checkpoint would compute, up to the order of its sums. Imports nothing of
``helpers``; runs on the Python that made the checkpoint, on a CPU or a GPU. Writes ``nll.npy``.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from modelopt_checkpoint import progress, read_texts, score  # type: ignore[import-not-found]

LARGEST = 448.0  # of E4M3


def tensors(folder: Path) -> dict[str, Any]:
    """Every tensor of the folder's safetensors files, by name."""
    from safetensors.torch import load_file

    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def unpacked(packed: Any, scale: Any) -> Any:
    """INT4 weights multiplied out; ``packed`` [rows / 2, columns], two rows in a byte, ``scale`` [rows, groups]."""
    import torch

    low, high = packed.to(torch.int16) & 15, packed.to(torch.int16) >> 4
    both = torch.stack([low, high], 1).reshape(-1, packed.shape[1])
    signed = torch.where(both > 7, both - 16, both).float()
    return signed * scale.float().repeat_interleave(packed.shape[1] // scale.shape[1], 1)


def multiplied_out(stored: dict[str, Any]) -> dict[str, Any]:
    """The weights as a model without quantization takes them, in 32 bits."""
    import torch

    found = {}
    for name, tensor in stored.items():
        if name.endswith("scale"):
            continue
        scale = stored.get(f"{name}_scale")
        if scale is None:
            found[name] = tensor.float()
        else:
            found[name] = unpacked(tensor, scale) if tensor.dtype == torch.uint8 else tensor.float() * scale
    return found


def rounded(values: Any, scale: Any) -> Any:
    """To the nearest number of E4M3 times ``scale``; what is too large becomes the largest."""
    import torch

    return (values / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).to(values.dtype) * scale


def round_inputs(model: Any, stored: dict[str, Any]) -> None:
    """Let every linear layer treat its inputs as the checkpoint says: smoothed (AWQ), or rounded (FP8)."""
    for name, module in model.named_modules():
        scale, smooth = stored.get(f"{name}.input_scale"), stored.get(f"{name}.pre_quant_scale")
        if scale is not None:
            module.register_forward_pre_hook(lambda _, given, scale=scale: (rounded(given[0], scale), *given[1:]))
        if smooth is not None:
            smooth = smooth.float()
            module.register_forward_pre_hook(lambda _, given, by=smooth: (given[0] * by, *given[1:]))


def round_cache(model: Any, stored: dict[str, Any]) -> None:
    """Let the KV cache hold what E4M3 can, with the stored scales; keys after their rotation."""
    from transformers import DynamicCache

    class Rounding(DynamicCache):
        def update(self, keys: Any, values: Any, layer: int, *more: Any, **named: Any) -> Any:
            place = f"model.layers.{layer}.self_attn"
            keys = rounded(keys, stored[f"{place}.k_proj.k_scale"])
            values = rounded(values, stored[f"{place}.v_proj.v_scale"])
            return super().update(keys, values, layer, *more, **named)

    plain = model.forward
    model.forward = lambda **given: plain(**{"past_key_values": Rounding(), "use_cache": True, **given})


def main() -> None:
    """Load the files, put a model together from them, and score it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the unified checkpoint")
    parser.add_argument("--held-out", type=Path, required=True, help='JSON lines of {"text": ...}')
    parser.add_argument("--texts", type=int, required=True, help="how many of them, from the first on")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    progress(0, 1, "importing torch")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(arguments.checkpoint)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the scales are applied here, by hand
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stored = {name: tensor.to(device) for name, tensor in tensors(arguments.checkpoint).items()}
    model = AutoModelForCausalLM.from_config(config).float().eval().to(device)
    missing = model.load_state_dict(multiplied_out(stored), strict=False)
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if config.tie_word_embeddings else set()
    if missing.unexpected_keys or set(missing.missing_keys) - tied:
        names = [*missing.unexpected_keys, *missing.missing_keys][:3]
        raise SystemExit(f"error: the checkpoint's tensors are not those of its model: {', '.join(names)}")
    round_inputs(model, stored)
    if json.loads((arguments.checkpoint / "hf_quant_config.json").read_text())["quantization"]["kv_cache_quant_algo"]:
        round_cache(model, stored)
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    np.save(arguments.output / "nll.npy", score(model, tokenizer, read_texts(arguments.held_out)[: arguments.texts]))


if __name__ == "__main__":
    main()
