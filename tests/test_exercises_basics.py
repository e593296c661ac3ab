"""The exercises of notebooks 00 to 04: right answers, known wrong turns told apart, and answers that are none."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import exercises, hardware, looks, releases
from helpers.errors import WorkshopError
from helpers.exercises import (
    asked,
    check_engine_gb,
    check_fault,
    check_gpus_for_8b,
    check_new_engine,
    check_one_user,
    check_release,
    check_rounded,
    check_scaling_factor,
    check_step_limits,
    check_tokens,
    check_told_apart,
    check_weight_gb,
    check_without_fp8,
)
from helpers.toolchains.generation import Generation

ROOT = Path(__file__).resolve().parent.parent

RANGES = [
    {"module": "layers.0.fc", "quantizer": "input", "amax": 7.0},
    {"module": "layers.1.proj", "quantizer": "input", "amax": 56.0},
    {"module": "layers.1.proj", "quantizer": "weight", "amax": 90.0},
]
SMALL = SimpleNamespace(ranges=RANGES, largest=448.0)


def scores() -> dict[str, np.ndarray]:
    """Three models beside the first: a little worse for certain, a little worse perhaps, and much worse."""
    chance = np.random.default_rng(7)
    first = chance.exponential(3, 4000)
    worse = {"FP8 (E4M3)": (0.005, 0.02), "INT8 SmoothQuant": (0.0, 0.5), "INT4 AWQ": (0.1, 0.2)}
    noise = {name: chance.normal(0, width, first.size) for name, (_, width) in worse.items()}
    # Without a mean of its own the noise of the middle one would decide by luck.
    return {"FP16": first, **{name: first + worse[name][0] + one - one.mean() for name, one in noise.items()}}


def wrote(tokens: int, ended: str, ignored_eos: bool = False) -> Generation:
    return Generation("a prompt", "a text", tokens, 0.1, 0.01, 0.5, "FP16", ended, ignored_eos)


LIMIT, ENDED = "the limit of {} tokens", "its end-of-sequence token"
STARTS = {
    check_weight_gb: (),
    check_gpus_for_8b: (),
    check_without_fp8: (),
    check_step_limits: (),
    check_one_user: (),
    check_release: (),
    check_fault: (),
    check_engine_gb: (),
    check_tokens: (),
    check_new_engine: (),
    check_rounded: (),
    check_scaling_factor: (SMALL,),
    check_told_apart: (scores(),),
}
RIGHT = {
    check_weight_gb: (35,),
    check_gpus_for_8b: (["l4", "A10G"],),
    check_without_fp8: ("a10g",),
    check_step_limits: ("memory", "memory", "arithmetic"),
    check_one_user: (418.75,),
    check_release: ("1.0.0",),
    check_fault: ("torch",),
    check_engine_gb: (16.06,),
    check_tokens: (wrote(50, LIMIT.format(50), ignored_eos=True),),
    check_new_engine: ("gpu, max_seq_len, max_batch_size",),
    check_rounded: (22,),
    check_scaling_factor: (0.125,),
    check_told_apart: (["fp8", "INT4 AWQ"],),
}
WRONG = [
    (check_weight_gb, (280,), "Those are gigabits"),
    (check_weight_gb, (140,), "That is the size at FP16"),
    (check_weight_gb, (70,), "That is one byte"),
    (check_weight_gb, (20,), "too small, by a factor of 1.8"),
    (check_weight_gb, (35e9,), "Those are bytes"),
    (check_weight_gb, (32.6,), "That counts in GiB"),
    (check_gpus_for_8b, (["v100", "a10g", "l4"],), "it is a Volta, for which TensorRT-LLM has no kernels"),
    (check_gpus_for_8b, ("a10g, l4, h100-mig-2g.20gb",), "4 GB are left beside the weights, too few."),
    (check_gpus_for_8b, (["l4"],), "The A10G has 24 GB: 8 GB are left beside the weights, enough."),
    (check_without_fp8, ("l4",), "Ada Lovelace (compute capability 8.9), which has FP8"),
    (check_without_fp8, ("h200",), "Hopper (compute capability 9.0), which has FP8"),
    (check_step_limits, ("memory", "arithmetic", "arithmetic"), "A step of 32 tokens reads all weights"),
    (check_step_limits, ("memory", "memory", "memory"), "A step of 1,024 tokens uses each weight 1,024 times"),
    (check_one_user, (209,), "That is for FP16"),
    (check_one_user, (2.39,), "Those are milliseconds"),
    (check_one_user, (123_700,), "That is what the arithmetic allows"),
    (check_release, ("1.2.1",), "1.2.1 is built for CUDA 13.1 and needs driver 580 or newer"),
    (check_release, ("0.21.0",), "The workshop does not offer it: 1.0.0 runs with the same drivers"),
    (check_fault, ("driver",), "CUDA driver version is insufficient"),
    (check_fault, ("mpi",), "the system's MPI library is missing"),
    (check_engine_gb, (8,), "That is one byte for each weight"),
    (check_engine_gb, (32,), "FP32"),
    (check_engine_gb, (14.96,), "That counts in GiB"),
    (check_tokens, (wrote(50, LIMIT.format(50)),), "after another prompt the model may end sooner"),
    (check_tokens, (wrote(12, LIMIT.format(12)),), "max_tokens is too small by 38"),
    (check_tokens, (wrote(30, ENDED),), "The model ended by itself after 30 tokens"),
    (check_tokens, (wrote(96, LIMIT.format(96)),), "46 too many: set max_tokens to 50"),
    (check_new_engine, (["max_tokens", "max_batch_size", "max_seq_len", "gpu"],), "max_tokens needs no build"),
    (check_new_engine, (["gpu"],), "max_batch_size needs a build: it is an option of trtllm-build"),
    (check_new_engine, (["max_batch_size", "max_seq_len"],), "gpu needs a build: kernels are compiled"),
    (check_rounded, (21,), "That is INT8's answer"),
    (check_rounded, (20,), "E4M3 has 20, but 22 is nearer"),
    (check_rounded, (16,), "the power of two below"),
    (check_rounded, (21.3,), "E4M3 cannot hold it"),
    (check_scaling_factor, (SMALL, 8), "That is upside down"),
    (check_scaling_factor, (SMALL, 56 / 127), "You divided by 127, the largest value of another format"),
    (check_scaling_factor, (SMALL, 56), "That is the range itself"),
    (check_told_apart, (scores(), []), "FP8 (E4M3) can be told apart"),
    (check_told_apart, (scores(), ["fp8", "int8", "int4"]), "INT8 SmoothQuant cannot be told apart"),
    (check_engine_gb, (16.06e9,), "Those are bytes"),
]
NO_ANSWER = [
    (check_weight_gb, ("35 GB",), "That is no number of GB above 0. Give one without quotes, the digits alone."),
    (check_rounded, (-1,), "That is no number above 0. Give one."),
    (check_gpus_for_8b, (["h100"],), "There is no 'h100' to choose here. Choose from t4, v100"),
    (check_without_fp8, (["l4", "a10g"],), "Choose exactly one of a10g, l4, h200; 2 were given"),
    (check_step_limits, ("memory", "both", "arithmetic"), "'both' is neither"),
    (check_release, ("2.0",), "There is no '2.0' to choose here"),
    (check_tokens, ("a text",), "That is not what toolchain.generate returns"),
    (check_told_apart, (scores(), ["int"]), "There is no 'int' to choose here"),
]


@pytest.mark.parametrize("check", STARTS)
def test_unanswered_they_say_where_to_begin(check):
    card = check(*STARTS[check])
    assert card.note.startswith("Not answered yet: ")
    assert "Right" not in str(card)
    assert check.__name__ in exercises.__all__


@pytest.mark.parametrize("check", RIGHT)
def test_right_answers_are_told_with_their_reason(check):
    note = check(*STARTS[check], *RIGHT[check]).note
    assert note.startswith("Right. ")
    assert len(note) > len("Right. ") + 15


@pytest.mark.parametrize(("check", "answer", "told"), WRONG)
def test_wrong_answers_are_told_by_their_mistake(check, answer, told):
    note = check(*answer).note
    assert told in note
    assert not note.startswith("Right")


def test_each_check_tells_two_wrong_answers_apart():
    for check in STARTS:
        told = {one.note for one in (other(*answer) for other, answer, _ in WRONG if other is check)}
        assert len(told) >= 2, check.__name__


@pytest.mark.parametrize(("check", "answer", "told"), NO_ANSWER)
def test_what_is_no_answer_has_a_sign_of_its_own_and_no_verdict(check, answer, told):
    card = check(*answer)
    assert card.note.startswith("Not judged. ") and told in card.note
    assert "○ Not judged. " in str(card) and "Solution" not in str(card)


def test_only_a_wrong_answer_leads_to_the_solution():
    wrong = check_weight_gb(70)
    assert wrong.links == {"Solution": "solutions/00_start_here.ipynb"}
    assert "href='solutions/00_start_here.ipynb'" in wrong._repr_html_()
    assert check_weight_gb().links == check_weight_gb(35).links == {}
    assert wrong.kind == check_weight_gb().kind == check_weight_gb(35).kind == looks.ASKED


def test_the_ways_to_the_solutions_exist():
    for name in exercises.__all__:
        file = inspect.unwrap(getattr(exercises, name)).__module__.rpartition(".")[2]
        if name.startswith("check_"):
            linked = re.search(
                r'@asked_in\("(\w+)"\)\ndef ' + name, (ROOT / "helpers/exercises" / f"{file}.py").read_text()
            )
            assert linked is not None, name
            assert f"exercises.{name}(" in (ROOT / "notebooks/solutions" / f"{linked[1]}.ipynb").read_text()


def test_solutions_that_run_do_not_lead_to_themselves(monkeypatch):
    monkeypatch.setattr(asked, "_hidden", False)
    asked.hide_solutions()
    assert check_weight_gb(70).links == {}


def test_a_limit_may_be_called_as_the_table_or_the_prose_calls_it():
    assert check_step_limits("memory-bound", "Memory", "compute").note.startswith("Right. ")
    assert check_step_limits("memory", "memory", "compute-bound").note.startswith("Right. ")


def test_numbers_have_their_unit_and_names_their_spelling():
    assert check_rounded(22).facts == {"your answer": "22", "computed": "22"}
    assert check_told_apart(scores(), ["fp8", "int4"]).facts["your answer"] == "FP8 (E4M3), INT4 AWQ"
    assert check_release("0.21.0").note.endswith(".")


def test_every_check_works_without_an_answer():
    for check in STARTS:
        given = len(STARTS[check])
        assert all(one.default is None for one in list(inspect.signature(check).parameters.values())[given:])


def test_the_right_answers_follow_from_the_tables():
    sheet = hardware.by_key("rtx-4090")
    assert releases.choose(sheet.compute_capability, sheet.name, "550.54.15").release.version == RIGHT[check_release][0]
    fast = hardware.by_key("h100")
    assert check_one_user(fast.bandwidth / 8e9).note.startswith("Right. ")


def test_numbers_of_numpy_are_numbers():
    from helpers import precision

    assert check_rounded(precision.round_to([21.3], "e4m3", scale=1)[0]).note.startswith("Right. ")
    assert check_weight_gb(np.int64(35)).note.startswith("Right. ")
    assert "no number" in check_weight_gb(True).note
    assert "no number" in check_weight_gb(10**400).note


def test_int8_ranges_are_divided_by_127():
    int8 = SimpleNamespace(ranges=RANGES, largest=127.0)
    assert check_scaling_factor(int8, 56 / 127).note.startswith("Right. ")
    assert "448" in check_scaling_factor(int8, 56 / 448).note


def test_one_model_cannot_be_told_apart_from_itself():
    with pytest.raises(WorkshopError, match="Two models or more"):
        check_told_apart({"FP16": np.ones(3)})


def test_a_text_with_commas_is_a_list_and_titles_with_commas_stay_whole():
    assert check_gpus_for_8b("l4,a10g").note == check_gpus_for_8b(("l4", "a10g")).note
    first, worse = np.linspace(1, 2, 50), np.linspace(1, 2, 50) + np.linspace(0.1, 0.2, 50)
    assert check_told_apart({"FP16": first, "INT8, per channel": worse}, ["INT8, per channel"]).note.startswith("Right")
