"""What is known of Truss, from ``data/truss.toml``, and the GPUs that it has (notebook 07)."""

import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Any

from helpers import hardware
from helpers.cards import bytes_text
from helpers.hardware import Datasheet
from helpers.hardware.machine import capability_text
from helpers.workspace import DATA


@cache
def facts() -> Mapping[str, Any]:
    """The content of ``data/truss.toml``."""
    return tomllib.loads((DATA / "truss.toml").read_text())


def version() -> str:
    """The release of Truss that all of this was read in, and is tested against."""
    return str(facts()["version"])


def accelerator(gpu: str) -> str | None:
    """Truss's name of a GPU of ``data/gpus.toml``; None where it has none."""
    name = facts()["accelerators"].get(gpu)
    return None if name is None else str(name)


def offered() -> list[tuple[str, Datasheet]]:
    """The GPUs that Truss has and runs TensorRT-LLM on: its name of each, and the datasheet."""
    old = facts()["refusals"]["too_old"]["gpus"]
    return [(name, hardware.by_key(key)) for key, name in facts()["accelerators"].items() if name not in old]


def offered_text() -> str:
    """The names of :func:`offered`, for a sentence."""
    return ", ".join(name for name, _ in offered())


def nearest(sheet: Datasheet) -> str:
    """What to take instead of a GPU that Truss does not have: those of its generation, the nearest memory first."""
    same = [(name, one) for name, one in offered() if one.compute_capability == sheet.compute_capability]
    if not same:
        return f"one that it has: {offered_text()}"
    same.sort(key=lambda pair: abs(pair[1].memory_bytes - sheet.memory_bytes))
    told = " or ".join(f"{name} ({bytes_text(one.memory_bytes).replace('.00', '')})" for name, one in same)
    return f"{told}, of compute capability {capability_text(sheet.compute_capability)} like it"


def to_yaml(config: Mapping[str, Any]) -> str:
    """A nested mapping as YAML, in its own order."""
    import yaml

    return str(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=110))
