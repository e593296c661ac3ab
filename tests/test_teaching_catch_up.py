"""Catching up: what a notebook needs, how long that takes, and that it is then found by the cells that make it."""

import ast
import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import ROOT, until

from helpers import stage, teaching, workspace
from helpers.errors import WorkshopError
from helpers.teaching import bundle, expected, makes
from helpers.teaching.catch_up import MAKE, PRESENT, RESTORE, Missing, Need, _judged, needed
from helpers.workspace import Manifest
from tools import record_stage_times


def publish(place: str, kind: str, seconds: float) -> workspace.Artifact:
    """Put an artifact into the workspace, as a stage would."""
    target = workspace.home() / place
    target.parent.mkdir(parents=True, exist_ok=True)
    made = workspace.making_place(target)
    (made / "data.bin").write_text("x" * 1500)
    return workspace.publish(made, target, Manifest(kind, place, seconds=seconds))


def catching_up(number: str, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "helpers", "catch-up", number, *more]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


# --- What is needed -------------------------------------------------------------------------


def test_a_notebook_needs_what_those_need_that_it_builds_on():
    assert [one.number for one in needed("08")] == ["03", "07"]
    assert [one.number for one in needed("05_kv_cache_quantization")] == ["03", "04"]
    assert needed("03") == []


def test_a_notebook_that_is_not_there_is_refused():
    with pytest.raises(WorkshopError, match="There is no notebook '42'"):
        teaching.missing("42")


def test_looking_makes_nothing_and_lists_all(own_home):
    found = teaching.missing("08")
    assert [need.state for need in found.needs] == [MAKE] * 4
    assert len({need.place for need in found.needs}) == 4, "each thing once"
    assert workspace.artifacts() == []
    assert not (own_home / "runs").exists()
    for shown in (str(found), found._repr_html_()):
        assert all(need.what in shown for need in found.needs)
        assert "4 things of 4 to get" in shown


def test_what_cannot_be_asked_yet_is_listed_all_the_same(own_home):
    """The batches of notebook 05 read an engine's settings; before there is an engine, their stage has no name."""
    found = [need for step in makes.steps(["05"]) for need in [step.title] if "requests at once" in need]
    assert found
    from helpers.teaching.catch_up import look_at

    assert set(found) <= {need.what for need in look_at(["05"])}


def test_a_notebook_that_needs_nothing_is_ready_at_once():
    assert "needs nothing from earlier notebooks" in teaching.catch_up("03").note


def test_a_bundle_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(WorkshopError, match="nowhere is not there"):
        teaching.catch_up("08", tmp_path / "nowhere")


# --- How long ---------------------------------------------------------------------------------


@pytest.fixture
def recorded(monkeypatch):
    """A record of one machine, twice as slow as this one will turn out to be."""
    stages = {
        "checkpoints/bundled/fp16-tp1": {"kind": "checkpoint", "seconds": 20.0, "bytes": 11_000_000},
        "graphs/bundled": {"kind": "graph", "seconds": 10.0, "bytes": 12_000_000},
        "engines/bundled/openvino-fp8": {"kind": "engine", "seconds": 40.0, "bytes": 15_000_000},
    }
    record = expected.Record("A laptop", "openvino", "2026-11-26", stages)
    monkeypatch.setattr(expected, "records", lambda: (record,))


@pytest.mark.usefixtures("recorded")
def test_times_come_from_the_record_with_the_machines_name():
    found = expected.Clock().of("checkpoints/bundled/fp16-tp1", "checkpoint")
    assert found.seconds == 20.0
    assert found.evidence == "recorded: 20 s on A laptop"


@pytest.mark.usefixtures("recorded")
def test_a_recorded_time_is_scaled_by_how_this_machine_did_so_far():
    publish("graphs/bundled", "graph", 5.0)
    clock = expected.Clock()
    assert clock.of("graphs/bundled", "graph") == expected.Time(5.0, "measured: when it was made here before")
    found = clock.of("checkpoints/bundled/fp16-tp1", "checkpoint")
    assert found.seconds == 10.0
    assert found.evidence == "recorded: 20 s on A laptop, × 0.50 as 1 made here"


@pytest.mark.usefixtures("recorded")
def test_what_was_restored_does_not_count_as_this_machines_pace():
    publish("graphs/bundled", "graph", 5.0)
    expected.note_restored(["graphs/bundled"])
    assert expected.Clock().of("graphs/bundled", "graph").seconds == 10.0


@pytest.mark.usefixtures("recorded")
def test_what_was_never_recorded_takes_as_long_as_others_of_its_kind_or_is_not_known():
    clock = expected.Clock()
    assert clock.of("engines/other/openvino-fp8", "engine").seconds == 40.0
    assert clock.of("captures/bundled/x", "capture").seconds is None
    assert "not known" in clock.of("captures/bundled/x", "capture").evidence
    assert clock.of_download(500_000_000).evidence.endswith("a second, assumed")


def test_the_estimate_is_judged_both_ways():
    need = Need("03", "it", "a/b", MAKE, time=expected.Time(10.0, ""))
    plan = Missing(teaching.named("08"), (need,))
    assert "right within a quarter" in _judged(plan, 11)
    assert "longer than expected: 2.00 times" in _judged(plan, 20)
    assert "less than expected: 0.50 times" in _judged(plan, 5)


def test_the_record_is_written_and_read_back(tmp_path, monkeypatch):
    publish("graphs/bundled", "graph", 5.04)
    publish("benchmarks/one", "benchmark", 60.0)
    file = tmp_path / "times.toml"
    file.write_text(record_stage_times.text_of([record_stage_times.record("B"), record_stage_times.record("A")]))
    monkeypatch.setattr(expected, "RECORD", file)
    expected.records.cache_clear()
    found = expected.records()
    expected.records.cache_clear()
    assert [one.name for one in found] == ["A", "B"]
    assert dict(found[0].stages) == {"graphs/bundled": {"kind": "graph", "seconds": 5.0, "bytes": 1500}}


def test_the_record_that_is_shipped_knows_every_stage_of_the_bundled_model():
    places = {place for record in expected.records() for place in record.stages}
    assert {"checkpoints/bundled/fp16-tp1", "graphs/bundled", "engines/bundled/openvino-fp16"} <= places
    assert all(row["seconds"] >= 0 for record in expected.records() for row in record.stages.values())


# --- It is what the notebooks make -------------------------------------------------------------


def _needed_by(cells: list[str], code: str) -> list[str]:
    """The earlier cells that give a cell its variables, and what those need, in order."""
    read = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    chosen: list[str] = []
    for index in reversed(range(len(cells))):
        tree = ast.parse(cells[index])
        given = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        given |= {alias.asname or alias.name for node in imports for alias in node.names}
        if given & read:
            chosen.insert(0, cells[index])
            read |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return chosen


def _targets_of_cells(number: str) -> dict:
    """Target to whether it is there, of every stage that a notebook's cells tagged ``stage`` come upon."""
    before: list[str] = []
    found = {}
    for cell in teaching.named(number).cells:
        if "stage" in cell.tags and ".generate(" not in cell.source:  # which makes nothing that is kept
            scope: dict = {}
            with stage.looking() as seen, contextlib.suppress(OSError, LookupError, ValueError, WorkshopError):
                for code in [*_needed_by(before, cell.source), cell.source]:
                    exec(code, scope)
            found.update({one.stage.target: one.artifact is not None for one in seen})
        if cell.kind == "code" and "await " not in cell.source:
            before.append(cell.source)
    return found


@pytest.mark.parametrize("number", ["03", "04", "05", "06", "07", "10"])
def test_a_catch_up_makes_what_the_cells_tagged_stage_make(number, own_home):
    """Looked at from nothing, so nothing runs: the names of what a cell would make are what counts."""
    with stage.looking() as seen:
        for step in makes.steps([*(one.number for one in needed(number)), number]):
            with contextlib.suppress(OSError, LookupError, ValueError, WorkshopError):
                step.make()
    made = {one.stage.target for one in seen}
    cells = _targets_of_cells(number)
    assert cells
    assert set(cells) <= made
    assert not (own_home / "runs").exists()


@pytest.mark.slow
def test_after_the_notebooks_there_is_nothing_to_do(made_by_notebooks):
    assert made_by_notebooks.returncode == 0
    began = time.monotonic()
    card = teaching.catch_up("08")
    assert time.monotonic() - began < 5
    assert card.note == "Nothing to do: all that notebook 08 needs is here."
    assert {need.state for need in teaching.missing("05").needs} == {PRESENT}
    assert all(_targets_of_cells("04").values())


# --- Interrupted, killed, restored ---------------------------------------------------------------


def _kill_everything(process: "subprocess.Popen[str]") -> None:
    """What a stopped pod does: no process of it has a last word."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            os.kill(member.pid, signal.SIGKILL)
    psutil.wait_procs(family, timeout=10)
    process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_stopped_pod_leaves_a_usable_workspace_and_the_next_catch_up_goes_on(own_home, tmp_path, monkeypatch):
    working = catching_up("07")
    until(lambda: (own_home / "checkpoints/bundled/fp16-tp1/manifest.json").exists(), 400)
    (title,) = until(lambda: [told["title"] for _, told in stage.runs() if told["state"] == "running"], 60)
    _kill_everything(working)
    kept = (own_home / "checkpoints/bundled/fp16-tp1/manifest.json").read_text()

    board = teaching.board()
    assert board.under_way == ()
    assert board.cut_off == (title,)
    assert f"Cut off before it was done: {title}" in str(board)
    states = [need.state for need in teaching.missing("07").needs]
    assert states == [PRESENT, MAKE, MAKE]

    said, wrong = catching_up("07").communicate(timeout=600)
    assert "What notebook 07 needs" in said, wrong
    assert "done            2 made" in said
    assert "left as it was  1 thing\n" in said
    assert "was expected    predicted: " in said
    assert (own_home / "checkpoints/bundled/fp16-tp1/manifest.json").read_text() == kept
    assert not list(own_home.rglob(".making-*"))
    assert teaching.board().cut_off == ()

    bundle.pack(tmp_path / "bundle", wheels=False)
    monkeypatch.setenv("WORKSHOP_HOME", str(tmp_path / "another"))
    found = teaching.missing("07", tmp_path / "bundle")
    assert [need.state for need in found.needs] == [RESTORE] * 3
    card = teaching.catch_up("07", tmp_path / "bundle")
    assert card.facts["done"] == "3 restored from the bundle"
    assert {need.state for need in teaching.missing("07").needs} == {PRESENT}
    assert expected.made_here() == {}, "what came from elsewhere says nothing of this machine"


def test_a_copy_that_is_not_the_same_thing_is_not_taken(own_home, tmp_path):
    target = own_home / "engines" / "a"
    task = stage.Stage("An engine", "engine", [sys.executable, "-c", "raise SystemExit(1)"], target)
    copy = publish("elsewhere/a", "engine", 3.0).path  # another title, the same options: it is the same thing
    with stage.taking_from(lambda place: copy):
        made = stage.run(task)
    assert made.restored
    assert made.path == target
    other = stage.Stage("Another", "engine", task.command, own_home / "engines" / "b", options={"precision": "fp8"})
    with stage.taking_from(lambda place: copy), pytest.raises(WorkshopError):
        stage.run(other)


def test_a_copy_whose_file_is_damaged_is_made_instead(own_home):
    copy = publish("elsewhere/a", "engine", 3.0).path
    (copy / "data.bin").write_text("y" * 1500)
    code = "import sys, pathlib; pathlib.Path(sys.argv[1], 'made').write_text('here')"
    task = stage.Stage("An engine", "engine", [sys.executable, "-c", code, "{out}"], own_home / "engines" / "a")
    with stage.taking_from(lambda place: copy):
        made = stage.run(task)
    assert not made.restored
    assert (made.path / "made").read_text() == "here"
    assert not list(own_home.rglob(".making-*"))


# --- Following from another tab --------------------------------------------------------------------


def test_a_stage_of_one_process_is_followed_from_a_cell_of_another(kernel, own_home, tmp_path):
    work = "import os, sys, time\nwhile not os.path.exists(sys.argv[2]): time.sleep(0.05)"
    command = [sys.executable, "-c", work, "{out}", str(tmp_path / "go")]
    code = (
        "import sys\nfrom pathlib import Path\nfrom helpers import stage\n"
        f"stage.run(stage.Stage('Engine of a test', 'engine', {command!r}, Path({str(own_home / 'engines' / 'a')!r})))"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=-3, stderr=-3) as other:
        until(lambda: [told for _, told in stage.runs() if told["state"] == "running"])
        kernel.run(f"import os; os.environ['WORKSHOP_HOME'] = {str(own_home)!r}")
        cell = kernel.start("from workshop import start\nfrom helpers import stage\nstage.watch()")
        time.sleep(1.0)
        (tmp_path / "go").touch()
        shown = kernel.finish(cell)
        assert other.wait(10) == 0
    assert shown.error is None
    assert "Engine of a test" in shown.displays[0]["data"]["text/plain"]
    assert "Engine of a test: done" in shown.updates[-1]["data"]["text/plain"]
