"""A load that changes over time: its rate follows straight lines between points (notebook 09). Pure.

A profile is a sequence of points ``(seconds since the run began, requests a second)``; two points at one time are a
step. Arrivals come from a process of rate 1 whose clock runs as fast as the profile says (time rescaling): the area
below the lines up to a time is the number of requests expected until then, and :func:`time_of` goes the other way.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from helpers.errors import WorkshopError

Points = Sequence[tuple[float, float]]

_EXAMPLE = "((0, 0.5), (20, 4), (20, 12), (30, 12))"
_SLACK = 1e-9  # requests: what adding areas up loses


def ramp(low: float, high: float, seconds: float, hold: float = 0.0) -> tuple[tuple[float, float], ...]:
    """From one rate to another in some seconds, and for some more as it is then.

    Args:
        low, high: requests a second.
        seconds, hold: how long it changes, and how long it stays.

    Raises:
        WorkshopError: these make no profile.
    """
    held = ((seconds + hold, high),) if hold else ()
    return checked(((0.0, low), (seconds, high), *held))


def burst(calm: float, high: float, before: float, seconds: float, after: float) -> tuple[tuple[float, float], ...]:
    """A calm load with a burst in it, which begins and ends at once.

    Args:
        calm, high: requests a second outside the burst and in it.
        before, seconds, after: how long it is calm, how long the burst lasts, and how long it is calm again.

    Raises:
        WorkshopError: these make no profile.
    """
    end = before + seconds
    return checked(((0.0, calm), (before, calm), (before, high), (end, high), (end, calm), (end + after, calm)))


def checked(given: Any) -> tuple[tuple[float, float], ...]:
    """A profile as pairs of numbers.

    Raises:
        WorkshopError: it is none; says why.
    """
    try:
        pairs = [tuple(point) for point in given]
    except TypeError:
        raise WorkshopError(f"The profile is {given!r}. Give points of seconds and requests/s: {_EXAMPLE}.") from None
    for pair in pairs:
        if len(pair) != 2 or not all(_number(value) for value in pair):
            raise WorkshopError(
                f"A point of the profile is {pair!r}. Give two finite numbers, seconds and requests/s: (20, 4)."
            )
    points = tuple((float(at), float(rate)) for at, rate in pairs)
    if len(points) < 2:
        raise WorkshopError(f"The profile has {len(points)} points. Give at least two, a begin and an end: {_EXAMPLE}.")
    _check_times(points)
    if low := next((rate for _, rate in points if rate < 0), None):
        raise WorkshopError(f"The profile has a rate of {low:g} requests/s. Give rates of at least 0.")
    if not area(points) > 0:
        raise WorkshopError("The profile has a rate of 0 throughout, so nothing would be sent. Give one above 0.")
    return points


def _check_times(points: Points) -> None:
    if points[0][0] != 0:
        raise WorkshopError(f"The profile begins at {points[0][0]:g} s. Give its first point the time 0.")
    if back := next(((a, b) for (a, _), (b, _) in pairwise(points) if b < a), None):
        raise WorkshopError(f"The profile goes back from {back[0]:g} s to {back[1]:g} s. Give its points in order.")
    if points[-1][0] <= 0:
        raise WorkshopError(f"The profile ends at {points[-1][0]:g} s, where it begins. Give its last point a time.")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def parsed(text: str) -> tuple[tuple[float, float], ...]:
    """A profile as a terminal has it: ``0:0.5,20:4,20:12,30:12``.

    Raises:
        WorkshopError: it is none.
    """
    try:
        pairs = [tuple(float(part) for part in point.split(":")) for point in text.split(",")]
    except ValueError:
        raise WorkshopError(
            f"The profile is {text!r}. Give points of seconds and requests/s with commas: 0:0.5,20:4,20:12,30:12."
        ) from None
    return checked(pairs)


def end(points: Points) -> float:
    """Seconds after which nothing more is sent."""
    return points[-1][0]


def peak(points: Points) -> float:
    """The highest rate, in requests a second."""
    return max(rate for _, rate in points)


def rate_at(points: Points, at: float) -> float:
    """Requests a second at a time; at a step those after it, and 0 before the profile and after it."""
    if not points[0][0] <= at <= points[-1][0]:
        return 0.0
    for (begin, low), (close, high) in pairwise(points):
        if begin <= at < close:
            return low + (high - low) * (at - begin) / (close - begin)
    return points[-1][1]


def area(points: Points, until: float = math.inf) -> float:
    """Requests that are expected up to a time."""
    whole = 0.0
    for (begin, low), (close, high) in pairwise(points):
        if begin >= until:
            break
        if close > begin:
            last = min(close, until)
            at_last = low + (high - low) * (last - begin) / (close - begin)
            whole += (low + at_last) / 2 * (last - begin)
    return whole


def time_of(points: Points, requests: float) -> float | None:
    """The time up to which so many requests are expected; None if there are never more than that.

    Of a time without requests that lies there, its end: with 0 that is when the first may come.
    """
    left = requests
    for (begin, low), (close, high) in pairwise(points):
        width = close - begin
        below = (low + high) / 2 * width
        if left < below - _SLACK:
            # low · x + slope / 2 · x² = left, solved so that it also holds for a slope of 0.
            root = math.sqrt(max(0.0, low * low + 2 * (high - low) / width * left))
            return begin + (2 * left / (low + root) if left > 0 else 0.0)
        left = max(0.0, left - below)
    return None


def said(points: Points) -> str:
    """The profile in a few words: ``0.5 to 12 requests/s over 45 s``."""
    low, high = min(rate for _, rate in points), peak(points)
    rates = f"{low:g} to {high:g}" if low < high else f"{high:g}"
    return f"{rates} requests/s over {end(points):g} s"
