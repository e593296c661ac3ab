"""Record what stages took on this machine, from a workspace's manifests, in ``data/measured/stage-times.toml``.

Run it where the notebooks were run from an empty workspace on a quiet machine: a machine recorded before under the same
name and toolchain is replaced. ``helpers.teaching.expected`` reads the record.
"""

import argparse
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from helpers import toolchains
from helpers.teaching import expected

HEAD = "# Seconds and bytes of stages, by place in the workspace. Written by tools/record_stage_times.py.\n"


def record(name: str) -> dict[str, Any]:
    """This workspace's stages as one machine of the record, under a machine's name."""
    stages = {
        place: {"kind": made.manifest.kind, "seconds": round(made.manifest.seconds, 1), "bytes": made.bytes}
        for place, made in sorted(expected.made_here().items())
    }
    return {"name": name, "toolchain": toolchains.best().name, "date": time.strftime("%Y-%m-%d"), "stages": stages}


def text_of(machines: list[dict[str, Any]]) -> str:
    """The record as TOML, always in the same order."""
    lines = [HEAD]
    for machine in sorted(machines, key=lambda one: (one["toolchain"], one["name"])):
        lines += ["[[machines]]", *(f'{key} = "{machine[key]}"' for key in ("name", "toolchain", "date"))]
        lines.append("[machines.stages]")
        for place, row in machine["stages"].items():
            values = f'kind = "{row["kind"]}", seconds = {row["seconds"]}, bytes = {row["bytes"]}'
            lines.append(f'"{place}" = {{ {values} }}')
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Add this machine to the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default=expected.machine_name(), help="of the machine (default: what it says)")
    parser.add_argument("--file", type=Path, default=expected.RECORD)
    arguments = parser.parse_args()
    new = record(arguments.name)
    if not new["stages"]:
        print("The workspace holds nothing that was made here. Run the notebooks first.", file=sys.stderr)
        return 1
    old = tomllib.loads(arguments.file.read_text(encoding="utf-8"))["machines"] if arguments.file.exists() else []
    kept = [one for one in old if (one["name"], one["toolchain"]) != (new["name"], new["toolchain"])]
    arguments.file.write_text(text_of([*kept, new]), encoding="utf-8")
    print(f"{len(new['stages'])} stages of {new['name']} recorded.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
