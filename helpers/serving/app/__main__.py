"""Serve an engine on the CPU: ``python -m helpers.serving.app --engine FOLDER ...``.

``helpers.serving.start`` runs this; by hand it takes what ``serve_command`` of the CPU toolchain puts together. Ends
with status 1 and one line that says why if the engine does not load or ends by itself.
"""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.errors import WorkshopError


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, from a command's words; None for those that this process was started with."""
    parser = argparse.ArgumentParser(prog="python -m helpers.serving.app", description=__doc__)
    parser.add_argument("--engine", type=Path, required=True, help="its folder")
    parser.add_argument("--model-name", help="what /v1/models tells; the folder's name if missing")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, default=8000)
    for option, about in (
        ("--max-batch-size", "requests that run at once"),
        ("--max-num-tokens", "tokens in one iteration"),
        ("--max-seq-len", "tokens of prompt and answer together"),
        ("--kv-blocks", "of the KV cache, 32 tokens each"),
    ):
        parser.add_argument(option, type=int, required=True, help=about)
    parser.add_argument("--max-input-len", type=int, help="tokens of a prompt; as many as fit if missing")
    parser.add_argument("--max-queue", type=int, default=256, help="requests that may wait before others get a 429")
    parser.add_argument(
        "--chunked-prefill", action="store_true", help="cut long prompts up; nothing limits the batch then"
    )
    parser.add_argument("--kv-cache", choices=["f16", "u8"], default="f16", help="what the engine was built with")
    parser.add_argument("--compile", action="store_true", help="compile the graph anew, and leave the blob alone")
    return parser.parse_args(words)


def worker_options(arguments: argparse.Namespace) -> list[str]:
    """The options of the engine's process."""
    options = ["--engine", str(arguments.engine.resolve()), "--kv-cache", arguments.kv_cache]
    for name in ("kv_blocks", "max_batch_size", "max_num_tokens"):
        options += ["--" + name.replace("_", "-"), str(getattr(arguments, name))]
    flags = [f"--{name.replace('_', '-')}" for name in ("chunked_prefill", "compile") if getattr(arguments, name)]
    return options + flags


def check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is started.

    Raises:
        WorkshopError: no engine there, or a size below 1.
    """
    if not (arguments.engine / "graph" / "openvino_model.xml").exists():
        raise WorkshopError(f"{arguments.engine} holds no OpenVINO engine. Build one, or give its folder.")
    for name in ("max_batch_size", "max_num_tokens", "max_input_len", "max_seq_len", "kv_blocks"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise WorkshopError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
    if arguments.max_queue < 0:
        raise WorkshopError(f"--max-queue is {arguments.max_queue}; it must be 0 or more.")


async def opened(arguments: argparse.Namespace, process: "subprocess.Popen[bytes]") -> tuple[Any, Any]:
    """The application and the engine behind it, once that is loaded; for a replica of a deployment too (notebook 09).

    Raises:
        WorkshopError: the engine did not load; its process has ended.
    """
    from helpers.serving.app import http
    from helpers.serving.app.engine import Engine
    from helpers.serving.app.metrics import Records
    from helpers.serving.app.refusal import Refusal
    from helpers.serving.app.text import Text

    records: list[Records] = []
    capacity = arguments.max_batch_size + arguments.max_queue
    engine = Engine(process, capacity, lambda told: records[0].add(told))
    try:
        text = Text(arguments.engine / "graph")
        await engine.start()
    except (Refusal, WorkshopError) as error:
        await engine.close()
        raise WorkshopError(f"The engine did not load. {error}") from None
    limits = limits_of(arguments, engine.told["tokens_per_block"])
    sizes = {name: getattr(limits, name) for name in ("max_batch_size", "max_num_tokens", "kv_blocks")}
    records.append(Records({**sizes, "tokens_per_block": engine.told["tokens_per_block"]}))
    name = arguments.model_name or arguments.engine.resolve().name
    return http.with_raw_send(http.make_app(http.Server(name, text, engine, records[0], limits))), engine


async def serve(arguments: argparse.Namespace, process: "subprocess.Popen[bytes]") -> int:
    """Serve until told to stop, or until the engine's process ends; gives the exit status."""
    import uvicorn

    try:
        app, engine = await opened(arguments, process)
    except WorkshopError as error:
        print(f"error: {str(error)[0].lower()}{str(error)[1:]}", file=sys.stderr, flush=True)
        return 1

    class Serving(uvicorn.Server):
        """Ends the streams before it waits for them to end."""

        async def shutdown(self, sockets: Any = None) -> None:
            await engine.close()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        http="httptools",
        lifespan="off",
        ws="none",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    serving = Serving(config)
    watching = asyncio.create_task(watch(engine, serving))
    try:
        await serving.serve()
    finally:
        watching.cancel()
        await engine.close()
    return 1 if getattr(serving, "engine_died", False) else 0


async def watch(engine: Any, serving: Any) -> None:
    """End the server when the engine's process ends by itself: it can answer nothing more."""
    await engine.ended.wait()
    if engine.died:
        print(f"error: {engine.failed} The server ends with it; start it again.", file=sys.stderr, flush=True)
        serving.engine_died = True
        await asyncio.sleep(0.2)  # those who have a stream open get to read why
        serving.should_exit = True


def limits_of(arguments: argparse.Namespace, tokens_per_block: int) -> Any:
    """What requests are held to: what the engine was built for, and what its KV cache holds."""
    from helpers.serving.app.http import Limits

    held = arguments.kv_blocks * tokens_per_block
    longest = min(arguments.max_seq_len, held)
    if longest < arguments.max_seq_len:
        told = f"The KV cache holds {held} tokens, fewer than max_seq_len = {arguments.max_seq_len}: "
        print(f"warning: {told}sequences end at {held}.", file=sys.stderr, flush=True)
    bounds = {"max_input_len": arguments.max_input_len or longest}
    bounds |= {} if arguments.chunked_prefill else {"max_num_tokens": arguments.max_num_tokens}
    bound = min(bounds, key=lambda name: bounds[name])
    return Limits(
        arguments.max_batch_size,
        arguments.max_num_tokens,
        longest,
        bounds[bound],
        arguments.kv_blocks,
        arguments.max_queue,
        bound,
    )


def main() -> int:
    """Start both processes and serve."""
    arguments = parse()
    try:
        check(arguments)
    except WorkshopError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from helpers.serving.app.engine import launch

    process = launch(worker_options(arguments))  # it loads while this process imports what it needs
    try:
        import uvloop

        runner: Any = uvloop.run
    except ImportError:  # not on Windows; asyncio's own loop serves as well, a little slower
        runner = asyncio.run
    try:
        return int(runner(serve(arguments, process)))
    finally:
        if process.poll() is None:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
