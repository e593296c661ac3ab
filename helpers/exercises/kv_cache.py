"""The exercises of notebook 05: how many requests fit, and which precisions a GPU, a batch and block reuse allow."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from helpers import hardware, memory
from helpers.cards import Card, bytes_text
from helpers.exercises.asked import asked_in
from helpers.exercises.judging import Mistake, Question
from helpers.memory import Fit
from helpers.toolchains.choices import CHECKPOINTS

_PROMPT = _ANSWER = 1000  # tokens, in the first exercise
_TOLERANCE = 0.03  # there: the same with FP16 weights, which the lesson shows, is 4.5 % less
_MODEL, _GPU, _REQUESTS, _SEQUENCE = "Llama-3.1-8B-Instruct", "rtx-4090", 64, 2048  # in the second

_CACHES = {"fp16": None, "fp8": "fp8", "int8": "int8"}


# --- How many requests ---------------------------------------------------------------


@asked_in("05_kv_cache_quantization")
def check_requests_on_a10g(answer: float | None = None) -> Card:
    """How many requests of 2,000 tokens (1,000 in, 1,000 out) fit on an A10G: TinyLlama, INT8, a 16-bit KV cache?

    Args:
        answer: a number of requests; None while there is none.
    """
    plan = memory.fit("TinyLlama", "a10g", "int8_sq", sequence=_PROMPT + _ANSWER)
    question = Question(
        title="How many 2,000-token requests of TinyLlama in INT8 fit on an A10G?",
        unanswered="take from the GPU's memory what is loaded, 80 % of the rest becomes KV cache; then divide by what "
        "the keys and values of one request take, in every layer.",
        unit="requests",
        such_as="100",
        right=plan.requests,
        by="the planner's",
        mistakes=_mistakes(plan),
        zero="At least one fits: the weights take a small part of this GPU. Compute what one request takes first.",
        start="One token takes 2 (key and value) × layers × key-value heads × size of a head × bytes of a number; "
        "start from that.",
        tolerance=_TOLERANCE,
    )
    return question.judge(answer, lambda given: _working(plan, given))


def _working(plan: Fit, answer: float) -> str:
    """How the planner comes to its number, and where a right answer differs from it."""
    text = (
        f"{bytes_text(plan.free)} are free beside the weights, {bytes_text(plan.pool)} of it become KV cache, and a "
        f"request takes {plan.blocks_per_request} blocks of {plan.tokens_per_block} tokens, "
        f"{bytes_text(plan.blocks_per_request * plan.block)}."
    )
    by_tokens = plan.tokens // plan.sequence
    if answer == by_tokens != plan.requests:
        text += (
            f" The planner's number is {plan.requests:,}, since a request takes whole blocks: "
            f"{plan.sequence:,} tokens fill {plan.sequence / plan.tokens_per_block:g} of them and take "
            f"{plan.blocks_per_request}."
        )
    return text


def _mistakes(plan: Fit) -> list[Mistake]:
    """Plausible wrong turns, each with the number that it leads to."""
    shape, per_request = plan.shape, plan.blocks_per_request * plan.block
    cached = plan.pool / per_request
    all_heads = replace(shape, kv_heads=shape.heads)
    larger = memory.kv_bytes_per_token(all_heads) / plan.kv_per_token
    whole = (
        "You gave the whole GPU to the KV cache. Take off what is loaded first (weights, activations, the runtime), "
        f"and the runtime then takes only {plan.share:.0%} of what is free."
    )
    half = math.ceil(_PROMPT / plan.tokens_per_block) * plan.block
    return [
        Mistake(
            2 * cached,
            "It is twice what fits. Either you counted keys alone, and each token keeps a key and a value, or one "
            "byte a number: the weights are INT8 here, but the KV cache keeps 16 bits unless it is quantized itself.",
        ),
        Mistake(
            plan.pool / half,
            f"You counted the prompt or the answer alone, {_PROMPT:,} tokens. A request keeps the keys and values of "
            "both until it ends.",
        ),
        Mistake(
            cached / larger,
            f"You counted a key and a value for all {shape.heads} heads. This model has {shape.kv_heads} key-value "
            f"heads, which {shape.heads // shape.kv_heads} heads share each (grouped-query attention): "
            f"its KV cache is {larger:.0f} times smaller.",
        ),
        Mistake(
            memory.fit("TinyLlama", "a10g", "fp16", sequence=plan.sequence).requests,
            "That is with FP16 weights. INT8 weights take about half of their bytes, and the KV cache gets a share of "
            "what that frees.",
        ),
        Mistake(
            plan.share * (plan.memory - plan.weights) / per_request,
            "You left out a part of what is loaded. Beside the weights there are the runtime and a step's activations: "
            f"the planner's estimates for them are {bytes_text(plan.memory - plan.weights - plan.free)} together.",
        ),
        Mistake(plan.memory / per_request, whole),
        # A GPU's gigabytes are 10⁹ bytes as sold; with 2³⁰ it looks larger.
        Mistake(plan.memory / 1e9 * memory.GIB / per_request, whole),
        Mistake(
            plan.free / per_request,
            f"You gave all that is free to the KV cache. The runtime takes a share of it, {plan.share:.0%} here, and "
            "leaves the rest for what nobody planned.",
        ),
        Mistake(
            plan.share * plan.memory / per_request,
            f"You took {plan.share:.0%} of the whole GPU. The share is of what is left once the weights, the "
            "activations and the runtime are loaded.",
        ),
    ]


# --- Which precisions ----------------------------------------------------------------


@asked_in("05_kv_cache_quantization")
def check_precisions(weights: str | None = None, kv: str | None = None) -> Card:
    """Pick precisions: Llama 3.1 8B on one RTX 4090, 64 requests of 2,048 tokens, and KV blocks can be used again.

    Args:
        weights: ``fp16``, ``fp8``, ``int8``, ``int8_wo`` or ``int4_awq``; None while there is no answer.
        kv: ``fp16`` (or None), ``fp8`` or ``int8``.
    """
    title = f"{_MODEL} on one RTX 4090: at least {_REQUESTS} requests of {_SEQUENCE:,} tokens, with KV-block reuse"
    if weights is None:
        return Card(
            title,
            note="Not answered yet: give both, such as my_weights, my_kv = 'fp16', 'fp16'. Fewer bits in the "
            "weights leave more memory, fewer bits in the KV cache put more requests into it, and some pairs "
            "switch off the attention that block reuse needs.",
        )
    cache = "fp16" if kv is None else kv
    if str(weights) not in CHECKPOINTS or str(cache) not in _CACHES:
        return Card(
            title,
            {"your answer": f"weights {weights!r}, KV cache {kv!r}"},
            f"Not judged. Choose the weights from {', '.join(CHECKPOINTS)} and the KV cache from {', '.join(_CACHES)}.",
        )
    judged = _judge(weights, cache)
    facts = {"your answer": f"weights {weights}, KV cache {cache}", **judged.facts}
    if judged.right:
        return Card(title, facts, f"Right. {_company(weights, cache)}")
    return Card(title, facts, f"Not yet: {judged.wrong}.")


@dataclass(frozen=True)
class _Judged:
    """A pair of precisions against the three conditions: what to show of each, and which fail and by how much."""

    facts: dict[str, str]
    wrong: str

    @property
    def right(self) -> bool:
        """True if no condition fails."""
        return not self.wrong


def _judge(weights: str, cache: str) -> _Judged:
    """Hold a pair against the three conditions."""
    from helpers.toolchains.tensorrt_llm.kv import kv_choices_of, side_effects

    sheet, wrong = hardware.by_key(_GPU), []
    plan = memory.fit(_MODEL, _GPU, CHECKPOINTS[weights], _CACHES[cache], _REQUESTS, sequence=_SEQUENCE)
    offered = _CACHES[cache] in kv_choices_of(sheet.name, sheet.compute_capability).offered(weights)
    effects = side_effects(weights, _CACHES[cache])
    if plan.requests < _REQUESTS:
        wrong.append(f"{_REQUESTS - plan.requests} requests too few fit ({plan.requests} of {_REQUESTS})")
    if not offered:
        wrong.append(f"the {sheet.name} has no engine of this pair")
    if not effects.reuse:
        wrong.append(f"block reuse is lost ({effects.why.rstrip('.')})")
    facts = {
        "requests that fit": f"{plan.requests} of {_REQUESTS} wanted",
        "on this GPU": "offered" if offered else "not offered",
        "block reuse": "kept" if effects.reuse else "lost",
    }
    return _Judged(facts, "; ".join(wrong))


def solutions() -> list[tuple[str, str]]:
    """Every pair of weights and KV cache that meets the second exercise's conditions."""
    return [pair for pair in _pairs() if _judge(*pair).right]


def _pairs() -> Iterator[tuple[str, str]]:
    return ((weights, cache) for weights in CHECKPOINTS for cache in _CACHES)


def _company(weights: str, cache: str) -> str:
    """What the other pairs lack, counted."""
    others = [_judge(*pair) for pair in _pairs() if pair != (weights, cache)]
    also = sum(other.right for other in others)
    lost = sum(other.facts["block reuse"] == "lost" for other in others)
    few = sum("too few" in other.wrong for other in others)
    first = "No other pair meets all three conditions" if not also else f"So do {also} other pairs"
    return f"{first}: of the {len(others)} others, {few} hold too few requests and {lost} lose block reuse."
