"""Blocks of a paged KV cache and who gets them: the bookkeeping of the runtime's capacity schedulers, without a model.

Follows cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp and executor/executorImpl.cpp (``executionLoop``,
``getCurrentIterationStats``) of 2025 as far as one GPU and greedy requests go: no chunks, no reuse, no overlap.
"""

from dataclasses import dataclass


@dataclass
class Request:
    """One request: its tokens in the cache are those that blocks must hold."""

    prompt: int
    wanted: int
    made: int = 0
    cached: int = 0  # tokens that blocks hold; 0: not started, or paused

    @property
    def started(self):
        return self.cached > 0

    @property
    def done(self):
        return self.made >= self.wanted


class Pool:
    """``blocks`` blocks of ``size`` tokens."""

    def __init__(self, blocks, size):
        self.blocks, self.size = blocks, size

    def holding(self, tokens):
        """Blocks that so many tokens of one request take."""
        return -(-tokens // self.size)

    def used(self, requests):
        return sum(self.holding(request.cached) for request in requests)


def next_tokens(request):
    """Tokens in the cache after the request's next step: a prompt is read whole, with what it had made when paused."""
    return request.cached + 1 if request.started else request.prompt + request.made


def max_utilization(active, pool):
    """Who runs now, and who is paused: what fits now starts; the youngest that has started makes room for older."""
    left, scheduled, paused = pool.blocks - pool.used(active), [], []
    waiting = list(active)
    while waiting:
        request = waiting[0]
        needed = pool.holding(next_tokens(request)) - pool.holding(request.cached)
        if needed <= left:
            left -= needed
            scheduled.append(waiting.pop(0))
            continue
        victim = next((one for one in reversed(waiting[1:]) if one.started), None)
        if victim is None:
            break
        left += pool.holding(victim.cached)
        victim.cached = 0
        paused.append(victim)
        del waiting[waiting.index(victim) :]
    return scheduled, paused


def guaranteed_no_evict(active, pool):
    """Who runs now: whoever has started, and of the others those whose last token will fit too, in order."""
    promised = sum(pool.holding(one.prompt + one.wanted - 1) for one in active if one.started)
    scheduled = [one for one in active if one.started]
    for request in active:
        if request.started:
            continue
        needed = pool.holding(request.prompt + request.wanted - 1)
        if promised + needed > pool.blocks:
            break
        promised += needed
        scheduled.append(request)
    return scheduled, []


POLICIES = {"MAX_UTILIZATION": max_utilization, "GUARANTEED_NO_EVICT": guaranteed_no_evict}


def iterations(requests, pool, policy, max_batch_size, max_num_tokens):
    """One record of statistics for each iteration, with the runtime's keys; latencies are to be filled in."""
    queue, active, records = list(requests), [], []
    while True:
        active = [one for one in active if not one.done]
        while queue and len(active) < max_batch_size:
            active.append(queue.pop(0))
        if not active:
            break
        scheduled, paused = POLICIES[policy](active, pool)
        scheduled = _within(scheduled, max_num_tokens)
        assert scheduled, "no request fits the KV cache: the runtime would wait for ever"
        context = [one for one in scheduled if not one.started]
        tokens = sum(next_tokens(one) for one in context)
        for request in scheduled:
            request.cached = next_tokens(request)
            request.made += 1
        records.append(_record(len(records), active, queue, scheduled, context, tokens, paused, pool))
        for request in scheduled:
            if request.done:
                request.cached = 0
    return [*records, _record(len(records), [], [], [], [], 0, [], pool)]


def _within(scheduled, max_num_tokens):
    """As many of them, in order, as go through one step."""
    left, taken = max_num_tokens, []
    for request in scheduled:
        left -= 1 if request.started else next_tokens(request)
        if left < 0:
            break
        taken.append(request)
    return taken


def _record(number, active, queue, scheduled, context, tokens, paused, pool):
    used = pool.used(active)
    return {
        "iter": number,
        "iterLatencyMS": 0.0,
        "numActiveRequests": len(active),
        "numQueuedRequests": len(queue),
        "kvCacheStats": {
            "maxNumBlocks": pool.blocks,
            "usedNumBlocks": used,
            "freeNumBlocks": pool.blocks - used,
            "tokensPerBlock": pool.size,
        },
        "inflightBatchingStats": {
            "numScheduledRequests": len(scheduled),
            "numContextRequests": len(context),
            "numGenRequests": len(scheduled) - len(context),
            "numPausedRequests": len(paused),
            "numCtxTokens": tokens,
        },
    }
