"""The GPU toolchain: TensorRT-LLM builds the engine and runs it.

Nothing of TensorRT-LLM is imported here. Its programs, and small workers on its own Python, run as child processes, so
GPU memory is free the moment a stage ends. Which release that is, and where, :mod:`helpers.releases` knows; the
commands themselves are data in :mod:`helpers.toolchains.tensorrt_llm.commands` (notebooks 02 to 05).
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from helpers import checkpoint, hardware, memory, plots, processes, releases, stage, workspace
from helpers.cards import Card, Picture, Table
from helpers.checkpoint import Checkpoint
from helpers.errors import WorkshopError
from helpers.models import Model
from helpers.releases import Installation
from helpers.toolchains import base, batching
from helpers.toolchains.base import Engine, disguised, rebuild_command, require_fit
from helpers.toolchains.batching import BatchRun, Load
from helpers.toolchains.choices import AUTO, CHECKPOINTS, TITLES, Choices, KvChoices, kv_of
from helpers.toolchains.generation import Generation, converse, require_request
from helpers.toolchains.serving import RUN, ServeCommand, ServeOptions
from helpers.toolchains.sizes import Sizes
from helpers.toolchains.tensorrt_llm import commands
from helpers.toolchains.tensorrt_llm.batch import pool_of
from helpers.toolchains.tensorrt_llm.kv import kv_choices_of, side_effects
from helpers.toolchains.tensorrt_llm.ranks import ranks_of, refusal_of, require_ranks
from helpers.toolchains.tensorrt_llm.serve import require_sizes, settings_file
from helpers.toolchains.tensorrt_llm.sizes import chosen_sizes, scoring_sizes
from helpers.toolchains.tensorrt_llm.weights import choices_of

name = "tensorrt_llm"
title = "TensorRT-LLM on the GPU"
default_model = "TinyLlama"  # the talk's model

_WORKERS = Path(__file__).parents[2] / "workers"
# An engine of a small model builds in a minute or two; what has not moved after this long hangs (facts of MPI, mostly).
_BUILD_LIMIT = 3600.0
_LOAD_LIMIT = 900.0


def install() -> Table:
    """Adopt or install the release that fits this machine, as a stage; then one line a program and entry point.

    Raises:
        WorkshopError: something it needs is missing, or a step failed.
    """
    return releases.checks(releases.ensure())


def verify() -> Table:
    """One line a check of the installed release.

    Raises:
        WorkshopError: none is installed yet.
    """
    return releases.checks(releases.require())


def choices(gpu: str | None = None) -> Choices:
    """Which precisions an engine can have on this machine's GPU, or on another.

    Args:
        gpu: a key of ``data/gpus.toml``, such as ``"a10g"``; None for the GPU here.

    Raises:
        WorkshopError: no such GPU, or TensorRT-LLM has no kernels for it.
    """
    return choices_of(*_product(gpu))


def kv_choices(gpu: str | None = None) -> KvChoices:
    """Which KV caches an engine can have on this machine's GPU, or on another, and what each gives up.

    Args:
        gpu: as in :func:`choices`.

    Raises:
        WorkshopError: as in :func:`choices`.
    """
    return kv_choices_of(*_product(gpu))


def _product(gpu: str | None) -> tuple[str, tuple[int, int]]:
    """Name and compute capability of a GPU by its key, or of the one here."""
    found = _gpu() if gpu is None else hardware.by_key(gpu)
    return found.name, found.compute_capability


def ranks(model: Model) -> list[int]:
    """The numbers of GPUs that this machine can run the model's engine on: of 1, 2, 4 and 8 what heads and GPUs allow.

    Only GPUs of one product count, for an engine is compiled for one.
    """
    return ranks_of(memory.Shape.of(model.config), hardware.look())


def build(
    model: Model,
    precision: str = "fp16",
    kv: str | None = AUTO,
    tp_size: int = 1,
    sizes: Sizes | None = None,
    calibration_texts: int = checkpoint.CALIBRATION_TEXTS,
    made: Checkpoint | None = None,
) -> Engine:
    """Build an engine for this GPU from the model's TensorRT-LLM checkpoint, which is made if it is not there.

    Args:
        model: from :func:`helpers.models.find`.
        precision: a key of :data:`CHECKPOINTS`.
        kv: of the KV cache: ``fp8``, ``int8``, None for 16 bits; :data:`AUTO` for FP8 beside FP8 weights, else 16 bits.
            What the others give up, :func:`kv_choices` says.
        tp_size: number of ranks, each on a GPU of its own (notebook 06); :func:`ranks` says what can be had here.
        sizes: what it shall hold; None for the largest usual batch that fits this GPU at full length.
        calibration_texts: how many of the calibration texts the quantizer looks at.
        made: a checkpoint of this model from elsewhere, to build from instead; its precisions and ranks then count.

    Raises:
        WorkshopError: the GPU has no such precision, the model does not fit it, there are too few GPUs for the ranks,
            or a stage failed.
    """
    tp_size = made.tp_size if made is not None else tp_size
    if tp_size != 1:
        require_ranks(model.name, memory.Shape.of(model.config), tp_size, hardware.look())
    if made is not None:
        precision = next(p for p, made_from in CHECKPOINTS.items() if made_from == made.precision)
    kv = made.kv if made is not None else kv_of(precision, kv)
    choices().require(precision)
    kv_choices().require(precision, kv)
    source = made or base.quantized(model, precision, kv, True, tp_size, calibration_texts)
    return _built(model, source, precision, sizes)


def _built(
    model: Model, source: Checkpoint, precision: str, wanted: Sizes | None = None, scoring: bool = False
) -> Engine:
    """An engine to generate with, or one that keeps the logits of every token, to score with.

    Args:
        model: that the checkpoint ``source`` was made from.
        source: what to build.
        precision: the engine's.
        wanted: sizes; None for the usual ones.
        scoring: keep the logits.
    """
    installation, gpu = releases.require(), _gpu()
    checkpoint.require_readable(source, installation)
    kv, tp_size, shape = source.kv, source.tp_size, memory.Shape.of(model.config)
    needs = shape, model.name, source.precision, kv, gpu.memory_bytes, gpu.name, tp_size
    sizes, special = (scoring_sizes(shape), None) if scoring else chosen_sizes(wanted, *needs)
    timings = _timings(installation)
    command = commands.build(
        str(installation.program("trtllm-build")),
        str(source.path),
        "{out}",
        sizes,
        tp_size,
        str(timings) if timings.exists() else None,
        context_logits=scoring,
        paged_context=side_effects(precision, kv).reuse,
    )
    installation.require("trtllm-build", *(word for word in command if word.startswith("--")))
    usual, texts = kv_of(precision), int(source.manifest.options["calibration_texts"])
    suffix = checkpoint.calibration_suffix(source.precision, kv, texts)
    purpose = "-scoring" if scoring else ""
    what = TITLES[precision] if kv == usual else checkpoint.full_title(TITLES[precision], kv)
    what += f", {tp_size} GPUs" if tp_size > 1 else ""
    task = _stage(
        installation,
        tp_size,
        title=f"Engine of {model.name}, {what}{', for scoring' if scoring else ''}, {title}",
        kind="engine",
        command=command,
        target=workspace.home()
        / "engines"
        / model.folder
        / f"{base.engine_folder(name, precision, kv, usual, tp_size, suffix, special)}{purpose}",
        options={
            "toolchain": name,
            "model": model.source,
            "precision": precision,
            "kv": kv or "",
            "tp_size": tp_size,
            "calibration_texts": texts,
            **vars(sizes),
        },
        inputs={"checkpoint": _weights_digest(source), "model": model.digest},
        machine=hardware.identity(),
        expected=["config.json", *(f"rank{rank}.engine" for rank in range(tp_size))],
        space=3 * source.weight_bytes,
        time_limit=_BUILD_LIMIT,
    )
    result = stage.ensure(task) if scoring else stage.run(task)
    _keep_timings(result.path / "timing.cache", timings)
    return Engine(result.path, result.manifest, result.reused, result.log)


def _weights_digest(made: Checkpoint) -> str:
    """One digest of what ``trtllm-build`` reads: the settings and every rank's weights."""
    return workspace.digest(made.path / "config.json", *made.ranks)


def _gpu() -> hardware.Gpu:
    """The GPU that engines are built for.

    Raises:
        WorkshopError: there is none that TensorRT-LLM has kernels for.
    """
    gpu = hardware.supported_gpu(hardware.look())
    if gpu is None:
        raise WorkshopError(
            "There is no GPU here that TensorRT-LLM has kernels for. Use the CPU toolchain, or preview a pod's "
            "commands with: python -m helpers plan --gpu rtx-4090"
        )
    return gpu


def maker(installation: Installation) -> dict[str, str]:
    """The packages that decide what an engine looks like, and their versions."""
    return {package: installation.versions[package] for package in ("tensorrt_llm", "tensorrt")}


def _stage(installation: Installation, gpus: int = 1, **fields: Any) -> stage.Stage:
    """A stage under the release's Python: its makers, and the environment of its workers."""
    environment, unset = processes.difference(releases.worker_environment(installation, gpus), os.environ)
    return stage.Stage(maker=maker(installation), environment=environment, unset=unset, **fields)


def _timings(installation: Installation) -> Path:
    """Where the timing cache of earlier builds for this GPU and release is kept."""
    product = hardware.identity()["gpu"].replace(" ", "-").replace("/", "-")
    return workspace.home() / "timings" / f"{installation.version}-{product}.cache"


def _keep_timings(made: Path, kept: Path) -> None:
    """Let later builds use what this one timed; by rename, so that a killed copy leaves the old one whole."""
    if not made.exists():
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_name(f".{kept.name}.{os.getpid()}")
    shutil.copyfile(made, part)
    part.replace(kept)


def refusal(engine: Engine) -> str | None:
    """Why this engine cannot run here, with the command that rebuilds it; None if it can.

    TensorRT engines are tied to the compute capability and to the release. Another product of the same capability runs
    them, tuned for its sibling: see :func:`warning`.
    """
    if engine.toolchain != name:
        parts = [f"toolchain {engine.toolchain} (here: {name})"]
    else:
        here, there = hardware.identity(), engine.manifest.machine
        now, then = maker(releases.require()), engine.manifest.maker
        pairs = [("compute capability", there.get("compute_capability"), here.get("compute_capability"))]
        pairs += [(package, then.get(package), now[package]) for package in now]
        parts = [f"{what} {was} (here: {found})" for what, was, found in pairs if was != found]
    too_many = refusal_of(engine, hardware.look()) if engine.tp_size > 1 else None
    if not parts:
        return too_many
    return (
        f"This engine was built for {'; '.join(parts)}, and is not loaded here. Engines are compiled for one kind of "
        f"GPU and one release. Build it again: {rebuild_command(engine, 1 if too_many else None)}"
    )


def warning(engine: Engine) -> str:
    """What to keep in mind about an engine of another product of the same capability; empty for this very product."""
    here, there = hardware.identity().get("gpu"), engine.manifest.machine.get("gpu")
    if here == there:
        return ""
    return (
        f"Built and tuned on another product, the {there}: it runs on the {here}, since both have the same compute "
        f"capability, but perhaps not at its best. To tune it here: {rebuild_command(engine)}"
    )


def about(engine: Engine) -> Card:
    """What an engine is tied to, and whether it runs here."""
    return base.about(engine, refusal(engine), warning(engine))


def from_elsewhere(engine: Engine) -> Engine:
    """A copy of an engine that claims to have been built for a GPU of another generation (for notebook 03)."""
    other = ("NVIDIA H100 80GB HBM3", "9.0")
    if engine.manifest.machine.get("compute_capability") == other[1]:
        other = ("NVIDIA GeForce RTX 4090", "8.9")
    return disguised(engine, gpu=other[0], compute_capability=other[1])


def _model(engine: Engine) -> Model:
    """The model that an engine was built from; its folder has the tokenizer and the settings."""
    from helpers import models

    return models.find(str(engine.manifest.options["model"]))


def _warn_of_shared_memory(engine: Engine) -> None:
    """Print one line before ranks meet in a /dev/shm that may be too small for them."""
    warned = hardware.shared_memory_warning(hardware.look(), engine.tp_size) if engine.tp_size > 1 else ""
    if warned:
        print(warned)


def generate(engine: Engine, prompt: str, max_tokens: int = 96, ignore_eos: bool = False) -> Generation:
    """Continue a prompt greedily, showing the text as it comes.

    Raises:
        WorkshopError: the prompt is no text, the engine does not fit this machine, prompt and answer are longer than
            it was built for, or its process failed.
    """
    require_request(prompt, max_tokens)
    require_fit(sys.modules[__name__], engine)
    longest = int(engine.manifest.options["max_seq_len"])
    if max_tokens >= longest:
        raise WorkshopError(
            f"max_tokens is {max_tokens:,}, and this engine was built for {longest:,} tokens of prompt and answer "
            "together. Ask for fewer, or build one for longer sequences."
        )
    note = warning(engine)
    if note:
        print(note)
    _warn_of_shared_memory(engine)
    installation, gpus = releases.require(), engine.tp_size
    command = commands.generate(
        *(str(installation.python), str(engine.path), str(_model(engine).path), prompt),
        *(max_tokens, ignore_eos, gpus, side_effects(engine.precision, engine.kv).reuse),
    )
    environment = releases.worker_environment(installation, gpus)
    return converse(engine, command, prompt, max_tokens, ignore_eos, environment, _LOAD_LIMIT)


def serve_options(engine: Engine) -> ServeOptions:
    """What ``trtllm-serve`` is told unless a recipe says otherwise: all that the engine was built for."""
    options = engine.manifest.options
    return ServeOptions(Sizes(*(int(options[field]) for field in Sizes.__dataclass_fields__)))


def serve_command(engine: Engine, options: ServeOptions) -> ServeCommand:
    """What starts ``trtllm-serve`` on an engine (notebook 07); starts nothing.

    Raises:
        WorkshopError: the engine does not fit this machine, was built for less than ``options`` ask for, or cannot read
            prompts in chunks.
    """
    require_fit(sys.modules[__name__], engine)
    require_sizes(engine, options, serve_options(engine).sizes)
    installation, gpus = releases.require(), engine.tp_size
    release = releases.release(installation.version)
    files = settings_file(options, side_effects(engine.precision, engine.kv).reuse)
    command = commands.serve(
        str(installation.program("trtllm-serve")),
        str(engine.path),
        str(_model(engine).path),
        options.sizes,
        release.engine_backend,
        gpus,
        options.host,
        options.port,
        options.kv_share,
        *(f"{RUN}/{name}" for name in files),
    )
    installation.require("trtllm-serve", *(word for word in command if word.startswith("--")))
    warnings = [warning(engine), hardware.shared_memory_warning(hardware.look(), gpus) if gpus > 1 else ""]
    environment = releases.worker_environment(installation, gpus)
    return ServeCommand(command, engine.path.name, environment, files, tuple(filter(None, warnings)))


def score(engine: Engine) -> Any:
    """Negative log-likelihood (nats) of each held-out token under the engine's arithmetic; shape [tokens].

    An engine that keeps the logits of every token is large in use, so scoring has one of its own with small limits,
    built from the same checkpoint. The tokens are those of :attr:`helpers.checkpoint.Checkpoint.nll`, in the same
    order.

    Logits of a prompt come from the context phase. Without paged context FMHA (:func:`kv_choices`: no block reuse) that
    phase attends to keys and values before they are rounded into the KV cache, so the figure does not contain the
    cache's rounding: this prints so. The checkpoint's own figure contains it.

    Raises:
        WorkshopError: the engine does not fit this machine, or a stage failed.
    """
    import numpy as np

    require_fit(sys.modules[__name__], engine)
    installation, model = releases.require(), _model(engine)
    if not side_effects(engine.precision, engine.kv).reuse:
        print(
            "Note: this engine reads a prompt before its keys and values are rounded to "
            f"{checkpoint.KV_TITLES[engine.kv]}, so this perplexity is that of the weights alone. The checkpoint's "
            "contains the KV cache's rounding."
        )
    texts = int(engine.manifest.options["calibration_texts"])
    source = base.quantized(model, engine.precision, engine.kv, True, engine.tp_size, texts)
    scoring = _built(model, source, engine.precision, scoring=True)
    _warn_of_shared_memory(engine)
    task = _stage(
        installation,
        engine.tp_size,
        title=f"Perplexity of {model.source}, {engine.full_title}, {title}",
        kind="score",
        command=commands.score(
            *(str(installation.python), str(scoring.path), str(model.path), str(checkpoint.HELD_OUT), "{out}"),
            engine.tp_size,
        ),
        target=workspace.home() / "scores" / model.folder / engine.path.name,
        inputs={
            "checkpoint": scoring.manifest.inputs["checkpoint"],
            "held-out text": workspace.digest(checkpoint.HELD_OUT),
            "worker": workspace.digest(_WORKERS / "trtllm_score.py"),
        },
        machine=hardware.identity(),
        expected=["nll.npy"],
        time_limit=_BUILD_LIMIT,
    )
    return np.load(stage.run(task).path / "nll.npy")


def batch(engine: Engine, budget: int, load: Load | None = None) -> BatchRun:
    """Hand many requests to an engine at once, its KV cache held to a number of bytes (a stage).

    Args:
        engine: built by this toolchain.
        budget: bytes of the KV cache on each GPU; rounded down to whole blocks.
        load: the requests; None for the usual ones.

    Raises:
        WorkshopError: the engine does not fit this machine, the budget does not hold one request, the requests are
            longer than it was built for, or the stage failed.
    """
    require_fit(sys.modules[__name__], engine)
    load = load or Load()
    installation, model = releases.require(), _model(engine)
    gpus = engine.tp_size
    _warn_of_shared_memory(engine)
    pool = pool_of(engine, memory.Shape.of(model.config), budget, load)
    task = _stage(
        installation,
        gpus,
        title=f"{load.requests} requests at once, {engine.full_title}, {title}",
        kind="batch",
        command=commands.batch(
            *(str(installation.python), str(engine.path), str(model.path), str(checkpoint.HELD_OUT), load),
            *(pool.blocks, pool.block, "{out}", gpus),
        ),
        target=batching.target(engine, budget, load),
        options=batching.options(engine, budget, load, pool.bytes_per_token, pool.blocks * pool.block),
        inputs={
            "engine": workspace.digest(engine.path / "config.json", *sorted(engine.path.glob("rank*.engine"))),
            "held-out text": workspace.digest(checkpoint.HELD_OUT),
            "worker": workspace.digest(_WORKERS / "trtllm_batch.py"),
        },
        machine=hardware.identity(),
        expected=["run.json"],
        time_limit=_BUILD_LIMIT,
    )
    made = stage.run(task)
    return BatchRun(made.path, made.manifest, made.reused, made.log)


def counts(engine: Engine) -> dict[str, int]:
    """How many operations of each type the compiler made, asked of TensorRT's own inspector (a short stage)."""
    require_fit(sys.modules[__name__], engine)
    installation = releases.require()
    task = _stage(
        installation,
        title=f"Operations in the {engine.title} engine",
        kind="inspection",
        command=commands.inspect(str(installation.python), str(engine.path), "{out}"),
        target=workspace.home() / "inspections" / engine.path.parent.name / engine.path.name,
        inputs={
            "engine": workspace.digest(engine.path / "config.json", engine.path / "rank0.engine"),
            "worker": workspace.digest(_WORKERS / "trtllm_inspect.py"),
        },
        expected=["operations.json"],
        time_limit=_LOAD_LIMIT,
    )
    return dict(json.loads((stage.ensure(task).path / "operations.json").read_text())["after"])


def operations(engine: Engine) -> Table:
    """What the compiler made of the graph, by type; what went in, TensorRT does not keep."""
    found = sorted(counts(engine).items(), key=lambda pair: -pair[1])
    rows = [[kind, count] for kind, count in found] + [["all types", sum(count for _, count in found)]]
    return Table(
        ["operation", "in the engine"],
        rows,
        caption=f"What TensorRT compiled: the {engine.title} engine, first rank",
        note="TensorRT keeps only what came out; the graph that went in is not in an engine.",
    )


def operations_drawn(engine: Engine) -> Picture:
    """The commonest types of operations in the engine."""
    found = sorted(counts(engine).items(), key=lambda pair: -pair[1])[:6]
    labels, numbers = [kind for kind, _ in found], [count for _, count in found]
    return plots.bars(labels, numbers, "operations", "measured: operations in the engine, by type")
