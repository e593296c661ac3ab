"""TensorRT-LLM after engines: what its 1.3 line removed, what replaces each stage, and the same model both ways.

What is gone and when is data with sources (``data/migration.toml``). Both columns of commands come from the functions
that run them, for a GPU that may be in no machine here, so a preview cannot drift (notebook 10).
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from helpers import checkpoint, hardware, models, plan, releases, unified
from helpers.cards import Card, Picture, Shown, Table
from helpers.plan import HOME, Plan, Step, shell_line
from helpers.toolchains import tensorrt_llm, tensorrt_llm_pytorch
from helpers.toolchains.choices import AUTO, CHECKPOINTS, TITLES, kv_of
from helpers.toolchains.serving import ServeOptions
from helpers.toolchains.sizes import Sizes
from helpers.toolchains.tensorrt_llm_pytorch import commands
from helpers.workspace import REPOSITORY

if TYPE_CHECKING:
    from helpers.bench.load import Load
    from helpers.bench.results.result import Result
    from helpers.models import Model


@cache
def facts() -> dict[str, Any]:
    """The content of ``data/migration.toml``."""
    return tomllib.loads((REPOSITORY / "data" / "migration.toml").read_text())


def removed() -> Table:
    """What the 1.3 line removed, and NVIDIA's replacement for each."""
    told = facts()
    rows = [[row["gone"], row["instead"]] for row in told["removed"]]
    note = (
        f"The first version on PyPI without engines is {told['first_without']}; {told['last_with']} before it has them."
    )
    others = [f"{row['gone']}: published in {row['source']}." for row in told["removed"] if "source" in row]
    return Table(["removed", "instead"], rows, f"published: {told['guide']}", " ".join([note, *others]))


def events() -> Table:
    """When the engine workflow was deprecated and removed, with where that was read."""
    rows = [[row["when"], row["what"], row["source"]] for row in facts()["event"]]
    return Table(["when", "what", "published"], rows, "The end of the engine workflow", whole=["when"])


def timeline() -> Picture:
    """The same dates on a line."""
    from helpers.plots.canvas import COLOURS, INK, MARKERS, figure

    rows = facts()["event"]
    places = [_months(row["when"]) for row in rows]
    with figure(9.0, 2.6) as drawing:
        axis = drawing.axes[0]
        axis.plot([min(places) - 0.3, max(places) + 0.6], [0, 0], color=INK, linewidth=1.2)
        for number, (row, place) in enumerate(zip(rows, places, strict=True)):
            high = 0.35 if number % 2 == 0 else -0.35
            axis.plot([place, place], [0, high], color=COLOURS[number], linewidth=1)
            axis.plot([place], [0], marker=MARKERS[number], color=COLOURS[number], markersize=8)
            text = "\n".join([row["when"], *_wrapped(row["what"], 26)])
            axis.text(place, high, text, ha="center", va="bottom" if high > 0 else "top", fontsize=8.5)
        axis.set(ylim=(-1.1, 1.1), xlim=(min(places) - 0.8, max(places) + 1.0))
        axis.axis("off")
    first, last = rows[0], rows[-1]
    alt = f"From {first['when']} ({first['what']}) to {last['when']} ({last['what']}), {len(rows)} dates on a line."
    return Picture(drawing.svg, alt, str(events()))


def _months(when: str) -> float:
    """A date as months, a month without a day as its middle."""
    year, month, *day = map(int, when.split("-"))
    return 12 * year + month + (day[0] - 1 if day else 15) / 31


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)


# --- Each stage, and what replaces it ---------------------------------------------


@dataclass(frozen=True, repr=False)
class Stages(Shown):
    """Each stage of the engine workflow beside what replaces it, with both commands.

    Attributes:
        title: the model, the precision and the GPU.
        rows: stage, what is removed, what takes its place, the engine workflow's command, its replacement's. Empty
            where there is none.
    """

    title: str
    rows: tuple[tuple[str, str, str, str, str], ...]

    def table(self) -> Table:
        """One line a stage, in words."""
        rows = [[stage, old, new] for stage, old, new, _, _ in self.rows]
        before, now = (sum(bool(row[place]) for row in self.rows) for place in (3, 4))
        note = f"{before} commands in the engine workflow, {now} in the PyTorch back end."
        return Table(["stage", "removed", "instead"], rows, self.title, note)

    def commands(self) -> Plan:
        """One step a stage: the command before as a comment, the command now to paste."""
        steps = []
        for stage, _, _, old, new in self.rows:
            before = [f"# {line}" for line in (old or "no command").splitlines()]
            steps.append(Step(stage, stage, ("# engine workflow:", *before, "# PyTorch back end:", new or "# nothing")))
        return Plan(self.title, tuple(steps))

    def __str__(self) -> str:
        return f"{self.table()}\n\n{self.commands()}"

    def _repr_html_(self) -> str:
        commands = f"<details><summary>The commands, both ways</summary>{self.commands()._repr_html_()}</details>"
        return self.table()._repr_html_() + commands


def stages(
    precision: str | None = None, gpu: str = plan.DEFAULT_GPU, model: str | None = None, tp_size: int = 1
) -> Stages:
    """Each stage's command in the engine workflow, and in the PyTorch back end of the same release.

    Args:
        precision: one that both have on this GPU; None for FP8 where there is one, else INT4 AWQ (an A10G).
        gpu, model, tp_size: as for :func:`helpers.plan.make`.

    Raises:
        WorkshopError: as :func:`helpers.plan.make`, or the PyTorch back end has no such precision there.
    """
    chosen = precision or shared(gpu)
    old = {step.kind: step for step in plan.make(gpu, chosen, model, tp_size=tp_size).steps}
    new = {step.kind: step for step in preview(chosen, gpu, model, tp_size).steps}
    quantized = chosen != "fp16"
    engine = {
        "convert": "" if quantized else "checkpoint",
        "quantize": "checkpoint" if quantized else "",
        "build": "engine",
        "generate": "generate",
        "serve": "serve",
    }
    pytorch = {"convert": "", "quantize": "unified", "build": "", "generate": "generate", "serve": "serve"}
    rows = tuple(
        (row["name"], row["removed"], row["instead"], _text(old, engine[row["name"]]), _text(new, pytorch[row["name"]]))
        for row in facts()["stage"]
    )
    return Stages(f"{TITLES[chosen]} for the {hardware.by_key(gpu).name}: before and after", rows)


def _text(steps: Mapping[str, Step], kind: str) -> str:
    return "\n".join(steps[kind].lines) if kind in steps else ""


def shared(gpu: str = plan.DEFAULT_GPU) -> str:
    """The precision to compare both ways on a GPU: FP8 where both have it, else INT4 AWQ, else FP16.

    Raises:
        WorkshopError: no such GPU, or TensorRT-LLM has no kernels for it.
    """
    both = set(tensorrt_llm.choices(gpu).offered) & set(tensorrt_llm_pytorch.choices(gpu).offered)
    return next(precision for precision in ("fp8", "int4_awq", "fp16") if precision in both)


def preview(
    precision: str | None = None,
    gpu: str = plan.DEFAULT_GPU,
    model: str | None = None,
    tp_size: int = 1,
    kv: str | None = AUTO,
) -> Plan:
    """What a pod would run to serve a model in the PyTorch back end, command by command; runs nothing.

    Args:
        precision: of the weights; None for :func:`shared`.
        gpu, model, tp_size: as for :func:`helpers.plan.make`.
        kv: of the KV cache: ``fp8``, None for 16 bits; :data:`AUTO` for what goes best with the weights.

    Raises:
        WorkshopError: as :func:`helpers.plan.make`, or this back end has no such precision there.
    """
    chosen = precision or shared(gpu)
    tensorrt_llm_pytorch.choices(gpu).require(chosen)
    kv = kv_of(chosen, kv)
    tensorrt_llm_pytorch.kv_choices(gpu).require(chosen, kv)
    sheet = hardware.by_key(gpu)
    subject = plan._subject(model or tensorrt_llm.default_model)
    wanted = plan._wanted(subject, sheet, chosen, kv, tp_size, checkpoint.CALIBRATION_TEXTS, None, None)
    programs = plan._programs(sheet, None, plan._here(sheet))
    folder = subject.path
    steps: list[Step] = []
    if chosen != "fp16":
        made = CHECKPOINTS[chosen]
        folder = f"{HOME}/unified/{subject.folder}/{unified.folder_name(made, kv)}"
        words = unified.command(programs.path("python"), subject.path, made, kv, folder)
        title = f"Unified checkpoint: {TITLES[chosen]}"
        steps.append(Step("unified", title, (shell_line(words),), folder, subject.weights(chosen, 1)))
    steps.append(_generate(programs, folder, wanted.sizes, tp_size, kv))
    steps.append(_serve(programs, folder, wanted.sizes, tp_size, kv, wanted.serve))
    return Plan(
        f"{subject.name} as {TITLES[chosen]} in the PyTorch back end, {sheet.name}: nothing is built", tuple(steps)
    )


def _generate(programs: Any, folder: str, sizes: Sizes, tp_size: int, kv: str | None) -> Step:
    words = commands.generate(programs.path("python"), folder, checkpoint.PROMPT, sizes, 96, tp_size=tp_size, kv=kv)
    return Step("generate", "Text: one JSON object for each piece", (shell_line(words),))


def _serve(programs: Any, folder: str, sizes: Sizes, tp_size: int, kv: str | None, options: ServeOptions) -> Step:
    import shlex

    lines, named = [], ""
    for name, content in tensorrt_llm_pytorch.settings_file(kv, options).items():
        named = f"{HOME}/{name}"
        rows = " ".join(shlex.quote(row) for row in content.splitlines())
        lines.append(f"printf '%s\\n' {rows} > \"{named}\"")
    words = commands.serve(
        programs.path("trtllm-serve"), folder, sizes, tp_size, kv_share=options.kv_share, settings=named or None
    )
    return Step("serve", "An OpenAI-compatible API", (*lines, shell_line(words)))


# --- The same model both ways, on a GPU ---------------------------------------------


@dataclass(frozen=True, repr=False)
class BothWays(Shown):
    """One model, one precision and one load in the engine workflow and in the PyTorch back end.

    Attributes:
        title: precisions of weights and KV cache.
        build_seconds: what it took to build the engine, once its checkpoint was there.
        start_seconds: from starting the server to its first answer: engine, PyTorch.
        results: of the benchmark: engine, PyTorch.
    """

    title: str
    build_seconds: float
    start_seconds: tuple[float, float]
    results: "tuple[Result, Result]"

    def table(self) -> Table:
        """One line a figure, both ways."""
        rows: list[Sequence[object]] = [
            ["build, s", f"{self.build_seconds:.1f}", "nothing to build"],
            ["server's start, s", *(f"{seconds:.1f}" for seconds in self.start_seconds)],
        ]
        for name in ("output_rate", "ttft_p50", "itl_p50"):
            heading, numbers = _figure(self.results, name)
            rows.append([heading, *numbers])
        return Table(["measured", "engine", "PyTorch back end"], rows, self.title, self.sentence)

    @property
    def sentence(self) -> str:
        """Which of the two made more tokens a second, and which was ready sooner."""
        engine, pytorch = (result.value("output_rate") for result in self.results)
        ready = self.build_seconds + self.start_seconds[0], self.start_seconds[1]
        sooner = "The PyTorch back end" if ready[1] < ready[0] else "The engine"
        least, most = min(ready), max(ready)
        told = f"{sooner} was ready first: {least:.1f} s from its checkpoint to an answer, against {most:.1f} s."
        if not engine or not pytorch:
            return told
        if abs(pytorch / engine - 1) < 0.02:
            return f"{told} Both made as many tokens a second, within 2%."
        more, ratio = ("PyTorch back end", pytorch / engine) if pytorch > engine else ("engine", engine / pytorch)
        return f"{told} The {more} made {ratio:.2f} times the tokens a second."

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def _figure(results: "tuple[Result, Result]", name: str) -> tuple[str, list[str]]:
    from helpers.bench.results.metrics import METRICS

    return METRICS[name].heading, [result.summary.number(name) for result in results]


def both(model: "Model | None" = None, load: "Load | None" = None, precision: str | None = None) -> BothWays | Card:
    """Build and serve a model both ways one after the other, and measure both under one load; on a CPU, what it would.

    Args:
        model: None for the toolchain's own.
        load: None for 32 requests in flight of the talk's lengths.
        precision: None for :func:`shared`.

    Returns:
        The comparison; where no TensorRT-LLM is used, a card that says what is left out.

    Raises:
        WorkshopError: a stage, a server or the benchmark failed.
    """
    from helpers import bench, serving, toolchains
    from helpers.bench.load import Load

    load = load or Load(concurrency=32, requests=128)
    gpu = hardware.supported_gpu(hardware.look())
    if toolchains.best().name not in toolchains.ON_GPU or gpu is None:
        return _not_here(load, precision or shared(), gpu is not None)
    releases.require()
    found = model or models.find(toolchains.default_model())
    chosen = precision or _shared_here()
    engines = [toolchain.build(found, chosen) for toolchain in (tensorrt_llm, tensorrt_llm_pytorch)]
    starts, results = [], []
    for engine in engines:
        with serving.start(engine) as endpoint:
            starts.append(float(endpoint.started_seconds or 0.0))
            results.append(bench.run(endpoint, load))
    built = engines[0].manifest.seconds
    return BothWays(engines[0].full_title, built, (starts[0], starts[1]), (results[0], results[1]))


def _not_here(load: "Load", precision: str, has_gpu: bool) -> Card:
    """What a pod would measure, where nothing of TensorRT-LLM is used; its GPU, if it has one, may not be chosen."""
    facts = {
        "it would serve": f"{TITLES[precision]}, once with an engine and once without",
        "the load": f"{load.kind}; {load.input_tokens} tokens in, {load.output_tokens} out",
        "it would tell": "seconds to build, seconds from start to the first answer, tokens/s, TTFT, ITL",
    }
    why = "uses OpenVINO" if has_gpu else "has no GPU that TensorRT-LLM runs on"
    return Card(f"Not measured: this machine {why}", facts)


def compared() -> tuple[str, ...]:
    """The precisions of weights that are worth comparing both ways on this machine's GPU.

    FP8 where the GPU has it, else 16 bits and INT4; FP8 on a CPU, whose preview is of another machine.
    """
    from helpers import toolchains

    if toolchains.best().name not in toolchains.ON_GPU:
        return ("fp8",)
    best = _shared_here()
    return (best,) if best == "fp8" else tuple(dict.fromkeys(("fp16", best)))


def _shared_here() -> str:
    """As :func:`shared`, for the GPU that is here."""
    both = set(tensorrt_llm.choices().offered) & set(tensorrt_llm_pytorch.choices().offered)
    return next(precision for precision in ("fp8", "int4_awq", "fp16") if precision in both)
