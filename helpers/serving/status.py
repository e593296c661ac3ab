"""What a server does right now, and what it did: objects that show themselves (notebook 07)."""

import html
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING

from helpers.cards import Card, Shown, ShownAsCard, counted, seconds_text
from helpers.progress import Bar

if TYPE_CHECKING:
    from helpers.cards import Picture
    from helpers.serving.poller import Record

STARTING, READY, NOT_ANSWERING, STOPPED, DIED = "starting", "ready", "not answering", "stopped", "died"

PAUSE = 0.1
"""Seconds between two steps from which the engine was idle; a shorter time is the work between them."""

_NEAR = 1.0  # seconds since the record before within which a step of unknown length began with that one's end
_SLOW = 0.1  # seconds: whoever reads along does not notice a shorter step
_STANDS_OUT = 5.0  # times the median of the others
_WIDTH = 20  # marks in a bar of text
_FRESH = 3.0  # seconds after which a record is no longer what happens now


@dataclass(frozen=True, repr=False)
class Status(ShownAsCard):
    """One moment of an endpoint.

    Attributes:
        state: ``starting``, ``ready``, ``not answering``, ``stopped`` or ``died: ...`` with how.
        title: the engine, as a person writes it.
        url: where the server answers.
        seconds: since the server was started.
        max_batch_size: requests that may run at once.
        record: the last that the engine told; None if it told nothing yet.
        age: seconds since then.
        note: what to do, where something is to be done.
    """

    state: str
    title: str
    url: str
    seconds: float = 0.0
    max_batch_size: int | None = None
    record: "Record | None" = None
    age: float | None = None
    note: str = ""

    @property
    def ready(self) -> bool:
        """True if the server answers."""
        return self.state == READY

    @property
    def alive(self) -> bool:
        """True if its process runs."""
        return self.state in (STARTING, READY, NOT_ANSWERING)

    @property
    def active(self) -> int | None:
        """Requests that the engine works on; None if nobody told."""
        return self.record.active if self.record else None

    @property
    def queued(self) -> int | None:
        """Requests that wait; None if nobody told."""
        return self.record.queued if self.record else None

    @property
    def kv_used(self) -> int | None:
        """Blocks of the KV cache in use; None if nobody told."""
        return self.record.kv_used if self.record else None

    @property
    def kv_free(self) -> int | None:
        """Blocks of the KV cache that are free; None if nobody told."""
        return self.record.kv_free if self.record else None

    @property
    def kv_blocks(self) -> int | None:
        """Blocks of the KV cache, all of them; None if nobody told."""
        return self.record.kv_blocks if self.record else None

    def line(self) -> str:
        """The moment in one line."""
        if self.record is None or not self.alive:
            return f"{self.title}: {self.state}"
        blocks = f"{_told(self.kv_used)} of {_told(self.kv_blocks)} KV blocks used"
        return f"{self.title}: {self.state}, {_told(self.active)} active, {_told(self.queued)} queued, {blocks}"

    def __repr__(self) -> str:
        """The card; what has been stopped is one line with all that there is to say, which reads well in a list."""
        if self.state != STOPPED:
            return str(self)
        return f"{self.title}: {self.state}. It answered at {self.url}. {self.note}".rstrip()

    def card(self) -> Card:
        """The moment as a list of facts."""
        facts = {"address": self.url}
        if self.alive:
            facts["running for"] = seconds_text(self.seconds)
            facts |= self._figures()
        return Card(f"{self.title}: {self.state}", facts, self.note)

    def _figures(self) -> dict[str, str]:
        """What the engine told last."""
        if self.record is None:
            return {"engine": "has told nothing yet: it tells of each step, and there was none"}
        free = "" if self.kv_free is None else f" ({self.kv_free:,} free)"
        facts = {
            "requests active": _of(self.active, self.max_batch_size),
            "requests queued": _told(self.queued),
            "KV blocks used": _of(self.kv_used, self.kv_blocks, free),
        }
        age = self.age or 0.0
        facts["last report"] = f"{seconds_text(age)} ago"
        if age > _FRESH:
            idle = self.active == 0 and not self.queued
            since = "when it became idle" if idle else "and no step since: it is idle, or in one long step"
            facts["last report"] += f", {since}"
        return facts


def _told(count: int | None) -> str:
    """A number, or that nobody told it."""
    return "not told" if count is None else f"{count:,}"


def _of(count: int | None, most: int | None, more: str = "") -> str:
    """A number out of another, with a bar of text."""
    if count is None or not most:
        return _told(count) + more
    filled = round(_WIDTH * min(count, most) / most)
    if 0 < count < most:
        filled = min(max(filled, 1), _WIDTH - 1)  # neither empty nor full is drawn as such
    return f"{'█' * filled}{'░' * (_WIDTH - filled)} {count:,} of {most:,}{more}"


@dataclass(frozen=True, repr=False)
class Moment(Bar):
    """A :class:`Status` that is drawn in place, again and again.

    Attributes:
        status: what is drawn; None draws the bar alone.
    """

    status: Status | None = None

    def line(self) -> str:
        """The moment in one line of text."""
        return self.status.line() if self.status else super().line()

    def __str__(self) -> str:
        return str(self.status) if self.status else super().__str__()

    def _repr_html_(self) -> str:
        return self.status._repr_html_() if self.status else super()._repr_html_()


@dataclass(frozen=True)
class Step:
    """One step of an engine, on the clock of an activity.

    Attributes:
        begin, end: seconds since the first step began. They are the same where nobody knows how long it took.
        active, queued, kv_used: as its record tells; 0 for what was not told.
    """

    begin: float
    end: float
    active: int = 0
    queued: int = 0
    kv_used: int = 0

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


@dataclass(frozen=True, repr=False)
class Activity(Shown):
    """What an engine did over a while: requests and blocks of its KV cache.

    A record comes at its step's end, and tells what the step worked on: it counts for the time that the step took.

    Attributes:
        title: the engine, as a person writes it.
        records: of :mod:`helpers.serving.poller`, oldest first.
        max_batch_size: requests that may run at once.
    """

    title: str
    records: tuple["Record", ...] = field(default=())
    max_batch_size: int | None = None

    @property
    def seconds(self) -> float:
        """From the begin of the first step to the end of the last."""
        return self.steps[-1].end if self.steps else 0.0

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What each record tells of, and from when to when; without a latency since the record before, if that is near.

        Between two steps the engine is idle, unless they are less than :data:`PAUSE` apart.
        """
        spans: list[tuple[float, float]] = []
        for record in self.records:
            before = spans[-1][1] if spans else None
            if record.latency is not None:
                begin = record.time - record.latency
            else:
                begin = before if before is not None and record.time - before <= _NEAR else record.time
            begin = begin if before is None else max(begin, before)  # steps come one after the other
            spans.append((begin, max(begin, record.time)))
        return tuple(
            Step(begin - spans[0][0], end - spans[0][0], one.active or 0, one.queued or 0, one.kv_used or 0)
            for one, (begin, end) in zip(self.records, spans, strict=True)
        )

    @property
    def longest(self) -> "Record | None":
        """The record of the longest step, where it stands out among the others; None where it does not."""
        timed = [one for one in self.records if one.latency]
        if len(timed) < 2:
            return None
        longest = max(timed, key=lambda one: one.latency or 0.0)
        usual = median(one.latency or 0.0 for one in timed if one is not longest)
        took = longest.latency or 0.0
        return longest if took >= _SLOW and took >= _STANDS_OUT * usual else None

    def _longest_sentence(self) -> str:
        """What the longest step did, as far as it tells; empty where none stands out."""
        longest = self.longest
        if longest is None:
            return ""
        text = f" The longest step took {seconds_text(longest.latency or 0.0)}"
        if longest.prompts is None:
            return f"{text}."
        if not longest.prompts:
            return f"{text}, and it read no prompt."
        text += f": it read {counted(longest.prompts, 'prompt')}"
        return f"{text}, {counted(longest.prompt_tokens, 'token')}." if longest.prompt_tokens else f"{text}."

    @property
    def most_active(self) -> int:
        """The most requests that it worked on at once."""
        return max((one.active or 0 for one in self.records), default=0)

    @property
    def most_queued(self) -> int:
        """The most requests that waited at once."""
        return max((one.queued or 0 for one in self.records), default=0)

    @property
    def most_kv_used(self) -> int:
        """The most blocks of the KV cache that were in use at once."""
        return max((one.kv_used or 0 for one in self.records), default=0)

    @property
    def sentence(self) -> str:
        """What there is to see, from the records themselves."""
        if not self.records:
            return f"{self.title}: the engine told of no step in this time."
        most = f" of {self.max_batch_size:,} that may" if self.max_batch_size else ""
        waited = f"up to {self.most_queued:,} waited" if self.most_queued else "none had to wait"
        blocks = next((one.kv_blocks for one in reversed(self.records) if one.kv_blocks), None)
        cache = ""
        if blocks:
            share = self.most_kv_used / blocks
            percent = "under 1%" if 0 < share < 0.01 else f"{share:.0%}"
            cache = f" At most {self.most_kv_used:,} of {blocks:,} KV blocks were in use ({percent})."
        steps = f"{len(self.records):,} step{'' if len(self.records) == 1 else 's'} in {seconds_text(self.seconds)}"
        ran = f"up to {self.most_active:,} request{'' if self.most_active == 1 else 's'} ran at once{most}"
        return f"{self.title}: {steps}; {ran}, and {waited}.{cache}{self._longest_sentence()}"

    @cached_property
    def picture(self) -> "Picture | None":
        """Requests and blocks over time; None if nothing was told."""
        if not self.records:
            return None
        from helpers.plots import serving

        return serving.activity(self)

    def __str__(self) -> str:
        return f"{self.picture}\n{self.sentence}" if self.picture else self.sentence

    def _repr_html_(self) -> str:
        shown = self.picture._repr_html_() if self.picture else ""
        return f"{shown}<p>{html.escape(self.sentence)}</p>"
