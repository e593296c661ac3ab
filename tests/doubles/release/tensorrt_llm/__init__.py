"""A double of the package ``tensorrt_llm``: see ``tests/doubles/__init__.py``.

It does not import torch by itself, as the real one does: that would cost every call of a program seconds.
"""

import double

double.start()

from tensorrt_llm.builder import BuildConfig  # noqa: E402
from tensorrt_llm.mapping import Mapping  # noqa: E402
from tensorrt_llm.sampling_params import SamplingParams  # noqa: E402

__version__ = double.VERSION
__all__ = ["LLM", "BuildConfig", "Mapping", "SamplingParams", "__version__"]


def __getattr__(name):
    """``LLM``, the PyTorch back end's, when it is first asked for: it needs torch."""
    if name != "LLM":
        raise AttributeError(f"module 'tensorrt_llm' has no attribute {name!r}")
    from tensorrt_llm._pytorch import LLM

    return LLM
