"""A cold start taken apart: from a request that meets no replica to its first token (notebook 09). Pure.

Its parts lie between the steps that were noted (:mod:`helpers.deploy.observed`) and add up to what the client waited.
A step that nobody noted is not guessed: the parts on its two sides are told as one. A step may be noted late, since
replicas are looked at a few times a second; it is then set to the step that must have come after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from helpers.bench.analysis.points import joined, time_text
from helpers.cards import Picture, Shown, ShownAsTable, Table, counted
from helpers.deploy.observed import ASKED, ENDED, IMPORTED, LOADED, PROCESS, READY, Observed
from helpers.errors import WorkshopError

FIRST = "first token"
PARTS = {
    ASKED: "decision",
    PROCESS: "process",
    IMPORTED: "imports",
    LOADED: "engine",
    READY: "ready",
    FIRST: "first token",
}
"""The step that ends a part, and the part's name."""

MEANINGS = {
    "decision": "from the request until a replica was asked for",
    "process": "until its process existed",
    "imports": "until what it needs was imported",
    "engine": "until the engine could compute",
    "ready": "until requests were sent to it: its health was looked at and its place told",
    "first token": "until the first token was at the client",
}

_LATE = 1.0  # seconds by which a step may be noted after it happened

RUNS = 3
"""Cold starts of each kind from which a difference is told: ranges of two lie apart by chance one time in three."""


@dataclass(frozen=True, repr=False)
class ColdStart(Shown):
    """One of them.

    Attributes:
        parts: name to seconds, in order; a name such as ``process + imports`` is of two that could not be told apart.
        replica: that answered; empty where no mark says.
        missing: steps that nobody noted.
        late: steps that were noted after the next one, and set to it.
        warm: True if a replica was running already: then there is only the first token.
    """

    parts: Mapping[str, float]
    replica: str = ""
    missing: Sequence[str] = ()
    late: Sequence[str] = field(default_factory=tuple)
    warm: bool = False

    @classmethod
    def of(cls, observed: Observed, sent: float, first_token: float) -> "ColdStart":
        """From what was noted, and a request's times at its client.

        Args:
            observed: the marks of replicas.
            sent, first_token: of the request, in seconds since 1970.

        Raises:
            WorkshopError: the times make no request, or no replica took requests until the first token.
        """
        if not first_token > sent:
            raise WorkshopError(
                f"The first token came {first_token - sent:.3f} s after the request was sent. Give the times of a "
                "request that was answered."
            )
        found = observed.replicas()
        ready = [name for name, steps in found.items() if steps.get(READY, steps.get(LOADED, sent + 1)) <= sent]
        if serving := [name for name in ready if found[name].get(ENDED, first_token) >= first_token]:
            return cls({FIRST: first_token - sent}, serving[0], warm=True)
        name = _served(found, sent, first_token)
        return cls._apart(name, found[name], sent, first_token)

    @classmethod
    def _apart(cls, name: str, steps: Mapping[str, float], sent: float, first_token: float) -> "ColdStart":
        """Its parts; they add up, since each begins where the one before it ended."""
        known = [step for step in PARTS if step in steps and step != FIRST]
        missing = [step for step in PARTS if step not in steps and step != FIRST]
        times, late, following = {FIRST: first_token}, [], first_token
        for step in reversed(known):
            at = max(sent, steps[step])
            if at > following:
                late.append(step)
            times[step] = following = min(at, following)
        parts: dict[str, float] = {}
        names: list[str] = []
        before = sent
        for step, title in PARTS.items():
            names.append(title)
            if step in times:
                parts[" + ".join(names)] = times[step] - before
                before, names = times[step], []
        return cls(parts, name, tuple(missing), tuple(reversed(late)))

    @property
    def total(self) -> float:
        """Seconds from the request to its first token."""
        return sum(self.parts.values())

    @property
    def said(self) -> str:
        """How long it took, what most of it was, and what is not known of it."""
        if self.warm:
            return f"A replica was running already: the first token came after {time_text(self.total)}."
        name, seconds = max(self.parts.items(), key=lambda part: part[1])
        told = [
            f"From the request to its first token it took {time_text(self.total)}; the longest part is {name}, "
            f"{time_text(seconds)} ({seconds / self.total:.0%})."
        ]
        if self.missing:
            told.append(f"Not noted: {joined(self.missing)}, so the parts around are told as one.")
        if self.late:
            told.append(f"Noted late, and so set to the next step: {joined(self.late)}.")
        return " ".join(told)

    def table(self) -> Table:
        """One row a part."""
        rows = [
            [name, time_text(seconds), f"{seconds / self.total:.0%}", _meaning(name)]
            for name, seconds in self.parts.items()
        ]
        rows.append(["all", time_text(self.total), "100%", "as the client measured it"])
        return Table(("part", "took", "share", "what it is"), rows, "Measured: a cold start, part by part", self.said)

    def picture(self) -> Picture:
        """Its parts as one bar."""
        return side_by_side({"cold start": [self]}).picture()

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.picture()._repr_html_() + self.table()._repr_html_()


def _served(found: Mapping[str, Mapping[str, float]], sent: float, first_token: float) -> str:
    """The replica that must have answered: the first that could, of those that were not there before.

    Raises:
        WorkshopError: there is none.
    """
    able = {
        name: min(steps[step] for step in (READY, LOADED) if step in steps)
        for name, steps in found.items()
        if (READY in steps or LOADED in steps) and steps.get(ENDED, first_token) >= first_token
    }
    # Ready may be noted a little late; the engine was loaded before the first token in any case.
    could = {name: at for name, at in able.items() if sent < at <= first_token + _LATE}
    if not could:
        raise WorkshopError(
            "No replica was noted to take requests between this request and its first token. Give what the deployment "
            "noted meanwhile, and the request's times in seconds since 1970."
        )
    return min(could, key=lambda name: could[name])


def _meaning(name: str) -> str:
    return "; ".join(MEANINGS[part] for part in name.split(" + "))


@dataclass(frozen=True, repr=False)
class ColdStarts(ShownAsTable):
    """Several kinds of them side by side; the first is what the others are compared with.

    Attributes:
        named: a kind's name to its cold starts.
    """

    named: Mapping[str, Sequence[ColdStart]]

    @property
    def parts(self) -> list[str]:
        """Names of all parts, in order."""
        names = {name for several in self.named.values() for one in several for name in one.parts}
        order = list(PARTS.values())
        return sorted(names, key=lambda name: (order.index(name.split(" + ")[0]), len(name)))

    def seconds(self, kind: str, part: str) -> list[float]:
        """What a part took each time that there was one."""
        return [one.parts[part] for one in self.named[kind] if part in one.parts]

    def totals(self, kind: str) -> list[float]:
        """Seconds of all of them."""
        return [one.total for one in self.named[kind]]

    def table(self) -> Table:
        """One row a part, one column a kind: medians, and the range where there are several."""
        names = list(self.named)
        rows = [[part, *(_range(self.seconds(kind, part)) for kind in names)] for part in self.parts]
        rows.append(["all", *(_range(self.totals(kind)) for kind in names)])
        counts = {len(several) for several in self.named.values()}
        each = f", {counted(counts.pop(), 'cold start')} each" if len(counts) == 1 else ""
        caption = f"Measured: from the request to its first token, medians and ranges{each}"
        return Table(("part", *names), rows, caption, self.said, ("part", *names))

    @property
    def said(self) -> str:
        """What the others changed against the first, and only beyond the spread."""
        first, *others = self.named
        if not others:
            total, longest = median(self.totals(first)), max(self.parts, key=lambda part: _middle(self, first, part))
            return f"{first}: {time_text(total)}, most of it {longest} ({time_text(_middle(self, first, longest))})."
        return " ".join(self._changed(first, other) for other in others)

    def _changed(self, first: str, other: str) -> str:
        if min(len(self.named[first]), len(self.named[other])) < RUNS:
            return f"{other} against {first}: fewer than {RUNS} cold starts of each tell no difference from noise."
        whole = self._difference("all", self.totals(first), self.totals(other))
        if all(one.warm for one in self.named[other]):
            told = whole.removeprefix("all ") if whole else "not told apart, since the ranges overlap"
            return f"{other} against {first}: a replica was running, so there was no cold start; in all {told}."
        parts = [self._difference(part, self.seconds(first, part), self.seconds(other, part)) for part in self.parts]
        changed = [text for text in parts if text]
        if not whole and not changed:
            return f"{other} against {first}: nothing differs by more than the spread."
        all_ = whole.removeprefix("all ") if whole else "not told apart, since the ranges overlap"
        why = f" Beyond the spread: {joined(changed)}." if changed else " No single part differs beyond the spread."
        return f"{other} against {first}: in all {all_}.{why}"

    @staticmethod
    def _difference(name: str, before: Sequence[float], after: Sequence[float]) -> str:
        """How a part changed, if the ranges do not overlap; else empty."""
        if not before or not after or (max(before) >= min(after) and max(after) >= min(before)):
            return ""
        change = median(after) - median(before)
        way = "longer" if change > 0 else "shorter"
        return f"{name} {time_text(abs(change))} {way} ({time_text(median(before))} to {time_text(median(after))})"

    def picture(self) -> Picture:
        """A bar a kind, stacked by part."""
        from helpers.plots import deploy

        return deploy.cold_starts_picture(self)

    def _repr_html_(self) -> str:
        return self.picture()._repr_html_() + self.table()._repr_html_()


def _middle(found: ColdStarts, kind: str, part: str) -> float:
    return median(found.seconds(kind, part) or [0.0])


def _range(seconds: Sequence[float]) -> str:
    """A median, and how far it ranged."""
    if not seconds:
        return "–"
    middle = time_text(median(seconds))
    low, high = time_text(min(seconds)), time_text(max(seconds))
    return middle if low == high else f"{middle} ({low} to {high})"


def side_by_side(named: Mapping[str, Sequence[ColdStart]]) -> ColdStarts:
    """Cold starts of several kinds, such as before a change and after it.

    Args:
        named: what to call them, and the cold starts of each; the others are compared with the first.

    Raises:
        WorkshopError: there are none, of one kind at least.
    """
    if not named or any(not several for several in named.values()):
        raise WorkshopError("There is a kind without a cold start. Give at least one of each: {'before': [one], …}.")
    return ColdStarts({name: list(several) for name, several in named.items()})
