"""Everything around the lesson itself: how a notebook opens and closes, the plan, what was run, and how to catch up."""

from helpers.teaching.notebooks import Notebook, Section, named, notebooks, time_plan
from helpers.teaching.opening import finish, start

__all__ = ["Notebook", "Section", "finish", "named", "notebooks", "start", "time_plan"]
