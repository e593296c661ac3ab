"""One load from its beginning to its files: what ``python -m helpers bench`` and the notebooks' child process run.

Results are two files in a folder, which :mod:`helpers.bench.results.result` reads: ``requests.csv`` has a row for each
request, ``measured.json`` the rest.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers.bench import rows
from helpers.bench.generator.asking import ask
from helpers.bench.generator.client import Client
from helpers.bench.generator.prompts import Prompt, Source, body
from helpers.bench.generator.target import Target
from helpers.bench.load import Load
from helpers.bench.measured import Progress, Run
from helpers.bench.rows import FORMAT, MEASURED_FILE, REQUESTS_FILE
from helpers.errors import WorkshopError

STOPPED = "stopped by hand"


@dataclass(frozen=True)
class Measured:
    """What came of a load.

    Attributes:
        load: what was sent.
        target: where; with the model's name.
        runs: the warm-up first, where there was one.
        stamps: ``kernel`` or ``user``.
        server: what the server calls itself, where it was asked for its model's name; else empty.
        notes: what to know about it, in sentences.
        opening: number with which the same prompts would be made again.
    """

    load: Load
    target: Target
    runs: tuple[Run, ...]
    stamps: str
    server: str
    notes: tuple[str, ...] = ()
    opening: int = 0

    @property
    def interrupted(self) -> bool:
        """True if it was stopped before its end, in a run or between two."""
        return (
            any(run.interrupted for run in self.runs) or len([run for run in self.runs if run.number]) < self.load.runs
        )

    def write(self, folder: Path) -> Path:
        """Write it into a folder; the file that says that it is there comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        rows.write((row for run in self.runs for row in run.rows), folder / REQUESTS_FILE)
        told: dict[str, Any] = {
            "format": FORMAT,
            "load": self.load.told(),
            "target": {**self.target.told(), "server": self.server, "stamps": self.stamps},
            "interrupted": self.interrupted,
            "notes": list(self.notes),
            "opening": self.opening,
            "runs": [run.told() for run in self.runs],
        }
        part = folder / f"{MEASURED_FILE}.part"
        part.write_text(json.dumps(told), encoding="utf-8")
        return part.replace(folder / MEASURED_FILE)


def measure(
    target: Target,
    load: Load,
    tokenizer: Path | None = None,
    watch: Callable[[Progress], None] = lambda told: None,
    after_run: Callable[[Run], None] = lambda run: None,
    folder: Path | None = None,
) -> Measured:
    """Send a load and measure it; SIGINT and SIGTERM end it early and keep what there is.

    Args:
        target: the server; without a model's name it is asked for its first.
        load: what is sent.
        tokenizer: for prompts that are exactly as long as asked.
        watch: told how it goes, a few times a second.
        after_run: told of each run when it is done, the warm-up too.
        folder: to write it into.

    Raises:
        WorkshopError: the server cannot be reached, or answers nothing in the warm-up.
    """
    server, asked = "", []
    if not target.model:
        asked.append("its model's name")
        target, server = named(target)
    source = Source(load, tokenizer)
    if source.needs_calibration:
        asked.append("how long prompts are")
        source.calibrate(lambda text: _counted(target, load, text))
    client = Client(target, load, source, watch, source.count_answer)
    runs = []
    with _stopped_by_signals(client):  # writing too: a signal just then would lose everything
        try:
            with _on_time():
                for run in client.measure():
                    runs.append(run)
                    after_run(run)
        finally:
            client.close()
        sent = sum(row.sent is not None for run in runs for row in run.rows)
        notes = (*_not_cold(load, asked), *source.notes(sent))
        measured = Measured(load, target, tuple(runs), client.stamps, server, notes, source.opening)
        if folder is not None:
            measured.write(folder)
    return measured


def _not_cold(load: Load, asked: list[str]) -> list[str]:
    """Of a load that is to meet a server as it is: what the server was asked before, which may have started it."""
    if load.profile is None or not asked or load.warming:
        return []
    return [
        f"The server was asked {' and '.join(asked)} before the load began, so one that starts when it is asked had "
        "started already. Give the model's name, and its tokenizer or a file of prompts, to meet it cold."
    ]


def named(target: Target) -> tuple[Target, str]:
    """The target with the name of the server's first model, and what the server calls itself.

    Raises:
        WorkshopError: it cannot be reached, refuses, or has no model.
    """
    status, said, server = ask(target, "GET", f"{target.base}/models")
    try:
        found = json.loads(said)["data"][0]["id"] if status == 200 else None
    except (ValueError, LookupError, TypeError):
        found = None
    if isinstance(found, str):
        return replace(target, model=found), server
    if status in (401, 403):
        raise WorkshopError(f"{target.url} asks for a key (HTTP {status}). {target.key_advice}")
    raise WorkshopError(
        f"{target.url}/models answered {status} and names no model. Is this the address of an OpenAI-compatible "
        "server? Where it has no such page, give the model's name (--model)."
    )


def _counted(target: Target, load: Load, text: str) -> int | None:
    """Tokens of a prompt, as the server counts them; None if it does not say."""
    plain = load.with_(extra={}, ignore_eos=False)
    request = json.loads(body(Prompt(text, None, 1), target.model, plain))
    request.pop("stream_options", None)
    request["stream"] = False
    _, said, _ = ask(target, "POST", target.path(load.api), json.dumps(request).encode(), load.timeout)
    try:
        tokens = json.loads(said)["usage"]["prompt_tokens"]
    except (ValueError, LookupError, TypeError):
        return None
    return tokens if isinstance(tokens, int) and tokens > 0 else None


@contextmanager
def _on_time() -> Iterator[None]:
    """Let this process run as soon as something arrives, where the system allows it.

    A server on the same machine may keep all cores busy. Its client takes a few percent of one, but a token that waits
    until the client's turn comes is read together with the next.
    """
    try:
        usual, param = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except (OSError, AttributeError):  # not allowed (most containers), or no such thing (macOS)
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, usual, param)


@contextmanager
def _stopped_by_signals(client: Client) -> Iterator[None]:
    """While it measures, a signal only asks it to stop."""

    def stop(signum: int, frame: object) -> None:
        client.stopping = STOPPED

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
