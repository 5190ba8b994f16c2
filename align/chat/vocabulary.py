"""What a tokenizer's added tokens are to a chat protocol: none of them for typed text, and one of them for padding."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from align.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PADS = ("<|finetune_right_pad_id|>", "<|padding|>", "<|pad|>", "<pad>", "[PAD]", "<|reserved_special_token_0|>")
"""Tokens that vocabularies keep for padding or for no use, in the order in which they are tried."""
_ENDS = ("<|endoftext|>", "<|end_of_text|>")
"""Ends of documents: generation stops at them, but no message of a dialog ends with one."""


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
            return found
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


def _forget(added: set[str], model: dict) -> None:
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
