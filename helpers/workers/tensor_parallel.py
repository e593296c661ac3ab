"""Worker: one rank of a model that is split over several processes with transformers' ``tp_plan="auto"`` (notebook 06).

``torchrun`` starts it once for each rank: over gloo between processes on a CPU, over NCCL between GPUs. All of it is
computed in FP32 (TF32 off), so that a difference to the whole model can only come from the order of additions. Rank 0
then runs the whole model too, and writes ``split.json``: what each rank holds, what the ranks told each other, and how
far the answers lie apart. Imports nothing of ``helpers``, so that it can run on a TensorRT-LLM release's own Python.
"""

import argparse
import contextlib
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from modelopt_checkpoint import dtype_argument, progress, read_texts  # type: ignore[import-not-found]
from torch.utils._python_dispatch import TorchDispatchMode

# transformers imports scikit-learn where there is one, with SciPy and pandas, for assisted decoding: seconds of each
# rank for nothing that is done here. None says that there is none.
sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]

STEPS = 6
PROMPT_TOKENS = 512  # of the prompt to continue, at most
# What torch calls the exchanges that a model split in this way can have.
_KINDS = {
    **{"all_reduce": "all-reduce", "allreduce": "all-reduce"},
    **{"all_gather": "all-gather", "allgather": "all-gather", "_allgather": "all-gather"},
    **{"reduce_scatter": "reduce-scatter", "_reduce_scatter": "reduce-scatter"},
    **{"all_to_all": "all-to-all", "alltoall": "all-to-all", "broadcast": "broadcast"},
}


class Exchanges(TorchDispatchMode):
    """Notes every exchange between the ranks that happens inside: its kind, and the bytes that this rank hands over."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch before every operation on a tensor."""
        namespace, _, name = str(function).partition(".")
        kind = next((kind for word, kind in _KINDS.items() if name.startswith(word)), None)
        if kind and namespace in ("c10d", "_c10d_functional"):
            given = args[1 if "_base_" in name else 0]  # those write into their first argument
            while isinstance(given, list | tuple):
                given = given[0]
            self.seen.append((kind, given.numel() * given.element_size()))
        return function(*args, **(kwargs or {}))

    def counted(self) -> list[dict[str, Any]]:
        """Each kind and size once, with how often it was seen."""
        return [{"kind": k, "bytes": b, "count": self.seen.count((k, b))} for k, b in dict.fromkeys(self.seen)]


def load(folder: Path, device: torch.device, dtype: torch.dtype, split: bool, **more: Any) -> Any:
    """The model, ready to run: this rank's part of it, or the whole."""
    from transformers import AutoModelForCausalLM

    if split and dist.get_world_size() > 1:  # for a single rank transformers refuses a plan
        more["tp_plan"] = "auto"
    if device.type == "cpu":
        # transformers puts parts on the machine's accelerator; a Mac's cannot hold ranks.
        torch._C._get_accelerator = lambda *_: torch.device("cpu")
    streams = sys.stdout, sys.stderr
    model = AutoModelForCausalLM.from_pretrained(folder, **dtype_argument(dtype), **more).eval()
    # transformers silences every GPU's rank but the first; what such a rank dies of shall be told.
    sys.stdout, sys.stderr = streams
    return model if "tp_plan" in more else model.to(device)


def local(tensor: Any) -> torch.Tensor:
    """This rank's part of a parameter."""
    part: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def full(tensor: Any) -> torch.Tensor:
    """A result as every rank has it; an exchange where each has only a part."""
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def meet(device: torch.device) -> None:
    """Join the other ranks, and let all of them add up their numbers once: what hangs, hangs here."""
    on_gpu, rank, world = device.type == "cuda", int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank == 0:
        progress(1, STEPS, f"first all-reduce: {world} rank{'s meet' if world > 1 else ' alone'}")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", device_id=device if on_gpu else None)
    total = torch.tensor([rank + 1.0], device=device)
    dist.all_reduce(total)
    if total.item() != world * (world + 1) / 2:
        raise SystemExit(f"error: the first all-reduce gave {total.item()} on rank {rank}: the link between them lies")


def held_bytes(model: Any) -> int:
    """Bytes of memory behind this rank's parameters, each piece of memory counted once."""
    memory = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in map(local, model.parameters())}
    return sum(memory.values())


def has_tokenizer(folder: Path) -> bool:
    """True if text can be given to this model."""
    return (folder / "tokenizer.json").exists() or (folder / "tokenizer.model").exists()


def ids_of(folder: Path, text: str, tokens: int, vocabulary: int) -> torch.Tensor:
    """Ids to read, [1, at most tokens]: the beginning of a text, or random ones for a model without a tokenizer."""
    if has_tokenizer(folder):
        from transformers import AutoTokenizer

        # A token has seldom more than a dozen characters: enough text for all of them, and no more.
        return torch.tensor([AutoTokenizer.from_pretrained(folder)(text[: 16 * tokens])["input_ids"][:tokens]])
    return torch.randint(3, vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def read(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Logits of every token of a text, [tokens, vocabulary], and the exchanges that took."""
    with Exchanges() as exchanges:
        out = model(input_ids=ids, use_cache=True)
    return full(out.logits)[0], exchanges.counted()


@torch.inference_mode()
def write(model: Any, ids: torch.Tensor, new_tokens: int) -> tuple[list[int], list[dict[str, Any]]]:
    """The greedy continuation of a prompt, and the exchanges of its first step of one token."""
    out, made, first = model(input_ids=ids, use_cache=True), [], Exchanges()
    for number in range(new_tokens):
        made.append(int(full(out.logits)[0, -1].argmax()))
        with first if not number else contextlib.nullcontext():
            token = torch.tensor([[made[-1]]], device=ids.device)
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
    return made, first.counted()


def described(model: Any, allocated: int) -> dict[str, Any]:
    """What this rank holds."""
    parts = {name: list(local(parameter).shape) for name, parameter in model.named_parameters()}
    counted = sum(local(parameter).numel() for parameter in model.parameters())
    return {
        "pid": os.getpid(),
        "parameters": counted,
        "bytes": held_bytes(model),
        "allocated": allocated,
        "parts": parts,
    }


def text_of(folder: Path, ids: list[int]) -> str:
    """Tokens as text; empty for a model without a tokenizer."""
    if not has_tokenizer(folder):
        return ""
    from transformers import AutoTokenizer

    return str(AutoTokenizer.from_pretrained(folder).decode(ids, skip_special_tokens=True))


def parse() -> argparse.Namespace:
    """The command line; :mod:`helpers.tensor_parallel.ranks` writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of Hugging Face weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--text", type=Path, required=True, help='JSON lines of {"text": ...} to read')
    parser.add_argument("--tokens", type=int, required=True, help="how many tokens of it")
    parser.add_argument("--prompt", required=True, help="a text to continue")
    parser.add_argument("--new-tokens", type=int, required=True, help="by how many tokens")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Meet, load, answer; then, on rank 0, compare with the whole model and write."""
    arguments = parse()
    warnings.filterwarnings("ignore")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    on_gpu = arguments.device == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    meet(device)
    first = dist.get_rank() == 0
    tell = progress if first else lambda *_: None
    tell(2, STEPS, "each rank reads its part of the weights")
    before = torch.cuda.memory_allocated() if on_gpu else 0
    model = load(arguments.model, device, torch.float32, split=True)
    mine = described(model, torch.cuda.memory_allocated() - before if on_gpu else 0)
    held_out = "\n".join(read_texts(arguments.text))
    texts = ((held_out, arguments.tokens), (arguments.prompt, PROMPT_TOKENS))
    vocabulary = model.config.vocab_size
    ids, prompt = (ids_of(arguments.model, text, tokens, vocabulary).to(device) for text, tokens in texts)
    tell(3, STEPS, f"reading {ids.shape[1]} tokens together, then writing {arguments.new_tokens}")
    logits, exchanges = read(model, ids)
    made, exchanges_of_a_token = write(model, prompt, arguments.new_tokens)
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, mine)
    if first:
        tell(4, STEPS, "the whole model, on rank 0 alone")
        del model  # the whole may need its room
        whole = load(arguments.model, device, torch.float32, split=False)
        exact, _ = read(whole, ids)
        alone, _ = write(whole, prompt, arguments.new_tokens)
        result = {
            "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
            "backend": dist.get_backend(),
            "tokens": ids.shape[1],
            "bytes_per_number": logits.element_size(),
            "whole": described(whole, 0),
            "ranks": ranks,
            "exchanges": {"text": exchanges, "token": exchanges_of_a_token},
            "difference": float((logits - exact).abs().max()),
            "deviation": float(exact.std()),
            "written": {"together": made, "alone": alone},
            "text": {name: text_of(arguments.model, tokens) for name, tokens in (("together", made), ("alone", alone))},
        }
        tell(5, STEPS, "writing")
        (arguments.output / "split.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
