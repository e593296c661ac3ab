"""The PyTorch back end's ``LLM``: loads a Hugging Face folder, quantized by ModelOpt or not.

What it refuses follows tensorrt_llm/llmapi/llm.py and llm_args.py (``TorchLlmArgs``) of late 2025, and NVIDIA's table
of precisions (docs/source/features/quantization.md). The weights of a unified checkpoint are multiplied out for real;
that the runtime rounds inputs and caches too is left out.
"""

import json
import sys

import double
import double_machine

from tensorrt_llm._tensorrt_engine import CUDA_OOM, Runner

WEIGHTS = {None: (8, 0), "FP8": (8, 9), "W4A16_AWQ": (8, 0)}
"""What a checkpoint may be quantized to, and the lowest compute capability that has it."""


def invalid(problem):
    """The error for a keyword that the class does not know."""
    return ValueError(f"LLM got invalid argument: {problem}")


def quantization(folder):
    """What ``hf_quant_config.json`` says; empty for a folder in 16 bits."""
    file = folder / "hf_quant_config.json"
    return json.loads(file.read_text())["quantization"] if file.is_file() else {}


@double.entry("tensorrt_llm.LLM", invalid, named=9)
class LLM(Runner):
    def __init__(
        self,
        model,
        *positional,
        max_batch_size=2048,
        max_num_tokens=8192,
        max_seq_len=None,
        enable_iter_perf_stats=False,
        **more,
    ):
        self._told = enable_iter_perf_stats
        self._limits = {"max_batch_size": max_batch_size, "max_num_tokens": max_num_tokens, "max_seq_len": max_seq_len}
        super().__init__(model, *positional, **more)

    def _read_engine(self, tensor_parallel_size):
        """Refuse a folder that this back end does not load, or this GPU has not the arithmetic for."""
        settings = json.loads((self._engine / "config.json").read_text())
        if "model_type" not in settings:
            raise ValueError(f"Unrecognized model in {self._engine}. Should have a `model_type` key in its config.json")
        double.require_gpus(tensor_parallel_size)
        if double_machine.fault("llm", "oom"):
            raise RuntimeError(CUDA_OOM)
        quantized, capability = quantization(self._engine), double_machine.gpus()[0]["capability"]
        algorithm = quantized.get("quant_algo")
        if algorithm not in WEIGHTS:
            raise ValueError(f"Unsupported quantization mode: {algorithm}")
        if tuple(capability) < WEIGHTS[algorithm] or (algorithm == "W4A16_AWQ" and capability[0] >= 10):
            raise RuntimeError(
                f"[TensorRT-LLM][ERROR] Assertion failed: {algorithm} is not supported on SM{capability}"
            )
        cache = "FP8" if self._cache.dtype == "fp8" else quantized.get("kv_cache_quant_algo")
        if self._cache.dtype not in ("auto", "fp8"):
            raise ValueError(f"kv_cache_config.dtype of {self._cache.dtype} is not one that the double knows")
        limits = {**self._limits, "max_seq_len": self._limits["max_seq_len"] or settings["max_position_embeddings"]}
        plugins = {"tokens_per_block": 32, "use_paged_context_fmha": True}
        self._build = {**limits, "gather_context_logits": True, "plugin_config": plugins}
        mapping = {"world_size": tensor_parallel_size, "tp_size": tensor_parallel_size}
        self._pretrained = {**settings, "mapping": mapping, "quantization": {"kv_cache_quant_algo": cache}}
        self._ranks = [b""]

    def _weights(self, folder):
        from transformers import AutoConfig, AutoModelForCausalLM

        if not quantization(folder):
            return super()._weights(folder)
        sys.path.insert(0, str(double.ROOT / "helpers" / "workers"))
        import unified_read_back

        config = AutoConfig.from_pretrained(folder)
        del config.quantization_config
        model = AutoModelForCausalLM.from_config(config).float().eval()
        model.load_state_dict(unified_read_back.multiplied_out(unified_read_back.tensors(folder)))
        return model

    def _check(self, length, parameters):
        most = self._build["max_num_tokens"]
        if not self._chunks and length > most:
            told = f"The sum of prompt length ({float(length)}), query length (0)"
            raise ValueError(f"{told} should not exceed max_num_tokens ({most})")

    @double.entry("tensorrt_llm.LLM.get_stats")
    def get_stats(self, timeout=2):
        """Nothing, unless ``enable_iter_perf_stats`` was given."""
        records = super().get_stats(timeout)
        return records if self._told else []
