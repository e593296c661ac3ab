"""The benchmarks that come with TensorRT-LLM: their commands, and which of their figures is which (notebook 08).

``trtllm-bench`` runs an engine without a server: no HTTP, no stream, so it shows what the engine can do.
``benchmark_serving`` is a client like ours. Their commands are shown on every machine and run where the release is
installed. Options are those of ``data/contract``; tests hold every command against it.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from helpers.bench.load import CHAT, Load
from helpers.bench.results.metrics import METRICS, NONE, number
from helpers.cards import Card, Shown, ShownAsTable, Table, boxed, paragraph, preformatted
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.bench.results.result import Result
    from helpers.releases import Installation
    from helpers.serving.endpoint import Endpoint

BENCH, SERVING = "trtllm-bench", "benchmark_serving"
MODULE = "tensorrt_llm.serve.scripts.benchmark_serving"
KV_SHARE = 0.9
"""Share of the free GPU memory that trtllm-bench gives the KV cache; its own default."""

DATASET, BENCH_REPORT, SERVING_REPORT = "requests.jsonl", "trtllm-bench.json", "benchmark_serving.json"
"""Files that the shown commands name."""

_LIMIT = 1800.0  # seconds for one of them
_LAST = 12  # lines of a program that failed


@dataclass(frozen=True)
class Same:
    """A figure of theirs, and the one of ours that answers the same question.

    Attributes:
        path: of theirs in the JSON file that the program writes.
        ours: key of :data:`helpers.bench.results.metrics.METRICS`; empty for none.
        scale: theirs times this is in our base unit (seconds, tokens a second).
        differs: what is not the same about it, as far as it is known; empty if no source tells.
    """

    path: str
    ours: str
    scale: float = 1.0
    differs: str = ""


_NO_SERVER = "without a server and a network"
_RANDOM = (
    "The prompts of benchmark_serving are random token ids, which the server may count otherwise once they are text: "
    "compare total_input_tokens in its report with the prompt tokens of ours."
)
FIGURES: Mapping[str, Sequence[Same]] = {
    BENCH: (
        Same("performance.system_output_throughput_tok_s", "output_rate", differs=_NO_SERVER),
        Same("performance.system_total_throughput_tok_s", "total_rate", differs=_NO_SERVER),
        Same("performance.request_throughput_req_s", "request_rate", differs=_NO_SERVER),
        Same("streaming_metrics.avg_ttft_ms", "ttft_p50", 1e-3, "a mean, and without a server and a network"),
        Same("streaming_metrics.avg_tpot_ms", "tpot_p50", 1e-3, "a mean"),
        Same("streaming_metrics.token_output_speed_tok_s", "per_user_p50", differs="a mean"),
        Same("performance.output_throughput_per_user_tok_s", ""),
        Same("performance.request_latency_percentiles_ms.p50", "e2e_p50", 1e-3, _NO_SERVER),
        Same("performance.request_latency_percentiles_ms.p99", "e2e_p99", 1e-3, _NO_SERVER),
    ),
    SERVING: (
        Same("output_throughput", "output_rate"),
        Same("total_token_throughput", "total_rate"),
        Same("request_throughput", "request_rate"),
        Same("median_ttft_ms", "ttft_p50", 1e-3, "what its busy event loop adds is in it"),
        Same("p99_ttft_ms", "ttft_p99", 1e-3, "what its busy event loop adds is in it"),
        Same("median_tpot_ms", "tpot_p50", 1e-3),
        Same("p99_tpot_ms", "tpot_p99", 1e-3),
        Same("median_itl_ms", "itl_p50", 1e-3, "gaps between chunks, ours between reads"),
        Same("p99_itl_ms", "itl_p99", 1e-3, "gaps between chunks, ours between reads"),
        Same("median_e2el_ms", "e2e_p50", 1e-3),
    ),
}
"""For each program its figures, those of ours beside them, and what differs."""


def throughput(
    program: str, model: str, folder: str, engine: str, dataset: str, load: Load, report: str, tp_size: int = 1
) -> list[str]:
    """``trtllm-bench … throughput``: an engine under a closed loop, without a server.

    Args:
        program: path or name of ``trtllm-bench``.
        model: the model's name; only a label where ``folder`` is given.
        folder: of the Hugging Face model, for its tokenizer and settings.
        engine: folder of the built engine.
        dataset: file of requests (:func:`dataset`).
        load: a closed loop; ``trtllm-bench`` sends requests at no rate.
        report: file that it writes its figures into.
        tp_size: number of GPUs.

    Raises:
        WorkshopError: the load is an open loop, or ends by time.
    """
    # Without --backend it is the PyTorch backend, which reads no engine; --max_seq_len must be unset for an engine.
    words = [program, "--model", model, "--model_path", folder, "throughput", "--engine_dir", engine]
    words += ["--backend", "tensorrt", "--dataset", dataset, "--num_requests", str(_requests(load))]
    words += ["--concurrency", str(_closed(load, BENCH)), "--warmup", str(load.warming)]
    words += ["--kv_cache_free_gpu_mem_fraction", str(KV_SHARE), "--streaming", "--report_json", report]
    return [*words, "--tp", str(tp_size)] if tp_size > 1 else words


def serving(python: str, model: str, tokenizer: str, url: str, load: Load, folder: str, file: str) -> list[str]:
    """``python -m tensorrt_llm.serve.scripts.benchmark_serving``: a client of a running server.

    Args:
        python: of the release.
        model: the name that requests give.
        tokenizer: folder of the model's tokenizer.
        url: where the API begins, such as ``http://127.0.0.1:8000/v1``.
        load: closed or open; where it has a range of lengths, the longest are sent.
        folder, file: where it writes its figures.

    Raises:
        WorkshopError: the load ends by time, or its rate changes.
    """
    if load.profile is not None:
        raise WorkshopError("This program sends requests at one rate, and the load's changes. Give one rate.")
    parts, chat = urlsplit(url), load.api == CHAT
    path = parts.path.rstrip("/") + ("/chat/completions" if chat else "/completions")
    words = [python, "-m", MODULE, "--backend", "openai-chat" if chat else "openai", "--model", model]
    words += ["--tokenizer", tokenizer, "--host", str(parts.hostname), "--port", str(parts.port or 80)]
    # Without --random-ids the data set "random" downloads ShareGPT's conversations.
    words += ["--endpoint", path, "--dataset-name", "random", "--random-ids"]
    words += ["--random-input-len", str(load.input_tokens.high), "--random-output-len", str(load.output_tokens.high)]
    words += ["--num-prompts", str(_requests(load)), "--ignore-eos", "--seed", str(load.seed)]
    if load.rate is not None:
        words += ["--request-rate", f"{load.rate:g}"]
    else:
        words += ["--max-concurrency", str(load.concurrency)]
    words += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,95,99"]
    return [*words, "--save-result", "--result-dir", folder, "--result-filename", file]


def dataset(load: Load, tokenizer: Path | None = None) -> Iterator[str]:
    """The load's own prompts as ``trtllm-bench`` reads them: one JSON object a line.

    Args:
        load: of completions: ``trtllm-bench`` sends no chat.
        tokenizer: for exact lengths; None makes them roughly as long as asked.

    Raises:
        WorkshopError: the load is a chat, or ends by time.
    """
    from helpers.bench.generator import prompts

    if load.api == CHAT:
        raise WorkshopError("trtllm-bench knows no chat, and this load is one. Give one of completions.")
    source = prompts.Source(load, tokenizer)
    if source.needs_calibration:
        source.calibrate(lambda _: None)
    for number_, prompt in enumerate(source.take(1, _requests(load))):
        yield json.dumps({"task_id": number_, "prompt": prompt.content, "output_tokens": prompt.max_tokens})


def write_dataset(load: Load, tokenizer: str | Path, file: str | Path = DATASET) -> None:
    """Write :func:`dataset` into a file.

    Args:
        load: of completions.
        tokenizer: folder of the model's tokenizer; variables in it, such as ``$WORKSHOP_HOME``, are put in.
        file: that ``trtllm-bench`` reads.

    Raises:
        WorkshopError: as :func:`dataset`.
    """
    lines = [f"{line}\n" for line in dataset(load, Path(os.path.expandvars(tokenizer)))]
    Path(file).write_text("".join(lines), encoding="utf-8")


@dataclass(frozen=True, repr=False)
class Tools(Shown):
    """Both programs for one load: their commands, and which of their figures is which of ours."""

    load: Load
    bench: Sequence[str]
    serving: Sequence[str]

    @property
    def commands(self) -> Mapping[str, str]:
        """Program to its command, ready to paste; empty for one that cannot make this load."""
        from helpers import plan

        words = {BENCH: self.bench, SERVING: self.serving}
        return {name: plan.shell_line(command) if command else "" for name, command in words.items()}

    @property
    def dataset_line(self) -> str:
        """Python that writes the requests for trtllm-bench; empty where it cannot make this load."""
        if not self.bench or self.load.api == CHAT:
            return ""
        folder = self.bench[self.bench.index("--model_path") + 1]
        return f'on_gpu.write_dataset(load, "{folder}", "{DATASET}")  # load: that of the result'

    def tables(self) -> tuple[Table, ...]:
        """For each program: its figures, and ours."""
        return tuple(_same(name) for name in FIGURES)

    @property
    def _none(self) -> str:
        return f"{BENCH} sends requests at no rate, so it cannot make this load ({self.load.kind})."

    def __str__(self) -> str:
        parts = [f"# {DATASET}, in Python\n{self.dataset_line}"] if self.dataset_line else []
        parts += [f"# {name}\n{text or self._none}" for name, text in self.commands.items()]
        return "\n\n".join([*parts, *map(str, self.tables())])

    def _repr_html_(self) -> str:
        shown = [
            boxed(name, preformatted(text) if text else paragraph(self._none)) for name, text in self.commands.items()
        ]
        if self.dataset_line:
            shown.insert(0, boxed(f"{DATASET}, in Python", preformatted(self.dataset_line)))
        return "".join([*shown, *(table._repr_html_() for table in self.tables())])


def tools(load: Load, endpoint: "Endpoint | None" = None, *, gpu: str = "", precision: str | None = None) -> Tools:
    """What one would run where TensorRT-LLM is installed; runs nothing.

    Args:
        load: of our own benchmark.
        endpoint: whose files and address the commands then name, if it is of TensorRT-LLM; otherwise, and for None,
            those that the plan of a GPU names (``python -m helpers plan``).
        gpu: a key of ``data/gpus.toml``; empty for the plan's usual one.
        precision: the engine's; None for the best 8 bits that the GPU has.

    Raises:
        WorkshopError: an unknown GPU or precision, or a load without a number of requests.
    """
    from helpers import plan

    if endpoint is not None and endpoint.engine.toolchain == "tensorrt_llm":
        names = _names_of(endpoint)
    else:
        names = _names_planned(gpu or plan.DEFAULT_GPU, precision)
    bench, python, model, folder, engine, url, tp_size = names
    closed = [] if load.open_loop else throughput(bench, model, folder, engine, DATASET, load, BENCH_REPORT, tp_size)
    return Tools(load, closed, serving(python, Path(engine).name, folder, url, load, ".", SERVING_REPORT))


_Names = tuple[str, str, str, str, str, str, int]  # trtllm-bench, python, model, its folder, engine, url, GPUs


def _names_of(endpoint: "Endpoint") -> _Names:
    """The files and the address of a running endpoint."""
    from helpers import models, releases

    installation, model = releases.require(), models.find(str(endpoint.engine.manifest.options["model"]))
    programs = str(installation.program(BENCH)), str(installation.python)
    folders = model.source, str(model.path), str(endpoint.engine.path)
    return *programs, *folders, endpoint.url, endpoint.engine.tp_size


def _names_planned(gpu: str, precision: str | None) -> _Names:
    """Those that the plan of a GPU names."""
    from helpers import plan
    from helpers.toolchains import tensorrt_llm
    from helpers.toolchains.serving import PORT

    made = {step.kind: step.makes for step in plan.make(gpu, precision).steps}
    programs = f"{made['install']}/bin/{BENCH}", f"{made['install']}/bin/python"
    folders = tensorrt_llm.default_model, made["download"], made["engine"]
    return *programs, *folders, f"http://127.0.0.1:{PORT}/v1", 1


@dataclass(frozen=True, repr=False)
class Report(ShownAsTable):
    """What one of the programs measured.

    Attributes:
        program: ``trtllm-bench`` or ``benchmark_serving``.
        told: the JSON that it wrote.
        result: ours of the same load; None for none.
    """

    program: str
    told: Mapping[str, Any]
    result: "Result | None" = None

    def value(self, same: Same) -> float | None:
        """One of its figures, in our base unit; None if it does not tell."""
        found: Any = self.told
        for name in same.path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        return found * same.scale if isinstance(found, int | float) else None

    def beside(self, result: "Result") -> "Report":
        """The same beside our own figures."""
        return Report(self.program, self.told, result)

    def table(self) -> Table:
        """One row a figure: theirs, ours, and what differs."""
        rows = []
        for same in FIGURES[self.program]:
            metric, value = METRICS.get(same.ours), self.value(same)
            title = metric.heading if metric else same.path.rpartition(".")[2]
            theirs = metric.number(value) if metric else NONE if value is None else number(value)
            ours = self.result.summary.number(same.ours) if self.result and metric else NONE
            rows.append((title, theirs, ours, same.differs or NONE))
        note = f"{self.sentence} {_RANDOM}" if self.program == SERVING else self.sentence
        return Table(("figure", self.program, "ours", "what differs"), rows, f"Measured: {self.program}", note)

    @property
    def sentence(self) -> str:
        """Its output tokens a second against ours."""
        same = FIGURES[self.program][0]
        theirs, ours = self.value(same), self.result.value(same.ours) if self.result else None
        if theirs is None:
            return f"{self.program} did not tell its output tokens a second."
        text = f"{self.program} measured {number(theirs)} output tokens/s"
        if not ours:
            return f"{text}."
        ratio = theirs / ours
        way = "as many as" if abs(ratio - 1) < 0.02 else f"{ratio:.2f} times as many as"
        return f"{text}, {way} our client ({number(ours)})."


def run(program: str, command: Sequence[str], report: Path, tp_size: int = 1, time_limit: float = _LIMIT) -> Report:
    """Run one of the programs under the installed release, and read what it wrote.

    Args:
        program: :data:`BENCH` or :data:`SERVING`.
        command: from :func:`throughput` or :func:`serving`.
        report: the file that the command names; it is started in its folder.
        tp_size: number of GPUs that it uses.
        time_limit: seconds.

    Raises:
        WorkshopError: no release is installed here, it has not the options, or the program failed.
    """
    from helpers import processes, releases

    installation = releases.require()
    installation.require(program, *(word for word in command if word.startswith("--")))
    words, environment = _start(installation, program, command), releases.worker_environment(installation, tp_size)
    try:
        status, said, _ = processes.answer(words, time_limit, environment, report.parent, together=True)
    except subprocess.TimeoutExpired:
        raise WorkshopError(f"{program} did not end within {time_limit:.0f} s. Ask for fewer requests.") from None
    if status or not report.is_file():
        lines = processes.redactor(os.environ)(said).strip().splitlines()[-_LAST:]
        raise WorkshopError(f"{program} failed (exit status {status}). Its last lines:\n" + "\n".join(lines))
    return Report(program, json.loads(report.read_text(encoding="utf-8")))


def here(program: str, endpoint: "Endpoint", result: "Result") -> "Report | Card":
    """Run one of the programs with an endpoint's engine under the load of a result, and set its figures beside ours.

    Args:
        program: :data:`BENCH`, which loads the engine itself and needs the GPU's memory, so with the server stopped; or
            :data:`SERVING`, which needs the server.
        endpoint: that ``result`` is of.
        result: says the load.

    Returns:
        A card that says why, where there is nothing to be run.

    Raises:
        WorkshopError: as :func:`tools`, :func:`dataset` and :func:`run`.
    """
    if endpoint.engine.toolchain != "tensorrt_llm":
        return Card(f"{program}: not run", note=f"{endpoint.title}: that is no engine of TensorRT-LLM.")
    both = tools(result.load, endpoint)
    with tempfile.TemporaryDirectory() as place:  # the commands name files beside where they are started
        if program == SERVING:
            command, report = both.serving, SERVING_REPORT
        else:
            command, report = both.bench, BENCH_REPORT
            model = Path(command[command.index("--model_path") + 1])
            write_dataset(result.load, model, Path(place) / DATASET)
        return run(program, command, Path(place) / report, endpoint.engine.tp_size).beside(result)


def _start(installation: "Installation", program: str, command: Sequence[str]) -> list[str]:
    """The command with the release's own program or Python in front."""
    first = installation.program(BENCH) if program == BENCH else installation.python
    return [str(first), *command[1:]]


def _same(program: str) -> Table:
    """Which of a program's figures is which of ours."""
    rows = [
        (same.path, METRICS[same.ours].title if same.ours else NONE, same.differs or NONE) for same in FIGURES[program]
    ]
    note = _RANDOM if program == SERVING else ""
    return Table(("theirs", "ours", "what differs"), rows, f"Figures of {program} and ours", note, whole=("theirs",))


def _requests(load: Load) -> int:
    """Requests of one run.

    Raises:
        WorkshopError: only the time ends the run.
    """
    if load.measured is None:
        raise WorkshopError("These programs need a number of requests, and this load ends by time. Give requests=…")
    return load.measured


def _closed(load: Load, program: str) -> int:
    """Requests in flight.

    Raises:
        WorkshopError: the load is an open loop.
    """
    if load.concurrency is None:
        raise WorkshopError(f"{program} sends requests at no rate. Give a load with a concurrency.")
    return load.concurrency
