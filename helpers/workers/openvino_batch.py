"""Worker: many requests through one engine at once, with what the scheduler did in every iteration (notebook 05).

Writes ``run.json``; :class:`helpers.toolchains.batching.BatchRun` reads it and says what is in it.

OpenVINO's pipeline does not report pre-emptions. They are counted from outside: a request that made a token in one
iteration, is not finished, and makes none in the next has had KV blocks taken from it (every request under way comes
before any prompt, and the token budget of an iteration holds all of them, so nothing else holds a request up).
A request that goes on losing blocks while it waits counts once, until it makes a token again.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from openvino_pipeline import add_kv_option, open_pipeline

MOST_ROWS = 400  # iterations that are kept; a picture shows no more
LEAST_BATCHED = 256  # tokens that an iteration computes at most: the pipeline's own default


class Round:
    """All requests once through the pipeline.

    Attributes:
        outputs: token ids of each request.
        rows: seconds, running, waiting, used, free of each iteration.
        preempted: how often a request was pre-empted.
        seconds: until the last token.
    """

    def __init__(self, pipeline: Any, prompts: list[Any], settings: Any, blocks: int) -> None:
        self.pipeline, self.blocks, self.limit = pipeline, blocks, settings.max_new_tokens
        self.outputs: list[list[int]] = [[] for _ in prompts]
        self.rows: list[tuple[float, int, int, int, int]] = []
        self.preempted, self.seconds = 0, 0.0
        self._under_way: set[int] = set()
        self._started = time.perf_counter()
        # A request whose handle is dropped is cancelled.
        self._handles = [pipeline.add_request(number, prompt, settings) for number, prompt in enumerate(prompts)]

    def step(self) -> bool:
        """One iteration of the scheduler; False if there is nothing left to do."""
        if not self.pipeline.has_non_finished_requests():
            return False
        self.pipeline.step()
        self.seconds = time.perf_counter() - self._started
        told = self.pipeline.get_metrics()
        used = round(told.cache_usage / 100 * self.blocks)
        running = told.scheduled_requests
        self.rows.append((round(self.seconds, 5), running, told.requests - running, used, self.blocks - used))
        made = {number for number in range(len(self._handles)) if self._read(number)}
        self.preempted += sum(1 for number in self._under_way - made if len(self.outputs[number]) < self.limit)
        self._under_way = made
        return True

    def _read(self, number: int) -> bool:
        """Take what a request has made; True if it made something."""
        before = len(self.outputs[number])
        while self._handles[number].can_read():
            for output in self._handles[number].read().values():
                self.outputs[number].extend(output.generated_ids)
        return len(self.outputs[number]) > before

    def check(self) -> None:
        """End with an error if the pipeline gave a request up."""
        short = sum(1 for ids in self.outputs if len(ids) != self.limit)
        if short:
            raise SystemExit(f"error: {short} of {len(self.outputs)} requests did not end: the KV cache is too small")


def prompts_of(file: Path, tokenizer: Any, requests: int, most: int) -> list[Any]:
    """The first tokens of as many texts, each a tensor of shape [1, at most ``most``]."""
    import openvino as ov

    lines = [line for line in file.read_text().splitlines() if line.strip()][:requests]
    encoded = [tokenizer.encode(json.loads(line)["text"]).input_ids.data for line in lines]
    return [ov.Tensor(ids[:, :most].copy()) for ids in encoded]


def settings_for(tokenizer: Any, new_tokens: int) -> Any:
    """Greedy, and on to the limit whatever the model thinks of an end."""
    import openvino_genai as genai

    settings = genai.GenerationConfig()
    settings.max_new_tokens = new_tokens
    settings.ignore_eos = True
    settings.do_sample = False
    settings.set_eos_token_id(tokenizer.get_eos_token_id())
    return settings


def thinned(rows: list[Any]) -> list[Any]:
    """At most about :data:`MOST_ROWS` of the iterations: evenly spread, with the first, the last and the fullest."""
    every = -(-len(rows) // MOST_ROWS)
    fullest = max(range(len(rows)), key=lambda number: rows[number][1])
    return [row for number, row in enumerate(rows) if number % every == 0 or number in (fullest, len(rows) - 1)]


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True)
    add_kv_option(parser)
    parser.add_argument("--texts", type=Path, required=True, help='JSON lines of {"text": ...}: prompts begin them')
    parser.add_argument("--blocks", type=int, required=True, help="of the KV cache")
    parser.add_argument("--tokens-per-block", type=int, required=True, help="as OpenVINO has them; only written down")
    for option in ("--requests", "--prompt-tokens", "--new-tokens", "--rounds"):
        parser.add_argument(option, type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Warm up, run the rounds, and write what happened."""
    arguments = parse()
    texts, output = arguments.texts.resolve(), arguments.output.resolve()  # opening changes the working directory
    # Every request under way must fit into one iteration, or waiting would have another cause than missing blocks.
    batched = {"max_num_batched_tokens": max(LEAST_BATCHED, arguments.requests)}
    pipeline = open_pipeline(arguments.engine, arguments.blocks, arguments.kv_cache, **batched)
    tokenizer = pipeline.get_tokenizer()
    prompts = prompts_of(texts, tokenizer, arguments.requests, arguments.prompt_tokens)
    warm_up = Round(pipeline, prompts, settings_for(tokenizer, 1), arguments.blocks)
    while warm_up.step():
        pass
    rounds = []
    for number in range(arguments.rounds):
        run = Round(pipeline, prompts, settings_for(tokenizer, arguments.new_tokens), arguments.blocks)
        while run.step():
            if len(run.rows) % 10 == 1:
                done = sum(map(len, run.outputs))
                total = arguments.requests * arguments.new_tokens * arguments.rounds
                before = arguments.requests * arguments.new_tokens * number
                print(f"@progress {before + done}/{total} round {number + 1} of {arguments.rounds}", flush=True)
        run.check()
        rounds.append(run)
    last = rounds[-1]
    written = {
        "blocks": arguments.blocks,
        "tokens_per_block": arguments.tokens_per_block,
        "kv_cache_bytes": pipeline.get_metrics().kv_cache_size_in_bytes,
        "rounds": [
            {"seconds": run.seconds, "tokens": sum(map(len, run.outputs)), "preempted": run.preempted} for run in rounds
        ],
        "steps": thinned(last.rows),
        "outputs": last.outputs,
        "end": tokenizer.get_eos_token_id(),
        "texts": [tokenizer.decode(ids) for ids in last.outputs],
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "run.json").write_text(json.dumps(written))


if __name__ == "__main__":
    main()
