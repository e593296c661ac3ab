"""Many clients at once for minutes, some of whom misbehave: is an answer wrong or lost, does memory grow?

``python -m tools.serving_load TARGET [--seconds 300] [--streams 64] [--output REPORT.json]``, with an engine's folder
or the address of a running server. Each client streams one greedy answer after the other. One in a hundred hangs up in
the middle, one in a hundred sends a body that is no request. Every other answer is held against the one that the same
prompt got alone, before the load: the same text, the same number of tokens, an end, and nothing missing in between.

Ends with status 1 if an answer was lost or incomplete, if one differed although ``--allow-different`` was not given,
if a malformed body got anything but 400, if memory grew, or if the server is not healthy and idle at the end.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools import serving_local as local

PROMPTS = 32
RARELY = 0.01  # of clients hang up, and as many send malformed bodies
GROWTH = 0.10  # of memory between the middle third of the samples and the last, above which it is not flat
SLACK = 16 << 20  # bytes that do not count as growth
_EVERY = 0.5  # seconds between samples
_PATIENCE = 60.0  # seconds for one answer
_TOLD = 5  # failures that are told in full

MALFORMED = [
    b'{"model": "m", "prompt": ',
    b"\xff\xfe\x00",
    b'{"model": "m", "prompt": "a", "max_tokens": "x"}',
    b"[]",
    b"",
]


@dataclass(frozen=True)
class Answer:
    """A streamed answer: its text, the tokens that the server counted, how it ended, and whether ``[DONE]`` came."""

    text: str
    tokens: int
    finish: str | None
    done: bool


@dataclass
class Tally:
    """What happened.

    Attributes:
        counts: of each kind of outcome.
        failures: what should not have happened.
        memory: seconds since the start, and bytes of each process in RAM.
        tokens: of all complete answers.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    memory: list[tuple[float, dict[str, int]]] = field(default_factory=list)
    tokens: int = 0

    def fail(self, kind: str, what: str) -> None:
        """Count something that should not have happened."""
        self.counts[kind] += 1
        self.failures.append(f"{kind}: {what}")


def request_of(body: bytes) -> bytes:
    """A request as it goes over the wire; the connection ends with the answer."""
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def asked(prompt: str, tokens: int) -> bytes:
    """The body of one well-behaved request."""
    greedy = {
        "model": "m",
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    return json.dumps({**greedy, "stream_options": {"include_usage": True}}).encode()


def unchunked(raw: bytes) -> bytes:
    """A body without the framing of HTTP's chunks."""
    parts, place = [], 0
    while (end := raw.find(b"\r\n", place)) >= 0:
        size = int(raw[place:end], 16)
        parts.append(raw[end + 2 : end + 2 + size])
        place = end + 2 + size + 2
    return b"".join(parts)


def read_stream(body: bytes) -> Answer:
    """The answer in a stream's events."""
    text, tokens, finish, done = "", 0, None, False
    for event in body.split(b"\n\n"):
        data = event.removeprefix(b"data: ")
        if data == b"[DONE]":
            done = True
        elif data:
            told = json.loads(data)
            if told.get("object") == "error":
                raise RuntimeError(told["message"])
            tokens = told["usage"]["completion_tokens"] if told.get("usage") else tokens
            for choice in told["choices"]:
                text, finish = text + choice["text"], choice["finish_reason"] or finish
    return Answer(text, tokens, finish, done)


async def exchange(address: tuple[str, int], body: bytes, hang_up_after: int = 0) -> tuple[int, bytes]:
    """Send a request; gives status and body of the answer.

    Args:
        address: of the server.
        body: of the request.
        hang_up_after: bytes after which the client closes the connection; 0 for the whole answer.
    """
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(request_of(body))
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if hang_up_after:
            await reader.readexactly(hang_up_after)
            return status, b""
        rest = await reader.read()
        return status, unchunked(rest) if b"transfer-encoding: chunked" in head.lower() else rest
    finally:
        writer.close()


class Load:
    """The clients and what they see.

    Args:
        server: to load.
        tally: gets what happens.
        seed: of who misbehaves and who asks what.
    """

    def __init__(self, server: local.Running, tally: Tally, seed: int) -> None:
        self.server, self.tally, self.chance = server, tally, random.Random(seed)
        asked_for = [(text, 16 + 8 * (number % 8)) for number, text in enumerate(local.texts(PROMPTS))]
        self.bodies = [asked(*one) for one in asked_for]
        self.lengths = [tokens for _, tokens in asked_for]
        self.alone: list[Answer] = []

    async def ask_alone(self) -> None:
        """The answers that all others are held against."""
        for body in self.bodies:
            status, answer = await exchange(self.server.address, body)
            if status != 200:
                raise SystemExit(f"error: a request alone was answered with {status}: {answer[:300]!r}")
            self.alone.append(read_stream(answer))

    async def client(self, end: float) -> None:
        """One request after the other until the time is over."""
        while time.monotonic() < end:
            which, what = self.chance.randrange(PROMPTS), self.chance.random()
            try:
                async with asyncio.timeout(_PATIENCE):
                    if what < RARELY:
                        await exchange(self.server.address, self.bodies[which], self.chance.randrange(300, 3000))
                        self.tally.counts["hung up"] += 1
                    elif what < 2 * RARELY:
                        await self.malformed()
                    else:
                        await self.well_behaved(which)
            except (OSError, EOFError, TimeoutError, ValueError, KeyError, RuntimeError) as error:
                self.tally.fail("lost", f"prompt {which}: {type(error).__name__}: {error}")

    async def malformed(self) -> None:
        """A body that is no request."""
        body = self.chance.choice(MALFORMED)
        status, answer = await exchange(self.server.address, body)
        if status == 400 and json.loads(answer).get("object") == "error":
            self.tally.counts["malformed, refused with 400"] += 1
        else:
            self.tally.fail("malformed, answered otherwise", f"{status} to {body!r}")

    async def well_behaved(self, which: int) -> None:
        """A request whose answer is compared."""
        status, body = await exchange(self.server.address, self.bodies[which])
        if status != 200:
            self.tally.fail("lost", f"prompt {which}: status {status}, {body[:200]!r}")
            return
        answer = read_stream(body)
        self.tally.tokens += answer.tokens
        if not answer.done or answer.finish != "length" or answer.tokens != self.lengths[which]:
            self.tally.fail("incomplete", f"prompt {which}: {answer}")
        elif answer.text != self.alone[which].text:
            self.tally.counts["different text"] += 1
        else:
            self.tally.counts["same text as alone"] += 1

    async def watch_memory(self, end: float) -> None:
        """Sample the processes' memory."""
        import psutil

        members = {name: psutil.Process(pid) for name, pid in self.server.members().items()}
        begun = time.monotonic()
        while members and time.monotonic() < end:
            held = {name: int(process.memory_info().rss) for name, process in members.items()}
            self.tally.memory.append((round(time.monotonic() - begun, 2), held))
            await asyncio.sleep(_EVERY)

    async def run(self, seconds: float, streams: int) -> float:
        """All clients at once; gives the seconds until the last answer."""
        await self.ask_alone()
        begun = time.monotonic()
        end = begun + seconds
        watching = asyncio.create_task(self.watch_memory(end))
        await asyncio.gather(*(self.client(end) for _ in range(streams)))
        took = time.monotonic() - begun
        await watching
        return took


def growth(memory: list[tuple[float, dict[str, int]]]) -> dict[str, dict[str, float]]:
    """Memory of each process in the middle third of the samples and in the last, in MiB: the medians.

    The first third is left out: the KV cache is first touched in it, and OpenVINO prepares for every size of batch.
    """
    third = max(len(memory) // 3, 1)
    early, late = memory[third : 2 * third] or memory, memory[-third:]
    names = memory[0][1] if memory else {}
    middle = {name: [statistics.median(held[name] for _, held in part) for part in (early, late)] for name in names}
    return {name: {"early_mib": a / 2**20, "late_mib": b / 2**20} for name, (a, b) in middle.items()}


def judged(load: Load, took: float, allow_different: bool) -> dict[str, Any]:
    """The report: what happened and what is wrong with it."""
    tally, held = load.tally, growth(load.tally.memory)
    wrong = list(tally.failures)
    different = tally.counts["different text"]
    if different and not allow_different:
        wrong.append(f"{different} answers had another text than alone")
    for name, sizes in held.items():
        grown = sizes["late_mib"] - sizes["early_mib"]
        if grown > max(GROWTH * sizes["early_mib"], SLACK / 2**20):
            wrong.append(f"the {name}'s memory grew from {sizes['early_mib']:.0f} to {sizes['late_mib']:.0f} MiB")
    if not local.healthy(load.server.url):
        wrong.append("the server is not healthy at the end")
    elif (active := still_active(load.server.url)) != 0:
        wrong.append(f"{active} requests are still active although every client has left")
    return {
        "seconds": round(took, 1),
        "tokens": tally.tokens,
        "tokens_per_second": round(tally.tokens / took, 1),
        "outcomes": dict(tally.counts),
        "memory": held,
        "wrong": wrong,
    }


def still_active(url: str) -> int | None:
    """Requests in the engine by its last record; None where it tells of none."""
    import urllib.request

    time.sleep(0.5)  # those who hung up last are noticed in the next iteration
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        records = json.loads(answer.read())
    return int(records[-1]["numActiveRequests"] + records[-1]["numQueuedRequests"]) if records else None


def told(report: dict[str, Any]) -> str:
    """The report in words."""
    rate = f"{report['tokens_per_second']:,} a second"
    lines = [f"{report['seconds']} s, {report['tokens']:,} tokens in complete answers, {rate}"]
    lines += [f"  {kind}: {count:,}" for kind, count in sorted(report["outcomes"].items())]
    for name, sizes in report["memory"].items():
        lines.append(f"  {name}: {sizes['early_mib']:.0f} MiB early, {sizes['late_mib']:.0f} MiB at the end")
    lines.append(f"{len(report['wrong'])} things wrong" if report["wrong"] else "nothing wrong, and healthy at the end")
    return "\n".join(lines + [f"  {one[:400]}" for one in report["wrong"][:_TOLD]])


def run(target: str, seconds: float, streams: int, seed: int = 1, allow_different: bool = False) -> dict[str, Any]:
    """Load a server and report."""
    with local.running(target, local.sizes(batch=32, seq_len=256)) as server:
        load = Load(server, Tally(), seed)
        took = asyncio.run(load.run(seconds, streams))
        return judged(load, took, allow_different)


def main() -> int:
    """Read the options, load, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="an engine's folder, or http://host:port")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--allow-different", action="store_true", help="another text than alone is counted, not a failure"
    )
    parser.add_argument("--output", type=Path, help="gets the report as JSON")
    arguments = parser.parse_args()
    report = run(arguments.target, arguments.seconds, arguments.streams, arguments.seed, arguments.allow_different)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1))
    print(told(report))
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
