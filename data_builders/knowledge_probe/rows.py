"""The rows that follow from a probe: refusals where the model does not know, its own right answers where it does."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from align.rows import Message, Messages, PreferenceRow, QuestionRow, Row, SFTRow, row_id
from data_builders.engines import Engine
from data_builders.knowledge_probe.config import KnowledgeProbeConfig
from data_builders.knowledge_probe.refusals import fault_of, refusal_for, writer_prompt
from data_builders.knowledge_probe.verdicts import Probed, text_of
from data_builders.row_set import Counted

if TYPE_CHECKING:
    from align.judges.model_judge import ModelJudge

R = TypeVar("R", bound=Row)
NO_WORDING = "no refusal in its language"


def gets_rows(each: Probed, config: KnowledgeProbeConfig) -> bool:
    """Whether rows are made of a question: the middle gives none by default, what was never answered gives none."""
    return each.knowledge == "known" or is_refused(each, config)


def is_refused(each: Probed, config: KnowledgeProbeConfig) -> bool:
    return each.knowledge == "unknown" or (each.knowledge == "unsure" and config.middle == "refuse")


def worded_refusals(probed: Sequence[Probed], config: KnowledgeProbeConfig) -> dict[str, str]:
    """Question id -> a refusal out of the wordings, for every question that rows are made of and that has one.

    Also where the answer is known: there it is what the answer is preferred over.
    """
    known: dict[tuple[str, str], list[QuestionRow]] = defaultdict(list)
    for each in probed:
        if each.knowledge == "known":
            known[each.question.entity, each.question.language].append(each.question)
    texts = {}
    for each in probed:
        if gets_rows(each, config):
            others = known[each.question.entity, each.question.language]
            text = refusal_for(each.question, config.refusals, config.seed, others)
            if text is not None:
                texts[each.question.id] = text
    return texts


def written_refusals(
    probed: Sequence[Probed], config: KnowledgeProbeConfig, writer: Engine, folder: Path
) -> tuple[dict[str, str], Counter[str]]:
    """Question id -> a refusal that the model behind `writer` wrote, and how many were none, by reason.

    Written where the answer is known too: were only one side of the pairs written, DPO would learn the style.
    folder: what was written, in units; those that stand there are not written again.
    """
    from align.sampling.candidates import sample_candidates

    questions = [each.question for each in probed if gets_rows(each, config)]
    found: dict[str, str] = {}
    faults = Counter[str]()
    written = sample_candidates(
        [writer_prompt(question) for question in questions],
        *writer,
        k=1,
        seed=config.seed,
        folder=folder,
        unit_size=config.unit_size,
        label="refusals",
    )
    for question, candidate in zip(questions, written, strict=True):
        text = text_of(candidate.completion).strip()
        fault = fault_of(text, question, allow_apology=config.refusals.allow_apology)
        fault = fault if candidate.finished else "unfinished"
        if fault is None:
            found[question.id] = text
        else:
            faults[fault] += 1
    return found, faults


def judged_refusals(
    texts: Mapping[str, str], probed: Sequence[Probed], judge: ModelJudge
) -> tuple[dict[str, str], Counter[str]]:
    """The refusals that the model too calls uninformative, and how many it does not, or says nothing of."""
    from align.judges.model_judge import AnswerRequest

    questions = [each.question for each in probed if each.question.id in texts]
    said = judge.verdicts([AnswerRequest(question, texts[question.id]) for question in questions])
    kept = {
        question.id: texts[question.id]
        for question, verdict in zip(questions, said, strict=True)
        if verdict == "abstained"
    }
    lost = len(texts) - len(kept)
    return kept, Counter({"not judged uninformative": lost} if lost else {})


def sft_rows(probed: Sequence[Probed], refusals: Mapping[str, str], config: KnowledgeProbeConfig) -> Counted[SFTRow]:
    """Known: a right answer that the model gave. Unknown: a refusal."""
    known: Counted[SFTRow] = Counted()
    refused: Counted[SFTRow] = Counted()
    for each in probed:
        refusal = refusals.get(each.question.id)
        if each.knowledge == "known":
            right = each.with_verdict("right")
            if right:
                known.keep(_sft_row(each, right[0], config))
            else:
                known.drop("no right answer was finished")
        elif not is_refused(each, config):
            refused.drop(each.knowledge)
        elif refusal is None:
            refused.drop(NO_WORDING)
        else:
            refused.keep(_sft_row(each, _said(refusal), config))
    return _shared(known, refused, probed, config)


def preference_rows(
    probed: Sequence[Probed], refusals: Mapping[str, str], config: KnowledgeProbeConfig
) -> Counted[PreferenceRow]:
    """Unknown: a refusal over a wrong answer that the model gave. Known: a right answer over a refusal. Not graded."""
    known: Counted[PreferenceRow] = Counted()
    refused: Counted[PreferenceRow] = Counted()
    for each in probed:
        refusal = refusals.get(each.question.id)
        right, wrong = each.with_verdict("right"), each.with_verdict("wrong")
        side = known if each.knowledge == "known" else refused
        if not gets_rows(each, config):
            side.drop(each.knowledge)
        elif refusal is None:
            side.drop(NO_WORDING)
        elif side is known:
            if right:
                known.keep(_pair(each, right[0], _said(refusal), config))
            else:
                known.drop("no right answer was finished")
        elif wrong:
            refused.keep(_pair(each, _said(refusal), wrong[0], config))
        else:
            refused.drop("no wrong answer was finished")
    return _shared(known, refused, probed, config.model_copy(update={"max_refusal_share": config.pairs_share}))


def _said(text: str) -> Messages:
    return (Message(role="assistant", content=text),)


def _source(each: Probed, config: KnowledgeProbeConfig) -> str:
    return f"{config.label}/knowledge-probe/{each.knowledge}"


def _row_source(each: Probed, config: KnowledgeProbeConfig) -> str:
    """What the row says of its origin: the probe, and where the question came from, whose licence it has."""
    return f"{_source(each, config)}/{each.question.source}"


def _sft_row(each: Probed, completion: Messages, config: KnowledgeProbeConfig) -> SFTRow:
    return SFTRow(
        id=row_id(_source(each, config), each.question.id),
        source=_row_source(each, config),
        tools=each.question.tools,
        messages=each.question.prompt + completion,
    )


def _pair(each: Probed, chosen: Messages, rejected: Messages, config: KnowledgeProbeConfig) -> PreferenceRow:
    return PreferenceRow(
        id=row_id(_source(each, config), each.question.id),
        source=_row_source(each, config),
        tools=each.question.tools,
        prompt=each.question.prompt,
        completions=(chosen, rejected),
    )


def _shared(
    known: Counted[R], refused: Counted[R], probed: Sequence[Probed], config: KnowledgeProbeConfig
) -> Counted[R]:
    """Both together, with each side brought to its share and the whole cut to its limit, in a seeded order."""
    relation_of = {
        row_id(_source(each, config), each.question.id): each.question.relation if config.balance == "relation" else ""
        for each in probed
    }
    both: Counted[R] = Counted()
    for side in (known, refused):
        both.dropped.update(side.dropped)
    for relation in sorted(set(relation_of.values())):
        some, none = (Counted(row for row in side.rows if relation_of[row.id] == relation) for side in (known, refused))
        _bring_to_shares(some, none, config)
        both.add(some)
        both.add(none)
    both.limit(config.limit, config.seed)
    both.shuffle(config.seed)
    return both


def _bring_to_shares(known: Counted[R], refused: Counted[R], config: KnowledgeProbeConfig) -> None:
    """To within a row: refusals down to max_refusal_share, then the known until they are up to min_refusal_share."""
    most, least = config.max_refusal_share, config.min_refusal_share
    if most < 1:
        room = round(len(known.rows) * most / (1 - most), 9)  # 6 * 0.4 / 0.6 is a little above 4
        refused.limit(math.floor(room), config.seed, "over max_refusal_share")
    if least > 0:
        room = round(len(refused.rows) * (1 - least) / least, 9)
        known.limit(math.ceil(room), config.seed, "under min_refusal_share")
