"""The memory planner's three faces: live controls, a page, and plain text."""

import io
import json
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers import memory, widgets
from helpers.errors import WorkshopError
from tools import notebook_pages
from tools import run_notebooks as rn

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def planner():
    return widgets.memory_planner("TinyLlama", "a10g")


def test_moving_a_control_changes_what_is_shown(planner):
    before = planner.output.value
    planner.controls["kv"].value = "int8"
    assert planner.fit == memory.fit("TinyLlama", "a10g", kv="int8")
    assert planner.fit.sentence in planner.output.value
    assert planner.output.value != before
    planner.controls["input_length"].value = 512
    assert planner.fit.sequence == 1536
    for name, value in (("model", "bundled"), ("gpu", "h200"), ("precision", "fp8"), ("max_batch_size", 7)):
        planner.controls[name].value = value
    planner.controls["output_length"].value = 64
    assert planner.fit == memory.fit("bundled", "h200", "fp8", "int8", 7, sequence=576)


def test_values_that_do_not_fit_together_are_told_in_place_of_the_picture(planner):
    planner.controls["input_length"].value = 4096
    assert planner.fit is None
    assert "A request of 5,120 tokens is longer than TinyLlama can read" in planner.output.value
    assert "<svg" not in planner.output.value
    assert planner.problem in str(planner) and planner.problem in planner._repr_html_()
    planner.controls["input_length"].value = 1024
    assert planner.problem == ""
    assert "<svg role='img'" in planner.output.value


def test_what_a_gpu_cannot_build_is_said_with_the_picture(planner):
    planner.controls["precision"].value = "fp8"
    assert "no engine can be built with FP8 weights for the A10G" in planner.output.value
    assert "<svg role='img'" in planner.output.value


def test_every_control_has_a_name_and_the_result_is_read_out(planner):
    assert all(control.description for control in planner.controls.values())
    assert "aria-live='polite'" in planner.output.value
    assert "aria-label='" in planner.output.value


def test_without_a_browser_it_is_a_table_a_picture_and_text(planner):
    """A test is no kernel: nothing could draw a widget."""
    bundle = planner._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    for face in bundle.values():
        assert planner.fit.sentence in face
        assert "INT8" in face  # an alternative
    assert "<svg role='img'" in bundle["text/html"]
    assert str(planner) == bundle["text/plain"] == repr(planner)


def test_alternatives_have_the_eight_bits_that_the_gpu_has():
    kinds = {
        gpu: [(p.precision, p.kv) for p in widgets.memory_planner(gpu=gpu).alternatives()] for gpu in ("a10g", "l4")
    }
    assert kinds["a10g"] == [("fp16", None), ("int8_sq", None), ("int8_sq", "int8")]
    assert kinds["l4"] == [("fp16", None), ("fp8", None), ("fp8", "fp8")]


def test_a_model_too_large_still_shows_what_would_fit():
    small = widgets.memory_planner("Llama-3.1-8B-Instruct", "t4")
    assert "does not fit on one T4" in str(small)
    assert "INT8" in str(small) and small.fit is None


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"gpu": "rtx-4900"}, "Did you mean 'rtx-4090'"),
        ({"gpu": 24}, "The planner's GPU is 24"),
        ({"model": "TinyLama"}, "Did you mean 'TinyLlama'"),
        ({"precision": "fp9"}, "no precision of weights called 'fp9'"),
        ({"kv": "u8"}, "The planner's KV cache is 'u8'"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"input_length": 0}, r"Prompt \(tokens\) is 0"),
        ({"output_length": 1.5}, r"Answer \(tokens\) is 1\.5"),
    ],
)
def test_what_no_control_can_show_is_refused(asked, told):
    with pytest.raises(WorkshopError, match=told):
        widgets.memory_planner(**asked)


def test_spellings_that_the_planner_takes_stand_in_the_menus():
    made = widgets.memory_planner("tinyllama", "RTX4090", "int8", "fp16", 2000, 16000, 1)
    chosen = {name: control.value for name, control in made.controls.items()}
    assert chosen["model"] == "TinyLlama"
    assert (chosen["gpu"], chosen["precision"], chosen["kv"]) == ("rtx-4090", "int8_sq", "fp16")
    assert (chosen["max_batch_size"], chosen["input_length"], chosen["output_length"]) == (2000, 16000, 1)


CELL = f"""import sys
sys.path.insert(0, {str(rn.ROOT)!r})
from helpers import widgets
planner = widgets.memory_planner('TinyLlama', 'a10g')
planner"""


def test_a_live_kernel_offers_its_controls(kernel):
    shown = kernel.run(CELL).shown
    assert set(shown) == {"text/plain", "text/html", VIEW}
    box = kernel.run("print(planner.box.model_id)").streams[0].strip()
    assert shown[VIEW]["model_id"] == box


def test_a_slider_that_a_browser_moves_redraws_the_bar(kernel):
    """The messages are a browser's: the slider's new value goes in, the output's new HTML comes back."""
    kernel.run(CELL)
    told = kernel.run("print(planner.controls['max_batch_size'].model_id, planner.output.model_id)").streams[0]
    slider, output = told.split()
    content = {"comm_id": slider, "data": {"method": "update", "state": {"value": 1000}, "buffer_paths": []}}
    kernel.client.shell_channel.send(kernel.client.session.msg("comm_msg", content))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        message = kernel.client.get_iopub_msg(timeout=30)
        if message["msg_type"] == "comm_msg" and message["content"]["comm_id"] == output:
            drawn = message["content"]["data"]["state"]["value"]
            assert "fewer than the 1,000 that the engine is built for" in drawn
            assert "<svg role='img'" in drawn
            return
    raise AssertionError("nothing was drawn anew")


def test_a_page_shows_the_table_and_no_widget(tmp_path, monkeypatch):
    for variable, folder in rn.private_folders(tmp_path).items():
        monkeypatch.setenv(variable, folder)
    source = tmp_path / "00_a.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A"), new_code_cell(CELL)]), source)
    done = rn.run_notebook(source, tmp_path / "out", rn.Progress(io.StringIO()), 120)
    assert done.problem == ""
    assert VIEW not in json.dumps(done.notebook)
    page = notebook_pages.body_of(done.notebook, source)
    assert "requests of 2,048 tokens" in page
    assert "jupyter-widgets" not in page and "Jupyter widget" not in page
