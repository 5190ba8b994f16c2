"""The models that a builder asks, one in memory at a time: what is asked again before another is not loaded again."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

from align.settings import SamplingConfig

Engine = tuple[Any, Any]
"""A backend (`align/generation/backend.py`), and the chat protocol of its model."""


class Engines:
    """Checkpoints by path. Backends of one checkpoint share its weights, whatever their sampling."""

    def __init__(self) -> None:
        self._name: tuple[Path, str] | None = None
        self._model: Any = None

    def engine(self, path: Path, chat: str, sampling: SamplingConfig) -> Engine:
        """The checkpoint in the folder `path` as a backend. The one before is let go, if it was another's."""
        from align.generation.local import LocalBackend
        from align.models.loading import load_generator, load_tokenizer

        _, protocol = load_tokenizer(path, chat)
        if self._name != (path, sampling.dtype):
            self._model = None
            gc.collect()
            self._model = load_generator(path, sampling.dtype)
            self._name = (path, sampling.dtype)
        return LocalBackend(self._model, protocol, sampling), protocol
