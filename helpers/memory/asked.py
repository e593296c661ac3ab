"""What a person asks the planner for, as shapes, bytes and names; the only part that looks anything up."""

import difflib
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from helpers import hardware, models
from helpers.errors import WorkshopError
from helpers.memory.shape import BYTES_PER_WEIGHT, GIB, KV_BYTES, Shape

TITLES = {"fp16": "FP16", "fp8": "FP8", "int8_sq": "INT8", "int8_wo": "INT8 weight-only", "int4_awq": "INT4 AWQ"}
KV_TITLES = {None: "16-bit", "fp8": "FP8", "int8": "INT8", "u8": "8-bit (u8)", "f32": "FP32"}
_SAME = {"int8": "int8_sq"}  # what a person asks a toolchain for, and what its checkpoint is called
_SAME_KV: dict[str, str | None] = {"fp16": None, "f16": None, "bf16": None, "none": None, "fp32": "f32"}
_ONLY_CPU = ("u8", "f32")
_MOST_GIB = 4096

ModelLike = str | models.Model | Mapping[str, Any] | Shape


def resolve(model: ModelLike, gpu: str | float) -> tuple[str, Shape, hardware.Datasheet | None, int]:
    """A model's name and shape, and a GPU's datasheet (None for a bare number of GiB) and bytes.

    Raises:
        WorkshopError: an unknown model or GPU, settings that lack a key, or a size that no device has.
    """
    name, shape = named(model)
    if isinstance(gpu, str):
        sheet = hardware.by_key(gpu)
        return name, shape, sheet, sheet.memory_bytes
    if isinstance(gpu, bool) or not isinstance(gpu, int | float) or not 0 < gpu <= _MOST_GIB:
        raise WorkshopError(
            f"{gpu!r} is no size of a memory. Give a GPU of data/gpus.toml, such as 'a10g', or a number of GiB up to "
            f"{_MOST_GIB:,}, such as 24."
        )
    return name, shape, None, int(gpu * GIB)


def named(model: ModelLike) -> tuple[str, Shape]:
    """Name and shape of a model in any of the forms that :func:`~helpers.memory.fit` takes.

    Raises:
        WorkshopError: an unknown model, or settings that lack a key.
    """
    if isinstance(model, Shape):
        return "This model", model
    if isinstance(model, models.Model):
        return model.name, Shape.of(model.config)
    if isinstance(model, Mapping):
        return str(model.get("_name_or_path") or "This model"), Shape.of(model)
    if not isinstance(model, str):
        raise WorkshopError(f"{model!r} is no model. Give a name of data/models.toml, 'bundled', or a folder.")
    known = models.known()
    for name, row in known.items():
        if model.lower() in (name.lower(), row["repository"].lower()):
            return name, Shape.of(row["config"])
    if model == models.BUNDLED or Path(model).expanduser().is_dir():
        found = models.find(model)
        return found.name, Shape.of(found.config)
    # A hub id would be found too, but planning downloads nothing.
    near = difflib.get_close_matches(model, [*known, models.BUNDLED], n=1)
    raise WorkshopError(
        f"There is no model called {model!r} here.{f' Did you mean {near[0]!r}?' if near else ''} "
        f"Choose 'bundled', {', '.join(map(repr, known))}, a folder, or the settings of a config.json."
    )


def weights(name: str) -> str:
    """The weights' precision as a checkpoint calls it."""
    return _one_of("precision of weights", _SAME.get(name, name), BYTES_PER_WEIGHT)


def cache(name: str | None) -> str | None:
    """The KV cache's precision as :data:`KV_BYTES` calls it."""
    same = _SAME_KV.get(name, name) if name else None
    return _one_of("precision of a KV cache", same, (key for key in KV_BYTES if key)) if same else None


def _one_of(what: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=1)
    sixteen = "None for 16 bits, " if "KV" in what else ""
    raise WorkshopError(
        f"There is no {what} called {name!r}.{f' Did you mean {near[0]!r}?' if near else ''} "
        f"Choose {sixteen}{', '.join(names)}."
    )


def whole(name: str, value: int) -> int:
    """A whole number of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise WorkshopError(f"{name} is {value!r}. Give a whole number of at least 1.")
    return number


def notes(sheet: hardware.Datasheet, precision: str, kv: str | None) -> tuple[str, ...]:
    """Why TensorRT-LLM builds no engine of these precisions for a GPU; nothing where it does."""
    from helpers.toolchains.tensorrt_llm.kv import NOT_MADE

    here = hardware.support(sheet.compute_capability)
    if here is None:
        return (f"TensorRT-LLM's releases have no kernels for the {sheet.name}.",)
    notes = []
    if precision not in here.engine_weights:
        why = here.refusals.get(precision, "")
        notes.append(f"But no engine can be built with {TITLES[precision]} weights for the {sheet.name}. {why}")
    elif f"engine_weights.{precision}" in here.unverified:
        notes.append(f"Nobody has reported an engine with {TITLES[precision]} weights on this generation yet.")
    if kv in _ONLY_CPU:
        notes.append(f"A KV cache in {KV_TITLES[kv]} is the CPU toolchain's; TensorRT-LLM has none.")
    elif kv and kv not in here.engine_kv:
        why = here.refusals.get(f"{kv}_kv", "")
        notes.append(f"No engine with an {KV_TITLES[kv]} KV cache is offered for the {sheet.name}. {why}")
    elif (precision, kv) in NOT_MADE:
        both = f"{TITLES[precision]} weights and an {KV_TITLES[kv]} KV cache"
        notes.append(f"No engine of {both} is made in this workshop: nobody documents that pair.")
    elif f"engine_kv.{kv}" in here.unverified:
        notes.append(f"Nobody has reported an engine with an {KV_TITLES[kv]} KV cache on this generation yet.")
    return tuple(note.strip() for note in notes)
