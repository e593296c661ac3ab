"""Notebooks 01 to 07, executed as on pods: every cell, on doubles of the GPU, its driver and NVIDIA's programs.

What a learner sees there is read from the executed copies; ``make verify-gpu`` is what runs them, as on a real pod.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import doubles
import pytest
from conftest import ROOT
from pods import Pod, a10g, old_driver, rtx_4090

pytestmark = [pytest.mark.notebooks, pytest.mark.slow]

NUMBERS = ("01", "02", "03", "04", "05", "06", "07")
# 05 to 07 make many checkpoints and engines, which takes minutes: an A10G's choice of KV caches is a CPU's, and its
# builds, like those for two GPUs, are tested in test_tensorrt_llm.py; a pod without TensorRT-LLM is any CPU.
UP_TO_04 = NUMBERS[:4]


def run(pod: Pod, program: str, out: Path, numbers: tuple[str, ...] = NUMBERS) -> "subprocess.CompletedProcess[str]":
    """Run the notebooks on a pod with one of the tools."""
    return pod.run([sys.executable, "-m", program, "--only", *numbers, "--out", out], seconds=2400)


def cells(out: Path, number: str) -> list[dict[str, Any]]:
    """The executed code cells of one notebook."""
    [file] = (out / "notebooks").glob(f"{number}_*.ipynb")
    return [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]


def shown(out: Path, number: str) -> str:
    """Everything that a notebook shows, as plain text."""
    parts = []
    for cell in cells(out, number):
        for output in cell["outputs"]:
            text = output.get("text") or output.get("data", {}).get("text/plain") or output.get("traceback", [])
            parts.append("".join(text))
    return "\n".join(parts)


@pytest.fixture(scope="module")
def ada(tmp_path_factory, in_order, shared_home) -> tuple[Pod, Path, "subprocess.CompletedProcess[str]"]:
    """The RTX 4090 pod after ``make verify-gpu``, with a laptop's checkpoints: the A10G makes its own."""
    folder = tmp_path_factory.mktemp("rtx-4090")
    pod = rtx_4090(folder)
    shutil.copytree(shared_home / "checkpoints", pod.home / "checkpoints")
    return pod, folder / "build", run(pod, "tools.verify_gpu", folder / "build")


@pytest.fixture(scope="module")
def ampere(tmp_path_factory) -> tuple[Pod, Path, "subprocess.CompletedProcess[str]"]:
    """The A10G pod after ``make verify-gpu``."""
    folder = tmp_path_factory.mktemp("a10g")
    pod = a10g(folder)
    return pod, folder / "build", run(pod, "tools.verify_gpu", folder / "build", UP_TO_04)


def test_a_4090_pod_runs_every_cell_with_fp8(ada):
    _, out, done = ada
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(cell["execution_count"] for number in NUMBERS for cell in cells(out, number))
    assert "NVIDIA GeForce RTX 4090" in shown(out, "01")
    assert "TensorRT-LLM 1.2.1" in shown(out, "02") and "adopted" in shown(out, "02")
    assert "trtllm-build" in shown(out, "03") and "compute_capability 8.9" in shown(out, "03")
    assert "Engine of bundled, FP8 (E4M3), TensorRT-LLM on the GPU" in shown(out, "04")
    text = shown(out, "05")
    for kv in ("FP8", "INT8"):
        assert f"Engine of bundled, FP16 weights, {kv} KV cache, TensorRT-LLM on the GPU" in text
        assert f"In the same 12,582,912 bytes, {kv} holds 2.00 times the tokens of 16-bit." in text
    assert "--use_paged_context_fmha disable" in text
    text = shown(out, "06")
    assert "bundled over 2 ranks, CPU" in text, "one GPU cannot hold two ranks of NCCL"
    assert "All within 0.0001" in text and "One GPU here: nothing to probe" in text
    assert "No two GPUs of a kind here" in text
    text = shown(out, "07")
    assert "tensorrt_llm-fp8-b64-in1000-seq2000-t8192" in text and "trtllm-serve" in text
    assert "96 of 96 answered" in text
    assert re.search(r"Asked: trtllm-serve 1\.2\.1", text) and "checks passed" in text and "none failed" in text
    unwrapped = " ".join(text.split())
    faster = re.search(r"was \d+\.\d times as fast as the one with |They were about equally fast, ", unwrapped)
    assert faster, "which of the two engines was faster, as measured"


def test_an_a10g_pod_runs_every_cell_with_int8(ampere):
    _, out, done = ampere
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(cell["execution_count"] for number in UP_TO_04 for cell in cells(out, number))
    assert "TensorRT-LLM 1.0.0" in shown(out, "02")
    text = shown(out, "04")
    assert "The best 8 bits here: INT8 ('int8')" in text
    assert "Engine of bundled, INT8, TensorRT-LLM on the GPU" in text
    assert "Engine of bundled, FP8" not in text


def test_the_report_names_gpu_driver_release_and_what_was_built(ada, ampere):
    for (_, out, _), facts in (
        (ada, ("NVIDIA GeForce RTX 4090, driver 580.65.06, TensorRT-LLM 1.2.1", "FP8 (E4M3), TensorRT-LLM")),
        (ampere, ("NVIDIA A10G, driver 550.144.03, TensorRT-LLM 1.0.0", "INT8, TensorRT-LLM")),
    ):
        report = (out / "verify-gpu.md").read_text()
        assert report.startswith("Last verified on ")
        for fact in (*facts, "| 03_fp16_build |", "| 04_fp8_build |", "Perplexity of"):
            assert fact in report


def test_no_weight_leaves_the_gpu_route_for_the_cpu_one(ada):
    pod, _, _ = ada
    assert not (pod.home / "graphs").exists(), "OpenVINO was used on a pod that has TensorRT-LLM"


def test_a_pod_whose_driver_is_too_old_is_told_so_and_uses_the_cpu(made_by_notebooks, shared_home, tmp_path):
    pod = Pod("old-driver", shared_home)
    done = run(pod, "tools.run_notebooks", tmp_path / "build", UP_TO_04)
    assert done.returncode == 0, done.stdout + done.stderr
    for number in UP_TO_04:
        assert "OpenVINO on the CPU" in shown(tmp_path / "build", number)
    assert "Driver 470.256.02 is too old for TensorRT-LLM" in shown(tmp_path / "build", "01")
    assert "470.256.02" in shown(tmp_path / "build", "02")


def test_there_is_nothing_to_verify_without_a_gpu_that_fits(tmp_path):
    for pod in (old_driver(tmp_path), Pod("t4", tmp_path / "t4")):
        done = pod.run([sys.executable, "-m", "tools.verify_gpu", "--out", tmp_path / "build"])
        assert done.returncode == 1
        assert done.stderr.startswith("There is nothing to verify on this machine: ")
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "build").exists()


def test_the_doubles_stay_out_of_the_way_of_what_is_shipped():
    for folder in ("helpers", "tools", "notebooks"):
        for file in (ROOT / folder).rglob("*.py"):
            assert "DOUBLE_" not in file.read_text() and "import double" not in file.read_text(), file
    assert doubles.SITE.is_relative_to(ROOT / "tests")
