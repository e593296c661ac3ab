"""What the exported files need to know beside a recipe: ``data/export.toml``, and the writing of YAML. Pure."""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from helpers import hardware
from helpers.errors import WorkshopError
from helpers.workspace import DATA

PORT = 8000
"""Inside a container; what is in front of it chooses its own."""

MODELS = "/models"
"""Where a container finds the engine and the tokenizer."""

_LONGEST = 50  # characters of a name: a platform appends its own, and 63 is the most that a label may have
_WIDE = 110  # characters of a line of comment


@cache
def facts() -> Mapping[str, Any]:
    """The content of ``data/export.toml``."""
    return tomllib.loads((DATA / "export.toml").read_text())


def assumed(name: str) -> Any:
    """A time or a size that nobody has measured on the reader's cluster."""
    return facts()["assumed"][name]


def gpu_product(gpu: str) -> str:
    """What GPU feature discovery calls a GPU of ``data/gpus.toml`` on its node.

    Raises:
        WorkshopError: nobody has looked up the name of this one.
    """
    known, sheet = facts()["gpu_product"], hardware.by_key(gpu)
    whole = known["names"].get(sheet.slice_of or sheet.key)
    if whole is None:
        raise WorkshopError(
            f"What a node with a {sheet.name} is labelled is not known here. Add it to data/export.toml: it is the "
            "driver's name of the GPU with a dash for each space."
        )
    profile = sheet.key.partition("-mig-")[2]
    return str(known["slice"]).format(whole=whole, profile=profile) if sheet.slice_of else str(whole)


def dns_name(name: str) -> str:
    """A name that a Kubernetes service may have: lower case, digits and dashes, a letter first.

    Raises:
        WorkshopError: nothing of it is left.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not plain:
        raise WorkshopError(f"No name for a service can be made of {name!r}. Give the recipe one with letters.")
    plain = plain if plain[0].isalpha() else f"engine-{plain}"
    return plain[:_LONGEST].strip("-")


def gib(count: float) -> str:
    """A number of bytes as Kubernetes writes it, rounded up to whole GiB."""
    return f"{max(1, math.ceil(count / 2**30))}Gi"


def to_yaml(*documents: Mapping[str, Any], header: Sequence[str] = (), why: Mapping[str, str] | None = None) -> str:
    """Documents as YAML, in their own order, with comments.

    Args:
        documents: nested mappings; several are separated as one file of several documents.
        header: sentences above the first.
        why: a key to the sentence above the first line that has it.
    """
    import yaml

    class Plain(yaml.SafeDumper):
        """Writes a value out each time that it stands there, rather than a reference to the first."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    texts = [yaml.dump(dict(one), Dumper=Plain, sort_keys=False, allow_unicode=True, width=1000) for one in documents]
    lines = comment(*header) + commented("---\n".join(texts).splitlines(), why or {})
    return "\n".join(lines) + "\n"


def commented(lines: Sequence[str], why: Mapping[str, str]) -> list[str]:
    """Lines of YAML with a comment above the first that has a key."""
    left, out = dict(why), []
    for line in lines:
        indent = line[: len(line) - len(line.lstrip(" -"))]
        key = line.strip(" -").partition(":")[0].strip("'\"")
        if key in left:
            out += [" " * len(indent) + row for row in comment(left.pop(key))]
        out.append(line)
    if left:
        raise KeyError(f"no line has {', '.join(left)}")
    return out


def comment(*sentences: str) -> list[str]:
    """Sentences as lines that a reader of YAML, of a Containerfile and of protobuf text leaves out."""
    import textwrap

    return [f"# {row}" for sentence in sentences for row in textwrap.wrap(sentence, _WIDE, break_on_hyphens=False)]
