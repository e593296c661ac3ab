"""Measurements of other machines are shown as what they are: recorded, where, when and how."""

import importlib
import json
import re
from dataclasses import replace

import pytest

from helpers import hardware, plots
from helpers.errors import WorkshopError
from helpers.hardware import Datasheet, Roofline

# The function of that name hides the module from an import statement.
module = importlib.import_module("helpers.hardware.recorded")

OWN = Roofline("A CPU, 2 cores", 15e9, {"fp32": 150e9, "bf16": 400e9}, "2.13", 3.0)
SHEET = Datasheet(
    key="h100",
    name="H100 SXM",
    match="H100 80GB HBM3",
    architecture="Hopper",
    compute_capability=(9, 0),
    memory_bytes=80 * 10**9,
    bandwidth=3.35e12,
    rates={"fp16": 990e12},
    source="a page",
)
GPU = Roofline("NVIDIA H100 80GB HBM3", 1.5e12, {"fp16": 500e12}, "2.9.1", 3.0, published=SHEET)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of recordings of its own."""
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return tmp_path


def kept(name, bandwidths):
    """What a file holds that was measured so often."""
    return {
        "gpu": name,
        "machine": "a machine",
        "date": "2026-01-02",
        "versions": {"driver": "580.1", "CUDA": "13.0", "Python": "3.12", "torch": "2.9.1"},
        "command": "python3 helpers/workers/roofline.py --device cuda",
        "runs": [{"bandwidth": b, "rates": {"fp16": 100 * b}, "seconds": 3.0} for b in bandwidths],
    }


def test_every_recording_is_whole_and_says_how_it_was_made():
    files = sorted(module.FOLDER.glob("*.json"))
    assert [one.name for one in sorted(hardware.recordings(), key=lambda one: one.name)] == [f.stem for f in files]
    for file in files:
        one = hardware.recorded(file.stem)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", one.date)
        assert one.runs >= 5
        assert {"driver", "CUDA", "Python", "torch"} <= set(one.versions)
        assert one.command == "python3 helpers/workers/roofline.py --device cuda"
        assert {"fp32", "fp16", "bf16"} <= set(one.rates)
        for low, high in one.spread.values():
            assert 0.9 < low <= 1 <= high < 1.1  # more would be a machine that others used meanwhile
        text = str(one)
        assert text.startswith(f"recorded: limits of {one.device}")
        assert one.machine in text
        assert one.date in text


def test_an_h100_is_recorded_and_reached_less_than_its_datasheet():
    one = hardware.recorded("nvidia-h100")
    sheet = hardware.datasheet(one.device)
    assert 0.7 * sheet.bandwidth < one.bandwidth < sheet.bandwidth
    assert 0.6 * sheet.rates["fp16"] < one.rates["fp16"] < sheet.rates["fp16"]
    assert 1.5 < one.rates["fp8"] / one.rates["fp16"] < 2.1


def test_medians_and_spread_are_computed_from_the_runs(folder):
    (folder / "some-gpu.json").write_text(json.dumps(kept("NVIDIA Some", [1e12, 4e12, 2e12])))
    one = hardware.recorded("some-gpu")
    assert (one.bandwidth, one.rates) == (2e12, {"fp16": 2e14})
    assert one.spread["bandwidth"] == one.spread["fp16"] == (0.5, 2.0)
    assert "medians of 3 runs, which lay between 50.0% and 200.0% of them" in str(one)


def test_the_fastest_memory_comes_first(folder):
    for name, bandwidth in (("a", 1e12), ("b", 3e12)):
        (folder / f"{name}.json").write_text(json.dumps(kept(name, [bandwidth])))
    assert [one.name for one in hardware.recordings()] == ["b", "a"]
    with pytest.raises(WorkshopError, match="recorded as 'c': there are a, b"):
        hardware.recorded("c")


def test_beside_ones_own_each_column_says_where_it_comes_from():
    other = hardware.recorded("nvidia-h100")
    table = hardware.beside(OWN, other)
    assert table.columns == ("limit", "measured here: A CPU, 2 cores", f"recorded: {other.device}")
    assert [row[0] for row in table.rows][:3] == ["memory", "FP32 matrix product", "FP16 matrix product"]
    assert table.rows[2][1] == "–"
    assert f"The recorded {other.device} moves {other.bandwidth / 15e9:.3g} times as many" in table.note
    assert table.note.endswith("as this machine.")
    assert f"{other.date}, driver {other.versions['driver']}, torch {other.versions['torch']}" in table.note
    assert hardware.beside(OWN).columns[2:] == tuple(f"recorded: {one.device}" for one in hardware.recordings())


def test_a_gpus_own_datasheet_stands_between():
    table = hardware.beside(GPU, hardware.recorded("nvidia-h100"))
    assert table.columns[1:3] == ("measured here: NVIDIA H100 80GB HBM3", "datasheet: H100 SXM")
    assert table.rows[0][2] == "3,350.0 GB/s"
    assert "moves 1.97 times" in table.note


def test_what_was_not_measured_is_not_called_measured():
    table = hardware.beside(replace(GPU, torch="", label="datasheet", published=None), hardware.recorded("nvidia-h100"))
    assert table.columns[1] == "datasheet: NVIDIA H100 80GB HBM3"
    assert "easured" not in str(table)
    assert "as the datasheet figures of the NVIDIA H100 80GB HBM3." in table.note


def test_the_picture_names_what_is_recorded():
    other = hardware.recorded("nvidia-h100")
    picture = plots.roofline(GPU, GPU.published, other)
    assert "recorded: limit: memory 2," in picture.text
    assert "datasheet: limit of H100 SXM: memory 3,350 GB/s" in picture.text
    alone = plots.roofline(GPU)
    assert "recorded" not in alone.text
    assert plots.roofline(GPU, None).svg == alone.svg
    assert plots.roofline(OWN, other).text.count(f"recorded: limit of {other.device}") == 1
    assert plots.roofline(other).alt.startswith("recorded: roofline of NVIDIA H100")
