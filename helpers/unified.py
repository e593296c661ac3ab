"""ModelOpt's unified Hugging Face checkpoint: what TensorRT-LLM's PyTorch back end loads (notebook 10).

The same quantizer, calibration texts and KV cache as :mod:`helpers.checkpoint`, and another packaging: the names and
the layout of a Hugging Face folder, quantized weights with their scales beside them, and ``hf_quant_config.json``. It
is made on every machine, and can be copied to a pod and served there: ``trtllm-serve serve FOLDER --backend pytorch``.
FP16 needs no export: the model's own folder is it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import checkpoint, stage, workspace
from helpers.cards import Card, Picture, Shown, Table, bytes_text
from helpers.checkpoint import KV_TITLES, TITLES, Checkpoint
from helpers.errors import WorkshopError
from helpers.models import Model
from helpers.workspace import Artifact, Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRECISIONS = ("fp16", "fp8", "int4_awq")
"""What the PyTorch back end has of the precisions that :mod:`helpers.checkpoint` writes."""

KIND = "unified checkpoint"
READ_BACK_TEXTS = 128
"""Held-out texts that :func:`read_back` looks at: rounding every input on a CPU takes its time."""

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a Llama's layer, by their names in a Hugging Face model."""

_READER = "unified_read_back.py"
_WORKERS = Path(__file__).with_name("workers")


@dataclass(frozen=True)
class Scale:
    """What is stored beside the weights of one linear layer.

    Attributes:
        weight: stored weights times this are the weights; the largest, where there is one for each group (INT4).
        input: the same for its inputs; None where these stay at 16 bits.
        cache: of the keys (``k_proj``) or values (``v_proj``) in a KV cache; None for another layer or 16 bits.
        smoothed: inputs are multiplied by a scale a channel first (AWQ); where they come from a norm, that one does it.
    """

    weight: float
    input: float | None = None
    cache: float | None = None
    smoothed: bool = False


@dataclass(frozen=True, repr=False)
class Unified(Artifact):
    """A Hugging Face folder that says itself how it is quantized; for FP16, the model's own folder."""

    @property
    def precision(self) -> str:
        """One of :data:`PRECISIONS`."""
        return str(self.manifest.options["precision"])

    @property
    def kv(self) -> str | None:
        """``fp8`` where it has scales for a KV cache in FP8."""
        return str(self.manifest.options["kv"]) or None

    @property
    def title(self) -> str:
        """The precision as a person writes it."""
        return TITLES[self.precision]

    @property
    def full_title(self) -> str:
        """The precisions of weights and KV cache, as a person writes them."""
        return checkpoint.full_title(self.title, self.kv)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The folder's ``config.json``."""
        return dict(json.loads((self.path / "config.json").read_text()))

    @cached_property
    def quantization(self) -> dict[str, Any]:
        """What ``hf_quant_config.json`` says of the quantization; empty for FP16."""
        file = self.path / "hf_quant_config.json"
        return dict(json.loads(file.read_text())["quantization"]) if file.exists() else {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of its safetensors files."""
        return sum(file.stat().st_size for file in self.path.glob("*.safetensors"))

    @cached_property
    def ranges(self) -> list[dict[str, Any]]:
        """What calibration found, as in :attr:`helpers.checkpoint.Checkpoint.ranges`; empty for FP16."""
        file = self.path / "measured" / "ranges.json"
        return list(json.loads(file.read_text())) if file.exists() else []

    @cached_property
    def scales(self) -> dict[str, Scale]:
        """Name of each quantized linear layer, such as ``model.layers.0.mlp.up_proj``, to its scales."""
        stored = _tensors(self.path, lambda name: name.endswith("scale"))

        def value(name: str) -> float | None:
            return float(stored[name].float().max()) if name in stored else None

        found = {}
        for name in sorted(stored, key=_order):
            place = name.removesuffix(".weight_scale")
            if place != name:
                cache = value(f"{place}.k_scale") or value(f"{place}.v_scale")
                weight = value(name)
                assert weight is not None
                found[place] = Scale(weight, value(f"{place}.input_scale"), cache, f"{place}.pre_quant_scale" in stored)
        return found

    @property
    def sizes(self) -> Table:
        """Bytes of its tensors, by type."""
        return _by_type(self)

    def card(self) -> Card:
        """What was made; for FP16, that nothing had to be."""
        if self.precision != "fp16":
            return super().card()
        facts = {"where": str(self.path), "weights": bytes_text(self.weight_bytes)}
        note = "FP16 needs no export: this Hugging Face folder is what TensorRT-LLM's PyTorch back end loads."
        return Card(f"{self.manifest.title}: nothing to do", facts, note)


def command(
    python: str,
    model: str,
    precision: str,
    kv: str | None,
    output: str,
    calibration_texts: int = checkpoint.CALIBRATION_TEXTS,
) -> list[str]:
    """The command that makes a unified checkpoint, as data: that of :func:`helpers.checkpoint.command`, repackaged.

    Args:
        python: path or name of the Python that runs it.
        model: folder of the Hugging Face weights.
        precision, kv, calibration_texts: see :func:`make`.
        output: folder to write.
    """
    words = checkpoint.command(python, model, precision, kv, 1, output, calibration_texts)
    only_there = ("--tp-size", "--held-out", "--prompt")  # of the other packaging
    kept = [
        w for w, before in zip(words, ["", *words], strict=False) if w not in only_there and before not in only_there
    ]
    return [*kept[:2], "--format", "hf", *kept[2:]]


def folder_name(precision: str, kv: str | None, calibration_texts: int = checkpoint.CALIBRATION_TEXTS) -> str:
    """The name of a unified checkpoint's folder, below that of its model; what a server calls it too."""
    return "-".join([precision, *(["kv-" + kv] if kv else [])]) + checkpoint.calibration_suffix(
        precision, kv, calibration_texts
    )


def make(
    model: Model,
    precision: str = "fp8",
    kv: str | None = None,
    calibration_texts: int = checkpoint.CALIBRATION_TEXTS,
    silent: bool = False,
) -> Unified:
    """Quantize a model and write it as a Hugging Face folder, as a stage; for FP16, the model's own folder.

    Args:
        model: from :func:`helpers.models.find`.
        precision: one of :data:`PRECISIONS`.
        kv: ``"fp8"`` for scales of a KV cache in FP8; None for 16 bits. Beside FP16 weights the cache needs none: the
            back end is told when it starts.
        calibration_texts: how many of the calibration texts to look at.
        silent: show nothing where it exists.

    Raises:
        WorkshopError: a precision or KV cache that the PyTorch back end does not have, or a failed stage.
    """
    _require(precision, kv)
    if precision == "fp16":
        title = f"{model.name}, {TITLES['fp16']}"
        return Unified(model.path, Manifest(KIND, title, _options(precision, None, 0)), reused=True)
    made = (stage.ensure if silent else stage.run)(_stage(model, precision, kv, calibration_texts))
    return Unified(made.path, made.manifest, made.reused, made.log)


def _options(precision: str, kv: str | None, texts: int) -> dict[str, Any]:
    return {"precision": precision, "kv": kv or "", "calibration_texts": texts}


def _require(precision: str, kv: str | None) -> None:
    """Refuse what TensorRT-LLM's PyTorch back end does not load.

    Raises:
        WorkshopError: names what there is.
    """
    if precision not in PRECISIONS:
        named = TITLES.get(precision, repr(precision))
        raise WorkshopError(
            f"There is no unified checkpoint in {named}: TensorRT-LLM's PyTorch back end has "
            f"{', '.join(TITLES[p] for p in PRECISIONS)}. Choose one of {', '.join(map(repr, PRECISIONS))}."
        )
    if kv not in (None, "fp8"):
        named = KV_TITLES.get(kv, repr(kv))
        raise WorkshopError(
            f"TensorRT-LLM's PyTorch back end has no KV cache in {named}. Choose 'fp8', or None for 16 bits."
        )


def _stage(model: Model, precision: str, kv: str | None, calibration_texts: int) -> stage.Stage:
    by = checkpoint.runner()
    if by.installation is None:
        workspace.require_memory(5 * model.bytes, f"quantizing {model.name}")
    kv_title = f", KV cache {kv.upper()}" if kv else ""
    texts = checkpoint.texts_used(precision, kv, calibration_texts)
    return stage.Stage(
        title=f"Unified Hugging Face checkpoint of {model.name}, {TITLES[precision]}{kv_title}",
        kind=KIND,
        command=command(by.python, str(model.path), precision, kv, "{out}", calibration_texts),
        target=workspace.home() / "unified" / model.folder / folder_name(precision, kv, calibration_texts),
        options=_options(precision, kv, texts),
        inputs={
            "model": model.digest,
            "worker": workspace.digest(_WORKERS / "modelopt_checkpoint.py"),
            "calibration": workspace.digest(checkpoint.CALIBRATION),
        },
        maker=by.maker,
        environment=by.environment,
        unset=by.unset,
        expected=["config.json", "hf_quant_config.json", "*.safetensors", "tokenizer*.json", "measured/ranges.json"],
        space=2 * model.bytes,
    )


def read_back(unified: Unified, texts: int = READ_BACK_TEXTS) -> "NDArray[Any]":
    """Negative log-likelihood (nats) of held-out tokens, computed from the files alone, as a stage; shape [tokens].

    Plain torch multiplies the stored weights out and rounds inputs, keys and values with the stored scales; ModelOpt
    has no part in it. The tokens are the first of those of :attr:`helpers.checkpoint.Checkpoint.nll`, in that order.

    Args:
        unified: from :func:`make`, and not in FP16: there the folder is the model itself.
        texts: how many held-out texts to read.

    Raises:
        WorkshopError: an FP16 checkpoint, or a failed stage.
    """
    import numpy as np

    _require_quantized(unified)
    by = checkpoint.runner()
    words = [by.python, str(_WORKERS / _READER), "--checkpoint", str(unified.path)]
    task = stage.Stage(
        title=f"Perplexity of the unified checkpoint with {unified.full_title}, read back from its files",
        kind="score",
        command=[*words, "--held-out", str(checkpoint.HELD_OUT), "--texts", str(texts), "--output", "{out}"],
        target=workspace.home() / "scores" / unified.path.parent.name / f"unified-{unified.path.name}",
        options={"texts": texts},
        inputs={
            "unified checkpoint": workspace.digest(*sorted(unified.path.glob("*.safetensors"))),
            "held-out text": workspace.digest(checkpoint.HELD_OUT),
            "worker": workspace.digest(_WORKERS / _READER),
        },
        maker=by.maker,
        environment=by.environment,
        unset=by.unset,
        expected=["nll.npy"],
    )
    found: NDArray[Any] = np.load(stage.run(task).path / "nll.npy")
    return found


def _require_quantized(unified: Unified) -> None:
    if not unified.quantization:
        raise WorkshopError(
            "An FP16 folder is the model itself, without scales: there is nothing to read back or to compare. Make one "
            "in 'fp8' or 'int4_awq'."
        )


# --- Looking inside -------------------------------------------------------------


def _tensors(folder: Path, wanted: Any = lambda name: True) -> dict[str, Any]:
    """Tensors of a folder's safetensors files by name, those whose names are ``wanted``."""
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is not a dict
                if wanted(name):
                    found[name] = tensors.get_tensor(name)
    return found


def _order(name: str) -> tuple[int, int, str]:
    """Layers by number, and within one in the order of :data:`MODULES`."""
    parts = name.split(".")
    layer = int(parts[parts.index("layers") + 1]) if "layers" in parts else -1
    module = next((number for number, one in enumerate(MODULES) if one in parts), -1)
    return layer, module, name


def _by_type(unified: Unified) -> Table:
    counted: dict[str, list[int]] = {}
    for tensor in _tensors(unified.path).values():
        kind = str(tensor.dtype).removeprefix("torch.")
        entry = counted.setdefault(kind, [0, 0])
        entry[0] += 1
        entry[1] += tensor.numel() * tensor.element_size()
    whole = sum(size for _, size in counted.values())
    rows = [
        [kind, number, f"{size:,}", f"{size / whole:.1%}"]
        for kind, (number, size) in sorted(counted.items(), key=lambda pair: -pair[1][1])
    ]
    caption = f"The unified checkpoint with {unified.full_title}, counted in its files"
    return Table(["type", "tensors", "bytes", "share"], rows, caption, f"Together {whole:,} bytes.")


def scale_table(unified: Unified, layer: int = 0) -> Table:
    """The scales of one layer's linear layers.

    Raises:
        WorkshopError: an FP16 folder, which has none.
    """
    _require_quantized(unified)
    mark = f"model.layers.{layer}."

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.6f}"

    rows = [
        [name.removeprefix(mark), shown(one.weight), shown(one.input), shown(one.cache)]
        for name, one in unified.scales.items()
        if name.startswith(mark)
    ]
    note = (
        "One of each for a whole matrix." if unified.precision == "fp8" else "weight_scale: the largest of its groups."
    )
    columns = ["linear layer", "weight_scale", "input_scale", "k_scale or v_scale"]
    return Table(columns, rows, f"Layer {layer} of the unified checkpoint with {unified.full_title}", note)


def settings(unified: Unified) -> Table:
    """What ``hf_quant_config.json`` tells the program that loads the folder.

    Raises:
        WorkshopError: an FP16 folder, which has none.
    """
    _require_quantized(unified)
    rows = [[key, json.dumps(value)] for key, value in unified.quantization.items()]
    return Table(["key", "value"], rows, f"hf_quant_config.json of the checkpoint with {unified.full_title}")


def sizes(*made: "Unified | Checkpoint") -> Table:
    """Bytes of weights in several checkpoints of either packaging, each against the first.

    Raises:
        WorkshopError: none was given.
    """
    if not made:
        raise WorkshopError("There is nothing to compare: give a unified checkpoint, or one of TensorRT-LLM, or both.")
    first = made[0].weight_bytes
    rows = [
        [
            "unified, Hugging Face" if isinstance(one, Unified) else "TensorRT-LLM",
            one.full_title,
            f"{one.weight_bytes:,}",
            f"{one.weight_bytes / first:.3f}",
        ]
        for one in made
    ]
    return Table(["packaging", "precisions", "bytes", "against the first"], rows, "Checkpoints, measured on disk")


# --- One quantization, two packagings ------------------------------------------

_FUSED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "attention.qkv"),
    "o_proj": "attention.dense",
    "gate_proj": "mlp.fc",
    "up_proj": "mlp.gate",
    "down_proj": "mlp.proj",
}
"""A linear layer of the Hugging Face model to the one of TensorRT-LLM's checkpoint that holds its weights."""

_LOADED_TOGETHER = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), ("q_proj", "k_proj", "v_proj")),
    **dict.fromkeys(("gate_proj", "up_proj"), ("gate_proj", "up_proj")),
}
"""Linear layers that the PyTorch back end multiplies as one: it lays them together, with the largest scale of them.

Read in tensorrt_llm/_torch/modules/linear.py, FP8QDQLinearMethod.load_weights_fused_qkv_linear and _gate_up_linear.
"""


@dataclass(frozen=True)
class Matched:
    """One linear layer in both packagings.

    Attributes:
        name: in the Hugging Face model.
        module: its last part, one of :data:`MODULES`.
        unified, checkpoint: the weights' scale in either; the largest of the groups for INT4.
        scales_equal: the scales are the same numbers (every group's, for INT4).
        inputs_equal: the inputs' scales are; None where neither has one.
        cache: scale of keys or values in either; None for other layers, or a cache of 16 bits.
        bytes_alike: share of the stored weights that are the same bytes.
        loaded_alike: the same share, once the weights were rounded a second time to the largest scale of the layers
            that are laid together, as the PyTorch back end does when it loads them; None where it does not (INT4).
    """

    name: str
    module: str
    unified: float
    checkpoint: float
    scales_equal: bool
    inputs_equal: bool | None
    cache: tuple[float, float] | None
    bytes_alike: float
    loaded_alike: float | None


@dataclass(frozen=True, repr=False)
class Packagings(Shown):
    """A unified checkpoint and one of TensorRT-LLM, linear layer by linear layer.

    Attributes:
        title: the precisions of both.
        rows: the linear layers, in order.
        same_ranges: calibration found the same ranges to the last digit in both runs; None where neither kept any.
        weight_bytes: of the unified checkpoint's files, and of the other's.
        smoothed_apart: TensorRT-LLM's checkpoint smooths the inputs of ``gate_proj`` and ``up_proj`` otherwise for each
            (AWQ); the unified one folds what it does to them into the norm before both, so it is one for both.
    """

    title: str
    rows: tuple[Matched, ...]
    same_ranges: bool | None
    weight_bytes: tuple[int, int]
    smoothed_apart: bool = False

    def of(self, module: str) -> list[Matched]:
        """The rows of one kind of linear layer, one a layer of the model."""
        return [row for row in self.rows if row.module == module]

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return len(self.of(MODULES[0]))

    @property
    def requantized(self) -> tuple[str, ...]:
        """The kinds of linear layers whose scales differ in some layer: TensorRT-LLM's packaging rounds them anew."""
        return tuple(module for module in MODULES if not all(row.scales_equal for row in self.of(module)))

    @property
    def largest_of_fused(self) -> bool:
        """Wherever layers are stored together in TensorRT-LLM's checkpoint, their scale is the largest of theirs."""
        return all(row.checkpoint >= row.unified for row in self.rows) and all(
            any(row.scales_equal for row in group) for group in self._groups()
        )

    def _groups(self) -> list[list[Matched]]:
        """Rows of linear layers that the PyTorch back end lays together, layer by layer."""
        found: dict[str, list[Matched]] = {}
        for row in self.rows:
            together = _LOADED_TOGETHER.get(row.module, (row.module,))
            found.setdefault(row.name.removesuffix(row.module) + together[0], []).append(row)
        return list(found.values())

    def table(self) -> Table:
        """One line a kind of linear layer, all layers of the model together."""
        rows = []
        for module in MODULES:
            found = self.of(module)
            ratios = [row.checkpoint / row.unified for row in found]
            inputs = [row.inputs_equal for row in found]
            loaded = [row.loaded_alike for row in found if row.loaded_alike is not None]
            rows.append(
                [
                    module,
                    _FUSED[module],
                    f"{sum(row.scales_equal for row in found)} of {len(found)}",
                    f"{max(ratios):.3f}",
                    "–" if None in inputs else f"{sum(map(bool, inputs))} of {len(found)}",
                    f"{_mean([row.bytes_alike for row in found]):.1%}",
                    f"{_mean(loaded):.1%}" if loaded else "–",
                ]
            )
        columns = ["unified", "TensorRT-LLM", "weight scales equal", "largest ratio", "input scales equal"]
        columns += ["stored bytes alike", "alike once loaded"]
        return Table(columns, rows, f"One quantization, two packagings: {self.title}", self.sentence)

    @property
    def sentence(self) -> str:
        """What the comparison found."""
        return " ".join(filter(None, [self._of_ranges(), self._of_scales(), self._of_bytes(), self._of_cache()]))

    def _of_ranges(self) -> str:
        if self.same_ranges is None:
            return ""
        if self.same_ranges:
            return "Calibration found the same ranges to the last digit: it is one quantization."
        return "Calibration found different ranges, so these are two quantizations."

    def _of_scales(self) -> str:
        equal = sum(row.scales_equal for row in self.rows)
        if equal == len(self.rows):
            return f"All {equal} weight scales are equal."
        told = f"{equal} of {len(self.rows)} weight scales are equal; those of {_listed(self.requantized)} differ"
        if self.smoothed_apart and set(self.requantized) <= {"gate_proj", "up_proj"}:
            return f"{told}, because the unified packaging smooths their inputs alike, and the other each for itself."
        if self.largest_of_fused:
            return f"{told}, because layers that are multiplied together share the largest of their scales there."
        return f"{told}, and not because they share the largest."

    def _of_bytes(self) -> str:
        bare, loaded = _mean([row.bytes_alike for row in self.rows]), self._loaded()
        if bare == 1:
            return "The stored weights are the same bytes."
        told = f"{bare:.1%} of the stored bytes are alike"
        if loaded is None:
            return f"{told}."
        if loaded == 1:
            return f"{told}, and all once the PyTorch back end has rounded them to the shared scale."
        return (
            f"{told}, and {loaded:.1%} once the PyTorch back end has rounded them to the shared scale: rounding twice "
            "is not rounding once."
        )

    def _loaded(self) -> float | None:
        found = [row.loaded_alike for row in self.rows]
        return None if None in found else _mean([share for share in found if share is not None])

    def _of_cache(self) -> str:
        pairs = [row.cache for row in self.rows if row.cache]
        if not pairs:
            return ""
        if all(one == other == 1.0 for one, other in pairs):
            return "Every scale of the KV cache is 1, the least that ModelOpt stores."
        equal = sum(one == other for one, other in pairs)
        return f"{equal} of {len(pairs)} scales of the KV cache are equal."

    def drawn(self) -> Picture:
        """Scale against scale, a mark for each linear layer."""
        return draw(self)

    def __str__(self) -> str:
        return f"{self.table()}\n\n{self.drawn()}"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_() + self.drawn()._repr_html_()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def compare(unified: Unified, other: Checkpoint) -> Packagings:
    """Read both packagings and match them linear layer by linear layer.

    Args:
        unified: in FP8 or INT4 AWQ.
        other: TensorRT-LLM's checkpoint of the same model and precisions, of one rank.

    Raises:
        WorkshopError: they are of different models or precisions, or ``other`` is split over ranks.
    """
    _require_alike(unified, other)
    left = _tensors(unified.path)
    right = _tensors(other.path)
    rows = []
    for name in unified.scales:
        module = name.rsplit(".", 1)[1]
        rows.append(_matched(name, module, left, right, other))
    same = unified.ranges == other.ranges if unified.ranges or other.ranges else None
    sizes_ = unified.weight_bytes, other.weight_bytes
    return Packagings(unified.full_title, tuple(rows), same, sizes_, _smoothed_apart(right))


def _smoothed_apart(right: Mapping[str, Any]) -> bool:
    """True if TensorRT-LLM's checkpoint smooths, in some layer, the inputs that two linear layers share otherwise."""
    import torch

    end = ".mlp.fc.prequant_scaling_factor"
    pairs = [(right[name], right[name.replace(".fc.", ".gate.")]) for name in right if name.endswith(end)]
    return any(not torch.equal(one, other) for one, other in pairs)


def _require_alike(unified: Unified, other: Checkpoint) -> None:
    _require_quantized(unified)
    if unified.manifest.inputs.get("model") != other.manifest.inputs.get("model"):
        raise WorkshopError("These checkpoints are of different models. Make both from the same one.")
    if (unified.precision, unified.kv) != (other.precision, other.kv):
        raise WorkshopError(
            f"These checkpoints differ in precision: {unified.full_title} here, {other.full_title} there. Make both "
            "with the same precision and KV cache."
        )
    if other.tp_size > 1:
        raise WorkshopError(
            f"TensorRT-LLM's checkpoint is split over {other.tp_size} ranks, and the unified one is not split before "
            "it is loaded. Compare it with one of tp_size 1."
        )


def _matched(name: str, module: str, left: Mapping[str, Any], right: Mapping[str, Any], other: Checkpoint) -> Matched:
    """One linear layer in both."""
    import torch

    place = f"transformer.layers.{name.split('.')[2]}.{_FUSED[module]}"
    stored = _part(right[f"{place}.weight"], module, other)
    scale, fused = left[f"{name}.weight_scale"], right[f"{place}.weights_scaling_factor"]
    fused = _part(fused, module, other) if fused.numel() > 1 else fused.reshape(())
    weight = left[f"{name}.weight"]
    inputs = left.get(f"{name}.input_scale"), right.get(f"{place}.activation_scaling_factor")
    loaded = None
    if weight.dtype == torch.float8_e4m3fn:
        loaded = _share(_loaded(name, module, left), stored)
    return Matched(
        name,
        module,
        float(scale.max()),
        float(fused.max()),
        bool(torch.equal(scale.float(), fused.float())),
        None if inputs[0] is None or inputs[1] is None else bool(inputs[0].item() == inputs[1].item()),
        _cache(name, module, left, right),
        _share(weight, stored),
        loaded,
    )


def _cache(name: str, module: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> tuple[float, float] | None:
    """The scale of keys or values in either packaging; TensorRT-LLM's cache has one for both."""
    own = left.get(f"{name}.{module[0]}_scale")
    layer = f"transformer.layers.{name.split('.')[2]}.attention.kv_cache_scaling_factor"
    return None if own is None or layer not in right else (float(own.max()), float(right[layer].max()))


def _part(tensor: Any, module: str, other: Checkpoint) -> Any:
    """The rows of a fused tensor that are one linear layer's."""
    if module not in ("q_proj", "k_proj", "v_proj"):
        return tensor
    config = other.config
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    rows = tensor.shape[0]  # of INT4, two channels lie in one
    q, each = rows * heads // (heads + 2 * kv_heads), rows * kv_heads // (heads + 2 * kv_heads)
    first = {"q_proj": 0, "k_proj": q, "v_proj": q + each}[module]
    return tensor[first : first + (q if module == "q_proj" else each)]


def _loaded(name: str, module: str, left: Mapping[str, Any]) -> Any:
    """FP8 weights as they are once loaded: multiplied out in FP16, and rounded to the scale of all laid together."""
    import torch

    together = _LOADED_TOGETHER.get(module)
    weight, own = left[f"{name}.weight"], left[f"{name}.weight_scale"]
    if together is None:
        return weight
    largest = max(left[f"{name.removesuffix(module)}{one}.weight_scale"] for one in together)
    # A scale without dimensions does not widen FP16, as in the program's own code.
    return (weight.to(torch.float16) * own / largest).to(torch.float8_e4m3fn)


def _share(one: Any, other: Any) -> float:
    """Share of two tensors' bytes that are the same."""
    import torch

    return float((one.contiguous().view(torch.uint8) == other.contiguous().view(torch.uint8)).float().mean())


def draw(found: Packagings) -> Picture:
    """The weights' scale in TensorRT-LLM's checkpoint against that in the unified one, a mark for each linear layer."""
    from helpers.plots.canvas import COLOURS, FAINT, MARKERS, figure

    with figure(6.4, 4.6) as drawing:
        axis = drawing.axes[0]
        values = [value for row in found.rows for value in (row.unified, row.checkpoint)]
        ends = [min(values) * 0.9, max(values) * 1.1]
        axis.plot(ends, ends, color=FAINT, linewidth=1, linestyle="--", label="equal")
        for number, module in enumerate(MODULES):
            rows = found.of(module)
            axis.plot(
                [row.unified for row in rows],
                [row.checkpoint for row in rows],
                linestyle="none",
                marker=MARKERS[number],
                color=COLOURS[number],
                markersize=6,
                label=module,
            )
        axis.set(xscale="log", yscale="log", xlabel="weight scale, unified", ylabel="weight scale, TensorRT-LLM")
        axis.set_title("measured: the same weights, packed twice")
        axis.legend(fontsize=9, loc="lower right")
    lines = [
        [row.name, f"{row.unified:.3e}", f"{row.checkpoint:.3e}", f"{row.checkpoint / row.unified:.3f}"]
        for row in found.rows
    ]
    table = Table(["linear layer", "unified", "TensorRT-LLM", "ratio"], lines, f"Weight scales: {found.title}")
    return Picture(drawing.svg, f"Weight scales of {len(found.rows)} linear layers. {found._of_scales()}", str(table))
