"""Planned memory of training: activations against torch's own allocator, states against arithmetic done here."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from align.models.logps import TreePolicy
from align.settings import ModelConfig
from align.trainers.activations import Activations, activations, typical_row
from align.trainers.deepspeed_file import ZeroSettings
from align.trainers.footprint import ENGINE, Weights, footprint
from align.tree import attention
from align.tree.pack import collate

MB = 10**6


def allocated(policy: TreePolicy, row: list) -> int:
    """The most that torch's allocator has given out at a time in a forward and a backward pass."""
    for weight in policy.parameters():
        weight.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))
    batch = collate(row)
    policy(batch).sum().backward()  # tables that are made once
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        policy(batch).sum().backward()
    records = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert len(records) > 100
    steps = sorted((event.start_ns(), event.nbytes()) for event in records)  # freed ones are negative
    now = peak = 0
    for _, size in steps:
        now += size
        peak = max(peak, now)
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_torch_allocates(checkpointing: bool) -> None:
    """Six layers, of which the planner runs two."""
    config = LlamaConfig(
        vocab_size=3000, hidden_size=256, intermediate_size=512, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    row = typical_row(700, 2, completion_share=0.5)
    assert sum(tree.tokens for tree in row) == 700
    settings = ModelConfig(path=Path("model"), gradient_checkpointing=checkpointing)
    planned = activations(config, settings, row, on_gpu=False)
    model = LlamaForCausalLM._from_config(config, attn_implementation=attention.NAME)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    assert planned.peak == pytest.approx(allocated(TreePolicy(model).train(), row), rel=0.05)
    assert planned.held < planned.peak


def test_states_are_divided_as_their_table_says() -> None:
    weights = Weights(
        number=1000 * MB, trained=1000 * MB, bytes=2000 * MB, trained_bytes=2000 * MB, state_bytes=8000 * MB,
        largest=100 * MB, largest_bytes=200 * MB,
    )  # fmt: skip
    row = Activations(held=0, peak=3000 * MB)
    whole = footprint(weights, row, processes=1, zero=None, on_gpu=False)
    assert whole.total == (2000 + 2000 + 8000 + 3000) * MB
    assert footprint(weights, row, processes=2, zero=None, on_gpu=False).total == whole.total + 2000 * MB
    alone = footprint(weights, row, processes=1, zero=None, on_gpu=False, rows_a_step=1)
    assert alone.total == whole.total - 2000 * MB + 200 * MB, "gradients come when activations go"
    zero = ZeroSettings(reduce_bucket=50 * MB, prefetch_bucket=50 * MB)
    parts = footprint(weights, row, processes=10, zero=zero).parts
    assert {name: size // MB for name, size in parts.items() if name != "context"} == {
        "weights": 200,
        "gradients": 200,
        "optimizer": 400 + 800,
        "gathered weights": 200 + 2 * 900,
        "communication": 2 * 50 * 2,
        "activations": 3000,
    }
    near = footprint(weights, row, processes=10, zero=zero._replace(reuse_distance=300 * MB)).parts
    assert near["gathered weights"] == (200 + 2 * (300 + 50)) * MB
    on_cpu = footprint(weights, row, processes=10, zero=zero, on_gpu=False).parts
    assert on_cpu["libraries"] == ENGINE
    in_float32 = footprint(weights, row, processes=10, zero=zero._replace(gradient_bytes=4, second_shard=5)).parts
    assert (in_float32["gradients"], in_float32["second shard"]) == (400 * MB, 400 * MB)
    small = footprint(weights, Activations(0, 0), processes=2, zero=zero).parts
    assert small["activations"] == 4 * 500 * MB, "float32 gradients while the optimizer steps"
    moved = footprint(weights, row, processes=10, zero=zero._replace(offload_optimizer=True, offload_weights=True))
    assert "optimizer" not in moved.parts
    assert sum(moved.host.values()) == (200 + 1200 + 400) * MB
