"""Findings that need this machine: what the pure functions are given is measured or looked up here (notebook 08)."""

from pathlib import Path
from typing import TYPE_CHECKING

from helpers.bench.analysis.precision import Precisions, precisions
from helpers.bench.analysis.roofline import Distance, bandwidth_at, distance, weights_read
from helpers.errors import WorkshopError

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

if TYPE_CHECKING:
    from helpers.bench.results.result import Sweep
    from helpers.serving.endpoint import Endpoint


def distance_here(endpoint: "Endpoint", sweep: "Sweep") -> Distance:
    """How near an endpoint's engine comes to the speed at which this machine reads its weights, measured now.

    Args:
        endpoint: without load meanwhile.
        sweep: of it, with a load of concurrency 1.

    Raises:
        WorkshopError: there is no such load, or the bandwidth cannot be measured.
    """
    from helpers import models, stage
    from helpers.memory import Shape

    engine = endpoint.engine
    with stage.only_news():
        shape = Shape.of(models.find(str(engine.manifest.options["model"])).config)
    weights = weights_read(shape, engine.precision, engine.weight_bytes)
    on_cpu = engine.toolchain == "openvino"
    return distance(
        sweep,
        shape,
        bandwidth_at(weights / engine.tp_size),
        weights,
        engine.kv,
        ranks=engine.tp_size,
        cache=last_level_cache() if on_cpu else None,
        counted="counted as stored" if on_cpu else "counted",
    )


def last_level_cache(folder: Path = _CACHES) -> int | None:
    """Bytes of the CPU's largest cache, as the kernel tells; None where it does not."""
    sizes = []
    for path in folder.glob("index*/size"):
        digits, unit = (text := path.read_text().strip())[:-1], text[-1:]
        if digits.isdigit() and unit in "KM":
            sizes.append(int(digits) * {"K": 2**10, "M": 2**20}[unit])
    return max(sizes, default=None)


def precisions_here(first: "Sweep", second: "Sweep") -> Precisions:
    """Two engines of this machine under the same loads: which is faster where, and why.

    Raises:
        WorkshopError: one of them is of an address, so nobody knows its engine; or they have no load in common.
    """
    from helpers import hardware
    from helpers.hardware.gpus import multiplies
    from helpers.toolchains.choices import TITLES

    engines = [sweep.results[0].engine if sweep.results else {} for sweep in (first, second)]
    if not all(engines):
        raise WorkshopError("Whose engines these are is not known. Measure endpoints of serving.start, not addresses.")
    on_gpu = engines[1]["toolchain"] != "openvino"
    gpu = hardware.supported_gpu(hardware.look()) if on_gpu else None
    names = [TITLES.get(engine["precision"], engine["precision"]) for engine in engines]
    return precisions(
        first,
        second,
        (names[0], names[1]),
        (engines[0]["weight_bytes"], engines[1]["weight_bytes"]),
        multiplies(engines[1]["precision"], gpu),
    )
