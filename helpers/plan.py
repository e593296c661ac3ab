"""What a pod would run, command by command, previewed from any machine: nothing here runs anything.

Every command comes from the same functions that run it on a pod (:mod:`helpers.checkpoint`,
:mod:`helpers.toolchains.tensorrt_llm.commands`, :mod:`helpers.releases`), so that a preview cannot drift. Sizes are
predicted from the model's settings. ``python -m helpers plan --gpu rtx-4090`` prints it all; the notebooks show single
steps of it where they run without a GPU.
"""

import html
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers import checkpoint, hardware, memory, models, releases
from helpers.cards import Shown, boxed, bytes_text, paragraph
from helpers.errors import WorkshopError
from helpers.hardware import Datasheet
from helpers.hardware.peers import automatic
from helpers.releases import Installation, Release
from helpers.toolchains import openvino, tensorrt_llm
from helpers.toolchains.base import engine_folder
from helpers.toolchains.choices import AUTO, CHECKPOINTS, TITLES, kv_of
from helpers.toolchains.serving import LOCAL, PORT, ServeOptions
from helpers.toolchains.sizes import Sizes
from helpers.toolchains.tensorrt_llm import commands
from helpers.toolchains.tensorrt_llm.kv import side_effects
from helpers.toolchains.tensorrt_llm.serve import settings_file
from helpers.toolchains.tensorrt_llm.sizes import chosen_sizes
from helpers.workspace import REPOSITORY, home

HOME = "$WORKSHOP_HOME"
"""Where a machine keeps everything; the plan's first line sets it."""

_POD_HOME = "/workspace/trtllm-workshop"  # what most pod templates keep when a pod is stopped

DEFAULT_GPU = "rtx-4090"
_WIDE = 88  # characters in a line of a terminal or a page before a command is continued on the next


@dataclass(frozen=True)
class Step:
    """One stage of a plan.

    Attributes:
        kind: ``settings``, ``install``, ``download``, ``checkpoint``, ``engine``, ``generate``, ``serve``; on a CPU
            ``graph`` instead of ``install`` and ``checkpoint``.
        title: what it does.
        lines: shell commands, ready to paste, and comments between them.
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

    @property
    def commands(self) -> tuple[str, ...]:
        """The lines without the comments."""
        return tuple(line for line in self.lines if not line.startswith("#"))


def step_html(step: Step, heading: str) -> str:
    """A step on a page; the installation is folded, being long and the same for every plan."""
    lines = (
        "<pre style='margin:0;white-space:pre-wrap;font-size:0.9em'>" + html.escape("\n".join(step.lines)) + "</pre>"
    )
    if step.kind == "install":
        return f"<details style='margin:0.5em 0 0.1em'><summary>{html.escape(heading)}</summary>{lines}</details>"
    return f"<p style='margin:0.5em 0 0.1em'>{html.escape(heading)}</p>{lines}"


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
        steps = "".join(step_html(step, step.heading()) for step in self.steps)
        return boxed(self.title, "".join(map(paragraph, self.notes)) + steps)


@dataclass(frozen=True)
class _Subject:
    """What is planned for: a model that may be on no disk here, on a GPU that may be in no machine here.

    ``config`` is empty and ``bytes`` is 0 for a model that only the hub knows.
    """

    name: str
    source: str
    folder: str
    path: str
    config: dict[str, Any]
    bytes: int
    repository: str
    revision: str

    @property
    def shape(self) -> memory.Shape | None:
        return memory.Shape.of(self.config) if self.config else None

    def weights(self, precision: str, tp_size: int) -> int:
        """Predicted bytes of its weights, all ranks together; 0 where its shape is not known."""
        shape = self.shape
        return tp_size * memory.weight_bytes(shape, CHECKPOINTS[precision], tp_size) if shape else 0


@dataclass(frozen=True)
class _Programs:
    """The release of TensorRT-LLM that the commands name, and where its programs are.

    ``there`` is the installation of this machine, for a plan that is for this machine.
    """

    release: Release
    there: Installation | None = None

    @property
    def folder(self) -> str:
        """The environment: the workshop's own, or the one that was there before."""
        if self.there is not None and self.there.adopted:
            return str(self.there.python.parent.parent)
        return f"{HOME}/environments/trtllm-{self.release.version}"

    def path(self, program: str) -> str:
        """A program of the release."""
        if self.there is not None and self.there.adopted:
            return str(self.there.python if program == "python" else self.there.program(program))
        return f"{self.folder}/bin/{program}"


@dataclass(frozen=True)
class _Wanted:
    """What is planned: precisions, ranks, calibration, sizes and serving, as the stages take them.

    ``special`` are the sizes once more where they are not the usual ones, for the name of the engine's folder.
    """

    precision: str
    kv: str | None
    tp_size: int
    texts: int
    sizes: Sizes
    special: Sizes | None
    serve: ServeOptions

    @property
    def made_from(self) -> str:
        """The checkpoint's precision."""
        return CHECKPOINTS[self.precision]

    @property
    def reuse(self) -> bool:
        """KV blocks can be used again: paged context FMHA stays on."""
        return side_effects(self.precision, self.kv).reuse

    @property
    def checkpoint_folder(self) -> str:
        """The checkpoint's folder, below that of its model."""
        return checkpoint.folder_name(self.made_from, self.kv, self.tp_size, self.texts)

    @property
    def engine_folder(self) -> str:
        """The engine's folder, below that of its model."""
        suffix = checkpoint.calibration_suffix(self.made_from, self.kv, self.texts)
        usual = kv_of(self.precision)
        return engine_folder(tensorrt_llm.name, self.precision, self.kv, usual, self.tp_size, suffix, self.special)


def make(
    gpu: str = DEFAULT_GPU,
    precision: str | None = None,
    model: str | None = None,
    release: str | None = None,
    tp_size: int = 1,
    kv: str | None = AUTO,
    sizes: Sizes | None = None,
    calibration_texts: int = checkpoint.CALIBRATION_TEXTS,
    serve: ServeOptions | None = None,
    revision: str | None = None,
) -> Plan:
    """Every command, file and expected size, from an empty pod to a served engine.

    Args:
        gpu: a key of ``data/gpus.toml``.
        precision: the engine's; None for the best 8 bits that this GPU has.
        model: a name in ``data/models.toml``, ``bundled``, a folder or a hub id; None for TinyLlama.
        release: of TensorRT-LLM; None for the one that is used here, where this machine has such a GPU, else for the
            newest that is offered and has kernels for it.
        tp_size: number of GPUs.
        kv: of the KV cache: ``fp8``, ``int8``, None for 16 bits; :data:`AUTO` for what goes best with the weights.
        sizes: what the engine shall hold; None for the largest usual batch that fits.
        calibration_texts: how many of the calibration texts the quantizer looks at.
        serve: what the server is told; None for the usual. Its port 0, a free one, is shown as the usual one,
            and a comment says so.
        revision: of a model on the hub; None for the one that ``data/models.toml`` pins.

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
    kv = kv_of(chosen, kv)
    tensorrt_llm.kv_choices(gpu).require(chosen, kv)
    here = _here(sheet)
    fitting = _programs(sheet, release, here)
    subject = _subject(model or tensorrt_llm.default_model, revision)
    wanted = _wanted(subject, sheet, chosen, kv, tp_size, calibration_texts, sizes, serve)
    several = f" on {tp_size} GPUs" if tp_size > 1 else ""
    steps = (
        _settings(sheet, tp_size, _home() if here else _POD_HOME),
        _install(fitting),
        *([_download(subject)] if subject.repository else []),
        _checkpoint(subject, fitting, wanted),
        _engine(subject, fitting, wanted),
        _generate(subject, fitting, wanted),
        _serve(subject, fitting, wanted, here),
    )
    return Plan(
        f"{subject.name} as {TITLES[chosen]}, {sheet.name}{several}, TensorRT-LLM {fitting.release.version}",
        steps,
        (_needs(fitting.release, sheet), _memory_text(subject, sheet, wanted)),
    )


def _wanted(
    subject: _Subject,
    sheet: Datasheet,
    precision: str,
    kv: str | None,
    tp_size: int,
    texts: int,
    sizes: Sizes | None,
    serve: ServeOptions | None,
) -> _Wanted:
    """What is planned, with the usual sizes where none are given.

    Raises:
        WorkshopError: the model cannot be split so; or no sizes are given, and not even one request of full length fits
            or the model's shape is not known.
    """
    shape, chosen, special = subject.shape, sizes, sizes
    if shape is not None:
        memory.require_split(subject.name, shape, tp_size)
        needs = subject.name, CHECKPOINTS[precision], kv, sheet.memory_bytes, sheet.name, tp_size
        chosen, special = chosen_sizes(sizes, shape, *needs)
    if chosen is None:
        raise WorkshopError(
            f"{subject.name} is not in data/models.toml and not on this machine, so sizes for it cannot be worked out. "
            "Give sizes (a recipe does), or download it first."
        )
    served = replace(serve or ServeOptions(chosen), sizes=chosen)
    return _Wanted(precision, kv, tp_size, texts, chosen, special, served)


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


def _programs(sheet: Datasheet, wanted: str | None, here: bool) -> _Programs:
    """The release that was asked for; else, on such a machine, the one used there; else the newest with kernels."""
    if wanted:
        return _Programs(releases.release(wanted))
    if here:
        installed, chosen = releases.current(), releases.choose_here().release
        if installed is not None:
            return _Programs(releases.release(installed.version), installed)
        if chosen is not None:
            return _Programs(chosen)
    return _Programs(next(r for r in releases.offered() if r.kernels(sheet.compute_capability)))


def _subject(name: str, revision: str | None = None) -> _Subject:
    """A model to plan for: from ``data/models.toml`` or by its hub id without a download, else from its folder."""
    row = models.known().get(name)
    if row is not None:
        repository, config, size = row["repository"], dict(row["config"]), int(row["weights_bytes"])
        wanted = revision or row["revision"]
        other = f"@{wanted}" if wanted != row["revision"] else ""
    elif "/" in name and not Path(name).expanduser().is_dir():
        repository, config, size, wanted = name, {}, 0, revision or "main"
        other = f"@{revision}" if revision else ""
    else:
        found = models.find(name, revision)
        return _Subject(found.name, found.source, found.folder, str(found.path), found.config, found.bytes, "", "")
    folder = repository.replace("/", "--")
    path = f"{HOME}/models/{folder}/{models.revision_folder(wanted)}"
    return _Subject(name, repository + other, folder + other.replace("/", "-"), path, config, size, repository, wanted)


def _needs(release: Release, sheet: Datasheet) -> str:
    """What the pod must have before any of it."""
    driver = release.driver_for(sheet.compute_capability)
    return f"Needs: Linux, an NVIDIA driver of {driver} or newer, 30 GB of disk and three times the model's size."


def _memory_text(subject: _Subject, sheet: Datasheet, wanted: _Wanted) -> str:
    """Whether it fits, with the parts."""
    if not subject.config:
        return f"{subject.name} is not in data/models.toml: what it takes is not known before it is downloaded."
    sizes, positions = wanted.sizes, int(subject.config["max_position_embeddings"])
    # An engine may be built for more than the model can read: its KV cache is planned for all the same.
    settings = {**subject.config, "max_position_embeddings": max(positions, sizes.max_seq_len)}
    made = memory.fit(
        {**settings, "_name_or_path": subject.name},
        sheet.key,
        wanted.made_from,
        wanted.kv,
        sizes.max_batch_size,
        sizes.max_num_tokens,
        sizes.max_seq_len,
        tp_size=wanted.tp_size,
        share=wanted.serve.kv_share,
    )
    return (
        f"predicted, on each GPU: {bytes_text(made.weights)} of weights, {bytes_text(made.activations)} to work with "
        f"(an estimate), and {bytes_text(made.blocks_per_request * made.block)} of KV cache for a request of "
        f"{made.sequence:,} tokens; {made.requests:,} of them fit at once in {bytes_text(sheet.memory_bytes)}, and the "
        f"engine is built for {made.max_batch_size}."
    )


def _paths(subject: _Subject, wanted: _Wanted) -> tuple[str, str]:
    """Folders of the checkpoint and of the engine."""
    made = f"{HOME}/checkpoints/{subject.folder}/{wanted.checkpoint_folder}"
    return made, f"{HOME}/engines/{subject.folder}/{wanted.engine_folder}"


def _home() -> str:
    """The workspace of this machine, as a person would write it in a shell."""
    here, own = home(), Path.home()
    return f"$HOME/{here.relative_to(own)}" if here.is_relative_to(own) else str(here)


def _export_home(place: str) -> str:
    """The line that says where everything is kept."""
    plain = re.fullmatch(r"[\w./$-]+", place)
    return f"export WORKSHOP_HOME={place}" if plain else f'export WORKSHOP_HOME="{place}"'


_ONCE = "In the repository's folder; set once in a terminal"


def _settings(sheet: Datasheet, tp_size: int, place: str) -> Step:
    lines = [_export_home(place), 'export CUDA_HOME="${CUDA_HOME:-/usr/local/cuda}"']
    worker = "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
    lines.append(worker if tp_size > 1 else f"{worker} TLLM_WORKER_USE_SINGLE_PROCESS=1")
    # On a pod the driver is asked; here only what is published is known.
    chosen = automatic(False if tp_size > 1 and sheet.peer_to_peer == "none" else None)
    lines += [f"export {' '.join(f'{name}={value}' for name, value in chosen.items())}"] if chosen else []
    return Step("settings", _ONCE, tuple(lines))


def _install(programs: _Programs) -> Step:
    release, folder, there = programs.release, programs.folder, programs.there
    lines = [shell_line(words) for words in releases.install_commands(release, folder)]
    title = f"TensorRT-LLM {release.version} into an environment of its own"
    if there is not None and there.adopted:
        title = f"TensorRT-LLM {release.version}, which was there before the workshop"
        lines = [f"# used as it is, by {there.python}"]
    # The loader does not look into wheels by itself (helpers.releases.environment.library_folders).
    wheels = f'"{folder}"/lib/python3.*/site-packages/{{nvidia/*/lib,torch/lib,tensorrt_libs}}'
    lines.append(f"export LD_LIBRARY_PATH=$(printf '%s:' \\\n    {wheels} \\\n    )$LD_LIBRARY_PATH")
    return Step("install", title, tuple(lines), folder)


def _download(subject: _Subject) -> Step:
    row = models.known().get(subject.name)
    words = models.download_command("python", subject.repository, row, subject.path, subject.revision)
    return Step(
        "download", f"{subject.name} from the Hugging Face hub", (shell_line(words),), subject.path, subject.bytes
    )


def _checkpoint(subject: _Subject, programs: _Programs, wanted: _Wanted) -> Step:
    python, (folder, _) = programs.path("python"), _paths(subject, wanted)
    precision, kv, ranks = wanted.made_from, wanted.kv, wanted.tp_size
    words = (
        commands.convert(python, subject.path, ranks, folder)
        if precision == "int8_wo"
        else checkpoint.command(python, subject.path, precision, kv, ranks, folder, wanted.texts)
    )
    title = f"Checkpoint: {checkpoint.TITLES[precision]}{', KV cache ' + kv.upper() if kv else ''}"
    return Step("checkpoint", title, (shell_line(words),), folder, subject.weights(wanted.precision, ranks))


def _engine(subject: _Subject, programs: _Programs, wanted: _Wanted) -> Step:
    made, engine = _paths(subject, wanted)
    program = programs.path("trtllm-build")
    words = commands.build(program, made, engine, wanted.sizes, wanted.tp_size, paged_context=wanted.reuse)
    return Step("engine", "Engine", (shell_line(words),), engine, subject.weights(wanted.precision, wanted.tp_size))


def _generate(subject: _Subject, programs: _Programs, wanted: _Wanted) -> Step:
    _, engine = _paths(subject, wanted)
    words = commands.generate(
        *(programs.path("python"), engine, subject.path, checkpoint.PROMPT, 96),
        tp_size=wanted.tp_size,
        block_reuse=wanted.reuse,
    )
    return Step("generate", "Text: one JSON object for each piece", (shell_line(words),))


def _serve(subject: _Subject, programs: _Programs, wanted: _Wanted, here: bool) -> Step:
    _, engine = _paths(subject, wanted)
    options, lines, named = wanted.serve, [], []
    for name, content in settings_file(options, wanted.reuse).items():
        file = f"{HOME}/{name}"
        rows = " ".join(shlex.quote(row) for row in content.splitlines())
        lines.append(f"printf '%s\\n' {rows} > \"{file}\"")
        named.append(file)
    words = commands.serve(
        programs.path("trtllm-serve"),
        engine,
        subject.path,
        wanted.sizes,
        programs.release.engine_backend,
        wanted.tp_size,
        options.host,
        options.port or PORT,
        options.kv_share,
        *named,
    )
    lines += _of_port(options)
    return Step("serve", f"An OpenAI-compatible API, {_reach(options.host, here)}", (*lines, shell_line(words)))


def make_on_cpu(
    model: str,
    precision: str,
    kv: str | None,
    serve: ServeOptions,
    calibration_texts: int = checkpoint.CALIBRATION_TEXTS,
    revision: str | None = None,
) -> Plan:
    """The commands of the CPU toolchain, from the model to a served engine; ``tests/test_plan.py`` holds them to it.

    Args:
        model: a name in ``data/models.toml``, ``bundled``, a folder or a hub id.
        precision: the engine's.
        kv: of the KV cache: ``int8``, or None for 16 bits.
        serve: what the server is told; its sizes are the server's alone, for an OpenVINO engine has no limits.
        calibration_texts: how many of the calibration texts the quantizer looks at.
        revision: as for :func:`make`.

    Raises:
        WorkshopError: an unknown model, or a precision that the CPU toolchain does not build.
    """
    openvino.choices().require(precision)
    subject = _subject(model, revision)
    steps = (
        Step("settings", _ONCE, (_export_home(_home()),)),
        *([_download(subject)] if subject.repository else []),
        _graph(subject),
        _cpu_engine(subject, precision, kv, calibration_texts),
        _cpu_serve(subject, precision, kv, calibration_texts, serve),
    )
    note = "The engine has no limits of its own: the sizes are told to the server when it starts."
    return Plan(f"{subject.name} as {TITLES[precision]}, {openvino.title}", steps, (note,))


def _cpu_engine_path(subject: _Subject, precision: str, kv: str | None, texts: int) -> str:
    """Folder of an OpenVINO engine."""
    return f"{HOME}/engines/{subject.folder}/{openvino.engine_folder(precision, kv, texts)}"


def _graph(subject: _Subject) -> Step:
    folder = f"{HOME}/graphs/{subject.folder}"
    words = openvino.commands.export("optimum-cli", subject.path, folder)
    return Step("graph", "Graph: traced, weights in FP16", (shell_line(words),), folder, subject.weights("fp16", 1))


def _cpu_engine(subject: _Subject, precision: str, kv: str | None, texts: int) -> Step:
    folder = _cpu_engine_path(subject, precision, kv, texts)
    words = openvino.commands.build("python", f"{HOME}/graphs/{subject.folder}", precision, kv, texts, folder)
    # The folder keeps the quantized graph beside the compiled form, which holds the weights once more.
    size = 2 * subject.weights(precision, 1)
    return Step("engine", "Engine: compiled for this CPU", (shell_line(words),), folder, size)


def _cpu_serve(subject: _Subject, precision: str, kv: str | None, texts: int, options: ServeOptions) -> Step:
    folder = _cpu_engine_path(subject, precision, kv, texts)
    shown = replace(options, port=options.port or PORT)
    words = openvino.commands.serve("python", folder, kv, shown)
    title = f"An OpenAI-compatible API, {_reach(options.host, here=True)}"
    return Step("serve", title, (*_of_port(options), shell_line(words)))


def _here(sheet: Datasheet) -> bool:
    """Whether a plan for this GPU is one for this machine: engines are tied to the compute capability."""
    gpu = hardware.supported_gpu(hardware.look())
    return gpu is not None and gpu.compute_capability == sheet.compute_capability


def _reach(host: str, here: bool) -> str:
    """Who reaches a server, in a title."""
    if host not in (LOCAL, "localhost", "::1"):
        return f"on {host}"
    return "on this machine only" if here else f"reachable from that machine only ({host})"


def _of_port(options: ServeOptions) -> list[str]:
    """A comment where the port that is shown stands for a free one."""
    return [] if options.port else [f"# port {PORT} stands for any: python -m helpers serve takes a free one"]


def shell_line(words: Sequence[str]) -> str:
    """A command as a person could paste it, continued over lines; ``$WORKSHOP_HOME`` stays for the shell to fill in.

    An option stays beside its value, so a line is longer than the rest only where those two are.
    """
    lines = [""]
    for part in _parts(words):
        if lines[-1] and len(lines[-1]) + len(part) + 3 > _WIDE:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += (" " if lines[-1] else "") + part
    return "\n".join(lines)


def _parts(words: Sequence[str]) -> list[str]:
    """The words of a command, quoted for a shell, an option and what follows it in one."""
    parts: list[str] = []
    option = False  # the last word was one, and may take this one as its value
    for word in words:
        word = word.removeprefix(f"{REPOSITORY}/")  # the plan is run in the repository's folder
        quoted = f'"{word}"' if HOME in word else shlex.quote(word)
        if option and not word.startswith("-"):
            parts[-1] += f" {quoted}"
        else:
            parts.append(quoted)
        option = word.startswith("-") and "=" not in word
    return parts
