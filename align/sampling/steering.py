"""System prompts and worked examples that steer what is sampled, by the source of a prompt (Llama 3, section 4.2.2).

In later rounds, Llama 3 steers rejection sampling by system prompts towards a tone, style or format, which differ by
capability. Here the sampled model sees the system prompt; whether the reward model, the SFT rows and the pairs see it
too is a setting. If they do not, the model learns to write so without being asked.

Worked examples are dialogs that the sampled model sees before a prompt. They help a small model to a first right
solution in the expected form; trained on its right solutions, it needs no examples (Zelikman et al. 2022, STaR,
arXiv:2203.14465).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from align.config import Section
from align.errors import RowError
from align.rows import Message, Messages, PromptRow, SFTRow
from align.settings import InputSources
from align.text import normalize

EVERY_SOURCE = "*"


class SteeringExamplesConfig(Section):
    """Worked examples that the sampled model sees before a prompt."""

    path: InputSources
    """SFT rows: the messages of all of them come before a prompt, after its system prompt. Two to four are enough. A
    prompt that one of them asks too is dropped and counted."""
    sources: tuple[str, ...] = Field((EVERY_SOURCE,), min_length=1)
    """Sources of prompts that get the examples, each as a key of `steering`."""


class Steering(NamedTuple):
    """What steers one prompt."""

    text: str
    """The system prompt, and the examples as text."""
    messages: int
    """The number of messages at the beginning of the sampled prompt that are not part of the prompt itself."""


class Steered(NamedTuple):
    """Prompts as they are sampled."""

    rows: list[PromptRow]
    """The prompts, with a system message and examples at the beginning of those that are steered. Ids are those of the
    prompts."""
    system_prompts: dict[str, Steering]
    """Id of a steered prompt -> what steers it."""
    counts: Counter[str]
    """How many prompts each entry steers, `examples`: those that get the examples, and `own system prompt`: those that
    match an entry, but have their own."""
    dropped: Counter[str]
    """How many prompts are left out, because the examples answer them."""


def messages_of(examples: Iterable[SFTRow]) -> Messages:
    """The messages of all examples. Raises RowError for an example that offers functions, which a prompt has not."""
    found: list[Message] = []
    for row in examples:
        if row.tools:
            what = "offers functions, which the prompts after it do not offer"
            raise RowError(f"steering_examples: example {row.id}", what, "Remove its column tools, or leave it out")
        found += row.messages
    return tuple(found)


def steered(
    rows: Sequence[PromptRow],
    by_source: Mapping[str, str],
    examples: Sequence[Message] = (),
    example_sources: Sequence[str] = (EVERY_SOURCE,),
) -> Steered:
    """The prompts with the system prompts of their sources, and with examples.

    by_source: source of a prompt, or its beginning up to a slash -> system prompt. The longest match is used, and `*`
        matches every source. With {"maths": "Reason in steps.", "maths/proofs": "Be rigorous."}:
            maths, maths/word-problems    Reason in steps.
            maths/proofs/algebra          Be rigorous.
            mathsets                      not steered
    examples: the messages of all examples. example_sources: the sources of the prompts that get them, as in by_source.
    A prompt that has its own system message keeps it and is not steered. One that an example asks too is left out and
    counted: the model would copy the example's answer.
    Raises RowError for an entry that matches no prompt, and for examples with a system message.
    """
    if any(message.role == "system" for message in examples):
        how = "Remove it, or set it as the system prompt of `steering`"
        raise RowError("steering_examples", "an example has a system message, expected user and assistant", how)
    # Kept in an SFT row, they are context, also for `sft.train_on: all`.
    shown = [one.model_copy(update={"trained": False}) if one.role == "assistant" else one for one in examples]
    answered = {normalize(one.content) for one in examples if one.role == "user"}
    dropped = Counter[str]()
    found, system_prompts, counts, matched = [], dict[str, Steering](), Counter[str](), set[str]()
    for row in rows:
        key = _matching(row.source, by_source)
        example_key = _matching(row.source, example_sources) if examples else None
        matched.update(each for each in (key, example_key) if each is not None)
        if key is None and example_key is None:
            found.append(row)
            continue
        if row.prompt[0].role == "system":
            counts["own system prompt"] += 1
            found.append(row)
            continue
        before: Messages = ()
        if example_key is not None and normalize(row.prompt[-1].content) in answered:
            dropped["is a worked example"] += 1
            continue
        if key is not None:
            counts[key] += 1
            before = (Message(role="system", content=by_source[key]),)
        if example_key is not None:
            counts["examples"] += 1
            before = (*before, *shown)
        system_prompts[row.id] = Steering(_text(before), len(before))
        found.append(row.model_copy(update={"prompt": (*before, *row.prompt)}))
    unused = {*by_source, *(example_sources if examples else ())} - matched
    if unused:
        sources = ", ".join(sorted({row.source for row in rows})[:10])
        what = f"no prompt has the source {', '.join(sorted(unused))}; sources of the prompts: {sources}"
        raise RowError("steering", what, "Name a source or its beginning up to a slash, or remove the entry")
    return Steered(found, system_prompts, counts, dropped)


def _text(messages: Messages) -> str:
    """The system prompt alone as it is; with examples, each message with its role."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def _matching(source: str, by_source: Collection[str]) -> str | None:
    """The longest key that is the source or its beginning up to a slash; else `*`, if it is a key."""
    parts = source.split("/")
    for length in range(len(parts), 0, -1):
        key = "/".join(parts[:length])
        if key in by_source:
            return key
    return EVERY_SOURCE if EVERY_SOURCE in by_source else None
