"""Load a server the way one would first write it: the ``openai`` client, every request started at once, chunks counted.

A script of its own, so that it can be read and run beside the load generator (notebook 08 measures what it gets wrong):

    python helpers/workers/naive_benchmark.py --url http://127.0.0.1:8000/v1 --concurrency 32 --requests 64

Only one thing is not naive: it asks the server for its own token counts too, so that the two can be compared. Prints
one line of JSON: {"model", "prompt", "seconds", "cpu_seconds", "waves": [{"seconds", "requests": [{"ttft", "chunks",
"tokens", "prompt_tokens", "error"}]}]}. The key comes from the environment (``OPENAI_API_KEY``).
"""

import argparse
import asyncio
import json
import os
import sys
import time
from typing import Any

import openai


def prompt_of(tokens: int, tokenizer: str) -> str:
    """The text of the token ids 0, 1, 2, ...; numbers where there is no tokenizer."""
    if not tokenizer:
        return " ".join(str(number) for number in range(tokens))
    from tokenizers import Tokenizer

    read = Tokenizer.from_file(tokenizer)
    return str(read.decode([number % read.get_vocab_size() for number in range(tokens)]))


async def one(client: openai.AsyncOpenAI, model: str, prompt: str, max_tokens: int) -> dict[str, Any]:
    """Send a request, and count what comes."""
    told: dict[str, Any] = {"ttft": None, "chunks": 0, "tokens": None, "prompt_tokens": None, "error": ""}
    began = time.perf_counter()
    try:
        stream = await client.completions.create(
            model=model,
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        async for chunk in stream:
            if chunk.choices:
                if told["ttft"] is None:
                    told["ttft"] = time.perf_counter() - began
                told["chunks"] += 1  # one chunk, one token: so it is thought
            if chunk.usage is not None:
                told["tokens"], told["prompt_tokens"] = chunk.usage.completion_tokens, chunk.usage.prompt_tokens
    except (openai.OpenAIError, OSError) as problem:
        told["error"] = str(getattr(problem, "message", "") or problem)
    return told


async def load(asked: argparse.Namespace) -> dict[str, Any]:
    """Warm up with one token, then start ``concurrency`` requests at once, as often as it takes."""
    # No proxy, and no retry: a request that failed would come back as a slow one.
    direct = openai.DefaultAsyncHttpxClient(trust_env=False, timeout=asked.timeout)
    key = os.environ.get(asked.key_variable) or "none"
    client = openai.AsyncOpenAI(base_url=asked.url, api_key=key, max_retries=0, http_client=direct)
    model = asked.model or (await client.models.list()).data[0].id
    prompt = prompt_of(asked.input, asked.tokenizer)
    waves, left = [], asked.requests
    await one(client, model, "Hello", 1)
    began, cpu = time.perf_counter(), time.process_time()
    while left > 0:
        at_once = min(asked.concurrency, left)
        started = time.perf_counter()
        done = await asyncio.gather(*(one(client, model, prompt, asked.output) for _ in range(at_once)))
        waves.append({"seconds": time.perf_counter() - started, "requests": done})
        left -= at_once
        if all(request["error"] for request in done):
            break
    seconds, used = time.perf_counter() - began, time.process_time() - cpu
    await client.close()
    return {"model": model, "prompt": prompt[:80], "seconds": seconds, "cpu_seconds": used, "waves": waves}


def main() -> None:
    """Read the command line, load the server, print what came of it."""
    parser = argparse.ArgumentParser(description="The naive benchmark that notebook 08 compares with.")
    parser.add_argument("--url", required=True, help="where the API begins, such as http://127.0.0.1:8000/v1")
    parser.add_argument("--model", default="", help="default: the first that the server names")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--input", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--output", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokenizer", default="", help="a tokenizer.json, to make the prompt from token ids")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for one answer")
    parser.add_argument("--key-variable", default="OPENAI_API_KEY", help="variable with the server's key")
    try:
        told = asyncio.run(load(parser.parse_args()))
    except (openai.OpenAIError, OSError) as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
