"""What TensorRT-LLM's programs and Python entry points take in each release: ``data/contract`` as objects that check.

Pure: files are read, nothing is started. Every command and call that the workshop makes is checked against this; the
tests' stand-ins for the programs parse by it. A row that no source settles says ``unverified``: it may be used only
after the installation's own ``--help`` or signature has shown it (:mod:`helpers.releases.verify`).
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from helpers.errors import WorkshopError
from helpers.releases.programs import Option, Program

__all__ = ["RELEASES", "Contract", "Entry", "Option", "Parameter", "Program", "contract", "sources"]

FOLDER = Path(__file__).parents[2] / "data" / "contract"
RELEASES = ("1.2.1", "1.0.0")
"""The releases that the rows speak of, newest first."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a Python entry point in one release (for an enumeration: a member).

    Attributes:
        kind: ``int``, ``float``, ``bool``, ``str``, ``list`` or ``any``.
        status: as for an :class:`Option`.
    """

    name: str
    kind: str = "any"
    choices: tuple[str, ...] = ()
    default: Any = None
    required: bool = False
    status: str = "ok"
    reason: str = ""
    source: str = ""
    verified: bool = True


_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str, Path),
    "list": (list, tuple),
}


@dataclass(frozen=True)
class Entry:
    """A Python entry point in one release: a class, a method or an enumeration (``members``)."""

    name: str
    release: str
    parameters: tuple[Parameter, ...]
    members: bool = False
    source: str = ""

    def problems(self, arguments: Mapping[str, Any]) -> list[str]:
        """What is wrong with a call by keyword, a sentence each; None stands for a parameter left at its default."""
        known = {parameter.name: parameter for parameter in self.parameters}
        usable = [name for name, parameter in known.items() if parameter.status == "ok"]
        told = []
        for name, value in arguments.items():
            parameter = known.get(name)
            if parameter is None:
                near = next(iter(difflib.get_close_matches(name, usable, n=1)), "")
                what = "member" if self.members else "parameter"
                nearest = f"; nearest: {near}" if near else ""
                told.append(f"{self.name} of release {self.release} has no {what} {name}{nearest}.")
            elif parameter.status != "ok":
                what = "takes no" if parameter.status == "removed" else "warns of"
                told.append(f"{self.name} of release {self.release} {what} {name}: {parameter.reason}.")
            elif value is not None:
                told += self._wrong_value(parameter, value)
        missing = [name for name in usable if known[name].required and name not in arguments]
        return told + [f"{self.name} needs {name}." for name in missing]

    def unverified(self, arguments: Mapping[str, Any]) -> list[str]:
        """The parameters in a call that no source settles for this release."""
        return [p.name for p in self.parameters if p.name in arguments and not p.verified]

    def _wrong_value(self, parameter: Parameter, value: Any) -> list[str]:
        wanted = _TYPES.get(parameter.kind)
        # True is a whole number to Python; here it would be a slip.
        slip = isinstance(value, bool) and parameter.kind in ("int", "float")
        if wanted and (slip or not isinstance(value, wanted)):
            return [f"{self.name}: {parameter.name} takes {parameter.kind}, not {value!r}."]
        if parameter.choices and value not in parameter.choices:
            return [f"{self.name}: {parameter.name} takes one of {', '.join(parameter.choices)}, not {value!r}."]
        return []


@dataclass(frozen=True)
class Contract:
    """Everything that is known of one release."""

    release: str
    programs: Mapping[str, Program]
    entries: Mapping[str, Entry]

    def program(self, command: Sequence[str]) -> Program:
        """The program that a command starts.

        Raises:
            WorkshopError: none of the programs that are written down.
        """
        for program in self.programs.values():
            try:
                program._words(command)
            except ValueError:
                continue
            return program
        raise WorkshopError(
            f"The contract of release {self.release} does not know the program of this command: "
            f"{' '.join(command[:3])}. It knows {', '.join(self.programs)}."
        )


@cache
def contract(release: str) -> Contract:
    """The contract of a release, from ``data/contract``.

    Raises:
        WorkshopError: a release that the rows do not speak of.
    """
    if release not in RELEASES:
        raise WorkshopError(f"There is no contract for release {release!r}. Choose one of {', '.join(RELEASES)}.")
    names = ("trtllm-build", "trtllm-serve", "trtllm-bench", "benchmark_serving")
    programs = [_program(_load(name), release) for name in names]
    entries = [_entry(row, release) for row in _load("entries")["entry"]]
    return Contract(release, {p.name: p for p in programs}, {e.name: e for e in entries})


@cache
def _load(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text())


def sources(keys: str) -> str:
    """The texts behind the keys of a row's ``source``."""
    texts = _load("sources")
    return "; ".join(str(texts[key]) for key in keys.split())


def _rows(rows: Sequence[Mapping[str, Any]], above: Mapping[str, Any], release: str) -> Iterator[dict[str, Any]]:
    """The rows that hold in a release, as arguments of the dataclasses."""
    for row in rows:
        if release not in row.get("releases", RELEASES):
            continue
        given = {key: value for key, value in row.items() if key not in ("releases", "unverified")}
        given |= {key: tuple(value) for key, value in given.items() if key in ("aliases", "choices")}
        given["source"] = sources(row.get("source", above["source"]))
        given["verified"] = release not in row.get("unverified", above.get("unverified", ()))
        if row.get("kind") == "enable":
            given["choices"] = ("enable", "disable")
        yield given


def _program(row: Mapping[str, Any], release: str, above: Mapping[str, Any] | None = None) -> Program:
    settings = {**(above or {}), **row}
    options = [Option(**given) for given in _rows(row.get("option", ()), settings, release)]
    return Program(
        name=settings["name"],
        release=release,
        style=settings["style"],
        options=tuple(options),
        positional=tuple(row.get("positional", ())),
        module=row.get("module", ""),
        commands={
            name: _program(inner, release, {**settings, "name": f"{settings['name']} {name}"})
            for name, inner in row.get("command", {}).items()
        },
        default_command=row.get("default_command", ""),
        other_commands=tuple(row.get("other_commands", ())),
    )


def _entry(row: Mapping[str, Any], release: str) -> Entry:
    parameters = tuple(Parameter(**given) for given in _rows(row["parameter"], row, release))
    return Entry(row["name"], release, parameters, row.get("members", False), sources(row["source"]))
