"""Architectures against their own unmodified forward pass: each is exact under packing, or refused by its cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

import align.tree.attention
from align.errors import CheckError, ConfigError
from align.jsonl import write_rows
from align.judges.judge import ScoreRequest
from align.models import exactness
from align.models.exactness import (
    Limit,
    length_limit,
    longest_sequence,
    refuse_untrainable,
    require_open_attention,
    warn_of_untrained_positions,
)
from align.models.loading import load_policy, load_reward_model, load_tokenizer
from align.models.logps import TreePolicy, TreeScorer
from align.rows import Message, SFTRow
from align.settings import ModelConfig
from align.trainers.checks import check_packing
from align.tree.pack import collate
from tests.trees import SHORT_AND_LONG, VOCABULARY

LONGEST = 70  # tokens of the longest prompt with a completion in `SHORT_AND_LONG`

EXACT: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", {}),
    "Llama, llama3 positions": (
        "LlamaConfig",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "Llama, dynamic positions that never switch": (
        "LlamaConfig",
        {
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
            "max_position_embeddings": LONGEST,
        },
    ),
    "Qwen2": ("Qwen2Config", {}),
    "Qwen2, window longer than every row": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": LONGEST, "max_window_layers": 0},
    ),
    "Qwen3": ("Qwen3Config", {"head_dim": 8}),
    "Mistral, window longer than every row": ("MistralConfig", {"sliding_window": LONGEST}),
    "Mistral without a window": ("MistralConfig", {"sliding_window": None}),
    "Phi-3": ("Phi3Config", {"sliding_window": 2047}),
    "Gemma": ("GemmaConfig", {"head_dim": 8}),
    "Gemma 3, window longer than every row": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": LONGEST}),
    "Granite": (
        "GraniteConfig",
        {
            "logits_scaling": 8.0,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
        },
    ),
    "HyperCLOVA X": ("HyperCLOVAXConfig", {"logits_scaling": 0.5}),
    "Cohere": ("CohereConfig", {"logit_scale": 0.25}),
    "OLMo 2": ("Olmo2Config", {}),
    "SmolLM3": ("SmolLM3Config", {}),
    "GPT-NeoX": ("GPTNeoXConfig", {}),
    "GPT-2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    "Mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "DeepSeek-V3, values narrower than keys": (
        "DeepseekV3Config",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
}

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "Qwen2, window": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": LONGEST - 1, "max_window_layers": 0},
        rf"is a qwen2 model with sliding_window=69, which is smaller than a prompt .* \({LONGEST} tokens\): packed",
    ),
    "Mistral, window": ("MistralConfig", {"sliding_window": 16}, "sliding_window=16"),
    "Phi-3, window": ("Phi3Config", {"sliding_window": 16}, "sliding_window=16"),
    "Gemma 3, window": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 16}, "sliding_window=16"),
    "Cohere 2, window": ("Cohere2Config", {"sliding_window": 16}, "sliding_window=16"),
    "Llama 4, chunks": (
        "Llama4TextConfig",
        {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 16}
        | {"attn_temperature_tuning": False},
        "attention_chunk_size=16",
    ),
    "Llama 4, temperature by place": (
        "Llama4TextConfig",
        {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48, "attention_chunk_size": None},
        "attn_temperature_tuning: it scales attention by the place in the packed row",
    ),
    "Llama, dynamic positions": (
        "LlamaConfig",
        {
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
            "max_position_embeddings": 16,
        },
        "max_position_embeddings=16 of rope_type dynamic",
    ),
    "Phi-3, longrope": (
        "Phi3Config",
        {
            "sliding_window": None,
            "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 4,
                "long_factor": [3.0] * 4,
            },
        },
        "original_max_position_embeddings=16 of rope_type longrope",
    ),
    "Gemma 2": ("Gemma2Config", {"head_dim": 8}, "attn_logit_softcapping=50"),
    "Gemma 2, cap on the logits": (
        "Gemma2Config",
        {"head_dim": 8, "attn_logit_softcapping": None},
        "final_logit_softcapping=30",
    ),
    "gpt-oss": (
        "GptOssConfig",
        {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
        r"attention sinks \(model\.layers\.0\.self_attn\.sinks\)",
    ),
    "Phi-2": ("PhiConfig", {}, r"an output head of the kind Linear\(.*bias=True\)"),
    "Doge": ("DogeConfig", {}, "an attention mask of its own"),
    "LFM2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"]}, "layers of the type conv"),
    "Mamba": ("MambaConfig", {"state_size": 4}, "layers of the type linear_attention"),
    "RWKV": ("RwkvConfig", {}, "recurrent layers"),
    "BLOOM": ("BloomConfig", {"n_layer": 2, "n_head": 4}, "was called without the packed row's layout"),
    "StableLM": ("StableLmConfig", {}, "was called without the packed row's layout"),
    "Nemotron": ("NemotronConfig", {}, "was called without the packed row's layout"),
}

CLOSED = {
    "GPT-J": ("GPTJConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}),
    "Falcon": ("FalconConfig", {}),
    "BLOOM": ("BloomConfig", {"n_layer": 2, "n_head": 4}),
    "MPT": ("MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    "StableLM": ("StableLmConfig", {}),
}


def config_of(name: str, more: dict[str, Any]) -> Any:
    shared = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return getattr(transformers, name)(**{**shared, **more})


def model_of(name: str, more: dict[str, Any], attention: str = align.tree.attention.NAME) -> Any:
    """Random weights that are large enough for a wrong mask or a missing factor to show."""
    config = config_of(name, more)
    config._attn_implementation = attention
    torch.manual_seed(0)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.ndim >= 2:
                weight.normal_(std=0.3, generator=generator)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_packed_trees_give_the_log_probabilities_of_the_models_own_eager_forward(name: str) -> None:
    policy = TreePolicy(model_of(*EXACT[name]))
    own = model_of(*EXACT[name], attention="eager")
    own.load_state_dict(policy.model.state_dict())
    assert longest_sequence(SHORT_AND_LONG) == LONGEST
    with torch.no_grad():
        check_packing(policy, SHORT_AND_LONG, low_precision=False)
        packed = policy(collate(SHORT_AND_LONG))
        alone = []
        for each in SHORT_AND_LONG:
            for branch in each.branches:
                row = torch.tensor([[*each.prompt, *branch.ids]])
                logps = own(input_ids=row).logits[0].log_softmax(-1)[len(each.prompt) - 1 : -1]
                alone.append(logps.gather(1, torch.tensor(branch.ids)[:, None])[:, 0])
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-4, rtol=0)
    assert policy.model.config._attn_implementation == align.tree.attention.NAME, "set back after the proof"


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_by_its_cause(name: str) -> None:
    config, more, cause = REFUSED[name]
    with pytest.raises(ConfigError, match=rf"model\.path: .*{cause}"), torch.no_grad():
        TreePolicy(model_of(config, more))(collate(SHORT_AND_LONG))


@pytest.mark.parametrize("name", CLOSED)
def test_a_class_whose_attention_cannot_be_replaced_is_refused_before_it_is_made(name: str) -> None:
    """Newer versions of transformers open the attention of more classes. GPT-J (5.24) is refused for its head then."""
    if MODEL_FOR_CAUSAL_LM_MAPPING[type(config_of(*CLOSED[name]))].is_backend_compatible():
        assert name == "GPT-J"
        with pytest.raises(ConfigError, match=r"output head .* bias=True"):
            TreePolicy(model_of(*CLOSED[name]))
        return
    with pytest.raises(ConfigError, match=r"/m is a .* model .*transformers' AttentionInterface"):
        require_open_attention(config_of(*CLOSED[name]), "/m")


def test_such_a_checkpoint_is_refused_by_its_cause(tmp_path: Path, tiny_checkpoint: Path) -> None:
    folder = checkpoint_of(*CLOSED["Falcon"], tmp_path, tiny_checkpoint)
    with pytest.raises(
        ConfigError, match=rf"{folder} is a falcon model.* FalconForCausalLM.*packed trees need to replace it"
    ):
        load_policy(ModelConfig(path=folder))


def test_a_step_after_the_head_that_nothing_knows_stops_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Granite with its factor hidden represents the next architecture with a step of its own."""
    import align.models.logps

    monkeypatch.setattr(align.models.logps, "logit_scale", lambda model: 1.0)
    policy = TreePolicy(model_of(*EXACT["Granite"]))
    expected = r"row long: its values differ by .* from the model's own forward pass"
    with pytest.raises(CheckError, match=expected), torch.no_grad():
        check_packing(policy, SHORT_AND_LONG, low_precision=False)


def test_a_window_that_nothing_knows_is_refused_by_the_attention_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import align.models.logps

    monkeypatch.setattr(align.models.logps, "length_limit", lambda model: None)
    policy = TreePolicy(model_of(*REFUSED["Mistral, window"][:2]))
    with pytest.raises(ConfigError, match="the attention of MistralAttention has sliding_window=16"), torch.no_grad():
        policy(collate(SHORT_AND_LONG))


@pytest.mark.parametrize(
    "argument, cause",
    [
        ({"softcap": 30.0}, "attn_logit_softcapping"),
        ({"s_aux": torch.zeros(4)}, "attention sinks"),
        ({"position_bias": torch.zeros(4)}, "position_bias"),
        ({"is_causal": False}, "bidirectional attention"),
        ({"dropout": 0.1}, "attention_dropout=0.1"),
    ],
)
def test_the_attention_function_drops_no_argument(argument: dict[str, Any], cause: str) -> None:
    layout = collate(SHORT_AND_LONG).layout
    tensors = [torch.randn(1, 4, sum(tree.tokens for tree in SHORT_AND_LONG), 8) for _ in range(3)]
    for attention in (align.tree.attention.tree_attention, align.tree.attention.flex_tree_attention):
        with pytest.raises(ConfigError, match=cause):
            attention(torch.nn.Identity(), *tensors, None, tree=layout, **argument)
    align.tree.attention.tree_attention(
        torch.nn.Identity(), *tensors, None, tree=layout, sliding_window=LONGEST, softcap=None, use_cache=False
    )


def test_the_limit_is_the_smallest_of_those_that_apply() -> None:
    def limit(name: str, **more: Any) -> Limit | None:
        class Model:
            name_or_path = "m"
            config = config_of(name, more)
            named_modules = staticmethod(list)

        return length_limit(Model)

    assert limit("LlamaConfig") is None
    assert limit("Qwen2Config", sliding_window=16) is None, "use_sliding_window is false"
    assert limit("Qwen2Config", use_sliding_window=True, sliding_window=16, max_window_layers=2) is None
    found = limit("MistralConfig", sliding_window=16)
    assert found is not None
    assert (found.tokens, found.cause) == (16, "sliding_window=16")
    both = limit(
        "MistralConfig",
        sliding_window=100,
        max_position_embeddings=50,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    )
    assert both is not None
    assert both.tokens == 50


def test_rows_beyond_the_positions_that_a_model_was_made_for_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of("LlamaConfig", {"max_position_embeddings": LONGEST})
    warn_of_untrained_positions(model, SHORT_AND_LONG)
    assert not caplog.records
    model.config.max_position_embeddings = LONGEST - 1
    warn_of_untrained_positions(model, SHORT_AND_LONG)
    expected = f"the longest prompt with its completion has {LONGEST} tokens, and LlamaForCausalLM was made for at most"
    assert f"{expected} {LONGEST - 1} (max_position_embeddings)" in caplog.text


def checkpoint_of(name: str, more: dict[str, Any], folder: Path, tiny_checkpoint: Path) -> Path:
    tokenizer, _ = load_tokenizer(tiny_checkpoint)
    config = config_of(name, {"vocab_size": len(tokenizer), **more})
    MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, more, cause",
    [
        (
            "MistralConfig",
            {"sliding_window": 16},
            r"sliding_window=16, which is smaller than a prompt with its completion",
        ),
        ("LlamaConfig", {"attention_dropout": 0.1}, r"attention_dropout=0\.1.*Set attention_dropout to 0"),
        ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4}, r"attn_pdrop=0\.1"),
        (
            "GPT2Config",
            {"n_embd": 32, "n_layer": 2, "n_head": 4, "max_position_embeddings": 16, "attn_pdrop": 0},
            r"transformer\.wpe with 16 learned positions, which is smaller than a prompt",
        ),
        (
            "OPTConfig",
            {"ffn_dim": 32, "word_embed_proj_dim": 32, "max_position_embeddings": 16},
            r"model\.decoder\.embed_positions with 16 learned positions, which is smaller than",
        ),
        (
            "MixtralConfig",
            {"num_local_experts": 4, "sliding_window": None},
            r"a mixture of experts \(model\.layers\.0\.mlp\.experts\)",
        ),
    ],
)
@pytest.mark.parametrize("checks", [True, False])
def test_training_is_refused_before_its_first_step(
    name: str, more: dict[str, Any], cause: str, checks: bool, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from recipes import sft

    folder = checkpoint_of(name, more, tmp_path / "model", tiny_checkpoint)
    said = (Message(role="user", content="What is the capital of France?"), Message(role="assistant", content="Paris"))
    write_rows(tmp_path / "rows.jsonl", [SFTRow(id="r", source="t", messages=said)])
    recipe = sft.SFTRecipe(
        model={"path": folder},
        data={"path": tmp_path / "rows.jsonl"},
        training={"output_dir": tmp_path / "run", "precision": "fp32", "checks": checks},
    )
    with pytest.raises(ConfigError, match=rf"model\.path: .*{cause}"):
        sft.run(recipe)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_model_with_dropout_or_experts_may_score() -> None:
    for name, more in (("LlamaConfig", {"attention_dropout": 0.1}), EXACT["Mixtral"]):
        model = model_of(name, more)
        with torch.no_grad():
            assert TreePolicy(model)(collate(SHORT_AND_LONG)).isfinite().all()
        with pytest.raises(ConfigError):
            refuse_untrainable(model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reward", "likelihood"])
def test_a_judge_proves_its_first_row_by_the_models_own_forward(
    kind: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries halved wherever a layout is given: packed and alone agree, and both are wrong."""
    from align.judges.likelihood import LikelihoodJudge
    from align.judges.reward_model import RewardModelJudge

    _, protocol = load_tokenizer(tiny_checkpoint)
    config = ModelConfig(path=tiny_checkpoint)
    request = ScoreRequest((Message(role="user", content="Rome?"),), [(Message(role="assistant", content="Yes, so"),)])

    def judge() -> RewardModelJudge:
        if kind == "likelihood":
            made = LikelihoodJudge(load_policy(config), protocol, 512)
        else:
            made = RewardModelJudge(load_reward_model(config, fresh_head=True), protocol, 512)
        with torch.no_grad():
            for weight in made.model.parameters():
                weight.mul_(4)  # random weights of a small model attend to everything alike
        return made

    judge().score_many([request])
    honest = align.tree.attention.tree_attention

    def halved(module, query, key, value, mask, tree=None, **more):
        return honest(module, query if tree is None else query / 2, key, value, mask, tree=tree, **more)

    transformers.AttentionInterface.register(align.tree.attention.NAME, halved)
    try:
        with pytest.raises(CheckError, match=r"differ by .* from the model's own forward pass"):
            judge().score_many([request])
    finally:
        transformers.AttentionInterface.register(align.tree.attention.NAME, honest)


def test_a_class_without_a_score_head_is_no_reward_model() -> None:
    config = config_of("LlamaConfig", {})
    with pytest.raises(ConfigError, match="which has no layer `score`"):
        TreeScorer(transformers.LlamaForCausalLM(config))


def test_the_proof_cannot_run_on_our_own_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(*EXACT["Llama"])
    monkeypatch.setattr(type(model), "set_attn_implementation", lambda self, name: None)
    with pytest.raises(CheckError, match="cannot switch its attention back"), exactness.own_attention(model):
        pass
