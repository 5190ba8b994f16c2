"""Make questions from documents for the knowledge probe: the first two steps of section 4.3.6 of Llama 3.

Documents are cut into snippets (`documents.py`), and a model writes questions with short answers about each of them
(`generated.py`). Data sets of questions can be added (`importers.py`). The result is read by the knowledge probe: every
question has its accepted answers, and the snippet as a reference for the judge.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from align.config import dump
from align.errors import RowError
from align.jsonl import Drops
from align.judges.answers.refusals import LANGUAGES
from align.records import inputs_of
from align.reporting import logger
from align.rows import QuestionRow
from align.settings import BadRows, ChatName, InputPath, InputSource, SamplingConfig
from align.splits import part_of
from align.text import normalize
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.questions.documents import read_documents
from data_builders.questions.generated import generated_questions, snippet_rows
from data_builders.questions.importers import boolq_questions, open_questions
from data_builders.row_set import RowSet

if TYPE_CHECKING:
    from align.generation.engine import GenerationEngine


class DocumentQuestionsConfig(BadRows):
    """Questions for the knowledge probe that a model writes about your documents, or that come with a data set."""

    documents: tuple[InputSource, ...] = ()
    """Documents to ask questions about: .txt files with one document per line, or JSONL with `text` and `title`."""
    model: InputPath | None = None
    """The checkpoint that writes the questions: a Hugging Face folder. Required with documents. Use a capable model."""
    chat: ChatName = "auto"
    """The chat protocol of the model. auto: detect it from the control tokens of the tokenizer."""
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, max_completion_tokens=96)
    """How the questions are sampled."""
    language: str = "en"
    """Language of the documents, and so of questions and refusals: en, de, fr, es, it or pt."""
    min_characters: int = Field(200, ge=0)
    """Minimum length of a snippet in characters. Shorter snippets are dropped and counted."""
    max_characters: int = Field(1200, gt=0)
    """Maximum length of a snippet in characters. A snippet consists of whole paragraphs; longer paragraphs are cut
    between sentences."""
    snippets_per_document: int | None = Field(None, gt=0)
    """Maximum number of snippets of one document, chosen at random. null: no limit."""
    snippets: int | None = Field(500, gt=0)
    """Maximum number of snippets in total, chosen at random. null: no limit."""
    questions_per_snippet: int = Field(2, ge=1)
    """Number of questions to sample for each snippet."""
    max_answer_words: int = Field(6, ge=1)
    """Maximum number of words in an answer. Questions with longer answers are dropped and counted, because rules cannot
    compare them."""
    boolq: tuple[InputSource, ...] = ()
    """Yes-or-no questions in the format of BoolQ: JSONL with `question`, `passage`, `answer` (true or false) and
    `title`."""
    nq_open: tuple[InputSource, ...] = ()
    """Questions in the format of NQ-open, which have no snippet: JSONL with `question` and `answer` (a list)."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of questions of each source, chosen at random. null: no limit."""
    heldout_ratio: float = Field(0.0, ge=0, lt=1)
    """Ratio of the documents to hold out, from 0 to 1. All their questions go into `questions.heldout.jsonl`."""
    evaluation: tuple[InputSource, ...] = ()
    """Evaluation sets. Questions that are in one of them are dropped and counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    unit_size: int = Field(32, gt=0)
    """Number of snippets between two saves. A crash loses the work on at most this many snippets."""
    seed: int = 0
    """Seed of the choice of snippets and questions, of the sampling, and of the split."""

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if not (self.documents or self.boolq or self.nq_open):
            raise ValueError("expected documents, boolq or nq_open, found none of them")
        if (self.model is None) == bool(self.documents):
            raise ValueError("set documents and model together: the model writes questions about the documents")
        if self.language not in LANGUAGES:
            raise ValueError(f"language is {self.language!r}. Use one of {', '.join(LANGUAGES)}")
        return self


def build(config: DocumentQuestionsConfig, output: Path, engine: GenerationEngine | None = None) -> Path:
    """Write `questions.jsonl`, and `questions.heldout.jsonl` if documents are held out, into the folder `output`.

    engine: the model that writes the questions; by default `config.model` is loaded. What it has written is
        saved in `output/units`, from which an interrupted run continues.
    Raises RowError if no question is left.
    """
    found: RowSet[QuestionRow] = RowSet()
    notes: dict[str, Any] = {}
    for part in (
        _generated(config, output / "units", engine, notes),
        boolq_questions(config.boolq, config.bad_rows),
        open_questions(config.nq_open, config.bad_rows),
    ):
        part.drop_duplicates()
        part.limit(config.limit, config.seed)
        found.add(part)
    found.drop_duplicates()
    found.drop_matches(_evaluation(config))
    if not found.rows:
        how = "Use longer documents or a stronger model; output/units contains what it wrote"
        raise RowError(output, f"no question is left: {found.summary()}", how)
    heldout, train = _split(found, config.heldout_ratio, config.seed)
    inputs = inputs_of(config)
    for name, rows in (("questions", train), ("questions.heldout", heldout)):
        if rows.rows or name == "questions":
            rows.write(output / f"{name}.jsonl", config=dump(config), inputs=inputs, notes=notes)
            logger("data_builders").info("%-20s %s", name, rows.summary())
    return output


def _evaluation(config: DocumentQuestionsConfig) -> Decontamination:
    """What the questions must not repeat. BoolQ is none of it if questions of BoolQ are asked for."""
    settings = config.decontamination
    if config.boolq is not None and "boolq" in settings.benchmarks:
        logger("data_builders").info("the questions are BoolQ's own, so they are not compared with it")
        others = tuple(name for name in settings.benchmarks if name != "boolq")
        settings = settings.model_copy(update={"benchmarks": others})
    return Decontamination.of(config.evaluation, settings, config.bad_rows)


def _generated(
    config: DocumentQuestionsConfig, folder: Path, engine: GenerationEngine | None, notes: dict[str, Any]
) -> RowSet[QuestionRow]:
    if config.model is None:
        return RowSet()
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
        where, how = ", ".join(map(str, config.documents)), "Use longer documents, or lower min_characters"
        raise RowError(where, f"no snippet is left: {snippets.summary()}", how)
    notes["snippets"] = snippets.counts
    if engine is None:
        from align.generation.engine import GenerationEngine

        engine = GenerationEngine.load(config.model, config.sampling, chat=config.chat)
    return generated_questions(
        snippets.rows,
        engine,
        k=config.questions_per_snippet,
        max_answer_words=config.max_answer_words,
        language=config.language,
        seed=config.seed,
        folder=folder,
        unit_size=config.unit_size,
    )


def _split(found: RowSet[QuestionRow], heldout_ratio: float, seed: int) -> tuple[RowSet[QuestionRow], ...]:
    """Split by document into held-out questions and the others, with which dropped questions are counted."""
    heldout: RowSet[QuestionRow] = RowSet()
    train: RowSet[QuestionRow] = RowSet()
    train.dropped.update(found.dropped)
    for row in found.rows:
        held = part_of(normalize(row.entity), (heldout_ratio,), seed) == 0
        (heldout if held else train).keep(row)
    for part in (heldout, train):
        part.shuffle(seed)
    return heldout, train
