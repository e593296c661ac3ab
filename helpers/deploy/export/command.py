"""``python -m helpers export RECIPE``: files for other platforms, from a terminal (notebook 09)."""

import argparse
import sys

from helpers.deploy import options
from helpers.deploy.scaling import PATIENT


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command and its options."""
    told = "write a recipe as files for Triton, Kubernetes, KServe, a container, Ray Serve and Truss (notebook 09)"
    command = commands.add_parser("export", help=told)
    command.add_argument("recipe", help="a file, or a name in data/recipes, such as tinyllama-fp8-rtx-4090")
    command.add_argument("--output", metavar="FOLDER", help="write them there (default: only show them)")
    command.add_argument(
        "--target", metavar="NAME[,NAME…]", default="", help="of container, kubernetes, kserve, triton, ray, truss"
    )
    command.add_argument("--image", default="", help="what the cluster calls the container's image")
    command.add_argument("--baked", action="store_true", help="copy the engine into the image instead of mounting it")
    command.add_argument("--release", help="of TensorRT-LLM (default: the newest offered for the recipe's GPU)")
    options.add_to(command, PATIENT)


def run(asked: argparse.Namespace) -> int:
    """Show or write the files; 1 where a target that was named has none, or there is nothing at all.

    Raises:
        WorkshopError: it is no recipe, an option makes no sense, or the folder cannot be written.
    """
    from helpers.deploy.export.files import export

    targets = [name.strip() for name in asked.target.split(",") if name.strip()]
    scaling = options.scaling_of(asked, PATIENT)
    made = export(asked.recipe, scaling, targets=targets, image=asked.image, baked=asked.baked, release=asked.release)
    written = asked.output and made.made
    print(made.summary() if written else made)
    if written:
        print(f"Written: {made.write(asked.output)}")
    elif asked.output:
        print("Nothing was written.", file=sys.stderr)
    return 1 if not made.made or (targets and made.refusals) else 0
