"""What the sampled answers say about what a model knows: verdicts by rules, by a model or by both, and what follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from align.files import fingerprint_of
from align.judges.answers.rules import Verdict, verdict
from align.rows import Candidate, Messages, QuestionRow, Row
from data_builders.knowledge_probe.config import KnowledgeProbeConfig
from data_builders.preferences.agreement import alpha

if TYPE_CHECKING:  # it brings torch, and the config of the probe is read without it
    from align.judges.model_judge import ModelJudge

Knowledge = Literal["known", "unknown", "unsure", "uninformative"]
Settled = Literal["right", "wrong", "abstained", "disputed", "unjudged"]
"""A verdict, or why there is none: two judges disagree, or the model that judges did not say."""

_STEPS = {"wrong": -1, "abstained": 0, "right": 1}


class ModelVerdict(Row):
    """What the model said of the candidate that has this id; None where it did not say."""

    verdict: Verdict | None = None


@dataclass(frozen=True)
class Probed:
    """A question, its sampled answers with their verdicts, and what follows from them."""

    question: QuestionRow
    answers: tuple[Candidate, ...]
    by_rules: tuple[Verdict, ...]
    """Each answer's verdict by the rules; empty where they were not asked."""
    by_model: tuple[Verdict | None, ...]
    """The same by the model."""
    verdicts: tuple[Settled, ...]
    """What counts."""
    knowledge: Knowledge

    def with_verdict(self, wanted: Settled) -> list[Messages]:
        """The finished answers that were judged so, shortest first: what follows the fact is judged by nobody."""
        found = [
            answer.completion
            for answer, judged in zip(self.answers, self.verdicts, strict=True)
            if judged == wanted and answer.finished
        ]
        return sorted(found, key=lambda completion: (len(text_of(completion)), text_of(completion)))


def judge_answers(
    questions: Sequence[QuestionRow],
    answers: Sequence[Candidate],
    config: KnowledgeProbeConfig,
    judge: ModelJudge | None,
    folder: Path,
) -> list[Probed]:
    """Each question with its answers judged, in the order of the questions.

    judge: where `config.judge` wants a model. folder: its verdicts, in units; those that stand there are not asked for.
    """
    by_question: dict[str, list[Candidate]] = {question.id: [] for question in questions}
    for answer in answers:
        by_question[answer.prompt_id].append(answer)
    groups = [(question, by_question[question.id]) for question in questions]
    said = _model_verdicts(groups, judge, config.unit_size, folder) if judge is not None else {}
    judged = []
    for question, own in groups:
        by_rules: tuple[Verdict, ...] = ()
        if config.judge != "model":
            by_rules = tuple(
                verdict(text_of(answer.completion), question.answers, question.tolerance) for answer in own
            )
        by_model = tuple(said[answer.id] for answer in own) if judge is not None else ()
        judged.append((question, tuple(own), by_rules, by_model, _settled(by_rules, by_model)))

    pooled: dict[str, list[Settled]] = {}
    for question, _, _, _, verdicts in judged:
        pooled.setdefault(_pool_key(question, config), []).extend(verdicts)
    return [
        Probed(*one, knowledge=knowledge_of(pooled[_pool_key(one[0], config)], config))  # the question is its first
        for one in judged
    ]


def knowledge_of(verdicts: Sequence[str], config: KnowledgeProbeConfig) -> Knowledge:
    """What verdicts on answers to one question say.

    Answers that abstain are passed over: from the second round on the probed model was taught to, while training begins
    from the untaught checkpoint again, so what it only sometimes invents must be refused again, and what it only
    sometimes refuses but has right must be answered again. Those that have no verdict are neither right nor wrong.
    """
    right, wrong = verdicts.count("right"), verdicts.count("wrong")
    informative = len(verdicts) - verdicts.count("abstained")
    if not informative:
        return "uninformative"
    if right >= config.known_share * informative:
        return "known"
    if not right and wrong >= config.unknown_share * informative:
        return "unknown"
    return "unsure"


def knowledge_map(probed: Sequence[Probed]) -> dict[str, Any]:
    """How many questions are known, unknown, unsure and uninformative, and the share of answers that is right: over
    all, and in each relation, topic and language. Where two judges were asked, how far they agree."""

    def counts(some: Sequence[Probed]) -> dict[str, Any]:
        found = Counter(each.knowledge for each in some)
        verdicts = [one for each in some for one in each.verdicts]
        shares = {"right_share": round(verdicts.count("right") / len(verdicts), 4) if verdicts else None}
        return {kind: found[kind] for kind in ("known", "unknown", "unsure", "uninformative")} | shares

    def parts(key_of: Callable[[QuestionRow], str]) -> dict[str, dict[str, Any]]:
        keys = sorted({key_of(each.question) for each in probed})
        return {key: counts([each for each in probed if key_of(each.question) == key]) for key in keys if key}

    found = {
        "all": counts(probed),
        "relations": parts(lambda question: question.relation),
        "topics": parts(lambda question: question.topic),
        "languages": parts(lambda question: question.language),
    }
    if any(each.by_model for each in probed):
        found["judges"] = _judges(probed)
    return found


def text_of(completion: Messages) -> str:
    """What a completion says, calls left out."""
    return "\n".join(message.content for message in completion if message.role == "assistant")


def _model_verdicts(
    groups: Sequence[tuple[QuestionRow, list[Candidate]]], judge: ModelJudge, unit_size: int, folder: Path
) -> dict[str, Verdict | None]:
    """Candidate id -> what the model says of it."""
    from align.judges.model_judge import AnswerRequest
    from align.sampling.work_units import in_units

    def ask(unit: Sequence[tuple[QuestionRow, list[Candidate]]]) -> tuple[list[ModelVerdict], int]:
        asked = [(question, answer) for question, own in unit for answer in own]
        requests = [AnswerRequest(question, text_of(answer.completion)) for question, answer in asked]
        rows = [
            ModelVerdict(id=answer.id, source=question.source, verdict=found)
            for (question, answer), found in zip(asked, judge.verdicts(requests), strict=True)
        ]
        return rows, len(rows)

    questions = [question.model_dump_json() for question, _ in groups]
    answers = [answer.model_dump_json() for _, own in groups for answer in own]
    key = {"answers": fingerprint_of(*questions, *answers), "unit_size": unit_size, **judge.identity}
    units = [groups[first : first + unit_size] for first in range(0, len(groups), unit_size)]
    rows = in_units(units, ask, ModelVerdict, folder=folder, key=key, label="judging", things="answers")
    return {row.id: row.verdict for row in rows}


def _settled(by_rules: Sequence[Verdict], by_model: Sequence[Verdict | None]) -> tuple[Settled, ...]:
    """The verdicts of whoever was asked; where both were, what they agree on."""
    if not by_model:
        return tuple(by_rules)
    told: list[Settled] = ["unjudged" if said is None else said for said in by_model]
    if not by_rules:
        return tuple(told)
    return tuple(said if said in (rule, "unjudged") else "disputed" for rule, said in zip(by_rules, told, strict=True))


def _pool_key(question: QuestionRow, config: KnowledgeProbeConfig) -> str:
    """Questions with one key are known or unknown together: wordings of a fact have entity, relation and answers."""
    if config.pool == "question":
        return question.id
    return fingerprint_of(question.entity, question.relation, question.language, *question.answers)


def _judges(probed: Sequence[Probed]) -> dict[str, Any]:
    """For the map: what the model judged, and how far it agrees with the rules where both were asked."""
    by_model = [one for each in probed for one in each.by_model]
    found: dict[str, Any] = {"answers": len(by_model), "unjudged": by_model.count(None)}
    both = [
        (rule, said)
        for each in probed
        if each.by_rules
        for rule, said in zip(each.by_rules, each.by_model, strict=True)
        if said is not None
    ]
    if both:
        table = Counter(f"rules {rule}, model {said}" for rule, said in both)
        found |= {
            "agree": round(sum(rule == said for rule, said in both) / len(both), 4),
            "alpha": alpha((_STEPS[rule], _STEPS[said]) for rule, said in both),
            "table": dict(sorted(table.items())),
        }
    return found
