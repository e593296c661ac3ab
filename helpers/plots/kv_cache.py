"""Pictures of what a KV cache holds, and of what storing it in eight bits costs (notebook 05)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from helpers.cards import Picture, Table
from helpers.errors import WorkshopError
from helpers.plots.canvas import COLOURS, FAINT, INK, MARKERS, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from helpers.kv_cache import Errors, Part, Ranges, Way

# Colour tells the format; marker and line tell what shares a scaling factor.
_FORMATS = {"e4m3": COLOURS[0], "e5m2": COLOURS[1], "int8": COLOURS[2]}
_SCALES = {"tensor": ("o", "-"), "channel": ("s", "--"), "token": ("^", ":"), "engine": ("D", "-.")}
_TITLES: "dict[Part, str]" = {"key": "Keys", "value": "Values"}


def kv_errors(
    found: "Errors", ways: "Sequence[Way] | None" = None, measure: Literal["middle", "whole"] = "middle"
) -> Picture:
    """Error of keys and of values in each layer, a line for each way of storing them.

    Args:
        found: from `helpers.kv_cache.errors`.
        ways: which to draw, of `helpers.kv_cache.WAYS`; by default those that differ in what they teach.
        measure: the error of the ``middle`` channel, or of the ``whole`` tensor.

    Raises:
        WorkshopError: no way to draw, or one that was not measured.
    """
    chosen = _worth_drawing(found) if ways is None else list(ways)
    if not chosen or any(("key", way) not in found.found for way in chosen):
        raise WorkshopError("Nothing to draw: name one or more of kv_cache.WAYS, or leave the ways out.")
    told = "middle channel" if measure == "middle" else "whole tensor"
    layers = range(len(found.found["key", chosen[0]]))
    with figure(10.5, 4.6, panels=(1, 1)) as drawing:
        for axis, part in zip(drawing.axes, _TITLES, strict=True):
            for way in chosen:
                marker, line = _SCALES[way.scale]
                style: dict[str, Any] = {"color": _FORMATS[way.number_format], "marker": marker, "linestyle": line}
                # Hollow and larger, since it lies on the tensor's own line wherever that is the wider of the two.
                style |= {"markersize": 10, "markerfacecolor": "none"} if way.scale == "engine" else {"markersize": 6}
                shares = [getattr(error, measure) for error in found.found[part, way]]
                axis.plot(layers, shares, linewidth=1.6, label=way.title, **style)
            axis.set(title=f"{_TITLES[part]} of {found.model}", xlabel="layer", yscale="log")
        _one_scale(drawing.axes)
        drawing.axes[0].set_ylabel(f"relative error (RMS), {told}")
        handles, labels = drawing.axes[0].get_legend_handles_labels()
        drawing.axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9.5)
    rows = []
    for way in chosen:
        shares = [[getattr(error, measure) for error in found.found[part, way]] for part in _TITLES]
        rows.append([way.title, *(text for values in shares for text in (f"{min(values):.2%}", f"{max(values):.2%}"))])
    columns = ["stored in", "keys: best layer", "worst layer", "values: best layer", "worst layer"]
    caption = f"Measured: relative error (RMS) of the {told}, {found.tokens:,} tokens of {found.model}"
    worst = max(chosen, key=lambda way: found.middle("key", way))
    alt = (
        f"Error of each layer's keys and values in eight bits, on a log axis, {len(chosen)} ways over {len(layers)} "
        f"layers of {found.model}; the keys lose most stored in {worst.title}: {found.middle('key', worst):.2%} of the "
        "middle channel, median of the layers."
    )
    return Picture(drawing.svg, alt, str(Table(columns, rows, caption)))


def _worth_drawing(found: "Errors") -> "list[Way]":
    """What was measured, without the ways of the floating-point formats whose line lies on their first one's."""
    ways = list(dict.fromkeys(way for _, way in found.found))
    return [way for way in ways if way.number_format == "int8" or way.scale == "tensor"]


def _one_scale(axes: "Sequence[Axes]") -> None:
    """Give panels with shares the same range, in percent, so that they can be compared."""
    low, high = min(axis.get_ylim()[0] for axis in axes), max(axis.get_ylim()[1] for axis in axes)
    ticks = [tick for tick in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if low <= tick <= high]
    for axis in axes:
        axis.set_ylim(low, high)
        axis.set_yticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
        axis.yaxis.set_minor_formatter(lambda value, _: "")
        axis.xaxis.get_major_locator().set_params(integer=True)


def kv_ranges(found: "Ranges", layer: int | None = None) -> Picture:
    """How far each channel of one layer's keys and values reaches, and how uneven the channels of all layers are.

    Args:
        found: from `helpers.kv_cache.ranges`.
        layer: whose channels to draw; by default the layer whose keys have the channel that stands out most.

    Raises:
        WorkshopError: the model has no such layer.
    """
    layers = len(found.channels["key"])
    chosen = found.widest_layer if layer is None else layer
    if not 0 <= chosen < layers:
        raise WorkshopError(f"There is no layer {layer} to draw; {found.model} has layers 0 to {layers - 1}.")
    with figure(10.5, 5.6, panels=(1.9, 1), rows=2) as drawing:
        keys, spread, values, share = drawing.axes
        for number, (axis, part) in enumerate(zip((keys, values), _TITLES, strict=True)):
            _channels(axis, found, part, chosen, COLOURS[number])
            style: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "label": _TITLES[part]}
            style["linestyle"] = ("-", "--")[number]
            spread.plot(range(layers), found.spread(part), **style)
            share.plot(range(layers), [100 * each for each in found.outlier_share[part]], **style)
        highest = max(axis.get_ylim()[1] for axis in (keys, values))
        for axis in (keys, values):
            axis.set_ylim(0, highest)
        spread.set(title="Widest channel / middle one", ylabel="times", ylim=(0, None))
        share.set(title="Range of the top 0.1 %", ylabel="% of the range", xlabel="layer", ylim=(0, 100))
        values.set_xlabel("channel: KV head × head size + position")
        for axis in (spread, share):
            axis.xaxis.get_major_locator().set_params(integer=True)
        spread.legend(fontsize=9.5)
    told = [
        f"{part}s of layer {chosen} reach {float(found.channels[part][chosen].max()):.3g} in the widest channel, "
        f"{found.spread(part)[chosen]:.1f} times the middle one"
        for part in _TITLES
    ]
    alt = f"Largest magnitude in each channel of {found.model}'s KV cache: {'; '.join(told)}."
    return Picture(drawing.svg, alt, str(found.table()))


def _channels(axis: "Axes", found: "Ranges", part: "Part", layer: int, colour: str) -> None:
    """The largest magnitude of each channel, as one outline, with the middle one marked."""
    import numpy as np

    reach = found.channels[part][layer]
    axis.stairs(reach, fill=True, color=colour, alpha=0.85, edgecolor=INK, linewidth=0.4)
    middle = float(np.median(reach))
    axis.axhline(middle, color=INK, linestyle="--", linewidth=1.1, label=f"middle channel: {middle:.3g}")
    axis.set(title=f"{_TITLES[part]} of {found.model}, layer {layer}", ylabel="largest magnitude", xlim=(0, len(reach)))
    axis.grid(visible=False, axis="x")
    axis.spines["bottom"].set_color(FAINT)
    axis.legend(loc="upper right", fontsize=9.5)
    axis.margins(y=0.15)
