"""The talk's benchmark on the server at hand: the same runs, or as much of them as fits (notebook 08)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.bench import published
from helpers.bench.load import Lengths, Load
from helpers.cards import ShownAsTable, Table

if TYPE_CHECKING:
    from helpers.serving.endpoint import Endpoint

_CONCURRENCY = (1, 8, 32, 64)  # the talk's 1, 32 and 64, and one between: a curve has a bend or it has none
_SMALLER = 8  # on a CPU lengths are divided by this: a notebook's minutes instead of an hour
_RUNS = 3  # the fewest that tell a difference from noise
_FEWEST, _EACH = 8, 2  # requests of a run, and for each in flight


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
    """The talk's runs for a server: concurrency 1, 32 and 64, and past the limit of its batch.

    Args:
        endpoint: says how long requests may be, how many run at once, and on what.
    """
    sizes, on_gpu = endpoint.options.sizes, endpoint.engine.toolchain != "openvino"
    their = published.find(published.TALK)
    inputs, outputs = _lengths(their.input_tokens, their.output_tokens, sizes.max_input_len, sizes.max_seq_len, on_gpu)
    limit = sizes.max_batch_size
    concurrency = sorted({n for n in _CONCURRENCY if n < 2 * limit} | {limit, 2 * limit})
    loads = [
        Load(
            concurrency=n,
            requests=max(_FEWEST, _EACH * n),
            runs=_RUNS,
            input_tokens=Lengths.of(inputs),
            output_tokens=Lengths.of(outputs),
        )
        for n in concurrency
    ]
    return Runs(loads, limit, _sentence(their.input_tokens, their.output_tokens, inputs, outputs, on_gpu))


def _lengths(inputs: int, outputs: int, longest: int | None, whole: int, on_gpu: bool) -> tuple[int, int]:
    """Tokens in and out: the talk's, an eighth of them on a CPU, never more than the server takes."""
    if not on_gpu:
        inputs, outputs = inputs // _SMALLER, outputs // _SMALLER
    inputs = min(inputs, longest or inputs, whole // 2)
    return inputs, min(outputs, whole - inputs)


def _sentence(their_in: int, their_out: int, inputs: int, outputs: int, on_gpu: bool) -> str:
    talk = f"The talk sent {their_in:,} tokens in and asked for {their_out:,} out"
    if (inputs, outputs) == (their_in, their_out):
        return f"{talk}; so do these."
    why = "so that a CPU is done in a minute or two" if not on_gpu else "for this server takes no longer ones"
    return f"{talk}; these are {inputs:,} in and {outputs:,} out, {why}. Compare shapes with the talk's, not figures."
