"""Direct preference optimization as in Llama 3 (arXiv:2407.21783, 4.1.4): a contrast of contents, and an NLL term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from align.errors import ProofError
from align.losses import dpo_loss, nll_loss, sum_by_sequence
from align.settings import DPOConfig
from align.trainers.base import TreeTrainer
from align.trainers.reference import reference_logps
from align.tree.encode import PromptTree
from align.tree.pack import TreeBatch

MARGIN_TOLERANCE = 1e-3
"""Largest mean absolute margin before any training, log-odds. The reference pass runs the first step's very batches,
so what is left is the noise of kernels that are not deterministic."""


class DPOTrainer(TreeTrainer):
    """Mean DPO loss over the step's pairs, and the chosen completions' NLL. A tree's branches: chosen, rejected."""

    stage = "dpo"

    def __init__(self, *arguments: Any, dpo: DPOConfig, **settings: Any) -> None:
        self.dpo = dpo
        self.reference: dict[str, list[float]] = {}
        super().__init__(*arguments, **settings)
        assert all(len(tree.branches) == 2 for tree in self.trees), "a pair has two completions"

    def before_first_step(self, model: torch.nn.Module, resumed: bool) -> None:
        model.eval()
        self.reference = reference_logps(
            self.output / "reference.json",
            self.trees,
            self.plan,
            lambda batch: self._contrasted(model(batch), batch),
            device=self.args.device,
            resumed=resumed,
        )

    def denominators(self, rows: Sequence[PromptTree]) -> dict[str, float]:
        return {"pairs": len(rows), "tokens": sum(sum(tree.branches[0].loss_mask) for tree in rows)}

    def batch_loss(self, model: torch.nn.Module, batch: TreeBatch, denominators: dict[str, float]) -> Tensor:
        logps = model(batch)
        chosen, rejected = self._contrasted(logps, batch).view(-1, 2).unbind(1)
        reference = torch.tensor([self.reference[tree_id] for tree_id in batch.tree_ids], device=logps.device)
        loss, margin = dpo_loss(chosen, rejected, reference[:, 0], reference[:, 1], beta=self.dpo.beta)
        nll = nll_loss(logps, batch.label_counts, normalization=self.dpo.nll_normalization)[0::2]
        whole = "tokens" if self.dpo.nll_normalization == "token_mean" else "pairs"
        weights = batch.weights
        self.count(
            rows=weights.sum(),
            dpo_loss_sum=(loss.detach() * weights).sum(),
            margin_sum=(margin * weights).sum(),
            absolute_margin_sum=(margin.abs() * weights).sum(),
            accuracy_sum=(((margin > 0) + 0.5 * (margin == 0)) * weights).sum(),
            chosen_reward_sum=(self.dpo.beta * (chosen.detach() - reference[:, 0]) * weights).sum(),
            rejected_reward_sum=(self.dpo.beta * (rejected.detach() - reference[:, 1]) * weights).sum(),
            nll_loss_sum=(nll.detach() * weights).sum(),
        )
        contrast = (loss * weights).sum() / denominators["pairs"]
        return contrast + self.dpo.nll_coefficient * (nll * weights).sum() / denominators[whole]

    def prove_first_step(self, totals: dict[str, float]) -> None:
        margin = totals["absolute_margin_sum"] / totals["rows"]
        loss = totals["dpo_loss_sum"] / totals["rows"]
        if margin > MARGIN_TOLERANCE:
            wanted = f"wanted 0 and ln 2 = {math.log(2):.4f}"
            what = f"before training the margin is {margin:.4g} and the loss {loss:.4f}, {wanted}"
            raise ProofError("step 0", what, "Policy and reference differ: check model.path and model.dtype")

    def _contrasted(self, logps: Tensor, batch: TreeBatch) -> Tensor:
        """Sums over each branch's contrasted tokens, [B]."""
        if self.dpo.mask_format_tokens:
            logps = torch.where(batch.contrast_mask, logps, 0.0)
        return sum_by_sequence(logps, batch.label_counts)
