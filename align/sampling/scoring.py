"""Scores of candidates by a judge, in units of work that survive a crash.

This file imports no generation, so that scores do not depend on the code that samples: an edit of it keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from align.errors import RowError
from align.files import fingerprint_of
from align.judges.judge import Judge, ScoreRequest
from align.rows import Candidate
from align.sampling.work_units import run_units


def score_candidates(
    candidates: Sequence[Candidate],
    judge: Judge,
    *,
    folder: Path | None = None,
    unit_size: int = 64,
    label: str = "scores",
) -> list[Candidate]:
    """The candidates with the judge's score, in their order. Candidates of one prompt must be consecutive.

    folder: as for `sample_candidates`, with `unit_size` prompts in a unit; None writes nothing to disk.

    Raises RowError, and writes nothing of the unit, if a score is not a finite number.
    """
    groups = [list(group) for _, group in groupby(candidates, key=lambda candidate: candidate.prompt_id)]

    def score(unit: Sequence[list[Candidate]]) -> tuple[list[Candidate], int]:
        requests = [
            ScoreRequest(group[0].prompt, [candidate.completion for candidate in group], group[0].tools)
            for group in unit
        ]
        scored = [
            candidate.model_copy(update={"score": value})
            for group, values in zip(unit, judge.score_many(requests), strict=True)
            for candidate, value in zip(group, values, strict=True)
        ]
        for candidate in scored:
            if candidate.score is None or not math.isfinite(candidate.score):
                what = f"the judge gave it the score {candidate.score}, expected a finite number"
                how = "Check the weights of the reward model: its checkpoint may hold values that are not finite"
                raise RowError(f"candidate {candidate.id} of prompt {candidate.prompt_id}", what, how)
        return scored, len(scored)

    units = [groups[first : first + unit_size] for first in range(0, len(groups), unit_size)]
    if folder is None:
        return [candidate for unit in units for candidate in score(unit)[0]]
    sampled = fingerprint_of(
        *(candidate.model_dump_json(exclude={"score", "failed", "passed"}) for candidate in candidates)
    )
    key = {"candidates": sampled, "unit_size": unit_size, **judge.identity}
    code = (type(judge).__module__,)
    made = run_units(units, score, Candidate, folder=folder, key=key, label=label, things="candidates", code=code)
    # Of a unit that is read again only the scores count: the verifiers may have changed since it was written.
    scores = {candidate.id: candidate.score for candidate in made}
    return [candidate.model_copy(update={"score": scores[candidate.id]}) for candidate in candidates]
