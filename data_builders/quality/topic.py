"""Tags rows with a coarse and a fine topic, such as mathematics and algebra (Llama 3, section 4.2.3).

The paper fine-tunes an 8B model as a classifier. Here a linear classifier over sentence embeddings learns the topics
from labelled prompts (`topic_seed.yaml`), or a model chooses one of them, through any backend. What is tagged is what
the user says. How often the tagger is right on prompts that it has not learned from is in the manifest and the card:

    classifier   each fifth of the labelled prompts is tagged by a classifier that was trained on the other four
    model        all labelled prompts, since it was not trained on them
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align.errors import ConfigError
from align.rows import Row
from align.strict_yaml import read_yaml
from data_builders.quality.asking import greedy_engine, key_settings, read_number
from data_builders.quality.encoders import encoder_of, encoder_path
from data_builders.quality.linear import fit
from data_builders.quality.settings import TopicConfig
from data_builders.quality.steps import Choice, Examined, ExaminedRows, Step
from data_builders.quality.texts import asked_text

if TYPE_CHECKING:
    from align.generation.engine import GenerationEngine

PACKAGED = Path(__file__).with_name("topic_seed.yaml")

ASKED = """\
{text}

What is the message above about? Choose one of these topics:

{topics}

Reply with the number of the topic only."""

MAX_TOKENS = 8
"""Enough for one number, in any tokenizer."""
_FOLDS = 5


class Seed(NamedTuple):
    """Labelled prompts. Topics are numbered in the order of the file."""

    topics: tuple[tuple[str, str], ...]
    """Coarse and fine name of each topic."""
    prompts: tuple[str, ...]
    labels: NDArray[np.int64]
    """[prompts]: the number of each prompt's topic."""


class Tagger(Protocol):
    """Finds the topics of texts."""

    def topics(self, texts: Sequence[str]) -> list[int | None]:
        """The number of each text's topic; None if it cannot be found."""
        ...

    def held_out(self) -> list[int | None]:
        """The topics of the labelled prompts, each by a tagger that has not learned from it."""
        ...


class Topics(Step):
    """Tags rows with a coarse and a fine topic."""

    name = "topic"
    starts_pass = True
    models = ("_tagger",)
    tag_names = ("topic", "fine_topic")

    def __init__(self, config: TopicConfig, engine: GenerationEngine | None = None) -> None:
        """engine: asks the tagger; by default the config's tagger is loaded. It should sample greedily."""
        self._config, self._engine = config, engine
        self._notes: dict[str, Any] = {}
        self._seed = read_seed(config.seed or PACKAGED)

    def settings(self) -> dict[str, Any]:
        from align.manifest import input_fingerprint

        config = self._config
        model = encoder_path(config) if config.tagger is None else config.tagger.path
        found = {"model": input_fingerprint(model), "seed": input_fingerprint(config.seed or PACKAGED)}
        asked = config.sampling.greedy(MAX_TOKENS) if config.tagger is not None else None
        return key_settings(config, asked) | {"fingerprints": found}

    def examine(self, rows: Sequence[Row]) -> Examined:
        """Keep the number of each row's topic."""
        topics = self._tagger.topics([asked_text(row) for row in rows]) if rows else []
        return Examined({}, {"topic": pa.array(topics, pa.int32())})

    def choose(self, data: ExaminedRows) -> list[Choice]:
        """Drop nothing; find how often the tagger is right."""
        checked = data.units("held-out", 1)
        checked.complete(lambda _: self._checked(), "topic: held-out prompts")
        counts = [data.column("topic", shard).null_count for shard in range(data.shards)]
        untagged = sum(counts) - int((~data.kept).sum())
        found = checked.column(0, "topic").to_pylist()
        self._notes = {
            "tagger": str(self._config.tagger.path) if self._config.tagger else "linear classifier",
            "rows_without_a_topic": untagged,
            "held_out": confusion(self._seed, found),
        }
        return []

    def tags(self, data: ExaminedRows, shard: int) -> dict[str, list[str | None]]:
        topics = [self._seed.topics[one] if one is not None else (None, None)
                  for one in data.column("topic", shard).to_pylist()]  # fmt: skip
        return {name: [topic[place] for topic in topics] for place, name in enumerate(self.tag_names)}

    def notes(self) -> dict[str, Any]:
        return self._notes

    def _checked(self) -> pa.Table:
        return pa.table({"topic": pa.array(self._tagger.held_out(), pa.int32())})

    @cached_property
    def _tagger(self) -> Tagger:
        config = self._config
        if config.tagger is None:
            return ClassifierTagger(self._seed, encoder_of(config, "topic.encoder"), config.l2)
        return ModelTagger(self._seed, self._engine or greedy_engine(config.tagger, config.sampling, MAX_TOKENS))


class ClassifierTagger:
    """A linear classifier over embeddings, trained on the labelled prompts."""

    def __init__(self, seed: Seed, encoder: Any, l2: float) -> None:
        self._seed, self._encoder, self._l2 = seed, encoder, l2

    def topics(self, texts: Sequence[str]) -> list[int | None]:
        return [int(one) for one in self._classifier.probabilities(self._encoder.embed(texts)).argmax(1)]

    def held_out(self) -> list[int | None]:
        """Prompt n of a topic is in fold n modulo 5, so each topic is in each fold."""
        seen: Counter[int] = Counter()
        folds = np.zeros(len(self._seed.labels), np.int64)
        for place, label in enumerate(self._seed.labels.tolist()):
            folds[place] = seen[label] % _FOLDS
            seen[label] += 1
        found = np.zeros(len(folds), np.int64)
        for fold in range(_FOLDS):
            is_out = folds == fold
            if is_out.any():
                found[is_out] = self._fitted(~is_out).probabilities(self._vectors[is_out]).argmax(1)
        return [int(one) for one in found]

    def _fitted(self, chosen: NDArray[np.bool_]) -> Any:
        return fit(self._vectors[chosen], self._seed.labels[chosen], len(self._seed.topics), l2=self._l2)

    @cached_property
    def _classifier(self) -> Any:
        return self._fitted(np.ones(len(self._seed.labels), bool))

    @cached_property
    def _vectors(self) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._encoder.embed(self._seed.prompts)
        return vectors


class ModelTagger:
    """A model that replies with the number of a topic."""

    def __init__(self, seed: Seed, engine: GenerationEngine) -> None:
        self._seed, self._engine = seed, engine

    def topics(self, texts: Sequence[str]) -> list[int | None]:
        listed = "\n".join(f"{n}. {coarse}: {fine}" for n, (coarse, fine) in enumerate(self._seed.topics, 1))
        replies = self._engine.replies([ASKED.format(text=text, topics=listed) for text in texts])
        numbers = [read_number(reply, len(self._seed.topics)) for reply in replies]
        return [None if number is None else number - 1 for number in numbers]

    def held_out(self) -> list[int | None]:
        return self.topics(self._seed.prompts)


def confusion(seed: Seed, found: Sequence[int | None]) -> dict[str, Any]:
    """How often the topics in `found` are those of the labelled prompts.

    `confusion` has for each coarse topic how many of its prompts got which one; "-" is none.
    """
    labels = seed.labels.tolist()
    coarse: dict[str, Counter[str]] = {}
    for label, one in zip(labels, found, strict=True):
        coarse.setdefault(seed.topics[label][0], Counter())["-" if one is None else seed.topics[one][0]] += 1
    right = sum(counts[name] for name, counts in coarse.items())
    return {
        "prompts": len(labels),
        "coarse_accuracy": right / len(labels),
        "fine_accuracy": sum(label == one for label, one in zip(labels, found, strict=True)) / len(labels),
        "confusion": {name: dict(counts.most_common()) for name, counts in coarse.items()},
    }


def read_seed(path: Path) -> Seed:
    """Labelled prompts from a YAML file: coarse topic -> fine topic -> prompts. Raises ConfigError."""
    values, lines = read_yaml(path)
    topics: list[tuple[str, str]] = []
    prompts: list[str] = []
    labels: list[int] = []
    how = "Write coarse topic -> fine topic -> list of prompts, see data_builders/quality/topic_seed.yaml"
    for coarse, fines in values.items():
        if not isinstance(fines, dict) or not fines:
            raise ConfigError(f"{path}:{lines[(coarse,)]}: {coarse}", "expected fine topics with their prompts", how)
        for fine, texts in fines.items():
            where = f"{path}:{lines[coarse, fine]}: {coarse}.{fine}"
            if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
                raise ConfigError(where, "expected a list of prompts, each a text", how)
            if len(texts) < 2:
                raise ConfigError(where, f"expected at least 2 prompts, found {len(texts)}", "Add some, or remove it")
            if any(fine == other for _, other in topics):
                raise ConfigError(where, "is the name of another fine topic too", "Give each fine topic its own name")
            labels += [len(topics)] * len(texts)
            prompts += texts
            topics.append((coarse, fine))
    if len(topics) < 2:
        raise ConfigError(path, f"expected at least 2 fine topics, found {len(topics)}", how)
    return Seed(tuple(topics), tuple(prompts), np.array(labels, np.int64))
