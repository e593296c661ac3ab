"""Everything around the lesson itself: how a notebook opens and closes, the plan, what was run, and how to catch up."""

from helpers.teaching.board import board
from helpers.teaching.catch_up import catch_up, missing
from helpers.teaching.cost import cost
from helpers.teaching.glossary import glossary
from helpers.teaching.notebooks import Notebook, Section, named, notebooks, time_plan
from helpers.teaching.opening import finish, start
from helpers.teaching.pacing import pace
from helpers.teaching.rehearsal import rehearse
from helpers.teaching.syllabus import syllabi, syllabus

__all__ = [
    "Notebook",
    "Section",
    "board",
    "catch_up",
    "cost",
    "finish",
    "glossary",
    "missing",
    "named",
    "notebooks",
    "pace",
    "rehearse",
    "start",
    "syllabi",
    "syllabus",
    "time_plan",
]
