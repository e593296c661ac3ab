"""Deployments drawn: a load, its replicas and its waits over time, and cold starts part by part (notebook 09)."""

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.points import joined, time_text
from helpers.cards import Picture, counted
from helpers.deploy.steps import Steps, both
from helpers.plots.canvas import COLOURS, FAINT, HATCHES, INK, PALE, SHADE, WARM, few_ticks, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from helpers.deploy.cold_start import ColdStarts
    from helpers.deploy.timeline import Timeline

_WIDE_SPAN = 20  # times the shortest wait from which waits are on a logarithmic axis
_BAR = 1.0  # seconds of arrivals in one bar, or more in a long run
_MOST_BARS = 120
_LABELLED = 0.07  # of the longest bar: a narrower part has no room for its number
_PLAIN: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
_REPLICAS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("running", {"facecolor": COLOURS[0], "edgecolor": "white"}),
    ("starting", {"facecolor": COLOURS[1], "edgecolor": "white", "hatch": "//"}),
    ("stopping", {"facecolor": SHADE, "edgecolor": INK, "hatch": ".."}),
)


# --- Over time ------------------------------------------------------------------


def timeline_picture(timeline: "Timeline") -> Picture:
    """Four panels on one axis of time: the load, requests in flight, replicas, and each request's TTFT.

    Args:
        timeline: what happened.
    """
    with figure(9.6, 9.2, rows=4) as drawing:
        load, flight, replicas, waits = drawing.axes
        for axis in drawing.axes:
            _parts(axis, timeline)
        _load(load, timeline)
        _in_flight(flight, timeline)
        _replicas(replicas, timeline)
        _waits(waits, timeline)
        for axis in drawing.axes:
            axis.set_xlim(0, timeline.ends)
            axis.grid(visible=False, axis="x")
        for axis in drawing.axes[:-1]:
            axis.tick_params(labelbottom=False)
        waits.set_xlabel("seconds since the run began")
    return Picture(drawing.svg, _alt(timeline), str(timeline.over_time()))


def _alt(timeline: "Timeline") -> str:
    counts, most = timeline.counts, timeline.running.most(0.0, timeline.ends)
    changes = f" Replicas went {joined([str(one) for one in timeline.scaled])}." if timeline.scaled else ""
    return (
        f"A load and its replicas over {timeline.ends:.0f} s in four panels: requests asked for and sent, in flight "
        f"(at most {timeline.in_flight.most(0.0, timeline.ends):.0f}), replicas (at most {most:.0f}), and the time to "
        f"first token of each of {counted(counts.sent, 'request')}.{changes}"
    )


def _parts(axis: "Axes", timeline: "Timeline") -> None:
    """A line where one part of the load ends, and the burst shaded."""
    for phase in timeline.phases[1:]:
        axis.axvline(phase.begin, color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0.5)
    if timeline.burst is not None:
        axis.axvspan(timeline.burst.begin, timeline.burst.end, color=WARM, linewidth=0, zorder=0)


def _load(axis: "Axes", timeline: "Timeline") -> None:
    """What was asked for as a line, what was sent as bars."""
    length = max(_BAR, timeline.ends / _MOST_BARS)
    counts: dict[int, int] = {}
    for row in timeline.rows:
        if row.sent is not None:
            counts[int(row.begun // length)] = counts.get(int(row.begun // length), 0) + 1
    each = "a second" if length == _BAR else f"a second, over {length:.1f} s"
    axis.bar(
        [place * length for place in counts], [count / length for count in counts.values()], length, align="edge",
        facecolor=PALE, edgecolor="white", linewidth=0.4, label=f"sent, {each}",
    )  # fmt: skip
    if timeline.load is not None and timeline.load.open_loop:
        points = timeline.load.profile or (
            (0.0, timeline.load.most_rate),
            (timeline.last_sent, timeline.load.most_rate),
        )
        axis.plot([at for at, _ in points], [rate for _, rate in points], color=INK, linewidth=1.6, label="asked for")
    axis.set(title=f"Load{f': {timeline.title}' if timeline.title else ''}", ylabel="requests/s")
    axis.set_ylim(0, axis.get_ylim()[1] * 1.2)
    for phase in timeline.phases:
        if phase.end - phase.begin > 0.05 * timeline.ends:
            place = ((phase.begin + phase.end) / 2, 0.97)
            axis.annotate(
                phase.name, place, xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=9.5, bbox=_PLAIN
            )
    _beside(axis)


def _in_flight(axis: "Axes", timeline: "Timeline") -> None:
    """Requests in flight, and how many the autoscaler aims at for the replicas that run."""
    times, values = _drawn(timeline.in_flight, timeline.ends)
    axis.fill_between(times, values, step="post", facecolor=COLOURS[5], edgecolor="none", alpha=0.45)
    axis.plot(times, values, drawstyle="steps-post", color=COLOURS[0], linewidth=1.3, label="in flight")
    if timeline.scaling is not None:
        target = timeline.scaling.target_ongoing
        aimed = both(timeline.running, timeline.running, lambda running, _: target * running)
        label = f"aimed at: {target:g} × running"
        style: dict[str, Any] = {"color": COLOURS[4], "linestyle": (0, (5, 2)), "linewidth": 1.6}
        axis.plot(*_drawn(aimed, timeline.ends), drawstyle="steps-post", label=label, **style)
    axis.set(title="Requests in flight", ylabel="requests", ylim=(0, None))
    _beside(axis)


def _replicas(axis: "Axes", timeline: "Timeline") -> None:
    """Replicas upon one another: those that run, start and stop."""
    below = Steps((0.0,), (0.0,))
    for name, style in _REPLICAS:
        series: Steps = getattr(timeline, name)
        top = both(below, series, lambda low, more: low + more)
        times = sorted({0.0, timeline.ends, *(at for at in top.times if 0 < at < timeline.ends)})
        lows, highs = [below.at(at) for at in times], [top.at(at) for at in times]
        axis.fill_between(times, lows, highs, step="post", linewidth=0.0, label=name, **style)
        below = top
    axis.plot(*_drawn(timeline.running, timeline.ends), drawstyle="steps-post", color=INK, linewidth=1.2)
    most = max(1.0, below.most(0.0, timeline.ends))
    axis.set(title="Replicas", ylabel="replicas", ylim=(0, most + 0.35))
    axis.yaxis.get_major_locator().set_params(integer=True)
    _beside(axis)


def _waits(axis: "Axes", timeline: "Timeline") -> None:
    """Each request's TTFT at its arrival; those that waited much longer than usual have another mark."""
    from helpers.deploy.timeline import AFFECTED

    long = set(timeline.affected)
    kinds = (
        ("usual", [one for one in timeline.waits if one not in long], {"marker": "o", "color": COLOURS[0], "ms": 4.5}),
        ("longer", sorted(long), {"marker": "s", "color": COLOURS[1], "ms": 5.5, "markeredgecolor": INK, "mew": 0.5}),
    )
    for name, found, style in kinds:
        if found:
            label = "a request" if name == "usual" else f"over {AFFECTED} times the usual wait"
            axis.plot([at for at, _ in found], [wait for _, wait in found], linestyle="", label=label, **style)
    if timeline.warm_wait is not None:
        text = f"usual: {time_text(timeline.warm_wait)}"
        axis.axhline(timeline.warm_wait, color=INK, linewidth=1, linestyle=(0, (1, 1.5)), label=text)
    _wait_axis(axis, [wait for _, wait in timeline.waits])
    failed = [row.begun for row in timeline.rows if not row.ok]
    if failed:
        style = {"marker": "x", "color": COLOURS[4], "markersize": 7, "markeredgewidth": 1.8, "linestyle": ""}
        axis.plot(failed, [0.95] * len(failed), transform=axis.get_xaxis_transform(), label="failed", **style)
    axis.set_ylabel("seconds")
    _beside(axis)


def _wait_axis(axis: "Axes", waits: Sequence[float]) -> None:
    """From 0, or logarithmic with round numbers where waits differ too much to be seen on one that begins there."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(waits, default=0.0), max(waits, default=1.0)
    if low <= 0 or high <= _WIDE_SPAN * low:
        axis.set(title="Time to first token of each request", ylim=(0, high * 1.15))
        axis.yaxis.set_major_locator(few_ticks())
        return
    axis.set(title="Time to first token of each request (log axis)", yscale="log", ylim=(low / 1.6, high * 2))
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 3) if high < 1000 * low else (1,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _drawn(steps: Steps, ends: float) -> tuple[list[float], list[float]]:
    """Times and values of a step line from the run's begin to its end."""
    times = [0.0, *(at for at in steps.times if 0 < at < ends), ends]
    return times, [steps.at(at) for at in times]


def _beside(axis: "Axes") -> None:
    """The legend beside the panel: nothing is covered, and all panels stay as wide."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9.5)


# --- Cold starts ----------------------------------------------------------------


def cold_starts_picture(found: "ColdStarts") -> Picture:
    """A bar a kind, stacked by part: medians, with a thin line from the shortest to the longest of all.

    Args:
        found: cold starts by kind.
    """
    from helpers.deploy.cold_start import PARTS

    names, order = list(found.named), list(PARTS.values())
    medians = {kind: [(part, median(found.seconds(kind, part) or [0.0])) for part in found.parts] for kind in names}
    longest = max([*(sum(seconds for _, seconds in parts) for parts in medians.values()), 1e-9])
    with figure(9.6, 1.9 + 0.62 * len(names)) as drawing:
        axis = drawing.axes[0]
        told: set[str] = set()
        for place, kind in enumerate(names):
            left = 0.0
            for part, seconds in medians[kind]:
                if not seconds:
                    continue
                look = order.index(part.split(" + ")[0])
                style = {"facecolor": COLOURS[look], "hatch": HATCHES[look], "edgecolor": "white", "linewidth": 0.6}
                label = part if part not in told else None
                axis.barh(place, seconds, left=left, height=0.62, label=label, **style)
                told.add(part)
                if seconds > _LABELLED * longest:
                    middle = (left + seconds / 2, place)
                    axis.annotate(time_text(seconds), middle, ha="center", va="center", fontsize=9, bbox=_PLAIN)
                left += seconds
            totals = found.totals(kind)
            if max(totals) > min(totals):
                axis.plot([min(totals), max(totals)], [place + 0.38] * 2, color=INK, linewidth=1.4, marker="|", ms=6)
            style = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 9.5, "weight": "bold"}
            axis.annotate(time_text(median(totals)), (left, place), **style)
        axis.set_yticks(range(len(names)), names)
        several = any(len(one) > 1 for one in found.named.values())
        how = "medians; thin line: range of all" if several else "one each"
        axis.set(title="From the request to its first token", xlabel=f"seconds ({how})")
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_xlim(0, 1.14 * longest)
        axis.grid(visible=False, axis="y")
        axis.figure.legend(loc="outside lower center", ncols=min(6, max(1, len(told))), fontsize=9.5)
    said = "; ".join(
        f"{kind}: {time_text(median(found.totals(kind)))}, of which "
        + joined([f"{part} {time_text(seconds)}" for part, seconds in medians[kind] if seconds])
        for kind in names
    )
    return Picture(drawing.svg, f"Cold starts part by part, a bar a kind. Measured: {said}.", str(found.table()))
