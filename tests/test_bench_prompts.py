"""The prompts of a load: as long as asked, never alike, the same for the same seed; and files of prompts."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from helpers.bench.generator import prompts
from helpers.bench.generator.prompts import Prompt, Source, body
from helpers.bench.load import CHAT, Load
from helpers.errors import WorkshopError
from helpers.serving.app.protocol import ChatCompletionRequest, CompletionRequest, parsed
from helpers.serving.app.text import Text
from helpers.workspace import DATA

MODEL = DATA / "model"
TEXT = Text(MODEL)
WORDS = [word for line in prompts.WORDS.read_text().splitlines() if line[0] != "#" for word in line.split()]


def server(api: str = "completions") -> Callable[[str], int]:
    """How many tokens the bundled server counts for a text."""
    if api == CHAT:
        return lambda text: len(TEXT.encode(TEXT.chat([{"role": "user", "content": text}]), False))
    return lambda text: len(TEXT.encode(text))


def calibrated(load: Load, tokenizer: Path | None = None) -> Source:
    source = Source(load, tokenizer)
    if source.needs_calibration:
        source.calibrate(server(load.api))
    return source


# --- Length ---------------------------------------------------------------------


@pytest.mark.parametrize("api", ["completions", CHAT])
@pytest.mark.parametrize("tokenizer", [MODEL, MODEL / "tokenizer.json", None])
def test_prompts_have_exactly_the_tokens_that_were_asked_for(api: str, tokenizer: Path | None) -> None:
    source = calibrated(Load(input_tokens=150, api=api), tokenizer)
    made = list(source.take(1, 40))
    assert {server(api)(str(one.content)) for one in made} == {150}
    assert {one.tokens for one in made} == ({150} if tokenizer else {None})
    assert source.exact == (tokenizer is not None) and source.notes(0) == []


def test_lengths_in_a_range_are_drawn_evenly_and_kept() -> None:
    source = calibrated(Load(input_tokens="20-60", output_tokens="5-9"), MODEL)
    made = list(source.take(1, 400))
    assert all(server()(str(one.content)) == one.tokens for one in made)
    assert {one.tokens for one in made} == set(range(20, 61)) and {one.max_tokens for one in made} == set(range(5, 10))


def test_a_prompt_shorter_than_what_the_server_adds_has_one_word_and_tells_its_length() -> None:
    (one,) = calibrated(Load(input_tokens=1), MODEL).take(1, 1)
    assert len(str(one.content).split()) == 1 and one.tokens == server()(str(one.content)) == 2


def letters(place: Path) -> Path:
    """A tokenizer without words: each letter is a token."""
    signs = " abcdefghijklmnopqrstuvwxyzT"
    Tokenizer(models.BPE({sign: i for i, sign in enumerate(signs)}, [])).save(str(place))
    return place


def test_where_words_are_not_tokens_the_length_is_as_near_as_words_can_come(tmp_path: Path) -> None:
    file = letters(tmp_path / "letters.json")
    source, read = Source(Load(input_tokens=500), file), Tokenizer.from_file(str(file))
    for one in source.take(1, 20):
        assert one.tokens == len(read.encode(one.content).ids) and abs(one.tokens - 500) <= 10
    assert not source.exact


def test_a_server_that_adds_tokens_is_learnt_from_its_own_counts() -> None:
    source = Source(Load(input_tokens=300))
    asked: list[str] = []

    def count(text: str) -> int:
        asked.append(text)
        return 25 + 2 * len(text.split())

    source.calibrate(count)
    assert len(asked) == 3 and max(len(text.split()) for text in asked) <= 225
    assert {25 + 2 * len(str(one.content).split()) for one in source.take(1, 9)} <= {299, 300, 301}


@pytest.mark.parametrize(("tokenizer", "told"), [(None, "only roughly as long"), (MODEL, "chat template come on top")])
def test_a_server_that_counts_nothing_is_told_of(tokenizer: Path | None, told: str) -> None:
    source = Source(Load(input_tokens=130, api=CHAT), tokenizer)
    source.calibrate(lambda _: None)
    (one,) = source.take(1, 1)
    assert 90 <= len(str(one.content).split()) <= 130 and one.tokens is None
    assert not source.exact and told in source.notes(9)[0]


# --- Which prompts --------------------------------------------------------------


def contents(load: Load, run: int, count: int = 300) -> list[str]:
    return [str(one.content) for one in Source(load, MODEL, opening=7).take(run, count)]


def test_the_same_load_and_opening_send_the_same_prompts() -> None:
    load = Load(input_tokens="20-40", output_tokens="3-90")
    first = Source(load, MODEL)
    assert list(first.take(2, 50)) == list(Source(load, MODEL, first.opening).take(2, 50))


def test_the_same_load_sent_again_is_as_long_and_begins_otherwise() -> None:
    load = Load(input_tokens="20-40", output_tokens="3-90")
    first, again = (list(Source(load, MODEL).take(1, 200)) for _ in range(2))
    assert [(one.tokens, one.max_tokens) for one in first] == [(one.tokens, one.max_tokens) for one in again]
    begins = [{tuple(str(one.content).split()[:4]) for one in made} for made in (first, again)]
    assert not begins[0] & begins[1], "a server with these in its cache would look faster than it is"


def test_another_seed_run_or_load_sends_others() -> None:
    load = Load(concurrency=8, input_tokens=40)
    others = [(load, 0), (load, 1), (load, 2), (load.with_(seed=1), 1), (load.with_(concurrency=16), 1)]
    starts = [{" ".join(text.split()[:8]) for text in contents(*one)} for one in others]
    assert all(len(one) == 300 for one in starts) and len(set.union(*starts)) == 5 * 300


def test_no_prompt_begins_as_another_of_the_load_does() -> None:
    texts = [text for run in range(4) for text in contents(Load(input_tokens=12), run, 2000)]
    assert len({tuple(text.split()[:4]) for text in texts}) == len(texts) == 8000
    assert len({text.split()[0] for text in texts[: len(WORDS)]}) == len(WORDS) > 200


def test_prompts_are_plain_words_that_are_one_token_each() -> None:
    assert {word for text in contents(Load(input_tokens=60), 1) for word in text.split()} <= set(WORDS)
    assert all(word.isalpha() and word.islower() for word in WORDS) and len(set(WORDS)) == len(WORDS)
    assert [word for word in WORDS if len(TEXT.encode(f" {word}", False)) != 1] == []


def test_the_source_has_no_end_where_no_number_is_given() -> None:
    assert len(list(islice(Source(Load(), MODEL).take(1), 1000))) == 1000
    assert list(Source(Load(), MODEL).take(1, 0)) == []


# --- Bodies ---------------------------------------------------------------------


@pytest.mark.parametrize("api", ["completions", CHAT])
def test_a_body_is_one_that_the_server_takes(api: str) -> None:
    load = Load(api=api, output_tokens=7, extra={"temperature": 0.5, "top_p": 0.9})
    kind = ChatCompletionRequest if api == CHAT else CompletionRequest
    asked = parsed(kind, body(Prompt("Ünïcode “text”", None, 7), "tiny", load))
    assert asked.asked_tokens == 7 and asked.stream and asked.ignore_eos and asked.model == "tiny"
    assert asked.stream_options is not None and asked.stream_options.include_usage
    assert (asked.temperature, asked.top_p) == (0.5, 0.9)
    assert "Ünïcode “text”" in (asked.messages[0].text if api == CHAT else asked.prompt)


def test_a_model_that_nobody_knows_is_left_out() -> None:
    assert "model" not in json.loads(body(Prompt("a", None, 1), None, Load()))


# --- Files ----------------------------------------------------------------------


def file_of(place: Path, *lines: object) -> Load:
    """A load whose prompts are these lines."""
    text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
    (place / "prompts.jsonl").write_text(text, encoding="utf-8")
    return Load(prompts=str(place / "prompts.jsonl"), output_tokens=9)


def test_the_prompts_of_a_file_come_in_order_with_their_own_lengths(tmp_path: Path) -> None:
    load = file_of(tmp_path, {"prompt": "one", "max_tokens": 3, "id": 7}, "", {"prompt": "two"})
    source = Source(load)
    assert not source.needs_calibration and not source.exact
    assert list(source.take(0, 2)) == [Prompt("one", None, 3), Prompt("two", None, 9)]
    assert source.notes(0) == []
    assert [one.content for one in source.take(1, 3)] == ["one", "two", "one"]
    assert "The file has 2 prompts and 5 requests were made, so some were sent again" in source.notes(5)[0]
    assert source.notes(2) == [], "written out is not sent"


def test_a_file_may_have_whole_conversations(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    load = file_of(tmp_path, {"messages": talk}, {"prompt": "Hello"}).with_(api=CHAT)
    first, second = Source(load).take(1, 2)
    assert json.loads(body(first, "m", load))["messages"] == talk
    assert json.loads(body(second, "m", load))["messages"] == talk[1:]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 2 is not JSON: "),
        ("[1]", "line 2 is a list, not a JSON object"),
        ({"text": "a", "n": 1}, "line 2 has 'text', 'n'. Give 'prompt' or 'messages', one of them."),
        ({}, "line 2 has no fields. Give 'prompt' or 'messages'"),
        ({"prompt": "a", "messages": []}, "line 2 has 'prompt', 'messages'. Give"),
        ({"prompt": ""}, "line 2: the prompt is no text, or an empty one"),
        ({"prompt": [1, 2]}, "line 2: the prompt is no text"),
        ({"prompt": "a", "max_tokens": 0}, "line 2: max_tokens is 0. Give a whole number"),
        ({"prompt": "a", "max_tokens": True}, "line 2: max_tokens is True"),
        ({"messages": [{"role": "user", "content": "a"}]}, "this load asks for completions. Send it as a chat"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: object, told: str) -> None:
    load = file_of(tmp_path, {"prompt": "fine"}, line)
    with pytest.raises(WorkshopError) as problem:
        Source(load)
    assert told in str(problem.value)


@pytest.mark.parametrize("messages", [[], "Hello", [{"role": "user"}], [{"content": "a"}], ["a"]])
def test_messages_that_are_no_conversation_are_refused(tmp_path: Path, messages: object) -> None:
    with pytest.raises(WorkshopError, match=r"line 1: messages must be a list of objects"):
        Source(file_of(tmp_path, {"messages": messages}).with_(api=CHAT))


def test_a_file_without_prompts_or_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(WorkshopError, match=r"has no prompts\. Write one JSON object a line"):
        Source(file_of(tmp_path, " "))
    with pytest.raises(WorkshopError, match="cannot be read: No such file"):
        Source(Load(prompts=str(tmp_path / "none.jsonl")))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WorkshopError, match="it is not UTF-8 text"):
        Source(Load(prompts=str(tmp_path / "binary")))


def test_a_tokenizer_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(WorkshopError, match=r"There is no tokenizer at .*tokenizer\.json\. Give"):
        Source(Load(), tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WorkshopError, match="is not a tokenizer that the tokenizers package can read"):
        Source(Load(), tmp_path)


def test_importing_it_brings_nothing_heavy() -> None:
    code = "import sys, helpers.bench.generator.prompts; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {
        "numpy",
        "pandas",
        "tokenizers",
        "httpx",
        "openai",
        "pydantic",
        "matplotlib",
        "helpers.workspace",
    }
