"""Several GPUs for one model: what each way of splitting it sends, and what it does to a token's time (notebook 06)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from helpers.cards import Picture, Table
from helpers.errors import WorkshopError
from helpers.plots.canvas import COLOURS, FAINT, HATCHES, INK, MARKERS, PANEL, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from helpers.tensor_parallel.comparison import Prediction
    from helpers.tensor_parallel.predict import Step, Way

# Colour and marker tell the GPU; the line, and how far the marker is filled, tell the way.
_LOOKS: "dict[Way, dict[str, Any]]" = {
    "tensor": {"linestyle": "-", "linewidth": 2.0, "markersize": 6.5},
    "pipeline": {"linestyle": ":", "linewidth": 1.5, "markersize": 5.5, "markerfacecolor": "white"},
    "expert": {
        "linestyle": "--",
        "linewidth": 1.5,
        "markersize": 6,
        "fillstyle": "left",
        "markerfacecoloralt": "white",
    },
}
_CROSS: dict[str, Any] = {"marker": "x", "linestyle": "", "markersize": 4.5, "markeredgewidth": 1.3}
_EMPTY: dict[str, Any] = {"linestyle": "", "markersize": 9, "markerfacecolor": "white", "markeredgewidth": 1.1}
_ROW = 0.055  # of a panel's height, for the crosses of one GPU
_TITLES: "dict[Way, str]" = {"tensor": "split by tensor", "pipeline": "as a pipeline", "expert": "by experts"}
_MOST_GPUS = len(MARKERS)


def parallel_times(prediction: "Prediction") -> Picture:
    """Predicted time of one token over the number of GPUs: a panel for each model, a line for each GPU and way.

    Args:
        prediction: from `helpers.tensor_parallel.comparison.compare`; with several ways, each has a line of its own.

    Raises:
        WorkshopError: more GPUs than can be told apart.
    """
    models, gpus = prediction.models, prediction.gpus
    if len(gpus) > _MOST_GPUS:
        raise WorkshopError(f"{len(gpus)} GPUs are too many for one picture. Compare at most {_MOST_GPUS}.")
    counts = sorted({one.ranks for one in prediction.steps})
    with figure(max(5.5, 3.7 * len(models)), 4.9, panels=(1,) * len(models)) as drawing:
        for axis, model in zip(drawing.axes, models, strict=True):
            for number, gpu in enumerate(gpus):
                _lines(axis, prediction, model, gpu, number)
            axis.set(title=model.removesuffix("-Instruct"), xscale="log", yscale="log", xlabel="GPUs")
            axis.set_xticks(counts, [str(count) for count in counts])
            axis.set_xlim(counts[0] / 1.2, counts[-1] * 1.2)
            axis.xaxis.set_minor_locator(_none())
            rows = len(gpus) if any(_missing(prediction, model, gpu) for gpu in gpus) else 0
            _milliseconds(axis, rows, any(one.fits for one in prediction.steps if one.model == model))
        drawing.axes[0].set_ylabel("predicted: one token, ms")
        _legend(drawing.axes[0], prediction)
    told = " ".join(prediction.sentences)
    alt = f"Predicted time of one token over the number of GPUs, a panel for each model: {', '.join(models)}. {told}"
    return Picture(drawing.svg, alt, str(_times_table(prediction, counts)))


def _lines(axis: "Axes", prediction: "Prediction", model: str, gpu: str, number: int) -> None:
    """One GPU's line for each way in one model's panel, and crosses where the model does not fit."""
    for way in reversed(prediction.ways):  # so that the first lies on top where they meet
        fitting = [one for one in prediction.of(model, gpu, way) if one.fits]
        axis.plot(*_points(fitting), color=COLOURS[number], marker=MARKERS[number], **_LOOKS[way])
    missing = _missing(prediction, model, gpu)
    heights = [1 - _ROW * (number + 0.6)] * len(missing)
    above: dict[str, Any] = {"color": COLOURS[number], "transform": axis.get_xaxis_transform()}
    axis.plot(missing, heights, marker=MARKERS[number], **above, **_EMPTY)
    axis.plot(missing, heights, **above, **_CROSS)


def _missing(prediction: "Prediction", model: str, gpu: str) -> list[int]:
    """Numbers of GPUs on which a model does not fit, split the first way."""
    return [one.ranks for one in prediction.of(model, gpu, prediction.ways[0]) if not one.fits]


def _points(steps: "Sequence[Step]") -> tuple[list[int], list[float]]:
    """Numbers of GPUs, and milliseconds."""
    return [one.ranks for one in steps], [1e3 * one.seconds for one in steps]


def _none() -> Any:
    """No minor ticks: between 1, 2, 4 and 8 GPUs there is nothing."""
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _milliseconds(axis: "Axes", rows: int, times: bool) -> None:
    """Round ticks where there are times, and above them a band for the crosses of so many GPUs, which have none."""
    low, high = axis.get_ylim() if times else (1.0, 10.0)
    band = _ROW * (rows + 0.2)
    axis.set_ylim(low, high * (high / low) ** (band / (1 - band)) if rows else high)
    round_numbers = [digit * 10.0**power for power in range(-4, 7) for digit in (1, 2, 5)]
    ticks = [number for number in round_numbers if low <= number <= high and times]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.yaxis.set_minor_locator(_none())
    if rows:
        axis.axhspan(high, axis.get_ylim()[1], facecolor=PANEL, edgecolor="none")


def _legend(axis: "Axes", prediction: "Prediction") -> None:
    """Below all panels: GPUs, then ways, then the cross."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=COLOURS[n], marker=MARKERS[n], label=gpu, **_LOOKS[prediction.ways[0]])
        for n, gpu in enumerate(prediction.gpus)
    ]
    for way in prediction.ways if len(prediction.ways) > 1 else ():
        handles.append(Line2D([], [], color=INK, marker="o", label=_TITLES[way], **_LOOKS[way]))
    shown: list[Any] = list(handles)
    labels = [str(handle.get_label()) for handle in handles]
    if any(_missing(prediction, model, gpu) for model in prediction.models for gpu in prediction.gpus):
        shown.append((Line2D([], [], color=INK, marker="o", **_EMPTY), Line2D([], [], color=INK, **_CROSS)))
        labels.append("does not fit in memory")
    axis.figure.legend(shown, labels, loc="outside lower center", ncols=4, fontsize=9.5, handlelength=2.6)


def _times_table(prediction: "Prediction", counts: Sequence[int]) -> Table:
    """The picture's table: one row a line of it, one column a number of GPUs."""
    rows = []
    for model in prediction.models:
        for gpu in prediction.gpus:
            for way in prediction.ways:
                steps = {one.ranks: one for one in prediction.of(model, gpu, way)}
                if steps:
                    rows.append([model, gpu, _TITLES[way], *(_cell(steps.get(count)) for count in counts)])
    columns = ["model", "GPU", "way", *(f"{count} GPU{'s' if count > 1 else ''}" for count in counts)]
    note = " ".join(prediction.sentences)
    return Table(columns, rows, "predicted: milliseconds for one token", note)


def _cell(step: "Step | None") -> str:
    """A time, or why there is none."""
    if step is None:
        return "cannot be split"
    return f"{1e3 * step.seconds:.2f}" if step.fits else "does not fit"


# --- The ways -------------------------------------------------------------------------------------

WAYS = (
    # title, what each GPU holds, what travels, what it saves
    (
        "Tensor parallelism",
        "a part of every matrix",
        "partial sums, to all: 2 all-reduces a layer",
        "memory, and time of a request",
    ),
    (
        "Pipeline parallelism",
        "whole layers",
        "hidden states, once from GPU to GPU",
        "memory; no time of a request",
    ),
    (
        "Expert parallelism",
        "whole experts of every layer",
        "tokens to their experts and back, each layer",
        "memory; little time of a request",
    ),
)
"""The three ways to use two GPUs for one model, in words."""

_ON = ({"facecolor": COLOURS[5], "hatch": HATCHES[0]}, {"facecolor": COLOURS[1], "hatch": HATCHES[1]})
_GPU_TOP, _GPU_LOW = 3.55, 0.35
_LEFT, _RIGHT, _WIDE = 0.1, 3.1, 2.15


def parallel_ways() -> Picture:
    """Three ways to use two GPUs for one model, side by side: what each GPU holds, what travels, what it saves."""
    with figure(11.5, 4.7, panels=(1, 1, 1)) as drawing:
        for axis, draw, (title, holds, travels, saves) in zip(drawing.axes, _DRAWN, WAYS, strict=True):
            axis.set(xlim=(0, 5.4), ylim=(-1.45, 3.95), title=title)
            axis.axis("off")
            for left, name in ((_LEFT, "GPU 0"), (_RIGHT, "GPU 1")):
                _gpu(axis, left, name)
            draw(axis)
            for line, (what, told) in enumerate((("each holds", holds), ("travels", travels), ("saves", saves))):
                height = -0.12 - 0.52 * line
                axis.text(0.1, height, f"{what}:", fontsize=9, weight="bold", va="center")
                axis.text(1.5, height, told, fontsize=9, va="center")
    columns = ("way", "each GPU holds", "what travels", "what it saves")
    table = Table(columns, WAYS, "Two GPUs for one model, three ways")
    told = "; ".join(f"{title}: each GPU holds {holds}; {travels}" for title, holds, travels, _ in WAYS)
    return Picture(drawing.svg, f"Two GPUs for one model, three ways. {told}.", str(table))


def _gpu(axis: "Axes", left: float, name: str) -> None:
    """The outline of a GPU with its name."""
    from matplotlib.patches import FancyBboxPatch

    style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.12", "facecolor": PANEL, "edgecolor": FAINT}
    axis.add_patch(FancyBboxPatch((left, _GPU_LOW), _WIDE, _GPU_TOP - _GPU_LOW, linewidth=1.2, **style))
    axis.text(left + _WIDE / 2, _GPU_TOP + 0.08, name, ha="center", va="bottom", fontsize=10.5, weight="bold")


def _block(axis: "Axes", left: float, low: float, width: float, height: float, gpu: int, text: str = "") -> None:
    """A piece of the model, in the colour and hatch of the GPU that holds it."""
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((left, low), width, height, edgecolor="white", linewidth=1.0, **_ON[gpu]))
    if text:
        plain = {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.9}
        axis.text(left + width / 2, low + height / 2, text, ha="center", va="center", fontsize=8.5, bbox=plain)


def _arrow(axis: "Axes", start: tuple[float, float], end: tuple[float, float], both: bool = False) -> None:
    """What travels from one GPU to the other."""
    style = {"arrowstyle": "<|-|>" if both else "-|>", "color": INK, "linewidth": 1.5, "shrinkA": 1, "shrinkB": 1}
    axis.annotate("", end, start, arrowprops=style)


_LAYERS = ((2.5, "layer 1"), (1.5, "layer 2"), (0.5, "layer 3"))
"""Where a layer lies in a GPU: its lower edge, and its name."""


def _tensor(axis: "Axes") -> None:
    """Half of every matrix on each GPU; the sums meet after both halves of each layer."""
    for low, name in _LAYERS:
        for gpu, left in enumerate((_LEFT, _RIGHT)):
            for part, word in enumerate(("MLP", "attention")):
                _block(axis, left + 0.18, low + 0.02 + 0.44 * part, _WIDE - 0.36, 0.4, gpu, f"½ {word} {name[-1]}")
        for part in range(2):
            height = low + 0.22 + 0.44 * part
            _arrow(axis, (_LEFT + _WIDE - 0.16, height), (_RIGHT + 0.16, height), both=True)


def _pipeline(axis: "Axes") -> None:
    """The first layers on one GPU, the last on the other; one hand-over between them."""
    for gpu, (left, names) in enumerate(((_LEFT, (1, 2, 3)), (_RIGHT, (4, 5, 6)))):
        for (low, _), layer in zip(_LAYERS, names, strict=True):
            _block(axis, left + 0.18, low + 0.06, _WIDE - 0.36, 0.78, gpu, f"layer {layer}")
    _arrow(axis, (_LEFT + _WIDE - 0.16, 0.95), (_RIGHT + 0.16, 2.95))


def _expert(axis: "Axes") -> None:
    """Half of attention on each GPU, and whole experts, to which tokens are sent."""
    each = (_WIDE - 0.44) / 2
    for layer, low in ((1, 2.05), (2, 0.5)):
        for gpu, left in enumerate((_LEFT, _RIGHT)):
            _block(axis, left + 0.18, low + 0.92, _WIDE - 0.36, 0.4, gpu, f"½ attention {layer}")
            for place in range(2):
                name = f"expert {2 * gpu + place + 1}"
                _block(axis, left + 0.18 + place * (each + 0.08), low + 0.05, each, 0.8, gpu, name)
        ends = (_LEFT + _WIDE - 0.16, _RIGHT + 0.16)
        _arrow(axis, (ends[0], low + 1.12), (ends[1], low + 1.12), both=True)
        _arrow(axis, (ends[0], low + 0.65), (ends[1], low + 0.25), both=True)
        _arrow(axis, (ends[0], low + 0.25), (ends[1], low + 0.65), both=True)


_DRAWN = (_tensor, _pipeline, _expert)
