"""The stages of notebook 05: keep what a running model's KV cache holds, and give a model's keys outlier channels."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from helpers import checkpoint, models, stage, workspace
from helpers.errors import WorkshopError
from helpers.models import Model
from helpers.workspace import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

Part = Literal["key", "value"]
PARTS: tuple[Part, ...] = ("key", "value")
OUTLIERS = 8
"""Factor of :func:`with_outlier_keys`: it makes the bundled model's widest key channel reach about ten times as far as
its middle one, which is what QServe reports of large models (``ranges`` measures it)."""

_WORKERS = Path(__file__).parents[1] / "workers"


@dataclass(frozen=True, repr=False)
class Capture(Artifact):
    """The keys and values of a KV cache after held-out text, as published by :func:`capture`."""

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.manifest.options["model"])

    @cached_property
    def layers(self) -> int:
        """How many layers the model has."""
        with self._open() as file:
            return sum(name.endswith(".key") for name in file.keys())  # noqa: SIM118 - a handle is not a dict

    def tensor(self, layer: int, part: Part) -> "Values":
        """Keys (after RoPE) or values of one layer, float32 [tokens, kv_heads, head_size].

        Raises:
            WorkshopError: the model has no such layer, or the part is neither ``key`` nor ``value``.
        """
        import numpy as np

        if part not in PARTS or not 0 <= layer < self.layers:
            raise WorkshopError(
                f"There is no {part!r} of layer {layer!r} in this cache. Ask for 'key' or 'value' of a layer from 0 to "
                f"{self.layers - 1}."
            )
        with self._open() as file:
            return np.asarray(file.get_tensor(f"layer{layer}.{part}"), np.float32)

    def _open(self) -> Any:
        from safetensors import safe_open

        return safe_open(self.path / "kv.safetensors", framework="np")


def capture(model: Model, texts: Path = checkpoint.HELD_OUT, tokens: int = 1024, silent: bool = False) -> Capture:
    """Run text through a model and keep the keys and values that its cache then holds.

    Args:
        model: from :func:`helpers.models.find`.
        texts: JSON lines of ``{"text": ...}``; each text starts from an empty cache.
        tokens: how many tokens to keep in all; fewer if the texts have fewer.
        silent: show nothing where it exists.

    Raises:
        WorkshopError: there is no such file, fewer than two tokens are asked for, or the stage failed.
    """
    if not texts.is_file():
        raise WorkshopError(f"There is no file {texts}. Give JSON lines of text, or leave it out for held-out text.")
    if tokens < 2:
        raise WorkshopError(f"{tokens} tokens say nothing about a range; ask for 2 or more, such as 1024.")
    by = checkpoint.runner()
    if by.installation is None:
        workspace.require_memory(3 * model.bytes, f"running {model.name}")
    worker, loader = _WORKERS / "capture_kv.py", _WORKERS / "modelopt_checkpoint.py"
    words = [by.python, str(worker), "--model", str(model.path), "--texts", str(texts), "--tokens", str(tokens)]
    task = stage.Stage(
        title=f"Keys and values of {model.name}",
        kind="capture",
        command=[*words, "--output", "{out}"],
        target=workspace.home() / "captures" / model.folder / f"{texts.stem}-{tokens}",
        options={"model": model.name, "tokens": tokens},
        inputs={
            "model": model.digest,
            "text": workspace.digest(texts),
            "worker": workspace.digest(worker, loader),
        },
        maker={name: by.maker[name] for name in ("torch", "transformers")},
        environment=by.environment,
        unset=by.unset,
        expected=["kv.safetensors"],
        space=8 * tokens * int(model.config["hidden_size"]) * int(model.config["num_hidden_layers"]),
    )
    made = (stage.ensure if silent else stage.run)(task)
    return Capture(made.path, made.manifest, made.reused, made.log)


def with_outlier_keys(model: Model, times: int = OUTLIERS, channels: int = 2, silent: bool = False) -> Model:
    """The same function of text, written so that a few channels of the keys are ``times`` as large.

    In each layer ``channels`` output channels of every key head are multiplied by ``times``, and the same channels of
    the query heads that read it are divided by it, so that their product stays. The channels are those that RoPE
    rotates slowest, in whole pairs. A power of two is exact in floating point, but for weights of the queries that
    become subnormal in FP16; the worker refuses where that is more than FP16's own rounding.

    Args:
        model: from :func:`helpers.models.find`.
        times: a power of two.
        channels: how many of each key head, an even number.
        silent: show nothing where it exists.

    Raises:
        WorkshopError: a factor or number of channels that cannot be, a model with biases on its queries or keys, or a
            failed stage.
    """
    heads = model.heads[0]
    head_size = int(model.config.get("head_dim") or int(model.config["hidden_size"]) // heads)
    _check_outliers(model, times, channels, head_size)
    by = checkpoint.runner()
    worker = _WORKERS / "outlier_keys.py"
    words = [by.python, str(worker), "--model", str(model.path), "--times", str(times), "--channels", str(channels)]
    task = stage.Stage(
        title=f"{model.name} with {channels} outlier channels in each key head, {times} times as large",
        kind="model",
        command=[*words, "--output", "{out}"],
        target=workspace.home() / "models" / f"{model.folder}-outlier-keys-{channels}x{times}",
        options={"times": times, "channels": channels},
        inputs={"model": model.digest, "worker": workspace.digest(worker)},
        maker={"torch": by.maker["torch"]},
        environment=by.environment,
        unset=by.unset,
        expected=["config.json", "*.safetensors", "outliers.json"],
        space=2 * model.bytes,
    )
    return models.find(str((stage.ensure if silent else stage.run)(task).path))


def _check_outliers(model: Model, times: int, channels: int, head_size: int) -> None:
    """Refuse what the rewriting cannot do exactly."""
    if times < 2 or times & (times - 1):
        raise WorkshopError(
            f"A factor of {times} cannot be: only powers of two (2, 4, 8 and so on) multiply exactly. Use 8."
        )
    if channels % 2 or not 2 <= channels <= head_size:
        raise WorkshopError(
            f"{channels} outlier channels cannot be: RoPE rotates channels in pairs, and a head has {head_size}. Use "
            f"an even number from 2 to {head_size}."
        )
    if model.config.get("attention_bias"):
        raise WorkshopError(
            f"{model.name} adds biases to its queries and keys (attention_bias in config.json), which this does not "
            "rewrite. Use a model without, such as the bundled one or TinyLlama."
        )
