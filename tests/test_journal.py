"""What was run in a notebook is noted in the workspace by a real kernel, and read back whatever became of it."""

import json

import pytest
from conftest import ROOT

from helpers.errors import WorkshopError
from helpers.teaching import journal, named, notebooks

NAME = "00_start_here"


@pytest.fixture
def opened(kernel):
    """A kernel in which the notebook was opened by its own first cell."""
    first = next(cell for cell in named(NAME).cells if cell.kind == "code")
    assert kernel.run(f"import sys; sys.path.insert(0, {str(ROOT / 'notebooks')!r})").error is None
    assert kernel.run(first.source).error is None
    return kernel


def code_cells():
    return [cell for cell in named(NAME).cells if cell.kind == "code"]


def test_a_cell_of_the_notebook_is_noted_with_its_id_and_its_time(opened):
    cell = next(cell for cell in code_cells() if "hardware.look()" in cell.source)
    assert opened.run(cell.source).error is None
    [entry] = [entry for entry in journal.entries(NAME) if entry.cell == cell.id]
    assert entry.ok and 0 < entry.seconds < 60
    assert entry.toolchain == "openvino"


def test_what_a_learner_wrote_is_not_noted_nor_is_any_source(opened):
    cell = next(cell for cell in code_cells() if "hardware.look()" in cell.source)
    assert opened.run("secret = 'hunter2'").error is None
    assert opened.run(cell.source).error is None
    noted = journal.file_of(NAME).read_text()
    assert "hunter2" not in noted and "hardware" not in noted
    assert {entry.cell for entry in journal.entries(NAME)} == {code_cells()[0].id, cell.id}


def test_a_cell_that_raises_is_noted_as_failed_and_its_latest_run_counts(opened):
    cell = next(cell for cell in code_cells() if cell.source.strip() == "hardware.gpu_table()")
    assert opened.run(cell.source).error is not None, "hardware is not imported yet"
    assert not journal.last_run(NAME)[cell.id].ok
    assert opened.run("from helpers import hardware").error is None
    assert opened.run(cell.source).error is None
    assert journal.last_run(NAME)[cell.id].ok


def test_a_line_that_was_cut_short_is_passed_over():
    journal.write(NAME, journal.Entry("cell-02", 1.0, 2.0, True, "openvino"))
    with journal.file_of(NAME).open("a") as file:
        file.write("\n" + json.dumps({"cell": "x"}) + '\n{"cell": "cell-03", "beg')
    journal.write(NAME, journal.Entry("cell-04", 1.0, 2.0, True, "openvino"))
    assert [entry.cell for entry in journal.entries(NAME)] == ["cell-02", "cell-04"]


def test_a_workspace_that_cannot_be_written_stops_no_lesson(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKSHOP_HOME", str(tmp_path / "file"))
    journal.write(NAME, journal.Entry("cell-02", 1.0, 2.0, True, "openvino"))
    assert journal.entries(NAME) == []


def test_outside_a_kernel_nothing_is_listened_to():
    assert journal.listen(NAME, "openvino") is False


def test_a_notebook_is_found_by_name_and_number_and_a_wrong_one_is_refused_with_those_there_are():
    assert named("03").name == named("03_fp16_build").name == "03_fp16_build"
    with pytest.raises(WorkshopError, match=r"no notebook '99'.*00, 01"):
        named("99")


def test_no_two_code_cells_of_a_notebook_have_the_same_source_unless_either_may_be_noted():
    for notebook in notebooks():
        sources = [cell.source.strip() for cell in notebook.cells if cell.kind == "code"]
        repeated = {source for source in sources if sources.count(source) > 1}
        assert not repeated, (notebook.name, repeated)
