"""A model repository for Triton with TensorRT-LLM's C++ backend (notebook 09). Pure.

Only ``tensorrt_llm``, the model that holds the engine, is written here, from the rows of ``data/triton.toml``. What is
around it (tokenizing before, detokenizing after, the two together) is NVIDIA's code, taken from the release's tag.
"""

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from helpers.deploy.export.facts import comment
from helpers.deploy.export.subject import File, Subject
from helpers.workspace import DATA

FOLDER = "triton"
ABOUT = "a model repository for Triton with TensorRT-LLM's C++ backend"
_MODEL = f"{FOLDER}/model_repository/tensorrt_llm"


@cache
def facts() -> Mapping[str, Any]:
    """The content of ``data/triton.toml``."""
    return tomllib.loads((DATA / "triton.toml").read_text())


def refusal(subject: Subject) -> str:
    """Why there is none; empty where there is."""
    if subject.release is None:
        return (
            f"The recipe {subject.recipe.name} is for a CPU, and Triton's TensorRT-LLM backend reads engines of "
            "TensorRT-LLM. Take a recipe for a GPU."
        )
    if subject.release.version not in facts()["release"]:
        return f"data/triton.toml names no Triton image with TensorRT-LLM {subject.release.version}: add it there."
    return ""


def files(subject: Subject) -> dict[str, File]:
    """The model's configuration, the folder of its only version, and how the rest is fetched."""
    return {
        f"{_MODEL}/config.pbtxt": File(config(subject), "Triton's description of the engine"),
        f"{_MODEL}/1/.gitkeep": File("", "its only version: the engine itself is where gpt_model_path says"),
        f"{FOLDER}/fill.sh": File(fill(subject), "fetches what is around the engine from NVIDIA's tag and fills it in"),
    }


def config(subject: Subject) -> str:
    """The text of ``config.pbtxt``."""
    known, batch = facts(), subject.recipe.max_batch_size
    assert subject.release is not None
    head = comment(
        f"The recipe {subject.recipe.name} for Triton's TensorRT-LLM backend, release {subject.release.version}.",
        "Every name here is in that release's template or in its page (data/triton.toml says where it was read).",
    )
    lines = [
        *head,
        'name: "tensorrt_llm"',
        f'backend: "{known["backend"]}"',
        f"max_batch_size: {batch}",
        *comment("Answers are streamed, token by token."),
        "model_transaction_policy { decoupled: true }",
        *comment("Nothing waits here to be batched: the engine batches in flight. So many may wait for the engine."),
        "dynamic_batching {",
        f"  preferred_batch_size: [ {batch} ]",
        "  max_queue_delay_microseconds: 0",
        f"  default_queue_policy {{ max_queue_size: {subject.recipe.serving.max_queue} }}",
        "}",
        *_tensors("input", known["tensors"]["inputs"]),
        *_tensors("output", known["tensors"]["outputs"]),
        *comment("The backend takes its GPUs itself, one for each rank."),
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
    ]
    for name, value in parameters(subject).items():
        lines.append(f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}')
    return "\n".join(lines) + "\n"


def _tensors(kind: str, rows: list[list[Any]]) -> Iterator[str]:
    """The tensors of one direction, one a line."""
    yield f"{kind} ["
    for number, (name, data_type, extents, *flags) in enumerate(rows, 1):
        said = f'name: "{name}" data_type: {data_type} dims: [ {", ".join(map(str, extents))} ]'
        said += " reshape { shape: [ ] }" if "scalar" in flags else ""
        said += " optional: true" if "optional" in flags else ""
        said += " allow_ragged_batch: true" if "ragged" in flags else ""
        yield f"  {{ {said} }}{',' if number < len(rows) else ''}"
    yield "]"


def parameters(subject: Subject) -> dict[str, str]:
    """The backend's own parameters, as text: each is a row of ``data/triton.toml``, in its order."""
    serving = subject.recipe.serving
    values = {
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": subject.engine,
        "max_beam_width": "1",
        "batch_scheduler_policy": "guaranteed_no_evict",
        "kv_cache_free_gpu_mem_fraction": f"{serving.kv_cache_share:g}",
        "enable_kv_cache_reuse": _truth(subject.reuse),
        "enable_chunked_context": _truth(serving.chunked_prefill),
        "exclude_input_in_output": "true",
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
        "guided_decoding_backend": "",
        "tokenizer_dir": "",
        "xgrammar_tokenizer_info_path": "",
    }
    return {row["name"]: values[row["name"]] for row in facts()["parameter"]}


def _truth(value: bool) -> str:
    return str(value).lower()


def fill(subject: Subject) -> str:
    """A shell script: what is around the engine, from NVIDIA's tag, with this recipe's values."""
    assert subject.release is not None
    batch, tag = subject.recipe.max_batch_size, f"v{subject.release.version}"
    tokenizer, logits = f"tokenizer_dir:{subject.tokenizer}", "logits_datatype:TYPE_FP32"
    size = f"triton_max_batch_size:{batch}"
    filled = {
        "preprocessing": f"{tokenizer},{size},preprocessing_instance_count:1,max_queue_delay_microseconds:0,"
        f"max_queue_size:{subject.recipe.serving.max_queue}",
        "postprocessing": f"{tokenizer},{size},postprocessing_instance_count:1",
        "ensemble": f"{size},{logits}",
        "tensorrt_llm_bls": f"{size},decoupled_mode:true,bls_instance_count:{batch},{logits}",
    }
    return (
        "\n".join(
            [
                "#!/bin/sh",
                *comment(
                    f"Fetches the models around the engine from TensorRT-LLM {tag} and fills in this recipe's values.",
                    f"They are NVIDIA's: {facts()['folder'].format(release=subject.release.version)}",
                    "Needs git and Python 3; run it once, in this folder.",
                ),
                "set -eu",
                'cd "$(dirname "$0")"',
                "rm -rf upstream",
                f"git clone --depth 1 --branch {tag} --filter=blob:none --sparse \\",
                "    https://github.com/NVIDIA/TensorRT-LLM upstream",
                "models=triton_backend/all_models/inflight_batcher_llm",
                'git -C upstream sparse-checkout set "$models" triton_backend/tools',
                f"for model in {' '.join(filled)}; do",
                '    cp -r "upstream/$models/$model" model_repository/',
                "done",
                *(
                    "python3 upstream/triton_backend/tools/fill_template.py -i "
                    f"model_repository/{model}/config.pbtxt \\\n    '{values}'"
                    for model, values in filled.items()
                ),
                "rm -rf upstream",
            ]
        )
        + "\n"
    )


def steps(subject: Subject) -> list[str]:
    """How it is started, for the README."""
    assert subject.release is not None
    known = facts()["release"][subject.release.version]
    return [
        "sh triton/fill.sh",
        f"docker run --rm --gpus all --shm-size={subject.shared_memory_gib}g -p 127.0.0.1:8000:8000 \\\n"
        f'    -v "$MODELS:/models:ro" -v "$PWD/triton/model_repository:/repository:ro" \\\n'
        f"    {known['image']} \\\n"
        f"    python3 /app/scripts/launch_triton_server.py --world_size={subject.ranks} --model_repo=/repository",
        "# In another terminal, once it says that its HTTP service has started:\n"
        "curl -X POST http://127.0.0.1:8000/v2/models/tensorrt_llm_bls/generate_stream \\\n"
        '    -d \'{"text_input": "Born in north-east France,", "max_tokens": 32, "bad_words": "", "stop_words": "", '
        '"stream": true}\'',
    ]


def untried(subject: Subject) -> str:
    """What was not tried of it."""
    assert subject.release is not None
    known = facts()["release"][subject.release.version]
    return (
        "Triton: the text was parsed by Triton's own protobuf, and never loaded by a server. That its image has "
        f"TensorRT-LLM {subject.release.version} was read in {known['image_source']}. It is started as that "
        "image's own user."
    )
