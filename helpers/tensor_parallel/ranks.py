"""One model over several real processes: started with ``torchrun``, each with its part, checked against the whole.

transformers' ``tp_plan="auto"`` cuts the matrices; on a CPU the ranks exchange partial sums over gloo, between GPUs
over NCCL. The worker, ``helpers/workers/tensor_parallel.py``, counts what is held and what is exchanged (notebook 06).
"""

import json
import os
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers import checkpoint, hardware, memory, stage, workspace
from helpers.checkpoint import Runner
from helpers.models import Model
from helpers.tensor_parallel.predict import Head
from helpers.workspace import Artifact

TOLERANCE = 1e-4
"""How far FP32 logits of several ranks may lie from those of one: their sums are added up in another order."""

TOKENS, NEW_TOKENS = 128, 32
"""Tokens of held-out text that the ranks read, and tokens that they write after the workshop's prompt."""

TIME_LIMIT = 600.0
"""Seconds after which a run is ended. Ranks that cannot reach each other wait for ever."""

_WORKERS = Path(__file__).parents[1] / "workers"
_PROCESS = 600_000_000  # bytes that torch and transformers take in each process before a weight is loaded, about


@dataclass(frozen=True, repr=False)
class Split(Artifact):
    """What several ranks held, exchanged and answered, as published by :func:`run`."""

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.manifest.options["model"])

    @property
    def tp_size(self) -> int:
        """Number of ranks."""
        return int(self.manifest.options["tp_size"])

    @property
    def shape(self) -> memory.Shape:
        """The numbers of the model's ``config.json``."""
        return memory.Shape(**self.manifest.options["shape"])

    @cached_property
    def told(self) -> dict[str, Any]:
        """What rank 0 wrote; see the worker."""
        return dict(json.loads((self.path / "split.json").read_text()))

    @property
    def where(self) -> str:
        """What the ranks ran on, and over what they talked."""
        told = self.told
        return f"{'CPU' if told['device'] == 'cpu' else told['device']}, {told['backend']}"

    @property
    def difference(self) -> float:
        """The largest difference of a logit from the whole model's."""
        return float(self.told["difference"])

    @property
    def head(self) -> Head:
        """What became of the output layer: transformers 4.57 leaves it whole, 5 splits it; or it is the embedding."""
        whole = self.told["whole"]["parts"].get("lm_head.weight")
        if whole is None:
            return "tied"
        return "whole" if self.parts("lm_head.weight")[0] == whole else "split"

    def parts(self, name: str) -> list[list[int]]:
        """The shape of each rank's part of a parameter."""
        return [rank["parts"][name] for rank in self.told["ranks"]]


def run(model: Model, tp_size: int = 2, prompt: str = checkpoint.PROMPT, silent: bool = False) -> Split:
    """Split a model over several processes of this machine, let them answer together, and compare with the whole.

    On a machine with several GPUs of a kind, enough for the ranks, and TensorRT-LLM on it, each rank gets one of them;
    everywhere else the ranks are processes on the CPU. All arithmetic is FP32.

    Args:
        model: from :func:`helpers.models.find`.
        tp_size: number of ranks; must divide both kinds of heads.
        prompt: what they continue, besides reading held-out text.
        silent: show nothing where it exists.

    Raises:
        WorkshopError: a number of ranks that the heads do not allow, too little memory, or a rank failed, was killed,
            or did not end within :data:`TIME_LIMIT`. No process is left.
    """
    shape = memory.Shape.of(model.config)
    memory.require_split(model.name, shape, tp_size)
    whole = 2 * memory.weight_bytes(shape, "fp16")  # in FP32; rank 0 loads it after its own part
    by, device = launcher(tp_size, whole)
    if device == "cpu":
        workspace.require_memory(2 * whole + tp_size * _PROCESS, f"{tp_size} ranks of {model.name}")
    made = (stage.ensure if silent else stage.run)(task(model, tp_size, by, device, prompt))
    return Split(made.path, made.manifest, made.reused, made.log)


def launcher(ranks: int, needed: int = 0) -> tuple[Runner, str]:
    """The Python that runs the ranks, with its variables, and ``cuda`` or ``cpu``.

    GPUs are used where there are at least two, so that on a pod with one every number of ranks runs on the same device.

    Args:
        ranks: number of them.
        needed: bytes that must be free on each GPU.

    Raises:
        WorkshopError: this machine uses TensorRT-LLM, and it is not installed yet.
    """
    free = [gpu for gpu in hardware.equal_gpus(hardware.look()) if gpu.free_bytes > needed]
    enough = len(free) >= max(2, ranks)
    by = checkpoint.runner(ranks) if enough else checkpoint.runner()
    if enough and by.installation is not None:
        return by, "cuda"
    return replace(by, environment={**by.environment, "CUDA_VISIBLE_DEVICES": ""}), "cpu"


def torchrun(python: str, ranks: int, worker: Path, *arguments: str) -> list[str]:
    """The command that starts a worker once for each rank, on this machine only."""
    words = [python, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    return [*words, "--nproc-per-node", str(ranks), str(worker), *arguments]


def local_only() -> dict[str, str]:
    """Variables that keep ranks of one machine on its loopback: a name that does not resolve must not stop them.

    What somebody has set already stays.
    """
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    # One thread a rank is torchrun's own choice where nothing is set; setting it spares its warning.
    wanted = {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback, "OMP_NUM_THREADS": "1"}
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def task(model: Model, tp_size: int, by: Runner, device: str, prompt: str = checkpoint.PROMPT) -> stage.Stage:
    """The run as a stage.

    Args:
        by: the Python that runs the ranks; needs torch, transformers and accelerate.
        device: ``cuda`` for a GPU to each rank, else ``cpu``.
        model, tp_size, prompt: see :func:`run`.
    """
    worker = _WORKERS / "tensor_parallel.py"
    arguments = ["--model", str(model.path), "--device", device, "--text", str(checkpoint.HELD_OUT)]
    arguments += ["--tokens", str(TOKENS), "--prompt", prompt, "--new-tokens", str(NEW_TOKENS)]
    return stage.Stage(
        title=f"{model.name} over {tp_size} rank{'s' if tp_size > 1 else ''}, {'GPUs' if device == 'cuda' else 'CPU'}",
        kind="split",
        command=torchrun(by.python, tp_size, worker, *arguments, "--output", "{out}"),
        target=workspace.home() / "splits" / model.folder / f"{device}-tp{tp_size}",
        options={
            "model": model.name,
            "tp_size": tp_size,
            "prompt": prompt,
            "shape": vars(memory.Shape.of(model.config)),
        },
        inputs={
            "model": model.digest,
            "held-out text": workspace.digest(checkpoint.HELD_OUT),
            "worker": workspace.digest(worker),
        },
        maker={name: by.maker[name] for name in ("torch", "transformers")},
        machine=hardware.identity(),
        environment={**by.environment, **local_only()},
        unset=by.unset,
        expected=["split.json"],
        time_limit=TIME_LIMIT,
    )
