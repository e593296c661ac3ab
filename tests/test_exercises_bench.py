"""The exercises of notebook 08: they hint unanswered, tell right answers with numbers, and name each wrong turn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import exercises
from helpers.bench.load import Lengths, Load
from helpers.bench.results import result
from helpers.bench.results.result import Result, Sweep
from helpers.errors import WorkshopError
from helpers.exercises import check_concurrency, check_cost, check_tpot, tpot_request
from tests.bench_folders import failed, steady, whole, write

LOAD = Load(concurrency=2, input_tokens=Lengths(20, 20), output_tokens=Lengths(11, 11))


@pytest.fixture
def mine(tmp_path: Path) -> Result:
    """40 answers of 11 tokens: the first after 50 ms, one every 10 ms, two tokens an event."""
    run = steady(1, 40)
    return result.read(write(tmp_path / "mine", LOAD, [replace(run, rows=[replace(r, events=6) for r in run.rows])]))


def sweep(folder: Path, **users: tuple[float, float, float, float]) -> Sweep:
    """Loads ``c1=(gap, ttft, gap of the slowest two, ttft of the latest two)``, 20 answers each."""
    results = []
    for name, (gap, ttft, slow, late) in users.items():
        c = int(name[1:])
        made = [whole(i, 1.0 * i, late if i >= 18 else ttft, slow if i >= 18 else gap) for i in range(20)]
        load = LOAD.with_(concurrency=c)
        results.append(result.read(write(folder / name, load, [replace(steady(1), rows=made)])))
    return Sweep(results)


def test_unanswered_they_give_a_hint_and_no_verdict(mine: Result) -> None:
    for card in (check_tpot(mine), check_concurrency([mine]), check_cost(mine, 0.6)):
        assert card.note.startswith("Not answered yet: ") and "Right" not in str(card)
    assert "row = exercises.tpot_request(alone) gives the row" in check_tpot(mine).note
    assert "rows count from 0" in check_tpot(mine).note
    assert "fp16.at(2).value('output_rate')" in check_cost(mine, 0.6).note
    assert {"check_tpot", "check_concurrency", "check_cost", "tpot_request"} <= set(exercises.__all__)


# --- Time per output token --------------------------------------------------------


def test_the_time_per_token_is_that_between_the_first_and_the_last(mine: Result) -> None:
    row = tpot_request(mine)
    assert not row.first_wave and row.first_token is not None and row.last_token is not None
    card = check_tpot(mine, 1000 * (row.last_token - row.first_token) / 10)
    assert card.note.startswith("Right. ") and card.note.endswith("so this user read 100 tokens/s after the first.")
    assert card.facts["tokens, as the server counted"] == "11" and card.facts["events with text"] == "6"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (100 / 11, "You divided by all 11 tokens. Between them are 10 steps."),
        (150 / 10, "the wait for the first token is in it"),
        (150 / 11, "You divided the whole answer's time by its 11 tokens"),
        (100 / 5, "You counted events of the stream"),
        (100 / 6, "You counted events of the stream"),
        (0.01, "It looks like seconds"),
        (100, "That is the inverse|That is the time of all tokens"),
        (11.1, "That is too large, by a factor of 1.1. TPOT is the time from the first token to the last"),
        (9.8, "That is too small, by 2.0%."),
        (0, "That is no number of ms above 0"),
        ("10", "That is no number of ms above 0"),
        (float("nan"), "That is no number of ms above 0"),
    ],
)
def test_a_wrong_time_is_told_by_its_mistake(mine: Result, answer: float, told: str) -> None:
    card = check_tpot(mine, answer)
    assert any(one in card.note for one in told.split("|")) and "Right" not in card.note
    assert "= 10 ms" not in str(card)


def test_dividing_by_all_tokens_does_not_pass_for_rounding_in_a_long_answer(tmp_path: Path) -> None:
    rows = [whole(0, 0.0, tokens=1000)]
    long = result.read(write(tmp_path, LOAD, [replace(steady(1), rows=rows)]))
    assert "You divided by all 1,000 tokens" in check_tpot(long, 9.99).note
    assert check_tpot(long, 10.0).note.startswith("Right. ")


def test_a_result_without_a_counted_answer_has_no_time(tmp_path: Path) -> None:
    bad = result.read(write(tmp_path, LOAD, [replace(steady(1), rows=[failed(0, 0.0, "timeout")])]))
    with pytest.raises(WorkshopError, match="no whole answer of two counted tokens"):
        check_tpot(bad, 1.0)
    with pytest.raises(WorkshopError, match="no output tokens a second"):
        check_cost(bad, 1.0)


# --- The largest load -------------------------------------------------------------

FINE = (0.01, 0.05, 0.01, 0.05)
READINGS = {
    "medians": (0.01, 0.05, 0.05, 0.3),  # the slowest two get 20 tokens/s, the latest two wait 300 ms
    "late": (0.01, 0.3, 0.01, 0.3),
    "slow": (0.05, 0.05, 0.05, 0.05),
}


def test_the_largest_load_that_will_do_is_right(tmp_path: Path) -> None:
    measured = sweep(tmp_path, c1=FINE, c8=FINE, c32=READINGS["slow"])
    card = check_concurrency(measured, 8)
    assert card.note.startswith("Right. Concurrency 8 is the largest measured load that gives at least 30 tokens/s")
    assert check_concurrency(measured, 8, per_user=200).note.startswith("Not right. ")
    assert check_concurrency(measured, 0, per_user=200).note.startswith("Right. No measured load gives")


@pytest.mark.parametrize(
    ("reading", "answer", "told"),
    [
        ("medians", 32, "You took the medians: half of the requests fare worse"),
        ("late", 32, "You looked at the tokens/s only. Its first tokens come too late."),
        ("slow", 32, "You looked at TTFT only. Its users get too few tokens/s."),
        ("slow", 1, "A larger one will do: go on from 1"),
        ("slow", 0, "At least one of them will do: begin with the smallest."),
        ("slow", 16, "That was not measured. Give one of 1, 8, 32, or 0"),
        ("slow", True, "That was not measured."),
    ],
)
def test_a_wrong_load_is_told_by_the_reading_that_leads_to_it(
    tmp_path: Path, reading: str, answer: int, told: str
) -> None:
    measured = sweep(tmp_path, c1=FINE, c8=FINE, c32=READINGS[reading])
    assert told in check_concurrency(measured, answer).note


def test_one_too_far_is_told(tmp_path: Path) -> None:
    bad = (0.5, 0.9, 0.5, 0.9)
    measured = sweep(tmp_path, c1=FINE, c8=bad, c32=bad)
    assert "One too far: it is the first that will not do." in check_concurrency(measured, 8).note
    assert "There 95 % get 2 tokens/s or more, and wait up to 900 ms." in check_concurrency(measured, 32).note


@pytest.mark.parametrize("answers", [8, 16])
def test_a_load_that_is_not_told_gets_no_verdict(tmp_path: Path, answers: int) -> None:
    few = result.read(write(tmp_path / "few", LOAD.with_(concurrency=32), [steady(1, answers)]))
    measured = Sweep([*sweep(tmp_path, c1=FINE, c8=FINE), few])
    card = check_concurrency(measured, 8)
    assert card.note.startswith(f"Not judged. Of concurrency 32 it cannot be told: {answers} answers a run are too few")
    assert card.note.endswith("Measure with at least 20 requests a run.")
    # What lies below a load that will do decides nothing.
    below = Sweep([few, *sweep(tmp_path / "more", c64=FINE)])
    assert check_concurrency(below, 64).note.startswith("Right. ")


# --- What a token costs -----------------------------------------------------------


def test_the_price_of_a_million_tokens_comes_from_price_and_rate(mine: Result) -> None:
    rate = mine.value("output_rate")
    assert rate is not None
    card = check_cost(mine, 0.6, 0.6 / 3600 / rate * 1e6, busy=1)
    assert card.note.startswith("Right. ") and "with the machine always busy" in card.note
    card = check_cost(mine, 0.6, 0.6 / 900 / rate * 1e6, busy=0.25)
    assert card.note.startswith("Right. ") and "idle time paid as well" in card.note
    assert card.title.startswith("A machine for $0.60 an hour gives") and "25% of the time" in card.title
    assert check_cost(mine, 0.6, currency="EUR").title.startswith("A machine for 0.60 EUR an hour")


Answer = Callable[[Result, float], float]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda mine, right: right / 2, "That is the price with the machine busy all the time"),
        (lambda mine, right: right / 4, "You paid for the busy part of the hour only"),
        (lambda mine, right: right * 3600, "You took the price of an hour for that of a second"),
        (lambda mine, right: right * 60, "You multiplied by 60 once"),
        (lambda mine, right: right / 1000, "That is the price of a thousand tokens"),
        (lambda mine, right: right / 1e6, "That is the price of one token"),
        (lambda mine, right: 1 / right, "That is the inverse"),
        (
            lambda mine, right: right * mine.value("output_rate") / mine.value("total_rate"),
            "the tokens of the prompts too",
        ),
        (lambda mine, right: right * mine.value("output_rate") / mine.value("per_user_p50"), "the rate of one user"),
        (lambda mine, right: right * mine.value("output_rate") / mine.value("request_rate"), "Asked are tokens"),
        (lambda mine, right: right * 1.5, "too large, by a factor of 1.5. Start here: how many tokens"),
    ],
)
def test_a_wrong_price_is_told_by_its_mistake(mine: Result, answer: Answer, told: str) -> None:
    rate = mine.value("output_rate")
    assert rate is not None
    card = check_cost(mine, 0.6, answer(mine, 0.6 / 1800 / rate * 1e6))
    assert card.note.startswith("Not right. ") and told in card.note


@pytest.mark.parametrize("price", [0, -1, True, "1"])
def test_a_price_that_is_none_is_refused(mine: Result, price: float) -> None:
    with pytest.raises(WorkshopError, match="Give what an hour of the machine costs"):
        check_cost(mine, price)


@pytest.mark.parametrize("busy", [0, 1.1, True, "1"])
def test_a_share_that_is_none_is_refused(mine: Result, busy: float) -> None:
    with pytest.raises(WorkshopError, match="Give the share of the hour with load"):
        check_cost(mine, 0.6, busy=busy)
