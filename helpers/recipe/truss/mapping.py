"""What each setting of a recipe becomes in Truss's ``config.yaml``, and why it differs (notebook 07)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers import checkpoint, models
from helpers.recipe.truss.facts import accelerator, facts
from helpers.toolchains.choices import AUTO, CHECKPOINTS
from helpers.toolchains.tensorrt_llm.kv import side_effects

if TYPE_CHECKING:
    from helpers.recipe.schema import Recipe


@dataclass(frozen=True)
class Difference:
    """A setting in the recipe, what it is in Truss's config, and why it differs."""

    recipe: str
    truss: str
    why: str


# --- The file ------------------------------------------------------------------------


def config(recipe: "Recipe") -> dict[str, Any]:
    """What ``config.yaml`` says; where Truss has no name for something, the recipe's own stands there."""
    known = facts()
    made: dict[str, Any] = {"model_name": recipe.name, "model_metadata": {"tags": [known["tag"]]}}
    if _hub(recipe)[2]:
        made["secrets"] = {known["secret"]: None}
    made["resources"] = {"accelerator": _accelerators(recipe), "memory": known["memory"], "use_gpu": True}
    runtime = {
        "kv_cache_free_gpu_mem_fraction": recipe.serving.kv_cache_share,
        "enable_chunked_context": recipe.serving.chunked_prefill,
        "batch_scheduler_policy": known["policy"],
        "served_model_name": recipe.name,
    }
    made["trt_llm"] = {"inference_stack": "v1", "build": _build(recipe), "runtime": runtime}
    return made


def _build(recipe: "Recipe") -> dict[str, Any]:
    """The section of the engine: its weights, its sizes, its precisions."""
    repository, revision, _ = _hub(recipe)
    source: dict[str, Any] = {"source": "HF", "repo": repository}
    if revision:
        source["revision"] = revision
    made: dict[str, Any] = {
        "base_model": "decoder",
        "checkpoint_repository": {**source, "runtime_secret_name": facts()["secret"]},
        "max_seq_len": recipe.max_seq_len,
        "max_batch_size": recipe.max_batch_size,
        "max_num_tokens": recipe.max_num_tokens,
        "quantization_type": quantization(recipe),
    }
    if checkpoint.texts_used(CHECKPOINTS[recipe.precision], recipe.kv, recipe.calibration.texts):
        made["quantization_config"] = _calibration(recipe)
    effects = side_effects(recipe.precision, recipe.kv)
    made["tensor_parallel_count"] = recipe.tensor_parallel_size
    made["plugin_configuration"] = {
        "paged_kv_cache": True,
        "use_paged_context_fmha": effects.reuse,
        "use_fp8_context_fmha": effects.fp8_attention,
    }
    return made


def _accelerators(recipe: "Recipe") -> str:
    """Truss's name of the GPU and how many, such as ``H100:2``; the recipe's own where it has none."""
    name = accelerator(recipe.gpu) or recipe.gpu
    return f"{name}:{recipe.tensor_parallel_size}" if recipe.tensor_parallel_size > 1 else name


def _hub(recipe: "Recipe") -> tuple[str, str | None, bool]:
    """Repository on the hub, commit, and whether it is gated; the recipe's own word for a model of this disk."""
    row = models.known().get(recipe.model)
    if row is None:
        return recipe.model, recipe.revision, False
    return str(row["repository"]), recipe.revision or str(row["revision"]), bool(row["gated"])


def pair(recipe: "Recipe") -> tuple[str, str]:
    """The precisions of weights and KV cache, ``fp16`` for 16 bits."""
    return recipe.precision, recipe.kv or "fp16"


def quantization(recipe: "Recipe") -> str:
    """Truss's name of weights and KV cache; for a pair that it has none for, one that says what it is."""
    names = {(weights, kv): str(name) for weights, kv, name in facts()["quantization"]["names"]}
    return names.get(pair(recipe), "_kv_".join(pair(recipe)))


def _calibration(recipe: "Recipe") -> dict[str, Any]:
    """How many rows of which data set, and how long: both in whole steps of 64."""
    known = facts()["calibration"]
    step = int(known["multiple"])
    length = min(int(known["length"]), recipe.max_seq_len)
    return {
        "calib_size": -(-recipe.calibration.texts // step) * step,
        "calib_dataset": known["dataset"],
        "calib_max_seq_length": max(step, length // step * step),
    }


# --- What differs --------------------------------------------------------------------


def compared(recipe: "Recipe", made: Mapping[str, Any]) -> Iterator[Difference]:
    """Every setting of a recipe beside what it became in the config."""
    build = made["trt_llm"]["build"]
    yield _of_gpu(recipe, made)
    yield _of_model(recipe, build)
    yield Difference(
        "–", "base_model: decoder", "one word for Llama, Qwen and Mistral, where the talk had to say llama"
    )
    yield Difference(
        f"max_input_len: {recipe.max_input_len}, max_output_len: {recipe.max_output_len}",
        f"max_seq_len: {build['max_seq_len']}",
        "one bound for prompt and answer together: a shorter prompt leaves room for a longer answer",
    )
    same = f"max_batch_size: {build['max_batch_size']}, max_num_tokens: {build['max_num_tokens']}"
    yield Difference(same, same, "the same")
    yield from _of_precision(recipe, build)
    yield _of_plugins(build["plugin_configuration"])
    yield from _of_serving(recipe, made["trt_llm"]["runtime"])
    yield Difference(
        "HF_TOKEN in the environment" if "secrets" in made else "–",
        f"runtime_secret_name: {facts()['secret']}",
        "the name of a secret; its value is kept in Baseten's workspace and never in this file",
    )


def _of_plugins(plugins: Mapping[str, bool]) -> Difference:
    """The switches of ``trtllm-build`` that a recipe has no field for."""
    on = {name: "on" if value else "off" for name, value in plugins.items()}
    return Difference(
        "– (follows from precision and kv_cache)",
        f"plugin_configuration: {', '.join(f'{name}: {str(value).lower()}' for name, value in plugins.items())}",
        f"the KV cache in blocks: {on['paged_kv_cache']}; blocks used again, prompts read in chunks: "
        f"{on['use_paged_context_fmha']}; attention in FP8: {on['use_fp8_context_fmha']}. Notebook 05 says why",
    )


def _of_gpu(recipe: "Recipe", made: Mapping[str, Any]) -> Difference:
    several = recipe.tensor_parallel_size > 1
    parallel = f", tensor_parallel_size: {recipe.tensor_parallel_size}" if several else ""
    count = f", tensor_parallel_count: {recipe.tensor_parallel_size}" if several else ""
    why = "both numbers have to agree" if several else "Truss's name of it"
    return Difference(
        f"gpu: {recipe.gpu}{parallel}",
        f"accelerator: {made['resources']['accelerator']}{count}",
        why if accelerator(recipe.gpu) else "Truss has no such accelerator: refused",
    )


def _of_model(recipe: "Recipe", build: Mapping[str, Any]) -> Difference:
    source = build["checkpoint_repository"]
    commit = source.get("revision", "")
    made = f"repo: {source['repo']}" + (f", revision: {commit[:12]}" if commit else "")
    if not recipe.on_hub:
        return Difference(f"model: {recipe.model}", made, "not on the hub: refused")
    why = "Baseten downloads it from the hub, at this commit" if commit else "no commit: the newest at each build"
    return Difference(f"model: {recipe.model}", made, why)


def _of_precision(recipe: "Recipe", build: Mapping[str, Any]) -> Iterator[Difference]:
    auto = f"; auto is {pair(recipe)[1]} beside these weights" if recipe.kv_cache == AUTO else ""
    yield Difference(
        f"precision: {recipe.precision}, kv_cache: {recipe.kv_cache}",
        f"quantization_type: {build['quantization_type']}",
        f"one name for weights and KV cache{auto}",
    )
    if "quantization_config" not in build:
        return
    made = build["quantization_config"]
    texts, rows = recipe.calibration.texts, made["calib_size"]
    rounded = f"; {texts} is no multiple of {facts()['calibration']['multiple']} and became {rows}"
    yield Difference(
        f"calibration: {texts} texts",
        f"calib_size: {rows}, calib_dataset: {made['calib_dataset']}",
        "a data set of the hub, not the workshop's texts: the scaling factors will differ"
        + (rounded if texts != rows else ""),
    )


def _of_serving(recipe: "Recipe", runtime: Mapping[str, Any]) -> Iterator[Difference]:
    yield Difference(
        f"kv_cache_share: {recipe.serving.kv_cache_share}",
        f"kv_cache_free_gpu_mem_fraction: {runtime['kv_cache_free_gpu_mem_fraction']}",
        "the same share of what is free beside the engine",
    )
    chunked = str(runtime["enable_chunked_context"]).lower()
    yield Difference(
        f"chunked_prefill: {chunked}",
        f"enable_chunked_context: {chunked}",
        "on there anyway" if recipe.serving.chunked_prefill else "has to be said: left out, it is on there",
    )
    yield Difference(
        "host, port, max_queue, kv_cache_tokens",
        "–",
        "Baseten gives the URL and lets requests wait by its scaling settings; the last is for a CPU",
    )
    yield Difference(
        "the model is called as its engine's folder",
        f"served_model_name: {runtime['served_model_name']}, tags: [{facts()['tag']}]",
        "what `model` has to be in a request, and that the API is OpenAI's",
    )
