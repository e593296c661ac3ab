"""The house style of every picture: colours, marks, and the figure that becomes an SVG.

Nothing is told by colour alone: series differ in hatch, marker or line as well. A picture of the same data is
the same file, byte for byte.

A picture has no ground of its own, and is right in light and dark: text and lines in ``INK`` take the colour of the
text around the picture, what is ``GROUND`` takes the colour behind it, and the tones between are mixed from both. The
browser does that when it draws, so one file serves every theme. `helpers.looks` has the palette.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from helpers.cards import bytes_text
from helpers.looks import COLOURS as COLOURS
from helpers.looks import TONES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HATCHES = ("", "//", "..", "xx", "\\\\", "--", "++")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#222222", "#7f7f7f"
GROUND, PANEL, SHADE, GRID = "#ffffff", "#f2f2f2", "#c4c4c4", "#e4e4e4"
WHITE = "#fffffe"
"""Letters on a box that is dark in every theme: white, and not the ground's colour."""

WARM, PALE = "#f2ecdc", "#8fb5e2"
"""A strip behind the data, and bars that lie behind a line."""

# What each of them becomes: CSS that the browser works out where the picture is shown.
_THEMED = {
    INK: "currentColor",
    GROUND: "var(--ground)",
    PANEL: "var(--panel)",
    SHADE: "var(--shade)",
    GRID: "var(--grid)",
    WARM: "var(--warm)",
    PALE: "var(--pale)",
    WHITE: "#ffffff",
}

# For the file alone, as an image or in a tab of its own; where it stands in a page, the page says what is behind it.
_ALONE = (
    f"<style>svg{{--ground:#ffffff;color:{INK};{TONES}}}"
    "@media (prefers-color-scheme:dark){svg{--ground:#16181b;color:#e4e6e9}}"
    "*{stroke-linejoin:round;stroke-linecap:butt}</style>"
)

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
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "hatch.color": GROUND,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "patch.edgecolor": INK,
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
        drawing.svg = _themed(written.getvalue())


def _themed(svg: str) -> str:
    """The drawing with colours that follow the theme, in place of matplotlib's fixed ones."""
    colours = "|".join(_THEMED)
    # In styles and attributes only: the same characters are no colour in a name.
    svg = re.sub(rf"(: |fill=\"|stroke=\")({colours})(?=[;\"])", lambda found: found[1] + _THEMED[found[2]], svg)
    return re.sub(r"<style type=\"text/css\">.*?</style>", _ALONE, svg, count=1, flags=re.DOTALL)


def amount(value: float, unit: str) -> str:
    """A value with its unit, bytes in the unit that a person would use."""
    if unit == "bytes":
        return bytes_text(value)
    return f"{value:,.0f} {unit}" if abs(value) >= 1000 else f"{value:.3g} {unit}"


def few_ticks() -> Any:
    """At most five ticks, at round numbers."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4)
