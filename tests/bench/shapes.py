"""What the benchmark runs on: small Llama checkpoints, and rows of a chosen size. Neither ours nor TRL's.

Rows are made of words that are one token each, drawn from a named seed, so that a case has the same tokens on every
machine. Lengths are uneven: uniform between half and one and a half times the mean, for the prompt and each completion.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.assets import MODEL, assets_folder

ROOT = Path(__file__).parents[2]
SMOLLM2 = assets_folder() / MODEL
REAL_PAIRS = "llamafactory-0.9.5/data/dpo_en_demo.json"

PAD = ("<|endoftext|>", 0)
"""What reward models pad with: SmolLM2's own padding is the token that ends a completion, where the score is read."""

LLAMAS: dict[str, dict[str, int]] = {  
    "3M": {"hidden_size": 64, "layers": 2, "heads": 2, "key_value_heads": 1, "intermediate_size": 160},  # for --quick
    "15M": {"hidden_size": 192, "layers": 12, "heads": 3, "key_value_heads": 1, "intermediate_size": 512},
    "50M": {"hidden_size": 512, "layers": 8, "heads": 8, "key_value_heads": 4, "intermediate_size": 1408},
    "135M": {},  # SmolLM2 itself, with its weights
    "128k words": {
        "hidden_size": 256, "layers": 6, "heads": 4, "key_value_heads": 2, "intermediate_size": 704, "words": 128_256,
    },
}  # fmt: skip
"""`words` is the vocabulary where it is not SmolLM2's 49,152. The tokenizer is always SmolLM2's."""

Message = dict[str, str]


@dataclass(frozen=True)
class Row:
    """One prompt and its completions, best first, as plain messages."""

    id: str
    prompt: list[Message]
    completions: list[list[Message]]


def llama_config(name: str) -> Any:
    """The transformers config of one of LLAMAS (but the real one, which has its own)."""
    from transformers import LlamaConfig

    size = LLAMAS[name]
    return LlamaConfig(
        vocab_size=size.get("words", 49_152),
        hidden_size=size["hidden_size"],
        intermediate_size=size["intermediate_size"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["key_value_heads"],
        max_position_embeddings=16_384,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def checkpoint(name: str, folder: Path, kind: str = "policy") -> Path:
    """A checkpoint folder of that model, made under `folder` the first time. Both sides load the same files.

    kind: "policy"; "reference", the policy with a little noise on every weight, so that no margin is zero; "reward",
    the same trunk with a scalar head.
    """
    if name == "135M" and kind == "policy":
        return SMOLLM2
    target = folder / f"{name.replace(' ', '-')}-{kind}"
    if target.exists():
        return target
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, LlamaForCausalLM

    unfinished = target.with_name(f".{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    torch.manual_seed(0)
    if kind == "policy":
        model: Any = LlamaForCausalLM(llama_config(name))
    elif kind == "reference":
        model = AutoModelForCausalLM.from_pretrained(checkpoint(name, folder), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02 * parameter.std())
    else:
        model = AutoModelForSequenceClassification.from_pretrained(
            checkpoint(name, folder), num_labels=1, dtype=torch.float32
        )
        model.config.pad_token_id = PAD[1]
    model.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(SMOLLM2).save_pretrained(unfinished)
    os.replace(unfinished, target)
    return target


def rows(count: int, prompt: int, completion: int, *, branches: int = 2, seed: int = 0) -> list[Row]:
    """Rows with `prompt` and `completion` tokens in the mean, the chat template's own tokens included."""
    rng = random.Random(seed)
    vocabulary = one_token_words()

    def text(mean: int, spent: int) -> str:
        length = max(1, round(rng.uniform(0.5, 1.5) * mean) - spent)
        return "".join(rng.choice(vocabulary) for _ in range(length)).lstrip()

    made = []
    for number in range(count):
        asked = [{"role": "user", "content": text(prompt, 15)}]  # the template's own tokens, with its system message
        answers = [[{"role": "assistant", "content": text(completion, 2)}] for _ in range(branches)]
        made.append(Row(f"row-{number}", asked, answers))
    return made


def one_token_words() -> list[str]:
    """Words with the space before them that are one token of SmolLM2's tokenizer each, in the order of their ids."""
    table: dict[str, int] = json.loads((SMOLLM2 / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = [
        " " + token[1:]
        for token in sorted(table, key=table.__getitem__)
        if token.startswith("Ġ") and len(token) > 2 and token[1:].isascii() and token[1:].isalpha()
    ]
    return words[:4000]


def real_pairs(count: int) -> Iterator[Row]:
    """Preference pairs that people and models wrote (300 of them, over and over, each time numbered again)."""
    records = json.loads((assets_folder() / REAL_PAIRS).read_text(encoding="utf-8"))
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    for number in range(count):
        record = records[number % len(records)]
        prompt = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in record["conversations"]]
        prompt[0] = {**prompt[0], "content": f"({number}) {prompt[0]['content']}"}
        answers = [[{"role": "assistant", "content": record[side]["value"]}] for side in ("chosen", "rejected")]
        yield Row(f"pair-{number}", prompt, answers)
