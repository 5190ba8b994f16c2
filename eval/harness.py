"""Tasks of lm-eval (EleutherAI's lm-evaluation-harness 0.4), asked of a model of this project.

This is the only file that imports lm_eval, which the extra `benchmarks` brings. `HarnessModel` may also be given to
lm-eval itself: `lm_eval.simple_evaluate(HarnessModel(scorer), tasks=[...])`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.api.task
from lm_eval.api.model import LM
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from align.errors import ConfigError, first_line
from align.files import fingerprint_of
from eval.text_likelihood import TextLikelihood

REPORTED = ("acc", "acc_norm")
"""The metrics that are read: 1 if the right choice is the likeliest one, as it is or per character, and 0 if not."""


class HarnessModel(LM):
    """A model of this project as lm-eval's `LM`. It scores texts, and does not generate."""

    def __init__(self, scorer: TextLikelihood) -> None:
        super().__init__()
        self.scorer = scorer

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log-probability, whether the text is what greedy decoding gives) of each request (context, text).

        The second is not computed, and False: `acc` and `acc_norm` of multiple-choice tasks do not read it.
        """
        pairs = [request.args for request in requests]
        return [(value, False) for value in self.scorer.logps(pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        raise _not_multiple_choice("a task of perplexity")

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        raise _not_multiple_choice("a task of generated answers")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A dialog in the chat template of the model."""
        if not add_generation_prompt:
            what = "expected a task without gen_prefix, since the chat template is applied, found one with it"
            raise ConfigError("benchmarks.tasks", what, "Leave the task out, or set apply_chat_template to false")
        return self.scorer.as_chat(chat_history)

    @property
    def tokenizer_name(self) -> str:
        return str(self.scorer.tokenizer.name_or_path)


def load_tasks(names: Sequence[str], folder: Path | None) -> dict[str, Any]:
    """Name -> task. Groups and tags become their tasks.

    folder: with task files (YAML) that are searched first. None, or a name that it does not have: lm-eval's own tasks,
        whose data come from the Hub.
    Raises ConfigError for a name that is unknown, a task that cannot be loaded, or one that is no multiple choice.
    """
    manager = TaskManager(include_path=folder, include_defaults=False) if folder is not None else None
    if manager is None or not set(names) <= manager.task_index.keys():
        manager = TaskManager(include_path=folder)
    unknown = [name for name in names if name not in manager.task_index]
    if unknown:
        what = f"lm-eval has no task {unknown[0]}" + (f", nor has {folder}" if folder else "")
        raise ConfigError("benchmarks.tasks", what, "List the tasks that there are: lm-eval ls tasks")
    found: dict[str, Any] = {}
    for name in names:
        try:
            found.update(manager.load([name])["tasks"])
        except Exception as error:  # task files are programs of others, and their data come from anywhere
            what = f"lm-eval could not load the task {name} ({type(error).__name__}: {first_line(error)})"
            raise ConfigError("benchmarks.tasks", what, "See its task file and where its data come from") from error
    for name, task in found.items():
        if task.OUTPUT_TYPE != "multiple_choice":
            raise _not_multiple_choice(f"the task {name} of the type {task.OUTPUT_TYPE}")
        if "acc" not in task.aggregation():
            what = f"expected tasks with the metric acc, and {name} has {', '.join(task.aggregation())}"
            raise ConfigError("benchmarks.tasks", what, "Leave it out")
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    return found


def question_ids(name: str, task: Any) -> list[str]:
    """An id for each question of a task, by its content; questions that are the same differ by a number."""
    seen: dict[str, int] = {}
    ids = []
    for question in task.eval_docs:
        key = fingerprint_of(json.dumps(question, sort_keys=True, default=str))[:12]
        seen[key] = seen.get(key, 0) + 1
        ids.append(f"{name}-{key}" + (f"-{seen[key]}" if seen[key] > 1 else ""))
    return ids


def evaluated_questions(
    name: str, task: Any, model: HarnessModel, indices: Sequence[int], *, apply_chat_template: bool
) -> list[dict[str, Any]]:
    """What lm-eval finds for some questions of a task: prompt, choices, right, logps, acc, and acc_norm if it has one.

    indices: places of the questions, ascending.
    """
    with _without_bars():
        results = evaluate(
            model,
            {"tasks": {name: task}},
            samples={name: list(indices)},
            bootstrap_iters=0,
            apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=apply_chat_template,
        )
    return [_question(task, sample) for sample in results["samples"][name]]


def _question(task: Any, sample: Mapping[str, Any]) -> dict[str, Any]:
    choices = [str(choice) for choice in task.doc_to_choice(sample["doc"])]
    target = sample["target"]
    right = target if isinstance(target, list) else [target]
    contexts = [context for context, _ in sample["arguments"]][: len(choices)]
    return {
        "prompt": contexts[0] if len(set(contexts)) == 1 else "\n".join(contexts),
        "choices": choices,
        "right": [choices.index(one) if isinstance(one, str) and one in choices else one for one in right],
        "logps": [response[0] for response in sample["filtered_resps"]][: len(choices)],
        **{metric: float(sample[metric]) for metric in REPORTED if metric in sample},
    }


def _not_multiple_choice(what: str) -> ConfigError:
    return ConfigError("benchmarks.tasks", f"expected multiple-choice tasks, found {what}", "Leave it out")


@contextmanager
def _without_bars() -> Iterator[None]:
    """lm-eval draws a bar for each task while it builds prompts; ours shows the scoring."""
    kept = lm_eval.api.task.tqdm
    lm_eval.api.task.tqdm = partial(kept, disable=True)
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = kept
