"""The time of a token on several GPUs: how samples become a row, sentences that follow the data, what was recorded."""

import json

import pytest

from helpers import models
from helpers.cards import Card
from helpers.errors import WorkshopError
from helpers.memory import Shape
from helpers.tensor_parallel import beside, links, predict, timing

DEVICE = "NVIDIA H100 80GB HBM3"


def told(ranks, token, exchanges=None, one_shot=None, device=DEVICE):
    """What the worker writes for one run."""
    return {
        **{
            "device": device,
            "ranks": ranks,
            "bytes": 2_200_000_000 // ranks,
            "prompt": 128,
            "host_bound": [0.02, 0.03],
        },
        **{"all_reduces": 44 if ranks > 1 else 0, "all_reduce_bytes": 4096, "token": token},
        **({"exchanges": exchanges, "one_shot": one_shot} if ranks > 1 else {}),
    }


def times(first, second):
    return timing.Times("recorded", "a model", "a machine", (timing.timing([first]), timing.timing([second])))


def test_a_row_is_the_median_of_every_sample_of_every_run():
    runs = [told(2, [0.003, 0.001], [0.00044]), told(2, [0.002], [0.00088, 0.00066])]
    made = timing.timing(runs)
    assert (made.token, made.spread, made.runs) == (0.002, (0.001, 0.003), 2)
    assert made.exchanges == 0.00066 and made.all_reduce == pytest.approx(15e-6)
    assert made.one_shot is None


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        (0.004, 0.002, "2 GPUs are 2.00 times as fast as one here."),
        (0.00301, 0.003, "2 GPUs are no faster than one here."),
        (0.003, 0.004, "2 GPUs are slower than one here."),
    ],
)
def test_the_sentence_says_what_the_rows_say(one, two, said):
    table = times(told(1, [one]), told(2, [two], [0.00044])).table()
    assert said in table.note
    assert f"The 44 all-reduces of 4,096 bytes take 0.44 ms alone, 10.0 µs each: {0.00044 / two:.0%}" in table.note


def test_an_unknown_gpu_is_not_compared_with_a_datasheet():
    told_of = [told(n, [0.003], [0.0004], device="A GPU of tomorrow") for n in (1, 2)]
    assert "datasheet" not in times(*told_of).table().note
    assert "datasheet" in times(told(1, [0.003]), told(2, [0.003], [0.0004])).table().note


def test_what_could_not_be_measured_is_a_dash():
    table = times(told(1, [0.003]), told(2, [0.003], [0.0004], None)).table()
    assert table.rows[0][4:6] == ["–", "–"] and table.rows[1][5] == "–"


# --- What was recorded ---------------------------------------------------------------------


def test_recorded_ranks_agree_with_the_whole_model_and_say_what_machine_it_was():
    found = timing.recorded()
    assert "All within 0.0001." in found.agreement.note
    assert "recorded:" in found.agreement.caption and "two H100s" in found.agreement.note
    names = [row[0] for row in found.agreement.rows]
    assert "bundled" in names and any(name.startswith("TinyLlama's shape") for name in names)


def test_recorded_counts_are_what_the_prediction_says():
    """The same prediction that the notebook makes, checked on models that no test can run."""
    kept = json.loads((timing.FOLDER / "nvidia-h100-x2.json").read_text())
    shapes = {"bundled": models.find().config, **{name: row["config"] for name, row in models.known().items()}}
    for one in kept["models"]:
        shape = Shape.of(next(config for name, config in shapes.items() if one["name"].startswith(name)))
        split = one["split"]
        assert split["parameters"] == predict.rank_parameters(shape, 2)
        assert split["bytes"] == predict.rank_bytes(shape, 2) <= split["allocated"]
        sums = [seen for seen in split["exchanges"] if seen["kind"] == "all-reduce"]
        assert [seen["count"] for seen in sums] == [predict.all_reduces(shape)]
        assert sums[0]["count"] * sums[0]["bytes"] == predict.all_reduce_bytes(shape)


def test_recorded_times_come_from_several_runs_and_hardly_vary():
    for made in timing.recorded().times:
        for one in made.timings:
            assert one.runs >= 3 and one.spread[1] / one.spread[0] < 1.05
        assert [one.ranks for one in made.timings] == [1, 2]


@pytest.mark.parametrize(
    ("name", "link"),
    [("nvidia-h100-x2", "nvlink-4"), ("nvidia-h100-x2-no-p2p", "pcie-5"), ("nvidia-h100-x2-no-p2p", "pcie-4")],
)
def test_the_times_of_links_are_those_that_were_recorded(name, link):
    made = [one for one in timing.recorded(name).times if one.model.startswith("TinyLlama")]
    assert links.links()[link].latency(2) == pytest.approx(made[0].timings[1].all_reduce, rel=0.01)


def test_the_detour_through_the_hosts_memory_is_recorded_as_such_and_costs_time():
    direct, detour = (timing.recorded(name).times for name in ("nvidia-h100-x2", "nvidia-h100-x2-no-p2p"))
    assert "NCCL_P2P_DISABLE=1" in detour[0].table().caption and "NCCL_P2P" not in direct[1].table().caption
    assert detour[0].timings[1].token > direct[1].timings[1].token


def test_one_shot_kernels_are_compared_with_nccl():
    made = timing.timing([told(2, [0.003], [0.0008], [0.0004])])
    table = timing.Times("recorded", "a model", "a machine", (timing.timing([told(1, [0.003])]), made)).table()
    assert "take 50% of NCCL's time" in table.note


def test_the_output_layer_of_the_recorded_transformers_is_explained():
    assert "cuts the last layer too" in timing.recorded().agreement.note


def test_the_recorded_file_names_no_folder_of_the_machine():
    kept = json.loads((timing.FOLDER / "nvidia-h100-x2.json").read_text())
    for one in kept["models"]:
        assert one["command"].startswith("python -m tools.measure_tensor_parallel ") and "/" not in one["command"]
        assert "--name" in one["command"] and "--machine" in one["command"], "the tool refuses to run without"


def test_a_machine_that_was_not_recorded_is_refused_with_those_that_were():
    with pytest.raises(WorkshopError, match="there are nvidia-h100-x2"):
        timing.recorded("nvidia-b200-x8")


def test_without_two_gpus_the_reader_is_told_instead_of_shown_nothing():
    shown = timing.times(models.find())
    assert isinstance(shown, Card) and "No two GPUs" in shown.title


def test_predictions_are_set_beside_what_was_recorded_and_the_sentence_counts_them(monkeypatch):
    table = beside.beside_recorded()
    assert [row[0] for row in table.rows] == [made.model for made in timing.recorded().times]
    tiny = next(row for row in table.rows if row[0].startswith("TinyLlama"))
    assert tiny[2].startswith(f"{predict.step('TinyLlama', 'h100', 1).seconds * 1e3:.2f} → ")
    assert tiny[3] == "3.07 → 3.08 ms"
    right = sum((float(row[4]) >= beside.HELPS) == (float(row[5]) >= beside.HELPS) for row in table.rows)
    assert f"right for {right} of the {len(table.rows)} models" in table.note
    monkeypatch.setattr(beside, "HELPS", 1.3)  # then the 8B's second GPU helped in the prediction only
    assert f"right for {right - 1} of the" in beside.beside_recorded().note
