"""Known failure texts are answered with their cause and remedy, and nothing else is."""

import re

import pytest

from helpers import stage
from helpers.releases import faults

# What the programs themselves print, by the row of data/faults.toml that must answer.
LOGS = {
    "shared memory is full": "include/shm.h:28 NCCL WARN Call to posix_fallocate failed : No space left on device",
    "disk is full": "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
    "placeholder package": "The installation of tensorrt-llm for version 1.2.1 failed.\n"
    "This is a special placeholder package which downloads a real wheel package from https://pypi.nvidia.com/",
    "no wheel": "ERROR: Could not find a version that satisfies the requirement tensorrt_llm==1.2.1 (from "
    "versions: none)",
    "versions conflict": "ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/",
    "no Python for it": "error: No interpreter found for Python 3.12 in managed installations or search path",
    "network": "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution",
    "torch for another CUDA": "ImportError: libcublasLt.so.13: cannot open shared object file: No such file or "
    "directory",
    "CUDA library not found": "OSError: libnvrtc.so.13: cannot open shared object file: No such file or directory",
    "no MPI library": "RuntimeError: cannot load MPI library\nlibmpi.so: cannot open shared object file",
    "no NUMA library": "ImportError: libnuma.so.1: cannot open shared object file: No such file or directory",
    "no CUDA home": '  File "deep_gemm/__init__.py", line 44, in _find_cuda_home\n    assert cuda_home is not '
    "None\nAssertionError",
    "no Python headers": "/tmp/x/cuda_utils.c:6:10: fatal error: Python.h: No such file or directory",
    "undefined symbol": "ImportError: bindings.cpython-312-x86_64-linux-gnu.so: undefined symbol: "
    "_ZNK3c105Error4whatEv",
    "batch system's variables": 'The application appears to have been direct launched using "srun", but OMPI was not '
    "built",
    "hang at MPI's start": "$ python probe.py\n[TensorRT-LLM][INFO] Initializing MPI with thread mode 3\n",
    "no slot for a rank": "All nodes which are allocated for this job are already filled.",
    "spawned again and again": "RuntimeError: only rank 0 can start multi-node session, got 1",
    "driver too old": "RuntimeError: CUDA driver version is insufficient for CUDA runtime version",
    "no FP8 in this GPU": "[TRT] [E] IBuilder::buildSerializedNetwork: Error Code 9: Internal Error "
    "(Networks with FP8 precision require hardware with FP8 support.)\n"
    "Engine building failed, please check the error log.",
    "FP8 in blocks": "Unsupported SM version for FP8 block scaling GEMM",
    "no INT8 or INT4 on Blackwell": "RuntimeError: INT8/INT4 quantization is not supported on SM>=100.",
    "GPU too old": "[TensorRT-LLM][ERROR] Assertion failed: Unsupported architecture (fmhaRunner.cpp)",
    "GPU memory, while building": "[TRT] [E] [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of "
    "memory)\n"
    "[TRT] [E] Error Code 2: OutOfMemory\nAssertionError: Engine building failed, please check the error log.",
    "GPU memory": "[TensorRT-LLM][ERROR] CUDA runtime error in ::cudaMallocAsync(ptr, n): out of memory",
    "killed": "loading\nKilled\n",
    "engine of another version": "Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed."
    "Version tag does not match. Note: Current Version: 240, Serialized Engine Version: 239)",
    "engine of another GPU": "The engine plan file is generated on an incompatible device, expecting compute 8.0 got "
    "compute 8.9, please rebuild.",
    "NCCL": "pod:1:2 [0] transport.cc:88 NCCL WARN Cuda failure 'peer access is not supported between these "
    "two devices'",
    "a rank was killed": "E1125 21:16:30.480000 9849 torch/distributed/elastic/multiprocessing/api.py:1002] failed "
    "(exitcode: -9) local_rank: 1 (pid: 9855) of binary: /usr/bin/python\n"
    "[rank0]: RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:36513.\n"
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
    "a rank never answered": "[rank0]: RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting "
    "2000ms for recv operation to complete\n"
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:",
    "a rank went away": "[rank0]: RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer "
    "[127.0.0.1]:36513. This is typically caused by a remote worker crashing.",
    "a rank failed": "E1125 21:16:35.988000 9866 torch/distributed/elastic/multiprocessing/api.py:1002] failed "
    "(exitcode: 1) local_rank: 1 (pid: 9872) of binary: /usr/bin/python",
    "engine taken for a model": "ValueError: Unrecognized model in engines/x. Should have a `model_type` key in its "
    "config.json",
    "tokenizer without its model's settings": "AttributeError: 'NoneType' object has no attribute 'model_type'",
    "calibration data": "ValueError: Config name is missing. Please pick one among the available configs: ['1.0.0']",
    "weights are not there": "SafetensorError: Error while deserializing header: HeaderTooLarge",
    "gated model": "OSError: You are trying to access a gated repo.\nCannot access gated repo for url "
    "https://huggingface.co/x",
}


@pytest.mark.parametrize("name", LOGS)
def test_each_text_is_answered_by_its_own_row(name):
    answer = faults.explain(f"some lines before\n{LOGS[name]}")
    assert answer is not None
    assert answer.name == name


def test_every_row_is_tried_and_complete():
    assert [fault.name for fault in faults.faults()] == list(LOGS)
    for fault in faults.faults():
        assert fault.patterns and all(re.compile(pattern) for pattern in fault.patterns)
        for text in (fault.cause, fault.remedy):
            assert text.strip() == text and re.search(r"[.)]$|install\b|-y \S+$", text), fault.name
            assert not re.search(r"/(?:work|home|tmp)/|facts", text)
        assert re.search(r"#\d|https?://|\.(?:py|md|html)|reports|errno|messages", fault.source), fault.name


@pytest.mark.parametrize(
    "log",
    [
        "",
        "Total time of building all engines: 00:01:12",
        "[TensorRT-LLM][INFO] Initializing MPI with thread mode 3\n[TensorRT-LLM] TensorRT LLM version: 1.2.1\nx",
        "Successfully installed torch-2.9.1+cu130",
        "1 process was skilled",
    ],
)
def test_a_log_without_a_known_text_is_left_alone(log):
    assert faults.explain(log) is None


def test_a_stage_that_took_too_long_while_mpi_started_is_recognized():
    log = LOGS["hang at MPI's start"] + "stopped: it ran longer than its limit of 900 s"
    answer = faults.explain(log)
    assert answer and answer.name == "hang at MPI's start"


def test_a_failed_stage_tells_cause_and_remedy_below_its_own_lines():
    told = stage.diagnosis("Traceback\n" + LOGS["no MPI library"])
    lines = told.splitlines()
    assert lines[-2].startswith("Cause: TensorRT-LLM imports MPI")
    assert lines[-1] == "Remedy: As root: apt-get update && apt-get install -y libopenmpi-dev"
    assert any("cannot load MPI library" in line for line in lines[:-2])


MEET = "@progress 0/6 starting\n@progress 1/6 first all-reduce: 2 ranks meet\n"
SUPERVISOR = "stopped: it ran longer than its limit of 600 s"
CONVERSE = "took longer than its limit of 900 s"


@pytest.mark.parametrize("why", [SUPERVISOR, CONVERSE])
@pytest.mark.parametrize("log", [MEET, "ranks: 2 start\n[TensorRT-LLM][INFO] Rank 0 is using GPU 0\n"])
def test_ranks_that_never_meet_within_the_limit_are_recognized_with_what_to_set(log, why):
    told = stage.diagnosis(log, why)
    assert "Cause: The ranks never finished an exchange with each other" in told
    for part in ("NCCL_P2P_DISABLE=1", "FORCE_NCCL_ALL_REDUCE_STRATEGY=1", "--ipc=host", "--shm-size"):
        assert part in told


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (MEET + "@progress 2/6 each rank reads its part of the weights\n", SUPERVISOR),  # they met; it is merely slow
        ("ranks: 2 start\nranks: 2 answered\n", CONVERSE),
        ("@progress 0/1 importing TensorRT-LLM and loading the engine\n", SUPERVISOR),  # one rank has nobody to meet
        (MEET, "stopped: the cell was interrupted or its kernel ended"),
    ],
)
def test_a_limit_that_has_nothing_to_do_with_ranks_is_not_blamed_on_them(log, why):
    assert faults.explain(f"{log}\n{why}") is None


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "GPU memory"),
        ("NCCL WARN Call to posix_fallocate failed : No space left on device", "shared memory is full"),
    ],
)
def test_what_a_rank_said_itself_counts_before_what_the_others_tell_of_it(said, name):
    others = "\n".join([LOGS["a rank went away"], LOGS["a rank failed"], "Signal 9 (SIGKILL) received by PID 7"])
    answer = faults.explain(f"ranks: 2 start\n[rank1]: {said}\n{others}\n{SUPERVISOR}")
    assert answer and answer.name == name
