"""Finds rows that say the same in other words, by the embeddings of whole dialogs (Llama 3, section 4.2.3).

    embed      each dialog as one vector
    cluster    k-means over a sample of the vectors, and each row to its nearest center (SemDeDup, Abbas et al. 2023,
               arXiv:2303.09540), so that only rows of one cluster are compared
    walk       in each cluster from the best row down: a row is kept if its highest cosine similarity to the rows kept
               so far is below the threshold; otherwise it is dropped, and the kept row is named

The best row is the one with the highest quality x difficulty, as far as the gates `quality` and `difficulty` are on;
without `quality`, the one with the highest `score`, if rows have one (those of rejection sampling); then the first.
Rows with different tools, tool calls, or numbers in the question are no duplicates, and neither are rows whose words
show that they ask or say different things (`paraphrases.py`): an encoder sees little difference between "What is
3 + 4?" and "What is 3 + 5?".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align.optional import library
from align.rows import Row
from data_builders.quality.asking import key_settings
from data_builders.quality.encoders import encoder_of, encoder_path
from data_builders.quality.paraphrases import Compared, compared, numbers_in, says_other
from data_builders.quality.pipeline import number_of
from data_builders.quality.rank import UNKNOWN, rank_ratios
from data_builders.quality.settings import SemanticConfig
from data_builders.quality.shards import ShardFiles
from data_builders.quality.steps import Choice, Examined, ExaminedRows, Step
from data_builders.quality.texts import calls_of, final_answer, prompt_of, whole_text

_SAMPLE = 64
"""Rows for each cluster that k-means sees; faiss warns below 39."""
_UNITS = 32
"""The clusters are shared in this many parts, or fewer."""
_MOST_COMPARED = 16
"""Rows that a row is compared with by their texts."""
_END = 2000
"""Characters from the beginning and from the end of a text that are kept for this."""


class RatedStep(Protocol):
    """A step that rates rows."""

    name: str
    ratings: NDArray[np.float64]
    """[rows], from 0 to 1, after it has chosen."""


class SemanticDuplicates(Step):
    """Drops rows whose dialog has nearly the embedding of a better row that is kept."""

    name = "semantic duplicates"
    starts_pass = True
    models = ("_encoder",)

    def __init__(self, config: SemanticConfig, rated: Sequence[RatedStep] = ()) -> None:
        """rated: the steps before this one whose ratings, multiplied, say which row is the best."""
        self._config, self._rated = config, rated
        self._faiss = library("faiss", "quality", "semantic.enabled")
        self._clusters = 0

    def settings(self) -> dict[str, Any]:
        from align.manifest import input_fingerprint

        found = input_fingerprint(encoder_path(self._config))
        return key_settings(self._config) | {"fingerprint": found, "rated": [one.name for one in self._rated]}

    def examine(self, rows: Sequence[Row]) -> Examined:
        """Keep the vector of the dialog as half floats, the score, and a hash of what must be equal."""
        vectors = self._encoder.embed([whole_text(row) for row in rows]).astype(np.float16)
        exactly = [number_of(repr((row.tools, calls_of(row), numbers_in(_question(row))))) for row in rows]
        scores = [getattr(row, "score", None) for row in rows]
        return Examined(
            {},
            {
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
                "exactly": pa.array(exactly, pa.uint64()),
                "score": pa.array([-np.inf if score is None else score for score in scores], pa.float64()),
                "question": pa.array([_both_ends(_question(row)) for row in rows], pa.string()),
                "answer": pa.array([_both_ends(final_answer(row)) for row in rows], pa.string()),
            },
        )

    def choose(self, data: ExaminedRows) -> list[Choice]:
        """Cluster the rows, and walk through the clusters."""
        self._clusters = max(1, -(-int(data.kept.sum()) // self._config.cluster_rows))
        fitted = data.units("centers", 1)
        if self._clusters > 1:
            fitted.complete(lambda _: self._centers(data), "semantic duplicates: centers")
        assigned = data.units("assigned", data.shards)
        assigned.complete(lambda shard: self._assigned(data, fitted, shard), "semantic duplicates: clusters")
        walked = data.units("walked", min(self._clusters, _UNITS))
        walked.complete(lambda unit: self._walked(data, assigned, unit, walked.count), "semantic duplicates: compared")
        found = [walked.table(unit) for unit in range(walked.count)]
        numbers, causes, cosines = (
            np.concatenate([table.column(name).to_numpy() for table in found])
            for name in ("number", "cause", "similarity")
        )
        order = np.argsort(numbers, kind="stable")
        details = [f"cosine {cosine:.3f}" for cosine in cosines[order]]
        return [Choice("semantic duplicate", numbers[order], causes[order], details)]

    def notes(self) -> dict[str, Any]:
        return {
            "encoder": str(encoder_path(self._config)),
            "similarity": self._config.similarity,
            "clusters": self._clusters,
            "best_first_by": " x ".join(step.name for step in self._rated) or "score",
        }

    @cached_property
    def _encoder(self) -> Any:
        return encoder_of(self._config, "semantic.encoder")

    def _worth(self, data: ExaminedRows) -> NDArray[np.float64]:
        """[rows]: the product of the ratings; with no rating of the quality among them, the rows' own scores."""
        worth = np.ones(len(data.kept))
        for step in self._rated:
            worth = worth * step.ratings
        if any(step.name == "quality" for step in self._rated):
            return worth
        scores = data.numbers("score")
        if not self._rated:
            return scores
        known = np.where(data.kept & np.isfinite(scores), scores, np.nan)
        return worth * np.nan_to_num(rank_ratios(known), nan=UNKNOWN)

    def _centers(self, data: ExaminedRows) -> pa.Table:
        """The centers of the clusters, from a sample of the kept rows."""
        numbers = np.flatnonzero(data.kept)
        draw = np.random.default_rng(self._config.seed)
        numbers = np.sort(draw.choice(numbers, min(len(numbers), _SAMPLE * self._clusters), replace=False))
        vectors = _vectors(data, numbers)
        means = self._faiss.Kmeans(vectors.shape[1], self._clusters, seed=self._config.seed, min_points_per_centroid=1)
        means.train(vectors)
        return pa.table({"center": np.asarray(means.centroids, np.float32).tolist()})

    def _assigned(self, data: ExaminedRows, fitted: ShardFiles, shard: int) -> pa.Table:
        """The cluster of each kept row of a shard, in their order: the nearest center."""
        first, end = int(data.starts[shard]), int(data.starts[shard + 1])
        numbers = first + np.flatnonzero(data.kept[first:end])
        if not len(numbers) or self._clusters == 1:
            return pa.table({"number": numbers, "cluster": np.zeros(len(numbers), np.int64)})
        centers = np.array(fitted.column(0, "center").to_pylist(), np.float32)
        # |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2), so the nearest center has the largest bracket
        nearness = _vectors(data, numbers) @ centers.T - (centers**2).sum(1) / 2
        return pa.table({"number": numbers, "cluster": nearness.argmax(1)})

    def _walked(self, data: ExaminedRows, assigned: ShardFiles, unit: int, units: int) -> pa.Table:
        """What is dropped in the clusters of a unit: those whose number leaves the remainder `unit`."""
        tables = [assigned.table(shard) for shard in range(assigned.count)]
        numbers, clusters = (
            np.concatenate([np.zeros(0, np.int64), *(table.column(name).to_numpy() for table in tables)])
            for name in ("number", "cluster")
        )
        worth, exactly = self._worth(data), data.numbers("exactly")
        found: list[tuple[int, int, float]] = []
        for cluster in range(unit, self._clusters, units):
            members = numbers[clusters == cluster]
            if len(members) < 2:
                continue
            order = members[np.lexsort((members, -worth[members]))]
            vectors = _vectors(data, members)[np.searchsorted(members, order)]
            is_other = _other_texts(data, order)
            found += [
                (int(order[place]), int(order[cause]), cosine)
                for place, cause, cosine in repeats(vectors, exactly[order], self._config.similarity, is_other)
            ]
        columns = zip(*found, strict=True) if found else ((), (), ())
        kinds = (("number", pa.int64()), ("cause", pa.int64()), ("similarity", pa.float64()))
        return pa.table({name: pa.array(values, kind) for (name, kind), values in zip(kinds, columns, strict=True)})


def repeats(
    vectors: NDArray[np.float32],
    exactly: NDArray[np.uint64],
    similarity: float,
    is_other: Callable[[int, int], bool] = lambda place, kept: False,
) -> list[tuple[int, int, float]]:
    """Walk down rows that are sorted with the best one first. Returns the dropped ones: place, place of the kept row
    that is most similar to it, and their cosine.

    vectors: [rows, width], each of length 1. exactly: [rows]; rows with different values are not compared.
    is_other: whether the rows at two places are no duplicates in spite of their similarity; asked for the
        `_MOST_COMPARED` most similar rows.
    """
    kept = np.empty_like(vectors)
    places = np.zeros(len(vectors), np.int64)
    count, found = 0, []
    for place, vector in enumerate(vectors):
        cosines = np.where(exactly[places[:count]] == exactly[place], kept[:count] @ vector, -2.0)
        near = np.flatnonzero(cosines >= similarity)
        near = near[np.argsort(-cosines[near], kind="stable")][:_MOST_COMPARED]
        best = next((one for one in near.tolist() if not is_other(place, int(places[one]))), None)
        if best is not None:
            found.append((place, int(places[best]), float(cosines[best])))
            continue
        kept[count], places[count] = vector, place
        count += 1
    return found


def _other_texts(data: ExaminedRows, numbers: NDArray[np.int64]) -> Callable[[int, int], bool]:
    """Whether the texts of two rows, given by their places in `numbers`, say different things."""

    @cache
    def text_of(place: int) -> Compared:
        number = int(numbers[place])
        shard = data.shard_of(number)
        at = number - int(data.starts[shard])
        return compared(*(data.column(name, shard)[at].as_py() for name in ("question", "answer")))

    return lambda place, kept: says_other(text_of(place), text_of(kept))


def _vectors(data: ExaminedRows, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """The vectors of rows, given in ascending order: [rows, width]."""
    parts = []
    for shard in range(data.shards):
        low, high = np.searchsorted(numbers, data.starts[shard : shard + 2])
        if low < high:
            column = data.column("vector", shard).take(pa.array(numbers[low:high] - int(data.starts[shard])))
            flat = column.flatten().to_numpy(zero_copy_only=False)
            parts.append(flat.astype(np.float32).reshape(high - low, -1))
    vectors: NDArray[np.float32] = np.concatenate(parts)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # half floats are not quite of length 1
    return vectors


def _question(row: Row) -> str:
    """The last message before the target."""
    return prompt_of(row)[-1].content


def _both_ends(text: str) -> str:
    """A text without its middle, if it is long: enough for `compared`."""
    return text if len(text) <= 2 * _END else f"{text[:_END]} {text[-_END:]}"
