"""Candidates: K completions of each prompt, sampled and scored in units that survive a crash.

A unit is a fixed slice of the prompts. It appears on disk whole or not at all, a finished one is read and never run
again, and `units.json` beside them says what they were made from, so that no folder mixes two runs. Which candidates
are kept is `selection.py`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from align.chat.protocol import ChatProtocol
from align.errors import RowError, StageError
from align.files import fingerprint_of, whole_file
from align.generation.backend import Backend
from align.jsonl import read_rows, write_rows
from align.judges.judge import Judge, ScoreRequest
from align.reporting import Progress
from align.rows import Candidate, PromptRow, row_id


def sample_candidates(
    rows: Sequence[PromptRow],
    backend: Backend,
    protocol: ChatProtocol,
    *,
    k: int,
    seed: int,
    folder: Path,
    unit_size: int,
    label: str = "candidates",
) -> list[Candidate]:
    """K candidates of each prompt, in the order of the rows and then of their index.

    seed: with the prompt's id and the index it gives each candidate its own seed, so a candidate is the same whichever
        other prompts are sampled.
    folder: `unit-00000.jsonl` and so on, `unit_size` prompts in each. Units that stand there are read, not run.
    label: the name on the progress bar.

    Raises StageError where the folder holds units of other rows, k, seed, weights or sampling.
    """
    _check_ids(rows)
    key = {
        "rows": fingerprint_of(*(row.model_dump_json() for row in rows)),
        "k": k,
        "seed": seed,
        "unit_size": unit_size,
        **backend.identity,
    }

    def sample(unit: Sequence[PromptRow]) -> tuple[list[Candidate], int]:
        prompts = [protocol.encode(row.prompt, row.tools, open_assistant=True).ids for row in unit]
        seeds = [[candidate_seed(seed, row.id, index) for index in range(k)] for row in unit]
        completions = backend.complete(prompts, seeds)
        made = [
            Candidate(
                id=row_id(row.id, index, own_seed),
                source=row.source,
                tools=row.tools,
                prompt_id=row.id,
                prompt=row.prompt,
                completion=(protocol.parse(completion.ids),),
                index=index,
                seed=own_seed,
                finished=completion.finished,
            )
            for row, own_seeds, group in zip(unit, seeds, completions, strict=True)
            for index, (own_seed, completion) in enumerate(zip(own_seeds, group, strict=True))
        ]
        return made, sum(len(completion.ids) for group in completions for completion in group)

    units = [rows[first : first + unit_size] for first in range(0, len(rows), unit_size)]
    return _in_units(units, sample, folder, key, label, "tokens")


def score_candidates(
    candidates: Sequence[Candidate],
    judge: Judge,
    *,
    folder: Path | None = None,
    unit_size: int = 64,
    label: str = "scores",
) -> list[Candidate]:
    """The candidates with the judge's score, in their order. Candidates of one prompt must stand together.

    folder: as for `sample_candidates`, `unit_size` prompts in a unit; None keeps nothing on disk.
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
        return scored, len(scored)

    units = [groups[first : first + unit_size] for first in range(0, len(groups), unit_size)]
    if folder is None:
        return [candidate for unit in units for candidate in score(unit)[0]]
    sampled = fingerprint_of(*(candidate.model_dump_json(exclude={"score"}) for candidate in candidates))
    key = {"candidates": sampled, "unit_size": unit_size, **judge.identity}
    return _in_units(units, score, folder, key, label, "candidates")


def fitting_prompts(
    rows: Iterable[PromptRow], backend: Backend, protocol: ChatProtocol
) -> tuple[list[PromptRow], Counter[str]]:
    """The rows whose prompt leaves room for a completion, and how many were dropped by reason.

    Raises RowError where no row is left.
    """
    kept, dropped = [], Counter[str]()
    for row in rows:
        if len(protocol.encode(row.prompt, row.tools, open_assistant=True).ids) <= backend.max_prompt_tokens:
            kept.append(row)
        else:
            dropped["prompt too long"] += 1
    if not kept:
        what = f"none of {dropped.total()} leaves room for a completion"
        raise RowError("prompts", what, "Bring shorter prompts, or lower sampling.max_completion_tokens")
    return kept, dropped


def candidate_seed(seed: int, prompt_id: str, index: int) -> int:
    """The seed of one candidate: 48 bits, so that every reader of JSON keeps it exact."""
    return int(fingerprint_of(seed, prompt_id, index)[:12], 16)


def _in_units(
    units: Sequence[Any],
    make: Callable[[Any], tuple[list[Candidate], int]],
    folder: Path,
    key: dict[str, Any],
    label: str,
    things: str,
) -> list[Candidate]:
    """The candidates of all units, making those that do not stand in `folder` yet."""
    _claim(folder, key)
    paths = [folder / f"unit-{number:05}.jsonl" for number in range(len(units))]
    done = sum(path.exists() for path in paths)
    progress = Progress(label, total=len(units), done=done)
    candidates = []
    for path, unit in zip(paths, units, strict=True):
        if not path.exists():
            began = time.monotonic()
            made, count = make(unit)
            write_rows(path, made)
            progress.advance(1, note=f"{count / max(time.monotonic() - began, 1e-9):,.0f} {things}/s")
        # Read back also when just made: a resumed run and an uninterrupted one then hold the very same rows.
        candidates.extend(read_rows(path, Candidate))
    return candidates


def _claim(folder: Path, key: dict[str, Any]) -> None:
    """Make the folder this run's, or see that it is."""
    claim = folder / "units.json"
    if not claim.exists():
        if any(folder.glob("unit-*.jsonl")):
            raise StageError(folder, "holds units and no units.json to say from what", "Name a folder that is empty")
        with whole_file(claim) as handle:
            json.dump(key, handle, indent=1)
    found = json.loads(claim.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(key))
    differs = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if differs:
        what = "; ".join(f"{name} was {found.get(name)} there, is {wanted.get(name)} now" for name in differs)
        raise StageError(claim, what, "Name another folder, or delete this one to sample anew")
    for leftover in folder.glob(".unit-*.part"):  # of a run that was killed while it wrote
        leftover.unlink(missing_ok=True)


def _check_ids(rows: Sequence[PromptRow]) -> None:
    for name, count in Counter(row.id for row in rows).items():
        if count > 1:
            raise RowError(f"prompt {name}", f"stands {count} times among the prompts", "Give each row its own id")
