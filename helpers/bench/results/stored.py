"""What a result's files hold beside what was measured, and what they must not hold: secrets (notebook 08)."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from helpers import processes, workspace
from helpers.bench import rows

if TYPE_CHECKING:
    from helpers.toolchains.base import Engine

MEASURED, REQUESTS = rows.MEASURED_FILE, rows.REQUESTS_FILE
RESULT, RECORDS = "result.json", "records.jsonl"
"""The files of a result; the load generator writes the first two."""

_SIZES = ("max_batch_size", "max_num_tokens", "max_input_len", "max_seq_len")


def machine_facts() -> dict[str, Any]:
    """What this machine is, as far as it bears on a benchmark."""
    from helpers import hardware

    machine = hardware.look()
    return {
        "system": machine.system,
        "python": machine.python,
        "cpu": machine.cpu.model,
        "cores": machine.cpu.cores,
        "cpu_features": list(machine.cpu.features),
        "memory_bytes": machine.memory_bytes,
        "gpus": [gpu.name for gpu in machine.gpus],
        "driver": machine.driver,
    }


def engine_facts(engine: "Engine") -> dict[str, Any]:
    """What an engine is, from its manifest, and a digest that tells it from every other."""
    made = asdict(engine.manifest)
    described = json.dumps({key: made[key] for key in ("kind", "options", "inputs", "maker", "machine", "files")})
    sizes = {name: made["options"][name] for name in _SIZES if name in made["options"]}
    return {
        "digest": hashlib.sha256(described.encode()).hexdigest()[:16],
        "title": engine.full_title,
        "toolchain": engine.toolchain,
        "precision": engine.precision,
        "kv": engine.kv or "",
        "tp_size": engine.tp_size,
        "weight_bytes": engine.weight_bytes,
        "sizes": sizes,
        "manifest": made,
    }


def clean_url(url: str) -> str:
    """An address without user, password and query: any of them may be a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def clean_target(target: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured, its address without secrets."""
    return {**target, "url": clean_url(str(target.get("url") or ""))}


def hidden(told: Any) -> Any:
    """The same with secrets hidden in every text; names and numbers stay as they are."""
    hide = processes.redactor(os.environ)

    def within(value: Any) -> Any:
        if isinstance(value, str):
            return hide(value)
        if isinstance(value, Mapping):
            return {name: within(one) for name, one in value.items()}
        return [within(one) for one in value] if isinstance(value, list | tuple) else value

    return within(told)


def hide_secrets(folder: Path) -> None:
    """Take secrets out of what the load generator wrote: a server may have repeated a key in its error."""
    measured, requests = folder / MEASURED, folder / REQUESTS
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
        told = json.loads(measured.read_text(encoding="utf-8"))
        clean = hidden({**told, "target": clean_target(told["target"])})
        if clean != told:
            workspace.write_whole(measured, json.dumps(clean))
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        text = requests.read_text(encoding="utf-8")
        if hidden(text) != text:  # rows are taken apart only where there is something to hide: there may be many
            noted = rows.read(requests)
            for row in noted:
                row.message = hidden(row.message)
            rows.write(noted, requests)
