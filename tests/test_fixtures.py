"""The shared checkpoints are what the other tests take them for."""

from __future__ import annotations

import pytest

from align.chat import load_protocol


@pytest.mark.parametrize("fixture, name", [("tiny_checkpoint", "chatml"), ("tiny_llama3_checkpoint", "llama3")])
def test_a_tiny_checkpoint_loads_with_its_tokenizer_and_protocol(request: pytest.FixtureRequest, fixture, name) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = request.getfixturevalue(fixture)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (4, 2)
    assert len(model.model.layers) == 2
    assert model.config.vocab_size == len(tokenizer)
    protocol = load_protocol(tokenizer)
    assert (protocol.name, tokenizer.chat_template) == (name, protocol.chat_template)
