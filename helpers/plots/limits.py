"""The roofline: how fast a step can be, over how much is computed with each byte read (notebook 01)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from helpers.cards import Picture, Table, counted
from helpers.hardware.limits import BYTES, operations_text
from helpers.plots.canvas import COLOURS, INK, MARKERS, amount, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Limits(Protocol):
    """What a roofline is drawn from: bytes a second, and operations a second in each precision."""

    @property
    def device(self) -> str:
        """Its name."""

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""

    @property
    def rates(self) -> Mapping[str, float]:
        """Precision to operations a second."""

    @property
    def label(self) -> str:
        """Where they come from, such as ``datasheet`` or ``recorded``; empty if they were measured just now."""


DASHES = ((4.0, 2.0), (1.0, 1.6), (6.0, 1.5, 1.0, 1.5))
"""How the limits beside the device's own are drawn, in their order: lengths of line and gap."""

TOKENS = (1, 32, 1024)
"""Tokens in a step: one user's generation, a batch of 32, a prompt."""


def roofline(limits: Limits, *others: Limits | None, shown: Sequence[str] = ()) -> Picture:
    """How fast a step can be, over how much is computed with each byte read: two limits, steps between them.

    A step with n tokens does 2n operations for each weight that it reads.

    Args:
        limits: measured on the device, or a datasheet's where it is not at hand; solid lines.
        others: what to set beside them, such as its datasheet or a recorded measurement; dashed and dotted lines, for
            the precisions that both have. None is left out.
        shown: precisions to draw; by default those that differ and that the device computes in.
    """
    precisions = list(shown) or worth_drawing(limits)
    label = limits.label
    compared = [other for other in others if other is not None]
    title = f"{f'{label}: roofline' if label else 'Roofline'} of {limits.device}"
    with figure(9, 4.8) as drawing:
        axis = drawing.axes[0]
        for number, p in enumerate(precisions):
            _roof(axis, number, p, limits, compared)
        for tokens in TOKENS:
            place = {"xytext": (8, -14), "textcoords": "offset points", "fontsize": 9.5}
            axis.annotate(counted(tokens, "token"), _step(limits, precisions[0], tokens), **place)
        axis.set(title=title, xlabel="operations for each byte read", ylabel="operations a second")
        axis.set(xscale="log", yscale="log")
        axis.yaxis.set_major_formatter(lambda value, _: operations_text(value))
        axis.yaxis.set_minor_formatter(lambda value, _: "")
        axis.plot([], [], color=INK, linewidth=2, label=f"{label}: limit" if label else "limit, measured")
        for other, dashes in zip(compared, DASHES, strict=False):
            axis.plot([], [], color=INK, linewidth=1, dashes=dashes, label=_beside(other, limits))
        axis.legend(loc="lower right", fontsize=9.5)
    rows = [_roof_row(p, limits) for p in precisions]
    memory = amount(limits.bandwidth / 1e9, "GB/s")
    columns = ("weights", "matrix rate", "tokens to balance", *(f"predicted: {counted(t, 'token')}" for t in TOKENS))
    caption = f"{label or 'Measured'}: memory {memory}. Operations a second, and what limits them"
    balance = "; ".join(f"{row[0]} at {row[2]} tokens a step" for row in rows)
    alt = f"{title}: memory gives {memory}; a step turns from memory-bound to compute-bound with {balance}."
    note = " ".join(
        f"{_beside(other, limits)}: memory {amount(other.bandwidth / 1e9, 'GB/s')}, "
        + ", ".join(f"{p.upper()} {operations_text(other.rates[p])}" for p in precisions if p in other.rates)
        for other in compared
    )
    return Picture(drawing.svg, alt, str(Table(columns, rows, caption, note)))


def _beside(other: Limits, limits: Limits) -> str:
    """What the legend calls other limits: where they come from, and of what if that is another product."""
    label = other.label or "measured"
    same = other.device in limits.device
    return f"{label}: limit" if same else f"{label}: limit of {other.device}"


def _step(limits: Limits, precision_name: str, tokens: int) -> tuple[float, float]:
    """Operations a byte, and operations a second that the limits allow, for a step with so many tokens."""
    intensity = 2 * tokens / BYTES[precision_name]
    return intensity, min(intensity * limits.bandwidth, limits.rates[precision_name])


def _roof(axis: "Axes", number: int, p: str, own: Limits, others: Sequence[Limits]) -> None:
    """One precision's limits as lines, and its steps as marks."""
    ends = 0.3, 4 * max(1024, own.rates[p] / own.bandwidth)
    styles: list[dict[str, Any]] = [{"linewidth": 2.0}, *({"linewidth": 1.0, "dashes": dashes} for dashes in DASHES)]
    for limits, style in zip((own, *others), styles, strict=False):
        if p in limits.rates:
            rate = limits.rates[p]
            corner = rate / limits.bandwidth
            axis.plot(
                [ends[0], corner, ends[1]],
                [ends[0] * limits.bandwidth, rate, rate],
                color=COLOURS[number],
                **style,
            )
    across, up = zip(*(_step(own, p, tokens) for tokens in TOKENS), strict=True)
    style = {"color": COLOURS[number], "markersize": 9, "label": f"{p.upper()} weights"}
    axis.plot(across, up, MARKERS[number], **style)


def _roof_row(p: str, measured: Limits) -> tuple[str, ...]:
    """One precision in the picture's table."""
    rate = measured.rates[p]
    steps = [_step(measured, p, tokens)[1] for tokens in TOKENS]
    reached = [f"{operations_text(s)} ({'compute' if s >= rate else 'memory'})" for s in steps]
    return p.upper(), operations_text(rate), f"{rate * BYTES[p] / (2 * measured.bandwidth):,.0f}", *reached


def worth_drawing(measured: Limits) -> list[str]:
    """The precisions whose lines say something.

    Left out: what the device only emulates (arithmetic slower than memory even for one token), what is slower
    than a wider precision, and what lies on the line of another precision of the same width.
    """
    drawn: list[str] = []
    for p, rate in measured.rates.items():
        if p not in BYTES or rate * BYTES[p] < 2 * measured.bandwidth:
            continue
        wider = [q for q in drawn if BYTES[q] >= BYTES[p]]
        if all(rate > 1.1 * measured.rates[q] for q in wider):
            drawn.append(p)
    return drawn or list(measured.rates)
