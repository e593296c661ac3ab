"""The load generator against servers that do everything that a server can do wrong, and a few that do not."""

import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from helpers.bench.generator import connection, loop, measuring, prompts
from helpers.bench.generator.client import Client
from helpers.bench.generator.connection import Opener
from helpers.bench.generator.measuring import Measured
from helpers.bench.generator.target import Target
from helpers.bench.load import Load
from helpers.bench.measured import USER, Health, Progress, Run
from helpers.bench.rows import OUTCOMES, Row
from helpers.bench.rows import read as read_rows
from helpers.errors import WorkshopError
from tests import bad_servers
from tests.bad_servers import (
    CHUNKED,
    DONE,
    FIN,
    HANG,
    LAST,
    OK_HEAD,
    RST,
    UNTIL_CLOSE,
    Asked,
    Server,
    Step,
    chat,
    chunk,
    completion,
    event,
    good,
    plain,
    serving,
    usage,
    whole,
)
from tests.conftest import ROOT, until

KEY = "sk-very-secret-0123456789"


@pytest.fixture(name="prompts")
def one_prompt(tmp_path: Path) -> str:
    """A file with one prompt: for tests that nobody need be asked how long its prompts are."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Once upon a time"}\n')
    return str(file)


@pytest.fixture
def load(prompts: str) -> Load:
    """Three requests, one after the other, for four tokens each; no warm-up."""
    return Load(requests=3, warmup=0, ramp=0, output_tokens=4, prompts=prompts, timeout=5)


def measure(server: Server, load: Load, **more: Any) -> Measured:
    return measuring.measure(Target.of(server.url, "m"), load, **more)


def the_run(server: Server, load: Load, **more: Any) -> Run:
    (run,) = measure(server, load, **more).runs
    return run


def once(bad: list[Step]) -> Callable[[Asked], list[Step]]:
    """The second request goes wrong, the others well."""
    return lambda asked: bad if asked.number == 1 else good()


# --- What can go wrong ------------------------------------------------------------------------------------------------

W = whole(4)
F = list(map(chunk, W))
ERROR = {"error": {"message": "out of memory", "type": "server_error"}}
WRONG: dict[str, tuple[str, str, list[Step]]] = {
    "429": ("busy", "HTTP 429: slow down", [plain("429 Too Many Requests", {"error": {"message": "slow down"}})]),
    "500": ("server error", "HTTP 500: boom", [plain("500 Oops", {"object": "error", "message": "boom"})]),
    "500 without a word": ("server error", "HTTP 500", [plain("500 Oops", b"")]),
    "500, then it hangs": ("server error", "HTTP 500", [CHUNKED.replace(b"200 OK", b"500 No"), HANG]),
    "401": ("refused", "HTTP 401: no such key", [plain("401 No", {"error": "no such key"})]),
    "400 as FastAPI": ("refused", "max_tokens", [plain("400 No", {"detail": "max_tokens is too large"})]),
    "307": ("malformed", "HTTP 307", [plain("307 Moved", b"", "Location: https://elsewhere/")]),
    "204": ("malformed", "HTTP 204", [b"HTTP/1.1 204 No Content\r\n\r\n"]),
    "no stream": ("malformed", "is no stream: 'not today'", [plain("200 OK", {"error": "not today"})]),
    "deep JSON": ("server error", "HTTP 500: [[[", [plain("500 Oops", b"[" * 60_000)]),
    "hangs at once": ("timeout", "within 0.15 s", [HANG]),
    "hangs in the head": ("timeout", "within 0.15 s", [OK_HEAD[:20], HANG]),
    "hangs after the head": ("timeout", "within 0.15 s", [CHUNKED, HANG]),
    "hangs after a token": ("timeout", "within 0.15 s", [CHUNKED, F[0], HANG]),
    "closes in the head": ("cut", "in the middle", [OK_HEAD[:20], FIN]),
    "closes after a token": ("cut", "in the middle", [CHUNKED, F[0], FIN]),
    "closes in an event": ("cut", "in the middle", [CHUNKED, F[0], F[1][:30], FIN]),
    "resets after a token": ("cut", "in the middle", [CHUNKED, F[0], 0.02, RST]),
    "closes a plain body in an event": ("cut", "without its end", [UNTIL_CLOSE, W[0], W[1][:30], FIN]),
    "closes a body that is too short": ("cut", "", [OK_HEAD + b"Content-Length: 9999\r\n\r\n", *W, FIN]),
    "ends in chunks without an end": ("cut", "without its end", [CHUNKED, *F[:2], LAST]),
    "no HTTP": ("malformed", "no HTTP answer, it begins with 'SSH-2.0-x'", [b"SSH-2.0-x\r\n", HANG]),
    "HTTP/2": ("malformed", "no HTTP answer", [b"HTTP/2 200\r\n\r\n", HANG]),
    "head without end": ("malformed", "no HTTP answer", [OK_HEAD + b"X: " + b"a" * 70_000, HANG]),
    "chunk size": ("malformed", "a chunk of 'zz' bytes", [CHUNKED, F[0], b"zz\r\n" + W[1], HANG]),
    "chunk too long": ("malformed", "longer than it said", [CHUNKED, b"5\r\n" + W[0] + b"\r\n", HANG]),
    "no JSON": ("malformed", "no JSON: '{nope'", [CHUNKED, F[0], chunk(b"data: {nope\n\n"), *F[1:], LAST]),
    "no events": ("cut", "without its end", [CHUNKED, *(chunk(one.removeprefix(b"data: ")) for one in W[:4]), LAST]),
    "error event": ("error event", "out of memory", [CHUNKED, F[0], chunk(event(ERROR)), chunk(DONE), LAST]),
    "flat error": ("error event", "boom", [CHUNKED, chunk(event({"object": "error", "message": "boom"})), LAST]),
    "no text": ("no tokens", "without any text", [CHUNKED, chunk(event(chat({"role": "assistant"}))), F[-1], LAST]),
    "short": ("short", "2 of 4 tokens", [CHUNKED, *F[:2], chunk(event(usage(2))), chunk(DONE), LAST]),
    "counts too many": ("miscounted", "800 tokens", [CHUNKED, *F[:4], chunk(event(usage(800))), chunk(DONE), LAST]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_request_that_goes_wrong_is_counted_and_not_averaged(case: str, load: Load) -> None:
    outcome, message, steps = WRONG[case]
    limit = 0.15 if outcome == "timeout" or case == "500, then it hangs" else 5
    with serving(once(steps)) as server:
        run = the_run(server, load.with_(timeout=limit))
    assert [row.outcome for row in run.rows] == ["ok", outcome, "ok"] and outcome in OUTCOMES
    assert message in run.rows[1].message and not run.interrupted
    assert run.rows[1].ended is not None and (run.rows[1].ended - (run.rows[1].sent or 0) < 1)
    assert [row.tokens for row in run.rows[::2]] == [4, 4]
    assert run.gaps.n == sum(row.reads - 1 for row in run.rows if row.ok)


RIGHT: dict[str, list[Step]] = {
    "in pieces": [CHUNKED[:9], 0.005, CHUNKED[9:], *(b for one in F for b in (one[:40], 0.005, one[40:])), LAST],
    "byte by byte": [bytes([one]) for one in CHUNKED + b"".join(F) + LAST],
    "all at once": [CHUNKED + b"".join(F) + LAST],
    "one chunk": [CHUNKED, chunk(b"".join(W)), LAST],
    "with a length": [OK_HEAD + b"Content-Length: %d\r\n\r\n" % len(b"".join(W)), *W],
    "until it closes": [UNTIL_CLOSE, *W, FIN],
    "HTTP/1.0": [OK_HEAD.replace(b"1.1", b"1.0") + b"\r\n", *W, FIN],
    "after 100 Continue": [b"HTTP/1.1 100 Continue\r\n\r\n", 0.005, *good()],
    "after many of them": [b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, *good()],
    "a large head": [OK_HEAD + b"X: " + b"a" * 30_000 + b"\r\nTransfer-Encoding: chunked\r\n\r\n", *F, LAST],
    "no spaces in the head": [CHUNKED.replace(b": ", b":").lower().replace(b"http/", b"HTTP/"), *F, LAST],
    "trailers": [CHUNKED, *F, b"0\r\nX-Sum: 1\r\n\r\n"],
    "trailers that come late": [CHUNKED, *F, b"0\r\n", 0.02, b"X-Sum: 1\r\n", 0.02, b"\r\n"],
    "a last chunk with more": [CHUNKED, *F, b"000;a=b\r\n\r\n"],
    "comments": [CHUNKED, *(chunk(b": ping\n\n" + one) for one in W), LAST],
    "\\r\\n": [CHUNKED, *(chunk(one.replace(b"\n", b"\r\n")) for one in W), LAST],
    "\\r": [CHUNKED, *(chunk(one.replace(b"\n", b"\r")) for one in W), LAST],
    "without [DONE]": [CHUNKED, *F[:-1], LAST],
    "without a last line end": [CHUNKED, *F[:-1], chunk(b"data: [DONE]"), LAST],
    "and then it hangs": [CHUNKED, *F, HANG],
    "and closes": [*good(), FIN],
    "and resets": [*good(), 0.02, RST],
    "a large event": [CHUNKED, chunk(event(completion("a" * 1_000_000))), *F[1:], LAST],
}


@pytest.mark.parametrize("case", RIGHT)
def test_an_answer_is_read_however_it_is_sent(case: str, load: Load) -> None:
    with serving(RIGHT[case]) as server:
        run = the_run(server, load.with_(requests=2))
        assert len(server.asked) == 2
    assert [(row.outcome, row.message, row.tokens, row.events) for row in run.rows] == 2 * [("ok", "", 4, 4)]


def test_a_connection_that_was_closed_meanwhile_is_no_failure_of_the_request(load: Load) -> None:
    for how in (FIN, RST):
        with serving(lambda asked, how=how: [how] if asked.before else good()) as server:
            run = the_run(server, load.with_(requests=4, concurrency=2))
            # Those that came on a used connection came again, on that or another.
            assert sum(one.before == 0 for one in server.asked) == 4 < len(server.asked)
        assert all(row.ok and row.reconnected for row in run.rows) and len(run.rows) == 4
        assert sum(row.resent for row in run.rows) == len(server.asked) - 4


def test_a_server_that_hangs_up_on_a_request_after_a_while_is_a_failure(load: Load) -> None:
    with serving(lambda asked: [0.15, FIN] if asked.before else good()) as server:
        rows = the_run(server, load).rows
        assert len(server.asked) == 3
    assert [(row.outcome, row.resent) for row in rows] == [("ok", False), ("cut", False), ("ok", False)]


def test_a_long_request_on_a_connection_that_was_closed_is_sent_again_whole(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_AT_ONCE", 5.0)  # this test's server may be slow
    file = tmp_path / "two.jsonl"
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("short", "long " * 3_000_000)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        took: list[int] = []

        def request(sock: socket.socket) -> int:
            came = sock.recv(65536)
            head, body = came.split(b"\r\n\r\n", 1)
            length, size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]), len(body)
            while size < length:
                size += len(sock.recv(1 << 20))
            return size

        def answer() -> None:
            sock, _ = listener.accept()
            took.append(request(sock))
            sock.sendall(b"".join(one for one in good() if isinstance(one, bytes)))
            sock.recv(1000)
            time.sleep(0.1)  # until no more of it is taken
            sock.close()
            sock, _ = listener.accept()
            took.append(request(sock))
            sock.sendall(b"".join(one for one in good() if isinstance(one, bytes)))

        threading.Thread(target=answer, daemon=True).start()
        target = Target.of(f"http://127.0.0.1:{listener.getsockname()[1]}", "m")
        rows = measuring.measure(target, load.with_(requests=2, prompts=str(file))).runs[0].rows
    assert [(row.outcome, row.resent) for row in rows] == [("ok", False), ("ok", True)] and took[1] > 15_000_000


def test_a_server_that_closes_every_connection_at_once_is_a_failure(load: Load) -> None:
    for how in (FIN, RST):
        with serving([how]) as server:
            assert [row.outcome for row in the_run(server, load.with_(requests=2)).rows] == ["cut", "cut"]
            assert len(server.asked) == 2


def test_an_answer_may_come_before_the_request_is_read(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"prompt": "word " * 3_000_000}) + "\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            sock.recv(1000)
            sock.sendall(plain("413 Too Large", {"error": "too long"}))
            over.wait(10)
            sock.close()

        over = threading.Event()
        threading.Thread(target=answer, daemon=True).start()
        target = Target.of(f"http://127.0.0.1:{listener.getsockname()[1]}", "m")
        (row,) = measuring.measure(target, load.with_(requests=1, prompts=str(file))).runs[0].rows
        over.set()
    assert (row.outcome, row.message, row.sent) == ("refused", "HTTP 413: too long", None)


def test_a_server_that_turns_requests_away_is_not_asked_all_the_time(load: Load) -> None:
    refusing = [plain("429 Too Many Requests", b"")]
    for steps in (refusing, [plain("200 OK", {"error": "no stream"})]):
        with serving(steps) as server:
            rows = the_run(server, load.with_(requests=4)).rows
        waited = [(b.sent or 0) - (a.ended or 0) for a, b in pairwise(rows)]
        assert all(least <= wait for least, wait in zip((0.04, 0.09, 0.19), waited, strict=True))
    with serving(lambda asked: good() if asked.number % 2 else refusing) as server:
        rows = the_run(server, load.with_(requests=8)).rows  # and one answer is enough for it to be asked at once
    assert all((b.sent or 0) - (a.ended or 0) < 0.4 for a, b in pairwise(rows))


def test_a_server_that_dies_ends_the_run_and_what_came_before_is_kept(load: Load) -> None:
    def dies(asked: Asked) -> list[Step]:
        if asked.number == 9:
            server.close()
        return good()

    with serving(dies) as server:
        measured = measure(server, load.with_(requests=5000, runs=3, concurrency=4, give_up=6))
    (run,) = measured.runs
    assert measured.interrupted and "requests failed one after the other" in run.ended
    assert 5 <= sum(row.ok for row in run.rows) <= 9 + 4 and len(run.rows) < 100
    assert {row.outcome for row in run.rows} <= {"ok", "cut", "no connection", "interrupted"}


@pytest.mark.parametrize("give_up", [2, 50])
def test_a_warm_up_without_an_answer_is_an_error_that_says_why(give_up: int, load: Load) -> None:
    with (
        serving([plain("503 Busy", {"error": "loading"})]) as server,
        pytest.raises(WorkshopError, match=r"nothing to measure\. The first: server error: HTTP 503: loading"),
    ):
        measure(server, load.with_(warmup=5, give_up=give_up))


def test_a_server_that_wants_a_key_is_told_of_as_such(load: Load) -> None:
    with (
        serving([plain("401 No", {"error": "who are you?"})]) as server,
        pytest.raises(WorkshopError, match=r"who are you\?\. The environment variable OPENAI_API_KEY"),
    ):
        measure(server, load.with_(warmup=1))


# --- How much is sent, and when ---------------------------------------------------------------------------------------


def test_as_many_are_in_flight_as_asked_and_never_more(load: Load) -> None:
    with serving(good(first=0.01)) as server:
        run = the_run(server, load.with_(requests=40, concurrency=5))
        assert server.peak == 5 and len(server.asked) == 40 and server.connections == 5
        assert all(row.ok for row in run.rows) and [row.index for row in run.rows] == list(range(40))
        assert {row.slot for row in run.rows} == set(range(5)) and sum(row.first_wave for row in run.rows) == 5
        assert max(run.timeline.in_flight) <= 5 and run.timeline.in_flight[-1] == 0
        until(lambda: server.open == 0, 5, "the end of all connections")


def test_a_hundred_and_fifty_are_in_flight_at_once(load: Load) -> None:
    with serving(good(first=0.6)) as server:
        run = the_run(server, load.with_(requests=150, concurrency=150))
        assert server.peak == 150 and all(row.ok for row in run.rows)
        until(lambda: server.open == 0, 5, "the end of all connections")


def test_an_open_loop_sends_on_time_whatever_the_server_does(load: Load) -> None:
    with serving(good(first=0.4)) as server:
        run = the_run(server, load.with_(concurrency=None, rate=100.0, arrivals="constant", requests=20))
        assert server.peak > 10
    assert [row.intended for row in run.rows] == pytest.approx([0.01 * i for i in range(20)], abs=1e-6)
    for row in run.rows:
        assert row.sent is not None and row.ttft is not None and row.first_token is not None
        assert row.sent >= row.intended and row.ttft == pytest.approx(row.first_token - row.intended)
        assert row.ok and row.ttft >= 0.4


class Hesitant(Server):
    """Takes its time to shake hands."""

    def _serve(self, sock: socket.socket, number: int) -> None:
        time.sleep(0.1)
        super()._serve(sock, number)


def test_a_handshake_counts_as_the_servers_time_and_not_as_the_clients_lateness(load: Load, tmp_path: Path) -> None:
    server = Hesitant(lambda asked: good(first=0.3), bad_servers.own_certificate(tmp_path))
    with contextlib.closing(server):
        asked = load.with_(concurrency=None, rate=50.0, arrivals="constant", requests=12)
        (run,) = measuring.measure(Target.of(server.url, "m", insecure=True), asked).runs
    late = [row for row in run.rows if (row.sent or 0) - row.intended > 0.09]
    assert late and all(row.ok and (row.ttft or 0) > 0.39 for row in late) and run.health.late_p99 < 0.05


def test_connections_of_an_open_loop_are_open_before_it_begins(load: Load) -> None:
    open_then: dict[int, int] = {}

    def script(asked: Asked) -> list[Step]:
        open_then[asked.number] = server.connections
        return good(first=0.2)

    with serving(script) as server:
        asked = load.with_(concurrency=None, rate=50.0, arrivals="constant", requests=30, warmup=2)
        _, run = measure(server, asked).runs
    assert open_then[0] == 1 and open_then[4] >= 4 + 2 * 10 and all(row.ok for row in run.rows)


def test_waiting_awake_for_the_next_request_is_no_work(load: Load) -> None:
    with serving(good()) as server:
        run = the_run(server, load.with_(concurrency=None, rate=900.0, arrivals="constant", requests=450))
    told = run.health
    assert told.waited_awake > 0.02 * told.seconds
    assert told.busy == pytest.approx((told.cpu_seconds - told.waited_awake) / told.seconds)


def test_an_open_loop_may_have_as_many_connections_as_the_system_allows(load: Load) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        with serving(good()) as server:
            the_run(server, load.with_(concurrency=None, rate=100.0))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_limit_of_the_clients_own_machine_is_not_the_servers_failure(load: Load, tmp_path: Path) -> None:
    with serving(good(first=1.0)) as server:
        asked = load.with_(concurrency=None, rate=200.0, requests=100, give_up=5)
        child = start(server.url, asked, tmp_path / "out", files=60)
        said, wrong = child.communicate(timeout=30)
    assert child.returncode == 0 and wrong == "" and lines(said)[-1] == {"done": True}
    failed = [row for row in rows_of(tmp_path / "out") if not row.ok]
    assert {row.outcome for row in failed} == {"no connection"} and len(failed) > 5
    assert {row.message for row in failed} == {"this machine's own limit: too many open files"}
    (run,) = json.loads((tmp_path / "out" / "measured.json").read_text())["runs"]
    assert not run["interrupted"] and run["health"]["limited"] == len(failed)
    assert f"kept {len(failed)} requests from being sent" in Health(**run["health"]).client_bound


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_during_a_run_is_told_and_breaks_nothing(
    hours: int, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, ahead = time.time_ns, [0]
    monkeypatch.setattr(time, "time_ns", lambda: clock() + ahead[0])

    def script(asked: Asked) -> list[Step]:
        ahead[0] = hours * 3_600_000_000_000 if asked.number else 0
        return good(gap=0.02)

    with serving(script) as server:
        run = the_run(server, load)
    assert len(run.rows) == 3 and len(run.timeline.tokens) == len(run.timeline.in_flight) < 50
    assert sum(run.timeline.tokens) == pytest.approx(12) and sum(run.timeline.first_tokens) == 3
    assert f"clock was set by {hours * 3_600_000:+,} ms" in run.health.client_bound == run.health.gaps_bound
    assert not Health(seconds=1, clock_shift=0.0005).client_bound


def test_without_the_kernels_time_results_say_so_even_if_all_connections_are_closed(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_SO_TIMESTAMPNS", 9999)  # as on a kernel that has no such option
    with serving([UNTIL_CLOSE, *W, FIN]) as server:
        measured = measure(server, load)
    assert measured.stamps == measured.runs[0].health.stamps == USER


def test_a_system_without_epoll_is_told_so(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll")
    with pytest.raises(WorkshopError, match="runs on Linux only"):
        measuring.measure(Target.of("http://127.0.0.1:9"), load)


def test_the_first_requests_are_spread_over_the_ramp(load: Load) -> None:
    with serving(good(first=0.5)) as server:
        run = the_run(server, load.with_(requests=4, concurrency=4, ramp=0.4))
    assert run.ramp == 0.4
    for slot, row in enumerate(run.rows):
        assert row.sent is not None and 0.1 * slot <= row.sent + 1e-3 and row.slot == slot and row.first_wave


def test_the_ramp_is_as_long_as_a_request_of_the_warm_up(load: Load) -> None:
    with serving(good(first=0.2)) as server:
        warm, run = measure(server, load.with_(requests=2, concurrency=2, warmup=2, ramp=None)).runs
    assert warm.ramp == 0.0 and 0.2 <= run.ramp < 2 and (run.rows[1].sent or 0) >= 0.1


def test_no_request_is_sent_after_the_seconds_are_over(load: Load) -> None:
    for changes in ({"concurrency": 3}, {"concurrency": None, "rate": 60.0}):
        with serving(good(first=0.02)) as server:
            run = the_run(server, load.with_(requests=None, seconds=0.4, **changes))
            assert len(server.asked) == len(run.rows) > 5 and all(row.ok for row in run.rows)
        assert 0.1 < max(row.sent or 0 for row in run.rows) < 0.9 and not run.interrupted


def test_the_warm_up_is_apart_and_runs_are_numbered(load: Load) -> None:
    seen: list[tuple[int, int]] = []
    with serving(good()) as server:
        asked = load.with_(requests=6, runs=3, warmup=2, prompts=None, input_tokens=20, ramp=0)
        runs = measure(server, asked, after_run=lambda run: seen.append((run.number, len(run.rows)))).runs
        texts = [one.body["prompt"] for one in server.asked]
    assert seen == [(run.number, len(run.rows)) for run in runs] == [(0, 2), (1, 6), (2, 6), (3, 6)]
    assert [{row.phase for row in run.rows} for run in runs] == [{"warm-up"}, *[{"measured"}] * 3]
    assert len(set(texts)) == len({text[:12] for text in texts}) == 20
    assert {one.body["max_tokens"] for one in server.asked} == {4} and len(server.others) == 3
    assert {one.path for one in server.asked} == {"/v1/completions"}


def test_a_chat_is_asked_for_where_chats_are(load: Load) -> None:
    told = [chat({"role": "assistant", "content": ""}), chat({"content": "Hi"}), chat({"content": "!"}, "stop")]
    steps = [CHUNKED, chunk(event(told[0])), 0.1, *(chunk(event(one)) for one in (*told[1:], usage(2))), LAST]
    with serving(steps) as server:
        rows = the_run(server, load.with_(api="chat", output_tokens=2)).rows
        assert {one.path for one in server.asked} == {"/v1/chat/completions"}
        assert server.asked[0].body["messages"] == [{"role": "user", "content": "Once upon a time"}]
    assert all(row.ok and row.events == 2 and (row.ttft or 0) >= 0.1 for row in rows)


def test_times_are_the_servers(load: Load) -> None:
    with serving(good(tokens=8, first=0.1, gap=0.02)) as server:
        run = the_run(server, load.with_(output_tokens=8, requests=4, concurrency=2))
    for row in run.rows:
        assert 0.1 <= (row.ttft or 0) < 1 and 0.015 < (row.itl_p50 or 0) < 0.2 and row.reads == 8
        assert 0.015 < (row.tpot or 0) < 0.2
    assert run.gaps.n == 4 * 7 and sum(run.timeline.tokens) == pytest.approx(32)
    assert sum(run.timeline.first_tokens) == 4


def test_the_timeline_has_the_tokens_that_the_server_counted(load: Load) -> None:
    steps = [CHUNKED, *(chunk(event(completion(" a b c"))) for _ in range(4)), chunk(event(usage(12))), *F[-1:], LAST]
    with serving(steps) as server:
        run = the_run(server, load.with_(output_tokens=12))
    assert sum(run.timeline.tokens) == pytest.approx(36) and [row.events for row in run.rows] == [4, 4, 4]


def test_progress_is_told_while_it_runs(load: Load) -> None:
    told: list[Progress] = []
    with serving(good(first=0.3, gap=0.02)) as server:
        the_run(server, load.with_(requests=4, concurrency=2), watch=told.append)
    assert told and all(one.total == 4 and one.run == 1 and one.in_flight <= 2 for one in told)
    assert [one.done for one in told] == sorted(one.done for one in told) and told[-1].tokens > 0


def test_progress_counts_all_tokens_of_a_long_answer(load: Load) -> None:
    told: list[Progress] = []
    with serving(good(tokens=400, gap=0.004)) as server:
        run = the_run(server, load.with_(requests=2, concurrency=2, output_tokens=400), watch=told.append)
    rate = sum(1 / (row.tpot or 1) for row in run.rows)
    assert [one.tokens for one in told] == sorted(one.tokens for one in told)
    late = [one for one in told if one.seconds > 1.0 and one.in_flight == 2]
    assert late and all(one.tokens_per_second == pytest.approx(rate, rel=0.2) for one in late)
    assert all(one.tokens == pytest.approx(rate * one.seconds, rel=0.2) for one in late)


# --- Whom it asks -----------------------------------------------------------------------------------------------------


def test_the_key_goes_to_the_server_and_nowhere_else(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    wrong = {"error": {"message": f"Incorrect key provided: {KEY}."}}
    with serving(once([plain("401 No", wrong)])) as server:
        target = Target.of(server.url, "m", "MY_KEY")
        measured = measuring.measure(target, load)
        assert {one.headers["authorization"] for one in server.asked} == {f"Bearer {KEY}"}
    measured.write(tmp_path / "out")
    assert measured.runs[0].rows[1].message == "HTTP 401: Incorrect key provided: (the key)."
    assert KEY not in repr(measured) and len(list((tmp_path / "out").iterdir())) == 2
    assert all(KEY.encode() not in file.read_bytes() for file in (tmp_path / "out").iterdir())
    monkeypatch.delenv("MY_KEY")
    with serving(good()) as server:
        measuring.measure(Target.of(server.url, "m", "MY_KEY"), load)
        assert "authorization" not in server.asked[0].headers


def test_the_model_is_asked_for_where_none_is_given(load: Load) -> None:
    with serving(good(), model="tiny/model") as server:
        measured = measuring.measure(Target.of(server.url), load)
        assert measured.target.model == "tiny/model" and measured.server == "bad/1.0"
        assert {one.body["model"] for one in server.asked} == {"tiny/model"}


def test_tls_asks_for_a_certificate_that_is_trusted(load: Load, tmp_path: Path) -> None:
    certificate = bad_servers.own_certificate(tmp_path)
    with serving(once([CHUNKED, F[0], 0.02, RST]), tls=certificate) as server:
        rows = measuring.measure(Target.of(server.url, "m", insecure=True), load).runs[0].rows
        assert [row.outcome for row in rows] == ["ok", "cut", "ok"] and server.url.startswith("https://")
        with pytest.raises(WorkshopError, match="its certificate is not trusted"):
            measuring.measure(Target.of(server.url, "m"), load.with_(warmup=1))
        with pytest.raises(WorkshopError, match="its certificate is not trusted"):
            measuring.measure(Target.of(server.url), load)
        with pytest.raises(WorkshopError, match="does not answer"):
            measuring.measure(Target.of(server.url.replace("https", "http")), load)


def test_tokens_over_tls_come_when_they_come(load: Load, tmp_path: Path) -> None:
    with serving(good(first=0.1, gap=0.02), tls=bad_servers.own_certificate(tmp_path)) as server:
        rows = measuring.measure(Target.of(server.url, "m", insecure=True), load.with_(requests=4, concurrency=2)).runs
    assert all(row.ok and row.reads >= 3 and 0.1 <= (row.ttft or 0) < 1 for row in rows[0].rows)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://host", "is no address of a server"),
        ("", "is no address of a server"),
        ("http://[::1", "is no address of a server"),
        ("http://host:99999", "is no address of a server"),
        ("http://me:secret@host/v1", "has a user name or password in it"),
        ("http://a..b", "There is no host"),
        ("http://127.0.0.1:9", "Connection refused"),
    ],
)
def test_an_address_that_cannot_be_is_told_in_a_sentence(url: str, told: str, load: Load) -> None:
    with pytest.raises(WorkshopError, match=told) as caught:
        measuring.measure(Target.of(url), load)
    assert "secret" not in str(caught.value)


def test_an_address_is_taken_with_and_without_its_path() -> None:
    for url in ("127.0.0.1:80", " http://127.0.0.1\n", "http://127.0.0.1/v1/", "http://127.0.0.1/v1/chat/completions"):
        assert Target.of(url).url == "http://127.0.0.1/v1"
    assert b"\r\nHost: [::1]:80\r\n" in Target.of("http://[::1]").request("GET", "/")


def test_of_two_addresses_of_a_host_the_one_is_taken_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(good()) as server:
        found = [
            (family, socket.SOCK_STREAM, 6, "", (host, server.port))
            for family, host in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert Opener(Target.of("http://localhost")).address == ("127.0.0.1", server.port)


# --- As a process of its own ------------------------------------------------------------------------------------------


def start(server_url: str, load: Load, out: Path, files: int | None = None) -> "subprocess.Popen[str]":
    def prepare() -> None:
        # SIGINT is ignored in what a shell starts in the background, and children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    asked = {"url": server_url, "model": None, "load": load.told(), "out": str(out), "tokenizer": None}
    child = subprocess.Popen(
        [sys.executable, "-m", "helpers.bench", "--machine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OPENAI_API_KEY": KEY},
        preexec_fn=prepare,
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(asked))
    child.stdin.close()
    child.stdin = None
    return child


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def rows_of(out: Path) -> list[Row]:
    return read_rows(out / "requests.csv")


def test_the_process_tells_how_it_goes_and_writes_what_it_has(load: Load, tmp_path: Path) -> None:
    with serving(once([plain("401 No", {"error": f"bad key {KEY}"})])) as server:
        child = start(server.url, load.with_(requests=5, runs=2), tmp_path / "out")
        said, wrong = child.communicate(timeout=30)
        assert {one.headers["authorization"] for one in [*server.asked, *server.others]} == {f"Bearer {KEY}"}
    assert child.returncode == 0 and wrong == "" and KEY not in said
    told = lines(said)
    assert told[-1] == {"done": True}
    ended = [one["run"] for one in told if "run" in one]
    assert ended == [{"number": 1, "requests": 5, "failed": 1}, {"number": 2, "requests": 5, "failed": 0}]
    assert len(rows_of(tmp_path / "out")) == 10
    assert all(KEY.encode() not in file.read_bytes() for file in (tmp_path / "out").iterdir())
    measured = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert measured["target"] == {
        "url": server.url, "model": "m", "tls": False, "server": "bad/1.0", "stamps": measured["target"]["stamps"]
    }  # fmt: skip


def test_an_interrupt_keeps_what_was_measured(load: Load, tmp_path: Path) -> None:
    with serving(lambda asked: good() if asked.number < 7 else [CHUNKED, F[0], HANG]) as server:
        child = start(server.url, load.with_(requests=50, runs=2, concurrency=2), tmp_path / "out")
        until(lambda: len(server.asked) == 9, 15, "two requests that hang")
        until(lambda: server.in_flight == 2, 5)
        child.send_signal(signal.SIGINT)
        said, wrong = child.communicate(timeout=15)
    assert child.returncode == 0 and wrong == "" and lines(said)[-1] == {"done": True, "interrupted": True}
    rows = rows_of(tmp_path / "out")
    assert sorted(row.outcome for row in rows) == ["interrupted"] * 2 + ["ok"] * 7
    assert {row.message for row in rows if not row.ok} == {measuring.STOPPED}
    told = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert told["interrupted"] and [run["ended"] for run in told["runs"]] == [measuring.STOPPED]


def test_a_stop_after_the_last_answer_makes_no_run_an_interrupted_one(load: Load) -> None:
    def count(text: str) -> int:
        client.stopping = "stopped while the last answer is read"
        return 4

    with serving([CHUNKED, *F[:4], chunk(DONE), LAST]) as server:
        asked = load.with_(requests=1, runs=3)
        client = Client(Target.of(server.url, "m"), asked, prompts.Source(asked, None), count_answer=count)
        with contextlib.closing(client):
            runs = list(client.measure())
    assert client.stopping and [(run.interrupted, run.ended) for run in runs] == [(False, "")]


def test_an_interrupt_before_the_first_request_leaves_nothing(load: Load, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        child = start(f"http://127.0.0.1:{deaf.getsockname()[1]}", load, tmp_path / "out")
        sock, _ = deaf.accept()
        sock.recv(10)
        child.send_signal(signal.SIGINT)
        said, wrong = child.communicate(timeout=15)
        sock.close()
    assert (child.returncode, said, wrong) == (130, "", "") and not (tmp_path / "out").exists()


def test_the_process_says_in_one_sentence_why_it_could_not(load: Load, tmp_path: Path) -> None:
    child = start("http://127.0.0.1:9", load, tmp_path / "out")
    said, wrong = child.communicate(timeout=30)
    assert child.returncode == 1 and wrong == "" and not (tmp_path / "out").exists()
    (told,) = lines(said)
    assert "http://127.0.0.1:9/v1 does not answer: Connection refused" in told["error"]
