"""One folder for a room: what is packed, what is taken from it, and what is refused."""

import functools
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from helpers import models, stage, workspace
from helpers.errors import WorkshopError
from helpers.stage import Stage
from helpers.teaching import bundle
from tools import set_up

MAKE = "import pathlib, sys; pathlib.Path(sys.argv[1], 'weights.bin').write_bytes(b'w' * 3000)"


def small_stage(name: str = "engines/bundled/small") -> Stage:
    command = [sys.executable, "-c", MAKE, "{out}"]
    kind = name.split("/")[0].removesuffix("s")
    return Stage("A small engine", kind, command, workspace.home() / name, {"size": 3000})


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of a workspace with one engine; the workspace is then another, empty one."""
    stage.run(small_stage())
    bundle.pack(tmp_path / "bundle", wheels=False)
    monkeypatch.setenv("WORKSHOP_HOME", str(tmp_path / "another"))
    return tmp_path / "bundle"


def test_a_fresh_workspace_takes_from_the_bundle_and_its_stage_has_nothing_to_do(packed: Path) -> None:
    with stage.taking_from(lambda target: bundle.offers(target, packed)):
        stage.run(small_stage())
    again = stage.run(small_stage())
    assert again.reused
    assert "made earlier" in str(again)
    assert (again.path / "weights.bin").read_bytes() == b"w" * 3000


def test_what_the_bundle_lacks_is_not_offered(packed: Path) -> None:
    assert bundle.offers(workspace.home() / "engines/bundled/other", packed) is None
    assert bundle.offers(workspace.home() / "engines/bundled", packed) is None
    assert bundle.offers(Path("/elsewhere"), packed) is None


def test_without_a_bundle_nothing_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(bundle.VARIABLE, raising=False)
    assert bundle.offers(small_stage().target) is None


def test_a_damaged_file_is_refused_by_its_name(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (packed / "workspace/engines/bundled/small/weights.bin").write_bytes(b"x" * 3000)  # as long as before
    monkeypatch.setenv(bundle.VARIABLE, str(packed))
    with pytest.raises(WorkshopError, match=r"engines/bundled/small/weights\.bin is damaged.*unset WORKSHOP_BUNDLE"):
        bundle.offers(small_stage().target)
    told = str(bundle.check(packed))
    assert "✗ damaged: workspace/engines/bundled/small/weights.bin" in told
    assert "1 file damaged or missing" in told


def test_a_whole_bundle_is_found_whole(packed: Path) -> None:
    told = str(bundle.check(packed))
    assert "Every file is as packed." in told
    assert "✗" not in told


def test_half_a_bundle_is_not_taken_for_a_whole_one(packed: Path) -> None:
    (packed / bundle.LIST).unlink()
    with pytest.raises(WorkshopError, match="has no finished bundle in it"):
        bundle.offers(small_stage().target, packed)
    with pytest.raises(WorkshopError, match="is not there"):
        bundle.offers(small_stage().target, packed / "nowhere")


def test_a_list_that_cannot_be_read_is_said_in_a_sentence(packed: Path) -> None:
    (packed / bundle.LIST).write_text("{}[")
    with pytest.raises(WorkshopError, match="cannot be read by this release"):
        bundle.check(packed)


def test_packing_again_copies_only_what_is_new(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    stage.run(small_stage())
    assert [row[-1] for row in bundle.pack(place, wheels=False).rows] == ["packed"]
    copied = (place / "workspace/engines/bundled/small/weights.bin").stat().st_mtime_ns
    stage.run(small_stage("scores/bundled/other"))
    assert sorted(str(row[-1]) for row in bundle.pack(place, wheels=False).rows) == ["packed", "there already"]
    assert (place / "workspace/engines/bundled/small/weights.bin").stat().st_mtime_ns == copied
    assert "Every file is as packed." in str(bundle.check(place))


def test_no_log_no_journal_no_token_and_no_folder_of_this_machine_is_packed(
    packed: Path, tmp_path: Path, own_home: Path
) -> None:
    assert (own_home / "runs").is_dir()  # where logs are
    names = {file.relative_to(packed).parts[0] for file in packed.rglob("*") if file.is_file()}
    assert names == {bundle.LIST, "README.md", "requirements.txt", "workspace"}
    for file in packed.rglob("*.json"):
        for place in (str(tmp_path), sys.prefix, str(workspace.REPOSITORY), str(Path.home()) + "/"):
            assert place not in file.read_text(), (file, place)


def test_a_damaged_artifact_is_not_packed(tmp_path: Path) -> None:
    made = stage.run(small_stage())
    (made.path / "weights.bin").write_bytes(b"short")
    with pytest.raises(WorkshopError, match=r"weights\.bin is damaged or missing"):
        bundle.pack(tmp_path / "bundle", wheels=False)
    assert not (tmp_path / "bundle" / bundle.LIST).exists()


def test_what_is_made_from_a_gated_model_is_left_out(tmp_path: Path) -> None:
    stage.run(small_stage("engines/meta-llama--Llama-3.1-8B-Instruct/small"))
    told = str(bundle.pack(tmp_path / "bundle", wheels=False))
    assert "left out: each learner accepts the model's licence themselves" in told
    assert not list((tmp_path / "bundle").rglob("weights.bin"))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(small_stage())
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda place: real(place)._replace(free=10))
    with pytest.raises(WorkshopError, match=r"needs about .* more, and .* has 10 bytes free"):
        bundle.pack(tmp_path / "bundle", wheels=False)
    assert not (tmp_path / "bundle" / "workspace").exists()


def test_a_model_is_taken_from_the_bundle_before_it_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, revision = "someone/tiny", "0" * 40
    target = workspace.home() / "models" / "someone--tiny" / models.revision_folder(revision)
    made = workspace.making_place(target)
    shutil.copytree(workspace.DATA / "model", made, dirs_exist_ok=True)
    options = {"repository": repository, "revision": revision}
    workspace.publish(made, target, workspace.Manifest("model", f"Download of {repository}", options))
    bundle.pack(tmp_path / "bundle", wheels=False)
    monkeypatch.setenv("WORKSHOP_HOME", str(tmp_path / "another"))
    monkeypatch.setenv(bundle.VARIABLE, str(tmp_path / "bundle"))
    row = {"revision": revision, "gated": False, "weights_bytes": 1}
    found = models.download(repository, row)
    assert found.is_relative_to(tmp_path / "another")
    assert (found / "config.json").is_file()


def test_the_command_line_packs_and_checks(tmp_path: Path) -> None:
    stage.run(small_stage())

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "helpers", "bundle", str(tmp_path / "b"), *words]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ.copy(), cwd=workspace.REPOSITORY)

    assert run("--no-wheels").returncode == 0
    assert run("--check").returncode == 0
    (tmp_path / "b/workspace/engines/bundled/small/weights.bin").unlink()
    assert run("--check").returncode == 1
    (tmp_path / "b" / bundle.LIST).unlink()
    unfinished = run("--check")
    assert unfinished.returncode == 1
    assert unfinished.stderr.startswith("error: ") and "holds no finished bundle" in unfinished.stderr


def wheel(folder: Path, name: str, version: str = "1.0") -> Path:
    """A real, tiny wheel."""
    import zipfile

    folder.mkdir(parents=True, exist_ok=True)
    info, file = f"{name}-{version}.dist-info", folder / f"{name}-{version}-py3-none-any.whl"
    parts = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(file, "w") as out:
        for path, text in parts.items():
            out.writestr(path, text)
        out.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in parts) + f"{info}/RECORD,,\n")
    return file


@pytest.fixture
def environment(tmp_path: Path) -> tuple[set_up.Steps, str]:
    """An empty environment with pip, and the steps of a set-up."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    return set_up.Steps(tmp_path / "set-up.log"), str(tmp_path / "venv" / "bin" / "python")


def test_set_up_installs_from_the_wheels_and_names_the_one_that_is_missing(
    tmp_path: Path, environment: tuple[set_up.Steps, str]
) -> None:
    steps, python = environment
    wheels = tmp_path / "bundle" / "wheels"
    wheel(wheels, "roomone")
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("roomone==1.0\n")
    set_up.install_from_bundle(steps, python, [requirements], str(wheels))
    assert subprocess.run([python, "-c", "import roomone"]).returncode == 0
    requirements.write_text("roomone==1.0\nroomtwo==1.0\n")
    with pytest.raises(set_up.SetUpError, match=r"The bundle has no wheel of roomtwo==1\.0 for this Python"):
        set_up.install_from_bundle(steps, python, [requirements], str(wheels))


def test_set_up_installs_from_a_page_that_another_machine_shows(
    tmp_path: Path, environment: tuple[set_up.Steps, str]
) -> None:
    steps, python = environment
    wheel(tmp_path / "bundle" / "wheels", "roomone")
    (tmp_path / "requirements.txt").write_text("roomone==1.0\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "bundle"))
    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = socket.gethostbyname(socket.gethostname())  # not localhost, which pip trusts anyway
        page, _ = set_up.wheels_of(f"http://{address}:{server.server_port}")
        set_up.install_from_bundle(steps, python, [tmp_path / "requirements.txt"], page)
        server.shutdown()
    assert subprocess.run([python, "-c", "import roomone"]).returncode == 0


def test_set_up_refuses_a_bundle_that_cannot_serve(tmp_path: Path) -> None:
    with pytest.raises(set_up.SetUpError, match="holds no finished bundle"):
        set_up.wheels_of(str(tmp_path))
    (tmp_path / "bundle.json").write_text(json.dumps({"python": "3.12"}))
    with pytest.raises(set_up.SetUpError, match="packed without wheels"):
        set_up.wheels_of(str(tmp_path))
    (tmp_path / "wheels").mkdir()
    assert set_up.wheels_of(str(tmp_path)) == (str(tmp_path / "wheels"), "3.12")
    assert set_up.wheels_of("http://10.0.0.1:8000/") == ("http://10.0.0.1:8000/wheels/", "")
    set_up.require_python("3.12", "3.12")
    set_up.require_python("", "3.12")
    with pytest.raises(set_up.SetUpError, match=r"for Python 3\.12, and the environment here is of Python 3\.11"):
        set_up.require_python("3.12", "3.11")


def test_set_up_refuses_a_missing_bundle_before_it_makes_an_environment(tmp_path: Path) -> None:
    with pytest.raises(set_up.SetUpError, match="holds no finished bundle"):
        set_up.set_up(tmp_path, dev=False, bundle=str(tmp_path / "elsewhere"))
    assert not (tmp_path / ".venv").exists()


def test_wheels_are_downloaded_through_pip_as_it_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    wheel(source, "roomone")
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(source)), ("PIP_CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(name, value)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("roomone==1.0\n")
    monkeypatch.setattr(bundle, "_REQUIREMENTS", requirements)
    first = bundle.pack(tmp_path / "bundle")
    assert first.rows[-1][-1] == "downloaded, 1 wheel"
    assert bundle.pack(tmp_path / "bundle").rows[-1][-1] == "there already"
    contents = bundle.read(tmp_path / "bundle")
    assert contents.python == ".".join(map(str, sys.version_info[:2]))
    requirements.write_text("roomone==2.0\n")
    with pytest.raises(WorkshopError, match=r"could not be downloaded: .*roomone==2\.0"):
        bundle.pack(tmp_path / "bundle")
    assert "Every file is as packed." in str(bundle.check(tmp_path / "bundle"))  # the old one stays
