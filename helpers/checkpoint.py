"""TensorRT-LLM checkpoints: making them with NVIDIA's ModelOpt, and looking inside.

A checkpoint is ``config.json`` and one ``rank{N}.safetensors`` for each GPU that will hold a part: the very input of
``trtllm-build``. It is the same on every machine; one made on a laptop can be copied to a pod and built there
(notebooks 03 and 04).
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import memory, processes, stage, workspace
from helpers.cards import Table, bytes_text
from helpers.errors import WorkshopError
from helpers.models import Model
from helpers.workspace import DATA, Artifact

if TYPE_CHECKING:
    from helpers.releases import Installation

PROMPT = "Born in north-east France, Soyer trained as a"
CALIBRATION = DATA / "calibration" / "train.jsonl"
CALIBRATION_TEXTS = 128
"""How many of them calibration looks at unless told otherwise."""

HELD_OUT = DATA / "heldout.jsonl"
TITLES = {
    "fp16": "FP16",
    "fp8": "FP8 (E4M3)",
    "int8_sq": "INT8 SmoothQuant",
    "int4_awq": "INT4 AWQ",
    "int8_wo": "INT8 weight-only",
}
KV_TITLES = {None: "16-bit", "fp8": "FP8", "int8": "INT8"}
QUANTIZERS = ("fp16", "fp8", "int8_sq", "int4_awq")
"""What ModelOpt writes, on every machine. INT8 weight-only is TensorRT-LLM's own, and needs an installed release."""

_MISLEADING = ("vila", "llava", "exaone", "mpt")
"""TensorRT-LLM's converters take a model for one of these if its path says so, whatever its settings say."""

# AWQ tries every scaling for each row of text; NVIDIA's own quantize.py allows it 32 texts at most.
_AWQ_TEXTS = 16
_WORKERS = Path(__file__).with_name("workers")
# A thread that waits for the others sleeps: by default it spins, which costs a busy machine most of its time.
_TRANSFORMERS_QUIET = {"TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True, repr=False)
class Checkpoint(Artifact):
    """A published TensorRT-LLM checkpoint with what was measured while it was made."""

    @property
    def precision(self) -> str:
        """A key of :data:`TITLES`."""
        return str(self.manifest.options["precision"])

    @property
    def title(self) -> str:
        """The precision as a person writes it."""
        return TITLES[self.precision]

    @property
    def full_title(self) -> str:
        """The precisions of weights and KV cache, as a person writes them."""
        return full_title(self.title, self.kv)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The checkpoint's ``config.json``."""
        return dict(json.loads((self.path / "config.json").read_text()))

    @property
    def largest(self) -> float:
        """The largest number that its format holds: what a range is divided by to give a scaling factor."""
        return {"fp8": 448.0, "int4_awq": 7.0}.get(self.precision, 127.0)

    @property
    def kv(self) -> str | None:
        """``fp8`` or ``int8`` where the KV cache is quantized too."""
        return str(self.manifest.options["kv"]) or None

    @property
    def tp_size(self) -> int:
        """Number of ranks that the weights are split over."""
        return int(self.manifest.options["tp_size"])

    @property
    def writer(self) -> str:
        """The version of ModelOpt that wrote it; empty where TensorRT-LLM's own conversion did."""
        return str(self.manifest.maker.get("nvidia-modelopt", ""))

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


@dataclass(frozen=True)
class Runner:
    """The Python that loads weights and writes checkpoints.

    Attributes:
        python: its path.
        maker: the packages that decide what a checkpoint looks like, and their versions.
        environment, unset: see :class:`helpers.stage.Stage`.
        installation: the TensorRT-LLM release that it belongs to; None for the notebooks' own Python.
    """

    python: str
    maker: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    unset: Sequence[str] = ()
    installation: "Installation | None" = None


def runner(gpus: int = 1) -> Runner:
    """The TensorRT-LLM release's own Python where one is installed for this machine's GPU, else the notebooks' own.

    Args:
        gpus: how many the process uses, where a release has any.

    Raises:
        WorkshopError: this machine uses TensorRT-LLM, and it is not installed yet.
    """
    from helpers import releases, toolchains

    packages = ("nvidia-modelopt", "torch", "transformers")
    if toolchains.best().name not in toolchains.ON_GPU:
        # A GPU that happens to be there is left alone: calibration is part of the notebooks' own environment.
        quiet = {**_TRANSFORMERS_QUIET, "CUDA_VISIBLE_DEVICES": ""}
        return Runner(sys.executable, {name: _own_version(name) for name in packages}, quiet)
    installation = releases.require()
    environment, unset = processes.difference(releases.worker_environment(installation, gpus), os.environ)
    maker = {name: installation.versions[name] for name in packages}
    return Runner(str(installation.python), maker, environment, unset, installation)


@cache
def _own_version(package: str) -> str:
    """The version of a package of the notebooks' own Python; read once, since to read it takes milliseconds."""
    return version(package)


def command(
    python: str,
    model: str,
    precision: str,
    kv: str | None,
    tp_size: int,
    output: str,
    calibration_texts: int = CALIBRATION_TEXTS,
) -> list[str]:
    """The command that makes a checkpoint, as data.

    Args:
        python: path or name of the Python that runs it.
        model: folder of the Hugging Face weights.
        precision, kv, tp_size, calibration_texts: see :func:`make`.
        output: folder to write.
    """
    words = [python, str(_WORKERS / "modelopt_checkpoint.py"), "--model", model, "--precision", precision]
    words += ["--kv-cache", kv] if kv else []
    texts = texts_used(precision, kv, calibration_texts)
    words += ["--calibration", str(CALIBRATION), "--calibration-texts", str(texts)] if texts else []
    return [*words, "--tp-size", str(tp_size), "--held-out", str(HELD_OUT), "--prompt", PROMPT, "--output", output]


def full_title(weights: str, kv: str | None) -> str:
    """Precisions of weights and KV cache in words, such as ``FP16 weights, FP8 KV cache``."""
    return f"{weights} weights, {KV_TITLES[kv]} KV cache"


def folder_name(precision: str, kv: str | None, tp_size: int, calibration_texts: int = CALIBRATION_TEXTS) -> str:
    """The name of a checkpoint's folder, below that of its model."""
    name = "-".join([precision, *(["kv-" + kv] if kv else []), f"tp{tp_size}"])
    return name + calibration_suffix(precision, kv, calibration_texts)


def texts_used(precision: str, kv: str | None, calibration_texts: int = CALIBRATION_TEXTS) -> int:
    """How many calibration texts are looked at where so many are asked for; 0 where nothing is calibrated."""
    if precision in ("fp16", "int8_wo") and kv is None:
        return 0
    return min(calibration_texts, _AWQ_TEXTS) if precision == "int4_awq" else calibration_texts


def calibration_suffix(precision: str, kv: str | None, calibration_texts: int) -> str:
    """What a folder's name ends with where another number of texts is looked at than usual."""
    used = texts_used(precision, kv, calibration_texts)
    return "" if used == texts_used(precision, kv) else f"-c{used}"


def make(
    model: Model,
    precision: str = "fp16",
    kv: str | None = None,
    tp_size: int = 1,
    calibration_texts: int = CALIBRATION_TEXTS,
    silent: bool = False,
) -> Checkpoint:
    """Convert a model to a TensorRT-LLM checkpoint, quantizing it on the way where asked to.

    One that was made elsewhere from the same files with the same options, and copied to its place here, is taken as it
    is if the release here can read it.

    Args:
        model: from :func:`helpers.models.find`.
        precision: ``fp16``, ``fp8`` (weights and activations), ``int8_sq`` (SmoothQuant), ``int4_awq`` (weights), or
            ``int8_wo`` (weights; only where TensorRT-LLM is installed).
        kv: ``"fp8"`` or ``"int8"`` to quantize the KV cache too; None leaves it at 16 bits. What an engine gives up for
            it is another question (:mod:`helpers.toolchains.tensorrt_llm.kv`).
        tp_size: number of ranks (GPUs) to split the weights over; must divide both kinds of heads.
        calibration_texts: how many of the calibration texts to look at (INT4 AWQ: 16 at most).
        silent: show nothing where it exists: for what another stage needs beforehand.

    Raises:
        WorkshopError: a precision or split that this model does not allow, or a failed stage.
    """
    _check_precision(precision, kv)
    memory.require_split(model.name, memory.Shape.of(model.config), tp_size)
    by = runner()
    if precision == "int8_wo":
        task = _conversion(model, tp_size, by)
    else:
        task = _quantization(model, precision, kv, tp_size, calibration_texts, by)
    made = _copied_here(task, by, silent) or (stage.ensure if silent else stage.run)(task)
    return Checkpoint(made.path, made.manifest, made.reused, made.log)


def load(folder: Path | str) -> Checkpoint:
    """A checkpoint in any folder, such as one copied from another machine.

    Raises:
        WorkshopError: there is none, or a file of it is missing or changed.
    """
    found = workspace.find(Path(folder).expanduser().resolve())
    if found is None or found.manifest.kind != "checkpoint":
        raise WorkshopError(
            f"{folder} holds no whole checkpoint of this workshop (a folder with config.json, rank files and "
            f"{workspace.MANIFEST}). Copy the whole folder again, or make it: python -m helpers build --checkpoint."
        )
    return Checkpoint(found.path, found.manifest, reused=True)


def require_readable(checkpoint: Checkpoint, installation: "Installation") -> None:
    """Refuse a checkpoint whose writer the release does not know, or that was laid out for another kind of GPU.

    Raises:
        WorkshopError: names the writer and what the release reads, or the two kinds of GPU.
    """
    from helpers import hardware
    from helpers.releases import release

    made_on, here = checkpoint.manifest.machine.get("compute_capability"), hardware.identity().get("compute_capability")
    if made_on and made_on != here:
        raise WorkshopError(
            f"The {checkpoint.title} checkpoint in {checkpoint.path} was converted on a GPU of compute capability "
            f"{made_on}, which decides how its weights lie in it; this one has {here}. Make it again here, from the "
            "model's own weights."
        )
    oldest, newest = release(installation.version).reads_modelopt
    written = tuple(int(part) for part in checkpoint.writer.split(".")[:2]) if checkpoint.writer else None
    if written and not tuple(map(int, oldest.split("."))) <= written <= tuple(map(int, newest.split("."))):
        raise WorkshopError(
            f"The {checkpoint.title} checkpoint in {checkpoint.path} was written by ModelOpt {checkpoint.writer}; "
            f"TensorRT-LLM {installation.version} reads those of {oldest} to {newest}. Make it again on this machine: "
            "delete that folder and run the cell (or python -m helpers build) again."
        )


def _copied_here(task: stage.Stage, by: Runner, silent: bool) -> Artifact | None:
    """The checkpoint at the stage's place if only its writer differs from what would be made, and it is readable."""
    found, wanted = workspace.find(task.target), task.manifest()
    if found is None or by.installation is None:
        return None
    if replace(found.manifest, maker=wanted.maker).recipe() != wanted.recipe():
        return None
    require_readable(Checkpoint(found.path, found.manifest), by.installation)
    return stage.take(task, replace(found, reused=True), silent)


def _quantization(
    model: Model, precision: str, kv: str | None, tp_size: int, calibration_texts: int, by: Runner
) -> stage.Stage:
    """ModelOpt's conversion, with or without quantization, as a stage."""
    if by.installation is None:
        # 32-bit weights, twice, and room to work. A GPU works in 16 bits, and says itself when that is too much.
        workspace.require_memory(5 * model.bytes, f"quantizing {model.name}")
    worker = _WORKERS / "modelopt_checkpoint.py"
    inputs = {"model": model.digest, "held-out text": workspace.digest(HELD_OUT), "worker": workspace.digest(worker)}
    texts = texts_used(precision, kv, calibration_texts)
    if texts:
        inputs["calibration"] = workspace.digest(CALIBRATION)
    kv_title = f", KV cache {kv.upper()}" if kv else ""
    ranks_title = f", {tp_size} ranks" if tp_size > 1 else ""
    return stage.Stage(
        title=f"TensorRT-LLM checkpoint of {model.name}, {TITLES[precision]}{kv_title}{ranks_title}",
        kind="checkpoint",
        command=command(by.python, str(model.path), precision, kv, tp_size, "{out}", calibration_texts),
        target=workspace.home() / "checkpoints" / model.folder / folder_name(precision, kv, tp_size, calibration_texts),
        options={
            "precision": precision,
            "kv": kv or "",
            "tp_size": tp_size,
            "calibration_texts": texts,
        },
        inputs=inputs,
        maker=by.maker,
        environment=by.environment,
        unset=by.unset,
        expected=["config.json", *(f"rank{rank}.safetensors" for rank in range(tp_size)), "measured/nll.npy"],
        space=3 * model.bytes,
    )


def _conversion(model: Model, tp_size: int, by: Runner) -> stage.Stage:
    """TensorRT-LLM's own INT8 weight-only conversion, as a stage.

    Raises:
        WorkshopError: no release is installed here.
    """
    from helpers import hardware
    from helpers.toolchains.tensorrt_llm import commands

    if by.installation is None:
        raise WorkshopError(
            "INT8 weight-only is TensorRT-LLM's own conversion, and no release of it is used on this machine. Choose "
            f"one of {', '.join(map(repr, QUANTIZERS))}, which ModelOpt writes everywhere."
        )
    misleading = [word for word in _MISLEADING if word in str(model.path).lower()]
    if misleading:
        raise WorkshopError(
            f"The path {model.path} contains {misleading[0]!r}, by which TensorRT-LLM takes the model for "
            "another kind. Move the model to a folder of another name, and point at it there."
        )
    return stage.Stage(
        title=f"TensorRT-LLM checkpoint of {model.name}, {TITLES['int8_wo']}",
        kind="checkpoint",
        command=commands.convert(by.python, str(model.path), tp_size, "{out}"),
        target=workspace.home() / "checkpoints" / model.folder / folder_name("int8_wo", None, tp_size),
        options={"precision": "int8_wo", "kv": "", "tp_size": tp_size, "calibration_texts": 0},
        inputs={"model": model.digest, "worker": workspace.digest(_WORKERS / "trtllm_convert.py")},
        maker={"tensorrt_llm": by.installation.version},
        # Its weights are laid out for the generation of the GPU that converts them: no other can build from it.
        machine={"compute_capability": hardware.identity().get("compute_capability", "")},
        environment=by.environment,
        unset=by.unset,
        expected=["config.json", *(f"rank{rank}.safetensors" for rank in range(tp_size))],
        space=2 * model.bytes,
    )


def _check_precision(precision: str, kv: str | None) -> None:
    if precision not in TITLES:
        raise WorkshopError(
            f"There is no precision {precision!r} for a checkpoint. Choose one of {', '.join(map(repr, TITLES))}."
        )
    if kv not in KV_TITLES:
        raise WorkshopError(f"The KV cache cannot be {kv!r} here. Choose 'fp8', 'int8', or None for 16 bits.")
    if kv and precision == "int8_wo":
        raise WorkshopError(
            "INT8 weight-only is converted by TensorRT-LLM itself, which leaves the KV cache at 16 bits here. Use "
            "kv=None, or precision='int8_sq'."
        )
    if (precision, kv) == ("fp8", "int8"):
        raise WorkshopError(
            "FP8 weights go with an FP8 KV cache here, not with an INT8 one, which nobody documents for them. Use "
            "kv='fp8', or kv=None for 16 bits."
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

    Where there is one for each channel or group, the smallest and the largest are shown.

    Raises:
        WorkshopError: the checkpoint is not quantized, so it has none.
    """
    from safetensors import safe_open

    rows = []
    with safe_open(checkpoint.ranks[0], framework="pt") as file:
        for name in sorted(file.keys()):
            if f".layers.{layer}." in name and name.endswith("scaling_factor"):
                value = file.get_tensor(name).float()
                least, most = f"{float(value.min()):.6f}", f"{float(value.max()):.6f}"
                shown = least if value.numel() == 1 else f"{least} to {most}"
                rows.append([name.split(f".layers.{layer}.")[1], value.numel(), shown])
    if not rows:
        raise WorkshopError(
            f"The {checkpoint.title} checkpoint is not quantized, so it has no scaling factors; look at an FP8 one."
        )
    caption = f"Layer {layer} of the checkpoint with {checkpoint.full_title}"
    return Table(["scaling factor", "how many", "value"], rows, caption=caption)


def written(*checkpoints: Checkpoint) -> Table:
    """The greedy continuation that each wrote under the quantizer's arithmetic, before any engine existed."""
    alike = len({c.title for c in checkpoints}) < len(checkpoints)
    rows = [[c.full_title if alike else c.title, c.text.removeprefix(PROMPT).strip()] for c in checkpoints]
    return Table(["checkpoint", "text"], rows, caption=f"Prompt: {PROMPT}")
