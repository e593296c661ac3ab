"""Loads whose rate changes over time: their arithmetic, and one that is really sent."""

import json
import math
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest
from bad_servers import good, serving

from helpers.bench import profile
from helpers.bench.analysis.points import Point
from helpers.bench.command import _loads
from helpers.bench.generator import measuring
from helpers.bench.generator.arrivals import arrivals
from helpers.bench.generator.target import Target
from helpers.bench.live import fraction
from helpers.bench.load import Load
from helpers.bench.measured import Progress
from helpers.bench.on_gpu import serving as on_gpu_serving
from helpers.bench.results import comparison, result
from helpers.bench.results.result import Sweep
from helpers.errors import WorkshopError
from tests.bench_folders import steady, write

POINTS = ((0, 0.5), (20, 4.0), (20, 12.0), (30, 12.0), (30, 1.0), (45, 0.2))
LOAD = Load(profile=POINTS)


def test_the_rate_follows_straight_lines_and_a_step_belongs_to_what_follows() -> None:
    assert [LOAD.rate_at(at) for at in (0, 10, 20, 29.9, 30, 45)] == [0.5, 2.25, 12.0, 12.0, 1.0, 0.2]
    assert LOAD.rate_at(-1) == LOAD.rate_at(45.1) == 0.0
    assert Load(rate=3.0).rate_at(7) == 3.0 and Load(concurrency=3).rate_at(7) is None
    assert Load(profile=POINTS, seconds=25).rate_at(26) == 0.0


def test_the_area_is_the_number_of_requests_and_the_way_back_is_its_inverse() -> None:
    assert profile.area(POINTS) == 20 * 2.25 + 120 + 15 * 0.6
    for at in (0.0, 3.0, 19.0, 20.0, 25.0, 30.0, 31.0, 44.9):
        requests = profile.area(POINTS, at)
        assert profile.time_of(POINTS, requests) == pytest.approx(at, abs=1e-6)
    assert profile.time_of(POINTS, 174.0) is None


def test_constant_arrivals_of_a_flat_profile_are_those_of_its_rate() -> None:
    flat = list(arrivals(Load(profile=((0, 4), (5, 4)), arrivals="constant"), 1))
    assert flat == pytest.approx([place / 4 for place in range(20)])


def test_nothing_is_sent_while_the_rate_is_none() -> None:
    points = ((0, 0), (5, 0), (5, 2), (8, 2), (8, 0), (20, 0), (20, 2), (22, 2))
    for kind in ("constant", "poisson"):
        due = list(arrivals(Load(profile=points, arrivals=kind), 1))
        assert due[0] == 5.0 and all(5 <= at <= 8 or 20 <= at <= 22 for at in due)
        assert all(a <= b for a, b in pairwise(due))


def test_poisson_arrivals_are_as_many_as_expected_in_every_part() -> None:
    runs = [list(arrivals(LOAD.with_(seed=seed), 1)) for seed in range(300)]
    for begin, end in ((0, 10), (10, 20), (20, 30), (30, 45)):
        counts = [sum(begin <= at < end for at in due) for due in runs]
        expected = profile.area(POINTS, end) - profile.area(POINTS, begin) + (begin == 0)  # the first is always there
        assert abs(mean(counts) - expected) < 4 * math.sqrt(expected / len(runs))
    variance = mean((sum(20 <= at < 30 for at in due) - 120) ** 2 for due in runs)
    assert 80 < variance < 170, "a Poisson count varies as much as it is"


def test_equal_seeds_send_at_equal_times_and_each_run_at_its_own() -> None:
    first = list(arrivals(LOAD, 1))
    assert first == list(arrivals(LOAD, 1))
    assert first != list(arrivals(LOAD, 2)) and first != list(arrivals(LOAD.with_(seed=1), 1))


def test_a_profile_is_a_third_kind_of_load() -> None:
    assert LOAD.open_loop and LOAD.concurrency is None and LOAD.rate is None
    assert LOAD.kind == "open loop, 0.2 to 12 requests/s over 45 s, poisson arrivals"
    assert (LOAD.warming, LOAD.measured, LOAD.lasts, LOAD.short) == (0, None, 45.0, "profile")
    assert LOAD.with_(warmup=2).warming == 2 and LOAD.with_(requests=9).measured == 9
    assert LOAD.with_(seconds=5).lasts == 5 and LOAD.with_(seconds=99).lasts == 45
    closed = LOAD.with_(concurrency=4)
    assert (closed.profile, closed.concurrency) == (None, 4) and closed.with_(profile=POINTS) == LOAD
    assert Load(rate=2.0).with_(profile=POINTS) == LOAD
    for more in ({"rate": 1.0}, {"concurrency": 1}):
        with pytest.raises(WorkshopError, match="Give one of them"):
            Load(profile=POINTS, **more)


def test_what_was_told_comes_back_also_from_before_there_were_profiles() -> None:
    assert Load.from_told(json.loads(json.dumps(LOAD.told()))) == LOAD
    old = {name: value for name, value in Load(rate=5.0).told().items() if name != "profile"}
    assert Load.from_told(old) == Load(rate=5.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (5, "Give points of seconds and requests/s"),
        ("abc", "Give two finite numbers"),
        ([(0, 1)], "has 1 points. Give at least two"),
        ([(0, 1, 2), (3, 4)], "Give two finite numbers"),
        ([(0, math.nan), (3, 4)], "Give two finite numbers"),
        ([(0, 1), (math.inf, 1)], "Give two finite numbers"),
        ([(1, 1), (3, 4)], "begins at 1 s"),
        ([(0, 1), (5, 1), (3, 1)], "goes back from 5 s to 3 s"),
        ([(0, 1), (0, 2)], "ends at 0 s, where it begins"),
        ([(0, -1), (3, 4)], "a rate of -1 requests/s"),
        ([(0, 0), (3, 0)], "a rate of 0 throughout"),
    ],
)
def test_what_is_no_profile_is_said_in_a_sentence(given: object, said: str) -> None:
    with pytest.raises(WorkshopError, match=said):
        Load(profile=given)  # type: ignore[arg-type]


def test_ramps_and_bursts_are_profiles() -> None:
    assert profile.ramp(1, 5, 10) == ((0, 1), (10, 5)) and profile.ramp(1, 5, 10, hold=5)[-1] == (15, 5)
    burst = profile.burst(1, 9, 10, 5, 20)
    assert [profile.rate_at(burst, at) for at in (0, 9, 10, 14, 15, 34)] == [1, 1, 9, 9, 1, 1]


def test_a_terminal_writes_it_with_colons() -> None:
    assert profile.parsed("0:0.5,20:4, 20:12") == ((0, 0.5), (20, 4), (20, 12))
    for wrong in ("0:1;3:4", "0:1,3", "fast", ""):
        with pytest.raises(WorkshopError, match=r"0:0\.5,20:4|two finite numbers"):
            profile.parsed(wrong)


def test_the_command_takes_one_kind(tmp_path: Path) -> None:
    import argparse

    from helpers.bench.command import add_to

    parser = argparse.ArgumentParser()
    add_to(parser.add_subparsers())
    [load] = _loads(parser.parse_args(["bench", "http://x/v1", "--profile", "0:1,9:5"]))
    assert load.profile == ((0.0, 1.0), (9.0, 5.0)) and load.warming == 0
    with pytest.raises(WorkshopError, match="one of --concurrency, --rate and --profile"):
        _loads(parser.parse_args(["bench", "http://x/v1", "--profile", "0:1,9:5", "--rate", "3"]))


def test_progress_is_told_by_the_time() -> None:
    assert fraction(LOAD, Progress(1, 9.0, 5, None, 0, 1, 5, 1.0, 0.1)) == pytest.approx(0.2)


def test_curves_and_other_programs_refuse_it_and_a_sweep_and_a_comparison_know_it(tmp_path: Path) -> None:
    runs = [replace(steady(number), health=replace(steady(number).health, late_p99=0.0)) for number in (1, 2, 3)]
    load = LOAD.with_(runs=3)
    first, second = (result.read(write(tmp_path / name, load, runs)) for name in "ab")
    with pytest.raises(WorkshopError, match="no point of a curve"):
        Point.of(first)
    with pytest.raises(WorkshopError, match="no point of a curve"):
        Sweep([first]).plot()
    assert load.kind in str(Sweep([first])) and "each figure is of all of it together" in first.sentence
    assert comparison.compare(first, second) is not None
    other = result.read(write(tmp_path / "c", load.with_(profile=((0, 1), (9, 9))), runs))
    with pytest.raises(WorkshopError, match="profile"):
        comparison.compare(first, other)
    with pytest.raises(WorkshopError, match="one rate"):
        on_gpu_serving("p", "m", "t", "http://x/v1", LOAD.with_(requests=9), "f", "o")
    assert first.path.name and result.publish(first.path).path.name.endswith("-profile")


@pytest.fixture(name="sent")
def load_to_send(tmp_path: Path) -> Load:
    """A short one: calm, then a burst."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Once upon a time"}\n')
    points = ((0, 4), (1, 4), (1, 40), (1.5, 40), (1.5, 4), (2, 4))
    return Load(profile=points, arrivals="constant", output_tokens=4, prompts=str(file))


def test_a_profile_is_sent_on_time_and_ends_by_itself(sent: Load) -> None:
    with serving(good()) as server:
        began = time.monotonic()
        (run,) = measuring.measure(Target.of(server.url, "m"), sent).runs
        took = time.monotonic() - began
    due = list(arrivals(sent, 1))
    assert len(due) == 26 and [row.intended for row in run.rows] == pytest.approx(due, abs=1e-6)
    assert all(row.ok and row.sent is not None and row.sent >= row.intended - 1e-6 for row in run.rows)
    assert run.number == 1 and not run.interrupted and took < 4


def test_the_first_request_is_the_first_that_the_server_hears_and_may_wait_long(sent: Load) -> None:
    """Before it there is nothing but connections: a deployment at rest stays so until the load begins."""
    with serving(lambda asked: good(first=1.2 if asked.number == 0 else 0.0)) as server:
        measured = measuring.measure(Target.of(server.url, "m"), sent)
        assert len(server.asked) == 26 and not server.others
    (run,) = measured.runs
    assert run.rows[0].ok and (run.rows[0].ttft or 0) >= 1.2 and run.health.busy < 0.5
    assert not any("asked" in note for note in measured.notes)


def test_a_server_that_was_asked_before_is_said_to_be_no_longer_cold(sent: Load) -> None:
    with serving(good()) as server:
        measured = measuring.measure(Target.of(server.url), sent.with_(profile=((0, 5), (0.5, 5))))
    assert "its model's name" in measured.notes[0] and "had started already" in measured.notes[0]


def test_seconds_and_requests_end_it_earlier(sent: Load) -> None:
    with serving(good()) as server:
        target = Target.of(server.url, "m")
        (few,) = measuring.measure(target, sent.with_(requests=3)).runs
        (short,) = measuring.measure(target, sent.with_(seconds=0.6)).runs
    assert len(few.rows) == 3 and [row.intended for row in short.rows] == pytest.approx([0.0, 0.25, 0.5], abs=1e-6)
