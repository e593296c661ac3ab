"""The evening before: what is measured, what is only expected, and what is known of nothing; and what a pod costs."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from helpers import __main__ as command_line
from helpers import hardware, teaching, workspace
from helpers.cards import Table
from helpers.errors import WorkshopError
from helpers.teaching import cost as counting  # the function: what a notebook calls
from helpers.teaching import journal, rehearsal
from helpers.teaching.cost import STOP, VARIABLE, line
from helpers.teaching.notebooks import named


@pytest.fixture(autouse=True)
def no_price_no_gpu_no_record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine of these tests: a CPU, with nothing set and nothing recorded elsewhere."""
    for name in (VARIABLE, "WORKSHOP_BUNDLE", "RUNPOD_POD_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORKSHOP_TOOLCHAIN", "openvino")
    monkeypatch.setattr(rehearsal, "CELL_TIMES", tmp_path / "cell-times")


def ran(name: str, seconds: float, toolchain: str = "openvino", began: float = 1e9) -> None:
    """Note in the journal that every code cell of a notebook took so long."""
    for index, cell in enumerate(cell for cell in named(name).cells if cell.kind == "code"):
        start = began + index * seconds
        journal.write(named(name).name, journal.Entry(cell.id, start, seconds, True, toolchain))


def row_of(table: Table, word: str) -> list[str]:
    return next([str(cell) for cell in row] for row in table.rows if word in str(row[0]))


def test_what_was_run_here_is_given_as_measured_here() -> None:
    ran("03", 2)
    times = rehearsal.rehearse(only=["03", "04"]).times()
    assert row_of(times, "(03)")[-1] == "measured: slowest run on this machine"
    assert row_of(times, "(04)")[-3:] == ["–", "", rehearsal.NONE]
    assert "of 1 notebook nothing is known" in times.note


def test_a_cpus_times_are_not_given_as_a_gpus() -> None:
    ran("03", 40)
    made = rehearsal.rehearse("rtx-4090", ["03"])
    assert row_of(made.times(), "(03)")[-1] == rehearsal.NONE
    assert not made.slowest().rows
    assert not made.beforehand().rows
    assert "No cell's time is known" in made.slowest().note


def test_a_gpus_times_are_not_given_as_this_cpus() -> None:
    ran("03", 40, "tensorrt_llm")
    assert row_of(rehearsal.rehearse(only=["03"]).times(), "(03)")[-1] == rehearsal.NONE


def test_what_another_machine_recorded_stands_in_where_this_one_has_run_nothing() -> None:
    seconds = {cell.id: 3.0 for cell in named("03").cells if cell.kind == "code"}
    rehearsal.CELL_TIMES.mkdir()
    about = {"machine": "Some CPU, 2 cores", "toolchain": "openvino", "date": "2026-11-26"}
    content = about | {"seconds": {"03_fp16_build": seconds}}
    (rehearsal.CELL_TIMES / "one.json").write_text(json.dumps(content))
    evidence = row_of(rehearsal.rehearse(only=["03"]).times(), "(03)")[-1]
    assert evidence == "recorded: Some CPU, 2 cores, 2026-11-26"
    ran("03", 2)
    assert row_of(rehearsal.rehearse(only=["03"]).times(), "(03)")[-1].startswith("measured")


def test_a_record_is_written_from_the_journal_and_read_again() -> None:
    with pytest.raises(WorkshopError, match="Nothing was run in this workspace"):
        rehearsal.record(rehearsal.CELL_TIMES / "one.json", "")
    ran("03", 2.25)
    rehearsal.record(rehearsal.CELL_TIMES / "one.json", "idle")
    (found,) = rehearsal.recorded()
    assert set(found.seconds) == {"03_fp16_build"}
    assert set(found.seconds["03_fp16_build"].values()) == {2.25}
    assert "(idle)" in found.machine


def test_the_record_of_this_repository_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "CELL_TIMES", workspace.DATA / "measured" / "cell-times")
    found = rehearsal.recorded()
    assert found
    names = {notebook.name for notebook in teaching.notebooks()}
    assert all(set(one.seconds) <= names for one in found)


def test_slow_cells_come_with_the_command_that_runs_them_beforehand() -> None:
    ran("03", 31)
    ran("04", 1)
    table = rehearsal.rehearse(only=["03", "04"]).beforehand()
    assert [row[-1] for row in table.rows] == ['make workshop ONLY="03"']
    assert "catch-up" in table.note


def test_cells_that_measure_are_not_made_beforehand_and_making_counts_not_finding() -> None:
    ran("08", 40)
    assert not rehearsal.rehearse(only=["08"]).beforehand().rows
    ran("03", 31)
    ran("03", 1, began=2e9)
    assert len(rehearsal.rehearse(only=["3"]).beforehand().rows) == 1


def test_notebooks_run_by_turns_are_not_counted_twice() -> None:
    now = time.time()
    ran("03", 10, began=now - 600)
    ran("04", 10, began=now - 600)
    used = counting(1.0).used
    assert sum(used.at_work.values()) <= 600


def test_the_rehearsal_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "CELL_TIMES", workspace.DATA / "measured" / "cell-times")
    parts = str(rehearsal.rehearse()).split("\n\n")
    lines = [
        line for part in parts if not part.startswith("Checks") for line in part.splitlines()
    ]  # those name a folder
    assert max(map(len, lines)) <= 110


def test_downloads_tell_what_is_here_and_what_a_pod_has_to_fetch() -> None:
    here = rehearsal.rehearse().downloads()
    assert here.note == "Nothing is left to download."
    pod = rehearsal.rehearse("rtx-4090").downloads()
    assert row_of(pod, "TinyLlama")[1:3] == ["2.20 GB", "✗ to download"]
    assert "✗ to install" in row_of(pod, "TensorRT-LLM")[2]
    assert pod.note.startswith("2 downloads to do")


def test_what_nobody_measured_has_no_figure() -> None:
    table = rehearsal.rehearse("rtx-4090").on_the_gpu()
    assert row_of(table, "engine")[1] == rehearsal.NONE
    assert "datasheet" in row_of(table, "one token")[2]
    labels = ("published:", "predicted:")
    assert all(str(row[1]) == rehearsal.NONE or str(row[2]).startswith(labels) for row in table.rows)


def test_a_gpu_without_a_release_and_words_that_name_nothing_are_refused() -> None:
    with pytest.raises(WorkshopError, match=r"rtx-9999"):
        rehearsal.rehearse("rtx-9999")
    with pytest.raises(WorkshopError, match="No release that the workshop offers has kernels"):
        rehearsal.rehearse("v100").downloads()
    with pytest.raises(WorkshopError, match="There is no notebook '77'"):
        rehearsal.rehearse(only=["03", "77"])
    with pytest.raises(WorkshopError, match="number above 0"):
        rehearsal.rehearse(price_per_hour=-1)


def test_the_rehearsal_shows_the_same_on_a_page_and_in_a_terminal() -> None:
    ran("03", 2)
    made = rehearsal.rehearse("rtx-4090", ["03"], 0.69)
    page, text = made._repr_html_(), str(made)
    for part in made.parts:
        if isinstance(part, Table):
            assert part.caption in text and part.caption in page
    assert "Stop your pod" in text
    assert repr(made) == text


class _Page(HTMLParser):
    """Counts rows and collects what a page would fetch from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.fetched = 0, list[str]()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.rows += tag == "tr"
        if tag in ("script", "link", "img", "iframe"):
            self.fetched.append(tag)


def test_the_playbooks_page_stands_alone_and_holds_every_row(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert command_line.main(["rehearse", "--page", str(file)]) == 0
    text, page = file.read_text(), _Page()
    page.feed(text)
    assert page.rows == len(rehearsal.playbook_rows()) + 1
    assert not page.fetched
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_a_page_in_a_folder_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["rehearse", "--page", str(tmp_path / "no" / "page.html")]) == 1
    assert "There is no folder" in capsys.readouterr().err


def test_every_row_of_the_playbook_is_whole_and_names_commands_that_exist() -> None:
    rows = rehearsal.playbook_rows()
    assert len(rows) >= 12
    commands = set(command_line.parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr, arg-type]
    for row in rows:
        assert all((row.symptom, row.say, row.do, row.source))
        words = row.do.replace(";", " ").replace(".", " ").split("python -m helpers ")[1:]
        assert all(word.split()[0] in commands for word in words), row.do


def test_the_command_line_prints_plain_text() -> None:
    command = [sys.executable, "-m", "helpers", "rehearse", "--gpu", "h100", "--notebooks", "03", "--price", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=workspace.REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "What fails on the day" in done.stdout
    assert "<td" not in done.stdout


# --- Cost ---------------------------------------------------------------------------------


def test_without_a_price_the_meter_says_what_to_give() -> None:
    found = counting()
    assert "teaching.cost(0.69)" in str(found)
    assert line() == ""


def test_a_price_is_kept_and_counts_from_the_first_cell() -> None:
    ran("03", 1, began=time.time() - 1800)
    assert counting(2.0).price_per_hour == 2
    later = counting()
    assert later.price_per_hour == 2
    assert 1795 < later.seconds < 1830
    assert "1.00 for 30 min" in str(later)
    assert STOP in str(later)
    assert line().startswith("1.00 so far (2 an hour, 30 min")


def test_a_long_pause_is_not_paid_for() -> None:
    ran("03", 1, began=time.time() - 5 * 24 * 3600)
    ran("04", 1, began=time.time() - 600)
    found = counting(1.0)
    assert found.seconds < 700
    assert found.used.at_work["03_fp16_build"] < 100


def test_what_is_to_come_is_what_was_not_begun() -> None:
    ran("03", 1)
    rest = sum(notebook.minutes for notebook in teaching.notebooks()) - named("03").minutes
    assert counting(1.0).used.remaining == rest
    assert f"for the {rest} minutes planned" in str(counting())
    for notebook in teaching.notebooks():
        ran(notebook.name, 1)
    assert "nothing: every notebook was begun" in str(counting())


def test_the_environments_price_counts_and_a_bad_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1.5")
    assert counting().price_per_hour == 1.5
    monkeypatch.setenv(VARIABLE, "cheap")
    with pytest.raises(WorkshopError, match="WORKSHOP_PRICE_PER_HOUR is 'cheap'"):
        counting()
    assert line() == ""


@pytest.mark.parametrize("price", [0, -1, float("nan"), float("inf")])
def test_no_price_is_refused(price: float) -> None:
    with pytest.raises(WorkshopError, match="number above 0"):
        counting(price)


def test_a_machine_that_has_the_gpu_gives_its_own_times() -> None:
    ran("03", 40, "tensorrt_llm")
    made = rehearsal.rehearse("rtx-4090", ["03"])
    gpu = hardware.Gpu(0, "NVIDIA GeForce RTX 4090", (8, 9), 24 * 10**9, 23 * 10**9, "580.1")  # as the driver tells it
    there = replace(made, machine=replace(made.machine, gpus=(gpu,)))
    assert row_of(there.times(), "(03)")[-1] == "measured: slowest run on this machine"
    assert there.beforehand().rows
