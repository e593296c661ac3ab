"""Worker: what does the TensorRT-LLM of this Python offer? Versions, help texts of its programs, signatures.

Runs on the release's own Python and imports nothing of ``helpers``. Each question has its own answer or its own error,
so that one thing that does not import hides nothing else. Writes ``probe.json``; ends with status 1 where TensorRT-LLM
itself cannot be imported, after printing why.
"""

import argparse
import faulthandler
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("tensorrt_llm", "tensorrt", "torch", "transformers", "nvidia-modelopt")
IMPORT_SECONDS = 300  # the first import reads gigabytes; where MPI does not start it never ends
HELP_SECONDS = 180  # each program imports all of TensorRT-LLM before it prints a word


def progress(done: int, total: int, text: str) -> None:
    """Tell the supervisor how far this is."""
    print(f"@progress {done}/{total} {text}", flush=True)


def versions() -> dict[str, str | None]:
    """Package to installed version; None for one that is not there."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def place(program: str) -> str:
    """The path of a program: where this Python puts scripts (not always beside it), else wherever PATH has it."""
    folders = (sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    return next((found for folder in folders if (found := shutil.which(program, path=folder))), "")


def help_text(command: list[str]) -> dict[str, str]:
    """What a program prints when it is asked for help."""
    program = sys.executable if command[0] == "python" else place(command[0])
    if not program:
        return {"error": "is not installed"}
    start = [program, *command[1:]]
    # A wide terminal, or click and argparse would break option names over lines.
    wide = {**os.environ, "COLUMNS": "300", "TERMINAL_WIDTH": "300"}
    try:
        done = subprocess.run(start, capture_output=True, text=True, timeout=HELP_SECONDS, env=wide)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {HELP_SECONDS} s"}
    except OSError as problem:
        return {"error": f"{command[0]} does not start: {problem.strerror}"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["it ended without a message"])[-1]}
    return {"help": done.stdout}


def parameters(name: str) -> dict[str, Any]:
    """The parameters of a class, a function or an enumeration's members, or why it cannot be had."""
    try:
        found = imported(name)
    except Exception as problem:
        return {"error": f"{type(problem).__name__}: {problem}"}
    try:
        members = getattr(found, "__members__", None)
        if members is not None:
            return {"parameters": sorted(members)}
        fields = getattr(found, "model_fields", None) or getattr(found, "__dataclass_fields__", None)
        if fields:
            return {"parameters": sorted(fields)}
        signature = inspect.signature(found)
    except (ValueError, TypeError):  # compiled code tells no signature: that it is there must do
        return {"parameters": [], "takes_any": True}
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    names = [name for name in signature.parameters if name != "self"]
    return {"parameters": names, "takes_any": inspect.Parameter.VAR_KEYWORD in kinds}


def imported(name: str) -> Any:
    """The object of a dotted name: the longest prefix that is a module, then its attributes."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(f"no module named {parts[0]}")


def main() -> None:
    """Ask everything, write the answers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", action="append", default=[], help='JSON: [name, [command, …, "--help"], …]')
    parser.add_argument("--entry", action="append", default=[], help="dotted name of a class or function")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--import-seconds", type=float, default=IMPORT_SECONDS, help="ended if it takes longer")
    arguments = parser.parse_args()
    steps = 2 + len(arguments.program)
    limit = arguments.import_seconds
    progress(0, steps, f"importing TensorRT-LLM: seconds to minutes, at most {limit:.0f} s")
    # Not a timer of this Python: compiled code that waits for MPI does not let another thread of it run.
    faulthandler.dump_traceback_later(limit, exit=True)
    found: dict[str, Any] = {"python": sys.version.split()[0], "versions": versions()}
    import tensorrt_llm  # the first import that can fail for the system's reasons: its text is in the log
    import torch

    faulthandler.cancel_dump_traceback_later()
    print(f"TensorRT-LLM {tensorrt_llm.__version__} imports.", flush=True)
    found |= {"torch_cuda": torch.version.cuda, "cuda_available": torch.cuda.is_available()}
    progress(1, steps, "signatures")
    found["entries"] = {name: parameters(name) for name in arguments.entry}
    found["programs"] = {}
    for number, text in enumerate(arguments.program):
        name, *commands = json.loads(text)
        progress(2 + number, steps, f"{name} --help")
        answers = [help_text(command) for command in commands]
        errors = [answer["error"] for answer in answers if "error" in answer]
        path = "" if commands[0][0] == "python" else place(name)
        found["programs"][name] = {"path": path, "help": "\n".join(answer.get("help", "") for answer in answers)}
        if errors:
            found["programs"][name]["error"] = errors[0]
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "probe.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
