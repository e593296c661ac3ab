"""From tokens to answers: the JSON of ``/v1/completions`` and ``/v1/chat/completions``, whole or as a stream.

A stream writes one chunk a token, so what all chunks of an answer share is put together once, and a chunk is that, the
text as JSON, and the rest.
"""

import json
import time
import uuid
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from helpers.serving.app.refusal import Refusal
from helpers.serving.app.text import Decoder, Stops, Text

DONE = b"data: [DONE]\n\n"


@dataclass
class Choice:
    """One answer of a request, as it grows.

    Attributes:
        index: among the answers.
        decoder, stops: make text of tokens and watch for the strings that end it.
        hide: stop tokens whose text is not shown.
        opening: text in front of the answer: the prompt, where it is to be repeated.
        tokens: so far.
        finish: ``stop`` or ``length`` once it has ended.
        stop_reason: the string or token that was asked for and ended it.
    """

    index: int
    decoder: Decoder
    stops: Stops
    hide: frozenset[int]
    opening: str = ""
    tokens: int = 0
    finish: str | None = None
    stop_reason: str | int | None = None

    def text_of(self, ids: list[int], ended: list[Any] | None) -> str:
        """What new tokens add to the text; sets :attr:`finish` where the answer has ended."""
        shown, step = self.opening, self.decoder.step
        self.opening = ""
        for token in ids:
            self.tokens += 1
            if ended is not None and token == ended[1] and token in self.hide:
                continue  # only the last can be the one that ended it
            shown += self.stops.feed(step(token))
            if self.stops.hit is not None:
                self.finish, self.stop_reason = "stop", self.stops.hit
                return shown
        return shown if ended is None else shown + self._ended(ended)

    def _ended(self, ended: list[Any]) -> str:
        """The last of the text, once the engine has ended the answer."""
        rest = self.stops.feed(self.decoder.flush())
        if self.stops.hit is None:
            rest += self.stops.flush()
        self.finish = "length" if ended[0] == "length" else "stop"
        self.stop_reason = self.stops.hit if self.stops.hit is not None else ended[1] if ended[1] in self.hide else None
        return rest


def choice(text: Text, index: int, prompt: list[int], request: Any, opening: str = "") -> Choice:
    """An answer that has not begun.

    Args:
        text: the model's.
        index: among the answers.
        prompt: its token ids.
        request: a :class:`~helpers.serving.app.protocol.Request`.
        opening: see :class:`Choice`.
    """
    include = request.include_stop_str_in_output
    decoder = Decoder(text, prompt, request.skip_special_tokens)
    stops = Stops(request.stops, include)
    asked = frozenset(request.stop_token_ids or [])
    made = Choice(index, decoder, stops, asked, opening)
    if include and asked:
        made.hide = frozenset()
    return made


@dataclass
class Answer:
    """What is common to all answers of one HTTP request.

    Attributes:
        chat: from ``/v1/chat/completions``.
        model: as the request named it.
        choices: the answers.
        prompt_tokens: of all prompts.
        usage: a stream ends with the numbers of tokens.
        continuous: every chunk has them.
    """

    chat: bool
    model: str
    choices: list[Choice]
    prompt_tokens: int
    role: str = "assistant"
    usage: bool = False
    continuous: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.chat else "cmpl-") + uuid.uuid4().hex
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        shared = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        self._head = "data: " + json.dumps(shared)[:-1] + ', "choices": ['
        body = '"delta": {"content": ' if self.chat else '"text": '
        self._before = [f'{self._head}{{"index": {one.index}, {body}' for one in self.choices]
        self._after = (
            "}" if self.chat else ""
        ) + ', "logprobs": null, "finish_reason": null, "stop_reason": null}]}\n\n'

    @property
    def counted(self) -> dict[str, int]:
        """``usage``: the numbers of tokens so far."""
        made = sum(one.tokens for one in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.prompt_tokens + made,
        }

    @property
    def finished(self) -> bool:
        """True once every answer has ended."""
        return all(one.finish is not None for one in self.choices)

    def opening(self) -> str:
        """What a stream begins with: in a chat, who speaks."""
        if not self.chat:
            return ""
        usage = self._usage_so_far() if self.continuous else ""
        role = f'"delta": {{"role": {quoted(self.role)}, "content": ""}}, "logprobs": null, "finish_reason": null'
        return "".join(f'{self._head}{{"index": {one.index}, {role}}}]{usage}}}\n\n' for one in self.choices)

    def chunk(self, one: Choice, text: str) -> str:
        """One chunk of a stream; empty where there is nothing to tell."""
        if one.finish is None and not self.continuous:
            return f"{self._before[one.index]}{quoted(text)}{self._after}" if text else ""
        ends = {"logprobs": None, "finish_reason": one.finish, "stop_reason": one.stop_reason}
        rest = ("}" if self.chat else "") + ", " + json.dumps(ends)[1:-1] + "}]"
        usage = self._usage_so_far() if self.continuous else ""
        return f"{self._before[one.index]}{quoted(text)}{rest}{usage}}}\n\n"

    def _usage_so_far(self) -> str:
        return f', "usage": {json.dumps(self.counted)}'

    def closing(self) -> bytes:
        """What a stream ends with."""
        last = f'{self._head}], "usage": {json.dumps(self.counted)}}}\n\n' if self.usage else ""
        return last.encode() + DONE

    def whole(self, texts: list[str]) -> bytes:
        """The answer in one piece.

        Args:
            texts: of each choice.
        """
        choices = [self._choice(one, text) for one, text in zip(self.choices, texts, strict=True)]
        kind = "chat.completion" if self.chat else "text_completion"
        shared = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return json.dumps({**shared, "choices": choices, "usage": self.counted}).encode()

    def _choice(self, one: Choice, text: str) -> dict[str, Any]:
        said: dict[str, Any] = {"message": {"role": self.role, "content": text}} if self.chat else {"text": text}
        ends = {"logprobs": None, "finish_reason": one.finish, "stop_reason": one.stop_reason}
        return {"index": one.index, **said, **ends}


def failure(refusal: Refusal) -> bytes:
    """The event that ends a stream whose answer cannot go on; its status was sent long ago.

    The key ``error`` is an addition: without it the official client takes the stream for one that ended well.
    """
    flat = refusal.content
    told = {name: flat[name] for name in ("message", "type", "code")}
    return b"data: " + json.dumps({**flat, "error": told}).encode() + b"\n\n"
