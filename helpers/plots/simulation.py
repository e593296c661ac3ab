"""Simulations drawn: against a measured run, what a plan costs, and what scale to zero costs (notebook 09)."""

from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.points import joined, time_text
from helpers.cards import Picture, counted
from helpers.plots.canvas import COLOURS, INK, MARKERS, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from helpers.deploy.simulation.comparison import Comparison
    from helpers.deploy.simulation.idle import ToZero
    from helpers.deploy.simulation.planning import Plan

_DASHES: tuple[Any, ...] = ((), (5, 2), (1, 1.5), (5, 1.5, 1, 1.5), (8, 2), (2, 2), (8, 2, 2, 2))
_WIDE = 20.0  # times the shortest wait from which waits are on a logarithmic axis


def comparison_picture(found: "Comparison") -> Picture:
    """Replicas that take requests, and each request's TTFT: measured, and in the typical run of the simulation.

    Args:
        found: the comparison.
    """
    from helpers.deploy.simulation.comparison import running, steps

    typical = found.typical
    measured = steps(found.observed, found.end, running)
    simulated = steps(typical.observed, found.end, running)
    waits = [(row.begun, row.ttft) for row in found.rows if row.ok and row.ttft is not None]
    others = [(one.arrival, one.ttft) for one in typical.requests]
    with figure(9.4, 5.2, rows=2) as drawing:
        replicas, ttft = drawing.axes
        for line, name, colour, dashes in (
            (measured, "measured", COLOURS[0], _DASHES[0]),
            (simulated, "simulated", COLOURS[4], _DASHES[1]),
        ):
            at, counts = zip(*line, strict=True)
            replicas.step(at, counts, where="post", color=colour, dashes=dashes, linewidth=2, label=name)
        _dots(ttft, waits, "measured", {"color": COLOURS[0], "marker": "o", "markersize": 4})
        _dots(ttft, others, "simulated", {"color": COLOURS[4], "marker": "x", "markersize": 4})
        replicas.set(title="Replicas that take requests", ylabel="replicas")
        replicas.set_ylim(0, max(count for _, count in (*measured, *simulated)) + 0.6)
        replicas.yaxis.get_major_locator().set_params(integer=True)
        ttft.set(title="Time to first token, by arrival", xlabel="seconds since the run began", ylabel="s")
        _wait_axis(ttft, [wait for _, wait in (*waits, *others)])
        for axis in drawing.axes:
            axis.set_xlim(0, found.end)
            axis.legend(loc="upper right", fontsize=9.5)
    parts = [f"{one.name} {one.text(one.measured)} measured, {one.text(one.middle)} simulated" for one in found.figures]
    alt = f"Replicas and waits over {found.end:.0f} s, measured and simulated: {'; '.join(parts)}."
    return Picture(drawing.svg, alt, str(found.table()))


def _dots(axis: "Axes", points: Any, name: str, style: dict[str, Any]) -> None:
    axis.plot([at for at, _ in points], [wait for _, wait in points], linestyle="", label=name, **style)


def _wait_axis(axis: "Axes", waits: Any) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    above = [wait for wait in waits if wait > 0]
    if above and max(above) > _WIDE * min(above):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(bottom=0)


def plan_picture(plan: "Plan") -> Picture:
    """Each candidate's cost and the wait that it gives; those that meet the goal are filled.

    Args:
        plan: the plan.
    """
    kinds = list(dict.fromkeys(one.kind for one in plan.options))
    with figure(9.0, 4.4) as drawing:
        (axis,) = drawing.axes
        for place, kind in enumerate(kinds):
            for met in (True, False):
                points = [(one.gpu_hours, one.wait) for one in plan.options if one.kind == kind and one.met == met]
                if points:
                    label = f"{kind}{'' if met else ', goal missed'}"
                    fill = COLOURS[place] if met else "white"
                    style = {"color": COLOURS[place], "marker": MARKERS[place], "markersize": 8, "mfc": fill}
                    _dots(axis, points, label, style)
        for one in plan.options:
            side = "bottom" if one.kind == kinds[0] else "top"  # a fixed and a scaled one may lie on each other
            axis.annotate(f"  {one.label}", (one.gpu_hours, one.wait), fontsize=9, va=side)
        if plan.best is not None:
            axis.plot(
                [plan.best.gpu_hours], [plan.best.wait], "o", ms=17, mfc="none", mec=INK, mew=1.6, label="cheapest"
            )
        _wait_axis(axis, [one.wait for one in plan.options])
        if plan.goal.ttft is not None:
            axis.axhline(plan.goal.ttft, color=INK, linewidth=1, dashes=_DASHES[1], label="goal")
        axis.set(title="What the goal costs (simulated)", xlabel="GPU-hours", ylabel=f"TTFT p{plan.goal.percentile}, s")
        axis.margins(x=0.1)
        axis.legend(loc="best", fontsize=9.5)
    return Picture(
        drawing.svg, f"Simulated cost and wait of {len(plan.options)} set-ups. {plan.sentence}", str(plan.table())
    )


def idle_picture(found: "ToZero") -> Picture:
    """TTFT p99 and GPU-hours a day over the requests an hour; a line for each engine and way of reading it.

    Args:
        found: what scale to zero costs.
    """
    series: dict[str, list[Any]] = {}
    for one in found.cases:
        series.setdefault(one.engine, []).append(one)
    with figure(9.4, 5.4, panels=(1, 1)) as drawing:
        waits, hours = drawing.axes
        for place, (name, cases) in enumerate(series.items()):
            style = {"color": COLOURS[place % 7], "marker": MARKERS[place % 7], "dashes": _DASHES[place % 7]}
            at = [one.per_hour for one in cases]
            waits.plot(at, [one.wait for one in cases], label=name, **style)
            hours.plot(at, [one.gpu_hours for one in cases], **style)
        warm = found.kept
        waits.plot(list(warm), [one.wait for one in warm.values()], color=INK, dashes=(2, 2), label="one kept warm")
        hours.axhline(24, color=INK, dashes=(2, 2))
        waits.set(title="TTFT p99, s (simulated)", xlabel="requests an hour", ylabel="s")
        hours.set(title="GPU-hours a day (simulated)", xlabel="requests an hour")
        _wait_axis(waits, [one.wait for one in (*found.cases, *warm.values())])
        hours.set_ylim(0, 26)
        for axis in drawing.axes:
            axis.set_xscale("log")
            loads = sorted(warm)
            axis.set_xticks(loads, [f"{load:g}" for load in loads])
            axis.minorticks_off()
        waits.figure.legend(*waits.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9.5)
    said = joined([f"{name} {time_text(max(one.wait for one in cases))}" for name, cases in series.items()])
    alt = (
        f"Simulated waits and GPU time of scale to zero over {counted(len(warm), 'load')}. "
        f"Longest TTFT p99: {said}; {time_text(max(one.wait for one in warm.values()))} with one replica kept warm."
    )
    return Picture(drawing.svg, alt, str(found.table()))
