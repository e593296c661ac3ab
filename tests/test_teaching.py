"""How notebooks open and close, and what they say under a wrong kernel."""

import ast
import json
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
from conftest import ROOT, until

from helpers import hardware, stage, teaching, workspace
from helpers.errors import WorkshopError
from helpers.workspace import Manifest

NOTEBOOKS = ROOT / "notebooks"
NAMES = [file.stem for file in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))]


def publish(path: str, kind: str, title: str) -> workspace.Artifact:
    """Put an artifact into the workspace, as a stage would."""
    target = workspace.home() / path
    target.parent.mkdir(parents=True, exist_ok=True)
    place = workspace.making_place(target)
    (place / "data.bin").write_text("x" * 1500)
    return workspace.publish(place, target, Manifest(kind, title, seconds=2.0))


def metadata(name: str) -> dict:
    return dict(json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["metadata"]["workshop"])


# --- A wrong kernel --------------------------------------------------------------------


def test_a_python_without_the_packages_is_refused_in_one_line_that_names_the_kernel():
    code = f"""
import sys
sys.path.insert(0, {str(NOTEBOOKS)!r})
import workshop
try:
    workshop.start("03_fp16_build")
except workshop.WrongKernel as problem:
    print(*problem._render_traceback_(), sep="\\n")
"""
    # -S leaves out everything that pip installed; -I everything that the environment could put back.
    said = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    (line,) = said.stdout.splitlines()
    version = f"Python {sys.version_info[0]}.{sys.version_info[1]}"
    assert line.startswith(
        "WrongKernel: pick the kernel 'TensorRT-LLM workshop' (menu Kernel, Change Kernel); this one is"
    )
    assert f"{version} without openvino_genai, modelopt, transformers, matplotlib." in line
    assert "make setup" in line
    assert said.stderr == ""


def test_in_a_wrong_kernel_the_cell_shows_that_line_alone(kernel):
    broken = "import workshop\nworkshop.NEEDED = ('a_package_that_is_not_there',)\nworkshop.start('03_fp16_build')"
    cell = kernel.run(broken)
    assert cell.displays == []
    assert cell.streams == []
    (line,) = cell.error["traceback"]
    assert line.startswith("WrongKernel: pick the kernel 'TensorRT-LLM workshop'")
    assert "without a_package_that_is_not_there." in line
    assert "\n" not in line
    assert "Traceback" not in line


def test_the_kernels_name_is_the_one_that_notebooks_ask_for():
    told = (NOTEBOOKS / "workshop.py").read_text()
    for name in NAMES:
        spec = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["metadata"]["kernelspec"]
        assert f"pick the kernel '{spec['display_name']}'" in told


def test_what_refuses_an_old_python_is_understood_by_it():
    source = (NOTEBOOKS / "workshop.py").read_text()
    ast.parse(source, feature_version=(3, 6))
    with pytest.raises(SyntaxError):
        ast.parse(source + "\nif (n := 1): pass\n", feature_version=(3, 6))


def test_an_old_python_is_refused_even_with_every_package(monkeypatch):
    monkeypatch.syspath_prepend(str(NOTEBOOKS))
    import workshop

    monkeypatch.setattr(sys, "version_info", (3, 9, 1, "final", 0))
    with pytest.raises(workshop.WrongKernel, match=r"this one is Python 3\.9 without what the helpers need"):
        workshop.start("03_fp16_build")


def test_the_right_kernel_opens_a_notebook(kernel):
    cell = kernel.run("from workshop import start\nstart('03_fp16_build')")
    assert cell.error is None
    assert cell.streams == []
    assert cell.shown["text/plain"].startswith("Ready: ")


# --- Time plan, opening, closing ------------------------------------------------------------


def test_the_time_plan_adds_up_what_the_notebooks_say():
    plan = teaching.time_plan()
    minutes = [metadata(name)["minutes"] for name in NAMES]
    assert [row[0] for row in plan.rows] == NAMES
    assert [row[2] for row in plan.rows] == minutes
    assert [row[3] for row in plan.rows] == [sum(minutes[:i]) for i in range(len(minutes))]
    assert plan.note.startswith(f"{sum(minutes)} minutes in all")


def test_titles_are_the_notebooks_own():
    for notebook in teaching.notebooks():
        first = "".join(json.loads((NOTEBOOKS / f"{notebook.name}.ipynb").read_text())["cells"][0]["source"])
        assert first.startswith(f"# {notebook.title}\n")
        assert list(notebook.needs) == metadata(notebook.name)["needs"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_opens_with_what_there_is(name):
    card = teaching.start(name)
    machine = hardware.look()
    assert card.title == f"Ready: {name[:2]} {next(n.title for n in teaching.notebooks() if n.name == name)}"
    assert f"{machine.cpu.cores} cores" in card.facts["machine"]
    assert card.facts["workspace"] == f"{workspace.home()} (nothing made yet)"
    assert card.facts["planned"].startswith(f"{metadata(name)['minutes']} minutes")
    assert all((NOTEBOOKS / address).exists() for address in card.links.values())
    assert card.facts["toolchain"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_closes_with_what_you_have_and_where_to_go(name):
    publish("engines/bundled/fp16", "engine", "Engine")
    publish("engines/bundled/fp8", "engine", "Engine")
    publish("checkpoints/bundled/fp16", "checkpoint", "Checkpoint")
    card = teaching.finish(name)
    assert card.title == f"End of {name}"
    assert card.facts["you now have"] == "1 checkpoint, 2 engines"
    assert card.facts["still running"] == "nothing"
    assert card.facts["holding GPU memory"]
    assert card.facts["ended now"].startswith("nothing")
    assert "Shut Down Kernel" in card.facts["to free the rest"]
    later = NAMES[NAMES.index(name) + 1 :]
    assert list(card.links.values()) == [f"{each}.ipynb" for each in later[:1]]
    assert ("next" in card.facts) == (not later)


def test_a_stage_under_way_is_named_at_the_end(tmp_path):
    code = f"""
import sys
from pathlib import Path
from helpers import stage
work = "import os, sys, time\\nwhile not os.path.exists(sys.argv[2]): time.sleep(0.05)"
command = [sys.executable, "-c", work, "{{out}}", {str(tmp_path / "go")!r}]
stage.run(stage.Stage("Engine of a test", "engine", command, Path({str(tmp_path / "workshop" / "engines" / "a")!r})))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as other:
        until(lambda: [told for _, told in stage.runs() if told["state"] == "running"])
        told = teaching.finish(NAMES[0]).facts
        assert told["still running"] == "Engine of a test (of another notebook, left alone)"
        assert told["ended now"].startswith("nothing")
        (tmp_path / "go").touch()
        assert other.wait(10) == 0
    assert teaching.finish(NAMES[0]).facts["still running"] == "nothing"


def test_a_notebook_that_closes_ends_its_own_stage(tmp_path):
    work = "import sys, time\ntime.sleep(600)"
    task = stage.Stage(
        "Engine of a test", "engine", [sys.executable, "-c", work, "{out}"], workspace.home() / "e" / "a"
    )
    failed = []

    def run() -> None:
        try:
            stage.run(task)
        except WorkshopError as problem:
            failed.append(problem)

    working = threading.Thread(target=run)
    working.start()
    until(lambda: [told for _, told in stage.runs() if "group" in told])
    told = teaching.finish(NAMES[0]).facts
    assert told["ended now"] == "Engine of a test"
    assert told["still running"] == "nothing"
    working.join(10)
    assert "Nothing half-made is left" in str(failed[0])
    assert not list((workspace.home() / "e").glob(".making*"))


def test_a_notebook_that_closes_ends_its_servers(monkeypatch):
    """What a server is does not matter here: those that this process started are asked for, and ended."""
    from helpers.serving import endpoint

    ended = []
    started = [types.SimpleNamespace(title="FP16 on a CPU", url="", pid=1, running=True, stop=lambda: ended.append(1))]
    monkeypatch.setattr(endpoint, "_started", started)
    assert teaching.finish(NAMES[0]).facts["ended now"] == "endpoint FP16 on a CPU"
    assert ended == [1]


# --- What was made -----------------------------------------------------------------------------


def test_artifacts_are_what_was_published(own_home):
    made = [
        publish("checkpoints/bundled/fp16", "checkpoint", "Checkpoint of bundled"),
        publish("models/tiny", "model", "A model"),
    ]
    assert sorted(workspace.artifacts(), key=lambda a: a.path) == sorted(made, key=lambda a: a.path)


def test_a_workspace_below_a_folder_called_scratch_is_seen_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKSHOP_HOME", str(tmp_path / "scratch" / "me"))
    kept = publish("engines/bundled/fp16", "engine", "An engine")
    publish("scratch/bundled/elsewhere", "engine", "An altered copy, for show")
    assert workspace.artifacts() == [kept]


def test_nothing_half_made_damaged_or_of_another_release_is_listed(own_home):
    kept = publish("engines/bundled/fp16", "engine", "An engine")
    for name, text in {"half": '{"kind": "eng', "later": '{"kind": "engine", "title": "x", "added": 1}'}.items():
        (own_home / "engines" / "bundled" / name).mkdir()
        (own_home / "engines" / "bundled" / name / "manifest.json").write_text(text)
    half_made = Path(str(publish("engines/bundled/b", "engine", "Half").path))
    half_made.rename(half_made.with_name(f".making-b~here~{os.getpid()}"))
    assert workspace.artifacts() == [kept]
    assert teaching.start(NAMES[0]).facts["workspace"].endswith("(1 engine)")
