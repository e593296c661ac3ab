"""What rounding keys and values to eight bits costs, format by format, and how far their channels reach. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from helpers import precision
from helpers.cards import ShownAsTable, Table
from helpers.errors import WorkshopError
from helpers.kv_cache.stages import PARTS, Capture, Part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Values = NDArray[np.float32]

_SAME = 1.05  # two errors closer than this ratio are called about equal
_CLOSE = 1.2  # the same for what hangs on single largest values, which differ more from text to text


@dataclass(frozen=True)
class Way:
    """One way to store a cache in eight bits.

    Args:
        number_format: a key of :data:`helpers.precision.FORMATS`.
        scale: what shares a scaling factor: the ``tensor`` of a layer's keys (or values); a ``channel`` (a position in
            a KV head); a ``token`` in one head; or, in the ``engine``'s way, a layer's keys and values together.
    """

    number_format: str
    scale: Literal["tensor", "channel", "token", "engine"]

    @property
    def title(self) -> str:
        """Format and scaling factors, as a table names them."""
        shares = {
            "tensor": "one scale a tensor",
            "channel": "a scale a channel",
            "token": "a scale for each token and head",
            "engine": "as TensorRT-LLM stores it",
        }
        return f"{self.short}, {shares[self.scale]}"

    @property
    def short(self) -> str:
        """The format without its width, such as ``E4M3``."""
        return precision.find(self.number_format).name.removeprefix("FP8 ")


E4M3, INT8 = Way("e4m3", "tensor"), Way("int8", "tensor")
WAYS = (
    E4M3,
    Way("e5m2", "tensor"),
    INT8,
    Way("e4m3", "channel"),
    Way("e5m2", "channel"),
    Way("int8", "channel"),
    Way("int8", "token"),
    Way("e4m3", "engine"),
    Way("int8", "engine"),
)
"""What :func:`errors` compares.

A CPU engine of OpenVINO stores INT8 roughly with a scale for each token and head; its zero may lie anywhere, while here
it lies in the middle. TensorRT-LLM reads one scaling factor a layer for keys and values together, the larger of the
two, and ModelOpt stores none below 1 for FP8.
"""


def by_channel(values: "ArrayLike") -> "Values":
    """[tokens, kv_heads, head_size] as [channels, tokens]; channel = KV head x head_size + position in the head."""
    import numpy as np

    exact = np.asarray(values, np.float32)
    return exact.reshape(len(exact), -1).T


def rounded(values: "ArrayLike", way: Way, largest: float | None = None) -> "Values":
    """Keys or values after a round trip through eight bits.

    Args:
        values: [tokens, kv_heads, head_size].
        way: format and scaling factors.
        largest: for the ``engine``'s way, the largest magnitude among keys and values; by default that of ``values``.

    Returns:
        float32, the shape of ``values``.
    """
    import numpy as np

    exact = np.asarray(values, np.float32)
    if way.scale == "token":
        rows = exact.reshape(-1, exact.shape[-1])
        return precision.round_to(rows, way.number_format, per="channel").reshape(exact.shape)
    if way.scale == "channel":
        return precision.round_to(by_channel(exact), way.number_format, per="channel").T.reshape(exact.shape)
    scale = None
    if way.scale == "engine":
        reach = float(np.abs(exact).max()) if largest is None else largest
        scale = reach / precision.find(way.number_format).largest
        scale = max(scale, 1.0) if way.number_format != "int8" else scale
    return precision.round_to(exact, way.number_format, scale)


def channel_errors(values: "ArrayLike", near: "ArrayLike") -> "Values":
    """Relative error (RMS) of each channel that is not all zero, shape [channels].

    A few large channels dominate the error of a whole tensor and hide what the others lose. Attention adds up the
    products of each key channel and its own query channel, so what counts is how far each channel is off by its own
    measure.
    """
    import numpy as np

    exact, other = by_channel(values).astype(np.float64), by_channel(near).astype(np.float64)
    power = np.square(exact).sum(axis=1)
    lost = np.square(other - exact).sum(axis=1)
    found: Values = np.sqrt(lost[power > 0] / power[power > 0]).astype(np.float32)
    return found


@dataclass(frozen=True)
class LayerError:
    """What one way of storing costs in one layer; shares, 0 to 1.

    Args:
        whole: relative error (RMS) of the tensor, see :func:`helpers.precision.error`.
        middle: the median over the channels of :func:`channel_errors`.
    """

    whole: float
    middle: float


@dataclass(frozen=True, repr=False)
class Ranges(ShownAsTable):
    """How far the channels of each layer reach.

    Args:
        model: name of the model.
        tokens: how many tokens were looked at.
        channels: for keys and for values, the largest magnitude in each channel of each layer.
        outlier_share: for each layer, the share of the range that the largest thousandth of the values has to itself.
    """

    model: str
    tokens: int
    channels: Mapping[Part, Sequence["Values"]]
    outlier_share: Mapping[Part, Sequence[float]]

    def spread(self, part: Part) -> list[float]:
        """How many times as far as the middle channel the widest one reaches, layer by layer."""
        import numpy as np

        return [float(reach.max() / np.median(reach)) for reach in self.channels[part]]

    @property
    def widest_layer(self) -> int:
        """The layer whose keys have the channel that stands out most."""
        spread = self.spread("key")
        return spread.index(max(spread))

    @property
    def sentence(self) -> str:
        """How uneven keys and values are, computed from the numbers."""
        keys, values = median(self.spread("key")), median(self.spread("value"))
        uneven = (
            "more uneven" if keys > values * _CLOSE else "more even" if values > keys * _CLOSE else "about as uneven"
        )
        than = "as" if uneven.startswith("about") else "than"
        return (
            f"In {self.model} the widest channel of the keys reaches {keys:.1f} times as far as the middle one (median "
            f"over layers), that of the values {values:.1f} times: its keys are {uneven} {than} its values."
        )

    def table(self) -> Table:
        """One row a layer."""
        rows = []
        for layer in range(len(self.channels["key"])):
            row: list[object] = [layer]
            for part in PARTS:
                reach = float(self.channels[part][layer].max())
                share = f"{self.outlier_share[part][layer]:.0%}"
                row += [f"{reach:.3g}", f"× {self.spread(part)[layer]:.1f}", share]
            rows.append(row)
        columns = ["layer"]
        for name in ("keys", "values"):
            columns += [f"{name}: largest", "widest channel / middle one", "range of the top 0.1 %"]
        return Table(columns, rows, f"Measured: the KV cache of {self.model}, {self.tokens:,} tokens", self.sentence)


@dataclass(frozen=True, repr=False)
class Errors(ShownAsTable):
    """What each way of :data:`WAYS` costs in each layer, with a verdict on the claim that INT8 loses more than E4M3.

    Args:
        model: name of the model.
        tokens: how many tokens were looked at.
        found: for keys and for values, each way's errors layer by layer.
        ranges: how far the channels reach.
    """

    model: str
    tokens: int
    found: Mapping[tuple[Part, Way], Sequence[LayerError]]
    ranges: Ranges

    def middle(self, part: Part, way: Way) -> float:
        """The error of the middle channel, median over the layers."""
        return median(error.middle for error in self.found[part, way])

    def int8_against_e4m3(self, part: Part, scale: Literal["tensor", "channel", "engine"] = "tensor") -> float:
        """How many times as large as E4M3's the error of INT8 is; below 1 INT8 is closer."""
        e4m3 = self.middle(part, Way("e4m3", scale))
        return self.middle(part, Way("int8", scale)) / e4m3 if e4m3 else 1.0

    @property
    def claim_holds_for(self) -> list[Part]:
        """Where INT8 loses clearly more than E4M3 does, each with one scale a tensor: keys, values, both or neither."""
        return [part for part in PARTS if self.int8_against_e4m3(part) > _SAME]

    @property
    def sentence(self) -> str:
        """The finding in words, computed from the numbers."""
        first = "; ".join(self._compared(part) for part in PARTS)
        holds = {
            (): "does not hold for this model's cache, neither for keys nor for values",
            ("key",): "holds for this model's keys, and not for its values",
            ("value",): "holds for this model's values, and not for its keys",
            ("key", "value"): "holds for this model's cache, for keys and for values",
        }[tuple(self.claim_holds_for)]
        return (
            f"With one scale a tensor, {first} (error of the middle channel, median of the layers). "
            f"{self._finer()} So with a scale for each, the claim that INT8 loses more than E4M3 {holds}, as far as "
            f"rounding errors tell; perplexity decides. {self.ranges.sentence} {self._shared()}"
        )

    def _compared(self, part: Part) -> str:
        """One part's two errors with one scale a tensor, in words."""
        e4m3, int8 = self.middle(part, E4M3), self.middle(part, INT8)
        return f"the {part}s lose {e4m3:.2%} in E4M3 and {int8:.2%} in INT8: {_closer(self.int8_against_e4m3(part))}"

    def _shared(self) -> str:
        """What one scaling factor for keys and values together does to each, in words."""
        said = []
        for part in PARTS:
            for way in (E4M3, INT8):
                before, after = self.middle(part, way), self.middle(part, Way(way.number_format, "engine"))
                if not 1 / _CLOSE <= (after / before if before else 1.0) <= _CLOSE:
                    said.append(f"the {part}s' error in {way.short} from {before:.2%} to {after:.2%}")
        shared = "One factor for keys and values together, as TensorRT-LLM stores it,"
        if not said:
            return f"{shared} changes nothing to speak of."
        stored = [f"for the {part}s {_closer(self.int8_against_e4m3(part, 'engine'))}" for part in PARTS]
        return f"{shared} takes {' and '.join(said)}. Stored so, {' and '.join(stored)}."

    def _finer(self) -> str:
        """Whether a scale a channel changes which format is closer, in words."""
        closer = {part: _closer(self.int8_against_e4m3(part, "channel")) for part in PARTS}
        changed = [
            p for p in PARTS if _order(self.int8_against_e4m3(p)) != _order(self.int8_against_e4m3(p, "channel"))
        ]
        said = f"for the keys {closer['key']}, for the values {closer['value']}"
        if not changed:
            return f"A scale a channel does not change the order: {said}."
        where = " and ".join(f"{part}s" for part in changed)
        return f"A scale a channel changes the order of the {where}: {said}."

    def table(self) -> Table:
        """One row a way."""
        rows = []
        for way in WAYS:
            row = [way.title]
            for part in PARTS:
                layers = self.found[part, way]
                whole = [error.whole for error in layers]
                row += [f"{median(whole):.2%}", f"{max(whole):.2%}", f"{self.middle(part, way):.2%}"]
            rows.append(row)
        columns = ["stored in"]
        for name in ("keys", "values"):
            columns += [f"{name}: error", "worst layer", "middle channel"]
        caption = f"Measured: relative error (RMS) over {self.tokens:,} tokens of {self.model}, median of the layers"
        return Table(columns, rows, caption, self.sentence)


def _order(ratio: float) -> int:
    """-1 where INT8 is closer, 1 where E4M3 is, 0 where they are about equal; from INT8's error over E4M3's."""
    return (ratio > _SAME) - (ratio < 1 / _SAME)


def _closer(ratio: float) -> str:
    """Which format is closer and how many times, in words; from INT8's error over E4M3's."""
    if not _order(ratio):
        return "about equal"
    return f"E4M3 is {ratio:.1f} times closer" if ratio > 1 else f"INT8 is {1 / ratio:.1f} times closer"


def measure(keys: Sequence["ArrayLike"], values: Sequence["ArrayLike"], model: str = "these arrays") -> Errors:
    """Round the keys and values of every layer in every way of :data:`WAYS`.

    Args:
        keys, values: one array a layer, each [tokens, kv_heads, head_size].
        model: what to call it.

    Raises:
        WorkshopError: no layer, not as many of keys as of values, or a tensor that is all zero.
    """
    import numpy as np

    if not keys or len(keys) != len(values):
        raise WorkshopError(
            f"{len(keys)} layers of keys and {len(values)} of values were given; give one array of each for each layer."
        )
    exact: dict[Part, list[Values]] = {
        "key": [np.asarray(layer, np.float32) for layer in keys],
        "value": [np.asarray(layer, np.float32) for layer in values],
    }
    found: dict[tuple[Part, Way], list[LayerError]] = {(part, way): [] for part in PARTS for way in WAYS}
    for pair in zip(exact["key"], exact["value"], strict=True):
        largest = max(float(np.abs(tensor).max()) for tensor in pair)
        for part, tensor in zip(PARTS, pair, strict=True):
            for way in WAYS:
                found[part, way].append(_layer_error(tensor, rounded(tensor, way, largest)))
    return Errors(model, len(exact["key"][0]), found, _ranges(exact, model))


def _layer_error(exact: "Values", near: "Values") -> LayerError:
    """Both measures of what rounding one tensor cost."""
    import numpy as np

    return LayerError(precision.error(exact, near).relative, float(np.median(channel_errors(exact, near))))


def _ranges(exact: Mapping[Part, Sequence["Values"]], model: str) -> Ranges:
    """How far the channels of every layer reach, and what the outliers take of the range."""
    import numpy as np

    def reach(tensor: "Values") -> "Values":
        return np.asarray(np.abs(by_channel(tensor)).max(axis=1))

    def share(tensor: "Values") -> float:
        return float(1 - np.quantile(np.abs(tensor), 0.999) / np.abs(tensor).max())

    def each(measured: Callable[["Values"], Any]) -> dict[Part, list[Any]]:
        return {part: [measured(tensor) for tensor in exact[part]] for part in PARTS}

    return Ranges(model, len(exact["key"][0]), each(reach), each(share))


def errors(captured: Capture) -> Errors:
    """What storing a captured cache in eight bits costs, format by format, and which format is better here."""
    keys, values = ([captured.tensor(layer, part) for layer in range(captured.layers)] for part in PARTS)
    return measure(keys, values, captured.model)


def ranges(captured: Capture) -> Ranges:
    """How far the channels of a captured cache reach: whether a few stand out."""
    return _ranges({part: [captured.tensor(i, part) for i in range(captured.layers)] for part in PARTS}, captured.model)
