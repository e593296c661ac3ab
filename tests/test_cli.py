"""``python -m helpers``: what a terminal gets."""

import re
import signal
import subprocess
import sys
import time

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
        (
            ["plan", "bundled-cpu", "--gpu", "rtx-4090", "--tp-size", "1"],
            "says everything itself: leave --gpu, --tp-size out",
        ),
        (["plan", "bundled-cpu", "--precision", "fp8"], "leave --precision out"),
        (["build", "bundled-cpu", "--kv", "int8"], "leave --kv out"),
        (["plan", "--tp-size", "0"], "0"),
        (["serve", "bundled-cpu", "--port", "65536"], "There is no port 65536. Choose one from 1 to 65535"),
        (["serve", "bundled-cpu", "--port", "-1"], "There is no port -1."),
        (["serve", "bundled-cp"], "Did you mean 'bundled-cpu'"),
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_to_stop_before_the_server_answers_is_told_and_is_no_success(number, own_home):
    serving = subprocess.Popen(
        [sys.executable, "-m", "helpers", "serve", "bundled-cpu"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever runs the tests in the background may have SIGINT ignored, which a child would inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 60
    while not any(own_home.glob("runs/*/log.txt")) and time.monotonic() < end:
        time.sleep(0.05)  # until the first stage is under way
    serving.send_signal(number)
    _, told = serving.communicate(timeout=60)
    assert serving.returncode == 130
    assert told.endswith("Stopped. Nothing half-made is left; the same command starts again.\n")
    assert "Traceback" not in told
    assert not [*own_home.glob("graphs/*/openvino_model.xml")]


@pytest.mark.slow
def test_to_end_a_running_server_is_a_success(made_by_notebooks, shared_home):
    assert made_by_notebooks.returncode == 0
    serving = subprocess.Popen(
        [sys.executable, "-m", "helpers", "serve", "bundled-cpu"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    for line in serving.stdout:
        if "Ctrl-C ends the server" in line:
            break
    serving.send_signal(signal.SIGTERM)
    said, _ = serving.communicate(timeout=60)
    assert serving.returncode == 0
    assert said.endswith("The server has ended.\n")


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
