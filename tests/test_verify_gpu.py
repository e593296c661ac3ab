"""What ``make verify-gpu`` says when it does not go well; ``tests/test_pods.py`` runs it on whole notebooks."""

import sys

import nbformat
import pytest
from pods import Pod, rtx_4090

COMMAND = [sys.executable, "-m", "tools.verify_gpu"]


@pytest.fixture
def notebooks(tmp_path):
    """Two notebooks, of which the second fails, and one that is beyond what a GPU is verified with."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name, code in (("01_fine", "'shown'"), ("02_broken", "1 / 0"), ("03_later", "'never'"), ("09_other", "1 / 0")):
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        nbformat.write(book, folder / f"{name}.ipynb")
    return folder


def test_a_failed_notebook_is_a_failed_verification(notebooks, tmp_path):
    done = rtx_4090(tmp_path).run([*COMMAND, "--notebooks", notebooks, "--out", tmp_path / "build"])
    assert done.returncode == 1
    report = (tmp_path / "build" / "verify-gpu.md").read_text()
    first, _, table = report.partition("\n")
    machine = "NVIDIA GeForce RTX 4090, driver 580.65.06, TensorRT-LLM (not installed)"
    assert first.startswith(f"**Not verified**: failed on {machine}, 20")
    assert "| 01_fine | " in table
    assert "FAILED: An error was raised in cell 1 of 1" in table
    assert "03_later" not in report and "09_other" not in report
    assert report.strip() in done.stdout


def test_notebooks_that_run_without_a_release_verify_nothing(notebooks, tmp_path):
    words = ["--notebooks", notebooks, "--only", "01", "--out", tmp_path / "build"]
    done = rtx_4090(tmp_path).run([*COMMAND, *words])
    assert done.returncode == 1
    assert (tmp_path / "build" / "verify-gpu.md").read_text().startswith("**Not verified**")


@pytest.mark.parametrize(
    ("machine", "toolchain", "says"),
    [
        ("", "", "no NVIDIA GPU here"),
        ("rtx-4090", "openvino", "WORKSHOP_TOOLCHAIN asks for openvino"),
        ("rtx-4090", "other", "WORKSHOP_TOOLCHAIN is 'other'"),
    ],
)
def test_one_sentence_where_there_is_nothing_to_verify(tmp_path, machine, toolchain, says):
    more = {"WORKSHOP_TOOLCHAIN": toolchain} if toolchain else {}
    done = Pod(machine, tmp_path / "workshop").run([*COMMAND, "--out", tmp_path / "build"], more)
    assert done.returncode == 1
    assert done.stderr.startswith("There is nothing to verify on this machine: ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "build").exists()
