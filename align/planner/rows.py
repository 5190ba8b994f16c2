"""Rows by their lengths alone, drawn at random: for plans of data that is not there yet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from align.errors import ConfigError
from align.planner.settings import RowsConfig
from align.settings import TreeDataConfig


@dataclass(frozen=True)
class DrawnRows:
    """The numbers of trees that a plan reads, [rows] each: see `PromptTree`."""

    tokens: np.ndarray
    labels: np.ndarray
    attended: np.ndarray


def drawn_lengths(rows: RowsConfig, mean: int, count: int, seed: int) -> np.ndarray:
    """Lengths with a mean, [count] int64, at least 1.

    The mean of a log-normal distribution is exp(mu + sigma^2 / 2).
    """
    normal = np.random.default_rng(seed).standard_normal(count)
    lengths = np.exp(np.log(mean) - rows.spread**2 / 2 + rows.spread * normal)
    found: np.ndarray = np.maximum(np.rint(lengths), 1).astype(np.int64)
    return found


def drawn_rows(rows: RowsConfig, completions: int, data: TreeDataConfig) -> DrawnRows:
    """Rows within the limits of `data`. Raises ConfigError if there is none."""
    prompts = drawn_lengths(rows, rows.prompt_tokens, rows.rows, seed=0)
    answers = np.stack([drawn_lengths(rows, rows.completion_tokens, rows.rows, seed=1 + n) for n in range(completions)])
    tokens = prompts + answers.sum(axis=0)
    kept = (prompts <= data.max_prompt_tokens) & (answers.max(axis=0) <= data.max_completion_tokens)
    if data.over_budget == "drop":
        kept &= tokens <= data.token_budget
    if not kept.any():
        what = (
            f"leave none of {rows.rows} rows of {rows.prompt_tokens} + {completions} x {rows.completion_tokens} tokens"
        )
        raise ConfigError("the limits of data", what, "Set prompt_tokens and completion_tokens to those of your rows")
    prompts, answers, tokens = prompts[kept], answers[:, kept], tokens[kept]
    attended = prompts * (prompts + 1) // 2 + (answers * prompts + answers * (answers + 1) // 2).sum(axis=0)
    return DrawnRows(tokens, answers.sum(axis=0), attended)
