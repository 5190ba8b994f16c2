"""What a rater is shown, as plain values, and what comes back as messages. Blind: no model, source or id of a file."""

from __future__ import annotations

from typing import Any

from align.rows import Message, Messages, tools_of
from data_builders.annotation.store import Said, Store, Turn


def shown(store: Store, rater: str, turn: Turn | None, failure: str | None) -> dict[str, Any]:
    """The page's whole state for one rater.

    turn: where the rater is, None where nothing is left.
    failure: why no model answers the turn.
    """
    return {
        "rater": rater,
        "progress": store.progress(rater),
        "undo": store.last_judgement(rater),
        "live": store.goes_on,
        **({"kind": "done"} if turn is None else _turn(turn, failure)),
    }


def with_last_text(response: Messages, text: str) -> Messages:
    """The response with another text in its last message, its calls as they were."""
    *others, last = response
    return (*others, last.model_copy(update={"content": text}))


def place_of(turn: Turn, side: str) -> int:
    """The place of the response that stands left or right."""
    return 0 if (side == "left") == turn.first_is_left else 1


def turned(turn: Turn, grade: int) -> int:
    """A grade of left over right as one of the first response over the second, and back."""
    return grade if turn.first_is_left else -grade


def _turn(turn: Turn, failure: str | None) -> dict[str, Any]:
    here: dict[str, Any] = {
        "turn": turn.id,
        "number": turn.number,
        "dialog": _told(turn.prompt),
        "tools": [{"name": tool.name, "description": tool.description} for tool in tools_of(turn.tools)],
    }
    if turn.responses is None:
        return here | ({"kind": "waiting"} if failure is None else {"kind": "failed", "failure": failure})
    if turn.said is not None:
        return here | {"kind": "go_on", "dialog": _told((*turn.prompt, *turn.continued()))}
    left, right = (turn.responses[place_of(turn, side)] for side in ("left", "right"))
    return here | {
        "kind": "rate",
        "left": _told(left),
        "right": _told(right),
        "last_text": {"left": left[-1].content, "right": right[-1].content},
        "before": _before(turn, turn.before),
    }


def _before(turn: Turn, said: Said | None) -> dict[str, Any] | None:
    """A judgement that was taken back, to begin from."""
    if said is None:
        return None
    return {"grade": turned(turn, said.grade), "edited": said.edited[-1].content if said.edited else None}


def _told(messages: Messages) -> list[dict[str, str]]:
    return [{"role": message.role, "text": _text(message)} for message in messages]


def _text(message: Message) -> str:
    calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
    return "\n".join([message.content, *calls] if message.content else calls)
