"""The engine backend's ``LLM``, generating for real with the Hugging Face weights in the tokenizer's folder.

So text, streaming, token counts and logits are real, and **the same for every precision**: this is a double. What it
refuses, and with which words, follows tensorrt_llm/llmapi/llm.py (``_check_arguments``) and the C++ runtime's requests
(batch_manager/llmRequest.h, executor/executorImpl.cpp) of late 2025. Requests that are awaited together are computed
together; who of them held which KV blocks in which iteration is simulated beside it (``double_scheduler``).
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import double
import double_engine
import double_machine
import double_scheduler
import tensorrt
import torch

from tensorrt_llm.executor import RequestError
from tensorrt_llm.llmapi import KvCacheConfig, SchedulerConfig
from tensorrt_llm.sampling_params import SamplingParams

# transformers imports scikit-learn where there is one, for nothing that is done here, and each program waits for it.
sys.modules.setdefault("sklearn", None)

CUDA_OOM = (
    "[TensorRT-LLM][ERROR] CUDA runtime error in ::cudaMallocAsync(ptr, n, mMemPool->getPool(), mCudaStream->get()): "
    "out of memory"
)


def common(one, other):
    """How many tokens two prompts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))


class CompletionOutput:
    """One answer, growing while it is generated."""

    def __init__(self):
        self.index, self.text, self.token_ids, self.finish_reason, self.stop_reason = 0, "", [], None, None
        self.logprobs = None


class RequestOutput:
    """A request: iterate it for one more token at a time, or ask for the result."""

    def __init__(self, number, prompt, ids, steps, awaited):
        self.request_id, self.prompt, self.prompt_token_ids = number, prompt, ids
        self.outputs, self.context_logits, self.finished = [CompletionOutput()], None, False
        self._steps, self._awaited = steps(self), awaited

    def result(self, timeout=None):
        self._awaited(self)
        for _ in self._steps:
            pass
        return self

    async def aresult(self):
        async for _ in self:
            pass
        return self

    def __iter__(self):
        return self

    def __next__(self):
        self._awaited(self)
        next(self._steps)
        return self

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(0)
        try:
            return next(self)
        except StopIteration:
            raise StopAsyncIteration from None


class Runner:
    """What both back ends do; each refuses and reads what is its own."""

    def __init__(
        self,
        model,
        tokenizer=None,
        *positional,
        tensor_parallel_size=1,
        kv_cache_config=None,
        scheduler_config=None,
        enable_chunked_prefill=False,
        **more,
    ):
        self._engine = Path(model)
        self._cache = kv_cache_config or KvCacheConfig()
        self._scheduler = scheduler_config or SchedulerConfig()
        self._waiting, self._records, self._turn = [], [], threading.Lock()
        self._lock, self._requests, self._seen, self._read = threading.Lock(), 0, [], {}
        self._read_engine(tensor_parallel_size)
        from transformers import AutoTokenizer

        folder = Path(tokenizer or model)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = self._weights(folder)
        if len(self._ranks) > 1 and not (self._pretrained.get("quantization") or {}).get("quant_algo"):
            # So that the text of a split engine comes from all of its ranks' files.
            parts = [double_engine.weights(data) for data in self._ranks]
            self._model.load_state_dict(double_engine.joined(parts, self._pretrained))
        self._fix_reuse()
        self._fix_chunks(enable_chunked_prefill)
        self._pool = double_scheduler.Pool(self._blocks(), self._tokens_per_block)
        double_machine.hold(self._pool.blocks * self._tokens_per_block * self._bytes_per_token())

    def _weights(self, folder):
        """The model that generates: the Hugging Face weights in the tokenizer's folder."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder).float().eval()

    def _fix_reuse(self):
        """What ``fixExecutorConfig`` does: it warns and goes on."""
        self._reuses = self._cache.enable_block_reuse
        if self._reuses and not self._build["plugin_config"]["use_paged_context_fmha"]:
            print("[TensorRT-LLM][WARNING] Fixing executorConfig: KV cache reuse disabled because model was not built "
                  "with paged context FMHA support", flush=True)  # fmt: skip
            self._reuses = False

    def _fix_chunks(self, wanted):
        """What ``fixExecutorConfig`` does with chunked context: it warns and goes on."""
        paged = self._build["plugin_config"]["use_paged_context_fmha"]
        if wanted and not paged:
            told = "Chunked context is not supported for this configuration and will be disabled. Related configs: "
            print(f"[TensorRT-LLM][WARNING] {told}RNNBased: 0, KVCacheEnabled: 1, PagedContextFMHA: 0", flush=True)
        self._chunks = wanted and paged

    def _bytes_per_token(self):
        """Bytes of one token's keys and values in every layer of one rank."""
        config = self._pretrained
        head = config.get("head_size") or config["hidden_size"] // config["num_attention_heads"]
        width = 1 if (config.get("quantization") or {}).get("kv_cache_quant_algo") in ("FP8", "INT8") else 2
        heads = config.get("num_key_value_heads") or config["num_attention_heads"]
        heads //= config["mapping"].get("tp_size", 1)
        return 2 * config["num_hidden_layers"] * heads * head * width

    def _blocks(self):
        """Blocks of the KV cache: of the share of memory or of ``max_tokens``, whichever are fewer."""
        share = self._cache.free_gpu_memory_fraction or 0.9
        tokens = int(share * double_machine.gpus()[0]["memory"]) // self._bytes_per_token()
        blocks = tokens // self._tokens_per_block
        if self._cache.max_tokens is not None:
            blocks = min(blocks, -(-self._cache.max_tokens // self._tokens_per_block))
        self._longest = self._build["max_seq_len"]
        if blocks * self._tokens_per_block < self._longest:
            self._longest = blocks * self._tokens_per_block
            print("[TensorRT-LLM][WARNING] maxAttentionWindowVec too large to fit at least one sequence in kvCache. "
                  f"Old: [{self._build['max_seq_len']}], New: [{self._longest}]", flush=True)  # fmt: skip
        return blocks

    def _read_engine(self, tensor_parallel_size):
        """Refuse an engine that this release, this GPU or this call cannot run."""
        settings = json.loads((self._engine / "config.json").read_text())
        if "build_config" not in settings:
            raise NotImplementedError("the double builds nothing from Hugging Face weights: give it an engine")
        self._build, self._pretrained = settings["build_config"], settings["pretrained_config"]
        ranks = settings["pretrained_config"]["mapping"]["world_size"]
        if tensor_parallel_size not in (1, ranks):
            raise ValueError(f"tp_size {tensor_parallel_size} is not consistent with the engine's tp_size {ranks}")
        # llm_args.py: the engine's own KV precision is fixed when it is built.
        assert self._cache.dtype == "auto", "KvCacheConfig.dtype is not supported by the TensorRT backend."
        double.require_gpus(ranks)
        if double_machine.fault("llm", "oom"):
            raise RuntimeError(CUDA_OOM)
        if double_machine.fault("llm", "killed"):
            os.kill(os.getpid(), 9)
        print(f"[TensorRT-LLM][INFO] Engine version {settings['version']} found in the config file, assuming engine(s) "
              "built by new builder API.", flush=True)  # fmt: skip
        runtime = tensorrt.Runtime(tensorrt.Logger())
        self._ranks = []
        for rank in range(ranks):
            file = self._engine / f"rank{rank}.engine"
            if not file.is_file():
                raise RuntimeError(f"[TensorRT-LLM][ERROR] Assertion failed: Error opening engine file: {file}")
            self._ranks.append(file.read_bytes())
            if runtime.deserialize_cuda_engine(self._ranks[-1]) is None:
                raise RuntimeError("[TensorRT-LLM][ERROR] Assertion failed: Failed to deserialize cuda engine.")
        if ranks > 1 and "FORCE_NCCL_ALL_REDUCE_STRATEGY" in os.environ:  # executorWorker.cpp
            print("[TensorRT-LLM][INFO] FORCE_NCCL_ALL_REDUCE_STRATEGY env variable detected in worker", flush=True)
        if ranks > 1 and double_machine.fault("llm", "ranks-hang"):
            # Each further rank is a process in a session of its own, as MPI's daemon starts it; they never meet.
            for _ in range(1, ranks):
                subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)"], start_new_session=True)
            time.sleep(3600)

    @property
    def _tokens_per_block(self):
        return self._build["plugin_config"]["tokens_per_block"]

    @property
    def _longest_prompt(self):
        """With padding removed and fused attention, as every engine here, ``max_input_len`` itself is not looked at."""
        return self._longest - 1 if self._chunks else min(self._build["max_num_tokens"], self._longest - 1)

    @double.entry("tensorrt_llm.LLM.generate")
    def generate(self, inputs, sampling_params=None, **more):
        single = isinstance(inputs, (str, dict)) or (bool(inputs) and isinstance(inputs[0], int))
        asked = [self.generate_async(one, sampling_params) for one in ([inputs] if single else inputs)]
        if not self._waiting:
            self._read_together([one.prompt_token_ids for one in asked])
        done = [one.result() for one in asked]
        return done[0] if single else done

    @double.entry("tensorrt_llm.LLM.generate_async")
    def generate_async(self, inputs, sampling_params=None, streaming=False, **more):
        parameters = SamplingParams() if sampling_params is None else sampling_params
        if not isinstance(parameters, SamplingParams):
            raise TypeError(f"The sampling_params must be type SamplingParams or None, but got {type(parameters)}")
        prompt = inputs if isinstance(inputs, str) else inputs.get("prompt") if isinstance(inputs, dict) else None
        ids = inputs["prompt_token_ids"] if isinstance(inputs, dict) and prompt is None else inputs
        if prompt is not None:
            ids = self.tokenizer(prompt, add_special_tokens=parameters.add_special_tokens)["input_ids"]
        self._check(len(ids), parameters)
        self._requests += 1
        steps = lambda output: self._steps(output, parameters)  # noqa: E731
        output = RequestOutput(self._requests, prompt, list(ids), steps, self._together)
        plain = parameters.greedy and not parameters.return_context_logits and not streaming
        if plain and len(ids) <= self._longest_prompt:
            self._waiting.append((output, parameters))
        return output

    def _wanted(self, output, parameters):
        """Tokens to make; a request that the KV cache could not hold to its end is cut, with a warning."""
        return min(parameters.max_tokens or self._longest, self._longest - len(output.prompt_token_ids))

    def _together(self, asked):
        """Compute every request that waits, in one batch, where the one asked for is among them."""
        with self._turn:
            if any(output is asked for output, _ in self._waiting):
                waiting, self._waiting = self._waiting, []
                self._compute(waiting)

    def _end(self, parameters):
        return parameters.end_id if parameters.end_id is not None else self.tokenizer.eos_token_id

    def _compute(self, waiting):
        """Answer requests in one batch; note what the scheduler did meanwhile."""
        began = time.perf_counter()
        prompts = [output.prompt_token_ids for output, _ in waiting]
        wanted = [self._wanted(output, parameters) for output, parameters in waiting]
        ends = [None if parameters.ignore_eos else self._end(parameters) for _, parameters in waiting]
        made = self._greedy(prompts, wanted, ends)
        for (output, parameters), (ids, stopped) in zip(waiting, made, strict=True):
            answer = output.outputs[0]
            answer.token_ids, answer.finish_reason = ids, "stop" if stopped else "length"
            answer.text = self.tokenizer.decode(ids, skip_special_tokens=parameters.skip_special_tokens)
            output.finished = True
        lengths = [(len(output.prompt_token_ids), len(output.outputs[0].token_ids)) for output, _ in waiting]
        self._note(lengths, time.perf_counter() - began)

    def _note(self, lengths, seconds):
        """Add the records of requests of (prompt, answer) tokens that ran together."""
        requests = [double_scheduler.Request(prompt, max(1, answer)) for prompt, answer in lengths]
        records = double_scheduler.iterations(
            requests,
            self._pool,
            str(self._scheduler.capacity_scheduler_policy),
            self._build["max_batch_size"],
            self._build["max_num_tokens"],
        )
        for record in records[1:-1]:  # a record has the latency of the iteration before; the idle one at the end none
            record["iterLatencyMS"] = 1000 * seconds / len(records)
        self._records += records[-1000:]

    def _greedy(self, prompts, wanted, ends):
        """(token ids, stopped at the end token) of each prompt, all in one batch, filled up in front."""
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        places, past = (mask.cumsum(-1) - 1).clamp(min=0), None
        made, stopped = [[] for _ in prompts], [False] * len(prompts)
        open_rows = {number for number, count in enumerate(wanted) if count > 0}
        while open_rows:
            with self._lock, torch.inference_mode():
                done = self._model(
                    input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=past, use_cache=True
                )
            past, chosen = done.past_key_values, done.logits[:, -1].argmax(-1)
            for number in list(open_rows):
                token = int(chosen[number])
                stopped[number] = token == ends[number]
                if not stopped[number]:
                    made[number].append(token)
                if stopped[number] or len(made[number]) >= wanted[number]:
                    open_rows.discard(number)
            ids, places = chosen[:, None], places[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], -1)
        return list(zip(made, stopped, strict=True))

    def _check(self, length, parameters):
        longest = self._build["max_seq_len"]
        if length + (parameters.max_tokens or 0) > longest:
            raise ValueError(
                f"The sum of prompt length ({float(length)}) and query length (0) max_tokens ({parameters.max_tokens}) "
                f"should not exceed max_seq_len ({longest})"
            )
        if parameters.prompt_logprobs and not self._build["gather_context_logits"]:
            raise ValueError(
                f"`sampling_params's prompt_logprobs={parameters.prompt_logprobs}` requires "
                "`gather_context_logits=True` in the `BuildConfig` when constructing the LLM."
            )

    def _steps(self, output, parameters):
        """Make one token after the other; what the runtime refuses is raised here, when the answer is awaited."""
        if output.finished:
            return
        ids, answer = output.prompt_token_ids, output.outputs[0]
        began, wanted = time.perf_counter(), self._wanted(output, parameters)
        if len(ids) > self._longest_prompt:
            raise RequestError(
                f"Prompt length ({len(ids)}) exceeds maximum input length ({self._longest_prompt}). Set log level to "
                "info and check TRTGptModel logs for how maximum input length is set"
            )
        if parameters.return_context_logits and not self._build["gather_context_logits"]:
            raise RequestError("Return context logit need to build engine with gather_context_logits")
        generator = torch.Generator().manual_seed(parameters.seed or 0)
        end = self._end(parameters)
        logits, past = self._read.pop(tuple(ids), None) or self._forward(ids, None)
        if parameters.return_context_logits:
            # A block that is reused is not computed, so its logits are missing, and nothing says so (#3388).
            output.context_logits = logits[self._reused(ids) :]
        while answer.finish_reason is None:
            token = self._choose(logits[-1], parameters, generator)
            if token == end and not parameters.ignore_eos:
                answer.finish_reason = "stop"  # the end token itself is not part of the answer
            else:
                answer.token_ids.append(token)
                answer.text = self.tokenizer.decode(
                    answer.token_ids, skip_special_tokens=parameters.skip_special_tokens
                )
                if len(answer.token_ids) >= wanted:
                    answer.finish_reason = "length"
            output.finished = answer.finish_reason is not None
            if output.finished:
                self._note([(len(ids), len(answer.token_ids))], time.perf_counter() - began)
            yield
            if not output.finished:
                logits, past = self._forward([token], past) if past else self._forward([*ids, token], None)

    def _forward(self, ids, past):
        """Logits [tokens, vocabulary] of further tokens, and the KV cache after them."""
        with self._lock, torch.inference_mode():
            made = self._model(input_ids=torch.tensor([ids]), past_key_values=past, use_cache=True)
        return made.logits[0], made.past_key_values

    def _read_together(self, prompts):
        """Prefill several prompts in one go, filled up at their ends; their KV caches are not kept."""
        width = max(map(len, prompts))
        if len(prompts) > 1 and width <= self._longest_prompt:
            rows = torch.tensor([ids + [0] * (width - len(ids)) for ids in prompts])
            with self._lock, torch.inference_mode():
                logits = self._model(input_ids=rows).logits
            self._read = {tuple(ids): (row[: len(ids)], None) for ids, row in zip(prompts, logits, strict=True)}

    @staticmethod
    def _choose(logits, parameters, generator):
        if parameters.greedy:
            return int(logits.argmax())
        likelihood = (logits / (parameters.temperature or 1.0)).softmax(-1)
        return int(torch.multinomial(likelihood, 1, generator=generator))

    def _reused(self, ids):
        """Tokens at the front that an earlier prompt left in the KV cache, the last one excepted."""
        if not self._reuses:
            return 0
        block = 1 if self._cache.enable_partial_reuse else self._tokens_per_block
        longest = max((common(ids, earlier) for earlier in self._seen), default=0)
        self._seen.append(ids)
        return min(longest, len(ids) - 1) // block * block

    @double.entry("tensorrt_llm.LLM.get_stats")
    def get_stats(self, timeout=2):
        """What the scheduler did since the last call, an iteration a record."""
        records, self._records = self._records, []
        return records

    @double.entry("tensorrt_llm.LLM.shutdown")
    def shutdown(self):
        double_machine.release()

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        self.shutdown()
        return False


@double.entry("tensorrt_llm._tensorrt_engine.LLM", ValueError, named=9)
class LLM(Runner):
    """The engine back end."""
