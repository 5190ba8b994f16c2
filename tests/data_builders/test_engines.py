"""The models that a builder asks: one in memory at a time, and none loaded twice in a row."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from align.settings import SamplingConfig
from data_builders.engines import Engines


def test_backends_of_one_checkpoint_share_its_weights_and_another_takes_their_place(
    tiny_checkpoint: Path, tiny_llama3_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import align.models.loading as loading

    loaded = []
    load = loading.load_generator
    monkeypatch.setattr(loading, "load_generator", lambda path, dtype: loaded.append(path) or load(path, dtype))
    engines = Engines()
    sampled = SamplingConfig(dtype="float32")
    greedy = sampled.model_copy(update={"temperature": 0.0, "max_completion_tokens": 8})
    first, protocol = engines.engine(tiny_checkpoint, "auto", sampled)
    judge, _ = engines.engine(tiny_checkpoint, "auto", greedy)
    assert judge.model is first.model
    assert (judge.sampling, first.sampling) == (greedy, sampled)
    assert protocol.name == "chatml"
    seen = weakref.ref(first.model)
    del first, judge
    other, protocol = engines.engine(tiny_llama3_checkpoint, "auto", sampled)
    gc.collect()
    assert seen() is None
    assert protocol.name == "llama3"
    engines.engine(tiny_llama3_checkpoint, "auto", sampled.model_copy(update={"dtype": "bfloat16"}))
    assert loaded == [tiny_checkpoint, tiny_llama3_checkpoint, tiny_llama3_checkpoint]
    assert other.max_prompt_tokens == 2048 - 256
