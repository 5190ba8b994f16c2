"""The kinds of checkable instructions: their wordings, and the check of each.

A kind draws its details from a seeded generator: a number of sentences, an ending, a word of the prompt. The check is
one of `align/judges/verifiers/instructions.py`, which decides whether an answer follows the instruction.

To add a kind, add an entry to `KINDS` and its name to `KindName`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

HeldOutName = Literal["words", "numbered", "starts_with", "words_present", "word_absent", "quoted", "json"]
"""Kinds that are held out by default. Their checks are those of no other kind."""
KindName = Literal[
    "sentences",
    "paragraphs",
    "bullets",
    "lower_case",
    "upper_case",
    "ends_with",
    "word_repeated",
    "no_commas",
    HeldOutName,
    "language",
]
"""The names of all kinds."""

Check = dict[str, Any]
OPTIONAL: tuple[KindName, ...] = ("language",)
"""Kinds that are used only if the settings name them: their checks require an extra."""
Aspect = Literal["length", "layout", "case", "start", "end", "words", "punctuation"]


class Instruction(NamedTuple):
    """One instruction for one prompt."""

    kind: KindName
    text: str
    """The instruction as a person would write it."""
    check: Check
    """An entry of the `checks` of the verifier `instructions`."""


class Drawn(NamedTuple):
    """The details of one instruction."""

    check: Check
    slots: Mapping[str, str]
    """What the wordings of the kind name in braces."""


class Kind(NamedTuple):
    """A kind of instruction."""

    draw: Callable[[random.Random, str], Drawn | None]
    """(generator, text of the prompt) -> details. None if the prompt does not allow this kind."""
    wordings: tuple[str, ...]
    """Paraphrases. No wording is shared by two kinds, so a held-out kind is held out in its wordings too."""
    decides: frozenset[Aspect]
    """What the instruction decides about an answer. Two kinds with a common aspect are not combined."""
    obey: Callable[[str, Check], str] | None = None
    """(text, check) -> the text, changed so that it follows the instruction. None: only a writer can do this."""

    @property
    def checked_by(self) -> str:
        """The `kind` of its check. Held-out and trained kinds have none in common."""
        drawn = self.draw(random.Random(0), "example of a prompt")
        assert drawn is not None
        kind: str = drawn.check["kind"]
        return kind


ENDINGS = ("That is all.", "I hope this helps.", "Thank you for asking.", "Is there anything else?", "The end.")
BEGINNINGS = ("Here is my answer:", "Good question!", "Let me explain:", "In short:", "My answer:")
LANGUAGES = (("de", "German"), ("fr", "French"), ("it", "Italian"), ("pt", "Portuguese"), ("es", "Spanish"))
COMMON_WORDS = ("important", "example", "people", "because", "time", "simple", "different", "first", "good", "world")
_LEAST_LETTERS = 5
_ENOUGH_SENTENCE = re.compile(r".*?[.!?]+(?=\s|$)|.+", re.DOTALL)


def _sentences(draw: random.Random, prompt: str) -> Drawn:
    most = draw.randint(1, 2)
    count = "one sentence" if most == 1 else f"{most} sentences"
    return Drawn({"kind": "sentences", "at_most": most}, {"count": count})


def _paragraphs(draw: random.Random, prompt: str) -> Drawn:
    count = draw.randint(2, 3)
    return Drawn({"kind": "paragraphs", "at_least": count, "at_most": count}, {"count": str(count)})


def _bullets(draw: random.Random, prompt: str) -> Drawn:
    least = draw.randint(2, 3)
    return Drawn({"kind": "bullets", "at_least": least}, {"count": str(least)})


def _numbered(draw: random.Random, prompt: str) -> Drawn:
    least = draw.randint(2, 3)
    return Drawn({"kind": "numbered", "at_least": least}, {"count": str(least)})


def _words(draw: random.Random, prompt: str) -> Drawn:
    most = draw.choice((10, 15, 20, 25, 30))
    return Drawn({"kind": "words", "at_most": most}, {"count": str(most)})


def _case(case: Literal["lower", "upper"]) -> Callable[[random.Random, str], Drawn]:
    return lambda draw, prompt: Drawn({"kind": "case", "case": case}, {})


def _language(draw: random.Random, prompt: str) -> Drawn:
    code, name = draw.choice(LANGUAGES)
    return Drawn({"kind": "language", "language": code}, {"language": name})


def _word_repeated(draw: random.Random, prompt: str) -> Drawn | None:
    word = _word_of(prompt, draw)
    return None if word is None else Drawn({"kind": "occurrences", "word": word, "at_least": 2}, {"word": word})


def _words_present(draw: random.Random, prompt: str) -> Drawn | None:
    word = _word_of(prompt, draw)
    if word is None:
        return None
    other = draw.choice([common for common in COMMON_WORDS if common != word])
    return Drawn({"kind": "keywords", "present": [word, other]}, {"word": word, "other": other})


def _word_absent(draw: random.Random, prompt: str) -> Drawn | None:
    word = _word_of(prompt, draw)
    return None if word is None else Drawn({"kind": "keywords", "absent": [word]}, {"word": word})


def _word_of(prompt: str, draw: random.Random) -> str | None:
    """A word of the prompt that is long enough to be about its subject: `coffee`, not `the`."""
    words = sorted({word.lower() for word in re.findall(r"[^\W\d_]+", prompt) if len(word) >= _LEAST_LETTERS})
    return draw.choice(words) if words else None


def _first_sentences(text: str, check: Check) -> str:
    found = _ENOUGH_SENTENCE.findall(" ".join(text.split()))
    return "".join(found[: check["at_most"]]).strip()


def _first_words(text: str, check: Check) -> str:
    words = text.split()
    return text if len(words) <= check["at_most"] else " ".join(words[: check["at_most"]]).rstrip(",;:.") + "."


def _phrase(
    check: Literal["starts_with", "ends_with"],
    phrases: tuple[str, ...],
    wordings: tuple[str, ...],
    obey: Callable[[str, Check], str],
) -> Kind:
    """A kind that requires a given phrase at the start or at the end of the answer."""

    def drawn(draw: random.Random, prompt: str) -> Drawn:
        text = draw.choice(phrases)
        return Drawn({"kind": check, "text": text}, {"text": text})

    edge: Aspect = "start" if check == "starts_with" else "end"
    return Kind(drawn, wordings, frozenset({edge, "case"}), obey)


KINDS: dict[KindName, Kind] = {
    "sentences": Kind(
        _sentences,
        (
            "Answer in at most {count}.",
            "Use no more than {count}.",
            "Your answer must not be longer than {count}.",
            "Keep the answer to {count} or less.",
            "Please reply with {count} at most.",
        ),
        frozenset({"length", "layout", "start", "end"}),  # "That is all." at the end is a sentence of its own
        _first_sentences,
    ),
    "paragraphs": Kind(
        _paragraphs,
        (
            "Write exactly {count} paragraphs, with an empty line between them.",
            "Your answer must have {count} paragraphs, separated by empty lines.",
            "Divide the answer into {count} paragraphs. Leave a blank line between two paragraphs.",
        ),
        frozenset({"length", "layout"}),
    ),
    "bullets": Kind(
        _bullets,
        (
            'Answer with at least {count} bullet points, each on a line that begins with "- ".',
            'Give the answer as a bulleted list with {count} or more points. Begin each one with "- ".',
            "Format your answer as bullets (- like this), at least {count} of them.",
            'Use a minimum of {count} bullet points. Each one is a line starting with "- ".',
        ),
        frozenset({"length", "layout", "start"}),
    ),
    "lower_case": Kind(
        _case("lower"),
        (
            "Write in lower case only.",
            "Use only lowercase letters, no capital letters at all.",
            "Your whole answer must be in small letters. Capitals are not allowed.",
            "please answer entirely in lowercase.",
        ),
        frozenset({"case"}),
        lambda text, check: text.lower(),
    ),
    "upper_case": Kind(
        _case("upper"),
        (
            "Write in CAPITAL LETTERS only.",
            "Use only uppercase letters, no small letters at all.",
            "Your whole answer must be in capitals. Small letters are not allowed.",
            "PLEASE ANSWER ENTIRELY IN UPPERCASE.",
        ),
        frozenset({"case"}),
        lambda text, check: text.upper(),
    ),
    "ends_with": _phrase(
        "ends_with",
        ENDINGS,
        (
            'End your answer with "{text}"',
            'Finish with the exact words "{text}" and write nothing after them.',
            'The last words of your answer must be "{text}"',
            'Close the answer with this phrase: "{text}"',
        ),
        lambda text, check: f"{text.rstrip()} {check['text']}",
    ),
    "word_repeated": Kind(
        _word_repeated,
        (
            'Use the word "{word}" at least twice.',
            'The word "{word}" has to occur two times or more.',
            'Mention "{word}" at least two times in your answer.',
            'Write the word "{word}" twice or more often.',
        ),
        frozenset({"words"}),
    ),
    "no_commas": Kind(
        lambda draw, prompt: Drawn({"kind": "excludes", "texts": [","]}, {}),
        (
            "Do not use any commas.",
            "Write the answer without a single comma.",
            "Commas are not allowed in your answer.",
            "Avoid commas completely.",
        ),
        frozenset({"punctuation"}),
        lambda text, check: text.replace(",", ""),
    ),
    "words": Kind(
        _words,
        (
            "Write {count} words or fewer.",
            "Stay within {count} words.",
            "Limit yourself to {count} words.",
            "The answer may have {count} words at most.",
            "Be brief: no answer of more than {count} words is accepted.",
        ),
        frozenset({"length", "layout"}),
        _first_words,
    ),
    "numbered": Kind(
        _numbered,
        (
            "Answer with a numbered list (1. 2. 3.) of {count} items or more.",
            "Number the points of your answer: 1., 2. and so on. Give {count} points at least.",
            'Present the answer as a list of at least {count} items that begin with "1.", "2." and so on.',
        ),
        frozenset({"length", "layout", "start"}),
    ),
    "starts_with": _phrase(
        "starts_with",
        BEGINNINGS,
        (
            'Begin your answer with "{text}"',
            'Start with the exact words "{text}" and write nothing before them.',
            'The first words of your answer must be "{text}"',
            'Open the answer with this phrase: "{text}"',
        ),
        lambda text, check: f"{check['text']} {text.lstrip()}",
    ),
    "words_present": Kind(
        _words_present,
        (
            'Include the words "{word}" and "{other}".',
            'Both "{word}" and "{other}" must appear in the answer.',
            "Your answer has to contain the words {word} and {other}.",
            "Make use of these words: {word}, {other}.",
        ),
        frozenset({"words"}),
    ),
    "word_absent": Kind(
        _word_absent,
        (
            'Do not use the word "{word}".',
            'Answer without the word "{word}".',
            'The word "{word}" is forbidden.',
            'Never say "{word}" in your answer.',
        ),
        frozenset({"words"}),
    ),
    "quoted": Kind(
        lambda draw, prompt: Drawn({"kind": "quoted"}, {}),
        (
            "Put your whole answer in double quotation marks.",
            'Wrap the entire answer in double quotes, "like this".',
            "The answer must be inside a pair of double quotation marks from beginning to end.",
        ),
        frozenset({"start", "end", "layout"}),
        lambda text, check: '"' + text.strip().replace('"', "'") + '"',
    ),
    "json": Kind(
        lambda draw, prompt: Drawn({"kind": "json"}, {}),
        (
            "Answer with a JSON object and nothing else.",
            "Give the answer in JSON format, without any text around it.",
            'Your whole answer must be valid JSON, such as {{"answer": "..."}}.',
        ),
        frozenset({"start", "end", "layout", "length", "case", "punctuation"}),
    ),
    "language": Kind(
        _language,
        (
            "Answer in {language}.",
            "Your answer has to be in {language}.",
            "I can only read {language}, so please write in it.",
            "Reply to me in {language}, not in English.",
        ),
        frozenset({"words", "start", "end"}),
    ),
}
assert tuple(KINDS) == get_args(KindName)


def instruction(kind: KindName, prompt: str, draw: random.Random) -> Instruction | None:
    """An instruction of a kind for a prompt, in one of its wordings. None if the prompt does not allow this kind."""
    drawn = KINDS[kind].draw(draw, prompt)
    if drawn is None:
        return None
    return Instruction(kind, draw.choice(KINDS[kind].wordings).format(**drawn.slots), drawn.check)


def are_compatible(one: KindName, other: KindName) -> bool:
    """Whether an answer can follow an instruction of each of two kinds, whatever their details are."""
    return not KINDS[one].decides & KINDS[other].decides


def obeyed(text: str, instructions: tuple[Instruction, ...]) -> str | None:
    """A text, changed so that it follows the instructions. None if a kind cannot be obeyed by a rule."""
    for one in instructions:
        obey = KINDS[one.kind].obey
        if obey is None:
            return None
        text = obey(text, one.check)
    return text
