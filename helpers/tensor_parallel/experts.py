"""Mixtures of experts: which of them some tokens go through, and how many lie on one rank (``data/experts.toml``).

For the comparison of notebook 06 only: the workshop builds models of the Llama family, which have a single MLP a layer.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from helpers import memory
from helpers.errors import WorkshopError
from helpers.memory import Shape
from helpers.memory.asked import ModelLike
from helpers.workspace import DATA


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts: a model whose layers have several MLPs, of which each token goes through a few.

    Attributes:
        name: of the model, a key of ``data/experts.toml``.
        shape: of the model with a single expert.
        experts: MLPs in each layer.
        chosen: of them, those that one token goes through.
    """

    name: str
    shape: Shape
    experts: int
    chosen: int


@cache
def mixtures() -> Mapping[str, Mixture]:
    """The mixtures of ``data/experts.toml`` by name; none can be built here, only their shape is used."""
    rows = tomllib.loads((DATA / "experts.toml").read_text())
    return {name: Mixture(name, Shape.of(row["config"]), row["experts"], row["chosen"]) for name, row in rows.items()}


def mixture_of(model: ModelLike | Mixture) -> Mixture:
    """A model as a mixture of experts; a dense one has a single expert."""
    if isinstance(model, Mixture):
        return model
    if isinstance(model, str) and model in mixtures():
        return mixtures()[model]
    return Mixture(*memory.named(model), 1, 1)


def touched(mixture: Mixture, tokens: int = 1) -> dict[int, Fraction]:
    """How many different experts of a layer some tokens go through: number to probability, exact.

    Every token is taken to choose its experts at random, each set of them as likely as any other. One more token adds
    j new experts to u with probability C(E − u, j) C(u, k − j) / C(E, k): the hypergeometric distribution.
    """
    experts, chosen = mixture.experts, mixture.chosen
    found = {0: Fraction(1)}
    for _ in range(tokens):
        later: dict[int, Fraction] = {}
        for used, chance in found.items():
            for new in range(chosen + 1):
                ways = math.comb(experts - used, new) * math.comb(used, chosen - new)
                if ways:
                    share = Fraction(ways, math.comb(experts, chosen))
                    later[used + new] = later.get(used + new, Fraction(0)) + chance * share
        found = later
    return found


def fullest_rank(mixture: Mixture, ranks: int, tokens: int = 1) -> Fraction:
    """The expected number of experts that the rank with the most of them reads in a layer, exact.

    Whole experts lie on the ranks, E / n on each, and a layer takes as long as the rank with most to read. With u
    experts touched, the ranks have at most m each in as many ways as x^u has in (Σ_{j ≤ m} C(E/n, j) x^j)^n.

    Raises:
        WorkshopError: the experts cannot be shared out over so many ranks.
    """
    if mixture.experts % ranks:
        raise WorkshopError(
            f"The {mixture.experts} experts of {mixture.name} cannot be shared out over {ranks} ranks. "
            "Choose a number that divides them."
        )
    expected = Fraction(0)
    for used, chance in touched(mixture, tokens).items():
        total = math.comb(mixture.experts, used)
        for most in range(mixture.experts // ranks):
            expected += chance * (1 - Fraction(_at_most(mixture.experts // ranks, ranks, most, used), total))
    return expected


def _at_most(each: int, ranks: int, most: int, used: int) -> int:
    """In how many ways ``used`` experts are touched with at most ``most`` on every rank of ``each``."""
    ways = [1]
    for _ in range(ranks):
        grown = [0] * (len(ways) + most)
        for already, count in enumerate(ways):
            for more in range(most + 1):
                grown[already + more] += count * math.comb(each, more)
        ways = grown
    return ways[used] if used < len(ways) else 0
