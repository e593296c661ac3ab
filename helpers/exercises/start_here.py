"""The exercises of notebook 00: how large weights are, and which GPUs hold a model.

Both follow from a number of parameters and from the makers' figures in ``data/gpus.toml``.
"""

from helpers import hardware
from helpers.cards import Card, bytes_text
from helpers.exercises.asked import asked_in
from helpers.exercises.choosing import Option, choose_some
from helpers.exercises.judging import Mistake, judged
from helpers.hardware import Datasheet

_BILLION = 1e9
_LARGE, _BITS = 70, 4  # billion parameters and bits of each, in the first exercise
_SMALL, _SPARE = 8, 6  # billion parameters in FP16, and GB beside the weights, in the second
_GPUS = ("t4", "v100", "a10g", "l4", "h100-mig-2g.20gb")


@asked_in("00_start_here")
def check_weight_gb(answer: float | None = None) -> Card:
    """How many GB do the weights of a model with 70 billion parameters take at 4 bits?

    Args:
        answer: GB, of 10⁹ bytes; None while there is no answer.
    """
    title = f"{_LARGE} billion parameters at INT4, {_BITS} bits each: how many GB of weights?"
    if answer is None:
        return Card(title, note="Not answered yet: give a number of GB. Eight bits are a byte; 10⁹ bytes are a GB.")
    right = _LARGE * _BITS / 8
    mistakes = [
        Mistake(right * _BILLION, "Those are bytes. A GB has 10⁹ of them."),
        Mistake(right * _BILLION / 2**30, "That counts in GiB, of 2³⁰ bytes. A GB has 10⁹."),
        Mistake(_LARGE * _BITS, "Those are gigabits. Eight bits are one byte, so divide by 8."),
        Mistake(_LARGE * 2, "That is the size at FP16, 16 bits each. INT4 has a quarter of the bits."),
        Mistake(_LARGE, "That is one byte, 8 bits, for each parameter: FP8 or INT8. INT4 has half of that."),
        Mistake(_LARGE * 4, "You took 4 bytes for each parameter. INT4 has 4 bits."),
    ]
    working = f"{_LARGE} × 10⁹ × {_BITS} bits / 8. predicted: scaling factors come on top, a few percent."
    start = f"Multiply {_LARGE} billion by {_BITS} bits, divide by 8, and count the billions."
    return judged(title, answer, "GB", right, mistakes, working, start, tolerance=0.02)


@asked_in("00_start_here")
def check_gpus_for_8b(answer: object = None) -> Card:
    """Which of five GPUs hold an 8B model in FP16 with 6 GB to spare, and run TensorRT-LLM?

    Args:
        answer: keys of ``data/gpus.toml``, such as ``["t4", "l4"]``; None while there is no answer.
    """
    options = {key: _option(hardware.by_key(key)) for key in _GPUS}
    return choose_some(
        f"{_SMALL} billion parameters in FP16, {_SPARE} GB beside them for the KV cache and the runtime, and kernels "
        f"in TensorRT-LLM: which of {', '.join(_GPUS)}?",
        answer,
        options,
        "give a list, such as ['t4', 'l4']. Ask twice of each GPU: is the memory enough, and is it new enough?",
        f"The weights take {_SMALL * 2} GB, so {_SMALL * 2 + _SPARE} GB are needed, and a GPU of Ampere or newer.",
    )


def _option(sheet: Datasheet) -> Option:
    """Whether a GPU has the memory and the kernels, and what it lacks."""
    left = sheet.memory_bytes - _SMALL * _BILLION * 2
    enough, kernels = left >= _SPARE * _BILLION, hardware.support(sheet.compute_capability) is not None
    has = f"The {sheet.name} has {bytes_text(sheet.memory_bytes).replace('.00', '').replace('.0 ', ' ')}"
    room = f"{has}: {left / _BILLION:.0f} GB are left beside the weights, {'enough' if enough else 'too few'}"
    if kernels:
        return Option(enough, f"{room}.")
    old = f"it is a {sheet.architecture}, for which TensorRT-LLM has no kernels"
    return Option(False, f"{room}, {'but' if enough else 'and'} {old}.")
