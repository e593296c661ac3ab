"""Engines of several ranks: who may build and load them, and what they are called. Nothing is built here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pods import Pod

from helpers import hardware, memory, models, workspace
from helpers.errors import WorkshopError
from helpers.hardware import Gpu, Machine
from helpers.toolchains import base, openvino
from helpers.toolchains.base import Engine
from helpers.toolchains.tensorrt_llm.ranks import ranks_of, refusal_of, require_ranks

GB = 10**9
BUNDLED = memory.Shape.of(json.loads((workspace.REPOSITORY / "data" / "model" / "config.json").read_text()))
WIDE = replace(BUNDLED, heads=32, kv_heads=8)


def machine(count: int, name: str = "NVIDIA GeForce RTX 4090", *others: Gpu) -> Machine:
    gpus = tuple(Gpu(index, name, (8, 9), 24 * GB, 24 * GB, "580.65.06") for index in range(count))
    return replace(hardware.look(), gpus=gpus + others, driver="580.65.06", cuda="13.0")


def engine(tp_size: int | None, precision: str = "fp16", kv: str = "", toolchain: str = "tensorrt_llm") -> Engine:
    options = {"toolchain": toolchain, "model": "bundled", "precision": precision, "kv": kv}
    options |= {} if tp_size is None else {"tp_size": tp_size}
    made_on = {"gpu": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9"}
    manifest = workspace.Manifest("engine", "an engine", options, {}, {"tensorrt_llm": "1.2.1"}, made_on, [])
    return Engine(Path("engines/x"), manifest)


@pytest.fixture(autouse=True)
def all_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        (BUNDLED, 0, []),
        (BUNDLED, 1, [1]),
        (BUNDLED, 2, [1, 2]),
        (BUNDLED, 3, [1, 2]),
        (BUNDLED, 8, [1, 2, 4]),  # four key-value heads
        (WIDE, 8, [1, 2, 4, 8]),
    ],
)
def test_the_numbers_of_gpus_follow_from_heads_and_machine(shape, count, expected):
    assert ranks_of(shape, machine(count)) == expected


@pytest.mark.parametrize(
    ("tp_size", "count", "told"),
    [
        (2, 1, r"needs 2 GPUs of one product, and here is 1 NVIDIA GeForce RTX 4090\. Choose tp_size from \[1\]"),
        (4, 2, r"needs 4 GPUs .*here is 2 .*Choose tp_size from \[1, 2\], or take a pod with 4 GPUs"),
        (3, 8, r"cannot be split over 3 ranks: it has 8 heads and 4 key-value heads"),
        (0, 8, r"cannot be split over 0 ranks"),
        (2, 0, r"here is none that TensorRT-LLM has kernels for"),
    ],
)
def test_more_ranks_than_gpus_or_heads_allow_are_refused_in_words(tp_size, count, told):
    with pytest.raises(WorkshopError, match=told) as refused:
        require_ranks("bundled", BUNDLED, tp_size, machine(count))
    assert "\n" not in str(refused.value)


def test_another_product_beside_it_does_not_count_and_is_named():
    other = Gpu(1, "NVIDIA L4", (8, 9), 24 * GB, 24 * GB, "580.65.06")
    with pytest.raises(WorkshopError, match=r"here is 1 NVIDIA GeForce RTX 4090 \(beside 1 that"):
        require_ranks("bundled", BUNDLED, 2, machine(1, "NVIDIA GeForce RTX 4090", other))
    require_ranks("bundled", BUNDLED, 2, machine(2))


@pytest.mark.parametrize(("count", "fewer"), [(1, ""), (2, " --tp-size 2"), (3, " --tp-size 2")])
def test_an_engine_of_more_ranks_than_gpus_is_not_loaded_and_a_smaller_one_is_offered(count, fewer):
    told = refusal_of(engine(4), machine(count))
    assert told and "split over 4 GPUs" in told and f"here is {count} NVIDIA" in told
    assert told.endswith(f"python -m helpers build bundled --precision fp16{fewer}")
    assert refusal_of(engine(4), machine(4)) is None
    assert refusal_of(engine(None), machine(1)) is None


def test_names_folders_and_commands_tell_ranks_only_where_there_are_several():
    one, two, kv = engine(1), engine(2), engine(2, "fp8", "int8")
    assert (one.title, two.title) == ("FP16", "FP16, 2 GPUs")
    assert (one.full_title, kv.full_title) == (
        "FP16 weights, 16-bit KV cache",
        "FP8 (E4M3) weights, INT8 KV cache, 2 GPUs",
    )
    assert base.engine_folder("tensorrt_llm", "fp16", None, None) == "tensorrt_llm-fp16"
    assert base.engine_folder("tensorrt_llm", "fp16", None, None, 2) == "tensorrt_llm-fp16-tp2"
    assert base.engine_folder("tensorrt_llm", "fp16", "fp8", None, 4) == "tensorrt_llm-fp16-kv-fp8-tp4"
    assert "--tp-size" not in base.rebuild_command(one)
    assert base.rebuild_command(two).endswith("--precision fp16 --tp-size 2")
    assert "--tp-size" not in base.rebuild_command(two, 1)


def test_the_card_says_over_how_many_gpus():
    assert "2 GPUs, a rank on each" in str(base.about(engine(2), None))
    assert "1 GPU: it is whole" in str(base.about(engine(1), None))
    assert "GPU:" not in str(base.about(engine(None, toolchain="openvino"), None))


# --- Where engines are OpenVINO's ---------------------------------------------------------------------


@pytest.mark.parametrize("tp_size", [0, 2, "2"])
def test_a_cpu_has_whole_engines_only_and_says_what_splits_instead(tp_size):
    with pytest.raises(WorkshopError, match=r"runs whole on this CPU, so tp_size is 1 here.*helpers\.tensor_parallel"):
        openvino.build(models.find("bundled"), "fp16", tp_size=tp_size)
    assert openvino.ranks(models.find("bundled")) == [1]


def test_a_cpu_offers_no_split_in_the_place_of_a_split_engine():
    told = openvino.refusal(engine(2))
    assert told and "toolchain tensorrt_llm (here: openvino)" in told and "--tp-size" not in told


def test_the_toolchain_on_a_pod_tells_its_ranks(tmp_path, monkeypatch):
    from helpers.toolchains import tensorrt_llm

    Pod("two-4090", tmp_path).enter(monkeypatch)
    assert tensorrt_llm.ranks(models.find("bundled")) == [1, 2]
    with pytest.raises(WorkshopError, match="needs 4 GPUs of one product, and here is 2"):
        tensorrt_llm.build(models.find("bundled"), tp_size=4)
    Pod("h100-mig", tmp_path).enter(monkeypatch)
    assert tensorrt_llm.ranks(models.find("bundled")) == [1]
