"""Worker: fetch one model from the Hugging Face hub into a folder (see ``helpers.models.download``).

Runs as a process of its own, so that an interrupt ends it and its log keeps what the hub said.
"""

import argparse
import hashlib
import os
import shutil
import sys
from pathlib import Path


def main() -> None:
    """Download, check, and leave only the model's own files in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", required=True)
    parser.add_argument("--revision", required=True)
    parser.add_argument("--pattern", action="append", required=True)
    parser.add_argument("--sha256", help="of model.safetensors, where it is known")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    os.environ.setdefault("HF_HUB_ENABLE_HF_TRANSFER", "1")  # several parts of a file at once
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        snapshot_download(
            arguments.repository,
            revision=arguments.revision,
            allow_patterns=arguments.pattern,
            local_dir=arguments.output,
        )
    except GatedRepoError:
        sys.exit(
            f"error: {arguments.repository} is gated. Accept its licence on its page at huggingface.co, put your token "
            "into the environment variable HF_TOKEN, and run this again."
        )
    except RepositoryNotFoundError:
        sys.exit(f"error: the hub has no model {arguments.repository} (or it is private and HF_TOKEN is not set).")
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as problem:
        sys.exit(
            f"error: {arguments.repository} could not be downloaded ({type(problem).__name__}). Is there a network? "
            "Without one, use the model 'bundled' or a local folder."
        )
    shutil.rmtree(arguments.output / ".cache", ignore_errors=True)
    if arguments.sha256:
        with (arguments.output / "model.safetensors").open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != arguments.sha256:
            sys.exit(f"error: model.safetensors arrived changed: its SHA-256 is {found}, not {arguments.sha256}.")


if __name__ == "__main__":
    main()
