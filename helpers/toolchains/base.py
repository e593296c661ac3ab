"""What every toolchain offers, and the artifact they all make: the engine.

A toolchain does what follows after convert and quantize, which are the same everywhere: build, generate and serve. The
notebooks call these names and never ask which toolchain it is.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from helpers import checkpoint, workspace
from helpers.cards import Card, Picture, Table, bytes_text
from helpers.errors import WorkshopError
from helpers.models import Model
from helpers.toolchains.batching import BatchRun, Load
from helpers.toolchains.choices import AUTO, CHECKPOINTS, TITLES, Choices, KvChoices, kv_of
from helpers.toolchains.generation import Generation
from helpers.toolchains.generation import side_by_side as side_by_side
from helpers.toolchains.serving import ServeCommand, ServeOptions
from helpers.toolchains.sizes import Sizes
from helpers.workspace import Artifact


def quantized(
    model: Model,
    precision: str,
    kv: str | None = AUTO,
    silent: bool = False,
    tp_size: int = 1,
    calibration_texts: int = checkpoint.CALIBRATION_TEXTS,
) -> checkpoint.Checkpoint:
    """The TensorRT-LLM checkpoint that an engine of this precision is built from, KV cache included.

    Args:
        model: from :func:`helpers.models.find`.
        precision: the engine's.
        kv: of the KV cache: ``fp8``, ``int8``, None for 16 bits; :data:`AUTO` for what goes best with the weights.
        silent: show nothing where it exists.
        tp_size: number of ranks.
        calibration_texts: how many of the calibration texts to look at.

    Raises:
        WorkshopError: see :func:`helpers.checkpoint.make`.
    """
    return checkpoint.make(model, CHECKPOINTS[precision], kv_of(precision, kv), tp_size, calibration_texts, silent)


REFERENCE = "reference.json"
"""In an engine's folder: which folder is loaded, where nothing is built (TensorRT-LLM's PyTorch back end)."""


@dataclass(frozen=True, repr=False)
class Engine(Artifact):
    """A model compiled for one machine by one release of one toolchain."""

    @property
    def toolchain(self) -> str:
        """Which toolchain built it and can run it."""
        return str(self.manifest.options["toolchain"])

    @property
    def precision(self) -> str:
        """A key of :data:`TITLES`."""
        return str(self.manifest.options["precision"])

    @property
    def tp_size(self) -> int:
        """Number of ranks, each on a GPU of its own; 1 for a whole engine."""
        return int(self.manifest.options.get("tp_size", 1))

    @property
    def title(self) -> str:
        """The precision, as a person writes it, and the number of GPUs where it is split over several."""
        return TITLES[self.precision] + self._over

    @property
    def _over(self) -> str:
        """What a title adds for an engine that is split."""
        return f", {self.tp_size} GPUs" if self.tp_size > 1 else ""

    @property
    def kv(self) -> str | None:
        """What its KV cache is kept in: ``fp8``, ``int8``, or None for 16 bits."""
        return str(self.manifest.options.get("kv", "")) or None

    @property
    def full_title(self) -> str:
        """The precisions of weights and KV cache, as a person writes them."""
        return checkpoint.full_title(TITLES[self.precision], self.kv) + self._over

    @cached_property
    def graph(self) -> dict[str, Any]:
        """Operation counts before and after compilation: ``{"before": {type: count}, "after": {…}}``."""
        return dict(json.loads((self.path / "operations.json").read_text()))

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes that its weights take: counted constant by constant where the build told, else the compiled form's."""
        counted = (self.path / "operations.json").exists()
        return int(self.graph["weight_bytes"]) if counted else compiled_bytes(self)


def loaded_folder(engine: Engine) -> Path:
    """The folder that is read when an engine is loaded: its own, or the one that it names instead of being built."""
    named = engine.path / REFERENCE
    return Path(json.loads(named.read_text())["folder"]) if named.exists() else engine.path


class Toolchain(Protocol):
    """The functions that a toolchain module has."""

    name: str
    title: str
    default_model: str

    def install(self) -> Any:
        """Put in place what this toolchain needs, or say that nothing is missing."""
        ...

    def verify(self) -> Table:
        """One line a check: is everything there that this toolchain needs?"""
        ...

    def choices(self) -> Choices:
        """Which precisions this machine's engines can have."""
        ...

    def kv_choices(self) -> KvChoices:
        """Which KV caches this machine's engines can have, beside which weights, and what each gives up."""
        ...

    def build(
        self,
        model: Model,
        precision: str = "fp16",
        kv: str | None = AUTO,
        tp_size: int = 1,
        sizes: Sizes | None = None,
        calibration_texts: int = checkpoint.CALIBRATION_TEXTS,
    ) -> Engine:
        """Compile a model for this machine, over ``tp_size`` GPUs, for ``sizes`` or the usual ones, as a stage."""
        ...

    def serve_options(self, engine: Engine) -> ServeOptions:
        """What a server of this engine is told unless a recipe says otherwise."""
        ...

    def serve_command(self, engine: Engine, options: ServeOptions) -> ServeCommand:
        """What starts an OpenAI-compatible server in front of an engine; starts nothing."""
        ...

    def ranks(self, model: Model) -> list[int]:
        """The numbers of GPUs that this machine can run the model's engine on, smallest first; ``[1]`` on a CPU."""
        ...

    def batch(self, engine: Engine, budget: int, load: Load | None = None) -> BatchRun:
        """Hand many requests to an engine at once, its KV cache held to a number of bytes."""
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
        """What the compiler made of the graph, as far as it tells."""
        ...

    def operations_drawn(self, engine: Engine) -> Picture:
        """The same as a picture."""
        ...

    def about(self, engine: Engine) -> Card:
        """What an engine is tied to, and whether it runs here."""
        ...

    def from_elsewhere(self, engine: Engine) -> Engine:
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


def rebuild_command(engine: Engine, tp_size: int | None = None) -> str:
    """The command that builds an engine again, to paste into a terminal; one of a recipe's sizes takes the recipe.

    Args:
        engine: what to build again.
        tp_size: over so many GPUs; None for as many as it has.
    """
    if _of_a_recipe(engine):
        return "python -m helpers build RECIPE, with the file or the name of the recipe that it was built from"
    command = ["python", "-m", "helpers", "build", engine.manifest.options["model"], "--precision", engine.precision]
    usual = kv_of(engine.precision) if engine.toolchain.startswith("tensorrt_llm") else None
    command += ["--kv", engine.kv or "fp16"] if engine.kv != usual else []
    ranks = engine.tp_size if tp_size is None else tp_size
    command += ["--tp-size", str(ranks)] if ranks > 1 else []
    chosen = f"WORKSHOP_TOOLCHAIN={engine.toolchain} " if engine.toolchain == "tensorrt_llm_pytorch" else ""
    return chosen + workspace.shell_text(command)


def _of_a_recipe(engine: Engine) -> bool:
    """True for an engine whose folder names sizes or calibration that are not the usual: no option asks for them."""
    usual = kv_of(engine.precision) if engine.toolchain.startswith("tensorrt_llm") else None
    plain = engine_folder(engine.toolchain, engine.precision, engine.kv, usual, engine.tp_size)
    return engine.path.name.startswith(f"{plain}-") and "-from-elsewhere" not in engine.path.name


def engine_folder(
    toolchain: str,
    precision: str,
    kv: str | None,
    usual: str | None,
    tp_size: int = 1,
    calibration: str = "",
    sizes: Sizes | None = None,
) -> str:
    """The name of an engine's folder, below that of its model: its KV cache and its ranks where they are not the usual.

    Args:
        toolchain, precision, kv: of the engine.
        usual: the KV cache that goes unnamed.
        tp_size: number of ranks; one goes unnamed.
        calibration: from :func:`helpers.checkpoint.calibration_suffix`.
        sizes: what it is built for; None for the usual sizes, which go unnamed.
    """
    named = f"{toolchain}-{precision}" + ("" if kv == usual else f"-kv-{kv or 'fp16'}")
    named += (f"-tp{tp_size}" if tp_size > 1 else "") + calibration
    return named + (f"-{sizes.folder()}" if sizes else "")


def disguised(engine: Engine, **machine: str) -> Engine:
    """A copy of an engine whose manifest is altered to say that it was built on another machine (notebook 03).

    Args:
        engine: a real engine of this machine; it is left as it is, and the copy shares its files.
        machine: what the copy shall claim, such as ``cpu="Another CPU"``.
    """
    place = workspace.home() / "scratch" / f"{engine.path.name}-from-elsewhere"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(engine.path, place, copy_function=_link)
    manifest = replace(engine.manifest, machine={**engine.manifest.machine, **machine})
    workspace.write_whole(place / workspace.MANIFEST, json.dumps(asdict(manifest), indent=1))
    return Engine(place, manifest)


def _link(source: str, copy: str) -> None:
    """A second name for a file, or a copy of it where the disk has no links."""
    try:
        os.link(source, copy)
    except OSError:
        shutil.copy2(source, copy)


def about(engine: Engine, refused: str | None, note: str = "") -> Card:
    """What an engine is tied to, from its manifest, and whether it runs here."""
    made = engine.manifest
    facts = {"built for": ", ".join(f"{k} {v}" for k, v in made.machine.items())}
    facts["built by"] = ", ".join(f"{k} {v}" for k, v in made.maker.items())
    if engine.toolchain == "tensorrt_llm":
        ranks = engine.tp_size
        facts["split over"] = f"{ranks} GPUs, a rank on each" if ranks > 1 else "1 GPU: it is whole"
    facts["runs here"] = "no" if refused else "yes"
    return Card(f"{engine.title} engine in {engine.path.name}", facts, note)


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
    """Bytes of the form that is loaded at start: OpenVINO's blob, TensorRT-LLM's engine of every rank, or weights."""
    files = [*Path(engine.path).rglob("*.blob"), *Path(engine.path).glob("rank*.engine")]
    if (engine.path / REFERENCE).exists():
        files = list(loaded_folder(engine).glob("*.safetensors"))
    return sum(file.stat().st_size for file in files)
