"""The doubles refuse what the real programs refuse, and do what those do: otherwise a test with them proves nothing."""

import functools
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import doubles
import numpy as np
import pods
import pytest
from conftest import ROOT, until
from doubles import placeholder
from pods import Pod

MODEL = ROOT / "data" / "model"
FP8_TEXT = "Error Code 9: Internal Error (Networks with FP8 precision require hardware with FP8 support.)"
PROMPT = "Born in north-east France, Soyer trained as a"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("doubles")


@pytest.fixture(scope="module")
def pod(folder) -> Pod:
    """A 4090 with release 1.2.1."""
    return pods.rtx_4090(folder)


def elsewhere(pod: Pod, machine: str) -> Pod:
    """The same release on another machine."""
    return Pod(machine, pod.home, pod.python)


def checkpoint(place: Path, algorithm: str | None = None, ranks: int = 1, kv: str | None = None, **changed) -> Path:
    """A checkpoint of one small layer, all zeros."""
    import torch
    from safetensors.torch import save_file

    from helpers.releases.llama_checkpoint import expected

    place.mkdir(parents=True)
    mapping = {"world_size": ranks, "tp_size": ranks, "pp_size": 1}
    config = {"architecture": "LlamaForCausalLM", "dtype": "float16", "vocab_size": 2048, "hidden_size": 256}
    config |= {"num_hidden_layers": 1, "num_attention_heads": 8, "max_position_embeddings": 2048, "mapping": mapping}
    config |= {"intermediate_size": 512, "quantization": {"quant_algo": algorithm, "kv_cache_quant_algo": kv}}
    kinds = {"F16": torch.float16, "F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn, "I8": torch.int8}
    kinds["U8"] = torch.uint8
    tensors = {name: torch.zeros(shape, dtype=kinds[kind]) for name, (kind, shape) in expected(config)[0].items()}
    for rank in range(ranks):
        save_file(tensors, place / f"rank{rank}.safetensors")
    config |= changed
    (place / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    return place


def build(pod: Pod, source: Path, engine: Path, *more: str, fault: str = ""):
    words = ["--checkpoint_dir", source, "--output_dir", engine, "--max_seq_len", "256", "--max_num_tokens", "128"]
    words += ["--output_timing_cache", engine / "timing.cache"]
    return pod.program("trtllm-build", *words, *more, DOUBLE_FAULT=fault)


@pytest.fixture(scope="module")
def engine(pod, folder) -> Path:
    """An engine that keeps context logits and its layers' types."""
    made = folder / "engine"
    options = ["--gather_context_logits", "--profiling_verbosity", "detailed"]
    done = build(pod, checkpoint(folder / "checkpoint", "FP8"), made, *options)
    assert done.returncode == 0, done.stderr
    return made


# --- The driver ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "names", "driver"),
    [
        ("rtx-4090", ["NVIDIA GeForce RTX 4090"], "580.65.06"),
        ("two-4090", ["NVIDIA GeForce RTX 4090"] * 2, "580.65.06"),
        ("a10g", ["NVIDIA A10G"], "550.144.03"),
        ("h100-mig", ["NVIDIA H100 80GB HBM3 MIG 3g.40gb"], "580.65.06"),
        ("t4", ["Tesla T4"], "580.65.06"),
    ],
)
def test_the_helpers_see_the_machine(tmp_path, monkeypatch, machine, names, driver):
    from helpers import hardware

    Pod(machine, tmp_path).enter(monkeypatch)
    here = hardware.look()
    assert [gpu.name for gpu in here.gpus] == names
    assert here.driver == driver


def test_without_a_machine_there_is_no_driver(tmp_path, monkeypatch):
    from helpers import hardware

    Pod("", tmp_path).enter(monkeypatch)
    assert hardware.look().gpus == ()


def test_the_driver_refuses_what_nvml_refuses(tmp_path, monkeypatch):
    Pod("rtx-4090", tmp_path).enter(monkeypatch)
    import pynvml

    with pytest.raises(pynvml.NVMLError, match="Uninitialized"):
        pynvml.nvmlDeviceGetCount()
    pynvml.nvmlInit()
    with pytest.raises(pynvml.NVMLError):
        pynvml.nvmlDeviceGetHandleByIndex(1)
    with pytest.raises(AttributeError):
        pynvml.nvmlDeviceGetNames  # noqa: B018 - a misspelt function
    pynvml.nvmlShutdown()


def test_memory_is_held_as_long_as_its_process_lives(tmp_path, monkeypatch):
    from helpers import hardware

    place = Pod("rtx-4090", tmp_path / "home")
    place.enter(monkeypatch)
    code = "import double_machine, time; double_machine.hold(10**9); print('held', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], env=place.environment, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"held\n"
        (gpu,) = hardware.look().gpus
        assert [(p.pid, p.bytes) for p in gpu.processes] == [(child.pid, 10**9)]
        assert gpu.free_bytes == gpu.memory_bytes - 10**9
    finally:
        child.kill()
        child.wait()
    (gpu,) = hardware.look().gpus
    assert (gpu.processes, gpu.free_bytes) == ((), gpu.memory_bytes)


# --- The release's Python -----------------------------------------------------


def test_the_release_says_its_versions(tmp_path):
    code = """
import importlib.metadata as m, json, sys, torch
told = {name: m.version(name) for name in ("tensorrt_llm", "tensorrt", "transformers", "nvidia-modelopt", "torch")}
print(json.dumps([told, torch.version.cuda, torch.cuda.get_device_name(0), str(torch.ones(2, device="cuda").device)]))
"""
    done = pods.a10g(tmp_path).program("python", "-c", code)
    versions, cuda, name, device = json.loads(done.stdout)
    assert (versions["tensorrt_llm"], versions["torch"], cuda, name) == ("1.0.0", "2.7.1+cu128", "12.8", "NVIDIA A10G")
    assert versions["tensorrt"].startswith("10.11.")
    assert device == "cpu"


def test_the_helpers_cannot_be_imported_there(pod, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text("import tensorrt_llm\ntry:\n    import helpers\nexcept ImportError:\n    print('not there')")
    assert "not there" in pod.program("python", script).stdout


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("no-libmpi", "RuntimeError: cannot load MPI library"),
        ("wrong-torch", "ImportError: libcublasLt.so.13"),
    ],
)
def test_an_import_that_fails(pod, fault, text):
    done = pod.program("python", "-c", "import tensorrt_llm", DOUBLE_FAULT=fault)
    assert done.returncode == 1
    assert text in done.stderr


def test_an_import_that_hangs(pod):
    with pytest.raises(subprocess.TimeoutExpired):
        pod.program("trtllm-build", "--help", seconds=5, DOUBLE_FAULT="mpi-hang")


def test_a_batch_systems_variables_end_it(pod):
    done = pod.program("python", "-c", "import tensorrt_llm", SLURM_JOB_ID="7")
    assert done.returncode == 1
    assert "direct launched using" in done.stderr


# --- trtllm-build -------------------------------------------------------------


def test_a_build_writes_the_real_layout(pod, engine):
    assert sorted(file.name for file in engine.iterdir()) == ["config.json", "rank0.engine", "timing.cache"]
    settings = json.loads((engine / "config.json").read_text())
    assert list(settings) == ["version", "pretrained_config", "build_config"]
    assert settings["version"] == "1.2.1"
    assert settings["pretrained_config"]["quantization"]["quant_algo"] == "FP8"
    built = settings["build_config"]
    assert (built["max_seq_len"], built["max_batch_size"], built["gather_context_logits"]) == (256, 2048, True)
    assert built["plugin_config"]["use_paged_context_fmha"] is True
    assert built["plugin_config"]["gemm_plugin"] is None
    assert "dry_run" not in built


def test_ranks_give_an_engine_each(pod, tmp_path):
    made = tmp_path / "engine"
    done = build(pod, checkpoint(tmp_path / "c", ranks=2), made)
    assert done.returncode == 0, done.stderr
    assert "Total time of building all engines: 00:00:0" in done.stdout
    assert {file.name for file in made.glob("rank*")} == {"rank0.engine", "rank1.engine"}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--max_output_len", "10"], "unrecognized arguments: --max_output_len"),
        (["--max_batchsize", "1"], "unrecognized arguments: --max_batchsize"),
        (["--gemm_plugin", "yes"], "invalid choice: 'yes'"),
        (["--max_batch_size", "many"], "invalid int value: 'many'"),
    ],
)
def test_a_wrong_option_ends_it_before_anything_is_made(pod, tmp_path, words, text):
    done = build(pod, tmp_path / "none", tmp_path / "engine", *words)
    assert done.returncode == 2
    assert text in done.stderr
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("machine", "algorithm", "text"),
    [
        ("a10g", "FP8", FP8_TEXT),
        ("a10g", "W8A8_SQ_PER_CHANNEL", ""),
        ("rtx-4090", "FP8", ""),
        ("h100", "W4A16_AWQ", ""),
        ("b200", "W8A16", "RuntimeError: INT8/INT4 quantization is not supported on SM>=100."),
        ("b200", "W8A8_SQ_PER_CHANNEL", "RuntimeError: SmoothQuant is not supported on SM>=100."),
        ("b200", "FP8", ""),
        ("rtx-5090", "W8A16", ""),
        ("t4", None, "Unsupported architecture"),
    ],
)
def test_what_each_gpu_builds(pod, tmp_path, machine, algorithm, text):
    done = build(elsewhere(pod, machine), checkpoint(tmp_path / "c", algorithm), tmp_path / "engine")
    assert (done.returncode, (tmp_path / "engine" / "config.json").exists()) == ((1, False) if text else (0, True))
    assert text in done.stdout + done.stderr


def test_a_checkpoint_that_is_not_whole(pod, tmp_path):
    no_rank = checkpoint(tmp_path / "a")
    (no_rank / "rank0.safetensors").unlink()
    assert "AssertionError" in build(pod, no_rank, tmp_path / "e").stderr
    more_layers = checkpoint(tmp_path / "b", num_hidden_layers=2)
    done = build(pod, more_layers, tmp_path / "e")
    assert done.returncode == 1
    assert "Required but not provided tensors:" in done.stderr
    wider = checkpoint(tmp_path / "w", intermediate_size=1024)
    assert "not the same shape as the original" in build(pod, wider, tmp_path / "e").stderr
    no_heads = checkpoint(tmp_path / "c", num_attention_heads=...)
    assert (
        "missing required keyword-only arguments: 'num_attention_heads'" in build(pod, no_heads, tmp_path / "e").stderr
    )
    other = checkpoint(tmp_path / "d", architecture="OtherForCausalLM")
    assert "KeyError: 'OtherForCausalLM'" in build(pod, other, tmp_path / "e").stderr


def test_a_build_that_fails(pod, tmp_path):
    source = checkpoint(tmp_path / "c")
    done = build(pod, source, tmp_path / "e", fault="oom")
    assert done.returncode == 1
    assert "Cuda Runtime (out of memory)" in done.stdout
    assert "Engine building failed, please check the error log." in done.stderr
    assert build(pod, source, tmp_path / "e", fault="build:killed").returncode == -9
    assert build(pod, source, tmp_path / "e", fault="llm:oom").returncode == 0


# --- Engines and the LLM ------------------------------------------------------

ASK = """
import json, sys
from pathlib import Path
from tensorrt_llm import SamplingParams
from tensorrt_llm._tensorrt_engine import LLM
from tensorrt_llm.llmapi import KvCacheConfig
engine, model, prompt = sys.argv[1:4]
def caught(call):
    try:
        call()
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return ""
"""


def ask(pod: Pod, engine: Path, code: str, **more: str):
    """Run a few lines of Python on the release; the last printed line, read as JSON."""
    done = pod.program("python", "-c", ASK + code, engine, MODEL, PROMPT, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def greedy(tokens: int) -> tuple[list[int], str]:
    """What transformers itself continues the prompt with."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL).float()
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        made = model.generate(ids, max_new_tokens=tokens, do_sample=False, pad_token_id=2)[0, ids.shape[1] :].tolist()
    ended = made.index(2) if 2 in made else len(made)
    return made[:ended], tokenizer.decode(made[:ended])


def test_generation_is_real_and_streams(pod, engine):
    found = ask(
        pod,
        engine,
        """
import asyncio
async def stream(llm):
    seen = []
    async for output in llm.generate_async(prompt, SamplingParams(max_tokens=12), streaming=True):
        answer = output.outputs[0]
        seen.append([list(answer.token_ids), answer.text, answer.finish_reason])
    return seen
with LLM(model=engine, tokenizer=model) as llm:
    seen = asyncio.run(stream(llm))
    whole = llm.generate([prompt, {"prompt_token_ids": [1, 5, 6]}], SamplingParams(max_tokens=60))
    default = llm.generate(prompt)
print(json.dumps([seen, whole[0].outputs[0].finish_reason, len(default.outputs[0].token_ids)]))
""",
    )
    seen, ended, default = found
    ids, text = greedy(12)
    assert seen[-1] == [ids, text, "length"]
    assert [len(step[0]) for step in seen] == list(range(1, 13))
    assert [step[2] for step in seen[:-1]] == [None] * 11
    assert ended == "stop"  # the sentence takes fewer than 60 tokens
    assert default == 32


def test_requests_that_are_refused(pod, engine):
    found = ask(
        pod,
        engine,
        """
llm = LLM(model=engine, tokenizer=model)
long = {"prompt_token_ids": [5] * 200}
print(json.dumps([
    caught(lambda: llm.generate(long, SamplingParams(max_tokens=100))),
    caught(lambda: llm.generate(long, SamplingParams(max_tokens=10))),
    caught(lambda: llm.generate(prompt, 12)),
    caught(lambda: llm.generate(prompt, streaming=True)),
    caught(lambda: LLM(model=engine, tokenizer=model, gather_context_logits=True)),
    caught(lambda: LLM(model=engine, tokenizer=model, tensor_parallel_size=2)),
    caught(lambda: LLM(model=engine, tokenizer=model, kv_cache_config=KvCacheConfig(dtype="fp8"))),
    caught(lambda: KvCacheConfig(free_gpu_memory_fraction=1.5)),
    caught(lambda: SamplingParams(max_new_tokens=4)),
]))
""",
    )
    wanted = [
        "ValueError: The sum of prompt length (200.0) and query length (0) max_tokens (100) should not exceed",
        "RequestError: Prompt length (200) exceeds maximum input length (128).",
        "TypeError: The sampling_params must be type SamplingParams or None",
        "TypeError: ",
        "ValueError: ",
        "ValueError: ",
        "AssertionError: KvCacheConfig.dtype is not supported by the TensorRT backend.",
        "ValueError: kv_cache_config.free_gpu_memory_fraction must be a float between 0 and 1.",
        "TypeError: ",
    ]
    assert [answer[: len(start)] for answer, start in zip(found, wanted, strict=True)] == wanted


LOGITS = """
import torch
from transformers import AutoModelForCausalLM
ids = [1, 40, 50, 60, 70]
parameters = SamplingParams(max_tokens=1, return_context_logits=True)
real = AutoModelForCausalLM.from_pretrained(model).float()(torch.tensor([ids])).logits[0]
def lengths(**cache):
    llm = LLM(model=engine, tokenizer=model, kv_cache_config=KvCacheConfig(**cache))
    asked = [{"prompt_token_ids": row} for row in (ids, [1, 40, 90], ids)]
    outputs = llm.generate(asked, parameters)
    same = torch.allclose(outputs[0].context_logits, real, atol=1e-4)
    return [same, *(len(output.context_logits) for output in outputs)]
"""


def test_context_logits_are_real_and_block_reuse_cuts_them_short(pod, engine):
    code = "print(json.dumps([lengths(enable_block_reuse=False), lengths()]))"
    whole, cut = ask(pod, engine, LOGITS + code)
    assert whole == [True, 5, 3, 5]
    assert cut == [True, 5, 1, 1]  # what earlier prompts began with is missing, and nothing says so


def test_context_logits_must_have_been_asked_for_when_building(pod, folder, tmp_path):
    build(pod, folder / "checkpoint", tmp_path / "engine")
    told = ask(pod, tmp_path / "engine", LOGITS + "print(json.dumps(caught(lengths)))")
    assert told == "RequestError: Return context logit need to build engine with gather_context_logits"


INSPECT = """
import tensorrt
engine = tensorrt.Runtime(tensorrt.Logger()).deserialize_cuda_engine(Path(sys.argv[1], "rank0.engine").read_bytes())
answer = engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON)
print(answer)
"""


def test_layers_are_objects_only_if_the_engine_was_built_with_details(pod, folder, engine, tmp_path):
    layers = ask(pod, engine, INSPECT)["Layers"]
    assert {"Name", "LayerType"} == set(layers[0])
    build(pod, folder / "checkpoint", tmp_path / "engine")
    names = ask(pod, tmp_path / "engine", INSPECT)["Layers"]
    assert [layer["Name"] for layer in layers] == names


REFUSED = "print(json.dumps(caught(lambda: LLM(model=engine, tokenizer=model))))"
NOT_READ = "RuntimeError: [TensorRT-LLM][ERROR] Assertion failed: Failed to deserialize cuda engine."


@pytest.mark.parametrize(
    ("machine", "fault", "text"),
    [
        ("a10g", "", "incompatible device, expecting compute 8.6 got compute 8.9"),
        ("rtx-4090", "incompatible-device", "incompatible device, expecting compute 8.9 got compute 8.0"),
        ("rtx-4090", "version-tag", "stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match"),
    ],
)
def test_an_engine_from_elsewhere_is_refused(pod, engine, machine, fault, text):
    code = ASK + REFUSED
    done = elsewhere(pod, machine).program("python", "-c", code, engine, MODEL, PROMPT, DOUBLE_FAULT=fault)
    assert json.loads(done.stdout.splitlines()[-1]) == NOT_READ
    assert text in done.stderr


def test_an_engine_of_another_release_is_refused(engine, tmp_path):
    other = pods.pod("rtx-4090", tmp_path, "1.0.0")
    done = other.program("python", "-c", ASK + REFUSED, engine, MODEL, PROMPT)
    assert json.loads(done.stdout.splitlines()[-1]) == NOT_READ
    assert "Version tag does not match" in done.stderr


def test_a_plan_needs_the_plugins_of_tensorrt_llm(pod, engine):
    done = pod.program("python", "-c", "import sys\nfrom pathlib import Path" + INSPECT, engine)
    assert "IPluginCreator not found" in done.stderr
    assert "AttributeError" in done.stderr


def test_an_llm_that_has_no_memory(pod, engine):
    assert "out of memory" in ask(pod, engine, REFUSED, DOUBLE_FAULT="llm:oom")


# --- Conversion ---------------------------------------------------------------


def test_int8_weight_only_has_the_real_names_and_shapes(pod, tmp_path):
    from safetensors.numpy import load_file

    code = """
import sys
from tensorrt_llm.llmapi import QuantAlgo, QuantConfig
from tensorrt_llm.mapping import Mapping
from tensorrt_llm.models import LLaMAForCausalLM
model, out = sys.argv[1:]
for world in (1, 2):
    for rank in range(world):
        mapping = Mapping(world_size=world, rank=rank, tp_size=world)
        made = LLaMAForCausalLM.from_hugging_face(model, dtype="float16", mapping=mapping,
                                                  quant_config=QuantConfig(quant_algo=QuantAlgo.W8A16))
        made.save_checkpoint(f"{out}/{world}", save_config=rank == 0)
"""
    for world in (1, 2):
        (tmp_path / str(world)).mkdir()
    done = pod.program("python", "-c", code, MODEL, tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "2" / "config.json").read_text())
    assert config["quantization"]["quant_algo"] == "W8A16"
    assert (config["mapping"]["tp_size"], "rank" in config["mapping"]) == (2, False)
    whole = load_file(tmp_path / "1" / "rank0.safetensors")
    halves = [load_file(tmp_path / "2" / f"rank{rank}.safetensors") for rank in range(2)]
    real = load_file(MODEL / "model.safetensors")
    name = "transformer.layers.0.mlp.fc"
    weight, scale = whole[f"{name}.weight"], whole[f"{name}.per_channel_scale"]
    assert (weight.dtype, weight.shape, scale.shape) == (np.int8, (256, 768), (768,))
    original = real["model.layers.0.mlp.gate_proj.weight"].astype(np.float32).T
    assert np.abs(weight * scale.astype(np.float32) - original).max() <= 0.51 * scale.max()
    assert np.array_equal(np.concatenate([half[f"{name}.weight"] for half in halves], 1), weight)
    assert halves[0]["transformer.layers.0.attention.qkv.weight"].shape == (256, 256)
    assert halves[0]["transformer.layers.0.mlp.proj.weight"].shape == (384, 256)
    assert build(pod, tmp_path / "2", tmp_path / "engine").returncode == 0


# --- The other programs -------------------------------------------------------


@pytest.fixture(scope="module")
def server(pod, engine):
    """The address of a running ``trtllm-serve``."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", engine, "--backend", "tensorrt", "--tokenizer", MODEL, "--host", "127.0.0.1", "--port", str(port)]
    child = subprocess.Popen([pod.python.parent / "trtllm-serve", *map(str, words)], env=pod.environment)
    address = f"http://127.0.0.1:{port}"

    def ready():
        try:
            return urllib.request.urlopen(f"{address}/health", timeout=1).status == 200
        except OSError:
            return False

    until(ready, 60, "the server")
    yield address
    child.terminate()
    child.wait(10)


def post(address: str, **asked):
    data = json.dumps({"model": "engine", "prompt": PROMPT, "max_tokens": 8, "temperature": 0, **asked}).encode()
    request = urllib.request.Request(f"{address}/v1/completions", data, {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=60).read().decode()


def test_the_server_answers(server):
    models = json.loads(urllib.request.urlopen(f"{server}/v1/models").read())
    assert [model["id"] for model in models["data"]] == ["engine"]  # the folder's name: there is no other
    answer = json.loads(post(server))
    assert answer["choices"][0]["text"] == greedy(8)[1]
    assert answer["usage"]["completion_tokens"] == 8
    events = [line.removeprefix("data: ") for line in post(server, stream=True).splitlines() if line]
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]) == greedy(8)[1]


REFUSED_BODIES = [{"best_off": 1}, {"stream_options": {}}, {"max_tokens": 1000}, {"max_tokens": "8"}, {"seed": True}]
REFUSED_BODIES += [{"prompt": "word " * 200, "max_tokens": 1}, {"prompt": None}]


@pytest.mark.parametrize("wrong", REFUSED_BODIES)
def test_the_server_refuses(server, wrong):
    with pytest.raises(urllib.error.HTTPError) as told:
        post(server, **wrong)
    assert told.value.code == 400
    error = json.loads(told.value.read())
    assert (error["object"], error["code"]) == ("error", 400) and error["message"]


@pytest.mark.parametrize("known", [{"best_of": 2}, {"logprobs": 1}, {"n": 2, "temperature": 1}])
def test_what_only_the_real_server_can_do_is_no_answer_to_rest_a_test_on(server, known):
    with pytest.raises(urllib.error.HTTPError) as told:
        post(server, **known)
    assert told.value.code == 501


def test_the_server_chats_and_stops_where_it_is_told_to(server):
    told = urllib.request.urlopen(f"{server}/health_generate").read().decode()
    assert "Generation health check OK" in told
    parts = [{"type": "text", "text": "hi"}]
    body = {"model": "engine", "messages": [{"role": "user", "content": parts}], "max_completion_tokens": 4}
    data = json.dumps({**body, "temperature": 0}).encode()
    request = urllib.request.Request(f"{server}/v1/chat/completions", data, {"Content-Type": "application/json"})
    answer = json.loads(urllib.request.urlopen(request, timeout=60).read())
    assert answer["choices"][0]["message"]["role"] == "assistant"
    text = greedy(8)[1]
    stop = text[len(text) // 2 :][:2]
    whole = json.loads(post(server, stop=stop))["choices"][0]
    assert (whole["text"], whole["finish_reason"]) == (text[: text.index(stop)], "stop")
    kept = json.loads(post(server, stop=["never", stop], include_stop_str_in_output=True))["choices"][0]
    assert kept["text"] == whole["text"] + stop
    events = [line.removeprefix("data: ") for line in post(server, stop=stop, stream=True).splitlines() if line]
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]) == whole["text"]


def test_statistics_are_told_once_and_waited_for(server):
    post(server)
    records = json.loads(urllib.request.urlopen(f"{server}/metrics").read())
    assert records and records[-1]["numActiveRequests"] == 0
    began = time.monotonic()
    assert json.loads(urllib.request.urlopen(f"{server}/metrics").read()) == []
    assert 1.5 < time.monotonic() - began < 6


def test_a_server_that_does_not_start(pod, engine, tmp_path):
    without = pod.program("trtllm-serve", "serve", engine, "--tokenizer", MODEL)
    assert without.returncode == 1
    assert "Unrecognized model" in without.stderr
    bare = tmp_path / "tokenizer"
    bare.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_text((MODEL / name).read_text())
    no_settings = pod.program("trtllm-serve", engine, "--backend", "tensorrt", "--tokenizer", bare)
    assert no_settings.returncode == 1
    assert "'NoneType' object has no attribute 'model_type'" in no_settings.stderr
    settings = tmp_path / "llm_options.yaml"
    settings.write_text("enable_chunked_prefil: true\n")
    words = ["serve", engine, "--backend", "tensorrt", "--tokenizer", MODEL, "--extra_llm_api_options", settings]
    unknown = pod.program("trtllm-serve", *words)
    assert unknown.returncode == 1 and "enable_chunked_prefil" in unknown.stderr
    settings.write_text("kv_cache_config:\n  enable_block_reus: false\n")
    unknown = pod.program("trtllm-serve", *words)
    assert unknown.returncode == 1 and "enable_block_reus" in unknown.stderr
    misspelt = pod.program("trtllm-serve", engine, "--served_model_name", "x")
    assert misspelt.returncode == 2
    assert "No such option: --served_model_name" in misspelt.stderr


def test_the_benchmark_reports(pod, engine, tmp_path):
    line = json.dumps({"task_id": 0, "prompt": PROMPT, "output_tokens": 4})
    (tmp_path / "data.jsonl").write_text(f"{line}\n{line}\n")
    words = ["--model", "m", "--model_path", MODEL, "throughput", "--engine_dir", engine, "--dataset"]
    words += [tmp_path / "data.jsonl", "--report_json", tmp_path / "report.json"]
    refused = pod.program("trtllm-bench", *words)
    assert refused.returncode == 1  # without --backend it is the PyTorch backend
    done = pod.program("trtllm-bench", *words, "--backend", "tensorrt")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["engine"]["backend"] == "TRT"
    assert report["performance"]["system_output_throughput_tok_s"] > 0


@pytest.mark.parametrize("name", ["trtllm-build", "trtllm-serve", "trtllm-bench"])
def test_help_names_every_option_of_the_contract(pod, name):
    from helpers.releases.contract import contract

    program = contract("1.2.1").programs[name]
    for words, part in [([], program), *(([sub], part) for sub, part in program.commands.items())]:
        shown = pod.program(name, *words, "--help").stdout
        for option in part.options:
            assert (option.name in shown.split()) == (option.status != "removed") or option.aliases, option.name


# --- Installing ---------------------------------------------------------------


def test_the_placeholder_package_fails_in_pip_with_its_own_words(tmp_path):
    from helpers import releases

    placeholder.make_placeholder(tmp_path, "1.2.1")
    words = ["-m", "pip", "install", "--no-index", "--find-links", tmp_path, "--target", tmp_path / "to"]
    done = subprocess.run([sys.executable, *words, "--no-deps", "tensorrt_llm==1.2.1"], capture_output=True, text=True)
    assert done.returncode == 1
    fault = releases.explain(done.stdout + done.stderr)
    assert fault is not None
    assert fault.name == "placeholder package"


# --- The scheduler ------------------------------------------------------------


def scheduled(policy, blocks, requests, batch=64, tokens=4096):
    """Records of requests of (prompt, new) tokens in a cache of so many blocks of 32 tokens."""
    sys.path.insert(0, str(doubles.RELEASE))
    try:
        import double_scheduler
    finally:
        sys.path.remove(str(doubles.RELEASE))
    load = [double_scheduler.Request(*lengths) for lengths in requests]
    return double_scheduler.iterations(load, double_scheduler.Pool(blocks, 32), policy, batch, tokens)


def running(records):
    return [record["inflightBatchingStats"]["numScheduledRequests"] for record in records]


def preempted(records):
    return sum(record["inflightBatchingStats"]["numPausedRequests"] for record in records)


LOAD = [(32, 224)] * 48


@pytest.mark.parametrize("policy", ["MAX_UTILIZATION", "GUARANTEED_NO_EVICT"])
def test_blocks_add_up_and_every_token_is_made(policy):
    records = scheduled(policy, 96, LOAD)
    for record in records:
        cache = record["kvCacheStats"]
        assert cache["usedNumBlocks"] + cache["freeNumBlocks"] == cache["maxNumBlocks"] == 96
        assert cache["usedNumBlocks"] <= 96
    # A request that was paused reads what it had made as part of its prompt, and its step makes one token more.
    assert sum(running(records)) == 48 * 224
    assert running(records)[-1] == records[-1]["kvCacheStats"]["usedNumBlocks"] == 0


def test_one_policy_pauses_and_the_other_lets_wait():
    assert preempted(scheduled("MAX_UTILIZATION", 96, LOAD)) > 0
    waiting = scheduled("GUARANTEED_NO_EVICT", 96, LOAD)
    assert preempted(waiting) == 0
    assert max(running(waiting)) == 96 // 8  # each is promised the eight blocks of its last token
    assert max(running(scheduled("MAX_UTILIZATION", 96, LOAD))) == 48


def test_a_cache_for_all_pauses_nobody_and_a_small_batch_lets_wait():
    records = scheduled("MAX_UTILIZATION", 48 * 8, LOAD)
    assert preempted(records) == 0
    assert len(records) == 225
    records = scheduled("MAX_UTILIZATION", 48 * 8, LOAD, batch=16)
    assert max(running(records)) == 16
    assert records[0]["numQueuedRequests"] == 32


TOGETHER = """
from tensorrt_llm.llmapi import CapacitySchedulerPolicy, SchedulerConfig
def run(policy, tokens):
    llm = LLM(model=engine, tokenizer=model, kv_cache_config=KvCacheConfig(max_tokens=tokens),
              scheduler_config=SchedulerConfig(capacity_scheduler_policy=policy))
    parameters = SamplingParams(max_tokens=40, ignore_eos=True)
    pending = [llm.generate_async(p, parameters) for p in (prompt, prompt[:20], prompt[:30])]
    ids = [one.result().outputs[0].token_ids for one in pending]
    records = llm.get_stats()
    return ids, [r["inflightBatchingStats"]["numPausedRequests"] for r in records], records[0]["kvCacheStats"]
"""


def test_requests_together_write_what_each_writes_alone_whatever_the_cache(pod, engine):
    code = """
wide, none, large = run(CapacitySchedulerPolicy.MAX_UTILIZATION, 1024)
tight, paused, small = run(CapacitySchedulerPolicy.MAX_UTILIZATION, 128)
llm = LLM(model=engine, tokenizer=model)
alone = [llm.generate(p, SamplingParams(max_tokens=40, ignore_eos=True)).outputs[0].token_ids
         for p in (prompt, prompt[:20], prompt[:30])]
print(json.dumps([wide == tight == alone, sum(none), sum(paused), large, small, llm.get_stats() != []]))
"""
    same, none, paused, large, small, told = ask(pod, engine, TOGETHER + code)
    assert same and told
    assert none == 0 < paused
    assert (large["maxNumBlocks"], small["maxNumBlocks"]) == (32, 4)


def test_a_policy_that_does_not_exist_is_refused(pod, engine):
    told = ask(pod, engine, TOGETHER + "print(json.dumps(caught(lambda: run('MAX_UTILISATION', 128))))")
    assert told.startswith("ValueError: ")
    assert "takes one of MAX_UTILIZATION" in told


# --- What the builder forces ---------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "kv", "paged", "fp8", "told"),
    [
        (None, None, True, False, "FP8 Context FMHA is disabled"),
        (None, "FP8", False, False, "FP8 Paged Context FMHA is disabled"),
        (None, "INT8", False, False, "doesn't work with int8 kv cache currently"),
        ("FP8", None, True, False, "must be used together with fp8 KV Cache"),
        ("FP8", "FP8", True, True, ""),
    ],
)
def test_the_builder_switches_attention_off_as_the_table_says(pod, tmp_path, algorithm, kv, paged, fp8, told):
    from helpers.toolchains.tensorrt_llm.kv import rules, side_effects

    source = checkpoint(tmp_path / "checkpoint", algorithm, kv=kv)
    done = build(pod, source, tmp_path / "engine")
    assert done.returncode == 0, done.stderr
    plugins = json.loads((tmp_path / "engine" / "config.json").read_text())["build_config"]["plugin_config"]
    assert (plugins["use_paged_context_fmha"], plugins["use_fp8_context_fmha"]) == (paged, fp8)
    found = side_effects("fp8" if algorithm else "fp16", kv.lower() if kv else None)
    assert (found.reuse, found.fp8_attention) == (paged, fp8)
    row = next(r for r in rules()["pair"] if r["kv"] == (kv or "fp16").lower()
               and ("fp8" if algorithm else "fp16") in r["weights"])  # fmt: skip
    warned = [line for line in done.stdout.splitlines() if "[W]" in line and "FMHA" in line]
    assert len(warned) == len(row["forced"])
    assert all(words in line for words, line in zip(row["forced"], warned, strict=True))
    assert told in done.stdout


def test_an_engine_without_paged_context_reuses_nothing_and_says_so_once(pod, tmp_path):
    build(pod, checkpoint(tmp_path / "checkpoint", kv="INT8"), tmp_path / "engine")

    def log(given: str) -> str:
        code = f"{ASK}LLM(model=engine, tokenizer=model, kv_cache_config=KvCacheConfig({given}))"
        return pod.program("python", "-c", code, tmp_path / "engine", MODEL, PROMPT).stdout

    assert log("").count("KV cache reuse disabled because model was not built with paged context FMHA") == 1
    quiet = log("enable_block_reuse=False")
    assert "found in the config file" in quiet and "KV cache reuse disabled" not in quiet


def test_chunks_need_paged_context_and_lift_the_limit_of_a_prompt(pod, engine, tmp_path):
    build(pod, checkpoint(tmp_path / "checkpoint", kv="INT8"), tmp_path / "engine")
    code = f"""{ASK}
for folder in sys.argv[1], {str(tmp_path / "engine")!r}:
    print([LLM(model=folder, tokenizer=model, enable_chunked_prefill=on)._longest_prompt for on in (False, True)])
"""
    done = pod.program("python", "-c", code, engine, MODEL, PROMPT)
    assert "[128, 255]" in done.stdout and "[128, 128]" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("Chunked context is not supported for this configuration and will be disabled") == 1
