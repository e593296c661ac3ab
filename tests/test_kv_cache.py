"""What a KV cache holds and what eight bits cost it: made-up arrays first, then the bundled model's own cache."""

import json
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from helpers import checkpoint, kv_cache, models, plots, workspace
from helpers.errors import WorkshopError
from helpers.kv_cache import E4M3, INT8, Way

RANDOM = np.random.default_rng(5)
EVEN = [RANDOM.normal(size=(200, 2, 16)).astype(np.float32) for _ in range(3)]
VALUES = [RANDOM.normal(size=(200, 2, 16)).astype(np.float32) for _ in range(3)]


def with_outliers(layers, times, channels=(3,)):
    """The same arrays with some channels of each head multiplied."""
    changed = [layer.copy() for layer in layers]
    for layer in changed:
        layer[:, :, list(channels)] *= times
    return changed


@pytest.fixture(scope="module")
def even():
    return kv_cache.measure(EVEN, VALUES, "an even model")


@pytest.fixture(scope="module")
def uneven():
    return kv_cache.measure(with_outliers(EVEN, 32), VALUES, "an uneven model")


def test_int8_is_closer_where_no_channel_stands_out(even):
    assert even.claim_holds_for == []
    assert even.int8_against_e4m3("key") < 0.7
    assert "does not hold for this model's cache, neither for keys nor for values" in even.sentence
    assert "for the keys INT8 is" in even.sentence


def test_e4m3_is_closer_where_one_channel_stands_out(uneven):
    assert uneven.claim_holds_for == ["key"]
    assert "holds for this model's keys, and not for its values" in uneven.sentence
    assert "A scale a channel changes the order of the keys: for the keys INT8 is" in uneven.sentence


def test_the_claim_can_hold_for_the_values_or_for_both():
    outliers = with_outliers(VALUES, 32)
    assert kv_cache.measure(EVEN, outliers).claim_holds_for == ["value"]
    both = kv_cache.measure(with_outliers(EVEN, 32), outliers)
    assert "holds for this model's cache, for keys and for values" in both.sentence


@pytest.mark.parametrize("times", [8, 32])
def test_the_ordinary_channels_pay_for_the_outliers_in_int8_alone(even, times):
    found = kv_cache.measure(with_outliers(EVEN, times), VALUES)
    grown = found.middle("key", INT8) / even.middle("key", INT8)
    # In proportion to the factor until most values are rounded to zero, where all of a value is lost.
    assert 0.55 * times < grown <= 1.2 * times
    assert found.middle("key", E4M3) == pytest.approx(even.middle("key", E4M3), rel=0.05)
    assert found.middle("key", Way("int8", "channel")) == pytest.approx(even.middle("key", Way("int8", "channel")))


def test_the_error_of_the_whole_tensor_hides_what_most_channels_lose(uneven):
    whole = np.median([error.whole for error in uneven.found["key", INT8]])
    assert uneven.middle("key", INT8) > 5 * whole


def test_a_token_of_its_own_scale_is_not_hurt_by_another_token():
    keys = EVEN[0].copy()
    keys[7] *= 100
    others = np.arange(len(keys)) != 7

    def lost(way):
        return np.abs(kv_cache.rounded(keys, way) - keys)[others].max()

    assert lost(Way("int8", "token")) < 0.05 * lost(INT8)


def test_one_factor_for_both_makes_small_values_pay_for_large_keys():
    large = [10 * layer for layer in EVEN]
    found = kv_cache.measure(large, VALUES)
    apart, together = (found.middle("value", Way("int8", scale)) for scale in ("tensor", "engine"))
    assert 7 < together / apart < 13
    assert found.middle("key", Way("int8", "engine")) == found.middle("key", INT8)
    assert "takes the values' error in INT8 from" in found.sentence
    assert "changes nothing to speak of" in kv_cache.measure(EVEN, VALUES).sentence


def test_an_engine_stores_no_fp8_factor_below_one():
    tiny = np.full((4, 1, 2), 0.0005, np.float32)  # less than half of E4M3's smallest number, 2^-9
    assert not kv_cache.rounded(tiny, Way("e4m3", "engine")).any()
    assert kv_cache.rounded(tiny, E4M3) == pytest.approx(tiny)
    large = np.full((4, 1, 2), 896.0, np.float32)  # a factor of 2: nothing saturates
    assert kv_cache.rounded(large, Way("e4m3", "engine")) == pytest.approx(large)


@pytest.mark.parametrize("way", kv_cache.WAYS, ids=lambda way: way.title)
def test_every_way_keeps_shape_and_order(way):
    near = kv_cache.rounded(EVEN[0], way)
    assert near.shape == EVEN[0].shape
    assert near == pytest.approx(EVEN[0], abs=0.3)
    assert near.dtype == np.float32


def test_ranges_name_the_channel_that_stands_out(even, uneven):
    assert uneven.ranges.channels["key"][0].argmax() in (3, 16 + 3)  # position 3 of the first or second KV head
    assert all(20 < spread < 50 for spread in uneven.ranges.spread("key"))
    assert "about as uneven as its values" in even.ranges.sentence
    assert "its keys are more uneven than its values" in uneven.ranges.sentence
    turned = kv_cache.measure(VALUES, with_outliers(EVEN, 32))
    assert "its keys are more even than its values" in turned.ranges.sentence


def test_the_share_of_the_range_that_outliers_take():
    keys = np.ones((1000, 1, 4), np.float32)
    keys[0, 0, 0] = 10
    assert kv_cache.measure([keys], [keys]).ranges.outlier_share["key"][0] == pytest.approx(0.9)


def test_tables_show_every_way_and_the_sentence_in_both_faces(even):
    for face in (str(even), even._repr_html_()):
        assert all(way.title in face for way in kv_cache.WAYS)
        assert "perplexity decides" in face
    assert "widest channel / middle one" in str(even.ranges)
    assert "widest channel / middle one" in even.ranges._repr_html_()


PICTURES = {
    "errors": lambda found: plots.kv_errors(found),
    "errors of the whole": lambda found: plots.kv_errors(found, kv_cache.WAYS, "whole"),
    "ranges": lambda found: plots.kv_ranges(found.ranges),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_say_in_words_what_they_draw(name, even, uneven):
    picture = PICTURES[name](uneven)
    assert picture == PICTURES[name](uneven)  # the same data, the same file
    assert ElementTree.fromstring(picture.svg).tag.endswith("svg")
    assert len(picture.svg) < 200_000
    assert picture.alt.endswith(".")
    assert "an uneven model" in picture.alt + picture.text
    assert PICTURES[name](even).alt != picture.alt


def test_the_picture_of_errors_names_the_worst_way(even, uneven):
    assert "lose most stored in E5M2, one scale a tensor" in plots.kv_errors(even).alt
    assert "lose most stored in INT8, one scale a tensor" in plots.kv_errors(uneven).alt


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda found: kv_cache.measure([], []), "0 layers of keys"),
        (lambda found: kv_cache.measure(EVEN, VALUES[:1]), "3 layers of keys and 1 of values"),
        (lambda found: plots.kv_errors(found, []), "name one or more of kv_cache.WAYS"),
        (lambda found: plots.kv_ranges(found.ranges, 3), "no layer 3 to draw; an even model has layers 0 to 2"),
        (lambda found: kv_cache.capture(models.find(), tokens=1), "1 tokens say nothing"),
        (lambda found: kv_cache.capture(models.find(), workspace.DATA / "none.jsonl"), "There is no file"),
        (lambda found: kv_cache.with_outlier_keys(models.find(), times=12), "only powers of two"),
        (lambda found: kv_cache.with_outlier_keys(models.find(), times=1), "only powers of two"),
        (lambda found: kv_cache.with_outlier_keys(models.find(), channels=3), "even number from 2 to 32"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call, says, even):
    with pytest.raises(WorkshopError, match=says):
        call(even)


def test_a_model_with_biases_is_refused(tmp_path):
    folder = tmp_path / "biased"
    folder.mkdir()
    settings = json.loads((workspace.DATA / "model" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"attention_bias": True}))
    (folder / "model.safetensors").symlink_to(workspace.DATA / "model" / "model.safetensors")
    with pytest.raises(WorkshopError, match="adds biases"):
        kv_cache.with_outlier_keys(models.find(str(folder)))


# From here on the bundled model itself: real runs of torch.

TOKENS = 300
TIMES = 32


@pytest.fixture(scope="module")
def model(shared_home):
    return models.find()


@pytest.fixture(scope="module")
def captured(model):
    return kv_cache.capture(model, tokens=TOKENS)


@pytest.fixture(scope="module")
def outlier_model(model):
    return kv_cache.with_outlier_keys(model, TIMES)


@pytest.fixture(scope="module")
def outlier_cache(outlier_model):
    return kv_cache.capture(outlier_model, tokens=TOKENS)


def outlying(head_size=32):
    """The slowest pair of RoPE: the last channel of each half of a head."""
    return [head_size // 2 - 1, head_size - 1]


def first_layer(model, part, texts):
    """Keys (after RoPE) or values of layer 0 from the model's weights, with NumPy alone: [tokens, kv_heads, size]."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model.path / "tokenizer.json"))
    rows = [tokenizer.encode(text).ids for text in texts]
    ids = np.concatenate(rows)
    position = np.concatenate([np.arange(len(row)) for row in rows])
    name = "model.layers.0.input_layernorm.weight"
    embedding, norm = (model.tensor(n).float().numpy() for n in ("model.embed_tokens.weight", name))
    weight = model.tensor(f"model.layers.0.self_attn.{part[0]}_proj.weight").float().numpy()
    hidden = embedding[ids]
    hidden = hidden / np.sqrt(np.square(hidden).mean(axis=1, keepdims=True) + model.config["rms_norm_eps"]) * norm
    heads = (hidden @ weight.T).reshape(len(ids), model.heads[1], -1)
    if part == "value":
        return heads
    half = heads.shape[-1] // 2
    angle = position[:, None, None] / model.config["rope_theta"] ** (np.arange(half) / half)
    a, b = heads[..., :half], heads[..., half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize("part", kv_cache.PARTS)
def test_a_capture_is_what_the_weights_give(model, captured, part):
    lengths = json.loads((captured.path / "texts.json").read_text())["tokens of each text"]
    assert sum(lengths) == TOKENS
    texts = models.texts(checkpoint.HELD_OUT, len(lengths))
    expected = first_layer(model, part, texts)[:TOKENS]
    found = captured.tensor(0, part)
    assert found.shape == (TOKENS, 4, 32)
    assert found == pytest.approx(expected, rel=2e-3, abs=2e-3)


@pytest.mark.slow
def test_a_capture_is_made_once_and_knows_its_layers(model, captured):
    again = kv_cache.capture(model, tokens=TOKENS, silent=True)
    assert again.reused
    assert again.layers == model.config["num_hidden_layers"]
    assert again.model == "bundled"
    with pytest.raises(WorkshopError, match="from 0 to 5"):
        again.tensor(6, "key")


@pytest.mark.slow
def test_the_outlier_model_is_a_model_like_any_other(model, outlier_model):
    assert outlier_model.digest != model.digest
    assert outlier_model.parameters == model.parameters
    assert models.find(str(outlier_model.path)) == outlier_model
    assert kv_cache.with_outlier_keys(model, TIMES, silent=True) == outlier_model
    told = json.loads((outlier_model.path / "outliers.json").read_text())
    assert told["channels of each head"] == outlying()
    assert told["largest rounding of a row"] < 2**-14


@pytest.mark.slow
def test_the_outlier_model_is_the_same_file_wherever_it_is_made(model, outlier_model, tmp_path):
    """A checkpoint of it that was made elsewhere is taken here only if the model has the same digest."""
    worker = workspace.REPOSITORY / "helpers" / "workers" / "outlier_keys.py"
    command = [sys.executable, str(worker), "--model", str(model.path), "--times", str(TIMES), "--channels", "2"]
    subprocess.run([*command, "--output", str(tmp_path)], check=True, capture_output=True)
    assert models.find(str(tmp_path)).digest == outlier_model.digest


LOGITS = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
row = tokenizer(sys.argv[3], return_tensors="pt")["input_ids"]
with torch.inference_mode():
    a, b = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32)(input_ids=row).logits for f in sys.argv[1:3])
print(json.dumps([float((a - b).abs().max()), float(a.abs().max()), row.shape[1]]))
"""


@pytest.mark.slow
def test_both_models_say_the_same(model, outlier_model):
    text = models.texts(checkpoint.HELD_OUT, 1)[0]
    command = [sys.executable, "-c", LOGITS, str(model.path), str(outlier_model.path), text]
    apart, largest, tokens = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert tokens > 20
    # What FP16 itself can tell apart is 2^-11 of a number; this is ten times less.
    assert apart < 5e-5 * largest


@pytest.mark.slow
def test_only_the_chosen_channels_of_the_keys_are_larger(captured, outlier_cache):
    for layer in range(captured.layers):
        plain, scaled = captured.tensor(layer, "key"), outlier_cache.tensor(layer, "key")
        factor = np.ones(plain.shape[-1], np.float32)
        factor[outlying()] = TIMES
        near = 4e-3 * np.abs(plain).max()
        assert np.abs(scaled / factor - plain).max() < near
        assert np.abs(outlier_cache.tensor(layer, "value") - captured.tensor(layer, "value")).max() < near


@pytest.mark.slow
def test_the_claim_holds_for_the_outlier_model_and_not_for_the_bundled_one(captured, outlier_cache):
    plain, scaled = kv_cache.errors(captured), kv_cache.errors(outlier_cache)
    assert plain.claim_holds_for == []
    assert scaled.claim_holds_for == ["key"]
    grown = scaled.middle("key", INT8) / plain.middle("key", INT8)
    widened = np.median(scaled.ranges.spread("key")) / np.median(plain.ranges.spread("key"))
    assert 0.5 * widened < grown < 2 * widened
    assert scaled.middle("key", E4M3) == pytest.approx(plain.middle("key", E4M3), rel=0.03)


@pytest.mark.slow
def test_a_factor_that_fp16_cannot_hold_is_refused(model):
    with pytest.raises(WorkshopError, match="use a smaller"):
        kv_cache.with_outlier_keys(model, 2**20)


def test_ways_are_told_apart_by_their_titles():
    assert len({way.title for way in kv_cache.WAYS}) == len(kv_cache.WAYS)
    assert replace(E4M3, number_format="int8") == INT8
