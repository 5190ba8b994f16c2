"""`precision: auto` and `dtype: auto`: what decides, that it is decided once, and where it is written down."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import Field

from align import hardware, precision
from align.config import Recipe, load_config
from align.errors import ConfigError
from align.precision import Decision, automatic, decide, overrides, resolved
from align.rounds.driver import run_rounds
from align.rounds.plan import RoundsConfig, plan, recipe_class
from align.settings import ModelConfig, SamplingConfig, TrainingConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No decision of an earlier test, and none from outside."""
    monkeypatch.delenv(precision.VARIABLE, raising=False)
    decide.cache_clear()
    yield
    decide.cache_clear()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)
    caplog.set_level(logging.INFO, logger="align")
    return caplog


def machine(
    monkeypatch: pytest.MonkeyPatch, *instructions: str, speedup: float | None = None, gpu: bool = False
) -> None:
    """A CPU with these instructions. speedup: what its trial shows; None where no trial may run."""

    def trial(*_: object, **__: object) -> float:
        assert speedup is not None, "no trial is needed here"
        return speedup

    monkeypatch.setattr(precision, "cpu_instructions", lambda: instructions)
    monkeypatch.setattr(precision, "trial", trial)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)


def choose(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(precision.VARIABLE, value)
    decide.cache_clear()


class Sampler(Recipe):
    model: ModelConfig = ModelConfig(path=Path("m"))
    sampling: SamplingConfig = SamplingConfig()
    several: tuple[SamplingConfig, ...] = (SamplingConfig(dtype="bfloat16"), SamplingConfig(threads=3))
    named: dict[str, ModelConfig] = Field(default={"a": ModelConfig(path=Path("a"))})
    maybe: SamplingConfig | None = None


class Trainer(Recipe):
    model: ModelConfig = ModelConfig(path=Path("m"))
    training: TrainingConfig = TrainingConfig(output_dir=Path("o"))


# What decides


@pytest.mark.parametrize("native, expected", [(True, "bf16"), (False, "fp32")])
def test_a_gpu_computes_in_bfloat16_if_it_does_so_itself(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    machine(monkeypatch, gpu=True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    decision = decide()
    assert decision.precision == expected
    assert "Tesla T4" in decision.reason
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: native)  # as other builds of torch have it
    assert precision.cuda_has_bf16() == native


def test_a_cpu_without_the_instructions_computes_in_float32_without_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "avx2")
    assert decide() == Decision("fp32", "this CPU has no bfloat16 instructions: avx2")


@pytest.mark.parametrize("instruction", ["amx_bf16", "avx512_bf16", "bf16"])
@pytest.mark.parametrize("speedup, expected", [(2.1, "bf16"), (1.05, "fp32"), (0.7, "fp32")])
def test_a_cpu_with_the_instructions_computes_as_its_trial_shows(
    monkeypatch: pytest.MonkeyPatch, instruction: str, speedup: float, expected: str
) -> None:
    machine(monkeypatch, "avx2", instruction, speedup=speedup)
    assert decide() == Decision(
        expected,
        f"{instruction}; in a trial bf16 was {speedup:.1f} times as fast as fp32",  # type: ignore[arg-type]
    )


def test_the_trial_is_short_and_leaves_random_numbers_and_threads_alone() -> None:
    torch.manual_seed(1)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    assert 0.001 < precision.trial(seconds=0.05, tokens=32) < 1000
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    choose(monkeypatch, "bf16")
    assert decide() == Decision("bf16", "ALIGN_PRECISION is set")
    assert (precision.resolved_precision("auto"), precision.resolved_dtype("auto")) == ("bf16", "bfloat16")
    assert (precision.resolved_precision("fp32"), precision.resolved_dtype("float32")) == ("fp32", "float32")
    choose(monkeypatch, "half")
    with pytest.raises(ConfigError, match="ALIGN_PRECISION: must be fp32, bf16 or auto, got 'half'"):
        decide()


# Where it goes


@pytest.mark.parametrize("value, dtype", [("fp32", "float32"), ("bf16", "bfloat16")])
def test_every_auto_of_a_config_is_replaced(monkeypatch: pytest.MonkeyPatch, value: str, dtype: str) -> None:
    choose(monkeypatch, value)
    config = Sampler()
    assert automatic(config).keys() == {"model.dtype", "sampling.dtype", "several.1.dtype", "named.a.dtype"}
    found = resolved(config)
    assert automatic(found) == {}
    assert (found.model.dtype, found.sampling.dtype, found.named["a"].dtype) == (dtype, dtype, dtype)
    assert [sampling.dtype for sampling in found.several] == ["bfloat16", dtype], "what is set stays"
    assert found.several[1].threads == 3
    assert type(found) is Sampler
    assert automatic(config), "the config itself is not changed"


@pytest.mark.parametrize("value", ["fp32", "bf16"])
def test_trained_weights_are_float32_whatever_the_products_are(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    choose(monkeypatch, value)
    found = resolved(Trainer())
    assert (found.training.precision, found.model.dtype) == (value, "float32")
    held = resolved(Trainer(model=ModelConfig(path=Path("m"), dtype="bfloat16")))
    assert held.model.dtype == "bfloat16"


def test_a_config_without_auto_decides_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, "amx_bf16")
    config = Trainer(training=TrainingConfig(output_dir=Path("o"), precision="bf16"))
    assert resolved(config, tmp_path).model.dtype == "float32"
    assert list(tmp_path.iterdir()) == []


def test_one_line_says_which_and_why(monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture) -> None:
    machine(monkeypatch, "avx2")
    resolved(Trainer())
    assert [record.getMessage() for record in said.records] == [
        "precision: fp32 (this CPU has no bfloat16 instructions: avx2)"
    ]


def test_bfloat16_that_a_config_asks_for_without_instructions_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    machine(monkeypatch, "avx2", speedup=0.05)
    resolved(Trainer(training=TrainingConfig(output_dir=Path("o"), precision="bf16")))
    assert [record.getMessage() for record in said.records] == [
        "training.precision: bfloat16, which this CPU emulates: in a trial 20 times slower than float32. "
        "auto takes float32"
    ]


# That it is decided once


def test_a_later_start_keeps_what_its_folder_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    choose(monkeypatch, "bf16")
    assert resolved(Sampler(), tmp_path / "out").sampling.dtype == "bfloat16"
    record = json.loads((tmp_path / "out" / precision.RECORD).read_text())
    assert record["precision"] == "bf16"
    assert record["hardware"] == hardware.describe()
    choose(monkeypatch, "fp32")
    assert resolved(Sampler(), tmp_path / "out").sampling.dtype == "bfloat16"
    assert resolved(Sampler(), tmp_path / "other").sampling.dtype == "float32"


def test_a_run_that_is_continued_keeps_its_checkpoints_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    choose(monkeypatch, "fp32")
    for step, value in ((9, "fp32"), (10, "bf16")):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "MANIFEST.json").write_text(json.dumps({"config": {"training": {"precision": value}}}))
    assert resolved(Trainer(), tmp_path).training.precision == "bf16", "the newest, not the last by name"
    assert said.records[-1].getMessage() == f"precision: bf16 (as recorded in {tmp_path}/checkpoint-10/MANIFEST.json)"
    (tmp_path / "checkpoint-10" / "MANIFEST.json").write_bytes(b"\xff{")
    assert resolved(Trainer(), tmp_path).training.precision == "fp32", "a damaged one is passed over"


@pytest.mark.parametrize("content", ["{", "[]", '{"precision": "fp16", "reason": "x"}', '{"reason": "x"}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / precision.RECORD).write_text(content)
    with pytest.raises(ConfigError, match=rf"{precision.RECORD}: .* Delete the file: the next start decides again"):
        resolved(Sampler(), tmp_path)


@pytest.mark.slow
def test_what_is_trained_records_it_and_is_finished_under_another_machines_auto(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_checkpoint: Path, said: pytest.LogCaptureFixture
) -> None:
    sft = recipe_class(ROOT / "recipes", "sft")
    rows = tmp_path / "rows.jsonl"
    row = {"prompt": [{"role": "user", "content": "Who?"}], "completion": [{"role": "assistant", "content": "Me."}]}
    rows.write_text("".join(json.dumps({"id": str(number), "source": "test", **row}) + "\n" for number in range(2)))
    config = tmp_path / "sft.yaml"
    config.write_text(
        f"model: {{path: {tiny_checkpoint}}}\ndata: {{path: {rows}}}\n"
        f"training: {{output_dir: {tmp_path / 'run'}, batch_size: 2}}\n"
    )
    run = sys.modules[sft.__module__].run  # type: ignore[attr-defined]
    choose(monkeypatch, "bf16")
    run(load_config(sft, config))
    made = json.loads((tmp_path / "run" / "MANIFEST.json").read_text())
    assert made["config"]["training"]["precision"] == "bf16"
    assert made["config"]["model"]["dtype"] == "float32"
    assert made["made_by"]["hardware"] == hardware.describe()
    (tmp_path / "run" / precision.RECORD).unlink()
    choose(monkeypatch, "fp32")
    run(load_config(sft, config))
    assert "finished already" in said.text


@pytest.mark.slow
def test_all_processes_of_a_launch_have_the_first_ones_decision(tmp_path: Path) -> None:
    """Two processes whose own decisions differ, as two trials may."""
    code = (
        "import sys; from pathlib import Path; from torch import distributed; "
        "from align.precision import resolved; from tests.align.test_precision import Trainer; "
        "rank = int(sys.argv[1]); "
        "distributed.init_process_group('gloo', init_method=f'file://{sys.argv[2]}/meet', rank=rank, world_size=2); "
        "print(resolved(Trainer(), Path(sys.argv[2])).training.precision)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, precision.VARIABLE: value, "PYTHONPATH": str(ROOT)},
        )
        for rank, value in enumerate(("bf16", "fp32"))
    ]
    assert [process.communicate(timeout=120)[0] for process in started] == ["bf16\n", "bf16\n"]


# Rounds

TOY = """
from align.config import Recipe, dump, main
from align.settings import OutputPath, SamplingConfig

class ToyRecipe(Recipe):
    sampling: SamplingConfig = SamplingConfig()
    output: OutputPath

def run(recipe):
    recipe.output.parent.mkdir(parents=True, exist_ok=True)
    recipe.output.write_text(recipe.sampling.dtype)

if __name__ == "__main__":
    main(ToyRecipe, run)
"""


@pytest.fixture
def rounds(tmp_path: Path) -> RoundsConfig:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "toy_sampler.py").write_text(TOY)
    (tmp_path / "open.yaml").write_text("{}")
    (tmp_path / "own.yaml").write_text("sampling: {dtype: bfloat16}")
    (tmp_path / "start").mkdir()
    stage = {"recipe": "toy_sampler", "config": tmp_path / "open.yaml", "set": {"output": "{round_dir}/open"}}
    own = {"recipe": "toy_sampler", "config": tmp_path / "own.yaml", "set": {"output": "{round_dir}/own"}}
    run, start = tmp_path / "run", tmp_path / "start"
    stages = ({"name": "open", **stage}, {"name": "own", **own})
    return RoundsConfig(run_dir=run, start=start, rounds=1, best="open", each_round=stages)  # type: ignore[arg-type]


@pytest.mark.parametrize("value, dtype", [("fp32", "float32"), ("bf16", "bfloat16")])
def test_a_rounds_file_sets_it_once_for_all_stages(
    rounds: RoundsConfig, tmp_path: Path, value: str, dtype: str
) -> None:
    config = rounds.model_copy(update={"precision": value})
    left_open, own = plan(config, tmp_path / "recipes")
    assert left_open.command[-1] == f"sampling.dtype={dtype}"
    assert left_open.config.sampling.dtype == dtype  # type: ignore[attr-defined]
    assert own.config.sampling.dtype == "bfloat16", "a stage that sets its own keeps it"  # type: ignore[attr-defined]
    assert not [word for word in own.command if "dtype" in word]


@pytest.mark.slow
def test_rounds_decide_once_and_make_no_stage_again_when_another_start_would_decide_otherwise(
    rounds: RoundsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(precision.VARIABLE, "fp32")
    run_rounds(rounds, tmp_path / "recipes")
    said = capsys.readouterr().out
    assert said.startswith("precision: fp32 (ALIGN_PRECISION is set)\n")
    assert "2 stages run" in said
    assert [(rounds.run_dir / f"round-1/{name}").read_text() for name in ("open", "own")] == ["float32", "bfloat16"]
    monkeypatch.setenv(precision.VARIABLE, "bf16")
    run_rounds(rounds, tmp_path / "recipes")
    assert "0 stages run" in capsys.readouterr().out
    (rounds.run_dir / precision.RECORD).unlink()
    run_rounds(rounds, tmp_path / "recipes")
    assert "1 stages run" in capsys.readouterr().out, "a new decision makes again what it concerns"


def test_overrides_name_what_a_stage_leaves_open() -> None:
    assert overrides(Trainer(), "bf16") == ["training.precision=bf16"]
    assert overrides(Sampler(several=()), "fp32") == [
        "model.dtype=float32",
        "sampling.dtype=float32",
        "named.a.dtype=float32",
    ]


def test_only_weights_that_zero_3_trains_or_a_merge_writes_are_bfloat16_by_config() -> None:
    """Everything else is `auto`, which is bfloat16 on the GPUs that these files are for. Rounds that submit jobs are
    started where there is no GPU, so they say it too."""
    found = {
        path.relative_to(ROOT / "recipes" / "configs").as_posix()
        for path in (ROOT / "recipes" / "configs").rglob("*.yaml")
        if re.search(r"^[^#\n]*(dtype: (bf|float)|precision: (bf|fp))", path.read_text(), re.MULTILINE)
    }
    sizes = ("8b", "70b", "405b")
    training = {f"{stage}/llama3.1-{size}.yaml" for stage in ("sft", "reward", "dpo") for size in sizes}
    submitted = {f"rounds/llama3.1-{size}.yaml" for size in ("70b", "405b")}
    assert found == training | submitted | {
        "sft/llama3.1-8b-long.yaml",
        "sft/llama3.1-8b-qlora.yaml",
        "dpo/llama3.1-8b-lora.yaml",
        "merge/llama3.1-8b.yaml",
    }
