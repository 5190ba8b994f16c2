"""Adapters made with peft, attached in memory in every way that there is here: exactly, or refused by cause."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from align.errors import AlignError, CheckError, CheckpointError, ConfigError
from align.models import adapters
from align.models.loading import load_generator, load_policy, load_reward_model
from align.models.merging import merge_adapter
from align.settings import LoRAConfig, ModelConfig
from tests.adapters import save_adapter

WEIGHTS = "adapter_model.safetensors"
PROMPTS = ("What is the capital of France?",)


@pytest.fixture(scope="module", params=["tied", "untied"])
def base(request: pytest.FixtureRequest, chatml_tokenizer: Any, tiny_llama_config: Any, tmp_path_factory: Any) -> Path:
    """A two-layer policy; read it only."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp(request.param)
    settings = {**tiny_llama_config.to_dict(), "tie_word_embeddings": request.param == "tied"}
    torch.manual_seed(3)
    LlamaForCausalLM(type(tiny_llama_config)(**settings)).save_pretrained(folder)
    chatml_tokenizer.save_pretrained(folder)
    return folder


def adapter(base: Path, folder: Path, tokenizer: Any, ids: torch.Tensor, **lora: Any) -> torch.Tensor:
    """Save an adapter with noise in all that it trains; returns what peft's own model computes with it."""
    model = save_adapter(base, folder, tokenizer, **lora)
    with torch.no_grad():
        return model(ids).logits


def sampled(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    return load_generator(folder, "float32")(ids).logits


def scored(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """As log-probabilities are computed: the trunk's states and the head's own weight. What a run without lora saves at
    once, before any step, is the same model.
    """
    model = load_policy(ModelConfig(path=folder)).model
    logits = model.base_model(ids)[0] @ model.get_output_embeddings().weight.T
    model.save_pretrained(folder.with_name("whole"))
    saved = AutoModelForCausalLM.from_pretrained(folder.with_name("whole"))(ids).logits
    torch.testing.assert_close(saved, logits, atol=1e-5, rtol=1e-5)
    return logits


def merged(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    whole = merge_adapter(folder, folder.with_name("merged"), prompts=PROMPTS, dtype="float32")
    return AutoModelForCausalLM.from_pretrained(whole)(ids).logits


ATTACH: list[Callable[[Path, torch.Tensor], torch.Tensor]] = [sampled, scored, merged]
EVERYWHERE = ["q_proj", "embed_tokens", "lm_head"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 3}},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["norm"]},
        {"trainable_token_indices": [0, 5]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": EVERYWHERE},
        {"target_modules": EVERYWHERE, "ensure_weight_tying": True},
        {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]},
    ],
    ids=str,
)
@torch.no_grad()
def test_an_adapter_is_attached_exactly_or_refused(
    lora: dict[str, Any], base: Path, tmp_path: Path, chatml_tokenizer: Any
) -> None:
    ids = torch.tensor([chatml_tokenizer("The capital of France is Paris, and the river").input_ids])
    expected = adapter(base, tmp_path / "adapter", chatml_tokenizer, ids, **lora)
    tied = json.loads((base / "config.json").read_text())["tie_word_embeddings"]
    low_rank = set(lora.get("target_modules", ())) & {"embed_tokens", "lm_head"}
    for attach in ATTACH:
        if tied and low_rank:
            with pytest.raises(
                CheckpointError, match=r"adapter: adapts \w+, whose weight \w+ uses too \(tied embeddings\)"
            ):
                attach(tmp_path / "adapter", ids)
        else:
            found = attach(tmp_path / "adapter", ids)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=lambda m, a=attach: f"{a}: {m}")


@pytest.fixture
def policy_adapter(tiny_checkpoint: Path, tmp_path: Path, chatml_tokenizer: Any) -> Path:
    adapter(tiny_checkpoint, tmp_path / "adapter", chatml_tokenizer, torch.tensor([[5, 6, 7]]))
    return tmp_path / "adapter"


@pytest.mark.slow
@pytest.mark.parametrize(
    "lora, message",
    [
        ({"target_modules": ["q_proj", "lm_head"]}, r"model\.lora: has rank 4.*\(q_proj\), and the adapter.*lm_head"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, r"model\.lora: has rank 4.*and the adapter.*embed_tokens"),
        ({"modules_to_save": ["lm_head"]}, r"adapter: adapts the output head \(ModulesToSaveWrapper\).*Merge it first"),
    ],
    ids=str,
)
def test_an_adapter_of_the_head_is_not_trained_on(
    lora: dict[str, Any], message: str, tiny_checkpoint: Path, tmp_path: Path, chatml_tokenizer: Any
) -> None:
    adapter(tiny_checkpoint, tmp_path / "adapter", chatml_tokenizer, torch.tensor([[5, 6, 7]]), **lora)
    ours = LoRAConfig(rank=4, alpha=8, targets=("q_proj",))
    with pytest.raises(AlignError, match=message):
        load_policy(ModelConfig(path=tmp_path / "adapter", lora=ours))


@pytest.mark.slow
def test_an_adapter_that_is_trained_on_computes_what_peft_computes(
    tiny_checkpoint: Path, tmp_path: Path, chatml_tokenizer: Any
) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    expected = adapter(tiny_checkpoint, tmp_path / "adapter", chatml_tokenizer, ids)
    model = load_policy(
        ModelConfig(path=tmp_path / "adapter", lora=LoRAConfig(rank=4, alpha=8, targets=("q_proj",)))
    ).model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)
    adapters.save(model, tmp_path / "saved")
    recorded = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(recorded).is_absolute()
    assert Path(recorded).samefile(tiny_checkpoint), "peft loads it from any working folder"


@pytest.mark.slow
def test_a_saved_adapter_has_the_bytes_that_transformers_writes(
    tiny_checkpoint: Path, policy_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a policy's adapter and of a reward model's, whose score head is saved whole."""
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "0.1.0")  # it may be above the newest peft
    lora = LoRAConfig(rank=4, alpha=8, targets=("q_proj",))
    policy = load_policy(ModelConfig(path=policy_adapter, lora=lora)).model
    scorer = load_reward_model(ModelConfig(path=tiny_checkpoint, lora=lora), fresh_head=True).model
    for name, model in (("policy", policy), ("scorer", scorer)):
        ours, theirs = tmp_path / name / "ours", tmp_path / name / "theirs"
        adapters.save(model, ours)
        model.save_pretrained(theirs)
        written = {file.name: file.read_bytes() for file in theirs.iterdir()}
        assert {"adapter_config.json", WEIGHTS} <= written.keys()
        assert {file.name: file.read_bytes() for file in ours.iterdir()} == written


@pytest.mark.slow
def test_a_wrong_merge_in_memory_is_found(policy_adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.tuners.lora import Linear

    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: torch.zeros_like(self.base_layer.weight))
    for load in (
        lambda: load_generator(policy_adapter, "float32"),
        lambda: load_policy(ModelConfig(path=policy_adapter)),
    ):
        with pytest.raises(CheckError, match=r"adapter: merging the adapter in memory moves an output by \d"):
            load()


@pytest.mark.slow
def test_an_adapter_is_opened_as_what_it_is(
    tiny_checkpoint: Path, tmp_path: Path, policy_adapter: Path, chatml_tokenizer: Any
) -> None:
    ids = torch.tensor([[5, 6, 7]])
    scorer = tmp_path / "scorer"
    adapter(tiny_checkpoint, scorer, chatml_tokenizer, ids, task_type="SEQ_CLS", modules_to_save=["score"])
    for load in (lambda: load_generator(scorer, "float32"), lambda: load_policy(ModelConfig(path=scorer))):
        with pytest.raises(
            CheckpointError, match=r"scorer: is the adapter of a reward model \(it holds score\.weight\)"
        ):
            load()
    one, two = (load_reward_model(ModelConfig(path=scorer), seed=seed).model.score.weight for seed in (0, 1))
    assert torch.equal(one, two), "the head is the adapter's"
    with pytest.raises(
        CheckpointError, match=r"adapter: has no reward head: neither the adapter nor its base .* holds"
    ):
        load_reward_model(ModelConfig(path=policy_adapter))
    load_reward_model(ModelConfig(path=policy_adapter), fresh_head=True)


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


A0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(A0), rf"adapter: tensor {A0} has the shape None, expected \[4, 64\]"),
        (lambda t: t.update(extra=torch.zeros(2)), r"adapter: tensor extra has the shape \[2\], expected None"),
        (lambda t: t.update({A0: torch.zeros(4, 63)}), r"adapter: cannot be put on its base by peft"),
        (lambda t: t[A0].fill_(float("nan")), rf"{WEIGHTS}: tensor {A0} holds values that are not finite"),
    ],
)
def test_a_damaged_adapter_is_refused_by_tensor_wherever_it_is_attached(
    change: Callable[[dict[str, torch.Tensor]], Any], message: str, policy_adapter: Path
) -> None:
    rewritten(policy_adapter, change)
    for load in (
        lambda: load_generator(policy_adapter, "float32"),
        lambda: load_policy(ModelConfig(path=policy_adapter)),
    ):
        with pytest.raises(CheckpointError, match=message):
            load()


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, content, message",
    [
        (WEIGHTS, b"", rf"{WEIGHTS}: is not a whole safetensors file of 0 bytes"),
        (WEIGHTS, None, rf"adapter: holds no {WEIGHTS}"),
        ("adapter_config.json", b"{oops", r"adapter_config\.json: cannot be read as JSON"),
        ("adapter_config.json", b"{}", r"adapter: adapter_config\.json names no base model"),
        ("adapter_config.json", b'{"peft_type": "IA3"}', r"adapter: holds an adapter of peft's kind IA3"),
    ],
)
def test_a_damaged_adapter_folder_is_one_message(
    file: str, content: bytes | None, message: str, policy_adapter: Path
) -> None:
    (policy_adapter / file).unlink() if content is None else (policy_adapter / file).write_bytes(content)
    for load in (
        lambda: load_generator(policy_adapter, "float32"),
        lambda: load_reward_model(ModelConfig(path=policy_adapter)),
        lambda: merge_adapter(policy_adapter, policy_adapter.with_name("out"), prompts=PROMPTS),
    ):
        with pytest.raises(CheckpointError, match=message):
            load()


# Merging onto disk


@pytest.mark.parametrize("output", ["base", "base/out", "adapter", "adapter/out", "."])
def test_merging_into_the_base_or_the_adapter_is_refused(
    output: str, tiny_checkpoint: Path, tmp_path: Path, chatml_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    adapter(base, tmp_path / "adapter", chatml_tokenizer, torch.tensor([[5, 6, 7]]))
    before = (base / "model.safetensors").read_bytes()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"output_dir: .*, which is read\. Name a folder of its own"):
        merge_adapter(tmp_path / "adapter", Path(output), prompts=PROMPTS, dtype="float32")
    assert (base / "model.safetensors").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"base", "adapter"}


@pytest.mark.slow
def test_a_merged_manifest_names_no_place_of_this_machine(policy_adapter: Path, tmp_path: Path) -> None:
    whole = merge_adapter(policy_adapter, tmp_path / "whole", prompts=PROMPTS, dtype="float32")
    assert str(tmp_path) not in (whole / "MANIFEST.json").read_text()


def test_an_adapter_that_is_not_there_is_named_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter: there is no folder .*gone\. Name a checkpoint folder that exists"):
        merge_adapter(tmp_path / "gone", tmp_path / "out", prompts=PROMPTS)


@pytest.mark.slow
def test_what_peft_cannot_merge_is_one_message(tiny_checkpoint: Path, chatml_tokenizer: Any, tmp_path: Path) -> None:
    folder, ids = tmp_path / "adapter", torch.arange(10, 40)[None]
    adapter(tiny_checkpoint, folder, chatml_tokenizer, ids, lora_bias=True)
    for attach in (sampled, merged):
        with pytest.raises(CheckpointError, match=r"adapter: cannot be merged by peft \(.*lora_bias"):
            attach(folder, ids)


@pytest.mark.slow
def test_an_adapter_without_a_head_on_a_reward_model_is_merged_into_a_reward_model(
    tiny_reward_checkpoint: Path, chatml_tokenizer: Any, tmp_path: Path
) -> None:
    folder, ids = tmp_path / "adapter", torch.arange(10, 40)[None]
    expected = adapter(tiny_reward_checkpoint, folder, chatml_tokenizer, ids, task_type=None)
    with torch.no_grad():
        whole = merge_adapter(folder, tmp_path / "merged", prompts=PROMPTS, dtype="float32")
        found = AutoModelForSequenceClassification.from_pretrained(whole)(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
