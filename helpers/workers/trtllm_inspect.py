"""Worker: count the operations of a built TensorRT-LLM engine, by type (notebook 03).

Runs on the release's own Python and imports nothing of ``helpers``. TensorRT tells what it compiled; what went in is
not kept in an engine. Types are known where the engine was built with ``--profiling_verbosity detailed``.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any


def kind(layer: Any) -> str:
    """The type of one layer of an inspector's answer: an object with details, or only its name."""
    return str(layer.get("LayerType", "not told")) if isinstance(layer, dict) else "not told"


def main() -> None:
    """Load the first rank's engine, ask TensorRT's inspector, and write ``operations.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    print("@progress 0/1 importing TensorRT-LLM and loading the engine", flush=True)
    import tensorrt
    import tensorrt_llm  # noqa: F401 - registers the plugins, without which its engines cannot be read

    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine((arguments.engine / "rank0.engine").read_bytes())
    if engine is None:
        raise SystemExit("error: TensorRT could not read rank0.engine; the lines above say why.")
    answer = engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON)
    counts = Counter(kind(layer) for layer in json.loads(answer)["Layers"])
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "operations.json").write_text(json.dumps({"after": dict(counts)}, indent=1))


if __name__ == "__main__":
    main()
