"""Slides for the parts of the workshop that are talk, made from the notebooks' cells with the tag ``slide``.

``make slides`` writes ``build/slides/NN.html``, one deck a notebook, and an index. A deck is one file: no framework,
and nothing is fetched. Pictures come from the executed copies that ``make workshop`` leaves in ``build/notebooks``.

A slide shows the heading and the first sentences of each paragraph, or ``slideshow.text`` of the cell's metadata. The
whole text, and the metadata ``notes``, stand in the presenter's notes (keys ``n`` and ``p``), which are never shown on
the slide itself.
"""

import argparse
import datetime
import html
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from helpers.teaching.notebooks import NOTEBOOKS

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = Path(__file__).resolve().parent / "templates"
TAG = "slide"
WHOLE_CHARACTERS = 340
"""A text of at most this length is read from the back row as it is; a longer one is shortened."""


@dataclass(frozen=True)
class Slide:
    """One slide.

    Attributes:
        cell: id of the cell that it comes from.
        title: plain text.
        body: HTML.
        notes: HTML for the presenter: what to say, then the cell's whole text.
        continued: True if the slide before it has the same heading.
    """

    cell: str
    title: str
    body: str
    notes: str = ""
    continued: bool = False


@dataclass(frozen=True)
class Deck:
    """The slides of one notebook.

    Attributes:
        name: the notebook's name.
        title: its heading.
        slides: in order; the first is made from the opening.
        ran: when the executed copy was written, in words; empty if there is none.
    """

    name: str
    title: str
    slides: list[Slide] = field(default_factory=list)
    ran: str = ""


# --- Text ---------------------------------------------------------------------


def blocks(text: str) -> list[str]:
    """Markdown cut at its blank lines; a fenced block stays whole."""
    found: list[list[str]] = [[]]
    fenced = False
    for line in text.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        if line.strip() or fenced:
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return ["\n".join(part) for part in found if part]


def first_sentence(paragraph: str, count: int = 1) -> str:
    """A paragraph's first sentence or sentences, their emphasis, code and links unbroken."""
    text = " ".join(paragraph.split())
    for end in re.finditer(r"[.!?](?:\*\*|[)*\"”])?(?= [^a-z]|$)", text):
        sentence = text[: end.end()]
        whole = sentence.count("`") % 2 == 0 and sentence.count("**") % 2 == 0
        if whole and all(sentence.count(a) == sentence.count(b) for a, b in ("()", "[]")):
            count -= 1
            if not count:
                return sentence
    return text


def shortened(block: str, count: int = 1) -> str:
    """A block with paragraphs and items cut to so many sentences; tables, code and pictures stay whole."""
    if block.startswith(("```", "|", "!", "#", "<")):
        return block
    items = re.split(r"^(?=(?:[-*]|\d+\.) )", block, flags=re.MULTILINE)
    marks = [re.match(r"(?:[-*]|\d+\.) ", item) for item in items]
    kept = [
        (mark[0] if mark else "") + first_sentence(item[mark.end() :] if mark else item, count) + ("" if mark else "\n")
        for item, mark in zip(items, marks, strict=True)
        if item.strip()
    ]
    return "\n".join(kept)


def for_a_slide(text: str) -> str:
    """As much of a text as is read from the back row: the first sentences of each paragraph, at least one."""
    parts = blocks(text)
    for count in (4, 3, 2, 1):
        short = "\n\n".join(shortened(part, count) for part in parts)
        short = re.sub(r"(?<=[.!?]) [A-Z][^.!?]*:$", "", short)  # what leads to the next cell leads nowhere here
        if len(short) <= WHOLE_CHARACTERS:
            break
    return short


def rendered(markdown: str) -> str:
    """Markdown as HTML. A link that is no web address leads nowhere from a slide, so only its words stay."""
    import mistune

    page = str(mistune.create_markdown(escape=False, plugins=["table"])(markdown))
    return re.sub(r'<a href="(?!https://)[^"]*">(.*?)</a>', r"\1", page, flags=re.DOTALL)


def sections(text: str) -> list[tuple[str, str]]:
    """A cell's text cut at its headings: each heading (or none) with what follows it."""
    found: list[tuple[str, str]] = []
    for block in blocks(text):
        heading = re.match(r"#+ (.+)(?:\n|$)", block)
        if heading:
            found.append((heading[1].strip(), block[heading.end() :].strip()))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]}\n\n{block}".strip())
        else:
            found.append(("", block))
    return found


def plain(markdown: str) -> str:
    """Markdown's words without marks, for a title."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)|[*`]", r"\1", markdown).strip()


# --- Slides -------------------------------------------------------------------


def opening(book: dict[str, Any]) -> Slide:
    """The first slide: title, first sentence, aims and minutes."""
    cell = book["cells"][0]
    heading, text = sections("".join(cell["source"]))[0]
    body = "\n\n".join(part for part in blocks(text))
    return Slide(cell["id"], plain(heading), rendered(body), notes_of(cell, ""))


def notes_of(cell: dict[str, Any], text: str) -> str:
    """What the presenter reads beside a slide: the cell's notes, then the text of which the slide shows a part."""
    said = cell["metadata"].get("notes", "")
    parts = [f"<h3>To say</h3>{rendered(said)}"] if said else []
    parts += [f"<h3>In the notebook</h3>{rendered(text)}"] if text else []
    return "".join(parts)


def of_text(cell: dict[str, Any], heading: str) -> list[Slide]:
    """The slides of a Markdown cell, one for each of its headings.

    Args:
        cell: as the notebook's file has it.
        heading: the last one before this cell, for a text that has none.
    """
    own = cell["metadata"].get("slideshow", {}).get("text")
    made: list[Slide] = []
    for title, text in sections("".join(cell["source"])):
        if not text:  # a heading alone, which the cell after it fills
            continue
        short = own or (text if len(text) <= WHOLE_CHARACTERS else for_a_slide(text))
        notes = notes_of(cell if not made else {"metadata": {}}, text if short != text else "")
        made.append(Slide(cell["id"], plain(title or heading), rendered(short), notes, continued=not title))
    return made


def shown(output: dict[str, Any]) -> str:
    """One output of a cell as HTML; empty for what a slide does not show, such as a stage's progress."""
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items() if kind.startswith(("text", "image"))}
    if "text/html" in data:
        return data["text/html"]
    for kind, text in data.items():
        if kind.startswith("image/"):
            alt = html.escape(data.get("text/plain", "").split("\n")[0].strip("[]"), quote=True)
            source = text.replace("\n", "") if kind != "image/svg+xml" else ""
            return f'<img alt="{alt}" src="data:{kind};base64,{source}">' if source else text
    return f"<pre>{html.escape(data['text/plain'])}</pre>" if "text/plain" in data else ""


def of_code(cell: dict[str, Any], heading: str, lead: str, ran: dict[str, Any] | None, number: str) -> Slide:
    """The slide of a code cell: what it showed when it was run.

    Args:
        cell: as the notebook's file has it.
        heading: the last one before it.
        lead: the sentence that leads to it; empty if a slide says it already.
        ran: the same cell in the executed copy; None if there is none.
        number: the notebook's, for what to do about it.
    """
    source = "".join(cell["source"])
    outputs = "".join(map(shown, ran["outputs"])) if ran and "".join(ran["source"]) == source else ""
    if not outputs:
        why = "has not been run yet" if ran is None else "was run with another text, or showed nothing"
        todo = f'This cell {why}. <code>make workshop ONLY="{number}"</code> and then <code>make slides</code> fill it.'
        outputs = f'<p class="missing">{todo}</p>'
    body = (rendered(lead) if lead else "") + f'<div class="output">{outputs}</div>'
    notes = notes_of(cell, "") + f"<h3>The cell</h3><pre>{html.escape(source)}</pre>"
    return Slide(cell["id"], plain(heading), body, notes, continued=True)


def deck(book: dict[str, Any], name: str, executed: dict[str, Any] | None = None, ran: str = "") -> Deck:
    """The slides of one notebook.

    Args:
        book: the notebook's file.
        name: its name.
        executed: its executed copy.
        ran: when that was written, in words.
    """
    outputs = {cell["id"]: cell for cell in executed["cells"] if cell["cell_type"] == "code"} if executed else {}
    slides, heading, lead = [opening(book)], slides_title(book), ""
    for cell in book["cells"]:
        tagged, text = TAG in cell["metadata"].get("tags", ()), "".join(cell["source"])
        if cell["cell_type"] == "code":
            if tagged:
                slides.append(of_code(cell, heading, lead, outputs.get(cell["id"]), name[:2]))
            lead = ""
            continue
        if tagged and cell is not book["cells"][0]:
            slides += of_text(cell, heading)
        found = sections(text)
        heading = next((title for title, _ in reversed(found) if title), heading)
        lead = "" if tagged or not found[-1][1] else first_sentence(shortened(blocks(found[-1][1])[-1]))
    return Deck(name, slides[0].title, slides, ran)


def slides_title(book: dict[str, Any]) -> str:
    """The notebook's title."""
    return sections("".join(book["cells"][0]["source"]))[0][0]


# --- Pages --------------------------------------------------------------------


def section_of(slide: Slide, number: int, of: int) -> str:
    """A slide's HTML with its notes, which stay hidden until the presenter asks for them."""
    level = "h1" if number == 1 else "h2"
    label = html.escape(f"{number} of {of}: {slide.title}", quote=True)
    aside = f'<aside class="notes" aria-label="Notes" hidden>{slide.notes}</aside>' if slide.notes else ""
    return (
        f'<section class="slide" id="s{number}" data-cell="{slide.cell}" tabindex="-1" '
        f'aria-roledescription="slide" aria-label="{label}">'
        f'<div class="face"><{level}>{html.escape(slide.title)}</{level}>{slide.body}</div>{aside}</section>'
    )


def page(made: Deck) -> str:
    """A deck as one HTML file that fetches nothing."""
    count = len(made.slides)
    origin = f"Pictures and tables <code>recorded:</code> {html.escape(made.ran)}" if made.ran else "Not run yet"
    return Template((TEMPLATES / "slides.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(made.title),
        style=(TEMPLATES / "slides.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "slides.js").read_text(encoding="utf-8"),
        name=made.name,
        origin=origin,
        slides="\n".join(section_of(slide, n, count) for n, slide in enumerate(made.slides, 1)),
    )


def index_page(made: list[Deck], others: list[str]) -> str:
    """The list of decks, and in a sentence the notebooks that have none.

    Args:
        made: the decks.
        others: numbers of the notebooks without one.
    """
    none = (
        f"<p>No deck of {', '.join(others)}: they are work at the keyboard, and none of their cells has the tag "
        f"<code>{TAG}</code>. Open the notebook itself.</p>"
        if others
        else ""
    )
    rows = "".join(
        f'<li><a href="{one.name[:2]}.html">{one.name[:2]} {html.escape(one.title)}</a>, {len(one.slides)} slides</li>'
        for one in made
    )
    style = (TEMPLATES / "slides.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Slides</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{style}</style></head><body class="index"><main><h1>Slides</h1>'
        f"<ul>{rows}</ul>{none}<p>In a deck: arrows and space to move, <kbd>n</kbd> for notes, <kbd>p</kbd> for a "
        "presenter's window, <kbd>?</kbd> for all keys.</p></main></body></html>"
    )


def read(file: Path) -> dict[str, Any]:
    """A notebook's file."""
    return dict(json.loads(file.read_text(encoding="utf-8")))


def decks(notebooks: Path, executed: Path) -> list[Deck]:
    """The decks of all notebooks that have a cell with the tag ``slide``, in order."""
    made = []
    for file in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")):
        book = read(file)
        if not any(TAG in cell["metadata"].get("tags", ()) for cell in book["cells"]):
            continue
        copy = executed / file.name
        when = f"{datetime.datetime.fromtimestamp(copy.stat().st_mtime):%d %B %Y, %H:%M}" if copy.exists() else ""
        made.append(deck(book, file.stem, read(copy) if when else None, when))
    return made


def write(made: list[Deck], out: Path, notebooks: Path = NOTEBOOKS) -> None:
    """Write the decks of a folder's notebooks, and their index."""
    out.mkdir(parents=True, exist_ok=True)
    for one in made:
        (out / f"{one.name[:2]}.html").write_text(page(one), encoding="utf-8")
    have = {one.name for one in made}
    others = [file.stem[:2] for file in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")) if file.stem not in have]
    (out / "index.html").write_text(index_page(made, others), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Write the slides and return the exit status."""
    parser = argparse.ArgumentParser(description="Make slides of the cells with the tag 'slide'.")
    parser.add_argument("--executed", type=Path, default=ROOT / "build/notebooks", help="folder of executed copies")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/slides", help="where to write (default: build/slides)"
    )
    options = parser.parse_args(arguments)
    made = decks(NOTEBOOKS, options.executed)
    write(made, options.out)
    count, missing = sum(len(one.slides) for one in made), [one.name[:2] for one in made if not one.ran]
    print(f"{count} slides in {len(made)} decks: {options.out / 'index.html'}")
    if missing:
        print(f'Not run yet, so without pictures: {" ".join(missing)}. First: make workshop ONLY="{" ".join(missing)}"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
