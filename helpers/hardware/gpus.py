"""What GPUs can do: the makers' figures and, for each generation, TensorRT-LLM's precisions (``data/gpus.toml``)."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from helpers.cards import Table, bytes_text
from helpers.errors import WorkshopError
from helpers.hardware.machine import SUPPORTED, Cpu, Gpu, capability_text, cpu

GB = 1e9
GPU_TABLE = Path(__file__).parents[2] / "data" / "gpus.toml"

CPU_ARITHMETIC: Mapping[str, tuple[str, ...]] = {
    "fp16": ("avx512_fp16", "amx_fp16"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"),
}
"""Precision to the instruction sets of CPUs that multiply in it, as :attr:`Cpu.features` spells them; one is enough."""


@dataclass(frozen=True)
class Datasheet:
    """A GPU as its maker publishes it, or a slice of one; a row of ``data/gpus.toml``.

    Args:
        key: what ``--gpu`` takes, such as ``rtx-4090``.
        match: the driver's name of the product, without its brand.
        memory_bytes: as sold.
        bandwidth: bytes a second.
        rates: precision (``fp16``, ``fp8``, ``int8``) to dense operations a second.
        source: the page or document that the figures come from.
        peer_to_peer: how two of them reach each other's memory: ``nvlink``, ``nvlink bridge`` or ``none``; empty where
            no source was found.
        slice_of: for a MIG slice, the key of the whole GPU; bandwidth and rates are then predicted from its shares.
        aliases: other keys that mean the same.
    """

    key: str
    name: str
    match: str
    architecture: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    bandwidth: float
    rates: Mapping[str, float]
    source: str
    peer_to_peer: str = ""
    slice_of: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def device(self) -> str:
        """Its name, as measured limits call it."""
        return self.name

    @property
    def label(self) -> str:
        """What its figures are called on screen."""
        return "predicted" if self.slice_of else "datasheet"


@dataclass(frozen=True)
class Support:
    """Which precisions TensorRT-LLM has on one generation; a ``[capability]`` row of ``data/gpus.toml``.

    Args:
        engine_weights, engine_kv: in the engine workflow.
        pytorch_weights, pytorch_kv: in its PyTorch backend.
        unverified: such as ``engine_weights.int8_sq``: listed, but documented nowhere and reported by nobody.
        refusals: missing precision (``fp8_kv``, ``int8_kv`` for the KV cache) to the reason, in the GPU's own terms.
    """

    capability: tuple[int, int]
    architecture: str
    engine_weights: tuple[str, ...]
    engine_kv: tuple[str, ...]
    pytorch_weights: tuple[str, ...]
    pytorch_kv: tuple[str, ...]
    unverified: tuple[str, ...]
    refusals: Mapping[str, str]
    source: str


@cache
def _tables() -> Mapping[str, Any]:
    """``data/gpus.toml``."""
    return tomllib.loads(GPU_TABLE.read_text())


def datasheets() -> list[Datasheet]:
    """Every GPU of ``data/gpus.toml``, in the file's order; MIG slices follow their whole."""
    found: dict[str, Datasheet] = {}
    for key, row in _tables()["gpu"].items():
        whole = found.get(row.get("slice_of", ""))
        found[key] = _slice(key, row, whole) if whole else _product(key, row)
    return list(found.values())


def _product(key: str, row: Mapping[str, Any]) -> Datasheet:
    """A whole GPU, from its row."""
    return Datasheet(
        key=key,
        name=row["name"],
        match=row["match"],
        architecture=row["architecture"],
        compute_capability=_capability(row["compute_capability"]),
        memory_bytes=int(row["memory_gb"] * GB),
        bandwidth=row["bandwidth"] * GB,
        rates={p: row[p] * 1e12 for p in ("fp16", "fp8", "int8") if p in row},
        source=row["source"],
        peer_to_peer=row.get("peer_to_peer", ""),
        aliases=tuple(row.get("aliases", ())),
    )


def _slice(key: str, row: Mapping[str, Any], whole: Datasheet) -> Datasheet:
    """A MIG slice: its shares of the whole GPU's bandwidth and rates."""
    share = float(Fraction(row["compute_share"]))
    return Datasheet(
        key=key,
        name=f"{whole.name}, {row['profile']}",
        match=f"{whole.match} {row['profile']}",
        architecture=whole.architecture,
        compute_capability=whole.compute_capability,
        memory_bytes=int(row["memory_gb"] * GB),
        bandwidth=whole.bandwidth * float(Fraction(row["memory_share"])),
        rates={precision: rate * share for precision, rate in whole.rates.items()},
        source=row["source"],
        slice_of=whole.key,
    )


def _capability(text: str) -> tuple[int, int]:
    """``8.9`` as (8, 9)."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)


BRANDS = ("NVIDIA ", "GeForce ", "Tesla ")
"""What a driver puts before a product's name, in this order."""


def datasheet(name: str) -> Datasheet | None:
    """The maker's figures for a GPU as its driver names it; None where the table has none.

    The whole name must fit: an ``RTX 4090 D``, an ``H100 NVL`` or a MIG slice is another product than its namesake.
    Nobody publishes figures for a slice, so that one has none; :func:`by_key` predicts them.
    """
    product = name
    for brand in BRANDS:
        product = product.removeprefix(brand)
    return next((row for row in datasheets() if row.match == product and not row.slice_of), None)


def by_key(key: str) -> Datasheet:
    """The GPU called ``key`` in ``data/gpus.toml``; ``4090``, ``RTX4090`` and ``rtx-4090`` are the same.

    Raises:
        WorkshopError: there is none; names the nearest and lists them all.
    """
    names = {_plain(name): row for row in datasheets() for name in (row.key, *row.aliases)}
    wanted = _plain(key)
    if wanted in names:
        return names[wanted]
    ends = [row for name, row in names.items() if wanted.isdigit() and name.endswith(wanted)]
    if len(ends) == 1:
        return ends[0]
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f" Did you mean {names[near[0]].key!r}?" if near else ""
    raise WorkshopError(
        f"There is no GPU called {key!r} in data/gpus.toml.{hint} "
        f"Choose one of: {', '.join(row.key for row in datasheets())}."
    )


def _plain(key: str) -> str:
    """A key without what people leave out or put in."""
    return re.sub(r"nvidia|geforce|tesla|[^a-z0-9]", "", key.lower())


def support(capability: tuple[int, int]) -> Support | None:
    """What TensorRT-LLM does on GPUs of this compute capability; None where its releases have no kernels.

    Kernels run on later members of the same generation (those for 10.0 on 10.3), so the newest row that is not newer
    than the GPU counts.
    """
    rows = {_capability(text): row for text, row in _tables()["capability"].items()}
    fitting = [known for known in rows if known[0] == capability[0] and known <= capability]
    if not fitting:
        return None
    found = max(fitting)
    row = rows[found]
    return Support(
        capability=found,
        architecture=row["architecture"],
        engine_weights=tuple(row["engine_weights"]),
        engine_kv=tuple(row["engine_kv"]),
        pytorch_weights=tuple(row["pytorch_weights"]),
        pytorch_kv=tuple(row["pytorch_kv"]),
        unverified=tuple(row["unverified"]),
        refusals=row["refusals"],
        source=row["source"],
    )


def gpu_table() -> Table:
    """The whole GPUs of ``data/gpus.toml`` side by side, for choosing one to rent."""

    def rate(row: Datasheet, precision: str) -> str:
        return f"{row.rates[precision] / 1e12:g}" if precision in row.rates else "–"

    whole = [row for row in datasheets() if not row.slice_of]
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
        for row in whole
    ]
    columns = ("GPU", "architecture", "compute capability", "memory", "GB/s", "FP16", "FP8", "TensorRT-LLM")
    old = [row.name for row in whole if row.compute_capability < SUPPORTED]
    slices = [row.match.rsplit(" ", 1)[-1] for row in datasheets() if row.slice_of]
    note = (
        "Rates: dense TFLOP/s, FP32 accumulation; – means none, or not published. "
        f"No kernels in TensorRT-LLM's releases for {' and '.join(old)}. "
        f"An H100 is also rented in MIG slices ({', '.join(slices)}), named by their share of its multiprocessors and "
        "their memory; each is a GPU of its own."
    )
    return Table(columns, rows, "datasheet: GPUs, figures and sources in data/gpus.toml", note)


_PRECISIONS = (
    # as shown, as data/gpus.toml calls it, bits a weight, what is said of it where the GPU has it
    ("FP16, BF16", "fp16", 16, "the starting point: a model's own precision"),
    ("FP8 (E4M3)", "fp8", 8, "weights and activations; needs Ada, Hopper or newer"),
    ("INT8", "int8_sq", 8, "weights and activations (SmoothQuant), or weights alone"),
    ("INT4 weights", "int4_awq", 4, "weights alone (AWQ); they are widened to FP16 and multiplied there"),
    ("FP4 (NVFP4)", "nvfp4", 4, "needs Blackwell"),
)


def precisions(gpu: Gpu | None) -> Table:
    """Which precisions an engine can have on a GPU, or what this machine's CPU computes in where ``gpu`` is None."""
    if gpu is None:
        return _cpu_precisions(cpu())
    here = support(gpu.compute_capability)
    rows = [(shown, bits, *_answer(here, key, remark)) for shown, key, bits, remark in _PRECISIONS]
    has = [shown for shown, _, answer, _ in rows if answer == "yes"]
    note = f"The {gpu.name} (compute capability {gpu.capability_text}) has {', '.join(has) or 'none of these'}."
    return Table(("precision", "bits a weight", "on this GPU", "remark"), rows, "Precisions of this GPU", note)


def multiplies(precision: str, gpu: Gpu | None, processor: Cpu | None = None) -> bool:
    """Whether an engine's device multiplies in a precision; otherwise it stores weights in it and widens them first.

    Args:
        precision: an engine's: ``fp16``, ``fp8``, ``int8``, or a weight-only one, which is widened everywhere.
        gpu: that engines run on; None where they run on the CPU.
        processor: the CPU; None for this machine's.
    """
    if gpu is None:
        features = (processor or cpu()).features
        return any(feature in features for feature in CPU_ARITHMETIC.get(precision, ()))
    here = support(gpu.compute_capability)
    if precision == "fp8":
        return here is not None and "fp8" in here.engine_weights
    return precision in ("fp16", "bf16", "int8")  # every generation multiplies integers


def _answer(here: Support | None, precision: str, remark: str) -> tuple[str, str]:
    """Whether an engine can have a precision on this generation, and a remark or the reason why not."""
    if here is None:
        return "no", "TensorRT-LLM's releases have no kernels for this GPU"
    if precision not in here.engine_weights:
        # Every generation multiplies integers; where an integer format is missing, it is TensorRT-LLM that has none.
        return ("not in engines" if precision.startswith("int") else "no"), here.refusals[precision]
    if f"engine_weights.{precision}" in here.unverified:
        return "not verified", f"{remark}; nobody has reported an engine on this generation"
    return "yes", remark


def _cpu_precisions(processor: Cpu) -> Table:
    """What a CPU does with each precision: compute in it, or store it and widen it before computing."""

    def how(*needed: str) -> str:
        found = [feature for feature in needed if feature in processor.features]
        return f"computes ({', '.join(found)})" if found else "stores, widens"

    rows = [
        ("FP32", 32, "computes", "what every CPU multiplies in"),
        ("FP16", 16, how(*CPU_ARITHMETIC["fp16"]), "halves the weights"),
        ("BF16", 16, how(*CPU_ARITHMETIC["bf16"]), "FP32's range with fewer digits"),
        ("INT8", 8, how(*CPU_ARITHMETIC["int8"]), "weights and activations"),
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
