"""Keeps the rows that a reward model or a judge marks as high quality (Llama 3, section 4.2.3).

    reward model   the score of a row is in the top quartile of its source
    judge          a model gives the highest grade: of three for dialogs in general, of two for code

The two signals disagree often, and a row is kept if either marks it: this found the most good rows in the paper. How
far they agree is in the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align.rows import Row
from data_builders.quality.asking import greedy_engine, key_settings, read_number
from data_builders.quality.pipeline import number_of
from data_builders.quality.rank import mean_of_known, rank_ratios
from data_builders.quality.settings import GradesConfig
from data_builders.quality.steps import Choice, Examined, ExaminedRows, Step
from data_builders.quality.texts import dialog_text, final_answer, prompt_of, targets_of

if TYPE_CHECKING:
    from align.generation.engine import GenerationEngine
    from align.judges.reward_model import RewardModelJudge

GENERAL = """\
{dialog}

Grade the last answer of this dialog with 1, 2 or 3. Consider whether it is accurate, whether it follows the \
instructions, and whether its tone and presentation are right. 3: good in all of them. 2: a fault in one of them. \
1: worse. Reply with the number only."""

CODE = """\
{dialog}

Grade the code in the last answer of this dialog with 1 or 2. 2: it has no bug, and it does what the user intends. \
1: otherwise. Reply with the number only."""

MAX_TOKENS = 8
"""Enough for one number, in any tokenizer."""
REASON = "not marked as high quality"


class Grades(Step):
    """Drops rows that no signal marks as high quality."""

    name = "quality"
    starts_pass = True
    models = ("_reward_model", "_engine")

    def __init__(self, config: GradesConfig, engine: GenerationEngine | None = None) -> None:
        """engine: asks the judge; by default the config's judge is loaded. It should sample greedily."""
        self._config, self._given = config, engine
        self._notes: dict[str, Any] = {}
        self.ratings: NDArray[np.float64] = np.zeros(0)
        """[rows], after `choose`: the quality from 0 to 1, the mean of the reward's rank in its source and of the grade
        divided by the highest one, as far as they are known. By it the better of two duplicates is found."""

    def settings(self) -> dict[str, Any]:
        from align.manifest import input_fingerprint

        models = {"reward_model": self._config.reward_model, "judge": self._config.judge}
        found = {name: input_fingerprint(model.path) for name, model in models.items() if model is not None}
        asked = self._config.sampling.greedy(MAX_TOKENS) if self._config.judge is not None else None
        return key_settings(self._config, asked) | {"fingerprints": found}

    def examine(self, rows: Sequence[Row]) -> Examined:
        """Keep the reward of each row, its grade, and whether the grade is the highest one."""
        rewards = [None] * len(rows) if self._config.reward_model is None else self._rewards(rows)
        grades = [None] * len(rows) if self._config.judge is None else self._grades(rows)
        best = [2 if is_code(row) else 3 for row in rows]
        highest = [None if grade is None else grade == most for grade, most in zip(grades, best, strict=True)]
        shares = [None if grade is None else grade / most for grade, most in zip(grades, best, strict=True)]
        return Examined(
            {},
            {
                "source": pa.array([number_of(row.source) for row in rows], pa.uint64()),
                "reward": pa.array(rewards, pa.float64()),
                "grade": pa.array(grades, pa.int8()),
                "highest": pa.array(highest, pa.bool_()),
                "share": pa.array(shares, pa.float64()),  # of the highest grade
            },
        )

    def choose(self, data: ExaminedRows) -> list[Choice]:
        """Drop the rows that neither signal marks."""
        self.ratings = self._rated(data)
        numbers = np.flatnonzero(data.kept)
        by_reward, by_judge = np.zeros(len(numbers), bool), np.zeros(len(numbers), bool)
        if self._config.reward_model is not None:
            by_reward = in_top(data.numbers("reward")[numbers], data.numbers("source")[numbers], self._config.top_ratio)
        if self._config.judge is not None:
            columns = [data.column("highest", shard).fill_null(False) for shard in range(data.shards)]
            by_judge = np.concatenate([column.to_numpy(zero_copy_only=False) for column in columns])[numbers]
        self._notes = self._counted(data, by_reward, by_judge)
        dropped = ~(by_reward | by_judge)
        details = [self._detail(data, int(number)) for number in numbers[dropped]]
        return [Choice(REASON, numbers[dropped], details=details)]

    def notes(self) -> dict[str, Any]:
        return self._notes

    def _rated(self, data: ExaminedRows) -> NDArray[np.float64]:
        rewards, grades = (
            np.concatenate([data.column(name, shard).to_numpy(zero_copy_only=False) for shard in range(data.shards)])
            for name in ("reward", "share")
        )
        return mean_of_known([rank_ratios(rewards.astype(float), data.numbers("source")), grades.astype(float)])

    def _counted(self, data: ExaminedRows, by_reward: NDArray[np.bool_], by_judge: NDArray[np.bool_]) -> dict[str, Any]:
        notes: dict[str, Any] = {}
        if self._config.judge is not None:
            kept = int(data.kept.sum())
            columns = [data.column("grade", shard) for shard in range(data.shards)]
            graded = sum(len(column) - column.null_count for column in columns)
            notes["rows_without_a_grade"] = kept - graded
        if self._config.reward_model is not None and self._config.judge is not None:
            notes["agreement"] = agreement(by_reward, by_judge)
        return notes

    def _detail(self, data: ExaminedRows, number: int) -> str:
        shard = data.shard_of(number)
        place = number - int(data.starts[shard])
        found = []
        if self._config.reward_model is not None:
            found.append(f"reward {data.column('reward', shard)[place].as_py():.3f}")
        if self._config.judge is not None:
            grade = data.column("grade", shard)[place].as_py()
            found.append("no grade" if grade is None else f"grade {grade}")
        return ", ".join(found)

    @cached_property
    def _reward_model(self) -> RewardModelJudge:
        from align.judges.reward_model import RewardModelJudge

        assert self._config.reward_model is not None
        return RewardModelJudge.from_settings(self._config.reward_model, self._config.token_budget)

    @cached_property
    def _engine(self) -> GenerationEngine:
        if self._given is not None:
            return self._given
        return greedy_engine(self._config.judge, self._config.sampling, MAX_TOKENS)

    def _rewards(self, rows: Sequence[Row]) -> list[float]:
        from align.judges.judge import ScoreRequest

        requests = [ScoreRequest(prompt_of(row), targets_of(row)[:1], row.tools) for row in rows]
        return [score for (score,) in self._reward_model.score_many(requests)]

    def _grades(self, rows: Sequence[Row]) -> list[int | None]:
        """The grade of each row. None for a reply without one, and for a dialog that the judge cannot read whole."""
        asked = [(CODE if is_code(row) else GENERAL).format(dialog=dialog_text(row)) for row in rows]
        return [
            read_number(reply, 2 if is_code(row) else 3)
            for row, reply in zip(rows, self._engine.replies(asked), strict=True)
        ]


def in_top(scores: NDArray[np.float64], groups: NDArray[np.uint64], ratio: float) -> NDArray[np.bool_]:
    """Whether each score is in the top `ratio` of its group; rounded up, so the best of a group always is, and so are
    scores equal to the last one that is.

    Scores 1, 2, 3, 4, 5 of one group at 0.25: 1.25 of 5 rows are 2 rows, 4 and 5.
    """
    found = np.zeros(len(scores), bool)
    for group in np.unique(groups):
        members = groups == group
        count = int(np.ceil(ratio * members.sum() - 1e-9))
        found[members] = scores[members] >= np.sort(scores[members])[-count]
    return found


def agreement(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> dict[str, float]:
    """How far two signals agree: rows that both, one alone, or neither marks, and Cohen's kappa.

    kappa is 1 for equal signals and 0 for independent ones: (p - e) / (1 - e), with p the ratio of rows on which they
    agree, and e that of independent signals of the same frequencies. It is left out if e is 1.
    """
    both, neither = int((one & other).sum()), int((~one & ~other).sum())
    found: dict[str, float] = {
        "both": both,
        "reward_model_only": int((one & ~other).sum()),
        "judge_only": int((~one & other).sum()),
        "neither": neither,
    }
    if len(one):
        agree = (both + neither) / len(one)
        chance = float(one.mean() * other.mean() + (1 - one.mean()) * (1 - other.mean()))
        found["agree"] = agree
        if chance < 1:
            found["kappa"] = (agree - chance) / (1 - chance)
    return found


def is_code(row: Row) -> bool:
    """Whether the answer has a block of code, and is graded as code."""
    return "```" in final_answer(row)
