"""Measure one device's two limits: memory bandwidth and matrix rate. Prints one line of JSON.

Runs alone under any Python with torch 2.7 or newer, because a GPU's torch is not the notebooks' torch:

    python helpers/workers/roofline.py --device cuda

Output: {"device", "torch", "bandwidth": bytes/s, "rates": {precision: FLOP/s}, "sizes": {precision: side},
"skipped": {precision: why}, "seconds"}. Taught in ``notebooks/01_gpu_checks.ipynb``.

With ``--read BYTES`` it measures how fast that many bytes are read again and again instead, as a model's weights are
for every token, beside the bandwidth: {"device", "torch", "read": bytes/s, "bytes", "memory", "seconds"}. Taught in
``notebooks/08_benchmarking.ipynb``.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

STARTED = time.perf_counter()

try:
    import torch
except ImportError as problem:
    sys.exit(f"no torch ({problem})")

COPY_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}
"""Large against every cache: a copy that fits a cache measures the cache."""

ROUNDS, PAUSE_SECONDS = 6, 0.05
"""A small size is read within milliseconds, which other work on the machine may spoil as a whole: so several looks."""

LARGEST = {"cpu": 2048, "cuda": 8192}
"""Side of the largest square matrix that is multiplied."""


def seconds(work: Callable[[], Any], device: str) -> float:
    """Wall time of one call, the device's queue drained before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def repeated(work: Callable[[], Any], device: str, limit: float) -> list[float]:
    """Times of repeated calls, after one for warm-up: three, then up to ``limit`` seconds or 30 calls."""
    seconds(work, device)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < limit and len(times) < 30):
        times.append(seconds(work, device))
    return times


def bandwidth(device: str, limit: float) -> float:
    """Bytes read plus bytes written per second by a copy within the device's memory."""
    size = COPY_BYTES[device]
    if device == "cuda":
        size = min(size, torch.cuda.mem_get_info()[0] // 4)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / statistics.median(repeated(lambda: target.copy_(source), device, limit))


def read_bandwidth(size: int, device: str, limit: float) -> tuple[float, int]:
    """Bytes a second of reading the same bytes again and again, and how many bytes that were.

    The faster of a sum and a copy: a sum only reads, as a step does with weights, and is bound by additions in the
    nearest caches; a copy reads half of the bytes and writes the other half. The best of the repetitions counts, for
    this is to bound what a model can do, and others may use the machine: therefore it is done in rounds, with pauses.
    Small sizes are gone through several times for one look at the clock.
    """
    if device == "cuda":
        size = min(size, torch.cuda.mem_get_info()[0] // 2)
    values = torch.ones(max(size // 8, 1) * 2, dtype=torch.float32, device=device)
    source, target = values.chunk(2)
    times = max(1, 16 * 2**20 // size)

    def again(work: Callable[[], Any]) -> None:
        for _ in range(times):
            work()

    best = float("inf")
    for _ in range(ROUNDS):
        for work in (values.sum, partial(target.copy_, source)):
            best = min(best, *repeated(partial(again, work), device, limit / ROUNDS))
        time.sleep(PAUSE_SECONDS)
    return times * values.nbytes / best, values.nbytes


def product(precision: str, size: int, device: str) -> Callable[[], Any]:
    """A matrix product of two random square matrices, ready to be called.

    Random values, not zeros: a GPU draws less power on zeros and then clocks higher than it ever does in use.
    """
    if precision == "fp8":
        a = torch.randn(size, size, device=device).to(torch.float8_e4m3fn)
        b = torch.randn(size, size, device=device).to(torch.float8_e4m3fn).t()
        one = torch.ones((), device=device)
        return lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    left, right = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    return lambda: left @ right


def matrix_rate(precision: str, device: str, limit: float) -> tuple[float, int]:
    """FLOP/s of a square matrix product, and the size measured.

    Doubles the size while one product of the next size should fit into ``limit`` seconds: slow arithmetic is
    measured on a smaller matrix instead of for a longer time.
    """
    size = 512
    times = repeated(product(precision, size, device), device, limit)
    while size < LARGEST[device] and 8 * min(times) < limit:
        size *= 2
        times = repeated(product(precision, size, device), device, limit)
    return 2 * size**3 / statistics.median(times), size


def in_one_line(problem: Exception) -> str:
    """What went wrong, without the advice on debugging kernels that CUDA's messages end with."""
    first = (str(problem).strip().splitlines() or [""])[0].rstrip(".")
    return f"{type(problem).__name__}: {first}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--limit", type=float, default=0.15, help="seconds for each measurement (default 0.15)")
    parser.add_argument("--read", type=int, metavar="BYTES", help="measure only how fast this many bytes are read")
    options = parser.parse_args()
    precisions = ["fp32", "fp16", "bf16"]
    name = "cpu"
    if options.device == "cuda":
        if not torch.cuda.is_available():
            sys.exit(f"its torch {torch.__version__} sees no CUDA device")
        name = torch.cuda.get_device_name(0)
        if torch.cuda.get_device_capability(0) >= (8, 9):
            precisions.append("fp8")
    if options.read is not None:
        speed, size = read_bandwidth(options.read, options.device, 4 * options.limit)
        memory = bandwidth(options.device, options.limit)
        told = {"device": name, "torch": torch.__version__, "read": speed, "bytes": size, "memory": memory}
        print(json.dumps({**told, "seconds": round(time.perf_counter() - STARTED, 2)}))
        return
    torch.manual_seed(0)
    measured: dict[str, tuple[float, int]] = {}
    skipped: dict[str, str] = {}
    for precision in precisions:
        try:
            measured[precision] = matrix_rate(precision, options.device, options.limit)
        except (RuntimeError, AttributeError, TypeError, ValueError) as problem:
            # FP8 goes through a call that is not public: a torch that lacks it still measures the others.
            skipped[precision] = in_one_line(problem)
    if not measured:
        sys.exit("; ".join(dict.fromkeys(skipped.values())))
    result = {
        "device": name,
        "torch": torch.__version__,
        "bandwidth": bandwidth(options.device, options.limit),
        "rates": {p: rate for p, (rate, _) in measured.items()},
        "sizes": {p: size for p, (_, size) in measured.items()},
        "skipped": skipped,
    }
    print(json.dumps({**result, "seconds": round(time.perf_counter() - STARTED, 2)}))


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as failure:  # CUDA's own errors are of this kind
        sys.exit(in_one_line(failure))
