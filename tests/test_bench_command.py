"""``python -m helpers bench``: a server measured from a terminal, and how a mistake in its options is answered."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from bad_servers import chunk, good, plain, serving
from conftest import ROOT

from helpers import bench
from helpers.bench.generator.folder import results_into
from helpers.bench.generator.measuring import named
from helpers.bench.generator.target import Target
from helpers.bench.load import Load
from helpers.errors import WorkshopError

SHORT = ("--requests", "4", "--warmup", "1", "--input", "8", "--output", "4")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "WORKSHOP_HOME": str(tmp_path / "home")}


def command(
    environment: dict[str, str], *words: str, program: tuple[str, ...] = ("helpers", "bench"), asked: str = ""
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *program, *words],
        cwd=ROOT,
        env=environment,
        input=asked,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_load_is_measured_printed_with_its_definitions_and_kept(environment, tmp_path):
    with serving(good(4, first=0.02, gap=0.002)) as server:
        done = command(environment, server.url, *SHORT, "--runs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "closed loop, concurrency 1" in done.stdout and "8 answered whole, 0 not, in 2 runs" in done.stdout
    assert "From writing the request's last byte" in done.stdout, "a figure without its definition says nothing"
    assert "run 2: 4 requests, 0 failed" in done.stderr
    [kept] = (tmp_path / "home" / "benchmarks").iterdir()
    assert json.loads((kept / "manifest.json").read_text())["kind"] == "benchmark"
    read = bench.reopen(kept)
    assert [len(run.rows) for run in read.runs] == [4, 4] and read.value("ttft_p50") >= 0.02


def test_several_loads_are_a_sweep_in_the_folder_that_was_asked_for(environment, tmp_path):
    with serving(good(4)) as server:
        done = command(environment, server.url, *SHORT, "--concurrency", "1,3", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ +1 +[\d,]+ .*\n +3 +[\d,]+ ", done.stdout, re.MULTILINE), done.stdout
    assert [one.load.concurrency for one in bench.reopen(tmp_path / "out")] == [1, 3]
    assert not (tmp_path / "home" / "benchmarks").exists()


def test_a_sweep_that_fails_prints_what_there_is_and_where_it_is_kept(environment, tmp_path):
    def script(asked):  # one of warm-up and four that are measured; then it is broken
        return good(4) if asked.number < 5 else [plain("500 Internal Server Error", {"message": "no memory left"})]

    with serving(script) as server:
        done = command(environment, server.url, *SHORT, "--concurrency", "1,3")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "closed loop, concurrency 1" in done.stdout and "From writing the request's last byte" in done.stdout
    assert "no memory left" in done.stderr
    assert f"The load before it is kept in {tmp_path / 'home' / 'benchmarks'}." in done.stderr
    assert len(list((tmp_path / "home" / "benchmarks").iterdir())) == 1


def test_a_stop_between_two_loads_prints_what_there_is(monkeypatch):
    from helpers.__main__ import parser
    from helpers.bench import command as of_bench

    def measured(asked, load, title):
        if load.concurrency == 3:
            raise KeyboardInterrupt
        return SimpleNamespace(load=load, interrupted=False, sentence="")

    printed = []
    monkeypatch.setattr(of_bench, "_measured", measured)
    monkeypatch.setattr(of_bench, "_print", printed.extend)
    assert of_bench.main(parser().parse_args(["bench", "http://127.0.0.1:9", "--concurrency", "1,3,5"])) == 130
    assert [one.load.concurrency for one in printed] == [1]


def test_the_command_is_kept_as_it_can_be_typed_again(environment, tmp_path):
    with serving(good(4)) as server:
        done = command(environment, server.url, *SHORT, program=("helpers.bench",))
    assert done.returncode == 0, done.stderr
    [kept] = (tmp_path / "home" / "benchmarks").iterdir()
    told = json.loads((kept / "manifest.json").read_text())["command"]
    assert told[:4] == ["python", "-m", "helpers", "bench"] and told[5:] == list(SHORT)


@pytest.mark.parametrize("where", ["--out", "WORKSHOP_HOME"])
def test_results_that_cannot_be_written_are_found_out_before_anything_is_sent(environment, tmp_path, where):
    (tmp_path / "file").write_text("no folder")
    place = str(tmp_path / "file" / "results")
    changed = {**environment, "WORKSHOP_HOME": place} if where == "WORKSHOP_HOME" else environment
    with serving(good(4)) as server:
        done = command(changed, server.url, "--model", "m", *SHORT, *(("--out", place) if where == "--out" else ()))
        assert server.asked == [] and server.others == []
    assert done.returncode == 1 and "Results cannot be written into" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_the_notebooks_load_generator_says_that_results_cannot_be_written(environment, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with serving(good(4)) as server:
        told = {"url": server.url, "model": "m", "load": Load().told(), "out": str(tmp_path / "file" / "out")}
        asked = json.dumps(told)
        done = command(environment, "--machine", program=("helpers.bench",), asked=asked)
        assert server.asked == []
    assert json.loads(done.stdout)["error"].startswith("Results cannot be written into"), done.stderr


def test_no_room_for_results_is_a_sentence_and_an_empty_folder_goes(tmp_path):
    with pytest.raises(WorkshopError, match="No space left on device"), results_into(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ConnectionResetError), results_into(tmp_path / "a"):
        raise ConnectionResetError(errno.ECONNRESET, "of a server, and not of a file")
    with pytest.raises(WorkshopError, match="Permission denied"), results_into(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a" / "requests.csv"))
    with pytest.raises(FileNotFoundError), results_into(tmp_path / "a"):
        (tmp_path / "nowhere").read_text()
    assert not (tmp_path / "a").exists()


def many_models(framed: bool) -> bytes:
    """A list of a thousand models, whole or in chunks."""
    told = {"data": [{"id": f"model-{number:04d}-{'x' * 100}"} for number in range(1000)]}
    if not framed:
        return plain("200 OK", told, "Server: many")
    body = json.dumps(told).encode()
    parts = [chunk(body[at : at + 9999]) for at in range(0, len(body), 9999)]
    return b"HTTP/1.1 200 OK\r\nServer: many\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("framed", [False, True])
def test_a_long_list_of_models_is_read_whole(framed):
    with serving(good(4)) as server:
        server._other = lambda asked: many_models(framed)
        target, called = named(Target.of(server.url))
    assert target.model.startswith("model-0000-") and called == "many"


def test_an_answer_without_an_end_is_given_up():
    def steps(asked):
        return b"HTTP/1.1 200 OK\r\nContent-Length: 99000000\r\n\r\n" + bytes(17_000_000)

    with serving(good(4)) as server:
        server._other = steps
        with pytest.raises(WorkshopError, match="no end within 16 MB"):
            named(Target.of(server.url))


def test_the_advice_on_a_key_names_its_variable_and_says_whether_it_is_empty(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    there = Target.of("http://127.0.0.1:9", key_variable="MY_KEY").key_advice
    assert "does not take the key in the environment variable MY_KEY" in there and "sk-secret" not in there
    monkeypatch.setenv("MY_KEY", " ")
    assert "MY_KEY is empty" in Target.of("http://127.0.0.1:9", key_variable="MY_KEY").key_advice
    with pytest.raises(WorkshopError, match="into the environment variable MY_KEY"):
        Target.of("http://me:hunter2@127.0.0.1:9", key_variable="MY_KEY")


def test_ctrl_c_keeps_what_was_measured(environment, tmp_path):
    words = [sys.executable, "-m", "helpers", "bench"]
    with serving(good(4, first=0.05)) as server:
        child = subprocess.Popen(
            [*words, server.url, "--requests", "400", "--warmup", "1", "--input", "8", "--output", "4"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        deadline = time.monotonic() + 20
        while len(server.asked) < 12 and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        told, said = child.communicate(timeout=20)
    assert child.returncode == 130, told + said
    [kept] = (tmp_path / "home" / "benchmarks").iterdir()
    read = bench.reopen(kept)
    assert read.interrupted and 3 <= read.summary.whole < 400
    assert "Traceback" not in said and "stopped" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--concurrency", "two"), "--concurrency is 'two'. Give a number, or several with commas"),
        (("--concurrency", "1", "--rate", "2"), "Give one of --concurrency, --rate and --profile"),
        (("--concurrency", "0"), "concurrency is 0. Give a whole number of at least 1"),
        (("--rate", "-1"), "rate is -1.0. Give a number above 0"),
        (("--input", "long"), "'long' is no length in tokens"),
        (("--extra", "[1]"), "--extra is '[1]', which is no JSON object"),
        (("--extra", '{"model": "x"}'), "extra has 'model', which the load decides itself"),
        (("--prompts", "/nowhere.jsonl"), "/nowhere.jsonl"),
        (("--tokenizer", "/nowhere"), "There is no tokenizer at /nowhere"),
    ],
)
def test_an_option_that_makes_no_load_is_one_sentence(environment, words, told):
    with serving(good(4)) as server:
        done = command(environment, server.url, *words)
    assert done.returncode == 1 and told in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_or_wants_a_key_is_one_sentence(environment):
    done = command(environment, "http://127.0.0.1:9/v1")
    assert done.returncode == 1 and "does not answer" in done.stderr and "Traceback" not in done.stderr
    with serving([plain("401 Unauthorized", {"message": "who are you?"})]) as server:
        done = command({**environment, "OPENAI_API_KEY": "sk-secret"}, server.url, "--model", "m", *SHORT)
    assert done.returncode == 1 and "sk-secret" not in done.stdout + done.stderr
    assert "OPENAI_API_KEY" in done.stderr and "Traceback" not in done.stderr


def test_help_and_the_first_request_load_nothing_heavy():
    """What makes them slow is loading; a time on a shared machine would say less (tools/bench_truth measures it)."""
    heavy = {"numpy", "pandas", "matplotlib", "httpx", "openai", "pydantic", "ssl", "tokenizers", "asyncio"}
    for module in ("helpers.__main__", "helpers.bench.generator.machine"):
        code = f"import sys, {module}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert not heavy & set(done.stdout.split()), module
