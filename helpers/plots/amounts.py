"""Amounts side by side, such as the sizes of engines."""

from collections.abc import Sequence
from typing import Any

from helpers.cards import Picture, Table
from helpers.errors import WorkshopError
from helpers.plots.canvas import COLOURS, HATCHES, amount, few_ticks, figure


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
    said = [f"{amount(value, unit)}{f'  ({note})' if note else ''}" for value, note in zip(values, notes, strict=True)]
    with figure(8.5, 1.1 + 0.5 * len(labels)) as drawing:
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
        axis.xaxis.set_major_formatter(lambda value, _: amount(value, unit).replace(".00", "") if value else "0")
        axis.xaxis.set_major_locator(few_ticks())
        axis.grid(visible=False, axis="y")
        axis.tick_params(axis="y", length=0)
    table = Table(
        ("", "amount", "note") if any(notes) else ("", "amount"),
        [
            (label, amount(value, unit), note) if any(notes) else (label, amount(value, unit))
            for label, value, note in zip(labels, values, notes, strict=True)
        ],
        title,
    )
    listed = ", ".join(f"{label} {text}" for label, text in zip(labels, said, strict=True))
    return Picture(drawing.svg, f"Bars, {title}: {listed}.".replace("  (", " ("), str(table))
