"""Opens the OpenVINO pipeline that generates, batches and serves; used by the workers beside it.

An engine has its graph in ``graph/`` and the compiled blob in ``compiled/``. The blob stays usable wherever the
engine is moved, because of this:

- ``CACHE_MODE`` ``OPTIMIZE_SPEED`` keeps the weights inside the blob;
- the blob's name depends on the path that the graph is read from, so that path is always ``/proc/self/cwd``, and the
  working directory is ``graph/``;
- the blob remembers when the folder of the graph last changed, so nothing else is ever written there;
- the precision hint and the KV cache's precision are compiled into the blob but are not part of its name, so an engine
  is always opened with those that it was built with. (With another precision of the KV cache, OpenVINO 2026.2 either
  goes on with the blob's own without a word or fails at the first step.)
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

# FP32 arithmetic on every CPU: some would choose BF16 by themselves, and text would differ from machine to machine.
PROPERTIES = {
    "CACHE_DIR": "../compiled",
    "CACHE_MODE": "OPTIMIZE_SPEED",
    "INFERENCE_PRECISION_HINT": "f32",
}
KV_CACHE = "f16"
"""The KV cache's precision where none is named: the plugin itself would take 8 bits."""


def add_kv_option(parser: argparse.ArgumentParser) -> None:
    """The option that every worker has which opens a pipeline or compares with one."""
    parser.add_argument("--kv-cache", choices=[KV_CACHE, "u8"], default=KV_CACHE, help="what the engine is built with")


def open_pipeline(engine: Path, num_kv_blocks: int = 256, kv_cache: str = KV_CACHE, **scheduler: Any) -> Any:
    """A ``ContinuousBatchingPipeline`` over an engine; changes the working directory into it.

    Args:
        engine: the engine's folder.
        num_kv_blocks: blocks of the paged KV cache (32 tokens each on a CPU).
        kv_cache: precision of the KV cache that the engine was built with.
        scheduler: further fields of ``openvino_genai.SchedulerConfig``.
    """
    import openvino_genai as genai

    os.chdir(engine / "graph")
    config = genai.SchedulerConfig()
    for field, value in {"num_kv_blocks": num_kv_blocks, **scheduler}.items():
        setattr(config, field, value)
    # Elsewhere than on Linux the folder's own path must do: then a moved engine is compiled again at its first start.
    place = "/proc/self/cwd" if sys.platform == "linux" else os.getcwd()
    properties = {**PROPERTIES, "KV_CACHE_PRECISION": kv_cache}
    return genai.ContinuousBatchingPipeline(place, config, "CPU", properties)
