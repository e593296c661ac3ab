"""Other load generators against the truth server, in the same run and on the same core as the workshop's own.

``python -m tools.bench_truth --peers`` calls this. Each peer's published package is looked for in an environment of its
own, which :func:`install` makes on request: ``python -m tools.bench_peers install FOLDER``. Nothing of CUDA is needed:
aiperf is a plain package, and of vLLM only the benchmark's client is wanted, so it is installed without a device
(``VLLM_TARGET_DEVICE=empty``) and borrows torch from the environment that this runs in.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.bench.load import Lengths, Load
from helpers.cards import Table
from helpers.errors import WorkshopError
from tools import truth

FOLDER = "WORKSHOP_PEERS"
"""Environment variable with the folder of the peers' environments."""

TOKENIZER = "workshop/bundled"
"""Name of the bundled model's tokenizer in the cache that :func:`hub` makes: aiperf takes no folder without the hub."""

PACED, FLOOD = (64, 256), 64
_LAST_WORDS = 160  # characters
_VLLM = "0.33.0"
_VLLM_BUILDS_WITH = ("setuptools>=77,<81", "setuptools-scm", "setuptools-rust", "wheel", "packaging")
_VLLM_NEEDS = (
    *("transformers>=5", "tokenizers>=0.22", "huggingface_hub>=1", "safetensors>=0.8", "typer-slim", "hf-xet", "httpx"),
    *("aiohttp", "multidict", "yarl", "propcache", "aiohappyeyeballs", "aiosignal", "frozenlist", "msgspec", "cbor2"),
    *("pybase64", "blake3", "cachetools", "cloudpickle", "py-cpuinfo", "diskcache", "partial-json-parser", "ijson"),
    *("openai-harmony", "prometheus-fastapi-instrumentator", "prometheus-client", "pyzmq", "einops", "lark", "gguf"),
    *("watchfiles", "setproctitle", "anthropic", "mcp", "model-hosting-container-standards", "xgrammar"),
    *("apache-tvm-ffi", "llguidance", "orjson"),
)


@dataclass(frozen=True)
class Figures:
    """What a peer reports: milliseconds, and output tokens a second."""

    ttft_p50: float
    ttft_p99: float
    itl_p99: float
    rate: float


@dataclass(frozen=True)
class Case:
    """What each peer is asked for.

    Attributes:
        concurrency, requests, output: a closed loop with answers of so many tokens.
        flood: True if the server sends as fast as it can.
    """

    concurrency: int
    requests: int
    output: int
    flood: bool

    def __str__(self) -> str:
        return f"{'flood' if self.flood else 'paced'} c={self.concurrency}"


@dataclass(frozen=True)
class Peer:
    """Another load generator.

    Attributes:
        name: as its makers call it.
        program: its executable in its environment.
        command: its arguments, for a server's address without ``/v1``, a case, a folder and a tokenizer's folder.
        result: the file in that folder that it writes, as a pattern.
        read: its figures from that file's text.
    """

    name: str
    program: str
    command: Callable[[str, Case, Path, Path], Sequence[str]]
    result: str
    read: Callable[[str], Figures]


def read_vllm(text: str) -> Figures:
    """The figures in what ``vllm bench serve --save-result`` writes.

    Raises:
        WorkshopError: they are not there.
    """
    names = ("p50_ttft_ms", "p99_ttft_ms", "p99_itl_ms", "output_throughput")
    return Figures(*(_number("vllm bench serve", json.loads(text), name) for name in names))


def read_aiperf(text: str) -> Figures:
    """The figures in what ``aiperf profile`` writes as ``profile_export_aiperf.json``.

    Raises:
        WorkshopError: they are not there.
    """
    told = json.loads(text)
    # Its inter_token_latency is each answer's mean; gaps are told only where a chunk carried one token.
    itl = told.get("inter_chunk_latency") or told.get("inter_token_latency") or {}
    ttft, rate = (told.get(name) or {} for name in ("time_to_first_token", "output_token_throughput"))
    return Figures(
        _number("aiperf", ttft, "p50"),
        _number("aiperf", ttft, "p99"),
        _number("aiperf", itl, "p99"),
        _number("aiperf", rate, "avg"),
    )


def _number(who: str, told: Any, name: str) -> float:
    value = told.get(name)
    if not isinstance(value, int | float):
        raise WorkshopError(f"{who} wrote no {name!r}. Its format has changed: adapt tools/bench_peers.py.")
    return float(value)


def _vllm(address: str, case: Case, out: Path, tokenizer: Path) -> Sequence[str]:
    told = ["bench", "serve", "--backend", "openai", "--base-url", address, "--endpoint", "/v1/completions"]
    told += ["--model", "truth", "--tokenizer", str(tokenizer), "--dataset-name", "random", "--random-input-len", "32"]
    told += ["--random-output-len", str(case.output), "--num-prompts", str(case.requests), "--ignore-eos"]
    told += ["--max-concurrency", str(case.concurrency), "--metric-percentiles", "50,99", "--save-result"]
    return [*told, "--percentile-metrics", "ttft,itl", "--result-dir", str(out), "--disable-tqdm"]


def _aiperf(address: str, case: Case, out: Path, tokenizer: Path) -> Sequence[str]:
    told = ["profile", "--model", "truth", "--url", address, "--endpoint-type", "completions", "--streaming"]
    told += ["--tokenizer", TOKENIZER, "--concurrency", str(case.concurrency)]
    told += ["--request-count", str(case.requests), "--isl", "32", "--osl", str(case.output)]
    told += ["--extra-inputs", "ignore_eos:true", "--use-server-token-count", "--ui-type", "none"]
    return [*told, "--output-artifact-dir", str(out), "--export-level", "summary", "--no-auto-plot"]


PEERS = (
    Peer("vllm bench serve", "vllm/bin/vllm", _vllm, "*.json", read_vllm),
    Peer("aiperf", "aiperf/bin/aiperf", _aiperf, "**/profile_export_aiperf.json", read_aiperf),
)


def compare(cores: Sequence[int], quick: bool = False) -> dict[str, Any]:
    """Run the workshop's own and every peer that is installed on the same cases; prints a table, gives the figures.

    Raises:
        WorkshopError: the workshop's own failed.
    """
    from dataclasses import asdict

    requests = 1 if quick else 4
    cases = [Case(c, requests * c, 100, False) for c in PACED]
    cases.append(Case(FLOOD, 200 if quick else 2000, 1000, True))
    told: dict[str, Any] = {}
    shown: list[list[str]] = []
    for case in cases:
        told[f"{case}"] = {"ours": asdict(_ours(case, cores, shown))}
        for peer in PEERS:
            found = _theirs(peer, case, cores, shown)
            if found is not None:
                told[f"{case}"][peer.name] = asdict(found)
    head = ("load", "client", "TTFT p50 ms", "TTFT p99 ms", "ITL p99 ms", "tokens/s", "CPU s per M tokens", "truth p99")
    caption = "measured: the client on one core, the truth server on another. CPU: all of the process, its start too"
    print(Table(head, shown, caption), flush=True)
    return told


def _ours(case: Case, cores: Sequence[int], shown: list[list[str]]) -> Figures:
    """The workshop's own load generator."""
    import numpy

    from tools import bench_truth

    load = Load(concurrency=case.concurrency, requests=case.requests, output_tokens=Lengths(case.output, case.output))
    with truth.start(flood=case.flood, cpu=cores[0]) as server:
        ran, runs = bench_truth.measured(server, load, cores[1])
        log = server.read()
    run = runs[-1]
    measured = bench_truth.parts(log, runs)[-1]  # without the warm-up, as the figures are
    ttft = [1000 * row.ttft for row in run.rows if row.ok and row.ttft is not None]
    first, last = (
        min(row.sent or 0.0 for row in run.rows),
        max(row.last_token or 0.0 for row in run.rows),
    )
    rate = sum(row.tokens or 0 for row in run.rows) / (last - first)
    p50, p99 = (float(one) for one in numpy.percentile(ttft, [50, 99]))
    figures = Figures(p50, p99, 1000 * run.gaps.quantiles[99], rate)
    _show(shown, case, "helpers.bench", figures, ran.cpu, log, measured)
    return figures


def _theirs(peer: Peer, case: Case, cores: Sequence[int], shown: list[list[str]]) -> Figures | None:
    """A peer; None, with a line that says why, where it is not installed or fails."""
    from tools import bench_truth

    program = Path(os.environ.get(FOLDER, "")) / peer.program
    if not os.environ.get(FOLDER) or not program.exists():
        print(f"{peer.name} is not installed here (python -m tools.bench_peers install FOLDER, then {FOLDER}=FOLDER).")
        return None
    try:
        with (
            truth.start(flood=case.flood, cpu=cores[0]) as server,
            tempfile.TemporaryDirectory(prefix="workshop-peer-") as folder,
            tempfile.TemporaryDirectory(prefix="workshop-hub-") as cache,
        ):
            hub(Path(cache))
            environment = {**os.environ, "HF_HOME": cache, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
            command = peer.command(server.url.removesuffix("/v1"), case, Path(folder), _tokenizer())
            ran = bench_truth.finished([str(program), *command], cores[1], environment=environment)
            wrote = sorted(Path(folder).glob(peer.result))
            if not wrote:
                raise WorkshopError(f"{peer.name} wrote no result: {ran.output.strip()[-_LAST_WORDS:]}")
            figures = peer.read(wrote[0].read_text(encoding="utf-8"))
            log = server.read()
            _show(shown, case, peer.name, figures, ran.cpu, log, log)
            return figures
    except Exception as problem:  # whatever is wrong with one peer, the others are still measured
        print(f"{peer.name} ({case}) could not be measured: {type(problem).__name__}: {problem}")
        return None


def _tokenizer() -> Path:
    """A tokenizer that peers may make prompts with: the bundled model's."""
    from helpers import models

    return models.find().path


def hub(home: Path) -> None:
    """Make a cache of the Hugging Face hub that holds one tokenizer, :data:`TOKENIZER`."""
    revision = "0" * 40
    folder = home / "hub" / f"models--{TOKENIZER.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision, encoding="utf-8")
    for file in _tokenizer().glob("*.json"):
        (snapshot / file.name).symlink_to(file.resolve())


def _show(
    shown: list[list[str]], case: Case, who: str, told: Figures, cpu: float, log: truth.Log, measured: truth.Log
) -> None:
    """Add a row.

    Args:
        shown: the table's rows.
        case, who, told: what was measured.
        cpu: seconds of the whole process, for all tokens of ``log``.
        log: all that the server sent to it.
        measured: the part of it that its figures are of.
    """
    import numpy

    tokens = sum(one.tokens for one in log.answers)
    true = "" if log.flood else f"{1000 * float(numpy.percentile(measured.ttfts, 99)):.1f}"
    ttft = ["", "", ""] if case.flood else [f"{one:.2f}" for one in (told.ttft_p50, told.ttft_p99, told.itl_p99)]
    shown.append([str(case), who, *ttft, f"{told.rate:,.0f}", f"{1e6 * cpu / tokens:.1f}", true])


def install(folder: Path) -> int:
    """Make the peers' environments below a folder; says in a line what became of each. 0 if one is there."""
    done = [name for name, ready in (("aiperf", _install_aiperf), ("vllm", _install_vllm)) if ready(folder / name)]
    for name in ("aiperf", "vllm"):
        print(f"{name}: {'installed' if name in done else 'cannot be installed here; it is left out'}")
    return 0 if done else 1


def _pip(home: Path, *packages: str, **changes: str) -> bool:
    """Install into an environment, which is made if need be; False if that fails."""
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    command = [str(python), "-m", "pip", "install", "-q", *packages]
    return subprocess.run(command, env={**os.environ, **changes}, check=False).returncode == 0


def _install_aiperf(home: Path) -> bool:
    return _pip(home, "aiperf")


def _install_vllm(home: Path) -> bool:
    """Its client alone: the source built for no device, without the requirements, most of which are CUDA's.

    The version is named: pip would else try each older source after one that does not build.
    """
    if not _pip(home, "--ignore-installed", *_VLLM_BUILDS_WITH):
        return False
    site = home / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (site / "workshop.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    source = ("--no-deps", "--no-build-isolation", "--no-binary", "vllm", f"vllm=={_VLLM}")
    built = _pip(home, *source, VLLM_TARGET_DEVICE="empty", VLLM_VERSION_OVERRIDE=_VLLM)
    if not built or not _pip(home, "--ignore-installed", "--no-deps", *_VLLM_NEEDS):
        return False
    asked = subprocess.run([str(home / "bin" / "vllm"), "bench", "serve", "--help"], capture_output=True, text=True)
    if asked.returncode:
        print(f"vllm: {(asked.stderr.strip().splitlines() or ['it says nothing'])[-1]}")
    return asked.returncode == 0


def main(given: Sequence[str] | None = None) -> int:
    """``install FOLDER``."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench_peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["install"])
    parser.add_argument("folder", type=Path)
    return install(parser.parse_args(given).folder)


if __name__ == "__main__":
    raise SystemExit(main())
