"""The CPU toolchain: OpenVINO builds the engine, OpenVINO GenAI runs it.

The same ideas as TensorRT-LLM under the same knobs: a graph is exported once, quantized by NNCF with calibration on the
same texts, compiled for this very CPU, and the compiled form is what the pipeline loads at start.
Everything runs in child processes, as it does with TensorRT-LLM.
"""

import json
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from helpers import checkpoint, plots, stage, workspace
from helpers.cards import Card, Picture, Table
from helpers.hardware import cpu_identity
from helpers.models import Model
from helpers.toolchains import base
from helpers.toolchains.base import (
    TITLES,
    Choices,
    Engine,
    Generation,
    converse,
    disguised,
    rebuild_command,
    require_fit,
)
from helpers.workspace import Artifact

name = "openvino"
title = "OpenVINO on the CPU"
default_model = "bundled"  # small enough that a laptop builds it in seconds
_WORKERS = Path(__file__).parent.parent / "workers"
# OpenVINO and NNCF send usage data and write into the home folder unless they believe to run in CI.
_QUIET = {"CI": "true", "NNCF_CI": "1", "TOKENIZERS_PARALLELISM": "false"}
_PACKAGES = ("openvino", "openvino-genai", "openvino-tokenizers", "nncf", "optimum-intel")


def release() -> dict[str, str]:
    """The packages that decide what an engine looks like, and their versions."""
    return {package: version(package) for package in ("openvino", "openvino-genai", "nncf")}


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


def export(model: Model) -> Artifact:
    """Trace the model into an OpenVINO graph with FP16 weights; done once, whatever precisions follow."""
    program = Path(sysconfig.get_path("scripts")) / "optimum-cli"
    command = [str(program), "export", "openvino", "--model", str(model.path), "--task", "text-generation-with-past"]
    return stage.ensure(
        stage.Stage(
            title=f"OpenVINO graph of {model.name}",
            kind="graph",
            command=[*command, "--weight-format", "fp16", "{out}"],
            target=workspace.home() / "graphs" / model.folder,
            inputs={"model": model.digest},
            maker={package: version(package) for package in ("optimum-intel", "openvino", "torch", "transformers")},
            environment={**_QUIET, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
            expected=["openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml"],
            space=3 * model.bytes,
        )
    )


def build(model: Model, precision: str = "fp16") -> Engine:
    """Compile a model for this CPU.

    Args:
        model: from :func:`helpers.models.find`.
        precision: ``fp16``; ``fp8`` (E4M3) or ``int8`` weights and activations of every linear layer but the last,
            calibrated on ``data/calibration``.

    Raises:
        WorkshopError: an unknown precision, or a failed stage.
    """
    choices().require(precision)
    graph = export(model)
    worker = _WORKERS / "openvino_build.py"
    inputs = {
        "model": model.digest,
        "graph": workspace.digest(graph.path / "openvino_model.bin"),
        "worker": workspace.digest(worker, _WORKERS / "openvino_pipeline.py"),
    }
    command = [sys.executable, str(worker), "--graph", str(graph.path), "--precision", precision]
    if precision != "fp16":
        inputs["calibration"] = workspace.digest(checkpoint.CALIBRATION)
        command += ["--calibration", str(checkpoint.CALIBRATION)]
    made = stage.run(
        stage.Stage(
            title=f"Engine of {model.name}, {TITLES[precision]}, {title}",
            kind="engine",
            command=[*command, "--output", "{out}"],
            target=workspace.home() / "engines" / model.folder / f"{name}-{precision}",
            options={"toolchain": name, "model": model.source, "precision": precision},
            inputs=inputs,
            maker=release(),
            machine=cpu_identity(),
            environment=_QUIET,
            expected=["graph/openvino_model.xml", "compiled/*.blob", "operations.json"],
            space=4 * model.bytes,
        )
    )
    return Engine(made.path, made.manifest, made.reused, made.log)


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
        f"and one release. Build it again: {rebuild_command(engine)}"
    )


def generate(engine: Engine, prompt: str, max_tokens: int = 96, ignore_eos: bool = False) -> Generation:
    """Continue a prompt greedily, showing the text as it comes.

    Args:
        engine: from :func:`build`.
        prompt: plain text.
        max_tokens: stop after so many; an end-of-sequence token ends it sooner unless ``ignore_eos``.

    Raises:
        WorkshopError: the engine does not fit this machine, or its process failed.
    """
    require_fit(sys.modules[__name__], engine)
    request = {"prompt": prompt, "max_tokens": max_tokens, "ignore_eos": ignore_eos}
    command = [sys.executable, str(_WORKERS / "openvino_generate.py"), str(engine.path), json.dumps(request)]
    return converse(engine, command, prompt, max_tokens)


def score(engine: Engine) -> Any:
    """Negative log-likelihood (nats) of each held-out token under the engine's arithmetic; shape [tokens].

    The tokens are those of :attr:`helpers.checkpoint.Checkpoint.nll`, in the same order.

    Raises:
        WorkshopError: the engine does not fit this machine, or the stage failed.
    """
    import numpy as np

    require_fit(sys.modules[__name__], engine)
    worker = _WORKERS / "openvino_score.py"
    made = stage.run(
        stage.Stage(
            title=f"Perplexity of {engine.manifest.options['model']}, {engine.title}, {title}",
            kind="score",
            command=[
                sys.executable,
                str(worker),
                "--engine",
                str(engine.path),
                "--held-out",
                str(checkpoint.HELD_OUT),
                "--output",
                "{out}",
            ],
            target=workspace.home() / "scores" / engine.path.parent.name / engine.path.name,
            inputs={
                "engine": workspace.digest(engine.path / "graph"),
                "held-out text": workspace.digest(checkpoint.HELD_OUT),
                "worker": workspace.digest(worker),
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
    """Nothing to do: ``make setup`` has installed this toolchain with the notebooks' own environment."""
    return verify()


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
