"""What splitting a model buys and costs: numbers that were counted, chances enumerated, sentences both ways."""

import itertools
import tomllib
from dataclasses import replace
from fractions import Fraction

import pytest

from helpers import hardware, memory, models, workspace
from helpers.errors import WorkshopError
from helpers.tensor_parallel import comparison, experts, links, predict
from helpers.tensor_parallel.experts import Mixture
from helpers.tensor_parallel.links import Interconnect

BUNDLED = memory.Shape.of(models.find().config)
TINY = memory.Shape.of(models.known()["TinyLlama"]["config"])
LARGE = "Llama-3.1-70B-Instruct"
MIXTRAL = experts.mixtures()["Mixtral-8x7B"]
NVLINK = links.links()["nvlink-4"]


def link(seconds: float, rate: float = 1e12) -> Interconnect:
    """A made-up link with one all-reduce time, between two GPUs."""
    return Interconnect("made-up", "made-up link", rate, {2: seconds}, "estimate")


# --- What was counted on real ranks -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "ranks", "parameters"),
    [(BUNDLED, 2, 3_149_056), (BUNDLED, 4, 1_838_336), (TINY, 2, 582_838_272)],
)
def test_a_rank_has_the_parameters_that_transformers_ranks_had(shape, ranks, parameters):
    assert predict.rank_parameters(shape, ranks) == parameters
    assert predict.rank_bytes(shape, ranks) == 4 * parameters
    assert predict.rank_bytes(shape, ranks, 2) == 2 * parameters


def test_a_last_layer_that_is_left_whole_is_counted_whole():
    more = predict.rank_parameters(BUNDLED, 2, head="whole") - predict.rank_parameters(BUNDLED, 2)
    assert more == BUNDLED.vocabulary * BUNDLED.hidden // 2


def test_a_last_layer_that_is_the_embedding_is_counted_once():
    less = predict.rank_parameters(BUNDLED, 2, head="whole") - predict.rank_parameters(BUNDLED, 2, head="tied")
    assert less == BUNDLED.vocabulary * BUNDLED.hidden


def test_one_rank_has_the_whole_model():
    assert predict.rank_parameters(BUNDLED, 1) == models.find().parameters
    for name, row in models.known().items():
        whole = predict.rank_bytes(memory.Shape.of(row["config"]), 1, 2)
        assert 0 <= row["weights_bytes"] - whole < 100_000, name


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_split_embedding_gives_the_planners_bytes(ranks):
    assert predict.rank_bytes(TINY, ranks, 2, embedding_split=True) == memory.weight_bytes(TINY, "fp16", ranks)
    assert predict.step(TINY, "h100", ranks).held == memory.weight_bytes(TINY, "fp16", ranks)


@pytest.mark.parametrize("precision", memory.BYTES_PER_WEIGHT)
def test_every_precision_is_the_planners_too(precision):
    held = predict.step(TINY, "h100", 4, precision=precision).held
    assert held == pytest.approx(memory.weight_bytes(TINY, precision, 4), abs=1)


def test_all_reduces_are_those_that_were_seen():
    assert (predict.all_reduces(BUNDLED), predict.all_reduce_bytes(BUNDLED)) == (12, 12 * 1024)
    assert (predict.all_reduces(TINY), predict.all_reduce_bytes(TINY)) == (44, 44 * 8192)
    assert predict.all_reduce_bytes(TINY, tokens=10, bytes_per_number=2) == 10 * 44 * 4096


# --- Links -----------------------------------------------------------------------------------------------


def test_every_link_has_its_sources():
    rows = tomllib.loads((workspace.DATA / "links.toml").read_text())
    for key, row in rows.items():
        assert row["rate_label"] in ("datasheet", "computed"), key
        assert "https://" in row["rate_source"], key
        words = {
            "recorded",
            "published",
            "estimate",
            "recorded for 2, published for 4",
            "recorded over PCIe 5.0 for 2, published for 8",
        }
        assert row["all_reduce_label"] in words, key
        assert row["all_reduce_source"], key
        assert ("all_reduce_of" in row) == (row["all_reduce_label"] == "estimate") != ("all_reduce_seconds" in row), key
        assert 1e-6 < links.links()[key].latency(2) < 1e-4, key
    assert list(links.links()) == list(rows)


@pytest.mark.parametrize(
    ("gpu", "key"),
    [
        ("v100", "nvlink-2"),
        ("t4", "pcie-3"),
        ("a100", "nvlink-3"),
        ("a10g", "pcie-4"),
        ("rtx-3090", "pcie-4"),
        ("rtx-4090", "pcie-4"),
        ("h100", "nvlink-4"),
        ("h200", "nvlink-4"),
        ("b200", "nvlink-5"),
        ("rtx-5090", "pcie-5"),
    ],
)
def test_a_gpu_has_the_link_of_its_generation(gpu, key):
    assert links.link_of(gpu).key == key


def test_every_whole_gpu_has_a_link():
    for sheet in hardware.datasheets():
        if not sheet.slice_of:
            assert links.link_of(sheet).rate > 1e10


def test_a_time_for_other_numbers_follows_the_logarithm():
    assert [link(10e-6).latency(n) for n in (1, 2, 3, 4, 8)] == pytest.approx([0, 10e-6, 20e-6, 20e-6, 30e-6])
    timed = replace(NVLINK, all_reduce_seconds={2: 10e-6, 8: 12e-6})
    assert [timed.latency(n) for n in (2, 4, 8, 16)] == pytest.approx([10e-6, 20e-6, 12e-6, 16e-6])
    assert links.links()["pcie-4"].latency(8) == pytest.approx(43.2e-6), "as published"


def test_the_recorded_all_reduces_are_predicted():
    seconds = predict.all_reduces(TINY) * NVLINK.all_reduce(2, 4096)
    assert seconds == pytest.approx(0.741e-3, rel=0.01)


# --- The chances of experts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "chosen", "ranks", "tokens"),
    [(8, 2, 1, 1), (8, 2, 2, 1), (8, 2, 4, 1), (8, 2, 8, 1), (8, 2, 2, 2), (6, 3, 2, 2), (4, 2, 2, 3), (6, 1, 3, 3)],
)
def test_the_fullest_rank_is_what_enumeration_finds(number, chosen, ranks, tokens):
    mixture = Mixture("made up", TINY, number, chosen)
    each = number // ranks
    total = different = cases = 0
    for sets in itertools.product(itertools.combinations(range(number), chosen), repeat=tokens):
        used = set().union(*sets)
        total += max(len([expert for expert in used if expert // each == rank]) for rank in range(ranks))
        different += len(used)
        cases += 1
    assert experts.fullest_rank(mixture, ranks, tokens) == Fraction(total, cases)
    found = experts.touched(mixture, tokens)
    assert sum(found.values()) == 1
    assert sum(number * chance for number, chance in found.items()) == Fraction(different, cases)


def test_one_token_of_mixtral_often_finds_both_experts_on_one_gpu():
    # The second expert is one of the 3 others on the first one's GPU, or of the 4 on the other.
    assert experts.fullest_rank(MIXTRAL, 2) == Fraction(3, 7) * 2 + Fraction(4, 7) * 1


def test_mixtral_has_the_parameters_that_are_published():
    """About 47 billion, of which a token uses 13: NVIDIA's page on it, docs.nvidia.com/nemo/automodel."""
    one = predict.step(MIXTRAL, "h200")
    assert one.held / 2 == pytest.approx(46.7e9, rel=0.002)
    assert one.read / 2 == pytest.approx(12.9e9, rel=0.02)


def test_many_requests_make_experts_worth_it():
    def gain(requests: int) -> float:
        one, many = (predict.step(MIXTRAL, "h200", n, "expert", requests=requests) for n in (1, 8))
        return one.seconds / many.seconds

    assert gain(64) > 2 * gain(1)


# --- Steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", predict.WAYS)
@pytest.mark.parametrize("gpu", ["rtx-4090", "h100"])
def test_more_gpus_talk_more_hold_less_and_never_read_more(way, gpu):
    timed_alike = link(10e-6)  # the times of data/links.toml for 2 and for 4 GPUs come from two machines
    steps = [predict.step(MIXTRAL, gpu, n, way, link=timed_alike) for n in (1, 2, 4, 8)]
    assert steps[0].talking == 0
    for fewer, more in itertools.pairwise(steps):
        assert more.talking > fewer.talking
        assert more.held < fewer.held
        assert more.reading == pytest.approx(fewer.reading) if way == "pipeline" else more.reading < fewer.reading


def test_one_gpu_is_the_same_whatever_the_way():
    steps = [predict.step(MIXTRAL, "h200", 1, way, context=100) for way in predict.WAYS]
    assert len({(one.held, one.talking) for one in steps}) == 1
    assert [one.read for one in steps] == pytest.approx([steps[0].read] * 3)


def test_a_step_on_one_gpu_takes_what_reading_takes():
    one = predict.step("TinyLlama", "h100")
    embedding = 2 * TINY.vocabulary * TINY.hidden
    assert one.seconds == pytest.approx((memory.weight_bytes(TINY, "fp16") - embedding) / 3.35e12)
    longer = predict.step("TinyLlama", "h100", requests=3, context=1000)
    assert longer.read - one.read == 3000 * memory.kv_bytes_per_token(TINY)
    assert longer.cache == longer.read - one.read


def test_the_cache_is_shared_out_by_tensor_and_read_in_turn_by_a_pipeline():
    for way, times in (("tensor", 1), ("pipeline", 2)):
        without, with_cache = (predict.step("TinyLlama", "h100", 2, way, context=tokens) for tokens in (0, 1000))
        assert with_cache.cache == 1000 * memory.kv_bytes_per_token(TINY) // 2
        assert with_cache.read - without.read == pytest.approx(times * with_cache.cache)


def test_what_does_not_fit_is_the_planners_own_judgement():
    assert [predict.step(LARGE, "h100", n).fits for n in (1, 2, 4, 8)] == [False, True, True, True]
    assert [predict.step(LARGE, "rtx-4090", n).fits for n in (4, 8)] == [False, True]
    assert not predict.step(LARGE, "h200").fits
    assert predict.step(LARGE, "h200", precision="fp8").fits
    assert not predict.step("TinyLlama", "rtx-4090", requests=1000, context=2048).fits


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: predict.step("TinyLlama", "h100", 2, "expert"), "is a dense model.*Choose 'tensor' or 'pipeline'"),
        (lambda: predict.step("TinyLlama", "h100", 8), "cannot be split over 8 ranks"),
        (lambda: predict.step("TinyLlama", "h100", 2, "sideways"), "no way 'sideways'"),
        (lambda: predict.step("bundled", "h100", 7, "pipeline"), "has 6 layers"),
        (lambda: predict.step("TinyLlama", "h100", 0), "whole number of at least 1"),
        (lambda: predict.step("TinyLlama", "h100", context=-1), "context is -1"),
        (lambda: predict.step("TinyLlama", "h100-mig-1g.10gb", 2), "slices reach no other GPU's memory"),
        (lambda: predict.step("TinyLlama", "h100", 2, link="string"), "no link 'string'"),
        (lambda: predict.step("TinyLlama", "rtx-3090", 4, link="nvlink-bridge"), "joins 2 GPUs, and 4"),
        (lambda: predict.step("TinyLlama", "h100", precision="fp3"), "no precision of weights"),
        (lambda: predict.step("Mixtral", "h100"), "no model called 'Mixtral'"),
        (lambda: predict.rank_parameters(TINY, 3), "cannot be split over 3 ranks"),
        (lambda: experts.fullest_rank(MIXTRAL, 3), "cannot be shared out over 3 ranks"),
        (lambda: comparison.compare([], "h100"), "Nothing to predict"),
        (lambda: comparison.compare("TinyLlama", "h100", ranks=[8]), "Nothing to predict"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call, says):
    with pytest.raises(WorkshopError, match=says) as told:
        call()
    assert "\n" not in str(told.value)


def test_a_slice_alone_can_be_predicted():
    assert predict.step("TinyLlama", "h100-mig-1g.10gb").link is None


# --- What is said of many ------------------------------------------------------------------------------------------


def test_the_sentence_says_that_more_help_where_the_link_is_fast():
    prediction = comparison.compare("TinyLlama", "h100", link=link(0.1e-6))
    assert prediction.sentences[0] == (
        "TinyLlama on H100 SXM: 4 are fastest (the most asked for), 3.8 times as fast as 1."
    )


def test_the_sentence_says_that_more_never_help_where_the_link_is_slow():
    prediction = comparison.compare("TinyLlama", "h100", link=link(100e-6))
    assert prediction.sentences[0] == "TinyLlama on H100 SXM: no other number of GPUs is more than 5% faster."


def test_the_sentence_says_where_more_stop_helping():
    prediction = comparison.compare("TinyLlama", "rtx-4090", link=link(14e-6))
    best = prediction.best("TinyLlama", "GeForce RTX 4090")
    assert best.ranks == 2
    assert prediction.sentences[0].startswith("TinyLlama on GeForce RTX 4090: 2 are fastest (more do not help), 1.")


def test_the_sentence_says_how_many_a_large_model_needs():
    prediction = comparison.compare(LARGE, ["rtx-4090", "h100"])
    assert prediction.sentences[0].startswith(f"{LARGE} on GeForce RTX 4090: needs 8; on H100 SXM: needs 2, ")
    nowhere = comparison.compare(LARGE, "rtx-4090", ranks=(1, 2))
    assert nowhere.sentences[0] == f"{LARGE} on GeForce RTX 4090: does not fit, not even on 2."
    assert nowhere.table().rows[0][4:] == ("–", "–", "–", "–")
    assert "A dash: it does not fit." in nowhere.table().note
    assert "dash" not in comparison.compare("TinyLlama", "h100").table().note


def test_what_cannot_be_split_is_left_out_and_said():
    prediction = comparison.compare("TinyLlama", "h100")
    assert [one.ranks for one in prediction.steps] == [1, 2, 4]
    assert "TinyLlama cannot be split by tensor over 8 GPUs: its 4 key-value heads do not share out." in str(prediction)
    assert comparison.compare("TinyLlama", "h100", ranks=(1, 2)).impossible == ()


@pytest.mark.parametrize(("seconds", "faster"), [(1e-9, 0), (1e-3, 1)])
def test_the_other_ways_are_compared_both_ways(seconds, faster):
    prediction = comparison.compare("TinyLlama", "h100", (1, 2), ("tensor", "pipeline"), link=link(seconds))
    assert f"As a pipeline, a token comes sooner than split by tensor in {faster} of the 1 cases" in str(prediction)


def test_the_table_is_labelled_and_says_what_is_assumed():
    prediction = comparison.compare(["TinyLlama", MIXTRAL], ["h100", "rtx-4090"], ways=predict.WAYS)
    text = str(prediction)
    assert text.startswith("predicted: a token of one request")
    assert "NVLink 4 16.8 µs for 2, 15.5 µs for 4 GPUs (recorded for 2, published for 4)" in text
    assert "20.5 µs for 2, 43.2 µs for 8 GPUs (recorded over PCIe 5.0 for 2, published for 8)" in text
    assert comparison.OWN_KERNELS in text
    assert {row[2] for row in prediction.table().rows} == set(predict.WAYS)
    assert "Mixtral-8x7B" in prediction._repr_html_()
    dense = [one.way for one in prediction.steps if one.model == "TinyLlama"]
    assert "expert" not in dense


def test_speed_up_is_against_the_fewest_that_fit():
    prediction = comparison.compare(LARGE, "h100")
    first = prediction.first(LARGE, "H100 SXM")
    assert first.ranks == 2
    assert prediction.speed_up(first) == 1
    assert [row[-1] == "–" for row in prediction.table().rows] == [True, False, False, False]


def test_a_made_up_gpu_can_be_asked_for():
    sheet = replace(hardware.by_key("h100"), key="made-up", name="Made up", bandwidth=1e12)
    assert predict.step("TinyLlama", sheet, 2).reading == pytest.approx(
        3.35 * predict.step("TinyLlama", "h100", 2).reading
    )
