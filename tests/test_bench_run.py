"""A benchmark from a notebook: its child, what is shown meanwhile, interrupts, sweeps, and the dashboard.

The load generator here is mostly a stand-in (``bench_child.py``) that crashes, talks nonsense or will not end, which
the real one should never do; the last tests of this file run the real one.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, until
from streams import says, streaming, waits

from helpers.bench import running
from helpers.bench.child import Child, GivenUp
from helpers.bench.live import Screen, fraction, moment
from helpers.bench.load import Load
from helpers.bench.measured import Progress
from helpers.bench.running import Measuring, Subject, load_of, loads_of
from helpers.bench.session import Panel, Sample, Session
from helpers.bench_widget import Dashboard, dashboard
from helpers.errors import WorkshopError
from helpers.serving import poller

STAND_IN = (sys.executable, str(ROOT / "tests" / "bench_child.py"))
URL = "http://127.0.0.1:9/v1"
HALFWAY = Progress(1, 0.5, 4, 8, 0, 4, 300, 1234.5, 0.0521)


@pytest.fixture
def stand_in(monkeypatch):
    """The stand-in in place of the load generator, for ``run`` and ``sweep``."""
    usual = Measuring.__init__
    monkeypatch.setattr(Measuring, "__init__", lambda self, *what, **more: usual(self, *what, program=STAND_IN, **more))


def child(tmp_path, script, **extra):
    """A stand-in that has been started."""
    out = tmp_path / "out"
    out.mkdir(parents=True)
    load = Load(extra={"script": script, **extra})
    return Child(Subject(URL).asked(load, out), tmp_path, STAND_IN).start()


def ended(one, seconds=15):
    """Wait until it has ended, as whoever shows it does: a look now and then."""
    until(lambda: one.wait(0.05), seconds, "the end of the load generator")
    one.close()


def test_what_the_child_tells_is_heard(tmp_path):
    one = child(tmp_path, "works")
    ended(one)
    one.require_done()
    assert (one.progress.tokens_per_second, one.progress.ttft) == (1234.5, 0.0521)
    assert one.runs == [(1, 8, 0)]


def test_nonsense_between_the_lines_is_passed_over(tmp_path):
    one = child(tmp_path, "garbage")
    ended(one)
    one.require_done()
    assert one.runs == [(1, 8, 0)] and one.progress.done == 3


def test_a_crash_is_told_with_the_lines_that_tell(tmp_path):
    one = child(tmp_path, "crash")
    ended(one)
    with pytest.raises(WorkshopError, match=r"ended with status 3[\s\S]*MemoryError: out of memory[\s\S]*log\.txt"):
        one.require_done()


def test_an_end_without_a_word_is_no_success(tmp_path):
    one = child(tmp_path, "silent")
    ended(one)
    with pytest.raises(WorkshopError, match="ended without saying that it was done"):
        one.require_done()


def test_what_the_child_says_is_wrong_is_the_whole_error(tmp_path):
    one = child(tmp_path, "error")
    ended(one)
    with pytest.raises(WorkshopError) as told:
        one.require_done()
    assert str(told.value) == "No server answers at http://127.0.0.1:1/v1: start one, and measure it then."


def test_a_program_that_is_not_there_is_told(tmp_path):
    one = Child({}, tmp_path, ["no-such-program"]).start()
    ended(one)
    with pytest.raises(WorkshopError, match="no-such-program"):
        one.require_done()


def test_the_first_stop_keeps_what_there_is(tmp_path):
    one = child(tmp_path, "waits")
    until(lambda: one.progress)
    one.stop()
    ended(one)
    one.require_done()
    assert json.loads((tmp_path / "out" / "measured.json").read_text())["interrupted"] is True


def test_the_second_stop_ends_it_by_force_and_nothing_is_left(tmp_path, pids):
    one = child(tmp_path, "deaf", pids=str(pids.file))
    until(lambda: one.progress)
    one.stop()
    assert not one.wait(0.3)
    one.stop()
    ended(one, 5)
    with pytest.raises(GivenUp):
        one.require_done()
    pids.all_gone(2)


def test_a_stop_before_it_has_begun_is_heeded_once_it_has(tmp_path):
    one = child(tmp_path, "waits")
    one.stop()
    ended(one)
    # It was stopped as it started, or as soon as it could listen: both are an end, and neither is an error.
    try:
        one.require_done()
    except GivenUp:
        assert not (tmp_path / "out" / "measured.json").exists()


def test_a_load_dies_with_the_process_that_started_it(tmp_path, pids):
    code = """
import json, sys
from pathlib import Path
from helpers.bench.child import Child
one = Child(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]).start()
one.wait(60)
"""
    load = Load(extra={"script": "deaf", "pids": str(pids.file)})
    asked = json.dumps(Subject(URL).asked(load, tmp_path))
    words = [sys.executable, "-c", code, asked, str(tmp_path), *STAND_IN]
    parent = subprocess.Popen(words, cwd=ROOT)
    pids.wait(1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    pids.all_gone(5)


# --- What is asked ----------------------------------------------------------------


def test_the_keywords_are_a_load():
    load = load_of(None, {"concurrency": 32, "input": "100-200", "output": 64, "requests": 128})
    assert (load.concurrency, str(load.input_tokens), str(load.output_tokens)) == (32, "100 to 200", "64")
    assert load_of(load, {"runs": 3}) == load.with_(runs=3)


def test_a_rate_makes_an_open_loop_of_any_load_and_a_concurrency_a_closed_one():
    opened = load_of(Load(concurrency=8), {"rate": 4.0})
    assert (opened.rate, opened.concurrency) == (4.0, None)
    closed = load_of(opened, {"concurrency": 8})
    assert (closed.rate, closed.concurrency) == (None, 8)
    for concurrency in (1, 8):
        with pytest.raises(WorkshopError, match="Give one of them"):
            load_of(None, {"rate": 4.0, "concurrency": concurrency})
    with pytest.raises(WorkshopError, match="Give one of them"):
        Load(rate=5.0, concurrency=1)
    assert (Load().concurrency, Load(rate=5.0).concurrency) == (1, None)
    assert Load.from_told(Load(rate=5.0).told()) == Load(rate=5.0)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"concurency": 8}, "A load has no 'concurency'"),
        ({"input": 8, "input_tokens": 9}, "given twice"),
        ({"concurrency": 0}, "at least 1"),
        ({"output": "long"}, "is no length in tokens"),
        ({"output": "1" * 5000}, "is no length in tokens"),
        ({"output": 10**5000}, "more than 999,999,999 tokens"),
        ({"warmup": 1.5}, "warmup is 1.5. Give a whole number"),
        ({"extra": [("top_p", 1)]}, "extra is a list"),
        ({"extra": None}, "extra is a NoneType"),
        ({"extra": {"top_p": float("nan")}}, "extra has what JSON cannot say"),
        ({"extra": {"stop": {"a", "b"}}}, "extra has what JSON cannot say"),
        ({"prompts": 8}, "prompts is a int"),
    ],
)
def test_what_is_no_load_is_said_in_a_sentence(asked, said):
    with pytest.raises(WorkshopError, match=said):
        load_of(None, asked)


def test_a_sweep_is_one_load_a_value():
    loads = loads_of(None, {"output": 16}, [1, 8])
    assert [one.concurrency for one in loads] == [1, 8] and {one.output_tokens.low for one in loads} == {16}
    assert [one.rate for one in loads_of(None, {}, [1, 8], rate=[2.0, 4.0])] == [2.0, 4.0]
    for values in (8, "8", []):
        with pytest.raises(WorkshopError, match="Give several"):
            loads_of(None, {}, values)


@pytest.mark.parametrize(("what", "said"), [(8, "A int cannot be measured"), ("ftp://x", "no address of a server")])
def test_what_cannot_be_measured_is_refused(what, said):
    with pytest.raises(WorkshopError, match=said):
        Subject.of(what)


def test_an_endpoint_that_has_ended_is_refused():
    with pytest.raises(WorkshopError, match=r"The server of FP16 has ended: start it again"):
        Subject.of(SimpleNamespace(url=URL, model="m", title="FP16", running=False))


def test_an_address_with_a_password_is_refused_without_showing_it():
    with pytest.raises(WorkshopError) as told:
        Subject.of("http://me:hunter2@127.0.0.1:9/v1")
    assert "hunter2" not in str(told.value)


def test_a_file_of_prompts_is_found_from_the_notebooks_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("prompts.jsonl", Path("prompts.jsonl")):
        asked = Subject(URL).asked(Load(prompts=name), tmp_path)
        assert asked["load"]["prompts"] == str(tmp_path / "prompts.jsonl")
        assert json.dumps(Load(prompts=name).told())


def test_the_key_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret-that-nobody-sees")
    ended(child(tmp_path, "works"))
    assert "a-secret" not in "".join(file.read_text() for file in tmp_path.rglob("*") if file.is_file())


# --- What is shown ----------------------------------------------------------------


def test_the_bar_tells_how_it_goes():
    record = poller.Record(0.0, active=4, queued=2, kv_used=832, kv_blocks=5332)
    bar = moment("Benchmark of FP16", Load(requests=8), 3.2, HALFWAY, record)
    assert bar.line() == (
        "Benchmark of FP16:  56% 3.2 s · run 1 of 1, 4 of 8 requests done · 4 in flight · about 1,234 tokens/s · "
        "TTFT 52 ms · 832 of 5,332 KV blocks used · 2 queued"
    )


def test_the_bar_tells_failures_and_that_nothing_has_come_yet():
    line = moment("B", Load(), 0.1, Progress(1, 0.1, 2, 32, 2, 1, 0, 0.0, None)).line()
    assert "no token yet" in line and "⚠ 2 failed" in line
    assert "starting the load generator" in moment("B", Load(), 0.1, None).line()
    assert "stopping; what was measured is kept" in moment("B", Load(), 0.1, HALFWAY, stopping=True).line()


def at(run, done, total, seconds=0.0):
    return Progress(run, seconds, done, total, 0, 1, 1, 1.0, None)


def test_the_fraction_goes_through_warm_up_and_runs():
    load = Load(concurrency=8, requests=16, runs=2)  # 8 of warm-up, 16, 16
    told = [at(0, 0, 8), at(0, 8, 8), at(1, 8, 16), at(1, 16, 16), at(2, 16, 16)]
    assert [fraction(load, one) for one in told] == pytest.approx([0, 0.2, 0.4, 0.6, 1])


def test_the_fraction_of_a_load_that_time_ends_is_of_time_or_unknown():
    load = Load(seconds=10.0)
    assert fraction(load, at(1, 5, None, 2.5)) == pytest.approx(0.25)
    assert fraction(load, at(0, 5, None, 2.5)) is None and fraction(load, None) is None


def test_a_log_gets_few_lines_and_quiet_none(capsys):
    screen = Screen()
    for _ in range(5):
        screen.show(moment("B", Load(), 0.1, HALFWAY, details=(("log", "a/log.txt"),)))
    screen.run_ended("B", 1, 8, 2)
    screen.finish("done")
    shown = capsys.readouterr()
    assert len(shown.err.splitlines()) == 3 and "log: a/log.txt" in shown.err
    assert "B: run 1 ended, 8 requests, 2 failed" in shown.err and shown.out == "done\n"
    quiet = Screen(quiet=True)
    quiet.show(moment("B", Load(), 0.1, HALFWAY))
    quiet.run_ended("B", 1, 8, 2)
    quiet.finish("done")
    assert capsys.readouterr() == ("", "")


# --- run and sweep ----------------------------------------------------------------


def test_a_run_is_published_and_shown(stand_in, capsys):
    made = running.run(URL, requests=8, extra={"script": "works"}, name="First try")
    assert made.load.requests == 8 and len(made.runs[0].rows) == 8 and not made.interrupted
    assert made.path.parent.name == "benchmarks" and "first-try" in made.path.name
    assert capsys.readouterr().out.startswith("Benchmark: First try")
    again = running.reopen(made.path)
    assert again.summary.whole == 8
    assert not list((made.path.parents[1] / "runs").glob("*/out"))  # what was published lies there once


def test_a_run_keeps_what_the_engine_told_meanwhile(stand_in, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    told = {"numActiveRequests": 3, "numQueuedRequests": 1, "kvCacheStats": {"maxNumBlocks": 64, "usedNumBlocks": 16}}
    poller.append(metrics, [told], time.time() - 60)  # before the load: of another
    endpoint = SimpleNamespace(url=URL, model="m", title="FP16", metrics=metrics)

    def tell():
        until(lambda: list((tmp_path / "workshop" / "runs").glob("*/asked.json")))
        poller.append(metrics, [told], time.time())
        poller.append(metrics, [{**told, "numActiveRequests": 0, "numQueuedRequests": 0}], time.time())

    thread = threading.Thread(target=tell)
    thread.start()
    made = running.run(endpoint, extra={"script": "works"}, quiet=True)
    thread.join()
    assert [one.active for one in made.records] == [3, 0] and made.records[0].kv_used == 16
    assert made.title == "FP16"


def interrupting(ready, times=1):
    """Interrupt this process, as a cell's ■ does, once something is so; the load generator listens by then."""

    def interrupt():
        until(ready, 20)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


@pytest.fixture
def interruptible():
    """SIGINT as a kernel has it, also where the tests were started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_a_run_well(stand_in, interruptible, pids):
    thread = interrupting(pids.read)
    made = running.run(URL, extra={"script": "waits", "pids": str(pids.file)}, quiet=True)
    thread.join()
    assert made.interrupted and len(made.runs[0].rows) == 2
    assert "stopped" in made.sentence


def test_a_second_interrupt_ends_the_cell(stand_in, interruptible, pids):
    thread = interrupting(pids.read, times=2)
    with pytest.raises(KeyboardInterrupt):
        running.run(URL, extra={"script": "deaf", "pids": str(pids.file)}, quiet=True)
    thread.join()


def test_a_sweep_keeps_what_was_measured_before_an_interrupt(stand_in, interruptible, pids, monkeypatch):
    usual = Measuring.result

    def result(self, screen):
        if self.load.concurrency == 8:  # the second load waits to be interrupted
            self.load = self.load.with_(extra={"script": "waits", "pids": str(pids.file)})
            thread = interrupting(pids.read)
            try:
                return usual(self, screen)
            finally:
                thread.join()
        return usual(self, screen)

    monkeypatch.setattr(Measuring, "result", result)
    made = running.sweep(URL, [1, 8, 32], extra={"script": "works"}, quiet=True)
    assert [(one.load.concurrency, one.interrupted) for one in made] == [(1, False), (8, True)]


def test_a_sweep_that_fails_says_what_is_kept(stand_in, monkeypatch):
    usual = Measuring.result

    def result(self, screen):
        if self.load.concurrency == 8:
            self.load = self.load.with_(extra={"script": "error"})
        return usual(self, screen)

    monkeypatch.setattr(Measuring, "result", result)
    with pytest.raises(WorkshopError, match=r"No server answers[\s\S]*The load before it is kept in .*benchmarks"):
        running.sweep(URL, [1, 8], extra={"script": "works"}, quiet=True)


# --- The session and the dashboard ----------------------------------------------------


def session(**more):
    return Session(URL, program=STAND_IN, **more)


def test_a_session_measures_one_load_at_a_time_and_keeps_the_kernel_free():
    one = session()
    assert one.start(extra={"script": "waits"})
    assert one.busy and not one.start(extra={"script": "works"})
    until(lambda: one.samples)
    assert one.samples[0].tokens_per_second == 1234.5 and "1,234" in str(one.panel())
    one.stop()
    assert one.wait(15)
    assert [made.interrupted for made in one.results] == [True] and one.sentence.startswith("Stopped; what was")
    assert one.start(extra={"script": "works"}) and one.wait(15)
    assert len(one.results) == 2 and one.sentence.startswith("Done") and len(one.sweep) == 2


def test_a_session_tells_what_goes_wrong_in_a_sentence():
    one = session()
    assert not one.start(concurrency=0)
    assert "concurrency is 0" in one.sentence and not one.busy
    for script, said in (("error", "⚠ No server answers"), ("crash", "⚠ The load generator ended with status 3")):
        assert one.start(extra={"script": script}) and one.wait(15)
        assert one.sentence.startswith(said) and not one.results


def test_a_session_that_is_stopped_twice_gives_up():
    one = session()
    one.start(extra={"script": "deaf"})
    until(lambda: one.samples)
    one.stop()
    time.sleep(0.5)
    one.stop()
    assert one.wait(10) and not one.results
    assert "nothing of it is kept" in one.sentence


def test_a_session_that_nobody_looks_at_ends_its_load():
    seen = []
    one = session(wanted=lambda: not seen, changed=lambda: None)
    one.start(extra={"script": "waits"})
    until(lambda: one.samples)
    seen.append("the page was closed")
    assert one.wait(15) and one.results[0].interrupted


def test_a_session_that_nobody_looks_at_stops_its_load_once_and_does_not_force_it(pids):
    one = session(wanted=lambda: not pids.read())  # earlier, the load would not be deaf yet, and the stop would end it
    one.start(extra={"script": "deaf", "pids": str(pids.file)})
    until(lambda: one._measuring.stopping)
    assert not one.wait(1.5) and one._measuring._stops == 1
    one.stop()
    assert one.wait(10)


def test_the_panel_says_in_words_what_it_draws():
    one = Panel(
        (Sample(0.0, 0, 100.0, None, 4, 4, 0, 16, 64), Sample(2.0, 1, 300.0, 0.05, 8, 8, 3, 32, 64)),
    )
    text = str(one)
    assert "over 2 s, warm-up included; the cache has 64 KV blocks" in text
    assert ["TTFT, latest answers (ms)", "50", "50", "50"] in [list(row) for row in one.table().rows]
    assert ["requests queued in the engine", "3", "0", "3"] in [list(row) for row in one.table().rows]
    page = one._repr_html_()
    assert page.count("<img alt=") == 6 and "KV blocks used over time: now 32, between 16 and 32" in page
    assert page == Panel(one.samples)._repr_html_()


def test_the_panel_leaves_out_what_nobody_told():
    text = str(Panel((Sample(0.0, 1, 100.0, None, 4),)))
    assert "KV" not in text and "TTFT" not in text and "tokens/s" in text
    assert str(Panel(())) == "No figure has come yet."


def test_a_long_load_keeps_its_whole_course_in_few_samples():
    one = session()
    one._measuring = SimpleNamespace(child=SimpleNamespace(progress=HALFWAY), record=lambda: None, stop=lambda: None)
    for number in range(5000):
        one.show(moment("B", Load(), float(number), HALFWAY))
    assert len(one.samples) <= 600 and one.samples[0].seconds == 0 and one.samples[-1].seconds > 4900


def test_the_dashboard_starts_what_its_controls_show_and_its_buttons_follow():
    made = Dashboard(URL, concurrency=4, input="64-128", output=16, program=STAND_IN)
    asked = {"concurrency": 4, "input": "64-128", "output": "16", "requests": None, "runs": 1}
    assert made.asked() == asked
    made.asked = lambda: {**asked, "extra": {"script": "waits"}}
    made.buttons["start"].click()
    until(lambda: made.session.samples and "tokens/s" in made.live.value)
    assert (made.buttons["start"].disabled, made.buttons["stop"].disabled) == (True, False)
    assert "Measuring: closed loop, concurrency 4." in made.status.value
    made.buttons["stop"].click()
    assert made.wait(15)
    assert (made.buttons["start"].disabled, made.buttons["stop"].disabled) == (False, True)
    assert "Stopped; what was measured is kept." in made.status.value and "concurrency 4" in made.output.value
    made.buttons["clear"].click()
    assert "No result yet." in made.output.value and not made.session.results


def test_a_wrong_length_is_a_sentence_in_the_dashboard():
    made = Dashboard(URL, program=STAND_IN)
    made.controls["input"].value = "<many>"
    made.buttons["start"].click()
    assert "is no length in tokens" in made.status.value and "<many>" not in made.status.value
    assert not made.buttons["start"].disabled


def test_a_dashboard_that_is_closed_ends_its_load():
    made = Dashboard(URL, program=STAND_IN)
    made.asked = lambda: {"extra": {"script": "waits"}}
    made.buttons["start"].click()
    until(lambda: made.session.samples)
    made.close()
    assert made.wait(15)


def test_without_a_browser_the_latest_results_of_the_server_are_shown(stand_in):
    for concurrency in (8, 1, 8):
        running.run(URL, concurrency=concurrency, extra={"script": "works"}, quiet=True)
    running.run("http://127.0.0.1:10/v1", concurrency=64, extra={"script": "works"}, quiet=True)
    made = dashboard(URL)
    assert [one.load.concurrency for one in made.session.results] == [1, 8]
    bundle = made._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert "concurrency 8" in bundle["text/plain"] and "concurrency 64" not in bundle["text/plain"]
    assert "<svg role='img' aria-label=" in bundle["text/html"] and "live dashboard" in bundle["text/html"]


def test_results_without_a_latency_are_a_table_without_a_curve(stand_in):
    made = running.run(URL, extra={"script": "works"}, quiet=True)
    dead = replace(made, runs=[replace(run, rows=[]) for run in made.runs])
    shown = Dashboard(URL, [dead], program=STAND_IN)
    assert len(shown.shown()) == 1 and "<table" in shown.output.value


def test_without_a_browser_and_without_results_it_says_so():
    made = dashboard(URL)
    assert "No result yet." in str(made) and "No result yet." in made._repr_html_()


# --- The real load generator ------------------------------------------------------------


def test_the_load_generator_measures_a_server():
    with streaming(says("a", "b", "c", finish="length")) as server:
        made = running.run(server, concurrency=2, requests=6, output=4, quiet=True)
    assert made.summary.whole == 6 and made.title == "FP16" and made.target["model"] == "tiny"
    assert made.load.output_tokens.low == 4 and not made.interrupted


def test_the_load_generator_finds_the_model_and_says_when_nobody_answers():
    with pytest.raises(WorkshopError, match=URL.removesuffix("/v1").removeprefix("http://")):
        running.run(URL, quiet=True)


def falls_silent():
    """A script: the first requests are answered; then tokens come, and no end."""
    answered = []

    def script(stream, body):
        answered.append(body)
        (says("a", "b", "c", finish="length") if len(answered) <= 12 else waits("a"))(stream, body)

    return script


def test_an_interrupt_keeps_what_the_load_generator_has(interruptible):
    with streaming(falls_silent()) as server:
        thread = interrupting(lambda: len(server.asked) > 12)
        made = running.run(server, concurrency=1, warmup=1, requests=32, output=4, input=8, quiet=True)
        thread.join()
    assert made.interrupted and 0 < made.summary.whole <= 12
    assert "stopped" in made.sentence


CELL = "import workshop\nfrom helpers import bench\nmade = bench.run({url!r}, requests=400, output=4, model='tiny')"


def test_a_cell_shows_one_bar_that_becomes_the_result(kernel):
    with streaming(says("a", "b", "c", finish="length")) as server:
        cell = kernel.run(CELL.format(url=server.url))
    assert cell.error is None and cell.streams == []
    assert cell.shown["text/plain"].startswith("Benchmark: ")
    drawn = [one["data"]["text/html"] for one in (*cell.displays, *cell.updates)]
    assert "<progress" in drawn[0] and "<progress" not in drawn[-1] and "log.txt" in drawn[0]


def test_an_interrupted_cell_goes_on_with_what_there_is(kernel):
    with streaming(falls_silent()) as server:
        cell = kernel.start(CELL.format(url=server.url) + "\nprint('went on', made.interrupted)")
        until(lambda: len(server.asked) > 12, 20)
        kernel.manager.interrupt_kernel()
        shown = kernel.finish(cell)
    assert shown.error is None and shown.streams == ["went on True\n"]
    assert server.hung_up.wait(5)
