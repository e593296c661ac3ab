"""The one visual language: colours, lines and signs that cards, pictures, widgets and pages share.

What shows itself is seen on grounds that nobody here chooses: JupyterLab's light and dark themes, VS Code, a page
that follows the reader's system. So text and fine lines take the colour of the text around them (``currentColor``),
what lies behind a label takes the colour of the ground, and every other colour is of a middle tone, told apart from
light and dark grounds alike. ``tests/test_looks.py`` measures all of them.

Nothing is told by colour alone: a box's kind is its line's pattern too, a verdict has a sign and a word, and series of
a picture differ in hatch, marker or dashes.
"""

from dataclasses import dataclass

COLOURS = ("#156AD8", "#9F9548", "#39A472", "#CD77B0", "#DE3500", "#3F95E3", "#666E6E")
"""Of series: blue, ochre, green, pink, vermilion, sky and grey, as Okabe and Ito's palette has them, moved to middle
tones. Searched for by distance as seen by normal, deuteranope and protanope eyes (Machado and others, 2009), among
colours of at least 3:1 against white and against the dark grounds below."""

GROUNDS = ("#ffffff", "#f5f6f7", "#111111", "#16181b", "#1e1e1e", "#212121")
"""What things are shown on: JupyterLab and pages in light, JupyterLab, pages and VS Code in dark."""

GROUND = "var(--jp-layout-color0,var(--vscode-editor-background,var(--back,Canvas)))"
"""CSS for the colour of the ground: JupyterLab's variable, VS Code's, the pages', or the browser's own."""

MIXED = {
    "panel": ("currentColor", 7),
    "shade": ("currentColor", 30),
    "grid": ("currentColor", 14),
    "warm": (COLOURS[1], 16),
    "pale": (COLOURS[0], 60),
}
"""Tones of pictures between the ground and another colour: the other, and its share in percent."""

TONES = ";".join(f"--{tone}:color-mix(in srgb,{of} {share}%,var(--ground))" for tone, (of, share) in MIXED.items())
"""CSS that defines them, where ``--ground`` is the ground's colour."""

LINE = "rgba(128,128,128,0.35)"
"""CSS for the lines between rows of a table, which are decoration."""

MADE, TOLD, ASKED, WARNS, STOPS = "made", "told", "asked", "warns", "stops"
"""The kinds of a box: an artifact that was made; a plan or a text; an exercise; a warning; what cannot go on."""


@dataclass(frozen=True)
class Line:
    """The line at the left of a box.

    Attributes:
        colour: a middle tone.
        pattern: a CSS border style, which tells the kind without the colour.
        width: in pixels.
    """

    colour: str
    pattern: str
    width: int = 4

    @property
    def css(self) -> str:
        """The border as CSS has it."""
        return f"{self.width}px {self.pattern} {self.colour}"


LINES = {
    MADE: Line("#568C00", "solid", 5),
    TOLD: Line("#757575", "solid", 2),
    ASKED: Line("#156AD8", "dashed"),
    WARNS: Line("#B27500", "dotted", 5),
    STOPS: Line("#DE3500", "double", 6),
}
"""The line of each kind of box."""


@dataclass(frozen=True)
class Verdict:
    """What an exercise says of an answer: it begins with these words, and is shown with this sign."""

    words: str
    sign: str
    line: str


VERDICTS = (
    Verdict("Right.", "✓", "2px solid"),
    Verdict("Not right.", "✗", "5px double"),
    Verdict("Not yet", "✗", "5px double"),
    Verdict("Not answered yet", "○", "2px dashed"),
    Verdict("Not judged", "○", "2px dashed"),
)
"""The verdicts of exercises; words, sign and line differ."""

WARNING, STOP, DONE = "⚠", "✗", "✓"
"""Signs before a word, never in place of it."""


def verdict_of(text: str) -> Verdict | None:
    """The verdict that a text begins with; None where it is no verdict."""
    return next((verdict for verdict in VERDICTS if text.startswith(verdict.words)), None)
