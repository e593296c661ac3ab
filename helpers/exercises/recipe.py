"""The exercises of notebook 07: what a change redoes, lengths that a model can read, and what a server refuses.

The judges are the things themselves: the comparison of two plans, the rules with the memory planner, and the checks
that the CPU server makes of a request before its engine sees it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from helpers.cards import Card
from helpers.errors import WorkshopError
from helpers.exercises.asked import asked_in
from helpers.exercises.choosing import names
from helpers.recipe.diff import SERVER
from helpers.workspace import DATA

if TYPE_CHECKING:
    from helpers.recipe import Recipe
    from helpers.recipe.diff import Redone
    from helpers.serving.app.http import Limits
    from helpers.serving.app.text import Text

_CHANGED, _FIELD, _TO = "tinyllama-fp8-rtx-4090", "max_batch_size", 128  # in the first exercise
_LENGTHS, _PROMPT, _ANSWER = "tinyllama-int8-a10g-talk", 1000, 100  # in the second
_BATCH = 512
"""Requests in the second exercise, so many that memory binds and not only the positions. predicted: of 1,000 + 1,000
tokens 366 fit into the A10G beside TinyLlama's INT8 weights, of 1,000 + 500 tokens 491, of 1,000 + 100 tokens 659."""
_SERVED = "bundled-cpu"  # in the third


# --- What a change redoes ------------------------------------------------------------


@asked_in("07_build_from_config")
def check_recipe_change(answer: str | Iterable[str] | None = None) -> Card:
    """Which stages does raising max_batch_size from 64 to 128 redo, in the recipe for TinyLlama in FP8 on a 4090?

    Args:
        answer: the names of those stages, such as ``["download", "quantization"]``; None while there is no answer. The
            server may be named or left out: it makes nothing that is kept.
    """
    before, stages = _change()
    title = f"{_CHANGED}: {_FIELD} goes from {before} to {_TO}. Which stages are done again?"
    every = ", ".join(stages)
    if answer is None:
        return Card(
            title,
            note=f"Not answered yet: give a list of some of {every}. A stage is done again when its own command "
            "changes, or when what it reads is made anew.",
        )
    kinds = {stage.step.kind: name for name, stage in stages.items()}
    given = [kinds.get(name.lower(), name.lower()) for name in names(answer)]
    facts = {"your answer": ", ".join(given) or "none"}
    unknown = [name for name in given if name not in stages]
    if unknown:
        return Card(title, facts, f"Not judged. There is no stage {unknown[0]!r} here. The stages are {every}.")
    made = {name: stage for name, stage in stages.items() if stage.step.kind != SERVER}
    wrong = [_told(name, stage) for name, stage in made.items() if stage.redone is not (name in given)]
    if wrong:
        return Card(title, facts, f"Not yet. {' '.join(wrong)}")
    again = " and ".join(name for name, stage in made.items() if stage.redone)
    kept = ", ".join(name for name, stage in stages.items() if not stage.redone)
    restarts = any(stage.redone for stage in stages.values() if stage.step.kind == SERVER)
    server = " The server starts again too, as it reads the new engine." if restarts else ""
    whys = {name: _why(stage) for name, stage in stages.items()}
    return Card(title, {**facts, **whys}, f"Right. Done again: the {again}.{server} Kept: {kept}.")


@cache
def _change() -> "tuple[int, Mapping[str, Redone]]":
    """The value before, and for each stage whether the change does it again, and why."""
    from helpers import recipe
    from helpers.recipe.diff import diff

    before = recipe.load(_CHANGED)
    compared = diff(before, before.changed(None, **{_FIELD: _TO}))
    return getattr(before, _FIELD), {stage.step.title: stage for stage in compared.stages}


def _told(name: str, stage: "Redone") -> str:
    """What an answer has wrong about one stage."""
    if stage.redone:
        return f"The {name} is done again too: {_why(stage)}."
    return f"The {name} is kept: {_why(stage)}."


def _why(stage: "Redone") -> str:
    """Why a stage is done again or kept, in words that stand without the table of the comparison."""
    return stage.why if stage.redone else "its command and its inputs do not change"


# --- Lengths -------------------------------------------------------------------------


@asked_in("07_build_from_config")
def check_talk_recipe(max_input_len: int | None = None, max_output_len: int | None = None) -> Card:
    """Mend the talk's recipe for 512 requests at once: lengths that TinyLlama can read and the A10G has room for.

    Prompts may have 1,000 tokens or more and answers 100 or more, prompt and answer stay within the model's positions,
    and all 512 requests fit into the KV cache at full length. Several answers are right.

    Args:
        max_input_len: tokens of a prompt, at most; None while there is no answer.
        max_output_len: tokens of an answer, at most.
    """
    from helpers import recipe
    from helpers.recipe import rules

    talk = recipe.load(_LENGTHS)
    shape = rules.shape(talk)
    assert shape is not None  # TinyLlama is in data/models.toml
    title = (
        f"{_LENGTHS} with max_batch_size {_BATCH:,}: max_input_len at least {_PROMPT:,}, max_output_len at least "
        f"{_ANSWER:,}, both together within {talk.model}'s {shape.positions:,} positions, and all {_BATCH:,} requests "
        "in the KV cache at full length"
    )
    if max_input_len is None or max_output_len is None:
        return Card(
            title,
            note="Not answered yet: give both lengths, such as my_input_len, my_output_len = 1500, 1500. A request "
            "takes a position of the model, and room in the KV cache, for each token of its prompt and of its answer.",
        )
    facts = {"your answer": f"max_input_len {max_input_len!r}, max_output_len {max_output_len!r}"}
    try:
        mended = talk.changed(max_batch_size=_BATCH, max_input_len=max_input_len, max_output_len=max_output_len)
    except WorkshopError as refused:
        return Card(title, facts, f"Not judged. {refused}")
    return _judged(title, facts, mended)


def _judged(title: str, facts: Mapping[str, str], mended: "Recipe") -> Card:
    """Hold lengths against the task, the rules and the memory planner."""
    from helpers.recipe import rules

    shape, plan = rules.shape(mended), rules.fit(mended)
    assert shape is not None  # TinyLlama is in data/models.toml
    assert plan is not None
    room = f"{plan.requests:,} at full length, and {mended.max_batch_size:,} are asked for"
    facts = {
        **facts,
        "prompt and answer": f"{mended.max_seq_len:,} tokens, and the model has {shape.positions:,} positions",
        "predicted: requests that fit": room,
    }
    wrong = [*_too_short(mended), *(one.text for one in rules.check(mended) if one.field in _JUDGED[one.kind])]
    if 0 < plan.requests < _BATCH:
        wrong.append(f"{_BATCH - plan.requests:,} of the {_BATCH:,} do not fit: shorter requests leave room for more.")
    if wrong:
        return Card(title, facts, f"Not yet. {' '.join(wrong)}")
    left = shape.positions - mended.max_seq_len
    free = f" {left:,} of the {shape.positions:,} positions are not used: memory sets the limit here." if left else ""
    return Card(title, facts, f"Right. predicted: all {_BATCH:,} fit at full length.{free}")


_SIZES = frozenset({"max_input_len", "max_output_len", "max_batch_size", "max_num_tokens"})
_JUDGED: Mapping[str, frozenset[str]] = {
    "problem": _SIZES | {"gpu"},
    "warning": _SIZES - {"max_batch_size"},
    "note": frozenset(),
}
"""Which remarks of the rules, by kind, count against an answer: those that lengths can cause.

How many requests do not fit is said in fewer words than theirs, beside the number that fit.
"""


def _too_short(mended: "Recipe") -> Iterator[str]:
    """What falls short of the task."""
    least = (("Prompts", "max_input_len", _PROMPT), ("Answers", "max_output_len", _ANSWER))
    for what, field, tokens in least:
        value = getattr(mended, field)
        if value < tokens:
            yield f"{what} of {tokens:,} tokens are asked for: {field} is {tokens - value:,} too small."


# --- A request -----------------------------------------------------------------------

REQUEST: Mapping[str, Any] = {
    "model": "TinyLlama",
    "prompt": "Born in north-east France, Soyer trained as a",
    "max_tokens": 4000,
    "max_new_tokens": 32,
    "temperature": 0.7,
    "ignore_eos": True,
    "stream": False,
    "stream_options": {"include_usage": True},
    "user": "me",
}
"""The body that the third exercise is about."""

_NEEDED = ("model", "prompt", "stream")  # what the other fields are judged beside
_ACCEPTED = {
    "model": "the server has one model and does not compare the name",
    "ignore_eos": "OpenAI has no such field, but trtllm-serve knows it, and so does this server",
    "user": "it is known, and nothing is done with it",
}
"""Why fields that look wrong are not."""


@asked_in("07_build_from_config")
def check_request(fields: str | Iterable[str] | None = None) -> Card:
    """Which fields of a request does the server refuse? Its own checks judge, with the sizes of the bundled recipe.

    Args:
        fields: the names of those fields, such as ``["model", "user"]``; None while there is no answer.
    """
    from helpers import recipe

    served = recipe.load(_SERVED)
    title = (
        f"POST /v1/completions to {_SERVED}, at most {served.max_seq_len:,} tokens, prompt and answer together: which "
        "fields of this body are refused?"
    )
    body = {name: json.dumps(value) for name, value in REQUEST.items()}
    if fields is None:
        return Card(
            title,
            body,
            "Not answered yet: give a list of fields, such as ['model', 'user']. The server forbids what it does not "
            "know, what does not go together, and what its engine has no room for.",
        )
    given = names(fields)
    facts = {"your answer": ", ".join(given) or "none"}
    unknown = [name for name in given if name not in REQUEST]
    if unknown:
        return Card(title, facts, f"Not judged. The request has no field {unknown[0]!r}. It has {', '.join(REQUEST)}.")
    refused = _refused()
    extra, missed = [name for name in given if name not in refused], [name for name in refused if name not in given]
    if extra or missed:
        taken = [
            f"{name} is accepted: {_ACCEPTED.get(name, 'it is known, and its value is allowed')}." for name in extra
        ]
        more = f"{len(missed)} more {'is' if len(missed) == 1 else 'are'} refused."
        return Card(title, facts, f"Not yet. {' '.join([*taken, *([more] if missed else [])])}")
    model = "" if "model" in refused else " model passes: this server does not compare names."
    return Card(
        title, {**facts, **refused}, f"Right. Beside each field stands what the server answers, with status 400.{model}"
    )


@cache
def _refused() -> Mapping[str, str]:
    """Each field of the request that is refused, and the words; each beside those that are needed, so none hides."""
    needed = {name: REQUEST[name] for name in _NEEDED}
    said = {name: _said({**needed, name: value}) for name, value in REQUEST.items()}
    return {name: words for name, words in said.items() if words}


def _said(body: Mapping[str, Any]) -> str:
    """What the server says to a body before its engine sees it; empty if it accepts it."""
    from helpers.serving.app.http import DEFAULT_TOKENS
    from helpers.serving.app.protocol import CompletionRequest, parsed
    from helpers.serving.app.refusal import Refusal

    text, limits = _checks()
    try:
        asked = parsed(CompletionRequest, json.dumps(body).encode())
        prompt = text.encode(str(body["prompt"]), asked.add_special_tokens)
        limits.room(len(prompt), asked.asked_tokens, DEFAULT_TOKENS)
    except Refusal as refusal:
        return refusal.message
    return ""


@cache
def _checks() -> "tuple[Text, Limits]":
    """The bundled model's tokenizer, and what the server of the recipe holds a request to."""
    from helpers import recipe
    from helpers.serving.app.http import Limits
    from helpers.serving.app.text import Text

    served = recipe.load(_SERVED)
    prompt = min(served.max_seq_len, served.max_num_tokens)  # a prompt is read whole: prefill is not chunked here
    limits = Limits(
        max_batch_size=served.max_batch_size,
        max_num_tokens=served.max_num_tokens,
        max_seq_len=served.max_seq_len,
        max_prompt=prompt,
        kv_blocks=0,
        max_queue=served.serving.max_queue,
    )
    return Text(DATA / "model"), limits
