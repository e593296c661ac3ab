"""TensorRT-LLM's PyTorch back end as a toolchain: nothing is built, a Hugging Face folder is served (on doubles)."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from doubles import make_release, pod

from helpers import after_engines, toolchains, workspace
from helpers.errors import WorkshopError
from helpers.plots import stages
from helpers.releases import table
from helpers.toolchains import tensorrt_llm_pytorch
from helpers.toolchains.base import Toolchain

MODEL = workspace.DATA / "model"


def test_it_has_every_function_of_a_toolchain():
    functions = [name for name in vars(Toolchain) if not name.startswith("_")]
    assert len(functions) > 10
    assert all(hasattr(tensorrt_llm_pytorch, name) for name in functions)
    assert tensorrt_llm_pytorch.name in toolchains.NAMES
    assert set(toolchains.NAMES) == set(stages.STAGES) == set(stages.ENDINGS)


@pytest.mark.parametrize(
    ("gpu", "offered"),
    [("a10g", ("fp16", "int4_awq")), ("rtx-4090", ("fp16", "fp8", "int4_awq")), ("b200", ("fp16", "fp8"))],
)
def test_a_gpu_has_the_precisions_of_nvidias_table(gpu, offered):
    assert tensorrt_llm_pytorch.choices(gpu).offered == offered


def test_an_a10g_is_told_why_not_fp8_and_what_instead():
    with pytest.raises(WorkshopError, match="Ampere has no FP8 in its tensor cores") as refused:
        tensorrt_llm_pytorch.choices("a10g").require("fp8")
    assert "Take 'int4_awq' instead, the best here: there is none of 8 bits." in str(refused.value)
    assert "There is none of 8 bits here" in str(tensorrt_llm_pytorch.choices("a10g"))


def test_what_went_with_the_engines_is_refused_on_every_gpu():
    for gpu in ("a10g", "rtx-4090", "h100", "b200", "rtx-5090"):
        for precision in ("int8", "int8_wo"):
            with pytest.raises(WorkshopError, match="went with the engine workflow"):
                tensorrt_llm_pytorch.choices(gpu).require(precision)
        with pytest.raises(WorkshopError, match="An INT8 KV cache went with the engine workflow"):
            tensorrt_llm_pytorch.kv_choices(gpu).require("fp16", "int8")
        tensorrt_llm_pytorch.kv_choices(gpu).require("fp16", "fp8")


def test_each_stage_stands_beside_its_replacement():
    made = after_engines.stages(gpu="rtx-4090")
    rows = {name: (old, new) for name, _, _, old, new in made.rows}
    assert list(rows) == ["convert", "quantize", "build", "generate", "serve"]
    assert "trtllm-build" in rows["build"][0]
    assert rows["build"][1] == ""
    assert "--format hf" in rows["quantize"][1]
    assert "--backend tensorrt" in rows["serve"][0]
    assert "--backend pytorch" in rows["serve"][1]
    assert "--tokenizer" not in rows["serve"][1]
    assert "4 commands in the engine workflow, 3 in the PyTorch back end." in str(made.table())


def test_an_a10g_compares_int4_and_a_4090_fp8():
    assert after_engines.shared("a10g") == "int4_awq"
    assert after_engines.shared("rtx-4090") == "fp8"
    assert "W4A16" not in str(after_engines.preview("fp16", "a10g"))
    with pytest.raises(WorkshopError, match="Ampere has no FP8"):
        after_engines.preview("fp8", "a10g")


def test_what_was_removed_and_when_is_told_with_its_sources():
    assert "trtllm-build, trtllm-refit, trtllm-prune" in str(after_engines.removed())
    assert all(row[2] for row in after_engines.events().rows)
    assert after_engines.facts()["first_without"] in {release.version for release in table.releases()}
    picture = after_engines.timeline()
    assert picture.svg == after_engines.timeline().svg
    assert "2026-07-02" in picture.text


def test_where_no_tensorrt_llm_is_used_both_ways_are_previewed(monkeypatch):
    monkeypatch.setenv("WORKSHOP_TOOLCHAIN", "openvino")
    assert "Not measured: this machine has no GPU" in str(after_engines.both())


# --- On doubles of a pod ----------------------------------------------------------


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    return make_release(tmp_path_factory.mktemp("release") / "1.2.1", "1.2.1")


def on(machine: str, home: Path, python: Path, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **pod(machine, home, python, **more)}
    command = [str(python), *words]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, cwd=workspace.REPOSITORY
    )


@pytest.fixture
def quantized(tmp_path) -> Path:
    """A Hugging Face folder that says that it is in FP8: what a GPU without FP8 refuses before it reads the weights."""
    folder = tmp_path / "fp8"
    shutil.copytree(MODEL, folder)
    told = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}}
    (folder / "hf_quant_config.json").write_text(json.dumps(told))
    return folder


LOAD = """
import sys
from tensorrt_llm import LLM
from tensorrt_llm.llmapi import KvCacheConfig
for call in sys.argv[1:]:
    try:
        eval(call)
    except (ValueError, RuntimeError) as refused:
        print(f"@{type(refused).__name__}: {refused}")
"""


def refusals(done: "subprocess.CompletedProcess[str]") -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("@")]


@pytest.mark.slow
def test_the_double_refuses_keywords_that_the_class_does_not_know(python, tmp_path):
    calls = [f"LLM(model={str(MODEL)!r}, {word})" for word in ("build_config=1", "max_batchsize=8")]
    done = on("rtx-4090", tmp_path / "home", python, "-c", LOAD, *calls, "KvCacheConfig(type='fp8')")
    told = refusals(done)
    assert len(told) == 3, done.stderr
    assert all("@ValueError: LLM got invalid argument" in line for line in told[:2])
    assert "has no parameter type" in told[2]


@pytest.mark.slow
def test_the_double_refuses_fp8_weights_on_a_gpu_without_fp8(python, tmp_path, quantized):
    done = on("a10g", tmp_path / "home", python, "-c", LOAD, f"LLM(model={str(quantized)!r})")
    assert "FP8 is not supported" in refusals(done)[0], done.stderr


@pytest.mark.slow
def test_the_double_serves_neither_an_engine_by_pytorch_nor_a_folder_by_tensorrt(python, tmp_path):
    engine = tmp_path / "engine"
    engine.mkdir()
    (engine / "config.json").write_text(json.dumps({"build_config": {}, "pretrained_config": {}}))
    program = str(python.parent / "trtllm-serve")
    wrong = on("rtx-4090", tmp_path / "home", python, program, "serve", str(engine), "--backend", "pytorch")
    assert "Should have a `model_type` key" in wrong.stderr
    other = on("rtx-4090", tmp_path / "home", python, program, "serve", str(MODEL), "--backend", "tensorrt")
    assert "give it an engine" in other.stderr
