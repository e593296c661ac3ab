"""What this machine is and can do. Taught in ``notebooks/01_gpu_checks.ipynb``."""

from helpers.hardware.gpu_memory import free_gpu, holders
from helpers.hardware.gpus import Datasheet, Support, by_key, datasheet, datasheets, gpu_table, precisions, support
from helpers.hardware.limits import Roofline, roofline
from helpers.hardware.machine import Cpu, Gpu, GpuProcess, Machine, cpu_identity, identity, look, supported_gpu
from helpers.hardware.preflight import checks
from helpers.hardware.recorded import Recorded, beside, recorded, recordings

__all__ = [
    "Cpu",
    "Datasheet",
    "Gpu",
    "GpuProcess",
    "Machine",
    "Recorded",
    "Roofline",
    "Support",
    "beside",
    "by_key",
    "checks",
    "cpu_identity",
    "datasheet",
    "datasheets",
    "free_gpu",
    "gpu_table",
    "holders",
    "identity",
    "look",
    "precisions",
    "recorded",
    "recordings",
    "roofline",
    "support",
    "supported_gpu",
]
