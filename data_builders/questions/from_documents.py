"""Questions to probe with, out of documents: the first two steps of Llama 3's knowledge probe (section 4.3.6).

Snippets are cut from documents, and a generator model is asked for a question about each with its short answer
(`generated_questions.py`). Documents that come with questions are read too (`question_imports.py`). What is written is
what `knowledge_probe.py` reads: each question with its accepted answers, and the snippet for judges to read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from align.config import dump
from align.errors import RowError
from align.jsonl import Drops
from align.judges.answers.refusals import LANGUAGES
from align.records import inputs_of
from align.reporting import logger
from align.rows import QuestionRow
from align.settings import BadRows, InputPath, InputSource, SamplingConfig
from align.text import normalize
from data_builders.engines import Engine, Engines
from data_builders.questions.documents import read_documents
from data_builders.questions.generated import generated_questions, snippet_rows
from data_builders.questions.importers import boolq_questions, open_questions
from data_builders.row_set import Counted, evaluation_keys, part_of


class DocumentQuestionsConfig(BadRows):
    """Questions about documents, and questions that come with theirs."""

    documents: tuple[InputSource, ...] = ()
    """Texts that a model asks questions about: .txt with one document a line, or JSONL with `text` and `title`."""
    model: InputPath | None = None
    """The checkpoint that writes the questions: a Hugging Face folder. Wanted with documents."""
    chat: Literal["auto", "chatml", "llama3"] = "auto"
    """The chat protocol; auto looks at the tokenizer's control tokens."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, max_completion_tokens=96)
    """How questions are sampled."""
    language: str = "en"
    """Of the documents, and so of questions and refusals: en, de, fr, es, it or pt."""
    min_characters: int = Field(200, ge=0)
    """A shorter snippet is dropped, and counted."""
    max_characters: int = Field(1200, gt=0)
    """Snippets are whole paragraphs up to this length; longer paragraphs are cut between sentences."""
    snippets_per_document: int | None = Field(None, gt=0)
    """At most so many of one document, taken by a seeded shuffle."""
    snippets: int | None = Field(500, gt=0)
    """At most so many in all."""
    questions_per_snippet: int = Field(2, ge=1)
    """How often a question is sampled for each."""
    max_answer_words: int = Field(6, ge=1)
    """A question whose answer is longer is dropped, and counted: rules cannot compare it, and guessing is no fact."""
    boolq: tuple[InputSource, ...] = ()
    """JSONL of `question`, `passage`, `answer` (true or false) and `title`."""
    nq_open: tuple[InputSource, ...] = ()
    """JSONL of `question` and `answer` (a list): no snippet comes with it."""
    limit: int | None = Field(None, gt=0)
    """At most so many questions of each source, taken by a seeded shuffle."""
    heldout_share: float = Field(0.0, ge=0, lt=1)
    """Share of the documents of which every question is held out, in `questions.heldout.jsonl`."""
    evaluation: tuple[InputSource, ...] = ()
    """JSONL of evaluation prompts. Questions that match one are dropped, and counted."""
    unit_size: int = Field(32, gt=0)
    """Snippets in one unit of work; a crash loses at most one."""
    seed: int = 0
    """Which snippets are taken, sampling, cuts and shuffles."""

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if not (self.documents or self.boolq or self.nq_open):
            raise ValueError("wanted documents, boolq or nq_open, found none")
        if (self.model is None) == bool(self.documents):
            raise ValueError("documents and model belong together: the model writes questions about the documents")
        if self.language not in LANGUAGES:
            raise ValueError(f"language is {self.language!r}; refusals are understood in {', '.join(LANGUAGES)} only")
        return self


def build(config: DocumentQuestionsConfig, output: Path, backend: Any = None, protocol: Any = None) -> Path:
    """Write `questions.jsonl`, and `questions.heldout.jsonl` where documents are held out, into the folder `output`.

    backend, protocol: what writes questions; None loads `config.model`. Units in `output/units` that stand are kept.
    Raises RowError where no question is left.
    """
    given = (backend, protocol) if backend is not None else None
    found: Counted[QuestionRow] = Counted()
    notes: dict[str, Any] = {}
    for part in (
        _generated(config, output / "units", given, notes),
        boolq_questions(config.boolq, config.bad_rows),
        open_questions(config.nq_open, config.bad_rows),
    ):
        part.drop_duplicates()
        part.limit(config.limit, config.seed)
        found.add(part)
    found.drop_duplicates()
    found.drop_matches(evaluation_keys(config.evaluation, config.bad_rows))
    if not found.rows:
        how = "Bring longer documents or a stronger generator; output/units has what it wrote"
        raise RowError(output, f"no question is left: {found.summary()}", how)
    heldout, train = _cut(found, config)
    inputs = inputs_of(config)
    for name, rows in (("questions", train), ("questions.heldout", heldout)):
        if rows.rows or name == "questions":
            rows.write(output / f"{name}.jsonl", config=dump(config), inputs=inputs, notes=notes)
            logger("data_builders").info("%-20s %s", name, rows.summary())
    return output


def _generated(
    config: DocumentQuestionsConfig, folder: Path, given: Engine | None, notes: dict[str, Any]
) -> Counted[QuestionRow]:
    if config.model is None:
        return Counted()
    drops = Drops()
    snippets = snippet_rows(
        read_documents(config.documents, config.bad_rows, drops),
        language=config.language,
        shortest=config.min_characters,
        longest=config.max_characters,
        per_document=config.snippets_per_document,
        limit=config.snippets,
        seed=config.seed,
    )
    snippets.dropped.update(drops.reasons)
    if not snippets.rows:
        where, how = ", ".join(map(str, config.documents)), "Bring longer documents, or lower min_characters"
        raise RowError(where, f"no snippet is left: {snippets.summary()}", how)
    notes["snippets"] = snippets.counts
    backend, protocol = given or Engines().engine(config.model, config.chat, config.sampling)
    return generated_questions(
        snippets.rows,
        backend,
        protocol,
        k=config.questions_per_snippet,
        max_answer_words=config.max_answer_words,
        language=config.language,
        seed=config.seed,
        folder=folder,
        unit_size=config.unit_size,
    )


def _cut(found: Counted[QuestionRow], config: DocumentQuestionsConfig) -> tuple[Counted[QuestionRow], ...]:
    """(held out, to probe with), cut by document. What was dropped counts with what is probed."""
    heldout: Counted[QuestionRow] = Counted()
    train: Counted[QuestionRow] = Counted()
    train.dropped.update(found.dropped)
    for row in found.rows:
        held = part_of(normalize(row.entity), (config.heldout_share,), config.seed) == 0
        (heldout if held else train).keep(row)
    for part in (heldout, train):
        part.shuffle(config.seed)
    return heldout, train
