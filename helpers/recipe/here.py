"""Recipes and the machine at hand: which suits it, whether one can be run here, and two side by side (notebook 07)."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers import hardware, memory, releases, toolchains
from helpers.cards import bytes_text
from helpers.errors import WorkshopError
from helpers.hardware import Datasheet, Gpu
from helpers.hardware.machine import capability_text
from helpers.memory import GIB, Fit
from helpers.recipe import rules
from helpers.recipe.reading import names
from helpers.recipe.schema import Recipe, given, is_file, load
from helpers.toolchains import openvino, tensorrt_llm
from helpers.toolchains.choices import AUTO, TITLES
from helpers.toolchains.tensorrt_llm.ranks import require_ranks

FIRST_SHARE, SECOND_SHARE = 0.4, 0.6
"""Of the memory that is free when each of two engines starts on one GPU: its KV cache, about as much for both."""


def require_here(recipe: Recipe) -> None:
    """Refuse a recipe that this machine cannot run, before anything is downloaded or built.

    An engine of TensorRT-LLM is tied to the compute capability, so a GPU of the same capability counts as the same; its
    memory may be another, and is the one that counts.

    Raises:
        WorkshopError: it is for another machine, TensorRT-LLM is not installed, there are too few GPUs, or the model
            does not fit this GPU; names what is here, what the recipe is for, and what to do.
    """
    require_machine(recipe)
    if recipe.on_cpu:
        return
    releases.require()
    found, ranks = rules.shape(recipe), recipe.tensor_parallel_size
    if found is not None and ranks != 1:
        require_ranks(recipe.model, found, ranks, hardware.look())
    require_room(recipe, rules.settings(recipe))


def require_machine(recipe: Recipe) -> None:
    """Refuse a recipe for another machine.

    Raises:
        WorkshopError: names what is here, what the recipe is for, and what to do.
    """
    toolchain, machine = toolchains.best(), hardware.look()
    gpu = hardware.supported_gpu(machine)
    if recipe.on_cpu:
        if toolchain.name != openvino.name:
            raise WorkshopError(
                f"The recipe {recipe.name} is for a CPU, and this machine builds for its {_product(gpu)}. Take a "
                "recipe for that GPU (recipe.for_this_machine()), or set WORKSHOP_TOOLCHAIN=openvino."
            )
        return
    sheet = hardware.by_key(recipe.gpu)
    wanted = f"{recipe.tensor_parallel_size} × {sheet.name}" if recipe.tensor_parallel_size > 1 else sheet.name
    if toolchain.name == openvino.name or gpu is None:
        here = f"a {_product(gpu)} that is not used" if gpu else f"no GPU that TensorRT-LLM can use ({_cpu()})"
        raise WorkshopError(
            f"The recipe {recipe.name} is for {wanted}, and here is {here}. See its plan with "
            f"{_plan_command(recipe)}, or run 'bundled-cpu', which is for a CPU."
        )
    if gpu.compute_capability != sheet.compute_capability:
        raise WorkshopError(
            f"The recipe {recipe.name} is for {wanted} (compute capability "
            f"{capability_text(sheet.compute_capability)}), and here is {_product(gpu)} ({gpu.capability_text}). "
            "Change its gpu, or take recipe.for_this_machine()."
        )


def require_room(recipe: Recipe, config: Mapping[str, Any] | None) -> None:
    """Refuse a recipe whose model does not fit the GPU that is here, which may have less memory than the recipe's.

    Args:
        recipe: for a GPU of this capability; nothing is asked of one for a CPU.
        config: of its model; None where only the hub knows it.

    Raises:
        WorkshopError: the weights do not fit, or not one request at full length beside them.
    """
    gpu = hardware.supported_gpu(hardware.look())
    if recipe.on_cpu or config is None or gpu is None:
        return
    size = gpu.memory_bytes / GIB
    try:
        made = rules.fitted(recipe, config, size)
    except WorkshopError as refused:
        raise WorkshopError(str(refused).replace(f"device with {size:g} GiB", gpu.name)) from None
    if not made.requests:
        raise WorkshopError(
            f"The recipe {recipe.name} does not fit the {gpu.name} here ({bytes_text(gpu.memory_bytes)}): beside the "
            f"weights its KV cache holds {made.tokens:,} tokens, and one request may have {recipe.max_seq_len:,}. "
            "Choose shorter lengths, fewer bits, or a larger GPU."
        )


def _plan_command(recipe: Recipe) -> str:
    """How to see a recipe's plan: from a terminal where it is one of the files, else in a notebook."""
    return f"`python -m helpers plan {recipe.name}`" if is_file(recipe) else "recipe.plan(...)"


def _product(gpu: Gpu | None) -> str:
    """The name of a GPU that is here."""
    return gpu.name if gpu else "GPU"


def _cpu() -> str:
    return hardware.cpu_identity()["cpu"]


def for_this_machine() -> Recipe:
    """The recipe of ``data/recipes`` that suits this machine, or one made from them.

    On a CPU ``bundled-cpu``; on a GPU TinyLlama in its best 8 bits. ``WORKSHOP_MODEL`` names another model, as it does
    for the notebooks, and the recipe is then called after it.

    Raises:
        WorkshopError: no GPU of its generation is in ``data/gpus.toml``, or ``WORKSHOP_MODEL`` names no model.
    """
    if toolchains.best().name == openvino.name:
        chosen = load("bundled-cpu")
    else:
        sheet = _sheet(hardware.supported_gpu(hardware.look()))
        precision = tensorrt_llm.choices(sheet.key).eight_bit
        name = f"tinyllama-{precision}-{sheet.key}"
        usual = load("tinyllama-fp8-rtx-4090")
        chosen = load(name) if name in names() else usual.changed(name, gpu=sheet.key, precision=precision)
    named = os.environ.get("WORKSHOP_MODEL")
    other = chosen.changed(model=named) if named else chosen
    if other.model == chosen.model:
        return chosen
    return other.changed(f"{_short(other.model)}-{chosen.name.partition('-')[2]}")


def _short(model: str) -> str:
    """A model's name as the names of recipes have it: lower case, its folder or its owner left out."""
    return re.sub(r"[^a-z0-9.]+", "-", Path(model).expanduser().name.lower()).strip("-.") or "model"


def _sheet(gpu: Gpu | None) -> Datasheet:
    """The row of ``data/gpus.toml`` for a GPU: its own, else the nearest of its compute capability.

    The nearest is the largest that is not larger, and where all are, the smallest: what is built for a capability runs
    on every GPU of it, and :func:`require_room` looks at the memory that there is.

    Raises:
        WorkshopError: there is none of its capability.
    """
    if gpu is None:
        raise WorkshopError("There is no GPU here that TensorRT-LLM has kernels for. Take the recipe 'bundled-cpu'.")
    own = hardware.datasheet(gpu.name)
    if own is not None:
        return own
    rows = [row for row in hardware.datasheets() if row.compute_capability == gpu.compute_capability]
    if not rows:
        raise WorkshopError(
            f"data/gpus.toml has no GPU of the compute capability {gpu.capability_text}, that of the {gpu.name} here. "
            "Add a row for it, or set WORKSHOP_TOOLCHAIN=openvino and use the CPU."
        )
    # What a driver shows is a little less than what is sold.
    fitting = [row for row in rows if row.memory_bytes <= 1.1 * gpu.memory_bytes]
    if fitting:
        return max(fitting, key=lambda row: row.memory_bytes)
    return min(rows, key=lambda row: row.memory_bytes)


def twin(recipe: Recipe | str | Path, precision: str) -> Recipe:
    """The same recipe with weights of another precision, for two engines side by side.

    Where ``data/recipes`` has it, it is that one.

    Args:
        recipe: itself, its file or its name.
        precision: of the weights.

    Raises:
        WorkshopError: it is no recipe, or there is no such precision.
    """
    recipe = given(recipe)
    made = recipe.changed(_twin_name(recipe, precision), precision=precision)
    return next((known for known in map(load, names()) if known.model_dump() == made.model_dump()), made)


def _twin_name(recipe: Recipe, precision: str) -> str:
    """A recipe's name with another precision in place of its own, which may stand there in short (int8 for int8_wo)."""
    words = recipe.name.split("-")
    own = next((w for w in (recipe.precision, recipe.precision.partition("_")[0]) if w in words), None)
    if precision == recipe.precision:
        return recipe.name
    return "-".join([*words, precision] if own is None else [precision if word == own else word for word in words])


def pair(recipe: Recipe | str | Path) -> tuple[Recipe, Recipe]:
    """A recipe in 16 bits and in the best 8 bits of its machine, to be served at the same time.

    Two engines on one GPU share its memory: the first takes 0.4 of what is free for its KV cache, the second 0.6 of
    what is then left, about as much. The second listens on a port of its own. Where the recipe's KV cache cannot be
    built beside the other's weights, the other has the one that goes best with them.

    Raises:
        WorkshopError: as :func:`twin`; or both do not fit the GPU together.
    """
    recipe = given(recipe)
    offered = openvino.choices() if recipe.on_cpu else tensorrt_llm.choices(recipe.gpu)
    small = recipe.precision if recipe.precision != "fp16" else offered.eight_bit
    left, right = (_with_a_cache(twin(recipe, precision)) for precision in ("fp16", small))
    if recipe.serving.port:
        right = right.changed(serving__port=None)
    if recipe.on_cpu:
        return left, right
    left, right = left.changed(serving__kv_cache_share=FIRST_SHARE), right.changed(serving__kv_cache_share=SECOND_SHARE)
    _require_both(left, right)
    return left, right


def _with_a_cache(recipe: Recipe) -> Recipe:
    """A recipe with the KV cache that it asks for, or with ``auto`` where that cannot be built beside its weights."""
    if recipe.kv is None or recipe.kv_cache == AUTO:
        return recipe
    caches = openvino.kv_choices() if recipe.on_cpu else tensorrt_llm.kv_choices(recipe.gpu)
    return recipe if recipe.kv in caches.offered(recipe.precision) else recipe.changed(kv_cache=AUTO)


def _require_both(left: Recipe, right: Recipe) -> None:
    """Refuse two recipes whose engines do not fit one GPU together: weights, a step's work, and a request's KV cache.

    Raises:
        WorkshopError: they do not; with the bytes, and a way out.
    """
    config = rules.settings(left)
    if config is None:
        return
    memory_bytes, where = _memory_for(left)
    fits = [rules.fitted(one, config, memory_bytes / GIB) for one in (left, right)]
    loaded = [made.runtime + made.weights + made.activations for made in fits]
    first = memory.kv_pool(memory_bytes - loaded[0], FIRST_SHARE)
    second = memory.kv_pool(memory_bytes - sum(loaded) - first, SECOND_SHARE)
    if first >= _a_request(fits[0]) and second >= _a_request(fits[1]):
        return
    titles = [TITLES[one.precision] for one in (left, right)]
    raise WorkshopError(
        f"predicted: {left.model} in {titles[0]} and in {titles[1]} do not fit {where} at the same time "
        f"({bytes_text(memory_bytes)}): loaded, they take {bytes_text(loaded[0])} and {bytes_text(loaded[1])}, and "
        f"each needs a KV cache for at least one request, {bytes_text(_a_request(fits[0]))} and "
        f"{bytes_text(_a_request(fits[1]))}. Serve them one after the other (recipe.twin makes the second), or choose "
        "a larger GPU, a smaller model or shorter lengths."
    )


def _a_request(made: Fit) -> int:
    """Bytes of KV cache of one request at full length."""
    return made.blocks_per_request * made.block


def _memory_for(recipe: Recipe) -> tuple[int, str]:
    """Bytes of a recipe's GPU, and what to call it: the one that is here where it is of that kind."""
    gpu, sheet = hardware.supported_gpu(hardware.look()), hardware.by_key(recipe.gpu)
    if gpu is not None and gpu.compute_capability == sheet.compute_capability:
        return gpu.memory_bytes, f"the {gpu.name}"
    return sheet.memory_bytes, f"one {sheet.name}"
