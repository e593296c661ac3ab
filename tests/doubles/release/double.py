"""What the double's programs and classes share: the contract that they parse by, and the failures at start."""

import functools
import importlib
import inspect
import os
import sys
import time
import types
from importlib import metadata
from pathlib import Path

import double_machine

VERSION = metadata.version("tensorrt_llm")
ROOT = Path(__file__).resolve().parents[3]


@functools.cache
def table(module):
    """A module of ``helpers.releases``, found for this import only: a worker that imports the helpers must fail."""
    package = types.ModuleType("helpers.releases")
    package.__path__ = [str(ROOT / "helpers" / "releases")]  # without the package's own imports, which take longer
    before = set(sys.modules)
    sys.path.insert(0, str(ROOT))
    try:
        sys.modules["helpers.releases"] = package
        return importlib.import_module(f"helpers.releases.{module}")
    finally:
        sys.path.remove(str(ROOT))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "helpers":
                del sys.modules[name]


def contract():
    """What this release's programs and classes take."""
    return table("contract").contract(VERSION)


def arguments(name):
    """The options of this process by the contract's table; like the real parsers it ends with 2 if they are wrong."""
    program = contract().programs[name]
    start = ["python", "-m", program.module] if program.module else [name]
    if "--help" in sys.argv[1:]:
        chosen = next((program.commands[word] for word in sys.argv[1:] if word in program.commands), program)
        print(help_text(chosen))
        raise SystemExit(0)
    try:
        return program.parse([*start, *sys.argv[1:]])
    except ValueError as problem:
        print(problem, file=sys.stderr)
        raise SystemExit(2) from None


def help_text(program):
    """What ``--help`` prints: argparse names the value in capitals, click says its type."""
    lines = [f"usage: {program.name} [options] {' '.join(program.positional)}", "", "options:", "  -h, --help"]
    for option in program.options:
        if option.status == "removed":
            continue
        value = "" if option.kind == "flag" else f" {option.key.upper()}"
        if program.style == "click" and option.kind != "flag":
            value = f" [{'|'.join(option.choices)}]" if option.choices else f" {option.kind.upper()}"
        elif option.choices:
            value = f" {{{','.join(option.choices)}}}"
        lines.append(f"  {', '.join(option.spellings)}{value}")
    commands = [*program.commands, *program.other_commands]
    return "\n".join([*lines, *(["", "Commands:"] if commands else []), *(f"  {name}" for name in commands)])


def entry(name, error=TypeError, named=None):
    """For a class or function of the package: its signature, and what it refuses, are the contract's.

    Args:
        name: the contract's entry.
        error: what the real one raises for a parameter that it does not know.
        named: how many parameters the real signature names; the rest are ``**kwargs`` there. None: all.
    """
    described = contract().entries[name]
    known = [parameter for parameter in described.parameters if parameter.status != "removed"]

    def check(positional, keywords):
        names = [parameter.name for parameter in known]
        problems = described.problems({**dict(zip(names, positional, strict=False)), **keywords})
        if problems:
            raise error(problems[0])

    def decorate(thing):
        either, rest = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.VAR_KEYWORD
        shown = [inspect.Parameter(parameter.name, either, default=default(parameter)) for parameter in known[:named]]
        shown += [inspect.Parameter("kwargs", rest)] if named else []
        function = thing.__init__ if inspect.isclass(thing) else thing

        @functools.wraps(function)
        def checked(self, *positional, **keywords):
            check(positional, keywords)
            return function(self, *positional, **keywords)

        if inspect.isclass(thing):
            thing.__init__ = checked
            thing.__signature__ = inspect.Signature(shown)
            return thing
        checked.__signature__ = inspect.Signature([inspect.Parameter("self", either), *shown])
        return checked

    return decorate


def default(parameter):
    """A parameter's default, for a signature."""
    return inspect.Parameter.empty if parameter.required else parameter.default


def start():
    """What can go wrong when ``tensorrt_llm`` is imported (NVIDIA/TensorRT-LLM #2172, #2286, #9318)."""
    if double_machine.fault("import", "no-libmpi"):
        raise RuntimeError(
            "cannot load MPI library\nlibmpi.so: cannot open shared object file: No such file or directory"
        )
    if double_machine.fault("import", "mpi-hang"):
        print("[TensorRT-LLM][INFO] Initializing MPI with thread mode 3", flush=True)
        time.sleep(3600)
    if double_machine.fault("import", "wrong-torch"):
        raise ImportError("libcublasLt.so.13: cannot open shared object file: No such file or directory")
    if any(name.startswith("SLURM_") for name in os.environ):
        # What Open MPI says when it finds a batch system's variables in a process that the batch system did not start.
        print(
            'The application appears to have been direct launched using "srun", but OMPI was not built with SLURM\'s '
            "PMI support and therefore cannot execute.",
            file=sys.stderr,
        )
        os._exit(1)
    print(f"[TensorRT-LLM] TensorRT LLM version: {VERSION}", flush=True)


def log(text, level="I", source="TRT-LLM"):
    """A line of the log, as the real programs write it."""
    print(f"[{time.strftime('%m/%d/%Y-%H:%M:%S')}] [{source}] [{level}] {text}", flush=True)


def require_gpus(count):
    """The devices; what CUDA says if there are fewer than ``count``, or what has no kernels."""
    gpus = double_machine.gpus()
    if not gpus:
        raise RuntimeError("CUDA driver version is insufficient for CUDA runtime version")
    if len(gpus) < count:
        raise RuntimeError(f"CUDA error: invalid device ordinal (rank {len(gpus)} of {count}, {len(gpus)} devices)")
    if gpus[0]["capability"] < [8, 0]:  # NVIDIA/TensorRT-LLM #320
        raise RuntimeError("[TensorRT-LLM][ERROR] Assertion failed: Unsupported architecture (fmhaRunner.cpp)")
    return gpus
