"""What GPUs can do: the makers' figures (``data/gpus.toml``) and the precisions of each generation."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.cards import Table, bytes_text
from helpers.hardware.machine import SUPPORTED, Cpu, Gpu, capability_text, cpu

GB = 1e9
GPU_TABLE = Path(__file__).parents[2] / "data" / "gpus.toml"


@dataclass(frozen=True)
class Datasheet:
    """A GPU as its maker publishes it; a row of ``data/gpus.toml``.

    Args:
        match: the driver's name of the product, without its brand.
        memory_bytes: as sold.
        bandwidth: bytes a second.
        rates: precision (``fp16``, ``fp8``, ``int8``) to dense operations a second.
        source: the page or document that the figures come from.
    """

    name: str
    match: str
    architecture: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    bandwidth: float
    rates: Mapping[str, float]
    source: str

    @property
    def device(self) -> str:
        """Its name, as measured limits call it."""
        return self.name


def datasheets() -> list[Datasheet]:
    """Every GPU of ``data/gpus.toml``, in the file's order."""
    rows = tomllib.loads(GPU_TABLE.read_text()).values()
    return [
        Datasheet(
            name=row["name"],
            match=row["match"],
            architecture=row["architecture"],
            compute_capability=_capability(row["compute_capability"]),
            memory_bytes=int(row["memory_gb"] * GB),
            bandwidth=row["bandwidth"] * GB,
            rates={p: row[p] * 1e12 for p in ("fp16", "fp8", "int8") if p in row},
            source=row["source"],
        )
        for row in rows
    ]


def _capability(text: str) -> tuple[int, int]:
    """``8.9`` as (8, 9)."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)


BRANDS = ("NVIDIA ", "GeForce ", "Tesla ")
"""What a driver puts before a product's name, in this order."""


def datasheet(name: str) -> Datasheet | None:
    """The row for a GPU as its driver names it; None where the table has none.

    The whole name must fit: an ``RTX 4090 D``, an ``H100 NVL`` or a MIG slice is another product than its namesake.
    """
    product = name
    for brand in BRANDS:
        product = product.removeprefix(brand)
    return next((row for row in datasheets() if row.match == product), None)


def gpu_table() -> Table:
    """The GPUs of ``data/gpus.toml`` side by side, for choosing one to rent."""

    def rate(row: Datasheet, precision: str) -> str:
        return f"{row.rates[precision] / 1e12:g}" if precision in row.rates else "–"

    rows = [
        (
            row.name,
            row.architecture,
            capability_text(row.compute_capability),
            bytes_text(row.memory_bytes).replace(".00", ""),
            f"{row.bandwidth / GB:,.0f}",
            rate(row, "fp16"),
            rate(row, "fp8"),
            "yes" if row.compute_capability >= SUPPORTED else "no",
        )
        for row in datasheets()
    ]
    columns = ("GPU", "architecture", "compute capability", "memory", "GB/s", "FP16", "FP8", "TensorRT-LLM")
    old = [row.name for row in datasheets() if row.compute_capability < SUPPORTED]
    note = (
        "Rates: dense TFLOP/s, FP32 accumulation; – means none, or not published. "
        f"No kernels in TensorRT-LLM's releases for {' and '.join(old)}."
    )
    return Table(columns, rows, "datasheet: GPUs, figures and sources in data/gpus.toml", note)


GPU_PRECISIONS = (
    # precision, bits a weight, oldest compute capability with the arithmetic, what is said of it
    ("FP16, BF16", 16, (8, 0), "the starting point: a model's own precision"),
    ("FP8 (E4M3)", 8, (8, 9), "weights and activations; needs Ada, Hopper or newer"),
    ("INT8", 8, (8, 0), "weights and activations (SmoothQuant), or weights alone"),
    ("INT4 weights", 4, (8, 0), "weights alone (AWQ); they are widened to FP16 and multiplied there"),
    ("FP4 (NVFP4)", 4, (10, 0), "needs Blackwell"),
)

NO_INTEGER_ENGINES = range(100, 120)
"""Compute capabilities (as 100 for 10.0) whose engines TensorRT-LLM refuses to build in INT8 or INT4."""


def precisions(gpu: Gpu | None) -> Table:
    """Which precisions the silicon computes in: the GPU's, or this machine's CPU's where ``gpu`` is None."""
    if gpu is None:
        return _cpu_precisions(cpu())
    major, minor = gpu.compute_capability
    refused = major * 10 + minor in NO_INTEGER_ENGINES
    rows = []
    for name, bits, oldest, remark in GPU_PRECISIONS:
        answer = "yes" if gpu.compute_capability >= oldest else "no"
        if refused and name.startswith("INT"):
            answer, remark = (
                "not in engines",
                "TensorRT-LLM builds no integer engines for this generation; use FP8",
            )
        rows.append((name, bits, answer, remark))
    has = [name for name, _, answer, _ in rows if answer == "yes"]
    note = f"The {gpu.name} (compute capability {gpu.capability_text}) has {', '.join(has) or 'none of these'}."
    return Table(("precision", "bits a weight", "on this GPU", "remark"), rows, "Precisions of this GPU", note)


def _cpu_precisions(processor: Cpu) -> Table:
    """What a CPU does with each precision: compute in it, or store it and widen it before computing."""

    def how(*needed: str) -> str:
        found = [feature for feature in needed if feature in processor.features]
        return f"computes ({', '.join(found)})" if found else "stores, widens"

    rows = [
        ("FP32", 32, "computes", "what every CPU multiplies in"),
        ("FP16", 16, how("avx512_fp16", "amx_fp16"), "halves the weights"),
        ("BF16", 16, how("avx512_bf16", "amx_bf16", "bf16"), "FP32's range with fewer digits"),
        ("INT8", 8, how("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"), "weights and activations"),
        ("FP8 (E4M3)", 8, "stores, widens", "a quarter of FP32's bytes to read; the arithmetic is wider"),
        ("INT4 weights", 4, "stores, widens", "an eighth of FP32's bytes to read"),
    ]
    direct = [name for name, _, answer, _ in rows if answer.startswith("computes")]
    note = f"This CPU computes in {', '.join(direct)}; the others save memory and bandwidth, not arithmetic."
    return Table(
        ("precision", "bits a weight", "on this CPU", "remark"),
        rows,
        f"Precisions of {processor.model}",
        note,
    )
