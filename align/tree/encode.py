"""Encode rows as prompt trees: the prompt once, its completions as branches. Length limits are applied here only.

All masks are made here, from the kind and the turn that the chat protocol gives each token:

    loss_mask      content and terminators of the assistant's messages: what SFT and the NLL term train on
    contrast_mask  content of the assistant's messages: what DPO contrasts (Llama 3, section 4.1.4)

Headers and tool outputs are in neither, nor is a message that says `trained: false`.

Rows stream through in chunks, each with one call of the tokenizer, so memory does not grow with their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from align.chat.protocol import ChatProtocol, Dialog, EncodedDialogs, TokenKind
from align.errors import RowError
from align.reporting import logger
from align.rows import Messages, PreferenceRow, Row, SFTRow, completion_start
from align.settings import PreferenceDataConfig, TreeDataConfig

log = logger(__name__)

CHUNK_ROWS = 512
"""Rows that are encoded with one call of the tokenizer."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A run of S tokens."""

    ids: np.ndarray  # [S] int32
    loss_mask: np.ndarray  # [S] bool
    contrast_mask: np.ndarray  # [S] bool


@dataclass(frozen=True, slots=True, eq=False)
class PromptTree:
    """A prompt, and completions that each see the prompt and themselves only.

    Branch order is the row's: best first for preferences. Positions of every branch restart at the prompt's end.
    """

    id: str
    prompt: np.ndarray  # [P] int32
    branches: tuple[Segment, ...]
    level: str | None = None
    """How much better chosen is than rejected; None if it was not graded."""

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(len(branch.ids) for branch in self.branches)

    @property
    def unshared_tokens(self) -> int:
        """Tokens if each completion had a copy of the prompt, as in trainers without prompt trees."""
        return self.tokens + len(self.prompt) * (len(self.branches) - 1)

    @property
    def labels(self) -> int:
        """Tokens under the loss mask."""
        return sum(int(np.count_nonzero(branch.loss_mask)) for branch in self.branches)

    @property
    def attended(self) -> int:
        """Pairs of a token and a token that it sees, itself included.

        Example: a prompt of 2 tokens with branches of 1 and 2 has 3 + (2 + 1) + (4 + 3) = 13, the number of x in the
        mask that `align/tree/attention.py` draws.
        """
        prompt = len(self.prompt)
        lengths = [len(branch.ids) for branch in self.branches]
        return prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in lengths)


class Ask(NamedTuple):
    """A prompt with the completions that are to become a tree."""

    id: str
    prompt: Messages
    completions: Sequence[Messages]
    tools: str = ""
    level: str | None = None


class Dropped(NamedTuple):
    """Why a row makes no tree."""

    reason: str
    """For the count."""
    error: RowError | None = None
    """What is wrong with this row, if its reason does not say it all."""
    stops: bool = False
    """Whether the error ends the run."""


AskOf = Callable[[Any], Ask | Dropped]
"""What a row asks for: `sft_ask` or `preference_ask` with its settings."""


def sft_ask(row: SFTRow, *, train_on: Literal["final", "all"]) -> Ask:
    """A prompt with one completion.

    train_on: "final" makes the messages after the last user (or system) message the completion; "all" puts every
    assistant message in the branch, with the messages between them masked.
    """
    start = completion_start(row.messages, train_on)
    return Ask(row.id, row.messages[:start], [row.messages[start:]], row.tools)


def preference_ask(row: PreferenceRow, *, data: PreferenceDataConfig, pairs: bool = False) -> Ask | Dropped:
    """A prompt with two or three completions, best first.

    pairs: keep the best and the worst only, which is what DPO contrasts. A row graded below `data.levels` is dropped.
    """
    if row.level is not None and row.level not in data.levels:
        return Dropped(f"level is {row.level}")
    return Ask(row.id, row.prompt, (row.chosen, row.rejected) if pairs else row.completions, row.tools, row.level)


def encode_sft(
    rows: Iterable[SFTRow],
    protocol: ChatProtocol,
    data: TreeDataConfig,
    train_on: Literal["final", "all"],
    dropped: Counter[str],
) -> Iterator[PromptTree]:
    """One tree with one branch for each row (`sft_ask`); what is left out is counted in `dropped` by its reason."""
    return _encoded(rows, partial(sft_ask, train_on=train_on), protocol, data, dropped)


def encode_preferences(
    rows: Iterable[PreferenceRow],
    protocol: ChatProtocol,
    data: PreferenceDataConfig,
    *,
    pairs: bool = False,
    dropped: Counter[str],
) -> Iterator[PromptTree]:
    """One tree for each row, with its two or three completions as branches, best first (`preference_ask`).

    Rows whose completions are the same tokens and all else that is left out are counted in `dropped`.
    """
    return _encoded(rows, partial(preference_ask, data=data, pairs=pairs), protocol, data, dropped)


def encode_rows(
    rows: Iterable[Row], ask_of: AskOf, protocol: ChatProtocol, data: TreeDataConfig
) -> Iterator[PromptTree | Dropped]:
    """The tree of each row, or why it has none, with one call of the tokenizer for all rows."""
    asks = [ask_of(row) for row in rows]
    trees = iter(list(_trees([ask for ask in asks if isinstance(ask, Ask)], protocol)))
    for ask in asks:
        yield ask if isinstance(ask, Dropped) else _kept(ask, next(trees), protocol, data)


def count_dropped(row_id: str, found: Dropped, dropped: Counter[str]) -> None:
    """Count a row that makes no tree; the first of a reason that needs more words is named in the log. Raises its error
    if it stops the run.
    """
    if found.stops:
        assert found.error is not None
        raise found.error
    if found.error is not None and not dropped[found.reason]:
        log.warning("row %s is the first that is dropped for this reason: %s", row_id, found.error)
    dropped[found.reason] += 1


def encode_completions(asks: Sequence[Ask], protocol: ChatProtocol) -> list[PromptTree]:
    """A tree for each prompt with its completions, with one call of the tokenizer.

    The prompt ends with an opened assistant header, as it does for generation.
    Raises RowError for a dialog that the protocol cannot express.
    """
    found = list(_trees(asks, protocol, exact=False))
    for tree in found:
        if isinstance(tree, RowError):
            raise tree
    return [tree for tree in found if isinstance(tree, PromptTree)]


def require_trees(trees: int, dropped: Counter[str], where: object) -> None:
    """Raise RowError with the reasons of all dropped rows if no tree is left."""
    if not trees:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common()) or "no rows"
        raise RowError(
            where, f"no row is left to train on ({reasons})", "Raise the limits under data, or correct the rows"
        )


def _encoded(
    rows: Iterable[SFTRow | PreferenceRow],
    ask_of: AskOf,
    protocol: ChatProtocol,
    data: TreeDataConfig,
    dropped: Counter[str],
) -> Iterator[PromptTree]:
    for chunk in _chunks(rows, CHUNK_ROWS):
        for row, found in zip(chunk, encode_rows(chunk, ask_of, protocol, data), strict=True):
            if isinstance(found, Dropped):
                count_dropped(row.id, found, dropped)
            else:
                yield found


def _trees(asks: Sequence[Ask], protocol: ChatProtocol, *, exact: bool = True) -> Iterator[PromptTree | RowError]:
    """The tree of each ask, or the error if the protocol cannot express it (Llama 3: two calls in one message)."""
    dialogs: list[Dialog] = []
    for _, prompt, completions, tools, _ in asks:
        dialogs.append(Dialog(prompt, tools, open_assistant=True))
        wholes = [(*prompt, *completion) for completion in completions]
        dialogs.extend(Dialog(whole, tools, start=len(prompt), exact=exact) for whole in wholes)
    encoded = protocol.encode_dialogs(dialogs)
    loss_mask, contrast_mask = _masks(dialogs, encoded)
    starts = encoded.starts.tolist()
    place = 0
    for ask in asks:
        dialog, place = place, place + 1 + len(ask.completions)
        refused = [encoded.refused[d] for d in range(dialog, place) if d in encoded.refused]
        if refused:
            yield refused[0]
            continue
        prompt_ids = encoded.ids[starts[dialog] : starts[dialog + 1]]
        branches = []
        for whole in range(dialog + 1, place):
            start, end = starts[whole] + len(prompt_ids), starts[whole + 1]
            begins = encoded.ids[starts[whole] : start]
            assert np.array_equal(begins, prompt_ids), "the prompt that was opened is not how the dialog begins"
            branches.append(Segment(encoded.ids[start:end], loss_mask[start:end], contrast_mask[start:end]))
        yield PromptTree(ask.id, prompt_ids, tuple(branches), ask.level)


def _masks(dialogs: Sequence[Dialog], encoded: EncodedDialogs) -> tuple[np.ndarray, np.ndarray]:
    """The loss mask and the contrast mask of every token.

    The turn of a token is the index of its message; -1 for text that the protocol itself adds, and len(messages) for an
    opened header. These two belong to no message. Example: dialog 0 has two messages, the second by the assistant, and
    dialog 1 has one message and an opened header:

        ours      F F T F   F F F         one value before and one after the messages of each dialog
        firsts    1         5             where message 0 of a dialog is: a token of turn t reads firsts + t
    """
    ours: list[bool] = []
    firsts: list[int] = []
    for dialog in dialogs:
        firsts.append(len(ours) + 1)
        ours += [False, *(message.role == "assistant" and message.trained for message in dialog.messages), False]
    message = np.repeat(np.array(firsts, np.int64), np.diff(encoded.starts)) + encoded.turns
    trained = np.array(ours, bool)[message] if len(message) else np.empty(0, bool)
    contrast_mask = trained & (encoded.kinds == TokenKind.CONTENT)
    return contrast_mask | (trained & (encoded.kinds == TokenKind.TERMINATOR)), contrast_mask


def _kept(ask: Ask, tree: PromptTree | RowError, protocol: ChatProtocol, data: TreeDataConfig) -> PromptTree | Dropped:
    if isinstance(tree, RowError):
        return Dropped(f"no form in the {protocol.name} protocol: {tree.what}", tree)
    branches = tree.branches
    if len(branches) > 1 and len({branch.ids.tobytes() for branch in branches}) < len(branches):
        return Dropped("completions are the same")
    if len(tree.prompt) > data.max_prompt_tokens:
        return Dropped("prompt is longer than max_prompt_tokens")
    if max(len(branch.ids) for branch in branches) > data.max_completion_tokens:
        return Dropped("completion is longer than max_completion_tokens")
    if not all(branch.loss_mask.any() for branch in branches):
        return Dropped("nothing to train on")
    if tree.tokens <= data.token_budget or data.over_budget == "alone":
        return tree
    reason = "tree is larger than token_budget"
    if data.over_budget == "error":
        what = f"has {tree.tokens} tokens, and data.token_budget is {data.token_budget}"
        how = "Raise data.token_budget, or set data.over_budget to drop or alone"
        return Dropped(reason, RowError(f"row {ask.id}", what, how), stops=True)
    return Dropped(reason)


T = TypeVar("T")


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
