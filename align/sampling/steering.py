"""System prompts that steer what is sampled, by the source of a prompt (Llama 3, section 4.2.2).

In later rounds, Llama 3 steers rejection sampling by system prompts towards a tone, style or format, which differ by
capability. Here the sampled model sees the system prompt; whether the reward model, the SFT rows and the pairs see it
too is a setting. If they do not, the model learns to write so without being asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from align.errors import RowError
from align.rows import Message, PromptRow

EVERY_SOURCE = "*"


class Steered(NamedTuple):
    """Prompts as they are sampled."""

    rows: list[PromptRow]
    """The prompts, with a system message at the beginning of those that are steered. Ids are those of the prompts."""
    system_prompts: dict[str, str]
    """Id of a steered prompt -> its system prompt."""
    counts: Counter[str]
    """How many prompts each entry steers, and `own system prompt`: those that match one, but have their own."""


def steered(rows: Sequence[PromptRow], by_source: Mapping[str, str]) -> Steered:
    """The prompts with the system prompts of their sources.

    by_source: source of a prompt, or its beginning up to a slash -> system prompt. The longest match is used, and `*`
        matches every source. With {"maths": "Reason in steps.", "maths/proofs": "Be rigorous."}:
            maths, maths/word-problems    Reason in steps.
            maths/proofs/algebra          Be rigorous.
            mathsets                      not steered
    A prompt that has its own system message keeps it and is not steered.
    Raises RowError for an entry that matches no prompt.
    """
    found, system_prompts, counts, matched = [], dict[str, str](), Counter[str](), set[str]()
    for row in rows:
        key = _matching(row.source, by_source)
        if key is None:
            found.append(row)
            continue
        matched.add(key)
        if row.prompt[0].role == "system":
            counts["own system prompt"] += 1
            found.append(row)
            continue
        counts[key] += 1
        system_prompts[row.id] = by_source[key]
        system = Message(role="system", content=by_source[key])
        found.append(row.model_copy(update={"prompt": (system, *row.prompt)}))
    unused = by_source.keys() - matched
    if unused:
        sources = ", ".join(sorted({row.source for row in rows})[:10])
        what = f"no prompt has the source {', '.join(sorted(unused))}; sources of the prompts: {sources}"
        raise RowError("steering", what, "Name a source or its beginning up to a slash, or remove the entry")
    return Steered(found, system_prompts, counts)


def _matching(source: str, by_source: Mapping[str, str]) -> str | None:
    """The longest key that is the source or its beginning up to a slash; else `*`, if it is a key."""
    parts = source.split("/")
    for length in range(len(parts), 0, -1):
        key = "/".join(parts[:length])
        if key in by_source:
            return key
    return EVERY_SOURCE if EVERY_SOURCE in by_source else None
