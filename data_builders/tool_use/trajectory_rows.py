"""Rows of sampled tool trajectories: to train on, and pairs of a right and a wrong next message.

Each trajectory was executed, so it is judged by the results of its calls and, if the prompt says what is expected, by
whether it calls at all and what it answers. `trajectories.py` samples them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Literal

from pydantic import Field

from align.judges.answers.values import holds
from align.rows import Messages, PreferenceRow, Row, SFTRow, ToolQuestionRow, row_id
from align.tools.replay import CallRecord
from data_builders.row_set import RowSet

Kind = Literal["no-call", "single-step", "multi-step", "mended"]  # codespell:ignore mended
"""The last part of a row's source; the last kind has a failed call that was corrected later, and multi-step has calls
in more than one message."""

REASONS = {"unknown-tool": "unknown function", "arguments": "arguments do not match the schema"}
"""Error of a call -> why a trajectory that never corrects it is dropped."""


class SampledTrajectory(Row):
    """One of the K trajectories of a prompt, as it was executed."""

    prompt_id: str
    prompt: Messages = Field(min_length=1)
    index: int = Field(ge=0)
    """Which of the K it is."""
    seed: int
    messages: Messages
    """The messages after the prompt."""
    ended: str
    """See `Ending` in `align/generation/tool_loop.py`."""
    reason: str = ""
    """What was wrong, if it ended badly."""
    records: tuple[CallRecord, ...] = ()
    """Its calls with their results, in the order in which they were made."""

    @property
    def failures(self) -> set[int]:
        """Places of the messages with a call that failed, or that could not be parsed."""
        places = {place for place, records in self.executed.items() if not all(record.ok for record in records)}
        return places | ({len(self.messages) - 1} if self.ended == "malformed call" else set())

    @property
    def executed(self) -> dict[int, tuple[CallRecord, ...]]:
        """Place of each message whose calls were made -> their records."""
        remaining = iter(self.records)
        found = {
            place: tuple(islice(remaining, len(message.tool_calls))) for place, message in enumerate(self.messages)
        }
        return {place: records for place, records in found.items() if records}


def reason_to_drop(trajectory: SampledTrajectory, question: ToolQuestionRow) -> str | None:
    """Why a trajectory is dropped, or None if it is kept. A failed call is accepted if later calls succeed."""
    records, executed = trajectory.records, trajectory.executed
    if trajectory.ended != "answered":
        return trajectory.ended
    if question.calls and not records:
        return "no call, though one is expected"
    if question.calls == () and records:
        return "a call, though none is expected"
    if executed and max(executed) in trajectory.failures:
        error = next(record.error for record in executed[max(executed)] if not record.ok) or ""
        every = not any(record.ok for record in records)
        return REASONS.get(error, "every call failed" if every else "the last call failed")
    said = trajectory.messages[-1].content
    if not said.strip():
        return "empty answer"
    if question.answers and not holds(said, question.answers):
        return "wrong answer"
    return None


def kind_of(trajectory: SampledTrajectory) -> Kind:
    """The kind of a trajectory that is kept."""
    if trajectory.failures:
        return "mended"  # codespell:ignore mended
    steps = len(trajectory.executed)
    return "no-call" if steps == 0 else "single-step" if steps == 1 else "multi-step"


def sft_rows(
    sampled: Sequence[SampledTrajectory], questions: Mapping[str, ToolQuestionRow], label: str
) -> tuple[RowSet[SFTRow], dict[str, SampledTrajectory]]:
    """(rows to train on and a count of the others, each row's trajectory by the row's id).

    A failed call stays in its dialog, so that the model learns to correct it, but is not trained on.
    """
    rows: RowSet[SFTRow] = RowSet()
    made_from = {}
    for each in sampled:
        reason = reason_to_drop(each, questions[each.prompt_id])
        if reason is not None:
            rows.drop(reason)
            continue
        said = tuple(
            message.model_copy(update={"trained": False}) if place in each.failures else message
            for place, message in enumerate(each.messages)
        )
        source = f"{label}/{kind_of(each)}"
        row = SFTRow(
            id=row_id(source, each.id),
            source=f"{source}/{each.source}",  # the prompt's source, whose licence applies to the row
            tools=each.tools,
            messages=each.prompt + said,
            made_from=(each.prompt_id,),
        )
        rows.keep(row)
        made_from[row.id] = each
    return rows, made_from


def preference_rows(
    sampled: Sequence[SampledTrajectory], questions: Mapping[str, ToolQuestionRow], label: str
) -> RowSet[PreferenceRow]:
    """For each trajectory with a failed call, a pair with the message of a trajectory that ended well.

    The pair is the first message in which the two differ, after the same context. If the first difference is a tool's
    output, there is no pair. The counts are of trajectories with a failed call.
    """
    groups: dict[str, list[SampledTrajectory]] = defaultdict(list)
    for each in sampled:
        groups[each.prompt_id].append(each)
    rows: RowSet[PreferenceRow] = RowSet()
    for prompt_id, group in groups.items():
        good = [each for each in group if reason_to_drop(each, questions[prompt_id]) is None]
        for bad in group:
            if not bad.failures:
                continue
            pair = next((found for each in good if (found := _pair(each, bad, label)) is not None), None)
            if pair is not None:
                rows.keep(pair)
            else:
                rows.drop("no good sample does better there" if good else "no good sample")
    return rows


def _pair(good: SampledTrajectory, bad: SampledTrajectory, label: str) -> PreferenceRow | None:
    """The first message in which they differ, if it fails in `bad` and not in `good`."""
    both = zip(good.messages, bad.messages, strict=False)
    place = next((place for place, (left, right) in enumerate(both) if left != right), None)
    if place is None or place not in bad.failures or place in good.failures:
        return None
    chosen, rejected = good.messages[place], bad.messages[place]
    if chosen.role != "assistant" or rejected.role != "assistant":
        return None
    source = f"{label}/next-message"
    return PreferenceRow(
        id=row_id(source, good.id, bad.id),
        source=f"{source}/{bad.source}",
        tools=bad.tools,
        prompt=bad.prompt + bad.messages[:place],
        completions=((chosen,), (rejected,)),
        made_from=(bad.prompt_id,),
    )
