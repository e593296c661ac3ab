"""JupyterLab arranged for a projector: ``make present``.

Large type, one document, no side panels, lines wrapped, prose folded behind its first sentence, and the pace line. It
works on copies of the notebooks in ``build/present/notebooks`` with settings of its own beside them, so neither the
notebooks nor anybody's own JupyterLab are changed. The copies are made anew at each start; one that was edited is
moved to ``build/present/kept`` first, and none is replaced under a presentation that is still open.

``python -m tools.present --notes`` writes the speaker notes of all notebooks to one page, for a second screen or paper.
"""

import argparse
import datetime
import fcntl
import html
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers import workspace
from helpers.errors import WorkshopError
from helpers.serving import ports
from helpers.teaching import pacing
from helpers.teaching.notebooks import NOTEBOOKS
from helpers.teaching.syllabus import YOUR_TURN
from tools import slides

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
OUT = BUILD / "present"
FOLD_CHARACTERS = 200
"""Prose up to this length stays open: two lines on a projector."""
FIRST = "00_start_here.ipynb"

SETTINGS: dict[str, dict[str, Any]] = {
    "@jupyterlab/apputils-extension:themes": {
        "theme": "JupyterLab Light",
        "overrides": {"code-font-size": "22px", "content-font-size1": "20px", "ui-font-size1": "16px"},
    },
    "@jupyterlab/application-extension:shell": {"startMode": "single"},
    "@jupyterlab/notebook-extension:tracker": {
        "codeCellConfig": {"lineNumbers": False, "lineWrap": True},
        "markdownCellConfig": {"lineNumbers": False, "lineWrap": True},
        "showHiddenCellsButton": False,
    },
    "@jupyterlab/apputils-extension:notification": {
        "checkForUpdates": False,
        "doNotDisturbMode": True,
        "fetchNews": "false",
    },
    "@jupyterlab/statusbar-extension:plugin": {"visible": False},
}
"""JupyterLab's plugins and what is set in each: read from the back row, and nothing that pops up."""


# --- Copies -------------------------------------------------------------------


def folded(text: str) -> str:
    """A Markdown cell's text with the prose under each heading folded behind its first sentence."""
    return "\n\n".join(_folded_section(part) for part in _at_headings(text))


def _at_headings(text: str) -> Iterator[list[str]]:
    """The blocks of a text, a new list at each heading."""
    found: list[str] = []
    for block in slides.blocks(text):
        if re.match(r"#+ ", block) and found:
            yield found
            found = []
        found.append(block)
    if found:
        yield found


def _folded_section(blocks: list[str]) -> str:
    heading = blocks[:1] if re.match(r"#+ ", blocks[0]) else []
    if heading and YOUR_TURN in heading[0]:  # an exercise's question stays open: the room answers it
        return "\n\n".join(blocks)
    body = blocks[len(heading) :]
    text = "\n\n".join(body)
    if len(text) <= FOLD_CHARACTERS or "<details" in text:
        return "\n\n".join(blocks)
    is_prose = not re.match(r"```|\||!|<|[-*] |\d+\. ", body[0])
    first = slides.first_sentence(body[0]) if is_prose else ""
    rest = [" ".join(body[0].split())[len(first) :].strip(), *body[1:]] if first else body
    if not any(rest):
        return "\n\n".join(blocks)
    summary = re.sub(r"</?p>", "", slides.rendered(first)).strip() or "Read on"
    inside = "\n\n".join(part for part in rest if part)
    return "\n\n".join([*heading, f"<details><summary>{summary}</summary>", inside, "</details>"])


def links_from(text: str, folder: Path, copies: set[str]) -> str:
    """Markdown whose relative links are right in ``folder``; those between copies stay as they are."""

    def fixed(link: re.Match[str]) -> str:
        address, _, anchor = link[1].partition("#")
        if not address or address in copies or re.match(r"[a-z][a-z0-9+.-]*:|/", address):
            return link[0]
        there = Path(os.path.relpath(NOTEBOOKS / address, folder)).as_posix()
        return f"]({there}{'#' + anchor if anchor else ''})"

    return re.sub(r"\]\(([^)\s]+)\)", fixed, text)


def copy_of(book: dict[str, Any], folder: Path, copies: set[str]) -> dict[str, Any]:
    """A notebook for the projector: the same code, folded prose, no speaker notes."""
    cells = []
    for cell in book["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            source = folded(links_from(source, folder, copies))
        metadata = {key: value for key, value in cell["metadata"].items() if key != "notes"}
        cells.append({**cell, "metadata": metadata, "source": source})
    return {**book, "cells": cells}


def text_of(book: dict[str, Any]) -> list[list[str]]:
    """What a person would edit of a notebook: kind and source of its cells, no outputs."""
    return [[cell["cell_type"], "".join(cell["source"])] for cell in book["cells"]]


def keep_edited(folder: Path, kept: Path, record: Path) -> list[Path]:
    """Move copies that were edited since they were made out of the way, and return where they are now.

    Args:
        folder: of the copies.
        kept: where edited ones go.
        record: what each copy's text was when it was made; a copy without a record counts as edited.
    """
    made = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    now, moved = datetime.datetime.now().strftime("%Y%m%d-%H%M%S"), []
    for file in sorted(folder.glob("*.ipynb")):
        try:
            same = text_of(slides.read(file)) == made.get(file.name)
        except (ValueError, LookupError):
            same = False
        if not same:
            kept.mkdir(parents=True, exist_ok=True)
            moved.append(file.rename(kept / f"{file.stem}-{now}.ipynb"))
    return moved


def make_copies(out: Path) -> list[Path]:
    """Make all copies anew, and return where edited ones of last time were moved to."""
    folder, record = out / "notebooks", out / "made.json"
    folder.mkdir(parents=True, exist_ok=True)
    moved = keep_edited(folder, out / "kept", record)
    files = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    for left in folder.glob("*.ipynb"):
        left.unlink()
    made = {file.name: copy_of(slides.read(file), folder, {one.name for one in files}) for file in files}
    for name, book in made.items():
        (folder / name).write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    record.write_text(json.dumps({name: text_of(book) for name, book in made.items()}), encoding="utf-8")
    link = folder / "workshop.py"
    link.unlink(missing_ok=True)
    link.symlink_to(NOTEBOOKS / "workshop.py")  # it finds the helpers from where it really lies
    return moved


# --- JupyterLab ---------------------------------------------------------------


def settings(dark: bool = False) -> dict[str, dict[str, Any]]:
    """The settings of every plugin, on a light background or a dark one."""
    themes = {**SETTINGS["@jupyterlab/apputils-extension:themes"], "theme": f"JupyterLab {'Dark' if dark else 'Light'}"}
    return {**SETTINGS, "@jupyterlab/apputils-extension:themes": themes}


def write_settings(folder: Path, dark: bool = False) -> None:
    """Write them where JupyterLab looks for a user's settings, in a folder that is nobody's own."""
    for plugin, values in settings(dark).items():
        package, name = plugin.split(":")
        file = folder / package / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values, indent=2), encoding="utf-8")


def write_workspace(folder: Path, first: str) -> None:
    """Write JupyterLab's layout: the first copy, and no panel or bar beside it (Ctrl+B brings the files back)."""
    from jupyterlab_server.workspaces_handler import WorkspacesManager

    shutil.rmtree(folder, ignore_errors=True)  # else panels that were opened last time come back
    folder.mkdir(parents=True)
    aside = {"collapsed": True, "visible": False, "widgets": []}
    layout = {"main": {"dock": None, "current": f"notebook:{first}"}, "left": aside, "right": aside}
    data = {"layout-restorer:data": {**layout, "top": {"simpleVisibility": True}}}
    WorkspacesManager(str(folder)).save("default", json.dumps({"data": data, "metadata": {"id": "default"}}))


def first_copy(out: Path) -> str:
    """The first copy's path as the server names it."""
    return Path(os.path.relpath(out / "notebooks" / FIRST, ROOT)).as_posix()


def environment(out: Path, pace: str) -> dict[str, str]:
    """Environment variables of the server, and so of its kernels.

    Args:
        out: the presentation's folder.
        pace: what ``make present`` was told; empty means on, unless it was switched off in a notebook.
    """
    folders = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    return {
        **os.environ,
        **{variable: str(out / name) for variable, name in folders.items()},
        pacing.VARIABLE: pace or "on",
        pacing.SINCE: f"{time.time():.0f}",
    }


def command(out: Path, host: str, port: int, extra: list[str]) -> list[str]:
    """The command that starts JupyterLab at the first copy, in single-document mode."""
    return [
        *(sys.executable, "-m", "jupyter", "lab", f"--ServerApp.ip={host}", f"--ServerApp.port={port}"),
        f"--ServerApp.root_dir={ROOT}",
        f"--LabApp.default_url=/doc/tree/{first_copy(out)}",
        *([] if host in ("127.0.0.1", "localhost") else ["--no-browser"]),
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
        *extra,
    ]


def require_closed(out: Path) -> None:
    """Hold the presentation's folder until the program that takes this process's place has ended.

    Raises:
        WorkshopError: another presentation holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = os.open(out / "open.lock", os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(lock, True)  # by JupyterLab, which gives it to none of its kernels
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise WorkshopError(
            f"A presentation from {out} is still open. Go on in its window, or end it where it runs with Ctrl-C, "
            "twice, and give the command again."
        ) from None


def require_address(host: str, port: int) -> None:
    """Refuse an address that no server can have here.

    Raises:
        WorkshopError: there is no such port, or this machine does not have the address.
    """
    if not 0 <= port <= 65535:
        raise WorkshopError(f"There is no port {port}. Choose one from 1 to 65535.")
    ports.free_port(host)


def prepare(out: Path, pace: str = "", dark: bool = False) -> None:
    """Make copies, settings and notes anew, and say where they are."""
    moved = make_copies(out)
    write_settings(out / "settings", dark)
    write_workspace(out / "workspaces", first_copy(out))
    if pace not in ("", "off"):  # asked for by name: what a notebook switched off before counts no more
        (workspace.home() / pacing.SWITCHED_OFF).unlink(missing_ok=True)
    for file in moved:
        print(f"A copy was edited since it was made. It is kept as {file}")
    print(f"Presenting copies from {out / 'notebooks'}; what is edited there does not change the notebooks.")
    print(f"Speaker notes for another screen or paper: {write_notes(out)}", flush=True)


# --- Speaker notes ------------------------------------------------------------


def noted(book: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Heading, minutes in words (where a section begins) and note of each cell that has one or begins a section."""
    found, heading = [], ""
    for cell in book["cells"]:
        titles = [title for title, _ in slides.sections("".join(cell["source"])) if title]
        heading = titles[-1] if titles and cell["cell_type"] == "markdown" else heading
        about, note = cell["metadata"].get("workshop"), cell["metadata"].get("notes", "")
        minutes = f"{about['minutes']:g} min, {'core' if about.get('core', True) else 'optional'}" if about else ""
        if minutes or note:
            title = titles[0] if about and titles else heading
            found.append((slides.plain(title), minutes, note))
    return found


def _notes_section(file: Path) -> str:
    book = slides.read(file)
    total = book["metadata"]["workshop"]["minutes"]
    parts, last = [], ""
    for heading, minutes, note in noted(book):
        if minutes or heading != last:
            length = f" <small>{minutes}</small>" if minutes else ""
            parts.append(f"<h3>{html.escape(heading)}{length}</h3>")
        parts.append(slides.rendered(note) if note else "")
        last = heading
    title = html.escape(slides.plain(slides.slides_title(book)))
    return f"<section><h2>{file.stem[:2]} {title} <small>{total} min</small></h2>{''.join(parts)}</section>"


def write_notes(out: Path) -> Path:
    """Write the speaker notes of all notebooks as one page, and return it."""
    style = (
        "body{font:1.1rem/1.5 system-ui,'DejaVu Sans',sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem}"
        "h2{border-bottom:2px solid #76b900;margin-top:2em}h3{margin:1.2em 0 0.2em}small{font-weight:400;opacity:.8}"
        "@media print{section{break-before:page}section:first-of-type{break-before:auto}h3{break-after:avoid}}"
    )
    body = "".join(_notes_section(file) for file in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")))
    out.mkdir(parents=True, exist_ok=True)
    page = out / "notes.html"
    page.write_text(
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Speaker notes</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{style}</style></head><body><main><h1>Speaker notes</h1>{body}</main>'
        "</body></html>",
        encoding="utf-8",
    )
    return page


def main(arguments: list[str] | None = None) -> int:
    """Present, or write the notes, and return the exit status."""
    parser = argparse.ArgumentParser(
        description="Open JupyterLab arranged for a projector, on copies of the notebooks."
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8888, help="the port to ask for")
    parser.add_argument("--pace", choices=("", *pacing.CHOICES), default="", help="the plan of the pace line, or off")
    parser.add_argument("--dark", action="store_true", help="light letters on a dark background")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the copies, in build (default: build/present)")
    parser.add_argument("--notes", action="store_true", help="only write the page of speaker notes")
    options, extra = parser.parse_known_args(arguments)
    out = options.out.resolve()
    if not out.is_relative_to(BUILD) or out == BUILD:
        parser.error(f"--out is {out}. Name a folder in {BUILD}: the server shows no other, and it is made anew.")
    if options.notes:
        print(f"Speaker notes: {write_notes(out)}")
        return 0
    try:
        require_address(options.host, options.port)
        require_closed(out)
    except WorkshopError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    prepare(out, options.pace, options.dark)
    started = command(out, options.host, options.port, extra)
    # JupyterLab takes this process's place, so what ends this program ends it too.
    os.execve(started[0], started, environment(out, options.pace))


if __name__ == "__main__":
    sys.exit(main())
