"""Preference pairs from imported tool dialogs: when to call a function, with what, and when not to.

SFT on dialogs teaches a small model to call a function for every request, because most of them end in a call. Pairs
compare the right next message with a wrong one in the same context (see `pairs.py` for executed dialogs, whose wrong
calls are made by samplers; the functions of imported dialogs cannot be run):

    no-call   the text of the dialog, over a call of an offered function as a training dialog makes it
    call      the call of the dialog, over text without a call, or over a call of the same function with the arguments
              of another dialog

Example: functions `search_recipes` and the request "Can you help me find a recipe?". Chosen: "Please tell me what
ingredients you have." Rejected: `search_recipes(ingredients=["eggs", "rice"])`, which another turn rightly calls.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from align.rows import Message, PreferenceRow, SFTRow, ToolCall, row_id, tools_of
from data_builders.row_set import RowSet
from data_builders.tool_use.pairs import NO_CALL

Kind = Literal["call", "answer", "no-call"]
PairKind = Literal["call", "no-call"]


def kind_of(row: SFTRow) -> Kind:
    """The kind of a row's last turn."""
    if row.messages[-1].tool_calls:
        return "call"
    return "answer" if row.messages[-2].role == "tool" else "no-call"


def imported_pairs(rows: Sequence[SFTRow], counts: Mapping[PairKind, int], seed: int) -> RowSet[PreferenceRow]:
    """Return a pair for each training row of a kind in `counts`, at most as many of a kind as it says.

    rows: the turns to train on, one row each, with the calls that wrong messages are made of. The choice of wrong
    messages and of surplus pairs depends on `seed` and on the row, and not on the order of the rows.
    """
    calls = _calls(rows)
    pairs: RowSet[PreferenceRow] = RowSet()
    for row in rows:
        if kind_of(row) not in counts:
            continue
        *context, right = row.messages
        found = _wrong(row, calls, random.Random(f"{seed} {row.id}"))
        if found is None:
            pairs.drop("no training dialog calls an offered function")
            continue
        what, wrong = found
        identity = row_id(row.id, what, wrong.model_dump_json())
        pairs.keep(
            PreferenceRow(
                id=identity,
                source=f"{row.source}/{what}",
                tools=row.tools,
                prompt=tuple(context),
                completions=((right,), (wrong,)),
            )
        )
    pairs.limit_each(lambda pair: "call" if pair.completions[0][-1].tool_calls else "no-call", counts, seed)
    return pairs


def _calls(rows: Sequence[SFTRow]) -> dict[str, list[ToolCall]]:
    """Function name -> its different calls in the turns to train on, sorted."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for call in row.messages[-1].tool_calls:
            found[call.name].add(call.arguments)
    return {name: [ToolCall(name=name, arguments=each) for each in sorted(found[name])] for name in found}


def _wrong(row: SFTRow, calls: dict[str, list[ToolCall]], rng: random.Random) -> tuple[str, Message] | None:
    """(what is wrong, the wrong message); None if no call is known for a needless one."""
    right = row.messages[-1]
    if right.tool_calls:
        call = right.tool_calls[0]
        others = [each for each in calls[call.name] if each.parsed() != call.parsed()]
        if others and rng.random() < 0.5:
            return "other value", _calling(rng.choice(others))
        return "no call", Message(role="assistant", content=rng.choice(NO_CALL))
    offered = [each for tool in tools_of(row.tools) for each in calls.get(tool.name, ())]
    return ("needless call", _calling(rng.choice(offered))) if offered else None


def _calling(call: ToolCall) -> Message:
    return Message(role="assistant", tool_calls=(call,))
