"""The Ray Serve application: replicas of an engine that follow the load (notebook 09).

``serve run helpers.deploy.ray_app:build recipe=bundled-cpu`` starts it from the repository's folder; a Serve config
file names the same function as its ``import_path`` and gives the same arguments under ``args``. Nothing in it asks
whether Ray runs on a laptop or over many machines.
"""

import contextlib
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.deploy.scaling import Scaling
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from ray.serve import Application

    from helpers.toolchains.base import Engine
    from helpers.toolchains.serving import ServeOptions

NAME = "Engine"
"""Of the one deployment in the application."""
DRAIN = 600.0
"""Seconds that a replica which is to end may take for the streams it has: none is cut before."""

_SCALING = {one.name for one in fields(Scaling)}
_WHOLE = {"min_replicas", "max_replicas", "max_ongoing"}
_OTHERS = {"recipe", "engine", "notes", "cpus", "gpus", "drain", "blob", "options"}
_NOTHING = {"", "none", "null"}
_HEALTH = 1.0  # seconds between two questions to a replica; a dead one is replaced after about as long


def build(arguments: Mapping[str, Any]) -> "Application":
    """The application.

    Args:
        arguments: text or values. ``recipe``, a file or a name, or ``engine``, a folder; the fields of
            :class:`helpers.deploy.scaling.Scaling`; ``cpus`` and ``gpus`` that Ray reserves for a replica (1 CPU, and
            as many GPUs as the engine is split over); ``drain``, seconds that a replica may take to end;
            ``notes``, a folder for what happens; ``blob``, false to compile at each start; ``options``, what the server
            is told, as JSON.

    Raises:
        WorkshopError: an argument that there is not, or that makes no sense; no such engine.
    """
    asked = parsed(arguments)
    scaling = Scaling(**{name: value for name, value in asked.items() if name in _SCALING})
    told, ranks = described(asked)
    return application(told, scaling, reserved(asked, ranks), float(asked.get("drain", DRAIN)))


def application(
    told: Mapping[str, Any], scaling: Scaling, reserve: Mapping[str, float], drain: float = DRAIN
) -> "Application":
    """The application of an engine that is described; see :func:`build`.

    Args:
        told: for :class:`helpers.deploy.replica.Replica`.
        scaling: how many replicas there shall be.
        reserve: what Ray reserves for each: ``num_cpus`` and ``num_gpus``.
        drain: seconds that a replica may take to end.
    """
    from ray import serve

    batch = int(told["options"]["sizes"]["max_batch_size"])
    served: Any = serve.deployment(
        replica_class(),
        name=NAME,
        ray_actor_options=dict(reserve),
        max_ongoing_requests=scaling.max_ongoing or batch,
        autoscaling_config=autoscaling(scaling, batch),
        graceful_shutdown_timeout_s=drain,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=_HEALTH,
        logging_config={"enable_access_log": False},
    )
    # Ray takes every deployment for a new one and replaces its replicas, unless their version says that they are the
    # same; an option for it is only among Ray's internal ones.
    bound: Application = served.options(version=version(told), _internal=True).bind(dict(told))
    return bound


def version(told: Mapping[str, Any]) -> str:
    """What replicas are told, as a short name: those of one version need no restart when the scaling changes. Pure."""
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:12]


def replica_class() -> Any:
    """:class:`helpers.deploy.replica.Replica` as Ray Serve wants it: an ASGI application that it can ask for health."""
    from ray import serve

    from helpers.deploy.replica import Replica

    class Served:
        """A replica."""

        async def __init__(self, told: dict[str, Any]) -> None:  # type: ignore[misc]  # Ray awaits it
            self.replica = Replica(told, serve.get_replica_context().replica_id.unique_id)
            await self.replica.start()

        def __serve_build_asgi_app__(self) -> Any:
            return self.replica.app

        async def check_health(self) -> None:
            self.replica.require_healthy()

        async def __del__(self) -> None:
            replica = getattr(self, "replica", None)  # it may not have got that far
            if replica is not None:
                await replica.close()

    return serve.ingress()(Served)


def autoscaling(scaling: Scaling, batch: int) -> dict[str, Any]:
    """How many replicas there shall be, in the words of Ray's ``AutoscalingConfig``. Pure.

    Args:
        scaling: the same in ours.
        batch: requests that the engine runs at once.

    Raises:
        WorkshopError: a replica would never take as many requests as the autoscaler aims at.
    """
    most = scaling.max_ongoing or batch
    if scaling.target_ongoing > most:
        why = "max_ongoing" if scaling.max_ongoing else "the engine's batch limit"
        raise WorkshopError(
            f"target_ongoing is {scaling.target_ongoing:g}, and a replica takes {most} requests at once ({why}). Aim "
            "at no more than it takes."
        )
    return {
        "min_replicas": scaling.min_replicas,
        "max_replicas": scaling.max_replicas,
        "target_ongoing_requests": scaling.target_ongoing,
        "upscale_delay_s": scaling.upscale_delay,
        "downscale_delay_s": scaling.downscale_delay,
        "downscale_to_zero_delay_s": scaling.to_zero_delay,
        "look_back_period_s": scaling.look_back,
        "metrics_interval_s": scaling.interval,
    }


def settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What Ray tells of a deployment that follows the arguments: its autoscaling, and ``max_ongoing_requests``.

    Raises:
        WorkshopError: as :func:`build`.
    """
    asked = parsed(arguments)
    scaling = Scaling(**{name: value for name, value in asked.items() if name in _SCALING})
    told, _ = described(asked)
    batch = int(told["options"]["sizes"]["max_batch_size"])
    return autoscaling(scaling, batch) | {"max_ongoing_requests": scaling.max_ongoing or batch}


def parsed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as values: on a command line all of them are text.

    Raises:
        WorkshopError: one that there is not or that makes no sense, or neither ``recipe`` nor ``engine``.
    """
    if unknown := sorted(set(arguments) - _SCALING - _OTHERS):
        raise WorkshopError(f"There is no argument {unknown[0]!r}. There are {', '.join(sorted(_SCALING | _OTHERS))}.")
    asked = {name: value for name, value in arguments.items() if str(value).strip().lower() not in _NOTHING}
    for name in asked.keys() & (_SCALING | {"cpus", "gpus", "drain"}):
        asked[name] = _number(name, asked[name], int if name in _WHOLE else float)
    if "blob" in asked:
        asked["blob"] = _truth("blob", asked["blob"])
    if "options" in asked:
        asked["options"] = _options(asked["options"])
    if not asked.keys() & {"recipe", "engine"}:
        raise WorkshopError("Say what to serve: recipe=NAME (or a file), or engine=FOLDER.")
    return asked


def _number(name: str, value: Any, kind: type[int] | type[float]) -> Any:
    """A number from a command line or a config file."""
    if not isinstance(value, str):
        return value
    try:
        return kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise WorkshopError(f"{name} is {value!r}. Give {wanted}.") from None


def _truth(name: str, value: Any) -> bool:
    """Yes or no, in the words of a command line."""
    for found, words in ((True, ("true", "yes", "1")), (False, ("false", "no", "0"))):
        if str(value).strip().lower() in words:
            return found
    raise WorkshopError(f"{name} is {value!r}. Give true or false.")


def _options(value: Any) -> dict[str, Any]:
    """What the server is told, as :func:`helpers.deploy.replica.as_told` writes it; text is JSON."""
    from helpers.deploy.replica import options_of

    try:
        found: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
        options_of(found)
    except (ValueError, TypeError, KeyError) as error:
        raise WorkshopError(
            f"options are not what a server can be told ({type(error).__name__}: {error}). Give all of its options "
            "with their sizes, as JSON, or leave them out."
        ) from None
    return found


def described(asked: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """What a replica is told, and over how many GPUs its engine is split (0 on a CPU). Nothing is built here.

    Raises:
        WorkshopError: there is no such recipe or engine.
    """
    from helpers import recipe, toolchains, workspace
    from helpers.deploy.replica import as_told, options_of, words_of
    from helpers.toolchains.base import Engine

    told: dict[str, Any] = {name: asked[name] for name in ("notes", "blob") if name in asked}
    if "recipe" in asked:
        chosen = recipe.load(asked["recipe"])
        named = str(asked["recipe"])
        told["recipe"] = str(Path(named).resolve()) if Path(named).is_file() else named
        options, ranks = chosen.serve_options(), 0 if chosen.on_cpu else chosen.tensor_parallel_size
    if "engine" in asked:
        folder = Path(asked["engine"]).expanduser().resolve()
        manifest = workspace.read_manifest(folder)
        if manifest is None or "toolchain" not in manifest.options:
            raise WorkshopError(f"There is no engine in {folder}. Give the folder that a build made.")
        engine = Engine(folder, manifest)
        told["engine"] = str(folder)
        options, ranks = toolchains.of(engine).serve_options(engine), _ranks(engine)
    told["options"] = asked.get("options") or as_told(options)
    if "engine" in asked and ranks == 0:
        # A replica that finds it out for itself imports for longer than its engine loads. On another machine it does.
        with contextlib.suppress(WorkshopError):
            words = words_of(engine, options_of(told["options"]), toolchains.of(engine))
            told |= {"words": words, "node": platform.node()}
    return told, ranks


def _ranks(engine: "Engine") -> int:
    """The number of GPUs that a replica of an engine needs."""
    return 0 if engine.toolchain == "openvino" else engine.tp_size


def reserved(asked: Mapping[str, Any], ranks: int) -> dict[str, float]:
    """What Ray reserves for a replica: it is started only where so much is free.

    Args:
        asked: the arguments.
        ranks: GPUs that the engine is split over; 0 on a CPU.
    """
    return {"num_cpus": float(asked.get("cpus", 1)), "num_gpus": float(asked.get("gpus", ranks))}


def arguments_of(engine: "Engine", options: "ServeOptions", scaling: Scaling, **more: Any) -> dict[str, Any]:
    """The arguments that make :func:`build` serve an engine, as JSON keeps them; nothing is None."""
    from helpers.deploy.replica import as_told

    found = {"engine": str(engine.path), "options": as_told(options), **vars(scaling), **more}
    return {name: value for name, value in found.items() if value is not None}
