"""What shares a GPU's memory, as stacked bars (notebook 05)."""

from typing import TYPE_CHECKING, Any

from helpers.cards import Picture, Table, bytes_text, counted
from helpers.errors import WorkshopError
from helpers.plots.canvas import COLOURS, FAINT, PANEL, few_ticks, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from helpers.memory import Fit

# Colour and hatch of each part, in the order in which the memory fills.
_STYLES = ((COLOURS[6], "xx"), (COLOURS[0], ""), (COLOURS[1], "//"), (COLOURS[2], ".."), (PANEL, ""))
_WIDE_ENOUGH = 0.11  # of the widest bar: a part narrower than that has no room for its size


def memory_bar(*fits: "Fit") -> Picture:
    """Runtime, weights, activations, KV cache and what is left, one bar a plan.

    Args:
        fits: from :func:`helpers.memory.fit`.

    Raises:
        WorkshopError: none was given.
    """
    if not fits:
        raise WorkshopError("Nothing to draw: no plan was given. Make one with memory.fit(model, gpu).")
    widest = max(fit.memory for fit in fits)
    names = [name for name, _ in fits[0].parts]
    with figure(9.0, 1.7 + 0.62 * len(fits)) as drawing:
        axis = drawing.axes[0]
        for row, fit in enumerate(fits):
            _bar(axis, row, fit, widest)
        axis.set_yticks(range(len(fits)), [_label(fit) for fit in fits])
        axis.set(ylim=(len(fits) - 0.5, -0.5), xlim=(0, 1.18 * widest), title="predicted: what shares the memory")
        axis.xaxis.set_major_formatter(lambda value, _: bytes_text(value).replace(".00", "") if value else "0")
        axis.xaxis.set_major_locator(few_ticks())
        axis.grid(visible=False)
        axis.tick_params(axis="y", length=0)
        said = [f"{name} {bytes_text(size)}" for name, size in fits[0].parts] if len(fits) == 1 else names
        handles = [axis.barh(0, 0, **_style(i)) for i in range(len(said))]
        axis.figure.legend(handles, said, loc="outside lower center", ncols=3, fontsize=9.5)
    rows = [(_label(fit).replace("\n", ", "), *(bytes_text(size) for _, size in fit.parts), _room(fit)) for fit in fits]
    table = Table(("plan", *names, "room for"), rows, "predicted: what shares the memory of each GPU")
    told = "; ".join(
        f"{fit.title}: " + ", ".join(f"{name} {bytes_text(size)}" for name, size in fit.parts) + f", {_room(fit)}"
        for fit in fits
    )
    return Picture(drawing.svg, f"Stacked bars of what shares a GPU's memory, predicted. {told}.", str(table))


def _bar(axis: "Axes", row: int, fit: "Fit", widest: int) -> None:
    """One plan's parts, with their sizes where there is room, and its requests behind the bar."""
    start = 0
    for number, (_, size) in enumerate(fit.parts):
        axis.barh(row, size, left=start, height=0.56, **_style(number))
        if size >= _WIDE_ENOUGH * widest:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            place = {"ha": "center", "va": "center", "fontsize": 9.5, "bbox": box}
            axis.text(start + size / 2, row, bytes_text(size), **place)
        start += size
    axis.text(fit.memory, row, f"  {fit.requests:,} ×\n  {fit.sequence:,} tokens", va="center", fontsize=9.5)


def _style(number: int) -> dict[str, Any]:
    """Colour, hatch and edge of a part."""
    colour, hatch = _STYLES[number]
    return {"color": colour, "hatch": hatch, "edgecolor": "white" if number < len(_STYLES) - 1 else FAINT}


def _label(fit: "Fit") -> str:
    """A plan in two short lines."""
    count = f"{fit.tp_size} × " if fit.tp_size > 1 else ""
    return f"{fit.model}, {count}{fit.gpu}\n{fit.precision_text}"


def _room(fit: "Fit") -> str:
    """Requests that fit."""
    return f"{counted(fit.requests, 'request')} of {fit.sequence:,} tokens"
