"""A double of what PyPI has under the name ``tensorrt-llm``: a source package whose build fetches the real wheel.

Read from the package ``wheel_stub`` 0.5.0; seen in NVIDIA/TensorRT-LLM #1198 and #2277. Here the fetching always fails,
as it does where pypi.nvidia.com is not reached or has no wheel for this Python. pip itself is the real one.
"""

import io
import tarfile
from pathlib import Path

BACKEND = """\
TEXT = '''The installation of tensorrt-llm for version {version} failed.

This is a special placeholder package which downloads a real wheel package
from https://pypi.nvidia.com/. If https://pypi.nvidia.com/ is not reachable, we
cannot download the real wheel file to install.
'''


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    raise RuntimeError(TEXT)
"""


def make_placeholder(folder: Path, version: str) -> Path:
    """Write the source package of a release into a folder of packages."""
    name = f"tensorrt_llm-{version}"
    about = f"Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: {version}\n"
    files = {
        "PKG-INFO": about,
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND.format(version=version),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as package:
        for path, text in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size = len(data)
            package.addfile(entry, io.BytesIO(data))
    return folder / f"{name}.tar.gz"
