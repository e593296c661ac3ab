"""The classes that describe quantization and the KV cache."""

from enum import StrEnum

import double

from tensorrt_llm.settings import Settings, settings

members = double.contract().entries["tensorrt_llm.llmapi.QuantAlgo"].parameters
QuantAlgo = StrEnum("QuantAlgo", {member.name: member.name for member in members})


@settings("tensorrt_llm.llmapi.QuantConfig")
class QuantConfig(Settings):
    pass


@settings("tensorrt_llm.llmapi.CalibConfig", ValueError)
class CalibConfig(Settings):
    pass


@settings("tensorrt_llm.llmapi.KvCacheConfig", ValueError)
class KvCacheConfig(Settings):
    def check(self):
        share = self.free_gpu_memory_fraction
        if share is not None and not 0 <= share <= 1:
            raise ValueError("kv_cache_config.free_gpu_memory_fraction must be a float between 0 and 1.")
