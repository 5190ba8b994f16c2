"""Find preference pairs whose two responses are nearly the same, by shared n-grams or by sentence embeddings.

Such pairs teach little, and which response was preferred is often chance. Llama 3 removes similar pairs as well
(sections 4.1.2 and 4.2.1). Responses with different tool calls are never near-duplicates, because a single argument can
make the difference between right and wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from align.config import Section
from align.rows import Messages, PreferenceRow
from align.settings import InputPath
from align.text import ngram_similarity
from data_builders.row_set import RowSet

if TYPE_CHECKING:
    import numpy as np


class NearDuplicatesConfig(Section):
    """When two responses are so similar that their pair is dropped."""

    ngram_words: int = Field(3, ge=1)
    """Number of words in an n-gram."""
    max_ngram_similarity: float | None = Field(0.9, ge=0, le=1)
    """Pairs with a higher ratio of shared n-grams are dropped. One changed word in sixty gives 0.9. null: no check."""
    encoder: InputPath | None = None
    """Folder or Hub name of a sentence encoder with mean pooling, such as sentence-transformers/all-MiniLM-L6-v2. null:
    no check by embeddings."""
    encoder_revision: str | None = None
    """Branch, tag or commit of the encoder on the Hub. null: the main branch."""
    max_embedding_similarity: float = Field(0.98, ge=-1, le=1)
    """Pairs whose embeddings have a higher cosine similarity are dropped. Good values depend on the encoder."""
    encoder_max_tokens: int = Field(512, gt=0)
    """Maximum number of tokens of a response that the encoder reads."""
    encoder_batch_size: int = Field(64, gt=0)
    """Number of responses to encode at once."""


def drop_near_duplicates(found: RowSet[PreferenceRow], config: NearDuplicatesConfig) -> int:
    """Drop rows whose best and worst response are near-duplicates, and count them.

    If only the middle one of three responses is a near-duplicate of another, such as an answer and its light edit, the
    row loses that response and stays. Returns the number of such rows.
    """
    shortened = 0
    if config.max_ngram_similarity is not None:
        most, size = config.max_ngram_similarity, config.ngram_words
        shortened += _drop(
            found, lambda one, other: ngram_similarity(one, other, size) > most, "near-duplicate n-grams"
        )
    if config.encoder is not None:
        texts = sorted({response_text(response) for row in found.rows for response in row.completions})
        vectors = dict(zip(texts, embeddings(texts, config), strict=True))
        nearest = config.max_embedding_similarity
        shortened += _drop(
            found, lambda one, other: float(vectors[one] @ vectors[other]) > nearest, "near-duplicate embeddings"
        )
    return shortened


def embeddings(texts: Sequence[str], config: NearDuplicatesConfig) -> np.ndarray:
    """Encode texts as vectors. Returns [texts, width], float32.

    A vector is the mean of the encoder's last hidden states over the tokens of the text, scaled to length 1.
    """
    import numpy as np

    if not texts or config.encoder is None:
        return np.zeros((0, 1), np.float32)
    from align.models.embeddings import SentenceEncoder

    encoder = SentenceEncoder(
        config.encoder,
        config.encoder_revision,
        key="near_duplicates.encoder",
        max_tokens=config.encoder_max_tokens,
        batch_size=config.encoder_batch_size,
    )
    return encoder.embed(texts)


def response_text(response: Messages) -> str:
    """Return the text of a response without its tool calls, which are compared separately."""
    return "\n".join(message.content for message in response)


def _drop(found: RowSet[PreferenceRow], near: Callable[[str, str], bool], reason: str) -> int:
    kept, shortened = [], 0
    for row in found.rows:
        best, worst = row.chosen, row.rejected
        if _near(best, worst, near):
            found.drop(reason)
            continue
        if len(row.completions) == 3 and any(_near(row.completions[1], other, near) for other in (best, worst)):
            row = row.model_copy(update={"completions": (best, worst), "models": row.models[::2]})
            shortened += 1
        kept.append(row)
    found.rows = kept
    return shortened


def _near(one: Messages, other: Messages, near: Callable[[str, str], bool]) -> bool:
    return _calls(one) == _calls(other) and near(response_text(one), response_text(other))


def _calls(response: Messages) -> list[tuple[str, str]]:
    return [(call.name, repr(sorted(call.parsed().items()))) for message in response for call in message.tool_calls]
