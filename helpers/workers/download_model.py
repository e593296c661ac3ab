"""Worker: fetch one model from the Hugging Face hub into a folder (see ``helpers.models.download``).

Runs as a process of its own, so that an interrupt ends it and its log keeps what the hub said.
"""

import argparse
import errno
import hashlib
import json
import shutil
import sys
from pathlib import Path


def check(repository: str, folder: Path) -> None:
    """Refuse what ``helpers.models.check`` would refuse, as far as the settings tell."""
    settings = json.loads((folder / "config.json").read_text())
    if "auto_map" in settings:
        sys.exit(f"error: {repository} is refused: its config.json has an auto_map, which would run its own code here.")
    if "LlamaForCausalLM" not in (settings.get("architectures") or []):
        sys.exit(f"error: {repository} is a {settings.get('architectures')}, not of the Llama family.")


def main() -> None:
    """Download, check, and leave only the model's own files in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", required=True)
    parser.add_argument("--revision", required=True)
    parser.add_argument("--pattern", action="append", required=True)
    parser.add_argument("--sha256", help="of model.safetensors, where it is known")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    from huggingface_hub import list_repo_files, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        code = [f for f in list_repo_files(arguments.repository, revision=arguments.revision) if f.endswith(".py")]
        if code:
            sys.exit(f"error: {arguments.repository} is refused: it carries Python files ({', '.join(code[:3])}).")
        # The small files first: a model that will be refused shall not cost anyone gigabytes.
        for patterns in (["*.json"], arguments.pattern):
            snapshot_download(
                arguments.repository,
                revision=arguments.revision,
                allow_patterns=patterns,
                local_dir=arguments.output,
            )
            check(arguments.repository, arguments.output)
    except GatedRepoError:
        sys.exit(
            f"error: {arguments.repository} is gated. Accept its licence on its page at huggingface.co, put your token "
            "into the environment variable HF_TOKEN, and run this again."
        )
    except RepositoryNotFoundError:
        sys.exit(f"error: the hub has no model {arguments.repository} (or it is private and HF_TOKEN is not set).")
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as problem:
        if getattr(problem, "errno", None) == errno.ENOSPC:
            sys.exit(f"error: no space left on the disk for {arguments.repository}. Free some, or move WORKSHOP_HOME.")
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
