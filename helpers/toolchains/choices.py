"""Which precisions an engine can have on a machine, for its weights and for its KV cache, and why not the others."""

from collections.abc import Mapping
from dataclasses import dataclass

from helpers.cards import ShownAsTable, Table
from helpers.checkpoint import KV_TITLES
from helpers.errors import WorkshopError

# What a person may ask a toolchain for, in the order of notebook 04's tables; each toolchain offers some of them.
TITLES = {
    "fp16": "FP16",
    "fp8": "FP8 (E4M3)",
    "int8": "INT8",
    "int8_wo": "INT8 weight-only",
    "int4_awq": "INT4 AWQ",
}
CHECKPOINTS = {"fp16": "fp16", "fp8": "fp8", "int8": "int8_sq", "int8_wo": "int8_wo", "int4_awq": "int4_awq"}
"""An engine's precision to that of its checkpoint."""

AUTO = "auto"
"""In place of a KV cache's precision: what goes best with the weights."""


def kv_of(precision: str, kv: str | None = AUTO) -> str | None:
    """What the KV cache is kept in, where nothing else is asked for: FP8 beside FP8 weights, else 16 bits.

    An FP8 cache beside other weights would switch off attention in FP8, and with it the reuse of KV blocks.
    """
    return ("fp8" if precision == "fp8" else None) if kv == AUTO else kv


@dataclass(frozen=True, repr=False)
class Choices(ShownAsTable):
    """Which precisions an engine can have on a machine, and why not the others.

    Attributes:
        machine: what the answer is for.
        reasons: precision (a key of :data:`TITLES`) to what is said of it, in the order of the tables.
        offered: those that can be built.
    """

    machine: str
    reasons: Mapping[str, str]
    offered: tuple[str, ...]

    @property
    def eight_bit(self) -> str:
        """The best precision of 8 bits: FP8 where there is one; where there is none of 8 bits, one of 4, else FP16."""
        return next(p for p in ("fp8", "int8", "int8_wo", "int4_awq", "fp16") if p in self.offered)

    @property
    def _best(self) -> str:
        """What :attr:`eight_bit` is here, in words."""
        eight = self.eight_bit in ("fp8", "int8", "int8_wo")
        return "the best precision of 8 bits here" if eight else "the best here: there is none of 8 bits"

    @property
    def compared(self) -> tuple[str, ...]:
        """What notebook 04 compares: FP16 and the kinds of 8 bits for weights and activations alike."""
        return tuple(p for p in ("fp16", "fp8", "int8") if p in self.offered)

    def require(self, precision: str) -> None:
        """Refuse a precision that cannot be built.

        Raises:
            WorkshopError: why, and what to take instead; or the ones there are, for one that does not exist.
        """
        if precision not in TITLES:
            there = ", ".join(map(repr, self.offered))
            raise WorkshopError(f"There is no engine precision {precision!r}. Choose one of {there}.")
        if precision not in self.offered:
            raise WorkshopError(
                f"{TITLES[precision]} cannot be built for {self.machine}: {self.reasons[precision]} "
                f"Take {self.eight_bit!r} instead, {self._best}."
            )

    def table(self) -> Table:
        """One line a precision."""
        rows = [[TITLES[p], "yes" if p in self.offered else "no", why] for p, why in self.reasons.items()]
        best = f"{TITLES[self.eight_bit]} ({self.eight_bit!r})"
        none = self.eight_bit in ("int4_awq", "fp16")
        note = f"There is none of 8 bits here; take {best}." if none else f"The best 8 bits here: {best}."
        return Table(["precision", "builds", "why"], rows, f"Engines for {self.machine}", note)


@dataclass(frozen=True)
class KvChoice:
    """One KV cache beside one kind of weights.

    Attributes:
        precision: of the weights, a key of :data:`TITLES`.
        kv: ``fp8``, ``int8``, or None for 16 bits.
        offered: it can be built.
        reuse: KV blocks of an earlier request with the same beginning are used again, and long prompts are read in
            chunks; None where the toolchain does not tie that to the cache's precision.
        why: what is said of it.
    """

    precision: str
    kv: str | None
    offered: bool
    reuse: bool | None
    why: str


@dataclass(frozen=True, repr=False)
class KvChoices(ShownAsTable):
    """Which KV caches an engine can have on a machine, beside which weights, and what each gives up.

    Attributes:
        machine: what the answer is for.
        rows: one for each pair of weights and KV cache, in the order of the tables.
        note: what holds for all of them.
    """

    machine: str
    rows: tuple[KvChoice, ...]
    note: str = ""

    def offered(self, precision: str) -> tuple[str | None, ...]:
        """The KV caches that can be built beside these weights, 16 bits first."""
        return tuple(row.kv for row in self.rows if row.precision == precision and row.offered)

    def eight_bit(self, precision: str = "fp16") -> str:
        """The best KV cache of 8 bits beside these weights: FP8 where there is one.

        Raises:
            WorkshopError: there is none.
        """
        found = [kv for kv in ("fp8", "int8") if kv in self.offered(precision)]
        if not found:
            raise WorkshopError(f"There is no KV cache of 8 bits beside {precision!r} weights for {self.machine}.")
        return found[0]

    def require(self, precision: str, kv: str | None) -> None:
        """Refuse a KV cache that cannot be built.

        Raises:
            WorkshopError: why, and which there are.
        """
        kv = None if kv == "fp16" else kv  # as recipes and the command line call 16 bits
        row = next((row for row in self.rows if (row.precision, row.kv) == (precision, kv)), None)
        if row is not None and row.offered:
            return
        there = ", ".join("None (16 bits)" if kv is None else repr(kv) for kv in self.offered(precision))
        name = repr(kv) if kv not in KV_TITLES else f"{KV_TITLES[kv]}"
        why = f": {row.why}" if row else "."
        raise WorkshopError(
            f"A KV cache in {name} cannot be built beside {TITLES.get(precision, precision)} weights for "
            f"{self.machine}{why} Choose one of {there}."
        )

    def table(self) -> Table:
        """One line for each KV cache, and for all the weights of which the same is to be said."""
        weights: dict[tuple[str | None, bool, bool | None, str], list[str]] = {}
        for row in self.rows:
            weights.setdefault((row.kv, row.offered, row.reuse, row.why), []).append(TITLES[row.precision])
        said = {True: "yes", False: "no", None: "–"}
        rows = [
            [KV_TITLES[kv], ", ".join(names), said[offered], said[reuse], why]
            for (kv, offered, reuse, why), names in weights.items()
        ]
        columns = ["KV cache", "beside weights in", "builds", "block reuse, chunked prompts", "what to know"]
        return Table(columns, rows, f"KV caches for {self.machine}", self.note)
