"""The poller reads each record once, whatever the server gives, and its file can be read at any moment."""

import http.client
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import until

from helpers.serving import poller
from helpers.serving.poller import Poller, Record


def told(active: int, used: int, **more) -> dict:
    """A record as TensorRT-LLM writes it."""
    cache = {"maxNumBlocks": 64, "usedNumBlocks": used, "freeNumBlocks": 64 - used, "tokensPerBlock": 32}
    return {"numActiveRequests": active, "numQueuedRequests": 2, "kvCacheStats": cache, **more}


class Source:
    """A server whose ``/metrics`` answers with what it is given, one body a question, then waits as the real one."""

    def __init__(self, wait: float = 0.05) -> None:
        self.bodies: list[bytes | int] = []
        self.asked = 0
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                source.asked += 1
                if not source.bodies:
                    time.sleep(wait)
                body = source.bodies.pop(0) if source.bodies else b"[]"
                self.send_response(body if isinstance(body, int) else 200)
                self.end_headers()
                self.wfile.write(b"" if isinstance(body, int) else body)

            def log_message(self, *what) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.server.server_address[1]

    def give(self, *records) -> None:
        self.bodies.append(json.dumps(list(records)).encode())

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def source():
    made = Source()
    yield made
    made.close()


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def polling(source, file):
    running = Poller(source.address, file, pause=0.01, idle_pause=0.01).start()
    yield running
    running.stop()


def test_records_are_written_once_each_in_their_order(source, file, polling):
    source.give(told(1, 4), told(2, 8))
    source.give(told(0, 0))
    found = until(lambda: len(r := poller.read(file)) == 3 and r)
    assert [(one.active, one.queued, one.kv_used, one.kv_free) for one in found] == [
        (1, 2, 4, 60),
        (2, 2, 8, 56),
        (0, 2, 0, 64),
    ]
    assert found[0].time <= found[1].time <= found[2].time <= time.time()
    assert poller.last(file) == found[-1]
    assert polling.problem == ""


def test_what_a_server_may_give_instead_of_a_record_is_passed_over(source, file, polling):
    source.bodies += [b"[]", b"not json", b'{"detail": "no list"}', 503, b'[null, 3, [1], "no json"]']
    source.give(json.dumps(told(3, 6)), {}, {"kvCacheStats": None, "numActiveRequests": "three"})
    found = until(lambda: len(r := poller.read(file)) == 3 and r, 15)
    assert (found[0].active, found[0].kv_used) == (3, 6), "a record as a JSON text"
    assert all((one.active, one.kv_used, one.kv_blocks) == (None, None, None) for one in found[1:])


def test_a_server_that_goes_away_and_comes_back_is_read_on(source, file, polling):
    source.give(told(1, 1))
    until(lambda: poller.read(file))
    source.close()
    until(lambda: "did not answer" in polling.problem, 10)
    again = Source()
    polling._address = again.address  # a new port stands for the old one, which the system may keep a while
    again.give(told(2, 2))
    until(lambda: len(poller.read(file)) == 2 and polling.problem == "", 10)
    again.close()


def test_it_stops_at_once_in_the_middle_of_a_question(file):
    slow = Source(wait=5)
    running = Poller(slow.address, file).start()
    until(lambda: slow.asked)
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 1
    assert not running._thread.is_alive()
    slow.close()


def test_while_it_is_paused_it_asks_nothing(source, file, polling):
    until(lambda: source.asked)
    with polling.paused():
        asked = source.asked
        source.give(told(1, 1))
        time.sleep(0.3)
        assert source.asked == asked and not poller.read(file)
    until(lambda: poller.read(file))


def test_pauses_within_each_other_end_with_the_last(source, file, polling):
    with polling.paused():
        with polling.paused():
            pass
        asked = source.asked
        time.sleep(0.3)
        assert source.asked == asked
    until(lambda: source.asked > asked, 5)


def test_it_stops_at_once_while_a_question_is_being_put(file, monkeypatch):
    slow, connecting, go_on = Source(wait=5), threading.Event(), threading.Event()
    connect = http.client.HTTPConnection.connect

    def late(connection) -> None:
        connecting.set()
        go_on.wait(5)
        connect(connection)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", late)
    running = Poller(slow.address, file).start()
    connecting.wait(5)
    began = time.monotonic()
    threading.Timer(0.2, go_on.set).start()
    running.stop()
    assert time.monotonic() - began < 1 and not running._thread.is_alive()
    slow.close()


def test_it_ends_with_the_server_whose_records_it_reads(source, file):
    alive = [True]
    running = Poller(source.address, file, pause=0.01, idle_pause=0.01, alive=lambda: alive[0]).start()
    until(lambda: source.asked)
    alive[0] = False
    until(lambda: not running._thread.is_alive(), 3)
    asked = source.asked
    source.give(told(1, 1))  # another server's, on the same port
    time.sleep(0.1)
    assert source.asked == asked and running.problem == "the server has ended"
    running.stop()


def test_it_asks_seldom_while_the_engine_is_idle_and_at_once_when_somebody_looks(source, file):
    source.give(told(0, 0, numQueuedRequests=0))
    running = Poller(source.address, file, pause=0.01, idle_pause=30).start()
    until(lambda: poller.read(file))
    time.sleep(0.3)
    assert source.asked == 1, "an idle engine"
    for number in range(5):
        source.give(told(1, number))
    source.give(told(0, 0, numQueuedRequests=0))
    running.hurry()
    until(lambda: len(poller.read(file)) == 7, 5, "all that an active engine tells")
    time.sleep(0.3)
    assert source.asked == 7
    running.stop()


@pytest.mark.parametrize(
    ("records", "idle"),
    [
        ([], True),
        ([told(0, 0, numQueuedRequests=0)], True),
        ([told(0, 0)], False),  # two wait
        ([told(0, 0, numQueuedRequests=0), told(1, 1, numQueuedRequests=0)], False),
        ([{}], False),
    ],
)
def test_what_counts_as_idle(records, idle):
    assert poller._idle(records) is idle


def test_the_file_is_bounded_and_what_was_put_aside_is_read_too(file):
    for number in range(100):
        poller.append(file, [told(number, 1)], float(number), limit=5_000)
    sizes = [one.stat().st_size for one in file.parent.iterdir()]
    assert len(sizes) == 2 and sum(sizes) < 12_000
    found = [one.active for one in poller.read(file)]
    assert found == list(range(found[0], 100))
    assert len(found) > 20
    assert [one.active for one in poller.read(file, since=97)] == [97, 98, 99]


def test_a_line_that_is_being_written_is_left_out(file):
    poller.append(file, [told(1, 1), told(2, 2)], 10.0)
    with file.open("a") as out:
        out.write('{"time": 11.0, "record": {"numActive')
    assert [one.active for one in poller.read(file)] == [1, 2]
    assert poller.last(file).active == 2
    with file.open("a") as out:
        out.write("\nnonsense\n[]\n")
    assert len(poller.read(file)) == 2


def test_no_file_is_no_record(file):
    assert poller.read(file) == [] and poller.last(file) is None


def test_a_records_own_time_counts_where_it_is_credible(file):
    now = 1_790_000_000.0
    stamp = time.strftime("%m-%d-%Y %H:%M:%S", time.localtime(now - 2)) + ".250000"
    poller.append(file, [told(1, 1, timestamp=stamp), told(2, 1, timestamp="01-01-2001 00:00:00.000000")], now)
    assert [one.time for one in poller.read(file)] == [now - 1.75, now], "the second is another clock's"


def test_records_without_a_time_are_spread_by_what_their_steps_took(file):
    poller.append(file, [told(n, 1, iterLatencyMS=100.0) for n in range(3)], 50.0)
    assert [one.time for one in poller.read(file)] == [49.8, 49.9, 50.0]


def test_a_record_tells_how_long_its_step_took_and_what_it_read():
    batch = {"numContextRequests": 32, "numCtxTokens": 1932}
    record = Record.of(told(1, 1, iterLatencyMS=5400.0, inflightBatchingStats=batch), 50.0)
    assert (record.latency, record.prompts, record.prompt_tokens) == (5.4, 32, 1932)
    for wrong in (0, -1, None, "5", True, float("nan"), 1e12):
        assert Record.of({"iterLatencyMS": wrong}, 50.0).latency is None
    assert Record.of({}, 50.0).prompts is None


def test_blocks_are_worked_out_where_two_of_three_are_told():
    assert Record.of({"kvCacheStats": {"usedNumBlocks": 3, "freeNumBlocks": 5}}, 0.0).kv_blocks == 8
    assert Record.of({"kvCacheStats": {"usedNumBlocks": 3, "maxNumBlocks": 5}}, 0.0).kv_free == 2
    assert Record.of({"numActiveRequests": True, "numQueuedRequests": float("nan")}, 0.0).queued is None
