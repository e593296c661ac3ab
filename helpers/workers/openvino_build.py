"""Worker: quantize an exported OpenVINO graph where asked to, compile it for this CPU, and keep the compiled blob.

Writes an engine's folder: ``graph/`` (the graph and its tokenizers), ``compiled/`` (the blob that the pipeline loads at
start) and ``operations.json`` (operation counts before and after compilation; notebook 03).
"""

import argparse
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino_pipeline import PROPERTIES, add_kv_option, open_pipeline

# What stays at 16 bits is what ModelOpt leaves too: embedding, attention's own products, and the last layer.
IGNORED_NAMES = [".*embed_tokens.*", ".*lm_head.*"]
IGNORED_TYPES = ["ScaledDotProductAttention"]
# Calibration rows are this long; the calibration texts are laid end to end.
ROW_TOKENS = 512


def progress(done: int, total: int, text: str) -> None:
    """Tell the supervisor how far this is."""
    print(f"@progress {done}/{total} {text}", flush=True)


def calibration_rows(graph: Path, texts: Path, most: int) -> list[dict[str, Any]]:
    """Model inputs of the first ``most`` texts, laid end to end; each row starts from an empty KV cache."""
    from nncf.definitions import NNCF_DATASET_RESET_STATE_KEY
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(graph / "tokenizer.json"))
    ends = json.loads((graph / "config.json").read_text())["eos_token_id"]
    end = ends[0] if isinstance(ends, list) else ends
    lines = [json.loads(line)["text"] for line in texts.read_text().splitlines() if line.strip()][:most]
    encoded = [tokenizer.encode(text).ids for text in lines]
    ids = [token for row in encoded for token in (row if row[-1] == end else [*row, end])]
    rows = []
    for start in range(0, len(ids), ROW_TOKENS):
        row = np.array([ids[start : start + ROW_TOKENS]], dtype=np.int64)
        rows.append(
            {
                "input_ids": row,
                "attention_mask": np.ones_like(row),
                "position_ids": np.arange(row.shape[1], dtype=np.int64)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
                NNCF_DATASET_RESET_STATE_KEY: True,
            }
        )
    return rows


def quantized(model: ov.Model, precision: str, rows: list[dict[str, Any]]) -> ov.Model:
    """The graph with weights and activations of its linear layers at 8 bits, calibrated on ``rows``.

    Source of the settings: what ``optimum-cli export openvino --quant-mode f8e4m3`` and ``int8`` pass to NNCF.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    fp8 = precision == "fp8"
    return nncf.quantize(
        model,
        nncf.Dataset(rows),
        mode=nncf.QuantizationMode.FP8_E4M3 if fp8 else None,
        preset=nncf.QuantizationPreset.PERFORMANCE if fp8 else nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(rows),
        ignored_scope=nncf.IgnoredScope(patterns=IGNORED_NAMES, types=IGNORED_TYPES, validate=False),
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.DISABLE),
    )


def weight_bytes(model: ov.Model) -> int:
    """Bytes of all weight matrices, in the type that they are stored in."""
    sizes = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) >= 2:
            sizes += node.get_byte_size()
    return sizes


def count(operations: list[Any], kind: Any) -> dict[str, int]:
    """How many operations of each type; constants and the graph's own ends are not work and are left out."""
    idle = {"Constant", "Parameter", "Result", "Input", "Output", "Const"}
    names = Counter(kind(operation) for operation in operations)
    return {name: number for name, number in names.most_common() if name not in idle}


def operation_counts(model: ov.Model) -> dict[str, Any]:
    """Operation counts of the graph, and of the same graph compiled for this CPU."""
    hint = {"INFERENCE_PRECISION_HINT": PROPERTIES["INFERENCE_PRECISION_HINT"]}
    compiled = ov.Core().compile_model(model, "CPU", hint).get_runtime_model()
    return {
        "before": count(model.get_ordered_ops(), lambda node: node.get_type_name()),
        "after": count(compiled.get_ordered_ops(), lambda node: node.get_rt_info()["layerType"].astype(str)),
        "weight_bytes": weight_bytes(model),
    }


def main() -> None:
    """Quantize, save, count, and let the pipeline compile and write its blob."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", type=Path, required=True, help="folder made by optimum-cli export openvino")
    parser.add_argument("--precision", choices=["fp16", "fp8", "int8"], required=True)
    add_kv_option(parser)
    parser.add_argument("--calibration", type=Path, help='JSON lines of {"text": ...}; needed below 16 bits')
    parser.add_argument("--calibration-texts", type=int, default=128, help="how many of them to look at")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    graph = arguments.output / "graph"
    graph.mkdir(parents=True, exist_ok=True)
    for file in arguments.graph.iterdir():
        if not file.name.startswith("openvino_model") and file.name != "manifest.json":
            shutil.copy2(file, graph)
    model = ov.Core().read_model(arguments.graph / "openvino_model.xml")
    if arguments.precision != "fp16":
        progress(0, 1, "calibrating")
        rows = calibration_rows(arguments.graph, arguments.calibration, arguments.calibration_texts)
        model = quantized(model, arguments.precision, rows)
    progress(1, 3, "saving the graph")
    ov.save_model(model, graph / "openvino_model.xml", compress_to_fp16=True)
    progress(2, 3, "compiling for this CPU")
    saved = ov.Core().read_model(graph / "openvino_model.xml")
    (arguments.output / "operations.json").write_text(json.dumps(operation_counts(saved), indent=1))
    open_pipeline(arguments.output, kv_cache=arguments.kv_cache)


if __name__ == "__main__":
    main()
