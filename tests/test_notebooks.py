"""Whole notebooks, executed as a learner would run them."""

import json
import re

import pytest

from helpers.teaching import notebooks

pytestmark = pytest.mark.notebooks


def test_notebook_04_makes_all_it_needs_from_nothing(made_by_notebooks):
    assert made_by_notebooks.returncode == 0, made_by_notebooks.stdout + made_by_notebooks.stderr


def cells_of(in_order, name):
    """The cells of an executed notebook."""
    out, done = in_order
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "notebooks" / f"{name}.ipynb").read_text())["cells"]


def shown(in_order, name):
    """Everything that an executed notebook shows, as plain text."""
    return [
        "".join(output["data"].get("text/plain", ""))
        for cell in cells_of(in_order, name)
        for output in cell.get("outputs", ())
        if "data" in output
    ]


def test_all_in_order_with_pages_and_an_index(in_order):
    out, done = in_order
    assert done.returncode == 0, done.stdout + done.stderr
    index = (out / "index.html").read_text()
    for notebook in notebooks():
        assert notebook.title in index
        page = (out / "notebooks" / f"{notebook.name}.html").read_text()
        assert notebook.title in page
        assert not re.search(r"<img(?![^>]*\balt=)", page), f"a picture without a text equivalent in {notebook.name}"
        assert not re.search(r"<svg(?![^>]*\baria-label=)", page), (
            f"a drawing without a text equivalent in {notebook.name}"
        )


def test_the_perplexity_table_is_computed(in_order):
    tables = [text for text in shown(in_order, "04_fp8_build") if re.search(r"^FP16 .*\d\.\d{4}", text, re.MULTILINE)]
    assert len(tables) == 2
    for precision in ("FP16", "FP8 (E4M3)", "INT8"):
        assert all(re.search(rf"^{re.escape(precision)}.*\d\.\d{{4}}", text, re.MULTILINE) for text in tables)


def test_the_kv_cache_of_8_bits_holds_half_as_many_tokens_again_and_the_planner_knew(in_order):
    text = "\n".join(shown(in_order, "05_kv_cache_quantization"))
    held = re.search(r"In the same [\d,]+ bytes, INT8 holds (\d\.\d+) times the tokens of 16-bit", text)
    assert held and float(held[1]) >= 1.5
    off = re.search(r"The planner is off by (\d+\.\d+)% at most", text)
    assert off and float(off[1]) <= 5


def test_two_and_four_ranks_answer_as_one_and_hold_what_was_predicted(in_order):
    text = "\n".join(shown(in_order, "06_tensor_parallelism"))
    differences = re.findall(r"^ *([24])  CPU, gloo +(\d\.\de-\d\d)", text, re.MULTILINE)
    assert [ranks for ranks, _ in differences] == ["2", "4"]
    assert all(0 < float(difference) < 1e-4 for _, difference in differences)
    assert "The prediction is exact. Whole on every rank: model.embed_tokens" in text
    assert re.search(r"^1 of 2 +[\d,]+ +\d+\.\d\d MB", text, re.MULTILINE)
    assert "each is the whole again, byte for byte" in text


def test_a_recipe_is_served_and_the_server_answers_as_trtllm_serve_does(in_order):
    text = "\n".join(shown(in_order, "07_build_from_config"))
    assert re.search(r"^(\d+) of \1 checks passed in [\d.]+ s, none failed", text, re.MULTILINE)
    assert re.search(r"^(The engine with|They were|All were).*", text, re.MULTILINE)
    running = re.search(r"up to (\d+) requests ran at once of 32 that may, and up to (\d+) waited", text)
    assert running and int(running[1]) == 32 and int(running[2]) > 0
    assert "Did you mean 'max_batch_size'?" in json.dumps(cells_of(in_order, "07_build_from_config"))
    assert text.count("stopped") >= 2, "both servers were ended"


def test_a_server_is_measured_up_to_its_limit_and_past_it(in_order):
    text = " ".join("\n".join(shown(in_order, "08_benchmarking")).split())
    assert re.search(r"From concurrency 32 to concurrency 64, past max_batch_size 32, the median TTFT went from", text)
    assert re.search(r"At most \d+ of [\d,]+ KV blocks were in use", text)
    assert re.search(r"measured [\d.,]+ tokens/s at concurrency 1, \d+% of the [\d.,]+ that reading allows", text)
    assert re.search(r"FP8 \(E4M3\) (is (slower|faster) than|and) FP16", text)
    assert re.search(r"It counted [\d,]+ chunks for [\d,]+ tokens", text) and "published" in text
    assert "requests/s sent" in text, "an open loop is told from a closed one"


def test_replicas_follow_the_load_from_none_to_two_and_back_and_nothing_is_lost(in_order):
    text = " ".join("\n".join(shown(in_order, "09_production")).split())
    assert re.search(r"All [\d,]+ requests that were sent were answered whole: none was lost", text)
    assert re.search(r"Replicas went to one at [\d.]+ s, to two at [\d.]+ s,.* and to none at [\d.]+ s", text)
    assert re.search(r"The first request met no replica and got its first token after [\d.]+ s", text)
    assert re.search(r"one kept warm against graph compiled at start: a replica was running", text)
    assert re.search(r"replicas at most 2 2", text), "the simulation needs as many replicas as ran"
    assert re.search(r"Over 20 seeds, ", text), "and says whether it is within its stated error"
    assert "nvidia.com/gpu.product: NVIDIA-GeForce-RTX-4090" in text


def test_one_quantization_is_told_in_both_packagings(in_order):
    text = " ".join("\n".join(shown(in_order, "10_pytorch_backend")).split())
    assert "Calibration found the same ranges to the last digit: it is one quantization" in text
    assert re.search(r"unified, read back .* cannot be told apart on this text|differ by", text)
    assert "Not measured: this machine has no GPU" in text and "1.3.0rc22" in text
