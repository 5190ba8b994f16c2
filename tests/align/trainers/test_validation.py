"""Validation during training: values against plain transformers, no effect on training, resuming, the best step."""

from __future__ import annotations

import json
import logging
import math
import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from align.chat import load_protocol
from align.errors import RowError
from align.jsonl import write_rows
from align.manifest import is_whole, read_manifest
from align.rows import Message, PreferenceRow, Row, SFTRow
from align.settings import LoRAConfig, ModelConfig, PreferenceDataConfig, TrainingConfig, TreeDataConfig
from align.splits import part_of, prompt_identity
from align.trainers.steering import Steering
from align.trainers.validation import Validation, verdict
from tests.metrics import metrics_of

WORDS = ["capital", "France", "Italy", "river", "Paris", "Rome", "answer", "short", "sentence", "know", "guess", "call"]


def preference_rows(count: int, seed: int = 0, completions: int = 2) -> list[PreferenceRow]:
    rng = random.Random(f"{seed} {count}")

    def say(longest: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, longest)))

    return [
        PreferenceRow(
            id=f"s{seed}-{n}",
            source="test",
            prompt=(Message(role="user", content=f"{say(8)} {seed} {n}"),),
            completions=tuple((Message(role="assistant", content=f"{say(9)} {rank}"),) for rank in range(completions)),
        )
        for n in range(count)
    ]


def sft_rows(count: int, seed: int = 0) -> list[SFTRow]:
    rows = preference_rows(count, seed)
    return [SFTRow(id=row.id, source="test", messages=(*row.prompt, *row.chosen)) for row in rows]


def train(method: str, checkpoint: Path, output: Path, data: dict[str, Any], **changed: Any) -> Path:
    """Run a recipe. changed: settings of `training`, and `lora` or `dpo`."""
    import recipes.dpo
    import recipes.reward
    import recipes.sft

    model = ModelConfig(path=checkpoint, lora=changed.pop("lora", None))
    method_settings = {"dpo": changed.pop("dpo")} if "dpo" in changed else {}
    defaults = {"batch_size": 4, "learning_rate": 3e-3, "precision": "fp32", "warmup_ratio": 0, "checks": False}
    training = TrainingConfig(output_dir=output, **(defaults | changed))
    if method == "sft":
        return recipes.sft.run(recipes.sft.SFTRecipe(model=model, data=TreeDataConfig(**data), training=training))
    recipe = recipes.dpo.DPORecipe if method == "dpo" else recipes.reward.RewardRecipe
    run = recipes.dpo.run if method == "dpo" else recipes.reward.run
    return run(recipe(model=model, data=PreferenceDataConfig(**data), training=training, **method_settings))


def lines(folder: Path) -> list[dict[str, Any]]:
    return metrics_of(folder)


def trained(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines(folder) if "loss" in line]


def evaluated(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines(folder) if "eval_loss" in line]


def plain(folder: Path, kind: str = "AutoModelForCausalLM") -> tuple[Any, Any]:
    """transformers' own model with the protocol of a checkpoint."""
    import transformers

    model = getattr(transformers, kind).from_pretrained(folder).eval()
    return model, load_protocol(transformers.AutoTokenizer.from_pretrained(folder))


def token_logps(model: Any, protocol: Any, prompt: Sequence[Message], completion: Sequence[Message]) -> torch.Tensor:
    """Log-probabilities of a completion's tokens with its end, from a row of its own."""
    start = len(protocol.encode(prompt, open_assistant=True).ids)
    ids = torch.tensor(protocol.encode((*prompt, *completion)).ids)
    with torch.no_grad():
        logps = model(ids[None]).logits[0].log_softmax(-1)
    return logps[start - 1 : -1].gather(1, ids[start:, None])[:, 0]


@pytest.fixture(scope="module")
def dialogs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "rows.jsonl", sft_rows(16))
    write_rows(folder / "held_out.jsonl", sft_rows(9, seed=1))
    return {"path": folder / "rows.jsonl", "eval_path": folder / "held_out.jsonl", "token_budget": 96}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "pairs.jsonl", preference_rows(16))
    write_rows(folder / "held_out.jsonl", preference_rows(9, seed=1, completions=3))
    return {"path": folder / "pairs.jsonl", "eval_path": folder / "held_out.jsonl", "token_budget": 128}


def test_best_step_and_patience_are_those_of_transformers() -> None:
    """Against EarlyStoppingCallback and `Trainer._determine_best_metric`, called as the Trainer calls them."""
    from transformers import EarlyStoppingCallback, Trainer, TrainerControl, TrainerState

    rng = random.Random(0)
    stopped = 0
    for trial in range(90):
        greater, threshold = trial % 2 == 0, rng.choice([0.0, 0.05, 0.2])
        arguments = SimpleNamespace(metric_for_best_model="loss", greater_is_better=greater, save_strategy="steps")
        state, control = TrainerState(), TrainerControl()
        callback = EarlyStoppingCallback(3, threshold)
        found: list[tuple[int, float]] = [(0, rng.random())]
        for step in range(10, 110, 10):
            value = round(rng.random(), 1 if trial % 3 else 6)  # some values are equal
            found.append((step, value))
            state.global_step = step
            callback.on_evaluate(arguments, state, control, {"eval_loss": value})
            Trainer._determine_best_metric(SimpleNamespace(args=arguments, state=state), {"eval_loss": value}, None)
            ours = verdict(found, greater_is_better=greater, threshold=threshold)
            assert ours.best == (state.best_global_step, state.best_metric)
            assert ours.without_improvement == callback.early_stopping_patience_counter
            stopped += control.should_training_stop
    assert stopped > 20, "both cases were seen"


def test_a_value_that_is_not_finite_is_never_the_best() -> None:
    found = verdict([(1, math.nan), (2, 0.5), (3, -math.inf), (4, math.nan)], greater_is_better=False, threshold=0)
    assert found == ((2, 0.5), 2)


@pytest.mark.slow
def test_training_with_held_out_rows_is_the_same_to_the_byte(
    tmp_path: Path, tiny_checkpoint: Path, dialogs: dict[str, Any]
) -> None:
    """With dropout, so a random number that an evaluation drew would change the training."""
    settings = {"lora": LoRAConfig(rank=4, dropout=0.3), "save_steps": 2}
    without = train("sft", tiny_checkpoint, tmp_path / "without", dialogs | {"eval_path": None}, **settings)
    run = train("sft", tiny_checkpoint, tmp_path / "with", dialogs, eval_steps=1, **settings)
    name = "adapter_model.safetensors"
    assert (run / name).read_bytes() == (without / name).read_bytes()
    assert trained(run) == lines(without)
    assert [line["step"] for line in evaluated(run)] == [0, 1, 2, 3, 4]
    assert evaluated(run)[0]["eval_loss"] != evaluated(run)[-1]["eval_loss"]


@pytest.mark.slow
def test_the_held_out_loss_of_sft_is_the_mean_over_all_tokens_however_they_are_packed(
    tmp_path: Path, tiny_checkpoint: Path, dialogs: dict[str, Any]
) -> None:
    run = train("sft", tiny_checkpoint, tmp_path / "packed", dialogs, max_steps=2)
    single = dialogs | {"token_budget": 1, "over_budget": "alone"}
    alone = train("sft", tiny_checkpoint, tmp_path / "alone", single, max_steps=2)
    for folder, line in ((tiny_checkpoint, evaluated(run)[0]), (run, evaluated(run)[-1])):
        model, protocol = plain(folder)
        logps = [token_logps(model, protocol, row.messages[:1], row.messages[1:]) for row in sft_rows(9, seed=1)]
        assert line["eval_loss"] == pytest.approx(-torch.cat(logps).mean().item(), abs=1e-5)
    for one, other in zip(evaluated(run), evaluated(alone), strict=True):
        assert one["eval_loss"] == pytest.approx(other["eval_loss"], abs=1e-5)


@pytest.mark.slow
def test_the_held_out_metrics_of_dpo_are_those_of_rows_alone(
    tmp_path: Path, tiny_checkpoint: Path, pairs: dict[str, Any]
) -> None:
    """TRL's formulas with transformers' logits, a row at a time; the terminator is not contrasted."""
    run = train("dpo", tiny_checkpoint, tmp_path / "run", pairs, max_steps=3, eval_steps=3, learning_rate=1e-2)
    first, last = evaluated(run)
    assert first["eval_dpo_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["eval_absolute_margin"] == 0
    (start, protocol), (policy, _) = plain(tiny_checkpoint), plain(run)
    rewards, nll, sums = [], [], []
    for row in preference_rows(9, seed=1, completions=3):
        for completion in (row.chosen, row.rejected):
            logps = [token_logps(model, protocol, row.prompt, completion) for model in (policy, start)]
            rewards.append(0.1 * (logps[0][:-1].sum() - logps[1][:-1].sum()).item())
            nll.append(-logps[0].mean().item())
            sums.append(logps[0][:-1].sum().item())
    margins = torch.tensor(rewards[0::2]) - torch.tensor(rewards[1::2])
    expected = {
        "dpo_loss": -torch.nn.functional.logsigmoid(margins).mean().item(),
        "nll_loss": sum(nll[0::2]) / 9,
        "rewards/accuracies": (margins > 0).float().mean().item(),
        "rewards/margins": margins.mean().item(),
        "rewards/chosen": sum(rewards[0::2]) / 9,
        "rewards/rejected": sum(rewards[1::2]) / 9,
        "logps/chosen": sum(sums[0::2]) / 9,
        "logps/rejected": sum(sums[1::2]) / 9,
    }
    for name, value in expected.items():
        assert last[f"eval_{name}"] == pytest.approx(value, abs=1e-4, rel=1e-5), name
    assert last["eval_loss"] == pytest.approx(expected["dpo_loss"] + 0.2 * expected["nll_loss"], abs=1e-4)
    assert abs(expected["rewards/margins"]) > 0.01, "the policy has moved away from the reference"


@pytest.mark.slow
def test_the_held_out_metrics_of_a_reward_model_are_those_of_rows_alone(
    tmp_path: Path, tiny_checkpoint: Path, pairs: dict[str, Any]
) -> None:
    """All three comparisons of three completions, from transformers' own classifier."""
    run = train("reward", tiny_checkpoint, tmp_path / "run", pairs, max_steps=3, metric_for_best_model="accuracy")
    model, protocol = plain(run, "AutoModelForSequenceClassification")
    margins = []
    for row in preference_rows(9, seed=1, completions=3):
        ids = [protocol.encode((*row.prompt, *completion)).ids for completion in row.completions]
        with torch.no_grad():
            first, second, third = (model(torch.tensor([each])).logits.item() for each in ids)
        margins += [first - second, first - third, second - third]
    found = torch.tensor(margins)
    last = evaluated(run)[-1]
    assert last["eval_loss"] == pytest.approx(-torch.nn.functional.logsigmoid(found).mean().item(), abs=1e-5)
    assert last["eval_accuracy"] == pytest.approx((found > 0).float().mean().item())
    assert last["eval_margin"] == pytest.approx(found.mean().item(), abs=1e-5)


@pytest.fixture(scope="module")
def other_words(tmp_path_factory: pytest.TempPathFactory, dialogs: dict[str, Any]) -> dict[str, Any]:
    """Held-out answers in words that are not trained on: their loss falls at first, and then rises."""
    path = tmp_path_factory.mktemp("data") / "held_out.jsonl"
    answer = Message(role="assistant", content="zebra quilt 98765 vxyz guess")
    rows = sft_rows(5, seed=1)
    write_rows(path, [row.model_copy(update={"messages": (row.messages[0], answer)}) for row in rows])
    return dialogs | {"eval_path": path}


OVERFITS = {"epochs": 6, "learning_rate": 2e-2, "save_steps": 2, "batch_size": 8, "schedule": "constant"}


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, other_words: dict[str, Any]) -> Path:
    """A run whose held-out loss falls and rises again. Read it only."""
    return train("sft", tiny_checkpoint, tmp_path_factory.mktemp("runs") / "overfitted", other_words, **OVERFITS)


@pytest.mark.slow
def test_the_best_step_is_named_and_its_checkpoint_stays(overfitted: Path) -> None:
    found = evaluated(overfitted)
    best = min(found[1:], key=lambda line: line["eval_loss"])
    assert 0 < best["step"] < found[-1]["step"] - 4, "it would have been deleted otherwise"
    assert found[-1]["eval_best_step"] == best["step"]
    notes = read_manifest(overfitted)["validation"]
    assert notes["best_step"] == best["step"]
    assert notes["best_value"] == best["eval_loss"]
    assert notes["model_step"] == found[-1]["step"]
    kept = overfitted / f"checkpoint-{best['step']}"
    assert is_whole(kept)
    assert not (kept / "optimizer.pt").exists()
    assert len(list(overfitted.glob("checkpoint-*"))) == 3, "the two newest and the best"


@pytest.mark.slow
def test_the_finished_model_may_be_the_best_one(
    tmp_path: Path, tiny_checkpoint: Path, other_words: dict[str, Any], overfitted: Path
) -> None:
    """And the run stops early: the values are those of the run that did not."""
    run = train("sft", tiny_checkpoint, tmp_path / "run", other_words, **OVERFITS,
                load_best_model_at_end=True, early_stopping_patience=2)  # fmt: skip
    notes, best = read_manifest(run)["validation"], evaluated(overfitted)[-1]["eval_best_step"]
    assert notes["best_step"] == notes["model_step"] == best
    assert notes["stopped_early_at"] == evaluated(run)[-1]["step"] == best + 2 * 2
    assert lines(run) == [line for line in lines(overfitted) if line["step"] <= best + 4]
    name = "model.safetensors"
    assert (run / name).read_bytes() == (overfitted / f"checkpoint-{best}" / name).read_bytes()
    assert (run / name).read_bytes() != (overfitted / name).read_bytes()
    assert is_whole(run)


@pytest.mark.slow
def test_a_run_that_was_stopped_and_resumed_has_the_same_evaluations_and_the_same_end(
    tmp_path: Path,
    tiny_checkpoint: Path,
    other_words: dict[str, Any],
    overfitted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped at a step that is evaluated, then during an evaluation, then where the run stops early, then killed."""
    best = evaluated(overfitted)[-1]["eval_best_step"]
    settings = OVERFITS | {"early_stopping_patience": 2, "load_best_model_at_end": True}
    ask_at: list[int] = [2, best + 4]
    honest = Steering.on_step_end

    def asked(self: Steering, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step in ask_at:
            self.asked = signal.SIGTERM
        honest(self, args, state, control, **rest)

    monkeypatch.setattr(Steering, "on_step_end", asked)
    output = tmp_path / "run"
    with pytest.raises(SystemExit):
        train("sft", tiny_checkpoint, output, other_words, **settings)
    assert [line["step"] for line in evaluated(output)] == [0], "it did not wait for the evaluation of step 2"
    ask_at.remove(2)

    means = Validation._means

    def interrupted(self: Validation) -> Any:
        if self.trainer.state.global_step == 4 and not (output / "interrupted").exists():
            (output / "interrupted").touch()
            self.trainer._steering.asked = signal.SIGTERM  # type: ignore[attr-defined]
        return means(self)

    monkeypatch.setattr(Validation, "_means", interrupted)
    with pytest.raises(SystemExit):
        train("sft", tiny_checkpoint, output, other_words, **settings)
    assert [line["step"] for line in evaluated(output)] == [0, 2]
    with pytest.raises(SystemExit):
        train("sft", tiny_checkpoint, output, other_words, **settings)
    assert evaluated(output)[-1]["step"] == best + 2
    train("sft", tiny_checkpoint, output, other_words, **settings)  # evaluates, and stops early before any other step
    assert lines(output) == [line for line in lines(overfitted) if line["step"] <= best + 4]
    notes = read_manifest(output)["validation"]
    assert (notes["best_step"], notes["model_step"], notes["stopped_early_at"]) == (best, best, best + 4)
    name = "model.safetensors"
    assert (output / name).read_bytes() == (overfitted / f"checkpoint-{best}" / name).read_bytes()


SHORT = OVERFITS | {"epochs": 3}
"""Six steps, evaluated at 0, 2, 4 and 6."""


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, other_words: dict[str, Any]) -> Path:
    """A run that nothing interrupts. Read it only."""
    return train("sft", tiny_checkpoint, tmp_path_factory.mktemp("runs") / "short", other_words, **SHORT)


def asked_in_evaluations(monkeypatch: pytest.MonkeyPatch, steps: list[int]) -> None:
    """A signal arrives at the beginning of the evaluation of each of these steps, in their order."""
    means = Validation._means

    def interrupted(self: Validation) -> Any:
        if steps and self.trainer.state.global_step == steps[0]:
            self.trainer._steering.asked = signal.SIGTERM if steps.pop(0) else None  # type: ignore[attr-defined]
        return means(self)

    monkeypatch.setattr(Validation, "_means", interrupted)


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 6])
def test_an_evaluation_that_is_interrupted_again_and_again_is_still_made(
    step: int,
    tmp_path: Path,
    tiny_checkpoint: Path,
    other_words: dict[str, Any],
    short: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In training, also after the last step, then twice in starts that resume to make it: none trains another step."""
    output = tmp_path / "run"
    asked_in_evaluations(monkeypatch, [step] * 3)
    for _ in range(3):
        with pytest.raises(SystemExit) as ended:
            train("sft", tiny_checkpoint, output, other_words, **SHORT)
        assert ended.value.code == 143
        assert (output / f"checkpoint-{step}" / "MANIFEST.json").is_file()
        assert not (output / "MANIFEST.json").exists()
        assert lines(output)[-1]["step"] == step
        assert "loss" in lines(output)[-1], "the evaluation is not there"
    done = train("sft", tiny_checkpoint, output, other_words, **SHORT)
    assert lines(done) == lines(short)
    assert read_manifest(done)["validation"] == read_manifest(short)["validation"]
    assert (done / "model.safetensors").read_bytes() == (short / "model.safetensors").read_bytes()


class KilledError(BaseException):
    pass


@contextmanager
def killed(where: Any, name: str) -> Iterator[None]:
    """In the block, a call of a method ends the run at once, as SIGKILL would."""

    def die(*arguments: Any, **settings: Any) -> None:
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, die)
        try:
            yield
        except KilledError:
            return
    pytest.fail("the run was not killed")


@pytest.mark.slow
def test_a_run_that_is_killed_between_an_evaluation_and_the_next_save_has_each_line_once(
    tmp_path: Path, tiny_checkpoint: Path, other_words: dict[str, Any], short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first checkpoint, after the evaluation of step 0; and after one that a resumed run made first."""
    from align.trainers.sft import SFTTrainer

    output = tmp_path / "run"
    for _ in range(2):
        with killed(SFTTrainer, "training_step"):
            train("sft", tiny_checkpoint, output, other_words, **SHORT)
        assert [line["step"] for line in lines(output)] == [0]
    asked_in_evaluations(monkeypatch, [2])
    with pytest.raises(SystemExit):
        train("sft", tiny_checkpoint, output, other_words, **SHORT)
    for _ in range(2):
        with killed(SFTTrainer, "training_step"):
            train("sft", tiny_checkpoint, output, other_words, **SHORT)
        assert [line["step"] for line in evaluated(output)] == [0, 2]
    done = train("sft", tiny_checkpoint, output, other_words, **SHORT)
    assert lines(done) == lines(short)


@pytest.mark.slow
def test_a_run_that_had_stopped_early_does_not_train_on_when_its_model_is_still_to_be_written(
    tmp_path: Path, tiny_checkpoint: Path, other_words: dict[str, Any], left_unfinished: Any
) -> None:
    """With keep_optimizer the evaluation that stopped it is in the checkpoint. With more patience it trains on."""
    settings = SHORT | {"keep_optimizer": True, "early_stopping_threshold": 99.0}
    patient = {"early_stopping_patience": 1}  # the first evaluation is an improvement, whatever its value
    with left_unfinished():
        train("sft", tiny_checkpoint, tmp_path / "run", other_words, **settings, **patient)
    before = lines(tmp_path / "run")
    assert before[-1]["step"] == 4
    assert (tmp_path / "run" / "checkpoint-4" / "optimizer.pt").exists()
    more = shutil.copytree(tmp_path / "run", tmp_path / "more")
    with left_unfinished():
        train("sft", tiny_checkpoint, tmp_path / "run", other_words, **settings, **patient)
    done = train("sft", tiny_checkpoint, tmp_path / "run", other_words, **settings, **patient)
    assert lines(done) == before
    assert read_manifest(done)["validation"]["stopped_early_at"] == 4
    assert (done / "model.safetensors").read_bytes() == (done / "checkpoint-4" / "model.safetensors").read_bytes()
    done = train("sft", tiny_checkpoint, more, other_words, **settings, early_stopping_patience=3)
    assert evaluated(done)[-1]["step"] == 6


def test_evaluations_count_for_the_rows_and_the_metric_that_they_were_made_for() -> None:
    """A step that was the best by another metric may have no checkpoint any more."""
    history: list[dict[str, Any]] = []
    state = SimpleNamespace(global_step=0, log_history=history, max_steps=9)

    def validation(metric: str, rows: str = "rows") -> Validation:
        trainer = SimpleNamespace(stage="reward", state=state, args=None, control=None)
        trainer.log = lambda logs: history.append({**logs, "step": state.global_step})
        trainer.callback_handler = SimpleNamespace(on_evaluate=lambda *arguments: None)
        training = TrainingConfig(output_dir=Path("run"), metric_for_best_model=metric)
        made = Validation(trainer, [], cast(Any, None), training)  # type: ignore[arg-type]
        made.rows = rows
        return made

    def record(of: Validation, step: int, loss: float, accuracy: float) -> None:
        state.global_step = step
        of._record({"eval_loss": loss, "eval_accuracy": accuracy})

    for step, loss, accuracy in ((2, 0.5, 0.9), (4, 0.4, 0.6)):
        record(validation("loss"), step, loss, accuracy)
    assert validation("eval_loss").verdict().best == (4, 0.4), "both names are of one metric"
    assert history[0]["eval_rows"] == "rows", "as in the checkpoints of earlier versions"
    assert validation("accuracy").verdict().best is None
    record(validation("accuracy"), 4, 0.4, 0.6)
    record(validation("accuracy"), 6, 0.3, 0.7)
    assert validation("accuracy").verdict().best == (6, 0.7)
    assert validation("accuracy", rows="others").verdict().best is None
    assert validation("margin").evaluations() == []
    assert validation("loss").evaluations() == [(2, 0.5), (4, 0.4)]
    state.global_step = 6
    assert validation("accuracy").best_checkpoint(Path("run")) is None, "not checkpoint-2, which may be deleted"


@pytest.mark.slow
def test_held_out_rows_may_change_on_resume_and_the_best_step_is_that_of_the_new_ones(
    tmp_path: Path, tiny_checkpoint: Path, pairs: dict[str, Any], left_unfinished: Any
) -> None:
    """DPO computes their reference from the starting weights: a run that had these rows from its beginning agrees."""
    settings = {"save_steps": 1, "max_steps": 2, "learning_rate": 1e-2}
    write_rows(tmp_path / "others.jsonl", preference_rows(3, seed=2))
    other = pairs | {"eval_path": [{"path": tmp_path / "others.jsonl"}], "eval_limit": 2}
    with left_unfinished():
        train("dpo", tiny_checkpoint, tmp_path / "run", pairs, **settings)
    resumed = evaluated(train("dpo", tiny_checkpoint, tmp_path / "run", other, **settings))
    whole = evaluated(train("dpo", tiny_checkpoint, tmp_path / "whole", other, **settings))
    assert [line["step"] for line in resumed] == [0, 1, 1, 2]
    assert resumed[1]["eval_loss"] != resumed[2]["eval_loss"]
    assert resumed[2:] == whole[1:], "with the best step"
    assert whole[-1]["eval_absolute_margin"] > 0.01


def ids_of(trees: Any) -> list[str]:
    return [tree.id for tree in trees]


def test_a_ratio_is_held_out_by_prompt_and_stays_when_rows_are_added(tmp_path: Path, chatml_tokenizer: Any) -> None:
    from align.trainers.data import preference_eval_trees, preference_trees

    protocol = load_protocol(chatml_tokenizer)
    rows: list[PreferenceRow] = []
    for row in preference_rows(30):
        again = {"id": f"{row.id}-b", "prompt": (Message(role="system", content="Short."), *row.prompt)}
        rows += [row, row.model_copy(update=again)]  # another system prompt: the prompt is the user's

    def sides(number: int, **settings: Any) -> tuple[list[str], list[str]]:
        path = tmp_path / f"{number}.jsonl"
        write_rows(path, rows[:number])
        seed = settings.pop("seed", 0)
        training = TrainingConfig(output_dir=tmp_path / f"run-{number}", seed=seed)
        data = PreferenceDataConfig(path=path, **({"eval_ratio": 0.25} | settings))
        held_out = preference_eval_trees(data, training, protocol)
        return ids_of(preference_trees(data, training, protocol)), ids_of(held_out)

    train_side, held_out = sides(60)
    assert sorted(train_side + held_out) == sorted(row.id for row in rows)
    assert 6 <= len(held_out) <= 24
    assert {name.removesuffix("-b") for name in train_side}.isdisjoint(name.removesuffix("-b") for name in held_out)
    record = json.loads((tmp_path / "run-60" / "dropped.json").read_text())
    assert record["dropped"] == {"held out for validation": len(held_out)}
    few, few_held_out = sides(40)
    assert set(few_held_out) <= set(held_out)
    assert set(few) <= set(train_side)
    assert sides(60, seed=1)[1] != held_out
    limited_train, limited = sides(60, eval_limit=7)
    assert limited_train == train_side
    assert len(limited) == 7
    assert [name for name in held_out if name in limited] == limited, "in their order"


def test_dialogs_that_begin_in_the_same_way_are_on_one_side(tmp_path: Path, chatml_tokenizer: Any) -> None:
    from align.trainers.data import sft_eval_trees, sft_trees

    begin = preference_rows(1)[0]
    messages = [(*begin.prompt, *begin.chosen, *row.prompt, *row.chosen) for row in preference_rows(5)]
    rows = [SFTRow(id=f"d{n}", source="test", messages=dialog) for n, dialog in enumerate(messages)]
    write_rows(tmp_path / "dialogs.jsonl", rows)
    protocol = load_protocol(chatml_tokenizer)
    sides = set()
    for seed in range(6):
        data = TreeDataConfig(path=tmp_path / "dialogs.jsonl", eval_ratio=0.5)
        training = TrainingConfig(output_dir=tmp_path / "run", seed=seed)
        sides.add(side := part_of(prompt_identity(begin.prompt), (0.5,), seed))
        if side == 1:
            assert len(sft_trees(data, training, protocol)) == 5
        with pytest.raises(RowError) as caught:
            (sft_eval_trees if side == 1 else sft_trees)(data, training, protocol)
        expected = "no prompt is held out. Bring" if side else "no row is left to train on (5 held out for validation)"
        assert expected in str(caught.value)
    assert sides == {0, 1}


def test_the_held_out_file_of_the_builder_is_read_as_it_is_and_shared_prompts_are_reported(
    tmp_path: Path, chatml_tokenizer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.trainers.data import preference_eval_trees, preference_trees
    from align.trainers.validation import warn_of_overlap
    from data_builders.preferences.builder import PreferencesConfig, build

    write_rows(tmp_path / "mine.jsonl", preference_rows(40))
    built = build(PreferencesConfig(path=tmp_path / "mine.jsonl", heldout_ratio=0.3), tmp_path / "data")
    held_out_file, training = built / "preferences.heldout.jsonl", TrainingConfig(output_dir=tmp_path / "run")
    protocol = load_protocol(chatml_tokenizer)

    def trees(path: Any) -> tuple[Any, Any]:
        data = PreferenceDataConfig(path=path, eval_path=held_out_file)
        return preference_trees(data, training, protocol), preference_eval_trees(data, training, protocol)

    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)
    train_side, held_out = trees(built / "preferences.jsonl")
    assert len(train_side) + len(held_out) == 40
    assert len(held_out) > 5
    assert warn_of_overlap(train_side, held_out) == 0
    first: Row = preference_rows(40)[int(held_out[0].id.removeprefix("s0-"))]
    write_rows(tmp_path / "more.jsonl", [first.model_copy(update={"id": "again"})])
    train_side, held_out = trees((built / "preferences.jsonl", tmp_path / "more.jsonl"))
    assert warn_of_overlap(train_side, held_out) == 1
    expected = f"1 of {len(held_out)} held-out rows have a prompt that is trained on too ({held_out[0].id}): "
    assert expected in caplog.text


@pytest.mark.parametrize(
    "settings, message",
    [
        (["data.eval_path=b.jsonl", "data.eval_ratio=0.1"], "data.eval_path and data.eval_ratio are both set"),
        (["data.eval_limit=5"], "data.eval_limit is set, but there are no held-out rows"),
        (["training.early_stopping_patience=2"], "training.early_stopping_patience requires held-out rows"),
        (["training.load_best_model_at_end=true"], "training.load_best_model_at_end requires held-out rows"),
        (["data.eval_ratio=0.1", "training.metric_for_best_model=eval_margin"], "must be one of loss"),
        (["data.eval_ratio=0.1", "training.early_stopping_threshold=0.1"], "requires training.early_stopping_patience"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from align.config import config_from_argv
    from recipes.sft import SFTRecipe

    with pytest.raises(SystemExit):
        config_from_argv(SFTRecipe, ["recipes/configs/sft/quickstart.yaml", *settings])
    assert message in capsys.readouterr().err
