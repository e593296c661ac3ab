"""What a benchmark sends: how many requests, how many at once or how often, and how long they are (notebook 08).

A closed loop keeps ``concurrency`` requests in flight and sends the next when one ends: it asks what a server does with
so many users. An open loop sends ``rate`` requests a second whatever the server does: it asks what users feel when they
come by themselves. The two answers are different figures, so a load is one or the other. An open loop's rate may also
change over time, as its ``profile`` says: what a deployment does that follows the load (notebook 09).
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from helpers.bench import profile
from helpers.errors import WorkshopError

COMPLETIONS, CHAT = "completions", "chat"
POISSON, CONSTANT = "poisson", "constant"
FIXED_FIELDS = ("model", "prompt", "messages", "max_tokens", "stream", "stream_options", "ignore_eos")
"""Fields of a request that the load itself decides; ``extra`` may add others."""

_KINDS = ("concurrency", "rate", "profile")
_MOST_TOKENS = 999_999_999


@dataclass(frozen=True)
class Lengths:
    """How many tokens, drawn evenly from ``low`` to ``high``; both ends count.

    Raises:
        WorkshopError: no range of whole numbers above 0.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        whole = _whole(self.low) and _whole(self.high)
        if whole and max(self.low, self.high) > _MOST_TOKENS:
            raise WorkshopError(f"A length has more than {_MOST_TOKENS:,} tokens. Give a smaller one.")
        if not (whole and 1 <= self.low <= self.high):
            raise WorkshopError(
                f"A length of {self.low!r} to {self.high!r} tokens. Give a whole number such as 128, or a range such "
                "as 100-200, of at least 1."
            )

    @classmethod
    def of(cls, asked: "int | str | Lengths") -> "Lengths":
        """``128``, ``"128"`` or ``"100-200"``.

        Raises:
            WorkshopError: anything else.
        """
        if isinstance(asked, Lengths):
            return asked
        if isinstance(asked, str):
            found = re.fullmatch(r"\s*(\d{1,9})\s*(?:[-–:]\s*(\d{1,9})\s*)?", asked)
            if found is None:
                raise WorkshopError(
                    f"{asked!r} is no length in tokens. Give a number such as 128, or a range: 100-200."
                )
            return cls(int(found[1]), int(found[2] or found[1]))
        return cls(asked, asked)

    @property
    def fixed(self) -> bool:
        """True if all are as long."""
        return self.low == self.high

    def __str__(self) -> str:
        return f"{self.low:,}" if self.fixed else f"{self.low:,} to {self.high:,}"


@dataclass(frozen=True)
class Load:
    """One load, as a value; what is not given is chosen as the comments say.

    Attributes:
        concurrency: closed loop: requests in flight; 1 where no other kind is given. None with a rate or a profile.
        rate: open loop: requests a second, whatever the server does. None otherwise.
        profile: open loop whose rate changes: points of seconds since the run's first request and requests a second,
            straight lines between them; see :mod:`helpers.bench.profile`. Nothing is sent after its last point. None
            otherwise.
        arrivals: of an open loop: ``poisson`` (as users come) or ``constant``.
        requests: measured requests of one run; None: as many as ``seconds`` or the profile lasts, and without those
            four times the concurrency, 32 at least.
        seconds: no request is sent later than this after a run's first; None: no such limit.
        runs: how often the whole is measured. Only several runs tell noise from a difference.
        warmup: requests before the first run, which are not measured; None: one for each that may be in flight, 64 at
            most; none with a profile, since how a server starts is part of what such a load measures.
        ramp: seconds over which a closed loop's first requests are spread; None: as long as one request took in the
            warm-up, and without a warm-up all at once. All at once (0) measures the queue of a burst that users do not
            make.
        input_tokens: of a prompt.
        output_tokens: of an answer.
        ignore_eos: answers go on past the end-of-text token, so that each is as long as asked. Only servers for
            benchmarks take it; without it an answer may be shorter.
        prompts: file with one JSON object a line, ``{"prompt": text}`` or ``{"messages": [...]}``, and ``max_tokens``
            where it should not be ``output_tokens``; in place of made prompts.
        api: ``completions`` or ``chat``.
        timeout: seconds after which a request that is not answered whole is given up.
        give_up: failed requests in a row after which the run ends: the server is gone.
        seed: of lengths, texts and arrivals. Equal seeds send equal requests, but for each prompt's first words: those
            are others each time, or a server that keeps KV blocks would answer a second run from its cache.
        extra: further fields of each request's body, such as ``{"temperature": 0.8}``.

    Raises:
        WorkshopError: a value that makes no load.
    """

    concurrency: int | None = None
    rate: float | None = None
    profile: Sequence[tuple[float, float]] | None = None
    arrivals: str = POISSON
    requests: int | None = None
    seconds: float | None = None
    runs: int = 1
    warmup: int | None = None
    ramp: float | None = None
    input_tokens: Lengths = field(default_factory=lambda: Lengths(128, 128))
    output_tokens: Lengths = field(default_factory=lambda: Lengths(128, 128))
    ignore_eos: bool = True
    prompts: str | Path | None = None
    api: str = COMPLETIONS
    timeout: float = 600.0
    give_up: int = 50
    seed: int = 0
    extra: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0})

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_tokens", Lengths.of(self.input_tokens))
        object.__setattr__(self, "output_tokens", Lengths.of(self.output_tokens))
        if self.rate is None and self.concurrency is None and self.profile is None:
            object.__setattr__(self, "concurrency", 1)
        self._check_kind()
        self._check_fields()
        self._check_numbers()

    def _check_kind(self) -> None:
        if sum(getattr(self, name) is not None for name in _KINDS) != 1:
            given = ", ".join(f"{name} {getattr(self, name)!r}" for name in _KINDS)
            raise WorkshopError(
                "A load has a concurrency (closed loop), or a rate or a profile (open loop), and this one has "
                f"{given}. Give one of them."
            )
        if self.profile is not None:
            object.__setattr__(self, "profile", profile.checked(self.profile))
        if self.arrivals not in (POISSON, CONSTANT):
            raise WorkshopError(f"Arrivals are {self.arrivals!r}. Give {POISSON!r} or {CONSTANT!r}.")
        if self.api not in (COMPLETIONS, CHAT):
            raise WorkshopError(f"The API is {self.api!r}. Give {COMPLETIONS!r} or {CHAT!r}.")

    def _check_fields(self) -> None:
        """What could not be sent is found out before the server is asked anything."""
        if isinstance(self.prompts, Path):
            object.__setattr__(self, "prompts", str(self.prompts))
        if not (self.prompts is None or isinstance(self.prompts, str)):
            raise WorkshopError(f"prompts is a {type(self.prompts).__name__}. Give the name of a file.")
        if not isinstance(self.extra, Mapping):
            raise WorkshopError(f"extra is a {type(self.extra).__name__}. Give fields by name: {{'top_p': 0.9}}.")
        object.__setattr__(self, "extra", dict(self.extra))
        try:
            json.dumps(self.extra, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise WorkshopError(f"extra has what JSON cannot say: {error}. Leave it out.") from None
        if taken := [name for name in self.extra if name in FIXED_FIELDS]:
            raise WorkshopError(f"extra has {taken[0]!r}, which the load decides itself. Leave it out.")

    def _check_numbers(self) -> None:
        for name in ("concurrency", "requests", "runs", "give_up"):
            value = getattr(self, name)
            if value is not None and not (_whole(value) and value >= 1):
                raise WorkshopError(f"{name} is {value!r}. Give a whole number of at least 1.")
        for name in ("rate", "seconds", "timeout"):
            value = getattr(self, name)
            if value is not None and not (_number(value) and value > 0):
                raise WorkshopError(f"{name} is {value!r}. Give a number above 0.")
        if self.warmup is not None and not (_whole(self.warmup) and self.warmup >= 0):
            raise WorkshopError(f"warmup is {self.warmup!r}. Give a whole number of at least 0.")
        if self.ramp is not None and not (_number(self.ramp) and self.ramp >= 0):
            raise WorkshopError(f"ramp is {self.ramp!r}. Give a number of at least 0.")

    @property
    def open_loop(self) -> bool:
        """True if requests are sent at a rate, whatever the server does."""
        return self.concurrency is None

    @property
    def measured(self) -> int | None:
        """Requests of one run; None if only the time ends it."""
        if self.requests is not None or self.lasts is not None:
            return self.requests
        return max(32, 4 * (self.concurrency or 0))

    @property
    def warming(self) -> int:
        """Requests before the first run."""
        if self.warmup is None and self.profile is not None:
            return 0
        return self.warmup if self.warmup is not None else min(64, self.concurrency or 8)

    @property
    def lasts(self) -> float | None:
        """Seconds after a run's first request in which others are sent; None if only their number ends it."""
        ends = [self.seconds, profile.end(self.profile) if self.profile is not None else None]
        return min((end for end in ends if end is not None), default=None)

    @property
    def most_rate(self) -> float:
        """The highest rate of an open loop, in requests a second; 0 for a closed loop."""
        return profile.peak(self.profile) if self.profile is not None else self.rate or 0.0

    def rate_at(self, seconds: float) -> float | None:
        """Requests a second that an open loop sends at a time since the run's first; None for a closed loop."""
        if self.concurrency is not None:
            return None
        if seconds < 0 or (self.lasts is not None and seconds > self.lasts):
            return 0.0
        return self.rate if self.profile is None else profile.rate_at(self.profile, seconds)

    @property
    def kind(self) -> str:
        """What the load is, in words: the label that every figure of it carries."""
        if self.profile is not None:
            return f"open loop, {profile.said(self.profile)}, {self.arrivals} arrivals"
        if self.rate is not None:
            return f"open loop, {self.rate:g} requests/s, {self.arrivals} arrivals"
        return f"closed loop, concurrency {self.concurrency}"

    @property
    def short(self) -> str:
        """The kind in a word, for a folder's name: ``c32``, ``rate5`` or ``profile``."""
        if self.profile is not None:
            return "profile"
        return f"c{self.concurrency}" if self.rate is None else f"rate{self.rate:g}"

    def with_(self, **changes: Any) -> "Load":
        """The same load with some things changed. A rate takes the place of its concurrency or profile; and so on."""
        if any(changes.get(name) is not None for name in _KINDS):
            changes = {**dict.fromkeys(_KINDS), **changes}
        return replace(self, **changes)

    def told(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_told(cls, told: Mapping[str, Any]) -> "Load":
        """What :meth:`told` gave."""
        lengths = {name: Lengths(**told[name]) for name in ("input_tokens", "output_tokens")}
        return cls(**{**told, **lengths})


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
