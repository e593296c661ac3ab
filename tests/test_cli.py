"""``python -m helpers``: what a terminal gets."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

import helpers.__main__ as cli
from helpers import recipe


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "helpers", *words], cwd=ROOT, capture_output=True, text=True)


def test_check_looks_at_machine_and_toolchain():
    done = call("check")
    assert done.returncode == 0, done.stderr
    machine, checks, toolchain = done.stdout.strip().split("\n\n")
    assert machine.startswith("This machine at a glance\n")
    assert re.search(r"^CPU +\S", machine, re.MULTILINE)
    assert re.search(r"^memory +[\d.]+ GB", machine, re.MULTILINE)
    assert checks.startswith("Is this machine good?\n")
    assert re.search(r"^disk +.* (ok|warning|stop)", checks, re.MULTILINE)
    assert re.search(r"^openvino +(\S+) +\1 +ok$", toolchain, re.MULTILINE)
    assert re.search(r"^compile and run a graph .*ok$", toolchain, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["build", "--precision", "fp9"], "fp9"),
        (["build", "bundled", "--tp-size", "2"], "An OpenVINO engine runs whole on this CPU"),
        (["build", "no-such-model"], "There is no model called 'no-such-model'"),
        (["generate", "/nowhere/at/all", "--prompt", "Born in"], "There is no model called '/nowhere/at/all'"),
        (["memory", "--gpu", "a10h"], "Did you mean 'a10g'"),
        (["memory", "--batch", "0"], "max_batch_size is 0"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(words, told):
    done = call(*words)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_memory_prints_what_fits_and_whether_it_can_be_built():
    words = [
        "--gpu",
        "a10g",
        "--precision",
        "fp8",
        "--kv",
        "fp8",
        "--batch",
        "32",
        "--sequence",
        "2000",
        "--tp-size",
        "2",
    ]
    done = call("memory", *words)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^weights +615\.\d\d MB", done.stdout, re.MULTILINE)
    assert re.search(r"TinyLlama in FP8 with an FP8 KV cache on 2 GPUs: A10G: .* requests of 2,000 tokens", done.stdout)
    assert "more than the 32 that the engine is built for" in done.stdout
    assert "no engine can be built with FP8 weights for the A10G" in done.stdout


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["plan", "bundled-cpu"], 0),
        (["plan", "{refused}"], 1),
        (["truss", "llama-3-8b-fp8-h100"], 0),
        (["truss", "bundled-cpu", "--output", "{folder}"], 1),
    ],
)
def test_the_status_tells_whether_a_recipe_can_be_run_or_deployed(words, status, tmp_path, capsys):
    refused = tmp_path / "refused.yaml"
    refused.write_text(recipe.load("bundled-cpu").changed(precision="int4_awq").to_yaml())
    words = [word.format(refused=refused, folder=tmp_path / "truss") for word in words]
    assert cli.main(words) == status
    assert capsys.readouterr().out
    assert not (tmp_path / "truss").exists()


def test_a_reader_that_has_gone_is_no_traceback():
    plan = subprocess.Popen(
        [sys.executable, "-m", "helpers", "plan", "tinyllama-fp8-rtx-4090"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    plan.stdout.close()
    assert plan.stderr.read() == b""
    assert plan.wait() == 141


def test_help_names_every_command(capsys):
    done = call("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for command in ("check", "install", "build", "generate", "plan", "memory", "watch"):
        assert re.search(rf"^    {command} +\w+", done.stdout, re.MULTILINE)
    with pytest.raises(SystemExit) as ended:
        cli.main(["build", "--help"])
    assert ended.value.code == 0
    assert "--precision" in capsys.readouterr().out


def test_no_command_and_an_unknown_one_are_refused_with_the_usage(capsys):
    for words in ([], ["bild"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 2
        assert "usage: python -m helpers" in capsys.readouterr().err


def seconds_to_import(module: str) -> float:
    """Cumulative time of one import, in a fresh process, as Python itself measures it; the best of three."""
    times = []
    for _ in range(3):
        command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
        (microseconds,) = re.findall(rf"\| +(\d+) \| {re.escape(module)}$", told, re.MULTILINE)
        times.append(int(microseconds) / 1e6)
    return min(times)


def test_importing_the_helpers_is_instant():
    assert seconds_to_import("helpers") < 0.2


def test_heavy_libraries_wait_until_they_are_needed():
    """What every notebook's first cells import; each heavy library would add seconds."""
    code = (
        "import sys; from helpers import checkpoint, hardware, models, plots, precision, stage, teaching, toolchains\n"
        "from helpers import exercises, memory, widgets\n"
        "print({name.split('.')[0] for name in sys.modules} & "
        "{'torch', 'transformers', 'openvino', 'matplotlib', 'pandas', 'nncf', 'modelopt', 'ipywidgets'})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
