"""The exercises of notebook 10: the scale of a joined matrix, and what takes the place of INT8 on an A10G.

The judges are the two packagings as they lie in the workspace, and the PyTorch back end's own table of precisions.
"""

from typing import TYPE_CHECKING

from helpers.cards import Card
from helpers.checkpoint import KV_TITLES
from helpers.exercises.asked import asked_in
from helpers.exercises.judging import Mistake, judged

if TYPE_CHECKING:
    from helpers.unified import Packagings

_GPU = "a10g"
_ROUNDED = 0.002  # of a scale: tables show six digits behind the point


@asked_in("10_pytorch_backend")
def check_joined_scale(packagings: "Packagings", scale: float | None = None, factor: float | None = None) -> Card:
    """Which scale has layer 0's joined query, key and value, and how many times coarser does it make the values' steps?

    Args:
        packagings: from :func:`helpers.unified.compare`, in FP8.
        scale: of the joined matrix; None while there is no answer.
        factor: the joined scale against the values' own; None while there is no answer.
    """
    query, key, value = (packagings.of(f"{one}_proj")[0].unified for one in "qkv")
    title = (
        f"Layer 0: query {query:.6f}, key {key:.6f}, value {value:.6f} are the scales of the weights. Which scale has "
        "the matrix of all three, and how many times coarser are the values' steps in it?"
    )
    if scale is None or factor is None:
        return Card(
            title,
            note="Not answered yet: the largest number of all three must still fit. Give the scale, then a ratio.",
        )
    right = max(query, key, value)
    own = max(query, value)
    mistakes = [
        Mistake(min(query, key, value), "With the smallest, numbers of the others do not fit: they would be cut off."),
        Mistake((query + key + value) / 3, "With the mean, the largest numbers do not fit: they would be cut off."),
        Mistake(own, "That is not the largest of the three."),
        Mistake(query + key + value, "Scales do not add up: the matrices lie side by side."),
    ]
    said = judged(title, scale, "", right, mistakes, "It is the largest.", "Take one of three.", {}, _ROUNDED)
    if not said.note.startswith("Right"):
        return said
    coarser = [
        Mistake(value / right, "That is upside down: coarser steps are larger ones."),
        Mistake(right / query, "That is the query's. The values' own scale is smaller or larger than that one."),
        Mistake(right / key, "That is the key's."),
        Mistake(right - value, "That is a difference. Give a ratio."),
    ]
    kept = (
        "the values kept fewer different numbers"
        if right > value
        else "it is the values' own scale, so they lost nothing"
    )
    working = f"The scale is the largest, and {right:.6f} / {value:.6f}: {kept}."
    facts = {"scale": f"{right:.6f}"}
    start = "Divide the joined scale by the values' own."
    return judged(title, factor, "times", right / value, coarser, working, start, facts, 2 * _ROUNDED)


@asked_in("10_pytorch_backend")
def check_after_int8(weights: str | None = None, cache: str | None = "?") -> Card:
    """What takes the place of INT8 weights and an INT8 KV cache on an A10G, in the PyTorch back end?

    Args:
        weights: ``"fp16"``, ``"fp8"``, ``"int8"`` or ``"int4_awq"``; None while there is no answer.
        cache: ``"fp8"``, ``"int8"`` or None for 16 bits; ``"?"`` while there is no answer.
    """
    from helpers.toolchains import tensorrt_llm_pytorch as toolchain

    title = "TinyLlama on an A10G, after engines: smaller weights than 16 bits, and a smaller KV cache"
    if weights is None or cache == "?":
        return Card(title, note="Not answered yet: the table above has a row for each kind of weights on an A10G.")
    offered, caches = toolchain.choices(_GPU), toolchain.kv_choices(_GPU)
    facts = {"your answer": f"weights {weights!r}, KV cache {cache!r}"}
    if weights not in offered.reasons:
        return Card(
            title, facts, f"Not judged. There is no {weights!r}. Choose one of {', '.join(map(repr, offered.reasons))}."
        )
    if weights not in offered.offered:
        return Card(title, facts, f"Not right. {offered.reasons[weights]}")
    if weights == "fp16":
        return Card(title, facts, "Not right. It runs, and the weights stay as large as they were. What has 4 bits?")
    if cache not in KV_TITLES:
        return Card(title, facts, f"Not judged. There is no KV cache in {cache!r}. Choose 'fp8', 'int8' or None.")
    if cache not in caches.offered(weights):
        why = next(row.why for row in caches.rows if (row.precision, row.kv) == (weights, cache))
        return Card(title, facts, f"Not right. The weights are, and the KV cache is not: {why}")
    if cache is None:
        note = "Not yet. The weights are right. The KV cache would take twice the bytes of INT8's: what has 8 bits?"
        return Card(title, facts, note)
    return Card(
        title,
        facts,
        "Right. The weights shrink to 4 bits and are widened to 16 to be multiplied, so the context phase gains "
        "nothing from it. The FP8 cache is a way to keep keys and values, which NVIDIA's table has for Ampere too.",
    )
