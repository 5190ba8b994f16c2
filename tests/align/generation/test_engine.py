"""The generation engine over a tiny Llama, and the cache that keeps one model in memory at a time."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from align.generation.engine import EngineCache, GenerationEngine
from align.generation.local import LocalBackend
from align.models import loading
from align.rows import Message
from align.settings import ModelConfig, SamplingConfig

SAMPLED = SamplingConfig(dtype="float32", max_completion_tokens=8)
PROMPT = (Message(role="user", content="What is the capital of Italy?"),)


@pytest.mark.slow
def test_an_engine_generates_what_its_backend_does_from_the_ids_of_its_protocol(tiny_checkpoint: Path) -> None:
    engine = GenerationEngine.from_settings(ModelConfig(path=tiny_checkpoint), SAMPLED)
    _, protocol = loading.load_tokenizer(tiny_checkpoint)
    backend = LocalBackend(loading.load_generator(tiny_checkpoint, "float32"), protocol, SAMPLED)
    ids = protocol.encode(PROMPT, open_assistant=True).ids
    assert engine.prompt_ids(PROMPT) == ids
    [[completion]] = engine.generate([ids], [[5]])
    assert [[completion]] == backend.complete([ids], [[5]])
    assert engine.parse(completion) == protocol.parse(completion.ids)
    assert (engine.identity, engine.max_prompt_tokens) == (backend.identity, backend.max_prompt_tokens)
    assert engine.identity["sampling"] == "temperature 1.0, top_p 1.0, max_completion_tokens 8", "as in earlier runs"
    assert engine.code_modules == ("align.generation.local", "align.chat.chatml")
    assert engine.unused_code == ("align.generation.vllm", "align.generation.server")


@pytest.mark.slow
def test_an_engine_that_is_closed_frees_its_model_and_generates_nothing(tiny_checkpoint: Path) -> None:
    engine = GenerationEngine.load(tiny_checkpoint, SAMPLED)
    assert isinstance(engine.backend, LocalBackend)
    model = weakref.ref(engine.backend.model)
    engine.close()
    assert model() is None
    with pytest.raises(AssertionError, match="closed"):
        engine.generate([[1]], [[0]])
    engine.close()


@pytest.mark.slow
def test_engines_of_one_checkpoint_share_its_weights_and_another_checkpoint_takes_their_place(
    tiny_checkpoint: Path, tiny_llama3_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = loading.load_generator
    monkeypatch.setattr(loading, "load_generator", lambda path, *how: loaded.append(path) or load(path, *how))
    engines = EngineCache()
    greedy = SAMPLED.model_copy(update={"temperature": 0.0})
    first = engines.engine(tiny_checkpoint, "auto", SAMPLED)
    judge = engines.engine(tiny_checkpoint, "auto", greedy)
    assert isinstance(first.backend, LocalBackend)
    assert isinstance(judge.backend, LocalBackend)
    assert judge.backend.model is first.backend.model
    assert (judge.backend.sampling, first.backend.sampling) == (greedy, SAMPLED)
    assert first.protocol.name == "chatml"
    model = weakref.ref(first.backend.model)
    other = engines.engine(tiny_llama3_checkpoint, "auto", SAMPLED)
    gc.collect()
    assert model() is None, "the engines that were given out before are closed, whoever still has them"
    assert other.protocol.name == "llama3"
    assert other.max_prompt_tokens == 2048 - 8
    engines.engine(tiny_llama3_checkpoint, "auto", SAMPLED.model_copy(update={"dtype": "bfloat16"}))
    assert loaded == [tiny_checkpoint, tiny_llama3_checkpoint, tiny_llama3_checkpoint]
