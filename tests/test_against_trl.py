"""Losses and gradients of the trainers against TRL's, on the same rows and the same weights.

TRL pads chosen and rejected and runs the prompt with each; it has one mask for the contrast and the NLL term, and a
mean over the batch's tokens for the latter. So ours is set to that: `mask_format_tokens=False`, `token_mean`.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from align.losses import dpo_loss, nll_loss, reward_loss, sum_by_sequence
from align.models.logps import TreePolicy, TreeScorer
from align.rows import Message, PreferenceRow
from align.settings import PreferenceDataConfig
from align.tree.encode import encode_preferences
from align.tree.pack import collate

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
trl = pytest.importorskip("trl", reason="TRL is an oracle of the tests: pip install 'align[dev]'")

ROWS = [
    PreferenceRow(
        id=f"r{n}",
        source="test",
        prompt=(Message(role="user", content=question),),
        completions=((Message(role="assistant", content=good),), (Message(role="assistant", content=bad),)),
    )
    for n, (question, good, bad) in enumerate(
        [
            ("What is the capital of France?", "It is Paris.", "The capital is the river Seine, I guess."),
            ("Rome?", "It is in Italy", "I do not know that"),
            ("Please answer in one short sentence: 2 + 2", "4", "It is 5, and I will not guess again. 12345"),
        ]
    )
]


@pytest.fixture
def models(tiny_checkpoint: Path):
    """A policy, and a reference that differs from it, both plain transformers models."""
    from transformers import AutoModelForCausalLM

    policy = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    reference = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return policy, reference


def trees(checkpoint: Path):
    from align.models.loading import load_tokenizer

    tokenizer, protocol = load_tokenizer(checkpoint)
    found = encode_preferences(ROWS, protocol, PreferenceDataConfig(path=checkpoint), dropped=Counter())
    return tokenizer, collate(list(found))


def dataset():
    from datasets import Dataset

    def plain(messages):
        return [{"role": message.role, "content": message.content} for message in messages]

    return Dataset.from_list(
        [{"prompt": plain(r.prompt), "chosen": plain(r.chosen), "rejected": plain(r.rejected)} for r in ROWS]
    )


def reads_trees(model):
    import align.tree.attention

    model.config._attn_implementation = align.tree.attention.NAME
    return model


def assert_same_gradients(ours, theirs) -> None:
    compared = 0
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
        compared += 1
    assert compared > 10


def test_dpo_with_nll_gives_trls_loss_and_gradients(tmp_path: Path, tiny_checkpoint: Path, models) -> None:
    policy, reference = models
    tokenizer, batch = trees(tiny_checkpoint)
    theirs = copy.deepcopy(policy)
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=len(ROWS), beta=0.1, report_to="none", use_cpu=True,
        loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.2], bf16=False, gradient_checkpointing=False,
        max_length=None,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=theirs,
        ref_model=copy.deepcopy(reference),
        args=arguments,
        train_dataset=dataset(),
        processing_class=tokenizer,
    )
    trainer.model.train()
    expected = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    expected.backward()

    ours = reads_trees(policy)
    logps = TreePolicy(ours)(batch)
    with torch.no_grad():
        frozen = sum_by_sequence(TreePolicy(reads_trees(reference))(batch), batch.label_counts).view(-1, 2)
    sums = sum_by_sequence(logps, batch.label_counts).view(-1, 2)
    loss = dpo_loss(sums[:, 0], sums[:, 1], frozen[:, 0], frozen[:, 1], beta=0.1).loss.mean()
    nll = nll_loss(logps, batch.label_counts, normalization="token_mean")[0::2].sum() / batch.label_counts[0::2].sum()
    (loss + 0.2 * nll).backward()

    torch.testing.assert_close(loss + 0.2 * nll, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(ours, theirs)


def test_the_reward_model_gives_trls_loss_and_gradients(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint, num_labels=1)
    tokenizer, batch = trees(tiny_checkpoint)
    theirs = copy.deepcopy(model)
    arguments = trl.RewardConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=len(ROWS), report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, disable_dropout=True,
    )  # fmt: skip
    trainer = trl.RewardTrainer(model=theirs, args=arguments, train_dataset=dataset(), processing_class=tokenizer)
    trainer.model.train()
    expected = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    expected.backward()

    ours = reads_trees(model)
    scores = TreeScorer(ours)(batch).view(-1, 2)
    loss = reward_loss(scores[:, 0], scores[:, 1]).loss.mean()
    loss.backward()

    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(ours, theirs)
