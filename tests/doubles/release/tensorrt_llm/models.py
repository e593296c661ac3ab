"""``LLaMAForCausalLM``: conversion of Hugging Face weights, without quantization or to INT8 weight-only.

Names and shapes follow quantization/layers.py (``WeightOnlyQuantLinear``: ``weight`` INT8 [inputs, outputs],
``per_channel_scale`` [outputs]), models/llama/model.py and modeling_utils.py (``save_checkpoint``) of late 2025. The
real conversion also reorders each INT8 matrix for its kernels; the double leaves the order as it is.
"""

import json
from pathlib import Path

import double

from tensorrt_llm.llmapi import QuantAlgo, QuantConfig
from tensorrt_llm.mapping import Mapping

EXCLUDED = ["lm_head", "router", "vocab_embedding", "position_embedding", "block_embedding"]


class LLaMAForCausalLM:
    def __init__(self, config, weights, rank):
        self.config, self._weights, self._rank = config, weights, rank

    @classmethod
    @double.entry("tensorrt_llm.models.LLaMAForCausalLM.from_hugging_face", named=4)
    def from_hugging_face(cls, hf_model_or_dir, dtype="auto", mapping=None, quant_config=None, **more):
        return cls(*_converted(hf_model_or_dir, dtype, mapping or Mapping(), quant_config or QuantConfig()))

    @double.entry("tensorrt_llm.models.LLaMAForCausalLM.save_checkpoint")
    def save_checkpoint(self, output_dir, save_config=True):
        from safetensors.torch import save_file

        if save_config:
            (Path(output_dir) / "config.json").write_text(json.dumps(self.config, indent=4))
        tensors = {name: tensor.contiguous() for name, tensor in self._weights.items()}
        save_file(tensors, str(Path(output_dir) / f"rank{self._rank}.safetensors"))


def _converted(folder, dtype, mapping, quantization):
    """Settings, weights by their names in a checkpoint, and the rank."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if quantization.quant_algo not in (None, QuantAlgo.W8A16) or quantization.kv_cache_quant_algo:
        raise ValueError(f"{quantization.quant_algo} needs calibration: the double converts only W8A16")
    double.require_gpus(1)
    hf = AutoConfig.from_pretrained(folder)
    kind = torch.float16 if dtype == "auto" else getattr(torch, dtype)
    whole = AutoModelForCausalLM.from_pretrained(folder).to(kind).state_dict()
    size, rank = mapping.tp_size, mapping.rank

    def rows(name):
        return whole[name].chunk(size, 0)[rank]

    def columns(name):
        return whole[name].chunk(size, 1)[rank]

    weights = {"transformer.vocab_embedding.weight": whole["model.embed_tokens.weight"]}
    for number in range(hf.num_hidden_layers):
        old, new = f"model.layers.{number}", f"transformer.layers.{number}"
        projections = [rows(f"{old}.self_attn.{letter}_proj.weight") for letter in "qkv"]
        weights |= {
            f"{new}.input_layernorm.weight": whole[f"{old}.input_layernorm.weight"],
            f"{new}.attention.qkv.weight": torch.cat(projections),
            f"{new}.attention.dense.weight": columns(f"{old}.self_attn.o_proj.weight"),
            f"{new}.post_layernorm.weight": whole[f"{old}.post_attention_layernorm.weight"],
            f"{new}.mlp.fc.weight": rows(f"{old}.mlp.gate_proj.weight"),
            f"{new}.mlp.gate.weight": rows(f"{old}.mlp.up_proj.weight"),
            f"{new}.mlp.proj.weight": columns(f"{old}.mlp.down_proj.weight"),
        }
    weights |= {"transformer.ln_f.weight": whole["model.norm.weight"], "lm_head.weight": rows("lm_head.weight")}
    if quantization.quant_algo:
        quantization.exclude_modules = quantization.exclude_modules or EXCLUDED
        for name in [name for name in weights if ".attention." in name or ".mlp." in name]:
            matrix = weights[name].t().float()
            scale = matrix.abs().amax(0) / 127
            weights[name] = (matrix / scale).round().clamp(-128, 127).to(torch.int8)
            weights[name.replace(".weight", ".per_channel_scale")] = scale.to(kind)
    return _config(hf, str(kind).removeprefix("torch."), mapping, quantization), weights, rank


def _config(hf, dtype, mapping, quantization):
    """``config.json``, as ``PretrainedConfig.to_dict`` gives it."""
    return {
        "architecture": "LlamaForCausalLM",
        "dtype": dtype,
        "vocab_size": hf.vocab_size,
        "hidden_size": hf.hidden_size,
        "num_hidden_layers": hf.num_hidden_layers,
        "num_attention_heads": hf.num_attention_heads,
        "hidden_act": hf.hidden_act,
        "logits_dtype": "float32",
        "norm_epsilon": hf.rms_norm_eps,
        "position_embedding_type": "rope_gpt_neox",
        "num_key_value_heads": hf.num_key_value_heads,
        "intermediate_size": hf.intermediate_size,
        "max_position_embeddings": hf.max_position_embeddings,
        "mapping": {name: value for name, value in mapping.to_dict().items() if name != "rank"},
        "quantization": quantization.to_dict(),
        "use_parallel_embedding": False,
        "embedding_sharding_dim": 0,
        "head_size": hf.hidden_size // hf.num_attention_heads,
        "qk_layernorm": False,
        "rotary_embedding_dim": hf.hidden_size // hf.num_attention_heads,
        "mlp_bias": False,
        "attn_bias": False,
        "rotary_base": hf.rope_theta,
        "rotary_scaling": None,
        "residual_mlp": False,
        "disable_weight_only_quant_plugin": False,
    }
