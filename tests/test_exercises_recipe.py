"""The exercises of notebook 07: they hint unanswered, tell right answers with numbers, and say what is wrong."""

import pytest

from helpers import exercises, recipe
from helpers.exercises import check_recipe_change, check_request, check_talk_recipe
from helpers.exercises.recipe import REQUEST
from helpers.recipe import rules
from helpers.recipe.diff import diff

CHECKS = (check_recipe_change, check_talk_recipe, check_request)


@pytest.mark.parametrize("check", CHECKS)
def test_unanswered_they_give_a_hint_and_no_verdict(check):
    card = check()
    assert card.note.startswith("Not answered yet: ")
    assert "Right" not in str(card)
    assert check.__name__ in exercises.__all__
    assert "Not answered yet" in card._repr_html_()


# --- What a change redoes ------------------------------------------------------------

BEFORE = recipe.load("tinyllama-fp8-rtx-4090")


def redone(kind="title"):
    """What the comparison of the two recipes itself says."""
    found = diff(BEFORE, BEFORE.changed(max_batch_size=128))
    return [getattr(stage.step, kind) for stage in found.stages if stage.redone]


def test_the_stages_of_a_larger_batch_are_those_of_the_comparison():
    assert redone("kind") == ["engine", "serve"]
    card = check_recipe_change(redone())
    assert card.note == (
        "Right. Done again: the build. The server starts again too, as it reads the new engine. "
        "Kept: installation, download, quantization."
    )
    assert "--max_batch_size" in card.facts["build"]


def test_names_are_taken_in_any_order_case_and_container():
    for answer in (set(redone()), "Server, BUILD", tuple(redone("kind")), ["serve", "build", "build"], "build"):
        assert check_recipe_change(answer).note.startswith("Right. Done again: the build. ")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (["server"], "The build is done again too: its command changes: --max_batch_size."),
        (["build", "server", "quantization"], "quantization is kept: its command and its inputs do not change."),
        (["build", "download"], "The download is kept: its command and its inputs do not change."),
        ([], "The build is done again too: its command changes"),
        (["compile"], "There is no stage 'compile' here. The stages are installation, download, quantization, build"),
        (7, "There is no stage '7' here."),
    ],
)
def test_a_wrong_stage_is_told_with_its_reason(answer, told):
    card = check_recipe_change(answer)
    assert told in card.note
    assert "Right" not in card.note


# --- Lengths -------------------------------------------------------------------------

TALK = recipe.load("tinyllama-int8-a10g-talk")


def planned(*lengths):
    """The planner's own answer for 512 requests of these lengths."""
    return rules.fit(TALK.changed(max_batch_size=512, max_input_len=lengths[0], max_output_len=lengths[1])).requests


@pytest.mark.parametrize("lengths", [(1000, 100), (1000, 400), (1250, 150), (1300, 100)])
def test_several_lengths_are_right_and_told_with_the_planners_number(lengths):
    card = check_talk_recipe(*lengths)
    assert card.note.startswith("Right. predicted: all 512 fit at full length.")
    assert card.facts["predicted: requests that fit"] == f"{planned(*lengths):,} at full length, and 512 are asked for"
    assert f"{2048 - sum(lengths):,} of the 2,048 positions are not used" in card.note


def test_memory_binds_and_not_only_the_positions():
    assert [planned(1000, 1000), planned(1000, 500), planned(1000, 100)] == [366, 491, 659], "as the module says"
    card = check_talk_recipe(1000, 1000)
    assert "2,000 tokens, and the model has 2,048" in card.facts["prompt and answer"]
    assert card.note == "Not yet. 146 of the 512 do not fit: shorter requests leave room for more."


def test_the_title_states_every_condition():
    title = check_talk_recipe().title
    assert all(part in title for part in ("512", "at least 1,000", "at least 100", "2,048 positions", "full length"))


@pytest.mark.parametrize(
    ("lengths", "told"),
    [
        ((2000, 2000), "= 4,000 tokens, and TinyLlama has 2,048 positions"),
        ((1549, 500), "= 2,049 tokens"),
        ((999, 200), "max_input_len is 1 too small"),
        ((1000, 99), "max_output_len is 1 too small"),
        ((100_000, 100_000), "So a prompt has to fit into one step"),
        ((0, 1000), "max_input_len: found 0"),
        (("1000", 1000), "max_input_len: found '1000'"),
        ((True, 1000), "max_input_len: found true"),
        ((2**31 - 1, 2**31 - 1), "not even one fits at full length"),
    ],
)
def test_wrong_lengths_are_told_by_the_rules(lengths, told):
    card = check_talk_recipe(*lengths)
    assert told in card.note
    assert "Right" not in card.note


def test_the_talks_own_lengths_are_not_the_answer():
    assert check_talk_recipe(TALK.max_input_len, TALK.max_output_len).note.startswith("Not yet. ")


# --- A request -----------------------------------------------------------------------

REFUSED = ["max_tokens", "max_new_tokens", "stream_options"]


def test_the_three_refused_fields_are_right_and_the_server_says_why():
    card = check_request(REFUSED)
    assert card.note.startswith("Right. ")
    assert list(card.facts) == ["your answer", *REFUSED]
    assert "max_tokens asks for 4,000; this server takes 2,000" in card.facts["max_tokens"]
    assert card.note.endswith(" model passes: this server does not compare names.")
    assert "at most 2,000 tokens, prompt and answer together" in card.title
    assert "Unknown field 'max_new_tokens'" in card.facts["max_new_tokens"]
    assert "only be set if stream is true" in card.facts["stream_options"]


def test_without_the_refused_fields_the_server_takes_the_rest():
    from helpers.exercises.recipe import _said

    assert _said({name: value for name, value in REQUEST.items() if name not in REFUSED}) == ""
    assert _said(REQUEST) != ""


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([*REFUSED, "ignore_eos"], "ignore_eos is accepted: OpenAI has no such field, but trtllm-serve knows it"),
        ([*REFUSED, "temperature"], "temperature is accepted: it is known, and its value is allowed"),
        (["max_tokens"], "2 more are refused."),
        ("max_tokens, stream_options", "1 more is refused."),
        ([], "3 more are refused."),
        (["top_k"], "The request has no field 'top_k'. It has model, prompt, max_tokens"),
    ],
)
def test_a_wrong_choice_of_fields_is_told_field_by_field(answer, told):
    card = check_request(answer)
    assert told in card.note
    assert "Right" not in card.note


def test_the_request_is_shown_before_it_is_judged():
    assert list(check_request().facts) == list(REQUEST)
