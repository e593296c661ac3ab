"""The README of an exported folder: what each file is, the commands in order, what nobody tried (notebook 09)."""

from collections.abc import Mapping
from types import ModuleType

from helpers import hardware
from helpers.cards import bytes_text
from helpers.deploy.export.subject import File, Subject

FILE = "README.md"
_READ_ENGINE = {"container", "kubernetes", "kserve", "triton"}  # the others build it themselves


def text(subject: Subject, made: Mapping[str, File], targets: Mapping[str, ModuleType]) -> str:
    """The README.

    Args:
        subject: what is exported.
        made: every other file.
        targets: those that have files, by name.
    """
    parts = [f"# {subject.recipe.name}", _about(subject), "## Files", _files(made)]
    built = subject.on_gpu and bool(_READ_ENGINE & set(targets))
    if built:
        parts += ["## 1. Build the engine, on that GPU", _build(subject)]
    for number, (name, module) in enumerate(targets.items(), 2 if built else 1):
        parts += [f"## {number}. {name}: {module.ABOUT}", _shell("\n".join(module.steps(subject)))]
    untried = [module.untried(subject) for module in targets.values()]
    parts += ["## What nobody has tried", "\n".join(f"- {sentence}" for sentence in [*untried, _numbers(subject)])]
    return "\n\n".join(parts) + "\n"


def _about(subject: Subject) -> str:
    """One paragraph: what is served, on what, how it scales."""
    recipe, scaling = subject.recipe, subject.scaling
    if subject.release is None:
        where = "on a CPU, with OpenVINO and this workshop's own server"
    else:
        count = f"{subject.ranks} × " if subject.ranks > 1 else ""
        where = f"on {count}{hardware.by_key(recipe.gpu).name}, with TensorRT-LLM {subject.release.version}"
    return (
        f"{recipe.model} {where}, behind an OpenAI-compatible API that calls it `{subject.served}`. Replicas: "
        f"{scaling.min_replicas} to {scaling.max_replicas}, {scaling.target_ongoing:g} requests in flight for each. "
        "Made from `recipe.yaml` by the TensorRT-LLM workshop; make it again, in another folder, rather than edit it. "
        "Commands are run in this folder."
    )


def _files(made: Mapping[str, File]) -> str:
    rows = [f"| `{path}` | {file.about} |" for path, file in made.items()]
    return "\n".join(["| file | what it is |", "|---|---|", *rows])


def _build(subject: Subject) -> str:
    """How the engine and the tokenizer come to be in one folder."""
    size = f"predicted: {bytes_text(subject.engine_bytes)}" if subject.engine_bytes else "its size is not known here"
    release = subject.release
    assert release is not None
    command = "\n".join(
        [
            'export REPOSITORY=/path/to/the/workshop MODELS="$PWD/models"',
            '(cd "$REPOSITORY" && python -m helpers build "$OLDPWD/recipe.yaml")   # says where the engine is',
            'mkdir -p "$MODELS"',
            f'cp -r ENGINE_FOLDER "$MODELS/{subject.name}" && cp -r MODEL_FOLDER "$MODELS/tokenizer"',
        ]
    )
    return (
        f"An engine ({size}) loads on the kind of GPU that built it, and with TensorRT-LLM {release.version} alone. "
        "ENGINE_FOLDER and MODEL_FOLDER are what the build says; of the model only its settings and its tokenizer are "
        "read.\n\n" + _shell(command)
    )


def _shell(command: str) -> str:
    return f"```sh\n{command}\n```"


def _numbers(subject: Subject) -> str:
    """Which figures are not measured."""
    return (
        f"Figures: a start of {subject.start_seconds} s, an answer of {subject.answer_seconds} s and the memory are "
        "assumed or predicted, as the comments beside them say. Measure yours and set them."
    )
