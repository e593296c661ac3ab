"""Known failures: texts that TensorRT-LLM and its installation end with, and what to do about each.

The table is ``data/faults.toml``. :mod:`helpers.stage` asks it whenever a stage fails.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cache

from helpers.cards import Card, ShownAsCard
from helpers.workspace import DATA


@dataclass(frozen=True, repr=False)
class Fault(ShownAsCard):
    """One known failure: the texts that tell it, its cause, the one thing to do, and who reported it."""

    name: str
    patterns: tuple[str, ...]
    cause: str
    remedy: str
    source: str

    def is_in(self, log: str) -> bool:
        """True if a log shows it."""
        return any(re.search(pattern, log, re.IGNORECASE) for pattern in self.patterns)

    def card(self) -> Card:
        """Cause, remedy and source."""
        return Card(f"Known: {self.name}", {"cause": self.cause, "remedy": self.remedy, "source": self.source})


@cache
def faults() -> tuple[Fault, ...]:
    """The table, in its order: where several texts are in one log, the earlier row is nearer the cause."""
    rows = tomllib.loads((DATA / "faults.toml").read_text())
    return tuple(
        Fault(name, tuple(row["patterns"]), row["cause"], row["remedy"], row["source"]) for name, row in rows.items()
    )


def explain(log: str) -> Fault | None:
    """The known failure that a log shows, or None."""
    return next((fault for fault in faults() if fault.is_in(log)), None)
