"""Models are found and checked; what is unsafe, cut short or out of reach is refused in a clear sentence."""

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from helpers import models, workspace
from helpers.errors import WorkshopError

TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwX"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the bundled model in a folder of its own, to be damaged."""
    return Path(shutil.copytree(workspace.DATA / "model", tmp_path / "a model"))


def refusal(name: Path | str) -> str:
    """What is said of a model that is refused: one line."""
    with pytest.raises(WorkshopError) as told:
        models.find(str(name))
    message = str(told.value)
    assert "\n" not in message
    return message


def change(file: Path, **settings) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


# --- What passes --------------------------------------------------------------------


def test_the_bundled_model_passes_and_shows_itself():
    model = models.find()
    assert model.path == workspace.DATA / "model"
    assert 3_000_000 < model.parameters < 6_500_000
    assert model.bytes == (model.path / "model.safetensors").stat().st_size < 12_000_000
    text = str(model)
    assert "LlamaForCausalLM" in text
    assert f"{model.parameters:,} parameters" in text
    assert (model.name, model.source, model.folder) == ("bundled",) * 3


def test_a_local_folder_needs_no_hub(copied, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = models.find(str(copied))
    assert found.name == "a model"
    assert found.path == copied
    assert found.parameters == models.find().parameters
    assert found.digest == models.find().digest
    assert models.find(found.source).digest == found.digest


def test_two_folders_of_the_same_name_do_not_share_a_place_in_the_workspace(copied):
    other = Path(shutil.copytree(copied, copied.parent / "other" / "a model"))
    names = {models.find(str(folder)).folder for folder in (copied, other)}
    assert len(names) == 2
    assert all(name.startswith("a model-") for name in names)


def test_a_model_made_in_the_workspace_keeps_its_place_where_the_workspace_lies_elsewhere(
    copied, tmp_path, monkeypatch
):
    names = []
    for home in (tmp_path / "here", tmp_path / "there"):
        monkeypatch.setenv("WORKSHOP_HOME", str(home))
        names.append(models.find(str(shutil.copytree(copied, home / "models" / "changed"))).folder)
    assert names[0] == names[1] != "changed"


def test_a_model_is_remembered_by_what_decides_its_engine(copied):
    digest = models.find(str(copied)).digest
    (copied / "README.md").write_text("another card")
    (copied / "manifest.json").write_text("{}")
    assert models.find(str(copied)).digest == digest
    change(copied / "tokenizer_config.json", something="else")
    assert models.find(str(copied)).digest != digest


def test_heads_are_read_from_older_settings_too(copied):
    heads, kv_heads = models.find().heads
    assert 1 < kv_heads < heads
    settings = json.loads((copied / "config.json").read_text())
    del settings["num_key_value_heads"]
    (copied / "config.json").write_text(json.dumps(settings))
    assert models.find(str(copied)).heads == (heads, heads)
    assert f"{heads} heads, {heads} of them" in str(models.find(str(copied)))


def test_a_path_may_begin_at_home(copied, monkeypatch):
    monkeypatch.setenv("HOME", str(copied.parent))
    assert models.find("~/a model").path == copied


# --- What is not a model, or not whole ---------------------------------------------------


def test_a_folder_without_settings(copied):
    (copied / "config.json").unlink()
    assert refusal(copied).startswith(f"{copied} is not a model: it has no config.json.")


def test_settings_that_are_not_json(copied):
    (copied / "config.json").write_text('{"architectures": ["Llama')
    assert refusal(copied).startswith(f"{copied}/config.json is not whole")


def test_no_safetensors(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    message = refusal(copied)
    assert message.startswith(f"{copied} has no safetensors weights.")
    assert "pickled .bin" in message


def test_a_pointer_instead_of_weights(copied):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 40 + "\nsize 10\n"
    (copied / "model.safetensors").write_text(pointer)
    message = refusal(copied)
    assert f"model.safetensors has only {len(pointer)} bytes: it is a git-lfs pointer" in message


def test_weights_cut_short(copied):
    os.truncate(copied / "model.safetensors", 1_000_000)
    assert refusal(copied).startswith(f"{copied}/model.safetensors is not whole")


def test_a_part_that_is_missing(copied):
    names = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    (copied / "model.safetensors").rename(copied / names["a.weight"])
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert f"is not whole: it lacks {names['b.weight']}." in refusal(copied)
    shutil.copy(copied / names["a.weight"], copied / names["b.weight"])
    models.find(str(copied))


def test_another_architecture(copied):
    change(copied / "config.json", architectures=["GPT2LMHeadModel"])
    assert refusal(copied).startswith(f"{copied} is a GPT2LMHeadModel; this workshop builds the Llama family")
    change(copied / "config.json", architectures=None)
    assert refusal(copied).startswith(f"{copied} is a (none); ")


# --- What is not safe ----------------------------------------------------------------------


@pytest.mark.parametrize("where", ["modeling_llama.py", "deep/er/tool.py"])
def test_python_among_the_files(copied, where):
    (copied / where).parent.mkdir(parents=True, exist_ok=True)
    (copied / where).write_text("print('hello')")
    message = refusal(copied)
    assert f"carries Python files ({Path(where).name}), which would run someone else's code here." in message


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_settings_that_point_at_code(copied, where):
    change(copied / where, auto_map={"AutoModelForCausalLM": "someone/else--modeling.Model"})
    assert f"is refused: it carries an auto_map entry in {where}," in refusal(copied)


# --- Names that lead nowhere ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TinyLama", "a/b/c", "./nowhere", "/nowhere", "~/nowhere", "two words/x"])
def test_a_name_that_is_neither_folder_nor_hub_id(name, tmp_path):
    assert refusal(name).startswith(f"There is no model called {name!r}: it is neither a folder nor a hub id")
    assert "'bundled', 'TinyLlama'" in refusal(name)
    assert not (tmp_path / "workshop").exists(), "nothing was tried"


@pytest.fixture
def no_hub(monkeypatch):
    """Nothing of this machine's own hub settings; a hub at which nobody answers."""
    for variable in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def sentence_of(error: WorkshopError) -> str:
    """The one line of a download's message that says what happened."""
    told = [line for line in str(error).splitlines() if line.startswith("  | ")]
    assert len(told) == 1, str(error)
    return told[0].removeprefix("  | ")


def test_no_network_is_told_soon_and_in_one_sentence(no_hub, tmp_path):
    started = time.monotonic()
    with pytest.raises(WorkshopError) as told:
        models.find("nobody/nothing-of-the-kind")
    assert time.monotonic() - started < 30
    assert str(told.value).startswith("Download of nobody/nothing-of-the-kind: ")
    sentence = sentence_of(told.value)
    assert sentence.startswith("error: nobody/nothing-of-the-kind could not be downloaded (")
    assert "Is there a network? Without one, use the model 'bundled' or a local folder." in sentence
    assert not list((tmp_path / "workshop" / "models").rglob("*.*")), "nothing half-made is left"


def spec_of_the_run(home: Path) -> dict:
    """What the one run in a workspace was asked to do."""
    (file,) = (home / "runs").glob("*/spec.json")
    return dict(json.loads(file.read_text()))


def test_a_known_name_is_asked_for_at_its_pinned_revision(no_hub, tmp_path):
    with pytest.raises(WorkshopError):
        models.find("TinyLlama")
    command = " ".join(spec_of_the_run(tmp_path / "workshop")["command"])
    assert "--repository TinyLlama/TinyLlama-1.1B-Chat-v1.0 " in command
    assert "--revision fe8a4ea1ffedaf415f4da2f062534de366a451e6 " in command
    assert "--sha256 6e6001da" in command
    assert ".bin" not in command


@pytest.mark.parametrize("name, revision", [("TinyLlama", "v0.6"), ("TinyLlama@v0.6", None)])
def test_another_revision_can_be_asked_for_and_is_not_held_to_the_pinned_digest(no_hub, tmp_path, name, revision):
    with pytest.raises(WorkshopError):
        models.find(name, revision)
    command = " ".join(spec_of_the_run(tmp_path / "workshop")["command"])
    assert "--revision v0.6 " in command
    assert "--sha256" not in command


def test_a_model_of_another_revision_is_found_again_by_its_source(no_hub, tmp_path, monkeypatch):
    monkeypatch.setattr(
        models, "download", lambda *asked: shutil.copytree(workspace.DATA / "model", tmp_path / asked[2])
    )
    made = models.find("TinyLlama", "v0.6")
    assert made.source == "TinyLlama/TinyLlama-1.1B-Chat-v1.0@v0.6"
    assert made.folder == "TinyLlama--TinyLlama-1.1B-Chat-v1.0@v0.6"
    shutil.rmtree(tmp_path / "v0.6")
    assert models.find(made.source).folder == made.folder


def test_only_a_whole_commit_is_cut_in_a_folders_name():
    assert models.revision_folder("0123456789abcdef" * 2 + "01234567") == "0123456789ab"
    assert models.revision_folder("release-2026-01-a") != models.revision_folder("release-2026-01-b")
    assert models.revision_folder("0123456789abcdef") == "0123456789abcdef"
    assert models.revision_folder("refs/pr/3") == "refs-pr-3"


def test_a_model_on_this_machine_has_no_revisions():
    with pytest.raises(WorkshopError, match=r"'bundled' lies on this machine and has no revisions: leave 'main' out"):
        models.find("bundled", "main")


def test_the_hubs_cache_lies_in_the_workspace(no_hub, tmp_path):
    with pytest.raises(WorkshopError):
        models.find("nobody/nothing")
    environment = {**os.environ, **spec_of_the_run(tmp_path / "workshop")["environment"]}
    code = "import huggingface_hub.constants as c; print(c.HF_TOKEN_PATH, c.HF_HUB_CACHE)"
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    token, cache = map(Path, said.stdout.split())
    assert cache == tmp_path / "workshop" / "huggingface" / "hub"
    assert not token.is_relative_to(tmp_path)  # a login from before is still found


# --- Models known by name --------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(models.known()))
def test_a_known_model_can_be_planned_for_without_a_network(name):
    row = models.known()[name]
    assert re.fullmatch(r"[0-9a-f]{40}", row["revision"]), "no revision without its full name"
    assert row["source"] == f"https://huggingface.co/{row['repository']}"
    config = row["config"]
    assert config["architectures"] == ["LlamaForCausalLM"]
    # The shape and the size of the files were read in different places, and must agree: 2 bytes a weight, and the
    # files' headers where they are counted.
    head = config["hidden_size"] // config["num_attention_heads"]
    attention = config["hidden_size"] * 2 * head * (config["num_attention_heads"] + config["num_key_value_heads"])
    layer = attention + 3 * config["hidden_size"] * config["intermediate_size"] + 2 * config["hidden_size"]
    weights = config["num_hidden_layers"] * layer + config["hidden_size"] * (2 * config["vocab_size"] + 1)
    assert 0 <= row["weights_bytes"] - 2 * weights < 100_000


def test_the_settings_of_a_known_model_are_those_that_transformers_reads():
    from transformers import LlamaConfig

    for name, row in models.known().items():
        ours = json.loads(json.dumps(row["config"]))
        read = LlamaConfig(**ours).to_dict()
        for key, value in ours.items():
            if key not in ("torch_dtype", "rope_scaling", "rope_theta"):  # which it keeps under newer names
                assert read[key] == value, (name, key)


def test_the_plan_shows_the_command_that_a_download_runs(no_hub, tmp_path):
    with pytest.raises(WorkshopError):
        models.find("TinyLlama")
    row = models.known()["TinyLlama"]
    shown = models.download_command(sys.executable, row["repository"], row, "{out}")
    assert spec_of_the_run(tmp_path / "workshop")["command"] == shown


GATED_MODEL = "Llama-3.1-8B-Instruct"


@pytest.fixture
def no_login(no_hub, monkeypatch, tmp_path):
    """Nobody is logged in to the hub on this machine."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))


@pytest.mark.parametrize("name", [GATED_MODEL, f"meta-llama/{GATED_MODEL}"])
def test_a_gated_model_asks_for_its_token_before_anything_is_tried(no_login, name, tmp_path):
    assert refusal(name) == (
        f"meta-llama/{GATED_MODEL} is gated and nothing was downloaded: accept its licence on its page at "
        "huggingface.co, put your token into the environment variable HF_TOKEN, and run this again."
    )
    assert not (tmp_path / "workshop").exists()


def test_a_gated_model_is_downloaded_with_a_token(no_login, hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(WorkshopError):  # this hub has no models
        models.find(GATED_MODEL)
    assert f"Bearer {TOKEN}" in hub.tokens
    command = spec_of_the_run(tmp_path / "workshop")["command"]
    assert "0e9e39f249a16976918f6564b8830bc894c89659" in command
    assert "--sha256" not in command, "its weights are in several files"


def test_a_gated_model_is_downloaded_with_an_earlier_login(no_login, hub, tmp_path):
    (tmp_path / "no token").write_text(TOKEN)
    with pytest.raises(WorkshopError, match="Download of meta-llama"):
        models.find(GATED_MODEL)


def test_a_gated_model_that_is_here_needs_no_token(no_login, copied, tmp_path, monkeypatch):
    row = models.known()[GATED_MODEL]
    asked = []
    found = SimpleNamespace(path=copied, restored=False)
    monkeypatch.setattr(models.stage, "ensure", lambda task: asked.append(task) or found)
    place = tmp_path / "workshop" / "models" / f"meta-llama--{GATED_MODEL}" / row["revision"][:12]
    place.mkdir(parents=True)
    (place / workspace.MANIFEST).write_text("{}")
    assert models.find(GATED_MODEL).path == copied
    assert [task.target for task in asked] == [place]


# --- A hub that says no ---------------------------------------------------------------------------


@pytest.fixture
def hub(no_hub, monkeypatch):
    """A small real web server that answers as the hub does; ``answer`` is its status and error code."""

    class Hub(http.server.BaseHTTPRequestHandler):
        answer = (404, "RepoNotFound")
        tokens: ClassVar[list[str]] = []

        def do_GET(self) -> None:
            Hub.tokens.append(self.headers.get("Authorization", ""))
            status, code = Hub.answer
            body = json.dumps({"error": f"no, {self.headers.get('Authorization')}"}).encode()
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"no, {self.headers.get('Authorization')}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield Hub
    server.shutdown()
    server.server_close()


GATED = (
    "is gated. Accept its licence on its page at huggingface.co, put your token into the environment variable HF_TOKEN"
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((401, "GatedRepo"), f"error: some/model {GATED}"),
        ((403, "GatedRepo"), f"error: some/model {GATED}"),
        ((404, "RepoNotFound"), "error: the hub has no model some/model (or it is private and HF_TOKEN is not set)."),
        ((401, "RepoNotFound"), "error: the hub has no model some/model (or it is private and HF_TOKEN is not set)."),
        ((404, "RevisionNotFound"), "error: some/model could not be downloaded (RevisionNotFoundError)."),
        ((500, "Internal"), "error: some/model could not be downloaded ("),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_the_hub_says_is_told_in_one_sentence_and_no_token_is_kept(hub, answer, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.answer = answer
    with pytest.raises(WorkshopError) as told:
        models.find("some/model")
    assert sentence_of(told.value).startswith(expected)
    assert f"Bearer {TOKEN}" in hub.tokens, "the token does reach the hub"
    files = [file for file in (tmp_path / "workshop").rglob("*") if file.is_file()]
    assert any(file.name == "log.txt" for file in files)
    for file in files:
        assert TOKEN not in file.read_text(), file
    assert TOKEN not in str(told.value)


# --- Texts --------------------------------------------------------------------------------------------


def test_texts_are_read_in_order_one_a_line(tmp_path):
    file = tmp_path / "some.jsonl"
    file.write_text('{"text": "one\\ntwo"}\n\n{"text": "three", "other": 1}\n')
    assert models.texts(file) == ["one\ntwo", "three"]
    assert models.texts(file, most=1) == ["one\ntwo"]
