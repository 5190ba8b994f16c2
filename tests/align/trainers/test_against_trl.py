"""Losses, gradients and logged metrics of the trainers against TRL's, on the same rows and the same weights.

TRL pads chosen and rejected and runs the prompt with each; it has one mask for the contrast and the NLL term, and a
mean over the batch's tokens for the latter. So ours is set to that: `mask_format_tokens=False`, `token_mean`.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

from align.jsonl import write_rows
from align.losses import (
    centering_loss,
    conservative_dpo_loss,
    dpo_loss,
    ipo_loss,
    nll_loss,
    reward_loss,
    simpo_loss,
    sum_by_sequence,
)
from align.models.loading import load_tokenizer
from align.models.logps import TreePolicy, TreeScorer
from align.row_export import export_rows
from align.rows import Message, PreferenceRow, SFTRow, ToolCall
from align.settings import DPOConfig, PreferenceDataConfig, RewardConfig, TreeDataConfig
from align.trainers.dpo import OBJECTIVES, DPOTrainer
from align.trainers.metrics import MetricSums
from align.trainers.processes import Processes
from align.trainers.reward import RewardTrainer
from align.trainers.sft import SFTTrainer
from align.tree.encode import encode_preferences, encode_sft
from align.tree.pack import collate

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
trl = pytest.importorskip("trl", reason="these tests compare with TRL: pip install -e '.[bench]'")

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


def trees(checkpoint: Path, rows: int = len(ROWS)):
    tokenizer, protocol = load_tokenizer(checkpoint)
    data = PreferenceDataConfig(path=checkpoint)
    found = list(encode_preferences(ROWS[:rows], protocol, data, dropped=Counter()))
    return tokenizer, found, collate(found)


def dataset(rows: int = len(ROWS)):
    from datasets import Dataset

    def plain(messages):
        return [{"role": message.role, "content": message.content} for message in messages]

    return Dataset.from_list(
        [{"prompt": plain(r.prompt), "chosen": plain(r.chosen), "rejected": plain(r.rejected)} for r in ROWS[:rows]]
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


def assert_logged(theirs, ours, found, *names: str) -> None:
    """Our trainer reports TRL's metrics under TRL's names. found: the trees of the step."""
    reported = ours.sums.report(Processes(1, 0, torch.device("cpu")))
    expected = {name: values[-1] for name, values in theirs._metrics["train"].items()}
    for name in names:
        assert reported[name] == pytest.approx(expected[name], abs=1e-4), name
    assert sum(tree.unshared_tokens for tree in found) == expected["num_tokens"]


@pytest.mark.slow
def test_dpo_with_nll_gives_trls_loss_gradients_and_metrics(tmp_path: Path, tiny_checkpoint: Path, models) -> None:
    policy, reference = models
    tokenizer, found, batch = trees(tiny_checkpoint)
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

    dpo = DPOConfig(beta=0.1, nll_normalization="token_mean", mask_format_tokens=False)
    batch.reference = frozen.view(-1)
    stepped = DPOTrainer.__new__(DPOTrainer)
    stepped.dpo, stepped.objective, stepped.sums = dpo, OBJECTIVES[dpo.loss], MetricSums()
    stepped.contrast = stepped.objective.make(dpo)
    whole = stepped.batch_loss(TreePolicy(ours), batch, stepped.denominators(found))
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-5)
    names = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")
    assert_logged(trainer, stepped, found, *names, "logps/chosen", "logps/rejected")


@pytest.mark.slow
def test_sft_gives_trls_loss_gradients_and_metrics(tmp_path: Path, tiny_checkpoint: Path, models) -> None:
    from datasets import Dataset

    ours, _ = models
    theirs = copy.deepcopy(ours)
    tokenizer, _, _ = trees(tiny_checkpoint)
    _, protocol = load_tokenizer(tiny_checkpoint)
    dialogs = [SFTRow(id=row.id, source="test", messages=(*row.prompt, *row.chosen)) for row in ROWS]
    found = list(encode_sft(dialogs, protocol, TreeDataConfig(path=tiny_checkpoint), "final", Counter()))
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=len(ROWS), report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, max_length=None,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": row["prompt"], "completion": row["chosen"]} for row in dataset()])
    trainer = trl.SFTTrainer(model=theirs, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.model.train()
    expected = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    expected.backward()

    stepped = SFTTrainer.__new__(SFTTrainer)
    stepped.sums = MetricSums()
    loss = stepped.batch_loss(TreePolicy(reads_trees(ours)), collate(found), stepped.denominators(found))
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(ours, theirs)
    assert_logged(trainer, stepped, found)


VARIANTS = [
    # TRL hands IPO means over the tokens; ours reads what it is given, and test_losses.py has it on sums.
    ({"loss_type": ["ipo"], "beta": 0.3}, partial(ipo_loss, beta=0.3), "mean", len(ROWS)),
    ({"loss_type": ["sigmoid_norm"], "beta": 5.0}, partial(dpo_loss, beta=5.0), "mean", len(ROWS)),
    # TRL has no smoothed sigmoid any more, but its optimal transport loss sorts pairs, and one alone is sorted.
    (
        {"loss_type": ["aot"], "beta": 0.3, "label_smoothing": 0.2},
        partial(conservative_dpo_loss, beta=0.3, label_smoothing=0.2),
        "sum",
        1,
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("settings, loss, reduction, rows", VARIANTS, ids=["ipo", "length normalized", "smoothed"])
def test_a_variant_of_dpo_gives_trls_loss_and_gradients(
    settings, loss, reduction: str, rows: int, tmp_path: Path, tiny_checkpoint: Path, models
) -> None:
    policy, reference = models
    tokenizer, _, batch = trees(tiny_checkpoint, rows)
    theirs = copy.deepcopy(policy)
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=rows, report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, max_length=None, **settings,
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        model=theirs,
        ref_model=copy.deepcopy(reference),
        args=arguments,
        train_dataset=dataset(rows),
        processing_class=tokenizer,
    )
    trainer.model.train()
    expected = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    expected.backward()

    ours = reads_trees(policy)
    scale = batch.label_counts if reduction == "mean" else 1
    sums = (sum_by_sequence(TreePolicy(ours)(batch), batch.label_counts) / scale).view(-1, 2)
    with torch.no_grad():
        frozen = (sum_by_sequence(TreePolicy(reads_trees(reference))(batch), batch.label_counts) / scale).view(-1, 2)
    found = loss(*sums.unbind(1), *frozen.unbind(1)).loss.mean()
    found.backward()

    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(ours, theirs)


def test_simpo_gives_the_values_of_trls_cpo_trainer() -> None:
    """TRL's trainer keeps its formula in a method of tensors; the rest of it is experimental and is not run."""
    cpo = pytest.importorskip("trl.experimental.cpo")
    trainer = cpo.CPOTrainer.__new__(cpo.CPOTrainer)
    trainer.alpha, trainer.beta, trainer.simpo_gamma, trainer.label_smoothing = 0.0, 2.0, 1.2, 0.0
    trainer.loss_type = "simpo"
    trainer.accelerator = type("OnCPU", (), {"device": torch.device("cpu")})
    chosen, rejected = torch.tensor([-0.5, -2.0, -1.0]), torch.tensor([-1.5, -0.25, -1.0])
    expected, chosen_rewards, rejected_rewards = trainer.cpo_loss(chosen, rejected)
    loss, margin = simpo_loss(chosen, rejected, beta=2.0, gamma=1.2)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(margin, chosen_rewards - rejected_rewards)


@pytest.mark.slow
@pytest.mark.parametrize(
    "centering, margins", [(None, None), (0.01, None), (None, [1.0, 1 / 3, 0.0])], ids=["plain", "centered", "margins"]
)
def test_the_reward_model_gives_trls_loss_gradients_and_metrics(
    centering: float | None, margins: list[float] | None, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint, num_labels=1)
    tokenizer, found, batch = trees(tiny_checkpoint)
    theirs = copy.deepcopy(model)
    arguments = trl.RewardConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=len(ROWS), report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, disable_dropout=True, center_rewards_coefficient=centering,
    )  # fmt: skip
    rows = dataset() if margins is None else dataset().add_column("margin", margins)
    trainer = trl.RewardTrainer(model=theirs, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.model.train()
    expected = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    expected.backward()

    ours = reads_trees(model)
    scores = TreeScorer(ours)(batch).view(-1, 2)
    better, worse = scores.unbind(1)
    ranking = reward_loss(better, worse, target_margins=torch.tensor(margins or 0.0)).loss
    loss = (ranking + (centering or 0) * centering_loss(better, worse)).mean()
    loss.backward()

    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    assert_same_gradients(ours, theirs)

    stepped = RewardTrainer.__new__(RewardTrainer)
    stepped.reward, stepped.sums = RewardConfig(centering=centering or 0.0), MetricSums()
    stepped.batch_loss(TreeScorer(ours), batch, stepped.denominators(found))
    assert_logged(trainer, stepped, found, "accuracy", "margin", "mean_reward")


# Exported rows: TRL tokenizes what is trained on here

TOOLS = '[{"name": "get_weather", "description": "", "parameters": {"type": "object", "properties": {"city": {}}}}]'


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "sft", "reward"])
def test_the_gpu_check_compares_with_trl_on_the_same_tokens(method: str) -> None:
    """Loss and gradients of its TRL arm are ours, so that on a GPU it times equal work."""
    from tests.gpu import shapes, training
    from tests.gpu.measure import Check

    check = Check(torch.device("cpu"), shapes.DRY, seconds=600, dry=True)
    (found,) = (work() for name, work in training.cases(check, ["segments", "trl"]).items() if name.startswith(method))
    arm = found["arms"]["trl"]
    assert "failed" not in arm, arm
    assert arm["apart"]["loss"] < 1e-5
    assert arm["apart"]["gradient"] < 1e-4


def weather(arguments: dict[str, object], **more: object) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name="get_weather", arguments=arguments),), **more)


def exported_dataset(rows: list, kind: str, tmp_path: Path):
    """The rows as TRL's users load them: the exported file through `datasets`."""
    from datasets import load_dataset

    write_rows(tmp_path / f"{kind}.jsonl", rows)
    made = export_rows(tmp_path / f"{kind}.jsonl", "trl")
    return load_dataset("json", data_files=str(made), split="train", cache_dir=str(tmp_path / "cache"))


def quiet(tmp_path: Path) -> dict:
    return {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "bf16": False, "max_length": None,
            "gradient_checkpointing": False}  # fmt: skip


@pytest.mark.slow
def test_trl_trains_on_the_ids_of_an_exported_sft_file(tmp_path: Path, tiny_checkpoint: Path, models) -> None:
    """Rows with functions, calls of different arguments (which Arrow would fill up with nulls), and several turns."""
    from align.models.loading import load_tokenizer

    user, end = Message(role="user", content="Rome? "), Message(role="assistant", content="It is Rome, the capital.")
    output = Message(role="tool", name="get_weather", content="sunny")
    system = Message(role="system", content="You are a helpful assistant.")
    dialogs = [
        ((system, user, end, user, end), ""),
        ((user, weather({"city": "Rome"}), output, end, user, end), TOOLS),
        ((user, weather({"n": [1, None], "when": {"day": "1"}})), TOOLS),
        ((system, user, end), TOOLS),
    ]
    rows = [
        SFTRow(id=f"s{n}", source="test", messages=messages, tools=tools) for n, (messages, tools) in enumerate(dialogs)
    ]
    tokenizer, protocol = load_tokenizer(tiny_checkpoint)
    trainer = trl.SFTTrainer(
        model=models[0],
        args=trl.SFTConfig(**quiet(tmp_path)),
        train_dataset=exported_dataset(rows, "sft", tmp_path),
        processing_class=tokenizer,
    )
    ours = encode_sft(rows, protocol, TreeDataConfig(path=tiny_checkpoint), "final", Counter())
    found = list(trainer.train_dataset)
    for tree, theirs in zip(ours, found, strict=True):
        (branch,) = tree.branches
        assert theirs["input_ids"] == [*tree.prompt, *branch.ids]
        assert branch.loss_mask.all(), "a single message, all of which is a target"
        assert theirs["labels"] == [-100] * len(tree.prompt) + branch.ids.tolist()
    assert len(found) == len(rows)


@pytest.mark.slow
def test_trl_contrasts_the_ids_of_an_exported_preference_file(tmp_path: Path, tiny_checkpoint: Path, models) -> None:
    from align.models.loading import load_tokenizer

    called = PreferenceRow(
        id="called",
        source="test",
        prompt=ROWS[0].prompt,
        completions=((weather({"city": "Rome"}),), (Message(role="assistant", content="no"),), ROWS[1].rejected),
        tools=TOOLS,
        level="better",
        models=("a", "b", "c"),
    )
    rows = [*ROWS, called]
    tokenizer, protocol = load_tokenizer(tiny_checkpoint)
    trainer = trl.DPOTrainer(
        model=models[0],
        ref_model=models[1],
        args=trl.DPOConfig(**quiet(tmp_path)),
        train_dataset=exported_dataset(rows, "preferences", tmp_path),
        processing_class=tokenizer,
    )
    data = PreferenceDataConfig(path=tiny_checkpoint)
    found = list(trainer.train_dataset)
    for tree, theirs in zip(
        encode_preferences(rows, protocol, data, pairs=True, dropped=Counter()), found, strict=True
    ):
        chosen, rejected = tree.branches
        assert theirs["prompt_ids"] == tree.prompt.tolist()
        assert theirs["chosen_ids"] == chosen.ids.tolist()
        assert theirs["rejected_ids"] == rejected.ids.tolist()
    assert len(found) == len(rows)
