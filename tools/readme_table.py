"""Write what README takes from the project itself: the table of notebooks, and the picture of the stages.

The table stands between ``<!-- notebooks:begin -->`` and ``<!-- notebooks:end -->``; the picture is ``PICTURE``.
``--check`` writes nothing and exits with 1 if either is out of date. Run it as ``python -m tools.readme_table``.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from helpers import plots
from tools import generated
from tools.generated import ROOT

PICTURE = ROOT / "data" / "pictures" / "pipeline.svg"
BEGIN, END = "<!-- notebooks:begin -->", "<!-- notebooks:end -->"


@dataclass(frozen=True)
class Row:
    """One notebook: its file's stem, title, first sentence, planned minutes and the notebooks it needs."""

    stem: str
    title: str
    teaches: str
    minutes: int
    needs: list[str]


def read_row(path: Path) -> Row:
    """What a notebook says about itself.

    Raises:
        ValueError: the first cell has no title, or the metadata names no minutes.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    opening = "".join(notebook["cells"][0]["source"])
    title = re.match(r"# (.+)\n+((?:.+\n?)+)", opening)
    facts = notebook["metadata"].get("workshop", {})
    if title is None or "minutes" not in facts:
        raise ValueError(f"{path.name}: expected a title, a sentence below it and metadata.workshop.minutes.")
    teaches = re.match(r".+?[.?!](?=\s|$)|.+", " ".join(title[2].split()))
    return Row(path.stem, title[1].strip(), teaches[0] if teaches else "", facts["minutes"], facts.get("needs", []))


def needs_text(needs: list[str]) -> str:
    """``["03_fp16_build"]`` as ``03``; nothing as a dash."""
    return ", ".join(need[:2] for need in needs if need != "nothing") or "–"


def table(rows: list[Row]) -> str:
    """The table in Markdown, with the total of the minutes."""
    lines = ["| Notebook | What it teaches | Minutes | Needs |", "|---|---|---:|---|"]
    for row in rows:
        link = f"[`{row.stem}`](notebooks/{row.stem}.ipynb)"
        lines.append(f"| {link} | **{row.title}**<br>{row.teaches} | {row.minutes} | {needs_text(row.needs)} |")
    lines.append(f"| | In all | {sum(row.minutes for row in rows)} | |")
    return "\n".join(lines)


def updated(readme: str, notebooks: Path) -> str:
    """README's text with the table of ``notebooks`` between its markers.

    Raises:
        ValueError: the markers are missing.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"README.md: expected {BEGIN} and {END} once each.")
    rows = [read_row(path) for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))]
    before, rest = readme.split(BEGIN)
    return before + BEGIN + "\n" + table(rows) + "\n" + END + rest.split(END)[1]


def main(arguments: list[str] | None = None) -> int:
    """Update or check README.md and return the exit status."""
    check = generated.only_check(arguments, "Write README's table of notebooks.")
    readme = ROOT / "README.md"
    wanted = {
        readme: updated(readme.read_text(encoding="utf-8"), ROOT / "notebooks"),
        PICTURE: plots.pipeline("openvino").svg,
    }
    return generated.bring_up_to_date(wanted, check, "tools.readme_table", "README's table and picture are")


if __name__ == "__main__":
    sys.exit(main())
