"""What every toolchain offers, and the artifact they all make: the engine.

A toolchain does what follows after convert and quantize, which are the same everywhere: build and generate (and serve,
once notebook 07 is there). The notebooks call these names and never ask which toolchain it is.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from helpers import checkpoint, processes, stage, workspace
from helpers.cards import Card, Picture, Shown, Table, bytes_text
from helpers.errors import WorkshopError
from helpers.models import Model
from helpers.progress import Bar, Live
from helpers.workspace import Artifact

# What a person may ask a toolchain for, in the order of notebook 04's tables; each toolchain offers some of them.
TITLES = {
    "fp16": "FP16",
    "fp8": "FP8 (E4M3)",
    "int8": "INT8",
    "int8_wo": "INT8 weight-only",
    "int4_awq": "INT4 AWQ",
}
CHECKPOINTS = {"fp16": "fp16", "fp8": "fp8", "int8": "int8_sq", "int8_wo": "int8_wo", "int4_awq": "int4_awq"}
"""An engine's precision to that of its checkpoint."""


def kv_of(precision: str) -> str | None:
    """What the KV cache is kept in: FP8 beside FP8 weights, else 16 bits.

    An FP8 cache beside other weights would switch off attention in FP8, and with it the reuse of KV blocks.
    """
    return "fp8" if precision == "fp8" else None


def quantized(model: Model, precision: str, silent: bool = False) -> checkpoint.Checkpoint:
    """The TensorRT-LLM checkpoint that an engine of this precision is built from, KV cache included.

    Args:
        model: from :func:`helpers.models.find`.
        precision: the engine's.
        silent: show nothing where it exists.

    Raises:
        WorkshopError: see :func:`helpers.checkpoint.make`.
    """
    return checkpoint.make(model, CHECKPOINTS[precision], kv=kv_of(precision), silent=silent)


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
    def title(self) -> str:
        """The precision, as a person writes it."""
        return TITLES[self.precision]

    @cached_property
    def graph(self) -> dict[str, Any]:
        """Operation counts before and after compilation: ``{"before": {type: count}, "after": {…}}``."""
        return dict(json.loads((self.path / "operations.json").read_text()))

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes that its weights take: counted constant by constant where the build told, else the compiled form's."""
        counted = (self.path / "operations.json").exists()
        return int(self.graph["weight_bytes"]) if counted else compiled_bytes(self)


@dataclass(frozen=True, repr=False)
class Generation(Shown):
    """What an engine wrote for one prompt, and how fast.

    Attributes:
        prompt: what it was given.
        text: the continuation, without the prompt.
        tokens: number of tokens made.
        load_seconds: from starting the engine's process to being ready.
        first_token_seconds: from sending the prompt to the first token (TTFT).
        seconds: from sending the prompt to the last token.
        engine: its precision, as a person writes it.
        ended: by what.
        details: label to value: the command and the log's path.
    """

    prompt: str
    text: str
    tokens: int
    load_seconds: float
    first_token_seconds: float
    seconds: float
    engine: str = ""
    ended: str = ""
    details: tuple[tuple[str, str], ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first, per second after the first (the inverse of TPOT); 0 if there is only one."""
        rest = self.seconds - self.first_token_seconds
        return (self.tokens - 1) / rest if self.tokens > 1 and rest > 0 else 0.0

    def figures(self) -> str:
        """One line: how many tokens, how fast, why it ended."""
        return (
            f"{self.tokens} tokens, first after {self.first_token_seconds * 1000:.0f} ms, "
            f"then {self.tokens_per_second:,.0f} tokens/s; engine ready after {self.load_seconds:.2f} s; "
            f"ended by {self.ended}"
        )

    def __str__(self) -> str:
        return f"{self.prompt}{self.text}\n({self.figures()})"

    def _repr_html_(self) -> str:
        import html

        return (
            f"<blockquote style='margin:0.4em 0'><strong>{html.escape(self.prompt)}</strong>"
            f"{html.escape(self.text)}</blockquote><p><small>{html.escape(self.figures())}</small></p>"
            "<details><summary><small>command and log</small></summary><small>"
            + "".join(f"{html.escape(k)}: <code>{html.escape(v)}</code><br>" for k, v in self.details)
            + "</small></details>"
        )


@dataclass(frozen=True, repr=False)
class Choices(Shown):
    """Which precisions an engine can have on a machine, and why not the others.

    Attributes:
        machine: what the answer is for.
        reasons: precision (a key of :data:`TITLES`) to what is said of it, in the order of the tables.
        offered: those that can be built.
    """

    machine: str
    reasons: Mapping[str, str]
    offered: tuple[str, ...]

    @property
    def eight_bit(self) -> str:
        """The best precision of 8 bits: FP8 where there is one."""
        return next(p for p in ("fp8", "int8", "int8_wo") if p in self.offered)

    @property
    def compared(self) -> tuple[str, ...]:
        """What notebook 04 compares: FP16 and the kinds of 8 bits for weights and activations alike."""
        return tuple(p for p in ("fp16", "fp8", "int8") if p in self.offered)

    def require(self, precision: str) -> None:
        """Refuse a precision that cannot be built.

        Raises:
            WorkshopError: why, and what to take instead; or the ones there are, for one that does not exist.
        """
        if precision not in TITLES:
            there = ", ".join(map(repr, self.offered))
            raise WorkshopError(f"There is no engine precision {precision!r}. Choose one of {there}.")
        if precision not in self.offered:
            raise WorkshopError(
                f"{TITLES[precision]} cannot be built for {self.machine}: {self.reasons[precision]} "
                f"Take {self.eight_bit!r} instead, the best precision of 8 bits here."
            )

    def table(self) -> Table:
        """One line a precision."""
        rows = [[TITLES[p], "yes" if p in self.offered else "no", why] for p, why in self.reasons.items()]
        note = f"The best 8 bits here: {TITLES[self.eight_bit]} ({self.eight_bit!r})."
        return Table(["precision", "builds", "why"], rows, f"Engines for {self.machine}", note)

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


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

    def build(self, model: Model, precision: str = "fp16") -> Engine:
        """Compile a model for this machine, as a stage."""
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


def rebuild_command(engine: Engine) -> str:
    """The command that builds an engine again, to paste into a terminal."""
    command = ["python", "-m", "helpers", "build", engine.manifest.options["model"], "--precision", engine.precision]
    return workspace.shell_text(command)


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
    facts["runs here"] = "no" if refused else "yes"
    return Card(f"{engine.title} engine in {engine.path.name}", facts, note)


def converse(
    engine: Engine,
    command: Sequence[str],
    prompt: str,
    max_tokens: int,
    environment: Mapping[str, str] | None = None,
    time_limit: float | None = None,
) -> Generation:
    """Run a worker that generates, show its text as it comes, and return what it wrote.

    Args:
        engine: what the worker loads.
        command: prints JSON objects, one a line: ``piece`` (of text) as they come, at the end ``tokens``, ``finished``
            and its times. Other lines are a library's, and go to the log.
        prompt, max_tokens: what it was asked for.
        environment: all of its variables; None for this process's own.
        time_limit: seconds after which it is ended, or None.

    Raises:
        WorkshopError: its process failed or took too long.
    """
    log = stage.run_directory(f"generate-{engine.path.name}") / "log.txt"
    details = (("command", workspace.shell_text(list(command))), ("log", str(log)))
    live, text, last = Live(), "", {}
    live.show(Bar("Loading the engine", 0.0, details=details))
    with log.open("wb") as told:
        worker = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=told,
            env=None if environment is None else dict(environment),
            start_new_session=True,
            preexec_fn=processes.die_with_parent,
        )
        assert worker.stdout is not None
        guard = processes.Guard(worker, time_limit)
        try:
            for line in worker.stdout:
                if not line.startswith(b"{"):
                    told.write(line)
                    continue
                last = json.loads(line)
                text += last.get("piece", "")
                live.show_text(prompt, text)
            worker.wait()
        finally:
            timed_out = guard.stop()
            if worker.poll() is None:
                processes.end_all(worker)
    told_text = processes.redactor(os.environ)(log.read_text(errors="replace"))
    workspace.write_whole(log, told_text)
    if worker.returncode != 0 or "tokens" not in last:
        ending = f"took longer than {time_limit:g} s" if timed_out else f"ended with status {worker.returncode}"
        raise WorkshopError(
            f"The engine's process {ending}.\n{stage.diagnosis(told_text)}The whole log: {log}\n"
            "Run the cell again; if it fails again, build the engine again."
        )
    made = Generation(
        prompt=prompt,
        text=text,
        tokens=last["tokens"],
        load_seconds=last["load_seconds"],
        first_token_seconds=last["first_token_seconds"],
        seconds=last["seconds"],
        engine=engine.title,
        ended="its end-of-sequence token" if last["finished"] else f"the limit of {max_tokens} tokens",
        details=details,
    )
    live.finish(made)
    return made


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
    """Bytes of the compiled form that is loaded at start: OpenVINO's blob, or TensorRT-LLM's engine of every rank."""
    files = [*Path(engine.path).rglob("*.blob"), *Path(engine.path).glob("rank*.engine")]
    return sum(file.stat().st_size for file in files)


def side_by_side(*written: Generation) -> Table:
    """What several engines wrote for the same prompt, and where the texts part."""
    first, rows = written[0].text, [[written[0].engine, written[0].text.strip(), "–"]]
    for made in written[1:]:
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, made.text, strict=False)))
        same = made.text == first
        rows.append([made.engine, made.text.strip(), "the same text" if same else f"parts after {shared} characters"])
    return Table(["engine", "text", f"against {written[0].engine}"], rows, caption=f"Prompt: {written[0].prompt}")
