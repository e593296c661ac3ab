"""The ``config.yaml`` that the talk deployed, and what today's Truss makes of it (notebook 07)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from helpers.cards import Shown, Table, boxed, preformatted
from helpers.recipe.truss.facts import facts, to_yaml, version

_VERDICTS = {
    "refused": "refused as it is read",
    "ignored": "read, and used by nothing",
    "legacy": "read; published: refused on push",
    "as it was": "works as it did",
    "missing": "missing: a warning",
}


@dataclass(frozen=True, repr=False)
class TalkConfig(Shown):
    """The ``config.yaml`` that the talk deployed.

    Attributes:
        config: what the file said, nested as YAML is.
        source: where it is published.
    """

    config: Mapping[str, Any]
    source: str

    @property
    def text(self) -> str:
        """The content of the file."""
        return to_yaml(self.config)

    def table(self) -> Table:
        """One row for each setting that today's Truss has something to say about."""
        columns = ("the talk's config.yaml", "today", "Truss's words", "write instead")
        caption = f"published: the talk's config; recorded: what Truss {version()} does with it"
        return Table(columns, list(_rows()), caption, self._note)

    @property
    def _note(self) -> str:
        verdicts = [row["verdict"] for row in facts()["talk"]["settings"]]
        refused, ignored, legacy = (verdicts.count(kind) for kind in ("refused", "ignored", "legacy"))
        end = "it does not deploy today" if refused or legacy else "it still deploys"
        others = len(verdicts) - refused - ignored - legacy
        return (
            f"Of its {len(verdicts)} settings {refused} is refused, {ignored} are ignored, {legacy} is legacy, and the "
            f"other {others} work as they did: {end}."
        )

    def __str__(self) -> str:
        return "\n".join([f"published: {self.source}", self.text, str(self.table())])

    def _repr_html_(self) -> str:
        return boxed(f"published: {self.source}", preformatted(self.text) + self.table()._repr_html_())


def talk_config() -> TalkConfig:
    """The config that the talk deployed on an A10G in 2024, and what today's Truss says of it, setting by setting."""
    config: dict[str, Any] = {}
    for row in facts()["talk"]["settings"]:
        *above, last = str(row["setting"]).split(".")
        place = config
        for name in above:
            place = place.setdefault(name, {})
        place[last] = row["value"]
    return TalkConfig(config, str(facts()["talk"]["source"]))


def _rows() -> Iterator[tuple[str, str, str, str]]:
    """Setting, verdict, Truss's words, and what to write today."""
    for row in facts()["talk"]["settings"]:
        if row["verdict"] != "as it was" or "says" in row:
            says = f"{row['when']}: {row['says']}" if "when" in row else row.get("says", "– (no word)")
            yield _setting(row), _VERDICTS[row["verdict"]], says, row["today"]
    for row in facts()["talk"]["missing"]:
        yield f"no {row['setting']}", _VERDICTS["missing"], row["says"], row["today"]


def _setting(row: Mapping[str, Any]) -> str:
    return f"{str(row['setting']).rpartition('.')[2]}: {row['value']}"


def differences() -> Table:
    """What changed between the talk's ``config.yaml`` and one of today, and why."""
    talk = facts()["talk"]
    rows = [(_setting(row), row["today"], row["why"]) for row in talk["settings"] if "today" in row]
    rows += [(f"no {row['setting']}", row["today"], row["why"]) for row in talk["missing"]]
    caption = f"published: the talk's config.yaml, 2024; today: Truss {version()}"
    return Table(("the talk wrote", "write today", "why"), rows, caption)
