"""What several ranks held, exchanged and answered, as tables beside what the model's settings predict (notebook 06)."""

from collections.abc import Sequence
from typing import Any

from helpers.cards import Table, bytes_text
from helpers.errors import WorkshopError
from helpers.tensor_parallel.pieces import BY_COLUMN, BY_ROW, WHOLE, extents
from helpers.tensor_parallel.predict import all_reduce_bytes, all_reduces, rank_bytes
from helpers.tensor_parallel.ranks import TOLERANCE, Split


def cut(whole: Sequence[int], part: Sequence[int]) -> str:
    """How a matrix, [outputs, inputs], became one rank's part of it."""
    if list(whole) == list(part):
        return WHOLE
    if len(whole) == 2 and whole[1] == part[1]:
        return BY_COLUMN
    if len(whole) == 2 and whole[0] == part[0]:
        return BY_ROW
    return "otherwise"


def held(*splits: Split) -> Table:
    """What each rank holds, against the prediction from the model's settings (and whether its last layer was cut).

    Args:
        splits: of one model, over different numbers of ranks.
    """
    rows, exact = [], True
    for split in splits:
        expected = rank_bytes(split.shape, split.tp_size, head=split.head)
        for number, rank in enumerate(split.told["ranks"]):
            exact = exact and rank["bytes"] == expected
            share = f"{rank['bytes'] / split.told['whole']['bytes']:.1%}"
            counted = (f"{rank['parameters']:,}", bytes_text(rank["bytes"]), share)
            rows.append([f"{number} of {split.tp_size}", *counted, bytes_text(expected)])
    agree = "The prediction is exact" if exact else "The prediction is NOT what was counted"
    return Table(
        ["rank", "parameters", "bytes held, FP32", "share of the whole", "predicted"],
        rows,
        caption=f"What each rank of {splits[0].model} holds, counted in its process",
        note=f"{agree}. {_repeated(splits[-1])}",
    )


def _repeated(split: Split) -> str:
    """Why the shares are more than one part of the whole: what every rank keeps whole."""
    if split.tp_size == 1:
        return "One rank holds everything."
    whole = split.told["whole"]["parts"]
    kept = [name for name, shape in whole.items() if len(shape) > 1 and split.parts(name)[0] == shape]
    names = [name.removesuffix(".weight") for name in kept]
    return f"Whole on every rank: {', '.join(names)}{' and ' if names else ''}the norms."


def matrices(split: Split, layer: int = 0) -> Table:
    """Every parameter of one layer and outside the layers: its shape, each rank's, and how it was cut.

    Raises:
        WorkshopError: the model has no such layer.
    """
    if not 0 <= layer < split.shape.layers:
        raise WorkshopError(f"{split.model} has no layer {layer}. Choose one from 0 to {split.shape.layers - 1}.")
    rows = []
    for name, shape in split.told["whole"]["parts"].items():
        if ".layers." not in name or f".layers.{layer}." in name:
            parts = "; ".join(dict.fromkeys(map(extents, split.parts(name))))
            rows.append([name.removesuffix(".weight"), extents(shape), parts, cut(shape, split.parts(name)[0])])
    cuts = _cuts(split, layer)
    alike = all(_cuts(split, other) == cuts for other in range(split.shape.layers))
    counted = f"{cuts.count(BY_COLUMN)} {BY_COLUMN}, {cuts.count(BY_ROW)} {BY_ROW}"
    same = f"All {split.shape.layers} layers are cut alike" if alike else "The layers are NOT all cut alike"
    return Table(
        ["parameter", "whole", "each rank", "how it is cut"],
        rows,
        caption=f"{split.model} over {split.tp_size} ranks: shapes are outputs × inputs",
        note=f"{same}: {counted}.",
    )


def _cuts(split: Split, layer: int) -> list[str]:
    """How the parameters of a layer are cut, in the model's order."""
    whole, mark = split.told["whole"]["parts"], f".layers.{layer}."
    return [cut(shape, split.parts(name)[0]) for name, shape in whole.items() if mark in name]


def exchanges(*splits: Split) -> Table:
    """What the ranks told each other while they read a text and for one token after it, against the prediction."""
    steps = [_exchanged(split, step) for split in splits for step in ("text", "token")]
    exact = "is exact" if all(agrees for _, agrees in steps) else "is NOT what was counted"
    return Table(
        ["ranks", "step", "all-reduces", "a layer", "bytes a rank hands over", "predicted", "other exchanges"],
        [row for row, _ in steps],
        caption=f"Exchanges between the ranks of {splits[0].model}, counted",
        note=f"The prediction, two all-reduces a layer of tokens × hidden size × 4 bytes each, {exact}.",
    )


def _exchanged(split: Split, step: str) -> tuple[list[Any], bool]:
    """One row of :func:`exchanges`, and whether it is what was predicted."""
    seen = split.told["exchanges"][step]
    sums = [one for one in seen if one["kind"] == "all-reduce"]
    count, handed = sum(one["count"] for one in sums), sum(one["count"] * one["bytes"] for one in sums)
    tokens = split.told["tokens"] if step == "text" else 1
    wanted = (0, 0)
    if split.tp_size > 1:
        size = split.told["bytes_per_number"]
        wanted = (all_reduces(split.shape), all_reduce_bytes(split.shape, tokens, size))
    others = ", ".join(f"{one['count']} {one['kind']} of {one['bytes']:,}" for one in seen if one not in sums)
    read = f"{tokens} tokens together" if step == "text" else "one token"
    counted = (count, f"{count / split.shape.layers:g}", f"{handed:,}", f"{wanted[1]:,}", others or "none")
    return [split.tp_size, read, *counted], (count, handed) == wanted


def agreement(*splits: Split) -> Table:
    """How far the ranks' answers lie from the whole model's, in logits and in text."""
    far = [str(split.tp_size) for split in splits if split.difference > TOLERANCE]
    within = f"NOT within {TOLERANCE:g}: {' and '.join(far)} ranks" if far else f"All within {TOLERANCE:g}"
    return Table(
        ["ranks", "on", "largest difference", "logits vary by", "written together", "the whole writes"],
        [_agreed(split) for split in splits],
        caption=f"Several ranks of {splits[0].model} against the whole model, in FP32: logits and a greedy text",
        note=f"{within}. Partial sums are added up in another order, which changes the last digits of FP32.",
    )


def _agreed(split: Split) -> list[Any]:
    """One row of :func:`agreement`; logits vary by their standard deviation."""
    text, ids = split.told["text"], split.told["written"]
    same = "the same" if ids["together"] == ids["alone"] else f"another: {text['alone'].strip()}"
    numbers = (f"{split.difference:.1e}", f"{split.told['deviation']:.2f}")
    return [split.tp_size, split.where, *numbers, text["together"].strip() or "(no tokenizer)", same]
