"""Average checkpoints with the weights whose average scores best in an evaluation.

The search itself is `align/models/weight_search.py`. Here an average is written next to the output, evaluated and
deleted again, and every trial is kept in a file until the chosen average is written:

    .NAME.search/trial-1f0c....json   weights and scores of a finished trial
    .NAME.search/average/             the average that is being evaluated
    .NAME.search/evaluation/          its answers so far, which survive a crash
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from align.config import Section, dump
from align.files import sole_writer
from align.models.weight_search import Scores, Trials, Weights, WeightSearchConfig, record_of_search, search_weights
from align.precision import resolved
from align.settings import ModelConfig
from eval.catalog import EVALUATIONS, EvalSamplingConfig, evaluations_key, run_evaluations


class SearchConfig(WeightSearchConfig):
    """Choose the weights by the scores of averages on a development set. The evaluations that give the scores have
    sections of their own, as in recipes/run_eval.py. Their rows must not be those of the final evaluation: the chosen
    average is the luckiest one on them."""

    sampling: EvalSamplingConfig = EvalSamplingConfig()
    """How an average answers."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type in which an average scores completions: reward models, and evaluations by likelihood."""
    token_budget: int = Field(4096, gt=0)
    """Tokens in one forward pass that scores completions."""
    limit: int | None = Field(None, gt=0)
    """Evaluate at most this many rows, the same ones for every average; None for all."""


def contradiction(search: SearchConfig, sections: Mapping[str, Section], checkpoints: int) -> str | None:
    """Why this search cannot run: its scores and the evaluations do not fit, or its budget is too small."""
    named = dict.fromkeys(name.partition(".")[0] for name in search.score)
    for name in named:
        if name not in EVALUATIONS:
            return f"search.score names {name}; expected one of {', '.join(EVALUATIONS)}"
        if name not in sections:
            return f"search.score names {name}, which requires the section {name}; it is missing"
    if unread := [name for name in sections if name not in named]:
        return f"the section {unread[0]} is given, and search.score names none of its scores"
    subjects = sorted({EVALUATIONS[name].subject for name in named})
    if len(subjects) > 1:
        return f"search.score names scores of a {' and of a '.join(subjects)}; checkpoints are one of them"
    if search.sampling.backend == "server":
        return "search.sampling.backend is server, and a server does not load the averages; use local or vllm"
    needed = search.evaluations(checkpoints)
    if needed > search.max_evaluations:
        what = f"search.max_evaluations is {search.max_evaluations}, and the method {search.method}"
        return f"{what} needs {needed} for {checkpoints} checkpoints"
    return None


def average_by_search(
    checkpoints: Sequence[Path], output: Path, search: SearchConfig, sections: Mapping[str, Section]
) -> Path:
    """Search, write the mean with the chosen weights to `output`, and delete what the search left on the disk.

    sections: name -> config of the evaluations that give the scores.
    The manifest of the mean records every trial. A run that was interrupted continues with its trials.
    """
    from align.models.averaging import average_checkpoints, require_averageable, without_places

    members = require_averageable(checkpoints, output)
    work = output.absolute().parent / f".{output.name}.search"

    def evaluate(weights: Weights) -> Scores:
        average = average_checkpoints(*_used(checkpoints, work / "average", weights))
        scores = _scores(average, search, sections, work / "evaluation")
        shutil.rmtree(average)  # large models: there is space for one at a time
        return scores

    with sole_writer(work, "output_dir"):
        search = resolved(search, work)
        key = f"{evaluations_key(sections, sampling=search.sampling, limit=search.limit)} {search.dtype}"
        trials = Trials(search, [member["fingerprint"] for member in members], key, work, evaluate)
        chosen = search_weights(trials)
        evaluation = {"sampling": dump(search.sampling), "dtype": search.dtype, "limit": search.limit}
        evaluation |= {name: dump(section) for name, section in sections.items()}
        record = {**record_of_search(trials, chosen, members), "evaluation": evaluation}
        average_checkpoints(*_used(checkpoints, output, chosen), {"search": without_places(record)})
        shutil.rmtree(work, ignore_errors=True)
    return output


def _scores(average: Path, search: SearchConfig, sections: Mapping[str, Section], output_dir: Path) -> Scores:
    """`evaluation.score` -> value, interval and number of cases."""
    model = ModelConfig(path=average, dtype=search.dtype)
    is_reward_model = any(EVALUATIONS[name].subject == "reward_model" for name in sections)
    results = run_evaluations(
        sections,
        model=None if is_reward_model else model,
        reward_model=model if is_reward_model else None,
        sampling=search.sampling,
        token_budget=search.token_budget,
        limit=search.limit,
        output_dir=output_dir,
    )
    return {f"{result['name']}.{name}": score for result in results for name, score in result["scores"].items()}


def _used(checkpoints: Sequence[Path], output: Path, weights: Weights) -> tuple[list[Path], Path, list[float]]:
    """Arguments of `average_checkpoints`: the checkpoints whose weight is above 0, the output, and these weights."""
    used = [(path, share) for path, share in zip(checkpoints, weights, strict=True) if share]
    return [path for path, _ in used], output, [share for _, share in used]
