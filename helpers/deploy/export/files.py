"""From a recipe to the files of every target (notebook 09)."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from helpers import hardware
from helpers.deploy.export import container, kserve, kubernetes, ray_config, readme, triton, truss_file
from helpers.deploy.export.exported import Exported
from helpers.deploy.export.subject import RECIPE, File, Subject, release_of
from helpers.deploy.scaling import PATIENT, Scaling
from helpers.errors import WorkshopError

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")

if TYPE_CHECKING:
    from helpers.recipe.schema import Recipe

TARGETS: dict[str, ModuleType] = {
    "container": container,
    "kubernetes": kubernetes,
    "kserve": kserve,
    "triton": triton,
    "ray": ray_config,
    "truss": truss_file,
}
"""Name to module, in the order of the README: an image is built before a cluster starts it."""


def export(
    recipe: "Recipe | str | Path",
    scaling: Scaling | None = None,
    *,
    targets: Sequence[str] = (),
    image: str = "",
    baked: bool = False,
    release: str | None = None,
) -> Exported:
    """A recipe as files for other platforms; nothing is written, built or reached.

    Args:
        recipe: itself, its file or its name.
        scaling: when replicas are added and taken away; None for :data:`PATIENT`.
        targets: names of :data:`TARGETS`; none for all of them.
        image: what the cluster calls the container's image; empty for NVIDIA's own, or for ``NAME:1`` where one has to
            be built.
        baked: copy the engine into the image, instead of mounting it.
        release: of TensorRT-LLM; None for the newest offered that has kernels for the recipe's GPU.

    Raises:
        WorkshopError: it is no recipe, a rule stands in its way, there is no such target, or the engine of a CPU was to
            be baked in.
    """
    from helpers.recipe import rules
    from helpers.recipe.schema import given

    recipe, chosen = given(recipe), _chosen(targets)
    rules.require(recipe)
    _require_one(recipe, image, baked, release)
    subject = Subject(recipe, scaling or PATIENT, release_of(recipe, release), image, baked)
    refusals = {name: why for name, module in chosen.items() if (why := module.refusal(subject))}
    made = {name: module for name, module in chosen.items() if name not in refusals}
    files: dict[str, File] = {}
    for module in made.values():
        files |= module.files(subject)
    if files:
        files = {RECIPE: File(recipe.to_yaml(), "the recipe that all of this was made from"), **files}
        files = {readme.FILE: File(readme.text(subject, files, made), "start here: the commands in order"), **files}
    return Exported(recipe.name, _title(subject), files, refusals, tuple(_notes(subject, made)))


def _chosen(targets: Sequence[str]) -> dict[str, ModuleType]:
    """The targets that were asked for, in their own order.

    Raises:
        WorkshopError: there is no such target.
    """
    asked = [targets] if isinstance(targets, str) else list(targets)
    unknown = [name for name in asked if name not in TARGETS]
    if unknown:
        raise WorkshopError(f"There is no target {unknown[0]!r} to export to. Choose from {', '.join(TARGETS)}.")
    return {name: module for name, module in TARGETS.items() if not asked or name in asked}


def _require_one(recipe: "Recipe", image: str, baked: bool, release: str | None) -> None:
    """Refuse what makes no sense together.

    Raises:
        WorkshopError: says what, and what to do.
    """
    if image and not _IMAGE.fullmatch(image):
        raise WorkshopError(f"{image!r} is no name of an image. Write one such as registry.example.com/team/name:1.")
    if recipe.on_cpu and baked:
        raise WorkshopError(
            f"The engine of {recipe.name} is compiled for the processor that it runs on: its container builds it as it "
            "starts. Leave baked out."
        )
    if recipe.on_cpu and release:
        raise WorkshopError(f"{recipe.name} is for a CPU and needs no TensorRT-LLM. Leave the release out.")


def _title(subject: Subject) -> str:
    """The recipe and where it runs."""
    if subject.release is None:
        return f"{subject.recipe.name}, for a CPU"
    sheet = hardware.by_key(subject.recipe.gpu)
    count = f"{subject.ranks} × " if subject.ranks > 1 else ""
    return f"{subject.recipe.name}, for {count}{sheet.name} and TensorRT-LLM {subject.release.version}"


def _notes(subject: Subject, made: dict[str, ModuleType]) -> Iterator[str]:
    """What to know before any of it is used."""
    if not made:
        return
    yield "Nothing of this was sent anywhere or run; README.md says what was checked, and against what."
    if subject.own_image and not subject.asked_image and {"kubernetes", "kserve"} & set(made):
        yield (
            f"The cluster's files name the image {subject.image}, made from the Containerfile. Push it to your "
            "registry, and give its name there as image."
        )
    if subject.target != subject.scaling.target_ongoing:
        yield (
            f"KServe and KEDA take whole numbers: {subject.scaling.target_ongoing:g} requests in flight for each "
            f"replica became {subject.target}."
        )
