"""Why a recipe cannot be deployed with Truss, and what to take instead (notebook 07)."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers import hardware, models
from helpers.hardware.machine import capability_text
from helpers.recipe import rules
from helpers.recipe.truss.facts import accelerator, facts, nearest, offered, offered_text, version
from helpers.recipe.truss.mapping import pair, quantization
from helpers.toolchains.choices import TITLES

if TYPE_CHECKING:
    from helpers.recipe.schema import Recipe

_FP8 = (8, 9)  # the compute capability from which Truss takes FP8, which is the silicon's own bound
_HUB_SPELLING = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")  # what Truss takes for a repository, whether it is there or not


@dataclass(frozen=True)
class Refusal:
    """One reason why a recipe cannot be deployed with Truss.

    Attributes:
        setting: of ``config.yaml``, such as ``resources.accelerator``.
        why: what is wrong, a clause.
        says: Truss's own words; empty where the rules say it.
        by: ``truss``, which says so as it reads the file; ``published``: its source or Baseten's page says so; or
            ``rules``: no machine can build or run the recipe, and no one has to say so but TensorRT-LLM.
        instead: what to do, a sentence; empty where ``why`` says it.
    """

    setting: str
    why: str
    says: str
    by: str
    instead: str

    def __str__(self) -> str:
        if self.by == "rules":
            return f"{self.setting}: {self.why}"
        who = f"Truss {version()} says" if self.by == "truss" else "published"
        return f"{self.why} ({who}: “{self.says.rstrip('.')}”). {self.instead}"


def refusals(recipe: "Recipe", made: Mapping[str, Any]) -> Iterator[Refusal]:
    """Every reason against a recipe, given the config that it would become."""
    yield from _gpu(recipe)
    yield from _precision(recipe)
    yield from _model(recipe)
    yield from _ranges(made["trt_llm"]["build"])
    yield from _rules(recipe)


def _refusal(kind: str, setting: str, why: str, instead: str, bound: int = 0) -> Refusal:
    """A reason of ``data/truss.toml``, in the case at hand."""
    known = facts()["refusals"][kind]
    return Refusal(setting, why, str(known["says"]).replace("{bound}", str(bound)), str(known["by"]), instead)


_ANYWHERE = ("tensor_parallel_size", "max_num_tokens", "max_batch_size")


def _rules(recipe: "Recipe") -> Iterator[Refusal]:
    """What stands in a recipe's way on any machine: heads, chunks, memory. Of these Truss looks only at the chunks."""
    if recipe.on_cpu:
        return
    for remark in rules.problems(recipe):
        if remark.field == "serving.chunked_prefill":
            why, _, instead = remark.text.partition(". ")
            yield _refusal("no_chunks", "trt_llm.runtime.enable_chunked_context", why, instead)
        elif remark.field in _ANYWHERE or remark.short == rules.NO_ROOM:
            yield Refusal(remark.field, remark.text, "", "rules", "")


def _gpu(recipe: "Recipe") -> Iterator[Refusal]:
    setting, name = "resources.accelerator", accelerator(recipe.gpu)
    if recipe.on_cpu:
        why = "Truss builds TensorRT-LLM engines, which need a GPU, and this recipe is for a CPU"
        yield _refusal("no_accelerator", setting, why, f"Take a recipe for a GPU that it has: {offered_text()}.")
        return
    sheet = hardware.by_key(recipe.gpu)
    if name is None:
        yield _refusal("no_accelerator", setting, f"Truss has no {sheet.name}", f"Take {nearest(sheet)}.")
    elif name in facts()["refusals"]["too_old"]["gpus"]:
        yield _refusal("too_old", setting, f"The {sheet.name} is too old", f"Take one of {offered_text()}.")


def _precision(recipe: "Recipe") -> Iterator[Refusal]:
    if recipe.on_cpu:
        return  # another machine comes first, and with it other precisions
    setting, name, rows = "trt_llm.build.quantization_type", quantization(recipe), facts()["quantization"]["names"]
    weights, kv = pair(recipe)
    if name not in [known for *_, known in rows]:
        allowed = [cache for of, cache, known in rows if of == weights and not _legacy(known)]
        instead = f"kv_cache: {' or '.join(allowed)}" if allowed else _eight_bits(recipe)
        why = f"Truss has no name for {TITLES[weights]} weights beside a KV cache in {kv}"
        yield _refusal("no_name", setting, why, f"Take {instead}.")
    elif _legacy(name):
        why = f"Truss knows {TITLES[weights]} weights as {name!r}, a legacy type"
        yield _refusal("legacy", setting, why, f"Take {_eight_bits(recipe)}.")
    elif weights == "fp8" and accelerator(recipe.gpu) in facts()["refusals"]["no_fp8"]["gpus"]:
        sheet = hardware.by_key(recipe.gpu)
        why = f"FP8 needs compute capability {capability_text(_FP8)}, and the {sheet.name} has {_capability(sheet)}"
        yield _refusal("no_fp8", setting, why, f"Take {_eight_bits(recipe)}.")


def _capability(sheet: hardware.Datasheet) -> str:
    """The compute capability of a GPU, as people write it."""
    return capability_text(sheet.compute_capability)


def _legacy(name: str) -> bool:
    """It is one of the names that are only still read."""
    return name in facts()["quantization"]["legacy"]


def _eight_bits(recipe: "Recipe") -> str:
    """What to take in place of a precision that is refused: FP8 where the GPU has it, else FP16 or another GPU."""
    sheet = hardware.by_key(recipe.gpu)
    if sheet.compute_capability >= _FP8:
        return "precision fp8"
    able = [(name, one) for name, one in offered() if one.compute_capability >= _FP8]
    near = min(able, key=lambda known: abs(known[1].memory_bytes - sheet.memory_bytes))[0]
    return f"precision fp16 on the {sheet.name}, or fp8 on a GPU that has it, such as {near}"


def _model(recipe: "Recipe") -> Iterator[Refusal]:
    if recipe.on_hub:
        return
    where = "in this repository" if recipe.model == models.BUNDLED else "in a folder of this disk"
    yield _refusal(
        # Truss itself looks at the spelling alone: 'bundled' could be a repository of the hub, a path could not.
        "no_hub" if _HUB_SPELLING.fullmatch(recipe.model) else "folder",
        "trt_llm.build.checkpoint_repository",
        f"The weights lie {where}, and Baseten downloads them itself",
        "Take a model of the Hugging Face hub, such as TinyLlama, or publish this one there and write owner/name.",
    )


def _ranges(build: Mapping[str, Any]) -> Iterator[Refusal]:
    for name, bounds in facts()["ranges"].items():
        value, setting = build[name], f"trt_llm.build.{name}"
        least, most = bounds.get("above"), bounds.get("most")
        if least is not None and value <= least:
            yield _refusal("too_small", setting, f"{name} is {value:,}", f"Take more than {least:,}.", least)
        elif most is not None and value > most:
            yield _refusal("too_large", setting, f"{name} is {value:,}", f"Take at most {most:,}.", most)
