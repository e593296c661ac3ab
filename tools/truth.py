"""The truth server from Python: compile it, start it, and read its own log of what it sent and when.

A load generator's figures are right if they agree with this log. The server is in C (``tools/truth_server.c``), since
Python cannot keep time for more than some 64 streams.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import WorkshopError

SOURCE = Path(__file__).with_name("truth_server.c")
TTFT, ITL, TOKENS = 0.050, 0.010, 100
"""What it does if not told otherwise: seconds, seconds, tokens of an answer."""

LATE_P50, LATE_P99 = 0.0001, 0.001
"""Seconds behind its schedule at the 50th and 99th percentile, above which the server itself was late."""

_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra")
_MAGIC = b"TRUTH 1\0"
_KERNEL_STAMP, _CUT, _BLOCKED = 1, 2, 4
_HEADER = [("magic", "S8"), ("ttft", "<i8"), ("itl", "<i8"), ("flood", "<i4"), ("record_size", "<i4")]
_RECORD = [
    *[(name, "<i8") for name in ("number", "asked_id", "arrival", "finished")],
    *[(name, "<i4") for name in ("tokens", "sent", "stamps", "connection", "flags", "bytes")],
]
_PATIENCE = 10.0  # seconds for its end


@dataclass(frozen=True)
class Answer:
    """What the server did for one request. Times are nanoseconds since 1970.

    Attributes:
        number: place among all requests, from 0, in the order in which they were taken.
        asked_id: the request's ``X-Request-Id`` as a number; -1 without one.
        arrival: when the kernel received the request's last byte.
        finished: when the answer's last byte was written.
        tokens: that were asked for.
        stamps: just before the ``write()`` of each token; in a flood only of the first and the last.
        connection: which one, from 0.
        kernel: True if ``arrival`` is the kernel's own stamp and not a look at the clock afterwards.
        cut: True if the client hung up before the end.
        blocked: True if the client did not read in time, so that a token had to wait.
    """

    number: int
    asked_id: int
    arrival: int
    finished: int
    tokens: int
    stamps: Any
    connection: int
    kernel: bool
    cut: bool
    blocked: bool

    @property
    def ttft(self) -> float:
        """From the request's arrival to the write of its first token, in seconds."""
        return float(self.stamps[0] - self.arrival) * 1e-9


@dataclass(frozen=True)
class Log:
    """All that a server did.

    Attributes:
        ttft, itl: its schedule, in seconds.
        flood: True if it sent as fast as it could, without a schedule.
        answers: in the order in which their requests came.
    """

    ttft: float
    itl: float
    flood: bool
    answers: Sequence[Answer]

    def between(self, begin: int, end: int | None = None) -> "Log":
        """The answers to requests that arrived from ``begin`` until before ``end``, in nanoseconds since 1970."""
        kept = [one for one in self.answers if one.arrival >= begin and (end is None or one.arrival < end)]
        return Log(self.ttft, self.itl, self.flood, kept)

    @property
    def ttfts(self) -> Any:
        """Array of the answers' times to first token, in seconds."""
        import numpy

        return numpy.array([one.ttft for one in self.answers if len(one.stamps)])

    @property
    def gaps(self) -> Any:
        """Array of the times between tokens, in seconds; empty in a flood."""
        import numpy

        if self.flood or not self.answers:
            return numpy.zeros(0)
        return numpy.concatenate([numpy.diff(one.stamps) for one in self.answers]) * 1e-9

    @property
    def lateness(self) -> Any:
        """Array of seconds by which each token left after its scheduled time; empty in a flood."""
        import numpy

        if self.flood or not self.answers:
            return numpy.zeros(0)
        ttft, itl = round(self.ttft * 1e9), round(self.itl * 1e9)
        late = [one.stamps - (one.arrival + ttft) - itl * numpy.arange(len(one.stamps)) for one in self.answers]
        return numpy.concatenate(late) * 1e-9

    @property
    def late(self) -> str:
        """How late the server itself was, where that is more than it should be; empty where it kept its schedule.

        What a client is held against is the log, which stays true; but the load was then not the one that was meant.
        """
        import numpy

        lateness = self.lateness
        if not len(lateness):
            return ""
        p50, p99 = numpy.percentile(lateness, [50, 99])
        if p50 <= LATE_P50 and p99 <= LATE_P99:
            return ""
        return f"the server itself was late: {1000 * p50:.2f} ms (p50), {1000 * p99:.2f} ms (p99)"


@dataclass(frozen=True)
class Server:
    """A truth server that runs.

    Attributes:
        url: of its API, as clients are given it.
        log: the file that it writes; complete whenever no request is in flight.
        process: its process.
    """

    url: str
    log: Path
    process: "subprocess.Popen[str]"

    def read(self) -> Log:
        """What it has done so far; complete if nothing is in flight."""
        return read_log(self.log)


def compiled(source: Path = SOURCE) -> Path:
    """The server's program; compiled anew only if its source has changed.

    Raises:
        WorkshopError: no C compiler, or it refuses the source.
    """
    name = f"truth_server-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    folder = _folder()
    program = folder / name
    if program.exists():
        return program
    compiler = next(
        (found for one in (os.environ.get("CC"), "cc", "gcc", "clang") if one and (found := _which(one))), ""
    )
    if not compiler:
        raise WorkshopError(
            "The truth server is a C program, and this machine has no C compiler (cc, gcc or clang). Install one: on "
            "Debian or Ubuntu `apt install gcc libc6-dev`."
        )
    part = folder / f"{name}.{os.getpid()}"
    done = subprocess.run([compiler, *_FLAGS, "-o", str(part), str(source)], capture_output=True, text=True)
    if done.returncode:
        raise WorkshopError(
            f"{compiler} could not compile {source.name}, which needs Linux and its headers: "
            f"{(done.stderr.strip() or 'it says nothing').splitlines()[0]}"
        )
    return part.replace(program)


def _which(command: str) -> str:
    return shutil.which(command) or ""


def _folder() -> Path:
    """Where compiled programs are kept: below the repository's ``build``, or a temporary folder where that is not to be
    written to.
    """
    folder = Path(__file__).parents[1] / "build" / "tools"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    folder = Path(tempfile.gettempdir()) / f"workshop-tools-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextlib.contextmanager
def start(
    ttft: float = TTFT, itl: float = ITL, tokens: int = TOKENS, flood: bool = False, cpu: int | None = None
) -> Iterator[Server]:
    """A truth server on a free port of this machine, ended at the block's end.

    Args:
        ttft: seconds from a request's arrival to its first token.
        itl: seconds from each token to the next.
        tokens: of an answer whose request does not say ``max_tokens``.
        flood: send as fast as the client reads instead.
        cpu: the core that it runs on; None for any.

    Raises:
        WorkshopError: it cannot be compiled or started.
    """
    told = ["--ttft-ms", f"{1000 * ttft:.6f}", "--itl-ms", f"{1000 * itl:.6f}", "--tokens", str(tokens)]
    told += ["--flood"] if flood else []
    told += [] if cpu is None else ["--cpu", str(cpu)]
    with tempfile.TemporaryDirectory(prefix="workshop-truth-") as folder:
        log = Path(folder) / "log"
        command = [str(compiled()), *told, "--log", str(log)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            yield Server(f"http://127.0.0.1:{_port(process)}/v1", log, process)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _port(process: "subprocess.Popen[str]") -> int:
    """The port that it says it listens on.

    Raises:
        WorkshopError: it ended instead.
    """
    assert process.stdout is not None and process.stderr is not None
    words = process.stdout.readline().split()
    if len(words) != 2 or words[0] != "port":
        raise WorkshopError(f"The truth server did not start: {process.stderr.read().strip() or 'it says nothing'}")
    return int(words[1])


def read_log(path: Path) -> Log:
    """What a server wrote. A record that is not whole yet, at the end, is left out.

    Raises:
        WorkshopError: no log of this server.
    """
    import numpy

    data = path.read_bytes()
    head, record = numpy.dtype(_HEADER), numpy.dtype(_RECORD)
    if len(data) < head.itemsize or not data.startswith(_MAGIC):
        raise WorkshopError(f"{path.name} is no log of the truth server: it begins with {data[:8]!r}.")
    header = numpy.frombuffer(data, head, 1)[0]
    if header["record_size"] != record.itemsize:
        raise WorkshopError(
            f"{path.name} has records of {header['record_size']} bytes, and this reads {record.itemsize}."
        )
    at, answers = head.itemsize, []
    while at + record.itemsize <= len(data):
        one = numpy.frombuffer(data, record, 1, at)[0]
        at += record.itemsize
        n = int(one["stamps"])
        if at + 8 * n > len(data):
            break
        answers.append(_answer(one, numpy.frombuffer(data, "<i8", n, at)))
        at += 8 * n
    answers.sort(key=lambda one: one.number)
    return Log(float(header["ttft"]) * 1e-9, float(header["itl"]) * 1e-9, bool(header["flood"]), answers)


def _answer(record: Any, stamps: Any) -> Answer:
    flags = int(record["flags"])
    return Answer(
        **{name: int(record[name]) for name in ("number", "asked_id", "arrival", "finished", "tokens", "connection")},
        stamps=stamps,
        kernel=bool(flags & _KERNEL_STAMP),
        cut=bool(flags & _CUT),
        blocked=bool(flags & _BLOCKED),
    )
