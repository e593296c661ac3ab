"""What became of a TensorRT-LLM checkpoint's tensors when it was made for several ranks (notebook 06).

Each rank has a safetensors file of its own, with its piece of what is cut and a copy of what is not. Which of the two a
tensor is follows from the shapes; whether the pieces are the whole is then compared byte for byte.

One matrix is a trap. TensorRT-LLM keeps queries, keys and values in one, ``qkv``, and a rank's piece has its own heads
of Q, then of K, then of V. Laid end to end the pieces are Q K V Q K V, which is not the whole, although the shape fits.
Each piece has to be cut into its three parts first, and those are joined.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from helpers import checkpoint, memory
from helpers.cards import ShownAsTable, Table, bytes_text
from helpers.checkpoint import QUANTIZERS, Checkpoint
from helpers.errors import WorkshopError
from helpers.memory import Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

BY_COLUMN = "by column (outputs)"
BY_ROW = "by row (inputs)"
BY_VOCABULARY = "by vocabulary"
BY_WIDTH = "by width"
IN_HEADS = "by column, in heads"
WHOLE = "whole on every rank"
OWN = "each rank has its own"

_QKV = ".attention.qkv."
_OF_VOCABULARY = ("vocab_embedding", "lm_head")


@dataclass(frozen=True)
class Piece:
    """One tensor of a whole checkpoint, and what the ranks have of it.

    Attributes:
        name: of the tensor.
        shape: of the whole.
        parts: the shape of each rank's piece.
        cut: how; one of this module's constants.
        equal: True if the joined pieces are the whole, byte for byte.
        difference: the largest between the two, in stored numbers (of FP8, in its codes); infinite if the shapes do not
            fit.
        end_to_end: True if the pieces, simply laid end to end, are the whole.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[tuple[int, ...], ...]
    cut: str
    equal: bool
    difference: float
    end_to_end: bool

    @property
    def verdict(self) -> str:
        """The comparison in words."""
        return "equal" if self.equal else f"NOT equal, {self.how_far}"

    @property
    def how_far(self) -> str:
        """The largest difference in words."""
        return "the shapes do not fit" if math.isinf(self.difference) else f"by up to {self.difference:.3g}"


@dataclass(frozen=True, repr=False)
class Pieces(ShownAsTable):
    """Every tensor of a checkpoint and its pieces; the table shows one layer, the note counts them all.

    Attributes:
        title: model's precision and number of ranks.
        shape: of the model.
        ranks: number of them.
        layer: the one that is shown.
        all: of every layer and outside them.
    """

    title: str
    shape: Shape
    ranks: int
    layer: int
    all: tuple[Piece, ...]

    @cached_property
    def shown(self) -> tuple[Piece, ...]:
        """Those outside the layers and those of one layer."""
        mark = f".layers.{self.layer}."
        return tuple(piece for piece in self.all if ".layers." not in piece.name or mark in piece.name)

    @cached_property
    def wrong(self) -> tuple[Piece, ...]:
        """Those whose pieces are not the whole."""
        return tuple(piece for piece in self.all if not piece.equal)

    def table(self) -> Table:
        """One row a tensor: its shape, each rank's, how it was cut, and whether it can be put together."""
        rows = [
            [
                piece.name.removeprefix(f"transformer.layers.{self.layer}.").removeprefix("transformer."),
                extents(piece.shape),
                "; ".join(dict.fromkeys(map(extents, piece.parts))),
                piece.cut,
                piece.verdict,
            ]
            for piece in self.shown
        ]
        columns = ("tensor", "the whole", "each rank", "how it is cut", "put together")
        caption = f"{self.title}: layer {self.layer} and what is outside the layers; outputs × inputs"
        return Table(columns, rows, caption, " ".join(self._sentences()))

    def _sentences(self) -> Iterator[str]:
        """What was compared and found."""
        compared = f"All {len(self.all)} tensors of all {self.shape.layers} layers and outside them were compared"
        if not self.wrong:
            yield f"{compared}: each is the whole again, byte for byte."
        else:
            worst = sorted(self.wrong, key=lambda piece: -piece.difference)[:3]
            named = ", ".join(f"{piece.name} ({piece.how_far})" for piece in worst)
            same, other = len(self.all) - len(self.wrong), len(self.wrong)
            yield f"{compared}: {same} are the whole again, {other} {'is' if other == 1 else 'are'} NOT: {named}."
        heads = [piece for piece in self.all if piece.cut == IN_HEADS and piece.name.endswith(".weight")]
        if heads:
            naive = sum(piece.end_to_end for piece in heads)
            yield (
                "A rank's piece of qkv has its heads of Q, then of K, then of V: each is cut into these three before "
                f"they are joined. Laid end to end as they are, {naive or 'none'} of the {len(heads)} would be the "
                "whole."
            )
        own = sum(piece.cut == OWN for piece in self.all)
        if own:
            yield f"Of what is not cut, {own} differ{'s' if own == 1 else ''} from rank to rank."


def pieces(whole: Checkpoint, split: Checkpoint, layer: int = 0) -> Pieces:
    """Compare every tensor of a checkpoint for several ranks with that of a checkpoint for one.

    The pieces of ``qkv`` are cut into the heads of Q, K and V before they are joined: see this module.

    Args:
        whole: a checkpoint for one rank.
        split: one of the same model in the same precisions, for several.
        layer: the one to show.

    Raises:
        WorkshopError: the checkpoints do not belong together, are in INT8 weight-only, have other tensors than each
            other, or there is no such layer.
    """
    _require_pair(whole, split)
    shape = Shape.of(_config(whole))
    if isinstance(layer, bool) or layer not in range(shape.layers):
        raise WorkshopError(f"There is no layer {layer!r}. Choose one from 0 to {shape.layers - 1}.")
    names = [name for name, *_ in checkpoint.tensors(whole)]
    for rank in range(split.tp_size):
        _require_names(names, [name for name, *_ in checkpoint.tensors(split, rank)], split.ranks[rank].name)
    with ExitStack() as opened:
        first = _open(opened, whole)[0]
        others = _open(opened, split)
        found = tuple(_piece(name, _stored(first, name), [_stored(o, name) for o in others], shape) for name in names)
    title = f"{whole.full_title}, for {split.tp_size} ranks"
    return Pieces(title, shape, split.tp_size, layer, found)


def together(whole: Checkpoint, split: Checkpoint, name: str) -> "Values":
    """The pieces of one tensor, joined; float32, of the whole's shape.

    Of what is not cut, rank 0's copy. INT4 AWQ keeps two weights in a byte, which are left as stored.

    Args:
        whole, split: see :func:`pieces`.
        name: of the tensor, such as ``transformer.layers.0.attention.qkv.weight``.

    Raises:
        WorkshopError: the checkpoints do not belong together, or one has no such tensor.
    """
    _require_pair(whole, split)
    parts = [tensor(split, name, rank) for rank in range(split.tp_size)]
    return _joined(name, tensor(whole, name).shape, parts, Shape.of(_config(whole)))


def tensor(one: Checkpoint, name: str, rank: int = 0) -> "Values":
    """One tensor of a rank's file as float32; FP16 and FP8 are exact in it, and scaling factors are not applied.

    Raises:
        WorkshopError: there is no such rank or tensor.
    """
    import numpy as np

    if rank not in range(len(one.ranks)):
        raise WorkshopError(f"There is no rank {rank!r}. This checkpoint is for ranks 0 to {len(one.ranks) - 1}.")
    with ExitStack() as opened:
        file = _open(opened, one)[rank]
        if name not in file.keys():  # noqa: SIM118 - a safetensors handle is not a dict
            raise WorkshopError(
                f"{one.ranks[rank].name} has no tensor {name!r}. checkpoint.inside() shows the names of a layer; they "
                "begin with 'transformer.layers.0.'."
            )
        values: Values = np.asarray(file.get_tensor(name).float().numpy())
        return values


# --- Joining and comparing -----------------------------------------------------------


def _piece(name: str, whole: Any, parts: Sequence[Any], shape: Shape) -> Piece:
    """One tensor compared; the arrays hold stored numbers."""
    import numpy as np

    axis, shapes = _axis(whole.shape, parts[0].shape), tuple(part.shape for part in parts)
    cut, end_to_end = _cut(name, axis), False
    if len(set(shapes)) > 1:
        return Piece(name, whole.shape, shapes, OWN, False, math.inf, False)
    if axis is None:
        compared = [_compare(part, whole) for part in parts]
        equal, difference = all(same for same, _ in compared), max(far for _, far in compared)
        cut = cut if all(_compare(part, parts[0])[0] for part in parts) else OWN
    else:
        equal, difference = _compare(_joined(name, whole.shape, parts, shape), whole)
        end_to_end, _ = _compare(np.concatenate(parts, axis), whole)
    return Piece(name, whole.shape, shapes, cut, equal, difference, end_to_end)


def _axis(whole: Sequence[int], part: Sequence[int]) -> int | None:
    """The axis along which a tensor was cut; None if it was not."""
    return next((axis for axis, (every, some) in enumerate(zip(whole, part, strict=False)) if every != some), None)


def _cut(name: str, axis: int | None) -> str:
    """How a tensor was cut, from its name and the axis: weights are kept as outputs × inputs."""
    if axis is None:
        return WHOLE
    if any(f"{matrix}." in name for matrix in _OF_VOCABULARY):
        return BY_WIDTH if axis else BY_VOCABULARY
    # What the inputs are multiplied by first has one factor for each of them.
    if axis == 1 or name.endswith("prequant_scaling_factor"):
        return BY_ROW
    return IN_HEADS if _QKV in name else BY_COLUMN


def _joined(name: str, whole: Sequence[int], parts: Sequence[Any], shape: Shape) -> Any:
    """The pieces of one tensor put together; those of qkv by heads, and without the rows that fill a vocabulary up."""
    import numpy as np

    axis = _axis(whole, parts[0].shape)
    if axis is None:
        return parts[0]
    cut = _cut(name, axis)
    if cut != IN_HEADS:
        joined = np.concatenate(parts, axis)
        return joined[: whole[0]] if cut == BY_VOCABULARY else joined
    thirds = [np.split(part, _ends(part.shape[0], shape)) for part in parts]
    return np.concatenate([part for kind in zip(*thirds, strict=True) for part in kind])


def _ends(extent: int, shape: Shape) -> list[int]:
    """Where the queries end and where the keys do, among the outputs of qkv or of a rank's piece of it."""
    all_heads = shape.heads + 2 * shape.kv_heads  # INT4 keeps two rows in one, so a head may be half as long
    return [extent * shape.heads // all_heads, extent * (shape.heads + shape.kv_heads) // all_heads]


def _compare(one: Any, other: Any) -> tuple[bool, float]:
    """Whether stored numbers have the same bytes, and their largest difference; infinite if the shapes differ."""
    import numpy as np

    if one.shape != other.shape or one.dtype != other.dtype:
        return False, math.inf
    return one.tobytes() == other.tobytes(), float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())


def _open(opened: ExitStack, one: Checkpoint) -> list[Any]:
    """The files of all ranks. By torch, since NumPy has no FP8."""
    from safetensors import safe_open

    return [opened.enter_context(safe_open(file, framework="pt")) for file in one.ranks]


def _stored(file: Any, name: str) -> Any:
    """One tensor as NumPy array, FP8 and BF16 as the integers of their bits."""
    import torch

    found = file.get_tensor(name)
    bits = {torch.float8_e4m3fn: torch.uint8, torch.bfloat16: torch.int16}.get(found.dtype)
    return (found.view(bits) if bits else found).numpy()


# --- Bytes ---------------------------------------------------------------------------


def sizes(whole: Checkpoint, split: Checkpoint) -> Table:
    """Bytes of each rank's file beside the planner's, their sum against the whole file, and what is in it twice.

    Raises:
        WorkshopError: the checkpoints do not belong together.
    """
    _require_pair(whole, split)
    shape = Shape.of(_config(whole))
    files = {"the whole": _amounts(whole, 0, shape)}
    files |= {split.ranks[rank].stem: _amounts(split, rank, shape) for rank in range(split.tp_size)}
    files["all ranks together"] = [sum(amounts) for amounts in zip(*list(files.values())[1:], strict=True)]
    rows = [
        [name, *(f"{amount:,}" for amount in amounts), f"{amounts[2] - amounts[3]:+,}"]
        for name, amounts in files.items()
    ]
    columns = ("file", "bytes", "its header", "its tensors", "predicted: tensors", "measured − predicted")
    caption = f"{whole.full_title}: measured on disk, for one rank and for {split.tp_size}"
    return Table(columns, rows, caption, _why(whole, split))


def _amounts(one: Checkpoint, rank: int, shape: Shape) -> list[int]:
    """Bytes of a rank's file, of its header, of its tensors, and of these by the planner."""
    file, held = one.ranks[rank].stat().st_size, _held(one, rank)
    return [file, file - held, held, memory.weight_bytes(shape, one.precision, one.tp_size)]


def _held(one: Checkpoint, rank: int) -> int:
    """Bytes of the tensors in one rank's file."""
    return sum(size for *_, size in checkpoint.tensors(one, rank))


def _why(whole: Checkpoint, split: Checkpoint) -> str:
    """Why the ranks' files together are larger than the whole one, with every byte accounted for or named."""
    more = split.weight_bytes - whole.weight_bytes
    again = _repeated(whole, split)
    headers = more - sum(_held(split, rank) for rank in range(split.tp_size)) + _held(whole, 0)
    rest = more - sum(again.values()) - headers
    parts = [f"{what} on every rank, {size:,} more" for what, size in again.items()]
    parts.append(f"and a header in every file, {headers:,} more")
    unknown = f" {rest:,} bytes come from neither." if rest else ""
    return (
        f"All ranks together have {bytes_text(more)} more than the whole, {more / whole.weight_bytes:.2%} "
        f"({more:,} bytes): {', '.join(parts)}.{unknown}"
    )


def _repeated(whole: Checkpoint, split: Checkpoint) -> Mapping[str, int]:
    """Bytes of the copies that the other ranks have of what is not cut, by what it is."""
    cut = {name: shape for name, _, shape, _ in checkpoint.tensors(split)}
    again: Counter[str] = Counter()
    for name, _, shape, size in checkpoint.tensors(whole):
        if cut.get(name) == shape:
            kind = "scaling factors" if name.endswith("scaling_factor") else name.rsplit(".", 2)[-2]
            again["the norms" if "layernorm" in kind or kind == "ln_f" else kind] += (split.tp_size - 1) * size
    return again


# --- What is refused -----------------------------------------------------------------


def _require_pair(whole: Checkpoint, split: Checkpoint) -> None:
    """Refuse checkpoints of which one is not the other, cut.

    Raises:
        WorkshopError: says in what they differ.
    """
    if whole.tp_size != 1:
        raise WorkshopError(f"The first checkpoint is for {whole.tp_size} ranks. Give one for a single rank first.")
    if split.tp_size == 1:
        raise WorkshopError("The second checkpoint is for one rank, so nothing is cut. Give one made with tp_size=2.")
    if whole.manifest.inputs.get("model") != split.manifest.inputs.get("model"):
        raise WorkshopError(
            "The checkpoints are of different models, so their tensors cannot be compared. Make both from one model."
        )
    if whole.full_title != split.full_title:
        raise WorkshopError(
            f"The checkpoints are of different precisions: {whole.full_title}, and {split.full_title}. Make both alike."
        )
    texts = [one.manifest.options.get("calibration_texts") for one in (whole, split)]
    if texts[0] != texts[1]:
        raise WorkshopError(
            f"The checkpoints were calibrated on {texts[0]} and {texts[1]} texts, so their scaling factors differ. "
            "Make both with the same calibration_texts."
        )
    if whole.precision not in QUANTIZERS:
        raise WorkshopError(
            f"In {whole.title} the weights lie in the order that a GPU's kernels read, so the pieces cannot be joined. "
            f"Choose one of {', '.join(map(repr, QUANTIZERS))}."
        )


def _require_names(whole: Sequence[str], part: Sequence[str], file: str) -> None:
    """Refuse a rank's file that lacks a tensor, or has one more.

    Raises:
        WorkshopError: names it.
    """
    for name in sorted(set(whole) ^ set(part)):
        what = "lacks" if name in whole else "has, unlike the whole,"
        raise WorkshopError(f"{file} {what} {name!r}. Make the checkpoint again.")


def _config(one: Checkpoint) -> Mapping[str, Any]:
    """A checkpoint's settings under the names that :meth:`Shape.of` reads."""
    return {**one.config, **({"head_dim": one.config["head_size"]} if one.config.get("head_size") else {})}


def extents(shape: Sequence[int]) -> str:
    """A shape as a person writes it."""
    return " × ".join(map(str, shape))
