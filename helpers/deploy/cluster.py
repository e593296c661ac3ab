"""A Ray of this machine's own with one application, as a program: ``python -m helpers.deploy.cluster FOLDER``.

:mod:`helpers.deploy.deployment` writes what is asked for into the folder and starts this under :mod:`helpers.keeper`.
JSON lines on standard output tell how it goes: ``{"step": ...}``, the first one with ``began``, which names this
process and Ray's own folder; then ``{"ready": true}`` or ``{"error": ...}``; and from then on ``{"problem": ...}`` when
no replica can start, and ``{"well": true}`` when one can again. A few times a second it notes what the replicas do
(:mod:`helpers.deploy.observed`), and looks whether something else is asked for: then it deploys that into the Ray that
runs, and tells ``{"changed": N}`` or ``{"refused": N, "why": ...}``. It ends with SIGTERM, SIGINT, or its folder.

Ray listens on this machine's own addresses only. One kind of port is an exception: a Serve replica listens on every
address for requests of other deployments. Like all that Ray's processes say to each other, those need the token of
this run, which lies in a folder that only this user can read.
"""

import contextlib
import json
import os
import re
import secrets
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import keeper, processes
from helpers.deploy.marks import LEFT_OUT, append
from helpers.deploy.observed import ASKED, ENDED, MARKS, MOMENTS, Moment, read

APP = "workshop"
"""The name of the application."""
ASKED_FILE = "asked.json"
"""In the folder: ``arguments`` of :func:`helpers.deploy.ray_app.build`, ``port``, ``cpus`` that Ray may reserve, and
``number``, which grows when the arguments change."""
LOGS = "ray"
"""In the folder: Ray's own logs; while it runs a link to them."""

_LOCAL = "127.0.0.1"
_EVERY = 0.25  # seconds between two looks at the replicas
_STORE = 80_000_000  # bytes of Ray's object store; requests and answers do not go through it
_UNNEEDED = ("pandas", "rfc3987_syntax")
_FOLLOWS = 20.0  # seconds that Ray has to follow other settings
_ATTEMPTS = 3  # Ray gives its own processes half a minute to start, which a busy machine may need
_KEEP_ALIVE = 120  # seconds that a client's connection is kept open between two requests
_ROOM_FOR_SOCKETS = 25  # characters of the temporary folder's path: a socket's has 107 at most, and Ray takes 80
_STARTING, _STOPPING = ("STARTING", "UPDATING", "RECOVERING"), ("STOPPING", "PENDING_MIGRATION")
_SAID = re.compile(r"WorkshopError: (.+?)\s*$", re.MULTILINE)


def environment(temporary: Path, base: Mapping[str, str]) -> dict[str, str]:
    """The variables of Ray's processes.

    Args:
        temporary: the folder with this run's token.
        base: to begin with; what it says about another Ray is left out.
    """
    paths = (str(temporary / LEFT_OUT), str(Path(__file__).parents[2]), base.get("PYTHONPATH"))
    kept = {name: value for name, value in base.items() if not name.startswith("RAY_")}
    return kept | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(temporary / "token"),
        # As on macOS: the machine is known by its loopback address, and Ray's servers listen on nothing else.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # A process is started when a replica is asked for, not before: what is measured is a cold start.
        "RAY_enable_worker_prestart": "false",
        "RAY_prestart_worker_first_driver": "false",
        "RAY_agent_register_timeout_ms": "120000",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def leave_out(temporary: Path) -> None:
    """Make what Ray's processes import without a need for it fail to import there, as where it is not installed.

    ``import ray`` brings jsonschema, which takes ``rfc3987_syntax`` where Jupyter's packages have installed it; that
    one reads a large grammar each time, which takes longer than all of Ray. Ray Serve takes pandas where there is one.
    """
    folder = temporary / LEFT_OUT
    folder.mkdir()
    for name in _UNNEEDED:
        (folder / f"{name}.py").write_text(
            f"raise ImportError({name!r} ' is left out: Ray starts faster without it')\n"
        )
    sys.path.insert(0, str(folder))  # this process is one of Ray's too


@dataclass
class Look:
    """What was seen of the replicas, and what is still to be noted of them.

    Attributes:
        folder: for the notes.
        present: replicas at the last look.
        problem: why none can start; empty if one can.
    """

    folder: Path
    present: set[str] = field(default_factory=set)
    problem: str = ""

    def take(self, deployment: Mapping[str, Any], now: float) -> Moment:
        """Note what Ray says about the deployment now."""
        replicas = deployment["replicas"]
        states = [str(getattr(one["state"], "value", one["state"])) for one in replicas]
        for one in replicas:
            if one["replica_id"] not in self.present:
                self._mark(one["replica_id"], ASKED, min(one["start_time_s"], now))
        names = {one["replica_id"] for one in replicas}
        self._note_ends(self.present - names, now)
        self.present = names
        moment = Moment(
            time=now,
            starting=sum(state in _STARTING for state in states),
            running=states.count("RUNNING"),
            stopping=sum(state in _STOPPING for state in states),
            target=deployment.get("target_num_replicas"),
        )
        append(self.folder / MOMENTS, moment.told())
        return moment

    def _note_ends(self, gone: set[str], now: float) -> None:
        """A replica that was killed had no time to note its end."""
        if gone:
            noted = read(self.folder).replicas()
            for name in sorted(gone):
                if ENDED not in noted.get(name, {}):
                    self._mark(name, ENDED, now)

    def _mark(self, replica: str, step: str, when: float) -> None:
        append(self.folder / MARKS, {"replica": replica, "step": step, "time": when})


def reason(message: str) -> str:
    """Why a replica did not start, from what Ray says about it: in a replica's own words if it had any."""
    said = _SAID.findall(message)
    if said:
        return str(said[-1])
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "Ray does not say why."


class Cluster:
    """Ray and the application.

    Attributes:
        folder: of the notes.
        temporary: only for this user, with this run's token and Ray's own folder, which Ray opens to everybody.
    """

    def __init__(self, folder: Path, output: int) -> None:
        """Nothing is started.

        Args:
            folder: with :data:`ASKED_FILE`.
            output: descriptor that the JSON lines go to.
        """
        self.folder, self._output = folder, output
        self.asked = json.loads((folder / ASKED_FILE).read_text())
        place = tempfile.gettempdir()
        self.temporary = Path(tempfile.mkdtemp(prefix="ray-", dir=place if len(place) < _ROOM_FOR_SOCKETS else "/tmp"))
        self._rays = self.temporary / "r"
        self._controller: Any = None
        self._client: Any = None

    def tell(self, **line: Any) -> None:
        """One JSON line to whoever started this."""
        os.write(self._output, json.dumps(line).encode() + b"\n")

    def start(self) -> None:
        """Start Ray, then the application."""
        token = self.temporary / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        leave_out(self.temporary)
        wanted = environment(self.temporary, os.environ)
        os.environ.clear()
        os.environ.update(wanted)
        (self.folder / LOGS).symlink_to(self._rays / "session_latest" / "logs")
        self.tell(step="starting Ray", began={"temporary": str(self.temporary), "pid": os.getpid()})
        self._start_ray()
        self.tell(step="starting Ray Serve")
        self._start_serve()
        self.tell(step="starting the application")
        self._start_application()

    def _start_ray(self) -> None:
        import ray

        for attempt in range(_ATTEMPTS):
            try:
                ray.init(
                    address="local",
                    num_cpus=self.asked["cpus"],
                    include_dashboard=False,
                    object_store_memory=_STORE,
                    log_to_driver=False,
                    configure_logging=False,
                    _node_ip_address=_LOCAL,
                    _temp_dir=str(self._rays),
                )
                return
            except Exception:
                ray.shutdown()
                processes.end_children()
                if attempt + 1 == _ATTEMPTS:
                    raise

    def _start_serve(self) -> None:
        from ray import serve
        from ray.serve.config import HTTPOptions

        options = HTTPOptions(host=_LOCAL, port=self.asked["port"], keep_alive_timeout_s=_KEEP_ALIVE)
        serve.start(proxy_location="HeadOnly", http_options=options)

    def _start_application(self) -> None:
        from ray.serve.context import _get_global_client

        self._deploy()
        self._client = _get_global_client()
        self._controller = self._client._controller

    def _deploy(self) -> None:
        """Deploy what is asked for, or change what is deployed to it."""
        from ray import serve

        from helpers.deploy.ray_app import build

        target = serve.RunTarget(build(self.asked["arguments"]), name=APP, route_prefix="/")
        serve.run_many([target], wait_for_applications_running=False)

    def _change(self) -> None:
        """Deploy something else where that is asked for; what runs stays as it is where it cannot be."""
        # It is replaced as a whole, so it is never read half-written; without a folder all ends anyway.
        try:
            asked = json.loads((self.folder / ASKED_FILE).read_text())
        except FileNotFoundError:
            return
        if asked["number"] == self.asked["number"]:
            return
        before, self.asked, deployed = self.asked, asked, False
        try:
            self._deploy()
            deployed = True
            self._wait_until_followed()
            self.tell(changed=asked["number"])
        except Exception as error:
            self.asked = {**before, "number": asked["number"]}
            if deployed:  # Ray might follow them later
                self._deploy()
            self.tell(refused=asked["number"], why=in_words(error))

    def _wait_until_followed(self) -> None:
        """Ray has taken the settings and follows them from its next look at the replicas on."""
        from helpers.deploy.ray_app import settings

        wanted, deadline = settings(self.asked["arguments"]), time.monotonic() + _FOLLOWS
        while time.monotonic() < deadline:
            config = (self.deployment() or {}).get("deployment_config", {})
            config = config | (config.get("autoscaling_config") or {})
            if all(config.get(name) == value for name, value in wanted.items()):
                return
            time.sleep(0.02)
        raise Failed(f"Ray does not follow them within {_FOLLOWS:g} s.")

    def deployment(self) -> dict[str, Any] | None:
        """What Ray says about the deployment; None before it knows it."""
        import ray

        from helpers.deploy.ray_app import NAME

        told = ray.get(self._controller.get_serve_instance_details.remote())
        found: dict[str, Any] | None = told["applications"].get(APP, {}).get("deployments", {}).get(NAME)
        return found

    def follow(self) -> None:
        """Note what the replicas do until a signal comes, or the folder is gone."""
        signals = keeper.wake_on(signal.SIGTERM, signal.SIGINT)  # Ray has put handlers of its own in place
        look, ready, wanted = Look(self.folder), False, int(self.asked["arguments"].get("min_replicas", 0))
        due = time.monotonic()
        while self.folder.is_dir():
            self._change()
            deployment = self.deployment()
            if deployment is not None:
                moment = look.take(deployment, time.time())
                self._tell_problem(look, deployment, moment, ready)
                if not ready and moment.running >= wanted:
                    ready = True
                    self.tell(ready=True)
            due = max(due + _EVERY, time.monotonic())
            if select.select([signals], [], [], max(0.0, due - time.monotonic()))[0]:
                return

    def _tell_problem(self, look: Look, deployment: Mapping[str, Any], moment: Moment, ready: bool) -> None:
        """Tell when replicas cannot start, and when one can again."""
        status, message = str(getattr(deployment["status"], "value", deployment["status"])), deployment["message"]
        ill = status == "DEPLOY_FAILED" or "Traceback" in message or _SAID.search(message) is not None
        problem = reason(message) if ill and not moment.running else ""
        if problem != look.problem:
            look.problem = problem
            if problem and not ready:
                raise Failed(problem)
            self.tell(**({"problem": problem} if problem else {"well": True}))

    def end(self) -> None:
        """End all of Ray at once, keep its logs, and leave nothing else behind."""
        # First what is secret: whoever started this may have died, and then there is one second for all of it.
        (self.temporary / "token").unlink(missing_ok=True)
        processes.end_children(1.5)
        logs = (self._rays / "session_latest").resolve() / "logs"
        link = self.folder / LOGS
        if link.is_symlink():
            link.unlink()
            if logs.is_dir():
                with contextlib.suppress(OSError):  # the disk may be full; the rest has to go all the same
                    shutil.copytree(logs, link, dirs_exist_ok=True, ignore_dangling_symlinks=True)
                    link.chmod(0o700)  # Ray lets everybody write into its folders
        shutil.rmtree(self.temporary, ignore_errors=True)


class Failed(Exception):
    """The application cannot start, or not follow what is asked for; the words say why."""


def in_words(error: Exception) -> str:
    """Why something failed."""
    return str(error) if isinstance(error, Failed) else reason(f"{type(error).__name__}: {error}")


def main() -> int:
    """Entry point: the folder is the one argument."""
    processes.adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    output = os.dup(1)
    os.dup2(2, 1)  # Ray prints; the lines have a descriptor that nothing else knows
    cluster = Cluster(Path(sys.argv[1]), output)
    try:
        cluster.start()
        cluster.follow()
        return 0
    except SystemExit:  # a signal before everything ran
        return 1
    except Exception as error:
        import traceback

        traceback.print_exc()
        cluster.tell(error=in_words(error))
        return 1
    finally:
        cluster.end()
        sys.stderr.flush()


if __name__ == "__main__":
    os._exit(main())  # Ray's own clean-up waits for processes that have ended
