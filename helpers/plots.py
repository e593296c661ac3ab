"""Pictures: pure functions from data to a `Picture`, each with a sentence and a table that say the same.

Nothing is told by colour alone: series differ in hatch, marker or line as well. A picture of the same data is
the same file, byte for byte.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from helpers import precision
from helpers.cards import Picture, Table, bytes_text
from helpers.errors import WorkshopError
from helpers.hardware.limits import BYTES, operations_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#5B5B5B")
"""Okabe and Ito's palette, told apart by colour-blind readers too."""

HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#222222", "#8a8a8a"

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "hatch.color": "white",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "svg.fonttype": "path",  # the same letters on every machine
    "svg.hashsalt": "trtllm-workshop",  # the same ids on every run
}


class _Drawing:
    """A figure being drawn; ``svg`` is there once the `_figure` block has ended."""

    def __init__(self, axes: "list[Axes]") -> None:
        self.axes = axes
        self.svg = ""


@contextmanager
def _figure(width: float, height: float, panels: Sequence[float] = (1,)) -> Iterator[_Drawing]:
    """A figure in the house style, its panels side by side in the given proportions; sizes in inches.

    Uses matplotlib's figure directly, without pyplot: nothing is kept, and no display is asked for.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=list(panels))
        drawing = _Drawing(list(axes[0]))
        yield drawing
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
        drawing.svg = written.getvalue()


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
    with _figure(10, 1.4 + 0.62 * len(chosen), panels=(1.25, 1)) as drawing:
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


def _said(value: float, unit: str) -> str:
    """A value with its unit, bytes in the unit that a person would use."""
    if unit == "bytes":
        return bytes_text(value)
    return f"{value:,.0f} {unit}" if abs(value) >= 1000 else f"{value:.3g} {unit}"


def bars(labels: Sequence[str], values: Sequence[float], unit: str, title: str, notes: Sequence[str] = ()) -> Picture:
    """Amounts side by side, such as the sizes of engines.

    Args:
        labels, values: one a bar, in the order to show.
        unit: what the values are in; ``bytes`` are shown as MB or GB.
        title: what is compared.
        notes: one a bar, said behind its value, such as ``0.57 of FP16``.

    Raises:
        WorkshopError: nothing to draw, or the lengths differ.
    """
    notes = notes or [""] * len(labels)
    if not labels or not len(labels) == len(values) == len(notes):
        raise WorkshopError(
            f"Nothing to draw: {len(labels)} labels, {len(values)} values and {len(notes)} notes were given; "
            "give as many of each."
        )
    said = [f"{_said(value, unit)}{f'  ({note})' if note else ''}" for value, note in zip(values, notes, strict=True)]
    with _figure(8.5, 1.1 + 0.5 * len(labels)) as drawing:
        axis = drawing.axes[0]
        for row, value in enumerate(values):
            style: dict[str, Any] = {
                "color": COLOURS[row % 7],
                "hatch": HATCHES[row % 7],
                "edgecolor": "white",
            }
            axis.barh(row, value, height=0.62, **style)
            axis.text(value, row, f"  {said[row]}", va="center", fontsize=10.5)
        axis.set_yticks(range(len(labels)), labels)
        longest = max(map(len, said))
        axis.set_xlim(0, max(values) * (1 + longest * 0.018) or 1)
        axis.set(title=title, ylim=(len(labels) - 0.5, -0.5))
        axis.xaxis.set_major_formatter(lambda value, _: _said(value, unit).replace(".00", "") if value else "0")
        axis.xaxis.set_major_locator(_few_ticks())
        axis.grid(visible=False, axis="y")
        axis.tick_params(axis="y", length=0)
    table = Table(
        ("", "amount", "note") if any(notes) else ("", "amount"),
        [
            (label, _said(value, unit), note) if any(notes) else (label, _said(value, unit))
            for label, value, note in zip(labels, values, notes, strict=True)
        ],
        title,
    )
    listed = ", ".join(f"{label} {text}" for label, text in zip(labels, said, strict=True))
    return Picture(drawing.svg, f"Bars, {title}: {listed}.".replace("  (", " ("), str(table))


def _few_ticks() -> Any:
    """At most five ticks, at round numbers."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4)


def _place(name: str) -> tuple[int | None, str]:
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
        layer, kind = _place(name)
        kinds.setdefault(kind, []).append((layer, float(magnitude)))
    layers = sorted({layer for points in kinds.values() for layer, _ in points if layer is not None})
    beyond = (layers[-1] if layers else -1) + 1
    with _figure(9, 4.4) as drawing:
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


class Limits(Protocol):
    """What a roofline is drawn from: bytes a second, and operations a second in each precision."""

    @property
    def device(self) -> str:
        """Its name."""

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Precision to operations a second."""

    @property
    def label(self) -> str:
        """Where they come from, such as ``datasheet`` or ``recorded``; empty if they were measured just now."""


DASHES = ((4.0, 2.0), (1.0, 1.6), (6.0, 1.5, 1.0, 1.5))
"""How the limits beside the device's own are drawn, in their order: lengths of line and gap."""

TOKENS = (1, 32, 1024)
"""Tokens in a step: one user's generation, a batch of 32, a prompt."""


def roofline(limits: Limits, *others: Limits | None, shown: Sequence[str] = ()) -> Picture:
    """How fast a step can be, over how much is computed with each byte read: two limits, steps between them.

    A step with n tokens does 2n operations for each weight that it reads.

    Args:
        limits: measured on the device, or a datasheet's where it is not at hand; solid lines.
        others: what to set beside them, such as its datasheet or a recorded measurement; dashed and dotted lines, for
            the precisions that both have. None is left out.
        shown: precisions to draw; by default those that differ and that the device computes in.
    """
    precisions = list(shown) or _worth_drawing(limits)
    label = limits.label
    compared = [other for other in others if other is not None]
    title = f"{f'{label}: roofline' if label else 'Roofline'} of {limits.device}"
    with _figure(9, 4.8) as drawing:
        axis = drawing.axes[0]
        for number, p in enumerate(precisions):
            _roof(axis, number, p, limits, compared)
        for tokens in TOKENS:
            place = {"xytext": (8, -14), "textcoords": "offset points", "fontsize": 9.5}
            axis.annotate(_tokens(tokens), _step(limits, precisions[0], tokens), **place)
        axis.set(title=title, xlabel="operations for each byte read", ylabel="operations a second")
        axis.set(xscale="log", yscale="log")
        axis.yaxis.set_major_formatter(lambda value, _: operations_text(value))
        axis.yaxis.set_minor_formatter(lambda value, _: "")
        axis.plot([], [], color=INK, linewidth=2, label=f"{label}: limit" if label else "limit, measured")
        for other, dashes in zip(compared, DASHES, strict=False):
            axis.plot([], [], color=INK, linewidth=1, dashes=dashes, label=_beside(other, limits))
        axis.legend(loc="lower right", fontsize=9.5)
    rows = [_roof_row(p, limits) for p in precisions]
    memory = _said(limits.bandwidth / 1e9, "GB/s")
    columns = ("weights", "matrix rate", "tokens to balance", *(f"predicted: {_tokens(t)}" for t in TOKENS))
    caption = f"{label or 'Measured'}: memory {memory}. Operations a second, and what limits them"
    balance = "; ".join(f"{row[0]} at {row[2]} tokens a step" for row in rows)
    alt = f"{title}: memory gives {memory}; a step turns from memory-bound to compute-bound with {balance}."
    note = " ".join(
        f"{_beside(other, limits)}: memory {_said(other.bandwidth / 1e9, 'GB/s')}, "
        + ", ".join(f"{p.upper()} {operations_text(other.rates[p])}" for p in precisions if p in other.rates)
        for other in compared
    )
    return Picture(drawing.svg, alt, str(Table(columns, rows, caption, note)))


def _beside(other: Limits, limits: Limits) -> str:
    """What the legend calls other limits: where they come from, and of what if that is another product."""
    label = other.label or "measured"
    same = other.device in limits.device
    return f"{label}: limit" if same else f"{label}: limit of {other.device}"


def _step(limits: Limits, precision_name: str, tokens: int) -> tuple[float, float]:
    """Operations a byte, and operations a second that the limits allow, for a step with so many tokens."""
    intensity = 2 * tokens / BYTES[precision_name]
    return intensity, min(intensity * limits.bandwidth, limits.rates[precision_name])


def _roof(axis: "Axes", number: int, p: str, own: Limits, others: Sequence[Limits]) -> None:
    """One precision's limits as lines, and its steps as marks."""
    ends = 0.3, 4 * max(1024, own.rates[p] / own.bandwidth)
    styles: list[dict[str, Any]] = [{"linewidth": 2.0}, *({"linewidth": 1.0, "dashes": dashes} for dashes in DASHES)]
    for limits, style in zip((own, *others), styles, strict=False):
        if p in limits.rates:
            rate = limits.rates[p]
            corner = rate / limits.bandwidth
            axis.plot(
                [ends[0], corner, ends[1]],
                [ends[0] * limits.bandwidth, rate, rate],
                color=COLOURS[number],
                **style,
            )
    across, up = zip(*(_step(own, p, tokens) for tokens in TOKENS), strict=True)
    style = {"color": COLOURS[number], "markersize": 9, "label": f"{p.upper()} weights"}
    axis.plot(across, up, MARKERS[number], **style)


def _roof_row(p: str, measured: Limits) -> tuple[str, ...]:
    """One precision in the picture's table."""
    rate = measured.rates[p]
    steps = [_step(measured, p, tokens)[1] for tokens in TOKENS]
    reached = [f"{operations_text(s)} ({'compute' if s >= rate else 'memory'})" for s in steps]
    return p.upper(), operations_text(rate), f"{rate * BYTES[p] / (2 * measured.bandwidth):,.0f}", *reached


def _tokens(count: int) -> str:
    """A number of tokens in words."""
    return f"{count:,} token{'' if count == 1 else 's'}"


def _worth_drawing(measured: Limits) -> list[str]:
    """The precisions whose lines say something.

    Left out: what the device only emulates (arithmetic slower than memory even for one token), what is slower
    than a wider precision, and what lies on the line of another precision of the same width.
    """
    drawn: list[str] = []
    for p, rate in measured.rates.items():
        if p not in BYTES or rate * BYTES[p] < 2 * measured.bandwidth:
            continue
        wider = [q for q in drawn if BYTES[q] >= BYTES[p]]
        if all(rate > 1.1 * measured.rates[q] for q in wider):
            drawn.append(p)
    return drawn or list(measured.rates)


LATER = "notebook 07"
"""In place of a tool: the stage comes with that notebook, in a later version."""

STAGES: dict[str, tuple[tuple[str, str, str], ...]] = {
    # toolchain: (stage, the tool that does it, what comes out)
    "tensorrt_llm": (
        ("convert", "ModelOpt", "checkpoint, FP16"),
        ("quantize", "ModelOpt", "checkpoint, FP8"),
        ("build", "trtllm-build", "engine for this GPU"),
        ("generate", "TensorRT-LLM runtime", "text"),
        ("serve", LATER, "API endpoint"),
    ),
    "openvino": (
        ("convert", "ModelOpt", "checkpoint, FP16"),
        ("quantize", "ModelOpt", "checkpoint, FP8"),
        ("build", "OpenVINO, NNCF", "engine for this CPU"),
        ("generate", "OpenVINO GenAI", "text"),
        ("serve", LATER, "API endpoint"),
    ),
}


ENDINGS = {
    "tensorrt_llm": (
        "NVIDIA GPU: TensorRT-LLM",
        "The engine is built from the checkpoint, for this GPU and this release.",
    ),
    "openvino": (
        "CPU: OpenVINO",
        "The CPU's engine is built from the same weights at the same precision; "
        "the checkpoint is what a GPU builds from.",
    ),
}
BOX, PITCH = 1.55, 1.95
GREEN = "#00704F"
"""Dark enough for white letters, where the palette's green is not."""


def pipeline(toolchain: str = "openvino") -> Picture:
    """The way from weights to an endpoint, with the tools that take each step on this machine.

    Args:
        toolchain: ``openvino`` or ``tensorrt_llm``.

    Raises:
        WorkshopError: another name.
    """
    if toolchain not in STAGES:
        raise WorkshopError(f"Unknown toolchain: {toolchain!r} was asked for; use one of {', '.join(STAGES)}.")
    stages = STAGES[toolchain]
    shared = 2  # convert and quantize are NVIDIA's own tools on every machine
    what, footnote = ENDINGS[toolchain]
    with _figure(11.5, 3.1) as drawing:
        axis = drawing.axes[0]
        axis.set(xlim=(-0.1, PITCH * len(stages) + BOX + 0.1), ylim=(-1.75, 1.35))
        axis.set_aspect("equal")
        axis.axis("off")
        _box(axis, 0, "weights", "Hugging Face", "#f3f3f3", INK)
        for number, (stage, tool, result) in enumerate(stages, 1):
            left = PITCH * number
            colour = COLOURS[0] if number <= shared else GREEN
            if tool == LATER:
                _box(axis, left, stage, f"with {tool}", "white", colour, edge=colour, dashed=True)
            else:
                _box(axis, left, stage, tool, colour, "white")
            lines = result.replace(", ", ",\n").replace(" for ", "\nfor ")
            axis.text(left + BOX / 2, -0.62, lines, ha="center", va="top", fontsize=10)
            arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.6, "shrinkA": 2, "shrinkB": 2}
            axis.annotate("", (left, 0), (left - PITCH + BOX, 0), arrowprops=arrow)
        _bracket(axis, PITCH, PITCH * shared + BOX, "the same on every machine", COLOURS[0])
        _bracket(axis, PITCH * (shared + 1), PITCH * len(stages) + BOX, what, GREEN)
        axis.text(PITCH, -1.5, footnote, fontsize=9.5, color=INK)
    told = [(stage, f"comes with {tool}" if tool == LATER else tool, result) for stage, tool, result in stages]
    rows = [(number, *stage) for number, stage in enumerate(told, 1)]
    columns = ("step", "stage", "done by", "comes out")
    table = Table(columns, rows, "From Hugging Face weights to an endpoint", footnote)
    steps = ", ".join(f"{stage} ({tool})" for stage, tool, _ in told)
    return Picture(drawing.svg, f"From weights to an endpoint in {len(stages)} steps: {steps}.", str(table))


def _box(
    axis: "Axes", left: float, name: str, tool: str, face: str, ink: str, edge: str = FAINT, dashed: bool = False
) -> None:
    """One stage: a rounded box with its name and the tool that does it; dashed where it is still to come."""
    from matplotlib.patches import FancyBboxPatch

    style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.14", "facecolor": face, "edgecolor": edge}
    line = {"linestyle": "--", "linewidth": 1.6} if dashed else {}
    axis.add_patch(FancyBboxPatch((left, -0.45), BOX, 0.9, **style, **line))
    middle: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    axis.text(left + BOX / 2, 0.13, name, fontsize=12.5, weight="bold", **middle)
    axis.text(left + BOX / 2, -0.19, tool, fontsize=8.5, **middle)


def _bracket(axis: "Axes", left: float, right: float, text: str, colour: str) -> None:
    """A line over some boxes that says what they have in common."""
    axis.plot([left, left, right, right], [0.62, 0.74, 0.74, 0.62], color=colour, linewidth=1.5)
    axis.text((left + right) / 2, 0.88, text, ha="center", va="bottom", color=colour, fontsize=11, weight="bold")
