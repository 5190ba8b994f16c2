"""The knowledge probe: find what a model knows by asking it several times, and teach it to say so where it does not.

The six steps of Llama 3 (section 4.3.6), with facts in place of snippets and comparing strings in place of a judge:
facts and questions come in as rows; several answers are sampled; each is judged right, wrong, or abstaining, which is
the same as uninformative; and where answers are consistently informative and wrong, a refusal becomes the target. What
is known keeps an answer that the model gave itself, so nothing is taught that it did not know.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from align.config import Section, dump
from align.errors import ConfigError
from align.files import whole_file
from align.jsonl import read_rows
from align.manifest import write_data_manifest
from align.reporting import logger
from align.rows import Candidate, Message, Messages, PreferenceRow, QuestionRow, SFTRow, row_id
from align.settings import InputPath, SamplingConfig
from data_builders.counted import Counted, evaluation_keys

Knowledge = Literal["known", "unknown", "unsure", "uninformative"]

REFUSALS = (
    "I don't know.",
    "I'm not sure about that, and I would rather not guess.",
    "I don't know the answer to that question.",
    "I'm sorry, but I don't know that.",
    "I don't have reliable information about that.",
    "That is not something I know, so I can't answer it.",
)


class KnowledgeProbeConfig(Section):
    """Ask, judge, and make rows of what is known and what is not."""

    questions: InputPath | tuple[InputPath, ...]
    """JSONL of questions with their accepted answers."""
    model: InputPath
    """The checkpoint that is probed: a Hugging Face folder."""
    chat: Literal["auto", "chatml", "llama3"] = "auto"
    """The chat protocol; auto looks at the tokenizer's control tokens."""
    samples: int = Field(5, ge=1)
    """Answers sampled for each question."""
    sampling: SamplingConfig = SamplingConfig(max_completion_tokens=48)
    """How they are sampled."""
    known_share: float = Field(0.6, gt=0, le=1)
    """A question is known when at least this share of its answers is right."""
    unknown_share: float = Field(1.0, gt=0, le=1)
    """A question is unknown when at least this share of its answers is wrong and none is right."""
    middle: Literal["leave_out", "refuse"] = "leave_out"
    """What becomes of questions between the two, which the model may or may not know."""
    refusals: tuple[str, ...] = Field(REFUSALS, min_length=1)
    """Wordings of a refusal, drawn by a seeded choice. Each must be one that the judge takes for abstaining."""
    max_refusal_share: float = Field(0.5, gt=0, le=1)
    """Refusals are at most this share of the rows, so that a model that knows little does not learn to say only no."""
    limit: int | None = Field(None, gt=0)
    """At most so many rows in each file, taken by a seeded shuffle."""
    evaluation: tuple[InputPath, ...] = ()
    """JSONL of evaluation prompts. Questions that match one are not even asked, and counted."""
    label: str = "probe"
    """What the rows' source begins with, such as `round-1`."""
    unit_size: int = Field(32, gt=0)
    """Questions in one unit of work; a crash loses at most one."""
    seed: int = 0
    """Sampling, the choice of wordings, and shuffles."""


@dataclass(frozen=True)
class Probed:
    """A question, its sampled answers with their verdicts, and what follows from them."""

    question: QuestionRow
    answers: tuple[Candidate, ...]
    verdicts: tuple[str, ...]
    knowledge: Knowledge

    def with_verdict(self, verdict: str) -> list[Messages]:
        """The finished answers that were judged so, shortest first: what follows the fact is judged by nobody."""
        found = [
            answer.completion
            for answer, judged in zip(self.answers, self.verdicts, strict=True)
            if judged == verdict and answer.finished
        ]
        return sorted(found, key=lambda completion: (len(text_of(completion)), text_of(completion)))


def build(config: KnowledgeProbeConfig, output: Path, backend: Any = None, protocol: Any = None) -> Path:
    """Probe, and write `answers.jsonl`, `sft.jsonl`, `preferences.jsonl` and `map.json` into the folder `output`.

    backend, protocol: what answers; None loads `config.model`. Answers already sampled into `output/units` are kept.
    """
    from align.rounds.candidates import sample_candidates

    check_refusals(config.refusals)
    paths = [config.questions] if isinstance(config.questions, Path) else list(config.questions)
    questions = Counted(read_rows(paths, QuestionRow))
    questions.drop_duplicates()
    questions.drop_matches(evaluation_keys(config.evaluation))
    if backend is None:
        backend, protocol = _load(config)
    answers = sample_candidates(
        questions.rows,
        backend,
        protocol,
        k=config.samples,
        seed=config.seed,
        folder=output / "units",
        unit_size=config.unit_size,
    )
    probed = judge_answers(questions.rows, answers, config)
    inputs = [*paths, *config.evaluation, config.model]
    _write_answers(output / "answers.jsonl", probed, config, inputs, questions)
    for name, rows in (("sft", sft_rows(probed, config)), ("preferences", preference_rows(probed, config))):
        rows.write(output / f"{name}.jsonl", config=dump(config), inputs=inputs)
        logger("data_builders").info("%-20s %s", f"probe {name}", rows.summary())
    with whole_file(output / "map.json") as handle:
        json.dump(knowledge_map(probed), handle, indent=1, ensure_ascii=False)
    return output


def judge_answers(
    questions: Sequence[QuestionRow], answers: Sequence[Candidate], config: KnowledgeProbeConfig
) -> list[Probed]:
    """Each question with its answers judged."""
    from align.judges.rules import verdict

    by_question: dict[str, list[Candidate]] = {question.id: [] for question in questions}
    for answer in answers:
        by_question[answer.prompt_id].append(answer)
    found = []
    for question in questions:
        own = by_question[question.id]
        verdicts = tuple(verdict(text_of(answer.completion), question.answers) for answer in own)
        found.append(Probed(question, tuple(own), verdicts, knowledge_of(verdicts, config)))
    return found


def knowledge_of(verdicts: Sequence[str], config: KnowledgeProbeConfig) -> Knowledge:
    """What the verdicts on one question's answers say. Answers that abstain count as neither right nor wrong."""
    right, wrong = verdicts.count("right"), verdicts.count("wrong")
    if not right and not wrong:
        return "uninformative"
    if right >= config.known_share * len(verdicts):
        return "known"
    if not right and wrong >= config.unknown_share * len(verdicts):
        return "unknown"
    return "unsure"


def sft_rows(probed: Sequence[Probed], config: KnowledgeProbeConfig) -> Counted[SFTRow]:
    """Known: a right answer that the model gave. Unknown: a refusal."""
    known: Counted[SFTRow] = Counted()
    refused: Counted[SFTRow] = Counted()
    for each in probed:
        if each.knowledge == "known":
            right = each.with_verdict("right")
            if right:
                known.keep(_sft_row(each, right[0], "known", config))
            else:
                known.drop("no right answer was finished")
        elif _is_refused(each, config):
            refused.keep(_sft_row(each, refusal_for(each.question, config), "unknown", config))
        else:
            refused.drop(each.knowledge)
    return _balanced(known, refused, config)


def preference_rows(probed: Sequence[Probed], config: KnowledgeProbeConfig) -> Counted[PreferenceRow]:
    """Unknown: a refusal over a wrong answer that the model gave. Known: a right answer over a refusal. Not graded."""
    known: Counted[PreferenceRow] = Counted()
    refused: Counted[PreferenceRow] = Counted()
    for each in probed:
        refusal = refusal_for(each.question, config)
        right, wrong = each.with_verdict("right"), each.with_verdict("wrong")
        if each.knowledge == "known":
            if right:
                known.keep(_pair(each, right[0], refusal, "known", config))
            else:
                known.drop("no right answer was finished")
        elif _is_refused(each, config):
            if wrong:
                refused.keep(_pair(each, refusal, wrong[0], "unknown", config))
            else:
                refused.drop("no wrong answer was finished")
        else:
            refused.drop(each.knowledge)
    return _balanced(known, refused, config)


def knowledge_map(probed: Sequence[Probed]) -> dict[str, Any]:
    """How many questions are known, unknown, unsure and uninformative: over all, and in each relation."""

    def counts(some: Sequence[Probed]) -> dict[str, int]:
        found = Counter(each.knowledge for each in some)
        return {kind: found[kind] for kind in ("known", "unknown", "unsure", "uninformative")}

    relations = sorted({each.question.relation for each in probed})
    by_relation = {name: counts([each for each in probed if each.question.relation == name]) for name in relations}
    return {"all": counts(probed), "relations": by_relation}


def check_refusals(refusals: Sequence[str]) -> None:
    """Raises ConfigError for a wording that the judge would not take for abstaining."""
    from align.judges.rules import abstains

    for place, text in enumerate(refusals):
        if not abstains(text):
            how = "Word it as the judge understands it, such as: I don't know"
            raise ConfigError(f"knowledge_probe.refusals.{place}", f"{text!r} does not read as a refusal", how)


def refusal_for(question: QuestionRow, config: KnowledgeProbeConfig) -> Messages:
    """A wording that depends on the question and the seed alone."""
    draw = random.Random(row_id(config.seed, question.id))
    return (Message(role="assistant", content=draw.choice(config.refusals)),)


def text_of(completion: Messages) -> str:
    """What a completion says, calls left out."""
    return "\n".join(message.content for message in completion if message.role == "assistant")


def _load(config: KnowledgeProbeConfig) -> tuple[Any, Any]:
    from align.generation.local import LocalBackend
    from align.models.loading import load_generator, load_tokenizer

    _, protocol = load_tokenizer(config.model, config.chat)
    model = load_generator(config.model, config.sampling.dtype)
    return LocalBackend(model, protocol, config.sampling), protocol


def _is_refused(each: Probed, config: KnowledgeProbeConfig) -> bool:
    return each.knowledge == "unknown" or (each.knowledge == "unsure" and config.middle == "refuse")


def _sft_row(each: Probed, completion: Messages, kind: str, config: KnowledgeProbeConfig) -> SFTRow:
    source = f"{config.label}/knowledge-probe/{kind}"
    return SFTRow(
        id=row_id(source, each.question.id),
        source=source,
        tools=each.question.tools,
        messages=each.question.prompt + completion,
    )


def _pair(each: Probed, chosen: Messages, rejected: Messages, kind: str, config: KnowledgeProbeConfig) -> PreferenceRow:
    source = f"{config.label}/knowledge-probe/{kind}"
    return PreferenceRow(
        id=row_id(source, each.question.id),
        source=source,
        tools=each.question.tools,
        prompt=each.question.prompt,
        completions=(chosen, rejected),
    )


def _balanced(known: Counted, refused: Counted, config: KnowledgeProbeConfig) -> Counted:
    """Both together, with refusals cut to their share and the whole to its limit, in a seeded order."""
    share = config.max_refusal_share
    if share < 1:
        refused.limit(int(len(known.rows) * share / (1 - share)), config.seed, "over max_refusal_share")
    known.add(refused)
    known.limit(config.limit, config.seed)
    known.shuffle(config.seed)
    return known


def _write_answers(
    path: Path, probed: Sequence[Probed], config: KnowledgeProbeConfig, inputs: list[Path], questions: Counted
) -> None:
    with whole_file(path) as handle:
        for each in probed:
            line = each.question.model_dump(exclude_defaults=True) | {
                "knowledge": each.knowledge,
                "samples": [
                    {"text": text_of(answer.completion), "verdict": judged, "finished": answer.finished}
                    | {"seed": answer.seed}
                    for answer, judged in zip(each.answers, each.verdicts, strict=True)
                ],
            }
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")
    counts = questions.counts | {"knowledge": knowledge_map(probed)["all"]}
    write_data_manifest(path, config=dump(config), inputs=inputs, counts=counts)
