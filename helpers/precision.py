"""Number formats, what rounding to them costs, and perplexity.

Pure functions over NumPy arrays; taught in ``notebooks/04_fp8_build.ipynb``. The eight-bit floating-point
formats are those of "FP8 Formats for Deep Learning" (arXiv 2209.05433): E4M3 has no infinities, E5M2 has.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from helpers.cards import Card, Shown, Table
from helpers.errors import WorkshopError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Values = NDArray[np.float32]

TOLD_APART = 2.0
"""A difference counts when it is larger than this many of its own standard errors."""


@dataclass(frozen=True)
class Format:
    """A number format with a sign bit.

    Args:
        name: as it is written, such as ``E4M3``.
        bits: width of one number.
        exponent_bits: 0 for an integer.
        mantissa_bits: the bits after the binary point; of an integer, all bits but the sign.
        not_finite: how many of the largest positive bit patterns mean NaN or infinity.
    """

    name: str
    bits: int
    exponent_bits: int
    mantissa_bits: int
    not_finite: int = 0

    @property
    def bias(self) -> int:
        """What is subtracted from the stored exponent."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def lowest_exponent(self) -> int:
        """The power of two of the smallest normal number; subnormal numbers keep it and lose digits."""
        return 1 - self.bias if self.exponent_bits else self.mantissa_bits

    @property
    def smallest(self) -> float:
        """The smallest positive number: subnormal in a floating-point format, 1 in an integer one."""
        return float(2.0 ** (self.lowest_exponent - self.mantissa_bits))

    @property
    def smallest_normal(self) -> float:
        """The smallest positive number that still has every digit of its mantissa."""
        return float(2.0**self.lowest_exponent) if self.exponent_bits else self.smallest

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return float(self.values()[-1])

    @property
    def decades(self) -> float:
        """Dynamic range: powers of ten between the smallest positive and the largest number."""
        return math.log10(self.largest / self.smallest)

    @property
    def decibels(self) -> float:
        """Dynamic range as an amplitude ratio in dB."""
        return 20 * self.decades

    def values(self) -> "NDArray[np.float64]":
        """Every finite value, ascending, zero once; shape (number of values,)."""
        import numpy as np

        # Positive bit patterns, in order, are the positive values, in order.
        codes = np.arange(2 ** (self.exponent_bits + self.mantissa_bits) - self.not_finite)
        exponent, mantissa = np.divmod(codes, 2**self.mantissa_bits)
        normal = (exponent > 0) if self.exponent_bits else np.zeros_like(codes, bool)
        steps = np.where(normal, 2**self.mantissa_bits + mantissa, mantissa)
        positive = np.ldexp(steps.astype(float), np.where(normal, exponent - 1, 0)) * self.smallest
        return np.concatenate([-positive[:0:-1], positive])


FORMATS: dict[str, Format] = {
    "fp16": Format("FP16", 16, 5, 10, not_finite=2**10),
    "e5m2": Format("FP8 E5M2", 8, 5, 2, not_finite=4),
    "e4m3": Format("FP8 E4M3", 8, 4, 3, not_finite=1),
    # Quantizers use -127..127 and leave -128 out, so that the grid is symmetric around zero.
    "int8": Format("INT8", 8, 0, 7),
}


def find(name: str) -> Format:
    """The format called ``name``.

    Raises:
        WorkshopError: there is none of that name.
    """
    if name not in FORMATS:
        raise WorkshopError(f"Unknown number format: {name!r} was asked for; use one of {', '.join(FORMATS)}.")
    return FORMATS[name]


def facts(*names: str) -> Table:
    """The formats side by side: how many values, the largest, the smallest, the dynamic range."""
    formats = [find(name) for name in names or FORMATS]
    rows = [
        (
            f.name,
            f.bits,
            f"{len(f.values()):,}",
            f"{f.largest:g}",
            f"{f.smallest_normal:.3g}",
            f"{f.smallest:.3g}",
            f"{f.decades:.1f}",
            f"{f.decibels:.0f}",
        )
        for f in formats
    ]
    widest, narrowest = max(formats, key=lambda f: f.decades), min(formats, key=lambda f: f.decades)
    columns = ("format", "bits", "values", "largest", "smallest normal", "smallest above 0", "decades", "dB")
    note = f"{widest.name} spans {widest.decades:.1f} powers of ten, {narrowest.name} {narrowest.decades:.1f}."
    return Table(columns, rows, "Number formats, before any scaling factor", note)


def _scale(
    values: "Values", number_format: Format, scale: "ArrayLike | None", per: Literal["tensor", "channel"]
) -> "Values":
    """The scaling factor, in a shape that broadcasts against ``values``."""
    import numpy as np

    if per not in ("tensor", "channel"):
        raise WorkshopError(f"Unknown granularity: {per!r} was asked for; use 'tensor' or 'channel'.")
    if scale is None:
        axes = tuple(range(1, values.ndim)) if per == "channel" else None
        largest = np.abs(values).max(axis=axes, initial=0.0, keepdims=per == "channel")
        factor = np.asarray(largest / number_format.largest, np.float32)
    else:
        factor = np.asarray(scale, np.float32)
        if per == "channel":
            factor = factor.reshape(-1, *[1] * (values.ndim - 1))
    # All zeros round to zero under any scale; 1 avoids dividing by zero.
    return np.where(factor == 0, np.float32(1), factor).astype(np.float32)


def round_to(
    values: "ArrayLike",
    name: str,
    scale: "ArrayLike | None" = None,
    per: Literal["tensor", "channel"] = "tensor",
) -> "Values":
    """What ``values`` become in a number format, brought back to their own scale (dequantized).

    Rounds to nearest, ties to even, and saturates at the largest number: what TensorRT-LLM's and ModelOpt's
    quantizers do.

    Args:
        values: any shape; for ``per="channel"`` the first axis is the channel (a linear layer's outputs).
        name: a key of `FORMATS`, such as ``e4m3`` or ``int8``.
        scale: the scaling factor, one number or one a channel; 1 rounds the values as they are. By default
            the largest magnitude divided by the format's largest number, so that nothing saturates.
        per: one scaling factor for the whole tensor, or one a channel.

    Returns:
        float32, the shape of ``values``.

    Raises:
        WorkshopError: unknown format or granularity.
    """
    import numpy as np

    number_format = find(name)
    exact = np.asarray(values, np.float32)
    factor = _scale(exact, number_format, scale, per)
    scaled = np.clip(exact / factor, -number_format.largest, number_format.largest)
    # frexp's exponent is one above the leading bit's; below the lowest exponent the step stays the same.
    leading_bit = np.maximum(np.frexp(scaled)[1] - 1, number_format.lowest_exponent)
    step = np.ldexp(np.float32(1), leading_bit - number_format.mantissa_bits)
    rounded: Values = (np.rint(scaled / step) * step * factor).astype(np.float32)
    return rounded


@dataclass(frozen=True, repr=False)
class RoundingError(Shown):
    """How far rounded values are from the exact ones.

    Args:
        relative: root mean square of the error, divided by the root mean square of the values.
        flushed: share of the values other than zero that became zero, 0 to 1.
        values: how many values were compared.
    """

    relative: float
    flushed: float
    values: int

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise ratio in dB; higher is better."""
        return -20 * math.log10(self.relative) if self.relative else math.inf

    def _card(self) -> Card:
        found = {
            "relative error (RMS)": f"{self.relative:.3%}",
            "signal to noise": f"{self.sqnr:.1f} dB",
            "flushed to zero": f"{self.flushed:.3%}",
        }
        return Card(f"Rounding error over {self.values:,} values", found)

    def __str__(self) -> str:
        return str(self._card())

    def _repr_html_(self) -> str:
        return self._card()._repr_html_()


def error(values: "ArrayLike", rounded: "ArrayLike") -> RoundingError:
    """Compare rounded values with the exact ones; both of the same shape.

    Raises:
        WorkshopError: the shapes differ, or all values are zero.
    """
    import numpy as np

    exact, near = np.asarray(values, np.float64), np.asarray(rounded, np.float64)
    if exact.shape != near.shape:
        raise WorkshopError(f"Shapes differ: {exact.shape} and {near.shape}; compare a tensor with its own rounding.")
    power = float(np.square(exact).sum())
    if not power:
        raise WorkshopError("No error to measure: every value is zero; pass a tensor with numbers in it.")
    lost = (near == 0) & (exact != 0)
    relative = math.sqrt(float(np.square(near - exact).sum()) / power)
    return RoundingError(relative, float(lost.sum() / (exact != 0).sum()), exact.size)


@dataclass(frozen=True, repr=False)
class Perplexity(Shown):
    """Perplexity of a model on a text: it is as unsure as if it chose among this many tokens with equal odds.

    Args:
        value: exp of the mean negative log-likelihood.
        tokens: how many predicted tokens the mean is over.
        standard_error: of ``value``, from the spread between tokens, taken as independent of each other.
    """

    value: float
    tokens: int
    standard_error: float

    def __str__(self) -> str:
        return f"perplexity {self.value:.4f} ± {self.standard_error:.4f} ({self.tokens:,} tokens)"

    def _repr_html_(self) -> str:
        return f"<p>{self}</p>"


def _likelihoods(nll: "ArrayLike") -> "NDArray[Any]":
    """Per-token negative log-likelihoods as a flat float64 array, checked."""
    import numpy as np

    flat = np.asarray(nll, np.float64).ravel()
    if flat.size < 2:
        raise WorkshopError(f"Too few tokens for a perplexity: {flat.size} found; score a longer text.")
    if not np.isfinite(flat).all():
        bad = int((~np.isfinite(flat)).sum())
        raise WorkshopError(
            f"Perplexity is undefined: {bad} of {flat.size} tokens have no finite likelihood; "
            "the model overflowed, so build it again at a higher precision."
        )
    return flat


def perplexity(nll: "ArrayLike") -> Perplexity:
    """Perplexity from per-token negative log-likelihoods.

    Args:
        nll: in nats, one a predicted token, any shape.

    Raises:
        WorkshopError: fewer than two tokens, or a likelihood that is not finite.
    """
    flat = _likelihoods(nll)
    value = math.exp(flat.mean())
    # Delta method: an error of s in the exponent is an error of value * s in exp.
    return Perplexity(value, flat.size, value * flat.std(ddof=1) / math.sqrt(flat.size))


@dataclass(frozen=True, repr=False)
class PairedDifference(Shown):
    """How much worse one model predicts than another, token by token on the same text.

    Args:
        mean: of second minus first negative log-likelihood, nats per token; above 0 the second is worse.
        standard_error: of ``mean``.
        tokens: how many tokens both models scored.
        first, second: the models' names.
    """

    mean: float
    standard_error: float
    tokens: int
    first: str
    second: str

    @property
    def times_se(self) -> float:
        """The mean in standard errors; 0 where the two are identical."""
        if self.standard_error:
            return self.mean / self.standard_error
        return math.copysign(math.inf, self.mean) if self.mean else 0.0

    @property
    def told_apart(self) -> bool:
        """True if the difference is larger than chance makes it."""
        return abs(self.times_se) > TOLD_APART

    @property
    def sentence(self) -> str:
        """The finding in words, computed from the numbers."""
        if not self.mean and not self.standard_error:
            same = f"{self.first} and {self.second} give each of the {self.tokens:,} tokens the same likelihood"
            return f"{same}: no difference."
        size = f"{abs(self.mean):.5f} ± {self.standard_error:.5f} nats a token"
        times = f"{abs(self.times_se):.1f} times its standard error, {self.tokens:,} tokens"
        if not self.told_apart:
            return f"{self.first} and {self.second} cannot be told apart on this text: they differ by {size} ({times})."
        verdict = "worse" if self.mean > 0 else "better"
        return (
            f"{self.second} predicts this text {verdict} than {self.first}: by {size} ({times}), "
            f"a perplexity {math.exp(abs(self.mean)) - 1:.2%} {'higher' if self.mean > 0 else 'lower'}."
        )

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        return f"<p>{self.sentence}</p>"


def compare(
    nll_a: "ArrayLike", nll_b: "ArrayLike", first: str = "the first", second: str = "the second"
) -> PairedDifference:
    """Compare two models on the same tokens; pairing removes what makes some tokens hard for both.

    Args:
        nll_a, nll_b: negative log-likelihoods in nats, of the same tokens in the same order.
        first, second: what to call the models in the sentence.

    Raises:
        WorkshopError: the lengths differ, fewer than two tokens, or a likelihood that is not finite.
    """
    a, b = _likelihoods(nll_a), _likelihoods(nll_b)
    if a.size != b.size:
        raise WorkshopError(
            f"The models scored different texts: {a.size} and {b.size} tokens; score the same text with both."
        )
    difference = b - a
    standard_error = float(difference.std(ddof=1) / math.sqrt(difference.size))
    return PairedDifference(float(difference.mean()), standard_error, a.size, first, second)


def perplexity_table(scores: "Mapping[str, ArrayLike]") -> Table:
    """Perplexities side by side, each compared with the first, token by token (notebook 04).

    Args:
        scores: name to negative log-likelihoods in nats; all of the same tokens in the same order.

    Raises:
        WorkshopError: the texts differ, or a likelihood is not finite.
    """
    (first, reference), *_ = scores.items()
    rows: list[list[str]] = []
    sentences: list[str] = []
    for name, nll in scores.items():
        found = perplexity(nll)
        row = [name, f"{found.value:.4f}", f"{found.standard_error:.4f}"]
        if name == first:
            rows.append([*row, "–", "–", "–", "–"])
            continue
        against = compare(reference, nll, first, name)
        rows.append(
            [
                *row,
                f"{against.mean:+.5f}",
                f"{against.standard_error:.5f}",
                f"{against.times_se:+.1f}",
                "yes" if against.told_apart else "no",
            ]
        )
        sentences.append(against.sentence)
    difference = [f"nats a token against {first}", "± (difference)", "in standard errors", "told apart"]
    columns = ["model", "perplexity", "± (text)", *difference]
    caption = f"Measured: {perplexity(reference).tokens:,} held-out tokens"
    return Table(columns, rows, caption=caption, note=" ".join(sentences))


def rounding_table(values: "ArrayLike", *names: str) -> Table:
    """What rounding the same numbers to several formats costs, with one scale for the whole tensor.

    The median over the values other than zero of |rounded - value| / |value|: a single huge value, which hides
    everybody else's error in a root mean square, does not move it.

    Args:
        values: any array with a number other than zero.
        names: keys of ``FORMATS``.

    Raises:
        WorkshopError: every value is zero, or a format is unknown.
    """
    import numpy as np

    exact = np.asarray(values, np.float64)
    others = exact != 0
    rows = []
    for name in names:
        rounded = round_to(exact, name)
        flushed = error(exact, rounded).flushed
        median = float(np.median(np.abs(rounded - exact)[others] / np.abs(exact)[others]))
        rows.append([find(name).name, f"{median:.2%}", f"{flushed:.2%}"])
    caption = f"measured: rounding {exact.size:,} values, one scale for all"
    return Table(["format", "median relative error", "rounded to zero"], rows, caption)


def moved_table(scores: "Mapping[str, ArrayLike]") -> Table:
    """How far the likelihood of single tokens moved against the first model, up or down (notebook 05).

    A perplexity is an average, in which tokens that got likelier hide those that got less so.

    Args:
        scores: name to negative log-likelihoods in nats; all of the same tokens in the same order.

    Raises:
        WorkshopError: the texts differ, a likelihood is not finite, or there is nothing to compare with the first.
    """
    import numpy as np

    if len(scores) < 2:
        raise WorkshopError(f"Nothing moved yet: {len(scores)} of at least 2 models were given; give two or more.")
    (first, reference), *others = scores.items()
    base, means, rows = _likelihoods(reference), {}, []
    for name, nll in others:
        compare(reference, nll, first, name)  # refuses another text
        distance = np.abs(_likelihoods(nll) - base)
        means[name] = float(distance.mean())
        worst = float(np.quantile(distance, 0.99))
        rows.append([name, f"{means[name]:.5f}", f"{worst:.5f}", f"{float(distance.max()):.3f}"])
    columns = ["model", "mean", "99 % move less than", "largest"]
    caption = f"Measured: nats that a token moved against {first}, up or down; {base.size:,} held-out tokens"
    return Table(columns, rows, caption, _moved_sentence(means, first))


def _moved_sentence(means: "Mapping[str, float]", first: str) -> str:
    """Which model stayed nearest to the first, and which moved farthest, each with its mean."""
    nearest, farthest = min(means, key=lambda name: means[name]), max(means, key=lambda name: means[name])
    if len(means) == 1:
        return f"{nearest} moved a token by {means[nearest]:.5f} nats on average."
    said = [f"{name}, {means[name]:.5f}" for name in (nearest, farthest)]
    return f"Nearest to {first}, in nats a token: {said[0]}. Farthest: {said[1]}."
