"""What one replica of a deployment runs: an engine, and the API in front of it (notebook 09).

On a CPU the application of :mod:`helpers.serving.app` answers from within the replica, with the engine in a process
beside it; on a GPU a ``trtllm-serve`` of its own does (:mod:`helpers.deploy.passing`). Either has the surface of the
single server of notebook 07. Nothing here collects requests into batches: the engine does.
"""

import asyncio
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from helpers.deploy.marks import LEFT_OUT, App, Notes, Watched, process_began
from helpers.deploy.observed import ENDED, IMPORTED, LOADED, PROCESS, READY
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.toolchains.base import Engine
    from helpers.toolchains.serving import ServeOptions

_PATIENCE = 900.0  # seconds for a server on a GPU; a large engine is read from a slow disk
_LAST_WORDS = 1.0  # seconds in which those who wait for a dead engine get to read why


class Backend(Protocol):
    """What answers in a replica."""

    ended: asyncio.Event

    @property
    def failed(self) -> str | None:
        """Why it can take nothing more; None while all is well."""
        ...

    async def start(self, notes: Notes) -> App:
        """Load the engine; gives the application in front of it."""
        ...

    async def close(self) -> None:
        """Let go of the engine."""
        ...


class InProcess:
    """The CPU server's application, with its engine in a process that ends when this one does.

    Attributes:
        ended: is set once the engine's process is gone.
    """

    def __init__(self, words: Sequence[str], blob: bool) -> None:
        """Start to load the engine; what the application needs is imported meanwhile.

        Args:
            words: from :func:`words_of`.
            blob: False compiles the engine's graph anew.

        Raises:
            WorkshopError: there is no engine.
        """
        from helpers.serving.app import __main__ as program
        from helpers.serving.app.engine import launch

        self._arguments = program.parse(words if blob else [*words, "--compile"])
        program.check(self._arguments)
        self._process = launch(program.worker_options(self._arguments))
        self._engine: Any = None
        self.ended = asyncio.Event()

    async def start(self, notes: Notes) -> App:
        """Load the engine; gives the application in front of it.

        Raises:
            WorkshopError: it did not load; with what it said.
        """
        from helpers.serving.app.__main__ import opened

        app, self._engine = await opened(self._arguments, self._process)
        notes.note(IMPORTED, self._engine.told["imported"])
        self.ended = self._engine.ended
        served: App = app
        return served

    @property
    def failed(self) -> str | None:
        """Why the engine can take nothing more; None while all is well."""
        return None if self._engine is None else self._engine.failed

    async def close(self) -> None:
        """End the engine's process."""
        if self._engine is not None:
            await self._engine.close()
        elif self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Beside:
    """``trtllm-serve`` as a child, and an application that hands everything on to it.

    Attributes:
        ended: is set once the server is gone by itself.
    """

    def __init__(self, engine: "Engine", options: "ServeOptions", toolchain: Any) -> None:
        """Describe it; see :class:`helpers.deploy.passing.Child`."""
        from helpers.deploy.passing import Child, PassThrough

        self._folder = tempfile.TemporaryDirectory(prefix="replica-")
        self._child = Child(engine, options, toolchain, Path(self._folder.name))
        self._through = PassThrough(self._child.address)
        self.ended = self._child.ended

    async def start(self, notes: Notes) -> App:
        """Start the server; gives the application in front of it.

        Raises:
            WorkshopError: it ended, or did not answer in time.
        """
        notes.note(IMPORTED)  # the server imports for itself: from here on that is part of its loading
        self._child.launch()
        await self._child.start(_PATIENCE)
        return self._through

    @property
    def failed(self) -> str | None:
        """Why the server can take nothing more; None while all is well."""
        return self._child.failed

    async def close(self) -> None:
        """End the server."""
        await self._through.close()
        await self._child.close()
        self._folder.cleanup()


class Replica:
    """One replica. Ray Serve makes as many of it as the load asks for; see :func:`helpers.deploy.ray_app.build`."""

    def __init__(self, told: Mapping[str, Any], name: str = "") -> None:
        """Begin; :meth:`start` loads the engine.

        Args:
            told: what :func:`helpers.deploy.ray_app.described` put together.
            name: of the replica, in its notes.
        """
        self.notes = Notes(Path(told["notes"]) if told.get("notes") else None, name or f"process {os.getpid()}")
        self.notes.note(PROCESS, process_began())
        if paths := os.environ.get("PYTHONPATH"):  # what Ray does without, an engine's own process may need
            kept = [path for path in paths.split(os.pathsep) if Path(path).name != LEFT_OUT]
            os.environ["PYTHONPATH"] = os.pathsep.join(kept)
        self._told = told
        self._backend: Backend | None = None
        self._watching: asyncio.Task[None] | None = None
        self.app: Watched | None = None

    async def start(self) -> Watched:
        """Load the engine; gives the application in front of it.

        Raises:
            WorkshopError: the engine does not fit this machine, or did not load.
        """
        self._backend = self._chosen()
        app = await self._backend.start(self.notes)
        self.notes.note(LOADED)
        self.app = Watched(app, self.notes)
        self._watching = asyncio.create_task(self._watch(self._backend, self.app))
        return self.app

    def _chosen(self) -> Backend:
        """What answers here, with its engine beginning to load."""
        blob = bool(self._told.get("blob", True))
        if self._told.get("words") and self._told.get("node") == platform.node():
            return InProcess(self._told["words"], blob)  # all is known: to find it out again takes half a second
        engine, options, toolchain = resolved(self._told)
        if toolchain.name == "openvino":
            return InProcess(words_of(engine, options, toolchain), blob)
        return Beside(engine, options, toolchain)

    async def _watch(self, backend: Backend, app: Watched) -> None:
        """End this process when its engine has died: Ray then sends its requests elsewhere, and starts another."""
        await backend.ended.wait()
        if self.notes.has(ENDED) or not backend.failed:
            return  # it was closed
        print(f"error: {backend.failed} The replica ends with it.", file=sys.stderr, flush=True)
        deadline = asyncio.get_running_loop().time() + _LAST_WORDS
        while app.present and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)  # what was said last is on its way
        self.notes.note(ENDED)
        os._exit(1)

    def require_healthy(self) -> None:
        """Note that the replica is ready, the first time.

        Raises:
            WorkshopError: its engine is gone.
        """
        if self._backend is None or self._backend.failed:
            raise WorkshopError((self._backend and self._backend.failed) or "The engine is not loaded yet.")
        self.notes.note(READY)

    async def close(self) -> None:
        """Let go of the engine."""
        if self._backend is not None and not self.notes.has(ENDED):
            closing, self._backend = self._backend, None
            if self._watching is not None:
                self._watching.cancel()
            await closing.close()
            self.notes.note(ENDED)


def resolved(told: Mapping[str, Any]) -> "tuple[Engine, ServeOptions, Any]":
    """The engine of a replica, what its server is told, and the toolchain that runs it here.

    What a recipe needs and this machine lacks is made first: a cluster's machine may be another than the one that asked
    for the replica.

    Raises:
        WorkshopError: there is no such engine, or it could not be made.
    """
    from helpers import toolchains, workspace
    from helpers.toolchains.base import Engine

    folder = Path(told["engine"]) if told.get("engine") else None
    manifest = workspace.read_manifest(folder) if folder is not None else None
    if folder is not None and manifest is not None:
        engine = Engine(folder, manifest)
    elif told.get("recipe"):
        from helpers import recipe, stage  # not before it is needed: imports are part of a cold start

        with stage.only_news():
            engine = recipe.run(told["recipe"])
    else:
        raise WorkshopError(f"There is no engine in {folder}. Build it on this machine, or deploy a recipe.")
    return engine, options_of(told["options"]), toolchains.of(engine)


def words_of(engine: "Engine", options: "ServeOptions", toolchain: Any) -> list[str]:
    """What the CPU server's program is told for an engine.

    Raises:
        WorkshopError: the engine does not fit this machine.
    """
    words: list[str] = toolchain.serve_command(engine, options).command
    return words[words.index("helpers.serving.app") + 1 :]


def options_of(told: Mapping[str, Any]) -> "ServeOptions":
    """What a server is told, from what :func:`as_told` made of it."""
    from helpers.toolchains.serving import ServeOptions
    from helpers.toolchains.sizes import Sizes

    return ServeOptions(**{**told, "sizes": Sizes(**told["sizes"])})


def as_told(options: "ServeOptions") -> dict[str, Any]:
    """What a server is told, as JSON keeps it."""
    return asdict(options)
