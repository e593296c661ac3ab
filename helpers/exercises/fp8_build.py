"""The exercises of notebook 04: rounding to E4M3, a scaling factor, and which precisions can be told apart.

The judges are the number formats and the paired comparison of :mod:`helpers.precision`, and the reader's own
checkpoints: what calibration found, and how likely each thought the held-out tokens.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from helpers.cards import Card
from helpers.errors import WorkshopError
from helpers.exercises.asked import asked_in
from helpers.exercises.choosing import Option, choose_some, names
from helpers.exercises.judging import Mistake, judged

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from helpers.checkpoint import Checkpoint
    from helpers.precision import PairedDifference

_NUMBER = 21.3  # in the first exercise; E4M3's neighbours are 20 and 22 there
_SMALL = 0.01  # perplexity: what the third exercise's sentences call small, 1 %


@asked_in("04_fp8_build")
def check_rounded(answer: float | None = None) -> Card:
    """What does 21.3 become in E4M3, with the scaling factor 1?

    Args:
        answer: the value; None while there is no answer.
    """
    from helpers import precision

    title = f"What does {_NUMBER} become in E4M3, with the scaling factor 1?"
    if answer is None:
        return Card(
            title,
            note="Not answered yet: between 16 and 32 three bits of mantissa make eight steps. Round to the nearest.",
        )
    right, wide, whole = (float(precision.round_to([_NUMBER], name, scale=1)[0]) for name in ("e4m3", "e5m2", "int8"))
    values = precision.FORMATS["e4m3"].values()
    below, above = float(values[values < _NUMBER][-1]), float(values[values > _NUMBER][0])
    other = below if right == above else above
    mistakes = [
        Mistake(whole, f"That is INT8's answer: its steps are 1 everywhere. E4M3's are {above - below:g} here."),
        Mistake(
            other,
            f"E4M3 has {other:g}, but {right:g} is nearer. (E5M2, whose steps are twice as wide, gives {wide:g}.)",
        ),
        Mistake(16, "That is the power of two below. Three bits of mantissa divide the way to the next, 32, by eight."),
        Mistake(24, "That is half-way to 32: one bit of mantissa. E4M3 has three."),
        Mistake(_NUMBER, "E4M3 cannot hold it: the value stays as it is only in a format with more mantissa."),
    ]
    working = f"Its neighbours are {below:g} and {above:g}, and {right:g} is nearer."
    start = "Powers of two are values of E4M3, and eight equal steps lie between one and the next."
    return judged(title, answer, "", right, mistakes, working, start)


@asked_in("04_fp8_build")
def check_scaling_factor(small: "Checkpoint", answer: float | None = None) -> Card:
    """Which scaling factor maps the largest range that calibration found for an input onto the format?

    Args:
        small: the checkpoint in 8 bits, whose ranges the notebook drew.
        answer: the scaling factor; None while there is no answer.

    Raises:
        WorkshopError: calibration measured no input of this checkpoint, as of one in 16 bits.
    """
    inputs = [found for found in small.ranges if found["quantizer"] == "input"]
    if not inputs:
        raise WorkshopError("This checkpoint has no measured ranges of inputs. Give the one in 8 bits that was drawn.")
    widest = max(inputs, key=lambda found: found["amax"])
    amax, largest = float(widest["amax"]), small.largest
    title = (
        f"The inputs of {widest['module']} reach {amax:.4g}, the widest range here, and the format's largest value is "
        f"{largest:g}. Which scaling factor?"
    )
    if answer is None:
        return Card(title, note="Not answered yet: the factor times the format's largest value is the largest input.")
    other = 127.0 if largest != 127.0 else 448.0
    mistakes = [
        Mistake(largest / amax, "That is upside down: a stored number times the factor gives the number back."),
        Mistake(
            amax / other, f"You divided by {other:g}, the largest value of another format. Here it is {largest:g}."
        ),
        Mistake(amax / 256, "You divided by the number of bit patterns. Divide by the largest value."),
        Mistake(amax * largest, "You multiplied. The factor makes a stored number small or large again; divide."),
        Mistake(amax, "That is the range itself. Divide it by the format's largest value."),
    ]
    working = f"{amax:.4g} / {largest:g}: the largest input becomes the largest value of the format."
    start = "Divide the range by the format's largest value."
    return judged(title, answer, "", amax / largest, mistakes, working, start, tolerance=0.01)


@asked_in("04_fp8_build")
def check_told_apart(scores: "Mapping[str, ArrayLike]", answer: object = None) -> Card:
    """Which models can be told apart from the first of them on this text?

    Args:
        scores: title to negative log-likelihoods in nats of the same tokens; the first is compared with.
        answer: titles of the others, such as ``["INT8 SmoothQuant"]``; in any case, and their beginnings will do if no
            other begins so. None while there is no answer.

    Raises:
        WorkshopError: there are fewer than two models, or they scored different texts.
    """
    from helpers import precision

    if len(scores) < 2:
        raise WorkshopError(f"Two models or more are needed for a comparison, and there are {len(scores)}.")
    first, *others = scores
    pairs = {name: precision.compare(scores[first], scores[name], first, name) for name in others}
    options = {name: Option(pair.told_apart, _told(name, pair)) for name, pair in pairs.items()}
    found = sum(pair.told_apart for pair in pairs.values())
    return choose_some(
        f"Which of {', '.join(others)} can be told apart from {first} on this text?",
        answer if answer is None else [_whole(name, options) for name in names(answer)],
        options,
        f"give a list of titles, such as ['{others[0]}'], or [] for none. Two standard errors are the limit.",
        f"{found} of {len(pairs)} can. Told apart means more than twice the standard error, not large.",
    )


def _whole(beginning: str, titles: Iterable[str]) -> str:
    """The one title that begins like this; what was given where there is none or more than one."""
    fitting = [title for title in titles if title.casefold().startswith(beginning.casefold())]
    return fitting[0] if len(fitting) == 1 else beginning


def _told(name: str, pair: "PairedDifference") -> str:
    """Why a model can be told apart or not, with its figures."""
    from helpers.precision import TOLD_APART

    times = f"{abs(pair.mean):.5f} nats are {abs(pair.times_se):.1f} standard errors"
    if not pair.told_apart:
        return f"{name} cannot be told apart: {times}, and more than {TOLD_APART:g} are needed."
    small = ", though the difference is small" if abs(pair.mean) < _SMALL else ""
    return f"{name} can be told apart: {times}, more than {TOLD_APART:g}{small}."
