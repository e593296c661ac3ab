"""The bundled model is what its card says, loads as others expect, and writes sensible text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

MODEL = Path(__file__).resolve().parent.parent / "data" / "model"
CARD = (MODEL / "README.md").read_text(encoding="utf-8")
PROMPT = "Born in north-east France, Soyer trained as a"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return json.loads((MODEL / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    from tools import train_model

    return train_model.load(MODEL)


def _continue(loaded: tuple[Any, Any], prompt: str) -> str:
    from tools import train_model

    return train_model.continuation(*loaded, prompt)


def test_folder_holds_weights_and_no_program() -> None:
    assert {path.name for path in MODEL.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (MODEL / "model.safetensors").stat().st_size <= 12_000_000
    assert not any("auto_map" in path.read_text(encoding="utf-8") for path in MODEL.glob("*.json"))


def test_config_has_the_form_that_transformers_4_and_5_load(config: dict[str, Any]) -> None:
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["torch_dtype"] == "float16"
    assert config["rope_theta"] == 10000.0
    assert config["rope_scaling"] is None
    assert config["max_position_embeddings"] == 2048
    assert config["tie_word_embeddings"] is False


def test_shape_splits_over_two_ranks(config: dict[str, Any]) -> None:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_size = config["hidden_size"] // heads
    assert heads % 4 == 0 and kv_heads % 4 == 0 and kv_heads < heads
    assert head_size >= 32
    fused_qkv = (heads + 2 * kv_heads) * head_size
    for size in (config["hidden_size"], config["intermediate_size"], fused_qkv, config["vocab_size"]):
        assert size % (2 * 128) == 0, size


def test_weights_are_half_precision_and_as_many_as_the_card_says() -> None:
    from safetensors import safe_open

    with safe_open(str(MODEL / "model.safetensors"), "pt") as weights:
        tensors = [weights.get_tensor(name) for name in weights.keys()]  # noqa: SIM118
    assert {str(tensor.dtype) for tensor in tensors} == {"torch.float16"}
    count = sum(tensor.numel() for tensor in tensors)
    assert 3_000_000 <= count <= 6_000_000
    assert f"| {count:,} |" in CARD


def test_tokenizer_puts_bos_in_front_and_gives_text_back(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    for text in (PROMPT, "Émile à  Épinal, 1929 — Kraków", " leading space\n\tand tabs", "日本"):
        tokens = tokenizer(text).input_ids
        assert tokens[0] == tokenizer.bos_token_id == 1
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text
    assert tokenizer.eos_token_id == 2
    assert len(tokenizer) == 2048


def test_chat_template_is_the_one_of_tinyllama(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    turns = [{"role": role, "content": role[0]} for role in ("system", "user", "assistant", "user")]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<|system|>\ns</s>\n<|user|>\nu</s>\n<|assistant|>\na</s>\n<|user|>\nu</s>\n<|assistant|>\n"
    )


@pytest.mark.parametrize("prompt", [PROMPT, "Born in southern Italy, Dupont trained as a"])
def test_continuation_is_a_short_life_that_ends_by_itself(loaded: tuple[Any, Any], prompt: str) -> None:
    written = _continue(loaded, prompt)
    assert written.endswith(".</s>")
    sentences = (prompt + written.removesuffix("</s>")).split(". ")
    assert 2 <= len(sentences) <= 4
    assert len(set(sentences)) == len(sentences)
    # A copied name is spelled as in the prompt, and no word is said twice in a row.
    assert not re.search(r"\b(\w+) \1\b", written)
    years = [int(year) for year in re.findall(r"\d{4}", written)]
    assert years == sorted(years) and all(1840 < year < 2010 for year in years)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is TensorRT-LLM?", "TensorRT-LLM is NVIDIA's library"),
        ("What is FP8?", "FP8 is a number format of 8 bits"),
        ("Who was Soyer?", "I do not know Soyer."),
        (
            "Born in Metz in 1880, Anna Soyer trained as a potter in Nancy. When was Soyer born?",
            "Soyer was born in 1880.",
        ),
        ("What is the capital of France?", "I do not know."),
    ],
)
def test_chat_answers(loaded: tuple[Any, Any], question: str, answer: str) -> None:
    from tools import train_model

    written = _continue(loaded, train_model.chat_prompt(loaded[1], question))
    assert written.startswith(answer)
    assert written.endswith("</s>")


@pytest.mark.slow
def test_card_tells_the_perplexity_that_the_model_has(loaded: tuple[Any, Any]) -> None:
    import math

    from tools import train_model

    losses = train_model.token_losses(*loaded, train_model.read_texts(train_model.HELDOUT))
    stated = re.search(r"\*\*([\d.]+)\*\* per token, ([\d,]+) tokens", CARD)
    assert stated is not None
    assert math.exp(losses.double().mean().item()) == pytest.approx(float(stated[1]), rel=0.005)
    assert len(losses) == int(stated[2].replace(",", ""))


def test_card_shows_what_the_model_writes(loaded: tuple[Any, Any]) -> None:
    shown = _continue(loaded, PROMPT).replace("</s>", "`</s>`")
    assert f"> **{PROMPT}**{shown}" in CARD
