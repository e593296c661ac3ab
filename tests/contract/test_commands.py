"""Every command and every call that the helpers can produce, checked against the contract of each release offered."""

import ast
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from helpers import hardware, memory, plan, releases, workspace
from helpers.errors import WorkshopError
from helpers.releases.contract import contract
from helpers.toolchains import tensorrt_llm, tensorrt_llm_pytorch
from helpers.toolchains.batching import Load
from helpers.toolchains.choices import CHECKPOINTS
from helpers.toolchains.sizes import Sizes
from helpers.toolchains.tensorrt_llm import commands
from helpers.toolchains.tensorrt_llm.kv import side_effects
from helpers.toolchains.tensorrt_llm.sizes import engine_sizes, scoring_sizes
from helpers.toolchains.tensorrt_llm_pytorch import commands as pytorch_commands

WORKERS = workspace.REPOSITORY / "helpers" / "workers"
OFFERED = [release.version for release in releases.offered()]
USABLE = [sheet for sheet in hardware.datasheets() if hardware.support(sheet.compute_capability)]
MODELS = {name: memory.Shape.of(row["config"]) for name, row in plan.models.known().items()}
SIZES = Sizes(8, 4096, 1024, 2048)


def produced(release: str) -> Iterator[list[str]]:
    """Every command of TensorRT-LLM's programs, over GPUs, precisions, models and ranks."""
    for sheet, (name, shape), tp_size in product(USABLE, MODELS.items(), (1, 2, 4, 8)):
        for precision in tensorrt_llm.choices(sheet.key).offered:
            if tp_size not in shape.splits:
                continue
            for kv in tensorrt_llm.kv_choices(sheet.key).offered(precision):
                try:
                    sizes = engine_sizes(
                        shape, name, CHECKPOINTS[precision], kv, sheet.memory_bytes, sheet.name, tp_size
                    )
                except WorkshopError:
                    continue  # it does not fit, and no command is produced
                paged = side_effects(precision, kv).reuse
                for timings, logits in product((None, "timings/x.cache"), (False, True)):
                    used = scoring_sizes(shape) if logits else sizes
                    yield commands.build(
                        "bin/trtllm-build", "checkpoint", "engine", used, tp_size, timings, logits, paged
                    )
                yield commands.serve(
                    "bin/trtllm-serve", "engine", "model", sizes, releases.release(release).engine_backend, tp_size
                )


def problems(release: str, command: list[str]) -> list[str]:
    """What the release's contract finds wrong with a command."""
    return contract(release).programs[Path(command[0]).name].problems(command)


@pytest.mark.parametrize("release", OFFERED)
def test_every_command_is_one_that_the_program_takes(release):
    all_of_them = list(produced(release))
    assert len(all_of_them) > 500
    distinct = {tuple(command) for command in all_of_them}
    wrong = {command: found for command in distinct if (found := problems(release, list(command)))}
    assert wrong == {}


@pytest.mark.parametrize("release", OFFERED)
def test_every_command_of_the_pytorch_back_end_is_one_that_the_server_takes(release):
    served = 0
    for sheet, tp_size in product(USABLE, (1, 2)):
        for precision in tensorrt_llm_pytorch.choices(sheet.key).offered:
            for kv in tensorrt_llm_pytorch.kv_choices(sheet.key).offered(precision):
                command = pytorch_commands.serve("bin/trtllm-serve", "folder", SIZES, tp_size, settings="more.yaml")
                told = pytorch_commands.serve_settings(kv, 0.4, chunked_prefill=True)
                assert problems(release, command) == []
                assert contract(release).programs["trtllm-serve"].parse(command)["backend"] == "pytorch"
                assert pytorch_settings_problems(release, told) == []
                served += 1
    assert served > 30


def pytorch_settings_problems(release: str, told: dict[str, Any]) -> list[str]:
    """What the classes that the file's settings become find wrong with them."""
    entries = contract(release).entries
    cache = entries["tensorrt_llm.llmapi.KvCacheConfig"].problems(told.get("kv_cache_config", {}))
    return entries["tensorrt_llm.LLM"].problems({"model": "folder", **told}) + cache


@pytest.mark.parametrize("release", OFFERED)
def test_the_pytorch_back_end_tells_its_metrics_and_says_its_cache_in_the_file(release):
    assert pytorch_commands.serve_settings(None, 0.4, chunked_prefill=False) == {"enable_iter_perf_stats": True}
    told = pytorch_commands.serve_settings("fp8", 0.4, chunked_prefill=False)
    # The file's cache settings replace the option's, so the share has to be said once more.
    assert told["kv_cache_config"] == {"dtype": "fp8", "free_gpu_memory_fraction": 0.4}
    assert "enable_iter_perf_stats" in pytorch_settings_problems(release, {"enable_iter_perf_stat": True})[0]


def options_of(command: list[str]) -> list[str]:
    return [word for word in command if word.startswith("--")]


BUILD = commands.build(
    "trtllm-build", "checkpoint", "engine", SIZES, 2, "known.cache", context_logits=True, paged_context=False
)
SERVE = {
    release.version: commands.serve("trtllm-serve", "engine", "model", SIZES, release.engine_backend, 2)
    for release in releases.offered()
}


@pytest.mark.parametrize("release", OFFERED)
@pytest.mark.parametrize("option", [*options_of(BUILD), *options_of(SERVE["1.2.1"])])
def test_a_misspelt_option_is_noticed(release, option):
    command = BUILD if option in BUILD else SERVE[release]
    misspelt = [word if word != option else word[:-1] for word in command]
    assert problems(release, command) == []
    assert any(option[:-1] in problem for problem in problems(release, misspelt))


@pytest.mark.parametrize("release", OFFERED)
def test_serving_an_engine_names_the_backend_and_a_whole_model(release):
    values = contract(release).programs["trtllm-serve"].parse(SERVE[release])
    assert values["backend"] in ("tensorrt", "trt")
    assert values["tokenizer"] == "model"
    assert values["host"] == "127.0.0.1"


@pytest.mark.parametrize("release", OFFERED)
@pytest.mark.parametrize(("chunked", "reuse"), [(False, True), (True, True), (False, False), (True, False)])
def test_what_no_option_says_is_a_file_whose_keys_the_server_takes(release, chunked, reuse):
    command = commands.serve("trtllm-serve", "engine", "model", SIZES, "trt", kv_share=0.4, settings="more.yaml")
    assert problems(release, command) == []
    assert command[-2:] == ["--extra_llm_api_options", "more.yaml"]
    told, entries = commands.serve_settings(0.4, chunked, reuse), contract(release).entries
    assert (told == {}) == (reuse and not chunked)
    assert told.get("enable_chunked_prefill", False) is chunked
    cache = told.get("kv_cache_config", {"enable_block_reuse": True})
    assert cache["enable_block_reuse"] is reuse
    assert entries["tensorrt_llm._tensorrt_engine.LLM"].problems({"model": "engine", **told}) == []
    assert entries["tensorrt_llm.llmapi.KvCacheConfig"].problems(cache) == []
    # The file's cache settings replace the option's, so the share has to be said once more.
    assert reuse or cache["free_gpu_memory_fraction"] == 0.4


@pytest.mark.parametrize("release", OFFERED)
def test_a_build_says_every_limit_and_keeps_its_timing_cache_in_the_engine(release):
    values = contract(release).programs["trtllm-build"].parse(BUILD)
    assert {name: values[name] for name in vars(SIZES)} == vars(SIZES)
    assert values["output_timing_cache"] == "engine/timing.cache"


# --- Calls of Python, read from the workers themselves

ENTRIES = {
    "LLM": "tensorrt_llm._tensorrt_engine.LLM",
    "SamplingParams": "tensorrt_llm.SamplingParams",
    "SchedulerConfig": "tensorrt_llm.llmapi.SchedulerConfig",
    "get_stats": "tensorrt_llm.LLM.get_stats",
    "KvCacheConfig": "tensorrt_llm.llmapi.KvCacheConfig",
    "QuantConfig": "tensorrt_llm.llmapi.QuantConfig",
    "Mapping": "tensorrt_llm.mapping.Mapping",
    "from_hugging_face": "tensorrt_llm.models.LLaMAForCausalLM.from_hugging_face",
    "save_checkpoint": "tensorrt_llm.models.LLaMAForCausalLM.save_checkpoint",
    "generate_async": "tensorrt_llm.LLM.generate_async",
    "export_tensorrt_llm_checkpoint": "modelopt.torch.export.export_tensorrt_llm_checkpoint",
    "export_hf_checkpoint": "modelopt.torch.export.export_hf_checkpoint",
    "quantize": "modelopt.torch.quantization.quantize",
    "deserialize_cuda_engine": "tensorrt.Runtime.deserialize_cuda_engine",
    "get_engine_information": "tensorrt.EngineInspector.get_engine_information",
    "create_engine_inspector": "tensorrt.ICudaEngine.create_engine_inspector",
    "Runtime": "tensorrt.Runtime",
}


MEMBERS = {
    "CapacitySchedulerPolicy": "tensorrt_llm.llmapi.CapacitySchedulerPolicy",
    "QuantAlgo": "tensorrt_llm.llmapi.QuantAlgo",
}


def members(source: str) -> Iterator[tuple[str, str]]:
    """(enumeration, member) of every member that a worker's source names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in MEMBERS:
            yield MEMBERS[node.value.id], node.attr


def name_of(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def calls(source: str) -> Iterator[tuple[str, list[ast.expr], dict[str, Any]]]:
    """(entry point, positional arguments, keywords) of every call of one in a worker's source."""
    # Two classes are called LLM: the import says which.
    entries = {**ENTRIES, "LLM": "tensorrt_llm.LLM"} if "from tensorrt_llm import LLM" in source else ENTRIES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and name_of(node.func) in entries:
            # What is no constant is known only when the worker runs, so its type is not judged here.
            values = {word.arg: word.value for word in node.keywords if word.arg}
            keywords = {name: v.value if isinstance(v, ast.Constant) else None for name, v in values.items()}
            yield entries[name_of(node.func)], node.args, keywords


def wrong_calls(release: str, source: str) -> list[str]:
    entries = contract(release).entries
    found = []
    for entry, positional, keywords in calls(source):
        row = entries[entry]
        names = [parameter.name for parameter in row.parameters][: len(positional)]
        found += row.problems({**dict.fromkeys(names), **keywords})
    for entry, member in members(source):
        found += entries[entry].problems({member: None})
    return found


CALLING = sorted(
    file for file in WORKERS.glob("*.py") if not file.name.startswith("openvino") and list(calls(file.read_text()))
)


def test_the_workers_that_call_nvidias_code_are_these():
    assert {file.name for file in CALLING} >= {
        "trtllm_batch.py",
        "modelopt_checkpoint.py",
        "trtllm_convert.py",
        "trtllm_generate.py",
        "trtllm_inspect.py",
        "trtllm_pytorch_generate.py",
        "trtllm_score.py",
    }


@pytest.mark.parametrize("release", OFFERED)
@pytest.mark.parametrize("worker", CALLING, ids=lambda file: file.name)
def test_every_call_in_a_worker_is_one_that_the_release_takes(release, worker):
    assert wrong_calls(release, worker.read_text()) == []


@pytest.mark.parametrize(
    ("worker", "right", "wrong"),
    [
        ("trtllm_generate.py", "max_tokens=arguments", "max_token=arguments"),
        ("trtllm_generate.py", "tensor_parallel_size=", "tp_size="),
        ("trtllm_score.py", "enable_block_reuse=", "block_reuse="),
        ("trtllm_score.py", "tensor_parallel_size=", "tp_size="),
        ("trtllm_generate.py", "enable_block_reuse=", "block_reuse="),
        ("trtllm_batch.py", "max_tokens=arguments.blocks", "max_blocks=arguments.blocks"),
        ("trtllm_batch.py", "enable_block_reuse=", "block_reuse="),
        ("trtllm_batch.py", "capacity_scheduler_policy=", "scheduler_policy="),
        ("trtllm_batch.py", "CapacitySchedulerPolicy.MAX_UTILIZATION", "CapacitySchedulerPolicy.MAX_UTILISATION"),
        ("trtllm_batch.py", "scheduler_config=scheduler", "scheduler=scheduler"),
        ("trtllm_batch.py", "ignore_eos=", "ignore_end="),
        ("trtllm_batch.py", "get_stats(timeout=", "get_stats(seconds="),
        ("trtllm_convert.py", "QuantAlgo.W8A16", "QuantAlgo.W8A61"),
        ("trtllm_score.py", "return_context_logits=", "context_logits="),
        ("trtllm_convert.py", "quant_config=", "quantization="),
        ("trtllm_convert.py", "quant_algo=", "algorithm="),
        ("trtllm_convert.py", "world_size=", "world="),
        ("modelopt_checkpoint.py", "inference_tensor_parallel=", "tensor_parallel="),
        ("modelopt_checkpoint.py", "export_dir=", "directory="),
        ("trtllm_pytorch_generate.py", "dtype=", "type="),
        ("trtllm_pytorch_generate.py", "max_num_tokens=", "max_tokens_in_a_step="),
        ("trtllm_pytorch_generate.py", "max_seq_len=", "build_config="),
    ],
)
def test_a_misspelt_keyword_is_noticed(worker, right, wrong):
    source = (WORKERS / worker).read_text()
    assert right in source
    for release in OFFERED:
        assert wrong_calls(release, source.replace(right, wrong)) != []


def options_taken(worker: str) -> set[str]:
    """The options that a worker's own parser has."""
    found = re.findall(r'add_argument\(\s*"(--[a-z-]+)"', (WORKERS / worker).read_text())
    return set(found)


SCORE = commands.score("python", "engine", "model", "texts", "scores", 2)
BATCH = commands.batch("python", "engine", "model", "texts", Load(), 96, 32, "run", 2)
GENERATE = commands.generate("python", "engine", "model", "prompt", 8, True, 2, block_reuse=False)
PYTORCH = pytorch_commands.generate("python", "folder", "prompt", SIZES, 8, True, 2, "fp8")


@pytest.mark.parametrize("command", [BATCH, GENERATE, SCORE, PYTORCH], ids=["batch", "generate", "score", "pytorch"])
def test_a_worker_is_called_with_options_that_it_has(command):
    worker = Path(command[1]).name
    assert set(options_of(command)) == options_taken(worker)


@pytest.mark.parametrize("release", OFFERED)
def test_two_ranks_are_built_by_a_worker_each_served_and_loaded_on_two_gpus(release):
    assert contract(release).programs["trtllm-build"].parse(BUILD)["workers"] == 2
    assert contract(release).programs["trtllm-serve"].parse(SERVE[release])["tp_size"] == 2
    for command in (BATCH, GENERATE, SCORE):
        assert command[command.index("--tp-size") + 1] == "2"


def test_what_an_engine_cannot_do_is_said_and_nothing_else():
    whole = commands.build("trtllm-build", "checkpoint", "engine", SIZES)
    without = commands.build("trtllm-build", "checkpoint", "engine", SIZES, paged_context=False)
    assert without == [*whole, "--use_paged_context_fmha", "disable"]
    assert "--no-block-reuse" not in commands.generate("python", "engine", "model", "prompt", 8)


def test_nothing_but_the_workers_imports_tensorrt_llm():
    for file in [*(workspace.REPOSITORY / "helpers").rglob("*.py"), *(workspace.REPOSITORY / "tools").rglob("*.py")]:
        if file.parent == WORKERS:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [n for n in names if n.split(".")[0] in ("tensorrt_llm", "tensorrt")], file


def test_workers_import_nothing_of_ours():
    for file in WORKERS.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] == "helpers"], file
