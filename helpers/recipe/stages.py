"""What a recipe leads to: the stages with their commands and sizes, and running those that are missing (notebook 07).

The commands come from :mod:`helpers.plan`, which takes them from the functions that run them. A plan can be looked at
for any GPU from any machine; :func:`run` is for the machine that the recipe names.
"""

from dataclasses import dataclass
from pathlib import Path

from helpers import checkpoint, hardware, memory, models, releases, toolchains, workspace
from helpers import plan as pod
from helpers.cards import Shown, Table, boxed, bytes_text, counted, paragraph
from helpers.errors import WorkshopError
from helpers.hardware.machine import capability_text
from helpers.recipe import rules
from helpers.recipe.here import require_here, require_room
from helpers.recipe.reading import names
from helpers.recipe.rules import Remark
from helpers.recipe.schema import Recipe, given, load
from helpers.toolchains import openvino, tensorrt_llm
from helpers.toolchains.base import Engine
from helpers.toolchains.choices import CHECKPOINTS, TITLES

_SHOWN = ("install", "download", "graph", "checkpoint", "engine", "serve")
_READS = {
    "graph": ("download",),
    "checkpoint": ("install", "download"),
    "engine": ("install", "graph", "checkpoint"),
    "serve": ("install", "download", "engine"),
}
"""Which stages each stage reads what was made by."""

STAGE_TITLES = {
    "install": "installation",
    "download": "download",
    "graph": "graph",
    "checkpoint": "quantization",
    "engine": "build",
    "serve": "server",
}
"""What a stage is called in a sentence; a checkpoint in 16 bits is a conversion."""


@dataclass(frozen=True)
class PlannedStep:
    """One stage of a recipe.

    Attributes:
        kind: ``install``, ``download``, ``graph``, ``checkpoint``, ``engine``, ``serve``.
        step: title, commands, what it makes and how large that will be.
        title: what it is called in a sentence.
        reads: the kinds of earlier stages whose results it takes.
        machine: what the result is tied to, beside its command: a GPU's key for an engine, a compute capability for
            weights that are laid out for one; empty where it can be copied anywhere.
        done: what it makes is on this machine already.
    """

    kind: str
    step: pod.Step
    title: str
    reads: tuple[str, ...]
    machine: str
    done: bool

    @property
    def heading(self) -> str:
        """Title, what it makes, and whether that is there."""
        return self.step.heading() + (" (on this machine already)" if self.done else "")


@dataclass(frozen=True, repr=False)
class RecipePlan(Shown):
    """What a recipe leads to; shows itself.

    Attributes:
        recipe: that it is for.
        title: model, precision and machine.
        steps: in order; none where a problem of the recipe leaves no commands.
        fit: the memory planner's answer, for a GPU and a model whose shape is known.
        remarks: from :func:`helpers.recipe.rules.check`.
        notes: what holds for all of it.
        settings: what a terminal is told before any of it; None where there are no steps. It makes nothing, so it is no
            stage: it is never missing, and two recipes are not compared by it.
    """

    recipe: Recipe
    title: str
    steps: tuple[PlannedStep, ...]
    fit: memory.Fit | None
    remarks: tuple[Remark, ...]
    notes: tuple[str, ...] = ()
    settings: pod.Step | None = None

    @property
    def problems(self) -> tuple[Remark, ...]:
        """What stands in the way of running it."""
        return tuple(remark for remark in self.remarks if remark.kind == "problem")

    @property
    def missing(self) -> tuple[PlannedStep, ...]:
        """What :func:`run` would make here, or a pod from nothing; without the server, which is started anew."""
        return tuple(step for step in self.steps if not step.done and step.kind != "serve")

    @property
    def verdict(self) -> str:
        """Whether it fits, and what is left to do."""
        if not self.steps:
            return "There is no plan: a problem stands in the way."
        todo = [step.title for step in self.missing]
        if self.problems:
            left = f"{counted(len(self.problems), 'problem')} to solve before it can be run"
        else:
            left = f"To do: {', '.join(todo)}, then the server" if todo else "All is made: only the server starts"
        return f"{self.room} {left}."

    @property
    def room(self) -> str:
        """What fits, in one sentence."""
        if self.fit is not None:
            return f"predicted: {self.fit.sentence}"
        cache = rules.cpu_cache(self.recipe)
        if cache is None:
            return "Its memory is not known before the model is downloaded."
        return (
            f"predicted: the KV cache takes {bytes_text(cache.bytes)} of this machine's memory for {cache.tokens:,} "
            f"tokens, {counted(cache.requests, 'request')} of {self.recipe.max_seq_len:,}."
        )

    def __str__(self) -> str:
        lines = [f"# Recipe {self.recipe.name}: {self.title}", *(f"# {note}" for note in self.notes)]
        if self.settings:
            lines += ["", f"# {self.settings.heading()}", *self.settings.lines]
        for step in self.steps:
            lines += ["", f"# {step.heading}", *step.step.lines]
        lines += ["", f"# {self.verdict}", *(f"# {remark}" for remark in self.remarks)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        steps = pod.step_html(self.settings, self.settings.heading()) if self.settings else ""
        steps += "".join(pod.step_html(step.step, step.heading) for step in self.steps)
        before, after = map(paragraph, self.notes), map(paragraph, (self.verdict, *self.remarks))
        return boxed(f"Recipe {self.recipe.name}: {self.title}", "".join([*before, steps, *after]))


def plan(recipe: Recipe | str | Path) -> RecipePlan:
    """What a recipe leads to, on its machine; nothing is run or downloaded.

    A recipe with a problem has a plan all the same where its commands can be written: the remarks name the problem.

    Args:
        recipe: itself, its file or its name.

    Raises:
        WorkshopError: it is no recipe.
    """
    recipe = given(recipe)
    remarks = tuple(rules.check(recipe))
    try:
        made, fit = commands(recipe), rules.fit(recipe)
    except WorkshopError:
        if not any(remark.kind == "problem" for remark in remarks):
            raise  # what no rule foresaw is told as it is
        return RecipePlan(recipe, f"{recipe.model}, {recipe.gpu}", (), None, remarks)
    steps = tuple(_planned(recipe, step) for step in made.steps if step.kind in _SHOWN)
    note = [made.notes[0]] if made.notes else []
    settings = next(step for step in made.steps if step.kind == "settings")
    return RecipePlan(recipe, made.title, steps, fit, remarks, tuple(note), settings)


def commands(recipe: Recipe) -> pod.Plan:
    """The commands of a recipe, from :mod:`helpers.plan`.

    Raises:
        WorkshopError: as :func:`helpers.plan.make`.
    """
    if recipe.on_cpu:
        return pod.make_on_cpu(
            recipe.model,
            recipe.precision,
            recipe.kv,
            recipe.serve_options(),
            recipe.calibration.texts,
            recipe.revision,
        )
    return pod.make(
        recipe.gpu,
        recipe.precision,
        recipe.model,
        tp_size=recipe.tensor_parallel_size,
        kv=recipe.kv,
        sizes=recipe.sizes,
        calibration_texts=recipe.calibration.texts,
        serve=recipe.serve_options(),
        revision=recipe.revision,
    )


def _planned(recipe: Recipe, step: pod.Step) -> PlannedStep:
    """One stage, with what it reads and whether it is done here."""
    plain = checkpoint.texts_used(CHECKPOINTS[recipe.precision], recipe.kv) == 0
    title = "conversion" if step.kind == "checkpoint" and plain else STAGE_TITLES[step.kind]
    return PlannedStep(step.kind, step, title, _READS.get(step.kind, ()), _tied(recipe, step.kind), _done(recipe, step))


def _tied(recipe: Recipe, kind: str) -> str:
    """What a stage's result is tied to, beside its command; empty where it can be copied anywhere."""
    if kind == "engine":
        return recipe.gpu
    if kind == "checkpoint" and recipe.precision == "int8_wo":  # convert_checkpoint lays them out for the GPU it sees
        return capability_text(hardware.by_key(recipe.gpu).compute_capability)
    return ""


def _done(recipe: Recipe, step: pod.Step) -> bool:
    """Whether what a stage makes is on this machine, whole, and from the weights and the program that are here now."""
    if not step.makes:
        return False
    place = Path(step.makes.replace(pod.HOME, str(workspace.home()), 1))
    if step.kind == "install":
        used = releases.current()
        return (used is not None and used.python.parent.parent == place) or (place / "bin" / "trtllm-build").exists()
    found = workspace.find(place)
    if found is None:
        return False
    if step.kind == "engine" and _refused(recipe, Engine(found.path, found.manifest)):
        return False
    made = found.manifest
    return _from_these_weights(recipe, made) and _by_this_worker(step, made) and _of_this_kind(recipe, step, made)


def _refused(recipe: Recipe, engine: Engine) -> bool:
    """Whether an engine was built for another machine than this, or cannot be asked."""
    toolchain = openvino if recipe.on_cpu else tensorrt_llm
    try:
        return toolchain.refusal(engine) is not None
    except WorkshopError:  # TensorRT-LLM is not installed here
        return True


def _from_these_weights(recipe: Recipe, made: workspace.Manifest) -> bool:
    """Whether an artifact was made from the model that is here; a downloaded one is compared by its manifest."""
    if "model" not in made.inputs:
        return True
    if not recipe.on_hub:
        return made.inputs["model"] == models.find(recipe.model).digest
    return True  # the folder's name has the revision, and hashing gigabytes for a preview would keep people waiting


def _of_this_kind(recipe: Recipe, step: pod.Step, made: workspace.Manifest) -> bool:
    """Whether a graph was made by the packages that are here, and weights are laid out for the recipe's GPU."""
    if step.kind == "graph":
        return made.maker == openvino.graph_maker()
    if step.kind == "checkpoint" and made.machine:
        return made.machine.get("compute_capability") == _tied(recipe, step.kind)
    return True


def _by_this_worker(step: pod.Step, made: workspace.Manifest) -> bool:
    """Whether an OpenVINO engine was built by the worker as it is now."""
    if step.kind != "engine" or made.options.get("toolchain") != openvino.name:
        return True
    return made.inputs.get("worker") == openvino.build_worker()


def run(recipe: Recipe | str | Path) -> Engine:
    """Make what is missing of a recipe on this machine, each stage with its progress; returns the engine.

    Args:
        recipe: itself, its file or its name.

    Raises:
        WorkshopError: it is no recipe, it is for another machine, a rule stands in the way, or a stage failed.
    """
    recipe = given(recipe)
    require_here(recipe)
    rules.require(recipe)
    found = models.find(recipe.model, recipe.revision)
    require_room(recipe, found.config)  # a model that only the hub knew has told its shape now
    made = toolchains.best().build(
        found,
        recipe.precision,
        recipe.kv,
        recipe.tensor_parallel_size,
        sizes=recipe.sizes,
        calibration_texts=recipe.calibration.texts,
    )
    assert isinstance(made, Engine)
    return made


def overview() -> Table:
    """The recipes of ``data/recipes``, one a row, with what the rules have to say in a few words."""
    rows = []
    for recipe in map(load, names()):
        gpus = recipe.tensor_parallel_size
        machine = "CPU" if recipe.on_cpu else hardware.by_key(recipe.gpu).name
        lengths = f"{recipe.max_input_len:,} + {recipe.max_output_len:,}"
        said = [remark for remark in rules.check(recipe) if remark.kind != "note"]
        remarks = "; ".join(remark.brief for remark in said) or "–"
        where = f"{gpus} × {machine}" if gpus > 1 else machine
        rows.append([recipe.name, recipe.model, where, TITLES[recipe.precision], lengths, remarks])
    columns = ["recipe", "model", "machine", "weights", "prompt + answer", "remarks"]
    note = "recipe.load(name) reads one; recipe.plan(name) shows its stages, recipe.remarks(name) the whole remarks."
    return Table(columns, rows, "Recipes in data/recipes", note, whole=columns[:1])
