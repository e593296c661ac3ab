"""Worker: write a model that computes the same as another, but whose keys have outlier channels.

In every layer it multiplies a few output channels of ``k_proj`` by a power of two, and divides the same channels of
every ``q_proj`` head that reads them by it. A query times a key, summed over channels, stays what it was. RoPE rotates
channels in pairs, i and i + head_size / 2 in this layout, so both of a pair get the same factor (notebook 05).

A power of two changes only the exponent, so nothing is rounded, except where a weight of ``q_proj`` becomes smaller
than its type's smallest normal number. How much that is stands in ``outliers.json``.
"""

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

KEPT = ("*.json", "tokenizer.model", "*.jinja")
NOT_KEPT = ("manifest.json", "outliers.json")
PROJECTION = re.compile(r"model\.layers\.\d+\.self_attn\.([qk])_proj\.(weight|bias)")
# Relative error of a whole matrix above which the two models would not be the same: FP16's own rounding.
MOST_LOST = 2.0**-11


def outlier_channels(head_size: int, count: int) -> list[int]:
    """The channels of each head that get the factor: the pairs that RoPE rotates slowest, ``count`` channels in all.

    Slow ones, because a fast pair would move between its two channels from token to token, and large models' outliers
    stay in their channels.
    """
    half = head_size // 2
    return [i + offset for offset in (0, half) for i in range(half - count // 2, half)]


def scaled(weight: Any, channels: list[int], head_size: int, factor: float) -> tuple[Any, float]:
    """A projection with some output channels of each head multiplied, and its relative error (RMS) from rounding.

    Args:
        weight: [heads * head_size, hidden].
        channels: positions within a head.
        head_size: channels of a head.
        factor: a power of two.
    """
    import torch

    exact = weight.double().reshape(-1, head_size, weight.shape[1]).clone()
    exact[:, channels] *= factor
    exact = exact.reshape(weight.shape)
    stored = exact.to(weight.dtype)
    if not torch.isfinite(stored).all():
        raise SystemExit(f"error: a factor of {factor:g} overflows {weight.dtype}; use a smaller one")
    # Compared row by row, or the large channels would hide what the small ones lost.
    lost = (stored.double() - exact).norm(dim=1) / exact.norm(dim=1).clamp(min=1e-300)
    return stored, float(lost.max())


def rewrite(file: Path, target: Path, channels: list[int], head_size: int, times: int) -> float:
    """Write one file of weights with its projections scaled; returns the largest relative error of a row."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    tensors, lost = {}, 0.0
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - a safetensors handle is not a dict
            tensors[name] = opened.get_tensor(name)
            found = PROJECTION.fullmatch(name)
            if found is None:
                continue
            if found[2] == "bias" or not tensors[name].is_floating_point():
                raise SystemExit(f"error: {name} is a bias or quantized; only plain 16- or 32-bit weights will do")
            factor = times if found[1] == "k" else 1 / times
            tensors[name], error = scaled(tensors[name], channels, head_size, factor)
            lost = max(lost, error)
    # One entry of metadata only: safetensors writes several in an order that changes from process to process. The same
    # model would have another digest each time, and no checkpoint of it could be taken from another machine.
    save_file(tensors, target, metadata={"format": "pt"})
    return lost


def main() -> None:
    """Copy settings and tokenizer, rewrite each file of weights, and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of Hugging Face weights")
    parser.add_argument("--times", type=int, required=True, help="the factor, a power of two")
    parser.add_argument("--channels", type=int, required=True, help="how many channels of each key head, even")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    config = json.loads((arguments.model / "config.json").read_text())
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    chosen = outlier_channels(head_size, arguments.channels)
    for file in sorted(file for pattern in KEPT for file in arguments.model.glob(pattern)):
        if file.name not in NOT_KEPT:
            shutil.copyfile(file, arguments.output / file.name)
    files = sorted(arguments.model.glob("*.safetensors"))
    lost = 0.0
    for number, file in enumerate(files):
        print(f"@progress {number}/{len(files)} scaling {file.name}", flush=True)
        lost = max(lost, rewrite(file, arguments.output / file.name, chosen, head_size, arguments.times))
    if lost > MOST_LOST:
        raise SystemExit(
            f"error: divided by {arguments.times}, the queries' weights lose {lost:.2g} of themselves to rounding, "
            f"more than 16 bits lose anyway ({MOST_LOST:.2g}); use a smaller factor"
        )
    told = {"times": arguments.times, "channels of each head": chosen, "largest rounding of a row": lost}
    (arguments.output / "outliers.json").write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
