"""What every notebook promises a reader: each rule returns its complaints, and each rule is seen to complain.

The rules are those of CONTRIBUTING.md, "Notebooks".
"""

import copy
import itertools
import json
import re
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tools import format_notebooks, readme_table

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
Notebook = dict[str, Any]


def sources(book: Notebook, kind: str) -> list[str]:
    """The text of all cells of one kind."""
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == kind]


def prose(book: Notebook) -> str:
    """All Markdown without its code blocks and code spans."""
    text = "\n\n".join(sources(book, "markdown"))
    return re.sub(r"`[^`\n]+`", "`code`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def lines(code: str) -> list[str]:
    """The lines of a cell that are not blank."""
    return [line for line in code.split("\n") if line.strip()]


# --- The rules: a notebook and its file's stem to complaints


def opens_well(book: Notebook, stem: str) -> Iterator[str]:
    """Title, a sentence, what a reader will be able to do, minutes and needs."""
    opening = sources(book, "markdown")[0] if book["cells"][0]["cell_type"] == "markdown" else ""
    if not re.match(r"# \S.*\n+[A-Z]\S* .*", opening):
        yield "does not open with a title and a sentence"
    aims = re.search(r"^\*\*You will be able to\*\*.*\n+((?:[-*] .+\n?(?:  .+\n?)*)+)", opening, re.MULTILINE)
    verbs = re.findall(r"^[-*] (\w+)", aims[1], re.MULTILINE) if aims else []
    if len(verbs) < 2:
        yield "does not list what you will be able to do"
    weak = {"understand", "know", "learn", "appreciate", "be", "see"} & {verb.lower() for verb in verbs}
    if weak:
        yield f"promises what nobody can check: {', '.join(sorted(weak))}"


def tells_time_and_needs(book: Notebook, stem: str) -> Iterator[str]:
    """Minutes and needs in the text equal those in the metadata; what is needed exists and comes before."""
    facts = book["metadata"].get("workshop", {})
    minutes, needs = facts.get("minutes"), facts.get("needs", [])
    told = re.search(r"\*\*Minutes\*\*: (\d+) · \*\*Needs\*\*: (.+)", book["cells"] and sources(book, "markdown")[0])
    if told is None:
        yield "has no line '**Minutes**: 6 · **Needs**: notebook 03'"
        return
    if int(told[1]) != minutes:
        yield f"says {told[1]} minutes and its metadata {minutes}"
    if sorted(re.findall(r"\b\d\d\b", told[2])) != sorted(need[:2] for need in needs if need != "nothing"):
        yield f"says it needs {told[2]} and its metadata {needs}"
    if not needs or ("nothing" in needs) != (told[2].startswith("nothing")):
        yield "does not say plainly whether it needs nothing"
    for need in needs:
        if need != "nothing" and not ((ROOT / "notebooks" / f"{need}.ipynb").exists() and need < stem):
            yield f"needs {need}, which is no notebook before it"
    if facts.get("gpu") not in ("optional", "required"):
        yield "does not say in its metadata whether a GPU is optional or required"


def starts_and_finishes(book: Notebook, stem: str) -> Iterator[str]:
    """The agreed first and last code cells, with a word of prose before the last."""
    code = sources(book, "code")
    if not code or lines(code[0]) != ["from workshop import start", f'start("{stem}")']:
        yield "does not begin with start()"
    if not code or lines(code[-1]) != ["from helpers import teaching", f'teaching.finish("{stem}")']:
        yield "does not end with teaching.finish()"
    if [cell["cell_type"] for cell in book["cells"][-2:]] != ["markdown", "code"]:
        yield "does not end with a text and then the last code cell"


def has_short_cells(book: Notebook, stem: str) -> Iterator[str]:
    """Code cells: a median of at most 3 lines, none above 15."""
    lengths = [len(lines(code)) for code in sources(book, "code")] or [0]
    if statistics.median(lengths) > 3:
        yield f"has code cells with a median of {statistics.median(lengths)} lines"
    if max(lengths) > 15:
        yield f"has a code cell of {max(lengths)} lines"
    if 0 in lengths:
        yield "has an empty code cell"


def is_at_home_anywhere(book: Notebook, stem: str) -> Iterator[str]:
    """No installing in a cell, and no path that exists on one machine only."""
    code = "\n".join(sources(book, "code"))
    if re.search(r"^\s*[!%]+\s*(pip|conda|apt)\b", code, re.MULTILINE):
        yield "installs something in a cell"
    absolute = r"""["'`\s=(](/(?:home|root|tmp|workspace|usr|opt|var|mnt|work|Users)\b[^\s"'`)]*)"""
    for path in re.findall(absolute, code):
        yield f"has an absolute path in a cell: {path}"
    for path in re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|Users)/[^\s`)]*", "".join(sources(book, "markdown"))):
        yield f"has an absolute path in its text: {path}"


def is_canonical(book: Notebook, stem: str) -> Iterator[str]:
    """A valid notebook in canonical form: no outputs, counts, timings or widget state; ids; the kernel."""
    yield from format_notebooks.departures(format_notebooks.text_of(book))
    try:
        nbformat.validate(nbformat.from_dict(book))
    except nbformat.ValidationError as error:
        yield f"is not valid: {error.message}"


def describes_its_pictures(book: Notebook, stem: str) -> Iterator[str]:
    """Every picture has words that say what is on it."""
    text = prose(book)
    alts = re.findall(r"!\[([^\]]*)\]\(", text)
    alts += [(re.findall(r'\balt="([^"]*)"', tag) or [""])[0] for tag in re.findall(r"<img\b[^>]*>", text)]
    alts += [(re.findall(r'\baria-label="([^"]*)"', tag) or [""])[0] for tag in re.findall(r"<svg\b[^>]*>", text)]
    for alt in alts:
        if len(alt.split()) < 3:
            yield f"has a picture whose text equivalent is {alt!r}"


def writes_formulas_as_text(book: Notebook, stem: str) -> Iterator[str]:
    """No TeX: the pages that ``make workshop`` writes fetch no script that would draw it."""
    for formula in re.findall(r"\$\$|\$[^$\n]*\\[a-z]+[^$\n]*\$|\\\(|\\begin", prose(book)):
        yield f"has a formula in TeX, which pages and terminals show raw: {formula}"


def headings(book: Notebook) -> list[tuple[int, str]]:
    """Level and text of every heading."""
    return [(len(marks), text.strip()) for marks, text in re.findall(r"^(#+) (.+)$", prose(book), re.MULTILINE)]


def has_headings_in_order(book: Notebook, stem: str) -> Iterator[str]:
    """One title, first; no level skipped; no number of its own in the title."""
    levels = [level for level, _ in headings(book)]
    if levels.count(1) != 1 or levels[:1] != [1]:
        yield "does not have exactly one title, at the top"
    for before, after in itertools.pairwise(levels):
        if after > before + 1:
            yield f"skips a heading level, from {before} to {after}"
    if headings(book) and re.match(r"\d", headings(book)[0][1]):
        yield "has its number in its title"


def anchor_exists(path: Path, book: Notebook, anchor: str) -> bool:
    """True if a notebook or a Markdown page has the heading that a link's anchor names."""
    if path.suffix == ".ipynb":
        known = {text.replace(" ", "-") for _, text in headings(book)}
    else:
        titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        known = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return anchor in known


def has_links_that_resolve(book: Notebook, stem: str) -> Iterator[str]:
    """Relative links lead to a file (and heading) that is there; others are https and well formed."""
    text = prose(book)
    here = ROOT / "notebooks" / f"{stem}.ipynb"
    targets = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", text)
    targets += re.findall(r'\b(?:href|src)="([^"]+)"', text) + re.findall(r"<(https?://[^>\s]+)>", text)
    for target in targets:
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            if not re.fullmatch(r"https://[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}(/[^\s<>\"]*)?", target):
                yield f"has a link that is not well-formed https: {target}"
            continue
        address, _, anchor = target.partition("#")
        path = here.parent / address if address else here
        if address and not path.exists():
            yield f"has a link that leads nowhere: {target}"
        elif anchor:
            there = json.loads(path.read_text(encoding="utf-8")) if address.endswith(".ipynb") else book
            if not anchor_exists(path, there, anchor):
                yield f"has a link to a heading that is not there: {target}"


RULES: list[Callable[[Notebook, str], Iterator[str]]] = [
    opens_well,
    tells_time_and_needs,
    starts_and_finishes,
    has_short_cells,
    is_at_home_anywhere,
    is_canonical,
    describes_its_pictures,
    writes_formulas_as_text,
    has_headings_in_order,
    has_links_that_resolve,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_contract(path: Path, rule: Callable[[Notebook, str], Iterator[str]]) -> None:
    assert list(rule(json.loads(path.read_text(encoding="utf-8")), path.stem)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_file_is_the_canonical_one_byte_for_byte(path: Path) -> None:
    assert format_notebooks.departures(path.read_bytes().decode()) == []


def test_notebooks_are_there_and_numbered_once() -> None:
    assert NOTEBOOKS
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in NOTEBOOKS)
    numbers = [path.stem[:2] for path in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers)


# --- Each rule is seen to complain

GOOD_OPENING = """# Building an engine

This builds one.

**You will be able to**

- build an engine
- measure it

**Minutes**: 6 · **Needs**: nothing"""


def good() -> Notebook:
    """A small notebook that keeps every rule."""
    code = [
        'from workshop import start\n\nstart("99_a")',
        "1 + 1",
        'from helpers import teaching\n\nteaching.finish("99_a")',
    ]
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "source": GOOD_OPENING}]
    for text in code:
        cells += [
            {"cell_type": "markdown", "source": "## Next\n\nA word."},
            {"cell_type": "code", "source": text},
        ]
    metadata = {"workshop": {"minutes": 6, "needs": ["nothing"], "gpu": "optional"}}
    return format_notebooks.canonical({"cells": cells, "metadata": metadata})


def complaints(book: Notebook) -> list[str]:
    return [f"{rule.__name__}: {words}" for rule in RULES for words in rule(book, "99_a")]


def test_a_good_notebook_draws_no_complaint() -> None:
    assert complaints(good()) == []


TEXT_FAULTS = {
    "opens_well: does not open": (0, GOOD_OPENING.replace("# Building an engine", "## Building an engine")),
    "opens_well: does not list": (0, GOOD_OPENING.replace("- build an engine\n", "")),
    "opens_well: promises": (0, GOOD_OPENING.replace("- measure it", "- understand it")),
    "tells_time_and_needs: says 7 minutes": (0, GOOD_OPENING.replace(": 6", ": 7")),
    "tells_time_and_needs: says it needs": (0, GOOD_OPENING.replace("nothing", "notebook 03")),
    "tells_time_and_needs: has no line": (0, GOOD_OPENING.replace("**Needs**", "Needs")),
    "starts_and_finishes: does not begin": (2, "print('hello')"),
    "starts_and_finishes: does not end with teaching": (6, "print('bye')"),
    "has_short_cells: has a code cell of 16": (4, "x = 1\n" * 16),
    "has_short_cells: has an empty": (4, ""),
    "is_at_home_anywhere: installs": (4, "!pip install torch"),
    "is_at_home_anywhere: has an absolute path in a cell": (4, "open('/workspace/x')"),
    "is_at_home_anywhere: has an absolute path in its text": (3, "See /home/me/engine."),
    "describes_its_pictures: has a picture": (3, "![a plot](plot.svg)"),
    "writes_formulas_as_text: has a formula": (3, "It is $2 \\times 3$."),
    "has_headings_in_order: skips": (3, "#### Too deep"),
    "has_headings_in_order: does not have exactly one title": (3, "# Another title"),
    "has_headings_in_order: has its number": (0, GOOD_OPENING.replace("# Building", "# 03 Building")),
    "has_links_that_resolve: has a link that leads nowhere": (3, "[there](nowhere.md)"),
    "has_links_that_resolve: has a link to a heading": (3, "[up](#Not-a-heading)"),
    "has_links_that_resolve: has a link that is not well-formed": (3, "[web](http://example.org)"),
}


@pytest.mark.parametrize(("complaint", "fault"), TEXT_FAULTS.items(), ids=TEXT_FAULTS.keys())
def test_a_fault_in_the_text_is_noticed(complaint: str, fault: tuple[int, str]) -> None:
    book = good()
    book["cells"][fault[0]]["source"] = format_notebooks.lines_of(fault[1])
    assert [words for words in complaints(book) if words.startswith(complaint)], complaints(book)


def test_a_fault_in_cells_or_metadata_is_noticed() -> None:
    long = good()
    for at in (2, 4, 6):
        long["cells"][at]["source"] = ["x = 1\n"] * 4
    assert any("median of 4" in words for words in complaints(long))
    run = copy.deepcopy(good())
    run["cells"][2]["execution_count"] = 1
    assert complaints(run) == ["is_canonical: holds execution counts"]
    needy = good()
    needy["metadata"]["workshop"]["needs"] = ["98_missing"]
    assert any("98_missing, which is no notebook before it" in words for words in complaints(needy))
    textless = good()
    del textless["cells"][5]
    assert any("text and then the last code cell" in words for words in complaints(textless))


# --- README's table of notebooks


def test_readmes_table_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert readme_table.main(["--check"]) == 0, capsys.readouterr().out


def test_readmes_table_is_made_from_the_notebooks(tmp_path: Path) -> None:
    (tmp_path / "99_a.ipynb").write_text(format_notebooks.text_of(good()), encoding="utf-8")
    before = f"# Read me\n\n{readme_table.BEGIN}\nold\n{readme_table.END}\n\nThe end.\n"
    after = readme_table.updated(before, tmp_path)
    row = "| [`99_a`](notebooks/99_a.ipynb) | **Building an engine**<br>This builds one. | 6 | – |"
    assert row in after
    assert "| In all | 6 |" in after
    assert "old" not in after
    assert after.startswith("# Read me")
    assert after.endswith("The end.\n")
    assert readme_table.updated(after, tmp_path) == after


def test_a_readme_without_the_markers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="notebooks:begin"):
        readme_table.updated("# Read me", tmp_path)
