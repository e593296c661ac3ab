"""What a million tokens cost, from a price an hour that the reader gives: no price is built in (notebook 08)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.points import Finding, Point, heading, lower_bounds, points, rate_text, with_note
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.cards import Table

MILLION = 1_000_000


@dataclass(frozen=True, repr=False)
class Cost(Finding):
    """What a million tokens cost at each measured load.

    Attributes:
        points: in the order of their load; those without a token are left out.
        price: of an hour, busy or not.
        currency: as the reader writes it.
        busy: share of the hour in which the load is there, above 0 and up to 1.
    """

    points: Sequence[Point]
    price: float
    currency: str
    busy: float

    def of(self, tokens_per_second: float) -> float:
        """The price of a million tokens at so many a second in the busy share of the hour."""
        return self.price / (3600 * self.busy * tokens_per_second) * MILLION

    @property
    def cheapest(self) -> Point | None:
        """The load with the lowest price of an output token."""
        return max(self.points, key=lambda one: one.tokens_per_second, default=None)

    @property
    def sentence(self) -> str:
        """The lowest price, what another load makes of it, and what idle time does."""
        best = self.cheapest
        if best is None:
            return "No token came, so none has a price."
        text = (
            f"predicted: at {best.name} a million output tokens cost {self._money(self.of(best.tokens_per_second))}, "
            f"with the price that was given ({self._price}) and the rate that was measured"
        )
        text += ", if the load is there all the time." if self.busy == 1 else f", busy {self.busy:.0%} of the time."
        others = [one for one in self.points if one is not best]
        if others:
            dearest = min(others, key=lambda one: one.tokens_per_second)
            times = best.tokens_per_second / dearest.tokens_per_second
            text += (
                f" At {dearest.name} they cost {times:.2g} times that."
                if times > 1.02
                else " Other loads cost the same."
            )
        if self.busy == 1:
            quarter = self._money(4 * self.of(best.tokens_per_second))
            return f"{text} A server that is busy a quarter of the hour costs four times as much a token: {quarter}."
        return f"{text} Busy all the time it would be {self._money(self.busy * self.of(best.tokens_per_second))}."

    @property
    def _price(self) -> str:
        exact = f"{self.price:.2f}" if round(self.price, 2) == self.price else f"{self.price:g}"
        return f"{in_currency(exact, self.currency)} an hour"

    def _money(self, value: float) -> str:
        return in_currency(_digits(value), self.currency)

    def _range(self, one: Point) -> str:
        """The price at the slowest and at the fastest of the runs; a dash for one run."""
        if one.runs < 2 or "tokens_per_second" not in one.spread:
            return "–"
        low, high = one.spread["tokens_per_second"]
        return f"{_digits(self.of(high))} to {_digits(self.of(low))}" if low else "–"

    def table(self) -> "Table":
        """One row a load."""
        rows = [
            (
                one.label,
                rate_text(one.tokens_per_second),
                _digits(self.of(one.tokens_per_second)),
                _digits(self.of(one.total_tokens_per_second)) if one.total_tokens_per_second else "–",
                self._range(one),
            )
            for one in self.points
        ]
        unit = f", {self.currency}" if self.currency else ""
        columns = (
            *(heading(self.points), "output tokens/s", f"a million output tokens{unit}"),
            *(f"a million, input and output{unit}", f"output, over the runs{unit}"),
        )
        caption = f"predicted: {self._price} (given), busy {self.busy:.0%} of it, at the measured rates"
        bound = lower_bounds(self.points)
        return with_note(columns, rows, caption, self.sentence, bound and f"{bound[:-1]}, and prices upper ones.")

    def _repr_html_(self) -> str:
        # A page's mathematics takes what stands between two dollar signs for a formula, unless it is told not to look.
        return f"<div class='tex2jax_ignore mathjax_ignore'>{super()._repr_html_()}</div>"


def cost(what: Any, price_per_hour: float, currency: str = "", busy: float = 1.0) -> Cost:
    """What a million tokens cost at each measured load.

    Args:
        what: a sweep, results or points.
        price_per_hour: of the machine, as you pay it.
        currency: how to write it, such as ``"$"`` or ``"EUR"``.
        busy: share of the hour in which the load is there; the machine is paid for all of it.

    Raises:
        WorkshopError: a price that is not above 0, a share that is not above 0 and up to 1, or nothing was measured.
    """
    if not (isinstance(price_per_hour, int | float) and 0 < price_per_hour < float("inf")):
        raise WorkshopError(
            f"price_per_hour is {price_per_hour!r}. Give what an hour of the machine costs, such as 0.6."
        )
    if not (isinstance(busy, int | float) and 0 < busy <= 1):
        raise WorkshopError(f"busy is {busy!r}. Give the share of the hour with load, above 0 and up to 1.")
    return Cost([one for one in points(what) if one.tokens_per_second], price_per_hour, currency, busy)


def in_currency(digits: str, currency: str) -> str:
    """An amount: a sign such as $ stands before it, a name behind it."""
    if currency and not currency[0].isalnum():
        return f"{currency}{digits}"
    return f"{digits} {currency}".strip()


def _digits(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 else f"{value:.3g}"
