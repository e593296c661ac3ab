"""Record what tensor parallelism does on a machine with several GPUs (``data/measured/tensor-parallel/<name>.json``).

``python -m tools.measure_tensor_parallel --name nvidia-h100-x2 --machine "..." --models bundled TinyLlama [--runs 5]``
runs the very stages of notebook 06 on this Python, which needs torch for CUDA, transformers and accelerate but no
TensorRT-LLM. Each model is split and compared with the whole; then one token is timed on one GPU and on all, several
runs in turn. A name of ``data/models.toml`` stands for random weights of that shape: nothing is downloaded. A model
that the file has already is replaced in it.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from helpers import hardware, memory, models, stage, workspace
from helpers.checkpoint import Runner
from helpers.errors import WorkshopError
from helpers.models import Model
from helpers.tensor_parallel import ranks, timing

_WORDS = "--name NAME --machine WORDS"


def random_model(config: Mapping[str, Any], name: str) -> Model:
    """A model of a known shape with random FP16 weights, in the workspace's scratch folder; it has no tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = workspace.home() / "scratch" / "random-weights"
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    torch.set_default_device("cuda")  # random numbers for a billion weights take a CPU long
    wanted = {key: value for key, value in config.items() if key not in ("architectures", "torch_dtype")}
    LlamaForCausalLM(LlamaConfig(**wanted)).half().save_pretrained(folder)
    torch.set_default_device("cpu")
    torch.cuda.empty_cache()  # the ranks need the room
    return Model(f"{name}'s shape (random weights)", folder, str(folder), folder.name)


def split_facts(model: Model, gpus: int, by: Runner) -> dict[str, Any]:
    """What the ranks held, exchanged and answered, in short."""
    made = stage.run(ranks.task(model, gpus, by, "cuda"))
    told = ranks.Split(made.path, made.manifest).told
    first = told["ranks"][0]
    return {
        "ranks": gpus,
        "device": told["device"],
        "whole": told["whole"]["parameters"],
        **{name: first[name] for name in ("parameters", "bytes", "allocated")},
        "exchanges": told["exchanges"]["token"],
        "exchanges_of_text": told["exchanges"]["text"],
        "tokens_of_text": told["tokens"],
        "difference": told["difference"],
        "deviation": told["deviation"],
        "same_tokens": told["written"]["together"] == told["written"]["alone"],
    }


def timed(model: Model, gpus: int, by: Runner) -> dict[str, Any]:
    """One measurement of a token's time, made anew."""
    task = timing.task(model, gpus, by)
    shutil.rmtree(task.target, ignore_errors=True)
    told: dict[str, Any] = json.loads((stage.run(task).path / "timing.json").read_text())
    return told


def measured(name: str, model: Model, gpus: int, runs: int, by: Runner, machine: hardware.Machine) -> dict[str, Any]:
    """Everything about one model, which was asked for by name."""
    split = split_facts(model, gpus, by)
    timings: dict[str, list[dict[str, Any]]] = {str(count): [] for count in sorted({1, gpus}) if runs}
    for _ in range(runs):
        for count in timings:  # in turn, so that a machine that grows warmer favours none
            timings[count].append(timed(model, int(count), by))
    return {
        "name": model.name,
        "date": datetime.date.today().isoformat(),
        "versions": {"driver": machine.driver, "CUDA": machine.cuda, "Python": platform.python_version(), **by.maker},
        "command": f"python -m tools.measure_tensor_parallel --models {name} --gpus {gpus} --runs {runs} {_WORDS}",
        "split": split,
        "timings": timings,
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the file to write")
    parser.add_argument("--machine", required=True, help="what the machine is, in words")
    parser.add_argument("--models", nargs="+", required=True, help="'bundled', or names of data/models.toml")
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5, help="of the timing; 0 for none")
    parser.add_argument("--output", type=Path, default=timing.FOLDER, help="folder of the file")
    return parser.parse_args()


def main() -> None:
    """Split, compare, time, write."""
    arguments = parse()
    by = Runner(sys.executable, {name: version(name) for name in ("torch", "transformers", "accelerate")})
    machine = hardware.look()
    file = arguments.output / f"{arguments.name}.json"
    found = json.loads(file.read_text())["models"] if file.exists() else []
    for name in arguments.models:
        model = models.find() if name == models.BUNDLED else random_model(models.known()[name]["config"], name)
        memory.require_split(model.name, memory.Shape.of(model.config), arguments.gpus)
        made = measured(name, model, arguments.gpus, arguments.runs, by, machine)
        found = [*(one for one in found if one["name"] != model.name), made]
    kept = {
        "gpu": machine.gpus[0].name,
        "gpus": arguments.gpus,
        "machine": arguments.machine,
        "settings": [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NCCL_")],
        "units": {"timings": "seconds a token, samples, run by run", "bytes": "of FP32 in split, of FP16 in timings"},
        "models": found,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    workspace.write_whole(file, json.dumps(kept, indent=1) + "\n")
    print(f"Written: {file}")


if __name__ == "__main__":
    try:
        main()
    except WorkshopError as problem:
        sys.exit(f"error: {problem}")
