"""The requests of a load: prompts of a wanted length in tokens, or those of a file (notebook 08).

Made prompts are common words in random order. No two of one load begin with the same four words, so that none is
answered from another's KV blocks (prefix caching would make a server look faster than it is), and the first 200
of a run differ from the first word on. With the model's tokenizer the length is exact: a word that is one token stays
one wherever it stands, so tokens are words and a constant, which is checked once. Without it the server's own counts of
a few probes say how many tokens a word has.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, NamedTuple

from helpers.bench.load import CHAT, Lengths, Load
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORDS = Path(__file__).parents[3] / "data" / "words.txt"

_OPENING = 4  # words that tell a prompt from all others
_RUN = 1_000_003  # prompts that a run may have before it repeats the openings of the next one
_OPENINGS = 2**32  # to begin at
_RING = 16_384  # words in random order that prompts are cut from: cheaper than drawing each word
_FEWEST = 32  # words of one token that are enough to make prompts from
_PROBE = 8  # words of the short probe
_USUAL = 1.3  # tokens a word, where nobody counts
_EXAMPLE = '{"prompt": "Hello"}'
_TRIES = 8  # corrections of one prompt, where words are not whole tokens

# What comes before the first word costs the same number of tokens in every prompt. Where a chat template goes before
# it a word does: templates trim spaces, and the first word after them would be one token or several.
_LEAD = {True: "The ", False: " "}


class Prompt(NamedTuple):
    """One request to be sent.

    Attributes:
        content: a text, or the messages of a chat.
        tokens: its length with all that the server adds to it; None where only the server knows.
        max_tokens: of the answer.
    """

    content: str | list[dict[str, Any]]
    tokens: int | None
    max_tokens: int


def body(prompt: Prompt, model: str | None, load: Load) -> bytes:
    """The JSON body of a request: streamed, with the server's token counts, and the answer as long as asked.

    Args:
        prompt: from :meth:`Source.take`.
        model: as the server calls it; None leaves the field out.
        load: says which API, and ``extra`` fields.
    """
    content = prompt.content
    fields: dict[str, Any] = {} if model is None else {"model": model}
    if load.api == CHAT:
        fields["messages"] = [{"role": "user", "content": content}] if isinstance(content, str) else content
    else:
        fields["prompt"] = content
    fields["max_tokens"] = prompt.max_tokens
    fields["stream"] = True
    fields["stream_options"] = {"include_usage": True}
    if load.ignore_eos:
        fields["ignore_eos"] = True
    fields.update(load.extra)
    return json.dumps(fields).encode()


class Source:
    """Where the prompts of a load come from.

    A server keeps the KV blocks of what it has read, so each time, and in the warm-up and each run, prompts begin
    otherwise; another seed, concurrency or rate sends others altogether.

    Args:
        load: what is sent.
        tokenizer: a ``tokenizer.json`` or the folder that has it, for exact lengths; None to ask the server instead.
        opening: the same number sends the same load with the same first words again; None for any.

    Attributes:
        opening: as it was drawn.
        needs_calibration: True if :meth:`calibrate` has to be called before :meth:`take`.

    Raises:
        WorkshopError: no such tokenizer, or a file of prompts that cannot be used; says which line and why.
    """

    def __init__(self, load: Load, tokenizer: Path | None = None, opening: int | None = None) -> None:
        self.load = load
        self.opening = SystemRandom().randrange(_OPENINGS) if opening is None else opening
        self._given = _read(Path(load.prompts), load) if load.prompts is not None else []
        self._sent = 0  # of those
        self._notes: list[str] = []
        self.needs_calibration = load.prompts is None and (tokenizer is None or load.api == CHAT)
        self._seed = f"{load.seed} {load.kind}"
        self._lead = _LEAD[load.api == CHAT]
        self._per_word, self._added = 1.0, 0.0  # tokens = added + per_word · words, and the template's
        self._template: int | None = None if load.api == CHAT else 0
        made = load.prompts is None
        loaded = _loaded(tokenizer) if tokenizer is not None else None
        self._tokenizer = loaded
        self._count = _counter(loaded, load.api != CHAT) if loaded is not None and made else None
        self._words, self._whole = self._pool() if made else ([], False)
        if self._count is not None:
            self._learn(self._count)

    @property
    def exact(self) -> bool:
        """True if made prompts are as long as asked to the token."""
        return self._whole and self._template is not None

    @property
    def count_answer(self) -> Callable[[str], int] | None:
        """Counts the tokens of an answer's text, where a tokenizer was given."""
        return None if self._tokenizer is None else _counter(self._tokenizer, False)

    def notes(self, sent: int) -> list[str]:
        """What to know about the prompts, in sentences.

        Args:
            sent: requests, in the warm-up and all runs.
        """
        notes = list(self._notes)
        if sent > len(self._given) > 0:
            notes.append(
                f"The file has {len(self._given):,} prompts and {sent:,} requests were made, so some were sent "
                "again: a server that reuses KV blocks answers those faster."
            )
        return notes

    def calibrate(self, count: Callable[[str], int | None]) -> None:
        """Learn from the server how many tokens a prompt has.

        Args:
            count: sends a text as this load's API sends prompts, for one token of answer, and gives the server's
                ``usage.prompt_tokens``; None if it does not tell.
        """
        self.needs_calibration = False
        if self._count is None:
            if not self._learn(count):
                self._per_word, self._added = _USUAL, 0.0
                self._notes.append(
                    f"The server did not count the tokens of a prompt, so a word was taken for {_USUAL:g}: prompts are "
                    "only roughly as long as asked. A tokenizer would make them exact."
                )
            return
        text = self._probe(_PROBE)
        told = count(text)
        # What the template adds, and the tokenizer does not see.
        self._template = None if told is None else told - self._count(text)
        if told is None:
            self._notes.append(
                "The server did not count the tokens of a prompt, so those of its chat template come on top of the "
                "length that was asked for."
            )

    def take(self, run: int, n: int | None = None) -> Iterator[Prompt]:
        """The prompts of one run, made as they are asked for.

        Prompts of a file go on where the run before stopped, and begin again at its end.

        Args:
            run: 0 for the warm-up, then 1, 2, ...
            n: how many; None for no end.
        """
        random = Random(f"{self._seed} {run}")
        return islice(self._next(random) if self._given else self._made(run, random), n)

    # --- Prompts of a file ---------------------------------------------------------------

    def _next(self, random: Random) -> Iterator[Prompt]:
        """The file's prompts, over and over."""
        while True:
            content, most = self._given[self._sent % len(self._given)]
            self._sent += 1
            yield Prompt(content, None, _drawn(self.load.output_tokens, random) if most is None else most)

    # --- Made prompts --------------------------------------------------------------------

    def _made(self, run: int, random: Random) -> Iterator[Prompt]:
        """Words cut out of a ring of random ones, after an opening that no other prompt has."""
        load, lead, openings = self.load, self._lead, self._openings(run)
        ring = random.choices(self._words, k=_RING + self._number(load.input_tokens.high))
        added = round(self._added) + (self._template or 0)
        fitting = self._count is not None and not self._whole
        while True:
            asked = _drawn(load.input_tokens, random)
            n = self._number(asked)
            start = int(random.random() * _RING)
            text = lead + " ".join((next(openings) + ring[start : start + n - _OPENING])[:n])
            tokens = n + added
            if fitting:
                text, tokens = self._fitted(text, asked, random)
            known = self._count is not None and self._template is not None
            yield Prompt(text, tokens if known else None, _drawn(load.output_tokens, random))

    def _openings(self, run: int) -> Iterator[list[str]]:
        """Different first words for every prompt of every run: the digits of a number that counts up.

        Each digit has its own order of words, so that neither the count nor the alphabet shows.
        """
        random, base = Random(self._seed), len(self._words)
        orders = [random.sample(self._words, base) for _ in range(_OPENING)]
        number = self.opening + run * _RUN
        while True:
            rest, opening = number, []
            for order in orders:
                rest, digit = divmod(rest, base)
                opening.append(order[digit])
            yield opening
            number += 1

    def _number(self, asked: int) -> int:
        """Words of a prompt of so many tokens; at least one."""
        return max(1, round((asked - (self._template or 0) - self._added) / self._per_word))

    def _fitted(self, text: str, asked: int, random: Random) -> tuple[str, int]:
        """A text with words taken away or added until it has the wanted tokens, or as nearly as words can.

        Only where few of the tokenizer's tokens are whole words; costs an encoding each time.
        """
        assert self._count is not None
        template = self._template or 0
        words, best = text[len(self._lead) :].split(" "), (text, self._count(text) + template)
        for _ in range(_TRIES):
            off = best[1] - asked
            change = max(1, round(abs(off) / self._per_word))
            if off == 0:
                break
            words = words[: max(1, len(words) - change)] if off > 0 else words + random.choices(self._words, k=change)
            text = self._lead + " ".join(words)
            found = text, self._count(text) + template
            if abs(found[1] - asked) >= abs(off):
                break
            best = found
        return best

    # --- Lengths -------------------------------------------------------------------------

    def _pool(self) -> tuple[list[str], bool]:
        """The words to make prompts from, and whether each is one token wherever it stands."""
        words = _words()
        if self._count is None:
            return words, False
        count = self._count
        alone = count("a")
        # Twice the word after another one: what the first costs in front is known to nobody yet.
        whole = [word for word in words if count(f"a {word}") == alone + 1 and count(f"a {word} {word}") == alone + 2]
        if len(whole) < _FEWEST:
            return words, False
        mixed = Random(0).choices(whole, k=4 * len(whole))
        apart = count("a " + " ".join(mixed)) == alone + len(mixed)
        return (whole, True) if apart else (words, False)

    def _learn(self, count: Callable[[str], int | None]) -> bool:
        """Fit tokens = added + per_word · words from a short probe and two long ones; False if nobody counts."""
        # Three words for four tokens are within any server that takes the prompts themselves.
        long = max(2 * _PROBE, 3 * self.load.input_tokens.high // 4)
        sizes = [_PROBE, long, long]
        told = [count(self._probe(size, number)) for number, size in enumerate(sizes)]
        short, *longs = told
        known = [tokens for tokens in longs if tokens is not None]
        if short is None or not known:
            return False
        self._per_word = max(0.1, (sum(known) / len(known) - short) / (long - _PROBE))
        self._added = short - self._per_word * _PROBE
        return True

    def _probe(self, words: int, number: int = 0) -> str:
        """A text that no run sends."""
        return self._lead + " ".join(Random(f"{self._seed} probe {number}").choices(self._words, k=words))


def _drawn(lengths: Lengths, random: Random) -> int:
    return lengths.low if lengths.fixed else random.randint(lengths.low, lengths.high)


def _words() -> list[str]:
    """The word list."""
    lines = WORDS.read_text(encoding="utf-8").splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]


def _counter(tokenizer: "Tokenizer", special: bool) -> Callable[[str], int]:
    """What counts the tokens of a text, with the special tokens that the model wants around it or without."""
    return lambda text: len(tokenizer.encode(text, add_special_tokens=special).ids)


def _loaded(file: Path) -> "Tokenizer":
    """The tokenizer in a file or folder.

    Raises:
        WorkshopError: no such file, or no tokenizer in it, or the library is missing.
    """
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise WorkshopError(
            f"There is no tokenizer at {file}. Give a tokenizer.json or the folder of a model that has one, or none at "
            "all: lengths then follow the server's own counts."
        )
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise WorkshopError(
            "Exact lengths need the package tokenizers, which is not installed here. Install it, or give no tokenizer: "
            "lengths then follow the server's own counts."
        ) from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises Exception itself
        raise WorkshopError(f"{file} is not a tokenizer that the tokenizers package can read: {error}.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


Given = tuple[str | list[dict[str, Any]], int | None]
"""A prompt of a file, and its own max_tokens."""


def _read(file: Path, load: Load) -> list[Given]:
    """The prompts of a file, one JSON object a line; other fields than the three that are known are passed over.

    Raises:
        WorkshopError: no such file, no prompts in it, or a line that is none.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise WorkshopError(f"The prompts in {file} cannot be read: {why}.") from None
    given = [_line(line, f"{file}, line {i}", load) for i, line in enumerate(lines, 1) if line.strip()]
    if not given:
        raise WorkshopError(f"{file} has no prompts. Write one JSON object a line, such as {_EXAMPLE}.")
    return given


def _line(line: str, where: str, load: Load) -> Given:
    """One line of the file."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WorkshopError(f"{where} is not JSON: {error}.") from None
    if not isinstance(told, dict):
        raise WorkshopError(f"{where} is a {type(told).__name__}, not a JSON object with a prompt or messages.")
    if ("prompt" in told) == ("messages" in told):
        names = ", ".join(map(repr, told)) or "no fields"
        raise WorkshopError(f"{where} has {names}. Give 'prompt' or 'messages', one of them.")
    most = told.get("max_tokens")
    if most is not None and not (isinstance(most, int) and not isinstance(most, bool) and most >= 1):
        raise WorkshopError(f"{where}: max_tokens is {most!r}. Give a whole number of at least 1, or leave it out.")
    return (_text(told["prompt"], where) if "prompt" in told else _messages(told["messages"], where, load)), most


def _text(prompt: Any, where: str) -> str:
    if not isinstance(prompt, str) or not prompt:
        raise WorkshopError(f"{where}: the prompt is no text, or an empty one.")
    return prompt


def _messages(messages: Any, where: str, load: Load) -> list[dict[str, Any]]:
    if load.api != CHAT:
        raise WorkshopError(f"{where} has messages, and this load asks for completions. Send it as a chat (--chat).")
    fine = isinstance(messages, Sequence) and messages and all(isinstance(one, dict) for one in messages)
    if not fine or not all(isinstance(one.get("role"), str) and "content" in one for one in messages):
        raise WorkshopError(f"{where}: messages must be a list of objects that have 'role' and 'content'.")
    return list(messages)
