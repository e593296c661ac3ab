"""What this machine is and can do. Taught in ``notebooks/01_gpu_checks.ipynb``."""

from helpers.hardware.gpu_memory import free_gpu, holders
from helpers.hardware.gpus import Datasheet, Support, by_key, datasheet, datasheets, gpu_table, precisions, support
from helpers.hardware.limits import Roofline, roofline
from helpers.hardware.machine import (
    Cpu,
    Gpu,
    GpuProcess,
    Link,
    Machine,
    cpu_identity,
    equal_gpus,
    identity,
    look,
    supported_gpu,
)
from helpers.hardware.peers import Peers, peers, settings_for_several, shared_memory_warning
from helpers.hardware.preflight import checks
from helpers.hardware.recorded import Recorded, beside, recorded, recordings

__all__ = [
    "Cpu",
    "Datasheet",
    "Gpu",
    "GpuProcess",
    "Link",
    "Machine",
    "Peers",
    "Recorded",
    "Roofline",
    "Support",
    "beside",
    "by_key",
    "checks",
    "cpu_identity",
    "datasheet",
    "datasheets",
    "equal_gpus",
    "free_gpu",
    "gpu_table",
    "holders",
    "identity",
    "look",
    "peers",
    "precisions",
    "recorded",
    "recordings",
    "roofline",
    "settings_for_several",
    "shared_memory_warning",
    "support",
    "supported_gpu",
]
