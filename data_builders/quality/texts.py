"""Which texts of a row the steps look at: its prompt, its answers, and all of it."""

from __future__ import annotations

from align.rows import Message, Messages, PreferenceRow, PromptRow, Row, SFTRow


def prompt_of(row: Row) -> Messages:
    """The messages before the target."""
    if isinstance(row, SFTRow):
        return row.messages[:-1]
    if isinstance(row, PreferenceRow | PromptRow):
        return row.prompt
    raise TypeError(f"no prompt in {type(row).__name__}")


def targets_of(row: Row) -> tuple[Messages, ...]:
    """The messages that are trained on, once for each completion: one of an SFT row, two or three of a preference, none
    of a prompt.
    """
    if isinstance(row, SFTRow):
        return (row.messages[-1:],)
    return row.completions if isinstance(row, PreferenceRow) else ()


def dialogs_of(row: Row) -> tuple[Messages, ...]:
    """Prompt and completion together, once for each completion; the prompt alone if there is none."""
    prompt = prompt_of(row)
    return tuple((*prompt, *target) for target in targets_of(row)) or (prompt,)


def answers_of(row: Row) -> tuple[Message, ...]:
    """What the assistant says in a row and a model should learn: all turns of an SFT row that are trained on, and the
    chosen completion of a preference. Rejected completions may be bad on purpose.
    """
    messages = row.messages if isinstance(row, SFTRow) else row.chosen if isinstance(row, PreferenceRow) else ()
    return tuple(message for message in messages if message.role == "assistant" and message.trained)


def final_answer(row: Row) -> str:
    """The text of the target; of a preference that of the chosen completion. Empty for a prompt."""
    targets = targets_of(row)
    return targets[0][-1].content if targets else ""


def texts_of(row: Row) -> list[str]:
    """The texts of prompt and completions, message by message."""
    return [*(message.content for message in prompt_of(row)), *target_texts(row)]


def whole_text(row: Row) -> str:
    """Prompt and completions as one text, without the roles."""
    return "\n".join(texts_of(row))


def target_texts(row: Row) -> list[str]:
    """The texts of the completions, message by message; none for a prompt."""
    return [message.content for target in targets_of(row) for message in target]


def asked_text(row: Row) -> str:
    """What the user says before the target, as one text; the whole prompt if the user says nothing."""
    said = [message.content for message in prompt_of(row) if message.role == "user"]
    return "\n".join(said or [message.content for message in prompt_of(row)])


def dialog_text(row: Row) -> str:
    """Prompt and first completion with their roles; calls are written as name and arguments."""
    lines = []
    for message in dialogs_of(row)[0]:
        calls = [f"{call.name} {call.arguments}" for call in message.tool_calls]
        lines.append(f"{message.role}: " + "\n".join(filter(None, (message.content, *calls))))
    return "\n".join(lines)


def calls_of(row: Row) -> list[tuple[str, str]]:
    """Name and arguments of each call in the row, in their order."""
    messages = [*prompt_of(row), *(message for target in targets_of(row) for message in target)]
    return [(call.name, repr(sorted(call.parsed().items()))) for message in messages for call in message.tool_calls]
