"""A double of NVIDIA's NVML binding: answers for the machine that ``DOUBLE_MACHINE`` names; no driver without it.

Only what the workshop asks; anything else is an AttributeError, as a misspelt name of the real module is.
"""

from types import SimpleNamespace

import double_machine


class NVMLError(Exception):
    """As the real one: raised for what this driver, GPU or container does not tell."""


_open = False


def _row():
    if not _open:
        raise NVMLError("Uninitialized")
    return double_machine.machine()


def nvmlInit():
    global _open
    if double_machine.machine() is None:
        raise NVMLError("NVML Shared Library Not Found")
    _open = True


def nvmlShutdown():
    global _open
    _row()
    _open = False


def nvmlSystemGetDriverVersion():
    return _row()["driver"]


def nvmlSystemGetCudaDriverVersion():
    return _row()["cuda"]


def nvmlDeviceGetCount():
    return _row().get("count", 1)


def nvmlDeviceGetHandleByIndex(index):
    if not 0 <= index < nvmlDeviceGetCount():
        raise NVMLError("Invalid Argument")
    return ("gpu", index)


def nvmlDeviceGetName(handle):
    gpu = _row()["gpu"]
    return double_machine.gpus()[handle[1]]["name"] if handle[0] == "slice" else gpu["name"]


def nvmlDeviceGetCudaComputeCapability(handle):
    return tuple(_row()["gpu"]["capability"])


def nvmlDeviceGetMemoryInfo(handle):
    gpu = _row()["gpu"]
    if "slice" in gpu and handle[0] == "gpu":
        raise NVMLError("Insufficient Permissions")  # a container that was given a slice may not ask for the whole
    total = double_machine.gpus()[handle[1]]["memory"]
    used = sum(double_machine.holders().values()) if handle[1] == 0 else 0
    free = min(gpu.get("free", total), total - used)
    return SimpleNamespace(total=total, free=free, used=total - free)


def nvmlDeviceGetMigMode(handle):
    if "slice" not in _row()["gpu"]:
        raise NVMLError("Not Supported")
    return (1, 1)


def nvmlDeviceGetMaxMigDeviceCount(handle):
    return 7 if "slice" in _row()["gpu"] else 0


def nvmlDeviceGetMigDeviceHandleByIndex(handle, index):
    if "slice" not in _row()["gpu"] or index:
        raise NVMLError("Not Found")
    return ("slice", handle[1])


def nvmlDeviceGetComputeRunningProcesses(handle):
    _row()
    held = double_machine.holders() if handle[1] == 0 else {}
    return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in held.items()]


def nvmlSystemGetProcessName(pid):
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        raise NVMLError("Not Found") from None
