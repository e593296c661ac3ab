"""The canonical form of notebooks: what is noticed, what is fixed, and that fixing is stable."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools import format_notebooks as fn


def notebook(**changes: Any) -> dict[str, Any]:
    cell = {
        "cell_type": "code",
        "id": "one",
        "metadata": {"tags": ["stage"]},
        "source": ["1 + 1"],
        "execution_count": None,
        "outputs": [],
    }
    return {
        "cells": [{**cell, **changes}],
        "metadata": {
            "kernelspec": fn.KERNEL,
            "language_info": {"name": "python"},
            "workshop": {"minutes": 5},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def test_a_canonical_notebook_has_no_departures() -> None:
    assert fn.departures(fn.text_of(notebook())) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"outputs": [{"output_type": "stream", "name": "stdout", "text": ["2"]}]}, "holds outputs"),
        ({"execution_count": 3}, "holds execution counts"),
        ({"metadata": {"execution": {"iopub.execute_input": "now"}}}, "holds timings"),
        ({"id": ""}, "has a cell without an id"),
        ({"metadata": {"collapsed": True}}, "is not laid out canonically"),
    ],
)
def test_what_a_run_leaves_behind_is_named_and_removed(changes: dict[str, Any], words: str) -> None:
    text = fn.text_of(notebook(**changes))
    assert fn.departures(text)[0].startswith(words)
    assert fn.departures(fn.text_of(fn.canonical(json.loads(text)))) == []


def test_widget_state_and_another_kernel_are_named_and_removed() -> None:
    book = notebook()
    book["metadata"] |= {"widgets": {}, "kernelspec": {"name": "python3"}}
    assert fn.departures(fn.text_of(book)) == ["holds widget state", "names another kernel"]
    clean = fn.canonical(book)
    assert clean["metadata"] == notebook()["metadata"]


def test_ids_that_clash_are_replaced_and_the_others_stay() -> None:
    book = notebook()
    book["cells"] = [{**book["cells"][0], "id": name} for name in ("cell-01", "b", "b")]
    assert fn.departures(fn.text_of(book)) == ["has two cells with the same id"]
    assert [cell["id"] for cell in fn.canonical(book)["cells"]] == ["cell-01", "b", "cell-02"]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\nb", ["a\n", "b"]),
        ("a\n", ["a\n"]),
        (["a\n", "", "b"], ["a\n", "b"]),
        ("a\n\n", ["a\n", "\n"]),
    ],
)
def test_source_is_stored_as_lines(source: Any, lines: list[str]) -> None:
    assert fn.lines_of(source) == lines


def test_the_command_checks_fixes_and_checks_again(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "00_a.ipynb"
    path.write_text(json.dumps(notebook(execution_count=1)), encoding="utf-8")
    assert fn.main(["--check", str(tmp_path)]) == 1
    assert "holds execution counts" in capsys.readouterr().out
    assert fn.main(["--fix", str(tmp_path)]) == 0
    assert fn.main(["--check", str(tmp_path)]) == 0
    assert path.read_bytes().endswith(b"}\n")


def test_a_file_that_is_no_notebook_is_named_and_left_alone(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "00_a.ipynb"
    path.write_text("{", encoding="utf-8")
    assert fn.main(["--fix", str(path)]) == 1
    assert "is not a notebook" in capsys.readouterr().out
    assert path.read_text() == "{"
