"""The TensorRT-LLM that this workspace uses: which release, under which Python, and what it was seen to offer.

It is recorded as a small artifact in ``releases/<version>`` of the workspace: ``probe.json``, what the release's own
Python told (notebook 02). The release itself lies in ``environments/``, or wherever the pod's image has it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import workspace
from helpers.errors import WorkshopError
from helpers.releases import verify
from helpers.releases.table import choose_here
from helpers.workspace import Artifact

if TYPE_CHECKING:
    from helpers.hardware import Machine

PROBE = "probe.json"


@dataclass(frozen=True, repr=False)
class Installation(Artifact):
    """A verified TensorRT-LLM."""

    @property
    def version(self) -> str:
        """The release, such as ``1.2.1``."""
        return str(self.manifest.options["release"])

    @property
    def python(self) -> Path:
        """The interpreter that has it."""
        return Path(str(self.manifest.options["python"]))

    @property
    def adopted(self) -> bool:
        """True if it was there before the workshop."""
        return bool(self.manifest.options["adopted"])

    @cached_property
    def probe(self) -> dict[str, Any]:
        """What its Python told: versions, help texts, signatures."""
        return dict(json.loads((self.path / PROBE).read_text()))

    @property
    def versions(self) -> Mapping[str, str]:
        """Package to version: tensorrt_llm, tensorrt, torch, transformers, nvidia-modelopt."""
        return dict(self.probe["versions"])

    def program(self, name: str) -> Path:
        """The path of one of its programs, where its own Python said it is."""
        told = self.probe["programs"].get(name, {}).get("path")
        return Path(told) if told else self.python.parent / name

    def lacking(self, name: str) -> tuple[str, ...]:
        """Options of a program, or parameters of an entry point, that the contract has and this one has not."""
        return verify.lacking(self.version, self.probe, name)

    def require(self, name: str, *options: str) -> None:
        """Stop a stage that needs what this installation lacks.

        Raises:
            WorkshopError: names the program and the options.
        """
        missing = [option for option in options if not verify.shown(self.probe, name, option)]
        told = self.probe["programs"].get(name) or self.probe["entries"].get(name) or {}
        if missing:
            raise WorkshopError(
                f"{name} of TensorRT-LLM {self.version} at {self.python} "
                + (f"could not be asked ({told['error']})" if "error" in told else f"has no {', '.join(missing)}")
                + ", which this stage needs. Install the release afresh: "
                + ("take another Python for it (WORKSHOP_TRTLLM_PYTHON)" if self.adopted else f"delete {self._folder}")
                + ", and run notebook 02 again."
            )

    @property
    def _folder(self) -> Path:
        """The environment that its Python belongs to."""
        return self.python.parent.parent


def record(version: str) -> Path:
    """Where the installation of a release is recorded."""
    return workspace.home() / "releases" / version


def folder(version: str) -> Path:
    """The environment of a release that the workshop installs."""
    return workspace.home() / "environments" / f"trtllm-{version}"


def current(machine: "Machine | None" = None) -> Installation | None:
    """The recorded installation of the newest offered release that fits this machine; None if there is none."""
    for version in choose_here(machine).fitting:
        found = workspace.find(record(version))
        if found:
            installation = Installation(found.path, found.manifest, reused=True)
            if installation.python.exists():
                return installation
    return None


def require() -> Installation:
    """The recorded installation.

    Raises:
        WorkshopError: there is none yet.
    """
    found = current()
    if found is None:
        raise WorkshopError(
            "TensorRT-LLM is not installed in this workspace yet. Run notebook 02, or in a terminal: "
            "python -m helpers install"
        )
    return found
