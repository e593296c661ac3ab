import math

import numpy as np
import pytest

from helpers import precision
from helpers.errors import WorkshopError


def test_facts_of_the_formats():
    e4m3, e5m2, int8, fp16 = (precision.FORMATS[name] for name in ("e4m3", "e5m2", "int8", "fp16"))
    assert (e4m3.largest, e4m3.smallest, e4m3.smallest_normal) == (448, 2**-9, 2**-6)
    assert (e5m2.largest, e5m2.smallest, e5m2.smallest_normal) == (57344, 2**-16, 2**-14)
    assert (fp16.largest, fp16.smallest, fp16.smallest_normal) == (65504, 2**-24, 2**-14)
    assert int8.values().tolist() == list(range(-127, 128))
    # 256 bit patterns: two NaNs and a second zero; six NaNs, two infinities and a second zero.
    assert len(e4m3.values()) == 253
    assert len(e5m2.values()) == 247
    assert fp16.decades > e5m2.decades > e4m3.decades > int8.decades
    assert e4m3.decibels == pytest.approx(20 * math.log10(448 * 2**9))


def test_values_of_fp16_are_numpys():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
    assert np.array_equal(np.unique(every[np.isfinite(every)]), precision.FORMATS["fp16"].values())


@pytest.mark.parametrize(("name", "kind"), [("e4m3", "float8_e4m3fn"), ("e5m2", "float8_e5m2")])
def test_rounds_as_torch_does(name, kind):
    torch = pytest.importorskip("torch")
    number_format = precision.FORMATS[name]
    every = torch.arange(256, dtype=torch.uint8).view(getattr(torch, kind)).float().numpy()
    assert np.array_equal(np.unique(every[np.isfinite(every)]), number_format.values())

    random = np.random.default_rng(0)
    spread = random.standard_normal(1_000_000) * np.exp(random.uniform(-16, 12, 1_000_000))
    values = number_format.values().astype(np.float32)
    ties = (values[1:] + values[:-1]) / 2
    beside = [np.nextafter(ties, np.float32(side)) for side in (-np.inf, np.inf)]
    edges = np.float32([0.0, 1e30, -1e30, np.inf, np.nan])
    sample = np.concatenate([spread.astype(np.float32), values, ties, *beside, edges])

    # Quantizers saturate; torch's own conversion of numbers beyond the largest changed between releases.
    inside = np.clip(sample, -number_format.largest, number_format.largest)
    expected = torch.from_numpy(inside).to(getattr(torch, kind)).float().numpy()
    assert np.array_equal(precision.round_to(sample, name, scale=1), expected, equal_nan=True)


def test_scaling_uses_the_whole_range():
    weights = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    weights[3] *= 100
    by_tensor = precision.round_to(weights, "int8")
    by_channel = precision.round_to(weights, "int8", per="channel")
    assert np.abs(by_tensor).max() == pytest.approx(np.abs(weights).max(), rel=1e-6)
    assert np.abs(by_channel).max(axis=1) == pytest.approx(np.abs(weights).max(axis=1), rel=1e-6)
    quiet = [row for row in range(8) if row != 3]
    coarse = precision.error(weights[quiet], by_tensor[quiet])
    fine = precision.error(weights[quiet], by_channel[quiet])
    assert fine.relative < coarse.relative / 10
    assert fine.sqnr > coarse.sqnr + 20


def test_given_scales_are_used():
    assert precision.round_to([1.0, 2.4], "int8", scale=0.5).tolist() == [1.0, 2.5]
    assert precision.round_to([[1.2], [1.2]], "int8", scale=[1.0, 0.5], per="channel").tolist() == [
        [1.0],
        [1.0],
    ]
    assert precision.round_to([1000.0], "e4m3", scale=1).tolist() == [448.0]
    assert precision.round_to([0.0, 0.0], "e4m3").tolist() == [0.0, 0.0]


def test_one_outlier_hurts_int8_more_than_e4m3():
    values = np.random.default_rng(2).standard_normal(10_000).astype(np.float32)
    values[0] = 500.0
    int8 = precision.error(values, precision.round_to(values, "int8"))
    e4m3 = precision.error(values, precision.round_to(values, "e4m3"))
    assert int8.flushed > 0.5
    assert e4m3.flushed < 0.01
    assert f"{int8.flushed:.3%}" in str(int8)


def test_the_table_is_not_fooled_by_one_huge_value():
    values = np.random.default_rng(6).standard_normal(10_000).astype(np.float32)
    values[:100] = 0
    with_outlier = values.copy()
    with_outlier[-1] = 50 * np.abs(values).max()
    (e4m3, int8), (e4m3_after, int8_after) = (
        [float(row[1].rstrip("%")) for row in precision.rounding_table(v, "e4m3", "int8").rows]
        for v in (values, with_outlier)
    )
    # Three digits of mantissa: at most 1/16 off, whatever the scale. Most of INT8's values became zero: all is lost.
    assert 1 < e4m3 < 6.25
    assert e4m3_after == pytest.approx(e4m3, rel=0.1)
    assert int8 < 6.25
    assert int8_after == 100


def test_the_table_holds_the_median_over_the_values_other_than_zero():
    # Scale 1: 127 is exact, 2.4 becomes 2 and is a sixth off, 0.4 becomes 0 and is lost, 0 does not count.
    table = precision.rounding_table([127.0, 2.4, 0.4, 0.0, 0.0], "int8")
    assert table.rows == [["INT8", "16.67%", "33.33%"]]
    assert table.caption == "measured: rounding 5 values, one scale for all"


def test_an_exact_rounding_has_no_error():
    exact = precision.error([1.0, -2.0], [1.0, -2.0])
    assert (exact.relative, exact.sqnr, exact.flushed) == (0, math.inf, 0)


def test_perplexity_of_even_odds_is_their_number():
    found = precision.perplexity(np.full((4, 25), math.log(50)))
    assert found.value == pytest.approx(50)
    assert (found.tokens, found.standard_error) == (100, pytest.approx(0, abs=1e-9))


def test_standard_error_covers_the_truth():
    random = np.random.default_rng(3)
    off = [
        (found.value - math.exp(2)) / found.standard_error
        for found in (precision.perplexity(random.normal(2, 1, 400)) for _ in range(300))
    ]
    assert 0.9 < np.std(off) < 1.1


def test_pairing_finds_what_the_spread_hides():
    random = np.random.default_rng(4)
    a = random.exponential(2, 3000)
    b = a + random.normal(0.01, 0.05, 3000)
    apart = precision.perplexity(b).value - precision.perplexity(a).value
    assert apart < precision.perplexity(a).standard_error
    found = precision.compare(a, b, "FP16", "INT8")
    assert found.told_apart
    assert found.mean == pytest.approx(float(np.mean(b - a)))
    assert found.times_se == pytest.approx(found.mean / found.standard_error)
    assert found.sentence.startswith("INT8 predicts this text worse than FP16")
    assert f"{found.mean:.5f}" in found.sentence
    assert "better" in precision.compare(b, a, "INT8", "FP16").sentence


def test_what_cannot_be_told_apart_is_said_so():
    random = np.random.default_rng(5)
    a = random.exponential(2, 200)
    noise = random.normal(0, 0.05, 200)
    found = precision.compare(a, a + noise - noise.mean(), "FP16", "FP8")
    assert not found.told_apart
    assert "cannot be told apart" in found.sentence
    same = precision.compare(a, a)
    assert (same.times_se, same.told_apart) == (0, False)
    assert "no difference" in same.sentence


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: precision.round_to([1.0], "fp7"), "use one of fp16"),
        (lambda: precision.round_to([1.0], "int8", per="row"), "use 'tensor' or 'channel'"),
        (lambda: precision.error([1.0], [1.0, 2.0]), "Shapes differ"),
        (lambda: precision.error([0.0], [0.0]), "every value is zero"),
        (lambda: precision.perplexity([1.0]), "score a longer text"),
        (lambda: precision.perplexity([1.0, math.nan, math.inf]), "2 of 3 tokens"),
        (lambda: precision.compare([1.0, 2.0], [1.0, 2.0, 3.0]), "2 and 3 tokens"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call, says):
    with pytest.raises(WorkshopError, match=says):
        call()


def test_the_table_holds_computed_numbers():
    table = str(precision.facts("e4m3", "int8"))
    assert "448" in table
    assert "253" in table
    assert "FP8 E4M3 spans 5.4 powers of ten, INT8 2.1." in table


def test_single_tokens_move_where_an_average_does_not():
    exact = np.linspace(0.1, 2.0, 1000)
    swung = exact + np.where(np.arange(1000) % 2, 0.5, -0.05)
    level = exact + np.where(np.arange(1000) % 2, 0.01, -0.01)
    table = precision.moved_table({"FP16": exact, "level": level, "swung": swung})
    assert [row[0] for row in table.rows] == ["level", "swung"]
    assert table.rows[0][1:] == ["0.01000", "0.01000", "0.010"]
    assert table.rows[1][1] == "0.27500"
    assert table.note == "Nearest to FP16, in nats a token: level, 0.01000. Farthest: swung, 0.27500."


def test_moving_needs_two_models_and_the_same_text():
    with pytest.raises(WorkshopError, match="1 of at least 2 models"):
        precision.moved_table({"FP16": [1.0, 2.0]})
    with pytest.raises(WorkshopError, match="scored different texts"):
        precision.moved_table({"FP16": [1.0, 2.0], "FP8": [1.0, 2.0, 3.0]})
    assert (
        precision.moved_table({"a": [1.0, 2.0], "b": [1.0, 2.1]}).note == "b moved a token by 0.05000 nats on average."
    )
