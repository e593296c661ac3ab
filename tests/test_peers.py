"""What the driver says of pairs of GPUs, and what is set where two have no direct path."""

import json
from dataclasses import replace

import pytest
from pods import Pod

from helpers import hardware, releases
from helpers.hardware import Gpu, Link, Machine
from helpers.hardware.peers import HOST, NVLINK, PCIE, UNKNOWN, among, known_settings, path

GB = 10**9
SET = {"NCCL_P2P_DISABLE": "1", "FORCE_NCCL_ALL_REDUCE_STRATEGY": "1"}


def gpu(index: int = 0, name: str = "NVIDIA GeForce RTX 4090", capability: tuple[int, int] = (8, 9)) -> Gpu:
    return Gpu(index, name, capability, 24 * GB, 24 * GB, "580.65.06")


def machine(*gpus: Gpu, links: tuple[Link, ...] = ()) -> Machine:
    return replace(hardware.look(), gpus=gpus, driver="580.65.06", cuda="13.0", links=links)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (Link(0, 1, 0, 0, nvlink=0, nvlinks=18), NVLINK),
        (Link(0, 1, 0, 0, nvlink=5), PCIE),
        (Link(0, 1, 0, 0, nvlink=None, nvlinks=4), NVLINK),
        (Link(0, 1, 0, 0), PCIE),
        (Link(0, 1, 1, 1), HOST),
        (Link(0, 1, 0, 2), HOST),  # reading alone is no path for an exchange
        (Link(0, 1, None, 0), UNKNOWN),
    ],
)
def test_a_path_follows_from_what_the_driver_tells(link, expected):
    assert path(link) == expected


def test_two_4090_have_no_direct_path_and_the_table_says_what_is_set(tmp_path, monkeypatch):
    Pod("two-4090", tmp_path).enter(monkeypatch)
    found = hardware.peers()
    assert found.direct is False and found.count == 2
    told = str(found)
    assert told.count("no: the chipset does not support it") == 2
    assert "0 and 1" in told and HOST in told and "one processor" in told
    assert "the workshop sets NCCL_P2P_DISABLE=1, FORCE_NCCL_ALL_REDUCE_STRATEGY=1" in told
    assert told.splitlines()[-1][:40] in found._repr_html_().replace("&#x27;", "'")


def test_two_h100_reach_each_other_over_nvlink_and_nothing_is_set(tmp_path, monkeypatch):
    Pod("two-h100", tmp_path).enter(monkeypatch)
    found = hardware.peers()
    assert found.direct is True and found.paths == (NVLINK,)
    assert "18" in str(found) and "nothing needs to be set" in str(found)
    assert "by the workshop" not in str(hardware.settings_for_several(base={}))


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("", "No GPU here that an engine could use: nothing to probe."),
        ("t4", "No GPU here that an engine could use: nothing to probe."),
        ("rtx-4090", "One GPU here: nothing to probe. Of two, through the host's memory"),
        ("h100", "One GPU here: nothing to probe. Of two, direct over NVLink"),
        ("a10g", "One GPU here: nothing to probe. Of two, no source was found"),
        ("h100-mig", "slices of a split GPU are no peers of each other"),
    ],
)
def test_a_machine_without_two_gpus_has_nothing_to_probe_and_says_what_is_published(tmp_path, monkeypatch, key, told):
    Pod(key, tmp_path).enter(monkeypatch)
    found = hardware.peers()
    assert found.direct is None and found.links == ()
    assert told in str(found)
    assert len(found.table().rows) >= 1
    assert "sets none of them" in str(hardware.settings_for_several(base={}))


def test_a_driver_that_tells_nothing_of_pairs_is_believed_neither_way(tmp_path, monkeypatch):
    product = {"name": "NVIDIA L4", "capability": [8, 9], "memory": 24 * GB}
    silent = json.dumps({"driver": "580.1", "cuda": 13000, "count": 2, "gpu": product})
    Pod(silent, tmp_path).enter(monkeypatch)
    found = hardware.peers()
    assert found.paths == (UNKNOWN,) and found.direct is None
    assert "does not tell of every pair" in str(found)


def test_the_drivers_double_rejects_what_nvml_rejects(tmp_path, monkeypatch):
    import ctypes

    Pod("two-h100", tmp_path).enter(monkeypatch)
    import pynvml

    pynvml.nvmlInit()
    one, other = (pynvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1))
    with pytest.raises(ctypes.ArgumentError):  # the real module has this name as a tuple
        pynvml.nvmlDeviceGetP2PStatus(one, other, pynvml.NVML_P2P_CAPS_INDEX_READ)
    with pytest.raises(pynvml.NVMLError, match="Invalid Argument"):
        pynvml.nvmlDeviceGetP2PStatus(one, other, 9)
    with pytest.raises(pynvml.NVMLError, match="Invalid Argument"):
        pynvml.nvmlDeviceGetNvLinkState(one, 18)
    pynvml.nvmlShutdown()


def test_the_real_bindings_name_for_reading_is_a_tuple_which_is_why_it_is_not_used():
    pynvml = pytest.importorskip("pynvml")
    assert pynvml.NVML_P2P_CAPS_INDEX_READ in (0, (0,))
    assert pynvml.NVML_P2P_CAPS_INDEX_WRITE == 1


# --- Which GPUs one engine can be split over --------------------------------------------------------


def test_only_gpus_of_one_product_count(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    mixed = machine(gpu(0, "Tesla T4", (7, 5)), gpu(1), gpu(2, "NVIDIA L4"), gpu(3))
    assert [g.index for g in hardware.equal_gpus(mixed)] == [1, 3]
    slices = machine(*(gpu(0, "NVIDIA H100 80GB HBM3 MIG 3g.40gb", (9, 0)) for _ in range(2)))
    assert len(hardware.equal_gpus(slices)) == 1
    assert hardware.equal_gpus(machine()) == ()


@pytest.mark.parametrize(("visible", "indexes"), [("0", [0]), ("1,0", [0, 1]), ("1", [1]), ("GPU-abc", [0]), ("", [0])])
def test_gpus_that_a_process_is_not_to_see_do_not_count(monkeypatch, visible, indexes):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [g.index for g in hardware.equal_gpus(machine(gpu(0), gpu(1)))] == indexes


def test_only_the_pairs_that_an_engine_uses_decide(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    links = (Link(0, 1, 0, 0, 0), Link(0, 2, 1, 1), Link(1, 2, 1, 1))
    three = machine(gpu(0), gpu(1), gpu(2), links=links)
    assert among(three, 2).direct is True
    assert among(three, 3).direct is False
    assert hardware.peers(three).direct is False


# --- The environment of ranks -----------------------------------------------------------------------


@pytest.fixture
def python(tmp_path):
    return tmp_path / "bin" / "python"


def test_ranks_without_a_direct_path_get_the_settings_unless_the_user_set_them(python):
    links = (Link(0, 1, 1, 1),)
    two = machine(gpu(0), gpu(1), links=links)
    made = releases.worker_environment(python, 2, {"PATH": "/bin"}, machine=two)
    assert SET.items() <= made.items()
    assert not set(SET) & set(releases.worker_environment(python, 1, {"PATH": "/bin"}, machine=two))
    mine = {"PATH": "/bin", "NCCL_P2P_DISABLE": "0"}
    kept = releases.worker_environment(python, 2, mine, machine=two)
    assert kept["NCCL_P2P_DISABLE"] == "0" and kept["FORCE_NCCL_ALL_REDUCE_STRATEGY"] == "1"


@pytest.mark.parametrize("link", [Link(0, 1, 0, 0, 0), Link(0, 1, 0, 0, 5), Link(0, 1, None, None)])
def test_ranks_with_a_direct_path_or_an_unknown_one_get_none(python, link):
    two = machine(gpu(0), gpu(1), links=(link,))
    assert not set(SET) & set(releases.worker_environment(python, 2, {"PATH": "/bin"}, machine=two))


def test_ranks_see_only_the_gpus_of_their_product(python, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    mixed = machine(gpu(0, "Tesla T4", (7, 5)), gpu(1), gpu(2))
    made = releases.worker_environment(python, 2, {"PATH": "/bin"}, machine=mixed)
    assert (made["CUDA_VISIBLE_DEVICES"], made["CUDA_DEVICE_ORDER"]) == ("1,2", "PCI_BUS_ID")
    alike = machine(gpu(0), gpu(1))
    assert "CUDA_VISIBLE_DEVICES" not in releases.worker_environment(python, 2, {"PATH": "/bin"}, machine=alike)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (64_000_000, "64.00 MB here, too little: start the container"),
        (8_000_000_000, "8.00 GB here, enough"),
        (None, "no /dev/shm"),
    ],
)
def test_the_settings_say_whether_shared_memory_is_enough(size, said):
    assert said in hardware.settings_for_several(replace(machine(gpu(0)), shared_memory_bytes=size), {}).note


def test_the_settings_are_shown_with_reason_source_and_who_set_them():
    two = machine(gpu(0), gpu(1), links=(Link(0, 1, 1, 1),))
    table = hardware.settings_for_several(two, {"NCCL_P2P_DISABLE": "0"})
    here = {row[0].partition("=")[0]: row[1] for row in table.rows}
    assert here["NCCL_P2P_DISABLE"] == "by you, to '0'"
    assert here["FORCE_NCCL_ALL_REDUCE_STRATEGY"] == "by the workshop"
    assert here["NCCL_SHM_DISABLE"] == "no"
    assert {s.name for s in known_settings() if s.automatic} == set(SET)
    for setting in known_settings():
        assert setting.why.endswith(".") and setting.source and setting.value


# --- Shared memory ----------------------------------------------------------------------------------


def test_little_shared_memory_is_one_line_of_warning_for_several_ranks_only():
    small = replace(machine(gpu(0), gpu(1)), shared_memory_bytes=64 * 2**20)
    told = hardware.shared_memory_warning(small, 2)
    assert "67.11 MB" in told and "--ipc=host" in told and "--shm-size=8g" in told and "\n" not in told
    assert hardware.shared_memory_warning(small, 1) == ""
    assert hardware.shared_memory_warning(replace(small, shared_memory_bytes=2 * GB), 2) == ""
    assert hardware.shared_memory_warning(replace(small, shared_memory_bytes=None), 2) == ""


def test_the_preflight_names_the_gpus_that_would_share_it():
    row = next(row for row in hardware.checks(replace(machine(gpu(0), gpu(1)), shared_memory_bytes=1), True).rows
               if row[0] == "/dev/shm")  # fmt: skip
    assert row[2] == "warning" and "over these 2 GPUs" in row[3]
