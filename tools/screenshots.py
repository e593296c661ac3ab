"""Pictures of the workshop in a real JupyterLab, for the README: ``python -m tools.screenshots``.

Each notebook is opened in a browser and run with the keyboard up to the cell that is shown. Full-size pictures go to
``build/screenshots/``, small ones to ``data/pictures/``, each in the light and the dark theme. What they show was
measured while they were taken; only the folders of the machine that takes them are written as a reader's would be.
The workspace is ``WORKSHOP_HOME``'s; the build in progress is of a new workspace.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import workspace
from helpers.teaching import notebooks
from tools import lab

if TYPE_CHECKING:
    from playwright.sync_api import Browser

OUT = lab.ROOT / "build" / "screenshots"
SMALL = lab.ROOT / "data" / "pictures"
HEIGHT = 800  # CSS pixels of a picture, unless it needs more; its width is the window's
QUALITY = 80  # of WebP: text stays sharp, and twelve pictures stay below a megabyte
LOADED_MS = 1500  # a picture in an output is decoded, and the theme's change has come to its end
REPOSITORY, HOME = "~/trtllm-workshop", "/workspace"  # written in place of this machine's folders
_RENAME = """pairs => {
  const walk = document.createTreeWalker(document.querySelector(".jp-NotebookPanel"), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode;
    for (const [from, to] of pairs) {
      if (text.data.includes(from)) text.data = text.data.replaceAll(from, to);
    }
  }
}"""


@dataclass(frozen=True)
class Shot:
    """One picture.

    Attributes:
        name: of the file, without theme and ending.
        notebook: its number.
        fragment: words of the cell that is shown, at the top of the picture.
        seconds: how long the cells up to it may take.
        is_progress: shown while that cell runs, in a workspace that has nothing yet.
        height: CSS pixels of the picture.
    """

    name: str
    notebook: str
    fragment: str
    seconds: float = 300
    is_progress: bool = False
    height: int = HEIGHT


SHOTS = (
    Shot("start", "00", "plots.pipeline("),
    Shot("build", "03", 'checkpoint.make(model, "fp16")', is_progress=True),
    Shot("formats", "04", "plots.number_grid()"),
    Shot("planner", "05", "widgets.memory_planner("),
    Shot("sweep", "08", "analysis.curve(fp16)", 600),
    Shot("scaling", "09", "timeline.picture()", 900, height=900),
)


def take(shot: Shot, running: lab.Lab, browser: "Browser") -> list[Path]:
    """Take one picture in both themes; the full-size files.

    Raises:
        lab.LabError: a cell failed or took too long.
    """
    name = next(notebook.name for notebook in notebooks() if notebook.name.startswith(shot.notebook))
    tab = lab.open_tab(running, browser, name, height=shot.height)
    try:
        tab.page.keyboard.press("Control+b")  # the list of files goes, the notebook has the width
        tab.run_until(shot.fragment)
        if shot.is_progress:
            tab.output(shot.fragment).locator("progress").wait_for(timeout=1000 * shot.seconds)
        else:
            tab.wait_until(shot.fragment, shot.seconds)
        return [photograph(tab, shot, theme) for theme in lab.THEMES]
    finally:
        tab.close()


def photograph(tab: lab.Tab, shot: Shot, theme: str) -> Path:
    """The page in one theme, with the cell of the picture at its top."""
    tab.theme(theme)
    tab.cell(shot.fragment).evaluate("cell => cell.scrollIntoView({block: 'start'})")
    tab.page.wait_for_timeout(LOADED_MS)
    file = OUT / f"{shot.name}-{theme}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    folders = [(tab.lab.home, HOME), (tab.lab.folder, REPOSITORY), (lab.ROOT, REPOSITORY)]
    tab.page.evaluate(_RENAME, [(str(folder), name) for folder, name in folders])
    tab.page.screenshot(path=file)
    return file


def smaller(file: Path) -> Path:
    """The picture as WebP beside the README's other pictures; the same picture gives the same bytes."""
    from PIL import Image

    to = SMALL / f"{file.stem}.webp"
    with Image.open(file) as picture:
        picture.convert("RGB").save(to, "WEBP", quality=QUALITY, method=6)
    return to


def main(arguments: list[str] | None = None) -> int:
    """Take the pictures that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tools.screenshots", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], choices=[shot.name for shot in SHOTS], help="these pictures")
    only = parser.parse_args(arguments).only
    program = lab.chromium()
    if program is None:
        print("There is no chromium or google-chrome on PATH: install one, then run this again.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as place, lab.browser(program) as browser:
        for number, shot in enumerate(shot for shot in SHOTS if not only or shot.name in only):
            own = Path(place) / str(number)
            home = own / "workshop" if shot.is_progress else workspace.home()
            try:
                with lab.running(own / "lab", home) as running:
                    files = take(shot, running, browser)
            except lab.LabError as problem:
                print(f"{shot.name} was not taken. {problem}", file=sys.stderr)
                return 1
            for file in files:
                print(f"{file}  {smaller(file).stat().st_size / 1000:.0f} kB small")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
