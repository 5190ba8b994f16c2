"""Run by torchrun on two ZeRO-3 processes: 500 random trees, packed and sharded, against each completion alone.

The rows alone go through a plain transformers model that is whole on each process. Prints what differed most.
"""

from __future__ import annotations

import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from transformers import LlamaForCausalLM

from align.models.logps import TreePolicy
from align.tree.pack import collate
from tests.trees import alone, random_tree, tiny_llama

BATCHES, TREES = 10, 25  # of each process


def main() -> None:
    deepspeed.init_distributed("gloo")
    rank = dist.get_rank()
    plain = tiny_llama(LlamaForCausalLM)
    policy = TreePolicy(tiny_llama(LlamaForCausalLM))
    # A learning rate of zero: the sharded weights stay the plain model's.
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.0, weight_decay=0.0)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=config)
    rng = np.random.default_rng(rank)
    values = gradients = 0.0
    for _ in range(BATCHES):
        trees = [random_tree(rng) for _ in range(TREES)]
        rows = torch.cat([alone(plain, tree, branch) for tree in trees for branch in tree.branches])
        weights = torch.linspace(0.5, 1.5, len(rows))
        packed = engine(collate(trees))
        values = max(values, (packed - rows).abs().max().item())
        plain.zero_grad()
        (rows * weights).sum().backward()
        engine.backward((packed * weights).sum())
        for (name, parameter), sharded in zip(plain.named_parameters(), policy.parameters(), strict=True):
            expected = parameter.grad.clone()
            dist.all_reduce(expected)
            found = safe_get_full_grad(sharded)
            assert found is not None, name
            gap = (found - expected / dist.get_world_size()).norm() / expected.norm().clamp(min=1e-6)
            gradients = max(gradients, gap.item())
        engine.step()
    worst = torch.tensor([values, gradients])
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    if rank == 0:  # one voice: two processes writing into one pipe run their lines together
        print(f"{dist.get_world_size()} ranks: values {worst[0]:.3g} gradients {worst[1]:.3g}", flush=True)


if __name__ == "__main__":
    main()
