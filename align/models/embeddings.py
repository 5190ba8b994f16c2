"""Sentence encoders: texts as vectors whose dot product is their cosine similarity.

Any folder in the form of sentence-transformers with mean pooling will do, as will any model whose last hidden states
mean something; the states are averaged over the tokens of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from align.models.loading import load_encoder


class SentenceEncoder:
    """A loaded encoder. Dimension letters: B texts of a batch, T tokens, D width."""

    def __init__(
        self, path: str | Path, revision: str | None = None, *, key: str, max_tokens: int = 512, batch_size: int = 64
    ) -> None:
        """key: the setting that names the encoder, for messages. max_tokens: of a text; the rest is not read.

        Raises CheckpointError as `load_encoder` does.
        """
        self._tokenizer, self._encoder = load_encoder(path, revision, key=key)
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._max_tokens, self._batch_size = max_tokens, batch_size

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return int(self._encoder.config.hidden_size)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts: [texts, width], each of length 1. Texts of similar length are encoded together."""
        by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found = np.zeros((len(texts), self.width), np.float32)
        for start in range(0, len(texts), self._batch_size):
            places = by_length[start : start + self._batch_size]
            found[places] = self._embedded([texts[place] for place in places])
        return found

    def _embedded(self, texts: list[str]) -> NDArray[np.float32]:
        inputs = self._tokenizer(
            texts,
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        ).to(self._encoder.device)
        with torch.inference_mode():
            hidden_BTD = self._encoder(**inputs).last_hidden_state
        mask_BT1 = inputs["attention_mask"].unsqueeze(-1).to(hidden_BTD.dtype)
        mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(mean_BD, dim=-1).cpu().numpy()
        return vectors
