"""The recipe's ``config.yaml`` for Truss, beside the other targets' files; see :mod:`helpers.recipe.truss`. Pure."""

from helpers.deploy.export.subject import File, Subject
from helpers.recipe import truss

FOLDER = "truss"
ABOUT = "the config.yaml of Truss, Baseten's packager"


def refusal(subject: Subject) -> str:
    """Why there is none, with every reason; empty where there is."""
    made = truss.export(subject.recipe)
    return " ".join([made.verdict, *map(str, made.refusals)]) if made.refusals else ""


def files(subject: Subject) -> dict[str, File]:
    """The one file."""
    return {f"{FOLDER}/{truss.FILE}": File(truss.export(subject.recipe).text, "what `truss push` deploys")}


def steps(subject: Subject) -> list[str]:
    """How it is deployed, for the README."""
    return [f"truss push {FOLDER}   # needs an account at Baseten, which builds the engine itself"]


def untried(subject: Subject) -> str:
    """What was not tried of it."""
    return f"Truss: version {truss.version()}'s own checks accept the file. It was pushed nowhere."
