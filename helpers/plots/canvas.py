"""The house style of every picture: colours, marks, and the figure that becomes an SVG.

Nothing is told by colour alone: series differ in hatch, marker or line as well. A picture of the same data is
the same file, byte for byte.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from helpers.cards import bytes_text

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


class Drawing:
    """A figure being drawn; ``svg`` is there once the `figure` block has ended."""

    def __init__(self, axes: "list[Axes]") -> None:
        self.axes = axes
        self.svg = ""


@contextmanager
def figure(width: float, height: float, panels: Sequence[float] = (1,), rows: int = 1) -> Iterator[Drawing]:
    """A figure in the house style, its panels side by side in the given proportions; sizes in inches.

    With several ``rows`` the panels are repeated below each other; ``axes`` has them row by row.

    Uses matplotlib's figure directly, without pyplot: nothing is kept, and no display is asked for.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(rows, len(panels), squeeze=False, width_ratios=list(panels))
        drawing = Drawing(list(axes.flat))
        yield drawing
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
        drawing.svg = written.getvalue()


def amount(value: float, unit: str) -> str:
    """A value with its unit, bytes in the unit that a person would use."""
    if unit == "bytes":
        return bytes_text(value)
    return f"{value:,.0f} {unit}" if abs(value) >= 1000 else f"{value:.3g} {unit}"


def few_ticks() -> Any:
    """At most five ticks, at round numbers."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4)
