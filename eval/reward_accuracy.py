"""Reward accuracy: how often a reward model ranks held-out pairs as people did, and whether it prefers long answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align.jsonl import Drops, read_rows
from align.judges.judge import ScoreRequest
from align.reporting import Progress
from align.rows import Messages, PreferenceRow
from align.settings import InputSources, Reading
from eval.reward_pairs import accuracies, length_correlation, scored_pairs
from eval.runner import UNIT_SIZE, Result, Scorer, completion_text, limited, prompt_text


class RewardAccuracyConfig(Reading):
    """Held-out preferences."""

    pairs: InputSources
    """Preference rows that no stage trains on."""
    other_prompts: bool = False
    """Score each completion after the prompt of another row, as a baseline. This accuracy comes from the completions
    alone; a model that uses the prompt is more accurate with the right prompts."""


def evaluate(config: RewardAccuracyConfig, scorer: Scorer, units: Path, limit: int | None) -> Result:
    """The accuracies of `eval/reward_pairs.py` over all pairs; a row of three completions has three pairs."""
    drops = Drops()
    preferences = limited(read_rows(config.pairs, PreferenceRow, config, drops=drops), limit)
    read = [row.prompt for row in preferences]
    if config.other_prompts:
        read = exchanged(read)
    progress = Progress("rewards", total=len(preferences))
    rows: list[dict[str, Any]] = []
    for first in range(0, len(preferences), UNIT_SIZE):
        unit = preferences[first : first + UNIT_SIZE]
        prompts = read[first : first + UNIT_SIZE]
        for row, scores in zip(unit, _scores(unit, prompts, scorer), strict=True):
            rows.append(
                {
                    "id": row.id,
                    "prompt": prompt_text(row.prompt),
                    "answer": completion_text(row.chosen),
                    "rejected": completion_text(row.rejected),
                    "level": row.level,
                    "scores": scores,
                    "characters": [len(completion_text(completion)) for completion in row.completions],
                    "source": row.source,
                }
            )
            rows[-1]["verdict"] = _verdict([pair.point for pair in scored_pairs(rows[-1])])
        progress.advance(len(unit))
    pairs = [pair for row in rows for pair in scored_pairs(row)]
    counts = {
        "rows": len(rows),
        "pairs": len(pairs),
        "prompts": len({pair.prompt for pair in pairs}),
        "length_correlation": length_correlation(pairs),
    }
    return Result(accuracies(pairs), counts | drops.dropped, rows)


def exchanged(prompts: Sequence[Messages]) -> list[Messages]:
    """For each prompt another one: the distinct prompts, rotated by half of their number.

    [a, b, a, c, d] has the distinct prompts a, b, c, d, which become c, d, a, b; the result is [c, d, c, a, b].
    """
    different = list(dict.fromkeys(prompts))
    moved = dict(zip(different, different[len(different) // 2 :] + different[: len(different) // 2], strict=True))
    return [moved[prompt] for prompt in prompts]


def _scores(rows: Sequence[PreferenceRow], prompts: Sequence[Messages], scorer: Scorer) -> list[list[float]]:
    """A score for each completion of each row. Rows with the same prompt share its tree and equal completions."""
    asked: dict[tuple[Messages, str], dict[Messages, int]] = {}
    for row, prompt in zip(rows, prompts, strict=True):
        places = asked.setdefault((prompt, row.tools), {})
        for completion in row.completions:
            places.setdefault(completion, len(places))
    scores = scorer.scores([ScoreRequest(prompt, list(places), tools) for (prompt, tools), places in asked.items()])
    found = {
        ask: dict(zip(places, scored, strict=True)) for (ask, places), scored in zip(asked.items(), scores, strict=True)
    }
    return [
        [found[prompt, row.tools][completion] for completion in row.completions]
        for row, prompt in zip(rows, prompts, strict=True)
    ]


def _verdict(points: Sequence[float]) -> str:
    return {1.0: "right", 0.0: "wrong"}.get(sum(points) / len(points), "partly right")
