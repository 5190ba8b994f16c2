"""Tool prompts: the text that lists the available functions, for each call syntax, and the message it is put into.

Source: hermes, NousResearch/Hermes-Function-Calling, in our words; json, the chat template shipped with Llama 3.1
Instruct; function_tag, meta-llama/llama-models, models/llama3_1/prompt_format.md; python_list, the same,
models/llama3_2/text_prompt_format.md. Meta's document puts the prompts of json and function_tag into a user message
of their own; the template that Meta ships puts them at the beginning of the first one, and so does this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from align.chat.calls import CallSyntax, Part, joined, json_text
from align.errors import RowError
from align.rows import Message, ToolSpec, tools_of

HERMES_BEFORE = "You may call functions. Their signatures are within <tools></tools>:\n<tools>\n"
HERMES_AFTER = (
    "\n</tools>\nTo call one, write a JSON object with its name and arguments within <tool_call></tool_call>:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)

JSON_BEFORE = (
    "Given the following functions, please respond with a JSON for a function call with its proper arguments that best "
    'answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of argument '
    "name and its value}.Do not use variables.\n\n"
)

TAG_BEFORE = "You have access to the following functions:\n\n"
TAG_AFTER = (
    "Think very carefully before calling functions.\n"
    "If you choose to call a function ONLY reply in the following format with no prefix or suffix:\n\n"
    '<function=example_function_name>{"example_name": "example_value"}</function>\n\n'
    "Reminder:\n"
    "- If looking for real time information use relevant functions before falling back to brave_search\n"
    "- Function calls MUST follow the specified format, start with <function= and end with </function>\n"
    "- Required parameters MUST be specified\n"
    "- Only call one function at a time\n"
    "- Put the entire function call reply on one line\n\n"
)
TAG_TYPES = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "array": "list",
    "object": "dict",
}

TAG_KEYS = ("description", "type", "param_type", "required")
"""Keys that the function tag's document writes itself. An inner object's `required` is not written."""

PYTHON_BEFORE = (
    "You are an expert in composing functions. You are given a question and a set of possible functions.\n"
    "Based on the question, you will need to make one or more function/tool calls to achieve the purpose.\n"
    "If none of the function can be used, point it out. If the given question lacks the parameters required by the "
    "function,\nalso point it out. You should only return the function call in tools call sections.\n\n"
    "If you decide to invoke any of the function(s), you MUST put it in the format of "
    "[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]\n"
    "You SHOULD NOT include any other text in the response.\n\n"
    "Here is a list of functions in JSON format that you can invoke.\n\n"
)


@dataclass(frozen=True, slots=True)
class ToolPrompt:
    """How a call syntax lists functions in the prompt."""

    parts: Callable[[Sequence[ToolSpec]], list[Part]]
    """The published instructions may contain the tokenizer's own markers; descriptions of functions may not."""
    place: Literal["system", "user"]
    """system: at the end of the system message, which is added if missing. user: before the first question."""

    def text(self, tools: Sequence[ToolSpec]) -> str:
        return joined(self.parts(tools))


class Written(NamedTuple):
    """A message as it is written, without its calls."""

    turn: int
    """-1 for a system message that was added for the tool prompt."""
    message: Message
    parts: list[Part]
    """Its content, including the tool prompt if it is in this message."""


OWN_ROLES = ("assistant", "system")
"""Whose contents may hold the tokenizer's own markers: the model's, and those of whoever runs it."""


def with_tool_prompt(messages: Sequence[Message], tools: str, syntax: CallSyntax) -> list[Written]:
    """The messages, with the tool prompt in one of them if there are tools.

    Raises RowError if the syntax puts the prompt into the first user message and there is no user message.
    """
    written = [
        Written(turn, message, [Part(message.content, message.role in OWN_ROLES)])
        for turn, message in enumerate(messages)
    ]
    specs = tools_of(tools)
    if not specs:
        return written
    prompt = TOOL_PROMPTS[syntax]
    parts = prompt.parts(specs)
    if prompt.place == "system":
        if not messages or messages[0].role != "system":
            return [Written(-1, Message(role="system", content=joined(parts)), parts), *written]
        between = [Part("\n\n")] if messages[0].content else []
        written[0].parts.extend([*between, *parts])
        return written
    for each in written:
        if each.message.role == "user":
            each.parts[:0] = parts
            return written
    raise RowError(
        "messages",
        f"hold no user message, and the {syntax} syntax lists the functions in the first one",
        "Add a user message, or leave `tools` empty",
    )


def _hermes(tools: Sequence[ToolSpec]) -> list[Part]:
    schemas = "\n".join(json_text(tool.model_dump()) for tool in tools)
    return [Part(HERMES_BEFORE, own=True), Part(schemas), Part(HERMES_AFTER, own=True)]


def _json(tools: Sequence[ToolSpec]) -> list[Part]:
    schemas = ({"type": "function", "function": tool.model_dump()} for tool in tools)
    return [Part(JSON_BEFORE, own=True), Part("".join(json_text(schema, indent=4) + "\n\n" for schema in schemas))]


def _function_tag(tools: Sequence[ToolSpec]) -> list[Part]:
    listed = (
        f"Use the function '{tool.name}' to '{tool.description}':\n"
        + json_text({"name": tool.name, "description": tool.description, "parameters": _tag_parameters(tool)})
        + "\n\n"
        for tool in tools
    )
    return [Part(TAG_BEFORE, own=True), Part("".join(listed)), Part(TAG_AFTER, own=True)]


def _tag_parameters(tool: ToolSpec) -> dict[str, Any]:
    """Parameters in the order of the function tag's document; the other keys of a schema follow."""
    required = tool.parameters.get("required") or []
    found = {}
    for name, schema in (tool.parameters.get("properties") or {}).items():
        schema = schema if isinstance(schema, dict) else {}
        kind = schema.get("type", "string")
        found[name] = {
            "description": schema.get("description", ""),
            "param_type": TAG_TYPES.get(kind, kind) if isinstance(kind, str) else kind,
            "required": name in required,
            **{key: value for key, value in schema.items() if key not in TAG_KEYS},
        }
    return found


def _python_list(tools: Sequence[ToolSpec]) -> list[Part]:
    return [Part(PYTHON_BEFORE, own=True), Part(json_text([tool.model_dump() for tool in tools], indent=4))]


TOOL_PROMPTS: dict[CallSyntax, ToolPrompt] = {
    "hermes": ToolPrompt(_hermes, "system"),
    "json": ToolPrompt(_json, "user"),
    "function_tag": ToolPrompt(_function_tag, "user"),
    "python_list": ToolPrompt(_python_list, "system"),
}
