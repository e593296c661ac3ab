"""Output tokens per second through HTTP against the same engine in-process, and how fast ``/health`` answers meanwhile.

``python -m tools.serving_ratio ENGINE [--pairs 5] [--streams 32] [--tokens 128]``. Both sides run the same prompts at
once with the same scheduler; one reads the tokens from the pipeline in a loop, the other streams them over HTTP to a
client that does nothing but count. The order within a pair alternates, and both processes stay loaded, idle while the
other runs. Quote the median, never a single pair. CPU seconds are of each process; on few cores they explain the
ratio.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools import serving_local as local

TARGET = 0.7  # of the in-process rate
_INSIDE = "--in-process"


@dataclass
class Side:
    """What one side of a pair took.

    Attributes:
        rate: tokens per second.
        cpu: seconds of each process.
    """

    rate: float
    cpu: dict[str, float] = field(default_factory=dict)


class Counting(asyncio.Protocol):
    """A client that sends one request and counts the chunks of the answer.

    Args:
        request: whole, headers included.
    """

    def __init__(self, request: bytes) -> None:
        self.request, self.chunks, self.tail = request, 0, b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Send the request."""
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Count, and notice the end."""
        self.chunks += data.count(b'"choices": [{')
        self.tail = (self.tail + data)[-600:]
        if b"data: [DONE]" in self.tail and not self.done.done():
            self.transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """A connection that ends early is a failure."""
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"the stream broke off: {self.tail[-300:]!r}"))


def request_of(ids: list[int], tokens: int, host: str) -> bytes:
    """One streaming request as it goes over the wire."""
    asked = {"model": "m", "prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
    body = json.dumps({**asked, "stream_options": {"include_usage": True}}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def stream_all(address: tuple[str, int], requests: list[bytes]) -> tuple[int, int]:
    """All requests at once; gives the tokens that the server counted and the chunks that came."""
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(lambda r=one: Counting(r), *address) for one in requests]  # type: ignore[misc]
    clients = [client for _, client in opened]
    await asyncio.gather(*(client.done for client in clients))
    usages = [json.loads(b"{" + client.tail.split(b'"usage": {')[1].split(b"}")[0] + b"}") for client in clients]
    return sum(usage["completion_tokens"] for usage in usages), sum(client.chunks for client in clients)


async def health_times(address: tuple[str, int], done: asyncio.Event) -> list[float]:
    """Seconds that ``/health`` takes on one connection, asked every 10 ms."""
    reader, writer = await asyncio.open_connection(*address)
    times = []
    while not done.is_set():
        begun = time.perf_counter()
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        times.append(time.perf_counter() - begun)
        await asyncio.sleep(0.01)
    writer.close()
    return times


def through_http(server: local.Running, requests: list[bytes], expected: int) -> Side:
    """One run through HTTP."""
    pids = {**server.members(), "client": os.getpid()}
    before = {name: local.cpu_seconds(pid) for name, pid in pids.items()}
    begun = time.perf_counter()
    tokens, _ = _run(stream_all(server.address, requests))
    seconds = time.perf_counter() - begun
    assert tokens == expected, f"{tokens} tokens came instead of {expected}"
    return Side(tokens / seconds, {name: local.cpu_seconds(pid) - before[name] for name, pid in pids.items()})


def health_under_load(server: local.Running, requests: list[bytes]) -> list[float]:
    """How long ``/health`` took while all requests ran."""

    async def both() -> list[float]:
        done = asyncio.Event()
        asking = asyncio.create_task(health_times(server.address, done))
        await stream_all(server.address, requests)
        done.set()
        return await asking

    return _run(both())


def _run(coroutine: Any) -> Any:
    """Run on the fastest loop there is, since the client shares the cores with what it measures."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)


class Inside:
    """The same engine in a process that reads its tokens in a loop."""

    def __init__(self, engine: Path, limits: dict[str, int], prompts: list[list[int]], tokens: int) -> None:
        task = {"engine": str(engine.resolve()), "limits": limits, "prompts": prompts, "tokens": tokens}
        task["kv"] = local.kv_precision(engine)
        command = [sys.executable, "-m", "tools.serving_ratio", _INSIDE, json.dumps(task)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=local.REPOSITORY)
        self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("error: the in-process run ended without an answer")
        return dict(json.loads(line))

    def run(self) -> Side:
        """One run."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()
        told = self._answer()
        return Side(told["tokens"] / told["seconds"], {"in-process": told["cpu"]})

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


def in_process(task: dict[str, Any]) -> None:
    """What the other process of :class:`Inside` does: a run for every line that comes."""
    sys.path.insert(0, str(local.REPOSITORY / "helpers" / "workers"))
    import numpy as np
    import openvino as ov
    import openvino_genai as genai
    from openvino_serve import opened  # type: ignore[import-not-found]

    limits = {name.replace("-", "_"): value for name, value in task["limits"].items()}
    place = {"engine": Path(task["engine"]), "kv_cache": task["kv"], "chunked_prefill": False}
    pipeline = opened(argparse.Namespace(**place, **limits))
    settings = genai.GenerationConfig()
    settings.max_new_tokens, settings.ignore_eos, settings.do_sample = task["tokens"], True, False
    prompts = [ov.Tensor(np.array([ids], dtype=np.int64)) for ids in task["prompts"]]
    print("{}", flush=True)
    for _ in sys.stdin:
        cpu, begun, tokens = time.process_time(), time.perf_counter(), 0
        handles = [pipeline.add_request(number, prompt, settings) for number, prompt in enumerate(prompts)]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for handle in handles:
                while handle.can_read():
                    tokens += sum(len(output.generated_ids) for output in handle.read().values())
        seconds = time.perf_counter() - begun
        print(json.dumps({"tokens": tokens, "seconds": seconds, "cpu": time.process_time() - cpu}), flush=True)


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of all lies."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def report(pairs: list[tuple[Side, Side]], health: list[float], server: local.Running) -> float:
    """Print the medians; gives the median ratio."""
    ratio = statistics.median(outside.rate / inside.rate for inside, outside in pairs)
    rates = [statistics.median(side.rate for side in sides) for sides in zip(*pairs, strict=True)]
    print(f"\nmedians of {len(pairs)} pairs on {os.cpu_count()} cores:")
    print(f"  in-process {rates[0]:,.0f} tokens/s, through HTTP {rates[1]:,.0f} tokens/s, ratio {ratio:.3f}")
    spent = {name: statistics.median(o.cpu[name] for _, o in pairs) for name in pairs[0][1].cpu}
    alone = statistics.median(i.cpu["in-process"] for i, _ in pairs)
    print(
        f"  CPU seconds: in-process {alone:.2f}; " + ", ".join(f"{name} {value:.2f}" for name, value in spent.items())
    )
    slow = [1000 * percentile(health, share) for share in (0.5, 0.99)]
    print(f"  /health under this load: p50 {slow[0]:.1f} ms, p99 {slow[1]:.1f} ms of {len(health)}")
    if server.seconds:
        print(f"  launch to the first healthy answer: {server.seconds:.2f} s")
    verdict = "reached" if ratio >= TARGET else "missed"
    print(f"  target {TARGET}: {verdict}")
    return ratio


def measure(arguments: argparse.Namespace) -> int:
    """Measure pairs and report."""
    from helpers.serving.app.text import Text

    text = Text(arguments.engine / "graph")
    prompts = [text.encode(one)[:24] for one in local.texts(arguments.streams)]
    longest = max(map(len, prompts)) + arguments.tokens
    limits = local.sizes(arguments.streams, longest + local.TOKENS_PER_BLOCK)
    expected = arguments.streams * arguments.tokens
    with local.running(str(arguments.engine), limits) as server:
        inside = Inside(arguments.engine, limits, prompts, arguments.tokens)
        requests = [request_of(ids, arguments.tokens, "x") for ids in prompts]
        sides = [inside.run, lambda: through_http(server, requests, expected)]
        for side in sides:
            side()  # the first run of a process is slower
        pairs = []
        for number in range(arguments.pairs):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            ran = {which: sides[which]() for which in order}
            pairs.append((ran[0], ran[1]))
            rates = f"in-process {ran[0].rate:,.0f}, through HTTP {ran[1].rate:,.0f} tokens/s"
            print(f"pair {number + 1}: {rates}, ratio {ran[1].rate / ran[0].rate:.3f}", flush=True)
        health = health_under_load(server, requests) + health_under_load(server, requests)
        inside.close()
        ratio = report(pairs, health, server)
    return 0 if ratio >= TARGET else 1


def main() -> int:
    """Read the options and measure."""
    if sys.argv[1:2] == [_INSIDE]:
        in_process(json.loads(sys.argv[2]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path, help="folder of an OpenVINO engine")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    return measure(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
