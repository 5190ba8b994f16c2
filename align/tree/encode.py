"""Rows to prompt trees: a prompt once, its completions as branches. The only place where length limits act.

Every mask of the project is made here, from the kind and turn that the chat protocol gave each token:

    loss_mask      content and terminators of the assistant's messages: what SFT and the NLL term train on
    contrast_mask  content of the assistant's messages: what DPO contrasts (Llama 3, section 4.1.4)

Headers and tool outputs are in neither.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from align.chat.protocol import ChatProtocol, Encoded, TokenKind
from align.errors import RowError
from align.rows import Messages, PreferenceRow, SFTRow
from align.settings import PreferenceDataConfig, TreeDataConfig


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens. The three lists have one length."""

    ids: list[int]
    loss_mask: list[bool]
    contrast_mask: list[bool]


@dataclass(frozen=True, slots=True)
class PromptTree:
    """A prompt, and completions that each see the prompt and themselves only.

    Branch order is the row's: best first for preferences. Positions of every branch restart at the prompt's end.
    """

    id: str
    prompt: list[int]
    branches: tuple[Segment, ...]
    level: str | None = None
    """How much better chosen is than rejected, where somebody graded it."""

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(len(branch.ids) for branch in self.branches)


@dataclass(slots=True)
class Encodings:
    """Trees, and how many rows were dropped for which reason."""

    trees: list[PromptTree] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def encode_sft(
    rows: Sequence[SFTRow], protocol: ChatProtocol, data: TreeDataConfig, train_on: Literal["final", "all"]
) -> Encodings:
    """One tree with one branch for each row.

    train_on: "final" makes the messages after the last user (or system) message the completion; "all" puts every
    assistant message in the branch, with the messages between them masked.
    """
    found = Encodings()
    for row in rows:
        start = _completion_start(row.messages, train_on)
        _keep(_tree(row.id, row.messages[:start], [row.messages[start:]], row.tools, protocol, found), data, found)
    return found


def encode_preferences(
    rows: Sequence[PreferenceRow], protocol: ChatProtocol, data: PreferenceDataConfig, *, pairs: bool = False
) -> Encodings:
    """One tree for each row, with its two or three completions as branches, best first.

    pairs: keep the best and the worst only, which is what DPO contrasts. Rows graded below `data.levels` and rows whose
    completions are the same tokens are dropped and counted.
    """
    found = Encodings()
    for row in rows:
        if row.level is not None and row.level not in data.levels:
            found.dropped[f"level is {row.level}"] += 1
            continue
        completions = (row.chosen, row.rejected) if pairs else row.completions
        tree = _tree(row.id, row.prompt, completions, row.tools, protocol, found)
        if tree is not None and len({tuple(branch.ids) for branch in tree.branches}) < len(tree.branches):
            found.dropped["completions are the same"] += 1
            continue
        _keep(tree and replace(tree, level=row.level), data, found)
    return found


def encode_completions(
    row_id: str, prompt: Messages, completions: Sequence[Messages], tools: str, protocol: ChatProtocol
) -> PromptTree:
    """K completions of one prompt as a tree.

    The prompt ends with an opened assistant header, exactly as it stands before generation.
    """
    opened = protocol.encode(prompt, tools, open_assistant=True).ids
    dialogs = [(*prompt, *completion) for completion in completions]
    wholes = protocol.encode_many([(dialog, tools) for dialog in dialogs])
    branches = (_branch(dialog, whole, opened) for dialog, whole in zip(dialogs, wholes, strict=True))
    return PromptTree(row_id, opened, tuple(branches))


def _branch(dialog: Messages, whole: Encoded, opened: list[int]) -> Segment:
    assert whole.ids[: len(opened)] == opened, "the prompt that was opened is not how the dialog begins"
    kinds = whole.kinds[len(opened) :]
    ours = [_role_of(dialog, turn) == "assistant" for turn in whole.turns[len(opened) :]]
    said = [kind in (TokenKind.CONTENT, TokenKind.TERMINATOR) for kind in kinds]
    return Segment(
        ids=whole.ids[len(opened) :],
        loss_mask=[mine and spoken for mine, spoken in zip(ours, said, strict=True)],
        contrast_mask=[mine and kind == TokenKind.CONTENT for mine, kind in zip(ours, kinds, strict=True)],
    )


def _role_of(messages: Sequence, turn: int) -> str:
    """The role of a token's message; what the protocol itself put in belongs to the system."""
    return messages[turn].role if 0 <= turn < len(messages) else "system"


def _completion_start(messages: Messages, train_on: Literal["final", "all"]) -> int:
    """Index of the first message of the completion: always an assistant message."""
    roles = [message.role for message in messages]
    if train_on == "all":
        return roles.index("assistant")
    last_asked = max((place for place, role in enumerate(roles) if role in ("user", "system")), default=-1)
    return roles.index("assistant", last_asked + 1)


def _tree(
    row_id: str,
    prompt: Messages,
    completions: Sequence[Messages],
    tools: str,
    protocol: ChatProtocol,
    found: Encodings,
) -> PromptTree | None:
    """The row's tree; None, and counted, where the protocol has no form for it (Llama 3: two calls in a message)."""
    try:
        return encode_completions(row_id, prompt, completions, tools, protocol)
    except RowError as error:
        found.dropped[f"no form in the {protocol.name} protocol: {error.what}"] += 1
        return None


def _keep(tree: PromptTree | None, data: TreeDataConfig, found: Encodings) -> None:
    if tree is None:
        return
    longest = max(len(branch.ids) for branch in tree.branches)
    if len(tree.prompt) > data.max_prompt_tokens:
        found.dropped["prompt is longer than max_prompt_tokens"] += 1
    elif longest > data.max_completion_tokens:
        found.dropped["completion is longer than max_completion_tokens"] += 1
    elif tree.tokens > data.token_budget:
        found.dropped["tree is larger than token_budget"] += 1
    elif not all(any(branch.loss_mask) for branch in tree.branches):
        found.dropped["nothing to train on"] += 1
    else:
        found.trees.append(tree)


def require_trees(found: Encodings, where: object) -> list[PromptTree]:
    """The trees, or an error that says where they went."""
    if not found.trees:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.dropped.most_common()) or "no rows"
        raise RowError(
            where, f"no row is left to train on ({reasons})", "Raise the limits under data, or mend the rows"
        )
    return found.trees
