"""The exercises of notebook 06: what ranks hand to each other, and how many GPUs a large model needs."""

import math
from dataclasses import dataclass, replace

from helpers import hardware, memory
from helpers.cards import Card, bytes_text
from helpers.errors import WorkshopError
from helpers.exercises.asked import asked_in
from helpers.exercises.judging import Mistake, Question
from helpers.hardware import Datasheet
from helpers.memory import Fit, Shape
from helpers.tensor_parallel import predict

_SMALL, _RANKS, _GENERATING = "Llama-3.1-8B-Instruct", 4, 16  # in the first exercise
_FP16 = 2  # bytes of a number
_LARGE, _REQUESTS, _SEQUENCE = "Llama-3.1-70B-Instruct", 32, 4096  # in the second
_PRECISION = "fp8"  # of weights and KV cache there
_ROOMY = 4096.0  # GiB: a GPU on which everything fits, to see how much that is


def _shape(model: str) -> Shape:
    """The numbers of a known model."""
    return memory.named(model)[1]


# --- What one rank hands to all-reduces ----------------------------------------------


@asked_in("06_tensor_parallelism")
def check_all_reduce_bytes(answer: float | None = None) -> Card:
    """Bytes that one rank hands to all-reduces in a step: Llama 3.1 8B in FP16, 4 GPUs, 16 requests generating.

    Args:
        answer: a number of bytes; None while there is none.
    """
    shape = _shape(_SMALL)
    question = Question(
        title=f"{_SMALL} in FP16 on {_RANKS} GPUs, {_GENERATING} requests in the generation phase: how many bytes does "
        "one rank hand to the layers' all-reduces in one step?",
        unanswered="in the generation phase each request brings one token to a step. Count the all-reduces of a layer, "
        "then what each of them adds up: one vector a token, and how long it is.",
        unit="bytes",
        such_as="1000000",
        right=predict.all_reduce_bytes(shape, _GENERATING, _FP16),
        by="computed",
        mistakes=_mistakes(shape),
        zero="Each rank has only a partial sum after attention and after the MLP, so it hands over something.",
        start="One all-reduce adds up one vector of the hidden size for each token; count the vectors, then their "
        "bytes.",
    )
    return question.judge(answer, lambda _: _working(shape))


def _working(shape: Shape) -> str:
    """How the right number is computed."""
    one = _GENERATING * shape.hidden * _FP16
    return (
        f"2 all-reduces × {shape.layers} layers × {_GENERATING} tokens × {shape.hidden:,} numbers × {_FP16} bytes: "
        f"{predict.all_reduces(shape)} all-reduces of {one:,} bytes each. The number of GPUs is not in it: a partial "
        "sum is as long as the whole."
    )


def _mistakes(shape: Shape) -> list[Mistake]:
    """Plausible wrong turns, each with the number that it leads to."""
    right = predict.all_reduce_bytes(shape, _GENERATING, _FP16)
    every = predict.all_reduces(shape)
    whole = "a partial sum has every output"
    return [
        Mistake(
            right / 2,
            "It is half of it. Either you counted one all-reduce a layer, and there is one after attention and one "
            "after the MLP, or one byte a number, and FP16 has two.",
        ),
        Mistake(
            right / _GENERATING,
            f"You counted one request. Each of the {_GENERATING} brings a token to the step, and its vector is added "
            "up too.",
        ),
        Mistake(
            2 * right,
            "It is twice that. Either you counted 4 bytes a number, as in FP32, and FP16 has two, or more than two "
            "all-reduces a layer.",
        ),
        Mistake(right / 1e6, "It looks like megabytes. Give bytes."),
        Mistake(
            right / _RANKS,
            f"You divided by the {_RANKS} ranks. The weights are shared out, but the vector that a rank hands over is "
            f"not: {whole}.",
        ),
        Mistake(right * _RANKS, f"You counted what all {_RANKS} ranks hand over together. Asked is one rank's."),
        Mistake(
            right / shape.hidden * shape.intermediate,
            f"You counted the MLP's intermediate size, {shape.intermediate:,}. Those numbers stay on their rank: what "
            f"is added up is the result of the MLP, of the hidden size, {shape.hidden:,}.",
        ),
        Mistake(
            right * 2 * (_RANKS - 1) / _RANKS,
            "You counted what a ring of GPUs sends over its links, 2 (n − 1) / n times as much. Asked is what a rank "
            "hands to the all-reduce.",
        ),
        Mistake(
            right / shape.layers,
            f"That is 1/{shape.layers} of it: one layer in place of {shape.layers}, or one all-reduce a layer for one "
            f"request, where a layer has two and {_GENERATING} requests take part.",
        ),
        Mistake(right / every, f"You counted one all-reduce. A step has {every}: two in each layer."),
    ]


# --- Which GPUs ----------------------------------------------------------------------


@asked_in("06_tensor_parallelism")
def check_gpus_for_70b(gpu: str | None = None, tp_size: int | None = None) -> Card:
    """Pick GPUs: Llama 3.1 70B with FP8 weights and KV cache, 32 requests of 4,096 tokens at once, on the fewest.

    Args:
        gpu: a key of ``data/gpus.toml``; None while there is no answer.
        tp_size: number of these GPUs.
    """
    title = (
        f"{_LARGE} with FP8 weights and FP8 KV cache, {_REQUESTS} requests of {_SEQUENCE:,} tokens at once: which GPU, "
        "and how many at least?"
    )
    if gpu is None or tp_size is None:
        return Card(
            title,
            note="Not answered yet: give a GPU and a number, such as my_gpu, my_ranks = 'a10g', 2. It must have FP8, "
            "together they must hold weights and KV cache, and each needs whole heads. The GPUs are "
            f"{', '.join(sheet.key for sheet in hardware.datasheets())}.",
        )
    facts = {"your answer": f"{tp_size} × {gpu}"}
    if isinstance(tp_size, bool) or not isinstance(tp_size, int) or tp_size < 1:
        return Card(title, facts, f"Not judged. {tp_size!r} is no number of GPUs. Give a whole number of at least 1.")
    try:
        sheet = hardware.by_key(str(gpu))
    except WorkshopError as unknown:
        return Card(title, facts, f"Not judged. {unknown}")
    judged = _judge(sheet, tp_size)
    facts = {"your answer": f"{tp_size} × {sheet.name}", **judged.facts}
    if judged.wrong:
        return Card(title, facts, f"Not yet: {'; '.join(judged.wrong)}.")
    return Card(title, facts, " ".join(["Right.", *_company(sheet, tp_size), *_remarks(sheet, tp_size)]))


def gpus_for_70b() -> list[tuple[str, int]]:
    """Every GPU of ``data/gpus.toml`` that answers the second exercise, and how many of it."""
    splits = _shape(_LARGE).splits
    return [(sheet.key, n) for sheet in hardware.datasheets() for n in splits if not _judge(sheet, n).wrong]


@dataclass(frozen=True)
class _Judged:
    """A number of GPUs of a kind: what to show of each condition, and which fail and by how much."""

    facts: dict[str, str]
    wrong: tuple[str, ...]


def _judge(sheet: Datasheet, ranks: int) -> _Judged:
    """Hold GPUs against the conditions."""
    refused = _precision(sheet)
    wrong = [refused] if refused else []
    facts = {"FP8 engine": "not offered" if refused else "offered"}
    if sheet.slice_of and ranks > 1:
        wrong.append(f"the {sheet.name} is a slice of a GPU, and a slice reaches no other")
    shape = _shape(_LARGE)
    if ranks not in shape.splits:
        kinds = ((shape.heads, "heads"), (shape.kv_heads, "key-value heads"))
        heads = " and ".join(f"{count} {kind}" for count, kind in kinds if count % ranks)
        wrong.append(f"{heads} do not divide by {ranks}, only by {', '.join(map(str, shape.splits))}")
        return _Judged(facts, tuple(wrong))
    if refused:
        return _Judged(facts, tuple(wrong))
    plan = _plan(sheet, ranks)
    facts["requests that fit"] = f"{plan.requests}, and {_REQUESTS} are wanted"
    facts["needed on each GPU"] = f"{bytes_text(_needed(plan))} of {bytes_text(plan.memory)}"
    return _Judged(facts, (*wrong, *_room(sheet, plan)))


def _room(sheet: Datasheet, plan: Fit) -> list[str]:
    """What is wrong with the room: too little of it, or fewer GPUs have enough."""
    if plan.requests < _REQUESTS:
        if plan.weights > plan.memory:
            begin = "the weights alone do not fit"
        elif plan.free <= 0:
            begin = "the weights and what a step works with do not fit"
        else:
            begin = f"{_REQUESTS - plan.requests} requests too few fit ({plan.requests} of {_REQUESTS})"
        which = "each GPU" if plan.tp_size > 1 else "the GPU"
        return [f"{begin}; {which} is {bytes_text(_needed(plan) - plan.memory)} too small, KV cache included"]
    fewer = [n for n in plan.shape.splits if n < plan.tp_size and _plan(sheet, n).requests >= _REQUESTS]
    return [f"more GPUs than needed, {fewer[0]} already hold{'' if fewer[0] > 1 else 's'} it"] if fewer else []


def _plan(sheet: Datasheet, ranks: int) -> Fit:
    """The planner's table for GPUs of a kind; unlike :func:`memory.fit` it is there where nothing fits, too."""
    roomy = memory.fit(_LARGE, _ROOMY, _PRECISION, _PRECISION, _REQUESTS, sequence=_SEQUENCE, tp_size=ranks)
    return replace(roomy, gpu=sheet.name, memory=sheet.memory_bytes)


def _needed(plan: Fit) -> int:
    """Bytes that each GPU must have, so that all requests fit."""
    cache = _REQUESTS * plan.blocks_per_request * plan.block
    return plan.memory - plan.free + math.ceil(cache / plan.share)


def _precision(sheet: Datasheet) -> str:
    """Why a GPU has no engine in FP8; empty where it has."""
    here = hardware.support(sheet.compute_capability)
    if here is None:
        return f"TensorRT-LLM's releases have no kernels for the {sheet.name}"
    if _PRECISION not in here.engine_weights or _PRECISION not in here.engine_kv:
        why = here.refusals.get(_PRECISION, "").rstrip(".")
        return f"no engine in FP8 is offered for the {sheet.name}{f' ({why})' if why else ''}"
    return ""


def _company(sheet: Datasheet, ranks: int) -> list[str]:
    """How many other answers are right."""
    others = [f"{n} × {hardware.by_key(key).name}" for key, n in gpus_for_70b() if (key, n) != (sheet.key, ranks)]
    return [f"So are {', '.join(others)}." if others else "No other GPU of the table answers it."]


def _remarks(sheet: Datasheet, ranks: int) -> list[str]:
    """What the way between the GPUs means for their all-reduces."""
    if ranks == 1:
        return ["One GPU exchanges nothing."]
    count = predict.all_reduces(_shape(_LARGE))
    step = f"each of the {count} all-reduces of a step"
    return {
        "nvlink": [f"They are joined by NVLink, which {step} goes over."],
        "nvlink bridge": [f"An NVLink bridge joins two of them where one is mounted; else {step} goes over PCIe."],
        "none": [f"But they cannot reach each other's memory: {step} goes through the host's memory."],
    }.get(sheet.peer_to_peer, [f"No source says how they reach each other's memory, which {step} depends on."])
