"""What the two POST routes accept, and the words in which they refuse.

Fields, defaults and the shape of errors are those of ``tensorrt_llm/serve/openai_protocol.py`` in the 1.2 line, which
forbids what it does not know. Three kinds of field: those that the CPU engine does; those without an effect on it
(``user``, ``reasoning_effort``, ``cache_salt``); and those that ``trtllm-serve`` knows and this engine cannot do
(:data:`CANNOT`), which may be sent with their default only.
"""

import difflib
import re
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from helpers.serving.app.refusal import Refusal

INT64 = 2**63
_SHOWN = 60  # characters of what was found that a message repeats
_TOLD = 3  # mistakes that one message names
_LOOKED_AT = 100  # mistakes that are looked at for it: a body may have as many as it has bytes
_MEMBER = re.compile(r"[\[(-]|^(str|int|float|bool)$")
_EXACT = ("cannot", "together", "extra_forbidden", "missing")
_EITHER = {
    "prompt": "it must be a text, a list of texts, a list of token ids, or a list of such lists",
    "content": "it must be a text or a list of parts",
    "stop": "it must be a text or a list of texts, none of them empty",
}
"""What a field must be that may be one of several things; pydantic would tell of each."""

CANNOT: dict[str, Any] = {
    "use_beam_search": False,
    "top_p_min": 0,
    "length_penalty": 1,
    "early_stopping": False,
    "spaces_between_special_tokens": True,
    "truncate_prompt_tokens": None,
    "return_context_logits": False,
    "detokenize": True,
    "logit_bias": None,
    "logprobs": False,
    "top_logprobs": 0,
    "suffix": None,
    "lora_request": None,
    "disaggregated_params": None,
    "tools": None,
    "tool_choice": "none",
    "documents": None,
    "chat_template": None,
    "chat_template_kwargs": None,
    "prompt_token_ids": None,
}
"""What the CPU engine cannot do: field to the one value beside null that asks for nothing."""


class Model(BaseModel):
    """Nothing unknown, no number written as text, and no number that is none."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Error(Model):
    """Every answer that is not 200."""

    object: Literal["error"]
    message: str
    type: str
    param: str | None = None
    code: int


class StreamOptions(Model):
    """What a stream tells beside text."""

    include_usage: bool | None = Field(True, description="One more chunk at the end, with the numbers of tokens.")
    continuous_usage_stats: bool | None = Field(False, description="The numbers so far in every chunk.")


class ResponseFormat(Model):
    """Only ``text`` here."""

    model_config = ConfigDict(extra="allow")
    type: Literal["text", "json", "json_object", "json_schema", "regex", "ebnf", "structural_tag"]


def _whole(value: Any) -> Any:
    """A whole number that was written as 5.0, which is one in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < INT64 else value


Whole = Annotated[int, BeforeValidator(_whole)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
StopString = Annotated[str, Field(min_length=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Tokens = Annotated[Whole, Field(ge=1, lt=2**31)]
# A list with a mistake has been read far enough: whoever sends a million of them does not hold up the others.
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]


class Request(Model):
    """What both routes accept."""

    model: str = Field(description="Not checked, as in trtllm-serve.")
    n: Annotated[Whole, Field(ge=1, le=128)] = 1
    best_of: Whole | None = Field(None, description="Here only as many as `n`.")
    seed: Annotated[Whole, Field(ge=-INT64, lt=INT64)] | None = None
    stop: StopString | Annotated[list[StopString], Field(fail_fast=True)] | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool = False
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(None, description="1 if missing; 0 is greedy.")
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="1 if missing; 0 is greedy.")
    top_k: Annotated[Whole, Field(ge=0, lt=2**31)] = Field(0, description="0 for no limit.")
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    presence_penalty: Penalty | None = 0.0
    frequency_penalty: Penalty | None = 0.0
    ignore_eos: bool = False
    min_tokens: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    skip_special_tokens: bool = True
    user: str | None = None
    response_format: ResponseFormat | None = None

    use_beam_search: bool = False
    top_p_min: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool = False
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: Whole | None = None
    logit_bias: dict[str, float] | None = None
    lora_request: dict[str, Any] | None = None
    disaggregated_params: dict[str, Any] | None = None

    @field_validator("repetition_penalty", "temperature", "top_p", "min_p", mode="after")
    @classmethod
    def _plain(cls, value: float | None) -> float | None:
        """A zero without a sign."""
        return value if value is None else value + 0.0

    @model_validator(mode="after")
    def _fits_together(self) -> "Request":
        """What only the fields together can tell."""
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError("together", "stream_options can only be set if stream is true")
        if self.best_of is not None and self.best_of != self.n:
            raise _cannot("best_of", self.best_of, f" with n = {self.n}")
        if self.response_format is not None and self.response_format.type != "text":
            raise _cannot("response_format", self.response_format.type)
        for name, default in CANNOT.items():
            value = getattr(self, name, None)
            if value is not None and value != default and value not in ([], {}, ""):
                raise _cannot(name, value)
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings, also where there is one or none."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def asked_tokens(self) -> int | None:
        """How many tokens an answer may have, if the request says so."""
        raise NotImplementedError


class CompletionRequest(Request):
    """POST /v1/completions."""

    prompt: str | TokenIds | Texts | Annotated[list[TokenIds], Field(fail_fast=True)] = Field(
        description="Text or token ids, one or several."
    )
    echo: bool | None = False
    max_tokens: Tokens | None = Field(None, description="16 if missing, as OpenAI documents.")
    add_special_tokens: bool = True

    logprobs: Whole | None = None
    suffix: str | None = None
    detokenize: bool = True
    return_context_logits: bool = False

    @property
    def asked_tokens(self) -> int | None:
        """``max_tokens``."""
        return self.max_tokens

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts as a list, also where there is one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]


class TextPart(Model):
    """A part of a message. Pictures and sounds are known to trtllm-serve; this engine reads text."""

    type: Literal["text", "image_url", "input_audio", "audio_url", "video_url", "file", "refusal"]
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    audio_url: Any = None
    video_url: Any = None
    file: Any = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _is_text(self) -> "TextPart":
        if self.type != "text":
            raise _cannot("content", self.type)
        if self.text is None:
            raise PydanticCustomError("together", "a part of type 'text' needs the field 'text'")
        return self


class Message(Model):
    """One turn of a conversation."""

    role: Annotated[str, Field(min_length=1)]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    audio: Any = None
    reasoning: str | None = None

    @model_validator(mode="after")
    def _is_text(self) -> "Message":
        for name in ("tool_calls", "tool_call_id", "function_call", "audio"):
            if getattr(self, name) not in (None, []):
                raise _cannot(name, getattr(self, name))
        return self

    @property
    def text(self) -> str:
        """The content as one text; parts are put on lines of their own, as trtllm-serve does."""
        if isinstance(self.content, list):
            return "\n".join(part.text or "" for part in self.content)
        return self.content or ""


class ChatCompletionRequest(Request):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_tokens: Tokens | None = Field(None, description="The rest of the longest sequence if missing.")
    max_completion_tokens: Tokens | None = Field(None, description="The newer name of max_tokens.")
    add_generation_prompt: bool = True
    add_special_tokens: bool = False
    reasoning_effort: Literal["low", "medium", "high"] | None = "low"
    cache_salt: str | None = None

    echo: bool = False
    logprobs: bool | None = False
    top_logprobs: Whole | None = 0
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = "none"
    documents: list[Any] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    prompt_token_ids: list[int] | None = None

    @model_validator(mode="after")
    def _chat_fits_together(self) -> "ChatCompletionRequest":
        if self.echo:
            raise _cannot("echo", True)
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise PydanticCustomError("together", "max_tokens and max_completion_tokens differ; send one of them")
        return self

    @property
    def asked_tokens(self) -> int | None:
        """``max_completion_tokens``, or its older name."""
        return self.max_completion_tokens or self.max_tokens


M = TypeVar("M", bound=Request)


def parsed(kind: type[M], body: bytes) -> M:
    """A request from its JSON.

    Raises:
        Refusal: 400, with what is wrong in words.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise Refusal(_told(kind, error)) from None


def _cannot(name: str, value: Any, beside: str = "") -> PydanticCustomError:
    """The error for a field that only the real server does."""
    words = f"{name} = {_short(value)}{beside} is known to trtllm-serve; this CPU server cannot do it"
    # A custom error's message is a template, so braces in what was found must not look like a place in it.
    return PydanticCustomError("cannot", "{words}", {"words": words})


def _short(value: Any) -> str:
    """What was found, in a few characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number with thousands of digits, a list in thousands of lists
        return f"a very large {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _told(kind: type[Request], error: ValidationError) -> str:
    """The mistakes in a request as sentences, each field named once."""
    told: dict[str, tuple[bool, str]] = {}
    for one in islice(error.errors(include_url=False), _LOOKED_AT):
        # Steps that pydantic adds for the members of a union are no part of the field's name.
        steps = [str(step) for step in one["loc"] if not (isinstance(step, str) and _MEMBER.search(step))]
        name, exact = ".".join(steps[:1]), one["type"] in _EXACT
        if name not in told or exact > told[name][0]:  # of a union's members, the one that got furthest
            told[name] = exact, _sentence(kind, steps, dict(one))
    sentences = sorted((told[name][1] for name in told), key=lambda sentence: not sentence.startswith("Unknown"))
    unseen = max(error.error_count() - _LOOKED_AT, 0)
    more = [f"And {len(sentences) - _TOLD + unseen:,} more."] if len(sentences) > _TOLD else []
    return " ".join(sentences[:_TOLD] + more)


def _sentence(kind: type[Request], steps: list[str], one: dict[str, Any]) -> str:
    """One mistake in words."""
    what, where = one["type"], ".".join(steps)
    if what in ("json_invalid", "json_type", "model_type"):
        return f"The body is not a JSON object: {one['msg']}." if what != "json_invalid" else f"{one['msg']}."
    if what == "extra_forbidden":
        names = list(kind.model_fields) if len(steps) == 1 else []
        near = difflib.get_close_matches(steps[-1][:64], names, 1)
        return f"Unknown field {_short(where)}." + (f" Did you mean '{near[0]}'?" if near else "")
    if what == "missing":
        return f"The field '{where}' is missing."
    if what in ("cannot", "together"):
        return f"{one['msg']}."
    wanted = _EITHER.get(steps[-1] if steps else "") or _EITHER.get(steps[0] if steps else "") or one["msg"]
    return f"{where[:_SHOWN]}: {wanted} (found {_short(one['input'])})."
