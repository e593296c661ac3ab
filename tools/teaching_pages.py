"""Write the pages that are made from the notebooks' metadata: ``notebooks/syllabi`` and ``notebooks/glossary.md``.

``--check`` writes nothing and exits with 1 if a page is out of date. Run it as ``python -m tools.teaching_pages``.
"""

import sys
from pathlib import Path

from helpers.cards import counted
from helpers.teaching.glossary import Word, words
from helpers.teaching.syllabus import FIRST_TOKEN_WITHIN, Item, Syllabus, clock, syllabi
from tools import generated
from tools.generated import ROOT

MADE = "<!-- Made by `python -m tools.teaching_pages` from {source} and the notebooks' metadata. Do not edit. -->"


def cell(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return text.replace("|", "\\|")


def section_link(item: Item) -> str:
    """An item's title, linked to its heading in the notebook where it has one."""
    if item.section is None:
        return f"*{cell(item.title)}*"
    return f"[{cell(item.title)}](../{item.notebook}.ipynb#{item.title.replace(' ', '-')})"


def blocks(one: Syllabus) -> list[str]:
    """Tables, each up to a pause, and below it what to leave out when late there."""
    head = ["| Minute | Notebook | Section | Minutes | What |", "|---:|---|---|---:|---|"]
    cuts, parts, rows = one.cuts(), [], list(head)
    for item in one.items:
        row = f"{clock(item.start)} | {item.notebook[:2]} | {section_link(item)} | {item.minutes:g} | {item.weight}"
        rows.append(f"| {row} |")
        if item in cuts or item is one.items[-1]:
            parts.append("\n".join(rows))
            rows = list(head)
        if item in cuts:
            question, answer = str(cuts[item]).split("? ", 1)
            parts.append(f"> **{question}?** {cell(answer)}")
    return parts


def syllabus_page(one: Syllabus) -> str:
    """One syllabus as a page."""
    made = MADE.format(source="`data/syllabi.toml`")
    before = "## Before the day\n\n" + "\n".join(f"- {sentence}" for sentence in one.before)
    plan = [f"## {counted(one.length, 'minute')}", one.note(), *blocks(one)]
    read = (
        "*Minutes* are those of someone who reads every line, with all stages made before. *Core* carries the thread."
    )
    after = "Afterwards, run the last cell of each notebook that you opened: it ends what the notebook started."
    others = "Other lengths: [all syllabi](README.md). In a notebook: " + f'`teaching.syllabus("{one.title.lower()}")`.'
    return "\n\n".join([made, f"# {one.title}", one.about, before, *plan, after, read, others]) + "\n"


def index_page(every: list[Syllabus]) -> str:
    """The page that lists the syllabi."""
    rows = ["| Syllabus | Minutes | Planned | First token by minute | Breaks | Exercises | Notebooks |"]
    rows.append("|---|---:|---:|---:|---:|---:|---|")
    for one in every:
        token, kinds = one.first_token, [item.kind for item in one.items]
        by = f"{token.start + token.minutes:g}" if token else "–"
        used = ", ".join(sorted({item.notebook[:2] for item in one.items if item.notebook}))
        numbers = f"{one.length} | {one.minutes:g} | {by} | {kinds.count('break')} | {kinds.count('exercise')}"
        rows.append(f"| [{one.title}]({one.slug}.md) | {numbers} | {used} |")
    text = (
        "Plans for an instructor, made from the notebooks' own metadata. Each begins with the reward: within "
        f"{FIRST_TOKEN_WITHIN} minutes a model writes. Each says where to look at the clock, and what to leave out "
        "if it is late. Installing is done before the day in all of them."
    )
    alone = (
        "A learner alone needs none of these: read the notebooks in order, at your own pace. "
        "Words are explained in the [glossary](../glossary.md)."
    )
    return "\n\n".join([MADE.format(source="`data/syllabi.toml`"), "# Syllabi", text, "\n".join(rows), alone]) + "\n"


def glossary_page(every: tuple[Word, ...]) -> str:
    """The glossary as a page."""
    rows = ["| Word | What it means | Shown in |", "|---|---|---|"]
    for one in every:
        shown = f"[{one.notebook}, {cell(one.heading)}]({one.link})"
        rows.append(f"| **{one.word.replace('_', chr(92) + '_')}** | {cell(one.text)} | {shown} |")
    text = (
        "Each word with the place that shows it. In a notebook, `teaching.glossary()` shows this table, and "
        '`teaching.glossary("KV cache")` one word of it.'
    )
    made = MADE.format(source="`data/glossary.toml`")
    return "\n\n".join([made, "# Glossary", text, "\n".join(rows)]) + "\n"


def pages() -> dict[Path, str]:
    """Every page with its text."""
    folder, every = ROOT / "notebooks" / "syllabi", syllabi()
    made = {folder / f"{one.slug}.md": syllabus_page(one) for one in every}
    return made | {folder / "README.md": index_page(every), ROOT / "notebooks" / "glossary.md": glossary_page(words())}


def main(arguments: list[str] | None = None) -> int:
    """Write or check the pages and return the exit status."""
    check = generated.only_check(arguments, "Write the syllabi and the glossary.")
    return generated.bring_up_to_date(pages(), check, "tools.teaching_pages", "Syllabi and glossary are")


if __name__ == "__main__":
    sys.exit(main())
