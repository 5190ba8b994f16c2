"""Problems of mathematics with checked answers: prompts to sample from, and problems to evaluate on.

It writes `maths.round-N.jsonl` for each round and `maths.heldout.jsonl`, each with a manifest, and with
`generated.examples` also `maths.examples.jsonl`. Rejection sampling with
`verifiers: [maths]` samples K solutions of each prompt and checks the final answer; right solutions become SFT rows,
and right over wrong ones preference pairs (Llama 3, section 4.3.3). See docs/maths.md.

Problems are held out by problem, and generated ones by template and by numbers. Training problems that repeat a
held-out one in nearly the same words, whatever their numbers, are dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from align.config import Section, dump
from align.errors import RowError
from align.records import identities_of
from align.reporting import logger
from align.rows import MathsProblemRow, Message, SFTRow, VerifiedPromptRow
from align.settings import BadRows, InputSource, InputSources
from align.splits import part_of, prompt_identity
from data_builders import packaged
from data_builders.maths.generated import NEW_NUMBERS, GeneratedConfig, WorkedExample, generated_parts
from data_builders.maths.near_duplicates import SimilarTexts
from data_builders.maths.problems import ASDivConfig, asdiv_problems, own_problems, without_numbers
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.row_set import RowSet

INSTRUCTION = 'Show short working. End with a line that begins with "Answer:".'


class OwnProblemsConfig(Section):
    """Your own problems."""

    path: InputSources
    """Records with the columns `question` and `answer`: a file, a Hub dataset, or a list of them."""
    tolerance: float = Field(0.0, ge=0, lt=1)
    """Relative tolerance of numeric answers: 0.01 accepts 99 to 101 for 100."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of problems in each round. null: no limit."""
    heldout_limit: int | None = Field(None, gt=0)
    """Maximum number of held-out problems. null: no limit."""


class MathsConfig(BadRows):
    """Prompts of mathematics with answers that the verifier `maths` checks."""

    asdiv: ASDivConfig | None = None
    """Word problems of primary school, CC BY-NC 4.0. `asdiv: {}` takes all of them."""
    generated: GeneratedConfig | None = None
    """Word problems from templates. `generated: {}` takes all defaults."""
    own: OwnProblemsConfig | None = None
    """Your own problems."""
    instruction: str = INSTRUCTION
    """What follows each problem, on a line of its own: how to answer. The verifier reads \\boxed{...}, "#### 42",
    "Answer: 42" and the last number of the text, in this order."""
    rounds: int = Field(1, ge=1)
    """Number of rounds. Each has problems of its own."""
    heldout_ratio: float = Field(0.2, ge=0, lt=1)
    """Ratio of the problems of ASDiv and of your own to hold out, from 0 to 1."""
    max_similarity: float = Field(0.7, ge=0, le=1)
    """Training problems are dropped if they share a higher ratio of their three-word sequences with a held-out problem,
    after all numbers are made equal."""
    evaluation: tuple[InputSource, ...] = ()
    """Evaluation sets. Training problems that are in one of them are dropped and counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    seed: int = 0
    """Seed of the split, of generated problems, and of the order of the rows."""

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.asdiv is None and self.generated is None and self.own is None:
            raise ValueError("expected asdiv, generated or own, found none of them. Write generated: {} for a start")
        return self


def build(config: MathsConfig, output: Path) -> Path:
    """Write all files into the folder `output` and return it."""
    heldout, rounds, examples = _parts(config)
    instruction = config.instruction
    evaluation = Decontamination.of(config.evaluation, config.decontamination, config.bad_rows)
    evaluation.add_prompts(heldout.rows)
    # Other numbers of a template that is trained on are held out on purpose; they are near-duplicates by construction.
    kinds = SimilarTexts(map(_comparable, (row for row in heldout.rows if row.source != NEW_NUMBERS)))
    files: dict[str, RowSet[Any]] = {}
    for number, part in enumerate(rounds, start=1):
        # An evaluation set may have the bare problem, or the instruction too, as the files of this builder have.
        part.drop_matches(evaluation, as_asked=lambda row: _with_instruction(row, instruction))
        part.drop_where(lambda row: kinds.highest(_comparable(row)) > config.max_similarity, "near a held-out problem")
        _limit(part, config, heldout=False)
        if not part.rows:
            reasons = ", ".join(f"{count} {reason}" for reason, count in part.dropped.items())
            what = f"has no problem ({reasons or 'none was read'})"
            raise RowError(f"maths: round {number}", what, "Bring more problems, or other limits")
        part.shuffle(config.seed)
        files[f"maths.round-{number}"] = _prompts(part, config.instruction)
    heldout.rows = [_with_instruction(row, config.instruction) for row in heldout.rows]
    heldout.shuffle(config.seed)
    files["maths.heldout"] = heldout
    if examples:
        files["maths.examples"] = RowSet(_example_row(example, config.instruction) for example in examples)
    own = config.own.path if config.own is not None else ()
    inputs = identities_of([*(own if isinstance(own, tuple) else (own,)), *config.evaluation])
    notes = {"provenance": packaged.provenance((packaged.ASDIV,))} if config.asdiv is not None else None
    for name, found in files.items():
        found.write(output / f"{name}.jsonl", config=dump(config), inputs=inputs, notes=notes)
        logger("data_builders").info("%-20s %s", name, found.summary())
    return output


def _parts(
    config: MathsConfig,
) -> tuple[RowSet[MathsProblemRow], list[RowSet[MathsProblemRow]], list[WorkedExample]]:
    """Held-out problems within their limits, the problems of each round before theirs, and worked examples."""
    examples: list[WorkedExample] = []
    heldout: RowSet[MathsProblemRow] = RowSet()
    rounds: list[RowSet[MathsProblemRow]] = [RowSet() for _ in range(config.rounds)]
    ratio = config.heldout_ratio
    ratios = (ratio, *[(1 - ratio) / config.rounds] * (config.rounds - 1))
    worded = []
    if config.asdiv is not None:
        worded.append(asdiv_problems(config.asdiv))
    if config.own is not None:
        worded.append(own_problems(config.own.path, config, config.own.tolerance))
    for problems in worded:
        for row in problems.rows:
            place = part_of(prompt_identity(row.prompt), ratios, config.seed)
            (heldout if place == 0 else rounds[place - 1]).keep(row)
        heldout.dropped.update(problems.dropped)  # what cannot be used belongs to no round
    heldout.drop_duplicates()
    _limit(heldout, config, heldout=True)
    if config.generated is not None:
        found = generated_parts(config.generated, config.rounds, config.seed)
        heldout.add(found.heldout)
        examples = found.examples
        for part, more in zip(rounds, found.rounds, strict=True):
            part.add(more)
    return heldout, rounds, examples


def _example_row(example: WorkedExample, instruction: str) -> SFTRow:
    problem = _with_instruction(example.problem, instruction)
    messages = (*problem.prompt, Message(role="assistant", content=example.solution))
    return SFTRow(id=problem.id, source=problem.source, messages=messages)


def _limit(part: RowSet[MathsProblemRow], config: MathsConfig, *, heldout: bool) -> None:
    """Apply the limits of ASDiv and of the user's own problems; generated ones are as many as asked for."""
    limits = {
        kind: section.heldout_limit if heldout else section.limit
        for kind, section in (("asdiv", config.asdiv), ("own", config.own))
        if section is not None
    }
    part.limit_each(_kind, limits, config.seed)


def _kind(row: MathsProblemRow) -> str:
    if row.template:
        return "generated"
    return "asdiv" if row.source == packaged.ASDIV else "own"


def _comparable(row: MathsProblemRow) -> str:
    return without_numbers(row.prompt[0].content)


def _prompts(part: RowSet[MathsProblemRow], instruction: str) -> RowSet[VerifiedPromptRow]:
    rows: Iterable[MathsProblemRow] = (_with_instruction(row, instruction) for row in part.rows)
    names = tuple(VerifiedPromptRow.model_fields)
    prompts = RowSet(VerifiedPromptRow(**{name: getattr(row, name) for name in names}) for row in rows)
    prompts.dropped.update(part.dropped)
    return prompts


def _with_instruction(row: MathsProblemRow, instruction: str) -> MathsProblemRow:
    text = f"{row.prompt[0].content}\n{instruction}".strip()
    return row.model_copy(update={"prompt": (Message(role="user", content=text),)})
