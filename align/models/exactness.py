"""Which models can be trained, scored and sampled exactly, and why other models are refused.

Packed trees replace a model's attention by `align/tree/attention.py`, and read log-probabilities and scores without the
model's own last lines. Generation keeps a cache of its own (`align/generation/local.py`). Where that would give other
numbers than the model's own forward pass, the checks here stop the run and name the setting of config.json that is the
cause. They look at the config and at modules, not at weights, so `align/models/support.py` can apply them before any
weight is read. What they do not know is left to the check before the first step (`align/trainers/checks.py`), which
runs the model's own forward pass, and to the attention function, which refuses every argument that it does not know.

docs/models.md lists the families that are tested and those that are refused.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from align.errors import CheckError, ConfigError
from align.reporting import logger
from align.tree.attention import TreeLayout
from align.tree.encode import PromptTree
from align.tree.store import TreeStore

log = logger(__name__)

KEY = "model.path"

Use = Literal["training", "scoring", "generation"]
"""What a model is opened for. Training and scoring read packed trees; generation keeps a cache of keys and values."""

_DENSE_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
_POSITION_TABLES = {"wpe", "embed_positions", "position_embedding", "position_embeddings"}
_EXPERTS = re.compile(r"Experts|Router|SparseMo[eE]|Mo[eE]$")
_FURTHER_HEADS = re.compile(r"nextn|(^|_)mtp(_|$)")
_LOCAL = re.compile(r"window|chunk|local_att|attention_types|stride|block_size|floor_scale")
_DROPOUTS = ("attention_dropout", "attn_pdrop", "attn_dropout", "attention_probs_dropout_prob")


class Limit(NamedTuple):
    """The longest sequence (a prompt with one of its completions) for which packed trees are exact."""

    tokens: int
    cause: str
    """The setting, such as `sliding_window=4096`."""
    effect: str
    """What differs beyond it."""
    model: str = ""
    """For the message, such as `mistralai/Mistral-7B-v0.1 is a mistral model`."""


def require_open_attention(config: Any, name: str) -> None:
    """Raise ConfigError if the attention of a model with this config cannot be replaced. name: for the message.

    Call it before the model is made: some classes fail with a KeyError on an implementation that they do not know.
    """
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    for kind in model if isinstance(model, tuple) else (model,):
        if kind is not None and not kind.is_backend_compatible():
            feature = f"a class, {kind.__name__}, that does not call attention through transformers' AttentionInterface"
            raise refusal(config, name, feature, "packed trees need to replace it")


def refuse_config(config: Any, name: str, use: Use) -> None:
    """Raise ConfigError if config.json alone shows that the model cannot be used exactly. name: for the message."""
    if getattr(config, "is_encoder_decoder", False):
        raise refusal(config, name, "an encoder and a decoder", "only models with a decoder alone are supported")
    text = config.get_text_config()
    if text is not config:
        why = "rows are text only. Save its language model as a checkpoint of its own, or choose a text-only model"
        raise refusal(config, name, "parts for images or sound", why)
    shared = "the completions of a packed row would read each other's state"
    state = "the cache of a batch stores keys and values only" if use == "generation" else shared
    for kind in sorted(set(getattr(config, "layer_types", None) or ()) - _DENSE_LAYERS):
        raise refusal(config, name, f"layers of the type {kind}", state)
    open_both_ways = {"use_bidirectional_attention": True, "is_causal": False}
    for field, value in open_both_ways.items():
        if bool(getattr(config, field, not value)) is value:
            raise refusal(config, name, f"bidirectional attention ({field})", "a token may see only what is before it")
    if use == "generation":
        return
    if cap := getattr(config, "attn_logit_softcapping", None):
        raise refusal(
            config, name, f"attn_logit_softcapping={cap:g}", "packed trees attend without a cap on the logits"
        )
    if getattr(config, "attn_temperature_tuning", None):
        why = "it scales attention by the place in the packed row, not in the sequence"
        raise refusal(config, name, "attn_temperature_tuning", why)
    if use == "scoring":
        return
    for field in _DROPOUTS:
        if share := getattr(config, field, 0):
            why = "a dropped attention weight would differ between completions that share a prompt"
            how = f"Set {field} to 0 in the checkpoint's config.json, as most post-training recipes do"
            raise refusal(config, name, f"{field}={share:g}", why, how)
    for field, number in vars(config).items():
        if _FURTHER_HEADS.search(field) and isinstance(number, int) and number > 0:
            why = "heads that predict further tokens are neither trained nor saved"
            how = f"If the checkpoint has none, set {field} to 0 in its config.json. Otherwise choose another model"
            raise refusal(config, name, f"{field}={number}", why, how)


def refuse_inexact(model: Any) -> None:
    """Raise ConfigError if a model has layers that packed trees cannot compute, whatever the rows are.

    model: with its weights, or without (on the meta device).
    """
    name = named(model)
    refuse_config(model.config, name, "scoring")
    _refuse_modules(model, "the completions of a packed row would read each other's state")
    for place, module in model.named_modules():
        if getattr(module, "sinks", None) is not None:
            raise refusal(model.config, name, f"attention sinks ({place}.sinks)", "packed trees attend without them")


def refuse_untrainable(model: Any) -> None:
    """Raise ConfigError for a model that can score packed trees, but cannot be trained on them."""
    kinds = {place: type(module).__name__ for place, module in model.named_modules()}
    named_so = (place for place in kinds if place.rpartition(".")[2] == "experts")
    of_that_class = (place for place, kind in kinds.items() if _EXPERTS.search(kind))
    for place in itertools.islice(itertools.chain(named_so, of_that_class), 1):
        why = "its router's auxiliary loss is not computed here, and its fused expert weights are not saved"
        raise refusal(model.config, named(model), f"a mixture of experts ({place})", why)
    refuse_config(model.config, named(model), "training")


def refuse_unsampled(model: Any) -> None:
    """Raise ConfigError for a model that cannot be sampled exactly in a batch with a cache."""
    name = named(model)
    refuse_config(model.config, name, "generation")
    _refuse_modules(model, "the cache of a batch stores keys and values only")
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        why = "rows of different lengths in a batch would have wrong positions"
        raise refusal(model.config, name, "a forward pass without position_ids", why)
    if not getattr(model.config, "max_position_embeddings", None):
        why = "the longest prompt is not known"
        raise refusal(model.config, name, "no max_position_embeddings", why)


def _refuse_modules(model: Any, state: str) -> None:
    """What the config of a class does not say: recurrent layers, and attention that is not causal."""
    if getattr(model, "_is_stateful", False):
        raise refusal(model.config, named(model), "recurrent layers", state)
    causal = {place: module.is_causal for place, module in model.named_modules() if hasattr(module, "is_causal")}
    both_ways = [place for place, value in causal.items() if value is False]
    if getattr(model.config, "is_decoder", True) is False and not any(causal.values()):
        both_ways.append("is_decoder=false")  # RemBERT, whose attention does not say it; GPT-NeoX's does
    if both_ways:
        why = "a token may see only what is before it"
        raise refusal(model.config, named(model), f"bidirectional attention ({both_ways[0]})", why)


def refusal(config: Any, name: str, feature: str, why: str, how: str | None = None) -> ConfigError:
    """The error for a model that is not supported: which checkpoint, which family, which feature, why, what to do.

    config: transformers' config, or the model_type of one that transformers does not know.
    """
    return ConfigError(KEY, f"{_described(config, name)} with {feature}: {why}", how or _OTHER)


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
    return _least(model, [*_windows(config), *_switches(config), *_learned_positions(model)])


def batch_limit(model: Any) -> Limit | None:
    """The least of the lengths up to which the positions of a row do not depend on its neighbours in a batch.

    For generation. Windows are no limit there, because the model's own masks apply them.
    """
    config = model.config.get_text_config()
    limits = [*_switches(config), *_learned_positions(model)]
    if getattr(config, "attn_temperature_tuning", None):  # Llama 4 counts from the first column of a padded batch
        scale = int(config.floor_scale) - 1
        limits.append(Limit(scale, f"floor_scale={config.floor_scale:g} of attn_temperature_tuning", _SWITCH))
    return _least(model, limits)


def local_settings(config: Any) -> list[str]:
    """Settings of config.json that may limit what a token sees, such as `sliding_window=4096`, by their names.

    For the check of the longest row: the windows that are known are in `length_limit`, and a new architecture may have
    one under another name.
    """
    fields = sorted(vars(config.get_text_config()).items())
    found = [(name, value) for name, value in fields if _LOCAL.search(name) and name != "max_window_layers"]
    return [f"{name}={value}" for name, value in found if value and not isinstance(value, bool | str)]


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
        what = (
            f"{limit.model} with {limit.cause}, which is smaller than a prompt with its completion ({longest} tokens)"
        )
        how = (
            "Lower data.max_prompt_tokens and data.max_completion_tokens until both fit together, or choose another "
            "model (docs/models.md)"
        )
        raise ConfigError(where, f"{what}: {limit.effect}", how)


def require_rows_within(limit: Limit | None, *sets: Iterable[PromptTree] | None) -> None:
    """Raise ConfigError if a sequence in one of the sets of rows is longer than the model's limit."""
    for trees in sets:
        if limit is not None and trees is not None:
            require_within(limit, longest_sequence(trees, floor=limit.tokens))


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
        why = "log-probabilities here are of logits without a cap"
        raise refusal(config, named(model), f"final_logit_softcapping={cap:g}", why)
    factor = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
    scaling = float(getattr(config, "logits_scaling", None) or 1.0)  # Granite divides by it, HyperCLOVA X multiplies
    return factor * scaling if config.model_type.startswith("hyperclovax") else factor / scaling


def named(model: Any) -> str:
    """A model for messages: the folder or Hub name that it was loaded from, or its class."""
    return model.name_or_path or type(model).__name__


def own_implementation(model: Any) -> str:
    """The attention of transformers that computes what the model was made for: sdpa, unless it leaves a part out, such
    as a cap on the logits or attention sinks.
    """
    return "sdpa" if model._supports_sdpa else "eager"


@contextmanager
def own_attention(model: Any) -> Iterator[None]:
    """Inside, `model` attends as transformers wrote it: its own masks and windows, and none of our code."""
    ours = model.config._attn_implementation
    own = own_implementation(model)
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


def _described(config: Any, name: str) -> str:
    kind = config if isinstance(config, str) else config.model_type
    return f"{name} is {'an' if kind[:1] in 'aeio' else 'a'} {kind} model"


_OTHER = "Choose another model: docs/models.md lists the families that are supported"


_WHOLE = "packed trees attend to the whole prompt"
_SWITCH = "beyond it one long sequence changes the positions of all others in its packed row or batch"


def _least(model: Any, limits: list[Limit]) -> Limit | None:
    if not limits:
        return None
    return min(limits, key=lambda limit: limit.tokens)._replace(model=_described(model.config, named(model)))


def _learned_positions(model: Any) -> Iterator[Limit]:
    """A table of positions (GPT-2, OPT) ends somewhere. OPT's first `offset` entries are not positions."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES:
            most = module.num_embeddings - getattr(module, "offset", 0)
            yield Limit(most, f"{name} with {most} learned positions", "there is no embedding for a position beyond it")


def _windows(config: Any) -> Iterator[Limit]:
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if window and (kinds is None or "sliding_attention" in kinds):
        yield Limit(window, f"sliding_window={window}", _WHOLE)
    chunk = getattr(config, "attention_chunk_size", None)
    if chunk and (kinds is None or "chunked_attention" in kinds):
        yield Limit(chunk, f"attention_chunk_size={chunk}", _WHOLE)


def _switches(config: Any) -> Iterator[Limit]:
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in [rope, *(each for each in rope.values() if isinstance(each, dict))]:
        kind = str(parameters.get("rope_type", ""))
        if "dynamic" in kind:
            most = config.max_position_embeddings
            yield Limit(most, f"max_position_embeddings={most} of rope_type {kind}", _SWITCH)
        elif kind == "longrope":
            most = parameters.get("original_max_position_embeddings") or config.max_position_embeddings
            yield Limit(most, f"original_max_position_embeddings={most} of rope_type longrope", _SWITCH)
