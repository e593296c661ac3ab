"""The workshop in a real JupyterLab before a real browser: its buttons, sliders, chat, dashboard, keys and colours."""

import os
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from helpers import stage
from helpers.teaching import notebooks
from tests.conftest import until
from tools import lab

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is in requirements-dev.txt")

# The first test may be the one that fills the shared workspace, which takes minutes on a small machine.
pytestmark = [pytest.mark.notebooks, pytest.mark.slow, pytest.mark.timeout(1800)]

SERIOUS = {"serious", "critical"}
AUDIT = "where => axe.run(where, {resultTypes: ['violations']})"
# What the workshop draws in JupyterLab: the outputs, not the program around them.
OUTPUTS = {"include": [[".jp-OutputArea-output"]]}
ENOUGH_TABS = 80


@pytest.fixture(scope="module")
def browser() -> "Iterator[sync_api.Browser]":
    """Chromium; without one the tests are skipped, but not where they are the last word."""
    program = lab.chromium()
    if program is None:
        missing = "neither chromium nor google-chrome is on PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with lab.browser(program) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(in_order: "tuple[Path, subprocess.CompletedProcess[str]]") -> Path:
    """The folder of the pages of all notebooks."""
    out, done = in_order
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def running(pages: Path, shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Lab]:
    """JupyterLab in the workspace that all notebooks have filled, so that their stages are made earlier."""
    with lab.running(tmp_path_factory.mktemp("lab"), shared_home) as started:
        yield started


def ran(tab: lab.Tab, seconds: float) -> lab.Tab:
    """Run a notebook by its button to the end; nothing failed that should not, in the kernel or in the page."""
    tab.run_all()
    tab.wait(seconds)
    assert tab.errors() == []
    assert tab.problems == []
    return tab


def reads(place: Any) -> str:
    """The text of a place on the page; empty while it is not there."""
    return str(place.inner_text()) if place.count() else ""


# --- 03: a build --------------------------------------------------------------


@pytest.fixture(scope="module")
def built(running: lab.Lab, browser: "sync_api.Browser") -> Iterator[lab.Tab]:
    tab = ran(lab.open_tab(running, browser, "03_fp16_build"), 180)
    yield tab
    tab.close()


def test_03_runs_by_its_button_and_shows_what_it_made(built: lab.Tab) -> None:
    assert "made earlier" in reads(built.output("toolchain.build("))
    mistakes = [cell for cell in built.code_cells() if "raises-exception" in cell["metadata"].get("tags", [])]
    assert mistakes
    for cell in mistakes:
        assert [output["ename"] for output in cell["outputs"]] == ["WorkshopError"]


def test_what_a_notebook_shows_in_lab_passes_the_audit_in_both_themes(built: lab.Tab) -> None:
    for theme in lab.THEMES:
        built.theme(theme)
        found = audit(built.page, OUTPUTS)
        assert found == [], (theme, found)


# --- 05: the planner ----------------------------------------------------------


@pytest.fixture(scope="module")
def planned(running: lab.Lab, browser: "sync_api.Browser") -> Iterator[lab.Tab]:
    tab = ran(lab.open_tab(running, browser, "05_kv_cache_quantization"), 300)
    yield tab
    tab.close()


PLANNER = "widgets.memory_planner("


def slider(tab: lab.Tab, label: str) -> Any:
    """The handle of the planner's slider of that name."""
    row = tab.output(PLANNER).locator(".widget-slider", has=tab.page.get_by_text(label))
    return row.locator(".noUi-handle")


def sentence(tab: lab.Tab) -> str:
    """What the planner says now."""
    return reads(tab.output(PLANNER).locator("[role=status]"))


def test_the_planners_sentence_follows_a_slider_that_the_arrow_keys_move(planned: lab.Tab) -> None:
    before, handle = sentence(planned), slider(planned, "Batch (requests)")
    assert before
    handle.focus()
    value = float(handle.get_attribute("aria-valuenow"))
    for _ in range(3):
        planned.page.keyboard.press("ArrowRight")
    until(lambda: sentence(planned) != before, 10, "another sentence")
    assert float(handle.get_attribute("aria-valuenow")) > value


def test_the_planners_sentence_follows_a_slider_that_the_mouse_drags(planned: lab.Tab) -> None:
    before, handle = sentence(planned), slider(planned, "Prompt (tokens)")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    planned.page.mouse.move(*middle)
    planned.page.mouse.down()
    planned.page.mouse.move(middle[0] + 120, middle[1], steps=5)
    planned.page.mouse.up()
    until(lambda: sentence(planned) != before, 10, "another sentence")


# --- 07: a served engine ------------------------------------------------------


@pytest.fixture(scope="module")
def chatting(running: lab.Lab, browser: "sync_api.Browser") -> Iterator[lab.Tab]:
    """07 after its end, with its server and its chat started anew by the Run button."""
    tab = ran(lab.open_tab(running, browser, "07_build_from_config"), 400)
    for fragment in ("endpoint = serving.start(", "chat_widget.chat("):
        run_again(tab, fragment)
    until(lambda: tab.output("chat_widget.chat(").get_by_role("button", name="Send").count(), 20, "the chat")
    yield tab
    tab.close()


def run_again(tab: lab.Tab, fragment: str, seconds: float = 60) -> None:
    """Run one cell by the toolbar's button, and wait for its end."""
    before = tab.cells()[tab.index(fragment)]["execution_count"]
    tab.run(fragment)

    def done() -> bool:
        cell = tab.cells()[tab.index(fragment)]
        return cell["execution_count"] not in (None, before) and cell["state"] != "running"

    until(done, seconds, f"the end of {fragment}")
    assert tab.errors() == []


def ask(tab: lab.Tab, question: str, tokens: int) -> None:
    """Type a question into the chat and press Send."""
    chat = tab.output("chat_widget.chat(")
    longest = chat.get_by_role("spinbutton", name="Max tokens")
    longest.fill(str(tokens))
    longest.press("Tab")
    chat.get_by_role("slider").focus()
    tab.page.keyboard.press("End")  # the highest temperature: its answers are the longest
    chat.get_by_placeholder("Type a question").fill(question)
    chat.get_by_role("button", name="Send").click()


# The lengths that an answer had on the page while it came, noted there since it may take only a moment.
NOTE_LENGTHS = """chat => {
  window.lengths = new Set();
  new MutationObserver(() => {
    const said = chat.querySelector("[role=log]").textContent;
    if (said.includes("▌")) window.lengths.add(said.length);
  }).observe(chat, {childList: true, characterData: true, subtree: true});
}"""


def test_a_chat_answer_streams_into_the_page_and_ends(chatting: lab.Tab) -> None:
    chat = chatting.output("chat_widget.chat(")
    chat.evaluate(NOTE_LENGTHS)
    said, stop = chat.locator("[role=log]"), chat.get_by_role("button", name="Stop")
    for _ in range(20):  # one of them may be so short that it is drawn once
        before = reads(said)
        ask(chatting, "Who was Alexis Soyer, and what did he do?", 400)
        until(lambda before=before: reads(said) != before, 20, "a new question in the log")
        until(lambda: stop.is_disabled() and "▌" not in reads(said), 60, "the end of the answer")
        if chatting.page.evaluate("window.lengths.size") > 2:
            break
    assert chatting.page.evaluate("window.lengths.size") > 2


# The bundled model's answers are short: Stop is pressed in the page, at the first words, and not after a round trip.
PRESS_STOP = """chat => new Promise(done => {
  const stop = [...chat.querySelectorAll("button")].find(one => one.textContent === "Stop");
  let began = false, since = Date.now();
  const look = setInterval(() => {
    if (!stop.disabled) began = true;
    const words = !stop.disabled && chat.querySelector("[role=log]").textContent.includes("▌");
    if (words) stop.click();
    const over = (began && stop.disabled) || Date.now() - since > 3000;  // it may have ended before the first look
    if (words || over) { clearInterval(look); done(words); }
  }, 5);
})"""


def test_stop_breaks_a_chat_answer_off(chatting: lab.Tab) -> None:
    chat = chatting.output("chat_widget.chat(")
    for _ in range(15):  # one of them may end by itself before Stop is heard
        ask(chatting, "Who was Alexis Soyer, and what did he do?", 400)
        chat.evaluate(PRESS_STOP)
        until(chat.get_by_role("button", name="Send").is_enabled, 60, "the end of the answer")
        if "was stopped" in reads(chat):
            break
    assert "was stopped" in reads(chat)


# --- 08: the dashboard --------------------------------------------------------


@pytest.fixture(scope="module")
def measured(running: lab.Lab, browser: "sync_api.Browser") -> Iterator[lab.Tab]:
    """08 after its end, with its server and its dashboard started anew by the Run button."""
    tab = ran(lab.open_tab(running, browser, "08_benchmarking"), 900)
    for fragment in ("sixteen, eight =", "bench_widget.dashboard("):
        run_again(tab, fragment)
    until(lambda: tab.output(DASHBOARD).get_by_role("button", name="Start").count(), 20, "the dashboard")
    yield tab
    tab.close()


DASHBOARD = "bench_widget.dashboard("


def begin(tab: lab.Tab, requests: int) -> Any:
    """Ask for so many requests and press Start; the dashboard, with its load under way."""
    board = tab.output(DASHBOARD)
    field = board.get_by_role("spinbutton", name="Requests")
    field.fill(str(requests))
    field.press("Tab")
    board.get_by_role("button", name="Start").click()
    stop = board.get_by_role("button", name="Stop")
    until(stop.is_enabled, 20, "a load under way")
    until(lambda: "in flight" in reads(board), 30, "the first figures")
    return board


def test_the_dashboard_fills_while_its_load_runs_and_keeps_the_result(measured: lab.Tab) -> None:
    board = measured.output(DASHBOARD)
    results = board.locator(".widget-html-content").last
    before = reads(results)
    begin(measured, 32)
    lines = board.locator("img[alt^='tokens/s']")
    first = lines.get_attribute("src")
    until(lambda: lines.count() and lines.get_attribute("src") != first, 30, "a line that grows")
    until(board.get_by_role("button", name="Start").is_enabled, 120, "the end of the load")
    until(lambda: reads(results) != before, 10, "one result more")
    assert results.locator("table").count()


def test_stop_ends_the_dashboards_load(measured: lab.Tab) -> None:
    board = begin(measured, 5000)
    board.get_by_role("button", name="Stop").click()
    until(board.get_by_role("button", name="Start").is_enabled, 60, "the end of the load")
    assert reads(board.locator("[role=status]"))


# --- A tab that is closed -----------------------------------------------------


def test_a_stage_goes_on_when_its_tab_is_closed_and_another_tab_follows_it(
    browser: "sync_api.Browser", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, build = tmp_path / "new", 'checkpoint.make(model, "fp16")'
    monkeypatch.setenv("WORKSHOP_HOME", str(home))
    with lab.running(tmp_path / "lab", home) as fresh:
        first = lab.open_tab(fresh, browser, "03_fp16_build")
        first.run_until(build)
        until(lambda: first.output(build).locator("progress").count(), 90, "the stage's bar")
        under_way = until(lambda: [state for _, state in stage.runs() if stage.is_alive(state)], 30, "its run")
        assert len(under_way) == 1
        first.close()

        other = lab.open_tab(fresh, browser, "00_start_here")
        type_into_the_first_cell(other, "import workshop; from helpers import stage; stage.watch()")
        until(lambda: other.page.locator(".jp-OutputArea progress").count(), 60, "the bar in another tab")
        assert under_way[0]["title"] in reads(other.page.locator(".jp-OutputArea").first)
        other.close()

        again = lab.open_tab(fresh, browser, "03_fp16_build")
        until(lambda: again.kernel() == "idle", 300, "the end of what the closed tab began")
        run_again(again, build)
        assert "made earlier" in reads(again.output(build))
        again.close()
    made = [state for _, state in stage.runs() if state["title"] == under_way[0]["title"]]
    assert [state["state"] for state in made] == ["done"]


def type_into_the_first_cell(tab: lab.Tab, code: str) -> None:
    """Replace the first code cell's text as a person would, and run it."""
    place = tab.page.locator(".jp-CodeCell .cm-content").first
    place.click()
    tab.page.keyboard.press("Control+a")
    tab.page.keyboard.insert_text(code)
    tab.page.keyboard.press("Shift+Enter")


# --- The keyboard alone -------------------------------------------------------


def test_the_planner_is_reached_and_moved_by_the_keyboard_alone(running: lab.Lab, browser: "sync_api.Browser") -> None:
    tab = lab.open_tab(running, browser, "05_kv_cache_quantization")
    keys, planner = tab.page.keyboard, tab.index(PLANNER)
    tab.page.wait_for_function("document.activeElement.closest('.jp-Notebook')")
    for _ in range(planner + 1):
        keys.press("Shift+Enter")
    tab.wait_for(len([cell for cell in tab.code_cells() if cell["index"] <= planner]), 120)
    before = until(lambda: sentence(tab), 30, "the planner")
    keys.press("ArrowUp")  # back to the planner's cell, from the one below
    for _ in range(ENOUGH_TABS):
        if tab.page.evaluate("document.activeElement.getAttribute('role') === 'slider'"):
            break
        keys.press("Tab")
    else:
        pytest.fail("no slider was reached by Tab")
    keys.press("ArrowRight")
    until(lambda: sentence(tab) != before, 10, "another sentence")
    assert tab.problems == []
    tab.close()


# --- The pages ----------------------------------------------------------------


def audit(page: Any, where: Any = None) -> list[str]:
    """What axe-core finds that is serious or critical: the rule, the element and why."""
    source = resources.files("axe_playwright_python") / "axe.min.js"
    page.evaluate(source.read_text(encoding="utf-8"))
    found = page.evaluate(AUDIT, where or {"include": [["html"]]})
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:200]}: {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]


PAGES = ["index.html", *(f"notebooks/{notebook.name}.html" for notebook in notebooks())]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_accessibility_finding(browser: "sync_api.Browser", pages: Path, scheme: Any) -> None:
    context = browser.new_context(viewport={"width": lab.WIDTH, "height": lab.HEIGHT}, color_scheme=scheme)
    page, found = context.new_page(), {}
    for name in PAGES:
        page.goto((pages / name).as_uri())
        found[name] = audit(page)
    context.close()
    assert {name: findings for name, findings in found.items() if findings} == {}


def test_the_audit_finds_a_picture_without_words(browser: "sync_api.Browser") -> None:
    page = browser.new_page()
    page.set_content("<html lang='en'><title>t</title><main><h1>t</h1><img src='data:,'></main></html>")
    assert [finding for finding in audit(page) if finding.startswith("image-alt")]
    page.close()
