"""Measuring a server from a notebook: one load, or several one after the other (notebook 08).

The load generator is a child (:mod:`helpers.bench.child`); here it is told what to do, shown while it works, and what
it brings back is published as a :class:`helpers.bench.results.result.Result`.
"""

import contextlib
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from helpers import models, stage, workspace
from helpers.bench.child import PROGRAM, Child, GivenUp
from helpers.bench.generator.target import KEY_VARIABLE, Target
from helpers.bench.live import LIVE_NOTE, Screen, moment
from helpers.bench.load import Load
from helpers.errors import WorkshopError
from helpers.progress import Bar
from helpers.serving import poller

if TYPE_CHECKING:
    from helpers.bench.results.result import Result, Sweep
    from helpers.serving.poller import Record
    from helpers.toolchains.base import Engine
    from helpers.toolchains.serving import ServeOptions

CONCURRENCY = (1, 8, 32, 64)
"""What a sweep goes through where nobody says otherwise."""

_EVERY = 0.25  # seconds between two drawings
_LAST_RECORD = 1.5  # seconds for the engine's record that says that all is idle again
_SHORT = {"input": "input_tokens", "output": "output_tokens"}
_FIELDS = {one.name for one in fields(Load)}


@dataclass(frozen=True)
class Subject:
    """What is measured, and what is known of it.

    Attributes:
        url: where its routes begin.
        model: the name that a request gives the model; empty: the load generator asks the server.
        title: what a person calls it; empty for an address.
        name: what somebody wants it to be called beside others; empty for the title.
        tokenizer: folder of the model's tokenizer, to make prompts of an exact length; None where nobody knows it.
        engine: what it serves; None for an address.
        serving: what its server was told; None where nobody knows.
        recipe: name of the recipe that the engine was made from; empty where nobody knows.
        metrics: file of the endpoint's poller; None where nothing tells of the engine's steps.
        insecure: accept a certificate that nobody has signed.
        key_variable: the variable of the environment that has the server's key.
    """

    url: str
    model: str = ""
    title: str = ""
    name: str = ""
    tokenizer: Path | None = None
    engine: "Engine | None" = None
    serving: "ServeOptions | None" = None
    recipe: str = ""
    metrics: Path | None = None
    insecure: bool = False
    key_variable: str = KEY_VARIABLE

    @classmethod
    def of(
        cls, what: Any, name: str = "", model: str = "", insecure: bool = False, key_variable: str = KEY_VARIABLE
    ) -> "Subject":
        """An endpoint's, or an address's.

        Args:
            what: from ``serving.start``; a URL; or anything with ``url`` and ``model``.
            name: what to call it beside others; empty for the endpoint's own title.
            model: the model's name; empty for the endpoint's own, or for the one that the server names.
            insecure, key_variable: see the attributes.

        Raises:
            WorkshopError: it is none of them, or its server has ended.
        """
        if isinstance(what, str):
            what = SimpleNamespace(url=what, model="")
        url, own = getattr(what, "url", None), str(getattr(what, "model", ""))
        if not isinstance(url, str):
            raise WorkshopError(
                f"A {type(what).__name__} cannot be measured. Give an endpoint from serving.start(), or a URL such as "
                "'http://127.0.0.1:8000/v1'."
            )
        title = str(getattr(what, "title", ""))
        if getattr(what, "running", True) is False:
            raise WorkshopError(f"The server of {title} has ended: start it again, and measure it then.")
        engine, recipe = getattr(what, "engine", None), getattr(what, "recipe", None)
        return cls(
            url=Target.of(url, key_variable=key_variable, insecure=insecure).url,
            model=model or own,
            title=title,
            name=name,
            tokenizer=_tokenizer(engine),
            engine=engine,
            serving=getattr(what, "options", None),
            recipe=str(getattr(recipe, "name", recipe or "")),
            metrics=getattr(what, "metrics", None),
            insecure=insecure,
            key_variable=key_variable,
        )

    @property
    def called(self) -> str:
        """What to call it."""
        return self.name or self.title or self.url

    def asked(self, load: Load, out: Path) -> dict[str, Any]:
        """What the load generator is told; it works in another folder than a notebook's kernel does."""
        prompts = None if load.prompts is None else str(Path(load.prompts).expanduser().resolve())
        return {
            "url": self.url,
            "model": self.model or None,
            "load": load.with_(prompts=prompts).told(),
            "out": str(out),
            "tokenizer": None if self.tokenizer is None else str(self.tokenizer),
            "key_variable": self.key_variable,
            "insecure": self.insecure,
        }


def run(
    endpoint: Any,
    load: Load | None = None,
    *,
    name: str = "",
    model: str = "",
    insecure: bool = False,
    key_variable: str = KEY_VARIABLE,
    quiet: bool = False,
    **asked: Any,
) -> "Result":
    """Measure a server under one load, and show how it goes, then what came of it.

    An interrupt ends it well: what was measured until then is the result, which says so. A second one gives it up.

    Args:
        endpoint: from ``serving.start``; or a URL such as ``"http://127.0.0.1:8000/v1"``.
        load: what is sent; None for one that the next arguments make.
        name: what to call it beside others; empty for the engine's title.
        model: as the server calls it; see :meth:`Subject.of`.
        insecure, key_variable: of a server behind TLS; see :class:`Subject`.
        quiet: show nothing.
        asked: fields of :class:`Load`, such as ``concurrency=32, requests=128, runs=3``; ``input`` and ``output``
            stand for ``input_tokens`` and ``output_tokens``: ``input=128, output="100-200"``.

    Raises:
        WorkshopError: no such load, nothing answers, or the load generator failed.
        KeyboardInterrupt: it was interrupted before anything was measured, or twice.
    """
    subject, screen = Subject.of(endpoint, name, model, insecure, key_variable), Screen(quiet)
    measuring = Measuring(subject, load_of(load, asked))
    try:
        result = measuring.result(screen)
    except GivenUp:
        raise KeyboardInterrupt from None
    screen.finish(result)
    return result


def sweep(
    endpoint: Any,
    concurrency: Sequence[int] | Sequence[Load] = CONCURRENCY,
    load: Load | None = None,
    *,
    rate: Sequence[float] = (),
    name: str = "",
    model: str = "",
    insecure: bool = False,
    key_variable: str = KEY_VARIABLE,
    quiet: bool = False,
    **asked: Any,
) -> "Sweep":
    """Measure a server under several loads, one after the other; each is kept as soon as it has ended.

    An interrupt keeps the loads that have ended and what was measured of the one under way, and ends the sweep.

    Args:
        concurrency: of each load, in this order; or the loads themselves.
        rate: open loops instead: requests a second of each load.
        load, name, quiet, asked, and the others: see :func:`run`; they are the same for each load.

    Raises:
        WorkshopError: as :func:`run`; what was measured before is kept.
        KeyboardInterrupt: it was interrupted before anything was measured.
    """
    from helpers.bench.results.result import Sweep

    subject, screen = Subject.of(endpoint, name, model, insecure, key_variable), Screen(quiet)
    loads, done = loads_of(load, asked, concurrency, rate), []
    for number, one in enumerate(loads, 1):
        measuring = Measuring(subject, one, f"{number} of {len(loads)}: ")
        try:
            done.append(measuring.result(screen))
        except (GivenUp, WorkshopError) as problem:
            _end_early(problem, len(done))
            break
        if done[-1].interrupted:
            break
    made = Sweep(done)
    screen.finish(made)
    return made


def _end_early(problem: WorkshopError, done: int) -> None:
    """What a sweep does where a load has brought nothing: an interrupt ends it, anything else is told.

    Raises:
        WorkshopError: the load failed; says what is kept of the others.
        KeyboardInterrupt: nothing has been measured at all.
    """
    if not isinstance(problem, GivenUp):
        before = "load before it is" if done == 1 else f"{done} loads before it are"
        kept = f"\nThe {before} kept in {workspace.home() / 'benchmarks'}." if done else ""
        raise WorkshopError(f"{problem}{kept}") from None
    if not done:
        raise KeyboardInterrupt from None


def reopen(path: str | Path) -> "Result | Sweep":
    """What was kept in a folder: a result, or several as a sweep; also what ``python -m helpers bench --out`` wrote.

    Raises:
        WorkshopError: there is none.
    """
    from helpers.bench.results import result

    return result.load(path)


def load_of(load: Load | None, asked: dict[str, Any]) -> Load:
    """The load that somebody describes.

    Args:
        load: to begin with; None for the usual one.
        asked: what is otherwise; see :func:`run`.

    Raises:
        WorkshopError: a name that a load does not have, or a value that makes no load.
    """
    changes = {_SHORT.get(name, name): value for name, value in asked.items()}
    if unknown := sorted(set(changes) - _FIELDS):
        raise WorkshopError(f"A load has no {unknown[0]!r}. It has {', '.join(sorted(_FIELDS | set(_SHORT)))}.")
    if len(changes) < len(asked):
        raise WorkshopError("A length is given twice: as input or input_tokens, output or output_tokens, not both.")
    if load is not None and not isinstance(load, Load):
        raise WorkshopError(f"The load is a {type(load).__name__}. Give a bench.Load, or name its fields.")
    return (load or Load()).with_(**changes)


def loads_of(load: Load | None, asked: dict[str, Any], concurrency: Any, rate: Any = ()) -> list[Load]:
    """The loads of a sweep.

    Args:
        load, asked: what is the same for all; see :func:`load_of`.
        concurrency, rate: one value a load; of rates, if there are any. In place of concurrencies also whole loads.

    Raises:
        WorkshopError: there is none, or one is no load.
    """
    name, values = ("concurrency", concurrency) if isinstance(rate, tuple | list) and not rate else ("rate", rate)
    if isinstance(values, str) or not isinstance(values, Iterable) or not (several := list(values)):
        raise WorkshopError(f"{name} of a sweep is {values!r}. Give several, such as [1, 8, 32]; for one, use run().")
    if all(isinstance(one, Load) for one in several):
        return [load_of(one, asked) for one in several]
    return [load_of(load, {**asked, name: one}) for one in several]


class Measuring:
    """One load, from the start of the load generator to what it brings back.

    Attributes:
        subject, load: what is measured, and how.
        title: both in words.
        child: the load generator; None before its start.
    """

    def __init__(self, subject: Subject, load: Load, which: str = "", program: Sequence[str] = PROGRAM) -> None:
        """Describe it; :meth:`result` does it.

        Args:
            subject, load: what is measured, and how.
            which: its place in a sweep, such as ``2 of 4: ``.
            program: the load generator.
        """
        self.subject, self.load = subject, load
        self.title = f"{which}Benchmark of {subject.called}, {load.kind}"
        self.child: Child | None = None
        self._program = program
        self._began, self._started = time.time(), time.monotonic()
        self._stops, self._heeded = 0, 0

    def stop(self) -> None:
        """End it well, from any thread; the second time give it up."""
        self._stops += 1

    @property
    def stopping(self) -> bool:
        """True once :meth:`stop` was called, or the cell interrupted."""
        return self._stops > 0 or (self.child is not None and self.child.stopping)

    def result(self, screen: "Screen | Any") -> "Result":
        """Do it.

        Args:
            screen: has ``show`` and ``run_ended`` of :class:`helpers.bench.live.Screen`.

        Raises:
            GivenUp: it was stopped before anything was measured, or twice.
            WorkshopError: it failed.
        """
        directory = stage.run_directory("bench")
        out = directory / "out"
        out.mkdir()
        self._began, self._started = time.time(), time.monotonic()
        self.child = Child(self.subject.asked(self.load, out), directory, self._program)
        try:
            self.child.start()
            self._follow(self.child, screen)
        finally:
            self.child.close()
        self.child.require_done()
        return self._publish(out)

    def moment(self) -> Bar:
        """What there is to see of it now."""
        child = self.child
        assert child is not None
        elapsed = time.monotonic() - self._started
        details = (("log", str(child.log)), ("live", LIVE_NOTE))
        return moment(self.title, self.load, elapsed, child.progress, self.record(), details, child.stopping)

    def record(self) -> "Record | None":
        """The last that the engine has told since the load began; None where it tells nothing."""
        if self.subject.metrics is None:
            return None
        found = poller.last(self.subject.metrics)
        return found if found is not None and found.time >= self._began else None

    def _follow(self, child: Child, screen: "Screen | Any") -> None:
        """Show it until it has ended; an interrupt of the cell is one of it."""
        told = 0
        while True:
            try:
                screen.show(self.moment())
                ended = child.wait(_EVERY)
                while told < len(child.runs):
                    screen.run_ended(self.title, *child.runs[told])
                    told += 1
                if ended:
                    return
                while self._heeded < self._stops:
                    self._heeded += 1
                    child.stop()
            except KeyboardInterrupt:
                child.stop()

    def _records(self) -> "list[Record]":
        """What the engine told meanwhile, once it has told that nothing runs or waits any more."""
        metrics = self.subject.metrics
        if metrics is None:
            return []
        deadline = time.monotonic() + _LAST_RECORD
        while time.monotonic() < deadline:
            last = self.record()
            if last is not None and not last.active and not last.queued:
                break
            time.sleep(0.05)
        return poller.read(metrics, self._began)

    def _publish(self, out: Path) -> "Result":
        """Keep what it brought back in the workspace."""
        from helpers.bench.results import result

        subject = self.subject
        made = result.publish(
            out,
            engine=subject.engine,
            serving=subject.serving,
            recipe=subject.recipe or None,
            name=subject.name or None,
            title=subject.title,
            records=self._records(),
            command=self._program,
        )
        shutil.rmtree(out, ignore_errors=True)
        return made


def _tokenizer(engine: "Engine | None") -> Path | None:
    """The folder of the model that an engine was built from; None where it cannot be told or is not there any more."""
    source = None if engine is None else engine.manifest.options.get("model")
    if source is None:
        return None
    with contextlib.suppress(WorkshopError), stage.only_news():
        return models.find(str(source)).path
    return None
