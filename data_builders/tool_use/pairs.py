"""Message-level preference pairs for tool use: the right next message against a wrong one, in the same context.

The wrong messages have the mistakes of small models: a value that the user did not give, an argument left out, made up
or misnamed, a number as text, another function, text in place of a call, a call in place of text. Tool outputs are
always context: each completion is one assistant message.

Source: message-level annotation of tool use, Llama 3 (arXiv:2407.21783), section 4.3.5.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from typing import Any

from align.rows import Message, PreferenceRow, ToolCall, row_id, tools_text
from align.tools.registry import Registry
from data_builders.tool_use.dialogs.dialog import ExecutedDialog, request
from data_builders.tool_use.dialogs.renaming import Offered

MakeWrong = Callable[[dict[str, Any], Offered, random.Random], dict[str, Any] | None]


def wrong_call_pairs(dialog: ExecutedDialog, label: str, rng: random.Random) -> Iterator[PreferenceRow]:
    """A pair for each message that can be made wrong: every call, and text where no function should be called."""
    for place, message in enumerate(dialog.messages):
        if message.role != "assistant":
            continue
        if message.tool_calls:
            failed = place + 1 < len(dialog.messages) and dialog.messages[place + 1].content.startswith("Error:")
            found = None if failed else _wrong(message, dialog, rng)
        elif dialog.kind in ("none-right", "restraint"):
            found = "needless call", _needless(dialog, rng)
        else:
            found = None
        if found is not None:
            what, wrong = found
            tools = tools_text(list(dialog.tools))
            context = dialog.messages[:place]
            yield PreferenceRow(
                id=row_id(label, what, tools, *(each.model_dump_json() for each in (*context, message, wrong))),
                source=f"{label}/{what}",
                tools=tools,
                prompt=context,
                completions=((message,), (wrong,)),
            )


def _wrong(message: Message, dialog: ExecutedDialog, rng: random.Random) -> tuple[str, Message] | None:
    """(what is wrong, the message with one of its calls made wrong); None if no wrong form changes the result."""
    at = rng.randrange(len(message.tool_calls))
    call = message.tool_calls[at]
    offered = next(each for each in dialog.offered if each.tool.spec.name == call.name)
    if rng.random() < 0.15:
        return "no call", Message(role="assistant", content=rng.choice(NO_CALL))
    others = [each.tool.spec.name for each in dialog.offered if each is not offered]
    if others and rng.random() < 0.3:
        return "wrong function", _with(message, at, ToolCall(name=rng.choice(others), arguments=call.arguments))
    names = list(_WAYS)
    registry = Registry([offered.tool])
    right = registry.call(call).text
    for what in rng.sample(names, len(names)):
        arguments = _WAYS[what](call.parsed(), offered, rng)
        if arguments is None or arguments == call.parsed():
            continue
        wrong = ToolCall(name=call.name, arguments=arguments)
        if registry.call(wrong).text != right:  # another way to the same result (a default spelled out) is not wrong
            return what, _with(message, at, wrong)
    return None


NO_CALL = (
    "Sure, I can help with that. What else do you need?",
    "I have done that for you.",
    "I don't have a function for this request.",
    "None of the functions that I have can do that.",
    "Let me think about it. The result should be clear soon.",
)
"""Texts without a call, where a call is right."""


def _with(message: Message, at: int, call: ToolCall) -> Message:
    calls = list(message.tool_calls)
    calls[at] = call
    return message.model_copy(update={"tool_calls": tuple(calls)})


def _needless(dialog: ExecutedDialog, rng: random.Random) -> Message:
    """A call of an offered function, with arguments that the user did not give."""
    offered = rng.choice(dialog.offered)
    call = offered.call(request(offered.task, rng).arguments)
    return Message(role="assistant", tool_calls=(call,))


def _other_value(arguments: dict[str, Any], offered: Offered, rng: random.Random) -> dict[str, Any] | None:
    """One value is replaced: a number that is off, or a text that the user did not say."""
    name = rng.choice(list(arguments)) if arguments else None
    return None if name is None else {**arguments, name: _off(arguments[name], rng)}


def _off(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value * 10, value + rng.randint(1, 9), value // 10, value / 100))
    if isinstance(value, float):
        return rng.choice((round(value * 10, 4), round(value + rng.randint(1, 9), 4), int(value)))
    if isinstance(value, list):
        return value[:-1] if len(value) > 1 and rng.random() < 0.6 else [_off(each, rng) for each in value]
    if isinstance(value, str):
        words = value.split()
        if len(words) > 1:
            return " ".join(rng.choice((words[:-1], words[1:], [*words, words[0]])))
        if re.fullmatch(r"[\d:.-]+", value):
            return re.sub(r"\d(?=\D*$)", lambda digit: str((int(digit.group()) + rng.randint(1, 9)) % 10), value)
        return rng.choice((value[:-2] or value + "s", f"{value} {value}", value.upper() + "_ID"))
    return None


def _left_out(arguments: dict[str, Any], offered: Offered, rng: random.Random) -> dict[str, Any] | None:
    if not arguments:
        return None
    dropped = rng.choice(list(arguments))
    return {name: value for name, value in arguments.items() if name != dropped}


def _made_up(arguments: dict[str, Any], offered: Offered, rng: random.Random) -> dict[str, Any] | None:
    """An argument that the user did not give: an optional one, or one that the function does not have."""
    free = [
        (other, offered.task.arguments[name])
        for name, other in offered.names.items()
        if other not in arguments and name in offered.task.arguments
    ]
    if free:
        name, sampler = rng.choice(free)
        return {**arguments, name: sampler(rng).value}
    return {
        **arguments,
        rng.choice(("unit", "format", "language", "options", "verbose")): rng.choice(("default", True)),
    }


def _misnamed(arguments: dict[str, Any], offered: Offered, rng: random.Random) -> dict[str, Any] | None:
    if not arguments:
        return None
    name = rng.choice(list(arguments))
    real = next(own for own, other in offered.names.items() if other == name)
    taken = offered.names.values()
    others = [
        each for each in (real, *offered.task.other_parameter_names.get(real, ())) if each != name and each not in taken
    ]
    wrong = rng.choice(others or [f"{name}_value"])
    return {wrong if key == name else key: value for key, value in arguments.items()}


def _as_text(arguments: dict[str, Any], offered: Offered, rng: random.Random) -> dict[str, Any] | None:
    numbers = [name for name, value in arguments.items() if isinstance(value, int | float | list)]
    if not numbers:
        return None
    name = rng.choice(numbers)
    return {**arguments, name: str(arguments[name])}


_WAYS: dict[str, MakeWrong] = {
    "other value": _other_value,
    "argument left out": _left_out,
    "argument made up": _made_up,
    "argument misnamed": _misnamed,
    "number as text": _as_text,
}
