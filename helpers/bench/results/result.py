"""A benchmark's result: what was measured, of what, on what, and by which definitions (notebook 08).

The load generator writes a folder with ``measured.json`` and ``requests.csv``. :func:`describe` adds ``result.json``:
the machine, the engine, the recipe, the definitions, and the figures for those who read no rows. :func:`publish` keeps
all of it as an artifact below ``benchmarks/`` in the workspace; :func:`load` reads any of these folders back.
"""

import contextlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import workspace
from helpers.bench import rows
from helpers.bench.load import Load
from helpers.bench.measured import Run
from helpers.bench.results import definitions, telling
from helpers.bench.results.definitions import Definitions
from helpers.bench.results.figures import Failure, Figures
from helpers.bench.results.metrics import METRICS, Summary
from helpers.bench.results.stored import (
    MEASURED,
    RECORDS,
    REQUESTS,
    RESULT,
    clean_target,
    engine_facts,
    hidden,
    hide_secrets,
    machine_facts,
)
from helpers.cards import Card, Picture, Shown, Table
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    import pandas

    from helpers.serving.poller import Record
    from helpers.toolchains.base import Engine
    from helpers.toolchains.serving import ServeOptions

FOLDER = "benchmarks"
"""Where results are kept, below the workspace."""

SWEEP_COLUMNS = (
    "output_rate",
    "full_rate",
    "per_user_p50",
    "per_user_p5",
    "ttft_p50",
    "ttft_p95",
)
"""The figures in a sweep's table, as many as a page has room for; one that no load has is left out of it."""

_RUN_COLUMNS = ("output_rate", "per_user_p50", "ttft_p50", "ttft_p99", "itl_p50", "itl_p99")
_DERIVED = ("ttft_ms", "e2e_ms", "tpot_ms", "tokens_per_second", "late_ms")


MEANINGS = "What each figure means, exactly: definitions()."
"""Ends the text of a result, whose page has the definitions themselves in a fold."""


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """One load, measured: itself, its runs, and what they were measured of.

    Attributes:
        path: the folder.
        load: that was sent.
        target: ``url``, ``model``, ``server``, ``stamps``, ``tls``, as the client noted them.
        runs: those that count.
        warmup: the run before them; None if there was none.
        interrupted: True if it was stopped; what was measured until then is good.
        title: of what was measured, such as the engine's; empty if nobody said.
        created: local time of the measurement, ISO 8601.
        machine: what the client ran on; the server as well where its address is this machine's own.
        engine: what was served, from its manifest; empty where that is not known.
        serving: what the server was told, such as its ``sizes``; empty where that is not known.
        recipe: the recipe's name; empty if there was none.
        notes: what the load generator said of the load, in sentences.
        meanings: definitions of the figures, as they were when it was measured.
    """

    path: Path
    load: Load
    target: Mapping[str, Any]
    runs: Sequence[Run]
    warmup: Run | None = None
    interrupted: bool = False
    title: str = ""
    created: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    serving: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    notes: Sequence[str] = ()
    meanings: Definitions = field(default_factory=definitions.current)

    @classmethod
    def open(cls, path: str | Path) -> "Result":
        """One result from its folder; see :func:`read`."""
        return read(Path(path).expanduser())

    # --- What it says -----------------------------------------------------------

    @cached_property
    def figures(self) -> tuple[Figures, ...]:
        """What each run amounts to."""
        return tuple(Figures.of(run, self.load) for run in self.runs)

    @cached_property
    def summary(self) -> Summary:
        """The figures over all runs: medians and ranges."""
        return Summary(self.figures)

    def value(self, key: str) -> float | None:
        """A figure's median over the runs in its base unit (seconds, tokens a second).

        Args:
            key: of :data:`helpers.bench.results.metrics.METRICS`.

        Returns:
            None where it is not told, or where the client falsified it.

        Raises:
            WorkshopError: there is no such figure.
        """
        if key not in METRICS:
            raise WorkshopError(f"There is no figure {key!r}. There are: {', '.join(METRICS)}.")
        return self.summary.value(key)

    @property
    def name(self) -> str:
        """What it is called beside others: its title and its load."""
        return f"{self.title}, {self.load.kind}" if self.title else self.load.kind

    @property
    def max_batch_size(self) -> int | None:
        """Requests that the server runs at once; None where that is not known."""
        for known in (self.serving, self.engine):
            if found := (known.get("sizes") or {}).get("max_batch_size"):
                return int(found)
        return None

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """What went wrong in all runs, most frequent first."""
        told: dict[tuple[str, str], int] = {}
        for one in self.figures:
            for failure in one.failures:
                key = (failure.outcome, failure.message)
                told[key] = told.get(key, 0) + failure.count
        return tuple(Failure(*key, count) for key, count in sorted(told.items(), key=lambda item: -item[1]))

    @cached_property
    def records(self) -> "tuple[Record, ...]":
        """What the server's engine told of each step meanwhile; empty where it told nothing."""
        from helpers.serving import poller

        return tuple(poller.read(self.path / RECORDS))

    def definitions(self) -> Definitions:
        """What each figure means."""
        return self.meanings

    @property
    def sentence(self) -> str:
        """The finding in words, computed from the rows."""
        return " ".join(telling.sentences(self))

    # --- Its data ---------------------------------------------------------------

    def frame(self) -> "pandas.DataFrame":
        """One row a measured request: all that was noted (times in seconds), and what follows from it.

        Derived columns: ``ttft_ms``, ``e2e_ms``, ``tpot_ms``, ``tokens_per_second`` (of this user), ``late_ms``.
        """
        import pandas

        names = list(rows.Row.__dataclass_fields__)
        noted = [row for run in self.runs for row in run.rows]
        frame = pandas.DataFrame([[getattr(row, name) for name in names] for row in noted], columns=names)
        for column, attribute in (("ttft_ms", "ttft"), ("e2e_ms", "seconds"), ("tpot_ms", "tpot")):
            frame[column] = [_thousandfold(getattr(row, attribute)) for row in noted]
        frame["tokens_per_second"] = [row.rate for row in noted]
        frame["late_ms"] = [None if row.sent is None else 1000 * max(0.0, row.sent - row.intended) for row in noted]
        frame[list(_DERIVED)] = frame[list(_DERIVED)].astype(float)
        return frame

    def runs_frame(self) -> "pandas.DataFrame":
        """One row a run: every figure in its base unit (seconds, tokens a second), and whether the client kept up."""
        import pandas

        return pandas.DataFrame([_run_row(one) for one in self.figures])

    # --- How it shows itself ----------------------------------------------------

    def table(self) -> Table:
        """One row a run."""
        columns = ["run", "whole", "failed", *(METRICS[key].heading for key in _RUN_COLUMNS)]
        body = [
            [one.run, f"{one.whole:,}", f"{one.failed_count:,}", *(Summary([one]).number(key) for key in _RUN_COLUMNS)]
            for one in self.figures
        ]
        return Table(columns, body, f"Measured: {self.name}", self.sentence)

    def card(self) -> Card:
        """All figures, those that one looks for first."""
        return Card(f"Benchmark: {self.name}", {**telling.key_facts(self), **telling.other_facts(self)}, self.sentence)

    def __str__(self) -> str:
        return f"{self.card()}\n{MEANINGS}"

    def _repr_html_(self) -> str:
        first, others = (
            {label.replace(" ", "\u00a0"): text for label, text in facts.items()}  # a label is not wrapped
            for facts in (telling.key_facts(self), telling.other_facts(self))
        )
        card = Card(f"Benchmark: {self.name}", first, self.sentence)._repr_html_()
        fold = f"<details><summary>All figures</summary>{Card('The other figures', others)._repr_html_()}</details>"
        return card + fold + self.meanings._repr_html_()


@dataclass(frozen=True, repr=False)
class Sweep(Shown):
    """Results of several loads, in the order measured.

    Attributes:
        results: one a load.
        title: of what was measured; empty for that of its results.
    """

    results: Sequence[Result]
    title: str = ""

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, place: int) -> Result:
        return self.results[place]

    @property
    def name(self) -> str:
        """Its title, or that which its results share."""
        titles = list(dict.fromkeys(one.title for one in self.results if one.title))
        return self.title or (titles[0] if len(titles) == 1 else "")

    @property
    def interrupted(self) -> bool:
        """True if one of its results was."""
        return any(one.interrupted for one in self.results)

    def at(self, concurrency: int) -> Result:
        """The result of this concurrency.

        Raises:
            WorkshopError: there is none.
        """
        for one in self.results:
            if one.load.concurrency == concurrency:
                return one
        there = ", ".join(str(one.load.concurrency) for one in self.results if one.load.concurrency) or "none"
        raise WorkshopError(f"Concurrency {concurrency} was not measured. There are: {there}.")

    def table(self) -> Table:
        """One row a load: medians over its runs."""
        keys = [key for key in SWEEP_COLUMNS if any(one.summary.get(key) for one in self.results)]
        heading, loads = self._loads()
        failed = any(one.summary.failed for one in self.results)
        columns = [heading, *(["whole", "failed"] if failed else []), *(METRICS[key].heading for key in keys)]
        body = []
        for one, load in zip(self.results, loads, strict=True):
            told = one.summary
            counts = [f"{told.whole:,}", f"{told.failed:,}"] if failed else []
            body.append([load, *counts, *map(told.number, keys)])
        lengths = {telling.lengths(one.load) for one in self.results}
        runs = {one.summary.runs for one in self.results}
        said = [f"Measured: {self.name}" if self.name else "Measured", *(lengths if len(lengths) == 1 else ())]
        said += [f"medians of {count} runs" for count in runs if len(runs) == 1 and count > 1]
        note = f"{self.sentence} All figures of every load: frame().".lstrip()
        return Table(columns, body, ", ".join(said), note, whole=(heading,))

    def _loads(self) -> tuple[str, list[str]]:
        """The first column: its heading, and what tells one load from another."""
        if len({one.title for one in self.results}) > 1:
            return "load", [one.name for one in self.results]
        for heading, told in (("concurrency", "concurrency"), ("requests/s sent", "rate")):
            values = [getattr(one.load, told) for one in self.results]
            if all(value is not None for value in values):
                return heading, [f"{value:,}" for value in values]
        return "load", [one.load.kind for one in self.results]

    def frame(self) -> "pandas.DataFrame":
        """One row a load: every figure's median over the runs in its base unit, and the lowest and highest run."""
        import pandas

        return pandas.DataFrame([_load_row(one) for one in self.results])

    def definitions(self) -> Definitions:
        """What each figure means."""
        return self.results[0].meanings if self.results else definitions.current()

    @property
    def sentence(self) -> str:
        """What went wrong in it, if anything; and what reading it needs."""
        return " ".join(telling.sweep_sentences(self))

    def plot(self) -> Picture:
        """Throughput against latency, a point a load."""
        from helpers.plots import bench

        return bench.sweep_picture(self)

    def __str__(self) -> str:
        return f"{self.table()}\n{MEANINGS}"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_() + self.definitions()._repr_html_()


# --- Reading ------------------------------------------------------------------


def load(path: str | Path) -> "Result | Sweep":
    """Read a result: an artifact, a folder that the load generator wrote, or a folder of several of these.

    Raises:
        WorkshopError: there is none, or its files cannot be read.
    """
    path = Path(path).expanduser()
    if (path / MEASURED).is_file():
        return read(path)
    inner = [one.parent for one in path.glob(f"*/{MEASURED}") if not one.parent.name.startswith(".")]
    if not inner:
        raise WorkshopError(
            f"{path} holds no result of a benchmark: {MEASURED} is not in it. Give a folder that `python -m helpers "
            f"bench` wrote, or one below {workspace.home() / FOLDER}."
        )
    results = [read(one) for one in inner]
    return Sweep(sorted(results, key=_began))


def read(folder: Path) -> Result:
    """One result from its folder, with or without ``result.json``.

    Raises:
        WorkshopError: a file is missing, is no result, or is of another format.
    """
    measured = _measured(folder)
    told = _json(folder / RESULT) if (folder / RESULT).is_file() else {}
    try:
        runs = _runs(measured["runs"], rows.read(folder / REQUESTS))
        return Result(
            path=folder,
            load=Load.from_told(measured["load"]),
            target=clean_target(measured["target"]),
            runs=[run for run in runs if run.number],
            warmup=next((run for run in runs if not run.number), None),
            interrupted=bool(measured.get("interrupted")),
            title=str(told.get("title", "")),
            created=str(told.get("created", "")) or _created(runs),
            machine=told.get("machine", {}),
            engine=told.get("engine", {}),
            serving=told.get("serving", {}),
            recipe=str(told.get("recipe", "")),
            notes=[str(note) for note in measured.get("notes", ())],
            meanings=Definitions.from_told(told["definitions"]) if "definitions" in told else definitions.current(),
        )
    except _UNREADABLE as error:
        raise _unreadable(folder, error) from None


def every(folder: Path | None = None) -> list[Result]:
    """All results kept below the workspace, oldest first; those that cannot be read are left out."""
    found = []
    for file in sorted((folder or workspace.home() / FOLDER).glob(f"*/{MEASURED}")):
        if not file.parent.name.startswith("."):
            with contextlib.suppress(WorkshopError):
                found.append(read(file.parent))
    return sorted(found, key=_began)


_UNREADABLE = (OSError, KeyError, TypeError, ValueError, AttributeError)
"""What reading a damaged result raises."""


def _unreadable(folder: Path, error: Exception) -> WorkshopError:
    return WorkshopError(f"The result in {folder} cannot be read: {type(error).__name__}: {error}. Measure again.")


def _measured(folder: Path) -> dict[str, Any]:
    """What the load generator told of a folder.

    Raises:
        WorkshopError: there is nothing, or it is of another format.
    """
    told = _json(folder / MEASURED)
    if told.get("format") != rows.FORMAT:
        raise WorkshopError(
            f"{folder / MEASURED} has the format {told.get('format')!r}, and this release of the helpers reads "
            f"{rows.FORMAT}. Measure again."
        )
    return told


def _json(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkshopError(f"{file} cannot be read: {error}. Measure again.") from None
    if not isinstance(told, dict):
        raise WorkshopError(f"{file} holds no result of a benchmark. Measure again.")
    return told


def _runs(told: Sequence[Mapping[str, Any]], noted: Sequence[rows.Row]) -> list[Run]:
    by_run: dict[int, list[rows.Row]] = {}
    for row in noted:
        by_run.setdefault(row.run, []).append(row)
    return [Run.from_told(one, by_run.get(one["number"], [])) for one in told]


def _began(result: Result) -> float:
    return min((run.began for run in result.runs), default=result.warmup.began if result.warmup else 0.0)


def _created(runs: Sequence[Run]) -> str:
    began = min((run.began for run in runs), default=0.0)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(began)) if began else ""


# --- Keeping ------------------------------------------------------------------


def describe(
    folder: Path,
    *,
    engine: "Engine | None" = None,
    serving: "ServeOptions | None" = None,
    max_batch_size: int | None = None,
    recipe: str | None = None,
    name: str | None = None,
    title: str = "",
    records: "Sequence[Record]" = (),
) -> Result:
    """Add to a folder of the load generator what it does not know, and read it back. No secret stays in a file.

    What an earlier call wrote stays where this one is not told otherwise: the machine, among others, is the one on
    which it was first described.

    Args:
        folder: with ``measured.json`` and ``requests.csv``; ``result.json`` is written beside them.
        engine: what was served.
        serving: what the server was told.
        max_batch_size: requests that the server runs at once, where ``serving`` does not say.
        recipe: its name.
        name: what to call the result beside others; None for the title.
        title: of what was measured; empty for the engine's.
        records: what the engine told meanwhile; written as ``records.jsonl``.

    Raises:
        WorkshopError: the folder holds no result.
    """
    hide_secrets(folder)
    if records:
        lines = [json.dumps({"time": one.time, "record": one.raw}) + "\n" for one in records]
        workspace.write_whole(folder / RECORDS, "".join(lines))
    bare = read(folder)
    served = asdict(serving) if serving else {"sizes": {"max_batch_size": max_batch_size}} if max_batch_size else {}
    told = {
        "format": rows.FORMAT,
        "title": name or title or (engine.full_title if engine else bare.title),
        "created": bare.created,
        "load": bare.load.told(),
        "target": dict(bare.target),
        "machine": bare.machine or machine_facts(),
        "engine": engine_facts(engine) if engine else bare.engine,
        "serving": served or bare.serving,
        "recipe": recipe or bare.recipe,
        "definitions": bare.meanings.told(),
        "figures": [_run_row(one) for one in bare.figures],
    }
    told = hidden(told)
    workspace.write_whole(folder / RESULT, json.dumps(told, indent=1) + "\n")
    return replace(bare, **{name: told[name] for name in ("title", "machine", "engine", "serving", "recipe")})


def publish(folder: str | Path, *, command: Sequence[str] = (), **known: Any) -> Result:
    """Keep a result as an artifact in the workspace, under the time at which it was measured; ``folder`` stays.

    Args:
        folder: with ``measured.json`` and ``requests.csv``, and ``records.jsonl`` where there is one.
        command: that measured it.
        known: what :func:`describe` takes.

    Raises:
        WorkshopError: the folder holds no result.
    """
    folder = Path(folder)
    wanted = workspace.home() / FOLDER / _folder_name(folder, known.get("name"))
    with workspace.lock(wanted):
        target = _free(wanted)
        place = workspace.making_place(target)
        try:
            for name in (MEASURED, REQUESTS, RESULT, RECORDS):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, place / name)
            made = describe(place, **known)
            workspace.publish(place, target, _manifest(made, command))
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return replace(made, path=target)


def _manifest(result: Result, command: Sequence[str]) -> workspace.Manifest:
    """What made it, from what, and how long it took."""
    runs = [*([result.warmup] if result.warmup else []), *result.runs]
    return workspace.Manifest(
        kind="benchmark",
        title=f"Benchmark: {result.name}",
        options={"load": hidden(result.load.told()), "url": result.target.get("url"), "recipe": result.recipe},
        inputs={"engine": str(result.engine["digest"])} if result.engine else {},
        maker={"python": str(result.machine.get("python", ""))},
        command=hidden(list(command)),
        seconds=sum(run.health.seconds for run in runs),
    )


def _folder_name(folder: Path, name: str | None) -> str:
    """Local time, load and name, such as ``2026-11-22-103005-c64-fp8``; without a look at the rows.

    Raises:
        WorkshopError: the folder holds no result.
    """
    measured = _measured(folder)
    try:
        load, runs = Load.from_told(measured["load"]), _runs(measured["runs"], ())
    except _UNREADABLE as error:
        raise _unreadable(folder, error) from None
    when = _created(runs).replace(":", "").replace("T", "-") or time.strftime("%Y-%m-%d-%H%M%S")
    plain = re.sub(r"[^a-z0-9]+", "-", (name or "").lower()).strip("-")[:40]
    return f"{when}-{load.short}" + (f"-{plain}" if plain else "")


def _free(wanted: Path) -> Path:
    """``wanted``, or with a number behind it where that is taken: no result replaces another."""
    target, number = wanted, 1
    while target.exists():
        number += 1
        target = wanted.with_name(f"{wanted.name}-{number}")
    return target


# --- Frames -------------------------------------------------------------------


def _thousandfold(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _run_row(one: Figures) -> dict[str, Any]:
    """One run's figures by key."""
    return {
        "run": one.run,
        "load": one.kind,
        **{key: metric.read(one) for key, metric in METRICS.items()},
        "ttft_n": one.ttft.n,
        "itl_n": one.itl.n,
        "window": one.window,
        "most_in_flight": one.most_in_flight,
        "uncounted": one.uncounted,
        "client_bound": one.client_bound,
        "interrupted": one.interrupted,
    }


def _load_row(one: Result) -> dict[str, Any]:
    """One result's medians and ranges by key."""
    found: dict[str, Any] = {
        "title": one.title,
        "load": one.load.kind,
        "concurrency": one.load.concurrency,
        "rate": one.load.rate,
        "runs": one.summary.runs,
        "client_bound": one.summary.client_bound,
    }
    for key in METRICS:
        over = one.summary.get(key)
        found |= {key: over and over.value, f"{key}_low": over and over.low, f"{key}_high": over and over.high}
    return found
