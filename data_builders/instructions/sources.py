"""The prompts that instructions are added to: your own, or those of the demo sets, without format demands of their own.

A prompt is used if it is one user message. What it asks for should leave the form of the answer open, because "List ten
rivers" cannot be answered in one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from align.jsonl import Drops, read_rows
from align.rows import Message, PromptRow, row_id
from align.settings import InputSources, Reading
from data_builders import packaged
from data_builders.row_set import RowSet

# Words by which a prompt says itself what form its answer has to have: "Write a poem", "in two sentences", "a list of",
# "rewrite", "translate". "poet", "listen" and "sentenced" are other words.
_ASKS_FOR_A_FORM = re.compile(
    r"\b(lists?|sentences?|paragraphs?|words?|bullets?|letters?|poems?|haikus?|songs?|lyrics|essays?|stor(y|ies)|emails?"
    r"|articles?|scripts?|screenplays?|json|xml|html|csv|tables?|codes?|programs?|functions?|sql|quer(y|ies)|regex"
    r"|translate|rewrite|rephrase|paraphrase|edit|correct|summari[sz]e|capitali[sz]e|\w+case|steps?|outline|headlines?"
    r"|titles?|tweets?|slogans?|questions?|quotes?|calculate|solve|sort|classify|generate \w+ \d+|character)\b",
    re.IGNORECASE,
)


class BasePrompt(NamedTuple):
    """A prompt without an instruction."""

    id: str
    source: str
    text: str
    answer: str = ""
    """An answer that is known, which may become an earlier turn of another prompt's dialog. Empty if none is."""

    @property
    def row(self) -> PromptRow:
        return PromptRow(id=self.id, source=self.source, prompt=(Message(role="user", content=self.text),))


def base_prompts(sources: InputSources | None, reading: Reading) -> tuple[list[BasePrompt], RowSet[PromptRow]]:
    """(prompts, the set that counts what was dropped). None: the prompts of the demo sets."""
    counted: RowSet[PromptRow] = RowSet()
    found = list(_demo_prompts() if sources is None else _own_prompts(sources, reading, counted))
    kept = []
    for prompt in found:
        if _ASKS_FOR_A_FORM.search(prompt.text):
            counted.drop("asks for a form itself")
        else:
            kept.append(prompt)
    return kept, counted


def _own_prompts(sources: InputSources, reading: Reading, counted: RowSet[PromptRow]) -> Iterable[BasePrompt]:
    drops = Drops()
    for row in read_rows(sources, PromptRow, reading, drops=drops):
        if len(row.prompt) == 1 and row.prompt[0].role == "user" and not row.tools:
            yield BasePrompt(row.id, row.source, row.prompt[0].content.strip())
        else:
            counted.drop("not a single user message")
    counted.dropped.update(drops.reasons)


def _demo_prompts() -> Iterable[BasePrompt]:
    """Instructions and general prompts. Questions of fact are left out: a small model's answers to them are wrong, and
    no answer should be rewarded for its form alone."""
    for text, answer in packaged.answered_instructions():
        yield BasePrompt(row_id("prompt", packaged.ALPACA, text), packaged.ALPACA, text.strip(), answer.strip())
    for pair in packaged.general_pairs():
        if len(pair.prompt) == 1:
            text = pair.prompt[0].content.strip()
            yield BasePrompt(row_id("prompt", packaged.GENERAL, text), packaged.GENERAL, text)
