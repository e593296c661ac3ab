"""Iteration statistics as ``trtllm-serve`` gives them at ``/metrics``: a list of records, handed out once.

The keys are those of TensorRT-LLM's C++ ``IterationStats``. What the CPU pipeline tells, or what can be counted from
the tokens that come out of it, is in a record; the rest is left out, and nothing is made up. In particular:

- ``numActiveRequests`` counts the requests that hold a slot in this iteration, those that end in it included;
  ``numQueuedRequests`` those that wait for one.
- ``cpuMemUsage`` is the memory of the engine's process in RAM, a quarter of a second old at most. ``gpuMemUsage`` and
  ``pinnedMemUsage`` are 0: there is none.
- ``kvCacheStats`` has no counts of allocated or reused blocks: OpenVINO does not tell them.
- ``numPausedRequests`` is worked out from which requests make no token (see ``helpers/workers/openvino_serve.py``).
- With chunked prefill, ``numCtxTokens`` is missing: OpenVINO does not say how it cut the prompts.
"""

import asyncio
from collections import deque
from datetime import datetime
from typing import Any

KEPT = 1000
"""Records that wait to be fetched; the oldest go first, as in TensorRT-LLM."""
PATIENCE = 2.0
"""Seconds that a request waits for a record where there is none, as the real server does."""


class Records:
    """The queue behind ``/metrics``.

    Args:
        limits: what every record says alike: ``max_batch_size``, ``max_num_tokens``, ``kv_blocks``,
            ``tokens_per_block``.
    """

    def __init__(self, limits: dict[str, int]) -> None:
        self._kept: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._come = asyncio.Event()
        batch, tokens = limits["max_batch_size"], limits["max_num_tokens"]
        self._static = {
            "maxNumActiveRequests": batch,
            "maxBatchSizeStatic": batch,
            "maxBatchSizeRuntime": batch,
            "maxNumTokensStatic": tokens,
            "maxNumTokensRuntime": tokens,
            "gpuMemUsage": 0,
            "pinnedMemUsage": 0,
        }
        self._blocks = {"maxNumBlocks": limits["kv_blocks"], "tokensPerBlock": limits["tokens_per_block"]}

    def add(self, told: dict[str, Any]) -> None:
        """Keep what the engine's process told of one iteration."""
        self._kept.append(told)
        self._come.set()

    async def drain(self) -> list[dict[str, Any]]:
        """All records since the last call; waits up to :data:`PATIENCE` seconds for one, and may then be empty."""
        if not self._kept:
            self._come.clear()
            try:
                await asyncio.wait_for(self._come.wait(), PATIENCE)
            except TimeoutError:
                return []
        taken, self._kept = self._kept, deque(maxlen=KEPT)
        return [self._record(told) for told in taken]

    def _record(self, told: dict[str, Any]) -> dict[str, Any]:
        """One record in full."""
        when = datetime.fromtimestamp(told["timestamp"]).strftime("%m-%d-%Y %H:%M:%S.%f")
        blocks = {**self._blocks, **told["kvCacheStats"]}
        return {**told, "timestamp": when, **self._static, "kvCacheStats": blocks}
