"""``trtllm-build``: checks a checkpoint as the real one does, and writes an engine's real layout.

What it refuses, and how, follows commands/build.py, builder.py (``build``, ``EngineConfig``) and modeling_utils.py
(``PretrainedConfig``, ``load``) of late 2025; the texts of TensorRT itself are from NVIDIA/TensorRT-LLM #1428 (FP8),
guidance-ai/llgtrt #7 (memory) and #320 (old GPUs).
"""

import json
import os
import time
from pathlib import Path

import double
import double_engine
import double_machine

from tensorrt_llm.builder import BuildConfig

# What ``PretrainedConfig.__init__`` demands; every other key has a default there.
DEMANDED = ("architecture", "dtype", "hidden_size", "num_hidden_layers", "num_attention_heads")
FP8 = ("FP8", "W4A8_AWQ", "NVFP4")
INTEGER_WEIGHTS = ("W8A16", "W4A16", "W4A16_AWQ", "W4A8_AWQ")
FAILED = "Engine building failed, please check the error log."


def read_config(folder):
    """The checkpoint's settings; what the real one raises where they do not do."""
    config = json.loads((folder / "config.json").read_text())
    if config["architecture"] != "LlamaForCausalLM":
        raise KeyError(config["architecture"])
    missing = [repr(name) for name in DEMANDED if name not in config]
    if missing:
        raise TypeError(f"PretrainedConfig.__init__() missing required keyword-only arguments: {', '.join(missing)}")
    return config


def check_tensors(folder, config, rank):
    """Refuse a rank whose file is not there, or lacks or misshapes a tensor that the Llama loader takes."""
    loader = double.table("llama_checkpoint")
    file = folder / f"rank{rank}.safetensors"
    assert file.is_file(), f"rank{rank}.safetensors"
    provided, (wanted, optional) = loader.headers(file), loader.expected(config)
    missing = wanted.keys() - provided.keys() - optional
    if missing:
        raise RuntimeError(f"Required but not provided tensors:{missing}")
    if provided.keys() - wanted.keys():
        double.log(f"Provided but not required tensors: {provided.keys() - wanted.keys()}", "W")
    for name in wanted.keys() & provided.keys():
        if provided[name][1] != wanted[name][1]:
            raise RuntimeError(
                "Encounter error 'The value updated is not the same shape as the original. Updated: "
                f"{provided[name][1]}, original: {wanted[name][1]}' for parameter '{name}'"
            )


def check_gpu(config, gpu):
    """Refuse what this GPU's TensorRT refuses. Three kinds of refusal: Python's, TensorRT's own, and memory's."""
    quantization = config.get("quantization") or {}
    algorithm, kv = quantization.get("quant_algo"), quantization.get("kv_cache_quant_algo")
    capability = gpu["capability"][0] * 10 + gpu["capability"][1]
    if 100 <= capability < 120:
        if algorithm in INTEGER_WEIGHTS or kv == "INT8":
            raise RuntimeError("INT8/INT4 quantization is not supported on SM>=100.")
        if algorithm and algorithm.startswith("W8A8_SQ"):
            raise RuntimeError("SmoothQuant is not supported on SM>=100.")
    if capability < 89 and algorithm in FP8:
        double.log(
            "IBuilder::buildSerializedNetwork: Error Code 9: Internal Error "
            "(Networks with FP8 precision require hardware with FP8 support.)",
            "E",
            "TRT",
        )
        raise AssertionError(FAILED)
    if double_machine.fault("build", "oom"):
        double.log("[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)", "E", "TRT")
        double.log("Requested amount of GPU memory (68719476736 bytes) could not be allocated. There may not be enough "
                   "free memory for allocation to succeed.", "W", "TRT")  # fmt: skip
        double.log("Error Code 2: OutOfMemory (Requested size was 68719476736 bytes.)", "E", "TRT")
        raise AssertionError(FAILED)
    if double_machine.fault("build", "killed"):
        os.kill(os.getpid(), 9)


def force_attention(plugins, config, gpu):
    """Switch off what attention cannot do with this pair of weights and KV cache, with a warning, in the same order."""
    quantization = config.get("quantization") or {}
    algorithm, kv = quantization.get("quant_algo"), quantization.get("kv_cache_quant_algo")
    capability = gpu["capability"][0] * 10 + gpu["capability"][1]

    def off(name, why, what="FP8 Context FMHA"):
        plugins[name] = False
        double.log(f"{what} is disabled because {why}.", "W")

    paged = "use_paged_context_fmha"
    if algorithm not in FP8 or capability < 89:
        if algorithm in FP8:
            off("use_fp8_context_fmha", "it is only supported on Ada and Hopper Arch", "FP8 context FMHA")
        elif plugins["use_fp8_context_fmha"]:
            off("use_fp8_context_fmha", "it must be used together with the fp8 quantization workflow")
        if plugins[paged] and kv == "FP8":
            off(paged, "FP8 context FMHA is disabled", "FP8 Paged Context FMHA")
    elif plugins[paged] and kv != "FP8" and plugins["use_fp8_context_fmha"]:
        off("use_fp8_context_fmha", "it must be used together with fp8 KV Cache", "FP8 Paged Context FMHA")
    elif plugins[paged] and kv == "FP8" and not plugins["use_fp8_context_fmha"]:
        plugins["use_fp8_context_fmha"] = True
        double.log("FP8 Context FMHA is enabled to support FP8 Paged Context FMHA.", "W")
    if plugins[paged] and kv == "INT8":
        off(paged, "it doesn't work with int8 kv cache currently", "Paged Context FMHA")


def build_config(options, config, gpu):
    """The engine's ``build_config``: all fields with what was asked for, and the plugins below."""
    plugins, fields = {}, BuildConfig().to_dict()
    for name, value in options.items():
        if name in fields:
            fields[name] = value
        elif value in ("enable", "disable") or name.endswith("_plugin") or name == "tokens_per_block":
            plugins[name] = {"enable": True, "disable": None if name.endswith("_plugin") else False}.get(value, value)
    if fields["max_seq_len"] is None:
        fields["max_seq_len"] = config["max_position_embeddings"]
        double.log(f"max_seq_len is not specified, using deduced value {fields['max_seq_len']}")
    force_attention(plugins, config, gpu)
    for name in ("dry_run", "visualize_network", "plugin_config", "lora_config"):
        fields.pop(name, None)
    fields["kv_cache_type"] = (fields.get("kv_cache_type") or "paged").upper()
    return {**fields, "plugin_config": plugins, "lora_config": {}}


def main():
    options = double.arguments("trtllm-build")
    began = time.monotonic()
    checkpoint, engine = Path(options["checkpoint_dir"]), Path(options["output_dir"])
    engine.mkdir(parents=True, exist_ok=True)
    config = read_config(checkpoint)
    gpus = double.require_gpus(1)
    settings = build_config(options, config, gpus[0])
    for rank in range(config["mapping"]["world_size"]):
        double_machine.hold(2**30)
        check_tensors(checkpoint, config, rank)
        double.log("Build TensorRT engine Unnamed Network 0")
        check_gpu(config, gpus[0])
        weights = checkpoint / f"rank{rank}.safetensors"
        double_engine.write(engine / f"rank{rank}.engine", config, settings, gpus[0], weights)
        double.log("Total time of building Unnamed Network 0: 00:00:05")
        double.log(f"Serializing engine to {engine}/rank{rank}.engine...")
    Path(options["output_timing_cache"]).write_bytes(b"the double timed no kernel")
    written = {"version": double.VERSION, "pretrained_config": config, "build_config": settings}
    (engine / "config.json").write_text(json.dumps(written, indent=4))
    took = time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - began))
    double.log(f"Total time of building all engines: {took}")
    double_machine.release()
