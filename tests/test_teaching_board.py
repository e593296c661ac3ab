"""The progress board: states, where to go on, and what it says after a break."""

import json
import subprocess
import sys
import time

from helpers import stage, teaching, workspace
from helpers.teaching import journal
from helpers.teaching.board import AHEAD, BEGUN, DONE, STOPPED, state_of
from helpers.teaching.journal import Entry
from helpers.teaching.notebooks import heading_above


def code_of(number: str):
    return [cell for cell in teaching.named(number).cells if cell.kind == "code"]


def ran(number: str, count: int, ok: bool = True, began: float | None = None) -> None:
    """Note that the first cells of a notebook were run; the last of them ended as ``ok`` says."""
    began = time.time() if began is None else began
    for index, cell in enumerate(code_of(number)[:count]):
        last = index == count - 1
        journal.write(teaching.named(number).name, Entry(cell.id, began + index, 2.0, ok or not last, "openvino"))


def row(number: str):
    return next(row for row in teaching.board().rows if row.notebook.number == number)


def test_in_an_empty_workspace_one_begins_at_the_beginning():
    board = teaching.board()
    assert [row.notebook.name for row in board.rows] == [book.name for book in teaching.notebooks()]
    assert {row.state for row in board.rows} == {AHEAD}
    assert board.next.startswith("next: 00, cell 'Start here'.")
    assert "Under way" not in str(board)
    assert "Cut off" not in str(board)


def test_a_stage_is_cut_off_until_its_artifact_is_there_by_whichever_way():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    target = workspace.home() / "engines" / "one"
    run = stage.run_directory("one")
    said = {"state": "running", "title": "Build one", "pid": gone.pid, "log": str(run / "log.txt"), "started": 0.0}
    (run / "progress.json").write_text(json.dumps({**said, "target": str(target)}))
    assert teaching.board().cut_off == ("Build one",)
    with workspace.lock(target):  # as one that is restored from a bundle
        workspace.publish(workspace.making_place(target), target, workspace.Manifest("engine", "Build one"))
    assert teaching.board().cut_off == ()


def test_one_goes_on_at_the_first_cell_that_was_not_run():
    journal.write(teaching.named("03").name, Entry(code_of("03")[0].id, 1.0, 1.0, True, "openvino"))
    journal.write(teaching.named("03").name, Entry(code_of("03")[4].id, 2.0, 1.0, True, "openvino"))
    assert row("03").going_on == code_of("03")[1]


def test_an_answered_exercise_is_not_gone_back_to():
    exercise = next(i for i, cell in enumerate(code_of("03")) if "exercise" in cell.tags)
    for cell in [*code_of("03")[:exercise], code_of("03")[exercise + 1]]:
        journal.write(teaching.named("03").name, Entry(cell.id, 1.0, 1.0, True, "openvino"))
    assert row("03").going_on == code_of("03")[exercise + 2]


def test_the_board_fits_a_terminal_and_folds_what_is_seldom_asked():
    for book in teaching.notebooks():
        ran(book.number, 6, ok=False)
    board = teaching.board()
    assert max(map(len, str(board).splitlines())) <= 110
    assert "<details>" in board._repr_html_()


def test_a_notebook_that_was_begun_goes_on_after_the_cells_that_were_run():
    ran("03", 3)
    there = row("03")
    assert there.state == BEGUN
    assert there.going_on == code_of("03")[3]
    assert there.seconds == 6.0
    assert there.row()[3] == f"3 of {len(code_of('03'))}"
    board = teaching.board()
    heading = heading_above(teaching.named("03"), code_of("03")[3])
    assert board.next == f"next: 03, cell '{heading}'."


def test_a_cell_that_ended_with_an_error_is_run_again():
    ran("03", 3, ok=False)
    there = row("03")
    assert there.state == STOPPED
    assert there.going_on == code_of("03")[2]
    assert "which ended with an error" in teaching.board().next


def test_a_cell_that_went_well_at_last_stopped_nothing():
    ran("03", 3, ok=False, began=100.0)
    ran("03", 3, began=200.0)
    assert row("03").state == BEGUN


def test_a_notebook_is_done_once_its_last_cell_has_run():
    last = code_of("03")[-1]
    journal.write(teaching.named("03").name, Entry(last.id, 1.0, 1.0, True, "openvino"))
    assert state_of(teaching.named("03"), journal.last_run(teaching.named("03").name)) == (DONE, None)
    board = teaching.board()
    assert board.next.startswith("next: 04, cell ")
    assert "First run teaching.catch_up('04')" in board.next, "03 was run, but what it made is not there"


def test_a_cell_that_is_no_longer_in_the_notebook_is_passed_over():
    journal.write(teaching.named("03").name, Entry("a-cell-of-last-year", 1.0, 1.0, True, "openvino"))
    assert row("03").state == AHEAD


def test_states_are_told_by_word_and_sign_in_both_forms():
    ran("03", 3, ok=False)
    ran("01", 2)
    board = teaching.board()
    for shown in (str(board), board._repr_html_()):
        assert "✗ stopped at an error" in shown
        assert "◐ begun" in shown
        assert "○ not begun" in shown
        assert board.next.split("'")[0] in shown.replace("&#x27;", "'")


def test_the_board_links_to_the_notebook_to_go_on_with():
    ran("03", 3)
    assert "href='03_fp16_build.ipynb'" in teaching.board()._repr_html_()


def test_what_a_catch_up_would_make_is_told():
    there = row("08")
    assert there.workspace_row()[-1].startswith("4 of 4 missing, ")
    assert row("00").workspace_row()[-1] == "–"


def test_the_board_is_there_at_once():
    teaching.board()
    began = time.process_time()
    teaching.board()
    assert time.process_time() - began < 1


def test_a_bundle_that_went_away_does_not_take_the_board_with_it(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKSHOP_BUNDLE", str(tmp_path / "unplugged"))
    assert teaching.board().rows
