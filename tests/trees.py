"""Random prompt trees, and the small Llama and the plain forward pass that they are compared with."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import align.tree.attention
from align.tree.encode import PromptTree, Segment

VOCABULARY = 97


def random_tree(
    rng: np.random.Generator,
    name: str = "t",
    *,
    branches: int | None = None,
    vocabulary: int = VOCABULARY,
    untrained: bool = False,
) -> PromptTree:
    """A prompt of 1 to 15 tokens with 1 to 5 branches of 1 to 12 tokens, none of which is the padding id 0.

    untrained: whether branches may have no token that is trained on.
    """

    def branch() -> Segment:
        length = int(rng.integers(1, 13))
        trained = rng.random(length) < (rng.choice([0.0, 0.8]) if untrained else 0.8)
        if not untrained:
            trained[rng.integers(length)] = True
        return Segment(rng.integers(1, vocabulary, length, np.int32), trained, trained & (rng.random(length) < 0.8))

    prompt = rng.integers(1, vocabulary, rng.integers(1, 16), np.int32)
    count = branches or int(rng.integers(1, 6))
    return PromptTree(name, prompt, tuple(branch() for _ in range(count)), rng.choice(["better", None]))


def tree_of(name: str, prompt: int, *branches: int) -> PromptTree:
    """A tree of these lengths, of any ids, in which every completion token is trained on."""
    rng = np.random.default_rng(prompt)

    def ids(length: int) -> np.ndarray:
        return rng.integers(3, VOCABULARY, length)

    segments = [Segment(ids(length), np.ones(length, bool), np.ones(length, bool)) for length in branches]
    return PromptTree(name, ids(prompt), tuple(segments))


SHORT_AND_LONG = [tree_of("short", 5, 4, 3), tree_of("long", 40, 30, 28)]


def tiny_llama(kind: type, heads: int = 4, groups: int = 2, **settings):
    """A two-layer model of the class `kind` that reads packed trees."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "attn_implementation": align.tree.attention.NAME,
    }
    return kind(LlamaConfig(**sizes | settings))


def alone(model: LlamaForCausalLM, tree: PromptTree, branch: Segment) -> torch.Tensor:
    """Log-probabilities of a branch's trained tokens from its own row: full logits and a plain log-softmax."""
    row = torch.tensor([[*tree.prompt, *branch.ids]])
    logps = model(input_ids=row).logits[0].log_softmax(-1)
    start = len(tree.prompt)
    return torch.stack([logps[start + i - 1, t] for i, t in enumerate(branch.ids) if branch.loss_mask[i]])
