"""Checkpoints for several ranks, as ModelOpt really writes them, put together again."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from helpers import checkpoint, memory, models
from helpers.checkpoint import Checkpoint
from helpers.errors import WorkshopError
from helpers.tensor_parallel import pieces
from helpers.workspace import Manifest

WORKERS = Path(checkpoint.__file__).with_name("workers")
FP16, FP8, INT8 = ("fp16", ""), ("fp8", "fp8"), ("int8_sq", "")
QKV = "transformer.layers.0.attention.qkv.weight"

# What the worker does, without its measurements, which take a minute: one process writes for every number of ranks.
MAKE = """
import copy, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import modelopt_checkpoint as worker, torch
from modelopt.torch.export import export_tensorrt_llm_checkpoint
from transformers import AutoTokenizer
torch.set_num_threads(1)  # several threads that wait for a busy core take ten times as long for so little
folder = Path(sys.argv[2])
texts = worker.read_texts(Path(sys.argv[3]))[:1]
rows = worker.packed(AutoTokenizer.from_pretrained(folder), texts, 64)
for precision, kv in (("fp16", ""), ("fp8", "fp8"), ("int8_sq", "")):
    model = worker.load(folder)
    if precision != "fp16":
        model = worker.quantize(model, precision, kv or None, rows)
    for ranks in (1, 2, 4) if precision == "fp16" else (1, 2):
        place = Path(sys.argv[4], f"{precision}-{ranks}")
        with torch.inference_mode():
            export_tensorrt_llm_checkpoint(
                copy.deepcopy(model), "llama", torch.float16, place, inference_tensor_parallel=ranks
            )
"""


@pytest.fixture(scope="module")
def model():
    return models.find()


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """Checkpoints of the bundled model by (weights, KV cache) and number of ranks."""
    place = tmp_path_factory.mktemp("checkpoints")
    command = [sys.executable, "-c", MAKE, str(WORKERS), str(model.path), str(checkpoint.CALIBRATION), str(place)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return {
        (precisions, ranks): opened(place / f"{precisions[0]}-{ranks}", precisions, ranks, model.digest)
        for precisions, ranks in [(FP16, 4), *((kind, n) for kind in (FP16, FP8, INT8) for n in (1, 2))]
    }


def opened(folder, precisions, ranks, digest):
    """A checkpoint with the part of a manifest that the comparison reads."""
    options = {"precision": precisions[0], "kv": precisions[1], "tp_size": ranks, "calibration_texts": 1}
    return Checkpoint(folder, Manifest("checkpoint", "a checkpoint", options, {"model": digest}))


@pytest.mark.parametrize(("precisions", "ranks"), [(FP16, 2), (FP16, 4), (FP8, 2), (INT8, 2)])
def test_every_tensor_of_every_layer_is_the_whole_again(made, precisions, ranks):
    whole = made[precisions, 1]
    found = pieces.pieces(whole, made[precisions, ranks])
    assert [piece.name for piece in found.all] == [name for name, *_ in checkpoint.tensors(whole)]
    assert found.wrong == ()
    counted = f"All {len(found.all)} tensors of all 6 layers and outside them were compared: each is the whole again"
    assert counted in str(found)
    assert "Laid end to end as they are, none of the 6 would be the whole." in found._repr_html_()


def test_each_tensor_is_cut_as_its_place_in_the_layer_asks(made):
    cut = {p.name.split(".layers.2.")[-1]: p.cut for p in pieces.pieces(made[FP16, 1], made[FP16, 4], layer=2).shown}
    assert cut == {
        "transformer.vocab_embedding.weight": "by vocabulary",
        "attention.qkv.weight": "by column, in heads",
        "attention.dense.weight": "by row (inputs)",
        "mlp.fc.weight": "by column (outputs)",
        "mlp.gate.weight": "by column (outputs)",
        "mlp.proj.weight": "by row (inputs)",
        "input_layernorm.weight": "whole on every rank",
        "post_layernorm.weight": "whole on every rank",
        "transformer.ln_f.weight": "whole on every rank",
        "lm_head.weight": "by vocabulary",
    }


def test_scaling_factors_go_with_what_they_scale(made):
    fp8 = {p.name: p for p in pieces.pieces(made[FP8, 1], made[FP8, 2]).all}
    assert {p.cut for name, p in fp8.items() if "scaling_factor" in name} == {"whole on every rank"}
    int8 = {p.name.split(".layers.0.")[-1]: p.cut for p in pieces.pieces(made[INT8, 1], made[INT8, 2]).shown}
    assert int8["attention.qkv.weights_scaling_factor"] == "by column, in heads"
    assert int8["mlp.proj.weights_scaling_factor"] == "whole on every rank"  # one an output, and it has all outputs
    assert int8["mlp.proj.prequant_scaling_factor"] == "by row (inputs)"


def test_only_one_layer_is_shown(made):
    text = str(pieces.pieces(made[FP16, 1], made[FP16, 2], layer=5))
    assert "layer 5 and what is outside the layers" in text
    assert text.count("mlp.fc.weight") == 1
    assert "512 × 256   256 × 256  by column, in heads  equal" in text


def test_one_tensor_put_together_is_the_models_own(made, model):
    whole, split = made[FP16, 1], made[FP16, 4]
    joined = pieces.together(whole, split, QKV)
    parts = [f"model.layers.0.self_attn.{kind}_proj.weight" for kind in "qkv"]
    own = np.concatenate([model.tensor(name).float().numpy() for name in parts])
    assert joined.dtype == np.float32
    assert np.array_equal(joined, own)
    end_to_end = np.concatenate([pieces.tensor(split, QKV, rank) for rank in range(4)])
    assert end_to_end.shape == own.shape
    assert not np.array_equal(end_to_end, own)
    norm = "transformer.ln_f.weight"
    assert np.array_equal(pieces.together(whole, split, norm), pieces.tensor(split, norm, 3))
    assert np.array_equal(pieces.together(made[FP8, 1], made[FP8, 2], QKV), pieces.tensor(made[FP8, 1], QKV))


@pytest.fixture
def changed(made, tmp_path):
    """A copy of the checkpoint for two ranks, in which one rank's tensor is changed by a function."""

    def change(precisions, rank, name, by):
        place = shutil.copytree(made[precisions, 2].path, tmp_path / "changed")
        tensors = load_file(place / f"rank{rank}.safetensors")
        tensors[name] = by(tensors[name])
        save_file(tensors, place / f"rank{rank}.safetensors")
        return replace(made[precisions, 2], path=place)

    return change


def test_a_change_in_a_layer_that_is_not_shown_is_found(made, changed):
    name = "transformer.layers.4.mlp.proj.weight"
    found = pieces.pieces(made[FP16, 1], changed(FP16, 1, name, lambda weight: weight + 0.5))
    assert [piece.name for piece in found.wrong] == [name]
    assert f"44 are the whole again, 1 is NOT: {name} (by up to 0.5" in str(found)


def test_ranks_that_swapped_their_heads_are_found(made, changed):
    found = pieces.pieces(made[FP16, 1], changed(FP16, 0, QKV, lambda weight: weight.flip(0)))
    assert [piece.name for piece in found.wrong] == [QKV]
    assert "NOT equal, by up to" in str(found)


def test_one_bit_of_a_scaling_factor_is_found_and_told_as_the_ranks_own(made, changed):
    name = "transformer.layers.0.mlp.fc.weights_scaling_factor"
    found = pieces.pieces(made[FP8, 1], changed(FP8, 1, name, lambda factor: factor * 1.0001))
    assert [(piece.name, piece.cut) for piece in found.wrong] == [(name, "each rank has its own")]
    assert "Of what is not cut, 1 differs from rank to rank." in str(found)


def test_a_piece_of_another_shape_is_told(made, changed):
    name = "transformer.layers.0.mlp.fc.weight"
    found = pieces.pieces(made[FP16, 1], changed(FP16, 1, name, lambda weight: weight[:-1].contiguous()))
    assert "384 × 256; 383 × 256" in str(found)
    assert "NOT equal, the shapes do not fit" in str(found)


def test_a_vocabulary_filled_up_for_the_ranks_is_still_the_whole(made, tmp_path):
    """2,047 tokens over two ranks: the last rank's piece has a row more than there are tokens."""
    folder = shutil.copytree(made[FP16, 1].path, tmp_path / "odd")
    tensors = load_file(folder / "rank0.safetensors")
    for name in ("lm_head.weight", "transformer.vocab_embedding.weight"):
        tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, folder / "rank0.safetensors")
    found = pieces.pieces(replace(made[FP16, 1], path=folder), made[FP16, 2])
    assert found.wrong == ()


@pytest.mark.parametrize(("precisions", "ranks"), [(FP16, 2), (FP16, 4), (FP8, 2)])
def test_the_files_are_as_large_as_the_planner_says(made, precisions, ranks):
    whole, split = made[precisions, 1], made[precisions, ranks]
    table = pieces.sizes(whole, split)
    planned = memory.weight_bytes(memory.Shape.of(models.find().config), precisions[0], ranks)
    for row, file in zip(table.rows[1:-1], split.ranks, strict=True):
        size, header, tensors, predicted, apart = (int(str(cell).replace(",", "")) for cell in row[1:])
        assert size == file.stat().st_size == header + tensors
        assert predicted == planned
        assert apart == tensors - predicted
        assert 0 <= apart <= 78 * 4  # FP8's factors, of which the planner knows nothing
    assert table.rows[-1][1] == f"{split.weight_bytes:,}"


def test_why_the_files_together_are_larger_is_accounted_for(made):
    note = pieces.sizes(made[FP16, 1], made[FP16, 4]).note
    assert f"the norms on every rank, {3 * 13 * 256 * 2:,} more" in note  # 13 norms of 256 numbers, three more copies
    assert "a header in every file" in note
    assert "come from neither" not in note
    assert "scaling factors on every rank" in pieces.sizes(made[FP8, 1], made[FP8, 2]).note


def test_what_does_not_belong_together_is_refused_in_one_sentence(made):
    whole, split = made[FP16, 1], made[FP16, 2]
    stranger = replace(split, manifest=replace(split.manifest, inputs={"model": "another"}))
    recalibrated = replace(split, manifest=replace(split.manifest, options={**split.manifest.options, **CALIBRATED}))
    converted = [
        replace(c, manifest=replace(c.manifest, options={**c.manifest.options, **OWN})) for c in (whole, split)
    ]
    for arguments, told in (
        ((split, split), "for 2 ranks. Give one for a single rank first"),
        ((whole, whole), "nothing is cut. Give one made with tp_size=2"),
        ((whole, stranger), "of different models"),
        ((whole, made[FP8, 2]), "of different precisions: FP16 weights, 16-bit KV cache, and FP8"),
        ((whole, recalibrated), "calibrated on 1 and 128 texts"),
        (converted, "'fp16', 'fp8', 'int8_sq', 'int4_awq'"),
    ):
        for function in (pieces.pieces, pieces.sizes):
            with pytest.raises(WorkshopError, match=told):
                function(*arguments)


CALIBRATED, OWN = {"calibration_texts": 128}, {"precision": "int8_wo"}


@pytest.mark.parametrize("layer", [6, -1, "0", 1.5, True])
def test_a_layer_that_is_not_there_is_refused(made, layer):
    with pytest.raises(WorkshopError, match="Choose one from 0 to 5"):
        pieces.pieces(made[FP16, 1], made[FP16, 2], layer)


def test_a_rank_or_tensor_that_is_not_there_is_refused(made, tmp_path):
    whole, split = made[FP16, 1], made[FP16, 2]
    with pytest.raises(WorkshopError, match="ranks 0 to 1"):
        pieces.tensor(split, QKV, 2)
    with pytest.raises(WorkshopError, match=r"no tensor 'qkv'\. checkpoint\.inside\(\) shows the names"):
        pieces.together(whole, split, "qkv")
    place = shutil.copytree(split.path, tmp_path / "cut")
    tensors = load_file(place / "rank1.safetensors")
    del tensors[QKV]
    save_file(tensors, place / "rank1.safetensors")
    with pytest.raises(WorkshopError, match=rf"rank1\.safetensors lacks '{QKV}'"):
        pieces.pieces(whole, replace(split, path=place))


def test_the_settings_say_as_many_ranks_as_there_are_files(made):
    for (_, ranks), one in made.items():
        assert json.loads((one.path / "config.json").read_text())["mapping"]["tp_size"] == len(one.ranks) == ranks
