"""Worker: how long one token takes in the generation phase, on one GPU or on several that share a model (notebook 06).

``torchrun`` starts it once for each GPU. The step is captured in a CUDA graph: replayed, it waits for nothing on
the host, so what CUDA's events measure is the GPU's own time. The same step launched kernel by kernel is measured
too; it is bound by the host, and says nothing of the GPU. The all-reduces of a token are then timed alone, in a graph
of their own.

Weights are FP16. Rank 0 writes ``timing.json``: samples in seconds a token.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from modelopt_checkpoint import progress  # type: ignore[import-not-found]
from tensor_parallel import STEPS, held_bytes, load, meet  # type: ignore[import-not-found]

PROMPT, LONGEST = 128, 512  # tokens in the cache before the step that is timed, and room in it
SAMPLES, REPLAYS = 7, 50


def captured(step: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """A step as a CUDA graph, after the warm-up on a stream of its own that capturing asks for.

    NCCL's watchdog thread calls CUDA meanwhile; only this thread's calls may end the capture.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph


def device_seconds(graph: torch.cuda.CUDAGraph) -> list[float]:
    """Seconds of one replay on the GPU, by CUDA's events: samples, each the mean of many replays."""
    for _ in range(10):
        graph.replay()
    found = []
    for _ in range(SAMPLES):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(REPLAYS):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1000 / REPLAYS)
    return found


def host_seconds(step: Callable[[], Any]) -> list[float]:
    """Seconds of one step that Python launches kernel by kernel: samples, by the host's clock."""
    found = []
    for _ in range(SAMPLES):
        torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return found


def one_token(model: Any, device: torch.device) -> Callable[[], Any]:
    """A step of the generation phase, every tensor in place beforehand, as a graph needs it."""
    from transformers import StaticCache

    cache = StaticCache(config=model.config, max_cache_len=LONGEST)
    ids = torch.randint(3, model.config.vocab_size, (1, PROMPT), generator=torch.Generator().manual_seed(0)).to(device)
    places = torch.arange(PROMPT, device=device)
    model(input_ids=ids, past_key_values=cache, use_cache=True, cache_position=places, position_ids=places[None])
    place = torch.tensor([PROMPT], device=device)
    seen = torch.zeros(1, 1, 1, LONGEST, dtype=torch.float16, device=device)
    seen[..., PROMPT + 1 :] = torch.finfo(torch.float16).min
    fixed = {"cache_position": place, "position_ids": place[None].clone(), "attention_mask": seen}
    token = ids[:, -1:].clone()
    return lambda: model(input_ids=token, past_key_values=cache, use_cache=True, **fixed).logits


def exchanges(hidden: int, count: int, device: torch.device) -> Callable[[], None]:
    """A token's all-reduces, without anything between them; in BF16, as torch's one-shot kernel below wants it."""
    partial = torch.zeros(1, 1, hidden, dtype=torch.bfloat16, device=device)

    def step() -> None:
        for _ in range(count):
            dist.all_reduce(partial)

    return step


def one_shot_exchanges(hidden: int, count: int, device: torch.device) -> Callable[[], None] | None:
    """The same by one kernel each, in which every GPU reads the others' memory; None where torch cannot do it here."""
    others = [other for other in range(dist.get_world_size()) if other != device.index]
    works = all(torch.cuda.can_device_access_peer(device.index, other) for other in others)
    group = dist.group.WORLD.group_name
    try:
        import torch.distributed._symmetric_memory as symmetric

        shared = symmetric.empty(hidden, dtype=torch.bfloat16, device=device)  # torch has no kernel for FP16
        if works:
            symmetric.rendezvous(shared, dist.group.WORLD)
            shared.zero_()
            torch.ops.symm_mem.one_shot_all_reduce(shared, "sum", group)
            torch.cuda.synchronize()
    except Exception as reason:  # another torch, or a container that does not allow it: left out, not guessed
        print(f"one-shot all-reduce: {type(reason).__name__}: {reason}", flush=True)
        works = False
    agreed = torch.tensor([int(works)], device=device)
    dist.all_reduce(agreed, dist.ReduceOp.MIN)  # one rank alone must not wait for the others in a graph
    if not agreed.item():
        return None

    def step() -> None:
        for _ in range(count):
            torch.ops.symm_mem.one_shot_all_reduce(shared, "sum", group)

    return step


def main() -> None:
    """Load, capture, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of Hugging Face weights")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    meet(device)
    first, ranks = dist.get_rank() == 0, dist.get_world_size()
    tell = progress if first else lambda *_: None
    tell(2, STEPS, "each rank reads its part of the weights")
    model = load(arguments.model, device, torch.float16, split=True, attn_implementation="sdpa")
    count, hidden = 2 * model.config.num_hidden_layers, model.config.hidden_size
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(device), "ranks": ranks, "bytes": held_bytes(model)}
    result |= {"prompt": PROMPT, "all_reduces": count if ranks > 1 else 0, "all_reduce_bytes": 2 * hidden}
    with torch.inference_mode():
        tell(3, STEPS, "one token, kernel by kernel and as a graph")
        step = one_token(model, device)
        graph = captured(step)
        result |= {"host_bound": host_seconds(step), "token": device_seconds(graph)}
        # A communicator cannot be taken down while a graph that uses it lives.
        del graph
        if ranks > 1:
            tell(4, STEPS, "the all-reduces of a token, alone")
            graph = captured(exchanges(hidden, count, device))
            result["exchanges"] = device_seconds(graph)
            del graph
            at_once = one_shot_exchanges(hidden, count, device)
            result["one_shot"] = device_seconds(captured(at_once)) if at_once else None
    if first:
        tell(5, STEPS, "writing")
        (arguments.output / "timing.json").write_text(json.dumps(result))
    dist.barrier()
    torch.cuda.synchronize()
    # Taking the process group down waits for graphs that Python may still hold; there is nothing left to do here.
    os._exit(0)


if __name__ == "__main__":
    main()
