"""Plans: figures against arithmetic done here, every shipped YAML, and what to change where something does not fit."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml

from align.config import config_from_argv, load_config
from align.errors import AlignError, ConfigError
from align.models.shapes import known_shape, known_shapes, shape_of
from align.planner.plan import GIB, StagePlan
from align.planner.report import markdown, require_fit, table
from align.planner.stages import plans
from align.rounds.plan import recipe_class
from align.trainers.deepspeed_file import zero_settings
from align.tree.pack import RunPlan, occupancy_warnings

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "recipes"
PLANS = sorted((RECIPES / "configs/plan").glob("*.yaml"))
OTHERS = {
    "quickstart": "rehearsal",
    "tools": "rehearsal",
    "knowledge": "rehearsal",
    "preferences": "rehearsal",
    "maths": "rehearsal",
    "win_rate": "rehearsal",
}


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@cache
def planned(file: Path, machines: str) -> tuple[StagePlan, ...]:
    """The plans of a config on the machines of recipes/configs/plan/<machines>.yaml."""
    cls = recipe_class(RECIPES, "plan")
    settings = load_config(cls, RECIPES / f"configs/plan/{machines}.yaml", [f"config={file}"])
    launch = None
    if machines in ("llama3.1-70b", "llama3.1-405b"):  # of all nodes, as the comment in each config says
        trained = "zero3_hpz.yaml" if machines == "llama3.1-70b" else "zero3_32_nodes.yaml"
        trains = file.parent.name in ("sft", "dpo", "reward", "rounds")
        launch = RECIPES / "launch" / (trained if trains else "sample_nodes.yaml")
    return tuple(plans(file, RECIPES, settings, settings, launch=launch, shape=settings.shape or "smollm2-135m"))


def configs() -> list[Path]:
    folders = ("sft", "dpo", "reward", "rejection_sample", "run_eval", "rounds", "best_of_n")
    return sorted(file for folder in folders for file in (RECIPES / "configs" / folder).glob("*.yaml"))


def machines_of(file: Path) -> str:
    names = sorted((each.stem for each in PLANS), key=len, reverse=True)
    return next((name for name in names if file.stem.startswith(name)), "rehearsal")


@pytest.mark.slow
@pytest.mark.parametrize("file", configs(), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_shipped_config_fits_the_machines_of_its_size(file: Path) -> None:
    found = planned(file, machines_of(file))
    require_fit(found)
    assert any(plan.sized for plan in found) or file.parent.name == "best_of_n"
    for plan in found:
        if plan.steps:
            assert plan.filled is not None
            assert plan.filled > 0.25, plan
            assert not plan.empty, plan
            assert plan.checkpoint
            assert plan.tokens_per_second > 0
            assert plan.hours > 0
            assert plan.save_share <= 0.055, plan


@pytest.mark.slow
def test_the_states_of_8b_are_16_bytes_a_parameter() -> None:
    """8,030,261,248 parameters: what the fact sheets of Llama 3.1 give, counted from its shape."""
    (plan,) = planned(RECIPES / "configs/dpo/llama3.1-8b.yaml", "llama3.1-8b")
    states = sum(plan.memory[name] for name in ("weights", "gradients", "optimizer"))
    count = 8_030_261_248
    gradients = 4 if zero_settings(RECIPES / "launch/zero3.json").gradient_bytes == 4 else 2
    assert states == pytest.approx((2 + gradients + 12) * count / 8, rel=1e-6)
    assert plan.checkpoint == pytest.approx(14 * count, rel=0.001)
    assert plan.save_seconds == pytest.approx(plan.checkpoint / 2e9)
    # an earlier count of the same step by hand found a peak of 7.9 GiB
    assert (plan.memory["activations"] + plan.memory["logits"]) / GIB == pytest.approx(7.9, rel=0.1)


@pytest.mark.slow
def test_what_does_not_fit_is_refused_with_settings_that_fit() -> None:
    file = RECIPES / "configs/dpo/llama3.1-8b.yaml"
    settings = load_config(recipe_class(RECIPES, "plan"), None, [f"config={file}", "gpus=8", "gib=24", "rows=2000"])
    found = plans(file, RECIPES, settings, settings)
    with pytest.raises(AlignError, match=r"plan: 1 of 1 stages with a model do not fit") as caught:
        require_fit(found)
    assert "model.lora={}" in str(caught.value)
    ways = re.findall(r"(data\.token_budget|launch)=(\S+)|(\d+) processes", str(caught.value))
    assert len(ways) >= 2, caught.value
    changed = next((each for each in found[0].changes if each.startswith("data.token_budget")), None)
    if changed is not None:
        budget = int(re.search(r"=(\d+)", changed)[1])  # type: ignore[index]
        again = plans(file, RECIPES, settings, settings, settings={"data": {"token_budget": budget}})
        assert again[0].fits
    more = next(each for each in found[0].changes if "processes" in each)
    processes = int(more.split()[0])
    assert plans(file, RECIPES, settings.model_copy(update={"gpus": processes}), settings)[0].fits


@pytest.mark.slow
def test_a_long_row_of_8b_does_not_fit_eight_gpus_and_the_plan_says_so() -> None:
    file = RECIPES / "configs/sft/llama3.1-8b.yaml"
    settings = load_config(recipe_class(RECIPES, "plan"), None, [f"config={file}", "gpus=8", "gib=79", "rows=2000"])
    (plan,) = plans(file, RECIPES, settings, settings, settings={"data": {"token_budget": 131072}})
    assert not plan.fits
    assert plan.memory["activations"] / GIB == pytest.approx(66, rel=0.1), "counted by hand for the same row"


def long_plan(**settings: int) -> StagePlan:
    file = RECIPES / "configs/sft/llama3.1-8b.yaml"
    words = [f"config={file}", "gpus=8", "gib=79", "rows=200", "prompt_tokens=4000"]
    machine = load_config(recipe_class(RECIPES, "plan"), None, words)
    changed = {"data": {"token_budget": 131072}, "training": settings}
    return plans(file, RECIPES, machine, machine, settings=changed)[0]


@pytest.mark.slow
def test_processes_that_share_a_row_divide_its_activations_and_its_time() -> None:
    whole, shared = long_plan(), long_plan(sequence_parallel=8)
    assert "8 share a row" in shared.where
    assert any(change.startswith("training.sequence_parallel=2 ") for change in whole.changes), whole.changes
    assert long_plan(sequence_parallel=2).fits
    at_the_peak = [plan.memory["activations"] + plan.memory["logits"] for plan in (whole, shared)]
    assert at_the_peak[1] == pytest.approx(at_the_peak[0] / 8, rel=0.05)
    states = ("weights", "gradients", "optimizer", "gathered weights")
    assert [shared.memory[name] for name in states] == [whole.memory[name] for name in states]
    # the same operations on as many GPUs; a little longer for the exchanges, and shorter where fewer GPUs are idle
    assert shared.tokens_per_second > 0.9 * whole.tokens_per_second
    with pytest.raises(ConfigError, match="8 processes cannot be divided into groups of 3"):
        long_plan(sequence_parallel=3)


def plan_of(file: str, *words: str, launch: str | None = None, settings: dict | None = None) -> list[StagePlan]:
    """Plans of a config in recipes/configs/ with settings of the planner."""
    path = RECIPES / "configs" / file
    loaded = load_config(recipe_class(RECIPES, "plan"), None, [f"config={path}", "rows=2000", *words])
    named = None if launch is None else RECIPES / "launch" / launch
    return plans(path, RECIPES, loaded, loaded, launch=named, settings=settings)


def test_each_process_of_a_sampling_launch_file_has_the_gpus_of_a_node_to_itself() -> None:
    """8 processes that spread the model over 8 GPUs each are eight times as fast as one, and not as fast as one."""
    alone, on_nodes, by_gpus = (
        plan_of("rejection_sample/llama3.1-70b.yaml", *words, launch=launch)
        for words, launch in (([], None), ([], "sample_nodes.yaml"), (["gpus=64"], None))
    )
    assert [each[0].where for each in (alone, on_nodes)] == ["1 x 8 GPUs, vllm", "8 x 8 GPUs, vllm"]
    for before, now in zip(alone, on_nodes, strict=True):  # the model, and the judge that scores in the same processes
        assert now.tokens_per_second == pytest.approx(8 * before.tokens_per_second)
        assert now.hours == pytest.approx(before.hours / 8)
    assert [each.hours for each in by_gpus] == [each.hours for each in on_nodes]


@pytest.mark.parametrize(
    "words, launch, message",
    [
        ([], "zero3_hpz.yaml", r"70b \(zero3_hpz.yaml\): starts 8 processes with 8 GPUs each on a node, which has 8"),
        (["gpus_per_node=4"], None, r"starts 1 process with 8 GPUs each on a node, which has 4. Use a launch file"),
        (["gpus=4"], None, r"starts 1 process with 8 GPUs each on a node, which has 4"),
    ],
)  # fmt: skip
def test_more_gpus_on_a_node_than_it_has_are_refused(words: list[str], launch: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of("rejection_sample/llama3.1-70b.yaml", *words, launch=launch)


def test_training_on_more_processes_than_a_node_has_gpus_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"starts 8 processes with 1 GPUs each on a node, which has 4"):
        plan_of("sft/llama3.1-8b.yaml", "gpus_per_node=4", launch="zero3.yaml")


def test_vllm_has_its_share_of_the_card_and_needs_one_longest_completion() -> None:
    """8B has 15.0 GiB of weights, 128 KiB of cache a token (1 GiB for 8,192 tokens, 16 for all that it can read), and
    a first pass of 8,192 tokens: 2 values of 4,096 numbers and 3 of 14,336 for each token, 0.8 GiB."""

    def planned_with(gib: float, **vllm: float) -> StagePlan:
        sampling = {"backend": "vllm", "vllm": vllm, "threads": None}
        return plan_of("rejection_sample/llama3.1-8b.yaml", f"gib={gib}", settings={"sampling": sampling})[0]

    fits = planned_with(22, max_model_len=8192)
    assert fits.limit == pytest.approx(19.8 * GIB)
    assert fits.needed == fits.limit, "it takes what is left of its share"
    assert fits.fits
    assert fits.memory["activations"] == 8192 * 2 * (2 * 4096 + 3 * 14336)
    share = planned_with(22, max_model_len=8192, gpu_memory_utilization=0.8)
    assert share.needed > share.limit == pytest.approx(17.6 * GIB), "18.2 GiB: on the card, and not in vLLM's share"
    assert not share.fits
    assert not planned_with(36).fits, "its default is the longest row that the model reads"
    assert planned_with(38).fits


def test_the_first_pass_of_vllm_takes_memory_from_its_cache() -> None:
    """More tokens at a time on a large GPU; few rows are read in one pass; many logits are more than the pass."""

    def activations_with(gib: float, batch: int, **vllm: int) -> int:
        sampling = {"backend": "vllm", "batch_size": batch, "vllm": {"max_model_len": 8192} | vllm, "threads": None}
        (found, *_) = plan_of("rejection_sample/llama3.1-8b.yaml", f"gib={gib}", settings={"sampling": sampling})
        assert sum(found.memory.values()) == found.limit
        return found.memory["activations"]

    a_token = 2 * (2 * 4096 + 3 * 14336)
    assert activations_with(80, 64) == 16384 * a_token
    assert activations_with(40, 64) == 8192 * a_token
    assert activations_with(80, 1) == 8192 * a_token
    assert activations_with(80, 64, tensor_parallel_size=8) == 16384 * 2 * (2 * 4096 + 3 * 14336 // 8)
    assert activations_with(80, 4096) == 16384 * 2 * 4096 + 16 * 4096 * 128256


def test_later_rounds_are_listed_where_their_plan_differs(tmp_path: Path) -> None:
    stage = {
        "name": "sft",
        "recipe": "sft",
        "config": str(RECIPES / "configs/sft/llama3.1-8b.yaml"),
        "launch": str(RECIPES / "launch/zero3.yaml"),
        "set": {"model.path": "{start}", "training.output_dir": "{round_dir}/sft", "training.max_steps": "{round}"},
    }
    same = stage | {
        "name": "more",
        "set": stage["set"] | {"training.output_dir": "{round_dir}/b", "training.max_steps": 7},
    }
    values = {
        "run_dir": "runs/r",
        "start": "meta-llama/Llama-3.1-8B",
        "rounds": 3,
        "best": "sft",
        "each_round": [stage, same],
    }
    file = tmp_path / "rounds.yaml"
    file.write_text(yaml.safe_dump(values))
    machines = load_config(recipe_class(RECIPES, "plan"), None, [f"config={file}", "rows=2000"])
    found = plans(file, RECIPES, machines, machines, recipe="rounds")
    steps = {each.label: each.steps for each in found}
    assert steps == {"sft": 1, "more": 7, "sft (round 2)": 2, "sft (round 3)": 3}


@pytest.mark.slow
def test_the_reference_pass_takes_a_forward_pass_of_one_epoch() -> None:
    """With checkpointing a step computes four forward passes: its own, one again, and two of the backward pass."""
    simpo = {"loss": "simpo", "simpo_gamma": 1.0, "beta": 2.0}
    with_reference, without = (
        plan_of("dpo/llama3.1-8b.yaml", "gpus=8", settings={"dpo": dpo, "training": {"epochs": 3}})[0]
        for dpo in ({}, simpo)
    )
    assert without.steps == with_reference.steps
    passed = 3600 * (with_reference.hours - without.hours)
    assert passed == pytest.approx(with_reference.steps / 3 * with_reference.step_seconds / 4, rel=0.02)


@pytest.mark.slow
def test_a_plan_counts_saves_by_time() -> None:
    """Steps of about a second: a save after each minute, in place of one after a million steps."""
    often, seldom = (
        plan_of("sft/llama3.1-8b.yaml", "gpus=8", "rows=20000", settings={"training": {"save_steps": 10**6} | minutes})[
            0
        ]
        for minutes in ({"save_minutes": 1}, {"save_minutes": None})
    )
    saves = (often.hours - seldom.hours) * 3600 / often.save_seconds
    assert saves == pytest.approx(often.steps * often.step_seconds / 60, rel=0.1)
    assert often.save_share == pytest.approx(often.save_seconds / (60 + often.save_seconds))
    assert seldom.save_share == pytest.approx(seldom.save_seconds / (10**6 * seldom.step_seconds), rel=0.001)
    assert any(text.endswith("raise training.save_minutes (now 1)") for text in often.warnings)
    assert not any("save" in text for text in seldom.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [8, 64, 512])
def test_the_8b_dpo_config_is_planned_for_many_processes(processes: int) -> None:
    """64 rows of about 1,000 tokens: on 64 processes one each, on 512 most have none."""
    file = RECIPES / "configs/dpo/llama3.1-8b.yaml"
    settings = load_config(recipe_class(RECIPES, "plan"), None, [f"config={file}", f"gpus={processes}", "rows=2000"])
    (plan,) = plans(file, RECIPES, settings, settings)
    said = " ".join(plan.warnings)
    assert plan.empty == pytest.approx(max(0.0, 1 - 64 / processes), abs=0.01)
    assert ("passes have no row" in said) == (processes == 512)
    assert ("packed rows are" in said) == (processes > 8)


def test_a_run_on_too_many_processes_is_warned_of() -> None:
    settings = {"batch_size": 4, "token_budget": 1000, "epochs": 1, "max_steps": None, "seed": 0}
    plan = RunPlan([100] * 8, processes=8, **settings)
    occupancy = plan.occupancy()
    assert (occupancy.filled, occupancy.empty) == (0.05, 0.5)
    rows, full = occupancy_warnings(plan, occupancy)
    assert rows.startswith("50% of the passes have no row (4 rows a step on 8 processes): use fewer processes")
    assert full.startswith("packed rows are 5% full")
    alone = RunPlan([100] * 8, **settings)
    assert occupancy_warnings(alone, alone.occupancy()) == []


def test_a_short_last_step_is_no_reason_for_a_warning() -> None:
    """Three steps of four rows that fill four processes, and one row more; that row alone is all there is to count."""
    settings = {"batch_size": 4, "token_budget": 100, "epochs": 1, "max_steps": None, "seed": 0, "processes": 4}
    plan = RunPlan([100] * 13, **settings)
    assert len(plan) == 4
    assert occupancy_warnings(plan, plan.occupancy()) == []
    assert RunPlan([100], **settings).occupancy().empty == 0.75


def test_shapes_are_known_by_name_and_read_from_a_folder(tmp_path: Path) -> None:
    names = {
        "meta-llama/Llama-3.1-8B-Instruct": "llama3.1-8b",
        "runs/llama3.1-405b/round-2/sft": "llama3.1-405b",
        "runs/llama3.1-405b/round-2/reward-llama3.1-8b": "llama3.1-8b",
        "meta-llama/Meta-Llama-3.1-70B": "llama3.1-70b",
        ".assets/SmolLM2-135M-Instruct": "smollm2-135m",
        "runs/mine/dpo": None,
    }
    assert {name: known_shape(name) for name in names} == names
    with pytest.raises(ConfigError, match=r"model.path: runs/mine/dpo is not on this machine.*Set shape= to one of"):
        shape_of("runs/mine/dpo")
    assert shape_of("runs/mine/dpo", "llama3.1-8b")[0] == "llama3.1-8b"
    values = known_shapes()["smollm2-135m"] | {"num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(values))
    name, config = shape_of(tmp_path)
    assert name == str(tmp_path)
    assert config.num_hidden_layers == 3


def test_the_known_shapes_have_the_sizes_of_their_names() -> None:
    from align.planner.sampling import parameters

    sizes = {"smollm2-135m": 134_515_008, "llama3.2-1b": 1_235_814_400, "llama3.1-8b": 8_030_261_248}
    sizes |= {"llama3.1-70b": 70_553_706_496, "llama3.1-405b": 405_853_388_800}
    assert sizes.keys() == known_shapes().keys()
    for name, expected in sizes.items():
        assert parameters(shape_of(name)[1].to_json_string(use_diff=False)) == expected


def test_the_first_word_is_the_config_or_a_yaml_that_names_it() -> None:
    cls = recipe_class(RECIPES, "plan")
    direct = config_from_argv(cls, ["recipes/configs/dpo/llama3.1-8b.yaml", "--gpus", "8", "--gib", "80"])
    assert (str(direct.config), direct.gpus, direct.gib) == ("recipes/configs/dpo/llama3.1-8b.yaml", 8, 80.0)
    named = config_from_argv(cls, ["recipes/configs/plan/llama3.1-8b.yaml", "gpus=16"])
    assert (named.config.name, named.gpus) == ("llama3.1-8b.yaml", 16)
    assert named.config.parent.name == "rounds"


def test_every_yaml_that_names_no_config_is_one_that_is_planned(tmp_path: Path) -> None:
    cls = recipe_class(RECIPES, "plan")
    files = sorted((RECIPES / "configs").glob("*/*.yaml"))
    assert len(files) > 50
    for file in files:  # `encode` reads the config of another recipe too
        assert cls.is_argument(str(file)) == (file.parent.name not in ("plan", "encode")), file
    machines = tmp_path / "machines.yaml"
    machines.write_text("gpus: 16\ngib: 141\n")
    found = config_from_argv(cls, [str(machines), "config=recipes/configs/dpo/llama3.1-8b.yaml"])
    assert (found.config.name, found.gpus) == ("llama3.1-8b.yaml", 16)


def test_the_hpz_file_differs_from_zero3_in_one_setting() -> None:
    plain, hpz = (json.loads((RECIPES / "launch" / name).read_text()) for name in ("zero3.json", "zero3_hpz.json"))
    assert hpz["zero_optimization"].pop("zero_hpz_partition_size") == 8
    assert hpz == plain
    assert zero_settings(RECIPES / "launch/zero3_hpz.json").second_shard == 8
    offloaded = zero_settings(RECIPES / "launch/zero3_offload.json")
    assert (offloaded.offload_optimizer, offloaded.offload_weights) == (True, True)


def test_a_deepspeed_file_of_another_stage_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "zero2.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    with pytest.raises(ConfigError, match="is of ZeRO stage 2"):
        zero_settings(file)
    file.write_text("[]")
    with pytest.raises(ConfigError, match="is no DeepSpeed file with a section zero_optimization"):
        zero_settings(file)


def test_tables_say_what_does_not_fit() -> None:
    small = StagePlan(
        "dpo", "dpo", "tiny", "1 x GPU", {"weights": 3 * GIB}, 2 * GIB, changes=("model.lora={} (1.0 GiB)",)
    )
    assert "3.0 of 2.0 GiB, DOES NOT FIT: weights 3.0" in table([small, StagePlan("mix", "build_data")])
    assert "without a model on a device, or with one on a server: mix" in table([small, StagePlan("mix", "build_data")])
    assert "| dpo | tiny | 1 x GPU | 3.0 of 2 GiB |" in markdown([small])
    with pytest.raises(AlignError, match=r"Change one setting of each\. dpo: model\.lora=\{\} \(1\.0 GiB\)"):
        require_fit([small])
    require_fit([replace(small, limit=3 * GIB)])


@pytest.mark.slow
def test_the_tables_of_the_docs_are_those_of_the_planner() -> None:
    """After a change of a plan: `python recipes/plan.py recipes/configs/plan/NAME.yaml markdown=FILE` makes a table."""
    page = (ROOT / "docs/planner.md").read_text(encoding="utf-8")
    files = [file for file in PLANS if file.stem.startswith("llama")]
    assert len(files) >= 4
    for file in files:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))["config"]
        found = markdown(planned(ROOT / config, file.stem))
        assert found in page, f"docs/planner.md: paste the table of {file.name}:\n{found}"


@pytest.mark.slow
def test_the_recipe_writes_its_plans_and_refuses_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cls = recipe_class(RECIPES, "plan")
    words = ["recipes/configs/reward/rehearsal.yaml", "--device", "cpu", "--gib", "0.1", "--rows", "50"]
    recipe = config_from_argv(cls, [*words, f"output={tmp_path / 'plan.json'}"])
    with pytest.raises(AlignError, match=r"^plan: 1 of 1 stages with a model do not fit"):
        sys.modules[cls.__module__].run(recipe)
    assert "DOES NOT FIT" in capsys.readouterr().out
    (plan,) = json.loads((tmp_path / "plan.json").read_text())
    assert plan["memory"]["weights"] == 4 * (134_515_008 + 576), (
        "a score head, and the tied output head is the embedding"
    )
