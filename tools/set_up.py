"""Make the workshop's environment: ``.venv``, its packages, and the notebooks' kernel.

``make setup``, ``make workshop``, ``make lab`` and ``make test`` all come here first. A finished set-up
leaves a stamp in ``.venv``; as long as the stamp fits, a further run does nothing. Without a stamp it goes on
where it stopped.

Only the standard library is used, and nothing newer than Python 3.6, so that any ``python3`` can start this
file and hear what is wrong with it.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ((3, 11), (3, 12))
PREFERRED = "3.12"
HERE = ".".join(map(str, sys.version_info[:2]))
DEBIAN_VENV = ["apt-get", "install", "-y", "python3-venv"]
UV_PAGE = "https://docs.astral.sh/uv/"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
ANSWER_WITHIN_S = 3.0
NEEDS_BYTES = 4 * 10**9
KERNEL_NAME = "trtllm-workshop"
KERNEL_TITLE = "TensorRT-LLM workshop"
PIP_QUIETLY = ["--disable-pip-version-check", "--quiet", "--progress-bar", "off"]

# What a failed command's output says about the cause, and the one thing to do. The first that matches counts.
ADVICE = (
    (
        r"No space left on device|Disk quota exceeded",
        "The disk is full: free about 4 GB, then run the command again.",
    ),
    (
        r"Temporary failure in name resolution|Could not resolve|NewConnectionError|NameResolutionError"
        r"|Network is unreachable|ConnectTimeout|ReadTimeout|Read timed out|Connection refused|ProxyError"
        r"|dns error|error sending request",
        "The network did not answer: check it, or which index pip is configured with, then run the command again.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "A certificate was refused: tell pip about your organisation's (PIP_CERT).",
    ),
    (
        r"No matching distribution found|Could not find a version",
        "The pinned version was not found for this Python and machine: see which line above, and whether pip"
        " is configured with an index that has it.",
    ),
    (r"Permission denied", "A folder is not writable for you: see which one above."),
    (r"MemoryError|Killed", "The machine ran out of memory: close something, then run the command again."),
)
TELLING = r"error|cause:|no space left|not find|not found|no module|denied"


class SetUpError(Exception):
    """A failure that a person can act on: what is wrong, what was found, what to do."""


# --- Steps: one line each, with the time it took ------------------------------


def time_text(seconds: float) -> str:
    """A duration such as ``4.2 s`` or ``2 min 05 s``."""
    if seconds < 60:
        return "{:.1f} s".format(seconds)
    return "{:.0f} min {:02.0f} s".format(*divmod(int(seconds + 0.5), 60))


class Steps:
    """Prints the steps of a set-up with the time each took, and keeps their commands' output in a log."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.taken: List[Tuple[str, float]] = []
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show ``title`` while the body runs, with a moving time on a terminal, then what it took."""
        began, ended = time.monotonic(), threading.Event()
        moving = sys.stdout.isatty()

        def show(end: str) -> None:
            line = "  {:<62} {:>11}".format(title, time_text(time.monotonic() - began))
            print(("\r" if moving else "") + line, end=end, flush=True)

        def move() -> None:
            while not ended.wait(0.5):
                show("")

        if moving:
            mover = threading.Thread(target=move, daemon=True)
            mover.start()
        else:
            print("  {} ...".format(title), flush=True)
        try:
            yield
        finally:
            ended.set()
            if moving:
                mover.join()
            show("\n")
            self.taken.append((title, time.monotonic() - began))

    def command(self, command: Sequence[str]) -> str:
        """Run a command with its output in the log, and return that output.

        Raises:
            SetUpError: it failed; the message holds the telling lines, the log's path and what to do.
        """
        with self.log.open("ab") as log:
            log.write("$ {}\n".format(" ".join(command)).encode())
            log.flush()
            begin = log.tell()
            try:
                status = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            except OSError as error:
                status = -1
                log.write("error: {}\n".format(error).encode())
        with self.log.open("rb") as log:
            log.seek(begin)
            output = log.read().decode(errors="replace")
        if status:
            raise SetUpError(failure_text(output, self.log))
        return output

    def summary(self) -> str:
        """One sentence: how long it took and where the time went."""
        longest, seconds = max(self.taken, key=lambda item: item[1])
        total = sum(taken for _, taken in self.taken)
        return "Set-up took {}, most of it in: {} ({}).".format(time_text(total), longest, time_text(seconds))


def failure_text(output: str, log: Path) -> str:
    """The telling lines of a failed command's output, what to do about them, and where the rest is."""
    lines = [line for line in output.splitlines() if line.strip() and "is ignored: it is neither" not in line]
    telling = [line for line in lines if re.search(TELLING, line, re.IGNORECASE)]
    advice = next((text for pattern, text in ADVICE if re.search(pattern, output)), "The log says more.")
    shown = "\n".join("    " + line[:300] for line in (telling or lines)[-6:])
    return "{}\n{}\nLog: {}".format(shown, advice, log)


# --- Which Python -------------------------------------------------------------


def probe_python(python: str) -> Optional[Tuple[int, int]]:
    """The ``(major, minor)`` of an interpreter that can make environments with pip in them, else None."""
    code = "import ensurepip, sys, venv; print('%d %d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = done.stdout.split()
    return (int(words[0]), int(words[1])) if done.returncode == 0 and len(words) == 2 else None


def has_pip(python: str) -> bool:
    """True if an interpreter's pip starts; an environment whose creation was interrupted has none."""
    return (
        subprocess.call([python, "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    )


def choose_python(candidates: Sequence[str], probe: Callable[[str], Optional[Tuple[int, int]]]) -> Optional[str]:
    """The first candidate that is a supported Python with venv and pip, or None: then uv brings one."""
    return next((python for python in candidates if probe(python) in SUPPORTED), None)


def uv_within_reach(private: Path) -> bool:
    """True if there is a uv, or something that can bring one: a Python with venv, or pip."""
    there = shutil.which("uv") or (private / "bin" / "uv").exists()
    return bool(there) or probe_python(sys.executable) is not None or has_pip(sys.executable)


def find_uv(steps: Steps, private: Path) -> str:
    """The path of uv: on PATH, else one put into ``private``, by a pip that venv brings or by this Python's own.

    Raises:
        SetUpError: neither pip could.
    """
    on_path = shutil.which("uv")
    if on_path:
        return on_path
    uv = private / "bin" / "uv"
    if uv.exists():
        return str(uv)
    if probe_python(sys.executable):
        # An environment rather than ensurepip itself, which Debian allows nowhere else.
        steps.command([sys.executable, "-m", "venv", "--clear", str(private)])
        steps.command([str(private / "bin" / "python"), "-m", "pip", "install", *PIP_QUIETLY, "uv"])
    else:
        steps.command([sys.executable, "-m", "pip", "install", *PIP_QUIETLY, "--target", str(private), "uv"])
    return str(uv)


def make_venv_through_uv(steps: Steps, venv: Path, private: Path) -> None:
    """Make ``venv`` with the Python that uv has or fetches.

    Raises:
        SetUpError: uv or its Python could not be had; the message says what to install instead.
    """
    try:
        with steps.step("Python {} through uv ({} here will not do)".format(PREFERRED, HERE)):
            uv = find_uv(steps, private)
            steps.command([uv, "venv", "--python", PREFERRED, "--seed", str(venv)])
    except SetUpError as error:
        raise SetUpError(
            "The environment needs Python 3.11 or 3.12 with its venv module; python3 here is {}, and fetching"
            " {} through uv failed:\n{}\nOr install Python 3.11 or 3.12 with its venv module yourself, then run"
            " the command again.".format(HERE, PREFERRED, error)
        ) from None


def install_venv_module(steps: Steps) -> None:
    """Install Debian's package for a Python that came with neither venv nor pip, if this user may.

    Raises:
        SetUpError: this is no such system, or not its root, or the package could not be had; the message holds the
            one command to run.
    """
    missing = "python3 ({}) has neither its venv module nor pip, and there is no uv".format(HERE)
    advice = "{}: run `{}` as root (Debian, Ubuntu) or install uv from {}, then run the command again.".format(
        missing, " ".join(DEBIAN_VENV), UV_PAGE
    )
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SetUpError(advice)
    print("  {}; running `{}`.".format(missing, " ".join(DEBIAN_VENV)), flush=True)
    with steps.step("Debian's package python3-venv"):
        # A container often has no package lists yet. If they cannot be renewed, the old ones may do.
        with contextlib.suppress(SetUpError):
            steps.command(["apt-get", "update", "-qq"])
        try:
            steps.command(["env", "DEBIAN_FRONTEND=noninteractive", *DEBIAN_VENV])
        except SetUpError as error:
            raise SetUpError("{}\n{}".format(error, advice)) from None


def make_venv(steps: Steps, venv: Path, build: Path) -> None:
    """Make ``venv`` with a supported Python: this one, another on PATH, or one that uv fetches."""
    candidates, private = [sys.executable, "python3.12", "python3.11"], build / "uv"
    python = choose_python(candidates, probe_python)
    if python is None and not uv_within_reach(private):
        install_venv_module(steps)
        python = choose_python(candidates, probe_python)
    if venv.exists():
        shutil.rmtree(str(venv))
    if python is None:
        make_venv_through_uv(steps, venv, private)
        return
    with steps.step("Python environment with {}".format(python)):
        steps.command([python, "-m", "venv", str(venv)])


# --- What is installed --------------------------------------------------------


def pinned(requirements: Path) -> Dict[str, str]:
    """Package name to version, for every ``name==version`` or ``name[extra]==version`` line of a requirements file."""
    found = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==([^\s#]+)", requirements.read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def answers(url: str, within_s: float = ANSWER_WITHIN_S) -> bool:
    """True if a web page comes back from ``url`` in time. Any failure, name resolution included, is a no."""
    got: List[int] = []

    def ask() -> None:
        with contextlib.suppress(Exception), urllib.request.urlopen(url, timeout=within_s) as response:
            response.read(1)
            got.append(response.status)

    # A thread, because looking up a name has no time limit of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(within_s)
    return got == [200]


def install_torch(steps: Steps, python: str, version: str, index: str) -> None:
    """Install torch alone: from PyTorch's CPU index if that answers, else as pip is configured.

    Alone and first, so that nothing else can choose a build of torch with CUDA inside; its dependencies come
    with the other packages.
    """
    install = [python, "-m", "pip", "install", *PIP_QUIETLY, "--no-deps", "torch==" + version]
    if answers(index + "/torch/"):
        with steps.step("torch {}, CPU build from PyTorch's own index".format(version)):
            try:
                steps.command([*install, "--index-url", index])
                return
            except SetUpError:
                print("\n  PyTorch's index answered but the download failed; trying as pip is configured.")
    with steps.step("torch {} as pip is configured".format(version)):
        steps.command(install)


def wheels_of(bundle: str) -> Tuple[str, str]:
    """Where pip finds the wheels of a bundle, its ``wheels`` folder or a page that lists them, and for which Python.

    Args:
        bundle: a folder that ``python -m helpers bundle`` packed, or the address of a server that shows it: of that,
            the Python is not known and stays empty.

    Raises:
        SetUpError: there is no finished bundle, or it has no wheels.
    """
    if re.match(r"https?://", bundle):
        return bundle.rstrip("/") + "/wheels/", ""
    place = Path(bundle).expanduser().resolve()
    try:
        contents = dict(json.loads((place / "bundle.json").read_text()))
    except (OSError, ValueError, TypeError):
        raise SetUpError(
            "{} holds no finished bundle (there is no bundle.json to read). Mount the shared folder, pack it again, or"
            " leave BUNDLE out.".format(place)
        ) from None
    if not (place / "wheels").is_dir():
        raise SetUpError(
            "The bundle {} was packed without wheels. Pack it with them, or leave BUNDLE out.".format(place)
        )
    return str(place / "wheels"), str(contents.get("python"))


def require_python(wanted: str, python: str) -> None:
    """Refuse wheels for a Python that the environment does not have.

    Raises:
        SetUpError: they are for another one.
    """
    if wanted not in ("", python):
        raise SetUpError(
            "The bundle's wheels are for Python {0}, and the environment here is of Python {1}. Remove .venv and run"
            " `make setup PYTHON=python{0} BUNDLE=...`, or leave BUNDLE out.".format(wanted, python)
        )


def install_from_bundle(steps: Steps, python: str, requirements: Sequence[Path], wheels: str) -> None:
    """Install everything from a bundle's wheels, without any index, then let pip check that it all fits together.

    Raises:
        SetUpError: a wheel is missing (the message names it) or damaged.
    """
    files = [word for path in requirements for word in ("-r", str(path))]
    # pip passes over a page without TLS unless it is told to trust the machine behind it.
    address = urlsplit(wheels)
    trusted = ["--trusted-host", address.netloc] if address.scheme == "http" else []
    with steps.step("packages from the bundle's wheels"):
        try:
            steps.command(
                [python, "-m", "pip", "install", *PIP_QUIETLY, "--no-index", *trusted, "--find-links", wheels, *files]
            )
        except SetUpError as error:
            lacking = re.search(r"No matching distribution found for ([^\s;(]+)", str(error))
            if lacking is None:
                raise
            raise SetUpError(
                "The bundle has no wheel of {} for this Python and machine: pack it again on a machine like this one,"
                " or leave BUNDLE out.\nLog: {}".format(lacking.group(1), steps.log)
            ) from None
    check_packages(steps, python)


def install_packages(steps: Steps, python: str, requirements: Sequence[Path], index: str) -> None:
    """Install torch, then everything else, then let pip check that it all fits together."""
    install_torch(steps, python, pinned(requirements[0])["torch"], index)
    count = sum(len(pinned(path)) for path in requirements)
    with steps.step("{} pinned packages and what they need".format(count)):
        files = [word for path in requirements for word in ("-r", str(path))]
        steps.command([python, "-m", "pip", "install", *PIP_QUIETLY, *files])
    check_packages(steps, python)


def check_packages(steps: Steps, python: str) -> None:
    """Let pip check that what is installed fits together."""
    with steps.step("check that the packages fit together"):
        steps.command([python, "-m", "pip", "check", "--disable-pip-version-check"])


def kernel_python(kernel: Optional[str]) -> str:
    """The interpreter that a kernel's ``kernel.json`` starts, or an empty string."""
    try:
        return str(json.loads(Path(kernel or "").read_text())["argv"][0])
    except (OSError, ValueError, LookupError):
        return ""


def register_kernel(steps: Steps, python: str) -> str:
    """Register the kernel for this user, where every JupyterLab of theirs looks, and in the environment.

    The second is for a machine with several clones: ``make lab`` prefers its own. Returns the path of the
    user's ``kernel.json``.
    """
    register = [python, "-m", "ipykernel", "install", "--name", KERNEL_NAME, "--display-name", KERNEL_TITLE]
    steps.command([*register, "--sys-prefix"])
    steps.command([*register, "--user"])
    code = "import jupyter_core.paths as p; print(p.jupyter_data_dir())"
    data = steps.command([python, "-c", code]).splitlines()[-1]
    return str(Path(data) / "kernels" / KERNEL_NAME / "kernel.json")


# --- The stamp ----------------------------------------------------------------


def digest(paths: Sequence[Path]) -> str:
    """A digest of the pins in requirements files; changing a comment does not change it."""
    pins = [sorted(pinned(path).items()) for path in paths]
    return hashlib.sha256(json.dumps(pins).encode()).hexdigest()


def python_of(venv: Path) -> str:
    """The Python version of an environment that can be used, such as ``3.12``; empty if there is none."""
    try:
        text = (venv / "pyvenv.cfg").read_text()
    except OSError:
        return ""
    found = re.search(r"^version(?:_info)?\s*=\s*(\d+\.\d+)", text, re.MULTILINE)
    supported = [".".join(map(str, version)) for version in SUPPORTED]
    # exists() follows the link: false when the Python that the environment was made from is gone.
    usable = (venv / "bin" / "python").exists() and found is not None and found.group(1) in supported
    return found.group(1) if usable and found else ""


def read_stamp(venv: Path) -> Dict[str, Any]:
    """What the last finished set-up recorded; empty if none finished."""
    try:
        return dict(json.loads((venv / "set-up.json").read_text()))
    except (OSError, ValueError):
        return {}


def write_stamp(venv: Path, stamp: Dict[str, Any]) -> None:
    """Record a finished set-up, in one move, so that a half-written stamp cannot be read."""
    temporary = venv / "set-up.json.new"
    temporary.write_text(json.dumps(stamp, indent=1, sort_keys=True) + "\n")
    os.replace(str(temporary), str(venv / "set-up.json"))


def packages_ready(stamp: Dict[str, Any], venv: Path, requirements: Sequence[Path]) -> bool:
    """True if the stamp says that this environment, in this place, holds these pins."""
    # Scripts in an environment name its path in their first line: one that was moved or copied is remade.
    same_place = stamp.get("venv") == str(venv) and stamp.get("python") == python_of(venv) != ""
    return same_place and all(stamp.get("pins", {}).get(path.name) == digest([path]) for path in requirements)


def set_up(root: Path, dev: bool, index: str = TORCH_INDEX, bundle: str = "") -> None:
    """Bring ``root/.venv`` and the kernel up to date; does nothing if they are.

    Args:
        root: the clone.
        dev: also what the tests need.
        index: where torch comes from, if it answers.
        bundle: take all packages from this bundle instead, without a network.

    Raises:
        SetUpError: a step failed; what is there is kept, and the next run goes on from it.
    """
    venv, build = root / ".venv", root / "build"
    requirements = [root / "requirements.txt"] + ([root / "requirements-dev.txt"] if dev else [])
    python = str(venv / "bin" / "python")
    stamp = read_stamp(venv)
    ready = packages_ready(stamp, venv, requirements)
    if ready and kernel_python(stamp.get("kernel")) == python:
        print("Set-up: nothing to do, .venv is ready (Python {}).".format(stamp["python"]), flush=True)
        return
    print("Set-up of {}: the environment, its packages, the notebooks' kernel.".format(venv), flush=True)
    steps = Steps(build / "set-up.log")
    print("  Log: {}".format(steps.log), flush=True)
    wheels, wanted = wheels_of(bundle) if bundle else ("", "")
    if not ready:
        moved = bool(stamp) and stamp.get("venv") != str(venv)
        if moved or not python_of(venv) or not has_pip(python):
            need_disk(root)
            make_venv(steps, venv, build)
        require_python(wanted, python_of(venv))
        with contextlib.suppress(OSError):
            (venv / "set-up.json").unlink()
        if wheels:
            install_from_bundle(steps, python, requirements, wheels)
        else:
            install_packages(steps, python, requirements, index)
    with steps.step("kernel '{}' for this user's JupyterLab".format(KERNEL_TITLE)):
        kernel = register_kernel(steps, python)
    pins = {} if not ready else dict(stamp["pins"])
    pins.update({path.name: digest([path]) for path in requirements})
    write_stamp(venv, {"venv": str(venv), "python": python_of(venv), "pins": pins, "kernel": kernel})
    print(steps.summary(), flush=True)


def need_disk(folder: Path) -> None:
    """Refuse to begin on a disk that will fill up.

    Raises:
        SetUpError: less than ``NEEDS_BYTES`` are free.
    """
    free = shutil.disk_usage(str(folder)).free
    if free < NEEDS_BYTES:
        raise SetUpError(
            "The environment needs about {:.0f} GB of disk; {} has {:.1f} GB free. Free some, then run the"
            " command again.".format(NEEDS_BYTES / 1e9, folder, free / 1e9)
        )


@contextlib.contextmanager
def alone(build: Path) -> Iterator[None]:
    """Hold the set-up's lock, so that two commands started together do not install into one another."""
    build.mkdir(parents=True, exist_ok=True)
    with (build / "set-up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("Set-up: another one is running here; waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the set-up and return the exit status."""
    parser = argparse.ArgumentParser(description="Make the workshop's environment in .venv.")
    parser.add_argument("--dev", action="store_true", help="also what the tests and checks need")
    parser.add_argument("--bundle", default="", help="install from this bundle's wheels, without a network")
    options = parser.parse_args(arguments)
    try:
        with alone(ROOT / "build"):
            set_up(ROOT, options.dev, bundle=options.bundle)
    except SetUpError as error:
        print("\nSet-up failed:\n{}".format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nSet-up interrupted. Run the same command to go on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
