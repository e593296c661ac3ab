"""``python -m helpers bench URL``: the load generator from a terminal (notebook 08)."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.bench import profile
from helpers.bench.load import CHAT, COMPLETIONS, CONSTANT, POISSON, Lengths, Load
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from helpers.bench.measured import Progress, Run
    from helpers.bench.results.result import Result

_SPARSE = 10.0  # seconds between two lines of progress where nobody watches a terminal
_STOPPED = 130


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command and its options."""
    bench = commands.add_parser("bench", help="measure a server that speaks the OpenAI API (notebook 08)")
    bench.add_argument("url", help="such as http://127.0.0.1:8000/v1")
    bench.add_argument("--model", default="", help="as the server calls it (default: its first)")
    load = bench.add_argument_group("what is sent")
    load.add_argument("--concurrency", metavar="N[,N…]", help="requests in flight; several are a sweep (default: 1)")
    load.add_argument("--rate", metavar="R[,R…]", help="requests a second, whatever the server does, in their place")
    load.add_argument(
        "--profile",
        metavar="S:R,S:R…",
        help="a rate that changes, seconds and requests/s: 0:0.5,20:4,20:12,30:12",
    )
    load.add_argument("--arrivals", choices=(POISSON, CONSTANT), default=POISSON, help="of a rate or profile")
    load.add_argument("--requests", type=int, help="measured in a run (default: 4 for each in flight, 32 at least)")
    load.add_argument("--seconds", type=float, help="send none later than this after a run began")
    load.add_argument("--runs", type=int, default=1, help="several tell noise from a difference (default: 1)")
    load.add_argument(
        "--warmup",
        type=int,
        help="requests before them (default: one for each in flight, at most 64; none with --profile)",
    )
    load.add_argument("--ramp", type=float, help="seconds over which the first are spread (default: a warm-up's, or 0)")
    load.add_argument("--input", default="128", metavar="TOKENS", help="of a prompt: 128, or 100-200")
    load.add_argument("--output", default="128", metavar="TOKENS", help="of an answer: 128, or 100-200")
    load.add_argument("--prompts", metavar="FILE", help='one JSON object a line, {"prompt": …} or {"messages": …}')
    load.add_argument("--tokenizer", metavar="FOLDER", help="of the model: makes prompts exactly as long as asked")
    load.add_argument("--chat", action="store_true", help="ask for chat completions")
    load.add_argument("--let-end", action="store_true", help="let answers end where the model ends them")
    load.add_argument("--seed", type=int, default=0, help="equal seeds send equal requests (default: 0)")
    load.add_argument("--extra", metavar="JSON", help='more fields of each request, such as {"temperature": 0.8}')
    way = bench.add_argument_group("how")
    way.add_argument("--timeout", type=float, default=600.0, help="seconds for one answer (default: 600)")
    way.add_argument("--key-variable", default="OPENAI_API_KEY", metavar="NAME", help="environment variable with a key")
    way.add_argument("--insecure", action="store_true", help="take any certificate")
    way.add_argument("--out", metavar="FOLDER", help="write results there (default: into the workspace)")


def main(asked: argparse.Namespace) -> int:
    """Measure each load, write it down and print it; 130 if it was stopped by hand.

    Raises:
        WorkshopError: options that make no load, or nothing to measure. What was measured before it is printed.
        KeyboardInterrupt: stopped before anything was measured.
    """
    results: list[Result] = []
    problem: WorkshopError | KeyboardInterrupt | None = None
    loads = _loads(asked)
    for number, load in enumerate(loads, 1):
        title = f"{load.kind} ({number} of {len(loads)})" if len(loads) > 1 else load.kind
        try:
            results.append(_measured(asked, load, title))
        except (WorkshopError, KeyboardInterrupt) as error:
            if not results:
                raise
            problem = error
            break
        if len(loads) > 1:
            print(f"{results[-1].sentence}\n", file=sys.stderr)
        if results[-1].interrupted:
            break
    _print(results)
    if isinstance(problem, WorkshopError):
        raise WorkshopError(f"{problem}\n{_kept(results)}") from None
    return _STOPPED if problem or results[-1].interrupted else 0


def _print(results: "list[Result]") -> None:
    from helpers.bench.results.result import Sweep

    print(results[0] if len(results) == 1 else Sweep(results))
    print(results[0].definitions())


def _kept(results: "list[Result]") -> str:
    """Where the results of a sweep are that went no further."""
    before = "load before it is" if len(results) == 1 else f"{len(results)} loads before it are"
    return f"The {before} kept in {results[0].path.parent}."


def _measured(asked: argparse.Namespace, load: Load, title: str) -> "Result":
    """One load, from its first request to its files."""
    from helpers.bench.generator.folder import results_into
    from helpers.bench.generator.measuring import measure
    from helpers.bench.generator.target import Target

    target = Target.of(asked.url, asked.model, asked.key_variable, asked.insecure)
    out = _path(asked.out)
    with tempfile.TemporaryDirectory() as place:
        folder = (out or Path(place)) / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{load.short}"
        with results_into(folder), results_into(out or _in_workspace()):
            screen = _Screen(title)
            measure(target, load, _path(asked.tokenizer), screen.watch, screen.run_ended, folder)
            from helpers.bench.results import result  # only now: the first request does not wait for what shows it

            return result.describe(folder) if out else result.publish(folder, command=_command(sys.argv[1:]))


def _in_workspace() -> Path:
    from helpers import workspace

    return workspace.home() / "benchmarks"


def _command(words: list[str]) -> list[str]:
    """What was typed; ``python -m helpers.bench`` has no word for the command."""
    return ["python", "-m", "helpers", *([] if words[:1] == ["bench"] else ["bench"]), *words]


def _loads(asked: argparse.Namespace) -> list[Load]:
    """One load for each concurrency or rate, or one with a profile."""
    if sum(map(bool, (asked.concurrency, asked.rate, asked.profile))) > 1:
        raise WorkshopError(
            "A load has a concurrency, a rate or a profile. Give one of --concurrency, --rate and --profile."
        )
    common: dict[str, Any] = {
        "arrivals": asked.arrivals,
        "requests": asked.requests,
        "seconds": asked.seconds,
        "runs": asked.runs,
        "warmup": asked.warmup,
        "ramp": asked.ramp,
        "input_tokens": Lengths.of(asked.input),
        "output_tokens": Lengths.of(asked.output),
        "ignore_eos": not asked.let_end,
        "prompts": asked.prompts,
        "api": CHAT if asked.chat else COMPLETIONS,
        "timeout": asked.timeout,
        "seed": asked.seed,
        "extra": {"temperature": 0, **_extra(asked.extra)},
    }
    if asked.profile:
        return [Load(profile=profile.parsed(asked.profile), **common)]
    if asked.rate:
        return [Load(concurrency=None, rate=rate, **common) for rate in _numbers("--rate", asked.rate, float)]
    return [Load(concurrency=n, **common) for n in _numbers("--concurrency", asked.concurrency or "1", int)]


def _numbers(option: str, text: str, kind: type[int] | type[float]) -> list[Any]:
    try:
        return [kind(one) for one in text.split(",")]
    except ValueError:
        raise WorkshopError(f"{option} is {text!r}. Give a number, or several with commas: 1,32,64.") from None


def _extra(text: str | None) -> dict[str, Any]:
    try:
        extra = json.loads(text or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise WorkshopError(f"--extra is {text!r}, which is no JSON object. Give one such as " + "'{\"top_p\": 0.9}'.")
    return extra


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


class _Screen:
    """Progress on standard error: one line that is rewritten, or now and then one in a log."""

    def __init__(self, title: str) -> None:
        self._title, self._terminal, self._shown = title, sys.stderr.isatty(), 0.0
        print(f"{title}:", file=sys.stderr)

    def watch(self, told: "Progress") -> None:
        """A moment of it."""
        now = time.monotonic()
        if self._terminal or now - self._shown >= _SPARSE:
            self._shown = now
            end = "\x1b[K\r" if self._terminal else "\n"
            print(f"  {line(told)}", end=end, file=sys.stderr, flush=True)

    def run_ended(self, run: "Run") -> None:
        """A run is done."""
        name = f"run {run.number}" if run.number else "warm-up"
        failed = sum(not row.ok for row in run.rows)
        clear = "\x1b[K" if self._terminal else ""
        said = f"{len(run.rows):,} requests, {failed:,} failed, {run.health.seconds:.1f} s"
        print(f"  {name}: {said}{clear}", file=sys.stderr)


def line(told: "Progress") -> str:
    """A moment of a run in one line."""
    name = f"run {told.run}" if told.run else "warm-up"
    done = f"{told.done:,} of {told.total:,}" if told.total else f"{told.done:,}"
    ttft = "" if told.ttft is None else f", TTFT {1000 * told.ttft:.1f} ms"
    failed = f", {told.failed:,} failed" if told.failed else ""
    rate = f"{told.tokens_per_second:,.0f} tokens/s{ttft}"
    return f"{name}: {done} answered in {told.seconds:.0f} s, {told.in_flight:,} in flight, {rate}{failed}"
