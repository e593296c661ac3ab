"""A pod's commands, previewed from any machine."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from helpers import hardware, memory, plan, workspace
from helpers.errors import WorkshopError

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
