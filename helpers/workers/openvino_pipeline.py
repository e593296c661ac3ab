"""Opens the OpenVINO pipeline that both generates and serves; used by the workers beside it.

An engine has its graph in ``graph/`` and the compiled blob in ``compiled/``. The blob stays usable wherever the
engine is moved, because of this:

- ``CACHE_MODE`` ``OPTIMIZE_SPEED`` keeps the weights inside the blob;
- the blob's name depends on the path that the graph is read from, so that path is always ``/proc/self/cwd``, and the
  working directory is ``graph/``;
- the blob remembers when the folder of the graph last changed, so nothing else is ever written there;
- the precision hint and the KV cache's precision are part of the blob's name, so they are fixed here.
"""

import os
import sys
from pathlib import Path
from typing import Any

# FP32 arithmetic on every CPU: some would choose BF16 by themselves, and text would differ from machine to machine.
PROPERTIES = {
    "CACHE_DIR": "../compiled",
    "CACHE_MODE": "OPTIMIZE_SPEED",
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f16",
}


def open_pipeline(engine: Path, num_kv_blocks: int = 256, **scheduler: Any) -> Any:
    """A ``ContinuousBatchingPipeline`` over an engine; changes the working directory into it.

    Args:
        engine: the engine's folder.
        num_kv_blocks: blocks of the paged KV cache (32 tokens each on a CPU).
        scheduler: further fields of ``openvino_genai.SchedulerConfig``.
    """
    import openvino_genai as genai

    os.chdir(engine / "graph")
    config = genai.SchedulerConfig()
    for field, value in {"num_kv_blocks": num_kv_blocks, **scheduler}.items():
        setattr(config, field, value)
    # Elsewhere than on Linux the folder's own path must do: then a moved engine is compiled again at its first start.
    place = "/proc/self/cwd" if sys.platform == "linux" else os.getcwd()
    return genai.ContinuousBatchingPipeline(place, config, "CPU", PROPERTIES)
