"""One YAML file from weights to an API: what it may say, what it leads to, and doing it (notebook 07).

``recipe.load("bundled-cpu")`` reads one, ``recipe.plan`` shows its stages, ``recipe.run`` makes what is missing, and
``recipe.diff`` says what a change would do again.
"""

from helpers.recipe.diff import Diff, diff
from helpers.recipe.here import for_this_machine, pair, require_here, require_machine, twin
from helpers.recipe.reading import FOLDER, names
from helpers.recipe.rules import Remark, check, problems
from helpers.recipe.rules import table as remarks
from helpers.recipe.schema import CPU, Calibration, Recipe, Serving, from_text, given, load, parse
from helpers.recipe.stages import PlannedStep, RecipePlan, overview, plan, run

__all__ = [
    "CPU",
    "FOLDER",
    "Calibration",
    "Diff",
    "PlannedStep",
    "Recipe",
    "RecipePlan",
    "Remark",
    "Serving",
    "check",
    "diff",
    "for_this_machine",
    "from_text",
    "given",
    "load",
    "names",
    "overview",
    "pair",
    "parse",
    "plan",
    "problems",
    "remarks",
    "require_here",
    "require_machine",
    "run",
    "twin",
]
