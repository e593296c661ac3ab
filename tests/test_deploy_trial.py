"""The load of notebook 09, made to the measure of one replica."""

from typing import Any

import pytest
from pods import Pod

from helpers.bench.load import Load
from helpers.deploy import trial
from helpers.deploy.scaling import Scaling
from helpers.errors import WorkshopError

SCALING = Scaling(target_ongoing=8)


class Measured:
    """A result as far as a trial asks it."""

    def __init__(self, **figures: float | None) -> None:
        self.figures = figures
        self.load = Load(
            concurrency=8, requests=24, seconds=4, runs=2, warmup=8, ramp=1.0, input_tokens=62, output_tokens=62
        )

    def value(self, name: str) -> float | None:
        return self.figures.get(name)


def test_one_replica_is_measured_around_what_the_autoscaler_aims_at() -> None:
    assert trial.levels(SCALING, 32) == [1, 8, 32]
    assert trial.levels(SCALING, 8) == [1, 8]
    assert trial.levels(SCALING.with_(max_ongoing=12), 32) == [1, 8, 12]
    assert trial.levels(SCALING.with_(target_ongoing=0.5), 32) == [1, 32]


def test_the_load_is_told_in_parts_of_what_one_replica_gets_through() -> None:
    made: Any = trial.rise_and_burst(Measured(request_rate=4.0, full_rate=300.0, output_rate=240.0), SCALING)
    assert made.capacity == pytest.approx(5.0)  # the slow begin and end of the run do not count
    load = made.load
    assert load.profile == ((0, 0.5), (12, 2.5), (12, 10.0), (19, 10.0), (19, 0.5), (26, 0.5))
    assert (load.concurrency, load.requests, load.runs, load.warming, load.lasts) == (None, None, 1, 0, 26)
    assert (load.input_tokens.high, load.output_tokens.high) == (62, 62)
    assert "5.0 requests/s, with 8 in flight" in str(made)


def test_without_a_time_in_which_all_were_in_flight_the_whole_run_counts() -> None:
    made: Any = trial.rise_and_burst(Measured(request_rate=4.0, output_rate=240.0), SCALING)
    assert made.capacity == 4.0


def test_a_load_without_answers_is_refused() -> None:
    with pytest.raises(WorkshopError, match="No request of this load was answered"):
        trial.rise_and_burst(Measured(), SCALING)


@pytest.mark.parametrize(
    ("machine", "gpus_a_replica", "most"), [("rtx-4090", 1, 1), ("two-4090", 1, 2), ("two-4090", 2, 1)]
)
def test_there_are_as_many_replicas_as_the_gpus_have_room_for(machine, gpus_a_replica, most, tmp_path, monkeypatch):
    Pod(machine, tmp_path).enter(monkeypatch)
    assert trial.most_replicas(gpus_a_replica) == most


def test_on_a_cpu_replicas_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKSHOP_TOOLCHAIN", "openvino")
    assert trial.most_replicas() == 2
