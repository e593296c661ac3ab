"""A server in front of an engine, as a child of this process: started, watched and ended here (notebook 07).

It runs under :mod:`helpers.keeper`, so nothing of it outlives this process, whoever dies first. It counts as ready once
it has really answered: ``/health``, and one token.
"""

import atexit
import contextlib
import html
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from helpers import keeper, processes, stage, workspace
from helpers.cards import Card, Shown, ShownAsCard, Table, bytes_text, counted, seconds_text
from helpers.errors import WorkshopError
from helpers.progress import Bar, Live
from helpers.serving import poller, ports
from helpers.serving.status import DIED, NOT_ANSWERING, READY, STARTING, STOPPED, Activity, Moment, Status
from helpers.toolchains.generation import ending_of
from helpers.toolchains.serving import PORT, RUN, ServeCommand, ServeOptions

if TYPE_CHECKING:
    from helpers.recipe import Recipe
    from helpers.toolchains.base import Engine

METRICS = "metrics.jsonl"
"""The file of the endpoint's poller, in its run's folder."""

# Seconds for a start: a large engine is read from a slow disk, and the PyTorch back end captures CUDA graphs besides.
_PATIENCE = {"openvino": 120.0, "tensorrt_llm": 900.0, "tensorrt_llm_pytorch": 900.0}
_LOOK = 0.15  # seconds between two looks at a server that starts
_FIRST_ANSWER = 60.0  # seconds that the first token may take: kernels may be prepared with it
_LAST_WORD = 1.0  # seconds for the record that says that all is idle again
_ATTEMPTS = 3  # free ports that are tried: another process may take one before the server does
_GPU_RESERVE = 1_000_000_000  # bytes that a second engine needs beside its weights, about: CUDA's own and activations
_LOG_BYTES = 256_000  # bytes at a log's end that are shown; a server may run for weeks
_BATCH = 1_000_000  # characters of a log that are looked through for secrets at once
_OWN_QUESTIONS = ('"GET /metrics', '"GET /health')  # in a line of the access log: what this module and its poller ask
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}

_started: "list[Endpoint]" = []
_starting = threading.RLock()  # one start at a time: a second engine has to see the memory that the first one took
_changing = threading.RLock()  # held for a moment only, so that a server can be stopped while it starts


@dataclass(frozen=True, repr=False)
class Command(Shown):
    """A command for a person to paste into a terminal; ``str()`` is its text."""

    text: str

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<pre style='white-space:pre-wrap'>{html.escape(self.text)}</pre>"


def start(
    what: "Engine | Recipe | str | Path",
    options: ServeOptions | None = None,
    *,
    port: int | None = None,
    time_limit: float | None = None,
) -> "Endpoint":
    """Put an engine behind an API, and wait until it answers.

    Args:
        what: an engine; or a recipe, its file or its name: what it needs is then made where it is missing.
        options: what the server is told; None for the recipe's, or for all that the engine can do.
        port: to listen on; None or 0 for the recipe's, else for a free one. The default of ``options``, 8000, counts
            as none: ask for it here.
        time_limit: seconds after which a server that does not answer is given up; None for 120 on a CPU, 900 on a GPU.

    Raises:
        WorkshopError: the port is taken, the engine does not fit, or the server ended or did not answer; with what its
            log tells.
        KeyboardInterrupt: the cell was interrupted; the server has ended.
    """
    from helpers import toolchains

    engine, options, asked, recipe = resolved(what, options)
    return Endpoint(engine, options, toolchains.of(engine), port or asked, time_limit, recipe).start()


def resolved(
    what: "Engine | Recipe | str | Path", options: ServeOptions | None
) -> "tuple[Engine, ServeOptions, int, str]":
    """The engine, what its server is told, the port that somebody asked for (0: none), and the recipe's name."""
    from helpers import toolchains
    from helpers.toolchains.base import Engine

    if isinstance(what, Engine):
        options_ = options or toolchains.of(what).serve_options(what)
        return what, options_, 0 if options_.port == PORT else options_.port, ""
    from helpers import recipe

    chosen = recipe.load(what) if isinstance(what, str | Path) else what
    if not isinstance(chosen, recipe.Recipe):
        raise WorkshopError(
            f"A {type(what).__name__} cannot be served. Give an engine from a toolchain's build(), or a recipe."
        )
    given = options or chosen.serve_options()
    with stage.only_news():
        engine = recipe.run(chosen)
    port = (0 if given.port == PORT else given.port) if options else chosen.serving.port or 0
    return engine, given, port, chosen.name


def endpoints() -> "tuple[Endpoint, ...]":
    """Those that this process started and that have not been stopped, oldest first.

    One that has died is among them until it is stopped, or until the next one starts.
    """
    return tuple(_started)


def stop_all() -> Table:
    """End every endpoint of this process; gives a table of them."""
    rows = []
    for endpoint in endpoints():
        ended = endpoint.pid is not None and not endpoint.running
        endpoint.stop()
        rows.append((endpoint.title, endpoint.url, "had ended by itself" if ended else STOPPED))
    note = f"{counted(len(rows), 'endpoint')} stopped." if rows else "No endpoint ran."
    return Table(("endpoint", "address", "now"), rows, note=note)


atexit.register(stop_all)


class Endpoint(ShownAsCard):
    """One server, and what there is to know and to do about it.

    Attributes:
        engine: what it serves.
        options: what the server was told; its port is the one it has.
        model: the name that a request gives the model.
        recipe: name of the recipe that it was started from; empty if from an engine.
        log: what the server prints.
        metrics: the file of its poller (:func:`helpers.serving.poller.read`).
        started_seconds: from its start to its first answer; None before.
    """

    def __init__(
        self,
        engine: "Engine",
        options: ServeOptions,
        toolchain: "ModuleType | Any",
        port: int = 0,
        time_limit: float | None = None,
        recipe: str = "",
    ) -> None:
        """Describe a server; :meth:`start` starts it.

        Args:
            engine, options: what is served, and how.
            toolchain: whose ``serve_command`` starts it.
            port: to listen on; 0 for a free one.
            time_limit: see :func:`start`.
            recipe: name of the recipe that the engine is of.
        """
        self.engine, self.options, self.model, self.recipe = engine, options, engine.path.name, recipe
        self.log, self.metrics = Path(os.devnull), Path(os.devnull)
        self.started_seconds: float | None = None
        self._toolchain, self._asked = toolchain, port
        self._limit = time_limit or _PATIENCE.get(toolchain.name, 900.0)
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._poller: poller.Poller | None = None
        self._began, self._stopped = time.time(), False
        self._notes: tuple[str, ...] = ()

    # --- What it is -----------------------------------------------------------

    @property
    def title(self) -> str:
        """Its engine's precisions, as a person writes them."""
        return self.engine.full_title

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self.options.port

    @property
    def url(self) -> str:
        """Where it answers; what an OpenAI client calls ``base_url``."""
        host = self._address[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

    @property
    def pid(self) -> int | None:
        """The id of the process that keeps the server; None if none was started."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """True if its process runs, whether or not it answers."""
        return self._process is not None and self._process.poll() is None

    @property
    def _address(self) -> tuple[str, int]:
        """Where this machine reaches it."""
        return _EVERYWHERE.get(self.options.host, self.options.host), self.options.port

    # --- Its life ---------------------------------------------------------------

    def start(self) -> "Endpoint":
        """Start the server, and wait until it answers; nothing happens if it runs already.

        Raises:
            WorkshopError: see :func:`start`.
        """
        with _changing:
            self._stopped = False  # only here: a stop() from now on counts, also before there is a process
        with _starting:
            if self.running:
                return self
            self._clear_away()
            live = Live()
            try:
                self._require_room()
                self._launch_on_a_port(live)
            except BaseException:
                self.stop()
                raise
            live.finish(self)
        return self

    def _clear_away(self) -> None:
        """Let go of servers that have ended by themselves: the next one may get their port.

        They still say that they died: nobody has stopped them.
        """
        for endpoint in endpoints():
            if endpoint._owner == os.getpid() and not endpoint.running:
                endpoint._end()
        if self._process is not None:
            self._end()
            self._process = None

    def _launch_on_a_port(self, live: Live) -> None:
        """Start it; where it may choose, on another port if one has been lost meanwhile."""
        for attempt in range(_ATTEMPTS):
            try:
                return self._launch(live)
            except _PortTaken as taken:
                self._end()
                if self._asked or attempt + 1 == _ATTEMPTS:
                    raise WorkshopError(str(taken)) from None

    def _launch(self, live: Live) -> None:
        """One attempt to start it."""
        words = self._spawn()
        self._wait_until_it_answers(words, live)
        with _changing:
            self._require_not_stopped()
            process = self._process
            assert process is not None
            self._poller = poller.Poller(self._address, self.metrics, alive=lambda: process.poll() is None).start()

    def _spawn(self) -> list[str]:
        """Start its process; gives the command, for those who read it."""
        host = self.options.host
        port = self._asked or ports.free_port(host)
        if self._asked:
            ports.require_free(host, port, self._holder(port))
        self.options = replace(self.options, port=port)
        command = self._toolchain.serve_command(self.engine, self.options)
        directory = stage.run_directory(f"serve-{self.engine.path.name}")
        self.model, self.log, self.metrics = command.model, directory / "log.txt", directory / METRICS
        self._notes = (*self._notes_of_sharing(), *command.notes)
        self.started_seconds, self._began = None, time.time()
        words = _prepared(command, directory)
        with _changing, self.log.open("wb") as told:
            self._require_not_stopped()
            self._process = subprocess.Popen(
                keeper.keeping(words),
                stdin=subprocess.PIPE,  # only this process holds the other end: the keeper sees it end
                stdout=told,
                stderr=told,
                cwd=workspace.REPOSITORY,
                env=None if command.environment is None else dict(command.environment),
                start_new_session=True,
            )
            if self not in _started:
                _started.append(self)
        return words

    def _require_not_stopped(self) -> None:
        """Raises WorkshopError where another thread has stopped it while it started."""
        if self._stopped:
            raise WorkshopError(f"The server of {self.title} was stopped before it answered. start() starts it again.")

    def _wait_until_it_answers(self, words: list[str], live: Live) -> None:
        """Draw the bar until the first token has come.

        Raises:
            WorkshopError: the process ended, took too long, or answers with an error.
        """
        began = time.monotonic()
        shown = processes.redactor(os.environ)(workspace.shell_text(words))
        details = (("command", shown), ("log", str(self.log)))
        title, doing = f"Starting the server of {self.title}", "loading the engine"
        while True:
            elapsed = time.monotonic() - began
            live.show(Bar(title, elapsed, None, doing, details))
            self._require_not_stopped()
            assert self._process is not None
            if self._process.poll() is not None:
                self._require_not_stopped()  # it may have been stopped between the two looks
                self._fail(_ending_of(self._process.returncode))
            if elapsed > self._limit:
                self._fail(f"did not answer within its limit of {self._limit:g} s")
            if self._answers_health():
                doing = "waiting for a first token"
                if self._gives_a_token(self._limit - elapsed):
                    break
            time.sleep(_LOOK)
        self.started_seconds = time.monotonic() - began

    def _answers_health(self, timeout: float = 2.0) -> bool:
        """True if ``/health`` says 200."""
        try:
            return poller.ask(self._address, "GET", "/health", timeout=timeout)[0] == 200
        except OSError:
            return False

    def _gives_a_token(self, left: float) -> bool:
        """True if a completion of one token comes; False if the server is not there yet.

        Raises:
            WorkshopError: the server answers with an error that waiting does not mend.
        """
        asked = {"model": self.model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        try:
            status, body = poller.ask(
                self._address, "POST", "/v1/completions", asked, timeout=max(1.0, min(_FIRST_ANSWER, left))
            )
        except OSError:
            return False
        if status == 200:
            return True
        if status in (429, 503):
            return False
        self._fail(f"answers a request for one token with {status}: {_message(body)}")
        return False

    def _fail(self, how: str) -> None:
        """Say why it did not start.

        Raises:
            WorkshopError: always.
        """
        told = self.log_text()
        if self._process is not None and self._process.poll() is not None and ports.says_taken(told):
            raise _PortTaken(ports.taken_text(self.options.host, self.port, self._holder(self.port)))
        raise WorkshopError(
            f"The server of {self.title} {how}.\n{stage.diagnosis(told, how)}The whole log: {self.log}\n"
            "Mend the cause and start it again."
        )

    def _holder(self, port: int) -> str:
        """Which other endpoint of this process has a port, in words; empty for none."""
        held = next((one for one in endpoints() if one.port == port and one is not self), None)
        return f" by this notebook's own endpoint of {held.title}, which its stop() ends" if held else ""

    def stop(self) -> None:
        """End the server, within a few seconds; nothing of it is left. Does nothing where it has ended."""
        if os.getpid() != self._owner:
            return  # a forked copy of this process; the server is not its own
        with _changing:
            self._stopped = True
            self._end()

    def _end(self) -> None:
        """End its process, if it runs, and let go of all that belongs to it."""
        with _changing:
            process = self._process
            if self in _started:
                _started.remove(self)
            if self._poller:
                self._poller.stop()
                self._poller = None
            if process is None:
                return
            try:
                if process.poll() is None:
                    processes.end_all(process)
            finally:
                if process.stdin and not process.stdin.closed:
                    process.stdin.close()
            self._hide_secrets()

    def _hide_secrets(self) -> None:
        """Leave a log without secrets, now that nobody writes into it."""
        if not self.log.is_file():
            return
        hide = processes.redactor(os.environ)
        if all(hide(written) == written for written in _batches(self.log)):
            return
        part = self.log.with_name(f".{self.log.name}.{os.getpid()}")
        with part.open("w", encoding="utf-8", newline="") as out:
            out.writelines(hide(written) for written in _batches(self.log))
        part.replace(self.log)

    def restart(self) -> "Endpoint":
        """End it, if it runs, and start it again on the same port where that is free.

        Raises:
            WorkshopError: see :func:`start`.
        """
        with _starting:
            self.stop()
            asked, port = self._asked, self.port
            if not asked and port and ports.is_free(self.options.host, port):
                self._asked = port  # clients that know the address go on
            try:
                return self.start()
            finally:
                self._asked = asked

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *problem: object) -> None:
        self.stop()

    # --- What it says -----------------------------------------------------------

    def log_text(self) -> str:
        """The last that the server has printed, without secrets, and without the questions of this module itself."""
        try:
            lines = _last_lines(self.log)
        except OSError:
            return ""
        told = (line for line in lines if not any(question in line for question in _OWN_QUESTIONS))
        return processes.redactor(os.environ)("".join(told))

    def status(self) -> Status:
        """How it is, asked anew: its process, ``/health``, and what the engine told last."""
        self._hurry()
        state, note = self._state()
        record = poller.last(self.metrics)
        return Status(
            state=state,
            title=self.title,
            url=self.url,
            seconds=time.time() - self._began,
            max_batch_size=self.options.sizes.max_batch_size,
            record=record,
            age=None if record is None else max(0.0, time.time() - record.time),
            note=note,
        )

    def _hurry(self) -> None:
        """Let the poller look now: it asks seldom while the engine is idle."""
        reading = self._poller  # stop() takes it away
        if reading:
            reading.hurry()

    def _state(self) -> tuple[str, str]:
        """The state, and what to do about it."""
        process = self._process
        if self._stopped or process is None:
            return STOPPED, "Start it again with restart()."
        if process.poll() is not None:
            lines = "".join(f"  | {line}\n" for line in stage.telling_lines(self.log_text(), 3))
            return f"{DIED}: {_ending_of(process.returncode)}", f"Its log ends:\n{lines}restart() starts it again."
        if self._answers_health():
            return (READY if self.started_seconds is not None else STARTING), ""
        if process.poll() is not None:  # it ended while it was asked
            return self._state()
        if self.started_seconds is None:
            return STARTING, ""
        return NOT_ANSWERING, "Its process runs, and does not answer: wait a moment, or restart() it."

    def _require_room(self) -> None:
        """Refuse to start a second engine on GPUs whose memory the first one has taken.

        Raises:
            WorkshopError: says who holds how much, and what to do.
        """
        others = self._others()
        if not others:
            return
        from helpers import hardware
        from helpers.toolchains.base import compiled_bytes

        gpus = hardware.look().gpus[: self.engine.tp_size]
        needed = compiled_bytes(self.engine) // self.engine.tp_size + _GPU_RESERVE
        short = [gpu for gpu in gpus if gpu.free_bytes < needed]
        if short:
            held = ", ".join(f"{other.title} (kv_share {other.options.kv_share:g})" for other in others)
            raise WorkshopError(
                f"There is no room on the GPU for a second engine: it needs about {bytes_text(needed)}, and "
                f"{bytes_text(short[0].free_bytes)} is free. Running: {held}. Stop that endpoint, or start both with a "
                "lower kv_share, such as 0.4 for the first."
            )

    def _others(self) -> "list[Endpoint]":
        """Endpoints of this process that hold GPU memory; none where engines run on the CPU."""
        if self._toolchain.name == "openvino":
            return []
        return [one for one in endpoints() if one is not self and one.running]

    def _notes_of_sharing(self) -> tuple[str, ...]:
        """What to know where another endpoint is on the same GPU."""
        if not self._others():
            return ()
        share = self.options.kv_share
        return (f"Another endpoint is on this GPU: this one's KV cache gets {share:.0%} of what that one left free.",)

    # --- What one does with it --------------------------------------------------

    def curl(self, prompt: str = "The weather today", max_tokens: int = 16, stream: bool = False) -> Command:
        """The command that asks it for a completion, to paste into a terminal."""
        asked: dict[str, Any] = {"model": self.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        words = ["curl", "--silent", "--show-error"]
        if stream:
            words, asked = [*words, "--no-buffer"], {**asked, "stream": True}
        words += [f"{self.url}/completions", "--header", "Content-Type: application/json"]
        return Command(workspace.shell_text([*words, "--data", json.dumps(asked, ensure_ascii=False)]))

    def client(self, timeout: float = 120.0) -> Any:
        """The official ``openai`` client of this endpoint; any text serves as its key.

        Args:
            timeout: seconds that an answer, or a piece of a streamed one, may take.
        """
        import openai

        # Straight to the server: a proxy of the environment does not know this machine's own addresses.
        direct = openai.DefaultHttpxClient(trust_env=False, timeout=timeout)
        return openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=timeout, http_client=direct)

    def async_client(self, timeout: float = 120.0) -> Any:
        """The same for many requests at once, with ``await``."""
        import openai

        direct = openai.DefaultAsyncHttpxClient(trust_env=False, timeout=timeout)
        return openai.AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=timeout, http_client=direct)

    def watch(self, seconds: float = 10.0, every: float = 0.25) -> Activity:
        """Show for a while what the engine does, drawn in place; an interrupt ends the showing, not the server.

        Args:
            seconds: how long; it ends at once when the server does.
            every: seconds between two drawings.
        """
        began = time.time()
        ended = threading.Event()
        timer = threading.Timer(seconds, ended.set)
        timer.daemon = True
        timer.start()
        with contextlib.suppress(KeyboardInterrupt):
            self._show_until(ended, Live(), every, self.status)
        timer.cancel()
        return self.activity(began)

    @contextlib.contextmanager
    def watching(self, every: float = 0.25) -> Iterator[None]:
        """Show what the engine does while a cell sends it requests, and what it did at the end.

        ``with endpoint.watching(): ...``
        """
        ended, live, began = threading.Event(), Live(), time.time()
        live.show(self._moment())

        def last() -> Activity:
            return self._settled(began)

        thread = threading.Thread(target=self._show_until, args=(ended, live, every, last), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(3)

    def _show_until(self, ended: threading.Event, live: Live, every: float, last: Callable[[], Shown]) -> None:
        """Draw the moment again and again; what ``last`` gives stays."""
        while True:
            moment = self._moment()
            live.show(moment)
            if not (moment.status and moment.status.alive) or ended.wait(every):
                break
        live.finish(last())

    def _settled(self, began: float) -> Activity:
        """What the engine did since ``began``, once a record since then says that nothing runs or waits."""
        self._hurry()
        deadline = time.monotonic() + _LAST_WORD
        while time.monotonic() < deadline:
            record = poller.last(self.metrics)
            if record is not None and record.time >= began and not record.active and not record.queued:
                break
            time.sleep(0.05)
        return self.activity(began)

    def _moment(self) -> Moment:
        """What is drawn in place."""
        return Moment(self.title, time.time() - self._began, status=self.status())

    def activity(self, since: float | None = None) -> Activity:
        """Requests and KV blocks over time, as records and as a picture.

        Args:
            since: seconds since 1970; None for all that is kept.
        """
        records = poller.read(self.metrics, since or 0.0)
        return Activity(self.title, tuple(records), self.options.sizes.max_batch_size)

    @contextlib.contextmanager
    def metrics_free(self) -> Iterator[None]:
        """Let somebody else read ``/metrics`` for a while; the views stand still meanwhile."""
        reading = self._poller
        with reading.paused() if reading else contextlib.nullcontext():
            yield

    # --- How it shows itself ------------------------------------------------------

    def card(self) -> Card:
        """Where it answers, with what, and since when; asks nobody."""
        process = self._process
        if self._stopped or process is None:
            state = STOPPED
        elif process.poll() is not None:
            state = f"{DIED}: {_ending_of(process.returncode)}"
        else:
            state = READY if self.started_seconds is not None else STARTING
        facts = {"address": self.url, "model": self.model, "engine": str(self.engine.path)}
        if self.started_seconds is not None:
            facts["first answer"] = f"{seconds_text(self.started_seconds)} after its start"
        sizes = self.options.sizes
        facts["holds"] = (
            f"at most {sizes.max_batch_size:,} requests at once, {sizes.max_seq_len:,} tokens each, prompt and answer"
        )
        facts["log"] = str(self.log)
        return Card(f"Endpoint of {self.title}: {state}", facts, " ".join(self._notes))


class _PortTaken(Exception):
    """The server could not have its port."""


def _prepared(command: ServeCommand, directory: Path) -> list[str]:
    """Write the server's files, and give its command with their folder in it."""
    for name, content in command.files.items():
        workspace.write_whole(directory / name, content)
    return [word.replace(RUN, str(directory)) for word in command.command]


def _last_lines(log: Path) -> list[str]:
    """The whole lines at a log's end, with their ends; a line that is cut off there may hold half a secret."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines(keepends=True)
    return lines[1:] if size > _LOG_BYTES else lines


def _batches(log: Path) -> Iterator[str]:
    """A log in parts of whole lines, for one that does not fit into memory."""
    with log.open(encoding="utf-8", errors="replace", newline="") as file:
        while lines := file.readlines(_BATCH):
            yield "".join(lines)


def _ending_of(status: int) -> str:
    """How a server's process ended, in words; also where its keeper was killed."""
    return ending_of(status if status >= 0 else 128 - status)


def _message(body: bytes) -> str:
    """What an error's answer says."""
    text = body.decode(errors="replace").strip()
    with contextlib.suppress(ValueError, AttributeError):
        text = str(json.loads(text).get("message") or text)
    return text[:300] or "nothing"
