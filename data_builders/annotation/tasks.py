"""Read what raters compare from files: ready pairs, candidates of several models, or prompts that models answer
live."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from align.errors import RowError
from align.files import fingerprint_of
from align.formats.columns import RESPONSES, Columns, first_given
from align.formats.pairs import pair_names
from align.jsonl import Drops, read_rows, row_of, usable
from align.records import Record, SourceLike, label_of, records_of, sources_of
from align.reporting import logger
from align.rows import Candidate, Messages, PreferenceRow, PromptRow, row_id
from data_builders.annotation.settings import TasksConfig
from data_builders.preferences.ratings import rated_prompt_of
from data_builders.row_contents import message_texts


@dataclass(frozen=True)
class Task:
    """A prompt with two responses, or a prompt that models will answer."""

    name: str
    """The id of the row in its file."""
    source: str
    prompt: Messages
    tools: str = ""
    responses: tuple[Messages, Messages] | None = None
    """None: two models answer the prompt while raters work."""
    models: tuple[str, str] = ("", "")
    seeds: tuple[int, ...] = ()
    """The seeds with which the two responses were sampled; empty where unknown."""
    round: int | None = None
    batch: str = ""

    @property
    def id(self) -> str:
        """An id that depends on prompt and responses only, so that reading a file again adds no task twice."""
        said = [fingerprint_of(*message_texts(response)) for response in self.responses or ()]
        return fingerprint_of(self.tools, *message_texts(self.prompt), *said)[:16]


def read_tasks(config: TasksConfig, seed: int, drops: Drops | None = None) -> list[Task]:
    """Read the tasks of all files, in their order. The log says how many were dropped, and why.

    drops: also counts them.
    Raises RowError naming file, line and field of a record that cannot be read, or if there is nothing to compare.
    """
    drops = Drops() if drops is None else drops
    read = partial(_pair, seed=seed, ignore=config.ignore_columns)
    found = [
        *usable(records_of(config.pairs), read, config.bad_rows, drops),
        *_of_candidates(config, seed, drops),
        *(_opening(row) for path in config.prompts for row in read_rows(path, PromptRow, config, drops=drops)),
    ]
    dropped = drops.reasons
    tasks: dict[str, Task] = {}
    for task in found:
        if task.responses is not None and _says(task.responses[0]) == _says(task.responses[1]):
            dropped["both responses the same"] += 1
        elif task.id in tasks:
            dropped["duplicate"] += 1
        else:
            round_ = config.round if task.round is None else task.round
            tasks[task.id] = replace(task, batch=task.batch or config.batch, round=round_)
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
    summary = f" (dropped: {reasons})" if reasons else ""
    if not tasks:
        what = f"there is nothing to compare{summary}"
        raise RowError("tasks", what, "Add prompts, or prompts with two different responses")
    logger("data_builders").info("%-20s %d%s", "to compare", len(tasks), summary)
    return list(tasks.values())


def _pair(record: Record, where: str, seed: int, ignore: Collection[str]) -> Task:
    several = first_given(record, RESPONSES) and pair_names(Columns(record, where, ignore)) is None
    if several and not _is_ours(record):
        asked = rated_prompt_of(record, where, ignore)
        first, second = choose_two(asked.models, seed, asked.id)
        return Task(
            name=asked.id,
            source=asked.source,
            prompt=asked.prompt,
            tools=asked.tools,
            responses=(asked.responses[first], asked.responses[second]),
            models=(asked.models[first], asked.models[second]),
            seeds=(asked.seeds[first], asked.seeds[second]) if asked.seeds else (),
            round=asked.round,
            batch=asked.batch,
        )
    row = row_of(record, PreferenceRow, where, ignore)
    chosen, rejected = row.completions[-2:]  # of three completions, the first is an edited one
    return Task(
        name=row.id,
        source=row.source,
        prompt=row.prompt,
        tools=row.tools,
        responses=(chosen, rejected),
        models=(row.models[-2], row.models[-1]) if row.models else ("", ""),
        round=row.round,
        batch=row.batch,
    )


def _is_ours(record: dict[str, object]) -> bool:
    """Return whether this is one of our preference rows, whose `completions` are ordered, best first, without
    ratings."""
    return {"id", "source", "completions"} <= record.keys() <= PreferenceRow.model_fields.keys()


def _of_candidates(config: TasksConfig, seed: int, drops: Drops) -> Iterator[Task]:
    finished: dict[str, dict[str, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    first: dict[str, Candidate] = {}
    for model, path in config.candidates.items():
        for candidate in read_rows(path, Candidate, config, drops=drops):
            known = first.setdefault(candidate.prompt_id, candidate)
            if (known.prompt, known.tools) != (candidate.prompt, candidate.tools):
                what = f"{candidate.prompt_id!r} has different prompts in the candidates of two models"
                raise RowError(f"{_label(path)}: prompt_id", what, "Sample both models on the same file of prompts")
            if candidate.finished:
                finished[candidate.prompt_id][model].append(candidate)
    for prompt_id, known in first.items():
        by_model = finished[prompt_id]
        if len(by_model) < 2:
            drops.reasons["prompt with finished candidates of fewer than two models"] += 1
            continue
        draw = random.Random(row_id(seed, prompt_id))
        names = draw.sample(sorted(by_model), 2)
        one, other = (draw.choice(sorted(by_model[name], key=lambda candidate: candidate.id)) for name in names)
        yield Task(
            name=prompt_id,
            source=known.source,
            prompt=known.prompt,
            tools=known.tools,
            responses=(one.completion, other.completion),
            models=(names[0], names[1]),
            seeds=(one.seed, other.seed),
        )


def _label(source: SourceLike) -> str:
    return ", ".join(map(label_of, sources_of(source)))


def _opening(row: PromptRow) -> Task:
    return Task(name=row.id, source=row.source, prompt=row.prompt, tools=row.tools)


def choose_two(models: Sequence[str], seed: int, name: str) -> tuple[int, int]:
    """Choose two responses, from different models if possible. Returns their indices in ascending order."""
    if len(models) == 2:
        return 0, 1
    order = list(range(len(models)))
    random.Random(row_id(seed, name)).shuffle(order)
    first, *others = order
    second = next((place for place in others if models[place] != models[first]), others[0])
    return min(first, second), max(first, second)


def _says(response: Iterable[object]) -> list[str]:
    return [text.strip() for text in message_texts(response)]  # type: ignore[arg-type]
