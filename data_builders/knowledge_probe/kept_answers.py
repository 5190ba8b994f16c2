"""Which right answers of the model are good enough to be trained on.

The verdict "right" says that an answer contains the right string. A training row needs more, because the rest of the
text becomes a target as well. With the right answer Africa, "Cameroon is a continent located in Africa." and, about
Senegal, "Sudre (Sudan) is a country in Africa." are right, and should not be taught. So an answer is kept only if

- it is finished, ends as a sentence does, and is short;
- at least half of the model's finished answers are right (those that abstain do not count);
- it names what the question is about, and no other answer, number or entity of the same topic;
- it does not repeat itself, negate anything, or take what is asked about for the answer.

These rules compare strings with the other questions of the probe. They do not find every untruth ("Canada is a
landlocked country in North America."); a judge model may (`judge: both`). The shortest answer that passes is kept,
since it says the least in addition to the fact.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from align.judges.answers.numbers import is_number
from align.judges.answers.rules import are_yes_or_no, normalize_answer, states
from align.judges.answers.sentences import sentences
from align.rows import Messages, QuestionRow
from data_builders.knowledge_probe.verdicts import ProbedQuestion, completion_text

NONE_FINISHED = "no right answer was finished"


class KeptAnswers(NamedTuple):
    """The answers to train on."""

    answers: dict[str, Messages]
    """Question id -> the answer of the model that is kept."""
    problems: dict[str, str]
    """Question id -> why its shortest right answer was not kept, for known questions without a kept answer."""
    counts: dict[str, int]
    """How many right answers were checked and passed, and of the others, how many failed for each reason."""


def kept_answers(probed: Sequence[ProbedQuestion], *, check: bool, max_sentences: int) -> KeptAnswers:
    """Choose the answer to train on for every known question.

    check: False keeps the shortest finished right answer whatever else it says.
    """
    names = _Names(each.question for each in probed) if check else None
    kept: dict[str, Messages] = {}
    problems: dict[str, str] = {}
    counts: Counter[str] = Counter(checked=0, passed=0)
    for each in probed:
        if each.knowledge != "known":
            continue
        right = each.with_verdict("right")
        problems[each.question.id] = NONE_FINISHED
        for place, answer in enumerate(right):
            text = completion_text(answer)
            problem = None if names is None else _problem(text, each, names, max_sentences)
            counts["checked"] += 1
            counts[problem or "passed"] += 1
            if problem is None:
                kept.setdefault(each.question.id, answer)
            elif place == 0:
                problems[each.question.id] = problem
        if each.question.id in kept:
            del problems[each.question.id]
    return KeptAnswers(kept, problems, dict(counts))


def _problem(text: str, each: ProbedQuestion, names: _Names, max_sentences: int) -> str | None:
    """Why a right answer is not good enough to be trained on; None if it is."""
    informative = [verdict for verdict in each.verdicts if verdict not in ("unfinished", "abstained")]
    if 2 * informative.count("right") < len(informative):
        return "fewer than half of the answers agree"
    if len(normalize_answer(text).split()) > MAX_WORDS_OF_A_PHRASE and not _ENDS.search(text):
        return "does not end a sentence"
    if len(sentences(text.strip())) > max_sentences:
        return "too many sentences"
    question = each.question
    if are_yes_or_no(question.answers):
        return None
    if _NEGATION.search(text):
        return "negates something"
    if _states_another_number(text, question):
        return "states another number"
    named = names.in_text(text, question)
    if named.others:
        return "names another answer"
    if named.repeats:
        return "repeats itself"
    if _takes_entity_for_answer(text, question):
        return "takes what is asked about for the answer"
    return None if _is_about(text, question) else "does not name what is asked about"


MAX_WORDS_OF_A_PHRASE = 6
"""A longer answer must end with a mark, as a sentence does: "Rome" and "It is Rome" need none."""
_ENDS = re.compile(r"[.!?…][\"'”’»)\]*]*\s*$")
_NEGATION = re.compile(r"(?i)\b(?:not|never|nicht|kein\w*|pas|jamais|non|não)\b|n['’]t\b")
_LONGEST_NAME = 6
"""Words of the longest name that is looked for."""
_ENGLISH = frozenset(("i", "in", "he", "as", "at", "be", "no", "am", "us", "so", "if", "it", "an", "or", "all", "try"))
"""Words that are also codes. They are not looked for in answers."""


class _Found(NamedTuple):
    others: list[str]
    """Names of the same topic that are no answer to the question, and that it does not contain."""
    repeats: bool
    """Whether an accepted answer or the entity occurs more often than an answer needs."""


class _Names:
    """The names of the questions of a probe: answers and entities, by topic (by relation if a question has none)."""

    def __init__(self, questions: Iterable[QuestionRow]) -> None:
        self._plain: dict[str, set[str]] = defaultdict(set)  # topic -> names as `normalize_answer` writes them
        self._codes: dict[str, set[str]] = defaultdict(set)  # topic -> codes such as Zn and EUR, with their case
        self._of_entity: dict[tuple[str, str], set[str]] = defaultdict(set)  # what is true of an entity
        for question in questions:
            topic = _topic(question)
            for name in (*question.answers, question.entity):
                self._of_entity[topic, question.entity].add(name)
                if _is_code(name):
                    if name.casefold() not in _ENGLISH:
                        self._codes[topic].add(name)
                elif name[:1].isupper() and not is_number(name):
                    self._plain[topic].add(normalize_answer(name))

    def in_text(self, text: str, question: QuestionRow) -> _Found:
        """The names in an answer to the question. A longer name hides the ones inside it ("South Africa": "Africa")."""
        topic = _topic(question)
        asked = f" {normalize_answer(_asked(question))} "
        true = self._of_entity[topic, question.entity]
        own = {normalize_answer(name) for name in (*true, *question.answers)}
        counted = Counter[str]()
        others: list[str] = []
        words = normalize_answer(text).split()
        place = 0
        while place < len(words):
            for length in range(min(_LONGEST_NAME, len(words) - place), 0, -1):
                name = " ".join(words[place : place + length])
                if name in own or name in self._plain[topic]:
                    counted[name] += 1
                    if name not in own and f" {name} " not in asked:
                        others.append(name)
                    place += length
                    break
            else:
                place += 1
        codes = set(re.findall(r"[^\W\d_]+", text)) & self._codes[topic]
        others += sorted(codes - true - set(re.findall(r"[^\W\d_]+", _asked(question))))
        once = {normalize_answer(name) for name in (*question.answers, question.entity)}
        # A name that the question contains may also be the answer: Singapore is the capital of Singapore.
        most = {
            name: 2 if f" {name} " in asked and name in map(normalize_answer, question.answers) else 1 for name in once
        }
        return _Found(others, any(counted[name] > limit for name, limit in most.items()))


def _topic(question: QuestionRow) -> str:
    return question.topic or question.relation


def _asked(question: QuestionRow) -> str:
    return "\n".join(message.content for message in question.prompt)


def _is_code(name: str) -> bool:
    return name.isalpha() and (len(name) <= 2 or (len(name) <= 4 and name.isupper()))


def _states_another_number(text: str, question: QuestionRow) -> bool:
    """Whether the right answer is a number, and the text contains one that is neither it nor in the question."""
    if not all(map(is_number, question.answers)):
        return False
    allowed = (*question.answers, *_NUMBER.findall(_asked(question)))
    return any(not states(found, allowed, question.tolerance) for found in _NUMBER.findall(text))


_NUMBER = re.compile(r"(?<![\w.,])\d[\d.,]*(?<![.,])(?!\w)")


def _takes_entity_for_answer(text: str, question: QuestionRow) -> bool:
    """Whether the text says of another thing than the answer that it is what is asked for.

    Of the continent of Cameroon: "Cameroon is a continent located in Africa.", and "Mozambia, a continent in Africa."
    Of the capital of Chile, "Santiago is a capital." is fine.
    """
    entity, head = normalize_answer(question.entity), question.relation.replace("-", "_").rpartition("_")[2]
    if entity in map(normalize_answer, question.answers) or not head:
        return False
    if re.search(rf"\b{re.escape(entity)} (?:is|was|are) (?:\w+ ){{0,2}}{re.escape(head)}\b", normalize_answer(text)):
        return True
    one_of_its_kind = re.search(rf"(?i)\ban? (?:\w+ )?{re.escape(head)}\b", text)
    return one_of_its_kind is not None and not states(text[: one_of_its_kind.start()], question.answers)


def _is_about(text: str, question: QuestionRow) -> bool:
    """Whether an answer has a word of the question, or is too short to be about anything else.

    "It is Paris, a large city." refers to the question, and "Paris" has nothing else. "Zinc is a metal." does not say
    which element has the symbol Zn.
    """
    words = normalize_answer(text).split()
    answer = max(len(normalize_answer(name).split()) for name in question.answers)
    is_bare = len(words) <= answer + 3 and not _VERB.search(" ".join(words))
    if is_bare or _REFERS.match(text.strip()):
        return True
    return not _content_words(question).isdisjoint(words)


# How an answer begins that refers to the question: "It is Paris".
_REFERS = re.compile(
    r"(?i)\W*(?:it|that|this|the answer|es|das|die antwort|c'est|ce|la réponse|la respuesta|è|la risposta|é|a resposta)"
    r"\b"
)
_VERB = re.compile(r"\b(?:is|was|are|were|has|ist|war|hat|est|était|es|era)\b")


def _content_words(question: QuestionRow) -> set[str]:
    """The words of a question that say what it is about, normalized: Zn, Chad, capital, continent, symbol."""
    entity, asked = normalize_answer(question.entity), normalize_answer(_asked(question))
    found = set(entity.split() if f" {entity} " in f" {asked} " else ())
    for word in re.findall(r"[^\W_]+(?:['’][^\W_]+)*", _asked(question)):
        if (len(word) >= _SHORTEST_WORD or not word.islower()) and not _OPENS_A_QUESTION.fullmatch(word):
            found.update(normalize_answer(word).split())
    return found


_SHORTEST_WORD = 5
"""Letters of a word that counts although it is in lower case. Shorter ones are often "that" and "with"."""
_OPENS_A_QUESTION = re.compile(
    r"(?i)what|which|who|whose|where|when|how|on|in|of|is|are|was|does|do|did|name|the|was|welche\w*|wer|wie|wo|auf|"
    r"qu\w*|sur|en|cuál|cual|qué|quién|dónde|a|quale?|chi|dove|qual|quem|onde|em"
)
