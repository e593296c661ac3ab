"""One suite for both servers: the CPU server and the double of ``trtllm-serve`` pass it; a server that errs fails."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pods
import pytest
from conftest import ROOT, until
from test_doubles import MODEL, build, checkpoint

from helpers import serving, workspace
from helpers.errors import WorkshopError
from helpers.serving import conformance
from helpers.serving.conformance import FAILED, OPEN, OURS, PASSED, TRTLLM, Report, Result

# --- The parts --------------------------------------------------------------------


def test_a_stream_is_taken_apart_and_every_slip_in_its_framing_is_found():
    good = b'data: {"a": 1}\n\n: a comment\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n'
    kind = "text/event-stream; charset=utf-8"
    assert conformance.unframed(good, kind) == [{"a": 1}, {"b": 2}]
    assert conformance.unframed(good.replace(b"\n", b"\r\n"), kind) == [{"a": 1}, {"b": 2}]
    for bad, type_, what in [
        (good, "application/json", "content type"),
        (good[:-1], kind, "blank line"),
        (good.replace(b"data: [DONE]\n\n", b""), kind, "DONE"),
        (good + b"data: [DONE]\n\n", kind, "DONE"),
        (b'data: {"a": 1}\ndata: [DONE]\n\n', kind, "not one line of data"),
        (b"event: x\ndata: [DONE]\n\n", kind, "not one line of data"),
        (b"data: {\n\ndata: [DONE]\n\n", kind, "no JSON"),
    ]:
        with pytest.raises(conformance.Failure, match=what):
            conformance.unframed(bad, type_)


def test_a_stop_word_is_whole_and_comes_for_the_first_time():
    assert conformance.stop_word("one two three four five six") == "three"
    text = "abc abcdef abc defg abcd last"
    word = conformance.stop_word(text)
    assert word and text.index(word) == text.index(f" {word}") + 1
    assert conformance.stop_word("a b c") == ""


def test_a_report_counts_and_its_status_is_that_of_its_failures():
    results = (Result("a", TRTLLM, PASSED, "x"), Result("b", OURS, OPEN, "y"))
    report = Report("http://h", results, 1.0)
    counted = "1 of 2 checks passed in 1.0 s, none failed, 1 could not be seen."
    unknown = "Asked: a server that does not say what it is. No trtllm-serve was asked."
    assert report.ok and report.sentence == f"{counted} {unknown}"
    real = replace(report, seconds=0.034, asked="trtllm-serve 1.2.1", real=True).sentence
    assert real == "1 of 2 checks passed in 34 ms, none failed, 1 could not be seen. Asked: trtllm-serve 1.2.1."
    assert report.table().columns == ("check", "rule of", "result", "found")
    worse = replace(report, results=(*results, Result("c", TRTLLM, FAILED, "<z>")))
    assert not worse.ok and "1 failed" in worse.sentence
    assert "&lt;z&gt;" in worse._repr_html_() and "<z>" in str(worse)


def test_what_is_too_long_ends_at_a_word():
    assert conformance.cut("as it is\nhere") == "as it is here"
    assert conformance.cut("one two three, four", 15) == "one two three…"
    assert conformance.cut("x" * 30, 10) == "x" * 9 + "…"
    assert all(len(conformance.cut("a bc def ghij " * 9, most)) <= most for most in range(8, 60))


@pytest.mark.parametrize(
    ("owner", "version", "name", "real"),
    [
        ("openvino", "2026.2.1.0-1-abc", "the CPU server (OpenVINO 2026.2.1)", False),
        ("tensorrt_llm", "1.2.1", "trtllm-serve 1.2.1", True),
        ("tensorrt_llm", "", "trtllm-serve", True),
        ("somebody", "7", "a server whose models are owned by 'somebody', version 7", False),
        (None, 7, "a server that does not say what it is", False),
    ],
)
def test_the_report_names_who_was_asked(owner, version, name, real):
    import httpx

    answers = {"/v1/models": {"data": [{"owned_by": owner}]}, "/version": {"version": version}}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=answers[request.url.path]))
    with httpx.Client(transport=transport) as client:
        assert conformance.who(conformance.Server("http://h", client)) == (name, real)


@pytest.mark.parametrize("url", ["", "ftp://h", "http://", "::", "http://[h"])
def test_what_is_no_address_is_said(url):
    with pytest.raises(WorkshopError, match="is no address of a server"):
        conformance.run(url)


def test_an_address_where_nothing_answers_is_one_sentence():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(WorkshopError, match=rf"Nothing answers at http://127\.0\.0\.1:{port} ") as told:
        conformance.run(f"127.0.0.1:{port}/v1/")
    assert "\n" not in str(told.value)


class Wrong(BaseHTTPRequestHandler):
    """A server that takes everything and gets much wrong."""

    def log_message(self, *what):
        pass

    def answer(self, content, status=200):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer({"object": "list", "data": [{"id": "m", "object": "model"}], "version": "0"})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"index": 0, "text": "text", "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 1}
        self.answer({"id": "1", "object": "text_completion", "model": "m", "choices": [choice], "usage": usage})


def test_a_server_that_errs_fails_and_the_report_says_how():
    with ThreadingHTTPServer(("127.0.0.1", 0), Wrong) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        report = conformance.run(f"http://127.0.0.1:{server.server_address[1]}", timeout=5)
        server.shutdown()
    found = {one.check: one for one in report.results}
    assert {one.surface for one in report.results} == {TRTLLM}, "ours are checked where a server promises a 429"
    passed = [one.check for one in report.results if one.outcome == PASSED]
    assert passed == ["GET /version names a version", "GET /v1/models lists the model"]
    unknown = next(one for name, one in found.items() if name.startswith("an unknown field"))
    assert unknown.outcome == FAILED and unknown.found.startswith("200, not 400")
    assert "content type" in next(one.found for name, one in found.items() if name.startswith("stream_options.include"))
    assert not report.ok
    assert report.sentence.endswith(
        "Asked: a server that does not say what it is, version 0. No trtllm-serve was asked."
    )


# --- The double of trtllm-serve ------------------------------------------------------


@pytest.fixture(scope="module")
def double(tmp_path_factory) -> Iterator[str]:
    """The address of the double of ``trtllm-serve``, with the settings file that an INT8 KV cache's engine needs."""
    folder = tmp_path_factory.mktemp("conformance")
    pod = pods.rtx_4090(folder)
    engine = folder / "engine"
    done = build(pod, checkpoint(folder / "checkpoint", kv="INT8"), engine)
    assert done.returncode == 0, done.stderr
    settings = folder / "llm_options.yaml"
    settings.write_text("kv_cache_config:\n  enable_block_reuse: false\n  free_gpu_memory_fraction: 0.5\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", engine, "--backend", "tensorrt", "--tokenizer", MODEL, "--host", "127.0.0.1", "--port", port]
    words += ["--extra_llm_api_options", settings, "--max_batch_size", 2]
    log = (folder / "log.txt").open("w")
    command = [str(word) for word in [pod.python.parent / "trtllm-serve", *words]]
    child = subprocess.Popen(command, env=pod.environment, stdout=log, stderr=log)

    def ready() -> bool:
        assert child.poll() is None, (folder / "log.txt").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(ready, 120, "the double of trtllm-serve")
    yield f"http://127.0.0.1:{port}"
    child.terminate()
    child.wait(10)


@pytest.mark.slow
def test_the_double_of_trtllm_serve_passes(double):
    report = conformance.run(double)
    assert report.ok, str(report)
    assert {one.outcome for one in report.results} == {PASSED}, str(report)
    assert {one.surface for one in report.results} == {TRTLLM}
    assert report.real and "Asked: trtllm-serve 1." in report.sentence


@pytest.mark.slow
def test_the_double_frees_the_place_of_a_client_that_hangs_up(double):
    import httpx

    url = f"{double}/v1/completions"
    asked = {"model": "engine", "prompt": "A bridge", "temperature": 0, "ignore_eos": True}

    def seconds(tokens: int) -> float:
        began = time.monotonic()
        httpx.post(url, json={**asked, "max_tokens": tokens}, timeout=120).raise_for_status()
        return time.monotonic() - began

    whole = seconds(200)
    for _ in range(3):  # one more than run at once
        with httpx.stream("POST", url, json={**asked, "max_tokens": 200, "stream": True}, timeout=60) as answer:
            next(answer.iter_lines())
    assert seconds(1) < whole


@pytest.mark.slow
def test_a_full_queue_is_not_refused_by_the_real_server(double, monkeypatch):
    monkeypatch.setattr(conformance, "CHECKS", [one for one in conformance.CHECKS if one[1] == OURS])
    monkeypatch.setattr(conformance, "_MOST_STREAMS", 32)
    report = conformance.run(double, ours=True)
    failed = [one.check for one in report.failed]
    assert failed == ["a full queue answers 429 with Retry-After, and empties again"]


# --- The CPU server ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def cpu(made_by_notebooks) -> Iterator[serving.Endpoint]:
    """An endpoint on the bundled model's FP16 engine, small enough for its queue to be filled."""
    from helpers.toolchains import openvino
    from helpers.toolchains.base import Engine
    from helpers.toolchains.sizes import Sizes

    path = workspace.home() / "engines" / "bundled" / "openvino-fp16"
    manifest = workspace.read_manifest(path)
    assert manifest, made_by_notebooks.stdout
    engine = Engine(path, manifest)
    options = replace(openvino.serve_options(engine), sizes=Sizes(8, 512, 511, 512), max_queue=8)
    with serving.start(engine, options) as made:
        yield made


@pytest.mark.slow
def test_the_cpu_server_passes(cpu):
    report = conformance.run(cpu.url)
    assert {one.outcome for one in report.results} == {PASSED}, str(report)
    assert {one.surface for one in report.results} == {TRTLLM, OURS}
    assert "Asked: the CPU server (OpenVINO 20" in report.sentence and "No trtllm-serve was asked." in report.sentence
    assert cpu.status().ready


@pytest.mark.slow
def test_the_cpu_servers_endpoint_shows_its_blocks_and_requests(cpu):
    client = cpu.client()
    asked = {"model": cpu.model, "max_tokens": 128, "temperature": 0, "extra_body": {"ignore_eos": True}}
    threads = [
        threading.Thread(target=lambda: client.completions.create(prompt="The weather today", **asked))
        for _ in range(12)
    ]
    began = time.time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A record from before these requests says idle too, and is the last one until the poller asks again.
    until(lambda: (s := cpu.status()).active == 0 and s.kv_used == 0 and s.record.time >= began, 10, "idle again")
    done = cpu.activity(began)
    assert done.most_active == 8 and done.most_queued >= 1, done.sentence
    # Each comes to hold about 132 tokens in blocks of 32, but the first ends before the last has them all.
    assert 8 * 2 <= done.most_kv_used <= 8 * 6


@pytest.mark.slow
def test_the_command_line_runs_the_suite_and_its_status_tells(cpu, tmp_path: Path):
    code = "import sys\nfrom helpers.serving import conformance\nsys.exit(conformance.main(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, cpu.url], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Conformance of {cpu.url.removesuffix('/v1')}" in done.stdout
