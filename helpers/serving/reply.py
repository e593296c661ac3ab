"""A question to a served engine and its answer, as values: what was asked, what came, how fast (notebook 07).

Definitions are those of notebook 08: the time to first token (TTFT) runs from the request's last byte to the first
chunk with text, tokens per second count what comes after it, and tokens are counted by the server.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helpers.cards import Shown
from helpers.errors import WorkshopError

Message = Mapping[str, str]
"""One message of a conversation: its ``role`` (system, user or assistant) and its ``content``."""

INTERRUPTED = "interrupted"
_ROLES = ("system", "user", "assistant")
COUNTS = "continuous_usage_stats"
"""The option with which a server counts the tokens in every chunk; not every server knows it."""


@dataclass(frozen=True)
class Asked:
    """A question and how it is to be answered.

    Attributes:
        prompt: a text, or the messages of a conversation, oldest first.
        max_tokens: tokens of the answer, at most.
        temperature: 0 for the likeliest token each time; up to 2.
        seed: makes a temperature above 0 repeatable; None to leave it to the server.
        chat: through the model's chat template; False continues the text as it stands.
        ignore_eos: go on to ``max_tokens`` even where the model would end, as benchmarks do.
        time_limit: seconds in which the server must send something, again and again.

    Raises:
        WorkshopError: a value that no server takes.
    """

    prompt: str | Sequence[Message]
    max_tokens: int = 128
    temperature: float = 0.0
    seed: int | None = None
    chat: bool = True
    ignore_eos: bool = False
    time_limit: float = 60.0

    def __post_init__(self) -> None:
        _check_prompt(self.prompt, self.chat)
        if not _is_whole(self.max_tokens) or self.max_tokens < 1:
            raise WorkshopError(f"max_tokens is {self.max_tokens!r}. Give a whole number of at least 1.")
        if not _is_number(self.temperature) or not 0 <= self.temperature <= 2:
            raise WorkshopError(f"temperature is {self.temperature!r}. Give a number from 0 (always the same) to 2.")
        if self.seed is not None and not _is_whole(self.seed):
            raise WorkshopError(f"seed is {self.seed!r}. Give a whole number, or None.")
        if not _is_number(self.time_limit) or not self.time_limit > 0:
            raise WorkshopError(f"time_limit is {self.time_limit!r}. Give a number of seconds above 0.")

    @property
    def question(self) -> str:
        """The text asked last."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]

    def request(self, model: str) -> dict[str, Any]:
        """The request, as the ``openai`` client takes it."""
        asked: dict[str, Any] = {
            "model": model,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True, COUNTS: True},
        }
        if self.chat:
            whole = [{"role": "user", "content": self.prompt}] if isinstance(self.prompt, str) else self.prompt
            asked["messages"] = [dict(message) for message in whole]
        else:
            asked["prompt"] = self.prompt
        if self.seed is not None:
            asked["seed"] = self.seed
        # What only some servers know is sent only when it is wanted.
        return asked | ({"extra_body": {"ignore_eos": True}} if self.ignore_eos else {})


def _check_prompt(prompt: object, chat: bool) -> None:
    """Raise WorkshopError unless this is a text, or (in a chat) messages with known roles and a text each."""
    if isinstance(prompt, str):
        if not prompt.strip():
            raise WorkshopError("The prompt is empty. Give the server something to answer.")
        return
    if not chat:
        raise WorkshopError("Without a chat the prompt is one text. Give a string, or chat=True for messages.")
    if not isinstance(prompt, Sequence) or not prompt:
        raise WorkshopError(f"The prompt is {prompt!r}. Give a text, or a list of messages with role and content.")
    for message in prompt:
        if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
            raise WorkshopError(f"{message!r} is no message: its role has to be one of {', '.join(_ROLES)}.")
        if not isinstance(message.get("content"), str):
            raise WorkshopError(f"{dict(message)!r} is no message: its content has to be a text.")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, repr=False)
class Reply(Shown):
    """What a server answered, and how fast; while it streams, what has come so far.

    Attributes:
        prompt: the text asked last.
        text: the answer.
        tokens: number of tokens made, as the server counts them; without its count, the number of chunks.
        chunks: chunks that carried text.
        ttft: seconds from the request's last byte to the first chunk with text (TTFT); None before that.
        seconds: from the request's last byte to the last token; while it streams, to now.
        finish: the server's word for the end: ``stop`` or ``length``; empty where it did not end by itself.
        ended: by what it ended, in words; empty while it streams.
        model: the model's name at the server.
        engine: what a person calls the endpoint.
        prompt_tokens: tokens of the prompt, as the server counts them; 0 where it does not say.
        counted: True where the server counted the tokens.
        chat: False where the text continues the prompt.
        first_tokens: tokens that came with the first read. More than one means that this machine, or the way to the
            server, was too busy to time the first token: it was there at :attr:`ttft`, or before.
        toolchain: of the engine, such as ``openvino``; empty where the endpoint does not tell.
        precision: of the engine's weights, such as ``fp8``; empty likewise.
    """

    prompt: str
    text: str
    tokens: int
    chunks: int
    ttft: float | None
    seconds: float
    finish: str = ""
    ended: str = ""
    model: str = ""
    engine: str = ""
    prompt_tokens: int = 0
    counted: bool = True
    chat: bool = True
    first_tokens: int = 1
    toolchain: str = ""
    precision: str = ""

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first read, per second after it (the inverse of TPOT).

        0 if there are none, or if more than a tenth came with the first: their times are not known.
        """
        rest = self.seconds - (self.ttft or 0.0)
        if self.ttft is None or rest <= 0 or (self.first_tokens > 1 and self.first_tokens > self.tokens / 10):
            return 0.0
        return max(0, self.tokens - self.first_tokens) / rest

    @property
    def rate(self) -> str:
        """The speed after the first token, with its unit; a dash where there is none."""
        return f"{self.tokens_per_second:,.0f} {self._unit}s/s" if self.tokens_per_second else "–"

    @property
    def ttft_text(self) -> str:
        """The time to first token, with its unit; a dash where none came.

        Where several tokens came with the first read, the first of them was made before it was read: by about the time
        that the others took. "At most" says so where that is more than a tenth of the time shown, or is not known.
        """
        most = "at most " if self._read_late else ""
        return "–" if self.ttft is None else f"{most}{self.ttft * 1000:,.0f} ms"

    @property
    def _read_late(self) -> bool:
        """True if the first token may have been there well before it was read."""
        if self.first_tokens <= 1 or self.ttft is None:
            return False
        return not self.tokens_per_second or (self.first_tokens - 1) / self.tokens_per_second > self.ttft / 10

    @property
    def amount(self) -> str:
        """How many tokens, or chunks where nobody counted the tokens."""
        return f"{self.tokens:,} {self._unit}{'' if self.tokens == 1 else 's'}"

    @property
    def cursor(self) -> str:
        """A mark behind a text that still grows."""
        return " ▌" if self.seconds and not self.ended else ""

    @property
    def _unit(self) -> str:
        return "token" if self.counted else "chunk"

    def figures(self) -> str:
        """One line: how many tokens, how fast, why it ended."""
        if not self.ended and not self.seconds:
            return "not sent yet"
        ended = (
            f"; {INTERRUPTED if self.ended == INTERRUPTED else f'ended by {self.ended}'}" if self.ended else " so far"
        )
        if self.ttft is None:
            return f"no text in {self.seconds:.1f} s{ended}"
        speed = f", then {self.rate}" if self.tokens_per_second else ""
        if not speed and self.first_tokens > 1:
            speed = f": {self.first_tokens:,} at once, which leaves too few to tell a speed"
        return f"{self.amount}, first after {self.ttft_text}{speed}{ended}"

    def __str__(self) -> str:
        name = f"{self.engine}: " if self.engine else ""
        between = "\n" if self.chat else ""
        return f"{self.prompt}{between}{self.text}\n({name}{self.figures()})"

    def _repr_html_(self) -> str:
        between = "<br>" if self.chat else ""
        name = f"{html.escape(self.engine)}: " if self.engine else ""
        return (
            f"<blockquote style='margin:0.4em 0;white-space:pre-wrap'><strong>{html.escape(self.prompt)}</strong>"
            f"{between}{html.escape(self.text)}{self.cursor}</blockquote>"
            f"<p><small>{name}{html.escape(self.figures())}</small></p>"
        )


class ChatError(WorkshopError):
    """A question that got no whole answer.

    Attributes:
        reply: what had come before; its ``ended`` says what happened.
        code: the HTTP status with which the server refused it; None where it was something else.
    """

    def __init__(self, message: str, reply: Reply, code: int | None = None) -> None:
        super().__init__(message)
        self.reply = reply
        self.code = code
