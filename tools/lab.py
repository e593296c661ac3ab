"""A real JupyterLab with the workshop's notebooks, and a real browser before it: for tests and for screenshots.

The Lab runs from a copy of the notebooks, so that what it saves changes no source, and keeps all its own files in a
folder of its own. The page objects press what a person presses: buttons, keys, a slider. JupyterLab's application
object is asked only what a cell's number, its id and its outputs are, which the page does not tell.

Needs ``requirements-dev.txt`` (Playwright) and a Chromium that is already on the machine; downloads no browser.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.run_notebooks import private_folders

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 1280, 900  # CSS pixels of the browser's window
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
FLAGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
STARTED_WITHIN_S = 60
_COPIED = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
# What a person's own settings would be: no news, no pop-ups over the page; and every cell stays on the page, so that
# what is far below can be read without scrolling there first.
_SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}
_CELLS = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  const context = panel.sessionContext;
  return {
    kernel: (context.session && context.session.kernel && context.session.kernel.status) || "none",
    connection: (context.session && context.session.kernel && context.session.kernel.connectionStatus) || "none",
    cells: panel.content.widgets.map((cell, index) => ({
      ...cell.model.sharedModel.toJSON(),
      index,
      state: cell.model.executionState || "",
    })),
  };
}"""


class LabError(Exception):
    """JupyterLab or a cell did not do in time what was asked of it; says what it did instead."""


def chromium() -> str | None:
    """The browser of this machine; None without one."""
    return shutil.which("chromium") or shutil.which("google-chrome")


def _until(condition: Callable[[], Any], seconds: float, what: Callable[[], str], every: float = 0.2) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise LabError(what())
        time.sleep(every)
    return found


# --- The server ---------------------------------------------------------------


@dataclass
class Lab:
    """A running JupyterLab.

    Attributes:
        url: where it listens, with a slash at the end.
        folder: the copy of the tree that it serves.
        home: the ``WORKSHOP_HOME`` of its kernels.
        log: what it wrote.
    """

    url: str
    token: str
    folder: Path
    home: Path
    log: Path


def _tree(folder: Path) -> None:
    """A copy of the notebooks; all that they use lies beside them as links."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=_COPIED)
    for name in ("helpers", "data", "tools", "README.md"):
        (folder / name).symlink_to(ROOT / name)


def _kernel(share: Path) -> None:
    """The workshop's kernel, as ``make setup`` registers it, with the Python that runs this."""
    spec = {
        "argv": [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "TensorRT-LLM workshop",
        "language": "python",
        "metadata": {"debugger": False},
    }
    place = share / "kernels" / "trtllm-workshop"
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps(spec))


def _settings(folder: Path) -> None:
    for name, values in _SETTINGS.items():
        file = folder / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))


def _environment(place: Path, home: Path) -> dict[str, str]:
    folders = private_folders(place) | {
        "JUPYTERLAB_SETTINGS_DIR": str(place / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(place / "workspaces"),
        "JUPYTER_DATA_DIR": str(place / "data"),
        "JUPYTER_PATH": str(place / "share"),
    }
    for folder in folders.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    return kept | folders | {"WORKSHOP_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", "WORKSHOP_STATIC": "0"}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def running(place: Path, home: Path) -> Iterator[Lab]:
    """JupyterLab over a copy of the notebooks, until the block is left.

    Args:
        place: an empty or new folder for all that JupyterLab writes, the copied notebooks included.
        home: the ``WORKSHOP_HOME`` of its kernels.

    Raises:
        LabError: the server did not answer in time.
    """
    folder, log, token = place / "tree", place / "lab.log", secrets.token_hex(8)
    folder.mkdir(parents=True)
    _tree(folder)
    _kernel(place / "share")
    _settings(place / "settings")
    port = _free_port()
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True", "--allow-root"]
    with log.open("w") as out:
        server = subprocess.Popen(
            command, env=_environment(place, home), cwd=folder, stdout=out, stderr=out, start_new_session=True
        )
    lab = Lab(f"http://127.0.0.1:{port}/", token, folder, home, log)
    try:
        _until(lambda: _answers(lab, server), STARTED_WITHIN_S, lambda: f"JupyterLab did not start:\n{log.read_text()}")
        yield lab
    finally:
        _end(server)


def _answers(lab: Lab, server: "subprocess.Popen[bytes]") -> bool:
    import urllib.error
    import urllib.request

    if server.poll() is not None:
        raise LabError(f"JupyterLab ended with {server.returncode}:\n{lab.log.read_text()}")
    try:
        with urllib.request.urlopen(f"{lab.url}api/status?token={lab.token}", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End the server, which ends its kernels; a kernel ends what it serves."""
    with contextlib.suppress(ProcessLookupError):
        server.send_signal(signal.SIGTERM)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


# --- The browser --------------------------------------------------------------


@contextlib.contextmanager
def browser(program: str) -> Iterator["Browser"]:
    """Headless Chromium, until the block is left."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=FLAGS, chromium_sandbox=False)
        try:
            yield opened
        finally:
            opened.close()


@dataclass
class Tab:
    """A browser's tab with one notebook in JupyterLab.

    Attributes:
        page: Playwright's page.
        name: the notebook's file name without ``.ipynb``.
        problems: uncaught errors of the page's scripts, as the browser told them.
    """

    page: "Page"
    lab: Lab
    name: str
    problems: list[str]

    @property
    def path(self) -> str:
        """The notebook, relative to what JupyterLab serves."""
        return f"notebooks/{self.name}.ipynb"

    def kernel(self) -> str:
        """The kernel's status, such as ``idle``."""
        return str(self.page.evaluate(_CELLS)["kernel"])

    def cells(self) -> list[dict[str, Any]]:
        """The notebook's cells as JupyterLab holds them now: the file's format, an ``index`` and a ``state`` more."""
        return list(self.page.evaluate(_CELLS)["cells"])

    def code_cells(self) -> list[dict[str, Any]]:
        """Those of them that hold code."""
        return [cell for cell in self.cells() if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]

    def index(self, fragment: str) -> int:
        """The place of the code cell whose source has these words.

        Raises:
            LabError: no cell has.
        """
        for cell in self.code_cells():
            if fragment in "".join(cell["source"]):
                return int(cell["index"])
        raise LabError(f"No code cell of {self.name} has {fragment!r}.")

    def cell(self, fragment: str) -> "Locator":
        """The code cell whose source has these words, on the page."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(self.index(fragment))

    def output(self, fragment: str) -> "Locator":
        """What that cell shows."""
        return self.cell(fragment).locator(".jp-OutputArea").first

    # --- What a person does ---

    def run_all(self) -> None:
        """Press "Restart the kernel and run all cells" and confirm; does not wait for their end.

        JupyterLab may lose what it sends while it connects to a kernel that was just restarted: the cells then wait
        for ever beside an idle kernel. A person presses again, and so does this.

        Raises:
            LabError: the kernel did nothing after three times.
        """
        for _ in range(3):
            self._until_steady()
            self.page.locator("[data-jp-item-name='restart-and-run'] jp-button").click()
            self.page.locator(".jp-Dialog button.jp-mod-accept").click()
            if self._is_at_it():
                return
        raise LabError(f"{self.name} did not begin: {self.told()}")

    def _until_steady(self) -> None:
        """Wait until the kernel has been connected and idle for two seconds."""
        since: list[float] = []

        def steady() -> bool:
            seen = self.page.evaluate(_CELLS)
            if (seen["kernel"], seen["connection"]) != ("idle", "connected"):
                since.clear()
                return False
            since.append(time.monotonic())
            return since[-1] - since[0] > 2

        _until(steady, 90, lambda: f"{self.name}: the kernel is {self.kernel()}, and was never idle")

    def _is_at_it(self, seconds: float = 10) -> bool:
        """True once a cell has run; False if the kernel was idle for so long and none had."""
        since = [time.monotonic()]
        while time.monotonic() - since[-1] < seconds:
            seen = self.page.evaluate(_CELLS)
            code = [cell for cell in seen["cells"] if cell["cell_type"] == "code"]
            if any(_has_run(cell) for cell in code):
                return True
            if seen["kernel"] != "idle":
                since.append(time.monotonic())
            time.sleep(0.2)
        return False

    def run(self, fragment: str) -> None:
        """Click into a cell and press the toolbar's Run button; does not wait."""
        self.cell(fragment).locator(".cm-content").click()
        self.page.locator("[data-jp-item-name='run'] jp-button").click()

    def run_until(self, fragment: str) -> None:
        """Press Shift+Enter from the first cell to the one with these words; does not wait."""
        last = self.index(fragment)
        self._until_steady()
        self.page.locator(".jp-Notebook .jp-Cell .jp-InputPrompt").first.click()
        for _ in range(last + 1):
            self.page.keyboard.press("Shift+Enter")

    def wait_until(self, fragment: str, seconds: float) -> None:
        """Wait until every code cell up to the one with these words has run.

        Raises:
            LabError: as for :meth:`wait`.
        """
        last = self.index(fragment)
        self.wait_for(sum(cell["index"] <= last for cell in self.code_cells()), seconds)

    def wait(self, seconds: float) -> None:
        """Wait until every code cell has run.

        Raises:
            LabError: it took longer, or a cell failed and the rest was not run.
        """
        self.wait_for(len(self.code_cells()), seconds)

    def wait_for(self, count: int, seconds: float) -> None:
        """Wait until the first so many code cells have run."""
        idle_since: list[float] = []

        def done() -> bool:
            seen = self.page.evaluate(_CELLS)
            code = [cell for cell in seen["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
            if all(_has_run(cell) for cell in code[:count]):
                return True
            if seen["kernel"] != "idle" or any(cell["state"] == "running" for cell in code):
                idle_since.clear()
            idle_since.append(time.monotonic())
            if time.monotonic() - idle_since[0] > 20:
                raise LabError(f"{self.name} stopped before its end: {self.told()}")
            return False

        _until(done, seconds, lambda: f"{self.name} did not end within {seconds} s: {self.told()}", every=0.5)

    def told(self) -> str:
        """Which cells have not run, and which failed, in words."""
        left = [cell["id"] for cell in self.code_cells() if not _has_run(cell)]
        return f"not run: {', '.join(left) or 'none'}; failed: {self.errors(tagged=True) or 'none'}"

    def errors(self, tagged: bool = False) -> list[str]:
        """Cells that ended in an error, with the error; those that are meant to only if asked for."""
        found = []
        for cell in self.code_cells():
            if "raises-exception" in cell["metadata"].get("tags", []) and not tagged:
                continue
            for output in cell["outputs"]:
                if output["output_type"] == "error":
                    found.append(f"{cell['id']}: {output['ename']}: {output['evalue']}")
        return found

    def theme(self, name: str) -> None:
        """Change JupyterLab's theme: ``light`` or ``dark``."""
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", THEMES[name]
        )
        dark = "true" if name == "light" else "false"
        self.page.wait_for_function("light => document.body.dataset.jpThemeLight === light", arg=dark)

    def reload(self) -> None:
        """Load the page anew, as after a break of the connection."""
        self.page.reload()
        self._ready()

    def close(self) -> None:
        """Close the tab; its kernel runs on."""
        self.page.context.close()

    def _ready(self) -> None:
        self.page.wait_for_function(
            "path => window.jupyterapp && window.jupyterapp.shell.currentWidget"
            " && window.jupyterapp.shell.currentWidget.context"
            " && window.jupyterapp.shell.currentWidget.context.path === path"
            " && window.jupyterapp.shell.currentWidget.context.isReady"
            " && window.jupyterapp.shell.currentWidget.sessionContext.isReady"
            " && !window.jupyterapp.shell.currentWidget.isHidden",
            arg=self.path,
            timeout=60_000,
        )
        _until(lambda: self.kernel() != "none", 60, lambda: f"{self.name} got no kernel: {self.lab.log.read_text()}")


def _has_run(cell: dict[str, Any]) -> bool:
    return cell["execution_count"] is not None and cell["state"] != "running"


def open_tab(lab: Lab, opened: "Browser", name: str, theme: str = "light", height: int = HEIGHT) -> Tab:
    """Open a notebook in a tab of its own, with cookies of its own, as a second person would."""
    context = opened.new_context(viewport={"width": WIDTH, "height": height}, color_scheme=theme)  # type: ignore[arg-type]
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda problem: problems.append(str(problem)))
    tab = Tab(page, lab, name, problems)
    workspace = f"w{secrets.token_hex(4)}"
    page.goto(f"{lab.url}lab/workspaces/{workspace}/tree/{tab.path}?token={lab.token}")
    tab._ready()
    return tab
