"""Tokenizers, policies, reward models and generators, out of a Hugging Face folder or the Hub.

Where the folder is an adapter's, its base is loaded and `align/models/adapters.py` puts the adapter to it.
Weights are read from safetensors only, and no code that comes with a checkpoint is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, set_seed
from transformers.utils.logging import disable_progress_bar

import align.tree.attention
from align.chat import load_protocol
from align.chat.calls import CallSyntax
from align.chat.protocol import ChatProtocol
from align.errors import ConfigError
from align.models.adapters import CONFIG, attach, attached, base_of
from align.models.devices import on_device
from align.models.logps import TreePolicy, TreeScorer
from align.models.quantization import quantization_config
from align.settings import ModelConfig


def load_tokenizer(
    path: str | Path, chat: str = "auto", call_syntax: CallSyntax | None = None
) -> tuple[Any, ChatProtocol]:
    """The tokenizer, and the chat protocol over it; the protocol's template becomes the tokenizer's own."""
    name = _known(path)
    base = base_of(name)
    if base is not None and Path(name).is_dir() and not (Path(name) / "tokenizer_config.json").exists():
        name = base  # adapters made elsewhere often come without
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    protocol = load_protocol(tokenizer, chat, call_syntax)
    tokenizer.chat_template = protocol.chat_template
    return tokenizer, protocol


def load_policy(config: ModelConfig, precision: str = "fp32", seed: int = 0) -> TreePolicy:
    """A causal language model that reads packed trees. seed: for the fresh half of an adapter."""
    return TreePolicy(_loaded(AutoModelForCausalLM, config, seed), precision)


def load_reward_model(config: ModelConfig, precision: str = "fp32", seed: int = 0) -> TreeScorer:
    """A reward model: the trunk with a scalar head in the place of the language model's.

    From a reward checkpoint the head is loaded; from a pre-trained one it starts as seeded noise.
    """
    return TreeScorer(_loaded(AutoModelForSequenceClassification, config, seed, num_labels=1), precision)


def load_generator(path: str | Path, dtype: str = "bfloat16") -> Any:
    """A plain causal language model for sampling: in evaluation mode, on the GPU where there is one."""
    name = _known(path)
    base = base_of(name)
    model = AutoModelForCausalLM.from_pretrained(
        base or name,
        dtype=getattr(torch, dtype),
        attn_implementation="sdpa",
        use_safetensors=True,
        trust_remote_code=False,
    )
    if base is not None:
        model = attached(model, name, merge=True)
    return on_device(model).eval()


def _loaded(kind: Any, config: ModelConfig, seed: int, **more: Any) -> Any:
    """A whole model, or a base and its adapter, made ready to train or to score as the config says."""
    set_seed(seed)
    arguments = _arguments(config)
    name = _known(config.path)
    base = base_of(name)
    model = kind.from_pretrained(base or name, **arguments, **more)
    if config.lora is not None:
        attach(model, config.lora, base or name, name if base else None)
    elif base is not None:
        model = attached(model, name, merge=config.quantization is None)
    model.config.use_cache = False
    model.name_or_path = name  # an adapter's own folder, and not its base's
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model


def _arguments(config: ModelConfig) -> dict[str, Any]:
    return {
        "dtype": getattr(torch, config.dtype),
        "attn_implementation": _attention(config),
        "use_safetensors": True,
        "trust_remote_code": False,
        **({} if config.quantization is None else {"quantization_config": quantization_config(config)}),
    }


def _attention(config: ModelConfig) -> str:
    if config.attention == "segments":
        return align.tree.attention.NAME
    if not torch.cuda.is_available():
        what = "flex wants a GPU: FlexAttention has no backward pass on a CPU"
        raise ConfigError("model.attention", what, "Set model.attention: segments")
    return align.tree.attention.FLEX_NAME


def _known(path: str | Path) -> str:
    """A folder that exists, or what may be a Hub name (`owner/name`)."""
    disable_progress_bar()  # a bar for each file read would bury our own lines
    text = str(path)
    if not Path(text).is_dir() and (text.count("/") != 1 or text.startswith((".", "/"))):
        how = "Name a checkpoint folder that exists, or owner/name on the Hub"
        raise ConfigError("model.path", f"there is no folder {text}", how)
    if Path(text).is_dir() and not any((Path(text) / file).exists() for file in ("config.json", CONFIG)):
        how = "Name a Hugging Face checkpoint folder"
        raise ConfigError("model.path", f"{text} holds no config.json and no {CONFIG}", how)
    return text
