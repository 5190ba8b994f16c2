"""The steps that ours are compared with: padded rows by hand, TRL's trainers, flash-preference where it is installed.

dpo-prefix-sharing (2024) is no package. Its method is one FlexAttention call over prompt, chosen and rejected, which
our `flex` arm is, packed.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from align.tree.encode import PromptTree
from tests.gpu import shapes
from tests.gpu.measure import Check, Skipped

BETA = 0.1
Step = Callable[[], Tensor]


def padded_rows(check: Check, method: str, model: Any, trees: Sequence[PromptTree]) -> Step:
    """A row for each completion with its prompt, padded, all logits: what a short script does."""
    ids, mask, labels = shapes.padded(trees, check.device)
    reference = None if method != "dpo" else _reference(model, ids, mask, labels)

    def step() -> Tensor:
        return _padded_step(model, method, ids, mask, labels, reference)

    return step


def flash_preference(check: Check, method: str, model_of: Callable[[str], Any], trees: Sequence[PromptTree]) -> Step:
    """The same rows inside `shared_prefix` (pip install flash-pref; it requires flash-attn and its transformers)."""
    for package in ("flash_pref", "flash_attn"):
        if importlib.util.find_spec(package) is None:
            raise Skipped(f"{package} is not installed")
    from flash_pref import shared_prefix  # type: ignore[import-not-found]

    model = model_of("flash_attention_2")
    ids, mask, labels = shapes.padded(trees, check.device)

    def sharing() -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = shared_prefix(model, input_ids=ids, attention_mask=mask)
        return context

    with sharing():
        reference = _reference(model, ids, mask, labels)

    def step() -> Tensor:
        return _padded_step(model, method, ids, mask, labels, reference, sharing)

    return step


def _padded_step(
    model: Any,
    method: str,
    ids: Tensor,
    mask: Tensor,
    labels: Tensor,
    reference: Tensor | None,
    context: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Tensor:
    with context():
        if method == "reward":
            scores = _scores(model, ids, mask).view(-1, 2)
            loss = -logsigmoid(scores[:, 0] - scores[:, 1]).mean()
        elif method == "sft":
            loss = -_logps(model, ids, mask, labels).sum() / labels.sum()
        else:
            assert reference is not None
            chosen, rejected = (_logps(model, ids, mask, labels).sum(1) - reference).view(-1, 2).unbind(1)
            loss = -logsigmoid(BETA * (chosen - rejected)).mean()
        loss.backward()
    return loss.detach()


def _logps(model: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """[rows, longest - 1], zero where there is no label."""
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    return (logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]) * labels[:, 1:]


@torch.no_grad()
def _reference(model: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    return _logps(model, ids, mask, labels).sum(1)


def _scores(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    scores: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float()
    return scores


def trl_step(check: Check, method: str, model: Any, trees: Sequence[PromptTree]) -> Step:
    """TRL's trainer at its best settings: no checkpointing, and the reference's log-probabilities taken beforehand."""
    if importlib.util.find_spec("trl") is None:
        raise Skipped("trl is not installed")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import trl

    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        warnings.simplefilter("ignore", FutureWarning)  # of names that TRL gives to transformers
        return _trl_step(trl, check, method, model, trees, folder)


def _trl_step(trl: Any, check: Check, method: str, model: Any, trees: Sequence[PromptTree], folder: str) -> Step:
    common: dict[str, Any] = {
        "output_dir": folder, "per_device_train_batch_size": len(trees), "report_to": "none", "max_length": None,
        "use_cpu": not check.on_gpu, "bf16": False, "gradient_checkpointing": False,
    }  # fmt: skip
    tokenizer, rows = _tokenizer(model.config.vocab_size), _dataset(trees, method)
    if method == "dpo":
        arguments = trl.DPOConfig(**common, beta=BETA, precompute_ref_log_probs=True)
        reference = copy.deepcopy(model)
        trainer: Any = trl.DPOTrainer(model, reference, arguments, train_dataset=rows, processing_class=tokenizer)
        del reference
        trainer.ref_model = None
    elif method == "sft":
        trainer = trl.SFTTrainer(model, trl.SFTConfig(**common), train_dataset=rows, processing_class=tokenizer)
    else:
        arguments = trl.RewardConfig(**common)
        trainer = trl.RewardTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
    wrapped = trainer.accelerator.prepare_model(trainer.model)
    trainer.current_gradient_accumulation_steps = 1
    trainer._set_signature_columns_if_needed()
    columns = set(trainer._signature_columns)
    batch = [{name: row[name] for name in row if name in columns} for row in trainer.train_dataset]

    def step() -> Tensor:
        loss: Tensor = trainer.training_step(wrapped, trainer.data_collator(batch))
        return loss

    return step


def _tokenizer(words: int) -> Any:
    """A tokenizer whose text for token 7 is the word `t7`, so that rows of ids can be given as text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    special = {"<pad>": shapes.PAD, "<unk>": shapes.UNKNOWN, "</s>": shapes.END}
    vocabulary = special | {f"t{number}": number for number in range(shapes.FIRST, words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", padding_side="right"
    )


def _dataset(trees: Sequence[PromptTree], method: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    if method == "sft":
        return datasets.Dataset.from_list(
            [
                {"prompt": _text(tree.prompt), "completion": " " + _text(branch.ids)}
                for tree in trees
                for branch in tree.branches
            ]
        )
    return datasets.Dataset.from_list(
        [
            {"prompt": _text(tree.prompt), "chosen": " " + _text(better.ids), "rejected": " " + _text(worse.ids)}
            for tree in trees
            for better, worse in combinations(tree.branches, 2)
        ]
    )


def _text(ids: Any) -> str:
    """TRL adds the end token itself."""
    return " ".join(f"t{number}" for number in ids if number != shapes.END)
