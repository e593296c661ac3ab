"""Adopting, installing and verifying TensorRT-LLM: real processes, real environments, doubles of the packages."""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import doubles
import pods
import pytest
from conftest import until

from helpers import hardware, releases, stage, workspace
from helpers.errors import WorkshopError
from helpers.releases import install, installation, system, table, verify
from helpers.workers import trtllm_install

GB = 10**9
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


def machine(**changed):
    gpu = hardware.Gpu(0, "NVIDIA GeForce RTX 4090", (8, 9), 24 * GB, 24 * GB, "580.65.06")
    cpu = hardware.Cpu("a processor", 8, ("avx2",))
    found = hardware.Machine(
        cpu, (gpu,), 64 * GB, Path("here"), 200 * GB, 8 * GB, "3.12.1", "Linux 6", "580.65.06", "13.0"
    )
    return replace(found, **changed)


# --- The environment of every worker ---------------------------------------------------------------


@pytest.fixture
def python(tmp_path):
    """An environment with the folders in which wheels put their libraries."""
    doubles.make_environment(tmp_path / "env")
    packages = doubles.packages_folder(tmp_path / "env")
    for folder in ("nvidia/cublas/lib", "nvidia/cu13/lib", "torch/lib", "tensorrt_libs"):
        (packages / folder).mkdir(parents=True)
    return tmp_path / "env" / "bin" / "python"


def test_a_worker_gets_what_it_needs_and_nothing_that_misleads_it(python, tmp_path):
    toolkit = tmp_path / "cuda"
    (toolkit / "bin").mkdir(parents=True)
    (toolkit / "bin" / "nvcc").touch()
    base = {"PATH": "/bin", "HOME": "/root", "CUDA_HOME": str(toolkit), "LD_LIBRARY_PATH": "/their/lib"}
    misleading = dict.fromkeys(("SLURM_JOB_ID", "PMI_RANK", "PMIX_RANK", "PMI2_X", "OMPI_COMM_WORLD_SIZE"), "x")
    misleading |= {
        "PYTHONPATH": "/ours",
        "PYTHONHOME": "/ours",
        "MPLBACKEND": "module://inline",
        "VIRTUAL_ENV": "/ours",
    }
    made = releases.worker_environment(python, base={**base, **misleading})
    assert not set(misleading) & set(made)
    wanted = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "TLLM_WORKER_USE_SINGLE_PROCESS": "1",
        "PYTHONNOUSERSITE": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_HOME": str(toolkit),
        "HOME": "/root",
    }
    assert wanted.items() <= made.items()
    packages = doubles.packages_folder(python.parent.parent)
    folders = made["LD_LIBRARY_PATH"].split(":")
    names = ("nvidia/cu13/lib", "nvidia/cublas/lib", "torch/lib", "tensorrt_libs")
    assert sorted(folders[:-1]) == sorted(str(packages / name) for name in names)
    assert folders[-1] == "/their/lib"
    assert made["PATH"].split(":")[0] == str(python.parent)


def test_several_gpus_get_a_process_each(python):
    assert "TLLM_WORKER_USE_SINGLE_PROCESS" not in releases.worker_environment(python, 2, {"PATH": "/bin"})
    set_before = {"PATH": "/bin", "TLLM_WORKER_USE_SINGLE_PROCESS": "1"}
    assert "TLLM_WORKER_USE_SINGLE_PROCESS" not in releases.worker_environment(python, 2, set_before)


def test_a_child_really_starts_in_it(python):
    made = releases.worker_environment(python, base={**os.environ, "SLURM_JOB_ID": "7", "PYTHONPATH": "/nowhere"})
    code = "import os, sys; print([n for n in os.environ if n.startswith('SLURM')], '/nowhere' in sys.path)"
    done = subprocess.run([python, "-c", code], env=made, capture_output=True, text=True)
    assert done.stdout.strip() == "[] False", done.stderr


# --- What the system must have ----------------------------------------------------------------------

READY = system.System(
    "Linux x86_64", "libmpi.so.40", "libnuma.so.1", "/usr/bin/gcc", "/usr/local/cuda", "/usr/bin/python3.12"
)
ROW = table.release("1.2.1")


def test_a_ready_system_may_install():
    shown = releases.preconditions(ROW, machine(), READY)
    assert {row[2] for row in shown.rows} == {"ok"}
    assert shown.note == "All of it is there."


@pytest.mark.parametrize(
    ("changed", "row", "advice"),
    [
        ({"platform": "Darwin arm64"}, "system", "Linux"),
        ({"mpi": ""}, "MPI library", "libopenmpi-dev"),
        ({"numa": ""}, "libnuma", "libnuma1"),
        ({"compiler": ""}, "C compiler", "build-essential"),
        ({"cuda_home": ""}, "CUDA toolkit", "CUDA_HOME"),
    ],
)
def test_what_is_missing_stops_and_says_what_to_do(changed, row, advice):
    shown = releases.preconditions(ROW, machine(), replace(READY, **changed))
    [stopped] = [line for line in shown.rows if line[2] == "stop"]
    assert stopped[0] == row
    assert advice in stopped[3]
    assert row in shown.note


def test_missing_packages_are_installed_by_one_line():
    shown = releases.preconditions(ROW, machine(), replace(READY, mpi="", numa=""))
    assert shown.note.endswith("As root: apt-get update && apt-get install -y libopenmpi-dev libnuma1")


@pytest.mark.parametrize(
    ("free", "occupied", "verdict"), [(30, 0, "ok"), (29, 0, "stop"), (12, 20, "ok"), (5, 20, "stop")]
)
def test_thirty_gigabytes_are_needed_less_what_is_there_of_it(free, occupied, verdict):
    shown = releases.preconditions(ROW, machine(disk_free_bytes=free * GB), replace(READY, occupied=occupied * GB))
    assert next(row[2] for row in shown.rows if row[0] == "disk") == verdict


def test_little_shared_memory_is_a_warning():
    shown = releases.preconditions(ROW, machine(shared_memory_bytes=64 * 10**6), READY)
    [warned] = [row for row in shown.rows if row[2] == "warning"]
    assert warned[0] == "/dev/shm" and "--ipc=host" in warned[3]


def test_without_a_python_that_has_a_wheel_uv_fetches_one():
    found = system.interpreter(replace(ROW, pythons=("3.99", "3.98")))
    assert found == "3.99"
    [first, *_] = install.install_steps(ROW, "env", found)
    assert first.command == ("uv", "venv", "--python", "3.99", "--seed", "env")
    own = system.interpreter(replace(ROW, pythons=("3.99", MINOR)))
    assert own in (sys.executable, "3.99"), "this Python, unless it has no headers"


def test_the_commands_for_a_person_are_those_of_the_stage():
    shown = [" ".join(words) for words in releases.install_commands(ROW, "$WORKSHOP_HOME/environments/trtllm-1.2.1")]
    assert shown[0] == "apt-get install -y libopenmpi-dev libnuma1 python3-dev"
    torch, package = (next(line for line in shown if part in line) for part in ("torchvision", "tensorrt_llm=="))
    assert shown.index(torch) < shown.index(package)
    assert "torch==2.9.1+cu130" in torch and "https://download.pytorch.org/whl/cu130" in torch
    assert "--extra-index-url https://pypi.nvidia.com" in package
    assert all("data/constraints/trtllm-1.2.1.txt" in line for line in (torch, package))


def test_the_pins_that_do_not_fit_here_are_counted():
    shown = releases.companions(ROW)
    verdicts = {row[0]: row[3] for row in shown.rows}
    assert verdicts["torch"] == "does not fit", "the notebooks' torch is a CPU build"
    assert verdicts["huggingface-hub"] == "fits"
    count = list(verdicts.values()).count("does not fit")
    assert shown.note.startswith(f"{count} of {len(shown.rows)} do not fit: torch, ")


def test_where_nothing_is_installed_nothing_is_needed(monkeypatch):
    [row] = releases.needed(table.choose(None, "", "")).rows
    assert row[:1] + row[2:] == ["nothing", "ok", ""] and "CPU toolchain" in row[1]


# --- Installing, with tiny wheels from a folder ------------------------------------------------------


def make_wheel(folder, name, version, files=None, requires=(), programs=()):
    """A wheel that pip takes, with nothing in it but what is given."""
    stem = f"{name.replace('-', '_')}-{version}"
    about = f"{stem}.dist-info"
    head = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    inside = {
        **(files or {}),
        f"{about}/METADATA": "\n".join(head) + "\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if programs:
        lines = [f"{program} = tensorrt_llm.commands.{module}:main" for program, module in programs]
        inside[f"{about}/entry_points.txt"] = "[console_scripts]\n" + "\n".join(lines) + "\n"
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text)}"
        for path, text in inside.items()
    ]
    inside[f"{about}/RECORD"] = "\n".join([*record, f"{about}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for path, text in inside.items():
            wheel.writestr(path, text)


def make_torch(folder, build):
    """A wheel of torch 2.9.1 that brings the doubles, and this Python's packages behind them; pip does not see them."""
    paths = [str(doubles.SITE), str(doubles.RELEASE), sysconfig.get_path("purelib")]
    line = f"import sys; 'pip' in sys.orig_argv or (sys.path.extend({paths}), __import__('double_torch'))\n"
    make_wheel(folder, "torch", f"2.9.1+{build}", {"doubles.pth": line})


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels that pip takes everything from, whatever index a command names."""
    folder = tmp_path / "index"
    folder.mkdir()
    make_torch(folder, "cu130")
    for name, version in {
        "torchvision": "0.24.1+cu130",
        "tensorrt": ROW.tensorrt,
        "transformers": ROW.transformers,
        "nvidia-modelopt": ROW.modelopt,
        "setuptools": "79.0",
        "wheel": "0.46.2",
    }.items():
        make_wheel(folder, name, version)
    requires = ["torch>=2.9.1,<=2.10.0a0", "tensorrt~=10.14.1", "transformers==4.57.3", "nvidia-modelopt~=0.37.0"]
    make_wheel(folder, "tensorrt_llm", "1.2.1", None, requires, doubles.PROGRAMS.items())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def pod(tmp_path, own_home, monkeypatch):
    """This process on a 4090 pod that has everything but TensorRT-LLM, and whose Python the release has a wheel for."""
    made = pods.Pod("rtx-4090", own_home)
    made.enter(monkeypatch)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.prefix, "bin")), "/bin"]))
    monkeypatch.setenv("WORKSHOP_TRTLLM_PYTHON", "none")
    ready = replace(READY, python=sys.executable)
    monkeypatch.setattr(system.System, "look", classmethod(lambda cls, wanted: ready))
    return made


def choice():
    return table.choose((8, 9), "RTX 4090", "580.65.06")


def steps_done(environment):
    return sorted(mark.stem for mark in environment.with_name(f"{environment.name}.steps").glob("*.done"))


def test_a_release_is_installed_verified_recorded_and_then_left_alone(index, pod, capfd):
    made = releases.ensure()
    assert (made.version, made.adopted) == ("1.2.1", False)
    assert made.python == pod.home / "environments" / "trtllm-1.2.1" / "bin" / "python"
    assert made.versions["torch"] == "2.9.1+cu130"
    assert made.program("trtllm-build") == made.python.parent / "trtllm-build"
    assert (
        "Successfully installed"
        in (pod.home / "runs" / sorted(os.listdir(pod.home / "runs"))[0] / "log.txt").read_text()
    )
    assert not list((pod.home / "environments").glob(".pip*"))
    shown = releases.checks(made)
    assert {row[-1] for row in shown.rows} == {"ok"}, str(shown)
    assert releases.current() is not None and releases.require().python == made.python
    began = time.monotonic()
    assert releases.ensure().reused
    assert time.monotonic() - began < 3

    # The environment is deleted: what is recorded of it no longer counts, and it is made again.
    shutil.rmtree(made.python.parent.parent)
    assert releases.current() is None
    with pytest.raises(WorkshopError, match="notebook 02"):
        releases.require()
    assert install._install(ROW).exists()


def worker(environment, steps, made_from="x"):
    """Run the installing worker as the stage does; returns the process's result."""
    listed = json.dumps([[step.name, step.title, list(step.command)] for step in steps])
    out = environment.with_name("out")
    command = [sys.executable, install._WORKERS / "trtllm_install.py", "--steps", listed, "--made-from", made_from]
    command += ["--environment", environment, "--output", out]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=100)


def test_an_interrupted_installation_goes_on_where_it_stopped(index, tmp_path):
    environment = tmp_path / "env"
    steps = install.install_steps(ROW, str(environment), sys.executable)
    late = index / "late"
    late.mkdir()
    [wheel] = index.glob("tensorrt_llm-*.whl")
    wheel.rename(late / wheel.name)
    first = worker(environment, steps)
    assert first.returncode == 1
    assert steps_done(environment) == ["pip", "torch", "venv"]
    known = releases.explain(first.stdout + first.stderr)
    assert known and known.name == "no wheel"
    (late / wheel.name).rename(wheel)
    second = worker(environment, steps)
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("done earlier") == 3
    assert "@progress 3/5 TensorRT-LLM" in second.stdout
    assert steps_done(environment) == ["check", "package", "pip", "torch", "venv"]
    # With other constraints nothing of it counts as done.
    assert not any(trtllm_install.Marks(environment, "y").has(step) for step in steps)
    assert all(trtllm_install.Marks(environment, "x").has(step) for step in steps)


def test_a_torch_for_another_cuda_is_told_and_put_right_by_the_next_run(index, tmp_path):
    environment = tmp_path / "env"
    steps = install.install_steps(ROW, str(environment), sys.executable)
    [wheel] = index.glob("torch-2*.whl")
    wheel.unlink()
    make_torch(index, "cu128")
    make_wheel(index, "torchvision", "0.24.1")
    held = ("-c", str(install.DATA / "constraints" / ROW.constraints))
    wrong = [
        replace(step, command=tuple(word.replace("+cu130", "+cu128") for word in step.command if word not in held))
        for step in steps
    ]
    told = worker(environment, wrong)
    assert told.returncode == 1
    known = releases.explain(told.stdout + told.stderr)
    assert known and known.name == "torch for another CUDA"
    assert steps_done(environment) == ["pip", "venv"]
    make_torch(index, "cu130")
    assert worker(environment, steps).returncode == 0


def test_an_environment_without_its_python_is_made_from_the_start(index, tmp_path):
    environment = tmp_path / "env"
    [venv, *_] = install.install_steps(ROW, str(environment), sys.executable)
    steps = [replace(venv, command=(*venv.command, "--without-pip"))]
    assert worker(environment, steps).returncode == 0
    (environment / "bin" / "python").unlink()
    (environment / "bin" / "python").symlink_to(tmp_path / "gone")
    again = worker(environment, steps)
    assert again.returncode == 0 and "done earlier" not in again.stdout
    assert (environment / "bin" / "python").exists()


def test_killing_the_kernel_during_an_installation_leaves_no_process(index, pod, pids):
    slow = f"import os, time; open({str(pids.file)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(600)"
    code = (
        "import sys; from dataclasses import replace; from helpers.releases import install, system\n"
        f"ready = system.System(*{list(vars(READY).values())!r})\n"
        "system.System.look = classmethod(lambda cls, wanted: ready)\n"
        "step = install.trtllm_install.Step('venv', 'slow', (sys.executable, '-c', sys.argv[1]))\n"
        "install.install_steps = lambda *words: [step]\n"
        "install.ensure()"
    )
    kernel = subprocess.Popen([sys.executable, "-c", code, slow], cwd=workspace.REPOSITORY, stderr=subprocess.PIPE)
    try:
        pids.wait(1)
    finally:
        kernel.send_signal(signal.SIGKILL)
        kernel.communicate()
    pids.all_gone()
    until(lambda: not [s for _, s in stage.runs() if stage.is_alive(s)], 5, "the end of the supervisor")


def test_downloads_are_told_as_progress(tmp_path, capfd):
    lines = ("  Downloading https://x/torch-2.9.1.whl (900.0 MB)", "Progress 450000000 of 900000000", "Done")
    code = f"print(*{lines}, sep='\\n')"
    step = trtllm_install.Step("torch", "PyTorch", (sys.executable, "-c", code))
    assert trtllm_install.run(step, step.command, "2/5", os.environ) == 0
    shown = capfd.readouterr().out.splitlines()
    assert "@progress 2/5 PyTorch: 450 of 900 MB of torch-2.9.1.whl" in shown
    assert not any(line.startswith("Progress") for line in shown) and "Done" in shown


def test_installing_is_refused_before_anything_is_downloaded(pod, monkeypatch):
    monkeypatch.setattr(system.System, "look", classmethod(lambda cls, wanted: replace(READY, mpi="")))
    with pytest.raises(WorkshopError) as told:
        releases.ensure()
    assert "nothing was downloaded" in str(told.value)
    assert "apt-get update && apt-get install -y libopenmpi-dev" in str(told.value)
    assert not (pod.home / "environments").exists()


# --- Adopting ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The doubles of both releases, by version."""
    place = tmp_path_factory.mktemp("made")
    return {version: doubles.make_release(place / version, version) for version in ("1.2.1", "1.0.0")}


@pytest.fixture
def on_path(pod, monkeypatch):
    """Put a Python first on this pod's PATH, as ``python3``."""

    def put(python, folder):
        folder.mkdir()
        (folder / "python3").symlink_to(python)
        script = folder / "python3"
        script.unlink()
        script.write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", os.pathsep.join([str(folder), "/bin"]))
        monkeypatch.delenv("WORKSHOP_TRTLLM_PYTHON", raising=False)
        return folder / "python3"

    return put


def test_a_python_on_path_that_has_a_release_is_adopted(on_path, made, tmp_path):
    python = on_path(made["1.0.0"], tmp_path / "bin")
    assert releases.needed().rows == [["nothing", f"TensorRT-LLM 1.0.0 is there: {python}", "ok", ""]]
    found = releases.ensure()
    assert (found.python, found.version, found.adopted) == (python, "1.0.0", True)
    assert found.program("trtllm-build").exists(), "its programs lie elsewhere than beside it"
    assert found.program("trtllm-build").parent == made["1.0.0"].parent
    assert {row[-1] for row in releases.checks(found).rows} == {"ok"}


def test_a_release_that_is_not_offered_is_passed_over_and_named(on_path, tmp_path, capsys, monkeypatch):
    doubles.make_environment(tmp_path / "other")
    doubles.install(tmp_path / "other", {"tensorrt_llm": "1.3.0rc22"})
    python = on_path(tmp_path / "other" / "bin" / "python", tmp_path / "bin")
    monkeypatch.setattr(install, "_install", lambda wanted: (_ for _ in ()).throw(WorkshopError("would install")))
    with pytest.raises(WorkshopError, match="would install"):
        releases.ensure()
    told = capsys.readouterr().out
    assert f"{python} has TensorRT-LLM 1.3.0rc22 and is passed over." in told
    assert "without the engine workflow" in told


@pytest.mark.parametrize(
    ("version", "told"),
    [(None, "which has no tensorrt_llm"), ("1.1.0", "does not offer TensorRT-LLM 1.1.0"), ("", "which is not there")],
)
def test_a_named_python_that_cannot_be_used_is_an_error(pod, tmp_path, monkeypatch, version, told):
    if version != "":
        doubles.make_environment(tmp_path / "named")
        doubles.install(tmp_path / "named", {"tensorrt_llm": version} if version else {})
    monkeypatch.setenv("WORKSHOP_TRTLLM_PYTHON", str(tmp_path / "named" / "bin" / "python"))
    with pytest.raises(WorkshopError, match=told) as error:
        releases.ensure()
    assert "WORKSHOP_TRTLLM_PYTHON" in str(error.value)


def test_a_named_release_that_the_driver_is_too_old_for_is_an_error(own_home, made, monkeypatch):
    pods.Pod("a10g", own_home, made["1.2.1"]).enter(monkeypatch)
    with pytest.raises(WorkshopError, match=r"has TensorRT-LLM 1\.2\.1\. It does not fit this machine"):
        releases.ensure()


def test_an_adopted_one_that_does_not_import_says_why_and_how_to_install_instead(on_path, made, tmp_path, monkeypatch):
    on_path(made["1.2.1"], tmp_path / "bin")
    monkeypatch.setenv("DOUBLE_FAULT", "import:no-libmpi")
    with pytest.raises(WorkshopError) as told:
        releases.ensure()
    assert "Cause: TensorRT-LLM imports MPI even for one GPU" in str(told.value)
    assert "apt-get install -y libopenmpi-dev" in str(told.value)
    assert "set WORKSHOP_TRTLLM_PYTHON=none" in str(told.value)
    assert releases.current() is None


def test_a_machine_that_no_release_fits_is_told_why(own_home, monkeypatch):
    pods.old_driver(own_home.parent).enter(monkeypatch)
    with pytest.raises(WorkshopError, match=r"470\.256\.02 is too old"):
        releases.ensure()


# --- Verifying ---------------------------------------------------------------------------------------


def probe(python, *words, seconds="60", **variables):
    command = [str(python), str(install._WORKERS / "trtllm_probe.py"), *words, "--import-seconds", seconds]
    environment = {**releases.worker_environment(python), **doubles.pod("rtx-4090", Path("x")), **variables}
    environment.pop("PYTHONPATH")
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_an_import_that_hangs_is_ended_and_explained(made, tmp_path):
    began = time.monotonic()
    done = probe(made["1.2.1"], "--output", str(tmp_path), seconds="2", DOUBLE_FAULT="import:mpi-hang")
    assert time.monotonic() - began < 15
    assert done.returncode != 0
    assert not (tmp_path / "probe.json").exists()
    known = releases.explain(done.stdout + done.stderr)
    assert known and known.name == "hang at MPI's start"


def test_the_probe_imports_nothing_of_ours_and_each_answer_stands_alone(made, tmp_path):
    words = ["--program", json.dumps(["trtllm-build", ["trtllm-build", "--help"]])]
    words += ["--program", json.dumps(["trtllm-nothing", ["trtllm-nothing", "--help"]])]
    for entry in ("tensorrt_llm.BuildConfig", "tensorrt_llm.Nothing", "tensorrt_llm.llmapi.QuantAlgo"):
        words += ["--entry", entry]
    done = probe(made["1.2.1"], *words, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "probe.json").read_text())
    assert "--max_batch_size" in told["programs"]["trtllm-build"]["help"]
    assert told["programs"]["trtllm-nothing"]["error"] == "is not installed"
    assert "max_batch_size" in told["entries"]["tensorrt_llm.BuildConfig"]["parameters"]
    assert "AttributeError" in told["entries"]["tensorrt_llm.Nothing"]["error"]
    assert "FP8" in told["entries"]["tensorrt_llm.llmapi.QuantAlgo"]["parameters"]
    source = (install._WORKERS / "trtllm_probe.py").read_text()
    assert "import helpers" not in source and "from helpers" not in source


def test_a_sub_commands_help_is_asked_with_what_its_group_requires():
    asked = [json.loads(word) for word in install.questions("1.2.1") if word.startswith("[")]
    by_name = {name: commands for name, *commands in asked}
    assert by_name["trtllm-serve"] == [["trtllm-serve", "serve", "--help"]]
    assert ["trtllm-bench", "--model", "x", "throughput", "--help"] in by_name["trtllm-bench"]
    for name, commands in by_name.items():
        program = releases_contract().programs[name]
        for command in commands:
            given = command[:-1]
            if given[-1] in program.commands and not program.commands[given[-1]].positional:
                assert not [p for p in program.problems(given) if "has no option" in p]


def releases_contract():
    from helpers.releases.contract import contract

    return contract("1.2.1")


def full_probe(version):
    """What a probe finds where everything is there that the contract promises."""
    names = verify.wanted(version, settled=True)
    terms = releases_contract()
    row = table.release(version)
    pins = zip(verify.PACKAGES, (version, row.tensorrt, row.torch, row.transformers, row.modelopt), strict=True)
    return {
        "versions": dict(pins),
        "torch_cuda": row.torch_cuda + ".0",
        "cuda_available": True,
        "programs": {name: {"help": "\n".join(f"  {word}  text" for word in names[name])} for name in terms.programs},
        "entries": {name: {"parameters": list(names[name])} for name in terms.entries},
    }


def installed_with(told, tmp_path, adopted=False):
    place = installation.record("1.2.1")
    place.mkdir(parents=True, exist_ok=True)
    (place / "probe.json").write_text(json.dumps(told))
    options = {"release": "1.2.1", "python": str(tmp_path / "env/bin/python"), "adopted": adopted}
    return releases.Installation(place, workspace.Manifest("release", "x", options=options))


def test_everything_that_is_promised_is_ok_although_unsettled_options_are_not_there(tmp_path):
    found = installed_with(full_probe("1.2.1"), tmp_path)
    assert {row[-1] for row in releases.checks(found).rows} == {"ok"}
    assert "--grpc" in found.lacking("trtllm-serve")
    with pytest.raises(WorkshopError, match="has no --grpc"):
        found.require("trtllm-serve", "--grpc")


def test_a_missing_option_stops_the_stage_that_needs_it_by_name(tmp_path):
    told = full_probe("1.2.1")
    build = told["programs"]["trtllm-build"]
    build["help"] = build["help"].replace("--max_num_tokens", "--max_tokens")
    found = installed_with(told, tmp_path)
    [bad] = [row for row in releases.checks(found).rows if row[-1] != "ok"]
    assert bad[0] == "trtllm-build" and "without --max_num_tokens" in bad[2]
    assert found.lacking("trtllm-build") == ("--max_num_tokens",)
    found.require("trtllm-build", "--max_batch_size")
    with pytest.raises(WorkshopError, match=r"trtllm-build of TensorRT-LLM 1\.2\.1 .* has no --max_num_tokens"):
        found.require("trtllm-build", "--max_batch_size", "--max_num_tokens")


def test_a_longer_options_name_does_not_pass_for_a_shorter_one(tmp_path):
    told = full_probe("1.2.1")
    told["programs"]["trtllm-build"]["help"] = "  --workers_more N\n  --no-workers"
    assert "--workers" in installed_with(told, tmp_path).lacking("trtllm-build")


def test_a_program_that_did_not_answer_is_told_with_its_own_words(tmp_path):
    told = full_probe("1.2.1")
    told["programs"]["trtllm-bench"] = {"help": "", "error": "no answer within 180 s"}
    found = installed_with(told, tmp_path)
    [bad] = [row for row in releases.checks(found).rows if row[-1] != "ok"]
    assert bad == ["trtllm-bench", bad[1], "no answer within 180 s", "failed"]
    with pytest.raises(WorkshopError, match=r"could not be asked \(no answer within 180 s\)"):
        found.require("trtllm-bench", "--dataset")


@pytest.mark.parametrize(
    ("changed", "row"),
    [
        ({"versions": {"torch": "2.10.0+cu130"}}, "torch"),
        ({"torch_cuda": "12.8"}, "torch is built for CUDA"),
        ({"cuda_available": False}, "torch sees the GPU"),
    ],
)
def test_another_version_is_told(tmp_path, changed, row):
    told = full_probe("1.2.1")
    told["versions"] |= changed.pop("versions", {})
    shown = releases.checks(installed_with({**told, **changed}, tmp_path))
    assert [line[0] for line in shown.rows if line[-1] != "ok"] == [row]
    assert row in shown.note


def test_an_images_own_build_of_a_version_is_taken_for_it(tmp_path):
    told = full_probe("1.2.1")
    told["versions"]["torch"] = "2.9.1a0+b4e4ee8"
    assert {row[-1] for row in releases.checks(installed_with(told, tmp_path, adopted=True)).rows} == {"ok"}
    own = releases.checks(installed_with(told, tmp_path))
    assert [row[0] for row in own.rows if row[-1] != "ok"] == ["torch"]
