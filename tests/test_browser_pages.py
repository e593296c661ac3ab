"""The pages that ``make workshop`` writes, as a real browser lays them out and draws them."""

import functools
import html
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from helpers.teaching import notebooks

# The first test may be the one that fills the shared workspace, which takes minutes on a small machine.
pytestmark = [pytest.mark.notebooks, pytest.mark.timeout(900)]

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
PHONE_PX = 400
# A window is never as narrow as a phone, so a frame in it is; its page is measured and its content listed as JSON.
LOOK = """<!DOCTYPE html><pre></pre>
<iframe src="/%s" style="width: %dpx; height: 900px; border: 0" onload="look(this.contentDocument)"></iframe>
<script>
function look(page) {
  const all = (what, of) => Array.from(page.querySelectorAll(what), of);
  const root = page.documentElement;
  document.querySelector("pre").textContent = JSON.stringify({
    scroll_width: root.scrollWidth,
    width: root.clientWidth,
    links: all("a[href]", a => a.getAttribute("href")),
    pictures: all("img, svg[role=img]", one => ({
      alt: one.getAttribute("alt") || one.getAttribute("aria-label"),
      drawn: one.complete ? one.naturalWidth > 0 : one.getBoundingClientRect().width > 0,
    })),
    runs: all("table.runs tbody tr", row => row.innerText),
    tables: all("table", table => Array.from(table.rows, row => Array.from(row.cells, cell => cell.innerText))),
    facts: all("dd", dd => dd.innerText),
  });
}
</script>
"""


@dataclass
class Browser:
    """Headless Chromium before a folder of pages, which a server of this process hands out."""

    program: str
    folder: Path
    address: str
    profiles: Path

    def run(self, page: str, *flags: str) -> str:
        """Load a page in a browser that was never used before; what it printed."""
        profile = self.profiles / str(len(list(self.profiles.iterdir())))
        profile.mkdir()
        command = [self.program, *FLAGS, f"--user-data-dir={profile}", *flags, f"{self.address}/{page}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def look(self, page: str) -> dict[str, Any]:
        """What a page holds, and how wide it is, on a phone."""
        (self.folder / "look.html").write_text(LOOK % (page, PHONE_PX))
        dom = self.run("look.html", "--window-size=800,1000", "--virtual-time-budget=10000", "--dump-dom")
        found = re.search(r"<pre>(.+?)</pre>", dom, re.DOTALL)
        assert found, dom
        looked: dict[str, Any] = json.loads(html.unescape(found[1]))
        return looked


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Hands out files and keeps the tests' output clean."""

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def program() -> str:
    """The browser of this machine; without one the tests are skipped, but not where they are the last word."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        missing = "neither chromium nor google-chrome is on PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@pytest.fixture(scope="module")
def browser(
    in_order: "tuple[Path, subprocess.CompletedProcess[str]]", tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """A browser, and a copy of the pages of a run of all notebooks."""
    found, pages, done = program(), tmp_path_factory.mktemp("browser") / "pages", in_order[1]
    shutil.copytree(in_order[0], pages)
    assert done.returncode == 0, done.stdout + done.stderr
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(pages)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield Browser(found, pages, address, tmp_path_factory.mktemp("profiles"))
    server.shutdown()
    server.server_close()


PAGES = ["index.html", "notebooks/04_fp8_build.html"]


@pytest.fixture(scope="module")
def looks(browser: Browser) -> dict[str, dict[str, Any]]:
    """What the browser found on each page."""
    return {page: browser.look(page) for page in PAGES}


def test_the_index_has_a_row_for_each_notebook_and_says_where_it_ran(looks: dict[str, dict[str, Any]]) -> None:
    index = looks["index.html"]
    assert len(index["runs"]) == len(notebooks())
    for notebook, row in zip(notebooks(), index["runs"], strict=True):
        for text in (notebook.name, notebook.title, "passed"):
            assert text in row
        assert f"notebooks/{notebook.name}.html" in index["links"]
    assert "OpenVINO on the CPU" in index["facts"]


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file(browser: Browser, looks: dict[str, dict[str, Any]], page: str) -> None:
    relative = [link for link in looks[page]["links"] if not urlsplit(link).scheme and urlsplit(link).path]
    assert relative
    start = (browser.folder / page).parent
    assert [link for link in relative if not (start / unquote(urlsplit(link).path)).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_a_phone(looks: dict[str, dict[str, Any]], page: str) -> None:
    assert looks[page]["width"] == PHONE_PX
    assert looks[page]["scroll_width"] <= PHONE_PX


def test_every_picture_is_drawn_and_has_a_text_equivalent(looks: dict[str, dict[str, Any]]) -> None:
    pictures = looks["notebooks/04_fp8_build.html"]["pictures"]
    assert pictures
    assert all(picture["alt"] for picture in pictures), pictures
    assert all(picture["drawn"] for picture in pictures), pictures


def test_the_perplexity_table_is_on_its_page(looks: dict[str, dict[str, Any]]) -> None:
    tables = looks["notebooks/04_fp8_build.html"]["tables"]
    of_perplexity = [table for table in tables if any("perplexity" in cell.lower() for cell in table[0])]
    assert of_perplexity
    for table in of_perplexity:
        rows = {row[0]: " ".join(row[1:]) for row in table[1:]}
        for precision in ("FP16", "FP8 (E4M3)", "INT8"):
            named = [row for name, row in rows.items() if name.startswith(precision)]
            assert named, rows
            assert re.search(r"\d\.\d{4}", named[0]), rows


def test_a_page_is_not_blank(browser: Browser, tmp_path: Path) -> None:
    from PIL import Image

    shot = tmp_path / "page.png"
    browser.run("notebooks/04_fp8_build.html", f"--screenshot={shot}", "--window-size=1000,1500")
    with Image.open(shot) as picture:
        assert picture.size == (1000, 1500)
        colours = picture.convert("RGB").getcolors(maxcolors=1000 * 1500)
    assert len(colours) > 50
