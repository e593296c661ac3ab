"""Is the load generator right, and what does it cost? Measured against a server that logs what it really sent.

``python -m tools.bench_truth [--repeats 5] [--only accuracy,flood,launch] [--quick] [--peers] [--json FILE]``

The truth server (``tools/truth_server.c``) has one core, each client another. Paced, it sends the first token of an
answer 50 ms after the request and one every 10 ms, 100 in all; what the client reports is held against the server's log
of the same requests. In a flood it sends as fast as the client reads: what a token costs. ``--peers`` runs other
load generators against the same server, each in a folder of its own (see ``tools/bench_peers.py``).

Prints tables, each figure with its limit, and ends with status 1 if one is not held. It takes some 10 minutes and wants
a quiet machine with two cores; ``--quick`` takes one, to see that all of it works. Where the machine is not quiet and
the system allows it (root), ``--first`` puts the server and the clients before everything else on their cores.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helpers.bench import rows
from helpers.bench.load import Lengths, Load
from helpers.bench.measured import Run
from helpers.cards import Table
from helpers.errors import WorkshopError
from tools import truth

REPOSITORY = Path(__file__).parents[1]
MACHINE = (sys.executable, "-m", "helpers.bench", "--machine")
COMMAND = (sys.executable, "-m", "helpers", "bench")
PACED = (1, 64, 256, 1000)
FLOOD = 64
_HASTE = 0.001  # seconds that the client's idea of its begin may be before the first request's arrival
_PATIENCE = 600.0  # seconds for one client
_FEW = 100  # requests: the 99th percentile of fewer is nearly the slowest one
_PARTS = ("accuracy", "flood", "launch")
_TALK = 1000  # tokens of an answer in the talk: at this length a token's cost is what the limits are about
_SHORT_NOTE = "{}: of short answers most is the cost of a request, not of a token, so no limit is set for it"


@dataclass(frozen=True)
class Limit:
    """What was promised of a figure.

    Attributes:
        most: the figure may be at most this; None if it is to be large.
        least: at least this.
        unless_bound: True if it may also be missed by a client that says itself that it could not keep up.
    """

    most: float | None = None
    least: float | None = None
    unless_bound: bool = False

    def holds(self, value: float, bound: bool = False) -> bool:
        """True if a figure holds it."""
        if bound and self.unless_bound:
            return True
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)

    def __str__(self) -> str:
        return f"≤ {self.most:g}" if self.most is not None else f"≥ {self.least:,.0f}"


@dataclass(frozen=True)
class Verdict:
    """One figure and whether it holds its limit.

    Attributes:
        what: the figure, in words, with its unit.
        value: median of the repeats.
        limit: what was promised.
        bound: True if the client said that it could not keep up.
        note: what to know about it.
    """

    what: str
    value: float
    limit: Limit
    bound: bool = False
    note: str = ""

    @property
    def passed(self) -> bool:
        """True if it holds."""
        return self.limit.holds(self.value, self.bound)

    @property
    def row(self) -> list[str]:
        """For a table."""
        value = f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:.3f}"
        return [self.what, value, str(self.limit), "pass" if self.passed else "FAIL", self.note]


@dataclass(frozen=True)
class Errors:
    """What one run reported, less what the server's log says of the same requests. Milliseconds.

    Attributes:
        requests: that both know of.
        ramp: seconds over which the client spread its first requests.
        ttft_p50, ttft_p99, itl_p50, itl_p99: differences of the percentiles.
        first_p99, later_p99: of TTFT, the p99 of each slot's first request and of all others.
        each_p99: of TTFT, the p99 of the differences request by request, without their signs.
        bound: why the client says that it could not keep up; empty if it does not.
        late: why the server itself did not keep its schedule; empty if it did.
        cpu: seconds of the client per million tokens, of this run alone.
        truth_p50, truth_p99: the log's own TTFT.
    """

    requests: int
    ramp: float
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float
    first_p99: float
    later_p99: float
    each_p99: float
    bound: str
    late: str
    cpu: float
    truth_p50: float
    truth_p99: float


@dataclass(frozen=True)
class Cost:
    """What one process took. CPU is of the whole of it, from its start to its end.

    Attributes:
        tokens: that the server sent to it, warm-up included.
        rate: tokens a second in the measured run.
        cpu: seconds per million tokens.
        rss: most memory at once, in bytes.
        bound: what the client says about itself.
    """

    tokens: int
    rate: float
    cpu: float
    rss: int
    bound: str = ""


@dataclass(frozen=True)
class Ran:
    """A process that has ended: seconds of CPU, the most memory at once in bytes, and what it wrote."""

    cpu: float
    rss: int
    output: str


def differences(run: Run, log: truth.Log) -> Errors:
    """What a run reported, against the log of its requests alone.

    Raises:
        WorkshopError: they do not speak of the same requests.
    """
    import numpy

    good = [row for row in run.rows if row.ok and row.ttft is not None]
    if len(good) != len(run.rows) or len(good) != len(log.answers):
        raise WorkshopError(
            f"Run {run.number} has {len(run.rows)} requests, {len(good)} of them answered whole, and the server's log "
            f"has {len(log.answers)}. Look at what became of the others before believing any figure."
        )
    good.sort(key=lambda row: row.sent or 0.0)
    answers = sorted(log.answers, key=lambda one: one.arrival)
    told = 1000 * numpy.array([row.ttft for row in good])
    true = 1000 * numpy.array([one.ttft for one in answers])
    first = numpy.array([row.first_wave for row in good])
    gaps = 1000 * log.gaps
    quantiles = [1000 * one for one in run.gaps.quantiles]
    return Errors(
        requests=len(good),
        ramp=run.ramp,
        ttft_p50=_difference(told, true, 50),
        ttft_p99=_difference(told, true, 99),
        itl_p50=quantiles[50] - float(numpy.percentile(gaps, 50)),
        itl_p99=quantiles[99] - float(numpy.percentile(gaps, 99)),
        first_p99=_difference(told[first], true[first], 99),
        later_p99=_difference(told[~first], true[~first], 99),
        each_p99=float(numpy.percentile(abs(told - true), 99)),
        bound=run.health.client_bound,
        late=log.late,
        cpu=1e6 * run.health.cpu_seconds / sum(one.tokens for one in log.answers),
        truth_p50=float(numpy.percentile(true, 50)),
        truth_p99=float(numpy.percentile(true, 99)),
    )


def _difference(told: Any, true: Any, percent: float) -> float:
    import numpy

    return float(numpy.percentile(told, percent) - numpy.percentile(true, percent)) if len(told) else 0.0


def judged(concurrency: int, repeats: Sequence[Errors]) -> list[Verdict]:
    """Medians of several runs of one load against what was promised of it."""
    large = concurrency >= 1000
    limits = {
        "ttft_p50": Limit(most=1.0 if large else 0.5, unless_bound=large),
        "ttft_p99": Limit(most=5.0, unless_bound=large),
    }
    if not large:
        limits |= {"itl_p50": Limit(most=0.1), "itl_p99": Limit(most=2.0)}
    said = [one.bound for one in repeats if one.bound]
    bound = 2 * len(said) > len(repeats)
    note = f"client-bound in {len(said)} of {len(repeats)}: {said[0]}" if said else ""
    return [
        Verdict(
            f"c={concurrency}: {name.replace('_', ' ').upper().replace('P', 'p')} error (ms)"
            + (_few(repeats[0].requests) if name == "ttft_p99" else ""),
            statistics.median(abs(getattr(one, name)) for one in repeats),
            limit,
            bound,
            note,
        )
        for name, limit in limits.items()
    ]


def _few(requests: int) -> str:
    """A mark for a p99 of so few requests that it hangs on one of them; empty where there are enough."""
    return f" (n={requests})" if requests < _FEW else ""


def told_errors(concurrency: int, repeats: Sequence[Errors]) -> list[str]:
    """One row of the table of accuracy: medians with their signs."""
    names = ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99", "first_p99", "later_p99", "each_p99")
    few = _few(repeats[0].requests)
    middle = [
        f"{statistics.median(getattr(one, name) for one in repeats):+.3f}{few if name == 'ttft_p99' else ''}"
        for name in names
    ]
    late = sum(bool(one.late) for one in repeats)
    truth_p99 = statistics.median(one.truth_p99 for one in repeats)
    cpu = statistics.median(one.cpu for one in repeats)
    bound = sum(bool(one.bound) for one in repeats)
    return [
        f"{concurrency}",
        f"{repeats[0].requests}",
        f"{1000 * statistics.median(one.ramp for one in repeats):,.0f}",
        *middle,
        f"{truth_p99:.1f}{few}",
        f"{cpu:.1f}",
        f"{bound}",
        f"{late}",
    ]


# ---- running ----


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started inside runs on one core: a child inherits it before its first instruction."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def finished(
    command: Sequence[str],
    core: int,
    given: str = "",
    environment: dict[str, str] | None = None,
    patience: float = _PATIENCE,
) -> Ran:
    """Run a process to its end on one core.

    Raises:
        WorkshopError: it failed, with its last words; or it took too long, and was ended with all that it had started.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as asked:
        asked.write(given.encode())
        asked.seek(0)
        with on_core(core):
            process = subprocess.Popen(
                command, stdin=asked, stdout=said, stderr=said, cwd=REPOSITORY, env=environment, start_new_session=True
            )
        used = _waited(process, patience)
        said.seek(0)
        output = said.read().decode(errors="replace")
    last = (output.strip().splitlines() or ["it said nothing"])[-1]
    if used is None:
        raise WorkshopError(f"{' '.join(command[1:5])} did not end within {patience:g} s: {last}")
    if process.returncode:
        raise WorkshopError(f"{' '.join(command[1:5])} ended with status {process.returncode}: {last}")
    return Ran(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, output)


def _waited(process: "subprocess.Popen[bytes]", patience: float) -> "resource.struct_rusage | None":
    """What a process took; None where it took too long. Nothing that it has started is left in either case."""
    late = threading.Event()

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def give_up() -> None:
        late.set()
        end()

    # A thread that sleeps, and no loop of looks: that would round the times of short processes.
    timer = threading.Timer(patience, give_up)
    timer.start()
    try:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        timer.cancel()
        end()
    return None if late.is_set() else used


def asked(server: truth.Server, load: Load, out: Path, model: str | None = "truth") -> str:
    """What the load generator is told."""
    told = {"url": server.url, "model": model, "load": load.told(), "out": str(out), "tokenizer": None}
    return json.dumps({**told, "key_variable": "OPENAI_API_KEY", "insecure": False})


def measured(server: truth.Server, load: Load, core: int) -> tuple[Ran, list[Run]]:
    """Run the load generator as the notebooks do; gives its process and its runs, the warm-up first.

    Raises:
        WorkshopError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="workshop-truth-") as folder:
        ran = finished(MACHINE, core, asked(server, load, Path(folder)))
        last = json.loads(ran.output.strip().splitlines()[-1])
        if "error" in last:
            raise WorkshopError(last["error"])
        told = json.loads((Path(folder) / "measured.json").read_text(encoding="utf-8"))
        all_rows = rows.read(Path(folder) / "requests.csv")
    runs = [Run.from_told(one, [row for row in all_rows if row.run == one["number"]]) for one in told["runs"]]
    return ran, runs


def parts(log: truth.Log, runs: Sequence[Run]) -> list[truth.Log]:
    """The log of each run: a run's requests arrive after its begin and before the next run's."""
    begins = [round((run.began - _HASTE) * 1e9) for run in runs]
    ends = [*begins[1:], None]
    return [log.between(begin, end) for begin, end in zip(begins, ends, strict=True)]


def paced(concurrency: int, repeats: int, cores: Sequence[int], requests: int | None = None) -> list[Errors]:
    """Accuracy at one concurrency, in the load generator's default configuration.

    Raises:
        WorkshopError: it failed, or its rows are not those of the log.
    """
    load = Load(concurrency=concurrency, requests=requests, runs=repeats, output_tokens=Lengths(100, 100))
    with truth.start(cpu=cores[0]) as server:
        _, runs = measured(server, load, cores[1])
        logs = parts(server.read(), runs)
    return [differences(run, log) for run, log in zip(runs, logs, strict=True) if run.number]


def flood(output: int, tokens: int, cores: Sequence[int]) -> Cost:
    """What tokens cost, at concurrency 64.

    Raises:
        WorkshopError: it failed.
    """
    load = Load(concurrency=FLOOD, requests=tokens // output, output_tokens=Lengths(output, output))
    with truth.start(flood=True, cpu=cores[0]) as server:
        ran, runs = measured(server, load, cores[1])
        sent = sum(one.tokens for one in server.read().answers)
    run = runs[-1]
    if failed := [row for row in run.rows if not row.ok]:
        raise WorkshopError(f"{len(failed)} requests of the flood failed; the first: {failed[0].message}")
    begin = min(row.sent for row in run.rows if row.sent is not None)
    end = max(row.last_token for row in run.rows if row.last_token is not None)
    counted = sum(row.tokens or 0 for row in run.rows)
    return Cost(sent, counted / (end - begin), 1e6 * ran.cpu / sent, ran.rss, run.health.client_bound)


def first_request(command: Callable[[truth.Server, Path], tuple[Sequence[str], str]], cores: Sequence[int]) -> float:
    """Seconds from the launch of a process to the arrival of its first request.

    Args:
        command: makes the command and its input, for a server and a folder.
        cores: of the server and the process.
    """
    with truth.start(cpu=cores[0]) as server, tempfile.TemporaryDirectory(prefix="workshop-truth-") as folder:
        told, given = command(server, Path(folder))
        launched = time.time_ns()
        finished(told, cores[1], given)
        return (server.read().answers[0].arrival - launched) * 1e-9


def by_notebook(server: truth.Server, folder: Path) -> tuple[Sequence[str], str]:
    """One request, as a notebook asks for it."""
    return MACHINE, asked(server, Load(requests=1, warmup=0, output_tokens=Lengths(1, 1)), folder, None)


def by_command(server: truth.Server, folder: Path) -> tuple[Sequence[str], str]:
    """One request, as a person asks for it."""
    told = [server.url, "--requests", "1", "--warmup", "0", "--output", "1", "--out", str(folder)]
    return [*COMMAND, *told], ""


def taken(command: Sequence[str], core: int) -> float:
    """Seconds that a process takes from launch to end."""
    began = time.perf_counter()
    finished(command, core)
    return time.perf_counter() - began


# ---- the whole ----


@dataclass
class Report:
    """What was measured, for people and as JSON.

    Attributes:
        verdicts: in the order measured.
        told: raw figures by name.
    """

    verdicts: list[Verdict]
    told: dict[str, Any]

    def add(self, verdicts: Sequence[Verdict]) -> None:
        """Take verdicts in."""
        self.verdicts.extend(verdicts)

    def write(self, file: Path | None) -> None:
        """Write all that there is so far; nothing where no file is given.

        Raises:
            WorkshopError: it cannot be written.
        """
        if file is None:
            return
        told = {**self.told, "limits": [{**asdict(one), "passed": one.passed} for one in self.verdicts]}
        try:
            file.write_text(json.dumps(told, indent=1), encoding="utf-8")
        except OSError as error:
            raise WorkshopError(f"{file} cannot be written: {error.strerror}. Name another with --json.") from None

    def table(self) -> Table:
        """Each figure against its limit."""
        failed = sum(not one.passed for one in self.verdicts)
        note = f"{failed} of {len(self.verdicts)} limits are not held." if failed else "Every limit is held."
        head = ("figure", "measured", "limit", "", "note")
        return Table(head, [one.row for one in self.verdicts], "Against the limits, medians", note)


def accuracy(report: Report, repeats: int, cores: Sequence[int], quick: bool) -> None:
    """Measure and print accuracy."""
    told = []
    for concurrency in PACED:
        found = paced(concurrency, repeats, cores, 8 if quick and concurrency == 1 else None)
        report.told[f"paced c={concurrency}"] = [asdict(one) for one in found]
        report.add(judged(concurrency, found))
        told.append(told_errors(concurrency, found))
        for late in [one.late for one in found if one.late]:
            print(f"c={concurrency}: {late}", file=sys.stderr)
    head = [
        "c",
        "requests a run",
        "starts over ms",
        "TTFT p50",
        "TTFT p99",
        "ITL p50",
        "ITL p99",
        "first wave p99",
        "later p99",
    ]
    head += ["each request p99", "log's TTFT p99", "CPU s per M tokens", "client-bound", "server late"]
    caption = (
        f"measured: error in ms (reported less the log), medians of {repeats}; starts spread over one request's "
        "length. The last two columns: in how many runs. (n=…): of so few requests"
    )
    print(Table(head, told, caption), flush=True)


def cost(report: Report, repeats: int, cores: Sequence[int], quick: bool) -> None:
    """Measure and print the flood."""
    told = []
    for output in (100, _TALK):
        found = [flood(output, 1_000_000 if quick else 5_000_000, cores) for _ in range(repeats)]
        report.told[f"flood {output}"] = [asdict(one) for one in found]
        rate, cpu = (statistics.median(getattr(one, name) for one in found) for name in ("rate", "cpu"))
        rss = statistics.median(one.rss for one in found) / 1e6
        told.append([f"{output:,}", f"{found[0].tokens:,}", f"{rate:,.0f}", f"{cpu:.3f}", f"{rss:.0f}"])
        report.add(capacity(output, rate, cpu))
    large = flood(_TALK, 2_000_000 if quick else 10_000_000, cores)
    report.told["flood large"] = asdict(large)
    report.add([Verdict(f"{large.tokens:,} tokens: most memory (MB)", large.rss / 1e6, Limit(most=500))])
    head = ("tokens a request", "tokens", "tokens/s on one core", "CPU s per million, all of the process", "RSS MB")
    print(
        Table(head, told, f"measured: flood, c={FLOOD}, medians of {repeats}", _SHORT_NOTE.format(told[0][0])),
        flush=True,
    )


def capacity(output: int, rate: float, cpu: float) -> list[Verdict]:
    """What was promised of the flood, which is about tokens; none for answers so short that requests cost more.

    Args:
        output: tokens of an answer.
        rate: tokens a second.
        cpu: seconds per million tokens.
    """
    if output < _TALK:
        return []
    return [
        Verdict(f"flood, {output:,} tokens a request: tokens/s", rate, Limit(least=2e6)),
        Verdict(f"flood, {output:,} tokens a request: CPU s per million", cpu, Limit(most=0.6)),
    ]


def launch(report: Report, cores: Sequence[int], quick: bool) -> None:
    """Measure and print how long it takes to begin."""
    n = 3 if quick else 9
    for what, command in (("--machine", by_notebook), ("the command", by_command)):
        seconds = statistics.median(first_request(command, cores) for _ in range(n))
        report.told[f"launch {what}"] = seconds
        report.add([Verdict(f"launch to first request, {what} (s)", seconds, Limit(most=0.3), note=f"median of {n}")])
    seconds = statistics.median(taken([*COMMAND, "--help"], cores[1]) for _ in range(n))
    report.told["help"] = seconds
    report.add([Verdict("--help (s)", seconds, Limit(most=0.15), note=f"median of {n}")])


def go_first() -> None:
    """This process and all that it starts come before every ordinary process (``SCHED_RR``).

    Raises:
        WorkshopError: the system does not allow it.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        raise WorkshopError(
            "Only root may put a process first. Leave --first out, and let the machine be quiet."
        ) from None


def _cores() -> tuple[int, int]:
    """A core for the server and one for the client.

    Raises:
        WorkshopError: there is only one.
    """
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        raise WorkshopError("This needs Linux and two cores: one for the server and one for the client.")
    first, second, *_ = sorted(os.sched_getaffinity(0))
    return first, second


def main(given: Sequence[str] | None = None) -> int:
    """Measure what is asked for; 1 if a limit is not held."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench_truth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=_at_least_one, default=5)
    parser.add_argument("--quick", action="store_true", help="one repeat of little, to see that all of it works")
    parser.add_argument("--only", type=_parts, default=_PARTS, metavar="PARTS", help=f"some of {','.join(_PARTS)}")
    parser.add_argument("--peers", action="store_true", help="also run other load generators")
    parser.add_argument("--first", action="store_true", help="before all other processes (root)")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args(given)
    repeats = 1 if options.quick else options.repeats
    try:
        cores = _cores()
        if options.first:
            go_first()
        report = Report([], {"machine": platform.platform(), "processor": _processor(), "repeats": repeats})
        report.told["before all other processes"] = options.first
        report.told["load average at the begin"] = os.getloadavg()
        report.write(options.json)  # that it can be is found out before the first part
        _measure(report, options, repeats, cores)
    except WorkshopError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0 if all(one.passed for one in report.verdicts) else 1


def _measure(report: Report, options: argparse.Namespace, repeats: int, cores: Sequence[int]) -> None:
    """Each part that is asked for; what it brought is written at once, for a later one may fail."""
    if "accuracy" in options.only:
        accuracy(report, repeats, cores, options.quick)
        report.write(options.json)
    if "flood" in options.only:
        cost(report, repeats, cores, options.quick)
        report.write(options.json)
    if "launch" in options.only:
        launch(report, cores, options.quick)
        report.write(options.json)
    print(report.table())
    if options.peers:
        from tools import bench_peers

        report.told["peers"] = bench_peers.compare(cores, options.quick)
        report.write(options.json)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    if unknown := [part for part in parts if part not in _PARTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no part; there are {', '.join(_PARTS)}")
    return parts


def _processor() -> str:
    """What the machine's processor calls itself."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    raise SystemExit(main())
