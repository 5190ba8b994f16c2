"""What is trained for: SFT, the reward model, DPO and its variants."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from align.config import Section
from align.rows import Level


class SFTConfig(Section):
    """Supervised fine-tuning. Read by `align/trainers/sft.py`."""

    train_on: Literal["final", "all"] = "final"
    """Which messages are trained on. final: those after the last user message (Llama 3, table 7). all: every message of
    the assistant."""


class RewardConfig(Section):
    """The reward model's objective. Read by `align/trainers/reward.py`. Llama 3 has neither option (section 4.1.2)."""

    centering: float = Field(0.0, ge=0)
    """Weight of (r_better + r_worse)**2, which moves the mean score towards 0. 0 disables it; 0.01 is a usual start
    (Eisenstein et al. 2023, arXiv:2312.09244)."""
    margins: dict[Level, float] = Field(default_factory=dict)
    """Level -> target margin in log-odds between chosen and rejected, such as {significantly better: 1, better: 0.67}
    (Llama 2, equation 2 and table 27, up to 1 or up to 3). It is also the target margin between an edited and the
    rejected completion; between an edited and the chosen one there is none. Levels without an entry, and rows without a
    level, have the target 0."""

    @field_validator("margins")
    @classmethod
    def _margins_are_not_negative(cls, margins: dict[Level, float]) -> dict[Level, float]:
        for level, margin in margins.items():
            if not 0 <= margin < float("inf"):
                raise ValueError(f"the margin of {level!r} must be 0 or above, got {margin}")
        return margins


class DPOConfig(Section):
    """The objective on pairs: DPO as in the Llama 3 paper, or a variant. Read by `align/trainers/dpo.py`."""

    loss: Literal["sigmoid", "ipo", "length_normalized", "simpo"] = "sigmoid"
    """sigmoid: DPO, as in Llama 3. ipo: a squared distance to 1 / (2 beta) nats, on summed logps as its paper writes
    it. length_normalized: DPO on per-token means, of policy and reference (Tulu 3). simpo: on the policy's means, with
    no reference and no reference pass."""
    beta: float = Field(0.1, gt=0)
    """Strength of the constraint to the reference, per nat. A larger value keeps the policy closer. Llama 3, section
    4.1.4: 0.1. Other losses have other scales: length_normalized 5 (Tulu 3, arXiv:2411.15124), simpo 2.0 to 2.5
    (arXiv:2405.14734), ipo the tau of its paper (arXiv:2310.12036)."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Assumed fraction of pairs whose label is reversed (Mitchell's conservative DPO). Used by the losses sigmoid and
    length_normalized."""
    simpo_gamma: float | None = Field(None, ge=0)
    """Target margin of simpo, in log-odds. Required by simpo, whose paper uses 0.3 to 1.6; no other loss uses it."""
    nll_coefficient: float = Field(0.2, ge=0)
    """Weight of the negative log-likelihood of the chosen completion. Llama 3, section 4.1.4: 0.2."""
    nll_normalization: Literal["sequence_mean", "token_mean", "sequence_sum"] = "sequence_mean"
    """How the NLL is averaged. sequence_mean: the mean over each completion's tokens, then the mean over pairs (the
    paper does not specify it). token_mean: the mean over all tokens of the batch. sequence_sum: the sum over each
    completion's tokens, then the mean over pairs."""
    mask_format_tokens: bool = True
    """Leave header and terminator tokens out of the DPO loss, in chosen and rejected (Llama 3, section 4.1.4). The NLL
    always includes the terminator."""
    reference_cache: Path | None = None
    """Folder for the reference's log-probabilities, with one subfolder for each combination of weights, precision,
    rows and masks. None: `<output_dir>/reference`. Runs that share a folder, such as a sweep over beta, compute them
    once."""
    reference_shard_steps: int = Field(20, gt=0)
    """Optimizer steps whose rows are written to the cache at a time. A crash in the reference pass loses at most this
    many steps. Many files are merged into one."""

    @model_validator(mode="after")
    def _every_value_is_read(self) -> Self:
        if self.label_smoothing and self.loss not in ("sigmoid", "length_normalized"):
            raise ValueError(f"dpo.label_smoothing is {self.label_smoothing}, which the loss {self.loss} does not read")
        if self.loss == "simpo" and self.simpo_gamma is None:
            raise ValueError("the loss simpo requires dpo.simpo_gamma, which is missing; half of beta is a start")
        if self.loss != "simpo" and self.simpo_gamma is not None:
            raise ValueError(f"dpo.simpo_gamma is {self.simpo_gamma}, which the loss {self.loss} does not read")
        if self.loss == "simpo" and self.reference_cache is not None:
            raise ValueError("dpo.reference_cache is given, and the loss simpo has no reference")
        return self
