"""A double of NVIDIA's NVML binding: answers for the machine that ``DOUBLE_MACHINE`` names; no driver without it.

Only what the workshop asks; anything else is an AttributeError, as a misspelt name of the real module is.
"""

import ctypes
from types import SimpleNamespace

import double_machine

# The first of these is a tuple in the real module too, by a comma too many.
NVML_P2P_CAPS_INDEX_READ = (0,)
NVML_P2P_CAPS_INDEX_WRITE = 1
NVML_P2P_CAPS_INDEX_NVLINK = 2
NVML_NVLINK_MAX_LINKS = 36


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


def _pair(one, other):
    """What the driver tells of two GPUs; a slice has no pair."""
    row = _row()
    if "slice" in (one[0], other[0]):
        raise NVMLError("Invalid Argument")
    if "peers" not in row:
        raise NVMLError("Not Supported")
    return row["peers"]


def nvmlDeviceGetP2PStatus(device1, device2, p2pIndex):
    if not isinstance(p2pIndex, int):
        raise ctypes.ArgumentError("argument 3: TypeError: Don't know how to convert parameter 3")
    asked = {0: "read", 1: "write", 2: "nvlink"}
    if p2pIndex not in asked:
        raise NVMLError("Invalid Argument")
    return _pair(device1, device2)[asked[p2pIndex]]


def nvmlDeviceGetTopologyCommonAncestor(device1, device2):
    return _pair(device1, device2)["common"]


def nvmlDeviceGetNvLinkState(device, link):
    up = _row().get("peers", {}).get("nvlinks", 0)
    if not up:
        raise NVMLError("Not Supported")  # this GPU has no links at all
    if not 0 <= link < up:
        raise NVMLError("Invalid Argument")
    return 1
