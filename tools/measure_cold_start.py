"""Record what loading a large engine costs on a machine with a GPU (``data/measured/cold-start/<name>.json``).

``python -m tools.measure_cold_start --name nvidia-h200 --machine "..." [--gigabytes 10] [--runs 3]`` writes a file of
random bytes and times, run by run: a process that imports torch and makes its CUDA context; reading the file from the
disk, the page cache emptied of it; reading it from the page cache; and carrying it to the GPU. Needs torch for CUDA and
nothing of TensorRT-LLM. Notebook 09 plans with these figures, as ``recorded:``.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHUNK = 1 << 26  # bytes read and carried at once: 64 MiB
_GIGABYTE = 1_000_000_000

_START = """
import time
began = time.perf_counter()
import torch
imported = time.perf_counter()
torch.zeros(1, device="cuda")
torch.cuda.synchronize()
print(imported - began, time.perf_counter() - imported)
"""


def write(file: Path, size: int) -> float:
    """Fill a file with bytes that no disk can compress; gives the seconds it took, the disk included."""
    began = time.perf_counter()
    block = os.urandom(_CHUNK)
    with file.open("wb") as out:
        for _ in range(0, size, _CHUNK):
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return time.perf_counter() - began


def forget(file: Path) -> None:
    """Drop a file from the page cache, so that the next reader waits for the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def read(file: Path) -> float:
    """Seconds to read a file from its beginning to its end into one buffer."""
    buffer = bytearray(_CHUNK)
    began = time.perf_counter()
    with file.open("rb", buffering=0) as source:
        while source.readinto(buffer):
            pass
    return time.perf_counter() - began


def carry(file: Path) -> float:
    """Seconds to read a file and carry it to the GPU, through one pinned buffer, chunk by chunk."""
    import torch

    buffer = torch.empty(_CHUNK, dtype=torch.uint8, pin_memory=True)
    view = memoryview(buffer.numpy())
    target = torch.empty(file.stat().st_size, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    began, done = time.perf_counter(), 0
    with file.open("rb", buffering=0) as source:
        while got := source.readinto(view):
            target[done : done + got].copy_(buffer[:got])
            done += got
    torch.cuda.synchronize()
    return time.perf_counter() - began


def start() -> dict[str, float]:
    """Seconds of a new process: until Python runs, to import torch, to make a CUDA context."""
    began = time.perf_counter()
    said = subprocess.run([sys.executable, "-c", _START], check=True, capture_output=True, text=True).stdout
    whole = time.perf_counter() - began
    imports, context = (float(word) for word in said.split())
    return {"process": whole - imports - context, "imports": imports, "context": context}


def timed(runs: int, what: Callable[[], float]) -> dict[str, Any]:
    """The seconds of several runs, and their median."""
    seconds = [round(what(), 3) for _ in range(runs)]
    return {"seconds": seconds, "median": statistics.median(seconds)}


def measured(file: Path, size: int, runs: int) -> dict[str, Any]:
    """All figures of one machine."""

    def from_disk() -> float:
        forget(file)
        return read(file)

    starts = [start() for _ in range(runs + 1)][1:]  # the first reads torch itself from the disk
    parts = {name: statistics.median(one[name] for one in starts) for name in starts[0]}
    written = write(file, size)
    return {
        "bytes": file.stat().st_size,
        "written_seconds": round(written, 3),
        "start": {name: round(seconds, 3) for name, seconds in parts.items()},
        "disk": timed(runs, from_disk),
        "page_cache": timed(runs, lambda: read(file)),
        "page_cache_to_gpu": timed(runs, lambda: carry(file)),
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the record's file")
    parser.add_argument("--machine", required=True, help="what it is, in words")
    parser.add_argument("--gigabytes", type=float, default=10.0, help="of the file (default: 10)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("build"), help="on the disk to be measured")
    parser.add_argument("--output", type=Path, default=Path("data/measured/cold-start"))
    arguments = parser.parse_args()
    import torch

    arguments.folder.mkdir(parents=True, exist_ok=True)
    file = arguments.folder / "cold-start.bin"
    try:
        figures = measured(file, int(arguments.gigabytes * _GIGABYTE), arguments.runs)
    finally:
        file.unlink(missing_ok=True)
    record = {
        "machine": arguments.machine,
        "gpu": torch.cuda.get_device_name(),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "runs": arguments.runs,
        **figures,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    target = arguments.output / f"{arguments.name}.json"
    target.write_text(json.dumps(record, indent=1) + "\n")
    print(target.read_text())


if __name__ == "__main__":
    main()
