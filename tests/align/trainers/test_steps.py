"""The three trainers through their recipes, in this process: packing, accumulation, checks, resuming, refusing."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from align.chat import load_protocol
from align.errors import CheckError, CheckpointError, ConfigError, RowError
from align.jsonl import write_rows
from align.manifest import is_whole
from align.rows import Message, PreferenceRow, SFTRow
from align.settings import (
    DPOConfig,
    GuardsConfig,
    ModelConfig,
    PreferenceDataConfig,
    SFTConfig,
    TrainingConfig,
    TreeDataConfig,
)
from tests.metrics import metrics_of

WORDS = [
    "capital",
    "France",
    "Italy",
    "river",
    "Paris",
    "Rome",
    "answer",
    "short",
    "sentence",
    "know",
    "guess",
    "weather",
    "number",
    "object",
    "call",
]


def sentence(rng: random.Random, longest: int = 12) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, longest)))


def preference_rows(count: int, completions: int = 2) -> list[PreferenceRow]:
    rng = random.Random(count)
    rows = []
    for n in range(count):
        ranked = tuple((Message(role="assistant", content=f"{sentence(rng)} {rank}"),) for rank in range(completions))
        prompt = (Message(role="user", content=sentence(rng)),)
        rows.append(PreferenceRow(id=f"p{n}", source="test", prompt=prompt, completions=ranked))
    return rows


def sft_rows(count: int) -> list[SFTRow]:
    return [SFTRow(id=row.id, source="test", messages=(*row.prompt, *row.chosen)) for row in preference_rows(count)]


def training(output: Path, **changed) -> TrainingConfig:
    settings = {"batch_size": 8, "learning_rate": 1e-3, "precision": "fp32", "save_steps": 100, "warmup_ratio": 0}
    return TrainingConfig(output_dir=output, **(settings | changed))


def train_dpo(tmp_path: Path, checkpoint: Path, name: str, rows: int = 24, **changed) -> Path:
    from recipes.dpo import DPORecipe, run

    data = tmp_path / f"pairs-{rows}.jsonl"
    write_rows(data, preference_rows(rows))
    budget = changed.pop("token_budget", 4096)
    return run(
        DPORecipe(
            model=ModelConfig(path=checkpoint),
            data=PreferenceDataConfig(path=data, token_budget=budget),
            dpo=changed.pop("dpo", DPOConfig()),
            training=training(tmp_path / name, **changed),
        )
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def metrics(folder: Path) -> list[dict]:
    return metrics_of(folder)


def assert_same_weights(one: Path, other: Path, tolerance: float) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_one_batch_of_8_equals_8_of_1(tmp_path: Path, tiny_checkpoint: Path) -> None:
    whole = train_dpo(tmp_path, tiny_checkpoint, "whole", learning_rate=1e-4)
    pieces = train_dpo(tmp_path, tiny_checkpoint, "pieces", learning_rate=1e-4, token_budget=120)
    for a, b in zip(metrics(whole), metrics(pieces), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    assert_same_weights(whole, pieces, 2e-5)  # AdamW divides by a small root, which lifts rounding noise


@pytest.mark.slow
def test_dpo_begins_at_ln_2_with_margin_0_and_learns(tmp_path: Path, tiny_checkpoint: Path) -> None:
    lines = metrics(train_dpo(tmp_path, tiny_checkpoint, "dpo", epochs=6))
    assert lines[0]["dpo_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[0]["absolute_margin"] == 0
    assert lines[-1]["rewards/margins"] > 0.1
    assert lines[-1]["rewards/accuracies"] > 0.9


@pytest.mark.slow
def test_the_dpo_loss_is_the_contrast_plus_a_fifth_of_the_nll(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Worked out again from rows alone, with transformers' own logits and the masks read off the token ids."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logged = metrics(train_dpo(tmp_path, tiny_checkpoint, "dpo", rows=8))[0]
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    nll, contrasted = [], []
    for row in preference_rows(8):
        prompt = tokenizer.apply_chat_template(
            [m.model_dump(include={"role", "content"}) for m in row.prompt], add_generation_prompt=True
        )["input_ids"]
        answer = [*tokenizer.encode(row.chosen[0].content), tokenizer.eos_token_id]
        with torch.no_grad():
            logps = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        picked = [logps[len(prompt) + i - 1, token].item() for i, token in enumerate(answer)]
        nll.append(-sum(picked) / len(picked))
        contrasted.append(sum(picked[:-1]))  # without the terminator
    assert logged["nll_loss"] == pytest.approx(sum(nll) / 8, abs=1e-4)
    assert logged["loss"] == pytest.approx(math.log(2) + 0.2 * sum(nll) / 8, abs=1e-4)
    assert logged["logps/chosen"] == pytest.approx(sum(contrasted) / 8, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False])
def test_the_contrast_leaves_the_terminator_out_and_the_nll_keeps_it(
    masked: bool, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from align.models.loading import load_policy, load_tokenizer
    from align.trainers.dpo import DPOTrainer
    from align.tree.encode import encode_preferences
    from align.tree.pack import collate

    _, protocol = load_tokenizer(tiny_checkpoint)
    policy = load_policy(ModelConfig(path=tiny_checkpoint))
    data = PreferenceDataConfig(path=tmp_path)
    batch = collate(list(encode_preferences(preference_rows(3), protocol, data, dropped=Counter())))
    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer.dpo = DPOConfig(mask_format_tokens=masked)
    with torch.no_grad():
        logps = policy(batch)
        contrasted, lengths = trainer._contrasted(logps, batch)
    kept = [part if not masked else part[:-1] for part in logps.split(batch.label_counts.tolist())]
    torch.testing.assert_close(contrasted, torch.stack([part.sum() for part in kept]))
    assert lengths.tolist() == [len(part) for part in kept]
    ends = torch.cumsum(batch.label_counts, 0) - 1
    assert set(batch.labels[ends].tolist()) == {protocol.tokenizer.eos_token_id}, "the NLL ends with the terminator"


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path: Path, tiny_checkpoint: Path, left_unfinished) -> None:
    """From a checkpoint in the middle; the SIGKILL is in test_training_runs.py, what is passed over in
    test_checkpoints.py.
    """
    whole = train_dpo(tmp_path, tiny_checkpoint, "whole", epochs=4, save_steps=5)
    resumed = tmp_path / "resumed"
    with left_unfinished():
        train_dpo(tmp_path, tiny_checkpoint, "resumed", epochs=4, save_steps=5)
    (resumed / "metrics.jsonl").unlink()
    assert is_whole(resumed / "checkpoint-10")
    (resumed / "checkpoint-10" / "MANIFEST.json").unlink()  # a checkpoint that was being written when the power went
    train_dpo(tmp_path, tiny_checkpoint, "resumed", epochs=4, save_steps=5)
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    assert metrics(resumed) == [line for line in metrics(whole) if line["step"] > 5]


@pytest.mark.slow
def test_a_finished_run_is_left_alone_and_another_config_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    done = train_dpo(tmp_path, tiny_checkpoint, "run")
    before = (done / "model.safetensors").stat().st_mtime_ns
    train_dpo(tmp_path, tiny_checkpoint, "run")
    assert (done / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(CheckpointError, match=r"made with training\.learning_rate=0\.001, and now .*=0\.01\. Choose"):
        train_dpo(tmp_path, tiny_checkpoint, "run", learning_rate=1e-2)


@pytest.mark.slow
def test_a_checkpoint_holds_no_training_arguments(tmp_path: Path, tiny_checkpoint: Path) -> None:
    done = train_dpo(tmp_path, tiny_checkpoint, "run", save_steps=1)
    names = {file.name for file in done.rglob("*")}
    assert "checkpoint-2" in names
    assert "training_args.bin" not in names


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.trainers.dpo import DPOTrainer

    honest = DPOTrainer.batch_loss
    monkeypatch.setattr(DPOTrainer, "batch_loss", lambda self, *a: honest(self, *a) * float("nan"))
    with pytest.raises(CheckError, match=r"step 1: the loss is nan on rows p\d+"):
        train_dpo(tmp_path, tiny_checkpoint, "run", guards=GuardsConfig(max_rollbacks=0))


def test_bfloat16_weights_without_a_master_copy_are_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from align.trainers.arguments import training_arguments

    with pytest.raises(ConfigError, match=r"model\.dtype: bfloat16 weights would lose small updates.*Set model\.dtype"):
        training_arguments(training(tmp_path), ModelConfig(path=tiny_checkpoint, dtype="bfloat16"))


def test_one_process_with_many_gpus_is_advised_to_launch(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainingArguments

    from align.trainers.arguments import training_arguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", 8)
    with pytest.raises(ConfigError, match=r"launch: one process sees 8 GPUs.*accelerate launch --config_file"):
        training_arguments(training(tmp_path), ModelConfig(path=tiny_checkpoint))


def test_a_row_that_the_protocol_cannot_write_is_dropped_and_counted(
    tiny_llama3_checkpoint: Path, tmp_path: Path
) -> None:
    from align.models.loading import load_tokenizer
    from align.tree.encode import encode_sft

    _, protocol = load_tokenizer(tiny_llama3_checkpoint)
    call = {"name": "find", "arguments": "{}"}
    two = (Message(role="user", content="both"), Message(role="assistant", tool_calls=(call, call)))
    rows = [sft_rows(2)[0], SFTRow(id="two", source="test", messages=two), sft_rows(2)[1]]
    dropped: Counter[str] = Counter()
    trees = list(encode_sft(rows, protocol, TreeDataConfig(path=tmp_path), "final", dropped))
    assert [tree.id for tree in trees] == ["p0", "p1"]
    ((reason, count),) = dropped.items()
    assert count == 1
    assert reason.startswith("no form in the llama3 protocol: ")


@pytest.mark.slow
def test_the_reward_model_learns_a_three_way_ranking(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from recipes.reward import RewardRecipe, run

    data = tmp_path / "ranked.jsonl"
    write_rows(data, preference_rows(24, completions=3))
    recipe = RewardRecipe(
        model=ModelConfig(path=tiny_checkpoint),
        data=PreferenceDataConfig(path=data),
        training=training(tmp_path / "reward", epochs=8, batch_size=8),
    )
    lines = metrics(run(recipe))
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=0.05)
    assert lines[-1]["accuracy"] > 0.9

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    plain = AutoModelForSequenceClassification.from_pretrained(recipe.training.output_dir)
    protocol = load_protocol(AutoTokenizer.from_pretrained(recipe.training.output_dir))
    right = 0
    for row in preference_rows(24, completions=3):
        ids = [protocol.encode((*row.prompt, *completion)).ids for completion in row.completions]
        scores = [plain(torch.tensor([each])).logits.item() for each in ids]
        right += scores == sorted(scores, reverse=True)
    assert right > 18, "it loads and ranks as a plain sequence classifier"


def test_a_level_asks_its_margin_of_what_is_held_against_the_rejected_completion(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from align.models.loading import load_tokenizer
    from align.trainers.reward import comparisons
    from align.tree.encode import encode_preferences
    from align.tree.pack import collate

    _, protocol = load_tokenizer(tiny_checkpoint)
    rows = [*preference_rows(2, completions=3), *preference_rows(3)]
    levels = ["better", None, "significantly better", "slightly better", None]
    rows = [
        row.model_copy(update={"id": f"r{n}", "level": level})
        for n, (row, level) in enumerate(zip(rows, levels, strict=True))
    ]
    kept = ("significantly better", "better", "slightly better")
    data = PreferenceDataConfig(path=tmp_path, levels=kept)
    trees = list(encode_preferences(rows, protocol, data, dropped=Counter()))
    assert [tree.level for tree in trees] == levels
    found = comparisons(collate(trees), {"significantly better": 1.0, "better": 0.5})
    asked = list(zip(found.better.tolist(), found.worse.tolist(), found.target_margins.tolist(), strict=True))
    edited = [(0, 1, 0.0), (0, 2, 0.5), (1, 2, 0.5)]  # edited over chosen was not graded
    ungraded = [(3, 4, 0.0), (3, 5, 0.0), (4, 5, 0.0)]
    assert asked == [*edited, *ungraded, (6, 7, 1.0), (8, 9, 0.0), (10, 11, 0.0)]
    assert not comparisons(collate(trees)).target_margins.any()


@pytest.mark.slow
def test_the_reward_loss_has_its_margins_and_its_centering(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Worked out again from the scores of transformers' own classifier, in plain floats."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from recipes.reward import RewardRecipe, run

    data = tmp_path / "ranked.jsonl"
    levels = ["better", "significantly better", None]
    rows = [row.model_copy(update={"level": levels[n % 3]}) for n, row in enumerate(preference_rows(9, completions=3))]
    write_rows(data, rows)
    recipe = RewardRecipe(
        model=ModelConfig(path=tiny_checkpoint),
        data=PreferenceDataConfig(path=data),
        reward={"centering": 0.5, "margins": {"better": 0.7, "significantly better": 2.0}},
        training=training(tmp_path / "reward", batch_size=9, learning_rate=1e-12),
    )
    logged = metrics(run(recipe))[0]

    plain = AutoModelForSequenceClassification.from_pretrained(recipe.training.output_dir)
    protocol = load_protocol(AutoTokenizer.from_pretrained(recipe.training.output_dir))
    losses = []
    for row in rows:
        ids = [protocol.encode((*row.prompt, *completion)).ids for completion in row.completions]
        edited, chosen, rejected = (plain(torch.tensor([each])).logits.item() for each in ids)
        target = {"better": 0.7, "significantly better": 2.0, None: 0.0}[row.level]
        for better, worse, margin in ((edited, chosen, 0.0), (edited, rejected, target), (chosen, rejected, target)):
            losses.append(math.log1p(math.exp(margin - (better - worse))) + 0.5 * (better + worse) ** 2)
    assert logged["loss"] == pytest.approx(sum(losses) / 27, abs=1e-5)


@pytest.mark.slow
def test_sft_averages_over_the_tokens_of_the_whole_step(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from recipes.sft import SFTRecipe, run

    data = tmp_path / "dialogs.jsonl"
    write_rows(data, sft_rows(16))
    recipe = SFTRecipe(
        model=ModelConfig(path=tiny_checkpoint),
        data=TreeDataConfig(path=data, token_budget=80),
        training=training(tmp_path / "sft", batch_size=16, epochs=20, learning_rate=5e-3),
    )
    lines = metrics(run(recipe))

    protocol = load_protocol(AutoTokenizer.from_pretrained(tiny_checkpoint))
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint).eval()
    total = tokens = 0.0
    for row in sft_rows(16):
        prompt = protocol.encode(row.messages[:-1], open_assistant=True).ids
        whole = torch.tensor([protocol.encode(row.messages).ids])
        labels = whole.clone()
        labels[0, : len(prompt)] = -100
        count = int((labels != -100).sum())
        with torch.no_grad():
            total += model(whole, labels=labels).loss.item() * count  # transformers' own cross-entropy, a row at a time
        tokens += count
    assert lines[0]["loss"] == pytest.approx(total / tokens, abs=1e-4)
    assert lines[0]["trained_tokens"] == tokens
    assert lines[-1]["loss"] < lines[0]["loss"] - 1


@pytest.mark.slow
def test_packed_sft_of_n_rows_equals_n_single_rows(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from recipes.sft import SFTRecipe, run

    data = tmp_path / "dialogs.jsonl"
    write_rows(data, sft_rows(24))

    def trained(name: str, budget: int, over_budget: str) -> Path:
        return run(
            SFTRecipe(
                model=ModelConfig(path=tiny_checkpoint),
                data=TreeDataConfig(path=data, token_budget=budget, over_budget=over_budget),
                training=training(tmp_path / name, learning_rate=1e-4),
            )
        )

    packed, single = trained("packed", 4096, "drop"), trained("single", 1, "alone")
    for a, b in zip(metrics(packed), metrics(single), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
        assert a["tokens"] == b["tokens"]
    assert_same_weights(packed, single, 2e-5)


def test_tool_outputs_and_headers_are_never_trained_on(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from align.models.loading import load_tokenizer
    from align.tree.encode import encode_sft

    _, protocol = load_tokenizer(tiny_checkpoint)
    call = Message(role="assistant", content="I look.", tool_calls=({"name": "find", "arguments": "{}"},))
    dialog = (
        Message(role="user", content="first"),
        Message(role="assistant", content="early"),
        Message(role="user", content="second"),
        call,
        Message(role="tool", content="SECRET OUTPUT", name="find"),
        Message(role="assistant", content="late"),
    )
    failed = (*dialog[:3], call.model_copy(update={"trained": False}), *dialog[4:])
    for train_on, messages, texts in (
        (SFTConfig().train_on, dialog, ["I look.", "late"]),
        ("all", dialog, ["early", "I look.", "late"]),
        ("all", failed, ["early", "late"]),
    ):
        row = SFTRow(id="r", source="test", messages=messages)
        (tree,) = encode_sft([row], protocol, TreeDataConfig(path=tmp_path), train_on, Counter())
        branch = tree.branches[0]
        pairs = zip(branch.ids, branch.loss_mask, strict=True)
        trained = protocol.tokenizer.decode([token for token, mask in pairs if mask])
        assert trained.count("<|im_end|>") == len(texts)
        assert all((text in trained) == (text in texts) for text in ("early", "I look.", "late"))
        assert "SECRET" not in trained
        assert "im_start" not in trained
        assert "second" not in trained


def test_rows_beyond_the_limits_are_dropped_counted_and_never_cut(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from align.models.loading import load_tokenizer
    from align.trainers.data import preference_trees
    from align.tree.encode import encode_preferences

    _, protocol = load_tokenizer(tiny_checkpoint)
    rows = preference_rows(10)
    rows.append(rows[0].model_copy(update={"id": "graded", "level": "slightly better"}))
    rows.append(rows[0].model_copy(update={"id": "same", "completions": (rows[0].chosen, rows[0].chosen)}))
    dropped: Counter[str] = Counter()
    data = PreferenceDataConfig(path=tmp_path, max_completion_tokens=12)
    trees = list(encode_preferences(rows, protocol, data, dropped=dropped))
    assert len(trees) + dropped.total() == 12
    assert dropped["level is slightly better"] == 1
    assert dropped["completions are the same"] == 1
    assert dropped["completion is longer than max_completion_tokens"] > 0
    write_rows(tmp_path / "pairs.jsonl", rows[:3])
    data = PreferenceDataConfig(path=tmp_path / "pairs.jsonl", max_prompt_tokens=2)
    with pytest.raises(
        RowError, match=r"no row is left to train on \(.*longer than max_prompt_tokens.*Raise the limits"
    ):
        preference_trees(data, training(tmp_path / "run"), protocol)


@pytest.mark.parametrize("over_budget", ["drop", "alone", "error"])
def test_a_row_over_the_budget_is_dropped_or_is_packed_alone_or_ends_the_run(
    over_budget: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from align.models.loading import load_tokenizer
    from align.tree.encode import encode_preferences

    _, protocol = load_tokenizer(tiny_checkpoint)
    rows = preference_rows(10)
    largest = max(
        tree.tokens
        for tree in encode_preferences(rows, protocol, PreferenceDataConfig(path=tmp_path), dropped=Counter())
    )
    dropped: Counter[str] = Counter()
    data = PreferenceDataConfig(path=tmp_path, token_budget=largest - 1, over_budget=over_budget)
    found = encode_preferences(rows, protocol, data, dropped=dropped)
    if over_budget == "error":
        with pytest.raises(RowError, match=rf"row p\d: has {largest} tokens, and .* is {largest - 1}\. Raise data"):
            list(found)
    else:
        kept = sum(tree.tokens == largest for tree in found)
        assert (kept > 0) == (over_budget == "alone")
        assert (dropped["tree is larger than token_budget"] > 0) == (over_budget == "drop")
