"""Scores of candidates by a judge, in units of work that survive a crash.

This file imports no generation, so that scores do not depend on the code that samples: an edit of it keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

from align.errors import RowError
from align.files import fingerprint_of_each
from align.judges.judge import Judge, ScoreRequest
from align.rows import Candidate
from align.sampling.work_units import Units, run_units


def score_candidates(
    candidates: Units[Candidate], judge: Judge, *, folder: Path, unit_size: int, label: str = "scores"
) -> Units[Candidate]:
    """The candidates with the judge's score, in the same units. Those that failed a verifier have none.

    candidates: all those of a prompt are consecutive and in one unit.
    folder: as for `sample_candidates`. unit_size: the prompts in a unit.

    Raises RowError, and writes nothing of the unit, if a score is not a finite number.
    """

    def score(unit: list[Candidate]) -> tuple[list[Candidate], int]:
        to_score = [candidate for candidate in unit if not candidate.failed]
        groups = [list(group) for _, group in groupby(to_score, key=lambda candidate: candidate.prompt_id)]
        requests = [
            ScoreRequest(group[0].prompt, [candidate.completion for candidate in group], group[0].tools)
            for group in groups
        ]
        values = [value for group in judge.score_many(requests) for value in group] if requests else []
        for candidate, value in zip(to_score, values, strict=True):
            if not math.isfinite(value):
                what = f"the judge gave it the score {value}, expected a finite number"
                how = "Check the weights of the reward model: its checkpoint may hold values that are not finite"
                raise RowError(f"candidate {candidate.id} of prompt {candidate.prompt_id}", what, how)
        scored = [one.model_copy(update={"score": value}) for one, value in zip(to_score, values, strict=True)]
        return scored, len(scored)

    sampled = fingerprint_of_each(
        candidate.model_dump_json(exclude={"score", "failed", "passed"})
        for candidate in candidates.rows()
        if not candidate.failed
    )
    key = {"candidates": sampled, "unit_size": unit_size, **judge.identity}
    code = (type(judge).__module__,)
    made = run_units(candidates, score, Candidate, folder=folder, key=key, label=label, things="candidates", code=code)

    def with_scores(number: int) -> list[Candidate]:
        # Of a unit that is read again only the scores count: the verifiers may have changed since it was written.
        scores = {candidate.id: candidate.score for candidate in made[number]}
        return [
            candidate.model_copy(update={"score": None if candidate.failed else scores[candidate.id]})
            for candidate in candidates[number]
        ]

    return Units(len(candidates), with_scores)


def units_by_prompt(read: Callable[[], Iterable[Candidate]], size: int) -> Units[Candidate]:
    """Candidates of a file as units of `size` prompts each. Candidates of one prompt must be consecutive.

    read: gives all candidates from the first one on. It is called again for a unit before the last one that was asked
        for: in ascending order, all units together are read once.
    """

    def units() -> Iterator[list[Candidate]]:
        groups = (list(group) for _, group in groupby(read(), key=lambda candidate: candidate.prompt_id))
        while unit := [candidate for group in islice(groups, size) for candidate in group]:
            yield unit

    rest, following = units(), 0

    def unit_at(number: int) -> list[Candidate]:
        nonlocal rest, following
        if number < following:
            rest, following = units(), 0
        unit = next(islice(rest, number - following, None))
        following = number + 1
        return unit

    return Units(sum(1 for _ in units()), unit_at)
