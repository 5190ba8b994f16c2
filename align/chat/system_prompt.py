"""The system prompt that turns tools on, and tool results as messages.

A result is data: it is shortened here if it is too long, and encoded without control tokens, like every text.

Source: meta-llama/llama-models, models/llama3_1/prompt_format.md, for the system lines and their order.
"""

from __future__ import annotations

from align.chat.llama3 import ENVIRONMENT
from align.rows import Message
from align.settings import EnvironmentConfig
from align.tools.results import result_text


def system_text(config: EnvironmentConfig) -> str:
    """The system message's text: environment, tools and dates, a blank line, and the instructions.

    Edge: only what is set is written; today's date is never taken from the clock. Without a `Tools:` line there is a
        blank line before the dates, as in Meta's document.
    """
    lines = []
    if config.ipython:
        lines.append(ENVIRONMENT)
        if config.built_in:
            lines.append(f"Tools: {', '.join(config.built_in)}")
        elif config.knowledge_cutoff or config.today:
            lines.append("")
    if config.knowledge_cutoff:
        lines.append(f"Cutting Knowledge Date: {config.knowledge_cutoff}")
    if config.today:
        lines.append(f"Today Date: {config.today}")
    return "\n\n".join(part for part in ("\n".join(lines), config.instructions) if part)


def tool_message(result: str, name: str | None = None, *, max_characters: int) -> Message:
    """A tool's result as the message that the model reads.

    max_characters: `EnvironmentConfig.max_result_characters`. The middle of a longer result is cut out, see `capped`.
    """
    return Message(role="tool", content=result_text(result, max_characters), name=name)
