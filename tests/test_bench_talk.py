"""The talk's runs on other servers: which loads, how long, and what is said of the difference."""

from types import SimpleNamespace

import pytest

from helpers.bench import talk
from helpers.toolchains.serving import ServeOptions
from helpers.toolchains.sizes import Sizes


def endpoint(toolchain: str, batch: int, longest: int = 1000, whole: int = 2000) -> SimpleNamespace:
    sizes = Sizes(batch, 8192, longest, whole)
    return SimpleNamespace(engine=SimpleNamespace(toolchain=toolchain), options=ServeOptions(sizes))


def test_a_gpu_gets_the_talks_runs_and_one_past_the_limit():
    made = talk.runs(endpoint("tensorrt_llm", 64))
    assert [load.concurrency for load in made.loads] == [1, 8, 32, 64, 128]
    assert {(load.input_tokens.high, load.output_tokens.high) for load in made.loads} == {(1000, 1000)}
    assert made.sentence == "The talk sent 1,000 tokens in and asked for 1,000 out; so do these."
    assert [row[-1] for row in made.table().rows] == 4 * ["all run at once"] + ["past the limit: some wait"]


def test_a_cpu_gets_shorter_ones_and_is_told_so():
    made = talk.runs(endpoint("openvino", 32))
    assert [load.concurrency for load in made.loads] == [1, 8, 16, 32, 64]
    assert {(load.input_tokens.high, load.output_tokens.high) for load in made.loads} == {(62, 62)}
    assert "these are 62 in and 62 out: a sixteenth of it, so that a CPU is done in a minute or two." in made.sentence
    assert "takes" not in made.sentence and "left out" not in made.sentence
    assert [load.requests for load in made.loads] == [20, 24, 32, 64, 128] and {load.runs for load in made.loads} == {3}


def test_every_run_has_enough_requests_for_a_95th_percentile():
    for batch in (1, 2, 3, 16, 64):
        assert all(load.requests >= 20 for load in talk.runs(endpoint("openvino", batch)).loads)


def test_a_server_of_short_requests_gets_what_it_takes():
    made = talk.runs(endpoint("tensorrt_llm", 4, longest=300, whole=500))
    assert [load.concurrency for load in made.loads] == [1, 2, 4, 8]
    assert {(load.input_tokens.high, load.output_tokens.high) for load in made.loads} == {(250, 250)}
    assert (
        "these are 250 in and 250 out: this server takes 500 in and out together at most (max_seq_len)."
        in made.sentence
    )
    assert made.sentence.endswith(
        "The talk's concurrency 32 and 64 is left out: this server runs 4 at once, so past 8 requests would only wait "
        "longer."
    )


def test_the_limit_that_shortens_requests_is_the_one_that_is_named():
    prompts = talk.runs(endpoint("tensorrt_llm", 64, longest=300, whole=4000)).sentence
    assert "300 in and 1,000 out: this server takes prompts of 300 at most (max_input_len)." in prompts
    both = talk.runs(endpoint("openvino", 64, longest=40, whole=100)).sentence
    assert "40 in and 60 out: a sixteenth of it" in both and "max_input_len" in both and "max_seq_len" in both


@pytest.mark.parametrize("batch", [1, 2, 7, 48, 256])
def test_the_limit_and_twice_the_limit_are_always_among_them(batch: int):
    asked = [load.concurrency for load in talk.runs(endpoint("openvino", batch)).loads]
    assert (
        asked == sorted(set(asked))
        and {1, max(1, batch // 2), batch, 2 * batch} <= set(asked)
        and asked[-1] == 2 * batch
    )
