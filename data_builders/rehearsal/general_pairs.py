"""The demo set of general preference pairs (`llamafactory/dpo_en_demo`) as preference rows of the rehearsal.

The data set does not say who chose the preferred answers, so the rows have no level.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from align.config import Section
from align.rows import Message, Messages, PreferenceRow, row_id
from data_builders.packaged import GENERAL, AnswerPair
from data_builders.preferences.builder import drop_unusable
from data_builders.row_set import RowSet


class GeneralConfig(Section):
    """How many of the general demo pairs are used, and how long they may be."""

    max_characters: int = Field(4000, gt=0)
    """Maximum length of prompt, chosen and rejected answer together, in characters. Longer rows are dropped and
    counted."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of training rows. null: no limit."""
    heldout_limit: int | None = Field(None, gt=0)
    """Maximum number of held-out rows. null: no limit."""


def general_pairs(pairs: Sequence[AnswerPair], max_characters: int) -> RowSet[PreferenceRow]:
    """Make preference rows of the pairs; those with equal answers and those that are too long are dropped."""
    found: RowSet[PreferenceRow] = RowSet()
    for pair in pairs:
        completions = (_assistant(pair.chosen), _assistant(pair.rejected))
        if completions[0] == completions[1]:
            found.drop("similar answers")
            continue
        identity = row_id(GENERAL, *(message.content for message in pair.prompt), pair.chosen, pair.rejected)
        found.keep(PreferenceRow(id=identity, source=GENERAL, prompt=pair.prompt, completions=completions))
    drop_unusable(found, max_characters)
    return found


def _assistant(text: str) -> Messages:
    return (Message(role="assistant", content=text),)
