"""Asking a served engine, as its users will: the answer streams in, with its time to first token (notebook 07).

``ask`` puts one question to one endpoint, ``side_by_side`` the same question to several. Both go through the official
``openai`` client and show the text as it grows.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from helpers.cards import Shown, Table
from helpers.errors import WorkshopError
from helpers.progress import Bar, Live
from helpers.serving.exchange import Endpoint, Exchange
from helpers.serving.reply import INTERRUPTED, Asked, ChatError, Message, Reply
from helpers.toolchains.generation import shared_beginning

__all__ = ["ChatError", "Comparison", "Reply", "ask", "side_by_side"]

DRAWN_EVERY = 0.1
"""Seconds between two drawings: drawing each token would hold up the thread that reads them."""

_ONCE = "One run each says little."
_LINE = 100  # characters that a terminal's line has room for
_NO_FP8 = "A CPU has no FP8 arithmetic: numbers are widened before they are multiplied (notebook 04)."
_ALIKE = 1.1  # a single run cannot tell speeds apart that are closer than this factor


def ask(
    endpoint: Endpoint,
    prompt: str | Sequence[Message],
    max_tokens: int = 128,
    temperature: float = 0.0,
    seed: int | None = None,
    chat: bool = True,
    ignore_eos: bool = False,
    time_limit: float = 60.0,
    show: bool = True,
) -> Reply:
    """Ask a served engine, show its answer as it grows, and return it.

    Args:
        endpoint: what to ask; see :class:`helpers.serving.exchange.Endpoint`.
        prompt: a text, or the messages of a conversation (``role`` and ``content`` each), oldest first.
        max_tokens, temperature, seed, chat, ignore_eos, time_limit: see :class:`helpers.serving.reply.Asked`.
        show: draw the answer while it comes.

    An interrupt breaks the answer off, closes the connection, and returns what there is, ``ended`` by it.

    Raises:
        ChatError: no server answers, it refused, it told of an error, or its stream broke off or fell silent; the
            error's ``reply`` has what came before.
        WorkshopError: an argument that no server takes.
    """
    asked = Asked(prompt, max_tokens, temperature, seed, chat, ignore_eos, time_limit)
    live = Live() if show else None
    exchange = Exchange(endpoint, asked)
    _follow([exchange], [], live)
    made = exchange.result()
    if live:
        live.finish(made)
    return made


def side_by_side(
    prompt: str | Sequence[Message],
    *endpoints: Endpoint,
    max_tokens: int = 128,
    temperature: float = 0.0,
    seed: int | None = None,
    chat: bool = True,
    ignore_eos: bool = False,
    time_limit: float = 60.0,
    together: bool = False,
    show: bool = True,
) -> "Comparison":
    """Ask several served engines the same, show their answers as they grow, and compare them.

    Args:
        prompt: what to ask; as for :func:`ask`.
        endpoints: two or more.
        max_tokens, temperature, seed, chat, ignore_eos, time_limit: see :class:`helpers.serving.reply.Asked`.
        together: ask all at once. Engines on one machine then share its cores (or its GPU), and each is slower than it
            is alone; one after the other, as by default, each has the machine to itself.
        show: draw the answers while they come.

    Raises:
        ChatError: as :func:`ask`; the other answers are broken off.
        WorkshopError: fewer than two endpoints, or an argument that no server takes.
    """
    if len(endpoints) < 2:
        raise WorkshopError(f"There is nothing to compare with {len(endpoints)} endpoints. Give two or more.")
    asked = Asked(prompt, max_tokens, temperature, seed, chat, ignore_eos, time_limit)
    live = Live() if show else None
    exchanges = [Exchange(endpoint, asked) for endpoint in endpoints]
    made: list[Reply] = []
    for group in [exchanges] if together else [[exchange] for exchange in exchanges]:
        _follow(group, made, live)
        made += [exchange.result() for exchange in group]
        if made[-1].ended == INTERRUPTED:
            break
    compared = Comparison(tuple(named_apart(made)), together)
    if live:
        live.finish(compared)
    return compared


def _follow(exchanges: Sequence[Exchange], before: Sequence[Reply], live: Live | None) -> None:
    """Start exchanges, draw them until all have ended; an interrupt or a failure of one stops the others."""
    for exchange in exchanges:
        exchange.start()
    try:
        for exchange in exchanges:
            while not exchange.wait(DRAWN_EVERY):
                if live:
                    live.show(_Growing.of([*before, *(e.reply() for e in exchanges)]))
                if any(e.failure for e in exchanges):
                    break
    except KeyboardInterrupt:
        pass  # what has come is kept: the reply says that it was interrupted
    for exchange in exchanges:
        exchange.stop()  # does nothing to one that has ended
    for exchange in exchanges:
        exchange.wait()


@dataclass(frozen=True, repr=False)
class _Growing(Bar):
    """Answers that are still coming: their texts in a notebook; in a terminal, the last one's figures and words."""

    replies: tuple[Reply, ...] = field(default=())

    @classmethod
    def of(cls, replies: Sequence[Reply]) -> "_Growing":
        last = replies[-1]
        return cls(f"Asking {last.engine}", last.seconds, text=last.figures(), replies=tuple(replies))

    def line(self) -> str:
        """The figures and the latest words, in as much of a line as they need."""
        room = max(0, _LINE - len(self.text) - 1)
        latest = " ".join(self.replies[-1].text.split())
        return f"{self.text} {latest[-room:] if room else ''}"

    def __str__(self) -> str:
        return f"{self.title}."  # what a log gets, once

    def _repr_html_(self) -> str:
        return self.replies[0]._repr_html_() if len(self.replies) == 1 else columns(self.replies)


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """The same question, answered by several engines.

    Attributes:
        replies: their answers, in the order asked; each with a name of its own.
        together: True where they were asked at once.
    """

    replies: tuple[Reply, ...]
    together: bool = False

    @property
    def sentence(self) -> str:
        """Which was faster and by how much, and whether they wrote the same; both from the answers."""
        if any(reply.ended == INTERRUPTED for reply in self.replies):
            return "An answer was interrupted, so nothing is compared."
        return " ".join(filter(None, (self._speed(), self._why(), self._text(), self._way())))

    def _speed(self) -> str:
        timed = self._timed()
        if not timed:
            return "The speeds cannot be compared: too few tokens came one by one, or not all were counted alike."
        fast, slow = (choose(timed, key=lambda r: r.tokens_per_second) for choose in (max, min))
        factor = fast.tokens_per_second / slow.tokens_per_second
        if factor < _ALIKE:
            return f"They were about equally fast, {slow.rate} to {fast.rate} after the first: less than 10 % apart."
        return (
            f"{_called(fast, 'The engine')} was {factor:.1f} times as fast as {_called(slow, 'the one')}: {fast.rate} "
            f"against {slow.rate}."
        )

    def _timed(self) -> Sequence[Reply]:
        """All answers, if their speeds can be compared; otherwise none."""
        alike = len({reply.counted for reply in self.replies}) == 1
        return self.replies if alike and all(reply.tokens_per_second for reply in self.replies) else ()

    def _why(self) -> str:
        """Why FP8 was not faster than 16 bits, where both ran on a CPU; empty where there is nothing to explain."""
        of_cpu = [reply for reply in self._timed() if reply.toolchain == "openvino"]
        eight, sixteen = (
            [reply.tokens_per_second for reply in of_cpu if reply.precision == precision]
            for precision in ("fp8", "fp16")
        )
        return _NO_FP8 if eight and sixteen and max(eight) < _ALIKE * min(sixteen) else ""

    def _text(self) -> str:
        first, parted = self.replies[0], [r for r in self.replies[1:] if r.text != self.replies[0].text]
        if not parted:
            return "All wrote the same text."
        return " ".join(
            f"The text of {_called(r)} parts from that of {_called(first, 'the one')} after "
            f"{shared_beginning(first.text, r.text):,} characters."
            for r in parted
        )

    def _way(self) -> str:
        if self.together:
            return f"They were asked at once, so engines on one machine slowed each other down. {_ONCE}"
        return f"They were asked one after the other, so that none slowed another down. {_ONCE}"

    def table(self) -> Table:
        """The figures, one row an engine, without the texts; below it the sentence."""
        first = self.replies[0]
        rows = [
            [r.engine, r.ttft_text, r.tokens, r.rate, r.ended, "–" if r is first else _against(first, r)]
            for r in self.replies
        ]
        tokens = "tokens" if all(r.counted for r in self.replies) else "tokens or chunks"
        columns = ["engine", "TTFT", tokens, "after the first", "ended by", f"against {first.engine}"]
        return Table(columns, rows, note=self.sentence)

    def __str__(self) -> str:
        texts = [f"{reply.engine}:\n{reply.text.strip()}" for reply in self.replies]
        return "\n\n".join([f"Prompt: {self.replies[0].prompt}", *texts, str(self.table())])

    def _repr_html_(self) -> str:
        return columns(self.replies, figures=False) + self.table()._repr_html_()


def _against(first: Reply, other: Reply) -> str:
    """Where another's text parts from the first's."""
    if first.text == other.text:
        return "the same text"
    return f"parts after {shared_beginning(first.text, other.text):,} characters"


def _called(reply: Reply, engine: str = "the engine") -> str:
    """What a sentence calls the engine of an answer: by what it has, where its name says that, else by its name."""
    name = reply.engine
    if "weights" in name:
        return f"{engine} with {name}"
    if "KV cache" in name:
        return f"{engine} with {'an' if name.startswith(('INT', '8')) else 'a'} {name}"
    return name


def named_apart(replies: Sequence[Reply]) -> list[Reply]:
    """The replies under short names: what all engines have in common is left out, and the same names are numbered.

    "FP16 weights, 16-bit KV cache" beside "FP8 weights, 16-bit KV cache" become "FP16 weights" and "FP8 weights".
    """
    parts = [reply.engine.split(", ") for reply in replies]
    common = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
    left = [", ".join(part for part in own if part not in common) for own in parts]
    names = left if all(left) else [reply.engine for reply in replies]
    return [
        replace(reply, engine=f"{name} ({names[:place].count(name) + 1})" if names.count(name) > 1 else name)
        for place, (reply, name) in enumerate(zip(replies, names, strict=True))
    ]


def columns(replies: Sequence[Reply], figures: bool = True) -> str:
    """HTML of several answers to one prompt, beside each other; once all have ended, where they part is marked."""
    whole = all(reply.ended for reply in replies)
    shared = min((shared_beginning(replies[0].text, reply.text) for reply in replies), default=0)
    cells = "".join(_column(reply, shared if whole else len(reply.text), figures) for reply in replies)
    asked = f"<p style='margin:0.4em 0'><strong>{html.escape(replies[0].prompt)}</strong></p>"
    return f"{asked}<div style='display:flex;flex-wrap:wrap;gap:0.5em 2em;line-height:1.4'>{cells}</div>"


def _column(reply: Reply, shared: int, figures: bool) -> str:
    """One answer; what follows its shared beginning is underlined, not told by a colour."""
    alike, apart = html.escape(reply.text[:shared]), html.escape(reply.text[shared:].rstrip())
    marked = f"<u style='text-decoration-style:dotted'>{apart}</u>" if apart else ""
    return (
        f"<div style='flex:1 1 18em;min-width:0'><strong>{html.escape(reply.engine)}</strong>"
        f"<blockquote style='margin:0.3em 0;white-space:pre-wrap;overflow-wrap:anywhere'>{alike}{marked}"
        f"{reply.cursor}</blockquote>"
        f"{f'<small>{html.escape(reply.figures())}</small>' if figures else ''}</div>"
    )
