"""The probe, end to end over a table of answers: what is known is kept, what is consistently wrong is refused."""

from __future__ import annotations

import json
import math
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from align.chat import load_protocol
from align.errors import StageError
from align.jsonl import read_rows, write_rows
from align.judges.answers.refusals import abstention
from align.manifest import read_data_manifest
from align.rows import Message, PreferenceRow, QuestionRow, SFTRow
from align.sampling.workers import joined
from align.settings import SamplingConfig
from data_builders.knowledge_probe.builder import build
from data_builders.knowledge_probe.config import KnowledgeProbeConfig
from data_builders.knowledge_probe.refusals import WORDINGS, RefusalsConfig
from data_builders.knowledge_probe.verdicts import Thresholds, classify
from tests.fakes import FakeBackend

REFUSALS = [wording for wording in WORDINGS["en"] if "ubject" not in wording]

TABLE = {
    "What is the capital of France?": ["Paris.", "It is Paris, a large city.", "Paris is the capital.", "Lyon."],
    "What is the capital of Italy?": ["Rome.", "Rome it is.", "Rome!", "It is Rome."],
    "What is the capital of Chad?": ["It is Paris.", "Rome.", "London, I say.", "It is Lyon."],
    "What is the capital of Mali?": ["Bamako.", "Rome.", "Paris.", "Lyon."],
    "What is the capital of Peru?": ["I don't know.", "I am not sure.", "I don't know.", "I do not know."],
    "What is the capital of Cuba?": ["I don't know.", "It is Rome.", "Havana.", "Lyon."],
    "What is the number of iron?": ["It is 126.", "It is 27.", "One.", "It is 2."],
}
ANSWERS = {
    "France": "Paris", "Italy": "Rome", "Chad": "N'Djamena", "Mali": "Bamako", "Peru": "Lima", "Cuba": "Havana",
    "iron": "26",
}  # fmt: skip


def table(protocol: Any, unfinished: str = "") -> FakeBackend:
    """A backend that answers from TABLE: sample i of a question is its i-th answer."""

    def reply(text: str, place: int) -> str:
        (answers,) = [answers for question, answers in TABLE.items() if question in text]
        return answers[place] + ("..." if answers[place] == unfinished else "")

    return FakeBackend(protocol, reply)


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


def probe(questions: Path, tokenizer: Any, unfinished: str = "", **settings: Any) -> tuple[Path, FakeBackend]:
    protocol = load_protocol(tokenizer)
    backend = table(protocol, unfinished)
    values = {"samples": 4, "known_ratio": 0.75, "label": "round-1", "max_refusal_ratio": 1.0} | settings
    config = KnowledgeProbeConfig(questions=questions, model=questions.parent, **values)
    return build(config, questions.parent / "probe", backend.engine), backend


def targets(folder: Path) -> dict[str, str]:
    rows = read_rows(folder / "sft.jsonl", SFTRow)
    return {row.messages[0].content.split()[-1].removesuffix("?"): row.messages[-1].content for row in rows}


@pytest.mark.slow
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
    assert manifest["sources"] == {"round-1/knowledge-probe/known/made": 2, "round-1/knowledge-probe/unknown/made": 2}
    assert manifest["dropped"] == {"uninformative": 1, "unsure": 2}
    assert manifest["read"] == 7


@pytest.mark.slow
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
    counted = {"known": 2, "unknown": 2, "unsure": 2, "uninformative": 1, "unfinished": 0}
    assert found["all"] == counted | {"right_share": round((3 + 4 + 1 + 1) / 28, 4)}
    element = {"known": 0, "unknown": 1, "unsure": 0, "uninformative": 0, "unfinished": 0, "right_share": 0.0}
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
    folder, _ = probe(questions, chatml_tokenizer, middle="refuse", max_refusal_ratio=0.34)
    counts = read_data_manifest(folder / "sft.jsonl")["counts"]
    assert counts["sources"]["round-1/knowledge-probe/known/made"] == 2
    assert counts["rows"] == 3
    assert counts["dropped"]["over max_refusal_ratio"] == 3


def test_pairs_may_have_another_share_of_refusals_than_rows(questions: Path, chatml_tokenizer: Any) -> None:
    folder, _ = probe(questions, chatml_tokenizer, middle="refuse", max_refusal_ratio_of_pairs=0.34)
    for name, refused in (("sft", 4), ("preferences", 1)):
        sources = read_data_manifest(folder / f"{name}.jsonl")["counts"]["sources"]
        assert sources["round-1/knowledge-probe/known/made"] == 2
        assert sum(sources.values()) - 2 == refused, name


def test_a_probe_that_only_measures_leaves_nothing_to_train_on(questions: Path, chatml_tokenizer: Any) -> None:
    folder, _ = probe(questions, chatml_tokenizer, make_rows=False)
    assert {path.name for path in folder.glob("*.json*")} == {
        "answers.jsonl",
        "answers.jsonl.manifest.json",
        "map.json",
    }
    assert json.loads((folder / "map.json").read_text())["all"]["known"] == 2


def test_an_answer_that_ran_into_the_limit_is_never_kept(questions: Path, chatml_tokenizer: Any) -> None:
    folder, _ = probe(questions, chatml_tokenizer, unfinished="Paris.", known_ratio=0.6)
    assert targets(folder)["France"] == "Paris is the capital."


def test_answers_that_were_cut_off_are_no_evidence_and_questions_with_few_others_are_counted(
    tmp_path: Path, chatml_tokenizer: Any
) -> None:
    said = {
        "Chad": [
            "It is a country...",
            "It lies in...",
            "Chad has...",
            "It is a...",
        ],
        "Mali": ["It is Rome.", "Mali is a...", "It is Lyon.", "The river..."],
        "Peru": ["Lima.", "It is Lima.", "Lima is...", "The capital of Peru..."],
        "Cuba": ["Havana.", "Havana is...", "It is...", "The city..."],
    }
    answers = {"Chad": "N'Djamena", "Mali": "Bamako", "Peru": "Lima", "Cuba": "Havana"}
    rows = [asked_in("en", name, f"What is the capital of {name}?", answers=(answers[name],)) for name in said]

    def reply(text: str, place: int) -> str:
        return next(own for name, own in said.items() if f"of {name}" in text)[place]

    folder = probe_of(rows, tmp_path, chatml_tokenizer, reply)
    assert knowledge(folder) == {"Chad": "unfinished", "Mali": "unknown", "Peru": "known", "Cuba": "unfinished"}
    found = json.loads((folder / "map.json").read_text())
    assert (found["all"]["unfinished"], found["unfinished_answers"]) == (2, 11)
    assert found["all"]["right_share"] == round(3 / 5, 4), "of the five finished answers"
    assert read_data_manifest(folder / "sft.jsonl")["counts"]["dropped"] == {"unfinished": 2}
    (one,) = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()][:1]
    assert {sample["verdict"] for sample in one["samples"]} == {"unfinished"}


def test_an_answer_that_says_more_than_is_true_is_not_kept_and_counted(tmp_path: Path, chatml_tokenizer: Any) -> None:
    said = {
        "Chile": ["Chile lies in America, like Kenya.", "Chile lies in America, like Kenya."],
        "Kenya": ["Kenya is a continent located in Africa.", "Kenya is located in Africa."],
    }
    answers = {"Chile": "America", "Kenya": "Africa"}
    rows = [
        asked_in("en", name, f"On which continent is {name}?", relation="continent", answers=(answers[name],))
        for name in said
    ]
    folder = probe_of(
        rows, tmp_path, chatml_tokenizer, lambda text, place: said["Chile" if "Chile" in text else "Kenya"][place % 2]
    )
    assert targets(folder) == {"Kenya": "Kenya is located in Africa."}
    counts = {"checked": 8, "passed": 2, "names another answer": 4, "takes what is asked about for the answer": 2}
    assert json.loads((folder / "map.json").read_text())["kept_answers"] == counts
    for name in ("sft", "preferences"):
        manifest = read_data_manifest(folder / f"{name}.jsonl")
        assert manifest["counts"]["dropped"] == {"names another answer": 1}
    folder = probe_of(
        rows,
        tmp_path / "unchecked",
        chatml_tokenizer,
        lambda text, place: said["Chile" if "Chile" in text else "Kenya"][0],
        check_answers=False,
    )
    assert len(targets(folder)) == 2


def test_questions_of_an_evaluation_file_are_not_asked(questions: Path, chatml_tokenizer: Any) -> None:
    evaluation = questions.parent / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"prompt": "what is the capital of chad"}) + "\n")
    folder, backend = probe(questions, chatml_tokenizer, evaluation=(evaluation,))
    assert len(backend.asked) == 6
    assert "Chad" not in targets(folder)
    counts = read_data_manifest(folder / "answers.jsonl")["counts"]
    assert counts["dropped"] == {"matches an evaluation prompt": 1}


@pytest.mark.slow
def test_a_second_probe_samples_nothing_again_and_writes_the_same(questions: Path, chatml_tokenizer: Any) -> None:
    folder, _ = probe(questions, chatml_tokenizer, unit_size=2)
    first = {name: (folder / name).read_bytes() for name in ("sft.jsonl", "preferences.jsonl", "answers.jsonl")}
    _, backend = probe(questions, chatml_tokenizer, unit_size=2)
    assert not backend.asked
    assert first == {name: (folder / name).read_bytes() for name in first}


@pytest.mark.parametrize(
    "verdicts, knowledge",
    [
        ("rrrw", "known"),
        ("rrww", "unsure"),
        ("rwww", "unsure"),
        ("wwww", "unknown"),
        ("wwwa", "unknown"),  # what a model that was taught to refuse still invents now and then
        ("rwwa", "unsure"),
        ("rrra", "known"),
        ("raaa", "known"),
        ("aaaa", "uninformative"),
        ("cccc", "unfinished"),
        ("cccr", "unfinished"),
        ("ccrr", "known"),
        ("ccww", "unknown"),
        ("crrw", "unsure"),  # two of the three that are finished
        ("caaa", "uninformative"),
    ],
)
def test_what_verdicts_say(verdicts: str, knowledge: str) -> None:
    words = {"r": "right", "w": "wrong", "a": "abstained", "c": "unfinished"}
    thresholds = Thresholds(known=0.75, unknown=1.0, finished=0.5)
    assert classify([words[letter] for letter in verdicts], thresholds) == knowledge


def strict_judge(text: str, place: int) -> str:
    """A model that holds every fact of ANSWERS, requires the answer at the start, and gives no verdict on Italy."""
    question, answer = re.search(r"Question: (.*?)\nAnswer: (.*?)\n", text, re.DOTALL).groups()
    if "informative or uninformative" in text:
        return "uninformative" if "know" in answer or "not sure" in answer else "informative"
    if "Italy" in question:
        return "I would say so."
    accepted = re.search(r"Accepted answers: (.*?)\.\n", text)[1]
    return "correct" if answer.startswith(accepted) else "incorrect"


def model_judged(questions: Path, tokenizer: Any, judge: str, **settings: Any) -> tuple[Path, Any]:
    protocol = load_protocol(tokenizer)
    backend, said = table(protocol), FakeBackend(protocol, strict_judge)
    values = {"samples": 4, "known_ratio": 0.5, "label": "round-1", "max_refusal_ratio": 1.0} | settings
    config = KnowledgeProbeConfig(questions=questions, model=questions.parent, judge=judge, **values)
    return build(config, questions.parent / judge, backend.engine, judge=said.engine), said


def knowledge(folder: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    return {line["entity"]: line["knowledge"] for line in lines}


@pytest.mark.slow
def test_a_model_judge_decides_alone_and_what_it_does_not_judge_is_unsure(
    questions: Path, chatml_tokenizer: Any
) -> None:
    folder, _ = model_judged(questions, chatml_tokenizer, "model")
    found = knowledge(folder)
    assert found["France"] == "known"  # "Paris." and "Paris is the capital." of four
    assert found["Italy"] == "unsure"  # never judged
    assert found["Chad"] == found["iron"] == "unknown"
    assert found["Peru"] == "uninformative"
    judges = json.loads((folder / "map.json").read_text())["judges"]
    assert judges == {"answers": 28, "unjudged": 4}
    assert targets(folder)["France"] == "Paris."


@pytest.mark.slow
def test_where_two_judges_disagree_an_answer_is_disputed_and_the_map_says_how_far_they_agree(
    questions: Path, chatml_tokenizer: Any
) -> None:
    folder, _ = model_judged(questions, chatml_tokenizer, "both", known_ratio=0.75)
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    france = next(line for line in lines if line["entity"] == "France")
    assert [sample["verdict"] for sample in france["samples"]] == ["right", "disputed", "right", "wrong"]
    assert [sample["rules"] for sample in france["samples"]] == ["right", "right", "right", "wrong"]
    assert [sample["model"] for sample in france["samples"]] == ["right", "wrong", "right", "wrong"]
    assert france["knowledge"] == "unsure"  # by either judge alone, or by the rules, 3 of 4 would do
    assert {sample["verdict"] for line in lines if line["entity"] == "Italy" for sample in line["samples"]} == {
        "unjudged"
    }
    judges = json.loads((folder / "map.json").read_text())["judges"]
    assert (judges["answers"], judges["unjudged"]) == (28, 4)
    assert judges["table"] == {
        "rules abstained, model abstained": 5,
        "rules right, model right": 4,
        "rules right, model wrong": 1,
        "rules wrong, model wrong": 14,
    }
    assert judges["agree"] == round(23 / 24, 4)
    assert judges["alpha"] == pytest.approx(alpha_by_hand(), abs=1e-9)


def alpha_by_hand() -> float:
    """Krippendorff's ordinal alpha of the table above, from its coincidences in plain sums: values -1, 0 and 1."""
    coincidences = {(-1, -1): 28, (0, 0): 10, (1, 1): 8, (1, -1): 1, (-1, 1): 1}
    totals = {-1: 29, 0: 10, 1: 9}

    def distance(one: int, other: int) -> float:
        low, high = sorted((one, other))
        between = sum(count for value, count in totals.items() if low <= value <= high)
        return (between - (totals[low] + totals[high]) / 2) ** 2

    n = sum(totals.values())
    observed = sum(count * distance(*pair) for pair, count in coincidences.items()) / n
    expected = sum(totals[a] * totals[b] * distance(a, b) for a in totals for b in totals) / (n * (n - 1))
    return 1 - observed / expected


@pytest.mark.slow
def test_a_second_run_asks_the_judge_nothing_again_and_another_judge_is_refused(
    questions: Path, chatml_tokenizer: Any
) -> None:
    folder, first = model_judged(questions, chatml_tokenizer, "model", unit_size=2)
    before = (folder / "answers.jsonl").read_bytes()
    _, second = model_judged(questions, chatml_tokenizer, "model", unit_size=2)
    assert first.asked
    assert not second.asked
    assert (folder / "answers.jsonl").read_bytes() == before
    protocol = load_protocol(chatml_tokenizer)
    config = KnowledgeProbeConfig(
        questions=questions, model=questions.parent, judge="model", samples=4, unit_size=2, label="round-1"
    )
    other = FakeBackend(protocol, strict_judge, name="another")
    with pytest.raises(StageError, match="judge model was fake there, is another now"):
        build(config, folder, table(protocol).engine, judge=other.engine)


def writer(text: str, place: int) -> str:
    """Writes a refusal for Chad and France, a guess for iron, an apology for Italy."""
    for entity, reply in (
        ("Chad", "I do not know what the capital of Chad is."),
        ("France", "I do not know which city is the capital of France."),
        ("Italy", "I'm sorry, but I don't know."),
    ):
        if entity in text:
            return reply
    return "It is 26."


@pytest.mark.slow
def test_refusals_by_a_model_are_checked_fall_back_and_are_counted(questions: Path, chatml_tokenizer: Any) -> None:
    protocol = load_protocol(chatml_tokenizer)
    config = KnowledgeProbeConfig(
        questions=questions,
        model=questions.parent,
        samples=4,
        known_ratio=0.75,
        max_refusal_ratio=1.0,
        refusals=RefusalsConfig(by="model"),
    )
    folder = build(
        config,
        questions.parent / "written",
        table(protocol).engine,
        writer=FakeBackend(protocol, writer).engine,
    )
    pairs = read_rows(folder / "preferences.jsonl", PreferenceRow)
    found = {row.prompt[0].content.split()[-1].removesuffix("?"): row for row in pairs}
    assert found["Chad"].chosen[0].content == "I do not know what the capital of Chad is."
    assert found["France"].rejected[0].content == "I do not know which city is the capital of France."
    assert found["Italy"].rejected[0].content in REFUSALS
    assert found["iron"].chosen[0].content in REFUSALS
    assert json.loads((folder / "map.json").read_text())["refusals"] == {
        "by templates": 2,
        "by a model": 2,
        "not taken": {"apologizes": 1, "does not abstain": 1},
    }
    again = FakeBackend(protocol, writer)
    build(config, folder, table(protocol).engine, writer=(again.engine))
    assert not again.asked


@pytest.mark.slow
def test_a_written_refusal_that_the_model_judge_calls_informative_is_not_taken(
    questions: Path, chatml_tokenizer: Any
) -> None:
    protocol = load_protocol(chatml_tokenizer)
    config = KnowledgeProbeConfig(
        questions=questions, model=questions.parent, samples=4, judge="model", refusals=RefusalsConfig(by="model")
    )

    def judge(text: str, place: int) -> str:
        return "informative" if "what the capital of Chad" in text else strict_judge(text, place)

    folder = build(
        config,
        questions.parent / "judged",
        table(protocol).engine,
        judge=FakeBackend(protocol, judge).engine,
        writer=FakeBackend(protocol, writer).engine,
    )
    result = json.loads((folder / "map.json").read_text())["refusals"]
    assert result["not taken"]["not judged uninformative"] == 1


def asked_in(language: str, name: str, text: str, **more: Any) -> QuestionRow:
    values = {"entity": name, "relation": "capital", "answers": ("x",), "language": language} | more
    return QuestionRow(id=name, source="made", prompt=(Message(role="user", content=text),), **values)


def probe_of(rows: list[QuestionRow], folder: Path, tokenizer: Any, reply: Any, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_rows(folder / "q.jsonl", rows)
    protocol = load_protocol(tokenizer)
    values = {"samples": 4, "known_ratio": 0.75, "max_refusal_ratio": 1.0} | settings
    config = KnowledgeProbeConfig(questions=folder / "q.jsonl", model=folder, **values)
    return build(config, folder / "probe", FakeBackend(protocol, reply).engine)


def test_a_refusal_stays_in_the_language_of_its_question_and_one_without_wordings_is_dropped(
    tmp_path: Path, chatml_tokenizer: Any
) -> None:
    rows = [
        asked_in("de", "de", "Was ist die Hauptstadt des Tschad?", subject="die Hauptstadt des Tschad"),
        asked_in("fr", "fr", "Quelle est la capitale du Tchad ?", subject="la capitale du Tchad"),
        asked_in("sv", "sv", "Vad heter Tchads huvudstad?"),
        asked_in("es", "es", "¿Cuál es la capital de Chad?", subject="la capital de Chad"),
    ]
    folder = probe_of(rows, tmp_path, chatml_tokenizer, lambda text, place: f"It is town {place}.")
    found = {row.messages[0].content: row.messages[-1].content for row in read_rows(folder / "sft.jsonl", SFTRow)}
    assert len(found) == 3
    for row in rows:
        if row.language != "sv":
            refusal = found[row.prompt[0].content]
            assert abstention(refusal).language == row.language
            assert row.subject.casefold() in refusal.casefold()
    for name in ("sft", "preferences"):
        dropped = read_data_manifest(folder / f"{name}.jsonl")["counts"]["dropped"]
        assert dropped == {"no refusal in its language": 1}
    languages = json.loads((folder / "map.json").read_text())["languages"]
    assert {name: counts["unknown"] for name, counts in languages.items()} == {"de": 1, "es": 1, "fr": 1, "sv": 1}


def test_numbers_within_the_tolerance_are_known(tmp_path: Path, chatml_tokenizer: Any) -> None:
    rows = [
        asked_in("en", "near", "How large is Chad?", answers=("1284000",), tolerance=0.02),
        asked_in("en", "exact", "How large is Chad exactly?", answers=("1284000",)),
    ]
    folder = probe_of(rows, tmp_path, chatml_tokenizer, lambda text, place: "About 1,280,000 km2.")
    assert knowledge(folder) == {"near": "known", "exact": "unknown"}


def counted_pairs(folder: Path) -> dict[str, list[int]]:
    """Relation, which is in the question -> rows known and refused, SFT rows and pairs alike."""
    found: dict[str, list[int]] = {}
    for row in read_rows(folder / "preferences.jsonl", PreferenceRow):
        counts = found.setdefault(row.prompt[0].content.split()[0], [0, 0])
        counts[row.source.endswith("/unknown/made")] += 1
    rows = read_rows(folder / "sft.jsonl", SFTRow)
    assert sum(sum(counts) for counts in found.values()) == len(rows)
    return found


SHARES = {"capital": (6, 6), "symbol": (9, 3), "code": (0, 12)}
"""Relation -> how many questions are known and unknown."""


def shared_probe(folder: Path, tokenizer: Any, **settings: Any) -> dict[str, list[int]]:
    rows = [
        asked_in("en", f"{relation} {kind} {n}", f"{relation} {kind} {n}?", relation=relation, answers=("yeast",))
        for relation, (known, unknown) in SHARES.items()
        for kind, count in (("right", known), ("wrong", unknown))
        for n in range(count)
    ]
    folder = probe_of(
        rows,
        folder,
        tokenizer,
        lambda text, place: "It is yeast." if "right" in text else "It is flour.",
        **settings,
    )
    return counted_pairs(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"max_refusal_ratio": 1.0}, {"capital": [6, 6], "symbol": [9, 3], "code": [0, 12]}),
        (
            {"max_refusal_ratio": 0.5, "balance": "relation"},
            {"capital": [6, 6], "symbol": [9, 3]},
        ),
        (
            {"max_refusal_ratio": 0.5, "min_refusal_ratio": 0.5, "balance": "relation"},
            {"capital": [6, 6], "symbol": [3, 3]},
        ),
        (
            {"max_refusal_ratio": 0.25, "min_refusal_ratio": 0.25, "balance": "relation"},
            {"capital": [6, 2], "symbol": [9, 3]},
        ),
        ({"min_refusal_ratio": 0.6, "balance": "relation"}, {"capital": [4, 6], "symbol": [2, 3], "code": [0, 12]}),
    ],
)
def test_shares_hold_within_each_relation_in_rows_and_pairs(
    tmp_path: Path, chatml_tokenizer: Any, settings: dict[str, Any], expected: dict[str, list[int]]
) -> None:
    assert shared_probe(tmp_path, chatml_tokenizer, **settings) == expected


def test_over_all_relations_only_the_sum_holds(tmp_path: Path, chatml_tokenizer: Any) -> None:
    found = shared_probe(tmp_path, chatml_tokenizer, max_refusal_ratio=0.5, min_refusal_ratio=0.5)
    known, refused = (sum(column) for column in zip(*found.values(), strict=True))
    assert (known, refused) == (15, 15)
    assert found["code"][1] > 0
    dropped = read_data_manifest(tmp_path / "probe" / "sft.jsonl")["counts"]["dropped"]
    assert dropped == {"over max_refusal_ratio": 6}


@pytest.mark.slow
def test_a_fact_is_known_in_all_its_wordings_or_in_none(tmp_path: Path, chatml_tokenizer: Any) -> None:
    fact = {"entity": "Chad", "answers": ("N'Djamena",)}
    rows = [
        asked_in("en", "one", "What is the capital of Chad?", **fact),
        asked_in("en", "two", "Name the capital of Chad.", **fact),
        asked_in("de", "three", "Was ist die Hauptstadt des Tschad?", **fact),
    ]

    def reply(text: str, place: int) -> str:
        return "N'Djamena." if "What" in text else "Moundou."

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    alone = probe_of(rows, tmp_path / "a", chatml_tokenizer, reply)
    pooled = probe_of(rows, tmp_path / "b", chatml_tokenizer, reply, pool="fact")

    def by_question(folder: Path) -> dict[str, str]:
        lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
        return {line["id"]: line["knowledge"] for line in lines}

    assert by_question(alone) == {"one": "known", "two": "unknown", "three": "unknown"}
    assert by_question(pooled) == {"one": "unsure", "two": "unsure", "three": "unknown"}


def _ends_soon(checkpoint: Path, folder: Path) -> None:
    """Write the checkpoint with a head that gives the end token a probability of about 0.2, and all others the same."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, tie_word_embeddings=False)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    with torch.no_grad():
        # Channel 0 is so large in every position that the last norm makes it sqrt(hidden size).
        model.model.embed_tokens.weight[:, 0] = 1000.0
        model.lm_head.weight.zero_()
        odds = 0.25 * (len(tokenizer) - 1)
        model.lm_head.weight[tokenizer.eos_token_id, 0] = math.log(odds) / math.sqrt(model.config.hidden_size)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
def test_every_step_runs_on_a_real_model_that_is_loaded_from_its_folder(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A two-layer model whose tokens are equally likely, but for an end after a few of them: no word of a judge."""
    model = tmp_path / "model"
    _ends_soon(tiny_checkpoint, model)
    rows = [asked_in("en", f"q{n}", f"What is the capital of {n}?", subject=f"the capital of {n}") for n in range(3)]
    write_rows(tmp_path / "q.jsonl", rows)
    sampling = SamplingConfig(max_completion_tokens=12, dtype="float32")
    config = KnowledgeProbeConfig(
        questions=tmp_path / "q.jsonl",
        model=model,
        sampling=sampling,
        samples=3,
        judge="both",
        judge_model=model,
        middle="refuse",
        max_refusal_ratio=1.0,
        refusals=RefusalsConfig(by="model", sampling=sampling),
    )
    folder = build(config, tmp_path / "probe")
    found = json.loads((folder / "map.json").read_text())
    assert found["judges"]["answers"] == 9
    assert found["judges"]["unjudged"] == 9
    assert found["all"]["unsure"] == 3
    assert found["refusals"]["by templates"] == 3
    refusals = [row.messages[-1].content for row in read_rows(folder / "sft.jsonl", SFTRow)]
    assert all("the capital of" in text.casefold() for text in refusals)
    assert {row.source for row in read_rows(folder / "sft.jsonl", SFTRow)} == {"probe/knowledge-probe/unsure/made"}


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"min_refusal_ratio": 0.6}, r"min_refusal_ratio is 0.6, above max_refusal_ratio \(0.5\)"),
        (
            {"min_refusal_ratio": 0.4, "max_refusal_ratio_of_pairs": 0.3},
            r"min_refusal_ratio is 0.4, above max_refusal_ratio_of_pairs \(0.3\)",
        ),
        ({"judge_model": Path("j")}, "judge_model is set, but judge is rules and uses no model"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        KnowledgeProbeConfig(questions=Path("q"), model=Path("m"), **settings)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_two_processes_share_the_probe_and_leave_the_files_of_one(
    questions: Path, chatml_tokenizer: Any, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"samples": 4, "unit_size": 1, "judge": "both", "max_refusal_ratio": 1.0}
    config = KnowledgeProbeConfig(questions=questions, model=questions, **values)
    protocol = load_protocol(chatml_tokenizer)
    asked: list[FakeBackend] = []

    def process(folder: Path) -> None:
        probed, judge = table(protocol), FakeBackend(protocol, strict_judge)
        asked.append(probed)
        with joined(folder, "output", {}, last_file="map.json") as workers:
            build(config, folder, probed.engine, judge=judge.engine, workers=workers)

    process(tmp_path / "one")
    threads = [threading.Thread(target=process, args=(tmp_path / "two",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    one, two = (files_below(tmp_path / name) for name in ("one", "two"))
    assert one.keys() > {"answers.jsonl", "map.json", "sft.jsonl", "preferences.jsonl", "judge-units/unit-00006.jsonl"}
    assert two == one
    assert sum(len(backend.prompts) for backend in asked[1:]) == len(TABLE)
