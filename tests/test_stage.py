"""Stages make their artifact once, whole or not at all, whatever happens to them meanwhile."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, until

from helpers import processes, stage, supervisor, workspace
from helpers.errors import WorkshopError

WRITE = "import sys; open(sys.argv[1] + '/model.bin', 'w').write('weights')"
COUNT = "open('{counter}', 'a').write('x'); "

# A command that starts a child in a session of its own and an orphan that detached itself, as servers and launchers
# do, notes all three, writes half of its result, and hangs.
FAMILY = """
import os, subprocess, sys, time
note = lambda pid: open({file!r}, "a").write(f"{{pid}}\\n")
note(os.getpid())
note(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
if os.fork() == 0:
    os.setsid()
    orphan = subprocess.Popen(["sleep", "600"])
    note(orphan.pid)
    os._exit(0)
open(sys.argv[1] + "/half.bin", "w").write("half")
print("half-way", flush=True)
time.sleep(600)
"""

# What a kernel does, in a process that a test can kill.
KERNEL = """
import json, sys
from pathlib import Path
from helpers import stage
from helpers.errors import WorkshopError
spec = json.loads(sys.argv[1])
try:
    made = stage.run(stage.Stage(**{**spec, "target": Path(spec["target"])}))
except WorkshopError as problem:
    print(problem)
    sys.exit(3)
except KeyboardInterrupt:
    sys.exit(130)
print("reused" if made.reused else "made")
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "workshop" / "engines" / "fp16"


def tiny(target: Path, code: str = WRITE, **settings) -> stage.Stage:
    """A stage whose command is a few lines of Python; ``sys.argv[1]`` is the folder to write into."""
    return stage.Stage("Engine of a test", "engine", [sys.executable, "-c", code, "{out}"], target, **settings)


def kernel(asked: stage.Stage, **more: str) -> subprocess.Popen[str]:
    """Run a stage in another process, as a kernel would."""
    spec = {**asked.__dict__, "target": str(asked.target)}
    command = [sys.executable, "-c", KERNEL, json.dumps(spec)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def state() -> dict:
    """What the newest run last told, or an empty dict."""
    told = list(stage.runs())
    return told[-1][1] if told else {}


@pytest.fixture(autouse=True)
def no_run_outlives_its_test():
    """A test that fails half-way must not leave its stages hanging."""
    yield
    end_runs()


def end_runs() -> None:
    for _, told in stage.runs():
        if stage.is_alive(told):
            os.kill(told["pid"], signal.SIGKILL)


def left(target: Path) -> list[str]:
    """Names of everything beside (and at) a target; a lock whose holder was killed is nobody's mess."""
    found = target.parent.iterdir() if target.parent.exists() else []
    return sorted(file.name for file in found if not file.name.endswith(".lock"))


@contextlib.contextmanager
def under_way(asked: stage.Stage):
    """A stage that runs in a thread meanwhile; gives what it came to: an artifact or an error."""
    came_to: list = []

    def work() -> None:
        try:
            came_to.append(stage.run(asked))
        except Exception as error:
            came_to.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield came_to
    except BaseException:
        end_runs()
        raise
    worker.join(30)
    assert not worker.is_alive()


# --- Made, and made again only where needed ------------------------------------------


def test_a_stage_is_made_and_says_so(target, capsys):
    made = stage.run(tiny(target, options={"precision": "fp16"}, maker={"maker": "1"}, expected=["model.*"]))
    assert (target / "model.bin").read_text() == "weights"
    assert made.path == target
    assert not made.reused
    assert made.manifest.options == {"precision": "fp16"}
    assert made.manifest.command == [sys.executable, "-c", WRITE, "fp16"], (
        "pasted, it would not write over the artifact"
    )
    assert 0 < made.manifest.seconds < 10
    assert list(made.manifest.files) == ["model.bin"]
    told = capsys.readouterr()
    assert "Engine of a test: done in" in told.out
    assert str(made.log) in told.err, "the log's path is shown while it runs"
    assert workspace.shell_text(made.manifest.command) in told.err
    assert left(target) == ["fp16"]
    assert not list(target.parent.glob(".*")), "the lock is given back"


def test_made_earlier_is_not_made_again(target, tmp_path, capsys):
    asked = tiny(target, COUNT.format(counter=tmp_path / "count") + WRITE, options={"shape": (1, 2)})
    stage.run(asked)
    capsys.readouterr()
    again = stage.run(asked)
    assert again.reused
    assert (tmp_path / "count").read_text() == "x"
    assert "made earlier, nothing to do" in capsys.readouterr().out
    assert stage.ensure(asked).reused
    assert capsys.readouterr().out == "", "ensure is silent where there is nothing to do"
    assert len(list((tmp_path / "workshop" / "runs").iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"precision": "fp8"}},
        {"inputs": {"model": "another"}},
        {"maker": {"openvino": "2026.3"}},
        {"machine": {"cpu": "another"}},
        {"kind": "graph"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_recipe_is_made_anew(target, tmp_path, change):
    asked = tiny(
        target,
        COUNT.format(counter=tmp_path / "count") + WRITE,
        options={"precision": "fp16"},
        inputs={"model": "this"},
        maker={"openvino": "2026.2"},
        machine={"cpu": "this"},
    )
    stage.run(asked)
    assert not stage.run(replace(asked, **change)).reused
    assert (tmp_path / "count").read_text() == "xx"
    assert left(target) == ["fp16"]
    assert stage.existing(replace(asked, **change))
    assert stage.existing(asked) is None


def test_a_damaged_artifact_is_noticed_and_remade(target):
    made = stage.run(tiny(target))
    (target / "model.bin").write_text("weig")
    again = stage.run(tiny(target))
    assert not again.reused
    assert (target / "model.bin").read_text() == "weights"
    assert again.manifest.files == made.manifest.files


def test_two_processes_asking_for_the_same_make_it_once(target, tmp_path):
    code = COUNT.format(counter=tmp_path / "count") + "import time; time.sleep(1); " + WRITE
    both = [kernel(tiny(target, code)), kernel(tiny(target, code))]
    waiting = until(lambda: [s for _, s in stage.runs() if s["state"] == "waiting"], 10, "the second to wait")
    assert "another process" in waiting[0]["text"]
    said = [process.communicate(timeout=20)[0] for process in both]
    assert (tmp_path / "count").read_text() == "x"
    assert sorted(text.splitlines()[-1] for text in said) == ["made", "reused"]


def test_one_target_does_not_sweep_away_another_whose_name_begins_alike(target, tmp_path):
    longer = target.with_name("fp16-tp2")
    code = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.05)\n{WRITE}"
    with under_way(tiny(longer, code)) as came_to:
        until(lambda: list(longer.parent.glob(".making-fp16-tp2*")))
        stage.run(tiny(target))
        (tmp_path / "go").touch()
    assert came_to[0].path == longer, came_to
    assert left(target) == ["fp16", "fp16-tp2"]


# --- Failing --------------------------------------------------------------------------


def test_a_failing_command_is_told_in_one_message_and_leaves_nothing(target, tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text("""
import sys
open(sys.argv[1] + "/half.bin", "w").write("half")
print("epoch 1 of 9")
print("RuntimeError: out of memory: tried to allocate 2 GB")
print("goodbye")
sys.exit(4)
""")
    with pytest.raises(WorkshopError) as told:
        stage.run(stage.Stage("Engine of a test", "engine", [sys.executable, str(worker), "{out}"], target))
    lines = str(told.value).splitlines()
    assert lines[0] == "Engine of a test: the command ended with status 4. Nothing half-made is left."
    assert lines[1] == "  | RuntimeError: out of memory: tried to allocate 2 GB"
    log = Path(lines[2].removeprefix("The whole log: "))
    assert log.read_text().endswith("epoch 1 of 9\nRuntimeError: out of memory: tried to allocate 2 GB\ngoodbye\n")
    assert lines[3] == "Mend the cause, then run it again."
    assert left(target) == []
    assert state()["state"] == "failed"


def test_what_was_there_before_a_failure_stays(target):
    stage.run(tiny(target))
    with pytest.raises(WorkshopError):
        stage.run(tiny(target, "raise SystemExit(1)", options={"other": 1}))
    assert stage.existing(tiny(target))
    assert left(target) == ["fp16"]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["no-such-program"], "No such file or directory: 'no-such-program'"),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], "the command was killed by SIGKILL"),
        ([sys.executable, "-c", ""], r"the command ended well but did not make model\.bin, \*\.json\."),
    ],
    ids=["no such program", "killed", "nothing made"],
)
def test_every_way_to_fail_has_its_sentence(target, command, told):
    asked = stage.Stage("Engine of a test", "engine", command, target, expected=["model.bin", "*.json"])
    with pytest.raises(WorkshopError, match=told):
        stage.run(asked)
    assert left(target) == []


def test_lines_that_tell_are_found_among_noise():
    log = "$ python build.py --on-error stop\n" + "noise\n" * 50 + "ValueError: bad shape\n" + "noise\n" * 50
    assert stage.telling_lines(log) == ["ValueError: bad shape"]
    assert stage.telling_lines("a\n\nb\nc\n", most=2) == ["b", "c"]
    assert stage.telling_lines("") == []
    assert len(stage.telling_lines("error " + "x" * 1000)[0]) == 300


# --- Ended from outside -----------------------------------------------------------------


def test_the_time_limit_ends_the_whole_family(target, pids):
    started = time.monotonic()
    with pytest.raises(WorkshopError, match="it ran longer than its limit of 1 s"):
        stage.run(tiny(target, FAMILY.format(file=str(pids.file)), time_limit=1))
    assert time.monotonic() - started < 7
    assert len(pids.read()) == 3
    assert pids.alive() == []
    assert left(target) == []


def test_a_kernel_killed_takes_everything_with_it(target, pids):
    dying = kernel(tiny(target, FAMILY.format(file=str(pids.file))))
    family = pids.wait(3)
    assert pids.alive() == family
    watched = until(lambda: state() if state().get("state") == "running" else None)
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    pids.all_gone(5)
    until(lambda: not stage.is_alive(watched), 5)
    assert state()["state"] == "stopped"
    assert left(target) == []
    assert stage.run(tiny(target)).path == target


def test_an_interrupt_takes_everything_with_it(target, pids):
    stopping = kernel(tiny(target, FAMILY.format(file=str(pids.file))))
    pids.wait(3)
    sent = time.monotonic()
    stopping.send_signal(signal.SIGINT)
    assert stopping.wait(10) == 130
    assert time.monotonic() - sent < 5
    assert pids.alive() == []
    assert state()["state"] == "stopped"
    assert "interrupted" in state()["text"]
    assert left(target) == []


def test_a_kernel_killed_while_it_waits_for_another_ends_its_own_wait_only(target, tmp_path):
    code = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.05)\n{WRITE}"
    first = kernel(tiny(target, code))
    until(lambda: state().get("state") == "running")
    second = kernel(tiny(target, code))
    waiting = until(lambda: next((s for _, s in stage.runs() if s["state"] == "waiting"), None))
    second.kill()
    second.wait()
    until(lambda: not stage.is_alive(waiting), 5)
    (tmp_path / "go").touch()
    assert first.communicate(timeout=10)[0].endswith("made\n")


def test_a_killed_supervisor_is_told_and_the_next_run_succeeds(target, pids):
    # The orphan of FAMILY is beyond reach once its adopter is killed; the command and its group are not.
    code = """
import os, subprocess, sys, time
open(sys.argv[1] + "/half.bin", "w").write("half")
for pid in (os.getpid(), subprocess.Popen(["sleep", "600"]).pid):
    open({file!r}, "a").write(f"{{pid}}\\n")
time.sleep(600)
"""
    with under_way(tiny(target, code.format(file=str(pids.file)))) as came_to:
        pids.wait(2)
        assert list(target.parent.glob(".making-*"))
        os.kill(until(lambda: state().get("group") and state()["pid"]), signal.SIGKILL)
    assert isinstance(came_to[0], WorkshopError)
    assert "its supervisor was killed, perhaps because the machine ran out of memory" in str(came_to[0])
    pids.all_gone(2)
    assert left(target) == []
    started = time.monotonic()
    assert stage.run(tiny(target)).path == target
    assert time.monotonic() - started < 5, "the dead supervisor's lock is not waited for"


def test_what_a_finished_command_leaves_running_is_ended_and_not_waited_for(target, pids):
    code = f"""
import os, subprocess, sys
if os.fork() == 0:
    os.setsid()
    open({str(pids.file)!r}, "a").write(f"{{os.getpid()}}\\n")
    os.execvp("sleep", ["sleep", "600"])
while not os.path.exists({str(pids.file)!r}): pass
print("last words, no newline", end="")
open(sys.argv[1] + "/model.bin", "w").write("weights")
"""
    started = time.monotonic()
    made = stage.run(tiny(target, code))
    assert time.monotonic() - started < 5, "it holds the command's output open"
    assert pids.alive() == []
    assert made.log.read_text().endswith("last words, no newline")


def test_a_closed_terminal_or_tab_does_not_end_a_stage(target, tmp_path):
    """A hang-up reaches the kernel's session only; whoever lives on in the kernel still gets the artifact."""
    code = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.05)\n{WRITE}"
    with under_way(tiny(target, code)) as came_to:
        running = until(lambda: state() if "group" in state() else None)
        assert os.getsid(running["pid"]) != os.getsid(0)
        assert os.getsid(running["group"]) != os.getsid(running["pid"])
        os.kill(running["pid"], signal.SIGINT)  # Ctrl-C in a terminal is the kernel's to judge
        time.sleep(0.3)
        assert stage.is_alive(state())
        (tmp_path / "go").touch()
    assert came_to[0].path == target


# --- Secrets ------------------------------------------------------------------------------

TOKEN = "hf_" + "abcdefghijKLMNOPqrst"
LEAK = """
import os, sys, time
token, key, form = os.environ["HF_TOKEN"], os.environ["MY_API_KEY"], "hf_" + "Z" * 30
print(f"@progress 1/4 with {token}", flush=True)
time.sleep(0.4)
print(f"error: refused for {key}, Bearer {form}", flush=True)
for half in (token[:9], token[9:]):
    sys.stdout.write(half)
    sys.stdout.flush()
    time.sleep(0.15)
print(f"\\n{key} {form}: 50%|####", flush=True)
open(sys.argv[1] + "/model.bin", "w").write("weights")
sys.stdout.write(f"the end {token}")
sys.stdout.flush()
time.sleep(0.5)
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize("status", ["0", "1"])
def test_what_a_command_prints_of_secrets_is_kept_nowhere(target, tmp_path, monkeypatch, capsys, status):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("MY_API_KEY", "correct horse battery")
    secrets = [TOKEN, "correct horse battery", "hf_ZZZ", TOKEN[9:]]
    asked = tiny(target, LEAK)
    asked = replace(asked, command=[*asked.command, status])
    kept: dict[str, str] = {}
    with under_way(asked) as came_to:
        while not came_to:
            for name in ("log.txt", "progress.json"):
                for file in (tmp_path / "workshop").rglob(name):
                    kept[f"{name} meanwhile"] = kept.get(f"{name} meanwhile", "") + file.read_text()
            time.sleep(0.02)
    kept |= {file.name: file.read_text() for file in (tmp_path / "workshop").rglob("*.*") if file.is_file()}
    kept |= {"what was told": str(came_to[0]), "what was shown": "".join(capsys.readouterr())}
    assert "with [hidden]" in kept["progress.json meanwhile"]
    assert kept["log.txt"].count("[hidden]") == 7
    assert ("error: refused for [hidden]" in kept["what was told"]) == (status == "1")
    assert ("manifest.json" in kept) == (status == "0")
    for name, text in kept.items():
        assert not [secret for secret in secrets if secret in text], name


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("pull hf_abcdefghijklmnop now", "pull [hidden] now"),
        ("nvapi-abcd_efgh-ijklmnop", "[hidden]"),
        ("ghp_abcdefghijklmnopqrst", "[hidden]"),
        ("https://me:pass-word@host.example/simple", "https://[hidden]@host.example/simple"),
        ("Authorization: Bearer abc.def-123=", "Authorization: Bearer [hidden]"),
        ("the value of my_pat: grey-elephant", "the value of my_pat: [hidden]"),
        ("hf_transfer, half_open, risk-free: https://host.example:80/a@b 12:30", None),
        ("a short value is no secret: yes", None),
    ],
)
def test_secrets_are_known_by_their_form_or_their_variables_name(said, kept):
    environment = {"MY_PAT": "grey-elephant", "TOKENIZERS_PARALLELISM": "yes", "PLAIN": "free: https"}
    assert processes.redactor(environment)(said) == (said if kept is None else kept)


def test_variables_given_to_the_command_alone_are_secret_too(target):
    code = "import os; print(os.environ['A_PASSWORD']); " + WRITE
    made = stage.run(tiny(target, code, environment={"A_PASSWORD": "swordfish"}))
    assert made.log.read_text().endswith("\n[hidden]\n")


# --- Progress and logs ----------------------------------------------------------------------


def test_progress_and_log_are_written_while_it_runs(target, tmp_path):
    code = f"""
import os, sys, time
def step(text, number):
    print(text, end="\\r" if "%" in text else "\\n", flush=True)
    while not os.path.exists({str(tmp_path)!r} + f"/go{{number}}"): time.sleep(0.02)
step("@progress 3/4 words to read", 1)
step("Calibrating é:  12%|█▏        | 12/100 [00:01<00:08]", 2)
step("and a line without any figure", 3)
open(sys.argv[1] + "/model.bin", "w").write("weights")
"""
    with under_way(tiny(target, code)):
        told = until(lambda: s if (s := state()).get("fraction") == 0.75 else None)
        assert told["text"] == "words to read"
        assert told["state"] == "running"
        assert told["title"] == "Engine of a test"
        log = Path(told["log"])
        assert log.read_text().startswith("$ " + sys.executable)
        assert log.read_text().endswith("@progress 3/4 words to read\n")
        (tmp_path / "go1").touch()
        assert until(lambda: s if (s := state()).get("fraction") == 0.12 else None)["text"] == "Calibrating é"
        (tmp_path / "go2").touch()
        until(lambda: "without any figure" in log.read_text())
        elapsed = state()["elapsed"]
        until(lambda: state()["elapsed"] > elapsed, 3, "the moving time")
        assert state()["fraction"] == 0.12, "a line without a figure takes nothing back"
        (tmp_path / "go3").touch()
    assert state()["state"] == "done"
    assert state()["fraction"] == 1


@pytest.mark.parametrize(
    ("line", "fraction", "text"),
    [
        ("@progress 0/7 reading", 0, "reading"),
        ("@progress 7/7", 1, ""),
        ("@progress 0/0 nothing to do", 0, "nothing to do"),
        ("Loading weights: 100%|██████████| 3/3 [00:00<00:00]\n", 1, "Loading weights"),
        ("  5%|▌         | 1/20", 0.05, ""),
        ("Statistics collection ━━━━━━━━━━ 45% 9/20", 0.45, "Statistics collection"),
        ("nothing of the kind", 0.5, "before"),
        ("250% of nothing", 0.5, "before"),
    ],
)
def test_figures_are_read_from_lines(tmp_path, line, fraction, text):
    (tmp_path / "spec.json").write_text(json.dumps({"title": "a", "target": "b"}))
    run = supervisor.Run(tmp_path)
    run.state |= {"fraction": 0.5, "text": "before"}
    supervisor.read_progress(run, line)
    assert (run.state["fraction"], run.state["text"]) == (pytest.approx(fraction), text)


def test_a_long_output_is_logged_whole(target):
    """Characters of several bytes fall on the edges of what is read at once; none may be lost."""
    made = stage.run(tiny(target, "print('é━' * 100_000); " + WRITE))
    assert made.log.read_text().endswith("é━" * 100_000 + "\n")


# --- Watching from a terminal -----------------------------------------------------------------


def watch() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "helpers", "watch"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_watch_follows_a_stage_of_another_process_to_its_end(target, tmp_path):
    code = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.05)\n{WRITE}"
    working = kernel(tiny(target, "print('@progress 1/4 half of a half', flush=True)\n" + code))
    until(lambda: state().get("fraction") == 0.25)
    watching = watch()
    assert "Engine of a test:  25%" in watching.stderr.readline()
    time.sleep(0.7)
    assert watching.poll() is None, "it follows as long as the stage runs"
    (tmp_path / "go").touch()
    said, _ = watching.communicate(timeout=5)
    assert said.startswith("Engine of a test: done · log ")
    assert watching.returncode == 0
    assert working.wait(5) == 0
    working.stdout.close()


def test_watch_says_when_nothing_is_under_way(tmp_path):
    said, _ = watch().communicate(timeout=20)
    assert said == "No stage is under way.\n"


def test_a_run_of_a_pod_that_was_stopped_is_not_taken_for_alive(tmp_path):
    """Its process number is, by now, somebody else's: here, this test's own."""
    told = {"state": "running", "pid": os.getpid(), "log": str(tmp_path / "run" / "log.txt")}
    assert not stage.is_alive(told)
