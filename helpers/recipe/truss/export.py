"""The ``config.yaml`` itself: shown with its differences and refusals, and written whole (notebook 07)."""

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import workspace
from helpers.cards import Shown, Table, boxed, paragraph, preformatted
from helpers.errors import WorkshopError
from helpers.looks import STOPS, TOLD
from helpers.recipe.truss.facts import facts, to_yaml, version
from helpers.recipe.truss.mapping import Difference, compared, config
from helpers.recipe.truss.refusals import Refusal, refusals

if TYPE_CHECKING:
    from helpers.recipe.schema import Recipe

FILE = "config.yaml"
"""What Truss looks for in a folder."""


@dataclass(frozen=True, repr=False)
class TrussExport(Shown):
    """A recipe as Truss's ``config.yaml``.

    Attributes:
        name: of the recipe.
        config: what the file says, nested as YAML is.
        differences: what each setting of the recipe becomes.
        refusals: why it cannot be deployed; empty where it can.
        notes: what else to know, a sentence each.
        nothing: there is nothing to export: it is for a CPU, or its model is not on the hub. The reasons are all.
        kept: the recipe is one of ``data/recipes`` as it stands there, so that a terminal can export it by its name.
    """

    name: str
    config: Mapping[str, Any]
    differences: tuple[Difference, ...]
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    nothing: bool = False
    kept: bool = False

    @property
    def text(self) -> str:
        """The content of the file."""
        return f"# The recipe {self.name} for Truss {version()}.\n{to_yaml(self.config)}"

    def write(self, folder: str | Path) -> Path:
        """Write ``config.yaml`` into a folder, whole or not at all; returns its path.

        Raises:
            WorkshopError: the recipe cannot be deployed, with every reason; or the folder takes no file.
        """
        if self.refusals:
            raise WorkshopError("\n".join([f"{self.verdict} Nothing was written.", *map(_item, self.refusals)]))
        file = Path(folder).expanduser() / FILE
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            workspace.write_whole(file, self.text)
        except OSError as problem:
            raise WorkshopError(f"{file} cannot be written: {problem.strerror}. Choose another folder.") from None
        return file

    def table(self) -> Table:
        """What each setting of the recipe becomes."""
        rows = [(one.recipe, one.truss, one.why) for one in self.differences]
        return Table(("the recipe says", "Truss's config.yaml says", "why"), rows, f"From recipe to Truss: {self.name}")

    @property
    def verdict(self) -> str:
        """Whether it can be deployed, as far as can be said without Baseten."""
        if not self.refusals:
            return f"recorded: Truss {version()}'s own checks accept this file; nothing was sent to Baseten."
        count = len(self.refusals)
        return f"The recipe {self.name} cannot be deployed with Truss ({count} reason{'s' if count > 1 else ''})."

    @property
    def headline(self) -> str:
        """What this is: a file that can be deployed, one that cannot, or none."""
        if self.nothing:
            return f"No {FILE}: {self.verdict}"
        return f"{FILE}, not deployable: {self.verdict}" if self.refusals else f"{FILE}: {self.verdict}"

    @property
    def next(self) -> str:
        """What to do with it; empty for one that cannot be deployed."""
        if self.refusals:
            return ""
        write = (
            f"`python -m helpers truss {self.name} --output FOLDER`" if self.kept else "write(FOLDER) of this object"
        )
        return f"Next: {write} writes it; then `truss push` in that folder, which needs an account at Baseten."

    def __str__(self) -> str:
        lines = [self.headline, *map(_item, self.refusals)]
        if not self.nothing:
            lines += ["", self.text, str(self.table()), *self.notes, *([self.next] if self.next else [])]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        reasons = "".join(f"<li>{html.escape(str(one))}</li>" for one in self.refusals)
        body = f"<ul>{reasons}</ul>" if reasons else ""
        if not self.nothing:
            notes = [*self.notes, *([self.next] if self.next else [])]
            body += preformatted(self.text) + self.table()._repr_html_() + "".join(map(paragraph, notes))
        return boxed(self.headline, body, STOPS if self.refusals else TOLD)


def _item(reason: Refusal) -> str:
    return f"  - {reason}"


def export(recipe: "Recipe | str | Path") -> TrussExport:
    """A recipe as Truss's ``config.yaml``, with every difference named.

    A recipe that cannot be deployed is shown too, with the reasons; :meth:`TrussExport.write` refuses it. Of one for a
    CPU, or with a model that is not on the hub, the reasons are all that is shown.

    Args:
        recipe: itself, its file or its name.

    Raises:
        WorkshopError: it is no recipe.
    """
    from helpers.recipe.schema import given, is_file

    recipe = given(recipe)
    made = config(recipe)
    against = tuple(refusals(recipe, made))
    return TrussExport(
        recipe.name,
        made,
        tuple(compared(recipe, made)),
        against,
        tuple(_notes(recipe, made, against)),
        nothing=recipe.on_cpu or not recipe.on_hub,
        kept=is_file(recipe),
    )


def _notes(recipe: "Recipe", made: Mapping[str, Any], against: tuple[Refusal, ...]) -> Iterator[str]:
    """Where Baseten's page is narrower than Truss's schema, and what a push warns of."""
    refused = {reason.setting.rpartition(".")[2] for reason in against if reason.by != "rules"}
    for name, bounds in facts()["ranges"].items():
        value, most = made["trt_llm"]["build"][name], bounds.get("published_most")
        least, step = bounds.get("published_least", 1), bounds.get("published_multiple", 1)
        if most is None or name in refused or (least <= value <= most and value % step == 0):
            continue
        steps = f" in steps of {step}" if step > 1 else ""
        yield f"published: Baseten's page gives {name} as {least:,} to {most:,}{steps}; Truss itself accepts {value:,}."
    if recipe.precision == "fp8" and not against:
        yield f"recorded: truss push warns “{facts()['warnings']['fp8']}”. Where that happens, set num_builder_gpus."
