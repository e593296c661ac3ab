"""What every toolchain offers, and the artifact they all make: the engine.

A toolchain does what follows after convert and quantize, which are the same everywhere: build and generate (and serve,
once notebook 07 is there). The notebooks call these names and never ask which toolchain it is.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from helpers.cards import Card, Shown, Table, bytes_text
from helpers.errors import WorkshopError
from helpers.models import Model
from helpers.workspace import Artifact

# What a person may ask a toolchain for, in the order of notebook 04's tables.
TITLES = {"fp16": "FP16", "fp8": "FP8 (E4M3)", "int8": "INT8"}
PRECISIONS = tuple(TITLES)


@dataclass(frozen=True, repr=False)
class Engine(Artifact):
    """A model compiled for one machine by one release of one toolchain."""

    @property
    def toolchain(self) -> str:
        """Which toolchain built it and can run it."""
        return str(self.manifest.options["toolchain"])

    @property
    def precision(self) -> str:
        """``fp16``, ``fp8`` or ``int8``."""
        return str(self.manifest.options["precision"])

    @property
    def title(self) -> str:
        """The precision, as a person writes it."""
        return TITLES[self.precision]

    @cached_property
    def graph(self) -> dict[str, Any]:
        """Operation counts before and after compilation: ``{"before": {type: count}, "after": {…}}``."""
        return dict(json.loads((self.path / "operations.json").read_text()))

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes that its weights take, counted constant by constant when it was built."""
        return int(self.graph["weight_bytes"])


@dataclass(frozen=True, repr=False)
class Generation(Shown):
    """What an engine wrote for one prompt, and how fast.

    Attributes:
        prompt: what it was given.
        text: the continuation, without the prompt.
        tokens: number of tokens made.
        load_seconds: from starting the engine's process to being ready.
        first_token_seconds: from sending the prompt to the first token (TTFT).
        seconds: from sending the prompt to the last token.
        engine: its precision, as a person writes it.
        ended: by what.
        details: label to value: the command and the log's path.
    """

    prompt: str
    text: str
    tokens: int
    load_seconds: float
    first_token_seconds: float
    seconds: float
    engine: str = ""
    ended: str = ""
    details: tuple[tuple[str, str], ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first, per second after the first (the inverse of TPOT); 0 if there is only one."""
        rest = self.seconds - self.first_token_seconds
        return (self.tokens - 1) / rest if self.tokens > 1 and rest > 0 else 0.0

    def figures(self) -> str:
        """One line: how many tokens, how fast, why it ended."""
        return (
            f"{self.tokens} tokens, first after {self.first_token_seconds * 1000:.0f} ms, "
            f"then {self.tokens_per_second:,.0f} tokens/s; engine ready after {self.load_seconds:.2f} s; "
            f"ended by {self.ended}"
        )

    def __str__(self) -> str:
        return f"{self.prompt}{self.text}\n({self.figures()})"

    def _repr_html_(self) -> str:
        import html

        return (
            f"<blockquote style='margin:0.4em 0'><strong>{html.escape(self.prompt)}</strong>"
            f"{html.escape(self.text)}</blockquote><p><small>{html.escape(self.figures())}</small></p>"
            "<details><summary><small>command and log</small></summary><small>"
            + "".join(f"{html.escape(k)}: <code>{html.escape(v)}</code><br>" for k, v in self.details)
            + "</small></details>"
        )


class Toolchain(Protocol):
    """The functions that a toolchain module has."""

    name: str
    title: str
    default_model: str

    def verify(self) -> Table:
        """One line a check: is everything there that this toolchain needs?"""
        ...

    def build(self, model: Model, precision: str = "fp16") -> Engine:
        """Compile a model for this machine, as a stage."""
        ...

    def refusal(self, engine: Engine) -> str | None:
        """Why this engine cannot run here, with what to do; None if it can."""
        ...

    def generate(self, engine: Engine, prompt: str, max_tokens: int = 96, ignore_eos: bool = False) -> Generation:
        """Continue a prompt greedily, showing the text as it comes."""
        ...

    def score(self, engine: Engine) -> Any:
        """Negative log-likelihood of each held-out token under the engine's arithmetic."""
        ...

    def operations(self, engine: Engine) -> Table:
        """How compilation changed the graph."""
        ...

    def about(self, engine: Engine) -> Card:
        """What an engine is tied to, and whether it runs here."""
        ...

    def from_elsewhere(self, engine: Engine, **machine: str) -> Engine:
        """A copy of an engine that claims to have been built on another machine, for teaching."""
        ...


def require_fit(toolchain: Any, engine: Engine) -> None:
    """Refuse an engine that was made elsewhere before anything loads it.

    Raises:
        WorkshopError: says what differs and gives the command that rebuilds it.
    """
    why = toolchain.refusal(engine)
    if why:
        raise WorkshopError(why)


def check_precision(precision: str) -> None:
    """Refuse an unknown precision.

    Raises:
        WorkshopError: names the ones there are.
    """
    if precision not in PRECISIONS:
        raise WorkshopError(
            f"There is no engine precision {precision!r}. Choose one of {', '.join(map(repr, PRECISIONS))}."
        )


def sizes(*engines: Engine) -> Table:
    """Bytes of weights in several engines, each against the first."""
    first = engines[0].weight_bytes
    rows = [
        [e.title, f"{e.weight_bytes:,}", f"{e.weight_bytes / first:.3f}", bytes_text(compiled_bytes(e))]
        for e in engines
    ]
    return Table(
        ["engine", "bytes of weights", f"share of {engines[0].title}", "compiled, on disk"],
        rows,
        caption="Engines, counted when they were built",
    )


def compiled_bytes(engine: Engine) -> int:
    """Bytes of the compiled form that is loaded at start."""
    return sum(file.stat().st_size for file in Path(engine.path).rglob("*.blob"))


def side_by_side(*written: Generation) -> Table:
    """What several engines wrote for the same prompt, and where the texts part."""
    first, rows = written[0].text, [[written[0].engine, written[0].text.strip(), "–"]]
    for made in written[1:]:
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, made.text, strict=False)))
        same = made.text == first
        rows.append([made.engine, made.text.strip(), "the same text" if same else f"parts after {shared} characters"])
    return Table(["engine", "text", f"against {written[0].engine}"], rows, caption=f"Prompt: {written[0].prompt}")
