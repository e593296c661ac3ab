"""Many requests at once: real runs of the bundled model, and what is said of runs whose figures are known."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from helpers import models, plots, workspace
from helpers.errors import WorkshopError
from helpers.toolchains import batching, openvino
from helpers.toolchains.batching import BatchRun, Load

WORKERS = workspace.REPOSITORY / "helpers" / "workers"
BLOCK = {None: 98_304, "int8": 61_440}  # bytes of 32 tokens: 6 layers, 4 key-value heads of 32 numbers
FEW = Load(requests=24, prompt_tokens=32, new_tokens=96, rounds=1)


@pytest.fixture(scope="module")
def engines(made_by_notebooks):
    return {kv: openvino.build(models.find(), "fp16", kv) for kv in BLOCK}


@pytest.fixture(scope="module")
def runs(engines):
    """The same requests in the same bytes: 48 blocks at 16 bits, where 24 requests need 96."""
    return {kv: openvino.batch(engine, 48 * BLOCK[None], FEW) for kv, engine in engines.items()}


def test_the_same_bytes_hold_at_least_one_and_a_half_times_the_tokens_at_8_bits(runs):
    assert runs["int8"].tokens >= 1.5 * runs[None].tokens
    assert runs["int8"].kv_bytes <= runs[None].kv_bytes
    table = batching.compare(runs[None], runs["int8"])
    assert table.rows[1][4] == f"{runs['int8'].tokens / runs[None].tokens:.2f} times"
    assert "In the same 4,718,592 bytes, INT8 holds 1.58 times the tokens of 16-bit." in table.note


@pytest.mark.parametrize("kv", BLOCK)
@pytest.mark.parametrize("blocks", [20, 200])
def test_the_engine_reports_the_bytes_that_the_planner_predicts(engines, kv, blocks):
    run = openvino.batch(engines[kv], blocks * BLOCK[kv] + 5, Load(2, 8, 4, 1))
    assert run.blocks == blocks
    assert run.run["kv_cache_bytes"] == pytest.approx(run.manifest.options["planned_bytes"], rel=0.05)
    assert "off by 0.0% at most" in batching.planned_against_measured(run).note


def test_requests_are_preempted_where_blocks_run_out_and_all_end_with_the_same_texts(engines, runs):
    roomy = openvino.batch(engines[None], 256 * BLOCK[None], FEW)
    assert runs[None].preempted > runs["int8"].preempted
    assert roomy.preempted == 0
    assert {len(ids) for ids in runs[None].run["outputs"]} == {FEW.new_tokens}
    assert runs[None].run["texts"] == roomy.run["texts"]
    assert "With the same engine twice, 24 of 24 greedy answers are the same (100%)." in str(
        batching.agreement(roomy, runs[None])
    )


def test_every_iteration_accounts_for_all_blocks_and_never_for_more_requests_than_there_are(runs):
    for run in runs.values():
        assert all(step.used + step.free == run.blocks for step in run.steps)
        assert all(step.running + step.waiting <= FEW.requests for step in run.steps)
        assert [step.seconds for step in run.steps] == sorted(step.seconds for step in run.steps)
        assert max(step.used for step in run.steps) == run.blocks
        assert run.most_running == FEW.requests
        assert 1 < run.mean_running < FEW.requests
    assert runs["int8"].mean_running > runs[None].mean_running


def test_a_run_is_not_made_twice_and_another_load_leaves_it_alone(engines, runs):
    assert openvino.batch(engines[None], 48 * BLOCK[None], FEW).reused
    other = openvino.batch(engines[None], 48 * BLOCK[None], Load(2, 8, 4, 1))
    assert other.path != runs[None].path
    assert workspace.find(runs[None].path)


def test_the_smallest_budget_that_is_taken_is_enough(engines):
    load = Load(requests=3, prompt_tokens=32, new_tokens=33, rounds=1)
    with pytest.raises(WorkshopError, match=r"holds 1 block of .* needs 2\. Give at least 196,608 bytes"):
        openvino.batch(engines[None], 2 * BLOCK[None] - 1, load)
    run = openvino.batch(engines[None], 2 * BLOCK[None], load)
    assert {len(ids) for ids in run.run["outputs"]} == {33}
    assert max(step.running for step in run.steps[-30:]) == 1


@pytest.mark.parametrize(
    ("budget", "load", "says"),
    [
        (0, Load(), "budget is 0: give a whole number above 0"),
        (2**20, Load(requests=-3), "requests is -3"),
        (2**20, Load(rounds=0), "rounds is 0"),
        (2**20, Load(new_tokens=1.5), "new_tokens is 1.5"),
        (2**20, Load(requests=511), "there are 510 held-out texts"),
        (2**24, Load(prompt_tokens=1953), r"make 2,049, and the engine takes 2,048 at most"),
    ],
)
def test_what_cannot_run_is_refused_in_a_sentence(engines, budget, load, says):
    with pytest.raises(WorkshopError, match=says):
        openvino.batch(engines[None], budget, load)


def test_an_engine_from_elsewhere_is_refused_before_it_is_loaded(engines):
    with pytest.raises(WorkshopError, match="Another Processor 9000"):
        openvino.batch(openvino.from_elsewhere(engines[None]), 2**24)


def test_the_picture_of_a_real_run_says_what_the_scheduler_did(runs):
    picture = plots.kv_blocks(runs[None], runs["int8"])
    assert ElementTree.fromstring(picture.svg).tag.endswith("svg")
    assert len(picture.svg) < 200_000
    assert f"{runs[None].preempted} pre-emption" in picture.alt
    assert "at most 24 requests in flight" in picture.alt
    assert plots.kv_blocks(runs[None], runs["int8"]) == picture


# --- Runs whose figures are known


def known(
    folder, kv="", tokens=100, seconds=(1.0, 1.1, 1.2), outputs=((5, 6, 2, 7),), steps=None, told=1000, **options
):
    """A run as a worker would have written it; its engine makes 100 tokens in each of ``seconds``."""
    written = {
        "blocks": tokens // 10,
        "tokens_per_block": 10,
        "kv_cache_bytes": told,
        "rounds": [{"seconds": s, "tokens": 100, "preempted": number} for number, s in enumerate(seconds)],
        "steps": steps or [[0.5, 1, 1, 4, tokens // 10 - 4], [2.0, 2, 0, 8, tokens // 10 - 8]],
        "outputs": [list(ids) for ids in outputs],
        "end": 2,
        "texts": [],
    }
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(written))
    asked = {"model": "bundled", "requests": 2, "prompt_tokens": 1, "new_tokens": 4, "budget": 1000}
    described = {"precision": "fp16", "kv": kv, "planned_bytes": 1100, **asked, **options}
    return BatchRun(folder, workspace.Manifest("batch", "a run", described))


def test_figures_of_a_run(tmp_path):
    run = known(tmp_path / "a")
    assert (run.blocks, run.tokens, run.kv_bytes, run.preempted) == (10, 100, 1000, 2)
    assert run.tokens_per_second == pytest.approx(100 / 1.1)
    assert run.mean_running == pytest.approx((0.5 * 1 + 1.5 * 2) / 2)
    assert run.waited == 0.5
    assert run.answers == [[5, 6]]  # without its end, and what the model was made to write after it


def test_bytes_that_an_engine_does_not_tell_are_called_predicted(tmp_path):
    told, planned = known(tmp_path / "a"), known(tmp_path / "b", told=None)
    assert [row[1] for row in batching.compare(told, planned).rows] == ["1,000", "predicted: 1,100"]
    assert "–" in str(batching.planned_against_measured(planned))


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        ((0.5, 0.5, 0.5), "it made 120% more tokens a second"),
        ((2.2, 2.2, 2.2), "it made 50% fewer tokens a second"),
        ((1.05, 1.05, 1.05), "differ by no more than the rounds do"),
    ],
)
def test_a_speed_is_called_higher_or_lower_only_beyond_the_spread_of_the_rounds(tmp_path, seconds, says):
    one, other = known(tmp_path / "a"), known(tmp_path / "b", "int8", 160, seconds)
    note = batching.compare(one, other).note
    assert "In the same 1,000 bytes, INT8 holds 1.60 times the tokens of 16-bit." in note
    assert says in note


def test_nothing_is_said_of_speed_between_different_loads(tmp_path):
    one, other = known(tmp_path / "a"), known(tmp_path / "b", "int8", 80, budget=500, requests=9)
    assert batching.compare(one, other).note == (
        "In 500 bytes instead of 1,000, INT8 holds 0.80 times the tokens of 16-bit."
    )


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        (((5, 6, 2, 9), (5, 2, 2, 2)), r"2 of 2 greedy answers are the same \(100%\)\.$"),
        (((5, 7, 2, 9), (5, 2, 2, 2)), r"1 of 2 greedy .* \(50%\); the other one parts after 1 token\.$"),
        (((5, 7, 2, 9), (8, 2, 2, 2)), r"0 of 2 greedy .* \(0%\); half of the others part after 0.5 tokens or sooner"),
    ],
)
def test_agreement_counts_answers_up_to_their_ends(tmp_path, outputs, says):
    one = known(tmp_path / "a", outputs=((5, 6, 2, 7), (5, 2, 3, 4)))
    other = known(tmp_path / "b", "int8", outputs=outputs)
    table = batching.agreement(one, other)
    assert re.search(says, table.note)


def test_answers_to_different_requests_are_not_compared(tmp_path):
    with pytest.raises(WorkshopError, match="handed different requests"):
        batching.agreement(known(tmp_path / "a"), known(tmp_path / "b", prompt_tokens=3))


def test_a_planner_that_is_off_is_said_to_be(tmp_path):
    assert "off by 10.0% at most" in batching.planned_against_measured(known(tmp_path / "a")).note


def test_the_picture_follows_the_data(tmp_path):
    calm = known(tmp_path / "a", steps=[[1.0, 2, 0, 4, 6], [2.0, 2, 0, 10, 0]], seconds=(1.0,))
    assert "none waited, the last ended after 2.0 s; 0 pre-emptions" in plots.kv_blocks(calm).alt
    assert "1.0 s of 2.0 s" in plots.kv_blocks(calm).text
    assert "some waited until 0.5 s" in plots.kv_blocks(known(tmp_path / "b")).alt


@pytest.mark.parametrize("call", [batching.compare, batching.planned_against_measured, plots.kv_blocks])
def test_no_run_at_all_is_told_in_a_sentence(call):
    with pytest.raises(WorkshopError, match="no run was given"):
        call()


def test_long_runs_are_thinned_and_keep_their_ends_and_their_fullest_iteration(monkeypatch):
    monkeypatch.syspath_prepend(str(WORKERS))
    from openvino_batch import thinned

    rows = [(float(n), 99 if n == 1234 else 1, 0, 0, 0) for n in range(5000)]
    kept = thinned(rows)
    assert 350 < len(kept) < 405
    assert (kept[0], kept[-1]) == (rows[0], rows[-1])
    assert rows[1234] in kept
    assert thinned(rows[:300]) == rows[:300]
