"""Refuse files above 12 MB, the size that the bundled model may have: a clone must stay quick."""

import subprocess
import sys
from pathlib import Path

LIMIT_BYTES = 12_000_000


def too_large(paths: list[Path], limit: int = LIMIT_BYTES) -> list[Path]:
    """The files above ``limit`` bytes."""
    return [path for path in paths if path.is_file() and path.stat().st_size > limit]


def main(arguments: list[str]) -> int:
    """Check the files named, or everything that git tracks, and return the exit status."""
    tracked = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    names = arguments or [name for name in tracked.split("\0") if name]
    found = too_large([Path(name) for name in names])
    for path in found:
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, above {LIMIT_BYTES / 1e6:.0f} MB.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
