"""Results of benchmarks: read from folders, kept as artifacts, shown and compared; each sentence both ways."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import bench, workspace
from helpers.bench.load import Lengths, Load
from helpers.bench.measured import Health, Run, Timeline
from helpers.bench.results import result, stored
from helpers.bench.results.comparison import (
    LARGER,
    UNKNOWN,
    WITHIN,
    Comparison,
    Comparisons,
    Difference,
    compare,
    verdict,
)
from helpers.bench.results.metrics import METRICS, Over
from helpers.bench.results.result import Result, Sweep
from helpers.errors import WorkshopError
from helpers.serving.poller import Record
from helpers.toolchains.base import Engine
from helpers.workspace import Manifest
from tests.bench_folders import failed, steady, warm_up, whole, write

LOAD = Load(concurrency=2, runs=3, input_tokens=Lengths(20, 20), output_tokens=Lengths(11, 11))
SECRET = "sk-abcdefghijklmnop1234"


def made(folder: Path, runs: Sequence[Run], load: Load = LOAD, title: str = "", **more: Any) -> Result:
    """A result read from a folder."""
    return replace(result.read(write(folder, load, runs, **more)), title=title)


def three(folder: Path, gap: float, title: str = "", load: Load = LOAD, apart: float = 1e-4, count: int = 3) -> Result:
    """A result of several runs whose gaps lie ``apart`` from one another."""
    return made(folder, [steady(i, 40, gap=gap + apart * i) for i in range(1, count + 1)], load, title)


def engine(place: Path, precision: str = "fp16", **options: Any) -> Engine:
    """An engine's folder, as far as a result looks at it."""
    place.mkdir(parents=True)
    (place / "operations.json").write_text(json.dumps({"weight_bytes": 1000}))
    told = {"toolchain": "openvino", "precision": precision, "kv": "", "model": "bundled", **options}
    return Engine(place, Manifest("engine", "An engine", told))


# --- Reading and keeping --------------------------------------------------------


def test_what_the_load_generator_wrote_comes_back(tmp_path: Path) -> None:
    runs = [warm_up(), steady(1), steady(2)]
    found = result.read(write(tmp_path / "out", LOAD, runs))
    assert found.load == LOAD and found.warmup is not None
    assert [run.number for run in found.runs] == [1, 2]
    assert [len(run.rows) for run in found.runs] == [8, 8] and found.warmup.number == 0
    assert found.summary.whole == 16 and found.value("tpot_p50") == pytest.approx(0.01)
    assert found.runs[0].health == runs[1].health and found.runs[0].gaps.n == runs[1].gaps.n


def test_the_warm_up_is_in_no_figure(tmp_path: Path) -> None:
    warm = made(tmp_path / "a", [warm_up(20), steady(1)])
    cold = made(tmp_path / "b", [steady(1)])
    assert warm.runs_frame().equals(cold.runs_frame())
    assert len(warm.frame()) == 8


def test_a_result_is_kept_whole_under_the_time_of_its_measurement(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", LOAD, [warm_up(), steady(1)])
    kept = result.publish(folder, title="FP16", recipe="laptop", max_batch_size=8, command=["python", "-m", "helpers"])
    began = time.strftime("%Y-%m-%d-%H%M%S", time.localtime(1_700_000_000))
    assert kept.path == workspace.home() / "benchmarks" / f"{began}-c2"
    artifact = workspace.find(kept.path)
    assert artifact is not None and artifact.manifest.kind == "benchmark"
    assert set(artifact.manifest.files) == {"measured.json", "requests.csv", "result.json"}
    assert artifact.manifest.options["load"] == json.loads(json.dumps(LOAD.told()))
    assert (kept.title, kept.recipe, kept.max_batch_size) == ("FP16", "laptop", 8)
    assert kept.machine["cores"] >= 1 and kept.machine["system"]
    assert [one.path for one in result.every()] == [kept.path]


def test_the_stored_json_has_what_a_comparison_needs(tmp_path: Path) -> None:
    served = engine(tmp_path / "engines" / "openvino-fp8", "fp8", max_batch_size=16)
    kept = result.publish(write(tmp_path / "out", LOAD, [steady(1)]), engine=served)
    told = json.loads((kept.path / "result.json").read_text())
    assert told["engine"]["precision"] == "fp8" and told["engine"]["digest"]
    assert told["engine"]["manifest"]["options"]["model"] == "bundled"
    assert told["definitions"]["ttft"]["text"].startswith("From writing")
    assert told["figures"][0]["tpot_p50"] == pytest.approx(0.01)
    assert told["load"]["concurrency"] == 2 and told["machine"]["cpu"] is not None
    assert kept.title == served.full_title and kept.max_batch_size == 16


def test_two_results_of_one_second_are_both_kept(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", LOAD, [steady(1)])
    first, second = result.publish(folder), result.publish(folder)
    assert second.path.name == f"{first.path.name}-2" and len(result.every()) == 2


def test_a_name_is_part_of_the_folder_and_of_the_title(tmp_path: Path) -> None:
    kept = result.publish(write(tmp_path / "out", LOAD, [steady(1)]), name="FP8, second try", title="FP8")
    assert kept.path.name.endswith("-c2-fp8-second-try") and kept.title == "FP8, second try"
    assert kept.name == "FP8, second try, closed loop, concurrency 2"


def test_what_was_described_stays_when_it_is_published_elsewhere(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", LOAD, [steady(1)])
    result.describe(folder, title="FP16", recipe="laptop")
    file = folder / "result.json"
    told = json.loads(file.read_text())
    told["machine"]["cpu"], told["definitions"]["ttft"]["text"] = "Another CPU", "Otherwise."
    file.write_text(json.dumps(told))
    kept = result.publish(folder)
    assert (kept.title, kept.recipe, kept.machine["cpu"]) == ("FP16", "laptop", "Another CPU")
    assert kept.definitions().entries["ttft"].text == "Otherwise."


def test_records_of_the_engine_come_back_with_the_result(tmp_path: Path) -> None:
    records = [Record.of({"numActiveRequests": n, "kvCacheStats": {"usedNumBlocks": 8 * n}}, 100.0 + n) for n in (1, 2)]
    kept = result.publish(write(tmp_path / "out", LOAD, [steady(1)]), records=records)
    assert [(one.time, one.active, one.kv_used) for one in kept.records] == [(101.0, 1, 8), (102.0, 2, 16)]
    assert result.read(write(tmp_path / "none", LOAD, [steady(1)])).records == ()


def test_no_secret_stays_in_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-no-known-form")
    message = "Incorrect key a-key-of-no-known-form given"
    run = Run(1, 1.7e9, [whole(0, 0.0), failed(1, 0.0, "refused", message)])
    url = f"https://user:hunter2hunter@api.example.org:8443/v1?api-key={SECRET}"
    folder = write(tmp_path / "out", LOAD.with_(extra={"user": SECRET}), [run], url=url)
    kept = result.publish(folder, title=f"with {SECRET}", command=["bench", "--key", SECRET])
    for file in kept.path.iterdir():
        text = file.read_text()
        assert not [word for word in (SECRET, "hunter2", "a-key-of-no") if word in text], file
    assert kept.target["url"] == "https://api.example.org:8443/v1"
    assert kept.failures[0].message == "Incorrect key [hidden] given"


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://me:pass@[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("https://token@host/v1?key=1#part", "https://host/v1"),
        ("http://[broken", ""),
        ("", ""),
    ],
)
def test_an_address_is_kept_without_what_may_be_secret(url: str, clean: str) -> None:
    assert stored.clean_url(url) == clean


def test_a_folder_of_several_is_a_sweep_in_the_order_measured(tmp_path: Path) -> None:
    for number, concurrency in ((1, 8), (2, 1), (3, 64)):
        write(tmp_path / f"load-{9 - number}", LOAD.with_(concurrency=concurrency), [steady(number)])
    found = result.load(tmp_path)
    assert isinstance(found, Sweep)
    assert [one.load.concurrency for one in found] == [8, 1, 64]
    assert found.at(64) is found[2] and len(found) == 3
    with pytest.raises(WorkshopError, match=r"Concurrency 2 was not measured\. There are: 8, 1, 64\."):
        found.at(2)
    assert isinstance(result.load(tmp_path / "load-8"), Result)
    assert Result.open(tmp_path / "load-8").load.concurrency == 8


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("measured.json", "{", "cannot be read"),
        ("measured.json", "[]", "no result of a benchmark"),
        ("measured.json", '{"format": 2}', "format 2"),
        ("measured.json", '{"format": 1, "load": {}}', "cannot be read"),
        ("requests.csv", "run,nonsense\n1,2\n", "cannot be read"),
        ("requests.csv", None, "cannot be read"),
        ("result.json", "{", "cannot be read"),
    ],
)
def test_a_damaged_result_is_refused_in_one_sentence(tmp_path: Path, file: str, text: str | None, said: str) -> None:
    folder = write(tmp_path / "out", LOAD, [steady(1)])
    (folder / file).unlink(missing_ok=True)
    if text is not None:
        (folder / file).write_text(text)
    for reading in (result.load, result.publish):
        with pytest.raises(WorkshopError, match=said):
            reading(folder)
    assert result.every() == [] and not list((workspace.home() / "benchmarks").glob("*"))


def test_a_folder_without_a_result_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(WorkshopError, match=r"holds no result of a benchmark: measured\.json is not in it"):
        result.load(tmp_path)
    assert result.every() == []


# --- Showing --------------------------------------------------------------------


def test_the_frame_has_a_row_a_request_with_what_follows_from_it(tmp_path: Path) -> None:
    late = whole(1, 0.5, intended=0.25)
    frame = made(tmp_path / "a", [Run(1, 1.7e9, [whole(0, 0.0), late, failed(2, None, "cut")])], Load(rate=2.0)).frame()
    assert list(frame["outcome"]) == ["ok", "ok", "cut"]
    assert list(frame["ttft_ms"])[:2] == pytest.approx([50, 300])
    assert list(frame["tpot_ms"])[:2] == pytest.approx([10, 10])
    assert list(frame["tokens_per_second"])[:2] == pytest.approx([100, 100])
    assert list(frame["late_ms"])[:2] == pytest.approx([0, 250])
    assert frame[["ttft_ms", "tpot_ms", "late_ms"]].iloc[2].isna().all()


def test_a_result_shows_figures_failures_client_and_definitions_on_both_faces(tmp_path: Path) -> None:
    run = steady(1, 40)
    mixed = replace(run, rows=[*run.rows, *[failed(i, 0.0, "busy", "429 from it") for i in (40, 41)]])
    shown = made(tmp_path / "a", [mixed], title="FP16")
    for face in (str(shown), shown._repr_html_()):
        for part in ("closed loop, concurrency 2", "n = 40", "2 × busy: 429 from it", "10% of a core", "TPOT"):
            assert part in face, part
    assert shown.definitions().entries["itl"].text[:40] in shown._repr_html_() and str(shown).endswith("definitions().")
    assert "<details>" in shown._repr_html_() and repr(shown) == str(shown)


def test_the_sentence_of_a_good_run_and_of_several(tmp_path: Path) -> None:
    one = made(tmp_path / "a", [steady(1, 200)]).sentence
    assert one.startswith("Closed loop, concurrency 2: 146.7 output tokens/s in all, 100.0 for the median user.")
    assert "The first token came after 50.0 ms (p50), and for 99 of 100 within 50.0 ms." in one
    assert "fail" not in one and "Medians" not in one and "stopped" not in one
    assert "(p50)." in made(tmp_path / "few", [steady(1, 8)]).sentence
    assert "Medians of 3 runs, which gave" in three(tmp_path / "b", 0.01).sentence


def test_a_run_in_which_everything_failed_says_so_first_with_the_most_frequent_reason(tmp_path: Path) -> None:
    rows = [failed(i, 0.0, *(("busy", "429 from it") if i % 3 else ("timeout", "gave up"))) for i in range(9)]
    shown = made(tmp_path / "a", [Run(1, 1.7e9, rows)])
    assert shown.sentence == ("No request was answered whole: 9 of 9 failed, 6 of them as busy: 429 from it.")
    assert "6 × busy: 429 from it; 3 × timeout: gave up" in str(shown.card())
    assert shown.value("ttft_p50") is None and "–" in str(shown.table())
    assert shown.frame()["outcome"].value_counts()["busy"] == 6
    assert "9" in str(Sweep([shown]).table())


def test_some_failures_are_counted_by_kind(tmp_path: Path) -> None:
    run = steady(1, 8)
    rows = [*run.rows, failed(8, 0.0, "cut"), failed(9, 0.0, "busy"), failed(10, 0.0, "busy")]
    assert made(tmp_path / "a", [replace(run, rows=rows)]).sentence.startswith(
        "3 of 11 requests failed (2 busy, 1 cut), and are in no figure. Closed loop"
    )


def test_an_interrupted_run_keeps_what_it_has_and_does_not_blame_the_server(tmp_path: Path) -> None:
    run = steady(1, 8)
    rows = [*run.rows, failed(8, 0.0, "interrupted")]
    said = made(tmp_path / "a", [replace(run, rows=rows, interrupted=True, ended="by a person")], interrupted=True)
    assert "failed" not in said.sentence
    assert said.sentence.endswith(
        "It was stopped before its end (by a person): this is what had come until then; 1 request under way then is in "
        "no figure."
    )
    nothing = made(tmp_path / "b", [Run(1, 1.7e9, rows[-1:], interrupted=True)], interrupted=True)
    assert nothing.sentence.startswith("No request was answered whole before it was stopped. It was stopped")


def test_an_interrupt_in_the_warm_up_leaves_nothing_measured(tmp_path: Path) -> None:
    shown = made(tmp_path / "a", [warm_up()], interrupted=True)
    assert shown.sentence == "Nothing was measured: it was interrupted in the warm-up."
    assert "Nothing was measured" in str(shown) and shown.frame().empty and shown.runs_frame().empty
    assert "concurrency" in str(Sweep([shown]).table())


def test_a_client_that_did_not_keep_up_is_named_in_place_of_latencies(tmp_path: Path) -> None:
    good = steady(1, 200)
    bound = made(tmp_path / "a", [replace(good, health=Health(seconds=10, cpu_seconds=9.9))])
    assert "client-bound, since its core was 99% busy" in bound.sentence
    assert "The first token came" not in bound.sentence
    assert "ITL               client-bound (n = 2,000)" in str(bound.card())
    assert "Closed loop, concurrency 2: at least 146.7 output tokens/s" in bound.sentence
    card = str(bound.card())
    assert "output            at least 146.7 tokens/s" in card and "p50 at most 10.0 ms" in card
    assert "at least" not in str(made(tmp_path / "c", [good]).card())
    assert "kept up" in str(made(tmp_path / "b", [good]).card())
    sweep = Sweep([bound])
    assert "without TTFT and ITL, and with rates that are lower bounds: closed loop, concurrency 2." in sweep.sentence
    assert "client-bound" in sweep.table().rows[0]


def test_what_keeps_figures_from_being_what_they_seem_is_said(tmp_path: Path) -> None:
    run = steady(1, 8)
    packed = replace(run, rows=[replace(row, events=3, reads=3) for row in run.rows])
    assert "packs 3.7 tokens into an event" in made(tmp_path / "a", [packed]).sentence
    fewer = made(tmp_path / "b", [run], LOAD.with_(concurrency=4))
    assert "At most 2 requests were ever in flight, not 4." in fewer.sentence
    silent = replace(run, rows=[replace(run.rows[0], tokens=None), *run.rows[1:]])
    assert "1 whole answer came without a count of tokens" in made(tmp_path / "c", [silent]).sentence
    mute = replace(run, rows=[replace(row, tokens=None) for row in run.rows])
    assert "nobody counted the tokens, so there is no rate" in made(tmp_path / "d", [mute]).sentence
    plain = made(tmp_path / "e", [run]).sentence
    assert not [word for word in ("packs", "At most", "without", "nobody") if word in plain]


def test_the_notes_of_the_load_generator_are_shown(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", LOAD, [steady(1)])
    file = folder / "measured.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "notes": ["Prompts were calibrated."]}))
    shown = result.read(folder)
    assert shown.notes == ["Prompts were calibrated."]
    assert all("Prompts were calibrated." in face for face in (shown.sentence, str(shown), shown._repr_html_()))


def test_a_slow_begin_and_end_are_told_where_they_cost_over_a_tenth(tmp_path: Path) -> None:
    run = steady(1, 40)  # 146.7 tokens/s over the whole run
    quick, alike = (
        made(tmp_path / f"{rate}", [replace(run, timeline=Timeline(tokens=[rate / 10] * 100))]) for rate in (200, 150)
    )
    assert "Output is over the whole run, with its slow begin and end: with all in flight it is 36% higher." in str(
        quick
    )
    assert "it is 36% higher at closed loop, concurrency 2." in Sweep([quick]).sentence
    assert "slow begin" not in str(alike) and "slow begin" not in Sweep([alike]).sentence


def test_the_card_shows_first_what_one_looks_for_and_leaves_out_what_cannot_be_told(tmp_path: Path) -> None:
    few = made(tmp_path / "a", [steady(1, 8)])
    page = few._repr_html_()
    first, fold = page.split("<summary>All figures</summary>")
    order = [first.index(f">{label}<") for label in ("TTFT", "per\u00a0user", "output", "whole\u00a0answer", "failed")]
    assert order == sorted(order) and ">TPOT<" in fold and ">TPOT<" not in first and "TPOT" in str(few)
    assert "p95" not in first and "slowest" not in str(few)
    assert "8 requests are too few for a 95th percentile (20 needed)" in first
    many = [steady(i, 100) for i in (1, 2, 3)]
    assert "too few" not in str(made(tmp_path / "b", many))
    assert "40 requests a run are too few for a 99th" in str(three(tmp_path / "c", 0.01))


def test_percentiles_say_of_how_many_values_they_are_in_each_run(tmp_path: Path) -> None:
    assert "(n = 40 a run, 3 runs)" in str(three(tmp_path / "a", 0.01))
    assert "(n = 8 to 10 a run, 2 runs)" in str(made(tmp_path / "b", [steady(1, 8), steady(2, 10)]))


def test_an_unknown_figure_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(WorkshopError, match=r"There is no figure 'ttft'\. There are: ttft_p50"):
        made(tmp_path / "a", [steady(1)]).value("ttft")


def test_a_sweep_is_one_row_a_load(tmp_path: Path) -> None:
    parts = [three(tmp_path / f"{c}", 0.01 * c, load=LOAD.with_(concurrency=c)) for c in (1, 2)]
    sweep = Sweep(parts, "FP16")
    table = sweep.table()
    assert table.columns[0] == "concurrency" and [row[0] for row in table.rows] == ["1", "2"]
    assert table.caption == "Measured: FP16, 20 tokens in, 11 out, medians of 3 runs"
    assert "output, all in flight, tokens/s" not in table.columns  # the runs have no timeline
    assert list(table.columns[1:]) == [
        "output, tokens/s",
        "per user p50, tokens/s",
        "per user, slowest 5 %, tokens/s",
        "TTFT p50, ms",
        "TTFT p95, ms",
    ]
    assert sweep.sentence == "" and table.note == "All figures of every load: frame()."
    frame = sweep.frame()
    assert list(frame["concurrency"]) == [1, 2]
    assert list(frame["tpot_p50"]) == pytest.approx([0.0102, 0.0202])
    assert frame["tpot_p50_low"][0] < frame["tpot_p50"][0] < frame["tpot_p50_high"][0]
    assert str(sweep).endswith("definitions().") and "<details>" in sweep._repr_html_()


def test_a_sweep_says_what_failed_and_where_one_run_does_not_tell(tmp_path: Path) -> None:
    run = steady(1, 8)
    good = made(tmp_path / "a", [run])
    bad = made(tmp_path / "b", [replace(run, rows=[*run.rows, failed(8, 0.0, "busy")])], Load(rate=4.0), "FP8")
    said = Sweep([good, bad]).sentence
    assert "Failed requests, which are in no figure: 1 at open loop, 4 requests/s, poisson arrivals." in said
    assert "One run each" in said
    assert [row[0] for row in Sweep([good, bad]).table().rows] == [good.name, bad.name]


# --- Comparing ------------------------------------------------------------------


def test_ranges_that_do_not_overlap_count_and_those_that_do_not_differ_do_not(tmp_path: Path) -> None:
    slow, fast = three(tmp_path / "a", 0.02, "FP16"), three(tmp_path / "b", 0.01, "FP8")
    near = three(tmp_path / "c", 0.0201, "INT8")
    apart, overlapping = compare(slow, fast), compare(slow, near)
    assert isinstance(apart, Comparison) and isinstance(overlapping, Comparison)
    found = apart.of("per_user_p50")
    assert found.verdict == LARGER and found.ratio == pytest.approx(0.0202 / 0.0102) and found.better
    assert apart.sentence == (
        "Against FP16, FP8 is better in output (65.8% higher: 144.7 against 87.3 tokens/s) and per user p50 (98.0% "
        "higher: 98.0 against 49.5 tokens/s), more than from run to run. Not told apart, since the runs overlap: TTFT "
        "p50 50.0 against 50.0 ms."
    )
    assert overlapping.of("tpot_p50").verdict == WITHIN
    assert overlapping.sentence.startswith("Not told apart, since the runs overlap: output ")
    back = compare(fast, slow)
    assert isinstance(back, Comparison) and back.of("per_user_p50").better is False
    assert "Against FP8, FP16 is worse in output" in back.sentence and "49.5% lower: 49.5 against" in back.sentence


def test_touching_ranges_overlap(tmp_path: Path) -> None:
    a, b = three(tmp_path / "a", 0.010, apart=0.001), three(tmp_path / "b", 0.012, apart=0.001)
    found = compare(a, b)
    assert isinstance(found, Comparison) and found.of("tpot_p50").verdict == WITHIN


def test_a_latency_is_better_when_it_is_lower(tmp_path: Path) -> None:
    found = compare(three(tmp_path / "a", 0.02), three(tmp_path / "b", 0.01))
    assert isinstance(found, Comparison)
    assert found.of("tpot_p50").change == "49.5% lower" and found.of("tpot_p50").better is True
    back = compare(three(tmp_path / "c", 0.01), three(tmp_path / "d", 0.03))
    assert isinstance(back, Comparison)
    assert back.of("tpot_p50").change == "2.96 times as high" and back.of("tpot_p50").better is False


def test_too_few_runs_cannot_tell_and_say_how_many_to_make(tmp_path: Path) -> None:
    a, b = three(tmp_path / "a", 0.02, "FP16"), three(tmp_path / "b", 0.01, "FP8", count=2)
    found = compare(a, b)
    assert isinstance(found, Comparison)
    assert {one.verdict for one in found.differences} == {UNKNOWN}
    assert "cannot be told from 3 and 2 runs: make 3 or more of each (runs=3)" in found.sentence
    assert ", more than from run to run" not in found.sentence and "by chance" not in found.rule
    assert found.sentence.startswith("Against FP16, FP8 is better in output (")
    assert "; the same in TTFT p50 (50.0 against 50.0 ms)." in found.sentence
    assert found.of("ttft_p50").better is None


def test_a_change_that_is_written_as_none_is_neither_better_nor_worse() -> None:
    a, b = Over(100.0, 99.99, 100.01, 3), Over(100.04, 100.03, 100.05, 3)
    found = Difference(METRICS["output_rate"], a, b)
    assert found.verdict == verdict(a, b) == LARGER and found.change == "the same" and found.better is None


def test_the_odds_of_the_rule_are_told(tmp_path: Path) -> None:
    few = compare(three(tmp_path / "a", 0.02), three(tmp_path / "b", 0.01))
    many = compare(three(tmp_path / "c", 0.02, count=5), three(tmp_path / "d", 0.01, count=5))
    assert isinstance(few, Comparison) and isinstance(many, Comparison)
    assert few.of("tpot_p50").chance == pytest.approx(0.1) and "10.0% of figures" in few.rule
    assert "make 5 runs" in few.rule
    assert many.of("tpot_p50").chance == pytest.approx(2 / 252) and "make 5" not in many.rule


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"concurrency": 4}, "concurrency 2 and 4"),
        ({"output_tokens": Lengths(10, 12)}, "output tokens 11 and 10 to 12"),
        ({"input_tokens": Lengths(21, 21)}, "input tokens 20 and 21"),
        ({"api": "chat"}, "API completions and chat"),
        ({"seed": 1}, "seed 0 and 1"),
        ({"concurrency": None, "rate": 2.0}, "rate none and 2.0"),
        ({"extra": {"temperature": 1}}, "extra fields"),
    ],
)
def test_unlike_loads_are_refused_with_what_differs_unless_allowed(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    a, b = three(tmp_path / "a", 0.02), three(tmp_path / "b", 0.01, load=LOAD.with_(**changes))
    with pytest.raises(WorkshopError, match=said):
        compare(a, b)
    allowed = compare(a, b, unlike=True)
    assert isinstance(allowed, Comparison)
    assert said in allowed.note and "The loads are not alike" in allowed.note


def test_other_differences_are_named(tmp_path: Path) -> None:
    a, b = three(tmp_path / "a", 0.02), three(tmp_path / "b", 0.01, load=LOAD.with_(requests=40))
    a = replace(a, machine={"cpu": "One", "cores": 2}, engine={"title": "FP16", "digest": "1"})
    b = replace(b, machine={"cpu": "One", "cores": 8}, engine={"title": "FP8", "digest": "2"})
    found = compare(a, b)
    assert isinstance(found, Comparison)
    assert "requests of a run 32 and 40" in found.note
    assert "engine FP16 and FP8" in found.note and "machine One, 2 cores and One, 8 cores" in found.note
    moved = compare(a, replace(a, target={**a.target, "url": "http://127.0.0.1:8001/v1"}))
    assert isinstance(moved, Comparison) and moved.others == []
    again = compare(a, replace(a, engine={"title": "FP16", "digest": "3"}))
    assert isinstance(again, Comparison) and "built anew" in again.note
    same = compare(a, a)
    assert isinstance(same, Comparison) and same.others == []


def test_a_client_bound_result_is_not_compared_in_its_latencies(tmp_path: Path) -> None:
    good = three(tmp_path / "a", 0.02)
    runs = [replace(run, health=Health(seconds=1, cpu_seconds=1)) for run in good.runs]
    found = compare(good, replace(good, runs=runs), names=("good", "bound"))
    assert isinstance(found, Comparison)
    assert found.of("ttft_p50").verdict == "client-bound" and found.of("ttft_p50").ratio is None
    assert found.sentence == "Not compared, since client-bound: output, per user p50, TTFT p50."
    for key in ("output_rate", "per_user_p50", "tpot_p50"):  # bounds, whose order tells nothing of the servers
        assert found.of(key).verdict == "client-bound" and found.of(key).better is None
    rows = {row[0]: row for row in found.table().rows}
    assert rows["TTFT p50, ms"][2] == "client-bound" and rows["output, tokens/s"][2].startswith("87.3 (")


def test_a_result_without_a_whole_answer_is_named(tmp_path: Path) -> None:
    none = made(tmp_path / "a", [Run(1, 1.7e9, [failed(0, 0.0, "cut")])], title="FP8")
    found = compare(three(tmp_path / "b", 0.01, "FP16"), none)
    assert isinstance(found, Comparison)
    assert found.sentence == "FP8 has no request that was answered whole, so there is nothing to compare."
    assert "in no figure: 0 and 1" in found.note and found.differences == []
    with pytest.raises(WorkshopError, match="not among the figures that both results have: none"):
        found.of("ttft_p50")


def test_sweeps_are_compared_load_by_load(tmp_path: Path) -> None:
    def sweep(name: str, gap: float, *counts: int) -> Sweep:
        return Sweep([three(tmp_path / f"{name}{c}", gap * c, name, LOAD.with_(concurrency=c)) for c in counts])

    found = compare(sweep("FP16", 0.02, 1, 2, 4), sweep("FP8", 0.01, 2, 4, 8))
    assert isinstance(found, Comparisons)
    assert [one.first.load.concurrency for one in found] == [2, 4] and len(found) == 2
    assert found[0].names == ("FP16", "FP8")
    frame = found.frame()
    assert set(frame["verdict"]) == {LARGER, WITHIN} and len(frame) == len(found[0].differences) * 2
    assert found[0].kind in found.sentence and str(found[1]) in str(found)
    with pytest.raises(WorkshopError, match="share no load"):
        compare(sweep("x", 0.02, 1), sweep("y", 0.01, 2))


def test_more_than_two_are_each_compared_with_the_first(tmp_path: Path) -> None:
    a, b, c = (three(tmp_path / name, gap, name) for name, gap in (("a", 0.01), ("b", 0.02), ("c", 0.03)))
    found = compare(a, b, c)
    assert isinstance(found, Comparisons) and [one.names for one in found] == [("a", "b"), ("a", "c")]


def test_names_tell_results_apart(tmp_path: Path) -> None:
    a, b = three(tmp_path / "a", 0.01), three(tmp_path / "b", 0.02)
    other = three(tmp_path / "c", 0.02, load=LOAD.with_(concurrency=4))

    def names(*given: Any, **more: Any) -> tuple[str, str]:
        found = compare(*given, **more)
        assert isinstance(found, Comparison)
        return found.names

    assert names(a, b) == ("result (1)", "result (2)")
    assert names(a, other, unlike=True) == ("closed loop, concurrency 2", "closed loop, concurrency 4")
    assert names(a, b, names=("x", "y")) == ("x", "y")
    assert names(replace(a, title="T"), replace(b, title="T")) == ("T (1)", "T (2)")
    with pytest.raises(WorkshopError, match="1 name for 2 results"):
        compare(a, b, names=("x",))


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    a = three(tmp_path / "a", 0.01)
    with pytest.raises(WorkshopError, match="A str is no result of a benchmark"):
        compare(a, "folder")  # type: ignore[arg-type]
    with pytest.raises(WorkshopError, match="a Result and a Sweep, which cannot be compared"):
        compare(a, Sweep([a]))


def test_a_comparison_shows_itself_on_both_faces(tmp_path: Path) -> None:
    found = compare(three(tmp_path / "a", 0.02, "FP16"), three(tmp_path / "b", 0.01, "FP8"))
    for face in (str(found), found._repr_html_()):
        for part in ("FP16", "FP8", "larger than the spread", "within the spread", "ranges of the runs do not overlap"):
            assert part in face


def test_the_package_offers_it_however_often_it_is_asked() -> None:
    for _ in range(2):
        assert bench.compare is compare and bench.Result is Result and bench.Sweep is Sweep
