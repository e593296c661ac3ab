import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from helpers import plots
from helpers.cards import Picture
from helpers.errors import WorkshopError
from helpers.hardware import Datasheet, Roofline, datasheets
from helpers.plots.formats import place
from helpers.plots.limits import worth_drawing
from helpers.tensor_parallel import comparison, predict

MEASURED = Roofline("a GPU", 4e12, {"fp32": 50e12, "fp16": 800e12, "bf16": 790e12, "fp8": 1500e12}, "2.9", 3.0)
SHEET = Datasheet("a-gpu", "a GPU", "a GPU", "Ada", (8, 9), 24, 5e12, {"fp16": 1000e12, "fp8": 2000e12}, "a page")
EVERY_GPU = [sheet.key for sheet in datasheets() if not sheet.slice_of]
NAMES = [
    f"transformer.layers.{layer}.{kind}.activation_scaling_factor"
    for layer in range(3)
    for kind in ("attention.qkv", "mlp.fc")
] + ["lm_head.weight"]
RANGES = [1.5, 20.0, 3.0, 40.0, 4.5, 600.0, 7.0]


def predicted(*ways: predict.Way) -> comparison.Prediction:
    """Several models and GPUs; the larger ones do not fit on every number of them."""
    models = ["TinyLlama", "Llama-3.1-70B-Instruct", "Mixtral-8x7B"]
    return comparison.compare(models, ["rtx-4090", "h100"], ways=ways or predict.WAYS)


PICTURES = {
    "number_grid": lambda: plots.number_grid(("e4m3", "int8")),
    "bars": lambda: plots.bars(["FP16", "FP8"], [11.2e6, 6.2e6], "bytes", "Weights", ["", "0.55 of FP16"]),
    "layer_ranges": lambda: plots.layer_ranges(NAMES, RANGES),
    "roofline": lambda: plots.roofline(MEASURED, SHEET),
    "pipeline": lambda: plots.pipeline("openvino"),
    "parallel_times": lambda: plots.parallel_times(predicted()),
    "parallel_ways": plots.parallel_ways,
}


@pytest.fixture(scope="module", params=PICTURES)
def drawn(request) -> tuple[str, Picture]:
    return request.param, PICTURES[request.param]()


def test_every_picture_is_svg_with_words(drawn):
    _, picture = drawn
    assert ElementTree.fromstring(picture.svg).tag.endswith("svg")
    assert len(picture.svg) < 200_000
    assert picture.alt.endswith(".")
    assert "\n" not in picture.alt
    assert picture.alt in str(picture)
    assert picture.text in str(picture)
    assert picture.alt.split(":")[0] in picture._repr_html_()


def test_the_same_data_gives_the_same_file(drawn):
    name, picture = drawn
    assert PICTURES[name]() == picture
    assert "<dc:date>" not in picture.svg


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("number_grid", ["448", "253", "255", "5.4", "2.1"]),
        ("bars", ["11.20 MB", "6.20 MB", "0.55 of FP16"]),
        ("layer_ranges", ["1.5", "4.5", "20", "600", "0.0446 to 1.34"]),
        ("roofline", ["4,000 GB/s", "800 TFLOP/s", "1.5 PFLOP/s", "200", "188"]),
        ("parallel_times", ["Mixtral-8x7B", "as a pipeline", "does not fit", "cannot be split", "0.62", "2.05"]),
        ("parallel_ways", ["2 all-reduces a layer", "whole experts", "no time of a request"]),
        ("pipeline", ["convert", "ModelOpt", "serve", "FastAPI, OpenVINO", "API endpoint"]),
    ],
)
def test_the_words_hold_the_numbers(name, numbers):
    picture = PICTURES[name]()
    for number in numbers:
        assert number in picture.text


def test_words_follow_the_data():
    before = plots.bars(["a", "b"], [1.0, 2.0], "s", "Times")
    after = plots.bars(["a", "b"], [1.0, 3.5], "s", "Times")
    assert "b 2 s" in before.alt
    assert "b 3.5 s" in after.alt
    assert before.svg != after.svg


def test_large_amounts_are_written_out():
    assert "12,346 tokens/s" in plots.bars(["a", "b"], [12345.6, 7.961], "tokens/s", "Rates").text
    assert "7.96 tokens/s" in plots.bars(["a", "b"], [12345.6, 7.961], "tokens/s", "Rates").alt


def test_ranges_are_grouped_by_kind_of_matrix():
    picture = plots.layer_ranges(NAMES, RANGES)
    kinds = [line.split()[0] for line in picture.text.splitlines()[3:]]
    assert kinds == ["attention.qkv", "mlp.fc", "lm_head"]
    assert "a ratio of 400" in picture.alt
    assert NAMES[5] in picture.alt


def test_names_of_both_worlds_are_understood():
    assert place("transformer.layers.11.mlp.proj.weights_scaling_factor") == (11, "mlp.proj")
    assert place("model.layers.0.self_attn.q_proj.input_quantizer") == (0, "self_attn.q_proj")
    assert place("lm_head") == (None, "lm_head")


def test_roofline_draws_what_the_device_computes_in():
    emulated = Roofline("a CPU", 30e9, {"fp32": 150e9, "fp16": 2e9, "bf16": 400e9}, "2.9", 3.0)
    assert worth_drawing(emulated) == ["fp32", "bf16"]
    assert worth_drawing(MEASURED) == ["fp32", "fp16", "fp8"]
    assert "FP16" not in plots.roofline(emulated).text


def test_a_datasheets_roofline_says_that_nothing_was_measured():
    picture = plots.roofline(SHEET, shown=("fp16", "fp8"))
    assert picture.alt.startswith("datasheet: roofline of a GPU: memory gives 5,000 GB/s")
    assert picture.text.startswith("datasheet: memory 5,000 GB/s")
    assert "easured" not in picture.alt + picture.text
    assert "FP8" in picture.text.splitlines()[-1]
    assert picture.svg != plots.roofline(replace(MEASURED, bandwidth=5e12, rates=SHEET.rates)).svg


def test_several_gpus_are_drawn_where_they_fit_and_marked_where_they_do_not():
    both, one_way = plots.parallel_times(predicted()), plots.parallel_times(predicted("tensor"))
    assert "As a pipeline" in both.alt
    assert "As a pipeline" not in one_way.alt
    assert "Llama-3.1-70B-Instruct on GeForce RTX 4090: needs 8;" in one_way.alt
    nowhere = plots.parallel_times(comparison.compare("Llama-3.1-70B-Instruct", "rtx-4090", ranks=(1, 2)))
    assert "does not fit, not even on 2" in nowhere.alt
    rows = [line.split()[-4:] for line in one_way.text.splitlines() if line.startswith("Llama-3.1-70B-Instruct  ")]
    times = [predict.step("Llama-3.1-70B-Instruct", gpu, 8).seconds for gpu in ("rtx-4090", "h100")]
    assert [row[-1] for row in rows] == [f"{1e3 * seconds:.2f}" for seconds in times]


def test_roofline_says_which_limit_holds():
    lines = plots.roofline(MEASURED, shown=("fp16",)).text.splitlines()
    # 4 TB/s and two bytes a weight: 4 TFLOP/s for one token, 128 for 32, and the matrix rate for a prompt.
    assert "4 TFLOP/s (memory)" in lines[-1]
    assert "128 TFLOP/s (memory)" in lines[-1]
    assert "800 TFLOP/s (compute)" in lines[-1]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: plots.bars([], [], "s", "Nothing"), "Nothing to draw"),
        (lambda: plots.bars(["a"], [1.0, 2.0], "s", "Uneven"), "1 labels, 2 values"),
        (lambda: plots.layer_ranges(["a", "b"], [1.0, 0.0]), "above 0"),
        (lambda: plots.pipeline("vllm"), "use one of tensorrt_llm, tensorrt_llm_pytorch, openvino"),
        (lambda: plots.number_grid(("e9m9",)), "Unknown number format"),
        (lambda: plots.parallel_times(comparison.compare("TinyLlama", EVERY_GPU)), "too many for one picture"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call, says):
    with pytest.raises(WorkshopError, match=says):
        call()
