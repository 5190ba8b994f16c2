"""The settings of the knowledge probe, of which `knowledge_probe.py` is the run."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from align.settings import InputPath, InputSource, InputSources, Reading, SamplingConfig
from data_builders.knowledge_probe.refusals import RefusalsConfig

Chat = Literal["auto", "chatml", "llama3"]


class KnowledgeProbeConfig(Reading):
    """Ask, judge, and make rows of what is known and what is not."""

    questions: InputSources
    """Questions with their accepted answers. The builders rehearsal and document_questions make such files."""
    model: InputPath
    """The checkpoint that is probed: a Hugging Face folder."""
    chat: Chat = "auto"
    """The chat protocol; auto looks at the tokenizer's control tokens."""
    samples: int = Field(5, ge=1)
    """Answers sampled for each question."""
    sampling: SamplingConfig = SamplingConfig(max_completion_tokens=48)
    """How they are sampled."""
    judge: Literal["rules", "model", "both"] = "rules"
    """rules: comparing strings. model: a model that reads the reference. both: an answer of which they think
    differently is disputed, which is neither right nor wrong, and map.json has how far they agree
    (`pip install -e ".[data]"`)."""
    judge_model: InputPath | None = None
    """The checkpoint that judges, greedily; None for the one that is probed (P 4.3.6: Llama 3 judges itself)."""
    judge_chat: Chat = "auto"
    """The chat protocol of judge_model."""
    known_share: float = Field(0.6, gt=0, le=1)
    """A question is known when at least this share of its informative answers, those that do not abstain, is right."""
    unknown_share: float = Field(1.0, gt=0, le=1)
    """A question is unknown when at least this share of its informative answers is wrong and none is right."""
    pool: Literal["question", "fact"] = "question"
    """What these are shares of. question: its own answers. fact: the answers to all wordings of the question in its
    language, so that no fact is taught in one wording and refused in another."""
    middle: Literal["leave_out", "refuse"] = "leave_out"
    """What becomes of questions between the two, which the model may or may not know."""
    refusals: RefusalsConfig = RefusalsConfig()
    """How refusals are worded."""
    max_refusal_share: float = Field(0.5, gt=0, le=1)
    """Refusals are at most this share of the rows, so that a model that knows little does not learn to say only no."""
    max_refusal_share_of_pairs: float | None = Field(None, gt=0, le=1)
    """The same of the preference pairs; None for that of the rows. DPO on pairs that mostly answer brings back answers
    that SFT on mostly refusals lost."""
    min_refusal_share: float = Field(0.0, ge=0, lt=1)
    """Refusals are at least this share of the rows: what is known is cut until they are. The same value in both gives
    that share."""
    balance: Literal["all", "relation"] = "all"
    """Where the two shares hold. relation: among the rows of each relation, so that what is asked does not tell whether
    to refuse; a relation of which nothing is known then gives no refusal where max_refusal_share is below 1."""
    make_rows: bool = True
    """false: only measure, as a probe of held-out questions does; no refusal is written and no row to train on."""
    limit: int | None = Field(None, gt=0)
    """At most so many rows in each file, taken by a seeded shuffle."""
    evaluation: tuple[InputSource, ...] = ()
    """JSONL of evaluation prompts. Questions that match one are not even asked, and counted."""
    label: str = "probe"
    """What the rows' source begins with, such as `round-1`."""
    unit_size: int = Field(32, gt=0)
    """Questions in one unit of work; a crash loses at most one."""
    seed: int = 0
    """Sampling, the choice of wordings, and shuffles."""

    @property
    def pairs_share(self) -> float:
        """The largest share of refusals among the pairs."""
        return self.max_refusal_share if self.max_refusal_share_of_pairs is None else self.max_refusal_share_of_pairs

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.min_refusal_share > self.max_refusal_share:
            low, high = self.min_refusal_share, self.max_refusal_share
            raise ValueError(f"min_refusal_share is {low}, above max_refusal_share, which is {high}")
        if self.min_refusal_share > self.pairs_share:
            raise ValueError(
                f"min_refusal_share is {self.min_refusal_share}, above max_refusal_share_of_pairs, which is "
                f"{self.pairs_share}"
            )
        if self.judge_model is not None and self.judge == "rules":
            raise ValueError("judge_model is given, and judge is rules, which asks none; set judge to model or both")
        return self
