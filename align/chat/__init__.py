"""Chat protocols: messages to token ids with the kind and turn of each token, and generated ids back to messages."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from align.chat.agreement import Comparison, compare
from align.chat.calls import CallSyntax
from align.chat.chatml import ChatML
from align.chat.llama3 import Llama3
from align.chat.native import Native
from align.chat.pieces import PieceProtocol
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
    "Native",
    "TokenKind",
    "adopt_template",
    "load_protocol",
    "protocol_of_template",
]

log = logger(__name__)

PROTOCOLS: dict[str, type[PieceProtocol]] = {protocol.name: protocol for protocol in (Llama3, ChatML)}
_ANNOUNCED: set[tuple[str, str]] = set()


RECORD = "align_chat"
"""Key of tokenizer_config.json in which a checkpoint records that it was trained with `native`, and the settings."""


def load_protocol(
    tokenizer: PreTrainedTokenizerFast,
    name: str = "auto",
    syntax: CallSyntax | None = None,
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    today: str | None = None,
    stop_ids: Iterable[int] = (),
) -> ChatProtocol:
    """The protocol of that name over a tokenizer. Its `template_summary` says whose template it is.

    `auto` takes `native` for a checkpoint that was trained with it. Else it takes the first protocol of this project
    whose control tokens the tokenizer knows, and by which the tokenizer's own chat template, where it has one, writes
    dialogs (`align/chat/agreement.py`). A protocol that is named replaces any template. Both report once what sets the
    template that they replace apart.

    syntax: how it writes calls; None for that of the tokenizer's template, where the template is one that training here
        has saved, else for the protocol's own way.
    template_kwargs, today, stop_ids: as in `Native`, which alone reads them. What the checkpoint has recorded is used
        for each variable that template_kwargs does not name, and for the date.
    Raises ConfigError for a name that is none, a syntax that the protocol has not, a tokenizer without the protocol's
    control tokens, or, under `auto`, a template that writes other control tokens or role names; and as `Native` does.
    """
    recorded = tokenizer.init_kwargs.get(RECORD) or {}
    if name == "native" or (name == "auto" and recorded):
        variables = {**(recorded.get("chat_template_kwargs") or {}), **(template_kwargs or {})}
        today = today or recorded.get("chat_date")
        return _announced(Native(tokenizer, syntax, variables=variables, today=today, stop_ids=stop_ids))
    if template_kwargs or today:
        key = "model.chat_template_kwargs" if template_kwargs else "model.chat_date"
        what = f"is for the tokenizer's own chat template, and model.chat is {name}"
        raise ConfigError(key, what, "Set model.chat: native, or remove this setting")
    if syntax is None:
        saved = protocol_of_template(tokenizer)
        if saved is not None and name in ("auto", saved.name):
            saved.template_summary = "the template of this project that the checkpoint was saved with"
            return saved
    if name != "auto":
        if name not in PROTOCOLS:
            known = ", ".join(["auto", "native", *sorted(PROTOCOLS)])
            raise ConfigError("model.chat", f"expected one of {known}, found {name!r}", "Name one of these")
        protocol = PROTOCOLS[name](tokenizer, syntax)
        return _announced(protocol, _compared(tokenizer, protocol))
    conflicts = {}
    for candidate in PROTOCOLS.values():
        if all(mark in tokenizer.get_vocab() for mark in candidate.marks):
            found = _compared(tokenizer, candidate(tokenizer))
            if found.conflict is None:
                return _announced(candidate(tokenizer, syntax), found)
            conflicts[candidate.name] = found.conflict
    model = tokenizer.name_or_path or "this model"
    own = "set model.chat: native to use the tokenizer's own template"
    if conflicts:
        what = "; ".join(f"not as {name} does: {conflict}" for name, conflict in conflicts.items())
        how = f"Either {own}, or model.chat: {next(iter(conflicts))} to train the model on that protocol all the same"
        raise ConfigError("model.chat", f"the chat template of {model} writes dialogs {what}", how)
    needed = "; ".join(f"{protocol.name}: {', '.join(protocol.marks)}" for protocol in PROTOCOLS.values())
    what = f"the tokenizer of {model} has the control tokens of no protocol ({needed})"
    if tokenizer.chat_template:
        raise ConfigError("model.chat", what, f"It has a chat template: {own}")
    raise ConfigError("model.chat", what, "Use an instruct model's tokenizer, or add the control tokens and train them")


def adopt_template(tokenizer: PreTrainedTokenizerFast, protocol: ChatProtocol) -> None:
    """Give a tokenizer the protocol's template, and the record by which `chat: auto` finds `native` again."""
    tokenizer.chat_template = protocol.chat_template
    tokenizer.init_kwargs.pop(RECORD, None)
    if protocol.saved_settings:
        tokenizer.init_kwargs[RECORD] = protocol.saved_settings


def protocol_of_template(tokenizer: PreTrainedTokenizerFast) -> ChatProtocol | None:
    """The protocol with which a tokenizer was saved by training here; None for any other template."""
    recorded = tokenizer.init_kwargs.get(RECORD)
    if recorded:
        return load_protocol(tokenizer)
    for name, protocol in PROTOCOLS.items():
        for syntax in protocol.syntaxes:
            if tokenizer.chat_template == template(name, syntax):
                return protocol(tokenizer, syntax)
    return None


def _compared(tokenizer: PreTrainedTokenizerFast, protocol: PieceProtocol) -> Comparison:
    """The tokenizer's template against the protocol's; no difference where it has none, or the protocol's own."""
    template_is_ours = any(tokenizer.chat_template == template(protocol.name, each) for each in protocol.syntaxes)
    return Comparison(None) if not tokenizer.chat_template or template_is_ours else compare(tokenizer, protocol)


def _announced(protocol: ChatProtocol, found: Comparison | None = None) -> ChatProtocol:
    """The protocol with its `template_summary`, which is logged once for each model if there is something to say.

    found: what sets the template that it replaces apart; None for `native`, which replaces none.
    """
    tokenizer, level, said = protocol.tokenizer, logging.INFO, protocol.template_summary
    if found is not None:
        differences = "; ".join([found.conflict, *found.harmless] if found.conflict else found.harmless)
        said = f"the checkpoint's chat template is replaced: {differences}" if differences else ""
        level = logging.WARNING if found.conflict else logging.INFO
        has_one = "writes the same dialogs" if tokenizer.chat_template else "is missing"
        other = said or f"the checkpoint's own {has_one}"
        protocol.template_summary = f"the {protocol.name} template of this project; {other}"
    line = (tokenizer.name_or_path, said)
    if said and line not in _ANNOUNCED:
        _ANNOUNCED.add(line)
        log.log(level, "%s: %s", line[0] or "this model", said)
    return protocol
