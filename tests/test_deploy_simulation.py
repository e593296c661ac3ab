"""The simulation of replicas: against queueing theory, against Ray's own functions, and by hand."""

import math
import random
import time
from statistics import mean
from types import SimpleNamespace

import pytest

from helpers.deploy.observed import ASKED, ENDED, READY, STEPS, Mark, Moment, Observed
from helpers.deploy.scaling import Scaling
from helpers.deploy.simulation import idle, planning
from helpers.deploy.simulation.arrivals import Arrival, changing, of_rows, poisson
from helpers.deploy.simulation.cold_start import ColdStart
from helpers.deploy.simulation.comparison import SHARING, Comparison, against
from helpers.deploy.simulation.policy import NOTHING, Counts, Sample, decide
from helpers.deploy.simulation.recording import recording
from helpers.deploy.simulation.running import run
from helpers.deploy.simulation.service import Level, Service
from helpers.deploy.simulation.simulated import Simulated
from helpers.deploy.simulation.sources import published_service, ways
from helpers.errors import WorkshopError

FIXED = Scaling(min_replicas=1, max_replicas=1, target_ongoing=1.0)
WARM = ColdStart()


UNIT = 0.01  # seconds of queueing theory's unit of work: the autoscaler's clocks, in seconds, have less to do
ONE_AT_A_TIME = Service([Level(1, 0.0, UNIT)], batch=1)
SHARED = Service([Level(1, 0.0, UNIT)])  # with n at once each goes at a n-th of the speed


def random_load(rate: float, count: int, work: str, seed: int) -> list[Arrival]:
    """``rate`` requests a unit of time, whose tokens after the first are their work."""
    chance, now, found = random.Random(seed), 0.0, []
    for _ in range(count):
        now += UNIT * chance.expovariate(rate)
        found.append(Arrival(now, 1 + (chance.expovariate(1.0) if work == "M" else 1.0)))
    return found


def mean_time(done: Simulated) -> float:
    return mean(one.ended - one.arrival for one in done.requests) / UNIT


def fixed(replicas: int) -> Scaling:
    return Scaling(min_replicas=replicas, max_replicas=replicas, target_ongoing=1.0)


def waits(load: list[Arrival], replicas: int = 1) -> list[float]:
    done = run(load, ONE_AT_A_TIME, fixed(replicas), WARM, polls=False)
    return [one.waited / UNIT for one in done.requests]


# --- Queueing theory --------------------------------------------------------


def test_one_server_waits_as_long_as_theory_says() -> None:
    rate = 0.7
    assert mean(waits(random_load(rate, 25_000, "M", 1))) == pytest.approx(rate / (1 - rate), rel=0.08)


def test_equal_requests_wait_half_as_long() -> None:
    rate = 0.7
    assert mean(waits(random_load(rate, 25_000, "D", 2))) == pytest.approx(rate / (2 * (1 - rate)), rel=0.06)


def test_several_servers_wait_as_erlang_says() -> None:
    replicas, load = 4, 3.0
    last = load**replicas / math.factorial(replicas) * replicas / (replicas - load)
    chance = last / (sum(load**k / math.factorial(k) for k in range(replicas)) + last)
    found = waits(random_load(load, 25_000, "M", 3), replicas)
    assert mean(found) == pytest.approx(chance / (replicas - load), rel=0.12)
    assert mean(wait > 1e-9 for wait in found) == pytest.approx(chance, abs=0.02)


@pytest.mark.parametrize("work", ["M", "D"])
def test_a_shared_server_takes_as_long_whatever_the_lengths_are_like(work: str) -> None:
    rate = 0.6
    done = run(random_load(rate, 20_000, work, 4), SHARED, FIXED, WARM, polls=False)
    assert mean_time(done) == pytest.approx(1 / (1 - rate), rel=0.05)


def test_littles_law_holds() -> None:
    done = run(random_load(0.7, 20_000, "M", 5), ONE_AT_A_TIME, FIXED, WARM, polls=False)
    events = sorted([(one.arrival, 1) for one in done.requests] + [(one.ended, -1) for one in done.requests])
    area = there = before = 0.0
    for at, change in events:
        area, before, there = area + there * (at - before), at, there + change
    span = events[-1][0]
    assert area / span == pytest.approx(len(done.requests) / span * UNIT * mean_time(done), rel=1e-9)


def test_two_choices_beat_one_server_each() -> None:
    """Four servers behind one queue wait less than four that each have a quarter of the requests."""
    assert mean(waits(random_load(3.0, 20_000, "M", 6), 4)) < 0.5 * mean(waits(random_load(0.75, 20_000, "M", 6)))


# --- By hand ----------------------------------------------------------------


def test_two_requests_that_wait_for_a_cold_replica() -> None:
    """Asked for at a decision after the first request; ready 3 s later; 0.5 s for a prompt; 10 tokens/s, shared."""
    service = Service.of([(1, 10.0, 0.5), (2, 5.0, 0.5)], batch=2)
    scaling = Scaling(min_replicas=0, max_replicas=1, target_ongoing=2.0)
    done = run([Arrival(0.0, 11), Arrival(1.0, 11)], service, scaling, ColdStart(process=1, imports=0.5, engine=1.5))
    (life,) = done.observed.replicas().values()
    asked = life[ASKED]
    assert 0 < asked <= 0.4 + 0.5 + 0.1 + 1e-9  # a sample, a report and a decision
    assert life[READY] == pytest.approx(asked + 3)
    assert [one.first_token for one in done.requests] == pytest.approx([asked + 3.5] * 2)
    assert [one.ended for one in done.requests] == pytest.approx([asked + 3.5 + 10 / 5] * 2)
    assert [one.ttft for one in done.requests] == pytest.approx([asked + 3.5, asked + 2.5])


def test_a_request_that_comes_meanwhile_slows_the_other_from_then_on() -> None:
    """Alone 10 tokens/s, 5 each together. The first has 10 tokens to write; the second comes after 5 of them."""
    service = Service.of([(1, 10.0, 0.0), (2, 5.0, 0.0)])
    done = run([Arrival(0.0, 11), Arrival(0.5, 6)], service, FIXED, WARM)
    first, second = done.requests
    assert first.ended == pytest.approx(0.5 + 5 / 5)
    assert second.ended == pytest.approx(0.5 + 5 / 5)


def test_what_does_not_fit_the_batch_waits_inside_and_what_the_replica_does_not_take_in_front() -> None:
    service = Service.of([(1, 10.0, 0.0)], batch=1)
    load = [Arrival(0.0, 11)] * 3
    inside = run(load, service, FIXED.with_(max_ongoing=3), WARM, polls=False)
    front = run(load, service, FIXED, WARM, polls=False)
    assert [one.ended for one in inside.requests] == pytest.approx([1, 2, 3])
    assert [one.ended for one in front.requests] == pytest.approx([1, 2, 3])
    assert [one.waited for one in inside.requests] == pytest.approx([0, 0, 0])
    assert [one.waited for one in front.requests] == pytest.approx([0, 1, 2])


def test_a_proxy_that_polls_finds_a_free_slot_late_but_within_its_longest_pause() -> None:
    done = run([Arrival(0.0, 41)] * 2, Service.of([(1, 10.0, 0.0)], batch=1), FIXED, WARM)
    first, second = done.requests
    assert first.ended <= second.started <= first.ended + 0.5


def test_two_that_share_a_machine_go_half_as_fast() -> None:
    service = Service.of([(1, 10.0, 0.0)], batch=1)
    for sharing, expected in ((0.0, 1.0), (0.5, 1.5), (1.0, 2.0)):
        done = run([Arrival(0.0, 11)] * 2, service.with_(sharing=sharing), fixed(2), WARM, polls=False)
        assert [one.ended for one in done.requests] == pytest.approx([expected] * 2)


def test_the_first_request_of_a_new_replica_takes_longer() -> None:
    service = Service.of([(1, 10.0, 0.5)])
    scaling = Scaling(min_replicas=0, max_replicas=1)
    plain, slow = (
        run(
            [Arrival(0.0, 2), Arrival(20.0, 2)], service, scaling.with_(downscale_delay=60), ColdStart(1, first_token=x)
        )
        for x in (0.0, 2.0)
    )
    assert slow.requests[0].ttft == pytest.approx(plain.requests[0].ttft + 2)
    assert slow.requests[1].ttft == pytest.approx(0.5)


def test_a_replica_that_is_to_end_finishes_what_it_has() -> None:
    """Two long answers on two replicas; when only one is wanted, the other still writes its answer to the end."""
    service = Service.of([(1, 10.0, 0.0)], batch=1)
    scaling = Scaling(min_replicas=0, max_replicas=2, target_ongoing=1.0, downscale_delay=0.5, to_zero_delay=1.0)
    load = [Arrival(0.0, 301), Arrival(0.0, 601)]
    done = run(load, service, scaling, ColdStart(process=1), ending=0.25)
    assert done.most_replicas == 2
    lives = done.observed.replicas()
    for one in done.requests:
        assert lives[one.replica][ENDED] >= one.ended + 0.25 - 1e-9
    assert max(life[ENDED] for life in lives.values()) == pytest.approx(done.seconds)
    assert done.observed.moments[-1].running == 0


def test_a_replica_no_longer_wanted_before_it_is_ready_never_takes_a_request() -> None:
    service = Service.of([(1, 100.0, 0.0)], batch=4)
    scaling = Scaling(min_replicas=1, max_replicas=3, target_ongoing=1.0, upscale_delay=0, downscale_delay=1)
    done = run([Arrival(0.0, 101)] * 3, service, scaling, ColdStart(process=60))
    given_up = [life for life in done.observed.replicas().values() if READY not in life]
    assert given_up and all(ENDED in life for life in given_up)
    assert {one.replica for one in done.requests} == {"replica 1"}


# --- What must hold whatever happens ----------------------------------------


def busy(seed: int) -> list[Arrival]:
    return changing([(0, 0.2), (30, 6), (60, 6), (60, 0.1), (200, 0.1)], 60, seed)


QUICK = Service.of([(1, 60.0, 0.05), (8, 30.0, 0.2)], batch=8)
ELASTIC = Scaling(min_replicas=0, max_replicas=4, target_ongoing=4.0)


@pytest.mark.parametrize("seed", range(6))
def test_every_request_is_answered_once_and_in_order_of_its_own_times(seed: int) -> None:
    load = busy(seed)
    done = run(load, QUICK, ELASTIC, ColdStart(process=2, engine=5, spread=0.3), seed)
    assert [(one.arrival, one.tokens) for one in done.requests] == [(one.time, one.tokens) for one in load]
    for one in done.requests:
        assert one.arrival <= one.started <= one.first_token <= one.ended
    lives = done.observed.replicas()
    for one in done.requests:
        assert lives[one.replica][READY] <= one.started
        assert one.ended <= lives[one.replica][ENDED] + 1e-9
    for life in lives.values():
        assert list(life.values()) == sorted(life.values())
        assert list(life) == [step for step in STEPS if step in life]


def test_no_replica_has_more_requests_than_it_takes() -> None:
    done = run(busy(1), QUICK, ELASTIC, ColdStart(process=5), 1)
    for name in done.observed.replicas():
        events = [(one.started, 1) for one in done.requests if one.replica == name]
        events += [(one.ended, -1) for one in done.requests if one.replica == name]
        there = 0
        for _, change in sorted(events):
            there += change
            assert there <= 8


def test_equal_seeds_give_equal_runs_and_others_do_not() -> None:
    first, second, third = (run(busy(0), QUICK, ELASTIC, ColdStart(5, spread=0.2), seed) for seed in (1, 1, 2))
    assert (first.requests, first.observed) == (second.requests, second.observed)
    assert first.requests != third.requests


def test_a_longer_cold_start_never_lowers_the_worst_waits() -> None:
    """The same requests and the same luck; the first request of all waits for the first replica."""
    for seed in range(3):
        found = [run(busy(seed), QUICK, ELASTIC, ColdStart(engine=s), seed).ttft_at(99) for s in (1, 5, 20, 60)]
        assert found == sorted(found) and found[0] < found[-1]


def test_replicas_are_paid_from_asked_to_ended() -> None:
    done = run([Arrival(0.0, 11)], Service.of([(1, 10.0, 0.0)]), ELASTIC, ColdStart(process=3), ending=2.0)
    (life,) = done.observed.replicas().values()
    assert done.replica_seconds == pytest.approx(life[ENDED] - life[ASKED])
    kept = run([Arrival(0.0, 11)], Service.of([(1, 10.0, 0.0)]), fixed(2), WARM, until=100.0)
    assert kept.replica_seconds == pytest.approx(200)


def test_resting_clocks_change_nothing() -> None:
    """An idle hour is not gone through step by step: the replica ends when it would have."""
    scaling = Scaling(min_replicas=0, max_replicas=1, downscale_delay=300.0)
    started = time.process_time()
    done = run([Arrival(0.0, 11), Arrival(36_000.0, 11)], QUICK, scaling, ColdStart(process=3))
    assert time.process_time() - started < 0.5
    first, second = done.observed.replicas().values()
    assert 300 < first[ENDED] - done.requests[0].ended < 300 + scaling.look_back + 2 * scaling.interval + 0.2
    assert done.requests[1].ttft > 3 and second[ASKED] > 36_000


def test_an_hour_of_ten_requests_a_second_takes_seconds_at_most() -> None:
    started = time.process_time()
    service = Service.of([(1, 200.0, 0.03), (32, 80.0, 0.12)], batch=32)
    run(poisson(10, 3600), service, ELASTIC.with_(min_replicas=1), ColdStart(process=5))
    assert time.process_time() - started < 5  # 1 s on a machine that does nothing else


# --- The policy against Ray's own -------------------------------------------


def rays_decisions(monkeypatch: pytest.MonkeyPatch, scaling: Scaling, story: list[tuple[float, int]]) -> list[int]:
    """What Ray decides every 0.1 s, given requests and running replicas."""
    from ray.serve import autoscaling_policy as policy
    from ray.serve.config import AutoscalingConfig, AutoscalingContext

    config = AutoscalingConfig(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_ongoing_requests=scaling.target_ongoing,
        upscale_delay_s=scaling.upscale_delay,
        downscale_delay_s=scaling.downscale_delay,
        downscale_to_zero_delay_s=scaling.to_zero_delay,
    )
    asked = policy._apply_autoscaling_config(policy.default_autoscaling_policy)
    target, state, found = scaling.min_replicas, {}, []
    for step, (ongoing, running) in enumerate(story):
        monkeypatch.setattr(policy.time, "time", lambda now=1000 + 0.1 * step: now)
        context = AutoscalingContext(
            deployment_id=None,
            deployment_name="",
            app_name=None,
            current_num_replicas=running,
            target_num_replicas=target,
            running_replicas=[],
            total_num_requests=ongoing,
            total_queued_requests=0,
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=scaling.min_replicas,
            capacity_adjusted_max_replicas=scaling.max_replicas,
            policy_state=state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=None,
            config=config,
        )
        wanted, state = asked(context)
        target = max(scaling.min_replicas, min(scaling.max_replicas, math.ceil(wanted)))
        found.append(target)
    monkeypatch.undo()
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_policy_decides_as_ray_does(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    chance = random.Random(seed)
    least = chance.randrange(3)
    scaling = Scaling(
        min_replicas=least,
        max_replicas=least + 1 + chance.randrange(5),
        target_ongoing=chance.choice([1.0, 2.5, 3.0, 8.0]),
        upscale_delay=chance.choice([0.0, 0.4, 1.0]),
        downscale_delay=chance.choice([0.0, 0.7, 2.0]),
        to_zero_delay=chance.choice([None, 0.0, 1.5]),
    )
    story: list[tuple[float, int]] = []
    while len(story) < 600:
        ongoing = chance.choice([0, 0, 1, chance.uniform(0, 60), 24, 16])
        story += [(ongoing, chance.randrange(scaling.max_replicas + 1))] * chance.randrange(1, 25)
    target, wish, found = scaling.min_replicas, NOTHING, []
    for step, (ongoing, running) in enumerate(story):
        target, wish = decide(scaling, ongoing, running, target, wish, 1000 + 0.1 * step)
        found.append(target)
    assert found == rays_decisions(monkeypatch, scaling, story)
    assert len(set(found)) > 1


@pytest.mark.parametrize("seed", range(20))
def test_requests_are_averaged_as_ray_does(seed: int) -> None:
    import numpy as np
    from ray.serve._private.autoscaling_metrics_merge import merge_and_aggregate_arrays

    chance = random.Random(seed)
    counts = Counts(Scaling(look_back=2.0, interval=0.5))
    begins = {f"replica {n}": chance.randrange(12) for n in range(chance.randrange(4))}
    samples = []
    for step in range(12):
        running = {name: chance.choice([0, 0, 1, 5]) for name, begin in begins.items() if step >= begin}
        samples.append(Sample(round(1000 + 0.4 * step, 2), chance.choice([0, 0, 0, 3, 9]), running))
        counts.record(samples[-1])
    last = samples[-1].time
    counts.push(Sample(last + 0.1, 7, {}))
    kept = [one for one in samples if one.time > last + 0.1 - 2.0]
    series = [[(one.time, one.queued) for one in kept]]
    series += [[(one.time, one.running[name]) for one in kept if name in one.running] for name in begins]
    flat = [point for one in series for point in one]
    offsets = np.cumsum([0, *map(len, series)])
    times, values = (np.array(column, dtype=float) for column in zip(*flat, strict=True))
    for now in (last + 0.1, last + 0.35, last + 3.0):
        theirs = merge_and_aggregate_arrays(times, values, offsets, now)
        assert counts.average(now, frozenset(begins)) == pytest.approx(theirs, rel=1e-6, abs=1e-9)


def test_our_clock_is_that_of_rays_controller() -> None:
    from ray.serve._private import constants

    from helpers.deploy.simulation import policy, routing

    assert policy.LOOP == constants.CONTROL_LOOP_INTERVAL_S
    assert 1 / policy.RECORDS == constants.RAY_SERVE_AUTOSCALING_METRIC_RECORD_INTERVAL_FACTOR
    assert routing.FIRST_PAUSE == constants.RAY_SERVE_ROUTER_RETRY_INITIAL_BACKOFF_S
    assert routing.LONGEST_PAUSE == constants.RAY_SERVE_ROUTER_RETRY_MAX_BACKOFF_S


def test_a_steady_load_gets_the_replicas_that_it_needs() -> None:
    """12 requests always in flight at 4 each ask for three replicas; nobody asks for a fourth."""
    load = [Arrival(0.25 * k, 61) for k in range(400)]  # 3 s each at 20 tokens/s: 12 in flight
    done = run(load, Service.of([(1, 20.0, 0.0), (8, 20.0, 0.0)], batch=8), ELASTIC, ColdStart(process=2))
    late = [moment.running for moment in done.observed.moments if 40 < moment.time < 100]
    assert set(late) <= {3} and done.most_replicas in (3, 4)


# --- Speeds, cold starts, arrivals ------------------------------------------


def test_speeds_between_levels_lie_on_a_line_and_beyond_them_the_total_stays() -> None:
    service = Service.of([(1, 100.0, 0.1), (9, 20.0, 0.5)])
    assert service.at(5).tpot == pytest.approx((0.01 + 0.05) / 2)
    assert service.at(5).ttft == pytest.approx(0.3)
    assert service.at(18).tpot == pytest.approx(0.1)  # half as many tokens for each of twice as many
    assert service.at(1) == Level(1, 0.1, 0.01)


def test_a_service_comes_from_a_sweep_up_to_the_batch_limit() -> None:
    from helpers.bench.analysis.points import Point

    made = [
        Point(concurrency=n, tokens_per_second=100, per_user={50: rate}, ttft={50: wait}, ttft_later=later, whole=20)
        for n, rate, wait, later in ((1, 50.0, 0.1, 0.1), (4, 30.0, 0.2, 0.15), (16, 29.0, 3.0, 3.0))
    ]
    service = Service.from_sweep(made, batch=4)
    assert [one.at_once for one in service.levels] == [1, 4]
    assert service.at(4) == Level(4, 0.15, 1 / 30)
    assert service.source == "measured: concurrency 1 and 4"
    with pytest.raises(WorkshopError, match="closed loops"):
        Service.from_sweep([Point(rate=3.0)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Service([]),
        lambda: Service.of([(1, 0.0, 0.1)]),
        lambda: Service.of([(1, 5.0, -0.1)]),
        lambda: Service.of([(1, 5.0, 0.1), (1, 6.0, 0.1)]),
        lambda: Service.of([(1, 5.0, 0.1)], batch=0),
        lambda: ColdStart(process=-1),
        lambda: ColdStart.of_engine(0, 1e9),
        lambda: ColdStart.of_engine(1e9, math.nan),
        lambda: ColdStart.measured(Observed()),
        lambda: poisson(0, 10),
        lambda: poisson(1, 0),
        lambda: changing([(0, 1)]),
        lambda: changing([(5, 1), (0, 1)]),
        lambda: poisson(1, 10, tokens=0),
        lambda: of_rows([]),
        lambda: run([], QUICK, ELASTIC, WARM),
        lambda: planning.Goal(),
        lambda: planning.Goal(ttft=1, percentile=100),
        lambda: planning.plan(busy(0), QUICK, WARM, planning.Goal(ttft=1), replicas=()),
        lambda: idle.to_zero(QUICK, via=("floppy",)),
        lambda: idle.to_zero(QUICK, sizes=()),
        lambda: against(SimpleNamespace(rows=[], began=0.0, observed=Observed()), QUICK, ELASTIC, WARM),
        lambda: against(SimpleNamespace(rows=[], began=0.0, observed=Observed()), QUICK),
        lambda: run([Arrival(2, 1), Arrival(1, 1)], QUICK, ELASTIC, WARM),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(make: object) -> None:
    with pytest.raises(WorkshopError) as refused:
        make()  # type: ignore[operator]
    assert str(refused.value).endswith(".") and len(str(refused.value)) > 30


def test_an_engine_loads_as_fast_as_it_is_read() -> None:
    made = ColdStart.of_engine(10e9, 2e9, fixed=1.5, process=2, imports=3)
    assert (made.engine, made.seconds) == (6.5, 11.5)


def test_a_cold_start_is_taken_from_marks_and_tells_lone_starts_from_others() -> None:
    marks = [Mark("a", step, at) for step, at in zip(STEPS[:5], (0, 1, 3, 7, 8), strict=True)]
    marks += [Mark("b", step, at) for step, at in zip(STEPS[:5], (20, 22, 26, 34, 36), strict=True)]
    observed = Observed((Moment(0, 0, 0, 0),), tuple(marks))
    found = ColdStart.measured(observed)
    assert (found.process, found.imports, found.engine, found.ready) == (1, 2, 4, 1)
    assert found.beside == pytest.approx(2.0)
    assert found.source == "measured: 2 starts"
    assert sum(found.times(0, 1, True)) == pytest.approx(16)


def test_arrivals_follow_the_rate() -> None:
    load = changing([(0, 0), (100, 20), (100, 5), (300, 5)], seed=3)
    early = [one for one in load if one.time < 100]
    assert len(early) == pytest.approx(1000, rel=0.1) and len(load) - len(early) == pytest.approx(1000, rel=0.1)
    assert sum(one.time < 50 for one in early) == pytest.approx(250, rel=0.2)  # a quarter of a ramp's area
    assert load == sorted(load, key=lambda one: one.time)


def test_a_simulated_run_reads_like_a_measured_one() -> None:
    done = run(busy(2), QUICK, ELASTIC, ColdStart(process=2), 2)
    again = of_rows(done.rows())
    assert [one.time for one in again] == [one.arrival for one in done.requests]
    assert [row.ttft for row in done.rows()] == [one.ttft for one in done.requests]
    assert "Simulated" in str(done) and "assumed" in str(done)
    assert done._repr_html_().count("Simulated") >= 2


# --- Against a measured run, here one that was itself simulated --------------------


def as_measured(done: Simulated, began: float = 1e9) -> SimpleNamespace:
    """A simulated run with the clock of a measured one."""
    moments = [
        Moment(one.time + began, one.starting, one.running, one.stopping, one.target) for one in done.observed.moments
    ]
    marks = [Mark(one.replica, one.step, one.time + began) for one in done.observed.marks]
    return SimpleNamespace(rows=done.rows(), began=began, observed=Observed(moments, marks))


def compared(engine: float, **changes: float) -> Comparison:
    load = changing([(0, 0.5), (20, 4), (20, 8), (40, 8), (40, 0.3), (60, 0.3)], 60, 5)
    scaling = Scaling(max_replicas=2, target_ongoing=4.0)
    cold = ColdStart(process=1, imports=2, engine=1)
    measured = as_measured(run(load, QUICK, scaling, cold, 99))
    return against(measured, QUICK, scaling.with_(**changes), cold.with_(engine=engine), ending=0.0, seeds=10)


def test_a_run_of_the_same_kind_is_within_the_stated_error() -> None:
    found = compared(1)
    assert found.within and not found.missing
    assert {"replicas at most", "up to 1", "up to 2", "TTFT p99"} <= {one.name for one in found.figures}
    assert "all" in found.sentence and "Do not plan" not in found.sentence


def test_another_cold_start_is_not_within_it_and_the_sentence_says_so() -> None:
    found = compared(12)
    assert not found.within
    assert "up to 1" in found.sentence and "Do not plan" in found.sentence


def test_a_simulation_without_a_second_replica_says_what_is_missing() -> None:
    found = compared(1, max_replicas=1)
    assert not found.within
    assert "Up to 2" in found.sentence and "0 of 10 simulated runs" in found.sentence


def test_a_comparison_is_drawn_and_told_and_the_same_twice() -> None:
    first, second = compared(1).picture(), compared(1).picture()
    assert first.svg == second.svg
    assert "measured" in first.alt and "simulated" in first.alt and "TTFT p99" in first.text
    assert "Simulated:" in str(compared(1))


# --- Against recorded runs of the real deployment ---------------------------------


@pytest.mark.parametrize("name", ["openvino-two-cores", "openvino-two-cores-busier"])
def test_the_simulation_is_within_its_stated_error_of_a_recorded_run(name: str) -> None:
    recorded = recording(name)
    found = against(recorded.timeline, recorded.service.with_(sharing=SHARING))
    assert found.within, found.sentence
    assert {"replicas at most", "up to 2", "down to 0", "TTFT p99"} <= {one.name for one in found.figures}
    assert "in this run" in found.typical.assumptions
    for one in found.figures:  # not only the range of the seeds but its middle
        assert abs(one.middle - one.measured) <= one.allowed, one.name


def test_a_run_whose_sweep_had_waits_four_times_as_long_is_not_and_the_sentence_says_so() -> None:
    recorded = recording("openvino-two-cores-disturbed")
    found = against(recorded.timeline, recorded.service.with_(sharing=SHARING))
    assert not found.within and "TTFT p99" in found.sentence and "Do not plan" in found.sentence
    assert {one.name for one in found.figures if one.within} >= {"replicas at most", "up to 1", "up to 2"}


def test_starts_before_a_run_can_be_taken_instead_of_its_own() -> None:
    recorded = recording("openvino-two-cores")
    found = against(recorded.timeline, recorded.service, before=recorded.timeline.observed, seeds=2)
    assert "before this run" in found.typical.cold_start.source
    assert found.typical.cold_start.beside >= 1


def test_an_unknown_recording_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(WorkshopError, match="openvino-two-cores"):
        recording("another")


# --- Answers ----------------------------------------------------------------


def test_a_plan_finds_the_cheapest_set_up_that_keeps_the_goal() -> None:
    goal = planning.Goal(ttft=0.5, per_user=25)
    load = changing([(0, 0.5), (200, 0.5), (260, 6), (400, 6), (460, 0.5), (900, 0.5)], 60, 1)
    found = planning.plan(load, QUICK, ColdStart(process=2), goal, replicas=(1, 2, 3, 4), targets=(2, 6))
    kept = [one for one in found.options if one.met]
    assert found.best is not None and found.best.gpu_hours == min(one.gpu_hours for one in kept)
    for one in found.options:
        assert one.met == (one.wait <= 0.5 and (one.rate or 0) >= 25)
    fixed = [one for one in found.options if one.kind == planning.ALWAYS]
    assert [one.wait for one in fixed] == sorted((one.wait for one in fixed), reverse=True)
    assert [one.gpu_hours for one in fixed] == pytest.approx([n * fixed[0].gpu_hours for n in (1, 2, 3, 4)], rel=0.02)
    assert found.sentence.startswith("Simulated: ") and "GPU-hours" in found.sentence
    assert found.picture().svg == found.picture().svg and "assumed" in str(found)


def test_a_plan_without_anything_given_says_what_it_assumes() -> None:
    found = planning.plan()
    assert found.best is not None and found.best.kind == planning.SCALED
    assert "published: the talk" in str(found) and "recorded: " in str(found)
    assert len(found.options[0].done.requests) >= 1000


def test_a_plan_that_nothing_keeps_says_so() -> None:
    found = planning.plan(busy(0), QUICK, WARM, planning.Goal(ttft=0.001), replicas=(1,), targets=(4,))
    assert found.best is None and "no set-up with up to 1 replica keeps" in found.sentence
    assert "no set-up" in found.picture().alt


def test_scale_to_zero_costs_a_cold_start_at_p99_and_saves_hours() -> None:
    found = idle.to_zero(QUICK, per_hour=(2, 30), via=("nvme",), rest=ColdStart(imports=5, source="measured: here"))
    small, large = found.cases[:2], found.cases[2:]
    assert [one.cold for one in (small[0], large[0])] == pytest.approx([5 + 10 / 3, 5 + 50 / 3])
    for one in found.cases:
        assert one.wait > found.kept[one.per_hour].wait
        assert one.gpu_hours < 24 == pytest.approx(found.kept[one.per_hour].gpu_hours, rel=0.01)
    for few, many in (small, large):
        assert few.met > many.met and few.gpu_hours < many.gpu_hours
        assert few.wait == pytest.approx(few.cold + 0.5, abs=0.7)
    told = str(found)
    assert "assumed" in told and "measured: here" in told and "kept warm" in told


def test_recorded_and_published_ways_stand_beside_the_talks_aim() -> None:
    found = idle.to_zero(QUICK, per_hour=(10,), via=("h200",))
    small, large = found.cases
    assert small.cold == pytest.approx(0.521 + 4.09 + 0.328 + 10 / 1.9, rel=0.01)
    for one, seconds in ((small, 10), (large, 60)):
        assert one.keeps_aim == (one.cold < seconds)
    assert "recorded: " in str(found) and "published: the talk aims for less than 10" in found.sentence


def test_a_published_service_gives_each_user_his_share() -> None:
    service = published_service()
    assert 1 / service.at(32).tpot == pytest.approx(5000 / 32) and 1 / service.at(64).tpot == pytest.approx(7000 / 64)
    assert service.batch == 64 and service.source.startswith("published: the talk")


def test_only_one_replica_rests_as_early_as_it_can_and_ends_when_it_would_have() -> None:
    scaling = Scaling(min_replicas=0, max_replicas=1, downscale_delay=10.0)
    load = [Arrival(float(at), 11) for at in (0, 9, 30, 30.2, 60)]
    few, more = (run(load, QUICK, scaling.with_(max_replicas=most), ColdStart(process=2.03), 3) for most in (1, 2))
    assert [one.ended for one in few.requests] == pytest.approx([one.ended for one in more.requests], abs=1e-6)
    ends = [[mark.time for mark in one.observed.marks if mark.step == ENDED] for one in (few, more)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-6) and len(ends[0]) >= 3


def test_every_way_to_load_says_where_its_bandwidth_comes_from() -> None:
    for one in ways().values():
        assert (
            one.rate > 0
            and one.rate_label in ("published", "computed", "assumed", "recorded")
            and len(one.rate_source) > 20
        )
        assert (one.rate_label == "published") == ("https://" in one.rate_source)
