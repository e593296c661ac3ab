"""The slides: every tagged cell has one, nothing is fetched, and what the presenter reads stays off the slide."""

import html
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.teaching.notebooks import NOTEBOOKS
from tools import format_notebooks, slides

ALT = "Four bars, one for each stage"
PICTURE = f'<figure><img alt="{ALT}" src="data:image/svg+xml;base64,PHN2Zy8+"></figure>'
OPENING = "# A title\n\nThis is about it.\n\n**You will be able to**\n\n- build one"
LONG = (
    "## Two things\n\n**First** is one thing (see [there](01_gpu_checks.ipynb)). More of it that nobody can read from "
    "the back row.\n\nSecond is `a.b`, another. It too goes on" + ", and on" * 60 + "."
)


def book(executed: bool = False) -> dict[str, Any]:
    """A notebook with an opening, a tagged text and a tagged picture."""
    output = {"output_type": "execute_result", "data": {"text/html": PICTURE, "text/plain": f"[{ALT}]"}}
    cells: list[dict[str, Any]] = [
        {"cell_type": "markdown", "id": "top", "source": OPENING},
        {"cell_type": "markdown", "id": "long", "source": LONG, "metadata": {"tags": ["slide"], "notes": "Say hello."}},
        {"cell_type": "markdown", "id": "lead", "source": "Now look. Here are four:"},
        {"cell_type": "code", "id": "draw", "source": "plots.four()", "metadata": {"tags": ["slide"]}},
        {"cell_type": "code", "id": "other", "source": "1 + 1"},
    ]
    made = format_notebooks.canonical({"cells": cells, "metadata": {}})
    if executed:
        made["cells"][3]["outputs"] = [output]
    return made


def faces(page: str) -> str:
    """A page without its notes: what the room sees."""
    return re.sub(r'<aside class="notes".*?</aside>', "", page, flags=re.DOTALL)


def test_a_slide_has_the_heading_and_first_sentences_and_the_notes_have_the_rest() -> None:
    slide = slides.deck(book(), "99_a").slides[1]
    assert slide.title == "Two things"
    assert "one thing (see there)." in slide.body
    assert "another." in slide.body
    assert "back row" not in slide.body
    assert "back row" in slide.notes
    assert "Say hello." in slide.notes


def test_what_the_presenter_reads_is_in_hidden_notes_only() -> None:
    page = slides.page(slides.deck(book(True), "99_a", book(True), "today"))
    assert "Say hello." in page
    assert "Say hello." not in faces(page)
    assert page.count('<aside class="notes"') == page.count('aria-label="Notes" hidden>')


def test_a_picture_keeps_its_alternative_text_and_says_when_it_was_made() -> None:
    page = slides.page(slides.deck(book(), "99_a", book(True), "26 November"))
    assert f'alt="{ALT}"' in page
    assert "<code>recorded:</code> 26 November" in page
    assert "Here are four:" not in page  # the first sentence leads, the rest is for the notebook
    assert "Now look." in page


@pytest.mark.parametrize("change", ["not run", "other text"])
def test_a_picture_that_is_not_there_is_said_to_be_missing(change: str) -> None:
    executed = book(True)
    executed["cells"][3]["source"] = ["plots.five()"]
    made = slides.deck(book(), "04_a", None if change == "not run" else executed)
    assert 'make workshop ONLY="04"' in html.unescape(made.slides[2].body)
    assert ALT not in made.slides[2].body


@pytest.mark.parametrize(
    ("paragraph", "first"),
    [
        ("**Newer is better.** It is.", "**Newer is better.**"),
        ("It takes 0.5 s to load. Then it runs.", "It takes 0.5 s to load."),
        ("Call `a.b. C` now. Then stop.", "Call `a.b. C` now."),
        ("No end", "No end"),
        ("One (two. Three) four. Five.", "One (two. Three) four."),
    ],
)
def test_the_first_sentence_is_whole(paragraph: str, first: str) -> None:
    assert slides.first_sentence(paragraph) == first


# --- The workshop's own notebooks


@pytest.fixture(scope="module")
def decks(tmp_path_factory: pytest.TempPathFactory) -> list[slides.Deck]:
    return slides.decks(NOTEBOOKS, tmp_path_factory.mktemp("nothing-run"))


def test_every_tagged_cell_has_a_slide(decks: list[slides.Deck]) -> None:
    for file in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        tagged = {cell["id"] for cell in slides.read(file)["cells"] if slides.TAG in cell["metadata"].get("tags", ())}
        made = {slide.cell for one in decks if one.name == file.stem for slide in one.slides}
        assert tagged <= made, file.stem
    assert {one.name[:2] for one in decks} >= {"00", "01", "04", "05", "06", "08", "09"}


def test_every_slide_has_a_title_and_little_enough_to_read(decks: list[slides.Deck]) -> None:
    for one in decks:
        for slide in one.slides[1:]:
            words = re.sub(r"<table.*?</table>|<[^>]+>", " ", slide.body, flags=re.DOTALL).split()
            assert slide.title
            assert len(words) <= 130, f"{one.name} {slide.cell} has {len(words)} words"


def test_no_page_fetches_anything(decks: list[slides.Deck], tmp_path: Path) -> None:
    slides.write(decks, tmp_path)
    assert len(list(tmp_path.glob("*.html"))) == len(decks) + 1
    for page in tmp_path.glob("*.html"):
        text = page.read_text()
        fetched = re.findall(
            r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["'](?!data:)|<link\b|@import|url\(""", text
        )
        assert not fetched, page.name
        assert not re.search(r"\bfetch\(|XMLHttpRequest", text)


def test_speaker_notes_are_there_for_every_notebook_and_said_to_nobody_else() -> None:
    for file in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        cells = slides.read(file)["cells"]
        notes = [cell["metadata"]["notes"] for cell in cells if cell["metadata"].get("notes")]
        shown = "".join("".join(cell["source"]) for cell in cells)
        assert 2 <= len(notes) <= 6, f"{file.stem} has {len(notes)} notes"
        assert not [note for note in notes if note in shown]
