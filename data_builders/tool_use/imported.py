"""Tool dialogs as SFT rows, one row per assistant turn, with functions that are held out by name.

There are three kinds of turns: `call` (the turn calls a function), `answer` (it answers from a function's output) and
`no-call` (functions are offered, and the right reply is text). The row's source ends with the kind.

The calls of an imported dialog cannot be run here, so each call is checked against the schemas of the offered
functions. A row with an invalid call is dropped; the turns before it are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from align.config import Section, dump
from align.files import fingerprint_of
from align.records import identities_of, sources_of
from align.rows import Messages, SFTRow, row_id, tools_of, tools_text
from align.settings import InputSource, InputSources, Reading
from align.tools.schema import call_problem
from data_builders.packaged import GLAIVE, ToolDialog, provenance, tool_dialogs
from data_builders.quality.decontamination import Decontamination
from data_builders.quality.settings import DecontaminationConfig
from data_builders.row_set import RowSet, characters, read_row_set
from data_builders.tool_use.imported_pairs import Kind, PairKind, imported_pairs, kind_of


class ToolDialogsConfig(Section):
    """How tool dialogs become rows."""

    heldout_ratio: float = Field(0.25, ge=0, lt=1)
    """Share of the dialogs held out, by their functions: no function of a held-out dialog is trained on."""
    max_characters: int = Field(6000, gt=0)
    """A row with more in its messages, calls and functions together is dropped, and counted."""
    limits: dict[Kind, int] = Field(default_factory=dict)
    """Rows to train on, by kind of turn; a kind that is not listed has no limit."""
    heldout_limits: dict[Kind, int] = Field(default_factory=dict)
    """Rows held out, by kind of turn."""
    pairs: dict[PairKind, int] = Field(default_factory=dict)
    """Preference pairs by kind of turn, from all turns that are not held out: the right message over one that calls
    where text is right, or that has no call or other arguments. They are written to `tools.preferences.jsonl`; by
    default there are none."""


class ImportedDialogsConfig(ToolDialogsConfig, Reading):
    """Tool dialogs alone: `tools.jsonl`, `tools.heldout.jsonl`, and with pairs `tools.preferences.jsonl`."""

    path: InputSources | None = None
    """Dialogs with their functions (SFT rows, OpenAI, ShareGPT, Glaive, or BFCL with possible answers); None
    for the packaged dialogs."""
    evaluation: tuple[InputSource, ...] = ()
    """JSONL of evaluation prompts, of any kind of row. Rows to train on that match one are dropped, and counted."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    """What counts as a repeat of an evaluation example, and the bundled benchmarks."""
    seed: int = 0
    """Which functions are held out, and the shuffles."""


def build(config: ImportedDialogsConfig, output: Path) -> Path:
    """Write `tools.jsonl`, `tools.heldout.jsonl` and with pairs `tools.preferences.jsonl` into the folder `output`."""
    source, dialogs, read = GLAIVE, None, RowSet[SFTRow]()
    if config.path is not None:
        source = Path(sources_of(config.path)[0].path).stem
        read = read_row_set(config.path, SFTRow, config, config.seed)
        dialogs = [ToolDialog(row.messages, tools_of(row.tools)) for row in read.rows]
    train, heldout = tool_rows(tool_dialogs() if dialogs is None else dialogs, config, config.seed, source)
    train.dropped.update(read.dropped)
    evaluation = Decontamination.of(config.evaluation, config.decontamination, config.bad_rows)
    evaluation.add_prompts(heldout.rows)
    train.drop_matches(evaluation)
    pairs = imported_pairs(train.rows, config.pairs, config.seed)
    train.limit_each(kind_of, config.limits, config.seed)
    inputs = identities_of([*config.evaluation, *(sources_of(config.path) if config.path else ())])
    notes = {"provenance": provenance((GLAIVE,))} if dialogs is None else {}
    parts: dict[str, RowSet[Any]] = {"tools": train, "tools.heldout": heldout}
    if config.pairs:
        parts["tools.preferences"] = pairs
    for name, part in parts.items():
        part.write(output / f"{name}.jsonl", config=dump(config), inputs=inputs, notes=notes)
    return output


def tool_rows(
    dialogs: Sequence[ToolDialog], config: ToolDialogsConfig, seed: int, source: str = GLAIVE
) -> tuple[RowSet[SFTRow], RowSet[SFTRow]]:
    """(rows to train on, rows held out). A dialog that mixes functions of both sides is dropped, and counted.

    The turns of a dialog from its first invalid call on are dropped too, with the reason that `call_problem` gives.
    The rows to train on are not limited here, because rows that match an evaluation prompt are dropped before that.
    """
    held = held_out_functions(dialogs, config.heldout_ratio, seed)
    train: RowSet[SFTRow] = RowSet()
    heldout: RowSet[SFTRow] = RowSet()
    for dialog in dialogs:
        turns = _turns(dialog, source)
        if not dialog.tools:
            train.drop("no function offered", len(turns))
            continue
        place, reason = _first_bad_call(dialog)
        sound = [row for row in turns if len(row.messages) <= place]
        names = function_names(dialog.messages[:place], dialog.tools)
        part = heldout if names <= held else train
        part.drop(reason, len(turns) - len(sound))
        if part is train and names & held:
            part.drop("functions on both sides", len(sound))
        else:
            part.rows.extend(sound)
    for part in (train, heldout):
        part.drop_duplicates()
        part.drop_where(lambda row: characters(row.messages, row.tools) > config.max_characters, "over max_characters")
    heldout.limit_each(kind_of, config.heldout_limits, seed)
    return train, heldout


def held_out_functions(dialogs: Sequence[ToolDialog], share: float, seed: int) -> set[str]:
    """Functions in the order of the hashes of their names, until the dialogs that use no others make up the share.

    Example: of four dialogs, two use {a}, one {b} and one {a, b}, and a quarter is to be held out. If b comes first in
    the order of hashes, {b} holds out one dialog of four, which is enough. If a comes first, {a} holds out two.
    """
    offered = [function_names(dialog.messages, dialog.tools) for dialog in dialogs if dialog.tools]
    held: set[str] = set()
    for name in sorted(set().union(*offered), key=lambda name: fingerprint_of(seed, name)):
        if sum(bool(names) and names <= held for names in offered) >= share * len(offered):
            break
        held.add(name)
    return held


def function_names(messages: Messages, tools: Sequence[Any]) -> set[str]:
    """Names of the functions that a dialog offers or calls."""
    return {tool.name for tool in tools} | {call.name for message in messages for call in message.tool_calls}


def _first_bad_call(dialog: ToolDialog) -> tuple[int, str]:
    """(number of messages before the first invalid call, what is wrong with it); all messages if every call is valid.

    A call that is only context may be invalid: the turns after it teach how to react.
    """
    for place, message in enumerate(dialog.messages):
        for call in message.tool_calls if message.trained else ():
            if problem := call_problem(dialog.tools, call):
                return place, problem.reason
    return len(dialog.messages), ""


def _turns(dialog: ToolDialog, source: str) -> list[SFTRow]:
    rows = []
    tools = tools_text(dialog.tools)
    for place, message in enumerate(dialog.messages):
        if message.role == "assistant" and place > 0:
            messages = dialog.messages[: place + 1]
            identity = row_id(source, tools, *(turn.model_dump_json() for turn in messages))
            row = SFTRow(id=identity, source=source, messages=messages, tools=tools)
            rows.append(row.model_copy(update={"source": f"{source}/{kind_of(row)}"}))
    return rows
