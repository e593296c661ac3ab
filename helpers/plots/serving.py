"""What a server's engine did over a while: requests running and waiting, and blocks of its KV cache (notebook 07)."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from helpers.cards import Picture, Table
from helpers.plots.canvas import COLOURS, FAINT, INK, few_ticks, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from helpers.serving.status import Activity

_MOST = 300  # steps that are drawn; of more, those with the highest values in each of so many stretches
_SEEN = 0.02  # of the cache's blocks; fewer would not be seen
_ROWS = 12  # in the picture's table
_USED: dict[str, Any] = {"facecolor": COLOURS[0], "edgecolor": COLOURS[0], "linewidth": 0.3}
_RUNNING: dict[str, Any] = {"facecolor": COLOURS[2], "edgecolor": COLOURS[2], "linewidth": 0.3}
_WAITING: dict[str, Any] = {"facecolor": COLOURS[1], "edgecolor": "white", "hatch": "//", "linewidth": 0.3}

Point = tuple[float, int, int, int]
"""Seconds since the first record, requests active, requests queued, KV blocks used."""


def activity(done: "Activity") -> Picture:
    """Requests active and queued over time, and below them the blocks of the KV cache in use.

    Args:
        done: from an endpoint's ``activity()``, with at least one record.
    """
    points = _points(done)
    blocks = max(one.kv_blocks or 0 for one in done.records)
    end = max(points[-1][0], 0.001)
    with figure(8.0, 4.8, rows=2) as drawing:
        above, below = drawing.axes
        _areas(above, points, (1, 2), (_RUNNING, _WAITING), ("active", "queued"))
        _areas(below, points, (3,), (_USED,), ("used",))
        above.set(title=done.title, ylabel="requests", xlim=(0, end))
        below.set(ylabel="KV blocks", xlabel="seconds", xlim=(0, end))
        most = max(active + queued for _, active, queued, _ in points)
        above.set_ylim(0, max(most, 1) * 1.25)
        used = max(point[3] for point in points)
        # In a cache of very many blocks a few would be no more than a line: then they are drawn to their own scale.
        scale = blocks if used > blocks * _SEEN else used
        below.set_ylim(0, max(scale, 1) * 1.25)
        if blocks and scale == blocks:
            below.axhline(blocks, color=INK, linewidth=1)
        if blocks:
            told = f"all {blocks:,} blocks" if scale == blocks else f"the cache has {blocks:,} blocks"
            below.text(end * 0.01, max(scale, 1) * 1.03, told, va="bottom", fontsize=9.5)
    caption = "measured: what the engine told of its steps"
    columns = ("seconds", "active", "queued", "KV blocks used")
    rows = [(f"{when:.1f}", active, queued, f"{used:,}") for when, active, queued, used in _stretches(points, _ROWS)]
    return Picture(drawing.svg, f"{caption}. {done.sentence}", str(Table(columns, rows, caption)))


def _points(done: "Activity") -> list[Point]:
    """The records as numbers, what was not told as 0; of many only as many as can be seen."""
    start = done.records[0].time
    points = [(one.time - start, one.active or 0, one.queued or 0, one.kv_used or 0) for one in done.records]
    return _stretches(points, _MOST)


def _changes(points: list[Point]) -> list[Point]:
    """Those that differ from the one before, and the last: the drawing is the same, and its file smaller."""
    kept = [one for before, one in pairwise(points) if one[1:] != before[1:]]
    return [points[0], *kept, points[-1]]


def _stretches(points: list[Point], most: int) -> list[Point]:
    """At most so many points: the highest values of each stretch, so that no peak is lost."""
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    parts = [points[k : k + size] for k in range(0, len(points), size)]
    return [(part[-1][0], *(max(point[n] for point in part) for n in (1, 2, 3))) for part in parts]  # type: ignore[misc]


def _areas(
    axis: "Axes", points: list[Point], values: tuple[int, ...], styles: tuple[Any, ...], labels: tuple[str, ...]
) -> None:
    """Areas one on top of the other; every value holds until the next is told."""
    from matplotlib.patches import Patch

    drawn = _changes(points)
    across = [point[0] for point in drawn]
    low = [0] * len(drawn)
    for value, style in zip(values, styles, strict=True):
        high = [below + int(point[value]) for below, point in zip(low, drawn, strict=True)]
        axis.fill_between(across, low, high, step="post", **style)
        low = high
    axis.xaxis.set_major_locator(few_ticks())
    axis.yaxis.set_major_locator(few_ticks())
    axis.grid(visible=False)
    axis.spines["bottom"].set_color(FAINT)
    patches = [Patch(label=label, **style) for label, style in zip(labels, styles, strict=True)]
    axis.legend(handles=patches, loc="upper right", ncols=2, fontsize=9.5, borderaxespad=0.1, handlelength=1.4)
