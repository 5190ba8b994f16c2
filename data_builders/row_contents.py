"""What is compared of rows: keys of their content and of their prompts, and the prompt of a record of any form."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import Any

from align.errors import RowError
from align.jsonl import row_of
from align.rows import Message, Messages, PreferenceRow, PromptRow, Row, SFTRow
from align.text import exact_key, normalize

_PROMPT_COLUMNS = {
    "prompt": "prompt",
    "messages": "messages",
    "conversations": "conversations",
    "instruction": "instruction",
    "input": "input",
    "system": "system",
    "question": "prompt",
    "query": "prompt",
}
"""Column that holds a prompt -> the name under which `align/formats/rows.py` reads it."""

MIN_DISTINCTIVE_WORDS = 4
"""A user message with fewer words, such as "Yes, please.", is too common to count as a match by itself."""


def content_key(row: Row) -> str:
    """Return a key that is equal for two rows with the same content, whatever their ids and sources are."""
    parts = [row.tools]
    if isinstance(row, SFTRow):
        parts += message_texts(row.messages)
    elif isinstance(row, PreferenceRow):
        parts += message_texts(row.prompt)
        for completion in row.completions:
            parts += ["completion", *message_texts(completion)]
    elif isinstance(row, PromptRow):
        parts += message_texts(row.prompt)
    else:
        raise TypeError(f"no content key for {type(row).__name__}")
    return exact_key(*parts)


def prompt_keys(row: Row) -> set[str]:
    """Return the keys by which a row is compared with evaluation prompts.

    There is one key for the whole prompt, and one for each distinctive user message.
    """
    if isinstance(row, SFTRow):
        return message_keys(row.messages[:-1])
    if isinstance(row, PreferenceRow | PromptRow):
        return message_keys(row.prompt)
    raise TypeError(f"no prompt in {type(row).__name__}")


def message_keys(prompt: Messages) -> set[str]:
    """Return the keys of a prompt that `prompt_keys` returns for a row."""
    users = [message.content for message in prompt if message.role == "user"]
    distinctive = {exact_key(text) for text in users if len(normalize(text).split()) >= MIN_DISTINCTIVE_WORDS}
    return distinctive | {exact_key(*message_texts(prompt))}


def message_texts(messages: Iterable[Message]) -> list[str]:
    """Return roles, texts and calls of a dialog as a list of texts, from which keys are computed."""
    texts = []
    for message in messages:
        calls = [f"{call.name} {json.dumps(call.parsed(), sort_keys=True)}" for call in message.tool_calls]
        texts += [message.role, message.content, *calls]
    return texts


def prompt_in(record: dict[str, Any], where: str) -> Messages:
    """Read the prompt of a record of any supported form. Its other columns, such as answers or scores, are ignored."""
    with contextlib.suppress(RowError):  # not an SFT row: try the next kind
        return row_of(record, SFTRow, where).messages[:-1]
    with contextlib.suppress(RowError):
        return row_of(record, PreferenceRow, where).prompt
    fields = {ours: record[name] for name, ours in _PROMPT_COLUMNS.items() if name in record}
    fields |= {"id": "-", "source": "-"}  # required columns, so that our own prompt rows are recognized
    try:
        return row_of(fields, PromptRow, where).prompt
    except RowError as error:
        how = "Give prompts, questions, SFT rows or preferences, or map the column: {path: ..., columns: {prompt: ...}}"
        problem = " ".join(error.what.split())[:120]
        raise RowError(where, f"expected a row with prompt or messages, found none ({problem})", how) from None
