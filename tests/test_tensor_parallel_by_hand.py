"""Attention and MLP by hand: the same as transformers' own modules, and the same in pieces."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from helpers import models
from helpers.checkpoint import HELD_OUT
from helpers.errors import WorkshopError
from helpers.tensor_parallel import by_hand

TOKENS = 24


@pytest.fixture(scope="module")
def model():
    return models.find()


@pytest.fixture(scope="module")
def weights(model):
    return by_hand.layer_weights(model, 2)


@pytest.fixture(scope="module")
def x(model):
    return by_hand.real_input(model, TOKENS)


@pytest.fixture(scope="module")
def theirs(model):
    """The model as transformers runs it, in FP32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32, attn_implementation="eager").eval()


def attend(weights, x, parts=None):
    """Attention of a whole layer, or of a rank's share of it."""
    query, key, value, dense = parts or (weights.query, weights.key, weights.value, weights.dense)
    return by_hand.attention(x, query, key, value, dense, weights.head_size, weights.theta)


def shares_of_attention(weights, x, ranks):
    cut = [by_hand.columns(matrix, ranks) for matrix in (weights.query, weights.key, weights.value)]
    return [attend(weights, x, parts) for parts in zip(*cut, by_hand.rows(weights.dense, ranks), strict=True)]


def shares_of_mlp(weights, x, ranks):
    cut = by_hand.columns(weights.gate, ranks), by_hand.columns(weights.up, ranks), by_hand.rows(weights.down, ranks)
    return [by_hand.mlp(x, *parts) for parts in zip(*cut, strict=True)]


def test_real_input_is_what_transformers_gives_the_first_layer(model, theirs, x):
    import torch
    from transformers import AutoTokenizer

    text = models.texts(HELD_OUT, 1)[0]
    ids = AutoTokenizer.from_pretrained(model.path)(text)["input_ids"][:TOKENS]
    with torch.inference_mode():
        wanted = theirs.model.layers[0].input_layernorm(theirs.model.embed_tokens(torch.tensor(ids))).numpy()
    assert x.shape == (TOKENS, 256)
    assert x.dtype == np.float32
    assert by_hand.difference(x, wanted) < 1e-5


def test_more_tokens_than_the_first_text_has_are_taken_from_the_next(model):
    from transformers import AutoTokenizer

    first = len(AutoTokenizer.from_pretrained(model.path)(models.texts(HELD_OUT, 1)[0])["input_ids"])
    assert by_hand.real_input(model, first + 5).shape == (first + 5, 256)


def test_the_mlp_is_transformers_own(theirs, weights, x):
    import torch

    with torch.inference_mode():
        wanted = theirs.model.layers[2].mlp(torch.from_numpy(x)).numpy()
    assert by_hand.difference(by_hand.mlp(x, weights.gate, weights.up, weights.down), wanted) < 1e-5


def test_attention_is_transformers_own(theirs, weights, x):
    import torch

    given = torch.from_numpy(x)[None]
    future = torch.full((TOKENS, TOKENS), -torch.inf).triu(1)[None, None]
    with torch.inference_mode():
        turned = theirs.model.rotary_emb(given, torch.arange(TOKENS)[None])
        wanted = theirs.model.layers[2].self_attn(given, turned, future)[0][0].numpy()
    made = attend(weights, x)
    assert made.dtype == np.float32
    assert by_hand.difference(made, wanted) < 1e-5


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_shares_of_all_ranks_add_up_to_the_layer(weights, x, ranks, dtype):
    x = x.astype(dtype)
    for whole, shares in (
        (attend(weights, x), shares_of_attention(weights, x, ranks)),
        (by_hand.mlp(x, weights.gate, weights.up, weights.down), shares_of_mlp(weights, x, ranks)),
    ):
        assert len(shares) == ranks
        assert whole.dtype == shares[0].dtype == dtype
        assert all(share.shape == whole.shape for share in shares)
        assert by_hand.difference(whole, sum(shares)) < 1e-5 * np.abs(whole).max()
        assert by_hand.difference(whole, shares[0]) > 0.1 * np.abs(whole).max()  # one alone is not the layer


def test_gate_and_up_split_by_row_do_not_add_up(weights, x):
    whole = by_hand.mlp(x, weights.gate, weights.up, weights.down)
    cut = (by_hand.rows(matrix, 2) for matrix in (x, weights.gate, weights.up))
    wrong = sum(by_hand.silu(x @ gate.T) * (x @ up.T) for x, gate, up in zip(*cut, strict=True)) @ weights.down.T
    table = by_hand.compare(whole, {"by column": sum(shares_of_mlp(weights, x, 2)), "by row": wrong})
    assert [row[-1] for row in table.rows] == ["yes", "NO"]
    assert table.note == "The same but for the order in which FP32 adds: by column. NOT the same: by row."
    assert "by row" in table._repr_html_()


def test_attention_looks_back_only(weights, x):
    whole = attend(weights, x)
    assert by_hand.difference(attend(weights, x[:7]), whole[:7]) < 1e-5


def test_silu_of_large_numbers_does_not_overflow():
    with warnings.catch_warnings(action="error"):
        made = by_hand.silu(np.array([-500, 0, 500], np.float32))
    assert made.tolist() == [0, 0, 500]


def test_columns_are_outputs_and_rows_are_inputs():
    matrix = np.arange(12).reshape(4, 3)
    assert [part.tolist() for part in by_hand.columns(matrix, 2)] == [matrix[:2].tolist(), matrix[2:].tolist()]
    assert [part.tolist() for part in by_hand.rows(matrix, 3)] == [[[n], [n + 3], [n + 6], [n + 9]] for n in range(3)]


@pytest.mark.parametrize(
    ("cut", "told"),
    [
        (lambda w: by_hand.columns(w.gate, 5), "768 outputs cannot be shared out over 5 ranks.*one of 1, 2, 3, 4, 6"),
        (lambda w: by_hand.rows(w.down, 7), "768 inputs cannot be shared out over 7 ranks"),
        (lambda w: by_hand.rows(w.down, 0), "ranks is 0. Give a whole number"),
        (lambda w: by_hand.rows(w.down, 2.5), "ranks is 2.5. Give a whole number"),
    ],
)
def test_what_does_not_divide_is_refused_with_what_would(weights, cut, told):
    with pytest.raises(WorkshopError, match=told):
        cut(weights)


def test_pieces_that_do_not_belong_together_are_refused(weights, x):
    w = weights
    with pytest.raises(WorkshopError, match="16 rows are no whole heads of 32"):
        shares_of_attention(w, x, 8)
    with pytest.raises(WorkshopError, match=r"do not belong together\. Cut query, key and value with columns"):
        attend(w, x, (*(by_hand.columns(m, 2)[0] for m in (w.query, w.key, w.value)), w.dense))
    with pytest.raises(WorkshopError, match=r"Cut gate and up with columns\(\), down with rows"):
        by_hand.mlp(x, by_hand.columns(w.gate, 2)[0], by_hand.columns(w.up, 2)[0], w.down)
    with pytest.raises(WorkshopError, match="its inputs must be the 256 numbers of a vector of x"):
        by_hand.mlp(x, by_hand.rows(w.gate, 2)[0], w.up, w.down)
    with pytest.raises(WorkshopError, match="The shapes differ"):
        by_hand.difference(x, x[:2])
    with pytest.raises(WorkshopError, match="Nothing to compare"):
        by_hand.compare(x, {})


@pytest.mark.parametrize("layer", [6, -1, "0", True])
def test_a_layer_that_is_not_there_is_refused(model, layer):
    for function in (by_hand.layer_weights, lambda model, layer: by_hand.real_input(model, 4, layer)):
        with pytest.raises(WorkshopError, match=r"has no layer .* from 0 to 5"):
            function(model, layer)


def test_more_tokens_than_there_are_is_refused(model):
    with pytest.raises(WorkshopError, match=r"The held-out text has [\d,]+ tokens\. Choose at most so many"):
        by_hand.real_input(model, 10**6)


def test_weights_in_several_files_are_found(model, weights, tmp_path):
    """The bundled model in two files, as large models are published."""
    for file in model.path.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(model.path / "model.safetensors")
    for number in range(2):
        part = {name: tensor for i, (name, tensor) in enumerate(tensors.items()) if i % 2 == number}
        save_file(part, tmp_path / f"model-0000{number + 1}-of-00002.safetensors")
    found = by_hand.layer_weights(models.find(str(tmp_path)), 2)
    assert np.array_equal(found.query, weights.query)
    assert np.array_equal(found.down, weights.down)


def test_importing_it_is_light():
    code = (
        "import sys; from helpers.tensor_parallel import by_hand, pieces; print({'numpy', 'torch'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
