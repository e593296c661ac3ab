"""What was predicted of several GPUs beside what was recorded on two: do they agree on whether a second one helps?

Notebook 06 asks it after both are on the page.
"""

from helpers import hardware, memory
from helpers.cards import Table
from helpers.memory import Shape
from helpers.tensor_parallel.comparison import HELPS
from helpers.tensor_parallel.predict import step
from helpers.tensor_parallel.timing import Times, recorded


def beside_recorded(name: str = "nvidia-h100-x2") -> Table:
    """Each recorded model on one GPU and on several: a token's time and the speed-up, predicted and recorded.

    Args:
        name: of a file in ``data/measured/tensor-parallel``.

    Raises:
        WorkshopError: nothing is recorded under that name, or the GPU is not in ``data/gpus.toml``.
    """
    rows, agreeing, factors, every = [], 0, list[float](), recorded(name).times
    for times in every:
        first, last = times.timings[0], times.timings[-1]
        predicted = [step(_shape(times), _gpu(first.device), one.ranks).seconds for one in (first, last)]
        gains = predicted[0] / predicted[1], first.token / last.token
        agreeing += (gains[0] >= HELPS) == (gains[1] >= HELPS)
        factors += [one.token / seconds for one, seconds in zip((first, last), predicted, strict=True)]
        told = [f"{a * 1e3:.2f} → {b * 1e3:.2f} ms" for a, b in (predicted, (first.token, last.token))]
        rows.append([times.model, f"{first.ranks} → {last.ranks}", *told, *(f"{gain:.2f}" for gain in gains)])
    return Table(
        ["model", "GPUs", "predicted", "recorded", "predicted speed-up", "recorded speed-up"],
        rows,
        caption="One token of one request: predicted beside recorded",
        note=f"On whether more GPUs help (by {HELPS - 1:.0%} or more) the prediction is right for {agreeing} of the "
        f"{len(every)} models. The recorded tokens take {min(factors):.1f} to {max(factors):,.0f} times as long: "
        "a step is more than reading and exchanges.",
    )


def _shape(times: Times) -> Shape:
    """The shape of a recorded model: of the bundled one, or of the one whose shape its random weights have."""
    return memory.named(times.model.partition("'s shape")[0])[1]


def _gpu(device: str) -> hardware.Datasheet:
    """The datasheet of a recorded product."""
    return hardware.datasheet(device) or hardware.by_key(device)
