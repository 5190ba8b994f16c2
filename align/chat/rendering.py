"""Render dialogs with a tokenizer's own chat template, as `apply_chat_template` does.

Two things differ from `apply_chat_template`, which this module shares its Jinja environment with: the date that a
template writes is a setting and never the clock's, and the stretches that `{% generation %}` marks are returned with
the text. Tests compare the ids with those of `apply_chat_template`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from transformers.utils.chat_template_utils import _compile_jinja_template

from align.errors import AlignError, ConfigError, RowError, first_line
from align.rows import Message, tools_of

if TYPE_CHECKING:
    from jinja2 import Template
    from transformers import PreTrainedTokenizerFast

ELSE = "Change or drop such rows, or use a protocol of this project: model.chat: chatml or llama3"
"""How to fix a row that the template does not write as it is."""

RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now")
"""Variables of a template that are no settings."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A dialog as the template writes it."""

    text: str
    marked: tuple[tuple[int, int], ...] = ()
    """Start and end of each stretch between `{% generation %}` and `{% endgeneration %}`, in characters."""


class Renderer:
    """A tokenizer's chat template with its settings.

    variables: given to the template, such as {"enable_thinking": False}.
    today: the date that the template writes where it asks for the current one, as `2024-07-26`; None to refuse a
        template that asks for it.
    Raises ConfigError if the tokenizer has no template, or one that is not Jinja, or that does not read a variable.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, variables: Mapping[str, Any], today: str | None) -> None:
        self._given = tokenizer, variables, today
        self.variables = {**tokenizer.special_tokens_map, **variables}
        self.today = today
        self.asked_for_today = False
        self._name = tokenizer.name_or_path or "this model"
        if not tokenizer.chat_template:
            what = f"native needs the tokenizer's chat template, and {self._name} has none"
            raise ConfigError("model.chat", what, "Name a protocol of this project: chatml or llama3")
        if not isinstance(tokenizer.chat_template, str):
            what = (
                f"{self._name} has several chat templates ({', '.join(tokenizer.chat_template)}), and native uses one"
            )
            raise ConfigError("model.chat", what, "Keep one, as chat_template.jinja in a copy of the folder")
        try:
            self._template = self._compiled(tokenizer.chat_template)
        except Exception as error:  # of many kinds: the text is not ours
            what = f"the chat template of {self._name} cannot be read ({str(error)[:200]})"
            raise ConfigError("model.chat", what, "Name a protocol of this project: chatml or llama3") from None
        for name in variables:
            if name in RESERVED or not re.search(rf"\b{re.escape(name)}\b", tokenizer.chat_template):
                what = f"the chat template of {self._name} reads no variable {name}"
                raise ConfigError("model.chat_template_kwargs", what, "Remove it, or correct its name")

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: it compiles the template itself, since a compiled one cannot be pickled."""
        return type(self), self._given

    def render(
        self,
        messages: Sequence[Message],
        tools: str = "",
        *,
        open_assistant: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> Rendered:
        """A dialog as text. variables: replaces those of the constructor with the same names.

        Raises RowError if the template fails, ConfigError if it asks for the current date and none is set.
        """
        blocks: list[str] = []
        marked: list[tuple[int, int]] = []
        try:
            with self._template.environment.activate_tracker(blocks, marked):  # type: ignore[attr-defined]
                for block in self._template.generate(
                    messages=[_as_dict(message) for message in messages],
                    tools=[{"type": "function", "function": tool.model_dump()} for tool in tools_of(tools)] or None,
                    documents=None,
                    add_generation_prompt=open_assistant,
                    **{**self.variables, **(variables or {})},
                ):
                    blocks.append(block)  # one at a time: the markers count the characters of the blocks before them
        except AlignError:
            raise
        except Exception as error:  # a template is a program of others, and may fail in any way
            raise RowError("messages", f"the chat template fails: {first_line(error)}", ELSE) from None
        return Rendered("".join(blocks), tuple(marked))

    def _compiled(self, text: str) -> Template:
        environment = _compile_jinja_template("").environment
        fixed: Template = environment.from_string(text, globals={"strftime_now": self._strftime})
        return fixed

    def _strftime(self, form: str) -> str:
        """Replaces `strftime_now`, so that what is trained on does not depend on the day of training."""
        self.asked_for_today = True
        if self.today is None:
            what = f"the chat template of {self._name} writes the current date into each dialog"
            how = (
                'Set a fixed date, such as model.chat_date: "2024-07-26", or a protocol that writes none: model.chat: '
            )
            raise ConfigError("model.chat_date", what, f"{how}chatml or llama3")
        return date.fromisoformat(self.today).strftime(form)


def _as_dict(message: Message) -> dict[str, Any]:
    """A message in the form that templates read; arguments are an object, as servers give them to templates."""
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        found["name"] = message.name
    if message.tool_calls:
        found["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.parsed()}}
            for call in message.tool_calls
        ]
    return found
