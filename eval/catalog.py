"""The evaluations by name, and a run of those that are asked for.

Each is one file and one line here. Those that generate come first, and their model is gone before a reward model loads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from align.config import Section
from align.settings import ModelConfig, SamplingConfig
from eval import bfcl, factuality, reward_accuracy, tool_dialogs, tool_use
from eval.runner import Generator, Result, Scorer, evaluated

GENERATING: dict[str, Callable[..., Result]] = {
    "factuality": factuality.evaluate,
    "tool_use": tool_use.evaluate,
    "tool_dialogs": tool_dialogs.evaluate,
    "bfcl": bfcl.evaluate,
}
SCORING: dict[str, Callable[..., Result]] = {"reward_accuracy": reward_accuracy.evaluate}


def run_evaluations(
    sections: dict[str, Any],
    *,
    model: ModelConfig | None,
    reward_model: ModelConfig | None,
    sampling: SamplingConfig,
    token_budget: int,
    limit: int | None,
    output_dir: Path,
) -> list[dict[str, Any]]:
    """The results of the evaluations in `sections` (name -> its config), each also in `<output_dir>/<name>.json`.

    model: needed by those that generate. reward_model: by those that score.
    """
    results = []
    generator = None if model is None else Generator(model, sampling, token_budget)
    scorer = None if reward_model is None else Scorer(reward_model, token_budget)
    for evaluations, subject in ((GENERATING, generator), (SCORING, scorer)):
        for name, evaluate in evaluations.items():
            if subject is None or name not in sections:
                continue
            config = sections[name]
            settings: dict[str, Section | int | None] = {name: config, "model": subject.config, "limit": limit}
            if subject is generator:
                settings["sampling"] = sampling
            run = partial(evaluate, config, subject, limit=limit)
            results.append(evaluated(name, output_dir, subject.config.path, settings, run))
        if subject is not None:
            subject.release()
    return results
