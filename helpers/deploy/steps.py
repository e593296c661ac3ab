"""A count that changes at moments and stays as it is between them: requests in flight, replicas (notebook 09). Pure."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """A step function of time.

    Attributes:
        times: at which it changes, ascending, in seconds.
        values: from each of these times on; 0 before the first.
    """

    times: Sequence[float]
    values: Sequence[float]

    @classmethod
    def spans(cls, spans: Iterable[tuple[float, float]]) -> "Steps":
        """How many spans of time are under way; at equal times an end comes before a begin."""
        changes = sorted((at, change) for begin, end in spans for at, change in ((begin, 1), (end, -1)))
        times: list[float] = []
        values: list[float] = []
        count = 0
        for at, change in changes:
            count += change
            if times and times[-1] == at:
                values[-1] = count
            else:
                times.append(at)
                values.append(count)
        return cls(times, values)

    def at(self, time: float) -> float:
        """Its value at a time."""
        place = bisect_right(self.times, time)
        return self.values[place - 1] if place else 0

    def pieces(self, begin: float, end: float) -> Iterator[tuple[float, float, float]]:
        """Each stretch between two times in which it does not change: from, to, value."""
        place = bisect_right(self.times, begin)
        start, value = begin, self.at(begin)
        while place < len(self.times) and self.times[place] < end:
            at, following = self.times[place], self.values[place]
            if following != value:
                if at > start:
                    yield start, at, value
                start, value = at, following
            place += 1
        if end > start:
            yield start, end, value

    def most(self, begin: float, end: float) -> float:
        """Its highest value between two times."""
        return max((value for _, _, value in self.pieces(begin, end)), default=self.at(begin))

    def mean(self, begin: float, end: float) -> float:
        """Its mean between two times."""
        whole = sum((close - start) * value for start, close, value in self.pieces(begin, end))
        return whole / (end - begin) if end > begin else self.at(begin)

    def path(self, begin: float, end: float) -> list[float]:
        """Its values between two times in order, each change once."""
        found: list[float] = []
        for _, _, value in self.pieces(begin, end):
            if not found or found[-1] != value:
                found.append(value)
        return found or [self.at(begin)]


def both(first: Steps, second: Steps, join: Callable[[float, float], float]) -> Steps:
    """A value made of two at each of their times."""
    times = sorted({*first.times, *second.times})
    return Steps(times, [join(first.at(at), second.at(at)) for at in times])


def since(holds: Steps, until: float, least: float) -> float | None:
    """From when on something has held until a time; a shorter break than ``least`` seconds does not end it.

    Args:
        holds: 1 while it holds.
        until: the time; it is looked back from there.
        least: seconds.

    Returns:
        None if it did not hold in the last ``least`` seconds.
    """
    begun: float | None = None
    for start, end, value in reversed(list(holds.pieces(min([*holds.times, until]), until))):
        if value:
            begun = start
        elif end - start >= least:
            break
    return begun
