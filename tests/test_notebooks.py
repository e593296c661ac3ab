"""Whole notebooks, executed as a learner would run them."""

import json
import re
import subprocess
import sys

import pytest

from helpers import workspace
from helpers.teaching import notebooks

pytestmark = pytest.mark.notebooks


def run(out, *only):
    """``make workshop`` without the set-up, on some notebooks."""
    command = [sys.executable, "-m", "tools.run_notebooks", "--out", str(out)]
    command += ["--only", *only] if only else []
    return subprocess.run(command, cwd=workspace.REPOSITORY, capture_output=True, text=True)


def test_notebook_04_makes_all_it_needs_from_nothing(made_by_notebooks):
    assert made_by_notebooks.returncode == 0, made_by_notebooks.stdout + made_by_notebooks.stderr


@pytest.mark.parametrize("number", [notebook.name[:2] for notebook in notebooks()])
def test_each_notebook_runs_alone(made_by_notebooks, tmp_path, number):
    done = run(tmp_path, number)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_in_order_with_pages_and_an_index(made_by_notebooks, tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    index = (tmp_path / "index.html").read_text()
    for notebook in notebooks():
        assert notebook.title in index
        page = (tmp_path / "notebooks" / f"{notebook.name}.html").read_text()
        assert notebook.title in page
        assert not re.search(r"<img(?![^>]*\balt=)", page), f"a picture without a text equivalent in {notebook.name}"


def test_the_perplexity_table_is_computed(made_by_notebooks, tmp_path):
    done = run(tmp_path, "04")
    assert done.returncode == 0, done.stdout + done.stderr
    executed = json.loads((tmp_path / "notebooks" / "04_fp8_build.ipynb").read_text())
    outputs = [
        "".join(output["data"].get("text/plain", ""))
        for cell in executed["cells"]
        if "perplexity_table" in "".join(cell["source"])
        for output in cell["outputs"]
        if "data" in output
    ]
    assert len(outputs) == 2
    for precision in ("FP16", "FP8 (E4M3)", "INT8"):
        assert all(re.search(rf"^{re.escape(precision)}.*\d\.\d{{4}}", text, re.MULTILINE) for text in outputs)


def test_the_kv_cache_of_8_bits_holds_half_as_many_tokens_again_and_the_planner_knew(made_by_notebooks, tmp_path):
    done = run(tmp_path, "05")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = (tmp_path / "notebooks" / "05_kv_cache_quantization.ipynb").read_text()
    held = re.search(r"In the same [\d,]+ bytes, INT8 holds (\d\.\d+) times the tokens of 16-bit", shown)
    assert held and float(held[1]) >= 1.5
    off = re.search(r"The planner is off by (\d+\.\d+)% at most", shown)
    assert off and float(off[1]) <= 5
