"""One token's time for several models, GPUs and numbers of GPUs: where more stop helping, and where they are needed.

The predictions of :mod:`helpers.tensor_parallel.predict` side by side, with sentences computed from them. Notebook 06.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from helpers import memory
from helpers.cards import ShownAsTable, Table, bytes_text
from helpers.errors import WorkshopError
from helpers.hardware import Datasheet
from helpers.memory.asked import ModelLike, weights, whole
from helpers.tensor_parallel.experts import Mixture, mixture_of
from helpers.tensor_parallel.links import Interconnect, sheet_of
from helpers.tensor_parallel.predict import WAYS, Step, Way, step

OWN_KERNELS = "https://developer.nvidia.com/blog/3x-faster-allreduce-with-nvswitch-and-tensorrt-llm-multishot/"
"""NVIDIA on TensorRT-LLM's all-reduce over NVSwitch: two steps however many GPUs, up to 3 times as fast as a ring's."""

_WORDS: dict[Way, str] = {"pipeline": "As a pipeline", "expert": "With whole experts on each GPU"}
HELPS = 1.05
"""How many times as fast a token must be on more GPUs to say that they help."""


@dataclass(frozen=True, repr=False)
class Prediction(ShownAsTable):
    """One token's time for several models, GPUs and numbers of them.

    Attributes:
        steps: what was predicted, those that do not fit among them.
        impossible: sentences on the numbers of GPUs that a model cannot be split over.
        precision: the weights'.
    """

    steps: tuple[Step, ...]
    impossible: tuple[str, ...]
    precision: str

    @cached_property
    def ways(self) -> tuple[Way, ...]:
        """The ways that occur."""
        return tuple(way for way in WAYS if any(one.way == way for one in self.steps))

    @property
    def models(self) -> list[str]:
        """Their names, in the order that was asked for."""
        return list(dict.fromkeys(one.model for one in self.steps))

    @property
    def gpus(self) -> list[str]:
        """Their names, in the order that was asked for."""
        return list(dict.fromkeys(one.gpu for one in self.steps))

    def of(self, model: str, gpu: str, way: Way = "tensor") -> list[Step]:
        """One model's steps on one GPU and on several, from the fewest on."""
        return [one for one in self.steps if (one.model, one.gpu, one.way) == (model, gpu, way)]

    def first(self, model: str, gpu: str, way: Way = "tensor") -> Step | None:
        """The fewest GPUs that the model fits on; None if it fits on none of the numbers."""
        return next((one for one in self.of(model, gpu, way) if one.fits), None)

    def best(self, model: str, gpu: str, way: Way = "tensor") -> Step | None:
        """The number of GPUs with the least time among those that the model fits on."""
        fitting = [one for one in self.of(model, gpu, way) if one.fits]
        return min(fitting, key=lambda one: one.seconds, default=None)

    def speed_up(self, one: Step) -> float | None:
        """How many times as fast a step is as on the fewest GPUs that the model fits on, split the same way."""
        first = self.first(one.model, one.gpu, one.way)
        return first.seconds / one.seconds if first and one.fits else None

    def table(self) -> Table:
        """One row a step."""
        several = len(self.ways) > 1
        way = ("way",) if several else ()
        columns = ("model", "GPU", *way, "GPUs", "weights on each", "reading", "exchanges", "one token", "speed-up")
        requests = self.steps[0].requests
        many = f"{requests} requests" if requests > 1 else "one request"
        caption = f"predicted: a token of {many} in the generation phase, {memory.TITLES[self.precision]} weights"
        rows = [self._row(one, several) for one in self.steps]
        dashes = () if all(one.fits for one in self.steps) else ("A dash: it does not fit.",)
        return Table(columns, rows, caption, " ".join((*self.sentences, *dashes, *self.assumptions)))

    def _row(self, one: Step, several: bool) -> tuple[str, ...]:
        """One step; of one that does not fit, no times."""
        way = (one.way,) if several else ()
        named = (one.model, one.gpu, *way, str(one.ranks), bytes_text(one.held))
        faster = self.speed_up(one)
        if faster is None:
            return *named, *4 * ("–",)
        times = [f"{seconds * 1e3:.2f} ms" for seconds in (one.reading, one.talking, one.seconds)]
        return *named, *times, f"{faster:.2f}"

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """One a model: where more GPUs stop helping, split by ``tensor``, or how many it needs."""
        way = self.ways[0]
        named = "" if way == "tensor" else f", split by {way}"
        said = [f"{model}{named} {self._outcomes(model, way)}." for model in self.models]
        return (*said, *self.impossible, *self._other_ways())

    def _outcomes(self, model: str, way: Way) -> str:
        """What more GPUs do for one model, the GPUs with the same outcome together."""
        found: dict[str, list[str]] = {}
        for gpu in self.gpus:
            found.setdefault(self._outcome(model, gpu, way), []).append(gpu)
        return "; ".join(f"on {', '.join(gpus)}: {outcome}" for outcome, gpus in found.items())

    def _other_ways(self) -> list[str]:
        """One a way besides ``tensor``: in how many cases it is the faster one."""
        said = []
        for way in self.ways if "tensor" in self.ways else ():
            theirs = {(one.model, one.gpu, one.ranks): one for one in self.steps if one.way == way and one.fits}
            pairs = [
                (one, theirs[one.model, one.gpu, one.ranks])
                for one in self.steps
                if one.way == "tensor" and one.ranks > 1 and one.fits
                if (one.model, one.gpu, one.ranks) in theirs
            ]
            if way != "tensor" and pairs:
                faster = sum(other.seconds < one.seconds for one, other in pairs)
                said.append(
                    f"{_WORDS[way]}, a token comes sooner than split by tensor in {faster} of the {len(pairs)} cases "
                    "that fit both ways."
                )
        return said

    def _outcome(self, model: str, gpu: str, way: Way) -> str:
        """What more GPUs of one kind do for one model."""
        asked = [one.ranks for one in self.of(model, gpu, way)]
        first, best = self.first(model, gpu, way), self.best(model, gpu, way)
        if first is None or best is None:
            return f"does not fit, not even on {max(asked)}" if asked else "not split over any of these numbers"
        needs = f"needs {first.ranks}" if first.ranks > min(asked) else ""
        faster = first.seconds / best.seconds
        if first.ranks == max(asked):
            return needs or f"{first.ranks} is the only number asked for"
        if faster < HELPS:
            more = f"no other number of GPUs is more than {HELPS - 1:.0%} faster"
        else:
            end = "the most asked for" if best.ranks == max(asked) else "more do not help"
            more = f"{best.ranks} are fastest ({end}), {faster:.1f} times as fast as {first.ranks}"
        return f"{needs}, {more}" if needs else more

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the numbers rest on, in sentences."""
        used = {one.link.key: one.link for one in self.steps if one.link}
        told = [f"{link.name} {_timed(link)}" for link in used.values()]
        kernels = (
            "TensorRT-LLM has all-reduce kernels of its own where GPUs reach each other's memory, so it can do better "
            f"({OWN_KERNELS})."
        )
        read = (
            "Assumed: every weight that a token needs is read once, at the datasheet's bandwidth, which no real step "
            "reaches; all exchanges go through NCCL."
        )
        timed = f"A small all-reduce takes: {'; '.join(told)}; for other numbers of GPUs an estimate from these."
        return (read, timed, kernels) if told else (read,)


def _timed(link: Interconnect) -> str:
    """The times that a link's prediction starts from, such as ``16.8 µs for 2 GPUs (recorded)``."""
    times = ", ".join(f"{seconds * 1e6:.1f} µs for {ranks}" for ranks, seconds in link.all_reduce_seconds.items())
    return f"{times} GPUs ({link.label})"


def compare(
    models: ModelLike | Mixture | Sequence[ModelLike | Mixture],
    gpus: str | Datasheet | Sequence[str | Datasheet],
    ranks: Sequence[int] = (1, 2, 4, 8),
    ways: Iterable[Way] = ("tensor",),
    precision: str = "fp16",
    requests: int = 1,
    context: int = 0,
    link: str | Interconnect | None = None,
) -> Prediction:
    """Predict one token's time for every model, GPU and number of GPUs, and say where more stop helping.

    A number that a model cannot be split over is left out, and the note says so; so is expert parallelism of a dense
    model.

    Args:
        models, gpus: one or several, as :func:`step` takes them.
        ranks: numbers of GPUs.
        ways: of :data:`WAYS`.
        precision, requests, context, link: see :func:`step`.

    Raises:
        WorkshopError: nothing to predict, or what :func:`step` refuses.
    """
    asked = [mixture_of(one) for one in _listing(models)]
    sheets = [sheet_of(one) for one in ([gpus] if isinstance(gpus, str | Datasheet) else gpus)]
    counts, chosen = sorted({whole("ranks", number) for number in ranks}), list(dict.fromkeys(ways))
    impossible = tuple(
        f"{model.name} cannot be split by tensor over {_listed(left)} GPUs: its {model.shape.kv_heads} key-value "
        "heads do not share out."
        for model in asked
        if set(chosen) - {"pipeline"} and (left := [number for number in counts if number not in model.shape.splits])
    )
    steps = tuple(
        step(model, sheet, number, way, precision, requests, context, link)
        for model in asked
        for sheet in sheets
        for way in chosen
        for number in counts
        if _possible(model, way, number)
    )
    if not steps:
        raise WorkshopError(
            "Nothing to predict: name at least one model, one GPU, one number of GPUs that the model can be split "
            "over, and one way."
        )
    return Prediction(steps, impossible, weights(precision))


def _listing(models: ModelLike | Mixture | Sequence[ModelLike | Mixture]) -> Sequence[ModelLike | Mixture]:
    """One model or several as a list; a name, a shape and a ``config.json`` are one."""
    return models if isinstance(models, Sequence) and not isinstance(models, str) else [models]


def _possible(model: Mixture, way: Way, ranks: int) -> bool:
    """False where :func:`compare` leaves a step out."""
    if way == "pipeline":
        return ranks <= model.shape.layers
    return ranks in model.shape.splits and (way != "expert" or (model.experts > 1 and not model.experts % ranks))


def _listed(numbers: Sequence[int]) -> str:
    """Numbers in words, such as ``4 or 8``."""
    return " or ".join(map(str, numbers))
