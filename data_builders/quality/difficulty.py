"""Tags rows with what their user intends, and with how difficult they are (Llama 3, section 4.2.3), by a model.

    intentions   the model names each intention of the user with a tag. More intentions mean a more complex prompt
                 (InsTag, Lu et al. 2023, arXiv:2308.07074)
    difficulty   the model grades the dialog with 1, 2 or 3

Models name one intention in many ways, so the tags are normalized, as InsTag does: case and punctuation do not count;
tags of few rows are left out; of tags with nearly the same embedding, the one with more rows replaces the others:

    "Creative Writing.", "creative-writing"   creative writing
    "story telling" (30 rows), "storytelling" (90 rows)   storytelling, with 120 rows

Semantic duplicates are walked through by quality x difficulty, and `Difficulty.ratings` is that second factor.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align.rows import Row
from data_builders.quality.asking import greedy_engine, key_settings, read_number
from data_builders.quality.encoders import encoder_of, encoder_path
from data_builders.quality.rank import mean_of_known, rank_ratios
from data_builders.quality.settings import DifficultyConfig
from data_builders.quality.steps import Choice, Examined, ExaminedRows, Step
from data_builders.quality.texts import asked_text, dialog_text

if TYPE_CHECKING:
    from align.generation.engine import GenerationEngine

INTENTIONS = """\
{text}

What does the message above ask for? Name each separate intention with a tag of one to four words in English, such as \
"creative writing" or "unit conversion". Reply with the tags only, one on each line."""

DIFFICULTY = """\
{dialog}

How difficult is this dialog for an assistant? 1: easy, common knowledge or one simple step. 2: medium, several steps \
or some expertise. 3: hard, many steps, deep expertise or strict conditions. Reply with the number only."""

MAX_TOKENS = 96
"""Enough for a dozen tags."""
MOST_TAGS = 16
"""Of a row; the rest of a reply that goes on is not read."""
_TAG_WORDS = 6
"""A line with more words is a sentence, and no tag."""
_LISTED = 100
SEPARATOR = "; "


class Difficulty(Step):
    """Tags rows with intentions and a grade of difficulty."""

    name = "difficulty"
    starts_pass = True
    models = ("_engine",)
    tag_names = ("intentions", "difficulty")

    def __init__(self, config: DifficultyConfig, engine: GenerationEngine | None = None) -> None:
        """engine: asks the model; by default the config's model is loaded. It should sample greedily."""
        self._config, self._given = config, engine
        self._names: dict[str, str] = {}
        self._notes: dict[str, Any] = {}
        self.ratings: NDArray[np.float64] = np.zeros(0)
        """[rows], after `choose`: the difficulty from 0 to 1; 0.5 if neither tags nor grade of a row are known."""

    def settings(self) -> dict[str, Any]:
        from align.manifest import input_fingerprint

        assert self._config.model is not None
        found = {"model": input_fingerprint(self._config.model.path)}
        if self._config.intentions:
            found["encoder"] = input_fingerprint(encoder_path(self._config))
        asked = self._config.sampling.greedy(MAX_TOKENS)
        return key_settings(self._config, asked) | {"fingerprints": found}

    def examine(self, rows: Sequence[Row]) -> Examined:
        """Keep the tags of each row as the model names them, and its grade. None for a reply that cannot be read."""
        tags: list[list[str] | None] = [None] * len(rows)
        grades: list[int | None] = [None] * len(rows)
        if self._config.intentions:
            asked = [INTENTIONS.format(text=asked_text(row)) for row in rows]
            tags = [read_tags(reply) or None if reply is not None else None for reply in self._engine.replies(asked)]
        if self._config.grade:
            asked = [DIFFICULTY.format(dialog=dialog_text(row)) for row in rows]
            grades = [read_number(reply, 3) for reply in self._engine.replies(asked)]
        return Examined({}, {"tags": pa.array(tags, pa.list_(pa.string())), "grade": pa.array(grades, pa.int8())})

    def choose(self, data: ExaminedRows) -> list[Choice]:
        """Drop nothing; normalize the tags over all rows, and rate the rows."""
        counts: Counter[str] = Counter()
        for shard in range(data.shards):
            for tags in data.column("tags", shard).to_pylist():
                counts.update(tags or ())
        frequent = {tag: count for tag, count in counts.items() if count >= self._config.min_tag_rows}
        merged = data.units("merged-tags", 1)
        merged.complete(lambda _: self._merged(frequent), "difficulty: tags")
        table = merged.table(0)
        self._names = dict(zip(table.column("tag").to_pylist(), table.column("name").to_pylist(), strict=True))
        self._rate(data)
        self._notes |= {"tags_left_out": len(counts) - len(frequent)}
        return []

    def tags(self, data: ExaminedRows, shard: int) -> dict[str, list[str | None]]:
        grades = data.column("grade", shard).to_pylist()
        return {
            "intentions": [SEPARATOR.join(tags) if tags else None for tags in self._intentions(data, shard)],
            "difficulty": [None if grade is None else str(grade) for grade in grades],
        }

    def notes(self) -> dict[str, Any]:
        return self._notes

    @cached_property
    def _engine(self) -> GenerationEngine:
        if self._given is not None:
            return self._given
        return greedy_engine(self._config.model, self._config.sampling, MAX_TOKENS)

    def _intentions(self, data: ExaminedRows, shard: int) -> list[list[str] | None]:
        """The normalized tags of each row of a shard, each once; None for a row without a reply."""
        return [
            None if tags is None else list(dict.fromkeys(self._names[tag] for tag in tags if tag in self._names))
            for tags in data.column("tags", shard).to_pylist()
        ]

    def _merged(self, counts: Mapping[str, int]) -> pa.Table:
        """Each tag with the tag that replaces it."""
        names = list(counts)
        if names:
            vectors = encoder_of(self._config, "difficulty.encoder").embed(names)
            found = merged_tags(counts, vectors, self._config.tag_similarity)
        else:
            found = {}
        return pa.table({"tag": pa.array(found.keys(), pa.string()), "name": pa.array(found.values(), pa.string())})

    def _rate(self, data: ExaminedRows) -> None:
        """Set `ratings`, the mean of grade / 3 and of the rank of the number of intentions as far as they are known,
        and `_notes`."""
        used, graded = Counter[str](), Counter[float]()
        numbers, grades = np.full(len(data.kept), np.nan), np.full(len(data.kept), np.nan)
        for shard in range(data.shards):
            first, end = data.starts[shard : shard + 2]
            intentions = self._intentions(data, shard)
            used.update(tag for tags in intentions for tag in tags or ())
            numbers[first:end] = [np.nan if tags is None else len(tags) for tags in intentions]
            grades[first:end] = data.column("grade", shard).to_numpy(zero_copy_only=False)
        graded.update(grades[~np.isnan(grades)].tolist())
        self.ratings = mean_of_known([rank_ratios(numbers), grades / 3])
        given = int(data.kept.sum())
        self._notes = {
            "model": str(self._config.model.path) if self._config.model else "",
            "tags": dict(used.most_common(_LISTED)),
            "different_tags": len(used),
            "tags_merged": {tag: name for tag, name in sorted(self._names.items()) if tag != name},
            "rows_without_tags": given - int((~np.isnan(numbers)).sum()),
            "grades": {str(grade): graded[grade] for grade in (1, 2, 3)},
            "rows_without_a_grade": given - graded.total(),
        }


def read_tags(reply: str) -> list[str]:
    """The tags in a reply: a JSON list of texts, or of objects with a key `tag`; otherwise one on each line, or between
    commas. In lower case, without punctuation, each once.

    `["Creative Writing", "poem"]`, `- Creative writing\\n- Poem` and `creative-writing, poem` give the same two.
    """
    found: list[Any] = []
    listed = re.search(r"\[.*\]", reply, re.DOTALL)
    try:
        values = json.loads(listed.group()) if listed else None
    except (ValueError, RecursionError):
        values = None
    if isinstance(values, list):
        found = [value.get("tag") if isinstance(value, dict) else value for value in values]
    else:
        lines = [re.sub(r"^\s*(?:[-*\u2022]|\d+[.)])\s*", "", line) for line in reply.splitlines()]
        found = [part for line in lines for part in line.split(",")]
    tags = [" ".join(re.findall(r"\w+", tag.lower().replace("_", " "))) for tag in found if isinstance(tag, str)]
    return list(dict.fromkeys(tag for tag in tags if tag and len(tag.split()) <= _TAG_WORDS))[:MOST_TAGS]


def merged_tags(counts: Mapping[str, int], vectors: NDArray[np.float32], similarity: float) -> dict[str, str]:
    """Tag -> the tag that replaces it. Tags with a cosine of at least `similarity` belong together, and so do those
    that are connected by others (clusters of DBSCAN with one point as a core). The one with the most rows gives the
    name; of several, the first by alphabet.

    vectors: one of length 1 for each tag, in the order of `counts`.
    """
    names = list(counts)
    order = sorted(range(len(names)), key=lambda place: (-counts[names[place]], names[place]))
    found: dict[str, str] = {}
    for first in order:
        if names[first] in found:
            continue
        found[names[first]], open_ = names[first], [first]
        while open_:
            near = np.flatnonzero(vectors @ vectors[open_.pop()] >= similarity)
            new = [int(place) for place in near if names[place] not in found]
            found |= {names[place]: names[first] for place in new}
            open_ += new
    return found
