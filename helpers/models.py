"""Finding a model's weights, downloading them where needed, and refusing what is not safe or not whole.

A model is a folder with ``config.json``, a tokenizer and safetensors weights. ``"bundled"`` is the small one in
``data/model`` that needs no download; everything else is a local folder or an id on the Hugging Face hub (notebook 03).
"""

import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from helpers import stage, workspace
from helpers.cards import Card, Shown, bytes_text
from helpers.errors import WorkshopError
from helpers.workspace import DATA

BUNDLED = "bundled"
_WANTED = ["*.json", "*.safetensors", "tokenizer.model", "*.jinja"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # owner/name; "./name" and "/name" are folders that are not there


@dataclass(frozen=True, repr=False)
class Model(Shown):
    """A folder of Hugging Face weights that passed the checks of :func:`check`.

    Attributes:
        name: what to call it.
        path: the folder.
        source: what :func:`find` takes to find it again: ``bundled``, a hub id, or the folder's path.
        folder: its name among the workspace's folders.
    """

    name: str
    path: Path
    source: str
    folder: str

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's ``config.json``."""
        return dict(json.loads((self.path / "config.json").read_text()))

    @cached_property
    def bytes(self) -> int:
        """Size of the weights, in bytes."""
        return sum(file.stat().st_size for file in self.path.glob("*.safetensors"))

    @cached_property
    def parameters(self) -> int:
        """Number of weights, counted in the files."""
        from safetensors import safe_open

        total = 0
        for file in self.path.glob("*.safetensors"):
            with safe_open(file, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - a safetensors handle is not a dict
                    size = 1
                    for extent in tensors.get_slice(name).get_shape():
                        size *= extent
                    total += size
        return total

    @cached_property
    def digest(self) -> str:
        """One short digest of settings, tokenizer and weights; what artifacts remember the model by."""
        files = (file for pattern in _WANTED for file in self.path.glob(pattern) if file.name != workspace.MANIFEST)
        return workspace.digest(*sorted(files))

    def tensor(self, name: str) -> Any:
        """One of its weights as a torch tensor, whichever file it lies in.

        Raises:
            WorkshopError: it has none of that name.
        """
        from safetensors import safe_open

        for file in sorted(self.path.glob("*.safetensors")):
            with safe_open(file, framework="pt") as tensors:
                if name in tensors.keys():  # noqa: SIM118 - a safetensors handle is not a dict
                    return tensors.get_tensor(name)
        raise WorkshopError(f"{self.name} has no tensor {name!r}. Look at its files' own names first.")

    @property
    def heads(self) -> tuple[int, int]:
        """Number of attention heads, and of those for keys and values (older settings name only the first)."""
        heads = int(self.config["num_attention_heads"])
        return heads, int(self.config.get("num_key_value_heads") or heads)

    def __str__(self) -> str:
        return str(self._card())

    def _repr_html_(self) -> str:
        return self._card()._repr_html_()

    def _card(self) -> Card:
        c = self.config
        heads = f"{self.heads[0]} heads, {self.heads[1]} of them for keys and values"
        return Card(
            f"Model: {self.name}",
            {
                "where": str(self.path),
                "architecture": f"{c['architectures'][0]}, {self.parameters:,} parameters",
                "shape": f"{c['num_hidden_layers']} layers, hidden size {c['hidden_size']}, {heads}",
                "vocabulary": f"{c['vocab_size']:,} tokens, context of {c['max_position_embeddings']:,}",
                "weights": f"{bytes_text(self.bytes)}, safetensors, {c.get('torch_dtype', c.get('dtype'))}",
            },
        )


def known() -> Mapping[str, Mapping[str, Any]]:
    """The models of ``data/models.toml`` by name, each with repository, revision and size of its weights.

    ``config`` is what the model's ``config.json`` says of its shape, so that planning needs no download.
    """
    return tomllib.loads((DATA / "models.toml").read_text())


def find(name: str = BUNDLED, revision: str | None = None) -> Model:
    """The model called ``name``: ``"bundled"``, a name in ``data/models.toml``, a local folder, or a hub id.

    Args:
        name: of the model; a hub id may end in ``@`` and a revision, as the source of such a model does.
        revision: of a model on the hub, a commit or a branch; None for the one that the table pins, else the newest.

    Raises:
        WorkshopError: it cannot be found or downloaded, it has no revisions, or it fails :func:`check`.
    """
    if revision and (name == BUNDLED or Path(name).expanduser().is_dir()):
        raise WorkshopError(f"{name!r} lies on this machine and has no revisions: leave {revision!r} out.")
    if name == BUNDLED:
        return check(Model(name, DATA / "model", name, name))
    if Path(name).expanduser().is_dir():
        folder = Path(name).expanduser().resolve()
        home = workspace.home().resolve()
        # A place in the workspace is marked as such: what is made of it keeps its name where it is restored elsewhere.
        place = folder.relative_to(home) if folder.is_relative_to(home) else folder
        mark = hashlib.sha256(str(place).encode()).hexdigest()[:6]
        return check(Model(folder.name, folder, str(folder), f"{folder.name}-{mark}"))
    name, _, named = name.partition("@")
    revision, rows = revision or named or None, known()
    row = rows.get(name) or next((r for r in rows.values() if r["repository"] == name), None)
    repository = row["repository"] if row else name
    if not _HUB_ID.fullmatch(repository):
        raise WorkshopError(
            f"There is no model called {name!r}: it is neither a folder nor a hub id (owner/name). "
            f"Choose 'bundled', {', '.join(map(repr, rows))}, a folder of safetensors weights, or a hub id."
        )
    place = download(repository, row, revision)
    # Another revision than the pinned one is another model: its engines lie beside, and find it again by its source.
    other = f"@{revision}" if revision and not (row and revision == row["revision"]) else ""
    return check(Model(repository, place, repository + other, repository.replace("/", "--") + other.replace("/", "-")))


def download(repository: str, row: Mapping[str, Any] | None, revision: str | None = None) -> Path:
    """Fetch a model from the room's bundle or the Hugging Face hub into the workspace, as a stage; returns its folder.

    Args:
        repository: ``owner/name``.
        row: its entry in ``data/models.toml`` (revision, digest of the weights), or None for the newest revision.
        revision: a commit or a branch instead of the row's.

    Raises:
        WorkshopError: no network, no such model, or a gated one without a token; where the table says that it is
            gated, before anything is tried.
    """
    if revision and row and revision != row["revision"]:
        row = {key: value for key, value in row.items() if key != "sha256"} | {"revision": revision}
    revision = revision or (row["revision"] if row else "main")
    target = workspace.home() / "models" / repository.replace("/", "--") / revision_folder(revision)
    if row and row["gated"] and not (target / workspace.MANIFEST).is_file() and not _token():
        raise WorkshopError(
            f"{repository} is gated and nothing was downloaded: accept its licence on its page at huggingface.co, put "
            "your token into the environment variable HF_TOKEN, and run this again."
        )
    task = stage.Stage(
        title=f"Download of {repository}",
        kind="model",
        command=download_command(sys.executable, repository, row, "{out}", revision),
        target=target,
        options={"repository": repository, "revision": revision},
        environment={
            # The cache only: HF_HOME itself holds the token of `huggingface-cli login`, which must stay found.
            "HF_HUB_CACHE": os.environ.get("HF_HUB_CACHE", str(workspace.home() / "huggingface" / "hub")),
            "HF_HUB_ENABLE_HF_TRANSFER": "1",  # several parts of a file at once
            "HF_HUB_DISABLE_XET": "1",  # the hub's other way of transfer would be chosen over hf_transfer
            "HF_HUB_DISABLE_TELEMETRY": "1",
        },
        expected=["config.json", "*.safetensors"],
        space=2 * row["weights_bytes"] if row else 0,
    )
    from helpers.teaching import bundle, expected  # here, since the bundle packs what this module finds

    with stage.taking_from(bundle.offers):
        made = stage.ensure(task)
    if made.restored:
        expected.note_restored([target.relative_to(workspace.home()).as_posix()])
    return made.path


def revision_folder(revision: str) -> str:
    """The name of a revision's folder: a commit's first 12 digits, the whole name of a branch or a tag."""
    return revision[:12] if _COMMIT.fullmatch(revision) else revision.replace("/", "-")


def download_command(
    python: str, repository: str, row: Mapping[str, Any] | None, output: str, revision: str | None = None
) -> list[str]:
    """The command that fetches a model: see :func:`download`.

    Args:
        python: an interpreter that has ``huggingface_hub``.
        repository, row, revision: as for :func:`download`.
        output: the folder to fill.
    """
    worker = Path(__file__).with_name("workers") / "download_model.py"
    revision = revision or (row["revision"] if row else "main")
    command = [python, str(worker), "--repository", repository, "--revision", revision, "--output", output]
    for pattern in _WANTED:
        command += ["--pattern", pattern]
    if row and "sha256" in row and revision == row["revision"]:
        command += ["--sha256", row["sha256"]]
    return command


def _token() -> str | None:
    """The hub's token: from the environment, or kept by an earlier login."""
    from huggingface_hub import get_token

    return get_token()


def check(model: Model) -> Model:
    """Refuse a model that is not whole, not safe to load, or not of the Llama family.

    Raises:
        WorkshopError: says which file, what was found, and what to do.
    """
    folder = model.path
    if not (folder / "config.json").is_file():
        raise WorkshopError(f"{folder} is not a model: it has no config.json. Point at the folder that holds one.")
    code = [file.name for file in folder.rglob("*.py")]
    mapped = [file.name for file in sorted(folder.glob("*config.json")) if "auto_map" in _settings(file)]
    if code or mapped:
        what = f"Python files ({', '.join(code[:3])})" if code else f"an auto_map entry in {', '.join(mapped)}"
        raise WorkshopError(
            f"{folder} is refused: it carries {what}, which would run someone else's code here. "
            "Use a model whose architecture the transformers library itself has."
        )
    weights = list(folder.glob("*.safetensors"))
    if not weights:
        raise WorkshopError(
            f"{folder} has no safetensors weights. Use a model that is published as safetensors; pickled .bin or .pt "
            "files can run code when they are loaded and are not read here."
        )
    for file in weights:
        if file.stat().st_size < 1024:
            raise WorkshopError(
                f"{file} has only {file.stat().st_size} bytes: it is a git-lfs pointer or a download cut short. "
                "Download the file itself, for example with the hub id instead of a git clone."
            )
    _check_whole(folder, weights)
    architectures = model.config.get("architectures") or ["(none)"]
    if architectures[0] != "LlamaForCausalLM":
        raise WorkshopError(
            f"{folder} is a {architectures[0]}; this workshop builds the Llama family (LlamaForCausalLM). "
            "Choose a Llama-family model, such as TinyLlama."
        )
    return model


def _check_whole(folder: Path, weights: list[Path]) -> None:
    """Refuse weights of which a file is cut short, or missing although the model's index names it."""
    from safetensors import SafetensorError, safe_open

    for file in weights:
        try:
            with safe_open(file, framework="np"):  # compares the header with the file's length
                pass
        except SafetensorError as problem:
            raise WorkshopError(f"{file} is not whole ({problem}). Download it again.") from None
    index = folder / "model.safetensors.index.json"
    named = set(_settings(index).get("weight_map", {}).values()) if index.is_file() else set()
    missing = sorted(named - {file.name for file in weights})
    if missing:
        raise WorkshopError(f"{folder} is not whole: it lacks {', '.join(missing[:3])}. Download the model again.")


def _settings(file: Path) -> Mapping[str, Any]:
    """What a JSON file of a model says.

    Raises:
        WorkshopError: it is not JSON.
    """
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError):
        raise WorkshopError(f"{file} is not whole: it cannot be read as JSON. Download the model again.") from None


def texts(file: Path, most: int | None = None) -> list[str]:
    """The texts of a JSON-lines file, one ``{"text": ...}`` a line, in order."""
    lines = [json.loads(line)["text"] for line in file.read_text().splitlines() if line.strip()]
    return lines[:most]
