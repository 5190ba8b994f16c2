"""Run by torchrun: packed rows that processes share under ZeRO-3, against the same rows in a model that is whole.

    python -m torch.distributed.run --standalone --nproc_per_node 4 -m tests.align.trainers.shared_rows

Each group of processes that share rows has rows of its own. Prints what differed most.
"""

from __future__ import annotations

import os
from datetime import timedelta

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from align.models.logps import TreePolicy, TreeScorer
from align.trainers.extensions import prepare_extension
from align.tree.encode import PromptTree
from align.tree.pack import collate
from align.tree.sequence_parallel import SequenceGroup
from tests.trees import random_tree, tiny_llama, tree_of

KINDS = {TreePolicy: LlamaForCausalLM, TreeScorer: LlamaForSequenceClassification}


def rows(seed: int) -> list[list[PromptTree]]:
    """Trees that are packed together: with fewer tokens than processes, with fewer labels, with a cut inside a prompt
    and inside a completion, and 25 of all sizes."""
    rng = np.random.default_rng(seed)
    few = [tree_of("one", 1, 1), tree_of("prompt", 90, 1), tree_of("answer", 3, 150, 5)]
    return [*([each] for each in few), [random_tree(rng) for _ in range(25)]]


def gaps(size: int, kind: type, group: SequenceGroup | None, *, checkpointing: bool) -> tuple[float, float, int]:
    """The largest difference of a value, the largest relative one of a gradient, and how many rows were compared."""
    # 4 heads and 2 key/value heads: with 4 processes each of these is given to two of them
    plain, policy = (kind(tiny_llama(KINDS[kind], num_labels=1)) for _ in range(2))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.0, weight_decay=0.0)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "zero_allow_untested_optimizer": True,
    }
    if checkpointing:
        policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=config)
    engine.train()
    policy.shared_by = group
    values = gradients = 0.0
    groups = dist.get_world_size() // size
    packed = rows(dist.get_rank() // size)
    for trees in packed:
        batch = collate(trees)
        expected = plain(batch)
        weights = torch.linspace(0.5, 1.5, len(expected))
        found = engine(batch)
        assert found.shape == expected.shape
        values = max(values, (found - expected).abs().max().item())
        plain.zero_grad()
        (expected * weights).sum().backward()
        engine.backward((found * weights).sum() * groups)
        for (name, weight), sharded in zip(plain.named_parameters(), policy.parameters(), strict=True):
            whole = weight.grad / size  # each group counts once
            dist.all_reduce(whole)
            averaged = safe_get_full_grad(sharded)
            assert averaged is not None, name
            gap = (averaged - whole).norm() / whole.norm().clamp(min=1e-6)
            gradients = max(gradients, gap.item())
        engine.step()
    return values, gradients, len(packed)


def main() -> None:
    prepare_extension()
    deepspeed.init_distributed("gloo")
    for size, kind, checkpointing in ((2, TreePolicy, False), (4, TreePolicy, True), (4, TreeScorer, False)):
        group = SequenceGroup.of(size, dist.get_world_size(), dist.get_rank(), timedelta(minutes=5))
        *found, compared = gaps(size, kind, group, checkpointing=checkpointing)
        worst = torch.tensor(found)
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        if dist.get_rank() == 0:  # two processes writing into one pipe would run their lines together
            said = f"{size} share {compared} rows: values {worst[0]:.3g} gradients {worst[1]:.3g}"
            print(f"{kind.__name__}, {said}", flush=True)


if __name__ == "__main__":
    main()
