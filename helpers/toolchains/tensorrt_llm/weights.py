"""Which precisions the weights of a TensorRT-LLM engine can have on a GPU, and why not the others (notebook 04)."""

from helpers import hardware, releases
from helpers.errors import WorkshopError
from helpers.hardware import Support
from helpers.toolchains.choices import CHECKPOINTS, Choices

_SAID = {
    "fp16": "the starting point.",
    "fp8": "weights, activations and KV cache at 8 bits; multiplied in FP8.",
    "int8": "weights and activations at 8 bits (SmoothQuant); multiplied in INT8.",
    "int8_wo": "weights at 8 bits, widened to FP16 to multiply: half to read, no faster arithmetic.",
    "int4_awq": "weights at 4 bits, widened to FP16 to multiply: a quarter to read.",
}


UNREPORTED = " Nobody has reported it on this generation yet."
"""What is added to what is said of a precision that is listed, but documented nowhere."""


def require_support(product: str, capability: tuple[int, int]) -> Support:
    """What TensorRT-LLM does on a GPU of this compute capability.

    Raises:
        WorkshopError: it has no kernels for it.
    """
    support = hardware.support(capability)
    if support is None:
        raise WorkshopError(releases.choose(capability, product, driver="").why)
    return support


def choices_of(product: str, capability: tuple[int, int]) -> Choices:
    """Which precisions an engine can have on a GPU, from the tables in ``data/gpus.toml``.

    Raises:
        WorkshopError: TensorRT-LLM has no kernels for a GPU of this compute capability.
    """
    support = require_support(product, capability)
    said, offered = {}, []
    for precision, made_from in CHECKPOINTS.items():
        if made_from in support.engine_weights:
            offered.append(precision)
            unsure = f"engine_weights.{made_from}" in support.unverified
            said[precision] = _SAID[precision] + (UNREPORTED if unsure else "")
        else:
            said[precision] = support.refusals[made_from]
    return Choices(f"the {product}", said, tuple(offered))
