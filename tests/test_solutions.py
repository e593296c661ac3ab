"""Every notebook has exercises that fail helpfully as they are, and solutions that pass, with the same questions."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools import format_notebooks
from tools.run_notebooks import text_of_outputs

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SOLUTIONS = ROOT / "notebooks" / "solutions"


def cells(file: Path) -> list[dict]:
    return json.loads(file.read_text())["cells"]


def text(cell: dict) -> str:
    return "".join(cell["source"])


def tagged(file: Path, tag: str) -> list[dict]:
    return [cell for cell in cells(file) if tag in cell["metadata"].get("tags", [])]


def questions(file: Path) -> dict[str, str]:
    """Each exercise's id, and its question: the end of the text before it, from the heading on, without the marks."""
    every = cells(file)
    before = {after["id"]: text(cell) for cell, after in itertools.pairwise(every)}
    return {cell["id"]: before[cell["id"]].partition("# Your turn")[2] for cell in tagged(file, "exercise")}


def solution_of(lesson: Path) -> Path:
    return SOLUTIONS / lesson.name


# --- As they are written


def test_every_notebook_has_two_to_four_exercises_and_a_notebook_of_solutions() -> None:
    counts = {lesson.stem: len(tagged(lesson, "exercise")) for lesson in LESSONS}
    assert len(counts) == 11
    assert {name: count for name, count in counts.items() if not 2 <= count <= 4} == {}
    assert [file.name for file in sorted(SOLUTIONS.glob("*.ipynb"))] == [lesson.name for lesson in LESSONS]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda file: file.stem)
def test_exercises_call_their_check_and_are_not_answered(lesson: Path) -> None:
    for cell in tagged(lesson, "exercise"):
        assert "exercises.check_" in text(cell), cell["id"]
        assert "None" in text(cell), f"{cell['id']} is answered already"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda file: file.stem)
def test_solutions_have_the_lessons_questions_in_the_lessons_words(lesson: Path) -> None:
    found = {
        cell["id"].removesuffix("-question"): text(cell).partition("# Your turn")[2]
        for cell in cells(solution_of(lesson))
        if cell["id"].endswith("-question")
    }
    asked = questions(lesson)
    assert all(asked.values()), "a question has no heading that begins with 'Your turn'"
    assert found == asked
    assert list(found) == list(asked), "another order than the lesson's"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda file: file.stem)
def test_each_solution_has_a_wrong_answer_a_right_one_and_the_reason(lesson: Path) -> None:
    solution = solution_of(lesson)
    named = {cell["id"]: text(cell) for cell in cells(solution)}
    for exercise in tagged(lesson, "exercise"):
        check = text(exercise).partition("exercises.check_")[2].partition("(")[0]
        for part in ("wrong", "solution"):
            assert f"exercises.check_{check}(" in named[f"{exercise['id']}-{part}"]
        assert len(named[f"{exercise['id']}-why"].split()) >= 20
    assert len(tagged(solution, "solution")) == len(tagged(solution, "wrong")) == len(tagged(lesson, "exercise"))


def test_solutions_are_in_canonical_form_and_checked_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    for file in SOLUTIONS.glob("*.ipynb"):
        assert format_notebooks.departures(file.read_text()) == [], file.name
    assert SOLUTIONS in format_notebooks.FOLDERS
    assert format_notebooks.main([]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.startswith("22 notebooks")


# --- As they run

Executed = tuple[Path, "subprocess.CompletedProcess[str]"]


def shown(folder: Path, name: str, tag: str) -> dict[str, str]:
    """What each cell with a tag of an executed notebook showed, by the cell's id."""
    import nbformat

    book = nbformat.read(folder / "notebooks" / name, as_version=4)
    return {cell.id: text_of_outputs(cell.outputs) for cell in book.cells if tag in cell.metadata.get("tags", [])}


@pytest.fixture(scope="session")
def solved(in_order: Executed, tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """All notebooks of solutions, run after the lessons: the folder of the copies, and what the runner said."""
    out = tmp_path_factory.mktemp("solved")
    command = [sys.executable, "-m", "tools.run_notebooks", "--notebooks", str(SOLUTIONS), "--out", str(out)]
    return out, subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.notebooks
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda file: file.stem)
def test_the_starting_state_fails_with_a_helpful_sentence(in_order: Executed, lesson: Path) -> None:
    out, done = in_order
    assert done.returncode == 0, done.stdout + done.stderr
    for cell, said in shown(out, lesson.name, "exercise").items():
        assert "Not answered yet: " in said, cell
        assert len(said.partition("Not answered yet: ")[2].split()) >= 8, cell
        assert "Right." not in said, cell


@pytest.mark.notebooks
def test_all_solutions_run_after_the_lessons(solved: Executed) -> None:
    out, done = solved
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((out / "notebooks").glob("*.ipynb"))) == len(LESSONS)


@pytest.mark.notebooks
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda file: file.stem)
def test_solutions_are_right_and_the_plausible_answer_is_told_why_not(solved: Executed, lesson: Path) -> None:
    right, wrong = (shown(solved[0], lesson.name, tag) for tag in ("solution", "wrong"))
    assert len(right) == len(wrong) == len(tagged(lesson, "exercise"))
    for cell, said in right.items():
        assert "Right" in said, f"{cell}: {said}"
    for cell, said in wrong.items():
        assert "Right" not in said and "Not answered" not in said, f"{cell}: {said}"
        assert "Not " in said, f"{cell}: {said}"
