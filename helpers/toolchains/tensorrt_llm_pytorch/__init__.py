"""The GPU toolchain after engines: TensorRT-LLM's PyTorch back end loads a Hugging Face folder as it is (notebook 10).

The same release and environment as :mod:`helpers.toolchains.tensorrt_llm`, which has both back ends. There is nothing
to build: :func:`build` quantizes where that was asked for (:mod:`helpers.unified`) and notes which folder is served and
how. ``WORKSHOP_TOOLCHAIN=tensorrt_llm_pytorch`` chooses it.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from helpers import checkpoint, hardware, memory, releases, unified, workspace
from helpers.cards import Card, Picture, Table, bytes_text
from helpers.errors import WorkshopError
from helpers.models import Model
from helpers.progress import Live
from helpers.toolchains import base, tensorrt_llm
from helpers.toolchains.base import REFERENCE, Engine, require_fit
from helpers.toolchains.batching import BatchRun, Load
from helpers.toolchains.choices import AUTO, CHECKPOINTS, TITLES, Choices, KvChoices, kv_of
from helpers.toolchains.generation import Generation, converse, require_request
from helpers.toolchains.serving import RUN, ServeCommand, ServeOptions
from helpers.toolchains.sizes import Sizes
from helpers.toolchains.tensorrt_llm import install as install
from helpers.toolchains.tensorrt_llm import ranks as ranks
from helpers.toolchains.tensorrt_llm import verify as verify
from helpers.toolchains.tensorrt_llm.ranks import refusal_of, require_ranks
from helpers.toolchains.tensorrt_llm.serve import SETTINGS
from helpers.toolchains.tensorrt_llm.sizes import chosen_sizes
from helpers.toolchains.tensorrt_llm_pytorch import commands
from helpers.toolchains.tensorrt_llm_pytorch.matrix import choices_of, kv_choices_of
from helpers.workspace import Manifest

name = "tensorrt_llm_pytorch"
title = "TensorRT-LLM's PyTorch back end on the GPU"
default_model = tensorrt_llm.default_model

_LOAD_LIMIT = 900.0


@dataclass(frozen=True, repr=False)
class Ready(Engine):
    """In an engine's place: a note of the Hugging Face folder that is loaded as it is. Tied to no GPU."""

    def card(self) -> Card:
        """That nothing was built, and what is loaded instead."""
        options, folder = self.manifest.options, base.loaded_folder(self)
        facts = {
            "loads": str(folder),
            "weights": bytes_text(self.weight_bytes),
            "KV cache": checkpoint.KV_TITLES[self.kv],
            "told when it starts": ", ".join(f"{field} {options[field]:,}" for field in Sizes.__dataclass_fields__),
        }
        note = (
            "The PyTorch back end has no build: it reads this folder, and lays the weights out for the GPU, at start."
        )
        return Card(f"{self.manifest.title}: nothing to build", facts, note)


def choices(gpu: str | None = None) -> Choices:
    """Which precisions can be served on this machine's GPU, or on another.

    Args:
        gpu: a key of ``data/gpus.toml``, such as ``"a10g"``; None for the GPU here.

    Raises:
        WorkshopError: no such GPU, or TensorRT-LLM has no kernels for it.
    """
    return choices_of(*tensorrt_llm._product(gpu))


def kv_choices(gpu: str | None = None) -> KvChoices:
    """Which KV caches can be served on this machine's GPU, or on another.

    Args:
        gpu: as in :func:`choices`.

    Raises:
        WorkshopError: as in :func:`choices`.
    """
    return kv_choices_of(*tensorrt_llm._product(gpu))


def build(
    model: Model,
    precision: str = "fp16",
    kv: str | None = AUTO,
    tp_size: int = 1,
    sizes: Sizes | None = None,
    calibration_texts: int = checkpoint.CALIBRATION_TEXTS,
) -> Engine:
    """Note what is loaded and how: there is nothing to build. Weights below 16 bits are quantized if they are not yet.

    Args:
        model: from :func:`helpers.models.find`.
        precision: ``fp16``, ``fp8`` or ``int4_awq``, as :func:`choices` says.
        kv: of the KV cache: ``fp8``, None for 16 bits; :data:`AUTO` for FP8 beside FP8 weights, else 16 bits.
        tp_size: number of GPUs that the weights are split over when they are loaded.
        sizes: what the server is told; None for those that an engine would be built for.
        calibration_texts: how many of the calibration texts the quantizer looks at.

    Raises:
        WorkshopError: the GPU has no such precision in this back end, the model does not fit it, there are too few
            GPUs, or a stage failed.
    """
    shape, kv = memory.Shape.of(model.config), kv_of(precision, kv)
    if tp_size != 1:
        require_ranks(model.name, shape, tp_size, hardware.look())
    choices().require(precision)
    kv_choices().require(precision, kv)
    gpu = tensorrt_llm._gpu()
    needs = shape, model.name, CHECKPOINTS[precision], kv, gpu.memory_bytes, gpu.name, tp_size
    used, special = chosen_sizes(sizes, *needs)
    quantized = precision != "fp16"
    source = unified.make(model, CHECKPOINTS[precision], kv if quantized else None, calibration_texts, silent=True)
    texts = int(source.manifest.options["calibration_texts"])
    suffix = checkpoint.calibration_suffix(CHECKPOINTS[precision], kv, texts) if quantized else ""
    folder = base.engine_folder(name, precision, kv, kv_of(precision), tp_size, suffix, special)
    manifest = Manifest(
        kind="engine",
        title=f"{model.name}, {checkpoint.full_title(TITLES[precision], kv)}{_over(tp_size)}, {title}",
        options={
            "toolchain": name,
            "model": model.source,
            "precision": precision,
            "kv": kv or "",
            "tp_size": tp_size,
            "calibration_texts": texts,
            **vars(used),
        },
        inputs={"model": model.digest, "weights": _weights_digest(source.path)},
    )
    return _noted(manifest, workspace.home() / "engines" / model.folder / folder, source.path)


def _over(tp_size: int) -> str:
    return f", {tp_size} GPUs" if tp_size > 1 else ""


def _weights_digest(folder: Path) -> str:
    """One digest of what is loaded: settings and weights."""
    files = [folder / "config.json", folder / "hf_quant_config.json", *sorted(folder.glob("*.safetensors"))]
    return workspace.digest(*(file for file in files if file.exists()))


def _noted(manifest: Manifest, target: Path, folder: Path) -> Engine:
    """Publish the note, or take the one that is there; shows it."""
    with workspace.lock(target):
        found = workspace.find_current(target, manifest)
        current = found is not None and base.loaded_folder(Engine(found.path, found.manifest)) == folder
        if found is None or not current:
            place = workspace.making_place(target)
            (place / REFERENCE).write_text(json.dumps({"folder": str(folder)}, indent=1) + "\n")
            found = workspace.publish(place, target, manifest)
    made = Ready(found.path, found.manifest, reused=current)
    Live().finish(made)
    return made


def refusal(engine: Engine) -> str | None:
    """Why this cannot be served here, with what to do; None if it can.

    Nothing ties it to a GPU or a release: only the precision has to be one that the GPU has, and the folder has to be
    there.
    """
    if engine.toolchain != name:
        return (
            f"This engine was built for toolchain {engine.toolchain} (here: {name}), and the PyTorch back end loads "
            f"Hugging Face folders alone. Make it ready: {base.rebuild_command(_asked_here(engine))}"
        )
    folder = base.loaded_folder(engine)
    if not (folder / "config.json").exists():
        return f"The folder that it loads is gone: {folder}. Make it again: {base.rebuild_command(engine)}"
    try:
        choices().require(engine.precision)
        kv_choices().require(engine.precision, engine.kv)
    except WorkshopError as refused:
        return str(refused)
    return refusal_of(engine, hardware.look()) if engine.tp_size > 1 else None


def _asked_here(engine: Engine) -> Engine:
    """The same asked of this toolchain, for the command that makes it."""
    manifest = replace(engine.manifest, options={**engine.manifest.options, "toolchain": name})
    return Engine(engine.path.with_name(f"{name}-{engine.precision}"), manifest)


def about(engine: Engine) -> Card:
    """What it is tied to, and whether it runs here."""
    refused = refusal(engine)
    facts = {
        "built for": "nothing: it is not built, and runs on every GPU that has its precision",
        "loads": str(base.loaded_folder(engine)),
        "split over": f"{engine.tp_size} GPUs, when it is loaded" if engine.tp_size > 1 else "1 GPU: it is whole",
        "runs here": "no" if refused else "yes",
    }
    return Card(f"{engine.title} for the PyTorch back end, {engine.path.name}", facts, refused or "")


def generate(engine: Engine, prompt: str, max_tokens: int = 96, ignore_eos: bool = False) -> Generation:
    """Continue a prompt greedily, showing the text as it comes.

    Raises:
        WorkshopError: it cannot be loaded here, prompt and answer are longer than it was asked for, or its process
            failed.
    """
    require_request(prompt, max_tokens)
    require_fit(sys.modules[__name__], engine)
    sizes = serve_options(engine).sizes
    if max_tokens >= sizes.max_seq_len:
        raise WorkshopError(
            f"max_tokens is {max_tokens:,}, and this was made ready for {sizes.max_seq_len:,} tokens of prompt and "
            "answer together. Ask for fewer, or give build() other sizes: nothing is built again for them."
        )
    installation, gpus = releases.require(), engine.tp_size
    folder = str(base.loaded_folder(engine))
    command = commands.generate(
        *(str(installation.python), folder, prompt, sizes, max_tokens, ignore_eos, gpus), engine.kv
    )
    environment = releases.worker_environment(installation, gpus)
    return converse(engine, command, prompt, max_tokens, ignore_eos, environment, _LOAD_LIMIT)


def serve_options(engine: Engine) -> ServeOptions:
    """What ``trtllm-serve`` is told unless a recipe says otherwise: the sizes that were noted."""
    return tensorrt_llm.serve_options(engine)


def serve_command(engine: Engine, options: ServeOptions) -> ServeCommand:
    """What starts ``trtllm-serve`` on the folder (notebook 10); starts nothing.

    The sizes may be any: no build stands behind them.

    Raises:
        WorkshopError: it cannot be loaded here.
    """
    require_fit(sys.modules[__name__], engine)
    installation, gpus = releases.require(), engine.tp_size
    folder = base.loaded_folder(engine)
    command = commands.serve(
        str(installation.program("trtllm-serve")),
        str(folder),
        options.sizes,
        gpus,
        options.host,
        options.port,
        options.kv_share,
        f"{RUN}/{SETTINGS}",
    )
    installation.require("trtllm-serve", *(word for word in command if word.startswith("--")))
    note = hardware.shared_memory_warning(hardware.look(), gpus) if gpus > 1 else ""
    environment = releases.worker_environment(installation, gpus)
    files = settings_file(engine.kv, options)
    return ServeCommand(command, folder.name, environment, files, tuple(filter(None, [note])))


def settings_file(kv: str | None, options: ServeOptions) -> dict[str, str]:
    """The file of settings that the server needs, by name."""
    import yaml

    told = commands.serve_settings(kv, options.kv_share, options.chunked_prefill)
    return {SETTINGS: yaml.safe_dump(told, sort_keys=False)}


# --- What there is not ----------------------------------------------------------


def _none(what: str, instead: str) -> NoReturn:
    raise WorkshopError(f"The PyTorch back end has {what}. {instead}")


def batch(engine: Engine, budget: int, load: Load | None = None) -> BatchRun:
    """Not done here.

    Raises:
        WorkshopError: always; says what to do instead.
    """
    _none(
        "no offline run in this workshop",
        "Start a server with serving.start(engine) and measure it with helpers.bench: notebook 10 does.",
    )


def score(engine: Engine) -> Any:
    """Not done here.

    Raises:
        WorkshopError: always; says what to do instead.
    """
    _none(
        "no perplexity of its own in this workshop",
        "helpers.unified.read_back() scores the checkpoint from its files; the engine workflow scores an engine.",
    )


def operations(engine: Engine) -> Table:
    """Not there: no graph is compiled ahead.

    Raises:
        WorkshopError: always; says what to do instead.
    """
    _none(
        "no compiled graph whose operations could be counted",
        "It runs the model's PyTorch modules; see notebook 03 for an engine's operations.",
    )


def operations_drawn(engine: Engine) -> Picture:
    """Not there, as :func:`operations`.

    Raises:
        WorkshopError: always; says what to do instead.
    """
    operations(engine)
    raise AssertionError("operations() always raises")


def from_elsewhere(engine: Engine) -> Engine:
    """Not there: nothing ties it to a machine.

    Raises:
        WorkshopError: always; says why.
    """
    _none("nothing that is tied to one machine", "A folder made on another GPU is loaded here as it is.")
