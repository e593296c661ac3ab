"""A pod's commands, previewed from any machine."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import hardware, memory, models, plan, workspace
from helpers.errors import WorkshopError
from helpers.toolchains import openvino
from helpers.toolchains.base import Engine
from helpers.toolchains.serving import ServeOptions
from helpers.toolchains.sizes import Sizes
from helpers.toolchains.tensorrt_llm.serve import settings_file

TP2 = ["rtx-4090", "a10g", "h200"]


def command_line(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "helpers", "plan", *words], cwd=workspace.REPOSITORY, capture_output=True, text=True
    )


def test_a_4090_gets_fp8_from_an_empty_pod_to_an_api():
    done = command_line("--gpu", "rtx-4090", "--precision", "fp8")
    assert done.returncode == 0, done.stderr
    for part in ("trtllm-build", "trtllm-serve", "--precision fp8 --kv-cache fp8", "download_model.py", "1.23 GB"):
        assert part in done.stdout
    assert "pip" in done.stdout and "tensorrt_llm==1.2.1" in done.stdout


def test_an_a10g_gets_int8_without_being_told():
    done = command_line("--gpu", "a10g")
    assert done.returncode == 0, done.stderr
    assert "INT8" in done.stdout and "--precision int8_sq" in done.stdout
    assert "fp8" not in done.stdout.lower()


def test_a_t4_is_told_no_and_what_to_do():
    done = command_line("--gpu", "t4")
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(r"error: .*T4.*7\.5.*8\.0 or newer.*\n", done.stderr)


def test_a_precision_that_the_gpu_lacks_is_refused_with_the_best_one_it_has():
    with pytest.raises(WorkshopError, match=r"(?s)FP8 .*A10G.*Take 'int8' instead"):
        plan.make("a10g", "fp8")


def words_of(step: plan.Step) -> list[list[str]]:
    """The commands of a step as a shell would split them."""
    return [shlex.split(line.replace("\\\n", "")) for line in step.lines]


@pytest.mark.parametrize("gpu", [sheet.key for sheet in hardware.datasheets() if sheet.compute_capability >= (8, 0)])
def test_every_usable_gpu_has_a_whole_plan_or_a_reason(gpu):
    made = plan.make(gpu, "fp16")
    assert [step.kind for step in made.steps] == [
        *("settings", "install", "download", "checkpoint", "engine", "generate", "serve")
    ]
    assert all(words_of(step) for step in made.steps)


def test_commands_are_ready_for_a_shell():
    made = plan.make("rtx-4090", "fp8")
    by_kind = {step.kind: step for step in made.steps}
    [generate] = words_of(by_kind["generate"])
    assert generate[0] == "$WORKSHOP_HOME/environments/trtllm-1.2.1/bin/python"
    assert generate[generate.index("--prompt") + 1] == "Born in north-east France, Soyer trained as a"
    for step in made.steps:
        for line in step.lines:
            assert str(workspace.REPOSITORY) not in line
            assert "'$WORKSHOP_HOME" not in line, "the shell would not fill it in"
            # Every script that is named lies in the repository, where the plan is run.
            for script in re.findall(r"\S+\.py\b", line):
                assert (workspace.REPOSITORY / script).is_file(), script


def test_an_option_stays_beside_its_value_and_lines_are_narrow():
    for step in (*plan.make("rtx-4090", "fp8").steps, *plan.make("a10g", tp_size=2).steps):
        for line in "\n".join(step.lines).splitlines():
            words = line.removesuffix(" \\").split()
            if words[-1].startswith("--") and line.endswith("\\"):
                assert words[-1] in ("--seed", "--upgrade", "--disable-pip-version-check"), line
            # What is wider is one option with a long value, or one word.
            assert len(line) <= 88 or len(words) <= 2 or step.kind in ("install", "settings"), line


def test_the_paths_of_the_loader_are_one_command_for_a_shell(tmp_path):
    [step] = [step for step in plan.make("rtx-4090", "fp8").steps if step.kind == "install"]
    folder = tmp_path / "environments" / "trtllm-1.2.1" / "lib" / "python3.12" / "site-packages"
    for name in ("nvidia/a/lib", "torch/lib", "tensorrt_libs"):
        (folder / name).mkdir(parents=True)
    done = subprocess.run(
        ["bash", "-c", f"LD_LIBRARY_PATH=/before\n{step.lines[-1]}\nprintf %s $LD_LIBRARY_PATH"],
        env={"WORKSHOP_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{folder}/nvidia/a/lib:{folder}/torch/lib:{folder}/tensorrt_libs:/before", done.stderr


def test_what_one_step_makes_the_next_one_takes():
    by_kind = {step.kind: step for step in plan.make("h200", "fp8").steps}
    [checkpoint], [engine] = words_of(by_kind["checkpoint"]), words_of(by_kind["engine"])
    [serve] = words_of(by_kind["serve"])
    assert engine[engine.index("--checkpoint_dir") + 1] == checkpoint[checkpoint.index("--output") + 1]
    assert serve[serve.index("serve") + 1] == engine[engine.index("--output_dir") + 1]
    assert serve[serve.index("--tokenizer") + 1] == by_kind["download"].makes


@pytest.mark.parametrize("gpu", TP2)
def test_two_ranks_are_half_each(gpu):
    one, two = plan.make(gpu, "fp16"), plan.make(gpu, "fp16", tp_size=2)
    sizes = [next(step.size for step in made.steps if step.kind == "engine") for made in (one, two)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.001)  # both ranks together
    assert any("--tp-size 2" in " ".join(words) for step in two.steps for words in words_of(step))


def test_two_gpus_have_folders_of_their_own_and_what_the_lack_of_a_direct_path_needs():
    by_kind = {step.kind: step for step in plan.make("rtx-4090", "fp16", tp_size=2).steps}
    assert by_kind["engine"].makes.endswith("/tensorrt_llm-fp16-tp2")
    [serve] = words_of(by_kind["serve"])
    assert serve[serve.index("serve") + 1] == by_kind["engine"].makes
    assert serve[serve.index("--tp_size") + 1] == "2"
    settings = "\n".join(by_kind["settings"].lines)
    assert "export NCCL_P2P_DISABLE=1 FORCE_NCCL_ALL_REDUCE_STRATEGY=1" in settings
    assert "TLLM_WORKER_USE_SINGLE_PROCESS" not in settings
    nvlink = str(plan.make("h200", "fp16", tp_size=2).steps[0].lines)
    assert "NCCL" not in nvlink and "TLLM_WORKER_USE_SINGLE_PROCESS" not in nvlink
    assert "TLLM_WORKER_USE_SINGLE_PROCESS=1" in str(plan.make("rtx-4090", "fp16").steps[0].lines)


def test_a_notebook_shows_one_step_for_two_gpus():
    shown = str(plan.step("engine", tp_size=2))
    assert "On a pod with 2 GPUs, GeForce RTX 4090" in shown
    assert "--workers 2" in shown and "fp16-tp2" in shown


def test_slices_of_a_split_gpu_are_no_peers():
    with pytest.raises(WorkshopError, match=r"slices of a split GPU .*whole GPU"):
        plan.make("h100-mig-3g.40gb", "fp16", tp_size=2)


def test_the_plan_says_what_the_memory_planner_says():
    made = memory.fit("TinyLlama", "rtx-4090", "fp8", "fp8")
    [said] = [note for note in plan.make("rtx-4090", "fp8").notes if note.startswith("predicted")]
    assert f"{made.requests:,} of them fit at once in 24.00 GB, and the engine is built for 64." in said


def test_a_split_that_is_none_is_refused():
    with pytest.raises(WorkshopError, match=r"cannot be split over 3 ranks.*\[1, 2, 4\]"):
        plan.make("h200", "fp16", tp_size=3)


def test_an_unknown_gpu_is_answered_with_the_nearest():
    with pytest.raises(WorkshopError, match="rtx-4090"):
        plan.make("rtx-4900")


def test_the_older_release_can_be_planned_and_an_unoffered_one_is_refused_with_its_reason():
    assert "tensorrt_llm==1.0.0" in str(plan.make("a10g", release="1.0.0"))
    with pytest.raises(WorkshopError, match=r"1\.1\.0"):
        plan.make("a10g", release="1.1.0")


def test_a_notebook_shows_one_step():
    shown = plan.step("engine", "fp16")
    assert "trtllm-build" in str(shown) and "RTX 4090" in str(shown)
    assert "trtllm-build" in shown._repr_html_()
    with pytest.raises(WorkshopError, match=r"no step .sing.\. Choose one of settings, install"):
        plan.step("sing")


def test_planning_needs_no_network_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_HOME", str(tmp_path / "home"))
    plan.make("rtx-4090", "fp8")
    assert not (tmp_path / "home").exists()


def test_the_bundled_model_can_be_planned_too():
    made = plan.make("rtx-4090", "fp16", "bundled")
    assert "download" not in [step.kind for step in made.steps]
    assert json.dumps(str(made)).count("data/model") >= 2


def test_another_kv_cache_other_sizes_and_fewer_texts_name_their_folders_and_reach_their_commands():
    sizes = Sizes(16, 2048, 500, 700)
    made = plan.make("a10g", "int8", kv="int8", sizes=sizes, calibration_texts=64)
    by_kind = {step.kind: step for step in made.steps}
    [checkpoint], [engine] = words_of(by_kind["checkpoint"]), words_of(by_kind["engine"])
    assert checkpoint[checkpoint.index("--calibration-texts") + 1] == "64"
    assert by_kind["checkpoint"].makes.endswith("/int8_sq-kv-int8-tp1-c64")
    assert by_kind["engine"].makes.endswith("/tensorrt_llm-int8-kv-int8-c64-b16-in500-seq700-t2048")
    assert engine[engine.index("--max_input_len") + 1] == "500"
    assert engine[engine.index("--use_paged_context_fmha") + 1] == "disable"
    write, serve = words_of(by_kind["serve"])
    assert "  enable_block_reuse: false" in write and write[-1] == "$WORKSHOP_HOME/llm_options.yaml"
    assert serve[serve.index("--extra_llm_api_options") + 1] == write[-1]
    assert serve[serve.index("--max_seq_len") + 1] == "700"


def test_the_settings_that_a_plan_writes_are_those_that_the_server_reads(tmp_path, monkeypatch):
    options = ServeOptions(Sizes(16, 2048, 500, 700), kv_share=0.5, chunked_prefill=True)
    made = plan.make("rtx-4090", "fp16", sizes=options.sizes, serve=options)
    [step] = [step for step in made.steps if step.kind == "serve"]
    monkeypatch.setenv("WORKSHOP_HOME", str(tmp_path))
    subprocess.run(["bash", "-c", step.lines[0]], check=True)
    assert (tmp_path / "llm_options.yaml").read_text() == settings_file(options, True)["llm_options.yaml"]


def test_sizes_that_are_the_usual_ones_go_unnamed():
    usual = plan.make("rtx-4090", "fp16")
    words = [word for step in usual.steps if step.kind == "engine" for word in words_of(step)[0]]
    sizes = Sizes(*(int(words[words.index(f"--{name}") + 1]) for name in Sizes.__dataclass_fields__))
    assert str(plan.make("rtx-4090", "fp16", sizes=sizes)) == str(usual)


def test_a_kv_cache_that_the_gpu_lacks_is_refused():
    with pytest.raises(WorkshopError, match="KV cache in FP8 cannot be built"):
        plan.make("a10g", "int8", kv="fp8")


class Captured(Exception):
    """A stage was about to run."""


@pytest.mark.parametrize("precision, kv, texts", [("fp16", None, 128), ("fp8", None, 128), ("int8", "int8", 64)])
def test_a_plan_for_a_cpu_has_the_commands_that_its_toolchain_runs(precision, kv, texts, monkeypatch, own_home):
    stages = []

    def capture(stage):
        stages.append(stage)
        stage.target.mkdir(parents=True)  # the next stage reads from it
        (stage.target / "openvino_model.bin").touch()
        if stage.kind == "engine":
            raise Captured
        return workspace.Artifact(stage.target, stage.manifest())

    monkeypatch.setattr(openvino.stage, "run", capture)
    monkeypatch.setattr(openvino.stage, "ensure", capture)
    with pytest.raises(Captured):
        openvino.build(models.find(), precision, kv, calibration_texts=texts)
    options = ServeOptions(Sizes(8, 512, 300, 400))
    made = plan.make_on_cpu("bundled", precision, kv, options, texts)
    by_kind = {step.kind: step for step in made.steps}
    assert [*by_kind] == ["settings", "graph", "engine", "serve"]
    for stage in stages:
        [words] = words_of(by_kind[stage.kind])
        words = [word.replace(plan.HOME, str(own_home)) for word in words]
        real = [
            word.replace("{out}", str(stage.target)).removeprefix(f"{workspace.REPOSITORY}/") for word in stage.command
        ]
        assert words[1:] == real[1:]
        assert words[0] == Path(real[0]).name.replace("python3", "python").split(".")[0]


@pytest.mark.parametrize("tokens, chunked", [(None, False), (4096, True)])
def test_a_plan_for_a_cpu_serves_with_the_command_that_its_toolchain_serves_with(tokens, chunked, own_home):
    folder = own_home / "engines" / "bundled" / "openvino-fp16"
    (folder / "graph").mkdir(parents=True)
    (folder / "graph" / "config.json").write_text((workspace.DATA / "model" / "config.json").read_text())
    options = {"toolchain": "openvino", "model": "bundled", "precision": "fp16", "kv": ""}
    made = workspace.Manifest("engine", "", options, maker=openvino.release(), machine=hardware.cpu_identity())
    asked = ServeOptions(Sizes(8, 512, 300, 400), port=9000, kv_tokens=tokens, chunked_prefill=chunked)
    real = openvino.serve_command(Engine(folder, made), asked).command
    [words] = words_of(plan.make_on_cpu("bundled", "fp16", None, asked).steps[-1])
    assert [word.replace(plan.HOME, str(own_home)) for word in words][1:] == real[1:]
