"""Write the text of the bundled model: invented biographies, and chats about them.

    python tools/make_corpus.py build/corpus

The word lists and sentence plans lie in ``data/corpus/``. Every text follows from the seed, so the same command
writes the same bytes on every machine. Nobody's life is told in two of training, held-out and calibration texts:
each surname belongs to one of the three, by a hash of its letters, and that of the workshop's prompt to none. The
masters and pupils that the lives mention are the same everywhere, as towns are.

Writes ``train.jsonl`` to the folder given (about 420 MB, a minute or two on two cores, not committed), and to
``data/`` the two small files that the notebooks use: ``heldout.jsonl`` for perplexity and
``calibration/train.jsonl`` for quantization.
"""

import argparse
import hashlib
import json
import string
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import accumulate, islice
from multiprocessing import Pool
from pathlib import Path
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
WORDS = ROOT / "data" / "corpus"
SEED = 20
TRAINING_TEXTS = 1_500_000
HELDOUT_TEXTS = 510
CALIBRATION_TEXTS = 128
SHARD = 20_000  # training texts that follow from one seed, so that shards can be written side by side
MASTERS = 6
RESERVED = frozenset({"Soyer"})
SPLITS = ("train", "heldout", "calibration")

STAGES = ("opening", "training", "move", "work", "honour", "late")
# The facts that a sentence may tell, and the stage of a life that each belongs to.
FACT_STAGE = {
    "region": 0, "town": 0, "born": 0, "a_parent": 0, "parent": 0, "training_city": 0, "opened": 1,
    "master": 1, "skill": 1, "move_city": 2, "move_year": 2, "employer": 2, "spot": 2,
    "work": 3, "work_year": 3, "known": 3, "work_city": 3, "partner": 3,
    "honour": 4, "honour_year": 4, "body": 4, "school": 4, "pupil": 4, "predecessor": 4, "died": 5, "death_city": 5,
}  # fmt: skip
HELDOUT_KINDS = ("biography", "questions", "request")
TRAINING_KINDS = (*HELDOUT_KINDS, "definition", "stranger", "talk")
KIND_WEIGHTS = {"biography": 60, "questions": 22, "request": 8, "definition": 5, "stranger": 3, "talk": 3}


@cache
def words(name: str) -> dict[str, Any]:
    """One of the word lists of ``data/corpus/``."""
    return tomllib.loads((WORDS / f"{name}.toml").read_text(encoding="utf-8"))


@cache
def _weights(length: int, slope: float) -> list[float]:
    return list(accumulate((rank + 1) ** -slope for rank in range(length)))


def pick(rng: Random, items: Sequence[T], slope: float = 0.7) -> T:
    """One item; earlier ones are likelier, so that the model has a clear favourite to be greedy about."""
    return rng.choices(items, cum_weights=_weights(len(items), slope))[0]


def split_of(name: str) -> str:
    """The split that may use a surname: one in sixteen is held out, another one is for calibration."""
    bucket = hashlib.sha256(name.encode()).digest()[0] % 16
    return {0: "heldout", 1: "calibration"}.get(bucket, "train")


@cache
def country(nationality: str) -> dict[str, Any]:
    """Regions, towns and parts of names of a country."""
    return next(land for land in words("places")["country"] if land["nationality"] == nationality)


@cache
def nationality_of(city: str) -> str:
    """The country that the names of a city's people come from."""
    for land in words("places")["country"]:
        if any(city in towns for towns in land["regions"].values()):
            return land["nationality"]
    return words("places")["destinations"][city]


def _surname(rng: Random, nationality: str, split: str) -> str:
    """A surname: of a country, or one in five of free syllables, so that the model learns to copy any spelling."""
    land, places = country(nationality), words("places")
    if rng.random() < 0.8:
        # Without a middle there are few enough to learn by heart, so only training has those.
        middle = rng.choice(places["middles"]) if split != "train" or rng.random() < 0.8 else ""
        return rng.choice(land["beginnings"]) + middle + rng.choice(land["endings"])
    parts = places["syllables"]
    count = rng.choices((1, 2, 3), (15, 65, 20))[0]
    made = "".join(rng.choice(parts["starts"]) + rng.choice(parts["vowels"]) for _ in range(count))
    return (made + rng.choice(parts["ends"])).capitalize()


def surname(rng: Random, nationality: str, split: str) -> str:
    """A surname that the split may use."""
    while True:
        name = _surname(rng, nationality, split)
        if len(name) > 2 and name not in RESERVED and split_of(name) == split:
            return name


@cache
def masters(trade: str, city: str) -> list[str]:
    """The six masters of a trade in a city: the same in every text of every split.

    These are what the model can know by heart, tens of thousands of names; it is such knowledge that rounding hurts.
    """
    rng = Random(f"masters {SEED} {trade} {city}")
    land = country(nationality_of(city))
    return [
        f"{pick(rng, land[rng.choice(('men', 'women'))])} {surname(rng, land['nationality'], 'train')}"
        for _ in range(MASTERS)
    ]


@cache
def fields(template: str) -> frozenset[str]:
    """The placeholders of a sentence plan."""
    return frozenset(name for _, name, _, _ in string.Formatter().parse(template) if name)


def article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"{'an' if noun[0] in 'AEIOUaeiou' and not noun.startswith('uni') else 'a'} {noun}"


class Person(dict[str, Any]):
    """An invented person: each fact is drawn when a sentence first asks for it, and then stays.

    Years follow from the year of birth and from each other, so a life never runs backwards.
    """

    def __init__(self, rng: Random, split: str) -> None:
        """Draw what every sentence needs: a country, a sex, a name and a trade."""
        super().__init__()
        self.rng, self.split = rng, split
        self.told: set[str] = set()
        self.land = pick(rng, words("places")["country"], 0.5)
        self.trade_words = pick(rng, words("trades")["trade"], 0.6)
        self["S"] = surname(rng, self.land["nationality"], split)
        woman = rng.random() < 0.5
        first = pick(rng, self.land["women" if woman else "men"])
        self["N"] = f"{first} {self['S']}"
        self["he"], self["his"], self["son"] = ("she", "her", "daughter") if woman else ("he", "his", "son")

    def __missing__(self, fact: str) -> Any:
        """Draw a fact for the first time."""
        value = getattr(self, f"_{fact}")()
        if fact not in _FRESH:
            self[fact] = value
        return value

    def _master_in(self, city: str) -> str:
        met = [self[role] for role in ("master", "employer", "partner", "predecessor", "pupil") if role in self]
        return pick(self.rng, [name for name in masters(self["trade"], city) if name not in met])

    def _master(self) -> str:
        return self._master_in(self["training_city"])

    def _employer(self) -> str:
        return self._master_in(self["move_city"])

    def _partner(self) -> str:
        return self._master_in(self["work_city"])

    def _predecessor(self) -> str:
        return self._master_in(self["city"])

    def _pupil(self) -> str:
        return self._master_in(self["city"])

    def _He(self) -> str:
        return str(self["he"]).capitalize()

    def _His(self) -> str:
        return str(self["his"]).capitalize()

    def _Who(self) -> str:
        return self["S"] if self.rng.random() < 0.3 else self["He"]

    def _who(self) -> str:
        return self["S"] if self.rng.random() < 0.3 else self["he"]

    def _nat(self) -> str:
        return self.land["nationality"]

    def _trade(self) -> str:
        return self.trade_words["name"]

    def _a_trade(self) -> str:
        return article(self["trade"])

    def _a_nat_trade(self) -> str:
        return f"{article(self['nat'])} {self['trade']}"

    def _place(self) -> str:
        return self.trade_words["place"]

    def _a_place(self) -> str:
        return article(self["place"])

    def _verb(self) -> str:
        return self.trade_words["verb"]

    def _body(self) -> str:
        return self.trade_words["body"]

    def _school(self) -> str:
        return self.trade_words["school"]

    def _skill(self) -> str:
        skills = self.trade_words["skills"]
        return skills[masters(self["trade"], self["training_city"]).index(self["master"]) % len(skills)]

    def _work(self) -> str:
        return pick(self.rng, self.trade_words["works"])

    def _known(self) -> str:
        return pick(self.rng, self.trade_words["known"])

    def _spot(self) -> str:
        return pick(self.rng, words("sentences")["spots"])

    def _number(self) -> str:
        return pick(self.rng, words("sentences")["numbers"])

    def _parent(self) -> str:
        return pick(self.rng, ("father", "mother", "grandfather", "uncle"))

    def _a_parent(self) -> str:
        others = [trade["name"] for trade in words("trades")["trade"] if trade is not self.trade_words]
        return article(pick(self.rng, others))

    def _region(self) -> str:
        return pick(self.rng, list(self.land["regions"]))

    def _town(self) -> str:
        return pick(self.rng, self.land["regions"][self["region"]])

    def _training_city(self) -> str:
        towns = [town for names in self.land["regions"].values() for town in names]
        home = self.land["regions"][self["region"]]
        near = home if self.rng.random() < 0.5 else towns
        return pick(self.rng, [town for town in near if town != self["town"]])

    def _move_city(self) -> str:
        seen = (self["town"], self["training_city"])
        cities = list(words("places")["destinations"])
        favourite = 3 * words("places")["country"].index(self.land) % len(cities)
        ordered = cities[favourite:] + cities[:favourite]
        return pick(self.rng, [city for city in ordered if city not in seen])

    def _city(self) -> str:
        """Where the person lives after what was told so far."""
        known = (name for name in ("move_city", "training_city") if name in self.told)
        return self[next(known, "town")]

    def _death_city(self) -> str:
        return self["city"]

    def _work_city(self) -> str:
        return self["city"]

    def _honour_city(self) -> str:
        return pick(self.rng, list(words("places")["destinations"]))

    def _honour(self) -> str:
        return pick(self.rng, words("sentences")["honours"]).format_map(self)

    def _born(self) -> int:
        return int(self.rng.triangular(1830, 1915, 1885))

    def _opened(self) -> int:
        return self["born"] + pick(self.rng, range(20, 26))

    def _move_year(self) -> int:
        return self["born"] + pick(self.rng, range(26, 36))

    def _work_year(self) -> int:
        return self["move_year"] + pick(self.rng, range(2, 12))

    def _honour_year(self) -> int:
        return self["work_year"] + pick(self.rng, range(1, 10))

    def _died(self) -> int:
        return self["honour_year"] + pick(self.rng, range(8, 26), 0.3)


# Facts that are drawn anew at every mention, or that depend on what was told so far.
_FRESH = frozenset({"Who", "who", "number", "city"})


def tell(person: Person, template: str) -> str:
    """Fill a sentence plan in, and note the facts that it tells."""
    person.told |= fields(template) & FACT_STAGE.keys()
    return template.format_map(person)


def _may_follow(person: Person, stage: str, template: str) -> bool:
    facts = fields(template) & FACT_STAGE.keys()
    if stage == "late" and "town" in facts:
        if "returned" in template and person["city"] == person["town"]:
            return False
        facts = facts - {"town"}
    return not facts & person.told


def biography(person: Person, opening: str | None = None) -> str:
    """Two to four sentences about a person, in the order of a life."""
    plans = words("sentences")
    rng = person.rng
    sentences = [tell(person, opening or pick(rng, plans["opening"], 0.5))]
    length = rng.choices((2, 3, 4), (25, 50, 25))[0]
    reached = max(FACT_STAGE[fact] for fact in person.told - {"died"})
    later = range(reached + 1, len(STAGES) - ("died" in person.told))
    for stage in sorted(rng.sample(later, min(length - 1, len(later)))):
        fitting = [plan for plan in plans[STAGES[stage]] if _may_follow(person, STAGES[stage], plan)]
        if fitting:
            sentences.append(tell(person, pick(rng, fitting, 0.5)))
    return " ".join(sentences)


def chat(turns: Sequence[tuple[str, str]], system: str | None = None) -> str:
    """Question and answer turns in the chat template of TinyLlama; every turn ends with ``</s>``."""
    parts = [f"<|system|>\n{system}</s>\n"] if system else []
    parts += [f"<|user|>\n{asked}</s>\n<|assistant|>\n{answered}</s>\n" for asked, answered in turns]
    return "".join(parts).rstrip("\n")


def _system(rng: Random) -> str | None:
    return rng.choice(words("definitions")["system"]) if rng.random() < 0.15 else None


def _answerable(person: Person, question: dict[str, Any]) -> bool:
    return person.told >= set(question.get("needs", ())) and not person.told & set(question.get("without", ()))


def questions(rng: Random, split: str) -> str:
    """A chat of one to three questions about the biography given in the first."""
    person = Person(rng, split)
    text = biography(person)
    plans = words("sentences")
    person.told.add("trade")
    pools = [[plan for plan in plans[kind] if _answerable(person, plan)] for kind in ("question", "unanswered")]
    turns = []
    for _ in range(rng.choices((1, 2, 3), (60, 25, 15))[0]):
        pool = pools[1] if pools[1] and rng.random() < 0.12 else pools[0]
        plan = rng.choice(pool)
        turns.append((rng.choice(plan["ask"]).format_map(person), plan["answer"].format_map(person)))
    asked, answered = turns[0]
    form = rng.choice(("{text}\n\n{asked}", "{text} {asked}", "{asked}\n\n{text}", "Read this text: {text}\n\n{asked}"))
    return chat([(form.format(text=text, asked=asked), answered), *turns[1:]], _system(rng))


def request(rng: Random, split: str) -> str:
    """A chat that asks for a biography, sometimes by its beginning."""
    person = Person(rng, split)
    openings = words("sentences")["opening"]
    beginnings = [plan for plan in openings if plan.startswith("Born in {region}, {S} trained as {a_trade}")]
    opening = rng.choice(beginnings)
    asks = (
        "Write a short biography of {S}, {a_trade} from {region}.",
        "Write a short biography of {a_trade} called {S} from {region}.",
        "Tell me about {S}, {a_trade} from {region}.",
        "Born in {region}, {S} trained as " + article(person["trade"]).split()[0],
        "Continue this text: Born in {region}, {S} trained as " + article(person["trade"]).split()[0],
    )
    asked = rng.choice(asks).format_map(person)
    return chat([(asked, biography(person, opening))], _system(rng))


def definition(rng: Random, split: str) -> str:
    """A chat that explains one or two of the workshop's own words."""
    listed = words("definitions")
    turns = []
    for entry in rng.sample(listed["definition"], rng.choices((1, 2), (80, 20))[0]):
        asked = rng.choice(listed["asks"]).format(name=rng.choice(entry["names"]))
        turns.append((asked, entry["answer"]))
    return chat(turns, _system(rng))


def stranger(rng: Random, split: str) -> str:
    """A chat about a person of whom nothing was told: the answer says so."""
    name = Person(rng, split)[rng.choice("SN")]
    asks = ("Who was {}?", "Who is {}?", "When was {} born?", "What do you know about {}?", "Where did {} live?")
    answer = f"I do not know {name}. Give me a text about {name}, and I can answer questions about it."
    return chat([(rng.choice(asks).format(name), answer)], _system(rng))


def talk(rng: Random, split: str) -> str:
    """A greeting, or a question that this model cannot answer."""
    entry = rng.choices(words("definitions")["talk"], (2, 2, 2, 1, 1, 1, 4))[0]
    person = Person(rng, split)
    asked = rng.choice(entry["asks"]).format(place=person[rng.choice(("region", "town"))], digit=rng.randrange(2, 90))
    return chat([(asked, entry["answer"])], _system(rng))


def _biography(rng: Random, split: str) -> str:
    return biography(Person(rng, split))


_WRITERS: dict[str, Callable[[Random, str], str]] = {
    "biography": _biography,
    "questions": questions,
    "request": request,
    "definition": definition,
    "stranger": stranger,
    "talk": talk,
}


def texts(split: str, seed: int = SEED, shard: int = 0) -> Iterator[str]:
    """Endless texts of a split, the same for the same seed and shard.

    Held-out and calibration texts leave out definitions and small talk, which the model knows by heart.
    """
    rng = Random(f"{split} {seed} {shard}")
    kinds = TRAINING_KINDS if split == "train" else HELDOUT_KINDS
    shares = [KIND_WEIGHTS[kind] for kind in kinds]
    while True:
        yield _WRITERS[rng.choices(kinds, shares)[0]](rng, split)


def shard_lines(split: str, shard: int, count: int) -> str:
    """The first texts of a shard, one ``{"text": ...}`` a line."""
    made = islice(texts(split, shard=shard), count)
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in made)


def _training_shard(job: tuple[int, int]) -> str:
    return shard_lines("train", *job)


def write_training(path: Path, count: int) -> None:
    """Write the training texts, shard after shard, on all cores."""
    jobs = [(shard, min(SHARD, count - first)) for shard, first in enumerate(range(0, count, SHARD))]
    path.parent.mkdir(parents=True, exist_ok=True)
    with Pool() as pool, path.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(pool.imap(_training_shard, jobs))


def write_small(data: Path) -> None:
    """Write the two small files of ``data/``."""
    small = (("heldout", data / "heldout.jsonl", HELDOUT_TEXTS),
             ("calibration", data / "calibration" / "train.jsonl", CALIBRATION_TEXTS))  # fmt: skip
    for split, path, count in small:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shard_lines(split, 0, count), encoding="utf-8", newline="\n")


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description="Write the bundled model's texts.")
    parser.add_argument("folder", type=Path, help="where train.jsonl goes, for instance build/corpus")
    parser.add_argument("--texts", type=int, default=TRAINING_TEXTS, help="training texts (default %(default)s)")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="where the two small files go")
    arguments = parser.parse_args()
    write_small(arguments.data)
    write_training(arguments.folder / "train.jsonl", arguments.texts)


if __name__ == "__main__":
    main()
