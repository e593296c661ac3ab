"""The exercises of notebook 01: which limit binds a step, what memory allows one user, and which GPU lacks FP8.

All three follow from the datasheets in ``data/gpus.toml``, with the roofline's own arithmetic.
"""

from helpers import hardware
from helpers.cards import Card
from helpers.exercises.asked import asked_in
from helpers.exercises.choosing import Option, choose_one
from helpers.exercises.judging import Mistake, judged
from helpers.hardware import Roofline

_CARD = "rtx-4090"  # in the first exercise
_STEPS = {"one": 1, "batch": 32, "prompt": 1024}  # tokens in a step
_LIMITS = ("memory", "arithmetic")
_WORDS = {
    **dict.fromkeys(("memory", "memory-bound", "bandwidth"), _LIMITS[0]),
    **dict.fromkeys(("arithmetic", "compute", "compute-bound"), _LIMITS[1]),
}
"""What may be answered, and which limit it names: the roofline's table says *compute*, and prose both."""
_FAST, _BILLION = "h100", 1e9  # in the second
_PARAMETERS = 8 * _BILLION
_GENERATIONS = ("a10g", "l4", "h200")  # in the third


@asked_in("01_gpu_checks")
def check_step_limits(one: str | None = None, batch: str | None = None, prompt: str | None = None) -> Card:
    """Which limit binds three steps in FP16 on an RTX 4090: one token, a batch of 32, and a prompt of 1,024?

    Args:
        one, batch, prompt: ``memory`` or ``arithmetic``; None while there is no answer.
    """
    sheet = hardware.by_key(_CARD)
    balance = Roofline(sheet.name, sheet.bandwidth, sheet.rates, "", 0, label="datasheet").tokens_to_balance("fp16")
    title = f"{sheet.name}, FP16: what limits a step of 1 token, of 32 tokens (a batch), of 1,024 (a prompt)?"
    answers = {"one": one, "batch": batch, "prompt": prompt}
    if any(word is None for word in answers.values()):
        return Card(
            title,
            note="Not answered yet: give 'memory' or 'arithmetic' for each of the three. Each weight that is read is "
            "used once per token of the step.",
        )
    facts = {"your answer": ", ".join(f"{name}: {word}" for name, word in answers.items())}
    given = {name: _WORDS.get(str(word).strip().lower()) for name, word in answers.items()}
    strange = next((answers[name] for name, limit in given.items() if limit is None), None)
    if strange is not None:
        return Card(title, facts, f"Not judged. Choose 'memory' or 'arithmetic' for each; {strange!r} is neither.")
    right = {name: _LIMITS[tokens > balance] for name, tokens in _STEPS.items()}
    facts["datasheet: tokens to balance"] = f"{balance:,.0f}"
    wrong = [_told(name, right[name], balance) for name in _STEPS if given[name] != right[name]]
    if wrong:
        return Card(title, facts, f"Not yet. {' '.join(wrong)}")
    return Card(title, facts, f"Right. Below {balance:,.0f} tokens in a step memory decides, above it arithmetic.")


def _told(name: str, right: str, balance: float) -> str:
    """Why a step is bound by the limit that was not named."""
    tokens = _STEPS[name]
    if right == "memory":
        return (
            f"A step of {tokens:,} token{'s' if tokens > 1 else ''} reads all weights and uses each {tokens:,} "
            f"time{'s' if tokens > 1 else ''}; both limits take equally long only at {balance:,.0f}, so memory decides."
        )
    return (
        f"A step of {tokens:,} tokens uses each weight {tokens:,} times, more than {balance:,.0f}: arithmetic decides."
    )


@asked_in("01_gpu_checks")
def check_one_user(answer: float | None = None) -> Card:
    """How many tokens a second does memory allow one user of an 8B model in FP8 on an H100, at most?

    Args:
        answer: tokens a second; None while there is no answer.
    """
    sheet = hardware.by_key(_FAST)
    title = (
        f"8 billion weights in FP8 on an {sheet.name}, which reads {sheet.bandwidth / _BILLION:,.0f} GB a second "
        "(datasheet): how many tokens a second for one user, at most?"
    )
    if answer is None:
        return Card(title, note="Not answered yet: each token reads every weight once. Divide one by the other.")
    right = sheet.bandwidth / _PARAMETERS
    mistakes = [
        Mistake(right / 2, "That is for FP16, two bytes a weight. In FP8 each has one."),
        Mistake(right * 8, "You counted 8 bits as an eighth of a byte. A weight in FP8 is one whole byte."),
        Mistake(right / 8, "You read 8 bytes for each weight. 8 bits are one byte."),
        Mistake(1000 / right, "Those are milliseconds for one token. Asked are tokens a second: the inverse."),
        Mistake(1 / right, "Those are seconds for one token. Asked are tokens a second: the inverse."),
        Mistake(
            sheet.rates["fp8"] / (2 * _PARAMETERS),
            "That is what the arithmetic allows. One user's tokens wait for memory long before.",
        ),
    ]
    working = f"{sheet.bandwidth / _BILLION:,.0f} / {_PARAMETERS / _BILLION:.0f}. predicted: an engine stays below it."
    start = "Each token reads every weight once, one byte each."
    return judged(title, answer, "tokens/s", right, mistakes, working, start, tolerance=0.02)


@asked_in("01_gpu_checks")
def check_without_fp8(answer: object = None) -> Card:
    """Which of three GPUs has no FP8 in its tensor cores?

    Args:
        answer: a key of ``data/gpus.toml``; None while there is no answer.
    """
    return choose_one(
        f"Which one of {', '.join(_GENERATIONS)} cannot run an engine in FP8?",
        answer,
        {key: _fp8(key) for key in _GENERATIONS},
        f"give one of {', '.join(_GENERATIONS)}. The table of precisions names the generations that have FP8.",
        "INT8 is the eight bits there.",
    )


def _fp8(key: str) -> Option:
    """Whether a GPU lacks FP8, with its generation."""
    sheet = hardware.by_key(key)
    support = hardware.support(sheet.compute_capability)
    lacks = support is None or "fp8" not in support.engine_weights
    major, minor = sheet.compute_capability
    generation = f"The {sheet.name} is of the generation {sheet.architecture} (compute capability {major}.{minor})"
    return Option(lacks, f"{generation}, which has {'no ' if lacks else ''}FP8.")
