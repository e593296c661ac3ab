"""The naive benchmark run beside ours; published figures; the commands of TensorRT-LLM's own benchmarks."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.bench import naive, on_gpu, published
from helpers.bench.load import Lengths, Load
from helpers.bench.measured import Health, Run
from helpers.bench.naive import Asked, Naive, Wave
from helpers.bench.on_gpu import BENCH, SERVING, Report
from helpers.bench.results import result
from helpers.bench.results.result import Result
from helpers.errors import WorkshopError
from helpers.releases.contract import contract
from tests.bench_folders import failed, steady, write
from tests.streams import Stream, streaming

LOAD = Load(concurrency=2, input_tokens=Lengths(20, 20), output_tokens=Lengths(11, 11))


def ours(folder: Path, load: Load = LOAD, runs: Sequence[Run] | None = None, **more: Any) -> Result:
    """A result of answers whose first token comes after 50 ms, and one every 10 ms after it."""
    found = result.read(write(folder, load, [steady(1, 40)] if runs is None else runs))
    return replace(found, **more)


def asked(ttft: float = 0.05, chunks: int = 11, tokens: int | None = 11, prompt_tokens: int | None = 20) -> Asked:
    return Asked(ttft, chunks, tokens, prompt_tokens)


def waves(*made: list[Asked], seconds: float = 1.0, **more: Any) -> Naive:
    found = Naive("http://x/v1", 2, 20, 11, [Wave(seconds, one) for one in made], seconds * len(made), 0.25)
    return replace(found, **more)


# --- The program ----------------------------------------------------------------


def two_a_chunk(stream: Stream, body: dict[str, Any]) -> None:
    """Ten tokens, two in each chunk, the first after 50 ms."""
    stream.open()
    time.sleep(0.05)
    for i in range(5):
        stream.piece("two words ", finish="length" if i == 4 else None)
    stream.end(10)


def test_the_program_counts_chunks_and_starts_all_at_once() -> None:
    with streaming(two_a_chunk) as server:
        found = naive.run(server, concurrency=4, input_tokens=12, output_tokens=10)
        assert len(server.asked) == 9  # one token of warm-up, and two waves
    assert [len(wave.requests) for wave in found.waves] == [4, 4] and found.failed == 0
    assert (found.chunks, found.tokens) == (40, 80)
    assert 0.05 <= found.mean_ttft < 2 and found.tokens_per_second == found.chunks / found.seconds
    assert server.asked[0]["max_tokens"] == 1 and server.asked[1]["max_tokens"] == 10
    assert {body["prompt"] for body in server.asked[1:]} == {" ".join(map(str, range(12)))}
    for text in (str(found), found._repr_html_()):
        assert "mean TTFT" in text and "The mean hides a range: of 8 requests" in text


def test_a_server_that_refuses_is_told_with_its_words() -> None:
    with streaming(lambda stream, _: stream.refuse(400, "the prompt is too long.")) as server:
        with pytest.raises(
            WorkshopError, match=r"was answered: .*too long.*Numbers are several tokens each"
        ) as problem:
            naive.run(server, 2, 30, 4, 2)
        assert "ask for fewer" in str(problem.value)


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"requests": True}, {"output_tokens": 1.5}])
def test_numbers_that_make_no_load_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(WorkshopError, match="Give a whole number of at least 1"):
        naive.run("http://127.0.0.1:9/v1", **wrong)


def test_a_server_that_is_not_there_is_told() -> None:
    with pytest.raises(WorkshopError, match=r"The naive program failed: APIConnectionError"):
        naive.run("http://127.0.0.1:9/v1", 1, 1, 1, 1)


# --- Beside ours ----------------------------------------------------------------


def told(found: Naive, folder: Path, **more: Any) -> list[str]:
    return [one.told for one in found.beside(ours(folder, **more)).effects]


def test_each_mistake_is_told_by_its_effect_where_it_has_one(tmp_path: Path) -> None:
    found = waves([asked(0.2, 6, prompt_tokens=31), asked(0.6, 6, prompt_tokens=31)], [asked(0.1, 6), asked(0.1, 6)])
    chunks, at_once, mean, prompt = told(found, tmp_path)
    assert chunks == "It counted 24 chunks for 44 tokens, so by that alone its tokens/s are 45.5% too low."
    assert "after 250.0 ms on average, ours after 50.0 ms, since they come one by one (5.0 times)" in at_once
    assert at_once.endswith("The start adds to it, as do prompts 1.6 times as long; here they are not separated.")
    assert mean == "Its mean of 250.0 ms hides that the slowest of its 4 requests waited 600.0 ms."
    assert "reads it once, and may answer its second wave from the cache." in prompt
    assert "It has 31 tokens where 20 were asked for." in prompt


def test_a_mistake_without_effect_is_told_to_have_none(tmp_path: Path) -> None:
    chunks, at_once, mean, prompt = told(waves([asked(), asked()], [asked(), asked()]), tmp_path)
    assert chunks.startswith("Here every chunk is one token (44 of both)")
    assert at_once == "Starting all at once makes no difference here: 50.0 against 50.0 ms."
    assert mean.endswith("so the mean of 50.0 ms hides nothing.")
    assert prompt.endswith("It has the 20 tokens that were asked for.")


def test_what_cannot_be_told_is_not_told(tmp_path: Path) -> None:
    uncounted = asked(0.02, tokens=None, prompt_tokens=None)
    chunks, at_once, _, prompt = told(waves([uncounted, uncounted]), tmp_path)
    assert chunks.startswith("The server did not count its tokens")
    assert "sooner than the 50.0 ms of requests that come one by one" in at_once
    assert "second wave" not in prompt and "tokens" not in prompt.partition("once")[2]


@pytest.mark.parametrize(
    ("wait", "said"),
    [
        (
            0.2,
            "wait 200.0 ms: that is 75% of it, and the rest is not, such as its prompts, which are 1.6 times as long.",
        ),
        (0.25, "wait as long as its (250.0 ms): it is the start."),
        (0.05, "do not wait longer (50.0 ms), so it is something else, such as its prompts"),
    ],
)
def test_a_burst_of_ours_separates_the_start_from_the_rest(tmp_path: Path, wait: float, said: str) -> None:
    one = asked(0.25, prompt_tokens=31)
    burst = ours(tmp_path / "b", LOAD.with_(ramp=0), [steady(1, 40, ttft=wait)])
    found = waves([one, one], [one, one]).beside(ours(tmp_path / "a"), burst)
    table = found.table()
    assert table.columns[2:] == ("naive", "ours, all at once", "ours") and said in found.sentence
    rows = {row[1]: row[2:] for row in table.rows}
    assert rows["TTFT, mean, ms"] == ("250.0", f"{1000 * wait:.1f}", "50.0")
    assert rows["TTFT, ms"][1:] == (f"p50 {1000 * wait:.1f}, p95 {1000 * wait:.1f}", "p50 50.0, p95 50.0")
    with pytest.raises(WorkshopError, match="another load"):
        waves([one]).beside(ours(tmp_path / "a"), ours(tmp_path / "c", LOAD.with_(concurrency=4)))


def test_a_client_of_ours_that_did_not_keep_up_is_no_measure(tmp_path: Path) -> None:
    busy = replace(steady(1, 40), health=Health(seconds=1, cpu_seconds=0.99))
    table = waves([asked(), asked()]).beside(ours(tmp_path, runs=[busy])).table()
    assert table.columns[3] == "ours" and table.rows[1][3] == table.rows[2][3] == "client-bound"
    assert "could not keep up (its core was 99% busy)" in table.note


def test_only_the_same_concurrency_is_compared(tmp_path: Path) -> None:
    with pytest.raises(WorkshopError, match="Measure concurrency 2 and compare with that"):
        waves([asked()]).beside(ours(tmp_path / "a", LOAD.with_(concurrency=4)))
    bad = replace(steady(1), rows=[failed(0, 0.0, "timeout")])
    with pytest.raises(WorkshopError, match="no whole answer"):
        waves([asked()]).beside(ours(tmp_path / "b", runs=[bad]))


def test_the_comparison_shows_itself_alike_in_both_forms(tmp_path: Path) -> None:
    found = waves([asked(), asked()]).beside(ours(tmp_path))
    for text in (str(found), found._repr_html_()):
        assert "counts chunks as tokens" in text and "The naive program kept 25% of a core busy, ours 10%" in text


# --- Published figures ----------------------------------------------------------

TALK = Load(concurrency=32, input_tokens=Lengths(1000, 1000), output_tokens=Lengths(1000, 1000))


def test_the_figures_of_the_talk_are_those_that_were_said() -> None:
    talk = published.find()
    assert {one.concurrency: one.total_rate for one in talk.points} == {1: None, 32: 5000, 64: 7000}
    assert talk.points[0].ttft == 0.18 and talk.kv is not None
    assert "832 KV blocks used and 4,500 free, so 16% of the cache" in talk.kv.sentence
    assert str(talk).startswith("published: TinyLlama-1.1B in INT8 on an A10G, 1,000 tokens in and 1,000 out")
    with pytest.raises(WorkshopError, match="There are: talk"):
        published.find("nobody")


def test_what_is_not_as_in_the_published_run_is_named(tmp_path: Path) -> None:
    found = published.beside(ours(tmp_path, machine={"cpu": "AMD EPYC", "gpus": []}))
    assert "another model (tiny; there TinyLlama-1.1B)" in found.sentence
    assert "another machine (AMD EPYC; there an A10G)" in found.sentence
    assert "other lengths (20 in and 11 out; there 1,000 in and 1,000 out)" in found.sentence
    assert "no network between client and server" in found.sentence
    assert "here it is not known at which concurrency the server is full" in found.sentence
    assert "published, concurrency 1: most of it is the network" in found.table().note
    rows = {row[0]: row for row in found.table().rows}
    assert rows[64][1:4] == ("–", "–", "about 7,000") and rows[2][3] == "–" and rows[1][5] == "about 180"


def test_growth_is_compared_from_half_full_to_full_each_at_its_own_limit(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"serving": {"sizes": {"max_batch_size": 8}}}
    own = [ours(tmp_path / f"{n}", LOAD.with_(concurrency=n), **sizes) for n in (4, 8, 16)]
    said = published.beside(own).sentence
    assert (
        "From half full to full (concurrency 32 to 64) the published throughput grows 1.4 times; here (4 to 8)" in said
    )
    assert said.endswith("here (4 to 8) it grows less: 1.00 times.")
    assert published.beside(own[1:]).sentence.endswith("here (4 to 8) not both were measured.")


def test_the_same_run_still_differs_in_its_network_and_growth_is_computed(tmp_path: Path) -> None:
    engine = {"precision": "int8", "toolchain": "tensorrt_llm", "manifest": {"options": {"model": "TinyLlama-1.1B"}}}
    more: dict[str, Any] = {"machine": {"gpus": ["NVIDIA A10G"]}, "engine": engine}
    more["serving"] = {"sizes": {"max_batch_size": 64}}
    slow = ours(tmp_path / "a", TALK, **more)

    def beside(gap: float) -> str:
        fast = ours(tmp_path / f"{gap}", TALK.with_(concurrency=64), [steady(1, 40, gap=gap)], **more)
        return published.beside([slow, fast]).sentence

    sentence = beside(0.02)
    assert (
        "Not as in the published run: no network between" in sentence
        and "(32 to 64) it falls: to 0.60 of it" in sentence
    )
    assert "(32 to 64) it grows more: 1.7" in beside(0.0035) and "grows as much" in beside(0.00571)
    far = replace(slow, target={**slow.target, "url": "https://far.example/v1"}, machine={})
    assert "another machine (not known; there an A10G)" in published.beside(far).sentence


def test_an_open_loop_has_nothing_to_stand_beside(tmp_path: Path) -> None:
    with pytest.raises(WorkshopError, match="no closed loop was given"):
        published.beside(ours(tmp_path, Load(rate=3)))


# --- TensorRT-LLM's own benchmarks ------------------------------------------------


@pytest.mark.parametrize("load", [LOAD, LOAD.with_(api="chat"), Load(rate=2.5, requests=50)])
def test_every_command_is_one_that_the_release_takes(load: Load) -> None:
    programs, found = contract("1.2.1").programs, on_gpu.tools(load)
    assert programs[SERVING].problems(found.serving) == [] == programs[SERVING].unverified(found.serving)
    if load.open_loop:
        assert not found.bench and "sends requests at no rate" in str(found)
    else:
        assert programs[BENCH].problems(found.bench) == [] == programs[BENCH].unverified(found.bench)
    assert "--random-ids" in found.serving  # without it a data set is downloaded
    for text in (str(found), found._repr_html_()):
        assert ("on_gpu.write_dataset(load" in text) == (load.api != "chat" and not load.open_loop)
        assert "random token ids" in text and "nothing" not in text
        assert "system_output_throughput_tok_s" in text and "median_ttft_ms" in text and SERVING in text


def test_several_gpus_are_named_as_trtllm_bench_spells_them() -> None:
    command = on_gpu.throughput("trtllm-bench", "m", "/m", "/e", "d", LOAD, "r", tp_size=2)
    assert contract("1.2.1").programs[BENCH].parse(command)["tp"] == 2


def test_the_data_set_has_the_prompts_of_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.loads(line) for line in on_gpu.dataset(LOAD.with_(requests=5), Path("data/model"))]
    assert [one["task_id"] for one in lines] == [0, 1, 2, 3, 4] and {one["output_tokens"] for one in lines} == {11}
    assert len({one["prompt"] for one in lines}) == 5
    monkeypatch.setenv("WORKSHOP_HOME", "data")  # the shown line has the variable
    on_gpu.write_dataset(LOAD.with_(requests=5), "$WORKSHOP_HOME/model", tmp_path / "requests.jsonl")
    kept = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [one["task_id"] for one in kept] == [0, 1, 2, 3, 4] and kept[0].keys() == lines[0].keys()
    with pytest.raises(WorkshopError, match="knows no chat"):
        list(on_gpu.dataset(LOAD.with_(api="chat")))
    with pytest.raises(WorkshopError, match="ends by time"):
        list(on_gpu.dataset(LOAD.with_(seconds=3.0)))


def test_their_figures_are_set_beside_ours_in_the_same_units(tmp_path: Path) -> None:
    mine = ours(tmp_path)
    rate = mine.value("output_rate")
    assert rate is not None
    report = Report(SERVING, {"output_throughput": 1.5 * rate, "median_ttft_ms": 75.0}).beside(mine)
    rows = {row[0]: row[1:] for row in report.table().rows}
    assert rows["TTFT p50, ms"][:2] == ("75.0", "50.0") and rows["TPOT p99, ms"][0] == "–"
    assert "1.50 times as many as our client" in report.sentence
    assert rows["TPOT p50, ms"][2] == "–"  # no source says that they are the same
    assert "compare total_input_tokens" in report.table().note
    same = Report(BENCH, {"performance": {"system_output_throughput_tok_s": rate}}).beside(mine)
    assert "as many as our client" in same.sentence and "times" not in same.sentence
    assert "did not tell" in Report(BENCH, {}).sentence


def test_without_the_release_nothing_is_run(tmp_path: Path) -> None:
    with pytest.raises(WorkshopError):
        on_gpu.run(BENCH, on_gpu.tools(LOAD).bench, tmp_path / "r.json")
