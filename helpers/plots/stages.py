"""The way from weights to an endpoint, drawn (notebook 00 and the README)."""

from typing import TYPE_CHECKING, Any

from helpers.cards import Picture, Table
from helpers.errors import WorkshopError
from helpers.plots.canvas import COLOURS, FAINT, INK, PANEL, WHITE, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES: dict[str, tuple[tuple[str, str, str], ...]] = {
    # toolchain: (stage, the tool that does it, what comes out)
    "tensorrt_llm": (
        ("convert", "ModelOpt", "checkpoint, FP16"),
        ("quantize", "ModelOpt", "checkpoint, FP8"),
        ("build", "trtllm-build", "engine for this GPU"),
        ("generate", "TensorRT-LLM runtime", "text"),
        ("serve", "trtllm-serve", "API endpoint"),
    ),
    "tensorrt_llm_pytorch": (
        ("convert", "nothing to do", "the HF folder, FP16"),
        ("quantize", "ModelOpt", "HF folder, FP8"),
        ("build", "nothing to do", "the same folder"),
        ("generate", "PyTorch back end", "text"),
        ("serve", "trtllm-serve", "API endpoint"),
    ),
    "openvino": (
        ("convert", "ModelOpt", "checkpoint, FP16"),
        ("quantize", "ModelOpt", "checkpoint, FP8"),
        ("build", "OpenVINO, NNCF", "engine for this CPU"),
        ("generate", "OpenVINO GenAI", "text"),
        ("serve", "FastAPI, OpenVINO", "API endpoint"),
    ),
}


ENDINGS = {
    "tensorrt_llm": (
        "NVIDIA GPU: TensorRT-LLM",
        "The engine is built from the checkpoint, for this GPU and this release.",
    ),
    "tensorrt_llm_pytorch": (
        "NVIDIA GPU: TensorRT-LLM",
        "Nothing is built: the PyTorch back end loads the Hugging Face folder, quantized or not, as it is.",
    ),
    "openvino": (
        "CPU: OpenVINO",
        "The CPU's engine is built from the same weights at the same precision; "
        "the checkpoint is what a GPU builds from.",
    ),
}
BOX, PITCH = 1.55, 1.95
GREEN = "#007A56"
"""Dark enough for white letters, where the palette's green is not."""


def pipeline(toolchain: str = "openvino") -> Picture:
    """The way from weights to an endpoint, with the tools that take each step on this machine.

    Args:
        toolchain: ``openvino``, ``tensorrt_llm`` or ``tensorrt_llm_pytorch``.

    Raises:
        WorkshopError: another name.
    """
    if toolchain not in STAGES:
        raise WorkshopError(f"Unknown toolchain: {toolchain!r} was asked for; use one of {', '.join(STAGES)}.")
    stages = STAGES[toolchain]
    shared = 2  # convert and quantize are NVIDIA's own tools on every machine
    what, footnote = ENDINGS[toolchain]
    with figure(11.5, 3.1) as drawing:
        axis = drawing.axes[0]
        axis.set(xlim=(-0.1, PITCH * len(stages) + BOX + 0.1), ylim=(-1.75, 1.35))
        axis.set_aspect("equal")
        axis.axis("off")
        _box(axis, 0, "weights", "Hugging Face", PANEL, INK)
        for number, (stage, tool, result) in enumerate(stages, 1):
            left = PITCH * number
            colour = COLOURS[0] if number <= shared else GREEN
            _box(axis, left, stage, tool, colour, WHITE)
            lines = result.replace(", ", ",\n").replace(" for ", "\nfor ")
            axis.text(left + BOX / 2, -0.62, lines, ha="center", va="top", fontsize=10)
            arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.6, "shrinkA": 2, "shrinkB": 2}
            axis.annotate("", (left, 0), (left - PITCH + BOX, 0), arrowprops=arrow)
        _bracket(axis, PITCH, PITCH * shared + BOX, "the same on every machine", COLOURS[0])
        _bracket(axis, PITCH * (shared + 1), PITCH * len(stages) + BOX, what, GREEN)
        axis.text(PITCH, -1.5, footnote, fontsize=9.5, color=INK)
    rows = [(number, *stage) for number, stage in enumerate(stages, 1)]
    columns = ("step", "stage", "done by", "comes out")
    table = Table(columns, rows, "From Hugging Face weights to an endpoint", footnote)
    steps = ", ".join(f"{stage} ({tool})" for stage, tool, _ in stages)
    return Picture(drawing.svg, f"From weights to an endpoint in {len(stages)} steps: {steps}.", str(table))


def _box(axis: "Axes", left: float, name: str, tool: str, face: str, ink: str) -> None:
    """One stage: a rounded box with its name and the tool that does it."""
    from matplotlib.patches import FancyBboxPatch

    style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.14", "facecolor": face, "edgecolor": FAINT}
    axis.add_patch(FancyBboxPatch((left, -0.45), BOX, 0.9, **style))
    middle: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    axis.text(left + BOX / 2, 0.13, name, fontsize=12.5, weight="bold", **middle)
    axis.text(left + BOX / 2, -0.19, tool, fontsize=8.5, **middle)


def _bracket(axis: "Axes", left: float, right: float, text: str, colour: str) -> None:
    """A line over some boxes that says what they have in common."""
    axis.plot([left, left, right, right], [0.62, 0.74, 0.74, 0.62], color=colour, linewidth=1.5)
    axis.text((left + right) / 2, 0.88, text, ha="center", va="bottom", fontsize=11, weight="bold")
