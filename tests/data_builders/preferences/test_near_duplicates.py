"""Responses that say nearly the same are dropped, by n-grams and by embeddings, and calls are never near-equal."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from align.errors import CheckpointError, ConfigError
from align.rows import Message, Messages, PreferenceRow, ToolCall
from align.text import ngram_similarity
from data_builders.preferences.near_duplicates import NearDuplicatesConfig, drop_near_duplicates, embeddings
from data_builders.row_set import RowSet

WORDS = [f"word{number}" for number in range(62)]
LONG = " ".join(WORDS)


def answer(text: str, **arguments: str) -> Messages:
    calls = (ToolCall.model_validate({"name": "f", "arguments": arguments}),) if arguments else ()
    return (Message(role="assistant", content=text, tool_calls=calls),)


def row(*completions: Messages | str, name: str = "r") -> PreferenceRow:
    said = tuple(answer(one) if isinstance(one, str) else one for one in completions)
    models = tuple(f"m-{place}" for place in range(len(said)))
    return PreferenceRow(
        id=name, source="made", prompt=(Message(role="user", content="?"),), completions=said, models=models
    )


def test_ngram_similarity_is_the_share_of_ngrams_worked_by_hand() -> None:
    assert ngram_similarity("a b c d", "a b c e", 3) == pytest.approx(1 / 3), "abc of abc, bcd, bce"
    assert ngram_similarity("a b c d", "A b, c d!", 3) == 1
    assert ngram_similarity("a b a b", "a b", 2) == pytest.approx(1 / 3), "ab once of ab, ba, ab"
    assert ngram_similarity("a b", "a b c", 3) == 0
    assert ngram_similarity("", "!", 3) == 1
    assert ngram_similarity("", "a", 3) == 0
    # One of 62 words changed: 57 of 60 trigrams stay on each side, so 57 of 63 in all.
    assert ngram_similarity(LONG, LONG.replace("word30", "other")) == pytest.approx(57 / 63)


def test_text_without_spaces_is_compared_by_its_characters() -> None:
    assert 0.5 < ngram_similarity("東京は日本の首都です。", "東京は日本の首都だ。", 3) < 1
    assert ngram_similarity("東京は日本の首都です。", "パリはフランスにあります。", 3) == 0


def test_a_pair_with_a_word_changed_in_many_goes_and_is_counted() -> None:
    found = RowSet([row(LONG, LONG.replace("word30", "other"), name="near"), row(LONG, LONG[::-1], name="far")])
    assert drop_near_duplicates(found, NearDuplicatesConfig()) == 0
    assert [one.id for one in found.rows] == ["far"]
    assert found.dropped == {"near-duplicate n-grams": 1}
    untouched = RowSet([row(LONG, LONG.replace("word30", "other"))])
    drop_near_duplicates(untouched, NearDuplicatesConfig(max_ngram_similarity=None))
    drop_near_duplicates(untouched, NearDuplicatesConfig(max_ngram_similarity=0.95))
    assert len(untouched.rows) == 1


def test_a_short_answer_with_one_word_changed_stays() -> None:
    found = RowSet([row("The capital is Rome.", "The capital is Paris."), row("Yes.", "No.", name="s")])
    drop_near_duplicates(found, NearDuplicatesConfig())
    assert len(found.rows) == 2


def test_an_edit_that_changes_little_takes_the_middle_response_away_and_keeps_the_pair() -> None:
    found = RowSet([row(LONG.replace("word30", "changed"), LONG, "No.")])
    assert drop_near_duplicates(found, NearDuplicatesConfig()) == 1
    (kept,) = found.rows
    assert [one[0].content for one in kept.completions] == [LONG.replace("word30", "changed"), "No."]
    assert kept.models == ("m-0", "m-2")
    assert not found.dropped


def test_calls_with_different_arguments_are_never_near_duplicate() -> None:
    calls = [answer(LONG, city="Paris"), answer(LONG, city="Lyon")]
    found = RowSet([row(*calls), row(calls[0], answer(LONG + "!", city="Paris"), name="same")])
    drop_near_duplicates(found, NearDuplicatesConfig())
    assert [one.id for one in found.rows] == ["r"]


def test_embeddings_are_means_of_the_encoders_states_whatever_else_is_in_the_batch(tiny_checkpoint: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["Paris.", "The river Seine runs through it, and it is long.", "Rome", ""]
    found = embeddings(texts, NearDuplicatesConfig(encoder=tiny_checkpoint, encoder_batch_size=3))
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_checkpoint), AutoModel.from_pretrained(tiny_checkpoint)
    for place, text in enumerate(texts[:3]):
        with torch.inference_mode():
            states = model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
        alone = states.mean(0).numpy()
        np.testing.assert_allclose(found[place], alone / np.linalg.norm(alone), atol=1e-5)


def test_a_pair_with_a_large_cosine_goes(tiny_checkpoint: Path) -> None:
    rows = [row("Paris is the capital.", "Paris is the capitol", name="near"), row("Paris.", "I do not know that.")]
    texts = [one[0].content for pair in rows for one in pair.completions]
    config = NearDuplicatesConfig(encoder=tiny_checkpoint, max_ngram_similarity=None)
    vectors = embeddings(texts, config)
    near, far = float(vectors[0] @ vectors[1]), float(vectors[2] @ vectors[3])
    assert far < near
    found = RowSet(rows)
    drop_near_duplicates(found, config.model_copy(update={"max_embedding_similarity": (near + far) / 2}))
    assert [one.id for one in found.rows] == ["r"]
    assert found.dropped == {"near-duplicate embeddings": 1}


def test_an_encoder_whose_weights_are_missing_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(tiny_checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    lost = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = NearDuplicatesConfig(encoder=folder)
    with pytest.raises(CheckpointError, match=r"has a tensor layers\.1\.mlp\.up_proj\.weight that is in no file"):
        embeddings(["Paris."], config)
    tensors["model.layers.1.mlp.up_proj.weight"] = lost * float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not finite"):
        embeddings(["Paris."], config)
    with pytest.raises(ConfigError, match=r"near_duplicates\.encoder: there is no folder no/such/encoder"):
        embeddings(["Paris."], NearDuplicatesConfig(encoder="no/such/encoder"))


def test_an_encoder_without_a_pooler_is_read(chatml_tokenizer, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=len(chatml_tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    chatml_tokenizer.save_pretrained(tmp_path)
    assert embeddings(["Paris.", "Rome"], NearDuplicatesConfig(encoder=tmp_path)).shape == (2, 32)
