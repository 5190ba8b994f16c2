"""What the GPU check runs on: Llama-shaped models with a few layers, and trees of token ids. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig

import align.tree.attention
from align.models.logps import TreePolicy, TreeScorer
from align.tree.encode import PromptTree, Segment

PAD, UNKNOWN, END, FIRST = 0, 1, 2, 3
"""Token ids: padding, unknown, the end of a completion, and the first one of a word."""

LLAMAS: dict[str, dict[str, Any]] = {
    "1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": 4, "vocab_size": 128_256, "tie_word_embeddings": True,
    },
    "8B": {
        "hidden_size": 4096, "intermediate_size": 14_336, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": 4, "vocab_size": 128_256, "tie_word_embeddings": False,
    },
    "small": {  # for the comparison of values
        "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2,
        "num_hidden_layers": 3, "vocab_size": 2048, "tie_word_embeddings": False,
    },
    "tiny": {  # for --dry-run
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "vocab_size": 97, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""The widths of Llama 3.2 1B and Llama 3.1 8B, which have 16 and 32 layers; 4 of them fit on one GPU."""

ATTENTION = {"segments": align.tree.attention.NAME, "flex": align.tree.attention.FLEX_NAME}


@dataclass(frozen=True)
class Sizes:
    """How much is computed."""

    llamas: tuple[str, ...]  # models whose steps are timed
    compared: str  # the model whose values are compared
    trees: int  # in a training step
    prompt: int
    completion: int
    attention: dict[str, tuple[int, int, int]]  # name -> trees, prompt, completion of a row
    candidates: int  # completions of a prompt in scoring and generation
    prompts: int  # in scoring and generation
    new_tokens: int
    repeats: int  # of each timed step

    def with_trees(self, count: int) -> Sizes:
        return replace(self, trees=count)


FULL = Sizes(
    llamas=("1B", "8B"),
    compared="small",
    trees=12,
    prompt=475,  # means of Llama 3's preference data (arXiv:2407.21783, table 6)
    completion=284,
    attention={"pairs": (15, 475, 284), "long prompts": (1, 8192, 4096), "short pairs": (136, 20, 16)},
    candidates=16,
    prompts=16,
    new_tokens=256,
    repeats=5,
)

DRY = Sizes(
    llamas=("tiny",),
    compared="tiny",
    trees=2,
    prompt=9,
    completion=6,
    attention={"pairs": (2, 90, 30), "short pairs": (4, 8, 6)},
    candidates=2,
    prompts=2,
    new_tokens=3,
    repeats=1,
)


def llama_config(name: str, **settings: Any) -> LlamaConfig:
    return LlamaConfig(
        **LLAMAS[name],
        **settings,
        max_position_embeddings=131_072,
        rope_parameters={"rope_theta": 500_000.0, "rope_type": "default"},
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
        use_cache=False,
    )


def llama(name: str, dtype: torch.dtype, device: torch.device, *, attention: str, scorer: bool = False) -> Any:
    """A model with weights of seed 0. attention: a name that transformers knows."""
    config = llama_config(name, **{"num_labels": 1} if scorer else {})
    kind: Any = AutoModelForSequenceClassification if scorer else AutoModelForCausalLM
    torch.manual_seed(0)
    with device:
        return kind.from_config(config, dtype=dtype, attn_implementation=attention).train()


def tree_model(model: Any, *, scorer: bool = False) -> TreePolicy | TreeScorer:
    return TreeScorer(model) if scorer else TreePolicy(model)


def pairs(
    count: int, prompt: int, completion: int, vocabulary: int, *, branches: int = 2, seed: int = 0
) -> list[PromptTree]:
    """Trees with lengths between half and one and a half times these; every completion token is a label."""
    rng = np.random.default_rng(seed)

    def ids(mean: int) -> np.ndarray:
        return rng.integers(FIRST, vocabulary, rng.integers(max(1, mean // 2), 3 * mean // 2 + 1)).astype(np.int32)

    def branch() -> Segment:
        tokens = np.append(ids(completion), np.int32(END))
        return Segment(tokens, np.ones(len(tokens), bool), np.ones(len(tokens), bool))

    return [PromptTree(f"tree-{n}", ids(prompt), tuple(branch() for _ in range(branches))) for n in range(count)]


def padded(trees: Sequence[PromptTree], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each completion after a copy of its prompt, branch after branch of each tree: ids, attention mask and label mask.

    Shapes: [trees * branches, longest] each.
    """
    whole = [np.concatenate([tree.prompt, branch.ids]) for tree in trees for branch in tree.branches]
    prompts = [len(tree.prompt) for tree in trees for _ in tree.branches]
    ids = torch.full((len(whole), max(map(len, whole))), PAD)
    mask, labels = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (tokens, prompt) in enumerate(zip(whole, prompts, strict=True)):
        ids[row, : len(tokens)] = torch.from_numpy(tokens)
        mask[row, : len(tokens)] = 1
        labels[row, prompt : len(tokens)] = 1
    return ids.to(device), mask.to(device), labels.bool().to(device)
