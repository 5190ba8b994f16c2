"""What a run reports: the blocks before and after training, and what each tracker receives."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import CallbackHandler

from align.config import load_config
from align.errors import ConfigError, RolledBack
from align.jsonl import write_rows
from align.models.loading import load_policy, load_reward_model
from align.reporting import logger
from align.rows import Message, PreferenceRow
from align.settings import ModelConfig, TrainingConfig
from align.trackers import TRACKERS
from align.trainers.guarded_trackers import GuardedTracker, ending_trackers, is_outage
from align.trainers.summary import next_commands, steps_line
from align.trainers.throughput import Arithmetic, arithmetic
from align.trainers.trackers import (
    Speed,
    parameter_counts,
    run_name,
    run_speed,
    start_trackers,
    tracker_environment,
)
from align.tree.pack import RunPlan

WORDS = ["capital", "France", "Italy", "river", "Paris", "Rome", "answer", "short", "know", "guess", "call", "weather"]
MISLEADING = ("per_device_train_batch_size", "num_train_epochs", "gradient_accumulation_steps")


def pair(number: int, chosen: str) -> PreferenceRow:
    prompt = (Message(role="user", content=f"{WORDS[number % 12]} {WORDS[number % 5]}"),)
    answers = tuple((Message(role="assistant", content=text),) for text in (chosen, f"{WORDS[number % 7]} bad"))
    return PreferenceRow(id=f"p{number}", source="test", prompt=prompt, completions=answers)


def train(folder: Path, checkpoint: Path, **settings: Any) -> Path:
    """DPO with adapters: five pairs of which one is too long, in steps of two for two epochs."""
    from recipes.dpo import DPORecipe, run

    rows, held_out = folder / "pairs.jsonl", folder / "held_out.jsonl"
    write_rows(held_out, [pair(n, f"{WORDS[n]} other") for n in (7, 8)])
    write_rows(rows, [*(pair(n, f"{WORDS[n]} good") for n in range(5)), pair(5, " ".join(WORDS * 30))])
    training = {"output_dir": folder / "my" / "dpo", "batch_size": 2, "epochs": 2, "learning_rate": 1e-3}
    return run(
        DPORecipe.model_validate(
            {
                "model": {"path": checkpoint, "lora": {"rank": 4, "alpha": 8}},
                "data": {"path": rows, "token_budget": 128, "eval_path": held_out},
                "dpo": {"beta": 0.3},
                "training": training | {"precision": "fp32", "checks": False} | settings,
            }
        )
    )


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> SimpleNamespace:
    """A run that reports to TensorBoard: its folder, and what it logged."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger("align").addHandler(handler)
    folder = tmp_path_factory.mktemp("reported")
    try:
        train(folder, tiny_checkpoint, report_to=("tensorboard",), run_name="first", project="demo")
    finally:
        logging.getLogger("align").removeHandler(handler)
    return SimpleNamespace(folder=folder / "my" / "dpo", said=records, rows=folder / "pairs.jsonl")


def block(said: list[str], title: str) -> dict[str, str]:
    (text,) = {each for each in said if each.startswith(title)}
    return dict(re.fullmatch("  (.*?)  +(.*)", line).groups() for line in text.splitlines()[1:])  # type: ignore[union-attr, misc]


# Before and after


@pytest.mark.slow
def test_the_first_word_says_what_is_trained_and_where(reported: SimpleNamespace, tiny_checkpoint: Path) -> None:
    said = block(reported.said, "dpo: first")
    whole, adapters = (
        sum(tensor.numel() for tensor in load_file(file).values())
        for file in (tiny_checkpoint / "model.safetensors", reported.folder / "adapter_model.safetensors")
    )
    ratio = adapters / (whole + adapters)
    count = f"{(whole + adapters) / 1000:.1f}K parameters, {adapters / 1000:.1f}K trained ({ratio:.2%})"
    assert said["model"] == f"{tiny_checkpoint} (llama, {count}, LoRA rank 4, alpha 8)"
    assert "float32 weights, products in float32" in said["device"]
    assert said["data"].endswith("pairs.jsonl: 6 rows read, 1 dropped, 5 kept")
    assert said["dropped"].startswith("1 ")
    assert said["batch"].startswith("2 rows a step = 1 process x 2 rows; ")
    assert said["steps"] == "6 (2 epochs of 3 steps)"
    assert said["held out"] == "2 rows, evaluated every 100 steps and after the last; best by eval_loss"
    assert said["trains on"] == (
        "the content of chosen against that of rejected, without headers and end tokens (dpo.loss: sigmoid, beta 0.3), "
        "and 0.2 times the negative log-likelihood of chosen"
    )
    assert said["trackers"] == "tensorboard: run first of project demo"
    assert said["result"].startswith(f"{reported.folder}/")


@pytest.mark.slow
def test_the_last_word_names_the_result_and_commands_whose_configs_load(reported: SimpleNamespace) -> None:
    from recipes.merge import MergeRecipe
    from recipes.publish import PublishRecipe
    from recipes.run_eval import RunEvalRecipe

    said = block(reported.said, "dpo is finished: first")
    assert said["result"] == f"{reported.folder}/ (adapter, for its base model)"
    lines = lines_of(reported.folder, "loss")
    assert f"{lines[0]['loss']:.4g} at first, {lines[-1]['loss']:.4g} at the end, after 6 steps" in said["loss"]
    assert said["best"] == f"eval_loss {lines_of(reported.folder, 'eval_loss')[-1]['eval_loss']:.4g} at step 6"
    assert "; 6 optimizer steps of " in said["time"]
    (pasted,) = (each for each in reported.said if each.startswith("next:"))
    said = dict(re.findall("^  # (.*)\n  (.*)$", pasted, re.MULTILINE))
    assert said.keys() == {"evaluate", "sample", "merge", "publish"}
    found = {}
    for name, recipe in {"evaluate": RunEvalRecipe, "merge": MergeRecipe, "publish": PublishRecipe}.items():
        _, script, config, *settings = shlex.split(said[name])
        assert Path(script).is_file()
        found[name] = load_config(recipe, Path(config), settings)
    assert found["evaluate"].model.path == reported.folder
    assert found["merge"].adapter == reported.folder
    assert found["publish"].checkpoint == reported.folder
    assert not found["publish"].hub.push, "a pasted command uploads nothing"
    python, flag, code = shlex.split(said["sample"])
    assert (Path(python).name.startswith("python"), flag) == (True, "-c")
    compile(code, "sample", "exec")
    assert json.dumps(str(reported.folder)) in code


def test_a_reward_model_is_evaluated_on_the_held_out_pairs_next_to_its_rows(tmp_path: Path) -> None:
    from recipes.run_eval import RunEvalRecipe

    (tmp_path / "preferences.heldout.jsonl").write_text("{}\n")
    trainer = SimpleNamespace(
        stage="reward",
        output=tmp_path / "reward",
        recipe={"data": {"path": str(tmp_path / "preferences.jsonl")}},
        hugging_face_model=torch.nn.Linear(2, 2),
    )
    commands = dict(next_commands(trainer))
    assert commands.keys() == {"evaluate", "publish"}
    _, _, config, *settings = shlex.split(commands["evaluate"])
    loaded = load_config(RunEvalRecipe, Path(config), settings)
    assert loaded.sections["reward_accuracy"].pairs == tmp_path / "preferences.heldout.jsonl"


# Trackers


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


@pytest.mark.slow
def test_tensorboard_receives_the_recipe_the_metrics_and_the_speed(reported: SimpleNamespace) -> None:
    found = events(reported.folder / "runs" / "first")
    lines = lines_of(reported.folder, "loss")
    for name in ("loss", "grad_norm", "learning_rate", "rewards/chosen", "logps/rejected", "num_tokens", "epoch"):
        drawn = {event.step: event.value for event in found.Scalars(f"train/{name}")}
        for line in lines:
            assert drawn[line["step"]] == pytest.approx(line[name], rel=1e-6), name
    assert lines[-1]["epoch"] == 2.0
    held_out = {event.step: event.value for event in found.Scalars("eval/loss")}
    assert held_out == {
        line["step"]: pytest.approx(line["eval_loss"]) for line in lines_of(reported.folder, "eval_loss")
    }
    speed = [event.value for event in found.Scalars("train/tokens_per_second")]
    seconds = [event.value for event in found.Scalars("train/step_time")]
    for line, rate, spent in zip(lines, speed, seconds, strict=True):
        assert rate * spent == pytest.approx(line["tokens"], rel=1e-5)
    assert found.Scalars("train/peak_memory_gib")[-1].value > 0.05
    (rate,) = found.Scalars("train/train_samples_per_second")
    (runtime,) = found.Scalars("train/train_runtime")
    assert rate.value * runtime.value == pytest.approx(10, rel=0.01), "five pairs, twice"
    (text,) = (event.tensor_proto.string_val[0] for event in found.Tensors("args/text_summary"))
    config = json.loads(text)
    assert config["dpo"]["beta"] == 0.3
    assert config["model"]["lora"]["rank"] == 4
    assert config["training"]["batch_size"] == 2
    assert config["run"]["processes"] == 1
    assert config["run"]["steps"] == 6
    assert not set(MISLEADING) & config.keys()


@pytest.mark.slow
def test_metrics_have_the_speed_apart_from_what_equal_runs_share(reported: SimpleNamespace) -> None:
    """Operations by the formula with the sizes of the model; a CPU has no peak, so there is no share of it."""
    for line in lines_of(reported.folder, "loss"):
        speed = line["speed"]
        assert speed["tokens_per_second"] * speed["step_time"] == pytest.approx(line["tokens"])
        assert speed["unshared_tokens_per_second"] > speed["tokens_per_second"], "a prompt has two completions"
        assert speed["flops_per_second"] * speed["step_time"] > 4 * MATRICES * line["tokens"]
        assert "mfu" not in speed


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}])
def test_the_operations_of_a_run_follow_from_what_is_trained(
    lora: dict[str, int] | None, tiny_checkpoint: Path
) -> None:
    policy = load_policy(ModelConfig.model_validate({"path": tiny_checkpoint, "lora": lora}))
    row = SimpleNamespace(tokens=10, attended=30, labels=4)
    (found,) = arithmetic([row], policy, device=torch.device("cpu"), processes=1).flops  # type: ignore[arg-type]
    # of a layer: query and output 64 x 64, key and value 64 x 32, three matrices of 64 x 96
    added = 0 if lora is None else 2 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 96))
    of_layers = 6 * MATRICES if lora is None else 4 * MATRICES + 6 * added
    of_head = (6 if lora is None else 4) * 64 * policy.config.vocab_size
    assert found == 10 * of_layers + 30 * 12 * 2 * 4 * 16 + 4 * of_head
    scorer = load_reward_model(ModelConfig(path=tiny_checkpoint), fresh_head=True)
    (headless,) = arithmetic([row], scorer, device=torch.device("cpu"), processes=1).flops  # type: ignore[arg-type]
    assert headless == 10 * 6 * MATRICES + 30 * 12 * 2 * 4 * 16


MATRICES = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
"""Weights in the matrices of the tiny model's two layers."""


def test_the_share_of_the_peak_is_of_all_processes() -> None:
    of_two = Arithmetic(np.array([3e12, 5e12]), peak=2 * 989e12)
    assert of_two.of((0, 1)) == 8e12
    assert of_two.rates(8e12, 0.01) == {"flops_per_second": 8e14, "mfu": pytest.approx(8e14 / 1978e12)}
    assert Arithmetic(None, peak=989e12).rates(Arithmetic(None, None).of((0, 1)), 1.0) == {}


@pytest.mark.slow
def test_mlflow_receives_each_setting_under_its_name(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the tracker mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    train(tmp_path, tiny_checkpoint, report_to=("mlflow",), project="demo", max_steps=2)
    (run,) = mlflow.search_runs(experiment_names=["demo"], output_format="list")
    assert run.info.run_name == "my/dpo"
    assert run.data.params["dpo.beta"] == "0.3"
    assert run.data.params["training.batch_size"] == "2"
    assert not set(MISLEADING) & run.data.params.keys()
    assert run.data.metrics["rewards/margins"] == pytest.approx(last_line(tmp_path)["rewards/margins"])


@pytest.mark.slow
def test_wandb_offline_receives_the_recipe(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="the tracker wandb is not installed")
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    train(tmp_path, tiny_checkpoint, report_to=("wandb",), project="demo", max_steps=2)
    run = wandb.run
    assert (run.project, run.name) == ("demo", "my/dpo")
    assert run.config["dpo"]["beta"] == 0.3
    assert run.config["run"]["batch_size"] == 2
    assert not set(MISLEADING) & set(run.config.keys())
    assert run.summary["train/rewards/margins"] == pytest.approx(last_line(tmp_path)["rewards/margins"])
    wandb.finish()


@pytest.mark.slow
def test_trackio_receives_the_recipe(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="the tracker trackio is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    train(tmp_path, tiny_checkpoint, report_to=("trackio",), project="demo", max_steps=2)
    assert SQLiteStorage.get_runs("demo") == ["my/dpo"]
    assert SQLiteStorage.get_run_config("demo", "my/dpo")["dpo"]["beta"] == 0.3
    logged = [log for log in SQLiteStorage.get_logs("demo", "my/dpo") if "train/rewards/margins" in log]
    assert logged[-1]["train/global_step"] == 2
    assert logged[-1]["train/rewards/margins"] == pytest.approx(last_line(tmp_path)["rewards/margins"])


def last_line(folder: Path) -> dict[str, Any]:
    return lines_of(folder / "my" / "dpo", "loss")[-1]


def lines_of(folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that have this metric."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if name in line]


class Server(TrainerCallback):
    """A tracker of transformers, whose server does what a test says. It notes the steps that it was given."""

    def __init__(self, at_start: Any = None, at_log: Any = None, at_end: Any = None) -> None:
        self._initialized = False
        self.does = {"start": at_start, "log": at_log, "end": at_end}
        self.seen: list[Any] = []

    def _answer(self, event: str) -> None:
        does = self.does[event]
        if isinstance(does, Exception):
            raise does
        if does:
            does()

    def setup(self, args: Any, state: Any, model: Any) -> None:
        self._initialized = True
        self._answer("start")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        self._answer("log")
        self.seen.append((state.global_step, logs["loss"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._answer("end")
        self.seen.append("end")


def guarded(server: Server) -> tuple[GuardedTracker, list[str]]:
    lost: list[str] = []

    def note(name: str, reason: str) -> None:
        time.sleep(0.1)  # as a slow disk: the end of training waits for the report
        lost.append(f"{name} {reason}")

    return GuardedTracker(server, note), lost


def report(tracker: GuardedTracker, steps: int = 3) -> float:
    """A training that logs. Returns its seconds."""
    began = time.monotonic()
    state, logs = TrainerState(), {}
    for step in range(1, steps + 1):
        state.global_step, logs["loss"] = step, 1 / step  # the same objects, as the training has them
        tracker.on_log(None, state, None, logs=logs)
        tracker.on_step_begin(None, state, None)
    tracker.on_train_end(None, state, None)
    return time.monotonic() - began


def test_a_tracker_that_cannot_start_says_why_before_training() -> None:
    working, started = Server(), Server(RuntimeError("is not started twice"))
    started._initialized = True
    start_trackers([object(), *(guarded(each)[0] for each in (working, started))], None, None, None)  # type: ignore[arg-type]
    assert working._initialized
    with pytest.raises(ConfigError, match=r"^training.report_to: Server cannot start: No key\. Do what it says, or"):
        start_trackers([guarded(Server(RuntimeError("No key.\nMore")))[0]], None, None, None)  # type: ignore[arg-type]


def test_a_guarded_tracker_is_given_everything_in_order_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(at_log=lambda: time.sleep(0.05))
    tracker, lost = guarded(server)
    report(tracker)
    assert server.seen == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), "end"]
    assert lost == []


@pytest.mark.parametrize(
    "server, said, seen",
    [
        (Server(at_start=ConnectionRefusedError("refused")), "Server cannot start: refused", []),
        (Server(at_start=RuntimeError("API: HTTPSConnectionPool: Max retries, timed out")), "Server cannot start", []),
        (Server(at_log=RuntimeError("quota\nx")), "Server failed: RuntimeError: quota", []),
        (Server(at_end=OSError("gone")), "Server failed: OSError: gone", [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]),
        (Server(at_start=lambda: time.sleep(9)), "Server did not start within 1 s", []),
        (Server(at_log=lambda: time.sleep(9)), "Server did not finish within 1 s", []),
        (Server(at_end=lambda: time.sleep(9)), "Server did not finish within 1 s", [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]),
    ],
)
def test_a_tracker_that_fails_or_hangs_is_dropped_with_one_word_and_stops_nothing(
    server: Server, said: str, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CALL_SECONDS", "START_SECONDS"):
        monkeypatch.setattr(f"align.trainers.guarded_trackers.{name}", 0.9)
    tracker, lost = guarded(server)
    start_trackers([tracker], None, None, None)  # type: ignore[arg-type]
    assert report(tracker) < 5
    assert report(tracker) < 0.8, "it is not called again"
    assert len(lost) == 1
    assert lost[0].startswith(said)
    assert server.seen == seen


class Model:
    """What a weak reference can watch."""


def test_a_tracker_whose_training_has_left_holds_no_model() -> None:
    tracker, lost = guarded(Server())
    model = Model()
    watched, handler = weakref.ref(model), CallbackHandler([tracker], None, None, None, None)

    def leave(model: Any) -> None:
        with ending_trackers(handler):
            tracker.on_log(None, TrainerState(), None, logs={"loss": 1.0}, model=model)  # type: ignore[attr-defined]
            raise RolledBack("step 1", "the loss is nan", "Resume")

    with pytest.raises(RolledBack) as caught:
        leave(model)
    del model, caught
    assert watched() is None
    assert tracker.tracker.seen == [(0, 1.0)], "the call that waited was made"  # type: ignore[attr-defined]
    assert lost == []


def test_a_tracker_that_waits_holds_nothing_of_its_last_call() -> None:
    done = threading.Event()
    tracker, _ = guarded(Server(at_log=done.set))
    model = Model()
    watched = weakref.ref(model)
    tracker.on_log(None, TrainerState(), None, logs={"loss": 1.0}, model=model)
    del model
    assert done.wait(5)
    deadline = time.monotonic() + 5
    while watched() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert watched() is None
    tracker.end()


def test_a_tracker_that_hangs_is_left_when_the_training_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("align.trainers.guarded_trackers.CALL_SECONDS", 0.1)
    free = threading.Event()
    tracker, lost = guarded(Server(at_log=lambda: free.wait(9)))
    model = Model()
    watched = weakref.ref(model)
    for each in (None, model):
        tracker.on_log(None, TrainerState(), None, logs={"loss": 1.0}, model=each)
    del model, each
    tracker.end()
    free.set()
    assert lost == ["Server did not finish within 0 s"]
    assert watched() is None, "a call that only waited holds nothing"


def test_the_time_of_a_call_is_read_once() -> None:
    """The thread sets it to None when the call ends, which may be between two reads."""
    times: list[float | None] = [0.0, None]

    class Ending(GuardedTracker):
        _began = property(lambda self: times.pop(0) if times else None, lambda self, value: None)  # type: ignore[assignment]

    tracker = Ending(Server(), lambda name, reason: None)
    times[:] = [time.monotonic(), None]
    tracker.on_log(None, TrainerState(), None, logs={"loss": 1.0})  # type: ignore[attr-defined]
    assert not tracker.is_lost
    tracker.end()


def test_a_key_that_is_not_valid_is_no_outage() -> None:
    refused = RuntimeError("timed out")
    refused.response = SimpleNamespace(status_code=401)  # type: ignore[attr-defined]
    assert not is_outage(refused)
    refused.response = SimpleNamespace(status_code=503)  # type: ignore[attr-defined]
    assert is_outage(refused)


@pytest.mark.slow
def test_a_training_goes_on_without_its_tracker_and_records_that_it_was_lost(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*arguments: Any, **settings: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    done = train(tmp_path, tiny_checkpoint, report_to=("tensorboard",), max_steps=2)
    (lost,) = [line for line in (done / "starts.jsonl").read_text().splitlines() if '"lost"' in line]
    assert json.loads(lost)["tracker"] == "TensorBoard"
    assert len(lines_of(done, "loss")) == 2


# Names and numbers


def test_names_reach_the_environment_of_each_tracker_and_leave_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("align.trackers.is_installed", lambda module: True)
    monkeypatch.setenv("WANDB_PROJECT", "of the environment")
    monkeypatch.delenv("COMET_PROJECT_NAME", raising=False)
    given = TrainingConfig.model_validate(
        {"output_dir": "runs/my/sft", "report_to": ["wandb", "comet_ml", "clearml", "tensorboard"], "project": "p"}
    )
    before = dict(os.environ)
    with tracker_environment(given):
        assert os.environ["WANDB_PROJECT"] == os.environ["COMET_PROJECT_NAME"] == "p"
        assert os.environ["CLEARML_TASK"] == run_name(given) == "my/sft"
        assert "TENSORBOARD_LOGGING_DIR" not in os.environ, "its own folder with the time, without a name"
    assert dict(os.environ) == before
    with tracker_environment(given.model_copy(update={"project": None})):
        assert os.environ["WANDB_PROJECT"] == "of the environment"
    assert all(tracker.run == "" or tracker.run.isupper() for tracker in TRACKERS.values())


def test_speed_counts_steps_and_nothing_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("align.trainers.trackers.time.monotonic", lambda: now[0])
    speed = Speed()
    for seconds in (3.0, 5.0):
        now[0] += 100.0  # saving
        speed.begin_step()
        now[0] += seconds
        speed.end_step()
    found = speed.report(16_000)
    assert (found["step_time"], found["tokens_per_second"]) == (4.0, 2000.0)
    assert "step_time" not in speed.report(0), "no step since the last report"
    assert (speed.all_steps, speed.all_seconds) == (2, 8.0)


def test_a_resumed_run_counts_the_rows_of_its_own_steps() -> None:
    plan = RunPlan([10] * 5, batch_size=2, token_budget=100, epochs=2, max_steps=None, seed=0)
    logs = {"train_runtime": 2.0, "train_samples_per_second": 1.5, "total_flos": 0}
    assert run_speed(logs, plan, 6, 6) == {"train_runtime": 2.0, "train_samples_per_second": 5.0}
    assert run_speed(logs, plan, 6, 1)["train_samples_per_second"] == 0.5, "the last step of an epoch has one row"


def test_the_first_word_of_a_resumed_run_says_what_is_done() -> None:
    plan = RunPlan([10] * 5, batch_size=2, token_budget=100, epochs=2.5, max_steps=None, seed=0)
    assert steps_line(plan, 0) == "8 (2.67 epochs of 3 steps)"
    assert steps_line(plan, 5) == "8 (2.67 epochs of 3 steps); 5 are done, 3 to go"


def test_parameters_are_counted_whole() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, bias=False))
    model[0].bias.requires_grad = False
    assert parameter_counts(model) == (3 * 4 + 4 + 4 * 2, 3 * 4 + 4 * 2)
    sharded = torch.nn.Parameter(torch.empty(0))
    sharded.ds_numel = 12  # type: ignore[attr-defined]  # as ZeRO-3 leaves a weight that is elsewhere
    model[0].weight = sharded
    assert parameter_counts(model)[0] == 3 * 4 + 4 + 4 * 2
