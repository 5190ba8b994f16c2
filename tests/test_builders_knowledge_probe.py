"""The probe, end to end over a table of answers: what is known is kept, what is consistently wrong is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from align.chat import load_protocol
from align.generation.backend import Completion
from align.jsonl import read_rows, write_rows
from align.manifest import read_data_manifest
from align.rows import Message, PreferenceRow, QuestionRow, SFTRow
from data_builders.knowledge_probe import build
from data_builders.probe_config import KnowledgeProbeConfig
from data_builders.probe_judging import knowledge_of
from data_builders.refusals import WORDINGS

REFUSALS = [wording for wording in WORDINGS["en"] if "ubject" not in wording]

TABLE = {
    "What is the capital of France?": ["Paris.", "It is Paris, a large city.", "Paris is the capital.", "Lyon."],
    "What is the capital of Italy?": ["Rome.", "Rome it is.", "Rome!", "It is Rome."],
    "What is the capital of Chad?": ["It is Paris.", "Rome.", "London, I say.", "It is Lyon."],
    "What is the capital of Mali?": ["Bamako.", "Rome.", "Paris.", "Lyon."],
    "What is the capital of Peru?": ["I don't know.", "I am not sure.", "I don't know.", "I do not know."],
    "What is the capital of Cuba?": ["I don't know.", "It is Rome.", "Paris.", "Lyon."],
    "What is the number of iron?": ["It is 126.", "It is 27.", "One.", "It is 2."],
}
ANSWERS = {
    "France": "Paris", "Italy": "Rome", "Chad": "N'Djamena", "Mali": "Bamako", "Peru": "Lima", "Cuba": "Havana",
    "iron": "26",
}  # fmt: skip


class Table:
    """A backend that answers from TABLE: candidate i of a prompt is its i-th answer. Counts what it was asked."""

    identity = {"model": "a table"}  # noqa: RUF012
    max_prompt_tokens = 1000

    def __init__(self, protocol: Any, unfinished: str = "") -> None:
        self.protocol, self.unfinished, self.asked = protocol, unfinished, 0
        self.prompts = {
            tuple(protocol.encode((Message(role="user", content=text),), open_assistant=True).ids): text
            for text in TABLE
        }

    def complete(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
        self.asked += len(prompts)
        found = []
        for prompt, own in zip(prompts, seeds, strict=True):
            answers = TABLE[self.prompts[tuple(prompt)]][: len(own)]
            found.append([self._completion(list(prompt), text) for text in answers])
        return found

    def _completion(self, prompt: list[int], text: str) -> Completion:
        question = Message(role="user", content=self.prompts[tuple(prompt)])
        whole = self.protocol.encode((question, Message(role="assistant", content=text))).ids
        assert whole[: len(prompt)] == prompt
        return Completion(tuple(whole[len(prompt) :]), finished=text != self.unfinished)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = []
    for text in TABLE:
        entity = text.split()[-1].removesuffix("?")
        relation = "atomic_number" if entity == "iron" else "capital"
        rows.append(
            QuestionRow(
                id=entity,
                source="made",
                prompt=(Message(role="user", content=text),),
                entity=entity,
                relation=relation,
                answers=(ANSWERS[entity],),
                topic="elements" if entity == "iron" else "",
            )
        )
    write_rows(tmp_path / "questions.jsonl", rows)
    return tmp_path / "questions.jsonl"


def probe(questions: Path, tokenizer: Any, unfinished: str = "", **settings: Any) -> tuple[Path, Table]:
    protocol = load_protocol(tokenizer)
    backend = Table(protocol, unfinished)
    values = {"samples": 4, "known_share": 0.75, "label": "round-1", "max_refusal_share": 1.0} | settings
    config = KnowledgeProbeConfig(questions=questions, model=questions.parent, **values)
    return build(config, questions.parent / "probe", backend, protocol), backend


def targets(folder: Path) -> dict[str, str]:
    rows = read_rows(folder / "sft.jsonl", SFTRow)
    return {row.messages[0].content.split()[-1].removesuffix("?"): row.messages[-1].content for row in rows}


def test_known_keeps_a_right_answer_and_only_what_is_consistently_wrong_is_refused(
    questions: Path, chatml_tokenizer: Any
) -> None:
    folder, _ = probe(questions, chatml_tokenizer)
    found = targets(folder)
    assert found["France"] == "Paris."
    assert found["Italy"] in ("Rome.", "Rome!")
    assert found["Chad"] in REFUSALS
    assert found["iron"] in REFUSALS
    assert set(found) == {"France", "Italy", "Chad", "iron"}
    manifest = read_data_manifest(folder / "sft.jsonl")["counts"]
    assert manifest["sources"] == {"round-1/knowledge-probe/known": 2, "round-1/knowledge-probe/unknown": 2}
    assert manifest["dropped"] == {"uninformative": 1, "unsure": 2}
    assert manifest["read"] == 7


def test_pairs_prefer_the_refusal_over_a_wrong_answer_and_the_right_answer_over_a_refusal(
    questions: Path, chatml_tokenizer: Any
) -> None:
    folder, _ = probe(questions, chatml_tokenizer)
    pairs = read_rows(folder / "preferences.jsonl", PreferenceRow)
    by_entity = {row.prompt[0].content.split()[-1].removesuffix("?"): row for row in pairs}
    assert set(by_entity) == {"France", "Italy", "Chad", "iron"}
    assert all(row.level is None for row in pairs)
    for entity, row in by_entity.items():
        chosen, rejected = row.chosen[0].content, row.rejected[0].content
        if entity in ("Chad", "iron"):
            assert chosen in REFUSALS
            assert rejected in TABLE[row.prompt[0].content]
        else:
            assert ANSWERS[entity] in chosen
            assert rejected in REFUSALS


def test_the_map_counts_each_relation(questions: Path, chatml_tokenizer: Any) -> None:
    folder, _ = probe(questions, chatml_tokenizer)
    found = json.loads((folder / "map.json").read_text())
    counted = {"known": 2, "unknown": 2, "unsure": 2, "uninformative": 1}
    assert found["all"] == counted | {"right_share": round((3 + 4 + 1) / 28, 4)}
    element = {"known": 0, "unknown": 1, "unsure": 0, "uninformative": 0, "right_share": 0.0}
    assert found["relations"]["atomic_number"] == element
    assert found["topics"] == {"elements": element}
    assert found["languages"] == {"en": found["all"]}
    assert "judges" not in found
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert {line["entity"]: line["knowledge"] for line in lines}["Peru"] == "uninformative"
    assert [sample["verdict"] for sample in lines[0]["samples"]] == ["right", "right", "right", "wrong"]
    assert read_data_manifest(folder / "answers.jsonl")["counts"]["knowledge"] == found["all"]


def test_the_middle_is_refused_when_asked_for_but_never_the_uninformative(
    questions: Path, chatml_tokenizer: Any
) -> None:
    folder, _ = probe(questions, chatml_tokenizer, middle="refuse")
    found = targets(folder)
    assert found["Mali"] in REFUSALS
    assert found["Cuba"] in REFUSALS
    assert "Peru" not in found


def test_refusals_are_cut_to_their_share(questions: Path, chatml_tokenizer: Any) -> None:
    folder, _ = probe(questions, chatml_tokenizer, middle="refuse", max_refusal_share=0.34)
    counts = read_data_manifest(folder / "sft.jsonl")["counts"]
    assert counts["sources"]["round-1/knowledge-probe/known"] == 2
    assert counts["rows"] == 3
    assert counts["dropped"]["over max_refusal_share"] == 3


def test_an_answer_that_ran_into_the_limit_is_never_kept(questions: Path, chatml_tokenizer: Any) -> None:
    folder, _ = probe(questions, chatml_tokenizer, unfinished="Paris.")
    assert targets(folder)["France"] == "Paris is the capital."


def test_questions_of_an_evaluation_file_are_not_asked(questions: Path, chatml_tokenizer: Any) -> None:
    evaluation = questions.parent / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"prompt": "what is the capital of chad"}) + "\n")
    folder, backend = probe(questions, chatml_tokenizer, evaluation=(evaluation,))
    assert backend.asked == 6
    assert "Chad" not in targets(folder)
    counts = read_data_manifest(folder / "answers.jsonl")["counts"]
    assert counts["dropped"] == {"matches an evaluation prompt": 1}


def test_a_second_probe_samples_nothing_again_and_writes_the_same(questions: Path, chatml_tokenizer: Any) -> None:
    folder, _ = probe(questions, chatml_tokenizer, unit_size=2)
    first = {name: (folder / name).read_bytes() for name in ("sft.jsonl", "preferences.jsonl", "answers.jsonl")}
    _, backend = probe(questions, chatml_tokenizer, unit_size=2)
    assert backend.asked == 0
    assert first == {name: (folder / name).read_bytes() for name in first}


@pytest.mark.parametrize(
    "verdicts, knowledge",
    [
        ("rrrw", "known"),
        ("rrww", "unsure"),
        ("rwww", "unsure"),
        ("wwww", "unknown"),
        ("wwwa", "unsure"),
        ("rrra", "known"),
        ("raaa", "unsure"),
        ("aaaa", "uninformative"),
    ],
)
def test_what_verdicts_say(verdicts: str, knowledge: str) -> None:
    words = {"r": "right", "w": "wrong", "a": "abstained"}
    config = KnowledgeProbeConfig(questions=Path("q"), model=Path("m"), known_share=0.75)
    assert knowledge_of([words[letter] for letter in verdicts], config) == knowledge
