"""From sampled answers to what the model knows: judge every answer, then classify every question.

An answer is judged by rules that compare strings, by a judge model, or by both. A question is then known, unknown,
unsure or uninformative, depending on how many of its answers are right and wrong (`classify`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from align.files import fingerprint_of, fingerprint_of_each
from align.judges.answers.rules import Verdict, verdict
from align.rows import Candidate, Messages, QuestionRow, Row
from data_builders.preferences.agreement import alpha

if TYPE_CHECKING:  # the judge model imports torch, which reading a config must not do
    from align.judges.model_judge import ModelJudge

Knowledge = Literal["known", "unknown", "unsure", "uninformative", "unfinished"]
"""What a model knows; unfinished if too many of the question's answers were cut off at the token limit."""
FinalVerdict = Literal["right", "wrong", "abstained", "disputed", "unjudged", "unfinished"]
"""A verdict, or why there is none: the two judges disagree (disputed), the judge model gave no verdict (unjudged), or
the answer was cut off at the token limit, before it may have come to the point (unfinished)."""

_STEPS = {"wrong": -1, "abstained": 0, "right": 1}


class Thresholds(NamedTuple):
    """From which ratio of its informative answers on a question counts as known or unknown; both from 0 to 1."""

    known: float
    """Minimum ratio of right answers."""
    unknown: float
    """Minimum ratio of wrong answers, if none is right."""
    finished: float = 0.0
    """Minimum ratio of answers that are finished, of all answers."""


class AnsweredQuestion(NamedTuple):
    """A question with the answers that were sampled for it."""

    question: QuestionRow
    answers: tuple[Candidate, ...]


class ModelVerdict(Row):
    """The judge model's verdict on the candidate with this id; None if the model gave no verdict."""

    verdict: Verdict | None = None


@dataclass(frozen=True)
class ProbedQuestion:
    """A question, its sampled answers with their verdicts, and the conclusion about what the model knows."""

    question: QuestionRow
    answers: tuple[Candidate, ...]
    by_rules: tuple[Verdict, ...]
    """The verdict of the rules on each answer; empty if the rules were not used."""
    by_model: tuple[Verdict | None, ...]
    """The verdict of the judge model on each answer; empty if there was no judge model."""
    verdicts: tuple[FinalVerdict, ...]
    """The verdict that counts, for each answer."""
    knowledge: Knowledge

    def with_verdict(self, expected: FinalVerdict) -> list[Messages]:
        """Return the finished answers with this verdict, shortest first.

        Short answers are preferred because they say little in addition to the fact; see `kept_answers.py`.
        """
        found = [
            answer.completion
            for answer, judged in zip(self.answers, self.verdicts, strict=True)
            if judged == expected and answer.finished
        ]
        return sorted(found, key=lambda completion: (len(completion_text(completion)), completion_text(completion)))


def group_answers(questions: Sequence[QuestionRow], answers: Sequence[Candidate]) -> list[AnsweredQuestion]:
    """Group the sampled answers by question, in the order of the questions."""
    by_question: dict[str, list[Candidate]] = {question.id: [] for question in questions}
    for answer in answers:
        by_question[answer.prompt_id].append(answer)
    return [AnsweredQuestion(question, tuple(by_question[question.id])) for question in questions]


def rule_verdicts(answered: Sequence[AnsweredQuestion]) -> dict[str, Verdict]:
    """Judge every answer by comparing strings. Returns candidate id -> verdict."""
    return {
        answer.id: verdict(completion_text(answer.completion), question.answers, question.tolerance)
        for question, answers in answered
        for answer in answers
    }


def model_verdicts(
    answered: Sequence[AnsweredQuestion], judge: ModelJudge, unit_size: int, folder: Path
) -> dict[str, Verdict | None]:
    """Let a model judge every answer. Returns candidate id -> verdict, or None if the model gave no verdict.

    unit_size: the number of questions after which the verdicts are saved into `folder`. A run that was interrupted
        reads the saved verdicts and asks the judge only for the rest.
    """
    from align.judges.model_judge import AnswerRequest
    from align.sampling.work_units import run_units

    def ask(unit: Sequence[AnsweredQuestion]) -> tuple[list[ModelVerdict], int]:
        asked = [(question, answer) for question, own in unit for answer in own]
        requests = [AnswerRequest(question, completion_text(answer.completion)) for question, answer in asked]
        rows = [
            ModelVerdict(id=answer.id, source=question.source, verdict=found)
            for (question, answer), found in zip(asked, judge.verdicts(requests), strict=True)
        ]
        return rows, len(rows)

    questions = (question.model_dump_json() for question, _ in answered)
    answers = (answer.model_dump_json() for _, own in answered for answer in own)
    key = {"answers": fingerprint_of_each(chain(questions, answers)), "unit_size": unit_size, **judge.identity}
    units = [answered[first : first + unit_size] for first in range(0, len(answered), unit_size)]
    rows = run_units(
        units,
        ask,
        ModelVerdict,
        folder=folder,
        key=key,
        label="judging",
        things="answers",
        code=judge.engine.code_modules,
        unused_code=judge.engine.unused_code,
    )
    return {row.id: row.verdict for row in rows.rows()}


def probed_questions(
    answered: Sequence[AnsweredQuestion],
    by_rules: Mapping[str, Verdict] | None,
    by_model: Mapping[str, Verdict | None] | None,
    thresholds: Thresholds,
    *,
    pool_facts: bool,
) -> list[ProbedQuestion]:
    """Combine the verdicts of both judges and classify every question.

    by_rules, by_model: candidate id -> verdict; None if that judge was not used.
    pool_facts: classify all wordings of a fact together, by the verdicts on all their answers, instead of each alone.
    """
    key_of = _fact_key if pool_facts else _question_key
    judged = []
    pooled: dict[str, list[FinalVerdict]] = {}
    verdicts: tuple[FinalVerdict, ...]
    for question, answers in answered:
        rules = () if by_rules is None else tuple(by_rules[answer.id] for answer in answers)
        model = () if by_model is None else tuple(by_model[answer.id] for answer in answers)
        judged_verdicts = _final_verdicts(rules, model)
        verdicts = tuple(
            verdict if answer.finished else "unfinished"
            for answer, verdict in zip(answers, judged_verdicts, strict=True)
        )
        judged.append((question, answers, rules, model, verdicts))
        pooled.setdefault(key_of(question), []).extend(verdicts)
    return [
        ProbedQuestion(question, answers, rules, model, verdicts, classify(pooled[key_of(question)], thresholds))
        for question, answers, rules, model, verdicts in judged
    ]


def classify(verdicts: Sequence[str], thresholds: Thresholds) -> Knowledge:
    """Conclude from the verdicts on a question's answers what the model knows.

    Abstentions are not counted: from the second round on, the probed model has been taught to abstain, but training
    starts again from the untrained checkpoint. So a question that the model sometimes makes up an answer to must be
    refused again, and a question that it answers correctly whenever it answers must be answered again. Disputed and
    unjudged answers count as informative, and as neither right nor wrong.

    Answers that were cut off at the token limit are no evidence either way: "Chad is a country in the north of" is not
    wrong. They are left out, and a question with too few finished answers is unfinished.

    Example, with known = 0.75 and unknown = 1.0: right, right, right, wrong is known (3 of 4 are right); wrong, wrong,
    wrong, abstained is unknown (all 3 informative answers are wrong); right, wrong, wrong, abstained is unsure.
    """
    finished = len(verdicts) - verdicts.count("unfinished")
    if not finished or finished < thresholds.finished * len(verdicts):
        return "unfinished"
    right, wrong = verdicts.count("right"), verdicts.count("wrong")
    informative = finished - verdicts.count("abstained")
    if not informative:
        return "uninformative"
    if right >= thresholds.known * informative:
        return "known"
    if not right and wrong >= thresholds.unknown * informative:
        return "unknown"
    return "unsure"


def knowledge_counts(probed: Sequence[ProbedQuestion]) -> dict[str, Any]:
    """Return what `map.json` says: how many questions are known, unknown, unsure, uninformative and unfinished.

    The counts are over all questions and for each relation, topic and language, with the ratio of right answers among
    the finished ones. `unfinished_answers` is the number of answers that were cut off at the token limit. If both
    judges were used, `judges` says how often they agree.
    """

    def counts(some: Sequence[ProbedQuestion]) -> dict[str, Any]:
        found = Counter(each.knowledge for each in some)
        verdicts = [one for each in some for one in each.verdicts if one != "unfinished"]
        right = {"right_share": round(verdicts.count("right") / len(verdicts), 4) if verdicts else None}
        kinds: tuple[Knowledge, ...] = ("known", "unknown", "unsure", "uninformative", "unfinished")
        return {kind: found[kind] for kind in kinds} | right

    def parts(key_of: Callable[[QuestionRow], str]) -> dict[str, dict[str, Any]]:
        keys = sorted({key_of(each.question) for each in probed})
        return {key: counts([each for each in probed if key_of(each.question) == key]) for key in keys if key}

    found: dict[str, Any] = {
        "all": counts(probed),
        "relations": parts(lambda question: question.relation),
        "topics": parts(lambda question: question.topic),
        "languages": parts(lambda question: question.language),
    }
    found["unfinished_answers"] = sum(each.verdicts.count("unfinished") for each in probed)
    if any(each.by_model for each in probed):
        found["judges"] = _judge_agreement(probed)
    return found


def completion_text(completion: Messages) -> str:
    """Return the text of a completion, without its tool calls."""
    return "\n".join(message.content for message in completion if message.role == "assistant")


def _final_verdicts(by_rules: Sequence[Verdict], by_model: Sequence[Verdict | None]) -> tuple[FinalVerdict, ...]:
    """Return the verdicts of the judge that was used; if both were used, the verdicts on which they agree."""
    if not by_model:
        return tuple(by_rules)
    model: list[FinalVerdict] = ["unjudged" if one is None else one for one in by_model]
    if not by_rules:
        return tuple(model)
    return tuple(one if one in (rule, "unjudged") else "disputed" for rule, one in zip(by_rules, model, strict=True))


def _question_key(question: QuestionRow) -> str:
    return question.id


def _fact_key(question: QuestionRow) -> str:
    """Return a key that all wordings of a fact in one language share."""
    return fingerprint_of(question.entity, question.relation, question.language, *question.answers)


def _judge_agreement(probed: Sequence[ProbedQuestion]) -> dict[str, Any]:
    """Count what the judge model judged, and measure how often it agrees with the rules if both were used."""
    by_model = [one for each in probed for one in each.by_model]
    found: dict[str, Any] = {"answers": len(by_model), "unjudged": by_model.count(None)}
    both = [
        (rule, model)
        for each in probed
        if each.by_rules
        for rule, model in zip(each.by_rules, each.by_model, strict=True)
        if model is not None
    ]
    if both:
        table = Counter(f"rules {rule}, model {model}" for rule, model in both)
        found |= {
            "agree": round(sum(rule == model for rule, model in both) / len(both), 4),
            "alpha": alpha((_STEPS[rule], _STEPS[model]) for rule, model in both),
            "table": dict(sorted(table.items())),
        }
    return found
