"""Whether a checkpoint's model family is supported: answered from config.json, before any weight is fetched or read.

The features that are refused are listed in `align/models/exactness.py`. Here they are applied to a model without
weights, built from config.json on the meta device: this takes milliseconds for a small model, and a fraction of a
second for a large one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForCausalLM,
)

from align.models.checkpoints import Checkpoint, base_of, located, read_config
from align.models.exactness import (
    Limit,
    Use,
    length_limit,
    refusal,
    refuse_config,
    refuse_inexact,
    refuse_unsampled,
    refuse_untrainable,
    require_open_attention,
)
from align.models.fitting import as_checkpoint_error, model_config, without_zero3
from align.models.logps import require_plain_head
from align.settings import ModelConfig
from align.tree.sequence_parallel import require_divided_heads


def require_trainable(config: ModelConfig, *, scorer: bool = False, sequence_parallel: int = 1) -> Limit | None:
    """Raise ConfigError for a model that cannot be trained exactly on packed trees. Recipes call it before all else.

    scorer: whether a reward model is trained, not a policy. sequence_parallel: processes that share a packed row.

    Returns the longest prompt with a completion that is exact, if there is a limit.
    """
    model = require_supported(config.path, "training", config.revision, scorer=scorer)
    if sequence_parallel > 1:
        text = model.config.get_text_config()
        heads = text.num_attention_heads
        require_divided_heads(heads, getattr(text, "num_key_value_heads", None) or heads, sequence_parallel)
    return length_limit(model)


def require_supported(path: str | Path, use: Use, revision: str | None = None, *, scorer: bool = False) -> Any:
    """Raise ConfigError for a checkpoint that cannot be used exactly; of an adapter, its base is checked.

    Of a checkpoint on the Hub, only the small files are fetched.

    Returns the causal language model of config.json, without weights.
    """
    folder = located(path, revision)
    if base := base_of(folder):
        path, folder = base.name, located(base.name, base.revision)
    name, raw = str(path), read_config(folder)
    checkpoint = Checkpoint(name, folder, raw, tensors={}, manifest={})
    config = model_config(checkpoint)
    _refuse_own_code(config, raw, name)
    refuse_config(config, name, "generation" if use == "generation" else "scoring")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise refusal(config, name, "no causal language model in transformers", "it cannot write text token by token")
    if scorer and type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        why = "transformers has no class with a score head for it (ForSequenceClassification)"
        raise refusal(config, name, "no reward model", why)
    if use != "generation":
        require_open_attention(config, name)
    problem = "describes no model that transformers can build"
    with as_checkpoint_error(checkpoint, problem), without_zero3(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.name_or_path = name
    if use == "generation":
        refuse_unsampled(model)
        return model
    refuse_inexact(model)
    if not scorer:
        require_plain_head(model)
    if use == "training":
        refuse_untrainable(model)
    return model


def _refuse_own_code(config: Any, raw: dict[str, Any], name: str) -> None:
    """Refuse a checkpoint whose code takes the place of transformers' own class.

    Many checkpoints name code in `auto_map` that transformers has had since, under the same name (Phi-3, for example).
    """
    own = (raw.get("auto_map") or {}).get("AutoModelForCausalLM", "")
    classes = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), ())
    known = {each.__name__ for each in (classes if isinstance(classes, tuple) else (classes,))}
    if own and own.rpartition(".")[2] not in known:
        why = "code of a checkpoint is never run here (trust_remote_code is always false)"
        raise refusal(config, name, f"code of its own (auto_map: {own})", why)
