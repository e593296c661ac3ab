"""What is exported: a recipe with the release, the image and the scaling that its files name. Pure."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from helpers import hardware, models, releases
from helpers.deploy.export.facts import MODELS, PORT, assumed, dns_name, facts
from helpers.deploy.scaling import Scaling
from helpers.hardware.peers import automatic
from helpers.releases import Release
from helpers.toolchains.tensorrt_llm import commands
from helpers.toolchains.tensorrt_llm.kv import side_effects
from helpers.toolchains.tensorrt_llm.serve import SETTINGS, settings_file

if TYPE_CHECKING:
    from helpers.plan import Step
    from helpers.recipe.schema import Recipe

EVERYWHERE = "0.0.0.0"
RECIPE = "recipe.yaml"
"""The recipe as it was exported; the CPU's container serves it."""


class File(NamedTuple):
    """A file of an export: its text, and what it is in a few words."""

    text: str
    about: str


@dataclass(frozen=True)
class Subject:
    """A recipe to export.

    Attributes:
        recipe: itself.
        scaling: when replicas are added and taken away.
        release: of TensorRT-LLM, that builds and runs the engine; None on a CPU.
        asked_image: the container's image as the caller calls it; empty for the one of :attr:`image`.
        baked: the engine is part of the image.
    """

    recipe: "Recipe"
    scaling: Scaling = field(default_factory=Scaling)
    release: Release | None = None
    asked_image: str = ""
    baked: bool = False

    @property
    def name(self) -> str:
        """Of every resource: the recipe's, as Kubernetes spells names."""
        return dns_name(self.recipe.name)

    @property
    def on_gpu(self) -> bool:
        """It is served by TensorRT-LLM."""
        return self.release is not None

    @property
    def own_image(self) -> bool:
        """The image is one that somebody builds from the Containerfile; else NVIDIA's own does."""
        return bool(self.asked_image) or self.baked or not self.on_gpu

    @property
    def image(self) -> str:
        """The image that a cluster starts."""
        if not self.own_image and self.release is not None:
            return self.release.container
        return self.asked_image or f"{self.name}:1"

    @property
    def mounted(self) -> bool:
        """The engine and the tokenizer come on a volume."""
        return self.on_gpu and not self.baked

    @property
    def engine(self) -> str:
        """Where the engine is in a container; its last part is what the API calls the model."""
        return f"{MODELS}/{self.name}"

    @property
    def tokenizer(self) -> str:
        """Where the model's settings and its tokenizer are."""
        return f"{MODELS}/tokenizer"

    @property
    def ranks(self) -> int:
        """GPUs of one replica."""
        return self.recipe.tensor_parallel_size

    @property
    def batch(self) -> int:
        """Requests that a replica takes at once."""
        return self.scaling.max_ongoing or self.recipe.max_batch_size

    @property
    def target(self) -> int:
        """Requests in flight for each replica, where a platform takes whole numbers only."""
        return max(1, round(self.scaling.target_ongoing))

    @property
    def reuse(self) -> bool:
        """The engine can use a KV block again."""
        return side_effects(self.recipe.precision, self.recipe.kv).reuse

    @property
    def settings(self) -> dict[str, str]:
        """The file that ``trtllm-serve`` needs beside its options, by name; mostly none."""
        return settings_file(self.recipe.serve_options(), self.reuse) if self.on_gpu else {}

    @property
    def settings_path(self) -> str:
        """Where that file is in a container."""
        return f"/etc/engine/{SETTINGS}"

    @cached_property
    def command(self) -> list[str]:
        """What a container runs. It listens everywhere: inside a container only what is let in reaches it."""
        if self.release is None:
            return ["python", "-m", "helpers", "serve", RECIPE]
        return commands.serve(
            "trtllm-serve",
            self.engine,
            self.tokenizer,
            self.recipe.sizes,
            self.release.engine_backend,
            self.ranks,
            EVERYWHERE,
            PORT,
            self.recipe.serving.kv_cache_share,
            self.settings_path if self.settings else None,
        )

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the server needs."""
        home = facts()["user"]["home"]
        if not self.on_gpu:
            return {"HOME": home, "WORKSHOP_HOME": f"{home}/workshop"}
        sheet = hardware.by_key(self.recipe.gpu)
        made = {"HOME": home, "HF_HUB_OFFLINE": "1"}
        if self.ranks == 1:
            made["TLLM_WORKER_USE_SINGLE_PROCESS"] = "1"
        return made | automatic(False if self.ranks > 1 and sheet.peer_to_peer == "none" else None)

    @property
    def needs_token(self) -> bool:
        """The container itself downloads a model that the hub gives to some accounts only."""
        row = models.known().get(self.recipe.model)
        return not self.on_gpu and row is not None and bool(row["gated"])

    @cached_property
    def _built(self) -> "Step":
        """The stage that builds the engine."""
        from helpers.recipe import stages

        return next(step for step in stages.commands(self.recipe).steps if step.kind == "engine")

    @property
    def engine_bytes(self) -> int:
        """Predicted size of the engine; 0 for a model whose shape is not known."""
        return self._built.size

    @property
    def served(self) -> str:
        """What the API calls the model: the last part of the engine's path."""
        return self.name if self.on_gpu else self._built.makes.rpartition("/")[2]

    @property
    def memory_bytes(self) -> float:
        """Predicted memory of the host that a replica takes."""
        from helpers.recipe import rules

        beside = assumed("host_memory_gib" if self.on_gpu else "host_memory_gib_cpu") * 2**30
        cache = rules.cpu_cache(self.recipe)
        return float(self.engine_bytes + beside + (cache.bytes if cache else 0) + self.shared_memory_gib * 2**30)

    @property
    def shared_memory_gib(self) -> int:
        """GiB of /dev/shm, over which ranks talk to each other."""
        return int(assumed("shared_memory_gib")) * self.ranks

    @property
    def start_seconds(self) -> int:
        """The longest that a start may take: what is assumed, and the time to read the engine from a slow volume."""
        if not self.on_gpu:
            return int(assumed("start_seconds_cpu"))
        return math.ceil(assumed("start_seconds") + self.engine_bytes / assumed("read_bytes_per_second"))

    @property
    def answer_seconds(self) -> int:
        """The longest answer, at the slowest that is assumed for one user."""
        return math.ceil(self.recipe.max_output_len / assumed("slowest_tokens_per_second"))

    @property
    def end_seconds(self) -> int:
        """What a replica gets to end in: nothing new reaches it, and what it has is answered to its end."""
        return int(assumed("leave_seconds")) + self.answer_seconds + 10


def release_of(recipe: "Recipe", version: str | None) -> Release | None:
    """The release that builds and runs a recipe's engine: the newest offered with kernels for its GPU; None on a CPU.

    Raises:
        WorkshopError: there is none, or the one that was asked for is not offered.
    """
    if recipe.on_cpu:
        return None
    if version:
        return releases.release(version)
    capability = hardware.by_key(recipe.gpu).compute_capability
    return next(release for release in releases.offered() if release.kernels(capability))
