"""A day of ordinary work: 40 actions, each a command as a user types it, and what must be seen after it.

The model has two layers; everything else is as users have it: the recipes as processes, files of other toolkits, a
validation set, trackers, stops and resumes, adapters, other model families, and folders that plain transformers, peft
and datasets read. Each action is one test, named by what a user would say.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import PYTHON, ROOT, TORCHRUN, ZERO3, Started, run

pytestmark = pytest.mark.engine

EXAMPLES = ROOT / "docs" / "examples"
SFT, DPO, REWARD = (f"recipes/configs/{name}.yaml" for name in ("sft/quickstart", "dpo/quickstart", "reward/rehearsal"))
SMALL = ("training.batch_size=4", "training.precision=fp32", "training.max_steps=4", "data.limit=24")


class Day:
    """A folder of work, and commands that are run in the checkout."""

    def __init__(self, folder: Path, start: Path) -> None:
        self.folder, self.start = folder, start

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def command(self, recipe: str, config: str, output: str, *settings: str, start: Path | None = None) -> list[str]:
        return [
            *(PYTHON, f"recipes/{recipe}.py", config, f"model.path={start or self.start}"),
            *(f"training.output_dir={self / output}", *SMALL, *settings),
        ]

    def train(self, recipe: str, output: str, *settings: str, start: Path | None = None) -> str:
        """What a training run to its end prints."""
        config = {"sft": SFT, "dpo": DPO, "reward": REWARD}[recipe]
        data = EXAMPLES / ("sft.jsonl" if recipe == "sft" else "pairs.jsonl")
        given = () if any(word.startswith("data.path=") for word in settings) else (f"data.path={data}",)
        return run(self.command(recipe, config, output, *given, *settings, start=start))

    def refused(self, recipe: str, output: str, *settings: str, start: Path | str | None = None) -> str:
        """What a run prints that is refused: a message and no traceback."""
        config = {"sft": SFT, "dpo": DPO, "reward": REWARD}[recipe]
        return refused(self.command(recipe, config, output, *settings, start=start))  # type: ignore[arg-type]

    def metrics(self, output: str) -> list[dict[str, Any]]:
        lines = (self / output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]


def refused(words: list[str], **environment: Any) -> str:
    started = Started(words, **environment)
    assert started.wait() in (1, 2), started.output[-3000:]
    assert "Traceback" not in started.output, started.output[-3000:]
    return started.output


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Day:
    folder = tmp_path_factory.mktemp("day")
    start = folder / "start"
    shutil.copytree(tiny_checkpoint, start)
    return Day(folder, start)


@pytest.fixture(scope="module")
def trained(day: Day) -> dict[str, str]:
    """The runs that later actions use: output folder -> what was printed."""
    made = {"sft": day.train("sft", "sft", "data.eval_ratio=0.2", "training.eval_steps=2")}
    made["dpo"] = day.train("dpo", "dpo", "training.save_steps=2", start=day / "sft")
    made["reward"] = day.train("reward", "reward")
    made["lora"] = day.train("sft", "lora", "training.save_steps=2", "model.lora={rank: 4, alpha: 8}")
    return made


# Data


def test_01_my_alpaca_file_as_it_is(trained: dict[str, str]) -> None:
    assert "⟦" in trained["sft"], "what is trained on is shown"


def test_02_a_parquet_file_and_a_csv_file(day: Day) -> None:
    from datasets import load_dataset

    rows = load_dataset("json", data_files=str(EXAMPLES / "pairs.jsonl"), split="train", cache_dir=str(day / "cache"))
    rows.to_parquet(day / "pairs.parquet")
    rows.to_csv(day / "pairs.csv")
    for name in ("pairs.parquet", "pairs.csv"):
        day.train("dpo", f"from-{name}", f"data.path={day / name}", "training.max_steps=1")
    one, other = (day.metrics(f"from-pairs.{kind}")[0]["loss"] for kind in ("parquet", "csv"))
    assert one == other


def test_03_a_folder_that_datasets_saved_with_a_split(day: Day) -> None:
    from datasets import load_dataset

    rows = load_dataset("json", data_files=str(EXAMPLES / "sft.jsonl"), cache_dir=str(day / "cache"))
    rows.save_to_disk(str(day / "saved"))
    day.train("sft", "from-saved", f"data.path={{path: {day / 'saved'}, split: train}}", "training.max_steps=1")


def test_04_a_column_with_another_name(day: Day) -> None:
    lines = (EXAMPLES / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    renamed = [json.dumps({"ask": row.pop("prompt"), **row}) for row in map(json.loads, lines)]
    (day / "renamed.jsonl").write_text("\n".join(renamed) + "\n")
    said = day.refused("dpo", "renamed", f"data.path={day / 'renamed.jsonl'}")
    assert re.search(r"renamed\.jsonl:\d+: ask: ", said)
    source = f"{{path: {day / 'renamed.jsonl'}, columns: {{prompt: ask}}}}"
    day.train("dpo", "renamed", f"data.path={source}", "training.max_steps=1")


def test_05_two_sources_with_weights(day: Day) -> None:
    shutil.copy(EXAMPLES / "sft.jsonl", day / "more.jsonl")
    two = f"[{{path: {EXAMPLES / 'sft.jsonl'}, weight: 0.5}}, {{path: {day / 'more.jsonl'}}}]"
    day.train("sft", "two", f"data.path={two}", "training.max_steps=1")
    assert len(json.loads((day / "two" / "dropped.json").read_text())["sources"]) == 2
    assert "must be above 0" in day.refused("sft", "none", f"data.path={two.replace('0.5', '0')}")


# Validation


def test_06_a_validation_split(day: Day, trained: dict[str, str]) -> None:
    held_out = [line for line in day.metrics("sft") if "eval_loss" in line]
    assert [line["step"] for line in held_out] == [0, 2, 4]
    assert held_out[-1]["eval_loss"] < held_out[0]["eval_loss"]


def test_07_a_validation_file_for_dpo_and_stop_when_it_gets_no_better(day: Day) -> None:
    settings = (
        "training.eval_steps=1",
        "training.early_stopping_patience=1",
        "training.max_steps=20",
        "training.epochs=9",
    )
    said = day.train("dpo", "early", f"data.eval_path={EXAMPLES / 'pairs.jsonl'}", "training.learning_rate=1.0",
                     "training.checks=false", *settings)  # fmt: skip
    lines = [line for line in day.metrics("early") if "eval_loss" in line]
    assert lines[-1]["step"] < 20
    assert {"eval_rewards/accuracies", "eval_rewards/margins", "eval_logps/chosen"} <= lines[-1].keys()
    assert re.search(r"best step \d+ of \d+", said)
    assert "stopping early" in said


def test_08_the_best_step_is_named_and_kept(day: Day, trained: dict[str, str]) -> None:
    manifest = json.loads((day / "sft" / "MANIFEST.json").read_text(encoding="utf-8"))
    assert manifest["validation"]["best_step"] == 4
    assert re.search(r"best.*step 4", trained["sft"])
    assert (day / "sft" / "checkpoint-2").is_dir(), "it was the best step once"


# Trackers and what a run says


def test_09_tensorboard_under_the_names_of_trl(day: Day) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    day.train("dpo", "tracked", "training.report_to=tensorboard", "training.run_name=monday", "training.project=mine")
    (events,) = (day / "tracked").rglob("events.out.tfevents.*")
    read = EventAccumulator(str(events.parent))
    read.Reload()
    tags = set(read.Tags()["scalars"])
    assert {"train/rewards/chosen", "train/rewards/margins", "train/logps/rejected", "train/loss"} <= tags


def test_10_a_tracker_that_does_not_exist(day: Day) -> None:
    assert "Did you mean wandb?" in day.refused("sft", "none", "training.report_to=wandbb")


def test_11_the_first_word(day: Day, trained: dict[str, str]) -> None:
    said = trained["sft"]
    for expected in ("llama", "parameters", "float32", "thread", "rows a step", str(day / "sft")):
        assert expected.lower() in said.lower(), expected


def test_12_the_last_word_names_the_folder_and_commands_that_work(day: Day, trained: dict[str, str]) -> None:
    after = trained["sft"].rpartition("100%")[2]
    assert str(day / "sft") in after
    (publish,) = re.findall(r"# publish\n  (.+)", after)
    assert "nothing was sent" in run([PYTHON, *shlex.split(publish)[1:]])


def test_13_lora_says_how_much_is_trained(trained: dict[str, str]) -> None:
    assert re.search(r"trained \(\d+\.\d\d%\), LoRA rank 4, alpha 8", trained["lora"])
    assert "all trained" in trained["sft"]


# The command line


def test_14_settings_in_three_forms(day: Day) -> None:
    command = day.command("sft", SFT, "forms", f"data.path={EXAMPLES / 'sft.jsonl'}")
    run([*command, "training.max_steps=1", "--training.learning_rate=2e-4", "--training.seed", "3"])
    manifest = json.loads((day / "forms" / "MANIFEST.json").read_text(encoding="utf-8"))["config"]["training"]
    assert (manifest["max_steps"], manifest["learning_rate"], manifest["seed"]) == (1, 2e-4, 3)


def test_15_a_setting_that_does_not_exist(day: Day) -> None:
    assert "training.learning_rate" in day.refused("sft", "none", "training.learning_rat=1")
    assert "training.learning_rate" in refused([PYTHON, "recipes/sft.py", SFT, "--learning_rate", "1e-4"])


def test_16_help_for_one_setting() -> None:
    printed = run([PYTHON, "recipes/dpo.py", "--help", "dpo.beta"])
    assert "dpo.beta (float" in printed
    assert "training.learning_rate (" not in printed


def test_17_the_console_command(day: Day) -> None:
    words = day.command("sft", SFT, "console", f"data.path={EXAMPLES / 'sft.jsonl'}", "training.max_steps=1")
    run([PYTHON, "-m", "align.cli", "sft", *words[2:]])
    assert (day / "console" / "model.safetensors").is_file()


# Stop, resume, extend


def test_18_ctrl_c_then_the_same_command(day: Day) -> None:
    command = day.command("sft", SFT, "stopped", f"data.path={EXAMPLES / 'sft.jsonl'}", "training.max_steps=60")
    started = Started(command)
    started.wait_for(lambda: (day / "stopped" / "metrics.jsonl").exists() and day.metrics("stopped"))
    os.kill(started.pid, signal.SIGINT)
    assert started.wait() == 128 + signal.SIGINT, started.output[-3000:]
    run([*command, "training.log_steps=2"])  # a harmless setting may change
    day.train("sft", "not-stopped", "training.max_steps=60")
    one, other = ((day / name / "model.safetensors").read_bytes() for name in ("stopped", "not-stopped"))
    assert one == other


def test_19_a_setting_that_would_change_the_past(day: Day, trained: dict[str, str]) -> None:
    said = day.refused("sft", "sft", f"data.path={EXAMPLES / 'sft.jsonl'}", "data.eval_ratio=0.2",
                       "training.eval_steps=2", "training.learning_rate=0.5")  # fmt: skip
    assert "learning_rate" in said


def test_20_two_more_epochs(day: Day) -> None:
    constant = ("training.schedule=constant", "training.warmup_ratio=0", "training.keep_optimizer=true")
    day.train("sft", "longer", *constant, "training.max_steps=2")
    day.train("sft", "longer", *constant, "training.max_steps=4")
    day.train("sft", "at-once", *constant, "training.max_steps=4")
    one, other = ((day / name / "model.safetensors").read_bytes() for name in ("longer", "at-once"))
    assert one == other


# Disk


def test_21_a_finished_run_keeps_no_optimizer(day: Day, trained: dict[str, str]) -> None:
    for name in trained:
        assert not list((day / name).rglob("optimizer.pt")), name
    for name in ("sft", "dpo", "lora"):
        assert (day / name / "checkpoint-2").is_dir(), f"{name}: it had one"


def test_22_a_model_saved_in_bfloat16(day: Day) -> None:
    from transformers import AutoModelForCausalLM

    day.train("sft", "half", "training.save_dtype=bfloat16", "training.max_steps=1")
    assert str(AutoModelForCausalLM.from_pretrained(day / "half", dtype="auto").dtype) == "torch.bfloat16"
    size = (day / "half" / "model.safetensors").stat().st_size
    assert size < 0.6 * (day / "sft" / "model.safetensors").stat().st_size


def test_23_an_output_folder_with_another_model_in_it(day: Day) -> None:
    shutil.copytree(day.start, day / "foreign")
    assert "no run of align wrote" in day.refused("sft", "foreign", f"data.path={EXAMPLES / 'sft.jsonl'}")


# Models


def test_24_a_model_that_does_not_exist(day: Day) -> None:
    words = day.command("sft", SFT, "none", start=Path("someone/no-such-model"))
    said = refused(words, real=True, HF_HUB_OFFLINE="1")  # huggingface_hub reads the variable when it is imported
    assert "HF_HUB_OFFLINE is set, and the local cache has no complete copy of someone/no-such-model" in said


def test_25_a_folder_without_a_model(day: Day) -> None:
    (day / "empty").mkdir()
    assert "config.json" in day.refused("sft", "none", start=day / "empty")


def test_26_an_architecture_that_transformers_does_not_know(day: Day) -> None:
    changed_config(day, "unknown", lambda config: config | {"model_type": "foobar", "architectures": ["FooBar"]})
    assert "foobar" in day.refused("sft", "none", start=day / "unknown")


def test_27_mixture_of_experts_is_refused_before_training(day: Day) -> None:
    def moe(config: dict[str, Any]) -> dict[str, Any]:
        return config | {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4}

    changed_config(day, "moe", moe)
    assert re.search("expert", day.refused("sft", "none", start=day / "moe"))


def test_28_a_sliding_window_that_is_shorter_than_the_rows(day: Day) -> None:
    def window(config: dict[str, Any]) -> dict[str, Any]:
        return config | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 8}

    changed_config(day, "window", window)
    assert re.search("sliding.window", day.refused("sft", "none", start=day / "window"))


def test_29_mistral_without_a_window_trains(day: Day) -> None:
    def mistral(config: dict[str, Any]) -> dict[str, Any]:
        return config | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}

    changed_config(day, "mistral", mistral)
    day.train("sft", "from-mistral", "training.max_steps=1", start=day / "mistral")


def test_30_the_models_own_chat_template(day: Day) -> None:
    shutil.copytree(day.start, day / "own")
    template = day / "own" / "chat_template.jinja"
    template.write_text(template.read_text() + "{# mine #}")
    said = day.train("sft", "from-own", "model.chat=native", "training.max_steps=1", start=day / "own")
    assert (day / "from-own" / "chat_template.jinja").read_text() == template.read_text()
    assert re.search(r"chat +native", said)


# Adapters


def test_31_plain_peft_loads_the_adapter_from_another_folder(
    day: Day, trained: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM

    monkeypatch.chdir(tmp_path)
    model = AutoPeftModelForCausalLM.from_pretrained(day / "lora")
    adapted = model(torch.arange(20)[None]).logits
    with model.disable_adapter():
        assert (adapted - model(torch.arange(20)[None]).logits).abs().max() > 0


def test_32_merge_the_adapter(day: Day, trained: dict[str, str]) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    merge = "recipes/configs/merge/llama3.1-8b.yaml"
    run([PYTHON, "recipes/merge.py", merge, f"adapter={day / 'lora'}", f"output_dir={day / 'merged'}", "dtype=float32"])
    adapted = AutoPeftModelForCausalLM.from_pretrained(day / "lora")(torch.arange(20)[None]).logits
    merged = AutoModelForCausalLM.from_pretrained(day / "merged")(torch.arange(20)[None]).logits
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=0)


def test_33_dora(day: Day) -> None:
    dora = ("model.lora={rank: 4, use_dora: true, targets: [q_proj, v_proj]}", "training.max_steps=1")
    day.train("sft", "dora", *dora)
    assert json.loads((day / "dora" / "adapter_config.json").read_text())["use_dora"] is True
    day.train("dpo", "dora-dpo", *dora, start=day / "dora")


def test_34_another_optimizer(day: Day) -> None:
    day.train("sft", "adafactor", "training.optimizer=adafactor", "training.max_steps=2")
    assert "adamw_torch" in day.refused("sft", "none", "training.optimizer=adamw")


# What comes after


def test_35_export_rows_for_trl_and_others(day: Day) -> None:
    from datasets import load_dataset

    for form in ("trl", "openai", "sharegpt"):
        output = day / f"pairs.{form}.jsonl"
        run([PYTHON, "recipes/export.py", str(EXAMPLES / "pairs.jsonl"), "--to", form, "--output", str(output)])
        assert load_dataset("json", data_files=str(output), split="train", cache_dir=str(day / "cache")).num_rows
    output = day / "exported.parquet"
    run([PYTHON, "recipes/export.py", str(EXAMPLES / "pairs.jsonl"), "--to", "parquet", "--output", str(output)])
    assert load_dataset("parquet", data_files=str(output), split="train", cache_dir=str(day / "cache")).num_rows


def test_36_average_two_models(day: Day, trained: dict[str, str]) -> None:
    run([PYTHON, "recipes/average.py", "recipes/configs/average/rehearsal.yaml", f"output_dir={day / 'average'}",
         f"checkpoints=[{{path: {day / 'dpo'}, weight: 0.5}}, {{path: {day / 'sft'}, weight: 0.5}}]"])  # fmt: skip
    from transformers import pipeline

    chat = pipeline("text-generation", str(day / "average"))
    assert (
        "content"
        in chat([{"role": "user", "content": "What do bees make?"}], max_new_tokens=4)[0]["generated_text"][-1]
    )


def test_37_the_best_of_k_samples(day: Day, trained: dict[str, str]) -> None:
    prompts = day / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"How many days are in {n} weeks?"}) + "\n" for n in range(4)))
    run([PYTHON, "recipes/rejection_sample.py", "recipes/configs/rejection_sample/rehearsal.yaml", f"prompts={prompts}",
         f"model.path={day / 'sft'}", f"reward_model.path={day / 'reward'}", "k=2", "pairs.min_gap=0",
         "sampling.max_completion_tokens=8", f"output_dir={day / 'best'}"])  # fmt: skip
    assert len((day / "best" / "candidates.jsonl").read_text().splitlines()) == 8


def test_38_evaluate_the_reward_model(day: Day, trained: dict[str, str]) -> None:
    run([PYTHON, "recipes/run_eval.py", "recipes/configs/run_eval/preferences.yaml", f"output_dir={day / 'eval'}",
         f"reward_model.path={day / 'reward'}", f"reward_accuracy.pairs={EXAMPLES / 'pairs.jsonl'}"])  # fmt: skip
    assert json.loads((day / "eval" / "reward_accuracy.json").read_text())["scores"]


def test_39_what_would_be_published(day: Day, trained: dict[str, str]) -> None:
    words = [PYTHON, "recipes/publish.py", "recipes/configs/publish/default.yaml", f"checkpoint={day / 'dpo'}"]
    printed = run(words)
    assert "model.safetensors" in printed
    assert "nothing was sent" in printed


@pytest.mark.parametrize("launcher", [TORCHRUN, ZERO3], ids=["ddp", "zero3"])
def test_40_two_processes(day: Day, launcher: list[str]) -> None:
    name = f"two-{len(launcher)}"
    words = day.command("sft", SFT, name, f"data.path={EXAMPLES / 'sft.jsonl'}", "data.eval_ratio=0.2")
    run([*launcher, *words[1:], "training.eval_steps=2"])
    alone = [line for line in day.metrics(name) if "eval_loss" in line]
    assert alone[-1]["step"] == 4


def changed_config(day: Day, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    shutil.copytree(day.start, day / name)
    path = day / name / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
