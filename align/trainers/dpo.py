"""Preference optimization on pairs: DPO as in Llama 3 (arXiv:2407.21783, section 4.1.4).

Format tokens are left out of the preference loss, and an NLL term on the chosen completion is added. `dpo.loss` selects
another preference loss (IPO, SimPO, ...); the NLL term is the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import TrainingArguments

from align.chat.protocol import ChatProtocol
from align.config import Section
from align.effective_time import REFERENCE
from align.losses import (
    PairwiseLoss,
    conservative_dpo_loss,
    dpo_loss,
    ipo_loss,
    nll_loss,
    simpo_loss,
    sum_by_sequence,
)
from align.models.logps import TreePolicy
from align.settings import DPOConfig, ModelConfig, TrainingConfig
from align.trainers.base import TreeTrainer
from align.trainers.checks import check_untrained
from align.trainers.output import REFERENCE_FOLDER
from align.trainers.reference import NO_REFERENCE, Reference, ReferenceCache, reference_key
from align.tree.encode import PromptTree
from align.tree.pack import RunPlan, TreeBatch


class Objective(NamedTuple):
    """A loss on pairs, and the values that it takes."""

    make: Callable[[DPOConfig], Callable[..., PairwiseLoss]]
    means: bool
    """Log-probabilities come as means over the contrasted tokens; otherwise as sums."""
    untrained: Callable[[DPOConfig], float] | None
    """The loss of a pair while policy and reference are equal; None for a loss without a reference."""


def _sigmoid(dpo: DPOConfig) -> Callable[..., PairwiseLoss]:
    if dpo.label_smoothing:
        return partial(conservative_dpo_loss, beta=dpo.beta, label_smoothing=dpo.label_smoothing)
    return partial(dpo_loss, beta=dpo.beta)


def _ipo(dpo: DPOConfig) -> Callable[..., PairwiseLoss]:
    return partial(ipo_loss, beta=dpo.beta)


def _simpo(dpo: DPOConfig) -> Callable[..., PairwiseLoss]:
    assert dpo.simpo_gamma is not None, "DPOConfig requires it for this loss"
    return partial(simpo_loss, beta=dpo.beta, gamma=dpo.simpo_gamma)


OBJECTIVES = {
    "sigmoid": Objective(_sigmoid, means=False, untrained=lambda dpo: math.log(2)),
    "length_normalized": Objective(_sigmoid, means=True, untrained=lambda dpo: math.log(2)),
    "ipo": Objective(_ipo, means=False, untrained=lambda dpo: (1 / (2 * dpo.beta)) ** 2),
    "simpo": Objective(_simpo, means=True, untrained=None),
}


class DPOTrainer(TreeTrainer):
    """Train a policy on pairs: the mean preference loss over the step's pairs, and the NLL of the chosen completions.

    The branches of a tree are chosen and rejected, in this order. The reference is `start`, the checkpoint that the
    policy was loaded from.

    Args: those of `TreeTrainer`, and
        dpo: which preference loss, with its coefficients, and where reference log-probabilities are kept.
    """

    stage = "dpo"

    def __init__(
        self,
        model: TreePolicy,
        arguments: TrainingArguments,
        trees: Sequence[PromptTree],
        protocol: ChatProtocol,
        *,
        start: ModelConfig,
        training: TrainingConfig,
        token_budget: int,
        recipe: Section,
        eval_trees: Sequence[PromptTree] | None = None,
        dpo: DPOConfig,
    ) -> None:
        self.dpo = dpo
        self.objective = OBJECTIVES[dpo.loss]
        self.contrast = self.objective.make(dpo)
        self.reference = self.held_out_reference = NO_REFERENCE
        super().__init__(
            model,
            arguments,
            trees,
            protocol,
            start=start,
            training=training,
            token_budget=token_budget,
            recipe=recipe,
            eval_trees=eval_trees,
        )

    def before_loading(self, model: torch.nn.Module) -> None:
        self._compute_held_out_reference(model)  # other rows may be held out than in the earlier start
        if self.extended_from is not None:  # the added steps may have rows that the earlier start did not reach
            self.before_first_step(model, resumed=False)

    def before_first_step(self, model: torch.nn.Module, resumed: bool) -> None:
        if self.objective.untrained is None:
            return
        self.reference = self._reference_logps(model, self.trees, self.plan, self.identity["rows"], resumed)
        if not resumed:
            self._compute_held_out_reference(model)

    def _compute_held_out_reference(self, model: torch.nn.Module) -> None:
        """Log-probabilities of the held-out rows, while the model has the weights that the run starts from."""
        if self.validation is not None and self.objective.untrained is not None:
            trees, plan, rows = self.validation.trees, self.validation.plan, self.validation.rows
            self.held_out_reference = self._reference_logps(model, trees, plan, rows, resumed=False)

    def _reference_logps(
        self, model: torch.nn.Module, trees: Sequence[PromptTree], plan: RunPlan, rows: str, resumed: bool
    ) -> Reference:
        """The reference's log-probabilities of trees. rows: their fingerprint."""
        summed = "content" if self.dpo.mask_format_tokens else "content and terminators"
        weights = self.identity["start"]
        key = self.processes.agree(
            lambda: reference_key(self.start, self.model.precision, trees, summed, weights=weights, rows=rows)
        )
        cache = ReferenceCache(
            self.dpo.reference_cache or self.output / REFERENCE_FOLDER,
            key,
            trees,
            plan,
            device=self.args.device,
            shard_steps=self.dpo.reference_shard_steps,
            sharing=self.processes.sharing,
            leads=self.processes.leads,
        )
        model.eval()

        def logps_of(batch: TreeBatch) -> Tensor:
            self.watchdog.note_progress("the reference pass")
            return self._contrasted(model(batch), batch)[0]

        with self.clock.phase(REFERENCE):
            return cache.logps(logps_of, self.processes.agree, resumed=resumed)

    def denominators(self, rows: Sequence[PromptTree]) -> dict[str, float]:
        return {"pairs": len(rows), "tokens": sum(int(np.count_nonzero(tree.branches[0].loss_mask)) for tree in rows)}

    def batch_loss(self, model: torch.nn.Module, batch: TreeBatch, denominators: dict[str, float]) -> Tensor:
        assert set(batch.branch_counts) == {2}, "a pair has two completions"
        logps = model(batch)
        sums, lengths = self._contrasted(logps, batch)
        scale = lengths.clamp(min=1).view(-1, 2) if self.objective.means else 1
        policy = (sums.view(-1, 2) / scale).unbind(1)
        # Without a reference a reward is the policy's own log-probability.
        reference = () if batch.reference is None else (batch.reference.view(-1, 2) / scale).unbind(1)
        loss, margin = self.contrast(*policy, *reference)
        nll = nll_loss(logps, batch.label_counts, normalization=self.dpo.nll_normalization)[0::2]
        whole = "tokens" if self.dpo.nll_normalization == "token_mean" else "pairs"
        weights = batch.weights
        chosen_logps, rejected_logps = sums.view(-1, 2).unbind(1)
        chosen_reward, rejected_reward = (
            self.dpo.beta * (side.detach() - (reference[place] if reference else 0))
            for place, side in enumerate(policy)
        )
        self.sums.add(
            rows=weights.sum(),
            dpo_loss_sum=(loss.detach() * weights).sum(),
            nll_loss_sum=(nll.detach() * weights).sum(),
            absolute_margin_sum=(margin.abs() * weights).sum(),
            **{
                "rewards/chosen_sum": (chosen_reward * weights).sum(),
                "rewards/rejected_sum": (rejected_reward * weights).sum(),
                "rewards/accuracies_sum": (((margin > 0) + 0.5 * (margin == 0)) * weights).sum(),
                "rewards/margins_sum": (margin * weights).sum(),
                "logps/chosen_sum": (chosen_logps.detach() * weights).sum(),
                "logps/rejected_sum": (rejected_logps.detach() * weights).sum(),
            },
        )
        contrast = (loss * weights).sum() / denominators["pairs"]
        return contrast + self.dpo.nll_coefficient * (nll * weights).sum() / denominators[whole]

    def check_first_step(self, totals: dict[str, float]) -> None:
        if self.objective.untrained is None:
            return
        masks = [branch.loss_mask for row in self.plan[0].rows for branch in self.trees[row].branches]
        check_untrained(
            margin=totals["absolute_margin_sum"] / totals["rows"],
            loss=totals["dpo_loss_sum"] / totals["rows"],
            expected_loss=self.objective.untrained(self.dpo),
            beta=self.dpo.beta,
            means=self.objective.means,
            tokens=sum(int(np.count_nonzero(mask)) for mask in masks) / len(masks),
            same_batches=self.reference.same_batches,
            low_precision=self.model.low_precision,
        )

    def batch(self, members: Sequence[int], weight: float = 1.0) -> TreeBatch:
        return self._with_reference(super().batch(members, weight), members, self.reference)

    def held_out_batch(self, members: Sequence[int], weight: float = 1.0) -> TreeBatch:
        return self._with_reference(super().held_out_batch(members, weight), members, self.held_out_reference)

    def _with_reference(self, batch: TreeBatch, members: Sequence[int], reference: Reference) -> TreeBatch:
        if self.objective.untrained is not None:
            logps = reference.logps[np.asarray(members)].reshape(-1)
            batch.reference = torch.from_numpy(logps).to(self.args.device)
        return batch

    def _contrasted(self, logps: Tensor, batch: TreeBatch) -> tuple[Tensor, Tensor]:
        """Sums over each branch's contrasted tokens and how many these are, [B] each."""
        if not self.dpo.mask_format_tokens:
            return sum_by_sequence(logps, batch.label_counts), batch.label_counts
        logps = torch.where(batch.contrast_mask, logps, 0.0)
        kept = sum_by_sequence(batch.contrast_mask.float(), batch.label_counts)
        return sum_by_sequence(logps, batch.label_counts), kept
