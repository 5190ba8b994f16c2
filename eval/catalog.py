"""The evaluations of `recipes/run_eval.py` by name. An evaluation is imported only when a config names it.

To add an evaluation, write a module with a config class and a function `evaluate` that follows `Evaluate`, and add one
entry to `EVALUATIONS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pydantic import Field, create_model

from align.config import Recipe, Section
from align.sampling.collapse import SampleAlarmsConfig
from align.settings import InputPath, ModelConfig, SamplingConfig, unused_backends

if TYPE_CHECKING:
    from eval.runner import Generator, Result, Scorer


class Evaluation(NamedTuple):
    """Where an evaluation is, what it evaluates, and what it is for."""

    config: str
    """"module:Class" of its settings. The function `evaluate` is in the same module."""
    subject: Literal["model", "reward_model"]
    """The section of the recipe that names what is evaluated."""
    summary: str
    """One line for `--help`."""


class Evaluate(Protocol):
    """Run an evaluation.

    subject: a `Generator` for evaluations of a model, a `Scorer` for those of a reward model (`eval/runner.py`).
    units: a folder for answers that survive a crash. limit: evaluate at most this many rows.
    """

    def __call__(self, config: Any, subject: Any, units: Path, limit: int | None) -> Result: ...


EVALUATIONS = {
    "factuality": Evaluation(
        "eval.factuality:FactualityConfig", "model", "Which questions of fact are answered right, wrong, or not at all."
    ),
    "tool_use": Evaluation(
        "eval.tool_use:ToolUseEvalConfig", "model", "Single tool calls, compared with the last message of a dialog."
    ),
    "tool_dialogs": Evaluation(
        "eval.tool_dialogs:ToolDialogsEvalConfig", "model", "Whole dialogs with tools, whose calls are executed."
    ),
    "bfcl": Evaluation(
        "eval.bfcl:BFCLConfig", "model", "The Berkeley Function Calling Leaderboard, judged by its own checker."
    ),
    "instructions": Evaluation(
        "eval.instructions:InstructionsEvalConfig", "model", "Instructions that a rule checks, strictly and loosely."
    ),
    "maths": Evaluation("eval.maths:MathsEvalConfig", "model", "Problems of mathematics, judged by the final answer."),
    "benchmarks": Evaluation(
        "eval.benchmarks:BenchmarksConfig", "model", "Multiple-choice benchmarks by likelihood: what training costs."
    ),
    "contamination": Evaluation(
        "eval.contamination:ContaminationConfig",
        "model",
        "How much of the benchmarks is in the training data, and what it may have added to their scores.",
    ),
    "win_rate": Evaluation(
        "eval.win_rate:WinRateConfig", "model", "Answers preferred to another model's by a judge, also at equal length."
    ),
    "reward_accuracy": Evaluation(
        "eval.reward_accuracy:RewardAccuracyConfig", "reward_model", "Held-out pairs that are ranked as people did."
    ),
}
"""In the order in which they run: the model is freed before the reward model is loaded."""


class EvalSamplingConfig(SamplingConfig):
    """How the evaluated model answers: greedily, unless set otherwise."""

    temperature: float = Field(0.0, ge=0)
    """0 takes the likeliest token each time."""


class EvalAlarmsConfig(SampleAlarmsConfig):
    """Thresholds for the answers of each evaluation. null switches an alarm off."""

    action: Literal["warn", "stop"] = "warn"
    """warn: a warning in the log. stop: the run ends with an error once the result is written. The figures are in the
    result in either case."""
    repeated: float | None = Field(0.9, ge=0, le=1)
    """Alarm if a larger ratio of the answers has the text of an earlier answer, also to another prompt."""
    former: tuple[InputPath, ...] = ()
    """Folders of results of earlier models; the last one counts. Empty: lengths are not compared."""


class EvaluatingRecipe(Recipe):
    """A recipe whose config has a section for each evaluation to run."""

    @classmethod
    def catalogue(cls) -> dict[str, str]:
        return {name: evaluation.summary for name, evaluation in EVALUATIONS.items()}

    @classmethod
    def for_values(cls, values: Mapping[str, Any]) -> type[Recipe]:
        """This class with a section for each evaluation that `values` name: only those are imported."""
        sections: dict[str, Any] = {
            name: (config_class(name) | None, None) if values[name] is not None else (None, None)
            for name in EVALUATIONS
            if name in values
        }
        return create_model(cls.__name__, __base__=cls, __doc__=cls.__doc__, __module__=cls.__module__, **sections)

    @property
    def sections(self) -> dict[str, Section]:
        """The evaluations to run, by name."""
        named = {name: getattr(self, name, None) for name in EVALUATIONS}
        return {name: section for name, section in named.items() if section is not None}

    def code_modules(self) -> tuple[str, ...]:
        modules = (EVALUATIONS[name].config.partition(":")[0] for name in self.sections)
        return ("eval.runner", *modules)


def config_class(name: str) -> type[Section]:
    """The class of an evaluation's settings."""
    module, _, member = EVALUATIONS[name].config.partition(":")
    found: type[Section] = getattr(import_module(module), member)
    return found


def evaluate_function(name: str) -> Evaluate:
    """The function that runs an evaluation."""
    evaluate: Evaluate = import_module(EVALUATIONS[name].config.partition(":")[0]).evaluate
    return evaluate


def missing_subject(names: Iterable[str], subjects: Mapping[str, ModelConfig | None]) -> str | None:
    """Why these evaluations cannot run: the section of a model that they evaluate is missing. None if they can.

    subjects: the sections `model` and `reward_model`.
    """
    names = tuple(names)
    for subject, given in subjects.items():
        asked = [name for name in names if EVALUATIONS[name].subject == subject]
        if asked and given is None:
            return f"expected a {subject} for {' and '.join(asked)}, found none"
    return None


def run_evaluations(
    sections: Mapping[str, Section],
    *,
    model: ModelConfig | None,
    reward_model: ModelConfig | None,
    sampling: SamplingConfig,
    token_budget: int,
    limit: int | None,
    output_dir: Path,
    alarms: EvalAlarmsConfig | None = None,
) -> list[dict[str, Any]]:
    """The results of the evaluations in `sections` (name -> its config), each also in `<output_dir>/<name>.json`.

    model, reward_model: what is evaluated. An evaluation whose subject is None is left out.
    alarms: what the answers are checked for, also those of a result that is not made again. None: for nothing.
    Raises CheckError for an alarm if its `action` is stop.
    """
    from align.models.devices import cpu_threads
    from eval.runner import Generator, Scorer, evaluated

    results = []
    subjects: dict[str, Generator | Scorer] = {}
    if model is not None:
        subjects["model"] = Generator(model, sampling, token_budget)
    if reward_model is not None:
        subjects["reward_model"] = Scorer(reward_model, token_budget)
    with cpu_threads(sampling.threads):
        for kind, subject in subjects.items():
            for name, evaluation in EVALUATIONS.items():
                if evaluation.subject != kind or name not in sections:
                    continue
                config = sections[name]
                settings: dict[str, Section | int | None] = {"model": subject.config, "limit": limit, name: config}
                if kind == "model":
                    settings["sampling"] = sampling
                run = partial(_with_figures, evaluate_function(name), config, subject, limit=limit)
                results.append(evaluated(name, output_dir, subject.config.path, settings, run))
                if alarms is not None:
                    _check(results[-1], output_dir, alarms)
            subject.release()
    return results


def _with_figures(
    evaluate: Evaluate, config: Section, subject: Generator | Scorer, units: Path, limit: int | None
) -> Result:
    """The result of an evaluation, with the figures of the answers that were sampled for it."""
    result = evaluate(config, subject, units, limit)
    take_figures = getattr(subject, "take_figures", None)  # a Scorer samples nothing
    return result if take_figures is None else replace(result, samples=take_figures())


def _check(result: Mapping[str, Any], output_dir: Path, alarms: EvalAlarmsConfig) -> None:
    """Say which figures of a result's answers are out of range. Raises CheckError if `alarms.action` is stop."""
    from align.sampling.collapse import check_figures
    from eval.runner import read_result

    name = result["name"]
    former = read_result(alarms.former[-1] / f"{name}.json").get("samples", {}) if alarms.former else {}
    for label, figures in result.get("samples", {}).items():
        before = former.get(label, {}).get("mean_characters", 0.0)
        check_figures(figures, alarms, before, f"{name}: {label}", "answers", str(output_dir / f"{name}.json"))


def evaluations_key(sections: Mapping[str, Section], *, sampling: SamplingConfig, limit: int | None) -> str:
    """A fingerprint of all that the scores of these evaluations depend on, except for what is evaluated.

    It has the content of every input path in the settings, and the code, as the key of a result has
    (`eval/runner.py`).
    """
    from align.files import fingerprint_of
    from align.source_code import code_of
    from eval.runner import settings_key

    keys = []
    for name, config in sorted(sections.items()):
        settings: dict[str, Section | int | None] = {"limit": limit, name: config, "sampling": sampling}
        module = EVALUATIONS[name].config.partition(":")[0]
        code = code_of("eval.runner", module, without=unused_backends(*settings.values()))
        keys.append(settings_key(name, settings, code))
    return fingerprint_of(*keys)
