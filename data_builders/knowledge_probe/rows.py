"""The training rows that follow from a probe: refusals for what the model does not know, its own answers for the rest.

The order is: `choose_targets` decides which questions get rows and what the model should learn to say; a refusal is
worded or written for each of them; `sft_rows` and `preference_rows` make the rows and balance answers with refusals.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from align.rows import Candidate, Message, Messages, PreferenceRow, QuestionRow, Row, SFTRow, row_id
from data_builders.knowledge_probe.kept_answers import KeptAnswers
from data_builders.knowledge_probe.refusals import RefusalsConfig, refusal_for, refusal_problem
from data_builders.knowledge_probe.verdicts import ProbedQuestion, completion_text
from data_builders.row_set import RowSet

if TYPE_CHECKING:
    from align.judges.model_judge import ModelJudge

R = TypeVar("R", bound=Row)
Target = Literal["answer", "refusal"]
"""What the model should learn to say to a question."""
NO_WORDING = "no refusal in its language"


class Balance(NamedTuple):
    """How many of the rows may and must be refusals, as ratios from 0 to 1, and how many rows there may be."""

    max_ratio: float
    min_ratio: float
    by_relation: bool
    """Whether the ratios apply to the rows of each relation separately instead of to all rows together."""
    limit: int | None
    seed: int


def choose_targets(probed: Sequence[ProbedQuestion], *, refuse_unsure: bool) -> dict[str, Target]:
    """Return question id -> what to teach. Questions without a target get no rows.

    Known questions are answered and unknown ones refused. Unsure ones are refused only with `refuse_unsure`, and
    questions that the model never gave an informative answer to get no rows.
    """
    targets: dict[str, Target] = {}
    for each in probed:
        if each.knowledge == "known":
            targets[each.question.id] = "answer"
        elif each.knowledge == "unknown" or (each.knowledge == "unsure" and refuse_unsure):
            targets[each.question.id] = "refusal"
    return targets


def worded_refusals(
    probed: Sequence[ProbedQuestion], targets: Mapping[str, Target], config: RefusalsConfig, seed: int
) -> dict[str, str]:
    """Return question id -> a refusal from the list of wordings, for every question with a target.

    Known questions get a refusal too: it is the rejected completion of their preference pair. A question in a language
    without wordings is left out.
    """
    known: dict[tuple[str, str], list[QuestionRow]] = defaultdict(list)
    for each in probed:
        if each.knowledge == "known":
            known[each.question.entity, each.question.language].append(each.question)
    texts = {}
    for each in probed:
        if each.question.id in targets:
            others = known[each.question.entity, each.question.language]
            text = refusal_for(each.question, config, seed, others)
            if text is not None:
                texts[each.question.id] = text
    return texts


def checked_refusals(
    questions: Sequence[QuestionRow], written: Sequence[Candidate], *, allow_apology: bool
) -> tuple[dict[str, str], Counter[str]]:
    """Keep what a model wrote only if it is a refusal.

    written: one completion for each question. Returns question id -> refusal, and why the others were not used.
    """
    found: dict[str, str] = {}
    problems = Counter[str]()
    for question, candidate in zip(questions, written, strict=True):
        text = completion_text(candidate.completion).strip()
        problem = refusal_problem(text, question, allow_apology=allow_apology)
        problem = problem if candidate.finished else "unfinished"
        if problem is None:
            found[question.id] = text
        else:
            problems[problem] += 1
    return found, problems


def judged_refusals(
    texts: Mapping[str, str], questions: Sequence[QuestionRow], judge: ModelJudge
) -> tuple[dict[str, str], Counter[str]]:
    """Keep the refusals that the judge model also considers uninformative, and count the others."""
    from align.judges.model_judge import AnswerRequest

    questions = [question for question in questions if question.id in texts]
    verdicts = judge.verdicts([AnswerRequest(question, texts[question.id]) for question in questions])
    kept = {
        question.id: texts[question.id]
        for question, verdict in zip(questions, verdicts, strict=True)
        if verdict == "abstained"
    }
    lost = len(texts) - len(kept)
    return kept, Counter({"not judged uninformative": lost} if lost else {})


def sft_rows(
    probed: Sequence[ProbedQuestion],
    targets: Mapping[str, Target],
    refusals: Mapping[str, str],
    kept: KeptAnswers,
    label: str,
    balance: Balance,
) -> RowSet[SFTRow]:
    """Make SFT rows: a known question with the kept answer of the model, an unknown one with its refusal.

    kept: the answers of the model to train on. label: what the rows' source begins with.
    """
    answered: RowSet[SFTRow] = RowSet()
    refused: RowSet[SFTRow] = RowSet()
    for each in probed:
        target, refusal = targets.get(each.question.id), refusals.get(each.question.id)
        if target == "answer":
            right = kept.answers.get(each.question.id)
            if right is not None:
                answered.keep(_sft_row(each, right, label))
            else:
                answered.drop(kept.problems[each.question.id])
        elif target is None:
            refused.drop(each.knowledge)
        elif refusal is None:
            refused.drop(NO_WORDING)
        else:
            refused.keep(_sft_row(each, _assistant(refusal), label))
    return _balanced(answered, refused, _relations(probed, label), balance)


def preference_rows(
    probed: Sequence[ProbedQuestion],
    targets: Mapping[str, Target],
    refusals: Mapping[str, str],
    kept: KeptAnswers,
    label: str,
    balance: Balance,
) -> RowSet[PreferenceRow]:
    """Make preference pairs without a level.

    Known: the kept answer of the model is preferred to a refusal. Unknown: a refusal is preferred to a wrong answer of
    the model. label: what the rows' source begins with.
    """
    answered: RowSet[PreferenceRow] = RowSet()
    refused: RowSet[PreferenceRow] = RowSet()
    for each in probed:
        target, refusal = targets.get(each.question.id), refusals.get(each.question.id)
        right, wrong = kept.answers.get(each.question.id), each.with_verdict("wrong")
        side = answered if target == "answer" else refused
        if target is None:
            side.drop(each.knowledge)
        elif refusal is None:
            side.drop(NO_WORDING)
        elif target == "answer" and right is not None:
            side.keep(_pair(each, right, _assistant(refusal), label))
        elif target == "answer":
            side.drop(kept.problems[each.question.id])
        elif wrong:
            side.keep(_pair(each, _assistant(refusal), wrong[0], label))
        else:
            side.drop("no wrong answer was finished")
    return _balanced(answered, refused, _relations(probed, label), balance)


def _assistant(text: str) -> Messages:
    return (Message(role="assistant", content=text),)


def _shared_columns(each: ProbedQuestion, label: str) -> dict[str, Any]:
    """Return the columns that SFT and preference rows share.

    The source names the probe and the source of the question, so that the licence of the data can be traced.
    """
    source = f"{label}/knowledge-probe/{each.knowledge}"
    return {
        "id": row_id(source, each.question.id),
        "source": f"{source}/{each.question.source}",
        "tools": each.question.tools,
        "made_from": (each.question.id,),
    }


def _sft_row(each: ProbedQuestion, completion: Messages, label: str) -> SFTRow:
    return SFTRow(**_shared_columns(each, label), messages=each.question.prompt + completion)


def _pair(each: ProbedQuestion, chosen: Messages, rejected: Messages, label: str) -> PreferenceRow:
    return PreferenceRow(**_shared_columns(each, label), prompt=each.question.prompt, completions=(chosen, rejected))


def _relations(probed: Sequence[ProbedQuestion], label: str) -> dict[str, str]:
    """Return row id -> relation of its question."""
    return {_shared_columns(each, label)["id"]: each.question.relation for each in probed}


def _balanced(answered: RowSet[R], refused: RowSet[R], relations: Mapping[str, str], balance: Balance) -> RowSet[R]:
    """Bring answers and refusals to their ratios, put them together in a seeded order, and apply the limit."""
    relation_of = relations if balance.by_relation else dict.fromkeys(relations, "")
    both: RowSet[R] = RowSet()
    for side in (answered, refused):
        both.dropped.update(side.dropped)
    for relation in sorted(set(relation_of.values())):
        some, none = (
            RowSet(row for row in side.rows if relation_of[row.id] == relation) for side in (answered, refused)
        )
        _apply_ratios(some, none, balance)
        both.add(some)
        both.add(none)
    both.limit(balance.limit, balance.seed)
    both.shuffle(balance.seed)
    return both


def _apply_ratios(answered: RowSet[R], refused: RowSet[R], balance: Balance) -> None:
    """Drop refusals until they are at most `max_ratio` of the rows, then answers until refusals are at least
    `min_ratio`.

    Example with 6 answers, 10 refusals and max_ratio 0.4: 6 answers allow 6 * 0.4 / 0.6 = 4 refusals, so 6 are dropped.
    With min_ratio 0.5, those 4 refusals then allow 4 answers, so 2 answers are dropped.
    """
    most, least = balance.max_ratio, balance.min_ratio
    if most < 1:
        allowed = round(
            len(answered.rows) * most / (1 - most), 9
        )  # in floating point 6 * 0.4 / 0.6 is 4.000000000000001
        refused.limit(math.floor(allowed), balance.seed, "over max_refusal_ratio")
    if least > 0:
        allowed = round(len(refused.rows) * (1 - least) / least, 9)
        answered.limit(math.ceil(allowed), balance.seed, "under min_refusal_ratio")
