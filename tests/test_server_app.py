"""The CPU server over a real engine: every route, every refusal, hang-ups, a full queue, and both processes' ends."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import openai
import psutil
import pytest
from conftest import runs, until

from helpers import models
from helpers.toolchains import openvino
from tools import serving_fuzz, serving_load
from tools import serving_local as local

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("made_by_notebooks")]
BATCH, QUEUE, LENGTH = 4, 4, 256


@pytest.fixture(scope="module")
def engine(made_by_notebooks):
    return openvino.build(models.find(), "fp16").path


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="module")
def server(engine, log):
    """One server for all tests that leave it as it was: a small batch and a short queue."""
    with local.running(str(engine), local.sizes(BATCH, LENGTH, QUEUE, tokens=128), log) as running:
        yield running


@pytest.fixture
def own(engine, tmp_path):
    """A server that the test may break."""
    with local.running(str(engine), local.sizes(BATCH, 1024, QUEUE), tmp_path / "log") as running:
        yield running


def call(server, path, body=None, method=None, headers=None):
    """One request: status, headers, and the answer's bytes."""
    connection = http.client.HTTPConnection(*server.address, timeout=60)
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    sent = {"Content-Type": "application/json", **(headers or {})}
    connection.request(method or ("POST" if body is not None else "GET"), path, data, sent)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def complete(server, path="/v1/completions", **asked):
    """A completion that is expected to succeed."""
    start = {"model": "m", "temperature": 0} | ({} if "messages" in asked else {"prompt": "The town of"})
    status, _, content = call(server, path, {**start, **asked})
    assert status == 200, content
    return json.loads(content)


def text_of(server, **asked):
    return complete(server, **asked)["choices"][0]["text"]


def chat(server, **asked):
    return complete(server, "/v1/chat/completions", messages=[{"role": "user", "content": "Hello"}], **asked)


def refused(server, status=400, path="/v1/completions", **asked):
    """The message of a request that is expected to be refused."""
    got, _, content = call(server, path, {"model": "m", "prompt": "The town of", **asked})
    told = json.loads(content)
    assert got == status and told["object"] == "error" and told["code"] == status and told["type"], content
    return told["message"]


def events(server, path="/v1/completions", **asked):
    """The events of a stream, the last of which must be [DONE]."""
    start = {"model": "m", "temperature": 0, "stream": True}
    if "messages" not in asked:
        start["prompt"] = "The town of"
    status, headers, content = call(server, path, {**start, **asked})
    assert status == 200 and headers["content-type"] == "text/event-stream; charset=utf-8"
    parts = content.decode().split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


@contextlib.contextmanager
def streaming(server, **asked):
    """An open stream whose first token has come; the connection is closed afterwards."""
    body = {"model": "m", "prompt": "The", "temperature": 0, "ignore_eos": True, "stream": True, **asked}
    with socket.create_connection(server.address, timeout=60) as connection:
        connection.sendall(serving_load.request_of(json.dumps(body).encode()))
        yield connection


def wait_for_text(connection):
    seen = b""
    while b'"text"' not in seen:
        part = connection.recv(65536)
        assert part, seen
        seen += part


def idle(server):
    """True if the engine's last record says that nothing runs or waits."""
    records = json.loads(call(server, "/metrics")[2])
    return records and not records[-1]["numActiveRequests"] + records[-1]["numQueuedRequests"]


def test_health_is_empty_and_version_and_models_are_told(server, engine):
    assert call(server, "/health")[::2] == (200, b"")
    import openvino_genai

    assert json.loads(call(server, "/version")[2]) == {"version": openvino_genai.get_version()}
    models_told = json.loads(call(server, "/v1/models")[2])
    assert [card["id"] for card in models_told["data"]] == [engine.name] and models_told["object"] == "list"


def test_the_log_says_where_it_listens(server, log):
    assert f"Uvicorn running on {server.url}" in log.read_text()


def test_a_greedy_answer_is_the_pipelines_own(server, engine):
    asked = "The town of"
    generated = openvino.generate(openvino.build(models.find(), "fp16"), asked, max_tokens=12)
    assert text_of(server, prompt=asked, max_tokens=12).strip() in generated.text


def test_a_stream_has_the_same_text_as_a_whole_answer(server):
    for asked in ({"max_tokens": 40, "ignore_eos": True}, {"max_tokens": 40, "seed": 5, "temperature": 1.0}):
        told = events(server, **asked)
        assert "".join(event["choices"][0]["text"] for event in told) == text_of(server, **asked)


def test_without_max_tokens_a_completion_has_sixteen_and_a_chat_what_is_left(server):
    assert complete(server, ignore_eos=True)["usage"]["completion_tokens"] == 16
    usage = chat(server, ignore_eos=True)["usage"]
    assert usage["total_tokens"] == LENGTH


def test_usage_counts_prompt_and_answer(server):
    usage = complete(server, prompt=[1, 5, 7], max_tokens=9, ignore_eos=True)["usage"]
    assert usage == {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}


def test_a_stream_tells_usage_only_where_it_is_asked_for(server):
    assert not any("usage" in event for event in events(server, max_tokens=5))
    told = events(server, max_tokens=5, ignore_eos=True, stream_options={"include_usage": True})
    assert told[-1]["choices"] == [] and told[-1]["usage"]["completion_tokens"] == 5
    assert not any("usage" in event for event in told[:-1])
    every = {"include_usage": True, "continuous_usage_stats": True}
    counts = [event["usage"]["completion_tokens"] for event in events(server, max_tokens=5, stream_options=every)]
    assert counts == sorted(counts) and counts[0] == 1 and counts[-1] == 5
    assert "stream" in refused(server, stream_options={"include_usage": True})


def test_a_chat_stream_begins_with_the_role_and_ends_with_a_reason(server):
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    told = events(server, "/v1/chat/completions", messages=messages, max_completion_tokens=6)
    assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert told[0]["object"] == "chat.completion.chunk"
    assert [event["choices"][0]["finish_reason"] for event in told][-1] in ("length", "stop")
    said = "".join(event["choices"][0]["delta"]["content"] for event in told)
    assert said == chat(server, max_tokens=6)["choices"][0]["message"]["content"]


def test_an_end_of_text_ends_an_answer_unless_it_is_ignored(server):
    told = chat(server)  # the bundled model ends this one by itself, long before the limit
    assert told["choices"][0]["finish_reason"] == "stop" and told["choices"][0]["stop_reason"] is None
    longer = chat(server, ignore_eos=True)
    assert longer["choices"][0]["finish_reason"] == "length"
    assert longer["usage"]["completion_tokens"] > told["usage"]["completion_tokens"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stop_string_ends_an_answer_and_is_not_in_it(server, streamed):
    whole = text_of(server, max_tokens=30, ignore_eos=True)
    stop = whole[len(whole) // 2 :][:3]
    asked = {"max_tokens": 30, "ignore_eos": True, "stop": [stop, "never there"]}
    if streamed:
        told = events(server, **asked)
        text, last = "".join(event["choices"][0]["text"] for event in told), told[-1]["choices"][0]
    else:
        last = complete(server, **asked)["choices"][0]
        text = last["text"]
    assert text == whole[: whole.index(stop)]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", stop)
    assert text_of(server, **asked, include_stop_str_in_output=True) == whole[: whole.index(stop)] + stop
    until(lambda: idle(server), 10, "the engine to stop working on it")


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_stop_token_ends_an_answer(server, ignore_eos):
    first = complete(server, max_tokens=1, ignore_eos=True)["choices"][0]["text"]
    from helpers.serving.app.text import Text

    token = Text(models.find().path).encode("The town of" + first)[-1]
    told = complete(server, max_tokens=9, stop_token_ids=[token], ignore_eos=ignore_eos)
    assert told["choices"][0]["text"] == "" and told["usage"]["completion_tokens"] == 1
    assert told["choices"][0]["stop_reason"] == token


def test_min_tokens_holds_the_end_back(server):
    short = chat(server)["usage"]["completion_tokens"]
    assert chat(server, min_tokens=short + 5)["usage"]["completion_tokens"] >= short + 5


def test_the_same_seed_gives_the_same_text_and_no_seed_another(server):
    hot = {"temperature": 1.5, "max_tokens": 24, "ignore_eos": True}
    assert text_of(server, **hot, seed=7) == text_of(server, **hot, seed=7)
    assert text_of(server, **hot, seed=7) != text_of(server, **hot, seed=8)
    assert text_of(server, **hot) != text_of(server, **hot)


def test_a_missing_temperature_is_one(server):
    asked = {"max_tokens": 24, "ignore_eos": True, "seed": 3}
    missing = text_of(server, **asked, temperature=None)
    assert missing == text_of(server, **asked, temperature=1.0, top_p=1.0) != text_of(server, **asked)


@pytest.mark.parametrize(
    "asked",
    [{"top_k": 1}, {"top_p": 0}, {"temperature": 1e-9}, {"min_p": 1.0}, {"top_p": 1e-6}],
    ids=str,
)
def test_settings_that_leave_one_token_are_greedy(server, asked):
    greedy = text_of(server, max_tokens=12)
    assert text_of(server, max_tokens=12, **{"temperature": 1.0, **asked}) == greedy


def test_penalties_change_a_greedy_answer(server):
    plain = text_of(server, max_tokens=60, ignore_eos=True)
    for penalty in ({"repetition_penalty": 2.0}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}):
        assert text_of(server, max_tokens=60, ignore_eos=True, **penalty) != plain


def test_several_prompts_and_several_answers_come_in_order(server):
    told = complete(server, prompt=["The town of", "In 1910"], n=2, max_tokens=6, ignore_eos=True)
    texts = [choice["text"] for choice in told["choices"]]
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2, 3]
    assert texts[0] == texts[1] == text_of(server, max_tokens=6, ignore_eos=True) != texts[2] == texts[3]
    assert told["usage"]["completion_tokens"] == 24
    hot = complete(server, n=3, max_tokens=12, temperature=1.5, seed=1)
    assert len({choice["text"] for choice in hot["choices"]}) > 1


def test_echo_repeats_the_prompt(server):
    assert text_of(server, max_tokens=4, echo=True) == "The town of" + text_of(server, max_tokens=4)
    told = events(server, max_tokens=4, echo=True)
    assert told[0]["choices"][0]["text"].startswith("The town of")


def test_token_ids_are_a_prompt_as_well_as_text(server):
    from helpers.serving.app.text import Text

    ids = Text(models.find().path).encode("The town of")
    assert text_of(server, prompt=ids, max_tokens=8) == text_of(server, max_tokens=8)


def test_what_does_not_fit_is_refused_with_numbers(server):
    message = refused(server, prompt=[5] * 100, max_tokens=200)
    assert "100" in message and "200" in message and str(LENGTH) in message
    assert "128" in refused(server, prompt=[5] * 129, max_tokens=1)  # more than an iteration takes
    assert "vocabulary" in refused(server, prompt=[10**6])
    assert "vocabulary" in refused(server, stop_token_ids=[10**6])
    assert "min_tokens" in refused(server, min_tokens=9, max_tokens=5)
    assert "at least one" in refused(server, prompt=[])
    assert "no tokens" in refused(server, prompt=[[]])
    assert "more than this server ever holds" in refused(server, n=BATCH + QUEUE + 1)
    until(lambda: idle(server), 10, "an idle engine")


def test_an_empty_text_is_refused_or_begins_a_text(server):
    from helpers.serving.app.text import Text

    if Text(models.find().path).encode(""):
        assert complete(server, prompt="", max_tokens=2)["usage"]["prompt_tokens"] == 1
    else:
        assert "no tokens" in refused(server, prompt="")


def test_every_error_has_the_flat_shape(server):
    for path, body, method, status in (
        ("/nothing", None, "GET", 404),
        ("/v1/completions", None, "GET", 405),
        ("/health", None, "DELETE", 405),
        ("/v1/completions", b"x" * (4 << 20), "POST", 413),
        ("/v1/completions", b"{", "POST", 400),
    ):
        got, _, content = call(server, path, body, method)
        assert got == status and serving_fuzz.is_flat_error(status, content), (path, got, content)
    got, _, content = call(server, "/v1/completions", b"{}", headers={"Content-Type": "text/plain"})
    assert got == 400 and b"application/json" in content


def test_a_client_that_is_still_sending_too_much_can_read_the_refusal(server):
    request = serving_load.request_of(b"x" * (8 << 20))
    with socket.create_connection(server.address, timeout=30) as connection:
        connection.sendall(request[: 4 << 20])
        time.sleep(0.2)  # a server that answers at the first byte too many has closed by now
        connection.sendall(request[4 << 20 :])
        assert b" 413 " in connection.recv(100)


def test_a_long_text_does_not_hold_up_others(server):
    long = json.dumps({"model": "m", "prompt": "word " * 200_000}).encode()
    begun = time.perf_counter()
    with socket.create_connection(server.address) as connection:
        connection.sendall(serving_load.request_of(long))
        time.sleep(0.05)
        asked = time.perf_counter()
        assert call(server, "/health")[0] == 200
        waited = time.perf_counter() - asked
        connection.settimeout(60)
        assert b" 400 " in connection.recv(100)
    assert waited < max(0.5, (time.perf_counter() - begun) / 2)


def test_metrics_have_tensorrt_llms_keys_and_are_handed_out_once(server):
    until(lambda: idle(server), 10)
    complete(server, prompt=[[5] * 40, [6] * 3], max_tokens=8, ignore_eos=True)
    until(lambda: local.healthy(server.url), 5)
    time.sleep(0.2)
    records = json.loads(call(server, "/metrics")[2])
    assert [record["iter"] for record in records] == list(range(records[0]["iter"], records[0]["iter"] + len(records)))
    assert sum(record["numCompletedRequests"] for record in records) == 2
    assert sum(record["numNewActiveRequests"] for record in records) == 2
    assert sum(record["inflightBatchingStats"]["numCtxTokens"] for record in records) == 43
    made = sum(r["inflightBatchingStats"]["numGenRequests"] + r["numNewActiveRequests"] for r in records)
    assert made == 16  # every token is made by a request in its context or its generation phase
    busiest = max(records, key=lambda record: record["numActiveRequests"])
    cache = busiest["kvCacheStats"]
    assert cache["usedNumBlocks"] >= 3 and cache["usedNumBlocks"] + cache["freeNumBlocks"] == cache["maxNumBlocks"]
    assert busiest["maxBatchSizeStatic"] == BATCH and busiest["iterLatencyMS"] > 0 and busiest["cpuMemUsage"] > 1 << 20
    last = records[-1]
    assert last["numActiveRequests"] == last["numQueuedRequests"] == last["kvCacheStats"]["usedNumBlocks"] == 0
    begun = time.perf_counter()
    assert json.loads(call(server, "/metrics")[2]) == [] and 1.5 < time.perf_counter() - begun < 4


def test_a_full_batch_queues_and_a_full_queue_answers_429(server):
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(streaming(server, max_tokens=250)) for _ in range(BATCH + QUEUE)]
        wait_for_text(opened[0])
        status, headers, content = 0, None, b""
        deadline = time.monotonic() + 5
        while status != 429 and time.monotonic() < deadline:  # the others may be on their way still
            status, headers, content = call(server, "/v1/completions", {"model": "m", "prompt": "a", "max_tokens": 1})
        assert status == 429 and headers["Retry-After"] == "1" and serving_fuzz.is_flat_error(429, content)
    until(lambda: idle(server), 10, "an idle engine after all have hung up")
    records = complete(server, max_tokens=2)
    assert records["choices"]


def test_never_more_than_the_batch_run(server):
    json.loads(call(server, "/metrics")[2])
    complete(server, prompt=["a", "b"], n=4, max_tokens=10, ignore_eos=True)
    records = json.loads(call(server, "/metrics")[2])
    assert max(record["numActiveRequests"] for record in records) == BATCH
    assert max(record["numQueuedRequests"] for record in records) == QUEUE


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_hangs_up_frees_its_slot(own, streamed):
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(streaming(own, max_tokens=1000, stream=streamed)) for _ in range(BATCH)]
        until(lambda: active(own) == BATCH, 10, "a full batch")
        with streaming(own, max_tokens=3) as waiting:
            assert until(lambda: queued(own) == 1, 5, "a request that waits")
            left = time.perf_counter()
            busy[0].close()
            wait_for_text(waiting)
            assert time.perf_counter() - left < 2
        until(lambda: active(own) == BATCH - 1, 5, "only those that stayed to be at work")


def last_record(server):
    records = json.loads(call(server, "/metrics")[2])
    return records[-1] if records else {"numActiveRequests": 0, "numQueuedRequests": 0}


def active(server):
    return last_record(server)["numActiveRequests"]


def queued(server):
    return last_record(server)["numQueuedRequests"]


def test_the_end_of_the_engine_is_told_to_everyone(own, tmp_path):
    members = own.members()
    with streaming(own, max_tokens=1000) as connection:
        wait_for_text(connection)
        os.kill(members["engine"], signal.SIGKILL)
        rest = b""
        while part := connection.recv(65536):
            rest += part
    assert b'data: {"object": "error"' in rest and b"signal 9" in rest and b"[DONE]" not in rest
    with contextlib.suppress(OSError, http.client.HTTPException):  # it may be gone by now
        assert call(own, "/health")[0] == 503
    assert own.process.wait(3) == 1
    assert "error: The engine's process was ended by signal 9" in (tmp_path / "log").read_text()


def test_the_official_client_raises_where_the_engine_dies_in_its_stream(own):
    client = openai.OpenAI(base_url=f"{own.url}/v1", api_key="none", max_retries=0)
    asked = {"model": "m", "prompt": "The", "max_tokens": 1000, "extra_body": {"ignore_eos": True}}
    with pytest.raises(openai.APIError, match=r"ended by signal 9|peer closed|Connection"):
        for number, _ in enumerate(client.completions.create(**asked, stream=True)):
            if number == 2:
                os.kill(own.members()["engine"], signal.SIGKILL)


def test_a_client_that_leaves_while_it_sends_leaves_no_traceback(server, log):
    start = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    for _ in range(3):
        with socket.create_connection(server.address, timeout=10) as connection:
            connection.sendall(start)
    assert text_of(server, max_tokens=1)
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_order_to_stop_is_followed_at_once_with_a_stream_open(own, number):
    members = own.members()
    with streaming(own, max_tokens=1000) as connection:
        wait_for_text(connection)
        begun = time.perf_counter()
        own.process.send_signal(number)
        own.process.wait(5)
        assert time.perf_counter() - begun < 2.5
        rest = b""
        while part := connection.recv(65536):
            rest += part
        assert b"stopping" in rest
    assert not runs(members["engine"])


def test_a_killed_server_takes_the_engine_with_it(own):
    members = own.members()
    with streaming(own, max_tokens=1000) as connection:
        wait_for_text(connection)
        own.process.kill()
        own.process.wait()
        until(lambda: not runs(members["engine"]), 5, "the end of the engine's process")


def test_it_leaves_the_engines_files_alone(engine, server):
    before = {file: file.stat().st_mtime_ns for file in engine.rglob("*")}
    complete(server, max_tokens=2)
    assert {file: file.stat().st_mtime_ns for file in engine.rglob("*")} == before


def ended(engine, tmp_path, **changed):
    """A server that is expected not to start: its status and what it said."""
    command = local.command(engine, local.free_port(), {**local.sizes(2, 64), **changed})
    done = subprocess.run(command, cwd=local.REPOSITORY, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_a_folder_without_an_engine_is_refused_in_words(tmp_path):
    status, said = ended(tmp_path, tmp_path)
    assert status == 1 and said.startswith("error: ") and "no OpenVINO engine" in said and "Traceback" not in said
    assert "--max-queue" in ended(tmp_path, tmp_path, **{"max-queue": -1})[1] or "no OpenVINO engine" in said


def test_an_engine_that_does_not_load_ends_the_server_with_its_words(engine, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(engine, broken)
    (broken / "graph" / "openvino_model.xml").write_text("<net>")
    for blob in (broken / "compiled").glob("*.blob"):
        blob.unlink()
    status, said = ended(broken, tmp_path)
    assert status == 1 and "error: the engine did not load" in said


def test_chunked_prefill_takes_a_prompt_longer_than_an_iteration(engine, tmp_path):
    sizes = local.sizes(2, LENGTH, QUEUE, tokens=32)
    command = [*local.command(engine, port := local.free_port(), sizes), "--chunked-prefill"]
    process = subprocess.Popen(command, cwd=local.REPOSITORY, stderr=subprocess.DEVNULL)
    running = local.Running(f"http://127.0.0.1:{port}", process)
    try:
        until(lambda: local.healthy(running.url), 60, "a healthy server")
        told = complete(running, prompt=[5] * 100, max_tokens=4, ignore_eos=True)
        assert told["usage"]["total_tokens"] == 104
        records = json.loads(call(running, "/metrics")[2])
        assert sum(1 for record in records if record["inflightBatchingStats"]["numContextRequests"]) >= 4
        assert not any("numCtxTokens" in record["inflightBatchingStats"] for record in records)
    finally:
        process.terminate()
        process.wait(5)


def test_the_openai_client_works_against_it(server):
    from openai import BadRequestError, OpenAI

    client = OpenAI(base_url=f"{server.url}/v1", api_key="none")
    name = client.models.list().data[0].id
    whole = client.completions.create(model=name, prompt="The town of", max_tokens=8, temperature=0)
    assert whole.choices[0].text == text_of(server, max_tokens=8)
    asked = {"model": name, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 8}
    said = client.chat.completions.create(**asked).choices[0].message.content
    with client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == said
    assert chunks[-1].usage.completion_tokens == 8
    extra = client.completions.create(model=name, prompt="a", max_tokens=40, extra_body={"ignore_eos": True})
    assert extra.usage.completion_tokens == 40
    with pytest.raises(BadRequestError, match="Did you mean 'temperature'"):
        client.completions.create(model=name, prompt="a", extra_body={"temprature": 1})


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_works_against_it(server):
    body = json.dumps({"model": "m", "prompt": "The town of", "max_tokens": 5, "temperature": 0, "stream": True})
    command = ["curl", "-sN", f"{server.url}/v1/completions", "-H", "Content-Type: application/json", "-d", body]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    assert said.count("data: {") >= 1 and said.endswith("data: [DONE]\n\n")


def test_the_description_names_every_field_and_the_429_of_our_own(server):
    told = json.loads(call(server, "/openapi.json")[2])
    for path, name in (("/v1/completions", "CompletionRequest"), ("/v1/chat/completions", "ChatCompletionRequest")):
        post = told["paths"][path]["post"]
        assert post["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(f"/{name}")
        assert {"200", "400", "413", "429"} <= set(post["responses"]) and "422" not in post["responses"]
        assert "addition" in post["responses"]["429"]["description"]
        schema = told["components"]["schemas"][name]
        assert {"ignore_eos", "stop_token_ids", "stream_options"} <= set(schema["properties"])
        assert schema["additionalProperties"] is False


def test_hundreds_of_odd_requests_get_no_5xx(engine, tmp_path):
    with local.running(str(engine), local.sizes(16, 64, 512), tmp_path / "log") as running:
        tally = serving_fuzz.fuzz(running, 300, seed=2)
    assert tally.cases >= 250 and not tally.failures
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_half_a_minute_of_load_loses_nothing_and_mixes_nothing_up(engine):
    report = serving_load.run(str(engine), 30, 64, seed=3)
    wrong = [one for one in report["wrong"] if "memory grew" not in one]  # half a minute is too short to judge that
    assert not wrong
    assert report["outcomes"]["same text as alone"] > 50
    assert report["memory"]["server"]["late_mib"] < 300


def test_health_answers_while_the_batch_runs(server):
    with contextlib.ExitStack() as stack:
        for _ in range(BATCH):
            stack.enter_context(streaming(server, max_tokens=250))
        times = []
        for _ in range(50):
            begun = time.perf_counter()
            assert call(server, "/health")[0] == 200
            times.append(time.perf_counter() - begun)
    assert sorted(times)[len(times) // 2] < 0.1
    assert psutil.Process(server.process.pid).is_running()
