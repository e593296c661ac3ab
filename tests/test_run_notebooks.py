"""The runner behind ``make workshop``: small real notebooks in real kernels."""

import datetime
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import notebook_pages
from tools import run_notebooks as rn

ROOT = Path(__file__).resolve().parent.parent


def write(folder: Path, name: str, *cells: str | tuple[str, str]) -> Path:
    """A notebook of code cells; a cell given as a pair has a tag. It opens with a title."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [cell if isinstance(cell, tuple) else (cell, "") for cell in cells]
    code = [new_code_cell(text, metadata={"tags": [tag]} if tag else {}) for text, tag in pairs]
    metadata = {"workshop": {"minutes": 7, "needs": ["nothing"]}}
    book = new_notebook(cells=[new_markdown_cell("# A *small* one\n\nIt adds."), *code], metadata=metadata)
    path = folder / f"{name}.ipynb"
    nbformat.write(book, path)
    return path


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for what a run writes, with Jupyter's own files in it too."""
    for variable, folder in rn.private_folders(tmp_path / "build").items():
        monkeypatch.setenv(variable, folder)
    return tmp_path / "build" / "notebooks"


def run(path: Path, out: Path, timeout: int = 60) -> rn.NotebookRun:
    return rn.run_notebook(path, out, rn.Progress(io.StringIO()), timeout)


def test_a_notebook_that_works_is_timed_and_copied(tmp_path: Path, out: Path) -> None:
    path = write(tmp_path / "nb", "00_a", "import time; time.sleep(1.2)", "import os; os.getcwd()")
    done = run(path, out)
    assert done.problem == ""
    assert done.slowest.startswith("cell 2 (1.")
    copy = nbformat.read(out / "00_a.ipynb", as_version=4)
    assert str((tmp_path / "nb").resolve()) in copy.cells[2].outputs[0].data["text/plain"]
    assert "os.getcwd()" in done.log.read_text()


def test_the_kernel_is_this_python(tmp_path: Path, out: Path) -> None:
    done = run(write(tmp_path, "00_a", "import sys; print(sys.executable)"), out)
    assert done.notebook.cells[1].outputs[0].text.strip() == sys.executable


def test_a_failing_cell_is_shown_with_its_source_and_all_its_output(tmp_path: Path, out: Path) -> None:
    failing = "import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)\n1 / 0"
    done = run(write(tmp_path, "00_a", "'fine'", failing, "'never'"), out)
    for text in ("in cell 3 of 4", "1 / 0", "to stdout", "to stderr", "ZeroDivisionError"):
        assert text in done.problem
    assert "never" not in done.problem
    assert "\x1b" not in done.problem


def test_a_cell_over_its_time_is_a_failure_with_its_output_so_far(tmp_path: Path, out: Path) -> None:
    done = run(write(tmp_path, "00_a", "print('begun', flush=True)\nimport time; time.sleep(60)"), out, 3)
    assert "longer than 3 s in cell 2" in done.problem
    assert "begun" in done.problem
    assert done.seconds < 30


def test_a_kernel_that_dies_is_a_failure(tmp_path: Path, out: Path) -> None:
    done = run(write(tmp_path, "00_a", "import os; os._exit(1)"), out)
    assert "The kernel ended" in done.problem
    assert "os._exit(1)" in done.problem


def test_a_notebook_without_any_output_is_refused(tmp_path: Path, out: Path) -> None:
    assert "did no work" in run(write(tmp_path, "00_a", "x = 1"), out).problem


@pytest.mark.parametrize(
    ("stage", "refused"),
    [
        ("'quick'", True),
        ("print('made earlier')", False),
        ("print('Engine of bundled: done in 0.3 s')", False),
        ("from IPython.display import HTML; HTML('<b>made earlier</b>')", False),
        ("import time; time.sleep(0.6)", False),
    ],
)
def test_a_stage_that_took_no_time_must_show_what_it_made(tmp_path: Path, out: Path, stage: str, refused: bool) -> None:
    done = run(write(tmp_path, "00_a", "'something'", (stage, "stage")), out)
    assert ("did no work where it should" in done.problem) == refused


RAISE = f"""import sys; sys.path.insert(0, {str(ROOT)!r})
from helpers.errors import WorkshopError
raise WorkshopError('no: x; y.')"""


@pytest.mark.parametrize(
    ("mistake", "raised"),
    [(RAISE, ""), ("'all went well'", "nothing"), ("1 / 0", "ZeroDivisionError")],
)
def test_a_mistake_on_purpose_must_raise_the_workshops_error(
    tmp_path: Path, out: Path, mistake: str, raised: str
) -> None:
    done = run(write(tmp_path, "00_a", (mistake, "raises-exception"), "'the last cell runs all the same'"), out)
    assert done.notebook.cells[2].outputs
    if not raised:
        assert done.problem == ""
        return
    line = f"A cell with the tag raises-exception raised {raised}, not WorkshopError, in cell 2 of 3, after "
    assert done.problem.startswith(line)
    assert mistake in done.problem


def test_widget_state_is_neither_needed_nor_kept(tmp_path: Path, out: Path) -> None:
    done = run(write(tmp_path, "00_a", "import ipywidgets; ipywidgets.IntSlider(3)"), out)
    assert done.problem == ""
    assert "widgets" not in done.notebook.metadata


def test_only_picks_by_number_and_names_what_is_missing(tmp_path: Path) -> None:
    for name in ("00_a", "03_b", "04_c"):
        write(tmp_path, name, "1")
    assert [path.stem for path in rn.chosen(tmp_path, ["03", "00"])] == ["00_a", "03_b"]
    assert [path.stem for path in rn.chosen(tmp_path, ["3"])] == ["03_b"]
    with pytest.raises(LookupError, match=r"No notebook 07 .*there are 00, 03, 04"):
        rn.chosen(tmp_path, ["07"])
    with pytest.raises(LookupError, match="No notebooks named"):
        rn.chosen(tmp_path / "empty", [])


def command(folder: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "tools.run_notebooks", "--notebooks", str(folder), "--out", str(out)]


def test_the_command_stops_at_the_first_failure_and_writes_only_below_out(tmp_path: Path) -> None:
    write(tmp_path / "nb", "00_a", "import matplotlib.pyplot; 'done'")
    write(tmp_path / "nb", "01_b", "raise ValueError('broken here')")
    write(tmp_path / "nb", "02_c", "'never'")
    home = tmp_path / "home"
    home.mkdir()
    variables = {**os.environ, "HOME": str(home), "WORKSHOP_HOME": str(tmp_path / "workspace")}
    done = subprocess.run(
        command(tmp_path / "nb", tmp_path / "build"), cwd=ROOT, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert re.search(r"^00_a +\d.* s +slowest: cell 2", done.stdout, re.MULTILINE)
    assert re.search(r"^01_b +\d.* s +FAILED", done.stdout, re.MULTILINE)
    assert "broken here" in done.stdout
    assert str(tmp_path / "build" / "notebooks" / "01_b.log") in done.stdout
    assert "02_c" not in done.stdout
    assert "1 of 3 notebooks ran" in done.stdout
    assert (tmp_path / "build" / "index.html").exists()
    assert list(home.rglob("*")) == []
    assert sorted(path.name for path in (tmp_path / "nb").iterdir()) == [
        "00_a.ipynb",
        "01_b.ipynb",
        "02_c.ipynb",
    ]


def files_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_nothing_is_written_into_a_fresh_clone_not_even_bytecode(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    for name in ("helpers", "tools", "data"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    write(
        clone / "notebooks", "00_a", "import beside", "import sys; sys.path.append('..'); from helpers import cards; 1"
    )
    (clone / "notebooks" / "beside.py").write_text("")
    before = files_in(clone)
    variables = {**os.environ, "WORKSHOP_HOME": str(tmp_path / "workspace")}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    words = [sys.executable, "-m", "tools.run_notebooks", "--out", str(tmp_path / "build")]
    done = subprocess.run(words, cwd=clone, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "build" / "index.html").exists()
    assert sorted(files_in(clone) - before) == []


def test_an_interrupt_ends_the_kernel(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    cell = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(120)"
    write(tmp_path / "nb", "00_a", cell)
    running = subprocess.Popen(command(tmp_path / "nb", tmp_path / "build"), cwd=ROOT, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    assert running.wait(20) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def finished(path: Path, log: Path, problem: str = "") -> rn.NotebookRun:
    """A run as the pages see it."""
    cells = [rn.CellRun(3, 65.0, "engine = build(model)  # <fp16>", True)]
    return rn.NotebookRun(path, nbformat.read(path, as_version=4), log, 70.0, cells, problem)


def test_the_index_says_what_ran_where_and_when(tmp_path: Path) -> None:
    runs = [
        finished(write(tmp_path, "00_a", "1"), tmp_path),
        finished(write(tmp_path, "01_b", "1"), tmp_path, "x"),
    ]
    now = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
    page = notebook_pages.index_page(runs, "a <fast> CPU", "openvino", now)
    for text in (
        '<a href="notebooks/00_a.html">00_a</a>',
        '<a href="notebooks/01_b.ipynb">',
        "A *small* one",
        ">7<",
        "1 min 10 s",
        "cell 3 (1 min 05 s): engine = build(model)  # &lt;fp16&gt;",
        "a &lt;fast&gt; CPU",
        "openvino",
        "2026-01-02 03:04 UTC",
        "1 of 2 notebooks passed",
        'name="viewport"',
        "prefers-color-scheme: dark",
    ):
        assert text in page
    assert page.count(">failed<") == 1


def test_the_index_names_the_toolchain_in_words() -> None:
    assert notebook_pages.toolchain_text() == "OpenVINO on the CPU"


def test_a_page_has_its_neighbours_its_problem_and_no_script(tmp_path: Path) -> None:
    path = write(tmp_path, "01_b", "1")
    page = notebook_pages.notebook_page(finished(path, tmp_path, "it broke"), ["00_a", "01_b", "02_c"], tmp_path)
    assert '<a rel="prev" href="00_a.html">' in page
    assert '<a rel="next" href="02_c.html">' in page
    assert "it broke" in page
    assert "<script" not in page


@pytest.mark.parametrize(
    ("link", "becomes"),
    [
        ("01_b.ipynb", "01_b.html"),
        ("01_b.ipynb#Top", "01_b.html#Top"),
        ("09_z.ipynb", "../../notebooks/09_z.ipynb"),
        ("../data/README.md", "../../data/README.md"),
        ("#here", "#here"),
        ("https://example.org/a", "https://example.org/a"),
        ("data:image/png;base64,AA", "data:image/png;base64,AA"),
    ],
)
def test_links_still_lead_where_they_led(tmp_path: Path, link: str, becomes: str) -> None:
    source, folder = tmp_path / "notebooks" / "00_a.ipynb", tmp_path / "build" / "notebooks"
    page: Any = notebook_pages.relinked(f'<a class="x" href="{link}">', source, folder, {"01_b"})
    assert page == f'<a class="x" href="{becomes}">'
