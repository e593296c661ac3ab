"""The CPU toolchain on the bundled model: real engines, real pipelines."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from helpers import checkpoint, models, toolchains, workspace
from helpers.errors import WorkshopError
from helpers.toolchains import base, openvino
from helpers.toolchains.batching import Load

pytestmark = pytest.mark.usefixtures("made_by_notebooks")
WORKERS = workspace.REPOSITORY / "helpers" / "workers"


@pytest.fixture(scope="module")
def model():
    return models.find()


@pytest.fixture(scope="module")
def engines(model, made_by_notebooks):
    return {p: openvino.build(model, p) for p in openvino.choices().offered}


def blobs(engine):
    """Compiled blobs of an engine: name to (size, time of change)."""
    files = (engine.path / "compiled").glob("*.blob")
    return {f.name: (f.stat().st_size, f.stat().st_mtime_ns) for f in files}


OPEN = """
import sys, time; sys.path.insert(0, sys.argv[1])
from pathlib import Path
import openvino_genai
from openvino_pipeline import open_pipeline
started = time.perf_counter()
open_pipeline(Path(sys.argv[2]), **eval(sys.argv[3]))
print(time.perf_counter() - started)
"""


@pytest.fixture(scope="module")
def eight_bit(model, made_by_notebooks):
    """An engine with FP16 weights and a KV cache of 8 bits."""
    return openvino.build(model, "fp16", kv="int8")


STEPS = """
import json, sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
import openvino_genai
from openvino_pipeline import open_pipeline
pipeline = open_pipeline(Path(sys.argv[2]), kv_cache=sys.argv[3], enable_prefix_caching=True)
lines = Path(sys.argv[4]).read_text().splitlines()[:40]
settings = openvino_genai.GenerationConfig()
settings.max_new_tokens = 1
steps = []
for number in range(2):
    handle = pipeline.add_request(number, " ".join(json.loads(line)["text"] for line in lines), settings)
    steps.append(0)
    while pipeline.has_non_finished_requests():
        pipeline.step()
        steps[-1] += 1
print(json.dumps(steps))
"""


def seconds_to_open(folder, **scheduler):
    """Open the pipeline in a process of its own; seconds that opening took there."""
    command = [sys.executable, "-c", OPEN, str(WORKERS), str(folder), repr(scheduler)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_this_machine_gets_the_cpu_toolchain():
    assert toolchains.best() is openvino


def test_the_notebooks_made_all_three(engines):
    assert all(engine.reused for engine in engines.values())


def test_fp8_weights_are_at_most_65_percent_of_fp16(engines):
    assert engines["fp8"].weight_bytes <= 0.65 * engines["fp16"].weight_bytes
    assert base.compiled_bytes(engines["fp8"]) <= 0.65 * base.compiled_bytes(engines["fp16"])


def test_weights_are_stored_in_the_precision_asked_for(engines):
    import openvino as ov

    for precision, wanted in (("fp16", "f16"), ("fp8", "f8e4m3"), ("int8", "i8")):
        graph = ov.Core().read_model(engines[precision].path / "graph" / "openvino_model.xml")
        large = [n for n in graph.get_ordered_ops() if n.get_type_name() == "Constant" and n.get_byte_size() > 30_000]
        kinds = [n.get_element_type().get_type_name() for n in large]
        # 7 matrices a layer in the precision; embedding and last layer stay at 16 bits
        assert kinds.count(wanted) == (44 if precision == "fp16" else 42)
        assert kinds.count("f16") == (44 if precision == "fp16" else 2)


def test_compilation_leaves_fewer_operations(engines):
    graph = engines["fp16"].graph
    assert sum(graph["after"].values()) < 0.6 * sum(graph["before"].values())
    assert str(sum(graph["after"].values())) in str(openvino.operations(engines["fp16"]))


def test_generate_and_serve_reuse_the_blob_after_the_publishing_rename(engines):
    engine = engines["fp8"]
    time.sleep(1.1)  # the blob remembers a folder's time of change, in seconds
    before = blobs(engine)
    assert len(before) == 1
    openvino.generate(engine, checkpoint.PROMPT, max_tokens=4)
    seconds_to_open(engine.path, max_num_seqs=8, dynamic_split_fuse=False, num_kv_blocks=64)  # as a server would
    assert blobs(engine) == before


def test_a_kv_cache_of_8_bits_is_built_beside_and_its_blob_reused_too(engines, eight_bit):
    assert (eight_bit.path.name, engines["fp16"].path.name) == ("openvino-fp16-kv-int8", "openvino-fp16")
    assert (eight_bit.kv, engines["fp16"].kv) == ("int8", None)
    time.sleep(1.1)
    before = blobs(eight_bit)
    assert len(before) == 1
    assert openvino.generate(eight_bit, checkpoint.PROMPT, max_tokens=4).tokens == 4
    openvino.batch(eight_bit, 2**20, Load(2, 8, 4, 1))
    assert blobs(eight_bit) == before


def test_a_blobs_name_does_not_tell_its_kv_cache(engines, eight_bit):
    # This is why an engine must always be opened with the precision that it was built with.
    assert blobs(engines["fp16"]).keys() == blobs(eight_bit).keys()


def test_the_plugin_itself_says_why_there_is_no_kv_cache_in_fp8(model):
    choices = openvino.kv_choices()
    assert choices.offered("fp16") == choices.offered("fp8") == choices.offered("int8") == (None, "int8")
    assert choices.eight_bit() == "int8"
    with pytest.raises(WorkshopError, match=r"Supported values: u8.*f16.* Choose one of None \(16 bits\), 'int8'\.$"):
        openvino.build(model, "fp16", kv="fp8")
    with pytest.raises(WorkshopError, match=r"KV cache in 'u4' cannot be built beside FP16 weights"):
        openvino.build(model, "fp16", kv="u4")
    assert openvino._refused_kv("u8") == ""


@pytest.mark.parametrize("kv", ["f16", "u8"])
def test_blocks_of_an_earlier_request_are_used_again_whatever_the_kv_cache(engines, eight_bit, kv):
    engine = eight_bit if kv == "u8" else engines["fp16"]
    command = [sys.executable, "-c", STEPS, str(WORKERS), str(engine.path), kv, str(checkpoint.HELD_OUT)]
    first, second = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert second < first


@pytest.mark.slow
def test_a_kv_cache_of_8_bits_shows_in_the_likelihoods_but_hardly(engines, eight_bit):
    exact, rounded = openvino.score(engines["fp16"]), openvino.score(eight_bit)
    assert 1e-4 < np.abs(rounded - exact).mean() < 2e-3
    assert rounded.mean() == pytest.approx(exact.mean(), abs=1e-3)


def test_the_blob_is_reused_by_a_moved_engine_and_makes_loading_faster(engines, tmp_path):
    moved, without = tmp_path / "moved", tmp_path / "without"
    shutil.copytree(engines["fp16"].path, moved)
    shutil.copytree(engines["fp16"].path, without)
    cold, warm = [], []
    for _ in range(3):
        shutil.rmtree(without / "compiled", ignore_errors=True)
        cold.append(seconds_to_open(without))
        warm.append(seconds_to_open(moved))
    assert len(list((moved / "compiled").iterdir())) == 1
    assert min(warm) < min(cold)


def test_text_streams_and_ends_by_itself(engines):
    request = {"prompt": checkpoint.PROMPT, "max_tokens": 96, "ignore_eos": False}
    command = [sys.executable, str(WORKERS / "openvino_generate.py"), str(engines["fp16"].path), json.dumps(request)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        lines = [(time.perf_counter(), json.loads(line)) for line in worker.stdout]
    pieces = [line["piece"] for _, line in lines if "piece" in line]
    assert len(pieces) > 10
    assert lines[-2][0] > lines[0][0]
    assert lines[-1][1]["finished"]
    assert "".join(pieces).endswith(".")


def test_limits_on_the_number_of_tokens(engines):
    short = openvino.generate(engines["fp16"], checkpoint.PROMPT, max_tokens=5)
    assert short.tokens == 5
    assert "limit of 5 tokens" in short.figures()
    long = openvino.generate(engines["fp16"], checkpoint.PROMPT, max_tokens=120, ignore_eos=True)
    assert long.tokens == 120
    assert long.text.startswith(short.text)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "told"),
    [
        (checkpoint.PROMPT, 0, "max_tokens is 0. Give a whole number of at least 1."),
        (None, 5, "The prompt is None. Give some text"),
        ("Born", 2048, "The prompt has 2 tokens and max_tokens is 2,048; this engine's model reads 2,048 of both"),
        ("Born in " * 3000, 1, "Shorten the prompt, or ask for fewer."),
    ],
)
def test_what_no_engine_can_continue_is_refused_in_a_sentence(engines, prompt, max_tokens, told):
    with pytest.raises(WorkshopError, match=re.escape(told)):
        openvino.generate(engines["fp16"], prompt, max_tokens=max_tokens)


def test_characters_of_several_tokens_arrive_whole(engines):
    made = openvino.generate(engines["fp16"], "Born in Elbląg, Żółkiewski trained as a", max_tokens=30)
    assert "�" not in made.text


def test_engine_and_quantizer_agree_on_fp16(engines, model):
    ours, theirs = openvino.score(engines["fp16"]), checkpoint.make(model, "fp16").nll
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 2e-3
    assert ours.mean() == pytest.approx(theirs.mean(), abs=1e-3)


def test_an_engine_from_another_machine_is_refused_and_the_unaltered_one_loads(engines):
    elsewhere = openvino.from_elsewhere(engines["fp16"])
    with pytest.raises(
        WorkshopError, match=r"Another Processor 9000.*python -m helpers build bundled --precision fp16"
    ):
        openvino.generate(elsewhere, checkpoint.PROMPT)
    assert openvino.refusal(engines["fp16"]) is None
    assert "runs here  no" in " ".join(str(openvino.about(elsewhere)).split(" ")).replace("   ", "  ")


def test_an_engine_from_another_release_is_refused(engines, monkeypatch):
    monkeypatch.setattr(openvino, "release", lambda: {**engines["fp16"].manifest.maker, "openvino": "2031.1.0"})
    with pytest.raises(WorkshopError, match=r"openvino 2026\.2\.1 \(here: 2031\.1\.0\)"):
        openvino.generate(engines["fp16"], checkpoint.PROMPT)


def test_a_truncated_engine_is_noticed_and_remade(engines, model):
    victim = engines["fp16"].path / "graph" / "openvino_model.bin"
    with victim.open("r+b") as file:
        file.truncate(1000)
    again = openvino.build(model, "fp16")
    assert not again.reused
    assert victim.stat().st_size > 10**6
    assert openvino.generate(again, checkpoint.PROMPT, max_tokens=4).tokens == 4


def test_two_processes_asking_for_one_engine_build_it_once(model, monkeypatch, tmp_path):
    shutil.copytree(workspace.home() / "graphs", tmp_path / "graphs")
    environment = {**os.environ, "WORKSHOP_HOME": str(tmp_path), "PYTHONPATH": str(workspace.REPOSITORY)}
    command = [sys.executable, "-m", "helpers", "build", "bundled"]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = sorted(process.communicate(timeout=120)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    made = [text for text in told if "done in" in text.splitlines()[0]]
    found = [text for text in told if "made earlier" in text.splitlines()[0]]
    assert (len(made), len(found)) == (1, 1)
    commands = [log.read_text() for log in (tmp_path / "runs").glob("*/log.txt")]
    assert len(commands) == 1


def test_an_unknown_precision_is_refused_in_one_sentence(model):
    with pytest.raises(WorkshopError, match="no engine precision 'fp4'"):
        openvino.build(model, "fp4")


def test_every_check_of_the_installation_passes():
    table = openvino.verify()
    assert {row[3] for row in table.rows} == {"ok"}, str(table)
    assert table.note == "Everything is in place."


def test_a_missing_package_fails_its_check(monkeypatch):
    monkeypatch.setattr(openvino, "_PACKAGES", ("a-package-nobody-has",))
    table = openvino.verify()
    assert table.rows[0][3] == "missing"
    assert "make setup" in table.note


def test_side_by_side_says_where_texts_part(engines):
    one = openvino.generate(engines["fp16"], checkpoint.PROMPT, max_tokens=6)
    other = openvino.generate(engines["fp16"], "Born in southern Italy, Dupont trained as a", max_tokens=6)
    assert "the same text" in str(base.side_by_side(one, one, one))
    assert "parts after" in str(base.side_by_side(one, other))


def test_a_failing_engine_process_is_told_in_one_sentence_with_its_log(engines, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(engines["fp16"].path, broken)
    (broken / "graph" / "openvino_model.xml").write_text("not a graph")
    with pytest.raises(WorkshopError, match=r"(?s)ended with status \d+\..*The whole log: .*log\.txt"):
        openvino.generate(base.Engine(broken, engines["fp16"].manifest), checkpoint.PROMPT)


def test_generating_shows_its_command_and_log(engines):
    made = openvino.generate(engines["fp16"], checkpoint.PROMPT, max_tokens=3)
    page = made._repr_html_()
    assert "openvino_generate.py" in page
    assert "log.txt" in page


def test_the_precisions_of_a_cpu_and_what_it_is_told_of_the_others(model):
    choice = openvino.choices()
    assert choice.eight_bit == "fp8"
    assert choice.compared == choice.offered == ("fp16", "fp8", "int8")
    with pytest.raises(WorkshopError, match=r"INT4 AWQ cannot be built .* Take 'fp8' instead"):
        openvino.build(model, "int4_awq")
