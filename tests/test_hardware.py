import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlparse

import pytest

from helpers import hardware, plots
from helpers.errors import WorkshopError
from helpers.hardware import Gpu, GpuProcess, Machine, gpus, limits, machine

GB = 10**9

EPYC = """processor\t: 0
model name\t: AMD EPYC 9454P 48-Core Processor
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 avx512_vnni amx_later_invention
processor\t: 1
model name\t: something else
"""
GRAVITON = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd asimddp sve i8mm bf16
CPU implementer\t: 0x41
"""


class FakeDriver:
    """What NVML answers on one machine; the names are NVML's own."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, name, capability, total, free, driver="580.65.06", cuda=13000, processes=()):
        self.name, self.capability, self.total, self.free = name, capability, total, free
        self.driver, self.cuda, self.processes = driver, cuda, processes
        self.open = False

    def nvmlInit(self):
        self.open = True

    def nvmlShutdown(self):
        self.open = False

    def nvmlSystemGetDriverVersion(self):
        return self.driver

    def nvmlSystemGetCudaDriverVersion(self):
        return self.cuda

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        assert self.open
        return index

    def nvmlDeviceGetName(self, handle):
        return self.name

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=self.total, free=self.free)

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return self.capability

    def nvmlDeviceGetMigMode(self, handle):
        raise self.NVMLError("not supported")

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in self.processes]

    def nvmlSystemGetProcessName(self, pid):
        if pid == 1:
            raise self.NVMLError("not in this container")
        return f"/usr/bin/python{pid}"


class NoDriver:
    """The package without the library."""

    NVMLError = type("NVMLError", (Exception,), {})

    def nvmlInit(self):
        raise self.NVMLError("NVML Shared Library Not Found")


RTX_4090 = FakeDriver("NVIDIA GeForce RTX 4090", (8, 9), 25_757_220_864, 25_000_000_000)
A10G = FakeDriver(b"NVIDIA A10G", (8, 6), 24 * GB, 3 * GB, b"535.183.01", 12020, [(1, None), (4321, 19_000_000_000)])
T4 = FakeDriver("Tesla T4", (7, 5), 16 * GB, 16 * GB)


@pytest.fixture
def driver(monkeypatch):
    """Install a fake driver for one test."""

    def install(fake):
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


def found(table, check):
    """The row of one check, as a dictionary."""
    return next(dict(zip(table.columns, row, strict=True)) for row in table.rows if row[0] == check)


def test_a_4090(driver):
    fake = driver(RTX_4090)
    here = hardware.look()
    gpu = hardware.supported_gpu(here)
    assert gpu == here.gpus[0]
    assert (gpu.name, gpu.compute_capability, gpu.memory_bytes) == (RTX_4090.name, (8, 9), RTX_4090.total)
    assert (here.driver, here.cuda) == ("580.65.06", "13.0")
    assert "25.00 GB free of 25.76 GB" in str(here)
    assert "run on GPU 0, the NVIDIA GeForce RTX 4090, with TensorRT-LLM 1.2.1: it fits this driver" in str(here)
    assert hardware.identity() == {"gpu": "NVIDIA GeForce RTX 4090", "compute_capability": "8.9"}
    assert not fake.open


def test_an_a10g_that_others_use(driver):
    driver(A10G)
    here = hardware.look()
    gpu = here.gpus[0]
    assert gpu.name == "NVIDIA A10G"
    assert gpu.processes == (
        GpuProcess(4321, "python4321", 19 * GB),
        GpuProcess(1, "a process outside this container", None),
    )
    table = hardware.checks(here)
    memory = found(table, "GPU memory")
    assert memory["verdict"] == "stop"
    assert "python4321 (pid 4321) holds 19.00 GB" in memory["what it means, what to do"]
    assert "holds some" in memory["what it means, what to do"]
    assert "Stop here: GPU memory" in table.note
    old_driver = found(table, "driver")
    assert old_driver["verdict"] == "ok"
    assert old_driver["what it means, what to do"] == "fits TensorRT-LLM 1.0.0 (CUDA 12.9, driver 525 or newer)"


class SplitDriver(FakeDriver):
    """An H100 in two slices, of which this container was given the second."""

    def nvmlDeviceGetMigMode(self, handle):
        return (1, 1)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        return 2

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):
        if index == 0:
            raise self.NVMLError("not found")
        return "slice"

    def nvmlDeviceGetName(self, handle):
        return f"{self.name} MIG 3g.40gb" if handle == "slice" else self.name

    def nvmlDeviceGetMemoryInfo(self, handle):
        if handle != "slice":
            raise self.NVMLError("insufficient permissions")
        return super().nvmlDeviceGetMemoryInfo(handle)


def test_a_slice_of_a_gpu_is_a_gpu_of_its_own(driver):
    driver(SplitDriver("NVIDIA H100 80GB HBM3", (9, 0), 40 * GB, 39 * GB))
    (only,) = hardware.look().gpus
    assert (only.name, only.memory_bytes) == ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", 40 * GB)
    assert hardware.identity() == {"gpu": only.name, "compute_capability": "9.0"}


def test_a_split_gpu_that_does_not_count_its_slices_is_left_out(driver, monkeypatch):
    def refuse(handle):
        raise FakeDriver.NVMLError("Not Supported")

    fake = driver(SplitDriver("NVIDIA H100 80GB HBM3", (9, 0), 40 * GB, 39 * GB))
    monkeypatch.setattr(fake, "nvmlDeviceGetMaxMigDeviceCount", refuse)
    here = hardware.look()
    assert (here.gpus, here.driver) == ((), "580.65.06")
    assert "cpu" in hardware.identity()
    assert found(hardware.checks(here), "GPU")["found"] == "none"


def test_a_gpu_that_does_not_tell_its_memory_hides_no_other(driver, monkeypatch):
    fake = driver(FakeDriver("NVIDIA GB10", (12, 1), 24 * GB, 23 * GB))
    told = fake.nvmlDeviceGetMemoryInfo

    def refuse_the_first(handle):
        if handle == 0:
            raise FakeDriver.NVMLError("Not Supported")
        return told(handle)

    monkeypatch.setattr(fake, "nvmlDeviceGetMemoryInfo", refuse_the_first)
    monkeypatch.setattr(fake, "nvmlDeviceGetCount", lambda: 2)
    assert [gpu.index for gpu in hardware.look().gpus] == [1]


def test_a_t4_is_seen_but_not_used(driver):
    driver(T4)
    here = hardware.look()
    assert hardware.supported_gpu(here) is None
    assert "cpu" in hardware.identity()
    assert found(hardware.checks(here), "GPU")["verdict"] == "warning"
    assert "compute capability 8.0" in str(here)


@pytest.mark.parametrize("fake", [NoDriver(), None])
def test_no_driver_is_no_gpu(driver, fake):
    driver(fake)  # None makes the import itself fail
    here = hardware.look()
    assert (here.gpus, here.driver) == ((), "")
    table = hardware.checks(here)
    gpu = found(table, "GPU")
    assert gpu["verdict"] == "ok"
    assert "OpenVINO" in gpu["what it means, what to do"]
    assert "driver" not in [row[0] for row in table.rows]


def test_a_gpu_that_hides_its_processes(driver, monkeypatch):
    def refuse(handle):
        raise FakeDriver.NVMLError("no permission")

    monkeypatch.setattr(RTX_4090, "nvmlDeviceGetComputeRunningProcesses", refuse)
    driver(RTX_4090)
    assert hardware.look().gpus[0].processes == ()


def test_this_machine_for_real():
    here = hardware.look()
    assert here.cpu.model
    assert 1 <= here.cpu.cores <= 4096
    assert here.memory_bytes > GB / 2
    assert here.disk_free_bytes > 0
    assert here.python in sys.version
    for row in here.table().rows:
        assert all(row)


def test_identity_is_stable_and_fast():
    hardware.identity()
    start = time.perf_counter()
    again = [hardware.identity() for _ in range(5)]
    assert (time.perf_counter() - start) / 5 < 0.1
    assert all(one == again[0] for one in again)
    assert all(isinstance(value, str) and value for value in again[0].values())


def test_cpuinfo_of_x86_and_arm():
    model, features = machine.parse_cpuinfo(EPYC)
    assert model == "AMD EPYC 9454P 48-Core Processor"
    assert features == ("avx2", "avx512_bf16", "avx512_vnni", "avx512f")
    assert machine.parse_cpuinfo(GRAVITON) == ("", ("asimddp", "bf16", "i8mm", "sve"))
    assert machine.parse_cpuinfo("") == ("", ())


def test_other_features_are_another_identity(monkeypatch):
    driverless = {}
    for text in (EPYC, EPYC.replace("avx512_bf16", "")):
        monkeypatch.setattr(machine, "_read", lambda path, text=text: text)
        monkeypatch.setitem(sys.modules, "pynvml", None)
        driverless[text] = hardware.identity()
    first, second = driverless.values()
    assert first["cpu"] == second["cpu"]
    assert first["cpu_features"] != second["cpu_features"]


def test_a_container_quota_limits_the_cores(monkeypatch):
    assert machine.parse_quota("150000 100000\n") == 1.5
    assert machine.parse_quota("max 100000\n") == float("inf")
    assert machine.parse_quota("") == float("inf")
    monkeypatch.setattr(machine, "_read", lambda path: "100000 100000")
    assert machine._cores() == 1


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("NVIDIA GeForce RTX 4090", "GeForce RTX 4090"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200 SXM"),
        ("Tesla T4", "T4"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla V100-SXM2-32GB", "V100 SXM2 32 GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM 80 GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM 40 GB"),
        ("NVIDIA GeForce RTX 3090", "GeForce RTX 3090"),
        ("NVIDIA GeForce RTX 5090", "GeForce RTX 5090"),
        ("NVIDIA B200", "B200 (HGX)"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000 Workstation"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("AMD EPYC", None),
    ],
)
def test_a_gpu_finds_its_datasheet(name, row):
    sheet = hardware.datasheet(name)
    assert (sheet.name if sheet else None) == row


def test_every_datasheet_is_whole_and_sourced():
    for sheet in hardware.datasheets():
        assert urlparse(sheet.source).scheme == "https"
        assert sheet.peer_to_peer in ("nvlink", "nvlink bridge", "none", "")
        assert sheet.bandwidth > 1e11
        assert sheet.rates["fp16"] > 1e13
        # FP8 came with compute capability 8.9, at twice the FP16 rate.
        assert ("fp8" in sheet.rates) == (sheet.compute_capability >= (8, 9))
        if "fp8" in sheet.rates:
            # Makers round: the L40S's 362.05 and 733 are 2.02 apart.
            assert sheet.rates["fp8"] / sheet.rates["fp16"] == pytest.approx(2, rel=0.02)


def test_the_gpu_table_says_who_is_too_old():
    table = hardware.gpu_table()
    assert [row[1] for row in table.rows if row[-1] == "no"] == ["Volta", "Turing"]
    assert "for V100 SXM2 32 GB and T4." in table.note
    assert table.caption.startswith("datasheet:")


def test_the_gpu_table_is_of_whole_gpus_and_tells_of_slices():
    table = hardware.gpu_table()
    assert len(table.rows) == len({row[0] for row in table.rows}) == 14
    assert not [row for row in table.rows if "MIG" in row[0]]
    assert "MIG slices (1g.10gb, 2g.20gb, 3g.40gb, 7g.80gb)" in table.note


# The issue's list of GPUs that people rent.
KEYS = ["t4", "v100", "a10g", "a100-80gb", "a100-40gb", "rtx-3090", "rtx-4090", "rtx-5090", "l4", "l40s"]
KEYS += ["h100", "h200", "b200", "rtx-pro-6000"]
SLICES = ["h100-mig-1g.10gb", "h100-mig-2g.20gb", "h100-mig-3g.40gb", "h100-mig-7g.80gb"]


def test_every_gpu_has_a_key():
    assert {sheet.key for sheet in hardware.datasheets()} == {*KEYS, *SLICES}
    for key in (*KEYS, *SLICES):
        assert gpus.by_key(key).key == key


@pytest.mark.parametrize(
    ("spelling", "key"),
    [
        ("4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("rtx4090", "rtx-4090"),
        ("A100", "a100-80gb"),
        ("a100-40GB", "a100-40gb"),
        ("L4", "l4"),
        ("h100 mig 3g.40gb", "h100-mig-3g.40gb"),
    ],
)
def test_a_key_may_be_spelled_as_people_do(spelling, key):
    assert gpus.by_key(spelling).key == key


@pytest.mark.parametrize(
    ("wrong", "hint"), [("rtx-4099", "Did you mean 'rtx-4090'?"), ("80", "Choose one of: v100,"), ("", "Choose one of")]
)
def test_an_unknown_gpu_names_the_others(wrong, hint):
    with pytest.raises(WorkshopError, match="There is no GPU called") as told:
        gpus.by_key(wrong)
    assert hint in str(told.value)
    assert all(key in str(told.value) for key in (*KEYS, *SLICES))


def test_a_slices_figures_are_predicted_from_its_shares():
    whole = gpus.by_key("h100")
    small, large = gpus.by_key("h100-mig-1g.10gb"), gpus.by_key("h100-mig-7g.80gb")
    assert (small.memory_bytes, small.bandwidth) == (10 * GB, whole.bandwidth / 8)
    assert small.rates["fp8"] == pytest.approx(whole.rates["fp8"] / 7)
    assert (large.bandwidth, large.rates, large.compute_capability) == (whole.bandwidth, whole.rates, (9, 0))
    assert (small.label, whole.label, small.slice_of) == ("predicted", "datasheet", "h100")
    assert small.match == "H100 80GB HBM3 MIG 1g.10gb", "as NVML names it"
    assert hardware.datasheet(f"NVIDIA {small.match}") is None, "nobody publishes figures for it"


def test_peers_reach_each_other_where_a_source_says_so():
    peers = {sheet.key: sheet.peer_to_peer for sheet in hardware.datasheets()}
    assert peers["h200"] == "nvlink"
    assert peers["rtx-3090"] == "nvlink bridge"
    assert peers["rtx-4090"] == "none"
    assert [peers[key] for key in ("l4", "a10g", *SLICES)] == [""] * 6


# --- What TensorRT-LLM does on each generation ---------------------------------------------------

WEIGHTS = {"fp16", "bf16", "fp8", "int8_sq", "int8_wo", "int4_awq", "w4a8_awq", "nvfp4"}
KV = {"fp16", "fp8", "int8"}


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_every_precision_is_there_or_refused_with_a_reason(capability):
    row = gpus.support(capability)
    assert row.capability == capability
    assert set(row.engine_weights) | set(row.pytorch_weights) <= WEIGHTS
    assert set(row.engine_kv) | set(row.pytorch_kv) <= KV
    missing = {*(WEIGHTS - set(row.engine_weights)), *(f"{kv}_kv" for kv in KV - set(row.engine_kv))}
    assert set(row.refusals) == missing
    assert all(why.endswith((".", ".'")) for why in row.refusals.values())
    assert "nothing" not in row.source
    for entry in row.unverified:
        table, _, precision = entry.partition(".")
        assert precision in getattr(row, table)


def test_the_precisions_that_the_issue_names():
    ampere, ada, hopper = gpus.support((8, 6)), gpus.support((8, 9)), gpus.support((9, 0))
    assert "hardware with FP8 support" in ampere.refusals["fp8"]
    assert "fp8" not in ampere.engine_kv, "documented, but reported by nobody"
    assert {"fp8", "int8_sq", "w4a8_awq"} <= set(ada.engine_weights) == set(hopper.engine_weights)
    b200, rtx_5090 = gpus.support((10, 0)), gpus.support((12, 0))
    assert set(b200.engine_weights) == {"fp16", "bf16", "fp8", "nvfp4"}
    assert "SM>=100" in b200.refusals["int8_wo"]
    assert "engine_weights.int8_sq" in rtx_5090.unverified
    assert "int8" not in rtx_5090.pytorch_kv


@pytest.mark.parametrize(
    ("capability", "known"), [((8, 7), (8, 6)), ((10, 3), (10, 0)), ((12, 1), (12, 0)), ((7, 5), None), ((11, 0), None)]
)
def test_kernels_run_on_later_members_of_a_generation(capability, known):
    row = gpus.support(capability)
    assert (row.capability if row else None) == known


def test_every_gpu_that_is_used_has_its_precisions():
    for sheet in hardware.datasheets():
        row = gpus.support(sheet.compute_capability)
        assert (row is not None) == (sheet.compute_capability >= (8, 0))
        if row:
            assert row.capability == sheet.compute_capability
            assert row.architecture == sheet.architecture
            # A rate in the table, and the precision that uses it.
            assert ("fp8" in row.engine_weights) == ("fp8" in sheet.rates)


def gpu(name, capability, **changed):
    return replace(Gpu(0, name, capability, 80 * GB, 79 * GB, "580.1"), **changed)


@pytest.mark.parametrize(
    ("capability", "fp8", "int8", "fp4"),
    [
        ((8, 0), "no", "yes", "no"),
        ((8, 6), "no", "yes", "no"),
        ((8, 9), "yes", "yes", "no"),
        ((9, 0), "yes", "yes", "no"),
        ((10, 0), "yes", "not in engines", "yes"),
        ((10, 3), "yes", "not in engines", "yes"),
        ((12, 0), "yes", "not verified", "yes"),
        ((7, 5), "no", "no", "no"),
    ],
)
def test_precisions_follow_the_silicon(capability, fp8, int8, fp4):
    table = hardware.precisions(gpu("NVIDIA Some", capability))
    says = {row[0]: row[2] for row in table.rows}
    assert (says["FP8 (E4M3)"], says["INT8"], says["FP4 (NVFP4)"]) == (fp8, int8, fp4)
    assert ("FP8 (E4M3)" in table.note) == (fp8 == "yes")


def test_precisions_of_a_cpu(monkeypatch):
    monkeypatch.setattr(hardware.gpus, "cpu", lambda: hardware.Cpu("A CPU", 2, ("avx2", "avx512_vnni")))
    says = {row[0]: row[2] for row in hardware.precisions(None).rows}
    assert says["INT8"] == "computes (avx512_vnni)"
    assert says["BF16"] == says["FP8 (E4M3)"] == "stores, widens"


def pod(tmp_path, **changed):
    """A good pod, with something changed."""
    cpu = hardware.Cpu("A CPU", 16, ("avx2",))
    good = Machine(
        cpu=cpu,
        gpus=(gpu("NVIDIA GeForce RTX 4090", (8, 9)),),
        memory_bytes=64 * GB,
        disk_path=tmp_path,
        disk_free_bytes=250 * GB,
        shared_memory_bytes=32 * GB,
        python="3.12.3",
        system="Linux",
        driver="580.65.06",
        cuda="13.0",
    )
    return replace(good, **changed)


def test_a_good_pod_passes_everything(tmp_path):
    table = hardware.checks(pod(tmp_path))
    assert {row[2] for row in table.rows} == {"ok"}
    assert table.note == f"All {len(table.rows)} checks passed: good to go."


@pytest.mark.parametrize(
    ("changed", "check", "verdict", "says"),
    [
        ({"driver": "550.54.15"}, "driver", "ok", "1.0.0"),
        ({"driver": "470.82.01"}, "driver", "stop", "1.0.0 needs 525 or newer"),
        ({"driver": "565.77", "gpus": (gpu("NVIDIA B200", (10, 0)),)}, "driver", "stop", "1.0.0 needs 570 or newer"),
        ({"driver": "570.26", "gpus": (gpu("NVIDIA B200", (10, 0)),)}, "driver", "ok", "1.0.0 (CUDA 12.9, driver 570"),
        ({"gpus": (gpu("NVIDIA L4", (8, 9), free_bytes=6 * GB),)}, "GPU memory", "warning", "free some"),
        ({"disk_free_bytes": GB // 2}, "disk", "stop", "estimate: 30 GB"),
        (
            {"disk_free_bytes": 29 * GB},
            "disk",
            "stop",
            "free some, or point WORKSHOP_HOME at a larger disk; estimate: 30",
        ),
        ({"disk_free_bytes": 31 * GB}, "disk", "ok", "published: the talk sets 200 GB"),
        ({"disk_free_bytes": 3 * GB, "gpus": ()}, "disk", "warning", "5 GB"),
        ({"disk_free_bytes": GB // 2, "gpus": ()}, "disk", "stop", "5 GB"),
        ({"shared_memory_bytes": 64 * 2**20}, "/dev/shm", "warning", "--ipc=host"),
        ({"shared_memory_bytes": 64 * 2**20, "gpus": ()}, "/dev/shm", "ok", ""),
        ({"shared_memory_bytes": None}, "/dev/shm", "ok", ""),
        ({"memory_bytes": 3 * GB, "gpus": ()}, "memory", "warning", "4 GB"),
        ({"memory_bytes": 6 * GB}, "memory", "stop", "16 GB"),
        ({"python": "3.9.18"}, "Python", "warning", "3.11 and 3.12"),
        ({"cpu": hardware.Cpu("Old", 4, ())}, "CPU", "warning", "AVX2"),
        ({"cpu": hardware.Cpu("Small", 1, ("avx2",))}, "CPU", "warning", "one core"),
    ],
)
def test_verdicts(tmp_path, changed, check, verdict, says):
    table = hardware.checks(pod(tmp_path, **changed))
    row = found(table, check)
    assert row["verdict"] == verdict
    assert says in row["what it means, what to do"]
    assert (check in table.note) == (verdict != "ok")


def test_an_installation_needs_its_disk_only_once(tmp_path):
    full = pod(tmp_path, disk_free_bytes=29 * GB)
    assert found(hardware.checks(full), "disk")["verdict"] == "stop"
    assert found(hardware.checks(full, installed=True), "disk")["verdict"] == "warning"
    assert found(hardware.checks(replace(full, disk_free_bytes=GB // 2), installed=True), "disk")["verdict"] == "stop"
    assert found(hardware.checks(replace(full, gpus=())), "disk")["verdict"] == "ok"


def test_what_the_gpu_is_for(tmp_path):
    def advice(**changed):
        return found(hardware.checks(pod(tmp_path, **changed)), "GPU")["what it means, what to do"]

    assert advice() == "engines are built for it and run on it with TensorRT-LLM"
    assert "see the driver" in advice(driver="470.82.01")


def test_the_roofline_of_this_cpu():
    start = time.perf_counter()
    here = replace(hardware.look(), gpus=())
    measured = hardware.roofline(here)
    assert time.perf_counter() - start < 30
    assert {"fp32", "fp16", "bf16"} <= set(measured.rates)
    assert 1e9 < measured.bandwidth < 1e13
    assert all(1e7 < rate < 1e16 for rate in measured.rates.values())
    assert here.cpu.model in str(measured)
    assert f"{measured.bandwidth / 1e9:,.1f} GB/s" in str(measured)
    assert re.search(r"multiplies (fastest|[\d.]+ times as fast)", str(measured))


def test_tokens_to_balance():
    # 1000 operations a byte, two operations and two bytes a weight: 1000 tokens.
    measured = hardware.Roofline("x", 1e12, {"fp16": 1e15, "fp8": 2e15}, "2", 1.0)
    assert measured.tokens_to_balance("fp16") == 1000
    assert measured.tokens_to_balance("fp8") == 1000


def test_what_precision_buys_is_told_against_the_usual_one():
    def finding(**rates):
        return hardware.Roofline("x", 1e12, rates, "2", 1.0)._finding()

    assert finding(fp32=1e14, bf16=3e14) == "BF16 multiplies 3.0 times as fast as FP32 here."
    assert finding(fp32=1e14, fp16=4e14, fp8=8e14) == "FP8 multiplies 2.0 times as fast as FP16 here."
    assert finding(fp16=1e14, int8=2e14) == "INT8 multiplies 2.0 times as fast as FP16 here."
    assert finding(fp32=1e14, fp16=1e9) == "FP32 multiplies fastest here."


def test_shares_of_the_datasheet():
    sheet = hardware.datasheet("NVIDIA H200")
    measured = hardware.Roofline("NVIDIA H200", 2.4e12, {"bf16": 494.75e12}, "2", 1.0, published=sheet)
    assert [row[2] for row in measured.table().rows] == ["50%", "50%"]


def test_arithmetic_slower_than_reading_is_called_emulated():
    measured = hardware.Roofline("x", 30e9, {"fp32": 150e9, "fp16": 2e9}, "2", 1.0)
    fp32, fp16 = measured.table().rows[1:]
    assert fp32[1:] == ["150 GFLOP/s", "10"]
    assert fp16[1:] == ["2 GFLOP/s (emulated: no such arithmetic here)", "–"]


MEASUREMENT = {
    "device": "NVIDIA GeForce RTX 4090",
    "bandwidth": 9e11,
    "rates": {"fp16": 1.5e14},
    "torch": "2.9.1",
    "skipped": {},
    "seconds": 2.0,
}


def answering(**changed):
    """A script that answers as the worker does, with something changed; $VARIABLES are filled in."""
    text = json.dumps({**MEASUREMENT, **changed}).replace('"', '\\"')
    return f'echo "{text}"'


@pytest.fixture
def python_in(tmp_path):
    """Make a folder whose ``python3`` is a shell script; the folder's path."""

    def make(folder, script):
        program = tmp_path / folder / "python3"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return str(program.parent)

    return make


@pytest.fixture
def on_path(monkeypatch):
    """Put folders on PATH behind this environment's own, as an activated virtual environment does."""

    def put(*folders, named=""):
        monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.prefix, "bin")), *folders]))
        monkeypatch.setenv("WORKSHOP_TRTLLM_PYTHON", named)

    return put


def test_a_pods_own_torch_behind_the_virtual_environment_measures_the_gpu(tmp_path, python_in, on_path):
    broken = python_in("broken", "echo 'no torch (No module named torch)' >&2; exit 1")
    on_path(broken, python_in("good", answering()))
    measured = hardware.roofline(pod(tmp_path))
    assert (measured.device, measured.note, measured.label) == ("NVIDIA GeForce RTX 4090", "", "")
    assert measured.published.name == "GeForce RTX 4090"


def test_a_named_python_comes_first(python_in, on_path):
    other = python_in("other", "exit 1")
    on_path(other, other, named="/opt/trtllm/bin/python")
    assert limits.other_pythons() == ["/opt/trtllm/bin/python", f"{other}/python3"]


@pytest.fixture
def installed(monkeypatch):
    """Let a Python be the installed release's, whose workers find MARK in their environment; None for none."""

    def install(python):
        found = SimpleNamespace(python=Path(python)) if python else None
        monkeypatch.setattr("helpers.releases.current", lambda machine=None: found)
        environment = {"PATH": os.environ["PATH"], "MARK": "the release's"}
        monkeypatch.setattr("helpers.releases.worker_environment", lambda installation: dict(environment))

    return install


def test_the_releases_python_comes_first_in_its_workers_environment(tmp_path, python_in, on_path, installed):
    installed(f"{python_in('release', answering(torch='$MARK'))}/python3")
    on_path(python_in("other", answering()))
    assert hardware.roofline(pod(tmp_path)).torch == "the release's"


def test_a_release_that_cannot_measure_is_named_and_the_next_is_asked(tmp_path, python_in, on_path, installed):
    release = python_in("release", "echo 'RuntimeError: no kernel image' >&2; exit 1")
    installed(f"{release}/python3")
    on_path()
    shown = hardware.roofline(pod(tmp_path))
    assert f"({release}/python3: RuntimeError: no kernel image)" in shown.note
    assert "which is the installed release's" in shown.note
    on_path(release, python_in("other", answering()))
    assert hardware.roofline(pod(tmp_path)).torch == "2.9.1"


def test_a_gpu_that_nothing_can_measure_shows_its_datasheet_and_what_was_wrong(tmp_path, python_in, on_path, installed):
    installed(None)
    # A real CPU build of torch, reached from outside this environment.
    cpu_build = python_in("cpu_build", f'exec {sys.executable} "$@"')
    on_path(cpu_build, python_in("silent", "exit 3"), python_in("chatty", "echo hello"), named="no-such-program")
    shown = hardware.roofline(pod(tmp_path))
    sheet = hardware.datasheet("NVIDIA GeForce RTX 4090")
    assert (shown.label, shown.torch, shown.published) == ("datasheet", "", None)
    assert (shown.device, shown.bandwidth) == ("NVIDIA GeForce RTX 4090", sheet.bandwidth)
    assert shown.rates["fp8"] == sheet.rates["fp8"]
    assert "no-such-program: No such file or directory" in shown.note
    assert re.search(r"cpu_build/python3: its torch \S+ sees no CUDA device", shown.note)
    assert "silent/python3: it ended without a message" in shown.note
    assert "chatty/python3: its answer was not a measurement" in shown.note
    assert "follows after notebook 02" in shown.note
    table = str(shown)
    assert table.startswith("datasheet: limits of NVIDIA GeForce RTX 4090\n")
    assert "measured" not in table.splitlines()[1]
    assert plots.roofline(shown, shown.published).alt.startswith("datasheet: roofline of NVIDIA GeForce RTX 4090")


def test_a_gpu_without_another_python_says_so(tmp_path, on_path, installed):
    installed(None)
    on_path()
    assert "no other Python is on PATH" in hardware.roofline(pod(tmp_path)).note


def test_a_slices_limits_are_predicted(tmp_path, on_path, installed):
    installed(None)
    on_path()
    part = gpu("NVIDIA H100 80GB HBM3 MIG 3g.40gb", (9, 0))
    shown = hardware.roofline(pod(tmp_path, gpus=(part,)))
    assert str(shown).startswith("predicted: limits of NVIDIA H100 80GB HBM3 MIG 3g.40gb")
    assert shown.bandwidth < hardware.datasheet("NVIDIA H100 80GB HBM3").bandwidth


def test_a_gpu_without_a_datasheet_shows_the_cpu_and_says_so(monkeypatch, tmp_path, on_path, installed):
    installed(None)
    on_path()
    cpu = limits.Roofline("cpu", 1e10, {"fp32": 1e11}, "2", 1.0)
    monkeypatch.setattr(limits, "_tried", lambda python, device, limit: cpu)
    shown = hardware.roofline(pod(tmp_path, gpus=(gpu("NVIDIA GeForce RTX 4090 D", (8, 9), driver="580.65.06"),)))
    assert shown.device == "A CPU, 16 cores"
    assert shown.note.startswith("This is the CPU, for nothing here could measure the NVIDIA GeForce RTX 4090 D")
    assert shown.note.endswith("run this cell again then.")


def test_with_a_driver_that_is_too_old_the_cpu_is_measured_for_engines_run_there(
    monkeypatch, tmp_path, on_path, installed
):
    installed(None)
    on_path()
    cpu = limits.Roofline("cpu", 1e10, {"fp32": 1e11}, "2", 1.0)
    monkeypatch.setattr(limits, "_tried", lambda python, device, limit: cpu)
    old = gpu("NVIDIA GeForce RTX 3090", (8, 6), driver="470.82.01")
    here = pod(tmp_path, gpus=(old,), driver="470.82.01")
    shown = hardware.roofline(here)
    assert (shown.device, shown.label) == ("A CPU, 16 cores", "")
    assert "Driver 470.82.01 is too old" in shown.note
    assert "notebook 02" not in shown.note
    assert "Driver 470.82.01 is too old" in here.table().note
    assert here.table().note.endswith("engines are built and run on the CPU, with OpenVINO.")


def test_a_full_gpu_says_to_free_it(tmp_path, python_in, on_path, installed):
    installed(None)
    on_path(python_in("full", "echo 'OutOfMemoryError: CUDA out of memory' >&2; exit 1"))
    assert "hardware.holders()" in hardware.roofline(pod(tmp_path)).note


def test_another_python_does_not_load_this_ones_packages(tmp_path, python_in, on_path, installed, monkeypatch):
    installed(None)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    on_path(python_in("good", answering(torch="path: $PYTHONPATH")))
    assert hardware.roofline(pod(tmp_path)).torch == "path: "


@pytest.mark.parametrize(("chosen", "visible"), [("", "1 PCI_BUS_ID"), ("0", "0 ")])
def test_of_several_gpus_the_one_meant_is_measured(
    tmp_path, python_in, on_path, installed, monkeypatch, chosen, visible
):
    installed(None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    on_path(python_in("good", answering(torch="$CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER")))
    both = (gpu("Tesla T4", (7, 5)), gpu("NVIDIA L4", (8, 9), index=1))
    assert hardware.roofline(pod(tmp_path, gpus=both)).torch == visible


def test_a_measurement_that_takes_too_long_leaves_no_process(tmp_path, python_in, on_path, installed, pids):
    installed(None)
    on_path(python_in("slow", f"{shutil.which('sleep')} 600 & echo $! >> {pids.file}; wait"))
    assert "no answer within 0.5 s" in hardware.roofline(pod(tmp_path), limit=0.5).note
    assert pids.read()
    pids.all_gone()


def test_a_failing_measurement_says_why(monkeypatch, tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text("import time; time.sleep(20)")
    broken = tmp_path / "broken.py"
    broken.write_text("import sys; sys.exit('out of memory')")
    monkeypatch.setattr(limits, "WORKER", broken)
    with pytest.raises(WorkshopError, match="not measured: out of memory; run"):
        hardware.roofline(pod(tmp_path, gpus=()))
    monkeypatch.setattr(limits, "WORKER", slow)
    with pytest.raises(WorkshopError, match=r"no answer within 0\.5 s"):
        hardware.roofline(pod(tmp_path, gpus=()), limit=0.5)


def test_the_worker_prints_one_line_of_json():
    done = subprocess.run(
        [sys.executable, str(limits.WORKER), "--device", "cpu", "--limit", "0.001"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("\n") == 1
    assert set(json.loads(done.stdout)) == {"device", "torch", "bandwidth", "rates", "sizes", "skipped", "seconds"}


# The worker with a product that fails as CUDA does: what went wrong, then advice on debugging kernels.
FAILING = """
import sys
from pathlib import Path
worker, failing, *sys.argv[1:] = sys.argv[1:]
whole = "    return lambda: left @ right"
broken = f"    if precision in {failing.split()}: raise RuntimeError('CUDA error: no kernel image\\\\nPass this.')"
exec(compile(Path(worker).read_text().replace(whole, broken + chr(10) + whole), worker, "exec"))
"""


def test_a_precision_that_fails_does_not_cost_the_others(tmp_path, python_in, on_path, installed):
    def worker(failing):
        command = [sys.executable, "-c", FAILING, str(limits.WORKER), failing, "--limit", "0.001"]
        return subprocess.run(command, capture_output=True, text=True)

    found = json.loads(worker("bf16").stdout)
    assert found["skipped"] == {"bf16": "RuntimeError: CUDA error: no kernel image"}
    assert set(found["rates"]) == {"fp32", "fp16"}
    failed = worker("fp32 fp16 bf16")
    assert (failed.returncode, failed.stderr.strip()) == (1, "RuntimeError: CUDA error: no kernel image")
    installed(None)
    on_path(python_in("good", answering(skipped=found["skipped"])))
    assert "BF16 was not measured: RuntimeError: CUDA error: no kernel image." in str(hardware.roofline(pod(tmp_path)))
