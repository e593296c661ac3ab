"""Which TensorRT-LLM fits this machine; adopting or installing it; verifying it (notebook 02)."""

from helpers.releases.environment import worker_environment
from helpers.releases.faults import Fault, explain
from helpers.releases.install import ensure, install_commands, needed
from helpers.releases.installation import Installation, current, require
from helpers.releases.system import companions, preconditions
from helpers.releases.table import Choice, Release, choose, choose_here, offered, release, releases
from helpers.releases.verify import checks

__all__ = [
    "Choice",
    "Fault",
    "Installation",
    "Release",
    "checks",
    "choose",
    "choose_here",
    "companions",
    "current",
    "ensure",
    "explain",
    "install_commands",
    "needed",
    "offered",
    "preconditions",
    "release",
    "releases",
    "require",
    "worker_environment",
]
