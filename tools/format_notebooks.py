"""Keep notebooks in one canonical form, so that a diff shows what a person changed and nothing else.

``--check`` (the default) names every departure and exits with 1; ``--fix`` rewrites the files. The form:
nbformat 4.5, sorted keys, one space of indent, text as it is written, a final newline; a unique id for
every cell; no outputs, execution counts, timings or widget state; the workshop's kernel. Standard library
only, so that a commit hook is fast.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (ROOT / "notebooks", ROOT / "notebooks" / "solutions")
KERNEL = {"display_name": "TensorRT-LLM workshop", "language": "python", "name": "trtllm-workshop"}
CELL_METADATA = ("notes", "slideshow", "tags", "workshop")

Cell = dict[str, Any]
Notebook = dict[str, Any]


def lines_of(source: str | list[str]) -> list[str]:
    """A cell's source as nbformat stores it: a list of lines, each with its line break but the last."""
    text = source if isinstance(source, str) else "".join(source)
    return [line + "\n" for line in text.split("\n")[:-1]] + [line for line in text.split("\n")[-1:] if line]


def free_id(used: set[str]) -> str:
    """The first ``cell-NN`` that no cell has."""
    return next(name for number in range(1, len(used) + 2) if (name := f"cell-{number:02d}") not in used)


def canonical_cell(cell: Cell, cell_id: str) -> Cell:
    """The cell with nothing in it that a run or an editor left behind."""
    kept = {name: cell["metadata"][name] for name in CELL_METADATA if cell.get("metadata", {}).get(name)}
    clean: Cell = {
        "cell_type": cell["cell_type"],
        "id": cell_id,
        "metadata": kept,
        "source": lines_of(cell.get("source", "")),
    }
    if cell["cell_type"] == "code":
        clean.update(execution_count=None, outputs=[])
    if cell.get("attachments"):
        clean["attachments"] = cell["attachments"]
    return clean


def canonical(notebook: Notebook) -> Notebook:
    """The notebook in canonical form; ids that are missing or taken are replaced, the others stay."""
    used = {cell["id"] for cell in notebook["cells"] if cell.get("id")}
    seen: set[str] = set()
    cells = []
    for cell in notebook["cells"]:
        cell_id = cell.get("id")
        if not cell_id or cell_id in seen:
            cell_id = free_id(used)
        used.add(cell_id)
        seen.add(cell_id)
        cells.append(canonical_cell(cell, cell_id))
    metadata: Notebook = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    if "workshop" in notebook.get("metadata", {}):
        metadata["workshop"] = notebook["metadata"]["workshop"]
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def text_of(notebook: Notebook) -> str:
    """The bytes of a notebook's file, as text."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _any_cell(test: Callable[[Cell], object]) -> Callable[[Notebook], bool]:
    return lambda notebook: any(test(cell) for cell in notebook["cells"])


def _ids_clash(notebook: Notebook) -> bool:
    ids = [cell["id"] for cell in notebook["cells"] if cell.get("id")]
    return len(ids) != len(set(ids))


DEPARTURES: dict[str, Callable[[Notebook], object]] = {
    "is not nbformat 4.5": lambda nb: (nb.get("nbformat"), nb.get("nbformat_minor")) != (4, 5),
    "holds outputs": _any_cell(lambda cell: cell.get("outputs")),
    "holds execution counts": _any_cell(lambda cell: cell.get("execution_count")),
    "holds timings": _any_cell(lambda cell: "execution" in cell.get("metadata", {})),
    "has a cell without an id": _any_cell(lambda cell: not cell.get("id")),
    "has two cells with the same id": _ids_clash,
    "holds widget state": lambda nb: "widgets" in nb.get("metadata", {}),
    "names another kernel": lambda nb: nb.get("metadata", {}).get("kernelspec") != KERNEL,
}


def departures(text: str) -> list[str]:
    """What is not canonical about a notebook's text, in words; empty if nothing is."""
    try:
        notebook = json.loads(text)
        wanted = text_of(canonical(notebook))
    except (ValueError, LookupError, TypeError) as error:
        return [f"is not a notebook of nbformat 4 ({error})"]
    if text == wanted:
        return []
    found = [words for words, departs in DEPARTURES.items() if departs(notebook)]
    return found or ["is not laid out canonically (indent, key order, extra metadata or final newline)"]


def notebooks_in(paths: Iterable[Path]) -> list[Path]:
    """The notebooks among files and directly inside folders, sorted."""
    found = [sorted(path.glob("*.ipynb")) if path.is_dir() else [path] for path in paths]
    return [path for group in found for path in group]


def main(arguments: list[str] | None = None) -> int:
    """Check or fix the notebooks and return the exit status."""
    parser = argparse.ArgumentParser(description="Check or fix the canonical form of notebooks.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="name every departure (the default)")
    mode.add_argument("--fix", action="store_true", help="rewrite the files")
    parser.add_argument(
        "paths", nargs="*", type=Path, help="files or folders (default: notebooks/ and notebooks/solutions/)"
    )
    options = parser.parse_args(arguments)
    paths = notebooks_in(options.paths or FOLDERS)
    left = 0
    for path in paths:
        text = path.read_bytes().decode()
        found = departures(text)
        fixable = found and not found[0].startswith("is not a notebook")
        if options.fix and fixable:
            path.write_bytes(text_of(canonical(json.loads(text))).encode())
            print(f"{path}: rewritten; it {', '.join(found)}.")
        elif found:
            left += 1
            print(f"{path}: {', '.join(found)}.")
    if left and not options.fix:
        print("Fix with: .venv/bin/python tools/format_notebooks.py --fix")
    if not left:
        print(f"{len(paths)} notebooks in canonical form.")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
