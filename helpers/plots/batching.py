"""What a scheduler did with many requests: blocks of the KV cache, and requests running and waiting (notebook 05)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from helpers.cards import Picture, Table, bytes_text, counted
from helpers.errors import WorkshopError
from helpers.plots.canvas import COLOURS, FAINT, INK, PANEL, SHADE, few_ticks, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from helpers.toolchains.batching import BatchRun

_USED: dict[str, Any] = {"facecolor": COLOURS[0], "edgecolor": COLOURS[0], "linewidth": 0.3}
_FREE: dict[str, Any] = {"facecolor": PANEL, "edgecolor": SHADE, "linewidth": 0.6}
_RUNNING: dict[str, Any] = {"facecolor": COLOURS[2], "edgecolor": COLOURS[2], "linewidth": 0.3}
_WAITING: dict[str, Any] = {"facecolor": COLOURS[1], "edgecolor": "white", "hatch": "//", "linewidth": 0.3}


def kv_blocks(*runs: "BatchRun") -> Picture:
    """Blocks of the KV cache used and free over time, and below them requests running and waiting; one column a run.

    Args:
        runs: from a toolchain's ``batch``; their last rounds are drawn, all to one scale of time.

    Raises:
        WorkshopError: no run was given.
    """
    if not runs:
        raise WorkshopError("Nothing to draw: no run was given. Make one with the toolchain's batch().")
    ends = [run.steps[-1].seconds for run in runs]
    most = max(step.running + step.waiting for run in runs for step in run.steps)
    with figure(max(6.0, 4.9 * len(runs)), 5.6, panels=(1,) * len(runs), rows=2) as drawing:
        above, below = drawing.axes[: len(runs)], drawing.axes[len(runs) :]
        for run, blocks, requests in zip(runs, above, below, strict=True):
            _draw_blocks(blocks, run, max(ends))
            _draw_requests(requests, run, max(ends), most)
        above[0].set_ylabel("blocks of the KV cache")
        below[0].set_ylabel("requests")
    columns = ("engine", "KV cache", "blocks", "full for", "most in flight", "on average", "waiting until")
    rows = [_row(run) for run in runs]
    caption = "measured: many requests at once, the last round"
    alt = "; ".join(_said(run) for run in runs)
    return Picture(drawing.svg, f"{caption}. {alt}.", str(Table((*columns, "pre-emptions"), rows, caption)))


def _areas(axis: "Axes", run: "BatchRun", lower: Sequence[int], upper: Sequence[int], styles: Sequence[Any]) -> None:
    """Two areas, one on top of the other; every iteration's value holds for the time that it took.

    Of iterations with equal values only the last is drawn, which looks the same and keeps the file small.
    """
    values = list(zip(lower, upper, strict=True))
    kept = [k for k, value in enumerate(values) if k + 1 == len(values) or value != values[k + 1]]
    across = [0.0, *(run.steps[k].seconds for k in kept)]
    low = [lower[0], *(lower[k] for k in kept)]
    high = [sum(values[0]), *(sum(values[k]) for k in kept)]
    axis.fill_between(across, 0, low, step="pre", **styles[0])
    axis.fill_between(across, low, high, step="pre", **styles[1])


def _draw_blocks(axis: "Axes", run: "BatchRun", end: float) -> None:
    """The upper panel of one run."""
    _areas(axis, run, [step.used for step in run.steps], [step.free for step in run.steps], (_USED, _FREE))
    axis.set(title=f"{run.title.replace(' weights', '')}\n{bytes_text(run.kv_bytes)}, {run.blocks} blocks")
    axis.set(xlim=(0, end), ylim=(0, run.blocks * 1.18))
    axis.axhline(run.blocks, color=INK, linewidth=1)
    _finish(axis, [("used", _USED), ("free", _FREE)])


def _draw_requests(axis: "Axes", run: "BatchRun", end: float, most: int) -> None:
    """The lower panel of one run; the scale of requests is that of all runs."""
    counts = [step.running for step in run.steps], [step.waiting for step in run.steps]
    _areas(axis, run, *counts, (_RUNNING, _WAITING))
    axis.set(xlim=(0, end), ylim=(0, most * 1.18), xlabel="seconds")
    axis.text(end * 0.01, most * 1.05, _preempted(run), va="bottom", fontsize=9.5)
    _finish(axis, [("running", _RUNNING), ("waiting", _WAITING)])


def _finish(axis: "Axes", legend: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Few ticks, and what the areas are."""
    from matplotlib.patches import Patch

    axis.xaxis.set_major_locator(few_ticks())
    axis.yaxis.set_major_locator(few_ticks())
    axis.grid(visible=False)
    axis.spines["bottom"].set_color(FAINT)
    patches = [Patch(label=label, **style) for label, style in legend]
    axis.legend(handles=patches, loc="upper right", ncols=2, fontsize=9.5, borderaxespad=0.1, handlelength=1.4)


def _preempted(run: "BatchRun") -> str:
    """How many pre-emptions, in words."""
    return counted(run.preempted, "pre-emption")


def _full_seconds(run: "BatchRun") -> float:
    """Seconds of the round during which no block was free."""
    steps = run.steps
    before = [0.0, *(step.seconds for step in steps)]
    return sum(step.seconds - start for step, start in zip(steps, before, strict=False) if step.free == 0)


def _row(run: "BatchRun") -> tuple[object, ...]:
    """One run in the picture's table."""
    waited = f"{run.waited:.1f} s" if run.waited else "none waited"
    full = f"{_full_seconds(run):.1f} s of {run.steps[-1].seconds:.1f} s"
    size = bytes_text(run.kv_bytes)
    return run.title, size, run.blocks, full, run.most_running, f"{run.mean_running:.1f}", waited, run.preempted


def _said(run: "BatchRun") -> str:
    """One run in the sentence for a screen reader."""
    waited = f"some waited until {run.waited:.1f} s" if run.waited else "none waited"
    return (
        f"{run.title}, {bytes_text(run.kv_bytes)} in {run.blocks} blocks: at most {run.most_running} requests in "
        f"flight, {run.mean_running:.1f} on average; {waited}, the last ended after {run.steps[-1].seconds:.1f} s; "
        f"{_preempted(run)}"
    )
