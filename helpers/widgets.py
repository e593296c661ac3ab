"""Sliders over the helpers' pure functions; each reads well without them too (notebook 05).

A widget here has three faces: live controls where JupyterLab runs it, a table and a picture of the same values where
nothing is alive to move them (a page made of an executed notebook), and plain text in a terminal.
"""

import html
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from helpers import hardware, memory, models
from helpers.cards import Shown
from helpers.errors import WorkshopError
from helpers.memory import Fit

STATIC_VARIABLE = "WORKSHOP_STATIC"
"""Set to 1 where notebooks run for a page (``make workshop``): a page has no kernel that a slider could reach."""

_VIEW = "application/vnd.jupyter.widget-view+json"
_WEIGHTS = [(title, key) for key, title in memory.TITLES.items()]
_CACHES = [("16-bit", "fp16"), ("FP8", "fp8"), ("INT8", "int8")]
_NOTE = "In JupyterLab this is a set of menus and sliders."
_LONGEST = 8192  # tokens at the end of a length's slider
_STEP = 32


def has_front_end() -> bool:
    """True where a browser can draw and move widgets: in a Jupyter kernel that does not run for a page."""
    if os.environ.get(STATIC_VARIABLE, "0") not in ("", "0"):
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")  # a terminal's IPython has none


def memory_planner(
    model: str = "TinyLlama",
    gpu: str = "rtx-4090",
    precision: str = "fp16",
    kv: str | None = None,
    max_batch_size: int = 64,
    input_length: int = 1024,
    output_length: int = 1024,
) -> "Planner":
    """The memory planner with controls: move one, and the bar and its sentence are computed anew.

    Args:
        model: a name in ``data/models.toml``, ``bundled`` or a folder.
        gpu: a key of ``data/gpus.toml``.
        precision, kv, max_batch_size: see :func:`helpers.memory.fit`.
        input_length, output_length: tokens of a prompt and of its answer.

    Raises:
        WorkshopError: a name or a number that no control can show. Values that are possible but do not fit together
            raise nothing: the planner says so in place of its picture.
    """
    return Planner(model, gpu, precision, kv, max_batch_size, input_length, output_length)


class Planner(Shown):
    """Controls over :func:`helpers.memory.fit`, and what they give.

    Attributes:
        controls: name of each argument of :func:`memory_planner` to its control.
        output: shows the picture and the sentence, or what is wrong.
        fit: the plan of the values shown; None where they do not fit together.
        problem: why they do not; empty where they do.
    """

    def __init__(
        self, model: str, gpu: str, precision: str, kv: str | None, batch: int, prompt: int, answer: int
    ) -> None:
        import ipywidgets

        name, shape, sheet, _ = memory.resolve(model, gpu)
        if sheet is None:
            raise WorkshopError(f"The planner's GPU is {gpu!r}. Choose a key of data/gpus.toml, such as 'a10g'.")
        # A spelling that `fit` takes is shown as the one that stands in the menu.
        kept = memory.fit(shape, 4096, precision, kv, batch)
        cache = kept.kv or "fp16"
        if cache not in dict(_CACHES).values():
            raise WorkshopError(f"The planner's KV cache is {kv!r}. Choose 'fp16', 'fp8' or 'int8'.")
        known = [*models.known(), models.BUNDLED]
        chosen = name if name in known else model
        gpus = [(f"{row.name}, {row.memory_bytes / 1e9:g} GB", row.key) for row in hardware.datasheets()]
        offered = known if chosen in known else [*known, chosen]
        tokens = {"minimum": _STEP, "maximum": _LONGEST, "step": _STEP}
        self.controls: dict[str, Any] = {
            "gpu": _menu("GPU", gpus, sheet.key),
            "model": _menu("Model", [(entry, entry) for entry in offered], chosen),
            "precision": _menu("Weights", _WEIGHTS, kept.precision),
            "kv": _menu("KV cache", _CACHES, cache),
            "max_batch_size": _slider("Batch (requests)", batch, 1, 1024, 1),
            "input_length": _slider("Prompt (tokens)", prompt, **tokens),
            "output_length": _slider("Answer (tokens)", answer, **tokens),
        }
        # An HTML widget, not an Output: its value is state that also a test and a screen reader can read.
        self.output = ipywidgets.HTML()
        self.box = ipywidgets.VBox([*self.controls.values(), self.output])
        self.fit: Fit | None = None
        self.problem = ""
        for control in self.controls.values():
            control.observe(self._update, names="value")
        self._update()

    def _update(self, _: Any = None) -> None:
        """Compute the plan of the controls' values, and show it."""
        try:
            self.fit, self.problem = self._fit(), ""
        except WorkshopError as problem:
            self.fit, self.problem = None, str(problem)
        shown = _picture_html([self.fit]) if self.fit else ""
        # Read out when it changes, since the eyes of whoever moves a slider are on the slider.
        self.output.value = f"<div role='status' aria-live='polite'>{_paragraph(self.sentence)}</div>{shown}"

    @property
    def sentence(self) -> str:
        """What fits, or what is wrong."""
        return " ".join((self.fit.sentence, *self.fit.notes)) if self.fit else self.problem

    def _fit(self, **changed: str | None) -> Fit:
        """The plan of the controls' values, some of them changed."""
        values = {name: control.value for name, control in self.controls.items()} | changed
        sequence = values.pop("input_length") + values.pop("output_length")
        return memory.fit(**values, sequence=sequence)

    def alternatives(self) -> list[Fit]:
        """The plan shown and a few beside it: 16 bits, 8-bit weights, an 8-bit KV cache as well; what fits of them."""
        found: list[Fit] = []
        for changed in self._changes():
            try:
                plan = self._fit(**changed)
            except WorkshopError:
                continue  # the plan itself says what is wrong; an alternative that does not fit is none
            if plan not in found:
                found.append(plan)
        return found

    def _changes(self) -> Iterator[dict[str, str | None]]:
        """What the alternatives change; 8 bits are those that this GPU multiplies."""
        here = hardware.support(hardware.by_key(self.controls["gpu"].value).compute_capability)
        has_fp8 = here is not None and "fp8" in here.engine_weights
        weights, cache = ("fp8", "fp8") if has_fp8 else ("int8_sq", "int8")
        yield {}
        yield {"precision": "fp16", "kv": None}
        yield {"precision": weights, "kv": None}
        yield {"precision": weights, "kv": cache}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Text and HTML always; the live view only where something can draw it, since a page would prefer it too."""
        bundle: dict[str, Any] = {"text/plain": str(self), "text/html": self._repr_html_()}
        if has_front_end():
            bundle[_VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return bundle

    def __str__(self) -> str:
        plans = self.alternatives()
        parts = [] if self.fit else [self.problem]
        parts += [str(self.fit)] if self.fit else []
        return "\n\n".join([*parts, *([str(memory.compare(*plans))] if plans else []), _NOTE])

    def _repr_html_(self) -> str:
        plans = self.alternatives()
        shown = _picture_html(plans) + memory.compare(*plans)._repr_html_() if plans else ""
        said = self.fit._repr_html_() if self.fit else _paragraph(self.problem)
        return f"{said}{shown}{_paragraph(_NOTE)}"


def _picture_html(plans: Sequence[Fit]) -> str:
    from helpers import plots

    return plots.memory_bar(*plans)._repr_html_()


def _paragraph(text: str) -> str:
    return f"<p style='margin:0.4em 0;line-height:1.4'>{html.escape(text)}</p>"


_LOOK = {"style": {"description_width": "12em"}, "layout": {"width": "36em", "max_width": "100%"}}


def _menu(description: str, options: Sequence[tuple[str, str]], value: str) -> Any:
    """A menu of (shown, value) pairs."""
    import ipywidgets

    return ipywidgets.Dropdown(options=options, value=value, description=description, **_LOOK)


def _slider(description: str, value: int, minimum: int, maximum: int, step: int) -> Any:
    """A slider that tells its value when it is let go; its end moves out to hold the value that it starts with.

    Raises:
        WorkshopError: the value is below the slider's beginning.
    """
    import ipywidgets

    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise WorkshopError(f"{description} is {value!r}. Give a whole number of at least 1.")
    ends = {"min": min(minimum, value), "max": max(maximum, value), "step": step}
    return ipywidgets.IntSlider(value, description=description, continuous_update=False, **ends, **_LOOK)


def wide(width: str) -> dict[str, Any]:
    """The look of a control that is so wide, as far as the page is."""
    return {"style": {"description_width": "initial"}, "layout": {"width": width, "max_width": "100%"}}


def button(description: str, tooltip: str, act: Callable[[], None], style: str = "") -> Any:
    """A button with a name and an explanation, which calls a function without arguments."""
    import ipywidgets

    made = ipywidgets.Button(description=description, tooltip=tooltip, button_style=style, layout={"width": "6em"})
    made.on_click(lambda _: act())
    return made
