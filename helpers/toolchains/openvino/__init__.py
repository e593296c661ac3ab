"""The CPU toolchain: OpenVINO builds the engine, OpenVINO GenAI runs it.

The same ideas as TensorRT-LLM under the same knobs: a graph is exported once, quantized by NNCF with calibration on the
same texts, compiled for this very CPU, and the compiled form is what the pipeline loads at start.
Everything runs in child processes, as it does with TensorRT-LLM.
"""

import json
import os
import subprocess
import sys
import sysconfig
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from helpers import checkpoint, looks, memory, plots, progress, stage, workspace
from helpers.cards import Card, Picture, Table
from helpers.errors import WorkshopError
from helpers.hardware import cpu_identity
from helpers.models import Model
from helpers.toolchains import base, batching
from helpers.toolchains.base import Engine, disguised, rebuild_command, require_fit
from helpers.toolchains.batching import BatchRun, Load
from helpers.toolchains.choices import AUTO, CHECKPOINTS, TITLES, Choices, KvChoice, KvChoices
from helpers.toolchains.generation import Generation, converse, require_request
from helpers.toolchains.openvino import commands
from helpers.toolchains.serving import ServeCommand, ServeOptions
from helpers.toolchains.sizes import Sizes
from helpers.workspace import Artifact

name = "openvino"
title = "OpenVINO on the CPU"
default_model = "bundled"  # small enough that a laptop builds it in seconds
# OpenVINO and NNCF send usage data and write into the home folder unless they believe to run in CI.
_QUIET = {"CI": "true", "NNCF_CI": "1", "TOKENIZERS_PARALLELISM": "false"}
_PLANNED = {None: None, "int8": "u8"}
"""What :mod:`helpers.memory` calls those that can be built."""

EITHER = "OpenVINO can limit how many requests run at once, or read long prompts in pieces, but not both."
_BATCH = 32  # requests at once, where nobody says how many; more gain little on a few cores
_PACKAGES = ("openvino", "openvino-genai", "openvino-tokenizers", "nncf", "optimum-intel")


def release() -> dict[str, str]:
    """The packages that decide what an engine looks like, and their versions."""
    return {package: _version(package) for package in ("openvino", "openvino-genai", "nncf")}


def graph_maker() -> dict[str, str]:
    """The packages that decide what a graph looks like, and their versions."""
    return {package: _version(package) for package in ("optimum-intel", "openvino", "torch", "transformers")}


@cache
def _version(package: str) -> str:
    """A package's version; read once, since the progress board asks for each of them dozens of times."""
    return version(package)


def choices() -> Choices:
    """Which precisions an engine for this CPU can have."""
    said = {
        "fp16": "16-bit weights, the starting point.",
        "fp8": "8-bit weights and activations; a CPU has no FP8 arithmetic and widens them to multiply.",
        "int8": "8-bit weights and activations.",
        "int8_wo": "only the TensorRT-LLM toolchain builds it.",
        "int4_awq": "only the TensorRT-LLM toolchain builds it; its checkpoint is made here all the same.",
    }
    return Choices(cpu_identity()["cpu"], said, ("fp16", "fp8", "int8"))


@cache
def _refused_kv(kind: str) -> str:
    """What the CPU plugin says against keeping the KV cache in ``kind``; empty if it takes the setting.

    It looks at the setting when it compiles, whatever the graph is: the smallest will do.
    """
    import numpy as np
    import openvino as ov

    x = ov.opset13.parameter([1], np.float32)
    try:
        ov.Core().compile_model(ov.Model([ov.opset13.relu(x)], [x]), "CPU", {"KV_CACHE_PRECISION": kind})
    except RuntimeError as refusal:
        lines = [line.strip() for line in str(refusal).splitlines()]
        return next((line for line in lines if "KV_CACHE_PRECISION" in line), lines[-1])
    return ""


def kv_choices() -> KvChoices:
    """Which KV caches an engine for this CPU can have; the plugin itself is asked for FP8."""
    refused = _refused_kv(commands.KV["fp8"])
    fp8 = f'the CPU plugin refuses it: "{refused}".' if refused else "the CPU plugin takes it, but it was never tried."
    said = {
        None: (True, "16-bit keys and values (f16), the starting point."),
        "int8": (
            True,
            "8 bits (u8) with a scale and a zero point for each head of each token: n + 8 bytes for a head of n "
            "numbers, where 16 bits take 2 n.",
        ),
        "fp8": (False, fp8),
    }
    rows = [
        KvChoice(p, kv, offered, True if offered else None, why)
        for p in choices().offered
        for kv, (offered, why) in said.items()
    ]
    note = "Reuse of KV blocks and chunked prompts work with all of them: this pipeline does not tie them to precision."
    return KvChoices(cpu_identity()["cpu"], tuple(rows), note)


def export(model: Model) -> Artifact:
    """Trace the model into an OpenVINO graph with FP16 weights; done once, whatever precisions follow."""
    program = Path(sysconfig.get_path("scripts")) / "optimum-cli"
    return stage.ensure(
        stage.Stage(
            title=f"OpenVINO graph of {model.name}",
            kind="graph",
            command=commands.export(str(program), str(model.path), "{out}"),
            target=workspace.home() / "graphs" / model.folder,
            inputs={"model": model.digest},
            maker=graph_maker(),
            environment={**_QUIET, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
            expected=["openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml"],
            space=3 * model.bytes,
        )
    )


def ranks(model: Model) -> list[int]:
    """The numbers of ranks that an engine can have here: one, for an OpenVINO engine runs whole on this CPU."""
    return [1]


def require_whole(tp_size: int) -> None:
    """Refuse to split an engine.

    Raises:
        WorkshopError: it is to be of several ranks.
    """
    if tp_size != 1:
        raise WorkshopError(
            f"An OpenVINO engine runs whole on this CPU, so tp_size is 1 here, not {tp_size!r}: leave it out. What "
            "splits a model on every machine is helpers.tensor_parallel (notebook 06)."
        )


def build(
    model: Model,
    precision: str = "fp16",
    kv: str | None = AUTO,
    tp_size: int = 1,
    sizes: Sizes | None = None,
    calibration_texts: int = checkpoint.CALIBRATION_TEXTS,
) -> Engine:
    """Compile a model for this CPU.

    Args:
        model: from :func:`helpers.models.find`.
        precision: ``fp16``; ``fp8`` (E4M3) or ``int8`` weights and activations of every linear layer but the last,
            calibrated on ``data/calibration``.
        kv: of the KV cache: None for 16 bits, which is also what :data:`AUTO` means here; ``int8``.
        tp_size: 1; an engine of this toolchain is not split.
        sizes: not looked at: an OpenVINO engine has no limits of its own, its server has (:func:`serve_options`).
        calibration_texts: how many of the calibration texts the quantizer looks at.

    Raises:
        WorkshopError: an unknown precision, a KV cache that cannot be built, another tp_size, or a failed stage.
    """
    require_whole(tp_size)
    choices().require(precision)
    kv = None if kv == AUTO else kv
    if kv is not None:
        kv_choices().require(precision, kv)
    graph = export(model)
    inputs = {
        "model": model.digest,
        "graph": workspace.digest(graph.path / "openvino_model.bin"),
        "worker": build_worker(),
    }
    texts = checkpoint.texts_used(CHECKPOINTS[precision], None, calibration_texts)
    if texts:
        inputs["calibration"] = workspace.digest(checkpoint.CALIBRATION)
    folder = engine_folder(precision, kv, calibration_texts)
    made = stage.run(
        stage.Stage(
            title=f"Engine of {model.name}, {_named(precision, kv)}, {title}",
            kind="engine",
            command=commands.build(sys.executable, str(graph.path), precision, kv, calibration_texts, "{out}"),
            target=workspace.home() / "engines" / model.folder / folder,
            options={
                "toolchain": name,
                "model": model.source,
                "precision": precision,
                "kv": kv or "",
                "calibration_texts": texts,
            },
            inputs=inputs,
            maker=release(),
            machine=cpu_identity(),
            environment=_QUIET,
            expected=["graph/openvino_model.xml", "compiled/*.blob", "operations.json"],
            space=4 * model.bytes,
        )
    )
    return Engine(made.path, made.manifest, made.reused, made.log)


def build_worker() -> str:
    """One digest of the worker that builds engines, as it is now."""
    return workspace.digest(commands.WORKERS / "openvino_build.py", commands.WORKERS / "openvino_pipeline.py")


def engine_folder(precision: str, kv: str | None, calibration_texts: int) -> str:
    """The name of an engine's folder, below that of its model; the arguments are those of :func:`build`."""
    suffix = checkpoint.calibration_suffix(CHECKPOINTS[precision], None, calibration_texts)
    return base.engine_folder(name, precision, kv, usual=None, calibration=suffix)


def _named(precision: str, kv: str | None) -> str:
    """An engine's precision in a title; its KV cache too where that is not the usual one."""
    return checkpoint.full_title(TITLES[precision], kv) if kv else TITLES[precision]


def refusal(engine: Engine) -> str | None:
    """Why this engine cannot run here, with the command that rebuilds it; None if it can."""
    here, there = cpu_identity(), engine.manifest.machine
    parts = [f"{key} {there.get(key)!r} (here: {here[key]!r})" for key in here if there.get(key) != here[key]]
    now, then = release(), engine.manifest.maker
    parts += [f"{key} {then.get(key)} (here: {now[key]})" for key in now if then.get(key) != now[key]]
    if engine.toolchain != name:
        parts = [f"toolchain {engine.toolchain} (here: {name})"]
    if not parts:
        return None
    return (
        f"This engine was built for {'; '.join(parts)}, and is not loaded here. Engines are compiled for one machine "
        f"and one release. Build it again: {rebuild_command(engine, tp_size=1)}"
    )


def generate(engine: Engine, prompt: str, max_tokens: int = 96, ignore_eos: bool = False) -> Generation:
    """Continue a prompt greedily, showing the text as it comes.

    Args:
        engine: from :func:`build`.
        prompt: plain text.
        max_tokens: stop after so many; an end-of-sequence token ends it sooner unless ``ignore_eos``.

    Raises:
        WorkshopError: the prompt is no text, the engine does not fit this machine, prompt and answer are longer than
            its model can read, or its process failed.
    """
    require_request(prompt, max_tokens)
    require_fit(sys.modules[__name__], engine)
    _require_room(engine, prompt, max_tokens)
    request = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": ignore_eos}
    command = [sys.executable, str(commands.WORKERS / "openvino_generate.py"), str(engine.path), json.dumps(request)]
    command += ["--kv-cache", commands.KV[engine.kv]]
    return converse(engine, command, prompt, max_tokens, ignore_eos)


def _require_room(engine: Engine, prompt: str, max_tokens: int) -> None:
    """Refuse what the model cannot read: it was trained on no positions beyond.

    Raises:
        WorkshopError: prompt and answer together are longer.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(engine.path / "graph" / "tokenizer.json"))
    asked, longest = len(tokenizer.encode(prompt).ids), _shape(engine).positions
    if asked + max_tokens > longest:
        raise WorkshopError(
            f"The prompt has {asked:,} tokens and max_tokens is {max_tokens:,}; this engine's model reads {longest:,} "
            "of both together. Shorten the prompt, or ask for fewer."
        )


def serve_options(engine: Engine) -> ServeOptions:
    """What the CPU server is told unless a recipe says otherwise.

    A step takes a whole prompt of any length that the model can read, since a batch ceiling and chunked prompts exclude
    each other in OpenVINO's scheduler, and the ceiling is what TensorRT-LLM's engines have.
    """
    longest = memory.longest_sequence(_shape(engine))
    return ServeOptions(Sizes(_BATCH, longest, longest - 1, longest))


def serve_command(engine: Engine, options: ServeOptions) -> ServeCommand:
    """What starts the CPU server on an engine (notebook 07); starts nothing.

    Raises:
        WorkshopError: the engine does not fit this machine, or the options ask for more than the model can read.
    """
    require_fit(sys.modules[__name__], engine)
    sizes, positions = options.sizes, _shape(engine).positions
    if sizes.max_seq_len > positions:
        raise WorkshopError(
            f"max_seq_len is {sizes.max_seq_len:,}, and this model reads {positions:,} tokens at most (its positions). "
            f"Choose prompt and answer of at most {positions:,} together."
        )
    request = commands.request_blocks(options)
    if commands.blocks(options) < request:
        raise WorkshopError(
            f"A KV cache of {options.kv_tokens:,} tokens does not hold one request of {sizes.max_seq_len:,}. Give it "
            f"at least {request * commands.TOKENS_PER_BLOCK:,}."
        )
    command = commands.serve(sys.executable, str(engine.path), engine.kv, options)
    note = (
        f"reads pieces of {sizes.max_num_tokens:,} tokens at most."
        if options.chunked_prefill
        else f"has the limit: {sizes.max_batch_size:,} requests."
    )
    return ServeCommand(command, engine.path.name, {**os.environ, **_QUIET}, notes=(f"{EITHER} This server {note}",))


def _shape(engine: Engine) -> memory.Shape:
    """The shape of the model in an engine."""
    return memory.Shape.of(json.loads((engine.path / "graph" / "config.json").read_text()))


def batch(engine: Engine, budget: int, load: Load | None = None) -> BatchRun:
    """Hand many requests to an engine at once, its KV cache held to a number of bytes, as a stage (notebook 05).

    Args:
        engine: from :func:`build`.
        budget: bytes of KV cache, rounded down to whole blocks.
        load: the requests; None for those of :class:`Load` itself.

    Raises:
        WorkshopError: a budget that holds not even one request, a load that the model cannot take, an engine that does
            not fit this machine, or a failed stage.
    """
    require_fit(sys.modules[__name__], engine)
    load = load or Load()
    shape = _shape(engine)
    batching.require_load(load, budget, shape.positions)
    each = memory.kv_bytes_per_token(shape, _PLANNED[engine.kv])
    blocks = batching.blocks_within(load, budget, each, commands.TOKENS_PER_BLOCK)
    worker = commands.WORKERS / "openvino_batch.py"
    command = [sys.executable, str(worker), "--engine", str(engine.path), "--kv-cache", commands.KV[engine.kv]]
    command += ["--texts", str(checkpoint.HELD_OUT), *load.options()]
    command += ["--blocks", str(blocks), "--tokens-per-block", str(commands.TOKENS_PER_BLOCK), "--output", "{out}"]
    made = stage.run(
        stage.Stage(
            title=f"{load.requests} requests at once, {engine.full_title}, {title}",
            kind="batch",
            command=command,
            target=batching.target(engine, budget, load),
            options=batching.options(engine, budget, load, each, blocks * commands.TOKENS_PER_BLOCK),
            inputs={
                "engine": workspace.digest(engine.path / "graph"),
                "texts": workspace.digest(checkpoint.HELD_OUT),
                "worker": workspace.digest(worker, commands.WORKERS / "openvino_pipeline.py"),
            },
            maker=release(),
            machine=cpu_identity(),
            environment=_QUIET,
            expected=["run.json"],
        )
    )
    return BatchRun(made.path, made.manifest, made.reused, made.log)


def score(engine: Engine) -> Any:
    """Negative log-likelihood (nats) of each held-out token under the engine's arithmetic; shape [tokens].

    The tokens are those of :attr:`helpers.checkpoint.Checkpoint.nll`, in the same order. Where the KV cache has 8 bits,
    texts go through the engine a few tokens at a time, so that what they read of earlier ones comes from the cache.

    Raises:
        WorkshopError: the engine does not fit this machine, or the stage failed.
    """
    import numpy as np

    require_fit(sys.modules[__name__], engine)
    worker = commands.WORKERS / "openvino_score.py"
    made = stage.run(
        stage.Stage(
            title=f"Perplexity of {engine.manifest.options['model']}, {_named(engine.precision, engine.kv)}, {title}",
            kind="score",
            command=[
                sys.executable,
                str(worker),
                "--engine",
                str(engine.path),
                "--held-out",
                str(checkpoint.HELD_OUT),
                "--kv-cache",
                commands.KV[engine.kv],
                "--output",
                "{out}",
            ],
            options={"kv": engine.kv or ""},
            target=workspace.home() / "scores" / engine.path.parent.name / engine.path.name,
            inputs={
                "engine": workspace.digest(engine.path / "graph"),
                "held-out text": workspace.digest(checkpoint.HELD_OUT),
                "worker": workspace.digest(worker, commands.WORKERS / "openvino_pipeline.py"),
            },
            maker=release(),
            machine=cpu_identity(),
            expected=["nll.npy"],
        )
    )
    return np.load(made.path / "nll.npy")


def operations_drawn(engine: Engine) -> Picture:
    """Operations before and after compilation."""
    counts = [sum(engine.graph[when].values()) for when in ("before", "after")]
    return plots.bars(["before compilation", "after"], counts, "operations", "measured: operations in the graph")


def operations(engine: Engine) -> Table:
    """How compilation changed the graph: the commonest operations before and after, and which came and went."""
    before, after = engine.graph["before"], engine.graph["after"]
    names = sorted(set(before) | set(after), key=lambda n: -(before.get(n, 0) + after.get(n, 0)))
    rows = [[n, before.get(n, 0), after.get(n, 0)] for n in names[:12]]
    rows.append(["all types", sum(before.values()), sum(after.values())])
    gone = ", ".join(f"{before[n]} {n}" for n in names if n not in after)
    new = ", ".join(f"{after[n]} {n}" for n in names if n not in before)
    return Table(
        ["operation", "before", "after"],
        rows,
        caption=f"Graph of the {engine.title} engine, before and after compilation",
        note=f"Of {sum(before.values())} operations, {sum(after.values())} are left. Gone: {gone}. New: {new}.",
    )


def install() -> Table:
    """Say that nothing is to be installed: ``make setup`` brought this toolchain; then one line a check, as a table."""
    found = verify()
    note = "`make setup` brought this toolchain with the notebooks' own environment, so this cell only checked it."
    progress.Live().finish(Card("Nothing to install here", {title: found.note}, note, kind=looks.TOLD))
    return found


def verify() -> Table:
    """One line a check: packages at their pins, a CPU build of torch, and a graph that compiles and computes."""
    pins = _pins()
    rows = [_check_package(package, pins) for package in (*_PACKAGES, "nvidia-modelopt", "transformers", "torch")]
    rows.append(_check_torch())
    rows.append(_check_compile())
    bad = [row for row in rows if row[3] != "ok"]
    note = "Everything is in place." if not bad else f"{len(bad)} of {len(rows)} checks failed: run `make setup` again."
    return Table(["check", "wanted", "found", "verdict"], rows, caption=title, note=note)


def _pins() -> dict[str, str]:
    """Package to pinned version, from ``requirements.txt``."""
    lines = (workspace.REPOSITORY / "requirements.txt").read_text().splitlines()
    pairs = (line.split("#")[0].strip().split("==") for line in lines if "==" in line.split("#")[0])
    return {package.split("[")[0].strip(): pin.split(";")[0].strip() for package, pin in pairs}


def _check_package(package: str, pins: dict[str, str]) -> list[str]:
    wanted = pins.get(package, "(not pinned)")
    try:
        found = version(package)
    except PackageNotFoundError:
        return [package, wanted, "not installed", "missing"]
    return [package, wanted, found, "ok" if found.split("+")[0] == wanted else "another version"]


def _check_torch() -> list[str]:
    """The kernel's torch must be the CPU build: a CUDA build would hold GPU memory in every notebook."""
    code = "import torch; print(torch.version.cuda or 'CPU build')"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout.strip()
    return ["torch is for the CPU", "CPU build", found or "does not import", "ok" if found == "CPU build" else "not ok"]


def _check_compile() -> list[str]:
    """Compile a two-operation graph for this CPU and compare its result with numpy's."""
    import numpy as np
    import openvino as ov

    x = ov.opset13.parameter([2, 2], np.float32)
    graph = ov.Model([ov.opset13.relu(ov.opset13.add(x, x))], [x], "check")
    given = np.array([[1.0, -2.0], [3.0, -4.0]], dtype=np.float32)
    result = ov.Core().compile_model(graph, "CPU")([given])[0]
    right = bool(np.array_equal(result, np.maximum(2 * given, 0)))
    return ["compile and run a graph", "as numpy", "as numpy" if right else "differs", "ok" if right else "not ok"]


def from_elsewhere(engine: Engine) -> Engine:
    """A copy of an engine that claims to have been built for another processor (for notebook 03)."""
    return disguised(engine, cpu="Another Processor 9000")


def about(engine: Engine) -> Card:
    """What an engine is tied to, and whether it runs here."""
    return base.about(engine, refusal(engine))
