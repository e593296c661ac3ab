"""A recorded run of a real deployment, which the simulation is held against in its tests (notebook 09)."""

import json
from pathlib import Path
from types import SimpleNamespace

from helpers.bench import rows
from helpers.deploy.observed import Mark, Moment, Observed
from helpers.deploy.scaling import Scaling
from helpers.deploy.simulation.service import Level, Service
from helpers.errors import WorkshopError

FOLDER = Path(__file__).resolve().parents[3] / "data" / "measured" / "scaling"


def recordings() -> list[str]:
    """Names of those that there are."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def recording(name: str) -> SimpleNamespace:
    """One of them: its ``timeline`` (all that :func:`comparison.against` reads), ``service``, and ``machine`` in words.

    Raises:
        WorkshopError: there is none of that name.
    """
    if name not in recordings():
        raise WorkshopError(f"There is no recorded run {name!r}. There are: {', '.join(recordings()) or 'none'}.")
    told = json.loads((FOLDER / f"{name}.json").read_text())
    observed = Observed(
        tuple(Moment(*one) for one in told["moments"]),
        tuple(Mark(*one) for one in told["marks"]),
    )
    levels = [Level(*one) for one in told["service"]["levels"]]
    service = Service(levels, told["service"]["batch"], told["service"]["prompt"], source=told["service"]["source"])
    timeline = SimpleNamespace(
        rows=rows.read(FOLDER / f"{name}.csv"), began=0.0, observed=observed, scaling=Scaling(**told["scaling"])
    )
    return SimpleNamespace(timeline=timeline, service=service, machine=told["machine"], load=told["load"])
