"""Chat protocols: messages to token ids with the kind and turn of each token, and generated ids back to messages."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from align.chat.agreement import Comparison, compare
from align.chat.calls import CallSyntax
from align.chat.chatml import ChatML
from align.chat.llama3 import Llama3
from align.chat.protocol import ChatProtocol, Encoded, TokenKind
from align.chat.templates import template
from align.errors import ConfigError
from align.reporting import logger

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

log = logger(__name__)

PROTOCOLS: dict[str, type[ChatProtocol]] = {protocol.name: protocol for protocol in (Llama3, ChatML)}
_ANNOUNCED: set[tuple[str, str]] = set()


def load_protocol(
    tokenizer: PreTrainedTokenizerFast, name: str = "auto", syntax: CallSyntax | None = None
) -> ChatProtocol:
    """The protocol of that name over a tokenizer.

    `auto` takes the first one whose control tokens the tokenizer knows, and by which the tokenizer's own chat template,
    where it has one, writes dialogs (`align/chat/agreement.py`). A protocol that is named replaces any template. Both
    report once what sets the template that they replace apart.

    syntax: how it writes calls; None for that of the tokenizer's template, where the template is one that training here
        has saved, else for the protocol's own way.
    Raises ConfigError for a name that is none, a syntax that the protocol has not, a tokenizer without the protocol's
    control tokens, or, under `auto`, a template that writes other control tokens or role names.
    """
    if syntax is None:
        saved = protocol_of_template(tokenizer)
        if saved is not None and name in ("auto", saved.name):
            return saved
    if name != "auto":
        if name not in PROTOCOLS:
            known = ", ".join(["auto", *sorted(PROTOCOLS)])
            raise ConfigError("model.chat", f"expected one of {known}, found {name!r}", "Name one of these")
        protocol = PROTOCOLS[name](tokenizer, syntax)
        _announce(tokenizer, _compared(tokenizer, protocol))
        return protocol
    conflicts = {}
    for candidate in PROTOCOLS.values():
        if all(mark in tokenizer.get_vocab() for mark in candidate.marks):
            found = _compared(tokenizer, candidate(tokenizer))
            if found.conflict is None:
                protocol = candidate(tokenizer, syntax)
                _announce(tokenizer, found)
                return protocol
            conflicts[candidate.name] = found.conflict
    model = tokenizer.name_or_path or "this model"
    if conflicts:
        what = "; ".join(f"not as {name} does: {conflict}" for name, conflict in conflicts.items())
        how = f"Start from another model, or set model.chat: {next(iter(conflicts))} to train it on that protocol"
        raise ConfigError("model.chat", f"the chat template of {model} writes dialogs {what}", f"{how} all the same")
    needed = "; ".join(f"{protocol.name}: {', '.join(protocol.marks)}" for protocol in PROTOCOLS.values())
    raise ConfigError(
        "model.chat",
        f"the tokenizer of {model} has the control tokens of no protocol ({needed})",
        "Use an instruct model's tokenizer, or add the control tokens and train them",
    )


def protocol_of_template(tokenizer: PreTrainedTokenizerFast) -> ChatProtocol | None:
    """The protocol, with its call syntax, whose saved template a tokenizer has; None for any other template."""
    for name, protocol in PROTOCOLS.items():
        for syntax in protocol.syntaxes:
            if tokenizer.chat_template == template(name, syntax):
                return protocol(tokenizer, syntax)
    return None


def _compared(tokenizer: PreTrainedTokenizerFast, protocol: ChatProtocol) -> Comparison:
    """The tokenizer's template against the protocol's; no difference where it has none, or the protocol's own."""
    template_is_ours = any(tokenizer.chat_template == template(protocol.name, each) for each in protocol.syntaxes)
    return Comparison(None) if not tokenizer.chat_template or template_is_ours else compare(tokenizer, protocol)


def _announce(tokenizer: PreTrainedTokenizerFast, found: Comparison) -> None:
    """One line for a template that is replaced, once for each model."""
    differences = "; ".join([found.conflict, *found.harmless] if found.conflict else found.harmless)
    line = (tokenizer.name_or_path, differences)
    if differences and line not in _ANNOUNCED:
        _ANNOUNCED.add(line)
        level = logging.WARNING if found.conflict else logging.INFO
        log.log(level, "%s: the checkpoint's chat template is replaced: %s", line[0] or "this model", differences)
