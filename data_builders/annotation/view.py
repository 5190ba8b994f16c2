"""Convert turns to what the page shows, and what the page sends back to messages and grades.

Raters are blind: no name of a model, source or file is sent to the page.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

from pydantic import TypeAdapter, ValidationError

from align.errors import RowError
from align.rows import Message, Messages, ToolCall, strict_json, tools_of
from data_builders.annotation.rendering import render
from data_builders.annotation.store import Store, StoredJudgement, Turn


def rater_state(store: Store, rater: str, turn: Turn | None, failure: str | None) -> dict[str, Any]:
    """Return the complete state of the page for one rater.

    turn: the rater's current turn; None if nothing is left to compare.
    failure: why the models cannot answer the turn, or its calls cannot be made; None if they can.
    """
    return {
        "rater": rater,
        "progress": store.progress(rater),
        "undo": store.last_judgement(rater),
        "live": store.multi_turn,
        **({"kind": "done"} if turn is None else _turn(store, turn, failure)),
    }


def with_last_text(response: Messages, text: str, calls: tuple[ToolCall, ...] | None = None) -> Messages:
    """Return the response with another text, and other calls unless they are None, in its last message."""
    *others, last = response
    changed = {"content": text, "tool_calls": last.tool_calls if calls is None else calls}
    return (*others, last.model_copy(update=changed))


def calls_text(message: Message) -> str:
    """Return the calls of a message as a rater edits them: a JSON list, empty for none.

    Example: `[{"name": "look", "arguments": {"for": "x"}}]`, with line breaks.
    """
    calls = [{"name": call.name, "arguments": call.parsed()} for call in message.tool_calls]
    return json.dumps(calls, indent=1, ensure_ascii=False) if calls else ""


def calls_of(text: str) -> tuple[ToolCall, ...]:
    """Read calls as `calls_text` writes them. Raises RowError for another form."""
    try:
        found = strict_json(text) if text.strip() else []
        return tuple(TypeAdapter(list[ToolCall]).validate_python(found))
    except ValueError as error:  # not JSON, or a ValidationError of pydantic, which is one too
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        how = 'Write a list such as [{"name": "look", "arguments": {"for": "x"}}], or leave it empty for no call'
        raise RowError("calls", f"cannot be read ({reason})", how) from None


def response_index(turn: Turn, side: str) -> int:
    """Return the index of the response that is shown on this side."""
    return 0 if (side == "left") == turn.first_is_left else 1


def flip_grade(turn: Turn, grade: int) -> int:
    """Convert a grade of left over right to one of the first response over the second, or the other way round."""
    return grade if turn.first_is_left else -grade


def _turn(store: Store, turn: Turn, failure: str | None) -> dict[str, Any]:
    here: dict[str, Any] = {
        "turn": turn.id,
        "number": turn.number,
        "dialog": _texts(turn.prompt),
        "tools": [{"name": tool.name, "description": tool.description} for tool in tools_of(turn.tools)],
    }
    if turn.responses is None:
        return here | ({"kind": "waiting"} if failure is None else {"kind": "failed", "failure": failure})
    if turn.judgement is not None:
        here["dialog"] = _texts((*turn.prompt, *turn.continuation()))
        if not store.awaits_tools(turn):
            return here | {"kind": "go_on"}
        return here | ({"kind": "running"} if failure is None else {"kind": "failed", "failure": failure})
    edits_calls = bool(turn.tools) or store.runs_tools
    left, right = (turn.responses[response_index(turn, side)] for side in ("left", "right"))
    return here | {
        "kind": "rate",
        "left": _texts(left),
        "right": _texts(right),
        "last_text": {"left": left[-1].content, "right": right[-1].content},
        "last_calls": {"left": calls_text(left[-1]), "right": calls_text(right[-1])} if edits_calls else None,
        "before": _before(turn, turn.withdrawn_judgement),
    }


def _before(turn: Turn, undone: StoredJudgement | None) -> dict[str, Any] | None:
    """Return the judgement that the rater has undone, from which the page starts again."""
    if undone is None:
        return None
    last = undone.edited[-1] if undone.edited else None
    return {
        "grade": flip_grade(turn, undone.grade),
        "edited": last and last.content,
        "edited_calls": last and calls_text(last),
    }


def _texts(messages: Messages) -> list[dict[str, str]]:
    """Return role, text and, if it can be rendered, HTML of each message.

    The results of tools are data and are shown as they are; the page inserts a message without `html` as text.
    """
    return [{"role": message.role, "text": _text(message), **_html(message)} for message in messages]


def _text(message: Message) -> str:
    calls = _calls(message)
    return "\n".join([message.content, *calls] if message.content else calls)


def _html(message: Message) -> dict[str, str]:
    html = None if message.role == "tool" else render(message.content)
    if html is None:
        return {}
    return {"html": html + "".join(f"<pre><code>{escape(call)}</code></pre>" for call in _calls(message))}


def _calls(message: Message) -> list[str]:
    return [f"{call.name}({call.arguments})" for call in message.tool_calls]
