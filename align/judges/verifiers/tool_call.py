"""Verifies tool calls: each call parses, and fits the JSON schema of a function that the prompt offers."""

from __future__ import annotations

import re

from align.chat.calls import SYNTAXES
from align.judges.verifiers.verifier import Failure, Verifier
from align.rows import Frozen, Messages, tools_of
from align.tools.results import library
from align.tools.schema import call_problem

# A marker or an object that begins a line, a marker or a name with its object inside one, a closing marker at the end.
_LOOKS_LIKE_A_CALL = re.compile(
    r"""^[ \t]*(?:<tool_call>|<function=|<\|python_tag\|>|\{)
    |(?:<tool_call>|<function=[^<>{}\s]*>)\s*\{|\{\s*["'](?:name|type)["']\s*:
    |</(?:tool_call|function)>\s*\Z""",
    re.MULTILINE | re.VERBOSE,
)


class ToolCallEntry(Frozen):
    """What a prompt requires of the calls."""

    required: bool = False
    """Whether at least one call must be made."""


class ToolCallVerifier(Verifier[ToolCallEntry]):
    """Checks the calls of a completion. Every prompt that offers functions is verified, also without an entry.

    Which function is called with which values is not judged: only that the call can be executed.
    """

    entry = ToolCallEntry

    def __init__(self) -> None:
        library("jsonschema")  # a missing library is reported before anything is sampled

    def default_entry(self, tools: str, prompt: Messages = ()) -> ToolCallEntry | None:
        return ToolCallEntry() if tools else None

    def failure(self, completion: Messages, entry: ToolCallEntry, tools: str = "") -> Failure | None:
        """See `Verifier.failure`. Reasons: "no call", "call cannot be parsed", and those of `CallProblem`."""
        offered = tools_of(tools) if tools else ()
        calls = [call for message in completion for call in message.tool_calls]
        for call in calls:
            problem = call_problem(offered, call)
            if problem is not None:
                return Failure(problem.reason, problem.detail)
        if offered:
            for message in completion:
                text = _unparsed_call(message.content) if message.role == "assistant" else None
                if text is not None:
                    return Failure("call cannot be parsed", text)
        return Failure("no call") if entry.required and not calls else None


def _unparsed_call(text: str) -> str | None:
    """What is wrong with a call that is left in the text of a message; None if the text has no call.

    The protocol takes calls out of the text, so one that is still there is malformed or in another syntax:
        <tool_call>{"name": "f"}</tool_call>      malformed: it has no arguments
        [f(x)]                                    text: mathematics writes it too, so only whole calls count here
        The tag <tool_call> begins a call.        text: a marker inside a line, without an object behind it
    """
    for name, syntax in SYNTAXES.items():
        found = syntax.parse(text)
        if found.calls:
            return f"a call in the {name} syntax is left in the text"
        if found.malformed is not None and name != "python_list" and _LOOKS_LIKE_A_CALL.search(text):
            return f"{name}: {found.malformed}"
    return None
