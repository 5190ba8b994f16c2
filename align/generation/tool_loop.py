"""Dialogs with tools: the model calls, its calls are executed, and it continues until it answers.

All open dialogs take a step together, so that each step is one large batch. The context of the next step is encoded
from messages, as training encodes them, and not from the ids that the model wrote: a call with unusual spacing is
written in the standard way. A tool's result is data: nothing in it is parsed or templated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from align.chat.protocol import ChatProtocol, Dialog
from align.chat.system_prompt import tool_message
from align.files import fingerprint_of
from align.generation.backend import Completion
from align.generation.engine import GenerationEngine
from align.rows import Message, Messages, PromptRow
from align.tools.replay import Tools

Ending = Literal["answered", "malformed call", "not finished", "too many calls", "no room", "no form"]
"""answered: a message without calls. malformed call: text that looks like a call and cannot be read as one. not
finished: a message that ran into the length limit. too many calls: the last message that was allowed still calls. no
room: the dialog became longer than the engine's prompts may be. no form: the protocol cannot express a message.

The calls of a message are executed, except those of a message that ends the dialog (not finished, too many calls)."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A prompt, and the messages that followed it."""

    row: PromptRow
    seed: int
    messages: Messages
    """The model's messages, and a tool message for each call that was executed."""
    ended: Ending
    reason: str = ""
    """What is wrong with a malformed call, or why the protocol has no form; empty for the other endings."""


def run_dialogs(
    rows: Sequence[PromptRow],
    engine: GenerationEngine,
    tools: Sequence[Tools],
    *,
    seeds: Sequence[int],
    max_calls: int = 10,
    max_result_characters: int,
) -> list[Trajectory]:
    """The dialog of each row, in their order. The same row may occur several times, with different seeds.

    tools: for each row, what answers its calls, in the order in which the model wrote them; usually a `Recorder`. An
        error is a result like any other: the model reads it and continues.
    seeds: one for each row. Every step of a dialog samples with its own seed (`step_seed`), so that a trajectory does
        not depend on the other dialogs of the batch.
    max_calls: how often the model is called in one dialog. Llama's reference loop allows 10 (llama-stack's
        `max_infer_iters`).
    max_result_characters: as in `EnvironmentConfig`.

    Edge: a prompt that is too long, or that the protocol cannot express, ends at once without a message.
    """
    assert max_calls >= 1
    dialogs = [_OpenDialog(row, answering, seed, []) for row, answering, seed in zip(rows, tools, seeds, strict=True)]
    for step in range(max_calls):
        open_dialogs = [dialog for dialog in dialogs if dialog.ended is None]
        for dialog, completion in _completed(_encoded(open_dialogs, engine), engine, step):
            dialog.take(completion, engine.protocol, last=step + 1 == max_calls)
        for dialog in open_dialogs:
            dialog.execute(max_result_characters)
    return [dialog.trajectory() for dialog in dialogs]


def call_results(message: Message, tools: Tools, max_result_characters: int) -> list[Message]:
    """Make the calls of an assistant message, in their order. Returns a tool message for each."""
    return [
        tool_message(tools.call(call).text, call.name, max_characters=max_result_characters)
        for call in message.tool_calls
    ]


def step_seed(seed: int, step: int) -> int:
    """The seed of one step of a dialog: 48 bits, like the seed of a candidate."""
    return int(fingerprint_of("step", seed, step)[:12], 16)


@dataclass(slots=True)
class _OpenDialog:
    """A dialog that has not ended yet."""

    row: PromptRow
    tools: Tools
    seed: int
    messages: list[Message]
    ended: Ending | None = None
    reason: str = ""

    def end(self, ended: Ending, reason: str = "") -> None:
        self.ended, self.reason = ended, reason

    def take(self, completion: Completion, protocol: ChatProtocol, last: bool) -> None:
        """Append what the model wrote, and end the dialog if there is nothing to execute."""
        found = protocol.parse_calls(completion.ids)
        self.messages.append(Message(role="assistant", content=found.text, tool_calls=found.calls))
        if not completion.finished:
            self.end("not finished")
        elif found.malformed:
            self.end("malformed call", found.malformed)
        elif not found.calls:
            self.end("answered")
        elif last:
            self.end("too many calls")

    def execute(self, max_result_characters: int) -> None:
        """Append the results of the last message's calls, unless the dialog has ended."""
        if self.ended is None:
            self.messages += call_results(self.messages[-1], self.tools, max_result_characters)

    def trajectory(self) -> Trajectory:
        assert self.ended is not None
        return Trajectory(self.row, self.seed, tuple(self.messages), self.ended, self.reason)


def _encoded(dialogs: Sequence[_OpenDialog], engine: GenerationEngine) -> dict[tuple[int, ...], list[_OpenDialog]]:
    """Prompt ids -> the dialogs with this prompt, which share its prefill. Ends dialogs that cannot continue."""
    encoded = engine.protocol.encode_dialogs(
        [Dialog((*dialog.row.prompt, *dialog.messages), dialog.row.tools, open_assistant=True) for dialog in dialogs]
    )
    asked: dict[tuple[int, ...], list[_OpenDialog]] = {}
    for place, dialog in enumerate(dialogs):
        start, end = encoded.starts[place : place + 2].tolist()
        if place in encoded.refused:
            dialog.end("no form", str(encoded.refused[place]))
        elif end - start > engine.max_prompt_tokens:
            dialog.end("no room")
        else:
            asked.setdefault(tuple(encoded.ids[start:end].tolist()), []).append(dialog)
    return asked


def _completed(
    asked: dict[tuple[int, ...], list[_OpenDialog]], engine: GenerationEngine, step: int
) -> list[tuple[_OpenDialog, Completion]]:
    """Each dialog with its next completion."""
    if not asked:
        return []
    seeds = [[step_seed(dialog.seed, step) for dialog in sharing] for sharing in asked.values()]
    completions = engine.generate(list(asked), seeds)
    return [
        (dialog, completion)
        for sharing, group in zip(asked.values(), completions, strict=True)
        for dialog, completion in zip(sharing, group, strict=True)
    ]
