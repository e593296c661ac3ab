"""The exercises of notebook 03: what asks for a new engine, how large one gets, and an answer of a given length.

The judges are the sizes that ``trtllm-build`` is told (:class:`helpers.toolchains.sizes.Sizes`), the arguments of a
toolchain's ``generate``, the memory planner, and the text that the reader's own engine wrote.
"""

import inspect

from helpers import memory, models
from helpers.cards import Card
from helpers.exercises.asked import asked_in
from helpers.exercises.choosing import Option, choose_some
from helpers.exercises.judging import Mistake, judged
from helpers.toolchains.base import Toolchain
from helpers.toolchains.sizes import Sizes

_MODEL, _GB, _GIB = "Llama-3.1-8B-Instruct", 1e9, 2**30  # in the second exercise
_TOKENS = 50  # in the third
_CHANGES = {
    "prompt": "another prompt of about the same length",
    "max_tokens": "a limit of 200 tokens in place of 96, within the longest sequence",
    "ignore_eos": "writing on after the end-of-sequence token",
    "max_batch_size": "twice as many requests at once",
    "max_seq_len": "sequences twice as long as it was built for",
    "gpu": "an A10G in place of an RTX 4090",
}
"""What can be named in the first exercise, and what it stands for."""


@asked_in("03_fp16_build")
def check_new_engine(answer: object = None) -> Card:
    """Which of six changes need a new engine?

    Args:
        answer: names of changes, such as ``["prompt", "gpu"]``; None while there is no answer.
    """
    said = "; ".join(f"{name}: {what}" for name, what in _CHANGES.items())
    return choose_some(
        f"Which of these changes need a new engine? {said}.",
        answer,
        {name: _change(name) for name in _CHANGES},
        f"give a list of some of {', '.join(_CHANGES)}. A build is told sizes and a machine; the rest comes "
        "with a request.",
        "A build fixes the machine and the largest sizes. Everything else comes with a request.",
    )


def _change(name: str) -> Option:
    """Whether a build is told of something, or a request brings it."""
    if f"--{name}" in Sizes(1, 1, 1, 1).options():
        return Option(True, f"{name} needs a build: it is an option of trtllm-build, and kernels are chosen for it.")
    if name in inspect.signature(Toolchain.generate).parameters:
        return Option(False, f"{name} needs no build: it comes with each request, and the engine stays as it is.")
    return Option(True, f"{name} needs a build: kernels are compiled for one compute capability.")


@asked_in("03_fp16_build")
def check_engine_gb(answer: float | None = None) -> Card:
    """How many GB has the engine of Llama 3.1 8B in FP16, roughly?

    Args:
        answer: GB, of 10⁹ bytes; None while there is no answer.
    """
    size = memory.weight_bytes(memory.Shape.of(models.known()[_MODEL]["config"]), "fp16")
    title = f"{_MODEL} has {size / 2e9:.2f} billion weights. How many GB has its engine in FP16, within 3 %?"
    if answer is None:
        return Card(title, note="Not answered yet: an engine is mostly weights, and FP16 has 16 bits.")
    right = size / _GB
    mistakes = [
        Mistake(right / 2, "That is one byte for each weight, an engine in 8 bits. FP16 takes two."),
        Mistake(right * 2, "That is four bytes for each weight, FP32. FP16 takes two."),
        Mistake(right * 8, "Those are gigabits. Eight bits are one byte."),
        Mistake(size, "Those are bytes. A GB has 10⁹ of them."),
        Mistake(size / _GIB, "That counts in GiB, of 2³⁰ bytes. A GB has 10⁹."),
    ]
    working = "Two bytes for each weight. predicted: the graph around the weights adds little."
    return judged(title, answer, "GB", right, mistakes, working, "Two bytes for each weight.", tolerance=0.03)


@asked_in("03_fp16_build")
def check_tokens(written: object = None) -> Card:
    """Let the engine write exactly 50 tokens, also if the model would rather end before.

    Args:
        written: what ``toolchain.generate`` returned; None while there is no answer.
    """
    from helpers.toolchains.generation import Generation

    title = f"An answer of exactly {_TOKENS} tokens, whatever the prompt"
    if written is None:
        return Card(
            title,
            note="Not answered yet: give what toolchain.generate(engine, prompt, ...) returns. Two things end an "
            "answer, so two arguments are needed.",
        )
    if not isinstance(written, Generation):
        return Card(
            title,
            {"your answer": repr(written)[:80]},
            "Not judged. That is not what toolchain.generate returns. Give it.",
        )
    facts = {"tokens": f"{written.tokens:,}", "ended by": written.ended}
    by_limit = "limit" in written.ended
    if written.tokens == _TOKENS and written.ignored_eos:
        return Card(title, facts, "Right. The limit ended it, and would for any other prompt.")
    if written.tokens == _TOKENS:
        return Card(
            title,
            facts,
            f"Not right yet. These are {_TOKENS} because this prompt's answer is longer; after another prompt the "
            "model may end sooner. Tell the engine to ignore its end-of-sequence token.",
        )
    if written.tokens > _TOKENS:
        return Card(title, facts, f"Not right. {written.tokens - _TOKENS:,} too many: set max_tokens to {_TOKENS}.")
    if by_limit:
        return Card(
            title,
            facts,
            f"Not right. Your limit cut it at {written.tokens:,} tokens: max_tokens is too small by "
            f"{_TOKENS - written.tokens:,}, or was not given.",
        )
    return Card(
        title,
        facts,
        f"Not right. The model ended by itself after {written.tokens:,} tokens: its end-of-sequence token came before "
        "the limit. Tell the engine to ignore it.",
    )
