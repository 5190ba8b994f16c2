"""Rows of sampled dialogs: to train on, preference pairs, and a held-out suite. `templates.py` puts them together.

Every dialog has a random source of its own, made from the seed, its kind and its number: to ask for more dialogs of one
kind changes no other dialog.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from align.errors import SandboxError
from align.files import fingerprint_of
from align.reporting import logger
from align.rows import PreferenceRow, SFTRow, ToolQuestionRow, row_id, tools_text
from data_builders.row_set import RowSet
from data_builders.tool_use.dialogs.dialog import (
    CallFailed,
    DialogKind,
    DialogSource,
    ExecutedDialog,
)
from data_builders.tool_use.dialogs.dialog_kinds import make_dialog
from data_builders.tool_use.dialogs.renaming import name_key
from data_builders.tool_use.dialogs.task import Domain, Task
from data_builders.tool_use.pairs import wrong_call_pairs

TRIES = 20
"""Draws for one dialog. After that many without a dialog of its kind, it is left out."""


@dataclass(frozen=True)
class DialogSampler:
    """Seeded dialogs of a kind."""

    source: DialogSource
    seed: int
    excluded: frozenset[str] = frozenset()
    """`name_key` of functions that no dialog may offer."""

    def dialogs(self, kind: DialogKind, count: int, counted: RowSet[Any]) -> Iterator[tuple[int, ExecutedDialog]]:
        """(number, dialog) of up to `count` dialogs. Failed calls and excluded functions are counted as drops."""
        for number in range(count):
            for attempt in range(TRIES):
                rng = random.Random(fingerprint_of(self.seed, kind, number, attempt))
                try:
                    dialog = make_dialog(kind, self.source, rng)
                except CallFailed as failure:
                    counted.drop(f"{kind}: call failed ({failure})")
                    continue
                except SandboxError as error:
                    counted.drop(f"{kind}: no sandbox", count - number)
                    logger("data_builders").warning("no dialogs of the kind %s: %s", kind, error)
                    return
                if dialog is None:
                    continue  # this draw allows no dialog of the kind
                if self._offers_excluded(dialog):
                    counted.drop("offers a function of an evaluation")
                    continue
                yield number, dialog
                break

    def _offers_excluded(self, dialog: ExecutedDialog) -> bool:
        names = (name for each in dialog.offered for name in (each.tool.spec.name, each.task.name))
        return not self.excluded.isdisjoint(map(name_key, names))


def sft_row(dialog: ExecutedDialog) -> SFTRow:
    tools = tools_text(list(dialog.tools))
    identity = row_id("tasks", tools, *(message.model_dump_json() for message in dialog.messages))
    return SFTRow(id=identity, source=f"tasks/{dialog.kind}", messages=dialog.messages, tools=tools)


def training_rows(
    sampler: DialogSampler, counts: Mapping[DialogKind, int]
) -> tuple[RowSet[SFTRow], dict[str, ExecutedDialog]]:
    """(a row of each dialog, the dialog of each row by the row's id). counts: dialogs of each kind."""
    rows: RowSet[SFTRow] = RowSet()
    dialogs: dict[str, ExecutedDialog] = {}
    for kind, count in counts.items():
        for _, dialog in sampler.dialogs(kind, count, rows):
            row = sft_row(dialog)
            rows.keep(row)
            dialogs[row.id] = dialog
    return rows, dialogs


def pair_rows(sampler: DialogSampler, counts: Mapping[DialogKind, int], limit_seed: int) -> RowSet[PreferenceRow]:
    """Pairs from dialogs of their own. counts: pairs of each kind; further ones are dropped by a seeded choice."""
    pairs: RowSet[PreferenceRow] = RowSet()
    for kind, count in counts.items():
        part: RowSet[PreferenceRow] = RowSet()
        for number, (_, dialog) in enumerate(sampler.dialogs(kind, count, part)):
            rng = random.Random(fingerprint_of(sampler.seed, "pair", kind, number))
            for pair in wrong_call_pairs(dialog, "tasks", rng):
                part.keep(pair)
        part.limit(count, limit_seed)
        pairs.add(part)
    return pairs


def held_out_rows(
    sampler: DialogSampler, counts: Mapping[DialogKind, int]
) -> tuple[RowSet[SFTRow], RowSet[ToolQuestionRow]]:
    """(single messages, dialogs to run live) of the held-out domains. counts: dialogs of each kind.

    The sampler's source must not rename functions, so that a registry of the domain's file can answer the calls.
    """
    single: RowSet[SFTRow] = RowSet()
    dialogs: RowSet[ToolQuestionRow] = RowSet()
    for kind, count in counts.items():
        for _, dialog in sampler.dialogs(kind, count, dialogs):
            row = sft_row(dialog)
            asked = next(place for place, message in enumerate(dialog.messages) if message.role == "user") + 1
            if kind != "multi-step":
                single.keep(row.model_copy(update={"messages": dialog.messages[: asked + 1]}))
            calls = tuple(record.call for record in dialog.records if record.ok)
            dialogs.keep(
                ToolQuestionRow(
                    id=row.id,
                    source=f"{row.source}/{_domain_name(dialog, sampler.source.domains)}",
                    tools=row.tools,
                    prompt=dialog.messages[:asked],
                    calls=calls,
                    answers=(dialog.final,) if calls and not dialog.final.startswith(("{", "[")) else (),
                )
            )
    return single, dialogs


def _domain_name(dialog: ExecutedDialog, domains: Sequence[Domain]) -> str:
    """The domain of the first function called; of the first one offered if none is called."""
    name = dialog.records[0].call.name if dialog.records else dialog.offered[0].tool.spec.name
    task = next(each.task for each in dialog.offered if each.tool.spec.name == name)
    return next(domain.name for domain in domains if task in domain.tasks)


def without_similar_tasks(held: Domain, trained: Sequence[Domain]) -> Domain:
    """A held-out domain without the tasks that are similar to a trained one, and without the chains that use them.

    Two tasks are similar if they share a name, or three quarters of the held-out function's parameters (two or more).
    Example: `get_shop_price` and `shops.shop_price` share a name, whatever their parameters are.
    """
    tasks = [task for domain in trained for task in domain.tasks]
    keys = {name_key(name) for task in tasks for name in (task.name, *task.other_names)}
    parameters = [set(signature(task.function).parameters) for task in tasks]

    def is_similar(task: Task) -> bool:
        own = set(signature(task.function).parameters)
        alike = any(len(own & others) > 1 and 4 * len(own & others) >= 3 * len(own) for others in parameters)
        return alike or not keys.isdisjoint(name_key(name) for name in (task.name, *task.other_names))

    kept = tuple(task for task in held.tasks if not is_similar(task))
    functions = {task.function for task in kept}
    chains = tuple(chain for chain in held.chains if {chain.first, chain.second} <= functions)
    return Domain(held.name, kept, chains)
