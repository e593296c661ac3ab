"""A model over several real processes: what they hold and exchange, that the answer is the same, and how runs end."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
from conftest import runs, until
from pods import pod

from helpers import checkpoint, models, workspace
from helpers.checkpoint import Runner
from helpers.errors import WorkshopError
from helpers.tensor_parallel import predict, ranks, report

pytestmark = pytest.mark.slow

LAYERS, HIDDEN = 6, 256  # of the bundled model


@pytest.fixture(scope="module")
def split(shared_home):
    return ranks.run(models.find(), 2)


def started_by(text):
    """Processes of this machine whose command line has ``text``."""
    return [p for p in psutil.process_iter(["cmdline"]) if any(text in word for word in p.info["cmdline"] or ())]


def _is_rank(process):
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "torch.distributed.run" not in words and any(word.endswith("tensor_parallel.py") for word in words)


# --- What two ranks are ----------------------------------------------------------------


def test_two_ranks_give_the_logits_of_one_within_the_tolerance(split):
    assert 0 < split.difference < ranks.TOLERANCE
    assert split.told["deviation"] > 1  # logits that do not vary would agree with anything
    assert "All within 0.0001" in report.agreement(split).note


def test_two_ranks_write_the_text_that_one_writes(split):
    written = split.told["written"]
    assert written["together"] == written["alone"] and len(written["together"]) == ranks.NEW_TOKENS
    assert split.told["text"]["together"].strip().startswith("painter")
    assert report.agreement(split).rows[0][-1] == "the same"


def test_ranks_are_processes_of_their_own_and_have_ended(split):
    pids = {rank["pid"] for rank in split.told["ranks"]}
    assert len(pids) == 2 and os.getpid() not in pids
    assert not any(runs(pid) for pid in pids)


def test_each_rank_holds_what_the_settings_predict(split):
    table = report.held(split)
    assert [row[0] for row in table.rows] == ["0 of 2", "1 of 2"]
    held = [rank["bytes"] for rank in split.told["ranks"]]
    assert held == [4 * rank["parameters"] for rank in split.told["ranks"]]
    assert held == 2 * [predict.rank_bytes(split.shape, 2, head=split.head)]
    assert held[0] < 0.7 * split.told["whole"]["bytes"]
    assert "The prediction is exact" in table.note and "model.embed_tokens" in table.note


def test_matrices_are_cut_by_column_before_and_by_row_after(split):
    how = {row[0].rsplit(".", 1)[-1]: row[-1] for row in report.matrices(split).rows}
    by_column = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}
    assert {name for name, cut in how.items() if cut == "by column (outputs)"} - {"lm_head"} == by_column
    assert {name for name, cut in how.items() if cut == "by row (inputs)"} == {"o_proj", "down_proj"}
    assert how["embed_tokens"] == how["norm"] == "whole on every rank"
    assert (
        f"All {LAYERS} layers are cut alike: 5 by column (outputs), 2 by row (inputs)." == report.matrices(split).note
    )


def test_a_layer_that_is_not_there_is_refused(split):
    with pytest.raises(WorkshopError, match=r"no layer 6. Choose one from 0 to 5"):
        report.matrices(split, 6)


def test_two_all_reduces_a_layer_and_nothing_else_between_layers(split):
    """Where the last layer is cut too, its logits are gathered at the end; nothing else is exchanged."""
    for step, tokens in (("token", 1), ("text", ranks.TOKENS)):
        seen = [one for one in split.told["exchanges"][step] if one["kind"] != "all-gather" or split.head == "whole"]
        assert seen == [{"kind": "all-reduce", "bytes": 4 * HIDDEN * tokens, "count": 2 * LAYERS}]
    assert "is exact" in report.exchanges(split).note


def test_tables_say_so_where_the_count_is_not_what_was_predicted(split, tmp_path):
    told = json.loads(json.dumps(split.told))
    told["exchanges"]["token"][0]["count"] += 1
    told["ranks"][1]["bytes"] += 4
    told["difference"] = 0.5
    told["written"]["together"][0] += 1
    (tmp_path / "split.json").write_text(json.dumps(told))
    other = replace(split, path=tmp_path)
    assert "NOT what was counted" in report.exchanges(other).note
    assert "NOT what was counted" in report.held(other).note
    assert "NOT within 0.0001: 2 ranks" in report.agreement(other).note
    assert report.agreement(other).rows[0][-1].startswith("another")


def test_a_second_run_takes_the_first_ones_result(split):
    assert ranks.run(models.find(), 2, silent=True).reused


def test_another_prompt_is_another_run(split):
    by, device = ranks.launcher(2)
    manifests = [ranks.task(models.find(), 2, by, device, prompt).manifest() for prompt in ("one", "another")]
    assert manifests[0].recipe() != manifests[1].recipe()


def test_ranks_of_one_machine_talk_over_its_loopback_only_unless_told_otherwise(split, monkeypatch):
    assert ranks.local_only()["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
    assert "127.0.0.1" in split.manifest.command
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth7")
    assert ranks.local_only()["NCCL_SOCKET_IFNAME"] == "eth7"


# --- Where ranks run -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "ranks_wanted", "needed", "device"),
    [
        ("rtx-4090", 1, 0, "cpu"),  # as for two ranks, which one GPU cannot hold
        ("rtx-4090", 2, 0, "cpu"),
        ("two-4090", 1, 0, "cuda"),
        ("two-4090", 2, 0, "cuda"),
        ("two-4090", 4, 0, "cpu"),
        ("two-4090", 2, 30_000_000_000, "cpu"),  # the whole model does not fit beside its part
    ],
)
def test_gpus_are_used_where_there_are_several_and_enough(machine, ranks_wanted, needed, device, monkeypatch, tmp_path):
    pod(machine, tmp_path).enter(monkeypatch)

    def runner(gpus=None):
        return Runner("python", {}, {} if gpus is None else {"RANKS": str(gpus)}, (), SimpleNamespace(python=tmp_path))

    monkeypatch.setattr(checkpoint, "runner", runner)
    by, found = ranks.launcher(ranks_wanted, needed)
    assert found == device
    assert (by.environment.get("RANKS") == str(ranks_wanted)) == (device == "cuda")
    assert (by.environment.get("CUDA_VISIBLE_DEVICES") == "") == (device == "cpu")


# --- What is refused -------------------------------------------------------------------


def test_a_number_of_ranks_that_does_not_divide_the_heads_is_refused_with_those_that_do():
    with pytest.raises(WorkshopError, match=r"cannot be split over 3 ranks.*\[1, 2, 4\]"):
        ranks.run(models.find(), 3)


def test_ranks_that_memory_cannot_hold_are_not_started(monkeypatch):
    wanted = []

    def refuse(needed, what):
        wanted.append(needed)
        raise WorkshopError(f"Not enough memory for {what}")

    monkeypatch.setattr(workspace, "require_memory", refuse)
    with pytest.raises(WorkshopError, match="Not enough memory for 2 ranks of bundled"):
        ranks.run(models.find(), 2)
    whole = 4 * models.find().parameters
    assert wanted[0] >= 2 * whole


@pytest.mark.parametrize(
    ("whole", "part", "said"),
    [
        ((8, 4), (4, 4), "by column (outputs)"),
        ((8, 4), (8, 2), "by row (inputs)"),
        ((8, 4), (8, 4), "whole on every rank"),
        ((8,), (8,), "whole on every rank"),
        ((8, 4), (4, 2), "otherwise"),
    ],
)
def test_how_a_matrix_was_cut_follows_from_its_shapes(whole, part, said):
    assert report.cut(whole, part) == said


# --- How a run ends --------------------------------------------------------------------


class Running:
    """A run in a thread, so that a test can do something to its processes."""

    def __init__(self, home):
        self.home, self.problem, self.seconds = home, None, 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        began = time.monotonic()
        try:
            ranks.run(models.find(), 2)
        except WorkshopError as problem:
            self.problem = problem
        self.seconds = time.monotonic() - began

    def processes(self):
        return [p for p in started_by(str(self.home)) if _is_rank(p)]

    def both_met(self):
        """The ranks, once they have begun to work together."""
        logs = list((self.home / "runs").glob("*/log.txt"))
        return self.processes() if logs and "@progress 1/6" in logs[0].read_text() else None

    def end(self):
        self._thread.join(120)
        assert not self._thread.is_alive(), "the run did not end"
        return str(self.problem)


def test_a_rank_killed_in_mid_run_ends_the_run_with_one_sentence_and_leaves_nothing(own_home):
    run = Running(own_home)
    found = until(run.both_met, 60, "two ranks at work")
    everything = started_by(str(own_home))
    assert len(found) == 2
    found[1].send_signal(signal.SIGKILL)
    told = run.end()
    assert "Nothing half-made is left" in told and "one rank was killed" in told.lower()
    until(lambda: not [p for p in everything if runs(p.pid)], 5, "the end of every process")
    assert not list((own_home / "splits").rglob("split.json"))


def test_a_rank_that_hangs_is_ended_at_the_time_limit_and_explained(own_home, monkeypatch):
    monkeypatch.setattr(ranks, "TIME_LIMIT", 30.0)
    run = Running(own_home)
    second = until(lambda: [p for p in run.processes() if p.environ().get("RANK") == "1"], 60, "rank 1")
    everything = started_by(str(own_home))
    second[0].send_signal(signal.SIGSTOP)  # before it has imported torch: rank 0 waits for it
    told = run.end()
    assert "ran longer than its limit of 30 s" in told and "Nothing half-made is left" in told
    assert "Cause: The ranks never finished an exchange" in told and "NCCL_P2P_DISABLE=1" in told
    assert run.seconds < 60
    until(lambda: not [p for p in everything if runs(p.pid)], 5, "the end of every process")
