"""LoRA and QLoRA: what is trained, against peft's own model; adapter folders, training one on, and merging that proves
itself."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from align.errors import CheckError, CheckpointError, ConfigError
from align.jsonl import write_rows
from align.manifest import is_whole, verify_folder, write_folder_manifest
from align.models import quantization
from align.models.checkpoints import checkpoint_fingerprint
from align.models.quantization import bitsandbytes_is_missing, quantization_config
from align.rows import Message, PreferenceRow, SFTRow
from align.settings import LoRAConfig, ModelConfig, PreferenceDataConfig, SamplingConfig, TrainingConfig, TreeDataConfig
from tests.metrics import metrics_of
from tests.processes import ZERO3, run

ROOT = Path(__file__).parents[3]
WORDS = ["capital", "France", "Italy", "river", "Paris", "Rome", "answer", "short", "know", "guess", "weather", "call"]
LORA = LoRAConfig(rank=4, alpha=8)
WEIGHTS = "adapter_model.safetensors"


def preference_rows(count: int, completions: int = 2) -> list[PreferenceRow]:
    rng = random.Random(count)

    def say(role: str, end: str = "") -> Message:
        return Message(role=role, content=" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) + end)

    return [
        PreferenceRow(
            id=f"p{n}",
            source="test",
            prompt=(say("user"),),
            completions=tuple((say("assistant", f" {rank}"),) for rank in range(completions)),
        )
        for n in range(count)
    ]


def train(
    kind: str, output: Path, checkpoint: Path, *, completions: int = 2, model: dict | None = None, **changed
) -> Path:
    """Train with a recipe on 24 rows; LoRA unless `model` says otherwise."""
    from recipes import dpo, reward, sft

    rows = preference_rows(24, completions)
    data = output.parent / f"{kind}-{completions}.jsonl"
    if kind == "sft":
        write_rows(data, [SFTRow(id=row.id, source="test", messages=(*row.prompt, *row.chosen)) for row in rows])
    else:
        write_rows(data, rows)
    settings = {"batch_size": 8, "learning_rate": 2e-2, "precision": "fp32", "warmup_ratio": 0, "epochs": 4}
    recipe, section = {
        "sft": (sft, TreeDataConfig),
        "dpo": (dpo, PreferenceDataConfig),
        "reward": (reward, PreferenceDataConfig),
    }[kind]
    return recipe.run(
        getattr(recipe, {"sft": "SFTRecipe", "dpo": "DPORecipe", "reward": "RewardRecipe"}[kind])(
            model=ModelConfig(path=checkpoint, **({"lora": LORA} | (model or {}))),
            data=section(path=data, token_budget=256),
            training=TrainingConfig(output_dir=output, **(settings | changed)),
        )
    )


@pytest.fixture(scope="module")
def sft_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """What an SFT run with LoRA leaves. Read it only."""
    return train("sft", tmp_path_factory.mktemp("sft") / "run", tiny_checkpoint)


@pytest.fixture(scope="module")
def reward_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """What a reward model's run with LoRA leaves. Read it only."""
    return train("reward", tmp_path_factory.mktemp("reward") / "run", tiny_checkpoint, completions=3)


def metrics(folder: Path) -> list[dict]:
    return metrics_of(folder)


def copied(adapter: Path, to: Path, change) -> Path:
    """The adapter with its weights changed by `change(name, tensor)`; None takes one away. Unsealed."""
    to.mkdir()
    for file in adapter.iterdir():
        if file.is_file() and file.name not in (WEIGHTS, "MANIFEST.json"):
            (to / file.name).write_bytes(file.read_bytes())
    tensors = {name: change(name, tensor) for name, tensor in load_file(adapter / WEIGHTS).items()}
    save_file({n: t for n, t in tensors.items() if t is not None}, to / WEIGHTS, metadata={"format": "pt"})
    return to


def trees_of(checkpoint: Path, rows: list[PreferenceRow]):
    from align.models.loading import load_tokenizer
    from align.tree.encode import encode_preferences

    _, protocol = load_tokenizer(checkpoint)
    return list(encode_preferences(rows, protocol, PreferenceDataConfig(path=checkpoint), dropped=Counter()))


def row_logps(model, tree, branch) -> torch.Tensor:
    """Log-probabilities of a branch's trained tokens from its own row: full logits and a plain log-softmax."""
    logps = model(input_ids=torch.tensor([[*tree.prompt, *branch.ids]])).logits[0].log_softmax(-1)
    start = len(tree.prompt)
    return torch.stack([logps[start + i - 1, t] for i, t in enumerate(branch.ids) if branch.loss_mask[i]])


def chosen_nll(model, checkpoint: Path, count: int = 24) -> float:
    """Mean over the pairs of the chosen completion's mean negative log-probability, a row at a time."""
    with torch.no_grad():
        means = [
            -row_logps(model, tree, tree.branches[0]).mean() for tree in trees_of(checkpoint, preference_rows(count))
        ]
    return torch.stack(means).mean().item()


# What is trained


@pytest.mark.slow
def test_rank_times_inputs_plus_outputs_is_trained_and_nothing_else(tiny_checkpoint: Path) -> None:
    from align.models.loading import load_policy

    model = load_policy(ModelConfig(path=tiny_checkpoint, dtype="bfloat16", lora=LoRAConfig(rank=3))).model
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    q, k, v, o = 64 + 64, 64 + 32, 64 + 32, 64 + 64  # 4 heads of 16, 2 of them for keys and values
    gate, up, down = 64 + 96, 64 + 96, 96 + 64
    assert sum(weight.numel() for weight in trained.values()) == 3 * 2 * (q + k + v + o + gate + up + down)
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    frozen = {name: weight for name, weight in model.named_parameters() if not weight.requires_grad}
    assert {weight.dtype for weight in frozen.values()} == {torch.bfloat16}
    assert not any("lm_head" in name or "embed" in name for name in trained)


SOME = ["q_proj", "layers.1.mlp.down_proj"]
PATTERN = r"model\.layers\.\d\.(self_attn\.[qv]|mlp\.up)_proj"


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings, peft_settings, checkpointing",
    [
        ({}, {"target_modules": "all-linear"}, False),
        ({}, {"target_modules": "all-linear"}, True),
        ({"targets": SOME}, {"target_modules": SOME}, False),
        ({"targets": SOME, "use_rslora": True}, {"target_modules": SOME, "use_rslora": True}, True),
        ({"use_dora": True}, {"target_modules": "all-linear", "use_dora": True}, False),
        (
            {"targets": SOME, "use_dora": True, "use_rslora": True},
            {"target_modules": SOME, "use_dora": True, "use_rslora": True},
            True,
        ),
        ({"targets": PATTERN}, {"target_modules": PATTERN}, False),
        (
            {"exclude_modules": ["layers.0.mlp.up_proj", "o_proj"]},
            {"target_modules": "all-linear", "exclude_modules": ["layers.0.mlp.up_proj", "o_proj"]},
            False,
        ),
        (
            {"targets": ["q_proj", "v_proj"], "layers_to_transform": [1]},
            {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
            False,
        ),
    ],
    ids=str,
)
def test_values_and_gradients_equal_pefts_own_model_with_a_row_each(
    settings: dict[str, Any], peft_settings: dict[str, Any], checkpointing: bool, tiny_checkpoint: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    from align.models.loading import load_policy
    from align.tree.pack import collate

    lora = LoRAConfig(rank=4, alpha=8, **settings)
    config = ModelConfig(path=tiny_checkpoint, lora=lora, gradient_checkpointing=checkpointing)
    policy = load_policy(config, seed=3).train()
    set_seed(3)
    oracle = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_checkpoint),
        LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **peft_settings),
    )
    ours = {name: weight for name, weight in policy.model.named_parameters() if weight.requires_grad}
    theirs = {n.removeprefix("base_model.model."): w for n, w in oracle.named_parameters() if w.requires_grad}
    assert ours.keys() == theirs.keys()
    generator = torch.Generator().manual_seed(0)
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), f"{name}: one seed, one start"
        with torch.no_grad():  # lora_B begins at zero, where lora_A has no gradient
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
            theirs[name].copy_(weight)

    trees = trees_of(tiny_checkpoint, preference_rows(6))
    packed = policy(collate(trees))
    weights = torch.linspace(0.5, 1.5, len(packed))
    (packed * weights).sum().backward()
    rows = torch.cat([row_logps(oracle, tree, branch) for tree in trees for branch in tree.branches])
    (rows * weights).sum().backward()
    torch.testing.assert_close(packed, rows, atol=1e-5, rtol=1e-5)
    for name, weight in ours.items():
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0, name
        torch.testing.assert_close(weight.grad, theirs[name].grad, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "q_prj"])
def test_a_target_that_is_no_linear_layer_of_the_trunk_is_refused(target: str, tiny_checkpoint: Path) -> None:
    from align.models.loading import load_policy

    message = (
        rf"model\.lora\.targets: {target} is no linear layer of the model's trunk\. Name some of down_proj, .*q_proj"
    )
    with pytest.raises(ConfigError, match=message):
        load_policy(ModelConfig(path=tiny_checkpoint, lora=LoRAConfig(targets=("q_proj", target))))


@pytest.mark.slow
@pytest.mark.parametrize(
    "lora, message",
    [
        ({"targets": r".*\.(q|k)_prj"}, r"targets: '.*' matches no linear layer of the model's trunk, such as model\."),
        ({"targets": r".*(q_proj|norm)"}, r"targets: '.*' also matches model\..*norm, which is no linear layer of the"),
        (
            {"targets": r".*"},
            r"targets: .* also matches .*\. Narrow it to some of down_proj, gate_proj, k_proj, o_proj, q_proj",
        ),
        ({"exclude_modules": ["q_prj"]}, r"exclude_modules: q_prj is no linear layer of the model's trunk\. Name some"),
        ({"targets": ["q_proj"], "exclude_modules": ["v_proj"]}, r"exclude_modules: v_proj is no linear layer of the"),
        ({"targets": ["q_proj"], "exclude_modules": ["q_proj"]}, r"exclude_modules: excludes every layer that model"),
        ({"layers_to_transform": [1, 2]}, r"layers_to_transform: is 2, and the model has layers 0 to 1"),
    ],
    ids=str,
)
def test_layers_that_the_model_does_not_have_are_refused_with_those_that_it_has(
    lora: dict[str, Any], message: str, tiny_checkpoint: Path
) -> None:
    from align.models.loading import load_policy

    with pytest.raises(ConfigError, match=r"model\.lora\." + message):
        load_policy(ModelConfig(path=tiny_checkpoint, lora=LoRAConfig(**lora)))


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")])
def test_adapters_from_a_layer_on_stand_in_no_layer_below(targets: Any, tmp_path: Path, tiny_checkpoint: Path) -> None:
    from align.models.loading import load_policy

    everywhere, above = (LoRAConfig(rank=4, targets=targets, first_layer=first) for first in (0, 1))
    names = {
        lora.first_layer: {
            name
            for name, weight in load_policy(ModelConfig(path=tiny_checkpoint, lora=lora)).model.named_parameters()
            if weight.requires_grad
        }
        for lora in (everywhere, above)
    }
    assert names[1] == {name for name in names[0] if ".layers.0." not in name} != names[0]
    folder = train("sft", tmp_path / "run", tiny_checkpoint, model={"lora": above}, epochs=1)
    assert json.loads((folder / "adapter_config.json").read_text())["layers_to_transform"] == [1]
    load_policy(ModelConfig(path=folder, lora=above))
    with pytest.raises(ConfigError, match=r"and the adapter in .* rank 4"):
        load_policy(ModelConfig(path=folder, lora=everywhere))
    with pytest.raises(ConfigError, match=r"model\.lora\.first_layer: is 2, and the model has layers 0 to 1"):
        load_policy(ModelConfig(path=tiny_checkpoint, lora=LoRAConfig(first_layer=2)))


@pytest.mark.slow
def test_bfloat16_weights_under_an_adapter_train_on_one_process(tmp_path: Path, tiny_checkpoint: Path) -> None:
    rough = train("sft", tmp_path / "rough", tiny_checkpoint, model={"dtype": "bfloat16"}, precision="bf16", epochs=1)
    exact = train("sft", tmp_path / "exact", tiny_checkpoint, epochs=1)
    assert {tensor.dtype for tensor in load_file(rough / WEIGHTS).values()} == {torch.float32}
    for a, b in zip(metrics(rough), metrics(exact), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=0.03)


# Adapter folders


@pytest.mark.slow
def test_an_sft_run_leaves_an_adapter_folder_that_peft_and_transformers_load(
    sft_adapter: Path, tiny_checkpoint: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from align.models.loading import load_policy
    from align.tree.pack import collate

    lines = metrics(sft_adapter)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    verify_folder(sft_adapter)
    names = {file.name for file in sft_adapter.iterdir()}
    assert {"adapter_config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "MANIFEST.json"} <= names
    assert not {"config.json", "model.safetensors"} & names
    config = json.loads((sft_adapter / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (str(tiny_checkpoint), 4, 8)
    AutoTokenizer.from_pretrained(sft_adapter)

    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    models = [PeftModel.from_pretrained(base, sft_adapter).eval(), AutoModelForCausalLM.from_pretrained(sft_adapter)]
    trees = trees_of(tiny_checkpoint, preference_rows(3))
    with torch.no_grad():
        ours = load_policy(ModelConfig(path=sft_adapter, lora=LORA)).eval()(collate(trees))
        for model in models:
            rows = torch.cat([row_logps(model, tree, branch) for tree in trees for branch in tree.branches])
            torch.testing.assert_close(ours, rows, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_reward_adapter_holds_its_score_head_and_loads_as_a_classifier(
    reward_adapter: Path, tiny_checkpoint: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    from align.models.loading import load_reward_model
    from align.tree.pack import collate

    assert metrics(reward_adapter)[-1]["accuracy"] > 0.9
    head = load_file(reward_adapter / WEIGHTS)["base_model.model.score.weight"]
    begun = load_reward_model(ModelConfig(path=tiny_checkpoint), seed=0, fresh_head=True).model.score.weight
    assert (head - begun).abs().max() > 1e-3, "the head was trained"
    plain = AutoModelForSequenceClassification.from_pretrained(reward_adapter, num_labels=1)
    trees = trees_of(tiny_checkpoint, preference_rows(3, completions=3))
    with torch.no_grad():
        rows = [plain(torch.tensor([[*t.prompt, *b.ids]])).logits.item() for t in trees for b in t.branches]
        for lora in (None, LORA):  # merged in memory, and next to the weights
            scores = load_reward_model(ModelConfig(path=reward_adapter, lora=lora)).eval()(collate(trees))
            torch.testing.assert_close(scores, torch.tensor(rows), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind, completions", [("dpo", 2), ("reward", 3)])
def test_a_resumed_run_ends_with_the_same_bytes(
    kind: str, completions: int, tmp_path: Path, tiny_checkpoint: Path, left_unfinished
) -> None:
    settings = {
        "completions": completions,
        "save_steps": 5,
        "model": {"lora": LORA.model_copy(update={"dropout": 0.1})},
    }
    whole = train(kind, tmp_path / "whole", tiny_checkpoint, **settings)
    resumed = tmp_path / "resumed"
    with left_unfinished():
        train(kind, resumed, tiny_checkpoint, **settings)
    (resumed / "metrics.jsonl").unlink()
    assert is_whole(resumed / "checkpoint-10")
    held = torch.load(resumed / "checkpoint-10" / "optimizer.pt")["state"]
    assert len(held) == len(load_file(whole / WEIGHTS)), "Adam's state is the adapter's alone"
    train(kind, tmp_path / "resumed", tiny_checkpoint, **settings)
    assert (whole / WEIGHTS).read_bytes() == (resumed / WEIGHTS).read_bytes()
    assert (whole / "adapter_config.json").read_bytes() == (resumed / "adapter_config.json").read_bytes()
    assert metrics(resumed) == [line for line in metrics(whole) if line["step"] > 10]


@pytest.mark.slow
def test_a_weight_that_was_not_saved_stops_the_run_by_name(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.models import adapters

    honest = adapters.get_peft_model_state_dict
    lost = "model.layers.1.mlp.up_proj.lora_B.weight"
    monkeypatch.setattr(
        adapters,
        "get_peft_model_state_dict",
        lambda *a, **k: {name: tensor for name, tensor in honest(*a, **k).items() if name != lost},
    )
    with pytest.raises(
        CheckpointError, match=rf"tensor base_model\.model\.{lost} was saved as None, expected \[96, 4\]"
    ):
        train("sft", tmp_path / "run", tiny_checkpoint, epochs=1)
    assert not (tmp_path / "run" / "MANIFEST.json").exists()


# Going on from an adapter


@pytest.mark.slow
def test_dpo_trains_an_sft_adapter_on_against_base_and_sft_adapter(
    tmp_path: Path, sft_adapter: Path, tiny_checkpoint: Path
) -> None:
    """The reference is the starting model; the base alone, which other trainers take, would show in both numbers."""
    from transformers import AutoModelForCausalLM

    done = train("dpo", tmp_path / "dpo", sft_adapter, batch_size=24, epochs=2)
    first = metrics(done)[0]
    assert first["absolute_margin"] == 0
    assert first["dpo_loss"] == pytest.approx(math.log(2), abs=1e-6)
    start = chosen_nll(AutoModelForCausalLM.from_pretrained(sft_adapter), tiny_checkpoint)
    alone = chosen_nll(AutoModelForCausalLM.from_pretrained(tiny_checkpoint), tiny_checkpoint)
    assert first["nll_loss"] == pytest.approx(start, abs=1e-4)
    assert abs(start - alone) > 0.5, "the test would not see the base alone"
    config = json.loads((done / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_checkpoint), "one adapter over the original base"
    before, after = load_file(sft_adapter / WEIGHTS), load_file(done / WEIGHTS)
    assert {name: t.shape for name, t in before.items()} == {name: t.shape for name, t in after.items()}
    moved = max((after[name] - before[name]).abs().max() for name in before)
    assert 0 < moved < 0.05, "it went on from there"


@pytest.mark.slow
def test_dpo_trains_a_dora_adapter_on_with_its_magnitudes(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Reference and policy begin equal on top of an adapter with magnitudes, which are trained and saved."""
    model = {"lora": LORA.model_copy(update={"use_dora": True, "use_rslora": True})}
    begun = train("sft", tmp_path / "sft", tiny_checkpoint, model=model, max_steps=1)
    done = train("dpo", tmp_path / "dpo", begun, model=model, batch_size=24, epochs=1)
    first = metrics(done)[0]
    assert first["absolute_margin"] == 0
    assert first["dpo_loss"] == pytest.approx(math.log(2), abs=1e-6)
    before, after = load_file(begun / WEIGHTS), load_file(done / WEIGHTS)
    magnitudes = [name for name in after if name.endswith("q_proj.lora_magnitude_vector")]
    assert len(magnitudes) == 2
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in after), "every factor and magnitude was trained"
    config = json.loads((done / "adapter_config.json").read_text())
    assert (config["use_dora"], config["use_rslora"]) == (True, True)


@pytest.mark.slow
def test_without_lora_an_adapter_folder_is_merged_and_trained_whole(
    tmp_path: Path, sft_adapter: Path, tiny_checkpoint: Path
) -> None:
    from transformers import AutoModelForCausalLM

    done = train(
        "dpo", tmp_path / "dpo", sft_adapter, model={"lora": None}, batch_size=24, epochs=2, learning_rate=1e-4
    )
    start = chosen_nll(AutoModelForCausalLM.from_pretrained(sft_adapter), tiny_checkpoint)
    assert metrics(done)[0]["nll_loss"] == pytest.approx(start, abs=1e-4)
    assert not (done / WEIGHTS).exists()
    before, after = load_file(tiny_checkpoint / "model.safetensors"), load_file(done / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before), "every weight was trained"


@pytest.mark.slow
def test_settings_other_than_the_adapters_are_refused_and_both_are_named(sft_adapter: Path) -> None:
    from align.models.loading import load_policy

    message = (
        r"model\.lora: has rank 4, alpha 8 and 2 layers \(q_proj\), and the adapter in .* rank 4, alpha 8 and "
        r"14 layers \(down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj\)\. Give model\.lora the adapter's"
    )
    with pytest.raises(ConfigError, match=message):
        load_policy(ModelConfig(path=sft_adapter, lora=LORA.model_copy(update={"targets": ("q_proj",)})))
    with pytest.raises(ConfigError, match=r"has rank 8, alpha 8 .* and the adapter in .* rank 4, alpha 8"):
        load_policy(ModelConfig(path=sft_adapter, lora=LORA.model_copy(update={"rank": 8})))
    with pytest.raises(ConfigError, match=r"has rank 4, alpha 16 .* and the adapter in .* rank 4, alpha 8"):
        load_policy(ModelConfig(path=sft_adapter, lora=LORA.model_copy(update={"alpha": 16})))


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LORA])
def test_an_adapter_that_changes_nothing_stops_the_run(lora, tmp_path: Path, sft_adapter: Path) -> None:
    from align.models.loading import load_policy

    silent = copied(sft_adapter, tmp_path / "silent", lambda name, t: torch.zeros_like(t) if "lora_B" in name else t)
    message = (
        r"step 0: .*silent: the adapter changes nothing: lora_B is zero in all of its 14 layers\. Look at adapter_model"
    )
    with pytest.raises(CheckError, match=message):
        load_policy(ModelConfig(path=silent, lora=lora))


@pytest.mark.slow
def test_a_dora_adapter_whose_magnitudes_alone_were_trained_changes_something(tiny_checkpoint: Path) -> None:
    from align.models.adapters import check_adapter_acts
    from align.models.loading import load_policy

    lora = LoRAConfig(rank=2, targets=("q_proj",), use_dora=True)
    model = load_policy(ModelConfig(path=tiny_checkpoint, lora=lora)).model
    with pytest.raises(CheckError, match="the adapter changes nothing: lora_B is zero in all of its 2 layers"):
        check_adapter_acts(model, tiny_checkpoint)
    magnitudes = next(weight for name, weight in model.named_parameters() if "lora_magnitude_vector" in name)
    with torch.no_grad():
        magnitudes[3] *= 1.01
    check_adapter_acts(model, tiny_checkpoint)


@pytest.mark.slow
def test_an_adapter_that_lacks_a_weight_is_refused_by_name(tmp_path: Path, sft_adapter: Path) -> None:
    from align.models.loading import load_policy

    lost = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    part = copied(sft_adapter, tmp_path / "part", lambda name, tensor: None if name == lost else tensor)
    with pytest.raises(CheckpointError, match=rf"part: tensor {lost} has the shape None, expected \[4, 64\]"):
        load_policy(ModelConfig(path=part, lora=LORA))


def test_a_base_that_is_gone_or_is_an_adapter_itself_is_reported(tmp_path: Path, sft_adapter: Path) -> None:
    from align.models.loading import load_policy

    moved = copied(sft_adapter, tmp_path / "moved", lambda name, tensor: tensor)
    config = json.loads((moved / "adapter_config.json").read_text())
    for base, reason in ((tmp_path / "gone", "is missing"), (sft_adapter, "is an adapter too. Merge")):
        (moved / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
        with pytest.raises(CheckpointError, match=f"moved: its base {base} {reason}"):
            load_policy(ModelConfig(path=moved))


@pytest.mark.slow
def test_generation_and_averaging_meet_an_adapter_folder(
    tmp_path: Path, sft_adapter: Path, tiny_checkpoint: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from align.generation.local import LocalBackend
    from align.models.averaging import average_checkpoints
    from align.models.loading import load_generator, load_tokenizer

    _, protocol = load_tokenizer(sft_adapter)
    prompt = protocol.encode(preference_rows(1)[0].prompt, open_assistant=True).ids
    sampling = SamplingConfig(temperature=0, max_completion_tokens=12)
    said = LocalBackend(load_generator(sft_adapter, "float32"), protocol, sampling).complete([prompt], [[0]])[0][0].ids
    plain = AutoModelForCausalLM.from_pretrained(sft_adapter)
    expected = plain.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=list(protocol.stop_ids)
    )[0, len(prompt) :]
    assert list(said) == expected.tolist()[: len(said)]
    with pytest.raises(CheckpointError, match=r"holds an adapter, .*Merge it first with recipes/merge\.py"):
        average_checkpoints([sft_adapter, tiny_checkpoint], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


# Merging


def merge(adapter: Path, output: Path, **settings) -> Path:
    from recipes.merge import MergeRecipe, run

    return run(MergeRecipe(adapter=adapter, output_dir=output, **settings))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_merged_checkpoint_is_whole_and_computes_what_base_and_adapter_do(
    dtype: str | None, tmp_path: Path, sft_adapter: Path, tiny_checkpoint: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    merged = merge(sft_adapter, tmp_path / "merged", dtype=dtype)
    assert [file.name for file in tmp_path.iterdir()] == ["merged"]
    record = verify_folder(merged)["merged"]
    assert record["base"] == "/".join(tiny_checkpoint.parts[-2:]), "not where this machine keeps it"
    assert record["base_fingerprint"] == checkpoint_fingerprint(tiny_checkpoint)
    assert record["adapter_fingerprint"] == checkpoint_fingerprint(sft_adapter)
    assert {t.dtype for t in load_file(merged / "model.safetensors").values()} == {getattr(torch, dtype or "float32")}
    ids = AutoTokenizer.from_pretrained(merged)("The capital of France", return_tensors="pt").input_ids
    models = [
        AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in (merged, sft_adapter, tiny_checkpoint)
    ]
    with torch.no_grad():
        whole, adapted, base = (model(ids).logits for model in models)
    assert (whole - adapted).abs().max() < (1e-4 if dtype is None else 0.1)
    assert (whole - adapted).norm() < (1e-4 if dtype is None else 0.1) * (base - adapted).norm()
    assert record["effect_share"] < (1e-4 if dtype is None else 0.1)


@pytest.mark.slow
def test_a_merged_reward_model_scores_as_before(tmp_path: Path, reward_adapter: Path) -> None:
    from align.models.loading import load_reward_model
    from align.tree.pack import collate

    merged = merge(reward_adapter, tmp_path / "merged")
    assert verify_folder(merged)["stage"] == "reward"
    assert json.loads((merged / "config.json").read_text())["architectures"] == ["LlamaForSequenceClassification"]
    batch = collate(trees_of(merged, preference_rows(4, completions=3)))
    with torch.no_grad():
        before, after = (load_reward_model(ModelConfig(path=p)).eval()(batch) for p in (reward_adapter, merged))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_layer_that_was_not_merged_is_found_and_nothing_is_left(
    tmp_path: Path, sft_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora import Linear

    honest, skipped = Linear.get_delta_weight, []

    def sabotaged(self, adapter):
        delta = honest(self, adapter)
        if not skipped and delta.shape == (96, 64):  # the first gate or up projection
            skipped.append(self)
            return torch.zeros_like(delta)
        return delta

    monkeypatch.setattr(Linear, "get_delta_weight", sabotaged)
    message = (
        r"merging in float32 moves an output by \d\S*, \d\S* of the largest output \(expected at most 0\.0001\).*"
        r"Nothing was written\. Keep the adapter as it is"
    )
    with pytest.raises(CheckError, match=message):
        merge(sft_adapter, tmp_path / "merged")
    assert len(skipped) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_adapter_too_small_for_bfloat16_weights_is_refused_there_and_merged_in_float32(
    tmp_path: Path, sft_adapter: Path
) -> None:
    small = copied(sft_adapter, tmp_path / "small", lambda name, t: t * 1e-3 if "lora_B" in name else t)
    with pytest.raises(CheckError, match=r"of what the adapter does \(expected at most 0\.25\)\. .*Set dtype: float32"):
        merge(small, tmp_path / "merged", dtype="bfloat16")
    assert not (tmp_path / "merged").exists()
    assert is_whole(merge(small, tmp_path / "merged", dtype="float32"))


def test_what_is_no_adapter_or_is_the_adapters_own_folder_is_refused(
    tmp_path: Path, tiny_checkpoint: Path, sft_adapter: Path
) -> None:
    with pytest.raises(ConfigError, match=r"adapter: .* holds no adapter_config\.json\. Name the folder of a LoRA run"):
        merge(tiny_checkpoint, tmp_path / "merged")
    with pytest.raises(ConfigError, match=r"output_dir: .* is .*, which is read\. Name a folder of its own"):
        merge(sft_adapter, sft_adapter)


# Four bits


def test_nf4_maps_to_doubly_quantized_blocks_with_products_in_the_models_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "bitsandbytes_is_missing", lambda: "")
    config = quantization_config(ModelConfig(path=tmp_path, dtype="bfloat16", quantization="nf4"))
    assert config is not None
    assert (config.load_in_4bit, config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert quantization_config(ModelConfig(path=tmp_path)) is None


def test_four_bits_are_refused_where_they_cannot_be_trained_over_before_anything_is_loaded(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"model\.quantization: 4-bit weights cannot be trained.*Add model\.lora"):
        train("sft", tmp_path / "run", tiny_checkpoint, model={"lora": None, "quantization": "nf4"})
    monkeypatch.setattr(quantization, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ConfigError, match=r"model\.quantization: .*bitsandbytes is not installed here.*pip install"):
        train("sft", tmp_path / "run", tiny_checkpoint, model={"quantization": "nf4"})
    monkeypatch.setattr(quantization, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ConfigError, match=r"model\.quantization: 4-bit weights are not sharded by ZeRO-3.*--multi_gpu"):
        train("sft", tmp_path / "run", tiny_checkpoint, model={"quantization": "nf4"})


def test_a_quantized_model_is_asked_for_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from align.models.loading import load_reward_model

    monkeypatch.setattr(quantization, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(ConfigError, match=r"model\.quantization: 4-bit weights require bitsandbytes"):
        load_reward_model(ModelConfig(path="me/not-fetched", quantization="nf4"))


@pytest.mark.skipif(bool(bitsandbytes_is_missing()), reason="bitsandbytes does not run here: pip install -e '.[qlora]'")
def test_qlora_trains_over_four_bits_and_merges_into_whole_weights(
    tmp_path: Path, tiny_llama_config, chatml_tokenizer
) -> None:
    import bitsandbytes
    from transformers import LlamaForCausalLM

    from align.models.loading import load_policy, load_reward_model

    torch.manual_seed(0)
    base = tmp_path / "base"  # on a CPU bitsandbytes reads rows of whole blocks of 64 only
    shape = {**tiny_llama_config.to_dict(), "intermediate_size": 128}
    LlamaForCausalLM(type(tiny_llama_config)(**shape)).save_pretrained(base)
    chatml_tokenizer.save_pretrained(base)
    model = {"quantization": "nf4", "dtype": "bfloat16", "gradient_checkpointing": True}
    config = ModelConfig(path=base, lora=LORA, **model)
    for loaded in (load_policy(config).model, load_reward_model(config, fresh_head=True).model):
        kinds = {type(m.base_layer) for m in loaded.modules() if hasattr(m, "base_layer")}
        assert kinds == {bitsandbytes.nn.Linear4bit}
        assert {w.dtype for w in loaded.parameters() if w.requires_grad} == {torch.float32}
    done = train("sft", tmp_path / "qlora", base, model=model, precision="bf16")
    whole = metrics(train("sft", tmp_path / "lora", base, epochs=1))
    lines = metrics(done)
    assert lines[0]["loss"] == pytest.approx(whole[0]["loss"], abs=0.05), "it begins near the whole base"
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.3
    record = verify_folder(merge(done, tmp_path / "merged"))["merged"]
    assert record["trained_over"] == "nf4"
    assert record["effect_share"] < 1e-4, "into the whole base it merges exactly"
    assert 0.001 < record["moved_from_there"]["effect_share"] < 1


@pytest.mark.slow
def test_an_adapter_trained_over_four_bits_merges_where_bitsandbytes_is_not(
    tmp_path: Path, sft_adapter: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import align.models.merging as merging

    monkeypatch.setattr(merging, "bitsandbytes_is_missing", lambda: "bitsandbytes is not installed here")
    monkeypatch.setattr(merging.log, "propagate", True)
    monkeypatch.setattr(merging.log.parent, "propagate", True)
    adapter = copied(sft_adapter, tmp_path / "qlora", lambda name, tensor: tensor)
    write_folder_manifest(
        adapter, [adapter / WEIGHTS], {"config": {"model": {"quantization": "nf4", "dtype": "bfloat16"}}}
    )
    assert verify_folder(merge(adapter, tmp_path / "merged"))["merged"]["trained_over"] == "nf4"
    assert "how far the merged model lies from that is not measured: bitsandbytes is not installed" in caplog.text


# ZeRO-3


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["dpo", "reward"])
def test_zero3_on_two_processes_trains_the_adapter_that_one_process_does(
    kind: str, tmp_path: Path, sft_adapter: Path, reward_adapter: Path
) -> None:
    """Each goes on from an adapter, with the layers recomputed: DPO on pairs, the reward model with its score head."""
    begun = {"dpo": sft_adapter, "reward": reward_adapter}[kind]
    model = {"gradient_checkpointing": True}
    alone = train(kind, tmp_path / "alone", begun, model=model, epochs=2, learning_rate=1e-4)
    config = tmp_path / "run.yaml"
    config.write_text(
        f"model: {{path: {begun}, gradient_checkpointing: true, lora: {{rank: 4, alpha: 8}}}}\n"
        f"data: {{path: {tmp_path / f'{kind}-2.jsonl'}, token_budget: 256}}\n"
        f"training: {{output_dir: {tmp_path / 'sharded'}, batch_size: 8, learning_rate: 1e-4, precision: fp32, "
        "warmup_ratio: 0, epochs: 2, save_steps: 2}\n"
    )
    run([*ZERO3, f"recipes/{kind}.py", str(config)])
    margin = {"dpo": "rewards/margins", "reward": "margin"}[kind]
    for a, b in zip(metrics(alone), metrics(tmp_path / "sharded"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a[margin] == pytest.approx(b[margin], abs=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
    first, second = (load_file(folder / WEIGHTS) for folder in (alone, tmp_path / "sharded"))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    verify_folder(tmp_path / "sharded" / "checkpoint-2")
