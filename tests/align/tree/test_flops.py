"""Operations of a training step, against torch's own counter."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from align.hardware import peak_flops
from align.tree.flops import counts_all_weights, forward_flops, training_flops, tree_costs

CONFIG = LlamaConfig(
    vocab_size=89, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip


def test_costs_are_the_operations_that_torch_counts() -> None:
    """One row through a plain model, whose attention is counted for every pair of tokens."""
    model = LlamaForCausalLM._from_config(CONFIG, attn_implementation="eager")
    for tokens in (1, 17, 64):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.ones(1, tokens, dtype=torch.long))
        row = SimpleNamespace(tokens=tokens, attended=tokens**2, labels=tokens)
        a_token = 2 * sum(weight.numel() for weight in model.model.layers.parameters() if weight.dim() == 2)
        assert tree_costs([row], CONFIG, head=True)[0] * a_token == pytest.approx(counter.get_total_flops())
        assert forward_flops([row], CONFIG, head=True)[0] == pytest.approx(counter.get_total_flops())
        headless = (counter.get_total_flops() - 2 * 32 * 89 * tokens) / a_token
        assert tree_costs([row], CONFIG, head=False)[0] == pytest.approx(headless)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_training_step_has_the_operations_that_torch_counts(frozen: bool) -> None:
    """frozen: only the up projections are trained, as adapters would be; the gradient of states reaches all layers."""
    model = LlamaForCausalLM._from_config(CONFIG, attn_implementation="eager")
    matrices = {name: weight for name, weight in model.model.layers.named_parameters() if weight.dim() == 2}
    if frozen:
        model.requires_grad_(False)
        for name, weight in matrices.items():
            weight.requires_grad_("up_proj" in name)
    tokens = 33
    embedded = torch.randn(1, tokens, 32, requires_grad=True)  # else the first layer computes no gradient of states
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embedded).logits.sum().backward()
    row = SimpleNamespace(tokens=tokens, attended=tokens**2, labels=tokens)
    trained = sum(weight.numel() for weight in matrices.values() if weight.requires_grad)
    (found,) = training_flops([row], CONFIG, trained=trained, head=True, head_is_trained=not frozen)
    assert found == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_a_model_with_other_matrices_is_noticed() -> None:
    model = LlamaForCausalLM._from_config(CONFIG)
    matrices = sum(weight.numel() for weight in model.model.layers.parameters() if weight.dim() == 2)
    assert counts_all_weights(CONFIG, matrices)
    assert not counts_all_weights(CONFIG, 4 * matrices), "four experts"


def test_the_peak_of_a_device_is_found_by_whole_words_of_its_name() -> None:
    names = {
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA A10G": None,
        "NVIDIA GeForce RTX 4090": 165e12,
        "AMD Instinct MI300X": 1307e12,
        "a processor": None,
    }
    found = {name: peak_flops(name) for name in names}
    assert found == names
