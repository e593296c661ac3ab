"""How things look: right in light and dark, told apart without colour, and the same everywhere."""

import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest

from helpers import looks, memory, plots
from helpers.cards import Card, Picture, Table, boxed
from helpers.errors import WorkshopError
from helpers.plots import canvas
from helpers.progress import Bar
from helpers.teaching import navigation, notebooks
from tests.test_plots import PICTURES

# What deuteranope and protanope eyes receive, in linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
SEEN = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "deuteranope": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "protanope": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
}
TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE_POINT = (0.95047, 1.0, 1.08883)
LETTERS = {canvas.WHITE, "#ffffff"}
BOX = plots.stages.GREEN.lower()


def linear(colour: str) -> tuple[float, ...]:
    """A colour such as ``#156ad8`` or ``#00f`` in linear RGB."""
    digits = colour.lstrip("#")
    digits = "".join(2 * one for one in digits) if len(digits) == 3 else digits
    values = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    return tuple(v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)


def times(matrix, vector) -> tuple[float, ...]:
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as WCAG 2.2 defines it: 1 to 21."""
    dark, light = sorted(times(TO_XYZ, linear(each))[1] for each in (one, other))
    return (light + 0.05) / (dark + 0.05)


def lab(seen) -> tuple[float, float, float]:
    """CIE L*a*b* of a linear RGB colour."""
    ratios = [
        value / white
        for value, white in zip(times(TO_XYZ, [min(max(v, 0), 1) for v in seen]), WHITE_POINT, strict=True)
    ]
    x, y, z = (r ** (1 / 3) if r > 0.008856 else 7.787 * r + 16 / 116 for r in ratios)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def apart(one: str, other: str) -> float:
    """Distance of two colours (CIE 1976) to the eyes that tell them apart least."""
    distances = []
    for eyes in SEEN.values():
        a, b = (lab(times(eyes, linear(each))) for each in (one, other))
        distances.append(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5)
    return min(distances)


# --- Colours


def test_contrast_and_distance_are_measured_as_defined():
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
    assert apart("#123456", "#123456") == 0
    assert apart("#ff0000", "#00a000") < 50 < apart("#ff0000", "#0000ff")  # the pair that many confuse, and another


@pytest.mark.parametrize("ground", looks.GROUNDS)
def test_every_mark_stands_out_on_light_and_on_dark(ground):
    marks = [*looks.COLOURS, canvas.FAINT, *(line.colour for line in looks.LINES.values())]
    assert {mark: contrast(mark, ground) for mark in marks if contrast(mark, ground) < 2.8} == {}
    if ground in ("#ffffff", "#111111", "#16181b"):  # JupyterLab and the pages; the others are panels in them
        assert {mark: contrast(mark, ground) for mark in marks if contrast(mark, ground) < 3} == {}


def test_the_palette_is_told_apart_by_colour_blind_eyes():
    """The palette that Okabe and Ito published has 18 between its nearest two, measured in this way."""
    pairs = {pair: apart(*pair) for pair in itertools.combinations(looks.COLOURS, 2)}
    assert {pair: distance for pair, distance in pairs.items() if distance < 18} == {}
    first = min(apart(*pair) for pair in itertools.combinations(looks.COLOURS[:3], 2))
    assert first >= 20


def test_kinds_and_verdicts_differ_without_their_colour():
    lines = [(line.pattern, line.width) for line in looks.LINES.values()]
    assert len(set(lines)) == len(lines)
    assert len({verdict.sign for verdict in looks.VERDICTS}) == len({v.line for v in looks.VERDICTS}) == 3


# --- Pictures


def in_page(picture: Picture) -> str:
    return picture._repr_html_()


@pytest.fixture(scope="module")
def drawn() -> dict[str, Picture]:
    made = {name: draw() for name, draw in PICTURES.items()}
    made["memory_bar"] = plots.memory_bar(memory.fit("TinyLlama", "rtx-4090"))
    return made


def fixed_colours(svg: str) -> set[str]:
    """Colours of an inlined drawing that follow no theme."""
    return set(re.findall(r"(?:fill|stroke)(?:: ?|=['\"])(#[0-9a-fA-F]{3,6})\b", svg))


def faults(svg: str) -> list[str]:
    """What is not right in light or in dark, in one inlined drawing."""
    found = [f"has {colour}" for colour in fixed_colours(svg) if not stands_out(colour)]
    if re.search(r"(?:fill|stroke): (?:white|black|gr[ae]y)", svg):
        found.append("has a named colour")
    for text in re.findall(r'<g id="[^"]*text_\d+">\s*(?:<!--.*?-->)?\s*<g style="([^"]*)"', svg, re.DOTALL):
        if "fill: currentColor" not in text and "fill: #ffffff" not in text:
            found.append(f"has letters in {text}")
    return found


def stands_out(colour: str) -> bool:
    """True for a middle tone, for letters on a box, and for a box, which has an edge and letters of 4.5:1."""
    if colour.lower() in LETTERS:
        return True
    if colour.lower() == BOX:
        return contrast(colour, "#ffffff") >= 4.5
    return all(contrast(colour, ground) >= 3 for ground in ("#ffffff", "#111111", "#16181b"))


def test_pictures_follow_the_theme(drawn):
    for name, picture in drawn.items():
        page = in_page(picture)
        assert faults(page) == [], name
        assert "currentColor" in page
        assert "background:" not in page


def test_a_drawing_with_a_fixed_ink_is_noticed():
    assert faults('<svg><path style="fill: #222222"/></svg>') == ["has #222222"]
    assert faults('<g id="p1text_3">\n <!-- a -->\n <g style="fill: #156ad8"></g></g>') == [
        "has letters in fill: #156ad8"
    ]


def test_white_letters_are_read_on_their_boxes():
    assert all(contrast("#ffffff", box) >= 4.5 for box in (looks.COLOURS[0], BOX))


def test_a_picture_in_a_page_is_one_image_with_its_words(drawn):
    page = in_page(drawn["bars"])
    assert page.count("<svg role='img' aria-label='") == 1
    assert "<style" not in page and "<metadata" not in page and "<?xml" not in page
    assert "The same in words" in page


def test_pictures_on_one_page_share_no_name(drawn):
    ids = [set(re.findall(r' id="(p[0-9a-f]{6}[^"]*)"', in_page(drawn[name]))) for name in ("bars", "number_grid")]
    assert all(ids) and not ids[0] & ids[1]
    for picture in drawn.values():
        page = in_page(picture)
        assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", page)) <= set(re.findall(r' id="([^"]*)"', page))


def test_a_picture_alone_follows_the_readers_system(drawn):
    svg = drawn["pipeline"].svg
    assert "prefers-color-scheme:dark" in svg and "--ground:#ffffff" in svg


# --- Cards


def test_a_card_shows_where_to_go():
    card = Card("Ready", {"a": "b"}, links={"Next: 04 FP8": "04_fp8.ipynb"})
    assert "<a href='04_fp8.ipynb'>Next: 04 FP8</a>" in card._repr_html_()
    assert str(card).endswith("Next: 04 FP8: 04_fp8.ipynb")


@pytest.mark.parametrize(("note", "sign"), [("Right. So.", "✓"), ("Not right. No.", "✗"), ("Not answered yet: x", "○")])
def test_a_verdict_has_a_sign_a_word_and_a_line_of_its_own(note, sign):
    card = Card("Exercise", {"your answer": "3"}, note)
    assert f"{sign} {note}" in str(card)
    page = card._repr_html_()
    assert f"<span aria-hidden='true'>{sign} </span><strong>" in page
    assert looks.LINES[looks.ASKED].css in page
    assert looks.LINES[looks.MADE].css not in page


def test_what_is_shown_has_no_fixed_ink_or_ground():
    shown = [Card("a", {"b": "c"}, "d"), Table(["a"], [[1]], "b"), Bar("a", 1.0, 0.5, "b", (("log", "c"),))]
    for page in [*(one._repr_html_() for one in shown), *(boxed("a", "b", kind) for kind in looks.LINES)]:
        assert not re.search(r"[^-]color:|background:(?!none)|opacity", page), page


# --- Navigation


def test_navigation_is_made_from_the_notebooks():
    every = notebooks()
    for at, one in enumerate(every):
        links = list(navigation.around(one.name).values())
        assert links[-1:] == [f"{next_.name}.ipynb" for next_ in every[at + 1 : at + 2]] or at == len(every) - 1
        assert (f"{every[0].name}.ipynb" in links) == (at > 0)
        assert (f"{every[at - 1].name}.ipynb" in links) == (at > 0)
    assert navigation.following(every[-1].name) == {}


def test_navigation_is_typed_nowhere():
    typed = re.compile(r"^\W*(?:next|previous)( notebook)?\W*[:→]\W*\[?`?\d\d", re.IGNORECASE | re.MULTILINE)
    assert typed.search("**Next**: [04](04_fp8_build.ipynb)")
    for notebook in notebooks():
        for cell in notebook.cells:
            assert not typed.search(cell.source), f"{notebook.name}, {cell.id}"


# --- Widgets without a front end


class Deaf:
    """An address where nobody listens, which a widget need not ask before it is shown."""

    url = "http://127.0.0.1:9/v1"


def test_every_control_has_a_name_and_every_widget_a_face_without_a_browser(monkeypatch):
    from helpers.bench_widget import Dashboard
    from helpers.chat_widget import Chat, Versus
    from helpers.widgets import STATIC_VARIABLE, memory_planner

    monkeypatch.setenv(STATIC_VARIABLE, "1")
    made = [memory_planner(), Chat(Deaf.url, 16, 0.0), Versus(Deaf.url, Deaf.url, 16, 0.0), Dashboard(Deaf.url)]
    for widget in made:
        assert all(control.description for control in widget.controls.values()), widget
        assert all(button.description and button.tooltip for button in getattr(widget, "buttons", {}).values())
        bundle = widget._repr_mimebundle_()
        assert set(bundle) == {"text/plain", "text/html"}
        assert all("In JupyterLab this is" in face for face in (bundle["text/html"], str(widget))), widget


def test_an_error_is_one_sentence_without_a_traceback():
    assert WorkshopError("Give a number.")._render_traceback_() == ["WorkshopError: Give a number."]


# --- Executed notebooks

PAGES = Path("notebooks")
NOISE = re.compile(
    r"\w*Warning: |\bWARNING\b|\bDeprecat\w*Warning|Traceback \(most recent|^\[\w+\]\[(?:W|WARN|E)", re.M
)


def outputs(notebook: Path):
    """Cell id, tags and output of everything that an executed notebook shows."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            yield cell["id"], set(cell["metadata"].get("tags", ())), output


def noise(notebook: Path) -> list[str]:
    """Warnings, log lines and what stands on stderr, cell by cell; none in a cell that shows a failure on purpose."""
    found = []
    for cell, tags, output in outputs(notebook):
        text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        if output["output_type"] == "stream" and output["name"] == "stderr":
            found.append(f"{cell}: stderr: {text[:200]}")
        elif "raises-exception" not in tags and (seen := NOISE.search(text)):
            found.append(f"{cell}: {text[max(0, seen.start() - 50) : seen.end() + 100]!r}")
    return found


def test_noise_is_noticed(tmp_path):
    lines = [
        {"output_type": "stream", "name": "stderr", "text": ["loading"]},
        {"output_type": "stream", "name": "stdout", "text": ["a.py:3: FutureWarning: old\n"]},
        {"output_type": "stream", "name": "stdout", "text": ["warning  max_input_len  is long\n"]},
    ]
    cell = {"id": "c", "metadata": {}, "outputs": lines}
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
    assert len(noise(tmp_path / "a.ipynb")) == 2


@pytest.mark.notebooks
@pytest.mark.timeout(900)
def test_no_notebook_shows_a_bare_warning_or_a_stray_log_line(
    in_order: "tuple[Path, subprocess.CompletedProcess[str]]",
) -> None:
    for notebook in notebooks():
        assert noise(in_order[0] / PAGES / f"{notebook.name}.ipynb") == [], notebook.name


@pytest.mark.notebooks
@pytest.mark.timeout(900)
def test_all_that_notebooks_draw_follows_the_theme(
    in_order: "tuple[Path, subprocess.CompletedProcess[str]]",
) -> None:
    for notebook in notebooks():
        page = (in_order[0] / PAGES / f"{notebook.name}.html").read_text(encoding="utf-8")
        for svg in re.findall(r"<svg\b.*?</svg>", page, re.DOTALL):
            assert faults(svg) == [], notebook.name


@pytest.mark.notebooks
@pytest.mark.timeout(900)
def test_pages_have_landmarks_headings_in_order_and_a_name_for_each_cell(
    in_order: "tuple[Path, subprocess.CompletedProcess[str]]",
) -> None:
    for notebook in notebooks():
        page = (in_order[0] / PAGES / f"{notebook.name}.html").read_text(encoding="utf-8")
        assert '<html lang="en">' in page and 'href="#content">Skip' in page and '<main id="content"' in page
        levels = [int(level) for level in re.findall(r"<h([1-6])\b", page)]
        assert levels.count(1) == 1 and all(b <= a + 1 for a, b in itertools.pairwise(levels)), notebook.name
        # As JupyterLab names them, so that one link leads to a cell in both.
        assert [cell.id for cell in notebook.cells if f'id="cell-id={cell.id}"' not in page] == []
        for card in (cell.id for cell in notebook.cells if "start(" in cell.source):
            assert card
        assert not re.search(r"<a href='\d\d_\w+\.ipynb'>(?:Previous|Start|Next)", page), "a card leads to no page"


def test_code_on_pages_is_read_in_light_and_dark():
    from tools.notebook_pages import style

    light, dark = style().split("@media (prefers-color-scheme: dark)")[:2]
    for css, panel in ((light, "#f5f6f7"), (dark, "#202327")):
        colours = re.findall(r"\.highlight \.(\w+) \{ color: (#[0-9A-Fa-f]{3,6})", css)
        assert colours
        assert [(name, c) for name, c in colours if name != "w" and contrast(c, panel) < 4.5] == []
