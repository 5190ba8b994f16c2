"""Packed prompt trees against one completion per row, each row alone in a plain transformers model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

import align.tree.attention
from align.models.logps import TreePolicy, TreeScorer
from align.tree.encode import PromptTree
from align.tree.pack import collate
from tests.trees import alone, random_tree, tiny_llama


@pytest.fixture(autouse=True, params=[1, 128], ids=["alone", "in blocks"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test once with each tree attended to by itself, and once with small trees sharing a mask."""
    monkeypatch.setattr(align.tree.attention, "BLOCK", request.param)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_packed_trees_equal_a_row_for_each_completion_in_values_and_gradients(groups, checkpointing, tied) -> None:
    model = tiny_llama(LlamaForCausalLM, groups=groups, tie_word_embeddings=tied)
    rng = np.random.default_rng(groups)
    trees = [random_tree(rng, f"t{n}") for n in range(6)]
    policy = TreePolicy(model)
    policy.train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})

    batch = collate(trees)
    packed = policy(batch)
    weights = torch.linspace(0.5, 1.5, len(packed))  # so that a swap of two tokens would show
    (packed * weights).sum().backward()
    packed_gradients = gradients(model)

    model.zero_grad()
    model.activation_checkpointing_disable()
    rows = torch.cat([alone(model, tree, branch) for tree in trees for branch in tree.branches])
    (rows * weights).sum().backward()

    torch.testing.assert_close(packed, rows, atol=1e-5, rtol=1e-5)
    assert packed_gradients.keys() == gradients(model).keys()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(
            packed_gradients[name], gradient, atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.slow
def test_500_random_shapes_equal_a_row_for_each_completion_in_values_and_gradients() -> None:
    model = tiny_llama(LlamaForCausalLM)
    policy = TreePolicy(model)
    rng = np.random.default_rng(1)
    compared = 0
    while compared < 500:
        trees = [random_tree(rng) for _ in range(rng.integers(1, 9))]
        packed = policy(collate(trees))
        rows = torch.cat([alone(model, tree, branch) for tree in trees for branch in tree.branches])
        torch.testing.assert_close(packed, rows, atol=1e-4, rtol=0)
        weights = torch.linspace(0.5, 1.5, len(rows))
        parameters = dict(model.named_parameters())
        ours = torch.autograd.grad((packed * weights).sum(), list(parameters.values()))
        theirs = torch.autograd.grad((rows * weights).sum(), list(parameters.values()))
        for name, a, b in zip(parameters, ours, theirs, strict=True):
            assert (a - b).norm() <= 1e-3 * b.norm().clamp(min=1e-6), name
        compared += len(trees)


def test_a_branch_does_not_see_its_siblings() -> None:
    policy = TreePolicy(tiny_llama(LlamaForCausalLM).eval())
    rng = np.random.default_rng(2)
    tree = random_tree(rng, branches=2)
    other = PromptTree(tree.id, tree.prompt, (tree.branches[0], random_tree(rng, branches=1).branches[0]))
    count = sum(tree.branches[0].loss_mask)
    with torch.no_grad():
        torch.testing.assert_close(policy(collate([tree]))[:count], policy(collate([other]))[:count], atol=1e-6, rtol=0)


def test_scores_equal_transformers_sequence_classification() -> None:
    model = tiny_llama(LlamaForSequenceClassification, num_labels=1).eval()
    rng = np.random.default_rng(3)
    trees = [random_tree(rng, branches=k) for k in (2, 3, 16)]
    with torch.no_grad():
        scores = TreeScorer(model)(collate(trees))
        rows = [model(input_ids=torch.tensor([[*t.prompt, *b.ids]])).logits[0, 0] for t in trees for b in t.branches]
    torch.testing.assert_close(scores, torch.stack(rows), atol=1e-5, rtol=1e-5)


def test_bfloat16_stays_near_float32() -> None:
    model = tiny_llama(LlamaForCausalLM).eval()
    trees = [random_tree(np.random.default_rng(4)) for _ in range(4)]
    with torch.no_grad():
        exact, rough = TreePolicy(model)(collate(trees)), TreePolicy(model, "bf16")(collate(trees))
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0)
