"""Which models packed prompt trees are exact for, and why other models are refused.

Packed trees replace a model's attention by `align/tree/attention.py`, and read log-probabilities and scores without the
model's own last lines. Where that would give other numbers than the model's own forward pass, the checks here stop the
run and name the setting of config.json that is the cause. They look at the config and at module names, so they cost
nothing; what they do not know is left to the check before the first step (`align/trainers/checks.py`), which runs the
model's own forward pass, and to the attention function, which refuses every argument that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from align.errors import CheckError, ConfigError
from align.reporting import logger
from align.tree.attention import TreeLayout
from align.tree.encode import PromptTree
from align.tree.store import TreeStore

log = logger(__name__)

KEY = "model.path"

_DENSE_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
_POSITION_TABLES = {"wpe", "embed_positions", "position_embedding", "position_embeddings"}
_DROPOUTS = ("attention_dropout", "attn_pdrop", "attn_dropout", "attention_probs_dropout_prob")


class Limit(NamedTuple):
    """The longest sequence (a prompt with one of its completions) for which packed trees are exact."""

    tokens: int
    cause: str
    """The setting, such as `sliding_window=4096`."""
    effect: str
    """What differs beyond it."""


def require_open_attention(config: Any, name: str) -> None:
    """Raise ConfigError if the attention of a model with this config cannot be replaced. name: for the message.

    Call it before the model is made: some classes fail with a KeyError on an implementation that they do not know.
    """
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    for kind in model if isinstance(model, tuple) else (model,):
        if kind is not None and not kind.is_backend_compatible():
            what = (
                f"{name} is a {kind.__name__}, which does not call attention through transformers' AttentionInterface"
            )
            raise ConfigError(KEY, f"{what}; packed trees need to replace it", _OTHER)


def refuse_inexact(model: Any) -> None:
    """Raise ConfigError if a loaded model has layers that packed trees cannot compute, whatever the rows are."""
    config = model.config.get_text_config()
    if config is not model.config:
        _refuse(model, "parts for images or sound", "packed trees hold text only")
    cap = getattr(config, "attn_logit_softcapping", None)
    if cap:
        _refuse(model, f"attn_logit_softcapping={cap:g}", "packed trees attend without a cap on the logits")
    kinds = set(getattr(config, "layer_types", None) or ())
    for kind in sorted(kinds - _DENSE_LAYERS):
        _refuse(model, f"layers of the type {kind}", "the completions of a packed row would read each other's state")
    if getattr(model, "_is_stateful", False):
        _refuse(model, "recurrent layers", "the completions of a packed row would read each other's state")
    if getattr(config, "use_bidirectional_attention", None) or getattr(config, "is_causal", True) is False:
        _refuse(model, "bidirectional attention", "in packed trees a token sees what is before it only")
    for name, module in model.named_modules():
        if getattr(module, "sinks", None) is not None:
            _refuse(model, f"attention sinks ({name}.sinks)", "packed trees attend without them")


def refuse_untrainable(model: Any) -> None:
    """Raise ConfigError for a model that can score packed trees, but cannot be trained on them."""
    config = model.config.get_text_config()
    for name in _DROPOUTS:
        if share := getattr(config, name, 0):
            what = "a dropped attention weight would differ between completions that share a prompt"
            how = f"Set {name} to 0 in the checkpoint's config.json, as most post-training recipes do"
            raise ConfigError(KEY, f"{named(model)} has {name}={share:g}: {what}", how)
    for name, _ in model.named_modules():
        if name.rpartition(".")[2] == "experts":
            what = "its router's auxiliary loss is not computed here, and its fused expert weights are not saved"
            _refuse(model, f"a mixture of experts ({name})", what)


def require_reached(model: Any, layout: TreeLayout) -> None:
    """Raise ConfigError if a forward pass of a packed row has not attended by its layout."""
    if not layout.reached:
        what = f"the attention of {named(model)} was called without the packed row's layout"
        raise ConfigError(KEY, f"{what}; a {type(model).__name__} does not pass it on", _OTHER)


def length_limit(model: Any) -> Limit | None:
    """The least of the lengths up to which the model's attention sees all, and its positions do not depend on others.

    A window of 4096 changes nothing for a sequence of at most 4096 tokens. `dynamic` and `longrope` positions switch
    for a whole packed row when one sequence in it is longer than the switch.
    """
    config = model.config.get_text_config()
    limits = [*_limits(config), *_learned_positions(model)]
    return min(limits, default=None, key=lambda limit: limit.tokens)


def warn_of_untrained_positions(model: Any, trees: Iterable[PromptTree]) -> None:
    """Log a warning if a sequence is longer than config.max_position_embeddings: rotary positions go on beyond it, and
    the model has not been trained there.
    """
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most and (longest := longest_sequence(trees, floor=most)) > most:
        log.warning(
            "the longest prompt with its completion has %d tokens, and %s was made for at most %d "
            "(max_position_embeddings); lower data.max_prompt_tokens or data.max_completion_tokens unless it is meant",
            longest,
            named(model),
            most,
        )


def require_within(limit: Limit | None, longest: int, where: str = KEY) -> None:
    """Raise ConfigError if a sequence of `longest` tokens is longer than the model's limit."""
    if limit is not None and longest > limit.tokens:
        what = f"{limit.cause} is smaller than a prompt with its completion ({longest} tokens); {limit.effect}"
        how = (
            "Lower data.max_prompt_tokens and data.max_completion_tokens until both fit together, or name another model"
        )
        raise ConfigError(where, what, how)


def longest_sequence(trees: Iterable[PromptTree], floor: int = 0) -> int:
    """Tokens of the longest prompt with one of its completions; `floor` or less if no tree has more than `floor`."""
    if isinstance(trees, TreeStore):  # it knows each tree's tokens without reading it
        store, places = trees, (trees.tokens > floor).nonzero()[0].tolist()
        trees = (store[place] for place in places)
    return max((len(tree.prompt) + max(len(branch.ids) for branch in tree.branches) for tree in trees), default=0)


def logit_scale(model: Any) -> float:
    """What the model multiplies the output head's product by. Raises ConfigError for a step that is no factor."""
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    if cap:
        _refuse(model, f"final_logit_softcapping={cap:g}", "log-probabilities here are of logits without a cap")
    factor = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
    scaling = float(getattr(config, "logits_scaling", None) or 1.0)  # Granite divides by it, HyperCLOVA X multiplies
    return factor * scaling if config.model_type.startswith("hyperclovax") else factor / scaling


def named(model: Any) -> str:
    """A model for messages: the folder or Hub name that it was loaded from, or its class."""
    return model.name_or_path or type(model).__name__


@contextmanager
def own_attention(model: Any) -> Iterator[None]:
    """Inside, `model` attends as transformers wrote it: its own masks and windows, and none of our code."""
    ours = model.config._attn_implementation
    own = "sdpa" if model._supports_sdpa else "eager"
    model.set_attn_implementation(own)
    try:
        if model.config._attn_implementation != own:
            how = "Name another model, or set training.checks to false at your own risk"
            raise CheckError(
                named(model),
                "transformers cannot switch its attention back to its own",
                how,
            )
        yield
    finally:
        model.set_attn_implementation(ours)


_OTHER = "Name another model, such as a Llama, Qwen2, Qwen3, Mistral, Phi-3, Gemma 1, OLMo 2 or SmolLM"


_WHOLE = "packed trees attend to the whole prompt"
_SWITCH = "beyond it one long sequence changes the positions of all others in its packed row"


def _refuse(model: Any, cause: str, what: str) -> None:
    raise ConfigError(KEY, f"{named(model)} has {cause}: {what}", _OTHER)


def _learned_positions(model: Any) -> Iterator[Limit]:
    """A table of positions (GPT-2, OPT) ends somewhere. OPT's first `offset` entries are not positions."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES:
            most = module.num_embeddings - getattr(module, "offset", 0)
            yield Limit(most, f"{name} with {most} learned positions", "there is no embedding for a position beyond it")


def _limits(config: Any) -> Iterator[Limit]:
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if window and (kinds is None or "sliding_attention" in kinds):
        yield Limit(window, f"sliding_window={window}", _WHOLE)
    chunk = getattr(config, "attention_chunk_size", None)
    if chunk and (kinds is None or "chunked_attention" in kinds):
        yield Limit(chunk, f"attention_chunk_size={chunk}", _WHOLE)
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in [rope, *(each for each in rope.values() if isinstance(each, dict))]:
        kind = str(parameters.get("rope_type", ""))
        if "dynamic" in kind:
            most = config.max_position_embeddings
            yield Limit(most, f"max_position_embeddings={most} of rope_type {kind}", _SWITCH)
        elif kind == "longrope":
            most = parameters.get("original_max_position_embeddings") or config.max_position_embeddings
            yield Limit(most, f"original_max_position_embeddings={most} of rope_type longrope", _SWITCH)
