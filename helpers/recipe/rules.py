"""What a recipe says that its model, its GPU or its toolchain does not allow, or not as it seems (notebook 07).

Every remark is computed, with its numbers, from the tables and planners that the notebooks use (``data/gpus.toml``,
``data/kv_cache.toml``, :mod:`helpers.memory`); nothing is run or downloaded.
"""

import ipaddress
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from helpers import checkpoint, hardware, memory, models
from helpers.cards import Table, bytes_text, counted
from helpers.errors import WorkshopError
from helpers.recipe.schema import FULL_COMMIT, Calibration, Recipe, Serving, given
from helpers.toolchains import openvino, tensorrt_llm
from helpers.toolchains.choices import CHECKPOINTS, TITLES
from helpers.toolchains.tensorrt_llm.kv import side_effects
from helpers.toolchains.tensorrt_llm.weights import UNREPORTED

NO_ROOM = "does not fit"
"""In short: the weights, or what a step works with, are too large for the GPU."""

Kind = Literal["problem", "warning", "note"]


@dataclass(frozen=True)
class Remark:
    """Something to know about one field of a recipe.

    Attributes:
        field: such as ``max_num_tokens`` or ``serving.host``.
        text: a sentence or two, with numbers.
        kind: ``problem`` where the plan cannot be run; ``warning`` where it can, but not as it seems; ``note`` for
            which of two things holds.
        short: the same in a few words; empty where the field says enough.
    """

    field: str
    text: str
    kind: Kind
    short: str = ""

    @property
    def brief(self) -> str:
        """The remark in a few words, for a table."""
        said = self.short or self.field
        return f"{self.kind}: {said}" if self.kind == "problem" else said

    def __str__(self) -> str:
        return f"{self.kind}, {self.field}: {self.text}"


def check(recipe: Recipe | str | Path) -> list[Remark]:
    """Everything that the rules have to say of a recipe: problems first, each kind in the order of the fields.

    Args:
        recipe: itself, its file or its name.

    Raises:
        WorkshopError: it is no recipe.
    """
    recipe = given(recipe)
    rules = (_model, _positions, _precision, _split, _step, _memory, _unused, _host)
    said = [remark for rule in rules for remark in rule(recipe)]
    fields = [*Recipe.model_fields]
    return sorted(
        said,
        key=lambda r: (("problem", "warning", "note").index(r.kind), fields.index(r.field.partition(".")[0])),
    )


def problems(recipe: Recipe | str | Path) -> list[Remark]:
    """What stands in the way of running a recipe; nothing where it can be run."""
    return [remark for remark in check(recipe) if remark.kind == "problem"]


def require(recipe: Recipe) -> None:
    """Refuse a recipe that cannot be run.

    Raises:
        WorkshopError: names every problem.
    """
    found = problems(recipe)
    if found:
        rows = [f"  {remark.field}: {remark.text}" for remark in found]
        raise WorkshopError("\n".join([f"The recipe {recipe.name} cannot be run:", *rows]))


def table(recipe: Recipe | str | Path) -> Table:
    """The remarks, one a row, and whether it can be built.

    Raises:
        WorkshopError: it is no recipe.
    """
    recipe = given(recipe)
    said = check(recipe)
    stop, warned = (sum(remark.kind == kind for remark in said) for kind in ("problem", "warning"))
    if stop:
        verdict = f"{stop} of them {'stands' if stop == 1 else 'stand'} in the way."
    elif warned:
        verdict = f"It can be built; the {'warning stays' if warned == 1 else 'warnings stay'}."
    else:
        verdict = "It can be built."
    note = verdict if said else f"Nothing to remark. {verdict}"
    rows = [(remark.kind, remark.field, remark.text) for remark in said]
    return Table(["kind", "field", "what to know"], rows, f"Recipe {recipe.name}, checked against the rules", note)


def settings(recipe: Recipe) -> dict[str, Any] | None:
    """The ``config.json`` of a recipe's model; None for one that only the hub knows, or whose folder is none."""
    row = models.known().get(recipe.model)
    if row is not None:
        return dict(row["config"])
    return None if recipe.on_hub or _refused_folder(recipe) else models.find(recipe.model).config


def _refused_folder(recipe: Recipe) -> str:
    """What is wrong with a model's folder; empty for one that is a model, and for a model of the hub."""
    if recipe.on_hub:
        return ""
    try:
        memory.Shape.of(models.find(recipe.model).config)
    except WorkshopError as refused:
        return str(refused)
    except OSError as problem:
        return f"{recipe.model} cannot be read: {problem.strerror}. Look at its permissions."
    return ""


def shape(recipe: Recipe) -> memory.Shape | None:
    """The shape of a recipe's model, or None where :func:`settings` has none."""
    config = settings(recipe)
    return memory.Shape.of(config) if config else None


def fit(recipe: Recipe) -> memory.Fit | None:
    """What the memory planner says of a recipe for a GPU; None on a CPU, and where :func:`settings` has none.

    Raises:
        WorkshopError: it does not fit at all, or cannot be split so.
    """
    config = settings(recipe)
    return None if recipe.on_cpu or config is None else fitted(recipe, config, recipe.gpu)


def fitted(recipe: Recipe, config: Mapping[str, Any], gpu: str | float) -> memory.Fit:
    """What the memory planner says of a recipe on a GPU.

    A request may be longer than the model's positions, as the talk's own is: its keys and values are planned for all
    the same, since the engine's KV cache is.

    Args:
        recipe: for a GPU.
        config: of its model.
        gpu: a key of ``data/gpus.toml``, or GiB.

    Raises:
        WorkshopError: it does not fit at all, or cannot be split so.
    """
    positions = max(int(config["max_position_embeddings"]), recipe.max_seq_len)
    return memory.fit(
        {**config, "max_position_embeddings": positions, "_name_or_path": recipe.model},
        gpu,
        CHECKPOINTS[recipe.precision],
        recipe.kv,
        recipe.max_batch_size,
        recipe.max_num_tokens,
        recipe.max_seq_len,
        tp_size=recipe.tensor_parallel_size,
        share=recipe.serving.kv_cache_share,
    )


@dataclass(frozen=True)
class CpuCache:
    """The KV cache of a recipe for a CPU, which the server takes from the machine's memory.

    Attributes:
        tokens: that it holds, in whole blocks.
        per_token: bytes of one token's keys and values.
        request: tokens that a full-length request takes, in whole blocks.
        full: tokens that a full batch at full length takes.
    """

    tokens: int
    per_token: int
    request: int
    full: int

    @property
    def bytes(self) -> int:
        """Bytes of it."""
        return self.tokens * self.per_token

    @property
    def requests(self) -> int:
        """Full-length requests whose keys and values fit at once."""
        return self.tokens // self.request


def cpu_cache(recipe: Recipe) -> CpuCache | None:
    """The KV cache of a recipe for a CPU; None on a GPU, and for a model that only the hub knows."""
    found = shape(recipe)
    if not recipe.on_cpu or found is None:
        return None
    block = openvino.commands.TOKENS_PER_BLOCK
    request = math.ceil(recipe.max_seq_len / block) * block
    full = request * recipe.max_batch_size
    asked = recipe.serving.kv_cache_tokens
    tokens = full if asked is None else asked // block * block
    return CpuCache(tokens, memory.kv_bytes_per_token(found, "u8" if recipe.kv == "int8" else None), request, full)


def _model(recipe: Recipe) -> Iterator[Remark]:
    """Where the weights come from."""
    row = models.known().get(recipe.model)
    if row is None:
        wrong = _refused_folder(recipe)
        if recipe.on_hub:
            yield from _unpinned(recipe)
        elif wrong:
            yield Remark("model", wrong, "problem", "no whole model in that folder")
        return
    if row["gated"]:
        yield Remark(
            "model",
            f"{row['repository']} is gated: accept its licence on its page at huggingface.co, and put a token into the "
            "environment (HF_TOKEN), before it is downloaded.",
            "warning",
            "gated: needs HF_TOKEN",
        )
    if recipe.revision and recipe.revision != row["revision"]:
        yield Remark(
            "revision",
            f"data/models.toml pins {row['revision'][:12]}, and this asks for {recipe.revision[:12]}: sizes here are "
            f"those of the pin, and its weights are not compared with a digest.{_moving(recipe.revision)}",
            "warning",
            "another commit than the pin",
        )


def _unpinned(recipe: Recipe) -> Iterator[Remark]:
    """A model that is in no table."""
    if recipe.revision is None:
        yield Remark(
            "revision",
            f"{recipe.model} is not in data/models.toml and no commit is given, so its newest weights are taken, which "
            "may be others tomorrow. Write the 40 digits of a commit.",
            "warning",
            "no commit given",
        )
    elif not FULL_COMMIT.fullmatch(recipe.revision):
        said = f"{recipe.revision!r} is no whole commit.{_moving(recipe.revision)}"
        yield Remark("revision", said, "warning", "no whole commit")
    yield Remark(
        "model",
        f"{recipe.model} is not in data/models.toml, so its shape is not known before it is downloaded: positions and "
        "memory are not checked here.",
        "warning",
        "shape unknown before the download",
    )


def _moving(revision: str) -> str:
    """What to say of a revision that is a branch or a tag."""
    return "" if FULL_COMMIT.fullmatch(revision) else " A branch or a tag moves; the 40 digits of a commit do not."


def _positions(recipe: Recipe) -> Iterator[Remark]:
    """Length of a request against the positions that the model was trained with."""
    found = shape(recipe)
    if found is None or recipe.max_seq_len <= found.positions:
        return
    sums = (
        f"max_input_len {recipe.max_input_len:,} + max_output_len {recipe.max_output_len:,} = {recipe.max_seq_len:,} "
        f"tokens, and {recipe.model} has {found.positions:,} positions."
    )
    short = f"{recipe.max_seq_len:,} tokens > {found.positions:,} positions"
    if recipe.on_cpu:
        instead = f"Choose lengths of at most {found.positions:,} together."
        yield Remark("max_input_len", f"{sums} {instead}", "problem", short)
        return
    yield Remark(
        "max_input_len",
        f"{sums} trtllm-build only warns that accuracy might be affected, and builds it; beyond position "
        f"{found.positions:,} the model was not trained to write. Choose lengths of at most {found.positions:,} "
        "together.",
        "warning",
        short,
    )


def _precision(recipe: Recipe) -> Iterator[Remark]:
    """Whether the machine's engines can have these weights and this KV cache, and what the pair gives up."""
    try:
        offered = openvino.choices() if recipe.on_cpu else tensorrt_llm.choices(recipe.gpu)
    except WorkshopError as none:  # no kernels at all for this GPU
        yield Remark("gpu", str(none), "problem", "no kernels for this GPU")
        return
    title = TITLES[recipe.precision]
    try:
        offered.require(recipe.precision)
    except WorkshopError as refused:
        # That a CPU makes checkpoints of other precisions helps nobody who wants an engine.
        more = offered.reasons[recipe.precision].partition(";")[2]
        said = str(refused).replace(f";{more}", ".") if recipe.on_cpu and more else str(refused)
        yield Remark("precision", said, "problem", f"{title} cannot be built")
        return
    if offered.reasons[recipe.precision].endswith(UNREPORTED):
        yield Remark("precision", f"{title}:{UNREPORTED}", "warning", f"{title}: nobody reported it")
    # The CPU's table asks the plugin itself, which takes a while: not for the caches that it has.
    if recipe.on_cpu and recipe.kv != "fp8":
        return
    caches = openvino.kv_choices() if recipe.on_cpu else tensorrt_llm.kv_choices(recipe.gpu)
    try:
        caches.require(recipe.precision, recipe.kv)
    except WorkshopError as refused:
        yield Remark("kv_cache", str(refused), "problem", f"no KV cache in {recipe.kv_cache}")
        return
    effects = side_effects(recipe.precision, recipe.kv)
    if not effects.reuse:
        what = checkpoint.full_title(title, recipe.kv)
        yield Remark("kv_cache", f"{what}: {effects.why}", "warning", "no reuse of KV blocks")


def _split(recipe: Recipe) -> Iterator[Remark]:
    """Whether the model can be split so, and over these GPUs."""
    ranks, field = recipe.tensor_parallel_size, "tensor_parallel_size"
    if ranks == 1:
        return
    if recipe.on_cpu:
        yield Remark(field, f"It is {ranks}, and an OpenVINO engine runs whole on a CPU. Write 1.", "problem")
        return
    found, sheet = shape(recipe), hardware.by_key(recipe.gpu)
    if found is not None and ranks not in found.splits:
        yield Remark(
            field,
            f"{recipe.model} cannot be split over {ranks} GPUs: it has {found.heads} heads and {found.kv_heads} "
            f"key-value heads, and each GPU needs a whole share of both. Choose one of {found.splits}.",
            "problem",
        )
    if sheet.slice_of:
        yield Remark(
            field,
            f"{sheet.name} is a slice of a split GPU, and slices do not reach each other. Write 1, or choose the whole "
            f"GPU: {sheet.slice_of!r}.",
            "problem",
        )
    elif sheet.peer_to_peer in ("none", "nvlink bridge"):
        way = (
            f"one {sheet.name} does not reach another's memory with NVIDIA's own driver, so what {ranks} of them tell "
            "each other goes through the host's memory"
            if sheet.peer_to_peer == "none"
            else f"one {sheet.name} reaches another's memory fast only where somebody mounted a bridge (NVLink)"
        )
        short = "no peer-to-peer" if sheet.peer_to_peer == "none" else "peer-to-peer only over a bridge"
        yield Remark(field, f"datasheet: {way}. Notebook 06 measures what that costs.", "warning", short)


def _step(recipe: Recipe) -> Iterator[Remark]:
    """What fits into one step: a whole prompt, unless it is read in chunks."""
    step, prompt, chunked = recipe.max_num_tokens, recipe.max_input_len, recipe.serving.chunked_prefill
    if step < recipe.max_batch_size:
        yield Remark(
            "max_num_tokens",
            f"A step takes {step:,} tokens, and each running request brings at least one: of the max_batch_size "
            f"{recipe.max_batch_size:,}, at most {step:,} get on in a step.",
            "warning",
            f"{step:,} tokens a step < batch of {recipe.max_batch_size:,}",
        )
    lost = "" if recipe.on_cpu else _no_chunks(recipe)
    if chunked and lost:
        yield Remark(
            "serving.chunked_prefill",
            f"{lost} Switch it off, and choose max_num_tokens of at least max_input_len ({prompt:,}).",
            "problem",
        )
    if step < prompt and (lost or not chunked):
        why = lost or "Prompts are not read in chunks (serving.chunked_prefill is false)."
        instead = "" if lost else ", or switch chunked_prefill on"
        yield Remark(
            "max_num_tokens",
            f"{why} So a prompt has to fit into one step, and max_input_len is {prompt:,} where max_num_tokens is "
            f"{step:,}. Choose max_num_tokens of at least {prompt:,}{instead}.",
            "problem",
            f"prompt of {prompt:,} > {step:,} tokens a step",
        )
    if recipe.on_cpu:
        yield _one_or_the_other(recipe)


def _no_chunks(recipe: Recipe) -> str:
    """Why an engine of TensorRT-LLM cannot read a prompt in chunks; empty where it can."""
    if side_effects(recipe.precision, recipe.kv).chunked:
        return ""
    what = checkpoint.full_title(TITLES[recipe.precision], recipe.kv)
    return f"An engine with {what} cannot read a prompt in chunks."


def _one_or_the_other(recipe: Recipe) -> Remark:
    """Which of the two holds on a CPU, whose scheduler has either."""
    if recipe.serving.chunked_prefill:
        return Remark(
            "serving.chunked_prefill",
            f"{openvino.EITHER} This recipe chooses pieces, of {recipe.max_num_tokens:,} tokens at most: "
            f"max_batch_size {recipe.max_batch_size:,} limits nothing.",
            "warning",
            "no limit of the batch",
        )
    return Remark(
        "serving.chunked_prefill",
        f"{openvino.EITHER} This recipe chooses the limit: {recipe.max_batch_size:,} requests.",
        "note",
    )


def _memory(recipe: Recipe) -> Iterator[Remark]:
    """Whether it fits, and whether a full batch does at full length."""
    if recipe.on_cpu:
        yield from _cpu_memory(recipe)
        return
    found = shape(recipe)
    if found is None or recipe.tensor_parallel_size not in found.splits:
        return  # said already
    try:
        made = fit(recipe)
    except WorkshopError as refused:
        yield Remark("gpu", str(refused), "problem", NO_ROOM)
        return
    if made is None or made.requests >= recipe.max_batch_size:
        return
    room = (
        f"predicted: the KV cache holds {made.tokens:,} tokens, {counted(made.requests, 'request')} of "
        f"{recipe.max_seq_len:,}"
    )
    if not made.requests:
        yield Remark(
            "max_batch_size",
            f"{room}: not even one fits at full length. Choose shorter lengths, fewer bits, more GPUs "
            "(tensor_parallel_size), or a larger GPU.",
            "problem",
            "not one request fits",
        )
        return
    yield Remark(
        "max_batch_size",
        f"{room}. A batch of {recipe.max_batch_size:,} at full length does not fit: "
        f"{recipe.max_batch_size - made.requests:,} of them wait until others have ended. All fit with max_batch_size "
        f"{made.largest_batch:,}; shorter requests leave room for more.",
        "warning",
        f"{made.requests:,} of {recipe.max_batch_size:,} requests fit",
    )


def _cpu_memory(recipe: Recipe) -> Iterator[Remark]:
    """The CPU server's KV cache against a request, a full batch, and the memory of this machine."""
    import psutil

    cache = cpu_cache(recipe)
    if cache is None:
        return
    if cache.tokens < cache.request:
        yield Remark(
            "serving.kv_cache_tokens",
            f"A KV cache of {recipe.serving.kv_cache_tokens:,} tokens does not hold one request of "
            f"{recipe.max_seq_len:,}. Give it at least {cache.request:,}, or null for {cache.full:,}.",
            "problem",
        )
    elif cache.tokens < cache.full:
        yield Remark(
            "serving.kv_cache_tokens",
            f"A KV cache of {cache.tokens:,} tokens holds {counted(cache.requests, 'request')} of "
            f"{recipe.max_seq_len:,}, and the batch has {recipe.max_batch_size:,}: at full length "
            f"{recipe.max_batch_size - cache.requests:,} of them wait. A full batch takes {cache.full:,}.",
            "warning",
            f"{cache.requests:,} of {recipe.max_batch_size:,} requests fit",
        )
    here = psutil.virtual_memory().total
    if cache.bytes > here:
        yield Remark(
            "serving.kv_cache_tokens",
            f"predicted: the KV cache takes {bytes_text(cache.bytes)}, and this machine has {bytes_text(here)} of "
            "memory. Choose a smaller max_batch_size, shorter lengths, or fewer kv_cache_tokens.",
            "problem",
        )


def _unused(recipe: Recipe) -> Iterator[Remark]:
    """Fields that were set and that nothing reads on this machine."""
    serving, usual = recipe.serving, Serving()
    if recipe.on_cpu:
        if serving.kv_cache_share != usual.kv_cache_share:
            said = "Not used on a CPU: kv_cache_tokens says how much it holds."
            yield Remark("serving.kv_cache_share", said, "warning")
    else:
        if serving.kv_cache_tokens is not None:
            said = "Not used on a GPU: kv_cache_share says how much it takes."
            yield Remark("serving.kv_cache_tokens", said, "warning")
        if serving.max_queue != usual.max_queue:
            yield Remark("serving.max_queue", "Not used on a GPU: trtllm-serve has no such limit.", "warning")
    asked = recipe.calibration.texts
    # The CPU toolchain's own quantizer calibrates the weights' activations; its KV cache needs none.
    used = checkpoint.texts_used(CHECKPOINTS[recipe.precision], None if recipe.on_cpu else recipe.kv, asked)
    if used < asked != Calibration().texts:
        why = "nothing is calibrated" if not used else f"{used} of them are looked at"
        yield Remark("calibration.texts", f"It is {asked}, and with {TITLES[recipe.precision]} {why}.", "warning")


def _host(recipe: Recipe) -> Iterator[Remark]:
    """Who can reach the server."""
    host = recipe.serving.host
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host.lower() == "localhost"
    if not local:
        yield Remark(
            "serving.host",
            f"With {host} whoever reaches this machine can use the API: it asks for no key. Keep 127.0.0.1 and forward "
            "the port (ssh -L), unless a gateway stands before it.",
            "warning",
            "open to others, without a key",
        )
