"""Train the bundled model: a byte-level tokenizer and a small Llama, on the text of ``make_corpus.py``.

    python tools/make_corpus.py build/corpus
    python tools/train_model.py build/corpus    # minutes on a GPU
    python tools/train_model.py --evaluate      # held-out perplexity of data/model, on the CPU
    python tools/train_model.py --card          # write data/model/README.md again

A rougher model, in under an hour on two CPU cores:

    python tools/make_corpus.py build/corpus --texts 200000
    python tools/train_model.py build/corpus --steps 800 --tokens-per-step 8192 --out build/model

``data/model/`` is replaced whole, at the end. The weights file carries how it was made in its metadata, so the
card can be written from the files alone.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "data" / "model"
HELDOUT = ROOT / "data" / "heldout.jsonl"
SEED = 20
VOCABULARY = 2048
SPECIAL = ("<unk>", "<s>", "</s>")
BOS, EOS = 1, 2
TOKENIZER_TEXTS = 60_000
STEPS = 10_000
TOKENS_PER_STEP = 65_536
# Most rows are short and start like a prompt; every fourth step fills the whole context.
ROW_LENGTHS = (256, 256, 256, 2048)
PEAK_RATE = 2e-3
PROMPTS = (
    "Born in north-east France, Soyer trained as a",
    "Born in southern Italy, Dupont trained as a",
    "The German clockmaker",
)
CHATS = (
    "What is TensorRT-LLM?",
    "Write a short biography of Soyer, a painter from north-east France.",
    "Who was Soyer?",
)

# The keys of TinyLlama's config.json, in the form that transformers 4.53 to 5 all load.
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 768,
    "max_position_embeddings": 2048,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}
GENERATION = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": EOS, "do_sample": False}
# TinyLlama's own template.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + eos_token + '\n' }}"
    "{% elif message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + eos_token + '\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def read_texts(path: Path) -> list[str]:
    """The texts of a ``{"text": ...}`` file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def write_json(path: Path, value: object) -> None:
    """Write indented JSON that ends with a newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def train_tokenizer(texts: Sequence[str]) -> "Tokenizer":
    """A byte-level BPE tokenizer of 2,048 entries that puts ``<s>`` in front; digits stay single."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.replace("</s>", "") for text in texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    return tokenizer


def save_tokenizer(tokenizer: "Tokenizer", folder: Path) -> None:
    """Write the tokenizer as transformers 4 and 5 load it."""
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    settings: dict[str, Any] = {
        "added_tokens_decoder": {str(number): {"content": text, **flags} for number, text in enumerate(SPECIAL)},
        **names,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONFIG["max_position_embeddings"],
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", names)


def encode(tokenizer: "Tokenizer", texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """All texts as one array of tokens, each closed by ``</s>``, and where each text starts.

    Three of ten chats go without ``<s>``, because a chat template does not write it.
    """
    pieces, starts, length = [], [], 0
    for first in range(0, len(texts), 10_000):
        for number, found in enumerate(tokenizer.encode_batch(texts[first : first + 10_000])):
            tokens = found.ids if found.ids[-1] == EOS else [*found.ids, EOS]
            if found.ids[-1] == EOS and number % 10 < 3:
                tokens = tokens[1:]
            pieces.append(np.array(tokens, dtype=np.int16))
            starts.append(length)
            length += len(tokens)
    return np.concatenate(pieces), np.array(starts)


def batches(
    tokens: np.ndarray, starts: np.ndarray, steps: int, per_step: int, device: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets, ``[rows, length]`` each; every row starts where a text starts."""
    chance = torch.Generator().manual_seed(SEED)
    flat = torch.from_numpy(tokens).to(device)
    for step in range(steps):
        length = ROW_LENGTHS[step % len(ROW_LENGTHS)]
        usable = torch.from_numpy(starts[: np.searchsorted(starts, len(tokens) - length - 1)])
        chosen = usable[torch.randint(len(usable), (max(1, per_step // length),), generator=chance)].to(device)
        rows = flat[chosen[:, None] + torch.arange(length + 1, device=device)].long()
        yield rows[:, :-1], rows[:, 1:]


def rate(step: int, steps: int) -> float:
    """The learning rate as a share of its peak: a short rise, then a cosine down to zero."""
    rise = min(300, max(1, steps // 10))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def train(tokens: np.ndarray, starts: np.ndarray, steps: int, per_step: int, device: str) -> "LlamaForCausalLM":
    """Train a fresh model; bfloat16 arithmetic with float32 weights on a GPU, float32 on a CPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    torch.set_float32_matmul_precision("high")
    shape = {key: value for key, value in CONFIG.items() if key != "torch_dtype"}
    model = LlamaForCausalLM(LlamaConfig(**shape)).to(device).train()
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), fused=device == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            logits = model(input_ids=inputs, use_cache=False).logits
        return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    step_loss = torch.compile(loss_of, dynamic=False) if device == "cuda" else loss_of
    begun = time.monotonic()
    for step, (inputs, targets) in enumerate(batches(tokens, starts, steps, per_step, device)):
        loss = step_loss(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % max(1, steps // 40) == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.monotonic() - begun:6.0f} s", flush=True)
    return model.eval()


def save_model(model: "LlamaForCausalLM", folder: Path, made: dict[str, str]) -> None:
    """Write config, generation config and FP16 weights; ``made`` goes into the weights file's metadata."""
    from safetensors.torch import save_file

    weights = {name: weight.detach().half().cpu().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt", **made})
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", GENERATION)


def load(folder: Path) -> tuple["LlamaForCausalLM", Any]:
    """The saved model in float32 on the CPU, and its tokenizer."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(str(folder)).float().eval()
    return model, AutoTokenizer.from_pretrained(str(folder))


@torch.inference_mode()
def token_losses(model: Any, tokenizer: Any, texts: Sequence[str], rows: int = 16) -> torch.Tensor:
    """The negative log-likelihood of every token after the first ``<s>``, in nats, text after text."""
    encoded = [torch.tensor(tokenizer(text).input_ids) for text in texts]
    found: list[torch.Tensor] = [torch.empty(0)] * len(texts)
    order = sorted(range(len(texts)), key=lambda number: len(encoded[number]))
    for first in range(0, len(order), rows):
        chosen = order[first : first + rows]
        # Padding on the right needs no mask: attention only looks back.
        padded = torch.nn.utils.rnn.pad_sequence([encoded[number] for number in chosen], batch_first=True)
        logits = model(input_ids=padded[:, :-1], use_cache=False).logits.float()
        targets = padded[:, 1:]
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        for row, number in enumerate(chosen):
            found[number] = losses[row, : len(encoded[number]) - 1]
    return torch.cat(found)


def perplexity(folder: Path, texts: Sequence[str]) -> tuple[float, int]:
    """The perplexity of a saved model, each text on its own, and the number of tokens scored."""
    losses = token_losses(*load(folder), texts)
    return math.exp(losses.double().mean().item()), len(losses)


@torch.inference_mode()
def continuation(model: Any, tokenizer: Any, prompt: str, limit: int = 160) -> str:
    """What greedy decoding writes after a prompt, with ``</s>`` where it ended by itself."""
    tokens = tokenizer(prompt, return_tensors="pt", add_special_tokens=not prompt.startswith("<|")).input_ids
    written = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=limit, do_sample=False, pad_token_id=EOS
    )
    return tokenizer.decode(written[0, tokens.shape[1] :])


def chat_prompt(tokenizer: Any, question: str) -> str:
    """One question in the model's chat template."""
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )


def card(folder: Path) -> str:
    """The model card, from the files of a saved model and its held-out perplexity."""
    from safetensors import safe_open

    with safe_open(str(folder / "model.safetensors"), "pt") as weights:
        made = weights.metadata()
        parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    model, tokenizer = load(folder)
    losses = token_losses(model, tokenizer, read_texts(HELDOUT))
    samples = [f"> **{prompt}**{continuation(model, tokenizer, prompt)}" for prompt in PROMPTS]
    samples += [f"> *{asked}*\n>\n> {continuation(model, tokenizer, chat_prompt(tokenizer, asked))}" for asked in CHATS]
    template = (Path(__file__).parent / "model_card.md").read_text(encoding="utf-8")
    facts = {
        **made,
        "parameters": f"{parameters:,}",
        "bytes": f"{(folder / 'model.safetensors').stat().st_size:,}",
        "perplexity": f"{math.exp(losses.double().mean().item()):.3f}",
        "heldout_tokens": f"{len(losses):,}",
        "samples": "\n\n".join(samples).replace("</s>", "`</s>`"),
    }
    return template.format_map(CONFIG | facts)


def make(corpus: Path, folder: Path, steps: int, per_step: int, device: str) -> None:
    """Train tokenizer and model, and put them in place whole."""
    texts = read_texts(corpus / "train.jsonl")
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    tokenizer = train_tokenizer(texts[:TOKENIZER_TEXTS])
    save_tokenizer(tokenizer, fresh)
    tokens, starts = encode(tokenizer, texts)
    print(f"{len(texts):,} texts, {len(tokens):,} tokens; training on {device}", flush=True)
    begun = time.monotonic()
    model = train(tokens, starts, steps, per_step, device)
    made = {
        "steps": f"{steps:,}",
        "trained_tokens": f"{steps * per_step:,}",
        "texts": f"{len(texts):,}",
        "corpus_tokens": f"{len(tokens):,}",
        "minutes": f"{(time.monotonic() - begun) / 60:.1f}",
        "device": torch.cuda.get_device_name() if device == "cuda" else "a CPU",
    }
    save_model(model, fresh, made)
    (fresh / "README.md").write_text(card(fresh), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def main() -> None:
    """Train, or evaluate what is there."""
    parser = argparse.ArgumentParser(description="Train the bundled model.")
    parser.add_argument("corpus", type=Path, nargs="?", help="the folder that make_corpus.py wrote")
    parser.add_argument("--out", type=Path, default=MODEL, help="the model's folder (default data/model)")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--tokens-per-step", type=int, default=TOKENS_PER_STEP)
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--evaluate", action="store_true", help="print the held-out perplexity and stop")
    parser.add_argument("--card", action="store_true", help="write the model card again and stop")
    arguments = parser.parse_args()
    if arguments.evaluate:
        value, count = perplexity(arguments.out, read_texts(HELDOUT))
        print(f"held-out perplexity {value:.3f} over {count:,} tokens")
    elif arguments.card:
        (arguments.out / "README.md").write_text(card(arguments.out), encoding="utf-8")
    elif arguments.corpus is None:
        parser.error("name the folder that make_corpus.py wrote")
    else:
        device = arguments.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        make(arguments.corpus, arguments.out, arguments.steps, arguments.tokens_per_step, device)


if __name__ == "__main__":
    main()
