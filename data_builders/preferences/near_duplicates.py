"""Pairs whose responses are near-equal: by shared n-grams, and by the embeddings of a sentence encoder if one is given.

Such a pair teaches little and its order is often chance (Llama 3 drops them, sections 4.1.2 and 4.2.1). Responses with
different tool calls are never near-equal: one argument is the whole difference there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from align.config import Section
from align.rows import Messages, PreferenceRow
from align.settings import InputPath
from align.text import ngram_similarity
from data_builders.row_set import Counted

if TYPE_CHECKING:
    import numpy as np


class NearEqualConfig(Section):
    """When two responses say nearly the same."""

    ngram_words: int = Field(3, ge=1)
    """Words in an n-gram."""
    max_ngram_similarity: float | None = Field(0.9, ge=0, le=1)
    """Pairs with more n-grams in common are dropped: one changed word in sixty gives 0.9. None for no check."""
    encoder: InputPath | None = None
    """A folder, or a name on the Hub, of a sentence encoder that is read by mean pooling, such as
    sentence-transformers/all-MiniLM-L6-v2."""
    encoder_revision: str | None = None
    """A branch, tag or commit of a Hub name; None for its main branch."""
    max_embedding_similarity: float = Field(0.98, ge=-1, le=1)
    """Pairs whose embeddings have a larger cosine are dropped. Read with encoder; what fits depends on it."""
    encoder_max_tokens: int = Field(512, gt=0)
    """The encoder reads so many tokens of a response."""
    encoder_batch_size: int = Field(64, gt=0)
    """Responses encoded side by side."""


def drop_near_equal(found: Counted[PreferenceRow], config: NearEqualConfig) -> int:
    """Drop rows whose best and worst response are near-equal, and count them.

    Of three responses the middle one goes alone where it is near-equal to one of the others, as an edit that changes
    little is. Returns how many went so.
    """
    thinned = 0
    if config.max_ngram_similarity is not None:
        most, size = config.max_ngram_similarity, config.ngram_words
        thinned += _drop(found, lambda one, other: ngram_similarity(one, other, size) > most, "near-equal n-grams")
    if config.encoder is not None:
        texts = sorted({said(response) for row in found.rows for response in row.completions})
        vectors = dict(zip(texts, embeddings(texts, config), strict=True))
        nearest = config.max_embedding_similarity
        thinned += _drop(
            found, lambda one, other: float(vectors[one] @ vectors[other]) > nearest, "near-equal embeddings"
        )
    return thinned


def embeddings(texts: Sequence[str], config: NearEqualConfig) -> np.ndarray:
    """[texts, width], float32, each of length 1: the mean of the encoder's last hidden states over a text's tokens."""
    import numpy as np
    import torch

    from align.models.loading import load_encoder

    if not texts or config.encoder is None:
        return np.zeros((0, 1), np.float32)
    tokenizer, encoder = load_encoder(config.encoder, config.encoder_revision, key="near_equal.encoder")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found: list[np.ndarray] = [np.empty(0)] * len(texts)
    for start in range(0, len(texts), config.encoder_batch_size):
        places = by_length[start : start + config.encoder_batch_size]
        inputs = tokenizer(
            [texts[place] for place in places],
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=config.encoder_max_tokens,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden_BTD = encoder(**inputs).last_hidden_state
        mask_BT1 = inputs["attention_mask"].unsqueeze(-1).to(hidden_BTD.dtype)
        mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
        for place, vector in zip(places, torch.nn.functional.normalize(mean_BD, dim=-1).numpy(), strict=True):
            found[place] = vector
    return np.stack(found)


def said(response: Messages) -> str:
    """The text of a response; calls are compared apart."""
    return "\n".join(message.content for message in response)


def _drop(found: Counted[PreferenceRow], near: Callable[[str, str], bool], reason: str) -> int:
    kept, thinned = [], 0
    for row in found.rows:
        best, worst = row.chosen, row.rejected
        if _near(best, worst, near):
            found.drop(reason)
            continue
        if len(row.completions) == 3 and any(_near(row.completions[1], other, near) for other in (best, worst)):
            row = row.model_copy(update={"completions": (best, worst), "models": row.models[::2]})
            thinned += 1
        kept.append(row)
    found.rows = kept
    return thinned


def _near(one: Messages, other: Messages, near: Callable[[str, str], bool]) -> bool:
    return _calls(one) == _calls(other) and near(said(one), said(other))


def _calls(response: Messages) -> list[tuple[str, str]]:
    return [(call.name, repr(sorted(call.parsed().items()))) for message in response for call in message.tool_calls]
