"""``python -m helpers …``: from a terminal, what the notebooks do."""

import argparse
import sys
from collections.abc import Sequence

from helpers.errors import WorkshopError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m helpers", description="The workshop's stages, from a terminal.")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="what this machine is, and whether its toolchain is in place")
    build = commands.add_parser("build", help="build an engine (and what it needs)")
    generate = commands.add_parser("generate", help="build an engine if need be, and continue a prompt")
    for command in (build, generate):
        command.add_argument("model", nargs="?", default="bundled", help="'bundled', a folder, or a hub id")
        command.add_argument("--precision", default="fp16", help="fp16, fp8 or int8 (default: fp16)")
    build.add_argument("--checkpoint", action="store_true", help="also make the TensorRT-LLM checkpoint")
    generate.add_argument("--prompt", help="default: the workshop's own")
    generate.add_argument("--max-tokens", type=int, default=96)
    commands.add_parser("watch", help="follow the stages that are under way")
    return top


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; 0 if all is well."""
    from helpers import checkpoint, hardware, models, stage, toolchains

    toolchain = toolchains.best()
    if arguments.command == "watch":
        stage.watch()
    elif arguments.command == "check":
        machine, installed = hardware.look(), toolchain.verify()
        print(machine, hardware.checks(machine), installed, sep="\n\n")
        return 0 if all(row[-1] == "ok" for row in installed.rows) else 1
    else:
        model = models.find(arguments.model)
        engine = toolchain.build(model, arguments.precision)
        if arguments.command == "generate":
            toolchain.generate(engine, arguments.prompt or checkpoint.PROMPT, arguments.max_tokens)
        elif arguments.checkpoint:
            names = {"fp16": "fp16", "fp8": "fp8", "int8": "int8_sq"}
            checkpoint.make(model, names[arguments.precision], kv="fp8" if arguments.precision == "fp8" else None)
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    try:
        return run(parser().parse_args(words))
    except WorkshopError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Nothing half-made is left; the same command starts again.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
