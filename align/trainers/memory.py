"""Running out of memory during training: one message with the present settings, and those that would need less.

Only what is not set already is suggested. What a setting saves is described in docs/large-models.md.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import TrainingArguments

import align.models.memory as models
from align.settings import ModelConfig, TrainingConfig
from align.trainers.validation import Validation
from align.tree.pack import RunPlan


class Training(Protocol):
    """What the message needs of a trainer."""

    start: ModelConfig
    training: TrainingConfig
    plan: RunPlan
    validation: Validation | None
    args: TrainingArguments
    model: Any
    is_deepspeed_enabled: bool


@dataclass(frozen=True)
class StepMemory:
    """What the memory of an optimizer step depends on."""

    model: ModelConfig
    training: TrainingConfig
    token_budget: int
    longest_row: int
    """Tokens of the longest row, of those that are trained on and those that are held out. A packed row is never
    shorter than it."""
    precision: str
    on_gpu: bool
    sharded: bool
    """Whether DeepSpeed spreads the model over processes."""

    @classmethod
    def of(cls, trainer: Training) -> StepMemory:
        """What it is in the run of a trainer."""
        plans = [trainer.plan] if trainer.validation is None else [trainer.plan, trainer.validation.plan]
        return cls(
            trainer.start,
            trainer.training,
            token_budget=trainer.plan.token_budget,
            longest_row=max(int(plan.sizes.max()) for plan in plans),
            precision=trainer.model.precision,
            on_gpu=trainer.args.device.type == "cuda",
            sharded=trainer.is_deepspeed_enabled,
        )

    def now(self) -> str:
        """The settings, for the message."""
        now = {
            "data.token_budget": self.token_budget,
            "longest row": f"{self.longest_row} tokens",
            "training.batch_size": self.training.batch_size,
            "model.gradient_checkpointing": str(self.model.gradient_checkpointing).lower(),
            "model.lora": "null" if self.model.lora is None else f"rank {self.model.lora.rank}",
            "precision": f"{self.precision}, {'ZeRO-3' if self.sharded else 'not sharded'}",
        }
        if self.sharded:
            now["training.sequence_parallel"] = self.training.sequence_parallel
        return ", ".join(f"{name} {value}" for name, value in now.items())

    def advice(self) -> list[str]:
        """What would need less memory, the cheapest first."""
        found = []
        model, budget, longest = self.model, self.token_budget, self.longest_row
        if budget > longest:
            found.append(f"lower data.token_budget (now {budget}), down to {longest}; the result stays the same")
        if not model.gradient_checkpointing:
            found.append("set model.gradient_checkpointing=true (about a third slower)")
        if budget <= longest:
            found.append(f"leave out the longest rows (data.token_budget, now {budget}, with data.over_budget=drop)")
        if self.sharded:
            now = self.training.sequence_parallel
            found.append(f"share each packed row among more processes (training.sequence_parallel, now {now})")
        if self.on_gpu and self.precision == "fp32":
            found.append("set training.precision=bf16")
        if model.lora is None and not self.sharded:
            found.append("train an adapter (model.lora={})")
        if model.lora is not None and model.quantization is None and self.on_gpu and not self.sharded:
            found.append("store the frozen weights in 4 bits (model.quantization=nf4)")
        if model.lora is None and self.training.optimizer.startswith("adamw_torch") and not self.sharded:
            found.append("use an optimizer with smaller states (training.optimizer=adafactor)")
        if self.on_gpu:
            more = "start more processes" if self.sharded else "spread the model over GPUs (recipes/launch/zero3.yaml)"
            found.append(more)
        else:
            found.append("use a machine with more memory")
        return found


def memory_errors(step: Callable[[], int], memory: StepMemory) -> AbstractContextManager[None]:
    """In the block, running out of memory becomes an AlignError that names the settings to change.

    step: gives the number of the current optimizer step.
    """

    def how() -> str:
        advice = "; or ".join(memory.advice())
        most = "training.batch_size does not change the memory of a step"
        return f"Now: {memory.now()}. {advice[:1].upper()}{advice[1:]}. {most}"

    device = "GPU" if memory.on_gpu else "CPU"
    return models.memory_errors("memory", lambda: f"on the {device} in step {step()}", how)
