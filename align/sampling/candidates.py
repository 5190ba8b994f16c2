"""Candidates: K completions of each prompt, sampled in units of work that survive a crash.

A unit is a fixed slice of the prompts. `work_units.py` stores units, `scoring.py` scores the candidates, and
`selection.py` chooses among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from align.errors import RowError
from align.files import fingerprint_of, fingerprint_of_each
from align.generation.engine import GenerationEngine
from align.rows import Candidate, Message, PromptRow, row_id
from align.sampling.steering import Steering
from align.sampling.work_units import Units, run_units


def sample_candidates(
    rows: Sequence[PromptRow],
    engine: GenerationEngine,
    *,
    k: int,
    seed: int,
    folder: Path,
    unit_size: int,
    label: str = "candidates",
    model: str = "",
    round_number: int | None = None,
    temperature: float | None = None,
    temperatures: Sequence[float] | None = None,
    steering: Mapping[str, Steering] | None = None,
    keep_steering: bool = False,
) -> Units[Candidate]:
    """K candidates of each prompt, in the order of the rows and then of their index.

    seed: each candidate has its own seed, made from this one, the prompt's id and the candidate's index. So a candidate
        does not depend on which other prompts are sampled.
    folder: `unit-00000.jsonl` and so on, with `unit_size` prompts in each. Complete units are read and not run again.
    label: the name on the progress bar.
    model, round_number, temperature: written into each candidate as its origin; they do not affect sampling.
    temperatures: one for each of the K candidates of a prompt, instead of the temperature of the engine's settings.
    steering: id of a prompt -> what steers it: the first messages of its row. The candidate records it as text. Its own
        prompt is without these messages, unless `keep_steering`.

    Raises StageError if the folder has units of other rows, k, seed, weights or sampling.
    """
    check_ids(rows)
    key = {
        "rows": fingerprint_of_each(row.model_dump_json() for row in rows),
        "k": k,
        "seed": seed,
        "unit_size": unit_size,
        **engine.identity,
        "origin": [model, round_number, temperature],
    }
    if temperatures is not None:
        key["temperatures"] = list(temperatures)
    if steering:
        key["steering"] = "kept" if keep_steering else "removed"
    unsteered = Steering("", 0)

    def steering_of(row: PromptRow) -> Steering:
        return steering.get(row.id, unsteered) if steering else unsteered

    def sample(unit: Sequence[PromptRow]) -> tuple[list[Candidate], int]:
        prompts = [engine.prompt_ids(row.prompt, row.tools) for row in unit]
        seeds = [[candidate_seed(seed, row.id, index) for index in range(k)] for row in unit]
        own = None if temperatures is None else [temperatures] * len(unit)
        completions = engine.generate(prompts, seeds, own)
        made = [
            Candidate(
                id=row_id(row.id, index, own_seed),
                source=row.source,
                tools=row.tools,
                prompt_id=row.id,
                prompt=row.prompt if keep_steering else row.prompt[steering_of(row).messages :],
                steering=steering_of(row).text,
                completion=(without_nul(engine.parse(completion)),),
                index=index,
                seed=own_seed,
                finished=completion.finished,
                model=model,
                round=round_number,
                temperature=temperature if temperatures is None else temperatures[index],
            )
            for row, own_seeds, group in zip(unit, seeds, completions, strict=True)
            for index, (own_seed, completion) in enumerate(zip(own_seeds, group, strict=True))
        ]
        return made, sum(len(completion.ids) for group in completions for completion in group)

    return run_units(
        Units.of(rows, unit_size),
        sample,
        Candidate,
        folder=folder,
        key=key,
        label=label,
        things="tokens",
        code=engine.code_modules,
        unused_code=engine.unused_code,
    )


def fitting_prompts(rows: Iterable[PromptRow], engine: GenerationEngine) -> tuple[list[PromptRow], Counter[str]]:
    """The rows whose prompt leaves space for a completion, and how many were dropped by reason.

    Raises RowError if no row is left.
    """
    kept, dropped = [], Counter[str]()
    for row in rows:
        if len(engine.prompt_ids(row.prompt, row.tools)) <= engine.max_prompt_tokens:
            kept.append(row)
        else:
            dropped["prompt too long"] += 1
    if not kept:
        what = f"none of {dropped.total()} leaves space for a completion"
        raise RowError("prompts", what, "Use shorter prompts, or lower sampling.max_completion_tokens")
    return kept, dropped


def candidate_seed(seed: int, prompt_id: str, index: int) -> int:
    """The seed of one candidate: 48 bits, because some JSON readers round integers above 2^53."""
    return int(fingerprint_of(seed, prompt_id, index)[:12], 16)


def without_nul(message: Message) -> Message:
    """A sampled message with each NUL, which rows refuse, replaced by U+FFFD, the mark of undecodable bytes."""
    if "\0" not in message.content:
        return message
    return message.model_copy(update={"content": message.content.replace("\0", "\ufffd")})


def check_ids(rows: Sequence[PromptRow]) -> None:
    """Raises RowError for a repeated id: candidates are matched to their prompts by id."""
    for name, count in Counter(row.id for row in rows).items():
        if count > 1:
            raise RowError(f"prompt {name}", f"occurs {count} times among the prompts", "Give each row its own id")
