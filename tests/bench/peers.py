"""TRL's arms, and plain transformers': the only file of the benchmark that uses TRL.

An arm is a TRL trainer whose own collator and `training_step` are called on rows that its own code has prepared, so its
metrics and checks are in its time as they are in its training. `max_length=None` throughout, since the default of 1,024
would cut rows and change the loss. What "as it comes" and "best" mean is described at each function.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import datasets
import shapes
import torch
import transformers
import trl
import trl.trainer.utils
from shapes import Row
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

warnings.filterwarnings("ignore", category=FutureWarning)  # TRL still says gradient_checkpointing to transformers
datasets.disable_progress_bars()
transformers.utils.logging.set_verbosity_error()

Json = dict[str, Any]


def policy(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")


def reward_model(folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=torch.float32, attn_implementation="sdpa"
    )


class Arm:
    """A trainer and the batches it steps over."""

    def __init__(self, trainer: Any, batch_size: int) -> None:
        self.trainer = trainer
        # What Trainer.train does to a model before its first step.
        arguments = trainer.args
        self.checkpointing = bool(arguments.activation_checkpointing)
        if self.checkpointing:
            trainer.model.activation_checkpointing_enable(arguments.activation_checkpointing_kwargs or None)
        self.model: nn.Module = trainer.accelerator.prepare_model(trainer.model)
        trainer.current_gradient_accumulation_steps = 1
        expected = set(_signature(trainer))
        rows = [{name: row[name] for name in row if name in expected} for row in trainer.train_dataset]
        self.batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]

    def step(self, batch: int) -> Tensor:
        """Collate, forward, backward. Returns the loss."""
        return self.trainer.training_step(self.model, self.trainer.data_collator(self.batches[batch]))

    def step_compact(self, batch: int) -> Tensor:
        with label_positions_only():
            return self.step(batch)

    def padding_share(self, batch: int) -> float:
        """The share of a batch's positions that hold no token."""
        mask = self.trainer.data_collator(self.batches[batch]).get("attention_mask")
        return 0.0 if mask is None else 1.0 - mask.float().mean().item()


@contextmanager
def label_positions_only() -> Iterator[None]:
    """Have TRL's head score label positions only, as it does where Triton is, and not every position, as on a CPU.

    The head asks `trl.trainer.utils._use_triton`; the kernel below asks its own module's, which stays as it is.
    """
    before = trl.trainer.utils._use_triton
    trl.trainer.utils._use_triton = lambda device: True
    try:
        yield
    finally:
        trl.trainer.utils._use_triton = before


def dpo_as_it_comes(
    model: Any, reference: Any, rows: Sequence[Row], tokenizer: Any, size: int, bf16: bool, out: Path
) -> Arm:
    """TRL's defaults: gradient checkpointing on, the reference model run in every step, every position scored."""
    arguments = trl.DPOConfig(**_common(out, size, bf16))
    trainer = trl.DPOTrainer(
        model, reference, arguments, train_dataset=preference_dataset(rows), processing_class=tokenizer
    )
    return Arm(trainer, size)


def dpo_best(model: Any, reference: Any, rows: Sequence[Row], tokenizer: Any, size: int, bf16: bool, out: Path) -> Arm:
    """Checkpointing off, and the reference's log-probabilities taken beforehand, by TRL's own pass."""
    arguments = trl.DPOConfig(**_common(out, size, bf16), gradient_checkpointing=False, precompute_ref_log_probs=True)
    with label_positions_only():  # for the pass beforehand, which is not timed: the same values, sooner
        trainer = trl.DPOTrainer(
            model, reference, arguments, train_dataset=preference_dataset(rows), processing_class=tokenizer
        )
    return Arm(trainer, size)


def sft(
    model: Any,
    rows: Sequence[Row],
    tokenizer: Any,
    size: int,
    bf16: bool,
    out: Path,
    *,
    checkpointing: bool,
    packed: bool,
) -> Arm:
    """SFT on completions. As it comes: checkpointing on, padded.

    packed: all rows of a step in one row without padding (`padding_free`, which `packing` with its default strategy
    switches on as well). On SDPA transformers finds where positions restart and makes a dense block-diagonal mask over
    the whole row, so nothing leaks; the gate would show it.
    """
    arguments = trl.SFTConfig(**_common(out, size, bf16), gradient_checkpointing=checkpointing, padding_free=packed)
    records = [{"prompt": row.prompt, "completion": row.completions[0]} for row in rows]
    data = datasets.Dataset.from_list(records)
    return Arm(trl.SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer), size)


def reward(
    model: Any, rows: Sequence[Row], tokenizer: Any, size: int, bf16: bool, out: Path, *, checkpointing: bool
) -> Arm:
    """The reward model on every pair of a row's completions: three completions are three pairs, as TRL takes them.

    SmolLM2 pads with the token that ends a completion; transformers reads a score at the last token that is no padding,
    so it would read one too early. Another padding token is named.
    """
    records = [
        {"prompt": row.prompt, "chosen": row.completions[a], "rejected": row.completions[b]}
        for row in rows
        for a in range(len(row.completions))
        for b in range(a + 1, len(row.completions))
    ]
    pairs = size * len(records) // len(rows)
    arguments = trl.RewardConfig(
        **_common(out, pairs, bf16), gradient_checkpointing=checkpointing, pad_token=shapes.PAD[0]
    )
    data = datasets.Dataset.from_list(records)
    return Arm(trl.RewardTrainer(model, arguments, train_dataset=data, processing_class=tokenizer), pairs)


def preference_dataset(rows: Sequence[Row]) -> Any:
    return datasets.Dataset.from_list(
        [{"prompt": row.prompt, "chosen": row.completions[0], "rejected": row.completions[1]} for row in rows]
    )


def _common(out: Path, size: int, bf16: bool) -> Json:
    return {
        "output_dir": str(out), "per_device_train_batch_size": size, "report_to": "none", "use_cpu": True,
        "bf16": bf16, "max_length": None,
    }  # fmt: skip


def _signature(trainer: Any) -> list[str]:
    trainer._set_signature_columns_if_needed()
    return trainer._signature_columns


# Scoring with plain transformers


@torch.inference_mode()
def score_padded(model: Any, completions: Sequence[Sequence[int]], batch_size: int) -> Tensor:
    """A score for each whole sequence (prompt and completion), in padded batches of that many, longest first."""
    order = sorted(range(len(completions)), key=lambda place: -len(completions[place]))
    scores = torch.empty(len(completions))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        longest = max(len(completions[place]) for place in places)
        ids = torch.full((len(places), longest), model.config.pad_token_id)
        mask = torch.zeros_like(ids)
        for line, place in enumerate(places):
            ids[line, : len(completions[place])] = torch.tensor(completions[place])
            mask[line, : len(completions[place])] = 1
        scores[places] = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.squeeze(-1).float()
    return scores


# Preparation


def dpo_preparer(model: Any, tokenizer: Any, out: Path) -> Any:
    """A function from a JSONL file to how many rows TRL's DPO trainer has prepared of it, by its own method."""
    arguments = trl.DPOConfig(**_common(out, 1, False))
    one = preference_dataset([Row("a", [_said("user")], [[_said("assistant", "yes")], [_said("assistant", "no")]])])
    trainer = trl.DPOTrainer(model, copy.deepcopy(model), arguments, train_dataset=one, processing_class=tokenizer)

    def prepare(path: Path) -> int:
        data = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(out / "cache"))
        return len(trainer._prepare_dataset(data, tokenizer, arguments, "train"))

    return prepare


def _said(role: str, content: str = "hello") -> dict[str, str]:
    return {"role": role, "content": content}


# The output head alone


def head_nll(arm: str, words: int, width: int) -> partial[Tensor]:
    """Mean negative log-probability of labels [N] from states [N, E]: by all logits, or by TRL's kernel."""
    head = nn.Linear(width, words, bias=False)
    return partial({"logits": _full_logits_nll, "trl": _chunked_nll}[arm], head)


def _full_logits_nll(head: nn.Linear, states: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(states), labels)


def _chunked_nll(head: nn.Linear, states: Tensor, labels: Tensor) -> Tensor:
    """Asked for what TRL's SFT trainer asks."""
    kernel = trl.trainer.utils._ChunkedLogProbFunction
    size = trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE
    outputs = ("log_probs", "entropy", "is_top1")
    return -kernel.apply(states, head.weight, None, labels, 1.0, size, None, 1.0, outputs)[0].mean()
