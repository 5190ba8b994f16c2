"""The model families of docs/models.md: each one trained, sampled, merged, averaged and reloaded, against transformers.

Every family is a random model of two layers with the config class and the flags of its checkpoints. The other side of
each comparison is transformers alone: its own attention, one completion in a row, token ids from the tokenizer's
template, and losses written out from logits.
"""

from __future__ import annotations

import gc
import json
import math
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import align.manifest
from align.chat import load_protocol
from align.errors import CheckError, CheckpointError, ConfigError, RowError
from align.generation.local import LocalBackend
from align.jsonl import write_rows
from align.models.averaging import average_checkpoints
from align.models.loading import load_generator, load_policy, load_reward_model, load_tokenizer
from align.models.logps import TreePolicy
from align.models.merging import merge_adapter
from align.models.support import require_supported, require_trainable
from align.rows import Message, PreferenceRow, SFTRow
from align.settings import LoRAConfig, ModelConfig, PreferenceDataConfig, SamplingConfig, TrainingConfig, TreeDataConfig
from align.tree.encode import encode_preferences
from align.tree.pack import collate

DOCS = Path(__file__).parents[3] / "docs" / "models.md"

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2],
    "long_factor": [1.0, 3.0, 9.0],
    "partial_rotary_factor": 0.75,
}


class Family(NamedTuple):
    config: str
    flags: dict[str, Any]
    scorer: bool = True
    """Whether transformers has a class with a score head."""


FAMILIES = {
    "Llama 2": Family("LlamaConfig", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "Llama 3.1": Family("LlamaConfig", {"rope_parameters": LLAMA3_ROPE}),
    "Llama 3.2": Family("LlamaConfig", {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True, "head_dim": 16}),
    "SmolLM2": Family(
        "LlamaConfig",
        {"hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": True},
    ),
    "SmolLM3": Family("SmolLM3Config", {"tie_word_embeddings": True, "no_rope_layers": [1, 0]}),
    "Qwen2.5": Family("Qwen2Config", {"tie_word_embeddings": True, "rope_parameters": YARN, "sliding_window": 16}),
    "Qwen3": Family("Qwen3Config", {"tie_word_embeddings": True, "head_dim": 16}),
    "Mistral": Family("MistralConfig", {"sliding_window": 4096, "head_dim": 16}),
    "Phi-3": Family(
        "Phi3Config",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 4096, "sliding_window": 2047},
    ),
    "OLMo 2": Family("Olmo2Config", {"num_key_value_heads": 4}),
    "Granite": Family(
        "GraniteConfig",
        {
            "tie_word_embeddings": True,
            "logits_scaling": 8.0,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.2,
        },
        scorer=False,
    ),
    "Gemma": Family("GemmaConfig", {"num_key_value_heads": 1, "head_dim": 16}),
}


@pytest.fixture(autouse=True, scope="module")
def _no_waiting() -> Any:
    """A garbage collection before each training run, and reading the versions of libraries, take half of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda *generation: 0)
        patch.setattr(align.manifest, "versions", cache(align.manifest.versions))
        yield


def saved(config: str, flags: dict[str, Any], tokenizer: Any, folder: Path, **changed: Any) -> Path:
    """A checkpoint of random weights, large enough for a wrong mask, position or factor to show."""
    shared = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.2,
    }
    made = getattr(transformers, config)(**{**shared, **flags})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if changed:
        edit(folder, **changed)
    return folder


def edit(folder: Path, **changed: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    return folder


# The rows, and what transformers alone says of them


QUESTIONS = ["What is the capital of France?", "Is 42 a prime number, and why?", "Name a river."]
ANSWERS = [
    ("Paris, on the Seine.", "Rome"),
    ("No.", "Yes, it is: 42 = 1 * 42"),
    ("The Seine runs through Paris.", "So"),
]


def preference_rows() -> list[PreferenceRow]:
    rows = zip(QUESTIONS, ANSWERS, strict=True)
    return [
        PreferenceRow(
            id=f"r{number}",
            source="test",
            prompt=(Message(role="user", content=question),),
            completions=tuple((Message(role="assistant", content=answer),) for answer in answers),
        )
        for number, (question, answers) in enumerate(rows)
    ]


def sft_rows() -> list[SFTRow]:
    return [SFTRow(id=row.id, source="test", messages=(*row.prompt, *row.chosen)) for row in preference_rows()]


def prompt_ids(tokenizer: Any, question: str) -> list[int]:
    said = [{"role": "user", "content": question}]
    return list(tokenizer.apply_chat_template(said, add_generation_prompt=True)["input_ids"])


def plain_rows(tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """(ids of the prompt, ids of a completion) of each completion, without any code of ours."""
    return [
        (prompt_ids(tokenizer, question), [*tokenizer.encode(answer), tokenizer.eos_token_id])
        for question, answers in zip(QUESTIONS, ANSWERS, strict=True)
        for answer in answers
    ]


def plain_logps(model: Any, tokenizer: Any) -> list[torch.Tensor]:
    """Log-probabilities of each completion's tokens, one completion in a row."""
    found = []
    for prompt, answer in plain_rows(tokenizer):
        logps = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        found.append(logps[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])[:, 0])
    return found


def trained(
    kind: str, base: Path, output: Path, *, lora: LoRAConfig | None = None, learning_rate: float = 1e-2
) -> tuple[Path, float]:
    """One step of a recipe: what it wrote, and its loss."""
    from recipes import dpo, reward, sft

    recipe, section, rows = {
        "sft": (sft.SFTRecipe, TreeDataConfig, sft_rows()),
        "dpo": (dpo.DPORecipe, PreferenceDataConfig, preference_rows()),
        "reward": (reward.RewardRecipe, PreferenceDataConfig, preference_rows()),
    }[kind]
    run = {"sft": sft.run, "dpo": dpo.run, "reward": reward.run}[kind]
    data = output.parent / f"{kind}.jsonl"
    write_rows(data, rows)
    folder = run(
        recipe(
            model=ModelConfig(path=base, lora=lora),
            data=section(path=data),
            training=TrainingConfig(output_dir=output, batch_size=3, precision="fp32", learning_rate=learning_rate),
        )
    )
    [line] = (folder / "metrics.jsonl").read_text().splitlines()
    return folder, json.loads(line)["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_exact_from_the_first_step_to_the_reloaded_checkpoint(
    name: str, tmp_path: Path, chatml_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    family = FAMILIES[name]
    base = saved(family.config, family.flags, chatml_tokenizer, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)  # of the family's own class, which may split text in another way
    own = AutoModelForCausalLM.from_pretrained(base).eval()
    packed_rows_equal(base, own, tokenizer)
    greedy_completions_equal(own, load_tokenizer(base)[1], tokenizer)

    own.set_attn_implementation("eager")
    with torch.no_grad():
        logps = plain_logps(own, tokenizer)
    adapter, sft_loss = trained("sft", base, tmp_path / "sft", lora=LoRAConfig(rank=2, alpha=4))
    assert sft_loss == pytest.approx(-torch.cat(logps[::2]).mean().item(), abs=1e-4)
    policy, dpo_loss = trained("dpo", base, tmp_path / "dpo")
    nll = -torch.stack([chosen.mean() for chosen in logps[::2]]).mean().item()
    assert dpo_loss == pytest.approx(math.log(2) + 0.2 * nll, abs=1e-4)
    assert ("the longest row of" in caplog.text) == (name in ("Mistral", "Phi-3")), "where config.json has a window"
    if family.scorer:
        scorer, reward_loss = trained("reward", base, tmp_path / "reward", learning_rate=1e-9)
        assert reward_loss == pytest.approx(plain_reward_loss(scorer, tokenizer), abs=1e-4)
    else:
        with pytest.raises(ConfigError, match=r"with no reward model: .*ForSequenceClassification"):
            trained("reward", base, tmp_path / "reward")

    merged = merge_adapter(adapter, tmp_path / "merged", prompts=QUESTIONS)
    mean = average_checkpoints([merged, policy], tmp_path / "mean")
    prompt, answer = plain_rows(tokenizer)[0]
    ids = torch.tensor([prompt + answer])
    adapted, whole, average = (
        AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (adapter, merged, mean)
    )
    with torch.no_grad():
        torch.testing.assert_close(whole(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)
        assert (whole(ids).logits - own(ids).logits).abs().max() > 1e-3, "the adapter has been trained"
        one, other = (load_file(folder / "model.safetensors") for folder in (merged, policy))
        reloaded = average.state_dict()
        for place in one:
            torch.testing.assert_close(reloaded[place], (one[place] + other[place]) / 2, atol=1e-6, rtol=1e-5)
        ours = load_policy(ModelConfig(path=mean)).eval()(collate(trees_of(mean)))
        torch.testing.assert_close(ours, torch.cat(plain_logps(average, tokenizer)), atol=1e-4, rtol=1e-4)


def test_the_documented_table_has_the_tested_families() -> None:
    rows = [line.split(" | ") for line in DOCS.read_text(encoding="utf-8").splitlines() if "Config` |" in line]
    documented = {row[0].removeprefix("| "): row[1].strip("`") for row in rows}
    assert documented == {name: family.config for name, family in FAMILIES.items()}
    without = {row[0].removeprefix("| ") for row in rows if row[4] == "**no**"}
    assert without == {name for name, family in FAMILIES.items() if not family.scorer}


def trees_of(folder: Path) -> list[Any]:
    from collections import Counter

    _, protocol = load_tokenizer(folder)
    return list(encode_preferences(preference_rows(), protocol, PreferenceDataConfig(path=folder), dropped=Counter()))


def packed_rows_equal(base: Path, own: Any, tokenizer: Any) -> None:
    """Values and gradients of the packed trees, against the model's own attention with a row for each completion."""
    policy = load_policy(ModelConfig(path=base))
    logps = policy(collate(trees_of(base)))
    weights = torch.linspace(-1, 1, len(logps))
    (logps * weights).sum().backward()
    ours = {name: weight.grad for name, weight in policy.model.named_parameters()}
    for kind in ("sdpa", "eager"):
        own.set_attn_implementation(kind)
        own.zero_grad()
        expected = torch.cat(plain_logps(own, tokenizer))
        torch.testing.assert_close(logps, expected, atol=1e-4, rtol=1e-5, msg=lambda text, kind=kind: f"{kind}: {text}")
        (expected * weights).sum().backward()
        gradients = {name: weight.grad for name, weight in own.named_parameters()}
        assert gradients.keys() == ours.keys()
        for name, gradient in gradients.items():
            gap = (ours[name] - gradient).norm()
            assert gap <= 1e-4 * gradient.norm() + 1e-6, f"{kind}: gradient of {name}"


def greedy_completions_equal(own: Any, protocol: Any, tokenizer: Any) -> None:
    """Continuous batching, in which rows come and go, against `generate` with one prompt at a time."""
    prompts = [prompt_ids(tokenizer, question) for question in QUESTIONS]
    sampling = SamplingConfig(temperature=0, max_completion_tokens=6, batch_size=2, dtype="float32")
    found = LocalBackend(own, protocol, sampling).complete(prompts, [[0]] * len(prompts))
    for prompt, [completion] in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": list(protocol.stop_ids)}
        out = own.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=tokenizer.pad_token_id, **settings)
        assert list(completion.ids) == out[0, len(prompt) :].tolist()


def plain_reward_loss(scorer: Path, tokenizer: Any) -> float:
    """The mean ranking loss, from transformers' own scores of one completion in a row."""
    model = AutoModelForSequenceClassification.from_pretrained(scorer, attn_implementation="eager").eval()
    with torch.no_grad():
        scores = [model(input_ids=torch.tensor([prompt + answer])).logits for prompt, answer in plain_rows(tokenizer)]
    return -logsigmoid(torch.cat(scores[::2]) - torch.cat(scores[1::2])).mean().item()


# What is refused, by config.json alone: the folders below hold no weights

PACKED = ("training", "scoring")
EVERY_USE = (*PACKED, "generation")
EXPERTS = {"num_experts_per_tok": 2}

REFUSED: dict[str, tuple[str, dict[str, Any], tuple[str, ...], str]] = {
    "Gemma 2": ("Gemma2Config", {}, PACKED, r"is a gemma2 model with attn_logit_softcapping=50: packed trees attend"),
    "Gemma 2, last cap": (
        "Gemma2Config",
        {"attn_logit_softcapping": None},
        PACKED,
        r"is a gemma2 model with final_logit_softcapping=30: log-probabilities",
    ),
    "gpt-oss": (
        "GptOssConfig",
        {**EXPERTS, "num_local_experts": 4, "layer_types": ["full_attention"] * 2},
        PACKED,
        r"is a gpt_oss model with attention sinks \(model\.layers\.0\.self_attn\.sinks\)",
    ),
    "Qwen3-MoE": (
        "Qwen3MoeConfig",
        {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 16},
        ("training",),
        r"is a qwen3_moe model with a mixture of experts \(model\.layers\.0\.mlp\.experts\): its router's",
    ),
    "Mixtral": (
        "MixtralConfig",
        {**EXPERTS, "num_local_experts": 4},
        ("training",),
        r"is a mixtral model with a mixture of experts",
    ),
    "Granite-MoE": (
        "GraniteMoeConfig",
        {**EXPERTS, "num_local_experts": 4},
        ("training",),
        r"is a granitemoe model with a mixture of experts",
    ),
    "heads for further tokens": (
        "LlamaConfig",
        {"num_nextn_predict_layers": 1},
        ("training",),
        r"is a llama model with num_nextn_predict_layers=1: heads that predict further tokens .*set .* to 0",
    ),
    "dropout in attention": (
        "LlamaConfig",
        {"attention_dropout": 0.1},
        ("training",),
        r"is a llama model with attention_dropout=0\.1: .*Set attention_dropout to 0",
    ),
    "T5": ("T5Config", {"num_layers": 1, "num_heads": 2}, EVERY_USE, r"is a t5 model with an encoder and a decoder"),
    "BART": ("BartConfig", {"d_model": 32}, EVERY_USE, r"is a bart model with an encoder and a decoder"),
    "BERT": ("BertConfig", {}, EVERY_USE, r"is a bert model with bidirectional attention \(bert\."),
    "RemBERT": ("RemBertConfig", {}, ("generation",), r"is a rembert model with bidirectional .*is_decoder=false"),
    "Qwen2-VL": ("Qwen2VLConfig", {}, EVERY_USE, r"is a qwen2_vl model with parts for images or sound: .*text-only"),
    "LLaVA": ("LlavaConfig", {}, EVERY_USE, r"is a llava model with parts for images or sound"),
    "Gemma 3 with images": ("Gemma3Config", {}, EVERY_USE, r"is a gemma3 model with parts for images or sound"),
    "CLIP": ("CLIPTextConfig", {}, EVERY_USE, r"is a clip_text_model model with "),
    "Mamba": (
        "MambaConfig",
        {"state_size": 4},
        EVERY_USE,
        r"is a mamba model with layers of the type linear_attention",
    ),
    "Jamba": (
        "JambaConfig",
        {**EXPERTS, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
        EVERY_USE,
        r"is a jamba model with (layers of the type|recurrent layers|a class)",
    ),
    "Qwen3-Next": (
        "Qwen3NextConfig",
        {**EXPERTS, "num_experts": 4, "layer_types": ["linear_attention", "full_attention"]},
        EVERY_USE,
        r"is a qwen3_next model with layers of the type linear_attention",
    ),
    "RWKV": ("RwkvConfig", {"attention_hidden_size": 32}, EVERY_USE, r"is a rwkv model with "),
    "BLOOM": ("BloomConfig", {"n_layer": 2, "n_head": 4}, ("generation",), r"with a forward pass without position_ids"),
    "BLOOM, packed": ("BloomConfig", {"n_layer": 2, "n_head": 4}, PACKED, r"is a bloom model with a class, Bloom"),
    "code in place of Llama's": (
        "LlamaConfig",
        {"auto_map": {"AutoModelForCausalLM": "modeling_new.NewForCausalLM"}},
        EVERY_USE,
        r"is a llama model with code of its own \(auto_map: modeling_new\.NewForCausalLM\)",
    ),
}


def described(config: str, more: dict[str, Any], folder: Path) -> Path:
    """A folder with config.json and nothing else."""
    shared = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    folder.mkdir()
    kind = getattr(transformers, config)
    wraps = "text_config" in kind.sub_configs or "text_config" in getattr(kind, "__annotations__", {})
    kind(**({} if wraps else shared), **more).save_pretrained(folder)
    return edit(folder, **more)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_from_config_json_alone(name: str, tmp_path: Path) -> None:
    config, more, refused, message = REFUSED[name]
    folder = described(config, more, tmp_path / "model")
    for use in EVERY_USE:
        if use in refused:
            with pytest.raises(ConfigError, match=rf"^model\.path: {folder} .*{message}") as caught:
                require_supported(folder, use)
            assert "  " not in str(caught.value)
        elif refused == ("training",) or name.startswith(("Gemma 2", "gpt-oss")):
            require_supported(folder, use)


def test_every_way_to_a_model_refuses_before_it_looks_for_weights(tmp_path: Path) -> None:
    folder = described(*REFUSED["Mamba"][:2], tmp_path / "mamba")
    for load in (
        lambda: load_policy(ModelConfig(path=folder)),
        lambda: load_reward_model(ModelConfig(path=folder), fresh_head=True),
        lambda: load_generator(folder),
        lambda: require_trainable(ModelConfig(path=folder)),
    ):
        with pytest.raises(ConfigError, match="is a mamba model with"):
            load()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    with pytest.raises(ConfigError, match=rf"model\.path: {folder} is a mamba model with"):
        require_supported(adapter, "scoring")


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8"])
def test_quantized_weights_are_refused_before_they_are_looked_for(method: str, tmp_path: Path) -> None:
    folder = described("LlamaConfig", {}, tmp_path / "model")
    edit(folder, quantization_config={"quant_method": method})
    with pytest.raises(CheckpointError, match=rf"the weights are quantized \(quantization_config: {method}\)"):
        load_policy(ModelConfig(path=folder))


def test_a_model_that_transformers_has_no_class_for_is_refused(tmp_path: Path) -> None:
    folder = described("LlamaConfig", {}, tmp_path / "model")
    edit(folder, model_type="chatglm", auto_map={"AutoConfig": "configuration_chatglm.ChatGLMConfig"})
    for use in EVERY_USE:
        with pytest.raises(
            CheckpointError, match=r"has the model_type 'chatglm', .* and its own code, which is never run"
        ):
            require_supported(folder, use)


def test_code_that_transformers_has_since_is_not_needed(tmp_path: Path) -> None:
    """Phi-3's checkpoints on the Hub name code in auto_map under the names of transformers' own classes."""
    code = {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}
    folder = described("Phi3Config", {"auto_map": code, "pad_token_id": 0}, tmp_path / "phi")
    assert type(require_supported(folder, "training")).__name__ == "Phi3ForCausalLM"


@pytest.mark.parametrize(
    "config, more, cause",
    [
        ("MistralConfig", {"sliding_window": 16}, r"is a mistral model with sliding_window=16"),
        (
            "Gemma3TextConfig",
            {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
            r"is a gemma3_text model with sliding_window=16",
        ),
        (
            "Qwen2Config",
            {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
            r"is a qwen2 model with sliding_window=16",
        ),
        (
            "LlamaConfig",
            {
                "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
                "max_position_embeddings": 16,
            },
            r"is a llama model with max_position_embeddings=16 of rope_type dynamic",
        ),
        (
            "Phi3Config",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                },
                "original_max_position_embeddings": 16,
                "sliding_window": None,
                "pad_token_id": 0,
            },
            r"is a phi3 model with original_max_position_embeddings=16 of rope_type longrope",
        ),
    ],
)
def test_rows_longer_than_a_window_are_refused_before_weights_are_read(
    config: str, more: dict[str, Any], cause: str, tmp_path: Path, chatml_tokenizer: Any
) -> None:
    folder = described(config, more, tmp_path / "model")
    edit(folder, vocab_size=len(chatml_tokenizer))
    chatml_tokenizer.save_pretrained(folder)
    save_file({"no.weight.of.this.model": torch.zeros(1)}, folder / "model.safetensors")  # reading it would fail
    rows = plain_rows(AutoTokenizer.from_pretrained(folder))
    longest = max(len(prompt + answer) for prompt, answer in rows)
    expected = rf"{cause}, which is smaller than a prompt with its completion \({longest} tokens\): .*Lower data\."
    with pytest.raises(ConfigError, match=expected):
        trained("dpo", folder, tmp_path / "run")


# Generation: what training refuses is sampled exactly, or refused too


def sampled(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    _, protocol = load_tokenizer(folder)
    sampling = SamplingConfig(temperature=0, max_completion_tokens=8, batch_size=2, dtype="float32")
    found = LocalBackend(load_generator(folder, "float32"), protocol, sampling).complete(prompts, [[0]] * len(prompts))
    return [list(completion.ids) for [completion] in found]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, flags, own",
    [
        ("MistralConfig", {"sliding_window": 5}, "sdpa"),
        (
            "Gemma3TextConfig",
            {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 8},
            "sdpa",
        ),
        ("Gemma2Config", {"head_dim": 8, "attn_logit_softcapping": 2.0, "sliding_window": 5}, "eager"),
        ("GptOssConfig", {**EXPERTS, "num_local_experts": 4, "head_dim": 8, "sliding_window": 5}, "eager"),
    ],
)
def test_windows_caps_and_sinks_are_sampled_as_the_model_computes_them(
    config: str, flags: dict[str, Any], own: str, tmp_path: Path, chatml_tokenizer: Any
) -> None:
    folder = saved(config, flags, chatml_tokenizer, tmp_path / "model")
    assert load_generator(folder, "float32").config._attn_implementation == own
    prompts = [prompt_ids(chatml_tokenizer, question) for question in QUESTIONS]
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    for prompt, found in zip(prompts, sampled(folder, prompts), strict=True):
        ids = list(prompt)
        for token in found:  # the whole row each time, without a cache
            with torch.no_grad():
                assert token == model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item()
            ids.append(token)


def test_prompts_stay_below_a_switch_of_positions(tmp_path: Path, chatml_tokenizer: Any) -> None:
    """One row beyond the switch would change the positions of all rows of the batch."""
    flags = FAMILIES["Phi-3"].flags | {"original_max_position_embeddings": 40, "max_position_embeddings": 400}
    folder = saved("Phi3Config", flags, chatml_tokenizer, tmp_path / "model")
    expected = r"has 33 tokens; at most 32 leave .*original_max_position_embeddings=40 of rope_type longrope: beyond it"
    with pytest.raises(RowError, match=expected):
        sampled(folder, [[5] * 33])
    assert sampled(folder, [[5] * 32])


def test_a_model_without_a_cache_is_refused(chatml_tokenizer: Any) -> None:
    config = transformers.OpenAIGPTConfig(vocab_size=len(chatml_tokenizer), n_embd=32, n_layer=1, n_head=2)
    sampling = SamplingConfig(temperature=0, max_completion_tokens=4, dtype="float32")
    model = transformers.OpenAIGPTLMHeadModel(config)
    with pytest.raises(ConfigError, match=r"is an openai-gpt model with no cache of keys and values: a decoding step"):
        LocalBackend(model, load_protocol(chatml_tokenizer), sampling).complete([[5, 6]], [[0]])


# The check of the longest row


def test_a_window_of_an_unknown_kind_is_found_on_the_longest_row(
    tmp_path: Path, chatml_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Mistral whose window is known neither to exactness.py nor to the attention function."""
    import align.models.logps
    import align.tree.attention
    from align.models.exactness import local_settings
    from align.trainers.checks import check_longest_row, check_packing
    from tests.trees import tree_of

    monkeypatch.setattr(align.models.logps, "length_limit", lambda model: None)
    monkeypatch.setattr(align.tree.attention, "_check", lambda *arguments: arguments[4].reached.add("MistralAttention"))
    folder = saved("MistralConfig", {"sliding_window": 300}, chatml_tokenizer, tmp_path / "model")
    policy: TreePolicy = load_policy(ModelConfig(path=folder)).eval()
    trees = [tree_of("short", 20, 9, 8), tree_of("long", 300, 4, 40)]
    settings = local_settings(policy.config)
    assert settings == ["sliding_window=300"]
    with torch.no_grad():
        check_packing(policy, trees, low_precision=False)
        with pytest.raises(CheckError, match=r"row long: .* from the model's own forward pass"):
            check_longest_row(policy, trees, settings, low_precision=False)
        check_longest_row(policy, trees[:1], settings, low_precision=False)


def test_fields_that_may_limit_attention_are_known_by_name() -> None:
    from align.models.exactness import local_settings

    assert local_settings(transformers.LlamaConfig()) == []
    assert local_settings(transformers.Qwen2Config()) == [], "use_sliding_window is false"
    assert local_settings(transformers.MistralConfig()) == ["sliding_window=4096"]
    assert local_settings(transformers.LlamaConfig(attention_window_size=64)) == ["attention_window_size=64"]
