"""What all evaluations share: the model that is evaluated, results on disk that are reused, a table for the terminal.

A result is one JSON: scores with intervals, counts, and every row with prompt, answer and verdict. Its `key` is a
fingerprint of all that it was made from; a result with the same key is read and not run again. Each evaluation has its
own file with the questions and the judging.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from align.config import Section, dump
from align.files import fingerprint_of, whole_file
from align.hardware import describe
from align.hub_names import is_hub_name
from align.manifest import content_fingerprint
from align.records import remote_inputs_of
from align.rounds.hub_inputs import hub_content
from align.rounds.packaged import packaged_data
from align.rows import Candidate, Messages, PromptRow, Row
from align.settings import INPUT, ModelConfig, SamplingConfig, paths_of, unused_backends
from align.source_code import code_of
from eval.intervals import Share, percent_range

if TYPE_CHECKING:  # these import torch, which the configs of evaluations do not need
    from align.generation.engine import GenerationEngine
    from align.generation.tool_loop import Trajectory
    from align.judges.judge import Judge, ScoreRequest
    from align.judges.likelihood import LikelihoodJudge
    from align.sampling.collapse import Sample
    from align.tools.replay import Tools

UNIT_SIZE = 256
"""Prompts answered between two saves: several times the default batch, which is not full while a unit ends."""

R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Result:
    """The result of an evaluation."""

    scores: Mapping[str, Share | None]
    """Metric -> share; None (no cases) is left out of the file."""
    counts: dict[str, Any]
    rows: list[dict[str, Any]]
    """One for each question: id, prompt, answer, verdict, and details of the evaluation."""
    differences: Mapping[str, Share | None] = field(default_factory=dict)
    """Metric -> this model minus the baseline, on the same questions; empty without a baseline."""
    samples: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What was answered -> the figures of the answers (`align/sampling/collapse.py`), set by `eval/catalog.py`."""


class _Dialog(NamedTuple):
    """A dialog as a sample: the model's own messages."""

    prompt_id: str
    completion: Messages
    finished: bool

    @classmethod
    def of(cls, dialog: Trajectory) -> Self:
        own = tuple(message for message in dialog.messages if message.role == "assistant")
        return cls(dialog.row.id, own, dialog.ended != "not finished")


@dataclass
class Generator:
    """The model that is evaluated, loaded when it is first needed and freed by `release`."""

    config: ModelConfig
    sampling: SamplingConfig
    token_budget: int = 4096
    """Tokens in one forward pass that scores completions."""
    _engine: GenerationEngine | None = field(default=None, repr=False)
    _samples: dict[str, list[Sample]] = field(default_factory=dict, repr=False)

    def answers(self, rows: Sequence[PromptRow], folder: Path, label: str) -> list[Candidate]:
        """One answer to each row, in their order. Answers in `folder` survive a crash."""
        from align.sampling.candidates import sample_candidates

        engine = self._loaded()
        units = sample_candidates(rows, engine, k=1, seed=0, folder=folder, unit_size=UNIT_SIZE, label=label)
        found = list(units.rows())
        self._samples.setdefault(label, []).extend(found)
        return found

    def dialogs(
        self, rows: Sequence[PromptRow], tools: Sequence[Tools], *, max_calls: int, max_result_characters: int
    ) -> list[Trajectory]:
        """The dialog of each row with its tools, in their order. After a crash, all dialogs are run again."""
        from align.generation.tool_loop import run_dialogs
        from align.sampling.candidates import candidate_seed

        found = run_dialogs(
            rows,
            self._loaded(),
            tools,
            seeds=[candidate_seed(0, row.id, 0) for row in rows],
            max_calls=max_calls,
            max_result_characters=max_result_characters,
        )
        self._samples.setdefault("dialogs", []).extend(_Dialog.of(each) for each in found)
        return found

    def take_figures(self) -> dict[str, dict[str, float]]:
        """The figures of what was answered since the last call, by label."""
        from align.sampling.collapse import sample_figures

        found = {label: sample_figures(given, across_prompts=True) for label, given in self._samples.items()}
        self._samples.clear()
        return found

    def logps(self, requests: Sequence[ScoreRequest]) -> tuple[list[list[float]], list[list[int]]]:
        """Log-probabilities of each completion's content in nats, and how many tokens each one sums over.

        See `likelihood_judge`.
        """
        judge = self.likelihood_judge()
        return judge.score_many(requests), judge.token_counts(requests)

    def likelihood_judge(self) -> LikelihoodJudge:
        """The model as a judge of log-probabilities.

        The engine is closed first, and the model is loaded again in the form that computes a prompt together with all
        its completions.
        """
        from align.judges.likelihood import LikelihoodJudge

        self.release()
        return LikelihoodJudge.from_settings(self.config, self.token_budget)

    def _loaded(self) -> GenerationEngine:
        if self._engine is None:
            from align.generation.engine import GenerationEngine

            self._engine = GenerationEngine.from_settings(self.config, self.sampling)
        return self._engine

    def release(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


@dataclass
class Scorer:
    """The reward model that is evaluated, loaded when it is first needed."""

    config: ModelConfig
    token_budget: int
    _judge: Judge | None = field(default=None, repr=False)

    def scores(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        if self._judge is None:
            from align.judges.reward_model import RewardModelJudge

            self._judge = RewardModelJudge.from_settings(self.config, self.token_budget)
        return self._judge.score_many(requests)

    def release(self) -> None:
        self._judge = None
        gc.collect()


def evaluated(
    name: str,
    output_dir: Path,
    model: Path,
    settings: Mapping[str, Section | int | None],
    evaluate: Callable[[Path], Result],
) -> dict[str, Any]:
    """The result of one evaluation: an existing one with the same key, or a new one, written atomically.

    settings: all that the result depends on. The key has the content of every input path in them, and the code of
        `eval/<name>.py` and of all that it imports.
    evaluate: gets a folder for answers that survive a crash; it is deleted when the result is written.
    """
    code = code_of("eval.runner", f"eval.{name}", without=unused_backends(*settings.values()))
    made_from = settings_key(name, settings, code)
    key = fingerprint_of(made_from, packaged_data(code), *_commits(settings))
    path = output_dir / f"{name}.json"
    existing = read_result(path)
    if existing.get("key") == key:
        return existing
    units = output_dir / f".{name}-{key[:12]}"
    began = time.monotonic()
    result = evaluate(units)
    record = {
        "name": name,
        "model": str(model),
        "scores": _as_json(result.scores),
        **({"differences": _as_json(result.differences)} if result.differences else {}),
        "counts": result.counts,
        **({"samples": result.samples} if result.samples else {}),
        "seconds": round(time.monotonic() - began, 1),
        "key": fingerprint_of(
            made_from, packaged_data(code), *_commits(settings)
        ),  # again, now with the commits it fetched
        "hardware": describe(),
        "dtypes": {
            label: value.dtype for label, value in settings.items() if isinstance(value, ModelConfig | SamplingConfig)
        },
        "rows": result.rows,
    }
    with whole_file(path) as handle:
        json.dump(record, handle, indent=1, ensure_ascii=False)
    for leftover in output_dir.glob(f".{name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return record


def read_result(path: Path) -> dict[str, Any]:
    """The result at `path`; empty if there is none, or if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def limited(rows: Sequence[R], limit: int | None) -> list[R]:
    """At most `limit` rows in their order. Which rows are kept depends on their ids only."""
    if limit is None or limit >= len(rows):
        return list(rows)
    kept = {row.id for row in sorted(rows, key=lambda row: fingerprint_of("limit", row.id))[:limit]}
    return [row for row in rows if row.id in kept]


def prompt_text(prompt: Messages) -> str:
    """A prompt for a person to read."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{message.role}: {completion_text((message,))}" for message in prompt)


def completion_text(completion: Messages) -> str:
    """The texts and calls of messages, for a person to read."""
    lines = [
        line
        for message in completion
        for line in (message.content, *(f"{call.name}({call.arguments})" for call in message.tool_calls))
    ]
    return "\n".join(line for line in lines if line)


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """Scores for the terminal: one line for each metric, with its interval and number of cases.

    If the evaluation had a baseline, the line ends with the paired difference from it in percentage points.
    """
    lines = []
    for result in results:
        for metric, score in result["scores"].items():
            interval = percent_range(score["low"], score["high"])
            label = f"{result['name']}: {metric}".replace("_", " ")
            line = f"{label:<36}{score['value']:>6.0%}   ({interval}, n {score['n']})"
            change = result.get("differences", {}).get(metric)
            lines.append(line if change is None else f"{line}   against the baseline {points(change)}")
    return "\n".join(lines)


def points(difference: Mapping[str, Any]) -> str:
    """A difference in percentage points with its interval: `+12 (+3 to +21)`."""
    value, low, high = (round(100 * difference[key]) for key in ("value", "low", "high"))
    return f"{value:+d} ({low:+d} to {high:+d})"


def _as_json(scores: Mapping[str, Share | None]) -> dict[str, dict[str, float]]:
    return {metric: score._asdict() for metric, score in scores.items() if score is not None}


def settings_key(name: str, settings: Mapping[str, Section | int | None], code: Mapping[str, str]) -> str:
    """A fingerprint of an evaluation's settings, of the content of every input path in them, and of its code."""
    parts: list[object] = [name, json.dumps(code, sort_keys=True)]
    for label, value in sorted(settings.items()):
        if isinstance(value, Section):
            left_out = ("batch_size", "threads", "token_budget")  # they change the speed, and rounding
            values = value.result_settings() if isinstance(value, SamplingConfig) else dump(value)
            kept = {field: entry for field, entry in values.items() if field not in left_out}
            inputs = paths_of(value, INPUT)
            parts += [label, json.dumps({k: v for k, v in kept.items() if k not in inputs}, sort_keys=True)]
            parts += [f"{key} {_content(path)}" for key, path in sorted(inputs.items())]
            parts += [f"{source} {identity}" for source, identity in sorted(remote_inputs_of(value).items())]
        else:
            parts += [label, value]
    return fingerprint_of(*parts)


def _content(path: Path) -> str:
    """A fingerprint of a file or folder; for a name on the Hub the name itself, since `_commits` has its commit."""
    return content_fingerprint(path) or str(path)


def _commits(settings: Mapping[str, Section | int | None]) -> list[str]:
    """The commits of the models on the Hub that are in the local cache."""
    sections = [value for value in settings.values() if isinstance(value, Section)]
    return [
        hub_content(path, getattr(section, "revision", None))
        for section in sections
        for _, path in sorted(paths_of(section, INPUT).items())
        if is_hub_name(path)
    ]
