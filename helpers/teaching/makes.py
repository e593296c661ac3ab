"""Which notebook makes what in the workspace: the one place that :func:`catch_up` and the board read it from.

Each step calls the very function that a cell tagged ``stage`` calls, so what it makes is what the notebook would find.
A test runs those cells after a catch-up and sees that they find everything made.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from helpers import checkpoint, kv_cache, memory, models, recipe, toolchains, unified, workspace
from helpers.toolchains import base
from helpers.toolchains.choices import TITLES

if TYPE_CHECKING:
    from helpers.models import Model
    from helpers.toolchains.base import Engine


@dataclass(frozen=True)
class Step:
    """One thing that a notebook makes.

    Attributes:
        notebook: the number of the notebook whose cell makes it, such as ``03``.
        title: what is said of it as long as its stage cannot be asked, because something it reads is not there yet.
        make: makes it, or finds it made.
    """

    notebook: str
    title: str
    make: Callable[[], object]


def steps(numbers: Iterable[str]) -> list[Step]:
    """What these notebooks make, in the order in which it can be made."""
    return [step for number in numbers for step in _OF.get(number, lambda: iter(()))()]


def makes_anything(number: str) -> bool:
    """True for a notebook that leaves things in the workspace which are not made again."""
    return number in _OF


def install_step() -> Step | None:
    """The installation of the toolchain, where that is still to be done (notebook 02); None where it is in place."""
    from helpers import releases

    toolchain = toolchains.best()
    if toolchain.name not in toolchains.ON_GPU or releases.current() is not None:
        return None
    return Step("02", toolchain.title, toolchain.install)


_found: dict[tuple[str, str], "Model"] = {}


def _model() -> "Model":
    """The model of the notebooks; found once, since its files are read to tell whether it is whole."""
    key = toolchains.default_model(), str(workspace.home())
    if key in _found:
        return _found[key]
    found = models.find(key[0])
    if found.path.is_relative_to(workspace.home()) or found.path.is_relative_to(workspace.REPOSITORY):
        _found[key] = found  # not one that a bundle lends for a look: it is copied first, and used from there
    return found


def _toolchain() -> Any:
    return toolchains.best()


def _checkpoint(precision: str, kv: str | None = None, **options: Any) -> object:
    return checkpoint.make(_model(), precision, kv, **options)


def _engine(precision: str, **options: Any) -> "Engine":
    built: Engine = _toolchain().build(_model(), precision, **options)
    return built


def _score(precision: str) -> object:
    return _toolchain().score(_engine(precision))


def _03() -> Iterator[Step]:
    yield Step("03", "checkpoint, FP16", partial(_checkpoint, "fp16"))
    yield Step("03", "engine, FP16", partial(_engine, "fp16"))


def _04() -> Iterator[Step]:
    choice = _toolchain().choices()
    for kind in dict.fromkeys([choice.eight_bit, "fp8", "int8", "int4_awq"]):
        yield Step("04", f"checkpoint, {TITLES[kind]}", partial(lambda kind: base.quantized(_model(), kind), kind))
    for kind in dict.fromkeys(["fp16", choice.eight_bit, *choice.compared]):
        yield Step("04", f"engine, {TITLES[kind]}", partial(_engine, kind))
    for kind in choice.compared:
        yield Step("04", f"perplexity, {TITLES[kind]}", partial(_score, kind))


def _05() -> Iterator[Step]:
    for weights, kv in (("fp16", None), ("fp8", None), ("fp16", "fp8"), ("fp8", "fp8"), ("fp16", "int8")):
        title = checkpoint.full_title(checkpoint.TITLES[weights], kv)
        yield Step("05", f"checkpoint, {title}", partial(_checkpoint, weights, kv))
    yield Step("05", "keys and values", lambda: kv_cache.capture(_model()))
    for times in (8, 32):
        yield Step("05", f"model with keys × {times}", partial(_with_outliers, times))
    yield Step("05", "keys and values, × 8", lambda: kv_cache.capture(_with_outliers(8)))
    for times, quantized in ((32, None), (32, "fp8"), (8, "int8"), (32, "int8")):
        title = f"checkpoint, keys × {times}, {checkpoint.KV_TITLES[quantized]} KV cache"
        make = partial(lambda times, kv: checkpoint.make(_with_outliers(times), "fp16", kv), times, quantized)
        yield Step("05", title, make)
    for offered in _toolchain().kv_choices().offered("fp16"):
        title = f"engine, {checkpoint.full_title('FP16', offered)}"
        yield Step("05", title, partial(_engine, "fp16", kv=offered))
        yield Step("05", f"requests at once, {title}", partial(_batch, offered))


def _with_outliers(times: int) -> "Model":
    return kv_cache.with_outlier_keys(_model(), times)


def _batch(kv: str | None) -> object:
    budget = 4096 * memory.kv_bytes_per_token(memory.Shape.of(_model().config))
    return _toolchain().batch(_engine("fp16", kv=kv), budget)


def _06() -> Iterator[Step]:
    for ranks in (1, 2, 4):
        yield Step("06", f"run over {ranks} ranks", partial(_split, ranks))
    yield Step("06", "checkpoint, FP16, 2 ranks", partial(_checkpoint, "fp16", tp_size=2))


def _split(ranks: int) -> object:
    from helpers import tensor_parallel

    model = _model()
    return tensor_parallel.run(model, ranks) if ranks in memory.Shape.of(model.config).splits else None


def _07() -> Iterator[Step]:
    mine = recipe.for_this_machine()
    for one in (mine, *recipe.pair(mine)):
        yield Step("07", f"engine of the recipe {one.name}", partial(recipe.run, one))


def _10() -> Iterator[Step]:
    yield Step("10", "unified checkpoint, FP8", lambda: unified.make(_model(), "fp8", kv="fp8"))
    yield Step("10", "checkpoint, FP8 weights, FP8 KV cache", partial(_checkpoint, "fp8", "fp8"))
    yield Step("10", "perplexity of the unified checkpoint", _read_back)


def _read_back() -> object:
    return unified.read_back(unified.make(_model(), "fp8", kv="fp8"), texts=32)


_OF: dict[str, Callable[[], Iterator[Step]]] = {
    "03": _03,
    "04": _04,
    "05": _05,
    "06": _06,
    "07": _07,
    "10": _10,
}
"""Notebook 01 measures, 02 installs; 08 and 09 measure what 07 has built, and keep their results under benchmarks."""
