"""Worker: quantize Hugging Face weights with NVIDIA's ModelOpt, pack them as asked for, and measure what that did.

Runs as a process of its own, one for each checkpoint: ModelOpt takes seconds to import and keeps its settings in
module-level dicts. It imports nothing of ``helpers``, so that it can run under another Python (notebooks 03 and 04):
that of a TensorRT-LLM release, on its GPU (ModelOpt 0.33 to 0.37, transformers 4.53 to 4.57), or the notebooks' own, on
the CPU.

One quantization, two packagings. ``--format trtllm`` writes what ``trtllm-build`` reads (``config.json``,
``rank{N}.safetensors``) and, in ``measured/``, what the quantizer's own arithmetic gives: ``nll.npy`` (negative
log-likelihood of each held-out token), ``ranges.json`` (what calibration found) and ``text.json`` (a greedy
continuation). ``--format hf`` writes ModelOpt's unified Hugging Face checkpoint (``config.json`` with the quantization
in it, ``hf_quant_config.json``, safetensors, the tokenizer), which TensorRT-LLM's PyTorch back end loads, and
``measured/ranges.json`` alone: ``unified_read_back.py`` measures it from its files (notebook 10).
"""

import argparse
import copy
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

FORMATS = {"fp8": "FP8_DEFAULT_CFG", "int8_sq": "INT8_SMOOTHQUANT_CFG", "int4_awq": "INT4_AWQ_CFG"}
# Largest finite value of each format: a scaling factor is the calibrated range divided by it.
LARGEST = {"fp8": 448.0, "int8": 127.0, "int8_sq": 127.0, "int4_awq": 7.0}
KV_FORMATS = {"fp8": (4, 3), "int8": 8}  # as ModelOpt writes them: bits of exponent and mantissa, or of an integer
KV_QUANTIZERS = ("k_bmm_quantizer", "v_bmm_quantizer")  # keys after their rotation: what the cache holds


def progress(done: int, total: int, text: str) -> None:
    """Tell the supervisor how far this is."""
    print(f"@progress {done}/{total} {text}", flush=True)


def read_texts(file: Path) -> list[str]:
    """The texts of a JSON-lines file, one ``{"text": ...}`` a line."""
    return [json.loads(line)["text"] for line in file.read_text().splitlines() if line.strip()]


def dtype_argument(dtype: Any) -> dict[str, Any]:
    """The argument that asks for a type of number; it was called ``torch_dtype`` before transformers 4.56."""
    import transformers

    newer = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (4, 56)
    return {"dtype" if newer else "torch_dtype": dtype}


def load(folder: Path) -> Any:
    """The model, ready to run: on the GPU in its own 16 bits, on a CPU in 32, which has no fast 16-bit arithmetic."""
    import torch
    import transformers

    on_gpu = torch.cuda.is_available()
    kind = dtype_argument(torch.float16 if on_gpu else torch.float32)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **kind).eval()
    return model.cuda() if on_gpu else model


def packed(tokenizer: Any, texts: list[str], length: int) -> list[Any]:
    """Token ids of all texts, end to end, cut into rows of ``length``; each a tensor of shape [1, <= length]."""
    import torch

    end = tokenizer.eos_token_id
    rows = [tokenizer(text)["input_ids"] for text in texts]
    ids = [token for row in rows for token in (row if row[-1] == end else [*row, end])]
    return [torch.tensor([ids[start : start + length]]) for start in range(0, len(ids), length)]


def quantize(model: Any, precision: str, kv: str | None, rows: list[Any]) -> Any:
    """Insert ModelOpt's quantizers, calibrate them on ``rows``, and return the model."""
    import modelopt.torch.quantization as mtq
    import torch

    none: dict[str, Any] = {"quant_cfg": {"default": {"enable": False}}, "algorithm": "max"}
    settings = copy.deepcopy(getattr(mtq, FORMATS[precision])) if precision in FORMATS else none
    if kv:  # the same as mtq.FP8_KV_CFG for FP8; ModelOpt has no ready one for INT8
        settings["quant_cfg"]["*[kv]_bmm_quantizer"] = {"num_bits": KV_FORMATS[kv], "axis": None, "enable": True}
    passes = 0

    def feed(calibrated: Any) -> None:
        nonlocal passes
        with torch.inference_mode():
            for number, row in enumerate(rows):
                progress(number, len(rows), f"calibrating, pass {passes + 1}")
                calibrated(input_ids=row.to(model.device))
        passes += 1

    return mtq.quantize(model, settings, feed)


def use_stored_factors(model: Any, kv: str) -> None:
    """Give the KV cache's quantizers the scaling factors that an engine will use, instead of what each found.

    The checkpoint's reader takes one factor for keys and values, the larger; and ModelOpt stores no FP8 factor below 1.
    """
    import torch

    for module in model.modules():
        pair: list[Any] = [getattr(module, name, None) for name in KV_QUANTIZERS]
        if any(getattr(quantizer, "amax", None) is None for quantizer in pair):
            continue
        shared = max(float(quantizer.amax) for quantizer in pair)
        for quantizer in pair:
            quantizer.amax = torch.full_like(quantizer.amax, max(shared, LARGEST["fp8"]) if kv == "fp8" else shared)


def folded(model: Any) -> Any:
    """A copy of a quantized model whose weights are rounded once and for all, instead of at every pass.

    On a GPU the model itself: rounding costs it little, and its memory may not hold a second one.
    """
    import modelopt.torch.quantization as mtq

    if model.device.type == "cuda":
        return model
    ready = copy.deepcopy(model)
    mtq.fold_weight(ready)
    return ready


def ranges(model: Any, precision: str, kv: str | None) -> list[dict[str, Any]]:
    """What calibration found: for each quantizer that has one, its largest absolute value and scaling factor.

    SmoothQuant divides every channel of the inputs by its own range, so what its quantizers see is at most 1. The value
    told is the one before: what the channels were divided by is in ``pre_quant_scale``.
    """
    found = []
    for name, module in model.named_modules():
        amax = getattr(module, "amax", None) if name.endswith("_quantizer") else None
        if amax is None or not module.is_enabled:
            continue
        smoothed = getattr(module, "pre_quant_scale", None)
        largest = float((amax if smoothed is None else amax / smoothed).max())
        place, quantizer = name.rsplit(".", 1)
        number_format = kv if quantizer in KV_QUANTIZERS and kv else precision
        found.append(
            {
                "module": place,
                "quantizer": quantizer.removesuffix("_quantizer"),
                "amax": largest,
                "scaling_factor": float(amax.max()) / LARGEST[number_format],
                "values": int(amax.numel()),
            }
        )
    return found


def score(model: Any, tokenizer: Any, texts: list[str], rows: int = 24) -> np.ndarray:
    """Negative log-likelihood, in nats, of every token after the first of each text, in the order of the texts."""
    import torch

    ids = [tokenizer(text)["input_ids"] for text in texts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    parts: dict[int, np.ndarray] = {}
    with torch.inference_mode():
        for start in range(0, len(order), rows):
            progress(start, len(order), "perplexity on held-out text")
            chosen = order[start : start + rows]
            width = max(len(ids[i]) for i in chosen)
            batch = torch.tensor([ids[i] + [tokenizer.eos_token_id] * (width - len(ids[i])) for i in chosen])
            batch = batch.to(model.device)
            likelihood = model(input_ids=batch).logits.float().log_softmax(-1)
            taken = likelihood[:, :-1].gather(-1, batch[:, 1:, None])[..., 0].cpu()
            for row, i in enumerate(chosen):
                parts[i] = -taken[row, : len(ids[i]) - 1].numpy()
    return np.concatenate([parts[i] for i in range(len(ids))]).astype(np.float32)


def continuation(model: Any, tokenizer: Any, prompt: str, tokens: int) -> str:
    """The prompt and its greedy continuation, at most ``tokens`` long."""
    import torch

    row = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    with torch.inference_mode():
        made = model.generate(row, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return str(tokenizer.decode(made[0], skip_special_tokens=True))


def measure(model: Any, tokenizer: Any, arguments: argparse.Namespace, folder: Path) -> None:
    """Write what the quantizer's own arithmetic gives on held-out text, and a greedy continuation."""
    np.save(folder / "nll.npy", score(model, tokenizer, read_texts(arguments.held_out)))
    progress(0, 1, "greedy continuation")
    text = continuation(model, tokenizer, arguments.prompt, 96)
    (folder / "text.json").write_text(json.dumps({"prompt": arguments.prompt, "text": text}, ensure_ascii=False))


def export_checkpoint(model: Any, tp_size: int, folder: Path) -> None:
    """Write the TensorRT-LLM checkpoint, split over ranks."""
    import torch
    from modelopt.torch.export import export_tensorrt_llm_checkpoint

    with torch.inference_mode():
        export_tensorrt_llm_checkpoint(model, "llama", torch.float16, folder, inference_tensor_parallel=tp_size)


def check_kv_cache(folder: Path, kv: str | None) -> None:
    """Refuse a checkpoint that lacks the quantized KV cache that was asked for.

    ModelOpt 0.33 leaves it out, without a word, under a transformers that is newer than it knows.
    """
    found = json.loads((folder / "config.json").read_text())["quantization"]["kv_cache_quant_algo"]
    if kv and found != kv.upper():
        raise SystemExit(
            f"error: ModelOpt wrote no scaling factors for a KV cache in {kv.upper()}. Its release and that of "
            "transformers do not fit together: install both as TensorRT-LLM pins them (notebook 02)."
        )


TOKENIZER = ("tokenizer*", "special_tokens_map.json", "chat_template*", "generation_config.json", "*.model")
"""Files of a Hugging Face folder that a server of the unified checkpoint needs beside its weights."""


STAYS_LONG = ("weight_scale", "input_scale", "k_scale", "v_scale")
"""Ends of names of what stays in 32 bits, as in the other packaging."""


def export_unified(model: Any, source: Path, folder: Path) -> None:
    """Write the unified Hugging Face checkpoint: quantized from the model's own numbers, all else in FP16.

    ModelOpt would round the weights to 16 bits a first time where it is told FP16, and the other packaging does not.
    """
    import torch
    from modelopt.torch.export import export_hf_checkpoint

    with torch.inference_mode():
        export_hf_checkpoint(model, dtype=model.lm_head.weight.dtype, export_dir=folder)
    for file in sorted(folder.glob("*.safetensors")):
        shorten(file)
    settings = json.loads((folder / "config.json").read_text())
    # What a server takes for the model's type of number; it is called torch_dtype before transformers 4.56.
    settings |= {name: "float16" for name in ("dtype", "torch_dtype") if name in settings}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    for file in sorted({found for pattern in TOKENIZER for found in source.glob(pattern)}):
        if not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)


def shorten(file: Path) -> None:
    """Write what is not quantized in FP16, where a model that ran in 32 bits left it so."""
    import torch
    from safetensors.torch import load_file, save_file

    held = load_file(file)
    long = [name for name, part in held.items() if part.dtype == torch.float32 and not name.endswith(STAYS_LONG)]
    if long:
        save_file({**held, **{name: held[name].to(torch.float16) for name in long}}, file, metadata={"format": "pt"})


def check_unified(folder: Path, precision: str, kv: str | None) -> None:
    """Refuse a unified checkpoint that does not say of itself what was asked for."""
    told = json.loads((folder / "hf_quant_config.json").read_text())["quantization"]
    wanted = {"fp8": "FP8", "int4_awq": "W4A16_AWQ"}.get(precision, told["quant_algo"])
    found = told["quant_algo"], told["kv_cache_quant_algo"]
    if found != (wanted, kv.upper() if kv else None):
        raise SystemExit(
            f"error: ModelOpt wrote a checkpoint of {found[0]} with a KV cache of {found[1]}, which is not what was "
            "asked for. Install ModelOpt and transformers as TensorRT-LLM pins them (notebook 02)."
        )


def parse() -> argparse.Namespace:
    """The command line; ``helpers.checkpoint`` and ``helpers.unified`` write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of Hugging Face weights")
    parser.add_argument("--precision", choices=["fp16", *FORMATS], required=True)
    parser.add_argument("--kv-cache", choices=[*KV_FORMATS], help="also quantize the KV cache")
    parser.add_argument("--format", choices=["trtllm", "hf"], default="trtllm", help="which packaging to write")
    parser.add_argument("--tp-size", type=int, default=1, help="number of ranks to split over (trtllm)")
    parser.add_argument("--calibration", type=Path, help='JSON lines of {"text": ...}; needed below 16 bits')
    parser.add_argument("--calibration-texts", type=int, default=128)
    parser.add_argument("--max-length", type=int, default=2048, help="tokens in one calibration row")
    parser.add_argument("--held-out", type=Path, help='JSON lines of {"text": ...} for perplexity (trtllm)')
    parser.add_argument("--prompt", help="what the greedy continuation continues (trtllm)")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Load, quantize, measure, export: in that order, because exporting changes the model."""
    arguments = parse()
    warnings.filterwarnings("ignore")
    progress(0, 1, "importing torch and ModelOpt")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = load(arguments.model)
    measured = arguments.output / "measured"
    measured.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    calibrated = arguments.precision != "fp16" or bool(arguments.kv_cache)
    if calibrated:
        texts = read_texts(arguments.calibration)[: arguments.calibration_texts]
        model = quantize(model, arguments.precision, arguments.kv_cache, packed(tokenizer, texts, arguments.max_length))
        found = ranges(model, arguments.precision, arguments.kv_cache)
    (measured / "ranges.json").write_text(json.dumps(found, indent=1))
    if arguments.format == "hf":
        progress(0, 1, "exporting the unified Hugging Face checkpoint")
        export_unified(model, arguments.model, arguments.output)
        check_unified(arguments.output, arguments.precision, arguments.kv_cache)
        return
    running = model
    if calibrated:
        if arguments.kv_cache:
            use_stored_factors(model, arguments.kv_cache)
        running = folded(model)
    measure(running, tokenizer, arguments, measured)
    progress(0, 1, "exporting the TensorRT-LLM checkpoint")
    export_checkpoint(model, arguments.tp_size, arguments.output)
    check_kv_cache(arguments.output, arguments.kv_cache)


if __name__ == "__main__":
    main()
