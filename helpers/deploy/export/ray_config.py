"""A config file for ``serve deploy`` and for KubeRay: the application that notebook 09 runs, unchanged. Pure."""

from dataclasses import asdict
from typing import Any

from helpers.deploy.export.facts import PORT, to_yaml
from helpers.deploy.export.subject import EVERYWHERE, RECIPE, File, Subject

FOLDER = "ray"
FILE = f"{FOLDER}/serve_config.yaml"
ABOUT = "Ray Serve's config file of the application that notebook 09 runs"
IMPORT = "helpers.deploy.ray_app:build"


def refusal(subject: Subject) -> str:
    """Why there is none; there always is."""
    return ""


def files(subject: Subject) -> dict[str, File]:
    """The config, and the recipe where its name alone does not say it."""
    return {FILE: File(text(subject), "what Ray Serve runs, and how it scales")}


def arguments(subject: Subject) -> dict[str, Any]:
    """What the application is built from: the recipe and the scaling; what is None is left to it."""
    from helpers.recipe.schema import is_file

    recipe = subject.recipe.name if is_file(subject.recipe) else RECIPE
    return {"recipe": recipe, **{name: value for name, value in asdict(subject.scaling).items() if value is not None}}


def text(subject: Subject) -> str:
    """The config."""
    document = {
        "proxy_location": "EveryNode",
        "http_options": {"host": EVERYWHERE, "port": PORT},
        "applications": [
            {"name": subject.name, "route_prefix": "/", "import_path": IMPORT, "args": arguments(subject)}
        ],
    }
    inside = arguments(subject)["recipe"] == subject.recipe.name
    header = [
        f"Serves the recipe {subject.recipe.name}. Every node needs this repository (helpers and data) on its Python "
        "path and its requirements; a GPU node TensorRT-LLM too (notebook 02).",
        *([] if inside else [f"And {RECIPE} in the repository's folder: the recipe is none of data/recipes."]),
        "For KubeRay, this text is serveConfigV2 of a RayService.",
    ]
    why = {
        "host": "Every address of a node: a proxy runs on each. A cluster's network decides who reaches it.",
        "args": "As in deploy.start(recipe, Scaling(…)): seconds, and requests in flight for each replica.",
    }
    return to_yaml(document, header=header, why=why)


def steps(subject: Subject) -> list[str]:
    """How it is deployed, for the README."""
    return [f"serve deploy {FILE}", "serve status"]


def untried(subject: Subject) -> str:
    """What was not tried of it."""
    return (
        "Ray: the config was read by Ray's own schema. Notebook 09 runs the application on one machine; a cluster of "
        "several was not tried."
    )
