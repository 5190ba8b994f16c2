"""Each kind of instruction with texts that follow it and texts that do not, in the strict and the loose reading."""

from __future__ import annotations

import time
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from align.judges.verifiers.instructions import Instruction, InstructionsVerifier, follows
from align.rows import Message

READ: TypeAdapter[Instruction] = TypeAdapter(Instruction)

CASES: list[tuple[dict[str, Any], str, bool]] = [
    ({"kind": "words", "at_least": 5, "at_most": 5}, "A well-known fact - 3.5 km", True),
    ({"kind": "words", "at_most": 4}, "A well-known fact - 3.5 km", False),
    ({"kind": "words", "at_least": 3}, "two words", False),
    ({"kind": "sentences", "at_least": 2, "at_most": 2}, 'It is 3.5 km. "Go!" ', True),
    ({"kind": "sentences", "at_most": 1}, "It is far. Go", False),
    ({"kind": "sentences", "at_most": 1}, "One line\nanother line", False),
    ({"kind": "paragraphs", "at_least": 2, "at_most": 2}, "One\nstill one.\n\n \nTwo.\n", True),
    ({"kind": "paragraphs", "at_least": 2}, "One\nstill one.", False),
    ({"kind": "bullets", "at_least": 2, "at_most": 2}, "List:\n- one\n  * two\n-- no\n-no\n1. no", True),
    ({"kind": "bullets", "at_least": 1}, "2 - 1 = 1\n-\n", False),
    ({"kind": "json"}, ' {"a": [1, null]}\n', True),
    ({"kind": "json"}, "[]", True),
    ({"kind": "json"}, "5", False),
    ({"kind": "json"}, '{"a": NaN}', False),
    ({"kind": "json"}, '{"a": 1} done', False),
    ({"kind": "json"}, "[" * 100_000, False),
    ({"kind": "case", "case": "lower"}, "all of it, 3 times", True),
    ({"kind": "case", "case": "lower"}, "All of it", False),
    ({"kind": "case", "case": "upper"}, "GRÖSSE 3", True),
    ({"kind": "case", "case": "upper"}, "123", False),
    ({"kind": "keywords", "present": ["red", "Big Ben"]}, "The big ben is RED.", True),
    ({"kind": "keywords", "present": ["red"]}, "It is reddish.", False),
    ({"kind": "keywords", "absent": ["red"]}, "It is reddish.", True),
    ({"kind": "keywords", "absent": ["red"]}, "It is Red.", False),
    ({"kind": "keywords", "present": ["c++"], "absent": ["c"]}, "I write C++.", False),
    ({"kind": "sentences", "at_least": 2, "at_most": 2}, "Hallo。你好。", True),
    ({"kind": "sentences", "at_least": 3, "at_most": 3}, "元気ですか？はい！「行こう。」", True),
    ({"kind": "sentences", "at_most": 1}, "你好。再见。", False),
    ({"kind": "keywords", "present": ["你好"]}, "我说你好吗", True),
    ({"kind": "keywords", "absent": ["你好"]}, "我说你好吗", False),
    ({"kind": "keywords", "present": ["東京"]}, "京都です", False),
    ({"kind": "keywords", "present": ["ローマ"]}, "首都はローマです", True),
    ({"kind": "keywords", "present": ["학교"]}, "학교에서", True),
    ({"kind": "keywords", "present": ["x光"]}, "做x光片", False),
    ({"kind": "keywords", "present": ["x光"]}, "做 X光片", True),
    ({"kind": "keywords", "present": ["red"]}, "很red", False),
    ({"kind": "keywords", "present": [" red "]}, "Is it red?", True),
    ({"kind": "starts_with", "text": "Dear"}, " Dear Ann", True),
    ({"kind": "starts_with", "text": "Dear"}, "dear Ann", False),
    ({"kind": "ends_with", "text": "Any questions?"}, "Done. Any questions?\n", True),
    ({"kind": "ends_with", "text": "Any questions?"}, "Any questions? No.", False),
    ({"kind": "numbered", "at_least": 2, "at_most": 2}, "Two:\n1. one\n 2) two\n- no\n3.no\nIn 4. no", True),
    ({"kind": "numbered", "at_least": 1}, "- one\n1.\n", False),
    ({"kind": "occurrences", "word": "tea", "at_least": 2}, "Tea is tea.", True),
    ({"kind": "occurrences", "word": "tea", "at_least": 2}, "Tea for the team.", False),
    ({"kind": "occurrences", "word": "tea", "at_most": 1}, "Tea is tea.", False),
    ({"kind": "excludes", "texts": [",", ";"]}, "One. Two!", True),
    ({"kind": "excludes", "texts": [",", ";"]}, "One,two", False),
    ({"kind": "quoted"}, " \"It is 'so'.\nYes.\"\n", True),
    ({"kind": "quoted"}, "“It is so.”", True),
    ({"kind": "quoted"}, '"It" is so.', False),
    ({"kind": "quoted"}, '""', False),
]


@pytest.mark.parametrize("instruction, text, expected", CASES)
def test_an_instruction_read_strictly(instruction: dict[str, Any], text: str, expected: bool) -> None:
    assert follows(text, READ.validate_python(instruction)) is expected


def test_every_kind_has_a_case_that_holds_and_one_that_does_not() -> None:
    kinds = {get_args(one.model_fields["kind"].annotation)[0] for one in get_args(get_args(Instruction)[0])}
    assert len(kinds) == 14
    for expected in (True, False):
        assert {case["kind"] for case, _, found in CASES if found is expected} == kinds - {"language"}


@pytest.mark.slow
def test_a_language_is_required_and_has_to_be_clear() -> None:
    pytest.importorskip("py3langid")
    french = READ.validate_python({"kind": "language", "language": "fr"})
    assert follows("Le café est amer et chaud, et on le boit le matin.", french)
    assert not follows("Coffee is bitter and hot, and people drink it in the morning.", french)
    assert not follows("Café.", french)
    with pytest.raises(ValidationError, match="found 'klingon'"):
        READ.validate_python({"kind": "language", "language": "klingon"})


@pytest.mark.parametrize(
    "instruction, text",
    [
        ({"kind": "json"}, 'Sure, here it is:\n{"a": 1}'),
        ({"kind": "json"}, '```json\n{"a": 1}\n```'),
        ({"kind": "starts_with", "text": "Dear"}, "Of course:\nDear Ann"),
        ({"kind": "ends_with", "text": "Bye"}, "Bye\nI hope that this helps."),
        ({"kind": "starts_with", "text": "Dear"}, "**Dear** Ann"),
        ({"kind": "words", "at_most": 1}, "Sure:\nyes\nDone."),
    ],
)
def test_the_loose_reading_allows_a_frame_around_the_answer(instruction: dict[str, Any], text: str) -> None:
    read = READ.validate_python(instruction)
    assert not follows(text, read)
    assert follows(text, read, "loose")


def test_the_loose_reading_is_not_any_text() -> None:
    read = READ.validate_python({"kind": "words", "at_most": 1})
    assert not follows("one two\nthree four\nfive six", read, "loose")
    assert not follows("", READ.validate_python({"kind": "keywords", "absent": ["a"]}), "loose")


@pytest.mark.parametrize(
    "text, count", [("* a\n* b", 2), ("  *\ta\n* **b**", 2), ("* *a*\n- b\n* c", 3), ("* 2 * 3\n* 4", 2)]
)
def test_the_loose_reading_keeps_bullets(text: str, count: int) -> None:
    assert not follows(text, READ.validate_python({"kind": "bullets", "at_most": 0}), "loose")
    assert follows(text, READ.validate_python({"kind": "bullets", "at_least": count}), "loose")


def test_the_loose_reading_removes_all_marks_of_bold_and_italic_text() -> None:
    text = "**Bold**, *italic*, **two words** and ***both***"
    read = READ.validate_python({"kind": "ends_with", "text": "Bold, italic, two words and both"})
    assert not follows(text, read)
    assert follows(text, read, "loose")


@pytest.mark.parametrize(
    "instruction, text",
    [
        ({"kind": "quoted"}, '"' + "word " * 4000),
        ({"kind": "sentences", "at_most": 1}, "!" * 20_000 + "x" + " y." * 2),
    ],
)
def test_a_text_that_a_model_repeats_is_read_in_no_time(instruction: dict[str, Any], text: str) -> None:
    began = time.process_time()
    assert not follows(text, READ.validate_python(instruction))
    assert time.process_time() - began < 2, "seconds of the processor; with backtracking it would take ten or more"


def test_the_first_instruction_that_fails_is_the_reason() -> None:
    verifier = InstructionsVerifier()
    checks = [{"kind": "words", "at_most": 3}, {"kind": "case", "case": "lower"}]
    entry = verifier.read({"checks": checks})
    reasons = {
        text: found.reason if (found := verifier.failure((Message(role="assistant", content=text),), entry)) else None
        for text in ("one two", "One two", "One two three four", "")
    }
    assert reasons == {"one two": None, "One two": "case", "One two three four": "words", "": "words"}


@pytest.mark.parametrize(
    "entry",
    [
        {"checks": []},
        {"checks": [{"kind": "words"}]},
        {"checks": [{"kind": "words", "at_least": 5, "at_most": 4}]},
        {"checks": [{"kind": "keywords"}]},
        {"checks": [{"kind": "keywords", "absent": [" "]}]},
        {"checks": [{"kind": "starts_with", "text": " "}]},
        {"checks": [{"kind": "ends_with", "text": "\n"}]},
        {"checks": [{"kind": "rhymes"}]},
        {"checks": [{"kind": "json", "pretty": True}]},
    ],
)
def test_an_instruction_that_says_nothing_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        InstructionsVerifier().read(entry)
