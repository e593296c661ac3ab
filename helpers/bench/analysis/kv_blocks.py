"""Blocks of the KV cache used and free under a load, and what they say of the limits (notebook 08).

Three things can stop an engine from working on more requests at once: ``max_batch_size``, the KV cache, and
``max_num_tokens``, which bounds what goes through one step. The talk's engine used 832 blocks and had 4,500 free: its
batch size was the limit, and a cache that large served nobody.
"""

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from helpers.bench.analysis.points import Finding, with_note
from helpers.cards import counted
from helpers.errors import WorkshopError
from helpers.serving.status import Activity

if TYPE_CHECKING:
    from helpers.cards import Table
    from helpers.serving.poller import Record

FULL = 0.95
"""Share of the blocks in use from which the cache counts as full: a request needs several blocks at once."""

NEAR = 0.9
"""Share of ``max_num_tokens`` in one step from which that limit counts as reached."""


@dataclass(frozen=True)
class Use:
    """What an engine told over one load.

    Attributes:
        steps: how many it told of.
        most_active, most_queued: requests that ran and that waited at once, at most.
        queued_seconds: that requests waited, all of them together.
        blocks: of the KV cache; None if it did not tell.
        most_used: in use at once; None if it did not tell.
        active_then: requests that ran while most blocks were in use; None if it did not tell.
        paused: pauses of requests that had to give up blocks, all steps together.
        tokens_per_block: tokens that a block holds; None if it did not tell.
        most_step_tokens: tokens that went through one step, at most: those of prompts, and one for each other active
            request; None if it did not tell of prompts.
    """

    steps: int = 0
    most_active: int = 0
    most_queued: int = 0
    queued_seconds: float = 0.0
    blocks: int | None = None
    most_used: int | None = None
    active_then: int | None = None
    paused: int = 0
    tokens_per_block: int | None = None
    most_step_tokens: int | None = None

    @property
    def free(self) -> int | None:
        """Blocks that were free even at the fullest; None if the engine did not tell."""
        return None if self.blocks is None or self.most_used is None else self.blocks - self.most_used

    @property
    def share(self) -> float | None:
        """Share of the blocks in use at the fullest; None if the engine did not tell."""
        return self.most_used / self.blocks if self.blocks and self.most_used is not None else None


def use(told: Any) -> Use:
    """Sum up what an engine told.

    Args:
        told: an :class:`~helpers.serving.status.Activity`, or records of :mod:`helpers.serving.poller`; a
            :class:`Use` is given back as it is.
    """
    if isinstance(told, Use):
        return told
    done = told if isinstance(told, Activity) else Activity("engine", tuple(told))
    records = done.records
    fullest = max((one for one in records if one.kv_used is not None), key=lambda one: one.kv_used or 0, default=None)
    return Use(
        steps=len(records),
        most_active=done.most_active,
        most_queued=done.most_queued,
        queued_seconds=sum(step.queued * step.seconds for step in done.steps),
        blocks=next((one.kv_blocks for one in reversed(records) if one.kv_blocks), None),
        most_used=fullest.kv_used if fullest else None,
        active_then=fullest.active if fullest else None,
        paused=sum(one.paused or 0 for one in records),
        tokens_per_block=next((one.tokens_per_block for one in reversed(records) if one.tokens_per_block), None),
        most_step_tokens=max((found for one in records if (found := _step_tokens(one)) is not None), default=None),
    )


def in_runs(result: Any) -> "tuple[Record, ...]":
    """The records that a result kept of its measured runs, without those of its warm-up; empty where it kept none."""
    if not hasattr(result, "records"):
        return ()
    spans = [(run.began, run.began + run.health.seconds) for run in result.runs if run.number]
    return tuple(one for one in result.records if any(begin <= one.time <= end for begin, end in spans))


def _step_tokens(record: "Record") -> int | None:
    """Tokens that went through a step; None where it does not tell of prompts."""
    if record.prompt_tokens is None:
        return None
    return record.prompt_tokens + max(0, (record.active or 0) - (record.prompts or 0))


@dataclass(frozen=True, repr=False)
class KvBlocks(Finding):
    """What the use of KV blocks says of an engine's limits.

    Attributes:
        use: what the engine told.
        max_batch_size, max_num_tokens: of the engine; None if not given.
        tokens: of one request, prompt and answer; None if not known.
        toolchain: of the engine; empty if not known.
        runs: that the steps were told in; None if not known.
    """

    use: Use
    max_batch_size: int | None = None
    max_num_tokens: int | None = None
    tokens: int | None = None
    toolchain: str = ""
    runs: int | None = None

    @property
    def blocks_per_request(self) -> float | None:
        """Blocks of one request: by its tokens where known, else by the step with most blocks in use; else None."""
        if self.tokens and self.use.tokens_per_block:
            return ceil(self.tokens / self.use.tokens_per_block)
        if self.use.most_used and self.use.active_then:
            return self.use.most_used / self.use.active_then
        return None

    @property
    def fits(self) -> int | None:
        """predicted: requests that the cache holds once they are that long; None if it cannot be said."""
        each = self.blocks_per_request
        return int(self.use.blocks / each) if each and self.use.blocks else None

    @property
    def limit(self) -> str:
        """What held the engine back: ``kv``, ``batch``, or empty where neither did."""
        full = self.use.share is not None and self.use.share >= FULL
        batch = self.max_batch_size is not None and self.use.most_active >= self.max_batch_size
        # A cache may also be full of earlier prompts that nobody needs: it limits where somebody waits or gives way.
        if self.use.paused or (full and self.use.most_queued and not batch):
            return "kv"
        return "batch" if batch else ""

    @property
    def sentence(self) -> str:
        """Which limit was reached, and what to change or not to change."""
        if not self.use.steps:
            return "The engine told of no step in this time, so its blocks are not known."
        if self.use.blocks is None or self.use.most_used is None:
            return "The engine did not tell of its KV blocks."
        return " ".join(filter(None, [self._used(), self._limit(), self._room(), self._step()]))

    def _used(self) -> str:
        pauses = (
            f"{counted(self.use.paused, 'pause')} of a request for want of blocks" if self.use.paused else "no pause"
        )
        return (
            f"At most {self.use.most_used:,} of {self.use.blocks:,} KV blocks were in use ({self.use.share:.0%}) and "
            f"{self.use.free:,} free, with {pauses}."
        )

    def _limit(self) -> str:
        size = f"max_batch_size {self.max_batch_size:,}" if self.max_batch_size else "max_batch_size"
        if self.limit == "kv":
            return (
                "The KV cache is the limit: a higher max_batch_size would not help. Give the cache more memory, keep "
                "it in 8 bits, or bound the lengths."
            )
        if self.limit == "batch":
            raising = (
                "starting the server with another limit (with TensorRT-LLM, a new build)"
                if self.toolchain == "openvino"
                else "a new build"
            )
            return f"The batch is the limit ({size} was reached), not the cache: raising it means {raising}."
        if self.max_batch_size is None:
            return "Give max_batch_size to tell whether the batch was the limit; the cache was not."
        return (
            f"Neither limit was reached: at most {counted(self.use.most_active, 'request')} ran at once, of "
            f"{size}. The load is what it takes to go on."
        )

    def _room(self) -> str:
        if self.fits is None or self.limit == "kv":
            return ""
        by_tokens = self.tokens and self.use.tokens_per_block
        how = (
            f" of {self.tokens:,} tokens" if by_tokens else ", each as large as those in the step with most blocks used"
        )
        text = f"predicted: the cache holds {counted(self.fits, 'request')}{how}"
        if self.max_batch_size is None:
            return f"{text}."
        if self.fits < self.max_batch_size:
            return f"{text}, fewer than the batch allows: with more requests the cache becomes the limit."
        return f"{text}, {self.fits / self.max_batch_size:.1f} times what the batch allows."

    def _step(self) -> str:
        most = self.use.most_step_tokens
        if most is None or self.max_num_tokens is None:
            return ""
        text = f"The fullest step had {counted(most, 'token')}, and max_num_tokens allows {self.max_num_tokens:,}"
        if most >= NEAR * self.max_num_tokens:
            return f"{text}: prompts had to share steps, so a higher one may shorten TTFT."
        return f"{text}: a higher one would change nothing here."

    def table(self) -> "Table":
        """The figures, one a row."""
        used = self.use
        rows = [
            ("requests active, at most", _told(used.most_active), _told(self.max_batch_size)),
            ("requests queued, at most", _told(used.most_queued), "–"),
            ("KV blocks used, at most", _told(used.most_used), _told(used.blocks)),
            ("KV blocks free, at least", _told(used.free), _told(used.blocks)),
            ("tokens that a block holds", _told(used.tokens_per_block), "–"),
            ("pauses (a request gives up its blocks)", _told(used.paused), "–"),
            ("tokens in a step, at most", _told(used.most_step_tokens), _told(self.max_num_tokens)),
        ]
        within = f" of {counted(self.runs, 'run')}" if self.runs else ""
        caption = f"Measured: {counted(used.steps, 'step')}{within}"
        return with_note(("told by the engine", "measured", "limit"), rows, caption, self.sentence)


def kv_blocks(
    told: Any, max_batch_size: int | None = None, max_num_tokens: int | None = None, tokens: int | None = None
) -> KvBlocks:
    """What the use of KV blocks under a load says of the engine's limits.

    Args:
        told: an endpoint's ``activity()``, records of its poller, or a result that kept them.
        max_batch_size: of the engine; None for what the activity or the result knows.
        max_num_tokens: of the engine; None where it is not looked at.
        tokens: of one request, prompt and answer; None for the mean of a result's, else to judge by the step with most
            blocks in use.

    Raises:
        WorkshopError: what was given has no records.
    """
    records = in_runs(told) if hasattr(told, "load") else told
    if not isinstance(records, Activity | Use | list | tuple) or (records == () and records is not told):
        raise WorkshopError(
            "There are no records of the engine here. Give an endpoint's activity(), or a result of a benchmark whose "
            "server tells what it does at /metrics."
        )
    if max_batch_size is None and not isinstance(told, Use | list | tuple):  # an activity and a result know it
        max_batch_size = told.max_batch_size
    if not hasattr(told, "load"):
        return KvBlocks(use(records), max_batch_size, max_num_tokens, tokens)
    toolchain = str(told.engine.get("toolchain", ""))
    return KvBlocks(use(records), max_batch_size, max_num_tokens, tokens or _mean(told), toolchain, len(told.runs))


def _mean(result: Any) -> int | None:
    """Tokens of a result's requests, prompt and answer, on average; None where nobody counted."""
    means = result.value("prompt_tokens"), result.value("answer_tokens")
    return None if None in means else round(sum(means))


def _told(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"
