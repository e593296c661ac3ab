"""TensorRT-LLM checkpoints: making them with NVIDIA's ModelOpt, and looking inside.

A checkpoint is ``config.json`` and one ``rank{N}.safetensors`` for each GPU that will hold a part: the very input of
``trtllm-build``. It is the same on every machine; one made on a laptop can be copied to a pod and built there
(notebooks 03 and 04).
"""

import json
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from helpers import stage, workspace
from helpers.cards import Table, bytes_text
from helpers.errors import WorkshopError
from helpers.models import Model
from helpers.workspace import DATA, Artifact

PROMPT = "Born in north-east France, Soyer trained as a"
CALIBRATION = DATA / "calibration" / "train.jsonl"
HELD_OUT = DATA / "heldout.jsonl"
TITLES = {
    "fp16": "FP16",
    "fp8": "FP8 (E4M3)",
    "int8_sq": "INT8 SmoothQuant",
    "int4_awq": "INT4 AWQ",
}
# AWQ tries every scaling for each row of text; NVIDIA's own quantize.py allows it 32 texts at most.
_AWQ_TEXTS = 16
_WORKER = Path(__file__).with_name("workers") / "modelopt_checkpoint.py"


@dataclass(frozen=True, repr=False)
class Checkpoint(Artifact):
    """A published TensorRT-LLM checkpoint with what was measured while it was made."""

    @property
    def precision(self) -> str:
        """``fp16``, ``fp8``, ``int8_sq`` or ``int4_awq``."""
        return str(self.manifest.options["precision"])

    @property
    def title(self) -> str:
        """The precision as a person writes it."""
        return TITLES[self.precision]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The checkpoint's ``config.json``."""
        return dict(json.loads((self.path / "config.json").read_text()))

    @property
    def ranks(self) -> list[Path]:
        """The safetensors file of each rank, in order."""
        return sorted(self.path.glob("rank*.safetensors"), key=lambda file: int(file.stem.removeprefix("rank")))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all rank files together."""
        return sum(file.stat().st_size for file in self.ranks)

    @cached_property
    def nll(self) -> Any:
        """Negative log-likelihood (nats) of each held-out token under the quantizer's arithmetic; shape [tokens]."""
        import numpy as np

        return np.load(self.path / "measured" / "nll.npy")

    @cached_property
    def text(self) -> str:
        """The prompt and its greedy continuation under the quantizer's arithmetic."""
        return str(json.loads((self.path / "measured" / "text.json").read_text())["text"])

    @cached_property
    def ranges(self) -> list[dict[str, Any]]:
        """What calibration found: module, quantizer (input, weight, k_bmm, v_bmm), amax, scaling factor."""
        return list(json.loads((self.path / "measured" / "ranges.json").read_text()))


def make(
    model: Model,
    precision: str = "fp16",
    kv: str | None = None,
    tp_size: int = 1,
    calibration_texts: int = 128,
) -> Checkpoint:
    """Convert a model to a TensorRT-LLM checkpoint, quantizing it on the way where asked to.

    Args:
        model: from :func:`helpers.models.find`.
        precision: ``fp16``, ``fp8`` (weights and activations), ``int8_sq`` (SmoothQuant), ``int4_awq`` (weights).
        kv: ``"fp8"`` to quantize the KV cache too; None leaves it at 16 bits.
        tp_size: number of ranks (GPUs) to split the weights over; must divide both kinds of heads.
        calibration_texts: how many of the calibration texts to look at (INT4 AWQ: 16 at most).

    Raises:
        WorkshopError: a precision or split that this model does not allow, or a failed stage.
    """
    _check_precision(precision, kv)
    _check_split(model, tp_size)
    workspace.require_memory(5 * model.bytes, f"quantizing {model.name}")  # 32-bit weights, twice, and room to work
    name = "-".join([precision, *(["kv-" + kv] if kv else []), f"tp{tp_size}"])
    calibrated = precision != "fp16"
    if precision == "int4_awq":
        calibration_texts = min(calibration_texts, _AWQ_TEXTS)
    inputs = {"model": model.digest, "held-out text": workspace.digest(HELD_OUT), "worker": workspace.digest(_WORKER)}
    if calibrated:
        inputs["calibration"] = workspace.digest(CALIBRATION)
    command = [sys.executable, str(_WORKER), "--model", str(model.path), "--precision", precision]
    command += ["--kv-cache", kv] if kv else []
    if calibrated:
        command += ["--calibration", str(CALIBRATION), "--calibration-texts", str(calibration_texts)]
    command += ["--tp-size", str(tp_size), "--held-out", str(HELD_OUT), "--prompt", PROMPT, "--output", "{out}"]
    kv_title = f", KV cache {kv.upper()}" if kv else ""
    ranks_title = f", {tp_size} ranks" if tp_size > 1 else ""
    made = stage.run(
        stage.Stage(
            title=f"TensorRT-LLM checkpoint of {model.name}, {TITLES[precision]}{kv_title}{ranks_title}",
            kind="checkpoint",
            command=command,
            target=workspace.home() / "checkpoints" / model.folder / name,
            options={
                "precision": precision,
                "kv": kv or "",
                "tp_size": tp_size,
                "calibration_texts": calibration_texts if calibrated else 0,
            },
            inputs=inputs,
            maker={name: version(name) for name in ("nvidia-modelopt", "torch", "transformers")},
            # A GPU that happens to be there is left alone: calibration is part of the notebooks' own environment.
            environment={"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"},
            expected=["config.json", *(f"rank{rank}.safetensors" for rank in range(tp_size)), "measured/nll.npy"],
            space=3 * model.bytes,
        )
    )
    return Checkpoint(made.path, made.manifest, made.reused, made.log)


def _check_precision(precision: str, kv: str | None) -> None:
    if precision not in TITLES:
        raise WorkshopError(
            f"There is no precision {precision!r} for a checkpoint. Choose one of {', '.join(map(repr, TITLES))}."
        )
    if kv not in (None, "fp8"):
        raise WorkshopError(f"The KV cache cannot be {kv!r} here. Choose 'fp8', or None for 16 bits.")
    if kv and precision != "fp8":
        raise WorkshopError(
            f"An FP8 KV cache goes with FP8 weights here, not with {TITLES[precision]}: with other weights "
            "TensorRT-LLM gives up FP8 attention and block reuse. Use precision='fp8', or kv=None."
        )


def _check_split(model: Model, tp_size: int) -> None:
    heads, kv_heads = model.heads
    possible = [n for n in range(1, kv_heads + 1) if heads % n == 0 and kv_heads % n == 0]
    if tp_size not in possible:
        raise WorkshopError(
            f"{model.name} cannot be split over {tp_size} ranks: it has {heads} heads and {kv_heads} key-value heads, "
            f"and each rank needs a whole share of both. Choose tp_size from {possible}."
        )


def tensors(checkpoint: Checkpoint, rank: int = 0) -> list[tuple[str, str, tuple[int, ...], int]]:
    """Every tensor in one rank's file: (name, type, shape, bytes), in the order of the layers."""
    from safetensors import safe_open

    sizes = {"F8_E4M3": 1, "I8": 1, "U8": 1, "F16": 2, "BF16": 2, "F32": 4, "I32": 4}
    rows = []
    with safe_open(checkpoint.ranks[rank], framework="np") as file:
        for name in sorted(file.keys(), key=_layer_order):
            part = file.get_slice(name)
            shape, kind = tuple(part.get_shape()), part.get_dtype()
            count = 1
            for extent in shape:
                count *= extent
            rows.append((name, kind, shape, count * sizes[kind]))
    return rows


def _layer_order(name: str) -> tuple[int, int, str]:
    """Embedding first, then the layers by number, then the rest."""
    parts = name.split(".")
    if "layers" in parts:
        return (1, int(parts[parts.index("layers") + 1]), name)
    return (0 if "embedding" in name else 2, 0, name)


def inside(checkpoint: Checkpoint, layer: int = 0, rank: int = 0) -> Table:
    """What one rank's file holds: the tensors outside the layers, and those of one layer."""
    mark = f"transformer.layers.{layer}."
    rows = [
        [name, kind, " × ".join(map(str, shape)), f"{size:,}"]
        for name, kind, shape, size in tensors(checkpoint, rank)
        if ".layers." not in name or name.startswith(mark)
    ]
    layers = checkpoint.config["num_hidden_layers"]
    return Table(
        ["tensor", "type", "shape", "bytes"],
        rows,
        caption=f"{checkpoint.ranks[rank].name} of the {checkpoint.title} checkpoint",
        note=f"Layer {layer} stands for all {layers}. The file: {bytes_text(checkpoint.ranks[rank].stat().st_size)}.",
    )


def settings(checkpoint: Checkpoint) -> Table:
    """The parts of ``config.json`` that ``trtllm-build`` decides by."""
    config = checkpoint.config
    wanted = ["producer", "architecture", "dtype", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
    wanted += ["hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings", "mapping", "quantization"]
    rows = [[key, json.dumps(config[key]) if isinstance(config[key], dict) else config[key]] for key in wanted]
    return Table(["key", "value"], rows, caption=f"config.json of the {checkpoint.title} checkpoint")


def sizes(*checkpoints: Checkpoint) -> Table:
    """Bytes of weights of several checkpoints, each against the first."""
    first = checkpoints[0].weight_bytes
    rows = [[c.title, f"{c.weight_bytes:,}", f"{c.weight_bytes / first:.3f}"] for c in checkpoints]
    return Table(
        ["checkpoint", "bytes", f"share of {checkpoints[0].title}"], rows, caption="Checkpoints, measured on disk"
    )


def scaling_factors(checkpoint: Checkpoint, layer: int = 0) -> Table:
    """The scaling factors that the checkpoint stores for one layer: amounts by which stored values are multiplied.

    Raises:
        WorkshopError: the checkpoint is not quantized per tensor, so it has no such factors.
    """
    from safetensors import safe_open

    rows = []
    with safe_open(checkpoint.ranks[0], framework="np") as file:
        for name in sorted(file.keys()):
            if f".layers.{layer}." in name and name.endswith("scaling_factor"):
                value = file.get_tensor(name)
                if value.size == 1:
                    rows.append([name.split(f".layers.{layer}.")[1], f"{float(value.ravel()[0]):.6f}"])
    if not rows:
        raise WorkshopError(
            f"The {checkpoint.title} checkpoint has no per-tensor scaling factors; look at an FP8 one instead."
        )
    return Table(["scaling factor", "value"], rows, caption=f"Layer {layer} of the {checkpoint.title} checkpoint")


def written(*checkpoints: Checkpoint) -> Table:
    """The greedy continuation that each wrote under the quantizer's arithmetic, before any engine existed."""
    rows = [[c.title, c.text.removeprefix(PROMPT).strip()] for c in checkpoints]
    return Table(["checkpoint", "text"], rows, caption=f"Prompt: {PROMPT}")
