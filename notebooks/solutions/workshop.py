"""What every notebook of solutions imports first: the lessons' own ``workshop``, which is one folder up."""

import importlib.util
from pathlib import Path


def _lessons():
    """The module ``notebooks/workshop.py``, which has this one's name."""
    spec = importlib.util.spec_from_file_location(
        "lessons", str(Path(__file__).resolve().parent.parent / "workshop.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(name):
    """Open the solutions of a lesson: check the kernel, then say how many exercises it has and what it needs.

    Args:
        name: the lesson's file name without ``.ipynb``.
    """
    _lessons().require_kernel()
    from helpers import teaching, workspace
    from helpers.cards import Card
    from helpers.exercises import asked

    asked.hide_solutions()
    lesson = teaching.named(name)
    count = sum("exercise" in cell.tags for cell in lesson.cells)
    facts = {
        "exercises": str(count),
        "lesson": f"notebooks/{name}.ipynb",
        "workspace": f"{workspace.home()} (what the lesson made there is used; what is missing is made)",
    }
    return Card(
        f"Solutions: {lesson.title}",
        facts,
        "Try each exercise in the lesson first; the check tells you more than this page.",
    )
