"""What each figure of a benchmark means, exactly: printed with the results, and stored in them (notebook 08)."""

import html
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from helpers.cards import Shown
from helpers.workspace import DATA

FILE = DATA / "benchmark_definitions.toml"

_WIDTH = 116


@dataclass(frozen=True)
class Definition:
    """One figure or notion.

    Attributes:
        title: its name.
        text: what it is.
    """

    title: str
    text: str


@dataclass(frozen=True, repr=False)
class Definitions(Shown):
    """Definitions by key, in the order to show; a fold on a page, lines of text elsewhere.

    Attributes:
        entries: key to definition.
    """

    entries: Mapping[str, Definition]

    def told(self) -> dict[str, dict[str, str]]:
        """As JSON keeps it."""
        return {key: vars(one).copy() for key, one in self.entries.items()}

    @classmethod
    def from_told(cls, told: Mapping[str, Mapping[str, str]]) -> "Definitions":
        """What :meth:`told` gave."""
        return cls({key: Definition(one["title"], one["text"]) for key, one in told.items()})

    def only(self, keys: Sequence[str]) -> "Definitions":
        """Those with these keys, in the order of all; a key that is not there is left out."""
        return Definitions({key: one for key, one in self.entries.items() if key in keys})

    def changed(self, other: "Definitions") -> list[str]:
        """Titles of what both define, and not in the same words."""
        return [
            one.title
            for key, one in self.entries.items()
            if key in other.entries and other.entries[key].text != one.text
        ]

    def __str__(self) -> str:
        lines = ["Definitions"]
        for one in self.entries.values():
            lines += textwrap.wrap(f"{one.title}: {one.text}", _WIDTH, initial_indent="  ", subsequent_indent="    ")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        items = "".join(
            f"<dt style='font-weight:600'>{html.escape(one.title)}</dt>"
            f"<dd style='margin:0 0 0.3em 1.5em'>{html.escape(one.text)}</dd>"
            for one in self.entries.values()
        )
        return f"<details><summary>Definitions</summary><dl style='margin:0.3em 0'>{items}</dl></details>"


@cache
def current() -> Definitions:
    """The definitions that results made by this release have."""
    return Definitions.from_told(tomllib.loads(FILE.read_text(encoding="utf-8")))
