"""The generated texts: the same everywhere, disjoint where they must be, and consistent within a life."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from tools import make_corpus as corpus

DATA = Path(__file__).resolve().parent.parent / "data"
HELDOUT = DATA / "heldout.jsonl"
CALIBRATION = DATA / "calibration" / "train.jsonl"


def _read(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def _people(split: str, count: int) -> Iterator[corpus.Person]:
    rng = Random(1)
    return (corpus.Person(rng, split) for _ in range(count))


@pytest.fixture(scope="module")
def training_sample() -> list[str]:
    return list(islice(corpus.texts("train"), 20_000))


def test_same_seed_same_text_and_another_shard_another_text() -> None:
    first, again = (list(islice(corpus.texts("train", shard=3), 50)) for _ in range(2))
    other = list(islice(corpus.texts("train", shard=4), 50))
    assert first == again
    assert not set(first) & set(other)


@pytest.mark.parametrize(
    ("path", "split", "count"),
    [(HELDOUT, "heldout", corpus.HELDOUT_TEXTS), (CALIBRATION, "calibration", corpus.CALIBRATION_TEXTS)],
)
def test_committed_file_is_what_the_program_writes(path: Path, split: str, count: int) -> None:
    assert path.read_text(encoding="utf-8") == corpus.shard_lines(split, 0, count)


def test_small_files_keep_to_their_limits() -> None:
    assert HELDOUT.stat().st_size < 200_000
    assert len(_read(CALIBRATION)) == 128
    assert [entry.name for entry in CALIBRATION.parent.iterdir()] == ["train.jsonl"]


def test_training_file_is_its_shards_in_order(tmp_path: Path) -> None:
    corpus.write_training(tmp_path / "train.jsonl", corpus.SHARD + 5)
    written = (tmp_path / "train.jsonl").read_text(encoding="utf-8")
    assert written == corpus.shard_lines("train", 0, corpus.SHARD) + corpus.shard_lines("train", 1, 5)


def test_no_surname_serves_two_splits() -> None:
    names = {split: {person["S"] for person in _people(split, 1500)} for split in corpus.SPLITS}
    assert not names["train"] & names["heldout"]
    assert not names["train"] & names["calibration"]
    assert not names["heldout"] & names["calibration"]


def test_every_heldout_and_calibration_text_has_a_name_that_training_lacks(training_sample: list[str]) -> None:
    seen = set(re.findall(r"\w+", " ".join(training_sample)))
    for text in _read(HELDOUT) + _read(CALIBRATION):
        assert set(re.findall(r"\w+", text)) - seen, text


def test_the_prompt_of_the_workshop_names_nobody_in_the_corpus(training_sample: list[str]) -> None:
    everything = " ".join([*training_sample, *_read(HELDOUT), *_read(CALIBRATION)])
    assert "Soyer" not in everything
    assert "Born in north-east France" in everything


def test_texts_are_varied(training_sample: list[str]) -> None:
    assert len(set(training_sample)) > 0.95 * len(training_sample)
    biographies = [text for text in training_sample if not text.startswith("<|")]
    assert {text.count(". ") + 1 for text in biographies} == {2, 3, 4}


def test_years_of_a_life_run_forwards() -> None:
    for person in _people("train", 500):
        years = [person[fact] for fact in ("born", "move_year", "work_year", "honour_year", "died")]
        assert years == sorted(set(years))
        assert person["born"] + 20 <= person["opened"] < person["move_year"]
        assert years[-1] - years[0] < 100


def test_towns_lie_in_their_region_and_nobody_moves_home() -> None:
    for person in _people("train", 500):
        assert person["town"] in person.land["regions"][person["region"]]
        assert person["training_city"] != person["town"]
        assert person["move_city"] not in (person["town"], person["training_city"])


def test_a_biography_keeps_to_one_pronoun_and_never_repeats_a_fact() -> None:
    for person in _people("heldout", 500):
        text = corpus.biography(person)
        assert not (re.search(r"\b[Hh]e\b", text) and re.search(r"\b[Ss]he\b", text)), text
        sentences = text.split(". ")
        assert len(sentences) == len(set(sentences))
        assert "{" not in text


def test_questions_are_answered_from_the_text() -> None:
    asked = (text for text in corpus.texts("heldout") if text.startswith("<|user|>\nRead this text: "))
    for text in islice(asked, 100):
        given, *answers = text.split("<|assistant|>\n")
        for answer in answers:
            if "does not say" not in answer:
                year = re.findall(r"\d{4}", answer.split("</s>")[0])
                assert all(number in given for number in year), text


def test_masters_are_the_same_in_every_text() -> None:
    assert corpus.masters("painter", "Nancy") == corpus.masters.__wrapped__("painter", "Nancy")
    assert len(set(corpus.masters("painter", "Nancy"))) == corpus.MASTERS


@pytest.mark.parametrize(
    ("noun", "expected"), [("engineer", "an engineer"), ("painter", "a painter"), ("university", "a university")]
)
def test_article(noun: str, expected: str) -> None:
    assert corpus.article(noun) == expected
