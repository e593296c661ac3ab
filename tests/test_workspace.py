"""Artifacts stay whole, are found again, and are made by one process at a time."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, until
from filelock import Timeout

from helpers import stage, workspace
from helpers.errors import WorkshopError
from helpers.workspace import Manifest


def folder(path: Path, **files: str) -> Path:
    """A folder of text files; ``__`` in a name stands for ``/`` and ``_`` for a dot."""
    for name, text in files.items():
        file = path / name.replace("__", "/").replace("_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def published(target: Path, **files: str) -> workspace.Artifact:
    """An artifact made by hand, as a stage would."""
    place = folder(workspace.making_place(target), **files)
    return workspace.publish(place, target, Manifest(kind="engine", title="An engine"))


# --- Where it is ------------------------------------------------------------------


def test_home_is_what_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_HOME", str(tmp_path / "a" / ".." / "b"))
    assert workspace.home() == tmp_path / "b"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WORKSHOP_HOME", "~/mine")
    assert workspace.home() == tmp_path / "mine"


@pytest.mark.parametrize(
    ("mounted", "writable", "expected"),
    [
        (True, True, "/workspace/trtllm-workshop"),
        (True, False, "{home}/trtllm-workshop"),
        (False, True, "{home}/trtllm-workshop"),
    ],
)
def test_home_is_a_pods_persistent_mount_where_there_is_one(tmp_path, monkeypatch, mounted, writable, expected):
    monkeypatch.delenv("WORKSHOP_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os.path, "ismount", lambda path: mounted and str(path) == "/workspace")
    monkeypatch.setattr(os, "access", lambda path, mode: writable and str(path) == "/workspace")
    assert str(workspace.home()) == expected.format(home=tmp_path)


# --- Digests ----------------------------------------------------------------------


def test_a_digest_depends_on_names_and_contents_alone(tmp_path):
    one = workspace.digest(folder(tmp_path / "one", a_txt="x", sub__b_txt="y"))
    assert workspace.digest(folder(tmp_path / "two", sub__b_txt="y", a_txt="x")) == one
    assert workspace.digest(folder(tmp_path / "three", a_txt="x", sub__b_txt="z")) != one
    assert workspace.digest(folder(tmp_path / "four", a_txt="x", sub__c_txt="y")) != one
    assert workspace.digest(folder(tmp_path / "five", a_txt="x")) != one
    assert workspace.digest(folder(tmp_path / "six", a_txt="y", sub__b_txt="x")) != one


def test_a_single_file_is_known_by_its_name_not_its_folder(tmp_path):
    first = folder(tmp_path / "one", a_txt="x") / "a.txt"
    second = folder(tmp_path / "two", a_txt="x") / "a.txt"
    assert workspace.digest(first) == workspace.digest(second)
    renamed = second.rename(second.with_name("b.txt"))
    assert workspace.digest(first) != workspace.digest(renamed)
    assert workspace.digest(first, renamed) != workspace.digest(first)


def test_a_large_file_is_hashed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "_REMEMBERED_ABOVE", 10)
    large = folder(tmp_path, large_bin="0123456789" * 3) / "large.bin"
    read: list[Path] = []
    real = workspace.file_digest
    monkeypatch.setattr(workspace, "file_digest", lambda path: read.append(path) or real(path))
    first = workspace.digest(large)
    assert workspace.digest(large) == first
    assert read == [large]
    large.write_text("9876543210" * 3)
    os.utime(large, (1, 1))  # changed contents come with another time of change
    assert workspace.digest(large) != first
    assert read == [large, large]
    monkeypatch.setattr(workspace, "_REMEMBERED_ABOVE", 1000)
    small = workspace.digest(large)
    monkeypatch.setattr(workspace, "_REMEMBERED_ABOVE", 10)
    assert workspace.digest(large) == small, "a remembered digest is the same as a computed one"


def test_a_workspace_that_cannot_be_written_costs_only_the_time_to_hash_again(tmp_path, monkeypatch):
    large = folder(tmp_path, large_bin="0123456789" * 3) / "large.bin"
    plain = workspace.digest(large)
    monkeypatch.setattr(workspace, "_REMEMBERED_ABOVE", 10)
    monkeypatch.setenv("WORKSHOP_HOME", str(large / "workshop"))
    assert workspace.digest(large) == plain


# --- Finding ----------------------------------------------------------------------


def test_an_intact_artifact_is_found_with_what_was_said_of_it(tmp_path):
    made = published(tmp_path / "engines" / "a", model_bin="weights", deep__er_txt="more")
    found = workspace.find(made.path)
    assert found is not None
    assert found.manifest == made.manifest
    assert found.bytes == len("weightsmore")
    assert set(found.manifest.files) == {"model.bin", "deep/er.txt"}
    assert time.strptime(found.manifest.created, "%Y-%m-%dT%H:%M:%S")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "manifest.json").write_text('{"kind": "engine", "ti'),
        lambda path: (path / "manifest.json").write_text('{"kind": "engine", "title": "a", "of another release": 1}'),
        lambda path: (path / "manifest.json").write_text("[]"),
        lambda path: (path / "model.bin").write_text("weig"),
        lambda path: (path / "model.bin").write_text("Weights"),
        lambda path: (path / "model.bin").unlink(),
        lambda path: shutil.rmtree(path),
    ],
    ids=["no manifest", "half a manifest", "unknown field", "a list", "cut short", "changed", "file gone", "all gone"],
)
def test_a_damaged_artifact_is_not_found(tmp_path, damage):
    made = published(tmp_path / "a", model_bin="weights")
    assert workspace.find(made.path)
    damage(made.path)
    assert workspace.find(made.path) is None


def test_large_artifacts_are_checked_by_size(tmp_path, monkeypatch):
    made = published(tmp_path / "a", model_bin="weights")
    (made.path / "model.bin").write_text("Weights")
    monkeypatch.setattr(workspace, "_HASHED_ON_OPENING", 3)
    assert workspace.find(made.path), "hashing gigabytes whenever a cell runs would take minutes"
    (made.path / "model.bin").write_text("Weight")
    assert workspace.find(made.path) is None


def test_a_manifest_inside_an_artifact_is_a_file_like_any_other(tmp_path):
    made = published(tmp_path / "a", inner__manifest_json="{}")
    assert set(made.manifest.files) == {"inner/manifest.json"}
    (made.path / "inner" / "manifest.json").unlink()
    assert workspace.find(made.path) is None


def test_a_recipe_is_the_same_before_and_after_it_was_written(tmp_path):
    place = folder(workspace.making_place(tmp_path / "a"), a_txt="x")
    asked = Manifest(kind="engine", title="An engine", options={"shape": (1, 128), 7: "seven"})
    workspace.publish(place, tmp_path / "a", asked)
    found = workspace.find(tmp_path / "a")
    assert found is not None
    assert found.manifest.recipe() == asked.recipe()


# --- Publishing -------------------------------------------------------------------


def test_publishing_replaces_all_of_the_old(tmp_path):
    target = tmp_path / "engines" / "a"
    published(target, old_txt="old", both_txt="old")
    made = published(target, new_txt="new", both_txt="new")
    assert {f.name for f in target.iterdir()} == {"new.txt", "both.txt", "manifest.json"}
    assert (target / "both.txt").read_text() == "new"
    assert workspace.find(target).manifest == made.manifest
    assert [f.name for f in target.parent.iterdir()] == ["a"], "nothing else may be left beside it"


READER = """
import sys
from pathlib import Path
from helpers import workspace
target, stop = map(Path, sys.argv[1:])
rounds = []
print("reading", flush=True)
while not stop.exists():
    if found := workspace.find(target):
        rounds.append(found.manifest.options["round"])
assert rounds == sorted(rounds), "an older one came back"
print(len(set(rounds)))
"""


def test_readers_find_the_old_or_the_new_or_none_but_never_half(tmp_path):
    target, stop = tmp_path / "a", tmp_path / "stop"

    def publish(number: int) -> None:
        place = folder(workspace.making_place(target), **{f"file{i}_txt": str(number) for i in range(9)})
        workspace.publish(place, target, Manifest("engine", "An engine", options={"round": number}))

    publish(0)
    command = [sys.executable, "-c", READER, str(target), str(stop)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
        assert reader.stdout and reader.stderr
        reader.stdout.readline()
        ending = time.monotonic() + 1
        number = 0
        while time.monotonic() < ending:
            publish(number := number + 1)
        stop.touch()
        assert reader.wait(20) == 0, reader.stderr.read()
        assert int(reader.stdout.read()) > 5


def test_leftovers_of_dead_runs_are_swept_and_other_peoples_are_not(tmp_path):
    (tmp_path / ".making-fp8~elsewhere~7").mkdir()
    (tmp_path / ".old-fp8~elsewhere~7").mkdir()
    others = [tmp_path / ".making-fp8-tp2~elsewhere~7", tmp_path / ".making-fp~elsewhere~7"]
    for other in others:
        other.mkdir()
    place = workspace.making_place(tmp_path / "fp8")
    assert sorted(tmp_path.iterdir()) == sorted([place, *others])
    workspace.sweep(tmp_path / "fp8", os.getpid())
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_small_file_is_written_whole(tmp_path):
    file = tmp_path / "progress.json"
    workspace.write_whole(file, "old")
    before = file.stat().st_ino
    with file.open() as reader:
        workspace.write_whole(file, "new, and longer")
        assert reader.read() == "old", "a reader keeps what it opened"
    assert file.read_text() == "new, and longer"
    assert file.stat().st_ino != before
    assert [f.name for f in tmp_path.iterdir() if "progress" in f.name] == [file.name]


def test_the_card_says_what_how_big_how_long_and_from_what(tmp_path):
    place = folder(workspace.making_place(tmp_path / "a"), model_bin="x" * 2500)
    manifest = Manifest(
        kind="engine",
        title="Engine of bundled",
        inputs={"model": "0123abcd", "texts": "4567ef"},
        maker={"openvino": "2026.2.1"},
        command=["python", "build.py", "--name", "two words"],
        seconds=3.21,
    )
    text = str(workspace.publish(place, tmp_path / "a", manifest))
    assert "Engine of bundled: done in 3.2 s" in text
    assert "2.50 kB in 1 files" in text
    assert "model 0123abcd, texts 4567ef" in text
    assert "openvino 2026.2.1" in text
    assert "python build.py --name 'two words'" in text
    assert str(tmp_path / "a") in text


# --- Disk space -------------------------------------------------------------------


def test_a_disk_too_small_is_told_in_one_sentence_each_for_what_and_for_what_to_do(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    workspace.require_space(tmp_path / "not" / "yet" / "there", 3_000_000)
    with pytest.raises(WorkshopError) as told:
        workspace.require_space(tmp_path / "not" / "yet" / "there", 3_000_001)
    message = str(told.value)
    assert message.startswith(f"Not enough disk space in {tmp_path}: this needs about 3.00 MB, and 3.00 MB is free.")
    assert "WORKSHOP_HOME" in message
    assert "\n" not in message


def test_a_memory_too_small_is_told_in_one_line():
    available = psutil.virtual_memory().total
    workspace.require_memory(1_000_000, "a build")
    with pytest.raises(WorkshopError) as told:
        workspace.require_memory(available + 1_000_000, "a build")
    message = str(told.value)
    assert message.startswith("Not enough memory for a build: about ")
    assert "\n" not in message


@pytest.fixture
def tiny_disk(tmp_path, monkeypatch):
    """A real disk of 3 MB with the workspace on it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, text=True)
    if mounting.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounting.stderr.strip()}")
    monkeypatch.setenv("WORKSHOP_HOME", str(disk / "workshop"))
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_real_disk_that_is_too_small_is_refused_before_the_work(tiny_disk):
    filling = stage.Stage("Engine", "engine", ["false"], workspace.home() / "engines" / "a", space=10_000_000)
    with pytest.raises(WorkshopError, match=r"needs about 10\.00 MB, and 3\.\d\d MB is free"):
        stage.run(filling)
    assert list(tiny_disk.iterdir()) == []


def test_a_real_disk_that_fills_up_meanwhile_is_told_and_left_clean(tiny_disk):
    target = workspace.home() / "engines" / "a"
    code = "import sys; open(sys.argv[1] + '/model.bin', 'wb').write(bytes(10_000_000))"
    filling = stage.Stage("Engine", "engine", [sys.executable, "-c", code, "{out}"], target)
    with pytest.raises(WorkshopError) as told:
        stage.run(filling)
    assert os.strerror(errno.ENOSPC) in str(told.value)
    assert "Nothing half-made is left" in str(told.value)
    assert list(target.parent.iterdir()) == []
    (tiny_disk / "rest").write_bytes(bytes(shutil.disk_usage(tiny_disk).free - 50_000))
    with pytest.raises(WorkshopError, match="Not enough disk space"):
        stage.run(filling)


def test_a_workspace_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKSHOP_HOME", str(tmp_path / "file" / "workshop"))
    with pytest.raises(WorkshopError, match=r"cannot be written: Not a directory\. Set WORKSHOP_HOME"):
        stage.run(stage.Stage("Engine", "engine", ["true"], tmp_path / "engines" / "a"))


# --- The lock ---------------------------------------------------------------------

HOLDER = """
import socket, sys
from pathlib import Path
host, lease, target = sys.argv[1:]
if host:
    socket.gethostname = lambda: host
from helpers import workspace
if lease:
    workspace._LEASE_SECONDS = float(lease)
with workspace.lock(Path(target)):
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
"""


@pytest.fixture
def hold(tmp_path):
    """Start another process that takes the lock on ``tmp_path / "a"``, and holds it until it reads a line."""
    started: list[subprocess.Popen[str]] = []

    def start(host: str = "", lease: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, host, lease, str(tmp_path / "a")]
        holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(holder)
        os.set_blocking(holder.stdout.fileno(), False)
        return holder

    yield start
    for holder in started:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


def says(holder: subprocess.Popen[str], word: str) -> bool:
    return word in (holder.stdout.readline() or "")


def seconds_to_acquire(target: Path, timeout: float) -> float:
    started = time.monotonic()
    lock = workspace.lock(target)
    lock.acquire(timeout=timeout)
    taken = time.monotonic() - started
    lock.release()
    return taken


def test_the_second_waits_for_the_first(hold):
    first = hold()
    until(lambda: says(first, "held"))
    second = hold()
    time.sleep(1.5)
    assert not says(second, "held")
    first.stdin.write("\n")
    first.stdin.flush()
    until(lambda: says(second, "held"), 5)


def test_locks_on_different_targets_do_not_meet(hold, tmp_path):
    holder = hold()
    until(lambda: says(holder, "held"))
    assert seconds_to_acquire(tmp_path / "b", 5) < 1


def test_a_killed_holder_on_this_machine_blocks_nobody(hold, tmp_path):
    holder = hold()
    until(lambda: says(holder, "held"))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".a.lock").exists()
    assert seconds_to_acquire(tmp_path / "a", 15) < 5, "the lease of 20 s need not run out for this"


def test_a_pod_that_vanished_blocks_nobody_for_longer_than_its_lease(hold, tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "_LEASE_SECONDS", 1.0)
    holder = hold("another-pod", "1")
    until(lambda: says(holder, "held"))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert "another-pod" in (tmp_path / ".a.lock").read_text()
    assert 0.7 < seconds_to_acquire(tmp_path / "a", 15) < 6


def test_a_living_pod_keeps_its_lock_beyond_its_lease(hold, tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "_LEASE_SECONDS", 1.0)
    holder = hold("another-pod", "1")
    until(lambda: says(holder, "held"))
    with pytest.raises(Timeout):
        seconds_to_acquire(tmp_path / "a", 3)
    assert holder.poll() is None
