"""A container file: NVIDIA's image of the release with the command that serves, or the CPU server's own (notebook 09).

Pure. The engine is not in it unless asked: it belongs to one GPU and one release, is larger than everything else, and
changes at other times than the code around it.
"""

import json

from helpers.deploy.export.facts import MODELS, PORT, comment, facts
from helpers.deploy.export.subject import RECIPE, File, Subject

FOLDER = "container"
ABOUT = "a container file, and what a build may read"
_CONTEXT = ("helpers", "data", "requirements.txt")  # what the CPU server is made of, from the repository
_ENGINE = "engine"  # beside the container file, where one is baked in


def refusal(subject: Subject) -> str:
    """Why there is none; empty where there is."""
    return ""


def files(subject: Subject) -> dict[str, File]:
    """The container file, and twice the list of what a build may read: Podman and Docker look for other names."""
    text = on_gpu(subject) if subject.on_gpu else on_cpu(subject)
    ignore = ignored(subject)
    made = {
        f"{FOLDER}/Containerfile": File(text, "how the image is made"),
        f"{FOLDER}/.containerignore": File(ignore, "what a build by Podman may read: only what it uses"),
        f"{FOLDER}/.dockerignore": File(ignore, "the same for Docker"),
    }
    if not subject.on_gpu:
        made[f"{FOLDER}/{RECIPE}"] = File(recipe_inside(subject), "the recipe, listening where a container is reached")
    for name, content in subject.settings.items():
        made[f"{FOLDER}/{name}"] = File(content, "what the server reads from a file")
    return made


def on_gpu(subject: Subject) -> str:
    """From NVIDIA's image of the release that builds the engine."""
    release = subject.release
    assert release is not None
    lines = [
        *comment(
            f"Serves the recipe {subject.recipe.name} with TensorRT-LLM {release.version}: the release that built the "
            "engine is the only one that reads it.",
        ),
        f"FROM {release.container}",
        "",
        *_user_and_home(),
    ]
    for name in subject.settings:
        lines += [f"COPY --chmod=0444 {name} {subject.settings_path}"]
    if subject.baked:
        user = facts()["user"]["id"]
        lines += [
            *comment("Baked in, as asked: this image is for one GPU alone, and as large as its engine."),
            f"COPY --chown={user}:{user} {_ENGINE} {subject.engine}",
            f"COPY --chown={user}:{user} tokenizer {subject.tokenizer}",
        ]
    else:
        lines += comment(f"The engine and the tokenizer are not in it: mount them at {MODELS}, read-only.")
    return "\n".join([*lines, *_run(subject)]) + "\n"


def on_cpu(subject: Subject) -> str:
    """From Python's own image, with this workshop's helpers."""
    lines = [
        *comment(
            f"Serves the recipe {subject.recipe.name} with OpenVINO. The engine is compiled for the processor that it "
            "runs on: the container builds it when it starts, and not before.",
        ),
        f"FROM {facts()['images']['python']}",
        "",
        "WORKDIR /app",
        *comment("PyTorch's CPU build: the other one brings gigabytes of CUDA."),
        "COPY requirements.txt .",
        "RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -r requirements.txt",
        "COPY data data",
        "COPY helpers helpers",
        f"COPY {RECIPE} .",
        *_user_and_home(),
    ]
    return "\n".join([*lines, *_run(subject)]) + "\n"


def _user_and_home() -> list[str]:
    """A home that its user may write to; a number, so that a cluster can see that it is not root."""
    user, home = facts()["user"]["id"], facts()["user"]["home"]
    return [f"RUN install -d -o {user} -g {user} {home}"]


def _run(subject: Subject) -> list[str]:
    """Who it runs as, how it is asked whether it is well, and what it runs."""
    user = facts()["user"]["id"]
    healthy = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/health', timeout=5)"
    python = "python3" if subject.on_gpu else "python"
    return [
        "ENV " + " ".join(f"{name}={value}" for name, value in subject.environment.items()),
        f"USER {user}:{user}",
        f"EXPOSE {PORT}",
        *comment(
            f"assumed: a start takes {subject.start_seconds} s at most, and no failed check counts until then. A "
            "cluster asks by its own probes."
        ),
        f"HEALTHCHECK --interval=10s --timeout=6s --retries=6 --start-period={subject.start_seconds}s \\",
        f"    CMD {json.dumps([python, '-c', healthy])}",
        *comment(
            "0.0.0.0 is every address of the container, which has one of its own: what reaches it is what is published "
            "when it starts."
            if subject.on_gpu
            else f"{RECIPE} says 0.0.0.0: every address of the container. What reaches it is published when it starts."
        ),
        f"CMD {json.dumps(subject.command)}",
    ]


def ignored(subject: Subject) -> str:
    """Everything but what the container file copies; a context with an engine in it is gigabytes to send."""
    used = list(subject.settings)
    if subject.baked:
        used += [_ENGINE, "tokenizer"]
    if not subject.on_gpu:
        used += [*_CONTEXT, RECIPE]
    lines = ["*", *(f"!{name}" for name in used)]
    if not subject.on_gpu:
        lines += ["**/__pycache__"]
    return "\n".join(lines) + "\n"


def recipe_inside(subject: Subject) -> str:
    """The recipe with the address and the port of a container."""
    inside = subject.recipe.changed(serving__host="0.0.0.0", serving__port=PORT)
    return f"# {subject.recipe.name}, listening on every address of its container.\n{inside.to_yaml()}"


def steps(subject: Subject) -> list[str]:
    """How the image is made and run, for the README."""
    made = []
    if subject.baked:
        made.append(f'cp -r "$MODELS/{subject.name}" {FOLDER}/{_ENGINE}\ncp -r "$MODELS/tokenizer" {FOLDER}/tokenizer')
    if not subject.on_gpu:
        made.append("export REPOSITORY=/path/to/the/workshop")
        made.append(f'(cd "$REPOSITORY" && cp -r {" ".join(_CONTEXT)} "$OLDPWD/{FOLDER}/")')
    image = subject.asked_image or f"{subject.name}:1"
    made.append(f"docker build -t {image} -f {FOLDER}/Containerfile {FOLDER}")
    gpu = f"--gpus all --shm-size={subject.shared_memory_gib}g " if subject.on_gpu else ""
    models = f'-v "$MODELS:{MODELS}:ro" ' if subject.mounted else ""
    return [*made, f"docker run --rm {gpu}{models}-p 127.0.0.1:{PORT}:{PORT} {image}"]


def untried(subject: Subject) -> str:
    """What was not tried of it."""
    gpu = " Nor was trtllm-serve seen to run as another user than root." if subject.on_gpu else ""
    return f"Container: the file was read by BuildKit's own parser. No image was built from it.{gpu}"
