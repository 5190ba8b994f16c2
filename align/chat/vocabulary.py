"""What a tokenizer's added tokens are to a chat protocol, and which one pads.

A tokenizer finds its added tokens anywhere in a text, whoever wrote it. A protocol goes by their kind:

    control   special tokens, the protocol's own marks, stop ids, bos, eos, pad and unk, and every token written with
              bars, as `<|memo|>`: placed by the protocol alone. Typed in any content they stay text.
    marker    `<think>` and the tags of calls, whatever their flag, and every other token that is not special and is
              written with brackets, as `<answer>`: the token where the protocol writes it, and in the contents of
              assistant and system messages, as a server reads them. In what a user, a tool or a function's description
              says, and in the arguments of a call, they were typed, and stay text.
    word      any other token that is not special, such as a name or a run of spaces: the token in every text.

So an encoded dialog has the ids that a server's tokenizer gives for the text of the saved template, unless somebody
typed a control token, or a marker where none is taken for one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer

from align.chat.calls import HERMES_CLOSE, HERMES_OPEN, TAG_CLOSE, TAG_OPEN, Part
from align.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PADS = ("<|finetune_right_pad_id|>", "<|padding|>", "<|pad|>", "<pad>", "[PAD]", "<|reserved_special_token_0|>")
"""Tokens that vocabularies keep for padding or for no use, in the order in which they are tried."""
_ENDS = ("<|endoftext|>", "<|end_of_text|>")
"""Ends of documents: generation stops at them, but no message of a dialog ends with one."""

MARKERS = frozenset(
    {"<think>", "</think>", "<tools>", "</tools>", "<tool_response>", "</tool_response>"}
    | {HERMES_OPEN, HERMES_CLOSE, TAG_OPEN, TAG_CLOSE}
)
"""Added tokens that are never control tokens, even where a tokenizer calls them special."""
_BARS = re.compile(r"[|｜]")
_BRACKETS = re.compile(r"[<>\[\]{}]")


class OwnTokens:
    """The added tokens of a tokenizer that texts may hold: markers and words.

    control: ids that no text may contain, in addition to the tokenizer's special tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, control: Collection[int]) -> None:
        named = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
        found = {
            number: token
            for number, token in tokenizer.added_tokens_decoder.items()
            if number not in named
            and number not in control
            and token.content not in _PADS
            and (token.content in MARKERS or not (token.special or _BARS.search(token.content)))
            and tokenizer.backend_tokenizer.decode([number], skip_special_tokens=False) == token.content
        }
        words = [token for token in found.values() if not _is_marker(token)]
        self.tokenizer = tokenizer
        self.ids = {token.content: number for number, token in found.items()}
        self._special = {number: token.content for number, token in found.items() if token.special}
        self._in_typed, self._in_own = _pattern(words), _pattern(found.values())

    def split(self, parts: Sequence[Part]) -> Iterator[str | int]:
        """Texts and token ids, in order. Stretches of text between two tokens are one text, as the tokenizer has them.

        With `<think>` an added token, "a <think>b" in an own part and "c <think>" in a typed one behind it give
        "a ", the id of <think>, "bc <think>".
        """
        text = ""
        for part in parts:
            pattern = self._in_own if part.own else self._in_typed
            position = 0
            for found in pattern.finditer(part.text) if pattern else ():
                if text + part.text[position : found.start()]:
                    yield text + part.text[position : found.start()]
                yield self.ids[next(filter(None, found.groups()))]
                text, position = "", found.end()
            text += part.text[position:]
        yield text

    def text(self, ids: Sequence[int]) -> str:
        """Plain text of content ids, in which control tokens are left out and markers are kept."""
        decode = self.tokenizer.backend_tokenizer.decode
        if not self._special:
            value: str = decode(list(ids), skip_special_tokens=True)
            return value
        return "".join(
            "".join(self._special[token] for token in group)
            if marked
            else decode(list(group), skip_special_tokens=True)
            for marked, group in groupby(ids, self._special.__contains__)
        )


def _is_marker(token: AddedToken) -> bool:
    return token.content in MARKERS or bool(_BRACKETS.search(token.content))


def _pattern(tokens: Collection[AddedToken]) -> re.Pattern[str] | None:
    """What finds added tokens in a text as `tokenizers` does: the leftmost, and of several the longest.

    A token with lstrip or rstrip takes the white space at that side; a single word has no letter or digit next to it.
    """
    if not tokens:
        return None
    found = []
    for token in sorted(tokens, key=lambda token: -len(token.content)):
        text = f"({re.escape(token.content)})"
        text = rf"(?<!\w){text}(?!\w)" if token.single_word else text
        found.append((r"\s*" if token.lstrip else "") + text + (r"\s*" if token.rstrip else ""))
    return re.compile("|".join(found))


def padding_id(
    tokenizer: PreTrainedTokenizerFast,
    terminators: Collection[int],
    stop_ids: Collection[int],
    opening: int,
    *,
    rows: int | None = None,
) -> int:
    """The id to pad with: a token of the vocabulary that is never the last token of a dialog.

    A reward model of transformers reads its score at the last token that is not padding. SmolLM2 pads with
    `<|im_end|>`, so for `... Paris <|im_end|>` that class reads the score at `Paris`, where it was never trained.

    The tokenizer's own pad token is kept unless it ends messages; one at which generation stops is kept only where the
    vocabulary has no token for padding. No token is added, because the embedding has no row for it.

    opening: the token that begins a message, used when nothing else is left. It never ends a dialog.
    rows: rows of the embedding; a tokenizer may know tokens that the model has no row for.
    """
    names = (*_PADS, *_ENDS, tokenizer.eos_token, tokenizer.unk_token)
    vocabulary = tokenizer.get_vocab()
    own = tokenizer.pad_token_id
    first = own if own not in stop_ids else None
    named = [vocabulary.get(name) for name in names if name is not None]
    candidates = (first, *named[: len(_PADS)], own, *named[len(_PADS) :])
    for found in candidates:
        if found is not None and found not in terminators and (rows is None or found < rows):
            return int(found)
    return opening


def segment_tokenizer(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the tokenizer that adds nothing and recognises no added token, special or not: text stays text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(
            f"tokenizer of {tokenizer.name_or_path or 'this model'}",
            f"expected a fast tokenizer, found {type(tokenizer).__name__}",
            "Save the model with its tokenizer.json",
        )
    state = json.loads(backend.to_str())
    added = {token["content"] for token in state["added_tokens"]}
    state.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    _forget(added, state["model"])
    return Tokenizer.from_str(json.dumps(state))


def _forget(added: set[str], model: dict[str, Any]) -> None:
    """Take added tokens out of the model's vocabulary, save ordinary words that merges make and need.

    A BPE that looks a whole word up before merging (`ignore_merges`) would find them there.
    """
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not added & vocabulary.keys():
        return
    needed = {model.get("unk_token")}
    for merge in model.get("merges", ()):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        needed |= {left, right, left + right}
    for token in added - needed:
        vocabulary.pop(token, None)
