"""Every figure of a benchmark from hand-made rows, against values worked out by hand."""

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from helpers.bench.generator import measuring
from helpers.bench.generator.target import Target
from helpers.bench.load import Lengths, Load
from helpers.bench.measured import USER, Gaps, Health, Run, Timeline
from helpers.bench.results import definitions
from helpers.bench.results.figures import Figures, Spread, fewest, full, full_span, in_flight, percentile, window
from helpers.bench.results.metrics import CLIENT_BOUND, METRICS, NONE, Summary, number
from tests.bench_folders import failed, steady, whole
from tests.streams import Stream, streaming

TWO = Load(concurrency=2)


def run_of(*rows: Any, **more: Any) -> Run:
    return Run(1, 0.0, rows, **more)


def test_percentiles_are_numpys() -> None:
    import numpy

    draw = random.Random(7)
    for count in (1, 2, 3, 10, 101):
        values = [draw.lognormvariate(0, 2) for _ in range(count)]
        for q in (0, 1, 5, 25, 50, 90, 95, 99, 99.9, 100):
            assert percentile(values, q) == pytest.approx(float(numpy.percentile(values, q)), rel=1e-12)


@pytest.mark.parametrize(("values", "q"), [([], 50), ([1.0], -1), ([1.0], 101)])
def test_a_percentile_of_nothing_or_beyond_all_is_refused(values: list[float], q: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, q)


def test_a_percentile_is_shown_once_a_value_lies_beyond_it() -> None:
    assert [fewest(q) for q in (5, 50, 90, 95, 99)] == [20, 1, 10, 20, 100]
    for count, shown in ((1, "50"), (9, "50"), (10, "50 90"), (19, "50 90"), (20, "5 50 90 95"), (99, "5 50 90 95")):
        spread = Spread.of(map(float, range(count)))
        there = [q for q in (5, 50, 90, 95, 99) if getattr(spread, f"p{q}") is not None]
        assert there == [int(q) for q in shown.split()]
    assert Spread.of(map(float, range(100))).p99 == pytest.approx(98.01)


def test_a_spread_leaves_out_what_is_not_there_and_counts_the_rest() -> None:
    spread = Spread.of([None, 3.0, 1.0, None, 2.0])
    assert (spread.n, spread.mean, spread.p50, spread.least, spread.most) == (3, 2.0, 2.0, 1.0, 3.0)
    assert Spread.of([None]) == Spread()


def test_latencies_are_those_of_the_rows() -> None:
    first = whole(0, 0.0, ttft=0.1, gap=0.02, tokens=6, slot=0, first_wave=True)
    later = whole(1, 0.2, ttft=0.05, gap=0.01, tokens=11, slot=0)
    told = Figures.of(run_of(first, later), Load(concurrency=1))
    assert told.ttft.p50 == pytest.approx(0.075)
    assert (told.ttft_first_wave.p50, told.ttft_first_wave.n) == (pytest.approx(0.1), 1)
    assert (told.ttft_steady.p50, told.ttft_steady.n) == (pytest.approx(0.05), 1)
    assert told.tpot.mean == pytest.approx((0.02 + 0.01) / 2)
    assert told.per_user.mean == pytest.approx((50 + 100) / 2)
    assert told.e2e.mean == pytest.approx((0.2 + 0.15) / 2)


def test_rates_are_over_the_first_send_to_the_last_token() -> None:
    rows = [whole(0, 1.0, ttft=0.1, gap=0.09, tokens=11), whole(1, 1.5, ttft=0.5, gap=0.1, tokens=11)]
    rows[1].ended = 9.0  # a connection that is closed late does not stretch the window
    told = Figures.of(run_of(*rows), TWO)
    assert told.window == pytest.approx(2.0)  # from 1.0 to 1.5 + 0.5 + 10 * 0.1
    assert told.output_rate == pytest.approx(22 / 2.0)
    assert told.total_rate == pytest.approx((22 + 40) / 2.0)
    assert told.request_rate == pytest.approx(2 / 2.0)


def test_failed_requests_are_counted_and_never_averaged() -> None:
    good = [whole(i, 0.0) for i in range(4)]
    bad = [
        failed(4, 0.0, "timeout", "nothing for 600 s", ended=600.0, first_token=5.0, last_token=599.0, tokens=9_000),
        failed(5, 0.0, "busy", "429", status=429),
        failed(6, 0.0, "busy", "429", status=429),
        failed(7, 0.0, "interrupted"),
    ]
    alone, mixed = (Figures.of(run_of(*rows), TWO) for rows in (good, good + bad))
    for name in ("ttft", "tpot", "e2e", "per_user", "window", "tokens", "output_rate", "total_rate", "request_rate"):
        assert getattr(alone, name) == getattr(mixed, name), name
    assert (mixed.sent, mixed.whole, mixed.failed_count) == (8, 4, 4)
    assert next(iter(mixed.failed.items())) == ("busy", 2)
    assert str(mixed.failures[0]) == "2 × busy: 429"
    assert "stopped meanwhile" in str(mixed.failures[-1])


def test_a_run_in_which_all_failed_has_counts_and_no_figure() -> None:
    told = Figures.of(run_of(failed(0, 0.0, "cut"), failed(1, None, "no connection")), TWO)
    assert (told.sent, told.whole, told.failed_count) == (1, 0, 2)
    assert told.window is None and told.output_rate is None and told.ttft == Spread() and told.request_rate is None
    assert all(Summary([told]).number(key) == NONE for key in ("ttft_p50", "output_rate", "per_user_p50"))


def test_tokens_that_nobody_counted_are_in_no_rate_and_chunks_do_not_stand_for_them() -> None:
    silent = whole(1, 0.0, tokens=11)
    silent.tokens = silent.prompt_tokens = None
    told = Figures.of(run_of(whole(0, 0.0), silent), TWO)
    assert (told.tokens, told.uncounted, told.tpot.n, told.ttft.n) == (11, 1, 1, 2)
    nothing = Figures.of(run_of(silent), TWO)
    assert (nothing.tokens, nothing.output_rate, nothing.total_rate) == (None, None, None)
    assert nothing.request_rate is not None and nothing.tokens_per_event is None


def test_packing_is_told_apart_by_event_and_read() -> None:
    told = Figures.of(
        run_of(whole(0, 0.0, tokens=12, events=4, reads=2), whole(1, 0.0, tokens=8, events=4, reads=2)), TWO
    )
    assert told.tokens_per_event == pytest.approx(20 / 8)
    assert told.events_per_read == pytest.approx(8 / 4)


def test_inter_token_latency_comes_from_the_gaps_and_obeys_the_same_limits() -> None:
    quantiles = [0.001 * q for q in range(101)]
    few, many = (Spread.of_gaps(Gaps(n, 0.05, quantiles)) for n in (99, 100))
    assert (few.p50, few.p95, few.p99) == (pytest.approx(0.05), pytest.approx(0.095), None)
    assert many.p99 == pytest.approx(0.099)
    assert Spread.of_gaps(Gaps()) == Spread()


def test_requests_in_flight_are_the_time_that_all_took_over_the_time_that_passed() -> None:
    rows = [whole(0, 0.0), whole(1, 1.0), failed(2, 2.0, "cut", ended=4.0)]
    rows[0].ended, rows[1].ended = 2.0, 2.0
    mean, most = in_flight(rows)
    assert mean == pytest.approx((2 + 1 + 2) / 4)
    assert most == 2  # the third begins when the others end


def test_a_client_that_never_has_more_than_a_hundred_in_flight_is_found_out() -> None:
    slots: list[Any] = []
    for i in range(256):
        begin = 1.0 * (i // 100)
        slots.append(whole(i, begin, ended=begin + 1.0, slot=i))
    assert in_flight(slots)[1] == 100


def test_in_flight_of_no_request_is_not_told() -> None:
    assert in_flight([failed(0, None, "no connection")]) == (None, 0)
    assert window([]) is None


def test_the_rate_with_all_in_flight_leaves_out_ramp_and_drain() -> None:
    rows = [whole(0, 0.0, slot=0), whole(1, 0.5, slot=1), whole(2, 1.0, slot=0)]
    for row, end in zip(rows, (1.0, 3.0, 1.75), strict=True):
        row.ended = end
    assert full_span(rows, 2) == (0.5, 1.75)
    tokens = [1.0] * 5 + [10.0] * 12 + [1.0] * 13
    seconds, rate = full(rows, Timeline(tokens=tokens), 2)
    assert seconds == pytest.approx(1.2)  # whole steps from 0.5 to 1.7
    assert rate == pytest.approx(100.0)


def test_the_rate_with_all_in_flight_needs_a_closed_loop_all_of_its_slots_and_half_a_second() -> None:
    rows = [whole(0, 0.0, slot=0), whole(1, 0.0, slot=1)]
    timeline = Timeline(tokens=[10.0] * 100)
    for row in rows:
        row.ended = 0.5
    assert full(rows, timeline, 2) == (pytest.approx(0.5), pytest.approx(100.0))
    assert full(rows, timeline, None) == (0.0, None)
    assert full(rows, timeline, 3) == (0.0, None)
    rows[0].ended = 0.4
    assert full(rows, timeline, 2) == (pytest.approx(0.4), None)
    rows[0].ended, rows[1].sent = 0.4, 0.45  # the one slot has finished before the other began
    assert full(rows, timeline, 2) == (0.0, None)


def test_no_rate_with_all_in_flight_where_an_answer_of_that_time_was_not_counted() -> None:
    rows = [whole(0, 0.0, slot=0, ended=2.0), whole(1, 0.0, slot=1, ended=1.0), whole(2, 3.0, slot=1, tokens=11)]
    timeline = Timeline(tokens=[10.0] * 100)
    for row in rows[:2]:
        row.ended = 2.0
    assert full(rows, timeline, 2)[1] == pytest.approx(100.0)
    rows[2].tokens = None  # after that time
    assert full(rows, timeline, 2)[1] == pytest.approx(100.0)
    rows[1].tokens = None
    assert full(rows, timeline, 2) == (pytest.approx(2.0), None)


def test_a_timeline_has_the_tokens_of_whole_and_counted_answers_only(tmp_path: Path) -> None:
    """The second of three answers ends early, and the third has no count: their events are no tokens."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Once"}\n')
    heard: list[int] = []

    def script(stream: Stream, _: dict[str, Any]) -> None:
        heard.append(1)
        stream.open()
        for i in range(4):
            stream.piece("word ", finish="length" if i == 3 else None)
            if len(heard) == 2 and i == 1:
                stream.cut()
                return
        stream.end(None if len(heard) == 3 else 4)

    with streaming(script) as server:
        load = Load(requests=3, warmup=0, ramp=0, output_tokens=Lengths.of(4), prompts=str(prompts), timeout=5)
        (run,) = measuring.measure(Target.of(server.url, "m"), load).runs
    assert [row.outcome for row in run.rows] == ["ok", "cut", "ok"]
    assert [row.tokens for row in run.rows][::2] == [4, None]
    assert sum(run.timeline.tokens) == pytest.approx(4.0)


def test_an_open_loop_counts_from_the_intended_time_and_tells_how_late_it_was() -> None:
    rows = [whole(i, 1.0 * i + 0.2, ttft=0.1, intended=1.0 * i) for i in range(4)]
    told = Figures.of(run_of(*rows), Load(rate=1.0))
    assert told.ttft.p50 == pytest.approx(0.3)
    assert told.late.p50 == pytest.approx(0.2)
    assert told.full_rate is None and told.kind == "open loop, 1 requests/s, poisson arrivals"
    assert Figures.of(steady(), TWO).late == Spread()


def test_a_client_that_did_not_keep_up_gives_its_name_in_place_of_latencies() -> None:
    good = steady()
    bound = replace(good, health=Health(seconds=1.0, cpu_seconds=0.99))
    kept, lost = (Summary([Figures.of(run, TWO)]) for run in (good, bound))
    for key in ("ttft_p50", "ttft_steady_p50", "itl_p50", "e2e_p50"):
        assert lost.number(key) == lost.text(key) == CLIENT_BOUND and lost.value(key) is None
        assert kept.value(key) is not None and CLIENT_BOUND not in kept.text(key)
    for key, word in (("output_rate", "at least "), ("per_user_p50", "at least "), ("tpot_p50", "at most ")):
        assert lost.value(key) == kept.value(key) and lost.text(key) == word + kept.text(key)
    assert "99% busy" in lost.client_bound and not kept.client_bound


@pytest.mark.parametrize(
    "health",
    [
        Health(seconds=1, answers=100, first_merged=3),
        Health(seconds=1, cpu_seconds=0.96),
        Health(seconds=1, stamps=USER, lag_p99=0.006),
        Health(seconds=1, late_p99=0.006),
    ],
)
def test_every_way_of_not_keeping_up_is_in_the_definition(health: Health) -> None:
    assert Figures.of(replace(steady(), health=health), TWO).client_bound
    text = definitions.current().entries["client_bound"].text
    assert all(part in text for part in ("95 %", "1 %", "5 ms"))


def test_reads_that_joined_tokens_spoil_the_gaps_and_nothing_else() -> None:
    told = Summary([Figures.of(replace(steady(), health=Health(seconds=1, reads=100, merged=2)), TWO)])
    assert told.number("itl_p50") == CLIENT_BOUND and told.value("ttft_p50") is not None
    assert "2% of its reads" in told.gaps_bound and not told.client_bound


def test_two_late_first_tokens_are_no_pattern() -> None:
    assert not Health(seconds=1, answers=8, first_merged=2).client_bound
    assert "38% of first tokens" in Health(seconds=1, answers=8, first_merged=3).client_bound


def test_several_runs_give_the_median_and_the_range() -> None:
    told = Summary([Figures.of(steady(i, gap=gap), TWO) for i, gap in enumerate((0.01, 0.03, 0.02), 1)])
    found = told.get("tpot_p50")
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.02, 0.01, 0.03))
    assert told.text("tpot_p50") == "20.0 ms (10.0 to 30.0)"
    assert told.whole == 24 and told.runs == 3


def test_one_run_has_no_range() -> None:
    assert Summary([Figures.of(steady(), TWO)]).text("tpot_p50") == "10.0 ms"


def test_numbers_have_as_many_places_as_say_something() -> None:
    shown = [number(value) for value in (0.0, 9.7341, 9.996, 50.12, 999.94, 999.96, 1234.5)]
    assert shown == ["0.00", "9.73", "10.0", "50.1", "999.9", "1,000", "1,234"]


def test_every_metric_is_defined_and_every_definition_has_words() -> None:
    entries = definitions.current().entries
    assert {metric.definition for metric in METRICS.values()} <= set(entries)
    assert all(one.title and one.text.endswith(".") for one in entries.values())
    assert [metric.key for metric in METRICS.values()] == list(METRICS)


def test_every_metric_reads_something_of_a_full_run() -> None:
    run = steady(count=400)
    run = replace(run, timeline=Timeline(tokens=[20.0] * 10_000))
    told = Figures.of(run, TWO)
    missing = [key for key, metric in METRICS.items() if metric.read(told) is None]
    assert missing == ["late_p99"]  # an open loop's
    ordered = [METRICS[f"ttft_{q}"].read(told) or 0 for q in ("p50", "p90", "p95", "p99")]
    assert all(a <= b + 1e-12 for a, b in pairwise(ordered))


def test_definitions_come_back_from_json_and_show_themselves_alike() -> None:
    now = definitions.current()
    again = definitions.Definitions.from_told(now.told())
    assert again == now and not now.changed(again)
    text, page = str(now), now._repr_html_()
    assert all(one.title in text and one.title in page for one in now.entries.values())
    assert "<details>" in page
    only = now.only(["ttft", "nothing"])
    assert list(only.entries) == ["ttft"]
    told = only.told()
    told["ttft"]["text"] = "Something else."
    assert now.changed(definitions.Definitions.from_told(told)) == [now.entries["ttft"].title]
