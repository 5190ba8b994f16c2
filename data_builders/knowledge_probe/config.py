"""The settings of the knowledge probe. `data_builders/knowledge_probe/builder.py` reads them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from align.settings import ChatName, InputPath, InputSource, InputSources, Reading, SamplingConfig
from data_builders.knowledge_probe.refusals import RefusalsConfig
from data_builders.quality.settings import DecontaminationConfig


class KnowledgeProbeConfig(Reading):
    """Find out what a model knows by asking it several times, and make rows that teach it to refuse the rest."""

    questions: InputSources
    """Questions with their accepted answers, as the builders rehearsal, question_splits and document_questions write
    them."""
    model: InputPath
    """The checkpoint to probe: a Hugging Face folder."""
    chat: ChatName = "auto"
    """The chat protocol of the model. auto: detect it from the control tokens of the tokenizer."""
    samples: int = Field(5, ge=1)
    """Number of answers to sample for each question. More answers make the classification more reliable."""
    sampling: SamplingConfig = SamplingConfig(max_completion_tokens=48)
    """How the answers are sampled."""
    judge: Literal["rules", "model", "both"] = "rules"
    """Who decides whether an answer is right. rules: compare strings. model: a model that reads the reference text.
    both: an answer on which the two disagree counts as neither right nor wrong, and map.json says how often they
    agree."""
    judge_model: InputPath | None = None
    """The checkpoint that judges, decoding greedily. null: the probed model judges itself, as in Llama 3 (section
    4.3.6)."""
    judge_chat: ChatName = "auto"
    """The chat protocol of judge_model."""
    known_ratio: float = Field(0.6, gt=0, le=1)
    """A question is known if at least this ratio of its informative answers is right, from 0 to 1. Answers that abstain
    are not informative."""
    unknown_ratio: float = Field(1.0, gt=0, le=1)
    """A question is unknown if at least this ratio of its informative answers is wrong and none is right."""
    min_finished_ratio: float = Field(0.5, ge=0, le=1)
    """Minimum ratio of a question's answers that are finished. Answers that were cut off at
    sampling.max_completion_tokens are left out of the verdict; a question with fewer finished ones is counted as
    unfinished and gets no row. If there are many, raise the limit."""
    pool: Literal["question", "fact"] = "question"
    """Which answers the two ratios are computed over. question: the answers to the question itself. fact: the answers
    to all wordings of the question in its language, so that a fact is not taught in one wording and refused in
    another."""
    middle: Literal["leave_out", "refuse"] = "leave_out"
    """What to do with questions that are neither known nor unknown."""
    check_answers: bool = True
    """Keep a right answer for training only if the rest of it passes checks: it ends a sentence, names what the
    question is about and no other answer of the same topic, and at least half of the answers agree. Known questions
    without such an answer are dropped and counted by reason. false: keep the shortest right answer."""
    max_answer_sentences: int = Field(1, ge=1)
    """Maximum number of sentences in an answer that is kept for training, if check_answers is true."""
    refusals: RefusalsConfig = RefusalsConfig()
    """How refusals are worded."""
    max_refusal_ratio: float = Field(0.5, gt=0, le=1)
    """Maximum ratio of refusals among the rows. Without it, a model that knows little would learn to refuse
    everything."""
    max_refusal_ratio_of_pairs: float | None = Field(None, gt=0, le=1)
    """Maximum ratio of refusals among the preference pairs; null: max_refusal_ratio. If SFT on many refusals made the
    model refuse too much, DPO on pairs that mostly prefer answers corrects that."""
    min_refusal_ratio: float = Field(0.0, ge=0, lt=1)
    """Minimum ratio of refusals among the rows; known questions are dropped to reach it. Set both ratios to the same
    value to get exactly that ratio."""
    balance: Literal["all", "relation"] = "all"
    """Which rows the two ratios apply to. all: all rows together. relation: the rows of each relation separately, so
    that the kind of question does not reveal whether to refuse. With relation and max_refusal_ratio below 1, a relation
    of which nothing is known gets no refusals."""
    make_rows: bool = True
    """false: only measure, without making refusals and training rows, for example on held-out questions."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of rows in each file, chosen at random. null: no limit."""
    evaluation: tuple[InputSource, ...] = ()
    """Evaluation sets. Questions that are in one of them are counted and not asked."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    label: str = "probe"
    """The beginning of the rows' source, such as `round-1`."""
    unit_size: int = Field(32, gt=0)
    """Number of questions between two saves. A crash loses the work on at most this many questions."""
    seed: int = 0
    """Seed of the sampling, of the choice of wordings, and of the order of the rows."""

    @property
    def pairs_ratio(self) -> float:
        """The maximum ratio of refusals among the preference pairs."""
        return self.max_refusal_ratio if self.max_refusal_ratio_of_pairs is None else self.max_refusal_ratio_of_pairs

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.min_refusal_ratio > self.max_refusal_ratio:
            low, high = self.min_refusal_ratio, self.max_refusal_ratio
            raise ValueError(f"min_refusal_ratio is {low}, above max_refusal_ratio ({high}). Lower it")
        if self.min_refusal_ratio > self.pairs_ratio:
            raise ValueError(
                f"min_refusal_ratio is {self.min_refusal_ratio}, above max_refusal_ratio_of_pairs "
                f"({self.pairs_ratio}). Lower it"
            )
        if self.judge_model is not None and self.judge == "rules":
            raise ValueError("judge_model is set, but judge is rules and uses no model. Set judge to model or both")
        return self
