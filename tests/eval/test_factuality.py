"""Factuality on answers that are given: shares, and what became of what was known before."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from align.errors import ConfigError, RowError
from align.jsonl import read_rows, write_rows
from align.judges.judge import ScoreRequest
from align.rows import Candidate, Message, PromptRow, QuestionRow
from eval import factuality
from eval.confidence import OPENINGS, ConfidenceConfig, first_sentence, openings_for, propensity
from eval.factuality import FactualityConfig, differences_of, shares_of
from eval.intervals import share
from eval.threshold_baseline import abstaining_below, choose_threshold, threshold_baseline

BEFORE = {"a": "Paris", "b": "Rome.", "c": "It is Oslo", "d": "Lyon", "e": "Nice", "f": "I don't know."}
AFTER = {"a": "Paris!", "b": "I don't know.", "c": "Bergen", "d": "I'm not sure.", "e": "Nancy", "f": "Kyiv"}
RIGHT = {"a": "Paris", "b": "Rome", "c": "Oslo", "d": "Paris", "e": "Paris", "f": "Kyiv"}


class Answering:
    """A generator with its answers given, and the log-probabilities that it has of texts."""

    def __init__(self, answers: dict[str, str], logps: dict[str, float] | None = None) -> None:
        self.given = answers
        self.known = logps or {}

    def logps(self, requests: list[ScoreRequest]) -> tuple[list[list[float]], list[list[int]]]:
        texts = [[messages[0].content for messages in request.completions] for request in requests]
        return (
            [[self.known.get(text, -20.0) for text in own] for own in texts],
            [[len(text.split()) for text in own] for own in texts],
        )

    def answers(self, rows: list[PromptRow], folder: Path, label: str) -> list[Candidate]:
        return [
            Candidate(
                id=row.id,
                source=row.source,
                prompt_id=row.id,
                prompt=row.prompt,
                completion=(Message(role="assistant", content=self.given[row.id]),),
                index=0,
                seed=0,
                finished=True,
            )
            for row in rows
        ]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [
        QuestionRow(
            id=name,
            source="test",
            prompt=(Message(role="user", content=f"Capital of {name}?"),),
            entity=name,
            relation="capital" if name < "d" else "seat",
            answers=(answer,),
        )
        for name, answer in RIGHT.items()
    ]
    write_rows(tmp_path / "questions.jsonl", rows)
    return tmp_path / "questions.jsonl"


def baseline(questions: Path, limit: int | None = None) -> Path:
    before = factuality.evaluate(FactualityConfig(questions=questions), Answering(BEFORE), questions.parent, limit)  # type: ignore[arg-type]
    path = questions.parent / "before.json"
    path.write_text(json.dumps({"rows": before.rows}))
    return path


def test_right_wrong_and_abstained_are_shares_of_all_questions(questions: Path) -> None:
    found = factuality.evaluate(FactualityConfig(questions=questions), Answering(AFTER), questions.parent, None)  # type: ignore[arg-type]
    net = found.scores["right_minus_wrong"]
    assert found.scores == {
        "right": share(2, 6),
        "wrong": share(2, 6),
        "abstained": share(2, 6),
        "right_minus_wrong": net,
        "attempt_accuracy": share(2, 4),
    }
    assert net is not None
    assert -1 < net.low < net.value == 0 < net.high < 1
    assert not found.differences
    assert found.counts["clusters"] == {"by": "entity", "count": 6}
    assert found.counts["by_relation"] == {
        "capital": {"right": 1, "wrong": 1, "abstained": 1},
        "seat": {"right": 1, "wrong": 1, "abstained": 1},
    }
    assert found.rows[0] == {
        "id": "a",
        "prompt": "Capital of a?",
        "answer": "Paris!",
        "verdict": "right",
        "before": None,
        "expected": ["Paris"],
        "entity": "a",
        "relation": "capital",
        "topic": "",
        "language": "en",
        "finished": True,
    }


def test_against_a_baseline_what_was_known_and_what_was_wrong_are_followed(questions: Path) -> None:
    config = FactualityConfig(questions=questions, baseline=baseline(questions))
    found = factuality.evaluate(config, Answering(AFTER), questions.parent, None)  # type: ignore[arg-type]
    assert found.scores["known_kept"] == share(1, 3)
    assert found.scores["known_wrong"] == share(1, 3)
    assert found.scores["false_refusals"] == share(1, 3)
    assert found.scores["unknown_refused"] == share(1, 2)
    # Before: 3 right, 2 wrong, 1 abstained; now 2 of each. Of what is answered, 3 of 5 were right, and 2 of 4 are.
    expected = {"right": -1 / 6, "wrong": 0, "abstained": 1 / 6, "right_minus_wrong": -1 / 6, "attempt_accuracy": -0.1}
    assert {name: found.differences[name].value for name in found.differences} == pytest.approx(expected)  # type: ignore[union-attr]
    for difference in found.differences.values():
        assert difference is not None
        assert difference.low < difference.value < difference.high
        assert difference.n == 6
    assert {row["id"]: row["before"] for row in found.rows} == {
        **dict.fromkeys("abc", "right"),
        **dict.fromkeys("de", "wrong"),
        "f": "abstained",
    }


def test_a_baseline_of_other_questions_is_refused(questions: Path) -> None:
    config = FactualityConfig(questions=questions, baseline=baseline(questions, limit=4))
    with pytest.raises(RowError, match=r"before\.json: has no verdict for 2 of 6 questions, .* the same limit\."):
        factuality.evaluate(config, Answering(AFTER), questions.parent, None)  # type: ignore[arg-type]


def test_a_baseline_of_a_question_that_has_changed_is_refused(questions: Path) -> None:
    before = baseline(questions)
    rows = read_rows(questions, QuestionRow)
    asked = (Message(role="user", content="Seat of c?"),)
    write_rows(questions, [row.model_copy(update={"prompt": asked}) if row.id == "c" else row for row in rows])
    config = FactualityConfig(questions=questions, baseline=before)
    with pytest.raises(
        RowError, match=r"other questions: prompt of c was 'Capital of c\?' there, and is 'Seat of c\?'"
    ):
        factuality.evaluate(config, Answering(AFTER), questions.parent, None)  # type: ignore[arg-type]
    write_rows(questions, [row.model_copy(update={"answers": ("Oslo",)}) if row.id == "d" else row for row in rows])
    with pytest.raises(RowError, match=r"other questions: expected of d was "):
        factuality.evaluate(config, Answering(AFTER), questions.parent, None)  # type: ignore[arg-type]


def test_a_limit_takes_the_same_questions_every_time(questions: Path) -> None:
    config = FactualityConfig(questions=questions, baseline=baseline(questions, limit=4))
    found = factuality.evaluate(config, Answering(AFTER), questions.parent, 4)  # type: ignore[arg-type]
    assert len(found.rows) == 4


def test_transfer_relations_are_scored_apart_and_stay_in_all_shares(questions: Path) -> None:
    config = FactualityConfig(questions=questions, baseline=baseline(questions), transfer_relations=("seat",))
    found = factuality.evaluate(config, Answering(AFTER), questions.parent, None)  # type: ignore[arg-type]
    assert found.scores["right"] == share(2, 6)
    assert found.scores["transfer_right"] == share(1, 3)
    assert found.scores["transfer_unknown_refused"] == share(1, 2)
    assert found.scores["transfer_known_kept"] is None, "nothing was known of them before"
    # Of d, e and f, one more is right now, and one fewer is wrong.
    assert found.differences["transfer_right_minus_wrong"].value == pytest.approx(2 / 3)  # type: ignore[union-attr]


def test_topics_and_languages_are_counted_apart(tmp_path: Path) -> None:
    rows = [
        QuestionRow(
            id=name,
            source="test",
            prompt=(Message(role="user", content=name),),
            entity=name,
            relation="capital",
            answers=(RIGHT[name],),
            topic=topic,
            language=language,
        )
        for name, topic, language in (("a", "countries", "de"), ("b", "countries", "en"), ("c", "", "de"))
    ]
    write_rows(tmp_path / "q.jsonl", rows)
    found = factuality.evaluate(FactualityConfig(questions=tmp_path / "q.jsonl"), Answering(AFTER), tmp_path, None)  # type: ignore[arg-type]
    assert found.counts["by_topic"] == {"countries": {"right": 1, "wrong": 0, "abstained": 1}}
    assert found.counts["by_language"] == {
        "de": {"right": 1, "wrong": 1, "abstained": 0},
        "en": {"right": 0, "wrong": 0, "abstained": 1},
    }


def test_what_is_kept_wrong_and_refused_of_the_known_adds_up_to_all_of_it() -> None:
    rows = [
        {"id": f"{was}{now}{n}", "entity": f"e{n}", "before": was, "verdict": now}
        for was, now, count in (
            *(("right", "right", 5), ("right", "wrong", 3), ("right", "abstained", 2)),
            *(("wrong", "right", 1), ("wrong", "abstained", 4), ("abstained", "wrong", 2)),
        )
        for n in range(count)
    ]
    found = {name: share.value for name, share in shares_of(rows, has_baseline=True).items() if share is not None}
    assert (found["known_kept"], found["known_wrong"], found["false_refusals"]) == (0.5, 0.3, 0.2)
    assert found["right_minus_wrong"] == pytest.approx((6 - 5) / 17)
    assert found["attempt_accuracy"] == 6 / 11
    changes = differences_of(rows)
    assert changes["right_minus_wrong"].value == pytest.approx((6 - 5) / 17 - (10 - 5) / 17)  # type: ignore[union-attr]
    assert changes["attempt_accuracy"].value == pytest.approx(6 / 11 - 10 / 15)  # type: ignore[union-attr]


def test_intervals_are_over_entities() -> None:
    """Ten entities with three questions each, all right or all wrong, say no more than ten questions."""
    rows = [
        {"id": f"{n} {part}", "entity": f"e{n}", "before": "wrong", "verdict": "right" if n < 5 else "wrong"}
        for n in range(10)
        for part in range(3)
    ]
    apart = [{**row, "entity": row["id"]} for row in rows]
    clustered, plain = shares_of(rows, has_baseline=True)["right"], shares_of(apart, has_baseline=True)["right"]
    assert plain == share(15, 30)
    assert clustered is not None
    assert plain is not None
    assert clustered.high - clustered.low > 1.5 * (plain.high - plain.low)
    assert clustered.n == 30
    over_entities, over_rows = differences_of(rows)["right"], differences_of(apart)["right"]
    assert over_entities is not None
    assert over_rows is not None
    assert over_entities.high - over_entities.low > 1.5 * (over_rows.high - over_rows.low)


REFUSING = {"Paris!": -0.4, "Bergen": -3.0, "Nancy": -2.0, "Kyiv": -1.0, "Rome.": -4.0, "Lyon": -5.0}


def scored(questions: Path) -> factuality.Result:
    config = FactualityConfig(questions=questions, baseline=baseline(questions), confidence=ConfidenceConfig())
    return factuality.evaluate(config, Answering(AFTER, REFUSING), questions.parent, None)  # type: ignore[arg-type]


def test_what_the_model_would_have_said_replaces_an_abstained_answer(questions: Path) -> None:
    rows = {row["id"]: row for row in scored(questions).rows}
    assert {name: row["forced_verdict"] for name, row in rows.items()} == {
        "a": "right",
        "b": "right",  # the model abstains; the baseline said Rome
        "c": "wrong",
        "d": "wrong",  # the model abstains; the baseline said Lyon
        "e": "wrong",
        "f": "right",
    }
    assert rows["a"]["scores"]["answer_sum"] == -0.4
    assert rows["b"]["scores"]["answer_sum"] == -4.0, "the baseline's answer, as likely as this model has it"
    assert rows["d"]["scores"]["answer_mean"] == -5.0


def test_curves_of_each_score_stand_in_the_counts_and_their_areas_in_the_scores(questions: Path) -> None:
    found = scored(questions)
    curves = found.counts["risk_coverage"]
    # By the sum: a right, f right, e wrong, c wrong, b right, d wrong. Before, a, b and c were right.
    assert [point[:2] for point in curves["answer_sum"]["points"]] == [
        pytest.approx(pair, abs=1e-6)
        for pair in ([1 / 6, 0], [2 / 6, 0], [3 / 6, 1 / 3], [4 / 6, 1 / 2], [5 / 6, 2 / 5], [1, 1 / 2])
    ]
    assert found.scores["aurc_answer_sum"].value == pytest.approx((1 / 3 + 1 / 2 + 2 / 5 + 1 / 2) / 6)  # type: ignore[union-attr]
    assert found.scores["auroc_answer_sum"].value == pytest.approx(5 / 9)  # type: ignore[union-attr]
    assert curves["answer_sum"]["at_known_kept"] == {"85%": None, "90%": None}, "c was known and is wrong now"
    assert curves["no_answer"] == 0
    low, high = found.scores["aurc_answer_sum"].low, found.scores["aurc_answer_sum"].high  # type: ignore[union-attr]
    assert low < found.scores["aurc_answer_sum"].value < high  # type: ignore[union-attr]
    json.dumps(found.counts)


def test_questions_that_neither_answers_are_in_no_curve(questions: Path) -> None:
    config = FactualityConfig(questions=questions, confidence=ConfidenceConfig())
    found = factuality.evaluate(config, Answering(AFTER, REFUSING), questions.parent, None)  # type: ignore[arg-type]
    assert found.counts["risk_coverage"]["no_answer"] == 2
    assert len(found.counts["risk_coverage"]["answer_sum"]["points"]) == 4


@pytest.mark.parametrize(
    "text, first",
    [
        ("The capital is Paris. It has 2 million people.", "The capital is Paris."),
        ("Paris\nIt is large.", "Paris"),
        ("St. George's is it. It is small.", "St. George's is it."),
        ("About 1.5 million", "About 1.5 million"),
        ("", ""),
    ],
)
def test_an_answer_is_scored_up_to_the_end_of_its_first_sentence(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_propensity_is_the_log_of_what_refusing_leaves() -> None:
    assert propensity([math.log(0.25), math.log(0.5)]) == pytest.approx(math.log(0.25))
    assert propensity([-1000.0]) == 0.0
    assert math.isfinite(propensity([0.0, -1e-9])), "rounding may pass 1"


def test_openings_add_up_since_none_begins_as_another_does() -> None:
    assert ConfidenceConfig().openings == OPENINGS
    with pytest.raises(ValueError, match=r"en: \"I don't know\" begins with \"I don't\", and would be counted twice"):
        ConfidenceConfig(openings={"en": ("I don't", "I don't know")})
    with pytest.raises(ValueError, match="expected openings for en, found none"):
        ConfidenceConfig(openings={"de": ("Ich",)})


def asked(language: str, subject: str) -> QuestionRow:
    prompt = (Message(role="user", content="?"),)
    return QuestionRow(
        id="q", source="t", prompt=prompt, entity="", relation="", answers=("x",), language=language, subject=subject
    )


def test_openings_name_the_subject_where_there_is_one() -> None:
    openings = ConfidenceConfig().openings
    assert "The capital of Chad is not something" in openings_for(asked("en", "the capital of Chad"), openings)
    assert "Über die Hauptstadt des Tschad habe ich keine" in openings_for(
        asked("de", "die Hauptstadt des Tschad"), openings
    )
    assert len(openings_for(asked("de", ""), openings)) == len(OPENINGS["de"]) - 2
    assert openings_for(asked("sv", ""), openings) == openings_for(asked("en", ""), openings)


def test_every_refusal_that_the_probe_teaches_begins_with_an_opening() -> None:
    wordings = pytest.importorskip("data_builders.knowledge_probe.refusals").WORDINGS
    assert wordings.keys() == OPENINGS.keys()
    for language, texts in wordings.items():
        openings = openings_for(asked(language, "la x"), OPENINGS)
        for text in texts:
            filled = text.format(subject="la x", Subject="La x")
            assert sum(filled.startswith(opening) for opening in openings) == 1, (language, filled)


def untouched(scores: str) -> list[dict]:
    """`9r 4w`: rows of a model that never abstains, with a score and a verdict each."""
    verdicts = {"r": "right", "w": "wrong"}
    return [
        {
            "id": str(place),
            "verdict": verdicts[word[1]],
            "forced_verdict": verdicts[word[1]],
            "before": None,
            "scores": {"answer_mean": float(word[0])},
        }
        for place, word in enumerate(scores.split())
    ]


def test_a_threshold_is_chosen_on_one_set_and_applied_to_another() -> None:
    dev = untouched("9r 8w 7r 6r 5w 4r 3w 2w")
    assert choose_threshold(dev, "answer_mean", 0.75) == 6
    assert choose_threshold(dev, "answer_mean", 1.0) == 4
    threshold, shares = threshold_baseline(dev, untouched("9r 6w 5r 1w 1w"), "answer_mean", 0.75)
    assert threshold == 6
    assert shares["right"] == share(1, 5)
    assert shares["wrong"] == share(1, 5)
    assert shares["abstained"] == share(3, 5)
    assert shares["known_kept"] == share(1, 2)
    assert shares["false_refusals"] == share(1, 2)
    assert shares["unknown_refused"] == share(2, 3)


def test_an_answer_without_a_score_is_abstained_from() -> None:
    rows = untouched("9r")
    rows[0]["scores"]["answer_mean"] = None
    assert abstaining_below(rows, "answer_mean", -1e9)[0]["verdict"] == "abstained"


def test_a_misspelled_setting_of_the_confidence_is_named(tmp_path: Path) -> None:
    from align.config import load_config
    from recipes.run_eval import RunEvalRecipe

    path = tmp_path / "eval.yaml"
    path.write_text(
        f"output_dir: {tmp_path}\nmodel: {{path: x}}\nfactuality: {{questions: q, confidence: {{opening: 1}}}}\n"
    )
    with pytest.raises(ConfigError, match=r"factuality\.confidence\.opening: is not a setting"):
        load_config(RunEvalRecipe, path)
