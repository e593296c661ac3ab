"""Pictures of number formats, and of the ranges that calibration finds (notebook 04)."""

import re
from collections.abc import Sequence
from typing import Any

from helpers import precision
from helpers.cards import Picture, Table
from helpers.errors import WorkshopError
from helpers.plots.canvas import COLOURS, HATCHES, INK, MARKERS, figure


def number_grid(formats: Sequence[str] = ("e4m3", "int8", "e5m2", "fp16"), window: float = 0.05) -> Picture:
    """Where the values of number formats lie: around zero (formats of 8 bits), and how far they reach.

    Each format is scaled so that its largest number is 1, as calibration does.

    Args:
        formats: keys of `precision.FORMATS`.
        window: half the width of the left panel, as a share of the largest number.
    """
    import numpy as np

    chosen = [precision.find(name) for name in formats]
    short = [f for f in chosen if f.bits == 8]
    with figure(10, 1.4 + 0.62 * len(chosen), panels=(1.25, 1)) as drawing:
        left, right = drawing.axes
        for row, f in enumerate(short):
            values = f.values() / f.largest
            inside = values[np.abs(values) <= window]
            # One path with gaps instead of a line a value: a tenth of the file.
            x, y = np.repeat(inside, 3), np.tile([row - 0.32, row + 0.32, np.nan], len(inside))
            left.plot(x, y, color=COLOURS[chosen.index(f)], linewidth=1.1)
        left.set_yticks(range(len(short)), [f.name for f in short])
        left.set(
            title="Every value near zero",
            xlabel="value, where the largest number is 1",
            xlim=(-window * 1.04, window * 1.04),
            ylim=(len(short) - 0.45, -0.55),
        )
        for row, f in enumerate(chosen):
            style: dict[str, Any] = {"color": COLOURS[row], "hatch": HATCHES[row], "edgecolor": "white"}
            right.barh(row, 1 - f.smallest / f.largest, left=f.smallest / f.largest, height=0.5, **style)
            right.text(1.6, row, f"{f.decades:.1f} decades", va="center", fontsize=10)
        right.set_yticks(range(len(chosen)), [f.name for f in chosen])
        right.set(
            title="From smallest to largest",
            xlabel="magnitude, where the largest number is 1",
            xscale="log",
            ylim=(len(chosen) - 0.45, -0.55),
        )
        lowest = min(f.smallest / f.largest for f in chosen)
        right.set_xlim(lowest / 3, lowest**-0.38)  # room for the text to the right of 1
        right.set_xticks([10.0**power for power in range(0, int(np.log10(lowest)) - 1, -3)])
        for axis in drawing.axes:
            axis.grid(visible=False, axis="y")
            axis.tick_params(axis="y", length=0)
    counts = [int((np.abs(f.values()) / f.largest <= window).sum()) for f in short]
    near = "; ".join(
        f"{f.name} has {count} of its {len(f.values())} values within {window:g} of zero"
        for f, count in zip(short, counts, strict=True)
    )
    reach = ", ".join(f"{f.name} {f.decades:.1f}" for f in chosen)
    alt = f"Two panels. Left: {near}. Right: decades from smallest to largest number: {reach}."
    return Picture(drawing.svg, alt, f"{precision.facts(*formats)}\n{near}.")


def place(name: str) -> tuple[int | None, str]:
    """Layer number and kind of matrix, from a tensor's or module's name.

    ``transformer.layers.3.attention.qkv.activation_scaling_factor`` is layer 3, ``attention.qkv``.
    """
    words = name.split(".")
    words = words[:-1] if len(words) > 1 and re.search(r"weight|bias|scal|quantizer", words[-1]) else words
    number = next((i for i, word in enumerate(words) if word.isdigit()), None)
    return (None, words[-1]) if number is None else (int(words[number]), ".".join(words[number + 1 :]))


def layer_ranges(
    names: Sequence[str], amax: Sequence[float], largest: float = 448.0, title: str = "What calibration found"
) -> Picture:
    """The largest magnitude that calibration saw in each matrix, by layer and kind of matrix.

    A scaling factor is that magnitude divided by the format's largest number, so the right axis reads it off.

    Args:
        names: tensors or modules; the first number in a name is its layer.
        amax: largest magnitude of each, above 0.
        largest: the format's largest number, 448 for FP8 E4M3.
        title: above the picture.

    Raises:
        WorkshopError: nothing to draw, the lengths differ, or a magnitude is not above 0.
    """
    if not names or len(names) != len(amax) or min(amax) <= 0:
        raise WorkshopError(
            f"Nothing to draw: {len(names)} names and {len(amax)} magnitudes were given; give as many of each, above 0."
        )
    kinds: dict[str, list[tuple[int | None, float]]] = {}
    for name, magnitude in zip(names, amax, strict=True):
        layer, kind = place(name)
        kinds.setdefault(kind, []).append((layer, float(magnitude)))
    layers = sorted({layer for points in kinds.values() for layer, _ in points if layer is not None})
    beyond = (layers[-1] if layers else -1) + 1
    with figure(9, 4.4) as drawing:
        axis = drawing.axes[0]
        for number, (kind, points) in enumerate(kinds.items()):
            points.sort(key=lambda point: (point[0] is None, point[0] or 0))
            x = [beyond if layer is None else layer for layer, _ in points]
            style: dict[str, Any] = {"color": COLOURS[number % 7], "marker": MARKERS[number % 7]}
            axis.plot(x, [y for _, y in points], linewidth=1.3, markersize=7, label=kind, **style)
        ticks = [*layers, beyond] if any(layer is None for p in kinds.values() for layer, _ in p) else layers
        axis.set_xticks(ticks, ["after" if tick == beyond else str(tick) for tick in ticks])
        axis.set(title=title, xlabel="layer", ylabel="largest magnitude seen", yscale="log")
        if min(amax) < largest < 4 * max(amax):
            label = f"{largest:g}, the format's\nlargest number"
            axis.axhline(largest, color=INK, linestyle="--", linewidth=1.2, label=label)
        scale = axis.secondary_yaxis("right", functions=(lambda y: y / largest, lambda s: s * largest))
        scale.set_ylabel(f"scaling factor (magnitude / {largest:g})")
        drawing.axes[0].figure.legend(loc="outside right upper", fontsize=9.5, title="kind of matrix")
    rows = []
    for kind, points in kinds.items():
        low, high = min(y for _, y in points), max(y for _, y in points)
        scales = f"{low / largest:.3g} to {high / largest:.3g}"
        rows.append((kind, len(points), f"{low:.4g}", f"{high:.4g}", scales))
    columns = ("kind of matrix", "matrices", "smallest", "largest", "scaling factors")
    table = Table(columns, rows, f"{title}: largest magnitude of each matrix")
    ratio = max(amax) / min(amax)
    widest = names[max(range(len(names)), key=lambda i: amax[i])]
    alt = (
        f"Largest magnitude of {len(names)} matrices by layer, on a log axis: from {min(amax):.3g} to "
        f"{max(amax):.3g}, a ratio of {ratio:.0f}; the largest is {widest}."
    )
    return Picture(drawing.svg, alt, str(table))
