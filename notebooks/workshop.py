"""What every notebook imports first: it finds the helpers, and refuses a wrong kernel in one line.

Kept free of newer syntax, so that it can say what is wrong under any Python.
"""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

NEEDED = ("openvino_genai", "modelopt", "transformers", "matplotlib")


class WrongKernel(Exception):
    """This kernel's Python is not the workshop's; shown without a traceback."""

    def _render_traceback_(self):
        return [f"WrongKernel: {self}"]


def require_kernel():
    """Refuse a Python that lacks what the notebooks import.

    Raises:
        WrongKernel: says what is missing and which kernel to pick.
    """
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing or sys.version_info < (3, 11):
        lacking = ", ".join(missing) or "what the helpers need"
        raise WrongKernel(
            "pick the kernel 'TensorRT-LLM workshop' (menu Kernel, Change Kernel); this one is Python "
            f"{sys.version_info[0]}.{sys.version_info[1]} without {lacking}. "
            "If it is not in the list, run 'make setup' in the repository and reload this page."
        )


def start(name):
    """Open a notebook: check the kernel, then show what this machine is and what the notebook will use.

    Args:
        name: the notebook's file name without ``.ipynb``.
    """
    require_kernel()
    from helpers import teaching

    return teaching.start(name)
