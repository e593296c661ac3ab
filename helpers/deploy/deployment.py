"""A deployment: an engine behind Ray Serve on this machine, started, watched and ended from here (notebook 09).

Ray runs in a program of its own (:mod:`helpers.deploy.cluster`) under :mod:`helpers.keeper`: nothing of it is imported
in a notebook's kernel, and nothing of it outlives that.
"""

import atexit
import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import keeper, processes, stage, workspace
from helpers.cards import Card, ShownAsCard, Table, counted, seconds_text
from helpers.deploy import observed
from helpers.deploy.cluster import ASKED_FILE, LOGS
from helpers.deploy.observed import ASKED, ENDED, FIRST_TOKEN, READY, Moment, Observed
from helpers.deploy.scaling import Scaling
from helpers.errors import WorkshopError
from helpers.progress import Bar, Live
from helpers.serving import ports
from helpers.serving.status import STARTING, STOPPED
from helpers.toolchains.generation import ending_of
from helpers.toolchains.serving import LOCAL, ServeOptions

if TYPE_CHECKING:
    from helpers.recipe import Recipe
    from helpers.toolchains.base import Engine

PROMPT = "The weather today"
"""What :meth:`Deployment.first_answer` asks for where nobody says otherwise."""

_PATIENCE = 180.0  # seconds for Ray's own start; each replica that is kept has the toolchain's time on top
_REPLICA = {"openvino": 60.0, "tensorrt_llm": 900.0}
_LOOK = 0.15  # seconds between two looks
_CPUS = 64  # that replicas may reserve: on a CPU they share the cores, and on GPUs it is these that are counted
_ENDING = 6.0  # seconds that Ray has to end by itself, before it is ended by force
_TOLD = "told.jsonl"

_started: "list[Deployment]" = []


def start(
    what: "Recipe | str | Path | Engine",
    scaling: Scaling | None = None,
    *,
    port: int | None = None,
    blob: bool = True,
    time_limit: float | None = None,
) -> "Deployment":
    """Deploy an engine on this machine, with as many replicas as the load asks for.

    Returns once requests are taken; with ``min_replicas=0`` the first one starts a replica.

    Args:
        what: an engine; or a recipe, its file or its name: what it needs is then made where it is missing.
        scaling: how many replicas there shall be; None for none without load, and two at most.
        port: to listen on; None for a free one.
        blob: False compiles the engine's graph at each replica's start, as if there were no compiled blob (CPU only).
        time_limit: seconds after which a start is given up.

    Raises:
        WorkshopError: Ray is not installed, the engine does not fit, there are too few GPUs, the port is taken, or a
            replica does not start; with the reason.
        KeyboardInterrupt: the cell was interrupted; all has ended.
    """
    from helpers import toolchains
    from helpers.serving.endpoint import resolved

    _require_ray()
    engine, options, _, recipe = resolved(what, None)
    wanted = scaling or Scaling()
    toolchain = toolchains.of(engine)
    _require_fit(engine, options, wanted, toolchain, blob)
    deployment = Deployment(engine, options, wanted, recipe=recipe, blob=blob)
    return deployment._start(port, time_limit or _PATIENCE + wanted.min_replicas * _REPLICA.get(toolchain.name, 900.0))


def _require_ray() -> None:
    """Raises WorkshopError where Ray Serve cannot be imported."""
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("ray.serve") is None:
        raise WorkshopError(
            "Ray Serve is not installed in this environment. Install what requirements.txt names: "
            "python -m pip install -r requirements.txt"
        )


def _require_fit(engine: "Engine", options: ServeOptions, scaling: Scaling, toolchain: Any, blob: bool) -> None:
    """Refuse what cannot work before anything is started.

    Raises:
        WorkshopError: the engine does not fit this machine, the scaling does not fit the engine, or there are too few
            GPUs.
    """
    from helpers import hardware
    from helpers.deploy.ray_app import autoscaling

    toolchain.serve_command(engine, options)  # refuses an engine that was made elsewhere
    autoscaling(scaling, options.sizes.max_batch_size)
    if toolchain.name == "openvino":
        return
    if not blob:
        raise WorkshopError("blob=False is for the CPU: an engine of TensorRT-LLM is never compiled at its start.")
    needed, present = scaling.max_replicas * engine.tp_size, len(hardware.look().gpus)
    if needed > present:
        raise WorkshopError(
            f"max_replicas is {scaling.max_replicas}, and each needs {counted(engine.tp_size, 'GPU')}: {needed} in "
            f"all. This machine has {present}. Give a max_replicas of at most {present // engine.tp_size}."
        )


def deployments() -> "tuple[Deployment, ...]":
    """Those that this process started and that have not been stopped, oldest first."""
    return tuple(_started)


def stop_all() -> Table:
    """End every deployment of this process; gives a table of them."""
    rows = []
    for one in deployments():
        one.stop()
        rows.append((one.title, one.url, STOPPED))
    note = f"{counted(len(rows), 'deployment')} stopped." if rows else "No deployment ran."
    return Table(("deployment", "address", "now"), rows, note=note)


atexit.register(stop_all)


@dataclass(frozen=True, repr=False)
class Answer(ShownAsCard):
    """One streamed answer and its times, in seconds since 1970.

    Attributes:
        prompt, text: what was asked, and what came.
        sent, first_token, ended: when the request was sent, its first token came, and its stream ended.
        cold: no replica ran when it was sent.
    """

    prompt: str
    text: str
    sent: float
    first_token: float
    ended: float
    cold: bool = False

    @property
    def ttft(self) -> float:
        """Seconds to the first token."""
        return self.first_token - self.sent

    @property
    def seconds(self) -> float:
        """Seconds to the last."""
        return self.ended - self.sent

    def card(self) -> Card:
        """The text and its times."""
        started = "none: this request started one" if self.cold else "at least one"
        facts = {"answer": self.prompt + self.text, "replicas when it was sent": started}
        facts |= {"first token after": f"{self.ttft:.2f} s", "whole answer after": f"{self.seconds:.2f} s"}
        return Card("measured: one streamed request", facts)


class Deployment(ShownAsCard):
    """An engine behind Ray Serve, and what there is to know and to do about it.

    Attributes:
        engine: what its replicas serve.
        options: what each replica's server is told; the port is that of the deployment.
        scaling: how many replicas there shall be.
        model: the name that a request gives the model.
        recipe: name of the recipe that it was started from; empty if from an engine.
        blob: False if each replica compiles the engine's graph at its start.
        folder: of its notes and logs.
        started_seconds: from its start until it took requests; None before.
        changed_seconds: from the last :meth:`change` until Ray followed the new settings; None before.
    """

    def __init__(
        self, engine: "Engine", options: ServeOptions, scaling: Scaling, recipe: str = "", blob: bool = True
    ) -> None:
        """Describe it; :func:`start` starts it."""
        self.engine, self.options, self.scaling = engine, options, scaling
        self.model, self.recipe, self.blob = engine.path.name, recipe, blob
        self.folder = Path(os.devnull)
        self.started_seconds: float | None = None
        self.changed_seconds: float | None = None
        self._number, self._cpus = 0, max(_CPUS, scaling.max_replicas)
        self._process: subprocess.Popen[bytes] | None = None
        self._owner, self._stopped, self._began = os.getpid(), False, time.monotonic()
        self._changing = threading.RLock()

    # --- What it is -----------------------------------------------------------

    @property
    def title(self) -> str:
        """Its engine's precisions, and how it is served."""
        return f"{self.engine.full_title}, Ray Serve" + ("" if self.blob else ", without its blob")

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self.options.port

    @property
    def url(self) -> str:
        """Where it answers; what an OpenAI client calls ``base_url``."""
        return f"http://{LOCAL}:{self.port}/v1"

    @property
    def log(self) -> Path:
        """What the program that runs Ray prints; Ray's own logs are in the folder ``ray`` beside it."""
        return self.folder / "log.txt"

    @property
    def pid(self) -> int | None:
        """The id of the process that keeps Ray; None if none was started."""
        return self._process.pid if self._process else None

    @property
    def running(self) -> bool:
        """True if Ray runs, with however many replicas."""
        return self._process is not None and self._process.poll() is None

    # --- Its life ---------------------------------------------------------------

    def _start(self, port: int | None, limit: float) -> "Deployment":
        """Start it, and wait until it takes requests."""
        live = Live()
        try:
            self._spawn(port)
            self._wait_until(
                lambda: self._told("ready") is not None,
                live,
                "Deploying " + self.engine.full_title,
                limit,
                lambda: (self._told("step") or {}).get("step", "starting"),
            )
        except BaseException:
            self.stop()
            raise
        live.finish(self)
        return self

    def _spawn(self, port: int | None) -> None:
        """Start its process."""
        if port:
            ports.require_free(LOCAL, port)
        self.options = replace(self.options, host=LOCAL, port=port or ports.free_port(LOCAL))
        self.folder = stage.run_directory(f"deploy-{self.engine.path.name}")
        self._ask(self.scaling, self.blob)
        command = keeper.keeping([sys.executable, "-m", "helpers.deploy.cluster", str(self.folder)])
        with self.log.open("wb") as log, (self.folder / _TOLD).open("wb") as told:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # only this process holds the other end: the keeper sees it end
                stdout=told,
                stderr=log,
                cwd=workspace.REPOSITORY,
                start_new_session=True,
            )
        _started.append(self)
        self._began = time.monotonic()

    def _ask(self, scaling: Scaling, blob: bool) -> None:
        """Write down what is asked for, where the program reads it."""
        from helpers.deploy.ray_app import arguments_of

        arguments = arguments_of(self.engine, self.options, scaling, notes=str(self.folder), blob=blob)
        asked = {"arguments": arguments, "port": self.port, "cpus": self._cpus, "number": self._number}
        workspace.write_whole(self.folder / ASKED_FILE, json.dumps(asked, indent=1))

    def change(
        self,
        scaling: Scaling | None = None,
        *,
        blob: bool | None = None,
        time_limit: float = 120,
        live: Live | None = None,
    ) -> "Deployment":
        """Go on with other settings, without starting Ray again; notes go on in the same files.

        Another scaling leaves the replicas that run alone; ``blob`` replaces them, each once its streams have ended.
        Returns once as many replicas run as are kept without load: at once where that is none.

        Args:
            scaling: how many replicas there shall be from now on; None for no change.
            blob: False compiles the engine's graph at each replica's start; None for no change.
            time_limit: seconds.
            live: where to draw the progress, if the deployment itself shall not be shown afterwards.

        Raises:
            WorkshopError: what cannot work, the deployment has ended, no replica can start, or it took too long.
        """
        from helpers import toolchains

        wanted, with_blob = scaling or self.scaling, self.blob if blob is None else blob
        self._require_running()
        _require_fit(self.engine, self.options, wanted, toolchains.of(self.engine), with_blob)
        if wanted.max_replicas > self._cpus:
            raise WorkshopError(
                f"max_replicas is {wanted.max_replicas}, and this Ray was started for {self._cpus} at most. Give "
                "fewer, or start another deployment."
            )
        replaced = self._present() if with_blob != self.blob else set()
        with self._changing:
            self._number, began = self._number + 1, time.monotonic()
            self._ask(wanted, with_blob)
        drawn = live or Live()
        title, doing = f"Changing {self.title}", lambda: _in_words(self.moment())
        self._wait_until(lambda: self._followed(began), drawn, title, time_limit, doing)
        self.scaling, self.blob = wanted, with_blob
        self._wait_until(lambda: self._settled(replaced), drawn, title, time_limit, doing)
        if live is None:
            drawn.finish(self)
        return self

    def _present(self) -> set[str]:
        """The replicas that have not ended."""
        return {name for name, steps in self.observed().replicas().items() if ENDED not in steps}

    def _followed(self, began: float) -> bool:
        """True once Ray follows the last change.

        Raises:
            WorkshopError: it does not; with the reason.
        """
        told = self._told("changed", "refused") or {}
        if told.get("refused") == self._number:
            raise WorkshopError(f"The settings of {self.title} stay as they were. {told['why']}")
        if told.get("changed") != self._number:
            return False
        self.changed_seconds = time.monotonic() - began
        return True

    def _settled(self, replaced: set[str]) -> bool:
        """True once some replicas have ended, and as many run as are kept."""
        moment = self.moment()
        return not replaced & self._present() and moment is not None and moment.running >= self.scaling.min_replicas

    def _lines(self) -> Iterator[dict[str, Any]]:
        """What the program has told, the last first."""
        with contextlib.suppress(OSError):
            lines = (self.folder / _TOLD).read_text().splitlines(keepends=True)
            yield from (json.loads(line) for line in reversed(lines) if line.endswith("\n"))

    def _told(self, *kinds: str) -> dict[str, Any] | None:
        """The last line of some kinds; None if there is none."""
        return next((line for line in self._lines() if any(kind in line for kind in kinds)), None)

    @property
    def problem(self) -> str:
        """Why no replica can start; empty while all is well."""
        return str((self._told("problem", "well") or {}).get("problem", ""))

    def _wait_until(
        self, done: Callable[[], bool], live: Live, title: str, limit: float, doing: Callable[[], str]
    ) -> None:
        """Draw a bar until something is so.

        Raises:
            WorkshopError: it ended, no replica can start, or it took too long.
        """
        began, details = time.monotonic(), (("log", str(self.log)), ("Ray's logs", str(self.folder / LOGS)))
        while not done():
            elapsed = time.monotonic() - began
            live.show(Bar(title, elapsed, None, doing(), details))
            self._require_running()
            if problem := self.problem:
                raise WorkshopError(
                    f"No replica of {self.title} can start. {problem}\nRay's logs: {self.folder / LOGS}"
                )
            if elapsed > limit:
                raise WorkshopError(
                    f"{title} took longer than its limit of {limit:g} s ({doing()}). The log: {self.log}"
                )
            time.sleep(_LOOK)
        if self.started_seconds is None:
            self.started_seconds = time.monotonic() - self._began

    def _require_running(self) -> None:
        """Raises WorkshopError, with the reason, where it has ended."""
        if not self.running:
            raise WorkshopError(self._ending())

    def _ending(self) -> str:
        """That it has ended, and why."""
        if self._stopped or self._process is None:
            return f"The deployment of {self.title} was stopped. deploy.start() starts another."
        error = (self._told("error") or {}).get("error") or f"Ray {ending_of(self._process.returncode)}."
        return f"The deployment of {self.title} ended. {error}\nThe log: {self.log}"

    def stop(self) -> None:
        """End all of it, within a few seconds; streams that are under way are cut. Does nothing where it has ended."""
        if os.getpid() != self._owner:
            return  # a forked copy of this process; the deployment is not its own
        with self._changing:
            self._stopped = True
            if self in _started:
                _started.remove(self)
            process = self._process
            if process is None:
                return
            try:
                self._end(process)
            finally:
                if process.stdin and not process.stdin.closed:
                    process.stdin.close()

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        """End the program, which ends Ray; by force what does not end."""
        began = (self._told("began") or {}).get("began", {})
        if process.poll() is None and began:
            with contextlib.suppress(ProcessLookupError):
                os.kill(began["pid"], signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_ENDING)
        if process.poll() is None:
            processes.end_all(process)
        temporary, link = Path(began.get("temporary", os.devnull)), self.folder / LOGS
        if temporary.is_dir():  # the program was killed before it could
            shutil.rmtree(temporary, ignore_errors=True)
        if link.is_symlink():
            link.unlink()

    def __enter__(self) -> "Deployment":
        return self

    def __exit__(self, *problem: object) -> None:
        self.stop()

    # --- What it does -----------------------------------------------------------

    def observed(self) -> Observed:
        """All that was noted of its replicas so far."""
        return observed.read(self.folder)

    def moment(self) -> Moment | None:
        """The last look at its replicas; None before the first."""
        return observed.last(self.folder)

    def wait(self, replicas: int, time_limit: float = 60, *, live: Live | None = None) -> None:
        """Wait until so many replicas run, and none is starting or stopping beside them; then show them.

        Args:
            replicas: how many.
            time_limit: seconds.
            live: where the progress is drawn; the replicas are not shown at the end then.

        Raises:
            WorkshopError: it took longer, the deployment has ended, or no replica can start.
        """
        shown = live or Live()

        def there() -> bool:
            now = self.moment()
            return now is not None and (now.running, now.starting, now.stopping) == (replicas, 0, 0)

        title = f"Waiting until {counted(replicas, 'replica')} run" + ("s" if replicas == 1 else "")
        self._wait_until(there, shown, title, time_limit, lambda: _in_words(self.moment()))
        if live is None:
            shown.finish(self.status())

    def first_answer(
        self, prompt: str = PROMPT, max_tokens: int = 16, time_limit: float = 120, *, live: Live | None = None
    ) -> Answer:
        """Send one streamed request and take its times; without a replica it starts one.

        Args:
            prompt: what to continue, greedily.
            max_tokens: of the answer, at most.
            time_limit: seconds for the whole answer.
            live: where the progress is drawn; the answer is not shown at the end then.

        Raises:
            WorkshopError: no replica can start, or an error came instead of an answer.
        """
        self._require_running()
        now, shown, ended = self.moment(), live or Live(), threading.Event()
        found: list[Answer | Exception] = []

        def ask() -> None:
            try:
                found.append(_streamed(self.port, self.model, prompt, max_tokens, time_limit))
            except Exception as error:
                found.append(error)
            ended.set()

        threading.Thread(target=ask, name="workshop-first-answer", daemon=True).start()
        self._wait_until(
            lambda: ended.wait(0), shown, "Waiting for an answer", time_limit, lambda: _in_words(self.moment())
        )
        if isinstance(found[0], Exception):
            raise WorkshopError(f"No answer came from {self.url}: {found[0]}") from None
        answer = replace(found[0], cold=now is None or now.running == 0)
        if live is None:
            shown.finish(answer)
        return answer

    def status(self) -> Table:
        """Its replicas now, one a row."""
        seen = self.observed()
        rows = []
        for name, steps in seen.replicas().items():
            if ENDED in steps or not self.running:
                continue
            reached = [step for step in observed.STEPS if step in steps]
            begun, ready = steps.get(ASKED, min(steps.values())), steps.get(READY)
            took = "–" if ready is None else f"{ready - begun:.1f} s"
            first = "yes" if FIRST_TOKEN in steps else "no"
            rows.append([name, reached[-1], took, first, seconds_text(max(0.0, time.time() - begun))])
        columns = ("replica", "reached", "ready after", "has answered", "age")
        moment = seen.moments[-1] if seen.moments else None
        note = f"{_in_words(moment)}. {self.problem}".strip() if self.running else self._ending()
        return Table(columns, rows, f"Replicas of {self.title}", note)

    # --- How it shows itself ------------------------------------------------------

    def card(self) -> Card:
        """Where it answers, with what, and how it scales."""
        state = STOPPED if self._stopped or self._process is None else "running" if self.running else "ended"
        if state == "running" and self.started_seconds is None:
            state = STARTING
        scaling = self.scaling
        facts = {"address": self.url, "model": self.model, "engine": str(self.engine.path)}
        facts["replicas"] = f"{scaling.min_replicas} to {scaling.max_replicas}"
        facts["aims at"] = f"{scaling.target_ongoing:g} requests in flight for each"
        if self.started_seconds is not None:
            facts["took requests"] = f"{seconds_text(self.started_seconds)} after its start"
        if self.changed_seconds is not None:
            facts["settings"] = f"changed, and followed after {seconds_text(self.changed_seconds)}"
        facts["log"] = str(self.log)
        before = self.started_seconds is not None and self.changed_seconds is None
        note = "No replica runs before the first request." if scaling.min_replicas == 0 and before else ""
        return Card(f"Deployment of {self.title}: {state}", facts, note)


def _in_words(moment: Moment | None) -> str:
    """What the replicas do, in a few words."""
    if moment is None:
        return "no replica yet"
    counts = ((moment.starting, "starting"), (moment.stopping, "stopping"))
    others = [f"{count} {doing}" for count, doing in counts if count]
    return ", ".join([f"{counted(moment.running, 'replica')} running", *others])


def _streamed(port: int, model: str, prompt: str, max_tokens: int, limit: float) -> Answer:
    """One streamed completion over a connection of its own.

    Raises:
        WorkshopError: an error came, no token did, or the stream broke off. OSError: nobody answers.
    """
    asked = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    connection = http.client.HTTPConnection(LOCAL, port, timeout=limit)
    pieces: list[str] = []
    first = 0.0
    try:
        sent = time.time()
        connection.request("POST", "/v1/completions", json.dumps(asked), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise WorkshopError(f"status {answer.status}: {answer.read(500).decode(errors='replace')}")
        for line in answer:
            if not line.startswith(b"data:"):
                continue
            told = line[5:].strip()
            if told == b"[DONE]":
                if not first:
                    raise WorkshopError("the stream ended without a token.")
                return Answer(prompt, "".join(pieces), sent, first, time.time())
            event = json.loads(told)
            if "choices" not in event:
                raise WorkshopError(str(event.get("message", event))[:300])
            first = first or time.time()
            pieces += [choice.get("text", "") for choice in event["choices"]]
    finally:
        connection.close()
    raise WorkshopError("the stream broke off.")
