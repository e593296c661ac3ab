"""Is what is installed what the workshop drives? The release's own help texts and signatures against the contract.

Pure: :mod:`helpers.workers.trtllm_probe` has asked, on the release's own Python; here its answers are compared.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from helpers.cards import Table
from helpers.releases.contract import contract
from helpers.releases.table import release

if TYPE_CHECKING:
    from helpers.releases.installation import Installation

PACKAGES = ("tensorrt_llm", "tensorrt", "torch", "transformers", "nvidia-modelopt")


def wanted(version: str, settled: bool = False) -> dict[str, tuple[str, ...]]:
    """Program or entry point to the options or parameters that the contract has for it.

    Args:
        version: the release.
        settled: leave out what no source settles: nobody promised that it is there.
    """
    terms = contract(version)
    rows = {name: [option for _, option in p.every_option()] for name, p in terms.programs.items()}
    named = {name: [(r.name, r.status, r.verified) for r in found] for name, found in rows.items()}
    named |= {name: [(r.name, r.status, r.verified) for r in e.parameters] for name, e in terms.entries.items()}
    return {
        name: tuple(dict.fromkeys(row for row, status, sure in found if status == "ok" and (sure or not settled)))
        for name, found in named.items()
    }


def lacking(version: str, probe: Mapping[str, Any], name: str, settled: bool = False) -> tuple[str, ...]:
    """What the contract has of a program or entry point, and the installation did not show."""
    return tuple(option for option in wanted(version, settled)[name] if not shown(probe, name, option))


def shown(probe: Mapping[str, Any], name: str, option: str) -> bool:
    """True if a help text names an option, or a signature a parameter (any name fits one that takes them all)."""
    if name in probe["programs"]:
        text = probe["programs"][name].get("help", "")
        return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None
    told = probe["entries"].get(name, {})
    return option in told.get("parameters", ()) or bool(told.get("takes_any"))


def version_rows(version: str, probe: Mapping[str, Any], adopted: bool = False) -> list[list[str]]:
    """One line a package: the version that the release pins, the one found, and the verdict.

    An image that NVIDIA made has its own builds of some packages (torch 2.9.1a0): there the first two numbers decide.
    """
    row = release(version)
    pins = dict(zip(PACKAGES, (version, row.tensorrt, row.torch, row.transformers, row.modelopt), strict=True))
    rows = []
    for package, pin in pins.items():
        found = probe["versions"].get(package) or "not installed"
        parts = 2 if adopted and package != "tensorrt_llm" else None
        same = found.split("+")[0].split(".")[:parts] == pin.split(".")[:parts]
        rows.append([package, pin, found, "ok" if same else "another version"])
    cuda = probe.get("torch_cuda") or "none"
    right = cuda.split(".")[0] == row.torch_cuda
    rows.append(["torch is built for CUDA", row.torch_cuda, cuda, "ok" if right else "another CUDA"])
    sees = bool(probe.get("cuda_available"))
    rows.append(["torch sees the GPU", "yes", "yes" if sees else "no", "ok" if sees else "no GPU"])
    return rows


def contract_rows(version: str, probe: Mapping[str, Any]) -> list[list[str]]:
    """One line a program and entry point: how many options the contract has, how many were shown, and the verdict.

    Only options that a source settles are counted; of the others nobody promised that they are there.
    """
    rows = []
    for name, options in wanted(version, settled=True).items():
        told = probe["programs"].get(name) or probe["entries"].get(name) or {"error": "was not asked"}
        absent = lacking(version, probe, name, settled=True)
        found = f"{len(options) - len(absent)}" + (f", without {', '.join(absent[:4])}" if absent else "")
        kind = "options" if name in probe["programs"] else "parameters"
        verdict = "failed" if "error" in told else "lacks some" if absent else "ok"
        rows.append([name, f"{len(options)} {kind}", told.get("error") or found, verdict])
    return rows


def checks(installation: "Installation") -> Table:
    """Versions first, then one line a program and entry point that the workshop drives.

    A line that lacks an option stops only the stage that needs it, which says so by name.
    """
    version, probe = installation.version, installation.probe
    rows = version_rows(version, probe, installation.adopted) + contract_rows(version, probe)
    bad = [row[0] for row in rows if row[-1] != "ok"]
    where = "adopted" if installation.adopted else "installed by the workshop"
    verdict = f"{len(bad)} of {len(rows)} lines differ: {', '.join(bad)}." if bad else "Everything is in place."
    return Table(
        ["check", "wanted", "found", "verdict"],
        rows,
        caption=f"TensorRT-LLM {version} at {installation.python}, {where}",
        note=f"{verdict} Asked of the release itself: help texts of its programs, signatures of what is called.",
    )
