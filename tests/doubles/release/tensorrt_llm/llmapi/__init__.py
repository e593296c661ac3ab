"""The classes that describe quantization, the KV cache and the scheduler."""

from enum import StrEnum

import double

from tensorrt_llm.settings import Settings, settings


def members(name):
    """An enumeration whose members are the contract's."""
    named = double.contract().entries[f"tensorrt_llm.llmapi.{name}"].parameters
    return StrEnum(name, {member.name: member.name for member in named})


QuantAlgo = members("QuantAlgo")
CapacitySchedulerPolicy = members("CapacitySchedulerPolicy")


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


@settings("tensorrt_llm.llmapi.SchedulerConfig", ValueError)
class SchedulerConfig(Settings):
    pass
