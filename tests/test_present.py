"""Presenting: settings that JupyterLab knows, copies that run and are never overwritten silently, and the pace line."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from helpers import teaching, workspace
from helpers.errors import WorkshopError
from helpers.teaching import journal, pacing
from helpers.teaching.notebooks import NOTEBOOKS
from tests.conftest import until
from tools import present, slides
from tools.run_notebooks import Progress, run_notebook

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = Path(sys.prefix) / "share/jupyter/lab/schemas"
STEM = "00_start_here"


# --- Copies


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A presentation's folder with its copies."""
    present.make_copies(tmp_path / "present")
    return tmp_path / "present"


def test_the_copies_have_the_same_code_and_no_speaker_notes(out: Path) -> None:
    files = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    assert [file.name for file in sorted((out / "notebooks").glob("*.ipynb"))] == [file.name for file in files]
    for file in files:
        original, copy = slides.read(file), slides.read(out / "notebooks" / file.name)
        for before, after in zip(original["cells"], copy["cells"], strict=True):
            assert after["id"] == before["id"]
            assert "notes" not in after["metadata"]
            if before["cell_type"] == "code":
                assert after["source"] == "".join(before["source"])


def test_every_link_of_a_copy_leads_to_a_file(out: Path) -> None:
    for file in (out / "notebooks").glob("*.ipynb"):
        text = "\n".join(cell["source"] for cell in slides.read(file)["cells"] if cell["cell_type"] == "markdown")
        for link in re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", text):
            assert re.match(r"https?:", link) or (file.parent / link).exists(), f"{file.name}: {link}"


def test_long_prose_is_folded_behind_its_first_sentence_and_nothing_is_lost() -> None:
    text = "## Heading\n\nThe first sentence. " + "And more of it. " * 20 + "\n\n- an item\n\n```\ncode\n\nmore\n```"
    folded = present.folded(text)
    assert folded.startswith("## Heading\n\n<details><summary>The first sentence.</summary>\n\nAnd more")
    assert folded.endswith("```\ncode\n\nmore\n```\n\n</details>")
    words = re.sub(r"<[^>]+>", "", folded).split()
    assert words == text.split()
    assert present.folded("## Short\n\nOne line.") == "## Short\n\nOne line."


def test_a_copy_that_was_only_run_is_made_anew_and_one_that_was_edited_is_kept(out: Path) -> None:
    run, edited = out / "notebooks" / f"{STEM}.ipynb", out / "notebooks" / "03_fp16_build.ipynb"
    book = slides.read(run)
    book["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["shown"]}]
    run.write_text(json.dumps(book))
    book = slides.read(edited)
    book["cells"][1]["source"] = "print('my own')"
    edited.write_text(json.dumps(book))
    moved = present.make_copies(out)
    assert [file.name[:13] for file in moved] == ["03_fp16_build"]
    assert "my own" in moved[0].read_text()
    assert "my own" not in edited.read_text()
    assert "shown" not in run.read_text()
    assert present.make_copies(out) == []


@pytest.mark.notebooks
@pytest.mark.timeout(300)
def test_a_copy_runs_where_it_lies(out: Path) -> None:
    run = run_notebook(out / "notebooks" / f"{STEM}.ipynb", out / "run", Progress())
    assert run.problem == ""


# --- JupyterLab


@pytest.mark.parametrize("dark", [False, True])
def test_jupyterlab_knows_every_setting(tmp_path: Path, dark: bool) -> None:
    present.write_settings(tmp_path, dark)
    files = list(tmp_path.rglob("*.jupyterlab-settings"))
    assert len(files) == len(present.SETTINGS)
    for file in files:
        plugin = file.relative_to(tmp_path).with_suffix(".json")
        schema = json.loads((SCHEMAS / plugin).read_text())
        values = json.loads(file.read_text())
        jsonschema.validate(values, schema)
        assert set(values) <= set(schema["properties"]), plugin


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server started as ``make present`` does it, its address and its folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Below the repository, since that is the server's root; build/ is ignored by git.
    out = ROOT / "build" / f"present-test-{port}"
    command = [sys.executable, "-m", "tools.present", "--port", str(port), "--out", str(out), "--no-browser"]
    log = (tmp_path / "log").open("w")
    own = {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
    process = subprocess.Popen(
        [*command, "--IdentityProvider.token=secret", "--pace", "120"],
        cwd=ROOT,
        env={**os.environ, **own},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        yield f"http://127.0.0.1:{port}", out
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        log.close()
        subprocess.run(["rm", "-rf", str(out)], check=True)


def get(address: str) -> str:
    """A page's text; empty as long as nobody answers."""
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.timeout(180)
def test_the_server_opens_the_first_copy_alone_and_with_its_own_settings(server: tuple[str, Path]) -> None:
    address, out = server
    page = until(lambda: get(f"{address}/?token=secret"), 120, "an answer of JupyterLab")
    config = json.loads(re.findall(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)[0])
    assert config["mode"] == "single-document"
    assert config["treePath"] == f"build/{out.name}/notebooks/{STEM}.ipynb"
    theme = json.loads(get(f"{address}/lab/api/settings/@jupyterlab/apputils-extension:themes?token=secret"))
    assert json.loads(theme["raw"]) == present.SETTINGS["@jupyterlab/apputils-extension:themes"]
    layout = json.loads(get(f"{address}/lab/api/workspaces/default?token=secret"))["data"]["layout-restorer:data"]
    assert layout["left"]["visible"] is False
    assert get(f"{address}/api/contents/build/{out.name}/notebooks/{STEM}.ipynb?token=secret")
    assert "Speaker notes" in (out / "notes.html").read_text()

    again = [sys.executable, "-m", "tools.present", "--out", str(out), "--no-browser"]
    before = (out / "made.json").stat().st_mtime_ns
    second = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"error: A presentation from {out} is still open." in second.stderr
    assert (out / "made.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("999.1.1.1", 8888, "This machine cannot listen on '999.1.1.1'"),
        ("192.0.2.1", 8888, "This machine cannot listen on '192.0.2.1'"),  # an address for documentation, nobody's
        ("127.0.0.1", 99999, "There is no port 99999. Choose one from 1 to 65535."),
    ],
)
def test_an_address_that_no_server_can_have_is_refused(host: str, port: int, told: str) -> None:
    with pytest.raises(WorkshopError, match=re.escape(told)):
        present.require_address(host, port)
    present.require_address("127.0.0.1", 8888)


def test_a_presentation_that_has_ended_holds_its_folder_no_more(tmp_path: Path) -> None:
    code = "import sys, pathlib; from tools import present; present.require_closed(pathlib.Path(sys.argv[1]))"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "present")], cwd=ROOT, check=True)


def test_the_page_of_notes_has_every_note_and_the_minutes(tmp_path: Path) -> None:
    text = re.sub(r"<[^>]+>", "", present.write_notes(tmp_path).read_text())
    for file in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"):
        book = slides.read(file)
        assert f"{book['metadata']['workshop']['minutes']} min" in text
        for cell in book["cells"]:
            note = cell["metadata"].get("notes", "")
            assert re.sub(r"<[^>]+>", "", slides.rendered(note)).strip() in text


# --- The pace line


def ran(notebook: str, cell: str, minutes_ago: float) -> None:
    """Note a cell as run."""
    journal.write(notebook, journal.Entry(cell, time.time() - 60 * minutes_ago, 1.0, True, "openvino"))


def test_a_lone_learner_sees_no_pace_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pacing.VARIABLE, raising=False)
    assert not pacing.is_on()
    assert "pace" not in teaching.start(STEM).facts


def test_the_opening_card_shows_it_and_a_cell_switches_it_off_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pacing.VARIABLE, "on")
    assert "planned so far: 0 of" in teaching.start(STEM).facts["pace"]
    assert "off" in str(teaching.pace(False))
    assert "pace" not in teaching.start(STEM).facts
    assert (workspace.home() / pacing.SWITCHED_OFF).exists()
    assert isinstance(teaching.pace(True), pacing.Pace)
    assert "pace" in teaching.start(STEM).facts


@pytest.mark.parametrize("minutes", [1, 500])
def test_ahead_and_behind_follow_from_the_journal(monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    monkeypatch.setenv(pacing.VARIABLE, "on")
    for ago in range(minutes, 0, -60):
        ran(STEM, "cell-02", ago)
    found = pacing.line("05")
    assert found.gone == pytest.approx(minutes, abs=0.1)
    assert found.planned == sum(part.minutes for part in pacing.whole_plan() if part.notebook < "05")
    word = "▲ ahead by" if minutes == 1 else "▼ behind by"
    assert word in str(found)
    assert word in found._repr_html_()


def test_a_delay_names_the_cuts_that_make_up_for_it() -> None:
    cuts = tuple(pacing.Part("05_kv", title, minutes, core=False) for title, minutes in (("One", 3), ("Two", 4)))
    assert "leave out: “One” in 05 (3 min)" in str(pacing.Pace(10, 13, 60, cuts))
    assert "“Two”" not in str(pacing.Pace(10, 13, 60, cuts))
    assert "“One” in 05 (3 min), “Two” in 05 (4 min)" in str(pacing.Pace(10, 15, 60, cuts))
    assert "saves 7 min and is all there is" in str(pacing.Pace(10, 30, 60, cuts))
    assert "on time" in str(pacing.Pace(10, 11, 60, cuts))
    assert "next possible cut: “One”" in str(pacing.Pace(10, 11, 60, cuts))
    assert "nothing left to leave out" in str(pacing.Pace(10, 30, 60))


def test_a_rehearsal_in_the_morning_is_no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    ran(STEM, "cell-02", 400)
    ran(STEM, "cell-02", 20)
    began = pacing.session_began()
    assert began == pytest.approx(time.time() - 20 * 60, abs=5)
    monkeypatch.setenv(pacing.SINCE, str(time.time()))
    assert pacing.session_began() is None
    assert pacing.line(STEM).gone == 0


@pytest.mark.parametrize(("chosen", "minutes"), [("45", 45), ("120", 120)])
def test_a_plan_fits_its_time_and_a_wrong_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, chosen: str, minutes: int
) -> None:
    monkeypatch.setenv(pacing.VARIABLE, chosen)
    assert 0 < pacing.line(STEM).total <= minutes
    monkeypatch.setenv(pacing.VARIABLE, "60")
    with pytest.raises(WorkshopError, match="'60', which is no plan"):
        pacing.is_on()
