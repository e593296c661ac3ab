"""The truth server, its log, and how the load generator is held against it."""

import http.client
import json
import struct
from pathlib import Path

import pytest

from helpers.bench.measured import Gaps, Health, Run
from helpers.bench.rows import Row
from helpers.errors import WorkshopError
from tools import bench_peers, bench_truth, truth

MS = 1_000_000
BEGAN = 1_800_000_000_000_000_000


def answer(number, arrival, delays, tokens=3, itl=10 * MS):
    stamps = [arrival + 50 * MS + i * itl + late for i, late in zip(range(tokens), delays, strict=True)]
    import numpy

    return truth.Answer(number, -1, arrival, stamps[-1], tokens, numpy.array(stamps), number, True, False, False)


def log_of(*answers):
    return truth.Log(0.050, 0.010, False, answers)


def record(number, arrival, stamps, flags=1, tokens=3):
    head = struct.pack("<4q6i", number, -1, arrival, arrival, tokens, len(stamps), len(stamps), 7, flags, 90)
    return head + struct.pack(f"<{len(stamps)}q", *stamps)


def written(folder, *records, magic=b"TRUTH 1\0", size=56):
    file = folder / "log"
    file.write_bytes(struct.pack("<8sqqii", magic, 50 * MS, 10 * MS, 0, size) + b"".join(records))
    return file


@pytest.fixture(scope="module")
def compiled():
    try:
        return truth.compiled()
    except WorkshopError as problem:
        if "no C compiler" in str(problem):
            pytest.skip("no C compiler on this machine")
        raise


@pytest.fixture
def server(compiled):
    with truth.start(ttft=0.005, itl=0.001, tokens=4) as running:
        yield running


def post(server, path, body, headers=None):
    host, _, port = server.url.removeprefix("http://").removesuffix("/v1").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("POST", f"/v1/{path}", json.dumps(body), headers or {})
    said = connection.getresponse().read()
    connection.close()
    return said


def events(said):
    assert said.endswith(b"data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in said.split(b"\n\n")[:-2]]


# ---- the log ----


def test_a_log_gives_back_what_was_written_in_the_order_of_the_requests(tmp_path):
    late, early = record(1, BEGAN + 5, [BEGAN + 60 * MS]), record(0, BEGAN, [BEGAN + 50 * MS, BEGAN + 61 * MS], 1 | 4)
    log = truth.read_log(written(tmp_path, late, early))
    assert [one.number for one in log.answers] == [0, 1]
    assert (log.ttft, log.itl, log.flood) == (0.050, 0.010, False)
    assert log.answers[0].ttft == pytest.approx(0.050)
    assert log.gaps.tolist() == pytest.approx([0.011])
    assert (log.answers[0].kernel, log.answers[0].blocked, log.answers[0].cut) == (True, True, False)


def test_a_record_that_is_not_whole_yet_is_left_out(tmp_path):
    whole = record(0, BEGAN, [BEGAN + 50 * MS])
    for cut in (1, 8, 9, 40):
        assert len(truth.read_log(written(tmp_path, whole, whole[:-cut])).answers) == 1


def test_another_file_is_no_log(tmp_path):
    with pytest.raises(WorkshopError, match="no log of the truth server"):
        truth.read_log(written(tmp_path, magic=b"SOMETHIN"))
    with pytest.raises(WorkshopError, match="records of 64 bytes"):
        truth.read_log(written(tmp_path, size=64))


def test_a_log_says_when_the_server_itself_was_late():
    assert log_of(answer(0, BEGAN, (0, 0, 0))).late == ""
    slow = log_of(answer(0, BEGAN, (0, 2 * MS, 3 * MS)))
    assert slow.late == "the server itself was late: 2.00 ms (p50), 2.98 ms (p99)"
    assert slow.lateness.tolist() == pytest.approx([0.0, 0.002, 0.003])


def test_a_part_of_a_log_ends_before_the_next_begins():
    log = log_of(*(answer(i, BEGAN + i * MS, (0, 0, 0)) for i in range(5)))
    assert [one.number for one in log.between(BEGAN + MS, BEGAN + 3 * MS).answers] == [1, 2]
    assert [one.number for one in log.between(BEGAN + 3 * MS).answers] == [3, 4]


# ---- the server ----


def test_an_answer_has_as_many_events_as_tokens_and_the_log_has_a_time_for_each(server):
    body = {"prompt": "one two three", "max_tokens": 7, "stream": True, "stream_options": {"include_usage": True}}
    told = events(post(server, "completions", body, {"X-Request-Id": "42"}))
    assert len([one for one in told if one["choices"] and one["choices"][0]["text"]]) == 7
    assert told[-2]["choices"][0]["finish_reason"] == "length"
    assert told[-1]["usage"] == {"prompt_tokens": 3, "total_tokens": 10, "completion_tokens": 7}
    assert len({one["id"] for one in told}) == 1
    (one,) = server.read().answers
    assert (one.tokens, len(one.stamps), one.asked_id) == (7, 7, 42)
    assert min(server.read().lateness) >= 0, "no token leaves before its time"


def test_a_chat_answer_begins_with_a_role_and_no_text(server):
    body = {"messages": [{"role": "user", "content": 'a "b" c'}], "max_completion_tokens": 2, "stream": True}
    told = [one["choices"][0]["delta"] for one in events(post(server, "chat/completions", body))]
    assert told[0] == {"role": "assistant", "content": ""}
    assert [bool(one["content"]) for one in told] == [False, True, True, False]


def test_each_request_has_an_id_of_its_own(server):
    body = {"prompt": "a", "stream": True}
    first, second = (events(post(server, "completions", body)) for _ in range(2))
    assert first[0]["id"] != second[0]["id"]
    assert len(first) == 4 + 1, "as many tokens as the server was started for"
    assert len(server.read().answers) == 2


def test_an_answer_that_is_no_stream_counts_the_prompt_and_is_not_in_the_log(server):
    told = json.loads(post(server, "completions", {"prompt": "one two", "max_tokens": 1}))
    assert told["usage"]["prompt_tokens"] == 2
    assert server.read().answers == []


def test_a_flood_sends_all_and_keeps_the_first_and_the_last_time(compiled):
    with truth.start(flood=True) as server:
        told = events(post(server, "completions", {"prompt": "a", "max_tokens": 3000, "stream": True}))
        log = server.read()
    assert len(told) == 3000 + 1
    assert log.flood and len(log.answers[0].stamps) == 2 and log.answers[0].tokens == 3000
    assert not len(log.gaps) and log.late == ""


def test_a_server_that_cannot_start_says_why(compiled):
    with pytest.raises(WorkshopError, match="cannot run on that core"), truth.start(cpu=1000):
        pass


def test_without_a_compiler_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    source = tmp_path / "truth_server.c"
    source.write_text("int main(void) { return 0; }\n", encoding="utf-8")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(WorkshopError, match="no C compiler"):
        truth.compiled(source)


def test_source_that_does_not_compile_is_told_with_the_compilers_first_line(compiled, tmp_path):
    source = tmp_path / "broken.c"
    source.write_text("int main(void) { return }\n", encoding="utf-8")
    with pytest.raises(WorkshopError, match=r"could not compile broken\.c"):
        truth.compiled(source)


# ---- the verdicts ----


def row(index, sent, ttft, first=False):
    return Row(1, index, "measured", index, first, sent, sent, sent + ttft, sent + ttft + 0.02, tokens=3)


def run_of(rows, gap=0.010, health=None):
    return Run(1, BEGAN * 1e-9, rows, Gaps(2 * len(rows), gap, [gap] * 101), health=health or Health(cpu_seconds=3e-6))


def test_differences_are_those_between_the_report_and_the_log():
    rows = [row(0, 0.0, 0.0505, True), row(1, 0.001, 0.052)]
    log = log_of(answer(0, BEGAN, (0, 0, 0)), answer(1, BEGAN + MS, (MS, MS, MS)))
    found = bench_truth.differences(run_of(rows, 0.0101), log)
    assert found.ttft_p50 == pytest.approx(0.75)
    assert (found.first_p99, found.later_p99) == (pytest.approx(0.5), pytest.approx(1.0))
    assert found.itl_p50 == pytest.approx(0.1, abs=1e-6)
    assert found.each_p99 == pytest.approx(0.995)
    assert found.cpu == pytest.approx(0.5)


def test_requests_that_the_log_does_not_have_are_refused():
    with pytest.raises(WorkshopError, match="has 1 requests, 1 of them answered whole, and the server's log has 2"):
        log = log_of(answer(0, BEGAN, (0, 0, 0)), answer(1, BEGAN, (0, 0, 0)))
        bench_truth.differences(run_of([row(0, 0.0, 0.05)]), log)


def errors(**changes):
    zero = dict.fromkeys(("ttft_p50", "ttft_p99", "itl_p50", "itl_p99", "first_p99", "later_p99", "each_p99"), 0.0)
    rest = {"requests": 400, "ramp": 1.0, "bound": "", "late": "", "cpu": 1.0, "truth_p50": 50.0, "truth_p99": 50.0}
    return bench_truth.Errors(**{**zero, **rest, **changes})


def test_the_median_of_the_repeats_is_judged_without_its_sign():
    good = bench_truth.judged(64, [errors(ttft_p50=9.0), errors(ttft_p50=-0.4), errors()])
    assert all(one.passed for one in good) and good[0].value == 0.4
    bad = bench_truth.judged(64, [errors(ttft_p50=-0.6)] * 3)
    assert [one.passed for one in bad] == [False, True, True, True]
    assert bad[0].row[0] == "c=64: TTFT p50 error (ms)" and bad[0].row[3] == "FAIL"


def test_a_p99_of_few_requests_says_how_few():
    few, many = ([errors(requests=n, ramp=0.25)] for n in (32, 1000))
    assert [one.what for one in bench_truth.judged(1, few)] == [
        "c=1: TTFT p50 error (ms)",
        "c=1: TTFT p99 error (ms) (n=32)",
        "c=1: ITL p50 error (ms)",
        "c=1: ITL p99 error (ms)",
    ]
    assert not [one for one in bench_truth.judged(1, many) if "n=" in one.what]
    assert bench_truth.told_errors(1, few)[1:5] == ["32", "250", "+0.000", "+0.000 (n=32)"]


def test_the_capacity_is_limited_where_answers_are_as_long_as_the_talks():
    assert bench_truth.capacity(100, 1e5, 9.0) == []
    assert [one.passed for one in bench_truth.capacity(1000, 2.1e6, 0.7)] == [True, False]


def test_only_at_a_thousand_a_client_may_call_itself_bound():
    slow = errors(ttft_p99=80.0, bound="its core was 99% busy")
    assert all(one.passed for one in bench_truth.judged(1000, [slow, slow, errors()]))
    assert not all(one.passed for one in bench_truth.judged(256, [slow, slow, errors()]))
    quiet = errors(ttft_p99=80.0)
    assert not all(one.passed for one in bench_truth.judged(1000, [quiet, quiet, slow]))
    assert "client-bound in 2 of 3: its core was 99% busy" in bench_truth.judged(1000, [slow, slow, errors()])[0].row[4]


def test_a_rate_has_to_be_large_enough():
    limit = bench_truth.Limit(least=2e6)
    assert limit.holds(2e6) and not limit.holds(1_999_999.0)
    assert str(limit) == "≥ 2,000,000"


def test_the_log_is_shared_out_among_the_runs():
    log = log_of(*(answer(i, BEGAN + i * 100 * MS, (0, 0, 0)) for i in range(4)))
    runs = [Run(0, (BEGAN - MS) * 1e-9, []), Run(1, (BEGAN + 199 * MS) * 1e-9, [])]
    assert [[one.number for one in part.answers] for part in bench_truth.parts(log, runs)] == [[0, 1], [2, 3]]


def test_the_report_counts_the_limits_that_are_not_held():
    report = bench_truth.Report([bench_truth.Verdict("a", 1.0, bench_truth.Limit(most=2.0))], {})
    assert report.table().note == "Every limit is held."
    report.add([bench_truth.Verdict("b", 3.0, bench_truth.Limit(most=2.0))])
    assert report.table().note == "1 of 2 limits are not held."


def test_a_process_is_charged_for_all_that_it_took_and_its_failure_is_told():
    import sys

    core = bench_truth._cores()[1] if len(bench_truth.os.sched_getaffinity(0)) > 1 else 0
    busy = "import os, time\nwhile time.process_time() < 0.1: pass\nprint(os.sched_getaffinity(0))"
    ran = bench_truth.finished([sys.executable, "-c", busy], core)
    assert ran.cpu >= 0.1 and ran.rss > 1_000_000 and ran.output.strip() == f"{{{core}}}"
    with pytest.raises(WorkshopError, match="status 3: gone"):
        bench_truth.finished([sys.executable, "-c", "print('gone'); raise SystemExit(3)"], core)


def test_a_process_that_does_not_end_is_ended_with_all_that_it_started(pids):
    code = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(sys.argv[1], "w").write(f"{os.getpid()}\\n{child.pid}\\n")
print("still at it", flush=True)
time.sleep(60)
"""
    with pytest.raises(WorkshopError, match=r"did not end within 1.5 s: still at it"):
        bench_truth.finished([bench_truth.sys.executable, "-c", code, str(pids.file)], 0, patience=1.5)
    assert len(pids.read()) == 2
    pids.all_gone(2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "flod"), "'flod' is no part; there are accuracy, flood, launch"),
        (("--only", ""), "is no part"),
        (("--repeats", "0"), "'0' is no whole number of at least 1"),
    ],
)
def test_an_option_that_measures_nothing_is_refused(words, said, capsys):
    with pytest.raises(SystemExit):
        bench_truth.main(words)
    assert said in capsys.readouterr().err


def test_each_part_is_written_before_the_next_begins(tmp_path, monkeypatch):
    def fails(*_):
        raise WorkshopError("no second part")

    monkeypatch.setattr(bench_truth, "_cores", lambda: (0, 1))
    monkeypatch.setattr(bench_truth, "accuracy", lambda report, *_: report.told.update(accuracy=1))
    monkeypatch.setattr(bench_truth, "cost", fails)
    file = tmp_path / "told.json"
    assert bench_truth.main(["--only", "accuracy,flood", "--json", str(file)]) == 1
    assert json.loads(file.read_text())["accuracy"] == 1
    assert bench_truth.main(["--only", "accuracy", "--json", str(tmp_path / "none" / "told.json")]) == 1


# ---- the peers ----


def test_a_peers_figures_are_read_from_what_it_writes(tmp_path: Path):
    vllm = {"p50_ttft_ms": 51.0, "p99_ttft_ms": 60.0, "p99_itl_ms": 12.0, "output_throughput": 99.0}
    assert bench_peers.read_vllm(json.dumps(vllm)) == bench_peers.Figures(51.0, 60.0, 12.0, 99.0)
    aiperf = {
        "time_to_first_token": {"p50": 68.0, "p99": 232.0},
        "inter_token_latency": {"p99": 10.1},
        "output_token_throughput": {"avg": 5000.0},
    }
    assert bench_peers.read_aiperf(json.dumps(aiperf)) == bench_peers.Figures(68.0, 232.0, 10.1, 5000.0)


def test_a_peer_that_writes_something_else_is_told_in_a_sentence():
    with pytest.raises(WorkshopError, match="vllm bench serve wrote no 'p50_ttft_ms'"):
        bench_peers.read_vllm("{}")


@pytest.mark.parametrize("problem", [OSError("no such program"), ZeroDivisionError(), IndexError("no answer")])
def test_a_broken_peer_does_not_end_the_others(tmp_path, monkeypatch, capsys, problem):
    def broken(*_, **__):
        raise problem

    (tmp_path / "peer").touch()
    monkeypatch.setenv(bench_peers.FOLDER, str(tmp_path))
    monkeypatch.setattr(bench_peers.truth, "start", broken)
    peer = bench_peers.Peer("a peer", "peer", broken, "*.json", broken)
    assert bench_peers._theirs(peer, bench_peers.Case(1, 1, 1, False), (0, 1), []) is None
    assert f"a peer (paced c=1) could not be measured: {type(problem).__name__}" in capsys.readouterr().out


def test_the_truth_beside_our_figures_is_that_of_the_same_requests():
    warm, one = answer(0, BEGAN, (900 * MS, 900 * MS, 900 * MS)), answer(1, BEGAN + 2000 * MS, (0, 0, 0))
    shown, figures = [], bench_peers.Figures(50.0, 50.0, 10.0, 99.0)
    bench_peers._show(shown, bench_peers.Case(1, 1, 3, False), "ours", figures, 6e-6, log_of(warm, one), log_of(one))
    assert shown[0][-2:] == ["1.0", "50.0"], "CPU is of all tokens, the truth of those that were measured"
