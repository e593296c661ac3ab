"""What a pod would run, command by command, previewed from any machine: nothing here runs anything.

Every command comes from the same functions that run it on a pod (:mod:`helpers.checkpoint`,
:mod:`helpers.toolchains.tensorrt_llm.commands`, :mod:`helpers.releases`), so that a preview cannot drift. Sizes are
predicted from the model's settings. ``python -m helpers plan --gpu rtx-4090`` prints it all; the notebooks show single
steps of it where they run without a GPU.
"""

import html
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from helpers import checkpoint, hardware, memory, models, releases
from helpers.cards import Shown, bytes_text
from helpers.errors import WorkshopError
from helpers.hardware import Datasheet
from helpers.hardware.peers import automatic
from helpers.releases import Release
from helpers.toolchains import tensorrt_llm
from helpers.toolchains.base import engine_folder
from helpers.toolchains.choices import CHECKPOINTS, TITLES, kv_of
from helpers.toolchains.tensorrt_llm import commands
from helpers.toolchains.tensorrt_llm.sizes import Sizes, engine_sizes
from helpers.workspace import REPOSITORY

HOME = "$WORKSHOP_HOME"
"""Where a pod keeps everything; the plan's first line sets it."""

DEFAULT_GPU = "rtx-4090"
_WIDE = 116  # characters in a line of a terminal or a page before a command is continued on the next


@dataclass(frozen=True)
class Step:
    """One stage of a plan.

    Attributes:
        kind: ``install``, ``download``, ``checkpoint``, ``engine``, ``generate``, ``serve``.
        title: what it does.
        lines: shell commands, ready to paste.
        makes: the folder that it fills; empty for none.
        size: predicted bytes of what it makes; 0 for nothing.
    """

    kind: str
    title: str
    lines: tuple[str, ...]
    makes: str = ""
    size: int = 0

    def heading(self) -> str:
        """Title, and what it makes."""
        size = f", predicted: {bytes_text(self.size)}" if self.size else ""
        return f"{self.title} → {self.makes}{size}" if self.makes else self.title


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """Every command for one model on one GPU, or some of them."""

    title: str
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"# {self.title}", *(f"# {note}" for note in self.notes)]
        for step in self.steps:
            parts += ["", f"# {step.heading()}", *step.lines]
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        steps = "".join(
            f"<p style='margin:0.5em 0 0.1em'>{html.escape(step.heading())}</p>"
            "<pre style='margin:0;white-space:pre-wrap;font-size:0.9em'>"
            + html.escape("\n".join(step.lines))
            + "</pre>"
            for step in self.steps
        )
        notes = "".join(f"<p style='margin:0.2em 0'>{html.escape(note)}</p>" for note in self.notes)
        return (
            "<div style='border-left:4px solid #5B5B5B;padding:0.2em 0 0.2em 1em;margin:0.5em 0'>"
            f"<strong>{html.escape(self.title)}</strong>{notes}{steps}</div>"
        )


@dataclass(frozen=True)
class _Subject:
    """What is planned for: a model that may be on no disk here, on a GPU that may be in no machine here."""

    name: str
    source: str
    folder: str
    path: str
    config: dict[str, Any]
    bytes: int
    repository: str
    revision: str

    @property
    def shape(self) -> memory.Shape:
        return memory.Shape.of(self.config)


def make(
    gpu: str = DEFAULT_GPU,
    precision: str | None = None,
    model: str | None = None,
    release: str | None = None,
    tp_size: int = 1,
) -> Plan:
    """Every command, file and expected size, from an empty pod to a served engine.

    Args:
        gpu: a key of ``data/gpus.toml``.
        precision: the engine's; None for the best 8 bits that this GPU has.
        model: a name in ``data/models.toml``, ``bundled`` or a folder; None for TinyLlama.
        release: of TensorRT-LLM; None for the newest that is offered and has kernels for this GPU.
        tp_size: number of GPUs.

    Raises:
        WorkshopError: an unknown GPU, model or release, a GPU or precision that cannot be used, or a model that does
            not fit; says what to do instead.
    """
    sheet = hardware.by_key(gpu)
    if sheet.slice_of and tp_size > 1:
        raise WorkshopError(
            f"A model cannot be split over slices of a split GPU ({sheet.name}): they do not reach each other. Choose "
            f"tp_size 1, or the whole GPU: {sheet.slice_of!r}."
        )
    offered = tensorrt_llm.choices(gpu)
    chosen = precision or offered.eight_bit
    offered.require(chosen)
    fitting = _release(sheet, release)
    subject = _subject(model or tensorrt_llm.default_model)
    memory.require_split(subject.name, subject.shape, tp_size)
    kv, made_from = kv_of(chosen), CHECKPOINTS[chosen]
    sizes = engine_sizes(subject.shape, subject.name, made_from, kv, sheet.memory_bytes, sheet.name, tp_size)
    several = f" on {tp_size} GPUs" if tp_size > 1 else ""
    steps = (
        _settings(sheet, tp_size),
        _install(fitting),
        *([_download(subject)] if subject.repository else []),
        _checkpoint(subject, fitting, made_from, kv, tp_size),
        _engine(subject, fitting, chosen, sizes, tp_size),
        _generate(subject, fitting, chosen, tp_size),
        _serve(subject, fitting, chosen, sizes, tp_size),
    )
    return Plan(
        f"{subject.name} as {TITLES[chosen]}, {sheet.name}{several}, TensorRT-LLM {fitting.version}",
        steps,
        (_needs(fitting, sheet), _memory_text(subject, sheet, made_from, kv, sizes, tp_size)),
    )


def step(
    kind: str, precision: str = "fp16", gpu: str = DEFAULT_GPU, model: str | None = None, tp_size: int = 1
) -> Plan:
    """One step of a plan, for a notebook: what this cell runs on a pod.

    Args:
        kind: see :class:`Step`.
        precision: the engine's.
        gpu, model, tp_size: see :func:`make`.

    Raises:
        WorkshopError: as :func:`make`, or no such step.
    """
    whole = make(gpu, precision, model, tp_size=tp_size)
    found = tuple(s for s in whole.steps if s.kind == kind)
    if not found:
        there = ", ".join(dict.fromkeys(s.kind for s in whole.steps))
        raise WorkshopError(f"A plan has no step {kind!r}. Choose one of {there}.")
    pod = f"one {hardware.by_key(gpu).name}" if tp_size == 1 else f"{tp_size} GPUs, {hardware.by_key(gpu).name}"
    return Plan(f"On a pod with {pod}, this step runs:", found)


def _release(sheet: Datasheet, wanted: str | None) -> Release:
    """The release that was asked for, or the newest that has kernels for the GPU."""
    if wanted:
        return releases.release(wanted)
    return next(r for r in releases.offered() if r.kernels(sheet.compute_capability))


def _subject(name: str) -> _Subject:
    """A model to plan for: from ``data/models.toml`` without a download, else from its folder."""
    row = models.known().get(name)
    if row is None:
        found = models.find(name)
        return _Subject(found.name, found.source, found.folder, str(found.path), found.config, found.bytes, "", "")
    repository, revision = row["repository"], row["revision"]
    folder = repository.replace("/", "--")
    path = f"{HOME}/models/{folder}/{revision[:12]}"
    return _Subject(name, repository, folder, path, row["config"], row["weights_bytes"], repository, revision)


def _needs(release: Release, sheet: Datasheet) -> str:
    """What the pod must have before any of it."""
    driver = release.driver_for(sheet.compute_capability)
    return f"Needs: Linux, an NVIDIA driver of {driver} or newer, 30 GB of disk and three times the model's size."


def _memory_text(
    subject: _Subject, sheet: Datasheet, precision: str, kv: str | None, sizes: Sizes, tp_size: int
) -> str:
    """Whether it fits, with the parts."""
    made = memory.fit(
        subject.shape,
        sheet.key,
        precision,
        kv,
        sizes.max_batch_size,
        sizes.max_num_tokens,
        sizes.max_seq_len,
        tp_size=tp_size,
    )
    return (
        f"predicted, on each GPU: {bytes_text(made.weights)} of weights, {bytes_text(made.activations)} to work with "
        f"(an estimate), and {bytes_text(made.blocks_per_request * made.block)} of KV cache for a request of "
        f"{made.sequence:,} tokens; {made.requests:,} of them fit at once in {bytes_text(sheet.memory_bytes)}, and the "
        f"engine is built for {made.max_batch_size}."
    )


def _bin(release: Release, program: str) -> str:
    """A program of the release's own environment."""
    return f"{HOME}/environments/trtllm-{release.version}/bin/{program}"


def _paths(subject: _Subject, precision: str, tp_size: int) -> tuple[str, str]:
    """Folders of the checkpoint and of the engine."""
    made_from, kv = CHECKPOINTS[precision], kv_of(precision)
    made = f"{HOME}/checkpoints/{subject.folder}/{checkpoint.folder_name(made_from, kv, tp_size)}"
    return made, f"{HOME}/engines/{subject.folder}/{engine_folder(tensorrt_llm.name, precision, kv, kv, tp_size)}"


def _settings(sheet: Datasheet, tp_size: int) -> Step:
    lines = ["export WORKSHOP_HOME=/workspace/trtllm-workshop", 'export CUDA_HOME="${CUDA_HOME:-/usr/local/cuda}"']
    worker = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    lines.append(worker if tp_size > 1 else f"{worker} TLLM_WORKER_USE_SINGLE_PROCESS=1")
    # On a pod the driver is asked; here only what is published is known.
    chosen = automatic(False if tp_size > 1 and sheet.peer_to_peer == "none" else None)
    lines += [f"export {' '.join(f'{name}={value}' for name, value in chosen.items())}"] if chosen else []
    return Step("settings", "In the repository's folder; set once in a terminal", tuple(lines))


def _install(release: Release) -> Step:
    folder = f"{HOME}/environments/trtllm-{release.version}"
    lines = [shell_line(words) for words in releases.install_commands(release, folder)]
    # The loader does not look into wheels by itself (helpers.releases.environment.library_folders).
    wheels = f'"{folder}"/lib/python3.*/site-packages/{{nvidia/*/lib,torch/lib,tensorrt_libs}}'
    lines.append(f"export LD_LIBRARY_PATH=$(printf '%s:' {wheels})$LD_LIBRARY_PATH")
    return Step("install", f"TensorRT-LLM {release.version} into an environment of its own", tuple(lines), folder)


def _download(subject: _Subject) -> Step:
    row = models.known()[subject.name]
    words = models.download_command("python", subject.repository, row, subject.path)
    return Step(
        "download", f"{subject.name} from the Hugging Face hub", (shell_line(words),), subject.path, subject.bytes
    )


def _checkpoint(subject: _Subject, release: Release, precision: str, kv: str | None, tp_size: int) -> Step:
    python = _bin(release, "python")
    folder = f"{HOME}/checkpoints/{subject.folder}/{checkpoint.folder_name(precision, kv, tp_size)}"
    words = (
        commands.convert(python, subject.path, tp_size, folder)
        if precision == "int8_wo"
        else checkpoint.command(python, subject.path, precision, kv, tp_size, folder)
    )
    size = tp_size * memory.weight_bytes(subject.shape, precision, tp_size)
    title = f"Checkpoint: {checkpoint.TITLES[precision]}{', KV cache ' + kv.upper() if kv else ''}"
    return Step("checkpoint", title, (shell_line(words),), folder, size)


def _engine(subject: _Subject, release: Release, precision: str, sizes: Sizes, tp_size: int) -> Step:
    made, engine = _paths(subject, precision, tp_size)
    words = commands.build(_bin(release, "trtllm-build"), made, engine, sizes, tp_size)
    size = tp_size * memory.weight_bytes(subject.shape, CHECKPOINTS[precision], tp_size)
    return Step("engine", "Engine", (shell_line(words),), engine, size)


def _generate(subject: _Subject, release: Release, precision: str, tp_size: int) -> Step:
    _, engine = _paths(subject, precision, tp_size)
    python = _bin(release, "python")
    words = commands.generate(python, engine, subject.path, checkpoint.PROMPT, 96, tp_size=tp_size)
    return Step("generate", "Text: one JSON object for each piece", (shell_line(words),))


def _serve(subject: _Subject, release: Release, precision: str, sizes: Sizes, tp_size: int) -> Step:
    _, engine = _paths(subject, precision, tp_size)
    words = commands.serve(_bin(release, "trtllm-serve"), engine, subject.path, sizes, release.engine_backend, tp_size)
    return Step("serve", "An OpenAI-compatible API, on this machine only", (shell_line(words),))


def shell_line(words: Sequence[str]) -> str:
    """A command as a person could paste it, continued over lines; ``$WORKSHOP_HOME`` stays for the shell to fill in."""
    lines = [""]
    for word in words:
        word = word.removeprefix(f"{REPOSITORY}/")  # the plan is run in the repository's folder
        quoted = f'"{word}"' if HOME in word else shlex.quote(word)
        if lines[-1] and len(lines[-1]) + len(quoted) + 3 > _WIDE:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += (" " if lines[-1] else "") + quoted
    return "\n".join(lines)
