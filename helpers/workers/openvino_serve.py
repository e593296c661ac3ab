"""Worker: the engine behind the CPU server (``helpers.serving.app``), in a process of its own.

``step()`` keeps the interpreter to itself while it runs, so an HTTP loop in the same process would answer late. Here is
one loop and no thread: take what has come on standard input, run one iteration, read every request that made tokens,
write one line. It waits only when there is nothing to do, and ends when standard input does.

In come JSON lines, ``{"add": ID, "ids": [...], "settings": {...}}`` and ``{"cancel": ID}``. Out go JSON lines:
``{"ready": {...}}`` once; ``{"refused": {ID: why}}``; ``{"fatal": why}`` before it ends with status 1; and one an
iteration, ``{"t": {ID: [token ids]}, "f": {ID: [reason, stop token or null]}, "s": {...}}`` with its statistics under
the names that TensorRT-LLM gives them (``helpers.serving.app.metrics`` explains them). An ID is a whole number,
written as a string.

Whatever libraries print goes to standard error: the lines have a descriptor that nothing else knows.
"""

import argparse
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from openvino_pipeline import PROPERTIES, add_kv_option, open_pipeline

TOKENS_PER_BLOCK = 32  # of the KV cache, as OpenVINO's CPU plugin has them
PAGE = os.sysconf("SC_PAGE_SIZE")
ENCODED = json.JSONEncoder(separators=(",", ":")).encode
LOOK = 0.25  # seconds between two looks at this process's memory


class Lines:
    """JSON lines from a descriptor, read without waiting unless told to."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.ended, self._rest = descriptor, False, b""
        os.set_blocking(descriptor, False)

    def take(self, wait: bool) -> list[dict[str, Any]]:
        """The messages that have come; waits for the first one where ``wait`` is set."""
        messages: list[dict[str, Any]] = []
        while not self.ended and select.select([self.descriptor], [], [], None if wait and not messages else 0)[0]:
            data = os.read(self.descriptor, 1 << 20)
            self.ended = not data
            *lines, self._rest = (self._rest + data).split(b"\n")
            messages += [json.loads(line) for line in lines]
        return messages


class Memory:
    """What this process has in RAM, looked at now and then: opening a file would cost as much as reading ten
    requests.
    """

    def __init__(self) -> None:
        self._looked, self._bytes = 0.0, 0

    def resident(self, now: float) -> int:
        """Bytes, at most :data:`LOOK` seconds old; 0 where the system does not tell."""
        if now - self._looked > LOOK:
            self._looked = now
            try:
                with open("/proc/self/statm", "rb") as file:
                    self._bytes = int(file.read().split()[1]) * PAGE
            except OSError:
                self._bytes = 0
        return self._bytes


class Request:
    """One request in the pipeline.

    Attributes:
        handle: the pipeline's; dropping it would cancel the request.
        prompt: number of tokens in its prompt.
        stops: tokens that end it and that the pipeline does not watch for, since it was told to ignore ends.
        least: tokens before which those do not end it.
        made: tokens so far.
    """

    def __init__(self, handle: Any, prompt: int, stops: set[int], least: int) -> None:
        from openvino_genai import GenerationFinishReason

        self.goes_on = GenerationFinishReason.NONE
        self.handle, self.prompt, self.stops, self.least, self.made = handle, prompt, stops, least, 0
        self.since = time.perf_counter()

    def read(self) -> tuple[list[int], list[Any] | None]:
        """New tokens, and how it ended: ``[reason, stop token or None]``, or None if it goes on."""
        ids: list[int] = []
        ended: list[Any] | None = None
        while self.handle.can_read():
            for output in self.handle.read().values():
                ids += output.generated_ids
                if output.finish_reason != self.goes_on:
                    reason = output.finish_reason.name.lower()
                    ended = [reason, ids[-1] if ids and reason == "stop" else None]
        if self.stops and ids:
            ids, ended = self._stopped(ids, ended)
        self.made += len(ids)
        return ids, ended

    def _stopped(self, ids: list[int], ended: list[Any] | None) -> tuple[list[int], list[Any] | None]:
        """Cut the tokens behind the first that ends the request."""
        for number, token in enumerate(ids):
            if token in self.stops and self.made + number + 1 > self.least:
                self.handle.cancel()
                return ids[: number + 1], ["stop", token]
        return ids, ended


class Engine:
    """The pipeline and the requests in it.

    Args:
        pipeline: from ``open_pipeline``.
        output: descriptor that the lines go to.
        arguments: the sizes that it was opened with.
    """

    def __init__(self, pipeline: Any, output: int, arguments: argparse.Namespace) -> None:
        self.pipeline, self.output, self.limits = pipeline, output, arguments
        self.requests: dict[str, Request] = {}
        self.paused: set[str] = set()
        self.memory = Memory()
        self.iteration = 0

    def write(self, message: dict[str, Any]) -> None:
        """One line, whole: the pipe may take it in parts."""
        data = ENCODED(message).encode() + b"\n"
        while data:
            data = data[os.write(self.output, data) :]

    def handle(self, message: dict[str, Any]) -> None:
        """Do what a message says."""
        if "cancel" in message:
            request = self.requests.pop(message["cancel"], None)
            self.paused.discard(message["cancel"])
            if request is not None:
                request.handle.cancel()
            return
        try:
            self.requests[message["add"]] = self.added(message)
        except Exception as error:  # whatever the pipeline finds wrong with one request concerns that request alone
            self.write({"refused": {message["add"]: first_line(error)}})

    def added(self, message: dict[str, Any]) -> Request:
        """Hand a request to the pipeline."""
        import numpy as np
        import openvino as ov
        import openvino_genai as genai

        told, settings = message["settings"], genai.GenerationConfig()
        stops, ends = set(told.pop("stop_token_ids")), told.pop("eos_token_ids")
        settings.set_eos_token_id(ends[0] if ends else -1)
        # ignore_eos makes the pipeline ignore every stop token, so those that were asked for are watched for here.
        settings.stop_token_ids = set(ends[:1]) if told["ignore_eos"] else stops | set(ends)
        for name, value in told.items():
            setattr(settings, name, value)
        settings.validate()
        ids = ov.Tensor(np.array([message["ids"]], dtype=np.int64))
        handle = self.pipeline.add_request(int(message["add"]), ids, settings)
        return Request(handle, len(message["ids"]), stops if told["ignore_eos"] else set(), told["min_new_tokens"])

    def step(self) -> None:
        """One iteration, and the line that tells of it."""
        waiting = [request for request in self.requests.values() if not request.made]
        started = time.perf_counter()
        self.pipeline.step()
        seconds = time.perf_counter() - started
        tokens: dict[str, list[int]] = {}
        finished: dict[str, list[Any]] = {}
        for name, request in self.requests.items():
            ids, ended = request.read()
            if ids:
                tokens[name] = ids
            if ended is None and not ids and request.handle.get_status().name == "IGNORED":
                ended = ["ignored", None]  # the pipeline gave it up: the KV cache cannot hold it
            if ended is not None:
                finished[name] = ended
        new = [request for request in waiting if request.made]
        message: dict[str, Any] = {"t": tokens, "s": self.told(seconds, started, tokens, finished, new)}
        if finished:
            message["f"] = finished
        self.write(message)
        for name in finished:
            del self.requests[name]
        self.paused -= finished.keys()

    def told(
        self, seconds: float, started: float, tokens: dict[str, Any], finished: dict[str, Any], new: list[Request]
    ) -> dict[str, Any]:
        """The statistics of one iteration, as far as the pipeline tells them or the tokens show them."""
        pipeline, blocks = self.pipeline.get_metrics(), self.limits.kv_blocks
        used = round(pipeline.cache_usage / 100 * blocks)
        begun = sum(1 for request in self.requests.values() if request.made)
        active = max(begun, pipeline.scheduled_requests)
        self.watch_pauses(tokens, new)
        self.iteration += 1
        batch: dict[str, Any] = {
            "numScheduledRequests": pipeline.scheduled_requests,
            "numGenRequests": len(tokens) - len(new),
            "numPausedRequests": len(self.paused),
        }
        # Prompts that are cut into pieces make no token until their last piece, and the pipeline does not tell of them.
        batch["numContextRequests"] = max(pipeline.scheduled_requests - batch["numGenRequests"], len(new))
        if not self.limits.chunked_prefill:
            batch["numCtxTokens"] = sum(request.prompt for request in new)
        return {
            "iter": self.iteration,
            "iterLatencyMS": round(seconds * 1000, 3),
            "timestamp": time.time(),
            "numActiveRequests": active,
            "numQueuedRequests": max(len(self.requests) - active, 0),
            "numCompletedRequests": len(finished),
            "numNewActiveRequests": len(new),
            "newActiveRequestsQueueLatencyMS": round(1000 * sum(max(started - r.since, 0) for r in new), 3),
            "cpuMemUsage": self.memory.resident(started),
            "kvCacheStats": {"usedNumBlocks": used, "freeNumBlocks": blocks - used},
            "inflightBatchingStats": batch,
        }

    def watch_pauses(self, tokens: dict[str, Any], new: list[Request]) -> None:
        """Keep the set of requests that had blocks of the KV cache taken away and wait for their return.

        OpenVINO does not report them. In an iteration without prompts every request under way makes a token, except
        those. Prompts, and what is computed again, have iterations of their own, which tell only who came back.
        """
        came_back = self.paused & tokens.keys()
        if self.limits.chunked_prefill or new or came_back or not tokens:
            self.paused -= came_back
            return
        self.paused = {name for name, request in self.requests.items() if request.made and name not in tokens}

    def run(self, lines: Lines) -> None:
        """Serve until standard input ends."""
        settled = True
        while True:
            for message in lines.take(wait=settled):
                self.handle(message)
            if lines.ended:
                return
            if self.pipeline.has_non_finished_requests():
                self.step()
                settled = False
            elif not settled:  # one more iteration with nothing in it: its record says that all is idle
                self.step()
                settled = True


def first_line(error: Exception) -> str:
    """What an error says, without the place in OpenVINO's own source that it comes with."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if "/src/" not in line] or lines
    return (said or [type(error).__name__])[0]


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True)
    add_kv_option(parser)
    for option in ("--kv-blocks", "--max-batch-size", "--max-num-tokens"):
        parser.add_argument(option, type=int, required=True)
    parser.add_argument("--chunked-prefill", action="store_true", help="cut prompts up; then nothing limits the batch")
    parser.add_argument("--compile", action="store_true", help="compile the graph anew, and leave the blob alone")
    return parser.parse_args()


def opened(arguments: argparse.Namespace) -> Any:
    """The pipeline, with the scheduler that was asked for."""
    if arguments.compile:
        for name in ("CACHE_DIR", "CACHE_MODE"):
            del PROPERTIES[name]
    return open_pipeline(
        arguments.engine,
        arguments.kv_blocks,
        arguments.kv_cache,
        max_num_seqs=arguments.max_batch_size,
        max_num_batched_tokens=arguments.max_num_tokens,
        # The pipeline holds to max_num_seqs only where it does not cut prompts up.
        dynamic_split_fuse=arguments.chunked_prefill,
    )


def main() -> None:
    """Open the pipeline, say so, and serve."""
    arguments = parse()
    # Ctrl-C in a terminal, and whoever ends the whole group, mean the server: it answers its clients, then ends this.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    output = os.dup(1)
    os.dup2(2, 1)
    engine = Engine(None, output, arguments)
    try:
        import openvino_genai as genai

        imported = time.time()
        engine.pipeline = opened(arguments)
        size = engine.pipeline.get_metrics().kv_cache_size_in_bytes
        told = {"version": genai.get_version(), "tokens_per_block": TOKENS_PER_BLOCK, "kv_bytes": size}
        engine.write({"ready": {**told, "imported": imported}})
        engine.run(Lines(0))
    except Exception as error:
        engine.write({"fatal": first_line(error)})
        raise
    # Ending the interpreter takes the pipeline apart first, which can take longer than whoever waits has patience for.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
