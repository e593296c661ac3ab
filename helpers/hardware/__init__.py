"""What this machine is and can do. Taught in ``notebooks/01_gpu_checks.ipynb``."""

from helpers.hardware.gpus import Datasheet, datasheet, datasheets, gpu_table, precisions
from helpers.hardware.limits import Roofline, roofline
from helpers.hardware.machine import Cpu, Gpu, GpuProcess, Machine, cpu_identity, identity, look, supported_gpu
from helpers.hardware.preflight import checks

__all__ = [
    "Cpu",
    "Datasheet",
    "Gpu",
    "GpuProcess",
    "Machine",
    "Roofline",
    "checks",
    "cpu_identity",
    "datasheet",
    "datasheets",
    "gpu_table",
    "identity",
    "look",
    "precisions",
    "roofline",
    "supported_gpu",
]
