"""What changes between two recipes, and which stages a change would do again (notebook 07).

Nothing here knows which field matters to which stage: the two plans are compared, command by command, and for each
field a plan of the first recipe with that field alone changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.cards import Shown, Table
from helpers.errors import WorkshopError
from helpers.recipe.schema import Recipe, given
from helpers.recipe.stages import PlannedStep, RecipePlan, plan
from helpers.toolchains.choices import AUTO

SERVER = "serve"


@dataclass(frozen=True)
class Redone:
    """One stage of the second recipe, against the first.

    Attributes:
        step: of the second recipe.
        redone: it would be done again, or for the first time.
        why: in a few words.
    """

    step: PlannedStep
    redone: bool
    why: str


@dataclass(frozen=True)
class Change:
    """One field that differs, and what it would do by itself.

    Attributes:
        field: such as ``max_batch_size`` or ``serving.port``.
        before, after: its values.
        stages: of a plan where this field alone is changed; empty where there is no such plan.
        why: why there is no such plan; empty where there is one.
        on_cpu: the first recipe is for a CPU.
        same: why both values mean the same here; empty where they do not.
        titles: the kinds of stages to what they are called, where that is not what the plan of this field alone calls
            them: one table has one word for each.
    """

    field: str
    before: Any
    after: Any
    stages: tuple[Redone, ...]
    why: str = ""
    on_cpu: bool = False
    same: str = ""
    titles: Mapping[str, str] | None = None

    @property
    def redone(self) -> tuple[str, ...]:
        """The kinds of the stages that it does again."""
        return tuple(stage.step.kind for stage in self.stages if stage.redone)

    @property
    def effect(self) -> str:
        """What the change would do, in a few words."""
        if self.why:
            return f"not by itself: {self.why}"
        if self.same:
            return f"nothing: {self.same}"
        again = [self._title(stage) for stage in self.stages if stage.redone and stage.step.kind != SERVER]
        kept = [self._title(stage) for stage in self.stages if not stage.redone and stage.step.kind in _MADE]
        if again:
            said = " and ".join(f"new {title}" for title in again)
            return f"{said}; {' and '.join(kept)} unchanged" if kept else said
        if SERVER not in self.redone:
            return "nothing: no stage here is told of it"
        why = " (an OpenVINO engine has no limits of its own)" if self.on_cpu and self.field in _SIZES else ""
        return f"nothing is built; the server starts again{why}"

    def _title(self, stage: Redone) -> str:
        """What a stage is called."""
        return (self.titles or {}).get(stage.step.kind, stage.step.title)

    def __str__(self) -> str:
        return f"{self.field} {_written(self.before)} → {_written(self.after)}: {self.effect}"


_TIED = {
    "engine": "it is compiled for one kind of GPU",
    "checkpoint": "its weights are laid out for one compute capability",
}
_MADE = ("download", "graph", "checkpoint", "engine")
_SIZES = ("max_input_len", "max_output_len", "max_batch_size", "max_num_tokens")


@dataclass(frozen=True, repr=False)
class Diff(Shown):
    """Two recipes against each other; shows itself.

    Attributes:
        before, after: the recipes.
        changes: one for each field that differs, in the order of the fields.
        stages: of the second recipe, all changes together.
        dropped: titles of the first recipe's stages that the second has no use for.
    """

    before: Recipe
    after: Recipe
    changes: tuple[Change, ...]
    stages: tuple[Redone, ...]
    dropped: tuple[str, ...] = ()

    @property
    def redone(self) -> tuple[str, ...]:
        """The kinds of the stages that would be done again, all changes together."""
        return tuple(stage.step.kind for stage in self.stages if stage.redone)

    @property
    def kept(self) -> tuple[str, ...]:
        """The kinds of the stages whose results would be used again."""
        return tuple(stage.step.kind for stage in self.stages if not stage.redone)

    @property
    def title(self) -> str:
        """The two recipes; where both have one name, the second by what it changes."""
        if self.before.name != self.after.name:
            return f"Recipe {self.before.name} → recipe {self.after.name}"
        changed = ", ".join(f"{change.field}: {_written(change.after)}" for change in self.changes)
        return f"Recipe {self.before.name} → with {changed}"

    @property
    def verdict(self) -> str:
        """All changes together, in one sentence."""
        if not self.changes:
            return "The two recipes say the same: nothing is done again."
        again = [stage.step.title for stage in self.stages if stage.redone and stage.step.kind != SERVER]
        kept = [stage.step.title for stage in self.stages if not stage.redone]
        dropped = f" Not needed any more: {', '.join(self.dropped)}." if self.dropped else ""
        if not again:
            what = "the server starts again" if SERVER in self.redone else "the server does not start again either"
            return f"Together: nothing is built; {what}.{dropped}"
        used = f"Used as it is: {', '.join(kept)}." if kept else "Nothing is used again."
        return f"Together: done again, {', '.join(again)}, then the server starts again. {used}{dropped}"

    def tables(self) -> tuple[Table, ...]:
        """The fields, and the stages."""
        if not self.changes:
            return ()
        rows = [(c.field, _written(c.before), _written(c.after), c.effect) for c in self.changes]
        fields = Table(["field", "from", "to", "by itself"], rows, self.title)
        marks = [
            (
                stage.step.title,
                ("starts again" if stage.step.kind == SERVER else "again") if stage.redone else "kept",
                stage.why,
            )
            for stage in self.stages
        ]
        return fields, Table(["stage", "what happens", "why"], marks, "Stages, all changes together", self.verdict)

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.tables())) or self.verdict

    def _repr_html_(self) -> str:
        return "".join(table._repr_html_() for table in self.tables()) or f"<p>{self.verdict}</p>"


def diff(before: Recipe | str | Path, after: Recipe | str | Path) -> Diff:
    """Which fields differ, and which stages each of them would do again; nothing is run.

    Args:
        before: what was built: a recipe, its file or its name.
        after: what is wanted.

    Raises:
        WorkshopError: one of them is no recipe or has no plan; says why.
    """
    before, after = given(before), given(after)
    old, new = _plan(before), _plan(after)
    stages = _compared(old, new)
    there = {step.kind for step in new.steps}
    dropped = tuple(step.title for step in old.steps if step.kind not in there)
    one, other = _flat(before), _flat(after)
    titles = {step.kind: step.title for step in new.steps}
    changes = tuple(_change(old, after, name, titles) for name in one if one[name] != other[name])
    return Diff(before, after, changes, stages, dropped)


def _change(old: RecipePlan, after: Recipe, name: str, titles: Mapping[str, str]) -> Change:
    """What one field would do by itself."""
    before = old.recipe
    values, on_cpu = (_flat(before)[name], _flat(after)[name]), before.on_cpu
    try:
        alone = _plan(before.changed(**{name.replace(".", "__"): values[1]}))
    except WorkshopError as refused:
        return Change(name, *values, (), _reason(refused), on_cpu)
    stages, same = _compared(old, alone), ""
    if name == "kv_cache" and AUTO in values and before.kv == alone.recipe.kv:
        same = f"{AUTO} is {before.kv or 'fp16'} {'on a CPU' if on_cpu else 'beside these weights'}"
    return Change(name, *values, stages, on_cpu=on_cpu, same=same, titles=titles)


def _reason(refused: WorkshopError) -> str:
    """The first thing that an error says, without the recipe's name before it."""
    lines = [line.strip() for line in str(refused).splitlines()]
    return lines[1] if len(lines) > 1 else lines[0]


def _plan(recipe: Recipe) -> RecipePlan:
    """The plan of a recipe.

    Raises:
        WorkshopError: it has none.
    """
    made = plan(recipe)
    if not made.steps:
        said = "\n".join(f"  {remark.field}: {remark.text}" for remark in made.problems)
        raise WorkshopError(f"The recipe {recipe.name} has no plan to compare:\n{said}")
    return made


def _compared(old: RecipePlan, new: RecipePlan) -> tuple[Redone, ...]:
    """Every stage of the second plan: is it done again, and why."""
    earlier = {step.kind: step for step in old.steps}
    found: dict[str, Redone] = {}
    for step in new.steps:
        again = [kind for kind in step.reads if kind in found and found[kind].redone]
        was = earlier.get(step.kind)
        if was is None:
            found[step.kind] = Redone(step, True, "the other recipe has no such stage")
        elif again:
            found[step.kind] = Redone(step, True, f"it reads the new {found[again[-1]].step.title}")
        elif was.machine and step.machine and was.machine != step.machine:
            found[step.kind] = Redone(step, True, f"{_TIED[step.kind]}: {was.machine} → {step.machine}")
        elif was.step.commands != step.step.commands:
            found[step.kind] = Redone(step, True, f"its command changes{_words(was, step)}")
        elif step.kind == SERVER and old.recipe.serving.port != new.recipe.serving.port:
            found[step.kind] = Redone(step, True, "it listens on another port")
        else:
            found[step.kind] = Redone(step, False, "same command, same inputs")
    return tuple(found.values())


def _words(old: PlannedStep, new: PlannedStep) -> str:
    """Which options of a command changed; not where it writes."""
    before, after = _options(old), _options(new)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name) and "output" not in name]
    return f": {', '.join(changed)}" if changed else ""


def _options(step: PlannedStep) -> dict[str, list[str]]:
    """Every option of a stage's commands, with the words that follow it."""
    found: dict[str, list[str]] = {}
    words: list[str] = []
    for word in " ".join(step.step.commands).replace("\\\n", " ").split():
        words = found.setdefault(word, []) if word.startswith("--") else words
        if not word.startswith("--"):
            words.append(word)
    return found


def _flat(recipe: Recipe) -> dict[str, Any]:
    """Field to value, those of a part with its name before them."""
    found: dict[str, Any] = {}
    for name, value in recipe.model_dump().items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{within}": inner for within, inner in value.items()}
        else:
            found[name] = value
    return found


def _written(value: Any) -> str:
    """A value as the recipe has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
