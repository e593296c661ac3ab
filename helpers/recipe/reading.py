"""A recipe's YAML as fields and values, each with its line; what a recipe has no use for is refused (notebook 07)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.errors import WorkshopError
from helpers.workspace import DATA

FOLDER = DATA / "recipes"
_MOST_BYTES = 64 * 1024  # a recipe has about 1 kB; what is far larger is another file
_SECRET_VALUE = re.compile(r"(?<![A-Za-z0-9])(hf_[A-Za-z0-9]{12,}|(sk-|nvapi-)[A-Za-z0-9_-]{12,})")


def names() -> list[str]:
    """The recipes of ``data/recipes``, in order."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def listed() -> str:
    """The same, for a sentence."""
    return ", ".join(names())


def masked(text: str) -> str:
    """A text without what looks like a key of the hub or of an API."""
    return _SECRET_VALUE.sub("(a secret, not shown)", text)


def holds_secret(text: str) -> bool:
    """A text has what looks like a key of the hub or of an API."""
    return _SECRET_VALUE.search(text) is not None


def fields_of_file(file: Path, where: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The fields of a YAML file, and the line of each.

    Raises:
        WorkshopError: it is too large, no text, no YAML, no mapping, or has what a recipe may not have.
    """
    try:
        size = file.stat().st_size
        if size > _MOST_BYTES:
            raise WorkshopError(
                f"{where} has {size:,} bytes and is no recipe: one has at most {_MOST_BYTES:,}. Name the right file."
            )
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise WorkshopError(f"{where} is no text in UTF-8, so it is no recipe. Save it as UTF-8.") from None
    except OSError as problem:
        raise WorkshopError(f"{where} cannot be read: {problem.strerror}. Look at its permissions.") from None
    return fields(text, where)


def fields(text: str, where: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The fields of a YAML text, and the line of each.

    Raises:
        WorkshopError: it is no YAML, no mapping, or has what a recipe may not have.
    """
    import yaml

    try:
        return _parsed(text, where)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = ": ".join(filter(None, (problem.context, problem.problem)))
        line = (text.splitlines() or [""])[min(mark.line, len(text.splitlines()) - 1)] if mark else ""
        tab = " Indent with spaces: YAML allows no tabs there." if "\t" in line else ""
        raise WorkshopError(f"{where}{place} is no YAML: {what}.{tab or ' Mend that line.'}") from None
    except yaml.YAMLError as problem:  # such as a control character, which has no line
        raise WorkshopError(f"{where} is no YAML: {' '.join(str(problem).split())}. Mend that place.") from None


def _parsed(text: str, where: str) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Content of a YAML text; raises YAML's own errors, and a :class:`WorkshopError` for what a recipe may not have."""
    import yaml

    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise WorkshopError(
                f"{where}, line {line}: a recipe has no anchors and no aliases (& and *). Write the value out."
            )
        if getattr(event, "tag", None):
            raise WorkshopError(f"{where}, line {line}: a recipe has no tags (!). Write the value plain.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > 8:
            raise WorkshopError(
                f"{where}, line {line}: a recipe has two levels of fields, and this goes deeper than 8."
            )
    loader = _loader()(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise WorkshopError(f"{where} is empty. Start from a copy of one in data/recipes: {listed()}.")
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
            raise WorkshopError(
                f"{where} holds {kind} at the top, and a recipe is fields with values, such as 'model: bundled'."
            )
        lines = dict(_walk(node, where))
        return loader.construct_document(node), lines
    finally:
        loader.dispose()


def _walk(node: Any, where: str, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every field of a mapping, at any depth, with its line; refuses one that is there twice."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        for place, inner in enumerate(node.value):
            yield (*above, str(place)), inner.start_mark.line + 1
            yield from _walk(inner, where, (*above, str(place)))
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise WorkshopError(f"{where}, line {line}: a field's name is text, and this is none. Mend that line.")
        if name in seen:
            raise WorkshopError(
                f"{where}, line {line}: {masked('.'.join((*above, name)))} is there twice, first in line "
                f"{seen[name]}. Leave one of them out."
            )
        seen[name] = line
        yield (*above, name), line
        yield from _walk(value, where, (*above, name))


def _loader() -> Any:
    """YAML's safe loader with the plain values of YAML 1.2's core: no ``yes`` for true, no dates, no base 60."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, list[tuple[str, Any]]] = {}  # noqa: RUF012 - as its parent has it

    for tag, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?(0|[1-9][0-9_]{0,17})", list("-+0123456789")),
        ("float", r"[-+]?[0-9]*\.[0-9]+|[-+]?[0-9]+\.", list("-+.0123456789")),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), first)
    return Loader
