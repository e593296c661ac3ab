"""An endpoint's life: it is ready when it answers, tells the truth about itself, and leaves nothing behind.

Most of it is tried with a small server of this file, a process as real as any: what is tested is how servers are
started and ended. The servers themselves are tested in ``test_conformance.py``.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import ROOT, kernel_of_its_own, runs, until

from helpers import serving
from helpers.errors import WorkshopError
from helpers.serving import Endpoint, poller, ports
from helpers.serving.poller import Record
from helpers.serving.status import Activity, Status
from helpers.toolchains.base import Engine
from helpers.toolchains.serving import RUN, ServeCommand, ServeOptions
from helpers.toolchains.sizes import Sizes
from helpers.workspace import Manifest

# A server with the routes that matter here, and a process of its own beside it. argv: port, file for pids, what to do.
SERVER = """
import json, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
port, pids, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3]
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True)
open(pids, "a").write(f"{os.getpid()}\\n{child.pid}\\n")
print("loading with token", os.environ.get("HF_TOKEN", "none"), flush=True)
if mode == "dies":
    print("RuntimeError: the engine's file is not whole", flush=True)
    sys.exit(3)
if mode == "hangs":
    time.sleep(600)
records = [{"numActiveRequests": 3, "numQueuedRequests": 1, "iterLatencyMS": 5,
            "kvCacheStats": {"maxNumBlocks": 64, "usedNumBlocks": 16, "freeNumBlocks": 48}}]
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *what): pass
    def answer(self, status, content=None):
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        if self.path == "/metrics":
            told = records[:]
            records.clear()
            if not told: time.sleep(1)
            return self.answer(200, told)
        self.answer(200)
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if mode == "refuses":
            return self.answer(400, {"object": "error", "message": "no such model", "type": "x", "code": 400})
        if not asked.get("stream"):
            choice = {"index": 0, "text": " one", "finish_reason": "length"}
            return self.answer(200, {"id": "1", "object": "text_completion", "created": 1, "model": "m",
                                     "choices": [choice]})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(600):
            choice = {"index": 0, "text": f" {number}", "finish_reason": None}
            event = {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
            line = f"data: {json.dumps(event)}\\n\\n".encode()
            self.wfile.write(f"{len(line):x}\\r\\n".encode() + line + b"\\r\\n")
            self.wfile.flush()
            time.sleep(0.05)
with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
    server.daemon_threads = True
    server.serve_forever()
"""
SIZES = Sizes(max_batch_size=4, max_num_tokens=256, max_input_len=128, max_seq_len=256)


def toolchain(pids: Path, mode: str = "serves", name: str = "openvino"):
    """A toolchain whose engines are served by the server above."""

    def serve_command(engine, options: ServeOptions) -> ServeCommand:
        script = pids.with_name("server.py")
        script.write_text(SERVER)
        command = [sys.executable, str(script), str(options.port), str(pids), mode, f"{RUN}/settings.yaml"]
        return ServeCommand(command, engine.path.name, dict(os.environ), {"settings.yaml": "a: 1\n"}, ("A note.",))

    return SimpleNamespace(name=name, serve_command=serve_command)


def engine_of(folder: Path, name: str = "openvino-fp16") -> Engine:
    options = {"toolchain": "openvino", "model": "bundled", "precision": "fp16", "kv": ""}
    (folder / name).mkdir(exist_ok=True)
    return Engine(folder / name, Manifest("engine", "Engine of a test", options, {}, {}, {}, []))


@pytest.fixture
def make(tmp_path, pids):
    """Make endpoints that are not started yet; whatever of them runs at the end is ended."""

    def endpoint_of(mode: str = "serves", port: int = 0, name: str = "openvino-fp16", **more) -> Endpoint:
        return Endpoint(engine_of(tmp_path, name), ServeOptions(SIZES), toolchain(pids.file, mode), port, **more)

    yield endpoint_of
    serving.stop_all()


def stream_until_it_breaks(made: Endpoint, pieces: list[str]) -> Exception | None:
    """Read a stream with the official client; gives what ended it."""
    try:
        for chunk in made.client(timeout=10).completions.create(
            model=made.model, prompt="x", max_tokens=600, stream=True
        ):
            pieces.append(chunk.choices[0].text)
    except Exception as error:
        return error
    return None


def test_it_is_ready_when_it_answers_and_stopped_without_a_trace(make, pids):
    made = make().start()
    assert 0 < made.started_seconds < 60
    assert made in serving.endpoints()
    assert made.url == f"http://127.0.0.1:{made.port}/v1" and made.model == "openvino-fp16"
    status = made.status()
    assert status.state == "ready" and status.ready
    answer = made.client().completions.create(model=made.model, prompt="x")
    assert answer.choices[0].text == " one"
    assert (made.log.parent / "settings.yaml").read_text() == "a: 1\n"
    assert "A note." in str(made) and "ready" in str(made) and made.url in made._repr_html_()
    processes = pids.wait(2)
    began = time.monotonic()
    made.stop()
    assert time.monotonic() - began < 4
    made.stop()
    assert pids.alive() == [] and len(processes) == 2
    assert made.status().state == "stopped" and made not in serving.endpoints()
    assert threads_of(made) == []


def threads_of(made: Endpoint) -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.endswith(f":{made.port}")]


def test_the_context_manager_ends_it_also_after_an_error(make, pids):
    with pytest.raises(ZeroDivisionError), make().start() as made:
        _ = 1 / 0
    assert made.status().state == "stopped"
    pids.all_gone(2)


def test_it_shows_what_the_engine_tells(make):
    made = make().start()
    until(lambda: poller.last(made.metrics), 5, "a first record")
    status = made.status()
    assert (status.active, status.queued, status.kv_used, status.kv_free, status.kv_blocks) == (3, 1, 16, 48, 64)
    text = str(status)
    assert "3 of 4" in text and "16 of 64 (48 free)" in text and "requests queued  1" in text
    assert all(part in status._repr_html_() for part in ("3 of 4", "16 of 64 (48 free)", made.url))
    done = made.watch(0.3, every=0.1)
    assert isinstance(done, Activity)
    whole = made.activity()
    assert (whole.most_active, whole.most_queued, whole.most_kv_used) == (3, 1, 16)
    assert "up to 3 requests ran at once of 4 that may, and up to 1 waited" in whole.sentence
    assert whole.picture.svg.startswith("<?xml") and whole.sentence in whole.picture.alt
    assert whole.sentence in str(whole) and whole.sentence in whole._repr_html_()


def test_what_was_idle_before_does_not_end_the_wait_for_what_happened_since(make, tmp_path):
    made, began = make(), time.time()
    made.metrics = tmp_path / "metrics.jsonl"
    idle = {"numActiveRequests": 0, "numQueuedRequests": 0}
    poller.append(made.metrics, [idle], began - 5)
    late = threading.Timer(0.3, lambda: poller.append(made.metrics, [{"numActiveRequests": 2}, idle], time.time()))
    late.start()
    assert made._settled(began).most_active == 2
    assert time.time() - began < 0.9, "it waits no longer than it has to"


@pytest.mark.parametrize(
    ("active", "age", "told"),
    [
        (3, 0.4, "0.4 s ago"),
        (3, 9.0, "9.0 s ago, and no step since: it is idle, or in one long step"),
        (0, 9.0, "9.0 s ago, when it became idle"),
        (None, 90.0, "1 min 30 s ago, and no step since: it is idle, or in one long step"),
    ],
)
def test_how_old_a_figure_is_stands_beside_it(active, age, told):
    status = Status("ready", "FP16", "http://h/v1", record=Record(0.0, active=active), age=age)
    assert str(status).endswith(f"  last report      {told}")
    assert ("not told" in str(status)) and "█" not in str(status)


def test_a_bar_is_full_or_empty_only_where_the_count_is():
    def bar(count: int) -> str:
        return (
            Status("ready", "FP16", "u", max_batch_size=1000, record=Record(0.0, active=count))
            .card()
            .facts["requests active"]
        )

    assert [bar(count).count("█") for count in (0, 1, 500, 999, 1000, 2000)] == [0, 1, 10, 19, 20, 20]


def record(time: float, latency: float | None = None, active: int = 2, used: int = 8, **more) -> Record:
    return Record(time, active, 0, kv_used=used, kv_free=64 - used, kv_blocks=64, latency=latency, **more)


def spans(*records: Record) -> list[tuple[float, float]]:
    return [(round(step.begin, 3), round(step.end, 3)) for step in Activity("FP16", records).steps]


def test_a_record_counts_for_the_time_that_its_step_took():
    assert spans(record(105.4, 5.4), record(105.5, 0.05), record(109.0, 0.5)) == [(0, 5.4), (5.45, 5.5), (8.5, 9.0)]
    assert spans(record(10.0, 1.0), record(10.5, 0.8)) == [(0, 1.0), (1.0, 1.5)], "steps come one after the other"


def test_a_record_without_a_latency_reaches_back_to_a_near_one():
    assert spans(record(10.0), record(10.4), record(20.0)) == [(0, 0), (0, 0.4), (10.0, 10.0)]


def test_between_steps_nothing_is_drawn():
    from helpers.plots import serving as plots

    done = Activity("FP16", (record(10.0, 1.0), record(15.0, 0.5, active=1, used=4)))
    assert plots.outline(done.steps) == [(0, 2, 0, 8), (1.0, 0, 0, 0), (5.5, 1, 0, 4), (6.0, 1, 0, 4)]
    near = Activity("FP16", (record(10.0, 1.0), record(10.55, 0.5)))
    assert plots.outline(near.steps) == [(0, 2, 0, 8), (pytest.approx(1.55), 2, 0, 8)], "0.05 s is no pause"
    (point,) = Activity("FP16", (record(10.0),)).steps
    assert plots.outline([point])[-1][0] > 0, "a step of unknown length is seen"


def test_the_table_keeps_the_steps_before_and_after_a_pause_and_no_peak_is_lost():
    first = [record(10 + n / 10, 0.1, used=n % 40) for n in range(100)]
    later = [record(50 + n / 10, 0.1, active=1, used=5) for n in range(100)]
    done = Activity("FP16", (*first, *later))
    assert done.seconds == pytest.approx(50.0)
    rows = [line.split() for line in done.picture.text.splitlines()[3:]]
    pause = rows.index(["10.0", "40.0", "0", "0", "0"])
    assert rows[pause - 1][1:3] == ["10.0", "2"] and rows[pause + 1][::2] == ["40.0", "1", "5"]
    assert max(int(row[-1]) for row in rows) == 39 == done.most_kv_used
    assert len(rows) <= 12 + 6


def test_steps_with_many_pauses_stay_few_in_the_table():
    from helpers.plots import serving as plots

    steps = Activity("FP16", tuple(record(10.0 * n, 1.0) for n in range(500))).steps
    assert [len(plots.stretches(steps, most)) <= most for most in (12, 300)] == [True, True]


@pytest.mark.parametrize(
    ("long", "told"),
    [
        ({"prompts": 32, "prompt_tokens": 1932}, "The longest step took 5.4 s: it read 32 prompts, 1,932 tokens."),
        ({"prompts": 1, "prompt_tokens": None}, "The longest step took 5.4 s: it read 1 prompt."),
        ({"prompts": 0, "prompt_tokens": 0}, "The longest step took 5.4 s, and it read no prompt."),
        ({}, "The longest step took 5.4 s."),
    ],
)
def test_a_step_that_stands_out_is_told(long, told):
    short = [record(106.0 + n / 10, 0.05) for n in range(9)]
    assert Activity("FP16", (record(105.4, 5.4, **long), *short)).sentence.endswith(f" (12%). {told}")
    assert "longest" not in Activity("FP16", tuple(short)).sentence
    assert "longest" not in Activity("FP16", (record(105.4, 5.4, **long),)).sentence


def test_a_while_without_steps_is_told_as_such(make):
    done = Activity("FP16", ())
    assert str(done) == "FP16: the engine told of no step in this time."
    assert done.picture is None


def test_a_server_that_dies_at_its_start_shows_its_telling_lines_at_once(make, pids):
    began = time.monotonic()
    with pytest.raises(WorkshopError) as told:
        make("dies").start()
    assert time.monotonic() - began < 20
    assert "ended with status 3" in str(told.value)
    assert "  | RuntimeError: the engine's file is not whole" in str(told.value)
    assert "The whole log: " in str(told.value)
    assert serving.endpoints() == ()
    pids.all_gone(2)


def test_a_server_that_does_not_answer_is_given_up(make, pids):
    with pytest.raises(WorkshopError, match=r"did not answer within its limit of 1\.5 s"):
        make("hangs", time_limit=1.5).start()
    pids.all_gone(2)


def test_a_server_that_answers_with_an_error_is_not_ready(make, pids):
    with pytest.raises(WorkshopError, match="answers a request for one token with 400: no such model"):
        make("refuses").start()
    pids.all_gone(2)


def test_a_server_killed_during_a_stream_is_told_and_can_be_restarted(make, pids):
    made = make().start()
    server, _ = pids.wait(2)
    pieces: list[str] = []
    ended: list[Exception | None] = []
    reader = threading.Thread(target=lambda: ended.append(stream_until_it_breaks(made, pieces)))
    reader.start()
    until(lambda: len(pieces) >= 3, 10, "the first pieces")
    os.kill(server, signal.SIGKILL)
    reader.join(10)
    assert [type(one).__name__ for one in ended] in (["APIConnectionError"], ["RemoteProtocolError"])
    status = until(lambda: (s := made.status()).state.startswith("died") and s, 5)
    assert status.state == "died: was killed by SIGKILL" and not status.alive
    assert "restart() starts it again" in status.note
    assert "died" in str(made)
    pids.all_gone(3)  # its own child too
    url = made.url
    assert made.restart() is made
    assert made.url == url and made.status().ready
    assert serving.endpoints() == (made,)


def test_a_server_that_died_can_be_started_again_and_leaves_nothing_twice(make, pids):
    made = make().start()
    threads = {one for one in threading.enumerate() if one.name.startswith("metrics of ")}
    os.kill(pids.wait(2)[0], signal.SIGKILL)
    until(lambda: not made.running, 5)
    made.start()
    assert serving.endpoints() == (made,) and made.status().ready
    made.stop()
    assert serving.endpoints() == ()
    left = [one.name for one in threading.enumerate() if one.name.startswith("metrics of ")]
    assert left == [] and len(threads) == 1
    pids.all_gone(4)


def test_a_dead_servers_poller_ends_and_takes_no_records_from_the_next(make, pids):
    dead = make().start()
    os.kill(pids.wait(2)[0], signal.SIGKILL)
    until(lambda: not dead.running, 5)
    until(lambda: threads_of(dead) == [], 5, "the end of its poller")
    pids.all_gone(2)
    following = make(port=dead.port, name="openvino-fp8").start()
    assert serving.endpoints() == (following,), "the dead one has let go of the port"
    assert dead.status().state == "died: was killed by SIGKILL", "nobody has stopped it"
    assert until(lambda: poller.last(following.metrics), 5).active == 3
    dead.stop()
    assert dead.status().state == "stopped" and following.status().ready


def test_a_killed_keeper_takes_the_server_with_it(make, pids):
    made = make().start()
    os.kill(made.pid, signal.SIGKILL)
    until(lambda: not runs(pids.read()[0]), 5, "the end of the server")
    assert until(lambda: (s := made.status().state) != "ready" and s, 5) == "died: was killed by SIGKILL"


def test_a_server_that_stands_still_is_not_called_ready(make, pids):
    made = make().start()
    server = psutil.Process(pids.wait(2)[0])
    server.suspend()
    try:
        assert made.status().state == "not answering"
    finally:
        server.resume()
    assert until(lambda: made.status().ready, 5)


def test_two_at_once_have_ports_of_their_own(make):
    one, other = make().start(), make(name="openvino-fp8").start()
    assert one.port != other.port and one.status().ready and other.status().ready
    assert (one.model, other.model) == ("openvino-fp16", "openvino-fp8")
    assert serving.endpoints() == (one, other)
    os.kill(other.pid, signal.SIGKILL)
    until(lambda: not other.running, 5)
    told = serving.stop_all()
    assert serving.endpoints() == ()
    assert [tuple(row) for row in told.rows] == [(one.title, one.url, "stopped"), (other.title, other.url, EARLIER)]
    assert told.note == "2 endpoints stopped."
    assert serving.stop_all().note == "No endpoint ran."
    line = f"{one.title}: stopped. It answered at {one.url}. Start it again with restart()."
    assert repr([one.status(), one.status()]) == f"[{line}, {line}]"


EARLIER = "had ended by itself"


def test_a_server_can_be_stopped_while_it_starts(make, pids):
    made, told = make("hangs"), []

    def start() -> None:
        with pytest.raises(WorkshopError) as refused:
            made.start()
        told.append(str(refused.value))

    starting = threading.Thread(target=start)
    starting.start()
    pids.wait(2)
    assert "starting" in str(made)
    began = time.monotonic()
    serving.stop_all()
    assert time.monotonic() - began < 4
    starting.join(5)
    assert told == [f"The server of {made.title} was stopped before it answered. start() starts it again."]
    assert made.status().state == "stopped" and threads_of(made) == []
    pids.all_gone(2)


def test_a_stop_before_there_is_a_process_counts(make, monkeypatch):
    made = make()
    serve_command = made._toolchain.serve_command

    def stopped_meanwhile(engine, options) -> ServeCommand:
        stopping = threading.Thread(target=made.stop)
        stopping.start()
        stopping.join(5)
        return serve_command(engine, options)

    monkeypatch.setattr(made._toolchain, "serve_command", stopped_meanwhile)
    with pytest.raises(WorkshopError, match="was stopped before it answered"):
        made.start()
    assert made.pid is None and made.status().state == "stopped" and serving.endpoints() == ()
    monkeypatch.setattr(made._toolchain, "serve_command", serve_command)
    assert made.restart().status().ready


def test_a_stop_between_two_tries_for_a_port_counts(make, monkeypatch):
    made, tried = make(), []
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()

        def free_port(host: str) -> int:
            tried.append(host)
            if len(tried) == 2:
                made.stop()
            return held.getsockname()[1]

        monkeypatch.setattr(ports, "free_port", free_port)
        with pytest.raises(WorkshopError, match="was stopped before it answered"):
            made.start()
    assert len(tried) == 2 and not made.running and serving.endpoints() == ()


def test_a_port_that_is_taken_is_one_sentence_with_who_holds_it(make):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(WorkshopError) as told:
            make(port=port).start()
    assert f"Port {port} of 127.0.0.1 is taken by " in str(told.value)
    assert f"(process {os.getpid()})" in str(told.value)
    assert "\n" not in str(told.value)
    made = make().start()
    with pytest.raises(WorkshopError, match="is taken by this notebook's own endpoint of FP16"):
        make(port=made.port).start()


def test_a_free_port_that_is_lost_meanwhile_is_replaced(make, monkeypatch):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        offered = [held.getsockname()[1], ports.free_port("127.0.0.1")]
        monkeypatch.setattr(ports, "free_port", lambda host: offered.pop(0))
        made = make().start()
    assert offered == [] and made.status().ready


def test_an_address_that_this_machine_has_not_is_one_sentence(make):
    made = make()
    made.options = ServeOptions(SIZES, host="203.0.113.7")
    with pytest.raises(WorkshopError, match=r"cannot listen on '203\.0\.113\.7'"):
        made.start()


def test_secrets_are_not_shown_and_not_kept(make, monkeypatch):
    secret = "hf_" + "a1B2c3D4" * 4
    monkeypatch.setenv("HF_TOKEN", secret)
    made = make().start()
    assert "loading with token [hidden]" in made.log_text()
    assert secret not in str(made) + str(made.status())
    made.stop()
    assert made.log.read_text().startswith("loading with token [hidden]")


def test_the_questions_of_the_endpoint_itself_do_not_bury_what_its_log_tells(make, tmp_path):
    made, asked = make(), 'INFO:     127.0.0.1:4000 - "GET {} HTTP/1.1" 200 OK\n'
    made.log = tmp_path / "log.txt"
    mine = asked.format("/health") + asked.format("/metrics")
    made.log.write_text("RuntimeError: no room\n" + mine * 50 + asked.format("/v1/models") + mine)
    assert made.log_text() == "RuntimeError: no room\n" + asked.format("/v1/models")


def test_of_a_long_log_the_last_whole_lines_are_read_and_all_of_it_is_cleaned(make, tmp_path, monkeypatch):
    secret = "hf_" + "a1B2c3D4" * 4
    made = make()
    made.log = tmp_path / "log.txt"
    line = f"{secret} {'x' * 100}\n"
    made.log.write_bytes(line.encode() * 20_000 + b"a\rb \xff\r\n")
    text = made.log_text()
    assert 200_000 < len(text) <= 256_000 and text.startswith("[hidden] x") and secret[-8:] not in text
    reads = []
    monkeypatch.setattr(Path, "read_text", lambda path, **more: reads.append(path))
    made._hide_secrets()
    written = made.log.read_bytes()
    assert reads == [], "it may not fit into memory"
    assert secret.encode() not in written and written.count(b"[hidden]") == 20_000
    assert written.endswith("a\rb �\r\n".encode())
    assert [one.name for one in tmp_path.glob("*log*")] == ["log.txt"]


def test_the_command_for_a_terminal_works_as_it_stands(make):
    made = make().start()
    command = made.curl('It\'s "here" — yes', max_tokens=1)
    done = subprocess.run(["sh", "-c", str(command)], capture_output=True, text=True, timeout=20)
    assert json.loads(done.stdout)["choices"][0]["text"] == " one", done.stderr
    assert str(command).startswith("curl ") and "<pre" in command._repr_html_()


def test_what_cannot_be_served_is_said():
    with pytest.raises(WorkshopError, match="A int cannot be served"):
        serving.start(3)


def test_a_second_engine_on_a_full_gpu_is_refused_before_it_starts(make, tmp_path, pids, monkeypatch):
    from helpers import hardware

    gpu = toolchain(pids.file, name="tensorrt_llm")
    first = Endpoint(engine_of(tmp_path), ServeOptions(SIZES), gpu).start()
    second = Endpoint(engine_of(tmp_path, "second"), ServeOptions(SIZES), gpu)
    monkeypatch.setattr(hardware, "look", lambda: SimpleNamespace(gpus=(SimpleNamespace(free_bytes=500_000_000),)))
    with pytest.raises(WorkshopError, match=r"no room on the GPU.*500\.00 MB is free\. Running: FP16.*kv_share 0\.8"):
        second.start()
    monkeypatch.setattr(hardware, "look", lambda: SimpleNamespace(gpus=(SimpleNamespace(free_bytes=5_000_000_000),)))
    assert "KV cache gets 80% of what that one left free" in str(second.start())
    assert first.status().ready


# --- In a kernel ------------------------------------------------------------------

IN_KERNEL = """
import os, sys
import workshop
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_endpoint as t
os.environ["WORKSHOP_HOME"] = {home!r}
from helpers.serving import Endpoint
made = Endpoint(t.engine_of(Path({folder!r})), t.ServeOptions(t.SIZES), t.toolchain(Path({pids!r}), {mode!r}))
"""


def opening(tmp_path: Path, pids, mode: str) -> str:
    home = tmp_path / "workshop"
    places = {"tests": str(ROOT / "tests"), "home": str(home), "folder": str(tmp_path), "pids": str(pids.file)}
    return IN_KERNEL.format(**places, mode=mode)


def test_an_endpoint_in_a_kernel_shows_one_card_and_dies_with_it(tmp_path, pids):
    with kernel_of_its_own(tmp_path / "kernel") as kernel:
        assert kernel.run(opening(tmp_path, pids, "hangs")).error is None
        cell = kernel.start("made.start();")
        pids.wait(2)
        time.sleep(0.5)
        kernel.manager.interrupt_kernel()
        ended = kernel.finish(cell)
        assert ended.error is not None and ended.error["ename"] == "KeyboardInterrupt"
        pids.all_gone(2)
        assert kernel.run(opening(tmp_path, pids, "serves")).error is None
        cell = kernel.run("made.start();")
        assert cell.error is None and cell.streams == []
        assert cell.shown["text/plain"].startswith("Endpoint of FP16")
        shown = kernel.run("made.watch(0.6);")
        assert shown.shown["text/plain"].startswith("FP16") and len(shown.updates) >= 2
        shown = kernel.run("import time\nwith made.watching(0.1):\n    time.sleep(0.5)")
        assert shown.error is None and len(shown.updates) >= 2 and "FP16" in shown.shown["text/plain"]
        assert len(pids.alive()) == 2
        os.kill(kernel.pid, signal.SIGKILL)
        pids.all_gone(5)


def test_a_process_that_ends_takes_its_endpoints_along(tmp_path, pids):
    code = opening(tmp_path, pids, "serves").replace("import workshop\n", "") + "made.start()\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Endpoint of FP16" in done.stdout
    assert time.monotonic() - began < 40
    pids.all_gone(1)
