import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import hardware
from helpers.bench import analysis
from helpers.bench.analysis import Point, points
from helpers.bench.analysis.curve import distances, find_knee
from helpers.bench.analysis.here import last_level_cache
from helpers.bench.analysis.kv_blocks import use
from helpers.bench.analysis.precision import SAME, SLOWER
from helpers.bench.analysis.sweet_spot import BROKEN, MET, UNTOLD
from helpers.bench.load import Load
from helpers.bench.measured import Gaps, Health, Run, Timeline
from helpers.bench.results import comparison
from helpers.bench.results.metrics import CLIENT_BOUND
from helpers.bench.results.result import Result, Sweep
from helpers.bench.rows import Row
from helpers.errors import WorkshopError
from helpers.hardware.gpus import multiplies
from helpers.hardware.limits import ReadSpeed, read_speed
from helpers.hardware.machine import Cpu, Gpu
from helpers.memory import Shape, weight_bytes
from helpers.plots import bench as plots
from helpers.serving.poller import Record
from helpers.serving.status import Activity

SHAPE = Shape(
    layers=6, hidden=256, heads=8, kv_heads=4, head_size=32, intermediate=768, vocabulary=2048, positions=2048
)
TALK = {"kv_used": 832, "kv_free": 4500, "kv_blocks": 5332, "tokens_per_block": 64}
LOOKED = hardware.look()
TWO_PROMPTS = {"latency": 0.5, "prompts": 2, "prompt_tokens": 2000}


def point(concurrency: int = 1, rate: float = 100.0, ttft: float = 0.05, user: float = 50.0, **more) -> Point:
    """A measured point; its 95 % are half as good as its median."""
    made = Point(
        concurrency=concurrency,
        tokens_per_second=rate,
        total_tokens_per_second=2 * rate,
        per_user={50: user, 95: user / 2},
        ttft={50: ttft, 95: 2 * ttft, 99: None},
        ttft_mean=ttft,
        tpot=1 / user,
        itl=1 / user,
        whole=100,
        prompt_tokens=128.0,
        output_tokens=128.0,
    )
    return replace(made, **more)


SWEEP = [
    point(1, 100, 0.020, 100),
    point(8, 700, 0.022, 90),
    point(32, 2000, 0.030, 65),
    point(64, 2600, 0.050, 42),
    point(96, 2650, 0.600, 41),
]


def result(concurrency: int = 2, runs: int = 1, whole: int = 4, ttft: float = 0.05, **more) -> Result:
    """A load whose requests take their first token at ``ttft`` and ten more at 100 a second."""
    made = []
    for number in range(1, runs + 1):
        wait = ttft * number
        rows = [
            Row(
                *(number, k, "measured", k % concurrency, k < concurrency, k * 0.2, k * 0.2, k * 0.2 + wait),
                *(k * 0.2 + wait + 0.1, k * 0.2 + wait + 0.101, "ok", "", 200, 16, 11, 11, "usage", 11, 11),
            )
            for k in range(whole)
        ]
        rows.append(Row(number, whole, "measured", 0, False, 0.1, 0.1, ended=0.15, outcome="cut", message="it ended"))
        gaps = Gaps(10 * whole, 0.01, [0.009 + 0.00002 * q for q in range(101)])
        timeline = Timeline([20.0, 80.0, 60.0], [1, 2, 0], [1, 1, 0])
        made.append(Run(number, 1000.0 * number, rows, gaps, timeline, Health(seconds=2.0)))
    load = Load(concurrency=concurrency, runs=runs)
    return Result(Path("nowhere"), load, {"url": "http://localhost"}, made, title="FP16 engine", **more)


def record(time: float, active: int = 64, queued: int = 0, **more) -> Record:
    return Record(time, active, queued, **{"paused": 0, **TALK, **more})


# --- Points -------------------------------------------------------------------


def test_a_result_becomes_a_point_with_the_medians_and_ranges_of_its_runs():
    made = Point.of(result(runs=3, whole=20))
    assert made.concurrency == 2
    assert made.ttft[50] == pytest.approx(0.10)
    assert made.within("ttft", 0.10) == pytest.approx((0.05, 0.15))
    assert made.ttft[99] is None  # 20 answers are too few
    assert made.per_user[50] == pytest.approx(100)
    assert made.per_user[95] == pytest.approx(100)
    assert made.tpot == pytest.approx(0.01)
    assert (made.whole, made.failed, made.runs) == (60, 3, 3)
    assert made.tokens_per_second == pytest.approx(20 * 11 / (19 * 0.2 + 0.1 + 0.1))
    assert made.context == 16 + 11 / 2


def test_a_single_run_has_no_spread():
    made = Point.of(result())
    assert made.spread == {}
    assert made.within("ttft", 0.05) == (0.05, 0.05)


def test_a_client_that_did_not_keep_up_gives_no_latency_and_is_left_out():
    whole = result()
    bound = [replace(run, health=Health(seconds=2.0, cpu_seconds=2.0)) for run in whole.runs]
    made = Point.of(replace(whole, runs=bound))
    assert "core was 100% busy" in made.client_bound
    assert made.ttft[50] is None
    shown = analysis.curve([*SWEEP, replace(made, concurrency=128)])
    assert "Concurrency 128 is left out: the client could not keep up" in str(shown)
    assert len(shown.points) == 5


def test_rates_are_still_looked_at_where_no_latency_is_the_servers():
    late = [replace(one, ttft={}, itl=None, client_bound="it was late") for one in SWEEP]
    shown = analysis.sweet_spot(late, tokens_per_second_per_user=50)
    assert shown.best is late[2]
    assert "all users together get at least 2,000 output tokens/s" in shown.sentence
    assert "The client could not keep up at concurrency 1, 8, 32, 64 and 96: rates there are lower bounds." in str(
        shown
    )
    # 42 tokens/s or more: 50 are not known to be missed.
    assert "Of concurrency 64 it cannot be told: the client could not keep up (it was late)" in shown.sentence
    assert [shown.need.verdict(one) for one in late] == [MET, MET, MET, UNTOLD, UNTOLD]
    waits = analysis.sweet_spot(late, ttft=0.2)
    assert waits.sentence.startswith("Whether a measured load gives a first token within 200 ms for half of the")
    assert "prices upper ones" in str(analysis.cost(late, 1.0))
    assert (
        "at least" in plots.sweep_picture(late).svg or "rates there are lower bounds" in plots.sweep_picture(late).text
    )
    with_late = analysis.precisions(FP16, [replace(one, client_bound="it was late") for one in FP16])
    assert [pair.verdict for pair in with_late.pairs] == [CLIENT_BOUND] * 3
    assert "could not keep up at concurrency 1 (1.00 times), 8" in with_late.sentence
    assert "Concurrency 96 is left out: the client could not keep up (it was late)." in str(analysis.curve(late))
    told = [record(10 + 0.5 * k, 64, 32, latency=0.5) for k in range(20)]
    assert "and of up to 32 that waited." in analysis.ceiling(late, 64, {96: told}).sentence
    picture = plots.sweep_picture(late)
    assert "concurrency 96: 2,650 tokens/s, 41 per user" in picture.alt
    assert "without latencies" in picture.alt


def test_points_come_in_the_order_of_their_load():
    assert [one.concurrency for one in points.points(SWEEP[::-1])] == [1, 8, 32, 64, 96]
    assert points.points(SWEEP[0]) == [SWEEP[0]]
    assert points.points(Sweep([result(4), result(2)]))[0].concurrency == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "Nothing was measured"),
        ([point(1), Point(rate=2.0)], "mix closed loops"),
        ([point(8, title="FP16"), point(8, title="FP8")], "concurrency 8 more than once"),
    ],
)
def test_points_that_make_no_sweep_are_refused(given, said):
    with pytest.raises(WorkshopError, match=said):
        analysis.curve(given)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12.3 ms"), (0.18, "180 ms"), (1.5, "1.50 s"), (150.2, "150 s"), (None, "–")]
)
def test_times_are_written_as_people_say_them(seconds, text):
    assert points.time_text(seconds) == text


# --- Curve --------------------------------------------------------------------


def test_the_knee_of_a_hockey_stick_is_its_corner():
    places = [(0.0, 1.0), (50.0, 1.0), (100.0, 1.0), (100.0, 2.0), (100.0, 3.0)]
    away = distances(places)
    assert away[2] == max(away) == pytest.approx(0.5**0.5)
    assert away[0] == away[-1] == 0


def test_the_knee_of_a_queue_is_where_the_formula_has_it():
    # 1 / (1 - x) from 0 to 0.9 is farthest from its chord where its slope is the chord's, at 1 - 0.1 ** 0.5.
    loads = [k / 100 for k in range(91)]
    away = distances([(load, 1 / (1 - load)) for load in loads])
    assert loads[away.index(max(away))] == pytest.approx(1 - 0.1**0.5, abs=0.006)


def test_the_knee_is_named_with_what_lies_on_either_side():
    shown = analysis.curve(SWEEP)
    assert shown.knee is SWEEP[3]
    assert shown.sentence.startswith(
        "Of the measured loads, concurrency 64 is the knee: 2,600 output tokens/s at a median TTFT of 50 ms. The bend "
        "may lie anywhere between concurrency 32 and concurrency 96, where no other load was measured. From "
    )
    assert "output tokens/s are 26.0 times as much and TTFT 2.5 times as much" in shown.sentence
    assert "2% more" not in shown.sentence  # 2,650 of 2,600 is about the same
    assert "output tokens/s are no more and TTFT 12.0 times as much" in shown.sentence
    assert "knee" in str(shown.table())
    assert shown.sentence in str(shown)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (SWEEP[:3], "at least 4 loads, and 3 were given"),
        (SWEEP[:1], "at least 4 loads, and 1 was given"),
        ([point(c, 100 * c, 0.01 * c) for c in (1, 2, 4, 8)], "near a straight line"),
        ([point(c, 100 * c, 0.05 + 0.0001 * c) for c in (1, 8, 32, 64)], "rises by no more than 13%"),
        ([point(c, 100, 0.01 * c) for c in (1, 2, 4, 8)], "the same throughput"),
        (
            [
                point(c, rate, wait)
                for c, rate, wait in ((1, 100, 0.01), (2, 110, 0.09), (4, 500, 0.095), (8, 1000, 0.1))
            ],
            "bends the other way, at concurrency 2 TTFT is high",
        ),
        (
            [
                point(c, rate, wait)
                for c, rate, wait in ((1, 100, 0.01), (2, 300, 0.03), (4, 300, 0.02), (8, 100, 0.01))
            ],
            "ends where it began",
        ),
    ],
)
def test_no_knee_is_named_where_there_is_none(given, why):
    knee, found = find_knee(given)
    assert knee is None
    assert why in found
    assert analysis.curve(given).sentence.startswith("No knee is named: ")


def test_noise_in_a_flat_latency_is_no_knee():
    noisy = [point(c, 100 * c, wait) for c, wait in ((1, 0.050), (8, 0.051), (32, 0.050), (64, 0.053))]
    assert analysis.curve(noisy).knee is None


def test_the_knee_can_be_asked_of_the_time_per_token():
    assert analysis.curve(SWEEP, "tpot").sentence != analysis.curve(SWEEP).sentence
    with pytest.raises(WorkshopError, match="no latency of this curve"):
        analysis.curve(SWEEP, "e2e")


# --- Sweet spot ---------------------------------------------------------------


def test_the_sweet_spot_is_the_largest_measured_load_that_meets_the_need():
    shown = analysis.sweet_spot(SWEEP, tokens_per_second_per_user=50, ttft=0.2)
    assert shown.best is SWEEP[2]
    assert shown.sentence == (
        "Concurrency 32 is the largest measured load that gives at least 50 tokens/s per user and a first token within "
        "200 ms for half of the requests; all users together get 2,000 output tokens/s. At concurrency 64, the next "
        "one, half of its requests get less than 42 tokens/s, and 50 are needed. Between the two nothing was measured."
    )
    assert shown.sentence in str(shown)
    assert shown.sentence in shown._repr_html_()


def test_another_need_is_broken_by_another_figure():
    shown = analysis.sweet_spot(SWEEP, tokens_per_second_per_user=30, ttft=0.2)
    assert shown.best is SWEEP[3]
    assert "half of its requests wait longer than 600 ms for the first token, and 200 ms is allowed" in shown.sentence


def test_a_stricter_percentile_moves_the_sweet_spot():
    shown = analysis.sweet_spot(SWEEP, tokens_per_second_per_user=30, percentile=95)
    assert shown.best is SWEEP[2]  # 95 % get half of the median in these points
    assert "5% of its requests get less than 21 tokens/s" in shown.sentence


def test_a_need_that_all_meet_says_that_the_limit_lies_higher():
    shown = analysis.sweet_spot(SWEEP, ttft=2)
    assert shown.best is SWEEP[-1]
    assert "measure above concurrency 96" in shown.sentence


def test_a_need_that_none_meets_says_so():
    shown = analysis.sweet_spot(SWEEP, tokens_per_second_per_user=500)
    assert shown.best is None
    assert shown.sentence.startswith("No measured load gives at least 500 tokens/s per user")
    assert "already at concurrency 1" in shown.sentence


def test_a_smaller_load_that_fails_is_told():
    odd = [point(1, ttft=0.3), point(8, ttft=0.1), point(16, ttft=0.4)]
    shown = analysis.sweet_spot(odd, ttft=0.2)
    assert shown.best is odd[1]
    assert "Concurrency 1, though smaller, does not" in shown.sentence


def test_a_need_within_the_spread_of_the_runs_is_told():
    unsure = point(8, ttft=0.19, runs=3, spread={"ttft": (0.17, 0.23)})
    sure = point(8, ttft=0.19, runs=3, spread={"ttft": (0.17, 0.195)})
    assert "within the spread of the runs at concurrency 8" in analysis.sweet_spot(unsure, ttft=0.2).sentence
    assert "within the spread" not in analysis.sweet_spot(sure, ttft=0.2).sentence


@pytest.mark.parametrize("whole", [8, 16])
def test_too_few_requests_for_a_percentile_neither_meet_nor_break_a_need(whole):
    few = replace(Point.of(result(whole=whole, runs=2)), failed=0)
    shown = analysis.sweet_spot(few, 50, percentile=95)
    assert shown.best is None and shown.need.verdict(shown.points[0]) == UNTOLD
    assert shown.sentence.startswith(
        "Whether a measured load gives at least 50 tokens/s per user for 95% of the requests"
    )
    assert f"{whole} answers a run are too few to tell what 95% of the requests get (it takes 20)" in shown.sentence
    assert analysis.sweet_spot(few, 50).best is not None  # a median needs no more


def test_a_load_that_is_not_told_stands_beside_those_that_are():
    shown = analysis.sweet_spot(
        [SWEEP[0], point(8, whole=8, per_user={50: 90.0, 95: None}), SWEEP[3]], 30, percentile=95
    )
    assert [shown.need.verdict(one) for one in shown.points] == [MET, UNTOLD, BROKEN]
    assert shown.sentence.startswith("Concurrency 1 is the largest measured load that is known to give at least 30")
    assert "Of concurrency 8 it cannot be told: 8 answers a run are too few" in shown.sentence
    assert "not told" in str(shown)


def test_requests_that_failed_did_not_get_the_need():
    lossy = replace(SWEEP[3], whole=90, failed=10)
    shown = analysis.sweet_spot([SWEEP[0], lossy], 20, percentile=95)
    assert shown.best is SWEEP[0]
    assert "At concurrency 64, the next one, 10 of 100 requests failed." in shown.sentence
    assert analysis.sweet_spot([SWEEP[0], lossy], 20).best is lossy  # half of them did get it
    assert analysis.sweet_spot([SWEEP[0], replace(lossy, whole=95, failed=5)], 20, percentile=95).best.at == 64


def test_a_load_of_which_all_failed_was_measured():
    dead = Point(concurrency=128, failed=7)
    assert (
        "At concurrency 128, the next one, 7 of 7 requests failed."
        in analysis.sweet_spot([SWEEP[0], dead], 50).sentence
    )
    past = analysis.ceiling([*SWEEP[:4], dead], 64)
    assert past.sentence == (
        "What was measured past max_batch_size 64 gave no latencies of the server's. Concurrency 128 is left out: it "
        "gave no latency (0 answered whole, 7 failed)."
    )
    assert "Concurrency 128 is left out" in str(analysis.ceiling([*SWEEP, dead], 64))
    below = analysis.ceiling([replace(SWEEP[3], client_bound="it was late"), SWEEP[4]], 64)
    assert below.sentence.startswith("What was measured up to max_batch_size 64 gave no latencies of the server's.")


@pytest.mark.parametrize(
    ("asked", "said"),
    [({}, "No need was given"), ({"ttft": 0}, "ttft is 0"), ({"ttft": 1, "percentile": 99}, "Give 50 or 95")],
)
def test_a_need_that_is_none_is_refused(asked, said):
    with pytest.raises(WorkshopError, match=said):
        analysis.sweet_spot(SWEEP, **asked)


# --- Ceiling ------------------------------------------------------------------


def test_past_the_batch_limit_only_the_wait_grows():
    shown = analysis.ceiling(SWEEP, 64)
    assert shown.shown
    assert "past max_batch_size 64, the median TTFT went from 50 ms to 600 ms" in shown.sentence
    assert "each running user got 2% less, 41 tokens/s (42 before)" in shown.sentence
    assert "all together kept 2,650 tokens/s (2,600 before): more users mostly wait longer" in shown.sentence
    steady = [SWEEP[3], replace(SWEEP[4], per_user={50: 42.0}, ttft_first_wave=0.3, ttft_later=1.4)]
    assert "kept 42 tokens/s (42 before)" in analysis.ceiling(steady, 64).sentence
    assert "more users only wait longer" in analysis.ceiling(steady, 64).sentence
    # 32 requests too many; 2,650 tokens/s are 20.7 answers of 128 tokens a second.
    assert shown.predicted_wait(SWEEP[-1]) == pytest.approx(32 / (2650 / 128))
    assert "predicted: 1.55 s for a place, by Little's law (a queue's length is" in shown.sentence
    assert (
        "Requests sent while all were in flight waited 1.40 s (measured, median), those at the run's begin 300 ms."
        in analysis.ceiling(steady, 64).sentence
    )
    assert Point.of(result(whole=20)).ttft_later == pytest.approx(0.05)


def test_no_queue_past_the_limit_is_told():
    shown = analysis.ceiling([SWEEP[3], point(96, 2650, 0.055, 41)], 64)
    assert shown.shown is False
    assert "no queue shows in TTFT" in shown.sentence


def test_more_than_a_queue_past_the_limit_is_told():
    shown = analysis.ceiling([SWEEP[3], point(96, 1300, 0.6, 20)], 64)
    assert shown.shown is False
    assert "more than the queue changed: output tokens/s went from 2,600 to 1,300" in shown.sentence


def test_a_queue_that_only_some_requests_meet_shows_in_the_95th_percentile():
    shown = analysis.ceiling([SWEEP[3], replace(point(72, 2600, 0.052, 42), ttft={50: 0.052, 95: 0.9})], 64)
    assert shown.shown
    assert "p95 from 100 ms to 900 ms" in shown.sentence


def test_one_side_of_the_limit_compares_with_nothing():
    assert "Measure a concurrency of 96" in analysis.ceiling(SWEEP[:4], 64).sentence
    assert "Measure a concurrency of 64 to compare" in analysis.ceiling(SWEEP[4:], 64).sentence
    assert analysis.ceiling(SWEEP[:4], 64).shown is None


def test_what_the_engine_told_of_its_queue_stands_beside_it():
    # 20 steps of half a second with 32 waiting: 320 request-seconds over 100 requests.
    told = [record(10 + 0.5 * k, 64, 32, latency=0.5) for k in range(20)]
    shown = analysis.ceiling(SWEEP, 64, {96: told})
    assert (
        "at most 64 requests at once at concurrency 96, and of up to 32 that waited, 3.20 s a request on average"
        in shown.sentence
    )
    none = [record(10 + 0.5 * k, 60, 0, latency=0.5) for k in range(20)]
    assert (
        "60 requests at once at concurrency 96, and of none that waited"
        in analysis.ceiling(SWEEP, 64, {96: none}).sentence
    )


@pytest.mark.parametrize(
    ("given", "limit", "said"), [(SWEEP, 0, "max_batch_size is 0"), ([Point(rate=2.0)], 64, "shown with closed loops")]
)
def test_a_ceiling_of_nothing_is_refused(given, limit, said):
    with pytest.raises(WorkshopError, match=said):
        analysis.ceiling(given, limit)


# --- Cost ---------------------------------------------------------------------


def test_cost_is_the_price_over_the_tokens_of_an_hour():
    shown = analysis.cost(point(8, 1000.0), 3.6, "$")
    assert shown.of(1000.0) == pytest.approx(1.0)  # 3.6 million tokens an hour
    assert "a million output tokens cost $1.00" in shown.sentence
    assert "a million output tokens, $" in str(shown)
    assert "0.5" in str(shown).splitlines()[3]  # input and output together are twice as many
    assert "predicted: $3.60 an hour (given)" in str(shown)
    assert "busy a quarter of the hour costs four times as much a token: $4.00" in shown.sentence


def test_an_idle_share_makes_tokens_dearer():
    shown = analysis.cost(point(8, 1000.0), 3.6, "EUR", busy=0.5)
    assert "cost 2.00 EUR" in shown.sentence
    assert "Busy all the time it would be 1.00 EUR" in shown.sentence


def test_cost_names_the_cheapest_load_and_what_another_makes_of_it():
    shown = analysis.cost(SWEEP, 1.0)
    assert shown.cheapest is SWEEP[-1]
    assert "At concurrency 1 they cost 26 times that." in shown.sentence


def test_the_range_of_the_runs_is_a_range_of_prices():
    shown = analysis.cost(point(8, 1000.0, runs=3, spread={"tokens_per_second": (900.0, 1200.0)}), 3.6, "$")
    assert "0.833 to 1.11" in str(shown)


def test_a_page_does_not_take_prices_for_formulas():
    assert "mathjax_ignore" in analysis.cost(SWEEP, 1.0, "$")._repr_html_()


@pytest.mark.parametrize("asked", [{"price_per_hour": 0}, {"price_per_hour": 1, "busy": 0}, {"price_per_hour": "1"}])
def test_a_price_that_is_none_is_refused(asked):
    with pytest.raises(WorkshopError, match="Give"):
        analysis.cost(SWEEP, **asked)


# --- KV blocks ----------------------------------------------------------------


def test_the_talks_blocks_say_that_the_batch_is_the_limit():
    told = Activity("FP16", tuple(record(1.0 + k) for k in range(3)), 64)
    shown = analysis.kv_blocks(told)
    assert shown.limit == "batch"
    assert "At most 832 of 5,332 KV blocks were in use (16%) and 4,500 free, with no pause." in shown.sentence
    assert "max_batch_size 64 was reached), not the cache" in shown.sentence
    assert "predicted: the cache holds 410 requests" in shown.sentence
    assert "6.4 times what the batch allows" in shown.sentence
    assert "raising it means a new build." in shown.sentence


def test_a_request_is_as_large_as_those_of_the_step_with_most_blocks():
    told = [record(1.0, 64, kv_used=400), record(2.0, 10, kv_used=800)]
    assert analysis.kv_blocks(told, 64).blocks_per_request == 80


def test_tokens_of_a_request_give_its_blocks():
    shown = analysis.kv_blocks([record(1.0)], 64, tokens=2000)
    assert shown.blocks_per_request == 32
    assert shown.fits == 166
    few = analysis.kv_blocks([record(1.0)], 256, tokens=2000)
    assert "fewer than the batch allows" in few.sentence


def test_pauses_or_a_full_cache_with_a_queue_say_that_the_cache_is_the_limit():
    paused = [record(1.0, 40, 3, kv_used=5000, paused=2)]
    assert analysis.kv_blocks(paused, 64).limit == "kv"
    assert "with 2 pauses of a request for want of blocks" in analysis.kv_blocks(paused, 64).sentence
    full = [record(1.0, 40, 3, kv_used=5300)]
    assert analysis.kv_blocks(full, 64).limit == "kv"
    assert "a higher max_batch_size would not help" in analysis.kv_blocks(full, 64).sentence
    assert analysis.kv_blocks([record(1.0, 40, 0, kv_used=5300)], 64).limit == ""


def test_a_load_that_reaches_no_limit_is_told():
    shown = analysis.kv_blocks([record(1.0, 8)], 64)
    assert "Neither limit was reached: at most 8 requests ran at once" in shown.sentence


def test_a_step_is_held_against_max_num_tokens():
    step = record(1.0, 64, **TWO_PROMPTS)
    assert use([step]).most_step_tokens == 2062
    assert "prompts had to share steps" in analysis.kv_blocks([step], 64, max_num_tokens=2048).sentence
    assert "a higher one would change nothing" in analysis.kv_blocks([step], 64, max_num_tokens=8192).sentence


def test_an_engine_that_tells_nothing_is_told():
    assert "told of no step" in analysis.kv_blocks([]).sentence
    assert "did not tell of its KV blocks" in analysis.kv_blocks([Record(1.0, 3, 0)]).sentence
    with pytest.raises(WorkshopError, match="no records of the engine"):
        analysis.kv_blocks(7)


def test_a_result_counts_the_records_of_its_measured_runs():
    made = result()
    made.__dict__["records"] = (record(999.0, 99), record(1001.0, 5), record(1003.0, 77))
    assert analysis.kv_blocks(made).use.most_active == 5
    known = replace(made, serving={"sizes": {"max_batch_size": 5}})
    known.__dict__["records"] = made.records
    shown = analysis.kv_blocks(known)
    assert "max_batch_size 5 was reached" in shown.sentence
    assert shown.tokens == 27  # prompts of 16, answers of 11
    assert "the cache holds 5,332 requests of 27 tokens" in shown.sentence
    assert "Measured: 1 step of 1 run" in str(shown)
    assert "tokens that a block holds" in str(shown)
    on_cpu = replace(known, engine={"toolchain": "openvino"})
    on_cpu.__dict__["records"] = made.records
    assert "raising it means starting the server with another limit (with" in analysis.kv_blocks(on_cpu).sentence
    made = result()
    made.__dict__["records"] = ()
    with pytest.raises(WorkshopError, match="no records of the engine"):
        analysis.kv_blocks(made)


# --- Roofline -----------------------------------------------------------------


def test_a_token_reads_all_weights_but_the_embedding_table():
    table = 2 * SHAPE.vocabulary * SHAPE.hidden
    assert analysis.weights_read(SHAPE) == weight_bytes(SHAPE, "fp16") - table + 2 * SHAPE.hidden
    assert analysis.weights_read(SHAPE, stored=10_000_000) == 10_000_000 - table + 2 * SHAPE.hidden


def test_the_distance_is_measured_over_predicted():
    # Keys and values: 2 * 6 layers * 4 heads * 32 numbers * 2 bytes a token, at a context of 128 + 64.
    keys = 3072 * 192
    shown = analysis.distance([point(1, user=1000.0)], SHAPE, 50e9, 10_000_000 - keys)
    assert shown.kv_bytes == keys
    assert shown.predicted == pytest.approx(5000)
    assert shown.fraction == pytest.approx(0.2)
    assert "easured 1,000 tokens/s at concurrency 1, 20% of the 5,000 that reading allows (pred" in shown.sentence
    assert "Reading would take 200 µs" in shown.sentence or "Reading would take 0.2 ms" in shown.sentence
    assert "the other 0.8 ms are not reading; they have not been split further" in shown.sentence
    assert "50 GB/s at this size over" in shown.sentence


@pytest.mark.parametrize(("rate", "said"), [(4500.0, "bandwidth is the limit"), (6000.0, "More than the bound")])
def test_nearness_to_the_roofline_is_told_as_it_is(rate, said):
    shown = analysis.distance(point(1, user=rate), SHAPE, 50e9, 10_000_000 - 3072 * 192)
    assert said in shown.sentence


def test_the_distance_says_where_its_bandwidth_comes_from():
    speed = ReadSpeed("a GPU", 0, 1e12, "datasheet", "Not measured: no torch.")
    assert "datasheet: 1,000.0 GB/s, the memory of a GPU" in str(analysis.distance(point(1), SHAPE, speed, 10_000_000))


def test_a_working_set_that_fits_a_cache_is_read_in_cache():
    fits = analysis.distance([point(1)], SHAPE, 50e9, 10_000_000, cache=32 * 2**20)
    assert "50 GB/s in cache over" in fits.sentence and "bandwidth in cache" in str(fits)
    assert "GB/s at this size over" in analysis.distance([point(1)], SHAPE, 50e9, 10_000_000, cache=2**20).sentence
    sheet = ReadSpeed("a GPU", 0, 1e12, "datasheet")
    assert "GB/s of memory over" in analysis.distance([point(1)], SHAPE, sheet, 10_000_000, cache=2**30).sentence


def test_a_reading_that_other_work_spoiled_gives_no_percentage():
    busy = ReadSpeed("a CPU", 10_000_000, 3e9, memory=12e9)
    shown = analysis.distance([point(1, user=1000.0)], SHAPE, busy, 10_000_000)
    assert "the bandwidth was not measured well, since this machine is busy" in shown.sentence
    assert "%" not in str(shown)
    idle = ReadSpeed("a CPU", 10_000_000, 100e9, memory=12e9)
    assert "%" in str(analysis.distance([point(1, user=1000.0)], SHAPE, idle, 10_000_000))


def test_each_rank_reads_its_share():
    one, two = (analysis.distance([point(1)], SHAPE, 50e9, 10_000_000, ranks=ranks) for ranks in (1, 2))
    assert two.predicted == pytest.approx(2 * one.predicted)
    assert "a token on each of 2 GPUs" in two.sentence and "each of 2 GPUs" in str(two.table())


def test_a_late_client_measures_a_lower_bound():
    late = replace(point(1), client_bound="it was late")
    assert "the measured rate is a lower bound" in analysis.distance([late], SHAPE, 50e9, 10_000_000).sentence


def test_the_last_level_cache_is_the_largest(tmp_path):
    for place, size in enumerate(("32K", "512K", "32M")):
        (tmp_path / f"index{place}").mkdir()
        (tmp_path / f"index{place}" / "size").write_text(f"{size}\n")
    assert last_level_cache(tmp_path) == 32 * 2**20
    assert last_level_cache(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("precision", "toolchain", "ranks", "said"),
    [("fp8", "openvino", 1, "counted as stored"), ("int8", "tensorrt_llm", 2, "each of 2 GPUs")],
)
def test_the_distance_here_is_that_of_the_endpoints_engine(monkeypatch, precision, toolchain, ranks, said):
    monkeypatch.setattr(hardware, "look", lambda: replace(LOOKED, gpus=()))
    manifest = SimpleNamespace(options={"model": "bundled"})
    engine = SimpleNamespace(
        manifest=manifest, precision=precision, weight_bytes=8_000_000, kv=None, toolchain=toolchain, tp_size=ranks
    )
    shown = analysis.distance_here(SimpleNamespace(engine=engine), [point(1)])
    assert said in str(shown)
    assert shown.ranks == ranks
    assert shown.weight_bytes < 8_000_000 / ranks


def test_precisions_here_are_those_of_the_engines():
    sweeps = {
        name: Sweep([result(runs=3, engine={"toolchain": "openvino", "precision": name, "weight_bytes": size})])
        for name, size in (("fp16", 1000), ("fp8", 550), ("int8", 550))
    }
    shown = analysis.precisions_here(sweeps["fp16"], sweeps["fp8"])
    assert shown.bytes == (1000, 550)
    assert shown.arithmetic is False
    assert analysis.precisions_here(sweeps["fp16"], sweeps["int8"]).arithmetic is multiplies("int8", None)
    with pytest.raises(WorkshopError, match="Whose engines these are is not known"):
        analysis.precisions_here(sweeps["fp16"], Sweep([result()]))


def test_a_distance_without_concurrency_1_is_refused():
    with pytest.raises(WorkshopError, match="taken at concurrency 1, and there is concurrency 8"):
        analysis.distance(point(8), SHAPE, 1e9, 10_000_000)
    with pytest.raises(WorkshopError, match="bound nothing"):
        analysis.distance(point(1), SHAPE, 0.0, 10_000_000)


def test_the_bandwidth_at_a_size_is_measured_here():
    machine = replace(hardware.look(), gpus=())
    speed = read_speed(machine, 4_000_000)
    assert speed.bytes == pytest.approx(4_000_000, rel=0.01)
    assert 1e8 < speed.bandwidth < 1e13
    assert str(speed).startswith("measured: ")
    with pytest.raises(WorkshopError, match=r"at least 4,096"):
        read_speed(machine, 100)


# --- Precisions ---------------------------------------------------------------


def with_runs(one: Point, ratio: float = 1.0, width: float = 0.02) -> Point:
    rate = one.tokens_per_second * ratio
    spread = {"tokens_per_second": (rate * (1 - width), rate * (1 + width))}
    return replace(one, tokens_per_second=rate, runs=3, spread=spread)


FP16 = [with_runs(one) for one in SWEEP[:3]]


def test_a_precision_that_is_faster_slower_or_neither_is_told_for_each_load():
    fp8 = [with_runs(SWEEP[0], 1.5), with_runs(SWEEP[1], 1.01), with_runs(SWEEP[2], 0.8)]
    shown = analysis.precisions(FP16, fp8, weights=(1000, 550), arithmetic=False)
    assert "FP8 is faster than FP16 at concurrency 1 (1.50 times)." in shown.sentence
    assert "FP8 is slower than FP16 at concurrency 32 (0.80 times)." in shown.sentence
    assert (
        "FP8 and FP16 are not told apart at concurrency 8 (1.01 times): the ranges overlap, so these runs cannot tell."
        in shown.sentence
    )
    assert comparison.rule(3, 3) in shown.sentence
    assert "0.55 of the bytes of weights: predicted: at most 1.82 times as fast" in shown.sentence
    assert (
        "A possible reason, not measured here: that costs more than reading fewer bytes saves at concurrency 32"
        in shown.sentence
    )
    assert "saves more than that costs at concurrency 1" in shown.sentence


def test_a_device_with_the_arithmetic_is_told_apart():
    faster = analysis.precisions(FP16, [with_runs(one, 1.6) for one in SWEEP[:3]], arithmetic=True)
    assert "it can win where multiplying is the limit too" in faster.sentence
    slower = analysis.precisions(FP16, [with_runs(one, 0.6) for one in SWEEP[:3]], arithmetic=True)
    assert "that is not why it is slower at concurrency 1, 8 and 32" in slower.sentence
    assert len(slower.of(SLOWER)) == 3


def test_equal_engines_and_too_few_runs_are_told():
    same = analysis.precisions(FP16, FP16, arithmetic=False)
    assert len(same.of(SAME)) == 3
    assert "possible reason" not in same.sentence
    few = analysis.precisions(SWEEP[:2], [with_runs(one, 2.0) for one in SWEEP[:2]])
    assert "the runs are too few to tell FP8 from FP16" in few.sentence
    assert "faster" not in few.sentence


def test_weights_that_are_no_fewer_save_nothing():
    assert "nothing to save" in analysis.precisions(FP16, FP16, weights=(1000, 1000)).sentence


def test_sweeps_without_a_load_in_common_are_refused():
    with pytest.raises(WorkshopError, match="no load in common"):
        analysis.precisions([point(1)], [point(2)])


@pytest.mark.parametrize(
    ("precision", "capability", "answer"),
    [
        ("fp8", (8, 6), False),
        ("fp8", (8, 9), True),
        ("fp8", (9, 0), True),
        ("int8", (8, 6), True),
        ("int8_wo", (9, 0), False),
    ],
)
def test_which_gpus_multiply_in_a_precision(precision, capability, answer):
    gpu = Gpu(0, "a GPU", capability, 24 * 10**9, 24 * 10**9, "580.1")
    assert multiplies(precision, gpu) is answer


def test_which_cpus_multiply_in_a_precision():
    new, old = Cpu("new", 8, ("avx2", "avx512_vnni", "amx_fp16")), Cpu("old", 2, ("avx2",))
    assert [multiplies(p, None, new) for p in ("fp16", "int8", "fp8")] == [True, True, False]
    assert [multiplies(p, None, old) for p in ("fp16", "int8", "fp8")] == [False, False, False]


# --- Pictures -----------------------------------------------------------------


def timed() -> Result:
    made = result(whole=30, runs=2, serving={"sizes": {"max_batch_size": 1}})
    made.__dict__["records"] = tuple(record(1000.05 + 0.1 * k, 2) for k in range(3))
    return made


PICTURES = {
    "sweep": lambda: plots.sweep_picture(SWEEP, SWEEP[3]),
    "two": lambda: plots.sweep_picture([*SWEEP, *(replace(one, title="FP8") for one in SWEEP)]),
    "one": lambda: plots.sweep_picture(result()),
    "requests": lambda: plots.requests_picture(result(whole=200)),
    "timeline": lambda: plots.timeline_picture(timed()),
    "distribution": lambda: plots.distribution_picture(result(runs=3, whole=100)),
}


@pytest.fixture(scope="module", params=PICTURES)
def drawn(request):
    return request.param, PICTURES[request.param]()


def test_every_picture_is_svg_with_words(drawn):
    _, picture = drawn
    assert ElementTree.fromstring(picture.svg).tag.endswith("svg")
    assert len(picture.svg) < 200_000
    assert picture.alt.endswith(".")
    assert "\n" not in picture.alt


def test_the_same_data_gives_the_same_file(drawn):
    name, picture = drawn
    assert PICTURES[name]() == picture


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sweep", ["The knee is at concurrency 64.", "50 ms", "2,650"]),
        ("two", ["FP8, concurrency 96", "measured"]),
        ("one", ["concurrency 2", "50 ms"]),
        (
            "requests",
            ["201 requests over time, 128 of them drawn", "1 failed", "the first wave (2) waited 50 ms", "yes"],
        ),
        (
            "timeline",
            [
                "The server runs at most 1 at once (max_batch_size).",
                "up to 800 output tokens/s",
                "up to 2 in flight",
                "832 of 5,332 KV blocks used",
            ],
        ),
        ("distribution", ["run 3 TTFT p50 150 ms", "n = 100", "ITL"]),
    ],
)
def test_the_words_hold_the_numbers(name, words):
    picture = PICTURES[name]()
    for word in words:
        assert word in str(picture)


def drawn_texts(monkeypatch, draw) -> list[str]:
    """The words in a picture, which its file has as shapes only."""
    from contextlib import contextmanager

    from matplotlib.text import Text

    found: list[str] = []
    real = plots.figure

    @contextmanager
    def watched(*given, **more):
        with real(*given, **more) as drawing:
            yield drawing
            for axis in drawing.axes:
                axis.figure.canvas.draw()
                found.extend(text.get_text() for text in axis.findobj(Text) if text.get_visible())

    monkeypatch.setattr(plots, "figure", watched)
    draw()
    return found


def test_a_curve_says_what_its_numbers_bars_and_axis_are(monkeypatch):
    ranged = [with_runs(one) for one in SWEEP]
    texts = drawn_texts(monkeypatch, lambda: plots.sweep_picture(ranged, ranged[3]))
    assert "output tokens/s\nnumber at a point: concurrency" in texts
    assert "tokens/s per user (median)\nthin bars: range of the runs" in texts
    assert "TTFT, ms (median, log axis)" in texts
    assert texts.count("knee") == 2  # ringed in both panels


def test_requests_say_which_run_and_where_the_limit_lies(monkeypatch):
    many = result(64, runs=3, whole=100, serving={"sizes": {"max_batch_size": 16}})
    texts = drawn_texts(monkeypatch, lambda: plots.requests_picture(many, run=2))
    assert any(text.endswith("concurrency 64, run 2 of 3") for text in texts)
    assert "max_batch_size 16: no more than those above at once" in texts
    assert "first wave (every 4th marked)" in texts
    few = drawn_texts(monkeypatch, lambda: plots.requests_picture(result(2, whole=9)))
    assert "first wave" in few
    assert not any("max_batch_size" in text for text in few)


def test_a_timeline_has_its_limits(monkeypatch):
    texts = drawn_texts(monkeypatch, lambda: plots.timeline_picture(timed()))
    assert any(text.endswith("run 1 of 2") for text in texts)
    assert "max_batch_size 1" in texts
    assert "all 5,332 blocks" in texts
    assert "5,332" in texts and "6,000" not in texts  # ticks end with the blocks
    assert " at most 832 " in texts


def test_a_percentile_of_few_requests_is_not_shown():
    assert "p99 –" in plots.distribution_picture(result(whole=30)).alt


def test_a_timeline_without_records_leaves_the_blocks_out():
    assert "KV" not in str(plots.timeline_picture(result(), []))


def test_a_curve_draws_itself():
    assert "The knee is at concurrency 64" in str(analysis.curve(SWEEP))
    assert "svg" in analysis.curve(SWEEP)._repr_html_()


def test_nothing_to_draw_is_told():
    with pytest.raises(WorkshopError, match="no load gave a token"):
        plots.sweep_picture([Point(concurrency=1, failed=7)])
    with pytest.raises(WorkshopError, match="There is no run 9"):
        plots.requests_picture(result(), run=9)
    failed = result()
    none = [replace(run, rows=run.rows[-1:], timeline=Timeline()) for run in failed.runs]
    with pytest.raises(WorkshopError, match="no request was answered whole"):
        plots.distribution_picture(replace(failed, runs=none))
    with pytest.raises(WorkshopError, match="no token came"):
        plots.timeline_picture(replace(failed, runs=none), [])
    assert "1 failed" in plots.requests_picture(replace(failed, runs=none)).alt
