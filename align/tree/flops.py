"""Floating point operations of training on packed trees, and the cost of a tree by which rows are balanced.

For a tree with T computed tokens, A attended pairs and Y labels, in a model with N weights in its layers, L layers, H
heads of size D, hidden size E and vocabulary V, forward and backward pass together:

    (4 N + 2 N_trained) T  +  12 L H D A  +  6 E V Y        4 E V Y where the output head is not trained

The factors: 2 for each weight and token in the forward pass, 2 for the gradient of the states, and 2 for that of a
trained weight; for each attended pair two products of size D in each head, twice in the backward pass. Source: PaLM
(Chowdhery et al. 2022, arXiv:2204.02311, appendix B), which counts all pairs of a row as attended and all tokens as
labels; here only what a causal tree has to compute is counted. What gradient checkpointing computes a second time does
not count, nor do norms, activations and the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from align.tree.encode import PromptTree
from align.tree.pack import tree_numbers


class LayerShape(NamedTuple):
    """What the operations of a decoder's layers depend on."""

    weights: int
    """N: those of the matrices of all layers."""
    per_pair: int
    """2 L H D: for an attended pair, the products of all heads and layers with a query, as many with a value."""
    per_label: int
    """E V, the weights of the output head."""


def layer_shape(config: Any) -> LayerShape:
    """Of a Hugging Face config. Exact for layers as Llama has them: attention with grouped heads, three matrices
    between; `counts_all_weights` says whether a model has other ones."""
    hidden, layers, heads = config.hidden_size, config.num_hidden_layers, config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or hidden // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    between = getattr(config, "intermediate_size", None) or 4 * hidden
    weights = layers * (2 * hidden * head_size * (heads + groups) + 3 * hidden * between)
    return LayerShape(weights, 2 * layers * heads * head_size, hidden * config.vocab_size)


def counts_all_weights(config: Any, matrices: int) -> bool:
    """Whether `layer_shape` describes a model whose layers have this many weights in their matrices, within 1%.

    False for mixtures of experts, of which a token uses a part, and for latent attention.
    """
    return abs(layer_shape(config).weights - matrices) <= 0.01 * matrices


def tree_costs(trees: Sequence[PromptTree], config: Any, *, head: bool) -> np.ndarray:
    """The training cost of each tree, [trees] float64, in units of one token through all layers.

        tokens + attended * 12 L H D / 6 N + labels * 6 E V / 6 N

    config: the Hugging Face model's. head: whether labels pass an output head; a reward model's do not.
    """
    shape = layer_shape(config)
    tokens, pairs, labels = (tree_numbers(trees, name) for name in ("tokens", "attended", "labels"))
    costs = tokens + pairs * (shape.per_pair / shape.weights)
    if head:
        costs = costs + labels * (shape.per_label / shape.weights)
    return np.asarray(costs)


def training_flops(
    trees: Sequence[PromptTree], config: Any, *, trained: int, head: bool, head_is_trained: bool, added: int = 0
) -> np.ndarray:
    """The operations of a forward and a backward pass on each tree, [trees] float64.

    trained: weights of matrices in the layers that are trained, those of adapters included; N if all are.
    head: whether labels pass an output head. added: weights of adapters, which tokens pass in addition to N.
    """
    shape = layer_shape(config)
    tokens, pairs, labels = (tree_numbers(trees, name).astype(np.float64) for name in ("tokens", "attended", "labels"))
    flops = tokens * (4 * (shape.weights + added) + 2 * trained) + pairs * (6 * shape.per_pair)
    if head:
        flops += labels * ((6 if head_is_trained else 4) * shape.per_label)
    return np.asarray(flops)


def forward_flops(trees: Sequence[PromptTree], config: Any, *, head: bool, added: int = 0) -> np.ndarray:
    """The operations of a forward pass alone on each tree, [trees] float64. Arguments as for `training_flops`."""
    shape = layer_shape(config)
    tokens, pairs, labels = (tree_numbers(trees, name).astype(np.float64) for name in ("tokens", "attended", "labels"))
    flops = tokens * (2 * (shape.weights + added)) + pairs * (2 * shape.per_pair)
    if head:
        flops += labels * (2 * shape.per_label)
    return np.asarray(flops)
