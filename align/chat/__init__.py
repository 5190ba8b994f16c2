"""Chat protocols: messages to token ids with the kind and turn of each token, and generated ids back to messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align.chat.calls import CallSyntax
from align.chat.chatml import ChatML
from align.chat.llama3 import Llama3
from align.chat.protocol import ChatProtocol, Encoded, TokenKind
from align.chat.templates import template
from align.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "PROTOCOLS",
    "ChatML",
    "ChatProtocol",
    "Encoded",
    "Llama3",
    "TokenKind",
    "load_protocol",
    "protocol_of_template",
]

PROTOCOLS: dict[str, type[ChatProtocol]] = {protocol.name: protocol for protocol in (Llama3, ChatML)}


def load_protocol(
    tokenizer: PreTrainedTokenizerFast, name: str = "auto", syntax: CallSyntax | None = None
) -> ChatProtocol:
    """The protocol of that name over a tokenizer; `auto` takes the one whose control tokens the tokenizer knows.

    syntax: how it writes calls; None for the protocol's own way.
    Raises ConfigError for a name that is none, a syntax that the protocol has not, or a tokenizer without the
    protocol's control tokens.
    """
    if name != "auto":
        if name not in PROTOCOLS:
            known = ", ".join(["auto", *sorted(PROTOCOLS)])
            raise ConfigError("model.chat", f"wanted one of {known}, found {name!r}", "Name one of these")
        return PROTOCOLS[name](tokenizer, syntax)
    vocabulary = tokenizer.get_vocab()
    for protocol in PROTOCOLS.values():
        if all(mark in vocabulary for mark in protocol.marks):
            return protocol(tokenizer, syntax)
    wanted = "; ".join(f"{protocol.name}: {', '.join(protocol.marks)}" for protocol in PROTOCOLS.values())
    raise ConfigError(
        "model.chat",
        f"the tokenizer of {tokenizer.name_or_path or 'this model'} has the control tokens of no protocol ({wanted})",
        "Use an instruct model's tokenizer, or add the control tokens and train them",
    )


def protocol_of_template(tokenizer: PreTrainedTokenizerFast) -> ChatProtocol | None:
    """The protocol, with its call syntax, whose saved template a tokenizer has; None for any other template."""
    for name, protocol in PROTOCOLS.items():
        for syntax in protocol.syntaxes:
            if tokenizer.chat_template == template(name, syntax):
                return protocol(tokenizer, syntax)
    return None
