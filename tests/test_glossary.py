"""The glossary: every word is explained in a few sentences, and shown where it says."""

import re

import pytest
from test_notebook_contract import ROOT

from helpers import teaching
from helpers.errors import WorkshopError
from helpers.teaching.glossary import Word, words

WORDS = words()
each_word = pytest.mark.parametrize("word", WORDS, ids=lambda word: word.word)


def test_there_are_45_to_70_words_each_once_and_in_order():
    names = [word.word for word in WORDS]
    assert 45 <= len(names) <= 70
    assert len({name.lower() for name in names}) == len(names)
    assert names == sorted(names, key=str.lower)


def test_the_words_that_the_design_names_are_there():
    known = {word.word.lower() for word in WORDS}
    wanted = """checkpoint, engine, calibration, in-flight batching, kv cache, context phase, generation phase, time to
    first token, inter-token latency, time per output token, tokens per second per user, percentile, concurrency,
    warm-up, tensor parallelism, rank, all-reduce, recipe"""
    assert {" ".join(word.split()) for word in wanted.split(",")} <= known


@each_word
def test_a_word_is_shown_where_the_glossary_says(word):
    assert word.occurs(), f"{word.word} is not in the section of {word.notebook} {word.cell}"
    assert word.heading
    address, anchor = word.link.split("#")
    assert (ROOT / "notebooks" / address).exists()
    headings = [cell.source for cell in teaching.named(word.notebook).cells if cell.kind == "markdown"]
    assert re.search(rf"^#+ {re.escape(word.heading)}$", "\n".join(headings), re.MULTILINE)
    assert " " not in anchor


@each_word
def test_a_word_has_one_to_three_sentences(word):
    sentences = re.findall(r"[.!?](?=\s+[A-Z]|$)", word.text)
    assert 1 <= len(sentences) <= 3
    assert word.text.endswith(".")
    assert len(word.text) <= 220


def test_a_word_that_its_cell_does_not_show_is_noticed():
    assert not Word("zeppelin", "An airship.", "03", "cell-07").occurs()
    assert not Word("RE", "Inside another word.", "03", "cell-07", ("onfig",)).occurs()
    with pytest.raises(LookupError, match="no section with a cell 'cell-00'"):
        Word("engine", "It runs.", "03", "cell-00").occurs()


def test_a_link_leads_to_the_heading_above_the_word_also_where_a_cell_ends_one_topic_and_begins_the_next():
    ends = next(word for word in WORDS if word.word == "pipeline parallelism")
    assert ends.heading == "Three ways to divide a model"
    before = Word("all-reduce", "", "06", "cell-11", ("One all-reduce after",))
    assert before.heading == "By hand, once"
    assert Word("rank", "", "06", "cell-11", ("Two real ranks",)).heading == "Two real ranks"


def test_the_whole_glossary_shows_every_word_with_a_link():
    shown = teaching.glossary()
    page = shown._repr_html_()
    for word in WORDS:
        assert word.text in str(shown)
        assert f'href="{word.link}"' in page.replace("'", '"') or word.link.replace("'", "&#x27;") in page
    assert page.count("<a href=") == len(WORDS)


def test_one_word_is_found_whatever_its_capitals():
    one = teaching.glossary("kv CACHE")
    assert str(one).startswith("KV cache: The keys and values")
    assert "05_kv_cache_quantization.ipynb#What-a-token-leaves-behind" in one._repr_html_()


def test_an_unknown_word_is_refused_with_those_that_look_like_it():
    with pytest.raises(WorkshopError, match=r"no word 'kv'\. Did you mean 'KV cache'"):
        teaching.glossary("kv")
    with pytest.raises(WorkshopError, match="Did you mean 'calibration'"):
        teaching.glossary("callibration")
    with pytest.raises(WorkshopError, match=r"teaching.glossary\(\) shows all"):
        teaching.glossary("zeppelin")
