"""Executed tool dialogs out of tasks, where no strong model is at hand: rows, records, pairs and a suite to evaluate.

Writes `tools.jsonl` (SFT rows), `tools.records.jsonl` (every call with its result, by row), `files/<row id>/` (what the
row's calls read, so that they can be made again), `tools.preferences.jsonl` (right message against wrong one), and from
domains that are never trained on `tools.heldout.jsonl` (single messages, for `eval/tool_use.py`) and
`tools.dialogs.jsonl` (dialogs to run live, for `eval/tool_dialogs.py`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from inspect import signature
from pathlib import Path

from pydantic import Field, model_validator

from align.config import dump
from align.errors import SandboxError
from align.files import fingerprint_of, whole_file
from align.records import identities_of
from align.reporting import logger
from align.rows import PreferenceRow, SFTRow, ToolQuestionRow, row_id, tools_text
from align.settings import BadRows, InputSource
from data_builders.row_set import Counted, characters, evaluation_keys, prompt_keys
from data_builders.tool_use.dialogs.catalog import DOMAINS, Domain, domains
from data_builders.tool_use.dialogs.dialog import CallFailed, Played, Stage, TemplateKind, play
from data_builders.tool_use.dialogs.renaming import name_key
from data_builders.tool_use.dialogs.task import Task
from data_builders.tool_use.pairs import pairs_of

ROWS: dict[TemplateKind, int] = {
    "single": 400, "parallel": 80, "multi-step": 120, "mended": 40, "dialog": 80, "none-right": 160, "restraint": 30,
    "tools-off": 20, "file": 20, "code": 20,
}  # fmt: skip
TRIES = 20
"""Draws for one dialog before the builder says that there is no more to be had."""


class ToolTemplatesConfig(BadRows):
    """Dialogs sampled from the tasks under data_builders/tool_use/domains/, and executed."""

    rows: dict[TemplateKind, int] = Field(default_factory=lambda: dict(ROWS))
    """Dialogs to train on, by kind."""
    heldout_domains: tuple[str, ...] = ("household", "school")
    """Domains that no row to train on offers a function of: the suite to evaluate is made from them."""
    heldout_rows: dict[TemplateKind, int] = Field(
        default_factory=lambda: {"single": 60, "multi-step": 60, "none-right": 40}  # type: ignore[arg-type]
    )
    """Dialogs held out, by kind."""
    most_offered: int = Field(3, gt=0)
    """Functions offered in one dialog, at most."""
    alone_share: float = Field(0.3, ge=0, le=1)
    """Share of the dialogs that offer nothing beside the functions they are about."""
    renamed_share: float = Field(0.8, ge=0, le=1)
    """Share of the functions that appear under another name, with other names of parameters; the rest as they are."""
    pairs: dict[TemplateKind, int] = Field(default_factory=dict)
    """Preference pairs by the kind of dialog that they come from, which are dialogs of their own. How many of them are
    none-right, where nothing should be called, weighs most on what DPO gives: many teach silence, few teach calls."""
    without_bfcl: bool = False
    """Drop every dialog that offers a function named as one of BFCL's, or asks what BFCL asks."""
    max_characters: int = Field(6000, gt=0)
    """A row with more in its messages, calls and functions together is dropped, and counted."""
    evaluation: tuple[InputSource, ...] = ()
    """JSONL of evaluation prompts, of any kind of row. Rows that match one are dropped, and counted."""
    seed: int = 0
    """Every draw."""

    @model_validator(mode="after")
    def _domains_are_there(self) -> ToolTemplatesConfig:
        if strangers := set(self.heldout_domains) - set(DOMAINS):
            raise ValueError(f"heldout_domains: wanted some of {', '.join(DOMAINS)}, found {', '.join(strangers)}")
        if set(DOMAINS) <= set(self.heldout_domains):
            raise ValueError("heldout_domains holds every domain, so nothing is left to train on")
        if homeless := self.heldout_rows.keys() & {"file", "code"}:
            names = ", ".join(sorted(homeless))
            raise ValueError(f"heldout_rows names {names}, whose functions belong to no domain: they are to train on")
        return self


def build(config: ToolTemplatesConfig, output: Path) -> Path:
    """Write all that the head of this module names into the folder `output`, and return it."""
    names, evaluation = _left_out(config)
    there = domains(name for name in DOMAINS if name not in config.heldout_domains)
    held = [unlike(domain, there) for domain in domains(config.heldout_domains)]
    suite = _suite(Stage(held, config.most_offered, 0.0, config.alone_share), config)
    evaluation = evaluation.union(*(prompt_keys(row) for part in suite for row in part.rows))
    stage = Stage(there, config.most_offered, config.renamed_share, config.alone_share)

    train: Counted[SFTRow] = Counted()
    records: dict[str, Played] = {}
    for kind, count in config.rows.items():
        for played in _played(stage, kind, count, config, names, train):
            row = _row(played)
            train.keep(row)
            records[row.id] = played
    _check(train, evaluation, config)
    train.shuffle(config.seed)

    pairs = _pairs(stage, config, names)
    _check(pairs, evaluation, config)
    pairs.shuffle(config.seed)

    for row in train.rows:
        for name, data in records[row.id].files.items():
            with whole_file(output / "files" / row.id / name, "wb") as handle:
                handle.write(data)
    heldout, dialogs = suite
    files: dict[str, Counted] = {
        "tools": train, "tools.preferences": pairs, "tools.heldout": heldout, "tools.dialogs": dialogs,
    }  # fmt: skip
    for name, part in files.items():
        part.write(output / f"{name}.jsonl", config=dump(config), inputs=identities_of(config.evaluation))
        logger("data_builders").info("%-20s %s", name, part.summary())
    with whole_file(output / "tools.records.jsonl") as handle:
        for row in train.rows:
            calls = [record.model_dump(exclude_defaults=True) for record in records[row.id].records]
            handle.write(json.dumps({"id": row.id, "records": calls}, ensure_ascii=False) + "\n")
    return output


def unlike(held: Domain, trained: Sequence[Domain]) -> Domain:
    """A held-out domain without the tasks that a trained one comes near: a name of theirs is the same, or most of the
    parameters are. Chains with them go too."""
    tasks = [task for domain in trained for task in domain.tasks]
    keys = {name_key(name) for task in tasks for name in (task.name, *task.names)}
    parameters = [set(signature(task.function).parameters) for task in tasks]

    def near(task: Task) -> bool:
        own = set(signature(task.function).parameters)
        alike = any(len(own & others) > 1 and 4 * len(own & others) >= 3 * len(own) for others in parameters)
        return alike or not keys.isdisjoint(name_key(name) for name in (task.name, *task.names))

    kept = tuple(task for task in held.tasks if not near(task))
    there = {task.function for task in kept}
    return Domain(held.name, kept, tuple(chain for chain in held.chains if {chain.first, chain.second} <= there))


def _left_out(config: ToolTemplatesConfig) -> tuple[set[str], set[str]]:
    """Keys of function names, and of prompts, that must not be trained on."""
    names: set[str] = set()
    keys = evaluation_keys(config.evaluation, config.bad_rows)
    if config.without_bfcl:
        from align.assets import path_of
        from align.formats import bfcl
        from align.rows import Message
        from align.text import exact_key
        from data_builders.row_set import keys_of

        folder = path_of("bfcl-eval")
        names = {name_key(name) for name in bfcl.function_names(folder)}
        for text in bfcl.question_texts(folder):
            keys |= keys_of((Message(role="user", content=text),)) | {exact_key(text)}
    return names, keys


def _played(
    stage: Stage, kind: TemplateKind, count: int, config: ToolTemplatesConfig, names: set[str], counted: Counted
) -> Iterator[Played]:
    """So many dialogs of a kind; what fails, and what offers a function that must not be trained on, is counted."""
    for number in range(count):
        for attempt in range(TRIES):
            rng = random.Random(fingerprint_of(config.seed, kind, number, attempt))
            try:
                played = play(kind, stage, rng)
            except CallFailed as failure:
                counted.drop(f"{kind}: call failed ({failure})")
                continue
            except SandboxError as error:
                counted.drop(f"{kind}: no sandbox", count - number)
                logger("data_builders").warning("no dialogs of the kind %s: %s", kind, error)
                return
            if played is None:
                continue  # nothing was made: this draw had no dialog of the kind
            offered = {name_key(name) for each in played.offered for name in (each.tool.spec.name, each.task.name)}
            if offered & names:
                counted.drop("offers a function of an evaluation")
                continue
            yield played
            break


def _pairs(stage: Stage, config: ToolTemplatesConfig, names: set[str]) -> Counted[PreferenceRow]:
    other = config.model_copy(update={"seed": int(fingerprint_of("pairs", config.seed)[:8], 16)})
    pairs: Counted[PreferenceRow] = Counted()
    for kind, count in config.pairs.items():
        part: Counted[PreferenceRow] = Counted()
        for number, played in enumerate(_played(stage, kind, count, other, names, part)):
            for pair in pairs_of(played, "tasks", random.Random(fingerprint_of(other.seed, "pair", kind, number))):
                part.keep(pair)
        part.limit(count, config.seed)
        pairs.add(part)
    return pairs


def _check(part: Counted, evaluation: set[str], config: ToolTemplatesConfig) -> None:
    part.drop_duplicates()
    part.drop_where(
        lambda row: (
            characters(row.messages if isinstance(row, SFTRow) else row.prompt, row.tools) > config.max_characters
        ),
        "over max_characters",
    )
    part.drop_matches(evaluation)


def _row(played: Played) -> SFTRow:
    tools = tools_text(list(played.tools))
    identity = row_id("tasks", tools, *(message.model_dump_json() for message in played.messages))
    return SFTRow(id=identity, source=f"tasks/{played.kind}", messages=played.messages, tools=tools)


def _home(played: Played, stage: Stage) -> str:
    """The domain of the function that is called first, or, where none is called, of the one that is offered first."""
    name = played.records[0].call.name if played.records else played.offered[0].tool.spec.name
    task = next(each.task for each in played.offered if each.tool.spec.name == name)
    return next(domain.name for domain in stage.domains if task in domain.tasks)


def _suite(stage: Stage, config: ToolTemplatesConfig) -> tuple[Counted[SFTRow], Counted[ToolQuestionRow]]:
    """(single messages, dialogs to run live), over functions as they are, so that a registry can answer for them."""
    single: Counted[SFTRow] = Counted()
    dialogs: Counted[ToolQuestionRow] = Counted()
    for kind, count in config.heldout_rows.items():
        for played in _played(stage, kind, count, config, set(), dialogs):
            row = _row(played)
            asked = next(place for place, message in enumerate(played.messages) if message.role == "user") + 1
            if kind != "multi-step":
                single.keep(row.model_copy(update={"messages": played.messages[: asked + 1]}))
            calls = tuple(record.call for record in played.records if record.ok)
            prompt = played.messages[:asked]
            dialogs.keep(
                ToolQuestionRow(
                    id=row.id,
                    source=f"{row.source}/{_home(played, stage)}",
                    tools=row.tools,
                    prompt=prompt,
                    calls=calls,
                    answers=(played.final,) if calls and not played.final.startswith(("{", "[")) else (),
                )
            )
    for part in (single, dialogs):
        part.drop_duplicates()
        part.shuffle(config.seed)
    return single, dialogs
