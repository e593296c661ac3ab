"""What a deployment did over time, and cold starts taken apart: from made rows and marks to sentences and pictures."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from helpers.bench.load import Load
from helpers.bench.measured import Run
from helpers.bench.results import result
from helpers.deploy.cold_start import ColdStart, side_by_side
from helpers.deploy.marks import append
from helpers.deploy.observed import MOMENTS, Mark, Moment, Observed, last, read
from helpers.deploy.phases import phases
from helpers.deploy.scaling import Scaling
from helpers.deploy.steps import Steps, both, since
from helpers.deploy.timeline import Counts, Timeline
from helpers.errors import WorkshopError
from tests.bench_folders import write
from tests.deployments import BEGAN, PROFILE, marks, moments, row, usual

LOAD = Load(profile=PROFILE)
SCALING = Scaling(to_zero_delay=6.0)


@pytest.fixture
def made() -> Timeline:
    rows, observed = usual(LOAD)
    return Timeline(rows, BEGAN, observed, LOAD, SCALING, "FP16 engine")


def small(*rows: tuple[float, float | None], observed: Observed, **more: object) -> Timeline:
    """A timeline of a few requests: when each was sent, and its wait."""
    return Timeline([row(place, at, wait) for place, (at, wait) in enumerate(rows)], BEGAN, observed, **more)  # type: ignore[arg-type]


def settings(timeline: Timeline, scaling: Scaling | None = None) -> dict[str, str]:
    return {str(line[0]): str(line[2]) for line in timeline.settings(scaling).rows}


# --- Counts that change -----------------------------------------------------------


def test_requests_in_flight_are_spans_that_overlap() -> None:
    steps = Steps.spans([(0, 2), (1, 3), (2, 4)])
    assert [steps.at(at) for at in (-1, 0, 1, 2, 3, 4)] == [0, 1, 2, 2, 1, 0]
    assert steps.most(0, 4) == 2 and steps.mean(0, 4) == 6 / 4 and steps.path(0, 5) == [1, 2, 1, 0]
    assert list(steps.pieces(0.5, 2.5)) == [(0.5, 1, 1), (1, 2.5, 2)]
    assert both(steps, Steps([0], [10]), lambda a, b: a * b).at(1) == 20


def test_a_short_break_does_not_end_what_holds() -> None:
    holds = Steps([0, 2, 5, 5.5, 8], [0, 1, 0, 1, 0])
    assert since(holds, 7.9, 1.0) == 2 and since(holds, 7.9, 0.4) == 5.5
    assert since(holds, 12, 1.0) is None


# --- Phases -----------------------------------------------------------------------


def test_a_profile_has_parts_by_its_shape() -> None:
    def named(*points: tuple[float, float]) -> list[tuple[str, float, float]]:
        load = Load(profile=points)
        return [(one.name, one.begin, one.end) for one in phases(load, 0.0, points[-1][0] + 5)]

    assert named(*PROFILE) == [("ramp", 0, 20), ("burst", 20, 30), ("after", 30, 45), ("no load", 45, 50)]
    calm = ((0, 1), (5, 1), (5, 9), (8, 9), (8, 1), (9, 1), (9, 9), (12, 9), (12, 1), (15, 1))
    assert [name for name, *_ in named(*calm)] == ["before", "burst", "between", "burst", "after", "no load"]
    assert [name for name, *_ in named((0, 1), (5, 9), (9, 1))] == ["ramp", "after", "no load"]
    assert [name for name, *_ in named((0, 2), (5, 2))] == ["load", "no load"]


def test_other_loads_are_one_part() -> None:
    assert [(one.name, one.end) for one in phases(Load(concurrency=2), 7.0, 9.0)] == [("load", 7.0), ("no load", 9.0)]
    assert [one.name for one in phases(None, 7.0, 7.0)] == ["load"]
    cut = phases(LOAD.with_(seconds=25), 25.0, 40.0)
    assert [(one.name, one.end) for one in cut] == [("ramp", 20), ("burst", 25), ("no load", 40)]


# --- What happened ----------------------------------------------------------------


def test_the_usual_course_is_told_from_none_to_two_and_back(made: Timeline) -> None:
    assert [(one.before, one.after) for one in made.scaled] == [(0, 1), (1, 2), (2, 1), (1, 0)]
    assert made.settled() and made.counts == Counts(len(made.rows), len(made.rows), {}, 0)
    assert [round(at, 1) for at in made.asks] == [0.1, 22.4]
    assert "The first request met no replica and got its first token after 4.10 s, of which 4.00 s" in made.said
    assert "A second replica was asked for 2.4 s after the burst began, and took requests 3.6 s later." in made.said
    assert "back to one at 39.0 s (9.0 s after the burst ended) and to none at 52.5 s" in made.said
    assert f"All {len(made.rows)} requests that were sent were answered whole: none was lost." in made.said
    assert made.warm_wait == pytest.approx(0.05) and max(wait for _, wait in made.affected) == pytest.approx(4.1)


def test_the_opposite_is_told_as_well() -> None:
    warm = Observed(moments((-3, 0, 1, 0), until=12), marks("a", -60, -59, -58, -57, -56))
    told = small((0, 0.1), (1, 0.1), (2, 0.1), observed=warm, scaling=Scaling(min_replicas=1)).said
    assert "A replica was running when the first request came, which got its first token after 100 ms." in told
    assert "No second replica was asked for (1 requests in flight at most, 8 aimed at" in told
    assert "No request waited over 3 times" in told and "went back" not in told
    early = Observed(moments((-1, 0, 1, 0), (15, 1, 1, 0), until=60), marks("b", 15))
    assert "asked for 5.0 s before the burst began, and never seen to take requests" in (
        small((0, 0.1), (16, 0.1), observed=early, load=LOAD).said
    )
    two = Observed(moments((-1, 0, 2, 0), (5, 0, 1, 1), until=9))
    told = small((0, 0.1), (4.8, 0.1), (8, 0.1), observed=two, scaling=SCALING).said
    assert "There were two replicas from the begin." in told and "to one at 5.0 s (under load)" in told


def test_what_was_lost_is_counted_by_what_became_of_it(made: Timeline) -> None:
    cut = replace(made.rows[5], outcome="cut")
    never = replace(made.rows[6], outcome="no connection", sent=None, first_token=None)
    hung = replace(made.rows[7], outcome="cut", first_token=None)
    broken = replace(made, rows=[*made.rows[:5], cut, never, hung, *made.rows[8:]])
    whole = len(made.rows)
    assert broken.counts == Counts(whole - 1, whole - 3, {"cut": 2, "no connection": 1}, 2)
    assert f"2 of {whole - 1} requests that were sent were lost (2 cut, 1 no connection); 1 never left." in broken.said
    assert "none was lost" not in broken.said


def test_a_first_request_that_fails_is_said_so(made: Timeline) -> None:
    failed = replace(made.rows[0], outcome="timeout", first_token=None)
    told = replace(made, rows=[failed, *made.rows[1:]]).said
    assert "The first request met no replica and got no first token (timeout); one took requests 4.0 s after it" in told
    never = Observed(moments((-1, 0, 0, 0), until=9))
    assert "none was ever seen running" in small((0, 0.1), observed=never).said


def test_without_marks_the_looks_tell_when_replicas_were_asked_for(made: Timeline) -> None:
    bare = replace(made, observed=Observed(made.observed.moments))
    assert [round(at, 2) for at in bare.asks] == [0.25, 22.5]
    assert "asked for 2.5 s after the burst began" in bare.said


def test_a_replica_in_the_place_of_one_that_ended_is_no_second_one() -> None:
    again = marks("a", 0.1, 0.4, 1.6, 3.7, 3.95, ended=11) + marks("b", 20.1, 20.3, 21, 23, 23.9)
    looks = moments(
        (-2, 0, 0, 0), (0.25, 1, 0, 0), (4, 0, 1, 0), (11, 0, 0, 0), (20.25, 1, 0, 0), (24, 0, 1, 0), until=40
    )
    for observed in (Observed(looks, again), Observed(looks)):
        one = small((0, 4.0), (20, 4.0), observed=observed, scaling=SCALING)
        assert len(one.asks) == 2 and one.asked_for(1) == one.asks[0] and one.asked_for(2) is None
        assert "No second replica was asked for" in one.said
        assert "to none at 11.0 s (between requests, with none in flight)" in one.said
        assert settings(one)["upscale_delay"] == "no second replica was asked for"


def test_a_second_replica_that_starts_before_the_load_was_not_asked_for_by_it() -> None:
    noted = [*marks("a", -50, -49, -48, -47, -46), *marks("b", -1.5, -1, 0, 2, 2.9)]
    early = Observed(moments((-2, 1, 1, 0), (3, 0, 2, 0), until=10), noted)
    one = small((0, 0.1), observed=early, scaling=Scaling(min_replicas=2))
    assert "A second replica was starting already when the load began, and took requests at 3.0 s." in one.said
    assert settings(one)["upscale_delay"] == "two were there from the begin"


def test_it_is_at_rest_only_once_nothing_is_left_to_do(made: Timeline) -> None:
    def at_the_end(*state: int, target: int | None = None) -> Timeline:
        last = Moment(BEGAN + 70, *state, target)
        return replace(made, observed=Observed([*made.observed.moments, last]))

    assert at_the_end(0, 0, 0).settled()
    assert not at_the_end(1, 0, 0).settled() and not at_the_end(0, 0, 1).settled() and not at_the_end(0, 1, 0).settled()
    unknown = replace(at_the_end(0, 1, 0, target=1), scaling=None)
    assert unknown.settled() and not replace(at_the_end(0, 2, 0, target=1), scaling=None).settled()
    busy = replace(made, observed=made.observed.between(0, BEGAN + 10))
    assert not busy.settled()


def test_nothing_to_show_is_said_in_a_sentence(tmp_path: Path, made: Timeline) -> None:
    with pytest.raises(WorkshopError, match="No request was sent"):
        Timeline([replace(made.rows[0], sent=None)], BEGAN, made.observed)
    with pytest.raises(WorkshopError, match="Nothing was noted of the replicas"):
        Timeline(made.rows, BEGAN, Observed())
    found = result.read(write(tmp_path / "a", LOAD, [Run(1, BEGAN, made.rows)]))
    with pytest.raises(WorkshopError, match="There is no run 2"):
        Timeline.of(found, made.observed, run=2)
    with pytest.raises(WorkshopError, match="The scaling of this deployment is not known"):
        Timeline.of(found, made.observed).settings()
    assert Timeline.of(found, made.observed, SCALING).said == made.said


def test_a_client_that_did_not_keep_up_is_told(made: Timeline) -> None:
    assert "did not keep up (it slept): its own delays" in replace(made, client_bound="it slept").said


# --- Settings ---------------------------------------------------------------------


def test_each_setting_says_what_it_did(made: Timeline) -> None:
    told = settings(made)
    assert re.search(r"asked for \d\.\d s after .*: as expected \(1 to 3\.8 s\)", told["upscale_delay"])
    assert re.search(r"from 2 to 1 \d\.\d s after .*: as expected", told["downscale_delay"])
    assert told["max_replicas"].startswith("2 running at most: reached")
    assert told["min_replicas"] == "0 running when it had come to rest"
    assert re.search(r"taken away 9\.1 s after the last answer", told["to_zero_delay"])


def test_a_setting_that_was_not_kept_to_is_said_so(made: Timeline) -> None:
    told = settings(made, Scaling(max_replicas=1, upscale_delay=30, downscale_delay=1, to_zero_delay=1, max_ongoing=4))
    assert "2 running, which is more than it allows" in told["max_replicas"]
    assert "sooner than the 30 s asked for" in told["upscale_delay"]
    assert "more than delay, look_back and interval explain" in told["downscale_delay"] + told["to_zero_delay"]
    assert re.search(r"up to \d+ waited in front", told["max_ongoing"])
    assert "not used: 1 kept" in settings(made, Scaling(min_replicas=1))["to_zero_delay"]


def test_settings_that_did_nothing_say_that() -> None:
    warm = Observed(moments((-3, 0, 1, 0), until=12))
    told = settings(small((0, 0.1), (1, 0.1), observed=warm), Scaling(max_ongoing=8))
    assert told["upscale_delay"] == "no second replica was asked for"
    assert told["downscale_delay"] == "no replica was taken away"
    assert "not taken away while" in told["to_zero_delay"] and "the limit was not reached" in told["max_replicas"]
    assert told["target_ongoing"].startswith("never more in flight") and "none had to wait" in told["max_ongoing"]
    assert "not at rest yet" in told["min_replicas"]


# --- Cold starts ------------------------------------------------------------------


def cold(*times: float | None, sent: float = 0.0, first: float = 4.1, extra: tuple[Mark, ...] = ()) -> ColdStart:
    return ColdStart.of(Observed((), (*marks("a", *times), *extra)), BEGAN + sent, BEGAN + first)


def test_parts_of_a_cold_start_add_up_to_what_the_client_waited() -> None:
    one = cold(0.1, 0.4, 1.6, 3.7, 3.95)
    assert list(one.parts) == ["decision", "process", "imports", "engine", "ready", "first token"]
    assert list(one.parts.values()) == pytest.approx([0.1, 0.3, 1.2, 2.1, 0.25, 0.15], abs=1e-5)
    assert one.total == pytest.approx(4.1, abs=1e-5) and not one.missing and not one.late
    assert "the longest part is engine, 2.10 s (51%)" in one.said


def test_a_step_that_nobody_noted_is_not_invented() -> None:
    one = cold(0.1, None, None, 3.7, 3.95)
    assert list(one.parts) == ["decision", "process + imports + engine", "ready", "first token"]
    assert one.total == pytest.approx(4.1, abs=1e-5) and one.missing == ("process", "imported")
    assert "Not noted: process and imported" in one.said


def test_a_step_that_was_noted_late_is_set_to_the_next_one() -> None:
    one = cold(0.6, 0.4, 1.6, 3.7, 4.3)
    assert min(one.parts.values()) >= 0 and one.total == pytest.approx(4.1, abs=1e-5)
    assert one.late == ("asked", "ready") and "Noted late" in one.said
    assert one.parts["first token"] == 0.0 and one.parts["process"] == pytest.approx(0.0, abs=1e-5)


def test_the_replica_that_could_answer_first_is_the_one() -> None:
    other = tuple(marks("b", 0.2, 0.5, 2.0, 5.7, 6.0))
    gone = tuple(marks("c", -20, -19, -18, -17, -16, ended=-5))
    assert cold(0.1, 0.4, 1.6, 3.7, 3.95, extra=other + gone).replica == "a"


def test_a_running_replica_makes_no_cold_start() -> None:
    one = cold(-20, -19, -18, -17, -16, first=0.07)
    assert one.warm and one.parts == {"first token": pytest.approx(0.07, abs=1e-5)}
    assert "running already" in one.said


def test_what_cannot_be_a_cold_start_is_refused() -> None:
    with pytest.raises(WorkshopError, match="No replica was noted"):
        cold(10.0, 11.0, 12.0, 13.0, 14.0)
    with pytest.raises(WorkshopError, match="Give the times of a request"):
        cold(0.1, 0.4, 1.6, 3.7, 3.95, first=0.0)
    for nothing in ({}, {"before": []}):
        with pytest.raises(WorkshopError, match="without a cold start"):
            side_by_side(nothing)


def test_a_change_is_told_only_beyond_the_spread() -> None:
    before = [cold(0.1, 0.4, 1.6, 3.7, 3.9, first=4.0), cold(0.12, 0.43, 1.6, 3.8, 4.0, first=4.1)]
    before.insert(1, cold(0.11, 0.41, 1.6, 3.75, 3.95, first=4.05))
    after = [cold(0.11, 0.41, 1.6, 2.1, 2.3, first=2.4), cold(0.1, 0.42, 1.6, 2.2, 2.4, first=2.5)]
    after.insert(1, cold(0.11, 0.42, 1.6, 2.15, 2.35, first=2.45))
    told = side_by_side({"from the IR": before, "blob": after}).said
    assert "blob against from the IR: in all 1.60 s shorter" in told
    assert "Beyond the spread: engine 1.60 s shorter (2.17 s to 556 ms)" in told or "engine 1." in told
    assert "decision" not in told and "process" not in told
    slower = side_by_side({"blob": after, "from the IR": before}).said
    assert "in all 1.60 s longer" in slower
    assert "nothing differs by more than the spread" in side_by_side({"a": before, "b": before}).said
    assert "fewer than 3 cold starts of each tell no" in side_by_side({"a": before[:2], "b": after}).said
    kept = [cold(-20, -19, -18, -17, -16, first=first) for first in (0.07, 0.07, 0.08)]
    assert "there was no cold start; in all 3.98 s shorter" in side_by_side({"a": before, "kept": kept}).said


# --- How it shows itself ----------------------------------------------------------


def test_pictures_are_whole_the_same_each_time_and_have_their_words(made: Timeline) -> None:
    starts = side_by_side({"before": [cold(0.1, 0.4, 1.6, 3.7, 3.95)], "after": [cold(0.1, None, 1.6, 2.7, 3.0)]})
    for shown in (made, starts):
        picture = shown.picture()
        assert picture.svg == shown.picture().svg
        ElementTree.fromstring(picture.svg)
        assert picture.alt.endswith(".") and len(picture.text.splitlines()) > 5
        assert str(shown.table()) == str(shown) and shown.said in str(shown)
    assert "Replicas went to one at 4.0 s, to two at 26.0 s, to one at 39.0 s and to none at 52.5 s." in (
        made.picture().alt
    )
    assert "process + imports" in str(starts) and "–" in str(starts)
    assert "<svg role='img' aria-label=" in (page := starts._repr_html_()) and "<table" in page
    one = starts.named["before"][0]
    assert "<table" in one._repr_html_() and "imports" in str(one)


def test_a_picture_is_drawn_also_of_little(made: Timeline) -> None:
    warm = Observed(moments((-3, 0, 1, 0), until=3))
    for rows in ([row(0, 0.0, 0.1)], [replace(row(0, 0.0, None), outcome="cut")]):
        ElementTree.fromstring(Timeline(rows, BEGAN, warm).picture().svg)
    closed = Timeline(made.rows, BEGAN, made.observed, Load(concurrency=4))
    assert "–" in str(closed.table()) and "–" in str(closed.over_time())
    assert str(Timeline(made.rows, BEGAN, made.observed, Load(rate=4.0)).picture())


def test_the_table_over_time_has_all_requests_and_not_too_many_rows(made: Timeline) -> None:
    table = made.over_time()
    assert len(table.rows) <= 30 and sum(int(str(line[2])) for line in table.rows) == len(made.rows)
    assert sum(int(str(line[3]).replace(",", "")) for line in made.table().rows) == len(made.rows)


def test_the_last_look_is_the_last_whole_line_of_however_many(tmp_path):
    file = tmp_path / MOMENTS
    assert last(tmp_path) is None
    for number in range(200):
        append(file, Moment(1795687724.123 + number, 0, 1, 0, 1).told())
    with file.open("a") as open_end:
        open_end.write('{"time": 17956')
    assert last(tmp_path) == read(tmp_path).moments[-1]
    assert last(tmp_path).time == 1795687724.123 + 199
