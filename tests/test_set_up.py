"""The set-up: which Python, where torch comes from, the stamp, the kernel, and the pins themselves."""

import ast
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import set_up

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def steps(tmp_path: Path) -> set_up.Steps:
    return set_up.Steps(tmp_path / "build" / "set-up.log")


def script(path: Path, text: str) -> Path:
    """A small program that stands in for another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


# --- The pins


def pin_lines(name: str) -> list[str]:
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_line_is_one_exact_pin_with_its_reason(name: str) -> None:
    for line in pin_lines(name):
        assert re.fullmatch(r"[A-Za-z0-9_-]+(\[[a-z]+\])?==[0-9][0-9A-Za-z.]*\s+# .{10,}", line), line


def test_conda_has_the_same_pins_and_no_mpi() -> None:
    text = (ROOT / "environment.yml").read_text()
    listed = re.findall(r"^\s*- ([A-Za-z0-9_-]+(?:\[[a-z]+\])?==\S+)$", text, re.MULTILINE)
    assert listed == [line.split()[0] for line in pin_lines("requirements.txt")]
    assert len(set_up.pinned(ROOT / "requirements.txt")) == len(listed)
    packages = [line for line in text.splitlines() if line.strip().startswith("- ")]
    assert not [line for line in packages if "mpi" in line.lower()]
    assert "  - python=3.12" in packages


def test_tensorrt_is_explained_and_not_installed() -> None:
    text = (ROOT / "requirements.txt").read_text()
    assert "#   tensorrt-llm, tensorrt" in text
    assert not [name for name in set_up.pinned(ROOT / "requirements.txt") if "tensorrt" in name]


def test_the_environment_holds_what_is_pinned() -> None:
    from importlib.metadata import version

    pins = set_up.pinned(ROOT / "requirements.txt") | set_up.pinned(ROOT / "requirements-dev.txt")
    installed = {name: version(name).split("+")[0] for name in pins}
    assert installed == pins


# --- Which Python


def test_the_set_up_starts_on_python_3_6() -> None:
    ast.parse((ROOT / "tools" / "set_up.py").read_text(), feature_version=(3, 6))


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ({"here": (3, 11)}, "here"),
        ({"here": (3, 12)}, "here"),
        ({"here": (3, 10), "python3.12": (3, 12)}, "python3.12"),
        ({"here": (3, 13), "python3.11": (3, 11)}, "python3.11"),
        ({"here": (3, 8)}, None),
        ({}, None),  # none of them has venv and ensurepip
    ],
)
def test_the_first_supported_python_is_taken(found: dict[str, tuple[int, int]], chosen: str | None) -> None:
    assert set_up.choose_python(["here", "python3.12", "python3.11"], found.get) == chosen


def test_a_python_without_venv_is_not_usable(tmp_path: Path) -> None:
    broken = script(tmp_path / "python", 'echo "No module named ensurepip" >&2; exit 1')
    assert set_up.probe_python(str(broken)) is None
    assert set_up.probe_python(str(tmp_path / "absent")) is None
    assert set_up.probe_python(sys.executable) == sys.version_info[:2]


FAKE_UV = 'echo "$@" >> "{log}"\nfor last; do :; done\nmkdir -p "$last/bin" && touch "$last/bin/python"\n'


def test_an_unsuitable_python_gets_3_12_from_the_uv_on_path(
    tmp_path: Path, steps: set_up.Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "bin" / "uv", FAKE_UV.format(log=tmp_path / "uv.log"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(set_up, "probe_python", lambda python: (3, 9))
    set_up.make_venv(steps, tmp_path / ".venv", tmp_path / "build")
    assert (tmp_path / "uv.log").read_text() == f"venv --python 3.12 --seed {tmp_path / '.venv'}\n"
    assert (tmp_path / ".venv" / "bin" / "python").exists()


def uv_writer(tmp_path: Path) -> str:
    """Shell that makes the private uv, as an installation would."""
    uv = tmp_path / "build" / "uv" / "bin" / "uv"
    fake = FAKE_UV.format(log=tmp_path / "uv.log").replace("$", r"\$")
    return f'mkdir -p "{uv.parent}"\ncat > "{uv}" <<END\n#!/bin/sh\n{fake}END\nchmod +x "{uv}"\n'


def the_only_python(
    python: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int] | None, **programs: str
) -> None:
    """Let ``python`` be this machine's Python, with venv if it has a version, and ``programs`` all that PATH holds."""
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(set_up, "probe_python", lambda name: version if name == str(python) else None)
    monkeypatch.setattr(set_up.shutil, "which", programs.get)


def test_without_uv_pip_puts_it_into_a_private_folder(
    tmp_path: Path, steps: set_up.Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f'case "$*" in *install*) echo "$@" > "{tmp_path}/pip.log"\n{uv_writer(tmp_path)};; esac\n'
    the_only_python(script(tmp_path / "old-python", body), monkeypatch, None)
    set_up.make_venv(steps, tmp_path / ".venv", tmp_path / "build")
    assert f"--target {tmp_path / 'build' / 'uv'} uv" in (tmp_path / "pip.log").read_text()
    assert "--python 3.12" in (tmp_path / "uv.log").read_text()


def test_without_uv_and_pip_venv_brings_a_pip_that_puts_uv_beside_it(
    tmp_path: Path, steps: set_up.Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "build" / "uv"
    made = private / "bin" / "python"
    # What `venv` makes here is a Python whose pip notes its words and leaves a uv.
    pip = script(tmp_path / "made", f'echo "$@" > "{tmp_path}/pip.log"\n{uv_writer(tmp_path)}')
    body = f'[ "$2" = venv ] || exit 1\nmkdir -p "{made.parent}" && cp "{pip}" "{made}"\n'
    the_only_python(script(tmp_path / "new-python", body), monkeypatch, (3, 13))
    set_up.make_venv(steps, tmp_path / ".venv", tmp_path / "build")
    assert (tmp_path / "pip.log").read_text().startswith("-m pip install")
    assert "--target" not in (tmp_path / "pip.log").read_text()
    assert "--python 3.12" in (tmp_path / "uv.log").read_text()


def test_uv_that_fails_says_what_happened_and_what_else_would_do(
    tmp_path: Path, steps: set_up.Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = script(tmp_path / "uv", "echo 'error: dns error'; exit 1")
    the_only_python(script(tmp_path / "old-python", "exit 1"), monkeypatch, None, uv=str(uv))
    with pytest.raises(set_up.SetUpError, match=r"(?s)needs Python 3\.11 or 3\.12 .*dns error.*Or install Python"):
        set_up.make_venv(steps, tmp_path / ".venv", tmp_path / "build")


@pytest.mark.parametrize(("user", "programs"), [(0, {}), (1000, {"apt-get": "/usr/bin/apt-get"})])
def test_neither_venv_nor_pip_nor_uv_is_one_sentence_with_the_command(
    tmp_path: Path, steps: set_up.Steps, monkeypatch: pytest.MonkeyPatch, user: int, programs: dict[str, str]
) -> None:
    the_only_python(script(tmp_path / "bare-python", "exit 1"), monkeypatch, None, **programs)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(set_up.SetUpError) as caught:
        set_up.make_venv(steps, tmp_path / ".venv", tmp_path / "build")
    assert re.fullmatch(
        r"python3 \(3\.\d+\) has neither its venv module nor pip, and there is no uv: run"
        r" `apt-get install -y python3-venv` as root \(Debian, Ubuntu\) or install uv from"
        r" https://docs\.astral\.sh/uv/, then run the command again\.",
        str(caught.value),
    )


class Debian:
    """Debian as root, whose Python has neither venv nor pip until ``apt-get`` (a stand-in) has brought venv."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], apt: str) -> None:
        self.installed, self.log = folder / "python3-venv", folder / "apt.log"
        apt_get = script(folder / "bin" / "apt-get", f'echo "$@" >> "{self.log}"\n{apt}')
        made = script(folder / "made", f'echo "$@" > "{folder}/pip.log"\n{uv_writer(folder)}')
        make = f'[ "$2" = venv ] && [ -e "{self.installed}" ] || exit 1\nfor last; do :; done\nmkdir -p "$last/bin"\n'
        python = script(folder / "python3", make + f'cp "{made}" "$last/bin/python"\n')
        monkeypatch.setenv("PATH", f"{apt_get.parent}:{os.environ['PATH']}")
        the_only_python(python, monkeypatch, version, **{"apt-get": str(apt_get)})
        found = set_up.probe_python
        monkeypatch.setattr(set_up, "probe_python", lambda name: found(name) if self.installed.exists() else None)
        monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.mark.parametrize("version", [(3, 12), (3, 13)])
def test_debians_root_gets_the_venv_module_and_hears_of_it_first(
    tmp_path: Path,
    steps: set_up.Steps,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: tuple[int, int],
) -> None:
    # No network for the lists, as behind a mirror that is only in the image: the installation is tried all the same.
    apt = f'[ "$1" = update ] && exit 100\n[ "$DEBIAN_FRONTEND" = noninteractive ] && touch "{tmp_path}/python3-venv"'
    debian = Debian(tmp_path, monkeypatch, version, apt)
    set_up.make_venv(steps, tmp_path / ".venv", tmp_path / "build")
    assert debian.log.read_text() == "update -qq\ninstall -y python3-venv\n"
    said = capsys.readouterr().out
    assert 0 < said.index("running `apt-get install -y python3-venv`") < said.index("Debian's package")
    assert (tmp_path / ".venv" / "bin" / "python").exists()
    assert (tmp_path / "uv.log").exists() == (version == (3, 13))


def test_a_failing_apt_get_is_shown_with_the_command(
    tmp_path: Path, steps: set_up.Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    Debian(tmp_path, monkeypatch, (3, 12), "echo 'E: Unable to locate package: error'; exit 100")
    with pytest.raises(set_up.SetUpError, match=r"(?s)Unable to locate.*run `apt-get install -y python3-venv` as root"):
        set_up.make_venv(steps, tmp_path / ".venv", tmp_path / "build")


# --- Where torch comes from


class Index(http.server.BaseHTTPRequestHandler):
    """A package index that answers ``/ok/torch/``, is slow at ``/slow/torch/`` and knows nothing else."""

    def do_GET(self) -> None:
        if self.path.startswith("/slow"):
            time.sleep(3)
        self.send_response(200 if self.path in ("/ok/torch/", "/slow/torch/") else 404)
        self.end_headers()
        self.wfile.write(b"torch")

    def log_message(self, *arguments: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def index() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_an_index_that_answers_is_found(index: str) -> None:
    assert set_up.answers(index + "/ok/torch/", within_s=5)


def test_an_index_without_torch_or_without_a_server_is_a_no(index: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refusing = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        assert not set_up.answers(refusing)
    assert not set_up.answers(index + "/other/torch/")
    assert not set_up.answers("http://no-such-host.invalid/")


def test_an_index_that_hangs_is_a_no_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert not set_up.answers(f"http://127.0.0.1:{silent.getsockname()[1]}/", within_s=0.5)
        assert time.monotonic() - began < 1.5


def test_an_index_that_is_slow_is_a_no_in_time(index: str) -> None:
    began = time.monotonic()
    assert not set_up.answers(index + "/slow/torch/", within_s=0.5)
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("where", "refuses", "expected"),
    [
        ("ok", "nothing", ["--index-url"]),
        ("other", "nothing", ["configured"]),
        ("ok", "--index-url", ["--index-url", "configured"]),
    ],
)
def test_torch_comes_alone_from_its_own_index_or_as_pip_is_configured(
    tmp_path: Path, steps: set_up.Steps, index: str, where: str, refuses: str, expected: list[str]
) -> None:
    log = tmp_path / "pip.log"
    python = script(
        tmp_path / "python",
        f'echo "$@" >> "{log}"\ncase "$@" in *{refuses}*) echo ERROR: refused; exit 1;; esac\n',
    )
    set_up.install_torch(steps, str(python), "2.13.0", f"{index}/{where}")
    calls = log.read_text().splitlines()
    assert ["--index-url" if "--index-url" in call else "configured" for call in calls] == expected
    for call in calls:
        assert re.search(r"--no-deps torch==2\.13\.0( --index-url \S+)?$", call), call


def test_no_index_but_torchs_own_is_named() -> None:
    text = (ROOT / "tools" / "set_up.py").read_text() + (ROOT / "requirements.txt").read_text()
    hosts = set(re.findall(r"https?://([^/\s\"')]+)", text))
    assert hosts == {"download.pytorch.org", "docs.astral.sh"}  # the second is uv's page, for a person


# --- The stamp


class Clone:
    """A clone whose set-up is real but for the slow parts: the environment and the packages."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.done: list[str] = []
        self.fail_at = ""
        root.mkdir()
        (root / "requirements.txt").write_text("torch==1.0  # why\n")
        (root / "requirements-dev.txt").write_text("pytest==1.0  # why\n")
        monkeypatch.setattr(set_up, "make_venv", self.make_venv)
        monkeypatch.setattr(set_up, "install_packages", self.install_packages)
        monkeypatch.setattr(set_up, "register_kernel", self.register_kernel)
        monkeypatch.setattr(set_up, "has_pip", lambda python: True)

    def note(self, what: str) -> None:
        self.done.append(what)
        if what == self.fail_at:
            raise set_up.SetUpError("the disk is full")

    def make_venv(self, steps: set_up.Steps, venv: Path, build: Path) -> None:
        self.note("venv")
        (venv / "bin").mkdir(parents=True, exist_ok=True)
        (venv / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.12.1\n")
        python = venv / "bin" / "python"
        python.unlink(missing_ok=True)
        python.symlink_to(sys.executable)

    def install_packages(self, steps: set_up.Steps, python: str, requirements: list[Path], index: str) -> None:
        self.note("packages " + " ".join(path.name for path in requirements))

    def register_kernel(self, steps: set_up.Steps, python: str) -> str:
        self.note("kernel")
        kernel = self.root.parent / "kernel.json"
        kernel.write_text(json.dumps({"argv": [python]}))
        return str(kernel)

    def run(self, dev: bool = False) -> list[str]:
        """What a set-up did."""
        self.done.clear()
        set_up.set_up(self.root, dev)
        return list(self.done)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    return Clone(tmp_path / "clone", monkeypatch)


EVERYTHING = ["venv", "packages requirements.txt", "kernel"]
AGAIN = ["packages requirements.txt", "kernel"]


def test_a_second_set_up_does_nothing_and_says_so(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    assert clone.run() == EVERYTHING
    assert "most of it in" in capsys.readouterr().out
    assert clone.run() == []
    assert capsys.readouterr().out == "Set-up: nothing to do, .venv is ready (Python 3.12).\n"


def test_the_tests_packages_come_on_top(clone: Clone) -> None:
    clone.run()
    assert clone.run(dev=True) == ["packages requirements.txt requirements-dev.txt", "kernel"]
    assert clone.run(dev=True) == []
    assert clone.run() == []


def test_a_new_pin_is_installed_and_a_new_comment_is_not(clone: Clone) -> None:
    clone.run()
    (clone.root / "requirements.txt").write_text("torch==1.0  # another reason\n")
    assert clone.run() == []
    (clone.root / "requirements.txt").write_text("torch==1.1  # another reason\n")
    assert clone.run() == AGAIN


@pytest.mark.parametrize("fail_at", ["venv", "packages requirements.txt", "kernel"])
def test_a_failed_set_up_is_taken_up_and_never_taken_as_done(clone: Clone, fail_at: str) -> None:
    clone.fail_at = fail_at
    with pytest.raises(set_up.SetUpError):
        clone.run()
    clone.fail_at = ""
    assert clone.run() == (EVERYTHING if fail_at == "venv" else AGAIN)
    assert clone.run() == []


def test_a_failed_update_is_not_taken_as_done(clone: Clone) -> None:
    clone.run()
    clone.fail_at = "packages requirements.txt requirements-dev.txt"
    with pytest.raises(set_up.SetUpError):
        clone.run(dev=True)
    assert clone.run() == AGAIN


def test_an_environment_whose_python_is_gone_is_remade(clone: Clone) -> None:
    clone.run()
    (clone.root / ".venv" / "bin" / "python").unlink()
    assert clone.run() == EVERYTHING


def test_a_clone_that_moved_is_set_up_again(clone: Clone) -> None:
    clone.run()
    clone.root = clone.root.rename(clone.root.with_name("moved"))
    assert clone.run() == EVERYTHING
    assert clone.run() == []


@pytest.mark.parametrize("content", ["{", json.dumps({"argv": ["/elsewhere/.venv/bin/python"]})])
def test_a_kernel_that_is_not_this_clones_is_registered_again(clone: Clone, content: str) -> None:
    clone.run()
    (clone.root.parent / "kernel.json").write_text(content)
    assert clone.run() == ["kernel"]


def test_two_set_ups_at_once_take_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entered = threading.Event()

    def second() -> None:
        with set_up.alone(tmp_path):
            entered.set()

    with set_up.alone(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        assert not entered.wait(0.3)
    other.join(5)
    assert entered.is_set()
    assert "another one is running" in capsys.readouterr().out


# --- The kernel


def environment(folder: Path) -> str:
    """The Python of an environment of its own that borrows this one's packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(folder / "bin" / "python")


def test_the_kernel_is_registered_for_the_user_and_follows_the_clone(
    tmp_path: Path, steps: set_up.Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    for place in ("first", "second", "second"):
        python = environment(tmp_path / place)
        kernel = set_up.register_kernel(steps, python)
        assert kernel == str(tmp_path / "jupyter" / "kernels" / "trtllm-workshop" / "kernel.json")
        assert set_up.kernel_python(kernel) == python
        own = tmp_path / place / "share/jupyter/kernels/trtllm-workshop/kernel.json"
        assert json.loads(own.read_text())["display_name"] == "TensorRT-LLM workshop"


# --- Failures


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "The disk is full"),
        ("WARNING: NewConnectionError: Temporary failure in name resolution\nERROR: No matching", "network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "pinned version was not found"),
        ("something odd", "The log says more"),
    ],
)
def test_a_failed_command_says_what_happened_and_what_to_do(
    tmp_path: Path, steps: set_up.Steps, output: str, advice: str
) -> None:
    failing = script(tmp_path / "pip", f'cat <<"END"\n{output}\nEND\nexit 1\n')
    with pytest.raises(set_up.SetUpError) as caught:
        steps.command([str(failing)])
    assert output.splitlines()[-1] in str(caught.value)
    assert advice in str(caught.value)
    assert str(steps.log) in str(caught.value)


def test_too_little_disk_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up.need_disk(tmp_path)
    monkeypatch.setattr(set_up, "NEEDS_BYTES", 10**18)
    with pytest.raises(set_up.SetUpError, match=r"needs about .* GB of disk; .* has .* GB free"):
        set_up.need_disk(tmp_path)


# `make test` hands its own settings down to every make below it; here each make shall stand alone.
OUTSIDE_MAKE = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def make(*words: str) -> str:
    """What ``make`` would run."""
    command = ["make", "--no-print-directory", "--dry-run", *words]
    return subprocess.run(command, cwd=ROOT, env=OUTSIDE_MAKE, capture_output=True, text=True, check=True).stdout


def test_the_lab_is_local_unless_asked_and_never_loses_its_token() -> None:
    assert "--ServerApp.ip=127.0.0.1" in make("lab")
    opened = make("lab", "HOST=0.0.0.0")
    assert "--ServerApp.ip=0.0.0.0" in opened
    assert "--no-browser" in opened
    assert "token" not in opened
    assert "password" not in opened


@pytest.mark.parametrize(("target", "first"), [("workshop", ""), ("lab", ""), ("test", " --dev"), ("lint", " --dev")])
def test_every_command_works_alone_by_making_the_environment_first(target: str, first: str) -> None:
    assert make(target, "PYTHON=py").splitlines()[0] == "py tools/set_up.py" + first


def test_make_lets_no_program_write_bytecode_beside_the_sources() -> None:
    probe = "include Makefile\nprobe:\n\t@echo $$PYTHONDONTWRITEBYTECODE\n"
    variables = {name: value for name, value in OUTSIDE_MAKE.items() if name != "PYTHONDONTWRITEBYTECODE"}
    words = ["make", "--no-print-directory", "--file", "-", "probe"]
    done = subprocess.run(words, input=probe, cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_a_file_that_is_too_large_for_git_is_named(tmp_path: Path) -> None:
    from tools import check_file_sizes

    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x" * 100)
    large.write_bytes(b"x" * 101)
    assert check_file_sizes.too_large([small, large], 100) == [large]
