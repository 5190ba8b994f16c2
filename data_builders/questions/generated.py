"""Let a model write questions about snippets, and keep only questions of fact that can be understood without the
snippet.

The generator sees the snippet, but the probed model will not. So a question has to name what it is about, its answer
has to be in the snippet and not in the question, and the question must not mention "the passage".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from align.judges.answers.rules import states
from align.rows import Message, PromptRow, QuestionRow, row_id
from data_builders.knowledge_probe.refusals import LANGUAGE_NAMES
from data_builders.questions.documents import Document, snippets_of
from data_builders.row_set import RowSet

if TYPE_CHECKING:
    from align.generation.engine import GenerationEngine

GENERATOR = """\
Here is a passage about {title}.

{snippet}

Write one question in {language} that asks for a single fact of this passage: a name, a place, a date or a number. \
Somebody who has never seen the passage must understand the question, so name what it is about, and do not mention the \
passage. The answer is a few words that stand in the passage. Write three lines and nothing else, like this:
Question: What is the capital of Chad?
Answer: N'Djamena
Subject: the capital of Chad"""
"""A refusal will name what the third line says: "I don't know the capital of Chad."."""

TOPIC = "documents"
RELATION = "fact"


class SnippetRow(PromptRow):
    """The prompt of the generator, with the snippet that the question is about."""

    title: str
    snippet: str


# The three lines that GENERATOR asks for, of which the subject may be missing:
#   Question: What is the capital of Chad?
#   Answer: N'Djamena
#   Subject: the capital of Chad
_FORM = re.compile(
    r"\s*question:[ \t]*(?P<question>[^\n]+?)[ \t]*\n+"
    r"\s*answer:[ \t]*(?P<answer>[^\n]+?)[ \t]*"
    r"(?:\n+\s*subject:[ \t]*(?P<subject>[^\n]+?)[ \t]*)?\s*",
    re.IGNORECASE,
)
# References to the snippet in six languages: "according to the passage", "mentioned above", "laut dem Text", "le
# texte". "the author of" is allowed, because it can be about a book: "Who is the author of Faust?"
_MENTIONS_PASSAGE = re.compile(
    r"\b(?:the|this|that|given|provided|above|following) (?:passage|text|article|snippet|paragraph|excerpt|document)\b|"
    r"\b(?:mentioned|described|stated|listed|discussed|given) (?:above|here|in (?:the|this))\b|"
    r"\bis (?:mentioned|described|discussed)\b|\bthe author\b(?! of)|"
    r"\b(?:im|laut|dem|der|des|diese\w*) (?:text\w*|artikel\w*|abschnitt\w*|absatz\w*|passage)\b|"
    r"\b(?:le|du|ce|cet|cette|la|au) (?:texte|passage|extrait)\b|\b(?:l'|cet )article\b|"
    r"\b(?:el|este|del|al) (?:texto|artículo|pasaje|fragmento)\b|"
    r"\b(?:il|questo|del|nel|al) (?:testo|brano|articolo)\b|\b(?:o|este|do|no|ao) (?:texto|artigo|trecho)\b",
    re.IGNORECASE,
)
_PRONOUNS = {
    language: re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
    for language, words in {
        "en": "he|she|him|his|her|hers|it|its|they|them|their|this|these|those",
        "de": r"er|sie|ihn|ihm|ihnen|sein\w*|ihre?\w*|dies\w*",
        "fr": "il|elle|ils|elles|lui|son|sa|ses|leur|leurs|cette",
        "es": "él|ella|ellos|ellas|su|sus|este|esta|estos|estas",
        "it": "lui|lei|loro|suo|sua|suoi|sue|questo|questa",
        "pt": "ele|ela|eles|elas|seu|sua|seus|suas|este|esta",
    }.items()
}


def snippet_rows(
    documents: Iterable[Document],
    *,
    language: str,
    shortest: int,
    longest: int,
    per_document: int | None,
    limit: int | None,
    seed: int,
) -> RowSet[SnippetRow]:
    """Cut documents into snippets, and make prompts for the generator of them.

    shortest, longest: limits of the length of a snippet, in characters.
    per_document, limit: the maximum number of snippets of one document, and of all documents.
    """
    found: RowSet[SnippetRow] = RowSet()
    for document in documents:
        own: RowSet[SnippetRow] = RowSet()
        for snippet in snippets_of(document.text, longest):
            if len(snippet) < shortest:
                own.drop("snippet too short")
                continue
            asked = GENERATOR.format(title=document.title, snippet=snippet, language=LANGUAGE_NAMES[language])
            own.keep(
                SnippetRow(
                    id=row_id("snippet", document.source, snippet),
                    source=document.source,
                    prompt=(Message(role="user", content=asked),),
                    title=document.title,
                    snippet=snippet,
                )
            )
        own.drop_duplicates()
        own.limit(per_document, seed)
        found.add(own)
    found.drop_duplicates()
    found.limit(limit, seed)
    return found


def generated_questions(
    snippets: Sequence[SnippetRow],
    engine: GenerationEngine,
    *,
    k: int,
    max_answer_words: int,
    language: str,
    seed: int,
    folder: Path,
    unit_size: int,
) -> RowSet[QuestionRow]:
    """Sample k questions for each snippet, and keep those that pass all checks. The others are counted by reason.

    folder: where the texts of the model are saved; an interrupted run continues from there.
    """
    from align.sampling.candidates import fitting_prompts, sample_candidates

    found: RowSet[QuestionRow] = RowSet()
    fitting, too_long = fitting_prompts(snippets, engine)
    for reason, count in too_long.items():
        found.drop(reason, count * k)
    by_id = {row.id: row for row in snippets}
    for written in sample_candidates(
        fitting, engine, k=k, seed=seed, folder=folder, unit_size=unit_size, label="questions"
    ).rows():
        row = by_id[written.prompt_id]
        made = (
            parse_question(written.completion[-1].content, row, language, max_answer_words)
            if written.finished
            else None
        )
        if isinstance(made, QuestionRow):
            found.keep(made)
        else:
            found.drop(made or "unfinished")
    found.drop_duplicates()
    return found


def parse_question(text: str, snippet: SnippetRow, language: str, max_answer_words: int) -> QuestionRow | str:
    """Parse what the generator wrote about a snippet. Returns the question, or the reason why it is not used."""
    form = _FORM.fullmatch(text)
    if form is None:
        return "does not parse"
    question, answer = form["question"], form["answer"].rstrip(".")
    if fault := _fault(question, answer, snippet, language, max_answer_words):
        return fault
    subject = (form["subject"] or "").rstrip(".?")
    if states(subject, [answer]) or _MENTIONS_PASSAGE.search(subject):
        subject = ""  # a refusal with this subject would contain the answer, or mention the passage
    return QuestionRow(
        id=row_id(TOPIC, question),
        source=snippet.source,
        prompt=(Message(role="user", content=question),),
        entity=snippet.title,
        relation=RELATION,
        answers=(answer,),
        reference=snippet.snippet,
        topic=TOPIC,
        subject=subject,
        language=language,
    )


def _fault(question: str, answer: str, snippet: SnippetRow, language: str, max_answer_words: int) -> str | None:
    if not question.endswith("?") or "?" in question[:-1]:
        return "is not one question"
    if len(answer.split()) > max_answer_words:
        return "answer over max_answer_words"
    if not states(snippet.snippet, [answer]):
        return "answer is not in the snippet"
    if states(question, [answer]):
        return "answer is in the question"
    if _MENTIONS_PASSAGE.search(question):
        return "mentions the passage"
    pronoun = _PRONOUNS[language].search(question)
    if pronoun is not None and not _names_something(question[: pronoun.start()], snippet.title, language):
        return "pronoun refers to nothing"
    return None


def _names_something(words: str, title: str, language: str) -> bool:
    """Return whether the words before a pronoun contain something that it can refer to.

    This is the title of the document or another name (a word with a capital letter, not the first one). In German,
    every noun has a capital letter, so only the title counts.
    """
    return states(words, [title]) or (language != "de" and re.search(r"(?<=\s)[A-Z\d]", words) is not None)
