"""The GPU route end to end, on doubles of NVIDIA's programs and real checkpoints of the bundled model.

What is real: ModelOpt's checkpoints, the stages, the manifests, the workers. What is not: the compiler and the GPU
(``tests/doubles``).
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from bench_folders import steady, write
from conftest import runs, until
from doubles import make_release, pod

from helpers import workspace
from helpers.bench.load import Load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def pythons(tmp_path_factory) -> dict[str, Path]:
    """The double of each offered release, by version."""
    place = tmp_path_factory.mktemp("releases")
    return {version: make_release(place / version, version) for version in ("1.2.1", "1.0.0")}


@pytest.fixture(scope="module")
def homes(tmp_path_factory) -> Path:
    """Workspaces that the tests of this file share, one a machine: real checkpoints take half a minute each."""
    return tmp_path_factory.mktemp("pods")


MODEL = workspace.DATA / "model"
RELEASE_OF = {"a10g": "1.0.0"}  # its driver is too old for the other


def variables(machine: str, homes: Path, pythons: dict[str, Path], **more: str) -> dict[str, str]:
    version = RELEASE_OF.get(machine, "1.2.1")
    return {**os.environ, **pod(machine, homes / machine, pythons[version], **more)}


def helpers(environment: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "helpers", *words]
    return subprocess.run(
        command, cwd=workspace.REPOSITORY, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def on(homes, pythons):
    """Run ``python -m helpers`` on a machine, after its release was adopted."""
    ready: set[str] = set()

    def run(machine: str, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        if machine not in ready:
            done = helpers(variables(machine, homes, pythons), "install")
            assert done.returncode == 0, done.stdout + done.stderr
            ready.add(machine)
        return helpers(variables(machine, homes, pythons, **more), *words)

    return run


def engine_of(homes: Path, machine: str, precision: str) -> tuple[Path, workspace.Manifest]:
    folder = homes / machine / "engines" / "bundled" / f"tensorrt_llm-{precision}"
    manifest = workspace.read_manifest(folder)
    assert manifest
    return folder, manifest


def test_a_4090_builds_fp8_from_a_real_checkpoint_and_writes_text(on, homes):
    done = on("rtx-4090", "generate", "--precision", "fp8", "--max-tokens", "24")
    assert done.returncode == 0, done.stdout + done.stderr
    folder, manifest = engine_of(homes, "rtx-4090", "fp8")
    settings = json.loads((folder / "config.json").read_text())
    assert settings["pretrained_config"]["quantization"]["quant_algo"] == "FP8"
    assert settings["pretrained_config"]["quantization"]["kv_cache_quant_algo"] == "FP8"
    assert manifest.machine == {"gpu": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9"}
    assert manifest.maker["tensorrt_llm"] == "1.2.1"
    assert settings["build_config"]["max_batch_size"] == manifest.options["max_batch_size"] == 64
    assert "24 tokens" in done.stdout or "end-of-sequence" in done.stdout
    assert not (workspace.REPOSITORY / "model.cache").exists()
    assert list((homes / "rtx-4090" / "timings").glob("*.cache"))


def test_what_is_built_is_not_built_again_and_timings_are_used(on, homes):
    assert "made earlier" in on("rtx-4090", "build", "--precision", "fp8").stdout
    on("rtx-4090", "build", "--precision", "fp16")
    _, manifest = engine_of(homes, "rtx-4090", "fp16")
    assert "--input_timing_cache" in manifest.command


def test_an_a10g_builds_int8_under_the_older_release(on, homes):
    done = on("a10g", "generate", "--precision", "int8", "--max-tokens", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    folder, manifest = engine_of(homes, "a10g", "int8")
    assert manifest.maker["tensorrt_llm"] == "1.0.0"
    assert json.loads((folder / "config.json").read_text())["version"] == "1.0.0"


def test_an_a10g_is_told_why_not_fp8_and_what_instead(on):
    done = on("a10g", "build", "--precision", "fp8")
    assert done.returncode == 1
    assert "Networks with FP8 precision require hardware with FP8 support" in done.stderr
    assert "Take 'int8' instead" in done.stderr


RECIPE = """
model: bundled
gpu: rtx-4090
max_input_len: 200
max_output_len: 100
max_batch_size: 8
max_num_tokens: 512
precision: {precision}
kv_cache: {kv}
"""


@pytest.mark.parametrize(("precision", "kv", "folder"), [("fp8", "auto", "fp8"), ("fp16", "int8", "fp16-kv-int8")])
def test_a_recipe_is_built_and_served_by_trtllm_serve(on, homes, pythons, tmp_path, precision, kv, folder):
    file = tmp_path / "mine.yaml"
    file.write_text(RECIPE.format(precision=precision, kv=kv))
    done = on("rtx-4090", "build", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    engine = homes / "rtx-4090" / "engines" / "bundled" / f"tensorrt_llm-{folder}-b8-in200-seq300-t512"
    built = json.loads((engine / "config.json").read_text())["build_config"]
    assert (built["max_batch_size"], built["max_seq_len"], built["max_num_tokens"]) == (8, 300, 512)
    assert "made earlier" in on("rtx-4090", "build", str(file)).stdout
    environment = {**variables("rtx-4090", homes, pythons), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "helpers", "serve", str(file)]
    with (tmp_path / "log").open("w") as log:
        served = subprocess.Popen(command, cwd=workspace.REPOSITORY, env=environment, stdout=log, stderr=log)
    try:
        told = until(lambda: re.search(r"http://127\.0\.0\.1:\d+", text(tmp_path / "log")), 60, "the server")
        until(lambda: "Ctrl-C ends the server" in text(tmp_path / "log"), 60, "the server's first answer")
        assert httpx.get(f"{told[0]}/version").json() == {"version": "1.2.1"}
        asked = {"model": engine.name, "prompt": "Soyer", "max_tokens": 4, "temperature": 0}
        answer = httpx.post(f"{told[0]}/v1/completions", json=asked).json()
        assert answer["usage"]["completion_tokens"] == 4
        words = ("--concurrency", "2", "--requests", "4", "--input", "20", "--output", "8")
        measured = on("rtx-4090", "bench", told[0], *words)
        assert "4 answered whole, 0 not, in 1 run" in measured.stdout, measured.stdout + measured.stderr
        started = psutil.Process(served.pid).children(recursive=True)
        settings = [word for one in started for word in one.cmdline() if word.endswith("llm_options.yaml")]
        assert bool(settings) is (kv == "int8"), "only an engine without block reuse needs the file"
    finally:
        served.send_signal(signal.SIGTERM)
        served.wait(30)
    until(lambda: not any(runs(one.pid) for one in started), 10, "the end of every process of the server")


def test_trtllm_bench_runs_the_load_of_a_result_and_its_figures_stand_beside_ours(on, homes, pythons, tmp_path):
    assert on("rtx-4090", "build", "--precision", "fp16").returncode == 0
    folder, _ = engine_of(homes, "rtx-4090", "fp16")
    load = Load(concurrency=2, requests=8, input_tokens=20, output_tokens=11)
    write(tmp_path, load, [steady()])
    code = (
        "from pathlib import Path\n"
        "from types import SimpleNamespace\n"
        "from helpers import workspace\n"
        "from helpers.bench import on_gpu, reopen\n"
        "from helpers.toolchains.base import Engine\n"
        f"found = workspace.find(Path({str(folder)!r}))\n"
        "endpoint = SimpleNamespace(engine=Engine(found.path, found.manifest), url='http://127.0.0.1:8000/v1')\n"
        f"print(on_gpu.here(on_gpu.BENCH, endpoint, reopen({str(tmp_path)!r})))\n"
    )
    environment = variables("rtx-4090", homes, pythons)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workspace.REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^output, tokens/s +[\d.,]+ +146\.7 ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"trtllm-bench measured [\d.,]+ output tokens/s, ", done.stdout)


def text(file: Path) -> str:
    return file.read_text()


def test_int8_weight_only_is_tensorrt_llms_own_conversion(on, homes):
    done = on("rtx-4090", "build", "--precision", "int8_wo")
    assert done.returncode == 0, done.stdout + done.stderr
    made = homes / "rtx-4090" / "checkpoints" / "bundled" / "int8_wo-tp1" / "config.json"
    assert json.loads(made.read_text())["quantization"]["quant_algo"] == "W8A16"


def test_an_engine_of_another_capability_is_refused_with_the_rebuild_command(on, homes, pythons, monkeypatch):
    folder, _ = engine_of(homes, "rtx-4090", "fp16")
    code = (
        "from helpers import toolchains, workspace\n"
        "from helpers.toolchains.base import Engine\n"
        f"found = workspace.find(__import__('pathlib').Path({str(folder)!r}))\n"
        "engine = Engine(found.path, found.manifest)\n"
        "print(toolchains.best().about(engine))\n"
        "print(toolchains.best().refusal(engine))\n"
    )

    def asked(machine: str, release: str = "1.2.1") -> str:
        environment = {**os.environ, **pod(machine, homes / machine, pythons[release])}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=workspace.REPOSITORY, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert on("h100", "check").returncode == 0
    answer = asked("h100")
    assert "compute capability 8.9 (here: 9.0)" in answer
    assert "python -m helpers build bundled --precision fp16" in answer
    older = asked("a10g", "1.0.0")
    assert "tensorrt_llm 1.2.1 (here: 1.0.0)" in older
    sibling = json.dumps(
        {"driver": "580.65.06", "cuda": 13000, "gpu": {"name": "NVIDIA L4", "capability": [8, 9], "memory": 24 * 10**9}}
    )
    environment = {**os.environ, **pod(sibling, homes / "rtx-4090", pythons["1.2.1"])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workspace.REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert "runs here" in done.stdout and "yes" in done.stdout and "tuned on another product" in done.stdout
    assert done.stdout.strip().endswith("None")


def test_a_checkpoint_of_a_laptop_builds_on_a_pod(on, homes, made_by_notebooks, shared_home):
    laptop = shared_home / "checkpoints" / "bundled" / "fp8-kv-fp8-tp1"
    assert laptop.is_dir()
    done = on("b200", "build", "--from-checkpoint", str(laptop))
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (homes / "b200" / "checkpoints").exists()
    copied = homes / "h100-mig" / "checkpoints" / "bundled" / laptop.name
    copied.parent.mkdir(parents=True)
    subprocess.run(["cp", "-a", str(laptop), str(copied)], check=True)
    done = on("h100-mig", "build", "--precision", "fp8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TensorRT-LLM checkpoint of bundled" not in done.stdout, "the copied checkpoint is taken as it is"


def test_a_checkpoint_of_a_newer_modelopt_is_refused_by_name(on, homes, made_by_notebooks, shared_home, tmp_path):
    altered = tmp_path / "fp16-tp1"
    subprocess.run(["cp", "-a", str(shared_home / "checkpoints" / "bundled" / "fp16-tp1"), str(altered)], check=True)
    manifest = json.loads((altered / "manifest.json").read_text())
    manifest["maker"]["nvidia-modelopt"] = "0.47.0"
    (altered / "manifest.json").write_text(json.dumps(manifest))
    done = on("rtx-4090", "build", "--from-checkpoint", str(altered))
    assert done.returncode == 1
    assert "written by ModelOpt 0.47.0; TensorRT-LLM 1.2.1 reads those of 0.33 to 0.37" in done.stderr


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("oom", "memory"),
        ("killed", "SIGKILL"),
        ("version-tag", "another"),
        ("incompatible-device", "GPU"),
    ],
)
def test_a_known_failure_is_answered_with_its_cause(on, fault, told):
    words = ("generate", "--precision", "int4_awq", "--max-tokens", "4")
    on("rtx-4090", "build", "--precision", "int4_awq")
    words = ("build", "--precision", "int8") if fault in ("oom", "killed") else words
    done = on("rtx-4090", *words, DOUBLE_FAULT=fault)
    assert done.returncode == 1, done.stdout
    assert told in done.stderr
    assert "Remedy: " in done.stderr or fault == "killed"
    assert "Traceback" not in done.stderr


def test_killing_the_notebook_during_a_build_leaves_no_process(on, homes, pythons):
    assert on("rtx-4090", "build", "--precision", "int8_wo").returncode == 0
    folder, _ = engine_of(homes, "rtx-4090", "int8_wo")
    shutil.rmtree(folder)
    environment = variables("rtx-4090", homes, pythons, DOUBLE_FAULT="mpi-hang")
    command = [sys.executable, "-m", "helpers", "build", "--precision", "int8_wo"]
    notebook = subprocess.Popen(
        command, cwd=workspace.REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def building() -> list[int]:
        mark = str(folder.parent)  # the checkpoint lies elsewhere: only the build writes here
        found = psutil.process_iter(["pid", "cmdline"])
        return [p.pid for p in found if any(mark in word for word in p.info["cmdline"] or ())]

    try:
        builders = until(building, 60, "the start of trtllm-build")
    finally:
        notebook.send_signal(signal.SIGKILL)
        notebook.wait()
    until(lambda: not [pid for pid in builders if runs(pid)], 8, "the end of trtllm-build")
    until(lambda: not list(folder.parent.glob(".making*")), 5, "the end of everything half-made")
    assert not building() and not folder.exists()


def test_perplexity_of_the_engine_is_that_of_its_weights(on, homes, pythons):
    """The doubles compute with the FP16 weights, so a right worker finds exactly the quantizer's FP16 figures."""
    code = (
        "import numpy as np\n"
        "from helpers import checkpoint, models, toolchains\n"
        "model, toolchain = models.find('bundled'), toolchains.best()\n"
        "scored = toolchain.score(toolchain.build(model, 'fp16'))\n"
        "wanted = checkpoint.make(model, 'fp16').nll\n"
        "assert scored.shape == wanted.shape, (scored.shape, wanted.shape)\n"
        "print('largest difference', float(np.abs(scored - wanted).max()))\n"
    )
    environment = variables("rtx-4090", homes, pythons)
    on("rtx-4090", "check")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workspace.REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(done.stdout.rsplit("largest difference", 1)[1]) < 1e-2
    _, manifest = engine_of(homes, "rtx-4090", "fp16-scoring")
    assert "--gather_context_logits" in manifest.command
    _, ordinary = engine_of(homes, "rtx-4090", "fp16")
    assert "--gather_context_logits" not in ordinary.command


def python(environment: dict[str, str], code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code], cwd=workspace.REPOSITORY, env=environment, capture_output=True, text=True
    )


PAIRS = """
import json
from dataclasses import asdict
from helpers import models, toolchains
from helpers.errors import WorkshopError
from helpers.toolchains.batching import Load
toolchain, model = toolchains.best(), models.find("bundled")
load, budget = Load(requests=24, prompt_tokens=32, new_tokens=96, rounds=2), 24 * 98_304
told = {}
for precision, kv in PAIRS:
    engine = toolchain.build(model, precision, kv)
    run = toolchain.batch(engine, budget, load)
    told[f"{precision} {kv}"] = {
        "folder": engine.path.name, "title": run.title, "kv": run.kv, "blocks": run.blocks, "tokens": run.tokens,
        "bytes": run.kv_bytes, "most": run.most_running, "preempted": run.preempted, "speed": run.tokens_per_second,
        "answers": run.answers, "steps": [asdict(step) for step in run.steps],
        "reused": toolchain.batch(engine, budget, load).reused,
    }
def refused(*given):
    try:
        given[0](*given[1:])
    except WorkshopError as problem:
        return str(problem)
told["refused"] = [
    refused(toolchain.batch, engine, 98_304, load),
    refused(toolchain.batch, engine, budget, Load(prompt_tokens=2000, new_tokens=200)),
    refused(toolchain.build, model, "fp8", "int8"),
    refused(toolchain.build, model, "fp16", "fp4"),
]
generated = toolchain.generate(engine, "Born in", max_tokens=4)
scored = toolchain.score(engine)
print(json.dumps(told))
"""


def batched(done: "subprocess.CompletedProcess[str]") -> dict:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_4090_runs_many_requests_with_each_kv_cache(on, homes, pythons):
    on("rtx-4090", "check")
    pairs = [("fp16", None), ("fp16", "fp8"), ("fp16", "int8")]
    done = python(variables("rtx-4090", homes, pythons), PAIRS.replace("PAIRS", repr(pairs)))
    told = batched(done)
    whole, fp8, int8 = (told[f"fp16 {kv}"] for kv in (None, "fp8", "int8"))
    assert [one["folder"] for one in (whole, fp8, int8)] == [
        "tensorrt_llm-fp16",
        "tensorrt_llm-fp16-kv-fp8",
        "tensorrt_llm-fp16-kv-int8",
    ]
    assert int8["title"] == "FP16 weights, INT8 KV cache"
    assert [one["kv"] for one in (whole, fp8, int8)] == [None, "fp8", "int8"]
    assert [one["blocks"] for one in (whole, fp8, int8)] == [24, 48, 48]
    assert [one["tokens"] for one in (whole, fp8, int8)] == [768, 1536, 1536]
    assert {one["bytes"] for one in (whole, fp8, int8)} == {24 * 98_304}
    assert whole["preempted"] > int8["preempted"] > 0
    assert all(one["reused"] and one["speed"] > 0 for one in (whole, fp8, int8))
    assert whole["answers"] == int8["answers"]  # the double computes alike, and a pause changes no text
    for one in (whole, int8):
        steps = one["steps"]
        assert all(step["used"] + step["free"] == one["blocks"] for step in steps)
        assert steps[0]["seconds"] == 0 and steps[-1]["running"] == steps[-1]["used"] == 0
        assert [step["seconds"] for step in steps] == sorted(step["seconds"] for step in steps)
        assert max(step["waiting"] for step in steps) > 0
        assert one["most"] == max(step["running"] for step in steps) <= 24
    budget, longer, pair, unknown = told["refused"]
    assert "one request alone needs 4" in budget
    assert "the engine takes 2,048 at most" in longer
    assert "A KV cache in INT8 cannot be built beside FP8 (E4M3) weights" in pair
    assert "'fp4'" in unknown and "Choose one of None (16 bits), 'fp8', 'int8'" in unknown
    assert "this perplexity is that of the weights alone" in done.stdout


def test_engines_without_paged_context_are_built_so_and_reuse_nothing(on, homes, pythons):
    plugins = {}
    for precision, paged in (("fp16", True), ("fp16-kv-fp8", False), ("fp16-kv-int8", False)):
        folder, manifest = engine_of(homes, "rtx-4090", precision)
        plugins[precision] = json.loads((folder / "config.json").read_text())["build_config"]["plugin_config"]
        assert plugins[precision]["use_paged_context_fmha"] is paged
        assert ("--use_paged_context_fmha" in manifest.command) is not paged
        assert manifest.options["kv"] == precision.partition("-kv-")[2]
    log = "\n".join(file.read_text() for file in (homes / "rtx-4090").rglob("*.log"))
    assert "KV cache reuse disabled" not in log


def test_an_a10g_has_an_int8_cache_beside_int8_weights_and_no_fp8_one(on, homes, pythons):
    on("a10g", "check")
    environment = variables("a10g", homes, pythons)
    told = batched(python(environment, PAIRS.replace("PAIRS", repr([("int8", "int8")]))))
    assert told["int8 int8"]["folder"] == "tensorrt_llm-int8-kv-int8"
    assert told["int8 int8"]["blocks"] == 48
    _, manifest = engine_of(homes, "a10g", "int8-kv-int8")
    assert manifest.options["precision"] == manifest.options["kv"] == "int8"
    done = python(
        environment, "from helpers import models, toolchains as t\nt.best().build(models.find(), 'fp16', 'fp8')"
    )
    assert "A KV cache in FP8 cannot be built beside FP16 weights for the" in done.stderr
    assert not (homes / "a10g" / "checkpoints" / "bundled" / "fp16-kv-fp8-tp1").exists()


# --- Two GPUs: the workspace of the pod with one of them, whose checkpoints are there already ----------

TWO_GPUS = """
import json, shutil, sys
from pathlib import Path
from helpers import checkpoint, models, toolchains
from helpers.toolchains.batching import Load
whole = shutil.disk_usage
shutil.disk_usage = lambda place: whole(place)._replace(**({"total": 2**26} if str(place) == "/dev/shm" else {}))
toolchain, model = toolchains.best(), models.find("bundled")
engines = [toolchain.build(model, "fp16", tp_size=ranks) for ranks in toolchain.ranks(model)]
two, one_rank = engines[-1], checkpoint.make(model, silent=True)
answer = toolchain.generate(two, checkpoint.PROMPT, max_tokens=24)
class Short:  # fewer texts to score
    HELD_OUT = Path(sys.argv[1])
    __getattr__ = lambda self, name: getattr(checkpoint, name)
toolchain.checkpoint = Short()
nll = toolchain.score(two)
run = toolchain.batch(two, 4 * 98_304, Load(requests=2, prompt_tokens=16, new_tokens=8, rounds=1))
print(json.dumps({
    "folders": [engine.path.name for engine in engines], "text": answer.text, "title": answer.engine,
    "one": one_rank.text.removeprefix(checkpoint.PROMPT), "log": open(dict(answer.details)["log"]).read(),
    "about": str(toolchain.about(two)), "operations": sum(toolchain.counts(two).values()), "scored": len(nll),
    "off": float(abs(nll - one_rank.nll[: len(nll)]).max()), "made": run.tokens,
    "scoring": sorted(file.name for file in two.path.parent.glob("*-tp2-scoring/rank*")),
}))
"""


def two_gpus(homes: Path, pythons: dict[str, Path], **more: str) -> dict[str, str]:
    return {**os.environ, **pod("two-4090", homes / "rtx-4090", pythons["1.2.1"], **more)}


@pytest.fixture(scope="module")
def split(on, homes, pythons, tmp_path_factory) -> dict:
    """What two GPUs of a pod made and told."""
    on("rtx-4090", "check")
    short = tmp_path_factory.mktemp("texts") / "short.jsonl"
    lines = (workspace.DATA / "heldout.jsonl").read_text().splitlines(keepends=True)
    short.write_text("".join(lines[:2]))
    command = [sys.executable, "-c", TWO_GPUS, str(short)]
    done = subprocess.run(
        command, cwd=workspace.REPOSITORY, env=two_gpus(homes, pythons), capture_output=True, text=True
    )
    return {**batched(done), "said": done.stdout}


def test_two_gpus_build_an_engine_of_two_ranks_that_writes_what_one_writes(split, homes):
    assert split["folders"] == ["tensorrt_llm-fp16", "tensorrt_llm-fp16-tp2"]
    assert split["title"] == "FP16, 2 GPUs"
    assert len(split["text"]) > 20 and split["one"].startswith(split["text"])
    folder, manifest = engine_of(homes, "rtx-4090", "fp16-tp2")
    assert sorted(file.name for file in folder.glob("rank*")) == ["rank0.engine", "rank1.engine"]
    assert json.loads((folder / "config.json").read_text())["pretrained_config"]["mapping"]["tp_size"] == 2
    assert manifest.command[manifest.command.index("--workers") + 1] == "2"
    assert manifest.options["tp_size"] == 2 and "2 GPUs" in manifest.title
    assert "2 GPUs, a rank on each" in split["about"]


def test_two_ranks_without_a_direct_path_run_with_the_settings_for_it_and_a_warning_of_little_shared_memory(split):
    assert "ranks: 2 start" in split["log"] and "ranks: 2 answered" in split["log"]
    assert "FORCE_NCCL_ALL_REDUCE_STRATEGY env variable detected" in split["log"]
    assert split["said"].count("Warning: /dev/shm has 67.11 MB, and 2 ranks exchange results through it.") == 3


def test_two_ranks_are_scored_counted_and_loaded_together(split):
    assert split["scored"] > 50 and split["off"] < 0.02
    assert split["scoring"] == ["rank0.engine", "rank1.engine"]
    assert split["operations"] > 0 and split["made"] > 0


REFUSED = """
import json, os, shutil, sys
from pathlib import Path
from tensorrt_llm._tensorrt_engine import LLM
engine, copy, model, prompt = sys.argv[1:]
def caught(folder, ranks):
    try:
        LLM(model=folder, tokenizer=model, tensor_parallel_size=ranks)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
shutil.copytree(engine, copy)
Path(copy, "rank1.engine").unlink()
told = [caught(engine, 3), caught(copy, 2)]
os.environ["DOUBLE_MACHINE"] = "rtx-4090"
told.append(caught(engine, 2))
os.environ["DOUBLE_MACHINE"] = "two-4090"
shutil.copy(Path(copy, "rank0.engine"), Path(copy, "rank1.engine"))
from tensorrt_llm import SamplingParams
with LLM(model=copy, tokenizer=model, tensor_parallel_size=2) as llm:
    told.append(llm.generate(prompt, SamplingParams(max_tokens=24)).outputs[0].text)
print(json.dumps(told))
"""


def test_the_double_needs_the_files_of_both_ranks_and_two_gpus(split, homes, pythons, tmp_path):
    from helpers.checkpoint import PROMPT

    folder, _ = engine_of(homes, "rtx-4090", "fp16-tp2")
    words = [pythons["1.2.1"], "-c", REFUSED, folder, tmp_path / "engine", workspace.DATA / "model", PROMPT]
    environment = {name: value for name, value in two_gpus(homes, pythons).items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in words], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    three, missing, one_gpu, twice = json.loads(done.stdout.splitlines()[-1])
    assert "tp_size 3 is not consistent with the engine's tp_size 2" in three
    assert "Error opening engine file" in missing and "rank1.engine" in missing
    assert "invalid device ordinal" in one_gpu
    assert twice != split["text"]  # one rank's part twice is another model


def test_one_gpu_refuses_two_ranks_to_build_and_to_load(on, split):
    done = on("rtx-4090", "build", "--tp-size", "2")
    assert done.returncode == 1
    assert "needs 2 GPUs of one product, and here is 1 NVIDIA GeForce RTX 4090. Choose tp_size from [1]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def left(state: str) -> list[int]:
    """The processes that still run with this state of the driver's double in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DOUBLE_STATE") == state and runs(process.pid):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


HANGING = """
from helpers import models, toolchains
toolchain = toolchains.best()
toolchain._LOAD_LIMIT = 4.0
toolchain.generate(toolchain.build(models.find("bundled"), "fp16", tp_size=2), "Born in", 4)
"""


def test_ranks_that_never_meet_end_at_the_limit_with_cause_and_remedy_and_leave_nothing(split, homes, pythons):
    environment = two_gpus(homes, pythons, DOUBLE_FAULT="llm:ranks-hang", DOUBLE_STATE=str(homes / "hanging"))
    done = python(environment, HANGING)
    assert done.returncode == 1
    assert "took longer than its limit of 4 s" in done.stderr
    assert "Cause: The ranks never finished an exchange with each other" in done.stderr
    assert "Remedy: Set NCCL_P2P_DISABLE=1" in done.stderr
    assert left(str(homes / "hanging")) == []


def test_killing_the_notebook_while_ranks_run_leaves_none_of_them(split, homes, pythons):
    state = str(homes / "killed")
    environment = two_gpus(homes, pythons, DOUBLE_FAULT="llm:ranks-hang", DOUBLE_STATE=state)
    command = [sys.executable, "-m", "helpers", "generate", "--tp-size", "2", "--max-tokens", "4"]
    notebook = subprocess.Popen(
        command, cwd=workspace.REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        # The notebook, the keeper, the worker, and the second rank.
        until(lambda: len(left(state)) >= 4, 60, "the start of both ranks")
    finally:
        notebook.send_signal(signal.SIGKILL)
        notebook.wait()
    until(lambda: not left(state), 5, "the end of both ranks")


def test_operations_are_counted_by_tensorrts_inspector(on, homes, pythons):
    code = (
        "from helpers import models, toolchains\n"
        "toolchain = toolchains.best()\n"
        "engine = toolchain.build(models.find('bundled'), 'fp16')\n"
        "print(toolchain.operations(engine)); print(toolchain.operations_drawn(engine))\n"
    )
    on("rtx-4090", "check")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=workspace.REPOSITORY,
        env=variables("rtx-4090", homes, pythons),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all types" in done.stdout and "measured: operations in the engine" in done.stdout


def test_a_machine_whose_driver_is_too_old_uses_the_cpu_and_says_why(homes, pythons):
    environment = {**os.environ, **pod("old-driver", homes / "old-driver")}
    code = "from helpers import teaching, toolchains; print(toolchains.best().name, teaching.start('01_gpu_checks'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workspace.REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.stdout.startswith("openvino"), done.stderr
    assert "470.256.02" in done.stdout and "525" in done.stdout


def test_without_an_installation_a_build_says_to_run_notebook_02(homes, pythons, tmp_path):
    environment = {**os.environ, **pod("rtx-4090", tmp_path / "home")}
    done = helpers(environment, "build", "--precision", "fp16")
    assert done.returncode == 1
    assert "notebook 02" in done.stderr and "python -m helpers install" in done.stderr


@pytest.mark.parametrize(("variable", "value"), [("WORKSHOP_TOOLCHAIN", "openvno"), ("WORKSHOP_TOOLCHAIN", "openvino")])
def test_the_toolchain_can_be_chosen_by_hand(homes, pythons, variable, value):
    environment = {**variables("rtx-4090", homes, pythons), variable: value}
    code = "from helpers import toolchains; print(toolchains.best().name)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workspace.REPOSITORY, env=environment, capture_output=True, text=True
    )
    if value == "openvino":
        assert done.stdout.strip() == "openvino"
    else:
        assert "Set it to one of tensorrt_llm, tensorrt_llm_pytorch, openvino" in done.stderr


# --- The same pod without engines ------------------------------------------------------

AFTER_ENGINES = """
import json, sys
if __name__ == "__main__":
    from helpers import bench, models, serving, toolchains
    from helpers.errors import WorkshopError

    toolchain, told = toolchains.best(), {}
    told["toolchain"] = toolchain.name
    engine = toolchain.build(models.find("bundled"), "fp16", "fp8")
    again = toolchain.build(models.find("bundled"), "fp16", "fp8")
    told |= {"made": str(engine), "reused": again.reused, "about": str(toolchain.about(engine))}
    told["bytes"] = engine.weight_bytes
    told["text"] = toolchain.generate(engine, "Born in north-east France, Soyer trained as a", 12).text
    for name in ("batch", "score", "operations", "from_elsewhere"):
        try:
            getattr(toolchain, name)(*([engine, 1] if name == "batch" else [engine]))
        except WorkshopError as refused:
            told[name] = str(refused)
    with serving.start(engine) as endpoint:
        told["model"] = endpoint.model
        result = bench.run(endpoint, concurrency=2, requests=4, input=16, output=8, quiet=True)
        told |= {"rate": result.value("output_rate"), "records": endpoint.metrics.read_text()}
    print("@told " + json.dumps(told))
"""


def test_the_pytorch_back_end_makes_a_folder_ready_generates_with_it_and_serves_it(on, homes, pythons, tmp_path):
    """Here, and not with that toolchain's other tests, because the release is already adopted on this pod."""
    chosen = {"WORKSHOP_TOOLCHAIN": "tensorrt_llm_pytorch"}
    assert on("rtx-4090", "build", "--precision", "fp16", **chosen).returncode == 0
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(workspace.REPOSITORY)!r})\n{AFTER_ENGINES}")
    environment = variables("rtx-4090", homes, pythons, **chosen)
    run = {"cwd": workspace.REPOSITORY, "capture_output": True, "text": True, "timeout": 600}
    done = subprocess.run([sys.executable, str(script)], env=environment, **run)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    told = json.loads(done.stdout.rpartition("@told ")[2])
    assert told["toolchain"] == "tensorrt_llm_pytorch"
    assert "nothing to build" in told["made"]
    assert str(MODEL) in told["made"]
    assert told["reused"] is True
    assert re.search(r"runs here\s+yes", told["about"])
    assert told["bytes"] == (MODEL / "model.safetensors").stat().st_size
    assert told["text"].strip()
    assert "helpers.bench" in told["batch"]
    assert "read_back" in told["score"]
    assert "no compiled graph" in told["operations"]
    assert "tied to one machine" in told["from_elsewhere"]
    assert told["model"] == MODEL.name
    assert told["rate"] > 0
    assert "usedNumBlocks" in told["records"] or "blocks" in told["records"]
