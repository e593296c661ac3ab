"""Between text and tokens: prompts in, pieces of text out, and the strings that end an answer.

This reads the model's ``tokenizer.json`` and its chat template itself, with the libraries that ``transformers`` uses
for both. ``transformers`` would do it in the same way, but importing it takes longer than loading the engine does, and
several times the server's memory. A test compares the two. No code that comes with a model is ever run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.errors import WorkshopError

_CONTEXT = 8  # tokens before the answer that decide how its first token is written (a space in front, or none)
_INCOMPLETE = "\ufffd"
_PATIENCE = 8  # tokens after which bytes that make no character are shown as they are; a character has at most four


class Text:
    """A model's tokenizer and chat template.

    Args:
        folder: has ``tokenizer.json``, and where the model has them ``tokenizer_config.json``, ``chat_template.jinja``
            and ``generation_config.json``.

    Attributes:
        vocabulary: number of token ids, special ones included.
        ends: ids that end an answer.

    Raises:
        WorkshopError: there is no ``tokenizer.json`` in the folder.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        if not (folder / "tokenizer.json").exists():
            raise WorkshopError(f"{folder} has no tokenizer.json. Build the engine again from a model that has one.")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.vocabulary = self.tokenizer.get_vocab_size(with_added_tokens=True)
        self._config = _read(folder / "tokenizer_config.json")
        self.ends = self._end_ids(_read(folder / "generation_config.json"), _read(folder / "config.json"))
        self._template = _template(folder, self._config)

    def _end_ids(self, *configs: dict[str, Any]) -> list[int]:
        """The ids that the first of the configurations names, else the tokenizer's own end."""
        for config in configs:
            named = config.get("eos_token_id")
            if named is not None:
                return [int(one) for one in (named if isinstance(named, list) else [named])]
        own = self.tokenizer.token_to_id(_content(self._config.get("eos_token")) or "")
        return [] if own is None else [own]

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text, with the special tokens that the model wants around it or without."""
        # Of the library's functions only those for several texts let other threads go on, which long texts need.
        return list(self.tokenizer.encode_batch_fast([text], add_special_tokens=special)[0].ids)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of some tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    def chat(self, messages: list[dict[str, Any]], answer_follows: bool = True) -> str:
        """A conversation as the one text that the model was trained on.

        Args:
            messages: each with ``role`` and ``content``.
            answer_follows: end where the model is to answer.

        Raises:
            WorkshopError: the model has no chat template, or its template refuses these messages.
        """
        if self._template is None:
            raise WorkshopError("This model has no chat template. Send a prompt to /v1/completions instead.")
        special = {
            name: _content(self._config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        }
        known = {name: token for name, token in special.items() if token is not None}
        try:
            return str(self._template.render(messages=messages, add_generation_prompt=answer_follows, **known))
        except Exception as error:  # a template may do anything with messages that it was not written for
            raise WorkshopError(f"The model's chat template refuses these messages: {error}.") from error


class Decoder:
    """The text of one answer, piece by piece as its tokens come.

    A token's text depends on what stands before it (a space in front, or none) and may be part of a character only. So
    the last tokens that made text are decoded together with the new ones, and what is new is shown once it ends in a
    whole character. ``DecodeStream`` of ``tokenizers`` does that ten times faster than calls from here, but repeats a
    prompt that ends inside a character and raises on bytes that are none: then the work is done here, from there on.

    Args:
        text: the model's.
        prompt: ids before the answer.
        skip_special: leave out tokens such as the end of the text.
    """

    def __init__(self, text: Text, prompt: Sequence[int], skip_special: bool = True) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer, self._skip = text.tokenizer, skip_special
        self._before = list(prompt[-_CONTEXT:])
        self._pending: list[int] = []
        self._shown = self._decode(self._before)
        whole = not self._shown.endswith(_INCOMPLETE)
        self._stream = DecodeStream(ids=self._before, skip_special_tokens=skip_special) if whole else None

    def step(self, token: int) -> str:
        """What one more token adds; empty as long as a character is incomplete."""
        self._pending.append(token)
        if self._stream is None or len(self._pending) >= _PATIENCE:
            return self._by_hand()
        try:
            piece = self._stream.step(self._tokenizer, token)
        except Exception:  # the library has no class of its own for it
            return self._by_hand()
        if not piece:
            return ""
        self._before, self._pending = self._pending, []
        return str(piece)

    def _by_hand(self) -> str:
        """The same without the stream."""
        if self._stream is not None:
            self._stream, self._shown = None, self._decode(self._before)
        whole = self._decode(self._before + self._pending)
        if whole.endswith(_INCOMPLETE) and len(self._pending) < _PATIENCE:
            return ""
        return self._added(whole)

    def flush(self) -> str:
        """What is left at the end, an incomplete character as the sign for one."""
        if not self._pending:
            return ""
        self._shown = self._decode(self._before)
        return self._added(self._decode(self._before + self._pending))

    def _added(self, whole: str) -> str:
        """The new end of the text; from then on the tokens that made it are the ones before."""
        # An incomplete character at the end of what was shown changes once the rest of it is there.
        piece = whole[_common(self._shown, whole) :]
        if piece:
            self._before, self._pending = self._pending, []
            self._shown = self._decode(self._before)
        return piece

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=self._skip))


class Stops:
    """Ends an answer at the first of several strings, and holds text back while one may have begun.

    Args:
        strings: none of them empty.
        include: leave the string itself at the end of the answer.
    """

    def __init__(self, strings: Sequence[str], include: bool = False) -> None:
        self._strings, self._include, self._held = tuple(strings), include, ""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """What may be shown now; :attr:`hit` is set once a string has ended the answer, and nothing comes after."""
        if not self._strings or self.hit is not None:
            return "" if self.hit is not None else text
        held = self._held + text
        # The one that is complete first: any other rule would depend on how the text is cut into pieces.
        found = [(place + len(one), place, one) for one in self._strings if (place := held.find(one)) >= 0]
        if found:
            _, place, self.hit = min(found)
            self._held = ""
            return held[: place + (len(self.hit) if self._include else 0)]
        keep = max(_overlap(held, one) for one in self._strings)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """What was held back, where the answer ended without any of the strings."""
        held, self._held = self._held, ""
        return held


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of the text that a stop string begins with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[len(text) - length :]):
            return length
    return 0


def _read(file: Path) -> dict[str, Any]:
    """A JSON file's content; empty where there is none."""
    return dict(json.loads(file.read_text())) if file.exists() else {}


def _content(token: Any) -> str | None:
    """A special token's text, however the configuration writes it."""
    return token.get("content") if isinstance(token, dict) else token


def _template(folder: Path, config: dict[str, Any]) -> Any:
    """The chat template, compiled as ``transformers`` compiles it; None where the model has none."""
    file = folder / "chat_template.jinja"
    source = file.read_text() if file.exists() else config.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next((one["template"] for one in source if one.get("name") == "default"), None)
    if not source:
        return None
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def now(form: str) -> str:
        from datetime import datetime

        return datetime.now().strftime(form)

    def as_json(value: Any, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=options.get("indent"))

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = as_json
    environment.globals.update(raise_exception=refuse, strftime_now=now)
    return environment.from_string(source)
