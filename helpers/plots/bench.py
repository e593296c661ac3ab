"""Benchmarks drawn: the throughput-latency curve, requests, a run over time, and distributions (notebook 08)."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.points import Point, heading, lower_bounds, points, rate_text, time_text, usable
from helpers.bench.measured import BUCKET, Run
from helpers.bench.results.figures import fewest, percentile
from helpers.bench.rows import Row
from helpers.cards import Picture, Table, counted
from helpers.errors import WorkshopError
from helpers.plots.canvas import COLOURS, FAINT, INK, MARKERS, few_ticks, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from helpers.bench.results.result import Result
    from helpers.serving.poller import Record

_MOST_SERIES = len(MARKERS)
_FEW_LINES = 48  # of them, up to which a hatch is seen
_MARK_EVERY = 4  # requests of a first wave, where all marks would run together
_MOST_LINES = 128  # requests that can be told apart in one picture
_MOST_STEPS = 200  # of a timeline
_ROWS = 12  # of a table beside a picture
_MARKED = (50, 95, 99)
_DASHES: tuple[Any, ...] = ((), (5, 2), (1, 1.5), (5, 1.5, 1, 1.5), (8, 2), (2, 2), (8, 2, 2, 2))
_WAIT: dict[str, Any] = {"facecolor": COLOURS[1], "edgecolor": "white", "hatch": "////", "linewidth": 0}
_WRITE: dict[str, Any] = {"facecolor": COLOURS[0], "edgecolor": "white", "linewidth": 0}
_OVER: dict[str, Any] = {"frameon": True, "facecolor": "white", "edgecolor": "none", "framealpha": 0.9}
_AREA: dict[str, Any] = {"step": "post", "linewidth": 0.3}

Series = dict[str, list[Point]]


# --- The curve ----------------------------------------------------------------


def sweep_picture(sweep: Any, knee: Point | None = None) -> Picture:
    """Throughput and each user's speed against the time to the first token; a point a load, labelled with it.

    Args:
        sweep: a sweep, results or points; those of one title are one line.
        knee: a point to ring.

    Where the client falsified the latencies of all loads, rates are drawn over the load instead.

    Raises:
        WorkshopError: no load gave a token, or there are more titles than can be told apart.
    """
    found = points(sweep, several=True)
    kept, left_out = usable(found)
    if not kept:
        return _rates_picture([one for one in found if one.tokens_per_second], left_out)
    series = _series(kept)
    with figure(9.4, 4.6, panels=(1, 1)) as drawing:
        curve, speed = drawing.axes
        for place, (title, line) in enumerate(series.items()):
            style = {"color": COLOURS[place], "marker": MARKERS[place], "dashes": _DASHES[place]}
            _curve(curve, line, "tokens_per_second", style, title or "measured")
            _curve(speed, line, "per_user", style, title or "measured")
        if knee is not None:
            _ringed(curve, knee, "tokens_per_second")
            _ringed(speed, knee, "per_user")
        bars = "thin bars: range of the runs" if any(one.spread for one in kept) else ""
        number = f"number at a point: {heading(kept)}"
        curve.set(title="All users together", xlabel=f"output tokens/s\n{number}", ylabel="TTFT, ms (median, log axis)")
        speed.set(title="Each user", xlabel=f"tokens/s per user (median)\n{bars}".rstrip())
        for axis in (curve, speed):
            _latency_axis(axis)
        _legends(drawing.axes, len(series) > 1, knee)
    rows = [_point_row(one) for line in series.values() for one in line]
    columns = ("from", heading(kept), "output tokens/s", "input and output", "per user", "TTFT p50", "TTFT p95")
    said = "; ".join(
        f"{f'{title}, ' if len(series) > 1 else ''}{one.name}: {rate_text(one.tokens_per_second)} tokens/s, "
        f"{rate_text(one.per_user.get(50))} per user, TTFT {time_text(one.ttft.get(50))}"
        for title, line in series.items()
        for one in line
    )
    ringed = f" The knee is at {knee.name}." if knee is not None else ""
    alt = f"Throughput and latency, a point a load. Measured: {said}.{ringed}"
    return Picture(drawing.svg, alt, str(Table(columns, rows, "Measured: medians; one row a load", left_out)))


def _ringed(axis: "Axes", knee: Point, name: str) -> None:
    """A ring around the knee."""
    across = _across(knee, name)
    if knee.measured and across is not None:
        axis.plot([across], [_ms(knee)], "o", ms=17, mfc="none", mec=INK, mew=1.6, label="knee")


def _rates_picture(found: Sequence[Point], left_out: str) -> Picture:
    """Throughput and each user's speed over the load: what is left where no latency is the server's."""
    if not found:
        raise WorkshopError("Nothing to draw: no load gave a token. The results' table says what went wrong.")
    series = _series(found)
    with figure(9.4, 4.2, panels=(1, 1)) as drawing:
        rate, speed = drawing.axes
        for number, (title, line) in enumerate(series.items()):
            style = {"color": COLOURS[number], "marker": MARKERS[number], "dashes": _DASHES[number]}
            at = [one.at for one in line]
            rate.plot(at, [one.tokens_per_second for one in line], markersize=7, label=title or "measured", **style)
            told = [one for one in line if one.per_user.get(50) is not None]
            speed.plot([one.at for one in told], [one.per_user.get(50) for one in told], markersize=7, **style)
        load = heading(found)
        least = "at least, " if any(one.client_bound for one in found) else ""
        rate.set(title="All users together", xlabel=load, ylabel=f"{least}output tokens/s")
        speed.set(title="Each user", xlabel=load, ylabel=f"{least}tokens/s per user (median)")
        for axis in drawing.axes:
            axis.set_xlim(left=0)
            axis.set_ylim(0, axis.get_ylim()[1] * 1.05)
            axis.xaxis.set_major_locator(few_ticks())
            axis.yaxis.set_major_locator(few_ticks())
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
        if len(series) > 1:
            rate.legend(loc="lower right", fontsize=9.5, **_OVER)
    said = "; ".join(
        f"{one.title + ', ' if len(series) > 1 else ''}{one.name}: {rate_text(one.tokens_per_second)} tokens/s, "
        f"{rate_text(one.per_user.get(50))} per user"
        for one in found
    )
    alt = f"Throughput over the load, without latencies, since none is the server's. Measured: {said}."
    columns = ("from", heading(found), "output tokens/s", "input and output", "per user")
    rows = [_point_row(one)[:5] for one in found]
    left_out = f"{left_out} {lower_bounds(found)}".strip()
    return Picture(drawing.svg, alt, str(Table(columns, rows, "Measured: medians; one row a load", left_out)))


def _series(kept: Sequence[Point]) -> Series:
    """Points by title."""
    found: Series = {}
    for one in kept:
        found.setdefault(one.title, []).append(one)
    if len(found) > _MOST_SERIES:
        raise WorkshopError(f"{len(found)} engines are too many for one picture. Give at most {_MOST_SERIES}.")
    return found


def _ms(one: Point) -> float | None:
    wait = one.ttft.get(50)
    return None if wait is None else 1000 * wait


def _across(one: Point, name: str) -> float | None:
    return one.tokens_per_second if name == "tokens_per_second" else one.per_user.get(50)


def _curve(axis: "Axes", line: Sequence[Point], name: str, style: dict[str, Any], label: str) -> None:
    """One line with a label at each point, and the range of its runs as thin bars."""
    drawn = [one for one in line if _across(one, name) is not None]
    across, up = [_across(one, name) or 0.0 for one in drawn], [_ms(one) or 0.0 for one in drawn]
    axis.plot(across, up, linewidth=1.6, markersize=7, label=label, **style)
    for one, x, y in zip(drawn, across, up, strict=True):
        low, high = one.within(name, x)
        below, above = (1000 * value for value in one.within("ttft", y / 1000))
        bar: dict[str, Any] = {"color": style["color"], "linewidth": 0.9, "alpha": 0.8}
        axis.plot([low, high], [y, y], **bar)
        axis.plot([x, x], [below, above], **bar)
    places, second = list(zip(across, up, strict=True)), style["marker"] != MARKERS[0]
    _labels(axis, places, [one.label for one in drawn], falls=name == "per_user", left=second)


def _labels(
    axis: "Axes", places: Sequence[tuple[float, float]], texts: Sequence[str], falls: bool = False, left: bool = False
) -> None:
    """A label beside each point, where its line does not run: one that falls leaves the place above at the right free.

    The other lines have theirs at the left, so that two keep them apart; a point that lies almost on the one before
    gets its label on the other side.
    """
    right_side, left_side = ((7, 4), (-7, -12)) if falls else ((7, -12), (-7, 5))
    usual, other = (left_side, right_side) if left else (right_side, left_side)
    spread = max((x for x, _ in places), default=0.0) or 1.0
    sides = [usual]
    for (x, y), (after_x, after_y) in pairwise(places):
        near = abs(after_x - x) < 0.06 * spread and abs(after_y - y) < 0.25 * max(y, 1e-9)
        sides.append(other if near and sides[-1] == usual else usual)
    for place, text, side in zip(places, texts, sides, strict=False):
        across = "left" if side[0] > 0 else "right"
        axis.annotate(text, place, xytext=side, textcoords="offset points", fontsize=9.5, ha=across)


def _latency_axis(axis: "Axes") -> None:
    """Milliseconds on a logarithmic axis with round numbers, and throughput from 0."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    if high / low < 4:  # a logarithmic axis of so little would have no number on it
        middle = (low * high) ** 0.5
        low, high = min(low, middle / 2.2), max(high, middle * 2.2)
    axis.set_ylim(low / 1.25, high * 1.25)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(0, axis.get_xlim()[1] * 1.06)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
    axis.xaxis.set_major_locator(few_ticks())


def _legends(axes: "Sequence[Axes]", several: bool, knee: Point | None) -> None:
    """One legend a panel, where it says more than that there is one line, in the corner that its lines leave free."""
    for axis, corner in zip(axes, ("upper left", "upper right"), strict=True):
        if several or knee is not None:
            axis.legend(loc=corner, fontsize=9.5, **_OVER)


def _point_row(one: Point) -> tuple[str, ...]:
    """One load in the picture's table."""
    rates = (rate_text(value or None) for value in (one.tokens_per_second, one.total_tokens_per_second))
    waits = (time_text(one.ttft.get(share)) for share in (50, 95))
    return (one.title or "measured", one.label, *rates, rate_text(one.per_user.get(50)), *waits)


# --- Requests -----------------------------------------------------------------


def requests_picture(result: "Result", run: int = 1) -> Picture:
    """Each request as a line over time: waiting for its first token, then its answer; the first wave is marked.

    Args:
        result: one load.
        run: which of its runs.

    Raises:
        WorkshopError: there is no such run, or nothing was sent in it.
    """
    done = _run(result, run)
    rows = sorted((row for row in done.rows if row.sent is not None), key=lambda row: (row.begun, row.index))
    if not rows:
        raise WorkshopError("Nothing to draw: no request was sent in this run.")
    shown = _thinned(rows, _MOST_LINES)
    dense = len(shown) > _FEW_LINES
    with figure(9, max(2.6, min(6.5, 1.6 + 0.06 * len(shown)))) as drawing:
        axis = drawing.axes[0]
        marked = [row.index for row in shown if row.first_wave][:: _MARK_EVERY if dense else 1]
        for place, row in enumerate(shown):
            _request(axis, place, row, dense)
            if row.index in marked:
                axis.plot([row.begun], [place], marker=">", color=INK, markersize=4, linestyle="")
        axis.set(
            title=_run_title("Requests", result, run), xlabel="seconds since the run began", ylabel="requests, as sent"
        )
        axis.set_ylim(len(shown) - 0.3, -0.7)
        axis.set_xlim(left=0)
        axis.set_yticks([])
        axis.grid(visible=False, axis="y")
        _limit_line(axis, result, rows, len(shown))
        _request_legend(axis, shown, dense)
    over = f"{counted(len(rows), 'request')} over time, {len(shown):,} of them drawn"
    alt = f"{over}: {_requests_said(rows)}{_limit_said(result)}"
    caption = f"Measured: {result.name}, run {run}; {len(_thinned(rows, _ROWS)):,} of {counted(len(rows), 'request')}"
    return Picture(drawing.svg, alt, str(_request_table(_thinned(rows, _ROWS), caption)))


def _thinned(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many, evenly chosen; the first is among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[k * len(rows) // most] for k in range(most)]


def _run_title(what: str, result: "Result", run: int) -> str:
    """A picture's title: of which load, and of which of its runs."""
    return f"{what}: {result.name}, run {run} of {max(one.number for one in result.runs)}"


def _limit_said(result: "Result") -> str:
    limit = result.max_batch_size
    return "" if limit is None else f" The server runs at most {limit:,} at once (max_batch_size)."


def _request(axis: "Axes", place: int, row: Row, dense: bool) -> None:
    """One request's line; waiting is thinner than the answer, which survives a print in grey."""
    end = row.ended if row.ended is not None else row.last_token if row.last_token is not None else row.begun
    first = row.first_token if row.first_token is not None else end
    axis.barh(place, first - row.begun, left=row.begun, height=0.3 if dense else 0.45, **_wait(dense))
    axis.barh(place, (row.last_token or first) - first, left=first, height=0.9 if dense else 0.8, **_WRITE)
    if not row.ok:
        axis.plot([end], [place], marker="x", color=COLOURS[4], markersize=6, markeredgewidth=1.6, linestyle="")


def _wait(dense: bool) -> dict[str, Any]:
    """How waiting is drawn: a hatch is not seen in thin lines."""
    return {**_WAIT, "hatch": "" if dense else _WAIT["hatch"]}


def _limit_line(axis: "Axes", result: "Result", rows: Sequence[Row], shown: int) -> None:
    """A line below as many requests as the server takes at once, where more were sent at the begin."""
    limit = result.max_batch_size
    if limit is None or sum(row.first_wave for row in rows) <= limit:
        return
    place = limit * shown / len(rows) - 0.5
    axis.axhline(place, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    text = f"max_batch_size {limit:,}: no more than those above at once"
    axis.annotate(
        text,
        (1, place),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9.5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 1},
    )


def _request_legend(axis: "Axes", rows: Sequence[Row], dense: bool) -> None:
    """What the parts of a line are; only those that are there."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(label="waits for its first token (thin)", **_wait(dense)),
        Patch(label="its answer comes", **_WRITE),
    ]
    if any(row.first_wave for row in rows):
        name = f"first wave (every {_MARK_EVERY}th marked)" if dense else "first wave"
        handles.append(Line2D([], [], color=INK, marker=">", ms=5, linestyle="", label=name))
    if not all(row.ok for row in rows):
        handles.append(Line2D([], [], color=COLOURS[4], marker="x", ms=6, mew=1.6, linestyle="", label="failed"))
    # Later requests lie lower, so the corner above them is free.
    axis.legend(handles=handles, loc="upper right", fontsize=9.5, **_OVER)


def _requests_said(rows: Sequence[Row]) -> str:
    """The first wave's wait and that of the others, and how many failed, in a sentence."""
    waves = {
        name: [row.ttft for row in rows if row.ok and row.ttft is not None and row.first_wave is first]
        for name, first in (("the first wave", True), ("later ones", False))
    }
    said = [
        f"{name} ({len(found):,}) waited {time_text(median(found))} for the first token (median)"
        for name, found in waves.items()
        if found
    ]
    failed = sum(not row.ok for row in rows)
    return f"{', '.join(said) or 'none was answered whole'}; {failed:,} failed."


def _request_table(rows: Sequence[Row], caption: str) -> Table:
    """Some requests in numbers."""
    columns = ("request", "sent at", "TTFT", "answer took", "tokens", "first wave", "outcome")
    body = []
    for row in rows:
        took = None if row.last_token is None or row.first_token is None else row.last_token - row.first_token
        tokens = "–" if row.tokens is None else f"{row.tokens:,}"
        wave = "yes" if row.first_wave else "no"
        body.append(
            (f"{row.index}", f"{row.begun:.2f} s", time_text(row.ttft), time_text(took), tokens, wave, row.outcome)
        )
    return Table(columns, body, caption)


def _run(result: "Result", number: int) -> Run:
    """One of a result's runs.

    Raises:
        WorkshopError: there is no such run.
    """
    for one in result.runs:
        if one.number == number:
            return one
    there = ", ".join(str(one.number) for one in result.runs) or "none"
    raise WorkshopError(f"There is no run {number} in this result. There are: {there}.")


# --- Over time ----------------------------------------------------------------


def timeline_picture(result: "Result", records: "Sequence[Record] | None" = None, run: int = 1) -> Picture:
    """A run over time: tokens a second, requests in flight, and blocks of the server's KV cache where it told.

    Args:
        result: one load.
        records: of the server's engine (:mod:`helpers.serving.poller`); None for those that the result kept.
        run: which of its runs.

    Raises:
        WorkshopError: there is no such run, or it kept no timeline.
    """
    from matplotlib.ticker import MaxNLocator

    done = _run(result, run)
    if not done.timeline.tokens:
        raise WorkshopError("Nothing to draw: no token came in this run, so there is nothing over time.")
    steps = _steps(done)
    told = _told(done, result.records if records is None else records)
    panels = 3 if told else 2
    end = steps[-1][0] + (steps[1][0] - steps[0][0] if len(steps) > 1 else BUCKET)
    across = [*(at for at, _, _ in steps), end]
    with figure(8.4, 1.75 * panels + 0.5, rows=panels) as drawing:
        rate, flying, *cache = drawing.axes
        _filled(rate, across, [tokens for _, tokens, _ in steps], COLOURS[0])
        _filled(flying, across, [count for _, _, count in steps], COLOURS[2])
        rate.set(title=_run_title("Over time", result, run), ylabel="output\ntokens/s")
        flying.set_ylabel("requests\nin flight")
        _batch_line(flying, result.max_batch_size, end)
        drawing.axes[-1].set_xlabel("seconds since the run began")
        for axis in drawing.axes:
            axis.set_xlim(0, end)
            axis.xaxis.set_major_locator(few_ticks())
            axis.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))  # nobody is half in flight
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axis.tick_params(labelbottom=axis is drawing.axes[-1])
        for axis in cache:
            _blocks(axis, told, end)
    return Picture(drawing.svg, _timeline_said(result, steps, told), str(_timeline_table(result, steps, told)))


def _steps(done: Run) -> list[tuple[float, float, int]]:
    """Seconds, tokens a second and the most requests in flight, in at most so many steps of equal length."""
    tokens, flying = done.timeline.tokens, done.timeline.in_flight
    size = -(-len(tokens) // _MOST_STEPS)
    parts = range(0, len(tokens), size)
    return [
        (k * BUCKET, sum(tokens[k : k + size]) / (BUCKET * len(tokens[k : k + size])), max(flying[k : k + size] or [0]))
        for k in parts
    ]


def _told(done: Run, records: "Sequence[Record]") -> list[tuple[float, int, int]]:
    """Seconds since the run began, blocks used and all blocks, of the records that fall into it."""
    length = len(done.timeline.tokens) * BUCKET
    return [
        (one.time - done.began, one.kv_used, one.kv_blocks or 0)
        for one in records
        if one.kv_used is not None and 0 <= one.time - done.began <= length
    ]


def _filled(axis: "Axes", across: Sequence[float], values: Sequence[float], colour: str) -> None:
    """An area; each value holds until the next."""
    axis.fill_between(across, 0, [*values, values[-1]], facecolor=colour, edgecolor=colour, **_AREA)
    axis.set_ylim(0, max(*values, 1e-9) * 1.2)
    axis.grid(visible=False)
    axis.spines["bottom"].set_color(FAINT)


def _batch_line(axis: "Axes", limit: int | None, end: float) -> None:
    """A line at the requests that the server takes at once, where it can be seen beside those in flight."""
    if limit is None or limit > axis.get_ylim()[1]:
        return
    axis.axhline(limit, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 1}
    axis.text(end * 0.01, limit * 1.06, f"max_batch_size {limit:,}", va="bottom", fontsize=9.5, bbox=box)


def _blocks(axis: "Axes", told: Sequence[tuple[float, int, int]], end: float) -> None:
    """The panel of KV blocks; all of them as a line where it can be seen beside those in use.

    Ticks end at the number of blocks, and the fullest moment has its number.
    """
    highest, whole = max(used for _, used, _ in told), max(all_ for _, _, all_ in told)
    thin = told[:: -(-len(told) // (2 * _MOST_STEPS))]
    axis.fill_between([at for at, _, _ in thin], 0, [used for _, used, _ in thin], facecolor=COLOURS[5], **_AREA)
    near = whole and highest > 0.1 * whole
    top = whole if near else max(highest, 1)
    axis.set_ylim(0, top * 1.45)
    axis.set_yticks(
        [tick for tick in axis.yaxis.get_major_locator().tick_values(0, top) if 0 <= tick < 0.8 * top] + [top]
    )
    if near:
        axis.axhline(whole, color=INK, linewidth=1)
    if whole:
        text = f"all {whole:,} blocks" if near else f"the cache has {whole:,} blocks"
        axis.text(end * 0.01, top * 1.06, text, va="bottom", fontsize=9.5)
    at = next(when for when, used, _ in told if used == highest)
    side: Any = "left" if at < 0.7 * end else "right"
    axis.plot([at], [highest], marker="o", color=INK, markersize=3, linestyle="")
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    label = f" at most {highest:,} "
    if near:
        low = highest < 0.7 * whole  # there is room above the area
        place = highest + 0.04 * whole if low else 0.86 * whole
        axis.text(at, place, label, va="bottom" if low else "top", ha=side, fontsize=9.5, bbox=box)
    else:
        axis.text(end * 0.99, top * 1.06, label, va="bottom", ha="right", fontsize=9.5)
    axis.set_ylabel("KV blocks\nused")
    axis.grid(visible=False)


def _timeline_said(result: "Result", steps: Sequence[tuple[float, float, int]], told: Sequence[Any]) -> str:
    """The picture in a sentence."""
    most = max(tokens for _, tokens, _ in steps)
    flying = max(count for _, _, count in steps)
    text = f"Measured over time, {result.name}: up to {rate_text(most)} output tokens/s, up to {flying:,} in flight"
    if told:
        text += f", up to {max(used for _, used, _ in told):,} of {max(all_ for _, _, all_ in told):,} KV blocks used"
    return f"{text}.{_limit_said(result)}"


def _timeline_table(result: "Result", steps: Sequence[tuple[float, float, int]], told: Sequence[Any]) -> Table:
    """The picture in numbers: stretches of the run."""
    size = -(-len(steps) // _ROWS)
    length = steps[1][0] - steps[0][0] if len(steps) > 1 else BUCKET
    body = []
    for k in range(0, len(steps), size):
        part = steps[k : k + size]
        begin, end = part[0][0], part[-1][0] + length
        used = [blocks for at, blocks, _ in told if begin <= at < end]
        mean = sum(tokens for _, tokens, _ in part) / len(part)
        blocks = f"{max(used):,}" if used else "–"
        body.append((f"{begin:.1f}", f"{end:.1f}", rate_text(mean), f"{max(c for _, _, c in part):,}", blocks))
    columns = ("from (s)", "to (s)", "output tokens/s", "in flight, at most", "KV blocks used, at most")
    return Table(
        columns if told else columns[:4], [row if told else row[:4] for row in body], f"Measured: {result.name}"
    )


# --- Distributions ------------------------------------------------------------


def distribution_picture(result: "Result") -> Picture:
    """What share of requests waited how long: TTFT and ITL, a line a run, with their percentiles.

    Args:
        result: one load.

    Raises:
        WorkshopError: no answer was whole.
    """
    runs = list(result.runs)[:_MOST_SERIES]
    waits = {run.number: sorted(row.ttft for row in run.rows if row.ok and row.ttft is not None) for run in runs}
    if not any(waits.values()):
        raise WorkshopError("Nothing to draw: no request was answered whole. The result's table says what went wrong.")
    gaps = {run.number: list(run.gaps.quantiles) for run in runs}
    with figure(9.4, 4.0, panels=(1, 1)) as drawing:
        left, right = drawing.axes
        for place, run in enumerate(runs):
            style = {
                "color": COLOURS[place],
                "dashes": _DASHES[place],
                "marker": MARKERS[place],
                "label": f"run {run.number}",
            }
            _shares(left, waits[run.number], style)
            _shares(right, gaps[run.number], style, run.gaps.n)
        left.set(title="Time to first token", xlabel="ms", ylabel="share of requests that waited less")
        right.set(title="Inter-token latency", xlabel="ms", ylabel="share of gaps that were shorter")
        for axis in (left, right):
            _share_axis(axis)
        if len(runs) > 1:
            left.legend(loc="lower right", fontsize=9.5)
    rows = [_share_row(run, waits[run.number], "TTFT", len(waits[run.number])) for run in runs]
    rows += [_share_row(run, gaps[run.number], "ITL", run.gaps.n) for run in runs]
    bound = result.summary.gaps_bound
    what = "these are" if result.summary.client_bound else "the gaps are"
    note = f"client-bound: {what} the client's times, not the server's ({bound})." if bound else ""
    caption = f"Measured: {result.name}"
    columns = ("", "run", "n", *(f"p{q}" for q in _MARKED))
    said = "; ".join(f"run {row[1]} {row[0]} p50 {row[3]}, p95 {row[4]}, p99 {row[5]} (n = {row[2]})" for row in rows)
    alt = f"Shares of requests by their time to first token, and of gaps by their length, {result.name}: {said}."
    return Picture(drawing.svg, alt if not note else f"{alt} {note}", str(Table(columns, rows, caption, note)))


def _shares(axis: "Axes", values: Sequence[float], style: dict[str, Any], n: int | None = None) -> None:
    """The cumulative share of values in ms, with marks at the percentiles that there are enough of."""
    if not values:
        return
    up = [100 * k / max(len(values) - 1, 1) for k in range(len(values))]
    every = max(1, len(values) // 400)
    keep = sorted({*range(0, len(values), every), len(values) - 1})
    line = {name: value for name, value in style.items() if name != "marker"}
    axis.plot([1000 * values[k] for k in keep], [up[k] for k in keep], linewidth=1.8, **line)
    marks = [q for q in _MARKED if (n if n is not None else len(values)) >= fewest(q)]
    places = [1000 * percentile(values, q) for q in marks]
    axis.plot(places, marks, linestyle="", marker=style["marker"], color=style["color"], markersize=6)


def _share_axis(axis: "Axes") -> None:
    """Percentages, and at the right the percentiles that are marked: 95 and 99 lie too near for one column of ticks."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    low, high = axis.get_xlim()
    values = [x for line in axis.get_lines() for x in line.get_xdata() if x > 0]
    if values and max(values) / min(values) > 20:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_xlim(0, high * 1.05 if high > low else None)
        axis.xaxis.set_major_locator(few_ticks())
    axis.set_ylim(0, 103)
    axis.set_yticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"])
    for q, side in zip(_MARKED, ("center", "top", "bottom"), strict=True):
        axis.text(1.01, q, f"p{q}", transform=axis.get_yaxis_transform(), va=side, fontsize=9.5)


def _share_row(run: Run, values: Sequence[float], what: str, n: int) -> tuple[str, ...]:
    """One run's percentiles of one time; a dash where there are too few values."""
    shown = [time_text(percentile(values, q)) if values and n >= fewest(q) else "–" for q in _MARKED]
    return (what, f"{run.number}", f"{n:,}", *shown)
