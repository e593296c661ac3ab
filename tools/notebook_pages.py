"""Pages of executed notebooks, and the index that ``make workshop`` ends with.

Pure functions from what was run to HTML, with the frame and style in ``tools/templates``; only ``write``
touches files. Pages stand alone: no script, font or style is fetched from anywhere.
"""

import datetime
import html
import os
import re
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from helpers.cards import seconds_text

if TYPE_CHECKING:
    from tools.run_notebooks import NotebookRun

TEMPLATES = Path(__file__).resolve().parent / "templates"
REPOSITORY = TEMPLATES.parent.parent


def title_of(notebook: Any) -> str:
    """A notebook's title: the first heading of its first cell."""
    found = re.search(r"^# (.+)$", notebook.cells[0].source if notebook.cells else "", re.MULTILINE)
    return found[1].strip() if found else "Untitled"


def minutes_of(notebook: Any) -> str:
    """The minutes that a reader should plan."""
    return str(notebook.metadata.get("workshop", {}).get("minutes", "–"))


def relinked(page: str, source: Path, target_folder: Path, stems: set[str]) -> str:
    """A page's HTML with its relative links right for where it lies now.

    Links to notebooks that have a page go to that page, others to the file in the repository.

    Args:
        page: the HTML.
        source: the notebook that the links were written in.
        target_folder: where the page will lie.
        stems: the notebooks that have pages in ``target_folder``.
    """

    def fixed(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        address, _, anchor = link.partition("#")
        if not address or re.match(r"[a-z][a-z0-9+.-]*:|//|/", address):
            return match[0]
        path = Path(address)
        if path.suffix == ".ipynb" and path.stem in stems and path.parent == Path():
            address = path.stem + ".html"
        else:
            address = Path(os.path.relpath(source.parent / address, target_folder)).as_posix()
        return before + address + ("#" + anchor if anchor else "") + after

    return re.sub(r"""(<(?:a|img)\b[^>]*?\b(?:href|src)=["'])([^"']+)(["'])""", fixed, page)


def body_of(notebook: Any, source: Path) -> str:
    """An executed notebook's cells as HTML, without a frame."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", embed_images=True, exclude_anchor_links=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"path": str(source.parent)}})
    # A wide output scrolls sideways: it has to be reached by the Tab key for that, and says what it is.
    return str(body).replace(
        '<div class="output_area">', '<div class="output_area" tabindex="0" role="group" aria-label="output">'
    )


def style() -> str:
    """The style of every page: layout from ``style.css``, colours of code for light and dark."""
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="xcode").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    layout = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{layout}"


def frame(**parts: str) -> str:
    """A whole page from its parts: ``title``, ``nav``, ``main``."""
    page = Template((TEMPLATES / "page.html").read_text(encoding="utf-8"))
    return page.substitute(style=style(), **parts)


def navigation(stems: list[str], current: str) -> str:
    """Links to the page before, the index and the page after."""
    at = stems.index(current)
    before, after = stems[at - 1 : at] if at else [], stems[at + 1 : at + 2]
    links = [f'<a rel="prev" href="{stem}.html">← {stem}</a>' for stem in before]
    links += ['<a href="../index.html">All notebooks</a>']
    links += [f'<a rel="next" href="{stem}.html">{stem} →</a>' for stem in after]
    return "\n".join(links)


def notebook_page(run: "NotebookRun", stems: list[str], folder: Path) -> str:
    """One executed notebook as a page."""
    body = relinked(body_of(run.notebook, run.source), run.source, folder, set(stems))
    failed = f'<pre class="problem">{html.escape(run.problem)}</pre>' if run.problem else ""
    return frame(
        title=html.escape(title_of(run.notebook)),
        nav=navigation(stems, run.source.stem),
        main=failed + body,
    )


def row(run: "NotebookRun") -> str:
    """One notebook's row of the index."""
    stem = run.source.stem
    cells = {
        "Notebook": f'<a href="notebooks/{stem}.html">{stem}</a>',
        "Title": html.escape(title_of(run.notebook)),
        "Minutes planned": minutes_of(run.notebook),
        "Time taken": seconds_text(run.seconds),
        "Slowest cell": f"<code>{html.escape(run.slowest)}</code>",
        "Result": "failed" if run.problem else "passed",
        "Files": f'<a href="notebooks/{stem}.ipynb">notebook</a> <a href="notebooks/{stem}.log">log</a>',
    }
    return "<tr>" + "".join(f'<td data-label="{name}">{text}</td>' for name, text in cells.items()) + "</tr>"


def index_page(runs: list["NotebookRun"], machine: str, toolchain: str, now: datetime.datetime) -> str:
    """The page that lists what was run, on what, and when.

    Args:
        runs: what was run, in order.
        machine: the machine in words.
        toolchain: the toolchain's title.
        now: the time to show, with its zone.
    """
    columns = ("Notebook", "Title", "Minutes planned", "Time taken", "Slowest cell", "Result", "Files")
    passed = sum(not run.problem for run in runs)
    total = seconds_text(sum(run.seconds for run in runs))
    main = Template((TEMPLATES / "index.html").read_text(encoding="utf-8")).substitute(
        summary=f"{passed} of {len(runs)} notebooks passed, {total} in all.",
        machine=html.escape(machine),
        toolchain=html.escape(toolchain),
        generated=now.strftime("%Y-%m-%d %H:%M %Z"),
        head="".join(f'<th scope="col">{name}</th>' for name in columns),
        rows="\n".join(row(run) for run in runs),
    )
    nav = f'<a rel="next" href="notebooks/{runs[0].source.stem}.html">Start reading →</a>'
    return frame(title="From model weights to an API endpoint with TensorRT-LLM", nav=nav, main=main)


def machine_text() -> str:
    """This machine in one line."""
    from helpers import hardware

    machine = hardware.look()
    gpus = ", ".join(gpu.name for gpu in machine.gpus) or "no NVIDIA GPU"
    return f"{machine.cpu.model}, {machine.cpu.cores} cores; {gpus}; Python {machine.python}; {machine.system}"


def toolchain_text() -> str:
    """The toolchain that the notebooks use here, in words."""
    from helpers import toolchains

    return str(toolchains.best().title)


def write(runs: list["NotebookRun"], out: Path) -> None:
    """Write a page for every notebook that was run, and the index."""
    stems = [run.source.stem for run in runs]
    folder = out / "notebooks"
    for run in runs:
        page = notebook_page(run, stems, folder)
        (folder / f"{run.source.stem}.html").write_text(page, encoding="utf-8")
    now = datetime.datetime.now().astimezone()
    index = index_page(runs, machine_text(), toolchain_text(), now)
    (out / "index.html").write_text(index, encoding="utf-8")
