"""Build prompts with checkable instructions, such as "in at most two sentences" or "in lower case only".

It writes `instructions.round-N` for each round, `instructions.heldout` (held-out kinds of instruction on held-out
prompts) and `instructions.seen` (trained kinds on the same held-out prompts), each as JSONL with a manifest. The column
`verify` of each row has the checks of its instructions. Rejection sampling with `verifiers: [instructions]` turns the
rows of a round into SFT rows (completions that pass) and preference rows (passing over failing); the evaluation
`instructions` measures the held-out rows.

The instruction is in the message itself, in a system message, or in an earlier turn of the dialog, and must be followed
in the last answer (steerability: Llama 3, section 4.3.7). Prompts and kinds are held out before any row is made.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from align.config import dump
from align.jsonl import Drops, usable
from align.judges.verifiers.instructions import InstructionsEntry, follows
from align.records import identities_of, records_of
from align.reporting import logger
from align.rows import Message, Messages, PromptRow, VerifiedPromptRow
from align.settings import InputSource, InputSources, Reading
from align.splits import part_of
from align.text import exact_key, normalize
from data_builders.instructions.kinds import (
    KINDS,
    OPTIONAL,
    HeldOutName,
    Instruction,
    KindName,
    are_compatible,
    instruction,
    obeyed,
)
from data_builders.instructions.sources import BasePrompt, base_prompts
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.row_contents import MIN_DISTINCTIVE_WORDS, prompt_in
from data_builders.row_set import RowSet, shuffled

Placement = Literal["message", "system", "earlier_turn"]

HELD_OUT_KINDS: tuple[KindName, ...] = get_args(HeldOutName)
_PLACEMENTS: dict[Placement, float] = {"message": 0.6, "system": 0.2, "earlier_turn": 0.2}
GREETING = ("Hello!", "Hello. What would you like to know?")
"""The earlier turn of a dialog where no prompt with a known answer is there."""
_MOST_CHARACTERS_OF_AN_EARLIER_ANSWER = 200
_SYSTEM = (
    "{rules}",
    "You are a helpful assistant. {rules} This applies to every answer.",
    "Rules for all of your answers: {rules}",
    "For the whole conversation: {rules}",
)
_FROM_NOW_ON = (
    "{prompt}\n{rules} Do the same in all later answers.",
    "{prompt} {rules} Keep to this for the rest of our conversation.",
    "Here and in every later answer: {rules}\n\n{prompt}",
)
_IN_THE_MESSAGE = ("{prompt}\n\n{rules}", "{prompt}\n{rules}", "{prompt} {rules}", "{rules}\n\n{prompt}")


class InstructionsConfig(Reading):
    """Prompts with instructions that a rule can check, with held-out kinds of instruction. Needs no model."""

    prompts: InputSources | None = None
    """Your own prompts, each one user message: a file, a Hub dataset, or a list of them. None: the demo sets."""
    rounds: int = Field(2, ge=1)
    """Number of rounds. The prompts are split into one part per round."""
    heldout_ratio: float = Field(0.2, gt=0, lt=1)
    """Ratio of the prompts to hold out."""
    kinds: tuple[KindName, ...] = ()
    """Kinds of instruction to train on. Empty: all that are not held out, but not `language`, which requires the extra
    of that name."""
    heldout_kinds: tuple[KindName, ...] = HELD_OUT_KINDS
    """Kinds of instruction that no training row has, neither their wordings nor their check. So upper_case cannot be
    held out while lower_case is trained: both are checked by `case`."""
    placements: dict[Placement, float] = Field(default_factory=lambda: dict(_PLACEMENTS))
    """Where the instruction is -> ratio of the rows. message: in the message that is answered. system: in a system
    message. earlier_turn: in the first message of a dialog, whose answer follows it. The share of earlier_turn is
    smaller than its ratio: where no rule can make an answer that follows the instructions, they are in the message."""
    two_ratio: float = Field(0.25, ge=0, le=1)
    """Ratio of the rows that have two instructions."""
    rows_per_prompt: int = Field(1, ge=1)
    """Rows made of each training prompt, each with another kind of instruction as long as there is one that fits."""
    heldout_rows_per_prompt: int = Field(2, ge=1)
    """Rows made of each held-out prompt. The evaluation computes its intervals over prompts."""
    max_characters: int = Field(160, gt=0)
    """Maximum length of a prompt in characters, without its instruction. Longer prompts are dropped and counted."""
    limit: int | None = Field(None, gt=0)
    """Maximum number of rows in each round."""
    heldout_limit: int | None = Field(None, gt=0)
    """Maximum number of held-out rows, in each of the two files."""
    evaluation: tuple[InputSource, ...] = ()
    """Evaluation sets. Prompts that are in one of them are dropped and counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    seed: int = 0
    """Seed of the split, of the choice of instructions and of the order."""

    @field_validator("placements")
    @classmethod
    def _some_placement(cls, placements: dict[Placement, float]) -> dict[Placement, float]:
        if min(placements.values(), default=0) < 0 or sum(placements.values()) <= 0:
            raise ValueError(f"expected ratios of at least 0, with one above 0, found {placements}")
        return placements

    @model_validator(mode="after")
    def _held_out_kinds_are_trained_by_no_other_name(self) -> Self:
        if not self.heldout_kinds:
            raise ValueError("heldout_kinds is empty; hold out at least one kind, so that the gain can be measured")
        held_out = {KINDS[kind].checked_by: kind for kind in self.heldout_kinds}
        for kind in self.kinds:
            if (check := KINDS[kind].checked_by) in held_out:
                other = held_out[check]
                same = "is" if other == kind else f"has the same check ({check}) as {other}, which is"
                raise ValueError(f"{kind} is in kinds and {same} in heldout_kinds. Remove one of them")
        if not self.trained_kinds:
            raise ValueError("every kind is held out; leave at least one to train on")
        return self

    @property
    def trained_kinds(self) -> tuple[KindName, ...]:
        held_out = {KINDS[kind].checked_by for kind in self.heldout_kinds}
        others = (kind for kind in KINDS if kind not in OPTIONAL and KINDS[kind].checked_by not in held_out)
        return self.kinds or tuple(others)


def build(config: InstructionsConfig, output: Path) -> Path:
    """Write all files into the folder `output` and return it."""
    found, counted = base_prompts(config.prompts, config)
    prompts = _usable(found, counted, config)
    parts: list[list[BasePrompt]] = [[] for _ in range(config.rounds + 1)]  # the held-out prompts come last
    for prompt in prompts:
        identity = normalize(prompt.text)  # as the rehearsal's own prompts: what it holds out is held out here too
        if part_of(identity, (config.heldout_ratio,), config.seed) == 0:
            parts[-1].append(prompt)
        else:
            parts[part_of(f"round {identity}", [1 / config.rounds] * (config.rounds - 1), config.seed)].append(prompt)
    files = {
        f"instructions.round-{number}": _rows(part, config.trained_kinds, config.rows_per_prompt, config.limit, config)
        for number, part in enumerate(parts[:-1], start=1)
    }
    for name, kinds in (("heldout", config.heldout_kinds), ("seen", config.trained_kinds)):
        files[f"instructions.{name}"] = _rows(
            parts[-1], kinds, config.heldout_rows_per_prompt, config.heldout_limit, config
        )
    log = logger("data_builders")
    for name, rows in files.items():
        if name.endswith("round-1"):
            rows.dropped.update(counted.dropped)  # of all prompts: counted once
        rows.write(
            output / f"{name}.jsonl",
            config=dump(config),
            inputs=identities_of((*_sources(config), *config.evaluation)),
        )
        log.info("%-24s %s", name, rows.summary())
    return output


def _sources(config: InstructionsConfig) -> tuple[InputSource, ...]:
    if config.prompts is None:
        return ()
    return config.prompts if isinstance(config.prompts, tuple) else (config.prompts,)


def _usable(found: Sequence[BasePrompt], counted: RowSet[PromptRow], config: InstructionsConfig) -> list[BasePrompt]:
    """The prompts that are short enough, in no evaluation set, and there once. Drops are added to `counted`."""
    rows = RowSet(prompt.row for prompt in found)
    rows.drop_duplicates()
    rows.drop_where(lambda row: len(row.prompt[0].content) > config.max_characters, "over max_characters")
    evaluation = Decontamination.of(config.evaluation, config.decontamination, config.bad_rows)
    evaluation.add_keys(_keys_without_instructions(config))
    rows.drop_matches(evaluation)
    counted.dropped.update(rows.dropped)
    by_id = {prompt.id: prompt for prompt in found}
    return [by_id[row.id] for row in shuffled(rows.rows, config.seed)]


def _keys_without_instructions(config: InstructionsConfig) -> set[str]:
    """Keys of the prompts that the evaluation sets have together with instructions, as the files of this builder do.

    Such a prompt is the beginning of a message, up to the end of a sentence or a line, or what follows an empty line:
    "What is tea made of? Use no commas." and "Use no commas.\\n\\nWhat is tea made of?" have "What is tea made of?".
    """
    found = set[str]()
    for prompt in usable(records_of(config.evaluation), prompt_in, config.bad_rows, Drops()):
        for text in (message.content for message in prompt if message.role == "user"):
            parts = [text[: end.end()] for end in re.finditer(r"[.!?:](?=\s)|\n", text)]
            parts.append(text.rpartition("\n\n")[2])
            found.update(exact_key(part) for part in parts if len(normalize(part).split()) >= MIN_DISTINCTIVE_WORDS)
    return found


def _rows(
    prompts: Sequence[BasePrompt],
    kinds: Sequence[KindName],
    each: int,
    limit: int | None,
    config: InstructionsConfig,
) -> RowSet[VerifiedPromptRow]:
    """Rows of one file, the kinds in turn, so that each occurs about equally often."""
    rows: RowSet[VerifiedPromptRow] = RowSet()
    turn = 0
    given: dict[str, set[KindName]] = {prompt.id: set() for prompt in prompts}
    for number in range(each):
        for prompt in prompts:
            draw = random.Random(f"{config.seed} {prompt.id} {number} {' '.join(kinds)}")
            order = [*kinds[turn % len(kinds) :], *kinds[: turn % len(kinds)]]
            turn += 1
            order.sort(key=given[prompt.id].__contains__)  # kinds that the prompt has already come last
            chosen = tuple(_instructions(prompt, order, draw, config.two_ratio))
            given[prompt.id].update(one.kind for one in chosen[:1])
            if not chosen:
                rows.drop("no kind fits the prompt")
                continue
            rows.keep(_row(prompt, number, chosen, prompts, draw, config))
    if limit is not None and len(rows.rows) > limit:  # a prefix has each kind equally often
        rows.drop("over the limit", len(rows.rows) - limit)
        rows.rows = rows.rows[:limit]
    rows.shuffle(config.seed)
    return rows


def _instructions(
    prompt: BasePrompt, order: Sequence[KindName], draw: random.Random, two_ratio: float
) -> Iterator[Instruction]:
    """One instruction of the first kind that fits the prompt, and by chance one of another kind that goes with it."""
    first = next((made for kind in order if (made := instruction(kind, prompt.text, draw)) is not None), None)
    if first is None:
        return
    yield first
    if draw.random() < two_ratio:
        others = [kind for kind in order if are_compatible(kind, first.kind)]
        draw.shuffle(others)
        second = next((made for kind in others if (made := instruction(kind, prompt.text, draw)) is not None), None)
        if second is not None:
            yield second


def _row(
    prompt: BasePrompt,
    number: int,
    chosen: tuple[Instruction, ...],
    prompts: Sequence[BasePrompt],
    draw: random.Random,
    config: InstructionsConfig,
) -> VerifiedPromptRow:
    verify = {"instructions": {"checks": [one.check for one in chosen]}}
    names = "+".join(one.kind for one in chosen)
    return VerifiedPromptRow(
        id=f"{prompt.id}#{number}.{names}",
        source=f"instructions/{prompt.source}",
        prompt=_dialog(prompt, chosen, prompts, draw, config),
        verify=json.dumps(verify),
    )


def _dialog(
    prompt: BasePrompt,
    chosen: tuple[Instruction, ...],
    prompts: Sequence[BasePrompt],
    draw: random.Random,
    config: InstructionsConfig,
) -> Messages:
    """The prompt with the text of its instructions, at a drawn place."""
    rules = " ".join(one.text for one in chosen)
    placement = draw.choices(list(config.placements), list(config.placements.values()))[0]
    if placement == "system":
        system = Message(role="system", content=draw.choice(_SYSTEM).format(rules=rules))
        return system, Message(role="user", content=prompt.text)
    if placement == "earlier_turn":
        earlier = _earlier_turn(prompt, chosen, prompts, draw)
        if earlier is not None:
            question, answer = earlier
            opening = draw.choice(_FROM_NOW_ON).format(prompt=question, rules=rules)
            return (
                Message(role="user", content=opening),
                Message(role="assistant", content=answer, trained=False),
                Message(role="user", content=prompt.text),
            )
    return (Message(role="user", content=draw.choice(_IN_THE_MESSAGE).format(prompt=prompt.text, rules=rules)),)


def _earlier_turn(
    prompt: BasePrompt, chosen: tuple[Instruction, ...], prompts: Sequence[BasePrompt], draw: random.Random
) -> tuple[str, str] | None:
    """Another prompt of the same part with its answer, changed so that it follows the instructions.

    None if no rule can change an answer in this way; the instruction is then in the message itself.
    """
    known = [one for one in prompts if one.answer and one.id != prompt.id]
    short = [one for one in known if len(one.answer) <= _MOST_CHARACTERS_OF_AN_EARLIER_ANSWER]
    question, answer = GREETING
    if short:
        other = draw.choice(short)
        question, answer = other.text, other.answer
    changed = obeyed(answer, chosen)
    entry = InstructionsEntry.model_validate({"checks": [one.check for one in chosen]})
    if changed is None or not all(follows(changed, check) for check in entry.checks):
        return None
    return question, changed
