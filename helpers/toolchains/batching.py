"""Many requests through one engine at once: what the scheduler did, how fast, and what was written (notebook 05)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from helpers import models, workspace
from helpers.cards import Shown, Table, counted
from helpers.checkpoint import HELD_OUT, KV_TITLES, full_title
from helpers.errors import WorkshopError
from helpers.toolchains.choices import TITLES
from helpers.toolchains.generation import shared_beginning
from helpers.workspace import Artifact

if TYPE_CHECKING:
    from helpers.toolchains.base import Engine


@dataclass(frozen=True)
class Load:
    """Requests that are handed over all at once; greedy, and each goes on to its limit.

    The default is too much for a KV cache of 3,072 tokens: all prompts find room in it, and not all answers.

    Attributes:
        requests: how many, each the beginning of another held-out text.
        prompt_tokens: tokens of a prompt, at most.
        new_tokens: tokens that each request makes, whatever the model thinks of an end.
        rounds: how often the whole is run; speeds are medians over the rounds.
    """

    requests: int = 48
    prompt_tokens: int = 32
    new_tokens: int = 96
    rounds: int = 3

    def options(self) -> list[str]:
        """The same as options of the workers."""
        return [word for name, value in vars(self).items() for word in (f"--{name.replace('_', '-')}", str(value))]


@dataclass(frozen=True)
class Step:
    """What the scheduler did in one iteration.

    Attributes:
        seconds: since the requests were handed over.
        running: requests that took part.
        waiting: requests that did not: not started yet, or pre-empted.
        used: KV blocks that hold something.
        free: KV blocks that hold nothing.
    """

    seconds: float
    running: int
    waiting: int
    used: int
    free: int


@dataclass(frozen=True, repr=False)
class BatchRun(Artifact):
    """Many requests through one engine at once, with a KV cache of a given size (notebook 05).

    Read from ``run.json``, which either toolchain's worker writes: ``blocks``, ``tokens_per_block``, ``kv_cache_bytes``
    (as the engine reports it; null where it does not), ``rounds`` (``seconds``, ``tokens``, ``preempted``),
    ``steps`` of the last round (the fields of :class:`Step`), ``outputs`` (token ids of each request), ``end`` (the id
    of the end-of-sequence token) and ``texts``.
    """

    @cached_property
    def run(self) -> dict[str, Any]:
        """The file's content."""
        return dict(json.loads((self.path / "run.json").read_text()))

    @property
    def kv(self) -> str | None:
        """What the engine's KV cache was kept in."""
        return str(self.manifest.options["kv"]) or None

    @property
    def title(self) -> str:
        """The engine's precisions, as a person writes them."""
        return full_title(TITLES[str(self.manifest.options["precision"])], self.kv)

    @property
    def steps(self) -> list[Step]:
        """Every iteration of the last round, in order."""
        return [Step(*row) for row in self.run["steps"]]

    @property
    def blocks(self) -> int:
        """Blocks of the KV cache."""
        return int(self.run["blocks"])

    @property
    def tokens(self) -> int:
        """Tokens of all requests together that the KV cache holds."""
        return self.blocks * int(self.run["tokens_per_block"])

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache, as the engine reports them; what they were planned as where it does not."""
        return int(self.run["kv_cache_bytes"] or self.manifest.options["planned_bytes"])

    @property
    def most_running(self) -> int:
        """Requests in flight in the fullest iteration."""
        return max(step.running for step in self.steps)

    @property
    def mean_running(self) -> float:
        """Requests in flight on average over the time of the last round."""
        steps = self.steps
        spans = [now.seconds - before for now, before in zip(steps, [0.0, *(s.seconds for s in steps)], strict=False)]
        return sum(step.running * span for step, span in zip(steps, spans, strict=True)) / steps[-1].seconds

    @property
    def waited(self) -> float:
        """Seconds until no request of the last round waited any more; 0 if none did."""
        return max((step.seconds for step in self.steps if step.waiting), default=0.0)

    @property
    def preempted(self) -> int:
        """How often a request that was under way lost KV blocks to others in the last round, and had to pause.

        What it lost is computed once more when there is room again. The toolchain's worker says how it counts.
        """
        return int(self.run["rounds"][-1]["preempted"])

    @property
    def speeds(self) -> list[float]:
        """Generated tokens a second, all requests together, of every round."""
        return [made["tokens"] / made["seconds"] for made in self.run["rounds"]]

    @property
    def tokens_per_second(self) -> float:
        """The median of :attr:`speeds`."""
        return median(self.speeds)

    @cached_property
    def answers(self) -> list[list[int]]:
        """Token ids that each request made, up to its end-of-sequence token."""
        end = self.run["end"]
        return [list(takewhile(lambda token: token != end, ids)) for ids in self.run["outputs"]]


def require_load(load: Load, budget: int, positions: int) -> None:
    """Refuse what no engine can run.

    Args:
        load: what is asked for.
        budget: bytes of KV cache.
        positions: tokens of the longest sequence that the engine takes.

    Raises:
        WorkshopError: a number that is not a whole one above 0, more requests than there are held-out texts, or
            sequences that are too long.
    """
    for name, value in {"budget": budget, **vars(load)}.items():
        if not isinstance(value, int) or value < 1:
            raise WorkshopError(f"{name} is {value!r}: give a whole number above 0.")
    there = len(models.texts(HELD_OUT))
    if load.requests > there:
        raise WorkshopError(
            f"{load.requests:,} requests were asked for, and there are {there} held-out texts to begin them with. "
            f"Ask for at most {there}."
        )
    longest = load.prompt_tokens + load.new_tokens
    if longest > positions:
        raise WorkshopError(
            f"A prompt of {load.prompt_tokens:,} tokens and {load.new_tokens:,} new ones make {longest:,}, and the "
            f"engine takes {positions:,} at most. Ask for fewer."
        )


def blocks_within(load: Load, budget: int, bytes_per_token: int, tokens_per_block: int) -> int:
    """Blocks of KV cache that a budget pays for.

    Args:
        load: what shall run; the last token of an answer is never stored.
        budget: bytes.
        bytes_per_token: from :func:`helpers.memory.kv_bytes_per_token`.
        tokens_per_block: of the toolchain.

    Raises:
        WorkshopError: one request alone needs more; says how many bytes.
    """
    blocks = budget // (bytes_per_token * tokens_per_block)
    one = -(-(load.prompt_tokens + load.new_tokens - 1) // tokens_per_block)
    if blocks < one:
        raise WorkshopError(
            f"A budget of {budget:,} bytes holds {counted(blocks, 'block')} of KV cache, and one request alone needs "
            f"{one}. Give at least {one * tokens_per_block * bytes_per_token:,} bytes, or ask for shorter requests."
        )
    return blocks


def target(engine: "Engine", budget: int, load: Load) -> Path:
    """Where a run is kept: another folder for every engine, budget and load, so that runs can be set side by side."""
    name = "-".join(map(str, [engine.path.name, budget, *vars(load).values()]))
    return workspace.home() / "batches" / engine.path.parent.name / name


def options(engine: "Engine", budget: int, load: Load, bytes_per_token: int, tokens: int) -> dict[str, Any]:
    """What a run's manifest says was asked for.

    Args:
        engine, budget, load: as for a toolchain's ``batch``.
        bytes_per_token: as the planner counts them.
        tokens: that the KV cache is made for, all its blocks together.
    """
    asked = {key: engine.manifest.options[key] for key in ("toolchain", "model", "precision")}
    planned = {"budget": budget, "planned_bytes": tokens * bytes_per_token}
    return {**asked, "kv": engine.kv or "", **planned, **vars(load)}


def compare(*runs: BatchRun) -> Table:
    """What the same requests met in several KV caches: how much fits, what the scheduler did, how fast it went.

    Raises:
        WorkshopError: no run was given.
    """
    _require_runs(runs)
    columns = ["engine", "KV cache, bytes", "bytes a token", "tokens that fit", "against the first"]
    columns += ["most in flight", "on average", "pre-emptions", "tokens/s, median"]
    first = runs[0]
    rows = [
        [
            run.title,
            f"{'' if run.run['kv_cache_bytes'] else 'predicted: '}{run.kv_bytes:,}",
            f"{run.kv_bytes / run.tokens:,.0f}",
            f"{run.tokens:,}",
            f"{run.tokens / first.tokens:.2f} times",
            run.most_running,
            f"{run.mean_running:.1f}",
            run.preempted,
            f"{run.tokens_per_second:,.0f} ({min(run.speeds):,.0f} to {max(run.speeds):,.0f})",
        ]
        for run in runs
    ]
    caption = "measured: many requests at once; scheduling of the last round, tokens/s over all rounds"
    return Table(columns, rows, caption, " ".join(_told(first, run) for run in runs[1:]))


def _told(first: BatchRun, run: BatchRun) -> str:
    """Two sentences on a run against the first: what its KV cache holds, and whether it was faster."""
    name, other = _names(run, first)
    budgets = [int(each.manifest.options["budget"]) for each in (run, first)]
    same = budgets[0] == budgets[1]
    room = f"In the same {budgets[0]:,} bytes" if same else f"In {budgets[0]:,} bytes instead of {budgets[1]:,}"
    held = f"{room}, {name} holds {run.tokens / first.tokens:.2f} times the tokens of {other}."
    change = run.tokens_per_second / first.tokens_per_second - 1
    if not _comparable(run, first):
        return held
    if max(run.speeds) < min(first.speeds) or min(run.speeds) > max(first.speeds):
        return f"{held} Run one after the other, it made {abs(change):.0%} {_more(change)} tokens a second."
    return f"{held} Its tokens a second differ by no more than the rounds do among themselves."


def _more(change: float) -> str:
    """The word for a change upwards or downwards."""
    return "more" if change > 0 else "fewer"


def _names(run: BatchRun, other: BatchRun) -> tuple[str, str]:
    """What to call two runs: their KV caches if these differ, else the engines."""
    if run.kv != other.kv:
        return KV_TITLES[run.kv], KV_TITLES[other.kv]
    return run.title, other.title


def _comparable(run: BatchRun, other: BatchRun) -> bool:
    """True if both were handed the same requests."""
    keys = ("model", "requests", "prompt_tokens", "new_tokens")
    asked = [[each.manifest.options[key] for key in keys] for each in (run, other)]
    return asked[0] == asked[1]


def _require_runs(runs: Sequence[BatchRun]) -> None:
    """Refuse to compare nothing."""
    if not runs:
        raise WorkshopError("There is nothing to compare: no run was given. Make one with the toolchain's batch().")


def agreement(reference: BatchRun, other: BatchRun) -> Shown:
    """How many of the greedy answers are the same, and after how many tokens the others part.

    Answers are compared up to their end-of-sequence tokens. One token that is chosen otherwise changes all that
    follow it, so this says how near to each other the engines are, not how good (that is what perplexity says).

    Raises:
        WorkshopError: the runs were handed different requests.
    """
    if not _comparable(reference, other):
        raise WorkshopError(
            "These runs were handed different requests, so their answers cannot be compared. "
            "Run batch() with the same model and the same load for both."
        )
    pairs = list(zip(reference.answers, other.answers, strict=True))
    parted = [shared_beginning(a, b) for a, b in pairs if a != b]
    same, name = len(pairs) - len(parted), " and ".join(_names(other, reference))
    name = "the same engine twice" if other.title == reference.title else name
    half = f"{median(parted):g}" if parted else "–"
    said = f"With {name}, {same} of {len(pairs)} greedy answers are the same ({same / len(pairs):.0%})"
    if len(parted) == 1:
        said += f"; the other one parts after {counted(parted[0], 'token')}"
    elif parted:
        said += f"; half of the others part after {half} tokens or sooner"
    rows = [
        ["the same answer", f"{same} of {len(pairs)}"],
        ["tokens before the others part, median", half],
        ["tokens of an answer, median", f"{median(map(len, reference.answers)):g}"],
    ]
    return Table(["answers", "measured"], rows, f"{other.title}, against {reference.title}", f"{said}.")


def planned_against_measured(*runs: BatchRun) -> Table:
    """The planner's bytes of KV cache beside the engine's own figure.

    Raises:
        WorkshopError: no run was given.
    """
    _require_runs(runs)
    rows, off = [], []
    for run in runs:
        planned, found = int(run.manifest.options["planned_bytes"]), run.run["kv_cache_bytes"]
        each = planned // run.tokens
        off += [abs(planned / found - 1)] if found else []
        shown = [f"{found:,}", f"{planned / found - 1:+.1%}"] if found else ["–", "–"]
        rows.append([run.title, f"{run.tokens:,}", f"{each:,}", f"{planned:,}", *shown])
    columns = ["engine", "tokens", "predicted: bytes a token", "predicted: bytes", "measured: bytes", "difference"]
    note = f"The planner is off by {max(off):.1%} at most." if off else "No engine told how large its KV cache is."
    return Table(columns, rows, "KV cache as planned, and as the engine reports it", note)
