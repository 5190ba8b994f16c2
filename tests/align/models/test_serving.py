"""What saved checkpoints say to other software, as plain transformers reads it: stop ids, padding, reward scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    pipeline,
)

from align.chat import load_protocol
from align.jsonl import write_rows
from align.manifest import verify_folder
from align.models.averaging import average_checkpoints
from align.models.loading import load_reward_model, load_tokenizer
from align.models.merging import merge_adapter
from align.models.serving import write_serving_files, write_serving_files_of_average
from align.rows import Message, PreferenceRow, SFTRow
from align.settings import DPOConfig, LoRAConfig, ModelConfig, PreferenceDataConfig, TrainingConfig, TreeDataConfig

SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05}
QUESTIONS = {"capital?": "Paris.", "river?": "the Seine"}
END = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>"}
END_OF_TEXT = {"chatml": "<|endoftext|>", "llama3": "<|end_of_text|>"}


def base(tokenizer: Any, folder: Path, *, generation: dict | None = None, **config: Any) -> Path:
    """A base model as published: its eos is the end of a document, and it has no pad token and no chat template."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT[load_protocol(tokenizer).name])
    settings = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        **{"bos_token_id": tokenizer.bos_token_id, "eos_token_id": end, "pad_token_id": None} | config,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    said = json.loads((folder / "tokenizer_config.json").read_text())
    said = {key: value for key, value in said.items() if key != "pad_token"}
    said["eos_token"] = END_OF_TEXT[load_protocol(tokenizer).name]
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "generation_config.json").unlink()
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end} | generation))
    return folder


@pytest.fixture(scope="module", params=["chatml", "llama3"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"{request.param}_tokenizer")


def training(output: Path, **changed: Any) -> TrainingConfig:
    settings = {"batch_size": 2, "epochs": 30, "learning_rate": 1e-2, "precision": "fp32", "checks": False}
    return TrainingConfig(output_dir=output, **settings | changed)


def train_sft(start: Path, output: Path, tmp_path: Path, lora: LoRAConfig | None = None, **changed: Any) -> Path:
    from recipes.sft import SFTRecipe, run

    rows = [
        SFTRow(
            id=asked,
            source="test",
            messages=(Message(role="user", content=asked), Message(role="assistant", content=said)),
        )
        for asked, said in QUESTIONS.items()
    ]
    write_rows(tmp_path / "sft.jsonl", rows)
    data = TreeDataConfig(path=tmp_path / "sft.jsonl", token_budget=512)
    model = ModelConfig(path=start, lora=lora)
    return run(SFTRecipe(model=model, data=data, training=training(output, **changed)))


def preferences(tmp_path: Path) -> Path:
    rows = [
        PreferenceRow(
            id=asked,
            source="test",
            prompt=(Message(role="user", content=asked),),
            completions=((Message(role="assistant", content=said),), (Message(role="assistant", content="No idea"),)),
        )
        for asked, said in QUESTIONS.items()
    ]
    write_rows(tmp_path / "pairs.jsonl", rows)
    return tmp_path / "pairs.jsonl"


def train_dpo(start: Path, output: Path, tmp_path: Path) -> Path:
    from recipes.dpo import DPORecipe, run

    return run(
        DPORecipe(
            model=ModelConfig(path=start),
            data=PreferenceDataConfig(path=preferences(tmp_path), token_budget=512),
            dpo=DPOConfig(),
            training=training(output, epochs=2, learning_rate=1e-4),
        )
    )


def answers(folder: Path, **more: Any) -> dict[str, str]:
    """What plain `generate` says to each question, special tokens included."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = {}
    for asked in QUESTIONS:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        said = model.generate(**ids, max_new_tokens=24, do_sample=False, **more)[0, ids["input_ids"].shape[1] :]
        found[asked] = tokenizer.decode(said)
    return found


def assert_it_stops(folder: Path, *, in_a_pipeline: bool = False) -> None:
    protocol = load_tokenizer(folder)[1]
    end = END[protocol.name]
    said = answers(folder)
    assert all(text.endswith(end) and text.count(end) == 1 for text in said.values()), said
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == end
    assert tokenizer.pad_token not in (None, end)
    assert tokenizer.chat_template == protocol.chat_template
    for config in (AutoConfig.from_pretrained(folder), GenerationConfig.from_pretrained(folder)):
        assert set(protocol.stop_ids) <= set(config.eos_token_id)
        assert config.pad_token_id == tokenizer.pad_token_id
    verify_folder(folder)
    if in_a_pipeline:
        write = pipeline("text-generation", model=str(folder), device="cpu")
        dialogs = [[{"role": "user", "content": asked}] for asked in QUESTIONS]
        found = write(dialogs, max_new_tokens=24, do_sample=False, batch_size=2)
        texts = [each[0]["generated_text"][-1]["content"] + end for each in found]
        assert texts == list(said.values())


@pytest.mark.slow
@pytest.mark.parametrize("generation", [SAMPLING, None])
def test_a_base_stops_when_served_after_each_stage(
    generation: dict | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """generation: the base's generation_config.json; None for a base without one."""
    name = "chatml" if generation else "llama3"
    tokenizer = request.getfixturevalue(f"{name}_tokenizer")
    start = base(tokenizer, tmp_path / "base", generation=generation)
    sft = train_sft(start, tmp_path / "sft", tmp_path, save_steps=20)
    assert_it_stops(sft, in_a_pipeline=True)
    assert_it_stops(sft / "checkpoint-20")  # trained, but never finished
    dpo = train_dpo(sft, tmp_path / "dpo", tmp_path)
    assert_it_stops(dpo)
    mean = average_checkpoints([dpo, sft], tmp_path / "mean", (0.25, 0.75))
    assert_it_stops(mean)
    for folder in (sft, sft / "checkpoint-20", dpo, mean):
        said = json.loads((folder / "generation_config.json").read_text())
        assert (generation or {}).items() <= said.items()
        assert tokenizer.convert_tokens_to_ids(END_OF_TEXT[name]) in said["eos_token_id"]


@pytest.mark.slow
def test_an_adapter_says_where_to_stop_and_its_merge_stops(llama3_tokenizer: Any, tmp_path: Path) -> None:
    start = base(llama3_tokenizer, tmp_path / "base")
    lora = LoRAConfig(rank=16, alpha=64)
    adapter = train_sft(start, tmp_path / "adapter", tmp_path, lora=lora)
    said = answers(adapter, generation_config=GenerationConfig.from_pretrained(adapter))
    end = END["llama3"]
    assert all(text.count(end) == 1 and text.endswith(end) for text in said.values())
    merged = merge_adapter(adapter, tmp_path / "merged", prompts=list(QUESTIONS))
    assert answers(merged) == said
    assert AutoTokenizer.from_pretrained(merged).eos_token == end


@pytest.mark.slow
def test_an_average_that_begins_with_a_base_has_the_files_of_the_trained_one(tokenizer: Any, tmp_path: Path) -> None:
    start = base(tokenizer, tmp_path / "base", generation=SAMPLING)
    trained = tmp_path / "trained"
    shutil.copytree(start, trained)
    protocol = load_tokenizer(start)[1]
    write_serving_files(trained, protocol)
    mean = average_checkpoints([start, trained], tmp_path / "mean")
    found = AutoTokenizer.from_pretrained(mean)
    assert (found.chat_template, found.eos_token) == (protocol.chat_template, END[protocol.name])
    assert set(GenerationConfig.from_pretrained(mean).eos_token_id) >= set(protocol.stop_ids)
    assert {"chat_template.jinja", "generation_config.json"} <= verify_folder(mean)["files"].keys()


def test_an_average_of_foreign_models_stops_where_any_of_them_stops(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for number, eos in enumerate([3, [4, 5]]):
        folder = tmp_path / str(number)
        shutil.copytree(tiny_checkpoint, folder)
        (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
        for file in ("config.json", "generation_config.json"):
            said = json.loads((folder / file).read_text())
            (folder / file).write_text(json.dumps(said | {"eos_token_id": eos}))
    mean = tmp_path / "mean"
    shutil.copytree(tmp_path / "0", mean)
    write_serving_files_of_average(mean, [tmp_path / "0", tmp_path / "1"])
    assert json.loads((mean / "generation_config.json").read_text())["eos_token_id"] == [3, 4, 5]
    assert (mean / "chat_template.jinja").read_text() == "{{ messages[0].content }}"


def test_the_ids_of_a_nested_text_config_are_set_as_well(chatml_tokenizer: Any, tmp_path: Path) -> None:
    text = {"eos_token_id": 7, "vocab_size": len(chatml_tokenizer)}
    whole = {"architectures": ["LlavaForConditionalGeneration"], "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    protocol = load_protocol(chatml_tokenizer)
    write_serving_files(tmp_path, protocol)
    said = json.loads((tmp_path / "config.json").read_text())
    for ids in (said, said["text_config"], json.loads((tmp_path / "generation_config.json").read_text())):
        assert ids["eos_token_id"] == [*protocol.stop_ids, 7]
        assert ids["pad_token_id"] == protocol.pad_id


# Reward models


def pads_at_the_end_of_turn(tokenizer: Any, folder: Path) -> Path:
    """A start as SmolLM2 is published: what pads is the end of a turn."""
    end = END[load_protocol(tokenizer).name]
    base(tokenizer, folder, pad_token_id=tokenizer.convert_tokens_to_ids(end))
    saved = AutoTokenizer.from_pretrained(folder)
    saved.pad_token = saved.eos_token = end
    saved.save_pretrained(folder)
    return folder


def train_reward(start: Path, output: Path, tmp_path: Path, lora: LoRAConfig | None = None) -> Path:
    from recipes.reward import RewardRecipe, run

    return run(
        RewardRecipe(
            model=ModelConfig(path=start, lora=lora),
            data=PreferenceDataConfig(path=preferences(tmp_path), token_budget=512),
            training=training(output, epochs=4, learning_rate=1e-3, save_steps=2),
        )
    )


DIALOGS = [
    (Message(role="user", content="capital?"), Message(role="assistant", content="Paris.")),
    (Message(role="user", content="river?"), Message(role="assistant", content="")),
    (
        Message(role="system", content="Please answer in one short sentence."),
        Message(role="user", content="What is the capital of Italy? It is Rome."),
        Message(role="assistant", content="The capital of Italy is Rome, and the river Seine runs through Paris."),
        Message(role="user", content="river?"),
        Message(role="assistant", content="I do not know that, and I will not guess."),
    ),
]


def our_scores(folder: Path) -> list[float]:
    from align.judges.reward_model import RewardModelJudge

    model, protocol = load_reward_model(ModelConfig(path=folder)), load_tokenizer(folder)[1]
    judge = RewardModelJudge(model, protocol, token_budget=1024)
    return [judge.score(dialog[:-1], [dialog[-1:]])[0] for dialog in DIALOGS]


@pytest.mark.slow
@pytest.mark.parametrize("start", [base, pads_at_the_end_of_turn])
def test_plain_transformers_gives_our_reward_scores(start: Any, tokenizer: Any, tmp_path: Path) -> None:
    folder = train_reward(start(tokenizer, tmp_path / "base"), tmp_path / "reward", tmp_path)
    for each in (folder, folder / "checkpoint-2", average_checkpoints([folder] * 2, tmp_path / "mean")):
        ours = our_scores(each)
        assert max(ours) - min(ours) > 0.01
        assert plain_scores(each) == pytest.approx(ours, abs=1e-5)
        for side in ("right", "left"):
            assert plain_scores(each, padding_side=side) == pytest.approx(ours, abs=1e-5)


@pytest.mark.slow
def test_a_merged_reward_adapter_gives_our_scores_in_plain_transformers(tokenizer: Any, tmp_path: Path) -> None:
    start = pads_at_the_end_of_turn(tokenizer, tmp_path / "base")
    adapter = train_reward(start, tmp_path / "adapter", tmp_path, lora=LoRAConfig(rank=4, alpha=8))
    assert load_tokenizer(adapter)[0].pad_token != END[load_protocol(tokenizer).name]
    merged = merge_adapter(adapter, tmp_path / "merged", prompts=["capital?"])
    assert plain_scores(merged, padding_side="right") == pytest.approx(our_scores(merged), abs=1e-5)


def plain_scores(folder: Path, padding_side: str | None = None) -> list[float]:
    """One by one, or with a side in one padded batch."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dialogs = [[{"role": each.role, "content": each.content} for each in dialog] for dialog in DIALOGS]
    if padding_side:
        tokenizer.padding_side = padding_side
        batches = [tokenizer.apply_chat_template(dialogs, return_tensors="pt", return_dict=True, padding=True)]
    else:
        batches = [
            tokenizer.apply_chat_template(dialog, return_tensors="pt", return_dict=True, tokenize=True)
            for dialog in dialogs
        ]
    with torch.no_grad():
        return [score for batch in batches for score in model(**batch).logits[:, 0].tolist()]


@pytest.mark.slow
def test_the_classification_pipeline_gives_the_score_itself(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """vLLM as well returns a sigmoid of the score unless config.json says that it is a regression."""
    folder = train_reward(tiny_checkpoint, tmp_path / "reward", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    judge = pipeline("text-classification", model=str(folder), device="cpu")
    dialogs = [[{"role": each.role, "content": each.content} for each in dialog] for dialog in DIALOGS]
    texts = [tokenizer.apply_chat_template(dialog, tokenize=False) for dialog in dialogs]
    found = [each["score"] for each in judge(texts, batch_size=len(texts))]
    assert found == pytest.approx(our_scores(folder), abs=1e-5)


# Padding


@pytest.mark.parametrize(
    "added, pad, chosen",
    [
        (["<|endoftext|>"], "<|im_end|>", "<|endoftext|>"),  # SmolLM2
        (["<|endoftext|>"], "<|endoftext|>", "<|endoftext|>"),  # Qwen
        (["<|endoftext|>", "<my_pad>"], "<my_pad>", "<my_pad>"),
        (["<|endoftext|>", "<pad>"], None, "<pad>"),
        (["<|endoftext|>", "<pad>"], "<|endoftext|>", "<pad>"),
        ([], "<|im_end|>", "<|im_start|>"),
        ([], None, "<|im_start|>"),
    ],
)
def test_what_pads_never_ends_a_message(added: list[str], pad: str | None, chosen: str) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = Tokenizer(models.BPE({"a": 0, "\n": 1}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|im_end|>", pad_token=pad)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *added]})
    protocol = load_protocol(tokenizer)
    assert tokenizer.convert_ids_to_tokens(protocol.pad_id) == chosen
    assert protocol.pad_id not in protocol.terminators


def test_a_pad_token_without_a_row_in_the_embedding_is_not_named(chatml_tokenizer: Any, tmp_path: Path) -> None:
    base(chatml_tokenizer, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"pad_token": "<|extra_pad|>"})
    protocol = load_protocol(tokenizer)
    assert protocol.pad_id == len(tokenizer) - 1
    write_serving_files(tmp_path, protocol)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token_id == model.config.pad_token_id == protocol.padding(500)
    assert model.config.pad_token_id < model.config.vocab_size


def test_saving_changes_no_id_of_the_tokenizer(tokenizer: Any, tmp_path: Path) -> None:
    base(tokenizer, tmp_path)
    loaded, protocol = load_tokenizer(tmp_path)
    before = loaded.backend_tokenizer.to_str()
    write_serving_files(tmp_path, protocol)
    assert loaded.backend_tokenizer.to_str() == before
    assert AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer.to_str() == before
