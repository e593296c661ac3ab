"""What a server's engine did over a while: requests running and waiting, and blocks of its KV cache (notebook 07)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from helpers.cards import Picture, Table
from helpers.plots.canvas import COLOURS, FAINT, INK, few_ticks, figure
from helpers.serving.status import PAUSE, Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from helpers.serving.status import Activity

_MOST = 300  # steps that are drawn; of more, those with the highest values in each of so many stretches
_SEEN = 0.02  # of the cache's blocks; fewer would not be seen
_ROWS = 12  # in the picture's table, without those of pauses
_USED: dict[str, Any] = {"facecolor": COLOURS[0], "edgecolor": COLOURS[0], "linewidth": 0.3}
_RUNNING: dict[str, Any] = {"facecolor": COLOURS[2], "edgecolor": COLOURS[2], "linewidth": 0.3}
_WAITING: dict[str, Any] = {"facecolor": COLOURS[1], "edgecolor": "white", "hatch": "//", "linewidth": 0.3}

Point = tuple[float, int, int, int]
"""Seconds since the first step began, requests active, requests queued, KV blocks used; they hold until the next."""


def activity(done: "Activity") -> Picture:
    """Requests active and queued over time, and below them the blocks of the KV cache in use.

    Args:
        done: from an endpoint's ``activity()``, with at least one record.
    """
    points = outline(stretches(done.steps, _MOST))
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
    columns = ("from (s)", "to (s)", "active", "queued", "KV blocks used")
    return Picture(
        drawing.svg, f"{caption}. {done.sentence}", str(Table(columns, _rows(stretches(done.steps, _ROWS)), caption))
    )


def stretches(steps: Sequence[Step], most: int) -> list[Step]:
    """At most so many stretches of steps, with the highest values of each, so that no peak is lost.

    Where the engine was idle nothing is drawn together: the steps before and after stand apart, unless there are so
    many pauses that only the longest can be kept.
    """
    if not steps:
        return []
    pauses = sorted(range(1, len(steps)), key=lambda k: steps[k - 1].end - steps[k].begin)[: most // 2]
    cuts = [0, *sorted(place for place in pauses if _idle(steps[place - 1], steps[place])), len(steps)]
    size = -(-len(steps) // (most - len(cuts) + 2)) if len(steps) > most else 1
    return [_together(steps[k : min(k + size, end)]) for begin, end in pairwise(cuts) for k in range(begin, end, size)]


def _together(part: Sequence[Step]) -> Step:
    """Several steps as one, with the highest values."""
    active, queued, used = (max(getattr(one, name) for one in part) for name in ("active", "queued", "kv_used"))
    return Step(part[0].begin, part[-1].end, active, queued, used)


def _idle(before: Step, after: Step) -> bool:
    """True if the engine did nothing for a while between two steps."""
    return after.begin - before.end >= PAUSE


def outline(steps: Sequence[Step]) -> list[Point]:
    """The corners of what is drawn: every value holds until the next point; between two steps it is 0.

    A step of unknown length is drawn as a sliver, since a line without a width would not be seen.
    """
    sliver = max(steps[-1].end, 0.001) / _MOST
    corners: list[Point] = []
    for number, step in enumerate(steps):
        end = max(step.end, step.begin + sliver)
        corners.append((step.begin, step.active, step.queued, step.kv_used))
        after = steps[number + 1] if number + 1 < len(steps) else None
        if after is None:
            corners.append((end, step.active, step.queued, step.kv_used))
        elif _idle(step, after):
            corners.append((min(end, after.begin), 0, 0, 0))
    kept = [one for before, one in pairwise(corners) if one[1:] != before[1:]]  # the same drawing in a smaller file
    return [corners[0], *kept, corners[-1]]


def _rows(steps: Sequence[Step]) -> list[tuple[str, ...]]:
    """The picture in numbers: a row a stretch, and one for each time without work between two."""
    found: list[tuple[str, ...]] = []
    for number, step in enumerate(steps):
        if number and _idle(steps[number - 1], step):
            found.append((f"{steps[number - 1].end:.1f}", f"{step.begin:.1f}", "0", "0", "0"))
        numbers = (f"{value:,}" for value in (step.active, step.queued, step.kv_used))
        found.append((f"{step.begin:.1f}", f"{step.end:.1f}", *numbers))
    return found


def _areas(
    axis: "Axes", points: list[Point], values: tuple[int, ...], styles: tuple[Any, ...], labels: tuple[str, ...]
) -> None:
    """Areas one on top of the other; every value holds until the next point."""
    from matplotlib.patches import Patch

    across = [point[0] for point in points]
    low = [0] * len(points)
    for value, style in zip(values, styles, strict=True):
        high = [below + int(point[value]) for below, point in zip(low, points, strict=True)]
        axis.fill_between(across, low, high, step="post", **style)
        low = high
    axis.xaxis.set_major_locator(few_ticks())
    axis.yaxis.set_major_locator(few_ticks())
    axis.grid(visible=False)
    axis.spines["bottom"].set_color(FAINT)
    patches = [Patch(label=label, **style) for label, style in zip(labels, styles, strict=True)]
    axis.legend(handles=patches, loc="upper right", ncols=2, fontsize=9.5, borderaxespad=0.1, handlelength=1.4)
