"""``python -m helpers …``: from a terminal, what the notebooks do."""

import argparse
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from helpers.bench import command as bench
from helpers.deploy import options as scaling
from helpers.deploy.export import command as export
from helpers.deploy.scaling import Scaling
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.deploy import Deployment
    from helpers.serving import Endpoint

_BESIDE = ("precision", "kv", "tp_size", "checkpoint", "from_checkpoint")
_BESIDE_A_PLAN = ("gpu", "precision", "model", "release", "tp_size")
"""Options of ``build`` and of ``plan`` that a recipe leaves no room for."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m helpers", description="The workshop's stages, from a terminal.")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="what this machine is, and whether its toolchain is in place")
    commands.add_parser("install", help="adopt or install what this machine's toolchain needs (notebook 02)")
    build = commands.add_parser("build", help="build an engine (and what it needs), of a model or from a recipe")
    generate = commands.add_parser("generate", help="build an engine if need be, and continue a prompt")
    for command in (build, generate):
        recipe = "; or a recipe's file or name" if command is build else ""
        command.add_argument("model", nargs="?", help=f"'bundled', 'TinyLlama', a folder or a hub id{recipe}")
        command.add_argument("--precision", help="fp16 (default), fp8 or int8; on a GPU also int8_wo, int4_awq")
        command.add_argument(
            "--kv", help="of the KV cache: fp16, fp8 or int8 (default: what goes best with the weights)"
        )
        command.add_argument("--tp-size", type=int, help="number of GPUs to split it over (default: 1)")
    build.add_argument("--checkpoint", action="store_true", help="also make the TensorRT-LLM checkpoint")
    build.add_argument(
        "--from-checkpoint", metavar="FOLDER", help="build from a checkpoint copied from elsewhere (GPU)"
    )
    generate.add_argument("--prompt", help="default: the workshop's own")
    generate.add_argument("--max-tokens", type=int, default=96)
    plan = commands.add_parser("plan", help="print what a pod would run, command by command; runs nothing")
    plan.add_argument("recipe", nargs="?", help="a recipe's file or name, in place of the options")
    plan.add_argument("--gpu", help="a GPU of data/gpus.toml, such as a10g (default: rtx-4090)")
    plan.add_argument("--precision", help="default: the best 8 bits that the GPU has")
    plan.add_argument("--model", help="a name in data/models.toml, 'bundled' or a folder (default: TinyLlama)")
    plan.add_argument("--release", help="of TensorRT-LLM (default: the newest offered for the GPU)")
    plan.add_argument("--tp-size", type=int, help="number of GPUs (default: 1)")
    _add_memory(commands.add_parser("memory", help="how much of a GPU a model takes, and how many requests fit"))
    _add_recipes(commands)
    export.add_to(commands)
    bench.add_to(commands)
    _add_teaching(commands)
    commands.add_parser("watch", help="follow the stages that are under way")
    return top


def _add_recipes(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands that take a recipe, or the address of what serves one (notebook 07)."""
    serve = commands.add_parser("serve", help="build what a recipe needs, and serve it until Ctrl-C")
    serve.add_argument("recipe", help="a file, or a name in data/recipes, such as bundled-cpu")
    serve.add_argument("--port", type=int, help="default: the recipe's, else a free one")
    deploy = commands.add_parser("deploy", help="serve a recipe by replicas that follow the load, until Ctrl-C")
    deploy.add_argument("recipe", help="a file, or a name in data/recipes, such as bundled-cpu")
    deploy.add_argument("--port", type=int, help="default: a free one")
    scaling.add_to(deploy, Scaling())
    diff = commands.add_parser("diff", help="which stages it takes to go from one recipe to another; runs nothing")
    diff.add_argument("old", help="a recipe's file or name")
    diff.add_argument("new", help="a recipe's file or name")
    truss = commands.add_parser("truss", help="export a recipe to a config.yaml for Truss, and say what it refuses")
    truss.add_argument("recipe", help="a file or a name")
    truss.add_argument("--output", metavar="FOLDER", help="write config.yaml there (default: only show it)")
    conformance = commands.add_parser("conformance", help="check that a server speaks the API as trtllm-serve does")
    conformance.add_argument("url", help="such as http://127.0.0.1:8000")


def _add_teaching(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands for a room of learners, and for one who has fallen behind."""
    catching = commands.add_parser("catch-up", help="make, restore or download what a notebook needs of earlier ones")
    catching.add_argument("notebook", help="the one to go on with, such as 05")
    catching.add_argument("--bundle", metavar="FOLDER", help="restore from there (default: $WORKSHOP_BUNDLE)")
    pack = commands.add_parser("bundle", help="pack models, wheels and results into a folder for a whole room")
    pack.add_argument("folder", metavar="FOLDER")
    pack.add_argument("--wheels", action=argparse.BooleanOptionalAction, default=True, help="default: with them")
    pack.add_argument("--model", action="append", default=[], help="also this one, downloaded if need be")
    pack.add_argument("--gpu", help="a GPU of data/gpus.toml: also the model that a lesson on it uses")
    pack.add_argument("--check", action="store_true", help="compare every file with the list, pack nothing")
    told = "for an instructor the evening before: downloads, times, what fails"
    rehearse = commands.add_parser("rehearse", help=told)
    rehearse.add_argument("--gpu", help="a GPU of data/gpus.toml, such as rtx-4090 (default: this machine)")
    rehearse.add_argument("--notebooks", nargs="+", metavar="NN", help="only these (default: all)")
    rehearse.add_argument("--price", type=float, help="of a pod, an hour")
    rehearse.add_argument("--page", metavar="FILE.html", help="write the playbook as one page for paper")
    rehearse.add_argument("--record", metavar="FILE.json", help="write this workspace's times for machines without any")
    rehearse.add_argument("--about", default="", help="with --record: what else to know of this machine")


def _add_memory(memory: argparse.ArgumentParser) -> None:
    """What the memory planner is told."""
    memory.add_argument("--gpu", default="rtx-4090", help="a GPU of data/gpus.toml, such as a10g (default: rtx-4090)")
    memory.add_argument("--model", default="TinyLlama", help="a name in data/models.toml, 'bundled' or a folder")
    memory.add_argument("--precision", default="fp16", help="of the weights: fp16, fp8, int8, int8_wo or int4_awq")
    memory.add_argument("--kv", help="of the KV cache: fp8 or int8; on a CPU u8 or f32 (default: 16 bits)")
    memory.add_argument("--batch", type=int, default=64, help="requests that the engine is built for (default: 64)")
    memory.add_argument("--sequence", type=int, help="tokens of a request, prompt and answer (default: 2048)")
    memory.add_argument("--tp-size", type=int, default=1, help="number of GPUs (default: 1)")


def check() -> int:
    """Show the machine, its checks and its toolchain; 0 if the toolchain is in place."""
    from helpers import hardware, toolchains

    machine = hardware.look()
    print(machine, hardware.checks(machine), sep="\n\n", end="\n\n")
    installed = toolchains.best(machine).verify()
    print(installed)
    return 0 if all(row[-1] == "ok" for row in installed.rows) else 1


def build(arguments: argparse.Namespace) -> None:
    """Build an engine; generate with it, or make its checkpoint too, where that was asked for."""
    from helpers import checkpoint, models, toolchains
    from helpers.toolchains import base, openvino
    from helpers.toolchains.choices import AUTO

    toolchain = toolchains.best()
    if toolchain.name == openvino.name:
        openvino.require_whole(arguments.tp_size or 1)  # before anything is downloaded
    model = models.find(arguments.model or toolchains.default_model())
    copied = getattr(arguments, "from_checkpoint", None)
    if copied and toolchain.name != "tensorrt_llm":
        raise WorkshopError(
            "An engine is built from a TensorRT-LLM checkpoint on a GPU only. Copy the folder to a pod, or leave "
            f"--from-checkpoint out: {toolchain.title} takes the model's own weights."
        )
    kv = AUTO if arguments.kv is None else None if arguments.kv == "fp16" else arguments.kv
    engine = (
        toolchain.build(model, made=checkpoint.load(copied))
        if copied
        else toolchain.build(model, arguments.precision or "fp16", kv, tp_size=arguments.tp_size or 1)
    )
    if arguments.command == "generate":
        toolchain.generate(engine, arguments.prompt or checkpoint.PROMPT, arguments.max_tokens)
    elif arguments.checkpoint:
        # An engine of the CPU may have a KV cache that no checkpoint has: AUTO is what a GPU would build.
        base.quantized(model, engine.precision, kv, tp_size=engine.tp_size)


def serve(name: str, port: int | None) -> int:
    """Serve a recipe until Ctrl-C, or until the server ends by itself; 0 where it was asked to end.

    Raises:
        WorkshopError: the recipe cannot be served here, or there is no such port.
        KeyboardInterrupt: it was asked to end before the server answered: something was still being built or started.
    """
    from helpers import checkpoint, recipe, serving

    def start() -> "Endpoint":
        endpoint = serving.start(recipe.load(name), port=port)
        print(f"\n{endpoint.curl(checkpoint.PROMPT, max_tokens=32)}")
        return endpoint

    return _until_told(start, "server", port)


def deploy(arguments: argparse.Namespace) -> int:
    """Serve a recipe by replicas that follow the load, until Ctrl-C or until Ray ends; 0 where it was asked to end.

    Raises:
        WorkshopError, KeyboardInterrupt: as :func:`serve`.
    """
    from helpers import deploy, recipe

    wanted = scaling.scaling_of(arguments, Scaling())
    return _until_told(
        lambda: deploy.start(recipe.load(arguments.recipe), wanted, port=arguments.port), "deployment", arguments.port
    )


def _until_told(start: "Callable[[], Endpoint | Deployment]", what: str, port: int | None) -> int:
    """Start something and keep it until Ctrl-C or SIGTERM, or until it ends by itself; 0 where it was asked to end.

    Raises:
        WorkshopError: it cannot be started, or there is no such port.
        KeyboardInterrupt: it was asked to end before it had started.
    """
    import signal
    import time

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    if port is not None and not 0 <= port <= 65535:
        raise WorkshopError(f"There is no port {port}. Choose one from 1 to 65535, or 0 for a free one.")
    signal.signal(signal.SIGTERM, stop)  # so that it ends in order, its processes before it
    with start() as started:
        try:
            print(f"\nCtrl-C ends the {what}.", flush=True)
            while started.running:
                time.sleep(0.5)
            print(started.status(), file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            pass  # asked to end: it is stopped below
    print(f"\nThe {what} has ended.")
    return 0


def _require_alone(recipe: str, arguments: argparse.Namespace, options: Sequence[str]) -> None:
    """Refuse options beside a recipe.

    Raises:
        WorkshopError: names those that were given.
    """
    beside = [f"--{name.replace('_', '-')}" for name in options if getattr(arguments, name) not in (None, False)]
    if beside:
        raise WorkshopError(
            f"{recipe} is a recipe and says everything itself: leave {', '.join(beside)} out, or change a copy of the "
            "file."
        )


def of_recipe(arguments: argparse.Namespace) -> int:
    """Do what was asked with a recipe; 0 if all is well."""
    from helpers import recipe

    if arguments.command == "serve":
        return serve(arguments.recipe, arguments.port)
    if arguments.command == "build":
        _require_alone(arguments.model, arguments, _BESIDE)
        recipe.run(recipe.load(arguments.model))
    elif arguments.command == "plan":
        _require_alone(arguments.recipe, arguments, _BESIDE_A_PLAN)
        planned = recipe.plan(arguments.recipe)
        print(planned)
        return 1 if planned.problems else 0
    elif arguments.command == "diff":
        print(recipe.diff(arguments.old, arguments.new))
    else:
        from helpers.recipe import truss

        made = truss.export(arguments.recipe)
        print(made)
        if arguments.output and not made.refusals:
            print(f"Written: {made.write(arguments.output)}")
        elif arguments.output:
            print("Nothing was written.", file=sys.stderr)
        return 1 if made.refusals else 0
    return 0


def for_the_room(arguments: argparse.Namespace) -> int:
    """Catch up, pack a bundle or rehearse; 0 if all is well."""
    from helpers import teaching
    from helpers.teaching import bundle, rehearsal

    if arguments.command == "bundle":
        return bundle.main(arguments)
    if arguments.command == "rehearse":
        return rehearsal.main(arguments)
    print(teaching.catch_up(arguments.notebook, arguments.bundle))
    return 0


def is_recipe(word: str | None) -> bool:
    """True if a word names a recipe: its file, or one of ``data/recipes``."""
    from helpers import recipe

    return bool(word) and (str(word).endswith((".yaml", ".yml")) or word in recipe.names())


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; 0 if all is well."""
    planned = arguments.command == "plan" and arguments.recipe
    built = arguments.command == "build" and is_recipe(arguments.model)
    if arguments.command in ("serve", "diff", "truss") or planned or built:
        return of_recipe(arguments)
    if arguments.command == "conformance":
        from helpers.serving import conformance

        return conformance.main(arguments.url)
    if arguments.command == "bench":
        return bench.main(arguments)
    if arguments.command in ("catch-up", "bundle", "rehearse"):
        return for_the_room(arguments)
    if arguments.command == "deploy":
        return deploy(arguments)
    if arguments.command == "export":
        return export.run(arguments)
    if arguments.command == "watch":
        from helpers import stage

        stage.watch()
    elif arguments.command == "check":
        return check()
    elif arguments.command == "install":
        from helpers import toolchains

        print(toolchains.best().install())
    elif arguments.command == "plan":
        from helpers import plan

        a = arguments
        print(
            plan.make(a.gpu or plan.DEFAULT_GPU, a.precision, a.model, a.release, 1 if a.tp_size is None else a.tp_size)
        )
    elif arguments.command == "memory":
        from helpers import memory

        a = arguments
        print(memory.fit(a.model, a.gpu, a.precision, a.kv, a.batch, sequence=a.sequence, tp_size=a.tp_size))
    else:
        build(arguments)
    return 0


def _reader_gone() -> int:
    """End quietly where the reader of the output has gone, as ``head`` does; returns what a shell counts it as."""
    # What is left goes nowhere, so that Python finds nothing to write as it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141  # 128 + SIGPIPE


def _reader_is_gone() -> bool:
    """Whether it is the output that nobody reads any more, and not another pipe that broke."""
    looked = select.poll()
    looked.register(sys.stdout.fileno(), select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in looked.poll(0))


def main(words: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    try:
        status = run(parser().parse_args(words))
        sys.stdout.flush()  # here, where a reader that has gone is told apart
        return status
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return _reader_gone()
    except WorkshopError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Nothing half-made is left; the same command starts again.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
