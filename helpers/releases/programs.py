"""Command-line programs as data: their options, and what is wrong with a command.

One reading of the words serves three: the checks of the workshop's own commands, the names of options that no source
settles, and the tests' stand-ins for the programs, which answer in the words of argparse and click as the real ones do.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_KINDS = {"int": int, "float": float}


@dataclass(frozen=True)
class Option:
    """An option of a program in one release.

    Attributes:
        name: as on the command line, ``--max_batch_size``.
        kind: ``int``, ``float``, ``str``, ``path``, ``flag`` (takes no value), ``choice`` or ``enable``.
        choices: the words that a ``choice`` or ``enable`` takes.
        same: words among the choices that stand for another one.
        repeat: may be given more than once.
        several: takes one or more words.
        status: ``ok``, ``deprecated`` (the program warns) or ``removed`` (the program stops).
        reason: what to do instead, where the status is not ``ok``.
        verified: False if no source settles it for this release.
    """

    name: str
    kind: str
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    same: Mapping[str, str] = field(default_factory=dict)
    default: Any = None
    required: bool = False
    repeat: bool = False
    several: bool = False
    status: str = "ok"
    reason: str = ""
    source: str = ""
    verified: bool = True

    @property
    def key(self) -> str:
        """Its name in what :meth:`Program.parse` gives: ``max_batch_size``."""
        return self.name.lstrip("-").replace("-", "_")

    @property
    def spellings(self) -> tuple[str, ...]:
        """Its name and its aliases."""
        return (self.name, *self.aliases)


@dataclass(frozen=True)
class _Fault:
    """What is wrong with one word of a command, and the sub-command whose word it is if it is not the program's own."""

    kind: str
    word: str
    option: Option | None = None
    of: "Program | None" = None


@dataclass(frozen=True)
class Program:
    """A command-line program, or one sub-command of it, in one release.

    Attributes:
        style: ``argparse`` or ``click``: how its own messages read.
        module: for ``python -m MODULE``, else empty.
        positional: the words it needs besides options.
        commands: its sub-commands by name.
        default_command: the one taken where the first word names none.
        other_commands: sub-commands that are real but not written down here.
    """

    name: str
    release: str
    style: str
    options: tuple[Option, ...]
    positional: tuple[str, ...] = ()
    module: str = ""
    commands: Mapping[str, "Program"] = field(default_factory=dict)
    default_command: str = ""
    other_commands: tuple[str, ...] = ()

    def problems(self, command: Sequence[str]) -> list[str]:
        """What is wrong with a command, a sentence each; empty if it is what this release takes.

        Args:
            command: every word; the first is the program's path or name (``python -m MODULE`` where it is a module).
        """
        values, faults = self._read(self._words(command))
        told = [(fault.of or self)._sentence(fault) for fault in faults]
        return told + [at._advice(option) for at, option in self._used(values) if option.status == "deprecated"]

    def unverified(self, command: Sequence[str]) -> list[str]:
        """The options in a command that no source settles for this release."""
        values, _ = self._read(self._words(command))
        return [option.name for _, option in self._used(values) if not option.verified]

    def parse(self, command: Sequence[str]) -> dict[str, Any]:
        """The values that the program itself would see, by the option's name without dashes, defaults included.

        Positional words are under their own names in small letters, the sub-command is under ``command``.

        Raises:
            ValueError: in the words of argparse or click, as the program would print them.
        """
        values, faults = self._read(self._words(command))
        if faults:
            raise ValueError((faults[0].of or self)._as_the_program_says(faults[0]))
        return values

    def option(self, word: str) -> Option | None:
        """The option with this name or alias, sub-commands left out; None if there is none."""
        return next((option for option in self.options if word in option.spellings), None)

    def every_option(self) -> Iterator[tuple["Program", Option]]:
        """All options, each with the program or sub-command that it belongs to."""
        yield from ((self, option) for option in self.options)
        for command in self.commands.values():
            yield from command.every_option()

    def _words(self, command: Sequence[str]) -> list[str]:
        """The words after the program's own name."""
        words = list(command)
        if self.module:
            if words[1:3] != ["-m", self.module]:
                raise ValueError(f"{self.name} starts with: python -m {self.module}")
            return words[3:]
        if not words or Path(words[0]).name != self.name:
            raise ValueError(f"this is a command of {words[0] if words else 'nothing'}, not of {self.name}")
        return words[1:]

    def _used(self, values: Mapping[str, Any]) -> Iterator[tuple["Program", Option]]:
        """The options that were given, here and in the sub-command, each with the one that takes it."""
        yield from ((self, option) for option in self.options if option.name in values.get("given", ()))
        if sub := self.commands.get(values.get("command", "")):
            yield from sub._used(values)

    def _read(self, words: list[str]) -> tuple[dict[str, Any], list[_Fault]]:
        """Values and faults of the words after the program's name."""
        values: dict[str, Any] = {option.key: option.default for option in self.options if option.status != "removed"}
        values |= {option.key: False for option in self.options if option.kind == "flag" and option.status != "removed"}
        values["given"] = given = []
        faults: list[_Fault] = []
        plain: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if not word.startswith("-") or word == "-":
                if self.commands and not plain:
                    return self._read_command(word, rest, values, faults)
                plain.append(word)
                continue
            name, equals, attached = word.partition("=")
            option = self.option(name)
            if option is None or option.status == "removed":
                faults.append(_Fault("removed" if option else "unknown", name, option))
                if not equals and rest and not rest[0].startswith("-") and (option is None or option.kind != "flag"):
                    rest.pop(0)  # most likely its value: complain of one thing, not of two
                continue
            if option.name in given and not option.repeat:
                faults.append(_Fault("twice", name, option))
            given.append(option.name)
            taken, found = self._take(option, name, attached if equals else None, rest)
            faults += found
            values[option.key] = [*(values[option.key] or []), taken] if option.repeat else taken
        missing = [option for option in self.options if option.required and option.name not in given]
        faults += [_Fault("missing", option.name, option) for option in missing]
        faults += [_Fault("missing", name) for name in self.positional[len(plain) :]]
        faults += [_Fault("extra", word) for word in plain[len(self.positional) :]]
        if self.commands:
            faults.append(_Fault("no command", ""))
        values |= {name.lower(): word for name, word in zip(self.positional, plain, strict=False)}
        return values, faults

    def _read_command(
        self, word: str, rest: list[str], values: dict[str, Any], faults: list[_Fault]
    ) -> tuple[dict[str, Any], list[_Fault]]:
        """Go on with the sub-command that ``word`` names, or with the default one."""
        missing = [option for option in self.options if option.required and option.name not in values["given"]]
        faults += [_Fault("missing", option.name, option) for option in missing]
        if word in self.commands:
            name, words = word, rest
        elif self.default_command and word not in self.other_commands:
            name, words = self.default_command, [word, *rest]
        else:
            return values, [*faults, _Fault("other command" if word in self.other_commands else "bad command", word)]
        sub = self.commands[name]
        found, more = sub._read(words)
        found["given"] = values["given"] + found["given"]
        return values | found | {"command": name}, faults + [replace(fault, of=fault.of or sub) for fault in more]

    def _take(self, option: Option, name: str, attached: str | None, rest: list[str]) -> tuple[Any, list[_Fault]]:
        """The value of one option, taken from ``rest`` unless it came after an equals sign."""
        if option.kind == "flag":
            return True, [_Fault("takes none", name, option)] if attached is not None else []
        words = [] if attached is None else [attached]
        while attached is None and rest and not rest[0].startswith("--") and (option.several or not words):
            words.append(rest.pop(0))
        if not words:
            return None, [_Fault("needs a value", name, option)]
        taken, faults = [], []
        for word in words:
            try:
                taken.append(_KINDS.get(option.kind, str)(word))
            except ValueError:
                faults.append(_Fault("bad value", word, option))
            if option.choices and word not in option.choices:
                faults.append(_Fault("bad choice", word, option))
        taken = [option.same.get(word, word) if isinstance(word, str) else word for word in taken]
        return (taken if option.several else taken[0] if taken else None), faults

    def _nearest(self, word: str) -> str:
        """The option spelt most like a word, or nothing."""
        known = [name for option in self.options if option.status == "ok" for name in option.spellings]
        return next(iter(difflib.get_close_matches(word, known, n=1)), "")

    def _advice(self, option: Option) -> str:
        """What is said of an option that is deprecated or gone."""
        what = "does not take" if option.status == "removed" else "warns of"
        return f"{self.name} of release {self.release} {what} {option.name}: {option.reason}."

    def _sentence(self, fault: _Fault) -> str:
        """One fault, told to a person."""
        word, option = fault.word, fault.option
        if fault.kind == "unknown":
            near = self._nearest(word)
            return f"{self.name} of release {self.release} has no option {word}{f'; nearest: {near}' if near else ''}."
        if fault.kind == "removed" and option:
            return self._advice(option)
        name = option.name if option else word
        whole = "a whole number" if option and option.kind == "int" else "a number"
        return {
            "twice": f"{name} is given twice; {self.name} would take the last one without a word.",
            "takes none": f"{name} is a switch and takes no value.",
            "needs a value": f"{name} needs a value.",
            "bad value": f"{name} takes {whole}, not {word!r}.",
            "bad choice": f"{name} takes one of {', '.join(option.choices) if option else ''}, not {word!r}.",
            "missing": f"{self.name} needs {name}.",
            "extra": f"{self.name} takes no further word {word!r}.",
            "no command": f"{self.name} needs one of {', '.join(self.commands)}.",
            "other command": f"{self.name} {word} exists and is not used here; known are {', '.join(self.commands)}.",
            "bad command": f"{self.name} has no sub-command {word!r}; it has {', '.join(self.commands)}.",
        }[fault.kind]

    def _as_the_program_says(self, fault: _Fault) -> str:
        """One fault, in the words of argparse or click."""
        word, option = fault.word, fault.option
        name = option.name if option else word
        choices = ", ".join(map(repr, option.choices)) if option else ""
        number = {"int": "integer", "float": "float"}.get(option.kind if option else "", "value")
        if self.style == "click":
            near = self._nearest(word)
            return (
                "Error: "
                + {
                    "unknown": f"No such option: {word}{f' Did you mean {near}?' if near else ''}",
                    "removed": f"No such option: {word}",
                    "takes none": f"Option {name!r} does not take a value.",
                    "needs a value": f"Option {name!r} requires an argument.",
                    "bad value": f"Invalid value for {name!r}: {word!r} is not a valid {number}.",
                    "bad choice": f"Invalid value for {name!r}: {word!r} is not one of {choices}.",
                    "missing": f"Missing {'option' if option else 'argument'} {name!r}.",
                    "extra": f"Got unexpected extra argument ({word})",
                    "no command": "Missing command.",
                    "other command": f"The command {word!r} is not played here.",
                    "bad command": f"No such command {word!r}.",
                    "twice": f"Option {name!r} is given twice.",
                }[fault.kind]
            )
        return (
            f"{self.name}: error: "
            + {
                "unknown": f"unrecognized arguments: {word}",
                "removed": f"unrecognized arguments: {word}",
                "takes none": f"argument {name}: ignored explicit argument",
                "needs a value": f"argument {name}: expected one argument",
                "bad value": f"argument {name}: invalid {option.kind if option else ''} value: {word!r}",
                "bad choice": f"argument {name}: invalid choice: {word!r} (choose from {choices})",
                "missing": f"the following arguments are required: {name}",
                "extra": f"unrecognized arguments: {word}",
                "twice": f"argument {name}: given twice",
            }[fault.kind]
        )
