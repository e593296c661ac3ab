"""The CPU server without an engine: what it accepts, how it refuses, and how tokens become text."""

import asyncio
import json
import random
import subprocess
import sys

import pytest
from conftest import ROOT
from pydantic import ValidationError

from helpers.errors import WorkshopError
from helpers.serving.app import answers, protocol
from helpers.serving.app.engine import Engine, Tokens
from helpers.serving.app.metrics import KEPT, Records
from helpers.serving.app.protocol import ChatCompletionRequest, CompletionRequest, parsed
from helpers.serving.app.refusal import Refusal
from helpers.serving.app.text import Decoder, Stops, Text

MODEL = ROOT / "data" / "model"
ASKED = {"model": "m", "prompt": "Once"}
SAID = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def text():
    return Text(MODEL)


def refused(body, kind=CompletionRequest):
    """What a body is refused with."""
    with pytest.raises(Refusal) as caught:
        parsed(kind, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.status == 400
    assert caught.value.content["object"] == "error"
    return caught.value.message


def test_the_server_starts_without_what_starts_servers():
    code = "import sys, helpers.serving.app.__main__; sys.exit('helpers.serving.endpoint' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_missing_temperature_is_not_zero():
    request = parsed(CompletionRequest, json.dumps(ASKED).encode())
    assert request.temperature is None and request.top_p is None


@pytest.mark.parametrize("kind, start", [(CompletionRequest, ASKED), (ChatCompletionRequest, SAID)])
def test_an_unknown_field_is_refused_with_the_nearest_that_is_known(kind, start):
    assert refused({**start, "temprature": 1}, kind) == "Unknown field 'temprature'. Did you mean 'temperature'?"
    assert refused({**start, "zzz": 1}, kind) == "Unknown field 'zzz'."


@pytest.mark.parametrize("prompt", [[-1] * 50_000, [[-1]] * 50_000, [[0, -1]] * 50_000, [0, "x"] * 50_000])
def test_a_list_is_read_up_to_its_first_mistake(prompt):
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate_json(json.dumps({**ASKED, "prompt": prompt}))
    assert caught.value.error_count() < 10, "a million of them would hold up every other client"
    assert refused({**ASKED, "prompt": prompt}).startswith("prompt")


def test_of_very_many_mistakes_three_are_named_and_the_rest_counted():
    said = refused({**ASKED, **{f"field{number}": 1 for number in range(2000)}})
    assert said.startswith("Unknown field 'field0'.") and said.endswith("And 1,997 more.")


def test_an_engine_whose_words_cannot_be_read_is_given_up_and_everyone_is_told():
    async def tell() -> None:
        code = "import sys; sys.stdin.readline(); print('garbage', flush=True); sys.stdin.read()"
        ready = 'print(\'{"ready": {"version": "1"}}\', flush=True); '
        process = subprocess.Popen([sys.executable, "-c", ready + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        engine, tokens = Engine(process, 4, lambda _: None), Tokens()
        await engine.start()
        engine.add(tokens, 0, [1], {})
        with pytest.raises(Refusal, match="cannot be read"):
            await asyncio.wait_for(tokens.take(), 10)
        await asyncio.wait_for(engine.ended.wait(), 10)
        assert engine.died and process.poll() is not None

    asyncio.run(tell())


@pytest.mark.parametrize(
    "change, word",
    [
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"n": 0}, "n:"),
        ({"n": 10**6}, "n:"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": 5}, "a text or a list of texts"),
        ({"prompt": {"a": 1}}, "a list of token ids"),
        ({"prompt": None}, "prompt"),
        ({"stream": "yes"}, "stream"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(change, word):
    assert word in refused({**ASKED, **change})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"model": "m", "prompt": ',
        b'{"model": "m", "prompt": "a", "temperature": NaN}',
        b'{"model": "m", "prompt": "a", "temperature": 1e999}',
        b'{"model": "m", "prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"model": "m", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "m", "prompt": "\\ud800"}',
        b'\xff\xfe{"model": "m"}',
    ],
)
def test_a_body_that_is_no_request_is_refused_in_words(body):
    assert refused(body).endswith(".")
    refused(body, ChatCompletionRequest)


OTHERS = {
    "use_beam_search": True,
    "top_p_min": 0.5,
    "length_penalty": 2.0,
    "early_stopping": True,
    "spaces_between_special_tokens": False,
    "truncate_prompt_tokens": 5,
    "logit_bias": {"5": 1.0},
    "lora_request": {"lora_name": "x"},
    "disaggregated_params": {"request_type": "context_only"},
    "best_of": 3,
    "response_format": {"type": "json_object"},
}
OF_COMPLETIONS = {"logprobs": 2, "suffix": "x", "detokenize": False, "return_context_logits": True}
OF_CHATS = {
    "logprobs": True,
    "tools": [{"type": "function"}],
    "documents": [{"title": "x"}],
    "chat_template": "x",
    "chat_template_kwargs": {"x": 1},
    "prompt_token_ids": [1],
    "echo": True,
    "tool_choice": "auto",
    "top_logprobs": 2,
}


@pytest.mark.parametrize(
    "kind, start, name, value",
    [(CompletionRequest, ASKED, *item) for item in {**OTHERS, **OF_COMPLETIONS}.items()]
    + [(ChatCompletionRequest, SAID, *item) for item in {**OTHERS, **OF_CHATS}.items()],
)
def test_what_only_trtllm_serve_can_do_is_refused_in_words_of_its_own(kind, start, name, value):
    message = refused({**start, name: value}, kind)
    assert name in message and "is known to trtllm-serve; this CPU server cannot do it" in message


def test_every_field_that_it_cannot_do_is_tried_above():
    assert set(protocol.CANNOT) <= set(OTHERS) | set(OF_COMPLETIONS) | set(OF_CHATS)


def test_defaults_of_such_fields_may_be_sent():
    defaults = {"use_beam_search": False, "logit_bias": {}, "length_penalty": 1, "best_of": 1, "lora_request": None}
    parsed(CompletionRequest, json.dumps({**ASKED, **defaults, "logprobs": None, "detokenize": True}).encode())
    chat = {**defaults, "logprobs": False, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}}
    parsed(ChatCompletionRequest, json.dumps({**SAID, **chat, "reasoning_effort": "high", "user": "me"}).encode())


def test_a_picture_in_a_message_is_refused_and_parts_of_text_are_joined():
    part = {"type": "image_url", "image_url": {"url": "x"}}
    assert "cannot do it" in refused({**SAID, "messages": [{"role": "user", "content": [part]}]}, ChatCompletionRequest)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = parsed(
        ChatCompletionRequest, json.dumps({**SAID, "messages": [{"role": "user", "content": parts}]}).encode()
    )
    assert request.messages[0].text == "a\nb"


def test_a_whole_number_may_be_written_with_a_point():
    assert parsed(CompletionRequest, json.dumps({**ASKED, "max_tokens": 5.0}).encode()).max_tokens == 5


def test_one_token_list_is_one_prompt_and_a_list_of_lists_several():
    one = parsed(CompletionRequest, json.dumps({**ASKED, "prompt": [1, 2]}).encode())
    several = parsed(CompletionRequest, json.dumps({**ASKED, "prompt": [[1], [2]]}).encode())
    assert one.prompts == [[1, 2]] and several.prompts == [[1], [2]]


def test_both_names_of_the_longest_answer_must_agree():
    assert "differ" in refused({**SAID, "max_tokens": 3, "max_completion_tokens": 4}, ChatCompletionRequest)
    request = parsed(ChatCompletionRequest, json.dumps({**SAID, "max_completion_tokens": 4}).encode())
    assert request.asked_tokens == 4


def fed(stops, pieces):
    return [stops.feed(piece) for piece in pieces] + [stops.flush()]


def test_a_stop_string_is_found_across_pieces_and_nothing_of_it_shown():
    stops = Stops(["END"])
    assert fed(stops, ["one E", "N", "D two"]) == ["one ", "", "", ""]
    assert stops.hit == "END"
    assert stops.feed("more") == ""


def test_what_only_began_like_a_stop_string_is_shown_after_all():
    stops = Stops(["END"])
    assert "".join(fed(stops, ["one E", "N", "T two E"])) == "one ENT two E"
    assert stops.hit is None


def test_the_first_of_several_stop_strings_that_is_complete_ends_the_text():
    stops = Stops(["two", "one"])
    assert fed(stops, ["a one two"])[0] == "a " and stops.hit == "one"


def test_a_stop_string_stays_where_it_is_asked_for():
    assert fed(Stops(["END"], include=True), ["one EN", "D two"]) == ["one ", "END", ""]


def test_any_cut_of_a_text_gives_the_same_as_the_whole():
    chance, whole = random.Random(1), "abababcabcabab"
    for _ in range(500):
        strings = ["".join(chance.choices("abc", k=chance.randrange(1, 5))) for _ in range(2)]
        cuts = sorted(chance.sample(range(len(whole)), 4))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        found = [(place + len(one), place) for one in strings if (place := whole.find(one)) >= 0]
        assert "".join(fed(Stops(strings), pieces)) == (whole[: min(found)[1]] if found else whole), (strings, pieces)


@pytest.mark.parametrize("said", ["Once upon a time there was", "héllo wörld 你好 🎉 done", "a\n\n b  c", "é" * 30])
def test_text_comes_whole_wherever_the_prompt_ends(text, said):
    ids = text.encode(said, special=False)
    for start in range(len(ids)):
        decoder = Decoder(text, ids[:start])
        answer = "".join([*map(decoder.step, ids[start:]), decoder.flush()])
        before = text.decode(ids[:start]).rstrip("\ufffd")
        assert before + answer == said  # a prompt that ends inside a character is answered with the whole character


def test_no_piece_is_a_part_of_a_character(text):
    decoder = Decoder(text, [])
    pieces = [decoder.step(token) for token in text.encode("你好 🎉", special=False)]
    assert not any("\ufffd" in piece for piece in pieces) and "" in pieces


def test_random_tokens_are_decoded_as_in_one_piece(text):
    for seed in range(200):
        chance = random.Random(seed)
        ids = [chance.randrange(text.vocabulary) for _ in range(60)]
        start = next(place for place in range(5, 60) if not text.decode(ids[:place]).endswith("\ufffd"))
        decoder = Decoder(text, ids[:start])
        answer = "".join([*map(decoder.step, ids[start:]), decoder.flush()])
        assert text.decode(ids[:start]) + answer == text.decode(ids), seed


def test_an_answer_that_ends_inside_a_character_says_so(text):
    ids = text.encode("🎉", special=False)
    decoder = Decoder(text, [])
    assert "".join(map(decoder.step, ids[:-1])) == "" and decoder.flush() == "\ufffd"


@pytest.mark.slow
def test_text_is_what_transformers_makes_of_it(text):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(MODEL)
    for said in ("Once upon a time", "</s> héllo 你好\n\n x", "", "  a"):
        assert text.encode(said) == theirs(said).input_ids
        assert text.encode(said, special=False) == theirs(said, add_special_tokens=False).input_ids
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    for answer_follows in (True, False):
        ours = text.chat(messages, answer_follows)
        assert ours == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer_follows)
    assert text.ends == [theirs.eos_token_id]


def test_a_template_that_refuses_says_why(tmp_path):
    for file in MODEL.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(WorkshopError, match="roles must alternate"):
        Text(tmp_path).chat([{"role": "user", "content": "x"}])


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(WorkshopError, match="tokenizer"):
        Text(tmp_path)


def an_answer(text, chat=False, **asked):
    request = parsed(CompletionRequest, json.dumps({**ASKED, **asked}).encode())
    one = answers.choice(text, 0, [1], request)
    return answers.Answer(chat, "m", [one], 1, usage=True), one


@pytest.mark.parametrize("chat", [False, True])
def test_chunks_are_json_and_say_how_it_ended_once(text, chat):
    answer, one = an_answer(text, chat)
    ids = text.encode('a "quoted" 🎉 text', special=False)
    chunks = [answer.opening()] if chat else []
    chunks += [answer.chunk(one, one.text_of([token], None)) for token in ids[:-1]]
    chunks.append(answer.chunk(one, one.text_of(ids[-1:], ["length", None])))
    told = [json.loads(chunk.removeprefix("data: ")) for whole in chunks for chunk in whole.split("\n\n") if chunk]
    choices = [one["choices"][0] for one in told]
    said = "".join(c["delta"]["content"] if chat else c["text"] for c in choices)
    assert said == 'a "quoted" 🎉 text'
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["length"]
    assert not chat or choices[0]["delta"]["role"] == "assistant"
    last = answer.closing().decode().split("\n\n")
    assert json.loads(last[0].removeprefix("data: "))["usage"]["completion_tokens"] == len(ids)
    assert last[1] == "data: [DONE]"


def test_a_stop_token_is_counted_and_its_text_not_shown(text):
    ids = text.encode("one two", special=False)
    _, one = an_answer(text, stop_token_ids=[ids[-1]])
    shown = one.text_of(ids, ["stop", ids[-1]])
    assert shown == text.decode(ids[:-1]) and one.tokens == len(ids)
    assert (one.finish, one.stop_reason) == ("stop", ids[-1])


def told(number):
    return {"iter": number, "timestamp": 0.0, "kvCacheStats": {"usedNumBlocks": 1, "freeNumBlocks": 3}}


def records():
    return Records({"max_batch_size": 2, "max_num_tokens": 64, "kv_blocks": 4, "tokens_per_block": 32})


def test_records_are_handed_out_once_and_the_oldest_go_first():
    kept = records()
    for number in range(KEPT + 10):
        kept.add(told(number))

    async def twice():
        return await kept.drain(), await asyncio.wait_for(kept.drain(), 5)

    first, second = asyncio.run(twice())
    assert len(first) == KEPT and first[0]["iter"] == 10 and second == []
    assert first[0]["kvCacheStats"] == {"maxNumBlocks": 4, "tokensPerBlock": 32, "usedNumBlocks": 1, "freeNumBlocks": 3}
    assert first[0]["maxBatchSizeStatic"] == 2


def test_who_waits_for_a_record_gets_it_as_it_comes():
    async def wait():
        kept = records()
        loop = asyncio.get_running_loop()
        loop.call_later(0.1, kept.add, told(1))
        begun = loop.time()
        one, other = await asyncio.gather(kept.drain(), kept.drain())
        return [record["iter"] for record in one + other], loop.time() - begun

    got, seconds = asyncio.run(wait())
    assert got == [1] and seconds < 1
