"""The load generator as a notebook's child: told what to do by one JSON object, it tells how it goes in JSON lines."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers.bench.generator.folder import results_into
from helpers.bench.generator.measuring import measure
from helpers.bench.generator.target import KEY_VARIABLE, Target
from helpers.bench.load import Load
from helpers.bench.measured import Progress, Run
from helpers.errors import WorkshopError

_STOPPED = 130


def main() -> int:
    """Read what is asked from standard input, measure, write; 0 unless it could not be done, 130 if stopped before.

    Asked is ``{"url", "model", "load", "out", "tokenizer", "key_variable", "insecure"}``; told are lines with one of
    ``progress``, ``run``, ``done`` and ``error``.
    """
    try:
        asked = json.load(sys.stdin)
        target = Target.of(
            asked["url"],
            asked.get("model") or "",
            asked.get("key_variable") or KEY_VARIABLE,
            bool(asked.get("insecure")),
        )
        tokenizer = Path(asked["tokenizer"]) if asked.get("tokenizer") else None
        load, folder = Load.from_told(asked["load"]), Path(asked["out"])
        with results_into(folder):
            measured = measure(target, load, tokenizer, _progress, _run_ended, folder)
    except WorkshopError as error:
        _tell({"error": str(error)})
        return 1
    except KeyboardInterrupt:  # stopped before anything was sent: there is nothing to keep, and nothing to say
        return _STOPPED
    _tell({"done": True, **({"interrupted": True} if measured.interrupted else {})})
    return 0


def _progress(told: Progress) -> None:
    _tell({"progress": asdict(told)})


def _run_ended(run: Run) -> None:
    failed = sum(not row.ok for row in run.rows)
    _tell({"run": {"number": run.number, "requests": len(run.rows), "failed": failed}})


def _tell(what: dict[str, Any]) -> None:
    """One line to whoever listens; nobody listening is no reason to stop measuring."""
    try:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = open("/dev/null", "w")  # noqa: SIM115
