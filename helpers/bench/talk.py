"""The talk's benchmark on the server at hand: the same runs, or as much of them as fits (notebook 08)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.bench import published
from helpers.bench.load import Lengths, Load
from helpers.cards import ShownAsTable, Table

if TYPE_CHECKING:
    from helpers.serving.endpoint import Endpoint
    from helpers.toolchains.sizes import Sizes

_BETWEEN = 8  # between the talk's 1 and 32: a curve has a bend or it has none
_SMALLER, _NTH = 16, "sixteenth"  # on a CPU lengths are divided by this: a notebook's minutes instead of an hour
_RUNS = 3  # the fewest that tell a difference from noise
_FEWEST, _EACH = 20, 2  # requests of a run: enough for a 95th percentile, and as many waves


@dataclass(frozen=True, repr=False)
class Runs(ShownAsTable):
    """The loads to measure, and what they have to do with the talk's.

    Attributes:
        loads: smallest first; the last is past the server's limit of the batch.
        limit: requests that the server runs at once.
        sentence: what is the same as in the talk, and what is not.
    """

    loads: Sequence[Load]
    limit: int
    sentence: str

    def table(self) -> Table:
        """One row a load."""
        rows = [
            (
                load.concurrency,
                f"{load.runs} × {load.requests}",
                load.input_tokens,
                load.output_tokens,
                "past the limit: some wait" if (load.concurrency or 0) > self.limit else "all run at once",
            )
            for load in self.loads
        ]
        columns = ("concurrency", "runs × requests", "tokens in", "tokens out", f"with room for {self.limit}")
        return Table(columns, rows, "The runs", self.sentence)


def runs(endpoint: "Endpoint") -> Runs:
    """The talk's runs for a server: concurrency 1, 32 and 64, and half its limit of the batch, full, and past it.

    Args:
        endpoint: says how long requests may be, how many run at once, and on what.
    """
    sizes, on_gpu = endpoint.options.sizes, endpoint.engine.toolchain != "openvino"
    their = published.find(published.TALK)
    inputs, outputs = _lengths(their.input_tokens, their.output_tokens, sizes.max_input_len, sizes.max_seq_len, on_gpu)
    limit = sizes.max_batch_size
    talks = [one.concurrency for one in their.points]
    concurrency = sorted({n for n in (*talks, _BETWEEN) if n < 2 * limit} | {max(1, limit // 2), limit, 2 * limit})
    loads = [
        Load(
            concurrency=n,
            requests=_requests(n),
            runs=_RUNS,
            input_tokens=Lengths.of(inputs),
            output_tokens=Lengths.of(outputs),
        )
        for n in concurrency
    ]
    said = [_said_of_lengths(their, sizes, inputs, outputs, on_gpu)]
    if missing := [str(n) for n in talks if n not in concurrency]:
        listed = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        said.append(
            f"The talk's concurrency {listed} is left out: this server runs {limit:,} at once, so past {2 * limit:,} "
            "requests would only wait longer."
        )
    return Runs(loads, limit, " ".join(said))


def _requests(concurrency: int) -> int:
    """Requests of one run: enough for a 95th percentile, in whole waves."""
    return concurrency * max(_EACH, math.ceil(_FEWEST / concurrency))


def _lengths(inputs: int, outputs: int, longest: int | None, whole: int, on_gpu: bool) -> tuple[int, int]:
    """Tokens in and out: the talk's, fewer of them on a CPU, never more than the server takes."""
    if not on_gpu:
        inputs, outputs = inputs // _SMALLER, outputs // _SMALLER
    inputs = min(inputs, longest or inputs, whole // 2)
    return inputs, min(outputs, whole - inputs)


def _said_of_lengths(their: "published.Published", sizes: "Sizes", inputs: int, outputs: int, on_gpu: bool) -> str:
    """How long requests are against the talk's, and what keeps them from being as long."""
    talk = f"The talk sent {their.input_tokens:,} tokens in and asked for {their.output_tokens:,} out"
    if (inputs, outputs) == (their.input_tokens, their.output_tokens):
        return f"{talk}; so do these."
    share, why = (1, []) if on_gpu else (_SMALLER, [f"a {_NTH} of it, so that a CPU is done in a minute or two"])
    short_in, short_out = inputs < their.input_tokens // share, outputs < their.output_tokens // share
    if short_in and inputs == sizes.max_input_len:
        why.append(f"this server takes prompts of {inputs:,} at most (max_input_len)")
    if short_out or (short_in and inputs != sizes.max_input_len):
        why.append(f"this server takes {sizes.max_seq_len:,} in and out together at most (max_seq_len)")
    these = f"{talk}; these are {inputs:,} in and {outputs:,} out"
    return f"{these}: {'; '.join(why)}. Compare shapes with the talk's, not figures."
