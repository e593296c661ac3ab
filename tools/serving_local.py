"""What the programs that measure the CPU server share: one to measure, by folder or by address, and its processes."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TOKENS_PER_BLOCK = 32
_PATIENCE = 60.0  # seconds for an engine to load on a busy machine


@dataclass
class Running:
    """A server that answers.

    Attributes:
        url: without a slash at the end.
        process: None where it was running before.
        seconds: from its launch to the first 200 of ``/health``.
    """

    url: str
    process: "subprocess.Popen[bytes] | None" = None
    seconds: float = 0.0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port or 80)

    def members(self) -> dict[str, int]:
        """Process numbers of server and engine, where they are ours to look at."""
        import psutil

        if self.process is None:
            return {}
        children = psutil.Process(self.process.pid).children()
        return {"server": self.process.pid, "engine": children[0].pid}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def kv_precision(engine: Path) -> str:
    """What the engine's KV cache is kept in, as the server's option has it."""
    manifest = engine / "manifest.json"
    kv = json.loads(manifest.read_text())["options"].get("kv") if manifest.exists() else None
    return "u8" if kv == "int8" else "f16"


def sizes(batch: int = 32, seq_len: int = 512, queue: int = 256, tokens: int = 2048) -> dict[str, int]:
    """Sizes that a server is started with, the KV cache large enough for a full batch at full length."""
    blocks = batch * -(-seq_len // TOKENS_PER_BLOCK)
    return {
        "max-batch-size": batch,
        "max-num-tokens": tokens,
        "max-seq-len": seq_len,
        "kv-blocks": blocks,
        "max-queue": queue,
    }


def command(engine: Path, port: int, limits: dict[str, int]) -> list[str]:
    """The command that serves an engine."""
    options = [part for name, value in limits.items() for part in (f"--{name}", str(value))]
    start = [sys.executable, "-m", "helpers.serving.app", "--engine", str(engine), "--port", str(port)]
    return [*start, "--kv-cache", kv_precision(engine), *options]


@contextlib.contextmanager
def running(target: str, limits: dict[str, int], log: Path | None = None) -> Iterator[Running]:
    """A server over an engine's folder, ended afterwards; or the one at an address, left alone.

    Args:
        target: a folder or an address.
        limits: from :func:`sizes`; for a folder only.
        log: gets what the server prints; None for this process's own standard error.
    """
    if target.startswith("http://"):
        yield Running(target.rstrip("/"))
        return
    port = free_port()
    begun = time.perf_counter()
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(log.open("wb")) if log else None
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(
            command(Path(target).resolve(), port, limits),
            cwd=REPOSITORY,
            stdout=out or 2,
            stderr=out or 2,
            env=environment,
        )
        try:
            server = Running(f"http://127.0.0.1:{port}", process)
            _wait(server)
            server.seconds = time.perf_counter() - begun
            yield server
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(server: Running) -> None:
    """Wait until a server is healthy; ends the program if it dies or takes too long."""
    deadline = time.monotonic() + _PATIENCE
    while not healthy(server.url):
        if server.process is not None and server.process.poll() is not None:
            raise SystemExit(f"error: the server ended with status {server.process.returncode} before it answered")
        if time.monotonic() > deadline:
            raise SystemExit(f"error: the server did not answer within {_PATIENCE:.0f} s")
        time.sleep(0.02)


def healthy(url: str) -> bool:
    """True if ``/health`` answers 200."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def texts(number: int) -> list[str]:
    """Beginnings of as many held-out texts, repeated where there are fewer."""
    lines = (REPOSITORY / "data" / "heldout.jsonl").read_text().splitlines()
    told = [json.loads(line)["text"] for line in lines if line.strip()]
    return [told[number % len(told)][: 80 + number // len(told)] for number in range(number)]


def cpu_seconds(pid: int) -> float:
    """CPU time of one process, its threads included."""
    import psutil

    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)
